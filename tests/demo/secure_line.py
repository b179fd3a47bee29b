"""The secure half of a WebRTC phone: ICE (RFC 8445), DTLS (RFC 5764) and SRTP (RFC 3711) on one socket."""

from __future__ import annotations

import datetime
import secrets
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from phone_sdp import Address
from pylibsrtp import Policy, Session
from stun_client import HOST_PRIORITY, check, is_stun, is_success

_CONNECT_S = 30.0
_CHECK_INTERVAL_S = 0.05
_EXPORTER = b"EXTRACTOR-dtls_srtp"
_MTU = 1200
_RECORD_HEADER = 13
_MAX_DATAGRAM = 2048


class Suite(NamedTuple):
    """A protection profile by its names: as in SDP, in OpenSSL, in libsrtp; octets of key and of salt."""

    name: str
    openssl: bytes
    libsrtp: int
    key: int
    salt: int


SUITES = (
    Suite("AES_CM_128_HMAC_SHA1_80", b"SRTP_AES128_CM_SHA1_80", Policy.SRTP_PROFILE_AES128_CM_SHA1_80, key=16, salt=14),
    Suite("AEAD_AES_128_GCM", b"SRTP_AEAD_AES_128_GCM", Policy.SRTP_PROFILE_AEAD_AES_128_GCM, key=16, salt=12),
)


class SecureLineError(Exception):
    """The other side could not be reached, or is not who SDP says; the text is a reason."""


class Secured(NamedTuple):
    """What was negotiated."""

    suite: str
    dtls: str
    cipher: str


