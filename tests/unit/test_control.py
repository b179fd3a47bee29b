"""The ng listener on a loopback socket, with scripted time and a service that counts."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import bencodepy
import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import ProtocolError, ResourceError, ng
from rtpengine.control import DatagramListener, NgProtocol, ReplyCache, RtpproxyProtocol, bind, bind_tcp
from rtpengine.counts import UNREADABLE, RequestCounts
from rtpengine.media import Learning
from rtpengine.rtpproxy_service import RtpproxyService
from rtpengine.service import NgService, log_final_statistics
from rtpengine.table import CallTable, Limits

PING = b"d7:command4:pinge"
PONG = b"d6:result4:ponge"


class CountingService:
    """Answers with the number of requests that it has executed, or fails as it is told."""

    def __init__(self) -> None:
        self.executed = 0
        self.failure: Exception | None = None

    def execute(self, command: ng.Command, now: float, wall: float) -> dict[str, Any]:
        self.executed += 1
        if self.failure is not None:
            raise self.failure
        return {"result": "pong"} if isinstance(command, ng.Ping) else {"result": "ok", "n": self.executed}


class Wire:
    """A listener and a client socket."""

    def __init__(self, allowed: str = "") -> None:
        self.service = CountingService()
        networks = [ip_network(allowed)] if allowed else []
        self.listener = DatagramListener(bind("127.0.0.1", 0), NgProtocol(self.service), networks)  # type: ignore[arg-type]
        self.client = self.new_client()

    def new_client(self) -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(self.listener.sock.getsockname())
        client.setblocking(False)
        return client

    def ask(self, datagram: bytes, client: socket.socket | None = None) -> bytes | None:
        client = client or self.client
        client.send(datagram)
        self.listener.on_readable()
        try:
            return client.recv(65535)
        except BlockingIOError:
            return None

    def close(self) -> None:
        self.client.close()
        self.listener.sock.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


QUERY = b"d7:call-id1:c7:command5:querye"


def test_ping(wire: Wire) -> None:
    assert wire.ask(b"81_4711_3 " + PING) == b"81_4711_3 " + PONG


@pytest.mark.parametrize("datagram", [b"", b"nospace", b" " + PING])
def test_nothing_to_reply_to(wire: Wire, datagram: bytes) -> None:
    assert wire.ask(datagram) is None
    assert wire.service.executed == 0


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", b"Invalid data (no payload)"),
        (b"garbage", b"Could not decode dictionary"),
        (b'{"command": "ping"}', b"Could not decode dictionary"),
        (b"d7:command4:jumpe", b"Unrecognized command"),
        (b"d7:command15:start recordinge", b"Recording is not supported"),
    ],
)
def test_bad_requests(wire: Wire, payload: bytes, reason: bytes) -> None:
    reply = wire.ask(b"1 " + payload)
    assert reply is not None and reply.startswith(b"1 d12:error-reason") and reason in reply
    assert wire.service.executed == 0


class TestRetransmission:
    def test_executed_once_and_answered_alike(self, wire: Wire) -> None:
        first = wire.ask(b"1 " + QUERY)
        assert [wire.ask(b"1 " + QUERY) for _ in range(4)] == [first] * 4
        assert wire.service.executed == 1
        assert wire.ask(b"2 " + QUERY) != first

    def test_same_cookie_from_elsewhere_is_another_request(self, wire: Wire) -> None:
        other = wire.new_client()
        assert wire.ask(b"1 " + QUERY) != wire.ask(b"1 " + QUERY, other)
        assert wire.service.executed == 2
        other.close()

    @pytest.mark.parametrize(("rotations", "executed"), [(1, 1), (2, 2)])
    def test_lives_for_two_generations(self, wire: Wire, rotations: int, executed: int) -> None:
        wire.ask(b"1 " + QUERY)
        for _ in range(rotations):
            wire.listener.cache.rotate()
        wire.ask(b"1 " + QUERY)
        assert wire.service.executed == executed

    def test_cache_is_bounded(self) -> None:
        cache = ReplyCache(limit=10)
        for i in range(1000):
            cache.put(("127.0.0.1", 1), b"%d" % i, b"x")
        kept = [i for i in range(1000) if cache.get(("127.0.0.1", 1), b"%d" % i)]
        assert 5 <= len(kept) <= 10 and kept[-1] == 999

    def test_errors_are_remembered_too(self, wire: Wire) -> None:
        wire.service.failure = ProtocolError("no")
        first = wire.ask(b"1 " + QUERY)
        wire.service.failure = None
        assert wire.ask(b"1 " + QUERY) == first


@pytest.mark.parametrize(
    ("failure", "reason", "level", "traceback"),
    [
        (ProtocolError("Unknown call-id"), b"Unknown call-id", logging.INFO, False),
        (ResourceError("Ran out of ports"), b"Ran out of ports", logging.WARNING, False),
        (ZeroDivisionError(), b"Internal error", logging.ERROR, True),
    ],
)
def test_failures_end_as_one_error_reply(
    wire: Wire, caplog: pytest.LogCaptureFixture, failure: Exception, reason: bytes, level: int, traceback: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    wire.service.failure = failure
    assert wire.ask(b"1 " + QUERY) == b"1 d12:error-reason%d:%s6:result5:errore" % (len(reason), reason)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info is not None) == (level, traceback)
    wire.service.failure = None
    assert wire.ask(b"2 " + PING) == b"2 " + PONG


@pytest.mark.parametrize(
    ("datagram", "named"),
    [
        (b"12_1 V", "--listen-udp"),
        (b"INVITE sip:b@example.net SIP/2.0\r\n\r\n", "SIP"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (b"status\n", "--listen-tcp"),
        (b"garbage", "No cookie in message"),
    ],
)
def test_the_wrong_protocol_is_named(wire: Wire, caplog: pytest.LogCaptureFixture, datagram: bytes, named: str) -> None:
    for _ in range(20):
        wire.ask(datagram)
        wire.listener.cache = ReplyCache()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert named in warnings[0]
    assert len(warnings) < 10


class TestRtpproxy:
    @pytest.fixture
    def udp(self) -> Iterator[Wire]:
        wire = Wire()
        table = CallTable(FakeTransport(), Limits(), Learning.HEURISTIC, TOOLS, log_final_statistics)
        wire.listener._protocol = RtpproxyProtocol(RtpproxyService(table, "192.0.2.1"))
        yield wire
        wire.close()

    def test_a_call_and_its_retransmission(self, udp: Wire) -> None:
        first = udp.ask(b"12_1 U c@pc 192.0.2.10 49170 fa11;1")
        assert first == b"12_1 30000 198.51.100.2 4\n"
        assert udp.ask(b"12_1 U c@pc 192.0.2.10 49170 fa11;1") == first
        assert udp.ask(b"12_2 L c@pc 192.0.2.20 5004 fa11;1 7b9;1") == b"12_2 30002 198.51.100.2 4\n"
        assert udp.ask(b"12_3 D c@pc fa11 7b9") == b"12_3 0\n"

    @pytest.mark.parametrize(
        ("datagram", "named"),
        [
            (b"1 " + PING, "--listen-ng"),
            (b"INVITE sip:b@example.net SIP/2.0\r\n\r\n", "SIP"),
            (b"OPTIONS sip:example.net SIP/2.0\r\n\r\n", "SIP"),
            (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
            (b"status\n", "--listen-tcp"),
            (b"request c@h 192.0.2.4:7078:audio 192.0.2.4 a l b r ua info=fromtag:f1\n", "--listen-tcp"),
        ],
    )
    def test_the_wrong_protocol_is_named(
        self, udp: Wire, caplog: pytest.LogCaptureFixture, datagram: bytes, named: str
    ) -> None:
        assert str(udp.ask(datagram)).endswith("E8\\n'")
        assert named in caplog.text

    @pytest.mark.parametrize("datagram", [b"1 P1 c@x prompt session a;1", b"1 X", b"1 V", b"1 Q c@x f"])
    def test_what_rtpproxy_knows_is_no_stranger(
        self, udp: Wire, caplog: pytest.LogCaptureFixture, datagram: bytes
    ) -> None:
        udp.ask(datagram)
        assert "this is" not in caplog.text

    def test_our_own_failure(self, udp: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(RtpproxyService, "answer", lambda *_: 1 / 0)
        assert udp.ask(b"1 V") == b"1 E8\n"


@pytest.mark.parametrize(("allowed", "answered"), [("127.0.0.0/8", True), ("192.0.2.0/24", False)])
def test_access(allowed: str, answered: bool) -> None:
    wire = Wire(allowed)
    assert (wire.ask(b"1 " + PING) is not None) is answered
    assert wire.listener.refused == (0 if answered else 1)
    wire.close()


def test_mapped_addresses_are_ipv4() -> None:
    service = CountingService()
    listener = DatagramListener(bind("::", 0), NgProtocol(service), [ip_network("127.0.0.0/8")])  # type: ignore[arg-type]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(b"1 " + PING, ("127.0.0.1", listener.sock.getsockname()[1]))
        listener.on_readable()
        assert client.recv(100) == b"1 " + PONG
    listener.sock.close()


# Counting


class Ticks:
    """A clock that goes on by a quarter of a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def calls(limit: int = 1000) -> CallTable:
    return CallTable(FakeTransport(limit=limit), Limits(), Learning.HEURISTIC, TOOLS, log_final_statistics)


