"""Whom each --endpoint-learning mode follows, and the flags that serve odd phones (security.md 2, rule 10)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from systemlab.daemon import Daemon
from systemlab.fixtures import MakeParty
from systemlab.media import Dialogue, Media, both_ways, caught_up, flows_before, receive, relayed, sections, silent
from systemlab.netns import Lab

MODES = ["heuristic", "delayed", "immediate", "off"]
WINDOW_S = 3
# At once means: before the window is over. What takes that long may take longer on a busy machine.
AT_ONCE_S, IN_THE_END_S, NEVER_S = WINDOW_S - 0.2, WINDOW_S + 20, WINDOW_S + 1.5


@pytest.fixture(scope="module")
def daemons(start: Callable[..., Daemon]) -> dict[str, Daemon]:
    """One daemon per mode, side by side."""
    made = {}
    for index, mode in enumerate(MODES):
        ports = (f"--port-min={31000 + 100 * index}", f"--port-max={31019 + 100 * index}")
        made[mode] = start(*ports, f"--endpoint-learning={mode}")
    return made


@pytest.fixture
def place(daemons: dict[str, Daemon], lab: Lab, party: MakeParty) -> Iterator[Callable[..., Dialogue]]:
    """Place a call over the daemon of a mode; the caller may say another address than it has."""
    made: list[Dialogue] = []

    def make(mode: str = "heuristic", says: str | None = None, callee_keys: bool = False, **keys: Any) -> Dialogue:
        dialogue = Dialogue(daemons[mode].ng, party(lab.a, said_address=says), party(lab.b))
        made.append(dialogue)
        dialogue.offer(**keys)
        dialogue.answer(**(keys if callee_keys else {}))
        return dialogue

    yield make
    for dialogue in made:
        dialogue.delete(from_tag="")


@pytest.mark.parametrize("mode", MODES)
def test_truthful_parties_are_heard_at_once_in_every_mode(place: Callable[..., Dialogue], mode: str) -> None:
    both_ways(place(mode))


# Seconds within which a phone that sends from another address than its (public) SDP says is sent its media there.
FOLLOWED_WITHIN = {"immediate": AT_ONCE_S, "delayed": IN_THE_END_S, "heuristic": None, "off": None}


@pytest.mark.parametrize("mode", MODES)
def test_phone_that_sends_from_elsewhere(lab: Lab, place: Callable[..., Dialogue], mode: str) -> None:
    dialogue = place(mode)
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    limit = FOLLOWED_WITHIN[mode]
    with lab.a.udp(lab.a.address(4, 1)) as elsewhere:
        took = _callee_heard_at(elsewhere, caller, callee, limit or NEVER_S)
        assert (took is not None) == (limit is not None)
        if limit is None:
            assert silent([elsewhere], 0.05)
            callee.send()
            assert receive(caller.rtp), "the SDP endpoint goes on being served"


def _callee_heard_at(phone: Any, caller: Media, callee: Media, limit_s: float) -> float | None:
    """Let the caller's packets come from this socket until it hears the callee; seconds, or None."""
    start = time.monotonic()
    while time.monotonic() < start + limit_s:
        caller.send(via=phone)
        callee.send()
        if not silent([phone], 0.02):
            return time.monotonic() - start
    return None


NATS = [
    ("alias", {"received_from": ["IP4", "198.51.100.12"]}, 1, AT_ONCE_S),
    ("stranger behind private SDP", {}, 2, IN_THE_END_S),
    ("stranger to received-from", {"received_from": ["IP4", "198.51.100.12"]}, 2, IN_THE_END_S),
]


@pytest.mark.parametrize(("keys", "index", "limit_s"), [nat[1:] for nat in NATS], ids=[nat[0] for nat in NATS])
def test_phone_behind_nat_is_learned(
    lab: Lab, place: Callable[..., Dialogue], keys: dict[str, Any], index: int, limit_s: float
) -> None:
    """The SDP names an address that nobody reaches; packets come from the NAT's."""
    dialogue = place(says="192.168.77.5", **keys)
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    with lab.a.udp(lab.a.address(4, index)) as nat:
        assert _callee_heard_at(nat, caller, callee, limit_s) is not None
        caught_up(caller, callee, via=nat)
        relayed(caller, callee, via=nat)


