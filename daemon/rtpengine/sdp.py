"""Lossless SDP (RFC 8866): every line stays as it came, typed views tell what the lines mean.

``serialize(parse(data)) == data`` for every body that is accepted. A body is one or more sessions (``v=``), a
session its own lines followed by media sections (``m=``); sections are numbered through the whole body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from itertools import pairwise
from re import ASCII, IGNORECASE
from re import compile as re_compile
from typing import NamedTuple, TypeVar

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, IPV4, IPV6, Direction, Endpoint

MAX_SIZE = 65536
MAX_LINES = 4096
MAX_SECTIONS = 64
MAX_PAIRS = 10

_FAMILIES = {"IP4": IPV4, "ip4": IPV4, "IP6": IPV6, "ip6": IPV6}
# One match per line, Part.keys holds them; '' for a malformed line. A blank ends a name: some phones leave one there.
_KEYS = re_compile(r"(a=[^:\s]*+|[vocmbsiueptrzk]=|).*+\n").findall
# RFC 1123 2.1: the last label is not a number.
_HOST_NAME = re_compile(r"(?=.{1,253}$)(?:[A-Z0-9_][A-Z0-9_-]{0,62}\.)*[A-Z_][A-Z0-9_-]{0,62}\.?", ASCII | IGNORECASE)
# Where one level contradicts itself, the more cautious reading wins over sendrecv.
_DIRECTIONS = {f"a={name}": DIRECTIONS[name] for name in ("recvonly", "sendonly", "inactive", "sendrecv")}
_T = TypeVar("_T")


class Address(NamedTuple):
    """The address of a c= or o= line: family (4, 6), canonical text, or None for a host name."""

    family: int
    text: str | None

    @property
    def is_null(self) -> bool:
        """Whether this is the unspecified address: a stream on hold (RFC 3264 8.4), or not known yet (RFC 9429)."""
        return self.text in ("0.0.0.0", "::")


class MediaLine(NamedTuple):
    """An m= line (RFC 8866 5.14): ``pairs`` is the number behind the port, ``protocol`` the word as written."""

    kind: str
    port: int
    pairs: int
    protocol: str


class Part:
    """The lines of one level, the first of which opens it.

    ``lines`` carry no LF but the CR that they came with. ``keys`` say at the same index what a line is: ``a=rtcp``
    for an attribute of that name, ``m=`` for another type; ``present`` is the set of them.
    ``connections`` are the indices of the c= lines, of which the first counts.
    """

    __slots__ = ("connection", "connections", "keys", "lines", "present")

    def __init__(self, lines: list[str], keys: list[str], before: int) -> None:
        """Interpret lines that ``before`` others precede in the body."""
        self.lines = lines
        self.keys = keys
        self.present = set(keys)
        self.connection: Address | None = None
        self.connections: list[int] = []
        if "c=" in self.present:
            self.connections = self._indices("c=")
            addresses = [_interpret(parse_connection, lines, index, before) for index in self.connections]
            self.connection = addresses[0]

    def values(self, key: str) -> Iterator[str]:
        """Yield what stands behind the colon of each ``a=name`` line in order, '' for an attribute without a value."""
        for index in self._indices(key):
            yield self.lines[index][len(key) :].removesuffix("\r").removeprefix(":")

    def _indices(self, key: str) -> list[int]:
        found: list[int] = []
        for _ in range(self.keys.count(key)):
            found.append(self.keys.index(key, found[-1] + 1 if found else 0))
        return found

    def has(self, key: str) -> bool:
        """Whether the attribute is there as a property, which means without a value."""
        return key in self.present and any(self.lines[index].rstrip() == key for index in self._indices(key))

    @property
    def direction(self) -> Direction | None:
        """The direction stated at this very level (RFC 3264 5.1), None if it is silent."""
        for key, direction in _DIRECTIONS.items():
            if key in self.present and self.has(key):
                return direction
        return None


class Session(Part):
    """The session level of one ``v=``, and the media sections that follow it; ``origin_line`` is an index."""

    __slots__ = ("media", "origin", "origin_line")

    def __init__(self, lines: list[str], keys: list[str], before: int) -> None:
        super().__init__(lines, keys, before)
        if lines[0].removesuffix("\r") != "v=0":
            raise _failure(before, "version is not 0")
        self.media: list[MediaDescription] = []
        self.origin: Address | None = None
        self.origin_line = 0
        if "o=" in self.present:
            self.origin_line = keys.index("o=")
            self.origin = _interpret(parse_origin, lines, self.origin_line, before)
            if keys.count("o=") > 1:
                raise _failure(before + keys.index("o=", self.origin_line + 1), "second o=")

    @property
    def bundles(self) -> list[list[str]]:
        """The mids of each BUNDLE group (RFC 9143 7), in order."""
        return [value.split()[1:] for value in self.values("a=group") if is_bundle(value)]

    @property
    def is_bundled(self) -> bool:
        """Whether the first group of the session is a BUNDLE."""
        return "a=group" in self.present and is_bundle(next(self.values("a=group")))


class MediaDescription(Part):
    """One media section; ``lines[0]`` is its m= line.

    It does not know its session: a cycle would leave every body to the garbage collector.
    """

    __slots__ = ("media",)

    def __init__(self, lines: list[str], keys: list[str], before: int) -> None:
        super().__init__(lines, keys, before)
        self.media = _interpret(parse_media_line, lines, 0, before)
        if "o=" in self.present:
            raise _failure(before + keys.index("o="), "o= in a media section")

    @property
    def rtcp(self) -> Endpoint | int | None:
        """What the first well-formed ``a=rtcp`` says (see :func:`parse_rtcp`), None without one."""
        if "a=rtcp" in self.present:
            for value in self.values("a=rtcp"):
                try:
                    return parse_rtcp(value)
                except ProtocolError:
                    continue
        return None


class SessionDescription:
    """A whole body: its sessions, and its media sections in order of the text.

    ``tail`` is what follows the LF of the last line, split at LF: [''], or empty lines.
    ``unsent`` is the terminator that the last line had not, but has here.
    """

    __slots__ = ("media", "sessions", "tail", "unsent")

    def __init__(self, sessions: list[Session], tail: list[str], unsent: str = "") -> None:
        self.sessions = sessions
        self.tail = tail
        self.unsent = unsent
        self.media = [section for session in sessions for section in session.media]

    @classmethod
    def parse(cls, data: bytes) -> SessionDescription:
        """Parse a body; one of 0 or 1 bytes has no sessions.

        Raise ProtocolError("Failed to parse SDP: ...") for anything that sdp.md 2 does not allow.
        """
        text = data.decode("utf-8", "surrogateescape")
        lines = text.split("\n")
        if len(data) > MAX_SIZE or len(lines) > MAX_LINES:
            raise ProtocolError(f"Failed to parse SDP: more than {MAX_SIZE} bytes or {MAX_LINES} lines")
        if len(data) < 2:
            return cls([], lines)
        end = len(lines)
        while end and lines[end - 1] in ("", "\r"):
            end -= 1
        tail, unsent = lines[end:], ""
        del lines[end:]
        if not tail:
            unsent, tail = "\n" if lines[-1][-1] == "\r" else "\r\n", [""]
            lines[-1] += unsent[:-1]
        return cls(_sessions(lines), tail, unsent)

    def serialize(self) -> bytes:
        """The body, byte for byte as it was parsed."""
        lines: list[str] = []
        for session in self.sessions:
            lines += session.lines
            for section in session.media:
                lines += section.lines
        return join_lines(lines + self.tail).removesuffix(self.unsent.encode())


def join_lines(lines: list[str]) -> bytes:
    """The bytes of lines that carry no LF."""
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def is_bundle(value: str) -> bool:
    """Whether the value of ``a=group`` (RFC 5888 5) is a BUNDLE."""
    return value.rstrip() == "BUNDLE" or value.startswith("BUNDLE ")


def _sessions(lines: list[str]) -> list[Session]:
    if not lines:
        return []
    keys = _KEYS("\n".join(lines) + "\n")
    if "" in keys:
        index = keys.index("")
        raise _failure(index, "unknown type letter" if lines[index][1:2] == "=" else "not of the form letter=value")
    if keys[0] != "v=":
        raise _failure(0, "v= expected first")
    starts = [index for index, key in enumerate(keys) if key == "m=" or key == "v="]
    if len(starts) - keys.count("v=") > MAX_SECTIONS:
        raise ProtocolError(f"Failed to parse SDP: more than {MAX_SECTIONS} media sections")
    sessions: list[Session] = []
    for start, end in pairwise([*starts, len(keys)]):
        if keys[start] == "v=":
            sessions.append(Session(lines[start:end], keys[start:end], start))
        else:
            sessions[-1].media.append(MediaDescription(lines[start:end], keys[start:end], start))
    return sessions


def parse_media_line(value: str) -> MediaLine:
    """Parse the value of ``m=``: media, port[/pairs], transport; formats may follow or be missing (RFC 8866 5.14).

    Raise ProtocolError with the reason.
    """
    words = value.split(" ", 3)
    if len(words) < 3 or not (words[0] and words[2]):
        raise ProtocolError("m= needs media, port and transport")
    port_text, slash, pairs_text = words[1].partition("/")
    port = _number(port_text)
    pairs = _number(pairs_text) if slash else 1
    if port is None or port > 65535 or pairs is None or not 1 <= pairs <= MAX_PAIRS:
        raise ProtocolError("bad port in m=")
    if pairs > 1 and port + 2 * pairs - 1 > 65535:
        raise ProtocolError("port range of m= exceeds 65535")
    token = words[0] + words[2]  # reaches logs and statistics
    if not (token.isascii() and token.isprintable()):
        raise ProtocolError("media or transport of m= is not a token")
    return MediaLine(words[0], port, pairs, words[2])


def parse_origin(value: str) -> Address:
    """Parse the address of ``o=``: six words, single blanks between them, no host name (RFC 8866 5.2).

    Raise ProtocolError with the reason.
    """
    words = value.split(" ", 6)
    if len(words) < 6 or "" in words[:6] or words[3] not in ("IN", "in") or words[4] not in _FAMILIES:
        raise ProtocolError("o= needs user, id, version, IN, IP4 or IP6, and an address")
    family = _FAMILIES[words[4]]
    text = _canonical(family, words[5])
    if text is None:
        raise ProtocolError("bad address in o=")
    return Address(family, text)


def parse_connection(value: str) -> Address:
    """Parse the value of ``c=`` (RFC 8866 5.7); a host name and one ``/ttl`` behind an IPv4 address are tolerated.

    Raise ProtocolError with the reason.
    """
    words = value.split(" ", 3)
    if len(words) < 3 or words[0] not in ("IN", "in") or words[1] not in _FAMILIES:
        raise ProtocolError("c= needs IN, IP4 or IP6, and an address")
    family = _FAMILIES[words[1]]
    literal, slash, ttl = words[2].partition("/")
    if slash and (family != IPV4 or _number(ttl) is None):
        raise ProtocolError("address range in c=")
    text = _canonical(family, literal)
    if text is None and (slash or not _HOST_NAME.fullmatch(literal)):
        raise ProtocolError("bad address in c=")
    return Address(family, text)


def parse_rtcp(value: str) -> Endpoint | int:
    """Parse the value of ``a=rtcp`` (RFC 3605 2.1).

    Return the port, or an Endpoint where the attribute names an address; a host name counts as no address.
    Raise ProtocolError for a port outside 1..65535 or for anything else behind it.
    """
    word, _, rest = value.partition(" ")
    port = _number(word)
    if port is None or not 1 <= port <= 65535:
        raise ProtocolError("bad port in a=rtcp")
    if not rest.strip():
        return port
    address = parse_connection(rest)
    return port if address.text is None else Endpoint(address.text, port)


def _canonical(family: int, literal: str) -> str | None:
    """The canonical text of an address literal of this family, None if it is none."""
    if family == IPV6 and literal[:1] == "[" and literal[-1:] == "]":
        literal = literal[1:-1]
    # A zone means nothing to anybody else; the length keeps rubbish out of the cache.
    return None if "%" in literal or len(literal) > 45 else _canonical_literal(family, literal)


@lru_cache(maxsize=4096)
def _canonical_literal(family: int, literal: str) -> str | None:
    try:
        address = ip_address(literal)
    except ValueError:
        return None
    return str(address) if address.version == family else None


def _number(text: str) -> int | None:
    return int(text) if 1 <= len(text) <= 5 and text.isascii() and text.isdigit() else None


def _interpret(parse: Callable[[str], _T], lines: list[str], index: int, before: int) -> _T:
    """The parsed value of one line of a part that ``before`` lines precede."""
    try:
        return parse(lines[index][2:].removesuffix("\r"))
    except ProtocolError as error:
        raise _failure(before + index, str(error)) from None


def _failure(before: int, reason: str) -> ProtocolError:
    """A syntax error in the line that ``before`` others precede; it never quotes the line, which may be raw bytes."""
    return ProtocolError(f"Failed to parse SDP: line {before + 1}: {reason}")
