"""Whole calls: offer, answer, RTP and RTCP in both directions, hold, T.38, forks, re-offers (sdp.md, media.md)."""

from __future__ import annotations

import pytest
from systemlab.daemon import Daemon
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.media import (
    Party,
    both_ways,
    receive,
    relayed,
    rtcp_relayed,
    rtp,
    sections,
    sender_report,
    silent,
)
from systemlab.netns import Lab

FAMILIES = [(4, 4), (4, 6), (6, 4), (6, 6)]


@pytest.mark.parametrize(("caller", "callee"), FAMILIES)
def test_audio_in_every_pair_of_families(lab: Lab, party: MakeParty, call: MakeCall, caller: int, callee: int) -> None:
    dialogue = call(party(lab.a, caller), party(lab.b, callee))
    (towards_callee,) = dialogue.offer(address_family=f"IP{callee}")
    (towards_caller,) = dialogue.answer()
    for section, family in ((towards_callee, callee), (towards_caller, caller)):
        assert section.address == lab.relay.address(family)
        assert section.port % 2 == 0
        assert 30000 <= section.port < 31000
        assert section.direction == "sendrecv"
        assert section.rtcp == section.port + 1
        assert (section.protocol, section.formats) == ("RTP/AVP", "0")
    both_ways(dialogue, packets=50)
    rtcp_relayed(dialogue.caller.audio, dialogue.callee.audio)
    rtcp_relayed(dialogue.callee.audio, dialogue.caller.audio)


