"""What streams must not forget when another process takes their place: learned sources, counters, SRTP indices."""

from __future__ import annotations

from typing import NamedTuple

from rtpengine.media import Endpoint, KernelQuality, SrtpKeys


class KernelMemory(NamedTuple):
    """How much of what the kernel has forwarded for a stream is in its counters already."""

    packets: int = 0
    bytes: int = 0
    drops: dict[str, int] = {}
    quality: KernelQuality = KernelQuality()


class StreamMemory(NamedTuple):
    """What one socket has learned of its party, and counted.

    It listens to ``source``, known by ``rank`` of learn.h; ``validated`` are those proven, the latest first.
    ``ssrc`` and ``seq`` are of its last packet if ``identified``. ``heard``: anything was accepted at all.
    ``kernel`` is None unless the kernel forwards its RTP.
    """

    source: Endpoint | None = None
    rank: int = 0
    confirmed: bool = False
    nominated: bool = False
    identified: bool = False
    heard: bool = False
    ssrc: int = 0
    seq: int = 0
    validated: tuple[Endpoint, ...] = ()
    payload_type: int | None = None
    packets: int = 0
    bytes: int = 0
    errors: int = 0
    drops: dict[str, int] = {}
    kernel: KernelMemory | None = None


class SourceMemory(NamedTuple):
    """How far one SSRC has come: one above its highest index, and which of the 128 below have passed (rtp.h)."""

    ssrc: int
    rtp_next: int = 0
    rtp_seen: int = 0
    rtcp_next: int = 0
    rtcp_seen: int = 0


class SrtpMemory(NamedTuple):
    """What one SRTP context has been used for: the party's packets, or if ``sending`` ours.

    ``rtcp_next`` is the index of the next SRTCP packet. ``own_rtcp``: some were ours, not passed on.
    ``retired`` is the filter of SSRCs that made room for others (srtp_common.h), empty where there were none.
    """

    keys: SrtpKeys
    sending: bool = False
    own_rtcp: bool = False
    rtcp_next: int = 0
    sources: tuple[SourceMemory, ...] = ()
    retired: bytes = b""
