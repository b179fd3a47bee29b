"""rtp.h and rtcp.c through cffi: demultiplexing, header checks, removal of feedback."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rtpengine._packetpath import ffi, lib


def rtcp(packet_type: int, words: int = 1, version: int = 2, length: int | None = None) -> bytes:
    """One RTCP packet with ``words`` 32-bit words behind its header; ``length`` overrides its length field."""
    field = words if length is None else length
    return bytes([version << 6, packet_type, field >> 8, field & 255]) + bytes([packet_type]) * (4 * words)


SR, RR = rtcp(200, words=6), rtcp(201, words=1)
SDES, BYE, APP = (rtcp(packet_type, words=2) for packet_type in range(202, 205))
RTPFB, PSFB, XR, UNKNOWN = rtcp(205, 3), rtcp(206, 2), rtcp(207), rtcp(211)


def strip(data: bytes) -> bytes:
    buffer = ffi.new("uint8_t[]", data)
    length = lib.rtcp_strip_feedback(buffer, len(data))
    return bytes(buffer)[:length]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SR + SDES, SR + SDES),
        (SR + RTPFB, SR),
        (RTPFB + SR, SR),
        (SR + PSFB + SDES + RTPFB + BYE, SR + SDES + BYE),
        (RR + XR + PSFB + UNKNOWN, RR + XR + UNKNOWN),
        (APP + PSFB, APP),
        (RTPFB, b""),
        (PSFB + RTPFB, b""),
        (SR + PSFB + b"\1\2\3", SR + b"\1\2\3"),
        (PSFB + b"\1\2\3", b""),
        # left whole: version, length past the end
        (SR + PSFB + rtcp(200, version=1), SR + PSFB + rtcp(200, version=1)),
        (SR + rtcp(205, words=2, length=3), SR + rtcp(205, words=2, length=3)),
        (rtcp(206, words=1, length=65535), rtcp(206, words=1, length=65535)),
        # ... or fewer report blocks than a report claims
        *[(whole, whole) for whole in (b"\x81" + SR[1:] + PSFB, b"\x9f" + RR[1:] + PSFB, rtcp(200, 5) + PSFB)],
        (b"\x81" + rtcp(200, 12)[1:] + PSFB, b"\x81" + rtcp(200, 12)[1:]),
        (b"", b""),
        (b"\x81\xce\0", b"\x81\xce\0"),
    ],
)
def test_strip_feedback(data: bytes, expected: bytes) -> None:
    assert strip(data) == expected


# Any type, with at least the words that a report without blocks has.
parts = st.integers(192, 223).flatmap(
    lambda kind: st.tuples(st.just(kind), st.integers({200: 6, 201: 1}.get(kind, 0), 8))
)


@given(st.lists(parts, max_size=12), st.binary(max_size=3))
def test_strip_keeps_all_but_feedback(parts: list[tuple[int, int]], tail: bytes) -> None:
    kept = b"".join(rtcp(*part) for part in parts if part[0] not in (205, 206))
    assert strip(b"".join(rtcp(*part) for part in parts) + tail) == (kept + tail if kept or not parts else b"")


@given(st.binary(max_size=200))
def test_strip_never_grows_a_packet(data: bytes) -> None:
    assert len(strip(data)) <= len(data)


DEMUX = [
    (0, 3, lib.RTP_DEMUX_STUN),
    (4, 15, lib.RTP_DEMUX_UNKNOWN),
    (16, 19, lib.RTP_DEMUX_ZRTP),
    (20, 63, lib.RTP_DEMUX_DTLS),
    (64, 79, lib.RTP_DEMUX_TURN),
    (80, 127, lib.RTP_DEMUX_UNKNOWN),
    (128, 191, lib.RTP_DEMUX_RTP),
    (192, 255, lib.RTP_DEMUX_UNKNOWN),
]


@pytest.mark.parametrize(("first", "last", "expected"), DEMUX)
def test_demux_of_rfc_7983(first: int, last: int, expected: int) -> None:
    assert {lib.rtp_demux(byte) for byte in range(first, last + 1)} == {expected}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes([128, 192]) + bytes(6), True),
        (bytes([128, 223]) + bytes(6), True),
        (bytes([191, 200]) + bytes(6), True),
        (bytes([128, 191]) + bytes(6), False),
        (bytes([128, 224]) + bytes(6), False),
        (bytes([64, 200]) + bytes(6), False),
        (bytes([128, 200]) + bytes(5), False),
        (b"", False),
    ],
)
def test_rtcp_is_told_from_rtp(data: bytes, expected: bool) -> None:
    assert bool(lib.rtcp_plausible(data, len(data))) is expected


def rtp(first: int = 128, rest: bytes = b"") -> bytes:
    return bytes([first, 0]) + bytes(10) + rest


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (rtp(), 12),
        (rtp(rest=bytes(160)), 12),
        (rtp()[:11], 0),
        (rtp(128 | 2, bytes(8)), 20),
        (rtp(128 | 2, bytes(7)), 0),
        (rtp(128 | 16, bytes([0xBE, 0xDE, 0, 1]) + bytes(4)), 20),
        (rtp(128 | 16, bytes([0xBE, 0xDE, 0, 2]) + bytes(4)), 0),
        (rtp(128 | 16, bytes([0xBE, 0xDE, 0])), 0),
        (rtp(128 | 16 | 1, bytes(4) + bytes([0xBE, 0xDE, 0, 0])), 20),
        (rtp(64), 0),
        (bytes([128, 200]) + bytes(10), 0),
        (bytes([128, 224]) + bytes(10), 12),
    ],
)
def test_rtp_header(data: bytes, expected: int) -> None:
    assert lib.rtp_header_len(data, len(data)) == expected
