"""The pure parts of `make demo`: a demo that cannot tell a broken relay from a good one shows nothing."""

from __future__ import annotations

import io
import struct
import sys
import wave
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "demo"
sys.path.insert(0, str(DEMO))

import kernel_view  # noqa: E402
from measure import PATIENCE_NS, Heard, Said, StreamResult, measure  # noqa: E402
from ng_client import Counters, NgError, counters, suites  # noqa: E402
from phone_sdp import SECURE, Address, PhoneSdp, parse, rewriting_faults  # noqa: E402
from report import StreamReport, live_line, progress_line, table, verdict  # noqa: E402
from screen import Screen  # noqa: E402
from speech import FRAME_SAMPLES, PCMA, PCMU, Law, Recording, parse_wav, write_wav  # noqa: E402
from wire import RtpPacket, parse_rtp, sender_report  # noqa: E402

SPEECH = Path(__file__).parents[1] / "data" / "speech"

# ITU-T G.711: the largest value of each segment's first step; tables 1a (times 8) and 2a (times 4).
A_LAW = {0xAA: 32256, 0xA5: 16896, 0xB5: 8448, 0x85: 4224, 0x95: 2112, 0xE5: 1056, 0xF5: 528, 0xD5: 8}
MU_LAW = {
    0x80: 32124, 0x8F: 16764, 0x9F: 8316, 0xAF: 4092, 0xBF: 1980, 0xCF: 924, 0xDF: 396, 0xEF: 132, 0xFE: 8, 0xFF: 0,
}  # fmt: skip


# As show_address() and table_list_show() of kernel-module/proc.c write it.
LISTING = """port 31652:
       src inet6 [0:0:0:0:0:0:0:1]:33516
       dst inet6 [0:0:0:0:0:0:0:1]:5004
     local inet4 127.0.0.1:31652
    expect inet4 127.0.0.1:4000
    stats:                16856 bytes,                   98 packets,                    0 errors
    SRTP encryption (outgoing) parameters:
        cipher: AES-CM
        HMAC: HMAC-SHA1
            auth tag length: 10
        SSRC: 12345678, next index 98
    TOS: 184
port 31652:
       src inet4 127.0.0.1:31652
       dst inet4 127.0.0.1:4000
     local inet6 [0:0:0:0:0:0:0:1]:31652
    expect inet6 [0:0:0:0:0:0:0:1]:5004
    stats:                    0 bytes,                    0 packets,                    0 errors
"""


def test_the_kernel_s_list_is_read() -> None:
    assert kernel_view.parse(LISTING) == {("4", 31652): 98, ("6", 31652): 0}
    assert kernel_view.parse("") == {}


@pytest.mark.parametrize(("law", "vectors"), [(PCMA, A_LAW), (PCMU, MU_LAW)], ids=["A-law", "mu-law"])
def test_g711_decodes_as_the_standard_says(law: Law, vectors: dict[int, int]) -> None:
    assert {octet: law.linear[octet] for octet in vectors} == vectors
    # The sign is the first bit, all else is symmetric.
    assert all(law.linear[octet] == -law.linear[octet ^ 0x80] for octet in range(256))
    assert len(set(law.linear)) == (256 if law is PCMA else 255)  # mu-law has two zeros
    assert abs(law.linear[law.silence]) == min(map(abs, law.linear))


