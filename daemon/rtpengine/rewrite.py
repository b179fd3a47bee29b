"""From our plans to the SDP body that the recipient gets: the sender's text, edited (sdp.md 6).

Pure, and the counterpart of offers.py. BUNDLE is taken apart, keys and ICE are those of the plans, and a line that is
not named below leaves as it came.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

from rtpengine import ProtocolError
from rtpengine.attributes import serialize_candidate, serialize_fingerprint
from rtpengine.media import DIRECTIONS, PROFILES, IcePlan, MediaPlan, Signalling
from rtpengine.sdp import MediaDescription, Part, Session, SessionDescription, Span, join
from rtpengine.srtp import serialize_crypto

# RFC 8839 5 and RFC 8840.
_ICE = {
    *("candidate", "end-of-candidates", "remote-candidates"),
    *("ice-lite", "ice-mismatch", "ice-options", "ice-pacing", "ice-pwd", "ice-ufrag"),
}
_DTLS = {"fingerprint", "setup", "tls-id"}
_RTP = {"crypto", "extmap", "extmap-allow-mixed", "rtcp-mux", "rtcp-mux-only"}
_DIRECTIONS = set(DIRECTIONS)
_BUNDLE_GROUP = r"|group[:\s]BUNDLE(?: |[^\S\n]*+(?!.))"
_RELAY_CANDIDATE = r"|candidate:.*? typ (?i:relay)(?!\S)"

_CONNECTION = re.compile(r"\nc=.. ([^ \n]++ [^ \r\n]++)").search
_TITLE = re.compile(r"\n.*+(?:\ni=.*+)?").match

# Where address type and address stand, and our address to take their place.
_Changes = list[tuple[Span, str | None]]


def _any_of(names: list[str]) -> str:
    """A pattern for one of these sorted names that goes by their letters: re would try one name after the other."""
    branches = [
        letter and re.escape(letter) + _any_of([name[1:] for name in same])
        for letter, same in groupby(names, lambda name: name[:1])
    ]
    return f"(?:{'|'.join(reversed(branches))})"  # the longer name first


def _lines(names: set[str], further: str) -> re.Pattern[str]:
    """What finds the lines of these attributes, each with the LF in front; a colon or a blank ends a name.

    One pass through the text of a part in C takes the place of a decision per line.
    """
    listed = rf"{_any_of(sorted(names))}(?![^:\s])" if names else "(?!)"
    return re.compile(rf"\na=(?:{listed}{further}).*+")


_DTLS_LINES = [_lines({name}, "") for name in ("setup", "fingerprint", "tls-id")]


class _Edit(NamedTuple):
    """What happens to one section; ``endpoint_stays``: its address and its ports are the sender's own."""

    rtp: bool
    leaves_bundle: bool
    renamed: bool
    ice_stays: bool = False
    relays_stay: bool = True
    endpoint_stays: bool = False


@cache
def _removed_from_session(ice_stays: bool) -> re.Pattern[str]:
    return _lines(_RTP | _DTLS | _DIRECTIONS | (set() if ice_stays else _ICE), _BUNDLE_GROUP)


@cache
def _removed_from_section(edit: _Edit) -> re.Pattern[str]:
    names = _RTP | _DTLS | _DIRECTIONS if edit.rtp else set()
    names |= {"rtcp"} if edit.rtp and not edit.endpoint_stays else set()
    names |= {"mid"} if edit.leaves_bundle or edit.renamed else set()
    names |= {"bundle-only"} if edit.leaves_bundle else set()
    names |= set() if edit.ice_stays else _ICE
    return _lines(names, "" if edit.relays_stay else _RELAY_CANDIDATE)


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
        named = _CONNECTION(out[-1])
        inherited = None if named is None else named[1]
        for section, plan in zip(session.media, own, strict=True):
            out.append(_section(session, section, plan, how, address, inherited))
    return join(out, sdp.tail)


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
    ice_stays = any(plan.ice.keep for plan in plans)
    if session.media:
        changes: _Changes = []
        if "origin" in how.replace and session.origin is not None and not session.origin.is_null:
            changes.append((session.origin_span, address))
        inheriting = [pair for pair in zip(session.media, plans, strict=True) if pair[0].connection is None]
        if (inheriting or "session-connection" in how.replace) and not _keeps_endpoint(inheriting):
            changes += _connections(session, [plan for _, plan in inheriting], address)
        text = _readdressed(text, changes)
    text = _removed_from_session(ice_stays).sub("", text)
    return text + "\na=ice-lite\r" if any(plan.ice.credentials for plan in plans) else text


def _keeps_endpoint(inheriting: Sequence[tuple[MediaDescription, MediaPlan]]) -> bool:
    """Whether the address of the session is to stay for the sections that it holds for."""
    return any(plan.ice.keep and _endpoint_stays(section, plan) for section, plan in inheriting)


def _connections(part: Part, plans: Sequence[MediaPlan], address: str | None) -> _Changes:
    """What becomes of every c= line of a part: a second one would lead the media past us, beside a null one too."""
    if _keeps_null(part, plans):
        return [(span, None) for span in part.connections[1:]]
    return [(span, address) for span in part.connections]


def _keeps_null(part: Part, plans: Sequence[MediaPlan]) -> bool:
    """Whether a null address is to stay for the sections that it holds for: it says hold, not "I do not know yet"."""
    if part.connection is None or not part.connection.is_null:
        return False
    return any(plan.held for plan in plans) or all(plan.local is None for plan in plans)


