"""The control protocol of OpenSER's mediaproxy module: one line per connection, both ways (mediaproxy dispatcher 1).

Lines become typed commands, results become reply lines. Text is UTF-8 with ``surrogateescape``, as in ng, so that
both protocols mean the same call by the same bytes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from rtpengine import ProtocolError
from rtpengine.media import Endpoint, MediaOffer

log = logging.getLogger(__name__)

MAX_LINE = 1024
NO_COMMAND = "Not a command of the mediaproxy protocol"
_MAX_PORT = 65_535
_NULL_ADDRESS = "0.0.0.0"

_EMPTY_LINES = re.compile(rb"(?:\r?\n)*")
_MEDIA = re.compile(rb"(request|lookup)\s+(\S+)\s+(\S+)" + rb"\s+\S+" * 6 + rb"\s+info=(\S*)")
_DELETE = re.compile(rb"delete\s+(\S+)\s+info=\S*")
_WORD = re.compile(rb"status|version|build|controls|quit|exit")
_STREAM = re.compile(rb"([0-9.]+):([0-9]+)(?::([^,]*))?(?:,|\Z)")
_CALL_ID = re.compile(rb"(?:request|lookup|delete)\s+(\S+)")
_FIRST_LINE = re.compile(
    rb"(?:\r?\n)*(?:(?:request|lookup)\s+\S+\s+[0-9.]+:[0-9]|delete\s+\S+\s+info="
    rb"|(?:status|version|build|controls|quit|exit)\r?(?:\n|\Z))"
)
# What would end a word or a line of a reply.
_UNSAFE = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Request:
    """An offer of the party ``from_tag``, which may be empty."""

    call_id: str
    offers: list[MediaOffer]
    from_tag: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """The answer of the party ``to_tag`` to an offer of ``from_tag``; either may be empty."""

    call_id: str
    offers: list[MediaOffer]
    from_tag: str
    to_tag: str


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of a whole call."""

    call_id: str


@dataclass(frozen=True, slots=True)
class Status:
    """The load and all calls are asked for."""


@dataclass(frozen=True, slots=True)
class Version:
    """``version`` or ``build``."""


@dataclass(frozen=True, slots=True)
class Controls:
    """The open control connections are asked for."""


@dataclass(frozen=True, slots=True)
class Quit:
    """``quit`` or ``exit``: the connection is closed, as it is after any other command."""


Command = Request | Lookup | Delete | Status | Version | Controls | Quit


class StreamStatus(NamedTuple):
    """One relayed stream as `status` shows it: endpoints, bytes received from either side, seconds of silence."""

    peers: tuple[Endpoint, Endpoint]
    local: Endpoint
    octets: tuple[int, int]
    codec: str
    idle_s: int


# Framing


def take_line(buffer: bytearray) -> bytes | None:
    """Cut empty lines and the first other line off ``buffer``; return that line bare, None where its end is missing.

    Raise ProtocolError where no line end follows within MAX_LINE bytes.
    """
    empty = _EMPTY_LINES.match(buffer)
    del buffer[: empty.end() if empty else 0]
    end = buffer.find(b"\n", 0, MAX_LINE + 1)
    if end >= 0:
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        return line.removesuffix(b"\r")
    if len(buffer) > MAX_LINE:
        raise ProtocolError(f"No line end within {MAX_LINE} bytes")
    return None


def looks_like(data: bytes) -> bool:
    """Whether ``data`` begins with a line of this protocol: to name the mistake where it reaches another port."""
    return _FIRST_LINE.match(data) is not None


def command_name(line: bytes) -> str:
    """The command of a line, as one of a few words; empty if that is none of ours."""
    return line.split(None, 1)[0].decode() if looks_like(line) else ""


def call_id(line: bytes) -> str:
    """The call-id that a line names, whether or not the rest is well-formed; empty if none."""
    match = _CALL_ID.match(line)
    return _text(match[1]) if match else ""


# Commands


def parse(line: bytes) -> Command:
    """Read one line without its end.

    Raise ProtocolError with the reason for the log: no such command, a tag is missing, or no stream is usable.
    """
    if match := _MEDIA.fullmatch(line):
        return _media(*match.groups())
    if match := _DELETE.fullmatch(line):
        return Delete(_text(match[1]))
    if match := _WORD.fullmatch(line):
        return _WORDS[match[0]]
    raise ProtocolError(NO_COMMAND)


