"""STUN messages as ICE uses them (RFC 8489, RFC 8445 7): bytes to messages and back, integrity and fingerprint.

Short-term credentials with MESSAGE-INTEGRITY only. No state and no policy: who may ask what is up to ``ice.py``.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from rtpengine import ProtocolError
from rtpengine.media import IPV4, Endpoint

MAGIC_COOKIE = 0x2112A442
HEADER_LEN = 20
# More than any agent sends; what is longer does not even leave the packet path.
MAX_SIZE = 2048
MAX_ATTRIBUTES = 32

BINDING = 0x001

REQUEST = 0
INDICATION = 1
SUCCESS = 2
ERROR = 3

USERNAME = 0x0006
MESSAGE_INTEGRITY = 0x0008
ERROR_CODE = 0x0009
UNKNOWN_ATTRIBUTES = 0x000A
XOR_MAPPED_ADDRESS = 0x0020
PRIORITY = 0x0024
USE_CANDIDATE = 0x0025
FINGERPRINT = 0x8028
ICE_CONTROLLED = 0x8029
ICE_CONTROLLING = 0x802A

COMPREHENSION_OPTIONAL = 0x8000
"""Attributes from this type on may be ignored by who does not know them (RFC 8489 14)."""

_LENGTHS = {MESSAGE_INTEGRITY: 20, PRIORITY: 4, FINGERPRINT: 4, ICE_CONTROLLED: 8, ICE_CONTROLLING: 8}
_FINGERPRINT_XOR = 0x5354554E
_INTEGRITY_SIZE = 24
_FINGERPRINT_SIZE = 8

_HEADER = struct.Struct(">HHI12s")
_ATTRIBUTE = struct.Struct(">HH")


class StunMessage(NamedTuple):
    """A message whose structure is sound; nothing in it has been verified.

    ``message_class`` is one of REQUEST, INDICATION, SUCCESS and ERROR. ``attributes`` are type and value, without
    padding, up to MESSAGE-INTEGRITY: what follows it is not covered by it and does not count (RFC 8489 14.5).
    ``integrity`` and ``fingerprint`` are where these two attributes start in ``data``, None if they are missing.
    """

    method: int
    message_class: int
    transaction_id: bytes
    attributes: tuple[tuple[int, bytes], ...]
    integrity: int | None
    fingerprint: int | None
    data: bytes

    def attribute(self, kind: int) -> bytes | None:
        """The value of the first attribute of this type, None if there is none."""
        return next((value for found, value in self.attributes if found == kind), None)

    @property
    def has_valid_fingerprint(self) -> bool:
        """Whether there is a FINGERPRINT, and the right one (RFC 8489 14.7)."""
        at = self.fingerprint
        return at is not None and self.data[at + 4 : at + 8] == _fingerprint(self.data[:at])

    def has_valid_integrity(self, password: str) -> bool:
        """Whether the sender knew ``password`` (RFC 8489 14.5), compared in constant time."""
        at = self.integrity
        if at is None:
            return False
        covered = self.data[:2] + (at + _INTEGRITY_SIZE - HEADER_LEN).to_bytes(2, "big") + self.data[4:at]
        return hmac.compare_digest(self.data[at + 4 : at + _INTEGRITY_SIZE], _integrity(covered, password))


def parse(data: bytes) -> StunMessage:
    """Parse a whole datagram (RFC 8489 5 and 14).

    Raise ProtocolError for what is no STUN message of at most MAX_SIZE bytes and MAX_ATTRIBUTES attributes, or has an
    attribute that is longer than the message or not as long as its type wants.
    """
    if not HEADER_LEN <= len(data) <= MAX_SIZE:
        raise ProtocolError("STUN message has no possible length")
    kind, length, cookie, transaction_id = _HEADER.unpack_from(data)
    if kind & 0xC000 or cookie != MAGIC_COOKIE:
        raise ProtocolError("Not a STUN message")
    if length & 3 or length + HEADER_LEN != len(data):
        raise ProtocolError("STUN message has another length than its header says")
    message_class = kind >> 4 & 1 | kind >> 7 & 2
    method = kind & 0xF | kind >> 1 & 0x70 | kind >> 2 & 0xF80
    return StunMessage(method, message_class, transaction_id, *_parse_attributes(data), data)


def _parse_attributes(data: bytes) -> tuple[tuple[tuple[int, bytes], ...], int | None, int | None]:
    """Walk over the attributes; what is behind MESSAGE-INTEGRITY is only searched for FINGERPRINT, which ends all."""
    attributes: list[tuple[int, bytes]] = []
    integrity = fingerprint = None
    at = HEADER_LEN
    for _ in range(MAX_ATTRIBUTES + 1):
        if at == len(data) or fingerprint is not None:
            return tuple(attributes), integrity, fingerprint
        kind, length = _ATTRIBUTE.unpack_from(data, at)
        end = at + 4 + length
        if end > len(data):
            raise ProtocolError("STUN attribute is longer than the message")
        if _LENGTHS.get(kind, length) != length:
            raise ProtocolError("STUN attribute has the wrong length for its type")
        if kind == FINGERPRINT:
            fingerprint = at
        elif integrity is None:
            if kind == MESSAGE_INTEGRITY:
                integrity = at
            else:
                attributes.append((kind, data[at + 4 : end]))
        at = end + 3 & ~3
    raise ProtocolError("STUN message has too many attributes")


def serialize(
    message_class: int,
    transaction_id: bytes,
    attributes: Iterable[tuple[int, bytes]],
    password: str | None = None,
) -> bytes:
    """A Binding message with these attributes, then MESSAGE-INTEGRITY if there is a ``password``, then FINGERPRINT."""
    kind = BINDING | (message_class & 1) << 4 | (message_class & 2) << 7
    body = b"".join([_attribute(*attribute) for attribute in attributes])
    if password is not None:
        header = _HEADER.pack(kind, len(body) + _INTEGRITY_SIZE, MAGIC_COOKIE, transaction_id)
        body += _attribute(MESSAGE_INTEGRITY, _integrity(header + body, password))
    message = _HEADER.pack(kind, len(body) + _FINGERPRINT_SIZE, MAGIC_COOKIE, transaction_id) + body
    return message + _attribute(FINGERPRINT, _fingerprint(message))


def xor_address(endpoint: Endpoint, transaction_id: bytes) -> bytes:
    """The value of XOR-MAPPED-ADDRESS (RFC 8489 14.2)."""
    packed = ip_address(endpoint.address).packed
    mask = (MAGIC_COOKIE.to_bytes(4, "big") + transaction_id)[: len(packed)]
    masked = int.from_bytes(packed, "big") ^ int.from_bytes(mask, "big")
    family = 1 if endpoint.family == IPV4 else 2
    return struct.pack(">HH", family, endpoint.port ^ MAGIC_COOKIE >> 16) + masked.to_bytes(len(packed), "big")


def error_code(code: int, reason: str) -> bytes:
    """The value of ERROR-CODE (RFC 8489 14.8), ``code`` as in 401."""
    return struct.pack(">HBB", 0, *divmod(code, 100)) + reason.encode()


def unknown_attributes(kinds: Iterable[int]) -> bytes:
    """The value of UNKNOWN-ATTRIBUTES (RFC 8489 14.9)."""
    return b"".join([kind.to_bytes(2, "big") for kind in kinds])


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)


def _integrity(covered: bytes, password: str) -> bytes:
    # signalling may have bytes in a password that are no UTF-8
    return hmac.digest(password.encode("utf-8", "surrogateescape"), covered, "sha1")


def _fingerprint(covered: bytes) -> bytes:
    return (zlib.crc32(covered) ^ _FINGERPRINT_XOR).to_bytes(4, "big")
