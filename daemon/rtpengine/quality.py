"""How good a stream sounds, and what is remembered of that while its call lasts. Pure: readings and times go in.

The E-model is that of ITU-T G.107 with its default values, reduced to what a relay can know: loss and delay.

    R = 93.2 - Id - Ie,eff

93.2 is R with all of G.107's defaults (its table 2). ``Id`` is impairment by one-way delay, in the form that Cole and
Rosenbluth have fitted to G.107 (Voice over IP performance monitoring, ACM CCR 31/2, 2001): with d in ms
0.024 d, and 0.11 (d - 177.3) more beyond 177.3. ``Ie,eff`` is impairment by the codec and by random loss of Ppl percent
(G.107 7.3, BurstR = 1): Ie + (95 - Ie) Ppl / (Ppl + Bpl), with Ie and Bpl of ITU-T G.113, appendix I. MOS follows from
R by G.107 annex B. RFC 3611 4.7.5 reports the same two figures, as R factor and MOS-CQ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from rtpengine.media import Quality

INTERVAL_S = 5.0
"""What one sample is about."""
SAMPLES = 120
"""So many are remembered of each stream."""

FRAME_MS = 20.0
"""What a sender collects before it sends: the usual length of a packet."""


class Codec(NamedTuple):
    """Ie, and Bpl, which is how well a codec conceals loss (G.113, tables I.2 and I.4)."""

    impairment: float
    robustness: float


# With packet loss concealment, as every phone has it.
G711 = Codec(0, 25.1)
CODECS = {
    "G723": Codec(15, 16.1),
    "G729": Codec(11, 19.0),
    "GSM-EFR": Codec(5, 10.0),
    "AMR": Codec(5, 10.0),
}
"""By the names of RFC 3551 and a=rtpmap. What G.113 does not list is taken for G.711: then MOS tells of the network."""

STATIC_NAMES = {0: "PCMU", 3: "GSM", 4: "G723", 8: "PCMA", 9: "G722", 15: "G728", 18: "G729"}
"""Encodings of static payload types that are speech (RFC 3551 6)."""

# They interrupt a codec, and are none.
NO_CODECS = frozenset(("TELEPHONE-EVENT", "TONE", "CN"))


def delay_ms(rtt_ms: float | None, jitter_ms: float) -> float:
    """The one-way delay from mouth to ear: half the way to and fro, a packet, and a buffer of twice the jitter."""
    return (rtt_ms or 0.0) / 2 + FRAME_MS + 2 * jitter_ms


def r_factor(loss: float, delay: float, codec: Codec = G711) -> float:
    """R of G.107 for a share of lost packets (0 to 1) and a one-way delay in ms."""
    percent = 100 * loss
    by_delay = 0.024 * delay + (0.11 * (delay - 177.3) if delay > 177.3 else 0)
    by_loss = codec.impairment + (95 - codec.impairment) * percent / (percent + codec.robustness)
    return 93.2 - by_delay - by_loss


def mos_of(r: float) -> float:
    """The mean opinion score of conversations (G.107 annex B), 1 to 4.5."""
    if r >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * r + 7e-6 * r * (r - 60) * (100 - r)) if r > 0 else 1.0


class Sample(NamedTuple):
    """One interval of one stream. ``at``: its end, in monotonic seconds.

    ``packets`` were expected, of which the share ``loss`` (0 to 1) is missing. ``mos`` is None where nothing came,
    and for what is no speech.
    """

    at: float
    packets: int
    loss: float
    jitter_ms: float
    mos: float | None


class Far(NamedTuple):
    """What the other end says over RTCP about what it hears, and how long the way is; None: it says nothing."""

    loss: float | None = None
    jitter_ms: float | None = None
    rtt_ms: float | None = None


class Sum:
    """Of samples: how many, their sum and that of their squares."""

    __slots__ = ("count", "squares", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.squares = 0.0

    def add(self, value: float) -> None:
        """Take one more."""
        self.count += 1
        self.total += value
        self.squares += value * value


@dataclass(slots=True)
class Mean:
    """The mean of some samples, 0 without any."""

    value: float = 0.0
    samples: int = 0

    def add(self, value: float) -> None:
        """Take one more."""
        self.samples += 1
        self.value += (value - self.value) / self.samples


class Totals:
    """Of all calls since the start, for the metrics of these names.

    ``sums`` by name: mos, jitter and rtt_e2e (ms, as RTCP says), packetloss (percent), jitter_measured (ms, here).
    """

    def __init__(self) -> None:
        self.packets_lost = 0
        self.rtp_duplicates = 0
        self.rtp_reordered = 0
        self.rtp_skips = 0
        self.rtp_seq_resets = 0
        self.sums = {name: Sum() for name in ("mos", "jitter", "rtt_e2e", "packetloss", "jitter_measured")}

    def follow(self, counted: Quality) -> None:
        """Take the packet path's totals; one that goes back a little, since what was lost came late, stays."""
        self.packets_lost = max(self.packets_lost, counted.lost)
        self.rtp_duplicates = max(self.rtp_duplicates, counted.duplicates)
        self.rtp_reordered = max(self.rtp_reordered, counted.reordered)
        self.rtp_skips = max(self.rtp_skips, counted.skips)
        self.rtp_seq_resets = max(self.rtp_seq_resets, counted.resets)

    def add(self, sample: Sample, far: Far) -> None:
        """Take one sample of a stream."""
        if sample.packets:
            self.sums["packetloss"].add(100 * sample.loss)
            self.sums["jitter_measured"].add(sample.jitter_ms)
        if sample.mos is not None:
            self.sums["mos"].add(sample.mos)
        if far.jitter_ms is not None:
            self.sums["jitter"].add(far.jitter_ms)
        if far.rtt_ms is not None:
            self.sums["rtt_e2e"].add(far.rtt_ms)


