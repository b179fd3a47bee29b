"""The secure phone of `make demo`: it must not be content with a relay that does ICE, DTLS or SRTP wrongly."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtpengine import stun

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))

import secure_line
from OpenSSL import SSL
from phone_sdp import Address
from pylibsrtp import Error, Policy, Session
from secure_line import SecureLine, SecureLineError, fingerprint, is_dtls, is_rtcp
from stun_client import check, is_stun, is_success

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
# RFC 5769 2.2: a response to this transaction under this password
RESPONSE = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
PASSWORD = "VOkJxbRl1RmTxUk/WvJxBt"


@pytest.mark.parametrize(
    ("data", "transaction", "password", "success"),
    [
        (RESPONSE, TRANSACTION, PASSWORD, True),
        (RESPONSE, TRANSACTION, "another password", False),
        (RESPONSE, bytes(12), PASSWORD, False),
        (b"\1\x11" + RESPONSE[2:], TRANSACTION, PASSWORD, False),
        (RESPONSE[:30] + b"!" + RESPONSE[31:], TRANSACTION, PASSWORD, False),
    ],
    ids=["vector", "wrong password", "another's", "an error", "changed"],
)
def test_a_check_is_answered(data: bytes, transaction: bytes, password: str, success: bool) -> None:
    assert is_stun(data)
    assert is_success(data, transaction, password) == success


def test_a_check_nominates_its_pair() -> None:
    message = stun.parse(check(TRANSACTION, "there:here", "secret", 7))
    assert (message.method, message.message_class, message.transaction_id) == (stun.BINDING, stun.REQUEST, TRANSACTION)
    assert message.has_valid_fingerprint and message.has_valid_integrity("secret")
    assert message.attribute(stun.USERNAME) == b"there:here"
    assert message.attribute(stun.ICE_CONTROLLING) == bytes(7) + b"\7"
    assert message.attribute(stun.USE_CANDIDATE) == b""


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (RESPONSE, "stun"),
        (b"\x16\xfe\xfd" + bytes(20), "dtls"),
        (b"\x80\xc8\0\6", "rtcp"),
        (b"\x80\0" + bytes(10), None),
        (b"", None),
    ],
)
def test_what_shares_a_port(data: bytes, kind: str | None) -> None:
    assert [is_stun(data), is_dtls(data), is_rtcp(data)] == [kind == "stun", kind == "dtls", kind == "rtcp"]


class Relay:
    """The passive side, made of the same two libraries and nothing of the line under test."""

    def __init__(self, suite: str) -> None:
        self.key, self.certificate = secure_line._self_signed()
        context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        context.use_privatekey(self.key)
        context.use_certificate(self.certificate)
        if suite:
            context.set_tlsext_use_srtp(suite.encode())
        self.dtls = SSL.Connection(context, None)
        self.dtls.set_accept_state()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.05)
        self.told = {
            "ice-ufrag": "relay",
            "ice-pwd": "p" * 22,
            "fingerprint": f"sha-256 {fingerprint(self.certificate)}",
        }
        self.silent_about = ""
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def address(self) -> Address:
        return Address(*self.socket.getsockname())

    def _run(self) -> None:
        while not self.end.is_set():
            try:
                data, source = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            if is_stun(data) and self.silent_about != "STUN":
                transaction = stun.parse(data).transaction_id
                self.socket.sendto(stun.serialize(stun.SUCCESS, transaction, [], "p" * 22), source)
            elif is_dtls(data) and self.silent_about != "DTLS":
                self._step(data, source)

    def _step(self, data: bytes, source: Any) -> None:
        self.dtls.bio_write(data)
        try:
            self.dtls.do_handshake()
        except SSL.WantReadError:
            pass
        try:
            self.socket.sendto(self.dtls.bio_read(9999), source)
        except SSL.WantReadError:
            pass  # nothing to say yet

    def sessions(self, libsrtp: int, key: int, salt: int) -> tuple[Session, Session]:
        """What the server unprotects and protects with (RFC 5764 4.2)."""
        keys = self.dtls.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (key + salt), None)
        client, server, salts = keys[:key], keys[key : 2 * key], keys[2 * key :]
        return (
            Session(Policy(client + salts[:salt], Policy.SSRC_ANY_INBOUND, srtp_profile=libsrtp)),
            Session(Policy(server + salts[salt:], Policy.SSRC_ANY_OUTBOUND, srtp_profile=libsrtp)),
        )


@pytest.fixture
def relay(request: pytest.FixtureRequest) -> Iterator[Relay]:
    relay = Relay(request.param)
    relay.thread.start()
    yield relay
    relay.end.set()
    relay.thread.join()
    relay.socket.close()


@pytest.fixture
def line() -> Iterator[SecureLine]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield SecureLine(sock)


@pytest.mark.parametrize(
    ("relay", "index"),
    [("SRTP_AES128_CM_SHA1_80", 0), ("SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80", 1)],
    indirect=["relay"],
)
def test_a_secured_line(relay: Relay, line: SecureLine, index: int) -> None:
    suite = secure_line.SUITES[index]
    secured = line.connect(relay.address, relay.told)
    assert (secured.suite, secured.dtls) == (suite.name, "DTLS 1.2")
    inbound, outbound = relay.sessions(suite.libsrtp, suite.key, suite.salt)
    rtp, rtcp = b"\x80\0\0\1" + bytes(8) + b"speech", b"\x80\xc8\0\6" + bytes(24)
    secret = line.protect(rtp)
    assert b"speech" not in secret and inbound.unprotect(secret) == rtp
    assert inbound.unprotect_rtcp(line.protect_control(rtcp)) == rtcp
    assert line.unprotect(outbound.protect(rtp)) == rtp
    assert line.unprotect_control(outbound.protect_rtcp(rtcp)) == rtcp
    for unprotect in (line.unprotect, line.unprotect_control):
        with pytest.raises(Error):
            unprotect(rtcp)


@pytest.mark.parametrize("relay", ["SRTP_AES128_CM_SHA1_80"], indirect=True)
@pytest.mark.parametrize(
    ("told", "silent_about", "fault"),
    [
        ({"fingerprint": "sha-256 " + ":".join(["AA"] * 32)}, "", "the certificate is not the one"),
        ({"ice-pwd": "q" * 22}, "", "no answer to ICE checks from 127.0.0.1"),
        ({}, "STUN", "no answer to ICE checks from 127.0.0.1"),
        ({}, "DTLS", "no DTLS handshake with 127.0.0.1"),
    ],
)
def test_a_line_that_is_not_secure(
    relay: Relay,
    line: SecureLine,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, str],
    silent_about: str,
    fault: str,
) -> None:
    monkeypatch.setattr(secure_line, "_CONNECT_S", 0.3)
    relay.silent_about = silent_about
    with pytest.raises(SecureLineError, match=fault):
        line.connect(relay.address, relay.told | told)


@pytest.mark.parametrize("relay", [""], indirect=True)
def test_a_relay_without_srtp(relay: Relay, line: SecureLine) -> None:
    with pytest.raises(SecureLineError, match="no SRTP suite was agreed upon"):
        line.connect(relay.address, relay.told)


@pytest.mark.parametrize("relay", ["SRTP_AES128_CM_SHA1_80"], indirect=True)
@pytest.mark.parametrize("name", ["ice-ufrag", "ice-pwd", "fingerprint"])
def test_an_sdp_that_lacks_something(relay: Relay, line: SecureLine, name: str) -> None:
    del relay.told[name]
    with pytest.raises(SecureLineError, match=f"no a={name} in the SDP"):
        line.connect(relay.address, relay.told)
