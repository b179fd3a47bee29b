"""The C packet path as Python objects: streams are ids, failures are OSError.

Worker threads in C own the sockets from open_stream() on; nothing here runs per packet.
"""

from __future__ import annotations

import os
import socket
from typing import Any, NamedTuple

from rtpengine._packetpath import ffi, lib
from rtpengine.media import IPV4, IPV6, Endpoint, StreamConfig, StreamState

DEFAULT_PAUSE_US: int = lib.PP_DEFAULT_PAUSE_US
MAX_PAUSE_US: int = lib.PP_MAX_PAUSE_US
MAX_WORKERS: int = lib.PP_MAX_WORKERS

_NS_PER_S = 1_000_000_000
_EVENTS_AT_ONCE = 256
_NO_PAYLOAD_TYPE = 255

_DROP_REASONS = {
    lib.PP_DROP_SOURCE: "source",
    lib.PP_DROP_MALFORMED: "malformed",
    lib.PP_DROP_NO_SINK: "no sink",
    lib.PP_DROP_MUTED: "muted",
    lib.PP_DROP_FILTERED: "filtered",
    lib.PP_DROP_SEND: "send",
}


class SourceConfirmed(NamedTuple):
    """A stream has finished learning, or goes on from another source; ``pp_stream_state`` has the rest."""

    stream: int
    source: Endpoint | None


class PacketPathStats(NamedTuple):
    """Totals since the start, of closed streams too; ``streams`` counts the open ones."""

    packets: int
    bytes: int
    errors: int
    drops: dict[str, int]
    events_lost: int
    wakeups: int
    streams: int


def check(rc: int) -> int:
    """Return what a C call returned; raise OSError where that is a negative errno."""
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc


def _set_address(out: Any, text: str, port: int) -> None:
    """Fill a pp_address; ValueError for text that is no address literal."""
    family, length, af = (IPV6, 16, socket.AF_INET6) if ":" in text else (IPV4, 4, socket.AF_INET)
    try:
        packed = socket.inet_pton(af, text)
    except OSError:
        raise ValueError(f"not an IP address: {text!r}") from None
    ffi.memmove(out.address, packed, length)
    out.family = family
    out.port = port


def _endpoint(address: Any) -> Endpoint | None:
    if not address.family:
        return None
    af, length = (socket.AF_INET, 4) if address.family == IPV4 else (socket.AF_INET6, 16)
    return Endpoint(socket.inet_ntop(af, ffi.buffer(address.address, length)), address.port)


def _drops(counts: Any) -> dict[str, int]:
    """Only the reasons that have occurred."""
    return {name: counts[reason] for reason, name in _DROP_REASONS.items() if counts[reason]}


def _flags(config: StreamConfig) -> int:
    flags: int = (
        config.strict * lib.PP_F_STRICT
        | config.handover * lib.PP_F_HANDOVER
        | config.asymmetric * lib.PP_F_ASYMMETRIC
        | config.stranger_allowed * lib.PP_F_STRANGER
        | config.muted * lib.PP_F_MUTED
        | (not config.rtp) * lib.PP_F_OPAQUE
        | config.rtcp_only * lib.PP_F_RTCP_ONLY
        | config.rtcp_mux * lib.PP_F_RTCP_MUX
        | config.strip_feedback * lib.PP_F_STRIP_FEEDBACK
    )
    return flags


