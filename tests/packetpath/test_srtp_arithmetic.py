"""The arithmetic of SRTP in rtp.h and srtp_common.h, through cffi: index estimate, replay window, table of SSRCs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rtpengine._packetpath import ffi, lib
from srtp_context import flat

END = lib.RTP_INDEX_END
WINDOW = lib.RTP_WINDOW
SOURCES = lib.RTP_SOURCES


@pytest.mark.parametrize(
    ("last", "seq", "expected"),
    [
        # nothing yet: rollover 0, however high
        (None, 0, 0),
        (None, 0xFFFF, 0xFFFF),
        # the same, the next, late
        (100, 100, 100),
        (100, 101, 101),
        (100, 99, 99),
        # over the wrap, there and back
        (0xFFFF, 0, 0x1_0000),
        (0xFFFF, 0x7FFE, 0x1_7FFE),
        (0xFFFF, 0x7FFF, 0x7FFF),
        (0xFFFF, 0x8000, 0x8000),
        (0x1_0000, 0xFFFF, 0xFFFF),
        (0x1_0000, 0x8001, 0x8001),
        # exactly half way: RFC 3711 stays within the rollover
        (0x1_0000, 0x8000, 0x1_8000),
        (0x1_8000, 0, 0x1_0000),
        (0x1_7FFF, 0xFFFF, 0x1_FFFF),
        (0x1_8001, 0, 0x2_0000),
        # before rollover 0 there is nothing
        (0, 0xFFFF, 0xFFFF),
        (100, 0x8065, 0x8065),
        # the end
        (END - 1, 0xFFFE, END - 2),
        (END - 1, 0, END),
        (END - 0x8000, 0, END - 0x1_0000),
    ],
)
def test_index_estimate(last: int | None, seq: int, expected: int) -> None:
    assert lib.rtp_index(0 if last is None else last + 1, seq) == expected


@given(st.integers(0x1_0000, END - 0x1_0000), st.integers(-0x7FFF, 0x7FFF))
def test_the_estimate_is_the_nearest_index(last: int, away: int) -> None:
    assert lib.rtp_index(last + 1, (last + away) & 0xFFFF) == last + away


class Window:
    """rtp_window beside a set that remembers everything."""

    def __init__(self) -> None:
        self.window, self.passed = ffi.new("struct rtp_window *"), set[int]()

    def fresh(self, index: int) -> bool:
        return bool(lib.rtp_window_fresh(self.window, index))

    def expected(self, index: int) -> bool:
        return index not in self.passed and index > max(self.passed, default=-1) - WINDOW

    def step(self, index: int) -> None:
        assert self.fresh(index) is self.expected(index), index
        if self.fresh(index):
            self.accept(index)

    def accept(self, index: int) -> None:
        lib.rtp_window_pass(self.window, index)
        self.passed.add(index)

    def check(self) -> None:
        head = max(self.passed, default=0)
        for index in range(max(0, head - WINDOW - 3), head + 3):
            assert self.fresh(index) is self.expected(index), index


EDGES = [0, 1, 63, 64, 65, 126, 127, 128, 129, 191, 192, 193, 1 << 31, (1 << 32) + 5, 1 << 47]


@pytest.mark.parametrize("ahead", EDGES)
@pytest.mark.parametrize("start", [0, 1, 5, 0xFFF0])
def test_window_edges(ahead: int, start: int) -> None:
    window = Window()
    for index in (start, start + 3, start + 3 + ahead, start + 4 + ahead):
        window.step(index)
        window.check()
    for late in (1, 2, 62, 63, 64, 65, 126, 127, 128, 129):
        if ahead >= late:
            window.step(start + 4 + ahead - late)
            window.step(start + 4 + ahead - late)
    window.check()


steps = st.lists(st.integers(-200, 200), max_size=80)


def walk(window: Window, start: int, moves: list[int]) -> None:
    at = start
    for move in moves:
        at = max(0, at + move)
        window.step(at)


@given(st.integers(0, END - 0x1_0000), steps)
def test_window_against_a_set(start: int, moves: list[int]) -> None:
    window = Window()
    walk(window, start, moves)
    window.check()


@given(st.integers(0, 400), steps, st.integers(0, 400), steps)
def test_merged_windows_have_seen_what_either_has(a: int, first: list[int], b: int, second: list[int]) -> None:
    left, right = Window(), Window()
    walk(left, a, first)
    walk(right, b, second)
    before = flat(right.window)
    lib.rtp_window_merge(left.window, right.window)
    assert flat(right.window) == before
    left.passed |= right.passed
    left.check()


@pytest.mark.parametrize("late", [WINDOW, WINDOW + 63, WINDOW + 64, 900])
def test_an_index_below_the_window_changes_nothing(late: int) -> None:
    windows = ffi.new("struct rtp_window[]", 2)
    lib.rtp_window_pass(windows, 1000)
    before = [flat(window) for window in windows]
    lib.rtp_window_pass(windows, 1000 - late)
    assert [flat(window) for window in windows] == before


def test_a_window_moves_only_forward() -> None:
    window = Window()
    window.accept(1000)
    before = flat(window.window)
    for target in (0, 1, 1000, 1001):
        lib.rtp_window_advance(window.window, target)
        assert flat(window.window) == before


class Sources:
    """rtp_sources, with SSRCs for names."""

    def __init__(self) -> None:
        self.table = ffi.new("struct rtp_sources *")

    def packet(self, ssrc: int, index: int) -> None:
        lib.rtp_source_pass(self.table, ssrc, index)

    def window(self, ssrc: int) -> tuple[int, int] | None:
        slot = lib.rtp_source_find(self.table, ssrc)
        return None if slot < 0 else flat(self.table.window[slot])

    def retired(self, ssrc: int) -> bool:
        return bool(lib.rtp_source_retired(self.table, ssrc))


@pytest.fixture
def full() -> Sources:
    """A table without room: SSRCs from 0 on, each with one packet of rollover 0."""
    sources = Sources()
    for ssrc in range(SOURCES):
        sources.packet(ssrc, 7)
    return sources


def test_every_ssrc_has_a_window_of_its_own(full: Sources) -> None:
    full.packet(3, 8)
    assert full.window(2) == (8, 1)
    assert full.window(3) == (9, 3)
    assert full.window(SOURCES) is None
    assert not any(full.retired(ssrc) for ssrc in range(5000))


def test_the_longest_unused_makes_room(full: Sources) -> None:
    full.packet(0, 8)
    full.packet(1000, 1)
    assert full.window(1) is None
    assert full.window(0) == (9, 3)
    assert full.window(1000) == (2, 1)


def test_who_has_just_got_a_slot_keeps_it(full: Sources) -> None:
    """Before its first packet too: a snapshot is being restored."""
    lib.rtp_source_enter(full.table, 1000)
    full.packet(1001, 7)
    assert (full.window(0), full.window(1), full.window(1000)) == (None, None, (0, 0))


def test_rollover_is_kept_before_use(full: Sources) -> None:
    """What an estimate would not find again stays, even if it is the longest unused."""
    full.packet(0, 0x1_0000)
    full.packet(1, 0xFFFF)
    for ssrc in range(2, SOURCES):
        full.packet(ssrc, 9)
    full.packet(1000, 1)
    assert (full.window(0), full.window(1)) == ((0x1_0001, 1), None)
    for ssrc in range(2, SOURCES):
        full.packet(ssrc, 0x1_0000)
    full.packet(1000, 0x1_0000)
    full.packet(1001, 1)
    assert full.window(0) is None
    assert full.window(1000)


def test_the_clock_may_wrap() -> None:
    sources = Sources()
    sources.table.clock = 2**32 - SOURCES // 2
    for ssrc in [*range(SOURCES), 0, *range(1000, 1010)]:
        sources.packet(ssrc, 7)
    assert [ssrc for ssrc in range(SOURCES) if sources.window(ssrc) is None] == list(range(1, 11))


@given(st.lists(st.integers(0, 2**32 - 1), unique=True, min_size=SOURCES, max_size=4 * SOURCES))
def test_who_made_room_is_never_taken_for_new(ssrcs: list[int]) -> None:
    sources = Sources()
    for ssrc in ssrcs:
        sources.packet(ssrc, 0)
    assert all(sources.retired(ssrc) for ssrc in ssrcs if sources.window(ssrc) is None)
    assert sources.table.count == SOURCES


def test_few_are_wrongly_taken_for_retired() -> None:
    """A phone may well change its SSRC a hundred times in a call."""
    sources = Sources()
    rng = random.Random(4)
    for _ in range(SOURCES + 100):
        sources.packet(rng.getrandbits(32), 0)
    assert sum(sources.retired(rng.getrandbits(32)) for _ in range(10000)) < 200
