"""DTLS-SRTP on one local port (RFC 5763, RFC 5764): handshakes, whom to believe, and the keys that come of it.

A server keeps nothing for a hello until its sender has returned a cookie, and then a bounded number of associations
that are not verified yet, which cannot disturb the one that is.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from ipaddress import IPv6Address
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID

from rtpengine.dtls_association import FIRST_RESEND_S, HANDSHAKE_S, MAX_RESEND_S, Association, FormerAssociation
from rtpengine.dtls_library import MISMATCH, Failure, new_context
from rtpengine.dtls_records import (
    ClientHello,
    Record,
    parse_client_hello,
    parse_records,
    serialize_hello_verify_request,
    without_former_hello,
)
from rtpengine.media import IPV6, Endpoint, Fingerprint, SrtpKeys
from rtpengine.srtp import SUITES

ACTIVE = "active"
PASSIVE = "passive"

MAX_RECEIVED = 8192

MAX_UNVERIFIED = 8
MAX_UNVERIFIED_PER_NETWORK = 2

COOKIE_LEN = 16
COOKIE_PERIOD_S = 60.0

_LIFETIME = timedelta(days=30)
_BACKDATED = timedelta(days=1)
_RENEWAL = timedelta(days=15)

CLOSED_EARLY = "closed by the peer"
TIMED_OUT = "the handshake timed out"
NO_PROFILE = "no SRTP profile in common"


class CertificateMemory(NamedTuple):
    """A certificate and its private key, both in DER."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Without the key, so that none gets into a log."""
        return "CertificateMemory()"


class DtlsMemory(NamedTuple):
    """An association that is connected, and how signalling has described the peer's certificate."""

    remote: Endpoint
    suite: str
    fingerprints: tuple[Fingerprint, ...]
    validated: bool = False
    target: Endpoint | None = None


class DtlsConnected(NamedTuple):
    """There are keys, and the certificate is the one that was signalled; ``receive`` is what the peer protects with."""

    remote: Endpoint
    receive: SrtpKeys
    send: SrtpKeys


class DtlsFailed(NamedTuple):
    """A handshake came to nothing while no other association was there; each reason is told once.

    As server, the port goes on listening: the hello may have been a stranger's, and the peer's may follow. As client,
    hellos go on for a while, since a stranger may have ended the handshake too, unless the certificate was wrong.
    """

    remote: Endpoint | None
    reason: str


class DtlsClosed(NamedTuple):
    """The peer has ended the association that was connected."""

    remote: Endpoint