def test_same_address_other_port_is_learned_at_once(lab: Lab, place: Callable[..., Dialogue]) -> None:
    """A NAT that only translates ports."""
    dialogue = place()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    with lab.a.udp(caller.address) as other_port:
        assert _callee_heard_at(other_port, caller, callee, AT_ONCE_S) is not None


def test_nat_rebind_is_followed(lab: Lab, place: Callable[..., Dialogue]) -> None:
    """Same SSRC, sequence going on, the old source silent: the NAT has given the phone another port."""
    dialogue = place()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    both_ways(dialogue)
    time.sleep(WINDOW_S)
    relayed(caller, callee)
    with lab.a.udp(lab.a.address(4, 1)) as rebound:
        assert flows_before(caller, rebound, callee.rtp, IN_THE_END_S) is not None
        packet = callee.send()
        assert receive(rebound)[0] == packet


def test_other_ssrc_is_no_rebind(lab: Lab, place: Callable[..., Dialogue]) -> None:
    dialogue = place()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    both_ways(dialogue)
    caller.ssrc ^= 1
    with lab.attacker.udp(lab.attacker.address(4)) as stranger:
        assert flows_before(caller, stranger, callee.rtp, NEVER_S) is None
        callee.send()
        assert silent([stranger], 0.05)


def test_media_handover_follows_a_new_source_at_once(lab: Lab, place: Callable[..., Dialogue]) -> None:
    dialogue = place(flags=["trust-address", "media-handover"])
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    both_ways(dialogue)
    with lab.a.udp(lab.a.address(4, 1)) as elsewhere:
        assert flows_before(caller, elsewhere, callee.rtp, AT_ONCE_S) is not None
        packet = callee.send()
        assert receive(elsewhere)[0] == packet


@pytest.mark.parametrize("mode", MODES)
def test_asymmetric_party_is_sent_to_where_its_sdp_says(lab: Lab, place: Callable[..., Dialogue], mode: str) -> None:
    """It sends from another port of its address, but listens at the one that it named."""
    dialogue = place(mode, flags=["trust-address", "asymmetric"])
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    with lab.a.udp(caller.address) as other_port:
        if mode != "off":
            assert flows_before(caller, other_port, callee.rtp, IN_THE_END_S) is not None
        packet = callee.send()
        assert receive(caller.rtp)[0] == packet
        assert silent([other_port], 0.05)


def test_log_names_a_flag_that_lowers_the_guard(daemons: dict[str, Daemon], place: Callable[..., Dialogue]) -> None:
    place(flags=["trust-address", "asymmetric", "media-handover"])
    log = daemons["heuristic"].log
    assert "asymmetric" in log
    assert "handover" in log


@pytest.mark.parametrize("mode", MODES)
def test_relay_addresses_itself_to_nobody(daemons: dict[str, Daemon], lab: Lab, party: MakeParty, mode: str) -> None:
    """Our own ports as the party's endpoint would make packets go round for ever."""
    ng = daemons[mode].ng
    dialogue = Dialogue(ng, party(lab.a), party(lab.b))
    (offered,) = dialogue.offer()
    looped = dialogue.callee.sdp().replace(lab.b.address(4), offered.address)
    looped = looped.replace(f"m=audio {dialogue.callee.audio.port} ", f"m=audio {offered.port} ")
    keys = {"call_id": dialogue.call_id, "from_tag": dialogue.caller.tag, "to_tag": dialogue.callee.tag}
    reply = ng.command("answer", sdp=looped, flags=["trust-address"], **keys)
    if reply["result"] == "ok":
        (dialogue.caller.audio.remote,) = sections(reply["sdp"])
        for _ in range(5):
            dialogue.caller.audio.send()
        time.sleep(0.2)
        totals = ng.ok("query", call_id=dialogue.call_id)["totals"]["RTP"]
        assert totals["packets"] < 50, "packets go round in a loop"
