"""What the status page is told: lines of the list, changes since the last time, one call in full."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from fakes import TOOLS, FakeTransport
from test_counts import said

from rtpengine import status
from rtpengine.call import Call
from rtpengine.media import Learning, MediaOffer, Quality, Signalling
from rtpengine.quality import G711, INTERVAL_S, Far, Track
from rtpengine.status import Reading, StatusBoard, Where
from rtpengine.table import CallTable, Limits

A, B = "192.0.2.1", "192.0.2.2"
HOSTILE = '"><script>alert(1)</script>\u2028\x00'


class Scene:
    """A board over a table of calls; streams of the fake transport are port numbers from 30000 on."""

    def __init__(self) -> None:
        self.transport = FakeTransport(limit=100_000)
        self.table = CallTable(self.transport, Limits(), Learning.HEURISTIC, TOOLS, lambda *_: None)
        self.wheres: dict[int, Where] = {}
        self.asked: list[tuple[str, float, float]] = []
        self.now = 100.0
        self.made = 0
        self.board = StatusBoard(self.table, self.where, lambda: {"version": "x"}, self.why, "run-1")

    def where(self, stream: int) -> Where:
        self.made += 1
        return self.wheres.get(stream, Where(False, ""))

    def why(self, call: Call, now: float, wall: float) -> dict[str, Any]:
        self.asked.append((call.call_id, now, wall))
        return {"call_id": call.call_id}

    def offer(self, call_id: str = "c", offered: list[MediaOffer] | None = None, tag: str = "a") -> None:
        self.table.offer(call_id, tag, said(A) if offered is None else offered, Signalling(), self.now)

    def answer(self, call_id: str = "c", answered: list[MediaOffer] | None = None, tag: str = "b") -> None:
        self.table.answer(call_id, "a", tag, said(B) if answered is None else answered, Signalling(), self.now)

    def call(self, call_id: str = "c") -> None:
        self.offer(call_id)
        self.answer(call_id)

    def sample(
        self, call_id: str, *streams: tuple[int, int, float], lost: int = 0, seconds: float = INTERVAL_S
    ) -> None:
        """Let five seconds pass: packets and jitter of streams, by port."""
        self.now += seconds
        call = self.table.find(call_id)
        call.sampled = self.now
        for _, media, _ in call.medias():
            ports = media.ports.current
            assert ports is not None
            for stream in ports.streams[::2]:
                track = media.ports.tracks.setdefault(stream, Track())
                track.codec = G711
                heard = {port: (packets, jitter) for port, packets, jitter in streams}
                packets, jitter_ms = heard.get(stream, (0, 0.0))
                counted = track.counted
                quality = Quality(expected=counted.expected + packets, lost=counted.lost + lost, jitter_ms=jitter_ms)
                if track.at < self.now:
                    track.take(quality, Far(), self.now)

    def ask(self, since: int = 0, run: str = "run-1", after: float = 1.0) -> dict[str, Any]:
        self.now += after
        answer = json.loads(self.board.overview(run, since, self.now, 1000.0 + self.now))
        assert isinstance(answer, dict)
        return answer

    def line(self, call_id: str = "c") -> dict[str, Any]:
        (line,) = (line for line in self.ask()["calls"] if line["id"] == call_id)
        return dict(line)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_nothing() -> None:
    scene = Scene()
    answer = scene.ask()
    assert answer == {
        "run": "run-1",
        "version": 1,
        "whole": True,
        "behind": False,
        "now": 101.0,
        "wall": 1101.0,
        "daemon": {"version": "x"},
        "readings": [],
        "gone": [],
        "calls": [],
    }


def test_a_line(scene: Scene) -> None:
    scene.call()
    scene.sample("c", (30000, 250, 2.0), (30002, 250, 3.26), lost=1)
    line = scene.line()
    assert line == {
        "key": 1,
        "id": "c",
        "created": 100.0,
        "parties": [["a", f"{A}:5004"], ["b", f"{B}:5004"]],
        "media": ["audio"],
        "ports": [30002, 30000],
        "path": "userspace",
        "reason": "",
        "marks": [],
        "rate": 100,
        "loss": 0.4,
        "jitter": 3.3,
        "mos": line["mos"],
        "plot": [line["mos"]],
    }
    assert 4.2 < line["mos"] < 4.5


@pytest.mark.parametrize(("seconds", "lost", "rate"), [(5.0, 0, 120), (6.0, 0, 100), (6.0, 60, 80), (6.0, 300, 0)])
def test_the_rate_is_of_what_came(scene: Scene, seconds: float, lost: int, rate: int) -> None:
    scene.call()
    scene.sample("c", (30000, 250, 2.0), (30002, 250, 2.0))
    scene.sample("c", (30000, 300, 2.0), (30002, 300, 2.0), lost=lost, seconds=seconds)
    assert scene.line()["rate"] == rate


def test_before_the_first_sample(scene: Scene) -> None:
    scene.call()
    line = scene.line()
    assert (line["rate"], line["loss"], line["jitter"], line["mos"], line["plot"]) == (0, None, None, None, [])
    assert line["marks"] == []


@pytest.mark.parametrize(
    ("kernel", "path", "reason"),
    [
        ((), "userspace", "one"),
        ((30000,), "mixed", "one"),
        ((30002,), "mixed", "two"),
        ((30000, 30002), "kernel", ""),
    ],
)
def test_paths(scene: Scene, kernel: tuple[int, ...], path: str, reason: str) -> None:
    scene.wheres = {30000: Where(False, "two"), 30002: Where(False, "one")}
    scene.wheres |= {stream: Where(True, "") for stream in kernel}
    scene.call()
    line = scene.line()
    assert (line["path"], line["reason"]) == (path, reason)


HEARD = {"a": (30000, 250, 1.0), "b": (30002, 250, 1.0)}


@pytest.mark.parametrize(
    ("heard", "extra", "marks"),
    [
        ("ab", "", []),
        ("a", "", ["one-way"]),
        ("b", "", ["one-way"]),
        ("", "", ["silent"]),
        ("", "a=inactive\r\n", ["on hold"]),
        ("a", "a=sendonly\r\n", []),
        ("b", "a=sendonly\r\n", ["one-way"]),
        ("", "a=sendonly\r\n", ["silent"]),
    ],
)
def test_marks(scene: Scene, heard: str, extra: str, marks: list[str]) -> None:
    """Of party a, whose offer has ``extra``, we hear at 30002: at the port that the other has been told."""
    answer = {"a=sendonly\r\n": "a=recvonly\r\n"}.get(extra, extra)
    scene.offer(offered=said(A, extra=extra))
    scene.answer(answered=said(B, extra=answer))
    faces = {leg.tag: media.ports.current for leg, media, _ in scene.table.find("c").medias()}
    scene.sample("c", *((faces[tag].streams[0], 250, 1.0) for tag in heard))  # type: ignore[union-attr]
    assert scene.line()["marks"] == marks


def test_what_was_just_signalled_has_no_marks(scene: Scene) -> None:
    scene.call()
    scene.sample("c")
    assert scene.line()["marks"] == ["silent"]
    scene.call()
    assert scene.line()["marks"] == []


def test_without_an_answer(scene: Scene) -> None:
    scene.offer()
    scene.sample("c")
    line = scene.line()
    assert (line["marks"], line["parties"]) == (["unanswered"], [["a", f"{A}:5004"]])


def test_what_is_no_rtp_is_no_flow(scene: Scene) -> None:
    fax = [said(A)[0]._replace(kind="image", protocol="udptl")]
    scene.offer(offered=fax)
    scene.answer(answered=fax)
    scene.sample("c")
    line = scene.line()
    assert (line["media"], line["path"], line["ports"], line["marks"]) == (["image"], "", [], [])


def test_branches(scene: Scene) -> None:
    scene.call()
    scene.answer(tag="b2", answered=said("192.0.2.3"))
    line = scene.line()
    assert [party[0] for party in line["parties"]] == ["a", "b", "b2"]
    assert len(line["ports"]) == len(set(line["ports"])) == 3


def test_hostile_text_stays_text(scene: Scene) -> None:
    scene.offer(HOSTILE, tag=HOSTILE)
    scene.now += 1
    raw = scene.board.overview("", 0, scene.now, 0.0)
    (line,) = json.loads(raw)["calls"]
    assert (line["id"], line["parties"][0][0]) == (HOSTILE, HOSTILE)
    assert raw.isascii()


# Changes


def test_only_what_has_changed(scene: Scene) -> None:
    scene.call("c")
    scene.call("d")
    first = scene.ask()
    assert first["whole"] and [line["id"] for line in first["calls"]] == ["c", "d"]
    second = scene.ask(first["version"])
    assert (second["whole"], second["calls"], second["gone"]) == (False, [], [])
    scene.sample("d")
    third = scene.ask(second["version"])
    assert [line["id"] for line in third["calls"]] == ["d"]
    scene.table.end(scene.table.find("c"), "deleted", scene.now)
    fourth = scene.ask(third["version"])
    assert (fourth["gone"], fourth["calls"]) == ([1], [])
    scene.call("c")
    fifth = scene.ask(fourth["version"])
    assert [(line["id"], line["key"]) for line in fifth["calls"]] == [("c", 3)]
    # whoever has missed steps gets them all
    late = scene.ask(first["version"])
    assert (late["gone"], [line["id"] for line in late["calls"]]) == ([1], ["d", "c"])


@pytest.mark.parametrize(("run", "since"), [("", 0), ("run-0", 1), ("run-1", 99), ("run-1", -1), ("", 1)])
def test_who_knows_another_daemon_gets_everything(scene: Scene, run: str, since: int) -> None:
    scene.call()
    scene.ask()
    answer = scene.ask(since, run)
    assert answer["whole"] and len(answer["calls"]) == 1


def test_who_was_asleep_for_too_long_gets_everything(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.board._gone = type(scene.board._gone)(maxlen=2)
    monkeypatch.setattr(status, "MAX_GONE", 2)
    for name in "abcd":
        scene.call(name)
    before = scene.ask()
    for name in "abc":
        scene.table.end(scene.table.find(name), "deleted", scene.now)
    after = scene.ask(before["version"])
    assert not after["whole"] or [line["id"] for line in after["calls"]] == ["d"]
    scene.table.end(scene.table.find("d"), "deleted", scene.now)
    assert scene.ask(after["version"])["gone"] == [4]
    assert scene.ask(before["version"])["whole"]


# Cost


def test_within_a_second_everybody_gets_the_same(scene: Scene) -> None:
    scene.call()
    first = scene.ask()
    made = scene.made
    scene.call("d")
    for _ in range(9):
        assert scene.ask(after=0.1)["version"] == first["version"]
    assert scene.made == made
    assert scene.ask(after=0.2)["version"] == first["version"] + 1


def test_nothing_is_done_for_what_has_not_changed(scene: Scene) -> None:
    for number in range(50):
        scene.call(f"c{number}")
    scene.ask()
    made = scene.made
    for _ in range(10):
        scene.ask()
    assert scene.made == made
    scene.sample("c7")
    scene.ask()
    assert scene.made == made + 2


def test_a_step_is_bounded_and_the_rest_follows_soon(scene: Scene) -> None:
    for number in range(3 * status.BUDGET - 1):
        scene.call(f"c{number}")
    answer = scene.ask()
    seen = len(answer["calls"])
    assert (seen, answer["behind"]) == (status.BUDGET, True)
    while answer["behind"]:
        answer = scene.ask(answer["version"], after=status.CATCH_UP_S)
        assert len(answer["calls"]) <= status.BUDGET
        seen += len(answer["calls"])
    assert seen == 3 * status.BUDGET - 1


def test_every_line_has_its_turn(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is news of all calls all the time, and of more of them than one step can show."""
    monkeypatch.setattr(status, "BUDGET", 3)
    names = [f"c{number}" for number in range(10)]
    for name in names:
        scene.call(name)
    while (answer := scene.ask())["behind"]:
        pass
    shown: list[set[str]] = []
    for _ in range(20):
        for call in scene.table:
            call.sampled += 5.0
        answer = scene.ask(answer["version"])
        assert answer["behind"]
        shown.append({line["id"] for line in answer["calls"]})
    assert all(set.union(*shown[start : start + 4]) == set(names) for start in range(16))


