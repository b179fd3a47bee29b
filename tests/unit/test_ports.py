"""The port pool: which ports it hands out, and that it loses none."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ResourceError
from rtpengine.ports import REST_S, PortPool

LOW, HIGH = 20000, 20019  # ten pairs


def pool(port_min: int = LOW, port_max: int = HIGH, choose: int = 0, **more: object) -> PortPool:
    """A pool whose random source says ``choose``, as far as there are so many."""
    return PortPool("127.0.0.77", port_min, port_max, choose=lambda n: min(choose, n - 1), **more)  # type: ignore[arg-type]


def take(ports: PortPool, pairs: int = 1, now: float = 0.0) -> int:
    """Take ports and close their sockets."""
    port, sockets = ports.take(pairs, now)
    for sock in sockets:
        sock.close()
    return port


@contextmanager
def occupied(*ports: int) -> Iterator[None]:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ports]
    try:
        for sock, port in zip(sockets, ports, strict=True):
            sock.bind(("127.0.0.77", port))
        yield
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize("address", ["127.0.0.77", "::1"])
@pytest.mark.parametrize("pairs", [1, 3])
def test_sockets_are_consecutive_from_an_even_port(address: str, pairs: int) -> None:
    ports = PortPool(address, LOW, HIGH)
    port, sockets = ports.take(pairs, 0.0)
    assert port % 2 == 0
    assert LOW <= port <= HIGH + 1 - 2 * pairs
    assert [sock.getsockname()[:2] for sock in sockets] == [(address, port + i) for i in range(2 * pairs)]
    assert all(not sock.getblocking() and not sock.get_inheritable() for sock in sockets)
    assert (ports.free, ports.used) == (10 - pairs, pairs)
    for sock in sockets:
        sock.close()


def test_an_address_that_is_not_here_yet_can_be_bound() -> None:
    for address in ("192.0.2.1", "2001:db8::1"):
        take(PortPool(address, LOW, HIGH))


@pytest.mark.parametrize(
    ("address", "level", "option"),
    [
        ("127.0.0.77", socket.IPPROTO_IP, socket.IP_TOS),
        ("::1", socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ],
)
@pytest.mark.parametrize("tos", [0, 184])
def test_tos(address: str, level: int, option: int, tos: int) -> None:
    _, sockets = PortPool(address, LOW, HIGH, tos=tos).take(1, 0.0)
    assert [sock.getsockopt(level, option) for sock in sockets] == [tos, tos]
    for sock in sockets:
        sock.close()


def test_ipv6_sockets_leave_ipv4_alone() -> None:
    _, sockets = PortPool("::1", LOW, HIGH).take(1, 0.0)
    assert all(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) for sock in sockets)
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize(
    ("port_min", "port_max", "pairs"),
    [(20000, 20001, 1), (20000, 20002, 1), (20001, 20003, 1), (20001, 20002, 0), (20000, 20000, 0), (20000, 20009, 5)],
)
def test_only_whole_pairs_inside_the_range_count(port_min: int, port_max: int, pairs: int) -> None:
    ports = pool(port_min, port_max)
    assert ports.free == pairs
    assert {take(ports) for _ in range(pairs)} == set(range(port_min + port_min % 2, port_max, 2))
    with pytest.raises(ResourceError, match="Ran out of ports"):
        ports.take(1, 0.0)


def test_excluded_ports_are_never_used() -> None:
    ports = pool(exclude=[20002, 20007, 30000])
    assert ports.free == 8
    assert {take(ports) for _ in range(8)} == set(range(LOW, HIGH, 2)) - {20002, 20006}


def test_every_pair_can_be_the_first() -> None:
    assert {take(pool(choose=i)) for i in range(10)} == set(range(LOW, HIGH, 2))


def test_the_default_source_covers_the_range() -> None:
    """300 draws from ten miss one of them with probability 10 * 0.9 ** 300, about 2e-13."""
    assert {take(PortPool("127.0.0.77", LOW, HIGH)) for _ in range(300)} == set(range(LOW, HIGH, 2))


def test_ports_in_use_are_passed_over_and_tried_again_later() -> None:
    ports = pool()
    with occupied(LOW, LOW + 5):
        assert {take(ports) for _ in range(8)} == set(range(LOW, HIGH, 2)) - {LOW, LOW + 4}
        with pytest.raises(ResourceError, match="Ran out of ports") as error:
            ports.take(1, 1.0)
        assert error.value.detail == (
            "IPv4 address 127.0.0.77, ports 20000 to 20019: no pair is left, 8 of 10 are in use, other programs have 2"
        )
        assert (ports.free, ports.used) == (2, 8)
    assert {take(ports, now=2.0), take(ports, now=2.0)} == {LOW, LOW + 4}


def test_all_ports_in_use_ends_after_each_was_tried() -> None:
    ports = pool()
    with occupied(*range(LOW, HIGH, 2)), pytest.raises(ResourceError, match="Ran out of ports"):
        ports.take(1, 0.0)
    assert (ports.free, ports.used) == (10, 0)


def test_a_pair_rests_before_it_is_used_again() -> None:
    ports = pool()
    first = take(ports)
    ports.give_back(first, 1, 100.0)
    assert ports.used == 0
    others = [take(ports, now=100.0) for _ in range(9)]
    assert first not in others
    for port in others:
        ports.give_back(port, 1, 101.0)
    assert take(ports, now=100.0 + REST_S) == first


def test_the_longest_resting_goes_first_when_nothing_else_is_free() -> None:
    ports = pool(port_max=20003)
    given = [take(ports), take(ports)]
    ports.give_back(given[1], 1, 100.0)
    ports.give_back(given[0], 1, 101.0)
    assert [take(ports, now=101.5), take(ports, now=101.5)] == [given[1], given[0]]


def test_several_pairs_need_a_gap_that_is_wide_enough() -> None:
    ports = pool()
    taken = [take(ports) for _ in range(10)]
    for port in taken:
        if port != 20010:
            ports.give_back(port, 1, 0.0)
    assert take(ports, pairs=5, now=100.0) == LOW
    assert take(ports, pairs=4, now=100.0) == 20012
    with pytest.raises(ResourceError, match="Ran out of ports"):
        ports.take(1, 100.0)


@pytest.mark.parametrize("choose", [0, 3, 9])
def test_several_pairs_from_a_random_start(choose: int) -> None:
    assert take(pool(choose=choose), pairs=2) == LOW + 2 * min(choose, 8)


def test_several_pairs_out_of_resting_ones() -> None:
    ports = pool()
    ports.give_back(take(ports, pairs=10), 10, 100.0)
    assert take(ports, pairs=10, now=100.1) == LOW


def test_more_pairs_than_there_are() -> None:
    ports = pool()
    with pytest.raises(ResourceError, match="Ran out of ports") as error:
        ports.take(11, 0.0)
    assert "no 11 consecutive pairs are left, 0 of 10 are in use, other programs have 0" in error.value.detail
    assert ports.free == 10


def test_several_pairs_avoid_a_port_in_use() -> None:
    with occupied(LOW + 3):
        ports = pool()
        assert take(ports, pairs=2) == LOW + 4
    assert (ports.free, ports.used) == (8, 2)


def test_running_out_of_descriptors_takes_nothing() -> None:
    ports = pool()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        limit = probe.fileno() + 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with pytest.raises(ResourceError, match="Ran out of file descriptors") as error:
            ports.take(4, 0.0)
        assert error.value.detail == f"{limit} files may be open: raise the limit on open files"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (ports.free, ports.used) == (10, 0)
    with socket.socket() as probe:
        assert probe.fileno() == limit - 3
    assert take(ports, pairs=10) == LOW


def test_another_failure_takes_nothing_and_is_told() -> None:
    ports = PortPool("fe80::77", LOW, HIGH)  # EINVAL: a link-local address wants a scope
    with pytest.raises(OSError) as caught:
        ports.take(2, 0.0)
    assert caught.value.errno == errno.EINVAL
    assert (ports.free, ports.used) == (10, 0)


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.floats(0, 4)), max_size=40), st.randoms())
def test_no_port_is_lost_or_handed_out_twice(steps: list[tuple[int, bool, float]], random: object) -> None:
    ports = PortPool("127.0.0.77", LOW, HIGH, choose=random.randrange)  # type: ignore[attr-defined]
    held: list[tuple[int, int]] = []
    now = 0.0
    for pairs, release, wait in steps:
        now += wait
        if release and held:
            port, count = held.pop()
            ports.give_back(port, count, now)
        else:
            try:
                held.append((take(ports, pairs, now), pairs))
            except ResourceError:
                assert ports.free < 10
        in_use = [port + 2 * i for port, count in held for i in range(count)]
        assert len(in_use) == len(set(in_use)) == ports.used
        assert ports.free == 10 - ports.used