def wav(form: int = 6, channels: int = 1, rate: int = 8000, extra: bytes = b"", data: bytes = b"\xd5" * 9) -> bytes:
    fmt = struct.pack("<HHIIHHH", form, channels, rate, rate, 1, 8, 0)
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt + extra + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("data", "law"),
    [(wav(form=6), PCMA), (wav(form=7), PCMU), (wav(extra=b"odd \x03\0\0\0abc\0"), PCMA)],
    ids=["A-law", "mu-law", "unknown chunk of odd size"],
)
def test_parse_wav(data: bytes, law: Law) -> None:
    assert parse_wav(data) == Recording(law, b"\xd5" * 9)


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF", b"RIFX" + wav()[4:], wav(form=1), wav(channels=2), wav(rate=16000), wav()[:38]],
    ids=["empty", "cut", "no RIFF", "PCM", "stereo", "16 kHz", "no data"],
)
def test_parse_wav_refuses_what_is_no_g711(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a WAV file with G.711"):
        parse_wav(data)


@pytest.mark.parametrize(("name", "law"), [("alice", PCMA), ("bob", PCMU)])
def test_the_recordings_are_speech_of_whole_frames(name: str, law: Law) -> None:
    recording = parse_wav((SPEECH / f"{name}.wav").read_bytes())
    assert recording.law is law
    assert len(recording.frames()) == 245 and len(recording.octets) == 245 * FRAME_SAMPLES
    assert max(law.linear[octet] for octet in recording.octets) > 10000


def test_written_wav_holds_the_decoded_samples(tmp_path: Path) -> None:
    write_wav(tmp_path / "out.wav", Recording(PCMU, bytes(MU_LAW)))
    with wave.open(str(tmp_path / "out.wav")) as out:
        assert out.getparams()[:4] == (1, 2, 8000, len(MU_LAW))
        assert struct.unpack(f"<{len(MU_LAW)}h", out.readframes(len(MU_LAW))) == tuple(MU_LAW.values())


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (159, 1), (160, 1), (161, 2)])
def test_frames_are_of_20_ms_and_the_last_is_filled_up(samples: int, frames: int) -> None:
    got = Recording(PCMA, b"\x2a" * samples).frames()
    assert [len(frame) for frame in got] == [160] * frames
    assert b"".join(got) == b"\x2a" * samples + b"\xd5" * (160 * frames - samples)


def test_rtp_on_the_wire() -> None:
    packet = RtpPacket(8, 0xFFFE, 0x01020304, 0xA0B0C0D0, b"speech", marker=True)
    assert packet.serialize() == bytes.fromhex("80 88 fffe 01020304 a0b0c0d0") + b"speech"
    assert parse_rtp(packet.serialize()) == packet


@pytest.mark.parametrize("data", [b"", b"\x80" * 11, b"\x00" + b"\x08" * 20, b"\x90" + b"\x08" * 20])
def test_what_is_not_our_rtp(data: bytes) -> None:
    assert parse_rtp(data) is None


def test_sender_report_on_the_wire() -> None:
    # RFC 3550 6.4.1 and 6.5; half a second into 1970 is NTP 0x83aa7e80.80000000.
    assert sender_report(0x11223344, 0.5, 0xAABBCCDD, 7, 1120, "a@h") == bytes.fromhex(
        "80c80006 11223344 83aa7e80 80000000 aabbccdd 00000007 00000460 81ca0003 11223344 0103 614068 00 0000"
    )


FRAMES = [bytes([n]) * FRAME_SAMPLES for n in range(1, 5)]
# Sequence number and timestamp both wrap behind the second packet; a pause of one frame lies before the last.
TIMES = [2**32 - 320, 2**32 - 160, 0, 320]
SAID = [Said((65534 + n) % 2**16, TIMES[n], FRAMES[n], 1_000_000 * n) for n in range(4)]
HEARD = [Heard(8, s.sequence, s.timestamp, s.payload, s.sent_ns + 500_000) for s in SAID]
QUIET = PCMA.silent_frame
VAIN = [*SAID[:3], SAID[3]._replace(withheld=True)]


