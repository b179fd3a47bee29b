"""Moves established streams down into the kernel and takes them back: the packet path, with a kernel table below it.

Sockets and their configuration stay as they are, so whatever the kernel does not forward arrives here as before. A
stream goes down when signalling and learning have come to rest (``targets.py`` says which can), and comes back before
signalling changes anything about it or about whom it goes to. Each second what the kernel has done is added to what
the packet path knows: counters, signs of life, SRTP indices.
"""

from __future__ import annotations

import heapq
import logging
import math
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from rtpengine.kernel import Entry, KernelTable
from rtpengine.media import Endpoint, Progress, Sources, SrtpKeys, StreamConfig, StreamState
from rtpengine.memory import KernelMemory, StreamMemory
from rtpengine.packetpath import PacketPath, session_key
from rtpengine.targets import ELSEWHERE, PENDING, SETTLE_S, End, Target, target_for

log = logging.getLogger(__name__)

# A reason that may vanish is looked at again after a second, then after twice as long and so on, up to this.
MAX_WAIT_S = 16.0
# Confirmed sources are told by events, which may be lost: so often a stream in the kernel is looked at without one.
RECHECK_S = 30.0

_NOTHING = Entry(0, 0, 0, 0, 0, {}, Sources(), Sources())


@dataclass(slots=True, eq=False)
class _Stream:
    """One socket. ``feeders`` are the streams whose RTP leaves from it.

    With ``target`` the kernel forwards what it receives, and ``told`` is how much of that the packet path knows.
    ``growth`` is how many bytes a packet gains there: the kernel counts what arrives, the packet path what is sent.
    After packets from elsewhere it rests in userspace, longer if that happens again.
    """

    local: Endpoint
    config: StreamConfig | None = None
    receive: SrtpKeys | None = None
    send: SrtpKeys | None = None
    changed: float = 0.0
    feeders: set[int] = field(default_factory=set)
    target: Target | None = None
    told: Entry = _NOTHING
    growth: int = 0
    reason: str = ""
    due: float | None = None
    wait_s: float = 1.0
    rest_s: float = SETTLE_S
    rests_until: float = -math.inf


