"""Questions and orders of an operator: the engine, and the words that reach it."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from fakes import TOOLS, FakeTransport
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import NOTICE, ProtocolError
from rtpengine.counts import CallCounts
from rtpengine.media import (
    CryptoLine,
    Endpoint,
    IceCredentials,
    Learning,
    MediaOffer,
    Quality,
    Signalling,
    SrtpKeys,
    StreamState,
)
from rtpengine.operations import TOP_CALLS, Host, Interface, Operations, Traffic
from rtpengine.operator_commands import COMMANDS, SETTINGS, When, execute, usage
from rtpengine.operator_text import duration, render
from rtpengine.quality import G711, Far, Track
from rtpengine.table import CallTable, Limits
from rtpengine.why import RTCP_PATH, UNDECIDED

A, B = Endpoint("203.0.113.1", 4000), Endpoint("203.0.113.2", 5000)
NOW, WALL = 100.0, 1_700_000_100.0


def audio(endpoint: Endpoint, **changes: Any) -> MediaOffer:
    return MediaOffer("audio", endpoint, None, "RTP/AVP", **changes)


class Stage:
    """A table with calls, and the process around it on paper."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.counts = CallCounts()
        self.table = CallTable(self.transport, Limits(60, 3600), Learning.HEURISTIC, TOOLS, self.counts.ended)
        self.level = 6
        self.debugged: set[str] = set()
        self.operations = Operations(self.table, self.counts, self.host())

    def host(self, userspace: str = "") -> Host:
        return Host(
            started=10.0,
            userspace=userspace,
            interfaces=lambda: [Interface("default", "192.0.2.1", "198.51.100.2", 30000, 30099, 100, 8)],
            traffic=lambda: Traffic(50, 8600, 1, 20, 3440, {"source": 3, "replay": 0}),
            parameters=lambda: {"ip": "192.0.2.1", "timeout": 1},
            drain_limit_s=lambda: 3600,
            replace=lambda: 4711,
            level=lambda: self.level,
            set_level=lambda level: setattr(self, "level", level),
            debug=lambda call_id, on: (self.debugged.add if on else self.debugged.discard)(call_id),
            is_debugged=lambda call_id: call_id in self.debugged,
        )

    def place(self, call_id: str = "c", answered: bool = True, **changes: Any) -> None:
        self.table.offer(call_id, "a", [audio(A, **changes)], Signalling(), 40.0)
        if answered:
            self.table.answer(call_id, "a", "b", [audio(B, **changes)], Signalling(), 41.0)

    def hear(self, stream: int, last: float = 99.5, **changes: Any) -> None:
        state = StreamState(Endpoint("203.0.113.77", 7), True, 5, 860, 0, last, 0, {"source": 2, "replay": 0})
        self.transport.states[stream] = state._replace(**changes)
        self.transport.heard[stream] = last

    def ask(self, *words: str) -> Any:
        data = execute(self.operations, list(words), When(NOW, WALL), "192.0.2.9")
        json.dumps(data)  # every front end can show it
        assert render(words, data).endswith("\n")
        return data


@pytest.fixture
def stage() -> Stage:
    return Stage()


# The daemon


def test_status(stage: Stage) -> None:
    stage.place()
    status = stage.ask("status")
    assert status | {"version": ""} == {
        "version": "",
        "uptime_s": 90.0,
        "sessions": 1,
        "max_sessions": 0,
        "refused_sessions": 0,
        "draining": False,
        "drain_ends_in_s": None,
        "forwarding": "kernel",
        "forwarding_reason": "",
        "redis": None,
        "log_level": 6,
        "interfaces": [
            {
                "name": "default",
                "address": "192.0.2.1",
                "advertised": "198.51.100.2",
                "port_min": 30000,
                "port_max": 30099,
                "ports": 100,
                "used": 8,
                "free": 92,
            }
        ],
        "packets": 50,
        "errors": 1,
        "drops": {"source": 3},
    }
    assert stage.ask("list", "numsessions") == {"sessions": 1}
    assert stage.ask("list", "interfaces") == status["interfaces"]
    everything = stage.ask("list", "jsonstats")
    assert (everything["status"], everything["totals"]) == (status, stage.ask("list", "totals"))


def test_totals_count_what_is_over(stage: Stage) -> None:
    stage.place("one")
    stage.place("two")
    assert stage.ask("terminate", "one") == {"terminated": 1}
    totals = stage.ask("list", "totals")
    assert (totals["sessions"], totals["closed_sessions"]["force_terminated"]) == (2, 1)
    assert (totals["average_duration_s"], totals["kernel_packets"], totals["drops"]) == (
        60,
        20,
        {"source": 3, "replay": 0},
    )


