"""The TCP control port over loopback, with a service that repeats what it was asked and a clock that tests turn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import control_tcp
from rtpengine.control_tcp import IDLE_S, MAX_CONNECTIONS, MAX_UNREAD, Server
from rtpengine.counts import RequestCounts
from rtpengine.log import prefix
from rtpengine.media import Learning
from rtpengine.openser_service import OpenserService
from rtpengine.table import CallTable, Limits

WAIT_S = 10
VERSION = b"Version: 3\n"


class EchoService:
    """Replies with what it was told to, and keeps the lines and the lists of connections that it was given."""

    def __init__(self) -> None:
        self.refused = 0
        self.lines: list[bytes] = []
        self.connections: list[list[str]] = []
        self.reply = VERSION
        self.failure: Exception | None = None

    def answer(self, line: bytes, now: float, connections: list[str]) -> bytes:
        self.lines.append(line)
        self.connections.append(connections)
        if self.failure is not None:
            raise self.failure
        return self.reply


class Client:
    """One connection: raw bytes out, everything until end of file in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def name(self) -> str:
        host, port = self._writer.get_extra_info("sockname")
        return f"{host}:{port}"

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def half_close(self) -> None:
        self._writer.write_eof()

    async def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, or all until end of file; b"" after a reset."""
        try:
            return await asyncio.wait_for(self._reader.read(size), WAIT_S)
        except ConnectionResetError:
            return b""

    async def ask(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.read()

    def reset(self) -> None:
        """Vanish without a goodbye."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()


class Wire:
    """A server, its service and clock, and any number of clients."""

    def __init__(self) -> None:
        self.service = EchoService()
        self.now = 0.0
        self.server: Server
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.server.address, limit=1 << 16))
        self._clients.append(client)
        return client

    async def seen(self, connections: int) -> None:
        """Wait until the server knows of so many connections."""
        await until(lambda: len(self.server._connections) == connections)

    def pass_time(self, seconds: int) -> None:
        """Second by second, as the server's timer would."""
        for _ in range(seconds):
            self.now += 1
            self.server.sweep(self.now)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def serve(
    service: EchoService,
    now: Callable[[], float],
    address: tuple[str, int] = ("127.0.0.1", 0),
    networks: Collection[IPv4Network | IPv6Network] = (),
) -> Server:
    server = Server(service, networks, now)
    await server.listen(control_tcp.bind(*address))
    return server


@contextlib.asynccontextmanager
async def wired(allowed: str = "") -> AsyncIterator[Wire]:
    wire = Wire()
    networks = [ip_network(allowed)] if allowed else []
    wire.server = await serve(wire.service, lambda: wire.now, networks=networks)
    try:
        yield wire
    finally:
        wire.close()
        await asyncio.sleep(0)


def run(scenario: Callable[[Wire], Awaitable[None]], allowed: str = "") -> None:
    async def main() -> None:
        async with wired(allowed) as wire:
            await scenario(wire)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"version\n", b"version"),
        (b"version\r\n", b"version"),
        (b"\n\r\n\n\nversion\r\n", b"version"),
        (b"delete \xff\x00 info=\n", b"delete \xff\x00 info="),
        (b"delete " + b"x" * 1011 + b" info=\n", b"delete " + b"x" * 1011 + b" info="),
        (b"version\nstatus\nquit\n", b"version"),
        (b"version\n" + b"y" * 100_000, b"version"),
    ],
)
def test_one_command_then_the_end(sent: bytes, line: bytes) -> None:
    async def scenario(wire: Wire) -> None:
        assert await (await wire.connect()).ask(sent) == VERSION
        assert wire.service.lines == [line]

    run(scenario)


