"""Start and stop a service of rtpengine: what units and the init script call.

usage: service COMMAND NAME

NAME is that of the service's unit, ngcp-rtpengine-daemon or ngcp-rtpengine-daemon@INSTANCE.

  condition   end with status 1 if the service is not to run (RUN_MEDIAPROXY)
  check       read the service's files and say what is wrong with them
  up          load the kernel module, make table and rules
  renew       before the daemon starts again: make what is not as the files say it by now
  rules       make the rules again
  norules     remove the rules, until they are made again
  down        undo what up did
  run         become the daemon, in the foreground
  start       start the daemon as an init script does, in the background
  pidfile     print where the PID of a daemon that was started so is
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from rtpengine_service import ServiceError, defaults, say

if TYPE_CHECKING:
    from rtpengine_service.options import Service

DAEMON = "/usr/sbin/rtpengine"
# sysexits.h: what a restart does not mend
EX_CONFIG = 78
NOT_WANTED = 1


def _condition(name: str) -> None:
    if not defaults.is_wanted(name):
        say(f"not started, since RUN_MEDIAPROXY is not yes in {defaults.default_file(name)}")
        raise SystemExit(NOT_WANTED)


def _load(name: str) -> Service:
    # The daemon's modules take their time, and not every command needs them.
    from rtpengine_service import options

    return options.load(name)


def _check(name: str) -> Service:
    from rtpengine_service import options

    service = _load(name)
    for line in options.overridden(service):
        say(line)
    return service


def _up(name: str) -> None:
    from rtpengine_service import forwarding

    forwarding.up(_load(name))


def _renew(name: str) -> None:
    from rtpengine_service import forwarding

    forwarding.renew(_load(name))


def _rules(name: str) -> None:
    from rtpengine_service import forwarding

    forwarding.refresh(_load(name))


def _norules(name: str) -> None:
    from rtpengine_service import forwarding

    forwarding.remove_rules(name)


def _down(name: str) -> None:
    from rtpengine_service import forwarding

    forwarding.down(name)


def _run(name: str) -> NoReturn:
    service = _check(name)
    options = [option for option in service.options if not option.startswith("--pidfile=") or _can_write(option)]
    os.execv(DAEMON, [DAEMON, *options, *service.succession, "--foreground"])


def _can_write(pidfile: str) -> bool:
    """Whether the daemon could write it, which systemd needs not: it may be that of a script, which ran as root."""
    path = pidfile.partition("=")[2]
    if os.access(path if os.path.exists(path) else os.path.dirname(path) or ".", os.W_OK):
        return True
    say(f"no PID file, since {path} cannot be written (PIDFILE)")
    return False


def _start(name: str) -> NoReturn:
    service = _check(name)
    more = [f"--pidfile={service.pidfile}"] if service.forks else ["--foreground"]
    os.execv(DAEMON, [DAEMON, *service.options, *service.succession, *more])


def _pidfile(name: str) -> None:
    """Also if something else in the files is wrong by now: the daemon was started with it."""
    try:
        path = _load(name).pidfile
    except ServiceError:
        variables = defaults.read(defaults.default_file(name))
        if "PIDFILE" not in variables:
            raise
        path = variables["PIDFILE"].value
    print(path)


COMMANDS: dict[str, Callable[[str], object]] = {
    "condition": _condition,
    "check": _check,
    "up": _up,
    "renew": _renew,
    "rules": _rules,
    "norules": _norules,
    "down": _down,
    "run": _run,
    "start": _start,
    "pidfile": _pidfile,
}


def main() -> int:
    """Do what the arguments say; return the exit status."""
    if len(sys.argv) != 3 or sys.argv[1] not in COMMANDS:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        COMMANDS[sys.argv[1]](sys.argv[2])
    except ServiceError as error:
        say(str(error))
        return EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