def test_a_new_call_comes_first(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "BUDGET", 3)
    for number in range(4):
        scene.call(f"c{number}")
    while (answer := scene.ask())["behind"]:
        pass
    for call in scene.table:
        call.sampled += 5.0
    scene.call("new")
    answer = scene.ask(answer["version"])
    assert answer["behind"] and "new" in [line["id"] for line in answer["calls"]]
    answer = scene.ask(answer["version"])
    assert (len(answer["calls"]), answer["behind"]) == (2, False)


def test_pages_that_ask_for_everything_possible_share_an_answer(scene: Scene) -> None:
    scene.call()
    for _ in range(20):
        version = scene.ask()["version"]
    answers = [scene.ask(since, after=0.0) for since in range(1, version)]
    assert sum(not answer["whole"] for answer in answers) == status.MAX_ANSWERS - 1
    assert len(scene.board._answers) == status.MAX_ANSWERS


def test_calls_are_let_go_of_when_nobody_looks(scene: Scene) -> None:
    scene.call("c")
    scene.call("d")
    before = scene.ask()
    call = scene.table.find("c")
    scene.table.end(call, "deleted", scene.now)
    for _ in range(15):
        scene.now += 1.0
        scene.board.read(Reading(scene.now, 0, 0, 0, 0, 0))
    # this function's own, and the argument
    assert sys.getrefcount(call) == 2
    after = scene.ask(before["version"])
    assert after["whole"] and [line["id"] for line in after["calls"]] == ["d"]
    assert not scene.ask(after["version"])["whole"]


