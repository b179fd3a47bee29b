"""srtp.c against srtp_model.py, byte for byte: every suite, with every parameter that changes the packet."""

from __future__ import annotations

import random
from itertools import product

import pytest
import srtp_model as model
from rtpengine._packetpath import ffi, lib
from srtp_context import (
    AUTH,
    KEY,
    MALFORMED,
    NO_TAG,
    PLAIN_RTCP,
    PLAIN_RTP,
    SALT,
    SUITES,
    Context,
    Refused,
    make_keys,
    rtcp,
    rtp,
)

MKIS = [b"", b"\1", bytes(range(200, 204)), bytes(255)]
FLAGS = [0, PLAIN_RTP, PLAIN_RTCP, NO_TAG, PLAIN_RTP | PLAIN_RTCP | NO_TAG]
# cffi and the interpreter leave time for some hundred combinations, no more
FORMS = [
    (suite, flags, mki) for suite, flags, mki in product(SUITES, FLAGS, MKIS) if not (flags & NO_TAG and "GCM" in suite)
]

EXTENSION = b"\xbe\xde\0\2" + b"\x10\xaa\0\0\x20\xbb\xcc\0"
PACKETS = [
    rtp(0x1234),
    rtp(0x1235, b""),
    rtp(0x1236, b"\x01"),
    rtp(0x1237, bytes(range(160))),
    rtp(0x1238, bytes(1400)),
    rtp(0x1239, b"abc", first=0x82, more=b"CSRC" * 2),
    rtp(0x123A, b"xyz" * 9, first=0x90, more=EXTENSION),
    rtp(0x123B, b"xyz" * 9, first=0xBF, more=b"CSRC" * 15 + EXTENSION),
    rtp(0x123C, b"other", ssrc=1),
]
RTCP_PACKETS = [
    rtcp(),
    rtcp(b""),
    rtcp(b"\1\2\3\4", kind=206),
    rtcp(bytes(range(100)), kind=223, ssrc=0),
    rtcp(bytes(1000), kind=192, ssrc=0xFFFFFFFF),
]


def session(suite: str, rtcp: bool) -> model.Session:
    return model.Session.derived(suite, KEY, SALT, rtcp)


@pytest.mark.parametrize(("suite", "flags", "mki"), FORMS)
def test_rtp(suite: str, flags: int, mki: bytes) -> None:
    sender, receiver, keys = (
        Context(suite, flags=flags, mki=mki),
        Context(suite, flags=flags, mki=mki),
        session(suite, False),
    )
    for packet in PACKETS:
        wire = sender.protect(packet)
        assert wire == model.protect(keys, packet, 0, mki, bool(flags & PLAIN_RTP), bool(flags & NO_TAG))
        assert Context(suite, flags=flags, mki=mki).verify(wire) == wire
        assert receiver.unprotect(wire) == packet


@pytest.mark.parametrize(("suite", "flags", "mki"), FORMS)
def test_rtcp(suite: str, flags: int, mki: bytes) -> None:
    sender, receiver, keys = (
        Context(suite, flags=flags, mki=mki),
        Context(suite, flags=flags, mki=mki),
        session(suite, True),
    )
    for index, packet in enumerate(RTCP_PACKETS):
        wire = sender.protect_rtcp(packet)
        assert wire == model.protect_rtcp(keys, packet, index, mki, bool(flags & PLAIN_RTCP))
        assert Context(suite, flags=flags, mki=mki).verify_rtcp(wire) == wire
        assert receiver.unprotect_rtcp(wire) == packet


@pytest.mark.parametrize("suite", SUITES)
def test_later_rollovers(suite: str) -> None:
    sender, receiver, keys = Context(suite), Context(suite), session(suite, False)
    for index in (0xFFFE, 0x1_0000, 0x1_7FFF, 0x1_FFFE, 0x2_7FFD):
        wire = sender.protect(rtp(index))
        assert wire == model.protect(keys, rtp(index), index >> 16)
        assert receiver.unprotect(wire) == rtp(index)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("index", [0xFFFF_0000_FFF0, 0x8000_0000_0000, 0x1_2345_6789])
def test_far_rollovers(suite: str, index: int) -> None:
    sender, receiver = Context(suite), Context(suite)
    for context in (sender, receiver):
        context.advance(0xCAFEBABE, rtp=index)
    wire = sender.protect(rtp(index))
    assert wire == model.protect(session(suite, False), rtp(index), index >> 16)
    assert receiver.unprotect(wire) == rtp(index)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("index", [1, 0x7FFFFFFF, 0x12345678])
def test_far_indices_of_rtcp(suite: str, index: int) -> None:
    sender = Context(suite)
    sender.advance(1, rtcp=index)
    wire = sender.protect_rtcp(rtcp())
    assert wire == model.protect_rtcp(session(suite, True), rtcp(), index)
    assert Context(suite).unprotect_rtcp(wire) == rtcp()