class SecureLine:
    """One end of a secured stream; RTP and RTCP share ``sock``.

    Put ``attributes`` into the phone's answer, ``connect``, and from then on let ``protect`` and its siblings handle
    each packet. We take the active role in the handshake and the controlling one in ICE.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._ufrag, self._pwd = secrets.token_hex(4), secrets.token_hex(16)
        key, self._certificate = _self_signed()
        self._dtls = SSL.Connection(_context(key, self._certificate), None)
        self._dtls.set_connect_state()
        self._dtls.set_ciphertext_mtu(_MTU)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The lines of our section (RFC 8839, RFC 8842, RFC 5761), without ``a=``."""
        host, port = self._socket.getsockname()[:2]
        return (
            "rtcp-mux",
            "setup:active",
            f"fingerprint:sha-256 {fingerprint(self._certificate)}",
            f"ice-ufrag:{self._ufrag}",
            f"ice-pwd:{self._pwd}",
            f"candidate:1 1 udp {HOST_PRIORITY} {host} {port} typ host",
        )

    def connect(self, there: Address, told: Mapping[str, str]) -> Secured:
        """Check the way to the other side, shake hands, and verify its certificate; ``told`` are its attributes."""
        deadline = time.monotonic() + _CONNECT_S
        try:
            self._reach(there, f"{told['ice-ufrag']}:{self._ufrag}", told["ice-pwd"], deadline)
            self._shake_hands(there, deadline)
            expected = told["fingerprint"]
        except KeyError as error:
            raise SecureLineError(f"no a={error.args[0]} in the SDP") from error
        except SSL.Error as error:
            raise SecureLineError(f"the DTLS handshake failed: {error}") from error
        certificate = self._dtls.get_peer_certificate()
        assert certificate
        if expected.upper() != f"SHA-256 {fingerprint(certificate.to_cryptography())}":
            raise SecureLineError("the certificate is not the one whose fingerprint the SDP names")
        return self._derive()

    def _reach(self, there: Address, user_name: str, password: str, deadline: float) -> None:
        """Send checks until one is answered."""
        transaction, tie_breaker = secrets.token_bytes(12), secrets.randbits(64)
        while time.monotonic() < deadline:
            self._socket.sendto(check(transaction, user_name, password, tie_breaker), there)
            data = self._receive(there, _CHECK_INTERVAL_S)
            if is_stun(data) and is_success(data, transaction, password):
                return
        raise SecureLineError(f"no answer to ICE checks from {there}")

    def _shake_hands(self, there: Address, deadline: float) -> None:
        while time.monotonic() < deadline:
            try:
                self._dtls.do_handshake()
                return
            except SSL.WantReadError:
                self._send_flight(there)
            if is_dtls(data := self._receive(there, self._dtls.DTLSv1_get_timeout() or 0)):
                self._dtls.bio_write(data)
            else:
                self._dtls.DTLSv1_handle_timeout()
        raise SecureLineError(f"no DTLS handshake with {there}")

    def _send_flight(self, there: Address) -> None:
        """Send what OpenSSL has written: one record after the other, each in a datagram of its own."""
        try:
            flight = self._dtls.bio_read(1 << 16)
        except SSL.WantReadError:
            return
        while flight:
            size = _RECORD_HEADER + int.from_bytes(flight[_RECORD_HEADER - 2 : _RECORD_HEADER], "big")
            self._socket.sendto(flight[:size], there)
            flight = flight[size:]

    def _receive(self, there: Address, timeout_s: float) -> bytes:
        """The next datagram from the other side, empty if none comes in time."""
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            data, source = self._socket.recvfrom(_MAX_DATAGRAM)
        except TimeoutError:
            return b""
        finally:
            self._socket.settimeout(None)
        return data if source[:2] == there else b""

    def _derive(self) -> Secured:
        """Cut the exported keys into those of each direction: RFC 5764 4.2; we are the client."""
        profile = self._dtls.get_selected_srtp_profile()
        suite = next((suite for suite in SUITES if suite.openssl == profile), None)
        if suite is None:
            raise SecureLineError("no SRTP suite was agreed upon")
        keys = self._dtls.export_keying_material(_EXPORTER, 2 * (suite.key + suite.salt), None)
        salts = keys[2 * suite.key :]
        ours, theirs = keys[: suite.key] + salts[: suite.salt], keys[suite.key : 2 * suite.key] + salts[suite.salt :]
        self._outbound = Session(Policy(ours, Policy.SSRC_ANY_OUTBOUND, srtp_profile=suite.libsrtp))
        self._inbound = Session(Policy(theirs, Policy.SSRC_ANY_INBOUND, srtp_profile=suite.libsrtp))
        version, cipher = self._dtls.get_protocol_version_name(), self._dtls.get_cipher_name()
        return Secured(suite.name, version.replace("v", " "), cipher or "")

    def protect(self, packet: bytes) -> bytes:
        """RTP to SRTP."""
        return bytes(self._outbound.protect(packet))

    def protect_control(self, packet: bytes) -> bytes:
        """RTCP to SRTCP."""
        return bytes(self._outbound.protect_rtcp(packet))

    def unprotect(self, packet: bytes) -> bytes:
        """SRTP to RTP; pylibsrtp.Error if it is not authentic."""
        return bytes(self._inbound.unprotect(packet))

    def unprotect_control(self, packet: bytes) -> bytes:
        """SRTCP to RTCP; pylibsrtp.Error if it is not authentic."""
        return bytes(self._inbound.unprotect_rtcp(packet))


def is_dtls(data: bytes) -> bool:
    """Whether a datagram is DTLS (RFC 7983)."""
    return len(data) > _RECORD_HEADER and 20 <= data[0] <= 63


def is_rtcp(data: bytes) -> bool:
    """Whether a packet on a shared port is RTCP (RFC 5761 4)."""
    return len(data) > 1 and 192 <= data[1] <= 223


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 fingerprint as SDP writes it (RFC 8122)."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _self_signed() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "phone")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    return key, builder.sign(key, hashes.SHA256())


def _context(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
    context.use_privatekey(key)
    context.use_certificate(certificate)
    # Whose certificate it is tells the fingerprint in the SDP, and no authority.
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_tlsext_use_srtp(b":".join(suite.openssl for suite in SUITES))
    return context
