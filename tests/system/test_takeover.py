"""A daemon that takes the calls of a running one over, under traffic; and one that fails to."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.live import Live, LiveDialogue, both_hear, until
from systemlab.media import Party
from systemlab.netns import Lab
from systemlab.redisserver import RedisServer
from test_profiles import browser, speaks

PORTS = ("--port-min=30000", "--port-max=30999")
NG = "127.0.0.1:2298"

PAIRS: dict[str, Callable[[], tuple[dict[str, Any], dict[str, Any]]]] = {
    "plain": lambda: (speaks("RTP/AVP"), speaks("RTP/AVP")),
    "SDES passed on": lambda: (speaks("RTP/SAVP"), speaks("RTP/SAVP")),
    "SDES to plain": lambda: (speaks("RTP/SAVP"), speaks("RTP/AVP")),
    "browser to plain": lambda: (browser(), speaks("RTP/AVP")),
}


class Calls:
    """Calls over one daemon, whose parties talk all the time."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.made: list[LiveDialogue] = []
        self.sent: list[tuple[list[bytes], list[bytes]]] = []
        self._talking: asyncio.Task[None] | None = None

    async def place(self, daemon: Daemon, names: list[str]) -> None:
        for name in names:
            call = LiveDialogue(daemon.ng, Party(self.lab.a), Party(self.lab.b))
            self.made.append(call)
            for party, about in zip((call.caller, call.callee), PAIRS[name](), strict=True):
                party.add(make=Live, **about)
            await call.set_up()
            await both_hear(call)
        self.sent = [([], []) for _ in self.made]

    def talk(self, pause_s: float = 0.02) -> None:
        """Begin: the pause between two packets decides for how long a socket can hold them while nobody reads."""
        for call in self.made:
            for side in call.sides:
                side.forget()
        self._talking = asyncio.create_task(self._talk(pause_s))

    async def _talk(self, pause_s: float) -> None:
        while True:
            for call, sent in zip(self.made, self.sent, strict=True):
                for side, log in zip(call.sides, sent, strict=True):
                    log.append(side.send())
            await asyncio.sleep(pause_s)

    async def fall_silent(self) -> None:
        assert self._talking is not None
        self._talking.cancel()
        await asyncio.gather(self._talking, return_exceptions=True)
        await until(self._is_through)
        await asyncio.sleep(0.1)  # nor does anything come twice

    def _is_through(self) -> bool:
        """Whether as much has come as was sent, or more."""
        pairs = [
            (side, log)
            for call, sent in zip(self.made, self.sent, strict=True)
            for side, log in zip(call.sides, reversed(sent), strict=True)
        ]
        return all(len(side.heard) + side.refused >= len(log) for side, log in pairs)

    def all_heard(self) -> None:
        """Every packet has arrived, in order and once."""
        for call, sent in zip(self.made, self.sent, strict=True):
            for side, log in zip(call.sides, reversed(sent), strict=True):
                assert side.heard == log, f"{len(side.heard)} of {len(log)} heard, {side.refused} refused"
                assert not side.refused

    def close(self) -> None:
        for call in self.made:
            call.caller.close()
            call.callee.close()


@pytest.fixture
def calls(lab: Lab) -> Iterator[Calls]:
    made = Calls(lab)
    yield made
    made.close()


@pytest.fixture
def start(launch: Callable[..., Daemon], tmp_path: Path) -> Callable[..., Daemon]:
    """Daemons on one control port, which end with the test."""
    return lambda *options: launch(*PORTS, f"--takeover-socket={tmp_path}/socket", *options, ng=NG)


