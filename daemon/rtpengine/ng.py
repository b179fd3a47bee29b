"""The ng control protocol: a cookie, a blank and one bencoded dictionary per datagram, both ways.

Requests become typed commands, replies are plain mappings. Text is UTF-8 with ``surrogateescape``, so that the
byte strings of a client come back as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, ClassVar, TypeVar

from bencodepy import BencodeDecodeError, BencodeDecoder, BencodeEncoder  # type: ignore[import-untyped, unused-ignore]

from rtpengine import ProtocolError
from rtpengine.media import IPV4, IPV6, PROFILES, Signalling

# The largest UDP payload over IPv4, which holds over IPv6 as well.
MAX_REPLY = 65_507
MAX_REQUEST = 65_535
MAX_COOKIE = 1_024
MAX_IDENTIFIER = 1_024
MAX_ADDRESS = 64
MAX_DEPTH = 16
MAX_ELEMENTS = 1_024

_INTEGER = re.compile(rb"i(0|-?[1-9][0-9]{0,18})e")
_STRING_DIGITS = 5
_ZERO, _NINE, _END = b"09e"
_HYPHENS = bytes.maketrans(b" _", b"--")
_SECONDS = re.compile(rb"[0-9]{1,9}")
_MAX_SECONDS = 999_999_999

_Request = Mapping[bytes, Any]
_T = TypeVar("_T", bytes, int, "list[Any]")


@dataclass(frozen=True, slots=True)
class Ping:
    """A sign of life is asked for; the reply is ``result`` = ``pong``."""

    name: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True)
class Offer:
    """The body of the party ``from_tag``; ``to_tag`` is None where the request has none."""

    name: ClassVar[str] = "offer"
    sdp: bytes
    call_id: str
    from_tag: str
    to_tag: str | None
    how: Signalling
    supports_load_limit: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of the party ``to_tag``, which answers an offer of ``from_tag``."""

    name: ClassVar[str] = "answer"
    sdp: bytes
    call_id: str
    from_tag: str
    to_tag: str
    how: Signalling
    supports_load_limit: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of a call or of one of its branches.

    An empty ``from_tag`` means the whole call. ``fatal``: a call that is not found is an error, not a warning.
    ``delete_delay_s`` is None where the request leaves it to the default.
    """

    name: ClassVar[str] = "delete"
    call_id: str
    from_tag: str
    to_tag: str | None = None
    via_branch: str | None = None
    fatal: bool = False
    delete_delay_s: int | None = None


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


def parse(payload: bytes, trust_default: bool = False) -> Command:
    """Decode and check one request.

    ``trust_default`` decides whether SDP addresses are trusted where no flag says so.
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
    return build(request, trust_default)


def serialize(cookie: bytes, reply: Mapping[str, Any]) -> bytes:
    """Encode a reply, dictionary keys sorted; an error reply instead of one that no datagram can hold.

    Keys are str; values exactly str, bytes, int, bool (as 0 or 1), list, tuple or dict, others are a KeyError.
    """
    datagram: bytes = cookie + b" " + _ENCODER.encode(dict(reply))
    if len(datagram) > MAX_REPLY:
        datagram = cookie + b" " + _ENCODER.encode(error("Reply does not fit a datagram"))
    return datagram


def error(reason: str) -> dict[str, str]:
    """The reply to a request that failed."""
    return {"result": "error", "error-reason": reason}