@pytest.mark.parametrize(
    ("said", "heard", "expected"),
    [
        (SAID, HEARD, (4, 4, 0, 0, 0, 0)),
        (SAID, HEARD[::-1], (4, 4, 0, 0, 0, 0)),
        (SAID, HEARD[:1] + HEARD[2:], (4, 3, 1, 0, 0, 160)),
        (SAID, [], (4, 0, 4, 0, 0, 640)),
        (SAID, [*HEARD, HEARD[1]], (4, 4, 0, 0, 1, 0)),
        (SAID, [*HEARD, HEARD[1]._replace(sequence=99)], (4, 4, 0, 0, 1, 0)),
        (SAID, [*HEARD[:3], HEARD[3]._replace(expected_source=False)], (4, 3, 1, 0, 1, 160)),
        (SAID, [*HEARD[:3], HEARD[3]._replace(payload_type=0)], (4, 3, 1, 0, 1, 160)),
        (SAID, [*HEARD[:3], HEARD[3]._replace(payload=b"\0" + FRAMES[3][1:])], (4, 4, 0, 0, 0, 1)),
        (SAID, [*HEARD[:3], HEARD[3]._replace(payload=FRAMES[3][:-1])], (4, 4, 0, 0, 0, 1)),
        (SAID, [*HEARD[:3], HEARD[3]._replace(timestamp=160)], (4, 4, 0, 0, 0, 320)),
        (SAID, [*HEARD[:3], HEARD[3]._replace(timestamp=10**6)], (4, 4, 0, 0, 0, 160)),
        (VAIN, HEARD[:3], (3, 3, 0, 1, 0, 0)),
        (VAIN, HEARD, (3, 3, 0, 1, 1, 0)),
        ([], [], (0, 0, 0, 0, 0, 0)),
    ],
    ids=[
        "all", "reordered", "one lost", "nothing", "duplicate", "never said", "wrong source", "wrong payload type",
        "one sample differs", "one sample short", "in the wrong place", "beyond the end", "withheld", "not withheld",
        "nothing said",
    ],
)  # fmt: skip
def test_measure(said: list[Said], heard: list[Heard], expected: tuple[int, ...]) -> None:
    result = measure(PCMA, said, heard)
    counts = (result.sent, result.received, result.lost, result.withheld, result.stray, result.wrong_samples)
    assert counts == expected


def test_measure_puts_audio_on_a_time_line() -> None:
    result = measure(PCMA, SAID, HEARD[1:])
    assert result.said.octets == FRAMES[0] + FRAMES[1] + FRAMES[2] + QUIET + FRAMES[3]
    assert result.heard.octets == QUIET + FRAMES[1] + FRAMES[2] + QUIET + FRAMES[3]


def test_latency_is_median_and_maximum() -> None:
    late = HEARD[3]._replace(received_ns=SAID[3].sent_ns + 9_000_000)
    assert measure(PCMA, SAID, [*HEARD[:3], late]).latency_ms == (0.5, 9.0)


@pytest.mark.parametrize(("after_ns", "lost"), [(0, 0), (PATIENCE_NS, 0), (PATIENCE_NS + 1, 1), (10**9, 4)])
def test_a_packet_on_its_way_is_not_lost(after_ns: int, lost: int) -> None:
    assert measure(PCMA, SAID, [], now_ns=after_ns).lost == lost


PORTS = range(30000, 30100)
OFFER = PhoneSdp("alice", Address("127.0.0.1", 40000), (8, 0))
GOOD = PhoneSdp("alice", Address("::1", 30002), (8, 0))


def test_a_body_as_a_phone_writes_it() -> None:
    assert PhoneSdp("al", Address("::1", 4000), (0, 8), 2, "sendonly").serialize() == (
        "v=0\r\no=al 20261123 2 IN IP6 ::1\r\ns=Phone call\r\nc=IN IP6 ::1\r\nt=0 0\r\n"
        "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
        "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendonly\r\n"
    )


@pytest.mark.parametrize(
    ("line", "rtcp"), [("", 30003), ("a=rtcp:30077\r\n", 30077), ("a=rtcp:30077 IN IP6 ::1\r\n", 30077)]
)
def test_told_where_to_send(line: str, rtcp: int) -> None:
    told = parse(GOOD.serialize() + line)
    assert (told.rtp, told.rtcp, told.direction) == (("::1", 30002), ("::1", rtcp), "sendrecv")


