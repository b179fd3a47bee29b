"""The two older control protocols, spoken as a client: rtpproxy over UDP and mediaproxy over TCP."""

from __future__ import annotations

import socket
import time
from itertools import count
from typing import Any, Protocol

import machine
from calls import PORT_A, PORT_B, STEPS, Churn, endpoint4, outcome
from relay import Relay

BASE = 6000
REPLY_S = 3.0
SAMPLE = 200

_serial = count(1)


class Client(Protocol):
    """What the two have in common, as far as a check of single calls goes."""

    def call_id(self, call: int) -> str:
        """The call-id of the call with this number."""

    def ask(self, step: str, call: int) -> bool:
        """Do one step of one call; whether the reply was the right one."""


class _Ports:
    """The ports announced for each call in progress."""

    def __init__(self) -> None:
        self._offered: dict[int, int] = {}

    def is_right(self, step: str, call: int, address: bytes, port: bytes) -> bool:
        """Whether an even port of the pool at our address was named, and the parties of a call got one each."""
        if not port.isdigit() or address != machine.IP4.encode():
            return False
        number = int(port)
        if step == "offer":
            self._offered[call] = number
        elif self._offered.pop(call, None) == number:
            return False
        return number % 2 == 0 and machine.PORT_MIN <= number <= machine.PORT_MAX


class Rtpproxy:
    """The dialect of :class:`calls.Churn` that the ``rtpproxy`` module speaks: U, L and D, one section a call."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(REPLY_S)
        self.socket.connect((machine.NG_IP, machine.UDP_PORT))
        self._name = f"rtpproxy-{next(_serial):06d}"
        self._ports = _Ports()

    def __enter__(self) -> Rtpproxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call_id(self, call: int) -> str:
        """The call-id of the call with this number."""
        return f"{self._name}-{call:012d}"

    def body(self, step: str, call: int) -> bytes:
        """The command without its cookie."""
        tags = f"f{call:011d};1", f"t{call:011d};1"
        if step == "offer":
            return f"US {self.call_id(call)} {endpoint4(0, BASE)} {PORT_A} {tags[0]}".encode()
        if step == "answer":
            return f"LS {self.call_id(call)} {endpoint4(1, BASE)} {PORT_B} {tags[0]} {tags[1]}".encode()
        return f"D {self.call_id(call)} {tags[0][:-2]} {tags[1][:-2]}".encode()

    def is_right(self, step: str, call: int, reply: bytes) -> bool:
        """Whether this, less the cookie, is what the step must be answered with."""
        if step == "delete":
            return reply == b"0\n"
        words = reply.split()
        return len(words) == 3 and words[2] == b"4" and self._ports.is_right(step, call, words[1], words[0])

    def ask(self, step: str, call: int) -> bool:
        """Do one step of one call; whether the reply was the right one."""
        cookie = f"{self._name}-{step}".encode()
        self.socket.send(cookie + b" " + self.body(step, call))
        try:
            said, _, reply = self.socket.recv(65536).partition(b" ")
        except OSError as error:
            raise RuntimeError(f"rtpproxy: no reply to {step}: {error}") from error
        return said == cookie and self.is_right(step, call, reply)


class Mediaproxy:
    """A client of the ``mediaproxy`` kind: one connection per command, one after the other."""

    def __init__(self) -> None:
        self._name = f"mediaproxy-{next(_serial):06d}"
        self._ports = _Ports()

    def call_id(self, call: int) -> str:
        """The call-id of the call with this number."""
        return f"{self._name}-{call:012d}"

    def run(self, relay: Relay, secs: float) -> dict[str, float]:
        """Set up and delete calls for so long; rates and CPU as :class:`calls.Churn` gives them."""
        pids = relay.pids()
        cpu, started = machine.cpu_seconds(pids), time.perf_counter()
        done = errors = 0
        while time.perf_counter() < started + secs:
            errors += sum(not self.ask(step, done) for step in STEPS)
            done += 1
        return outcome(done, errors, time.perf_counter() - started, machine.cpu_seconds(pids) - cpu)

    def ask(self, step: str, call: int) -> bool:
        """Do one step of one call; whether the reply was the right one."""
        try:
            reply = self._exchange(self._line(step, call))
        except OSError as error:
            raise RuntimeError(f"mediaproxy: no reply to {step}: {error}") from error
        if step == "delete":
            return reply == b""  # the close is the reply
        words = reply.split()
        return len(words) == 2 and reply.endswith(b"\n") and self._ports.is_right(step, call, *words)

    def _line(self, step: str, call: int) -> bytes:
        if step == "delete":
            return f"delete {self.call_id(call)} info=\n".encode()
        verb, side, port, tag = ("request", 0, PORT_A, "") if step == "offer" else ("lookup", 1, PORT_B, f"t{call}")
        party = endpoint4(side, BASE)
        return (
            f"{verb} {self.call_id(call)} {party}:{port}:audio {party} a.example local b.example remote bench"
            f" info=from:a@a.example,to:b@b.example,fromtag:f{call},totag:{tag}\n"
        ).encode()

    def _exchange(self, line: bytes) -> bytes:
        """One connection: a line there, and everything back until the other side closes."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as channel:
            channel.settimeout(REPLY_S)
            channel.connect((machine.NG_IP, machine.TCP_PORT))
            channel.sendall(line)
            reply = b""
            while piece := channel.recv(4096):
                reply += piece
        return reply


def prove(relay: Relay, client: Client) -> None:
    """Go through one call, each step seen over ng too; RuntimeError if it was not what it should be."""
    for step in STEPS:
        if not client.ask(step, 0):
            raise RuntimeError(f"{client.call_id(0)}: wrong reply to {step}")
        if known(relay, client, [0]) != (step != "delete"):
            raise RuntimeError(f"{client.call_id(0)}: query over ng disagrees about the {step}")


def known(relay: Relay, client: Client, calls: list[int]) -> int:
    """How many of the calls there are, asked over ng."""
    queries: list[dict[str, Any]] = [{"command": "query", "call-id": client.call_id(call)} for call in calls]
    return sum(reply.get("result") == b"ok" for reply in relay.many(queries))


def churn_rtpproxy(relay: Relay, outstanding: int, secs: float) -> dict[str, float]:
    """Calls that come and go over UDP, ``outstanding`` at any time."""
    with Rtpproxy() as client:
        return _settle(relay, client, Churn(relay, outstanding, dialect=client).run(secs))


def churn_mediaproxy(relay: Relay, secs: float) -> dict[str, float]:
    """Calls that come and go over TCP, one at a time."""
    client = Mediaproxy()
    return _settle(relay, client, client.run(relay, secs))


def _settle(relay: Relay, client: Client, result: dict[str, float]) -> dict[str, float]:
    """Count calls that are still there for errors, of as many as can be asked for quickly."""
    done = int(result["cycles"])
    result["errors"] += known(relay, client, list(range(0, done, done // SAMPLE + 1)))
    return result
