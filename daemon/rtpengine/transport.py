"""Media sockets for the call engine: port pools and packet path behind :class:`~rtpengine.media.MediaTransport`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from zlib import crc32

from rtpengine import ProtocolError, ResourceError
from rtpengine.log import RateLimited
from rtpengine.media import IPV6, Endpoint, PortSet, SrtpKeys, StreamConfig, StreamState
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
        self._advertised = advertised
        self._now = now
        self._shortages = RateLimited(log, now, burst=1)
        self.families = frozenset(pools)
        self.owners: dict[int, tuple[str, int]] = {}
        """Call-id and local port of each open stream."""
        # Called for every stream of every call: bound once, they cost no further call.
        self.configure: Callable[[int, StreamConfig], None] = path.configure
        self.state: Callable[[int], StreamState] = path.state
        self.last_packet: Callable[[int], float] = path.last_packet
        self.protect: Callable[[int, int, SrtpKeys | None, SrtpKeys | None], None] = path.protect
        self.send: Callable[[int, Endpoint, bytes], None] = path.send

    def advertised(self, family: int) -> str:
        """The address that SDP names for our side."""
        return self._advertised[family]

    def validate(self, stream: int, source: Endpoint, *, nominated: bool) -> None:
        """Accept a source as the party's: it has proven so."""
        self._path.validate(stream, source, nominated=nominated)

    def open(self, call_id: str, family: int, pairs: int) -> PortSet:
        """Open ``pairs`` port pairs; all streams of a call go to one worker, so they never wait for another."""
        try:
            pool = self.pools[family]
        except KeyError:
            option = "--ip6" if family == IPV6 else "--ip"
            raise ProtocolError(f"Address family IP{family} is not configured ({option})") from None
        worker = crc32(call_id.encode(errors="surrogateescape")) % self._workers
        port, sockets = self._take(pool, pairs)
        streams: list[int] = []
        try:
            for sock in sockets:
                streams.append(self._path.open_stream(worker, sock))
        except BaseException:
            for stream in streams:
                self._path.close_stream(stream)
            for sock in sockets:
                sock.close()
            pool.give_back(port, pairs, self._now())
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
