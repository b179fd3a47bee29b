"""DTLS 1.2 records, and the two messages that are exchanged before there is an association (RFC 6347 4.1 and 4.2)."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

HANDSHAKE = 22

# Content type, version in two bytes, epoch, sequence number in 16 and 32 bits, length.
_RECORD_HEADER = Struct("!BBxHHIH")
RECORD_HEADER_LEN = _RECORD_HEADER.size
MESSAGE_HEADER_LEN = 12
RANDOM_LEN = 32

# Post-quantum key shares make hellos of two kilobytes; OpenSSL reserves whatever length is announced.
MAX_HELLO_LEN = 8192

_CONTENT_TYPES = range(20, 24)
_VERSION_MAJOR = 0xFE
_CLIENT_HELLO = 1
_HELLO_VERIFY_REQUEST = 3

# RFC 6347 4.2.1: the version of DTLS 1.0, whatever is negotiated later.
_HELLO_VERIFY_VERSION = b"\xfe\xff"


class Record(NamedTuple):
    """A record as it is on the wire, header included, and what its header says; ``sequence`` counts in its epoch."""

    content_type: int
    epoch: int
    sequence: int
    data: bytes


class ClientHello(NamedTuple):
    """What the beginning of a ClientHello says; ``record_sequence`` is its record's, ``message_sequence`` its own."""

    record_sequence: int
    message_sequence: int
    random: bytes
    cookie: bytes


def parse_records(datagram: bytes) -> list[Record]:
    """Split a datagram; an empty list if it is anything else than one or more whole records of DTLS 1.0 to 1.2."""
    records = []
    start = 0
    while start < len(datagram):
        payload = start + RECORD_HEADER_LEN
        if len(datagram) < payload:
            return []
        content_type, major, epoch, high, low, length = _RECORD_HEADER.unpack_from(datagram, start)
        end = payload + length
        if content_type not in _CONTENT_TYPES or major != _VERSION_MAJOR or len(datagram) < end:
            return []
        records.append(Record(content_type, epoch, high << 32 | low, datagram[start:end]))
        start = end
    return records


def renumber(record: Record, sequence: int) -> bytes:
    """The record under another sequence number; only one of epoch 0 has none that is authenticated."""
    return record.data[:5] + sequence.to_bytes(6, "big") + record.data[11:]


def pack(records: Iterable[bytes], limit: int) -> list[bytes]:
    """Fill datagrams of at most ``limit`` bytes with whole records, in order; none may be longer than that."""
    datagrams: list[bytes] = []
    for record in records:
        if datagrams and len(datagrams[-1]) + len(record) <= limit:
            datagrams[-1] += record
        else:
            datagrams.append(record)
    return datagrams


def parse_client_hello(record: Record) -> ClientHello | None:
    """Read the beginning of a ClientHello, be it whole or its first fragment, which must reach to the cookie's end.

    None if the record holds anything else, a later fragment included.
    """
    message = record.data[RECORD_HEADER_LEN:]
    if record.content_type != HANDSHAKE or record.epoch != 0 or len(message) < MESSAGE_HEADER_LEN:
        return None
    length, offset, fragment_length = (_number(message, at, 3) for at in (1, 6, 9))
    body = message[MESSAGE_HEADER_LEN:]
    if message[0] != _CLIENT_HELLO or offset != 0 or fragment_length != len(body) or length > MAX_HELLO_LEN:
        return None
    session_at = 2 + RANDOM_LEN
    cookie_at = session_at + 1 + _length_at(body, session_at)
    end = cookie_at + 1 + _length_at(body, cookie_at)
    if len(body) < end:
        return None
    return ClientHello(record.sequence, _number(message, 4, 2), body[2:session_at], body[cookie_at + 1 : end])


def without_former_hello(records: list[Record]) -> list[Record]:
    """From the last ClientHello on, where they begin with one.

    When a HelloVerifyRequest has come as OpenSSL's timer was due, the hello that it refused is repeated in front of
    the one with the cookie. A server that looks at the first one only would ask for the cookie for ever.
    """
    hellos = [number for number, record in enumerate(records) if parse_client_hello(record) is not None]
    return records[hellos[-1] :] if hellos[:1] == [0] else records


def serialize_hello_verify_request(hello: ClientHello, cookie: bytes) -> bytes:
    """The datagram that asks the sender of ``hello`` to repeat it with this cookie (RFC 6347 4.2.1)."""
    body = _HELLO_VERIFY_VERSION + bytes([len(cookie)]) + cookie
    length = len(body).to_bytes(3, "big")
    message = bytes([_HELLO_VERIFY_REQUEST]) + length + bytes(2) + bytes(3) + length + body
    # the record takes the number of the hello's, so that nothing need be remembered
    sequence = hello.record_sequence.to_bytes(6, "big")
    return bytes([HANDSHAKE]) + _HELLO_VERIFY_VERSION + bytes(2) + sequence + len(message).to_bytes(2, "big") + message


def _number(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _length_at(data: bytes, position: int) -> int:
    """The length byte of a vector; 0 behind the end, which the vector that follows then exceeds."""
    return data[position] if position < len(data) else 0
