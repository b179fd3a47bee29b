"""What becomes of ICE in an offer and in an answer, by the mode and by what the body says."""

from __future__ import annotations

from itertools import count

import pytest

from rtpengine.ice_modes import NewCredentials, Reach, answer_to, answered, offered
from rtpengine.media import IceCredentials, MediaOffer

THEIRS, OTHERS, OURS = (IceCredentials(name * 4, name * 22) for name in ("t", "o", "u"))
WITH = MediaOffer("audio", None, None, "RTP/AVP", ice=THEIRS, body_has_ice=True)
WITHOUT = MediaOffer("audio", None, None, "RTP/AVP")
RESTARTED = WITH._replace(ice=OTHERS)


@pytest.fixture
def new() -> NewCredentials:
    numbers = count(1)
    return lambda: IceCredentials(f"new{next(numbers)}", "p" * 22)


NEW1 = IceCredentials("new1", "p" * 22)


@pytest.mark.parametrize(
    ("mode", "said", "transparent", "lines", "reach_mode"),
    [
        (None, WITH, True, "strip", ""),
        ("remove", WITH, True, "strip", ""),
        ("remove", WITHOUT, True, "strip", ""),
        ("force", WITH, True, "generate", "agent"),
        ("force", WITHOUT, True, "generate", "agent"),
        ("optional", WITHOUT, True, "generate", "agent"),
        ("optional", WITH, True, "keep", "relay"),
        ("optional", WITH, False, "generate", "agent"),
        ("default", WITHOUT, True, "strip", ""),
        ("default", WITH, True, "keep", "relay"),
        ("force-relay", WITH, True, "keep", "relay"),
    ],
)
def test_an_offer(
    new: NewCredentials, mode: str | None, said: MediaOffer, transparent: bool, lines: str, reach_mode: str
) -> None:
    telling = offered(Reach(), said, mode, new, transparent=transparent)
    assert (telling.lines, telling.reach.mode) == (lines, reach_mode)
    assert telling.reach.local == (NEW1 if lines == "generate" else None)


@pytest.mark.parametrize(
    ("mode", "asked", "said", "transparent", "lines", "expected"),
    [
        (None, WITH, WITH, True, "strip", Reach()),
        ("force", WITH, WITHOUT, True, "generate", Reach("agent", NEW1, THEIRS)),
        ("optional", WITH, WITHOUT, True, "generate", Reach("agent", NEW1, THEIRS)),
        ("optional", WITHOUT, WITHOUT, True, "generate", Reach("agent", NEW1, None)),
        ("force", WITH._replace(ice_lite=True), WITHOUT, True, "generate", Reach("agent", NEW1)),
        ("default", WITHOUT, WITHOUT, True, "strip", Reach()),
        ("default", WITH, WITHOUT, True, "generate", Reach("agent", NEW1, THEIRS)),
        ("optional", WITH, RESTARTED, True, "keep", Reach("relay", None, THEIRS)),
        ("optional", WITH._replace(ice_lite=True), WITH, True, "keep", Reach("relay", None, THEIRS, lite=True)),
        ("optional", WITH, RESTARTED, False, "generate", Reach("agent", NEW1, THEIRS)),
    ],
)
def test_an_answer(
    new: NewCredentials,
    mode: str | None,
    asked: MediaOffer,
    said: MediaOffer,
    transparent: bool,
    lines: str,
    expected: Reach,
) -> None:
    assert answer_to(Reach(), asked, said, mode, new, transparent=transparent) == (expected, lines)


def test_credentials_stay_until_the_party_restarts(new: NewCredentials) -> None:
    first = answer_to(Reach(), WITH, WITHOUT, "force", new, transparent=False).reach
    assert answer_to(first, WITH, WITHOUT, "force", new, transparent=False).reach == first
    restarted = answer_to(first, RESTARTED, WITHOUT, "force", new, transparent=False).reach
    assert restarted == Reach("agent", IceCredentials("new2", "p" * 22), OTHERS)


def test_a_reoffer_repeats_our_credentials(new: NewCredentials) -> None:
    first = offered(Reach(), WITHOUT, "force", new, transparent=False).reach
    assert offered(answered(first, WITH), WITHOUT, "force", new, transparent=False).reach == first._replace(
        remote=THEIRS
    )


@pytest.mark.parametrize(
    ("known", "answer", "expected"),
    [
        (Reach("agent", OURS), WITH, Reach("agent", OURS, THEIRS)),
        (Reach("agent", OURS), WITHOUT, Reach("agent", OURS)),
        (Reach("agent", OURS), WITH._replace(ice_lite=True), Reach("agent", OURS)),
        (Reach("relay"), WITH._replace(ice_lite=True), Reach("relay", None, THEIRS, lite=True)),
        (Reach("relay", None, THEIRS, lite=True), WITH, Reach("relay", None, THEIRS)),
        (Reach("relay", None, THEIRS, lite=True), WITHOUT, Reach()),
        (Reach("relay"), WITH, Reach("relay", None, THEIRS)),
        (Reach("relay"), WITHOUT, Reach()),
        (Reach(), WITH, Reach()),
    ],
)
def test_what_an_answerer_makes_of_it(known: Reach, answer: MediaOffer, expected: Reach) -> None:
    assert answered(known, answer) == expected


def test_an_agent_goes_on_answering_when_a_later_body_says_nothing_of_it(new: NewCredentials) -> None:
    agent = Reach("agent", OURS, THEIRS)
    assert offered(agent, WITH, "remove", new, transparent=True).reach == agent
    assert answer_to(agent, WITHOUT, WITH, "remove", new, transparent=True).reach == Reach("agent", OURS)


@pytest.mark.parametrize(
    ("reach", "validates"),
    [
        (Reach(), False),
        (Reach("agent", OURS), False),
        (Reach("agent", OURS, THEIRS), True),
        (Reach("relay", None, THEIRS), True),
        (Reach("relay", None, THEIRS, lite=True), False),
    ],
)
def test_only_a_party_that_does_ice_is_known_by_its_checks(reach: Reach, validates: bool) -> None:
    assert reach.validates == validates
