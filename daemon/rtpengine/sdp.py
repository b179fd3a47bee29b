"""Lossless SDP (RFC 8866): every line stays as it came, typed views tell what the lines mean.

``serialize(parse(data)) == data`` for every body that is accepted. A body is one or more sessions (``v=``), a
session its own lines followed by media sections (``m=``); sections are numbered through the whole body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from ipaddress import IPv6Address
from re import ASCII, IGNORECASE, Pattern, escape
from re import compile as re_compile
from typing import NamedTuple, TypeVar

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, IPV4, IPV6, Direction, Endpoint

MAX_SIZE = 65536
MAX_LINES = 4096
MAX_SECTIONS = 64
MAX_PAIRS = 10

_FAMILIES = {"IP4": IPV4, "ip4": IPV4, "IP6": IPV6, "ip6": IPV6}
# Patterns over a body begin with the LF in front of a line: re looks for such a literal as fast as str.find() does.
_MALFORMED = re_compile(r"\n(?![vocmbsiueptrzka]=)").search
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_QUAD = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
_DOTTED_QUAD = re_compile(_QUAD).fullmatch
# What nearly all bodies say in these lines is read with one match; what it does not cover takes the long way.
_PLAIN_CONNECTION = re_compile(rf"\nc=IN (IP4 ({_QUAD}))(?=\r?(?:\n|\Z))").match
_PLAIN_ORIGIN = re_compile(rf"\no=[^ \n]++ [^ \n]++ [^ \n]++ IN (IP4 ({_QUAD}))(?=\r?(?:\n|\Z))").match
_PLAIN_MEDIA = re_compile(r"\nm=([!-~]++) ([0-9]{1,5}) ([!-~]++)(?= |\r?(?:\n|\Z))").match
# The same words of any line that has been accepted.
_CONNECTION_WORDS = re_compile(r"\nc=.. ([^ \n]++ [^ \r\n]++)").match
_ORIGIN_WORDS = re_compile(r"\no=(?:[^ \n]++ ){4}([^ \n]++ [^ \r\n]++)").match
# RFC 1123 2.1: the last label is not a number.
_HOST_NAME = re_compile(r"(?=.{1,253}$)(?:[A-Z0-9_][A-Z0-9_-]{0,62}\.)*[A-Z_][A-Z0-9_-]{0,62}\.?", ASCII | IGNORECASE)
# Where one level contradicts itself, the more cautious reading wins over sendrecv.
_BY_CAUTION = ("recvonly", "sendonly", "inactive", "sendrecv")
BLANK_TO_END = r"[^\S\n]*+(?!.)"
_RTCP_MUX = re_compile(rf"\na=rtcp-mux(?:-only)?{BLANK_TO_END}").search
_STATED_DIRECTIONS = re_compile(rf"\na=({'|'.join(_BY_CAUTION)}){BLANK_TO_END}").findall
_T = TypeVar("_T")

# Where words begin and end in the text of a part.
Span = tuple[int, int]


class _BadLine(Exception):
    """What is wrong with the line at whose LF ``at`` points in the text of a part: lines are counted only then."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at
        self.reason = reason


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

    ``text`` is every line behind its LF, so that a line is found by how it begins, the first one by ``text[3:]``.
    A body is not cut into lines: most of them only pass, and to search for the others is cheaper than a loop over all.
    ``connection`` is that of the first c= line, ``connections`` say for each c= line where in ``text`` its address
    type and address stand.
    """

    __slots__ = ("connection", "connections", "text")

    def __init__(self, text: str) -> None:
        """Interpret the text of a level; raise _BadLine."""
        self.text = text
        self.connection: Address | None = None
        self.connections: list[Span] = []
        at = text.find("\nc=")
        while at >= 0:
            address, span = _connection(text, at)
            self.connection = self.connection or address
            self.connections.append(span)
            at = text.find("\nc=", at + 1)

    def values(self, key: str) -> Iterator[str]:
        """Yield what stands behind the colon of each ``a=name`` line in order, '' for an attribute without a value."""
        for found in _valued(key).finditer(self.text):
            yield found[1].removesuffix("\r")

    def has(self, key: str) -> bool:
        """Whether the attribute is there as a property, which means without a value."""
        return _bare(key).search(self.text) is not None

    @property
    def direction(self) -> Direction | None:
        """The direction stated at this very level (RFC 3264 5.1), None if it is silent."""
        stated = _STATED_DIRECTIONS(self.text)
        if not stated:
            return None
        return DIRECTIONS[stated[0] if len(stated) == 1 else min(stated, key=_BY_CAUTION.index)]


class Session(Part):
    """The session level of one ``v=``, and the media sections that follow it.

    ``origin_span`` says where in ``text`` the address type and the address of ``origin`` stand.
    """

    __slots__ = ("media", "origin", "origin_span")

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if not text.startswith("\nv=0\r\n") and text.split("\n", 2)[1] not in ("v=0", "v=0\r"):
            raise _BadLine(0, "version is not 0")
        self.media: list[MediaDescription] = []
        self.origin: Address | None = None
        self.origin_span: Span = (0, 0)
        at = text.find("\no=")
        if at >= 0:
            self.origin, self.origin_span = _origin(text, at)
            second = text.find("\no=", at + 1)
            if second >= 0:
                raise _BadLine(second, "second o=")

    @property
    def bundles(self) -> list[list[str]]:
        """The mids of each BUNDLE group (RFC 9143 7), in order."""
        return [value.split()[1:] for value in self.values("a=group") if is_bundle(value)]

    @property
    def is_bundled(self) -> bool:
        """Whether the first group of the session is a BUNDLE."""
        return "\na=group" in self.text and is_bundle(next(self.values("a=group"), ""))


class MediaDescription(Part):
    """One media section; its first line is its m= line.

    It does not know its session: a cycle would leave every body to the garbage collector.
    """

    __slots__ = ("media",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.media = _media_line(text)
        at = text.find("\no=")
        if at >= 0:
            raise _BadLine(at, "o= in a media section")

    @property
    def rtcp(self) -> Endpoint | int | None:
        """What the first well-formed ``a=rtcp`` says (see :func:`parse_rtcp`), None without one."""
        if "\na=rtcp:" in self.text:
            for value in self.values("a=rtcp"):
                try:
                    return parse_rtcp(value)
                except ProtocolError:
                    continue
        return None

    @property
    def has_rtcp_mux(self) -> bool:
        """Whether RTCP may share the RTP port (RFC 5761), or has to (RFC 8858)."""
        return _RTCP_MUX(self.text) is not None


class SessionDescription:
    """A whole body: its sessions, and its media sections in order of the text.

    ``tail`` is what follows the last line: its LF, and empty lines.
    ``unsent`` is the terminator that the last line had not, but has here.
    """

    __slots__ = ("media", "sessions", "tail", "unsent")

    def __init__(self, sessions: list[Session], tail: str, unsent: str = "") -> None:
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
        if len(data) > MAX_SIZE or text.count("\n") >= MAX_LINES:
            raise ProtocolError(f"Failed to parse SDP: more than {MAX_SIZE} bytes or {MAX_LINES} lines")
        end = _end(text)
        if len(data) < 2 or text[:end] in ("", "\r"):
            return cls([], text)
        tail, unsent = text[end:], ""
        text = "\n" + text[:end]
        if not tail:
            unsent, tail = "\n" if text[-1] == "\r" else "\r\n", "\n"
            text += unsent[:-1]
        return cls(_sessions(text), tail, unsent)

    def serialize(self) -> bytes:
        """The body, byte for byte as it was parsed."""
        texts: list[str] = []
        for session in self.sessions:
            texts.append(session.text)
            texts += [section.text for section in session.media]
        return join(texts, self.tail).removesuffix(self.unsent.encode())


def join(texts: list[str], tail: str) -> bytes:
    """The bytes of a body whose parts have these texts."""
    return ("".join(texts)[1:] + tail).encode("utf-8", "surrogateescape")


def is_bundle(value: str) -> bool:
    """Whether the value of ``a=group`` (RFC 5888 5) is a BUNDLE."""
    return value.rstrip() == "BUNDLE" or value.startswith("BUNDLE ")


@cache
def _valued(key: str) -> Pattern[str]:
    """What finds the values of an attribute: a colon or a blank ends its name, some phones leave one there."""
    return re_compile(rf"\n{escape(key)}(?![^:\s]):?+(.*+)")


@cache
def _bare(key: str) -> Pattern[str]:
    """What finds an attribute without a value."""
    return re_compile(rf"\n{escape(key)}{BLANK_TO_END}")


def _end(text: str) -> int:
    """Where the last line ends that is not empty, but for its LF."""
    end = len(text)
    while text.endswith(("\n", "\n\r"), 0, end):
        end -= 1 if text[end - 1] == "\n" else 2
    return end


def _sessions(body: str) -> list[Session]:
    """The sessions of a body each line of which has its LF in front."""
    malformed = _MALFORMED(body)
    if malformed is not None:
        at = malformed.start()
        unknown = body[at + 1] != "\n" and body[at + 2 : at + 3] == "="
        raise _failure(body, at, "unknown type letter" if unknown else "not of the form letter=value")
    if not body.startswith("\nv="):
        raise _failure(body, 0, "v= expected first")
    texts = [text.split("\nm=") for text in body.split("\nv=")[1:]]
    if sum(map(len, texts)) - len(texts) > MAX_SECTIONS:
        raise ProtocolError(f"Failed to parse SDP: more than {MAX_SECTIONS} media sections")
    sessions: list[Session] = []
    start = 0
    try:
        for level, *sections in texts:
            sessions.append(Session("\nv=" + level))
            start += 3 + len(level)
            for section in sections:
                sessions[-1].media.append(MediaDescription("\nm=" + section))
                start += 3 + len(section)
    except _BadLine as error:
        raise _failure(body, start + error.at, error.reason) from None
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
    if rest.startswith("IN IP4 ") and _DOTTED_QUAD(rest, 7):  # nearly always, and sooner done
        return Endpoint(rest[7:], port)
    address = parse_connection(rest)
    return port if address.text is None else Endpoint(address.text, port)


def _canonical(family: int, literal: str) -> str | None:
    """The canonical text of an address literal of this family, None if it is none."""
    if family == IPV4:
        return literal if _DOTTED_QUAD(literal) else None  # IPv4Address() says the same, slowly
    if literal[:1] == "[" and literal[-1:] == "]":
        literal = literal[1:-1]
    # A zone means nothing to anybody else; the length keeps rubbish out of the cache.
    return None if "%" in literal or len(literal) > 45 else _canonical_ipv6(literal)


@lru_cache(maxsize=4096)
def _canonical_ipv6(literal: str) -> str | None:
    try:
        return str(IPv6Address(literal))
    except ValueError:
        return None


def _number(text: str) -> int | None:
    return int(text) if 1 <= len(text) <= 5 and text.isascii() and text.isdigit() else None


def _connection(text: str, at: int) -> tuple[Address, Span]:
    """What the c= line says at whose LF ``at`` points, and where its address type and address stand."""
    plain = _PLAIN_CONNECTION(text, at)
    if plain is not None:
        return Address(IPV4, plain[2]), plain.span(1)
    address = _interpret(parse_connection, text, at)
    words = _CONNECTION_WORDS(text, at)
    assert words is not None
    return address, words.span(1)


def _origin(text: str, at: int) -> tuple[Address, Span]:
    """The same for an o= line."""
    plain = _PLAIN_ORIGIN(text, at)
    if plain is not None:
        return Address(IPV4, plain[2]), plain.span(1)
    address = _interpret(parse_origin, text, at)
    words = _ORIGIN_WORDS(text, at)
    assert words is not None
    return address, words.span(1)


def _media_line(text: str) -> MediaLine:
    """What the m= line says that begins a section."""
    plain = _PLAIN_MEDIA(text)
    if plain is not None:
        kind, digits, protocol = plain.groups()
        port = int(digits)
        if port <= 65535:
            return MediaLine(kind, port, 1, protocol)
    return _interpret(parse_media_line, text, 0)


def _interpret(parse: Callable[[str], _T], text: str, at: int) -> _T:
    """The parsed value of the line at whose LF ``at`` points."""
    end = text.find("\n", at + 1)
    value = text[at + 3 : end] if end >= 0 else text[at + 3 :]
    try:
        return parse(value.removesuffix("\r"))
    except ProtocolError as error:
        raise _BadLine(at, str(error)) from None


def _failure(body: str, at: int, reason: str) -> ProtocolError:
    """A syntax error in the line at whose LF ``at`` points; it never quotes the line, which may be raw bytes."""
    number = body.count("\n", 0, at + 1)
    return ProtocolError(f"Failed to parse SDP: line {number}: {reason}")
