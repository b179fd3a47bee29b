"""Another daemon goes on with the calls of one that the kernel forwards for: nobody misses a packet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from check_daemon_handover import Traffic, in_kernel
from daemonlab import PATIENCE_S, PORTS, Call, Daemon, Lab, call, control, forwarded, read, ruled, sdes, wait_for
from systemlab.redisserver import TELLS, RedisServer, settled

pytest_plugins = ["daemonlab"]

Start = Callable[..., Daemon]


@pytest.fixture
def start(lab: Lab, tmp_path: Path) -> Iterator[Start]:
    """Daemons with table 0 that end with the test, and the table with them."""
    made: list[Daemon] = []

    def make(*options: str, **about: Any) -> Daemon:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Daemon(lab, directory, *PORTS, "--table=0", "--no-fallback", "--log-level=7", *options, **about))
        return made[-1]

    with ruled(lab.relay):
        yield make
    for each in made:
        each.kill()
    for number in read(lab.relay, "list").split():
        control(lab.relay, f"del {number}\n")


def secure(profile: str = "RTP/SAVP") -> dict[str, Any]:
    return {"protocol": profile, "sdes": sdes("CM128-80")}


def calls_of(daemon: Daemon, count: int = 3) -> list[Call]:
    """In turn plain, secure on one side, and secure on both, from IPv4 to IPv6."""
    kinds: list[Callable[[], Any]] = [
        lambda: ({}, {}, (4, 4)),
        lambda: (secure(), {}, (4, 4)),
        lambda: (secure(), secure("RTP/SAVPF"), (4, 6)),
    ]
    made = [call(daemon, *kind()) for kind in islice(cycle(kinds), count)]
    for each in made:
        each.place()
    return made


def packets(made: list[Call]) -> list[int]:
    """What the kernel has forwarded of each direction."""
    targets = forwarded(made[0].host)
    return [targets[local].packets for each in made for local in each.locals]


def go_on(made: list[Call], successor: Daemon, traffic: Traffic) -> None:
    """All is in the kernel still, can be changed by signalling, and goes there again."""
    traffic.flows(20)
    for each in made:
        each.ng = successor.ng
        assert each.statuses == [("in kernel", "")] * 2
        each.place(flags=["trust-address", "media-handover"])
    traffic.flows(20)
    assert wait_for(lambda: in_kernel(made)), successor.log[-3000:]
    traffic.flows(20)


def end(made: list[Call], traffic: Traffic) -> None:
    with traffic.silence():
        traffic.ended = True
    assert traffic.account == [(0, 0)] * len(traffic.streams)


def delete(made: list[Call], successor: Daemon) -> None:
    for each in made:
        each.delete()
        each.close()
    assert wait_for(lambda: not forwarded(made[0].host))
    assert successor.stop() == 0
    assert "Traceback" not in successor.log


@pytest.mark.parametrize("count", [3, 50])
def test_a_takeover(start: Start, tmp_path: Path, count: int) -> None:
    socket = f"--takeover-socket={tmp_path}/socket"
    old = start(socket)
    made = calls_of(old, count)
    with Traffic(made) as traffic:
        assert wait_for(lambda: in_kernel(made)), old.log[-3000:]
        traffic.flows(20)
        new = start(socket, "--takeover", ng=old.ng_address)
        assert wait_for(lambda: not old.alive)
        assert f"Control PID: {new.pid}\n" in read(made[0].host, "0/status") or in_kernel(made)
        before = packets(made)
        traffic.flows(20)
        assert all(now > then for now, then in zip(packets(made), before, strict=True))
        go_on(made, new, traffic)
        end(made, traffic)
    assert old.process.returncode == 0
    assert f"{count} calls taken over from the running daemon" in new.log
    delete(made, new)


def test_a_crash_and_a_restart_with_redis(start: Start, lab: Lab, tmp_path: Path) -> None:
    """While no daemon runs, the kernel forwards; its streams are claimed by the calls that come back."""
    with ExitStack() as stack:
        redis = RedisServer(lab.relay, tmp_path)
        stack.callback(redis.stop)
        options = ("--redis=127.0.0.1:6379", "--redis-db=0", TELLS)
        first = start(*options)
        made = calls_of(first)
        with Traffic(made) as traffic:
            assert wait_for(lambda: in_kernel(made)), first.log[-3000:]
            traffic.flows(20)
            settled(first)
            first.process.kill()
            first.process.wait(PATIENCE_S)
            traffic.flows(20)
            second = start(*options)
            assert in_kernel(made)
            go_on(made, second, traffic)
            end(made, traffic)
        delete(made, second)
