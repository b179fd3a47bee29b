"""A certificate that OpenSSL lets pass and cryptography refuses to read: its hash decides, as with any other."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from rtpengine.dtls import ACTIVE, PASSIVE, Certificate, DtlsEndpoint
from rtpengine.media import Endpoint, Fingerprint

TODAY = datetime(2026, 6, 1, tzinfo=UTC)
CLIENT, SERVER = Endpoint("192.0.2.1", 4000), Endpoint("198.51.100.2", 30000)


def odd_certificate(tmp_path: Path) -> tuple[Certificate, bytes]:
    """One whose validity begins in a month that no year has, found by the fuzz target; and its DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), 1, TODAY, TODAY + timedelta(days=9))
    certificate = unsigned.sign(key, hashes.SHA256())
    der = certificate.public_bytes(Encoding.DER).replace(b"260601000000Z", b"269901000000Z")
    (tmp_path / "odd.der").write_bytes(der)
    odd = Certificate(key, certificate, TODAY, ["SRTP_AES128_CM_SHA1_80"])
    odd.context.use_certificate_file(str(tmp_path / "odd.der"), crypto.FILETYPE_ASN1)
    with pytest.raises(ValueError, match="not_before"):
        x509.load_der_x509_certificate(der)
    return odd, der


@pytest.mark.parametrize(("is_known", "state"), [(True, "connected"), (False, "failed: ")])
@pytest.mark.parametrize("is_early", [True, False], ids=["fingerprint first", "handshake first"])
def test_only_the_hash_counts(is_known: bool, state: str, is_early: bool, tmp_path: Path) -> None:
    ours = Certificate.generate(TODAY)
    theirs, der = odd_certificate(tmp_path)
    fingerprints = (Fingerprint("sha-256", hashlib.sha256(der if is_known else b"another").digest()),)
    server = DtlsEndpoint(ours, PASSIVE, fingerprints if is_early else ())
    client = DtlsEndpoint(theirs, ACTIVE, (ours.fingerprint,))
    client.start(SERVER, 1.0)
    for _ in range(4):
        for _, datagram in client.take_output():
            server.receive(datagram, CLIENT, 1.0)
        for _, datagram in server.take_output():
            client.receive(datagram, SERVER, 1.0)
    server.expect(fingerprints)
    assert server.state.startswith(state)
