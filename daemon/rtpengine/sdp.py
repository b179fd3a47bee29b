"""Lossless SDP (RFC 8866): every line stays as it came, typed views tell what the lines mean.

``serialize(parse(data)) == data`` for every body that is accepted. A body is one or more sessions (``v=``), a
session its own lines followed by media sections (``m=``); sections are numbered through the whole body.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address
from re import ASCII, IGNORECASE
from re import compile as re_compile
from typing import NamedTuple, NoReturn

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, IPV4, IPV6, Direction, Endpoint

MAX_SIZE = 65536
MAX_LINES = 4096
MAX_SECTIONS = 64
MAX_PAIRS = 10

_FAMILIES = {"IP4": IPV4, "ip4": IPV4, "IP6": IPV6, "ip6": IPV6}
_SKIPPED = frozenset("siueptrzkb")
# RFC 1123 2.1: the last label is not a number.
_HOST_NAME = re_compile(r"(?=.{1,253}$)(?:[A-Z0-9_][A-Z0-9_-]{0,62}\.)*[A-Z_][A-Z0-9_-]{0,62}\.?", ASCII | IGNORECASE)
# Where one level contradicts itself, the more cautious reading wins over sendrecv.
_DIRECTION_ORDER = ("recvonly", "sendonly", "inactive", "sendrecv")


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
    """The lines of one level.

    ``lines`` carry no LF but the CR that they came with; ``names`` has, at the same index, the attribute's name,
    None where the line is no attribute. ``connections`` are the indices of the c= lines, of which the first counts.
    """

    __slots__ = ("connection", "connections", "lines", "names")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: list[str | None] = []
        self.connection: Address | None = None
        self.connections: list[int] = []

    def values(self, name: str) -> Iterator[str]:
        """Yield the value of each attribute of that name in order, '' for one without."""
        for line, other in zip(self.lines, self.names, strict=True):
            if other == name:
                yield _value(line).partition(":")[2]

    def has(self, name: str) -> bool:
        """Whether the attribute is there as a property, which means without a value."""
        return name in self.names and "" in self.values(name)

    @property
    def direction(self) -> Direction | None:
        """The direction stated at this very level (RFC 3264 5.1), None if it is silent."""
        return next((DIRECTIONS[name] for name in _DIRECTION_ORDER if self.has(name)), None)


class Session(Part):
    """The session level of one ``v=``, and the media sections that follow it; ``origin_line`` is an index."""

    __slots__ = ("media", "origin", "origin_line")

    def __init__(self) -> None:
        super().__init__()
        self.origin: Address | None = None
        self.origin_line = 0
        self.media: list[MediaDescription] = []

    @property
    def bundles(self) -> list[list[str]]:
        """The mids of each BUNDLE group (RFC 9143 7), in order."""
        return [value.split()[1:] for value in self.values("group") if is_bundle(value)]

    @property
    def is_bundled(self) -> bool:
        """Whether the first group of the session is a BUNDLE."""
        return "group" in self.names and is_bundle(next(self.values("group")))


class MediaDescription(Part):
    """One media section; ``lines[0]`` is its m= line."""

    __slots__ = ("media", "session")

    def __init__(self, session: Session, media: MediaLine) -> None:
        super().__init__()
        self.session = session
        self.media = media

    @property
    def rtcp(self) -> Endpoint | int | None:
        """What the first well-formed ``a=rtcp`` says (see :func:`parse_rtcp`), None without one."""
        if "rtcp" in self.names:
            for value in self.values("rtcp"):
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
        tail = lines[end:]
        del lines[end:]
        unsent = ""
        if not tail:
            unsent, tail = "\n" if lines[-1][-1] == "\r" else "\r\n", [""]
            lines[-1] += unsent[:-1]
        return cls(_Parser().parse(lines), tail, unsent)

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


class _SyntaxError(Exception):
    """A line that is not SDP; the text says why, and never quotes the line: replies and logs are not for raw bytes."""


class _Parser:
    """The sessions read so far, and the part that lines are being added to."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.sections = 0
        self.part: Part | None = None

    def parse(self, lines: list[str]) -> list[Session]:
        names: list[str | None] = []  # before the first v= only until _other() has raised
        part_lines: list[str] = []
        for number, line in enumerate(lines, 1):
            if line[1:2] != "=":
                _fail(number, "not of the form letter=value")
            if line[0] == "a" and self.part:
                # rstrip: the CR, and the blank that some phones leave behind a property.
                names.append(line[2:].partition(":")[0].rstrip())
                part_lines.append(line)
                continue
            try:
                part = self._other(line)
            except _SyntaxError as error:
                _fail(number, str(error))
            part_lines, names = part.lines, part.names
            part_lines.append(line)
            names.append(None)
        return self.sessions

    def _other(self, line: str) -> Part:
        """Take in a line that is no attribute; return the part that it belongs to."""
        letter, value, part = line[0], _value(line), self.part
        if letter == "v":
            part = self._version(value)
        elif part is None:
            raise _SyntaxError("v= expected first")
        elif letter == "m":
            part = self._media(value)
        elif letter == "c":
            address = parse_connection(value)
            part.connection = part.connection or address
            part.connections.append(len(part.lines))
        elif letter == "o":
            _origin(part, value)
        elif letter not in _SKIPPED:
            raise _SyntaxError("unknown type letter")
        self.part = part
        return part

    def _version(self, value: str) -> Session:
        if value != "0":
            raise _SyntaxError("version is not 0")
        session = Session()
        self.sessions.append(session)
        return session

    def _media(self, value: str) -> MediaDescription:
        session = self.sessions[-1]
        if self.sections == MAX_SECTIONS:
            raise _SyntaxError(f"more than {MAX_SECTIONS} media sections")
        self.sections += 1
        section = MediaDescription(session, parse_media_line(value))
        session.media.append(section)
        return section


