"""A call as plain values: what `query` and `delete` answer, and the lines logged when a call ends.

Two shapes in one dictionary: that of the protocol's document (``streams`` and ``totals.input``/``output``), and
the later one that today's clients read (``tags`` and ``totals.RTP``/``RTCP``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from rtpengine.call import Call, Dialogue, Leg, Media
from rtpengine.media import IPV6, Endpoint, MediaTransport, Reports, StreamState
from rtpengine.party import Party, stream_endpoint
from rtpengine.quality import Sample, Track

# RFC 3551 6, in the names that the protocol has always used.
CODECS = {
    0: "G711u", 1: "1016", 2: "G721", 3: "GSM", 4: "G723", 5: "DVI4", 6: "DVI4", 7: "LPC", 8: "G711a", 9: "G722",
    10: "L16", 11: "L16", 14: "MPA", 15: "G728", 18: "G729", 25: "CelB", 26: "JPEG", 28: "nv", 31: "H261",
    32: "MPV", 33: "MP2T", 34: "H263",
}  # fmt: skip

Counters = dict[str, int]
NO_REPORTS = Reports()


class _Side(NamedTuple):
    """One party's side of an RTP/RTCP pair: who, its local ports and what they have seen."""

    leg: Leg
    media: Media
    port: int
    streams: tuple[int, int]
    states: tuple[StreamState, StreamState]
    advertised: tuple[Endpoint | None, Endpoint | None]

    @property
    def track(self) -> Track | None:
        """How good its RTP has been, None before the first sample."""
        return self.media.ports.tracks.get(self.streams[0])


