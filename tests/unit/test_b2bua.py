"""The reports over XML-RPC, to Python's real server: one that works, and every way in which one does not."""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rtpengine import b2bua
from rtpengine.b2bua import B2bua, check_url
from rtpengine.log import LevelFormatter, call_context

PAUSES_S = (0.01, 0.02, 0.03)
LIMIT_S = 20.0
SECRET = "s3cret"


class Handler(SimpleXMLRPCRequestHandler):
    """Remembers the headers that matter; any path is served."""

    rpc_paths = ()
    seen: list[tuple[str, str | None, str | None]]

    def do_POST(self) -> None:
        self.seen.append((self.path, self.headers["User-Agent"], self.headers["Authorization"]))
        super().do_POST()

    def log_message(self, *_: Any) -> None: ...


class Server:
    """A real XML-RPC server on loopback; ``answer`` is what ``di`` does with its number, from 1."""

    def __init__(self, answer: Callable[[int], Any] = lambda _number: None, tls: ssl.SSLContext | None = None) -> None:
        self.handler = type("TheHandler", (Handler,), {"seen": []})
        self.calls: list[tuple[str, ...]] = []
        self._answer = answer
        self.server = SimpleXMLRPCServer(("127.0.0.1", 0), self.handler, allow_none=True)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.server.register_function(self._di, "di")
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def _di(self, *parameters: str) -> Any:
        self.calls.append(parameters)
        return self._answer(len(self.calls))

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(*args: Any, **kwargs: Any) -> Server:
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What has been logged, as operators see it; none of it may show the password."""
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(LevelFormatter())

    def read() -> list[str]:
        assert SECRET not in caplog.text
        return [line for line in caplog.text.splitlines() if "XML-RPC" in line]

    return read


def report(url: str, *tags: str, limit_s: float = LIMIT_S) -> None:
    """Report these tags of a call, to the end, while the loop stays free."""

    async def run() -> None:
        reporter = B2bua(url, limit_s, PAUSES_S)
        with call_context("a@call"):
            reporter.call_timed_out(tags)
        while reporter._waiting:
            await asyncio.sleep(0.001)
        reporter.close()

    asyncio.run(run())


def test_each_tag_is_reported(serve: Callable[..., Server], lines: Callable[[], list[str]]) -> None:
    server = serve()
    report(f"http://user:{SECRET}@127.0.0.1:{server.port}/some/where", "one", "", "<two>&\u00e9")
    assert sorted(server.calls) == [("sbc", "postControlCmd", tag, "teardown") for tag in ("<two>&\u00e9", "one")]
    assert server.handler.seen == [("/some/where", b2bua.USER_AGENT, "Basic dXNlcjpzM2NyZXQ=")] * 2
    assert sorted(lines()) == [
        f"INFO: [a@call]: [b2bua] XML-RPC: tag '{tag}' reported" for tag in ("<two>&\u00e9", "one")
    ]


@pytest.mark.parametrize("value", [None, "", 0, [1, {"a": 2}]])
def test_the_result_does_not_matter(serve: Callable[..., Server], value: object) -> None:
    server = serve(lambda _number: value)
    report(f"http://127.0.0.1:{server.port}", "t")
    assert len(server.calls) == 1


def test_without_a_path_it_is_the_usual_one(serve: Callable[..., Server]) -> None:
    server = serve()
    report(f"http://127.0.0.1:{server.port}", "t")
    assert server.handler.seen[0][0] == "/RPC2"


def test_a_server_that_recovers(serve: Callable[..., Server], lines: Callable[[], list[str]]) -> None:
    def answer(number: int) -> None:
        if number < 4:
            raise Fault(17, "not now\nforged")

    server = serve(answer)
    report(f"http://127.0.0.1:{server.port}/", "t")
    assert len(server.calls) == 4
    assert lines() == [
        *[
            rf"INFO: [a@call]: [b2bua] XML-RPC: tag 't', attempt {number} failed: fault 17: not now\nforged"
            for number in (1, 2, 3)
        ],
        "INFO: [a@call]: [b2bua] XML-RPC: tag 't' reported",
    ]


def given_up(lines: list[str]) -> str:
    """Why the only tag was given up, after four attempts."""
    assert [line.split(":")[0] for line in lines] == ["INFO", "INFO", "INFO", "WARNING"]
    start, _, reason = lines[-1].partition(", the last attempt failed too: ")
    assert start == "WARNING: [a@call]: [b2bua] XML-RPC: tag 't' is not reported"
    return reason


def test_a_server_that_goes_on_failing(serve: Callable[..., Server], lines: Callable[[], list[str]]) -> None:
    def answer(_number: int) -> None:
        raise ValueError("x" * 1000)

    server = serve(answer)
    report(f"http://127.0.0.1:{server.port}/", "t")
    assert len(server.calls) == 4
    assert given_up(lines()).startswith("fault 1: <class 'ValueError'>:xxxx")
    assert max(map(len, lines())) < 250


def test_nobody_listens(lines: Callable[[], list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    report(f"http://u:{SECRET}@127.0.0.1:{port}/", "t")
    assert given_up(lines()) == "Connection refused"


class Peer:
    """A TCP server that says ``data`` to everybody who sends something; ``end``: and hangs up, else it keeps silent."""

    def __init__(self, data: bytes, end: bool) -> None:
        self._data, self._end = data, end
        self._held: list[socket.socket] = []
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://u:{SECRET}@127.0.0.1:{self.sock.getsockname()[1]}/"
        self.accepted = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return
            self.accepted += 1
            self._held.append(connection)
            if self._end:
                self._answer(connection)
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        request = b""
        while b"</methodCall>" not in request:
            request += connection.recv(65536)
        connection.sendall(self._data)

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in (self.sock, *self._held):
            sock.close()


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    made = Peer(*request.param)
    yield made
    made.close()


def http(body: bytes, status: bytes = b"200 OK") -> tuple[bytes, bool]:
    head = b"HTTP/1.1 %s\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    return head + body, True


def value(inner: bytes) -> tuple[bytes, bool]:
    return http(b"<methodResponse><params><param><value>%s</value></param></params></methodResponse>" % inner)


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (http(b"", b"404 Not Found"), "HTTP status 404 Not Found"),
        (http(b"", b"302 " + b"x" * 900), "HTTP status 302 " + "x" * 100),
        (http(b"", b"401 \x1b[2J"), r"HTTP status 401 \x1b[2J"),
        (http(b"nonsense"), "no XML-RPC response (ExpatError)"),
        (http(b"<methodResponse></methodResponse>"), "no XML-RPC response (ResponseError)"),
        (value(b"<int>x</int>"), "no XML-RPC response (ValueError)"),
        (value(b"<struct><value>1</value></struct>"), "no XML-RPC response (IndexError)"),
        (value(b"<bigdecimal>x</bigdecimal>"), "no XML-RPC response (InvalidOperation)"),
        (value(b"<boolean>7</boolean>"), "no XML-RPC response (TypeError)"),
        ((b"HTTP/9.x\r\n\r\n", True), "no XML-RPC response (BadStatusLine)"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n<", True), "no XML-RPC response (ExpatError)"),
        ((b"", True), "Remote end closed connection without response"),
    ],
    indirect=["peer"],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_answer(peer: Peer, reason: str, lines: Callable[[], list[str]]) -> None:
    report(peer.url, "t")
    assert given_up(lines()) == reason
    assert peer.accepted == 4, "nothing is sent again without a pause"


@pytest.mark.parametrize("peer", [(b"", False)], indirect=True)
def test_a_server_that_hangs(peer: Peer, lines: Callable[[], list[str]]) -> None:
    report(peer.url, "t", limit_s=0.05)
    assert given_up(lines()) in ("no answer within 0.05 s", "timed out")


def test_a_server_that_answers_byte_by_byte(serve: Callable[..., Server], lines: Callable[[], list[str]]) -> None:
    """No single read takes long, but all of them together would take hours."""
    released = threading.Event()

    class Trickling(Peer):
        def _answer(self, connection: socket.socket) -> None:
            try:
                while not released.wait(0.005):
                    connection.sendall(b"H")
            except OSError:
                return

    peer = Trickling(b"", True)
    try:
        report(peer.url, "t", limit_s=0.1)
    finally:
        released.set()
        peer.close()
    assert given_up(lines()) == "no answer within 0.1 s"


@pytest.mark.parametrize("peer", [(b"", False)], indirect=True)
def test_the_loop_stays_free_and_the_threads_few(peer: Peer, lines: Callable[[], list[str]]) -> None:
    """While a server hangs with all that may be under way, the loop turns and the rest waits."""

    async def run() -> None:
        reporter = B2bua(peer.url, 60.0, PAUSES_S)
        before = threading.active_count()
        reporter.call_timed_out([f"t{number}" for number in range(50)])
        while peer.accepted < b2bua.MAX_AT_ONCE:
            await asyncio.sleep(0.001)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(reporter._waiting) == 50
        assert threading.active_count() - before <= b2bua.MAX_AT_ONCE
        assert peer.accepted == b2bua.MAX_AT_ONCE
        reporter.close()

    asyncio.run(run())
    assert lines() == ["WARNING: [b2bua] XML-RPC: 50 tags of calls that have timed out are not reported any more"]


@pytest.mark.parametrize("peer", [(b"", False)], indirect=True)
def test_what_waits_is_bounded(peer: Peer, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(b2bua, "MAX_WAITING", 3)

    async def run() -> None:
        reporter = B2bua(peer.url, 60.0, PAUSES_S)
        with call_context("a@call"):
            reporter.call_timed_out(["1", "2", "3", "4"])
        reporter.close()

    asyncio.run(run())
    assert lines() == [
        "WARNING: [a@call]: [b2bua] XML-RPC: tag '4' is not reported, since 3 others wait",
        "WARNING: [b2bua] XML-RPC: 3 tags of calls that have timed out are not reported any more",
    ]


@pytest.mark.parametrize("tag", ["\x01", "a\x00b", "\udcff", "\uffff", "\r"])
def test_a_tag_that_xml_cannot_hold(tag: str, serve: Callable[..., Server], lines: Callable[[], list[str]]) -> None:
    server = serve()
    report(f"http://127.0.0.1:{server.port}/", tag, "good")
    assert [parameters[2] for parameters in server.calls] == ["good"]
    assert "since XML has no such characters" in lines()[0]


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """What a server for 127.0.0.1 needs, and the file with the certificate that a client must accept."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key").write_bytes(private)
    (tmp_path / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    return context, tmp_path / "certificate"


def test_tls_with_a_certificate_that_is_accepted(
    serve: Callable[..., Server], tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authorities = tls
    server = serve(tls=context)
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    report(f"https://localhost:{server.port}/", "t")
    assert len(server.calls) == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tls_with_one_that_is_not(
    host: str,
    serve: Callable[..., Server],
    tls: tuple[ssl.SSLContext, Path],
    lines: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has signed it, or it is another host's."""
    context, authorities = tls
    server = serve(tls=context)
    if host == "127.0.0.1":
        monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    report(f"https://u:{SECRET}@{host}:{server.port}/", "t")
    assert server.calls == []
    assert given_up(lines()).startswith("certificate not accepted: ")


def test_a_url_that_will_do_is_returned_as_it_is() -> None:
    assert check_url("http://u:p@x:80/y?z") == "http://u:p@x:80/y?z"
