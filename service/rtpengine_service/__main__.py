"""Start and stop a service of rtpengine: what units and the init script call.

usage: service COMMAND NAME

NAME is that of the service's unit, ngcp-rtpengine-daemon or ngcp-rtpengine-daemon@INSTANCE.

  condition   end with status 1 if the service is not to run (RUN_MEDIAPROXY)
  check       read the service's files and say what is wrong with them
  up          load the kernel module, make table and rules
  rules       make the rules again
  down        undo what up did
  run         become the daemon, in the foreground
  start       start the daemon as an init script does, in the background
  pidfile     print where the PID of a daemon that was started so is
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from rtpengine_service import ServiceError, defaults, forwarding
from rtpengine_service.defaults import Service

DAEMON = "/usr/sbin/rtpengine"
# sysexits.h: what a restart does not mend
EX_CONFIG = 78
NOT_WANTED = 1


def _condition(name: str) -> None:
    if not defaults.is_wanted(name):
        forwarding.say(f"not started, since RUN_MEDIAPROXY is not yes in {defaults.default_file(name)}")
        raise SystemExit(NOT_WANTED)


def _pidfile(service: Service) -> str:
    return service.config.pidfile or f"/run/rtpengine/{service.name}.pid"


def _run(name: str) -> NoReturn:
    service = _told(defaults.load(name))
    os.execv(DAEMON, [DAEMON, *service.options, "--foreground"])


def _start(name: str) -> NoReturn:
    service = _told(defaults.load(name))
    more = [f"--pidfile={_pidfile(service)}"] if service.forks else ["--foreground"]
    os.execv(DAEMON, [DAEMON, *service.options, *more])


def _told(service: Service) -> Service:
    for line in defaults.overridden(service):
        forwarding.say(line)
    return service


COMMANDS: dict[str, Callable[[str], None]] = {
    "condition": _condition,
    "check": lambda name: None if _told(defaults.load(name)) else None,
    "up": lambda name: forwarding.up(defaults.load(name)),
    "rules": lambda name: forwarding.refresh(defaults.load(name)),
    "down": forwarding.down,
    "run": _run,
    "start": _start,
    "pidfile": lambda name: print(_pidfile(defaults.load(name))),
}


def main() -> int:
    """Do what the arguments say; return the exit status."""
    if len(sys.argv) != 3 or sys.argv[1] not in COMMANDS:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        COMMANDS[sys.argv[1]](sys.argv[2])
    except ServiceError as error:
        forwarding.say(str(error))
        return EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
