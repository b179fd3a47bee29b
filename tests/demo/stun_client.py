"""As much of STUN as a phone needs to check one candidate pair (RFC 8489, RFC 8445)."""

from __future__ import annotations

import hmac
import struct
from binascii import crc32

_COOKIE = 0x2112A442
_HEADER = struct.Struct("!HHI12s")
_BINDING_REQUEST, _BINDING_SUCCESS = 0x0001, 0x0101
_USERNAME, _MESSAGE_INTEGRITY, _PRIORITY, _USE_CANDIDATE = 0x0006, 0x0008, 0x0024, 0x0025
_FINGERPRINT, _ICE_CONTROLLING = 0x8028, 0x802A
_FINGERPRINT_XOR = 0x5354554E
_INTEGRITY_SIZE, _FINGERPRINT_SIZE = 24, 8
HOST_PRIORITY = 126 << 24 | 65535 << 8 | 255


def is_stun(data: bytes) -> bool:
    """Whether a datagram is STUN and not media or DTLS (RFC 7983)."""
    return len(data) >= _HEADER.size and data[0] < 4 and data[4:8] == _COOKIE.to_bytes(4, "big")


def check(transaction: bytes, user_name: str, password: str, tie_breaker: int) -> bytes:
    """A connectivity check of a controlling agent, which nominates its pair at once (RFC 8445 7.2.2, 7.1.1).

    ``user_name`` is the other's fragment, a colon, and our own; ``password`` is the other's.
    """
    body = _attribute(_USERNAME, user_name.encode())
    body += _attribute(_PRIORITY, HOST_PRIORITY.to_bytes(4, "big")) + _attribute(_USE_CANDIDATE, b"")
    body += _attribute(_ICE_CONTROLLING, tie_breaker.to_bytes(8, "big"))
    body += _attribute(_MESSAGE_INTEGRITY, _integrity(_message(_BINDING_REQUEST, transaction, body, 24), password))
    return _message(_BINDING_REQUEST, transaction, body, 8) + _attribute(
        _FINGERPRINT, _fingerprint(_message(_BINDING_REQUEST, transaction, body, 8))
    )


def is_success(data: bytes, transaction: bytes, password: str) -> bool:
    """Whether ``data`` is the success response to a check, by somebody who knows ``password``."""
    kind, _, _, answered = _HEADER.unpack_from(data)
    if (kind, answered) != (_BINDING_SUCCESS, transaction):
        return False
    signed = data[: -_INTEGRITY_SIZE - _FINGERPRINT_SIZE]
    body = signed[_HEADER.size :]
    expected = _attribute(
        _MESSAGE_INTEGRITY, _integrity(_message(_BINDING_SUCCESS, transaction, body, _INTEGRITY_SIZE), password)
    )
    return hmac.compare_digest(data[len(signed) : -_FINGERPRINT_SIZE], expected)


def _message(kind: int, transaction: bytes, body: bytes, to_come: int) -> bytes:
    """Header and attributes so far; the length already counts ``to_come`` octets more (RFC 8489 14.5)."""
    return _HEADER.pack(kind, len(body) + to_come, _COOKIE, transaction) + body


def _integrity(message: bytes, password: str) -> bytes:
    return hmac.digest(password.encode(), message, "sha1")


def _fingerprint(message: bytes) -> bytes:
    return (crc32(message) ^ _FINGERPRINT_XOR).to_bytes(4, "big")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)
