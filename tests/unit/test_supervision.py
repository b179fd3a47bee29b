"""What systemd hears: a socket of our own stands for it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtpengine.supervision import Supervisor


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        yield sock


def test_what_is_told(systemd: socket.socket) -> None:
    supervisor = Supervisor()
    supervisor.status("1 calls")
    supervisor.status("1 calls")
    supervisor.status("2 calls")
    supervisor.reloading()
    supervisor.reloaded()
    supervisor.stopping()
    told = [systemd.recv(1000).decode() for _ in range(5)]
    assert told[:2] == ["STATUS=1 calls", "STATUS=2 calls"]
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", told[2])
    assert told[3:] == ["READY=1", "STOPPING=1\nSTATUS="]


@pytest.mark.parametrize("wanted", [True, False])
def test_signs_of_life(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    if wanted:
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
    supervisor = Supervisor()
    told: list[str] = []
    loop = asyncio.new_event_loop()

    def hear() -> None:
        told.append(systemd.recv(1000).decode())
        if len(told) == 3:
            loop.stop()

    loop.add_reader(systemd, hear)
    supervisor.watch(loop)
    loop.call_later(10 if wanted else 0.1, loop.stop)
    loop.run_forever()
    loop.close()
    assert told == ["WATCHDOG=1"] * (3 if wanted else 0)


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], seconds: float | None) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Supervisor().watchdog_s == seconds
