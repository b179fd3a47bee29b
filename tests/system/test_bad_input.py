"""Whatever arrives, at the control port or at a media port: one clear error or one counter, and calls go on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import bencodepy
import pytest
from systemlab.daemon import Daemon
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.media import Dialogue, Party, both_ways, caught_up, receive, rtp, sections
from systemlab.netns import Lab
from systemlab.ngclient import decode, drain, encode

OPTIONS = ("--port-min=30000", "--port-max=30399", "--log-level=4")
SDP_ERROR = "Failed to parse SDP"
MUTATIONS = 10_000


@pytest.fixture(scope="module")
def standing(daemon: Daemon, lab: Lab) -> Iterator[Dialogue]:
    """A call that was placed before all the bad input and has to survive it."""
    parties = Party(lab.a), Party(lab.b)
    for each in parties:
        each.add()
    dialogue = Dialogue(daemon.ng, *parties).place()
    both_ways(dialogue)
    yield dialogue
    both_ways(dialogue)
    dialogue.delete()
    for each in parties:
        each.close()


MALFORMED = [
    (b"", "Invalid data (no payload)"),
    (b"{}", "Could not decode dictionary"),
    (b'{"command":"ping"}', "Could not decode dictionary"),
    (b"garbage", "Could not decode dictionary"),
    (b"le", "Could not decode dictionary"),
    (b"i5e", "Could not decode dictionary"),
    (b"4:ping", "Could not decode dictionary"),
    (b"d7:command4:ping", None),
    (b"d7:command04:pinge", "Could not decode dictionary"),
    (b"d7:command99:pinge", "Could not decode dictionary"),
    (b"d7:commandi1e4:listli07eee", "Could not decode dictionary"),
    (b"d7:command-1:e", "Could not decode dictionary"),
    (b"di1ei2ee", "Could not decode dictionary"),
    (b"d" * 60000, "Could not decode dictionary"),
    (b"l" * 60000, "Could not decode dictionary"),
    (b"d1:a" * 15000, "Could not decode dictionary"),
    (b"d7:command4:ping4:deep" + b"l" * 20000 + b"e" * 20001, "Could not decode dictionary"),
    (b"d4:sizei" + b"9" * 60000 + b"ee", "Could not decode dictionary"),
    (b"\0" * 60000, "Could not decode dictionary"),
    (b"de", 'Dictionary contains no key "command"'),
    (b"d7:commandi1ee", 'Dictionary contains no key "command"'),
    (b"d7:command0:e", "Unrecognized command"),
    (b"d7:command5:queryee", "No call-id in message"),
]


@pytest.mark.parametrize(("payload", "reason"), MALFORMED, ids=[repr(case[0][:30]) for case in MALFORMED])
def test_malformed_bencode(daemon: Daemon, standing: Dialogue, payload: bytes, reason: str | None) -> None:
    reply = daemon.ng.exchange(payload)
    if reason is not None:
        assert reply == {"result": "error", "error-reason": reason}


@pytest.mark.parametrize("tail", [b"", b"e", b"\n", b"trailing"])
def test_bytes_behind_the_dictionary_are_ignored(daemon: Daemon, tail: bytes) -> None:
    assert daemon.ng.exchange(b"d7:command4:pinge" + tail) == {"result": "pong"}


def test_first_of_duplicate_keys_wins(daemon: Daemon) -> None:
    assert daemon.ng.exchange(b"d7:command4:ping7:command7:unknowne") == {"result": "pong"}


SDP = "v=0\r\no=- 1 1 IN IP4 198.51.100.11\r\ns=-\r\nc=IN IP4 198.51.100.11\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
MISSING = [
    ({"call-id": "c", "from-tag": "f"}, "No SDP body in message"),
    ({"sdp": SDP, "from-tag": "f"}, "No call-id in message"),
    ({"sdp": SDP, "call-id": "c"}, "No from-tag in message"),
    ({"sdp": SDP, "call-id": 5, "from-tag": "f"}, "No call-id in message"),
    ({"sdp": [SDP], "call-id": "c", "from-tag": "f"}, "No SDP body in message"),
]


@pytest.mark.parametrize(("keys", "reason"), MISSING, ids=[reason for _, reason in MISSING])
@pytest.mark.parametrize("command", ["offer", "answer"])
def test_missing_keys(daemon: Daemon, command: str, keys: dict[str, object], reason: str) -> None:
    reply = daemon.ng.request({"command": command, **keys})
    assert reply == {"result": "error", "error-reason": reason}


def test_answer_errors(daemon: Daemon, call: MakeCall) -> None:
    dialogue = call()
    body = dialogue.callee.sdp()
    assert daemon.ng.error("answer", sdp=body, call_id="nope", from_tag="f") == "No to-tag in message"
    assert daemon.ng.error("answer", sdp=body, call_id="nope", from_tag="f", to_tag="t") == "Unknown call-id"
    dialogue.offer()
    reason = daemon.ng.error("answer", sdp=body, call_id=dialogue.call_id, from_tag="f", to_tag="t")
    assert reason in ("Unknown call-id", "Unknown from-tag")
    dialogue.answer()
    both_ways(dialogue)


BAD_SDP = {
    "version": SDP.replace("v=0", "v=1"),
    "no session": SDP.replace("v=0\r\n", ""),
    "no equals sign": SDP.replace("s=-", "s-"),
    "unknown letter": SDP.replace("s=-", "x=-"),
    "two origins": SDP.replace("s=-", "o=- 1 1 IN IP4 1.2.3.4\r\ns=-"),
    "short origin": SDP.replace("o=- 1 1 IN IP4", "o=- 1 IN IP4"),
    "double blank in origin": SDP.replace("o=- 1", "o=-  1"),
    "network type": SDP.replace("c=IN", "c=OUT"),
    "address type": SDP.replace("c=IN IP4", "c=IN IP5"),
    "family of the address": SDP.replace("c=IN IP4 198.51.100.11", "c=IN IP6 198.51.100.11"),
    "port beyond 65535": SDP.replace("4000", "65536"),
    "negative port": SDP.replace("4000", "-1"),
    "port that is no number": SDP.replace("4000", "http"),
    "no ports": SDP.replace("4000", "4000/0"),
    "too many ports": SDP.replace("4000", "4000/11"),
    "media without transport": SDP.replace(" RTP/AVP 0", ""),
    "null bytes": "\0" * 50,
    "binary": bytes(range(256)).decode("latin-1"),
}


@pytest.mark.parametrize("what", BAD_SDP)
def test_sdp_that_does_not_parse(daemon: Daemon, standing: Dialogue, what: str) -> None:
    assert daemon.ng.error("offer", call_id="bad-sdp", from_tag="f", sdp=BAD_SDP[what]).startswith(SDP_ERROR)
    assert daemon.ng.error("query", call_id="bad-sdp") == "Unknown call-id"


def test_no_usable_address(daemon: Daemon) -> None:
    body = SDP.replace("c=IN IP4 198.51.100.11\r\n", "")
    assert daemon.ng.error("offer", call_id="c", from_tag="f", sdp=body, flags=["trust-address"]) == (
        "Incomplete SDP specification"
    )


def test_too_much_sdp(daemon: Daemon) -> None:
    """65 sections would open 130 socket pairs; a body may not grow without bound either."""
    many = SDP + "m=audio 4000 RTP/AVP 0\r\n" * 1000
    before = daemon.descriptors()
    assert daemon.ng.error("offer", call_id="c", from_tag="f", sdp=many)
    assert daemon.descriptors() == before
    long_name = daemon.ng.command("offer", call_id="c" * 60000, from_tag="f", sdp=SDP)
    assert long_name["result"] == "error"


def test_family_that_is_not_configured(start: Callable[..., Daemon], lab: Lab, party: MakeParty) -> None:
    daemon = start("--port-min=32000", "--port-max=32099", ipv6=False)
    keys = {"call_id": "v6", "from_tag": "f", "flags": ["trust-address"]}
    reason = daemon.ng.error("offer", sdp=party(lab.a).sdp(), address_family="IP6", **keys)
    assert "IP6" in reason
    assert daemon.ng.error("query", call_id="v6") == "Unknown call-id"
    dialogue = Dialogue(daemon.ng, party(lab.a), party(lab.b)).place()
    both_ways(dialogue)


def test_ports_exhausted(start: Callable[..., Daemon], lab: Lab, party: MakeParty) -> None:
    """Eight ports hold two audio calls; the third fails whole, and fits again when one has gone."""
    daemon = start("--port-min=32100", "--port-max=32107")
    calls = [Dialogue(daemon.ng, party(lab.a), party(lab.b)) for _ in range(3)]
    before = daemon.descriptors()
    calls[0].place()
    calls[1].place()
    full = daemon.descriptors()
    keys = {"sdp": calls[2].caller.sdp(), "call_id": calls[2].call_id, "from_tag": "f", "flags": ["trust-address"]}
    for _ in range(3):
        assert daemon.ng.error("offer", **keys) == "Ran out of ports"
    assert daemon.ng.error("query", call_id=calls[2].call_id) == "Unknown call-id"
    both_ways(calls[0])
    calls[1].delete()
    two_sections = party(lab.a, kinds=("audio", "video"))
    assert daemon.ng.error("offer", **{**keys, "sdp": two_sections.sdp()}) == "Ran out of ports"
    assert daemon.descriptors() == full - 4, "a failed offer keeps no port"
    calls[2].place()
    both_ways(calls[2])
    grown = Dialogue(daemon.ng, party(lab.a, kinds=("audio", "video")), calls[0].callee, calls[0].call_id)
    grown.caller.tag = calls[0].caller.tag
    grown_keys = {"call_id": grown.call_id, "from_tag": grown.caller.tag, "flags": ["trust-address"]}
    assert daemon.ng.error("offer", sdp=grown.caller.sdp(), **grown_keys) == "Ran out of ports"
    both_ways(calls[0])
    calls[0].delete()
    calls[2].delete()
    assert daemon.descriptors() == before
    assert "Ran out of ports" in daemon.log


def test_garbage_at_media_ports(daemon: Daemon, call: MakeCall, lab: Lab) -> None:
    dialogue = call().place()
    both_ways(dialogue)
    chance = random.Random(2)
    lines_before = daemon.log.count("\n")
    remote = dialogue.caller.audio.remote
    assert remote
    garbage = [b"", b"\0", b"\x80", b"\x80\xc8\0\0", b"\x80" * 11, b"\x80\xc8\xff\xff" + bytes(20), bytes(1500)]
    garbage += [chance.randbytes(chance.randrange(1, 1400)) for _ in range(300)]
    with lab.attacker.udp(lab.attacker.address(4)) as stranger:
        for packet in garbage:
            for sock in (stranger, dialogue.caller.audio.rtp, dialogue.caller.audio.rtcp):
                for port in (remote.port, remote.port + 1):
                    sock.sendto(packet, (remote.address, port))
        # The party's own datagrams may be relayed, the stranger's may not come back.
        time.sleep(0.1)
        assert drain(stranger) == []
    caught_up(dialogue.caller.audio, dialogue.callee.audio)
    drain(dialogue.caller.audio.rtp)
    both_ways(dialogue)
    assert daemon.log.count("\n") - lines_before < 20, "no log line per packet"


def test_oversized_packets(daemon: Daemon, call: MakeCall) -> None:
    """Longer than the relay receives (8192 bytes), and longer than the wire carries in one piece."""
    dialogue = call().place()
    both_ways(dialogue)
    for size in (3000, 8000, 9000, 65000):
        dialogue.caller.audio.send(rtp(1, 2, bytes(size)))
    caught_up(dialogue.caller.audio, dialogue.callee.audio)
    both_ways(dialogue)


def test_unreachable_receiver_ends_nothing(daemon: Daemon, call: MakeCall) -> None:
    """ICMP errors come back to the relay's sockets; it must go on."""
    dialogue = call().place()
    both_ways(dialogue)
    listener = dialogue.callee.audio
    port, address = listener.port, listener.address
    listener.sockets[0].close()
    for _ in range(20):
        dialogue.caller.audio.send()
        time.sleep(0.002)
    listener.sockets[0] = dialogue.callee.host.udp(address, port)
    caught_up(dialogue.caller.audio, listener)
    both_ways(dialogue)


