"""The daemon replaces itself: it starts its own command line again, with ``--takeover``, and ends once that one serves.

So a new version takes over without a gap where a service has one unit and one command line, and inherits from this
process what the supervisor has given it: user, capabilities, limits, log.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence

from rtpengine import NOTICE, ProtocolError

log = logging.getLogger(__name__)

TAKEOVER = "--takeover"
# What systemd says to one process only; it would not be true of another.
_PERSONAL = ("WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def own_command() -> list[str]:
    """The command line of this process, with the interpreter that runs it."""
    return [sys.executable, *sys.orig_argv[1:]]


class Replacement:
    """At most one successor at a time; ``directory`` is where the command line was given."""

    def __init__(self, command: Sequence[str], directory: str, takeover_socket: str | None) -> None:
        self._command = [*command, *([] if TAKEOVER in command else [TAKEOVER])]
        self._directory = directory
        self._socket = takeover_socket
        self._successor: subprocess.Popen[bytes] | None = None

    def begin(self) -> int:
        """Start the successor, which asks for the calls by itself; return its process id. Raise ProtocolError."""
        self.check()
        if self._successor is not None:
            raise ProtocolError(f"process {self._successor.pid} is about to replace this one already")
        if self._socket is None:
            raise ProtocolError("without --takeover-socket no successor could take the calls over")
        if os.getpid() == 1:
            raise ProtocolError("this is process 1, whose end takes all others along: start another container")
        environment = {name: value for name, value in os.environ.items() if name not in _PERSONAL}
        try:
            self._successor = subprocess.Popen(
                self._command, cwd=self._directory, env=environment, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            raise ProtocolError(f"cannot start {self._command[0]}: {error.strerror}") from None
        log.log(NOTICE, "process %d is started, to replace this one", self._successor.pid)
        return self._successor.pid

    def check(self) -> None:
        """Notice whether the successor has failed; to be called now and then."""
        if self._successor is None or self._successor.poll() is None:
            return
        # One that goes into the background leaves a process behind that serves, and ends itself with status 0.
        if self._successor.returncode:
            said = "process %d, which was to replace this one, has ended with status %d; this one goes on"
            log.error(said, self._successor.pid, self._successor.returncode)
        self._successor = None
