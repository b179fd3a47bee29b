"""Looks at the streams of all calls every few seconds: what has become of them since, for the page and the metrics.

Each call has its turn INTERVAL_S after the last one, so that the work spreads over the ticks as calls do over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rtpengine.call import Call, Media
from rtpengine.media import Quality, Reports
from rtpengine.quality import INTERVAL_S, STATIC_NAMES, Codec, Far, Totals, Track, codec_of

Read = Callable[[int], tuple[Quality, Reports]]


class Sampler:
    """Takes samples of calls, and keeps the ``totals`` of all; ``read`` reads one stream of the packet path."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.totals = Totals()

    def tick(self, calls: Iterable[Call], counted: Quality, now: float) -> None:
        """Sample the calls whose time has come; ``counted`` are the packet path's totals."""
        self.totals.follow(counted)
        for call in calls:
            if now - (call.sampled or call.created) >= INTERVAL_S:
                call.sampled = now
                self._sample(call, now)

    def _sample(self, call: Call, now: float) -> None:
        known: dict[int, tuple[Quality, Reports]] = {}
        for _, media, other in call.medias():
            ports = media.ports.current
            if ports is None or not media.party.is_rtp:
                continue
            tracks = media.ports.tracks
            for index in range(0, len(ports.streams), 2):
                stream = ports.streams[index]
                track = tracks.get(stream)
                if track is None:
                    track = tracks[stream] = Track()
                # Forked dialogues share the ports that face the answerers.
                if track.at < now:
                    quality = self._look(stream, known)[0]
                    track.codec = _codec(media, other, quality.payload_type, track.codec)
                    ours, theirs = self._reports(media, index, known), self._reports(other, index, known)
                    far = _far(track, ours, theirs, quality.clock_rate)
                    self.totals.add(track.take(quality, far, now), far)

    def _reports(self, media: Media, index: int, known: dict[int, tuple[Quality, Reports]]) -> Reports:
        """What a party says over RTCP, which comes to the RTP socket of a pair or to the one behind it."""
        ports = media.ports.current
        if ports is None or index + 1 >= len(ports.streams):
            return _NO_REPORTS
        return self._look(ports.streams[index if media.party.rtcp_mux else index + 1], known)[1]

    def _look(self, stream: int, known: dict[int, tuple[Quality, Reports]]) -> tuple[Quality, Reports]:
        """Each stream is read once for a call, though both parties want to know of it."""
        found = known.get(stream)
        if found is None:
            found = known[stream] = self._read(stream)
        return found


_NO_REPORTS = Reports()
_NOTHING_FAR = Far()


def _far(track: Track, ours: Reports, theirs: Reports, clock_rate: int) -> Far:
    """What the other party says that it hears of this one, if that is news, and the way between the two."""
    rtt_ms = None if ours.rtt_ms is None or theirs.rtt_ms is None else ours.rtt_ms + theirs.rtt_ms
    if theirs.reports == track.reports:
        return _NOTHING_FAR if rtt_ms is None else Far(rtt_ms=rtt_ms)
    track.reports = theirs.reports
    jitter_ms = 1000 * theirs.jitter / clock_rate if clock_rate else None
    return Far(theirs.fraction_lost, jitter_ms, rtt_ms)


def _codec(media: Media, other: Media, payload_type: int | None, before: Codec | None) -> Codec | None:
    """What the party speaks, None if that is no speech; while it sends events it is still what it was."""
    offer = media.party.offer or other.party.offer
    if offer is None or offer.kind != "audio" or payload_type is None:
        return None
    for number, name, _ in media.ports.applied.formats if media.ports.applied is not None else ():
        if number == payload_type:
            return codec_of(name, before)
    return codec_of(STATIC_NAMES.get(payload_type, ""), before)
