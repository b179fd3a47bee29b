"""Records and hellos, byte by byte."""

from __future__ import annotations

import pytest
from dtls_wire import hello, hello_body, message, record
from hypothesis import given
from hypothesis import strategies as st

from rtpengine.dtls_records import (
    MAX_HELLO_LEN,
    ClientHello,
    Record,
    pack,
    parse_client_hello,
    parse_records,
    renumber,
    serialize_hello_verify_request,
)

RANDOM = bytes(range(32))
ALERT = record(21, b"\x02\x28", epoch=1, sequence=0x010203040506)
LAST = record(23, bytes(9), 0xFFFF, (1 << 48) - 1)
EMPTY = record(22, b"", sequence=7)


@pytest.mark.parametrize(
    ("datagram", "records"),
    [
        (b"", []),
        (ALERT, [Record(21, 1, 0x010203040506, ALERT)]),
        (EMPTY + ALERT, [Record(22, 0, 7, EMPTY), Record(21, 1, 0x010203040506, ALERT)]),
        (LAST, [Record(23, 0xFFFF, (1 << 48) - 1, LAST)]),
        (record(20, b"\x01", version=b"\xfe\xff"), [Record(20, 0, 0, record(20, b"\x01", version=b"\xfe\xff"))]),
        (ALERT[:-1], []),
        (ALERT + b"\x15", []),
        (ALERT + EMPTY[:12], []),
        (ALERT + record(24, b""), []),
        (record(19, b""), []),
        (record(22, b"", version=b"\x03\x03"), []),
        (record(22, b"", version=b"\xff\xfd"), []),
    ],
)
def test_a_datagram_is_whole_records_or_nothing(datagram: bytes, records: list[Record]) -> None:
    assert parse_records(datagram) == records


@given(st.binary(max_size=80))
def test_any_bytes_can_come(data: bytes) -> None:
    for start in (b"", b"\x16\xfe\xfd"):
        records = parse_records(start + data)
        assert b"".join(r.data for r in records) in (b"", start + data)
        for single in records:
            parse_client_hello(single)


@given(st.binary(max_size=70), st.integers(0, 70))
def test_a_hello_that_is_damaged_is_none_or_harmless(noise: bytes, where: int) -> None:
    data = hello_body()[:where] + noise
    found = parse_client_hello(Record(22, 0, 0, record(22, message(1, data))))
    assert found is None or data[2:34] == found.random


@pytest.mark.parametrize("cookie", [b"", b"c", b"c" * 16, b"c" * 255])
def test_the_beginning_of_a_hello(cookie: bytes) -> None:
    [first] = parse_records(hello(cookie))
    number = 1 if cookie else 0
    assert parse_client_hello(first) == ClientHello(number, number, RANDOM, cookie)


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (message(1, hello_body(b"cookie"), 1, 0, 42), True),
        (message(1, hello_body(b"cookie"), 1, 0, 41), False),
        (message(1, hello_body(b"cookie"), 1, 0, 34), False),
        (message(1, hello_body(b"cookie"), 1, 1), False),
        (message(2, hello_body(b"cookie"), 1), False),
        (message(1, hello_body(b"cookie"), 1, length=MAX_HELLO_LEN), True),
        (message(1, hello_body(b"cookie"), 1, length=MAX_HELLO_LEN + 1), False),
        (message(1, hello_body(b"cookie"), 1)[:-1], False),
        (message(1, hello_body(b"cookie"), 1) + message(1, b""), False),
        (message(1, b""), False),
        (b"", False),
    ],
)
def test_the_first_fragment_of_a_hello_has_its_cookie(payload: bytes, found: bool) -> None:
    parsed = parse_client_hello(parse_records(record(22, payload))[0])
    assert parsed == (ClientHello(0, 1, RANDOM, b"cookie") if found else None)


@pytest.mark.parametrize("other", [{"epoch": 1}, {"content_type": 23}])
def test_a_hello_is_in_the_clear(other: dict[str, int]) -> None:
    arguments = {"content_type": 22, "payload": message(1, hello_body()), **other}
    assert parse_client_hello(parse_records(record(**arguments))[0]) is None


def test_hello_verify_request_byte_by_byte() -> None:
    """RFC 6347 4.2.1 and 4.2.2."""
    request = serialize_hello_verify_request(ClientHello(0x0102, 0, RANDOM, b""), b"\xc0\x0c\x1e")
    header = "16 feff 0000 000000000102 0012"
    assert request == bytes.fromhex(header + "03 000006 0000 000000 000006" + "feff 03 c00c1e")


def test_another_number_leaves_the_rest() -> None:
    [single] = parse_records(record(22, b"payload", sequence=7))
    assert renumber(single, 0x0A0B0C0D0E0F) == record(22, b"payload", sequence=0x0A0B0C0D0E0F)


@pytest.mark.parametrize(
    ("sizes", "datagrams"),
    [
        ([], []),
        ([1200], [1200]),
        ([600, 600], [1200]),
        ([600, 601], [600, 601]),
        ([100, 1200, 100, 100], [100, 1200, 200]),
        ([500] * 5, [1000, 1000, 500]),
    ],
)
def test_records_are_packed_whole_and_in_order(sizes: list[int], datagrams: list[int]) -> None:
    records = [bytes([number]) * size for number, size in enumerate(sizes)]
    packed = pack(records, 1200)
    assert list(map(len, packed)) == datagrams
    assert b"".join(packed) == b"".join(records)
