"""Why a call sounds as it does: each stream with where it is forwarded, whom it hears, and what comes next.

Plain values only, and never a key. Endpoints are texts, ages and waits are seconds, ``at`` is UNIX time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from rtpengine.call import Call, Leg, Media
from rtpengine.media import Endpoint, StreamState
from rtpengine.party import stream_endpoint
from rtpengine.table import CallTable

RTCP_PATH = "RTCP always passes userspace"
UNDECIDED = "not looked at yet"
# The kernel is asked once a second what it has forwarded.
FRESH_S = 3.0


class _Place(NamedTuple):
    """One socket in the call: who sends to it, in which section, and its number in the port set, RTP even."""

    leg: Leg
    media: Media
    other: Media
    section: int
    number: int
    stream: int


def diagnose(call: Call, table: CallTable, userspace: str, now: float, wall: float) -> dict[str, Any]:
    """Everything about one call; ``userspace`` is why no stream can be in the kernel, "" where some can."""
    return {
        "call_id": call.call_id,
        "at": wall,
        "age_s": now - call.created,
        "signalled_s_ago": now - call.last_signal,
        **_end(call, table, now),
        "tags": [leg.tag for leg in call.legs],
        "streams": [_stream(call, place, table, userspace, now) for place in _places(call)],
        "events": [
            {"at": wall - (now - event.now), "port": event.port or None, "event": event.text}
            for event in call.history.events
        ],
        "events_dropped": call.history.dropped,
    }


def _end(call: Call, table: CallTable, now: float) -> dict[str, Any]:
    """When the call ends by itself, and why that will be."""
    expiry = table.expiry(call)
    limit = call.created + table.limits.longest_s
    if call.ends_at is not None and call.ends_at <= min(expiry, limit):
        return {"ends_in_s": call.ends_at - now, "ends_because": "it is deleted, with a delay"}
    if limit <= expiry:
        return {"ends_in_s": limit - now, "ends_because": "it lasts until then, the longest that a call may"}
    return {"ends_in_s": expiry - now, "ends_because": "no packet comes meanwhile"}


def _places(call: Call) -> Iterator[_Place]:
    """Every socket in use, once: forked dialogues share those that face the answerers."""
    seen: set[int] = set()
    for dialogue in call.dialogues:
        for number, section in enumerate(dialogue.sections, 1):
            for side in (0, 1):
                media, other = section.sides[side], section.sides[1 - side]
                ports = media.ports.current
                for index, stream in enumerate(ports.streams if ports is not None else ()):
                    if stream not in seen:
                        seen.add(stream)
                        yield _Place(dialogue.legs[side], media, other, number, index, stream)


def _stream(call: Call, place: _Place, table: CallTable, userspace: str, now: float) -> dict[str, Any]:
    ports = place.media.ports.current
    assert ports is not None
    state = call.transport.state(place.stream)
    path, reason = _path(state, place, userspace)
    silence_s = None if state.last_packet is None else now - state.last_packet
    return {
        "tag": place.leg.tag,
        "section": place.section,
        "type": _kind(place),
        "component": _component(place),
        "local": str(Endpoint(call.transport.advertised(ports.family), ports.port + place.number)),
        "path": path,
        "reason": reason,
        "state": _verdict(silence_s),
        "advertised": _text(stream_endpoint(place.media.party, place.number)),
        "learned": _text(state.peer),
        "confirmed": state.confirmed,
        "accepted": _text(call.transport.source(place.stream)),
        **_security(place),
        **_quality(state, place),
        "packets": state.packets,
        "bytes": state.bytes,
        "errors": state.errors,
        "drops": {reason: count for reason, count in state.drops.items() if count},
        "last_packet_s_ago": silence_s,
        "times_out_in_s": table.stream_expiry(call, place.media, place.other, place.stream) - now,
    }


def _path(state: StreamState, place: _Place, userspace: str) -> tuple[str, str]:
    """Where the socket's packets are forwarded, and why not in the kernel."""
    if state.in_kernel:
        return "kernel", ""
    if place.number % 2:
        return "userspace", RTCP_PATH
    return "userspace", userspace or state.reason or UNDECIDED


def _verdict(silence_s: float | None) -> str:
    if silence_s is None:
        return "never heard"
    return "heard" if silence_s <= FRESH_S else f"silent for {silence_s:.0f} s"


def _kind(place: _Place) -> str:
    offer = place.media.party.offer or place.other.party.offer
    return "" if offer is None else offer.kind


def _component(place: _Place) -> str:
    """RTP or RTCP, or both on one port; where the party multiplexes, the port above is only a fall-back."""
    if not place.media.party.is_rtp:
        return "data"
    if place.media.party.rtcp_mux:
        return "RTCP (spare)" if place.number % 2 else "RTP+RTCP"
    return "RTCP" if place.number % 2 else "RTP"


def _security(place: _Place) -> dict[str, Any]:
    peering = place.media.ports.peering
    if peering is None:
        return {}
    values = {
        "suite": peering.suite(place.stream),
        "dtls": peering.dtls_state(place.stream),
        "ice": peering.ice_state,
    }
    return {key: value for key, value in values.items() if value is not None}


def _quality(state: StreamState, place: _Place) -> dict[str, Any]:
    """How the RTP of the party arrives here; nothing before there is any. ``mos`` is None where nobody can tell."""
    quality = state.quality
    if not quality.expected:
        return {}
    track = place.media.ports.tracks.get(place.stream)
    mos = track.mos.value if track is not None and track.mos.samples else None
    return {"expected": quality.expected, "lost": quality.lost, "jitter_ms": quality.jitter_ms, "mos": mos}


def _text(endpoint: Endpoint | None) -> str | None:
    return None if endpoint is None else str(endpoint)