@pytest.mark.parametrize("suite", SUITES)
def test_random_packets(suite: str) -> None:
    rng = random.Random(suite)
    keys, salt, mki = rng.randbytes(32), rng.randbytes(14), rng.randbytes(rng.randrange(8))
    sender, receiver = Context(suite, keys, salt, mki=mki), Context(suite, keys, salt, mki=mki)
    plain = model.Session.derived(suite, keys, salt, False)
    index = 0
    for _ in range(200):
        index += rng.choice([1, 1, 1, 2, 50, 0x7FFF])
        packet = rtp(index, rng.randbytes(rng.randrange(300)))
        wire = sender.protect(packet)
        assert wire == model.protect(plain, packet, index >> 16, mki)
        assert receiver.unprotect(wire) == packet


@pytest.mark.parametrize("suite", SUITES)
def test_unencrypted_rtcp_needs_the_parameter(suite: str) -> None:
    """RFC 3711 3.4: each packet says by its E bit whether it is encrypted."""
    clear = model.protect_rtcp(session(suite, True), rtcp(), 5, plain=True)
    encrypted = model.protect_rtcp(session(suite, True), rtcp(), 6)
    lenient = Context(suite, flags=PLAIN_RTCP)
    assert lenient.unprotect_rtcp(clear) == lenient.unprotect_rtcp(encrypted) == rtcp()
    strict = Context(suite)
    if "NULL" in suite:
        assert strict.unprotect_rtcp(clear) == rtcp()
        return
    for attempt in (strict.unprotect_rtcp, strict.verify_rtcp):
        with pytest.raises(Refused, match=AUTH):
            attempt(clear)
    assert strict.state() == {}


@pytest.mark.parametrize("suite", ["GCM128", "GCM256"])
def test_gcm_always_authenticates(suite: str) -> None:
    assert not lib.srtp_open(make_keys(suite, flags=NO_TAG))


@pytest.mark.parametrize(("suite", "flags", "mki"), [("CM128-80", 0, b""), ("GCM256", 0, b"mki"), ("CM128-32", 4, b"")])
def test_room_for_what_is_added(suite: str, flags: int, mki: bytes) -> None:
    added = len(Context(suite, flags=flags, mki=mki).protect(rtp(1))) - len(rtp(1))
    added_rtcp = len(Context(suite, flags=flags, mki=mki).protect_rtcp(rtcp())) - len(rtcp())
    context = Context(suite, flags=flags, mki=mki)
    for spare in {0, added - 1} - {added, -1}:
        with pytest.raises(Refused, match=MALFORMED):
            context.protect(rtp(1), spare=spare)
    for spare in (0, added_rtcp - 1):
        with pytest.raises(Refused, match=MALFORMED):
            context.protect_rtcp(rtcp(), spare=spare)
    assert context.state() == {}
    assert context.protect(rtp(1), spare=added)
    assert context.protect_rtcp(rtcp(), spare=added_rtcp)


def test_a_packet_longer_than_its_room() -> None:
    context, packet = Context("CM128-80"), ffi.new("uint8_t[]", rtp(1) + bytes(lib.SRTP_OVERHEAD_MAX))
    control = ffi.new("uint8_t[]", rtcp() + bytes(lib.SRTP_OVERHEAD_MAX))
    for room in (0, 27):
        assert lib.srtp_protect(context.srtp, packet, 28, room) == lib.SRTP_ERROR_MALFORMED
        assert lib.srtcp_protect(context.srtp, control, 24, min(room, 23)) == lib.SRTP_ERROR_MALFORMED
    assert context.state() == {}


@pytest.mark.parametrize("suite", SUITES)
def test_overhead_is_bounded(suite: str) -> None:
    assert Context(suite, mki=bytes(255)).protect(rtp(1), spare=lib.SRTP_OVERHEAD_MAX)
    assert Context(suite, mki=bytes(255)).protect_rtcp(rtcp(), spare=lib.SRTP_OVERHEAD_MAX)


NOT_RTP = [b"", b"\x80", rtp(1)[:11], b"\x40" + rtp(1)[1:], rtp(1, b"", first=0x81), rtp(1, b"\0\0\0\1", first=0x90)]


@pytest.mark.parametrize("packet", NOT_RTP)
def test_what_is_no_rtp(packet: bytes) -> None:
    context = Context("NULL-80")
    for attempt in (context.protect, context.unprotect, context.verify):
        with pytest.raises(Refused, match=MALFORMED):
            attempt(packet)
        with pytest.raises(Refused, match=MALFORMED):
            attempt(packet.ljust(10, b"\0")[:10])
    # the same with a tag behind
    with pytest.raises(Refused, match=MALFORMED):
        context.unprotect(packet + bytes(10))
    assert context.state() == {}


@pytest.mark.parametrize("packet", [b"", b"\x80", rtcp()[:7], b"\x40" + rtcp()[1:]])
def test_what_is_no_rtcp(packet: bytes) -> None:
    context = Context("NULL-80")
    with pytest.raises(Refused, match=MALFORMED):
        context.protect_rtcp(packet)
    for attempt in (context.unprotect_rtcp, context.verify_rtcp):
        with pytest.raises(Refused, match=MALFORMED):
            attempt(packet + bytes(14))
    assert context.state() == {}
