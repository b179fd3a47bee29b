"""The client half of STUN as ICE uses it (RFC 8489, RFC 8445 7), written from the RFCs and not from the daemon."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

COOKIE = 0x2112A442
BINDING_REQUEST, BINDING_SUCCESS, BINDING_ERROR = 0x0001, 0x0101, 0x0111
USERNAME, MESSAGE_INTEGRITY, ERROR_CODE, XOR_MAPPED_ADDRESS = 0x0006, 0x0008, 0x0009, 0x0020
PRIORITY, USE_CANDIDATE, FINGERPRINT = 0x0024, 0x0025, 0x8028
ICE_CONTROLLED, ICE_CONTROLLING = 0x8029, 0x802A
_FINGERPRINT_XOR = 0x5354554E

Attribute = tuple[int, bytes]


class Credentials(NamedTuple):
    """User name fragment and password of an ICE agent."""

    ufrag: str
    pwd: str


def fresh_credentials() -> Credentials:
    """Credentials of the length that browsers use."""
    return Credentials(os.urandom(4).hex()[:4], os.urandom(12).hex())


def is_stun(datagram: bytes) -> bool:
    """RFC 7983: first byte 0 to 3, and the magic cookie."""
    return len(datagram) >= 20 and datagram[0] < 4 and int.from_bytes(datagram[4:8], "big") == COOKIE


def attributes(message: bytes) -> list[Attribute]:
    """The attributes of a well-formed message, in order."""
    found, at = [], 20
    while at < len(message):
        kind, length = struct.unpack_from("!HH", message, at)
        found.append((kind, message[at + 4 : at + 4 + length]))
        at += 4 + length + -length % 4
    assert at == len(message), "attributes end where the message does"
    return found


def encode(kind: int, transaction: bytes, contents: Iterable[Attribute]) -> bytes:
    """A message with these attributes, and neither MESSAGE-INTEGRITY nor FINGERPRINT."""
    body = b"".join(struct.pack("!HH", t, len(v)) + v + bytes(-len(v) % 4) for t, v in contents)
    return struct.pack("!HHI", kind, len(body), COOKIE) + transaction + body


def _extended(message: bytes, by: int) -> bytes:
    return message[:2] + struct.pack("!H", len(message) - 20 + by) + message[4:]


def integrity(message: bytes, pwd: str) -> bytes:
    """The HMAC over a message to which MESSAGE-INTEGRITY is about to be added."""
    return hmac.new(pwd.encode(), _extended(message, 24), hashlib.sha1).digest()


def signed(message: bytes, pwd: str) -> bytes:
    """The message with MESSAGE-INTEGRITY."""
    return _extended(message, 24) + struct.pack("!HH", MESSAGE_INTEGRITY, 20) + integrity(message, pwd)


def fingerprinted(message: bytes) -> bytes:
    """The message with FINGERPRINT."""
    longer = _extended(message, 8)
    return longer + struct.pack("!HHI", FINGERPRINT, 4, zlib.crc32(longer) ^ _FINGERPRINT_XOR)


def check(
    local: Credentials,
    remote: Credentials,
    *,
    nominate: bool = True,
    priority: int = 1853824767,
    extra: Iterable[Attribute] = (),
) -> bytes:
    """A connectivity check of the controlling agent ``local`` towards ``remote``."""
    contents = [
        (USERNAME, f"{remote.ufrag}:{local.ufrag}".encode()),
        (PRIORITY, struct.pack("!I", priority)),
        (ICE_CONTROLLING, bytes(8)),
        *([(USE_CANDIDATE, b"")] if nominate else []),
        *extra,
    ]
    return fingerprinted(signed(encode(BINDING_REQUEST, os.urandom(12), contents), remote.pwd))


def success(request: bytes, source: tuple[str, int], pwd: str) -> bytes:
    """The answer of a full agent to a check from there (RFC 8445 7.3)."""
    address = ipaddress.ip_address(source[0])
    mask = request[4:20]
    mapped = bytes(a ^ b for a, b in zip(address.packed, mask, strict=False))
    value = struct.pack("!BBH", 0, 1 if address.version == 4 else 2, source[1] ^ COOKIE >> 16) + mapped
    return fingerprinted(signed(encode(BINDING_SUCCESS, request[8:20], [(XOR_MAPPED_ADDRESS, value)]), pwd))


def is_check(message: bytes, local: Credentials) -> bool:
    """Whether this is a check that knows our password."""
    if int.from_bytes(message[:2], "big") != BINDING_REQUEST:
        return False
    values = dict(attributes(message))
    named = values.get(USERNAME, b"").partition(b":")[0] == local.ufrag.encode()
    return named and _authentic(message, values.get(MESSAGE_INTEGRITY, b""), local.pwd)


class Response(NamedTuple):
    """What the relay replied: ``code`` is 0 for success; ``authentic``: the password is in it."""

    code: int
    transaction: bytes
    authentic: bool
    mapped: tuple[str, int] | None


def parse_response(message: bytes, pwd: str) -> Response | None:
    """Read a reply; None if it is none. It must be well-formed and end in a right FINGERPRINT."""
    kind = int.from_bytes(message[:2], "big")
    if kind not in (BINDING_SUCCESS, BINDING_ERROR):
        return None
    assert int.from_bytes(message[2:4], "big") == len(message) - 20
    found = attributes(message)
    assert found[-1][0] == FINGERPRINT and fingerprinted(_extended(message[:-8], 0)) == message
    values = dict(found)
    code = values.get(ERROR_CODE)
    return Response(
        code=code[2] * 100 + code[3] if code else 0,
        transaction=message[8:20],
        authentic=MESSAGE_INTEGRITY in values and _authentic(message, values[MESSAGE_INTEGRITY], pwd),
        mapped=_mapped(values[XOR_MAPPED_ADDRESS], message) if XOR_MAPPED_ADDRESS in values else None,
    )


def _authentic(message: bytes, tag: bytes, pwd: str) -> bool:
    before = message[: message.index(struct.pack("!HH", MESSAGE_INTEGRITY, 20) + tag)]
    return hmac.compare_digest(integrity(before, pwd), tag)


def _mapped(value: bytes, message: bytes) -> tuple[str, int]:
    port = int.from_bytes(value[2:4], "big") ^ COOKIE >> 16
    address = bytes(a ^ b for a, b in zip(value[4:], message[4:20], strict=False))
    return str(ipaddress.ip_address(address)), port
