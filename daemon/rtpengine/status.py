"""What the status page shows: a line for each call, all there is to know about one, and the daemon's own figures.

Plain values, never a key. The work is bounded however many look, and however many calls there are: nothing is done
while nobody asks, everybody who asks within a second gets the same, a line is made anew only when its call has been
sampled or signalled since, and at most BUDGET lines at a time, the oldest first.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from typing import Any, NamedTuple

from rtpengine.call import Call, Leg, Media
from rtpengine.media import Endpoint
from rtpengine.party import stream_endpoint
from rtpengine.quality import INTERVAL_S, NOTHING, Sample, Track
from rtpengine.table import CallTable, media_expected

REFRESH_S = 1.0
# While there is more news than one step has shown: so a page fills quickly, and keeps up, although each step is short.
CATCH_UP_S = 0.1
BUDGET = 250
# So long after the last look everything is let go of.
IDLE_S = 10.0
# Pages that do not know the same get answers of their own, in one second so many; others begin anew.
MAX_ANSWERS = 8
# A page that was asleep for longer begins anew.
MAX_GONE = 20_000
# Samples in a line's plot: two minutes.
PLOTTED = 24
# Readings of the daemon's own figures: ten minutes.
READINGS = 120

ONE_WAY, SILENT, UNANSWERED, ON_HOLD = "one-way", "silent", "unanswered", "on hold"

Values = dict[str, Any]


class Where(NamedTuple):
    """Whether the kernel forwards the RTP of a stream, and why not, "" where that is not known."""

    in_kernel: bool
    reason: str


class Reading(NamedTuple):
    """Figures that only grow, at some monotonic time, and how many calls there were."""

    at: float
    calls: int
    packets: int
    bytes: int
    kernel_packets: int
    drops: int


class _Flow(NamedTuple):
    """One RTP socket: who sends to it, and how good that is; ``expected``: it should be getting something."""

    leg: Leg
    media: Media
    port: int
    stream: int
    track: Track | None
    expected: bool

    @property
    def latest(self) -> Sample | None:
        """What came in the last interval, None where that is not known yet."""
        latest = NOTHING if self.track is None else self.track.latest
        return None if latest is NOTHING else latest


class _Line:
    """What is shown of one call in the list, as JSON; ``version`` is when it was made, of what was known of the call.

    ``flows``, ``answered`` and ``fixed`` are the part that only signalling changes.
    """

    __slots__ = ("answered", "call", "fixed", "flows", "json", "key", "plot", "revision", "sampled", "version")

    def __init__(self, key: int, call: Call) -> None:
        self.key = key
        self.call = call
        self.fixed = self.json = ""
        self.flows: list[_Flow] = []
        self.answered = False
        self.plot: deque[str] = deque(maxlen=PLOTTED)  # as JSON
        self.version = 0
        self.sampled = float("-inf")
        self.revision = -1

    @property
    def is_current(self) -> bool:
        """Whether there is no news of the call."""
        return self.sampled == self.call.sampled and self.revision == self.call.revision


class StatusBoard:
    """The page's data. ``where`` tells where a stream is forwarded, ``figures`` the daemon's own values.

    ``why`` tells everything about one call. ``run`` names this daemon among those that a page may have seen before.
    """

    def __init__(
        self,
        table: CallTable,
        where: Callable[[int], Where],
        figures: Callable[[], Values],
        why: Callable[[Call, float, float], Values],
        run: str,
    ) -> None:
        self._table = table
        self._where = where
        self._figures = figures
        self._why = why
        self._run = run
        self._readings: deque[str] = deque(maxlen=READINGS)  # as JSON
        self._read_at = float("-inf")
        self._lines: dict[int, _Line] = {}
        self._by_call: dict[Call, _Line] = {}  # the one made longest ago first
        self._gone: deque[tuple[int, int]] = deque(maxlen=MAX_GONE)
        self._forgotten = 0
        self._next_key = 1
        self._version = 0
        self._refreshed = float("-inf")
        self._is_behind = False
        self._answers: dict[int, bytes] = {}
        self._details: dict[int, bytes] = {}
        self._histories: dict[int, tuple[float, str]] = {}

    def read(self, reading: Reading) -> None:
        """Remember the daemon's figures, of which one every few seconds is kept; to be called once a second."""
        if self._lines and reading.at - self._refreshed > IDLE_S:
            self._forget()
        if reading.at - self._read_at >= INTERVAL_S:
            self._read_at = reading.at
            self._readings.append(_json([round(reading.at, 1), *reading[1:]]))

    def overview(self, run: str, since: int, now: float, wall: float) -> bytes:
        """The list as JSON: what has changed since version ``since`` of ``run``, or all of it."""
        self._refresh(now)
        if run != self._run or not self._forgotten <= since <= self._version:
            since = 0
        if since not in self._answers and len(self._answers) >= MAX_ANSWERS:
            since = 0
        answer = self._answers.get(since)
        if answer is None:
            answer = self._answers[since] = self._overview(since, now, wall)
        return answer

    def detail(self, key: int, now: float, wall: float) -> bytes | None:
        """All about one call as JSON, None if it is gone."""
        self._refresh(now)
        line = self._lines.get(key)
        if line is None:
            return None
        detail = self._details.get(key)
        if detail is None:
            found = _json(self._why(line.call, now, wall))
            detail = self._details[key] = f'{found[:-1]}, "histories": {self._history(line)}}}'.encode()
        return detail

    def _history(self, line: _Line) -> str:
        """What has been of each stream, made up once per interval: page after page would be the same."""
        sampled, history = self._histories.get(line.key, (None, ""))
        if sampled != line.call.sampled:
            if len(self._histories) >= MAX_ANSWERS:
                self._histories.clear()
            history = _json(_histories(line.call))
            self._histories[line.key] = (line.call.sampled, history)
        return history

    def _overview(self, since: int, now: float, wall: float) -> bytes:
        head = _json(
            {
                "run": self._run,
                "version": self._version,
                "whole": since == 0,
                "behind": self._is_behind,
                "now": round(now, 1),
                "wall": wall,
                "daemon": self._figures(),
                "gone": [key for version, key in self._gone if version > since] if since else [],
            }
        )
        readings = ",".join(self._readings)
        lines = ",".join([line.json for line in self._lines.values() if line.version > since])
        return f'{head[:-1]}, "readings": [{readings}], "calls": [{lines}]}}'.encode()

    # Lines

    def _refresh(self, now: float) -> None:
        if now - self._refreshed < (CATCH_UP_S if self._is_behind else REFRESH_S):
            return
        self._refreshed = now
        self._version += 1
        self._answers.clear()
        self._details.clear()
        self._drop_ended()
        news = list(islice(self._news(), BUDGET + 1))
        self._is_behind = len(news) > BUDGET
        for call in news[:BUDGET]:
            line = self._by_call.pop(call, None) or self._add(call)
            self._by_call[call] = line
            self._make(line)

    def _news(self) -> Iterator[Call]:
        """The calls whose line is to be made: those without one, then those whose line is the oldest."""
        yield from (call for call in self._table if call not in self._by_call)
        yield from (call for call, line in self._by_call.items() if not line.is_current)

    def _forget(self) -> None:
        """Let go of all lines: nobody looks, and calls that have ended must not stay in memory."""
        self._lines.clear()
        self._by_call.clear()
        self._gone.clear()
        self._answers.clear()
        self._details.clear()
        self._histories.clear()
        self._forgotten = self._version + 1

    def _add(self, call: Call) -> _Line:
        line = self._lines[self._next_key] = _Line(self._next_key, call)
        self._next_key += 1
        return line

    def _drop_ended(self) -> None:
        living = set(self._table)
        for call in [call for call in self._by_call if call not in living]:
            key = self._by_call.pop(call).key
            del self._lines[key]
            if len(self._gone) == MAX_GONE:
                self._forgotten = self._gone[0][0]
            self._gone.append((self._version, key))

    def _make(self, line: _Line) -> None:
        call = line.call
        if line.revision != call.revision or any(flow.track is None for flow in line.flows):
            line.flows = list(_flows(call))
            line.answered = any(leg.tag for dialogue in call.dialogues for leg in dialogue.legs[1:])
            line.fixed = _json({"key": line.key, **_said(call, line.flows)})
        latest = [flow.latest for flow in line.flows]
        if 0 < call.sampled - line.sampled < 2 * INTERVAL_S:
            line.plot.append(_score(_lowest(latest)))
        elif call.sampled != line.sampled:
            tracks = [flow.track for flow in line.flows if flow.track is not None]
            line.plot = deque(map(_score, _lowest_of(tracks)), maxlen=PLOTTED)
        line.sampled, line.revision = call.sampled, call.revision
        line.version = self._version
        paths = [self._where(flow.stream) for flow in line.flows]
        reason = next((where.reason for where in paths if not where.in_kernel and where.reason), "")
        marks = _marks(line, latest)
        # Written out, as most of it is plain: there are many lines, and json takes twice as long.
        line.json = (
            f'{line.fixed[:-1]}, "path": "{_path(paths)}", "reason": {_json(reason)}, '
            f'"marks": {_json(marks) if marks else "[]"}, {_quality(line.flows, latest)}, '
            f'"plot": [{", ".join(line.plot)}]}}'
        )


