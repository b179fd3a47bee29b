"""RTP as RTP: headers, families, and what is handed up."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from abi import TTL, C, Table, eventually, seen, tables
from conftest import rules
from network import RULES, A, B, Party, host, inside, relay, run
from packets import ONE_BYTE, TWO_BYTE, rtp

IN, OUT = 30000, 30002
FAMILIES = [(False, False), (True, True), (False, True), (True, False)]


class Way:
    """From A over the relay to B; ``daemon`` is the socket to which the relay hands up."""

    def __init__(self, table: Table, v6_in: bool = False, v6_out: bool = False, **more: object) -> None:
        self.table = table
        self.a = Party(A, (host(A, v6_in), 20000))
        self.b = Party(B, (host(B, v6_out), 20002))
        self.local = (relay(A, v6_in), IN)
        self.daemon = Party("", self.local)
        self.source = (relay(B, v6_out), OUT)
        self.args = (self.local, self.a.address, self.source, self.b.address)
        table.add(*self.args, **more)

    def close(self) -> None:
        for party in (self.a, self.b, self.daemon):
            party.socket.close()

    def send(self, data: bytes) -> None:
        self.a.send(data, self.local)


@pytest.fixture
def way(table: Table) -> Iterator[Way]:
    made = Way(table)
    yield made
    made.close()


@pytest.mark.parametrize(("v6_in", "v6_out"), FAMILIES)
def test_families(table: Table, v6_in: bool, v6_out: bool) -> None:
    way = Way(table, v6_in, v6_out)
    try:
        for seq in range(5):
            way.send(rtp(seq))
            assert way.b.receive_from() == (rtp(seq), way.source)
        assert way.daemon.nothing()
        assert seen(table.counters(IN)) == (5, 5 * 172, 0, {})
    finally:
        way.close()


@pytest.mark.parametrize("commands", RULES, ids=["nft", "legacy"])
def test_front_ends(_hosts: None, commands: tuple[str, str]) -> None:
    with Table(0) as table, rules(*commands):
        for v6 in (False, True):
            way = Way(table, v6, v6)
            way.send(rtp(1))
            assert way.b.receive() == rtp(1)
            table.delete(way.local)
            way.send(rtp(2))
            assert way.daemon.receive() == rtp(2)
            way.close()


@pytest.mark.parametrize(
    "packet",
    [
        rtp(1, b""),
        rtp(1, bytes(1400)),
        rtp(1, csrc=15),
        rtp(1, extension=ONE_BYTE),
        rtp(1, extension=TWO_BYTE, csrc=2),
        rtp(1, b"", extension=ONE_BYTE),
        rtp(1, marker=1, payload_type=63),
        rtp(1, marker=1, payload_type=96),
    ],
    ids=["empty", "long", "csrc", "one-byte", "two-byte", "extension only", "marker", "dynamic"],
)
def test_rtp_of_all_kinds(way: Way, packet: bytes) -> None:
    way.send(packet)
    assert way.b.receive() == packet


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x80",
        rtp(1)[:11],
        b"\x00" * 200,
        b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),
        b"\x16\xfe\xff" + bytes(100),
        b"\x80\xc8\x00\x06" + bytes(24),
        b"\x80\xc0" + bytes(26),
        b"\x80\xdf" + bytes(26),
        rtp(1, b"", csrc=1)[:14],
        rtp(1, b"", extension=b"\xbe\xde\xff\xff"),
        rtp(1, b"", extension=b"\xbe"),
        b"\x40" + rtp(1)[1:],
        b"\xc0" + rtp(1)[1:],
    ],
    ids=[
        "empty",
        "one byte",
        "short",
        "zeros",
        "stun",
        "dtls",
        "rtcp",
        "rtcp 192",
        "rtcp 223",
        "csrc beyond",
        "extension beyond",
        "extension cut",
        "version 1",
        "version 3",
    ],
)
def test_what_is_no_rtp_goes_up(way: Way, packet: bytes) -> None:
    way.send(packet)
    assert way.daemon.receive() == packet
    assert way.b.nothing()
    assert seen(way.table.counters(IN)) == (0, 0, 1, {})


@pytest.mark.parametrize("v6", [False, True])
def test_other_sources_go_up(table: Table, v6: bool) -> None:
    way = Way(table, v6, v6)
    try:
        with Party(A, (host(A, v6), 20001)) as other_port, Party(B, (host(B, v6), 20000)) as other_host:
            for party in (other_port, other_host):
                party.send(rtp(1), way.local)
                assert way.daemon.receive() == rtp(1)
        with Party("", (relay(B, v6), IN)) as other_address:
            way.a.send(rtp(2), other_address.address)
            assert other_address.receive() == rtp(2)
        assert way.b.nothing()
        assert seen(table.counters(IN)) == (0, 0, 0, {})
    finally:
        way.close()


def test_any_local_address(table: Table) -> None:
    with Party(A, (host(A), 20000)) as a, Party(B, (host(B), 20002)) as b:
        table.add(("0.0.0.0", IN), a.address, (relay(B), OUT), b.address)
        for address in (relay(A), relay(B)):
            a.send(rtp(1), (address, IN))
            assert b.receive() == rtp(1)


@pytest.mark.parametrize(("v6_in", "v6_out"), FAMILIES)
def test_header_fields(table: Table, v6_in: bool, v6_out: bool) -> None:
    way = Way(table, v6_in, v6_out)
    level, ttl, tos = (
        (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, socket.IPV6_TCLASS)
        if v6_in
        else (socket.IPPROTO_IP, socket.IP_TTL, socket.IP_TOS)
    )
    try:
        way.a.socket.setsockopt(level, ttl, 33)
        way.a.socket.setsockopt(level, tos, 0x68 | 1)
        way.send(rtp(1))
        assert way.b.receive_with_header() == (rtp(1), 0x69, 32)
        table.update(*way.args, flags=C.MEDIAPROXY_F_TOS, tos=184)
        way.send(rtp(2))
        assert way.b.receive_with_header() == (rtp(2), 185, 32)
    finally:
        way.close()


@pytest.mark.parametrize("v6", [False, True])
def test_the_last_hop(table: Table, v6: bool) -> None:
    way = Way(table, v6, v6)
    try:
        if v6:
            way.a.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
        else:
            way.a.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        way.send(rtp(1))
        assert way.b.nothing() and way.daemon.nothing()
        assert seen(table.counters(IN)) == (0, 0, 0, {TTL: 1})
    finally:
        way.close()


@pytest.mark.parametrize(("v6_in", "v6_out"), FAMILIES)
def test_checksums_are_made_and_verified(table: Table, v6_in: bool, v6_out: bool) -> None:
    """Without offload on any side, the receiving host's own check accepts what was forwarded."""
    devices = [(A, "eth0"), ("relay", "to_a"), ("relay", "to_b"), (B, "eth0")]
    way = Way(table, v6_in, v6_out)
    try:
        for namespace, device in devices:
            run("ip", "netns", "exec", namespace, "ethtool", "-K", device, "tx", "off", "rx", "off")
        for length in (0, 1, 159, 160):
            way.send(rtp(1, bytes(range(length))))
            assert way.b.receive() == rtp(1, bytes(range(length)))
    finally:
        for namespace, device in devices:
            run("ip", "netns", "exec", namespace, "ethtool", "-K", device, "tx", "on", "rx", "on")
        way.close()


