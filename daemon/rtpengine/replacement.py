"""The daemon replaces itself: it starts its own command line again, with ``--takeover``, and ends once that one serves.

So a new version takes over without a gap where a service has one unit and one command line, and inherits from this
process what the supervisor has given it: user, capabilities, limits, log.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from collections.abc import Sequence

from rtpengine import NOTICE, ProtocolError

log = logging.getLogger(__name__)

TAKEOVER = "--takeover"
# What systemd says to one process only; it would not be true of another.
_PERSONAL = ("WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_LAUNCH_S = 10.0

# Starts a process that is nobody's child but the supervisor's: systemd waits for no other one when it stops a service.
_LAUNCHER = """
import os, sys
pid = os.fork()
if pid:
    print(pid)
else:
    os.dup2(2, 1)
    try:
        os.execv(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"rtpengine: cannot start {sys.argv[1]}: {error.strerror}")
"""


def own_command() -> list[str]:
    """The command line of this process, with the interpreter that runs it."""
    return [sys.executable, *sys.orig_argv[1:]]


class Replacement:
    """At most one successor at a time; ``directory`` is where the command line was given."""

    def __init__(self, command: Sequence[str], directory: str, takeover_socket: str | None) -> None:
        self._command = [*command, *([] if TAKEOVER in command else [TAKEOVER])]
        self._directory = directory
        self._socket = takeover_socket
        self._pid = 0
        self._pidfd = -1

    def begin(self) -> int:
        """Start the successor, which asks for the calls by itself; return its process id. Raise ProtocolError."""
        self.check()
        if self._pidfd >= 0:
            raise ProtocolError(f"process {self._pid} is about to replace this one already")
        if self._socket is None:
            raise ProtocolError("without --takeover-socket no successor could take the calls over")
        if os.getpid() == 1:
            raise ProtocolError("this is process 1, whose end takes all others along: start another container")
        try:
            self._pid = self._launch()
            self._pidfd = os.pidfd_open(self._pid)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise ProtocolError(f"cannot start a successor: {error}") from None
        log.log(NOTICE, "process %d is started, to replace this one", self._pid)
        return self._pid

    def _launch(self) -> int:
        environment = {name: value for name, value in os.environ.items() if name not in _PERSONAL}
        launcher = [sys.executable, "-I", "-c", _LAUNCHER, *self._command]
        done = subprocess.run(
            launcher,
            cwd=self._directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_LAUNCH_S,
            check=True,
        )
        return int(done.stdout)

    def check(self) -> None:
        """Notice whether the successor has failed; to be called now and then."""
        if self._pidfd < 0:
            return
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if poll.poll(0):
            self.close()
            log.error("process %d, which was to replace this one, has ended; this one goes on", self._pid)

    def close(self) -> None:
        """Look at the successor no more."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