# When in 0.1 s, packets, loss in 1/65535, jitter in 0.1 ms, MOS in 0.01
_PACKED = Struct("=IHHHH")
_MOST = 0xFFFF
NOTHING = Sample(0.0, 0, 0.0, 0.0, None)
"""What there is before the first sample."""


class Track:
    """What is remembered of one stream: the last SAMPLES intervals, the best and the worst, and sums.

    ``codec`` is None for what is no speech. ``reports`` of the other party have been taken. ``seconds``: how long the
    last interval was; of the first one that is not known.
    """

    __slots__ = ("_ring", "at", "best", "codec", "counted", "jitter", "mos", "reports", "rtt", "seconds", "worst")

    def __init__(self) -> None:
        self.at = 0.0
        self.seconds = INTERVAL_S
        self.codec: Codec | None = None
        self.counted = Quality()
        self.reports = 0
        self.best: Sample | None = None
        self.worst: Sample | None = None
        self.mos, self.jitter, self.rtt = Mean(), Mean(), Mean()
        self._ring = bytearray()

    def take(self, counted: Quality, far: Far, now: float) -> Sample:
        """What has come since the last time: one more sample. Loss is the worse of what we and the other end see."""
        packets = max(0, counted.expected - self.counted.expected)
        lost = min(packets, max(0, counted.lost - self.counted.lost))
        loss = lost / packets if packets else 0.0
        mos = None
        if packets and self.codec is not None:
            delay = delay_ms(far.rtt_ms, max(counted.jitter_ms, far.jitter_ms or 0.0))
            mos = mos_of(r_factor(max(loss, far.loss or 0.0), delay, self.codec))
        sample = Sample(now, packets, loss, counted.jitter_ms, mos)
        if self.at:
            self.seconds = now - self.at
        self.at, self.counted = now, counted
        self._remember(sample, far)
        return sample

    def _remember(self, sample: Sample, far: Far) -> None:
        at, packets, loss, jitter_ms, mos = sample
        if len(self._ring) == SAMPLES * _PACKED.size:
            del self._ring[: _PACKED.size]
        self._ring += _PACKED.pack(
            round(at * 10) & 0xFFFFFFFF,
            min(_MOST, packets),
            round(loss * _MOST),
            min(_MOST, round(jitter_ms * 10)),
            0 if mos is None else round(mos * 100),
        )
        if not packets:
            return
        self.jitter.add(jitter_ms)
        if far.rtt_ms is not None:
            self.rtt.add(far.rtt_ms)
        if mos is not None:
            self.mos.add(mos)
            if self.best is None or mos > (self.best.mos or 0):
                self.best = sample
            if self.worst is None or mos < (self.worst.mos or 0):
                self.worst = sample

    def samples(self, count: int = SAMPLES) -> Iterator[Sample]:
        """The last ``count`` of those that are remembered, the oldest first; rounded."""
        for at, packets, loss, jitter_ms, mos in _PACKED.iter_unpack(self._ring[-count * _PACKED.size :]):
            yield Sample(at / 10, packets, loss / _MOST, jitter_ms / 10, mos / 100 or None)

    @property
    def latest(self) -> Sample:
        """The last sample, rounded; NOTHING before the first."""
        if not self._ring:
            return NOTHING
        at, packets, loss, jitter_ms, mos = _PACKED.unpack_from(self._ring, len(self._ring) - _PACKED.size)
        return Sample(at / 10, packets, loss / _MOST, jitter_ms / 10, mos / 100 or None)

    @property
    def silent(self) -> bool:
        """Whether nothing came in the last interval."""
        return bool(self._ring) and self.latest.packets == 0


def codec_of(name: str, before: Codec | None = None) -> Codec:
    """The codec of an encoding; of one that only interrupts another, the one ``before``."""
    return before or G711 if name in NO_CODECS else CODECS.get(name, G711)
