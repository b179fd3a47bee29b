"""STUN messages: the vectors of RFC 5769, a foreign implementation, and what may not be taken for a message."""

from __future__ import annotations

import hashlib
import random

import pytest
from aioice import stun as foreign
from hypothesis import given, settings
from hypothesis import strategies as st

from rtpengine import ProtocolError, stun
from rtpengine.media import Endpoint
from rtpengine.stun import ERROR, INDICATION, REQUEST, SUCCESS, parse, serialize

PASSWORD = "VOkJxbRl1RmTxUk/WvJxBt"
TID = bytes.fromhex("b7e7a701bc34d686fa87dfae")

# RFC 5769 2.1 to 2.4
REQUEST_21 = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36000600096576746a3a683676592020200008"
    "00149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
RESPONSE_22 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RESPONSE_23 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
LONG_TERM_24 = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341"
    "0014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
# The key of long-term credentials is no text (RFC 8489 9.2.2).
LONG_TERM_KEY = hashlib.md5("\u30de\u30c8\u30ea\u30c3\u30af\u30b9:example.org:TheMatrIX".encode()).digest()
V4 = Endpoint("192.0.2.1", 32853)
V6 = Endpoint("2001:db8:1234:5678:11:2233:4455:6677", 32853)


def message(*attributes: tuple[int, bytes], kind: int = 0x0001, length: int | None = None, tail: bytes = b"") -> bytes:
    """A message put together by hand: value padded with zeros, nothing added."""
    body = b"".join(t.to_bytes(2, "big") + len(v).to_bytes(2, "big") + v + bytes(-len(v) % 4) for t, v in attributes)
    body += tail
    length = len(body) if length is None else length
    return kind.to_bytes(2, "big") + length.to_bytes(2, "big") + bytes.fromhex("2112a442") + TID + body


class TestVectors:
    def test_request(self) -> None:
        found = parse(REQUEST_21)
        assert (found.method, found.message_class, found.transaction_id) == (stun.BINDING, REQUEST, TID)
        assert found.attributes == (
            (0x8022, b"STUN test client"),
            (stun.PRIORITY, bytes.fromhex("6e0001ff")),
            (stun.ICE_CONTROLLED, bytes.fromhex("932ff9b151263b36")),
            (stun.USERNAME, b"evtj:h6vY"),
        )
        assert found.has_valid_fingerprint
        assert found.has_valid_integrity(PASSWORD)
        assert not found.has_valid_integrity(PASSWORD.lower())

    @pytest.mark.parametrize(("data", "mapped"), [(RESPONSE_22, V4), (RESPONSE_23, V6)])
    def test_responses(self, data: bytes, mapped: Endpoint) -> None:
        found = parse(data)
        assert found.message_class == SUCCESS
        assert found.attribute(stun.XOR_MAPPED_ADDRESS) == stun.xor_address(mapped, TID)
        assert found.has_valid_fingerprint
        assert found.has_valid_integrity(PASSWORD)

    @pytest.mark.parametrize(
        ("data", "password"),
        [(REQUEST_21, PASSWORD), (RESPONSE_22, PASSWORD), (RESPONSE_23, PASSWORD)],
    )
    def test_written_again_but_for_their_padding(self, data: bytes, password: str) -> None:
        found = parse(data)
        again = serialize(found.message_class, found.transaction_id, found.attributes, password)
        # blanks are the padding of the vectors, and are covered by both checksums
        same = data[:-32].replace(b"vY   ", b"vY\0\0\0").replace(b"vector ", b"vector\0")
        assert again[:-32] == same
        assert parse(again)[:-1] == found[:-1]
        assert parse(again).has_valid_fingerprint
        assert parse(again).has_valid_integrity(password)

    def test_long_term_vector_byte_for_byte(self) -> None:
        found = parse(LONG_TERM_24)
        key = LONG_TERM_KEY.decode("utf-8", "surrogateescape")
        assert found.has_valid_integrity(key)
        assert not found.has_valid_fingerprint
        again = serialize(REQUEST, found.transaction_id, found.attributes, key)
        assert again[:3] + LONG_TERM_24[3:4] + again[4:-8] == LONG_TERM_24


