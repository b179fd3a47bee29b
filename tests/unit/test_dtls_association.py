"""Handshakes over a network that loses, doubles, delays and shuffles; foreign peers; datagram sizes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from dtls_wire import (
    CLIENT,
    GOOD_CIPHERS,
    LATENCY_S,
    OURS,
    SERVER,
    Fate,
    RawPeer,
    Wire,
    arrives,
    client,
    cookie_of,
    handshake,
    hello,
    hello_body,
    meeting,
    message,
    record,
    server,
    split,
)

from rtpengine.dtls_association import FIRST_RESEND_S
from rtpengine.dtls_records import parse_records
from rtpengine.srtp import PROFILES, split_exported

# ClientHello, HelloVerifyRequest, ClientHello, ServerHello to Done, Certificate to Finished, Finished
DATAGRAMS = 6
RECORDS = 15


def lose(*numbers: int) -> Fate:
    return lambda number, data: [] if number in numbers else arrives(number, data)


def double(*numbers: int) -> Fate:
    return lambda number, data: [*arrives(number, data)] * (2 if number in numbers else 1)


def late_copy(*numbers: int) -> Fate:
    return lambda number, data: [
        *arrives(number, data),
        *([(0.033, data), (0.3, data)] if number in numbers else []),
    ]


def delay(*numbers: int) -> Fate:
    return lambda number, data: [(0.2 if number in numbers else LATENCY_S, data)]


class Records:
    """Each record travels in a datagram of its own; what befalls it is decided by its number."""

    def __init__(self, lost: Iterable[int] = (), doubled: Iterable[int] = (), backwards: bool = False) -> None:
        self.lost, self.doubled, self.backwards = set(lost), set(doubled), backwards
        self.count = 0

    def __call__(self, number: int, data: bytes) -> list[tuple[float, bytes]]:
        records = split(data)
        carried = []
        for place, single in enumerate(records):
            spot = len(records) - place if self.backwards else place
            copies = 0 if self.count in self.lost else 2 if self.count in self.doubled else 1
            carried += [(LATENCY_S + spot * 1e-4, single)] * copies
            self.count += 1
        return carried


def test_an_undisturbed_handshake_takes_six_datagrams() -> None:
    wire = handshake()
    wire.connect()
    wire.assert_same_keys()
    assert len(wire.sent) == DATAGRAMS
    assert sum(len(split(data)) for data in wire.sent) == RECORDS


@pytest.mark.parametrize("number", range(DATAGRAMS))
@pytest.mark.parametrize("fate", [double, late_copy, delay])
def test_one_datagram_is_not_as_it_should_be(fate: Callable[[int], Fate], number: int) -> None:
    wire = handshake(fate(number))
    wire.connect()
    wire.assert_same_keys()
    assert [len(events) for events in wire.events.values()] == [1, 1]


@pytest.mark.parametrize("number", range(DATAGRAMS - 1))
def test_a_lost_datagram_costs_tenths_of_a_second(number: int) -> None:
    """Of any flight but the last, of which more below."""
    wire = handshake(lose(number))
    start = wire.now
    wire.run(until=wire.all_connected)
    wire.assert_same_keys()
    assert FIRST_RESEND_S < wire.now - start < 0.25


@pytest.mark.parametrize("number", range(RECORDS - 2))
def test_one_record_is_lost(number: int) -> None:
    """Any but the last flight's, which is the same as losing it all."""
    wire = handshake(Records(lost=[number]))
    wire.connect()
    wire.assert_same_keys()


@pytest.mark.parametrize(
    "fate",
    [Records(backwards=True), Records(doubled=range(99)), Records(doubled=range(99), backwards=True)],
    ids=["backwards", "doubled", "doubled backwards"],
)
def test_records_arrive_in_disorder(fate: Records) -> None:
    wire = handshake(fate)
    wire.connect()
    wire.assert_same_keys()


@pytest.mark.parametrize("first", range(DATAGRAMS - 1))
def test_three_in_a_row_are_lost(first: int) -> None:
    wire = handshake(lose(first, first + 1, first + 2))
    wire.connect()
    wire.assert_same_keys()


@pytest.mark.parametrize("seed", [0, 3])
def test_a_third_is_lost_and_the_rest_arrives_somehow(seed: int) -> None:
    chance = random.Random(seed)

    def fate(number: int, data: bytes) -> list[tuple[float, bytes]]:
        copies = chance.choice([0, 1, 2])
        return [(chance.uniform(0.0, 0.15), data) for _ in range(copies)]

    wire = handshake(fate)
    wire.is_real = True
    wire.run(seconds=28, until=wire.all_connected)
    wire.assert_same_keys()


def test_the_last_flight_costs_a_second() -> None:
    """Only OpenSSL can make the Finished that asks for it again; the server is connected all the while."""
    wire = handshake(lose(DATAGRAMS - 1))
    wire.is_real = True
    start = wire.now
    wire.run(seconds=0.4)
    assert wire.states() == ["handshake", "connected"]
    wire.run(until=wire.all_connected)
    wire.assert_same_keys()
    assert wire.now - start < 1.3


