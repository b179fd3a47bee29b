"""The control protocol of rtpproxy: a cookie and one line per datagram, both ways (control-udp.md).

Lines become typed commands, replies are the bytes behind the cookie. Text is UTF-8 with ``surrogateescape``, so that
identifiers are compared as the bytes that the client sent.

A line is taken apart word by word and never by one expression over all of it: the time that it takes grows with
its length only, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from rtpengine import ProtocolError
from rtpengine.media import Endpoint, MediaOffer, Signalling

# Kamailio and OpenSIPS read a reply into a buffer of 256 bytes. A cookie of at most half of it leaves room for every
# reply of ours, of which the longest (a query) has about 100 bytes.
MAX_REPLY = 256
MAX_COOKIE = 128
MAX_TOKEN = 1_024
MAX_ADDRESS = 64
MAX_INDEX = 64

DONE = b"0"
ERROR = b"E8"
VERSION = b"20040107"
# Basic protocol, bridging between interfaces, and calls of several media streams.
_FEATURES = frozenset((b"20040107", b"20050322", b"20060704"))

_WORD = re.compile(rb"\S+")
_ADDRESS = re.compile(rb"[0-9.]+|[0-9A-F:]+(?::FFFF:[0-9.]+)?", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# The options up to the first letter that is none of Kamailio's and has a number behind it, such as ``c0,8`` or ``Z20``:
# what follows belongs to it and says nothing about directions.
_OWN_OPTIONS = re.compile(rb"(?:[AEIRSW6]|[^AEIRSW6](?![0-9]))*")
_PLAIN_OPTIONS = re.compile(rb"[A-Z0-9,.]*")


@dataclass(frozen=True, slots=True)
class Update:
    """``U``: the party ``from_tag`` offers one section of the call.

    ``index`` counts sections from 0, on the wire they count from 1.
    """

    call_id: str
    from_tag: str
    index: int
    media: MediaOffer
    how: Signalling


@dataclass(frozen=True, slots=True)
class Lookup:
    """``L``: the party ``to_tag``, empty where the line has none, answers what ``from_tag`` offered of a section."""

    call_id: str
    from_tag: str
    to_tag: str
    index: int
    media: MediaOffer
    how: Signalling


@dataclass(frozen=True, slots=True)
class Delete:
    """``D``: the end of a call or of one of its branches."""

    call_id: str
    via_branch: str | None
    from_tag: str
    to_tag: str | None


@dataclass(frozen=True, slots=True)
class Query:
    """``Q``: packet counts are asked for, seen from ``from_tag``."""

    call_id: str
    from_tag: str
    to_tag: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """``V``: which protocol is spoken."""


@dataclass(frozen=True, slots=True)
class Feature:
    """``VF``: whether one extension of the protocol, named by a date, is ``known``."""

    known: bool


Command = Update | Lookup | Delete | Query | Version | Feature


class Unmatched(ProtocolError):
    """A line that fits no command (control-udp.md 2.1); its reply is made anew each time it comes.

    ``echo`` is what the client is told: for U and L its own port and address, so that the SIP proxy leaves the media
    as they are; None where that makes no sense.
    """

    def __init__(self, reason: str, echo: bytes | None = None) -> None:
        super().__init__(reason)
        self.echo = echo

    def reply(self, cookie: bytes) -> bytes:
        """The datagram to send, an error where the echo does not fit into one."""
        if self.echo is None or len(cookie) + len(self.echo) >= MAX_REPLY:
            return serialize(cookie, ERROR)
        return cookie + self.echo + b"\n"


def split(datagram: bytes) -> tuple[bytes, bytes]:
    """Separate the cookie from the line behind it, which may be empty.

    Raise ProtocolError where there is no cookie, or one so long that no reply could hold it: no reply is possible.
    """
    words = datagram.split(None, 1)
    if not words:
        raise ProtocolError("No cookie in message")
    if len(words[0]) > MAX_COOKIE:
        raise ProtocolError("Cookie is too long")
    return words[0], words[1] if len(words) > 1 else b""


def parse(line: bytes) -> Command:
    """Read the line behind the cookie.

    Raise Unmatched where it has not the form of any command, and ProtocolError where it has, with values that cannot
    be: either is an error to the client, but only the second is remembered under its cookie.
    """
    words = list(_WORD.finditer(line))
    build = _COMMANDS.get(line[words[0].start() : words[0].start() + 1].upper()) if words else None
    if build is None:
        raise Unmatched("No such command")
    return build(line, words)


def command_name(line: bytes) -> str:
    """What a line asks for, as one of a few words; empty if that is nothing we know."""
    return _NAMES.get(line.lstrip()[:1].upper(), "")


def serialize(cookie: bytes, reply: bytes) -> bytes:
    """The datagram for a reply."""
    return cookie + b" " + reply + b"\n"


def local_media(local: Endpoint) -> bytes:
    """The reply to U and L: where the recipient shall send to; port 0 if nowhere."""
    return f"{local.port} {local.address} {local.family}".encode()


def statistics(ttl_s: int, own: tuple[int, int], other: tuple[int, int]) -> bytes:
    """The reply to Q: seconds that are left, RTP and RTCP packets from the side asked for, and from the other one."""
    return b"%d %d %d %d %d" % (ttl_s, *own, *other)


def call_id_of(line: bytes) -> str:
    """The call that a line is about as far as one word tells, without checking the line; empty if it is about none."""
    words = line.split(None, 2)
    if len(words) < 2 or words[0][:1].upper() not in (b"U", b"L", b"D", b"Q"):
        return ""
    call_id = words[1].partition(b";")[0][:MAX_TOKEN]
    return "" if _CONTROL.search(call_id) else _decode(call_id)


def looks_like(datagram: bytes) -> bool:
    """Whether a datagram from the port of another protocol is a command of this one.

    Stricter than :func:`parse`, since an ng dictionary begins with the letter of a delete.
    """
    words = datagram.split(None, 6)
    if len(words) < 2:
        return False
    letter, options = words[1][:1].upper(), words[1][1:].upper()
    if letter in (b"U", b"L"):
        return bool(
            len(words) >= 6 and _PLAIN_OPTIONS.fullmatch(options) and _is_address(words[3]) and words[4].isdigit()
        )
    if letter in (b"D", b"Q"):
        return not options and len(words) in (4, 5)
    return letter == b"V" and options in (b"", b"F") and len(words) <= 3


# U and L


def _media_command(line: bytes, words: list[re.Match[bytes]]) -> Update | Lookup:
    found = _media_words(words)
    if found is None:
        raise _unmatched_media(line, words)
    at, parties = found
    head = line[words[1].start() : words[at - 1].end()]
    call_id, semicolon, branch = head.partition(b";")
    if not call_id or (semicolon and not branch):
        raise _unmatched_media(line, words)
    how = Signalling(
        prefer_ipv6=_recipient_external(_checked(words[0][0])),
        via_branch=_text(branch) if branch else None,
    )
    media = _media(words[at][0], words[at + 1][0])
    tags = [_text(tag) for tag, _ in parties]
    index = _index(parties[0][1])
    if line[words[0].start() :][:1] in b"Uu":
        return Update(_text(call_id), tags[0], index, media, how)
    return Lookup(_text(call_id), tags[0], tags[1] if len(tags) > 1 else "", index, media, how)


def _media_words(words: list[re.Match[bytes]]) -> tuple[int, list[tuple[bytes, bytes]]] | None:
    """Where the address is, and the tags with their numbers; None if the words are no U or L.

    The call-id may contain blanks, so the last possible place counts. It has no semicolon, and the from-tag has one,
    which leaves four places: that word ends the call-id with a branch, or is the from-tag, or lies between.
    """
    first = next((i for i in range(1, len(words)) if b";" in words[i][0]), 0)
    for at in range(min(first + 1, len(words) - 3), max(first - 2, 2) - 1, -1):
        parties = [_numbered(word[0]) for word in words[at + 2 : at + 4]]
        if all(parties) and _is_address(words[at][0]) and words[at + 1][0].isdigit():
            return at, [party for party in parties if party]
    return None


def _unmatched_media(line: bytes, words: list[re.Match[bytes]]) -> Unmatched:
    """The client's own endpoint with the blanks that stood before its parts, provided it can be one."""
    if len(words) < 4:
        return Unmatched("Incomplete command")
    address, port = words[2], words[3]
    if _CONTROL.search(address[0]) or _CONTROL.search(port[0]):
        return Unmatched("Malformed command")
    before_port, before_address = line[address.end() : port.start()], line[words[1].end() : address.start()]
    return Unmatched("Malformed command", before_port + port[0] + before_address + address[0])


