"""What a packet has on it when it leaves: nothing that it had on it when it came (kernel-module.md P7)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from abi import Table, eventually, seen
from check_forward import IN, Way
from network import A, B, relay, run
from packets import rtp

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python does not name it


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def way(table: Table, request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(table, request.param, request.param)
    yield made
    made.close()


class Rules:
    """Rules of one family, taken away in the end; each is a table, a chain and the rest."""

    def __init__(self, v6: bool, *rules: tuple[str, str, str]) -> None:
        self.command = ["ip6tables-nft" if v6 else "iptables-nft", "-w", "-t"]
        self.rules = rules

    def __enter__(self) -> Rules:
        for table, chain, rest in self.rules:
            run(*self.command, table, "-A", chain, *rest.split())
        return self

    def __exit__(self, *args: object) -> None:
        for table, chain, rest in self.rules:
            run(*self.command, table, "-D", chain, *rest.split())

    def packets(self, table: str, chain: str) -> list[int]:
        """How many each rule of a chain has seen."""
        lines = run(*self.command, table, "-vnxL", chain).splitlines()[2:]
        return [int(line.split()[0]) for line in lines if not line.startswith("#")]  # a warning


def relayed(way: Way, count: int = 5) -> None:
    for seq in range(count):
        way.send(rtp(seq))
        assert way.b.receive() == rtp(seq)
    assert seen(way.table.counters(IN))[0] == count


def test_mark(way: Way) -> None:
    """Else rules and routes for what comes in would count for what goes out."""
    marked = "-p udp -m mark --mark 7"
    with Rules(
        way.a.v6,
        ("mangle", "PREROUTING", "-p udp -j MARK --set-mark 7"),
        ("mangle", "OUTPUT", marked),
        ("mangle", "OUTPUT", "-p udp"),
        ("mangle", "POSTROUTING", marked),
        ("mangle", "POSTROUTING", "-p udp"),
    ) as rules:
        relayed(way)
        assert rules.packets("mangle", "OUTPUT") == [0, 5]
        assert rules.packets("mangle", "POSTROUTING") == [0, 5]


def test_conntrack(way: Way) -> None:
    """What leaves is a connection of its own, from the relay, not the one that came in."""
    own = f"-p udp -m conntrack --ctorigsrc {relay(B, way.a.v6)}"
    foreign = f"-p udp -m conntrack --ctorigsrc {way.a.address[0]}"
    with Rules(way.a.v6, ("mangle", "OUTPUT", own), ("mangle", "OUTPUT", foreign)) as rules:
        relayed(way)
        assert rules.packets("mangle", "OUTPUT") == [5, 0]


def test_source_nat_of_what_leaves(way: Way) -> None:
    """Rules in nat see it as they see what a process sends."""
    with Rules(way.a.v6, ("nat", "POSTROUTING", "-p udp -j SNAT --to-source :40000")) as _:
        way.table.update(way.local, way.a.address, (way.source[0], 30004), way.b.address)  # a flow that none has seen
        way.send(rtp(1))
        assert way.b.receive_from() == (rtp(1), (relay(B, way.a.v6), 40000))


def test_receive_time(way: Way) -> None:
    """fq would take it for a time to send at, far beyond its horizon, and drop the packet."""
    run("tc", "qdisc", "replace", "dev", "to_b", "root", "fq")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stamping:
            stamping.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # all packets get a time now
            relayed(way)
    finally:
        run("tc", "qdisc", "del", "dev", "to_b", "root")


def test_queue(way: Way) -> None:
    """The queue that it came by says nothing about the one that it leaves by, which goes by the flow."""
    run("ip", "link", "add", "many0", "numtxqueues", "4", "type", "dummy")
    there = ("fd77:9::2" if way.a.v6 else "10.77.9.2", 4000)
    try:
        run("ip", "addr", "add", "fd77:9::1/64" if way.a.v6 else "10.77.9.1/24", "dev", "many0", *["nodad"] * way.a.v6)
        run("ip", "link", "set", "many0", "up")
        run("ip", "neigh", "replace", there[0], "lladdr", "02:00:00:00:00:09", "dev", "many0", "nud", "permanent")
        run("tc", "qdisc", "replace", "dev", "many0", "root", "multiq")
        run("tc", "-n", A, "qdisc", "add", "dev", "eth0", "clsact")
        by_queue = ["matchall", "action", "skbedit", "queue_mapping", "3"]
        run("tc", "-n", A, "filter", "add", "dev", "eth0", "egress", *by_queue)
        for flow in range(16):
            way.table.update(way.local, way.a.address, (way.source[0], 30100 + flow), there)
            way.send(rtp(flow))
            assert eventually(lambda flow=flow: seen(way.table.counters(IN))[0] == flow + 1)  # type: ignore[misc]
        lines = run("tc", "-s", "class", "show", "dev", "many0").splitlines()
        counts = [int(line.split()[3]) for line in lines if "Sent" in line]
        assert max(counts) < 16 <= sum(counts)
    finally:
        run("ip", "link", "del", "many0")
        run("tc", "-n", A, "qdisc", "del", "dev", "eth0", "clsact", check=False)


def test_what_leaves_passes_output(way: Way) -> None:
    """A rule in OUTPUT can refuse it; that is counted."""
    with Rules(way.a.v6, ("filter", "OUTPUT", "-p udp -j DROP")):
        way.send(rtp(1))
        assert way.b.nothing()
    assert sum(seen(way.table.counters(IN))[3].values()) == 1
