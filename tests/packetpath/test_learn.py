"""Source learning with scripted time: every rule, every mode, through the C state machine itself."""

from __future__ import annotations

import pytest
from learner import (
    ASYMMETRIC,
    DELAYED,
    HANDOVER,
    HEURISTIC,
    IMMEDIATE,
    IS_OPAQUE,
    NONE,
    OFF,
    OPAQUE,
    RTCP,
    RTCP_MUX,
    RTCP_ONLY,
    STRANGER,
    STRICT,
    Case,
    Learner,
    run,
)
from rtpengine._packetpath import ffi

CASES = [
    # heuristic: the window
    Case("exact confirms at once", run("exact", 0.1, "srr"), "exact", "exact", True),
    Case("same address relays at once", run("same", 0.1, "rrr"), "same", "same", False),
    Case(
        "same address confirms when the window ends",
        [*run("same", 0.1, "rr"), *run("same", 2.99, "r"), *run("same", 3.0, "sr")],
        "same",
        "same",
        True,
    ),
    Case(
        "the first packet of all comes after the window",
        run("same", 10, "sr"),
        "same",
        "same",
        True,
    ),
    Case("alias relays at once", [*run("alias", 0.1, "rr"), *run("alias", 3.1, "s")], "alias", "alias", True),
    Case("same beats alias", [*run("alias", 0.1, "r"), *run("same", 0.2, "rr")], "same", "same", False),
    Case("exact beats same", [*run("same", 0.1, "r"), *run("exact", 0.2, "s")], "exact", "exact", True),
    Case("alias does not beat same", [*run("same", 0.1, "r"), *run("alias", 0.2, "d")], "same", "same", False),
    Case(
        "exact beats same after confirmation",
        [*run("same", 3.1, "s"), *run("exact", 3.2, "sr"), *run("same", 3.3, "d")],
        "exact",
        "exact",
        True,
    ),
    Case(
        "equal rank waits while the first is alive",
        [*run("same", 0.1, "r"), *run("same2", 0.2, "ddd"), *run("same", 0.3, "r")],
        "same",
        "same",
        False,
    ),
    Case(
        "equal rank follows a silent one",
        [*run("same", 0.1, "r"), *run("same2", 2.09, "d"), *run("same2", 2.2, "r")],
        "same2",
        "same2",
        False,
    ),
    Case(
        "an alias follows a silent same inside the window",
        [*run("same", 0.1, "r"), *run("alias", 2.2, "r")],
        "alias",
        "alias",
        False,
    ),
    # heuristic: strangers
    Case("strangers need leave", run("stranger", 5, "dddddddd"), "exact", None, False),
    Case(
        "a stranger must wait for the window",
        [*run("stranger", 0.1, "d" * 8), *run("stranger", 3.0, "s", seq=8)],
        "stranger",
        "stranger",
        True,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "a stranger needs five packets",
        run("stranger", 4, "ddddsr"),
        "stranger",
        "stranger",
        True,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "a spray with a fixed sequence number never qualifies",
        run("stranger", 4, "d" * 50, step=0),
        "exact",
        None,
        False,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "falling sequence numbers do not count",
        run("stranger", 4, "d" * 20, seq=500, step=-1),
        "exact",
        None,
        False,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "sequence numbers may wrap and skip",
        run("stranger", 4, "dddds", seq=65533, step=2),
        "stranger",
        "stranger",
        True,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "too wide a gap does not count",
        run("stranger", 4, "d" * 10, step=3001),
        "exact",
        None,
        False,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "a changing SSRC does not qualify",
        [(4 + i * 0.02, "stranger", {"seq": i, "ssrc": i}, "drop") for i in range(20)],
        "exact",
        None,
        False,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "a spray from three places does not keep a real stranger out",
        [
            step
            for i in range(5)
            for step in (
                *run("stranger", 4 + i * 0.02, "d", seq=7, ssrc=7, step=0),
                *run("stranger2", 4 + i * 0.02, "d", seq=7, ssrc=8, step=0),
                *run("alias", 4 + i * 0.02, "d", seq=7, ssrc=9, step=0),
                *run("stranger3", 4 + i * 0.02, "s" if i == 4 else "d", seq=i),
            )
        ],
        "stranger3",
        "stranger3",
        True,
        {"flags": STRICT | STRANGER, "alias": None},
    ),
    Case(
        "a stranger has no chance once something better was heard",
        [*run("alias", 0.1, "r"), *run("stranger", 3.5, "d" * 10, ssrc=9)],
        "alias",
        "alias",
        False,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "the named address takes over from a stranger",
        [*run("stranger", 4, "dddds"), *run("alias", 5, "s"), *run("stranger", 5.1, "d")],
        "alias",
        "alias",
        True,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "our own address is no stranger",
        run("local", 4, "d" * 10),
        "exact",
        None,
        False,
        {"flags": STRICT | STRANGER},
    ),
    Case(
        "without strict a stranger still has to qualify",
        run("stranger", 4, "ddd"),
        "exact",
        None,
        False,
        {"flags": 0},
    ),
    # packets that prove nothing
    Case(
        "garbage from the exact endpoint passes and teaches nothing",
        run("exact", 0.1, "rr", proof=NONE),
        "exact",
        None,
        False,
    ),
    Case("garbage from the same address is dropped", run("same", 0.1, "dd", proof=NONE), "exact", None, False),
    Case(
        "garbage of the accepted source passes",
        [*run("same", 0.1, "r"), *run("same", 0.2, "r", proof=NONE), *run("same", 3.1, "r", proof=NONE)],
        "same",
        "same",
        False,
    ),
    Case(
        "garbage from elsewhere is dropped after confirmation",
        [*run("exact", 0.1, "s"), *run("same", 0.2, "d", proof=NONE)],
        "exact",
        "exact",
        True,
    ),
    Case("RTCP of a named source teaches an RTP stream", run("same", 0.1, "rr", proof=RTCP), "same", "same", False),
    Case(
        "RTCP of a stranger does not",
        run("stranger", 4, "d" * 10, proof=RTCP),
        "exact",
        None,
        False,
        {"flags": STRICT | STRANGER | RTCP_MUX},
    ),
    # RTCP streams
    Case(
        "an RTCP stranger needs two packets",
        run("stranger", 4, "ds", proof=RTCP, every=5),
        "stranger",
        "stranger",
        True,
        {"flags": STRICT | STRANGER | RTCP_ONLY},
    ),
    Case(
        "RTP proves nothing about an RTCP stranger",
        run("stranger", 4, "d" * 8),
        "exact",
        None,
        False,
        {"flags": STRICT | STRANGER | RTCP_ONLY},
    ),
    # opaque streams
    Case(
        "opaque: named addresses teach",
        [*run("same", 0.1, "r", proof=OPAQUE), *run("exact", 0.2, "s", proof=OPAQUE)],
        "exact",
        "exact",
        True,
        {"flags": STRICT | IS_OPAQUE},
    ),
    Case(
        "opaque: five packets of a stranger",
        run("stranger", 4, "dddds", proof=OPAQUE, step=0, ssrc=0),
        "stranger",
        "stranger",
        True,
        {"flags": STRICT | IS_OPAQUE | STRANGER},
    ),
    # after confirmation
    Case(
        "strict: others are dropped",
        [*run("exact", 0.1, "s"), *run("stranger", 0.2, "d" * 8), *run("same", 0.3, "d"), *run("exact", 0.4, "r")],
        "exact",
        "exact",
        True,
    ),
    Case(
        "not strict: others pass and move nothing",
        [*run("exact", 0.1, "s"), *run("stranger", 0.2, "r" * 8), *run("same", 0.3, "r"), *run("exact", 0.4, "r")],
        "exact",
        "exact",
        True,
        {"flags": 0},
    ),
    Case(
        "rebind: same SSRC goes on after silence",
        [*run("exact", 1, "s", seq=100), *run("stranger", 3.5, "dsr", seq=110)],
        "stranger",
        "stranger",
        True,
    ),
    Case(
        "rebind: counted from before the silence is long enough",
        [*run("exact", 1, "s", seq=100), *run("stranger", 2.9, "ddddds", seq=101)],
        "stranger",
        "stranger",
        True,
    ),
    Case(
        "rebind: sequence numbers wrap",
        [*run("exact", 1, "s", seq=65535), *run("stranger", 3.5, "ds", seq=65536)],
        "stranger",
        "stranger",
        True,
    ),
    Case(
        "rebind: not while the old source is alive",
        [*run("exact", 1, "s", seq=100), *run("stranger", 1.1, "dddd", seq=101)],
        "exact",
        "exact",
        True,
    ),
    Case(
        "rebind: another SSRC is somebody else",
        [*run("exact", 1, "s", seq=100), *run("stranger", 4, "dddddddd", seq=101, ssrc=2)],
        "exact",
        "exact",
        True,
    ),
    Case(
        "rebind: too far ahead",
        [*run("exact", 1, "s", seq=100), *run("stranger", 4, "dddd", seq=3101)],
        "exact",
        "exact",
        True,
    ),
    Case(
        "rebind: not ahead",
        [*run("exact", 1, "s", seq=100), *run("stranger", 4, "dddd", seq=90)],
        "exact",
        "exact",
        True,
    ),
    Case(
        "rebind: a fixed sequence number is no continuation",
        [*run("exact", 1, "s", seq=100), *run("stranger", 4, "dddd", seq=101, step=0)],
        "exact",
        "exact",
        True,
    ),
    Case(
        "rebind of RTCP goes by SSRC",
        [*run("exact", 1, "s", proof=RTCP), *run("stranger", 6, "ds", proof=RTCP, every=5)],
        "stranger",
        "stranger",
        True,
        {"flags": STRICT | RTCP_ONLY},
    ),
    Case(
        "silence does not let another port of the address take over from a truthful SDP",
        [*run("exact", 1, "s"), *run("same", 1.1, "d", ssrc=2), *run("same", 3.1, "d" * 8, ssrc=2)],
        "exact",
        "exact",
        True,
    ),
    Case(
        "silence lets another port take over from one that signalling did not name either",
        [*run("same", 3.1, "s"), *run("same2", 3.2, "d", ssrc=2), *run("same2", 6, "dddsr", ssrc=2, seq=20)],
        "same2",
        "same2",
        True,
    ),
    Case(
        "... but not a spray",
        [*run("same", 3.1, "s"), *run("same2", 6, "d" * 20, ssrc=2, step=0)],
        "same",
        "same",
        True,
    ),
    Case(
        "silence does not let the alias take over with another SSRC",
        [*run("exact", 1, "s"), *run("alias", 4, "d" * 8, ssrc=2)],
        "exact",
        "exact",
        True,
    ),
    Case(
        "a rebound party keeps the rank of its old place",
        [
            *run("exact", 1, "s", seq=100),
            *run("stranger", 3.5, "ds", seq=110),
            *run("alias", 3.6, "d"),
            *run("exact", 3.7, "d"),
        ],
        "stranger",
        "stranger",
        True,
    ),
    Case(
        "handover follows five packets at once",
        [*run("exact", 1, "s"), *run("stranger", 1.1, "ddddsr", ssrc=2)],
        "stranger",
        "stranger",
        True,
        {"flags": STRICT | HANDOVER},
    ),
    Case(
        "handover: not a spray",
        [*run("exact", 1, "s"), *run("stranger", 1.1, "d" * 20, ssrc=2, step=0)],
        "exact",
        "exact",
        True,
        {"flags": STRICT | HANDOVER},
    ),
    Case(
        "handover: not garbage",
        [*run("exact", 1, "s"), *run("stranger", 1.1, "d" * 20, proof=NONE)],
        "exact",
        "exact",
        True,
        {"flags": STRICT | HANDOVER},
    ),
    Case(
        "handover: not before confirmation",
        [*run("same", 1, "r"), *run("stranger", 1.1, "d" * 8, ssrc=2)],
        "same",
        "same",
        False,
        {"flags": STRICT | HANDOVER},
    ),
    # asymmetric
    Case(
        "asymmetric hears one and sends to the other",
        [*run("same", 0.1, "r"), *run("same", 3.1, "sr"), *run("stranger", 3.2, "d")],
        "exact",
        "same",
        True,
        {"flags": STRICT | ASYMMETRIC},
    ),
    # delayed
    Case(
        "delayed moves with every packet, the first after the window confirms",
        [
            *run("stranger", 0.1, "r"),
            *run("exact", 0.2, "r"),
            *run("stranger2", 2.9, "r"),
            *run("stranger3", 3.0, "s"),
            *run("exact", 3.1, "d"),
        ],
        "stranger3",
        "stranger3",
        True,
        {"mode": DELAYED},
    ),
    Case(
        "delayed: garbage does not teach",
        run("stranger", 0.1, "ddd", proof=NONE),
        "exact",
        None,
        False,
        {"mode": DELAYED},
    ),
    Case("delayed: peer unknown", run("stranger", 0.1, "rr"), None, None, False, {"mode": DELAYED, "peer": None}),
    # immediate
    Case(
        "immediate: the first packet confirms",
        [*run("stranger", 0.1, "s"), *run("exact", 0.2, "d")],
        "stranger",
        "stranger",
        True,
        {"mode": IMMEDIATE},
    ),
    Case(
        "immediate: garbage does not", run("stranger", 0.1, "d", proof=NONE), "exact", None, False, {"mode": IMMEDIATE}
    ),
    Case("immediate: peer unknown", run("stranger", 0.1, "rr"), None, None, False, {"mode": IMMEDIATE, "peer": None}),
    # off
    Case(
        "off and strict: only the peer",
        [*run("exact", 0.1, "r"), *run("same", 5, "d"), *run("stranger", 9, "d")],
        "exact",
        "exact",
        True,
        {"mode": OFF},
    ),
    Case(
        "off: anybody, and nothing moves",
        [*run("stranger", 0.1, "rr"), *run("same", 5, "r")],
        "exact",
        "exact",
        True,
        {"mode": OFF, "flags": 0},
    ),
    Case("off: peer unknown", run("stranger", 0.1, "dd"), None, None, False, {"mode": OFF, "peer": None, "flags": 0}),
    # peer unknown, heuristic
    Case(
        "early media after five packets, nothing is sent",
        [*run("stranger", 0.1, "ddddrr"), *run("stranger2", 0.2, "d" * 8)],
        None,
        "stranger",
        False,
        {"peer": None},
    ),
    Case(
        "early media: a spray does not get in",
        run("stranger", 0.1, "d" * 30, step=0),
        None,
        None,
        False,
        {"peer": None},
    ),
    Case(
        "early RTCP after two packets",
        run("stranger", 0.1, "drr", proof=RTCP, step=0),
        None,
        "stranger",
        False,
        {"peer": None, "flags": STRICT | RTCP_ONLY},
    ),
    Case(
        "early media: another one after silence",
        [*run("stranger", 0.1, "ddddr"), *run("stranger2", 3, "ddddr", ssrc=2)],
        None,
        "stranger2",
        False,
        {"peer": None},
    ),
    # IPv6
    Case("IPv6 exact", run("exact6", 0.1, "s"), "exact6", "exact6", True, {"peer": "exact6"}),
    Case("IPv6 stranger", run("stranger6", 0.1, "d" * 8), "exact6", None, False, {"peer": "exact6"}),
    Case("the other family is a stranger", run("exact", 0.1, "d" * 8), "exact6", None, False, {"peer": "exact6"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    learner = Learner(**case.config)
    for at, place, more, expected in case.steps:
        assert learner.packet(at, place, **more) == expected, f"packet at {at} from {place}"
    assert (learner.send_to, learner.accept_from, learner.confirmed) == (case.send_to, case.accept_from, case.confirmed)


@pytest.mark.parametrize("place", ["null", "multicast", "multicast end", "broadcast", "port 0", "null6", "multicast6"])
@pytest.mark.parametrize("mode", [HEURISTIC, DELAYED, IMMEDIATE, OFF])
def test_nobody_sends_from_there(place: str, mode: int) -> None:
    learner = Learner(flags=STRANGER | HANDOVER, mode=mode)
    before = learner.accept_from
    assert {learner.packet(4 + i / 10, place, seq=i) for i in range(10)} == {"drop"}
    assert (learner.accept_from, learner.send_to) == (before, "exact")


def test_configuring_twice_changes_nothing() -> None:
    learner = Learner()
    learner.packet(3.1, "same")
    before = bytes(ffi.buffer(learner.learn))
    assert learner.configure(STRICT, HEURISTIC, "exact", "alias", 9) == ""
    assert bytes(ffi.buffer(learner.learn)) == before


def test_a_changed_peer_starts_anew() -> None:
    learner = Learner()
    learner.packet(0.1, "exact")
    learner.configure(STRICT, HEURISTIC, "same", "alias", 10)
    assert (learner.send_to, learner.accept_from, learner.confirmed) == ("same", None, False)
    assert learner.packet(10.1, "alias") == "relay"
    assert learner.packet(12.9, "alias") == "relay"
    assert learner.packet(13.0, "alias") == "settle"


def test_flags_change_in_place() -> None:
    learner = Learner()
    learner.packet(3.1, "same")
    learner.configure(ASYMMETRIC, HEURISTIC, "exact", "alias", 10)
    assert (learner.send_to, learner.accept_from, learner.confirmed) == ("exact", "same", True)
    assert learner.packet(10.1, "stranger") == "relay"
    learner.configure(STRICT, HEURISTIC, "exact", "alias", 11)
    assert learner.send_to == "same"
    assert learner.packet(11.1, "stranger") == "drop"


def test_a_changed_mode_starts_anew() -> None:
    learner = Learner()
    learner.packet(3.1, "same")
    assert learner.configure(STRICT, OFF, "exact", "alias", 10) == "settle"
    assert (learner.send_to, learner.accept_from, learner.confirmed) == ("exact", "exact", True)


def test_off_is_confirmed_by_configuration() -> None:
    assert Learner(mode=OFF).configured == "settle"
    assert Learner(mode=OFF, peer=None).configured == ""


def test_a_party_becomes_known() -> None:
    learner = Learner(peer=None, alias=None)
    for seq in range(6):
        learner.packet(0.1 + seq / 50, "same", seq=seq)
    learner.configure(STRICT, HEURISTIC, "exact", "alias", 1)
    assert (learner.send_to, learner.accept_from) == ("exact", None)
    assert learner.packet(1.1, "same") == "relay"


def test_a_stale_candidate_gives_way() -> None:
    """Four half-proven sources that have gone away do not block the table for ever."""
    learner = Learner(flags=STRICT | STRANGER)
    for place in ("stranger", "stranger2"):
        for ssrc in (1, 2):
            for seq in range(3):
                learner.packet(4, place, seq=seq, ssrc=ssrc)
    verdicts = [learner.packet(20 + seq / 50, "stranger3", seq=seq) for seq in range(5)]
    assert verdicts == ["drop"] * 4 + ["settle"]
