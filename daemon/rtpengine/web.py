"""The HTTP port: health, metrics, the ng protocol for whoever has no UDP client, and the status page, over aiohttp.

Imported only where ``--listen-http`` asks for it: aiohttp takes a tenth of a second and 12 MB.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from aiohttp import hdrs, web

from rtpengine import ProtocolError, ng, ng_json
from rtpengine.control import ReplyCache
from rtpengine.log import RateLimited
from rtpengine.web_guard import Guard

log = logging.getLogger(__name__)

BACKLOG = 64
MAX_CONNECTIONS = 100
# The largest ng request may be longer as JSON, where a line end takes four characters.
MAX_BODY = 256 << 10
# What is read of one request before its connection is dropped: what exceeds the above gets its error first.
MAX_RECEIVED = 1 << 20
# So long a client may take to send a request, or to read what it has asked for.
REQUEST_S = 15.0
# Prometheus asks once a minute where it is not told otherwise, and keeps its connection.
KEEP_ALIVE_S = 75.0
SWEEP_S = 1.0

NG_TYPE = "application/x-rtpengine-ng"
JSON_TYPE = "application/json"
_HEADERS = {
    "Server": "rtpengine",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# aiohttp logs each malformed request with a traceback, which anybody could fill a disk with.
_silent = logging.getLogger(f"{__name__}.aiohttp")
_silent.disabled = True

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NgAnswerer(Protocol):
    """What executes ng requests: NgProtocol of control.py."""

    def reply(self, request: bytes, source: str, now: float, wall: float) -> dict[str, Any]:
        """Execute a bencoded request; a bad one ends as an error reply."""


class Content(NamedTuple):
    """What a GET is answered with, or None where there is no such thing; ``headers`` replace the usual ones."""

    body: bytes
    type: str
    headers: Mapping[str, str] = MappingProxyType({})


class Health(NamedTuple):
    """Why the daemon does not work, and why it should get no new calls; both "" where all is well."""

    failing: Callable[[], str]
    unready: Callable[[], str]


Page = Callable[[dict[str, str], float, float], Content | None]
"""Makes the answer to a GET from the fields of its query string, the monotonic time and UNIX time."""


class _Connection(asyncio.Protocol):
    """One client: aiohttp's own protocol, with bounds around it that it does not have."""

    def __init__(self, server: WebServer, inner: asyncio.Protocol) -> None:
        self._server = server
        self.inner = inner
        self._transport: asyncio.Transport
        self._received = 0
        self._since: float | None = server.monotonic()
        self._answered = 0.0
        self._unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.inner.connection_made(transport)
        source = transport.get_extra_info("peername")
        # None: it has gone again already
        if source is None or not self._server.admit(self, source[0]):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._since is None:
            self._since = self._server.monotonic()
        self._received += len(data)
        if self._received > MAX_RECEIVED:
            self._transport.abort()
        else:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self.inner.connection_lost(exc)

    def answered(self) -> None:
        """A request has been read and answered; the reply may still have to go out."""
        self._received = 0
        self._since = None
        self._answered = self._server.monotonic()

    @property
    def idle_since(self) -> float | None:
        """When the last request was answered, None while there is a request or a reply under way."""
        return self._answered if self._since is None and not self._transport.get_write_buffer_size() else None

    def sweep(self, now: float) -> None:
        """Drop the connection if its client takes too long; to be called each second."""
        unread = self._transport.get_write_buffer_size()
        if unread and unread >= self._unread:
            self._since = self._since or now
        elif unread:
            self._since = now
        self._unread = unread
        if self._since is not None and now - self._since >= REQUEST_S:
            self._transport.abort()

    def abort(self) -> None:
        """Drop the connection and what is left to send."""
        self._transport.abort()


