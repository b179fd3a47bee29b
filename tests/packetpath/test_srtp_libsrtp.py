"""srtp.c and libsrtp, the implementation inside browsers, as each other's peer."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from pylibsrtp import Error, Policy, Session
from srtp_context import KEY, SALT, Context, Refused, rtcp, rtp

PROFILES = {
    "CM128-80": (Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 16, 14),
    "CM128-32": (Policy.SRTP_PROFILE_AES128_CM_SHA1_32, 16, 14),
    "GCM128": (Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 16, 12),
    "GCM256": (Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 32, 12),
}
SSRCS = [0xCAFEBABE, 1, 0xFFFFFFFF]


def peer(suite: str, direction: int) -> Session:
    profile, key_len, salt_len = PROFILES[suite]
    policy = Policy(key=KEY[:key_len] + SALT[:salt_len], ssrc_type=direction, srtp_profile=profile)
    policy.window_size = 128
    return Session(policy=policy)


def sender(suite: str) -> Session:
    return peer(suite, Policy.SSRC_ANY_OUTBOUND)


def receiver(suite: str) -> Session:
    return peer(suite, Policy.SSRC_ANY_INBOUND)


def stream(start: int, count: int) -> list[bytes]:
    """Packets of several SSRCs, interleaved, of many shapes."""
    rng = random.Random(start)
    return [
        rtp(start + i, rng.randbytes(rng.randrange(200)), ssrc, *rng.choice([(0x80, b""), (0x82, bytes(8))]))
        for i in range(count)
        for ssrc in SSRCS
    ]


@pytest.mark.parametrize("suite", PROFILES)
@pytest.mark.parametrize("start", [0, 1, 0x7FFF, 0xFF00, 0xFFFF])
def test_both_ways_over_a_wrap(suite: str, start: int) -> None:
    ours, theirs = Context(suite), sender(suite)
    our_receiver, their_receiver = Context(suite), receiver(suite)
    for packet in stream(start, 400):
        wire = ours.protect(packet)
        assert wire == theirs.protect(packet)
        assert their_receiver.unprotect(wire) == our_receiver.unprotect(wire) == packet


@pytest.mark.parametrize("suite", PROFILES)
def test_many_rollovers(suite: str) -> None:
    ours, theirs = Context(suite), receiver(suite)
    for index in range(0, 6 << 16, 0x7000):
        assert theirs.unprotect(ours.protect(rtp(index))) == rtp(index)


@pytest.mark.parametrize("suite", PROFILES)
def test_rtcp_both_ways(suite: str) -> None:
    """libsrtp counts from 1, we from 0: RFC 3711 leaves it open."""
    ours, theirs = Context(suite), sender(suite)
    our_receiver, their_receiver = Context(suite), receiver(suite)
    for i in range(300):
        packet = rtcp(bytes(4 * (i % 50)), SSRCS[i % 3], 192 + i % 32)
        assert their_receiver.unprotect_rtcp(ours.protect_rtcp(packet)) == packet
        assert our_receiver.unprotect_rtcp(theirs.protect_rtcp(packet)) == packet


def accepted(unprotect: Callable[[bytes], bytes], wire: bytes) -> bool:
    try:
        unprotect(wire)
    except (Refused, Error):
        return False
    return True


@pytest.mark.parametrize("suite", PROFILES)
@pytest.mark.parametrize("start", [0, 0xFFC0])
def test_same_judgement_of_disorder(suite: str, start: int) -> None:
    """Late, repeated and forged packets, in the same order: both receivers let the same ones pass."""
    rng = random.Random(f"{suite} {start}")
    ours, theirs, source = Context(suite), receiver(suite), Context(suite)
    wires = [source.protect(rtp(start + i)) for i in range(600)]
    verdicts = {True: 0, False: 0}
    for i in range(2000):
        at = min(max(0, i // 4 + rng.randint(-160, 20)), 599)
        wire = wires[at] if rng.random() < 0.95 else wires[at][:-1] + b"\0"
        verdict = accepted(ours.unprotect, wire)
        assert verdict == accepted(theirs.unprotect, wire)
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 100


@pytest.mark.parametrize("suite", PROFILES)
def test_same_judgement_of_disorder_in_rtcp(suite: str) -> None:
    rng = random.Random(suite)
    ours, theirs, source = Context(suite), receiver(suite), Context(suite)
    wires = [source.protect_rtcp(rtcp()) for _ in range(600)]
    verdicts = {True: 0, False: 0}
    for i in range(2000):
        wire = wires[min(max(0, i // 4 + rng.randint(-160, 20)), 599)]
        verdict = accepted(ours.unprotect_rtcp, wire)
        assert verdict == accepted(theirs.unprotect_rtcp, wire)
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 100


@pytest.mark.parametrize("suite", PROFILES)
def test_same_refusal_to_send_again(suite: str) -> None:
    ours, theirs = Context(suite), sender(suite)
    for seq in (10, 11, 13, 11, 12, 13, 300, 150, 10, 173, 172, 300, 0x7FFF, 0xFFFE, 5, 0xFFFE):
        assert accepted(ours.protect, rtp(seq)) == accepted(theirs.protect, rtp(seq)), seq