def parse_media_line(value: str) -> MediaLine:
    """Parse the value of ``m=``: media, port[/pairs], transport; formats may follow or be missing (RFC 8866 5.14)."""
    words = value.split(" ", 3)
    if len(words) < 3 or not (words[0] and words[2]):
        raise _SyntaxError("m= needs media, port and transport")
    port_text, slash, pairs_text = words[1].partition("/")
    port = _number(port_text)
    pairs = _number(pairs_text) if slash else 1
    if port is None or port > 65535 or pairs is None or not 1 <= pairs <= MAX_PAIRS:
        raise _SyntaxError("bad port in m=")
    if pairs > 1 and port + 2 * pairs - 1 > 65535:
        raise _SyntaxError("port range of m= exceeds 65535")
    token = words[0] + words[2]  # reaches logs and statistics
    if not (token.isascii() and token.isprintable()):
        raise _SyntaxError("media or transport of m= is not a token")
    return MediaLine(words[0], port, pairs, words[2])


def parse_connection(value: str) -> Address:
    """Parse the value of ``c=`` (RFC 8866 5.7); a host name and one ``/ttl`` behind an IPv4 address are tolerated."""
    words = value.split(" ", 3)
    if len(words) < 3 or words[0] not in ("IN", "in") or words[1] not in _FAMILIES:
        raise _SyntaxError("c= needs IN, IP4 or IP6, and an address")
    family = _FAMILIES[words[1]]
    literal, slash, ttl = words[2].partition("/")
    if slash and (family != IPV4 or _number(ttl) is None):
        raise _SyntaxError("address range in c=")
    text = _canonical(family, literal)
    if text is None and (slash or not _HOST_NAME.fullmatch(literal)):
        raise _SyntaxError("bad address in c=")
    return Address(family, text)


def parse_rtcp(value: str) -> Endpoint | int:
    """Parse the value of ``a=rtcp`` (RFC 3605 2.1).

    Return the port, or an Endpoint where the attribute names an address; a host name counts as no address.
    Raise ProtocolError for a port outside 1..65535 or for anything else behind it.
    """
    words = value.split(" ")
    port = _number(words[0])
    if port is None or not 1 <= port <= 65535:
        raise ProtocolError("Bad port in a=rtcp")
    if not any(words[1:]):
        return port
    try:
        address = parse_connection(" ".join(words[1:]))
    except _SyntaxError as error:
        raise ProtocolError("Bad address in a=rtcp") from error
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


def _origin(part: Part, value: str) -> None:
    if not isinstance(part, Session) or part.origin is not None:
        raise _SyntaxError("o= once per session, before the media")
    words = value.split(" ", 6)
    if len(words) < 6 or "" in words[:6]:
        raise _SyntaxError("o= needs six words")
    if words[3] not in ("IN", "in") or words[4] not in _FAMILIES:
        raise _SyntaxError("o= needs IN and IP4 or IP6")
    family = _FAMILIES[words[4]]
    text = _canonical(family, words[5])
    if text is None:
        raise _SyntaxError("bad address in o=")
    part.origin, part.origin_line = Address(family, text), len(part.lines)


def _number(text: str) -> int | None:
    return int(text) if 1 <= len(text) <= 5 and text.isascii() and text.isdigit() else None


def _value(line: str) -> str:
    return line[2:-1] if line[-1] == "\r" else line[2:]


def _fail(number: int, reason: str) -> NoReturn:
    raise ProtocolError(f"Failed to parse SDP: line {number}: {reason}")