def test_a_cookie_that_comes_as_openssls_timer_is_due() -> None:
    """It repeats the hello that was refused, in front of the one with the cookie: no server is to see that."""
    wire = handshake()
    wire.collect()
    time.sleep(1.02)
    wire.connect()
    wire.assert_same_keys()
    assert [len(split(data)) for data in wire.sent[:3]] == [1, 1, 1]


def test_two_hellos_in_one_datagram() -> None:
    """The one with the cookie counts."""
    endpoint = server()
    endpoint.receive(hello(ciphers=GOOD_CIPHERS), CLIENT, 1.0)
    [(_, request)] = endpoint.take_output()
    endpoint.receive(hello(ciphers=GOOD_CIPHERS) + hello(cookie_of(request), GOOD_CIPHERS), CLIENT, 1.0)
    assert endpoint.state == "handshake"
    assert endpoint.take_output()


def test_no_sequence_number_is_used_twice() -> None:
    """Else the peer would drop what is repeated as replayed."""
    wire = handshake(lose(4, 5, 6))
    wire.run(seconds=0.6)
    for kinds in ((1, 15, 16), (2, 12, 13, 14)):
        records = [r for data in wire.sent for r in parse_records(data) if not r.epoch and r.data[13] in kinds]
        numbers = [(r.sequence, r.data[13]) for r in records]
        assert len(numbers) > 2 * len(kinds)
        assert len({sequence for sequence, _ in numbers}) == len(numbers)


@pytest.mark.parametrize("fragments", [slice(0, 2), slice(0, 1)])
def test_fragments_of_a_hello_in_one_datagram(fragments: slice) -> None:
    passive = server(OURS.fingerprint)
    passive.receive(hello(ciphers=GOOD_CIPHERS), CLIENT, 5.0)
    [(_, request)] = passive.take_output()
    body = hello_body(cookie_of(request), GOOD_CIPHERS)
    parts = [record(22, message(1, body, 1, 0, 70), sequence=1), record(22, message(1, body, 1, 70), sequence=2)]
    passive.receive(b"".join(parts[fragments]), CLIENT, 5.0)
    assert (passive.state, len(passive.take_output())) == ("handshake", len(parts[fragments]) - 1)


@pytest.mark.parametrize("latency", [0.05, 0.4])
def test_a_long_way(latency: float) -> None:
    """Everything is repeated before the first answer can be there, requests for cookies too."""
    wire = handshake(lambda number, data: [(latency, data)])
    wire.connect()
    wire.run(seconds=1.0)
    wire.assert_same_keys()
    assert [len(events) for events in wire.events.values()] == [1, 1]
    assert latency < 0.1 or [data[13] for data in wire.sent].count(3) > 1


def test_the_server_goes_on_where_the_hello_was() -> None:
    """RFC 6347 4.2.1: lower numbers may have been those of HelloVerifyRequests, and would look replayed."""
    passive = server(OURS.fingerprint)
    for number in range(3):
        first = record(22, message(1, hello_body(ciphers=GOOD_CIPHERS)), sequence=number)
        passive.receive(first, CLIENT, 5.0)
    requests = [data for _, data in passive.take_output()]
    again = record(22, message(1, hello_body(cookie_of(requests[0]), GOOD_CIPHERS), 1), sequence=7)
    passive.receive(again, CLIENT, 5.0)
    flight = [single for _, data in passive.take_output() for single in parse_records(data)]
    assert [parse_records(data)[0].sequence for data in requests] == [0, 1, 2]
    assert [single.sequence for single in flight] == [7, 8, 9, 10, 11]


@pytest.mark.parametrize("suite", PROFILES.values(), ids=lambda suite: suite.name)
@pytest.mark.parametrize("we_are", ["client", "server"])
@pytest.mark.parametrize("algorithm", ["ECDSA", "RSA"])
def test_a_peer_of_bare_openssl_exports_the_same_keys(suite, we_are: str, algorithm: str) -> None:
    key = rsa.generate_private_key(65537, 2048) if algorithm == "RSA" else ec.generate_private_key(ec.SECP384R1())
    raw = RawPeer(SERVER if we_are == "server" else None, profiles=suite.profile.encode(), key=key)
    if we_are == "server":
        wire = Wire({CLIENT: raw, SERVER: server(raw.fingerprint)})
    else:
        wire = meeting(client(raw.fingerprint), raw)
    wire.connect()
    ours = wire.keys(SERVER if we_are == "server" else CLIENT)
    by_client, by_server = split_exported(raw.export(suite.exported_len), suite.name)
    assert (ours.receive, ours.send) == ((by_client, by_server) if we_are == "server" else (by_server, by_client))
    assert ours.receive.suite == suite.name


@pytest.mark.parametrize(("mtu", "fate"), [(300, arrives), (1200, arrives), (1200, lose(3))])
def test_a_large_hello_in_fragments(mtu: int, fate: Fate) -> None:
    """Its first fragment brings the cookie; what is lost, the peer repeats."""
    raw = RawPeer(SERVER, alpn=130, mtu=mtu)
    wire = Wire({CLIENT: raw, SERVER: server(raw.fingerprint)}, fate)
    wire.is_real = True
    wire.connect()
    assert len(wire.sent[0]) + len(wire.sent[1]) > mtu
    assert wire.keys(SERVER).receive == split_exported(raw.export(60), "AES_CM_128_HMAC_SHA1_80")[0]
