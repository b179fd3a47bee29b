"""SRTP through real workers: every translation, with libsrtp at the far end, and what does not pass."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from media_parties import Party, eventually, rtcp, rtp, udp_socket
from pylibsrtp import Error
from secure_parties import CM80, FOREIGN, SecureParty, keys, session

from rtpengine.media import Endpoint, Learning, SrtpKeys
from rtpengine.packetpath import PacketPath
from rtpengine.srtp import SUITES

OTHERS = sorted(set(SUITES) - set(FOREIGN))
MKI = b"\0\0\4\x2a"


@pytest.fixture
def parties() -> Iterator[list[Party]]:
    made: list[Party] = []
    yield made
    for party in made:
        party.close()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with udp_socket(4, "127.0.0.9") as sock:
        yield sock


def connect(a: Party, b: Party, more_a: dict[str, Any] | None = None, more_b: dict[str, Any] | None = None) -> None:
    """Make the streams of both each other's sinks."""
    a.configure(**{"rtp_sink": b.stream, "rtcp_sink": b.stream, **(more_a or {})})
    b.configure(**{"rtp_sink": a.stream, "rtcp_sink": a.stream, **(more_b or {})})


@pytest.fixture
def plain_and_secure(path: PacketPath, parties: list[Party]) -> tuple[Party, SecureParty]:
    a, b = Party(path), SecureParty(path, keys(1), keys(2))
    parties += [a, b]
    connect(a, b)
    return a, b


def secure_pair(path: PacketPath, parties: list[Party], equal: bool, **more: Any) -> tuple[SecureParty, SecureParty]:
    """Two parties with SRTP; with equal keys each hears what the other protects."""
    if equal:
        a = SecureParty(path, keys(1, **more), keys(2, **more), 1)
        b = SecureParty(path, keys(2, **more), keys(1, **more), 2)
    else:
        a = SecureParty(path, keys(1, **more), keys(2, **more), 1)
        b = SecureParty(path, keys(3, **more), keys(4, **more), 2)
    parties += [a, b]
    connect(a, b)
    return a, b


def dropped(party: Party, **reasons: int) -> None:
    """Wait until packets of the party were dropped for these reasons, and no others."""
    wanted = {reason.replace("_", " "): count for reason, count in reasons.items()}
    eventually(lambda: sum(party.state.drops.values()) >= sum(wanted.values()))
    assert party.state.drops == wanted


# Translations


@pytest.mark.parametrize("suite", [*FOREIGN, *OTHERS])
def test_plain_and_secure(path: PacketPath, parties: list[Party], suite: str) -> None:
    a, b = Party(path), SecureParty(path, keys(1, suite), keys(2, suite))
    parties += [a, b]
    connect(a, b, {"rtcp_mux": True}, {"rtcp_mux": True})
    for seq in range(65530, 65546):
        a.send(rtp(seq))
        assert b.hear() == rtp(seq)
        b.talk(rtp(seq, ssrc=2))
        assert a.receive() == rtp(seq, ssrc=2)
        a.send(rtcp(200))
        assert b.hear_rtcp() == rtcp(200)
        b.talk_rtcp(rtcp(201))
        assert a.receive() == rtcp(201)
    assert (a.state.drops, b.state.drops) == ({}, {})
    assert (a.state.packets, b.state.packets) == (32, 32)


@pytest.mark.parametrize("suite", [*FOREIGN, *OTHERS])
@pytest.mark.parametrize("equal", [False, True], ids=["other keys", "equal keys"])
def test_secure_and_secure(path: PacketPath, parties: list[Party], suite: str, equal: bool) -> None:
    a, b = secure_pair(path, parties, equal, suite=suite)
    connect(a, b, {"rtcp_mux": True}, {"rtcp_mux": True})
    for seq in range(65530, 65546):
        for one, other in ((a, b), (b, a)):
            one.talk(rtp(seq))
            assert other.hear() == rtp(seq)
            one.talk_rtcp(rtcp(200))
            assert other.hear_rtcp() == rtcp(200)
    assert (a.state.drops, b.state.drops) == ({}, {})


