"""How forwarded packets have arrived: the kernel counts with the arithmetic of the packet path (rtp_quality.h)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from abi import C, Table, eventually
from check_forward import IN, Way
from packets import SSRC, Keys, rtp
from rtpengine._packetpath import ffi, lib

NAMES = ("expected", "lost", "duplicates", "reordered", "skips", "resets")


@pytest.fixture
def way(table: Table) -> Iterator[Way]:
    made = Way(table)
    yield made
    made.close()


def quality(table: Table) -> Any:
    (entry,) = (e for e in table.entries() if e.local.port == IN)
    return entry.quality


def totals(table: Table) -> dict[str, int]:
    """Those that are not 0."""
    found = quality(table).totals
    return {name: getattr(found, name) for name in NAMES if getattr(found, name)}


def in_userspace(packets: list[bytes]) -> dict[str, int]:
    """What the packet path's compiler makes of the same header."""
    counted, clocks = ffi.new("struct rtp_quality *"), ffi.new("uint32_t[16]")
    for packet in packets:
        lib.rtp_quality_count(counted, clocks, packet, 0)
    found = {name: getattr(counted.totals, name) for name in NAMES}
    found["expected"] = lib.rtp_quality_expected(counted)
    return {name: value for name, value in found.items() if value}


@pytest.mark.parametrize(
    "sequence",
    [
        range(100),
        [1, 2, 4, 7],
        [65534, 65535, 1, 0, 2],
        [1, 3, 2, 2, 4, 4],
        [1, 2, 9000, 9001, 9002],
        [500, 501, *range(10)],
        [1, 100, *range(2, 60)],
    ],
    ids=["in order", "gaps", "wrap", "order and repetition", "jump", "restart", "late"],
)
def test_the_kernel_counts_as_userspace_does(way: Way, sequence: list[int]) -> None:
    packets = [rtp(seq) for seq in sequence]
    for packet in packets:
        way.send(packet)
        assert way.b.receive() == packet
    assert totals(way.table) == in_userspace(packets)
    assert quality(way.table).ssrc == SSRC


def test_srtp_counts_what_is_authentic(table: Table) -> None:
    keys = Keys("CM128-80")
    way, sender = Way(table, decrypt=keys.kernel()), keys.userspace()
    try:
        for seq in (1, 2, 4):
            secret = sender.protect(rtp(seq))
            way.send(secret)
            assert way.b.receive() == rtp(seq)
        way.send(secret)
        forged = bytearray(sender.protect(rtp(5)))
        forged[-1] ^= 1
        way.send(bytes(forged))
        assert way.b.nothing()
        assert totals(table) == {"expected": 4, "lost": 1, "skips": 1}
    finally:
        way.close()


def test_rtcp_in_between_is_no_pause(way: Way) -> None:
    way.send(rtp(1))
    way.send(b"\x80\xc9\x00\x01" + bytes(4))
    assert way.daemon.receive()
    way.send(rtp(3))
    assert way.b.receive() == rtp(1)
    assert way.b.receive() == rtp(3)
    assert totals(way.table) == {"expected": 3, "lost": 1, "skips": 1}


def test_what_went_up_is_no_gap(way: Way) -> None:
    """Here since the target says so; counters and quality go on with the next one."""
    way.send(rtp(1))
    assert way.b.receive() == rtp(1)
    way.table.update(*way.args, flags=C.MEDIAPROXY_F_PASS)
    way.send(rtp(2))
    assert way.daemon.receive() == rtp(2)
    way.table.update(*way.args)
    way.send(rtp(30))
    way.send(rtp(32))
    assert [way.b.receive(), way.b.receive()] == [rtp(30), rtp(32)]
    assert totals(way.table) == {"expected": 4, "lost": 1, "skips": 1}


def _jitter_ms(table: Table) -> float:
    found = quality(table)
    return found.jitter / 16 / (found.ticks / 2**32 * 1e9) * 1000 if found.ticks else 0.0


def test_jitter_goes_by_the_clock_of_the_payload_type(table: Table) -> None:
    way = Way(table, clocks=[96 << 24 | 48000])
    try:
        for seq in range(100):
            # Timestamps that jump to and fro by a tenth of a second, of packets that come at once.
            stamp = 4800 * (seq % 2)
            packet = rtp(seq, payload_type=96)
            way.send(packet[:4] + stamp.to_bytes(4, "big") + packet[8:])
            way.b.receive()
        assert quality(table).type == 128 | 96
        assert 50 < _jitter_ms(table) < 1000
        way.send(rtp(100, payload_type=97))
        way.b.receive()
        assert (quality(table).type, quality(table).ticks) == (128 | 97, 0)
        assert totals(table) == {"expected": 101}
    finally:
        way.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs hardware: one processor here")
def test_packets_of_one_stream_on_two_processors(table: Table) -> None:
    """Each number once, half of them from each; whatever their order, none is counted twice."""
    way, count = Way(table), 2000
    start = threading.Barrier(2)

    def send(first: int, processor: int) -> None:
        os.sched_setaffinity(0, {processor})
        start.wait(30)
        for seq in range(first, count, 2):
            way.send(rtp(seq))

    try:
        threads = [threading.Thread(target=send, args=(n, n)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert eventually(lambda: table.counters(IN).packets == count)
        found = quality(table).totals
        assert found.duplicates == 0
        assert found.lost <= count and found.expected <= count
    finally:
        way.close()