def _mutate(chance: random.Random, original: bytes, tokens: list[bytes]) -> bytes:
    data = bytearray(original)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.choice((1, 2, 7, 100))]
        elif kind == 2:
            data[at:at] = chance.choice(tokens)
        elif kind == 3:
            data[at:at] = data[at : at + chance.choice((1, 10, 200))]
        elif kind == 4:
            other = chance.choice(tokens)
            data[at : at + len(other)] = other
        else:
            data = data[:at] if chance.random() < 0.1 else data
    return bytes(data)


TOKENS = [
    b"\r\n", b"\n", b"\0", b" ", b"  ", b":", b"=", b"-1", b"0", b"65535", b"65536", b"99999999999999999999",
    b"\xff\xfe",
    b"m=audio 0 RTP/AVP 0\r\n", b"m=video 9 UDP/TLS/RTP/SAVPF 96\r\n", b"c=IN IP6 ::\r\n", b"c=IN IP4 0.0.0.0\r\n",
    b"a=rtcp:", b"a=rtcp-mux\r\n", b"a=sendonly\r\n", b"v=0\r\n", b"o=", b"a=group:BUNDLE a b\r\n", b"/10",
    b"IP6", b"::1",
    b"224.0.0.1", b"255.255.255.255", b"127.0.0.1", b"i1e", b"le", b"de", b"d", b"l", b"e", b"0:",
]  # fmt: skip


