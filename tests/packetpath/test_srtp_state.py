"""What srtp.c lets pass, and what it remembers: replays, disorder, rollovers, forgeries, limits, hand-over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rtpengine._packetpath import ffi, lib
from srtp_context import AUTH, EXHAUSTED, MALFORMED, NO_TAG, REPLAY, SUITES, Context, Refused, rtcp, rtp

SSRC = 0xCAFEBABE
SOURCES = lib.SRTP_SSRC_MAX
END, RTCP_END = lib.RTP_INDEX_END, lib.RTCP_INDEX_END
OK = "ok"


def verdict(attempt: Callable[..., bytes], *args: Any) -> str:
    try:
        attempt(*args)
    except Refused as refused:
        return str(refused)
    return OK


def wires(indices: Iterator[int] | list[int] | range, suite: str = "CM128-80", ssrc: int = SSRC) -> dict[int, bytes]:
    """SRTP packets by index, each protected as if it were the first that this sender has."""
    made = {}
    for index in indices:
        sender = Context(suite)
        sender.advance(ssrc, rtp=index)
        made[index] = sender.protect(rtp(index, b"%d" % index, ssrc))
    return made


def receive(indices: list[int], suite: str = "CM128-80") -> list[str]:
    made, receiver = wires(indices, suite), Context(suite)
    return [verdict(receiver.unprotect, made[index]) for index in indices]


W = 0x1_0000


@pytest.mark.parametrize(
    ("indices", "verdicts"),
    [
        # once each, in any order within the window
        ([5, 5], [OK, REPLAY]),
        ([5, 4, 6, 5, 4, 6], [OK, OK, OK, REPLAY, REPLAY, REPLAY]),
        ([200, 73, 72], [OK, OK, REPLAY]),
        ([200, 73, 201, 73, 74, 74], [OK, OK, OK, REPLAY, OK, REPLAY]),
        # over the wrap, disordered, both sides of it
        ([W - 2, W + 1, W - 1, W, W - 1, W + 1], [OK, OK, OK, OK, REPLAY, REPLAY]),
        # first heard high, low, and after the first wrap, with a late one from before it
        ([W - 1, W, W + 1], [OK] * 3),
        ([W, W + 1, W - 1, W - 1], [OK, OK, OK, REPLAY]),
        ([W + 40000, W + 40001, 2 * W], [OK] * 3),
        # joined too late: nothing tells the rollover counter
        ([2 * W, 2 * W + 1], [AUTH, AUTH]),
        # a gap that hides a wrap: one rollover further is tried, two are not
        ([1000, W + 999, W + 1000], [OK, OK, OK]),
        ([40000, W + 30000, W + 30001], [OK, OK, OK]),
        ([1000, 2 * W + 999, 999], [OK, AUTH, OK]),
        ([1000, 2 * W + 1001, 1001], [OK, AUTH, OK]),
        # back by more than the window, or by a rollover: kept packets, played again
        ([1000, 500], [OK, REPLAY]),
        ([W - 1, W + 500, 501, 600, W + 501], [OK, OK, AUTH, AUTH, OK]),
        ([30000, W - 1, W + 30000, 2 * W + 10, 20, 30000, W + 30001], [OK, OK, OK, OK, AUTH, AUTH, AUTH]),
    ],
)
@pytest.mark.parametrize("suite", ["CM128-80", "CM128-32", "F8-80", "NULL-80", "GCM128"])
def test_which_packets_pass(indices: list[int], verdicts: list[str], suite: str) -> None:
    assert receive(indices, suite) == verdicts


@pytest.mark.parametrize("suite", SUITES)
def test_verified_is_seen(suite: str) -> None:
    sender, receiver = Context(suite), Context(suite)
    first, second = sender.protect(rtp(1)), sender.protect(rtp(2))
    assert receiver.verify(first) == first
    assert receiver.unprotect(second) == rtp(2)
    assert [verdict(receiver.unprotect, first), verdict(receiver.verify, second)] == [REPLAY, REPLAY]
    one, two = sender.protect_rtcp(rtcp()), sender.protect_rtcp(rtcp())
    assert receiver.verify_rtcp(one) == one
    assert receiver.unprotect_rtcp(two) == rtcp()
    assert [verdict(receiver.unprotect_rtcp, one), verdict(receiver.verify_rtcp, two)] == [REPLAY, REPLAY]


@pytest.mark.parametrize("suite", SUITES)
def test_rtcp_window(suite: str) -> None:
    sender, receiver = Context(suite), Context(suite)
    made = [sender.protect_rtcp(rtcp()) for _ in range(300)]
    order = [(5, OK), (5, REPLAY), (4, OK), (299, OK), (172, OK), (171, REPLAY), (298, OK), (298, REPLAY), (0, REPLAY)]
    assert [(i, verdict(receiver.unprotect_rtcp, made[i])) for i, _ in order] == order


def forgeries(wire: bytes) -> Iterator[bytes]:
    """Each byte changed, each length cut to, one byte more at either end."""
    for i in range(len(wire)):
        for bits in (1, 0x80):
            yield wire[:i] + bytes([wire[i] ^ bits]) + wire[i + 1 :]
    for length in range(len(wire)):
        yield wire[:length]
        yield wire[len(wire) - length :]
    yield from (wire + b"\0", b"\0" + wire, bytes(len(wire)), wire[:12] + wire)


@pytest.mark.parametrize("mki", [b"", b"\1\2\3\4"])
@pytest.mark.parametrize("suite", SUITES)
def test_forgeries_change_nothing(suite: str, mki: bytes) -> None:
    sender, receiver = Context(suite, mki=mki), Context(suite, mki=mki)
    for seq in (0xFFF0, 3):
        receiver.unprotect(sender.protect(rtp(seq)))
        receiver.unprotect_rtcp(sender.protect_rtcp(rtcp()))
    before = receiver.state()
    genuine, genuine_rtcp = sender.protect(rtp(4)), sender.protect_rtcp(rtcp())
    for forged in forgeries(genuine):
        assert {verdict(receiver.unprotect, forged), verdict(receiver.verify, forged)} <= {AUTH, MALFORMED, REPLAY}
    for forged in forgeries(genuine_rtcp):
        results = {verdict(receiver.unprotect_rtcp, forged), verdict(receiver.verify_rtcp, forged)}
        assert results <= {AUTH, MALFORMED, REPLAY}
    assert receiver.state() == before
    assert receiver.unprotect(genuine) == rtp(4)
    assert receiver.unprotect_rtcp(genuine_rtcp) == rtcp()


@pytest.mark.parametrize("suite", SUITES)
def test_a_stranger_gets_no_entry(suite: str) -> None:
    receiver, stranger, other = Context(suite), Context(suite, key=bytes(32)), Context(suite, mki=b"\1")
    for sender in (stranger, other):
        for ssrc in range(SOURCES + 1):
            assert verdict(receiver.unprotect, sender.protect(rtp(1, ssrc=ssrc))) == AUTH
            assert verdict(receiver.unprotect_rtcp, sender.protect_rtcp(rtcp(ssrc=ssrc))) == AUTH
    assert receiver.state() == {}


@pytest.mark.parametrize("suite", ["CM128-80", "GCM128"])
def test_another_mki_is_refused(suite: str) -> None:
    receiver = Context(suite, mki=b"\1\2")
    for mki in (b"\1\3", b"\2\2"):
        sender = Context(suite, mki=mki)
        assert verdict(receiver.unprotect, sender.protect(rtp(1))) == AUTH
        assert verdict(receiver.verify_rtcp, sender.protect_rtcp(rtcp())) == AUTH
    assert receiver.state() == {}


def test_replays_of_a_whole_call_change_nothing() -> None:
    sender, receiver = Context(), Context()
    call = [sender.protect(rtp(index, b"")) for index in range(0, 3 * W, 31)]
    assert all(verdict(receiver.unprotect, wire) == OK for wire in call)
    before = receiver.state()
    assert not [i for i, wire in enumerate(call) if verdict(receiver.unprotect, wire) == OK]
    assert receiver.state() == before


mutation = st.tuples(st.sampled_from(["flip", "cut", "grow", "swap", "seq"]), st.integers(0, 400), st.integers(1, 255))


def mutate(wire: bytes, kind: str, at: int, by: int) -> bytes:
    at %= len(wire)
    if kind == "flip":
        return wire[:at] + bytes([wire[at] ^ by]) + wire[at + 1 :]
    if kind == "cut":
        return wire[:at]
    if kind == "grow":
        return wire[:at] + bytes([by]) * (by % 20 + 1) + wire[at:]
    if kind == "swap":
        return wire[at:] + wire[:at]
    return wire[:2] + bytes([by, at & 255]) + wire[4:]


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(SUITES)),
    st.integers(0, 0xFFFF),
    st.lists(st.one_of(st.integers(-3, 40), mutation), max_size=25),
    st.binary(max_size=6),
)
def test_only_what_was_sent_passes_and_only_once(suite: str, start: int, steps: list[Any], mki: bytes) -> None:
    """Numbers are genuine packets, ahead or behind; the rest are distortions of the newest one."""
    sender, receiver = Context(suite, mki=mki), Context(suite, mki=mki)
    sent = {start: sender.protect(rtp(start))}
    at, passed = start, set[int]()
    for step in steps:
        before = receiver.state()
        if isinstance(step, int):
            at = max(0, at + step)
            if at not in sent:
                sent[at] = sender.protect(rtp(at))
            expected = REPLAY if at in passed else OK
            assert verdict(receiver.unprotect, sent[at]) == expected
            passed.add(at)
        else:
            wire = mutate(sent[at], *step)
            if wire not in sent.values():
                assert verdict(receiver.unprotect, wire) != OK
                assert receiver.state() == before


@settings(max_examples=300)
@given(st.sampled_from(sorted(SUITES)), st.binary(max_size=400), st.integers(0, 4), st.binary(max_size=5))
def test_anything_at_all(suite: str, data: bytes, flags: int, mki: bytes) -> None:
    """Whatever arrives: no byte beyond the packet is touched, and without a key nothing passes."""
    context = Context(suite, flags=flags & ~NO_TAG, mki=mki)
    for packet in (data, b"\x80" + data[1:], b"\x80\xc8" + data[2:]):
        for attempt in (context.unprotect, context.verify, context.unprotect_rtcp, context.verify_rtcp):
            assert verdict(attempt, packet) in (AUTH, MALFORMED)
    assert context.state() == {}


# Sending


def test_a_late_packet_keeps_its_index() -> None:
    sender, receiver = Context(), Context()
    order = [W - 3, W + 2, W - 1, W, W - 2, W + 1]
    assert [receiver.unprotect(sender.protect(rtp(index))) for index in order] == [rtp(index) for index in order]
    assert sender.state()[SSRC][0][0] == W + 3


@pytest.mark.parametrize("again", [5, 4, 1000 - 128, 999 - 128, 0])
def test_an_index_is_used_once(again: int) -> None:
    sender = Context()
    for seq in (0, 4, 5, 1000 - 128, 1000):
        sender.protect(rtp(seq))
    before = sender.state()
    assert verdict(sender.protect, rtp(again, b"something else")) == REPLAY
    assert sender.state() == before


def test_a_refused_packet_uses_no_index() -> None:
    sender = Context()
    assert verdict(sender.protect, rtp(5), 0) == MALFORMED
    assert verdict(sender.protect_rtcp, rtcp(), 0) == MALFORMED
    assert sender.state() == {}
    assert sender.protect(rtp(5)) == Context().protect(rtp(5))
    assert sender.protect_rtcp(rtcp()) == Context().protect_rtcp(rtcp())


sends = st.lists(
    st.tuples(st.one_of(st.integers(0, 3), st.integers(0, 5000)), st.integers(-300, 0x9000), st.booleans()),
    max_size=300,
)


@settings(max_examples=40)
@given(st.sampled_from(["CM128-80", "F8-80", "GCM128"]), st.integers(0, 0xFFFF), sends)
def test_no_key_stream_is_used_twice(suite: str, start: int, packets: list[tuple[int, int, bool]]) -> None:
    """Payloads of zeros show the key stream; more SSRCs than the table holds, jumps, repetitions."""
    sender, streams, seq = Context(suite), set[bytes](), start
    for ssrc, move, control in packets:
        seq += move
        try:
            if control:
                wire = sender.protect_rtcp(rtcp(bytes(16), ssrc))[8:24]
            else:
                wire = sender.protect(rtp(seq, bytes(16), ssrc))[12:28]
        except Refused:
            continue
        assert wire not in streams
        streams.add(wire)


def test_a_sender_that_was_forgotten_does_not_begin_again() -> None:
    sender = Context()
    for ssrc in range(SOURCES + 1):
        sender.protect(rtp(5, ssrc=ssrc))
    assert 0 not in sender.state()
    assert verdict(sender.protect, rtp(6, b"something else", ssrc=0)) == EXHAUSTED
    assert verdict(sender.protect, rtp(6, ssrc=1)) == OK
    assert verdict(sender.protect, rtp(6, ssrc=SOURCES + 1)) == OK


def test_rtcp_of_all_senders_counts_together() -> None:
    sender = Context()
    for i in range(2 * SOURCES):
        wire = sender.protect_rtcp(rtcp(ssrc=i))
        assert wire[-14:-10] == (1 << 31 | i).to_bytes(4, "big")
    assert sender.protect_rtcp(rtcp(ssrc=0))[-14:-10] == (1 << 31 | 2 * SOURCES).to_bytes(4, "big")


# Receiving from many


def test_the_least_needed_sender_is_forgotten() -> None:
    sender, receiver = Context(), Context()
    for index in (W - 1, W, W + 0x7000, W + 0xE000, 2 * W):
        receiver.unprotect(sender.protect(rtp(index, ssrc=1000)))
    for ssrc in range(SOURCES):
        receiver.unprotect(Context().protect(rtp(1, ssrc=ssrc)))
        receiver.unprotect_rtcp(Context().protect_rtcp(rtcp(ssrc=ssrc)))
    assert 1000 in receiver.state()
    assert receiver.state()[0] == ((0, 0), (1, 1)), "forgotten for RTP, not for RTCP"
    assert receiver.unprotect(sender.protect(rtp(2 * W + 1, ssrc=1000))) == rtp(2 * W + 1, ssrc=1000)
    receiver.unprotect_rtcp(Context().protect_rtcp(rtcp(ssrc=2000)))
    assert 0 not in receiver.state()


def test_indices_stay_within_the_array() -> None:
    context = Context()
    for ssrc in range(SOURCES):
        context.protect(rtp(1, ssrc=ssrc))
        context.protect_rtcp(rtcp(ssrc=1000 + ssrc))
    assert len(context.state()) == lib.SRTP_INDEX_MAX
    for room in (0, 1, SOURCES, SOURCES + 1, 2 * SOURCES - 1):
        out = ffi.new("struct srtp_index[]", room + 1)
        out[room].ssrc = 4711
        assert lib.srtp_indices(context.srtp, out, room) == room
        assert out[room].ssrc == 4711


# Limits of RFC 3711 9.2


@pytest.mark.parametrize("suite", ["CM128-80", "GCM256"])
def test_the_last_rtp_packet_of_a_key(suite: str) -> None:
    sender, receiver = Context(suite), Context(suite)
    sender.advance(SSRC, rtp=END - 2)
    receiver.advance(SSRC, rtp=END - 2)
    last = [sender.protect(rtp(0xFFFE)), sender.protect(rtp(0xFFFF))]
    assert [verdict(sender.protect, rtp(seq)) for seq in (0, 1, 0x7FFE)] == [EXHAUSTED] * 3
    assert verdict(sender.protect, rtp(0xFFFF)) == REPLAY
    assert [verdict(receiver.unprotect, wire) for wire in last] == [OK, OK]
    assert verdict(receiver.unprotect, Context(suite).protect(rtp(0))) == EXHAUSTED
    assert verdict(receiver.unprotect, last[0]) == REPLAY
    assert sender.protect(rtp(1, ssrc=1))


@pytest.mark.parametrize("suite", ["CM128-80", "GCM256"])
def test_no_rollover_follows_the_last(suite: str) -> None:
    """The first packets of the key do not pass for those that would follow the last."""
    receiver = Context(suite)
    receiver.advance(SSRC, rtp=END - 100)
    assert verdict(receiver.unprotect, Context(suite).protect(rtp(END - 50))) == AUTH
    assert verdict(receiver.unprotect, Context(suite).protect(rtp(END - 200))) == REPLAY


@pytest.mark.parametrize("suite", ["CM128-80", "GCM256"])
def test_the_last_rtcp_packet_of_a_key(suite: str) -> None:
    sender, receiver = Context(suite), Context(suite)
    sender.advance(SSRC, rtcp=RTCP_END - 1)
    last = sender.protect_rtcp(rtcp())
    assert receiver.unprotect_rtcp(last) == rtcp()
    assert verdict(receiver.unprotect_rtcp, last) == REPLAY
    for ssrc in (SSRC, 1):
        assert verdict(sender.protect_rtcp, rtcp(ssrc=ssrc)) == EXHAUSTED


# Without authentication


def test_without_a_tag_the_index_follows_but_nothing_is_refused() -> None:
    """RFC 3711 3.3.2: replay protection needs authentication. A forger could close the window at will."""
    sender, receiver = Context(flags=NO_TAG), Context(flags=NO_TAG)
    made = [sender.protect(rtp(index)) for index in (W - 1, W, W + 1)]
    assert [receiver.unprotect(wire) for wire in made] == [rtp(0xFFFF), rtp(0), rtp(1)]
    assert receiver.unprotect(made[0]) == rtp(0xFFFF)
    receiver.unprotect(rtp(0x7000, b"forged"))
    assert receiver.unprotect(sender.protect(rtp(W + 2))) == rtp(2)
    assert verdict(receiver.unprotect_rtcp, sender.protect_rtcp(rtcp())[:-1] + b"\0") == AUTH


def test_without_a_tag_an_index_is_still_used_once() -> None:
    sender = Context(flags=NO_TAG)
    sender.protect(rtp(1))
    assert verdict(sender.protect, rtp(1, b"something else")) == REPLAY


# Packets that are passed on as they are


def test_whether_a_packet_is_ahead_of_all_others() -> None:
    sender, receiver = Context(), Context()
    made = {index: sender.protect(rtp(index)) for index in (W - 2, W - 1, W, W + 3)}
    for index, newest in ((W - 1, True), (W - 2, False), (W + 3, True), (W, False)):
        receiver.verify(made[index])
        assert receiver.is_newest() is newest
    reports = [sender.protect_rtcp(rtcp()) for _ in range(3)]
    for report, newest in ((1, True), (0, False), (2, True)):
        receiver.unprotect_rtcp(reports[report])
        assert receiver.is_newest() is newest
    assert verdict(receiver.verify, made[W]) == REPLAY
    assert receiver.is_newest()


@pytest.mark.parametrize("suite", ["CM128-80", "GCM128"])
def test_a_sender_goes_on_after_what_it_passed_on(suite: str) -> None:
    """One key, two that send with it: the party whose packets are passed on, and we for it."""
    party, verifier, ours, peer = Context(suite), Context(suite), Context(suite), Context(suite)
    for index in (W - 1, W, W + 5, W + 4):
        peer.unprotect(verifier.verify(party.protect(rtp(index))))
        ours.follow(verifier)
        peer.unprotect_rtcp(verifier.verify_rtcp(party.protect_rtcp(rtcp())))
        ours.follow(verifier)
    early, late = party.protect_rtcp(rtcp()), party.protect_rtcp(rtcp())
    for wire in (late, early):
        peer.unprotect_rtcp(verifier.verify_rtcp(wire))
        ours.follow(verifier)
    assert ours.state() == verifier.state()
    assert verdict(ours.protect, rtp(W + 4, b"something else")) == REPLAY
    assert peer.unprotect(ours.protect(rtp(W + 6))) == rtp(W + 6)
    assert peer.unprotect_rtcp(ours.protect_rtcp(rtcp())) == rtcp()


# Snapshots and hand-over


@pytest.mark.parametrize("suite", ["CM128-80", "GCM128"])
def test_a_receiver_taken_over_judges_as_the_first_would(suite: str) -> None:
    rng = random.Random(7)
    sender, first, second = Context(suite), Context(suite), Context(suite)
    made = [sender.protect(rtp(W - 200 + i)) for i in range(400)]
    for wire in rng.sample(made[:300], 200):
        verdict(first.unprotect, wire)
    for ssrc, ((rtp_next, rtp_seen), _) in first.state().items():
        second.advance(ssrc, rtp=rtp_next, seen=rtp_seen)
    assert second.state() == first.state()
    for wire in made:
        assert verdict(first.unprotect, wire) == verdict(second.unprotect, wire)


def test_indices_only_move_forward() -> None:
    context = Context()
    context.advance(SSRC, rtp=5 * W, rtcp=1000)
    before = context.state()
    context.advance(SSRC, rtp=4 * W, rtcp=999)
    context.advance(SSRC)
    assert context.state() == before
    assert context.protect_rtcp(rtcp())[-14:-10] == (1 << 31 | 1000).to_bytes(4, "big")
    context.advance(SSRC, rtp=5 * W + 3, seen=1)
    assert context.state()[SSRC][0] == (5 * W + 3, (1 << 128) - 8 | 1)


@pytest.mark.parametrize(("rtp_next", "rtcp_next"), [(END + 1, RTCP_END + 1), (2**64 - 1, 2**64 - 1), (0, 0)])
def test_an_index_that_cannot_be_is_passed_over(rtp_next: int, rtcp_next: int) -> None:
    context = Context()
    context.advance(SSRC, rtp=rtp_next, rtcp=rtcp_next)
    assert context.state() == {}
    assert context.protect(rtp(1)) == Context().protect(rtp(1))
    assert context.protect_rtcp(rtcp()) == Context().protect_rtcp(rtcp())


def test_a_snapshot_without_windows_takes_all_before_it_for_seen() -> None:
    old, new = Context(), Context()
    made = [old.protect(rtp(index)) for index in range(100)]
    new.advance(SSRC, rtp=50)
    assert [verdict(new.unprotect, wire) for wire in made] == [REPLAY] * 50 + [OK] * 50


def test_a_sender_goes_on_after_its_snapshot() -> None:
    """The snapshot may be old: what is sent then is ahead of it, by the sequence number alone."""
    old, new, receiver = Context(), Context(), Context()
    for index in range(W - 100, W + 100):
        receiver.unprotect(old.protect(rtp(index)))
    new.advance(SSRC, rtp=W - 50)
    assert receiver.unprotect(new.protect(rtp(W + 100))) == rtp(100)
