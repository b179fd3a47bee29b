"""OpenSSL's own programs shake hands with the daemon (RFC 5764); what it sends then opens with the keys they have."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pylibsrtp import Policy, Session
from systemlab.daemon import wait_until
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.media import Dialogue
from systemlab.netns import Host, Lab

PROTOCOL = "UDP/TLS/RTP/SAVP"
PATIENCE_S = 60
_ETHERNET, _IPV4, _UDP = 14, 20, 8


class Profile(NamedTuple):
    """A protection profile: OpenSSL's name and SDP's, libsrtp's number, octets of key and of salt."""

    name: str
    suite: str
    libsrtp: int
    key: int
    salt: int


PROFILES = [
    Profile("SRTP_AES128_CM_SHA1_80", "AES_CM_128_HMAC_SHA1_80", Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 16, 14),
    Profile("SRTP_AES128_CM_SHA1_32", "AES_CM_128_HMAC_SHA1_32", Policy.SRTP_PROFILE_AES128_CM_SHA1_32, 16, 14),
    Profile("SRTP_AEAD_AES_128_GCM", "AEAD_AES_128_GCM", Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 16, 12),
    Profile("SRTP_AEAD_AES_256_GCM", "AEAD_AES_256_GCM", Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 32, 12),
]


def _run(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, timeout=30)
    return done.stdout


def _certificate(directory: Path) -> tuple[list[str], str]:
    """Make one; return the options that name it, and its fingerprint."""
    cert, key = str(directory / "cert.pem"), str(directory / "key.pem")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _run("req", "-x509", *curve, "-subj", "/CN=phone", "-keyout", key, "-out", cert)
    fingerprint = _run("x509", "-in", cert, "-noout", "-fingerprint", "-sha256").strip().partition("=")[2]
    return ["-cert", cert, "-key", key], fingerprint


@contextmanager
def _openssl(host: Host, log: Path, profile: Profile, options: list[str]) -> Iterator[None]:
    """``s_client`` or ``s_server``; it ends when its input does, so that stays open."""
    export = ["-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", str(2 * (profile.key + profile.salt))]
    command = ["openssl", *options, "-dtls1_2", "-use_srtp", profile.name, *export]
    with log.open("wb") as output, host.inside():
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.parametrize("profile", PROFILES, ids=[profile.name for profile in PROFILES])
@pytest.mark.parametrize("active", [True, False], ids=["s_client", "s_server"])
def test_a_handshake(
    lab: Lab, party: MakeParty, call: MakeCall, tmp_path: Path, active: bool, profile: Profile
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("the program openssl (Debian package openssl) is not installed")
    certificate, fingerprint = _certificate(tmp_path)
    lines = [f"a=setup:{'active' if active else 'passive'}", f"a=fingerprint:sha-256 {fingerprint}"]
    dialogue = call(party(lab.a), party(lab.b, protocol=PROTOCOL, mux=True, lines=lines))
    dialogue.offer(transport_protocol=PROTOCOL, rtcp_mux=["offer"])
    dialogue.answer()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    assert callee.remote
    port, (address, there) = callee.port, callee.remote.endpoint
    own = f"{callee.address}:{port}"
    dialogue.callee.close()  # from here on the port is the program's; what has been sent to it meanwhile is lost
    way = ["s_client", "-bind", own, "-connect", f"{address}:{there}"] if active else ["s_server", "-accept", own]
    log = tmp_path / "openssl.log"
    with lab.b.capture() as wire, _openssl(lab.b, log, profile, [*way, *certificate]):
        session = _session(profile, _keys(log, profile), client=active)
        # the server is done first: of what comes too early for the client nothing is sent
        assert wait_until(lambda: _stream(dialogue)["DTLS"] == "connected", PATIENCE_S), _stream(dialogue)
        assert _stream(dialogue)["crypto suite"] == profile.suite
        sent = [caller.send() for _ in range(5)]
        assert [session.unprotect(packet) for packet in _captured(wire, port, len(sent))] == sent


def _stream(dialogue: Dialogue) -> dict[str, Any]:
    """What the daemon says of the port that the program speaks with."""
    return dict(dialogue.query()["tags"][dialogue.callee.tag]["medias"][0]["streams"][0])


def _keys(log: Path, profile: Profile) -> bytes:
    """What the program has exported once the handshake is done."""

    def found() -> re.Match[str] | None:
        return re.search(r"Keying material: ([0-9A-F]+)", log.read_text(errors="replace"))

    assert wait_until(lambda: found() is not None, PATIENCE_S), log.read_text(errors="replace")
    assert f"SRTP Extension negotiated, profile={profile.name}" in log.read_text(errors="replace")
    match = found()
    assert match
    return bytes.fromhex(match[1])


def _session(profile: Profile, keys: bytes, *, client: bool) -> Session:
    """What opens the packets that come to us as the client or server (RFC 5764 4.2)."""
    size, salts = profile.key, keys[2 * profile.key :]
    theirs = (keys[size:], salts[profile.salt :]) if client else (keys, salts)
    policy = Policy(theirs[0][:size] + theirs[1][: profile.salt], Policy.SSRC_ANY_INBOUND, srtp_profile=profile.libsrtp)
    return Session(policy)


def _captured(wire: socket.socket, port: int, count: int) -> list[bytes]:
    """The next RTP packets on the wire to a port."""
    packets = []
    while len(packets) < count:
        datagram = wire.recv(65535)[_ETHERNET + _IPV4 :]
        if datagram[2:4] == port.to_bytes(2, "big") and datagram[_UDP] >> 6 == 2:
            packets.append(datagram[_UDP:])
    return packets
