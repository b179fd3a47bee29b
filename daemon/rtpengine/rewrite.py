"""From an SDP body to what it says about media, and from our plans back to the edited body.

Two pure functions: :func:`offers` and :func:`rewrite`. BUNDLE is taken apart, ICE is ended here, and a line that is
not named below leaves as it came.
"""

from __future__ import annotations

from collections.abc import Sequence

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, IPV6, PROFILES, Endpoint, MediaOffer, MediaPlan, Signalling
from rtpengine.sdp import Address, MediaDescription, Part, Session, SessionDescription, is_bundle, join_lines

# RFC 8839 5, draft-rtcweb-trickle: no ICE agent sits here, so none may be promised to the recipient.
_ICE = {
    "candidate",
    "end-of-candidates",
    "ice-lite",
    "ice-mismatch",
    "ice-options",
    "ice-pacing",
    "ice-pwd",
    "ice-ufrag",
    "remote-candidates",
}
_DTLS = {"fingerprint", "setup", "tls-id"}
_RTP = {"crypto", "extmap", "extmap-allow-mixed", "rtcp-mux", "rtcp-mux-only", *DIRECTIONS}
_BUNDLE = {"mid", "bundle-only"}

_SESSION_REMOVED = frozenset(_ICE | _DTLS | _RTP)
_RTP_REMOVED = frozenset(_ICE | _DTLS | _RTP | {"rtcp"})
_OPAQUE_REMOVED = frozenset(_ICE)

_DISCARD_PORT = 9  # RFC 9429 4.1.17: with the null address, "I do not know yet"


def offers(sdp: SessionDescription, how: Signalling) -> list[MediaOffer]:
    """What a body says, one MediaOffer per m= line in order (sdp.md 3).

    A null address means the same whether addresses are trusted or not: with port 9 an endpoint not known yet (None),
    otherwise hold. Raise ProtocolError where a section names no address, or for a transport that is not supported.
    """
    if how.protocol is not None:
        _require_supported(how.protocol)
    return [_offer(section, how) for section in sdp.media]


def rewrite(
    sdp: SessionDescription, how: Signalling, plans: Sequence[MediaPlan], fallback: str | None = None
) -> bytes:
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
        address = _address(own, how, fallback)
        out += _session(session, own, how, address)
        for section, plan in zip(session.media, own, strict=True):
            out += _section(section, plan, how, address)
    return join_lines(out + sdp.tail)


def _require_supported(protocol: str) -> None:
    """Refuse the secure profiles, whose keys nobody handles yet."""
    profile = PROFILES.get(protocol)
    if profile is not None and profile.secure:
        raise ProtocolError(f"Transport protocol {protocol} is not supported yet")


def _offer(section: MediaDescription, how: Signalling) -> MediaOffer:
    kind, _, pairs, protocol = section.media
    protocol = protocol.upper()
    direction = section.direction or section.session.direction or DIRECTIONS["sendrecv"]
    source = _transport(section)
    port = source.media.port
    if port == 0:
        return MediaOffer(kind, None, None, protocol, pairs, direction, rejected=True)
    _require_supported(protocol)
    endpoint = _endpoint(source, how)
    rtcp, rtcp_mux = _rtcp(source, endpoint, how) if protocol in PROFILES else (None, False)
    return MediaOffer(kind, endpoint, rtcp, protocol, pairs, direction, rtcp_mux=rtcp_mux)


def _transport(section: MediaDescription) -> MediaDescription:
    """The section whose address and port hold for this one: a bundle-only section (RFC 9143 6) has none of its own."""
    if section.media.port or not section.has("bundle-only"):
        return section
    mid = next(section.values("mid"), None)
    for bundle in section.session.bundles:
        if mid in bundle:
            return next((s for s in section.session.media if next(s.values("mid"), None) == bundle[0]), section)
    return section


def _endpoint(section: MediaDescription, how: Signalling) -> Endpoint | None:
    connection, port = section.connection or section.session.connection, section.media.port
    if connection is not None and connection.is_null and connection.text is not None:
        return None if port == _DISCARD_PORT else Endpoint(connection.text, port)
    if how.received_from is not None and not how.trust_address:
        return Endpoint(how.received_from, port)
    if connection is None:
        raise ProtocolError("Incomplete SDP specification")
    return None if connection.text is None else Endpoint(connection.text, port)


def _rtcp(section: MediaDescription, rtp: Endpoint | None, how: Signalling) -> tuple[Endpoint | None, bool]:
    """The separate RTCP endpoint if one is known, and whether RTCP shares the RTP port instead (RFC 3605, RFC 5761)."""
    port, pairs = section.media.port, section.media.pairs
    named = section.rtcp
    rtcp_port = named.port if isinstance(named, Endpoint) else named or port + 1
    if rtcp_port == port or section.has("rtcp-mux") or section.has("rtcp-mux-only"):
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
    inheriting = [plan for section, plan in zip(session.media, plans, strict=True) if section.connection is None]
    origin, connection = session.origin, session.connection
    if plans and origin is not None and not origin.is_null and "origin" in how.replace:
        lines[session.origin_line] = _with_address(lines[session.origin_line], 4, address, origin.family)
    if connection is not None and plans and (inheriting or "session-connection" in how.replace):
        silent = any(plan.held for plan in inheriting) or not inheriting
        if not (connection.is_null and silent):
            _replace_connections(session, connection, lines, address)
    removed = _SESSION_REMOVED
    if "fingerprint" in session.names and any("TLS" in s.media.protocol.upper() for s in session.media):
        removed = removed - _DTLS  # an opaque section (RFC 7345, RFC 8841) inherits them, and its TLS passes unseen
    return [
        line
        for line, name in zip(lines, session.names, strict=True)
        if name not in removed and not (name == "group" and is_bundle(line.partition(":")[2]))
    ]


def _section(section: MediaDescription, plan: MediaPlan, how: Signalling, address: str | None) -> list[str]:
    lines = section.lines.copy()
    rtp = section.media.protocol.upper() in PROFILES
    lines[0] = _media_line(lines[0], plan, rtp)
    connection = section.connection
    if connection is not None and not (connection.is_null and (plan.held or plan.local is None)):
        if plan.local is not None and how.media_address is None:
            address = plan.local.address
        _replace_connections(section, connection, lines, address)
    removed = _RTP_REMOVED if rtp else _OPAQUE_REMOVED
    if section.session.is_bundled:
        removed = removed | _BUNDLE
    lines = [line for line, name in zip(lines, section.names, strict=True) if name not in removed]
    return lines + (_rtp_lines(plan) if rtp else _opaque_lines(section))


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


def _opaque_lines(section: MediaDescription) -> list[str]:
    """A section that is not RTP keeps its own direction, and is given the one that has left the session level."""
    inherited = section.session.direction
    return [] if inherited is None or section.direction is not None else [f"a={inherited.attribute}\r"]


def _replace_connections(part: Part, first: Address, lines: list[str], address: str | None) -> None:
    """Replace the address of every c= line of a part: a second one would lead the media past us."""
    for index in part.connections:
        lines[index] = _with_address(lines[index], 1, address, first.family)


def _with_address(line: str, index: int, address: str | None, family: int) -> str:
    """The line with its words ``index`` (address type) and the next replaced; None: the null address of ``family``."""
    if address is None:
        address = "::" if family == IPV6 else "0.0.0.0"
    words = line.split(" ", index + 2)
    end = "\r" if words[index + 1].endswith("\r") else ""
    words[index : index + 2] = ["IP6" if ":" in address else "IP4", address + end]
    return " ".join(words)

