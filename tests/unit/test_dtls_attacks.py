"""What strangers send at a DTLS port, before, during and after the handshake of the peer: nothing of it matters."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable

import pytest
from dtls_wire import (
    CLIENT,
    GOOD_CIPHERS,
    OURS,
    SERVER,
    STRANGER,
    THEIRS,
    TODAY,
    RawPeer,
    Wire,
    client,
    cookie_of,
    handshake,
    hello,
    hello_body,
    knock,
    meeting,
    message,
    record,
    server,
    split,
)
from OpenSSL import SSL

from rtpengine.dtls import (
    MAX_RECEIVED,
    MAX_UNVERIFIED,
    MAX_UNVERIFIED_PER_NETWORK,
    Certificate,
    DtlsConnected,
    DtlsEndpoint,
    DtlsFailed,
)
from rtpengine.dtls_association import HANDSHAKE_S
from rtpengine.dtls_records import MAX_HELLO_LEN
from rtpengine.media import Endpoint

MALLORY = Certificate.generate(TODAY)
NOISE = random.Random(4)

FATAL = b"\x02\x28"
CLOSE_NOTIFY = b"\x01\x00"

# Datagrams that need no answer to have their effect, if there is any.
SHOTS = {
    "hello with cipher 0x0000": hello(),
    "hello": hello(ciphers=GOOD_CIPHERS),
    "hello with a made-up cookie": hello(b"c" * 16, GOOD_CIPHERS),
    "first fragment of a hello": record(22, message(1, hello_body(), 0, 0, 60)),
    "first fragment without its cookie": record(22, message(1, hello_body(), 0, 0, 34)),
    "second fragment of a hello": record(22, message(1, hello_body(), 0, 20)),
    "fragment past the end": record(22, message(1, hello_body(), 0, 20, None, 30)),
    "hello of 16 MB": record(22, message(1, hello_body(), length=0xFFFFFF)),
    "hello longer than we take": record(22, message(1, hello_body(), length=MAX_HELLO_LEN + 1)),
    "hello that is cut off": record(22, hello()[13:40]),
    "hello of DTLS 1.3 alone": hello().replace(b"\xfe\xfd", b"\xfe\xfc"),
    "server hello": record(22, message(2, bytes(80))),
    "hello verify request": record(22, message(3, b"\xfe\xff\x10" + bytes(16))),
    "certificate": record(22, message(11, bytes(300), 1)),
    "finished in the clear": record(22, message(20, bytes(12), 5)),
    "finished of the next epoch": record(22, bytes(48), epoch=1),
    "change cipher spec": record(20, b"\x01"),
    "fatal alert": record(21, FATAL),
    "fatal alert of the next epoch": record(21, bytes(26), epoch=1),
    "close_notify": record(21, CLOSE_NOTIFY),
    "application data": record(23, b"x" * 100),
    "application data of the next epoch": record(23, b"x" * 100, epoch=1),
    "empty record": record(22, b""),
    "a hundred empty records": record(22, b"") * 100,
    "heartbeat": record(24, b"\x01\x40\x00"),
    "record that is longer than the datagram": record(22, bytes(50))[:-1],
    "header alone": record(22, b"")[:12],
    "one byte": b"\x16",
    "nothing": b"",
    "version of TLS": record(22, hello()[13:], version=b"\x03\x03"),
    "good record and rubbish": hello() + b"\xff\xff",
    "noise": bytes([22]) + NOISE.randbytes(500),
    "noise in a record": record(22, NOISE.randbytes(500)),
    "datagram of 60 kB": record(22, bytes(16000)) * 4,
}
AFTER_COOKIE = {
    "cipher 0x0000": b"\x00\x00",
    "a cipher of RSA": b"\x00\x9c",
    "good ciphers and then silence": GOOD_CIPHERS,
}


def shoot(data: bytes) -> Callable[[Wire, DtlsEndpoint, Endpoint], None]:
    """An attack of one datagram, a few times."""

    def attack(wire: Wire, target: DtlsEndpoint, source: Endpoint) -> None:
        for _ in range(3):
            target.receive(data, source, wire.now)

    return attack


def knocking(ciphers: bytes) -> Callable[[Wire, DtlsEndpoint, Endpoint], None]:
    """An attack by someone who returns cookies, from a few ports."""

    def attack(wire: Wire, target: DtlsEndpoint, source: Endpoint) -> None:
        wire.collect()
        for number in range(5):
            place = source._replace(port=1000 + number)
            target.receive(hello(ciphers=ciphers), place, wire.now)
            for _, request in target.take_output():
                target.receive(hello(cookie_of(request), ciphers), place, wire.now)
            target.take_output()

    return attack


def certified(wire: Wire, target: DtlsEndpoint, source: Endpoint) -> None:
    """An attack by someone who completes the handshake, but is another."""
    wire.collect()
    mallory = client(certificate=MALLORY)
    mallory.start(SERVER, wire.now)
    for _ in range(4):
        for _, data in mallory.take_output():
            target.receive(data, source, wire.now)
        for _, data in target.take_output():
            mallory.receive(data, SERVER, wire.now)
    assert mallory.state == ("handshake" if target is wire.endpoints[CLIENT] else "failed: tlsv1 alert unknown ca")


ATTACKS = {
    **{name: shoot(data) for name, data in SHOTS.items()},
    **{f"cookie returned, {name}": knocking(ciphers) for name, ciphers in AFTER_COOKIE.items()},
    "handshake with another certificate": certified,
}


def connected_once(wire: Wire, address: Endpoint) -> bool:
    return [type(event) for event in wire.events[address]].count(DtlsConnected) == 1


@pytest.mark.parametrize("target", [CLIENT, SERVER], ids=["at the client", "at the server"])
@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_stranger(attack: Callable[[Wire, DtlsEndpoint, Endpoint], None], when: str, target: Endpoint) -> None:
    wire = handshake()
    victim = wire.endpoints[target]
    if when == "before":
        attack(wire, victim, STRANGER)
        wire.run(seconds=0.05)
    for datagrams in range(1, 7) if when == "during" else ():
        wire.run(until=lambda count=datagrams: len(wire.sent) >= count)
        attack(wire, victim, STRANGER)
    wire.connect()
    if when == "after":
        attack(wire, victim, STRANGER)
        wire.run(seconds=0.5)
    assert wire.states() == ["connected", "connected"]
    wire.assert_same_keys()
    assert connected_once(wire, CLIENT) and connected_once(wire, SERVER)
    failures = [event for events in wire.events.values() for event in events if isinstance(event, DtlsFailed)]
    assert {event.remote.address for event in failures} <= {STRANGER.address} and len(failures) <= 1
    assert when != "after" or not failures


@pytest.mark.parametrize("target", [CLIENT, SERVER], ids=["at the client", "at the server"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_in_the_name_of_the_peer(attack: Callable[[Wire, DtlsEndpoint, Endpoint], None], target: Endpoint) -> None:
    """Who forges the peer's address cannot end or change what is connected."""
    wire = handshake()
    wire.connect()
    victim = wire.endpoints[target]
    attack(wire, victim, SERVER if target == CLIENT else CLIENT)
    victim.handle_timeout(wire.now + HANDSHAKE_S)
    assert (victim.state, victim.take_events()) == ("connected", [])
    # it still works: close_notify arrives
    wire.endpoints[SERVER if target == CLIENT else CLIENT].close()
    wire.run(seconds=0.2)
    assert victim.state == "closed"


