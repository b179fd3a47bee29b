"""What the recipient of a body is told (sdp.md 6), apart from keys and ICE."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, Endpoint, MediaPlan, Signalling
from rtpengine.offers import offers
from rtpengine.rewrite import rewrite
from rtpengine.sdp import SessionDescription

CORPUS = sorted((Path(__file__).parents[1] / "data" / "sdp").glob("*.sdp"))
OURS = "198.51.100.2"
OURS6 = "2001:db8::2"
TRUST = Signalling()
SIP = Signalling(trust_address=False, received_from="203.0.113.9")
BOTH = Signalling(replace=frozenset({"origin", "session-connection"}))
AUDIO = "m=audio 7000 RTP/AVP 8 0"
HEAD = ["v=0", "o=u 1 1 IN IP4 10.0.0.5", "s=-", "c=IN IP4 10.0.0.5", "t=0 0"]


def parse(*lines: str) -> SessionDescription:
    return SessionDescription.parse("".join(f"{line}\r\n" for line in lines).encode())


def plan(port: int = 30000, **changes: object) -> MediaPlan:
    """A plan of the usual kind: both directions, RTCP on the next port."""
    usual: dict[str, object] = {"local": Endpoint(OURS, port), "rtcp_port": port + 1, "protocol": "RTP/AVP"}
    return MediaPlan(**(usual | changes))  # type: ignore[arg-type]


DISABLED = plan(local=None, rtcp_port=None)
HELD = plan(held=True)


def text(data: bytes) -> list[str]:
    """The lines of a body, each of which must end with CR LF."""
    lines = data.decode().split("\r\n")
    assert lines.pop() == ""
    assert not any("\n" in line or "\r" in line for line in lines)
    return lines


def edited(lines: list[str], plans: list[MediaPlan], how: Signalling = TRUST, fallback: str | None = None) -> list[str]:
    return text(rewrite(parse(*lines), how, plans, fallback))


def corpus(name: str) -> SessionDescription:
    return SessionDescription.parse((CORPUS[0].parent / f"{name}.sdp").read_bytes())


def test_the_worked_example() -> None:
    """sdp.md 6.3, to the byte."""
    lines = [*HEAD, "m=audio 7000 RTP/AVP 8 0", "a=rtcp:7009", "a=ptime:20"]
    assert rewrite(parse(*lines), BOTH, [plan()]) == (
        b"v=0\r\n"
        b"o=u 1 1 IN IP4 198.51.100.2\r\n"
        b"s=-\r\n"
        b"c=IN IP4 198.51.100.2\r\n"
        b"t=0 0\r\n"
        b"m=audio 30000 RTP/AVP 8 0\r\n"
        b"a=ptime:20\r\n"
        b"a=sendrecv\r\n"
        b"a=rtcp:30001\r\n"
    )


ORIGIN = Signalling(replace=frozenset({"origin"}))
CONNECTION = Signalling(replace=frozenset({"session-connection"}))
MEDIA_ADDRESS = Signalling(replace=BOTH.replace, media_address="192.0.2.200")
OWN_C = ["m=audio 7000 RTP/AVP 0", "c=IN IP4 10.0.0.6"]


@pytest.mark.parametrize(
    ("how", "section", "plans", "origin", "session_c", "section_c"),
    [
        (TRUST, [AUDIO], [plan()], "IP4 10.0.0.5", f"IP4 {OURS}", None),
        (TRUST, OWN_C, [plan()], "IP4 10.0.0.5", "IP4 10.0.0.5", f"IP4 {OURS}"),
        (TRUST, [*OWN_C, AUDIO], [plan(), plan()], "IP4 10.0.0.5", f"IP4 {OURS}", f"IP4 {OURS}"),
        (ORIGIN, OWN_C, [plan()], f"IP4 {OURS}", "IP4 10.0.0.5", f"IP4 {OURS}"),
        (CONNECTION, OWN_C, [plan()], "IP4 10.0.0.5", f"IP4 {OURS}", f"IP4 {OURS}"),
        (BOTH, [AUDIO], [plan(local=Endpoint(OURS6, 30000))], f"IP6 {OURS6}", f"IP6 {OURS6}", None),
        (MEDIA_ADDRESS, OWN_C, [plan()], "IP4 192.0.2.200", "IP4 192.0.2.200", "IP4 192.0.2.200"),
        (BOTH, [AUDIO, AUDIO], [DISABLED, plan()], f"IP4 {OURS}", f"IP4 {OURS}", None),
        (BOTH, OWN_C, [DISABLED], "IP4 0.0.0.0", "IP4 0.0.0.0", "IP4 0.0.0.0"),
        (MEDIA_ADDRESS, OWN_C, [DISABLED], "IP4 192.0.2.200", "IP4 192.0.2.200", "IP4 192.0.2.200"),
    ],
)
def test_addresses(
    how: Signalling, section: list[str], plans: list[MediaPlan], origin: str, session_c: str, section_c: str | None
) -> None:
    out = edited([*HEAD, *section], plans, how)
    assert out[1] == f"o=u 1 1 IN {origin}"
    connections = [f"c=IN {session_c}"] + ([] if section_c is None else [f"c=IN {section_c}"])
    assert [line for line in out if line.startswith("c=")] == connections


NULL = ["v=0", "o=u 1 1 IN IP4 0.0.0.0", "s=-", "c=IN IP4 0.0.0.0"]
NULL6 = ["v=0", "o=u 1 1 IN IP6 ::", "s=-", "c=IN IP6 ::"]


@pytest.mark.parametrize(
    ("head", "section", "plans", "expected"),
    [
        (NULL, [AUDIO], [HELD], ["IP4 0.0.0.0"]),
        (NULL6, [AUDIO], [HELD], ["IP6 ::"]),
        (NULL, [AUDIO], [DISABLED], ["IP4 0.0.0.0"]),
        (NULL, [AUDIO], [plan()], [f"IP4 {OURS}"]),  # "not known yet": the recipient has to learn ours
        (NULL, [AUDIO, AUDIO], [plan(), HELD], ["IP4 0.0.0.0", f"IP4 {OURS}"]),
        (NULL, OWN_C, [plan()], ["IP4 0.0.0.0", f"IP4 {OURS}"]),
        (HEAD, [AUDIO, "c=IN IP4 0.0.0.0"], [HELD], [f"IP4 {OURS}", "IP4 0.0.0.0"]),
        (HEAD, [AUDIO, "c=IN IP4 0.0.0.0"], [plan()], [f"IP4 {OURS}", f"IP4 {OURS}"]),
        (HEAD, [AUDIO, "c=IN IP4 0.0.0.0"], [DISABLED], ["IP4 0.0.0.0", "IP4 0.0.0.0"]),
        (HEAD, [AUDIO, "c=IN IP6 2001:db8::1"], [DISABLED], ["IP4 0.0.0.0", "IP6 ::"]),
        # no second one leads past us
        (HEAD, [AUDIO, "c=IN IP4 0.0.0.0", "c=IN IP4 10.0.0.7"], [HELD], [f"IP4 {OURS}", "IP4 0.0.0.0", "IP4 0.0.0.0"]),
        ([*NULL, "c=IN IP6 2001:db8::7"], [AUDIO], [HELD], ["IP4 0.0.0.0", "IP6 ::"]),
    ],
)
def test_null_addresses(head: list[str], section: list[str], plans: list[MediaPlan], expected: list[str]) -> None:
    out = edited([*head, *section], plans, BOTH)
    assert [line.removeprefix("c=IN ") for line in out if line.startswith("c=")] == expected
    if head is not HEAD:
        assert out[1] == head[1]


def test_fallback_address_for_a_body_that_is_all_rejected() -> None:
    out = edited([*HEAD, "m=audio 0 RTP/AVP 0"], [DISABLED], BOTH, OURS)
    assert (out[1], out[3]) == (f"o=u 1 1 IN IP4 {OURS}", f"c=IN IP4 {OURS}")
    assert out[5:] == ["m=audio 0 RTP/AVP 0", "a=inactive"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("o=u 1 1 IN IP4 10.0.0.5 and more", f"o=u 1 1 IN IP4 {OURS} and more"),
        ("o=u 1 1 in ip6 [::1]", f"o=u 1 1 in IP4 {OURS}"),
        ("c=in ip4 10.0.0.5 more words", f"c=in IP4 {OURS} more words"),
        ("c=IN IP4 10.0.0.5/127", f"c=IN IP4 {OURS}"),
        ("c=IN IP4 host.example.net", f"c=IN IP4 {OURS}"),
    ],
)
def test_only_the_address_words_change(line: str, expected: str) -> None:
    assert edited(["v=0", line, AUDIO], [plan()], BOTH)[1] == expected


def test_a_second_connection_is_no_way_around_us() -> None:
    out = edited([*HEAD, AUDIO, "c=IN IP4 10.0.0.6", "a=x", "c=IN IP4 10.0.0.7"], [plan()])
    assert out[5:] == [
        "m=audio 30000 RTP/AVP 8 0",
        f"c=IN IP4 {OURS}",
        "a=x",
        f"c=IN IP4 {OURS}",
        "a=sendrecv",
        "a=rtcp:30001",
    ]


@pytest.mark.parametrize("how", [TRUST, BOTH, MEDIA_ADDRESS])
def test_what_the_session_level_cannot_say_for_all_the_section_says(how: Signalling) -> None:
    """A party can be told of ports in both families, and one c= line has one of them (RFC 8866 5.7)."""
    lines = [*HEAD, AUDIO, "m=video 7002 RTP/AVP 96", "i=a camera", "b=AS:500"]
    out = edited(lines, [plan(), plan(30002, local=Endpoint(OURS6, 30002))], how)
    at = out.index("m=video 30002 RTP/AVP 96")
    if how is MEDIA_ADDRESS:
        assert out[at + 1 : at + 3] == ["i=a camera", "b=AS:500"]
    else:
        assert out[at + 1 : at + 4] == ["i=a camera", f"c=IN IP6 {OURS6}", "b=AS:500"]
        assert f"c=IN IP4 {OURS}" in out
    assert sum(line.startswith("c=") for line in out) == (1 if how is MEDIA_ADDRESS else 2)


def test_a_body_without_connection_gets_none() -> None:
    assert edited(["v=0", AUDIO], [plan()], BOTH) == ["v=0", "m=audio 30000 RTP/AVP 8 0", "a=sendrecv", "a=rtcp:30001"]


@pytest.mark.parametrize(
    ("line", "how", "expected"),
    [
        ("m=audio 7000 RTP/AVP 8 0", plan(), "m=audio 30000 RTP/AVP 8 0"),
        ("m=audio 7000 RTP/AVP", plan(), "m=audio 30000 RTP/AVP"),
        ("m=audio 7000 rtp/avp  8 ", plan(), "m=audio 30000 RTP/AVP  8 "),
        ("m=audio 7000 RTP/AVP 8", plan(protocol="RTP/AVPF"), "m=audio 30000 RTP/AVPF 8"),
        ("m=audio 7000 RTP/AVPF", plan(), "m=audio 30000 RTP/AVP"),
        ("m=audio 7000/2 RTP/AVP 8", plan(pairs=2), "m=audio 30000/2 RTP/AVP 8"),
        ("m=audio 7000/2 RTP/AVP 8", plan(pairs=1), "m=audio 30000 RTP/AVP 8"),
        ("m=audio 7000/2 RTP/AVP 8", plan(local=None, rtcp_port=None, pairs=2), "m=audio 0 RTP/AVP 8"),
        ("m=audio 0 RTP/AVP 8", DISABLED, "m=audio 0 RTP/AVP 8"),
        ("m=audio 0 RTP/SAVP 8", DISABLED, "m=audio 0 RTP/AVP 8"),
        ("m=image 4402 udptl t38", plan(protocol="UDPTL"), "m=image 30000 udptl t38"),
        ("m=image 4402 udptl t38", plan(protocol="RTP/AVP"), "m=image 30000 udptl t38"),
        ("m=audio 7000 RTP/AVP 8", plan(protocol="UDPTL"), "m=audio 30000 RTP/AVP 8"),
        ("m=message 2855 TCP/MSRP", plan(protocol="TCP/MSRP"), "m=message 30000 TCP/MSRP"),
    ],
)
def test_media_lines(line: str, how: MediaPlan, expected: str) -> None:
    assert edited([*HEAD, line], [how])[5] == expected


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (plan(), ["a=sendrecv", "a=rtcp:30001"]),
        (plan(direction=DIRECTIONS["sendonly"]), ["a=sendonly", "a=rtcp:30001"]),
        (plan(direction=DIRECTIONS["recvonly"]), ["a=recvonly", "a=rtcp:30001"]),
        (plan(direction=DIRECTIONS["inactive"]), ["a=inactive", "a=rtcp:30001"]),
        (plan(rtcp_mux=True), ["a=sendrecv", "a=rtcp:30001", "a=rtcp-mux"]),
        (plan(rtcp_mux=True, rtcp_port=30000), ["a=sendrecv", "a=rtcp:30000", "a=rtcp-mux"]),
        (plan(rtcp_mux=True, rtcp_port=None), ["a=sendrecv", "a=rtcp-mux"]),
        (plan(rtcp_port=None), ["a=sendrecv"]),
        (DISABLED, ["a=inactive"]),
        (plan(local=None, rtcp_mux=True), ["a=inactive"]),
    ],
)
def test_appended_lines(how: MediaPlan, expected: list[str]) -> None:
    assert edited([*HEAD, AUDIO, "a=sendonly", "a=x"], [how])[6:] == ["a=x", *expected]


ICE = [
    "a=ice-ufrag:abcd",
    "a=ice-pwd:0123456789012345678901",
    "a=ice-options:trickle",
    "a=ice-lite",
    "a=ice-mismatch",
    "a=ice-pacing:50",
    "a=remote-candidates:1 10.0.0.9 7000",
    "a=candidate:1 1 UDP 2130706303 10.0.0.9 7000 typ host",
    "a=candidate:broken",
    "a=end-of-candidates",
]
STRIPPED = [
    *ICE,
    "a=sendrecv",
    "a=sendonly:odd",
    "a=recvonly ",
    "a=inactive",
    "a=fingerprint:md5 00",
    "a=setup:actpass",
    "a=tls-id:91bbf309c0990a6bec11e38ba2933cee",
    "a=crypto:1 AES_256_CM_HMAC_SHA1_80 inline:x",
    "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "a=extmap-allow-mixed",
    "a=rtcp-mux",
    "a=rtcp-mux-only",
]
KEPT = [
    "b=AS:64",
    "b=RR:800",
    "i=title",
    "k=clear:1",
    "a=msid-semantic: WMS *",
    "a=group:LS a v",
    "a=group:FID a v",
    "a=ssrc:1 cname:x",
    "a=msid:s t",
    "a=rtcp-fb:* nack",
    "a=rtcp-rsize",
    "a=rtcp-xr:voip-metrics",
    "a=rtpmap:8 PCMA/8000",
    "a=rid:h send",
    "a=simulcast:send h",
    "a=X-vendor",
    "a=Sendrecv",
    "a=",
]


@pytest.mark.parametrize("line", STRIPPED)
@pytest.mark.parametrize("how", [TRUST, Signalling(ice="remove"), Signalling(ice="force")])
def test_stripped_at_both_levels(line: str, how: Signalling) -> None:
    out = edited([*HEAD, line, "a=x", AUDIO, line, "a=y"], [plan(direction=DIRECTIONS["sendonly"])], how)
    assert out[5:] == ["a=x", "m=audio 30000 RTP/AVP 8 0", "a=y", "a=sendonly", "a=rtcp:30001"]


@pytest.mark.parametrize("line", ["a=rtcp:7009", "a=rtcp:0", "a=rtcp:7009 IN IP4 10.0.0.5", "a=rtcp"])
def test_rtcp_is_stripped_from_sections(line: str) -> None:
    out = edited([*HEAD, AUDIO, line], [plan(rtcp_port=None)])
    assert out[5:] == ["m=audio 30000 RTP/AVP 8 0", "a=sendrecv"]


def test_everything_else_stays_in_order() -> None:
    out = edited([*HEAD, *KEPT, AUDIO, *KEPT], [plan()])
    assert out[5:] == [*KEPT, "m=audio 30000 RTP/AVP 8 0", *KEPT, "a=sendrecv", "a=rtcp:30001"]


@pytest.mark.parametrize(
    ("groups", "left", "mid"),
    [
        (["a=group:BUNDLE a"], [], []),
        (["a=group:BUNDLE a", "a=group:LS a"], ["a=group:LS a"], []),
        (["a=group:LS a", "a=group:BUNDLE a"], ["a=group:LS a"], ["a=mid:a", "a=bundle-only"]),
        ([], [], ["a=mid:a", "a=bundle-only"]),
    ],
)
def test_bundles_are_taken_apart(groups: list[str], left: list[str], mid: list[str]) -> None:
    out = edited([*HEAD, *groups, AUDIO, "a=mid:a", "a=bundle-only"], [plan()])
    assert out[5:] == [*left, "m=audio 30000 RTP/AVP 8 0", *mid, "a=sendrecv", "a=rtcp:30001"]


def test_bundle_only_section_gets_its_own_port() -> None:
    plans = [plan(30000), plan(30004), plan(30008, direction=DIRECTIONS["recvonly"])]
    out = text(rewrite(corpus("gateway-bundle"), TRUST, plans))
    assert out[-7:] == [
        "m=video 30008 RTP/AVP 96",
        f"c=IN IP4 {OURS}",
        "a=rid:h send",
        "a=simulcast:send h",
        "a=rtpmap:96 VP8/90000",
        "a=recvonly",
        "a=rtcp:30009",
    ]
    assert not any(line.startswith(("a=group", "a=mid", "a=candidate", "a=ice")) for line in out)


OPAQUE = [
    "m=image 4402 udptl t38",
    "a=sendonly",
    "a=rtcp:1",
    "a=rtcp-mux",
    "a=setup:active",
    "a=mid:f",
    "a=T38Fax:0",
]


@pytest.mark.parametrize(
    ("session", "section", "how", "expected"),
    [
        ([], OPAQUE, plan(rtcp_mux=True), ["m=image 30000 udptl t38", *OPAQUE[1:]]),
        ([], OPAQUE, DISABLED, ["m=image 0 udptl t38", *OPAQUE[1:]]),
        (["a=group:BUNDLE f"], OPAQUE, plan(), ["m=image 30000 udptl t38", *OPAQUE[1:5], "a=T38Fax:0"]),
        ([], ["m=image 4402 udptl t38", *ICE], plan(), ["m=image 30000 udptl t38"]),
        (["a=recvonly"], ["m=image 1 udptl t38", "a=x"], plan(), ["m=image 30000 udptl t38", "a=x", "a=recvonly"]),
        (["a=recvonly"], OPAQUE, plan(), ["m=image 30000 udptl t38", *OPAQUE[1:]]),
    ],
)
def test_opaque_sections(session: list[str], section: list[str], how: MediaPlan, expected: list[str]) -> None:
    assert edited([*HEAD, *session, *section], [how])[5:] == expected


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        ("m=image 4402 UDP/TLS/UDPTL t38", True),
        ("m=application 4402 UDP/DTLS/SCTP webrtc-datachannel", True),
        ("m=image 4402 udptl t38", False),
        ("m=audio 0 UDP/TLS/RTP/SAVPF 0", False),
    ],
)
def test_opaque_tls_keeps_what_it_inherits(line: str, stays: bool) -> None:
    tls = ["a=setup:actpass", "a=fingerprint:sha-256 00", "a=fingerprint:sha-1 11", "a=tls-id:x"]
    out = edited([*HEAD, *tls, AUDIO, line, "a=y"], [plan(), plan(local=None)])
    assert out[5:9] == ["m=audio 30000 RTP/AVP 8 0", "a=sendrecv", "a=rtcp:30001", out[8]]
    assert out[9] == "a=y" and out[10:] == (tls if stays else [] if "udptl" in line else ["a=inactive"])


def test_opaque_tls_has_its_own_instead() -> None:
    own = ["m=image 4402 UDP/TLS/UDPTL t38", "a=setup:active", "a=fingerprint:sha-1 22"]
    out = edited([*HEAD, "a=setup:actpass", "a=fingerprint:sha-1 11", "a=tls-id:x", *own], [plan()])
    assert out[5:] == ["m=image 30000 UDP/TLS/UDPTL t38", *own[1:], "a=tls-id:x"]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("tail", ["", "\r\n", "\n\n"])
def test_line_endings(end: str, tail: str) -> None:
    """The sender's endings stay, ours are CR LF, and lines are added before the empty ones that end the body."""
    sdp = SessionDescription.parse((end.join([*HEAD, AUDIO, "a=x", ""]) + tail).encode())
    expected = [*HEAD[:3], f"c=IN IP4 {OURS}", "t=0 0", "m=audio 30000 RTP/AVP 8 0", "a=x", ""]
    assert rewrite(sdp, TRUST, [plan()]).decode() == end.join(expected) + "a=sendrecv\r\na=rtcp:30001\r\n" + tail