def test_a_replacement(stage: Stage) -> None:
    stage.place("c")
    assert stage.ask("replace") == {"successor": 4711, "sessions": 1}


def test_a_drain_and_its_end(stage: Stage) -> None:
    stage.place()
    assert stage.ask("drain") == {"draining": True, "sessions": 1, "drain_ends_in_s": 3600}
    assert stage.ask("drain", "0")["drain_ends_in_s"] is None
    assert stage.ask("status")["drain_ends_in_s"] is None
    assert stage.ask("drain", "30")["drain_ends_in_s"] == 30
    assert stage.ask("status")["drain_ends_in_s"] == 30
    assert stage.table.admission.is_drained(1, NOW + 30)
    assert stage.ask("undrain") == {"draining": False, "sessions": 1}
    assert not stage.table.admission.draining


# Settings


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(stage: Stage, caplog: pytest.LogCaptureFixture, name: str) -> None:
    caplog.set_level(logging.INFO)
    low, high = SETTINGS[name]
    for number in (low, high):
        assert stage.ask("set", name, str(number)) == {name: number}
        assert stage.ask("list", name) == {name: number}
    assert sum("is now" in record.getMessage() for record in caplog.records) == 2
    for text in (str(low - 1), str(high + 1), "x", "", "1x", "\u0661", "9" * 5000):
        with pytest.raises(ProtocolError, match=f"is not a number of {low} to {high}"):
            stage.ask("set", name, text)
    assert stage.ask("list", name) == {name: high}


def test_a_time_out_that_is_set_counts_for_calls_that_exist(stage: Stage) -> None:
    stage.place()
    stage.ask("set", "timeout", "1")
    stage.table.tick(NOW)
    assert len(stage.table) == 0


def test_parameters_are_those_in_force(stage: Stage) -> None:
    assert stage.ask("params") == {
        "ip": "192.0.2.1",
        "timeout": 60,
        "silent-timeout": 3600,
        "final-timeout": 0,
        "max-sessions": 0,
        "log-level": 6,
    }


# Calls


def test_sessions(stage: Stage) -> None:
    assert stage.ask("list", "sessions") == []
    stage.place("one")
    stage.place("two", answered=False)
    first, second = stage.ask("list", "sessions")
    assert stage.ask("list", "sessions", "all") == [first, second]
    assert first == {
        "call_id": "one",
        "age_s": 60.0,
        "signalled_s_ago": 59.0,
        "tags": ["a", "b"],
        "media": 2,
        "debug": False,
    }
    assert second["tags"] == ["a", ""]
    one = stage.ask("list", "sessions", "one")
    assert one == stage.ask("call", "one", "info")
    assert one["statistics"]["created"] == WALL - 60


def test_ends(stage: Stage) -> None:
    for name in ("one", "two", "three", "all"):
        stage.place(name)
    stage.ask("call", "one", "terminate")
    stage.ask("call", "all", "terminate")
    assert [call.call_id for call in stage.table] == ["two", "three"]
    assert stage.ask("terminate", "all") == {"terminated": 2}
    assert len(stage.table) == 0 and not stage.transport.opened


def test_debugging_one_call(stage: Stage) -> None:
    stage.place()
    assert stage.ask("call", "c", "debug", "on") == {"call_id": "c", "debug": True}
    assert stage.ask("why", "c")["debug"] is stage.ask("list", "sessions")[0]["debug"] is True
    assert stage.ask("call", "c", "debug", "off") == {"call_id": "c", "debug": False}
    assert not stage.debugged


@pytest.mark.parametrize(
    ("words", "is_order"),
    [
        ("set maxsessions 7", True),
        ("set loglevel 2", True),
        ("terminate c", True),
        ("terminate all", True),
        ("call c terminate", True),
        ("call c debug on", True),
        ("call c debug off", True),
        ("drain", True),
        ("drain 5", True),
        ("undrain", True),
        ("replace", True),
        ("list maxsessions", False),
        ("list sessions c", False),
        ("call c info", False),
        ("why c", False),
        ("status", False),
    ],
)
def test_who_has_given_an_order_is_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture, words: str, is_order: bool
) -> None:
    caplog.set_level(NOTICE)
    stage.place()
    caplog.clear()
    stage.ask(*words.split())
    told = [(record.levelno, record.getMessage()) for record in caplog.records if "ordered" in record.getMessage()]
    assert told == [(NOTICE, f"ordered by 192.0.2.9: {words}")] * is_order