class TestForeign:
    """What aioice writes we read, and what we write aioice reads."""

    @pytest.mark.parametrize("address", [("192.0.2.1", 1), ("2001:db8::7", 65535)])
    def test_theirs(self, address: tuple[str, int]) -> None:
        sent = foreign.Message(
            message_method=foreign.Method.BINDING,
            message_class=foreign.Class.RESPONSE,
            attributes={"USERNAME": "a:b", "PRIORITY": 7, "USE-CANDIDATE": None, "XOR-MAPPED-ADDRESS": address},
        )
        sent.add_message_integrity(b"secret")
        found = parse(bytes(sent))
        assert (found.method, found.message_class) == (stun.BINDING, SUCCESS)
        assert found.transaction_id == sent.transaction_id
        assert found.has_valid_fingerprint
        assert found.has_valid_integrity("secret")
        assert found.attributes == (
            (stun.USERNAME, b"a:b"),
            (stun.PRIORITY, b"\0\0\0\7"),
            (stun.USE_CANDIDATE, b""),
            (stun.XOR_MAPPED_ADDRESS, stun.xor_address(Endpoint(*address), sent.transaction_id)),
        )

    @pytest.mark.parametrize(
        ("message_class", "theirs"),
        [
            (REQUEST, foreign.Class.REQUEST),
            (INDICATION, foreign.Class.INDICATION),
            (SUCCESS, foreign.Class.RESPONSE),
            (ERROR, foreign.Class.ERROR),
        ],
    )
    @pytest.mark.parametrize("password", [None, "secret"])
    def test_ours(self, message_class: int, theirs: foreign.Class, password: str | None) -> None:
        sent = serialize(
            message_class,
            TID,
            [
                (stun.XOR_MAPPED_ADDRESS, stun.xor_address(V6, TID)),
                (stun.ERROR_CODE, stun.error_code(487, "Role Conflict")),
            ],
            password,
        )
        found = foreign.parse_message(sent)
        assert (found.message_method, found.message_class) == (foreign.Method.BINDING, theirs)
        assert found.transaction_id == TID
        assert found.attributes["XOR-MAPPED-ADDRESS"] == tuple(V6)
        assert found.attributes["ERROR-CODE"] == (487, "Role Conflict")
        assert found.attributes["FINGERPRINT"] == foreign.message_fingerprint(sent[:-8])
        expected = password and foreign.message_integrity(sent[:-32], password.encode())
        assert found.attributes.get("MESSAGE-INTEGRITY") == expected