@pytest.mark.parametrize("last", ["a=x", "a=x\r"])
def test_missing_terminator_is_added(last: str) -> None:
    sdp = SessionDescription.parse("\r\n".join([*HEAD, AUDIO, last]).encode())
    assert text(rewrite(sdp, TRUST, [plan()]))[6:] == ["a=x", "a=sendrecv", "a=rtcp:30001"]


@pytest.mark.parametrize("lines", [["m=audio 7000 RTP/AVP"], ["m=audio 7000 RTP/AVP", "a=recvonly"]])
def test_missing_terminator_of_a_line_that_changes(lines: list[str]) -> None:
    body = "\r\n".join(["v=0", "c=IN IP4 10.0.0.5", *lines]).encode()
    out = text(rewrite(SessionDescription.parse(body), TRUST, [plan()]))
    assert out[2:] == ["m=audio 30000 RTP/AVP", "a=sendrecv", "a=rtcp:30001"]


def test_connection_behind_attributes() -> None:
    out = edited(["v=0", "a=setup:active", "c=IN IP4 10.0.0.5", AUDIO, "a=rtcp:1", "c=IN IP4 10.0.0.5"], [plan()], BOTH)
    connection = f"c=IN IP4 {OURS}"
    assert out == ["v=0", connection, "m=audio 30000 RTP/AVP 8 0", connection, "a=sendrecv", "a=rtcp:30001"]