@pytest.mark.parametrize(
    ("request_", "command", "failed"),
    [
        ({"command": "ping"}, "ping", 0),
        ({"command": "query", "call-id": "none"}, "query", 1),
        ({"command": "delete", "call-id": "none", "from-tag": "a"}, "delete", 0),
        ({"command": "offer", "call-id": "c", "from-tag": "a", "sdp": "nonsense"}, "offer", 1),
        ({"command": "offer", "call-id": "c"}, UNREADABLE, 1),
        ({"command": "<script>"}, UNREADABLE, 1),
    ],
)
def test_ng_requests_are_counted(request_: dict[str, Any], command: str, failed: int) -> None:
    counts = RequestCounts()
    protocol = NgProtocol(NgService(calls()), counts=counts, clock=Ticks())
    protocol.answer(b"1", bencodepy.encode(request_), "192.0.2.9", 1.0, 1.0)
    assert (counts.requests, counts.seconds) == ({("192.0.2.9", command): 1}, {("192.0.2.9", command): 0.25})
    assert counts.errors == {"192.0.2.9": failed}


def test_our_own_faults_are_counted_as_errors() -> None:
    counts, service = RequestCounts(), CountingService()
    service.failure = RuntimeError("our own fault")
    protocol = NgProtocol(service, counts=counts)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        protocol.answer(b"1", PING, "192.0.2.9", 1.0, 1.0)
    assert counts.errors == {"192.0.2.9": 1}
    assert counts.requests == {("192.0.2.9", "ping"): 1}