class CallReport:
    """A snapshot of one call, read from the packet path once, at construction."""

    def __init__(self, call: Call, now: float, wall: float) -> None:
        self._call = call
        self._age = wall - now
        states: dict[int, StreamState] = {}
        self._pairs = [
            (dialogue, section, pair)
            for dialogue in call.dialogues
            for section, pair in _pairs(dialogue, call.transport, states)
        ]

    def query(self, from_tag: str = "", to_tag: str = "") -> dict[str, Any]:
        """The answer to `query` (control-ng.md 7), restricted to pairs between the tags that are given.

        With ``from_tag`` its side comes first in each pair.
        """
        pairs = list(self._oriented(from_tag, to_tag))
        inputs, outputs = _totals([first for first, _ in pairs]), _totals([second for _, second in pairs])
        return {
            "created": self._wall(self._call.created),
            "last_signal": self._wall(self._call.last_signal),
            "streams": [[_side_report(side) for side in pair] for pair in pairs],
            "tags": self._tags(),
            "SSRC": self._sources(),
            "totals": {
                "input": inputs,
                "output": outputs,
                "RTP": _sum([inputs["rtp"], outputs["rtp"]]),
                "RTCP": _sum([inputs["rtcp"], outputs["rtcp"]]),
            },
        }

    def lines(self, now: float) -> Iterator[str]:
        """Final statistics, one line per tag and per stream."""
        for leg in self._call.legs:
            partner = leg.active.partner(leg).tag if leg.active else ""
            minutes, seconds = divmod(int(now - leg.created), 60)
            yield f"tag '{leg.tag}', created {minutes}:{seconds:02} ago, in dialogue with '{partner or '(none)'}'"
            for index, side in self._sides_of(leg):
                for state, port, kind in zip(side.states, (side.port, side.port + 1), ("RTP", "RTCP"), strict=True):
                    peer = state.peer or "(unknown)"
                    yield (
                        f"media {index}, port {port} <> {peer}, {kind}: "
                        f"{state.packets} packets, {state.bytes} bytes, {state.errors} errors"
                        f"{_quality_line(state, side.track) if kind == 'RTP' else ''}"
                    )

    def _wall(self, monotonic: float) -> int:
        return int(monotonic + self._age)

    def _sources(self) -> dict[str, Any]:
        """By SSRC, what the later shape tells of the quality of speech."""
        sides = {side.streams: side for _, _, pair in self._pairs for side in pair}
        return {
            str(side.states[0].quality.ssrc): self._source(side.track)
            for side in sides.values()
            if side.track is not None and side.track.mos.samples
        }

    def _source(self, track: Track) -> dict[str, Any]:
        rtt_us = round(track.rtt.value * 1000)
        quality = track.counted
        average = {
            "MOS": round(track.mos.value * 10),
            "packet loss": round(100 * quality.lost / max(1, quality.expected)),
            "jitter": round(track.jitter.value),
            "round-trip time": rtt_us,
            "samples": track.mos.samples,
        }
        report: dict[str, Any] = {"average MOS": average}
        for name, sample in (("lowest MOS", track.worst), ("highest MOS", track.best)):
            if sample is not None:
                report[name] = {
                    **_sample_report(sample),
                    "round-trip time": rtt_us,
                    "reported at": self._wall(sample.at),
                }
        return report

    def _oriented(self, from_tag: str, to_tag: str) -> Iterator[tuple[_Side, _Side]]:
        for _, _, (first, second) in self._pairs:
            for one, other in ((first, second), (second, first)):
                if (not from_tag or one.leg.tag == from_tag) and (not to_tag or other.leg.tag == to_tag):
                    yield one, other
                    break

    def _sides_of(self, leg: Leg) -> Iterator[tuple[int, _Side]]:
        """The leg's sides, each socket once: forked dialogues share those that face the answerers."""
        seen = set()
        for dialogue, index, pair in self._pairs:
            if leg in dialogue.legs:
                side = pair[dialogue.side_of(leg)]
                if side.port not in seen:
                    seen.add(side.port)
                    yield index, side

    def _tags(self) -> dict[str, Any]:
        return {leg.tag: self._tag(leg) for leg in self._call.legs if leg.tag}

    def _tag(self, leg: Leg) -> dict[str, Any]:
        medias: dict[int, dict[str, Any]] = {}
        for index, side in self._sides_of(leg):
            offer, party = side.media.party.offer, side.media.party
            media = medias.setdefault(
                index,
                {
                    "index": index,
                    "type": offer.kind if offer else "",
                    "protocol": party.protocol if offer is None or party.is_rtp else offer.protocol,
                    "flags": _media_flags(party),
                    "streams": [],
                },
            )
            peering = side.media.ports.peering
            if peering is not None and peering.ice_state is not None:
                media["ICE"] = peering.ice_state
            media["streams"] += [self._stream(side, i) for i in (0, 1)]
        report: dict[str, Any] = {"tag": leg.tag, "created": self._wall(leg.created), "medias": list(medias.values())}
        if leg.active is not None:
            report["in dialogue with"] = leg.active.partner(leg).tag
        return report

    def _stream(self, side: _Side, component: int) -> dict[str, Any]:
        state = side.states[component]
        flags = ["RTP"] if component == 0 else ["RTCP"]
        if component == 0 and side.media.party.rtcp_mux:
            flags.append("RTCP")
        elif component == 1 and side.media.party.rtcp_mux:
            flags = ["fallback RTCP"]
        flags += ["filled"] * (side.advertised[component] is not None) + ["confirmed"] * state.confirmed
        flags += ["kernelized"] * state.in_kernel
        return {
            **_protection(side, component),
            **(_quality(state, side.track) if component == 0 and state.quality.expected else {}),
            **({"RTCP": _far_end(state.reports)} if state.reports != NO_REPORTS else {}),
            "local port": side.port + component,
            "endpoint": _endpoint_report(state.peer),
            "advertised endpoint": _endpoint_report(side.advertised[component]),
            "last packet": self._wall(state.last_packet) if state.last_packet else 0,
            "flags": flags,
            "stats": {**_counters(state), "drops": state.drops},
        }


def _quality(state: StreamState, track: Track | None) -> dict[str, Any]:
    """How a stream's RTP arrives; whole numbers, since bencode has no others."""
    expected, lost, duplicates, reordered, skips, resets, jitter_ms, ssrc, _, _ = state.quality
    quality: dict[str, Any] = {
        "expected": expected,
        "lost": lost,
        "duplicates": duplicates,
        "reordered": reordered,
        "skips": skips,
        "resets": resets,
        "jitter": round(jitter_ms * 1000),
    }
    if track is not None:
        quality["silent"] = int(track.silent)
        if track.mos.samples:
            quality["MOS"] = round(track.mos.value * 100)
    return {"SSRC": ssrc, "quality": quality}


def _far_end(reports: Reports) -> dict[str, int]:
    """What a party says over RTCP."""
    report = {"reports": reports.reports, "malformed": reports.malformed}
    if reports.reports:
        report |= {"SSRC": reports.ssrc, "lost": reports.lost, "jitter": reports.jitter}
        report["fraction lost"] = round(100 * reports.fraction_lost)
    if reports.rtt_ms is not None:
        report["round-trip time"] = round(1000 * reports.rtt_ms)
    return report


