"""What became of one stream: packets and samples that were said against those that were heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from speech import FRAME_SAMPLES, Law, Recording

# A packet that is not there this long after it was sent is lost; live figures wait that long before they say so.
PATIENCE_NS = 200_000_000


class Said(NamedTuple):
    """A packet that a phone sent; ``withheld``: the other side is on hold and must not get it."""

    sequence: int
    timestamp: int
    payload: bytes
    sent_ns: int
    withheld: bool = False


class Heard(NamedTuple):
    """A packet that a phone received, with its payload type; ``expected_source``: from the address that SDP named."""

    payload_type: int
    sequence: int
    timestamp: int
    payload: bytes
    received_ns: int
    expected_source: bool = True


@dataclass(frozen=True)
class StreamResult:
    """One direction of one call; ``said`` and ``heard`` are on one time line, with silence where nothing was due."""

    sent: int
    received: int
    lost: int
    withheld: int
    stray: int
    latencies_ms: tuple[float, ...]
    said: Recording
    heard: Recording

    @property
    def latency_ms(self) -> tuple[float, float]:
        """Median and maximum of the time from one phone to the other, in ms; NaN where nothing arrived."""
        if not self.latencies_ms:
            return float("nan"), float("nan")
        return median(self.latencies_ms), max(self.latencies_ms)

    @property
    def wrong_samples(self) -> int:
        """How many of the samples that were said were heard otherwise."""
        return sum(said != heard for said, heard in zip(self.said.octets, self.heard.octets, strict=True))


def measure(law: Law, said: Sequence[Said], heard: Sequence[Heard], now_ns: int | None = None) -> StreamResult:
    """Compare what left one phone with what reached the other.

    Match packets by sequence number; a stream must be shorter than 2^16 packets. With ``now_ns``, a packet
    sent less than PATIENCE_NS before is not yet lost. ``stray`` counts what should not have come at all:
    duplicates, packets nobody sent, packets from a wrong source, and those that hold should have withheld.
    """
    due = {packet.sequence: packet for packet in said if not packet.withheld}
    arrived: dict[int, Heard] = {}
    for packet in heard:
        if packet.sequence in due and packet.expected_source and packet.payload_type == law.payload_type:
            arrived.setdefault(packet.sequence, packet)
    missing = [packet for sequence, packet in due.items() if sequence not in arrived]
    if now_ns is not None:
        missing = [packet for packet in missing if now_ns - packet.sent_ns > PATIENCE_NS]
    return StreamResult(
        sent=len(due),
        received=len(arrived),
        lost=len(missing),
        withheld=len(said) - len(due),
        stray=len(heard) - len(arrived),
        latencies_ms=tuple((arrived[s].received_ns - due[s].sent_ns) / 1e6 for s in arrived),
        said=_time_line(law, said, list(due.values())),
        heard=_time_line(law, said, list(arrived.values())),
    )


def _time_line(law: Law, said: Sequence[Said], packets: Sequence[Said | Heard]) -> Recording:
    """Place payloads by RTP timestamp on the time line that ``said`` spans, silence elsewhere."""
    if not said:
        return Recording(law, b"")
    start = said[0].timestamp
    slots = [law.silent_frame] * ((said[-1].timestamp - start) % 2**32 // FRAME_SAMPLES + 1)
    for packet in packets:
        slot = (packet.timestamp - start) % 2**32 // FRAME_SAMPLES
        if slot < len(slots):
            slots[slot] = packet.payload[:FRAME_SAMPLES].ljust(FRAME_SAMPLES, bytes([law.silence]))
    return Recording(law, b"".join(slots))
