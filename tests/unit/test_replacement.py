"""A daemon starts its successor; how calls get there is in tests/system/test_takeover.py."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtpengine import ProtocolError
from rtpengine.replacement import Replacement, own_command

PROGRAM = """
import json, os, pathlib, sys
said = [sys.argv[1:], sorted(os.environ), sys.stdin.read(), os.getppid()]
pathlib.Path("said").write_text(json.dumps(said))
pathlib.Path("gate").open().read()
sys.exit(3)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a successor writes down how it was started, and then waits until somebody writes to ``gate``."""
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    (tmp_path / "program").write_text(PROGRAM)
    os.mkfifo(tmp_path / "gate")
    yield tmp_path


def replacement(place: Path, *arguments: str, socket_path: str | None = "/x") -> Replacement:
    return Replacement([sys.executable, "program", *arguments], str(place), socket_path)


def ended(pidfd: int) -> None:
    """Wait for the end of a process that is not ours."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000)
    os.close(pidfd)


def let_it_fail(place: Path, pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    (place / "gate").write_text("")
    ended(pidfd)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


@pytest.mark.parametrize("given", [["--ip=192.0.2.1"], ["--takeover", "--ip=192.0.2.1"]])
def test_it_is_started_as_this_one_was(given: list[str], place: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = replacement(place, *given)
    pid = started.begin()
    with pytest.raises(ProtocolError, match=f"process {pid} is about to replace this one already"):
        started.begin()
    let_it_fail(place, pid)
    arguments, environment, standard_input, parent = json.loads((place / "said").read_text())
    assert arguments == (given if "--takeover" in given else [*given, "--takeover"])
    assert "WATCHDOG_USEC" in environment and "WATCHDOG_PID" not in environment
    assert standard_input == ""
    assert parent != os.getpid(), "systemd waits only for children of its own"
    started.check()
    assert errors(caplog) == [f"process {pid}, which was to replace this one, has ended; this one goes on"]
    again = started.begin()
    started.close()
    let_it_fail(place, again)


def test_what_cannot_be(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProtocolError, match="^without --takeover-socket no successor could take the calls over$"):
        replacement(place, socket_path=None).begin()
    with pytest.raises(ProtocolError, match="^cannot start a successor: .*/nowhere"):
        Replacement([sys.executable], "/nowhere", "/x").begin()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(ProtocolError, match="^this is process 1, "):
        replacement(place).begin()


def test_a_program_that_is_gone(place: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture) -> None:
    started = Replacement([str(place / "gone")], str(place), "/x")
    pid = started.begin()
    ended(os.dup(started._pidfd))
    started.check()
    assert errors(caplog) == [f"process {pid}, which was to replace this one, has ended; this one goes on"]
    assert f"rtpengine: cannot start {place}/gone: No such file or directory" in capfd.readouterr().err


def test_the_command_is_that_of_this_process() -> None:
    command = own_command()
    assert command[0] == sys.executable
    assert command[1:] == Path("/proc/self/cmdline").read_text().split("\0")[1:-1]
