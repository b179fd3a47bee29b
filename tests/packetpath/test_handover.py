"""What the packet path tells the kernel before it forwards a stream, and takes over from it afterwards."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import Struct
from typing import Any

import pytest
from learner import (
    AUTHENTIC,
    HEURISTIC,
    ICE,
    IMMEDIATE,
    NEWEST,
    NONE,
    NS,
    OFF,
    RTCP,
    SECURE,
    START_NS,
    STRICT,
    Learner,
)
from media_parties import Party, Relay, eventually, rtp
from rtpengine._packetpath import ffi, lib
from secure_parties import CM80, SecureParty, keys

from rtpengine.media import MAX_SOURCES, Progress, Sources, SrtpKeys
from rtpengine.packetpath import PacketPath, Traffic, session_key

SOURCE = Struct("=IIQQQ")
ALL = (1 << 64) - 1

h = bytes.fromhex
# RFC 3711 B.3
RFC_KEYS = SrtpKeys(CM80, h("e1f97a0d3e018be0d64fa32c06de4139"), h("0ec675ad498afeebb6960b3aabe6"))


def sources(*entries: tuple[int, int]) -> Sources:
    """SSRCs, each with the index that follows its last; all before that has been seen."""
    table = b"".join(SOURCE.pack(ssrc, 0, following, ALL, ALL) for ssrc, following in entries)
    return Sources(len(entries), table.ljust(MAX_SOURCES * SOURCE.size, b"\0"))


def following(found: Sources) -> dict[int, int]:
    """SSRC to the index that follows its last."""
    return {ssrc: index for ssrc, _, index, _, _ in SOURCE.iter_unpack(found.table) if ssrc}


def test_kernel_and_packet_path_have_the_layout_in_common() -> None:
    for ours, theirs in (("pp_source", "mediaproxy_ssrc"), ("pp_sources", "mediaproxy_progress")):
        assert ffi.sizeof(f"struct {ours}") == ffi.sizeof(f"struct {theirs}")
        pairs = zip(ffi.typeof(f"struct {ours}").fields, ffi.typeof(f"struct {theirs}").fields, strict=True)
        assert all((a.offset, ffi.sizeof(a.type)) == (b.offset, ffi.sizeof(b.type)) for (_, a), (_, b) in pairs)
    assert MAX_SOURCES == lib.PP_SOURCES == lib.MEDIAPROXY_SSRCS
    assert ffi.sizeof("struct pp_source") == SOURCE.size
    assert len(Sources().table) == ffi.sizeof("struct pp_source[8]")


def test_counters_add_up(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        relay.a.send(rtp(1))
        relay.b.receive()
        heard = relay.a.state.last_packet
        path.sync(relay.a.stream, Progress(10, 1720, {"send": 2, "replay": 3}))
        path.sync(relay.a.stream, Progress(5, 860, {}))
        state = relay.a.state
        assert (state.packets, state.bytes, state.errors, state.drops) == (16, 2752, 2, {"send": 2, "replay": 3})
        assert state.last_packet > heard
        stats = path.stats()
        assert (stats.packets, stats.bytes, stats.errors, stats.drops) == (16, 2752, 2, {"send": 2, "replay": 3})
        assert (stats.received[4], stats.sent[4]) == (Traffic(16, 2752, 0), Traffic(16, 2752, 2))
        path.sync(relay.b.stream, Progress(0, 0, {"authentication": 1}))
        assert relay.b.state.last_packet is None


@pytest.fixture
def both(path: PacketPath) -> Iterator[tuple[SecureParty, SecureParty]]:
    a, b = SecureParty(path, keys(1), keys(2), 1), SecureParty(path, keys(3), keys(4), 2)
    a.configure(rtp_sink=b.stream)
    b.configure(rtp_sink=a.stream)
    yield a, b
    a.close()
    b.close()


def test_a_stream_tells_how_far_it_has_come(path: PacketPath, both: tuple[SecureParty, SecureParty]) -> None:
    a, b = both
    assert path.sources(a.stream) == (Sources(), Sources())
    for seq in (7, 9):
        a.talk(rtp(seq, ssrc=5))
        assert b.hear() == rtp(seq, ssrc=5)
    received, _ = path.sources(a.stream)
    _, sent = path.sources(b.stream)
    assert received == sent == Sources(1, SOURCE.pack(5, 0, 10, 0b101, 0).ljust(MAX_SOURCES * SOURCE.size, b"\0"))
    assert received.ssrcs == {5}


def test_more_sources_than_fit_are_counted(path: PacketPath, both: tuple[SecureParty, SecureParty]) -> None:
    a, b = both
    for ssrc in range(1, MAX_SOURCES + 3):
        a.talk(rtp(7, ssrc=ssrc))
        b.hear()
    received, _ = path.sources(a.stream)
    assert received.total == MAX_SOURCES + 2
    assert received.ssrcs == set(range(1, MAX_SOURCES + 1))


def test_indices_go_on_from_what_the_kernel_has_done(path: PacketPath, both: tuple[SecureParty, SecureParty]) -> None:
    a, b = both
    a.talk(rtp(65530))
    b.hear()
    # The kernel forwards up to rollover 1, sequence number 20.
    elsewhere = [a.sender.protect(rtp(seq)) for seq in (*range(65531, 65536), *range(21))]
    done = sources((1, 0x10015))
    path.sync(a.stream, Progress(26, 26 * 172, {}, done, done))
    a.send(elsewhere[-1])
    eventually(lambda: a.state.drops == {"replay": 1})
    a.talk(rtp(21))
    packet = b.receive()
    assert b.receiver.unprotect(packet) == rtp(21)
    assert following(path.sources(a.stream)[0]) == following(path.sources(b.stream)[1]) == {1: 0x10016}


def test_what_was_sent_elsewhere_is_not_sent_again(path: PacketPath) -> None:
    a, b = Party(path), SecureParty(path, keys(1), keys(2))
    a.configure(rtp_sink=b.stream)
    b.configure(rtp_sink=a.stream)
    path.sync(a.stream, Progress(100, 17200, {}, Sources(), sources((1, 100))))
    a.send(rtp(99), rtp(100))
    assert b.hear() == rtp(100)
    assert a.state.drops == {"replay": 1}
    a.close()
    b.close()


def test_indices_never_go_back(path: PacketPath, both: tuple[SecureParty, SecureParty]) -> None:
    a, b = both
    a.talk(rtp(100))
    b.hear()
    path.sync(a.stream, Progress(1, 172, {}, sources((1, 50)), sources((1, 50))))
    assert following(path.sources(a.stream)[0]) == following(path.sources(b.stream)[1]) == {1: 101}


def test_bad_calls(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        with pytest.raises(OSError) as failure:
            path.sync(relay.a.stream, Progress(1, 1, {}, Sources(MAX_SOURCES + 1)))
        assert failure.value.errno == errno.EINVAL
        assert relay.a.state.packets == 0
        path.close_stream(relay.a.stream)
        for stream in (relay.a.stream, 0, 1 << 62, (lib.PP_MAX_WORKERS - 1) << 24):
            for call in (lambda s=stream: path.sync(s, Progress(1, 1, {})), lambda s=stream: path.sources(s)):
                with pytest.raises(OSError) as failure:
                    call()
                assert failure.value.errno == errno.ENOENT


# Learning goes on


def forwarded(learner: Learner, at: float, packets: int, *told: tuple[int, int]) -> None:
    """Packets of the accepted source were forwarded by the kernel up to second ``at``."""
    progress = ffi.new("struct pp_progress *", {"packets": packets})
    progress.received.count = len(told)
    for i, (ssrc, index) in enumerate(told):
        progress.received.source[i].ssrc, progress.received.source[i].window.next = ssrc, index
    lib.learn_forwarded(learner.learn, progress, START_NS + int(at * NS))


@pytest.fixture
def settled() -> Learner:
    learner = Learner()
    for i in range(5):
        learner.packet(i, "exact", seq=i)
    assert learner.confirmed
    return learner


def test_forwarded_packets_are_signs_of_life(settled: Learner) -> None:
    forwarded(settled, 10.0, 300)
    assert [settled.packet(11.9, "stranger", seq=305 + i) for i in range(3)] == ["drop"] * 3
    forwarded(settled, 11.9, 0)
    assert settled.packet(12.1, "stranger", seq=308) == "settle"


@pytest.mark.parametrize(
    ("first", "moves"),
    [(4005, True), (4005 + 2990, True), (10, False), (4003, False), (4005 + 3100, False)],
)
def test_a_rebound_source_goes_on_from_what_was_forwarded(settled: Learner, first: int, moves: bool) -> None:
    forwarded(settled, 80.0, 4000)
    verdicts = [settled.packet(90.0 + i / 50, "stranger", seq=first + i) for i in range(2)]
    assert (verdicts[-1] == "settle") is moves
    assert (settled.accept_from == "stranger") is moves


def test_an_authenticated_source_is_known_exactly() -> None:
    learner = Learner(flags=STRICT | SECURE)
    learner.packet(0, "exact", seq=4, ssrc=9, authentic=lib.LEARN_AUTHENTIC_NEWEST)
    forwarded(learner, 80.0, 5, (8, 0x50010), (9, 0x20065), (1, 3))
    assert learner.learn.seq == 0x64
    forwarded(learner, 80.0, 5)
    assert learner.learn.seq == 0x64


def test_nobody_takes_a_place_whose_holder_is_heard_elsewhere(settled: Learner) -> None:
    """The last second is not known here, or more if Python is late."""
    settled.learn.offloaded = 1
    forwarded(settled, 10.0, 300)
    verdicts = [settled.packet(12.5 + i / 50, "stranger", seq=305 + i) for i in range(3)]
    assert verdicts == ["drop", "elsewhere", "elsewhere"]
    assert settled.packet(12.6, "exact", seq=310) == "relay"
    assert settled.state == ("exact", "exact", True)
    forwarded(settled, 12.6, 120)
    settled.learn.offloaded = 0
    assert settled.packet(12.7, "stranger", seq=308) == "drop"
    assert settled.packet(14.7, "stranger", seq=440) == "settle"


@pytest.mark.parametrize(
    ("flags", "mode", "more", "verdict"),
    [
        (STRICT | SECURE, HEURISTIC, {"authentic": NEWEST}, "elsewhere"),
        (STRICT | SECURE, HEURISTIC, {"authentic": AUTHENTIC}, "elsewhere"),
        (STRICT | SECURE, HEURISTIC, {"authentic": NEWEST, "proof": RTCP}, "drop"),
        (SECURE, IMMEDIATE, {"authentic": NEWEST, "proof": RTCP}, "relay"),
        (SECURE, IMMEDIATE, {"authentic": NEWEST, "proof": RTCP, "at": 9.0}, "elsewhere"),
        (SECURE, IMMEDIATE, {"authentic": NEWEST, "proof": NONE}, "relay"),
        (SECURE, OFF, {"authentic": AUTHENTIC}, "elsewhere"),
        (0, OFF, {}, "relay"),
        (0, OFF, {"indexed": 1}, "elsewhere"),
        (STRICT, OFF, {"indexed": 1}, "drop"),
        (0, IMMEDIATE, {}, "relay"),
        (0, IMMEDIATE, {"indexed": 1}, "elsewhere"),
        (STRICT, IMMEDIATE, {"indexed": 1}, "drop"),
        (SECURE | ICE, HEURISTIC, {"authentic": NEWEST}, "drop"),
    ],
)
def test_what_cannot_be_judged_while_it_is_forwarded(flags: int, mode: int, more: dict[str, Any], verdict: str) -> None:
    learner = Learner(flags=flags, mode=mode)
    if flags & ICE:
        learner.validate(0, "exact", nominated=True)
    first = learner.packet(0.1, "exact", seq=4, authentic=NEWEST if flags & SECURE else 0)
    assert first in ("settle", "relay")
    before = learner.state
    learner.learn.offloaded = 1
    assert learner.packet(**{"at": 0.2, "place": "stranger", "seq": 5, **more}) == verdict
    assert learner.packet(0.2, "multicast", seq=5, authentic=NEWEST) == "drop"
    assert learner.state == before
    assert learner.packet(9.1, "exact", seq=6, authentic=NEWEST if flags & SECURE else 0) == "relay"


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (0, "c61e7a93744f39ee10734afe3ff7a087"),
        (1, "cebe321f6ff7716b6fd4ab49af256a156d38baa4"),
        (2, "30cbbc08863d8c85d49db34a9ae1"),
    ],
)
def test_session_keys_are_those_of_the_rfc(label: int, expected: str) -> None:
    assert session_key(RFC_KEYS, label, len(expected) // 2).hex() == expected


def test_no_session_key_without_a_suite() -> None:
    with pytest.raises(ValueError, match="keys do not fit"):
        session_key(RFC_KEYS._replace(key=b"short"), 0, 16)
