"""A network in a test for DTLS endpoints: every datagram has a fate, and time is scripted. Also peers made otherwise.

Real time passes only where a test wants it, for OpenSSL's timers, which see no other.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from rtpengine.dtls import Certificate, DtlsConnected, DtlsEndpoint
from rtpengine.media import Endpoint, Fingerprint

TODAY = datetime(2026, 6, 1, tzinfo=UTC)
OURS, THEIRS = Certificate.generate(TODAY), Certificate.generate(TODAY)

CLIENT = Endpoint("192.0.2.10", 40000)
SERVER = Endpoint("2001:db8::20", 30000)
STRANGER = Endpoint("198.51.100.66", 666)

LATENCY_S = 0.01

# What becomes of a datagram, given its number, counted from 0 over both directions: (delay, datagram) for each copy.
Fate = Callable[[int, bytes], Iterable[tuple[float, bytes]]]


class Peer(Protocol):
    """What a wire needs of an endpoint."""

    state: str
    deadline: float | None

    def receive(self, data: bytes, source: Endpoint, now: float) -> None: ...

    def handle_timeout(self, now: float) -> None: ...

    def take_output(self) -> list[tuple[Endpoint, bytes]]: ...

    def take_events(self) -> list[object]: ...


def arrives(number: int, data: bytes) -> Iterable[tuple[float, bytes]]:
    """The fate of most datagrams."""
    return [(LATENCY_S, data)]


def client(*fingerprints: Fingerprint, certificate: Certificate = OURS) -> DtlsEndpoint:
    """An endpoint with the active role."""
    return DtlsEndpoint(certificate, "active", fingerprints)


def server(*fingerprints: Fingerprint, certificate: Certificate = THEIRS) -> DtlsEndpoint:
    """An endpoint with the passive role."""
    return DtlsEndpoint(certificate, "passive", fingerprints)


class Wire:
    """Carries datagrams between endpoints, each at its address, until nothing is on its way and nothing is due."""

    def __init__(self, endpoints: dict[Endpoint, Peer], fate: Fate = arrives, now: float = 1000.0) -> None:
        self.endpoints = endpoints
        self.fate = fate
        self.now = now
        self.is_real = False
        self.sent: list[bytes] = []
        self.events: dict[Endpoint, list[object]] = {address: [] for address in endpoints}
        self._order = itertools.count()
        self._air: list[tuple[float, int, Endpoint, Endpoint, bytes]] = []

    def collect(self) -> None:
        """Take what the endpoints have to say."""
        for source, endpoint in self.endpoints.items():
            for destination, data in endpoint.take_output():
                assert len(data) <= 1200
                for delay, copy in self.fate(len(self.sent), data):
                    item = (self.now + delay, next(self._order), source, destination, copy)
                    heapq.heappush(self._air, item)
                self.sent.append(data)
            self.events.setdefault(source, []).extend(endpoint.take_events())

    def run(self, seconds: float = 20.0, until: Callable[[], bool] | None = None) -> None:
        """Let time pass: until that is so, or nothing more can happen, at most so many seconds."""
        end = self.now + seconds
        self.collect()
        while not (until and until()):
            due = [endpoint.deadline for endpoint in self.endpoints.values() if endpoint.deadline is not None]
            following = min([*due, *(item[0] for item in self._air[:1])], default=end)
            if following >= end:
                break
            self._advance(following)

    def connect(self) -> None:
        """Run until all are connected and nothing is under way any more."""
        self.run(until=self.all_connected)
        assert self.all_connected(), self.states()
        self.run(seconds=0.05)

    def _advance(self, following: float) -> None:
        if self.is_real and following > self.now:
            time.sleep(following - self.now)
        self.now = max(self.now, following)
        while self._air and self._air[0][0] <= self.now:
            _, _, source, destination, data = heapq.heappop(self._air)
            if destination in self.endpoints:
                self.endpoints[destination].receive(data, source, self.now)
            self.collect()
        for endpoint in self.endpoints.values():
            if endpoint.deadline is not None and endpoint.deadline <= self.now:
                endpoint.handle_timeout(self.now)
        self.collect()

    def states(self) -> list[str]:
        """That of each endpoint."""
        return [endpoint.state for endpoint in self.endpoints.values()]

    def all_connected(self) -> bool:
        """Whether every endpoint has keys."""
        return set(self.states()) == {"connected"}

    def keys(self, address: Endpoint) -> DtlsConnected:
        """What that endpoint was told last."""
        connected = [event for event in self.events[address] if isinstance(event, DtlsConnected)]
        assert connected, (self.events[address], self.endpoints[address].state)
        return connected[-1]

    def assert_same_keys(self, active: Endpoint = CLIENT, passive: Endpoint = SERVER) -> None:
        """Both have keys, and what one protects with is what the other expects."""
        ours, theirs = self.keys(active), self.keys(passive)
        assert (ours.receive, ours.send) == (theirs.send, theirs.receive)
        assert ours.send != ours.receive
        assert (ours.remote, theirs.remote) == (passive, active)


def handshake(fate: Fate = arrives) -> Wire:
    """A client and a server that know each other's certificate, the client started; nothing has been carried yet."""
    return meeting(client(THEIRS.fingerprint), server(OURS.fingerprint), fate)