def test_an_order_in_the_log_is_short_and_one_that_is_none_is_not_there(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(NOTICE)
    for words in (["terminate", "x" * 5000], ["terminate"], ["terminat", "all"]):
        with pytest.raises(ProtocolError):
            stage.ask(*words)
    assert [record.getMessage() for record in caplog.records] == [f"ordered by 192.0.2.9: terminate {'x' * 190}"]


def test_top_shows_the_busiest_of_the_newest(stage: Stage) -> None:
    stage.transport.limit = 10**6
    for number in range(TOP_CALLS + 1):
        stage.place(f"c{number}")
    stage.hear(30000)  # of the oldest call, which is not among those
    stage.hear(30008, in_kernel=True)
    top = stage.ask("top", "2")
    assert len(top["calls"]) == 2
    assert top["calls"][0] | {"age_s": 0, "signalled_s_ago": 0} == {
        "call_id": "c2",
        "age_s": 0,
        "signalled_s_ago": 0,
        "tags": ["a", "b"],
        "media": 2,
        "debug": False,
        "packets": 5,
        "bytes": 860,
        "in_kernel": 1,
        "streams": 2,
        "last_packet_s_ago": 0.5,
    }
    assert top["calls"][1]["last_packet_s_ago"] is None
    assert len(stage.ask("top")["calls"]) == 20
    for count in ("0", "501", "x", "-1", "1000"):
        with pytest.raises(ProtocolError, match="top shows 1 to 500 calls"):
            stage.ask("top", count)


# Why


def test_why_of_a_call(stage: Stage) -> None:
    stage.place()
    stage.hear(30000)
    stage.hear(30002, last=80.0, in_kernel=True, drops={})
    why = stage.ask("why", "c")
    streams = why.pop("streams")
    assert why == {
        "call_id": "c",
        "at": WALL,
        "age_s": 60.0,
        "signalled_s_ago": 59.0,
        "tags": ["a", "b"],
        "debug": False,
        "ends_in_s": 59.5,
        "ends_because": "no packet comes meanwhile",
        "events_dropped": 0,
        "events": [
            {"at": WALL - 60, "port": None, "event": "offer from tag 'a'"},
            {"at": WALL - 59, "port": None, "event": "answer from tag 'b' to tag 'a'"},
        ],
    }
    named = {(stream["tag"], stream["component"]): stream for stream in streams}
    assert list(named) == [("a", "RTP"), ("a", "RTCP"), ("b", "RTP"), ("b", "RTCP")]
    # the ports that face B were opened first
    assert named["b", "RTP"] == {
        "tag": "b",
        "section": 1,
        "type": "audio",
        "component": "RTP",
        "local": "198.51.100.2:30000",
        "path": "userspace",
        "reason": UNDECIDED,
        "state": "heard",
        "advertised": "203.0.113.2:5000",
        "learned": "203.0.113.77:7",
        "confirmed": True,
        "accepted": "203.0.113.77:7",
        "packets": 5,
        "bytes": 860,
        "errors": 0,
        "drops": {"source": 2},
        "last_packet_s_ago": 0.5,
        "times_out_in_s": 59.5,
    }
    assert (named["a", "RTP"]["path"], named["a", "RTP"]["reason"]) == ("kernel", "")
    assert named["a", "RTP"]["state"] == "silent for 20 s"
    rtcp = named["a", "RTCP"]
    assert (rtcp["reason"], rtcp["state"], rtcp["accepted"]) == (RTCP_PATH, "never heard", None)
    assert (rtcp["last_packet_s_ago"], rtcp["times_out_in_s"]) == (None, 1.0)


def test_why_no_stream_is_in_the_kernel(stage: Stage) -> None:
    stage.place()
    stage.operations = Operations(stage.table, stage.counts, stage.host("--table is negative (-1)"))
    assert {s["reason"] for s in stage.ask("why", "c")["streams"]} == {"--table is negative (-1)", RTCP_PATH}
    status = stage.ask("status")
    assert (status["forwarding"], status["forwarding_reason"]) == ("userspace", "--table is negative (-1)")


def test_why_of_a_call_that_is_not_answered(stage: Stage) -> None:
    stage.place(answered=False)
    streams = stage.ask("why", "c")["streams"]
    assert [(s["tag"], s["advertised"]) for s in streams] == [
        ("a", "203.0.113.1:4000"),
        ("a", "203.0.113.1:4001"),
        ("", None),
        ("", None),
    ]


def test_why_of_other_media(stage: Stage) -> None:
    fax = MediaOffer("image", A, None, "udptl")
    stage.table.offer("fax", "a", [fax], Signalling(), 40.0)
    assert {s["component"] for s in stage.ask("why", "fax")["streams"] if s["tag"]} == {"data"}
    stage.place("mux", rtcp_mux=True)
    assert {s["component"] for s in stage.ask("why", "mux")["streams"]} == {"RTP+RTCP", "RTCP (spare)"}
    stage.place("gone", rejected=True)
    assert stage.ask("why", "gone")["streams"] == []


def test_why_of_a_secure_call(stage: Stage) -> None:
    """How it is secured is told, and nothing of what secures it."""
    over_tls = audio(A)._replace(
        protocol="UDP/TLS/RTP/SAVPF",
        setup="actpass",
        fingerprints=(TOOLS.certificate().fingerprint,),
        ice=IceCredentials("abcd", "p" * 22),
    )
    stage.table.offer("c", "a", [over_tls], Signalling(protocol="RTP/SAVP", ice="force"), 40.0)
    keys = SrtpKeys("AES_CM_128_HMAC_SHA1_80", b"k" * 16, b"s" * 14)
    answer = audio(B)._replace(protocol="RTP/SAVP", crypto=(CryptoLine(1, keys),))
    stage.table.answer("c", "a", "b", [answer], Signalling(ice="force"), 41.0)
    why = stage.ask("why", "c")
    of = {stream["tag"]: stream for stream in reversed(why["streams"])}
    assert {of["a"]["dtls"], of["a"]["ice"]} <= {"new", "connecting", "checking", "waiting"}
    assert of["b"]["suite"] == "AES_CM_128_HMAC_SHA1_80"
    text = json.dumps(why) + render(["why"], why)
    assert re.search(f"secured by  .*{of['b']['suite']}", text)
    for _, *both in stage.transport.keys.values():
        for held in filter(None, both):
            for secret in (held.key, held.salt):
                assert secret.hex() not in text and secret.decode("latin-1") not in text
    assert "p" * 22 not in text


def test_why_of_speech_tells_how_it_arrives(stage: Stage) -> None:
    stage.place()
    stage.hear(30000, quality=Quality(expected=500, lost=5, jitter_ms=4.25))
    stage.hear(30002, quality=Quality(expected=500, lost=0, jitter_ms=1.0))
    ports = stage.table.find("c").media_ports
    track = Track()
    track.codec = G711
    track.take(Quality(expected=500, lost=5, jitter_ms=4.25, payload_type=0), Far(), 50.0)
    next(held for held in ports if held.current and held.current.port == 30000).tracks[30000] = track
    why = stage.ask("why", "c")
    of = {(stream["tag"], stream["component"]): stream for stream in why["streams"]}
    told = of["b", "RTP"]
    assert (told["expected"], told["lost"], told["jitter_ms"]) == (500, 5, 4.25)
    assert told["mos"] == track.mos.value > 3
    assert of["a", "RTP"]["mos"] is None
    assert "expected" not in of["a", "RTCP"]
    text = render(["why"], why)
    assert f"  quality     5 lost (1.0 %), jitter 4.2 ms, MOS {track.mos.value:.2f}\n" in text
    assert "  quality     0 lost (0.0 %), jitter 1.0 ms\n" in text


def test_why_of_branches_names_each_socket_once(stage: Stage) -> None:
    stage.place()
    stage.table.answer("c", "a", "b2", [audio(B)], Signalling(), 42.0)
    locals_ = [stream["local"] for stream in stage.ask("why", "c")["streams"]]
    assert len(locals_) == len(set(locals_)) == 6


def test_why_a_call_ends(stage: Stage) -> None:
    stage.place()
    stage.table.delete(stage.table.find("c"), "", "", "", 9.0, NOW)
    why = stage.ask("why", "c")
    assert (why["ends_in_s"], why["ends_because"]) == (1.0, "no packet comes meanwhile")
    stage.hear(30000, last=NOW)
    why = stage.ask("why", "c")
    assert (why["ends_in_s"], why["ends_because"]) == (9.0, "it is deleted, with a delay")
    assert stage.ask("set", "finaltimeout", "65") == {"finaltimeout": 65}
    why = stage.ask("why", "c")
    assert (why["ends_in_s"], why["ends_because"]) == (5.0, "it lasts until then, the longest that a call may")


# Words


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "no such command: ''; usage lists them all"),
        ("list", "no such command: 'list'"),
        ("stauts", "no such command: 'stauts', is it status?"),
        ("list sesions", "no such command: 'list sesions', is it list sessions?"),
        ("zzz", "no such command: 'zzz'; usage lists them all"),
        ("status now", "usage: status"),
        ("why", "usage: why CALLID"),
        ("why a b", "usage: why CALLID"),
        ("set timeout", "usage: set timeout VALUE"),
        ("terminate", "usage: terminate CALLID|all"),
        ("call c", "no such command: 'call c'"),
        ("call c debug", "no such command: 'call c'"),
        ("call c debug on now", "no such command: 'call c'"),
        ("call CALLID info", "Unknown call-id"),
        ("why none", "Unknown call-id"),
        ("terminate none", "Unknown call-id"),
        ("call none debug on", "Unknown call-id"),
        ("drain soon", "'soon' is not a number of 0 to 2147483647"),
        ("a\x1b[31m", "no such command: 'a\\x1b[31m'"),
    ],
)
def test_what_is_refused(stage: Stage, words: str, reason: str) -> None:
    with pytest.raises(ProtocolError) as error:
        stage.ask(*words.split(" ") if words else [])
    assert str(error.value).startswith(reason)


