"""Calls whose party B shakes hands over DTLS when it is told to; dtlsload.c does it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import machine
import wire
from calls import PORT_A, endpoint4
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from relay import HERE, Relay

PORT_DTLS = 20004
# Addresses that no other calls of a scenario have.
BASE = 20000
PROTOCOL = "UDP/TLS/RTP/SAVP"
LONGEST_S = 20.0


class Handshakes:
    """``n`` calls, plain RTP to DTLS-SRTP, each good for one handshake with party B as client."""

    def __init__(self, relay: Relay, n: int, args: argparse.Namespace, scratch: Path) -> None:
        self._relay, self._n = relay, n
        certificate, key, self._fingerprint = _make_certificate(scratch)
        path = scratch / "dtls.map"
        path.write_text("".join(self._set_up()))
        self.process = subprocess.Popen(
            [HERE / "dtlsload", certificate, key, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: machine.place(args.cpu_load, args.nice),
        )
        self._read()

    def run(self, count: int, outstanding: int) -> dict[str, Any]:
        """Do the next ``count`` handshakes, so many at a time; what was counted, with the relay's CPU time."""
        assert self.process.stdin is not None
        pids = self._relay.pids()
        cpu = machine.cpu_seconds(pids)
        self.process.stdin.write(f"run {count} {outstanding} {LONGEST_S}\n")
        self.process.stdin.flush()
        result = self._read()
        used = machine.cpu_seconds(pids) - cpu
        done = max(result["done"], 1)
        return result | {
            "per_s": result["done"] / result["secs"],
            "cpu_us": used / done * 1e6,
            "cpu_pct": used / result["secs"] * 100,
        }

    def close(self) -> None:
        """End the client and delete the calls."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(5)
        self.process.stdout.close()
        self._relay.demand([{"command": "delete", **_identity(i), "delete-delay": 0} for i in range(self._n)])

    def _set_up(self) -> list[str]:
        """Offer and answer all calls; the lines of dtlsload's map."""
        offered = self._relay.demand([self._offer(index) for index in range(self._n)])
        self._relay.demand([self._answer(index) for index in range(self._n)])
        said = [wire.parse_sdp(reply["sdp"]) for reply in offered]
        return [
            f"{endpoint4(1, BASE + index)} {PORT_DTLS} {one.address} {one.port} {one.fingerprint}\n"
            for index, one in enumerate(said)
        ]

    def _offer(self, index: int) -> dict[str, Any]:
        body = wire.sdp(endpoint4(0, BASE + index), PORT_A)
        return _command("offer", index, body) | {"transport protocol": PROTOCOL, "SDES": ["off"]}

    def _answer(self, index: int) -> dict[str, Any]:
        lines = f"a=setup:active\r\na=fingerprint:{self._fingerprint}\r\n"
        body = wire.sdp(endpoint4(1, BASE + index), PORT_DTLS, PROTOCOL, lines)
        return _command("answer", index, body) | {"to-tag": f"tt{index}", "transport protocol": "RTP/AVP"}

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("dtlsload died")
        result: dict[str, Any] = json.loads(line)
        return result


def _identity(index: int) -> dict[str, str]:
    return {"call-id": f"dtls-{os.getpid()}-{index}", "from-tag": f"ft{index}"}


def _command(verb: str, index: int, body: str) -> dict[str, Any]:
    return {
        "command": verb,
        **_identity(index),
        "sdp": body,
        "flags": ["trust address"],
        "replace": ["origin", "session connection"],
        "ICE": "remove",
    }


def _make_certificate(directory: Path) -> tuple[Path, Path, str]:
    """The client's certificate and key as files, and the fingerprint as SDP has it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    today = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - timedelta(days=1)).not_valid_after(today + timedelta(days=30))
    certificate = builder.sign(key, hashes.SHA256())
    paths = directory / "dtls.crt", directory / "dtls.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return *paths, "sha-256 " + certificate.fingerprint(hashes.SHA256()).hex(":").upper()
