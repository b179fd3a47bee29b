"""What Prometheus is told, under the names of operations.md 4; read from the parts when a scrape comes, never kept.

Every HELP ends with the unit, since the text format has no other place for it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from rtpengine import __version__
from rtpengine.call import Call
from rtpengine.counts import CallCounts, RequestCounts
from rtpengine.offload import Offload
from rtpengine.packetpath import PacketPath
from rtpengine.packetpath_structs import DROP_REASONS
from rtpengine.ports import PortPool
from rtpengine.quality import Totals
from rtpengine.table import CallTable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "rtpengine_"
# Media has one network interface per address family, which has no name of its own.
INTERFACE = "default"

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float]]


class Spec(NamedTuple):
    """One metric: gauge or counter, what it tells, and in which unit."""

    kind: str
    text: str
    unit: str


def _sampled(name: str, text: str, unit: str) -> Iterator[tuple[str, Spec]]:
    """Sum, sum of squares and number of what is looked at every few seconds, stream by stream."""
    yield f"{name}_total", Spec("counter", text, unit)
    yield f"{name}2_total", Spec("counter", "The same with each value squared, for the deviation", f"{unit} squared")
    yield f"{name}_samples_total", Spec("counter", "How many values that are", "samples")


METRICS = {
    "build_info": Spec("gauge", "Version of the daemon and of what it runs on, as labels", "always 1"),
    "uptime_seconds": Spec("gauge", "Time since the daemon has started", "seconds"),
    "draining": Spec("gauge", "Whether new calls are refused until the daemon ends", "0 or 1"),
    "forwarding_path": Spec("gauge", "Where established streams are forwarded, as far as they can be", "0 or 1"),
    "sessions": Spec("gauge", "Calls that there are", "calls"),
    "mediastreams": Spec("gauge", "Streams of RTP between two parties, by where they are forwarded", "streams"),
    "ports": Spec("gauge", "Ports that media may use", "ports"),
    "ports_used": Spec("gauge", "Ports that media uses", "ports"),
    "ports_free": Spec("gauge", "Ports that are left for media", "ports"),
    "call_duration_avg": Spec("gauge", "Length of a call that is over, on average", "seconds"),
    "call_duration_total": Spec("counter", "Length of all calls that are over, added up", "seconds"),
    "call_duration2_total": Spec("counter", "The same with each length squared, for the deviation", "seconds squared"),
    "sessions_total": Spec("counter", "Calls that have begun", "calls"),
    "closed_sessions_total": Spec("counter", "Calls that are over or were refused, by the reason", "calls"),
    "one_way_sessions_total": Spec("counter", "Calls that are over, and of which one side was never heard", "calls"),
    "zero_packet_streams_total": Spec("counter", "RTP sockets of calls that are over, without a packet", "sockets"),
    "interface_packets": Spec("gauge", "Packets relayed since the start", "packets"),
    "interface_bytes": Spec("gauge", "Payload relayed since the start", "bytes"),
    "interface_errors": Spec("gauge", "Packets not relayed, or not sent", "packets"),
    "packets_total": Spec("counter", "Packets relayed, by who has forwarded them", "packets"),
    "bytes_total": Spec("counter", "Payload of UDP relayed, by who has forwarded it", "bytes"),
    "packet_errors_total": Spec("counter", "Packets that could not be relayed, by who has tried", "packets"),
    "dropped_packets_total": Spec("counter", "Packets received and not relayed, by the reason", "packets"),
    "lost_events_total": Spec("counter", "Packets of STUN and DTLS lost on their way to call control", "packets"),
    "packets_lost": Spec("counter", "RTP packets missing before they reached us", "packets"),
    "rtp_duplicates": Spec("counter", "RTP packets that came twice", "packets"),
    "rtp_reordered": Spec("counter", "RTP packets that came behind later ones", "packets"),
    "rtp_skips": Spec("counter", "Gaps in sequence numbers of RTP, of any length", "gaps"),
    "rtp_seq_resets": Spec("counter", "Sequence numbers of RTP that went on elsewhere", "jumps"),
    **dict(_sampled("mos", "Mean opinion scores by the E-model, added up", "1 to 5")),
    **dict(_sampled("packetloss", "Loss of RTP measured here, added up", "percent")),
    **dict(_sampled("jitter_measured", "Jitter of RTP measured here, added up", "ms")),
    **dict(_sampled("jitter", "Jitter that parties report over RTCP, added up", "ms")),
    **dict(_sampled("rtt_e2e", "Round-trip time from end to end, by RTCP, added up", "ms")),
    "requests_total": Spec("counter", "Control requests answered, by client and command", "requests"),
    "request_seconds_total": Spec("counter", "Time that answering them took", "seconds"),
    "errors_total": Spec("counter", "Control requests answered with an error, by client", "requests"),
}  # fmt: skip

# prometheus_client ends the name of every counter in _total, where these have always had none.
_BARE_COUNTERS = ("packets_lost", "rtp_duplicates", "rtp_skips", "rtp_seq_resets", "rtp_reordered")
_ENDINGS = re.compile(rf"^(# (?:HELP|TYPE) {PREFIX}(?:{'|'.join(_BARE_COUNTERS)}))_total ", re.MULTILINE)


@dataclass(frozen=True)
class Parts:
    """The parts of the daemon that are measured; ``now`` tells monotonic seconds, ``started`` when we began."""

    path: PacketPath
    offload: Offload | None
    pools: Mapping[int, PortPool]
    table: CallTable
    calls: CallCounts
    requests: RequestCounts
    quality: Totals
    started: float
    now: Callable[[], float]


class Metrics:
    """A collector of prometheus_client, with a registry of its own."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def exposition(self) -> bytes:
        """The answer to a scrape, of type CONTENT_TYPE."""
        return _ENDINGS.sub(r"\1 ", generate_latest(self._registry).decode()).encode()

    def describe(self) -> list[Metric]:
        """Nothing: registering must not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, in the order of METRICS."""
        samples: dict[str, list[tuple[Labels, float]]] = {name: [] for name in METRICS}
        for name, labels, value in self._samples():
            samples[name].append((labels, value))
        for name, spec in METRICS.items():
            yield _metric(name, spec, samples[name])

    def _samples(self) -> Iterator[tuple[str, Labels, float]]:
        parts = self._parts
        yield "build_info", {"version": __version__, "python": platform.python_version()}, 1
        yield "uptime_seconds", {}, parts.now() - parts.started
        yield "draining", {}, parts.table.admission.draining
        for path in ("module", "userspace"):
            yield "forwarding_path", {"path": path}, (path == "module") is (parts.offload is not None)
        yield from self._of_calls()
        yield from self._of_ports()
        yield from self._of_packets()
        yield from self._of_quality()
        yield from self._of_requests()

    def _of_calls(self) -> Iterator[tuple[str, Labels, float]]:
        table, calls = self._parts.table, self._parts.calls
        yield "sessions", {"type": "own"}, len(table)
        yield "sessions_total", {}, len(table) + calls.total
        for reason, count in calls.closed.items():
            yield "closed_sessions_total", {"reason": reason}, count
        yield "closed_sessions_total", {"reason": "rejected"}, table.admission.refused
        yield "call_duration_avg", {}, calls.average_s
        yield "call_duration_total", {}, calls.seconds
        yield "call_duration2_total", {}, calls.seconds_squared
        yield "one_way_sessions_total", {}, calls.one_way
        yield "zero_packet_streams_total", {}, calls.silent_streams
        streams = dict.fromkeys(("userspace", "kernel", "mixed"), 0)
        for call in table:
            for kind in _paths(call, self._is_in_kernel):
                streams[kind] += 1
        for kind, count in streams.items():
            yield "mediastreams", {"type": kind}, count

    def _is_in_kernel(self, stream: int) -> bool:
        return self._parts.offload is not None and self._parts.offload.where(stream)[0]

    def _of_ports(self) -> Iterator[tuple[str, Labels, float]]:
        for pool in self._parts.pools.values():
            labels = {"name": INTERFACE, "address": pool.address}
            yield "ports", labels, 2 * (pool.used + pool.free)
            yield "ports_used", labels, 2 * pool.used
            yield "ports_free", labels, 2 * pool.free

    def _of_packets(self) -> Iterator[tuple[str, Labels, float]]:
        stats, offload = self._parts.path.stats(), self._parts.offload
        packets, octets, errors = offload.forwarded if offload is not None else (0, 0, 0)
        by_path = {
            "userspace": (stats.packets - packets, stats.bytes - octets, stats.errors - errors),
            "kernel": (packets, octets, errors),
        }
        for kind, values in by_path.items():
            for name, value in zip(("packets_total", "bytes_total", "packet_errors_total"), values, strict=True):
                yield name, {"type": kind}, value
        for reason in DROP_REASONS:
            yield "dropped_packets_total", {"reason": reason}, stats.drops.get(reason, 0)
        yield "lost_events_total", {}, stats.events_lost
        for way, by_family in (("ingress", stats.received), ("egress", stats.sent)):
            for family, pool in self._parts.pools.items():
                labels = {"name": INTERFACE, "address": pool.address, "direction": way}
                for what, value in by_family[family]._asdict().items():
                    yield f"interface_{what}", labels, value

    def _of_quality(self) -> Iterator[tuple[str, Labels, float]]:
        quality = self._parts.quality
        for name in _BARE_COUNTERS:
            yield name, {}, getattr(quality, name)
        for name, total in quality.sums.items():
            yield f"{name}_total", {}, total.total
            yield f"{name}2_total", {}, total.squares
            yield f"{name}_samples_total", {}, total.count

    def _of_requests(self) -> Iterator[tuple[str, Labels, float]]:
        requests = self._parts.requests
        for (client, command), count in requests.requests.items():
            labels = {"proxy": client, "request": command}
            yield "requests_total", labels, count
            yield "request_seconds_total", labels, requests.seconds[client, command]
        for client, count in requests.errors.items():
            yield "errors_total", {"proxy": client}, count


def _metric(name: str, spec: Spec, samples: Samples) -> Metric:
    full = PREFIX + name
    metric = Metric(full.removesuffix("_total") if spec.kind == "counter" else full, _help(spec), spec.kind)
    for labels, value in samples:
        metric.add_sample(full, dict(labels), value)
    return metric


def _help(spec: Spec) -> str:
    return f"{spec.text} ({spec.unit})"


def _paths(call: Call, is_in_kernel: Callable[[int], bool]) -> Iterator[str]:
    """For each stream of RTP between two parties: userspace, kernel, or mixed where only one direction is there."""
    for dialogue in call.dialogues:
        for section in dialogue.sections:
            first, second = (side.ports.current for side in section.sides)
            if first is None or second is None or section.rejected:
                continue
            for pair in zip(first.streams[::2], second.streams[::2], strict=False):
                directions = {is_in_kernel(stream) for stream in pair}
                yield "mixed" if len(directions) > 1 else "kernel" if True in directions else "userspace"