class Cookies:
    """What a client has to return before anything is kept for it (RFC 6347 4.2.1); good for one hello of one remote.

    Nothing is remembered: a cookie is a MAC, under a secret that holds from one minute to the end of the next.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, hello: ClientHello, remote: Endpoint, now: float) -> bytes:
        """The cookie to ask for at this time."""
        return self._mac(hello, remote, int(now // COOKIE_PERIOD_S))

    def accepts(self, hello: ClientHello, remote: Endpoint, now: float) -> bool:
        """Whether the hello has a cookie of this period or the one before."""
        period = int(now // COOKIE_PERIOD_S)
        return any(hmac.compare_digest(hello.cookie, self._mac(hello, remote, at)) for at in (period, period - 1))

    def _mac(self, hello: ClientHello, remote: Endpoint, period: int) -> bytes:
        text = f"{period} {remote} ".encode() + hello.random
        return hmac.digest(self._secret, text, "sha256")[:COOKIE_LEN]


class Certificate:
    """Who we are to the peers of DTLS: an ECDSA key with a self-signed certificate, and the secret of the cookies."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, expires: datetime, profiles: list[str]
    ) -> None:
        self.fingerprint = Fingerprint("sha-256", certificate.fingerprint(hashes.SHA256()))
        self.context = new_context(certificate, key, profiles)
        self.cookies = Cookies(AESGCM.generate_key(256))
        self._key = key
        self._certificate = certificate
        self._expires = expires

    @classmethod
    def generate(cls, now: datetime, suites: Iterable[str] = SUITES) -> Certificate:
        """Make a new one, valid around ``now`` (UTC).

        Handshakes agree on one of the SRTP ``suites`` (SDES names, the preferred first) that have a profile in DTLS.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rtpengine")])
        expires = now + _LIFETIME
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(expires)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate, expires, _profiles(suites))

    @classmethod
    def load(cls, memory: CertificateMemory, suites: Iterable[str] = SUITES) -> Certificate:
        """One that another process has had; ``suites`` as in :meth:`generate`. Raise ValueError."""
        key = serialization.load_der_private_key(memory.key, None)
        certificate = x509.load_der_x509_certificate(memory.certificate)
        # Debian 12's cryptography compares public keys by identity.
        public = [
            owner.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            for owner in (key, certificate)
        ]
        if not isinstance(key, ec.EllipticCurvePrivateKey) or public[0] != public[1]:
            raise ValueError("the key is not the certificate's")
        # Only calls that have begun with it use it, so it is never replaced.
        return cls(key, certificate, datetime.max.replace(tzinfo=UTC), _profiles(suites))

    @cached_property
    def memory(self) -> CertificateMemory:
        """What :meth:`load` makes the same certificate of."""
        encoding, unencrypted = serialization.Encoding.DER, serialization.NoEncryption()
        key = self._key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, unencrypted)
        return CertificateMemory(self._certificate.public_bytes(encoding), key)

    def expires_soon(self, now: datetime) -> bool:
        """Whether it is time for new calls to use another one."""
        return self._expires - now <= _RENEWAL


def _profiles(suites: Iterable[str]) -> list[str]:
    return [profile for suite in suites if (profile := SUITES[suite].profile) is not None]


class _Packet(NamedTuple):
    """A datagram of whole records, whence and when it came; ``validated``: an ICE check has come from there."""

    records: list[Record]
    source: Endpoint
    now: float
    validated: bool


class DtlsEndpoint:
    """All associations of one local port.

    ``role`` is ours, ``active`` (client) or ``passive`` (server). ``fingerprints`` are the peer's certificates, () as
    long as nobody has said; a handshake may finish before that, but yields keys only when :meth:`expect` has told.
    Of several hashes the strongest counts; SHA-1 alone suffices, since only another certificate with an equal hash
    would be of use to anybody, and nobody can make that.

    ``deadline`` in monotonic seconds says when to call :meth:`handle_timeout`. After every call, take what there is
    of output and events.
    """

    def __init__(self, certificate: Certificate, role: str, fingerprints: tuple[Fingerprint, ...]) -> None:
        self._certificate = certificate
        self._role = role
        self._fingerprints = fingerprints
        self._connected: Association | None = None
        self._unverified: list[Association] = []
        self._target: Endpoint | None = None
        self._is_due = False
        self._retry_at: float | None = None
        self._retry_interval = FIRST_RESEND_S
        self._give_up_at = 0.0
        self._is_closed = False
        self._idle_state = "new"
        self._told: set[str] = set()
        self._output: list[tuple[Endpoint, bytes]] = []
        self._events: list[DtlsConnected | DtlsFailed | DtlsClosed] = []

    @property
    def memory(self) -> DtlsMemory | None:
        """What another process needs to go on; None unless connected, for a handshake has to begin anew there."""
        connected = self._connected
        if connected is None or connected.suite is None:
            return None
        fingerprints = self._fingerprints
        return DtlsMemory(connected.remote, connected.suite, fingerprints, connected.validated, self._target)

    def resume(self, memory: DtlsMemory) -> None:
        """Be connected as the endpoint of another process was; the keys have to come from there too."""
        self._connected = FormerAssociation(memory.remote, memory.suite, memory.fingerprints, memory.validated)
        self._target = memory.target

    @property
    def state(self) -> str:
        """``new``, ``handshake``, ``unverified``, ``connected``, ``closed`` or ``failed: REASON``."""
        if self._connected:
            return "connected"
        if any(association.session.finished for association in self._unverified):
            return "unverified"
        return "handshake" if self._unverified else self._idle_state

    @property
    def suite(self) -> str | None:
        """The SDES name of the suite in use."""
        return self._connected.suite if self._connected else None

    @property
    def deadline(self) -> float | None:
        """When to call :meth:`handle_timeout`; None for never."""
        if self._is_due:
            return 0.0
        deadlines = [self._retry_at, *(association.deadline for association in self._unverified)]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def take_output(self) -> list[tuple[Endpoint, bytes]]:
        """Datagrams to send since the last time, of whole records and at most 1200 bytes each."""
        output, self._output = self._output, []
        return output

    def take_events(self) -> list[DtlsConnected | DtlsFailed | DtlsClosed]:
        """What has happened since the last time."""
        events, self._events = self._events, []
        return events

    def expect(self, fingerprints: tuple[Fingerprint, ...]) -> None:
        """Signalling names the certificates of the peer.

        Where it named others before, the peer wants a new association (RFC 8842 4); the one there is stays in use
        until then, if its certificate is still among them.
        """
        if self._is_closed or set(fingerprints) == set(self._fingerprints):
            return
        if self._fingerprints:
            self._begin_anew(fingerprints)
        self._fingerprints = fingerprints
        for association in self._unverified[:]:
            association.session.expect(fingerprints)
            if association.session.finished and association in self._unverified:
                self._judge(association)

    def _begin_anew(self, fingerprints: tuple[Fingerprint, ...]) -> None:
        self._unverified = []
        self._told = set()
        self._idle_state = "new"
        self._retry_at = None
        self._is_due = self._target is not None
        if self._connected and not self._connected.is_one_of(fingerprints):
            self._connected = None

    def start(self, remote: Endpoint, now: float) -> None:
        """As client: send a ClientHello there, or go on there with the handshake or association that there is.

        Changes nothing if ``remote`` is where we are already, even if the handshake has failed; but one that
        timed out is tried again.
        """
        if self._is_closed or remote == self._target:
            return
        self._target = remote
        if not self._unverified and not self._connected:
            self._begin(now)
        for association in self._associations():
            if association.remote != remote:
                self._move(association, remote, now)

    def _begin(self, now: float) -> None:
        self._is_due = False
        self._retry_interval = FIRST_RESEND_S
        self._give_up_at = now + HANDSHAKE_S
        self._connect(now)

    def _connect(self, now: float) -> None:
        assert self._target is not None
        self._retry_at = None
        association = Association(self._certificate.context, self._target, now, validated=True)
        self._unverified = [association]
        association.session.expect(self._fingerprints)
        self._step(association, now, association.session.connect)

    def _move(self, association: Association, remote: Endpoint, now: float) -> None:
        association.remote = remote
        if not association.session.finished:
            association.hurry()
            self._send(association, association.resend(now))

    def receive(self, data: bytes, source: Endpoint, now: float, validated: bool = False) -> None:
        """Take a datagram; whatever is not DTLS, or of no association, changes nothing.

        ``validated``: ``source`` has passed an ICE check, so it is the peer's. No cookie is asked of it, and it may go
        on with what another such source has begun, as happens when the peer finds a better pair.
        """
        if self._is_closed or len(data) > MAX_RECEIVED:
            return
        packet = _Packet(without_former_hello(parse_records(data)), source, now, validated)
        if not packet.records:
            return
        hello = parse_client_hello(packet.records[0])
        if hello is None:
            self._on_records(packet)
        elif self._role == PASSIVE:
            self._on_hello(hello, packet)

    def _on_records(self, packet: _Packet) -> None:
        for association in self._associations():
            # those that came before in this loop may have put an end to it
            if _is_of(packet, association) and association in self._associations():
                self._take(association, packet)

    def _on_hello(self, hello: ClientHello, packet: _Packet) -> None:
        cookies = self._certificate.cookies
        known = next((a for a in self._associations() if a.random == hello.random and _is_of(packet, a)), None)
        if known is not None:
            # repeated by the network or by an impatient client, or the first fragment once more
            self._take(known, packet)
        elif packet.validated or cookies.accepts(hello, packet.source, packet.now):
            self._accept(hello, packet)
        else:
            request = serialize_hello_verify_request(hello, cookies.make(hello, packet.source, packet.now))
            self._output.append((packet.source, request))

    def _take(self, association: Association, packet: _Packet) -> None:
        association.remote = packet.source
        self._step(association, packet.now, partial(association.receive, packet.records))

    def _accept(self, hello: ClientHello, packet: _Packet) -> None:
        # a peer that says hello again has forgotten what it began
        self._unverified = [association for association in self._unverified if not _is_of(packet, association)]
        if not self._make_room(packet.source):
            return
        association = Association(self._certificate.context, packet.source, packet.now, packet.validated)
        self._unverified.append(association)
        association.session.expect(self._fingerprints)
        self._step(association, packet.now, partial(association.accept, hello, packet.records))

    def _make_room(self, source: Endpoint) -> bool:
        """Let go of the oldest association that is nothing but a hello, where there are too many; False if none is."""
        crowd = [a for a in self._unverified if _network(a.remote) == _network(source)]
        if len(crowd) < MAX_UNVERIFIED_PER_NETWORK:
            crowd = self._unverified
            if len(crowd) < MAX_UNVERIFIED:
                return True
        idle = next((a for a in crowd if not a.has_certificate), None)
        if idle is not None:
            self._unverified.remove(idle)
        return idle is not None

    def handle_timeout(self, now: float) -> None:
        """Repeat and give up what is due; calling too early or too often does no harm."""
        if self._is_due:
            self._begin(now)
        elif self._retry_at is not None and self._retry_at <= now:
            self._connect(now)
        for association in self._unverified[:]:
            if association.session.finished:
                continue
            if association.expires <= now:
                self._fail(association, TIMED_OUT)
                self._target = None
            elif association.resend_at <= now:
                self._send(association, association.resend(now))

    def close(self) -> None:
        """Tell the peer that this is the end (close_notify), and do nothing any more."""
        for association in self._associations():
            self._send(association, association.close())
        self._connected = None
        self._unverified = []
        self._is_closed = True
        self._is_due = False
        self._retry_at = None
        self._idle_state = "closed"

    def _associations(self) -> list[Association]:
        return [*self._unverified, self._connected] if self._connected else self._unverified[:]

    def _step(self, association: Association, now: float, action: Callable[[], None]) -> None:
        """Let a session take something in, send what it says, and see what has become of it."""
        try:
            action()
        except Failure as failure:
            self._send(association, association.take_output(now))
            self._fail(association, str(failure))
            if str(failure) != MISMATCH:
                self._retry(association, now)
            return
        self._send(association, association.take_output(now))
        if association.session.closed:
            self._send(association, association.close())
            self._fail(association, CLOSED_EARLY)
            self._retry(association, now)
        elif association.session.finished and association in self._unverified:
            self._judge(association)

    def _retry(self, association: Association, now: float) -> None:
        """Say hello again after a while, unless the peer itself has ended it: before the keys, anybody can."""
        if self._role == ACTIVE and not association.session.finished and now < self._give_up_at:
            self._retry_at = now + self._retry_interval
            self._retry_interval = min(2 * self._retry_interval, MAX_RESEND_S)

    def _judge(self, association: Association) -> None:
        """Believe a peer whose certificate is the one that was signalled; wait if nobody has said which."""
        suite = association.suite
        if suite is None:
            self._send(association, association.close())
            self._fail(association, NO_PROFILE)
        elif self._fingerprints and association.is_one_of(self._fingerprints):
            self._verified(association, suite)
        elif self._fingerprints:
            self._send(association, association.close())
            self._fail(association, MISMATCH)

    def _verified(self, association: Association, suite: str) -> None:
        client, server = association.export_keys(suite)
        receive, send = (server, client) if self._role == ACTIVE else (client, server)
        self._unverified = []
        self._connected = association
        self._told = set()
        self._idle_state = "new"
        self._events.append(DtlsConnected(association.remote, receive, send))

    def _fail(self, association: Association, reason: str) -> None:
        """Forget an association; tell so unless another one is connected, which is all that matters then."""
        if association is self._connected:
            self._connected = None
            self._idle_state = "closed"
            self._events.append(DtlsClosed(association.remote))
            return
        self._unverified.remove(association)
        if not self._connected:
            self._idle_state = f"failed: {reason}"
            if reason not in self._told:
                self._told.add(reason)
                self._events.append(DtlsFailed(association.remote, reason))

    def _send(self, association: Association, datagrams: list[bytes]) -> None:
        self._output += [(association.remote, datagram) for datagram in datagrams]


def _is_of(packet: _Packet, association: Association) -> bool:
    return association.remote == packet.source or (packet.validated and association.validated)


def _network(remote: Endpoint) -> str | bytes:
    """What one sender of hellos may well command: an IPv4 address, or 64 bits of an IPv6 one."""
    return IPv6Address(remote.address).packed[:8] if remote.family == IPV6 else remote.address