class TestParse:
    @pytest.mark.parametrize(
        ("kind", "method", "message_class"),
        [
            (0x0001, 0x001, REQUEST),
            (0x0011, 0x001, INDICATION),
            (0x0101, 0x001, SUCCESS),
            (0x0111, 0x001, ERROR),
            (0x0003, 0x003, REQUEST),
            (0x0113, 0x003, ERROR),
            (0x3EEF, 0xFFF, REQUEST),
            (0x3FFF, 0xFFF, ERROR),
            (0x0021, 0x011, REQUEST),
            (0x0201, 0x081, REQUEST),
        ],
    )
    def test_method_and_class(self, kind: int, method: int, message_class: int) -> None:
        found = parse(message(kind=kind))
        assert (found.method, found.message_class) == (method, message_class)

    def test_the_first_of_two_counts(self) -> None:
        found = parse(message((0x8022, b"one"), (0x8022, b"two")))
        assert found.attribute(0x8022) == b"one"
        assert found.attribute(0x8023) is None

    def test_what_follows_the_integrity_does_not_count(self) -> None:
        signed = message((stun.USERNAME, b"a:b"), (stun.MESSAGE_INTEGRITY, bytes(20)), (stun.USE_CANDIDATE, b""))
        found = parse(signed)
        assert found.attributes == ((stun.USERNAME, b"a:b"),)
        assert found.integrity == 28
        second = parse(message((stun.MESSAGE_INTEGRITY, bytes(20)), (stun.MESSAGE_INTEGRITY, bytes(20))))
        assert second.integrity == 20

    def test_what_follows_the_fingerprint_does_not_count(self) -> None:
        found = parse(message((stun.FINGERPRINT, bytes(4)), (stun.USE_CANDIDATE, b""), tail=b"\x00\x08\xff\xff"))
        assert found.fingerprint == 20
        assert found.attributes == ()
        assert found.integrity is None

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="empty"),
            pytest.param(REQUEST_21[:19], id="half a header"),
            pytest.param(REQUEST_21[:-1], id="cut"),
            pytest.param(REQUEST_21[:-8], id="cut at an attribute"),
            pytest.param(REQUEST_21 + b"\0\0\0\0", id="longer than it says"),
            pytest.param(b"\x40" + REQUEST_21[1:], id="bit 6 set"),
            pytest.param(b"\x80" + REQUEST_21[1:], id="RTP"),
            pytest.param(REQUEST_21[:4] + bytes(4) + REQUEST_21[8:], id="no cookie"),
            pytest.param(message(length=2, tail=b"\0\0"), id="length not divisible by 4"),
            pytest.param(message(tail=b"\x00\x06\x00\x01"), id="attribute past the end"),
            pytest.param(message((0x8022, b"x"), tail=b"\x80\x22\xff\xff"), id="attribute far past the end"),
            pytest.param(message((stun.MESSAGE_INTEGRITY, bytes(16))), id="short integrity"),
            pytest.param(message((stun.MESSAGE_INTEGRITY, bytes(32))), id="long integrity"),
            pytest.param(message((stun.FINGERPRINT, bytes(3))), id="short fingerprint"),
            pytest.param(message((stun.PRIORITY, bytes(8))), id="long priority"),
            pytest.param(message((stun.PRIORITY, b"")), id="no priority"),
            pytest.param(message((stun.ICE_CONTROLLING, bytes(4))), id="short tie-breaker"),
            pytest.param(message((stun.ICE_CONTROLLED, bytes(12))), id="long tie-breaker"),
            pytest.param(message(*[(0x8022, b"")] * (stun.MAX_ATTRIBUTES + 1)), id="one attribute too many"),
            pytest.param(message(*[(0x8022, b"")] * 1000), id="a thousand attributes"),
            pytest.param(message((0x8022, bytes(65500))), id="64 KiB"),
            pytest.param(message(tail=bytes(stun.MAX_SIZE - 19)), id="one byte too long"),
        ],
    )
    def test_refused(self, data: bytes) -> None:
        with pytest.raises(ProtocolError):
            parse(data)

    def test_bounds_are_reached(self) -> None:
        assert len(parse(message(*[(0x8022, b"")] * stun.MAX_ATTRIBUTES)).attributes) == stun.MAX_ATTRIBUTES
        assert len(parse(message((0x8022, bytes(stun.MAX_SIZE - 24)))).data) == stun.MAX_SIZE

    def test_every_bit_is_covered(self) -> None:
        for at in range(len(REQUEST_21) * 8):
            data = bytearray(REQUEST_21)
            data[at // 8] ^= 1 << at % 8
            try:
                found = parse(bytes(data))
            except ProtocolError:
                continue
            assert not (found.has_valid_fingerprint and found.has_valid_integrity(PASSWORD))

    def test_mutations_end_in_a_message_or_a_reason(self) -> None:
        chance = random.Random(5769)
        for _ in range(20_000):
            data = bytearray(chance.choice((REQUEST_21, RESPONSE_22, RESPONSE_23, LONG_TERM_24)))
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            cut = chance.randrange(len(data) + 8)
            try:
                found = parse(bytes(data[:cut]))
            except ProtocolError:
                continue
            assert not found.has_valid_integrity("other")
            assert found.has_valid_fingerprint in (True, False)

    @settings(max_examples=300)
    @given(st.binary(max_size=80))
    def test_any_body(self, body: bytes) -> None:
        try:
            found = parse(message(tail=body))
        except ProtocolError:
            return
        assert found.data == message(tail=body)
        assert not found.has_valid_integrity("x")


class TestSerialize:
    @pytest.mark.parametrize(
        ("endpoint", "value"),
        [
            (V4, "0001a147e112a643"),
            (V6, "0002a1470113a9faa5d3f179bc25f4b5bed2b9d9"),
            (Endpoint("33.18.164.66", 0x2112), "0001000000000000"),
            (Endpoint("::", 0), "000221122112a442b7e7a701bc34d686fa87dfae"),
        ],
    )
    def test_xor_address(self, endpoint: Endpoint, value: str) -> None:
        assert stun.xor_address(endpoint, TID).hex() == value

    @pytest.mark.parametrize(
        ("code", "reason", "value"),
        [(400, "Bad", b"\0\0\4\0Bad"), (487, "Role Conflict", b"\0\0\4\x57Role Conflict"), (500, "", b"\0\0\5\0")],
    )
    def test_error_code(self, code: int, reason: str, value: bytes) -> None:
        assert stun.error_code(code, reason) == value

    def test_unknown_attributes(self) -> None:
        assert stun.unknown_attributes([0x0001, 0x7FFF]) == b"\0\1\x7f\xff"

    @settings(max_examples=200)
    @given(
        st.sampled_from([REQUEST, INDICATION, SUCCESS, ERROR]),
        st.binary(min_size=12, max_size=12),
        st.lists(st.tuples(st.sampled_from([0x0006, 0x0009, 0x8022, 0xC057]), st.binary(max_size=30)), max_size=8),
        st.none() | st.text(max_size=20),
    )
    def test_read_again(
        self,
        message_class: int,
        transaction_id: bytes,
        attributes: list[tuple[int, bytes]],
        password: str | None,
    ) -> None:
        found = parse(serialize(message_class, transaction_id, attributes, password))
        assert (found.method, found.message_class) == (stun.BINDING, message_class)
        assert (found.transaction_id, found.attributes) == (transaction_id, tuple(attributes))
        assert found.has_valid_fingerprint
        assert found.has_valid_integrity(password or "") == (password is not None)
