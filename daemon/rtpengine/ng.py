"""The ng control protocol: a cookie, a blank and one bencoded dictionary per datagram, both ways.

Requests become typed commands, replies are plain mappings. Text is UTF-8 with ``surrogateescape``, so that the
byte strings of a client come back as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, ClassVar, NamedTuple, TypeVar

from rtpengine import ProtocolError, bencode
from rtpengine.media import IPV4, IPV6, PROFILES, Signalling

# The largest UDP payload over IPv4, which holds over IPv6 as well.
MAX_REPLY = 65_507
MAX_REQUEST = 65_535
MAX_COOKIE = 1_024
MAX_IDENTIFIER = 1_024
MAX_ADDRESS = 64

_HYPHENS = bytes.maketrans(b" _", b"--")
_SECONDS = re.compile(rb"[0-9]{1,9}")
_MAX_SECONDS = 999_999_999

_Request = Mapping[bytes, Any]
_T = TypeVar("_T", bytes, int, "list[Any]")


@dataclass(frozen=True, slots=True)
class Ping:
    """A sign of life is asked for; the reply is ``result`` = ``pong``."""

    name: ClassVar[str] = "ping"


class Offer(NamedTuple):
    """The body of the party ``from_tag``; ``to_tag`` is None where the request has none."""

    sdp: bytes
    call_id: str
    from_tag: str
    to_tag: str | None
    how: Signalling

    @property
    def name(self) -> str:
        return "offer"


class Answer(NamedTuple):
    """The body of the party ``to_tag``, which answers an offer of ``from_tag``."""

    sdp: bytes
    call_id: str
    from_tag: str
    to_tag: str
    how: Signalling

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
    datagram: bytes = cookie + b" " + bencode.encode(reply)
    if len(datagram) > MAX_REPLY:
        datagram = cookie + b" " + bencode.encode(error("Reply does not fit a datagram"))
    return datagram


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
_SPELLED = (
    *(_CALL_ID, _FROM_TAG, _TO_TAG, _VIA_BRANCH, _RECEIVED_FROM, _TRANSPORT_PROTOCOL, _MEDIA_ADDRESS),
    *(_ADDRESS_FAMILY, _RTCP_MUX, _RTPP_FLAGS, _DELETE_DELAY),
)
_NAMES = {form: spellings[0] for spellings in _SPELLED for form in spellings}
# The right types of their values, the one that wins first, where it is not just a string.
_KINDS: dict[Any, tuple[type, ...]] = {_RECEIVED_FROM: (list,), _RTCP_MUX: (list,), _DELETE_DELAY: (int, bytes)}
_SDP = (b"sdp",)
_FLAGS = (b"flags",)
_REPLACE = (b"replace",)
_DIRECTION = (b"direction",)
_ICE = (b"ICE",)

_RTCP_MUX_WORDS = frozenset({b"offer", b"demux", b"accept", b"reject", b"require"})
_REPLACE_WORDS = frozenset({b"origin", b"session-connection"})
_ICE_WORDS = {b"remove": "remove", b"force": "force"}
_FAMILIES = {b"IP4": IPV4, b"ip4": IPV4, b"IP6": IPV6, b"ip6": IPV6}


def _canonical(request: _Request) -> dict[bytes, Any]:
    """The request with each key in the spelling that wins, so that reading it takes one lookup per key."""
    named = {_NAMES.get(key, key): value for key, value in request.items()}
    return named if len(named) == len(request) else _merged(request)


def _merged(request: _Request) -> dict[bytes, Any]:
    """Of the values under several spellings of one key, the first that has the right type counts."""
    merged = dict(request)
    for spellings in _SPELLED:
        kinds = _KINDS.get(spellings, (bytes,))
        values = [request[form] for form in spellings if form in request]
        ranked = [value for kind in kinds for value in values if type(value) is kind] + values
        if ranked:
            merged[spellings[0]] = ranked[0]
    return merged


def _get(request: _Request, key: tuple[bytes, ...], kind: type[_T]) -> _T | None:
    """The value of ``key`` in a canonical request, if it has the right type."""
    value = request.get(key[0])
    return value if type(value) is kind else None


def _words(words: Iterable[Any] | None) -> list[bytes]:
    """The strings of a list, hyphenated; newer clients nest lists and dictionaries, which mean nothing to us."""
    return [word.translate(_HYPHENS) for word in words or () if type(word) is bytes]


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


def _recipient_external(direction: Iterable[Any]) -> bool:
    """Whether ``direction`` puts the recipient on the external side; interface names do not count as elements."""
    return [word for word in _words(direction) if word in (b"internal", b"external")][1:2] == [b"external"]


def _profile(name: bytes) -> str | None:
    profile = name.upper().decode("utf-8", "replace")
    return profile if profile in PROFILES else None


def _names(words: list[bytes], known: frozenset[bytes]) -> frozenset[str]:
    return frozenset([word.decode() for word in words if word in known])


_HOW_STRINGS = (_ADDRESS_FAMILY, _TRANSPORT_PROTOCOL, _MEDIA_ADDRESS, _ICE)
_HOW_LISTS = (_FLAGS, _REPLACE, _RTCP_MUX, _DIRECTION)


# A routing script sends few combinations. None is longer than its request, so that few MiB are held at worst.
@lru_cache(maxsize=64)
def _wanted(trust_default: bool, strings: tuple[bytes, ...], lists: tuple[tuple[Any, ...], ...]) -> Signalling:
    """What a request asks for, apart from what differs from call to call."""
    family_name, protocol, media_address, ice = strings
    marks, replace, rtcp_mux, direction = lists
    flags = frozenset(_words(marks))
    family = _FAMILIES.get(family_name)
    return Signalling(
        trust_address=b"trust-address" in flags or (trust_default and b"SIP-source-address" not in flags),
        family=family,
        prefer_ipv6=family is None and _recipient_external(direction),
        protocol=_profile(protocol),
        media_address=_address(media_address),
        ice=_ICE_WORDS.get(ice),
        rtcp_mux=_names(_words(rtcp_mux), _RTCP_MUX_WORDS),
        replace=_names(_words(replace), _REPLACE_WORDS),
        asymmetric=b"asymmetric" in flags,
        strict_source=b"strict-source" in flags,
        media_handover=b"media-handover" in flags,
        no_rtcp_attribute=b"no-rtcp-attribute" in flags,
    )


def _signalling(request: _Request, trust_default: bool) -> Signalling:
    strings = tuple([_get(request, key, bytes) or b"" for key in _HOW_STRINGS])
    lists = tuple([tuple(_get(request, key, list) or ()) for key in _HOW_LISTS])
    try:
        how = _wanted(trust_default, strings, lists)
    except TypeError:
        # What is nested in a list is no key to a cache, and means nothing to us.
        how = _wanted.__wrapped__(trust_default, strings, lists)
    received_from, via_branch = _received_from(request), _text(request, _VIA_BRANCH)
    if received_from is None and via_branch is None:
        return how
    return how._replace(received_from=received_from, via_branch=via_branch)


def _seconds(request: _Request) -> int | None:
    number = _get(request, _DELETE_DELAY, int)
    if number is None:
        digits = _get(request, _DELETE_DELAY, bytes) or b""
        number = int(digits) if _SECONDS.fullmatch(digits) else -1
    return number if 0 <= number <= _MAX_SECONDS else None


_TRANSPORT_WORDS = frozenset({b"RTP", b"SRTP", b"AVP", b"AVPF", b"DTLS"})
_WORD_LISTS = {b"replace": _REPLACE, b"rtcp-mux": _RTCP_MUX}


def _read(request: _Request) -> _Request:
    """The canonical request, with the keys that ``rtpp-flags`` stands for."""
    named = _canonical(request)
    text = _get(named, _RTPP_FLAGS, bytes)
    return named if text is None else _expand(request, text)


def _expand(request: _Request, text: bytes) -> _Request:
    """Read ``rtpp-flags`` as the keys that Kamailio would have made of it; keys of the request itself come first."""
    lists: dict[tuple[bytes, ...], list[Any]] = {key: [] for key in _HOW_LISTS}
    strings: dict[bytes, bytes] = {}
    transport: set[bytes] = set()
    for word in text.split():
        name, equals, value = word.partition(b"=")
        if word in _TRANSPORT_WORDS:
            transport.add(word)
        elif _profile(word):
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
    expanded = _canonical({**strings, **request})
    for key, words in lists.items():
        expanded[key[0]] = [*(_get(expanded, key, list) or ()), *words]
    return expanded


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
    name = b"RTP/SAVP" if words & {b"SRTP", b"DTLS"} else b"RTP/AVP"
    return (b"UDP/TLS/" if b"DTLS" in words else b"") + name + (b"F" if b"AVPF" in words else b"")


def _ping(request: _Request, trust_default: bool) -> Ping:
    return Ping()


def _body(request: _Request) -> bytes:
    sdp = _get(request, _SDP, bytes)
    if sdp is None:
        raise ProtocolError("No SDP body in message")
    return sdp


def _offer(request: _Request, trust_default: bool) -> Offer:
    request = _read(request)
    return Offer(
        _body(request),
        _mandatory(request, _CALL_ID, "No call-id in message"),
        _mandatory(request, _FROM_TAG, "No from-tag in message"),
        _text(request, _TO_TAG),
        _signalling(request, trust_default),
    )


def _answer(request: _Request, trust_default: bool) -> Answer:
    request = _read(request)
    return Answer(
        _body(request),
        _mandatory(request, _CALL_ID, "No call-id in message"),
        _mandatory(request, _FROM_TAG, "No from-tag in message"),
        _mandatory(request, _TO_TAG, "No to-tag in message"),
        _signalling(request, trust_default),
    )


def _delete(request: _Request, trust_default: bool) -> Delete:
    request = _read(request)
    return Delete(
        _mandatory(request, _CALL_ID, "No call-id in message"),
        _mandatory(request, _FROM_TAG, "No from-tag in message"),
        to_tag=_text(request, _TO_TAG),
        via_branch=_text(request, _VIA_BRANCH),
        fatal=b"fatal" in _words(_get(request, _FLAGS, list)),
        delete_delay_s=_seconds(request),
    )


def _query(request: _Request, trust_default: bool) -> Query:
    request = _canonical(request)
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
    **dict.fromkeys((b"start recording", b"start-recording", b"stop recording", b"stop-recording"), _recording),
}