def _numbered(word: bytes) -> tuple[bytes, bytes] | None:
    """A tag and its media number, None if there is none. A tag may contain semicolons itself."""
    tag, _, number = word.rpartition(b";")
    return (tag, number) if tag and number.isdigit() else None


def _index(number: bytes) -> int:
    digits = number.lstrip(b"0")
    if len(digits) > len(str(MAX_INDEX)) or int(digits or b"1") > MAX_INDEX:
        raise ProtocolError("Media index is out of range")
    return int(digits or b"1") - 1


def _recipient_external(word: bytes) -> bool:
    """Whether the second direction letter puts the recipient on the external, the IPv6 side.

    All other letters mean nothing here (control-udp.md 4.1); how to learn addresses is the daemon's to decide.
    """
    own = _OWN_OPTIONS.match(word[1:].upper())
    directions = [letter for letter in (own[0] if own else b"") if letter in b"EI"]
    return directions[1:2] == [ord("E")]


def _media(address: bytes, port: bytes) -> MediaOffer:
    """Plain audio at an endpoint, RTCP one port above; port 0 rejects the section."""
    canonical = _address(address)
    if canonical is None:
        raise ProtocolError("Address is not valid")
    if port == b"0":
        return MediaOffer("audio", Endpoint(canonical, 0), None, "RTP/AVP", rejected=True)
    digits = port.lstrip(b"0")
    if not digits or len(digits) > 5 or int(digits) > 65535:
        raise ProtocolError("Port is out of range")
    number = int(digits)
    rtcp = Endpoint(canonical, number + 1) if number < 65535 else None
    return MediaOffer("audio", Endpoint(canonical, number), rtcp, "RTP/AVP")