class PacketPath:
    """Worker threads that relay media; start them after the process has daemonized.

    ``fileno()`` is readable while events wait. A call's streams must share one ``worker``.
    Not for use from several threads at once: buffers are reused.
    """

    def __init__(self, workers: int, pause_us: int = DEFAULT_PAUSE_US) -> None:
        """Start ``workers`` threads that pause at most ``pause_us`` microseconds between polls, 0 for never.

        Raise OSError (EINVAL for a number out of range).
        """
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._pp = lib.pp_open(workers, self._wakeup, pause_us)
        if not self._pp:
            error = ffi.errno
            os.close(self._wakeup)
            raise OSError(error, os.strerror(error))
        self._config = ffi.new("struct pp_config *")
        self._peer = self._config.peer
        self._alias = self._config.alias
        self._state = ffi.new("struct pp_state *")
        self._events = ffi.new("struct pp_event[]", _EVENTS_AT_ONCE)

    def open_stream(self, worker: int, sock: socket.socket) -> int:
        """Hand a bound UDP socket over to a worker (modulo their number); return the stream's id.

        The socket is closed if that fails, with OSError.
        """
        stream = lib.pp_stream_open(self._pp, worker, sock.fileno())
        if stream < 0:
            sock.close()
        else:
            sock.detach()
        return check(stream)

    def configure(self, stream: int, config: StreamConfig) -> None:
        """Bring a stream in line with ``config``; doing it twice changes nothing.

        Raise OSError: ENOENT for a closed stream, EXDEV for a sink on another worker;
        ValueError for an address that is none.
        """
        out = self._config
        if config.peer is None:
            self._peer.family = self._peer.port = 0
        else:
            _set_address(self._peer, *config.peer)
        if config.alias is None:
            self._alias.family = 0
        else:
            _set_address(self._alias, config.alias, 0)
        out.rtp_sink = config.rtp_sink
        out.rtcp_sink = config.rtcp_sink
        out.learning = config.learning
        out.flags = _flags(config)
        check(lib.pp_stream_configure(self._pp, stream, out))

    def close_stream(self, stream: int) -> None:
        """Close the socket at once; OSError (ENOENT) if that has been done. Read the state before."""
        check(lib.pp_stream_close(self._pp, stream))

    def state(self, stream: int) -> StreamState:
        """Read one stream; ``peer`` is where packets for the party go. OSError (ENOENT) if it is closed."""
        state = self._state
        check(lib.pp_stream_state(self._pp, stream, state))
        counters = state.counters
        return StreamState(
            peer=_endpoint(state.send_to),
            confirmed=bool(state.confirmed),
            packets=counters.packets,
            bytes=counters.bytes,
            errors=counters.errors,
            last_packet=counters.last_packet_ns / _NS_PER_S if counters.last_packet_ns else None,
            payload_type=None if state.payload_type == _NO_PAYLOAD_TYPE else state.payload_type,
            drops=_drops(counters.drops),
        )

    def source(self, stream: int) -> Endpoint | None:
        """Whom the stream listens to, None before the first accepted packet."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        return _endpoint(self._state.accept_from)

    def last_packet(self, stream: int) -> float:
        """When the stream last accepted a packet, in monotonic seconds; 0.0 before the first."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        last: int = self._state.counters.last_packet_ns
        return last / _NS_PER_S

    def events(self) -> list[SourceConfirmed]:
        """Take all events; they are hints, and lost where more than a thousand wait on one worker."""
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return []
        out: list[SourceConfirmed] = []
        count = _EVENTS_AT_ONCE
        while count == _EVENTS_AT_ONCE:
            count = check(lib.pp_events(self._pp, self._events, _EVENTS_AT_ONCE))
            out += [SourceConfirmed(event.id, _endpoint(event.source)) for event in self._events[0:count]]
        return out

    def stats(self) -> PacketPathStats:
        """Add up all workers."""
        stats = ffi.new("struct pp_stats *")
        check(lib.pp_stats(self._pp, stats))
        return PacketPathStats(
            packets=stats.packets,
            bytes=stats.bytes,
            errors=stats.errors,
            drops=_drops(stats.drops),
            events_lost=stats.events_lost,
            wakeups=stats.wakeups,
            streams=stats.streams,
        )

    def fileno(self) -> int:
        """The eventfd, for ``loop.add_reader``."""
        return self._wakeup

    def close(self) -> None:
        """Stop the workers and close every socket; a second call does nothing."""
        if self._pp:
            lib.pp_close(self._pp)
            os.close(self._wakeup)
            self._pp = ffi.NULL
