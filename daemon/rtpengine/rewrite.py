"""From an SDP body to what it says about media, and from our plans back to the edited body.

Two pure functions: :func:`offers` and :func:`rewrite`. BUNDLE is taken apart, ICE is ended here, and a line that is
not named below leaves as it came.
"""

from __future__ import annotations

from collections.abc import Sequence

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, PROFILES, Endpoint, MediaOffer, MediaPlan, Signalling
from rtpengine.sdp import MediaDescription, Part, Session, SessionDescription, is_bundle, join_lines

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

_REMOVED_FROM_SESSION = frozenset(_ICE | _DTLS | _RTP | {f"a={name}" for name in DIRECTIONS})
_REMOVED_FROM_RTP = _REMOVED_FROM_SESSION | {"a=rtcp"}
_REMOVED_FROM_OPAQUE = frozenset(_ICE)

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
        out += _session(session, own, how, address)
        for section, plan in zip(session.media, own, strict=True):
            out += _section(session, section, plan, how, address)
    return join_lines(out + sdp.tail)


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
    return MediaOffer(kind, endpoint, rtcp, protocol, pairs, direction, rtcp_mux=rtcp_mux)


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
    port, pairs = section.media.port, section.media.pairs
    named = section.rtcp
    rtcp_port = named.port if isinstance(named, Endpoint) else named or port + 1
    if rtcp_port == port or section.has("a=rtcp-mux") or section.has("a=rtcp-mux-only"):
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
    return next((plan.local.address for plan in plans if plan.local is not None), fallback)


def _session(session: Session, plans: Sequence[MediaPlan], how: Signalling, address: str | None) -> list[str]:
    lines = session.lines.copy()
    if session.media:
        _replace_origin(session, how, lines, address)
        inheriting = [plan for section, plan in zip(session.media, plans, strict=True) if section.connection is None]
        if (inheriting or "session-connection" in how.replace) and not _keeps_null(session, inheriting):
            _replace_connections(session, lines, address)
    removed = _REMOVED_FROM_SESSION
    if "a=fingerprint" in session.present and any(_is_opaque_tls(section) for section in session.media):
        removed -= _DTLS
    group = len("a=group:")
    return [
        line
        for line, key in zip(lines, session.keys, strict=True)
        if key not in removed and not (key == "a=group" and is_bundle(line[group:]))
    ]


def _replace_origin(session: Session, how: Signalling, lines: list[str], address: str | None) -> None:
    origin, index = session.origin, session.origin_line
    if "origin" in how.replace and origin is not None and not origin.is_null:
        lines[index] = _with_address(lines[index], 4, address)


def _keeps_null(part: Part, plans: Sequence[MediaPlan]) -> bool:
    """Whether a null address is to stay for the sections that it holds for: it says hold, not "I do not know yet"."""
    if part.connection is None or not part.connection.is_null:
        return False
    return any(plan.held for plan in plans) or all(plan.local is None for plan in plans)


def _is_opaque_tls(section: MediaDescription) -> bool:
    """Whether TLS passes unseen (RFC 7345, RFC 8841), so that the section needs what it inherits from the session."""
    protocol = section.media.protocol.upper()
    return "TLS" in protocol and protocol not in PROFILES


def _section(
    session: Session, section: MediaDescription, plan: MediaPlan, how: Signalling, address: str | None
) -> list[str]:
    lines = section.lines.copy()
    rtp = section.media.protocol.upper() in PROFILES
    lines[0] = _media_line(lines[0], plan, rtp)
    if section.connections and not _keeps_null(section, [plan]):
        if plan.local is not None and how.media_address is None:
            address = plan.local.address
        _replace_connections(section, lines, address)
    removed = _REMOVED_FROM_RTP if rtp else _REMOVED_FROM_OPAQUE
    if session.is_bundled:
        removed |= _BUNDLE
    lines = [line for line, key in zip(lines, section.keys, strict=True) if key not in removed]
    return lines + (_rtp_lines(plan) if rtp else _opaque_lines(session, section))


def _media_line(line: str, plan: MediaPlan, rtp: bool) -> str:
    words = line.split(" ", 3)
    port, pairs = (0, 1) if plan.local is None else (plan.local.port, plan.pairs)
    words[1] = f"{port}/{pairs}" if pairs > 1 else f"{port}"
    if rtp and plan.protocol in PROFILES:
        words[2] = plan.protocol + ("\r" if words[2].endswith("\r") else "")
    return " ".join(words)


def _rtp_lines(plan: MediaPlan) -> list[str]:
    """The lines that end an RTP section, with the CR of their CR LF (sdp.md 6.2)."""
    if plan.local is None:
        return ["a=inactive\r"]
    lines = [f"a={plan.direction.attribute}\r"]
    if plan.rtcp_port is not None:
        lines.append(f"a=rtcp:{plan.rtcp_port}\r")
    if plan.rtcp_mux:
        lines.append("a=rtcp-mux\r")
    return lines


def _opaque_lines(session: Session, section: MediaDescription) -> list[str]:
    """A section that is not RTP keeps its own direction, and is given the one that has left the session level."""
    inherited = session.direction
    return [] if inherited is None or section.direction is not None else [f"a={inherited.attribute}\r"]


def _replace_connections(part: Part, lines: list[str], address: str | None) -> None:
    """Replace the address of every c= line of a part: a second one would lead the media past us."""
    for index in part.connections:
        lines[index] = _with_address(lines[index], 1, address)


def _with_address(line: str, index: int, address: str | None) -> str:
    """The line with its words ``index`` (address type) and the next replaced; None is the null address of that type."""
    words = line.split(" ", index + 2)
    if address is None:
        address = "::" if words[index] in ("IP6", "ip6") else "0.0.0.0"
    end = "\r" if words[index + 1].endswith("\r") else ""
    words[index : index + 2] = ["IP6" if ":" in address else "IP4", address + end]
    return " ".join(words)
