"""The DTLS engine and OpenSSL's own programs, over loopback: cookies both ways, other keys, small datagrams, refusals.

The same programs call a whole daemon in test_openssl.py; here it is only the engine, and what a call does not reach.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rtpengine.dtls import Certificate, DtlsClosed, DtlsConnected, DtlsEndpoint, DtlsFailed
from rtpengine.dtls_library import MISMATCH
from rtpengine.media import Endpoint, Fingerprint
from rtpengine.srtp import PROFILES, CryptoSuite, split_exported

OURS = Certificate.generate(datetime.now(UTC))
PATIENCE_S = 60.0
ALL_PROFILES = ":".join(suite.profile or "" for suite in PROFILES.values())
KINDS = {"ECDSA": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "RSA": ["rsa:2048"]}


class Identity:
    """A key and a certificate of the peer, made by OpenSSL."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.options = ["-cert", str(directory / "cert.pem"), "-key", str(directory / "key.pem")]
        key = ["-newkey", *KINDS[kind], "-nodes", "-keyout", self.options[3]]
        self._run("req", "-x509", "-subj", "/CN=peer", *key, "-out", self.options[1])

    def fingerprint(self, algorithm: str) -> Fingerprint:
        """What signalling would say, as OpenSSL computes it; ``algorithm`` as in sha-256."""
        output = self._run("x509", "-in", self.options[1], "-noout", "-fingerprint", f"-{algorithm.replace('-', '')}")
        return Fingerprint(algorithm, bytes.fromhex(output.strip().partition("=")[2].replace(":", "")))

    @staticmethod
    def _run(*arguments: str) -> str:
        if shutil.which("openssl") is None:
            pytest.skip("the program openssl (Debian package openssl) is not installed")
        return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """One of each kind."""
    return {kind: Identity(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


class Pump:
    """A DTLS endpoint at a real socket."""

    def __init__(self, role: str, fingerprints: tuple[Fingerprint, ...]) -> None:
        self.endpoint = DtlsEndpoint(OURS, role, fingerprints)
        self.events: list[DtlsConnected | DtlsFailed | DtlsClosed] = []
        self.sent: list[bytes] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        """Ours."""
        return int(self.socket.getsockname()[1])

    def run(self, until: Callable[[], bool]) -> None:
        """Carry datagrams until that is so."""
        end = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < end, (self.endpoint.state, self.events)
            self._carry()

    def _carry(self) -> None:
        for remote, data in self.endpoint.take_output():
            self.sent.append(data)
            self.socket.sendto(data, remote)
        self.events += self.endpoint.take_events()
        self.socket.settimeout(0.02)
        try:
            data, source = self.socket.recvfrom(65535)
            self.endpoint.receive(data, Endpoint(*source), time.monotonic())
        except (TimeoutError, ConnectionRefusedError):
            pass
        if self.endpoint.deadline is not None and self.endpoint.deadline <= time.monotonic():
            self.endpoint.handle_timeout(time.monotonic())

    def connected(self) -> bool:
        """Whether there are keys."""
        return any(isinstance(event, DtlsConnected) for event in self.events)

    def failed(self) -> bool:
        """Whether there was a failure."""
        return any(isinstance(event, DtlsFailed) for event in self.events)


MakePump = Callable[..., Pump]


@pytest.fixture
def make_pump() -> Iterator[MakePump]:
    """Makes pumps, whose sockets close at the end of the test."""
    with ExitStack() as stack:

        def make(role: str, *fingerprints: Fingerprint) -> Pump:
            pump = Pump(role, fingerprints)
            stack.enter_context(pump.socket)
            return pump

        yield make


@contextmanager
def _program(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of OpenSSL's programs; it ends when its input does, so that stays open."""
    command = ["openssl", *arguments, "-dtls1_2", "-keymatexport", "EXTRACTOR-dtls_srtp"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _has(log: Path, pattern: str) -> re.Match[str] | None:
    return re.search(pattern, log.read_text(errors="replace"))


def _assert_same_keys(pump: Pump, log: Path, suite: CryptoSuite, role: str) -> None:
    """What we were told is what the program says."""
    pump.run(until=lambda: _has(log, "Keying material: [0-9A-F]+\n") is not None)
    assert _has(log, f"SRTP Extension negotiated, profile={suite.profile}\n")
    match = _has(log, "Keying material: ([0-9A-F]+)\n")
    assert match
    by_client, by_server = split_exported(bytes.fromhex(match[1]), suite.name)
    [event] = pump.events
    assert isinstance(event, DtlsConnected)
    assert (event.receive, event.send) == ((by_client, by_server) if role == "passive" else (by_server, by_client))
    assert pump.endpoint.suite == suite.name
    assert max(map(len, pump.sent)) <= 1200


def _length(suite: CryptoSuite) -> list[str]:
    return ["-use_srtp", suite.profile or "", "-keymatexportlen", str(suite.exported_len)]


@pytest.mark.parametrize("suite", PROFILES.values(), ids=lambda suite: suite.name)
@pytest.mark.parametrize("kind", KINDS)
def test_s_client_returns_our_cookie(
    tmp_path: Path, identities: dict[str, Identity], make_pump: MakePump, suite: CryptoSuite, kind: str
) -> None:
    peer, log = identities[kind], tmp_path / "log"
    pump = make_pump("passive", peer.fingerprint("sha-384"), peer.fingerprint("sha-1"))
    with _program(log, "s_client", "-connect", f"127.0.0.1:{pump.port}", *peer.options, *_length(suite)):
        pump.run(until=pump.connected)
        _assert_same_keys(pump, log, suite, "passive")
    assert pump.sent[0][13] == 3


@pytest.mark.parametrize("suite", PROFILES.values(), ids=lambda suite: suite.name)
@pytest.mark.parametrize("way", [[], ["-listen"], ["-mtu", "300"]], ids=["plain", "with a cookie", "small datagrams"])
def test_s_server_is_called(
    tmp_path: Path, identities: dict[str, Identity], make_pump: MakePump, suite: CryptoSuite, way: list[str]
) -> None:
    peer, log, port = identities["RSA"], tmp_path / "log", _free_port()
    pump = make_pump("active", peer.fingerprint("sha-512"))
    options = ["-accept", f"127.0.0.1:{port}", "-Verify", "1", *way, *peer.options, *_length(suite)]
    with _program(log, "s_server", *options):
        pump.endpoint.start(Endpoint("127.0.0.1", port), time.monotonic())
        pump.run(until=pump.connected)
        _assert_same_keys(pump, log, suite, "active")


@pytest.mark.parametrize("more", [[], ["-mtu", "300"]], ids=["one datagram", "fragments"])
def test_s_client_with_a_long_hello(
    tmp_path: Path, identities: dict[str, Identity], make_pump: MakePump, more: list[str]
) -> None:
    """Of over 1500 bytes, as browsers with post-quantum key shares have."""
    peer, log = identities["ECDSA"], tmp_path / "log"
    pump, suite = make_pump("passive", peer.fingerprint("sha-256")), next(iter(PROFILES.values()))
    protocols = ",".join(f"protocol-{number:04}" for number in range(120))
    options = ["-connect", f"127.0.0.1:{pump.port}", "-alpn", protocols, *more, *peer.options, *_length(suite)]
    with _program(log, "s_client", *options):
        pump.run(until=pump.connected)
        _assert_same_keys(pump, log, suite, "passive")


def test_our_order_of_profiles_counts(tmp_path: Path, identities: dict[str, Identity], make_pump: MakePump) -> None:
    peer, log = identities["ECDSA"], tmp_path / "log"
    pump = make_pump("passive", peer.fingerprint("sha-256"))
    backwards = ":".join(ALL_PROFILES.split(":")[::-1])
    options = ["-connect", f"127.0.0.1:{pump.port}", *peer.options, "-use_srtp", backwards]
    with _program(log, "s_client", *options):
        pump.run(until=pump.connected)
    assert pump.endpoint.suite == next(iter(PROFILES.values())).name


@pytest.mark.parametrize("role", ["passive", "active"])
def test_another_certificate_is_refused(
    tmp_path: Path, identities: dict[str, Identity], make_pump: MakePump, role: str
) -> None:
    peer, log, port = identities["ECDSA"], tmp_path / "log", _free_port()
    pump = make_pump(role, Fingerprint("sha-256", bytes(32)))
    passive = ["s_server", "-accept", f"127.0.0.1:{port}", "-Verify", "1"]
    way = passive if role == "active" else ["s_client", "-connect", f"127.0.0.1:{pump.port}"]
    with _program(log, *way, *peer.options, "-use_srtp", ALL_PROFILES):
        if role == "active":
            pump.endpoint.start(Endpoint("127.0.0.1", port), time.monotonic())
        pump.run(until=lambda: pump.failed() and _has(log, "alert unknown ca") is not None)
    assert [type(event) for event in pump.events] == [DtlsFailed]
    assert pump.endpoint.state == f"failed: {MISMATCH}"


def test_the_program_ends_and_so_does_the_association(
    tmp_path: Path, identities: dict[str, Identity], make_pump: MakePump
) -> None:
    peer, log = identities["ECDSA"], tmp_path / "log"
    pump, suite = make_pump("passive", peer.fingerprint("sha-256")), next(iter(PROFILES.values()))
    options = ["-connect", f"127.0.0.1:{pump.port}", *peer.options, *_length(suite)]
    with _program(log, "s_client", *options) as process:
        pump.run(until=pump.connected)
        _assert_same_keys(pump, log, suite, "passive")
        assert process.stdin
        process.stdin.write(b"Q\n")
        process.stdin.flush()
        pump.run(until=lambda: len(pump.events) > 1)
    assert isinstance(pump.events[1], DtlsClosed)
    # the next program at another port is the same peer: it has the certificate
    with _program(log, "s_client", *options):
        pump.run(until=lambda: len(pump.events) > 2)
    assert isinstance(pump.events[2], DtlsConnected)


def test_the_engine_ends_and_so_does_the_program(
    tmp_path: Path, identities: dict[str, Identity], make_pump: MakePump
) -> None:
    peer, log = identities["ECDSA"], tmp_path / "log"
    pump = make_pump("passive", peer.fingerprint("sha-256"))
    options = ["-connect", f"127.0.0.1:{pump.port}", *peer.options, "-use_srtp", ALL_PROFILES]
    with _program(log, "s_client", *options) as process:
        pump.run(until=pump.connected)
        pump.endpoint.close()
        pump.run(until=lambda: process.poll() is not None)
