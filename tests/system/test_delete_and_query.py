"""Ending calls and asking about them (control-ng.md 6.6, 7 and 8)."""

from __future__ import annotations

import time
from typing import Any

import pytest
from systemlab.daemon import Daemon
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.media import Dialogue, both_ways, receive, rtcp_relayed, silent
from systemlab.netns import Lab

NOT_FOUND = "Call-ID not found or tags didn't match"


def _exists(dialogue: Dialogue) -> bool:
    reply = dialogue.ng.command("query", call_id=dialogue.call_id)
    assert reply["result"] == "ok" or reply["error-reason"] == "Unknown call-id"
    return bool(reply["result"] == "ok")


DELETES = [
    ({"from_tag": "A"}, True),
    ({"from_tag": "B"}, True),
    ({"from_tag": "A", "to_tag": "B"}, True),
    ({"from_tag": "B", "to_tag": "A"}, True),
    ({"from_tag": "A", "to_tag": ""}, True),
    ({"from_tag": "A", "to_tag": "never-seen"}, True),
    ({"from_tag": "never-seen", "to_tag": "B"}, True),
    ({"from_tag": ""}, True),
    ({"from_tag": "never-seen"}, False),
    ({"from_tag": "never-seen", "to_tag": "nor-this"}, False),
]


@pytest.mark.parametrize("fatal", [False, True])
@pytest.mark.parametrize(("keys", "found"), DELETES, ids=str)
def test_delete(call: MakeCall, keys: dict[str, str], found: bool, fatal: bool) -> None:
    dialogue = call()
    tags = {"A": dialogue.caller.tag, "B": dialogue.callee.tag}
    dialogue.place()
    both_ways(dialogue)
    request: dict[str, Any] = {key: tags.get(value, value) for key, value in keys.items()}
    request["call_id"] = dialogue.call_id
    if fatal:
        request["flags"] = ["fatal"]
    if found:
        reply = dialogue.ng.ok("delete", **request)
        assert "warning" not in reply
        assert reply["totals"]["RTP"]["packets"] == 20, "the reply carries the statistics"
        dialogue.caller.audio.send()
        assert silent([dialogue.callee.audio.rtp], 0.05)
    elif fatal:
        assert dialogue.ng.error("delete", **request) == NOT_FOUND
    else:
        assert dialogue.ng.ok("delete", **request)["warning"] == NOT_FOUND
    assert _exists(dialogue) != found


@pytest.mark.parametrize("flags", [[], ["fatal"]])
def test_delete_of_an_unknown_call(daemon: Daemon, flags: list[str]) -> None:
    reply = daemon.ng.command("delete", call_id="nope", from_tag="x", flags=flags)
    if flags:
        assert reply == {"result": "error", "error-reason": NOT_FOUND}
    else:
        assert reply == {"result": "ok", "warning": NOT_FOUND}


def test_via_branches_are_a_set(call: MakeCall) -> None:
    dialogue = call()
    dialogue.offer(via_branch="b1")
    dialogue.offer(via_branch="b2")
    dialogue.answer(via_branch="b2")
    both_ways(dialogue)
    assert dialogue.delete(via_branch="unknown")["warning"] == NOT_FOUND
    assert "warning" not in dialogue.delete(via_branch="b1")
    both_ways(dialogue)
    assert dialogue.delete(via_branch="b1")["warning"] == NOT_FOUND
    assert "warning" not in dialogue.delete(via_branch="b2")
    assert not _exists(dialogue)


def test_delete_without_branch_ends_the_call_whatever_the_set_holds(call: MakeCall) -> None:
    dialogue = call()
    dialogue.offer(via_branch="b1")
    dialogue.offer(via_branch="b2")
    dialogue.delete()
    assert not _exists(dialogue)


