"""Reports of the parties over RTCP: what is read of them, round trips, and what is no RTCP; alone and in relays."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_parties import Party, Relay, eventually, rtp
from rtpengine._packetpath import ffi, lib
from scapy.layers.rtp import RTP
from secure_parties import SecureParty, keys

from rtpengine.media import Reports
from rtpengine.packetpath import PacketPath

S = 1_000_000_000
NTP = 0x12345678


def block(ssrc: int, fraction: int = 0, lost: int = 0, jitter: int = 0, lsr: int = 0, dlsr: int = 0) -> bytes:
    return struct.pack("!IIIIII", ssrc, fraction << 24 | lost & 0xFFFFFF, 1000, jitter, lsr, dlsr)


def report(kind: int, ssrc: int, *blocks: bytes, ntp: int = 0) -> bytes:
    """A sender (200) or receiver report (201); ``ntp`` is the middle of the timestamp."""
    figures = struct.pack("!QIII", ntp << 16, 0, 10, 1720) if kind == 200 else b""
    body = struct.pack("!I", ssrc) + figures + b"".join(blocks)
    return struct.pack("!BBH", 0x80 | len(blocks), kind, len(body) // 4) + body


def sr(ssrc: int, *blocks: bytes, ntp: int = NTP) -> bytes:
    return report(200, ssrc, *blocks, ntp=ntp)


def rr(ssrc: int, *blocks: bytes) -> bytes:
    return report(201, ssrc, *blocks)


SDES = b"\x81\xca\x00\x02" + bytes(8)


class Pair:
    """What is known of two parties, A and B, whose RTCP passes."""

    def __init__(self) -> None:
        self.a, self.b = ffi.new("struct reports *"), ffi.new("struct reports *")

    def from_a(self, data: bytes, at: float = 0.0, ssrc: int = 0) -> None:
        lib.reports_read(self.a, self.b, data, len(data), ssrc, round(at * S))

    def from_b(self, data: bytes, at: float = 0.0, ssrc: int = 0) -> None:
        lib.reports_read(self.b, self.a, data, len(data), ssrc, round(at * S))


def said(of: Any) -> tuple[int, int, int, int, int]:
    return of.count, of.ssrc, of.fraction, of.lost, of.jitter


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (rr(1, block(7, 64, 1000, 80)), (1, 7, 64, 1000, 80)),
        (sr(1, block(7, 255, -3, 80)), (1, 7, 255, -3, 80)),
        (rr(1, block(7, 0, 0x7FFFFF)), (1, 7, 0, 0x7FFFFF, 0)),
        (rr(1, block(7, 0, -0x800000)), (1, 7, 0, -0x800000, 0)),
        (sr(1) + SDES, (0, 0, 0, 0, 0)),
        (rr(1), (0, 0, 0, 0, 0)),
        (SDES + rr(1, block(7, 1)), (1, 7, 1, 0, 0)),
        # RFC 3611, feedback and unknown types are passed over
        (rr(1, block(7, 1)) + b"\x80\xcf\x00\x01" + bytes(4) + b"\x81\xce\x00\x02" + bytes(8), (1, 7, 1, 0, 0)),
    ],
)
def test_what_is_read(data: bytes, expected: tuple[int, ...]) -> None:
    pair = Pair()
    pair.from_a(data)
    assert said(pair.a) == expected
    assert (pair.a.malformed, pair.a.round_trips, said(pair.b)) == (0, 0, (0, 0, 0, 0, 0))


def test_the_last_report_counts() -> None:
    pair = Pair()
    pair.from_a(rr(1, block(7, 10, 100)))
    pair.from_a(rr(1, block(7, 20, 90, 5)))
    assert said(pair.a) == (2, 7, 20, 90, 5)


BLOCKS = [block(number, fraction=number) for number in (7, 8, 9)]


@pytest.mark.parametrize(("ssrc", "told"), [(0, 7), (8, 8), (9, 9), (10, 7)])
def test_whom_it_is_about(ssrc: int, told: int) -> None:
    pair = Pair()
    pair.from_a(rr(1, *BLOCKS), ssrc=ssrc)
    assert said(pair.a) == (1, told, told, 0, 0)


def test_without_rtp_the_sender_report_says_whose_packets_a_party_gets() -> None:
    pair = Pair()
    pair.from_b(sr(9))
    pair.from_a(rr(1, *BLOCKS))
    assert pair.a.ssrc == 9


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\xc9\x00\x02" + bytes(4),
        b"\x81\xc9\x00\x01" + bytes(4),
        b"\x80\xc8\x00\x05" + bytes(20),
        b"\x9f\xc9\x00\x07" + bytes(28),
        b"\x40\xc9\x00\x01" + bytes(4),
        rr(1, block(7)) + b"\x81\xc9\x00\x01" + bytes(4),
        rr(1, block(7))[:-4],
    ],
    ids=["empty", "cut", "claims a block", "short sender report", "31 blocks", "version", "in the middle", "end"],
)
def test_what_is_malformed_is_counted_and_not_read(data: bytes) -> None:
    pair = Pair()
    pair.from_a(data)
    assert (said(pair.a), pair.a.malformed) == ((0, 0, 0, 0, 0), int(bool(data)))


def rtt_ms(of: Any) -> float:
    return float(of.rtt) / 65.536


def test_round_trips_on_both_sides() -> None:
    """Each side's is measured by our clock alone: theirs need not agree with it, nor with each other."""
    pair = Pair()
    pair.from_b(sr(9, ntp=NTP), 10.0)
    pair.from_a(sr(1, block(9, lsr=NTP, dlsr=2 * 65536), ntp=5), 12.050)
    assert (round(rtt_ms(pair.a)), pair.a.round_trips) == (50, 1)
    pair.from_b(rr(9, block(1, lsr=5, dlsr=65536 // 2)), 12.050 + 0.5 + 0.2)
    assert (round(rtt_ms(pair.b)), pair.b.round_trips) == (200, 1)


def test_an_older_sender_report_may_be_answered() -> None:
    pair = Pair()
    for number in range(1, 7):
        pair.from_b(sr(9, ntp=number), 5.0 * number)
    pair.from_a(rr(1, block(9, lsr=3, dlsr=65536 * 16)), 31.1)
    assert (round(rtt_ms(pair.a)), pair.a.round_trips) == (100, 1)
    pair.from_a(rr(1, block(9, lsr=2, dlsr=0)), 31.2)
    assert pair.a.round_trips == 1, "which is forgotten"


@pytest.mark.parametrize(
    ("lsr", "dlsr", "at"),
    [
        (0, 0, 10.1),
        (NTP + 1, 0, 10.1),
        (NTP, 65536, 10.5),
        (NTP, 0xFFFFFFFF, 10.5),
        (NTP, 0, 25.0),
        (NTP, 0, 9.0),
    ],
    ids=["none yet", "not ours", "kept longer than it was away", "nonsense", "too long", "before it was sent"],
)
def test_what_is_no_round_trip(lsr: int, dlsr: int, at: float) -> None:
    pair = Pair()
    pair.from_b(sr(9, ntp=NTP), 10.0)
    pair.from_a(rr(1, block(9, lsr=lsr, dlsr=dlsr)), at)
    assert (pair.a.count, pair.a.round_trips, pair.a.rtt) == (1, 0, 0)


def test_clocks_that_run_apart_make_no_negative_way() -> None:
    pair = Pair()
    pair.from_b(sr(9, ntp=NTP), 10.0)
    pair.from_a(rr(1, block(9, lsr=NTP, dlsr=65536 // 2 + 200)), 10.5)
    assert (pair.a.round_trips, pair.a.rtt) == (1, 0)


def test_a_party_that_nobody_hears() -> None:
    alone = ffi.new("struct reports *")
    data = sr(1, block(7, 3))
    lib.reports_read(alone, ffi.NULL, data, len(data), 0, 0)
    assert said(alone) == (1, 7, 3, 0, 0)


@given(st.binary(max_size=200))
def test_anything_may_come(data: bytes) -> None:
    pair = Pair()
    pair.from_a(data, 1.0)
    assert pair.a.malformed + pair.a.count <= 200


# Through relays


def test_reports_of_both_parties(path: PacketPath) -> None:
    with Relay(path).connect({"rtcp_mux": True}, {"rtcp_mux": True}) as relay:
        assert relay.a.state.reports == Reports()
        relay.a.send(rtp(1, ssrc=1))
        relay.b.send(rtp(1, ssrc=9))
        relay.b.send(sr(9, block(1, 128, 5, 160), ntp=NTP))
        eventually(lambda: relay.b.state.reports.reports == 1)
        relay.a.send(rr(1, block(8, 1), block(9, 64, 3, 80, lsr=NTP, dlsr=0)), b"\x81\xc9\x00\x01" + bytes(4))
        eventually(lambda: relay.a.state.reports.malformed == 1)
        of_a, of_b = relay.a.state.reports, relay.b.state.reports
        assert path.heard(relay.a.stream) == (relay.a.state.quality, of_a)
        assert path.heard(relay.b.stream) == (relay.b.state.quality, of_b)
        assert (of_a.fraction_lost, of_a.lost, of_a.jitter, of_a.ssrc) == (0.25, 3, 80, 9), "whose RTP A hears"
        assert (of_b.fraction_lost, of_b.lost, of_b.jitter, of_b.ssrc) == (0.5, 5, 160, 1)
        assert of_b.rtt_ms is None and of_a.rtt_ms is not None and 0 <= of_a.rtt_ms < 5000
        assert relay.a.state.packets == 3, "which has passed all the same"


def test_rtp_is_no_report(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        relay.a.send(bytes(RTP(payload_type=72, sequence=1, sourcesync=5)) + bytes(160))
        relay.a.send(rr(1, block(9, 1)))
        eventually(lambda: relay.a.state.packets + sum(relay.a.state.drops.values()) == 2)
        assert relay.a.state.reports == Reports(), "without multiplexing RTCP has a socket of its own"


@pytest.mark.parametrize("equal", [False, True], ids=["other keys", "the same keys"])
def test_reports_under_srtp(path: PacketPath, equal: bool) -> None:
    """Also those that we only authenticate, since the other party knows the key."""
    a = SecureParty(path, keys(1), keys(2), 1)
    b = SecureParty(path, keys(2), keys(1), 2) if equal else SecureParty(path, keys(3), keys(4), 2)
    for one, other in ((a, b), (b, a)):
        one.configure(rtp_sink=other.stream, rtcp_sink=other.stream, rtcp_mux=True)
    for _ in range(3):
        data = rr(1, block(9, 64, -2, 80))
        a.talk_rtcp(data)
        assert b.hear_rtcp() == data
    assert a.state.reports[:2] == (3, 0)
    assert a.state.reports.lost == -2
    a.close()
    b.close()


def test_a_socket_of_its_own(path: PacketPath) -> None:
    a, b = Party(path), Party(path)
    a.configure(rtcp_only=True, rtcp_sink=b.stream)
    b.configure(rtcp_only=True, rtcp_sink=a.stream)
    b.send(sr(9, ntp=NTP))
    a.receive()
    a.send(rr(1, block(8, 1), block(9, 2, lsr=NTP)))
    b.receive()
    assert (a.state.reports.ssrc, a.state.reports.rtt_ms is not None) == (9, True)
    a.close()
    b.close()
