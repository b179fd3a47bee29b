"""DTLS-SRTP as a party speaks it: pyOpenSSL's connections, driven by the party's own datagrams (RFC 5764)."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from systemlab.srtpside import SUITES, Keys

MTU = 1200
RETRANSMIT_S = 0.1
# OpenSSL's names of the profiles of RFC 5764 4.1.2 and RFC 7714 14.2
PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": b"SRTP_AES128_CM_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32": b"SRTP_AES128_CM_SHA1_32",
    "AEAD_AES_128_GCM": b"SRTP_AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM": b"SRTP_AEAD_AES_256_GCM",
}


class Identity:
    """A self-signed certificate with its key."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "party")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
        self.certificate = builder.sign(key, hashes.SHA256())
        pem, unencrypted = serialization.Encoding.PEM, serialization.NoEncryption()
        self._pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted)
        self._pem += self.certificate.public_bytes(pem)

    def use(self, context: SSL.Context) -> None:
        """Identify by it: through a file, as every version of pyOpenSSL takes one without complaint."""
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(self._pem)
            file.flush()
            context.use_certificate_file(file.name)
            context.use_privatekey_file(file.name)

    def fingerprint(self) -> str:
        """The value of a=fingerprint (RFC 8122 5)."""
        return fingerprint(self.certificate)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate as an SDP value."""
    return "sha-256 " + certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _context(identity: Identity, profiles: list[str], ciphers: bytes | None) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    identity.use(context)
    # Whose certificate it is says the fingerprint, which is compared afterwards.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    context.set_tlsext_use_srtp(b":".join(PROFILES[profile] for profile in profiles))
    context.set_options(SSL.OP_NO_QUERY_MTU)
    if ciphers:
        context.set_cipher_list(ciphers)
    return context


class Association:
    """One DTLS association of a party, on one of its sockets."""

    def __init__(
        self, identity: Identity, *, active: bool, profiles: list[str] | None = None, ciphers: bytes | None = None
    ) -> None:
        self.active = active
        self.connection = SSL.Connection(_context(identity, profiles or list(PROFILES), ciphers), None)
        self.connection.set_ciphertext_mtu(MTU)
        if active:
            self.connection.set_connect_state()
        else:
            self.connection.set_accept_state()
        self.connected = False
        self.failed = ""
        self.suite = ""

    def start(self) -> list[bytes]:
        """The first flight of the active side."""
        return self._go_on()

    def receive(self, datagram: bytes) -> list[bytes]:
        """Take a datagram; what has to be sent now."""
        if self.failed:
            return []
        self.connection.bio_write(datagram)
        if not self.connected:
            return self._go_on()
        try:
            # A repeated flight makes OpenSSL repeat its answer, an alert ends the association.
            self.connection.recv(4096)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.failed = f"closed: {error!r}"
        return self._output()

    def repeat(self) -> list[bytes]:
        """What has to be sent again after a silence of RETRANSMIT_S."""
        if self.connected or self.failed:
            return []
        # OpenSSL waits for a second before the first repetition; this party is less patient than that.
        SSL._lib.DTLSv1_handle_timeout(self.connection._ssl)  # type: ignore[attr-defined]
        return self._output()

    def close(self) -> list[bytes]:
        """The close_notify alert."""
        self.connection.shutdown()
        return self._output()

    def _go_on(self) -> list[bytes]:
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return self._output()
        except SSL.Error as error:
            self.failed = f"handshake: {error!r}"
            return self._output()
        self.connected = True
        self.suite = self._selected()
        return self._output()

    def _selected(self) -> str:
        profile = SSL._lib.SSL_get_selected_srtp_profile(self.connection._ssl)  # type: ignore[attr-defined]
        name = SSL._ffi.string(profile.name) if profile != SSL._ffi.NULL else b""  # type: ignore[attr-defined]
        return next((suite for suite, known in PROFILES.items() if known == name), "")

    def _output(self) -> list[bytes]:
        flight = b""
        while True:
            try:
                flight += self.connection.bio_read(65536)
            except SSL.WantReadError:
                return records(flight)

    @property
    def peer_fingerprint(self) -> str:
        """The fingerprint of the certificate that the other side has shown."""
        shown = self.connection.get_peer_certificate()
        return fingerprint(shown.to_cryptography()) if shown else ""

    def keys(self) -> tuple[Keys, Keys]:
        """What we send with and what we receive with (RFC 5764 4.2)."""
        key, salt = SUITES[self.suite].key, SUITES[self.suite].salt
        exported = self.connection.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (key + salt))
        parts = [exported[:key], exported[key : 2 * key], exported[2 * key :][:salt], exported[2 * key + salt :]]
        client, server = Keys(self.suite, parts[0] + parts[2]), Keys(self.suite, parts[1] + parts[3])
        return (client, server) if self.active else (server, client)


def records(flight: bytes) -> list[bytes]:
    """Cut what OpenSSL has written into records, one datagram each (RFC 6347 4.1)."""
    cut = []
    while flight:
        length = 13 + int.from_bytes(flight[11:13], "big")
        cut.append(flight[:length])
        flight = flight[length:]
    return cut


def record(content: int, payload: bytes, epoch: int = 0, number: int | None = None) -> bytes:
    """A DTLS 1.2 record as it stands on the wire, whatever it holds."""
    sequence = os.urandom(3) if number is None else number.to_bytes(3, "big")
    return bytes([content, 254, 253]) + epoch.to_bytes(2, "big") + bytes(3) + sequence + _sized(payload, 2)


def _sized(content: bytes, length: int) -> bytes:
    return len(content).to_bytes(length, "big") + content


def client_hello(ciphers: bytes, **about: Any) -> bytes:
    """The body of a ClientHello that offers these cipher suites and the first SRTP profile."""
    use_srtp = b"\0\x0e" + _sized(b"\0\2\0\1\0", 2)
    extensions = _sized(about.get("extensions", use_srtp), 2)
    return b"\xfe\xfd" + os.urandom(32) + b"\0\0" + _sized(ciphers, 2) + b"\1\0" + extensions


def handshake(kind: int, body: bytes, *, number: int = 0, at: int = 0, total: int | None = None) -> bytes:
    """A handshake message, or the fragment of one that begins at ``at``."""
    length = len(body) if total is None else total
    return (
        bytes([kind]) + length.to_bytes(3, "big") + number.to_bytes(2, "big") + at.to_bytes(3, "big") + _sized(body, 3)
    )
