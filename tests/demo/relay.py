"""The daemon under demonstration: started, watched and ended as a child process."""

from __future__ import annotations

import random
import shlex
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from ng_client import NgClient, NgError

DEFAULT_COMMAND = (
    "{rtpengine} --config-file=none --foreground --log-stderr --log-level=6 {kernel} --ip=127.0.0.1 {ip6}"
    " --listen-ng=127.0.0.1:{ng} --port-min={port_min} --port-max={port_max}"
)
_PORTS = 200
_START_S = 60.0
_STOP_S = 5.0


class RelayError(Exception):
    """The daemon did not start, or did not go on; the text is a reason, and below it the end of its log."""


class Relay:
    """Runs the daemon between ``__enter__`` and ``__exit__``, its log in ``log``.

    ``command`` is a template with {rtpengine}, {ng}, {ip6}, {kernel}, {port_min} and {port_max}.
    """

    def __init__(self, command: str, rtpengine: str, log: Path, ipv6: bool, table: int) -> None:
        self.log = log
        self.ng_port = _free_port()
        # Below Linux's ephemeral ports, and elsewhere each time, so that two demos do not meet.
        first = random.randrange(20000, 32000, 2)
        self.ports = range(first, first + _PORTS)
        self._command = shlex.split(
            command.format(
                rtpengine=shlex.quote(rtpengine),
                ng=self.ng_port,
                ip6="--ip6=::1" if ipv6 else "",
                kernel=f"--table={table}" + " --no-fallback" * (table >= 0),
                port_min=self.ports[0],
                port_max=self.ports[-1],
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Relay:
        with self.log.open("wb") as log:
            try:
                # A session of its own: Ctrl-C is for the demo, which then ends the daemon in order.
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise RelayError(f"cannot run {self._command[0]}: {error.strerror} (make build makes it)") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        assert self._process is not None
        return self._process.pid

    @property
    def command(self) -> str:
        """The command line, quoted for a shell."""
        return shlex.join(self._command)

    def await_ping(self) -> None:
        """Return when the daemon answers a ping; RelayError if it ends, or does not within a minute."""
        deadline = time.monotonic() + _START_S
        with NgClient(self.ng_port, timeout_s=0.2) as ng:
            while True:
                self.check_alive()
                try:
                    ng.request("ping")
                    return
                except NgError as error:
                    if time.monotonic() > deadline:
                        raise RelayError(f"the daemon does not answer: {error}\n{self._last_log_lines()}") from error
                    time.sleep(0.1)

    def check_alive(self) -> None:
        """Raise RelayError if the daemon has ended."""
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            raise RelayError(f"the daemon ended with status {status}\n{self._last_log_lines()}")

    def wait(self) -> None:
        """Return when the daemon ends by itself."""
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        """End the daemon, in earnest after five seconds."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_log_lines(self, number: int = 15) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        heading = (
            f"The daemon's last log lines, from {self.log}:" if lines else f"The daemon's log, {self.log}, is empty."
        )
        return "\n".join([heading, *(f"  {line}" for line in lines[-number:])])


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