def _requests(chance: random.Random, body: str) -> Iterator[bytes]:
    """Half of them broken at the level of bencode, half well-formed with a broken body or broken values."""
    base: dict[str, object] = {
        "command": "offer", "call-id": "mutant", "from-tag": "f", "to-tag": "t", "flags": ["trust-address"],
        "replace": ["origin", "session-connection"], "ICE": "remove", "rtcp-mux": ["demux"], "direction": ["a", "b"],
        "received-from": ["IP4", "198.51.100.11"], "transport-protocol": "RTP/AVP", "via-branch": "z", "sdp": body,
    }  # fmt: skip
    for number in range(MUTATIONS):
        request = dict(base, **{"call-id": f"mutant{number % 20}"})
        request["command"] = chance.choice(["offer", "offer", "answer", "delete", "query"])
        if number % 2:
            request["sdp"] = _mutate(chance, body.encode(), TOKENS)
            yield encode(request)
        else:
            yield _mutate(chance, encode(request), TOKENS)


def test_ten_thousand_mutants(daemon: Daemon, standing: Dialogue, lab: Lab, party: MakeParty) -> None:
    chance = random.Random(20140401)
    body = party(lab.a, kinds=("audio", "video")).sdp()
    answered = errors = rewritten = 0
    for _, payload in daemon.ng.pipeline(_requests(chance, body), timeout_s=60):
        reply = decode(bencodepy.decode(payload))
        assert reply["result"] in ("ok", "error", "pong"), reply
        assert reply.get("error-reason") != "Internal error"
        rewritten += "m=audio 3" in reply.get("sdp", "")
        errors += reply["result"] == "error"
        answered += 1
    assert answered == MUTATIONS
    assert errors > MUTATIONS / 10, "the mutants have to be badly formed often enough"
    assert rewritten > MUTATIONS / 100, "and well enough often enough"
    assert "Traceback" not in daemon.log, daemon.log[-3000:]
    both_ways(standing)
    for number in range(20):
        daemon.ng.command("delete", call_id=f"mutant{number}", from_tag="")


