"""What is counted of requests, and of calls that are over."""

from __future__ import annotations

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine.call import Call
from rtpengine.counts import MAX_CLIENTS, OTHERS, REASONS, CallCounts, RequestCounts
from rtpengine.media import Endpoint, Learning, MediaOffer, Signalling, StreamState
from rtpengine.offers import offers
from rtpengine.sdp import SessionDescription
from rtpengine.table import CallTable, Limits

A, B = "192.0.2.1", "192.0.2.2"


def said(address: str, port: int = 5004, extra: str = "", sections: int = 1) -> list[MediaOffer]:
    body = f"v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\n"
    body += "".join(f"m=audio {port and port + 2 * i} RTP/AVP 0\r\n{extra}" for i in range(sections))
    return offers(SessionDescription.parse(body.encode()), Signalling(trust_address=True))


class Calls:
    """A table whose calls are counted when they end; streams of the fake transport are port numbers from 30000 on."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.counts = CallCounts()
        limits = Limits(timeout_s=60, silent_timeout_s=600)
        self.table = CallTable(self.transport, limits, Learning.HEURISTIC, TOOLS, self.counts.ended)
        self.how = Signalling(trust_address=True)

    def offer(self, offered: list[MediaOffer], tag: str = "a") -> None:
        self.table.offer("c", tag, offered, self.how, 0.0)

    def answer(self, answered: list[MediaOffer], tag: str = "b") -> None:
        self.table.answer("c", "a", tag, answered, self.how, 0.0)

    def hear(self, *streams: int) -> None:
        for stream in streams:
            self.transport.states[stream] = StreamState(Endpoint(A, 1), True, 5, 5, 0, 1.0, 0, {})

    def delete(self, now: float = 10.0) -> None:
        self.table.end(self.call, "deleted", now)

    @property
    def call(self) -> Call:
        return self.table.find("c")

    def closed(self) -> dict[str, int]:
        return {reason: count for reason, count in self.counts.closed.items() if count}


def test_before_the_first_call() -> None:
    counts = CallCounts()
    assert dict(counts.closed) == dict.fromkeys(REASONS, 0)
    assert (counts.total, counts.average_s) == (0, 0.0)


def test_lengths() -> None:
    calls = Calls()
    for length in (10.0, 40.0):
        calls.offer(said(A))
        calls.delete(length)
    counts = calls.counts
    assert (counts.total, counts.seconds, counts.seconds_squared, counts.average_s) == (2, 50.0, 1700.0, 25.0)


@pytest.mark.parametrize(
    ("extra", "answers", "reason", "seconds"),
    [
        ("", True, "timeout", 61),
        ("", False, "offer_timeout", 61),
        ("a=sendonly\r\n", True, "silent_timeout", 601),
        ("a=inactive\r\n", True, "silent_timeout", 601),
    ],
)
def test_time_outs(extra: str, answers: bool, reason: str, seconds: float) -> None:
    calls = Calls()
    calls.offer(said(A, extra=extra))
    if answers:
        calls.answer(said(B, extra={"a=sendonly\r\n": "a=recvonly\r\n"}.get(extra, extra)))
    for now in range(0, 1000, 10):
        calls.table.tick(float(now))
        if not len(calls.table):
            break
    assert calls.closed() == {reason: 1}
    assert seconds - 10 < calls.counts.seconds <= seconds + 10


@pytest.mark.parametrize(
    ("reason", "counted"),
    [
        ("deleted", "terminated"),
        ("final timeout", "final_timeout"),
        ("force terminated", "force_terminated"),
        ("x", "x"),
    ],
)
def test_other_ends(reason: str, counted: str) -> None:
    calls = Calls()
    calls.offer(said(A))
    calls.table.end(calls.call, reason, 1.0)
    assert calls.closed() == {counted: 1}


@pytest.mark.parametrize(
    ("heard", "one_way", "silent"),
    [((), 0, 2), ((30000,), 1, 1), ((30002,), 1, 1), ((30000, 30002), 0, 0), ((30001, 30003), 0, 2)],
)
def test_what_was_heard(heard: tuple[int, ...], one_way: int, silent: int) -> None:
    calls = Calls()
    calls.offer(said(A))
    calls.answer(said(B))
    calls.hear(*heard)
    calls.delete()
    assert (calls.counts.one_way, calls.counts.silent_streams) == (one_way, silent)


def test_a_call_with_one_silent_section_is_not_one_way() -> None:
    calls = Calls()
    calls.offer(said(A, sections=2))
    calls.answer(said(B, sections=2))
    calls.hear(30000, 30002)
    calls.delete()
    assert (calls.counts.one_way, calls.counts.silent_streams) == (0, 2)


def test_a_rejected_section_is_no_stream() -> None:
    calls = Calls()
    calls.offer(said(A))
    calls.answer(said(B, port=0))
    calls.delete()
    assert (calls.counts.one_way, calls.counts.silent_streams) == (0, 0)


def test_branches_share_the_side_that_faces_them() -> None:
    calls = Calls()
    calls.offer(said(A))
    calls.answer(said(B))
    calls.answer(said("192.0.2.3"), "b2")
    assert len(calls.call.dialogues) == 2
    calls.hear(30000)
    calls.delete()
    assert calls.counts.one_way == 1
    assert calls.counts.silent_streams == len({s for p in (30002, 30004) for s in (p,)})


def test_requests() -> None:
    counts = RequestCounts()
    counts.count(A, "offer", 0.25, failed=False)
    counts.count(A, "offer", 0.5, failed=True)
    counts.count(B, "ping", 0.125, failed=False)
    assert counts.requests == {(A, "offer"): 2, (B, "ping"): 1}
    assert counts.seconds == {(A, "offer"): 0.75, (B, "ping"): 0.125}
    assert dict(counts.errors) == {A: 1, B: 0}


def test_clients_beyond_number_count_together() -> None:
    counts = RequestCounts()
    for number in range(10 * MAX_CLIENTS):
        counts.count(f"2001:db8::{number:x}", "ping", 0.0, failed=True)
        counts.count("2001:db8::0", "ping", 0.0, failed=False)
    assert len(counts.errors) == MAX_CLIENTS + 1
    assert counts.requests[OTHERS, "ping"] == 9 * MAX_CLIENTS
    assert counts.requests["2001:db8::0", "ping"] == 10 * MAX_CLIENTS + 1