def test_equal_keys_pass_the_bytes_on(path: PacketPath, parties: list[Party]) -> None:
    a, b = secure_pair(path, parties, equal=True)
    connect(a, b, {"rtcp_mux": True})
    for packet in (a.sender.protect(rtp(1)), a.sender.protect_rtcp(rtcp(200)), a.sender.protect_rtcp(rtcp(206))):
        a.send(packet)
        assert b.receive() == packet


@pytest.mark.parametrize(
    "other",
    [
        keys(1, "AES_CM_128_HMAC_SHA1_32"),
        keys(1, mki=MKI),
        keys(1, unencrypted_srtp=True),
        SrtpKeys(CM80, keys(1).key, keys(1).salt[::-1]),
    ],
    ids=["suite", "MKI", "parameter", "salt"],
)
def test_keys_that_differ_in_one_thing_are_not_equal(path: PacketPath, parties: list[Party], other: SrtpKeys) -> None:
    a, b = SecureParty(path, keys(1), keys(2), 1), SecureParty(path, keys(3), other, 2)
    parties += [a, b]
    connect(a, b)
    a.talk(rtp(1))
    packet = b.receive()
    assert packet != session(keys(1), inbound=False).protect(rtp(1))
    assert b.receiver.unprotect(packet) == rtp(1)


@pytest.mark.parametrize("equal", [False, True], ids=["other MKI", "equal MKI"])
def test_mki(path: PacketPath, parties: list[Party], equal: bool) -> None:
    a = SecureParty(path, keys(1, mki=MKI), keys(2, mki=b"\7" * 255), 1)
    b = SecureParty(path, keys(3), keys(1, mki=MKI if equal else b"\0\0\4\x2b"), 2)
    parties += [a, b]
    connect(a, b, {"rtcp_mux": True}, {"rtcp_mux": True})
    a.talk(rtp(1))
    assert b.hear() == rtp(1)
    b.talk_rtcp(rtcp(200))
    assert a.hear_rtcp() == rtcp(200)
    a.send(session(keys(1, mki=b"\0\0\4\x2c"), inbound=False).protect(rtp(2)))
    dropped(a, authentication=1)


def test_rtcp_on_sockets_of_its_own(path: PacketPath, parties: list[Party]) -> None:
    """Both sockets of a media share keys and indices; the far side multiplexes."""
    a = Party(path)
    b = SecureParty(path, keys(1), keys(2))
    b_rtcp = SecureParty(path, keys(1), keys(2), talker=b)
    parties += [a, b, b_rtcp]
    a.configure(rtp_sink=b.stream, rtcp_sink=b_rtcp.stream, rtcp_mux=True)
    b.configure(rtp_sink=a.stream, rtcp_sink=a.stream)
    b_rtcp.configure(rtp_sink=a.stream, rtcp_sink=a.stream, rtcp_only=True)
    a.send(rtp(1), rtcp(200), rtcp(201))
    assert b.hear() == rtp(1)
    assert [b_rtcp.hear_rtcp(), b_rtcp.hear_rtcp()] == [rtcp(200), rtcp(201)]
    b.talk(rtp(7))
    assert a.receive() == rtp(7)
    b_rtcp.talk_rtcp(rtcp(200))
    assert a.receive() == rtcp(200)
    b_rtcp.talk(rtp(8))
    dropped(b_rtcp, authentication=1)


@pytest.mark.parametrize("secure", ["plain", "other keys", "equal keys"])
def test_feedback_is_stripped_before_encryption(path: PacketPath, parties: list[Party], secure: str) -> None:
    a: Any = Party(path) if secure == "plain" else SecureParty(path, keys(1), keys(2), 1)
    b = SecureParty(path, keys(3), keys(1 if secure == "equal keys" else 4), 2)
    parties += [a, b]
    connect(a, b, {"rtcp_mux": True, "strip_feedback": True})
    send = a.send if secure == "plain" else a.talk_rtcp
    for _ in range(3):
        send(rtcp(200) + rtcp(206) + rtcp(202), rtcp(205))
        assert b.hear_rtcp() == rtcp(200) + rtcp(202)
    dropped(a, filtered=3)


