"""DTLS 1.2 as OpenSSL does it: all that is used of pyOpenSSL, and all that is private in it.

Made for pyOpenSSL 23.0 and everything newer; what the older ones lack is asked of the library directly.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

from rtpengine.media import Fingerprint

# pyOpenSSL has no names for the versions of DTLS.
_DTLS_1_2 = 0xFEFD

# Ephemeral keys and authentication always; CBC last, for endpoints that know nothing better.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES"

_HASHES = {"sha-1": "sha1", "sha-224": "sha224", "sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
_BY_STRENGTH = tuple(_HASHES)

_READ_SIZE = 16384
_REFUSED = "certificate verify failed"

MISMATCH = "the certificate does not match the fingerprint"


class Failure(Exception):
    """An association is at an end, but not by close_notify; the text says why."""


def matches(der: bytes, fingerprints: tuple[Fingerprint, ...]) -> bool:
    """Whether a certificate is one of those described (RFC 8122 5): the strongest hash that is given decides."""
    known = [fingerprint for fingerprint in fingerprints if fingerprint.algorithm in _HASHES]
    if not known:
        return False
    algorithm = max((fingerprint.algorithm for fingerprint in known), key=_BY_STRENGTH.index)
    digest = hashlib.new(_HASHES[algorithm], der).digest()
    return any(hmac.compare_digest(digest, known_one.digest) for known_one in known if known_one.algorithm == algorithm)


def new_context(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, profiles: Iterable[str]) -> SSL.Context:
    """What all associations with one certificate share, for both roles; ``profiles`` of SRTP, the preferred first.

    Without any of them handshakes end, but in no keys.
    """
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_min_proto_version(_DTLS_1_2)
    context.set_max_proto_version(_DTLS_1_2)
    context.set_cipher_list(_CIPHERS)
    names = ":".join(profiles)
    if names:
        context.set_tlsext_use_srtp(names.encode())
    _use_certificate(context, certificate, key)
    # without this, OpenSSL takes another MTU than the one it was told
    context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _is_acceptable)
    context.set_cookie_verify_callback(_any_cookie)
    return context


def _use_certificate(context: Any, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    try:
        context.use_certificate(certificate)
        context.use_privatekey(key)
    except TypeError:
        # before pyOpenSSL 24.3, which warns of the objects that its predecessors insist on
        context.use_certificate(crypto.X509.from_cryptography(certificate))
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))


def _is_acceptable(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """Look at the certificate alone, since nobody has signed it (RFC 5763 5); all pass while none is known."""
    fingerprints = connection.get_app_data()
    return depth > 0 or not fingerprints or matches(_der(certificate), fingerprints)


def _any_cookie(connection: SSL.Connection, cookie: bytes) -> bool:
    """It was looked at before there was a session."""
    return True


def _der(certificate: crypto.X509) -> bytes:
    # not by way of cryptography, which refuses to read what OpenSSL lets pass
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


class Session:
    """One association over memory: datagrams in, records out. After a :class:`Failure` it is good for nothing."""

    def __init__(self, context: SSL.Context, mtu: int) -> None:
        self._connection = SSL.Connection(context, None)
        self._connection.set_ciphertext_mtu(mtu)
        self.finished = False
        self.closed = False

    def expect(self, fingerprints: tuple[Fingerprint, ...]) -> None:
        """Refuse other certificates in the handshake itself, so that the peer learns why; () refuses none."""
        self._connection.set_app_data(fingerprints)

    def connect(self) -> None:
        """Be the client, and write its first flight."""
        self._connection.set_connect_state()
        self._advance()

    def accept(self, first: bytes, rest: bytes, verified: bool) -> None:
        """Be the server, for the ClientHello that begins with the record ``first``.

        ``verified``: it has a cookie, so that a HelloVerifyRequest has gone before and the messages count from one.
        """
        self._connection.set_accept_state()
        if verified:
            self._connection.bio_write(first)
            self._listen()
            self._advance()
        else:
            self.receive(first)
        if rest:
            self.receive(rest)

    def _listen(self) -> None:
        try:
            self._connection.DTLSv1_listen()
        except SSL.Error as error:
            raise Failure(_reason(error)) from None

    def receive(self, records: bytes) -> None:
        """Take whole records; sets ``finished`` when the handshake is complete, ``closed`` at close_notify."""
        self._connection.bio_write(records)
        self._advance()

    def _advance(self) -> None:
        try:
            if not self.finished:
                self._connection.do_handshake()
                self.finished = True
            # Only this repeats our last flight when it was lost. Application data means nothing here.
            while True:
                self._connection.recv(_READ_SIZE)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.closed = True
        except SSL.Error as error:
            raise Failure(_reason(error)) from None

    def retransmit(self) -> None:
        """Write the last flight anew if OpenSSL's own timer is due: after 1 s, then 2, 4 ... of its clock."""
        # it gives up after twelve times, much later than its users do
        lib.DTLSv1_handle_timeout(self._connection._ssl)

    def close(self) -> None:
        """Write close_notify, of a finished handshake."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            # the peer has gone already
            pass

    def take_output(self) -> bytes:
        """The records written since the last time."""
        output = b""
        try:
            while True:
                output += self._connection.bio_read(_READ_SIZE)
        except SSL.WantReadError:
            return output

    @property
    def peer_certificate(self) -> bytes | None:
        """In DER, as soon as it has arrived."""
        certificate = self._connection.get_peer_certificate()
        return None if certificate is None else _der(certificate)

    @property
    def profile(self) -> int:
        """The number of the SRTP profile that was negotiated (RFC 5764 4.1.2), 0 for none."""
        profile = lib.SSL_get_selected_srtp_profile(self._connection._ssl)
        return 0 if profile == ffi.NULL else int(profile.id)

    def export(self, label: bytes, length: int) -> bytes:
        """Keying material without a context (RFC 5705)."""
        return self._connection.export_keying_material(label, length)


class FormerSession(Session):
    """What another process had: it is connected, and neither hears nor says anything any more."""

    def __init__(self) -> None:
        self.finished = True
        self.closed = False

    def expect(self, fingerprints: tuple[Fingerprint, ...]) -> None:
        """Nothing is left to refuse."""

    def receive(self, records: bytes) -> None:
        """Nobody can read them."""

    def close(self) -> None:
        """Nobody can say so."""

    def take_output(self) -> bytes:
        """Nothing."""
        return b""


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words, of which there are a fixed number; the peer chooses among them at most."""
    try:
        reason = str(error.args[0][-1][2])
    except (IndexError, TypeError):
        return "handshake failed"
    return MISMATCH if reason == _REFUSED else reason or "handshake failed"
