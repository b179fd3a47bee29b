"""Calls and a store on paper: what is written when, and what becomes of it while the store is away."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import persistence
from rtpengine.media import Endpoint, Learning, MediaOffer, Signalling
from rtpengine.persistence import Persistence
from rtpengine.snapshot import Restorer, SnapshotError, dump
from rtpengine.store import CUT, StoreError, Taken
from rtpengine.table import CallTable, Limits

A = Endpoint("203.0.113.1", 4000)


class Paper:
    """What Store is, in a dictionary; ``trouble`` is raised by everything, ``refused`` by writing only."""

    def __init__(self) -> None:
        self.calls: dict[str, bytes] = {}
        self.trouble: Exception | None = None
        self.refused: Exception | None = None
        self.writes: list[tuple[set[str], set[str]]] = []
        self.takes = self.checks = self.closed = 0
        self.left = False

    def _run(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def take(self) -> bool:
        self._run()
        self.takes += 1
        return False

    def leave(self) -> None:
        self.left = True

    def check(self) -> None:
        self.checks += 1
        self._run()

    def go_on(self) -> set[str]:
        return self.call_ids()

    def call_ids(self) -> set[str]:
        self._run()
        return set(self.calls)

    def load(self, call_ids: Sequence[str]) -> list[bytes | None]:
        self._run()
        return [self.calls[call_id] or None for call_id in call_ids]

    def write(self, snapshots: Mapping[str, bytes], ended: Collection[str]) -> None:
        self._run()
        if self.refused is not None:
            raise self.refused
        self.writes.append((set(snapshots), set(ended)))
        self.calls.update(snapshots)
        for call_id in ended:
            self.calls.pop(call_id, None)

    def forget(self, call_ids: Collection[str]) -> None:
        self._run()
        for call_id in call_ids:
            self.calls.pop(call_id, None)

    def close(self) -> None:
        self.closed += 1


class Stage:
    """A table whose changes go to a store on paper."""

    def __init__(self) -> None:
        self.paper = Paper()
        self.transport = FakeTransport()
        self.table = CallTable(self.transport, Limits(), Learning.HEURISTIC, TOOLS, self._ended)
        restorer = Restorer(self.transport, TOOLS, late=True)
        self.kept = Persistence(self.paper, "Redis", self.table, restorer)  # type: ignore[arg-type]
        self.table.changed = self.kept.changed

    def _ended(self, call: Any, *_: Any) -> None:
        self.kept.ended(call.call_id)

    def offer(self, call_id: str) -> None:
        offers = [MediaOffer("audio", A, None, "RTP/AVP")]
        self.table.offer(call_id, "a", offers, Signalling(), 1.0)

    def end(self, call_id: str) -> None:
        self.table.end(self.table.find(call_id), "deleted", 2.0)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("FIRST_WAIT_S", "LAST_WAIT_S", "START_S", "COALESCE_S", "CHECK_S"):
        monkeypatch.setattr(persistence, name, 0.02)
    yield


def run(scene: Callable[[Stage], Any]) -> Stage:
    async def main() -> Stage:
        stage = Stage()
        try:
            await scene(stage)
        finally:
            await stage.kept.close()
        return stage

    stage = asyncio.run(main())
    stage.kept._thread.shutdown(wait=True)
    return stage


def test_calls_are_written_and_forgotten() -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        assert stage.kept.state == "in step"
        for number in range(40):
            stage.offer(f"c{number}")
        assert stage.kept.state == "behind"
        await until(lambda: len(stage.paper.calls) == 40)
        assert max(len(written) for written, _ in stage.paper.writes) == persistence.AT_ONCE
        stage.offer("c1")
        stage.end("c1")
        stage.end("c2")
        stage.kept.changed("never heard of")
        await until(lambda: len(stage.paper.calls) == 38)
        stage.kept.renew()
        await until(lambda: stage.kept.state == "in step")

    assert run(scene).paper.closed == 1


def test_a_new_call_with_the_call_id_of_one_that_has_just_ended() -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.offer("c")
        await until(lambda: "c" in stage.paper.calls)
        stage.end("c")
        stage.offer("c")
        await until(lambda: stage.kept.state == "in step")
        assert "c" in stage.paper.calls

    run(scene)


def test_renewed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "RENEWAL_S", 0.05)

    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        await until(lambda: len(stage.paper.writes) > 2)  # without calls: the owner's key
        for number in range(20):
            stage.offer(f"c{number}")
        await until(lambda: sum("c19" in written for written, _ in stage.paper.writes) > 2)

    run(scene)


def test_what_changes_does_not_wait_for_what_is_renewed() -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        for number in range(40):
            stage.offer(f"c{number:02}")
        await until(lambda: stage.kept.state == "in step")
        before = len(stage.paper.writes)
        stage.kept.renew()
        stage.offer("c39")
        stage.end("c01")
        await until(lambda: stage.kept.state == "in step")
        renewed = [written for written, _ in stage.paper.writes[before:]]
        assert "c39" in renewed[0] and sum(map(len, renewed)) == 39

    run(scene)


def test_what_is_left_is_written_at_the_end() -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        for number in range(40):
            stage.offer(f"c{number}")

    assert len(run(scene).paper.calls) == 40


def test_who_has_left_writes_nothing() -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.offer("c")
        stage.kept.leave()
        await asyncio.gather(stage.kept._task, return_exceptions=True)  # type: ignore[arg-type]
        stage.offer("d")
        stage.kept.ended("d")
        # Nothing is wanted of the thread that could come late.
        await asyncio.get_running_loop().run_in_executor(stage.kept._thread, lambda: None)
        assert stage.paper.calls == {} and stage.paper.left

    assert run(scene).paper.calls == {}


def test_what_was_about_to_be_written_at_the_end() -> None:
    busy = threading.Event()

    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.offer("ended")
        await until(lambda: "ended" in stage.paper.calls and stage.kept.state == "in step")
        stage.kept._thread.submit(busy.wait, 20)
        stage.offer("new")
        stage.end("ended")
        await until(lambda: not stage.kept._waiting)
        assert set(stage.paper.calls) == {"ended"} and stage.kept.state == "behind", "it waits for the thread"
        asyncio.get_running_loop().call_later(0.05, busy.set)

    assert set(run(scene).paper.calls) == {"new"}


def test_the_end_after_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.offer("kept")
        stage.offer("ended")
        await until(lambda: len(stage.paper.calls) == 2)
        monkeypatch.setattr(persistence, "FIRST_WAIT_S", 3600.0)
        monkeypatch.setattr(persistence, "LAST_WAIT_S", 3600.0)
        # What waits now is as long as it was; the next one is not.
        stage.kept._task.cancel()  # type: ignore[union-attr]
        stage.kept._task = asyncio.create_task(stage.kept._keep_in_step(3600.0))
        stage.paper.trouble = StoreError(CUT)
        await until(lambda: stage.kept.state == CUT)
        stage.paper.trouble = None
        stage.end("ended")

    assert set(run(scene).paper.calls) == {"kept"}


def test_a_store_that_is_away_at_the_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.offer("c")
        monkeypatch.setattr(persistence, "CLOSE_S", 0.05)
        monkeypatch.setattr(stage.kept, "_flush", lambda: asyncio.sleep(0.2))

    run(scene)
    assert "is too slow: the last changes of 1 calls are not stored" in caplog.text


def test_away_and_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.offer("kept")
        stage.offer("ended")
        await until(lambda: len(stage.paper.calls) == 2)
        stage.paper.trouble = StoreError("it is tired")
        await until(lambda: stage.kept.state == "it is tired")
        stage.end("ended")
        stage.offer("new")
        await until(lambda: stage.paper.checks > 0)
        stage.paper.trouble = None
        await until(lambda: set(stage.paper.calls) == {"kept", "new"} and stage.kept.state == "in step")

    run(scene)
    assert [record.message for record in caplog.records if "store" in record.message] == [
        "Redis does not store calls: it is tired",
        "Redis stores calls again, 2 of them",
    ]


def test_away_and_back_without_calls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.paper.trouble = StoreError("it is tired")
        await until(lambda: stage.kept.state == "it is tired")
        stage.paper.trouble = None
        await until(lambda: stage.kept.state == "in step")

    run(scene)
    assert "Redis stores calls again, 0 of them" in caplog.text


def test_no_room(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.offer("a")
        stage.offer("b")
        await until(lambda: len(stage.paper.calls) == 2)
        stage.paper.refused = StoreError("it is full")
        stage.offer("c")
        await until(lambda: stage.kept.state == "it is full")
        stage.end("a")
        await until(lambda: set(stage.paper.calls) == {"b"})
        stage.paper.refused = None
        await until(lambda: set(stage.paper.calls) == {"b", "c"})

    run(scene)
    assert caplog.text.count("does not store calls") == 1


def test_taken_over(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        stage.paper.trouble = Taken("another daemon has taken the instance over")
        await until(lambda: "this one stores nothing any more" in stage.kept.state)
        stage.paper.trouble = None
        stage.offer("c")
        await asyncio.sleep(0.1)
        assert stage.paper.calls == {}

    run(scene)
    assert caplog.text.count("WARNING") == 1


def test_taken_over_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        def go_on() -> set[str]:
            raise Taken("another daemon has taken the instance over")

        monkeypatch.setattr(persistence, "START_S", 3600.0)
        monkeypatch.setattr(stage.paper, "go_on", go_on)
        await asyncio.wait_for(stage.kept.start(), 20)
        assert "this one stores nothing any more" in stage.kept.state

    run(scene)


def test_a_mistake_of_ours_is_told_and_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.kept.start()
        with monkeypatch.context() as patch:
            patch.setattr(persistence, "serialize", lambda call: 1 / 0)
            stage.offer("c")
            await until(lambda: "internal error: the call is not stored" in caplog.text)
            patch.setattr(stage.paper, "write", lambda *_: 1 / 0)
            stage.kept.ended("x")
            await until(lambda: "internal error in what keeps calls" in caplog.text)
        await until(lambda: stage.kept.state == "in step")

    run(scene)


def stored(call_id: str, port: int = 30000, **changes: Any) -> bytes:
    other = Stage()
    other.transport.next_port = port
    other.offer(call_id)
    return json.dumps(dump(other.table.find(call_id), 1.0, 1.0) | changes).encode()


def test_restoring(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        stage.paper.calls = {
            "good": stored("good"),
            "newer": stored("newer", 30010, version=99),
            "broken": b"{",
            "deep": b"[" * 100_000,
            "twin": stored("another", 30020),
            "gone": b"",
        }
        await stage.kept.start()
        assert "good" in stage.table and len(stage.table) == 1
        assert set(stage.transport.opened) == {30000, 30002} and not stage.transport.held
        await until(lambda: stage.kept.state == "in step")
        assert set(stage.paper.calls) == {"good", "newer", "broken", "deep", "twin"}, "what is refused stays"
        stage.end("good")
        await until(lambda: "good" not in stage.paper.calls)

    run(scene)
    reasons = ["version 99 is not 1", "no JSON", "no JSON", "it has the call-id of another call"]
    assert sorted(r.message for r in caplog.records if "not restored" in r.message) == sorted(
        f"the call is not restored: {reason}" for reason in reasons
    )


@pytest.mark.parametrize("passing", [False, True])
def test_away_at_the_start(monkeypatch: pytest.MonkeyPatch, passing: bool) -> None:
    """It is restored when the store is there, but for what is known already."""

    async def scene(stage: Stage) -> None:
        if passing:
            monkeypatch.setattr(persistence, "PATIENCE_S", 0.06)
        stage.paper.calls = {"old": stored("old", 31000), "new": stored("new", 32000)}
        stage.paper.trouble = StoreError(persistence.PASSING[0] if passing else "it is tired")
        await stage.kept.start()
        stage.offer("new")
        assert len(stage.table) == 1
        stage.paper.trouble = None
        await until(lambda: len(stage.table) == 2 and stage.kept.state == "in step")
        assert set(stage.transport.opened) == {30000, 30002, 31000, 31002}

    run(scene)


@pytest.mark.parametrize("method", ["load", "take", "forget"])
def test_trouble_at_every_step(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    async def scene(stage: Stage) -> None:
        stage.paper.calls = {"old": stored("old"), "gone": b""}
        failing = [True, False]
        real = getattr(stage.paper, method)

        def fail_once(*arguments: Any) -> Any:
            if failing.pop(0) if failing else False:
                raise StoreError("it is tired")
            return real(*arguments)

        monkeypatch.setattr(stage.paper, method, fail_once)
        await stage.kept.start()
        await until(lambda: "old" in stage.table and set(stage.paper.calls) == {"old"})

    run(scene)


@pytest.mark.parametrize("trouble", [None, StoreError("it is tired"), StoreError(persistence.PASSING[1])])
def test_who_has_all_calls_does_not_wait(monkeypatch: pytest.MonkeyPatch, trouble: StoreError | None) -> None:
    for name in ("START_S", "PATIENCE_S", *(() if trouble else ("FIRST_WAIT_S", "LAST_WAIT_S"))):
        monkeypatch.setattr(persistence, name, 3600.0)

    async def scene(stage: Stage) -> None:
        stage.paper.trouble = trouble
        stage.paper.calls = {"ended": b"x"}
        stage.offer("here")
        await asyncio.wait_for(stage.kept.start(restores=False), 20)
        if trouble:
            await until(lambda: stage.kept.state == str(trouble))
            stage.paper.trouble = None
        await until(lambda: set(stage.paper.calls) == {"here"})

    run(scene)


def interrupt(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the store fail once when the second call is loaded, and the daemon serve then."""
    monkeypatch.setattr(persistence, "_LOAD_AT_ONCE", 1)
    monkeypatch.setattr(persistence, "START_S", -1.0)
    load, count = stage.paper.load, 0

    def fail_once(call_ids: Sequence[str]) -> list[bytes | None]:
        nonlocal count
        count += 1
        if count == 2:
            raise StoreError("it is tired")
        return load(call_ids)

    monkeypatch.setattr(stage.paper, "load", fail_once)


