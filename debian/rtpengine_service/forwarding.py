"""Kernel forwarding for a service: module, table and rules are made before the daemon starts, and undone behind it.

What was done is kept in /run, so that exactly that is undone, whatever the files say by then. While a daemon restarts
nothing of it changes: the kernel goes on with the streams that it has.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rtpengine_service import ServiceError, firewall, say

if TYPE_CHECKING:
    from rtpengine_service.options import Service

MODULE = "xt_MEDIAPROXY"
PROC = Path("/proc/mediaproxy")
LOADED_VERSION = Path(f"/sys/module/{MODULE}/version")
STATE = Path("/run/rtpengine-forwarding")
GROUP = "rtpengine"
UNLOAD_TRIES = 20


@contextmanager
def _alone() -> Iterator[None]:
    """Services start and stop one after the other, since they share module, chain and jump."""
    STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(STATE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(service: Service) -> None:
    """Load the module, make an empty table that the daemon's group can open, and the rules.

    A module that is not there is said and no failure, since the daemon decides about that. Raise ServiceError with
    everything as it was.
    """
    if service.config.table < 0:
        return
    with _alone():
        if not _load_module():
            return
        try:
            _make_table(service.config.table)
            (STATE / service.name).write_text(f"{service.config.table}\n")
            if service.firewall:
                firewall.add(service.name, service.config)
        except ServiceError:
            _undo(service.name)
            raise
        except OSError as error:
            _undo(service.name)
            raise ServiceError(f"kernel table {service.config.table}: {error.strerror}") from None


def refresh(service: Service) -> None:
    """Make the rules anew that somebody has flushed. Raise ServiceError."""
    with _alone():
        if service.firewall and (STATE / service.name).exists():
            firewall.add(service.name, service.config)


def down(name: str) -> None:
    """Undo what :func:`up` did, as far as no other service needs it."""
    with _alone():
        _undo(name)


def _undo(name: str) -> None:
    try:
        firewall.remove(name)
    except ServiceError as error:
        say(str(error))
    state = STATE / name
    if state.exists():
        _delete_table(int(state.read_text()))
        state.unlink()
    _unload_module()


def _load_module() -> bool:
    if PROC.exists():
        _tell_skew()
        return True
    done = subprocess.run(["modprobe", MODULE], capture_output=True, text=True)
    if done.returncode or not PROC.exists():
        reason = (done.stderr.strip().splitlines() or ["it did not start"])[-1]
        say(f"no kernel forwarding, since the module {MODULE} cannot be loaded: {reason}")
        return False
    (STATE / ".loaded").touch()
    return True


def _tell_skew() -> None:
    """After an upgrade the old module stays, since to replace it ends the calls in it."""
    installed = subprocess.run(["modinfo", "-F", "version", MODULE], capture_output=True, text=True).stdout.strip()
    loaded = LOADED_VERSION.read_text().strip() if LOADED_VERSION.exists() else ""
    if installed and loaded and installed != loaded:
        say(
            f"module {MODULE} {loaded} is loaded, {installed} is installed: "
            "to change over, stop all services of rtpengine at once, then start them"
        )


def _unload_module() -> None:
    """Only if we have loaded it and nobody has a table; what refers to a rule goes a little later than the rule."""
    marker = STATE / ".loaded"
    if not marker.exists():
        return
    for _ in range(UNLOAD_TRIES):
        if not PROC.exists():
            break
        if (PROC / "list").read_text():
            return
        if subprocess.run(["rmmod", MODULE], capture_output=True).returncode == 0:
            break
        time.sleep(0.1)
    else:
        return
    marker.unlink()


def _make_table(number: int) -> None:
    _delete_table(number, busy_is_fatal=True)
    _command(f"add {number}")
    # The daemon is not root: the group may open what the capability to administer the network is needed for, too.
    gid = grp.getgrnam(GROUP).gr_gid
    for path, mode in (
        (PROC / "control", 0o220),
        (PROC / f"{number}/control", 0o220),
        (PROC / f"{number}/blist", 0o440),
    ):
        os.chown(path, -1, gid)
        os.chmod(path, mode)


def _delete_table(number: int, *, busy_is_fatal: bool = False) -> None:
    try:
        _command(f"del {number}")
    except OSError as error:
        if error.errno == errno.EBUSY and busy_is_fatal:
            raise ServiceError(f"kernel table {number} is in use by another process (TABLE)") from None
        if error.errno == errno.EBUSY:
            say(f"kernel table {number} stays, another process uses it")
        elif error.errno != errno.ENOENT:
            raise ServiceError(f"kernel table {number} cannot be deleted: {error.strerror}") from None


def _command(text: str) -> None:
    with open(PROC / "control", "wb", buffering=0) as control:
        control.write(f"{text}\n".encode())
