"""The C packet path as Python objects: streams are ids, failures are OSError.

Worker threads in C own the sockets from open_stream() on; nothing here runs per packet.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from struct import error as StructError
from types import MappingProxyType
from typing import Any, NamedTuple

from rtpengine._packetpath import ffi, lib
from rtpengine.media import (
    IPV4,
    IPV6,
    Endpoint,
    Progress,
    Quality,
    Reports,
    Sources,
    SrtpKeys,
    StreamConfig,
    StreamState,
)
from rtpengine.memory import SrtpMemory, StreamMemory
from rtpengine.packetpath_structs import (
    NS_PER_S,
    drops_of,
    endpoint_of,
    fill_context,
    pack_address,
    pack_config,
    pack_keys,
    pack_progress,
    pack_saved,
    read_heard,
    read_saved,
    read_state,
    sources_of,
    srtp_of,
)

DEFAULT_PAUSE_US: int = lib.PP_DEFAULT_PAUSE_US
MAX_PAUSE_US: int = lib.PP_MAX_PAUSE_US
MAX_WORKERS: int = lib.PP_MAX_WORKERS

_EVENTS_AT_ONCE = 64


class SourceConfirmed(NamedTuple):
    """A stream has finished learning, or goes on from another source; ``pp_stream_state`` has the rest."""

    stream: int
    source: Endpoint | None


class StunReceived(NamedTuple):
    """A STUN datagram (RFC 7983) for us; nothing in it has been checked but its cookie."""

    stream: int
    source: Endpoint
    data: bytes


class DtlsReceived(NamedTuple):
    """A DTLS datagram for us, from a source that may speak it on that stream."""

    stream: int
    source: Endpoint
    data: bytes


class IndexMoved(NamedTuple):
    """An SRTP index of a stream has come far, so that what was saved of it should be saved again."""

    stream: int


class HeardElsewhere(NamedTuple):
    """A packet from ``source`` that cannot be judged before the stream comes back: :meth:`PacketPath.offload`."""

    stream: int
    source: Endpoint | None


Event = SourceConfirmed | StunReceived | DtlsReceived | IndexMoved | HeardElsewhere


class Traffic(NamedTuple):
    """Payload of UDP one way through the sockets of one family; errors are not among the packets."""

    packets: int = 0
    bytes: int = 0
    errors: int = 0


class PacketPathStats(NamedTuple):
    """Totals since the start, of closed streams too; ``streams`` counts the open ones.

    ``received`` and ``sent`` are by family (4, 6): what was accepted from parties, and what went to them.
    What is in ``quality`` may go back a little, since what comes late is not lost; it has neither expected nor jitter.
    """

    packets: int
    bytes: int
    errors: int
    drops: dict[str, int]
    events_lost: int
    wakeups: int
    streams: int
    quality: Quality = Quality()
    received: Mapping[int, Traffic] = MappingProxyType({})
    sent: Mapping[int, Traffic] = MappingProxyType({})


def _by_family(pair: Any) -> dict[int, Traffic]:
    return {family: Traffic(one.packets, one.bytes, one.errors) for family, one in zip((IPV4, IPV6), pair, strict=True)}


def check(rc: int) -> int:
    """Return what a C call returned; raise OSError where that is a negative errno."""
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc


def _event(event: Any) -> Event:
    source = endpoint_of(event.source)
    if event.type == lib.PP_EVENT_CONFIRMED:
        return SourceConfirmed(event.id, source)
    if event.type == lib.PP_EVENT_INDEX:
        return IndexMoved(event.id)
    if event.type == lib.PP_EVENT_ELSEWHERE:
        return HeardElsewhere(event.id, source)
    assert source is not None
    data = bytes(ffi.buffer(event.data, event.len))
    return (StunReceived if event.type == lib.PP_EVENT_STUN else DtlsReceived)(event.id, source, data)


def session_key(keys: SrtpKeys, label: int, length: int) -> bytes:
    """Derive a session key (RFC 3711 4.3.1: 0 is the cipher's, 1 the authentication's, 2 the salt).

    Raise ValueError for keys that do not fit their suite, OSError (EIO) if libcrypto fails.
    """
    master, out = ffi.new("struct srtp_keys *"), ffi.new("uint8_t[]", length)
    buffer = ffi.buffer(master)
    try:
        pack_keys(buffer, keys)
        if lib.srtp_derive(master, label, out, length) < 0:
            raise OSError(errno.EIO, "libcrypto derives no key")
        return bytes(ffi.buffer(out))
    finally:
        buffer[:] = bytes(len(buffer))


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
        self._config_bytes = ffi.buffer(self._config)
        self._state = ffi.new("struct pp_state *")
        self._state_bytes = ffi.buffer(self._state)
        self._events = ffi.new("struct pp_event[]", _EVENTS_AT_ONCE)
        self._address = ffi.new("struct pp_address *")
        self._address_bytes = ffi.buffer(self._address)
        self._progress = ffi.new("struct pp_progress *")
        self._progress_bytes = ffi.buffer(self._progress)
        self._keys = ffi.new("struct srtp_keys[2]")
        self._keys_bytes = ffi.buffer(self._keys)
        self._saved = ffi.new("struct pp_saved *")
        self._saved_bytes = ffi.buffer(self._saved)
        self._context = ffi.new("struct pp_saved_context *")

    def open_stream(self, worker: int, sock: socket.socket) -> int:
        """Hand a bound UDP socket over to a worker (modulo their number); return the stream's id.

        The socket is closed if that fails, with OSError.
        """
        return self._adopted(lib.pp_stream_open(self._pp, worker, sock.fileno()), sock)

    def adopt_stream(self, worker: int, sock: socket.socket) -> int:
        """As :meth:`open_stream`, but nothing is read before :meth:`resume`; what arrives waits in the socket."""
        return self._adopted(lib.pp_stream_adopt(self._pp, worker, sock.fileno()), sock)

    def _adopted(self, stream: int, sock: socket.socket) -> int:
        if stream < 0:
            sock.close()
        else:
            sock.detach()
        return check(stream)

    def configure(self, stream: int, config: StreamConfig) -> None:
        """Bring a stream in line with ``config``; doing it twice changes nothing.

        Raise OSError: ENOENT for a closed stream, EXDEV for a sink on another worker;
        ValueError for an address that is none, and for ``ufrag`` of more than 32 characters.
        """
        pack_config(self._config_bytes, config)
        check(lib.pp_stream_configure(self._pp, stream, self._config))

    def protect(self, stream: int, scope: int, receive: SrtpKeys | None, send: SrtpKeys | None) -> None:
        """Give a secure stream its keys: ``receive`` is what the party protects with, ``send`` what we do.

        Streams of one worker with equal ``scope`` (0 to 2^64 - 1), keys and direction share one context, whose
        indices go on until the last of them is closed. Doing it twice changes nothing.
        Raise OSError (ENOENT for a closed stream, ENOMEM), ValueError for keys that do not fit their suite.
        """
        pointers = []
        try:
            for i, keys in enumerate((receive, send)):
                pointers.append(ffi.NULL if keys is None else self._keys + i)
                if keys is not None:
                    pack_keys(self._keys_bytes, keys, i)
            check(lib.pp_stream_protect(self._pp, stream, scope, *pointers))
        finally:
            self._keys_bytes[:] = bytes(len(self._keys_bytes))

    def validate(self, stream: int, source: Endpoint, *, nominated: bool) -> None:
        """Accept ``source`` as the party's, which has proven so by ICE or DTLS; ``nominated``: send there from now on.

        Without nomination that is so only while no other is nominated. A nomination counts as a packet heard.
        Raise OSError: ENOENT for a closed stream.
        """
        pack_address(self._address_bytes, source)
        check(lib.pp_stream_validate(self._pp, stream, self._address, nominated))

    def send(self, stream: int, to: Endpoint, data: bytes) -> None:
        """Send one datagram from the stream's socket; what the system refuses is lost, an error of the stream.

        Raise OSError: ENOENT for a closed stream.
        """
        pack_address(self._address_bytes, to)
        check(lib.pp_stream_send(self._pp, stream, self._address, data, len(data)))

    def close_stream(self, stream: int) -> None:
        """Close the socket at once; OSError (ENOENT) if that has been done. Read the state before."""
        check(lib.pp_stream_close(self._pp, stream))

    def state(self, stream: int) -> StreamState:
        """Read one stream; ``peer`` is where packets for the party go. OSError (ENOENT) if it is closed."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        return read_state(self._state_bytes)

    def heard(self, stream: int) -> tuple[Quality, Reports]:
        """Of the state of a stream what is looked at every few seconds, in half the time."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        return read_heard(self._state_bytes)

    def source(self, stream: int) -> Endpoint | None:
        """Whom the stream listens to, None before the first accepted packet."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        return endpoint_of(self._state.accept_from)

    def last_packet(self, stream: int) -> float:
        """When the stream last accepted a packet, in monotonic seconds; 0.0 before the first."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        last: int = self._state.counters.last_packet_ns
        return last / NS_PER_S

    def sources(self, stream: int) -> tuple[Sources, Sources]:
        """How far the SSRCs of a stream's SRTP have come: the party's, and those that we protect for it.

        Raise OSError: ENOENT for a closed stream.
        """
        received, sent = self._progress.received, self._progress.sent
        check(lib.pp_stream_sources(self._pp, stream, ffi.addressof(received), ffi.addressof(sent)))
        return sources_of(received), sources_of(sent)

    def sync(self, stream: int, progress: Progress) -> None:
        """Take over what the kernel has forwarded for a stream since the last time.

        Raise OSError: ENOENT for a closed stream, EINVAL for more SSRCs than fit.
        """
        pack_progress(self._progress_bytes, progress)
        check(lib.pp_stream_sync(self._pp, stream, self._progress))

    def offload(self, stream: int, offloaded: bool) -> None:
        """Tell whether the kernel forwards what the accepted source sends: from before it does until that is synced.

        Meanwhile what may be a copy of that, or would take that source's place, is dropped: it is an event.
        Raise OSError: ENOENT for a closed stream.
        """
        check(lib.pp_stream_offload(self._pp, stream, offloaded))

    def resume(self, stream: int) -> None:
        """Have a held socket read. Raise OSError: ENOENT for a closed stream."""
        check(lib.pp_stream_resume(self._pp, stream))

    def hold(self, stream: int) -> int:
        """Read a socket no more, and return its descriptor, which stays the packet path's. Raise OSError (ENOENT)."""
        return check(lib.pp_stream_hold(self._pp, stream))

    def save(self, stream: int) -> StreamMemory:
        """What a stream has learned and counted. Raise OSError: ENOENT for a closed stream."""
        check(lib.pp_stream_save(self._pp, stream, self._saved))
        return read_saved(self._saved_bytes)

    def restore(self, stream: int, memory: StreamMemory) -> None:
        """Go on from what another process has saved of a stream, which has been configured as it was there.

        Raise OSError (ENOENT; EINVAL for what no stream can have learned), ValueError for what is no address.
        """
        pack_saved(self._saved_bytes, memory)
        check(lib.pp_stream_restore(self._pp, stream, self._saved))

    def save_srtp(self, stream: int) -> tuple[SrtpMemory, ...]:
        """The SRTP contexts of a stream's scope, with those of former keys. Raise OSError: ENOENT."""
        contexts: list[SrtpMemory] = []
        try:
            while check(lib.pp_stream_save_context(self._pp, stream, len(contexts), self._context)):
                contexts.append(srtp_of(self._context))
        finally:
            ffi.buffer(self._context)[:] = bytes(ffi.sizeof("struct pp_saved_context"))
        return tuple(contexts)

    def restore_srtp(self, stream: int, contexts: Sequence[SrtpMemory], *, late: bool) -> None:
        """Go on from what another process has saved, for a stream that has got its keys.

        ``late``: that process may have used them after it had saved.
        Raise OSError (ENOENT, EINVAL), ValueError for keys that do not fit their suite and impossible numbers.
        """
        saved = self._context
        buffer = ffi.buffer(saved)
        for memory in contexts:
            try:
                fill_context(saved, memory)
                check(lib.pp_stream_restore_context(self._pp, stream, saved, late))
            except (StructError, OverflowError) as error:
                raise ValueError(str(error)) from None
            finally:
                buffer[:] = bytes(len(buffer))

    def events(self) -> list[Event]:
        """Take all events; they are hints, and lost where more than 256 KiB of them wait on one worker."""
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return []
        out: list[Event] = []
        count = _EVENTS_AT_ONCE
        while count == _EVENTS_AT_ONCE:
            count = check(lib.pp_events(self._pp, self._events, _EVENTS_AT_ONCE))
            out += map(_event, self._events[0:count])
        return out

    def stats(self) -> PacketPathStats:
        """Add up all workers."""
        stats = ffi.new("struct pp_stats *")
        check(lib.pp_stats(self._pp, stats))
        return PacketPathStats(
            packets=stats.packets,
            bytes=stats.bytes,
            errors=stats.errors,
            drops=drops_of(list(stats.drops)),
            events_lost=stats.events_lost,
            wakeups=stats.wakeups,
            streams=stats.streams,
            quality=Quality(
                lost=stats.totals.lost,
                duplicates=stats.totals.duplicates,
                reordered=stats.totals.reordered,
                skips=stats.totals.skips,
                resets=stats.totals.resets,
            ),
            received=_by_family(stats.received),
            sent=_by_family(stats.sent),
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