@pytest.mark.parametrize("attack", SHOTS.values(), ids=SHOTS)
def test_an_answer_is_not_larger_than_the_question(attack: bytes) -> None:
    passive = server(OURS.fingerprint)
    passive.receive(attack, STRANGER, 5.0)
    assert sum(len(data) for _, data in passive.take_output()) <= len(attack)


def sessions() -> int:
    """How many associations OpenSSL has in memory."""
    gc.collect()
    return sum(isinstance(thing, SSL.Connection) for thing in gc.get_objects())


def test_hellos_without_a_cookie_take_no_memory() -> None:
    passive = server(OURS.fingerprint)
    before = sessions()
    for number in range(1000):
        passive.receive(hello(ciphers=GOOD_CIPHERS), Endpoint(f"198.51.{number % 250}.1", number), 5.0)
    assert len(passive.take_output()) == 1000
    assert (sessions(), passive.state, passive.take_events()) == (before, "new", [])


@pytest.mark.parametrize(
    ("address", "most"),
    [
        (lambda number: f"198.51.{number % 250}.{number // 250}", MAX_UNVERIFIED),
        (lambda number: "198.51.100.1", MAX_UNVERIFIED_PER_NETWORK),
        (lambda number: f"2001:db8:{number:x}::1", MAX_UNVERIFIED),
        (lambda number: f"2001:db8::{number:x}:1", MAX_UNVERIFIED_PER_NETWORK),
    ],
    ids=["many hosts", "one host", "many IPv6 networks", "one IPv6 network"],
)
def test_hellos_with_a_cookie_take_bounded_memory(address: Callable[[int], str], most: int) -> None:
    passive = server(OURS.fingerprint)
    before = sessions()
    for number in range(300):
        knock(passive, Endpoint(address(number), 1000 + number), 5.0, GOOD_CIPHERS)
    assert sessions() - before == most
    assert passive.take_events() == []
    passive.handle_timeout(5.0 + HANDSHAKE_S)
    assert (sessions() - before, passive.deadline) == (0, None)
    assert len(passive.take_events()) == 1