def _is_address(word: bytes) -> bool:
    """Whether a word has the form of an address; it may still be none."""
    return len(word) <= MAX_ADDRESS and _ADDRESS.fullmatch(word) is not None


@lru_cache(maxsize=1024)
def _address(text: bytes) -> str | None:
    """The canonical text of a literal, None if it is none or names all hosts of a network."""
    try:
        canonical = str(ip_address(text.decode("ascii")))
    except ValueError:
        return None
    return None if canonical == "255.255.255.255" else canonical


# D, Q and V


def _delete(line: bytes, words: list[re.Match[bytes]]) -> Delete:
    call_id, branch, from_tag, to_tag = _whole_call(words)
    return Delete(call_id, branch, from_tag, to_tag)


def _query(line: bytes, words: list[re.Match[bytes]]) -> Query:
    call_id, _, from_tag, to_tag = _whole_call(words)
    return Query(call_id, from_tag, to_tag)


def _whole_call(words: list[re.Match[bytes]]) -> tuple[str, str | None, str, str | None]:
    """Call-id, branch, from-tag and to-tag of a command that is not about one section."""
    if not 3 <= len(words) <= 4:
        raise Unmatched("Malformed command")
    call_id, semicolon, branch = words[1][0].partition(b";")
    if not call_id or (semicolon and not branch):
        raise Unmatched("Malformed command")
    _checked(words[0][0])
    to_tag = _without_number(words[3][0]) if len(words) == 4 else None
    return _text(call_id), _text(branch) if branch else None, _without_number(words[2][0]), to_tag


def _without_number(word: bytes) -> str:
    numbered = _numbered(word)
    return _text(word if numbered is None else numbered[0])


def _version(line: bytes, words: list[re.Match[bytes]]) -> Version | Feature:
    if words[0][0][1:2].upper() != b"F":
        return Version()
    return Feature(known=len(words) > 1 and words[1][0] in _FEATURES)


_COMMANDS: dict[bytes, Callable[[bytes, list[re.Match[bytes]]], Command]] = {
    b"U": _media_command,
    b"L": _media_command,
    b"D": _delete,
    b"Q": _query,
    b"V": _version,
}
_NAMES = {b"U": "update", b"L": "lookup", b"D": "delete", b"Q": "query", b"V": "version"}


def _checked(word: bytes) -> bytes:
    if len(word) > MAX_TOKEN:
        raise ProtocolError("Word is too long")
    if _CONTROL.search(word):
        raise ProtocolError("Word contains control characters")
    return word


def _text(word: bytes) -> str:
    return _decode(_checked(word))


def _decode(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")
