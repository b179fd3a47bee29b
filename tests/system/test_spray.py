"""The attacks that define the field, against the default mode (security.md 2 and 3): 0 bled, 0 injected, call up.

A table of everything measured is printed at the end of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from systemlab.attack import Outcome, Spray, cunning, injected, published, talk
from systemlab.daemon import Daemon
from systemlab.fixtures import MakeCall, MakeParty, RecordAttack
from systemlab.media import Dialogue, sections
from systemlab.netns import Lab

PORT_MIN, PORT_MAX = 30000, 30019
OPTIONS = (f"--port-min={PORT_MIN}", f"--port-max={PORT_MAX}")
LEARNING_WINDOW_S = 3

Attack = Callable[[Dialogue, Spray], Outcome]


def _place(dialogue: Dialogue) -> None:
    dialogue.offer(address_family=f"IP{dialogue.callee.family}")
    dialogue.answer()


def before_the_call(dialogue: Dialogue, spray: Spray) -> Outcome:
    with spray:
        spray.wait_rounds(3)
    _place(dialogue)
    return talk(dialogue)


def during_set_up(dialogue: Dialogue, spray: Spray) -> Outcome:
    with spray:
        dialogue.offer(address_family=f"IP{dialogue.callee.family}")
        spray.wait_rounds(5)
        dialogue.answer()
        spray.wait_rounds(5)
        return talk(dialogue)


def during_the_call(dialogue: Dialogue, spray: Spray) -> Outcome:
    _place(dialogue)
    talk(dialogue, 3)
    with spray:
        return talk(dialogue)


def before_the_parties_speak(dialogue: Dialogue, spray: Spray) -> Outcome:
    _place(dialogue)
    with spray:
        time.sleep(LEARNING_WINDOW_S + 0.5)
        return talk(dialogue)


def during_a_re_invite(dialogue: Dialogue, spray: Spray) -> Outcome:
    _place(dialogue)
    talk(dialogue, 3)
    with spray:
        _place(dialogue)
        spray.wait_rounds(5)
        return talk(dialogue)


def during_a_move(dialogue: Dialogue, spray: Spray) -> Outcome:
    _place(dialogue)
    talk(dialogue, 3)
    old = dialogue.caller.media.pop()
    dialogue.caller.add()
    with spray:
        _place(dialogue)
        spray.wait_rounds(5)
        outcome = talk(dialogue)
    outcome.injected += injected([old])
    for sock in old.sockets:
        sock.close()
    return outcome


def during_hold(dialogue: Dialogue, spray: Spray) -> Outcome:
    _place(dialogue)
    talk(dialogue, 3)
    caller = dialogue.caller.audio
    with spray:
        for null, lines in (("0.0.0.0" if dialogue.caller.family == 4 else "::", []), (None, ["a=sendonly"])):
            caller.said_address, caller.lines = null, lines
            _place(dialogue)
            spray.wait_rounds(5)
        caller.lines = []
        _place(dialogue)
        return talk(dialogue)


def after_long_silence(dialogue: Dialogue, spray: Spray) -> Outcome:
    _place(dialogue)
    talk(dialogue, 3)
    time.sleep(LEARNING_WINDOW_S + 0.5)
    with spray:
        spray.wait_rounds(20)
        return talk(dialogue)


PHASES = [
    before_the_call, during_set_up, during_the_call, before_the_parties_speak, during_a_re_invite, during_a_move,
    during_hold, after_long_silence,
]  # fmt: skip
# Before anybody has said where B is, rising sequence numbers on B's port are all that early media has to show.
CUNNING_PHASES = [phase for phase in PHASES if phase is not during_set_up]


def _attack(
    lab: Lab,
    dialogue: Dialogue,
    phase: Attack,
    packets: Callable[[int], list[bytes]],
    family: int,
    record: RecordAttack,
) -> None:
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    # From any port, and from the ports that the parties use, at addresses that are not theirs.
    address = lab.attacker.address(family)
    sockets = [lab.attacker.udp(address, port) for port in (0, caller.port, callee.port)]
    targets = [(lab.relay.address(family), port) for port in range(PORT_MIN, PORT_MAX + 1)]
    spray = Spray(sockets, targets, packets)
    try:
        outcome = phase(dialogue, spray)
        outcome.bled += spray.bled()
    finally:
        for sock in sockets:
            sock.close()
    record(phase.__name__.replace("_", " "), f"IPv{family} {packets.__name__}", outcome)
    assert outcome == Outcome(bled=0, injected=0, up=True)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_published_spray(
    lab: Lab, party: MakeParty, call: MakeCall, phase: Attack, family: int, attack_record: RecordAttack
) -> None:
    _attack(lab, call(party(lab.a, family), party(lab.b, family)), phase, published, family, attack_record)


@pytest.mark.parametrize("mux", [False, True], ids=["rtcp port", "mux"])
@pytest.mark.parametrize("phase", CUNNING_PHASES, ids=lambda phase: phase.__name__)
def test_cunning_spray(
    lab: Lab, party: MakeParty, call: MakeCall, phase: Attack, mux: bool, attack_record: RecordAttack
) -> None:
    dialogue = call(party(lab.a, mux=mux), party(lab.b, mux=mux))
    _attack(lab, dialogue, phase, cunning, 4, attack_record)


SAME_HOST_PHASES = [during_the_call, during_a_re_invite, during_hold, after_long_silence]


@pytest.mark.parametrize("phase", SAME_HOST_PHASES, ids=lambda phase: phase.__name__)
def test_spray_from_another_port_of_a_party_address(
    lab: Lab, call: MakeCall, phase: Attack, attack_record: RecordAttack
) -> None:
    """A neighbour behind the same NAT: once the party itself was heard, its address is no proof."""
    dialogue = call()
    targets = [(lab.relay.address(4), port) for port in range(PORT_MIN, PORT_MAX + 1)]
    with lab.a.udp(lab.a.address(4)) as neighbour:
        spray = Spray([neighbour], targets, published)
        outcome = phase(dialogue, spray)
        outcome.bled += spray.bled()
    attack_record(phase.__name__.replace("_", " "), "same address, other port", outcome)
    assert outcome == Outcome(bled=0, injected=0, up=True)


def test_relay_addresses_itself_to_nobody(daemon: Daemon, lab: Lab, call: MakeCall) -> None:
    """Our own ports as the party's endpoint would make packets go round for ever."""
    dialogue = call()
    (offered,) = dialogue.offer()
    looped = dialogue.callee.sdp().replace(lab.b.address(4), offered.address)
    looped = looped.replace(f"m=audio {dialogue.callee.audio.port} ", f"m=audio {offered.port} ")
    keys = {"call_id": dialogue.call_id, "from_tag": dialogue.caller.tag, "to_tag": dialogue.callee.tag}
    reply = daemon.ng.command("answer", sdp=looped, flags=["trust-address"], **keys)
    if reply["result"] == "ok":
        (dialogue.caller.audio.remote,) = sections(reply["sdp"])
        for _ in range(5):
            dialogue.caller.audio.send()
        time.sleep(0.2)
        totals = daemon.ng.ok("query", call_id=dialogue.call_id)["totals"]["RTP"]
        assert totals["packets"] < 50, "packets go round in a loop"