def test_a_branch_that_has_left_is_no_longer_shown(scene: Scene) -> None:
    scene.call()
    scene.answer(tag="b2")
    before = scene.line()
    assert [tag for tag, _ in before["parties"]] == ["a", "b", "b2"]
    call = scene.table.find("c")
    scene.table.delete(call, "a", "b2", "", 0, scene.now)
    after = scene.line()
    assert [tag for tag, _ in after["parties"]] == ["a", "b"]
    assert len(after["ports"]) < len(before["ports"])


def test_readings(scene: Scene) -> None:
    for second in range(1000):
        scene.board.read(Reading(float(second), second, 10 * second, 20 * second, 0, 1))
    scene.now = 1000.0
    readings = scene.ask(after=0.0)["readings"]
    assert len(readings) == status.READINGS
    assert readings[-1] == [995.0, 995, 9950, 19900, 0, 1]
    assert {b[0] - a[0] for a, b in zip(readings, readings[1:], strict=False)} == {5.0}


# One call


def test_one_call(scene: Scene) -> None:
    scene.call()
    scene.sample("c", (30000, 250, 2.0), lost=5)
    scene.sample("c", (30000, 250, 2.0))
    key = scene.line()["key"]
    detail = json.loads(scene.board.detail(key, scene.now, 5.0) or b"")
    assert detail["call_id"] == "c"
    assert set(detail["histories"]) == {"198.51.100.2:30000", "198.51.100.2:30002"}
    samples = detail["histories"]["198.51.100.2:30000"]
    assert [sample[:4] for sample in samples] == [[105.0, 250, 2.0, 2.0], [110.0, 250, 0.0, 2.0]]
    assert samples[0][4] < samples[1][4]
    assert detail["histories"]["198.51.100.2:30002"][1][1:] == [0, 0.0, 0.0, None]
    assert scene.asked == [("c", scene.now, 5.0)]