def _edit(session: Session, section: MediaDescription, plan: MediaPlan) -> _Edit:
    rtp = section.media.protocol.upper() in PROFILES
    if not plan.ice.keep:
        return _Edit(rtp, session.is_bundled, plan.mid is not None)
    endpoint_stays = _endpoint_stays(section, plan)
    return _Edit(rtp, session.is_bundled, plan.mid is not None, True, plan.ice.keep_relays, endpoint_stays)


def _endpoint_stays(section: MediaDescription, plan: MediaPlan) -> bool:
    """Whether the recipient is to see the sender's own address; a bundle-only section has none to be seen."""
    return plan.ice.keep and not plan.ice.keep_relays and plan.local is not None and section.media.port != 0


def _section(
    session: Session,
    section: MediaDescription,
    plan: MediaPlan,
    how: Signalling,
    address: str | None,
    inherited: str | None,
) -> str:
    """The text of one section; ``inherited`` are address type and address that the session level now names."""
    edit = _edit(session, section, plan)
    text = section.text
    if section.connections and not edit.endpoint_stays:
        if plan.local is not None and how.media_address is None:
            address = plan.local.address
        text = _readdressed(text, _connections(section, [plan], address))
    elif inherited is not None and plan.local is not None and not (edit.endpoint_stays or plan.held):
        words = _words(how.media_address or plan.local.address)
        text = text if words == inherited else _connected(text, words)
    text = _removed_from_section(edit).sub("", _replanned(text, section, plan, edit))
    text += _rtp_lines(plan, how, edit) if edit.rtp else _opaque_lines(session, section)
    text += _ice_lines(plan.ice)
    return text if plan.mid is None else f"{text}\na=mid:{plan.mid}\r"


def _replanned(text: str, section: MediaDescription, plan: MediaPlan, edit: _Edit) -> str:
    """The text with our port and profile in its first line."""
    kind, port, pairs, protocol = section.media
    start = len("\nm= ") + len(kind)
    end = text.index(" ", start) + 1 + len(protocol)
    if edit.rtp and plan.protocol in PROFILES:
        protocol = plan.protocol
    if not edit.endpoint_stays:
        port, pairs = (0, 1) if plan.local is None else (plan.local.port, plan.pairs)
    return f"{text[:start]}{port}{f'/{pairs}' if pairs > 1 else ''} {protocol}{text[end:]}"


def _rtp_lines(plan: MediaPlan, how: Signalling, edit: _Edit) -> str:
    """The lines that end an RTP section, with the CR of their CR LF (sdp.md 6.2)."""
    if plan.local is None:
        return "\na=inactive\r"
    text = f"\na={plan.direction.attribute}\r"
    if plan.rtcp_port is not None and not edit.endpoint_stays:
        text += f"\na=rtcp:{plan.rtcp_port}\r"
    if plan.rtcp_mux:
        text += "\na=rtcp-mux\r"
    for line in plan.crypto:
        text += f"\na=crypto:{serialize_crypto(line, how.sdes.lifetime)}\r"
    if plan.setup is not None:
        text += f"\na=setup:{plan.setup}\r"
    if plan.fingerprint is not None:
        text += f"\na=fingerprint:{serialize_fingerprint(plan.fingerprint)}\r"
    return text if plan.tls_id is None else f"{text}\na=tls-id:{plan.tls_id}\r"


def _ice_lines(ice: IcePlan) -> str:
    """What the sender's agent, or ours, has to say more in any section (RFC 8839 5)."""
    text = ""
    if ice.credentials is not None:
        text = f"\na=ice-ufrag:{ice.credentials.ufrag}\r\na=ice-pwd:{ice.credentials.pwd}\r"
    for candidate in ice.candidates:
        text += f"\na=candidate:{serialize_candidate(candidate)}\r"
    return text


def _opaque_lines(session: Session, section: MediaDescription) -> str:
    """What a section that is not RTP has inherited from the session level, where it stands no more.

    TLS passes unseen (RFC 7345, RFC 8841), so that its certificates stay the sender's.
    """
    inherited = session.direction
    text = "" if inherited is None or section.direction is not None else f"\na={inherited.attribute}\r"
    if "TLS" in section.media.protocol.upper():
        for lines in _DTLS_LINES:
            text += "" if lines.search(section.text) else "".join(lines.findall(session.text))
    return text


def _connected(text: str, words: str) -> str:
    """The text of a section with a c= line of its own where RFC 8866 5 wants it: behind m= and i=."""
    at = _TITLE(text).end()  # type: ignore[union-attr]
    return f"{text[:at]}\nc=IN {words}\r{text[at:]}"


def _words(address: str) -> str:
    return f"IP6 {address}" if ":" in address else f"IP4 {address}"


def _readdressed(text: str, changes: _Changes) -> str:
    """The text with these address types and addresses replaced; None is the null address of the type there."""
    pieces, done = [], 0
    for (start, end), address in sorted(changes):
        if address is None:
            words = "IP6 ::" if text.startswith(("IP6", "ip6"), start) else "IP4 0.0.0.0"
        else:
            words = _words(address)
        pieces += [text[done:start], words]
        done = end
    return "".join([*pieces, text[done:]])