_WORDS: dict[bytes, Command] = {
    b"status": Status(),
    b"version": Version(),
    b"build": Version(),
    b"controls": Controls(),
    b"quit": Quit(),
    b"exit": Quit(),
}


def _media(command: bytes, call_id: bytes, streams: bytes, info: bytes) -> Request | Lookup:
    attributes = _info(info)
    from_tag = _tag(attributes, b"fromtag")
    to_tag = _tag(attributes, b"totag") if command == b"lookup" else ""
    offers = _offers(streams)
    if not offers:
        raise ProtocolError("No usable stream")
    if command == b"lookup":
        return Lookup(_text(call_id), offers, from_tag, to_tag)
    return Request(_text(call_id), offers, from_tag)


def _info(info: bytes) -> dict[bytes, bytes | None]:
    """The attributes by name; None stands for one without a value."""
    attributes: dict[bytes, bytes | None] = {}
    for attribute in info.split(b","):
        name, colon, value = attribute.partition(b":")
        if name:
            attributes[name] = value if colon else None
    return attributes


def _tag(attributes: dict[bytes, bytes | None], name: bytes) -> str:
    value = attributes.get(name)
    if value is None:
        raise ProtocolError(f"No {name.decode()} in info")
    return _text(value)


def _offers(streams: bytes) -> list[MediaOffer]:
    """The usable streams, up to the first piece that does not fit the grammar."""
    offers: list[MediaOffer] = []
    position = 0
    while match := _STREAM.match(streams, position):
        position = match.end()
        offer = _offer(*match.groups())
        if offer is None:
            log.info("skipped a stream without a usable address or port: %s", _text(match[0]))
        else:
            offers.append(offer)
    return offers


def _offer(address: bytes, digits: bytes, kind: bytes | None) -> MediaOffer | None:
    # int() takes its time with thousands of digits
    port = int(digits) if len(digits.lstrip(b"0")) <= len(str(_MAX_PORT)) else _MAX_PORT + 1
    try:
        host = str(IPv4Address(address.decode()))
    except ValueError:
        return None
    if port > _MAX_PORT or host == "255.255.255.255":
        return None
    return MediaOffer(
        kind=_text(kind or b"audio"),
        endpoint=Endpoint(host, port),
        rtcp=Endpoint(host, port + 1) if port < _MAX_PORT else None,
        protocol="RTP/AVP",
        rejected=port == 0,
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# Replies


def media_reply(locals_: Sequence[Endpoint | None]) -> bytes:
    """The address of the first stream and the port of each; None stands for a disabled one."""
    address = locals_[0].address if locals_[0] is not None else _NULL_ADDRESS
    return _lines([" ".join([address, *(str(local.port if local else 0) for local in locals_)])])


def version_reply(version: str) -> bytes:
    """The answer to `version` and `build`."""
    return _lines([f"Version: {version}"])


def controls_reply(connections: Iterable[str]) -> bytes:
    """The answer to `controls`: one ``A.B.C.D:PORT`` per line, then the end mark."""
    return _lines([*connections, "End."])


def status_reply(calls: int, octets: int, errors: int, sessions: Iterable[str]) -> bytes:
    """The answer to `status`: the load of the last full second, then the lines of all sessions."""
    return _lines([f"proxy {calls} {octets}/{octets - errors}/{2 * octets - errors}", *sessions])


def session_line(call_id: str, age_s: int) -> str:
    """One call. A call-id of another protocol may hold blanks, which are written quoted-printable (RFC 2045 6.7)."""
    if _UNSAFE.search(call_id):
        call_id = _UNSAFE.sub(lambda match: f"={ord(match[0]):02X}", call_id)
    return f"session {call_id} - - - - {age_s}"


def stream_line(stream: StreamStatus) -> str:
    """One stream of the call whose session line comes before."""
    a, b = stream.octets
    return (
        f"stream {stream.peers[0]} {stream.peers[1]} {stream.local} {a}/{b}/{a + b} active {stream.codec} - "
        f"{stream.idle_s}"
    )


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
