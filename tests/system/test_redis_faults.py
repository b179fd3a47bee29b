"""Redis slow, away, full, restarted, read-only, and with what others have put there: calls go on, one line is said."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.media import Dialogue, Party, both_ways
from systemlab.netns import Lab
from systemlab.redisserver import TELLS, RedisServer, settled

OPTIONS = (
    "--redis=127.0.0.1:6379", "--redis-db=0", "--port-min=30000", "--port-max=30999", "--redis-instance=one", TELLS,
)  # fmt: skip
NAME = "Redis (127.0.0.1:6379, database 0)"

Start = Callable[..., Daemon]
Call = Callable[[Daemon], Dialogue]


@pytest.fixture
def place(lab: Lab) -> Iterator[Call]:
    """Place calls; the sockets of their parties are closed after the test."""
    made: list[Dialogue] = []

    def make(daemon: Daemon) -> Dialogue:
        made.append(Dialogue(daemon.ng, Party(lab.a), Party(lab.b)))
        for party in (made[-1].caller, made[-1].callee):
            party.add()
        made[-1].place()
        both_ways(made[-1])
        return made[-1]

    yield make
    for dialogue in made:
        dialogue.caller.close()
        dialogue.callee.close()


def logged(daemon: Daemon, text: str, times: int = 1) -> bool:
    return wait_until(lambda: daemon.log.count(text) >= times, 60)


def stored(redis: RedisServer, count: int) -> bool:
    return wait_until(lambda: redis.calls() == count, 60)


@pytest.mark.parametrize("fault", ["away", "frozen"])
def test_away_or_frozen(launch: Start, redis: RedisServer, place: Call, fault: str) -> None:
    daemon = launch(*OPTIONS)
    kept, ended = place(daemon), place(daemon)
    assert stored(redis, 2)
    if fault == "away":
        redis.stop()
    else:
        redis.freeze()
    began = time.monotonic()
    while_away = place(daemon)
    assert time.monotonic() - began < 60, "nobody waits for Redis"
    ended.delete()
    reason = "it cannot be reached" if fault == "away" else "no answer within 2 s"
    assert logged(daemon, f"{NAME} does not store calls: {reason}")
    for _ in range(3):
        both_ways(place(daemon))
    if fault == "away":
        redis.start()
    else:
        redis.thaw()
    assert logged(daemon, "stores calls again, 5 of them")
    assert stored(redis, 5)
    for call in (kept, while_away):
        both_ways(call)
        assert redis.keys(f"rtpengine:one:call:{call.call_id}")
    assert not redis.keys(f"rtpengine:one:call:{ended.call_id}")
    # Whether the reason changes on the way (refused, then reset) or not: one line per change.
    assert daemon.log.count(f"does not store calls: {reason}") == 1
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log


def test_restarted_at_once_with_older_data(launch: Start, redis: RedisServer, place: Call) -> None:
    """As from a snapshot, the appended file of the last second but one, or a replica that was behind."""
    daemon = launch(*OPTIONS)
    ended = place(daemon)
    assert stored(redis, 1)
    redis.command("SAVE")
    kept = place(daemon)
    assert stored(redis, 2)
    ended.delete()
    assert stored(redis, 1)
    settled(daemon)
    redis.stop()
    redis.start()
    assert wait_until(lambda: redis.keys("rtpengine:one:call:*") == {f"rtpengine:one:call:{kept.call_id}"}, 20)
    assert logged(daemon, "stores calls again, 1 of them")
    settled(daemon)
    daemon.process.kill()
    daemon.process.wait(60)
    second = launch(*OPTIONS)
    assert "1 of 1 calls restored" in second.log
    kept.ng = second.ng
    both_ways(kept)
    assert second.stop() == 0
    assert "Traceback" not in daemon.log + second.log


def test_older_data_of_the_daemon_before(launch: Start, redis: RedisServer, place: Call) -> None:
    """Whose token is in there, which does not make it the one that was started last."""
    first = launch(*OPTIONS)
    assert wait_until(lambda: redis.keys("rtpengine:one:owner"), 20)
    redis.command("SAVE")
    assert first.stop() == 0
    second = launch(*OPTIONS)
    place(second)
    assert stored(redis, 1)
    settled(second)
    redis.stop()
    redis.start()
    assert logged(second, "stores calls again, 1 of them")
    assert stored(redis, 1)
    assert second.stop() == 0
    assert "taken" not in second.log


def test_connections_that_are_cut(launch: Start, redis: RedisServer, place: Call) -> None:
    daemon = launch(*OPTIONS)
    call = place(daemon)
    assert stored(redis, 1)
    settled(daemon)
    redis.command("DEL", f"rtpengine:one:call:{call.call_id}")
    redis.command("CLIENT", "KILL", "TYPE", "normal")
    assert logged(daemon, f"{NAME} does not store calls: the connection was cut")
    assert stored(redis, 1)
    assert logged(daemon, "stores calls again, 1 of them")
    assert daemon.stop() == 0


def test_full_and_with_room_again(launch: Start, redis: RedisServer, place: Call) -> None:
    daemon = launch(*OPTIONS)
    first = place(daemon)
    assert stored(redis, 1)
    redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis.command("CONFIG", "SET", "maxmemory", "1")
    second = place(daemon)
    assert logged(daemon, f"{NAME} does not store calls: it is full")
    first.delete()
    assert stored(redis, 0), "what has ended makes room"
    redis.command("CONFIG", "SET", "maxmemory", "0")
    assert logged(daemon, "stores calls again, 1 of them")
    assert stored(redis, 1)
    both_ways(second)
    assert daemon.log.count("does not store calls") == 1
    assert daemon.stop() == 0


def test_read_only(launch: Start, redis: RedisServer, place: Call) -> None:
    daemon = launch(*OPTIONS)
    call = place(daemon)
    assert stored(redis, 1)
    redis.command("REPLICAOF", "192.0.2.99", "6379")
    second = place(daemon)
    assert logged(daemon, f"{NAME} does not store calls: it is a replica, not the master")
    redis.command("REPLICAOF", "NO", "ONE")
    assert logged(daemon, "stores calls again, 2 of them")
    assert stored(redis, 2)
    both_ways(call)
    both_ways(second)
    assert daemon.stop() == 0


def test_a_password_that_is_wrong_and_one_that_is_right(
    launch: Start, redis: RedisServer, place: Call, tmp_path: Path
) -> None:
    redis.command("ACL", "SETUSER", "rtpengine", "on", ">hunter2", "~rtpengine:*", "+@all")
    redis.command("ACL", "SETUSER", "default", "-@all", "+ping", "+auth", "+hello")
    files = {name: tmp_path / name for name in ("wrong", "right")}
    files["wrong"].write_text("rtpengine\nhunter3\n")
    files["right"].write_text("rtpengine\nhunter2\n")
    daemon = launch(*OPTIONS, f"--redis-auth-file={files['wrong']}")
    place(daemon)
    assert logged(daemon, f"{NAME} does not store calls: it does not accept the password")
    daemon.stop()
    right = launch(*OPTIONS, f"--redis-auth-file={files['right']}")
    place(right)
    assert wait_until(lambda: "does not store" not in right.log, 1)
    redis.command("AUTH", "rtpengine", "hunter2")
    assert right.stop() == 0
    assert "hunter" not in daemon.log + right.log


def test_keys_of_others_stay(launch: Start, redis: RedisServer, place: Call) -> None:
    others = {"calls": "x", "rtpengine:other:call:c": "y", "rtpengine:one": "z", "rtpengine:ones:call:c": "w"}
    for key, value in others.items():
        redis.command("SET", key, value)
    redis.command("SADD", "rtpengine:other:calls", "c")
    daemon = launch(*OPTIONS)
    place(daemon).delete()
    place(daemon)
    assert stored(redis, 3)
    redis.stop()
    redis.start()
    for key, value in others.items():
        redis.command("SET", key, value)
    assert stored(redis, 3)
    for key, value in others.items():
        assert redis.command("GET", key).decode() == value
    ours = redis.keys("rtpengine:one:*")
    assert ours and all(redis.command("TTL", key) > 80_000 for key in ours)
    assert daemon.stop() == 0


WRONG = {
    "no JSON": b"\xff{",
    "no snapshot of a call": b"[1]",
    "version 99 is not 1": b'{"version": 99, "call": {}}',
    "call_id is missing": b'{"version": 1, "call": {}}',
}


def test_wrong_data_is_refused_call_by_call(launch: Start, redis: RedisServer, place: Call) -> None:
    first = launch(*OPTIONS)
    calls = [place(first) for _ in range(3)]
    assert stored(redis, 3)
    settled(first)
    first.process.kill()
    first.process.wait(60)
    good, other, taken = (f"rtpengine:one:call:{call.call_id}" for call in calls)
    for number, data in enumerate(WRONG.values()):
        redis.command("SADD", "rtpengine:one:calls", f"wrong-{number}")
        redis.command("SET", f"rtpengine:one:call:wrong-{number}", data)
    redis.command("SADD", "rtpengine:one:calls", "list", "gone", "twin", b"\xff\xfe")
    redis.command("RPUSH", "rtpengine:one:call:list", "x")
    redis.command("SET", "rtpengine:one:call:twin", redis.command("GET", other))
    redis.command("SET", b"rtpengine:one:call:\xff\xfe", "[")
    values = json.loads(redis.command("GET", taken))
    values["call"]["sets"][0]["port"] = json.loads(redis.command("GET", good))["call"]["sets"][0]["port"]
    redis.command("SET", taken, json.dumps(values))

    second = launch(*OPTIONS)
    assert "calls restored" in second.log
    for number, reason in enumerate(WRONG):
        assert second.log.count(f"[wrong-{number}]: [redis] the call is not restored: {reason}") == 1, second.log
    assert second.log.count("[twin]: [redis] the call is not restored: ") == 1
    restored = [call for call in calls if "created" in second.ng.command("query", call_id=call.call_id)]
    assert len(restored) == 2, "of two calls on one port one has to lose"
    both_ways(calls[1])
    both_ways(place(second))
    assert second.stop() == 0
    assert "Traceback" not in second.log


def test_keys_of_ours_of_another_type(launch: Start, redis: RedisServer, place: Call) -> None:
    redis.command("SET", "rtpengine:one:calls", "text")
    redis.command("RPUSH", "rtpengine:one:owner", "text")
    daemon = launch(*OPTIONS)
    place(daemon)
    assert stored(redis, 1)
    redis.command("DEL", "rtpengine:one:calls")
    redis.command("SET", "rtpengine:one:calls", "text")
    place(daemon)
    assert stored(redis, 2)
    assert wait_until(lambda: redis.command("TYPE", "rtpengine:one:calls") == b"set", 20)
    assert wait_until(lambda: redis.command("SCARD", "rtpengine:one:calls") == 2, 20)
    assert daemon.stop() == 0


def test_one_that_was_away_at_the_start(launch: Start, redis: RedisServer, place: Call) -> None:
    first = launch(*OPTIONS)
    call = place(first)
    assert stored(redis, 1)
    settled(first)
    snapshot = redis.command("GET", f"rtpengine:one:call:{call.call_id}")
    first.process.kill()
    first.process.wait(60)
    redis.stop()
    second = launch(*OPTIONS)
    assert logged(second, f"{NAME} does not store calls: it cannot be reached")
    new = place(second)
    redis.start()
    redis.command("SADD", "rtpengine:one:calls", call.call_id)
    redis.command("SET", f"rtpengine:one:call:{call.call_id}", snapshot)
    # It may have been faster than we were with putting the data back.
    if wait_until(lambda: "1 of 1 calls restored" in second.log, 15):
        call.ng = second.ng
        both_ways(call)
    both_ways(new)
    assert stored(redis, 2) or stored(redis, 1)
    assert second.stop() == 0


def test_who_was_started_last_writes(launch: Start, redis: RedisServer, place: Call) -> None:
    first = launch(*OPTIONS, "--port-max=30499")
    place(first)
    assert stored(redis, 1)
    # As on another machine: the same instance, and ports that are free there.
    redis.command("SET", "rtpengine:one:owner", "somebody")
    call = place(first)
    assert logged(first, "another daemon has taken the instance over: this one stores nothing any more")
    both_ways(call)
    time.sleep(0.5)
    assert redis.calls() == 1
    assert redis.command("GET", "rtpengine:one:owner") == b"somebody"
    assert first.stop() == 0
    assert redis.calls() == 1