def test_the_connection_line_of_the_section_wins() -> None:
    body = GOOD.serialize().replace("a=ptime", "c=IN IP4 10.0.0.9\r\na=ptime")
    assert parse(body).rtp == ("10.0.0.9", 30002)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("c=IN IP6 ::1", "c=IN IP4 127.0.0.1", "c= names 127.0.0.1"),
        ("1 IN IP6 ::1\r\ns", "1 IN IP4 10.1.1.1\r\ns", "o= names 10.1.1.1"),
        ("audio 30002", "audio 40000", "m= names port 40000"),
        ("audio 30002", "audio 30003", "m= names port 30003"),
        ("a=ptime:20", "a=rtcp:9", "a=rtcp names port 9"),
        ("sendrecv", "inactive", "direction inactive instead of sendrecv"),
        ("8 0 101", "8 101", "m= line has 'audio RTP/AVP 8 101' instead of 'audio RTP/AVP 8 0 101'"),
        ("a=rtpmap:0 PCMU/8000\r\n", "", "a=rtpmap lines differ"),
    ],
)
def test_faults_of_rewriting(old: str, new: str, fault: str | None) -> None:
    body = GOOD.serialize()
    assert old in body
    faults = rewriting_faults(OFFER, parse(body.replace(old, new)), "::1", PORTS)
    assert (fault in faults) if fault else (faults == [])


SECURED = PhoneSdp("bob", Address("127.0.0.1", 30002), (8, 0), protocol=SECURE, attributes=("setup:active", "ice-lite"))


def test_a_body_of_a_secure_phone() -> None:
    told = parse(SECURED.serialize())
    assert told.media == "audio UDP/TLS/RTP/SAVPF 8 0 101"
    assert (told.attributes["setup"], told.attributes["ice-lite"]) == ("active", "")


@pytest.mark.parametrize(
    ("protocol", "faults"),
    [
        (SECURE, []),
        (
            "RTP/AVP",
            [
                "m= line has 'audio UDP/TLS/RTP/SAVPF 8 0 101' instead of 'audio RTP/AVP 8 0 101'",
                "a plain phone is told of a=ice-lite, a=setup",
            ],
        ),
    ],
)
def test_what_is_secure_is_for_secure_phones(protocol: str, faults: list[str]) -> None:
    assert rewriting_faults(OFFER, parse(SECURED.serialize()), "127.0.0.1", PORTS, protocol) == faults


@pytest.mark.parametrize(("held", "faults"), [(True, []), (False, ["c= names ::1"])])
def test_a_hold_must_stay_visible(held: bool, faults: list[str]) -> None:
    hold = PhoneSdp("alice", Address("127.0.0.1", 40000), (8, 0), null_address=True)
    told = PhoneSdp("alice", Address("::1", 30002), (8, 0), null_address=held)
    assert "c=IN IP4 0.0.0.0" in hold.serialize()
    assert rewriting_faults(hold, parse(told.serialize()), "::1", PORTS) == faults


def stream(kind: str, packets: int) -> dict[str, object]:
    flags = [*kind.split(" and "), "filled"]
    return {"flags": flags, "stats": {"packets": packets, "bytes": 172 * packets, "errors": 0}}


def test_counters_of_a_query_reply() -> None:
    medias = [{"streams": [stream("RTP", 5), stream("RTCP", 1)]}, {"streams": [stream("RTP", 2)]}]
    assert counters({"tags": {"a": {"medias": medias}}}, "a") == Counters(rtp=7, rtcp=1)


def test_counters_of_a_port_that_is_shared() -> None:
    streams = [stream("RTP and RTCP", 9) | {"crypto suite": "SOME_SUITE"}, stream("fallback RTCP", 0)]
    reply = {"tags": {"a": {"medias": [{"streams": streams}]}}}
    assert counters(reply, "a") == Counters(shared=9)
    assert suites(reply, "a") == {"SOME_SUITE"}


@pytest.mark.parametrize(
    ("counted", "text"), [(Counters(3, 1), "3 RTP and 1 RTCP packets"), (Counters(shared=4), "4 RTP and RTCP packets")]
)
def test_counters_in_words(counted: Counters, text: str) -> None:
    assert str(counted) == text


