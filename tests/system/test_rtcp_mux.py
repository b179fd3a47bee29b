"""rtcp-mux offered, accepted, taken apart and refused (sdp.md 7), in words and in packets."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.media import both_ways, receive, rtcp_relayed, rtp, sender_report, silent
from systemlab.netns import Lab


class Case(NamedTuple):
    """What A says and the SIP proxy asks for; whether B is offered mux, what B says, and what A gets."""

    caller: bool
    asked: list[str]
    offered: bool
    callee: bool
    answered: bool


CASES = [
    Case(True, [], True, True, True),
    Case(True, [], True, False, False),
    Case(True, ["offer"], True, True, True),
    Case(True, ["demux"], False, False, True),
    Case(True, ["demux", "accept"], False, False, True),
    Case(True, ["demux", "reject"], False, False, False),
    Case(True, ["accept"], True, True, True),
    Case(True, ["accept"], True, False, True),
    Case(True, ["reject"], True, True, False),
    Case(True, ["reject"], True, False, False),
    Case(False, [], False, False, False),
    Case(False, ["offer"], True, True, False),
    Case(False, ["offer"], True, False, False),
    Case(False, ["demux"], False, False, False),
    Case(False, ["accept"], False, False, False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mux(lab: Lab, party: MakeParty, call: MakeCall, case: Case) -> None:
    dialogue = call(party(lab.a, mux=case.caller), party(lab.b, mux=case.callee))
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    (offered,) = dialogue.offer(rtcp_mux=case.asked)
    assert offered.mux == case.offered
    assert offered.rtcp == offered.port + 1, "an offer names a separate RTCP port even with mux (RFC 5761 5.1.1)"
    (answered,) = dialogue.answer()
    assert answered.mux == case.answered
    assert answered.rtcp == answered.port + (0 if case.answered else 1)
    # From here on each party does what was agreed with it.
    caller.mux = answered.mux
    callee.remote = replace(offered, lines=[line for line in offered.lines if case.callee or line != "a=rtcp-mux"])
    both_ways(dialogue)
    rtcp_relayed(caller, callee)
    rtcp_relayed(callee, caller)
    both_ways(dialogue)


@pytest.mark.parametrize(
    ("second_byte", "is_rtcp"),
    [*((value, True) for value in (192, 200, 207, 223)), *((value, False) for value in (0, 127, 128, 191))],
)
def test_demultiplexing_by_packet_type(
    lab: Lab, party: MakeParty, call: MakeCall, second_byte: int, is_rtcp: bool
) -> None:
    """RFC 5761 4: packet types 192 to 223 are RTCP, whatever payload type with marker bit they could be."""
    dialogue = call(party(lab.a, mux=True), party(lab.b))
    dialogue.offer(rtcp_mux=["demux"])
    dialogue.answer()
    both_ways(dialogue)
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    packet = bytes([0x80, second_byte]) + rtp(next(caller.sequence), caller.ssrc)[2:]
    if is_rtcp:
        packet = bytes([0x80, second_byte, 0, 1]) + caller.ssrc.to_bytes(4, "big")
    caller.send(packet)
    assert receive(callee.rtcp if is_rtcp else callee.rtp)[0] == packet
    assert silent([callee.rtp if is_rtcp else callee.rtcp], 0.02)


def test_separate_rtcp_port_stays_a_fallback_on_a_multiplexing_side(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = call(party(lab.a, mux=True), party(lab.b))
    dialogue.offer(rtcp_mux=["demux"])
    (answered,) = dialogue.answer()
    both_ways(dialogue)
    packet = sender_report(dialogue.caller.audio.ssrc)
    dialogue.caller.audio.rtp.sendto(packet, (answered.address, answered.port + 1))
    assert receive(dialogue.callee.audio.rtcp)[0] == packet


def test_mux_agreed_later_and_dropped_again(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = call()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    for mux in (False, True):
        caller.mux = callee.mux = mux
        (offered,), (answered,) = dialogue.offer(), dialogue.answer()
        assert (offered.mux, answered.mux) == (mux, mux)
        both_ways(dialogue)
        rtcp_relayed(caller, callee)
        rtcp_relayed(callee, caller)