def test_several_sessions() -> None:
    plans = [plan(30000), DISABLED, plan(30004, local=Endpoint(OURS6, 30004), direction=DIRECTIONS["inactive"])]
    assert rewrite(corpus("two-sessions"), BOTH, plans).decode() == (
        f"v=0\no=a 1 1 IN IP4 {OURS}\ns=first\nc=IN IP4 {OURS}\nt=0 0\n"
        "m=audio 30000 RTP/AVP 0\na=sendrecv\r\na=rtcp:30001\r\n"
        "m=video 0 RTP/AVP 31\na=inactive\r\n"
        f"v=0\no=b 2 1 IN IP6 {OURS6}\ns=second\nt=0 0\n"
        f"m=audio 30004 RTP/AVP 8\nc=IN IP6 {OURS6}\na=inactive\r\na=rtcp:30005\r\n"
    )


@pytest.mark.parametrize("count", [0, 2])
def test_as_many_plans_as_sections(count: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        rewrite(parse(*HEAD, AUDIO), TRUST, [plan()] * count)
    assert str(caught.value) == "Error rewriting SDP"


@pytest.mark.parametrize(
    "data", [b"", b"v", b"\r\n", b"v=0\r\no=u 1 1 IN IP4 10.0.0.5\r\nc=IN IP4 10.0.0.5\r\na=x\r\n"]
)
def test_nothing_to_rewrite(data: bytes) -> None:
    sdp = SessionDescription.parse(data)
    assert (offers(sdp, TRUST), rewrite(sdp, BOTH, [])) == ([], data)


# Properties


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_parsed_body_is_not_touched(path: Path) -> None:
    data = path.read_bytes()
    sdp = SessionDescription.parse(data)
    rewrite(sdp, BOTH, [plan()] * len(sdp.media))
    assert sdp.serialize() == data


def named(line: str, names: list[str]) -> bool:
    """Whether it is an attribute of one of these names, which a colon or a blank ends."""
    return re.split(r"[:\s]", line)[0] in {re.split(r"[:\s]", name)[0] for name in names}


def untouched(data: bytes) -> list[str]:
    """The lines that the specification says nothing about, with their own endings but for the last one."""
    mentioned = [*STRIPPED, "a=rtcp", "a=mid", "a=bundle-only", "a=group"]
    lines = data.rstrip(b"\r\n").decode("utf-8", "surrogateescape").split("\n")
    return [line.rstrip("\r") for line in lines if line[:2] not in ("m=", "c=", "o=") and not named(line, mentioned)]


_LINE = st.one_of(
    st.sampled_from([*STRIPPED, *KEPT, "a=rtcp:9", "c=IN IP4 10.0.0.8", "c=IN IP4 0.0.0.0", "m=image 4 udptl t38"]),
    st.sampled_from([AUDIO, "m=audio 0 RTP/AVP 0", "a=group:BUNDLE a", "a=mid:a", "v=0"]),
    st.builds("a={}".format, st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=9)),
)
_PLAN = st.one_of(st.just(DISABLED), st.builds(plan, st.integers(1024, 65000), rtcp_mux=st.booleans()))


