"""Control connections of the mediaproxy protocol: one line in, the reply out, then the end of the connection.

A client reads until end of file, so the end belongs to the reply. It comes as a half-close (FIN) behind the last
byte; closing at once would reset the connection where the client has sent more, and cost it the reply (RFC 1122
4.2.2.13).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Protocol

from rtpengine import ProtocolError, openser
from rtpengine.control import bind_tcp
from rtpengine.counts import UNREADABLE, RequestCounts
from rtpengine.log import RateLimited, call_context
from rtpengine.recognize import name_protocol

log = logging.getLogger(__name__)

BACKLOG = 5
IDLE_S = 60.0
SWEEP_S = 1.0
MAX_UNREAD = 5 << 20
# Descriptors are for media. A proxy opens one connection per command, and an idle one ends after a minute.
MAX_CONNECTIONS = 1000


class Service(Protocol):
    """What executes the lines, and counts those that fail; openser_service.py's."""

    refused: int

    def answer(self, line: bytes, now: float, connections: list[str]) -> bytes:
        """Execute a line and return the reply, empty for none."""


class Connection(asyncio.Protocol):
    """One client. ``peer`` is its ``A.B.C.D:PORT``, ``answered`` tells that its one command is behind it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._received = self._sent = 0.0
        self._unread = 0
        self._lingers = False
        self.peer = ""
        self.answered = False

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = self._sent = self._server.monotonic()
        source = transport.get_extra_info("peername")
        # None: it has gone again already
        if source is None or not self._server.admit(self, source[0]):
            transport.abort()
            return
        self.peer = f"{source[0]}:{source[1]}"

    def data_received(self, data: bytes) -> None:
        self._received = self._server.monotonic()
        if self.answered:
            return
        self._buffer += data
        try:
            line = openser.take_line(self._buffer)
        except ProtocolError as error:
            self._server.suspicious(self.peer, str(error))
            self.finish(b"")
            return
        if line is not None:
            self._server.execute(self, line)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)

    # Called by the server

    def finish(self, reply: bytes) -> None:
        """Send the reply and the end of the connection behind it; what the client still sends is not looked at."""
        self.answered = True
        self._buffer.clear()
        self._transport.write(reply)
        self._unread = self._transport.get_write_buffer_size()
        if self._unread < len(reply):
            self._sent = self._server.monotonic()
        if self._unread > MAX_UNREAD:
            log.warning("dropped the connection of %s: more than %d bytes of output", self.peer, MAX_UNREAD)
            self._transport.abort()
        else:
            self._transport.write_eof()

    def sweep(self, now: float) -> None:
        """Drop the connection if it has been idle for too long, close it if it is done; to be called each second."""
        unread = self._transport.get_write_buffer_size()
        if unread < self._unread:
            self._sent = now
            self._unread = unread
        if now - min(self._received, self._sent) >= IDLE_S:
            log.info("closed the connection of %s, idle for %d seconds", self.peer, IDLE_S)
            self._transport.abort()
        elif self.answered and not unread:
            # One sweep for the client to close first: nothing that it sends until then can reset the connection.
            if self._lingers:
                self._transport.close()
            self._lingers = True

    def abort(self) -> None:
        """Drop the connection and what is left to send."""
        self._transport.abort()


class Server:
    """The listening socket and its connections; runs on the current event loop until closed.

    Clients from outside ``allowed`` are kept out and counted in ``refused``; empty, it lets everybody in.
    """

    def __init__(
        self,
        service: Service,
        allowed: Collection[IPv4Network | IPv6Network],
        monotonic: Callable[[], float] = time.monotonic,
        counts: RequestCounts | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.monotonic = monotonic
        self.refused = 0
        self._service = service
        self.allowed = allowed
        self._counts = RequestCounts() if counts is None else counts
        self._clock = clock
        # A dictionary for its order: `controls` lists the newest first.
        self._connections: dict[Connection, None] = {}
        self._warnings = RateLimited(log, monotonic)
        self._listener: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Serve on a bound socket, which then belongs to the server."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG)
        self._timer = loop.call_later(SWEEP_S, self._on_timer)

    @property
    def address(self) -> tuple[str, int]:
        """Where the server listens."""
        assert self._listener is not None
        host, port = self._listener.sockets[0].getsockname()
        return host, port

    def close(self) -> None:
        """Stop listening and drop all connections; a second call does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.abort()

    def sweep(self, now: float) -> None:
        """Look for idle connections; happens each second by itself."""
        for connection in list(self._connections):
            connection.sweep(now)

    def _on_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._on_timer)
        self.sweep(self.monotonic())

    # Called by the connections

    def admit(self, connection: Connection, source: str) -> bool:
        """Take a new connection in, unless access or number forbid it."""
        if self.allowed and not any(ip_address(source) in network for network in self.allowed):
            self.refused += 1
            return False
        if len(self._connections) >= MAX_CONNECTIONS:
            self.suspicious(source, f"there are {MAX_CONNECTIONS} already")
            return False
        self._connections[connection] = None
        return True

    def forget(self, connection: Connection) -> None:
        """A connection is gone, if it had been taken in at all."""
        self._connections.pop(connection, None)

    def suspicious(self, source: str, reason: str) -> None:
        """Warn of a client that misbehaves, not more often than is good for the log."""
        self._warnings.warning("closed a connection of %s: %s", source, reason)

    def execute(self, connection: Connection, line: bytes) -> None:
        """Answer the one command of a connection; whatever goes wrong with it ends there."""
        with call_context(openser.call_id(line)):
            try:
                reply = self._answer(connection.peer, line)
            except Exception:
                log.exception("internal error on a request from %s", connection.peer)
                reply = b""
            connection.finish(reply)

    def _answer(self, peer: str, line: bytes) -> bytes:
        if not openser.looks_like(line):
            self.suspicious(peer, name_protocol(line) or openser.NO_COMMAND)
            return b""
        started, refused = self._clock(), self._service.refused
        reply = self._service.answer(line, self.monotonic(), self._open())
        name, failed = openser.command_name(line) or UNREADABLE, self._service.refused > refused
        self._counts.count(peer.rpartition(":")[0], name, self._clock() - started, failed=failed)
        command, summary = line.split(maxsplit=1)[0].decode(), reply.partition(b"\n")[0].decode(errors="replace")
        log.info("%s from %s: %s", command, peer, summary or "closed without output")
        return reply

    def _open(self) -> list[str]:
        """The clients whose command is not answered yet, newest first."""
        return [connection.peer for connection in reversed(self._connections) if not connection.answered]


def bind(address: str, port: int) -> socket.socket:
    """A TCP socket over IPv4 for :meth:`Server.listen`; OSError if it cannot be had."""
    return bind_tcp("0.0.0.0" if address == "::" else address, port)  # IPv4 only, says the protocol
