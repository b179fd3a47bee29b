"""The ng control protocol: a cookie, a blank and one bencoded dictionary per datagram, both ways.

Requests become typed commands, replies are plain mappings. Text is UTF-8 with ``surrogateescape``, so that the
byte strings of a client come back as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from rtpengine import ProtocolError, bencode, ng_keys
from rtpengine.media import Signalling
from rtpengine.ng_keys import CALL_ID, FLAGS, FROM_TAG, SDP, SUPPORTS, TO_TAG, VIA_BRANCH, Defaults, Key, Request

# The largest UDP payload over IPv4, which holds over IPv6 as well.
MAX_REPLY = 65_507
MAX_REQUEST = 65_535
MAX_COOKIE = 1_024

_DEFAULTS = Defaults()


@dataclass(frozen=True, slots=True)
class Ping:
    """A sign of life is asked for; the reply is ``result`` = ``pong``."""

    name: ClassVar[str] = "ping"


class Offer(NamedTuple):
    """The body of the party ``from_tag``; ``to_tag`` is None where the request has none.

    ``unknown`` names the words and values of the request that mean nothing to us.
    ``knows_load_limit``: the client knows that a call can be refused without anything being wrong.
    """

    sdp: bytes
    call_id: str
    from_tag: str
    to_tag: str | None
    how: Signalling
    unknown: tuple[str, ...] = ()
    knows_load_limit: bool = False

    @property
    def name(self) -> str:
        return "offer"


class Answer(NamedTuple):
    """The body of the party ``to_tag``, which answers an offer of ``from_tag``; ``unknown`` as in an offer."""

    sdp: bytes
    call_id: str
    from_tag: str
    to_tag: str
    how: Signalling
    unknown: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "answer"


class Delete(NamedTuple):
    """The end of a call or of one of its branches.

    An empty ``from_tag`` means the whole call. ``fatal``: a call that is not found is an error, not a warning.
    ``delete_delay_s`` is None where the request leaves it to the default.
    """

    call_id: str
    from_tag: str
    to_tag: str | None = None
    via_branch: str | None = None
    fatal: bool = False
    delete_delay_s: int | None = None

    @property
    def name(self) -> str:
        return "delete"


@dataclass(frozen=True, slots=True)
class Query:
    """The statistics of a call are asked for, seen from ``from_tag`` if there is one."""

    name: ClassVar[str] = "query"
    call_id: str
    from_tag: str | None = None
    to_tag: str | None = None


Command = Ping | Offer | Answer | Delete | Query


def split(datagram: bytes) -> tuple[bytes, bytes]:
    """Separate the cookie from the payload, which may be empty.

    Raise ProtocolError where there is no cookie to reply with: such a datagram is dropped.
    """
    cookie, blank, payload = datagram.partition(b" ")
    if not cookie or not blank:
        raise ProtocolError("No cookie in message")
    if len(cookie) > MAX_COOKIE:
        raise ProtocolError("Cookie is too long")
    return cookie, payload


def parse(payload: bytes, defaults: Defaults = _DEFAULTS) -> Command:
    """Decode and check one request; ``defaults`` count where it is silent.

    Raise ProtocolError with the reason that the client is to be told.
    """
    if not payload:
        raise ProtocolError("Invalid data (no payload)")
    request = _decode(payload)
    command = request.get(b"command")
    if type(command) is not bytes:
        raise ProtocolError('Dictionary contains no key "command"')
    build = _COMMANDS.get(command)
    if build is None:
        raise ProtocolError("Unrecognized command")
    return build(request, defaults)


def serialize(cookie: bytes, reply: Mapping[str, Any]) -> bytes:
    """Encode a reply, dictionary keys sorted; an error reply instead of one that no datagram can hold.

    Keys are str; values exactly str, bytes, int, bool (as 0 or 1), list, tuple or dict, others are a KeyError.
    """
    datagram: bytes = cookie + b" " + bencode.encode(reply)
    if len(datagram) > MAX_REPLY:
        datagram = cookie + b" " + bencode.encode(error("Reply does not fit a datagram"))
    return datagram


def load_limit(reason: str) -> dict[str, str]:
    """The reply to a request for a call that is not taken, where the client knows that this can be."""
    return {"result": "load limit", "message": reason}


def error(reason: str) -> dict[str, str]:
    """The reply to a request that failed."""
    return {"result": "error", "error-reason": reason}


def _decode(payload: bytes) -> dict[bytes, Any]:
    if len(payload) > MAX_REQUEST:
        raise ProtocolError("Could not decode dictionary")
    try:
        return bencode.decode(payload)
    except (ValueError, LookupError):
        raise ProtocolError("Could not decode dictionary") from None


def _mandatory(request: Request, key: Key, reason: str) -> str:
    value = ng_keys.text(request, key)
    if value is None:
        raise ProtocolError(reason)
    return value


def _ping(request: Request, defaults: Defaults) -> Ping:
    return Ping()


def _body(request: Request) -> bytes:
    sdp = ng_keys.get(request, SDP, bytes)
    if sdp is None:
        raise ProtocolError("No SDP body in message")
    return sdp


def _offer(request: Request, defaults: Defaults) -> Offer:
    request = ng_keys.read(request)
    return Offer(
        _body(request),
        _mandatory(request, CALL_ID, "No call-id in message"),
        _mandatory(request, FROM_TAG, "No from-tag in message"),
        ng_keys.text(request, TO_TAG),
        *ng_keys.signalling(request, defaults),
        b"load-limit" in ng_keys.words(ng_keys.get(request, SUPPORTS, list) or ()),
    )


def _answer(request: Request, defaults: Defaults) -> Answer:
    request = ng_keys.read(request)
    return Answer(
        _body(request),
        _mandatory(request, CALL_ID, "No call-id in message"),
        _mandatory(request, FROM_TAG, "No from-tag in message"),
        _mandatory(request, TO_TAG, "No to-tag in message"),
        *ng_keys.signalling(request, defaults),
    )


def _delete(request: Request, defaults: Defaults) -> Delete:
    request = ng_keys.read(request)
    return Delete(
        _mandatory(request, CALL_ID, "No call-id in message"),
        _mandatory(request, FROM_TAG, "No from-tag in message"),
        to_tag=ng_keys.text(request, TO_TAG),
        via_branch=ng_keys.text(request, VIA_BRANCH),
        fatal=b"fatal" in ng_keys.words(ng_keys.get(request, FLAGS, list) or ()),
        delete_delay_s=ng_keys.seconds(request),
    )


def _query(request: Request, defaults: Defaults) -> Query:
    request = ng_keys.canonical(request)
    return Query(
        _mandatory(request, CALL_ID, "No call-id in message"),
        ng_keys.text(request, FROM_TAG),
        ng_keys.text(request, TO_TAG),
    )


def _recording(request: Request, defaults: Defaults) -> Command:
    raise ProtocolError("Recording is not supported")


_COMMANDS: dict[bytes, Callable[[Request, Defaults], Command]] = {
    b"ping": _ping,
    b"offer": _offer,
    b"answer": _answer,
    b"delete": _delete,
    b"query": _query,
    **dict.fromkeys((b"start recording", b"start-recording", b"stop recording", b"stop-recording"), _recording),
}
