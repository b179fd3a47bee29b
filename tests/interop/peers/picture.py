"""Pictures out of VP8 in RTP, decoded by libvpx."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from aiortc.codecs.vpx import VpxPayloadDescriptor
from av import CodecContext, Packet, VideoFrame

from peers.plain import payload


def pictures(packets: Iterable[bytes]) -> list[VideoFrame]:
    """Decode the pictures of a stream that begins with a key frame and has lost nothing; av's error otherwise."""
    decoder = CodecContext.create("libvpx", "r")
    shown: list[VideoFrame] = []
    for _, parts in groupby(packets, key=lambda packet: packet[4:8]):
        data = b"".join(VpxPayloadDescriptor.parse(payload(part))[1] for part in parts)
        if data:
            shown += decoder.decode(Packet(data))
    return shown