@pytest.mark.parametrize("reply", [{}, {"tags": {}}, {"tags": {"a": {}}}, {"tags": {"a": {"medias": [{}]}}}])
def test_a_query_reply_without_counters(reply: dict[str, object]) -> None:
    with pytest.raises(NgError, match="says nothing of the packets from a"):
        counters(reply, "a")


def report_of(result: StreamResult, reports_received: int = 5) -> StreamReport:
    return StreamReport(2, "Alice", "Bob", "127.0.0.1", "::1", result, 5, reports_received, Path("heard.wav"))


FINE = measure(PCMA, SAID, HEARD)
BROKEN = measure(PCMA, SAID, [*HEARD[:3], HEARD[0]])


def test_table() -> None:
    assert table([report_of(FINE), report_of(BROKEN), report_of(measure(PCMA, SAID, []))]) == [
        "call  stream                        sent  heard  lost  latency ms  audio",
        "2     Alice 127.0.0.1 -> Bob [::1]     4      4     0   0.50/0.50  identical",
        "2     Alice 127.0.0.1 -> Bob [::1]     4      3     1   0.50/0.50  DIFFERS",
        "2     Alice 127.0.0.1 -> Bob [::1]     4      0     4           -  DIFFERS",
    ]


@pytest.mark.parametrize(
    ("reports", "faults", "line"),
    [
        ([report_of(FINE)] * 400, [], "PASS: 1,600 packets relayed, 0 lost, audio identical in all 400 streams"),
        ([], [], "FAIL: no call was placed"),
        ([report_of(FINE)], ["call 1: refused"], "FAIL: call 1: refused"),
        ([report_of(FINE, 4)], [], "FAIL: call 2 Alice > Bob: 4 of 5 RTCP reports unharmed"),
        (
            [report_of(FINE), report_of(BROKEN)],
            [],
            "FAIL: call 2 Alice > Bob: 1 of 4 packets lost, 1 packets that should not have come, "
            "160 of 800 samples differ",
        ),
        ([report_of(measure(PCMA, [], []), 5)], [], "FAIL: call 2 Alice > Bob: nothing was sent"),
    ],
)
def test_verdict(reports: list[StreamReport], faults: list[str], line: str) -> None:
    assert verdict(reports, faults) == (line.startswith("PASS"), line)


def test_live_lines() -> None:
    assert live_line("Alice > Bob", FINE) == (
        "  Alice > Bob   sent   4   heard   4   lost 0   latency 0.50 ms, max 0.50"
    )
    assert live_line("Alice > Bob", measure(PCMA, SAID, [])) == "  Alice > Bob   sent   4   heard   0   lost 4"
    assert progress_line(125, 250, "talking") == "  [############............] 2.5 of 5.0 s   talking"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("out", "environment", "expected"),
    [
        (Terminal(), {"TERM": "xterm"}, "a\nb\n\x1b[2F\x1b[Jc\n\x1b[1F\x1b[J\x1b[1mdone\x1b[0m\nmore\n"),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, "a\nb\n\x1b[2F\x1b[Jc\n\x1b[1F\x1b[Jdone\nmore\n"),
        (Terminal(), {"TERM": "dumb"}, "a\nb\ndone\nmore\n"),
        (Terminal(), {}, "a\nb\ndone\nmore\n"),
        (io.StringIO(), {"TERM": "xterm"}, "a\nb\ndone\nmore\n"),
    ],
    ids=["terminal", "NO_COLOR", "dumb terminal", "no TERM", "pipe"],
)
def test_screen(out: io.StringIO, environment: dict[str, str], expected: str) -> None:
    screen = Screen(out, environment)
    screen.update(["a", "b"])
    screen.update(["c"])
    screen.say("done", "bold")
    screen.say("more")
    assert out.getvalue() == expected


def test_a_live_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    out = Terminal()
    Screen(out, {"TERM": "xterm"}).update(["0123456789abc"])
    assert out.getvalue() == "012345678\n"