class _Decoder(BencodeDecoder):  # type: ignore[misc, unused-ignore]
    """bencodepy with strict tokens and with limits; not reentrant.

    bencodepy 4.1.0 accepts signs, blanks and underscores in numbers. A negative key length even makes it walk
    backwards for ever: ``d1:a1:b-6:`` is an endless loop. Unlike it, the first of two equal keys wins, and bytes
    behind the dictionary are ignored.
    """

    def __init__(self) -> None:
        super().__init__(max_depth=MAX_DEPTH - 1)
        self._left = 0

    def dictionary(self, data: bytes) -> dict[bytes, Any]:
        """Decode the dictionary at the start of ``data``; ValueError, LookupError, BencodeDecodeError if it is none."""
        if data[:1] != b"d":
            raise ValueError("not a dictionary")
        self._left = MAX_ELEMENTS
        value, _ = self.decode_dict(data, 0)
        return value

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many elements")

    def decode_int(self, x: bytes, f: int, **kwargs: Any) -> tuple[int, int]:
        self._count()
        match = _INTEGER.match(x, f)
        if match is None:
            raise ValueError("not an integer")
        return int(match[1]), match.end()

    def decode_string(self, x: bytes, f: int, kind: str = "value", **kwargs: Any) -> tuple[bytes, int]:
        self._left -= 1
        colon = x.index(b":", f, f + _STRING_DIGITS + 1)
        digits = x[f:colon]
        if self._left < 0 or not digits.isdigit() or (x[f] == _ZERO and colon != f + 1):
            raise ValueError("too many elements, or not a string length")
        f = colon + 1
        end = f + int(digits)
        if end > len(x):
            raise ValueError("string is cut off")
        return x[f:end], end

    def decode_list(self, x: bytes, f: int, **kwargs: Any) -> tuple[list[Any], int]:
        self._count()
        value: tuple[list[Any], int] = super().decode_list(x, f, **kwargs)
        return value

    def decode_dict(self, x: bytes, f: int, **kwargs: Any) -> tuple[dict[bytes, Any], int]:
        self._count()
        depth = kwargs.get("depth", 0)
        if depth > self.max_depth:
            raise ValueError("nested too deeply")
        entries: dict[bytes, Any] = {}
        f += 1
        while x[f] != _END:
            key, f = self.decode_string(x, f)
            if _ZERO <= x[f] <= _NINE:
                value, f = self.decode_string(x, f)
            else:
                value, f = self.decode_func[x[f : f + 1]](x, f, depth=depth + 1)
            entries.setdefault(key, value)
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


def _decode(payload: bytes) -> dict[bytes, Any]:
    if len(payload) > MAX_REQUEST:
        raise ProtocolError("Could not decode dictionary")
    try:
        return _DECODER.dictionary(payload)
    except (ValueError, LookupError, BencodeDecodeError):
        raise ProtocolError("Could not decode dictionary") from None


def _spellings(name: str) -> tuple[bytes, ...]:
    """All ways to write a key, the one that wins first."""
    forms = (name, name.replace(" ", "-"), name.replace(" ", "_"))
    return tuple(dict.fromkeys(form.encode() for form in forms))


_CALL_ID = _spellings("call id")
_FROM_TAG = _spellings("from tag")
_TO_TAG = _spellings("to tag")
_VIA_BRANCH = _spellings("via branch")
_RECEIVED_FROM = _spellings("received from")
_TRANSPORT_PROTOCOL = _spellings("transport protocol")
_MEDIA_ADDRESS = _spellings("media address")
_ADDRESS_FAMILY = _spellings("address family")
_RTCP_MUX = _spellings("rtcp mux")
_RTPP_FLAGS = _spellings("rtpp flags")
_DELETE_DELAY = _spellings("delete delay")
_SDP = (b"sdp",)
_FLAGS = (b"flags",)
_REPLACE = (b"replace",)
_DIRECTION = (b"direction",)
_SUPPORTS = (b"supports",)
_ICE = (b"ICE",)

_RTCP_MUX_WORDS = frozenset({b"offer", b"demux", b"accept", b"reject", b"require"})
_REPLACE_WORDS = frozenset({b"origin", b"session-connection"})
_ICE_WORDS = {b"remove": "remove", b"force": "force"}
_FAMILIES = {b"IP4": IPV4, b"ip4": IPV4, b"IP6": IPV6, b"ip6": IPV6}


def _get(request: _Request, key: tuple[bytes, ...], kind: type[_T]) -> _T | None:
    """The first value under any spelling of ``key`` that has the right type."""
    for spelling in key:
        value = request.get(spelling)
        if type(value) is kind:
            return value
    return None


def _words(request: _Request, key: tuple[bytes, ...]) -> list[bytes]:
    """The strings of a list, hyphenated; newer clients nest lists and dictionaries, which mean nothing to us."""
    return [word.translate(_HYPHENS) for word in _get(request, key, list) or () if type(word) is bytes]