# What json.dumps() does, without looking at its options each time.
_json = json.JSONEncoder().encode


def _said(call: Call, flows: list[_Flow]) -> Values:
    """What signalling has told of a call, and the ports that it was given."""
    return {
        "id": call.call_id,
        "created": round(call.created, 1),
        "parties": [[leg.tag, _address(call, leg)] for leg in call.legs if leg.tag],
        "media": _kinds(call),
        "ports": [flow.port for flow in flows],
    }


def _flows(call: Call) -> Iterator[_Flow]:
    """The RTP sockets of a call, each once."""
    seen: set[int] = set()
    for leg, media, other in call.medias():
        ports = media.ports.current
        if ports is None or not media.party.is_rtp:
            continue
        for index in range(0, len(ports.streams), 2):
            stream = ports.streams[index]
            if stream not in seen:
                seen.add(stream)
                track = media.ports.tracks.get(stream)
                yield _Flow(leg, media, ports.port + index, stream, track, media_expected(media, other))


def _address(call: Call, leg: Leg) -> str:
    """Where a party says that it is, "" before it has said so."""
    endpoints = (stream_endpoint(media.party, 0) for owner, media, _ in call.medias() if owner is leg)
    return next((str(endpoint) for endpoint in endpoints if endpoint is not None), "")