def end(pid: int) -> None:
    """End a process that is no child of ours in order, and wait for that."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGTERM)
            poll = select.poll()
            poll.register(process, select.POLLIN)
            assert poll.poll(60_000), f"process {pid} does not end"
        finally:
            os.close(process)


async def test_nothing_is_lost(start: Callable[..., Daemon], calls: Calls) -> None:
    old = start()
    await calls.place(old, [*PAIRS, "plain", "SDES to plain"])
    calls.talk()
    await asyncio.sleep(0.5)
    new = await asyncio.to_thread(start, "--takeover")
    assert await asyncio.to_thread(wait_until, lambda: not old.alive)
    await asyncio.sleep(0.5)
    await calls.fall_silent()
    calls.all_heard()
    assert old.process.returncode == 0
    assert "6 calls handed over to process" in old.log
    assert await asyncio.to_thread(wait_until, lambda: "6 calls taken over from the running daemon in " in new.log)
    for call in calls.made:
        call.ng = new.ng
        await both_hear(call)
    # And once more, after signalling has gone on.
    await calls.made[0].set_up()
    newest = await asyncio.to_thread(start, "--takeover")
    assert await asyncio.to_thread(wait_until, lambda: not new.alive)
    for call in calls.made:
        call.ng = newest.ng
        await both_hear(call)
        call.delete()
    assert newest.stop() == 0
    assert "Traceback" not in old.log + new.log + newest.log


async def test_a_daemon_replaces_itself(start: Callable[..., Daemon], calls: Calls, tmp_path: Path) -> None:
    """Its own command line, once on a signal, once as the tool says; then a successor that cannot be."""
    pidfile = tmp_path / "pid"

    def successor_of(old: int) -> int:
        assert wait_until(lambda: pidfile.exists() and int(pidfile.read_text() or old) != old, 60)
        return int(pidfile.read_text())

    first = start(f"--pidfile={pidfile}", "--listen-cli=9909", "--listen-tcp=9908")
    try:
        await calls.place(first, ["plain", "SDES to plain"])
        calls.talk()
        await asyncio.sleep(0.5)
        first.signal(signal.SIGRTMIN + 1)
        assert await asyncio.to_thread(wait_until, lambda: not first.alive, 60)
        assert first.process.returncode == 0
        second = successor_of(first.pid)
        said = await asyncio.to_thread(first.ctl, 9909, "replace")
        third = successor_of(second)
        assert (said.stdout, said.stderr) == (f"successor: {third}\nsessions: 2\n", "")
        await asyncio.sleep(0.5)
        await calls.fall_silent()
        calls.all_heard()
        assert wait_until(lambda: first.log.count("2 calls taken over from the running daemon in ") == 2)
        for call in calls.made:
            await both_hear(call)
            call.delete()
        assert "Traceback" not in first.log
    finally:
        if pidfile.exists():  # else there was none but the first, which the fixture ends
            end(int(pidfile.read_text()))


async def test_the_calls_in_redis_go_along(
    start: Callable[..., Daemon], calls: Calls, lab: Lab, tmp_path: Path
) -> None:
    redis = RedisServer(lab.relay, tmp_path)
    options = ("--redis=127.0.0.1:6379", "--redis-db=0")
    try:
        old = start(*options)
        await calls.place(old, ["SDES to plain", "plain"])
        assert wait_until(lambda: redis.calls() == 2)
        ended = calls.made.pop()
        redis.freeze()
        ended.delete()
        new = start(*options, "--takeover")
        redis.thaw()
        # Until then it may be the old one that answers.
        assert wait_until(lambda: not old.alive and "is ready" in new.log, 60)
        assert wait_until(lambda: redis.calls() == 1, 20), "what has ended is not restored"
        call = calls.made[0]
        call.ng = new.ng
        await both_hear(call)
        new.kill()
        last = start(*options, "--takeover")
        assert wait_until(lambda: "is ready" in last.log)
        assert "no daemon listens on" in last.log and "1 of 1 calls restored" in last.log
        call.ng = last.ng
        await both_hear(call)
        assert last.stop() == 0
        ended.caller.close()
        ended.callee.close()
    finally:
        redis.stop()


class FalsePeer:
    """Speaks as one of the two does, up to where it fails."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(60)

    @classmethod
    def successor(cls, path: Path) -> FalsePeer:
        """Who has connected there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(path))
        return cls(sock)

    def say(self, **message: Any) -> None:
        data = json.dumps(message).encode()
        self.sock.sendall(struct.pack("=I", len(data)) + data)

    def hear(self) -> dict[str, Any]:
        head, descriptors, _, _ = socket.recv_fds(self.sock, 4, 250)
        for descriptor in descriptors:
            os.close(descriptor)
        data = b""
        (length,) = struct.unpack("=I", head)
        while len(data) < length:
            data += self.sock.recv(length - len(data))
        return dict(json.loads(data))


async def test_a_successor_that_fails_changes_nothing(
    start: Callable[..., Daemon], calls: Calls, tmp_path: Path
) -> None:
    daemon = start()
    await calls.place(daemon, ["plain", "SDES to plain", "SDES passed on"])
    for step in range(4):
        false = FalsePeer.successor(tmp_path / "socket")
        if step >= 1:
            false.say(hello=1)
            hello = false.hear()
            assert hello["calls"] == 3 and set(hello["listeners"]) == {"listen-ng"}
        if step >= 2:
            false.say(go=os.getpid())
            assert "call" in false.hear()
        if step >= 3:
            false.say(taken=True)
            assert "call" in false.hear()
        false.sock.close()
        for call in calls.made:
            await both_hear(call)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as noise:
        noise.connect(str(tmp_path / "socket"))
        noise.sendall(b"\xff" * 100)
        for call in calls.made:
            await both_hear(call)
    assert daemon.log.count("the successor has failed, and this daemon goes on with all calls") == 2
    assert daemon.stop() == 0
    assert not (tmp_path / "socket").exists()
    assert "Traceback" not in daemon.log


async def test_one_of_several_successors_gets_the_calls(
    start: Callable[..., Daemon], calls: Calls, tmp_path: Path
) -> None:
    daemon = start()
    await calls.place(daemon, ["plain"])
    first, second = (FalsePeer.successor(tmp_path / "socket") for _ in range(2))
    for false in (first, second):
        false.say(hello=1)
        assert false.hear()["calls"] == 1
    first.say(go=os.getpid())
    assert "call" in first.hear()
    second.say(go=os.getpid())
    first.say(taken=True)
    assert "end" in first.hear()
    first.say(ended=True)
    with pytest.raises(ConnectionResetError):  # and no call
        second.hear()
    assert await asyncio.to_thread(wait_until, lambda: not daemon.alive, 20)
    assert daemon.process.returncode == 0
    assert daemon.log.count("1 calls handed over to process") == 1
    for false in (first, second):
        false.sock.close()


def test_a_drain_does_not_end_while_a_successor_comes(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start("--log-level=7")
    false = FalsePeer.successor(tmp_path / "socket")
    false.say(hello=1)
    assert false.hear()["calls"] == 0
    daemon.signal(signal.SIGRTMIN)
    assert wait_until(lambda: "draining: no new calls" in daemon.log)
    time.sleep(2.5)  # the next tick, at which it would end
    assert daemon.alive
    false.sock.close()
    assert wait_until(lambda: not daemon.alive, 20), "and now it does"
    assert daemon.process.returncode == 0


def test_a_predecessor_that_fails_keeps_its_place(start: Callable[..., Daemon], tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text("4711\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.settimeout(60)

        def fail() -> None:
            false = FalsePeer(listener.accept()[0])
            assert false.hear() == {"hello": 1}
            false.say(version=1, listeners={}, table=None, calls=1)
            assert "go" in false.hear()
            false.sock.close()

        with ThreadPoolExecutor(1) as pool:
            failing = pool.submit(fail)
            with pytest.raises(AssertionError, match="the daemon ended with 255: .*") as failure:
                start(f"--pidfile={pidfile}", "--takeover")
            failing.result()
    assert "--takeover has failed, and the other daemon goes on: the other process has ended" in str(failure.value)
    assert pidfile.read_text() == "4711\n"


def test_nobody_to_take_over_from(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start("--takeover")
    assert "--takeover: no daemon listens on" in daemon.log
    mode = (tmp_path / "socket").stat().st_mode & 0o777
    assert mode == 0o600
    daemon.signal(signal.SIGTERM)
    assert daemon.stop() == 0
