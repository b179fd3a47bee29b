"""A relay under test as a process: started from a command template, spoken to over ng."""

from __future__ import annotations

import argparse
import os
import select
import shlex
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import wire

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """What is compared: a name, the command template, and whether it forwards by a map without ng.

    ``rounds`` bounds in how many rounds it takes part; ``scenarios``, where given, in which scenarios;
    ``lacks``, where given, says why its command opens no port for one of the older protocols. ``http`` is what to add
    to the command for metrics and a status page, where there are any.
    """

    name: str
    command: str
    static: bool = False
    rounds: int = 1 << 30
    scenarios: str = ""
    lacks: str = ""
    http: str = ""


@dataclass
class _Request:
    index: int
    message: bytes
    tries: int = field(default=0)


class Relay:
    """One started relay. ``start_ms`` and ``start_cpu_ms``: until its first pong."""

    def __init__(self, target: Target, args: argparse.Namespace, scratch: Path, map_path: Path | None = None) -> None:
        self.target = target
        self.start_ms = self.start_cpu_ms = 0.0
        self._serial = 0
        self._socket: socket.socket | None = None
        self._log_path = scratch / f"{target.name}.log"
        started = time.monotonic()
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(scratch, map_path),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if target.static else log,
                stderr=log,
                preexec_fn=lambda: machine.place(args.cpu_daemon, args.nice),
                cwd=args.cwd or None,
            )
        if target.static:
            self._await_ready()
        else:
            self._await_pong(started)

    @property
    def socket(self) -> socket.socket:
        """The ng client's socket, connected."""
        if self._socket is None:
            raise RuntimeError(f"{self.target.name} has no control protocol")
        return self._socket

    def pids(self) -> list[int]:
        """The relay's process and its descendants."""
        return machine.process_tree(self.process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of them."""
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def stop(self) -> None:
        """End the relay and wait until its ports are free."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self.process.wait(5)
        for channel in (self._socket, self.process.stdout):
            if channel:
                channel.close()
        # the kernel may let go of sockets after the process is gone (io_uring does)
        deadline = time.monotonic() + 10
        while machine.ports_in_use() and time.monotonic() < deadline:
            time.sleep(0.02)

    def many(self, requests: list[dict[str, Any]], window: int = 32, timeout: float = 2.0) -> list[dict[str, Any]]:
        """Send all requests, ``window`` at a time, and return the decoded replies in order."""
        self._serial += 1
        replies: list[dict[str, Any]] = [{}] * len(requests)
        pending: dict[bytes, _Request] = {}
        following = 0
        while following < len(requests) or pending:
            while following < len(requests) and len(pending) < window:
                cookie = b"b%d_%d" % (self._serial, following)
                pending[cookie] = _Request(following, cookie + b" " + wire.encode(requests[following]))
                self.socket.send(pending[cookie].message)
                following += 1
            if not select.select([self.socket], [], [], timeout)[0]:
                self._repeat(pending)
                continue
            cookie, _, body = self.socket.recv(65536).partition(b" ")
            if cookie in pending:
                replies[pending.pop(cookie).index] = wire.decode(body)
        return replies

    def demand(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As :meth:`many`; raise RuntimeError if any is refused."""
        replies = self.many(requests)
        for request, reply in zip(requests, replies, strict=True):
            if reply.get("result") != b"ok":
                raise RuntimeError(f"{request['command']} refused: {reply}")
        return replies

    def _command(self, scratch: Path, map_path: Path | None) -> list[str]:
        values = {
            "ng": f"{machine.NG_IP}:{machine.NG_PORT}",
            "udp": f"{machine.NG_IP}:{machine.UDP_PORT}",
            "tcp": f"{machine.NG_IP}:{machine.TCP_PORT}",
            "http": f"{machine.NG_IP}:{machine.HTTP_PORT}",
            "ng_ip": machine.NG_IP,
            "ng_port": machine.NG_PORT,
            "ip4": machine.IP4,
            "ip6": machine.IP6,
            "port_min": machine.PORT_MIN,
            "port_max": machine.PORT_MAX,
            "tmp": scratch,
            "map": map_path or "",
            "here": HERE,
        }
        return shlex.split(self.target.command.format(**values))

    def _await_ready(self) -> None:
        if self.process.stdout is None or b"ready" not in self.process.stdout.readline():
            self._fail("no 'ready' line")

    def _await_pong(self, started: float) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.connect((machine.NG_IP, machine.NG_PORT))
        while not self._pongs():
            if self.process.poll() is not None:
                self._fail(f"exited with {self.process.returncode}")
            if time.monotonic() > started + 30:
                self._fail("no pong within 30 s")
        self.start_ms = (time.monotonic() - started) * 1000
        self.start_cpu_ms = machine.cpu_seconds(self.pids()) * 1000
        while select.select([self.socket], [], [], 0.02)[0]:
            try:
                self.socket.recv(65536)
            except ConnectionRefusedError:
                pass  # of a ping before the port was open

    def _pongs(self) -> bool:
        try:
            self.socket.send(b"0_0 " + wire.encode({"command": "ping"}))
            return bool(select.select([self.socket], [], [], 0.001)[0]) and b"pong" in self.socket.recv(65536)
        except ConnectionRefusedError:
            time.sleep(0.0005)
            return False

    def _repeat(self, pending: dict[bytes, _Request]) -> None:
        for request in pending.values():
            request.tries += 1
            if request.tries > 4:
                raise RuntimeError(f"{self.target.name}: no reply to {request.message[:80]!r}")
            self.socket.send(request.message)

    def _fail(self, why: str) -> None:
        self.stop()
        raise RuntimeError(f"{self.target.name}: {why}\n{self._log_path.read_text(errors='replace')[-1500:]}")
