"""`query` in both shapes, from scripted packet counters."""

from __future__ import annotations

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine.call import Call
from rtpengine.media import Endpoint, Learning, MediaOffer, Quality, Reports, Signalling, StreamState
from rtpengine.quality import G711, Far, Track
from rtpengine.report import CODECS, CallReport

A, B, B2 = Endpoint("203.0.113.1", 4100), Endpoint("2001:db8:b::2", 4200), Endpoint("2001:db8:b::3", 4300)
LEARNED = Endpoint("203.0.113.1", 4999)
PLAIN = Signalling()


def audio(endpoint: Endpoint, **changes: object) -> MediaOffer:
    return MediaOffer("audio", endpoint, Endpoint(endpoint.address, endpoint.port + 1), "RTP/AVP", **changes)  # type: ignore[arg-type]


def state(peer: Endpoint, packets: int, payload_type: int | None = 0, confirmed: bool = True) -> StreamState:
    return StreamState(peer, confirmed, packets, packets * 172, 1, 1005.0, payload_type, {"source": 2})


@pytest.fixture
def call() -> Call:
    """A on 30002/30003, B on 30000/30001."""
    call = Call("c", 1000.0, Learning.HEURISTIC, FakeTransport(), TOOLS)
    call.offer("a", [audio(A)], Signalling(family=6), 1000.0)
    call.answer("a", "b", [audio(B)], PLAIN, 1004.0)
    transport = call.transport
    assert isinstance(transport, FakeTransport)
    transport.states = {
        30000: state(B, 20, 8),
        30001: state(B, 2, None),
        30002: state(LEARNED, 10, 111, confirmed=False),
        30003: state(A, 1, None),
    }
    return call


def report(call: Call) -> CallReport:
    return CallReport(call, now=1010.0, wall=1_700_000_010.0)


def test_document_shape(call: Call) -> None:
    answer = report(call).query()
    assert answer["created"] == 1_700_000_000
    ((a, b),) = answer["streams"]
    assert (a["tag"], b["tag"]) == ("a", "b")
    assert (a["codec"], b["codec"]) == ("unknown", "G711a")
    assert (a["status"], b["status"]) == ("known but unconfirmed peer address", "confirmed peer address")
    assert a["stats"]["rtp"] == {
        "counters": {"packets": 10, "bytes": 1720, "errors": 1},
        "peer address": {"family": "IPv4", "address": "203.0.113.1", "port": 4999},
        "advertised peer address": {"family": "IPv4", "address": "203.0.113.1", "port": 4100},
        "local port": 30002,
    }
    assert b["stats"]["rtcp"]["advertised peer address"] == {
        "family": "IPv6", "address": "2001:db8:b::2", "port": 4201,
    }  # fmt: skip
    assert answer["totals"]["input"] == {
        "rtp": {"packets": 10, "bytes": 1720, "errors": 1},
        "rtcp": {"packets": 1, "bytes": 172, "errors": 1},
    }
    assert answer["totals"]["output"]["rtp"]["packets"] == 20


def test_shape_that_clients_read_today(call: Call) -> None:
    answer = report(call).query()
    assert answer["last_signal"] == 1_700_000_004
    assert answer["totals"]["RTP"] == {"packets": 30, "bytes": 30 * 172, "errors": 2}
    assert answer["totals"]["RTCP"]["packets"] == 3
    tag = answer["tags"]["b"]
    assert (tag["tag"], tag["created"], tag["in dialogue with"]) == ("b", 1_700_000_000, "a")
    (media,) = tag["medias"]
    assert (media["index"], media["type"], media["protocol"]) == (1, "audio", "RTP/AVP")
    assert media["flags"] == ["initialized"]
    rtp, rtcp = media["streams"]
    assert rtp["flags"] == ["RTP", "filled", "confirmed"] and rtcp["flags"] == ["RTCP", "filled", "confirmed"]
    assert rtp["stats"] == {"packets": 20, "bytes": 3440, "errors": 1, "drops": {"source": 2}}
    assert rtp["last packet"] == 1_700_000_005
    assert rtp["endpoint"]["port"] == 4200


