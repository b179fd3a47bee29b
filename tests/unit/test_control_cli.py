"""The port of rtpengine-ctl on a loopback socket: lines in, JSON out, and what no client can do to it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ProtocolError, control_cli
from rtpengine.control import bind_tcp
from rtpengine.control_cli import MAX_CONNECTIONS, MAX_LINE, Server
from rtpengine.log import RateLimited

PATIENCE_S = 60
BIG = "x" * (16 << 20)


class Wire:
    """A server that repeats the words it gets."""

    def __init__(self) -> None:
        self.server = Server(self.execute)
        self.seen: list[list[str]] = []
        self.sources: set[str] = set()

    def execute(self, words: list[str], source: str) -> Any:
        self.seen.append(words)
        self.sources.add(source)
        if words == ["bad"]:
            raise ProtocolError("bad \udcff word")
        if words == ["fail"]:
            raise RuntimeError("our own fault")
        return BIG if words == ["big"] else words

    @property
    def address(self) -> tuple[str, int]:
        assert self.server._listener is not None
        host, port = self.server._listener.sockets[0].getsockname()[:2]
        return host, port

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self.address, limit=32 << 20)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def ask(self, data: bytes) -> dict[str, Any]:
        """The one reply to what one client sends."""
        async with self.client() as (reader, writer), asyncio.timeout(PATIENCE_S):
            writer.write(data)
            return json.loads(await reader.readline())


def on_wire(scenario: Callable[[Wire], Awaitable[None]]) -> None:
    async def main() -> None:
        wire = Wire()
        await wire.server.listen(bind_tcp("127.0.0.1", 0))
        try:
            async with asyncio.timeout(4 * PATIENCE_S):
                await scenario(wire)
        finally:
            wire.server.close()
            wire.server.close()
        async with asyncio.timeout(PATIENCE_S):
            while wire.server._tasks:
                await asyncio.sleep(0.01)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"list totals\n", {"result": "ok", "data": ["list", "totals"]}),
        (b"  why \t c@h\r\n", {"result": "ok", "data": ["why", "c@h"]}),
        (b'["why", "a b\\n"]\n', {"result": "ok", "data": ["why", "a b\n"]}),
        (b"why \xff\n", {"result": "ok", "data": ["why", "\udcff"]}),
        (b'["why", "\\udcff"]\n', {"result": "ok", "data": ["why", "\udcff"]}),
        (b"bad\n", {"result": "error", "reason": "bad \udcff word"}),
        (b"\n", {"result": "error", "reason": "no command; usage lists them all"}),
        (b"[]\n", {"result": "error", "reason": "no command; usage lists them all"}),
        *[
            (line, {"result": "error", "reason": "neither words nor a JSON list of words"})
            for line in (b"[1]\n", b"[\n", b'["a", ["b"]]\n', b"[" * 5000 + b"\n", b'["a"] b\n', b'["\xff"\n')
        ],
        (b"fail\n", {"result": "error", "reason": "internal error, the log has the details"}),
        (b"x" * (2 * MAX_LINE), {"result": "error", "reason": f"the line is longer than {MAX_LINE} bytes"}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_one_request(line: bytes, reply: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        assert await wire.ask(line) == reply

    on_wire(scenario)
    assert ("Traceback" in caplog.text) is (line == b"fail\n")


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=20)).map(lambda words: b'["' + b'","'.join(words) + b'"]'))
def test_any_line_has_a_reply(line: bytes) -> None:
    seen: list[list[str]] = []
    reply = Server(lambda words, source: seen.append(words))._answer(line, "127.0.0.1")
    assert json.loads(json.dumps(reply)) == reply
    assert reply["result"] in ("ok", "error") and (reply["result"] == "ok") is (len(seen) == 1)
    assert all(isinstance(word, str) for words in seen for word in words)


def test_many_requests_on_one_connection() -> None:
    async def scenario(wire: Wire) -> None:
        async with wire.client() as (reader, writer):
            writer.write(b"one\ntwo\nbig\n")
            replies = [json.loads(await reader.readline()) for _ in range(3)]
            assert [reply["data"] for reply in replies] == [["one"], ["two"], BIG]
            writer.write(b"half")
            writer.write_eof()
            assert await reader.read() == b""
        assert wire.seen == [["one"], ["two"], ["big"]]
        assert wire.sources == {"127.0.0.1"}

    on_wire(scenario)


HTTP = "this is HTTP, which this port does not speak"
SIP = "this is SIP, which this port does not speak"
BINARY = "a line with control characters, which no command has"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1:9900\r\nContent-Length: 14\r\n\r\nterminate all\n", HTTP),
        (b"GET /x?\tterminate HTTP/1.0\nterminate all\n", HTTP),
        (b"my-method http://[::1]:9900/ HTTP/1.1\r\n\r\nterminate all\n", HTTP),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nterminate all\n", HTTP),
        (b"HTTP/1.1 200 OK\r\n\r\nterminate all\n", HTTP),
        (b"INVITE sip:a@b SIP/2.0\r\nterminate all\n", SIP),
        (b"SIP/2.0 200 OK\r\nterminate all\n", SIP),
        (b"\x16\x03\x01\x02\x00\nterminate all\n", BINARY),
        (b"\x00\x03\x00\x10!\x12\xa4Bxxxxxxxxxxxx\nterminate all\n", BINARY),
        (b"why\x7f\nterminate all\n", BINARY),
        (b"why\rterminate all\nterminate all\n", BINARY),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("before", [b"", b"one\n"], ids=["at first", "later"])
def test_what_is_meant_for_others_ends_the_connection(
    data: bytes, reason: str, before: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What follows such a line is not taken for commands: any page can have a browser send it."""

    async def scenario(wire: Wire) -> None:
        async with wire.client() as (reader, writer), asyncio.timeout(PATIENCE_S):
            writer.write(before + data)
            replies = [json.loads(line) for line in (await reader.read()).splitlines()]
        assert replies[bool(before) :] == [{"result": "error", "reason": reason}]
        assert wire.seen == [["one"]] * bool(before)

    on_wire(scenario)
    assert [record.getMessage() for record in caplog.records] == [f"closed a connection of 127.0.0.1: {reason}"]