def test_pass_hands_everything_up(way: Way) -> None:
    way.send(rtp(1))
    assert way.b.receive() == rtp(1)
    way.table.update(*way.args, flags=C.MEDIAPROXY_F_PASS)
    way.send(rtp(2))
    assert way.daemon.receive() == rtp(2)
    assert seen(way.table.counters(IN)) == (1, 172, 1, {})


def test_no_route_is_an_error(table: Table) -> None:
    with Party(A, (host(A), 20000)) as a:
        table.add((relay(A), IN), a.address, (relay(B), OUT), ("192.0.2.1", 4000))
        a.send(rtp(1), (relay(A), IN))
        assert eventually(lambda: seen(table.counters(IN))[3] != {})
        table.update((relay(A), IN), a.address, (relay(B), OUT), (host(B), 4000))
        assert seen(table.counters(IN)) == (0, 0, 0, {C.MEDIAPROXY_DROP_OUTPUT: 1})


def test_a_new_route_is_taken(way: Way) -> None:
    """Routes are kept; one that goes away must not be."""
    way.send(rtp(1))
    assert way.b.receive() == rtp(1)
    run("ip", "link", "set", "to_b", "down")
    way.send(rtp(2))
    run("ip", "link", "set", "to_b", "up")
    run("ip", "addr", "add", f"{relay(B, True)}/64", "dev", "to_b", "nodad", check=False)
    way.send(rtp(3))
    assert way.b.receive() == rtp(3)
    assert seen(way.table.counters(IN))[3] == {C.MEDIAPROXY_DROP_OUTPUT: 1}


def test_another_namespace_has_other_tables(way: Way) -> None:
    with inside(A):
        assert tables() == []
