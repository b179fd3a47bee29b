"""From an SDP body to what it says about media, and from our plans back to the edited body.

Two pure functions: :func:`offers` and :func:`rewrite`. BUNDLE is taken apart, ICE is ended here, and a line that is
not named below leaves as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, PROFILES, Endpoint, MediaOffer, MediaPlan, Signalling
from rtpengine.sdp import MediaDescription, Part, Session, SessionDescription, Span, join

# RFC 8839 5 and RFC 8840: no ICE agent sits here, so none may be promised to the recipient.
_ICE = {
    "a=candidate",
    "a=end-of-candidates",
    "a=ice-lite",
    "a=ice-mismatch",
    "a=ice-options",
    "a=ice-pacing",
    "a=ice-pwd",
    "a=ice-ufrag",
    "a=remote-candidates",
}
_DTLS = {"a=fingerprint", "a=setup", "a=tls-id"}
_RTP = {"a=crypto", "a=extmap", "a=extmap-allow-mixed", "a=rtcp-mux", "a=rtcp-mux-only"}
_BUNDLE = {"a=mid", "a=bundle-only"}

_OF_SESSION = _ICE | _DTLS | _RTP | {f"a={name}" for name in DIRECTIONS}
_OF_RTP = _OF_SESSION | {"a=rtcp"}


def _any_of(names: list[str]) -> str:
    """A pattern for one of these sorted names that goes by their letters: re would try one name after the other."""
    branches = [
        letter and re.escape(letter) + _any_of([name[1:] for name in same])
        for letter, same in groupby(names, lambda name: name[:1])
    ]
    return f"(?:{'|'.join(reversed(branches))})"  # the longer name first


def _lines(keys: Iterable[str], further: str = "") -> re.Pattern[str]:
    """What finds the lines of these attributes, each with the LF in front; a colon or a blank ends a name.

    One pass through the text of a part in C takes the place of a decision per line.
    """
    names = _any_of(sorted(key.removeprefix("a=") for key in keys))
    return re.compile(rf"\na=(?:{names}(?![^:\s]){further}).*+")


_BUNDLE_GROUP = r"|group[:\s]BUNDLE(?: |[^\S\n]*+(?!.))"
_REMOVED_FROM_SESSION = _lines(_OF_SESSION, _BUNDLE_GROUP)
_REMOVED_BUT_DTLS = _lines(_OF_SESSION - _DTLS, _BUNDLE_GROUP)
# By whether the section is RTP and whether it leaves a bundle.
_REMOVED_FROM_SECTION = {
    (True, False): _lines(_OF_RTP),
    (True, True): _lines(_OF_RTP | _BUNDLE),
    (False, False): _lines(_ICE),
    (False, True): _lines(_ICE | _BUNDLE),
}

_DISCARD_PORT = 9  # RFC 9429: with the null address, "I do not know yet"


def offers(sdp: SessionDescription, how: Signalling) -> list[MediaOffer]:
    """What a body says, one MediaOffer per m= line in order (sdp.md 3).

    A null address means the same whether addresses are trusted or not: with port 9 an endpoint not known yet (None),
    otherwise hold. Raise ProtocolError where a section names no address, or for a transport that is not supported.
    """
    if how.protocol is not None:
        _require_supported(how.protocol)
    return [_offer(session, section, how) for session in sdp.sessions for section in session.media]


def rewrite(sdp: SessionDescription, how: Signalling, plans: Sequence[MediaPlan], fallback: str | None = None) -> bytes:
    """The body for the recipient: ``sdp`` with our addresses, ports and profiles, one plan per m= line (sdp.md 6).

    A missing line terminator at the end of the body is added.
    ``fallback`` is our address for a body whose sections are all disabled; without it the null address is written.
    Raise ProtocolError if the number of plans is not that of the m= lines.
    """
    if len(plans) != len(sdp.media):
        raise ProtocolError("Error rewriting SDP")
    out: list[str] = []
    first = 0
    for session in sdp.sessions:
        own = plans[first : first + len(session.media)]
        first += len(own)
        address = _address([*own, *plans], how, fallback)
        out.append(_session(session, own, how, address))
        for section, plan in zip(session.media, own, strict=True):
            out.append(_section(session, section, plan, how, address))
    return join(out, sdp.tail)


def _require_supported(protocol: str) -> None:
    """Refuse the secure profiles, whose keys nobody handles yet."""
    profile = PROFILES.get(protocol)
    if profile is not None and profile.secure:
        raise ProtocolError(f"Transport protocol {protocol} is not supported yet")


def _offer(session: Session, section: MediaDescription, how: Signalling) -> MediaOffer:
    kind, _, pairs, protocol = section.media
    protocol = protocol.upper()
    direction = section.direction or session.direction or DIRECTIONS["sendrecv"]
    source = _transport(session, section)
    port = source.media.port
    if port == 0:
        return MediaOffer(kind, None, None, protocol, pairs, direction, rejected=True)
    _require_supported(protocol)
    endpoint = _endpoint(session, source, how)
    rtcp, rtcp_mux = _rtcp(source, endpoint, how) if protocol in PROFILES else (None, False)
    return MediaOffer(kind, endpoint, rtcp, protocol, pairs, direction, False, rtcp_mux)


def _transport(session: Session, section: MediaDescription) -> MediaDescription:
    """The section whose address and port hold for this one: a bundle-only section (RFC 9143 6) has none of its own."""
    if section.media.port or not section.has("a=bundle-only"):
        return section
    mid = next(section.values("a=mid"), None)
    for bundle in session.bundles:
        if mid in bundle:
            return next((s for s in session.media if next(s.values("a=mid"), None) == bundle[0]), section)
    return section


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


def _address(plans: Sequence[MediaPlan], how: Signalling, fallback: str | None) -> str | None:
    """Our address for the session level and for disabled sections: that of the first section that has one."""
    if how.media_address is not None:
        return how.media_address
    for plan in plans:
        if plan.local is not None:
            return plan.local.address
    return fallback


def _session(session: Session, plans: Sequence[MediaPlan], how: Signalling, address: str | None) -> str:
    text = session.text
    if session.media:
        spans = []
        if "origin" in how.replace and session.origin is not None and not session.origin.is_null:
            spans.append(session.origin_span)
        inheriting = [plan for section, plan in zip(session.media, plans, strict=True) if section.connection is None]
        if (inheriting or "session-connection" in how.replace) and not _keeps_null(session, inheriting):
            spans += session.connections
        text = _readdressed(text, spans, address)
    return (_REMOVED_BUT_DTLS if _inherits_dtls(session) else _REMOVED_FROM_SESSION).sub("", text)


def _inherits_dtls(session: Session) -> bool:
    """Whether a section through which TLS passes unseen needs what the session level says about it."""
    if "\na=fingerprint" not in session.text or next(session.values("a=fingerprint"), None) is None:
        return False
    return any(map(_is_opaque_tls, session.media))


def _keeps_null(part: Part, plans: Sequence[MediaPlan]) -> bool:
    """Whether a null address is to stay for the sections that it holds for: it says hold, not "I do not know yet"."""
    if part.connection is None or not part.connection.is_null:
        return False
    return any(plan.held for plan in plans) or all(plan.local is None for plan in plans)


def _is_opaque_tls(section: MediaDescription) -> bool:
    """Whether TLS passes unseen (RFC 7345, RFC 8841), so that the section needs what it inherits from the session."""
    protocol = section.media.protocol.upper()
    return "TLS" in protocol and protocol not in PROFILES


def _section(session: Session, section: MediaDescription, plan: MediaPlan, how: Signalling, address: str | None) -> str:
    rtp = section.media.protocol.upper() in PROFILES
    text = section.text
    if section.connections and not _keeps_null(section, [plan]):
        if plan.local is not None and how.media_address is None:
            address = plan.local.address
        text = _readdressed(text, section.connections, address)
    text = _REMOVED_FROM_SECTION[rtp, session.is_bundled].sub("", _replanned(text, section, plan, rtp))
    return text + (_rtp_lines(plan) if rtp else _opaque_lines(session, section))


def _replanned(text: str, section: MediaDescription, plan: MediaPlan, rtp: bool) -> str:
    """The text with our port and profile in its first line."""
    kind, _, _, protocol = section.media
    start = len("\nm= ") + len(kind)
    end = text.index(" ", start) + 1 + len(protocol)
    if rtp and plan.protocol in PROFILES:
        protocol = plan.protocol
    port, pairs = (0, 1) if plan.local is None else (plan.local.port, plan.pairs)
    return f"{text[:start]}{port}{f'/{pairs}' if pairs > 1 else ''} {protocol}{text[end:]}"


def _rtp_lines(plan: MediaPlan) -> str:
    """The lines that end an RTP section, with the CR of their CR LF (sdp.md 6.2)."""
    if plan.local is None:
        return "\na=inactive\r"
    text = f"\na={plan.direction.attribute}\r"
    if plan.rtcp_port is not None:
        text += f"\na=rtcp:{plan.rtcp_port}\r"
    return text + "\na=rtcp-mux\r" if plan.rtcp_mux else text


def _opaque_lines(session: Session, section: MediaDescription) -> str:
    """A section that is not RTP keeps its own direction, and is given the one that has left the session level."""
    inherited = session.direction
    return "" if inherited is None or section.direction is not None else f"\na={inherited.attribute}\r"


def _readdressed(text: str, spans: Sequence[Span], address: str | None) -> str:
    """The text with these address types and addresses replaced; None is the null address of the type there.

    That is every c= line of a part: a second one would lead the media past us.
    """
    pieces, done = [], 0
    for start, end in sorted(spans):
        if address is None:
            words = "IP6 ::" if text.startswith(("IP6", "ip6"), start) else "IP4 0.0.0.0"
        else:
            words = f"IP6 {address}" if ":" in address else f"IP4 {address}"
        pieces += [text[done:start], words]
        done = end
    return "".join([*pieces, text[done:]])
