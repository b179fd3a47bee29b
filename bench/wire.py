"""Bencode and SDP, as little of them as a benchmark client needs, and quicker than a library."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple


class Suite(NamedTuple):
    """A suite of SRTP: its name in SDES and in the generator, and how long master key and salt are together."""

    name: str
    short: str
    key_len: int


def encode(value: Any) -> bytes:
    """Bencode integers, strings, bytes, lists and dicts with string keys."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list | tuple):
        return b"l" + b"".join(map(encode, value)) + b"e"
    return b"d" + b"".join(encode(key) + encode(value[key]) for key in sorted(value)) + b"e"


def decode(data: bytes) -> Any:
    """Decode one well-formed bencoded value; strings stay bytes, but keys become str."""
    return _decode(data, 0)[0]


def _decode(data: bytes, at: int) -> tuple[Any, int]:
    kind = data[at : at + 1]
    if kind == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1 : end]), end + 1
    if kind in (b"l", b"d"):
        return _decode_container(data, at)
    colon = data.index(b":", at)
    end = colon + 1 + int(data[at:colon])
    return data[colon + 1 : end], end


def _decode_container(data: bytes, at: int) -> tuple[Any, int]:
    items, end = [], at + 1
    while data[end : end + 1] != b"e":
        item, end = _decode(data, end)
        items.append(item)
    if data[at : at + 1] == b"l":
        return items, end + 1
    return {key.decode(): value for key, value in zip(items[::2], items[1::2], strict=True)}, end + 1


def sdp(address: str, port: int, protocol: str = "RTP/AVP", extra: str = "") -> str:
    """A body with one audio section; ``extra`` holds whole lines."""
    family = "IP6" if ":" in address else "IP4"
    return (
        f"v=0\r\no=- 1545997027 1 IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n"
        f"m=audio {port} {protocol} 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
        f"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n{extra}a=sendrecv\r\na=ptime:20\r\n"
    )


def crypto_line(tag: str, suite: Suite, key: bytes) -> str:
    """The ``a=crypto`` line (RFC 4568) that offers ``key``."""
    return f"a=crypto:{tag} {suite.name} inline:{base64.b64encode(key).decode()}\r\n"


class Announced(NamedTuple):
    """What a body from the daemon names: where to send, per crypto suite its tag and key with salt, its certificate.

    ``fingerprint``: name of the hash, a blank, and the digest with colons.
    """

    address: str
    port: int
    crypto: dict[str, tuple[str, bytes]]
    fingerprint: str


def parse_sdp(body: bytes) -> Announced:
    """Read the address, the audio port, the keys and the fingerprint."""
    address, port, crypto, fingerprint = "", 0, {}, ""
    for line in body.decode().splitlines():
        if line.startswith("c=IN "):
            address = line.split()[2]
        elif line.startswith("m=audio"):
            port = int(line.split()[1])
        elif line.startswith("a=crypto:"):
            tag, suite, keys = line[9:].split()[:3]
            crypto[suite] = (tag, base64.b64decode(keys.split(":", 1)[1].split("|")[0] + "=="))
        elif line.startswith("a=fingerprint:"):
            fingerprint = line[14:]
    return Announced(address, port, crypto, fingerprint)