@pytest.mark.parametrize(
    ("from_tag", "to_tag", "tags", "input_packets"),
    [
        ("", "", [("a", "b")], 10),
        ("a", "", [("a", "b")], 10),
        ("b", "", [("b", "a")], 20),
        ("b", "a", [("b", "a")], 20),
        ("", "a", [("b", "a")], 20),
        ("b", "x", [], 0),
        ("x", "", [], 0),
    ],
)
def test_orientation(call: Call, from_tag: str, to_tag: str, tags: list[tuple[str, str]], input_packets: int) -> None:
    answer = report(call).query(from_tag, to_tag)
    assert [(one["tag"], other["tag"]) for one, other in answer["streams"]] == tags
    assert answer["totals"]["input"]["rtp"]["packets"] == input_packets


def test_before_the_answer_the_other_side_has_no_tag_and_no_address() -> None:
    call = Call("c", 1000.0, Learning.HEURISTIC, FakeTransport(), TOOLS)
    call.offer("a", [audio(A)], PLAIN, 1000.0)
    answer = report(call).query()
    ((a, b),) = answer["streams"]
    assert b["tag"] == "" and b["status"] == "unknown peer address" and "codec" not in b
    assert b["stats"]["rtp"]["peer address"] == {"family": "IPv6", "address": "::", "port": 0}
    assert list(answer["tags"]) == ["a"]


def test_forks_count_their_shared_streams_once(call: Call) -> None:
    call.answer("a", "b2", [audio(B2)], PLAIN, 1006.0)
    answer = report(call).query()
    assert [(one["tag"], other["tag"]) for one, other in answer["streams"]] == [("a", "b"), ("a", "b2")]
    assert answer["totals"]["output"]["rtp"]["packets"] == 20
    assert [len(media["streams"]) for media in answer["tags"]["a"]["medias"]] == [4]


def test_where_a_stream_is_forwarded(call: Call) -> None:
    transport = call.transport
    assert isinstance(transport, FakeTransport)
    transport.states[30000] = transport.states[30000]._replace(in_kernel=True)
    transport.states[30002] = transport.states[30002]._replace(reason="the moon is full")
    answer = report(call).query()
    ((a, b),) = answer["streams"]
    assert (a["status"], a["userspace"]) == ("known but unconfirmed peer address", "the moon is full")
    assert (b["status"], "userspace" in b) == ("in kernel", False)
    flags = [stream["flags"] for tag in ("a", "b") for stream in answer["tags"][tag]["medias"][0]["streams"]]
    assert ["kernelized" in each for each in flags] == [False, False, True, False]


def test_rtcp_mux_flags(call: Call) -> None:
    mux = Signalling(rtcp_mux=frozenset({"offer"}))
    call.offer("a", [audio(A)], mux, 1006.0)
    call.answer("a", "b", [MediaOffer("audio", B, None, "RTP/AVP", rtcp_mux=True)], PLAIN, 1007.0)
    (media,) = report(call).query()["tags"]["b"]["medias"]
    assert media["flags"] == ["initialized", "rtcp-mux"]
    assert [stream["flags"][0] for stream in media["streams"]] == ["RTP", "fallback RTCP"]
    assert "RTCP" in media["streams"][0]["flags"]


def test_rejected_sections_have_no_streams(call: Call) -> None:
    call.offer("a", [audio(A, rejected=True)], PLAIN, 1006.0)
    assert len(report(call).query()["streams"]) == 1  # until the answer, which may never come
    call.answer("a", "b", [audio(B, rejected=True)], PLAIN, 1007.0)
    assert report(call).query()["streams"] == []


def test_final_lines(call: Call) -> None:
    lines = list(report(call).lines(now=1075.0))
    assert lines[0] == "tag 'a', created 1:15 ago, in dialogue with 'b'"
    assert lines[1] == "media 1, port 30002 <> 203.0.113.1:4999, RTP: 10 packets, 1720 bytes, 1 errors"
    assert lines[5] == "media 1, port 30001 <> [2001:db8:b::2]:4200, RTCP: 2 packets, 344 bytes, 1 errors"


def test_codec_names_are_those_of_the_protocol() -> None:
    assert len(CODECS) == 22 and CODECS[0] == "G711u" and CODECS[34] == "H263"


