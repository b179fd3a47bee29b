"""Source learning where a source can prove itself: by SRTP packet for packet, by ICE or DTLS once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learner import (
    ASYMMETRIC,
    AUTHENTIC,
    DELAYED,
    HEURISTIC,
    ICE,
    IMMEDIATE,
    NEWEST,
    NONE,
    OFF,
    PLACES,
    RTCP,
    RTCP_MUX,
    RTP,
    SECURE,
    STRANGER,
    STRICT,
    Case,
    Learner,
    run,
)
from rtpengine._packetpath import ffi

SRTP = STRICT | SECURE


def srtp(place: str, start: float, verdicts: str, **more: int) -> Any:
    """Packets of one source in a row that are authentic, and each the newest of its SSRC unless told otherwise."""
    return run(place, start, verdicts, **{"authentic": NEWEST, **more})


SRTP_CASES = [
    Case("the first packet settles, wherever it comes from", srtp("stranger", 0.1, "sr"), "stranger", "stranger", True),
    Case("... from the address of the SDP too", srtp("same", 0.1, "sr"), "same", "same", True),
    Case(
        "a new source is followed at once",
        [*srtp("exact", 0.1, "s", seq=9), *srtp("stranger", 0.12, "sr", seq=10), *srtp("stranger2", 0.2, "s", seq=12)],
        "stranger2",
        "stranger2",
        True,
    ),
    Case(
        "... with another SSRC too",
        [*srtp("exact", 0.1, "s"), *srtp("stranger", 0.12, "sr", ssrc=2)],
        "stranger",
        "stranger",
        True,
    ),
    Case(
        "a packet that was held back moves nothing",
        [*srtp("exact", 0.1, "s", seq=9), *srtp("stranger", 0.12, "dd", seq=7, authentic=AUTHENTIC)],
        "exact",
        "exact",
        True,
    ),
    Case(
        "... and is relayed without strict",
        [*srtp("exact", 0.1, "s", seq=9), *srtp("stranger", 0.12, "rr", seq=7, authentic=AUTHENTIC)],
        "exact",
        "exact",
        True,
        {"flags": SECURE},
    ),
    Case(
        "the accepted source may be late",
        [*srtp("exact", 0.1, "s", seq=9), *srtp("exact", 0.2, "r", seq=7, authentic=AUTHENTIC)],
        "exact",
        "exact",
        True,
    ),
    Case("our own address is not the party's", srtp("local", 0.1, "rr"), "exact", None, False),
    Case("null is nobody's", srtp("null", 0.1, "dd"), "exact", None, False),
    Case("a BYE is no beginning", srtp("stranger", 0.1, "rr", proof=NONE), "exact", None, False),
    Case(
        "after a move nobody gets in by being named",
        [*srtp("exact", 0.1, "s"), *srtp("stranger", 0.2, "s", seq=5), *run("same", 0.3, "dd", seq=6)],
        "stranger",
        "stranger",
        True,
    ),
    Case(
        "a BYE from elsewhere moves nothing",
        [*srtp("exact", 0.1, "s", proof=RTCP), *srtp("stranger", 0.2, "d", proof=NONE)],
        "exact",
        "exact",
        True,
        {"flags": SRTP | RTCP_MUX},
    ),
    Case(
        "RTCP does not turn the media of a party away that talks",
        [*srtp("exact", 0.1, "s"), *srtp("same", 0.2, "d", proof=RTCP), *srtp("same", 2.2, "s", proof=RTCP)],
        "same",
        "same",
        True,
        {"flags": SRTP | RTCP_MUX},
    ),
    Case(
        "asymmetric: heard there, sent to where it said",
        srtp("stranger", 0.1, "sr"),
        "exact",
        "stranger",
        True,
        {"flags": SRTP | ASYMMETRIC},
    ),
    Case(
        "delayed: the packet decides, not the window",
        [*srtp("stranger", 0.1, "s"), *srtp("exact", 0.2, "s", seq=5)],
        "exact",
        "exact",
        True,
        {"mode": DELAYED},
    ),
    Case(
        "immediate: not for ever",
        [*srtp("stranger", 0.1, "s"), *srtp("exact", 0.2, "s", seq=5)],
        "exact",
        "exact",
        True,
        {"mode": IMMEDIATE},
    ),
    Case(
        "off: only the peer",
        [*srtp("stranger", 0.1, "dd"), *srtp("exact", 0.2, "r")],
        "exact",
        "exact",
        True,
        {"mode": OFF},
    ),
    Case(
        "off, not strict: all are heard, nothing moves",
        [*srtp("exact", 0.1, "r"), *srtp("stranger", 0.2, "rr", seq=5)],
        "exact",
        "exact",
        True,
        {"mode": OFF, "flags": SECURE},
    ),
    Case(
        "the party not known yet: heard at once, nothing is sent",
        [*srtp("stranger", 0.1, "rr"), *srtp("stranger2", 0.2, "r", seq=5)],
        None,
        "stranger2",
        False,
        {"peer": None},
    ),
    Case(
        "unauthenticated packets follow the rules of plain ones",
        [*run("stranger", 0.1, "d"), *run("same", 0.2, "rr"), *run("exact", 0.3, "s")],
        "exact",
        "exact",
        True,
    ),
    Case(
        "ICE: only who has been validated, keys or not",
        [*srtp("exact", 0.1, "dd"), *srtp("stranger", 0.2, "dd", seq=5)],
        None,
        None,
        False,
        {"flags": SRTP | ICE},
    ),
]


@pytest.mark.parametrize("case", SRTP_CASES, ids=lambda case: case.name)
def test_srtp(case: Case) -> None:
    learner = Learner(**{"flags": SRTP, **case.config})
    for at, place, more, expected in case.steps:
        assert learner.packet(at, place, **more) == expected, f"packet at {at} from {place}"
    assert learner.state == (case.send_to, case.accept_from, case.confirmed)


SRTP_STANDINGS = [
    # before the first packet
    ({}, None, "exact", {}, "known"),
    ({}, None, "same", {}, "known"),
    ({}, None, "alias", {}, "known"),
    ({}, None, "stranger", {}, "unknown"),
    ({}, None, "local", {}, "refused"),
    ({}, None, "null", {}, "refused"),
    ({"peer": None}, None, "stranger", {}, "unknown"),
    ({"mode": OFF}, None, "exact", {}, "known"),
    ({"mode": OFF}, None, "same", {}, "refused"),
    ({"mode": OFF, "flags": SECURE}, None, "same", {}, "unknown"),
    ({"mode": OFF, "flags": SECURE, "peer": None}, None, "stranger", {}, "refused"),
    ({"flags": SRTP | ICE}, None, "exact", {}, "refused"),
    # after a packet 9 from the endpoint of the SDP
    ({}, "exact", "exact", {"seq": 3}, "known"),
    ({}, "exact", "same", {"seq": 10}, "continues"),
    ({}, "exact", "stranger", {"seq": 10}, "continues"),
    ({}, "exact", "stranger", {"seq": 3009}, "continues"),
    ({}, "exact", "stranger", {"seq": 3010}, "unknown"),
    ({}, "exact", "stranger", {"seq": 10, "ssrc": 2}, "unknown"),
    ({}, "exact", "same", {"seq": 10, "ssrc": 2}, "unknown"),
    ({}, "exact", "stranger", {"seq": 9}, "refused"),
    ({}, "exact", "same", {"seq": 8}, "refused"),
    ({"flags": SECURE}, "exact", "same", {"seq": 8}, "unknown"),
    ({}, "exact", "stranger", {"proof": RTCP, "ssrc": 2}, "unknown"),
    ({}, "exact", "multicast", {"seq": 10}, "refused"),
    ({"flags": SRTP | ICE}, "exact", "exact", {"seq": 10}, "refused"),
]


@pytest.mark.parametrize(("config", "heard", "place", "more", "expected"), SRTP_STANDINGS)
def test_what_is_worth_a_mac(
    config: dict[str, Any], heard: str | None, place: str, more: dict[str, int], expected: str
) -> None:
    learner = Learner(**{"flags": SRTP, **config})
    if heard:
        learner.packet(0.1, heard, seq=9, authentic=NEWEST)
    assert learner.srtp_standing(place, **more) == expected


DTLS_STANDINGS = [
    ({}, None, "exact", "known"),
    ({}, None, "same", "near"),
    ({}, None, "alias", "near"),
    ({}, "same", "same", "known"),
    ({}, "same", "same2", "near"),
    ({}, None, "stranger", "refused"),
    ({}, None, "null", "refused"),
    ({"flags": STRICT | STRANGER}, None, "stranger", "unknown"),
    ({"flags": STRICT | STRANGER}, None, "local", "refused"),
    ({"flags": STRICT | STRANGER}, "exact", "stranger", "refused"),
    ({"peer": None}, None, "stranger", "unknown"),
    ({"peer": None, "mode": OFF}, None, "stranger", "refused"),
    ({"mode": OFF}, None, "exact", "known"),
    ({"mode": OFF}, None, "same", "refused"),
    ({"mode": OFF, "flags": 0}, None, "same", "near"),
    ({"mode": DELAYED}, "stranger", "stranger", "known"),
    ({"flags": STRICT | ICE}, None, "exact", "refused"),
]


@pytest.mark.parametrize(("config", "heard", "place", "expected"), DTLS_STANDINGS)
def test_who_may_speak_dtls(config: dict[str, Any], heard: str | None, place: str, expected: str) -> None:
    learner = Learner(**config)
    if heard:
        learner.packet(0.1, heard)
    assert learner.dtls_standing(place) == expected


# Without ICE: what DTLS has proven ranks above the endpoint of the SDP.


def test_a_proven_source_is_the_partys() -> None:
    learner = Learner()
    learner.packet(0.1, "exact")
    assert learner.validate(0.2, "stranger") == "settle"
    assert learner.state == ("stranger", "stranger", True)
    assert learner.packet(0.3, "stranger") == "relay"
    assert [learner.packet(0.4 + i / 50, "exact", seq=i) for i in range(8)] == ["drop"] * 8
    assert learner.dtls_standing("stranger") == "known"


@pytest.mark.parametrize("mode", [HEURISTIC, DELAYED, IMMEDIATE])
def test_a_proof_holds_before_the_party_has_an_sdp(mode: int) -> None:
    learner = Learner(mode=mode, peer=None)
    assert learner.validate(0.1, "stranger") == "settle"
    assert learner.packet(0.2, "stranger") == "relay"
    assert {learner.packet(5 + i / 50, "same", seq=i) for i in range(8)} == {"drop"}
    assert learner.state == ("stranger", "stranger", True)


@pytest.mark.parametrize("mode", [HEURISTIC, DELAYED, IMMEDIATE])
def test_the_latest_proof_counts_until_one_is_nominated(mode: int) -> None:
    learner = Learner(mode=mode)
    assert [learner.validate(0.1, place) for place in ("stranger", "stranger", "same")] == ["settle", "", "settle"]
    assert learner.send_to == "same"
    assert learner.validate(0.2, "stranger", nominated=True) == "settle"
    assert learner.validate(0.3, "same") == ""
    assert learner.state == ("stranger", "stranger", True)
    assert learner.validate(0.4, "same", nominated=True) == "settle"
    assert learner.state == ("same", "same", True)


def test_off_is_not_moved_by_dtls() -> None:
    learner = Learner(mode=OFF)
    assert learner.validate(0.1, "stranger", nominated=True) == ""
    assert learner.state == ("exact", "exact", True)
    assert learner.dtls_standing("stranger") == "known"


def test_asymmetric_is_still_sent_to_its_sdp() -> None:
    learner = Learner(flags=STRICT | ASYMMETRIC)
    learner.validate(0.1, "stranger", nominated=True)
    assert learner.state == ("exact", "stranger", True)


def test_srtp_moves_on_from_a_nominated_source() -> None:
    learner = Learner(flags=SRTP)
    learner.validate(0.1, "exact", nominated=True)
    assert learner.packet(0.2, "stranger", authentic=NEWEST) == "settle"
    assert learner.validate(0.3, "same") == "settle"
    assert learner.send_to == "same"


def test_another_peer_has_to_prove_itself_again() -> None:
    learner = Learner()
    learner.validate(0.1, "stranger", nominated=True)
    learner.configure(STRICT, HEURISTIC, "same", "alias", 1)
    assert learner.state == ("same", None, False)
    assert learner.dtls_standing("stranger") == "refused"
    assert learner.validate(1.1, "stranger2") == "settle"


@pytest.mark.parametrize("place", ["null", "multicast", "broadcast", "port 0", "null6"])
@pytest.mark.parametrize("flags", [STRICT, STRICT | ICE])
def test_nobody_proves_itself_from_there(place: str, flags: int) -> None:
    learner = Learner(flags=flags)
    before = learner.state
    assert learner.validate(0.1, place, nominated=True) == ""
    assert learner.state == before


# With ICE: only who has been validated is the party's.


def test_ice_sends_nothing_before_a_check() -> None:
    learner = Learner(flags=STRICT | STRANGER | ICE)
    assert learner.state == (None, None, False)
    assert {learner.packet(5 + i / 50, "exact", seq=i) for i in range(10)} == {"drop"}
    assert learner.state == (None, None, False)


@pytest.mark.parametrize("flags", [ICE, STRICT | ICE, ICE | ASYMMETRIC])
@pytest.mark.parametrize("mode", [HEURISTIC, DELAYED, IMMEDIATE, OFF])
@pytest.mark.parametrize("peer", ["exact", None])
def test_ice_decides_in_every_mode(flags: int, mode: int, peer: str | None) -> None:
    learner = Learner(flags=flags, mode=mode, peer=peer)
    assert learner.configured == ""
    assert learner.validate(0.1, "stranger") == ""
    assert learner.state == ("stranger", "stranger", False)
    assert learner.packet(0.2, "stranger") == "relay"
    assert learner.validate(0.3, "same") == ""
    assert learner.send_to == "same"
    assert learner.validate(0.4, "stranger2", nominated=True) == "settle"
    assert learner.validate(0.5, "stranger2", nominated=True) == ""
    assert learner.validate(0.6, "same") == ""
    assert learner.state == ("stranger2", "stranger2", True)
    assert [learner.packet(5, place) for place in ("stranger", "same", "stranger2")] == ["relay"] * 3
    assert [learner.packet(5, place) for place in ("exact", "alias", "stranger3")] == ["drop"] * 3
    assert learner.state == ("stranger2", "stranger2", True)


def test_four_are_remembered_and_the_one_in_use_is_never_forgotten() -> None:
    learner = Learner(flags=STRICT | ICE)
    learner.validate(0.1, "stranger", nominated=True)
    for place in ("same", "same2", "alias", "alias2"):
        learner.validate(0.2, place)
    heard = {place for place in PLACES if learner.packet(0.3, place) == "relay"}
    assert heard == {"stranger", "same2", "alias", "alias2"}
    learner.validate(0.4, "same2")
    learner.validate(0.5, "exact")
    assert {place for place in PLACES if learner.packet(0.6, place) == "relay"} == {
        "stranger",
        "alias2",
        "same2",
        "exact",
    }


def test_ice_outlasts_another_default_candidate_and_mode() -> None:
    learner = Learner(flags=STRICT | ICE)
    learner.validate(0.1, "stranger", nominated=True)
    assert learner.configure(STRICT | ICE, DELAYED, "same", None, 1) == ""
    assert learner.state == ("stranger", "stranger", True)
    assert learner.dtls_standing("stranger") == "known"


def test_ice_that_comes_later_starts_anew() -> None:
    learner = Learner()
    learner.packet(0.1, "exact")
    learner.configure(STRICT | ICE, HEURISTIC, "exact", "alias", 1)
    assert learner.state == (None, None, False)
    assert learner.packet(1.1, "exact") == "drop"


def test_without_ice_any_more_the_place_stays() -> None:
    learner = Learner(flags=STRICT | ICE)
    learner.validate(0.1, "stranger", nominated=True)
    learner.configure(STRICT, HEURISTIC, "exact", "alias", 1)
    assert learner.state == ("stranger", "stranger", True)
    learner.configure(STRICT, HEURISTIC, "same", "alias", 2)
    assert learner.state == ("same", None, False)
    assert learner.packet(2.1, "stranger") == "drop"


@pytest.mark.parametrize("flags", [STRICT, STRICT | ICE])
def test_configuring_and_validating_twice_changes_nothing(flags: int) -> None:
    learner = Learner(flags=flags)
    learner.validate(0.1, "stranger")
    learner.validate(0.2, "stranger2", nominated=True)
    before = bytes(ffi.buffer(learner.learn))
    assert learner.validate(0.3, "stranger2", nominated=True) == ""
    assert learner.configure(flags, HEURISTIC, "exact", "alias", 9) == ""
    assert bytes(ffi.buffer(learner.learn)) == before


# Properties

steps = st.lists(
    st.tuples(
        st.sampled_from(["packet", "packet", "packet", "validate", "nominate"]),
        st.sampled_from(sorted(PLACES)),
        st.integers(0, 40),
        st.integers(0, 2),
        st.sampled_from([NONE, RTP, RTCP]),
        st.sampled_from([0, AUTHENTIC, NEWEST]),
    ),
    max_size=40,
)
modes = st.sampled_from([HEURISTIC, DELAYED, IMMEDIATE, OFF])


@settings(max_examples=100)
@given(steps, modes, st.sampled_from([ICE, STRICT | ICE, STRICT | STRANGER | ICE, ICE | SECURE]))
def test_with_ice_only_proven_sources_are_heard_and_sent_to(actions: list[Any], mode: int, flags: int) -> None:
    learner = Learner(flags=flags, mode=mode)
    proven: set[str] = set()
    nominated = None
    for i, (what, place, seq, ssrc, proof, authentic) in enumerate(actions):
        if what == "packet":
            verdict = learner.packet(i / 4, place, seq=seq, ssrc=ssrc, proof=proof, authentic=authentic)
            assert verdict == "drop" or (verdict == "relay" and place in proven)
        else:
            before = learner.state
            learner.validate(i / 4, place, nominated=what == "nominate")
            if learner.dtls_standing(place) == "known":
                proven.add(place)
                nominated = place if what == "nominate" else nominated
            else:
                assert learner.state == before
        assert learner.send_to == learner.accept_from
        assert learner.accept_from in proven | {None}
        assert nominated is None or learner.state == (nominated, nominated, True)


@settings(max_examples=100)
@given(steps, modes, st.sampled_from([SRTP, SRTP | STRANGER, SRTP | RTCP_MUX, SRTP | ASYMMETRIC]))
def test_with_srtp_only_the_newest_authentic_packet_moves_a_stream(actions: list[Any], mode: int, flags: int) -> None:
    learner = Learner(flags=flags, mode=mode)
    for i, (what, place, seq, ssrc, proof, authentic) in enumerate(actions):
        before = learner.state
        if what == "packet":
            learner.packet(i / 4, place, seq=seq, ssrc=ssrc, proof=proof, authentic=authentic or AUTHENTIC)
            if learner.accept_from != before[1]:
                assert (authentic, learner.accept_from, mode == OFF) == (NEWEST, place, False)
                assert learner.srtp_standing(place) == "known"
        else:
            learner.validate(i / 4, place)
        if mode == OFF or flags & ASYMMETRIC:
            assert learner.send_to == "exact"