def test_feedback_is_stripped_after_decryption(plain_and_secure: tuple[Party, SecureParty]) -> None:
    a, b = plain_and_secure
    b.configure(rtp_sink=a.stream, rtcp_sink=a.stream, rtcp_only=True, strip_feedback=True)
    b.talk_rtcp(rtcp(206) + rtcp(201))
    assert a.receive() == rtcp(201)


def test_a_burst_of_the_longest_packets(path: PacketPath, parties: list[Party]) -> None:
    most = {"suite": "AEAD_AES_256_GCM", "mki": bytes(255)}
    a, b = Party(path), SecureParty(path, keys(1, **most), keys(2, **most))
    parties += [a, b]
    connect(a, b, {"rtcp_mux": True})
    longest = [rtp(seq, payload=bytes([seq]) * (8192 - 12)) for seq in range(12)]
    a.send(*longest)
    assert [b.hear() for _ in longest] == longest
    a.send(rtcp(200, words=2047))
    packet = b.receive()
    assert len(packet) == 8192 + 275
    assert b.receiver.unprotect_rtcp(packet) == rtcp(200, words=2047)
    short = [rtp(seq) for seq in range(20, 120)]
    b.talk(*short)
    assert [a.receive() for _ in short] == short
    assert b.state.bytes == 172 * 100


# What does not pass


def test_without_keys_nothing_passes(path: PacketPath, parties: list[Party]) -> None:
    a, b = Party(path), SecureParty(path, keys(1), keys(2))
    parties += [a, b]
    connect(a, b)
    path.protect(b.stream, 1, None, None)
    a.send(rtp(1))
    dropped(a, no_key=1)
    assert (a.state.packets, a.state.bytes, a.state.errors) == (1, 172, 0)
    b.talk(rtp(1))
    dropped(b, no_key=1)
    assert (b.state.packets, b.state.last_packet) == (0, None)
    path.protect(b.stream, 1, keys(1), None)
    b.talk(rtp(2))
    assert a.receive() == rtp(2)
    path.protect(b.stream, 1, None, keys(2))
    a.send(rtp(2))
    assert b.hear() == rtp(2)
    b.talk(rtp(3))
    dropped(b, no_key=2)


def test_a_stream_that_never_had_keys(path: PacketPath, parties: list[Party]) -> None:
    a, b = Party(path), Party(path)
    parties += [a, b]
    connect(a, b, {}, {"secure": True})
    a.send(rtp(1))
    dropped(a, no_key=1)
    b.send(rtp(1))
    dropped(b, no_key=1)


def forge(packet: bytes) -> bytes:
    return packet[:-1] + bytes([packet[-1] ^ 1])


