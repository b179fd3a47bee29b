"""SRTP that comes before its keys, from the peer of a DTLS handshake: what is kept, for whom, and how long."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from media_parties import Party, eventually, rtcp, rtp, udp_socket
from secure_parties import SecureParty, keys, session

from rtpengine.media import Endpoint, Learning
from rtpengine.packetpath import DtlsReceived, PacketPath

DTLS = b"\x16\xfe\xfd" + bytes(8) + b"\0\x04" + b"abcd"
PACKETS, KIB, WORKER_KIB, AGE_S = 64, 64, 4096, 1.0
LONG = 1200
LONG_SRTP = 12 + LONG + 10


class EarlyParty(SecureParty):
    """A party in a DTLS handshake, which ends with :meth:`agree`."""

    def __init__(self, path: PacketPath) -> None:
        super().__init__(path, keys(1), keys(2))
        path.protect(self.stream, self.scope, None, None)

    def configure(self, **more: Any) -> None:
        super().configure(**{"dtls": True, "rtcp_mux": True, **more})

    def settle(self) -> None:
        """Wait until the relay has seen all that was sent; what it drops and does not count is kept then."""
        self.send(DTLS)
        eventually(lambda: DtlsReceived(self.stream, self.endpoint, DTLS) in self.path.events())

    def talk_early(self, *packets: bytes) -> None:
        self.talk(*packets)
        self.settle()


class Call:
    """A party in a handshake, and those it talks to."""

    def __init__(self, path: PacketPath) -> None:
        self.path = path
        self.parties: list[Party] = []
        self.receiver: Any = self.add(Party(path))
        self.early = self.add_early()

    def add(self, party: Any) -> Any:
        self.parties.append(party)
        return party

    def add_early(self, **more: Any) -> EarlyParty:
        party: EarlyParty = self.add(EarlyParty(self.path))
        party.configure(**{"rtp_sink": self.receiver.stream, "rtcp_sink": self.receiver.stream, **more})
        return party


def dropped_in_all(path: PacketPath) -> dict[str, int]:
    """The reasons that have occurred, of all streams."""
    return {reason: count for reason, count in path.stats().drops.items() if count}


@pytest.fixture
def call(path: PacketPath) -> Iterator[Call]:
    made = Call(path)
    made.receiver.configure()
    yield made
    for party in made.parties:
        party.close()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with udp_socket(4, "127.0.0.9") as sock:
        yield sock


def packets(count: int, first: int = 1, size: int = 160) -> list[bytes]:
    return [rtp(seq, payload=bytes([seq & 0xFF]) * size) for seq in range(first, first + count)]


def dropped(party: Party, **reasons: int) -> None:
    """Wait until packets of the party were dropped for these reasons, and no others."""
    wanted = {reason.replace("_", " "): count for reason, count in reasons.items()}
    eventually(lambda: sum(party.state.drops.values()) >= sum(wanted.values()))
    assert party.state.drops == wanted


def accounted(party: Party) -> int:
    """How many packets have met their fate; a drop after the key is one of them."""
    state = party.state
    return int(state.packets + sum(state.drops.values()))


# What is kept


def test_a_plain_receiver_gets_it_in_order(call: Call) -> None:
    sent = packets(40, first=65530)
    call.early.talk_early(*sent)
    assert accounted(call.early) == 0
    assert call.early.state.last_packet is None
    assert call.receiver.hears_nothing()
    call.early.agree()
    call.early.talk(rtp(65570))
    assert [call.receiver.receive() for _ in range(41)] == [*sent, rtp(65570)]
    state = call.early.state
    assert (state.packets, state.bytes, state.drops, state.errors) == (41, 41 * 172, {}, 0)
    assert state.last_packet is not None and state.confirmed


@pytest.mark.parametrize("equal", [False, True], ids=["other keys", "equal keys"])
def test_a_receiver_with_srtp_gets_it_in_order(path: PacketPath, call: Call, equal: bool) -> None:
    receiver = call.add(SecureParty(path, keys(3), keys(1 if equal else 4), 2))
    receiver.configure()
    call.early.configure(rtp_sink=receiver.stream, rtcp_sink=receiver.stream)
    sent = packets(40)
    call.early.talk_early(*sent)
    call.early.agree()
    assert [receiver.hear() for _ in sent] == sent
    assert call.early.state.drops == {}


def test_rtcp_goes_where_rtcp_goes(path: PacketPath, call: Call) -> None:
    receiver = call.add(Party(path))
    receiver.configure()
    call.early.configure(rtp_sink=call.receiver.stream, rtcp_sink=receiver.stream)
    call.early.talk(rtp(1))
    call.early.talk_rtcp(rtcp(200))
    call.early.talk_early(rtp(2))
    call.early.agree()
    assert [call.receiver.receive(), call.receiver.receive()] == [rtp(1), rtp(2)]
    assert receiver.receive() == rtcp(200)


def test_handshakes_again_and_again(call: Call) -> None:
    for first in range(1, 1000, 100):
        call.early.talk_early(*packets(3, first))
        call.early.agree()
        assert [call.receiver.receive() for _ in range(3)] == packets(3, first)
        call.path.protect(call.early.stream, 1, None, None)
    assert (call.early.state.packets, call.early.state.drops) == (30, {})


def test_a_key_for_the_other_direction_alone_changes_nothing(call: Call) -> None:
    call.early.talk_early(rtp(1))
    call.path.protect(call.early.stream, 1, None, keys(2))
    assert accounted(call.early) == 0
    call.early.agree()
    assert call.receiver.receive() == rtp(1)


def test_what_the_signalling_says_at_the_end_counts(path: PacketPath, call: Call) -> None:
    """It is judged and routed when it goes on, not when it came."""
    receiver = call.add(Party(path))
    receiver.configure()
    call.early.talk_early(rtp(1))
    call.early.configure(rtp_sink=receiver.stream, rtcp_sink=receiver.stream)
    call.early.agree()
    assert receiver.receive() == rtp(1)
    assert call.receiver.hears_nothing()


def test_bad_packets_are_dropped_for_what_they_are(call: Call) -> None:
    genuine = [call.early.sender.protect(rtp(seq)) for seq in range(1, 4)]
    forged = session(keys(9), inbound=False).protect(rtp(5))
    call.early.send(genuine[0], genuine[1], genuine[0], forged, genuine[1], genuine[2])
    call.early.settle()
    call.early.agree()
    assert [call.receiver.receive() for _ in range(3)] == [rtp(1), rtp(2), rtp(3)]
    assert call.early.state.drops == {"replay": 2, "authentication": 1}
    call.early.send(genuine[2])
    dropped(call.early, replay=3, authentication=1)
    assert call.receiver.hears_nothing()


# Bounds


@pytest.mark.parametrize(
    ("size", "sent", "kept"),
    [(160, PACKETS + 6, PACKETS), (LONG, 60, KIB * 1024 // LONG_SRTP)],
    ids=["packets", "bytes"],
)
def test_the_first_are_kept_and_the_others_dropped(call: Call, size: int, sent: int, kept: int) -> None:
    those = packets(sent, size=size)
    for first in range(0, sent, 10):
        call.early.talk_early(*those[first : first + 10])
    assert call.early.state.drops == {"no key": sent - kept}
    call.early.agree()
    assert [call.receiver.receive() for _ in range(kept)] == those[:kept]
    assert (call.early.state.packets, call.early.state.drops) == (kept, {"no key": sent - kept})
    assert call.receiver.hears_nothing()


def test_a_bound_for_all_streams_of_a_worker(call: Call) -> None:
    each = KIB * 1024 // LONG_SRTP
    parties = [call.add_early() for _ in range(WORKER_KIB // KIB + 6)]
    sealed = [call.early.sender.protect(packet) for packet in packets(each, size=LONG)]
    for party in parties:
        party.send(*sealed, DTLS)
    reported: set[int] = set()

    def all_seen() -> bool:
        reported.update(event.stream for event in call.path.events() if isinstance(event, DtlsReceived))
        return len(reported) == len(parties)

    eventually(all_seen)
    kept = len(parties) * each - call.path.stats().drops.get("no key", 0)
    assert WORKER_KIB * 1024 * 0.9 < kept * LONG_SRTP < WORKER_KIB * 1024
    for party in parties:
        call.path.close_stream(party.stream)
    assert dropped_in_all(call.path) == {"no key": len(parties) * each}
    call.early.talk_early(rtp(999))
    call.early.agree()
    assert call.receiver.receive() == rtp(999)


def test_what_gets_old_is_dropped_by_itself(call: Call) -> None:
    began = time.monotonic()
    call.early.talk_early(*packets(2))
    other = call.add_early()
    time.sleep(AGE_S * 0.4)
    other.talk_early(rtp(9))
    call.early.talk_early(*packets(2, first=3))
    eventually(lambda: accounted(call.early) >= 2)
    assert time.monotonic() - began >= AGE_S
    call.early.agree()
    eventually(lambda: accounted(call.early) == 4)
    gone = call.early.state.drops["no key"]  # the younger ones too, if this took as long
    assert gone >= 2
    assert [call.receiver.receive() for _ in range(4 - gone)] == packets(4)[gone:]
    dropped(other, no_key=1)
    other.agree()
    assert call.receiver.hears_nothing()


# For whom nothing is kept


def test_strangers(call: Call, stranger: socket.socket) -> None:
    call.early.talk_from(stranger, rtp(1))
    dropped(call.early, no_key=1)
    call.early.talk_early(rtp(2))
    call.early.agree()
    assert call.receiver.receive() == rtp(2)
    assert call.early.state.drops == {"no key": 1}


@pytest.mark.parametrize("proven", [False, True])
def test_with_ice_only_who_has_passed_a_check(call: Call, proven: bool) -> None:
    call.early.configure(rtp_sink=call.receiver.stream, rtcp_sink=call.receiver.stream, ice=True, stun=True)
    if not proven:
        call.early.talk(rtp(1))
        dropped(call.early, no_key=1)
        return
    call.path.validate(call.early.stream, call.early.endpoint, nominated=False)
    call.early.talk_early(rtp(1))
    call.early.agree()
    assert call.receiver.receive() == rtp(1)
    assert call.early.state.drops == {}


@pytest.mark.parametrize(
    "config",
    [{"dtls": False}, {"peer": None}, {"peer": None, "learning": Learning.OFF}],
    ids=["no DTLS", "party anywhere", "no party"],
)
def test_without_a_handshake_or_its_peer(call: Call, config: dict[str, Any]) -> None:
    call.early.configure(rtp_sink=call.receiver.stream, rtcp_sink=call.receiver.stream, **config)
    call.early.talk(rtp(1))
    dropped(call.early, no_key=1)
    call.early.agree()
    assert call.receiver.hears_nothing()


def test_what_is_no_media(call: Call) -> None:
    call.early.send(b"\x80" + bytes(7), b"\x80\xcb\0\1" + bytes(4))
    dropped(call.early, no_key=2)


# The end without a key


@pytest.mark.parametrize("flag", ["dtls", "secure"])
def test_the_flag_goes(call: Call, flag: str) -> None:
    call.early.talk_early(*packets(5))
    call.early.configure(rtp_sink=call.receiver.stream, rtcp_sink=call.receiver.stream, **{flag: False})
    assert call.early.state.drops == {"no key": 5}
    call.early.agree()
    assert call.receiver.hears_nothing()
    assert call.early.state.drops == {"no key": 5}


def test_whoever_is_no_longer_the_party(call: Call) -> None:
    call.early.talk_early(rtp(1))
    call.early.configure(rtp_sink=call.receiver.stream, rtcp_sink=call.receiver.stream, peer=Endpoint("127.0.0.7", 9))
    call.early.agree()
    assert call.early.state.drops == {"source": 1}
    assert call.receiver.hears_nothing()


def test_closing_with_a_full_stash(call: Call) -> None:
    call.early.talk_early(*packets(PACKETS + 1))
    call.early.replace_socket()
    assert dropped_in_all(call.path) == {"no key": PACKETS + 1}
    call.early.configure(rtp_sink=call.receiver.stream, rtcp_sink=call.receiver.stream)
    call.early.talk_early(rtp(999))
    call.early.agree()
    assert call.receiver.receive() == rtp(999)
    assert dropped_in_all(call.path) == {"no key": PACKETS + 1}


def test_ending_with_a_full_stash() -> None:
    path = PacketPath(1, 0)
    party = EarlyParty(path)
    party.configure()
    party.talk_early(*packets(PACKETS))
    path.close()
    party.close()