def test_family_defaults_to_ipv4_and_external_means_ipv6(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    assert call(party(lab.a, 6)).offer()[0].address == lab.relay.address(4)
    to_ipv6 = call(party(lab.a, 4), party(lab.b, 6))
    assert to_ipv6.offer(direction=["internal", "external"])[0].address == lab.relay.address(6)
    to_ipv6.answer()
    both_ways(to_ipv6)


@pytest.mark.parametrize(("caller", "callee"), FAMILIES)
def test_audio_and_video(lab: Lab, party: MakeParty, call: MakeCall, caller: int, callee: int) -> None:
    kinds = ("audio", "video")
    dialogue = call(party(lab.a, caller, kinds=kinds), party(lab.b, callee, kinds=kinds))
    offered = dialogue.offer(address_family=f"IP{callee}")
    answered = dialogue.answer()
    ports = [section.port for section in offered + answered]
    assert len({port + i for port in ports for i in (0, 1)}) == 8, "RTP and RTCP ports must not overlap"
    for index in (0, 1):
        both_ways(dialogue, index)
        rtcp_relayed(dialogue.caller.media[index], dialogue.callee.media[index])


def test_both_parties_behind_one_host_and_the_packets_of_ten_calls_do_not_mix(
    lab: Lab, party: MakeParty, call: MakeCall
) -> None:
    dialogues = [call(party(lab.a), party(lab.a)).place() for _ in range(10)]
    sent = [[dialogue.caller.audio.send() for dialogue in dialogues] for _ in range(20)]
    for index, dialogue in enumerate(dialogues):
        assert [receive(dialogue.callee.audio.rtp)[0] for _ in range(20)] == [row[index] for row in sent]
        assert silent([dialogue.callee.audio.rtp, dialogue.caller.audio.rtp], 0.01)


@pytest.mark.parametrize("size", [0, 1, 160, 1000, 1440])
def test_payloads_of_every_size_arrive_unchanged(call: MakeCall, size: int) -> None:
    dialogue = call().place()
    both_ways(dialogue)
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    sent = caller.send(caller.rtp_packet(bytes(i % 251 for i in range(size))))
    assert receive(callee.rtp)[0] == sent


def test_header_extension_csrc_padding_and_marker_arrive_unchanged(call: MakeCall) -> None:
    dialogue = call().place()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    plain = caller.rtp_packet()
    csrc, extension, padding = b"\1\2\3\4\5\6\7\x08", b"\xbe\xde\0\1\x10\x20\0\0", b"\0\0\0\4"
    extended = b"\xb2\xe5" + plain[2:12] + csrc + extension + plain[12:-4] + padding
    caller.send(extended)
    assert receive(callee.rtp)[0] == extended


@pytest.mark.parametrize("about", [{}, {"address": True}])
def test_rtcp_on_a_port_of_its_own(lab: Lab, party: MakeParty, call: MakeCall, about: dict[str, bool]) -> None:
    caller, callee = Party(lab.a), party(lab.b)
    media = caller.add(rtcp_port_distance=7)
    port = media.rtcp.getsockname()[1]
    media.lines.append(f"a=rtcp:{port}" + f" IN IP4 {media.address}" * bool(about))
    dialogue = call(caller, callee)
    (offered,) = dialogue.offer()
    assert offered.rtcp == offered.port + 1, "the party's own a=rtcp line must not get through"
    dialogue.answer()
    both_ways(dialogue)
    rtcp_relayed(media, callee.audio)
    rtcp_relayed(callee.audio, media)
    caller.close()


def test_consecutive_port_pairs(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = call(party(lab.a, pairs=2), party(lab.b, pairs=2))
    for section in (*dialogue.offer(), *dialogue.answer()):
        assert section.count == 2
    for pair in (0, 1):
        for speaker, listener in ((0, 1), (1, 0)):
            media = [dialogue.caller.audio, dialogue.callee.audio]
            for offset, packet in ((2 * pair, rtp(1, 5)), (2 * pair + 1, sender_report(5))):
                remote = media[speaker].remote
                own = media[listener].remote
                assert remote and own
                media[speaker].sockets[offset].sendto(packet, (remote.address, remote.port + offset))
                got = receive(media[listener].sockets[offset])
                assert got == (packet, (own.address, own.port + offset))


def test_hold_by_direction_and_resume(call: MakeCall) -> None:
    dialogue = call()
    before = dialogue.offer(), dialogue.answer()
    for caller_says, callee_says in (("sendonly", "recvonly"), ("inactive", "inactive"), ("sendrecv", "sendrecv")):
        dialogue.caller.audio.lines = [f"a={caller_says}"]
        dialogue.callee.audio.lines = [f"a={callee_says}"]
        (offered,), (answered,) = dialogue.offer(), dialogue.answer()
        assert (offered.direction, answered.direction) == (caller_says, callee_says)
        assert ([offered.endpoint], [answered.endpoint]) == ([s.endpoint for s in before[0]], [before[1][0].endpoint])
        if caller_says != "inactive":
            relayed(dialogue.caller.audio, dialogue.callee.audio)
    both_ways(dialogue)


@pytest.mark.parametrize(("family", "null"), [(4, "0.0.0.0"), (6, "::")])
def test_hold_by_null_address_and_resume(lab: Lab, party: MakeParty, call: MakeCall, family: int, null: str) -> None:
    dialogue = call(party(lab.a, family), party(lab.b, family))
    before = dialogue.offer(address_family=f"IP{family}")[0].port
    dialogue.answer()
    both_ways(dialogue)
    dialogue.caller.audio.said_address = null
    (held,) = dialogue.offer()
    assert held.port != 0, "a null address is hold, not a rejection"
    assert held.address == null, "the null address must stay visible"
    dialogue.answer()
    dialogue.callee.audio.send()
    assert silent([dialogue.caller.audio.rtp])
    dialogue.caller.audio.said_address = None
    (resumed,) = dialogue.offer()
    assert resumed.address == lab.relay.address(family)
    assert resumed.port == before, "returning to an endpoint gets its old port again"
    dialogue.answer()
    both_ways(dialogue)


def test_rejected_section(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    kinds = ("audio", "video")
    dialogue = call(party(lab.a, kinds=kinds), party(lab.b, kinds=kinds))
    dialogue.offer()
    dialogue.callee.media[1].rejected = True
    answered = dialogue.answer()
    assert answered[0].port != 0
    assert (answered[1].kind, answered[1].port, answered[1].protocol) == ("video", 0, "RTP/AVP")
    both_ways(dialogue)
    dialogue.caller.media[1].rejected = True
    assert [section.port != 0 for section in dialogue.offer()] == [True, False]


def test_section_that_comes_back_after_rejection(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    kinds = ("audio", "video")
    dialogue = call(party(lab.a, kinds=kinds), party(lab.b, kinds=kinds))
    for party_media in (dialogue.caller.media[1], dialogue.callee.media[1]):
        party_media.rejected = True
    dialogue.place()
    for party_media in (dialogue.caller.media[1], dialogue.callee.media[1]):
        party_media.rejected = False
    dialogue.place()
    both_ways(dialogue, 0)
    both_ways(dialogue, 1)


def test_t38_is_relayed_as_it_is(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    about = {"kinds": ("image",), "protocol": "udptl", "formats": "t38"}
    dialogue = call(party(lab.a, **about), party(lab.b, **about))
    for media in (dialogue.caller.audio, dialogue.callee.audio):
        media.lines += ["a=T38FaxVersion:0", "a=T38FaxUdpEC:t38UDPRedundancy"]
    for section in (*dialogue.offer(), *dialogue.answer()):
        assert (section.kind, section.protocol, section.formats) == ("image", "udptl", "t38")
        assert section.rtcp is None
        assert "a=T38FaxVersion:0" in section.lines
    # A UDPTL packet begins with its sequence number (T.38 9.1), which is no RTP version.
    for number in range(300):
        for speaker, listener in ((dialogue.caller, dialogue.callee), (dialogue.callee, dialogue.caller)):
            packet = number.to_bytes(2, "big") + b"\x01\x06\x00"
            speaker.audio.send(packet)
            assert receive(listener.audio.rtp)[0] == packet


def test_audio_then_t38_in_a_re_offer(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = call().place()
    both_ways(dialogue)
    for side in (dialogue.caller, dialogue.callee):
        side.audio.kind, side.audio.protocol, side.audio.formats = "image", "udptl", "t38"
    (offered,), (answered,) = dialogue.offer(), dialogue.answer()
    assert (offered.protocol, answered.protocol) == ("udptl", "udptl")
    dialogue.callee.audio.send(b"\0\1\2")
    assert receive(dialogue.caller.audio.rtp)[0] == b"\0\1\2"


def test_forked_answers_and_return_to_the_first(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = call()
    first, second = dialogue.callee, party(lab.c)
    dialogue.offer()
    second.audio.remote = first.audio.remote
    caller_endpoint = dialogue.answer(first)
    both_ways(dialogue)
    forked = dialogue.answer(second)
    assert forked[0].endpoint != caller_endpoint[0].endpoint, "an additional dialogue has ports of its own"
    relayed(dialogue.caller.audio, second.audio)
    relayed(second.audio, dialogue.caller.audio)
    assert silent([first.audio.rtp], 0.05)
    again = dialogue.answer(first)
    assert again[0].endpoint == caller_endpoint[0].endpoint
    both_ways(dialogue)
    assert silent([second.audio.rtp], 0.05)


@pytest.mark.parametrize("who", ["caller", "callee"])
def test_re_offer_with_a_moved_endpoint(lab: Lab, party: MakeParty, call: MakeCall, who: str) -> None:
    dialogue = call().place()
    both_ways(dialogue)
    mover = getattr(dialogue, who)
    other = dialogue.callee if mover is dialogue.caller else dialogue.caller
    old = mover.media.pop()
    assert other.audio.remote
    port_before = other.audio.remote.port
    mover.add(address=mover.host.address(4, 1))
    moved = dialogue.offer(mover)
    assert moved[0].port != port_before, "a new endpoint is given new ports"
    dialogue.answer(other)
    both_ways(dialogue)
    assert silent([old.rtp], 0.05)
    for sock in old.sockets:
        sock.close()


def test_re_offer_by_the_callee(call: MakeCall) -> None:
    dialogue = call()
    first = dialogue.offer(), dialogue.answer()
    second = dialogue.offer(dialogue.callee), dialogue.answer(dialogue.caller)
    assert [s.endpoint for s in second[0]] == [s.endpoint for s in first[1]]
    assert [s.endpoint for s in second[1]] == [s.endpoint for s in first[0]]
    both_ways(dialogue)


def test_re_offer_that_adds_video_and_drops_it(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = call().place()
    for side in (dialogue.caller, dialogue.callee):
        side.add(kind="video")
    dialogue.place()
    both_ways(dialogue, 0)
    both_ways(dialogue, 1)
    dropped = [side.media.pop() for side in (dialogue.caller, dialogue.callee)]
    dialogue.place()
    both_ways(dialogue, 0)
    for media in dropped:
        for sock in media.sockets:
            sock.close()


def test_early_media_reaches_the_caller_and_not_the_other_way(call: MakeCall) -> None:
    dialogue = call()
    dialogue.offer()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    sent = [callee.send() for _ in range(40)]
    assert receive(caller.rtp)[0] in sent
    assert silent([callee.rtp], 0.05), "nobody has said yet where B listens"
    # The first few packets may be spent on telling a party from a spray.
    got = [receive(caller.rtp)[0]]
    while got[-1] != sent[-1]:
        got.append(receive(caller.rtp)[0])
    assert len(got) >= 30, "ring-back tone must be heard before the answer"
    assert got == sent[-len(got) :]
    dialogue.answer()
    both_ways(dialogue)


def test_media_address_is_advertised_instead_of_ours(call: MakeCall) -> None:
    dialogue = call()
    body = dialogue.ng.ok(
        "offer",
        sdp=dialogue.caller.sdp(),
        call_id=dialogue.call_id,
        from_tag="a",
        flags=["trust-address"],
        replace=["origin"],
        media_address="203.0.113.9",
    )["sdp"]
    assert sections(body)[0].address == "203.0.113.9"
    assert " IN IP4 203.0.113.9\r\n" in body.split("s=-")[0]


def test_advertised_addresses(lab: Lab, party: MakeParty, daemon_advertising: Daemon) -> None:
    caller, callee = party(lab.a), party(lab.b, 6)
    common = {"call_id": "advertised", "from_tag": "a", "flags": ["trust-address"]}
    ng = daemon_advertising.ng
    offered = sections(ng.ok("offer", sdp=caller.sdp(), address_family="IP6", **common)["sdp"])[0]
    answered = sections(ng.ok("answer", sdp=callee.sdp(), to_tag="b", **common)["sdp"])[0]
    assert (offered.address, answered.address) == ("2001:db8:9::9", "203.0.113.9")
    # The test stands in for the NAT that would translate the advertised address.
    offered.address, answered.address = lab.relay.address(6), lab.relay.address(4)
    callee.audio.remote, caller.audio.remote = offered, answered
    relayed(caller.audio, callee.audio)
    relayed(callee.audio, caller.audio)


@pytest.fixture
def daemon_advertising(start: object) -> Daemon:
    """A daemon that advertises addresses other than its own."""
    options = ("--advertised-ip=203.0.113.9", "--advertised-ip6=2001:db8:9::9", "--port-min=32000", "--port-max=32099")
    made = start(*options)  # type: ignore[operator]
    assert isinstance(made, Daemon)
    return made
