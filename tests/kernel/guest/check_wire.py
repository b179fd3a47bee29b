"""Packets that are not what their headers say, and packets in pieces: forwarded whole, handed up, or left to the stack.

KASAN, in make test-kernel-debug, proves that none of them makes the module read past an end.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from abi import Table, seen
from check_forward import IN, Way
from frames import Wire, addresses4, addresses6, ip4, ip6, udp
from network import run
from packets import ONE_BYTE, Keys, rtp

PORTS = (20000, IN)
UDP_SEGMENT = 103  # linux/udp.h
MORE_FRAGMENTS, FRAGMENT_HEADER, HOP_BY_HOP, DESTINATION_OPTIONS = 0x2000, 44, 0, 60
NOP4 = b"\x01\x01\x01\x01"


def udp4(payload: bytes, **lies: int) -> bytes:
    return udp(addresses4(), PORTS, payload, **lies)


def udp6(payload: bytes, **lies: int) -> bytes:
    return udp(addresses6(), PORTS, payload, **lies)


def extended(kind: int, datagram: bytes) -> bytes:
    """A datagram behind an extension header of eight bytes that has nothing but padding (RFC 8200 4.2)."""
    return ip6(bytes([17, 0, 1, 4, 0, 0, 0, 0]) + datagram, next_header=kind)


def fragments4(datagram: bytes, cut: int) -> list[bytes]:
    return [ip4(datagram[:cut], fragment=MORE_FRAGMENTS), ip4(datagram[cut:], fragment=cut // 8)]


def fragments6(datagram: bytes, cut: int) -> list[bytes]:
    def piece(offset: int, more: int, data: bytes) -> bytes:
        return ip6(struct.pack("!BBHI", 17, 0, offset | more, 99) + data, next_header=FRAGMENT_HEADER)

    return [piece(0, 1, datagram[:cut]), piece(cut, 0, datagram[cut:])]


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def way(table: Table, request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(table, request.param, request.param)
    made.send(rtp(0))  # the neighbours get to know each other
    made.b.receive()
    yield made
    made.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        yield made


def cases(table: dict[str, Sequence[bytes | None]]) -> list[Any]:
    """The frames that a table has, of either family: for ``way`` and ``name``."""
    ways = [(v6, name) for name, frames in table.items() for v6 in (False, True) if frames[v6] is not None]
    return [pytest.param(v6, name, id=f"{'IPv6' if v6 else 'IPv4'}, {name}") for v6, name in ways]


def both(packet: bytes, **lies: int) -> tuple[bytes, bytes]:
    return ip4(udp4(packet, **lies)), ip6(udp6(packet, **lies))


FORWARDED: dict[str, tuple[bytes | None, bytes | None]] = {
    "as it should be": both(rtp(1)),
    "header extension": both(rtp(1, extension=ONE_BYTE)),
    "IPv4 options": (ip4(udp4(rtp(1)), options=NOP4 * 10), None),
    "IPv4 without a checksum": (ip4(udp4(rtp(1), check=0)), None),
    "padding behind the IP packet": (ip4(udp4(rtp(1))) + bytes(9), ip6(udp6(rtp(1))) + bytes(9)),
}


@pytest.mark.parametrize(("way", "name"), cases(FORWARDED), indirect=["way"])
def test_honest_frames(way: Way, wire: Wire, name: str) -> None:
    frame = FORWARDED[name][way.a.v6]
    assert frame is not None
    wire.send(frame)
    assert way.b.receive() == (rtp(1, extension=ONE_BYTE) if name == "header extension" else rtp(1))
    assert way.daemon.nothing()


# What the module lets pass; and what the socket gets then: the stack drops what is broken.
LIES: dict[str, tuple[bytes | None, bytes | None, bytes | None]] = {
    "UDP length beyond the packet": (*both(rtp(1), length=65535), None),
    "UDP length one too long": (*both(rtp(1), length=8 + 173), None),
    "UDP length shorter": (*both(rtp(1), length=8 + 172 - 1), None),
    "UDP length below 8": (*both(rtp(1), length=7), None),
    "UDP length 0": (ip4(udp4(rtp(1), length=0)), None, None),
    "UDP length of a jumbogram": (None, ip6(udp6(rtp(1), length=0)), rtp(1)),  # RFC 2675 4; the stack takes it as 180
    "wrong checksum": (*both(rtp(1), check=0x1234), None),
    "IPv6 without a checksum": (None, ip6(udp6(rtp(1), check=0)), None),
    "half a UDP header": (ip4(udp4(rtp(1))[:4]), ip6(udp6(rtp(1))[:4]), None),
    "no UDP header": (ip4(b""), ip6(b""), None),
    "IP length beyond the frame": (ip4(udp4(rtp(1)), length=500), ip6(udp6(rtp(1)), length=500), None),
    "IP length cuts RTP": (ip4(udp4(rtp(1)), length=20 + 8 + 11), ip6(udp6(rtp(1)), length=8 + 11), None),
    "IPv6 hop-by-hop options": (None, extended(HOP_BY_HOP, udp6(rtp(1))), rtp(1)),
    "IPv6 destination options": (None, extended(DESTINATION_OPTIONS, udp6(rtp(1))), rtp(1)),
    "UDP-Lite": (ip4(udp4(rtp(1)), protocol=136), ip6(udp6(rtp(1)), next_header=136), None),
}


@pytest.mark.parametrize(("way", "name"), cases(LIES), indirect=["way"])
def test_lies_are_not_forwarded(way: Way, wire: Wire, name: str) -> None:
    frame, up = LIES[name][way.a.v6], LIES[name][2]
    assert frame is not None
    wire.send(frame)
    if up is None:
        assert way.daemon.nothing()
    else:
        assert way.daemon.receive() == up
    assert way.b.nothing()
    packets, _, _, drops = seen(way.table.counters(IN))
    assert (packets, drops) == (1, {})
    way.send(rtp(9))
    assert way.b.receive() == rtp(9)


def test_fragments(way: Way, wire: Wire) -> None:
    """IPv4's are put together before the rule; IPv6's behind it, so they go up."""
    packet = rtp(1, bytes(range(200)))
    pieces = fragments6(udp6(packet), 104) if way.a.v6 else fragments4(udp4(packet), 104)
    for piece in pieces:
        wire.send(piece)
    assert (way.daemon if way.a.v6 else way.b).receive() == packet
    for piece in pieces[1:]:
        wire.send(piece)
    assert way.b.nothing() and way.daemon.nothing()


@pytest.mark.parametrize("suite", [None, "CM128-80", "F8-80"])
def test_larger_than_the_link(way: Way, suite: str | None) -> None:
    """The relay is the sender of what it sends, and may cut it."""
    keys = Keys(suite) if suite else None
    way.table.update(*way.args, encrypt=keys.kernel() if keys else None)
    packet = rtp(1, bytes(range(256)) * 11)
    way.send(packet)
    if way.a.v6:  # in fragments, so through the socket
        assert way.daemon.receive() == packet
    else:
        assert way.b.receive() == (keys.userspace().protect(packet) if keys else packet)


@pytest.mark.parametrize("size", [12, 172, 1000])
def test_aggregates_go_up(way: Way, size: int) -> None:
    """One buffer with several datagrams in it (GSO); the socket gets them one by one."""
    packets = [rtp(seq, bytes(size - 12)) for seq in range(4)]
    way.a.socket.sendmsg([b"".join(packets)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", size))], 0, way.local)
    for packet in packets:
        assert way.daemon.receive() == packet
    assert way.b.nothing()
    assert seen(way.table.counters(IN))[0] == 1


def splice(party: socket.socket, *parts: bytes) -> None:
    """One datagram, of which all parts but the first are memory pages that do not lie behind each other."""
    reader, writer = os.pipe()
    try:
        party.send(parts[0], socket.MSG_MORE)
        for part in parts[1:]:
            os.write(writer, part)
            os.splice(reader, party.fileno(), len(part), flags=0 if part is parts[-1] else 4)  # SPLICE_F_MORE
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("suite", [None, "CM128-80"])
@pytest.mark.parametrize("cuts", [(5, 40), (12, 100), (13, 14), (30,)], ids=str)
def test_in_scattered_memory(way: Way, suite: str | None, cuts: tuple[int, ...]) -> None:
    keys = Keys(suite) if suite else None
    way.table.update(*way.args, decrypt=keys.kernel() if keys else None)
    packet = keys.userspace().protect(rtp(1)) if keys else rtp(1)
    ends = [0, *cuts, len(packet)]
    way.a.socket.connect(way.local)
    splice(way.a.socket, *(packet[start:end] for start, end in zip(ends, ends[1:], strict=False)))
    assert way.b.receive() == rtp(1)
    assert way.daemon.nothing()


def test_random_frames(way: Way, wire: Wire) -> None:
    """Good frames with a few bytes changed, cut off or added; the stream works afterwards."""
    draw = random.Random(7)
    good = [frame for frames in FORWARDED.values() for frame in frames if frame]
    for keys in (None, Keys("CM128-80", mki=b"\1")):
        way.table.update(*way.args, decrypt=keys.kernel() if keys else None)
        for _ in range(400):
            frame = bytearray(draw.choice(good))
            for _ in range(draw.randrange(4)):
                frame[draw.randrange(len(frame))] = draw.randrange(256)
            wire.send(bytes(frame[: draw.randrange(20, len(frame) + 1)]) + bytes(draw.randrange(3)))
    way.table.update(*way.args)
    way.b.drain()
    way.send(rtp(7777))
    assert way.b.receive() == rtp(7777)


def test_a_shared_packet_is_left_alone(way: Way) -> None:
    """Who listens on the wire has the same memory: it must not see what the module makes of it."""
    keys = Keys("CM128-80")
    way.table.update(*way.args, encrypt=keys.kernel())
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD if way.a.v6 else 0x0800)) as tap:
        tap.bind(("to_a", 0x86DD if way.a.v6 else 0x0800))
        tap.settimeout(5)
        way.send(rtp(1))
        assert way.b.receive() == keys.userspace().protect(rtp(1))
        assert tap.recv(2000).endswith(rtp(1))


def test_the_link_layer_address_is_kept_out(way: Way) -> None:
    """A frame for another host on the same cable is none of ours (promiscuous mode)."""
    run("ip", "link", "set", "to_a", "promisc", "on")
    try:
        with Wire() as wire:
            wire.there = b"\x02\0\0\0\0\x99"
            wire.send(both(rtp(1))[way.a.v6])
        assert way.b.nothing() and way.daemon.nothing()
    finally:
        run("ip", "link", "set", "to_a", "promisc", "off")
    assert seen(way.table.counters(IN))[0] == 1