BAD: dict[str, tuple[Callable[[SecureParty], bytes], str]] = {
    "plain RTP": (lambda b: rtp(1), "authentication"),
    "wrong tag": (lambda b: forge(b.sender.protect(rtp(1))), "authentication"),
    "wrong keys": (lambda b: bytes(session(keys(9), inbound=False).protect(rtp(1))), "authentication"),
    "cut short": (lambda b: bytes(b.sender.protect(rtp(1)))[:14], "authentication"),
    "the header alone": (lambda b: rtp(1)[:12], "authentication"),
    "what we send": (lambda b: bytes(session(keys(2), inbound=False).protect(rtp(1))), "authentication"),
    "RTCP without mux": (lambda b: bytes(b.sender.protect_rtcp(rtcp(200))), "authentication"),
    "opaque": (lambda b: b"\xc8" + bytes(40), "authentication"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_packet_only_counts(plain_and_secure: tuple[Party, SecureParty], kind: str) -> None:
    a, b = plain_and_secure
    make, reason = BAD[kind]
    b.send(make(b))
    dropped(b, **{reason: 1})
    state = b.state
    assert (state.packets, state.bytes, state.last_packet, state.confirmed) == (0, 0, None, False)
    assert state.payload_type is None
    b.talk(rtp(2))
    assert a.receive() == rtp(2)
    assert b.path.events() != []


@pytest.mark.parametrize("equal", [None, False, True], ids=["to plain", "other keys", "equal keys"])
def test_replays_only_count(path: PacketPath, parties: list[Party], equal: bool | None) -> None:
    a: Any
    if equal is None:
        a, b = Party(path), SecureParty(path, keys(1), keys(2))
        parties += [a, b]
        connect(a, b, None, {"rtcp_mux": True})
    else:
        a, b = secure_pair(path, parties, equal)
        connect(a, b, None, {"rtcp_mux": True})
    packets = [b.sender.protect(rtp(1)), b.sender.protect_rtcp(rtcp(200))]
    b.send(*packets)
    a.receive(), a.receive()
    heard = b.state.last_packet
    b.send(*packets, *packets)
    dropped(b, replay=4)
    assert b.state.last_packet == heard
    assert a.hears_nothing()


def test_what_is_no_rtp_cannot_be_protected(plain_and_secure: tuple[Party, SecureParty]) -> None:
    a, b = plain_and_secure
    a.send(b"x" * 40, b"\0\1" + bytes(30), rtcp(200), b"\x80\0")
    dropped(a, malformed=4)
    a.configure(rtp_sink=b.stream, rtcp_sink=b.stream, rtcp_only=True)
    a.send(b"\x80\xc8\0\1", b"\1\xc8\0\1" + bytes(8))
    dropped(a, malformed=6)
    assert b.hears_nothing()


def test_the_same_packet_twice_is_protected_once(plain_and_secure: tuple[Party, SecureParty]) -> None:
    a, b = plain_and_secure
    a.send(rtp(1), rtp(1), rtp(2))
    assert [b.hear(), b.hear()] == [rtp(1), rtp(2)]
    dropped(a, replay=1)


def test_a_key_that_is_used_up_is_none(plain_and_secure: tuple[Party, SecureParty]) -> None:
    """An SSRC that comes back after many others could only start with an index that it has used before."""
    a, b = plain_and_secure
    for ssrc in range(1, 100):
        a.send(rtp(1, ssrc=ssrc))
        b.receive()
    a.send(rtp(2, ssrc=1))
    dropped(a, no_key=1)


@pytest.mark.parametrize("parameter", ["unencrypted_srtp", "unencrypted_srtcp", "unauthenticated_srtp"])
def test_session_parameters(path: PacketPath, parties: list[Party], parameter: str) -> None:
    a, b = Party(path), SecureParty(path, keys(1, **{parameter: True}), keys(2, **{parameter: True}))
    parties += [a, b]
    connect(a, b, {"rtcp_mux": True}, {"rtcp_mux": True})
    a.send(rtp(1), rtcp(200))
    packets = [b.receive(), b.receive()]
    assert (packets[0][12:172] == rtp(1)[12:]) is (parameter == "unencrypted_srtp")
    assert (packets[1][8:28] == rtcp(200)[8:]) is (parameter == "unencrypted_srtcp")
    assert (len(packets[0]) == 172) is (parameter == "unauthenticated_srtp")
    assert [b.receiver.unprotect(packets[0]), b.receiver.unprotect_rtcp(packets[1])] == [rtp(1), rtcp(200)]
    b.talk(rtp(1))
    b.talk_rtcp(rtcp(200))
    assert [a.receive(), a.receive()] == [rtp(1), rtcp(200)]


# Learning


def test_an_authentic_packet_decides_where_the_party_is(
    plain_and_secure: tuple[Party, SecureParty], stranger: socket.socket
) -> None:
    a, b = plain_and_secure
    b.talk(rtp(1))
    a.receive()
    assert b.path.source(b.stream) == b.endpoint
    b.talk_from(stranger, rtp(2))
    assert a.receive() == rtp(2)
    moved = Endpoint(*stranger.getsockname())
    assert (b.path.source(b.stream), b.state.peer, b.state.confirmed) == (moved, moved, True)
    a.send(rtp(3))
    assert b.receiver.unprotect(stranger.recv(2000)) == rtp(3)
    b.talk(rtp(4))
    assert a.receive() == rtp(4)
    assert b.state.peer == b.endpoint


def test_a_packet_that_was_held_back_moves_nothing(
    plain_and_secure: tuple[Party, SecureParty], stranger: socket.socket
) -> None:
    """The SSRC says that it is old; another SSRC costs a MAC first, and then the index says so."""
    a, b = plain_and_secure
    held, other = b.sender.protect(rtp(1)), b.sender.protect(rtp(1, ssrc=7))
    b.talk(rtp(2, ssrc=7), rtp(2))
    a.receive(), a.receive()
    stranger.sendto(held, b.relay)
    stranger.sendto(other, b.relay)
    dropped(b, source=2)
    assert b.state.peer == b.endpoint


def test_off_and_ice_do_not_follow(plain_and_secure: tuple[Party, SecureParty], stranger: socket.socket) -> None:
    a, b = plain_and_secure
    b.configure(rtp_sink=a.stream, learning=Learning.OFF)
    b.talk_from(stranger, rtp(1))
    dropped(b, source=1)
    b.configure(rtp_sink=a.stream, ice=True)
    b.talk_from(stranger, rtp(2))
    dropped(b, source=2)
    b.path.validate(b.stream, Endpoint(*stranger.getsockname()), nominated=False)
    b.talk_from(stranger, rtp(3))
    assert a.receive() == rtp(3)


def test_forged_packets_of_strangers_cost_no_more_than_their_bucket(
    plain_and_secure: tuple[Party, SecureParty], stranger: socket.socket
) -> None:
    a, b = plain_and_secure
    b.talk(rtp(1))
    a.receive()
    before = (b.state.last_packet, b.state.peer)
    forged = forge(b.sender.protect(rtp(2, ssrc=9)))
    for done in range(50, 401, 50):
        for _ in range(50):
            stranger.sendto(forged, b.relay)
        eventually(lambda done=done: sum(b.state.drops.values()) == done)  # type: ignore[misc]
    drops = b.state.drops
    assert drops["authentication"] >= 64
    assert drops["flood"] >= 200
    assert (b.state.last_packet, b.state.peer) == before
    # neither the party nor its move to another port suffers from that
    b.talk(rtp(3))
    assert a.receive() == rtp(3)
    with udp_socket() as moved:
        b.talk_from(moved, rtp(4))
        assert a.receive() == rtp(4)
        assert b.state.peer == Endpoint(*moved.getsockname())


def test_a_right_packet_costs_its_sender_nothing(
    plain_and_secure: tuple[Party, SecureParty], stranger: socket.socket
) -> None:
    """Learning is off and not strict: another source is heard for as long as it likes."""
    a, b = plain_and_secure
    b.configure(rtp_sink=a.stream, learning=Learning.OFF, strict=False)
    for seq in range(300):
        b.talk_from(stranger, rtp(seq))
        assert a.receive() == rtp(seq)
    assert b.state.drops == {}


def test_without_authentication_the_rules_are_those_of_plain_rtp(
    path: PacketPath, parties: list[Party], stranger: socket.socket
) -> None:
    given = keys(1, unauthenticated_srtp=True)
    a, b = Party(path), SecureParty(path, given, given)
    parties += [a, b]
    connect(a, b)
    b.talk_from(stranger, rtp(1))
    dropped(b, source=1)
    with udp_socket() as same:
        b.talk_from(same, rtp(2))
        assert a.receive() == rtp(2)
        assert not b.state.confirmed


# Contexts: indices go on


def hears_rtcp_from(a: Party, b: SecureParty) -> bool:
    """Whether libsrtp, which knows the indices that were used, takes the next RTCP packet."""
    a.send(rtcp(200))
    try:
        return bool(b.hear_rtcp() == rtcp(200))
    except Error as error:
        assert "replay" in str(error)
        return False


@pytest.fixture
def rtcp_pair(path: PacketPath, parties: list[Party]) -> tuple[Party, SecureParty]:
    """Plain to secure, with RTCP alone, whose indices are counted; one packet has passed."""
    a, b = Party(path), SecureParty(path, keys(1), keys(2))
    parties += [a, b]
    a.configure(rtcp_only=True, rtcp_sink=b.stream)
    b.configure(rtcp_only=True, rtcp_sink=a.stream)
    assert hears_rtcp_from(a, b)
    return a, b


def test_protecting_twice_changes_nothing(rtcp_pair: tuple[Party, SecureParty]) -> None:
    a, b = rtcp_pair
    replayed = b.sender.protect_rtcp(rtcp(201))
    b.send(replayed)
    assert a.receive() == rtcp(201)
    b.agree()
    assert hears_rtcp_from(a, b)
    b.send(replayed)
    dropped(b, replay=1)


def test_a_key_that_comes_back_goes_on(rtcp_pair: tuple[Party, SecureParty]) -> None:
    a, b = rtcp_pair
    for others in ((None, None), (keys(5), keys(6)), (keys(2), keys(1))):
        b.path.protect(b.stream, b.scope, *others)
    b.agree()
    assert hears_rtcp_from(a, b)


def test_a_direction_is_not_the_other(rtcp_pair: tuple[Party, SecureParty]) -> None:
    """The same keys both ways are two contexts: an index that we have used may come from the party."""
    a, b = rtcp_pair
    assert hears_rtcp_from(a, b)
    b.theirs = b.ours
    b.agree()
    b.sender = session(b.ours, inbound=False)
    b.talk_rtcp(rtcp(201))
    assert a.receive() == rtcp(201)
    assert hears_rtcp_from(a, b)


def test_a_socket_that_replaces_another_goes_on(rtcp_pair: tuple[Party, SecureParty]) -> None:
    a, b = rtcp_pair
    retired, b.stream = b.stream, 0
    b.open_stream()
    b.agree()
    b.path.close_stream(retired)
    a.configure(rtcp_only=True, rtcp_sink=b.stream)
    b.configure(rtcp_only=True)
    assert hears_rtcp_from(a, b)


def test_another_scope_starts_anew(rtcp_pair: tuple[Party, SecureParty]) -> None:
    a, b = rtcp_pair
    b.scope = 2
    b.agree()
    assert not hears_rtcp_from(a, b)


def test_a_scope_ends_with_its_last_stream(rtcp_pair: tuple[Party, SecureParty]) -> None:
    a, b = rtcp_pair
    b.replace_socket()
    b.agree()
    a.configure(rtcp_only=True, rtcp_sink=b.stream)
    b.configure(rtcp_only=True)
    assert not hears_rtcp_from(a, b)


def test_scopes_that_share_a_bucket_are_apart(path: PacketPath, parties: list[Party]) -> None:
    scopes = [1, 1025, 2049, 1 << 63 | 1]
    found = [SecureParty(path, keys(1), keys(2), scope) for scope in scopes]
    a = Party(path)
    parties += [a, *found]
    for order, expected in ((found, 0), ((found[1], found[0], found[3], found[2]), 1)):
        for b in order:
            b.configure(rtcp_only=True)
            a.configure(rtcp_only=True, rtcp_sink=b.stream)
            a.send(rtcp(200))
            index = int.from_bytes(b.receive()[-14:-10], "big") & 0x7FFFFFFF
            assert index == expected
            if expected:
                path.close_stream(b.stream)


def test_many_keys_in_one_scope(rtcp_pair: tuple[Party, SecureParty]) -> None:
    """Those used last are kept; one that has rested for longer than 30 others is forgotten."""
    a, b = rtcp_pair
    recent = keys(100)
    receiver = session(recent, inbound=True)
    for number in range(20, 60):
        if number in (20, 50):
            b.path.protect(b.stream, b.scope, None, recent)
            a.send(rtcp(200))
            assert receiver.unprotect_rtcp(b.receive()) == rtcp(200)
        b.path.protect(b.stream, b.scope, None, keys(number))
    b.path.protect(b.stream, b.scope, None, recent)
    a.send(rtcp(200))
    assert receiver.unprotect_rtcp(b.receive()) == rtcp(200)
    b.agree()
    assert not hears_rtcp_from(a, b)


def test_from_passing_to_protecting_and_back(path: PacketPath, parties: list[Party]) -> None:
    """No index comes twice, whoever gives it: the one of a packet that passed, or our own."""
    a, b = secure_pair(path, parties, equal=True)
    strip = {"rtcp_mux": True, "strip_feedback": True}
    for more in ({"rtcp_mux": True}, strip, {"rtcp_mux": True}, strip):
        connect(a, b, more)
        for _ in range(3):
            a.talk_rtcp(rtcp(200))
            assert b.hear_rtcp() == rtcp(200)
    for seq in (1, 65534, 65535, 65536, 65537):
        a.talk(rtp(seq))
        assert b.hear() == rtp(seq)
    b.ours = keys(4)
    b.agree()
    a.talk(rtp(65538))
    fresh = session(keys(4), inbound=True)
    assert fresh.unprotect(b.receive()) == rtp(65538)
    b.ours = keys(1)
    a.theirs, a.sender = keys(5), session(keys(5), inbound=False)
    a.agree(), b.agree()
    a.talk(rtp(65539))
    assert b.hear() == rtp(65539)


def test_an_index_of_ours_does_not_come_again_from_the_party(path: PacketPath, parties: list[Party]) -> None:
    """A begins to use the key that we have used towards B already."""
    a, b = SecureParty(path, keys(5), keys(2), 1), SecureParty(path, keys(3), keys(1), 2)
    parties += [a, b]
    connect(a, b, {"rtcp_mux": True})
    for theirs in (keys(5), keys(1)):
        a.theirs, a.sender = theirs, session(theirs, inbound=False)
        a.agree()
        for _ in range(3):
            a.talk_rtcp(rtcp(200))
            assert b.hear_rtcp() == rtcp(200)


def test_equal_keys_of_a_party_that_is_plain_now(path: PacketPath, parties: list[Party]) -> None:
    a, b = secure_pair(path, parties, equal=True)
    connect(a, b, None, {"secure": False})
    a.talk(rtp(1))
    assert b.receive() == rtp(1)


# Keys that signalling replaces while packets are under way


def rekey(party: SecureParty, theirs: SrtpKeys) -> Any:
    """Agree on another key for what the party sends; return what protects with the one before."""
    former, party.theirs, party.sender = party.sender, theirs, session(theirs, inbound=False)
    party.agree()
    return former


@pytest.mark.parametrize("suite", [CM80, "AEAD_AES_128_GCM"])
def test_the_former_key_serves_until_the_party_has_heard_of_the_new_one(
    path: PacketPath, parties: list[Party], suite: str
) -> None:
    a, b = Party(path), SecureParty(path, keys(1, suite), keys(2, suite))
    parties += [a, b]
    connect(a, b, {"rtcp_mux": True}, {"rtcp_mux": True})
    b.talk(rtp(1))
    assert a.receive() == rtp(1)
    former = rekey(b, keys(3, suite))
    late = former.protect(rtp(3))
    b.send(former.protect(rtp(2)), former.protect_rtcp(rtcp(200)))
    assert [a.receive(), a.receive()] == [rtp(2), rtcp(200)]
    # What is told twice changes nothing, and neither does another key for the other direction.
    b.agree()
    path.protect(b.stream, b.scope, b.theirs, keys(4, suite))
    b.talk(rtp(4))
    b.send(late, late)
    assert [a.receive(), a.receive()] == [rtp(4), rtp(3)]
    dropped(b, replay=1)


def test_the_key_before_the_former_one_is_none(plain_and_secure: tuple[Party, SecureParty]) -> None:
    a, b = plain_and_secure
    b.talk(rtp(1))
    a.receive()
    first = rekey(b, keys(3))
    second = rekey(b, keys(5))
    b.send(first.protect(rtp(2)), second.protect(rtp(3)))
    assert a.receive() == rtp(3)
    dropped(b, authentication=1)


def test_a_former_key_moves_nothing(plain_and_secure: tuple[Party, SecureParty], stranger: socket.socket) -> None:
    a, b = plain_and_secure
    b.talk(rtp(1))
    a.receive()
    former = rekey(b, keys(3))
    stranger.sendto(former.protect(rtp(2)), b.relay)
    dropped(b, authentication=1)
    assert b.state.peer == b.endpoint
    b.send(former.protect(rtp(3)))
    assert a.receive() == rtp(3)
    # The new one does, and the former one counts only where the party is then.
    b.talk_from(stranger, rtp(4))
    assert a.receive() == rtp(4)
    b.send(former.protect(rtp(5)))
    dropped(b, authentication=2)
    assert b.state.peer == Endpoint(*stranger.getsockname())


@pytest.mark.parametrize("why", ["taken away", "another scope", "not authenticated", "offloaded"])
def test_a_former_key_that_is_none(path: PacketPath, parties: list[Party], why: str) -> None:
    a, b = Party(path), SecureParty(path, keys(1, unauthenticated_srtp=why == "not authenticated"), keys(2))
    parties += [a, b]
    connect(a, b)
    b.talk(rtp(1))
    a.receive()
    if why == "taken away":
        path.protect(b.stream, b.scope, None, None)
    b.scope += why == "another scope"
    former = rekey(b, keys(3))
    path.offload(b.stream, why == "offloaded")
    b.send(former.protect(rtp(2)))
    dropped(b, authentication=1)


def test_a_former_key_serves_for_a_few_seconds(plain_and_secure: tuple[Party, SecureParty]) -> None:
    a, b = plain_and_secure
    b.talk(rtp(1))
    a.receive()
    former = rekey(b, keys(3))
    deadline = time.monotonic() + 30
    for seq in count(2):
        b.send(former.protect(rtp(seq)))
        eventually(lambda seq=seq: b.state.packets + sum(b.state.drops.values()) == seq)  # type: ignore[misc]
        if b.state.drops:
            break
        assert a.receive() == rtp(seq)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert b.state.packets > 1
    dropped(b, authentication=1)


def test_what_is_under_a_former_key_is_protected_anew(path: PacketPath, parties: list[Party]) -> None:
    """The other party has been told the new key already. Its indices are the sender's: none may be used twice."""
    a, b = secure_pair(path, parties, equal=True)
    connect(a, b, {"rtcp_mux": True})
    a.talk(rtp(1))
    assert b.hear() == rtp(1)
    b.ours, b.receiver = keys(5), session(keys(5), inbound=True)
    former = rekey(a, keys(5))
    b.agree()
    under_way = former.protect(rtp(2, payload=b"former")), former.protect_rtcp(rtcp(200))
    a.send(*under_way)
    heard = b.receive(), b.receive()
    assert heard[0] != under_way[0] and heard[1] != under_way[1]
    assert (b.receiver.unprotect(heard[0]), b.receiver.unprotect_rtcp(heard[1])) == (
        rtp(2, payload=b"former"),
        rtcp(200),
    )
    # A party that begins to count anew with its new key
    a.talk(rtp(2, payload=b"another"))
    dropped(a, replay=1)
    passing = a.sender.protect(rtp(3))
    a.send(passing)
    assert b.receive() == passing
    a.talk_rtcp(rtcp(200))
    assert b.hear_rtcp() == rtcp(200)


# The interface


@pytest.mark.parametrize(
    "wrong",
    [
        SrtpKeys("ROT13", bytes(16), bytes(14)),
        SrtpKeys(CM80, bytes(15), bytes(14)),
        SrtpKeys(CM80, bytes(16), bytes(12)),
        keys(1, mki=bytes(256)),
    ],
)
def test_keys_that_cannot_be(path: PacketPath, parties: list[Party], wrong: SrtpKeys) -> None:
    party = Party(path)
    parties.append(party)
    for pair in ((wrong, None), (None, wrong), (keys(1), wrong)):
        with pytest.raises(ValueError):
            path.protect(party.stream, 1, *pair)
    assert bytes(path._keys_bytes) == bytes(2 * 312)


def test_keys_that_the_suite_does_not_allow(path: PacketPath, parties: list[Party]) -> None:
    party = Party(path)
    parties.append(party)
    with pytest.raises(OSError) as caught:
        path.protect(party.stream, 1, keys(1, "AEAD_AES_128_GCM", unauthenticated_srtp=True), None)
    assert caught.value.errno == errno.EINVAL


def test_stale_ids_and_keys_that_are_not_kept(path: PacketPath, parties: list[Party]) -> None:
    party = Party(path)
    parties.append(party)
    path.protect(party.stream, (1 << 64) - 1, keys(1), keys(2))
    assert bytes(path._keys_bytes) == bytes(2 * 312)
    path.close_stream(party.stream)
    for given in (None, keys(1)):
        with pytest.raises(OSError) as caught:
            path.protect(party.stream, 1, given, None)
        assert caught.value.errno == errno.ENOENT
