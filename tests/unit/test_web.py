"""The HTTP server on a loopback socket: what it answers, and what no client can do to it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rtpengine import web
from rtpengine.control import bind_tcp
from rtpengine.web import Content, Health, WebServer
from rtpengine.web_guard import Guard

PATIENCE_S = 60
BIG = b"x" * (32 << 20)
NG = f"Content-Type: {web.NG_TYPE}\r\n"
JSON = f"Content-Type: {web.JSON_TYPE}\r\n"


class CountingNg:
    """Counts what it executes, and fails at the request ``fail``."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, str]] = []

    def reply(self, request: bytes, source: str, now: float, wall: float) -> dict[str, Any]:
        self.seen.append((request, source))
        if b"fail" in request:
            raise RuntimeError("our own fault")
        return {"result": "ok", "n": len(self.seen)}


class NobodyGuard(Guard):
    def admits(self, source: str) -> bool:
        return False


def page_of_faults(query: dict[str, str], now: float, wall: float) -> Content | None:
    raise RuntimeError("our own fault")


class Wire:
    """A server and its clients; ``now`` is its clock."""

    def __init__(self, guard: Guard) -> None:
        self.now = 1000.0
        self.ng = CountingNg()
        self.failing = self.unready = ""
        health = Health(lambda: self.failing, lambda: self.unready)
        pages: dict[str, web.Page] = {
            "/page": lambda query, *_: Content(json.dumps(query).encode(), "application/json", {"X-Own": "1"}),
            "/none": lambda *_: None,
            "/big": lambda *_: Content(BIG, "application/octet-stream"),
            "/time": lambda _, now, wall: Content(f"{now} {wall}".encode(), "text/plain"),
            "/faults": page_of_faults,
        }
        self.server = WebServer(guard, self.ng, health, pages, lambda: self.now, lambda: 0.0)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.server.address)

    async def send(self, data: bytes, *, eof: bool = False) -> bytes:
        """Send over a connection of its own and return what comes until its end."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            if eof:
                writer.write_eof()
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def ask(
        self, request: str, fields: str = "", body: bytes = b"", host: str = "localhost"
    ) -> tuple[str, bytes]:
        """Send one whole request; return the head of the response and its body."""
        head = f"{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
        head_, _, body = (await self.send(head.encode() + body)).partition(b"\r\n\r\n")
        return head_.decode(), body

    async def status(self, *args: Any, **kwargs: Any) -> int:
        return int((await self.ask(*args, **kwargs))[0].split()[1])

    async def sweep_until_dropped(self, reader: asyncio.StreamReader) -> float:
        """Let seconds pass until the connection is gone; return how many it took."""
        for second in range(200):
            self.server.sweep(self.now)
            for _ in range(10):
                await asyncio.sleep(0)
            if reader.at_eof() or reader.exception():
                return second
            self.now += 1
        raise AssertionError("still connected")

    async def works(self) -> bool:
        return (await self.ask("GET /ping"))[1] == b"pong"


@asynccontextmanager
async def serving(guard: Guard | None = None) -> AsyncIterator[Wire]:
    wire = Wire(guard or Guard())
    await wire.server.listen(bind_tcp("127.0.0.1", 0))
    try:
        yield wire
    finally:
        await wire.server.close()


def run(scenario: Callable[[Wire], Awaitable[None]], guard: Guard | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(2 * PATIENCE_S), serving(guard) as wire:
            await scenario(wire)
            if guard is None:
                assert await wire.works()

    asyncio.run(main())


# What is there


def test_health() -> None:
    async def scenario(wire: Wire) -> None:
        assert (await wire.ask("GET /ping"))[1] == b"pong"
        head, body = await wire.ask("HEAD /ping")
        assert head.startswith("HTTP/1.1 200 ") and body == b""
        assert (await wire.ask("GET /healthz"))[1] == b"ok\n"
        assert (await wire.ask("GET /readyz"))[1] == b"ready\n"
        wire.unready = "draining"
        assert await wire.status("GET /readyz") == 503
        assert (await wire.ask("GET /readyz"))[1] == b"draining\n"
        assert await wire.status("GET /healthz") == 200
        wire.failing = "late"
        assert await wire.status("GET /healthz") == await wire.status("GET /readyz") == 503

    run(scenario)


def test_pages() -> None:
    async def scenario(wire: Wire) -> None:
        head, body = await wire.ask("GET /page?a=1&a=2&b=%3Cscript%3E")
        assert json.loads(body) == {"a": "1", "b": "<script>"} or json.loads(body) == {"a": "2", "b": "<script>"}
        assert "X-Own: 1" in head and "Server: rtpengine" in head
        assert "Content-Security-Policy: default-src 'none'" in head
        assert "X-Content-Type-Options: nosniff" in head
        assert "aiohttp" not in head and "Python" not in head
        assert (await wire.ask("GET /time"))[1] == b"1000.0 0.0"
        assert await wire.status("GET /none") == await wire.status("GET /nowhere") == 404

    run(scenario)


def test_our_own_faults(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        head, body = await wire.ask("GET /faults")
        assert "500" in head and body == b"Internal error\n"
        head, body = await wire.ask("POST /ng-plain", JSON, b'{"command": "fail"}')
        assert "200" in head and json.loads(body) == {"result": "error", "error-reason": "Internal error"}

    run(scenario)
    assert [r.message for r in caplog.records] == ["internal error on a request from 127.0.0.1"] * 2


def test_connections_are_kept() -> None:
    async def scenario(wire: Wire) -> None:
        reader, writer = await wire.connect()
        for _ in range(5):
            writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                assert (await reader.readuntil(b"pong")).startswith(b"HTTP/1.1 200 OK")
            wire.now += 60
            wire.server.sweep(wire.now)
        writer.close()

    run(scenario)


# The ng protocol


def test_ng() -> None:
    async def scenario(wire: Wire) -> None:
        head, body = await wire.ask("POST /ng", NG, b"17 d7:command4:pinge")
        assert f"Content-Type: {web.NG_TYPE}" in head
        assert body == b"17 d1:ni1e6:result2:oke"
        assert wire.ng.seen == [(b"d7:command4:pinge", "127.0.0.1")]
        assert (await wire.ask("POST /ng", NG, b"17 d7:command4:pinge"))[1] == body, "a cookie is executed once"
        assert len(wire.ng.seen) == 1
        wire.server.cache.rotate()
        wire.server.cache.rotate()
        assert (await wire.ask("POST /ng", NG, b"17 d7:command4:pinge"))[1] != body
        seen = len(wire.ng.seen)
        head, body = await wire.ask("POST /ng", NG, b"17 d7:command4:liste")
        assert body.startswith(b"17 ") and wire.ng.seen[seen:] == [(b"d7:command4:liste", "127.0.0.1")]
        assert (await wire.ask("POST /ng", NG, b"17 d7:command4:liste"))[1] == body
        assert len(wire.ng.seen) == seen + 1
        assert (await wire.ask("POST /ng", NG, b"no-cookie"))[1] == b"No cookie in message\n"

    run(scenario)


def test_ng_plain() -> None:
    async def scenario(wire: Wire) -> None:
        head, body = await wire.ask(
            "POST /ng-plain", "Content-Type: application/json; charset=utf-8\r\n", b'{"a": [1]}'
        )
        assert "HTTP/1.1 200 " in head and f"Content-Type: {web.JSON_TYPE}" in head
        assert json.loads(body) == {"result": "ok", "n": 1}
        assert wire.ng.seen == [(b"d1:ali1eee", "127.0.0.1")]
        head, body = await wire.ask("POST /ng-plain", JSON, b"{")
        assert "HTTP/1.1 400 " in head
        assert json.loads(body) == {"result": "error", "error-reason": "Could not decode JSON"}

    run(scenario)


# Whom it does not serve


@pytest.mark.parametrize("path", ["/ng", "/ng-plain"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("", 415),
        ("Content-Type: text/plain\r\n", 415),
        ("Content-Type: application/x-www-form-urlencoded\r\n", 415),
        ("{own}Content-Encoding: gzip\r\n", 415),
        ("{own}Origin: https://evil.example\r\n", 403),
        ("{own}Origin: null\r\n", 403),
        ("{own}Sec-Fetch-Site: cross-site\r\n", 403),
    ],
)
def test_pages_of_other_sites(path: str, fields: str, status: int) -> None:
    async def scenario(wire: Wire) -> None:
        own = NG if path == "/ng" else JSON
        body = b"1 d7:command4:pinge" if path == "/ng" else b'{"command": "ping"}'
        assert await wire.status(f"POST {path}", fields.format(own=own), body) == status
        assert wire.ng.seen == []
        assert await wire.status(f"POST {path}", own + "Origin: http://localhost\r\n", body) == 200

    run(scenario)


@pytest.mark.parametrize("path", ["/ping", "/page", "/ng", "/nowhere"])
def test_names_of_others(path: str) -> None:
    async def scenario(wire: Wire) -> None:
        assert await wire.status(f"GET {path}", host="evil.example:80") == 421

    run(scenario)


def test_strangers(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        assert await wire.send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        assert wire.server.refused == 1

    run(scenario, NobodyGuard())


# What it does not take


@pytest.mark.parametrize("path", ["/ping", "/healthz", "/readyz", "/page", "/ng", "/ng-plain", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_methods(method: str, path: str) -> None:
    async def scenario(wire: Wire) -> None:
        status = await wire.status(f"{method} {path}", JSON)
        if path == "/nowhere":
            assert status in (404, 400)
        elif method == ("POST" if path.startswith("/ng") else "GET"):
            assert status in (200, 400, 415)
        else:
            assert status in (405, 404, 400)
        assert wire.ng.seen == []

    run(scenario)


REQUEST = b"POST /ng-plain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

MALFORMED = {
    "nothing": b"",
    "line ends": b"\r\n\r\n\r\n",
    "no HTTP": b"d7:command4:pinge\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "a wrong version": b"GET /ping HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long field": b"GET /ping HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "a field without a name": b"GET /ping HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n",
    "a field without a colon": b"GET /ping HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n",
    "zero bytes": b"GET /ping HTTP/1.1\r\nHost: \x00\r\n\r\n",
    "a negative length": REQUEST + b"Content-Length: -1\r\n\r\n{}",
    "two lengths": REQUEST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "length and chunks": REQUEST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a bad chunk": REQUEST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a length beyond all bounds": REQUEST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "a body that is too long": REQUEST + b"Content-Length: 999999\r\n\r\n" + b"x" * 999_999,
    "a length that is too long": REQUEST + b"Content-Length: 999999999\r\n\r\n{}",
    "chunks that are too long": REQUEST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 5,
    "a body that is cut off": REQUEST + b"Content-Length: 1000\r\n\r\n{",
    "a websocket": b"GET /ng HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "a bad path": b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path upwards": b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an absolute URL": b"GET http://evil.example/ping HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a bad escape": b"GET /%ff%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "not ASCII": "GET /ü HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    "a bad cookie": b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nCookie: \xff\xfe;;;=\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        reply = await wire.send(data, eof=True)
        assert reply == b"" or reply.split()[1][:1] == b"4", reply
        assert b"Traceback" not in reply
        assert wire.ng.seen == []

    run(scenario)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("length", "status"), [(web.MAX_BODY, 400), (web.MAX_BODY + 1, 413)], ids=["the largest body", "one byte more"]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_the_size_of_a_body(length: int, status: int, chunked: bool) -> None:
    async def scenario(wire: Wire) -> None:
        body = b"x" * length
        if chunked:
            data = REQUEST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (length, body)
        else:
            data = REQUEST + b"Content-Length: %d\r\n\r\n%s" % (length, body)
        assert int((await wire.send(data, eof=True)).split()[1]) == status

    run(scenario)


def test_endless_fields() -> None:
    async def scenario(wire: Wire) -> None:
        field = b"X: " + b"a" * 4000 + b"\r\n"
        reply = await wire.send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n" + field * 1000)
        assert reply == b"" or reply.split()[1] == b"400"

    run(scenario)


# What takes too long

SLOW = {
    "says nothing": b"",
    "stops in its first line": b"GET /pi",
    "stops in its fields": b"GET /ping HTTP/1.1\r\nHost: local",
    "stops in its body": REQUEST + b"Content-Length: 100\r\n\r\n{",
    "stops in a chunk": REQUEST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
}


@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW)
def test_a_client_that(data: bytes) -> None:
    async def scenario(wire: Wire) -> None:
        reader, writer = await wire.connect()
        writer.write(data)
        assert await wire.works()
        assert await wire.sweep_until_dropped(reader) == web.REQUEST_S
        writer.close()

    run(scenario)


def test_a_client_that_trickles() -> None:
    async def scenario(wire: Wire) -> None:
        reader, writer = await wire.connect()
        started = wire.now
        for byte in b"GET /ping HTTP/1.1\r\nX: " + b"a" * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
            wire.now += 1
            wire.server.sweep(wire.now)
            if reader.at_eof() or reader.exception():
                break
        async with asyncio.timeout(PATIENCE_S):
            assert await _end(reader) == b""
        assert web.REQUEST_S <= wire.now - started < 100
        writer.close()

    run(scenario)


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_a_client_that_does_not_read() -> None:
    async def scenario(wire: Wire) -> None:
        reader, writer = await asyncio.open_connection(*wire.server.address, limit=1000)
        writer.write(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"\r\n\r\n")
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        (connection,) = wire.server._connections.values()
        async with asyncio.timeout(PATIENCE_S):
            while wire.server._connections:
                wire.now += 1
                wire.server.sweep(wire.now)
                await asyncio.sleep(0.005)
        assert connection._transport.is_closing()
        writer.close()

    run(scenario)


def test_a_client_that_reads_slowly_is_served() -> None:
    async def scenario(wire: Wire) -> None:
        reader, writer = await wire.connect()
        writer.write(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        seen = 0
        async with asyncio.timeout(PATIENCE_S):
            while data := await reader.read(1 << 20):
                seen += len(data)
                wire.now += 1
                wire.server.sweep(wire.now)
        assert seen > len(BIG)
        writer.close()

    run(scenario)


def test_requests_in_one_go() -> None:
    async def scenario(wire: Wire) -> None:
        reply = await wire.send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50 + b"GET /x HTTP/1.0\r\n\r\n")
        assert reply.count(b"pong") == 50 and reply.count(b"404 Not Found") == 1

    run(scenario)


def test_too_many_clients(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 3)

    async def scenario(wire: Wire) -> None:
        open_ones = [await wire.connect() for _ in range(3)]
        async with asyncio.timeout(PATIENCE_S):
            while len(wire.server._connections) < 3:
                await asyncio.sleep(0)
            assert await wire.send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
            for _, writer in open_ones:
                writer.close()
            while wire.server._connections:
                await asyncio.sleep(0)

    run(scenario)
    assert [r.message for r in caplog.records] == ["closed a connection of 127.0.0.1: there are 3 already"]


def test_who_is_idle_makes_room(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The longest first, and each once, though many come before the end of one is noticed."""
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 4)

    async def scenario(wire: Wire) -> None:
        kept = []
        for number in range(3):
            reader, writer = await wire.connect()
            kept.append((reader, writer))
            wire.now = 1000.0 + (2, 0, 1)[number]
            writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"pong")).startswith(b"HTTP/1.1 200")
        busy = await wire.connect()
        busy[1].write(b"GET /ping HTTP/1.1\r\n")
        while len(wire.server._connections) < 4:
            await asyncio.sleep(0)
        newcomers = [await wire.connect() for _ in range(2)]
        for number in (1, 2):
            assert await _end(kept[number][0]) == b""
        for reader, writer in (kept[0], *newcomers):
            writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"pong")).startswith(b"HTTP/1.1 200")
        busy[1].write(b"Host: localhost\r\n\r\n")
        assert (await busy[0].readuntil(b"pong")).startswith(b"HTTP/1.1 200")
        assert len(wire.server._connections) == 4
        for _, writer in (*kept, busy, *newcomers):
            writer.close()

    run(scenario)
    assert caplog.records == []


def test_nobody_makes_room_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 1)

    async def scenario(wire: Wire) -> None:
        reader, writer = await wire.connect()
        writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"pong")
        newcomers = [web._Connection(wire.server, asyncio.Protocol()) for _ in range(2)]
        assert [wire.server.admit(newcomer, "127.0.0.1") for newcomer in newcomers] == [True, False]
        assert list(wire.server._connections.values()) == newcomers[:1]
        wire.server.forget(newcomers[0])
        assert await _end(reader) == b""
        writer.close()

    run(scenario)


def test_the_end_drops_everybody() -> None:
    async def main() -> None:
        async with serving() as wire:
            idle = await wire.connect()
            busy = await wire.connect()
            busy[1].write(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await busy[0].readuntil(b"\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            for reader, writer in (idle, busy):
                await _end(reader)
                writer.close()
        await wire.server.close()

    asyncio.run(main())