def test_a_flood_of_one_host_does_not_push_the_peer_out() -> None:
    wire = handshake()
    passive = wire.endpoints[SERVER]
    wire.run(until=lambda: len(wire.sent) >= 4)
    for number in range(100):
        knock(passive, STRANGER._replace(port=1000 + number), wire.now, GOOD_CIPHERS)
    wire.connect()
    wire.assert_same_keys()
    assert passive.deadline is None


def test_who_has_finished_is_not_pushed_out_before_its_fingerprint_is_known() -> None:
    """Neither by hellos nor by others who finish, however many."""
    active, passive = client(THEIRS.fingerprint), server()
    wire = meeting(active, passive)
    wire.run(seconds=0.2)
    for number in range(2 * MAX_UNVERIFIED):
        knock(passive, Endpoint(f"198.51.100.{number}", 9), wire.now, GOOD_CIPHERS)
    wire.collect()
    for number in range(2 * MAX_UNVERIFIED):
        place = Endpoint(f"203.0.113.{number}", 9)
        wire.endpoints[place] = other = client(certificate=MALLORY)
        other.start(SERVER, wire.now)
        wire.run(seconds=0.07)
    passive.handle_timeout(wire.now + HANDSHAKE_S)
    finished = [endpoint.state == "unverified" for endpoint in wire.endpoints.values()]
    assert sum(finished) == MAX_UNVERIFIED
    passive.expect((OURS.fingerprint,))
    wire.run(seconds=0.1)
    wire.assert_same_keys()
    assert connected_once(wire, SERVER)


def test_each_reason_is_told_once() -> None:
    """Else strangers could fill the log."""
    passive = server(OURS.fingerprint)
    for number in range(50):
        knock(passive, STRANGER._replace(port=1000 + number), 5.0)
    [failure] = passive.take_events()
    assert (failure.reason, passive.state) == ("no shared cipher", "failed: no shared cipher")
    wire = meeting(client(THEIRS.fingerprint), passive)
    wire.connect()
    wire.assert_same_keys()


def test_the_bad_hello_gets_an_alert_and_its_sender_may_try_again() -> None:
    passive = server(OURS.fingerprint)
    [alert] = knock(passive, CLIENT, 1000.0)
    assert (alert[0], alert[13:]) == (21, FATAL)
    wire = meeting(client(THEIRS.fingerprint), passive)
    wire.connect()
    wire.assert_same_keys()


def test_the_largest_datagram() -> None:
    """What OpenSSL could not read in one piece is not handed to it."""
    raw, passive = RawPeer(SERVER, alpn=400, mtu=8000), server()
    [(_, long_hello)] = raw.take_output()
    assert len(long_hello) > 5000
    passive.receive(long_hello + record(20, bytes(MAX_RECEIVED - 12 - len(long_hello))), CLIENT, 5.0)
    assert passive.take_output() == []
    passive.receive(long_hello + record(20, bytes(MAX_RECEIVED - 13 - len(long_hello))), CLIENT, 5.0)
    assert len(passive.take_output()) == 1


def test_records_of_a_past_handshake_come_again() -> None:
    """Replayed by somebody who has seen them all, in the peer's name and in his own."""
    wire = handshake()
    wire.connect()
    passive = wire.endpoints[SERVER]
    for source in (CLIENT, STRANGER):
        for data in wire.sent:
            for single in split(data):
                passive.receive(single, source, wire.now)
    assert (passive.state, passive.take_events(), passive.deadline) == ("connected", [], None)
    wire.endpoints[CLIENT].close()
    wire.run(seconds=0.2)
    assert passive.state == "closed"
