"""The daemon as a process: into the background, PID file, resource limits, readiness."""

from __future__ import annotations

import atexit
import os
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from rtpengine.options import OptionError

# The kernel refuses more open files than fs.nr_open, whose default this is; then what the documentation promises.
_OPEN_FILES = (1_048_576, 65_535)
_READY = b"\0"
_PATIENCE_S = 2.0
# What is told again before long, or only for somebody to look at.
_PASSING = ("STATUS=", "WATCHDOG=")


def daemonize(keep_stderr: bool = False) -> Callable[[], None]:
    """Go on in a child with a session of its own, in the directory ``/``.

    Return a function that the child calls once it serves. Only then does the first process exit with status 0, and
    are the standard streams bound to /dev/null (standard error is not with ``keep_stderr``): a start script finds
    everything in place, or sees the message and status 255. To be called before any thread is started.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writer)
        # _exit: what was registered to run at exit belongs to the child now
        os._exit(0 if os.read(reader, 1) == _READY else 255)
    os.close(reader)
    os.setsid()
    os.chdir("/")

    def ready() -> None:
        _silence(keep_stderr)
        with suppress(BrokenPipeError):  # the first process was killed meanwhile
            os.write(writer, _READY)
        os.close(writer)

    return ready


def _silence(keep_stderr: bool) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1) if keep_stderr else (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def ready_in_foreground() -> None:
    """The counterpart of what :func:`daemonize` returns: tell systemd, if it asked to be told."""
    notify("READY=1")


def notify(state: str, descriptors: Sequence[int] = ()) -> bool:
    """Send a state like ``READY=1`` to systemd (sd_notify(3)), with descriptors; return False where nobody listens.

    Wait for a moment if its queue is full, unless what is to be said passes anyway.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # The queue may be short and its reader late: without READY=1 a start fails, without MAINPID= a takeover.
            sock.settimeout(0 if state.startswith(_PASSING) else _PATIENCE_S)
            # a leading @ stands for the abstract namespace of unix(7)
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            socket.send_fds(sock, [state.encode()], list(descriptors)) if descriptors else sock.send(state.encode())
    except OSError:
        return False
    return True


def write_pidfile(path: str) -> Callable[[], None]:
    """Write our process id and a newline to ``path``, and remove the file at exit if it is still ours.

    Return a function that puts back what was there, for a successor that does not come about. Raise OptionError.
    """
    before = ""
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        before = file.read(32)
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise OptionError("pidfile", f"cannot write {path!a}: {error.strerror}") from None
    atexit.register(remove_pidfile, path)

    def give_back() -> None:
        if before:
            with suppress(OSError), open(path, "w", encoding="ascii") as file:
                file.write(before)

    return give_back


def remove_pidfile(path: str) -> None:
    """Remove the file unless a successor has written its own process id to it meanwhile."""
    with suppress(OSError, ValueError):
        with open(path, encoding="ascii") as file:
            ours = int(file.read(32)) == os.getpid()
        if ours:
            os.unlink(path)


def raise_limits() -> int:
    """Allow core files of any size and as many open files as the system lets us; return the latter number.

    A limit is never lowered, and what is refused stays as it was.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    _set_limit(resource.RLIMIT_CORE, resource.RLIM_INFINITY) or _set_limit(resource.RLIMIT_CORE, hard)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # the hard limit is what an unprivileged process can have
    for wanted in sorted({*_OPEN_FILES, hard}, reverse=True):
        if soft >= wanted or _set_limit(resource.RLIMIT_NOFILE, wanted, max(wanted, hard)):
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _set_limit(which: int, soft: int, hard: int | None = None) -> bool:
    try:
        resource.setrlimit(which, (soft, soft if hard is None else hard))
    except (OSError, ValueError):
        return False
    return True