def test_deleting_one_fork_leaves_the_other(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = call()
    first, second = dialogue.callee, party(lab.c)
    dialogue.offer()
    second.audio.remote = first.audio.remote
    dialogue.answer(first)
    dialogue.answer(second)
    dialogue.ng.ok("delete", call_id=dialogue.call_id, from_tag=dialogue.caller.tag, to_tag=first.tag)
    assert _exists(dialogue)
    packet = dialogue.caller.audio.send()
    assert receive(second.audio.rtp)[0] == packet
    dialogue.ng.ok("delete", call_id=dialogue.call_id, from_tag=dialogue.caller.tag, to_tag=second.tag)
    assert not _exists(dialogue)


def test_query_in_the_documented_shape(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    kinds = ("audio", "video")
    dialogue = call(party(lab.a, kinds=kinds), party(lab.b, 6, kinds=kinds, formats="8"))
    before = int(time.time())
    dialogue.offer(address_family="IP6")
    dialogue.answer()
    both_ways(dialogue, packets=5)
    rtcp_relayed(dialogue.caller.audio, dialogue.callee.audio)
    reply = dialogue.query(from_tag=dialogue.caller.tag)
    assert before <= reply["created"] <= time.time()
    assert reply["last_signal"] >= reply["created"]
    assert len(reply["streams"]) == 2
    for index, (caller, callee) in enumerate(reply["streams"]):
        for said, party_, family in ((caller, dialogue.caller, "IPv4"), (callee, dialogue.callee, "IPv6")):
            media = party_.media[index]
            assert media.remote
            assert said["tag"] == party_.tag
            for kind, port, local in (("rtp", media.port, 0), ("rtcp", media.port + 1, 1)):
                stats = said["stats"][kind]
                where = {"family": family, "address": media.address, "port": port}
                assert stats["peer address"] == stats["advertised peer address"] == where
                assert stats["local port"] == media.remote.port + local
                assert set(stats["counters"]) == {"packets", "bytes", "errors"}
    caller, callee = reply["streams"][0]
    assert (caller["codec"], callee["codec"]) == ("G711u", "G711a")
    assert caller["status"] == "confirmed peer address"
    assert reply["streams"][1][0]["status"] == "known but unconfirmed peer address"
    assert "codec" not in reply["streams"][1][0]
    assert caller["stats"]["rtp"]["counters"] == {"packets": 5, "bytes": 5 * 172, "errors": 0}
    assert caller["stats"]["rtcp"]["counters"]["packets"] == 1
    assert callee["stats"]["rtp"]["counters"]["packets"] == 5
    totals = reply["totals"]
    assert totals["input"]["rtp"]["packets"] == totals["output"]["rtp"]["packets"] == 5
    assert (totals["input"]["rtcp"]["packets"], totals["output"]["rtcp"]["packets"]) == (1, 0)
    assert totals["RTP"] == {"packets": 10, "bytes": 10 * 172, "errors": 0}
    assert totals["RTCP"]["packets"] == 1


def test_query_in_the_shape_that_clients_read(call: MakeCall) -> None:
    dialogue = call().place()
    both_ways(dialogue, packets=5)
    tags = dialogue.query()["tags"]
    assert set(tags) == {dialogue.caller.tag, dialogue.callee.tag}
    for own, other in ((dialogue.caller, dialogue.callee), (dialogue.callee, dialogue.caller)):
        said = tags[own.tag]
        assert (said["tag"], said["in dialogue with"]) == (own.tag, other.tag)
        (media,) = said["medias"]
        assert (media["index"], media["type"], media["protocol"]) == (1, "audio", "RTP/AVP")
        assert own.audio.remote
        streams = {stream["local port"]: stream for stream in media["streams"]}
        stream = streams[own.audio.remote.port]
        assert stream["stats"].items() >= {"packets": 5, "bytes": 5 * 172, "errors": 0}.items()
        assert (stream["endpoint"]["address"], stream["endpoint"]["port"]) == (own.audio.address, own.audio.port)
        assert "RTP" in stream["flags"]
        assert "RTCP" in streams[own.audio.remote.port + 1]["flags"]


@pytest.mark.parametrize(
    ("tags", "first"),
    [({"from_tag": "A"}, "A"), ({"from_tag": "B"}, "B"), ({"from_tag": "B", "to_tag": "A"}, "B"),
     ({"from_tag": "A", "to_tag": ""}, "A"), ({}, "A"), ({"from_tag": "A", "to_tag": "nobody"}, None),
     ({"from_tag": "nobody"}, None)],
)  # fmt: skip
def test_query_orientation(call: MakeCall, tags: dict[str, str], first: str | None) -> None:
    dialogue = call().place()
    both_ways(dialogue, packets=3)
    dialogue.caller.audio.send()
    receive(dialogue.callee.audio.rtp)
    known = {"A": dialogue.caller.tag, "B": dialogue.callee.tag}
    reply = dialogue.query(**{key: known.get(value, value) for key, value in tags.items()})
    if first is None:
        assert reply["streams"] == []
        assert reply["totals"]["input"]["rtp"]["packets"] == reply["totals"]["output"]["rtp"]["packets"] == 0
        return
    assert [side["tag"] for side in reply["streams"][0]] == [known[first], known["AB"[first == "A"]]]
    packets = (4, 3) if first == "A" else (3, 4)
    totals = reply["totals"]
    assert (totals["input"]["rtp"]["packets"], totals["output"]["rtp"]["packets"]) == packets


def test_query_of_a_half_call(call: MakeCall) -> None:
    dialogue = call()
    dialogue.offer()
    ((caller, callee),) = dialogue.query()["streams"]
    assert (caller["tag"], callee["tag"]) == (dialogue.caller.tag, "")
    assert callee["status"] == "unknown peer address"
    assert callee["stats"]["rtp"]["peer address"] == {"family": "IPv6", "address": "::", "port": 0}
    assert caller["status"] == "known but unconfirmed peer address"


def test_query_errors(daemon: Daemon) -> None:
    assert daemon.ng.error("query") == "No call-id in message"
    assert daemon.ng.error("query", call_id="nope") == "Unknown call-id"
