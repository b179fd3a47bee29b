"""What real SIP proxies send, and both spellings of every key (control-ng.md 6, clients.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from systemlab.daemon import Daemon
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.media import Dialogue, both_ways, sections
from systemlab.netns import Lab

Request = dict[str, Any]


def _kamailio_56(dialogue: Dialogue, body: str) -> Request:
    return {
        "supports": ["load limit"],
        "sdp": body,
        "replace": ["origin", "session-connection"],
        "flags": ["trust-address", "symmetric", "generate-mid", "no-redis-update"],
        "rtcp-mux": ["demux"],
        "ICE": "remove",
        "transport-protocol": "RTP/AVP",
        "TOS": 184,
        "delete delay": 0,
        "delete-delay": "0",
        "codec": {"strip": ["opus"], "offer": ["PCMU"]},
        "SDES": ["off"],
        "T.38": ["decode"],
        "via-branch": "z9hG4bK1",
        "call-id": dialogue.call_id,
        "received-from": ["IP4", dialogue.caller.audio.address],
        "from-tag": dialogue.caller.tag,
    }


def _kamailio_6(dialogue: Dialogue, body: str) -> Request:
    """No received-from, the message's type, and the script's words unparsed in one string."""
    return {
        "supports": ["load limit"],
        "sdp": body,
        "call-id": dialogue.call_id,
        "via-branch": "z9hG4bK2",
        "from-tag": dialogue.caller.tag,
        "sip-message-type": "sip_request",
        "rtpp-flags": "replace-origin replace-session-connection trust-address ICE=remove rtcp-mux-demux RTP/AVP",
    }


def _opensips_3(dialogue: Dialogue, body: str) -> Request:
    return {
        "sdp": body,
        "ICE": "remove",
        "address family": "IP4",
        "delete-delay": 0,
        "flags": ["trust-address", "directional", ["nested", {"deep": 1}]],
        "replace": ["origin", "session-connection", "SDP version", "session name", "username", "zero address"],
        "rtcp-mux": ["demux"],
        "call-id": dialogue.call_id,
        "received-from": ["IP4", dialogue.caller.audio.address],
        "from-tag": dialogue.caller.tag,
    }


DIALECTS = [_kamailio_56, _kamailio_6, _opensips_3]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.__name__.strip("_"))
def test_whole_call_as_a_real_client_places_it(
    call: MakeCall, daemon: Daemon, dialect: Callable[[Dialogue, str], Request]
) -> None:
    dialogue = call()
    offer = {**dialect(dialogue, dialogue.caller.sdp()), "command": "offer"}
    reply = daemon.ng.request(offer)
    assert reply["result"] == "ok", reply
    assert f" IN IP4 {daemon.lab.relay.address(4)}\r\n" in reply["sdp"].split("s=-")[0], "o= has to be replaced"
    (dialogue.callee.audio.remote,) = sections(reply["sdp"])
    answer = {**dialect(dialogue, dialogue.callee.sdp()), "to-tag": dialogue.callee.tag, "command": "answer"}
    if "received-from" in answer:
        answer["received-from"] = ["IP4", dialogue.callee.audio.address]
    reply = daemon.ng.request(answer)
    assert reply["result"] == "ok", reply
    (dialogue.caller.audio.remote,) = sections(reply["sdp"])
    both_ways(dialogue)
    # Kamailio's statistics variables need these integers.
    totals = daemon.ng.ok("query", call_id=dialogue.call_id)["totals"]
    assert {type(totals[kind][key]) for kind in ("RTP", "RTCP") for key in ("packets", "bytes", "errors")} == {int}
    assert "warning" not in daemon.ng.ok("delete", call_id=dialogue.call_id, from_tag=dialogue.caller.tag)


def test_neither_trust_nor_received_from_falls_back_to_the_sdp(call: MakeCall, daemon: Daemon) -> None:
    dialogue = call()
    reply = daemon.ng.ok("offer", call_id=dialogue.call_id, from_tag="a", sdp=dialogue.caller.sdp())
    (dialogue.callee.audio.remote,) = sections(reply["sdp"])
    keys = {"call_id": dialogue.call_id, "from_tag": "a", "to_tag": "b"}
    (dialogue.caller.audio.remote,) = sections(daemon.ng.ok("answer", sdp=dialogue.callee.sdp(), **keys)["sdp"])
    both_ways(dialogue)


def _body(daemon: Daemon, body: str, **keys: Any) -> str:
    """The reply to an offer with keys as they are written on the wire."""
    request = {"command": "offer", "call-id": f"spelling-{daemon.ng.cookie()!r}", "from-tag": "a", "sdp": body, **keys}
    reply = daemon.ng.request(request)
    assert reply["result"] == "ok", reply
    daemon.ng.ok("delete", call_id=request["call-id"], from_tag="a")
    return str(reply["sdp"])


SPELLINGS: list[tuple[Request, Callable[[str], bool]]] = [
    ({"replace": ["session connection"]}, lambda body: "c=IN IP4 203.0.113.77" not in body),
    ({"replace": ["origin"]}, lambda body: "IN IP4 203.0.113.77\r\ns=" not in body),
    ({"media address": "203.0.113.1"}, lambda body: "203.0.113.1\r\n" in body),
    ({"address family": "IP6"}, lambda body: "2001:db8::1" in body),
    ({"address family": "ip6"}, lambda body: "2001:db8::1" in body),
    ({"transport protocol": "RTP/AVPF"}, lambda body: " RTP/AVPF 0\r\n" in body),
    ({"transport protocol": "rtp/avpf"}, lambda body: " RTP/AVPF 0\r\n" in body),
    ({"received from": ["IP4", "198.51.100.12"]}, lambda body: "m=audio 3" in body),
    ({"received from": ["ip4", "198.51.100.12"], "flags": ["trust address"]}, lambda body: "m=audio 3" in body),
    ({"received from": ["?", "nonsense"], "flags": ["trust address"]}, lambda body: "m=audio 3" in body),
    ({"flags": ["trust address", "unheard of"]}, lambda body: "m=audio 3" in body),
    ({"rtcp-mux": ["offer"]}, lambda body: "a=rtcp-mux" in body),
    ({"rtcp-mux": ["require"]}, lambda body: "a=rtcp-mux" in body),
    ({"direction": ["internal", "external"]}, lambda body: "2001:db8::1" in body),
    ({"direction": ["public", "private"]}, lambda body: "198.51.100.1\r\n" in body),
    ({"flags": ["no rtcp attribute"]}, lambda body: "a=rtcp:" not in body),
]


def _hyphenated(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(" ", "-")
    return [_hyphenated(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("spelling", ["blank", "hyphen"])
@pytest.mark.parametrize(("keys", "expected"), SPELLINGS, ids=[str(keys) for keys, _ in SPELLINGS])
def test_both_spellings(
    party: MakeParty, lab: Lab, daemon: Daemon, keys: Request, expected: Callable[[str], bool], spelling: str
) -> None:
    if spelling == "hyphen":
        keys = {_hyphenated(key): _hyphenated(value) for key, value in keys.items()}
    # o= and the session's c= differ from the media's own, so that each replacement shows by itself.
    body = party(lab.a).sdp().replace(f"IN IP4 {lab.a.address(4)}\r\ns=-", "IN IP4 203.0.113.77\r\ns=-")
    body = body.replace("s=-\r\n", "s=-\r\nc=IN IP4 203.0.113.77\r\n")
    plain = _body(daemon, body)
    assert "IN IP4 203.0.113.77\r\ns=" in plain
    assert "c=IN IP4 203.0.113.77" in plain
    assert expected(_body(daemon, body, **keys)), keys


UNSUPPORTED = [
    "stop recording", "block DTMF", "unblock DTMF", "block media", "unblock media", "silence media", "unsilence media",
    "start forwarding", "stop forwarding", "play media", "stop media", "play DTMF", "subscribe request",
    "subscribe answer", "unsubscribe", "start recording", "", "OFFER",
]  # fmt: skip


@pytest.mark.parametrize("command", UNSUPPORTED)
def test_commands_that_are_not_ours(daemon: Daemon, command: str) -> None:
    reason = daemon.ng.error(command, call_id="x", from_tag="y")
    assert reason == ("Recording is not supported" if "recording" in command else "Unrecognized command")
