"""Kernel forwarding for a service: module, table and rules are made before the daemon starts, and undone behind it.

What was done is kept in /run, so that exactly that is undone, whatever the files say by then: a file per service that
is up, with the number of its table, or nothing where none was made. While a daemon restarts, what the files still say
does not change: the kernel goes on with the streams that it has.
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
from dataclasses import replace
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
    with _alone():
        (STATE / service.name).write_text("")
        try:
            _make(service)
        except ServiceError:
            _undo(service.name)
            raise


def renew(service: Service) -> None:
    """Before the daemon of a service that is up starts once more: make what is not as the files say it by now.

    What is stays, with the streams in it. Raise ServiceError, with nothing made; it can be tried again.
    """
    with _alone():
        if not (STATE / service.name).exists():
            return
        try:
            _make(service)
        except ServiceError:
            _unmake(service.name)
            raise


def refresh(service: Service) -> None:
    """Make the rules anew that somebody has flushed, for the table that the daemon has. Raise ServiceError."""
    with _alone():
        number = _table(service.name)
        if service.firewall and number is not None:
            firewall.add(service.name, replace(service.config, table=number))


def remove_rules(name: str) -> None:
    """Remove the rules of a service, whose packets the daemon relays from then on."""
    with _alone():
        _remove_rules(name)


def down(name: str) -> None:
    """Undo what :func:`up` did, as far as no other service needs it."""
    with _alone():
        _undo(name)


def _make(service: Service) -> None:
    number = service.config.table
    had = _table(service.name)
    if had is not None and had == number and (PROC / str(number)).exists():
        _tell_skew()
    else:
        if had is not None:
            _unmake(service.name)
        if number < 0 or not _load_module():
            return
        _claim(service.name, number)
    if service.firewall:
        firewall.add(service.name, service.config)
    elif had is not None:
        _remove_rules(service.name)


def _claim(name: str, number: int) -> None:
    """Make the table of a service; not that of another one, whose daemon may only be about to start."""
    others = [state.name for state in STATE.glob("[!.]*") if state.name != name]
    owner = next((other for other in others if _table(other) == number), None)
    if owner is not None:
        raise ServiceError(f"kernel table {number} is that of {owner} (TABLE)")
    try:
        _make_table(number)
    except OSError as error:
        _delete_table(number)
        raise ServiceError(f"kernel table {number}: {error.strerror}") from None
    (STATE / name).write_text(f"{number}\n")


def _table(name: str) -> int | None:
    """The number of the table that was made for a service, None if there is none."""
    state = STATE / name
    text = state.read_text().strip() if state.exists() else ""
    return int(text) if text else None


def _remove_rules(name: str) -> None:
    try:
        firewall.remove(name)
    except ServiceError as error:
        say(str(error))


def _unmake(name: str) -> None:
    _remove_rules(name)
    number = _table(name)
    if number is not None:
        _delete_table(number)
        (STATE / name).write_text("")
    _unload_module()


def _undo(name: str) -> None:
    _unmake(name)
    (STATE / name).unlink(missing_ok=True)


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
