"""What an SDP body says about media (sdp.md 3): one MediaOffer per m= line, free of SDP syntax.

Pure, and the counterpart of rewrite.py. A line that cannot be used says nothing; the next one of its name may.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple, TypeVar

from rtpengine import ProtocolError
from rtpengine.attributes import parse_fingerprint
from rtpengine.media import (
    DIRECTIONS,
    PROFILES,
    CryptoLine,
    Endpoint,
    Fingerprint,
    Format,
    IceCredentials,
    MediaOffer,
    Signalling,
)
from rtpengine.sdp import BLANK_TO_END, MediaDescription, Part, Session, SessionDescription
from rtpengine.srtp import parse_crypto

# Of one section, so that a body full of them costs little: more than any suite or hash that there is.
MAX_CRYPTO_LINES = 32
MAX_FINGERPRINTS = 8
MAX_FORMATS = 128

_DISCARD_PORT = 9  # RFC 9429: with the null address, "I do not know yet"

# What a plain phone says nothing about: one look at a level's text tells.
_SAYS_MORE = re.compile(r"\na=(?:c(?:rypto|andidate)|fingerprint|setup|tls-id|ice-|mid|rtcp-mux-only)").search
# What a section of a bundle leaves out that has no transport of its own (RFC 9143 7.1.3).
_OF_TRANSPORT = re.compile(r"\na=(?:c(?:rypto|andidate)|fingerprint|setup|ice-)").search


def _word(name: str, word: str) -> Callable[[str], re.Match[str] | None]:
    """What finds the first attribute of this name whose value is such a word."""
    return re.compile(rf"\na={name}:[^\S\n]*+({word}){BLANK_TO_END}").search


_MUX_ONLY = re.compile(rf"\na=rtcp-mux-only{BLANK_TO_END}").search
_ICE_LITE = re.compile(rf"\na=ice-lite{BLANK_TO_END}").search
_SETUP = _word("setup", "(?i:actpass|active|passive|holdconn)")
# RFC 8842 4, RFC 8839 5.4 and RFC 5888 4 are stricter; what is longer nobody sends.
_TLS_ID = _word("tls-id", "[!-~]{1,255}+")
_UFRAG = _word("ice-ufrag", "[!-~]{1,256}+")
_PWD = _word("ice-pwd", "[!-~]{1,256}+")
_MID = _word("mid", "[!-~]{1,255}+")
# RFC 8839 5.1: the address may be a name (RFC 8828) or have a zone, both of which only its owner understands.
_UDP_PRIORITIES = re.compile(
    r"\na=candidate:[!-~]{1,64}+ [0-9]{1,5}+ [Uu][Dd][Pp] ([1-9][0-9]{0,9}+) [!-~]{1,255}+ [0-9]{1,5}+ typ [!-~]"
).findall
# A number beyond 127 is no payload type; names are tokens, most of them of a dozen characters.
_RTPMAPS = re.compile(r"\na=rtpmap:[^\S\n]*+([0-9]{1,3}+) ++([!-.0-~]{1,64}+)/([1-9][0-9]{0,6}+)").finditer
_T = TypeVar("_T")


class _Transport(NamedTuple):
    """What one level says about keys and ICE."""

    crypto: tuple[CryptoLine, ...] = ()
    setup: str | None = None
    fingerprints: tuple[Fingerprint, ...] = ()
    tls_id: str | None = None
    ufrag: str | None = None
    pwd: str | None = None
    ice_lite: bool = False
    lowest_priority: int | None = None


_NOTHING = _Transport()


class _Above(NamedTuple):
    """What the sections of one session have in common."""

    session: Session
    said: _Transport
    bundles: dict[str | None, MediaDescription]
    has_ice: bool


def offers(sdp: SessionDescription, how: Signalling) -> list[MediaOffer]:
    """What a body says, one MediaOffer per m= line in order (sdp.md 3).

    A null address means the same whether addresses are trusted or not: with port 9 an endpoint not known yet (None),
    otherwise hold. Raise ProtocolError where a section names no address.
    """
    has_ice = any("\na=ice-ufrag:" in part.text for session in sdp.sessions for part in (session, *session.media))
    found: list[MediaOffer] = []
    for session in sdp.sessions:
        above = _Above(session, _read(session), _bundles(session), has_ice)
        found += [_offer(above, section, how) for section in session.media]
    return found


def _offer(above: _Above, section: MediaDescription, how: Signalling) -> MediaOffer:
    session, said, _, has_ice = above
    kind, _, pairs, protocol = section.media
    protocol = protocol.upper()
    direction = section.direction or session.direction or DIRECTIONS["sendrecv"]
    source = _transport(section, above)
    if source.media.port == 0:
        mid = _first(_MID, section)
        return MediaOffer(kind, None, None, protocol, pairs, direction, True, body_has_ice=has_ice, mid=mid)
    endpoint = _endpoint(session, source, how)
    rtcp, rtcp_mux = _rtcp(source, endpoint, how) if protocol in PROFILES else (None, False)
    formats = _formats(section.text) if protocol in PROFILES else ()
    if said is _NOTHING and not has_ice and not _SAYS_MORE(section.text):
        return MediaOffer(kind, endpoint, rtcp, protocol, pairs, direction, False, rtcp_mux, formats=formats)
    own = _read(source)
    ufrag, pwd = own.ufrag or said.ufrag, own.pwd or said.pwd
    return MediaOffer(
        *(kind, endpoint, rtcp, protocol, pairs, direction, False, rtcp_mux),
        mux_only=rtcp_mux and _MUX_ONLY(source.text) is not None,
        crypto=own.crypto,
        setup=own.setup or said.setup,
        fingerprints=own.fingerprints or said.fingerprints,
        tls_id=own.tls_id or said.tls_id,
        ice=IceCredentials(ufrag, pwd) if ufrag and pwd else None,
        ice_lite=own.ice_lite or said.ice_lite,
        body_has_ice=has_ice,
        lowest_priority=own.lowest_priority,
        mid=_first(_MID, section),
        formats=formats,
    )


def _formats(text: str) -> tuple[Format, ...]:
    return tuple(
        Format(int(number), encoding.upper(), int(rate))
        for number, encoding, rate in map(re.Match.groups, islice(_RTPMAPS(text), MAX_FORMATS))
    )


def _bundles(session: Session) -> dict[str | None, MediaDescription]:
    """By mid, the section whose transport its bundle uses: the first one of the group (RFC 9143 7.2.1)."""
    if "\na=group" not in session.text:
        return {}
    named = {_first(_MID, section): section for section in reversed(session.media)}
    return {
        mid: named[bundle[0]] for bundle in reversed(session.bundles) if bundle and bundle[0] in named for mid in bundle
    }


def _transport(section: MediaDescription, above: _Above) -> MediaDescription:
    """The section whose address, port, keys and ICE hold for this one.

    In a bundle that can be another: a bundle-only section (RFC 9143 6) has none of its own, nor has one that has
    the port of the first and neither keys nor ICE (7.1.3).
    """
    port = section.media.port
    if not above.bundles or (_OF_TRANSPORT(section.text) if port else not section.has("a=bundle-only")):
        return section
    first = above.bundles.get(_first(_MID, section), section)
    return first if port in (0, first.media.port) else section


def _endpoint(session: Session, section: MediaDescription, how: Signalling) -> Endpoint | None:
    connection, port = section.connection or session.connection, section.media.port
    if connection is not None and connection.is_null and connection.text is not None:
        return None if port == _DISCARD_PORT else Endpoint(connection.text, port)
    by_name = connection is not None and connection.text is None
    if how.received_from is not None and (by_name or not how.trust_address):
        return Endpoint(how.received_from, port)  # a host name is not looked up, and says less than the SIP source
    if connection is None:
        raise ProtocolError("Incomplete SDP specification")
    return None if connection.text is None else Endpoint(connection.text, port)


def _rtcp(section: MediaDescription, rtp: Endpoint | None, how: Signalling) -> tuple[Endpoint | None, bool]:
    """The separate RTCP endpoint if one is known, and whether RTCP shares the RTP port instead (RFC 3605, RFC 5761)."""
    _, port, pairs, _ = section.media
    if "\na=rtcp" not in section.text and rtp is not None and pairs == 1:
        # What most sections say is found with one look instead of one for each attribute.
        return (None if port == 65535 else Endpoint(rtp.address, port + 1)), False
    named = section.rtcp
    rtcp_port = named.port if isinstance(named, Endpoint) else named or port + 1
    if rtcp_port == port or section.has_rtcp_mux:
        return None, True
    if rtcp_port + 2 * (pairs - 1) > 65535:
        return None, False
    trusted = how.trust_address or how.received_from is None
    if isinstance(named, Endpoint) and trusted and not named.is_null:
        return named, False
    return (None if rtp is None else Endpoint(rtp.address, rtcp_port)), False


def _read(level: Part) -> _Transport:
    """What the lines of a level say about keys and ICE."""
    text = level.text
    if not _SAYS_MORE(text):
        return _NOTHING
    setup = _first(_SETUP, level)
    return _Transport(
        crypto=_usable(parse_crypto, level, "a=crypto", MAX_CRYPTO_LINES),
        setup=None if setup is None else setup.lower(),
        fingerprints=_usable(parse_fingerprint, level, "a=fingerprint", MAX_FINGERPRINTS),
        tls_id=_first(_TLS_ID, level),
        ufrag=_first(_UFRAG, level),
        pwd=_first(_PWD, level),
        ice_lite=_ICE_LITE(text) is not None,
        lowest_priority=min(map(int, _UDP_PRIORITIES(text)), default=None),
    )


def _first(search: Callable[[str], re.Match[str] | None], level: Part) -> str | None:
    found = search(level.text)
    return None if found is None else found[1]


def _usable(parse: Callable[[str], _T], level: Part, key: str, most: int) -> tuple[_T, ...]:
    """The values of the first ``most`` attributes of this name, without those that cannot be used."""
    usable = []
    for value in islice(level.values(key), most):
        try:
            usable.append(parse(value))
        except ProtocolError:
            continue
    return tuple(usable)