@given(st.lists(_LINE, max_size=25), st.sampled_from(["\r\n", "\n"]), st.data())
def test_lines_not_mentioned_survive(lines: list[str], end: str, data: st.DataObject) -> None:
    body = "".join(line + end for line in [*HEAD, *lines]).encode()
    sdp = SessionDescription.parse(body)
    plans = data.draw(st.lists(_PLAN, min_size=len(sdp.media), max_size=len(sdp.media)))
    once = rewrite(sdp, BOTH, plans)
    assert untouched(once) == untouched(body)
    again = SessionDescription.parse(once)
    ports = [0 if p.local is None else p.local.port for p in plans]
    assert [section.media.port for section in again.media] == ports
    assert rewrite(again, BOTH, plans) == once


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_mutated_bodies_never_crash(path: Path) -> None:
    data, source = bytearray(path.read_bytes()), random.Random(path.stem)
    refused = 0
    for _ in range(500):
        body = data.copy()
        for _ in range(source.randint(1, 3)):
            body[source.randrange(len(body))] = source.choice(b"\r\n =:/0159amcIN\xff")
        try:
            sdp = SessionDescription.parse(bytes(body))
            offers(sdp, source.choice([TRUST, SIP]))
        except ProtocolError:
            refused += 1
            continue
        SessionDescription.parse(rewrite(sdp, BOTH, [source.choice([plan(), HELD, DISABLED]) for _ in sdp.media]))
    assert 0 < refused <= 500
