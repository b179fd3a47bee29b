"""STUN and DTLS on media ports: what becomes an event, what a flood of them may cost, and what Python sends back."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_parties import Party, Relay, eventually, rtp, udp_socket
from rtpengine._packetpath import ffi, lib

from rtpengine.media import Endpoint, Learning
from rtpengine.packetpath import DtlsReceived, Event, PacketPath, SourceConfirmed, StunReceived

COOKIE = b"\x21\x12\xa4\x42"
DTLS = b"\x16\xfe\xff" + bytes(8) + b"\0\x04" + b"abcd"


def attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def stun(attributes: bytes = b"", kind: int = 1) -> bytes:
    """A STUN message (RFC 8489 5)."""
    return kind.to_bytes(2, "big") + len(attributes).to_bytes(2, "big") + COOKIE + bytes(12) + attributes


def check(ufrag: str) -> bytes:
    """A connectivity check as a browser words it, but for its integrity."""
    return stun(attribute(0x24, bytes(4)) + attribute(0x8029, bytes(8)) + attribute(6, f"{ufrag}:them".encode()))


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with udp_socket(4, "127.0.0.9") as sock:
        yield sock


def take(path: PacketPath, count: int) -> list[Event]:
    """That many events but for settled sources, as soon as they are there."""
    found: list[Event] = []

    def enough() -> bool:
        found.extend(event for event in path.events() if not isinstance(event, SourceConfirmed))
        return len(found) >= count

    eventually(enough)
    return found


def where(sock: socket.socket) -> Endpoint:
    return Endpoint(*sock.getsockname()[:2])


@pytest.mark.parametrize("family", [4, 6])
def test_stun_and_dtls_become_events(path: PacketPath, family: int) -> None:
    with Relay(path, (family, family)).connect(a={"stun": True, "dtls": True}) as relay:
        relay.a.send(check("us"), DTLS, rtp(1))
        assert relay.b.receive() == rtp(1)
        assert take(path, 2) == [
            StunReceived(relay.a.stream, relay.a.endpoint, check("us")),
            DtlsReceived(relay.a.stream, relay.a.endpoint, DTLS),
        ]
        state = relay.a.state
        assert (state.packets, state.drops) == (1, {})


def test_without_the_flags_they_are_relayed_unseen(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        relay.a.send(check("us"), DTLS)
        assert [relay.b.receive(), relay.b.receive()] == [check("us"), DTLS]
        assert path.events() == []


def test_what_only_looks_like_stun_is_relayed(path: PacketPath) -> None:
    odd = [stun()[:19], stun().replace(COOKIE, bytes(4)), b"\4" + stun()[1:]]
    with Relay(path).connect(a={"stun": True}) as relay:
        relay.a.send(*odd)
        assert [relay.b.receive() for _ in odd] == odd


@pytest.mark.parametrize(
    "data", [stun(), DTLS, b"\x10\x00", b"\x40\x00\x00\x00", b"\x50", b"\xff" * 40], ids=lambda data: data[:1].hex()
)
def test_nothing_but_srtp_passes_a_secure_stream(path: PacketPath, data: bytes) -> None:
    with Relay(path).connect(a={"secure": True}) as relay:
        relay.a.send(data)
        eventually(lambda: relay.a.state.drops)
        assert relay.a.state.drops == {"authentication": 1}
        assert relay.a.state.last_packet is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (stun(bytes(2029)), "malformed"),
        (DTLS + bytes(2032), "malformed"),
        (DTLS[:12], "malformed"),
    ],
)
def test_what_cannot_be_an_event(path: PacketPath, data: bytes, reason: str) -> None:
    with Relay(path).connect(a={"stun": True, "dtls": True}) as relay:
        relay.a.send(data)
        eventually(lambda: relay.a.state.drops)
        assert relay.a.state.drops == {reason: 1}
        assert path.events() == []


def test_the_longest_datagram_that_is_an_event(path: PacketPath) -> None:
    longest = DTLS + bytes(2048 - len(DTLS))
    with Relay(path).connect(a={"stun": True, "dtls": True}) as relay:
        relay.a.send(longest, stun(bytes(2028)))
        assert [event.data for event in take(path, 2)] == [longest, stun(bytes(2028))]  # type: ignore[union-attr]


def test_events_keep_their_order_through_many_reads(path: PacketPath) -> None:
    messages = [stun(attribute(0x8022, i.to_bytes(2, "big") * (i % 9))) for i in range(60)]
    with Relay(path).connect(a={"stun": True}) as relay:
        relay.a.send(*messages)
        found = take(path, 60)
        assert [event.data for event in found] == messages  # type: ignore[union-attr]


# Who may speak DTLS: the rules are test_learn_proven.py's, here that they are asked.


def test_dtls_of_strangers_is_refused(path: PacketPath, stranger: socket.socket) -> None:
    with Relay(path).connect(a={"dtls": True, "stun": True}) as relay:
        stranger.sendto(DTLS, relay.a.relay)
        eventually(lambda: relay.a.state.drops)
        assert relay.a.state.drops == {"source": 1}
        stranger.sendto(stun(), relay.a.relay)
        assert take(path, 1) == [StunReceived(relay.a.stream, where(stranger), stun())]


@pytest.mark.parametrize("why", [{"stranger_allowed": True}, {"peer": None}, {"alias": "127.0.0.9"}])
def test_dtls_of_strangers_who_may_be_the_party(path: PacketPath, stranger: socket.socket, why: Any) -> None:
    with Relay(path).connect(a={"dtls": True, **why}) as relay:
        stranger.sendto(DTLS, relay.a.relay)
        assert take(path, 1) == [DtlsReceived(relay.a.stream, where(stranger), DTLS)]


def test_with_ice_dtls_needs_a_check(path: PacketPath, stranger: socket.socket) -> None:
    with Relay(path).connect(a={"dtls": True, "ice": True}) as relay:
        relay.a.send(DTLS)
        eventually(lambda: relay.a.state.drops == {"source": 1})
        path.validate(relay.a.stream, where(stranger), nominated=False)
        stranger.sendto(DTLS, relay.a.relay)
        assert take(path, 1) == [DtlsReceived(relay.a.stream, where(stranger), DTLS)]


# Validated sources


def test_media_follows_the_nominated_source(path: PacketPath, stranger: socket.socket) -> None:
    with Relay(path).connect(a={"ice": True}) as relay:
        assert relay.a.state.peer is None
        relay.b.send(rtp(1))
        eventually(lambda: relay.b.state.drops == {"muted": 1})
        path.validate(relay.a.stream, relay.a.endpoint, nominated=False)
        assert (relay.a.state.peer, relay.a.state.confirmed) == (relay.a.endpoint, False)
        assert relay.a.state.last_packet is None
        relay.b.send(rtp(2))
        assert relay.a.receive() == rtp(2)
        path.events()
        before = time.monotonic()
        path.validate(relay.a.stream, where(stranger), nominated=True)
        assert path.events() == [SourceConfirmed(relay.a.stream, where(stranger))]
        assert (relay.a.state.peer, relay.a.state.confirmed) == (where(stranger), True)
        assert before <= path.last_packet(relay.a.stream) <= time.monotonic()
        relay.b.send(rtp(3))
        assert stranger.recv(2000) == rtp(3)
        relay.a.send(rtp(4))
        assert relay.b.receive() == rtp(4)
        stranger.sendto(rtp(5), relay.a.relay)
        assert relay.b.receive() == rtp(5)


def test_with_ice_the_sdp_is_no_proof(path: PacketPath) -> None:
    with Relay(path).connect(a={"ice": True}) as relay:
        relay.a.send(rtp(1))
        eventually(lambda: relay.a.state.drops == {"source": 1})
        assert relay.a.state.last_packet is None


# Floods

KNOWN_BURST, STRANGERS_BURST, ALL_STRANGERS_BURST = 64, 16, 100


def flood(path: PacketPath, party: Party, sender: socket.socket, data: bytes, count: int) -> list[Event]:
    """What becomes of that many datagrams, sent in bursts that no socket buffer loses, as events."""
    events: list[Event] = []
    dropped = sum(party.state.drops.values())
    for sent in range(50, count + 1, 50):
        for _ in range(50):
            sender.sendto(data, party.relay)

        def all_counted(sent: int = sent) -> bool:
            events.extend(event for event in path.events() if not isinstance(event, SourceConfirmed))
            return len(events) + sum(party.state.drops.values()) - dropped == sent

        eventually(all_counted)
    return events


@pytest.mark.parametrize(
    ("data", "known", "burst"),
    [
        (stun(), True, KNOWN_BURST),
        (DTLS, True, KNOWN_BURST),
        (stun(), False, STRANGERS_BURST),
        (check("us"), False, KNOWN_BURST),
        (check("usx"), False, STRANGERS_BURST),
    ],
    ids=["known STUN", "known DTLS", "unknown STUN", "checks that name us", "checks that do not"],
)
def test_a_flood_is_cut_off(path: PacketPath, stranger: socket.socket, data: bytes, known: bool, burst: int) -> None:
    with Relay(path).connect(a={"stun": True, "dtls": True, "ufrag": "us"}) as relay:
        before = time.monotonic()
        passed = len(flood(path, relay.a, relay.a.sock if known else stranger, data, 400))
        allowed = burst + 2 + 100 * (time.monotonic() - before)
        assert burst <= passed <= allowed
        assert relay.a.state.drops == {"flood": 400 - passed}


def test_a_flood_of_one_kind_leaves_the_other_its_tokens(path: PacketPath) -> None:
    with Relay(path).connect(a={"stun": True, "dtls": True}) as relay:
        flood(path, relay.a, relay.a.sock, stun(), 100)
        relay.a.send(DTLS)
        assert {type(event) for event in take(path, 1)} >= {DtlsReceived}


def test_a_flood_of_strangers_does_not_keep_the_party_out(path: PacketPath, stranger: socket.socket) -> None:
    with Relay(path).connect(a={"stun": True, "dtls": True, "stranger_allowed": True, "ufrag": "us"}) as relay:
        for data in (stun(), DTLS, check("they")):
            flood(path, relay.a, stranger, data, 100)
        relay.a.send(DTLS, stun())
        with udp_socket(4, "127.0.0.8") as elsewhere:
            elsewhere.sendto(check("us"), relay.a.relay)
            found = take(path, 3)
        assert {event.data for event in found} >= {DTLS, stun(), check("us")}  # type: ignore[union-attr]


def test_a_flood_of_neighbours_behind_one_nat_does_not_keep_the_party_out(path: PacketPath) -> None:
    with Relay(path).connect(a={"stun": True, "dtls": True}) as relay:
        with udp_socket(4, relay.a.sock.getsockname()[0]) as neighbour:
            before = time.monotonic()
            passed = len(flood(path, relay.a, neighbour, DTLS, 200))
            assert KNOWN_BURST <= passed <= KNOWN_BURST + 2 + 100 * (time.monotonic() - before)
        relay.a.send(*[DTLS] * 20)
        assert len(take(path, 20)) == 20


def test_a_spray_over_many_ports_is_cut_off(path: PacketPath, stranger: socket.socket) -> None:
    parties = [Party(path) for _ in range(40)]
    for party in parties:
        party.configure(stun=True, ice=True)
    before = time.monotonic()
    for party in parties:
        for _ in range(10):
            stranger.sendto(stun(), party.relay)
    events: list[Event] = []

    def all_counted() -> bool:
        events.extend(path.events())
        return len(events) + path.stats().drops.get("flood", 0) == 400

    eventually(all_counted)
    assert ALL_STRANGERS_BURST <= len(events) <= ALL_STRANGERS_BURST + 2 + 500 * (time.monotonic() - before)
    for party in parties:
        party.close()


def bucket(start: int = 0) -> Any:
    return ffi.new("uint64_t *", start)


def test_a_bucket() -> None:
    tokens = bucket()
    second = 1_000_000_000
    assert [lib.bucket_take(tokens, second, 3, 10) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert lib.bucket_take(tokens, second + second // 10, 3, 10) == 1
    assert lib.bucket_take(tokens, second + second // 10, 3, 10) == 0
    lib.bucket_give_back(tokens, 10)
    assert lib.bucket_take(tokens, second + second // 10, 3, 10) == 1
    assert [lib.bucket_take(tokens, 9 * second, 3, 10) for _ in range(4)] == [1, 1, 1, 0]


@given(st.lists(st.integers(0, 300_000_000), max_size=60), st.integers(1, 20), st.integers(1, 1000))
def test_a_bucket_never_gives_more_than_it_may(gaps: list[int], burst: int, rate: int) -> None:
    tokens, now, given_at = bucket(), 10**12, []
    for gap in gaps:
        now += gap
        if lib.bucket_take(tokens, now, burst, rate):
            given_at.append(now)
    for i, first in enumerate(given_at):
        for n, last in enumerate(given_at[i:], 1):
            assert n <= burst + (last - first) * rate / 1e9 + 1e-3


# Attributes that a STUN message may come with: only an honest USERNAME of ours makes a stranger known.


@pytest.mark.parametrize(
    ("message", "known"),
    [
        (check("us"), True),
        (stun(attribute(6, b"us:")), True),
        (stun(attribute(6, b"us")), False),
        (stun(attribute(6, b"us2:x")), False),
        (stun(attribute(6, b"")), False),
        (stun(attribute(6, b"us:x"), kind=0x0101), False),
        (stun(attribute(6, b"us:x"), kind=0x0011), False),
        (stun(b"\0\6\0\x20us:x"), False),
        (stun(b"\0\6\0"), False),
        (stun(attribute(6, b"no:x") + attribute(6, b"us:x")), False),
        (stun(attribute(0x8022, b"odd") + attribute(6, b"us:x")), True),
        (stun(attribute(0x8022, b"") * 31 + attribute(6, b"us:x")), True),
        (stun(attribute(0x8022, b"") * 32 + attribute(6, b"us:x")), False),
        (stun(attribute(0x8022, b"")[:2] + b"\xff\xff"), False),
        (stun(b"\x80\x22\0\5abcde"), False),
    ],
)
def test_who_names_us(path: PacketPath, stranger: socket.socket, message: bytes, known: bool) -> None:
    """A stranger's bucket is emptied first: what still passes is known."""
    with Relay(path).connect(a={"stun": True, "ufrag": "us"}) as relay:
        for _ in range(STRANGERS_BURST + 14):
            stranger.sendto(stun(), relay.a.relay)
        eventually(lambda: relay.a.state.drops.get("flood", 0) >= 14)
        before = relay.a.state.drops["flood"]
        path.events()
        # so many that what a slow machine lets the bucket regain meanwhile is not enough; the known have room for them
        for _ in range(KNOWN_BURST - 1):
            stranger.sendto(message, relay.a.relay)
        stranger.sendto(check("us"), relay.a.relay)
        events: list[Event] = []
        eventually(lambda: events.extend(path.events()) or check("us") in [e.data for e in events])  # type: ignore[func-returns-value, union-attr]
        assert (relay.a.state.drops["flood"] == before) is known