class WebServer:
    """The listening socket and its connections; runs on the current event loop until closed.

    ``pages`` are what GET finds, by path. Who may not connect is counted in ``refused``.
    """

    def __init__(
        self,
        guard: Guard,
        ng: NgAnswerer,
        health: Health,
        pages: Mapping[str, Page],
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.monotonic = monotonic
        self.refused = 0
        self.cache = ReplyCache()
        self._wall = wall
        self.guard = guard
        self._ng = ng
        self._health = health
        self._pages = pages
        self._connections: dict[asyncio.Protocol, _Connection] = {}
        self._warnings = RateLimited(log, monotonic)
        self._runner = web.AppRunner(
            self._application(),
            handle_signals=False,
            access_log=None,
            logger=_silent,
            keepalive_timeout=KEEP_ALIVE_S,
            # Nobody needs compressed requests, and a few bytes of one could become gigabytes.
            auto_decompress=False,
        )
        self._listener: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Serve on a bound socket, which then belongs to the server."""
        loop = asyncio.get_running_loop()
        await self._runner.setup()
        inner = self._runner.server
        assert inner is not None
        self._listener = await loop.create_server(lambda: _Connection(self, inner()), sock=sock, backlog=BACKLOG)
        self._timer = loop.call_later(SWEEP_S, self._on_timer)

    @property
    def address(self) -> tuple[str, int]:
        """Where the server listens."""
        assert self._listener is not None
        host, port = self._listener.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Stop listening and drop all connections; a second call does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections.values()):
            connection.abort()
        await self._runner.cleanup()

    def sweep(self, now: float) -> None:
        """Look for clients that take too long; happens each second by itself."""
        for connection in list(self._connections.values()):
            connection.sweep(now)

    def _on_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._on_timer)
        self.sweep(self.monotonic())

    # Called by the connections

    def admit(self, connection: _Connection, source: str) -> bool:
        """Take a new connection in, unless access or number forbid it."""
        if not self.guard.admits(source):
            self.refused += 1
            return False
        if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
            self._warnings.warning("closed a connection of %s: there are %d already", source, MAX_CONNECTIONS)
            return False
        self._connections[connection.inner] = connection
        return True

    def _make_room(self) -> bool:
        """Drop the connection that has been idle between two requests for longest, if any is."""
        idle = {
            connection: since
            for connection in self._connections.values()
            if (since := connection.idle_since) is not None
        }
        if not idle:
            return False
        longest = min(idle, key=idle.__getitem__)
        # At once, since its end is told of later: meanwhile it must not make room for another one.
        self.forget(longest)
        longest.abort()
        return True

    def forget(self, connection: _Connection) -> None:
        """A connection is gone, if it had been taken in at all."""
        self._connections.pop(connection.inner, None)

    # Requests

    def _application(self) -> web.Application:
        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._around(request, handler)

        application = web.Application(middlewares=[around], client_max_size=MAX_BODY + 1)
        application.router.add_get("/ping", self._ping)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_post("/ng", self._post_ng)
        application.router.add_post("/ng-plain", self._post_ng_plain)
        for path, page in self._pages.items():
            application.router.add_get(path, self._get(page))
        return application

    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What holds for all requests: who is refused, what our own faults end as, headers, bounds."""
        try:
            response = await self._guarded(request, handler)
        except web.HTTPException as error:  # 404, 405 and 413 of aiohttp
            response = _text(error.status, error.reason)
            if hdrs.ALLOW in error.headers:
                response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        except Exception:
            log.exception("internal error on a request from %s", request.remote)
            response = _text(500, "Internal error")
        if response.status >= 400:
            # What it may still send of its body is not worth reading.
            response.force_close()
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        connection = self._connections.get(request.protocol)
        if connection is not None:
            connection.answered()
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        source = _source(request)
        headers = request.headers
        fields = [headers.get(name) for name in (hdrs.HOST, hdrs.ORIGIN, "Sec-Fetch-Site")]
        refusal = self.guard.refusal(source, *fields, changes=request.method not in ("GET", "HEAD"))
        if refusal is not None:
            self._warnings.warning("refused a request from %s: %s", source, refusal.reason)
            return _text(*refusal)
        if hdrs.CONTENT_ENCODING in headers:
            return _text(415, "A body must not be compressed")
        if (request.content_length or 0) > MAX_BODY:
            return _text(413, f"The body has more than {MAX_BODY} bytes")
        return await handler(request)

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="pong")

    async def _healthz(self, _: web.Request) -> web.Response:
        failing = self._health.failing()
        return _text(503 if failing else 200, failing or "ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        unready = self._health.failing() or self._health.unready()
        return _text(503 if unready else 200, unready or "ready")

    def _get(self, page: Page) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            content = page(dict(request.query), self.monotonic(), self._wall())
            if content is None:
                return _text(404, "Not Found")
            return web.Response(body=content.body, headers={hdrs.CONTENT_TYPE: content.type, **content.headers})

        return answer

    # A body's type is asked for since no page of another site can send these without asking us first.

    async def _post_ng(self, request: web.Request) -> web.Response:
        if request.content_type != NG_TYPE:
            return _text(415, f"Content-Type must be {NG_TYPE}")
        try:
            cookie, payload = ng.split(await _body(request))
        except ProtocolError as error:
            return _text(400, str(error))
        source = (_source(request), 0)
        # An address without a port may be many clients, which all count their cookies from 1.
        request_ = cookie + hashlib.sha256(payload).digest()
        reply = self.cache.get(source, request_)
        if reply is None:
            reply = ng.serialize(cookie, self._reply(payload, source[0]))
            self.cache.put(source, request_, reply)
        return web.Response(body=reply, headers={hdrs.CONTENT_TYPE: NG_TYPE})

    async def _post_ng_plain(self, request: web.Request) -> web.Response:
        if request.content_type != JSON_TYPE:
            return _text(415, f"Content-Type must be {JSON_TYPE}")
        status = 200
        try:
            payload = ng_json.to_bencode(await _body(request))
        except ProtocolError as error:
            status, reply = 400, dict(ng.error(str(error)))
        else:
            reply = self._reply(payload, _source(request))
        return web.Response(status=status, body=ng_json.serialize(reply), headers={hdrs.CONTENT_TYPE: JSON_TYPE})

    def _reply(self, payload: bytes, source: str) -> dict[str, Any]:
        try:
            return self._ng.reply(payload, source, self.monotonic(), self._wall())
        except Exception:
            log.exception("internal error on a request from %s", source)
            return dict(ng.error("Internal error"))


def _source(request: web.Request) -> str:
    return request.remote or ""


async def _body(request: web.Request) -> bytes:
    try:
        body = await request.read()
    except (web.RequestPayloadError, ConnectionError):  # bad chunks, or the client has gone
        raise web.HTTPBadRequest from None
    # aiohttp has changed its mind on whether a limit may be reached
    if len(body) > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY, len(body))
    return body


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")