@pytest.mark.parametrize(
    ("line", "command", "failed"),
    [
        (b"V", "version", 0),
        (b"U c@x 192.0.2.1 5004 f;1", "update", 0),
        (b"L c@x 192.0.2.1 5004 f;1 t;1", "lookup", 0),
        (b"Q c@x f", "query", 1),
        (b"d none f", "delete", 1),
        (b"X", UNREADABLE, 1),
        (b"", UNREADABLE, 1),
        (b"U c@x", "update", 1),
        (b"\xff\xfe", UNREADABLE, 1),
    ],
)
def test_rtpproxy_requests_are_counted(line: bytes, command: str, failed: int) -> None:
    counts = RequestCounts()
    protocol = RtpproxyProtocol(RtpproxyService(calls(), "192.0.2.1"), counts, Ticks())
    protocol.answer(b"1", line, "192.0.2.9", 1.0, 1.0)
    assert (counts.requests, counts.seconds) == ({("192.0.2.9", command): 1}, {("192.0.2.9", command): 0.25})
    assert counts.errors == {"192.0.2.9": failed}


def test_an_update_without_ports_is_an_error() -> None:
    counts = RequestCounts()
    protocol = RtpproxyProtocol(RtpproxyService(calls(limit=2), "192.0.2.1"), counts)
    for call in (b"a", b"b"):
        protocol.answer(call, b"U " + call + b" 192.0.2.1 5004 f;1", "192.0.2.9", 1.0, 1.0)
    assert counts.errors == {"192.0.2.9": 1}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::"])
def test_binding_tcp(address: str) -> None:
    with bind_tcp(address, 0) as sock:
        assert sock.getsockname()[0] == address
        assert not sock.getblocking()
        sock.listen()
        with pytest.raises(OSError) as error:
            bind_tcp(address, sock.getsockname()[1])
        assert error.value.strerror == os.strerror(errno.EADDRINUSE)
        with socket.create_connection(("127.0.0.1" if address == "::" else address, sock.getsockname()[1]), 5):
            pass
