"""Calls in place, the load on them, and calls that come and go."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import socket
import subprocess
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import machine
import wire
from relay import HERE, Relay

PORT_A, PORT_B = 20000, 20002
STEPS = ("offer", "answer", "delete")

# The kinds of calls whose party B speaks SRTP.
SUITES = {
    "srtp": wire.Suite("AES_CM_128_HMAC_SHA1_80", "cm", 30),
    "f8": wire.Suite("F8_128_HMAC_SHA1_80", "f8", 30),
    "gcm": wire.Suite("AEAD_AES_128_GCM", "gcm", 28),
}

_serial = count(1)


class Unsupported(RuntimeError):
    """The relay has no such suite."""


def endpoint4(side: int, index: int) -> str:
    """The IPv4 address of one party: side 0 is A, side 1 is B."""
    index += 256
    return f"127.{64 + 32 * side + (index >> 16)}.{(index >> 8) & 255}.{index & 255}"


def endpoint6(side: int, index: int) -> str:
    """The IPv6 address of one party."""
    return f"fd00:7e57:{'ab'[side]}::{index + 1:x}"


def key_of_b(index: int, suite: wire.Suite) -> bytes:
    """Master key and salt that party B of a call sends with."""
    return hashlib.sha256(f"b{index}".encode()).digest()[: suite.key_len]


class Calls:
    """``n`` calls of one kind: rtp, one of SUITES (A plain, B SDES) or v6 (A on IPv4, B on IPv6).

    ``lines``: what rtpload has to know of each.
    """

    def __init__(self, relay: Relay, n: int, kind: str = "rtp", base: int = 0) -> None:
        self.relay, self.n, self.kind, self.base = relay, n, kind, base
        self.suite = SUITES.get(kind)
        self.tag = f"bench-{os.getpid()}-{next(_serial)}"
        self.lines: list[str] = []

    def offer(self, index: int) -> dict[str, Any]:
        """The command that offers call ``index``."""
        command = self._command("offer", index, wire.sdp(endpoint4(0, self.base + index), PORT_A))
        if self.suite:
            command |= {"transport protocol": "RTP/SAVP", "DTLS": "off", "SDES": [f"only-{self.suite.name}"]}
        if self.kind == "v6":
            command |= {"direction": ["internal", "external"], "address family": "IP6"}
        return command

    def answer(self, index: int, crypto_tag: str = "1") -> dict[str, Any]:
        """The command that answers call ``index``."""
        body = wire.sdp(self._party_b(index), PORT_B)
        if self.suite:
            crypto = wire.crypto_line(crypto_tag, self.suite, key_of_b(index, self.suite))
            body = wire.sdp(self._party_b(index), PORT_B, "RTP/SAVP", crypto)
        command = self._command("answer", index, body) | {"to-tag": f"tt{index}"}
        return command | ({"address family": "IP4"} if self.kind == "v6" else {})

    def delete(self, index: int) -> dict[str, Any]:
        """The command that ends call ``index``."""
        # the peer by default keeps a deleted call for 30 s
        return {"command": "delete", **self._identity(index), "delete-delay": 0}

    def query(self, index: int) -> dict[str, Any]:
        """The command that asks for the statistics of call ``index``."""
        return {"command": "query", "call-id": f"{self.tag}-{index}"}

    def set_up(self) -> None:
        """Offer and answer all calls; RuntimeError if the relay refuses one, Unsupported if it lacks the suite."""
        to_b = [wire.parse_sdp(r["sdp"]) for r in self.relay.demand([self.offer(i) for i in range(self.n)])]
        keys = list(map(self._key_for_b, to_b))
        answers = self.relay.demand([self.answer(i, keys[i][0]) for i in range(self.n)])
        for index, reply in enumerate(answers):
            to_a, b = wire.parse_sdp(reply["sdp"]), to_b[index]
            secrets = self._secrets(index, keys[index][1])
            self.lines.append(
                f"{endpoint4(0, self.base + index)} {to_a.address} {to_a.port} - - "
                f" {self._party_b(index)} {b.address} {b.port} {secrets}"
            )

    def tear_down(self) -> None:
        """Delete all calls."""
        self.relay.demand([self.delete(i) for i in range(self.n)])

    def _key_for_b(self, said: wire.Announced) -> tuple[str, bytes]:
        """Tag and key of the line that party B answers to."""
        if self.suite is None:
            return "1", b""
        if self.suite.name not in said.crypto:
            raise Unsupported(f"{self.suite.name} is not offered")
        return said.crypto[self.suite.name]

    def _secrets(self, index: int, relay_key: bytes) -> str:
        """The keys that party B sends and receives with, for the generator."""
        if self.suite is None:
            return "- -"
        return f"{self.suite.short}:{key_of_b(index, self.suite).hex()} {self.suite.short}:{relay_key.hex()}"

    def _identity(self, index: int) -> dict[str, str]:
        return {"call-id": f"{self.tag}-{index}", "from-tag": f"ft{index}"}

    def _party_b(self, index: int) -> str:
        return (endpoint6 if self.kind == "v6" else endpoint4)(1, self.base + index)

    def _command(self, verb: str, index: int, body: str) -> dict[str, Any]:
        return {
            "command": verb,
            **self._identity(index),
            "sdp": body,
            "flags": ["trust address"],
            "replace": ["origin", "session connection"],
            "ICE": "remove",
            "transport protocol": "RTP/AVP",
        }


class StaticCalls:
    """The same port pairs for a forwarder without control protocol, written to ``path``."""

    def __init__(self, n: int, kind: str, path: Path) -> None:
        self.lines: list[str] = []
        ip4, rows = machine.IP4, []
        ip_b = machine.IP6 if kind == "v6" else ip4
        for i in range(n):
            port = machine.PORT_MIN + 4 * i
            party_b = (endpoint6 if kind == "v6" else endpoint4)(1, i)
            rows.append(f"{ip4} {port} {endpoint4(0, i)} {PORT_A} {ip_b} {port + 2} {party_b} {PORT_B}\n")
            self.lines.append(f"{endpoint4(0, i)} {ip4} {port} - -  {party_b} {ip_b} {port + 2} - -")
        path.write_text("".join(rows))

    def tear_down(self) -> None:
        """Nothing: the forwarder knows no calls."""


class Load:
    """A running rtpload."""

    def __init__(self, calls: Calls | StaticCalls, pids: list[int], args: argparse.Namespace, scratch: Path) -> None:
        path = scratch / "calls.map"
        path.write_text("\n".join(calls.lines) + "\n")
        self.process = subprocess.Popen(
            [HERE / "rtpload", path, str(PORT_A), str(PORT_B), *map(str, pids)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: machine.place(args.cpu_load, args.nice),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        if not self._read().get("ready"):
            raise RuntimeError("rtpload did not start")

    def run(self, pps: float, secs: float, window: int = 0) -> dict[str, Any]:
        """Send for so long (pps 0: flat out; window: packets in flight) and return what was counted."""
        before = machine.udp_counters()
        self.start(pps, secs, window)
        result = self.finish()
        result["sys_rcvbuf_drops"] = machine.udp_counters()["RcvbufErrors"] - before["RcvbufErrors"]
        return result

    def start(self, pps: float, secs: float, window: int = 0) -> None:
        """Begin to send; :meth:`finish` waits for the end."""
        self._input.write(f"run 0 {pps} {secs} {window}\n")
        self._input.flush()

    def finish(self) -> dict[str, Any]:
        """Wait for a started run and return what was counted."""
        return self._read()

    def close(self) -> None:
        """End the generator; may be called twice."""
        if self._input.closed:
            return
        try:
            self._input.write("quit\n")
            self._input.close()
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self._output.close()

    def _read(self) -> dict[str, Any]:
        line = self._output.readline()
        if not line:
            raise RuntimeError("rtpload died")
        result: dict[str, Any] = json.loads(line)
        return result


@dataclass
class _Command:
    step: str
    call: int
    sent: float
    message: bytes
    tries: int = 0


class Dialect(Protocol):
    """A control protocol over UDP with a cookie before each command and each reply."""

    socket: socket.socket

    def body(self, step: str, call: int) -> bytes:
        """The command without its cookie."""

    def is_right(self, step: str, call: int, reply: bytes) -> bool:
        """Whether this, less the cookie, is what the step must be answered with."""


class Ng:
    """The ng protocol, as far as calls go that come and go."""

    def __init__(self, relay: Relay, serial: int) -> None:
        self.socket, self._serial = relay.socket, serial
        self._templates = self._make_templates(relay)

    def body(self, step: str, call: int) -> bytes:
        """The command without its cookie."""
        body = self._templates[step].replace(b"@" * 24, b"churn%06d-%012d" % (self._serial, call))
        return body.replace(b"#" * 12, b"f%011d" % call).replace(b"%" * 12, b"t%011d" % call)

    def is_right(self, step: str, call: int, reply: bytes) -> bool:
        """Whether the step succeeded."""
        return b"6:result2:ok" in reply

    def _make_templates(self, relay: Relay) -> dict[str, bytes]:
        """Each command encoded once, with marks of the right length, so that the client costs little."""
        calls = Calls(relay, 0, base=6000)
        templates = {}
        for step in STEPS:
            command = getattr(calls, step)(0) | {"call-id": "@" * 24, "from-tag": "#" * 12}
            if step == "answer":
                command["to-tag"] = "%" * 12
            templates[step] = wire.encode(command)
        return templates


class Churn:
    """Calls that are set up and deleted again: ``outstanding`` at any time, or ``rate`` new ones a second."""

    def __init__(self, relay: Relay, outstanding: int = 0, rate: float = 0, dialect: Dialect | None = None) -> None:
        self._relay, self._outstanding, self._rate = relay, outstanding, rate
        self._serial = next(_serial)
        self._dialect = dialect or Ng(relay, self._serial)
        self._cookie, self._call = count(), count()
        self._pending: dict[bytes, _Command] = {}
        self._latency: dict[str, list[float]] = {step: [] for step in STEPS}
        self._done = self._errors = 0

    def run(self, secs: float) -> dict[str, float]:
        """Start calls for so long, wait for the last one, and return rates, CPU and latencies (in us)."""
        pids = self._relay.pids()
        cpu, started = machine.cpu_seconds(pids), time.perf_counter()
        self._loop(started, started + secs)
        wall, used = time.perf_counter() - started, machine.cpu_seconds(pids) - cpu
        result = outcome(self._done, self._errors, wall, used)
        for step in STEPS:
            for name, q in (("p50", 0.5), ("p99", 0.99)):
                result[f"{step}_{name}"] = quantile(self._latency[step], q) * 1e6
        return result

    def _loop(self, started: float, end: float) -> None:
        poller = select.poll()
        poller.register(self._dialect.socket, select.POLLIN)
        for _ in range(self._outstanding):
            self._send("offer", next(self._call))
        due = started
        while self._pending or (self._rate and due < end):
            now = time.perf_counter()
            while self._rate and due <= now and due < end:
                self._send("offer", next(self._call))
                due += 1 / self._rate
            wait = 1000 if not self._rate or due >= end else max(0, int((due - now) * 1000) + 1)
            if poller.poll(wait):
                self._receive(end)
            else:
                self._repeat(now - 1.0)

    def _send(self, step: str, call: int) -> None:
        cookie = b"c%d_%d" % (self._serial, next(self._cookie))
        command = _Command(step, call, time.perf_counter(), cookie + b" " + self._dialect.body(step, call))
        self._pending[cookie] = command
        self._dialect.socket.send(command.message)

    def _receive(self, end: float) -> None:
        cookie, _, body = self._dialect.socket.recv(65536).partition(b" ")
        now = time.perf_counter()
        command = self._pending.pop(cookie, None)
        if command is None:
            return
        self._latency[command.step].append(now - command.sent)
        self._errors += not self._dialect.is_right(command.step, command.call, body)
        if command.step != "delete":
            self._send(STEPS[STEPS.index(command.step) + 1], command.call)
            return
        self._done += 1
        if self._outstanding and now < end:
            self._send("offer", next(self._call))

    def _repeat(self, older_than: float) -> None:
        for command in self._pending.values():
            if command.sent + command.tries > older_than:
                continue
            command.tries += 1
            if command.tries > 3:
                raise RuntimeError(f"no reply to {command.step}")
            self._dialect.socket.send(command.message)


def outcome(done: int, errors: int, wall: float, used: float) -> dict[str, float]:
    """What became of calls that came and went: their number, wrong replies, rate, CPU of the relay."""
    return {
        "cycles": done,
        "errors": errors,
        "per_s": done / wall,
        "cpu_us_per_cycle": used / max(done, 1) * 1e6,
        "cpu_pct": used / wall * 100,
    }


def quantile(values: list[float], q: float) -> float:
    """The q-quantile of the values, 0 if there are none."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else 0.0