@pytest.mark.parametrize(
    "line", [b"GET", b"staus", b"status", b"why HTTP/1.1", b'["why", "GET / HTTP/1.1"]', b"why \xff\x80", b"GET /\t"]
)
def test_what_is_mistyped_does_not(line: bytes) -> None:
    async def scenario(wire: Wire) -> None:
        async with wire.client() as (reader, writer), asyncio.timeout(PATIENCE_S):
            writer.write(line + b"\r\none\n")
            assert json.loads(await reader.readline())["result"] == "ok"
            assert json.loads(await reader.readline())["data"] == ["one"]

    on_wire(scenario)


def test_many_of_them_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        wire.server._warnings = RateLimited(control_cli.log, lambda: 0.0)
        for _ in range(20):
            assert (await wire.ask(b"GET / HTTP/1.1\r\n"))["result"] == "error"

    on_wire(scenario)
    assert len(caplog.records) == 5


def test_who_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(control_cli, "SLOW_S", 0.05)
    caplog.set_level(logging.INFO)

    async def scenario(wire: Wire) -> None:
        with socket.create_connection(wire.address) as slow:
            slow.sendall(b"big\n" * 3)
            while "does not read" not in caplog.text:
                await asyncio.sleep(0.01)
            assert await wire.ask(b"other\n") == {"result": "ok", "data": ["other"]}

    on_wire(scenario)


def test_who_goes_without_reading_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little is left for it to be waited for at once; it still holds a connection only for so long."""
    monkeypatch.setattr(control_cli, "SLOW_S", 0.05)

    async def scenario(wire: Wire) -> None:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            slow.connect(wire.address)
            slow.sendall((b"some " * 1000 + b"\n") * 400)
            slow.shutdown(socket.SHUT_WR)
            while not wire.server._tasks:
                await asyncio.sleep(0.01)
            while wire.server._tasks:
                await asyncio.sleep(0.01)

    on_wire(scenario)


def test_an_idle_client_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_cli, "IDLE_S", 0.05)

    async def scenario(wire: Wire) -> None:
        async with wire.client() as (reader, _):
            assert await reader.read() == b""

    on_wire(scenario)


def test_a_client_that_resets_the_connection() -> None:
    async def scenario(wire: Wire) -> None:
        for _ in range(5):
            with socket.create_connection(wire.address) as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                rude.sendall(b"big\n")
        assert await wire.ask(b"other\n") == {"result": "ok", "data": ["other"]}

    on_wire(scenario)


def test_connections_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        held = [await asyncio.open_connection(*wire.address) for _ in range(MAX_CONNECTIONS)]
        for reader, writer in held:
            writer.write(b"one\n")
            assert await reader.readline()
        async with wire.client() as (reader, _):
            reason = f"there are {MAX_CONNECTIONS} connections already"
            assert json.loads(await reader.read()) == {"result": "error", "reason": reason}
        for _, writer in held:
            writer.close()
        while len(wire.server._tasks) >= MAX_CONNECTIONS:
            await asyncio.sleep(0.01)
        assert (await wire.ask(b"one\n"))["result"] == "ok"

    on_wire(scenario)
    (record,) = caplog.records
    assert record.getMessage() == f"closed a connection of 127.0.0.1: there are {MAX_CONNECTIONS} connections already"


@pytest.mark.parametrize(
    ("source", "allowed", "served"),
    [
        ("127.0.0.1", [], True),
        ("::1", [], True),
        ("::ffff:127.0.0.1", ["192.0.2.0/24"], True),
        ("192.0.2.7", [], False),
        ("192.0.2.7", ["192.0.2.0/24"], True),
        ("::ffff:192.0.2.7", ["192.0.2.0/24"], True),
        ("fe80::1%lo", ["fe80::/10"], True),
        ("10.0.0.1", ["192.0.2.0/24"], False),
        (None, [], False),
    ],
)
def test_who_is_served(source: str | None, allowed: list[str], served: bool) -> None:
    class Connection:
        def get_extra_info(self, name: str) -> tuple[str, int] | None:
            return None if source is None else (source, 5000)

    server = Server(lambda words, source: words, [ip_network(network) for network in allowed])
    address = control_cli._source(Connection())  # type: ignore[arg-type]
    assert (address is not None and server._admits(address)) is served
    assert server.refused == (0 if served or source is None else 1)


def test_the_end_with_clients_connected() -> None:
    async def scenario(wire: Wire) -> None:
        async with wire.client() as (reader, writer):
            writer.write(b"one\n")
            assert await reader.readline()
            wire.server.close()
            assert await reader.read() == b""

    on_wire(scenario)
