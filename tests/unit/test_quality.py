"""The E-model against published figures, and what is remembered of a stream."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rtpengine.media import Quality
from rtpengine.quality import (
    CODECS,
    G711,
    SAMPLES,
    Far,
    Mean,
    Sample,
    Sum,
    Totals,
    Track,
    codec_of,
    delay_ms,
    mos_of,
    r_factor,
)


# ITU-T G.107 annex B, table B.1
@pytest.mark.parametrize(("r", "mos"), [(90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58)])
def test_mos_is_that_of_the_table(r: float, mos: float) -> None:
    assert mos_of(r) == pytest.approx(mos, abs=0.007)


@pytest.mark.parametrize(("r", "mos"), [(-20, 1), (0, 1), (3, 1), (100, 4.5), (120, 4.5)])
def test_mos_has_ends(r: float, mos: float) -> None:
    assert mos_of(r) == mos


def test_mos_never_falls_as_r_rises() -> None:
    values = [mos_of(r / 10) for r in range(-100, 1100)]
    assert all(a <= b for a, b in pairwise(values))


@pytest.mark.parametrize(
    ("loss", "delay", "codec", "r"),
    [
        (0, 0, G711, 93.2),  # G.107's default
        # Cole and Rosenbluth's Id
        (0, 100, G711, 93.2 - 2.4),
        (0, 177.3, G711, 93.2 - 4.2552),
        (0, 277.3, G711, 93.2 - 6.6552 - 11),
        # G.107 7.3, and G.113's values
        (0.251 / 1, 0, G711, 93.2 - 47.5),
        (0.05, 0, G711, 93.2 - 95 * 5 / 30.1),
        (0, 0, CODECS["G729"], 93.2 - 11),
        (0.02, 0, CODECS["G729"], 93.2 - 11 - 84 * 2 / 21),
        (1, 0, G711, 93.2 - 95 * 100 / 125.1),
    ],
)
def test_r(loss: float, delay: float, codec: object, r: float) -> None:
    assert r_factor(loss, delay, codec) == pytest.approx(r)  # type: ignore[arg-type]


def test_delay() -> None:
    assert delay_ms(None, 0) == 20
    assert delay_ms(100, 15) == 50 + 20 + 30


@pytest.mark.parametrize(
    ("name", "before", "codec"),
    [
        ("PCMU", None, G711),
        ("G729", G711, CODECS["G729"]),
        ("OPUS", None, G711),
        ("", CODECS["AMR"], G711),
        ("TELEPHONE-EVENT", CODECS["AMR"], CODECS["AMR"]),
        ("CN", None, G711),
    ],
)
def test_codecs(name: str, before: object, codec: object) -> None:
    assert codec_of(name, before) is codec  # type: ignore[arg-type]


def track() -> Track:
    made = Track()
    made.codec = G711
    return made


def test_a_sample_is_what_has_come_since() -> None:
    made = track()
    first = made.take(Quality(expected=250, lost=0, jitter_ms=1.0), Far(), 5.0)
    assert (first.packets, first.loss, first.jitter_ms) == (250, 0, 1.0)
    assert first.mos == pytest.approx(mos_of(r_factor(0, 22)))
    second = made.take(Quality(expected=450, lost=50, jitter_ms=3.0), Far(), 10.0)
    assert (second.packets, second.loss) == (200, 0.25)
    assert second.mos == pytest.approx(mos_of(r_factor(0.25, 26)))
    assert (made.worst, made.best) == (second, first)
    assert made.mos == Mean(pytest.approx((first.mos + second.mos) / 2), 2)  # type: ignore[operator]
    assert made.jitter.value == pytest.approx(2.0)


def test_what_came_late_is_not_lost_twice() -> None:
    """Between two samples fewer can be lost than were thought."""
    made = track()
    made.take(Quality(expected=250, lost=10), Far(), 5.0)
    assert made.take(Quality(expected=500, lost=8), Far(), 10.0).loss == 0


def test_the_other_end_may_hear_worse() -> None:
    made = track()
    sample = made.take(Quality(expected=250, jitter_ms=1.0), Far(0.1, 7.0, 80.0), 5.0)
    assert (sample.loss, sample.jitter_ms) == (0, 1.0), "which is what we have seen"
    assert sample.mos == pytest.approx(mos_of(r_factor(0.1, 40 + 20 + 14)))
    assert made.rtt == Mean(80.0, 1)
    better = made.take(Quality(expected=350, lost=50, jitter_ms=9.0), Far(0.1, 7.0, None), 10.0)
    assert better.mos == pytest.approx(mos_of(r_factor(0.5, 38)))


def test_silence_has_no_mos() -> None:
    made = track()
    assert not made.silent
    made.take(Quality(expected=250), Far(), 5.0)
    assert not made.silent
    assert made.take(Quality(expected=250, jitter_ms=1.0), Far(0.1, 1.0, 80.0), 10.0) == Sample(10.0, 0, 0, 1.0, None)
    assert (made.silent, made.mos.samples, made.rtt.samples) == (True, 1, 0)


def test_pictures_have_no_mos() -> None:
    made = Track()
    assert made.take(Quality(expected=250, lost=25), Far(), 5.0) == Sample(5.0, 250, 0.1, 0, None)
    assert (made.best, made.worst, made.mos) == (None, None, Mean())


def test_the_last_samples_are_remembered() -> None:
    made = track()
    assert list(made.samples()) == []
    taken = []
    for n in range(1, SAMPLES + 20):
        counted = Quality(expected=250 * n, lost=n * n % 100 if n % 7 else 0, jitter_ms=n / 3)
        taken.append(made.take(counted, Far(), 1_000_000 + 5.0 * n))
    kept = list(made.samples())
    assert len(kept) == SAMPLES
    for sample, original in zip(kept, taken[-SAMPLES:], strict=True):
        assert sample == pytest.approx(original, abs=0.06)


def test_what_does_not_fit_is_cut() -> None:
    made = track()
    made.take(Quality(expected=1_000_000, jitter_ms=1e9), Far(), 5.0)
    (sample,) = made.samples()
    assert (sample.packets, sample.jitter_ms, sample.mos) == (65535, 6553.5, 1)


def test_totals_never_go_back() -> None:
    totals = Totals()
    totals.follow(Quality(lost=9, duplicates=1, reordered=2, skips=3, resets=4))
    totals.follow(Quality(lost=7, duplicates=2, reordered=3, skips=4, resets=5))
    found = (totals.packets_lost, totals.rtp_duplicates, totals.rtp_reordered, totals.rtp_skips, totals.rtp_seq_resets)
    assert found == (9, 2, 3, 4, 5)


def test_sums_of_samples() -> None:
    totals = Totals()
    totals.add(Sample(5.0, 100, 0.5, 3.0, 4.0), Far(0.5, 7.0, 50.0))
    totals.add(Sample(10.0, 100, 0.1, 4.0, 3.0), Far())
    totals.add(Sample(15.0, 0, 0.0, 4.0, None), Far())
    assert {name: (sum_.total, sum_.squares, sum_.count) for name, sum_ in totals.sums.items()} == {
        "mos": (7.0, 25.0, 2),
        "jitter": (7.0, 49.0, 1),
        "rtt_e2e": (50.0, 2500.0, 1),
        "packetloss": (60.0, 2600.0, 2),
        "jitter_measured": (7.0, 25.0, 2),
    }


def test_a_sum_begins_empty() -> None:
    assert (Sum().count, Sum().total, Sum().squares) == (0, 0.0, 0.0)
