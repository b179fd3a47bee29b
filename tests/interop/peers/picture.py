"""Pictures out of VP8 in RTP, decoded by libvpx."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import dropwhile, groupby

from aiortc.codecs.vpx import VpxPayloadDescriptor
from av import CodecContext, Packet, VideoFrame

from peers.plain import payload

_MARKER = 0x80
_START_CODE = b"\x9d\x01\x2a"


def pictures(packets: Iterable[bytes]) -> list[VideoFrame]:
    """Decode a stream from its first whole key frame on; av's error if something has been lost since."""
    decoder = CodecContext.create("libvpx", "r")
    frames = dropwhile(lambda frame: not _is_key_frame(frame), _frames(packets))
    return [shown for frame in frames for shown in decoder.decode(Packet(frame))]


def _frames(packets: Iterable[bytes]) -> Iterator[bytes]:
    """What the packets with one time stamp carry together (RFC 7741 4.1), up to the last that has ended."""
    for _, group in groupby(packets, key=lambda packet: packet[4:8]):
        parts = list(group)
        if parts[-1][1] & _MARKER:
            yield b"".join(VpxPayloadDescriptor.parse(payload(part))[1] for part in parts)


def _is_key_frame(frame: bytes) -> bool:
    """Whether it begins as a key frame does (RFC 6386 9.1)."""
    return len(frame) > 6 and not frame[0] & 1 and frame[3:6] == _START_CODE
