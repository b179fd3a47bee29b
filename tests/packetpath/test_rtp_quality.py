"""rtp_quality.h through cffi: cases by hand, and a model that does it another way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rtpengine._packetpath import ffi, lib

from rtpengine.clocks import clock_words
from rtpengine.media import Format

NAMES = ("expected", "lost", "duplicates", "reordered", "skips", "resets")
DROPOUT, MISORDER, TAKEOVER = 3000, 100, 32  # RFC 3550 A.1: MAX_DROPOUT, MAX_MISORDER; ours
MS = 1_000_000
MAX_CLOCKS, OTHER_TYPES = 16, 255


def words(clocks: Sequence[tuple[int, int]]) -> Any:
    """Payload types and their clock rates."""
    listed = [payload_type << 24 | rate for payload_type, rate in clocks]
    return ffi.new(f"uint32_t[{MAX_CLOCKS}]", listed)


def packet(seq: int, timestamp: int = 0, ssrc: int = 1, payload_type: int = 0) -> bytes:
    header = bytes([0x80, payload_type]) + (seq & 0xFFFF).to_bytes(2, "big")
    return header + (timestamp & 0xFFFFFFFF).to_bytes(4, "big") + ssrc.to_bytes(4, "big")


class Quality:
    """One struct rtp_quality."""

    def __init__(self, *clocks: tuple[int, int]) -> None:
        self.c = ffi.new("struct rtp_quality *")
        self._clocks = words(clocks)

    def count(self, data: bytes, now_ns: int = 0) -> None:
        lib.rtp_quality_count(self.c, self._clocks, data, now_ns)

    def sequence(self, *sequence: int, ssrc: int = 1) -> Quality:
        for seq in sequence:
            self.count(packet(seq, ssrc=ssrc))
        return self

    @property
    def totals(self) -> dict[str, int]:
        """Those that are not 0."""
        values = {name: getattr(self.c.totals, name) for name in NAMES}
        values["expected"] = lib.rtp_quality_expected(self.c)
        return {name: value for name, value in values.items() if value}


@pytest.mark.parametrize(
    ("sequence", "totals"),
    [
        ([], {}),
        ([0], {"expected": 1}),
        ([65535], {"expected": 1}),
        (range(1000, 1100), {"expected": 100}),
        # across the wrap, many times
        (range(65000, 65000 + 3 * 65536), {"expected": 3 * 65536}),
        # gaps
        ([1, 2, 4], {"expected": 4, "lost": 1, "skips": 1}),
        ([1, 2, 12, 15], {"expected": 15, "lost": 11, "skips": 2}),
        ([65534, 1], {"expected": 4, "lost": 2, "skips": 1}),
        ([1, DROPOUT], {"expected": DROPOUT, "lost": DROPOUT - 2, "skips": 1}),
        # out of order
        ([1, 3, 2, 4], {"expected": 4, "skips": 1, "reordered": 1}),
        ([1, 4, 2, 3, 5], {"expected": 5, "skips": 1, "reordered": 2}),
        ([65535, 1, 0, 2], {"expected": 4, "skips": 1, "reordered": 1}),
        ([1, 102, 2], {"expected": 102, "lost": 99, "skips": 1, "reordered": 1}),
        # what comes before the first is not expected, and not lost
        ([2, 1, 3], {"expected": 2}),
        ([0, 65535, 1], {"expected": 2}),
        # twice
        ([1, 1, 2, 2, 2], {"expected": 2, "duplicates": 3}),
        ([1, 3, 1, 3, 2, 2], {"expected": 3, "skips": 1, "reordered": 1, "duplicates": 3}),
        # too late to tell whether it was there
        ([1, 103, 2], {"expected": 103, "lost": 101, "skips": 1}),
        # A.1: a jump counts when the packet behind it confirms it
        ([1, 2, 2 + DROPOUT], {"expected": 2}),
        ([1, 2, 9000, 3], {"expected": 3}),
        ([1, 2, 9000, 9002, 3], {"expected": 3}),
        ([1, 2, 9000, 9001, 9002], {"expected": 4, "resets": 1}),
        ([30000, 30001, 10, 11], {"expected": 3, "resets": 1}),
        ([30000, 30001, 65535, 0, 1], {"expected": 4, "resets": 1}),
        ([30000, 30001, 0], {"expected": 2}),
        # a sender that starts again from 0 does not look like one that was late
        ([50, 51, *range(10)], {"expected": 2}),
        ([500, 501, *range(10)], {"expected": 11, "resets": 1}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_sequence_numbers_say(sequence: list[int], totals: dict[str, int]) -> None:
    assert Quality().sequence(*sequence).totals == totals


def test_another_ssrc_takes_over_when_it_stays() -> None:
    """A few packets of others (RFC 4588, RFC 5109) change nothing."""
    quality = Quality().sequence(1, 2)
    for seq in range(3, 200):
        quality.sequence(*range(7 * seq, 7 * seq + TAKEOVER - 1), ssrc=2).sequence(seq)
    assert quality.totals == {"expected": 199}
    quality.sequence(*range(500, 500 + TAKEOVER + 9), ssrc=2)
    assert (quality.c.ssrc, quality.totals) == (2, {"expected": 199 + 10})
    quality.sequence(513, ssrc=2)
    assert quality.totals == {"expected": 199 + 10}, "which has come already, and the totals go on"


def test_a_pause_is_no_loss() -> None:
    quality = Quality().sequence(1, 2, 4)
    lib.rtp_quality_pause(quality.c)
    assert quality.totals == {"expected": 4, "lost": 1, "skips": 1}
    lib.rtp_quality_pause(quality.c)
    quality.sequence(50, 51, 3)
    assert quality.totals == {"expected": 6, "lost": 1, "skips": 1}


@dataclass
class Model:
    """RFC 3550 A.1 and A.3 with sets of extended sequence numbers; one SSRC."""

    seen: set[int] = field(default_factory=set)
    first: int | None = None
    highest: int = 0
    bad: int | None = None
    before: int = 0
    lost_before: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES[2:], 0))

    def _begin(self, seq: int) -> None:
        self.before, self.lost_before = self.expected, self.lost
        self.seen, self.first, self.highest, self.bad = {seq}, seq, seq, None

    @property
    def expected(self) -> int:
        return self.before + (0 if self.first is None else self.highest - self.first + 1)

    @property
    def lost(self) -> int:
        if self.first is None:
            return 0
        return self.lost_before + sum(n not in self.seen for n in range(self.first, self.highest + 1))

    def take(self, seq: int) -> None:
        if self.first is None:
            self._begin(seq)
            return
        ahead = (seq - self.highest) % 65536
        if 0 < ahead < DROPOUT:
            self.counts["skips"] += ahead > 1
            self.highest += ahead
            self.seen.add(self.highest)
        elif (behind := -ahead % 65536) <= MISORDER:
            number = self.highest - behind
            if number >= self.first:
                self.counts["duplicates" if number in self.seen else "reordered"] += 1
                self.seen.add(number)
        elif seq == self.bad:
            self.counts["resets"] += 1
            self._begin(seq)
        else:
            self.bad = (seq + 1) % 65536

    @property
    def totals(self) -> dict[str, int]:
        values = {"expected": self.expected, "lost": self.lost, **self.counts}
        return {name: value for name, value in values.items() if value}


# Steps from one sequence number to the next, most of them those that have rules of their own.
STEPS = st.one_of(
    st.just(1),
    st.integers(-4, 4),
    st.sampled_from([n + d for n in (DROPOUT, -MISORDER, 0, 32768, -32768) for d in (-1, 0, 1)]),
    st.integers(-65536, 65536),
)


@given(st.integers(0, 65535), st.lists(STEPS, max_size=300))
def test_the_model_says_the_same(first: int, steps: list[int]) -> None:
    quality, model, seq = Quality(), Model(), first
    for step in [0, *steps]:
        seq = (seq + step) % 65536
        quality.count(packet(seq))
        model.take(seq)
        assert quality.totals == model.totals


# Clocks


STATIC = {
    8000: [*range(6), 7, 8, 9, 12, 13, 15, 18],
    16000: [6],
    44100: [10, 11],
    90000: [14, 25, 26, 28, 31, 32, 33, 34],
    11025: [16],
    22050: [17],
    0: [19, 20, 24, 35, 63, 96, 111, 127],
}


@pytest.mark.parametrize(("rate", "types"), STATIC.items())
def test_static_payload_types(rate: int, types: list[int]) -> None:
    assert {lib.rtp_static_clock(payload_type) for payload_type in types} == {rate}


def ticks(payload_type: int, *clocks: tuple[int, int]) -> int:
    return int(lib.rtp_ticks(words(clocks), payload_type))


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 90000, 96000, 192000])
def test_ticks_are_a_rate(rate: int) -> None:
    exact = Fraction(rate << 32, 1_000_000_000)
    assert abs(ticks(96, (96, rate)) - exact) <= 2


@pytest.mark.parametrize(
    ("payload_type", "clocks", "rate"),
    [
        (0, [], 8000),
        (97, [], 0),
        (97, [(97, 48000)], 48000),
        (97, [(98, 16000), (97, 48000), (97, 8000)], 48000),
        (97, [(98, 16000)], 0),
        (97, [(OTHER_TYPES, 90000)], 90000),
        (97, [(OTHER_TYPES, 90000), (97, 8000)], 8000),
        # others are dynamic ones
        (8, [(OTHER_TYPES, 90000)], 8000),
        (8, [(8, 16000)], 16000),
        (97, [(97, 200_000)], 200_000),
        (97, [(97, 200_001)], 0),
        (97, [(97, (1 << 24) - 1)], 0),
        (97, [(98, 1)] * (MAX_CLOCKS - 1) + [(97, 8000)], 8000),
    ],
)
def test_which_clock(payload_type: int, clocks: list[tuple[int, int]], rate: int) -> None:
    assert abs(ticks(payload_type, *clocks) - rate * 2**32 / 1e9) <= 2


def formats(*clocks: tuple[int, int]) -> tuple[Format, ...]:
    return tuple(Format(payload_type, "X", rate) for payload_type, rate in clocks)


def test_only_clock_rates_that_need_it_are_told() -> None:
    told = clock_words(formats((96, 8000), (96, 16000), (0, 8000), (8, 16000), (200, 8000), (97, 0), (98, 1 << 24)))
    assert told == tuple(words([(96, 8000), (8, 16000)]))


def test_where_there_are_many_the_usual_one_is_that_of_all_others() -> None:
    video = [(number, 90000) for number in range(96, 128) if number != 111]
    told = ffi.new("uint32_t[]", clock_words(formats((111, 48000), *video, (9, 16000))))
    rates = {number: lib.rtp_ticks(told, number) for number in range(128)}
    assert {number for number, rate in rates.items() if rate == ticks(96, (96, 90000))} >= {n for n, _ in video}
    assert (rates[111], rates[9], rates[0]) == (ticks(96, (96, 48000)), ticks(96, (96, 16000)), ticks(0))


# Jitter: RFC 3550 A.8 is an integer version of 6.4.1's formula, which the model uses as it stands.


def jitter(quality: Quality, rate: int = 8000) -> float:
    """In timestamp units."""
    return float(quality.c.jitter / 16)


def model_jitter(times: list[tuple[int, int]], rate: int) -> float:
    """``times``: timestamp and arrival in ns, of each packet in turn."""
    value = 0.0
    for (stamp, came), (next_stamp, next_came) in zip(times, times[1:], strict=False):
        if next_stamp != stamp:
            by = abs((next_came - came) * rate / 1e9 - (next_stamp - stamp))
            value += (by - value) / 16
    return value


@pytest.mark.parametrize("rate", [8000, 16000, 48000, 90000])
def test_a_steady_stream_has_no_jitter(rate: int) -> None:
    quality, start = Quality((96, rate)), 2**61
    for n in range(1000):
        quality.count(packet(n, n * rate // 50, payload_type=96), start + n * 20 * MS)
    assert jitter(quality) <= 1.5, "but for rounding"


@given(
    st.sampled_from([8000, 16000, 48000, 90000]),
    st.lists(st.integers(0, 200 * MS), min_size=1, max_size=200),
    st.integers(0, 2**40),
    st.integers(0, 2**32 - 1),
)
def test_jitter_is_that_of_the_formula(rate: int, delays: list[int], start: int, stamp: int) -> None:
    quality, step = Quality((96, rate)), rate // 50
    times = [(n * step, n * 20 * MS + delay) for n, delay in enumerate(delays)]
    for n, (at, came) in enumerate(times):
        quality.count(packet(n, stamp + at, payload_type=96), start + came)
    expected = model_jitter(times, rate)
    assert abs(jitter(quality) - expected) <= 2 + expected / 1000


def test_packets_with_one_timestamp_are_one() -> None:
    """A picture in five packets, or an event (RFC 4733 2.2.1): the first says when it was sent."""
    quality = Quality((96, 90000))
    for frame in range(200):
        for part in range(5):
            quality.count(packet(5 * frame + part, 3600 * frame, payload_type=96), 40 * MS * frame + 5 * MS * part)
    assert jitter(quality) <= 1.5


def test_a_leap_is_no_jitter() -> None:
    quality = Quality()
    for n in range(100):
        quality.count(packet(n, 160 * n), 20 * MS * n)
    before = jitter(quality)
    for n in range(100, 200):
        quality.count(packet(n, 160 * n + 2**31), 20 * MS * n + 5000 * MS)
    assert jitter(quality) <= before + 1


def test_a_payload_type_with_another_clock_starts_anew() -> None:
    quality = Quality((96, 48000), (97, 48000))
    for n in range(50):
        quality.count(packet(n, 960 * n, payload_type=96), (20 + n % 2) * MS * n)
    assert jitter(quality) > 48
    before = jitter(quality)
    quality.count(packet(50, 960 * 50, payload_type=97), 20 * MS * 50)
    assert jitter(quality) > before / 2
    quality.count(packet(51, 0, payload_type=8), 20 * MS * 51)
    assert jitter(quality) == 0
    quality.count(packet(52, 160, payload_type=8), 20 * MS * 52)
    assert jitter(quality) <= 1


def test_without_a_clock_there_is_no_jitter() -> None:
    quality = Quality()
    for n in range(50):
        quality.count(packet(n, 160 * n * (n % 3), payload_type=96), 20 * MS * n)
    assert (jitter(quality), quality.totals) == (0, {"expected": 50})


def test_what_does_not_count_does_not_time_either() -> None:
    """Repeated packets, and those of another SSRC."""
    quality = Quality()
    for n in range(50):
        quality.count(packet(n, 160 * n), 20 * MS * n)
        quality.count(packet(n, 160 * n), 20 * MS * n + 9 * MS)
        quality.count(packet(n, 160 * n, ssrc=2), 20 * MS * n + 15 * MS)
    assert jitter(quality) <= 1.5