def _text(request: _Request, key: tuple[bytes, ...]) -> str | None:
    value = _get(request, key, bytes)
    if value is None:
        return None
    if len(value) > MAX_IDENTIFIER:
        raise ProtocolError(f"Value of {key[-2].decode()} is too long")
    return value.decode("utf-8", "surrogateescape")


def _mandatory(request: _Request, key: tuple[bytes, ...], reason: str) -> str:
    value = _text(request, key)
    if value is None:
        raise ProtocolError(reason)
    return value


def _address(text: bytes) -> str | None:
    """The canonical text of an IPv4 or IPv6 address, None if it is neither or is bound to an interface."""
    # nothing long may occupy the cache
    return _parse_address(text) if len(text) <= MAX_ADDRESS else None


@lru_cache(maxsize=1024)
def _parse_address(text: bytes) -> str | None:
    try:
        address = ip_address(text.decode("ascii").strip("[]"))
    except ValueError:
        return None
    return None if getattr(address, "scope_id", None) else str(address)


def _received_from(request: _Request) -> str | None:
    """The source of the SIP message; None where the proxy did not know it (family ``?``) or wrote nonsense."""
    match _get(request, _RECEIVED_FROM, list):
        case [bytes(family), bytes(text)]:
            address = _address(text)
        case _:
            return None
    if address is None or address in ("0.0.0.0", "::"):
        return None
    return address if _FAMILIES.get(family) == (IPV6 if ":" in address else IPV4) else None


def _recipient_external(request: _Request) -> bool:
    """Whether ``direction`` puts the recipient on the external side; interface names do not count as elements."""
    sides = [word for word in _words(request, _DIRECTION) if word in (b"internal", b"external")]
    return sides[1:2] == [b"external"]


def _protocol(request: _Request) -> str | None:
    name = (_get(request, _TRANSPORT_PROTOCOL, bytes) or b"").upper().decode("utf-8", "replace")
    return name if name in PROFILES else None


def _names(words: list[bytes], known: frozenset[bytes]) -> frozenset[str]:
    return frozenset([word.decode() for word in words if word in known])


def _signalling(request: _Request, trust_default: bool) -> Signalling:
    flags = frozenset(_words(request, _FLAGS))
    family = _FAMILIES.get(_get(request, _ADDRESS_FAMILY, bytes) or b"")
    media_address = _get(request, _MEDIA_ADDRESS, bytes)
    return Signalling(
        trust_address=b"trust-address" in flags or (trust_default and b"SIP-source-address" not in flags),
        received_from=_received_from(request),
        family=family,
        prefer_ipv6=family is None and _recipient_external(request),
        protocol=_protocol(request),
        media_address=None if media_address is None else _address(media_address),
        ice=_ICE_WORDS.get(_get(request, _ICE, bytes) or b""),
        rtcp_mux=_names(_words(request, _RTCP_MUX), _RTCP_MUX_WORDS),
        replace=_names(_words(request, _REPLACE), _REPLACE_WORDS),
        asymmetric=b"asymmetric" in flags,
        strict_source=b"strict-source" in flags,
        media_handover=b"media-handover" in flags,
        no_rtcp_attribute=b"no-rtcp-attribute" in flags,
        via_branch=_text(request, _VIA_BRANCH),
    )


def _seconds(request: _Request) -> int | None:
    number = _get(request, _DELETE_DELAY, int)
    if number is None:
        digits = _get(request, _DELETE_DELAY, bytes) or b""
        number = int(digits) if _SECONDS.fullmatch(digits) else -1
    return number if 0 <= number <= _MAX_SECONDS else None


_TRANSPORT_WORDS = frozenset({b"RTP", b"SRTP", b"AVP", b"AVPF", b"DTLS"})
_WORD_LISTS = {b"replace": _REPLACE, b"rtcp-mux": _RTCP_MUX}
_LISTS = (_FLAGS, _REPLACE, _RTCP_MUX, _DIRECTION)


