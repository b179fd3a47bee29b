"""Fuzz target: STUN messages to our ICE-lite agents and to the relay, from strangers and from the party itself.

A step is a message as the fuzzer wrote it, or one that this target has given an integrity and a fingerprint, which
no fuzzer could; right, wrong, or altered afterwards. What proves something is decided here by other means than in
``stun.py``: by a search for an integrity that is right at any place.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib

from reader import Reader

from rtpengine import ProtocolError, ice, stun
from rtpengine.media import Endpoint, IceCredentials

MAX_STEPS = 40

OURS, OLD, PARTY, OTHER = (IceCredentials(name * 4, name * 22) for name in ("Ours", "Past", "Them", "Else"))
PASSWORDS = (OURS.pwd, OLD.pwd, PARTY.pwd, OTHER.pwd, "nobody's password of 22")
NAMES = (
    f"{OURS.ufrag}:{PARTY.ufrag}",
    f"{OLD.ufrag}:{PARTY.ufrag}",
    f"{PARTY.ufrag}:{OTHER.ufrag}",
    f"{OTHER.ufrag}:{PARTY.ufrag}",
    f"{OURS.ufrag}",
    f"{OURS.ufrag}:",
    ":",
)
SOURCES = (Endpoint("192.0.2.1", 4000), Endpoint("203.0.113.5", 6000), Endpoint("2001:db8::1", 4000))
STREAMS = (1, 2)
TYPES = (0x0001, 0x0001, 0x0101, 0x0111, 0x0011, 0x0002)

_FINGERPRINT_XOR = 0x5354554E


def one_input(data: bytes) -> None:
    """A sequence of datagrams to an agent, to one that has replaced another, and to a relay."""
    reader = Reader(data)
    agent = ice.IceAgent(OURS, PARTY)
    renewed = ice.IceAgent(OURS, previous=ice.IceAgent(OLD, PARTY))
    relay = ice.IceRelay()
    now, errors = 1000.0, 0
    for _ in range(MAX_STEPS):
        if not reader:
            break
        now += reader.number() ** 2 / 1000
        stream, source = STREAMS[reader.number() % 2], SOURCES[reader.number() % 3]
        datagram = _datagram(reader)
        errors += _to_agent(agent, (OURS.pwd,), stream, datagram, source, now)
        _to_agent(renewed, (OURS.pwd, OLD.pwd), stream, datagram, source, now)
        _to_relay(relay, reader.number(), stream, datagram, source, now)
        assert errors <= ice.ERROR_BURST + ice.ERRORS_PER_S * (now - 1000.0) + 1
        _parse(datagram)


def _datagram(reader: Reader) -> bytes:
    how = reader.number()
    body = reader.octets(reader.number(2) % 600)
    if how & 1:
        return body
    kind = TYPES[reader.number() % len(TYPES)]
    if how & 2:
        name = NAMES[reader.number() % len(NAMES)].encode()
        body = _attribute(stun.USERNAME, name) + body
    transaction_id = bytes([reader.number()]) * 12
    password = PASSWORDS[reader.number() % len(PASSWORDS)] if how & 4 else None
    message = _sealed(kind, transaction_id, body, password)
    if how & 8:
        at = reader.number(2) % len(message)
        message = message[:at] + bytes([message[at] ^ (reader.number() or 1)]) + message[at + 1 :]
    return message[: reader.number(2)] if how & 16 else message


def _attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def _header(kind: int, length: int, transaction_id: bytes) -> bytes:
    return kind.to_bytes(2, "big") + length.to_bytes(2, "big") + stun.MAGIC_COOKIE.to_bytes(4, "big") + transaction_id


def _sealed(kind: int, transaction_id: bytes, body: bytes, password: str | None) -> bytes:
    if password is not None:
        covered = _header(kind, len(body) + 24, transaction_id) + body
        body += _attribute(stun.MESSAGE_INTEGRITY, hmac.digest(password.encode(), covered, hashlib.sha1))
    covered = _header(kind, len(body) + 8, transaction_id) + body
    return covered + _attribute(stun.FINGERPRINT, (zlib.crc32(covered) ^ _FINGERPRINT_XOR).to_bytes(4, "big"))


def _proves(datagram: bytes, passwords: tuple[str, ...]) -> bool:
    """Whether some part of the datagram was written by somebody who knows one of the passwords."""
    at = datagram.find(b"\0\x08\0\x14", 20)
    while at >= 0:
        covered = datagram[:2] + (at + 4).to_bytes(2, "big") + datagram[4:at]
        found = datagram[at + 4 : at + 24]
        if any(hmac.digest(password.encode(), covered, "sha1") == found for password in passwords):
            return True
        at = datagram.find(b"\0\x08\0\x14", at + 1)
    return False


def _state(agent: ice.IceAgent) -> tuple[object, ...]:
    return agent.state, agent.last_valid, [agent.selected(stream) for stream in STREAMS]


def _to_agent(
    agent: ice.IceAgent, passwords: tuple[str, ...], stream: int, datagram: bytes, source: Endpoint, now: float
) -> bool:
    """Hand a datagram over; whether the reply was one that anybody can have."""
    before = _state(agent)
    verdict = agent.receive(stream, datagram, source, now)
    proven = _proves(datagram, passwords)
    if verdict.valid:
        assert proven and verdict.reply
    else:
        assert not verdict.nominated
        assert _state(agent) == before, "an unproven message has changed something"
    if verdict.reply is None:
        return False
    reply = stun.parse(verdict.reply)
    assert reply.has_valid_fingerprint and reply.transaction_id == datagram[8:20]
    assert reply.message_class == (stun.SUCCESS if verdict.valid else stun.ERROR)
    assert proven or reply.integrity is None, "a password is used for a stranger"
    return not proven


def _to_relay(relay: ice.IceRelay, choice: int, stream: int, datagram: bytes, source: Endpoint, now: float) -> None:
    party = choice & 1
    if choice & 6 == 6:
        relay.learn(party, (PARTY, OTHER)[party])
    forward = relay.receive(party, stream, datagram, source, now)
    if forward.valid:
        assert _proves(datagram, (PARTY.pwd, OTHER.pwd))
    assert forward.forward or not forward.valid
    assert forward.valid or not forward.nominated


def _parse(datagram: bytes) -> None:
    try:
        message = stun.parse(datagram)
    except ProtocolError:
        return
    assert len(message.attributes) <= stun.MAX_ATTRIBUTES
    assert all(value in datagram for _, value in message.attributes)