def meeting(active: DtlsEndpoint, passive: Peer, fate: Fate = arrives) -> Wire:
    """The same for any two."""
    wire = Wire({CLIENT: active, SERVER: passive}, fate)
    active.start(SERVER, wire.now)
    return wire


class RawPeer:
    """A peer made of pyOpenSSL alone, without anything of ours: asks for no cookies, repeats once a second."""

    def __init__(
        self,
        remote: Endpoint | None = None,
        *,
        profiles: bytes = b"SRTP_AES128_CM_SHA1_80",
        ciphers: bytes = b"DEFAULT",
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
        anonymous: bool = False,
        alpn: int = 0,
        mtu: int = 1200,
    ) -> None:
        """Be a client of ``remote``, a server without; ``alpn`` protocols make a hello long."""
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_cipher_list(ciphers)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        if profiles:
            context.set_tlsext_use_srtp(profiles)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        key = key or ec.generate_private_key(ec.SECP256R1())
        self.certificate = self_signed(key)
        if not anonymous:
            present(context, self.certificate, key)
        self.connection = SSL.Connection(context, None)
        self.connection.set_ciphertext_mtu(mtu)
        if alpn:
            self.connection.set_alpn_protos([b"protocol-%04d" % number for number in range(alpn)])
        self.remote = remote
        self.state = "handshake"
        self._due = 1001.05
        if remote:
            self.connection.set_connect_state()
            self._advance()
        else:
            self.connection.set_accept_state()

    @property
    def fingerprint(self) -> Fingerprint:
        """What signalling would say."""
        return Fingerprint("sha-256", self.certificate.fingerprint(hashes.SHA256()))

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        """Take a datagram."""
        self.remote = source
        self.connection.bio_write(data)
        self._advance()

    def _advance(self) -> None:
        try:
            self.connection.do_handshake()
            self.state = "connected"
            self.connection.recv(1000)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.state = "closed"
        except SSL.Error as error:
            self.state = f"failed: {error}"

    @property
    def deadline(self) -> float | None:
        """When OpenSSL's timer may be due."""
        return self._due if self.state == "handshake" else None

    def handle_timeout(self, now: float) -> None:
        """Let OpenSSL repeat."""
        lib.DTLSv1_handle_timeout(self.connection._ssl)
        self._due = now + 1.0

    def take_output(self) -> list[tuple[Endpoint, bytes]]:
        """All that it has written, as the datagrams that OpenSSL means it to be."""
        try:
            output = self.connection.bio_read(65536)
        except SSL.WantReadError:
            return []
        assert self.remote is not None
        return [(self.remote, datagram) for datagram in split(output)]

    def take_events(self) -> list[object]:
        """Nothing."""
        return []

    def export(self, length: int) -> bytes:
        """The keying material, as it comes out of OpenSSL."""
        return self.connection.export_keying_material(b"EXTRACTOR-dtls_srtp", length)


