"""Streams that go on in another process: what waits meanwhile, what is remembered, and that no index is used twice."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
from media_parties import Party, Relay, eventually, rtcp, rtp
from secure_parties import CM80, SecureParty, keys
from test_handover import sources

from rtpengine.media import Endpoint, Progress, SrtpKeys
from rtpengine.memory import SourceMemory, SrtpMemory, StreamMemory
from rtpengine.packetpath import IndexMoved, PacketPath

GCM = "AEAD_AES_128_GCM"


@pytest.fixture
def successor() -> Iterator[PacketPath]:
    other = PacketPath(1, 0)
    yield other
    other.close()


def moved_to(party: Party, path: PacketPath) -> None:
    """Have another packet path adopt the party's socket, which is not read before it is told."""
    sock = socket.socket(fileno=socket.dup(party.path.hold(party.stream)))
    party.path, party.stream = path, path.adopt_stream(0, sock)


def test_a_held_socket_keeps_what_arrives(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        relay.a.send(rtp(1))
        assert relay.b.receive() == rtp(1)
        for _ in range(2):
            assert path.hold(relay.a.stream) > 0
        relay.a.send(rtp(2), rtp(3))
        relay.b.send(rtp(9, ssrc=9))
        assert relay.a.receive() == rtp(9, ssrc=9), "it can still be sent through"
        assert relay.b.hears_nothing()
        for _ in range(2):
            path.resume(relay.a.stream)
        assert [relay.b.receive(), relay.b.receive()] == [rtp(2), rtp(3)]


def test_a_stream_goes_on_in_another_process(path: PacketPath, successor: PacketPath) -> None:
    with Relay(path).connect() as relay:
        for _ in range(3):
            relay.a.send(rtp(1))
            assert relay.b.receive() == rtp(1)
        eventually(lambda: relay.a.state.confirmed)
        memories = [path.save(party.stream) for party in (relay.a, relay.b)]
        assert memories[0].source == relay.a.endpoint and memories[0].heard and memories[0].seq == 1
        assert memories[1] == StreamMemory()
        for party in (relay.a, relay.b):
            moved_to(party, successor)
        relay.connect()
        relay.a.send(rtp(2))
        assert relay.b.hears_nothing(), "not before all is as it was"
        for party, memory in zip((relay.a, relay.b), memories, strict=True):
            successor.restore(party.stream, memory)
            assert successor.save(party.stream) == memory
        for party in (relay.a, relay.b):
            successor.resume(party.stream)
        assert relay.b.receive() == rtp(2)
        assert relay.a.state.confirmed and relay.a.state.packets == 4
        assert relay.a.state.last_packet is not None and relay.b.state.last_packet is None


def test_drops_and_proven_sources_are_remembered(path: PacketPath) -> None:
    with Relay(path).connect(a={"stun": True, "ice": True}) as relay:
        proven = tuple(Endpoint("127.0.0.1", 40000 + n) for n in range(4))
        memory = StreamMemory(
            source=proven[0], rank=5, confirmed=True, nominated=True, heard=True, ssrc=5, seq=65535, identified=True,
            validated=proven, payload_type=127, packets=1 << 40, bytes=1 << 50, errors=3, drops={"flood": 2},
        )  # fmt: skip
        path.restore(relay.a.stream, memory)
        assert path.save(relay.a.stream) == memory
        assert path.state(relay.a.stream).peer == proven[0]


@pytest.mark.parametrize(
    "memory",
    [
        StreamMemory(confirmed=True),
        StreamMemory(nominated=True),
        StreamMemory(source=Endpoint("224.0.0.1", 5)),
        StreamMemory(source=Endpoint("1.2.3.4", 0)),
        StreamMemory(rank=6),
        StreamMemory(rank=-1),
        StreamMemory(seq=65536),
        StreamMemory(payload_type=256),
        StreamMemory(packets=-1),
        StreamMemory(source=Endpoint("nonsense", 5)),
        StreamMemory(validated=(Endpoint("0.0.0.0", 5),)),
        StreamMemory(validated=tuple(Endpoint("1.2.3.4", 5 + n) for n in range(5))),
    ],
)
def test_what_no_stream_can_have_learned_changes_nothing(path: PacketPath, memory: StreamMemory) -> None:
    with Relay(path).connect() as relay:
        relay.a.send(rtp(1))
        relay.b.receive()
        before = path.save(relay.a.stream)
        with pytest.raises((OSError, ValueError)):
            path.restore(relay.a.stream, memory)
        assert path.save(relay.a.stream) == before


def test_closed_streams(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        stream = relay.a.stream
        path.close_stream(stream)
        for action in (path.resume, path.hold, path.save, path.save_srtp):
            with pytest.raises(OSError) as caught:
                action(stream)
            assert caught.value.errno == errno.ENOENT
        for gone in (stream, -1):
            with pytest.raises(OSError):
                path.restore(gone, StreamMemory())
            with pytest.raises(OSError):
                path.restore_srtp(gone, [SrtpMemory(keys(1))], late=False)


# SRTP


class Secure:
    """A in the clear, B under SRTP; the relay protects what goes to B."""

    def __init__(self, path: PacketPath, suite: str = CM80) -> None:
        self.a, self.b = Party(path), SecureParty(path, keys(3, suite), keys(4, suite), 2)
        self.a.configure(rtp_sink=self.b.stream, rtcp_sink=self.b.stream, rtcp_mux=True)
        self.b.configure(rtp_sink=self.a.stream, rtcp_sink=self.a.stream, rtcp_mux=True)

    def move(self, path: PacketPath, late: bool, saved: tuple[SrtpMemory, ...] | None = None) -> None:
        """Go on in another packet path, with what was saved before or is so now."""
        saved = self.b.path.save_srtp(self.b.stream) if saved is None else saved
        for party in (self.a, self.b):
            moved_to(party, path)
        self.a.configure(rtp_sink=self.b.stream, rtcp_sink=self.b.stream, rtcp_mux=True)
        self.b.agree()
        self.b.configure(rtp_sink=self.a.stream, rtcp_sink=self.a.stream, rtcp_mux=True)
        path.restore_srtp(self.b.stream, saved, late=late)
        for party in (self.a, self.b):
            path.resume(party.stream)

    def close(self) -> None:
        self.a.close()
        self.b.close()


@pytest.fixture(params=[CM80, GCM])
def call(request: pytest.FixtureRequest, path: PacketPath) -> Iterator[Secure]:
    made = Secure(path, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("late", [False, True])
def test_rollovers_go_on(call: Secure, successor: PacketPath, late: bool) -> None:
    for seq in (65534, 65535, 65536):
        call.a.send(rtp(seq))
        assert call.b.hear() == rtp(seq)
        call.b.talk(rtp(seq, ssrc=2))
        assert call.a.receive() == rtp(seq, ssrc=2)
    call.move(successor, late)
    for seq in (65540, 65541):
        call.a.send(rtp(seq))
        assert call.b.hear() == rtp(seq), "libsrtp has followed the rollover, and so have we"
        call.b.talk(rtp(seq, ssrc=2))
        assert call.a.receive() == rtp(seq, ssrc=2)


def test_exactly_what_was_seen_is_seen(call: Secure, successor: PacketPath) -> None:
    for seq in (10, 12):
        call.a.send(rtp(seq))
        assert call.b.hear() == rtp(seq)
    call.move(successor, late=False)
    call.a.send(rtp(12, payload=b"other"), rtp(10, payload=b"other"), rtp(11))
    assert call.b.hear() == rtp(11)
    assert call.a.state.drops == {"replay": 2}


def test_late_nothing_older_than_the_first_packet_passes(call: Secure, successor: PacketPath) -> None:
    saved = None
    for seq in (10, 12, 13, 14, 15):
        call.a.send(rtp(seq))
        assert call.b.hear() == rtp(seq)
        if seq == 12:
            saved = call.b.path.save_srtp(call.b.stream)
    call.move(successor, True, saved)
    for seq in (16, 11, 13, 14, 15, 17):
        call.a.send(rtp(seq, payload=b"other"))
    assert [call.b.hear(), call.b.hear()] == [rtp(16, payload=b"other"), rtp(17, payload=b"other")]
    assert call.a.state.drops == {"replay": 4}


@pytest.mark.parametrize(("late", "leap"), [(False, 0), (True, 0x10000)])
def test_rtcp_indices_leap_if_they_may_have_moved(call: Secure, successor: PacketPath, late: bool, leap: int) -> None:
    for _ in range(3):
        call.a.send(rtcp(200))
        assert call.b.hear_rtcp() == rtcp(200)
    call.move(successor, late)
    call.a.send(rtcp(200))
    assert call.b.hear_rtcp() == rtcp(200)
    (sent,) = (one for one in successor.save_srtp(call.b.stream) if one.sending)
    assert sent.rtcp_next == 4 + leap and sent.own_rtcp
    call.b.talk_rtcp(rtcp(201, ssrc=2))
    assert call.a.receive() == rtcp(201, ssrc=2)


def test_a_key_that_comes_back_has_not_forgotten(call: Secure, successor: PacketPath) -> None:
    call.a.send(rtp(10))
    assert call.b.hear() == rtp(10)
    first = call.b.ours
    call.b.ours = keys(5, first.suite)
    call.b.agree()
    saved = call.b.path.save_srtp(call.b.stream)
    assert {one.keys for one in saved if one.sending} == {first, call.b.ours}
    call.move(successor, False, saved)
    call.b.ours = first
    call.b.agree()
    call.a.send(rtp(10, payload=b"other"), rtp(11))
    assert call.b.hear() == rtp(11)


def test_all_that_a_context_knows_survives(path: PacketPath) -> None:
    given = SrtpKeys(*keys(1)[:3], mki=b"\1\2", unencrypted_srtcp=True)
    party = SecureParty(path, given, keys(2))
    sources = tuple(SourceMemory(n, 100 * n, 5 << 64 | n, n, 1) for n in range(1, 60))
    memories = (
        SrtpMemory(given, False, False, 0, sources),
        SrtpMemory(keys(2), True, True, 77, sources[:1], bytes(range(256)) * 2),
        SrtpMemory(keys(9), True, False, 0x80000000, ()),
    )
    path.restore_srtp(party.stream, memories, late=False)
    # The counter of an own direction is never behind what it has seen.
    expected = {
        one.keys: one._replace(rtcp_next=max(one.rtcp_next, 59 if one.keys == given else 1)) for one in memories
    }
    expected[keys(9)] = memories[2]
    assert {one.keys: one for one in path.save_srtp(party.stream)} == expected
    party.close()


@pytest.mark.parametrize(
    "memory",
    [
        SrtpMemory(SrtpKeys("AES_CM_128_HMAC_SHA1_80", b"short", b"")),
        SrtpMemory(SrtpKeys("NONE", b"", b"")),
        SrtpMemory(keys(1), rtcp_next=-1),
        SrtpMemory(keys(1), rtcp_next=1 << 64),
        SrtpMemory(keys(1), sources=(SourceMemory(1 << 32),)),
        SrtpMemory(keys(1), sources=(SourceMemory(1, 1, 1 << 128),)),
        SrtpMemory(keys(1), sources=(SourceMemory(1),) * 129),
        SrtpMemory(keys(1), retired=b"x"),
        SrtpMemory(keys(1, GCM)._replace(unauthenticated_srtp=True)),
    ],
)
def test_no_such_context(path: PacketPath, memory: SrtpMemory) -> None:
    party = SecureParty(path, keys(1), keys(2))
    with pytest.raises((OSError, ValueError)):
        path.restore_srtp(party.stream, [memory], late=True)
    party.close()


def test_a_stream_without_keys_has_none_to_restore(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        assert path.save_srtp(relay.a.stream) == ()
        with pytest.raises(OSError) as caught:
            path.restore_srtp(relay.a.stream, [SrtpMemory(keys(1))], late=False)
        assert caught.value.errno == errno.EINVAL


def test_an_index_that_has_come_far_is_told(call: Secure) -> None:
    path = call.a.path
    moved: set[int] = set()

    def send(*sequence: int) -> set[int]:
        for seq in sequence:
            call.a.send(rtp(seq))
            assert call.b.hear() == rtp(seq)
            call.b.talk(rtp(seq, ssrc=2))
            assert call.a.receive() == rtp(seq, ssrc=2)
        moved.clear()
        moved.update(event.stream for event in path.events() if isinstance(event, IndexMoved))
        return moved

    assert send(1, 2, 16383) == set()
    assert send(16384) == {call.b.stream}
    assert send(16385, 16390) == set()
    assert send(40000, 65535, 65536 + 16400) == {call.b.stream}


def test_an_index_that_has_come_far_in_the_kernel_is_told(path: PacketPath) -> None:
    made = Secure(path)
    path.sync(made.a.stream, Progress(1, 1, {}, sent=sources((1, 100))))
    path.sync(made.a.stream, Progress(1, 1, {}, sent=sources((1, 16384))))
    assert path.events() == []
    path.sync(made.a.stream, Progress(1, 1, {}, sent=sources((1, 16385))))
    assert path.events() == [IndexMoved(made.b.stream)]
    made.close()


def test_passed_on_as_it_is_counts_too(path: PacketPath, successor: PacketPath) -> None:
    shared = keys(1), keys(2)
    a, b = SecureParty(path, shared[0], shared[1], 1), SecureParty(path, shared[1], shared[0], 2)
    a.configure(rtp_sink=b.stream)
    b.configure(rtp_sink=a.stream)
    a.talk(rtp(16383), rtp(16384))
    assert [b.hear(), b.hear()] == [rtp(16383), rtp(16384)]
    assert {event.stream for event in path.events() if isinstance(event, IndexMoved)} == {a.stream, b.stream}
    (sent,) = (one for one in path.save_srtp(b.stream) if one.sending)
    assert [source.rtp_next for source in sent.sources] == [16385]
    a.close()
    b.close()
