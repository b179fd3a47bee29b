"""A master that dies: Sentinels name another one, and the daemon finds its calls there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.media import Dialogue, Party, both_ways
from systemlab.netns import Lab
from systemlab.redisserver import TELLS, RedisServer, Sentinel, settled

MASTER, REPLICA, SENTINELS = 6381, 6382, (26381, 26382, 26383)
WATCH = "127.0.0.1:26381,127.0.0.1:26382,127.0.0.1:26383"


@pytest.fixture
def servers(lab: Lab, tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master, its replica, and three Sentinels who want two of them to agree."""
    with contextlib.ExitStack() as stack:
        found = []
        for port in (MASTER, REPLICA):
            directory = tmp_path / str(port)
            directory.mkdir()
            more = ("--replicaof", "127.0.0.1", str(MASTER)) if port == REPLICA else ()
            found.append(RedisServer(lab.relay, directory, *more, port=port))
            stack.callback(found[-1].stop)
        assert wait_until(lambda: "master_link_status:up" in found[1].command("INFO", "replication").decode(), 60)
        # A second without an answer is no death on a machine that is busy with something else.
        sentinels = [Sentinel(lab.relay, tmp_path, found[0], port=port, patience_s=5) for port in SENTINELS]
        for sentinel in sentinels:
            stack.callback(sentinel.stop)
        assert wait_until(lambda: all(each.knows(2) for each in sentinels), 60), "the Sentinels do not find each other"
        yield found[0], found[1]


def test_calls_survive_the_master(lab: Lab, tmp_path: Path, servers: tuple[RedisServer, RedisServer]) -> None:
    master, replica = servers
    options = (f"--redis-sentinel=calls@{WATCH}", "--redis-db=0", "--port-min=30000", "--port-max=30999", TELLS)
    daemons: list[Daemon] = []
    calls: list[Dialogue] = []

    def start() -> Daemon:
        directory = tmp_path / f"daemon-{len(daemons)}"
        directory.mkdir()
        daemons.append(Daemon(lab, directory, *options))
        return daemons[-1]

    def place(daemon: Daemon) -> None:
        calls.append(Dialogue(daemon.ng, Party(lab.a), Party(lab.b)))
        calls[-1].caller.add()
        calls[-1].callee.add()
        both_ways(calls[-1].place())

    try:
        first = start()
        place(first)
        place(first)
        assert wait_until(lambda: replica.calls() == 2, 60)
        master.stop()
        place(first)
        ended = calls.pop(0)
        ended.delete()
        ended.caller.close()
        ended.callee.close()
        assert wait_until(lambda: "stores calls again, 2 of them" in first.log, 120), first.log
        assert wait_until(lambda: replica.calls() == 2, 60)
        settled(first)
        assert "master calls of 127.0.0.1:26381, " in first.log
        first.process.kill()
        first.process.wait(60)
        second = start()
        assert "2 of 2 calls restored" in second.log
        for call in calls:
            call.ng = second.ng
            both_ways(call)
        assert second.stop() == 0
    finally:
        for daemon in daemons:
            daemon.kill()
        for call in calls:
            call.caller.close()
            call.callee.close()
