"""What operators ask of a running daemon, as plain values that any front end can show.

No sockets and no clock: times are arguments, ``now`` in monotonic seconds and ``wall`` as UNIX time. What fails raises
ProtocolError with the reason for who has asked, and has changed nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from rtpengine import NOTICE, ProtocolError, __version__
from rtpengine.call import Call
from rtpengine.counts import CallCounts
from rtpengine.operator_commands import MAX_SECONDS, OPTIONS, SETTINGS
from rtpengine.report import CallReport
from rtpengine.table import CallTable
from rtpengine.why import diagnose

log = logging.getLogger(__name__)

Values = dict[str, Any]

TERMINATED = "force terminated"
# `top` reads the streams of so many calls at most, the newest ones.
TOP_CALLS = 500


class Interface(NamedTuple):
    """One local address of media, and its ports."""

    name: str
    address: str
    advertised: str
    port_min: int
    port_max: int
    ports: int
    used: int


class Traffic(NamedTuple):
    """Media since the start; ``kernel_packets`` and ``kernel_bytes`` are the part that the kernel has forwarded."""

    packets: int
    bytes: int
    errors: int
    kernel_packets: int
    kernel_bytes: int
    drops: Mapping[str, int]


@dataclass(frozen=True)
class Host:
    """The process around the calls, as far as operators ask for it.

    ``userspace`` is why no stream can be in the kernel, "" where some can. ``parameters`` are the options in force, by
    name, without anything secret. ``drain_limit_s`` is for drains that name none. ``replace`` starts a successor and
    returns its process id. ``redis`` tells how the storage is, None where no calls are stored.
    """

    started: float
    userspace: str
    interfaces: Callable[[], list[Interface]]
    traffic: Callable[[], Traffic]
    parameters: Callable[[], Values]
    drain_limit_s: Callable[[], float]
    level: Callable[[], int]
    set_level: Callable[[int], None]
    debug: Callable[[str, bool], None]
    is_debugged: Callable[[str], bool]
    replace: Callable[[], int]
    redis: Callable[[], str | None] = lambda: None


class Operations:
    """Questions and orders of an operator, on the calls of a table."""

    def __init__(self, table: CallTable, counts: CallCounts, host: Host) -> None:
        self.table = table
        self.counts = counts
        self.host = host

    # The daemon

    def status(self, now: float) -> Values:
        """How the daemon is, in short."""
        admission = self.table.admission
        traffic = self.host.traffic()
        return {
            "version": __version__,
            "uptime_s": now - self.host.started,
            "sessions": len(self.table),
            "max_sessions": admission.max_sessions,
            "refused_sessions": admission.refused,
            "draining": admission.draining,
            "drain_ends_in_s": None if admission.deadline is None else max(0.0, admission.deadline - now),
            "forwarding": "userspace" if self.host.userspace else "kernel",
            "forwarding_reason": self.host.userspace,
            "redis": self.host.redis(),
            "log_level": self.host.level(),
            "interfaces": self.interfaces(),
            "packets": traffic.packets,
            "errors": traffic.errors,
            "drops": {reason: count for reason, count in traffic.drops.items() if count},
        }

    def totals(self, now: float) -> Values:
        """What has been since the start."""
        traffic = self.host.traffic()
        return {
            "uptime_s": now - self.host.started,
            "sessions": len(self.table) + self.counts.total,
            "refused_sessions": self.table.admission.refused,
            "closed_sessions": dict(self.counts.closed),
            "average_duration_s": self.counts.average_s,
            "one_way_sessions": self.counts.one_way,
            "zero_packet_streams": self.counts.silent_streams,
            "packets": traffic.packets,
            "bytes": traffic.bytes,
            "errors": traffic.errors,
            "kernel_packets": traffic.kernel_packets,
            "kernel_bytes": traffic.kernel_bytes,
            "drops": dict(traffic.drops),
        }

    def interfaces(self) -> list[Values]:
        """Local addresses of media, each with its range of ports and how many of them are used."""
        return [{**one._asdict(), "free": one.ports - one.used} for one in self.host.interfaces()]

    def parameters(self) -> Values:
        """The options in force, those that were changed meanwhile included."""
        return {**self.host.parameters(), **{OPTIONS[name]: self.setting(name) for name in SETTINGS}}

    def statistics(self, now: float) -> Values:
        """All of the above in one."""
        return {"status": self.status(now), "totals": self.totals(now), "interfaces": self.interfaces()}

    # Settings

    def setting(self, name: str) -> int:
        """The value of one of SETTINGS."""
        limits = self.table.limits
        values = {
            "maxsessions": self.table.admission.max_sessions,
            "timeout": limits.timeout_s,
            "silenttimeout": limits.silent_timeout_s,
            "finaltimeout": limits.final_timeout_s,
        }
        return self.host.level() if name == "loglevel" else int(values[name])

    def set(self, name: str, value: str, now: float) -> int:
        """Change one of SETTINGS until the daemon ends, and return its value."""
        number = _within(value, *SETTINGS[name])
        limits = self.table.limits
        match name:
            case "maxsessions":
                self.table.admission.max_sessions = number
            case "timeout":
                self.table.set_limits(replace(limits, timeout_s=number), now)
            case "silenttimeout":
                self.table.set_limits(replace(limits, silent_timeout_s=number), now)
            case "finaltimeout":
                self.table.set_limits(replace(limits, final_timeout_s=number), now)
            case "loglevel":
                self.host.set_level(number)
        log.log(NOTICE, "%s is now %d", OPTIONS[name], number)
        return number

    def drain(self, seconds: str | None, now: float) -> Values:
        """Take no new calls, and end with the last one, after ``seconds`` (0: no limit) at the latest."""
        limit_s = self.host.drain_limit_s() if seconds is None else _within(seconds, 0, MAX_SECONDS)
        self.table.admission.drain(len(self.table), now, limit_s)
        return {"draining": True, "sessions": len(self.table), "drain_ends_in_s": limit_s or None}

    def undrain(self) -> Values:
        """Take new calls again."""
        self.table.admission.undrain()
        return {"draining": False, "sessions": len(self.table)}

    def replace(self) -> Values:
        """Have a new process take everything over without a gap; this one ends then."""
        return {"successor": self.host.replace(), "sessions": len(self.table)}

    # Calls

    def count(self) -> int:
        """How many calls there are."""
        return len(self.table)

    def sessions(self, now: float) -> list[Values]:
        """Each call in short, the oldest first."""
        return [self._summary(call, now) for call in self.table]

    def session(self, call_id: str, now: float, wall: float) -> Values:
        """One call with the statistics that `query` gives."""
        call = self.table.find(call_id)
        return {**self._summary(call, now), "statistics": CallReport(call, now, wall).query()}

    def why(self, call_id: str, now: float, wall: float) -> Values:
        """One call in full: what each stream does, and what has happened; see why.py."""
        call = self.table.find(call_id)
        found = diagnose(call, self.table, self.host.userspace, now, wall)
        return {**found, "debug": self.host.is_debugged(call_id)}

    def top(self, count: int, now: float) -> Values:
        """Totals to make rates of, and the busiest of the newest TOP_CALLS calls, at most ``count``."""
        calls = [self._traffic_of(call, now) for call in islice(reversed(list(self.table)), TOP_CALLS)]
        busiest = sorted(calls, key=lambda call: call["packets"] / max(call["age_s"], 1.0), reverse=True)
        return {"status": self.status(now), "totals": self.totals(now), "calls": busiest[:count]}

    def terminate(self, call_id: str, now: float) -> Values:
        """End one call."""
        self.table.end(self.table.find(call_id), TERMINATED, now)
        return {"terminated": 1}

    def terminate_all(self, now: float) -> Values:
        """End every call that there is."""
        calls = list(self.table)
        log.log(NOTICE, "all %d calls end, as the operator wants it", len(calls))
        for call in calls:
            self.table.end(call, TERMINATED, now)
        return {"terminated": len(calls)}

    def debug(self, call_id: str, *, on: bool) -> Values:
        """Log all about one call whatever the log level is, or do so no longer."""
        self.table.find(call_id)
        self.host.debug(call_id, on)
        return {"call_id": call_id, "debug": on}

    def _summary(self, call: Call, now: float) -> Values:
        return {
            "call_id": call.call_id,
            "age_s": now - call.created,
            "signalled_s_ago": now - call.last_signal,
            "tags": [leg.tag for leg in call.legs],
            "media": sum(ports.current is not None for ports in call.media_ports),
            "debug": self.host.is_debugged(call.call_id),
        }

    def _traffic_of(self, call: Call, now: float) -> Values:
        current = [ports.current for ports in call.media_ports if ports.current is not None]
        states = [call.transport.state(stream) for ports in current for stream in ports.streams[::2]]
        heard = [state.last_packet for state in states if state.last_packet is not None]
        return {
            **self._summary(call, now),
            "packets": sum(state.packets for state in states),
            "bytes": sum(state.bytes for state in states),
            "in_kernel": sum(state.in_kernel for state in states),
            "streams": len(states),
            "last_packet_s_ago": now - max(heard) if heard else None,
        }


def _within(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        raise ProtocolError(f"{text[:40]!a} is not a number of {low} to {high}")
    return int(text)
