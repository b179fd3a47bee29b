"""What is remembered of a call: in order, with its beginning, within bounds, from signalling as from packets."""

from __future__ import annotations

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import ProtocolError, ResourceError
from rtpengine.call import Call
from rtpengine.history import KEPT_FIRST, MAX_EVENTS, Event, History
from rtpengine.media import Endpoint, Learning, MediaOffer, Signalling
from rtpengine.table import CallTable, Limits

A = MediaOffer("audio", Endpoint("203.0.113.1", 4000), None, "RTP/AVP")
B = MediaOffer("audio", Endpoint("203.0.113.2", 4000), None, "RTP/AVP")
MOVED = MediaOffer("audio", Endpoint("203.0.113.9", 4000), None, "RTP/AVP")
PLAIN = Signalling()


def test_the_first_events_and_the_latest_are_kept() -> None:
    history = History()
    for number in range(100):
        history.note(float(number), f"event {number}", 30000)
    times = [event.now for event in history.events]
    assert times == [*range(KEPT_FIRST), *range(100 - MAX_EVENTS + KEPT_FIRST, 100)]
    assert history.dropped == 100 - MAX_EVENTS
    assert history.events[-1] == Event(99.0, 30000, "event 99")


@pytest.fixture
def table() -> CallTable:
    return CallTable(FakeTransport(), Limits(), Learning.HEURISTIC, TOOLS, lambda *_: None)


def events(table: CallTable) -> list[tuple[float, int, str]]:
    return [tuple(event) for event in table.find("c").history.events]


def test_signalling_is_remembered(table: CallTable) -> None:
    table.offer("c", "a'\n", [A], Signalling(via_branch="x"), 1.0)
    table.answer("c", "a'\n", "b", [B], Signalling(via_branch="y"), 2.0)
    table.note("c", 3.0, "source confirmed", 30000)
    table.note("gone", 3.0, "source confirmed", 30000)
    with pytest.raises(ProtocolError):
        table.answer("c", "a'\n", "a'\n", [B], PLAIN, 4.0)
    transport = table.transport
    assert isinstance(transport, FakeTransport)
    transport.limit = 0
    with pytest.raises(ResourceError):
        table.offer("c", "a'\n", [MOVED], PLAIN, 5.0)
    table.delete(table.find("c"), "", "", "", 9.0, 6.0)
    assert events(table) == [
        (1.0, 0, 'offer from tag "a\'\\n"'),
        (2.0, 0, "answer from tag 'b' to tag \"a'\\n\""),
        (3.0, 30000, "source confirmed"),
        (4.0, 0, 'answer from tag "a\'\\n" to tag "a\'\\n" refused: A party cannot answer itself'),
        (5.0, 0, 'offer from tag "a\'\\n" refused: Ran out of ports'),
        (6.0, 0, "deleted, ends in 9 seconds"),
    ]


def test_a_call_of_another_process_says_so(table: CallTable) -> None:
    table.adopt(Call("c", 1.0, Learning.HEURISTIC, table.transport, TOOLS), 2.0)
    assert events(table) == [(2.0, 0, "taken over from another process")]


def test_branches_and_moves_are_remembered(table: CallTable) -> None:
    table.limits = Limits(600, 600)
    table.offer("c", "a", [A], PLAIN, 0.0)
    table.answer("c", "a", "b", [B], PLAIN, 0.0)
    table.answer("c", "a", "b2", [B], PLAIN, 0.0)
    table.delete(table.find("c"), "a", "b2", "", 0.0, 1.0)
    table.offer("c", "a", [MOVED], PLAIN, 2.0)
    table.answer("c", "a", "b", [B], PLAIN, 2.0)
    table.tick(70.0)
    assert (1.0, 0, "tag 'b2' has left") in events(table)
    closed = [event for event in events(table) if event[2] == "closed, the party has moved to other ports"]
    assert closed and all(port >= 30000 and port % 2 == 0 for _, port, _ in closed)