def test_control_flood(daemon: Daemon, standing: Dialogue, lab: Lab, party: MakeParty) -> None:
    """Media flows while the control port is flooded, replies come again afterwards, memory stays bounded."""
    flood, client = daemon.client("127.0.0.3"), daemon.client()
    offer = {"command": "offer", "from-tag": "f", "sdp": SDP, "flags": ["trust-address"]}
    resident = daemon.resident_kb()
    for number in range(20_000):
        kind = number % 4
        payload = (b"d7:command4:pinge", b"x" * 1000, encode({**offer, "call-id": f"flood{number}"}), b"")[kind]
        flood.send(payload)
        if number % 200 == 0:
            sent = standing.caller.audio.send()
            assert receive(standing.callee.audio.rtp)[0] == sent, "a control flood must not cost media"
            drain(flood.socket)
    deadline = time.monotonic() + 60
    while not client.ping(1):
        assert time.monotonic() < deadline, "the daemon does not answer after the flood"
    drain(flood.socket)
    growth = daemon.resident_kb() - resident
    assert growth < 60_000, f"{growth} kB for 20,000 datagrams"
    for _ in client.pipeline(
        (encode({"command": "delete", "call-id": f"flood{n}", "from-tag": "f"}) for n in range(20_000)), window=64
    ):
        pass
    dialogue = Dialogue(client, party(lab.a), party(lab.b)).place()
    both_ways(dialogue)
    dialogue.delete()


def test_64_kib_datagrams_at_the_control_port(daemon: Daemon, lab: Lab) -> None:
    for payload in (b"d3:key65400:" + b"x" * 65400 + b"e", b"d4:listl" + b"1:a" * 20000 + b"ee"):
        assert daemon.ng.exchange(payload)["result"] == "error"
    assert sections(daemon.ng.ok("offer", call_id="after", from_tag="f", sdp=SDP)["sdp"])
    daemon.ng.ok("delete", call_id="after", from_tag="f")
