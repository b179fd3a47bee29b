"""Finding, ending and expiring calls, with scripted time."""

from __future__ import annotations

import math

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import ProtocolError, ResourceError
from rtpengine.call import RETIREMENT_S, Call
from rtpengine.media import DIRECTIONS, Endpoint, Learning, MediaOffer, Signalling
from rtpengine.table import NOT_FOUND, CallTable, Limits

A, B, B2 = (Endpoint(f"203.0.113.{i}", 4000) for i in (1, 2, 3))
PLAIN = Signalling()


def audio(endpoint: Endpoint, direction: str = "sendrecv", rejected: bool = False) -> MediaOffer:
    rtcp = Endpoint(endpoint.address, endpoint.port + 1)
    return MediaOffer("audio", endpoint, rtcp, "RTP/AVP", direction=DIRECTIONS[direction], rejected=rejected)


class Bench:
    """A table with everything that it asks for, and what it said."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.ended: list[tuple[str, str, float]] = []
        limits = Limits(timeout_s=60, silent_timeout_s=3600)
        self.table = CallTable(self.transport, limits, Learning.HEURISTIC, TOOLS, self._end)

    def _end(self, call: Call, reason: str, now: float) -> None:
        assert all(self.transport.opened[p.port] for m in call.media_ports for p in m.open_sets())
        self.ended.append((call.call_id, reason, now))

    def place(self, call_id: str = "c", now: float = 0.0, direction: str = "sendrecv", branch: str = "") -> Call:
        answer = {"sendonly": "recvonly"}.get(direction, direction)
        self.table.offer(call_id, "a", [audio(A, direction)], Signalling(via_branch=branch or None), now)
        self.table.answer(call_id, "a", "b", [audio(B, answer)], PLAIN, now)
        return self.table.find(call_id)

    def delete(self, from_tag: str = "a", to_tag: str = "", branch: str = "", delay: float = 0) -> None:
        self.table.delete(self.table.find("c"), from_tag, to_tag, branch, delay, 5.0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestFinding:
    def test_unknown_call(self, bench: Bench) -> None:
        with pytest.raises(ProtocolError, match="Unknown call-id"):
            bench.table.find("nope")
        with pytest.raises(ProtocolError, match="Unknown call-id"):
            bench.table.answer("nope", "a", "b", [audio(B)], PLAIN, 0.0)

    def test_failed_first_offer_leaves_no_call(self, bench: Bench) -> None:
        bench.transport.limit = 1
        with pytest.raises(ResourceError):
            bench.table.offer("c", "a", [audio(A)], PLAIN, 0.0)
        assert len(bench.table) == 0 and not bench.transport.opened


class TestDelete:
    @pytest.mark.parametrize(("from_tag", "to_tag"), [("a", ""), ("a", "b"), ("b", ""), ("a", "unknown"), ("", "")])
    def test_ends_the_call(self, bench: Bench, from_tag: str, to_tag: str) -> None:
        bench.place()
        bench.delete(from_tag, to_tag)
        assert bench.ended == [("c", "deleted", 5.0)]
        assert len(bench.table) == 0 and not bench.transport.opened

    @pytest.mark.parametrize(("from_tag", "to_tag"), [("x", ""), ("x", "y")])
    def test_unknown_tags(self, bench: Bench, from_tag: str, to_tag: str) -> None:
        bench.place()
        with pytest.raises(ProtocolError, match=NOT_FOUND):
            bench.delete(from_tag, to_tag)
        assert len(bench.table) == 1

    def test_one_fork_of_two(self, bench: Bench) -> None:
        call = bench.place()
        bench.table.answer("c", "a", "b2", [audio(B2)], PLAIN, 1.0)
        bench.delete("a", "b2")
        assert [leg.tag for leg in call.legs] == ["a", "b"] and len(bench.transport.opened) == 3
        bench.delete("a", "b")
        assert len(bench.table) == 0 and not bench.transport.opened

    def test_via_branches_count(self, bench: Bench) -> None:
        bench.place(branch="z1")
        bench.place(branch="z2")
        with pytest.raises(ProtocolError, match=NOT_FOUND):
            bench.delete(branch="z3")
        bench.delete(branch="z1")
        assert len(bench.table) == 1
        bench.delete(branch="z2")
        assert len(bench.table) == 0

    def test_without_a_branch_the_set_does_not_matter(self, bench: Bench) -> None:
        bench.place(branch="z1")
        bench.delete()
        assert len(bench.table) == 0

    def test_delayed(self, bench: Bench) -> None:
        bench.place()
        bench.delete(delay=30)
        bench.table.tick(34.9)
        assert len(bench.table) == 1
        bench.table.tick(35.0)
        assert bench.ended == [("c", "deleted", 35.0)]

    @pytest.mark.parametrize("answered", [False, True])
    def test_delayed_and_wanted_again(self, bench: Bench, answered: bool) -> None:
        """Serial forking: one destination has refused, and the next one is tried under the same call-id."""
        call = bench.place()
        bench.delete(delay=30)
        if answered:
            bench.table.answer("c", "a", "b2", [audio(B2)], PLAIN, 6.0)
        else:
            bench.table.offer("c", "a", [audio(A)], PLAIN, 6.0)
        bench.transport.heard[30000] = 60.0
        bench.table.tick(40.0)
        bench.table.tick(70.0)
        assert len(bench.table) == 1 and call.ends_at is None
        bench.delete(delay=30)
        bench.table.tick(70.0)
        assert bench.ended == [("c", "deleted", 70.0)]

    def test_delayed_beyond_the_next_look_at_the_call(self, bench: Bench) -> None:
        bench.place()
        bench.transport.heard[30000] = 59.0
        bench.delete(delay=90)
        bench.table.tick(60.0)
        bench.table.tick(94.9)
        assert len(bench.table) == 1
        bench.table.tick(95.0)
        assert bench.ended == [("c", "deleted", 95.0)]


class TestExpiry:
    @pytest.mark.parametrize(
        ("direction", "heard", "expires"),
        [
            ("sendrecv", {}, 60.0),
            ("sendrecv", {30000: 50.0}, 110.0),
            ("sendrecv", {30003: 59.0, 30000: 10.0}, 119.0),
            ("inactive", {}, 3600.0),
            # the party that only listens may be silent, and one living stream suffices
            ("sendonly", {}, 3600.0),
        ],
    )
    def test_when_no_stream_is_alive(
        self, bench: Bench, direction: str, heard: dict[int, float], expires: float
    ) -> None:
        bench.place(direction=direction)
        bench.transport.heard = heard
        for now in range(1, int(expires)):
            bench.table.tick(float(now))
        assert len(bench.table) == 1
        bench.table.tick(expires)
        assert bench.ended == [("c", "timeout", expires)]
        assert not bench.transport.opened

    def test_signalling_starts_the_time_anew(self, bench: Bench) -> None:
        bench.place(direction="inactive")
        bench.place(now=3000.0)
        bench.table.tick(3059.0)
        assert len(bench.table) == 1
        bench.table.tick(3060.0)
        assert len(bench.table) == 0

    def test_whatever_comes_a_call_lasts_no_longer_than_the_final_timeout(self, bench: Bench) -> None:
        bench.table.limits = Limits(60, 3600, 30)
        bench.place()
        bench.transport.heard = dict.fromkeys((30000, 30002), math.inf)
        bench.place(now=20.0)
        bench.table.tick(29.0)
        assert len(bench.table) == 1
        bench.table.tick(30.0)
        assert bench.ended == [("c", "final timeout", 30.0)]

    def test_a_final_timeout_that_is_set_counts_for_calls_that_there_are(self, bench: Bench) -> None:
        bench.place()
        bench.transport.heard = dict.fromkeys((30000, 30002), math.inf)
        bench.table.set_limits(Limits(60, 3600, 100), 50.0)
        for now in range(50, 100):
            bench.table.tick(float(now))
        assert len(bench.table) == 1
        bench.table.tick(100.0)
        assert bench.ended == [("c", "final timeout", 100.0)]

    def test_call_without_ports_lives_for_the_timeout(self, bench: Bench) -> None:
        bench.table.offer("c", "a", [audio(A, rejected=True)], PLAIN, 0.0)
        bench.table.tick(59.0)
        assert len(bench.table) == 1
        bench.table.tick(60.0)
        assert len(bench.table) == 0

    def test_a_tick_looks_only_at_calls_whose_time_has_come(self, bench: Bench) -> None:
        for i in range(100):
            bench.place(f"c{i}", now=float(i))
        asked: list[int] = []
        bench.transport.last_packet = lambda stream: asked.append(stream) or 0.0  # type: ignore[method-assign,func-returns-value]
        bench.table.tick(59.0)
        assert not asked
        bench.table.tick(60.0)
        assert len(asked) == 4

    def test_call_deleted_meanwhile_and_placed_again(self, bench: Bench) -> None:
        bench.place()
        bench.delete()
        bench.place(now=30.0)
        bench.table.tick(60.0)
        assert len(bench.table) == 1


def test_a_call_ends_even_if_telling_so_fails(bench: Bench) -> None:
    def fail(call: Call, reason: str, now: float) -> None:
        raise OSError("no log")

    bench.place()
    bench.table._ended = fail
    with pytest.raises(OSError, match="no log"):
        bench.delete()
    assert len(bench.table) == 0 and not bench.transport.opened


class TestReplacedPorts:
    def test_close_when_quiet(self, bench: Bench) -> None:
        bench.place()
        moved = [audio(Endpoint("203.0.113.9", 4000))]
        bench.table.offer("c", "a", moved, PLAIN, 10.0)
        # the old port 30000 is still in use until 40; the call itself is alive all the time
        bench.transport.heard = {30000: 40.0, 30002: 10_000.0}
        bench.table.tick(10.0 + RETIREMENT_S)
        assert 30000 in bench.transport.opened
        bench.table.tick(40.0 + RETIREMENT_S)
        assert 30000 not in bench.transport.opened
        assert set(bench.transport.opened) == {30002, 30004}