MALFORMED = [
    b"\x00\n", b"\xff\xfe\r\n", b" \n", b" version\n", b"version \n", b"VERSION\n", b"versio\n", b"help\n",
    b"request\n", b"request c\n", b"lookup c 1.2.3.4\n", b"delete c\n", b"delete info=\n", b"status x\n",
    b"\rversion\n", b"GET / HTTP/1.1\r\n", b"INVITE sip:a@b SIP/2.0\r\n", b"81_1 d7:command4:pinge\n", b"8_1 V\n",
    b"\x16\x03\x01\x02\n", b"x" * 1024 + b"\n",
]  # fmt: skip
TOO_LONG = [
    b"x" * 1025,
    b"version" + b" " * 1018 + b"\n",
    b"\n" + b"delete " + b"x" * 1012 + b" info=\n",
    b"\0" * 300_000,
]


@pytest.mark.parametrize("sent", MALFORMED + TOO_LONG, ids=lambda sent: repr(sent[:30]))
def test_no_command_is_no_output(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        assert await (await wire.connect()).ask(sent) == b""
        assert wire.service.lines == []

    run(scenario)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "closed a connection of 127.0.0.1:" in record.message
    assert ("1024" in record.message) == (sent in TOO_LONG)


def test_a_flood_of_garbage_is_a_few_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        for _ in range(20):
            await (await wire.connect()).ask(b"garbage\n")

    run(scenario)
    assert len(caplog.records) == 5


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP x\r\n\r\n", "SIP"),
        (b"81_1 d7:command4:pinge\n", "--listen-ng"),
        (b"8_1 Uc0,8 call 192.0.2.4 5000 f;1\n", "--listen-udp"),
        (b"nonsense\n", "Not a command of the mediaproxy protocol"),
    ],
)
def test_the_wrong_protocol_is_named(sent: bytes, named: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(wire: Wire) -> None:
        assert await (await wire.connect()).ask(sent) == b""

    run(scenario)
    (message,) = caplog.messages
    assert named in message


def test_a_line_in_pieces() -> None:
    async def scenario(wire: Wire) -> None:
        client = await wire.connect()
        for i in range(1, 10):
            await client.send(b"\nversion\r"[i - 1 : i])
            await asyncio.sleep(0.001)
            assert wire.service.lines == []
        assert await client.ask(b"\n") == VERSION
        assert wire.service.lines == [b"version"]

    run(scenario)


def test_connections_do_not_share_a_buffer() -> None:
    async def scenario(wire: Wire) -> None:
        clients = [await wire.connect() for _ in range(20)]
        for client in clients:
            await client.send(b"vers")
        for client in reversed(clients):
            assert await client.ask(b"ion\n") == VERSION
        assert wire.service.lines == [b"version"] * 20

    run(scenario)


def test_half_closed_by_the_client() -> None:
    async def scenario(wire: Wire) -> None:
        client = await wire.connect()
        await client.send(b"version\n")
        client.half_close()
        assert await client.read() == VERSION
        unfinished = await wire.connect()
        await unfinished.send(b"version")
        unfinished.half_close()
        assert await unfinished.read() == b""
        assert wire.service.lines == [b"version"]
        await wire.seen(connections=0)

    run(scenario)


def test_open_connections_are_listed_newest_first() -> None:
    async def scenario(wire: Wire) -> None:
        first, answered, last = [await wire.connect() for _ in range(3)]
        await wire.seen(connections=3)
        await answered.ask(b"version\n")
        await first.ask(b"controls\n")
        assert wire.service.connections[1] == [last.name, first.name]

    run(scenario)


class TestIdle:
    def test_nothing_received(self) -> None:
        async def scenario(wire: Wire) -> None:
            client = await wire.connect()
            await wire.seen(connections=1)
            wire.pass_time(int(IDLE_S) - 1)
            assert len(wire.server._connections) == 1
            wire.pass_time(1)
            assert await client.read() == b""
            await wire.seen(connections=0)

        run(scenario)

    def test_nothing_sent_although_bytes_arrive(self) -> None:
        async def scenario(wire: Wire) -> None:
            client = await wire.connect()
            await wire.seen(connections=1)
            for _ in range(6):
                await client.send(b"\n")
                await asyncio.sleep(0.01)
                wire.pass_time(10)
            assert await client.read() == b""
            await wire.seen(connections=0)

        run(scenario)

    def test_a_reader_that_stopped(self) -> None:
        async def scenario(wire: Wire) -> None:
            wire.service.reply = bytes(MAX_UNREAD)
            client = await slow_client(wire)
            await client.send(b"status\n")
            await until(lambda: len(wire.service.lines) == 1)
            wire.pass_time(int(IDLE_S) - 1)
            assert len(wire.server._connections) == 1
            wire.pass_time(2)
            await wire.seen(connections=0)
            assert len(await client.read()) < MAX_UNREAD

        run(scenario)

    def test_an_answered_client_that_does_not_close(self) -> None:
        async def scenario(wire: Wire) -> None:
            client = await wire.connect()
            assert await client.ask(b"version\n") == VERSION
            wire.pass_time(1)
            assert len(wire.server._connections) == 1
            wire.pass_time(1)
            await wire.seen(connections=0)

        run(scenario)

    def test_the_timer_runs_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(control_tcp, "SWEEP_S", 0.01)

        async def scenario(wire: Wire) -> None:
            await wire.connect()
            await wire.seen(connections=1)
            wire.now = IDLE_S
            await wire.seen(connections=0)

        run(scenario)


async def slow_client(wire: Wire) -> Client:
    """A client on a connection whose kernel buffers hold little, so that the server has to."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, wire.server.address)
    client = Client(*await asyncio.open_connection(sock=sock, limit=1 << 12))
    wire._clients.append(client)
    await wire.seen(connections=1)
    (connection,) = wire.server._connections
    connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return client


class TestSlowReaders:
    def test_gets_everything_and_stops_nobody(self) -> None:
        async def scenario(wire: Wire) -> None:
            wire.service.reply = b"".join(b"%07d\n" % i for i in range(MAX_UNREAD // 8))
            slow = await slow_client(wire)
            await slow.send(b"status\n")
            got = await slow.read(1000)
            wanted, wire.service.reply = wire.service.reply, VERSION
            for _ in range(10):
                assert await (await wire.connect()).ask(b"version\n") == VERSION
            assert got + await slow.read() == wanted

        run(scenario)

    def test_progress_keeps_the_connection(self) -> None:
        async def scenario(wire: Wire) -> None:
            wire.service.reply = bytes(MAX_UNREAD)
            slow = await slow_client(wire)
            await slow.send(b"status\n")
            await until(lambda: len(wire.service.lines) == 1)
            (connection,) = wire.server._connections
            got = 0
            for _ in range(4):
                await slow.send(b"\n")  # the other direction has a clock of its own
                before = connection._transport.get_write_buffer_size()
                assert before > 0
                while connection._transport.get_write_buffer_size() == before:
                    got += len(await slow.read(1 << 16))
                wire.pass_time(int(IDLE_S) // 2)
            assert got + len(await slow.read()) == MAX_UNREAD

        run(scenario)

    def test_too_much_output(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(wire: Wire) -> None:
            wire.service.reply = bytes(8 * MAX_UNREAD)
            client = await wire.connect()
            assert len(await client.ask(b"status\n")) < 8 * MAX_UNREAD
            await wire.seen(connections=0)

        run(scenario)
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert str(MAX_UNREAD) in record.message


class TestVanishing:
    @pytest.mark.parametrize("sent", [b"", b"vers", b"version\n", b"status\n" + b"x" * 10_000])
    def test_resets(self, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(wire: Wire) -> None:
            wire.service.reply = bytes(1 << 20)
            for _ in range(5):
                client = await wire.connect()
                await client.send(sent)
                client.reset()
            wire.service.reply = VERSION
            assert await (await wire.connect()).ask(b"version\n") == VERSION
            wire.pass_time(2)
            await wire.seen(connections=0)

        run(scenario)
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_gone_in_the_middle_of_the_reply(self) -> None:
        async def scenario(wire: Wire) -> None:
            wire.service.reply = bytes(MAX_UNREAD)
            client = await slow_client(wire)
            await client.send(b"status\n")
            await client.read(1000)
            client.reset()
            await wire.seen(connections=0)

        run(scenario)


def test_the_number_of_connections_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_tcp, "MAX_CONNECTIONS", 3)

    async def scenario(wire: Wire) -> None:
        held = [await wire.connect() for _ in range(3)]
        await wire.seen(connections=3)
        assert await (await wire.connect()).read() == b""
        assert await held[0].ask(b"version\n") == VERSION
        held[0].close()
        await wire.seen(connections=2)
        assert await (await wire.connect()).ask(b"version\n") == VERSION

    assert MAX_CONNECTIONS == 1000
    run(scenario)
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "closed a connection of 127.0.0.1: there are 3 already"
    ]


@pytest.mark.parametrize(("allowed", "reply"), [("127.0.0.0/8", VERSION), ("192.0.2.0/24", b""), ("::/0", b"")])
def test_access(allowed: str, reply: bytes) -> None:
    async def scenario(wire: Wire) -> None:
        client = await wire.connect()
        with contextlib.suppress(ConnectionError):
            await client.send(b"version\n")
        assert await client.read() == reply
        assert wire.server.refused == (0 if reply else 1)
        assert len(wire.service.lines) == (1 if reply else 0)

    run(scenario, allowed)


def test_internal_errors_end_the_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    contexts: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            contexts.append(prefix())

    handler = Listener(logging.ERROR)
    logging.getLogger().addHandler(handler)

    async def scenario(wire: Wire) -> None:
        wire.service.failure = ZeroDivisionError("oops")
        assert await (await wire.connect()).ask(b"delete 5d@h info=\n") == b""
        wire.service.failure = None
        assert await (await wire.connect()).ask(b"version\n") == VERSION

    try:
        run(scenario)
    finally:
        logging.getLogger().removeHandler(handler)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "internal error on a request from 127.0.0.1:" in record.message and record.exc_info
    assert contexts == ["[5d@h]"]


def test_closing_the_server_drops_everybody() -> None:
    async def scenario(wire: Wire) -> None:
        clients = [await wire.connect() for _ in range(3)]
        await wire.seen(connections=3)
        address = wire.server.address
        wire.server.close()
        wire.server.close()
        assert [await client.read() for client in clients] == [b""] * 3
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    run(scenario)


def test_a_port_in_use() -> None:
    async def scenario(wire: Wire) -> None:
        with pytest.raises(OSError):
            control_tcp.bind(*wire.server.address)

    run(scenario)


def test_the_port_can_be_had_again_at_once() -> None:
    async def scenario(wire: Wire) -> None:
        client = await wire.connect()
        assert await client.ask(b"version\n") == VERSION
        wire.pass_time(2)  # the server closes first, so its side of the connection stays behind for a minute
        await wire.seen(connections=0)
        address = wire.server.address
        wire.server.close()
        await asyncio.sleep(0)
        wire.server = await serve(wire.service, lambda: wire.now, address)

    run(scenario)


@pytest.mark.parametrize(
    ("line", "command", "failed"),
    [
        (b"version", "version", 0),
        (b"request c@h 192.0.2.4:7078:audio 192.0.2.4 a l b r ua info=fromtag:f1", "request", 0),
        (b"lookup none@h 192.0.2.4:7078:audio 192.0.2.4 a l b r ua info=fromtag:f1,totag:t1", "lookup", 1),
        (b"delete none@h info=", "delete", 1),
        (b"quit", "quit", 0),
        (b"build", "build", 0),
    ],
)
def test_requests_are_counted(line: bytes, command: str, failed: int) -> None:
    counts = RequestCounts()
    readings = iter((1.0, 1.25))
    table = CallTable(FakeTransport(), Limits(), Learning.HEURISTIC, TOOLS, lambda *_: None)
    service = OpenserService(table, lambda: (0, 0))
    server = Server(service, [], lambda: 5.0, counts, lambda: next(readings))
    server._answer("192.0.2.9:4711", line)
    assert (counts.requests, counts.seconds) == ({("192.0.2.9", command): 1}, {("192.0.2.9", command): 0.25})
    assert counts.errors == {"192.0.2.9": failed}
