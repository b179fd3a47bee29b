"""What the keys of an ng request mean: their spellings, types and words (control-ng.md 6.4 to 6.7).

A word or a value that means nothing to us changes nothing; it is named beside what the rest adds up to, since an
operator has to learn of a flag that does not do what it is meant to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar

from rtpengine import ProtocolError
from rtpengine.media import IPV4, IPV6, PROFILES, SdesPolicy, Signalling
from rtpengine.srtp import SUITES

MAX_IDENTIFIER = 1_024
MAX_ADDRESS = 64
MAX_UNKNOWN = 64
"""Longest text of an unknown word that is told."""

_HYPHENS = bytes.maketrans(b" _", b"--")
_SECONDS = re.compile(rb"[0-9]{1,9}")
_MAX_SECONDS = 999_999_999

Request = Mapping[bytes, Any]
Key = tuple[bytes, ...]
_T = TypeVar("_T", bytes, int, "list[Any]")


class Defaults(NamedTuple):
    """What counts where a request does not say: whether SDP addresses are trusted, and the mode of ``ICE``."""

    trust_address: bool = False
    ice: str = "optional"


def _spellings(name: str) -> Key:
    """All ways to write a key, the one that wins first."""
    forms = (name, name.replace(" ", "-"), name.replace(" ", "_"))
    return tuple(dict.fromkeys(form.encode() for form in forms))


CALL_ID = _spellings("call id")
FROM_TAG = _spellings("from tag")
TO_TAG = _spellings("to tag")
VIA_BRANCH = _spellings("via branch")
RECEIVED_FROM = _spellings("received from")
TRANSPORT_PROTOCOL = _spellings("transport protocol")
MEDIA_ADDRESS = _spellings("media address")
ADDRESS_FAMILY = _spellings("address family")
RTCP_MUX = _spellings("rtcp mux")
RTPP_FLAGS = _spellings("rtpp flags")
DELETE_DELAY = _spellings("delete delay")
_SPELLED = (
    *(CALL_ID, FROM_TAG, TO_TAG, VIA_BRANCH, RECEIVED_FROM, TRANSPORT_PROTOCOL, MEDIA_ADDRESS),
    *(ADDRESS_FAMILY, RTCP_MUX, RTPP_FLAGS, DELETE_DELAY),
)
_NAMES = {form: spellings[0] for spellings in _SPELLED for form in spellings}
# The right types of their values, the one that wins first, where it is not just a string.
_KINDS: dict[Any, tuple[type, ...]] = {
    RECEIVED_FROM: (list,),
    RTCP_MUX: (list, bytes),
    DELETE_DELAY: (int, bytes),
}
SDP = (b"sdp",)
FLAGS = (b"flags",)
REPLACE = (b"replace",)
DIRECTION = (b"direction",)
ICE = (b"ICE",)
DTLS = (b"DTLS",)
SDES = (b"SDES",)
SUPPORTS = (b"supports",)

# The words of lists, hyphenated. ``fatal`` is for delete, and ``symmetric`` is what happens anyway.
FLAG_WORDS = frozenset({
    *(b"trust-address", b"SIP-source-address", b"asymmetric", b"symmetric", b"strict-source", b"media-handover"),
    *(b"no-rtcp-attribute", b"generate-mid", b"reset", b"fatal"),
})  # fmt: skip
RTCP_MUX_WORDS = frozenset({b"offer", b"demux", b"accept", b"reject", b"require"})
REPLACE_WORDS = frozenset({b"origin", b"session-connection"})
TRANSPORT_WORDS = frozenset({b"RTP", b"SRTP", b"AVP", b"AVPF", b"DTLS"})
ICE_WORDS = {word.encode(): word for word in ("remove", "force", "force-relay", "optional", "default")}
DTLS_WORDS = {b"off": "off", b"no": "off", b"disable": "off", b"passive": "passive", b"active": "active"}
# With the fields of SdesPolicy that they set. Keys are always padded.
SDES_WORDS: dict[bytes, dict[str, bool]] = {
    **dict.fromkeys((b"off", b"no", b"disable"), {"off": True}),
    b"nonew": {"fresh_keys": False},
    b"lifetime": {"lifetime": True},
    b"pad": {},
    b"unencrypted-srtp": {"unencrypted_srtp": True},
    b"encrypted-srtp": {"unencrypted_srtp": False},
    b"unencrypted-srtcp": {"unencrypted_srtcp": True},
    b"encrypted-srtcp": {"unencrypted_srtcp": False},
    b"unauthenticated-srtp": {"unauthenticated_srtp": True},
    b"authenticated-srtp": {"unauthenticated_srtp": False},
}
_SUITES = re.compile(rb"(no|only|order)[-:](.+)", re.DOTALL)
_SUITE_NAMES = {name.replace("_", "-").encode(): name for name in SUITES}
_FAMILIES = {b"IP4": IPV4, b"ip4": IPV4, b"IP6": IPV6, b"ip6": IPV6}


def canonical(request: Request) -> dict[bytes, Any]:
    """The request with each key in the spelling that wins, so that reading it takes one lookup per key."""
    named = {_NAMES.get(key, key): value for key, value in request.items()}
    return named if len(named) == len(request) else _merged(request)


def _merged(request: Request) -> dict[bytes, Any]:
    """Of the values under several spellings of one key, the first that has the right type counts."""
    merged = dict(request)
    for spellings in _SPELLED:
        kinds = _KINDS.get(spellings, (bytes,))
        values = [request[form] for form in spellings if form in request]
        ranked = [value for kind in kinds for value in values if type(value) is kind] + values
        if ranked:
            merged[spellings[0]] = ranked[0]
    return merged


def get(request: Request, key: Key, kind: type[_T]) -> _T | None:
    """The value of ``key`` in a canonical request, if it has the right type."""
    value = request.get(key[0])
    return value if type(value) is kind else None


def text(request: Request, key: Key) -> str | None:
    """The value of ``key`` as text, None without one; ProtocolError for more than MAX_IDENTIFIER bytes."""
    value = get(request, key, bytes)
    if value is None:
        return None
    if len(value) > MAX_IDENTIFIER:
        raise ProtocolError(f"Value of {key[-2].decode()} is too long")
    return value.decode("utf-8", "surrogateescape")


def seconds(request: Request) -> int | None:
    """The delay of a deletion, an integer or digits."""
    number = get(request, DELETE_DELAY, int)
    if number is None:
        digits = get(request, DELETE_DELAY, bytes) or b""
        number = int(digits) if _SECONDS.fullmatch(digits) else -1
    return number if 0 <= number <= _MAX_SECONDS else None


def words(elements: Iterable[Any]) -> list[bytes]:
    """The strings of a list, hyphenated; newer clients nest lists and dictionaries, which mean nothing to us."""
    return [element.translate(_HYPHENS) for element in elements if type(element) is bytes]


def _address(value: bytes) -> str | None:
    """The canonical text of an IPv4 or IPv6 address, None if it is neither or is bound to an interface."""
    # nothing long may occupy the cache
    return _parse_address(value) if len(value) <= MAX_ADDRESS else None


@lru_cache(maxsize=1024)
def _parse_address(value: bytes) -> str | None:
    try:
        address = ip_address(value.decode("ascii").strip("[]"))
    except ValueError:
        return None
    return None if getattr(address, "scope_id", None) else str(address)


def _received_from(request: Request) -> str | None:
    """The source of the SIP message; None where the proxy did not know it (family ``?``) or wrote nonsense."""
    match get(request, RECEIVED_FROM, list):
        case [bytes(family), bytes(value)]:
            address = _address(value)
        case _:
            return None
    if address is None or address in ("0.0.0.0", "::"):
        return None
    return address if _FAMILIES.get(family) == (IPV6 if ":" in address else IPV4) else None


_HOW_STRINGS = (ADDRESS_FAMILY, TRANSPORT_PROTOCOL, MEDIA_ADDRESS, ICE, DTLS)
_HOW_LISTS = (FLAGS, REPLACE, RTCP_MUX, DIRECTION, SDES)


def signalling(request: Request, defaults: Defaults) -> tuple[Signalling, tuple[str, ...]]:
    """What a canonical request asks for, and what of it is not known, each as ``key: word``."""
    strings = tuple([get(request, key, bytes) or b"" for key in _HOW_STRINGS])
    lists = tuple([_elements(request, key) for key in _HOW_LISTS])
    try:
        how, unknown = _wanted(defaults, strings, lists)
    except TypeError:
        # What is nested in a list is no key to a cache, and means nothing to us.
        how, unknown = _wanted.__wrapped__(defaults, strings, lists)
    received_from, via_branch = _received_from(request), text(request, VIA_BRANCH)
    if received_from is None and via_branch is None:
        return how, unknown
    return how._replace(received_from=received_from, via_branch=via_branch), unknown


def _elements(request: Request, key: Key) -> tuple[Any, ...]:
    """A list; Kamailio makes a string of ``SDES=off`` and ``rtcp-mux=demux``."""
    value = request.get(key[0])
    if type(value) is bytes and value and key in (SDES, RTCP_MUX):
        return (value,)
    return tuple(value) if type(value) is list else ()


class _Unknown(list[str]):
    """Words and values that mean nothing to us."""

    def add(self, key: Key, word: bytes) -> None:
        name = key[-2:][0].decode()  # with hyphens
        self.append(f"{name}: {repr(word[:MAX_UNKNOWN])[2:-1]}")

    def value(self, key: Key, value: bytes, known: Mapping[bytes, Any]) -> Any:
        """What a value means; None, and noted, if nothing."""
        if value and value not in known:
            self.add(key, value)
        return known.get(value)

    def among(self, key: Key, said: list[bytes], known: frozenset[bytes]) -> frozenset[str]:
        """The words that are known, the others noted."""
        for word in said:
            if word not in known:
                self.add(key, word)
        return frozenset([word.decode() for word in said if word in known])


# A routing script sends few combinations. None is longer than its request, so that few MiB are held at worst.
@lru_cache(maxsize=64)
def _wanted(
    defaults: Defaults, strings: tuple[bytes, ...], lists: tuple[tuple[Any, ...], ...]
) -> tuple[Signalling, tuple[str, ...]]:
    """What a request asks for, apart from what differs from call to call."""
    family_name, protocol, media_address, ice, dtls = strings
    said = _sorted_out(lists)
    unknown = _Unknown()
    flags = unknown.among(FLAGS, said[FLAGS], FLAG_WORDS)
    family = unknown.value(ADDRESS_FAMILY, family_name, _FAMILIES)
    how = Signalling(
        trust_address="trust-address" in flags or (defaults.trust_address and "SIP-source-address" not in flags),
        family=family,
        prefer_ipv6=family is None and _recipient_external(said[DIRECTION]),
        protocol=profile(protocol),
        media_address=_address(media_address),
        ice=unknown.value(ICE, ice.translate(_HYPHENS), ICE_WORDS) or defaults.ice,
        rtcp_mux=unknown.among(RTCP_MUX, said[RTCP_MUX], RTCP_MUX_WORDS),
        replace=unknown.among(REPLACE, said[REPLACE], REPLACE_WORDS),
        asymmetric="asymmetric" in flags,
        strict_source="strict-source" in flags,
        media_handover="media-handover" in flags,
        no_rtcp_attribute="no-rtcp-attribute" in flags,
        dtls=unknown.value(DTLS, dtls, DTLS_WORDS),
        sdes=_sdes(said[SDES], unknown),
        generate_mid="generate-mid" in flags,
        reset="reset" in flags,
    )
    if protocol and how.protocol is None:
        unknown.add(TRANSPORT_PROTOCOL, protocol)
    if media_address and how.media_address is None:
        unknown.add(MEDIA_ADDRESS, b"no address")  # not what it is, which might be another one for each call
    return how, tuple(unknown)


def _sorted_out(lists: tuple[tuple[Any, ...], ...]) -> dict[Key, list[bytes]]:
    """The words of each list, with those that ``flags`` has for the others, as in ``replace-origin``."""
    said = {key: words(elements) for key, elements in zip(_HOW_LISTS, lists, strict=True)}
    flags, said[FLAGS] = said[FLAGS], []
    for word in flags:
        key, element = _list_element(word)
        said[key].append(element)
    return said


_PREFIXES = {b"replace": REPLACE, b"rtcp-mux": RTCP_MUX, b"SDES": SDES, b"direction": DIRECTION}


def _list_element(word: bytes) -> tuple[Key, bytes]:
    """The list that a hyphenated word like ``replace-origin`` or ``direction=internal`` belongs to, and its element."""
    if word in (b"internal", b"external"):
        return DIRECTION, word
    for name, key in _PREFIXES.items():
        if word.startswith(name) and word[len(name) : len(name) + 1] in (b"-", b"="):
            return key, word[len(name) + 1 :]
    return FLAGS, word


def _recipient_external(directions: list[bytes]) -> bool:
    """Whether ``direction`` puts the recipient on the external side; interface names do not count as elements."""
    return [word for word in directions if word in (b"internal", b"external")][1:2] == [b"external"]


def _sdes(said: list[bytes], unknown: _Unknown) -> SdesPolicy:
    """The words of ``SDES``."""
    fields: dict[str, Any] = {}
    suites: dict[bytes, list[str]] = {b"no": [], b"only": [], b"order": []}
    for word in said:
        listed = _SUITES.fullmatch(word)
        if word in SDES_WORDS:
            fields.update(SDES_WORDS[word])
        elif listed is not None:
            suites[listed[1]] += _suites(listed, unknown)
        else:
            unknown.add(SDES, word)
    return SdesPolicy(
        only=frozenset(suites[b"only"]), without=frozenset(suites[b"no"]), order=tuple(suites[b"order"]), **fields
    )


def _suites(listed: re.Match[bytes], unknown: _Unknown) -> list[str]:
    """The suites of ``no-A``, ``only-A`` or ``order:A;B``."""
    found = []
    for name in re.split(b"[;,]", listed[2].upper()):
        if name in _SUITE_NAMES:
            found.append(_SUITE_NAMES[name])
            continue
        unknown.add(SDES, listed[1] + b"-" + name)
        if listed[1] == b"only":
            found.append("unknown")  # no suite is left then; to forget the word would leave all of them
    return found


def profile(name: bytes) -> str | None:
    """The RTP profile of this name, in the case of the RFCs."""
    found = name.upper().decode("utf-8", "replace")
    return found if found in PROFILES else None


def read(request: Request) -> Request:
    """The canonical request, with the keys that ``rtpp-flags`` stands for."""
    named = canonical(request)
    value = get(named, RTPP_FLAGS, bytes)
    return named if value is None else _expand(request, value)


def _expand(request: Request, value: bytes) -> Request:
    """Read ``rtpp-flags`` as the keys that Kamailio would have made of it; keys of the request itself come first."""
    flags: list[Any] = []
    strings: dict[bytes, bytes] = {}
    transport: set[bytes] = set()
    for word in value.split():
        name, equals, rest = word.partition(b"=")
        if word in TRANSPORT_WORDS:
            transport.add(word)
        elif profile(word):
            strings[TRANSPORT_PROTOCOL[-1]] = word
        elif equals and name.translate(_HYPHENS) not in _PREFIXES:
            strings[name.replace(b"-", b"_")] = rest
        else:
            flags.append(word)
    if transport:
        strings.setdefault(TRANSPORT_PROTOCOL[-1], _transport(transport))
    # The form with underscores loses against the others, and against itself if the request has it.
    expanded = canonical({**strings, **request})
    expanded[FLAGS[0]] = [*(get(expanded, FLAGS, list) or ()), *flags]
    return expanded


def _transport(said: set[bytes]) -> bytes:
    """Combine words like ``SRTP AVPF`` to a transport protocol."""
    name = b"RTP/SAVP" if said & {b"SRTP", b"DTLS"} else b"RTP/AVP"
    return (b"UDP/TLS/" if b"DTLS" in said else b"") + name + (b"F" if b"AVPF" in said else b"")