def test_one_call_is_asked_for_once_a_second(scene: Scene) -> None:
    scene.call()
    key = scene.line()["key"]
    for _ in range(5):
        assert scene.board.detail(key, scene.now, 0.0)
    assert len(scene.asked) == 1
    assert scene.board.detail(key, scene.now + 1.0, 0.0)
    assert len(scene.asked) == 2


def test_a_call_that_has_ended(scene: Scene) -> None:
    scene.call()
    key = scene.line()["key"]
    scene.table.end(scene.table.find("c"), "deleted", scene.now)
    assert scene.board.detail(key, scene.now + 1.0, 0.0) is None
    assert scene.board.detail(999, scene.now + 1.0, 0.0) is None


def test_the_plot_grows_sample_by_sample(scene: Scene) -> None:
    scene.call()
    scene.sample("c", (30000, 250, 1.0), (30002, 250, 1.0))
    scene.sample("c", (30000, 250, 1.0), (30002, 250, 1.0), lost=50)
    first = scene.line()["plot"]
    assert len(first) == 2 and first[1] < 3 < first[0]
    scene.sample("c", (30000, 250, 1.0))
    assert scene.line()["plot"] == [*first, first[0]]
    scene.sample("c")
    assert scene.line()["plot"] == [*first, first[0], None]
    for _ in range(3):
        scene.sample("c", (30002, 250, 1.0))
    # three of them at once, since nobody has looked
    assert scene.line()["plot"] == [*first, first[0], None, *[first[0]] * 3]
    for _ in range(status.PLOTTED):
        scene.sample("c", (30002, 250, 40.0))
        plot = scene.line()["plot"]
    assert len(plot) == status.PLOTTED and len(set(plot)) == 1
