"""Debian's redis-server as a child process on one of the hosts, with nothing on disk but what SAVE puts there."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from systemlab.daemon import Daemon, wait_until
from systemlab.netns import Host

PORT = 6379
CLI_PORT = 9912
# The option with which a daemon tells whether Redis has everything.
TELLS = f"--listen-cli={CLI_PORT}"


def require() -> None:
    """Skip where the program is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; tools/bootstrap test installs it")


class RedisServer:
    """A server of its own; ``command()`` speaks to it as a client of ours would not, by plain words."""

    def __init__(self, host: Host, directory: Path, *options: str, address: str = "127.0.0.1", port: int = PORT):
        require()
        self.host, self.address, self.port = host, address, port
        self.log_file = directory / f"redis-{port}.log"
        self.command_line = [
            "redis-server", "--bind", address, "--port", str(port), "--save", "", "--appendonly", "no",
            "--dir", str(directory), "--daemonize", "no", "--protected-mode", "no", *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, empty or with what it had at the last SAVE."""
        with self.log_file.open("ab") as log, self.host.inside():
            self.process = subprocess.Popen(self.command_line, stdout=log, stderr=log)
        assert wait_until(self._answers, 60), self.log_file.read_text()

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except OSError:
            return False

    def stop(self) -> None:
        """End it; nothing is kept that it had after the last SAVE."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(60)

    def freeze(self) -> None:
        """Have it accept connections and never answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it answer again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: str | bytes, database: int = 0) -> Any:
        """What the server answers: bytes, int, None, or a list of these; an error is a RuntimeError."""
        with self.host.inside():
            sock = socket.socket()
        with sock:
            sock.settimeout(20)
            sock.connect((self.address, self.port))
            reader = sock.makefile("rb")
            if database:
                sock.sendall(_request(["SELECT", str(database)]))
                _answer(reader)
            sock.sendall(_request(words))
            return _answer(reader)

    def keys(self, pattern: str = "*", database: int = 0) -> set[str]:
        """The names of keys."""
        return {key.decode() for key in self.command("KEYS", pattern, database=database)}

    def calls(self, database: int = 0) -> int:
        """How many calls are stored, of all instances."""
        return len(self.keys("rtpengine:*:call:*", database))

    def snapshot_has(self, call_id: str, text: str) -> bool:
        """Whether a call is stored and its snapshot contains a text."""
        return any(text.encode() in self.command("GET", key) for key in self.keys(f"rtpengine:*:call:{call_id}"))


class Sentinel(RedisServer):
    """One of those who watch the master ``calls``, and name another one when two of them find it dead."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        master: RedisServer,
        *,
        address: str = "127.0.0.1",
        port: int = 26379,
        patience_s: int = 1,
    ) -> None:
        require()
        self.host, self.address, self.port = host, address, port
        self.log_file = directory / f"sentinel-{address}-{port}.log"
        config = self.log_file.with_suffix(".conf")
        config.write_text(
            f"port {port}\nbind {address}\ndir {directory}\nprotected-mode no\n"
            f"sentinel monitor calls {master.address} {master.port} 2\n"
            f"sentinel down-after-milliseconds calls {patience_s}000\nsentinel failover-timeout calls 5000\n"
        )
        self.command_line = ["redis-server", str(config), "--sentinel"]
        self.start()

    def knows(self, others: int) -> bool:
        """Whether it knows so many other Sentinels, and a replica that can take the master's place."""
        names = len(self.command("SENTINEL", "SENTINELS", "calls"))
        return names == others and len(self.command("SENTINEL", "REPLICAS", "calls")) == 1


def _request(words: Any) -> bytes:
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _answer(reader: Any) -> Any:
    line = reader.readline()
    if not line:
        raise OSError("the server has closed the connection")
    kind, text = line[:1], line[1:-2]
    if kind == b"-":
        raise RuntimeError(text.decode())
    if kind == b":":
        return int(text)
    if kind == b"$":
        return None if text == b"-1" else reader.read(int(text) + 2)[:-2]
    if kind == b"*":
        return [_answer(reader) for _ in range(int(text))]
    return text


def settled(daemon: Daemon) -> None:
    """Wait until Redis has everything that has happened; the daemon has TELLS among its options."""
    assert daemon.ng.ping()  # what the workers have told before is looked at before that

    def is_in_step() -> bool:
        with daemon.host.inside():
            sock = socket.socket()
        with sock:
            sock.settimeout(20)
            sock.connect(("127.0.0.1", CLI_PORT))
            sock.sendall(b"status\n")
            return bool(json.loads(sock.makefile("rb").readline())["data"]["redis"] == "in step")

    assert wait_until(is_in_step)
