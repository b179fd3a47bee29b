"""The daemon under test as a child process in the relay's namespace."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from systemlab.netns import Host, Lab
from systemlab.ngclient import NgClient

PROGRAM = Path(os.environ.get("RTPENGINE", Path(sys.prefix) / "bin" / "rtpengine"))
# What a machine that is busy with something else may take for anything.
PATIENCE_S = 20.0
_ng_ports = itertools.count(2300)


def wait_until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S, interval_s: float = 0.02) -> bool:
    """Poll until the condition holds; False if it did not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True


class Daemon:
    """A running rtpengine in the foreground, its log in a file, stopped with SIGTERM."""

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        *options: str,
        ng: str | None = None,
        ipv6: bool = True,
        host: Host | None = None,
        launcher: Sequence[str] = (),
        **about: Any,
    ):
        self.lab = lab
        self.host = host or lab.relay
        self.log_file = directory / "rtpengine.log"
        # Never the same port twice: a daemon that lingers must not answer for its successor.
        self.ng_address = ng = ng or f"127.0.0.1:{next(_ng_ports)}"
        self._clients: list[NgClient] = []
        address6 = [f"--ip6={lab.relay.address(6)}"] if ipv6 else []
        self.command = [
            *launcher, str(PROGRAM), "--config-file=none", "--foreground", "--log-stderr", "--log-level=6",
            "--table=-1", f"--ip={lab.relay.address(4)}", *address6, f"--listen-ng={ng}", *options,
        ]  # fmt: skip
        with self.log_file.open("ab") as log, self.host.inside():
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **about)
        try:
            self._await_start()
        except BaseException:
            self.kill()
            raise

    def _await_start(self) -> None:
        self.ng = self.client()
        if not wait_until(lambda: self.process.poll() is not None or self.ng.ping(0.2), 60):
            raise AssertionError(f"the daemon does not answer: {self.command}\n{self.log}")
        if not self.alive:
            raise AssertionError(f"the daemon ended with {self.process.poll()}: {self.command}\n{self.log}")

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything that was logged so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def client(self, source: str | None = None) -> NgClient:
        """One more ng client on the relay's host; closed together with the daemon."""
        host, _, port = self.ng_address.rpartition(":")
        client = NgClient(self.host, (host.strip("[]"), int(port)), source)
        self._clients.append(client)
        return client

    def ctl(self, port: int, *words: str) -> subprocess.CompletedProcess[str]:
        """What rtpengine-ctl says to the daemon's ``--listen-cli``."""
        command = [sys.executable, "-m", "rtpengine.ctl", f"--port={port}", *words]
        with self.host.inside():
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def descriptors(self) -> int:
        """How many file descriptors are open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident_kb(self) -> int:
        """The resident set in kB."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it in order and return the exit status; it gets a while."""
        if self.alive:
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it by force and let go of everything."""
        for client in self._clients:
            client.close()
        if self.alive:
            self.process.kill()
        self.process.wait(60)
