"""How streams have arrived, from the packets to the answer to `query` and the lines at the end of a call."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterable
from typing import Any

from systemlab.daemon import Daemon, wait_until
from systemlab.fixtures import MakeCall
from systemlab.media import Dialogue, Media, receive, rtp, sender_report

NTP = 0x89ABCDEF


def streams_of(dialogue: Dialogue, tag: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `query` tells of a party's RTP and RTCP socket."""
    rtp_stream, rtcp_stream = dialogue.ng.ok("query", call_id=dialogue.call_id)["tags"][tag]["medias"][0]["streams"]
    return rtp_stream, rtcp_stream


def send(speaker: Media, listener: Media, numbers: Iterable[int], ssrc: int) -> None:
    for number in numbers:
        speaker.send(rtp(number, ssrc))
        receive(listener.rtp)


def test_loss_order_and_repetition_are_told(daemon: Daemon, call: MakeCall) -> None:
    dialogue = call().place()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    send(caller, callee, (1, 2, 5, 4, 4, 6), ssrc=0xFEED)
    send(callee, caller, range(65530, 65540), ssrc=0xBEEF)
    heard, rtcp = streams_of(dialogue, dialogue.caller.tag)
    assert heard["SSRC"] == 0xFEED
    expected = {"expected": 6, "lost": 1, "duplicates": 1, "reordered": 1, "skips": 1, "resets": 0}
    assert {name: heard["quality"][name] for name in expected} == expected
    assert "quality" not in rtcp
    heard, _ = streams_of(dialogue, dialogue.callee.tag)
    assert (heard["SSRC"], heard["quality"]["expected"], heard["quality"]["lost"]) == (0xBEEF, 10, 0)
    dialogue.ng.ok("delete", call_id=dialogue.call_id, from_tag="")
    assert re.search(rf"\[{re.escape(dialogue.call_id)}\]: .* RTP: 6 packets, .*, 1 of 6 lost, jitter ", daemon.log)


def test_reports_and_round_trips(call: MakeCall) -> None:
    dialogue = call().place()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    report = bytearray(sender_report(callee.ssrc))
    report[10:14] = NTP.to_bytes(4, "big")
    callee.send_rtcp(bytes(report))
    assert receive(caller.rtcp)[0] == bytes(report)
    time.sleep(0.05)
    block = struct.pack("!IIIIII", callee.ssrc, 64 << 24 | 12, 0, 80, NTP, 0)
    caller.send_rtcp(b"\x81\xc9\x00\x07" + caller.ssrc.to_bytes(4, "big") + block)
    receive(callee.rtcp)
    _, rtcp = streams_of(dialogue, dialogue.caller.tag)
    way_us = rtcp["RTCP"].pop("round-trip time")
    said = {"reports": 1, "malformed": 0, "SSRC": callee.ssrc, "lost": 12, "jitter": 80, "fraction lost": 25}
    assert rtcp["RTCP"] == said
    assert way_us >= 49_000, "which is how long the caller has waited, without saying so"
    caller.send_rtcp(b"\x85\xc9\x00\x01" + bytes(4))
    receive(callee.rtcp)
    _, rtcp = streams_of(dialogue, dialogue.caller.tag)
    assert (rtcp["RTCP"]["reports"], rtcp["RTCP"]["malformed"]) == (1, 1)


def test_speech_has_a_mos_after_five_seconds(call: MakeCall) -> None:
    dialogue = call().place()
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    numbers = iter(range(1, 10_000))

    def sampled() -> bool:
        send(caller, callee, [next(numbers)], ssrc=0xFEED)
        return "MOS" in streams_of(dialogue, dialogue.caller.tag)[0]["quality"]

    assert wait_until(sampled, 60)
    assert 100 <= streams_of(dialogue, dialogue.caller.tag)[0]["quality"]["MOS"] <= 441
    assert list(dialogue.ng.ok("query", call_id=dialogue.call_id)["SSRC"]) == [str(0xFEED)]
    assert wait_until(lambda: streams_of(dialogue, dialogue.caller.tag)[0]["quality"]["silent"] >= 1, 60)