def _kinds(call: Call) -> list[str]:
    offers = (media.party.offer for _, media, _ in call.medias())
    return list(dict.fromkeys(offer.kind for offer in offers if offer is not None and not offer.rejected))


def _path(paths: list[Where]) -> str:
    """kernel, userspace, mixed, or "" where there is no RTP."""
    if not paths:
        return ""
    found = {where.in_kernel for where in paths}
    return "mixed" if len(found) > 1 else "kernel" if True in found else "userspace"


def _marks(line: _Line, latest: list[Sample | None]) -> list[str]:
    """What an operator should see of a call at a glance."""
    if not line.answered:
        return [UNANSWERED]
    expected = [flow.expected for flow in line.flows]
    if not any(expected):
        return [ON_HOLD] if line.flows else []
    heard = [sample is not None and sample.packets > 0 for sample in latest]
    missing = any(should and not is_there for should, is_there in zip(expected, heard, strict=True))
    if not missing or line.sampled <= line.call.last_signal:  # what was signalled since has had no time to be heard
        return []
    return [ONE_WAY if any(heard) else SILENT]


def _quality(flows: list[_Flow], latest: list[Sample | None]) -> str:
    """What has come in the last interval, and the worst of what streams have had, as members of a JSON object."""
    rate, heard = 0.0, []
    for flow, sample in zip(flows, latest, strict=True):
        if flow.track is not None and sample is not None and sample.packets:
            rate += sample.packets * (1 - sample.loss) / flow.track.seconds
            heard.append(sample)
    if not heard:
        return '"rate": 0, "loss": null, "jitter": null, "mos": null'
    loss, jitter_ms = max(sample.loss for sample in heard), max(sample.jitter_ms for sample in heard)
    return (
        f'"rate": {round(rate)}, "loss": {round(100 * loss, 2)}, '
        f'"jitter": {round(jitter_ms, 1)}, "mos": {_score(_lowest(heard))}'
    )


def _score(mos: float | None) -> str:
    return "null" if mos is None else str(mos)


def _lowest(samples: Iterable[Sample | None]) -> float | None:
    """The lowest MOS of all streams in one interval."""
    scores = [sample.mos for sample in samples if sample is not None and sample.mos is not None]
    return round(min(scores), 2) if scores else None


def _lowest_of(tracks: list[Track]) -> list[float | None]:
    """The same interval by interval, the latest last."""
    histories = [list(track.samples(PLOTTED))[::-1] for track in tracks]
    return [_lowest(column) for column in zip_longest(*histories)][::-1]


def _histories(call: Call) -> Values:
    """Per local endpoint, as ``why`` names it: monotonic seconds, packets, loss in percent, jitter in ms, MOS."""
    found = {}
    for flow in _flows(call):
        if flow.track is not None and flow.media.ports.current is not None:
            local = Endpoint(call.transport.advertised(flow.media.ports.current.family), flow.port)
            found[str(local)] = [
                [round(s.at, 1), s.packets, round(100 * s.loss, 2), round(s.jitter_ms, 1), s.mos]
                for s in flow.track.samples()
            ]
    return found