def self_signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> x509.Certificate:
    """A certificate that expired long ago, which is nothing to us."""
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "peer")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(datetime(2001, 1, 1)).not_valid_after(datetime(2001, 2, 1))
    return builder.sign(key, hashes.SHA256())


def present(
    context: SSL.Context, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    """Make it a context's own, with old and new versions of pyOpenSSL."""
    try:
        context.use_certificate(certificate)
        context.use_privatekey(key)
    except TypeError:
        context.use_certificate(crypto.X509.from_cryptography(certificate))
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))


def split(data: bytes) -> list[bytes]:
    """Each record on its own."""
    records = []
    while data:
        end = 13 + int.from_bytes(data[11:13], "big")
        records.append(data[:end])
        data = data[end:]
    return records


def record(content_type: int, payload: bytes, epoch: int = 0, sequence: int = 0, version: bytes = b"\xfe\xfd") -> bytes:
    """One record."""
    numbers = epoch.to_bytes(2, "big") + sequence.to_bytes(6, "big")
    return bytes([content_type]) + version + numbers + len(payload).to_bytes(2, "big") + payload


def message(
    kind: int, body: bytes, sequence: int = 0, offset: int = 0, end: int | None = None, length: int | None = None
) -> bytes:
    """A handshake message, or its fragment from ``offset`` to ``end``; ``length`` is what it claims to have in all."""
    fragment = body[offset:end]
    header = bytes([kind]) + (len(body) if length is None else length).to_bytes(3, "big") + sequence.to_bytes(2, "big")
    return header + offset.to_bytes(3, "big") + len(fragment).to_bytes(3, "big") + fragment


# x25519 and P-256; ECDSA with SHA-256; SRTP_AES128_CM_HMAC_SHA1_80
EXTENSIONS = bytes.fromhex("000a00060004001d0017000d000400020403000e00050002000100")
GOOD_CIPHERS = b"\xc0\x2b"


def hello_body(cookie: bytes = b"", ciphers: bytes = b"\x00\x00", random: bytes = bytes(range(32))) -> bytes:
    """A ClientHello; the cipher 0x0000 is the one of the published attack."""
    vectors = bytes(1) + bytes([len(cookie)]) + cookie + len(ciphers).to_bytes(2, "big") + ciphers + b"\x01\x00"
    return b"\xfe\xfd" + random + vectors + len(EXTENSIONS).to_bytes(2, "big") + EXTENSIONS


def hello(cookie: bytes = b"", ciphers: bytes = b"\x00\x00", random: bytes = bytes(range(32))) -> bytes:
    """It as a datagram, the first or, with a cookie, the second of a client."""
    number = 1 if cookie else 0
    return record(22, message(1, hello_body(cookie, ciphers, random), number), sequence=number, version=b"\xfe\xff")


def cookie_of(hello_verify_request: bytes) -> bytes:
    """What the server asks to be repeated."""
    assert hello_verify_request[13] == 3
    return hello_verify_request[28:]


def knock(endpoint: DtlsEndpoint, source: Endpoint, now: float, ciphers: bytes = b"\x00\x00") -> list[bytes]:
    """Say hello as a stranger who gets replies: first without, then with the cookie. Returns what comes at last."""
    endpoint.receive(hello(ciphers=ciphers), source, now)
    [(destination, request)] = endpoint.take_output()
    assert destination == source
    endpoint.receive(hello(cookie_of(request), ciphers), source, now)
    return [data for destination, data in endpoint.take_output() if destination == source]