def _expand(request: _Request) -> _Request:
    """Read ``rtpp-flags`` as the keys that Kamailio would have made of it; keys of the request itself come first."""
    text = _get(request, _RTPP_FLAGS, bytes)
    if text is None:
        return request
    lists: dict[tuple[bytes, ...], list[Any]] = {key: list(_get(request, key, list) or ()) for key in _LISTS}
    strings: dict[bytes, bytes] = {}
    transport: set[bytes] = set()
    for word in text.split():
        name, equals, value = word.partition(b"=")
        if word in _TRANSPORT_WORDS:
            transport.add(word)
        elif word.upper().decode("utf-8", "replace") in PROFILES:
            strings[_TRANSPORT_PROTOCOL[-1]] = word
        elif (element := _list_element(word)) is not None:
            lists[element[0]].append(element[1])
        elif equals:
            strings[name.replace(b"-", b"_")] = value
        else:
            lists[_FLAGS].append(word)
    if transport:
        strings.setdefault(_TRANSPORT_PROTOCOL[-1], _transport(transport))
    # The form with underscores loses against the others, and against itself if the request has it.
    return {**strings, **request, **{key[0]: words for key, words in lists.items()}}


def _list_element(word: bytes) -> tuple[tuple[bytes, ...], bytes] | None:
    """The list that a word like ``replace-origin`` or ``direction=internal`` belongs to, and its element."""
    if word in (b"internal", b"external"):
        return _DIRECTION, word
    if word.startswith(b"direction="):
        return _DIRECTION, word[len(b"direction=") :]
    for name, key in _WORD_LISTS.items():
        if word.startswith(name) and word[len(name) : len(name) + 1] in (b"-", b"="):
            return key, word[len(name) + 1 :]
    return None


def _transport(words: set[bytes]) -> bytes:
    """Combine words like ``SRTP AVPF`` to a transport protocol."""
    secure = b"SRTP" in words or b"DTLS" in words
    return b"".join(
        (
            b"UDP/TLS/" if b"DTLS" in words else b"",
            b"RTP/SAVP" if secure else b"RTP/AVP",
            b"F" if b"AVPF" in words else b"",
        )
    )


def _ping(request: _Request, trust_default: bool) -> Ping:
    return Ping()


def _body(request: _Request) -> bytes:
    sdp = _get(request, _SDP, bytes)
    if sdp is None:
        raise ProtocolError("No SDP body in message")
    return sdp


def _offer(request: _Request, trust_default: bool) -> Offer:
    request = _expand(request)
    return Offer(
        _body(request),
        _mandatory(request, _CALL_ID, "No call-id in message"),
        _mandatory(request, _FROM_TAG, "No from-tag in message"),
        _text(request, _TO_TAG),
        _signalling(request, trust_default),
        b"load-limit" in _words(request, _SUPPORTS),
    )


def _answer(request: _Request, trust_default: bool) -> Answer:
    request = _expand(request)
    return Answer(
        _body(request),
        _mandatory(request, _CALL_ID, "No call-id in message"),
        _mandatory(request, _FROM_TAG, "No from-tag in message"),
        _mandatory(request, _TO_TAG, "No to-tag in message"),
        _signalling(request, trust_default),
        b"load-limit" in _words(request, _SUPPORTS),
    )


def _delete(request: _Request, trust_default: bool) -> Delete:
    request = _expand(request)
    return Delete(
        _mandatory(request, _CALL_ID, "No call-id in message"),
        _mandatory(request, _FROM_TAG, "No from-tag in message"),
        to_tag=_text(request, _TO_TAG),
        via_branch=_text(request, _VIA_BRANCH),
        fatal=b"fatal" in _words(request, _FLAGS),
        delete_delay_s=_seconds(request),
    )


def _query(request: _Request, trust_default: bool) -> Query:
    return Query(
        _mandatory(request, _CALL_ID, "No call-id in message"),
        _text(request, _FROM_TAG),
        _text(request, _TO_TAG),
    )


def _recording(request: _Request, trust_default: bool) -> Command:
    raise ProtocolError("Recording is not supported")


_COMMANDS: dict[bytes, Callable[[_Request, bool], Command]] = {
    b"ping": _ping,
    b"offer": _offer,
    b"answer": _answer,
    b"delete": _delete,
    b"query": _query,
    b"start recording": _recording,
    b"start-recording": _recording,
    b"stop recording": _recording,
    b"stop-recording": _recording,
}
