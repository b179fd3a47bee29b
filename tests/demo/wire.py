"""RTP and RTCP packets as a phone with one microphone sends them (RFC 3550)."""

from __future__ import annotations

import struct
from typing import NamedTuple

_RTP_HEADER = struct.Struct("!BBHII")
_VERSION = 2 << 6
_RTCP_SENDER_REPORT = 200
_RTCP_SOURCE_DESCRIPTION = 202
_SDES_CNAME = 1
_NTP_EPOCH_OFFSET_S = 2_208_988_800  # from 1900 to 1970


class RtpPacket(NamedTuple):
    """An RTP packet without CSRCs, extension or padding; ``marker`` begins a talkspurt (RFC 3551 4.1)."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False

    def serialize(self) -> bytes:
        """The datagram (RFC 3550 5.1)."""
        second = self.marker << 7 | self.payload_type
        return _RTP_HEADER.pack(_VERSION, second, self.sequence, self.timestamp, self.ssrc) + self.payload


def parse_rtp(data: bytes) -> RtpPacket | None:
    """Read a datagram; None unless it has the plain twelve-byte header that our phones send."""
    if len(data) < _RTP_HEADER.size:
        return None
    first, second, sequence, timestamp, ssrc = _RTP_HEADER.unpack_from(data)
    if first != _VERSION:
        return None
    return RtpPacket(second & 0x7F, sequence, timestamp, ssrc, data[_RTP_HEADER.size :], bool(second >> 7))


def sender_report(ssrc: int, time_s: float, timestamp: int, packets: int, octets: int, cname: str) -> bytes:
    """A compound of sender report and CNAME (RFC 3550 6.4.1, 6.5.1); ``time_s`` is UNIX time."""
    ntp = int((time_s + _NTP_EPOCH_OFFSET_S) * 2**32) % 2**64
    report = struct.pack("!IQIII", ssrc, ntp, timestamp, packets, octets)
    item = struct.pack("!IBB", ssrc, _SDES_CNAME, len(cname)) + cname.encode() + b"\0"
    item += bytes(-len(item) % 4)
    return _rtcp(_RTCP_SENDER_REPORT, 0, report) + _rtcp(_RTCP_SOURCE_DESCRIPTION, 1, item)


def _rtcp(packet_type: int, count: int, body: bytes) -> bytes:
    return struct.pack("!BBH", _VERSION | count, packet_type, len(body) // 4) + body
