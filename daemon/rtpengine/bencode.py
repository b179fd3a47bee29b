"""bencode as the ng protocol needs it: bencodepy held to strict tokens and to limits, and fast for small strings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from bencodepy import BencodeDecoder, BencodeEncoder  # type: ignore[import-untyped, unused-ignore]

MAX_DEPTH = 16
MAX_ELEMENTS = 1_024

_INTEGER = re.compile(rb"i(0|-?[1-9][0-9]{0,18})e")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,4}")
_NINE, _END = b"9e"


class _Lengths(dict[bytes, int]):
    """The length of a string by its digits; what a lookup finds needs no check and no conversion."""

    def __missing__(self, digits: bytes) -> int:
        if not _LENGTH.fullmatch(digits):
            raise ValueError("not a string length")
        return int(digits)


_LENGTHS = _Lengths((b"%d" % length, length) for length in range(4096))


class _Decoder(BencodeDecoder):  # type: ignore[misc, unused-ignore]
    """bencodepy with strict tokens and with limits; not reentrant.

    bencodepy 4.1.0 accepts signs, blanks and underscores in numbers. A negative key length even makes it walk
    backwards for ever: ``d1:a1:b-6:`` is an endless loop. Unlike it, the first of two equal keys wins, and bytes
    behind the dictionary are ignored.

    Nearly everything in a request is a string. So strings are read where they stand, without a call for each: what is
    not above ``9`` must be a length, and none can be cut off, since a byte is read behind each.
    """

    def __init__(self) -> None:
        super().__init__(max_depth=MAX_DEPTH - 1)
        self._left = 0

    def dictionary(self, data: bytes) -> dict[bytes, Any]:
        if data[:1] != b"d":
            raise ValueError("not a dictionary")
        self._left = MAX_ELEMENTS
        value, _ = self.decode_dict(data, 0)
        return value

    def _count(self, depth: int = 0) -> None:
        self._left -= 1
        if self._left < 0 or depth > self.max_depth:
            raise ValueError("too many elements, or nested too deeply")

    def decode_int(self, x: bytes, f: int, **kwargs: Any) -> tuple[int, int]:
        self._count()
        match = _INTEGER.match(x, f)
        if match is None:
            raise ValueError("not an integer")
        return int(match[1]), match.end()

    def decode_list(self, x: bytes, f: int, **kwargs: Any) -> tuple[list[Any], int]:
        depth = kwargs.get("depth", 0)
        self._count(depth)
        values: list[Any] = []
        left = self._left
        f += 1
        while x[f] != _END:
            if x[f] <= _NINE:
                left -= 1
                colon = x.index(b":", f)
                f = colon + 1 + _LENGTHS[x[f:colon]]
                value: Any = x[colon + 1 : f]
            else:
                self._left = left
                value, f = self.decode_func[x[f : f + 1]](x, f, depth=depth + 1)
                left = self._left
            if left < 0:
                raise ValueError("too many elements")
            values.append(value)
        self._left = left
        return values, f + 1

    def decode_dict(self, x: bytes, f: int, **kwargs: Any) -> tuple[dict[bytes, Any], int]:
        depth = kwargs.get("depth", 0)
        self._count(depth)
        entries: dict[bytes, Any] = {}
        left = self._left
        f += 1
        while x[f] != _END:
            colon = x.index(b":", f)
            f = colon + 1 + _LENGTHS[x[f:colon]]
            key = x[colon + 1 : f]
            left -= 2
            if x[f] <= _NINE:
                colon = x.index(b":", f)
                f = colon + 1 + _LENGTHS[x[f:colon]]
                value: Any = x[colon + 1 : f]
            else:
                self._left = left + 1
                value, f = self.decode_func[x[f : f + 1]](x, f, depth=depth + 1)
                left = self._left
            if left < 0:
                raise ValueError("too many elements")
            entries.setdefault(key, value)
        self._left = left
        return entries, f + 1


class _Encoder(BencodeEncoder):  # type: ignore[misc, unused-ignore]
    """bencodepy with the text encoding of this protocol: identifiers are whatever bytes the client sent.

    The reply to a delete has some 300 short strings and integers, most of them alike from call to call. Encoded one
    by one through bencodepy they would cost more than everything else that a call costs.
    """

    def encode_int(self, x: int, r: Any) -> None:
        r.append(b"i%de" % x)

    def encode_string(self, x: str, r: Any) -> None:
        r.append(_token(x))

    def encode_dict(self, x: dict[str, Any], r: Any) -> None:
        r.append(b"d")
        for key, token in _sorted_tokens(tuple(x)):
            value = x[key]
            kind = type(value)
            if kind is int:
                r.append(b"%si%de" % (token, value))
            elif kind is str:
                r.append(token + _token(value))
            else:
                r.append(token)
                self.encode_func[kind](value, r)
        r.append(b"e")


@lru_cache(maxsize=256)
def _sorted_tokens(keys: tuple[str, ...]) -> list[tuple[str, bytes]]:
    return [(key, _token(key)) for key in sorted(keys)]


@lru_cache(maxsize=4096)
def _token(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return b"%d:%s" % (len(data), data)


_DECODER = _Decoder()
_ENCODER = _Encoder()


def decode(data: bytes) -> dict[bytes, Any]:
    """Decode the dictionary at the start of ``data``; ValueError or LookupError if it is none."""
    return _DECODER.dictionary(data)


def encode(value: Mapping[str, Any]) -> bytes:
    """Encode a dictionary with its keys sorted.

    Values are str, bytes, int, bool, list, tuple or dict; KeyError for others.
    """
    encoded: bytes = _ENCODER.encode(dict(value))
    return encoded