KNOWN = sorted({word for command in COMMANDS for word in command.synopsis.split()} | {"all", "c", "1", "-1"})


@given(st.lists(st.sampled_from(KNOWN) | st.text(max_size=8), min_size=1, max_size=6))
def test_whatever_is_said_is_done_or_refused(words: list[str]) -> None:
    """No words end in a fault of ours, and each reply is one that a client can read."""
    stage = Stage()
    stage.place()
    before = len(stage.table)
    try:
        stage.ask(*words)
    except ProtocolError as error:
        assert str(error).isprintable()
        assert len(stage.table) == before


def test_usage_lists_all(stage: Stage) -> None:
    assert stage.ask("usage") == usage()
    assert [entry["command"] for entry in usage()] == [command.synopsis for command in COMMANDS]
    assert len({command.words for command in COMMANDS}) == len(COMMANDS)


# Text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-1, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1:00"), (3_725, "1:02:05"), (90_061, "1 d 1:01:01")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_text_of_why(stage: Stage) -> None:
    stage.place("c\x1b[2J")
    stage.hear(30000)
    stage.table.find("c\x1b[2J").history.note(50.0, "source confirmed", 30000)
    stage.table.find("c\x1b[2J").history.dropped = 3
    stage.debugged.add("c\x1b[2J")
    text = render(["why"], stage.ask("why", "c\x1b[2J"))
    assert "\x1b" not in text
    for line in (
        "call c\\x1b[2J, 1:00 old, signalled 59 s ago",
        "ends in 59 s if no packet comes meanwhile",
        "all about it is logged",
        "section 1 (audio) RTP of tag b: heard",
        "  here        198.51.100.2:30000, in userspace: not looked at yet",
        "  advertised  203.0.113.2:5000",
        "  sent to     203.0.113.77:7 (confirmed), heard from 203.0.113.77:7",
        "  received    5 packets, 860 bytes, 0 errors",
        "  dropped     2 source",
        "  last packet 0 s ago, times out in 59 s",
        "  last packet never, times out in 1 s",
        "  (3 in between are forgotten)",
    ):
        assert f"{line}\n" in text
    assert "  port 30000: source confirmed\n" in text