@pytest.mark.parametrize("ufrag", ["", "u" * 32])
def test_ufrags_at_the_limits(path: PacketPath, stranger: socket.socket, ufrag: str) -> None:
    with Relay(path).connect(a={"stun": True, "ufrag": ufrag}) as relay:
        stranger.sendto(check(ufrag), relay.a.relay)
        assert take(path, 1) == [StunReceived(relay.a.stream, where(stranger), check(ufrag))]
        with pytest.raises(ValueError, match="33 bytes"):
            relay.a.configure(ufrag="u" * 33)


# Sending


@pytest.mark.parametrize("family", [4, 6])
def test_send_leaves_from_the_streams_socket(path: PacketPath, family: int) -> None:
    party = Party(path, family)
    path.send(party.stream, party.endpoint, b"hello")
    assert party.sock.recvfrom(100)[0] == b"hello"
    path.send(party.stream, party.endpoint, b"")
    data, source = party.sock.recvfrom(100)
    assert (data, source[:2]) == (b"", party.relay)
    assert party.state.errors == 0
    party.close()


@pytest.mark.parametrize("to", [Endpoint("127.255.255.255", 9), Endpoint("::1", 9)])
def test_what_the_system_refuses_is_lost(path: PacketPath, to: Endpoint) -> None:
    party = Party(path)
    path.send(party.stream, to, b"hello")
    assert party.state.errors == 1
    assert path.stats().errors == 1
    party.close()


def test_ids_and_addresses_are_checked(path: PacketPath) -> None:
    party = Party(path)
    nowhere = Endpoint("192.0.2.1", 0)
    for call in (
        lambda stream, to: path.send(stream, to, b"x"),
        lambda stream, to: path.validate(stream, to, nominated=True),
    ):
        with pytest.raises(OSError) as caught:
            call(party.stream, nowhere)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError) as caught:
            call(party.stream + 1, party.endpoint)
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(ValueError, match="not an IP address"):
            call(party.stream, Endpoint("example.com", 9))
    with pytest.raises(OSError) as caught:
        party.configure(secure=True, rtp=False)
    assert caught.value.errno == errno.EINVAL
    party.close()


def test_learning_off_and_dtls(path: PacketPath, stranger: socket.socket) -> None:
    with Relay(path).connect(a={"dtls": True, "learning": Learning.OFF}) as relay:
        stranger.sendto(DTLS, relay.a.relay)
        relay.a.send(DTLS)
        assert take(path, 1) == [DtlsReceived(relay.a.stream, relay.a.endpoint, DTLS)]
        assert relay.a.state.drops == {"source": 1}
