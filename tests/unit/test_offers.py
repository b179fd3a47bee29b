"""What a body says about media (sdp.md 3), apart from keys and ICE."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, PROFILES, Endpoint, MediaOffer, Signalling
from rtpengine.offers import MAX_FORMATS, offers
from rtpengine.sdp import SessionDescription

CORPUS = sorted((Path(__file__).parents[1] / "data" / "sdp").glob("*.sdp"))
TRUST = Signalling()
SIP = Signalling(trust_address=False, received_from="203.0.113.9")
HEAD = ["v=0", "o=u 1 1 IN IP4 10.0.0.5", "s=-", "c=IN IP4 10.0.0.5", "t=0 0"]


def parse(*lines: str) -> SessionDescription:
    return SessionDescription.parse("".join(f"{line}\r\n" for line in lines).encode())


def corpus(name: str) -> SessionDescription:
    return SessionDescription.parse((CORPUS[0].parent / f"{name}.sdp").read_bytes())


def offer(section: list[str], how: Signalling = TRUST, session: list[str] = HEAD) -> MediaOffer:
    (only,) = offers(parse(*session, *section), how)
    return only


A7000 = Endpoint("10.0.0.5", 7000)
A7001 = Endpoint("10.0.0.5", 7001)
AUDIO = "m=audio 7000 RTP/AVP 8 0"


@pytest.mark.parametrize(
    ("section", "how", "endpoint", "rtcp", "mux"),
    [
        # sdp.md 3, RTP endpoint
        ([AUDIO], TRUST, A7000, A7001, False),
        ([AUDIO, "c=IN IP4 10.0.0.6"], TRUST, Endpoint("10.0.0.6", 7000), Endpoint("10.0.0.6", 7001), False),
        ([AUDIO, "a=x", "c=IN IP6 2001:DB8::6"], TRUST, ("2001:db8::6", 7000), ("2001:db8::6", 7001), False),
        ([AUDIO, "c=IN IP4 10.0.0.6", "c=IN IP4 10.0.0.7"], TRUST, ("10.0.0.6", 7000), ("10.0.0.6", 7001), False),
        ([AUDIO, "c=IN IP4 media.example.net"], TRUST, None, None, False),
        ([AUDIO], SIP, Endpoint("203.0.113.9", 7000), Endpoint("203.0.113.9", 7001), False),
        ([AUDIO, "c=IN IP4 media.example.net"], SIP, ("203.0.113.9", 7000), ("203.0.113.9", 7001), False),
        (
            [AUDIO, "c=IN IP4 media.example.net"],
            Signalling(received_from="203.0.113.9"),
            ("203.0.113.9", 7000),
            ("203.0.113.9", 7001),
            False,
        ),
        ([AUDIO], Signalling(trust_address=False), A7000, A7001, False),
        ([AUDIO], Signalling(received_from="203.0.113.9"), A7000, A7001, False),
        # RTCP endpoint, rules 1 to 5
        ([AUDIO, "a=rtcp:7009", "a=rtcp-mux"], TRUST, A7000, None, True),
        ([AUDIO, "a=rtcp:7009", "a=rtcp-mux:odd"], TRUST, A7000, ("10.0.0.5", 7009), False),
        ([AUDIO, "a=rtcp-mux-only"], TRUST, A7000, None, True),
        (["m=audio 7000/3 RTP/AVP 0"], TRUST, A7000, A7001, False),
        ([AUDIO, "a=rtcp:7000"], TRUST, A7000, None, True),
        ([AUDIO, "a=rtcp:7009"], TRUST, A7000, ("10.0.0.5", 7009), False),
        ([AUDIO, "a=rtcp:7009 IN IP4 10.0.0.8"], TRUST, A7000, ("10.0.0.8", 7009), False),
        ([AUDIO, "a=rtcp:7009 IN IP4 0.0.0.0"], TRUST, A7000, ("10.0.0.5", 7009), False),
        ([AUDIO, "a=rtcp:7009 IN IP4 rtcp.example.net"], TRUST, A7000, ("10.0.0.5", 7009), False),
        ([AUDIO, "a=rtcp:7009 IN IP4 10.0.0.8"], SIP, ("203.0.113.9", 7000), ("203.0.113.9", 7009), False),
        ([AUDIO, "a=rtcp:7009 IN IP4 10.0.0.8"], Signalling(trust_address=False), A7000, ("10.0.0.8", 7009), False),
        ([AUDIO, "a=rtcp:0"], TRUST, A7000, A7001, False),
        ([AUDIO, "c=IN IP4 h.example", "a=rtcp:7009 IN IP4 10.0.0.8"], TRUST, None, ("10.0.0.8", 7009), False),
        (["m=audio 65535 RTP/AVP 0"], TRUST, ("10.0.0.5", 65535), None, False),
        (["m=audio 7000/3 RTP/AVP 0", "a=rtcp:65532"], TRUST, A7000, None, False),
        # hold and "not known yet"
        ([AUDIO, "c=IN IP4 0.0.0.0"], TRUST, ("0.0.0.0", 7000), ("0.0.0.0", 7001), False),
        ([AUDIO, "c=IN IP6 ::"], TRUST, ("::", 7000), ("::", 7001), False),
        ([AUDIO, "c=IN IP4 0.0.0.0"], SIP, ("0.0.0.0", 7000), ("0.0.0.0", 7001), False),
        (["m=audio 9 RTP/AVP 0", "c=IN IP4 0.0.0.0", "a=rtcp:9 IN IP4 0.0.0.0"], TRUST, None, None, True),
        (["m=audio 9 RTP/AVP 0", "c=IN IP6 ::"], SIP, None, None, False),
        (["m=audio 9 RTP/AVP 0"], TRUST, ("10.0.0.5", 9), ("10.0.0.5", 10), False),
        # no RTP, no RTCP
        (["m=image 4402 udptl t38", "a=rtcp:4403", "a=rtcp-mux"], TRUST, ("10.0.0.5", 4402), None, False),
    ],
)
def test_endpoints(
    section: list[str], how: Signalling, endpoint: tuple[str, int] | None, rtcp: tuple[str, int] | None, mux: bool
) -> None:
    said = offer(section, how)
    assert (said.endpoint, said.rtcp, said.rtcp_mux) == (endpoint, rtcp, mux)
    assert not said.rejected
    assert said.held == (endpoint is not None and endpoint[0] in ("0.0.0.0", "::"))


@pytest.mark.parametrize("how", [TRUST, Signalling(trust_address=False)])
def test_no_address_at_all(how: Signalling) -> None:
    with pytest.raises(ProtocolError) as caught:
        offer([AUDIO], how, session=["v=0"])
    assert str(caught.value) == "Incomplete SDP specification"


def test_address_of_the_sip_message_is_enough() -> None:
    assert offer([AUDIO], SIP, session=["v=0"]).endpoint == Endpoint("203.0.113.9", 7000)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("m=audio 7000 RTP/AVP 0", ("audio", "RTP/AVP", 1)),
        ("m=audio 7000/2 rtp/avp 0", ("audio", "RTP/AVP", 2)),
        ("m=video 7000 Rtp/AvpF 96", ("video", "RTP/AVPF", 1)),
        ("m=image 7000 udptl t38", ("image", "UDPTL", 1)),
        ("m=message 7000 TCP/MSRP *", ("message", "TCP/MSRP", 1)),
        ("m=application 7000 UDP/DTLS/SCTP webrtc-datachannel", ("application", "UDP/DTLS/SCTP", 1)),
    ],
)
def test_kind_protocol_and_pairs(line: str, expected: tuple[str, str, int]) -> None:
    said = offer([line])
    assert (said.kind, said.protocol, said.ports) == expected
    assert (said.profile is None) == (expected[1] not in PROFILES)


@pytest.mark.parametrize("media", [None, *DIRECTIONS])
@pytest.mark.parametrize("session", [None, *DIRECTIONS])
def test_most_specific_direction_wins(session: str | None, media: str | None) -> None:
    above = [] if session is None else [f"a={session}"]
    own = [] if media is None else [f"a={media}"]
    assert offer([AUDIO, *own], session=HEAD + above).direction == DIRECTIONS[media or session or "sendrecv"]


@pytest.mark.parametrize(
    "section",
    [
        ["m=audio 0 RTP/AVP 0"],
        ["m=audio 0 RTP/SAVP 0"],
        ["m=audio 0 RTP/AVP 0", "c=IN IP4 0.0.0.0"],
        ["m=audio 0 RTP/AVP 0", "a=bundle-only"],
        ["m=image 0 udptl t38"],
    ],
)
@pytest.mark.parametrize("session", [HEAD, ["v=0"]])
def test_rejected(section: list[str], session: list[str]) -> None:
    said = offer([*section, "a=sendonly"], session=session)
    assert said.rejected and not said.held
    assert (said.endpoint, said.rtcp, said.rtcp_mux) == (None, None, False)
    assert said.direction == DIRECTIONS["sendonly"]


@pytest.mark.parametrize(
    ("group", "first", "second", "rejected"),
    [
        ("BUNDLE a v", ["m=audio 7000 RTP/AVP 0", "a=mid:a"], ["a=mid:v", "a=bundle-only"], False),
        ("BUNDLE a v", ["m=audio 7000 RTP/AVP 0", "a=mid:a"], ["a=mid:v"], True),
        ("BUNDLE a v", ["m=audio 7000 RTP/AVP 0", "a=mid:a"], ["a=mid:w", "a=bundle-only"], True),
        ("BUNDLE a v", ["m=audio 7000 RTP/AVP 0", "a=mid:a"], ["a=bundle-only"], True),
        ("BUNDLE b v", ["m=audio 7000 RTP/AVP 0", "a=mid:a"], ["a=mid:v", "a=bundle-only"], True),
        ("BUNDLE a v", ["m=audio 0 RTP/AVP 0", "a=mid:a"], ["a=mid:v", "a=bundle-only"], True),
        ("LS a v", ["m=audio 7000 RTP/AVP 0", "a=mid:a"], ["a=mid:v", "a=bundle-only"], True),
    ],
)
def test_bundle_only_shares_the_transport(group: str, first: list[str], second: list[str], rejected: bool) -> None:
    sdp = parse(*HEAD, f"a=group:{group}", *first, "c=IN IP4 10.0.0.6", "a=rtcp-mux", "m=video 0 RTP/AVP 31", *second)
    video = offers(sdp, TRUST)[1]
    assert video.kind == "video"
    assert video.rejected is rejected
    assert video.endpoint == (None if rejected else Endpoint("10.0.0.6", 7000))
    assert video.rtcp_mux is not rejected


@pytest.mark.parametrize("name", ["RTP/AVP", "RTP/AVPF", "UDPTL", "NONSENSE"])
def test_other_wanted_protocols_are_no_matter_here(name: str) -> None:
    assert offer([AUDIO], Signalling(protocol=name)).protocol == "RTP/AVP"


def test_sections_of_all_sessions_in_order() -> None:
    said = offers(corpus("two-sessions"), TRUST)
    assert [(o.kind, o.endpoint, o.direction.attribute) for o in said] == [
        ("audio", ("192.0.2.1", 4000), "sendrecv"),
        ("video", ("192.0.2.1", 4002), "sendrecv"),
        ("audio", ("192.0.2.3", 5000), "sendrecv"),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("desk-phone", [("RTP/AVP", "192.168.17.42:11784", "192.168.17.42:11785", False)]),
        (
            "softphone-video",
            [
                ("RTP/AVPF", "10.20.30.40:7078", "10.20.30.40:7079", False),
                ("RTP/AVPF", "10.20.30.40:9078", "10.20.30.40:9079", False),
            ],
        ),
        ("gateway-bundle", [("RTP/AVPF", "203.0.113.77:40000", "None", True)] * 3),
        ("trickle", [("RTP/AVPF", "None", "None", True)]),
        ("hold", [("RTP/AVP", "0.0.0.0:16422", "0.0.0.0:16423", False)]),
        ("fax-t38", [("RTP/AVP", "None", "None", False), ("UDPTL", "172.16.9.9:4402", "None", False)]),
        (
            "message-msrp",
            [
                ("TCP/MSRP", "198.51.100.99:12763", "None", False),
                ("RTP/AVP", "198.51.100.99:20000", "198.51.100.99:20001", False),
            ],
        ),
        ("ipv6-phone", [("RTP/AVP", "[2001:db8::17]:12054", "[2001:db8::18]:53020", False)]),
        ("old-gateway", [("RTP/AVP", "198.51.100.8:3456", "198.51.100.8:3500", False)]),
    ],
)
def test_corpus_offers(name: str, expected: list[tuple[str, str, str, bool]]) -> None:
    said = offers(corpus(name), TRUST)
    assert [(o.protocol, str(o.endpoint), str(o.rtcp), o.rtcp_mux) for o in said] == expected


@pytest.mark.parametrize(
    ("lines", "formats"),
    [
        ([], []),
        (["a=rtpmap:0 PCMU/8000"], [(0, "PCMU", 8000)]),
        (["a=rtpmap:96 opus/48000/2", "a=rtpmap:101 telephone-event/8000"], None),
        (["a=rtpmap: 96  opus/48000/2 ", "a=x", "a=rtpmap:101 TELEPHONE-EVENT/8000"], None),
        # nothing that could be used
        *[
            ([f"a=rtpmap:{text}"], [])
            for text in ("", "96", "96 opus", "96 opus/", "96 opus/0", "96 opus/x", "-1 opus/48000", "1234 opus/48000")
        ],
        (["a=rtpmap:96 " + "x" * 65 + "/8000"], []),
        (["a=rtpmapping:96 opus/48000"], []),
    ],
)
def test_formats(lines: list[str], formats: list[tuple[int, str, int]] | None) -> None:
    expected = [(96, "OPUS", 48000), (101, "TELEPHONE-EVENT", 8000)] if formats is None else formats
    assert offer([AUDIO, *lines]).formats == tuple(expected)
    assert offer([AUDIO, *lines, "a=setup:active"]).formats == tuple(expected)
    assert offer(["m=image 4402 udptl t38", *lines]).formats == ()


def test_formats_are_bounded() -> None:
    lines = [f"a=rtpmap:{number % 128} x/{8000 + number}" for number in range(1000)]
    assert len(offer([AUDIO, *lines]).formats) == MAX_FORMATS