def test_what_has_ended_is_not_restored_by_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        stage.paper.calls = {f"c{number}": stored(f"c{number}", 31000 + 10 * number) for number in range(4)}
        interrupt(stage, monkeypatch)
        await stage.kept.start()
        assert "c0" in stage.table and len(stage.table) == 1
        stage.end("c0")
        # With the call-id of one that is stored; then with that of one that is here again.
        for call_id in ("c2", "c3"):
            stage.offer(call_id)
            stage.end(call_id)
        stage.offer("c3")
        await until(lambda: stage.kept.state == "in step")
        assert {call.call_id for call in stage.table} == set(stage.paper.calls) == {"c1", "c3"}
        assert not stage.kept._over

    run(scene)


def test_no_more_ended_calls_are_remembered_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "OVER_MOST", 2)

    async def scene(stage: Stage) -> None:
        stage.paper.trouble = StoreError("it is tired")
        await stage.kept.start()
        for number in range(5):
            stage.offer(f"c{number}")
            stage.end(f"c{number}")
        assert list(stage.kept._over) == ["c3", "c4"]
        stage.paper.trouble = None
        await until(lambda: stage.kept.state == "in step")

    run(scene)


def test_what_was_refused_once_is_no_exception_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored by a later attempt, or begun anew with its call-id: when it ends it is forgotten like any other."""
    real, refused = persistence.restore, [True]

    def refuse_once(*arguments: Any) -> None:
        if refused and refused.pop():
            raise SnapshotError("its port is taken")
        real(*arguments)

    async def scene(stage: Stage) -> None:
        stage.paper.calls = {"again": stored("again", 31000), "broken": b"{", "new": b"{"}
        interrupt(stage, monkeypatch)
        monkeypatch.setattr(persistence, "restore", refuse_once)
        await stage.kept.start()
        await until(lambda: stage.kept.state == "in step")
        assert "again" in stage.table
        stage.offer("new")
        await until(lambda: stage.kept.state == "in step")
        stage.paper.trouble = StoreError("it is tired")
        await until(lambda: stage.kept.state == "it is tired")
        stage.end("again")
        stage.end("new")
        stage.paper.trouble = None
        await until(lambda: stage.kept.state == "in step")
        assert set(stage.paper.calls) == {"broken"}

    run(scene)