def hear(call: Call, stream: int, quality: Quality, *samples: Quality) -> None:
    """Have a stream arrive so, after samples that were taken at 1005.0, 1010.0 ..."""
    transport = call.transport
    assert isinstance(transport, FakeTransport)
    transport.states[stream] = transport.states[stream]._replace(quality=quality)
    track = Track()
    track.codec = G711
    for number, sample in enumerate(samples, 1):
        track.take(sample, Far(rtt_ms=30.0), 1000.0 + 5 * number)
    for ports in call.media_ports:
        if ports.current is not None and stream in ports.current.streams:
            ports.tracks[stream] = track


def test_quality(call: Call) -> None:
    hear(
        call,
        30000,
        Quality(600, 60, 1, 2, 3, 4, 2.5, 0xFEDCBA98, 0, 8000),
        Quality(250, 0, jitter_ms=1.0),
        Quality(500, 50, jitter_ms=3.0),
        Quality(500, 50, jitter_ms=3.0),
    )
    answer = report(call).query()
    rtp, rtcp = answer["tags"]["b"]["medias"][0]["streams"]
    assert (rtp["SSRC"], rtp["quality"]) == (
        0xFEDCBA98,
        {
            "expected": 600,
            "lost": 60,
            "duplicates": 1,
            "reordered": 2,
            "skips": 3,
            "resets": 4,
            "jitter": 2500,
            "silent": 1,
            "MOS": 349,
        },
    )
    assert "quality" not in rtcp and "quality" not in answer["tags"]["a"]["medias"][0]["streams"][0]
    assert answer["SSRC"] == {
        str(0xFEDCBA98): {
            "average MOS": {"MOS": 35, "packet loss": 10, "jitter": 2, "round-trip time": 30000, "samples": 2},
            "lowest MOS": {
                "MOS": 26, "packet loss": 20, "jitter": 3, "round-trip time": 30000, "reported at": 1_700_000_010,
            },
            "highest MOS": {
                "MOS": 44, "packet loss": 0, "jitter": 1, "round-trip time": 30000, "reported at": 1_700_000_005,
            },
        }
    }  # fmt: skip


def test_quality_before_the_first_sample(call: Call) -> None:
    hear(call, 30000, Quality(10, 1, ssrc=5))
    answer = report(call).query()
    quality = answer["tags"]["b"]["medias"][0]["streams"][0]["quality"]
    assert (quality["lost"], quality["silent"], "MOS" in quality, answer["SSRC"]) == (1, 0, False, {})


def test_quality_in_the_log(call: Call) -> None:
    hear(call, 30000, Quality(600, 60, jitter_ms=2.54), Quality(250, 0, jitter_ms=1.0))
    hear(call, 30002, Quality(5, 0))
    lines = [line for line in report(call).lines(1010.0) if "RTP:" in line]
    assert [line.partition(" errors")[2] for line in lines] == [
        ", 0 of 5 lost, jitter 0.0 ms",
        ", 60 of 600 lost, jitter 2.5 ms, MOS 4.39",
    ]


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        (Reports(), None),
        (Reports(malformed=2), {"reports": 0, "malformed": 2}),
        (
            Reports(3, 1, 0, -5, 0.25, 80, 7),
            {"reports": 3, "malformed": 1, "SSRC": 7, "lost": -5, "jitter": 80, "fraction lost": 25},
        ),
        (
            Reports(1, 0, 1, 0, 0, 0, 7, 12.3456),
            {
                "reports": 1, "malformed": 0, "SSRC": 7, "lost": 0, "jitter": 0, "fraction lost": 0,
                "round-trip time": 12346,
            },
        ),
    ],
)  # fmt: skip
def test_rtcp(call: Call, reports: Reports, told: dict[str, int] | None) -> None:
    transport = call.transport
    assert isinstance(transport, FakeTransport)
    transport.states[30001] = transport.states[30001]._replace(reports=reports)
    rtp, rtcp = report(call).query()["tags"]["b"]["medias"][0]["streams"]
    assert rtcp.get("RTCP") == told
    assert "RTCP" not in rtp