def test_the_text_of_tables(stage: Stage) -> None:
    assert render(["list", "sessions"], []) == "no calls\n"
    stage.place("one\n")
    assert render(["list", "sessions"], stage.ask("list", "sessions")) == (
        "CALL-ID   AGE  SIGNALLED  TAGS\none\\n    1:00       59 s  a b\n"
    )
    interfaces = render(["list", "interfaces"], stage.ask("list", "interfaces")).splitlines()
    assert interfaces[0].split() == ["NAME", "ADDRESS", "ADVERTISED", "RANGE", "PORTS", "USED", "FREE"]
    assert interfaces[1].split() == ["default", "192.0.2.1", "198.51.100.2", "30000-30099", "100", "8", "92"]


def test_other_text() -> None:
    data = {
        "age_s": 61,
        "last_s_ago": 5,
        "none": None,
        "some": True,
        "not": False,
        "empty": [],
        "text": "x",
        "inner": {"a_b": 1},
        "many": [{"a": 1, "b": [1, 2]}, 3],
    }
    assert render(["params"], data) == (
        "age: 1:01\nlast: 5 s ago\nnone: -\nsome: yes\nnot: no\nempty: -\ntext: x\ninner:\n  a b: 1\n"
        "many:\n  - a: 1\n    b:\n      - 1\n      - 2\n  - 3\n"
    )
    assert render(["params"], 5) == "5\n"
