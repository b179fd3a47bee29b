"""RTCP feedback towards a party without it, and relayed packets as they are on the wire; scapy is the peer."""

from __future__ import annotations

import struct
import time

import pytest
from scapy.contrib.rtcp import RTCP, ReceptionReport, SDESChunk, SDESItem, SenderInfo
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.rtp import RTP
from systemlab.daemon import Daemon
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.media import Dialogue, Media, Section, both_ways, receive, rtp, silent
from systemlab.netns import Lab

OPTIONS = ("--tos=184",)

SSRC = 0x11223344


def _report(packet_type: int, blocks: int = 1) -> bytes:
    report = RTCP(
        packet_type=packet_type,
        sourcesync=SSRC,
        count=blocks,
        report_blocks=[
            ReceptionReport(sourcesync=7, fraction_lost=0, cumulative_lost=0, highest_seqnum_recv=1,
                            interarrival_jitter=0, last_SR_timestamp=0, delay_since_last_SR=0)
            for _ in range(blocks)
        ],
    )  # fmt: skip
    if packet_type == 200:
        report.sender_info = SenderInfo(ntp_timestamp=1, rtp_timestamp=2, sender_packet_count=3, sender_octet_count=4)
    return bytes(report)


def _sdes() -> bytes:
    items = [SDESItem(chunk_type=1, value=b"abcde"), SDESItem(chunk_type=0, value=b"")]
    chunk = SDESChunk(sourcesync=SSRC, items=items)
    # scapy counts no chunks by itself.
    text = bytes(RTCP(packet_type=202, sdes_chunks=[chunk]))
    text += b"\0" * (-len(text) % 4)
    return bytes([0x81]) + text[1:2] + struct.pack("!H", len(text) // 4 - 1) + text[4:]


def _feedback(packet_type: int, kind: int, information: bytes = b"") -> bytes:
    """RFC 4585 6.1: sender, media source, feedback control information."""
    body = struct.pack("!II", SSRC, 7) + information
    return struct.pack("!BBH", 0x80 | kind, packet_type, len(body) // 4) + body


SR, RR, SDES, BYE = _report(200), _report(201), _sdes(), struct.pack("!BBHI", 0x81, 203, 1, SSRC)
APP = struct.pack("!BBHI", 0x80, 204, 2, SSRC) + b"name"
NACK, PLI = _feedback(205, 1, b"\0\1\0\0"), _feedback(206, 1)
FIR, REMB = _feedback(206, 4, struct.pack("!IBxxx", 7, 1)), _feedback(206, 15, b"REMB\1\0\0\1\0\0\0\7")
XR = struct.pack("!BBHI", 0x80, 207, 4, SSRC) + struct.pack("!BBHQ", 4, 0, 2, 1)

COMPOUNDS = [
    ("SR SDES", [SR, SDES], [SR, SDES]),
    ("RR SDES BYE", [RR, SDES, BYE], [RR, SDES, BYE]),
    ("SR SDES NACK", [SR, SDES, NACK], [SR, SDES]),
    ("RR SDES PLI", [RR, SDES, PLI], [RR, SDES]),
    ("SR PLI SDES NACK FIR BYE", [SR, PLI, SDES, NACK, FIR, BYE], [SR, SDES, BYE]),
    ("RR SDES REMB APP", [RR, SDES, REMB, APP], [RR, SDES, APP]),
    ("report with three blocks", [_report(200, 3), NACK], [_report(200, 3)]),
    ("nothing but feedback", [PLI, NACK], None),
    ("feedback alone (RFC 5506)", [NACK], None),
]


def _feedback_call(lab: Lab, party: MakeParty, call: MakeCall, callee_protocol: str, mux: bool) -> Dialogue:
    caller = party(lab.a, protocol="RTP/AVPF", mux=mux)
    dialogue = call(caller, party(lab.b, protocol=callee_protocol))
    (offered,) = dialogue.offer(transport_protocol=callee_protocol, rtcp_mux=["demux"])
    assert offered.protocol == callee_protocol
    (answered,) = dialogue.answer()
    assert answered.protocol == "RTP/AVPF", "the answer goes back in the caller's profile"
    both_ways(dialogue)
    return dialogue


@pytest.mark.parametrize("mux", [False, True], ids=["rtcp port", "mux"])
@pytest.mark.parametrize(("sent", "kept"), [case[1:] for case in COMPOUNDS], ids=[case[0] for case in COMPOUNDS])
def test_feedback_is_removed_towards_avp(
    lab: Lab, party: MakeParty, call: MakeCall, sent: list[bytes], kept: list[bytes] | None, mux: bool
) -> None:
    dialogue = _feedback_call(lab, party, call, "RTP/AVP", mux)
    dialogue.caller.audio.send_rtcp(b"".join(sent))
    if kept is None:
        assert silent([dialogue.callee.audio.rtcp, dialogue.callee.audio.rtp], 0.1)
    else:
        assert receive(dialogue.callee.audio.rtcp)[0] == b"".join(kept)


@pytest.mark.parametrize("malformed", [
    SR + b"\x41\xcd\x00\x02" + NACK[4:12],
    SR + NACK[:2] + b"\xff\xff" + NACK[4:],
    b"\x9f" + SR[1:] + PLI,
], ids=["version", "length past the end", "more blocks than bytes"])  # fmt: skip
def test_malformed_compound_is_left_as_it_is(lab: Lab, party: MakeParty, call: MakeCall, malformed: bytes) -> None:
    dialogue = _feedback_call(lab, party, call, "RTP/AVP", mux=False)
    dialogue.caller.audio.send_rtcp(malformed)
    assert receive(dialogue.callee.audio.rtcp)[0] == malformed


def test_feedback_passes_to_avpf_and_from_avp(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    both = _feedback_call(lab, party, call, "RTP/AVPF", mux=False)
    both.caller.audio.send_rtcp(SR + SDES + NACK)
    assert receive(both.callee.audio.rtcp)[0] == SR + SDES + NACK
    one = _feedback_call(lab, party, call, "RTP/AVP", mux=False)
    one.callee.audio.send_rtcp(SR + SDES + XR)
    assert receive(one.caller.audio.rtcp)[0] == SR + SDES + XR


def test_rtp_between_avpf_and_avp_is_untouched(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = _feedback_call(lab, party, call, "RTP/AVP", mux=True)
    packet = bytes(RTP(sequence=1, timestamp=160, sourcesync=SSRC, payload_type=0) / (b"\xcd" * 160))
    for _ in range(3):
        dialogue.caller.audio.send(packet)
        assert receive(dialogue.callee.audio.rtp)[0] == packet


def _captured(capture: object, listener: Media, timeout_s: float = 20) -> Ether:
    """The next frame on the host's wire that is addressed to the listener's RTP port."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        frame = Ether(capture.recv(65535))  # type: ignore[attr-defined]
        if UDP in frame and frame[UDP].dport == listener.port:
            return frame
    raise AssertionError("no frame for the listener")


@pytest.mark.parametrize(("caller", "callee"), [(4, 4), (4, 6), (6, 4), (6, 6)])
def test_on_the_wire(lab: Lab, party: MakeParty, call: MakeCall, caller: int, callee: int) -> None:
    lab.relay.checksum_in_software()
    dialogue = call(party(lab.a, caller), party(lab.b, callee))
    dialogue.offer(address_family=f"IP{callee}")
    dialogue.answer()
    with lab.b.capture() as capture:
        sent = dialogue.caller.audio.send()
        frame = _captured(capture, dialogue.callee.audio)
    remote = dialogue.callee.audio.remote
    assert isinstance(remote, Section)
    network = frame[IP] if callee == 4 else frame[IPv6]
    assert (network.src, frame[UDP].sport) == remote.endpoint, "packets leave from the advertised port"
    assert network.dst == dialogue.callee.audio.address
    assert (network.tos if callee == 4 else network.tc) == 184
    assert (network.ttl if callee == 4 else network.hlim) == 64
    checksum = frame[UDP].chksum
    assert checksum != 0
    again = network.copy()
    del again[UDP].chksum
    assert type(network)(bytes(again))[UDP].chksum == checksum
    assert bytes(frame[UDP].payload)[: len(sent)] == sent


def test_tos_applies_to_rtcp_too(lab: Lab, party: MakeParty, call: MakeCall) -> None:
    dialogue = call().place()
    callee = dialogue.callee.audio
    with lab.b.capture() as capture:
        dialogue.caller.audio.send_rtcp()
        deadline = time.monotonic() + 20
        frame = Ether(capture.recv(65535))
        while time.monotonic() < deadline and not (UDP in frame and frame[UDP].dport == callee.rtcp.getsockname()[1]):
            frame = Ether(capture.recv(65535))
    assert frame[IP].tos == 184


def test_without_tos_the_field_is_untouched(lab: Lab, party: MakeParty, start: object) -> None:
    daemon = start("--port-min=34000", "--port-max=34099")  # type: ignore[operator]
    assert isinstance(daemon, Daemon)
    dialogue = Dialogue(daemon.ng, party(lab.a), party(lab.b)).place()
    with lab.b.capture() as capture:
        dialogue.caller.audio.send(rtp(1, SSRC))
        assert _captured(capture, dialogue.callee.audio)[IP].tos == 0
