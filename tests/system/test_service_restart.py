"""A restart by a service manager that keeps descriptors, as systemd does; this one is ours, and speaks its protocol."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.live import both_hear
from systemlab.netns import Lab
from test_takeover import NG, PAIRS, PORTS, Calls

# Puts the descriptors where they belong and becomes the daemon: LISTEN_PID has to be its own.
LAUNCHER = """
import os, sys
numbers = [os.dup(int(number)) for number in sys.argv[1].split(",") if number]
high = [os.dup2(number, 1000 + place, False) for place, number in enumerate(numbers)]
for place, number in enumerate(high):
    os.dup2(number, 3 + place, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


class Manager:
    """Listens to what a service says, and keeps what it is given (sd_notify(3))."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.states: list[str] = []
        self.kept: list[tuple[str, int]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.sock, 65536, 253)
            if data == b"END":
                return
            fields = dict(line.partition("=")[::2] for line in data.decode().split("\n"))
            if fields.get("FDSTORE") == "1":
                assert fields["FDPOLL"] == "0"
                self.kept += [(fields["FDNAME"], descriptor) for descriptor in descriptors]
                continue
            self.states.append(data.decode())
            # Who waits behind a barrier goes on with this.
            for descriptor in descriptors:
                os.close(descriptor)
            if fields.get("FDSTOREREMOVE") == "1":
                for name, descriptor in [one for one in self.kept if one[0] == fields["FDNAME"]]:
                    self.kept.remove((name, descriptor))
                    os.close(descriptor)

    def start(self, lab: Lab, directory: Path) -> Daemon:
        names, numbers = [name for name, _ in self.kept], [number for _, number in self.kept]
        launcher = [sys.executable, "-c", LAUNCHER, ",".join(map(str, numbers)), ":".join(names)]
        env = {**os.environ, "NOTIFY_SOCKET": str(self.path), "FDSTORE": "1000"}
        directory.mkdir()
        return Daemon(lab, directory, *PORTS, ng=NG, launcher=launcher, pass_fds=numbers, env=env)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"END", str(self.path))
        self._thread.join(10)
        self.sock.close()
        for _, descriptor in self.kept:
            os.close(descriptor)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


@pytest.fixture
def calls(lab: Lab) -> Iterator[Calls]:
    made = Calls(lab)
    yield made
    made.close()


async def test_nothing_is_lost(lab: Lab, tmp_path: Path, manager: Manager, calls: Calls) -> None:
    daemons = [manager.start(lab, tmp_path / "first")]
    try:
        await calls.place(daemons[0], [*PAIRS, "SDES to plain"])
        calls.talk(pause_s=0.1)  # a socket holds some two hundred packets, and nobody reads before the next start
        await asyncio.sleep(0.3)
        daemons[0].signal(signal.SIGTERM)
        assert await asyncio.to_thread(daemons[0].process.wait, 60) == 0
        assert "5 calls left to systemd, for the next start" in daemons[0].log
        assert "BARRIER=1" in manager.states
        daemons.append(await asyncio.to_thread(manager.start, lab, tmp_path / "second"))
        assert "5 of 5 calls that were left to systemd restored in" in daemons[1].log
        await asyncio.sleep(0.5)
        await calls.fall_silent()
        calls.all_heard()
        assert await asyncio.to_thread(wait_until, lambda: manager.kept == []), "nobody may find them again"
        for call in calls.made:
            call.ng = daemons[1].ng
            await both_hear(call)
            call.delete()
        assert daemons[1].stop() == 0
        assert manager.kept == []
        assert "Traceback" not in daemons[0].log + daemons[1].log
    finally:
        for daemon in daemons:
            daemon.kill()


async def test_calls_without_their_sockets(lab: Lab, tmp_path: Path, manager: Manager, calls: Calls) -> None:
    """As if the store were too small: what is incomplete is said, and the ports are bound again where they can be."""
    first = manager.start(lab, tmp_path / "first")
    try:
        await calls.place(first, ["plain", "SDES to plain"])
        first.signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.process.wait, 60) == 0
        for name, descriptor in [one for one in manager.kept if one[0] == "rtpengine-media"][:3]:
            manager.kept.remove((name, descriptor))
            os.close(descriptor)
        second = manager.start(lab, tmp_path / "second")
        try:
            assert "of 2 calls that were left to systemd restored in" in second.log
            assert second.ng.ping(5)
        finally:
            second.kill()
    finally:
        first.kill()


async def test_sockets_without_calls(lab: Lab, tmp_path: Path, manager: Manager, calls: Calls) -> None:
    first = manager.start(lab, tmp_path / "first")
    try:
        await calls.place(first, ["plain"])
        first.signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.process.wait, 60) == 0
        for name, descriptor in [one for one in manager.kept if one[0] == "rtpengine-calls"]:
            manager.kept.remove((name, descriptor))
            os.close(descriptor)
        second = manager.start(lab, tmp_path / "second")
        try:
            assert "left to systemd" not in second.log
            assert await asyncio.to_thread(wait_until, lambda: manager.kept == [])
        finally:
            second.kill()
    finally:
        first.kill()