def _quality_line(state: StreamState, track: Track | None) -> str:
    """The same for the log, nothing where nothing came."""
    quality = state.quality
    if not quality.expected:
        return ""
    mos = f", MOS {track.mos.value:.2f}" if track is not None and track.mos.samples else ""
    return f", {quality.lost} of {quality.expected} lost, jitter {quality.jitter_ms:.1f} ms{mos}"


def _sample_report(sample: Sample) -> dict[str, Any]:
    return {
        "MOS": round((sample.mos or 0) * 10),
        "packet loss": round(100 * sample.loss),
        "jitter": round(sample.jitter_ms),
    }


def _media_flags(party: Party) -> list[str]:
    return (
        ["initialized"] * (party.offer is not None)
        + ["rtcp-mux"] * party.rtcp_mux
        + ["DTLS-SRTP"] * (party.keying.role != "")
        + ["SDES"] * (party.keying.send is not None)
        + ["ICE"] * party.reach.validates
    )


def _protection(side: _Side, component: int) -> dict[str, Any]:
    """The SRTP suite of what we send, and how far DTLS has got; nothing for a plain stream."""
    peering, stream = side.media.ports.peering, side.streams[component]
    if peering is None:
        return {}
    values = {"crypto suite": peering.suite(stream), "DTLS": peering.dtls_state(stream)}
    return {key: value for key, value in values.items() if value is not None}


def _pairs(
    dialogue: Dialogue, transport: MediaTransport, states: dict[int, StreamState]
) -> Iterator[tuple[int, tuple[_Side, _Side]]]:
    """The RTP/RTCP pairs of a dialogue with the number of their section, from 1."""
    for number, section in enumerate(dialogue.sections, 1):
        first, second = section.sides
        if first.ports.current is None or second.ports.current is None:
            continue
        for index in range(0, min(len(m.ports.current.streams) for m in section.sides if m.ports.current), 2):
            yield (
                number,
                (
                    _side(dialogue.legs[0], first, index, transport, states),
                    _side(dialogue.legs[1], second, index, transport, states),
                ),
            )


def _side(leg: Leg, media: Media, index: int, transport: MediaTransport, states: dict[int, StreamState]) -> _Side:
    ports = media.ports.current
    assert ports is not None
    rtp, rtcp = ports.streams[index : index + 2]
    for stream in (rtp, rtcp):
        if stream not in states:
            states[stream] = transport.state(stream)
    advertised = (stream_endpoint(media.party, index), stream_endpoint(media.party, index + 1))
    return _Side(leg, media, ports.port + index, (rtp, rtcp), (states[rtp], states[rtcp]), advertised)


def _side_report(side: _Side) -> dict[str, Any]:
    state = side.states[0]
    report: dict[str, Any] = {
        "tag": side.leg.tag,
        "status": _status(side),
        "stats": {
            kind: {
                "counters": _counters(side.states[i]),
                "peer address": _endpoint_report(side.states[i].peer),
                "advertised peer address": _endpoint_report(side.advertised[i]),
                "local port": side.port + i,
            }
            for i, kind in enumerate(("rtp", "rtcp"))
        },
    }
    if state.reason:
        report["userspace"] = state.reason
    if state.payload_type is not None:
        report["codec"] = CODECS.get(state.payload_type, "unknown")
    return report


def _status(side: _Side) -> str:
    if side.states[0].in_kernel:
        return "in kernel"
    if side.states[0].confirmed:
        return "confirmed peer address"
    return "unknown peer address" if side.advertised[0] is None else "known but unconfirmed peer address"


def _endpoint_report(endpoint: Endpoint | None) -> dict[str, Any]:
    if endpoint is None:
        return {"family": "IPv6", "address": "::", "port": 0}
    family = "IPv6" if endpoint.family == IPV6 else "IPv4"
    return {"family": family, "address": endpoint.address, "port": endpoint.port}


def _counters(state: StreamState) -> Counters:
    return {"packets": state.packets, "bytes": state.bytes, "errors": state.errors}


def _totals(sides: list[_Side]) -> dict[str, Counters]:
    unique = {side.streams: side.states for side in sides}.values()
    return {kind: _sum([_counters(states[i]) for states in unique]) for i, kind in enumerate(("rtp", "rtcp"))}


def _sum(counters: list[Counters]) -> Counters:
    packets = octets = errors = 0
    for one in counters:
        packets += one["packets"]
        octets += one["bytes"]
        errors += one["errors"]
    return {"packets": packets, "bytes": octets, "errors": errors}
