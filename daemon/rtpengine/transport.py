"""Media sockets for the call engine: port pools and packet path behind :class:`~rtpengine.media.MediaTransport`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from zlib import crc32

from rtpengine import ProtocolError, ResourceError
from rtpengine.log import RateLimited
from rtpengine.media import IPV6, Endpoint, PortSet, SrtpKeys, StreamConfig, StreamState
from rtpengine.memory import SrtpMemory, StreamMemory
from rtpengine.offload import Offload
from rtpengine.packetpath import PacketPath
from rtpengine.ports import PortPool

log = logging.getLogger(__name__)


class PacketTransport:
    """Opens sockets from one port pool per address family and hands them to the packet path.

    ``advertised`` maps a family (4, 6) to the address that SDP names; ``now`` tells monotonic seconds.
    """

    def __init__(
        self,
        path: PacketPath | Offload,
        workers: int,
        pools: Mapping[int, PortPool],
        advertised: Mapping[int, str],
        now: Callable[[], float],
    ) -> None:
        self._path = path
        self._workers = workers
        self.pools = pools
        self._addresses = {family: pool.address for family, pool in pools.items()}
        self._advertised = advertised
        self._now = now
        self._shortages = RateLimited(log, now, burst=1)
        self.families = frozenset(pools)
        self.owners: dict[int, tuple[str, int]] = {}
        """Call-id and local port of each open stream."""
        self.inherited: dict[Endpoint, socket.socket] = {}
        """Sockets of a predecessor, by where they are bound: :meth:`reopen` takes them first."""
        self.told: Callable[[str, float, str, int], None] = lambda _call_id, _now, _event, _port: None
        """Is told what :meth:`note` is: call-id, time, event, port."""
        # Called for every stream of every call: bound once, they cost no further call.
        self.configure: Callable[[int, StreamConfig], None] = path.configure
        self.state: Callable[[int], StreamState] = path.state
        self.last_packet: Callable[[int], float] = path.last_packet
        self.protect: Callable[[int, int, SrtpKeys | None, SrtpKeys | None], None] = path.protect
        self.source: Callable[[int], Endpoint | None] = path.source
        self.send: Callable[[int, Endpoint, bytes], None] = path.send
        self.save: Callable[[int], StreamMemory] = path.save
        self.restore: Callable[[int, StreamMemory], None] = path.restore
        self.save_srtp: Callable[[int], tuple[SrtpMemory, ...]] = path.save_srtp

    def advertised(self, family: int) -> str:
        """The address that SDP names for our side."""
        return self._advertised[family]

    def validate(self, stream: int, source: Endpoint, *, nominated: bool) -> None:
        """Accept a source as the party's: it has proven so."""
        self._path.validate(stream, source, nominated=nominated)

    def restore_srtp(self, stream: int, contexts: tuple[SrtpMemory, ...], *, late: bool) -> None:
        """Go on from what keys have been used for in another process."""
        self._path.restore_srtp(stream, contexts, late=late)

    def note(self, stream: int, event: str) -> None:
        """Have it remembered that this has happened at a stream."""
        owner = self.owners.get(stream)
        if owner is not None:
            self.told(owner[0], self._now(), event, owner[1])

    def open(self, call_id: str, family: int, pairs: int) -> PortSet:
        """Open ``pairs`` port pairs; all streams of a call go to one worker, so they never wait for another."""
        port, sockets = self._take(self._pool(family), pairs)
        return self._opened(call_id, family, port, sockets, self._path.open_stream)

    def reopen(self, call_id: str, family: int, port: int, pairs: int) -> PortSet:
        """Open the pairs that another process had, with its sockets if they are here; nothing is read yet."""
        pool = self._pool(family)
        at = [Endpoint(self._addresses[family], port + i) for i in range(2 * pairs)]
        if all(endpoint in self.inherited for endpoint in at):
            pool.claim(port, pairs, self._now())
            sockets = [self.inherited.pop(endpoint) for endpoint in at]
        else:
            sockets = pool.take_at(port, pairs, self._now())
        return self._opened(call_id, family, port, sockets, self._path.adopt_stream)

    def resume(self, ports: PortSet) -> None:
        """Have sockets read."""
        for stream in ports.streams:
            self._path.resume(stream)

    def hold(self, ports: PortSet) -> list[int]:
        """Have sockets read no more, and return their descriptors, which stay the packet path's."""
        return [self._path.hold(stream) for stream in ports.streams]

    def withdraw(self, ports: PortSet) -> None:
        """Take streams back from the kernel, if they are there."""
        if isinstance(self._path, Offload):
            for stream in ports.streams:
                self._path.withdraw(stream)

    def _pool(self, family: int) -> PortPool:
        try:
            return self.pools[family]
        except KeyError:
            option = "--ip6" if family == IPV6 else "--ip"
            raise ProtocolError(f"Address family IP{family} is not configured ({option})") from None

    def _opened(
        self,
        call_id: str,
        family: int,
        port: int,
        sockets: list[socket.socket],
        opener: Callable[[int, socket.socket], int],
    ) -> PortSet:
        worker = crc32(call_id.encode(errors="surrogateescape")) % self._workers
        streams: list[int] = []
        try:
            for sock in sockets:
                streams.append(opener(worker, sock))
        except BaseException:
            for stream in streams:
                self._path.close_stream(stream)
            for sock in sockets:
                sock.close()
            self.pools[family].give_back(port, len(sockets) // 2, self._now())
            raise
        for index, stream in enumerate(streams):
            self.owners[stream] = (call_id, port + index)
        log.debug("opened ports %d to %d", port, port + len(streams) - 1)
        return PortSet(family, port, tuple(streams))

    def _take(self, pool: PortPool, pairs: int) -> tuple[int, list[socket.socket]]:
        try:
            return pool.take(pairs, self._now())
        except ResourceError as error:
            self._shortages.warning("%s: %s", str(error).lower(), error.detail)
            raise

    def close(self, ports: PortSet) -> None:
        """Close the streams and give the ports back."""
        for stream in ports.streams:
            self._path.close_stream(stream)
            del self.owners[stream]
        self.pools[ports.family].give_back(ports.port, len(ports.streams) // 2, self._now())