class Offload:
    """What a PacketPath offers to the transport, with the same streams in a kernel table where they can be.

    ``tos`` is what media is sent with; ``now`` tells monotonic seconds.
    ``context`` gives what is logged about a stream its call-id; ``note`` is told what becomes of a stream.
    """

    def __init__(self, path: PacketPath, table: KernelTable, tos: int, now: Callable[[], float]) -> None:
        self._path = path
        self._table = table
        self._tos = tos
        self._now = now
        self.note: Callable[[int, str], None] = lambda _stream, _event: None
        self.context: Callable[[int], AbstractContextManager[None]] = lambda _stream: nullcontext()
        self._streams: dict[int, _Stream] = {}
        self._in_kernel: dict[tuple[int, int], int] = {}
        """Streams by family and local port."""
        self.forwarded = (0, 0, 0)
        """Packets and bytes that the kernel has forwarded since we began, and packets that it could not send."""
        self._due: list[tuple[float, int]] = []
        # What the kernel has no part in.
        self.last_packet = path.last_packet
        self.send = path.send
        self.validate = path.validate
        self.save_srtp = path.save_srtp
        self.restore_srtp = path.restore_srtp
        self.hold = path.hold
        self.source = path.source

    # What signalling does: as the methods of PacketPath

    def open_stream(self, worker: int, sock: socket.socket) -> int:
        """Hand over a bound UDP socket, and return the stream's id."""
        local = Endpoint(*sock.getsockname()[:2])
        stream = self._path.open_stream(worker, sock)
        self._streams[stream] = _Stream(local)
        return stream

    def adopt_stream(self, worker: int, sock: socket.socket) -> int:
        """As :meth:`open_stream`, but nothing is read before :meth:`resume`."""
        local = Endpoint(*sock.getsockname()[:2])
        stream = self._path.adopt_stream(worker, sock)
        self._streams[stream] = _Stream(local)
        return stream

    def configure(self, stream: int, config: StreamConfig) -> None:
        """Bring a stream in line with ``config``; one that this changes comes back from the kernel first."""
        known = self._streams[stream]
        if known.config != config:
            self._take_back_around(stream, known)
        self._path.configure(stream, config)
        if known.config != config:
            for sink in self._sink(known):
                sink.feeders.discard(stream)
            known.config = config
            for sink in self._sink(known):
                sink.feeders.add(stream)
            self._changed(stream, known)

    def protect(self, stream: int, scope: int, receive: SrtpKeys | None, send: SrtpKeys | None) -> None:
        """Give a secure stream its keys; with other keys than before it comes back from the kernel first."""
        known = self._streams[stream]
        other = (known.receive, known.send) != (receive, send)
        if other:
            self._take_back_around(stream, known)
        self._path.protect(stream, scope, receive, send)
        if other:
            known.receive, known.send = receive, send
            self._changed(stream, known)

    def close_stream(self, stream: int) -> None:
        """Close a socket; nobody waits for the packets that are still on their way through the kernel."""
        known = self._streams[stream]
        for feeder in known.feeders | {stream}:
            self._remove(feeder, self._streams[feeder], final=True)
            self._look_at(feeder, self._now())
        for sink in self._sink(known):
            sink.feeders.discard(stream)
        del self._streams[stream]
        self._path.close_stream(stream)

    def state(self, stream: int) -> StreamState:
        """Read a stream, up to date and with where it is forwarded."""
        known = self._streams[stream]
        if known.target is not None:
            self._read(stream, known)
        return self._path.state(stream)._replace(in_kernel=known.target is not None, reason=known.reason)

    def where(self, stream: int) -> tuple[bool, str]:
        """Whether the kernel forwards the RTP of a stream, and if not, why, "" while that is not known."""
        known = self._streams[stream]
        return known.target is not None, known.reason

    def _sink(self, known: _Stream) -> list[_Stream]:
        """Where its RTP leaves from: one stream or none."""
        sink = None if known.config is None else self._streams.get(known.config.rtp_sink)
        return [] if sink is None else [sink]

    def _take_back_around(self, stream: int, known: _Stream) -> None:
        for concerned in {stream, *known.feeders}:
            self._remove(concerned, self._streams[concerned], final=False)

    def _changed(self, stream: int, known: _Stream) -> None:
        known.changed = self._now()
        known.rests_until = -math.inf
        for concerned in {stream, *known.feeders}:
            self._look_at(concerned, known.changed + SETTLE_S)

    # What outlives the process

    def save(self, stream: int) -> StreamMemory:
        """What a stream has learned and counted, with what the kernel has done; that includes its SRTP indices."""
        known = self._streams[stream]
        if known.target is None:
            return self._path.save(stream)
        self._read(stream, known)
        told = known.told
        kernel = KernelMemory(told.packets, told.bytes, told.drops, told.quality)
        return self._path.save(stream)._replace(kernel=kernel)

    def restore(self, stream: int, memory: StreamMemory) -> None:
        """Go on from what another process has saved of a stream."""
        self._path.restore(stream, memory)
        if memory.kernel is not None:
            packets, octets, drops, quality = memory.kernel
            told = _NOTHING._replace(packets=packets, bytes=octets, drops=drops, quality=quality)
            self._streams[stream].told = told

    def resume(self, stream: int) -> None:
        """Have a socket read, and keep what the kernel has gone on forwarding for it meanwhile."""
        known = self._streams[stream]
        entry = self._table.entry(known.local)
        if entry is not None:
            self._adopt(stream, known, entry)
        self._path.resume(stream)

    def _adopt(self, stream: int, known: _Stream, entry: Entry) -> None:
        """Take over the target that a predecessor has left, or remove it if the kernel should not have it now."""
        if entry.packets < known.told.packets:  # it is not the one of that time
            known.told = _NOTHING
        now = self._now()
        with self.context(stream):
            verdict = self._verdict(known, stream, now + SETTLE_S)
            known.growth = verdict.growth if isinstance(verdict, Target) else 0
            self._fold(stream, known, entry)
            verdict = self._verdict(known, stream, now + SETTLE_S)
            if isinstance(verdict, str):
                _attempt(lambda: self._table.remove(known.local))
                self._look_at(stream, now)
                return
            known.target = verdict
            self._in_kernel[known.local.family, known.local.port] = stream
            self._path.offload(stream, True)
            self._update(stream, known, verdict)
            self._schedule(stream, now + RECHECK_S)

    def withdraw(self, stream: int) -> None:
        """Take a stream back from the kernel, for another process that has not got this table."""
        known = self._streams[stream]
        self._remove(stream, known, final=False)
        self._look_at(stream, self._now() + SETTLE_S)

    def settle(self) -> int:
        """Remove the targets of a predecessor that no stream has taken over; return how many there were.

        To be called when that one changes the table no more.
        """
        try:
            return self._table.clear(self._in_kernel)
        except OSError as error:
            log.warning("the kernel does not forget all streams of another daemon: %s", error.strerror)
            return 0

    # What happens by itself

    def source_confirmed(self, stream: int, now: float) -> None:
        """A stream has found out where its party sends from, or that it does so from elsewhere now."""
        known = self._streams[stream]
        for concerned in {stream, *known.feeders}:
            other = self._streams[concerned]
            if other.target is not None:
                self._consider(concerned, other, now)
            else:
                settled = max(known.changed, other.changed) + SETTLE_S
                self._look_at(concerned, max(now, settled, other.rests_until))

    def heard_elsewhere(self, stream: int, now: float) -> None:
        """Take a stream back: only here can packets from another source be told from copies of those that have passed.

        It rests here for as long as after signalling, and up to MAX_WAIT_S if that happens again soon.
        """
        known = self._streams[stream]
        if known.target is None:
            return
        again = now < known.rests_until + RECHECK_S
        known.rest_s = min(2 * known.rest_s, MAX_WAIT_S) if again else SETTLE_S
        known.rests_until = now + known.rest_s
        self._remove(stream, known, final=False)
        known.reason = ELSEWHERE
        self._look_at(stream, known.rests_until)

    def tick(self, now: float) -> None:
        """Once a second: take over what the kernel has done, and look at the streams whose time has come."""
        for entry in self._table.entries():
            stream = self._in_kernel.get((entry.family, entry.port))
            # What it hands up may be of a new SSRC.
            if stream is not None and self._fold(stream, self._streams[stream], entry):
                self._consider(stream, self._streams[stream], now)
        while self._due and self._due[0][0] <= now:
            due, stream = heapq.heappop(self._due)
            known = self._streams.get(stream)
            if known is not None and known.due == due:
                known.due = None
                self._consider(stream, known, now)

    def close(self) -> None:
        """Give the table up; the kernel goes on forwarding what is in it."""
        self._table.close()

    def _look_at(self, stream: int, when: float) -> None:
        self._streams[stream].wait_s = 1.0
        self._schedule(stream, when)

    def _schedule(self, stream: int, when: float) -> None:
        self._streams[stream].due = when
        heapq.heappush(self._due, (when, stream))

    # Down and back

    def _consider(self, stream: int, known: _Stream, now: float) -> None:
        """Bring the kernel in line with what the packet path knows of a stream."""
        if known.config is None or known.config.rtcp_only:
            return
        with self.context(stream):
            verdict = self._verdict(known, stream, now)
            if isinstance(verdict, str):
                self._remove(stream, known, final=False)
                self._stay(stream, known, verdict, now)
            elif known.target is None:
                self._add(stream, known, verdict, now)
            else:
                if (verdict.fixed, verdict.ssrcs) != (known.target.fixed, known.target.ssrcs):
                    self._update(stream, known, verdict)
                self._schedule(stream, now + RECHECK_S)

    def _verdict(self, known: _Stream, stream: int, now: float) -> Target | str:
        assert known.config is not None
        if now < known.rests_until:
            return ELSEWHERE
        here = self._end(stream, known, known.config)
        there = [
            self._end(known.config.rtp_sink, sink, sink.config) for sink in self._sink(known) if sink.config is not None
        ]
        return target_for(here, there[0] if there else None, self._tos, session_key, now)

    def _end(self, stream: int, known: _Stream, config: StreamConfig) -> End:
        state = self._path.state(stream)
        received, sent = self._path.sources(stream) if config.secure else (Sources(), Sources())
        return End(
            local=known.local,
            config=config,
            receive=known.receive,
            send=known.send,
            source=self._path.source(stream),
            peer=state.peer,
            confirmed=state.confirmed,
            received=received,
            sent=sent,
            changed=known.changed,
        )

    def _add(self, stream: int, known: _Stream, target: Target, now: float) -> None:
        self._path.offload(stream, True)
        try:
            self._replace(target)
        except OSError as error:
            self._path.offload(stream, False)
            self._stay(stream, known, f"the kernel refuses it: {error.strerror}", now)
            return
        known.target, known.told, known.growth, known.reason = target, _NOTHING, target.growth, ""
        self._in_kernel[known.local.family, known.local.port] = stream
        log.debug("in the kernel, from %s to %s", target.expect, target.destination)
        self.note(stream, f"handed to the kernel, from {target.expect} to {target.destination}")
        self._schedule(stream, now + RECHECK_S)

    def _replace(self, target: Target) -> None:
        try:
            self._table.add(target)
        except FileExistsError:  # whoever has left it there: the port is ours
            self._table.remove(target.local)
            self._table.add(target)

    def _stay(self, stream: int, known: _Stream, reason: str, now: float) -> None:
        """Remember why a stream is in userspace, and say so if that is news."""
        if reason in PENDING:
            self._schedule(stream, now + known.wait_s)
            known.wait_s = min(2 * known.wait_s, MAX_WAIT_S)
        if reason != known.reason:
            level = logging.DEBUG if reason in PENDING else logging.INFO
            level = logging.WARNING if reason.startswith("the kernel refuses") else level
            log.log(level, "stays in userspace: %s", reason)
            if reason not in PENDING:
                self.note(stream, f"stays in userspace: {reason}")
        known.reason = reason

    def _update(self, stream: int, known: _Stream, target: Target) -> None:
        try:
            self._table.update(target)
        except OSError as error:
            self._remove(stream, known, final=False)
            self._stay(stream, known, f"the kernel refuses it: {error.strerror}", self._now())
            return
        known.target = target
        log.debug("still in the kernel, now from %s to %s", target.expect, target.destination)

    def _remove(self, stream: int, known: _Stream, *, final: bool) -> None:
        """Take a stream back from the kernel, if it is there, with all that has been done.

        ``final``: what is done while this happens does not matter any more. Else the kernel is stopped before it is
        asked, which takes as long as its slowest packet.
        """
        if known.target is None:
            return
        target, known.target, known.reason = known.target, None, ""
        del self._in_kernel[known.local.family, known.local.port]
        # What fails must not keep the rest from being done: the kernel has to let go before signalling goes on.
        with self.context(stream):
            if not final:
                _attempt(lambda: self._table.update(target, passing=True))
            _attempt(lambda: self._read(stream, known))
            _attempt(lambda: self._table.remove(known.local))
            self._path.offload(stream, False)
            log.debug("back in userspace")
        if not final:
            self.note(stream, "taken back from the kernel")

    def _read(self, stream: int, known: _Stream) -> None:
        entry = self._table.entry(known.local)
        if entry is not None:
            self._fold(stream, known, entry)

    def _fold(self, stream: int, known: _Stream, entry: Entry) -> bool:
        """Add what is new to what the packet path knows; return whether packets have been handed up."""
        told = known.told
        if entry == told:
            return False
        known.told = entry
        if (entry.packets, entry.drops) != (told.packets, told.drops):
            drops = (
                {name: count - told.drops.get(name, 0) for name, count in entry.drops.items()} if entry.drops else {}
            )
            packets = entry.packets - told.packets
            octets = entry.bytes - told.bytes + packets * known.growth
            quality = entry.quality.since(told.quality)
            self._path.sync(stream, Progress(packets, octets, drops, entry.decrypt, entry.encrypt, quality))
            so_far = self.forwarded
            self.forwarded = (so_far[0] + packets, so_far[1] + octets, so_far[2] + drops.get("send", 0))
        return entry.passed != told.passed


def _attempt(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        log.warning("the kernel does not give a stream back properly: %s", error.strerror)
