"""Keys, certificates, ICE and mid as the recipient is told them (sdp.md 6.2, ice.md 1 and 2)."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ProtocolError
from rtpengine.media import (
    DIRECTIONS,
    PROFILES,
    Candidate,
    CryptoLine,
    Endpoint,
    Fingerprint,
    IceCredentials,
    IcePlan,
    MediaPlan,
    SdesPolicy,
    Signalling,
    SrtpKeys,
)
from rtpengine.offers import offers
from rtpengine.rewrite import rewrite
from rtpengine.sdp import MAX_SIZE, SessionDescription

DATA = Path(__file__).parents[1] / "data" / "sdp"
CORPUS = sorted(DATA.glob("*.sdp"))
OURS = "198.51.100.2"
TRUST = Signalling()
BOTH = Signalling(replace=frozenset({"origin", "session-connection"}))
HEAD = ["v=0", "o=u 1 1 IN IP4 10.0.0.5", "s=-", "c=IN IP4 10.0.0.5", "t=0 0"]
AUDIO = "m=audio 7000 UDP/TLS/RTP/SAVPF 8 0"
OUR_AUDIO = "m=audio 30000 UDP/TLS/RTP/SAVPF 8 0"

KEYS = SrtpKeys("AES_CM_128_HMAC_SHA1_80", bytes(16), bytes(14))
MKI = SrtpKeys("AEAD_AES_128_GCM", bytes(16), bytes(12), mki=b"\0\7", unencrypted_srtcp=True)
FINGERPRINT = Fingerprint("sha-1", bytes(range(0xA0, 0xB4)))
FINGERPRINT_LINE = "a=fingerprint:sha-1 " + ":".join(f"{byte:02X}" for byte in range(0xA0, 0xB4))
AGENT = IceCredentials("Ab0+", "0123456789012345678901")
AGENT_LINES = ["a=ice-ufrag:Ab0+", "a=ice-pwd:0123456789012345678901"]
CANDIDATES = (
    Candidate("f", 1, 2130706431, Endpoint(OURS, 30000)),
    Candidate("f", 2, 2130706430, Endpoint(OURS, 30001)),
    Candidate("g", 1, 2130706175, Endpoint("2001:db8::2", 30000), "relay", Endpoint("2001:db8::3", 9)),
)
CANDIDATE_LINES = [
    f"a=candidate:f 1 UDP 2130706431 {OURS} 30000 typ host",
    f"a=candidate:f 2 UDP 2130706430 {OURS} 30001 typ host",
    "a=candidate:g 1 UDP 2130706175 2001:db8::2 30000 typ relay raddr 2001:db8::3 rport 9",
]
LITE = IcePlan(credentials=AGENT, candidates=CANDIDATES)


def plan(port: int = 30000, **changes: Any) -> MediaPlan:
    usual: dict[str, Any] = {"local": Endpoint(OURS, port), "rtcp_port": port + 1, "protocol": "UDP/TLS/RTP/SAVPF"}
    return MediaPlan(**(usual | changes))


def edited(lines: list[str], plans: list[MediaPlan], how: Signalling = TRUST) -> list[str]:
    body = "".join(f"{line}\r\n" for line in lines).encode()
    out = rewrite(SessionDescription.parse(body), how, plans).decode().split("\r\n")
    assert out.pop() == ""
    assert not any("\n" in line or "\r" in line for line in out)
    return out


def appended(how: MediaPlan, asked: Signalling = TRUST) -> list[str]:
    """The lines that a plan puts behind a section that has none of them."""
    out = edited([*HEAD, AUDIO, "a=x"], [how], asked)
    assert out[5:7] in ([OUR_AUDIO, "a=x"], ["a=ice-lite", OUR_AUDIO])
    return out[out.index("a=x") + 1 :]


CRYPTO_LINE = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 40
MKI_LINE = "a=crypto:7 AEAD_AES_128_GCM inline:" + "A" * 38 + "==|7:2 UNENCRYPTED_SRTCP"


def test_everything_in_order() -> None:
    everything = plan(
        rtcp_mux=True,
        crypto=(CryptoLine(1, KEYS), CryptoLine(7, MKI)),
        setup="actpass",
        fingerprint=FINGERPRINT,
        tls_id="abc3de65cddef001be82",
        ice=LITE,
        mid="audio",
    )
    assert appended(everything) == [
        "a=sendrecv",
        "a=rtcp:30001",
        "a=rtcp-mux",
        CRYPTO_LINE,
        MKI_LINE,
        "a=setup:actpass",
        FINGERPRINT_LINE,
        "a=tls-id:abc3de65cddef001be82",
        *AGENT_LINES,
        *CANDIDATE_LINES,
        "a=mid:audio",
    ]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"crypto": (CryptoLine(1, KEYS),)}, [CRYPTO_LINE]),
        ({"setup": "holdconn"}, ["a=setup:holdconn"]),
        ({"fingerprint": FINGERPRINT}, [FINGERPRINT_LINE]),
        ({"tls_id": "x"}, ["a=tls-id:x"]),
        ({"ice": IcePlan(credentials=AGENT)}, AGENT_LINES),
        ({"ice": IcePlan(candidates=CANDIDATES[:1])}, CANDIDATE_LINES[:1]),
        ({"ice": IcePlan(keep=True, candidates=CANDIDATES[:1])}, CANDIDATE_LINES[:1]),
        ({"mid": "0"}, ["a=mid:0"]),
    ],
)
def test_each_line_alone(changes: dict[str, Any], lines: list[str]) -> None:
    assert appended(plan(**changes)) == ["a=sendrecv", "a=rtcp:30001", *lines]


def test_a_lifetime_where_it_is_asked_for() -> None:
    asked = Signalling(sdes=SdesPolicy(lifetime=True))
    assert appended(plan(crypto=(CryptoLine(1, KEYS),)), asked)[-1] == f"{CRYPTO_LINE}|2^31"


@pytest.mark.parametrize("protocol", PROFILES)
@pytest.mark.parametrize("spoken", [*PROFILES, "udp/tls/rtp/savpf"])
def test_every_profile_to_every_profile(spoken: str, protocol: str) -> None:
    out = edited([*HEAD, f"m=audio 7000 {spoken} 8", "a=setup:active", "a=crypto:x"], [plan(protocol=protocol)])
    assert out[5:] == [f"m=audio 30000 {protocol} 8", "a=sendrecv", "a=rtcp:30001"]


def test_a_disabled_section_gets_nothing_but_its_name() -> None:
    disabled = plan(local=None, crypto=(CryptoLine(1, KEYS),), setup="active", fingerprint=FINGERPRINT, mid="v")
    out = edited([*HEAD, AUDIO, "a=setup:actpass", "a=ice-ufrag:x", "a=mid:q"], [disabled])
    assert out[5:] == ["m=audio 0 UDP/TLS/RTP/SAVPF 8 0", "a=inactive", "a=mid:v"]


# ICE

SENDERS = ["a=ice-ufrag:abcd", "a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaa", "a=ice-options:trickle"]
HOST = "a=candidate:1 1 udp 2122260223 0b1c2d3e.local 7000 typ host generation 0"
RELAY = "a=candidate:2 1 UDP 41885695 203.0.113.200 61042 typ relay raddr 10.0.0.5 rport 7000"
ENDED = "a=end-of-candidates"
WITH_ICE = [*HEAD, *SENDERS, "a=ice-lite", "a=x", AUDIO, HOST, RELAY, "a=y", ENDED, "a=rtcp:7009"]
LAST = ["a=sendrecv", "a=rtcp:30001"]
KEPT = [*HEAD[:3], f"c=IN IP4 {OURS}", HEAD[4], *SENDERS, "a=ice-lite", "a=x"]
GONE = [*HEAD[:3], f"c=IN IP4 {OURS}", HEAD[4], "a=x"]


@pytest.mark.parametrize(
    ("ice", "session", "section"),
    [
        (IcePlan(), GONE, [OUR_AUDIO, "a=y", *LAST]),
        (LITE, [*GONE, "a=ice-lite"], [OUR_AUDIO, "a=y", *LAST, *AGENT_LINES, *CANDIDATE_LINES]),
        (IcePlan(keep=True), KEPT, [OUR_AUDIO, HOST, RELAY, "a=y", ENDED, *LAST]),
        (
            IcePlan(keep=True, candidates=CANDIDATES[:2]),
            KEPT,
            [OUR_AUDIO, HOST, RELAY, "a=y", ENDED, *LAST, *CANDIDATE_LINES[:2]],
        ),
        (
            IcePlan(keep=True, keep_relays=False, candidates=CANDIDATES[:2]),
            [*HEAD, *SENDERS, "a=ice-lite", "a=x"],
            [AUDIO, HOST, "a=y", ENDED, "a=rtcp:7009", "a=sendrecv", *CANDIDATE_LINES[:2]],
        ),
    ],
    ids=["remove", "lite", "keep", "candidates", "force-relay"],
)
def test_modes(ice: IcePlan, session: list[str], section: list[str]) -> None:
    assert edited(WITH_ICE, [plan(ice=ice)]) == session + section


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        (RELAY.replace("relay raddr", "Relay raddr"), False),
        (RELAY.partition(" raddr")[0], False),
        (RELAY.replace("relay", "relayed"), True),
        (RELAY.replace("typ relay", "typ srflx") + " x typrelay", True),
        (RELAY.replace("relay", "srflx"), True),
    ],
)
def test_which_candidates_are_relays(line: str, stays: bool) -> None:
    forced = plan(ice=IcePlan(keep=True, keep_relays=False))
    assert (line in edited([*HEAD, AUDIO, line], [forced])) is stays


def test_one_section_that_keeps_ice_keeps_that_of_the_session() -> None:
    out = edited([*HEAD, *SENDERS, AUDIO, HOST, AUDIO, HOST], [plan(), plan(ice=IcePlan(keep=True))])
    assert out[5:8] == SENDERS
    assert out[8:] == [OUR_AUDIO, *LAST, OUR_AUDIO, HOST, *LAST]


FORCED = IcePlan(keep=True, keep_relays=False)
OWN = "c=IN IP4 10.0.0.6"


@pytest.mark.parametrize(
    ("lines", "plans", "expected"),
    [
        # nothing of the sender's endpoint changes, whatever `replace` asks
        ([AUDIO], [plan(ice=FORCED)], [HEAD[3], AUDIO]),
        ([AUDIO, OWN], [plan(ice=FORCED)], [f"c=IN IP4 {OURS}", AUDIO, OWN]),
        (["m=audio 7000/2 RTP/AVP 0"], [plan(ice=FORCED, pairs=2)], [HEAD[3], "m=audio 7000/2 UDP/TLS/RTP/SAVPF 0"]),
        # where one depends on the session's line, another that is ours gets one of its own
        ([AUDIO, AUDIO], [plan(ice=FORCED), plan()], [HEAD[3], AUDIO, OUR_AUDIO, f"c=IN IP4 {OURS}"]),
        # a rejected section has no endpoint, nor has a bundle-only one: it becomes a section of ours
        ([AUDIO], [plan(ice=FORCED, local=None)], ["c=IN IP4 0.0.0.0", AUDIO.replace("7000", "0")]),
        (["m=audio 0 RTP/AVP 0"], [plan(ice=FORCED)], [f"c=IN IP4 {OURS}", "m=audio 30000 UDP/TLS/RTP/SAVPF 0"]),
    ],
)
def test_force_relay_leaves_the_endpoint(lines: list[str], plans: list[MediaPlan], expected: list[str]) -> None:
    out = edited([*HEAD, *lines], plans, BOTH)
    assert [line for line in out if line[:2] in ("c=", "m=")] == expected


def test_our_agent_is_announced_once_a_session() -> None:
    lines = [*HEAD, AUDIO, AUDIO, *HEAD, AUDIO, *HEAD]
    out = edited(lines, [plan(), plan(ice=IcePlan(credentials=AGENT)), plan()])
    assert [i for i, line in enumerate(out) if line == "a=ice-lite"] == [5]


@pytest.mark.parametrize(
    ("ice", "session", "section"),
    [
        (IcePlan(), [], []),
        (IcePlan(credentials=AGENT, candidates=CANDIDATES[:1]), ["a=ice-lite"], [*AGENT_LINES, CANDIDATE_LINES[0]]),
        (IcePlan(keep=True, candidates=CANDIDATES[:1]), [], [HOST, ENDED, CANDIDATE_LINES[0]]),
    ],
)
def test_ice_of_sections_that_are_not_rtp(ice: IcePlan, session: list[str], section: list[str]) -> None:
    line = "m=application {} UDP/DTLS/SCTP webrtc-datachannel"
    kept = ["a=setup:actpass", "a=sctp-port:5000"]
    secured = plan(ice=ice, crypto=(CryptoLine(1, KEYS),), setup="active", fingerprint=FINGERPRINT, tls_id="x")
    out = edited([*HEAD, line.format(7000), *kept, HOST, ENDED], [secured])
    senders = [text for text in section if text in (HOST, ENDED)]
    ours = [text for text in section if text not in senders]
    assert out[5:] == [*session, line.format(30000), *kept, *senders, *ours]


# mid


@pytest.mark.parametrize(
    ("session", "section", "mid", "expected"),
    [
        ([], [], None, []),
        ([], ["a=mid:a"], None, ["a=mid:a"]),
        ([], ["a=mid:a"], "b", ["a=mid:b"]),
        ([], ["a=mid:a"], "a", ["a=mid:a"]),
        ([], [], "a", ["a=mid:a"]),
        (["a=group:BUNDLE a"], ["a=mid:a", "a=bundle-only"], None, []),
        (["a=group:BUNDLE a"], ["a=mid:a", "a=bundle-only"], "a", ["a=mid:a"]),
        (["a=group:LS a"], ["a=mid:a", "a=bundle-only"], "a", ["a=bundle-only", "a=mid:a"]),
    ],
)
@pytest.mark.parametrize("line", [AUDIO, "m=image 7000 udptl t38"])
def test_mid(session: list[str], section: list[str], mid: str | None, expected: list[str], line: str) -> None:
    out = edited([*HEAD, *session, line, *section], [plan(mid=mid)])
    assert [text for text in out if text.startswith(("a=mid", "a=bundle"))] == expected
    assert mid is None or out[-1] == f"a=mid:{mid}"


# What passes: the sender's streams are described as before.

PASSING = [
    "a=msid:7f2f 9be4",
    "a=ssrc:3735928559 cname:o/i14u9",
    "a=ssrc-group:FID 1001 1002",
    "a=rtcp-fb:96 nack pli",
    "a=rid:h send",
    "a=simulcast:send h",
    "a=rtcp-rsize",
    "a=msid-semantic: WMS *",
    "a=candidates:none",
    "a=setups",
]


@pytest.mark.parametrize("ice", [IcePlan(), LITE, IcePlan(keep=True), FORCED])
def test_the_streams_stay_described(ice: IcePlan) -> None:
    out = edited([*HEAD, *PASSING, AUDIO, *PASSING], [plan(ice=ice)])
    assert [line for line in out if line in PASSING] == PASSING * 2


# The worked example of sdp.md 6.4, from body to body


def test_a_browser_and_a_plain_phone() -> None:
    """A browser's offer is plain for the phone, the phone's answer is what the browser insists on."""
    browser = SessionDescription.parse((DATA / "browser-bundle.sdp").read_bytes())
    towards_phone = rewrite(browser, BOTH, [plan(30000 + 4 * i, protocol="RTP/AVP") for i in range(3)], OURS).decode()
    for secret in ("SAVP", "ice-", "candidate", "fingerprint", "setup", "BUNDLE", "mid:", "extmap", "rtcp-mux"):
        assert secret not in towards_phone
    phone = SessionDescription.parse(
        b"v=0\r\no=p 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\nm=audio 9000 RTP/AVP 0\r\n"
        b"m=video 0 RTP/AVP 96\r\nm=video 0 RTP/AVP 96\r\n"
    )
    told = plan(
        30002,
        rtcp_port=30002,
        rtcp_mux=True,
        setup="active",
        fingerprint=FINGERPRINT,
        ice=IcePlan(credentials=AGENT, candidates=CANDIDATES[:1]),
        mid="0",
    )
    plans = [told, plan(local=None, mid="1"), plan(local=None, mid="2")]
    assert rewrite(phone, BOTH, plans, OURS).decode().split("\r\n") == [
        "v=0",
        f"o=p 1 1 IN IP4 {OURS}",
        "s=-",
        f"c=IN IP4 {OURS}",
        "t=0 0",
        "a=ice-lite",
        "m=audio 30002 UDP/TLS/RTP/SAVPF 0",
        "a=sendrecv",
        "a=rtcp:30002",
        "a=rtcp-mux",
        "a=setup:active",
        FINGERPRINT_LINE,
        *AGENT_LINES,
        CANDIDATE_LINES[0],
        "a=mid:0",
        "m=video 0 UDP/TLS/RTP/SAVPF 96",
        "a=inactive",
        "a=mid:1",
        "m=video 0 UDP/TLS/RTP/SAVPF 96",
        "a=inactive",
        "a=mid:2",
        "",
    ]


# Properties

_PLANS = st.builds(
    plan,
    st.integers(1024, 65000),
    local=st.sampled_from([None, Endpoint(OURS, 30000), Endpoint("2001:db8::2", 30000)]),
    protocol=st.sampled_from(sorted(PROFILES)),
    direction=st.sampled_from(list(DIRECTIONS.values())),
    crypto=st.lists(st.sampled_from([CryptoLine(1, KEYS), CryptoLine(2, MKI)]), max_size=4).map(tuple),
    setup=st.sampled_from([None, "actpass", "active", "passive", "holdconn"]),
    fingerprint=st.sampled_from([None, FINGERPRINT]),
    tls_id=st.sampled_from([None, "abc3de65cddef001be82"]),
    ice=st.sampled_from([IcePlan(), LITE, IcePlan(credentials=AGENT), IcePlan(candidates=CANDIDATES)]),
    mid=st.sampled_from([None, "0", "audio"]),
)


@given(st.sampled_from(CORPUS), st.data())
def test_what_is_written_is_what_is_read(path: Path, data: st.DataObject) -> None:
    """The recipient reads from the body exactly what the plans say, and nothing of the sender's keys or ICE."""
    sdp = SessionDescription.parse(path.read_bytes())
    plans = data.draw(st.lists(_PLANS, min_size=len(sdp.media), max_size=len(sdp.media)))
    once = rewrite(sdp, BOTH, plans)
    again = SessionDescription.parse(once)
    for said, told in zip(offers(again, TRUST), plans, strict=True):
        assert said.rejected is (told.local is None)
        if told.mid is not None:
            assert said.mid == told.mid
        if said.rejected or said.profile is None:
            continue
        assert (said.protocol, said.direction, said.rtcp_mux) == (told.protocol, told.direction, told.rtcp_mux)
        assert (said.crypto, said.setup, said.tls_id) == (told.crypto, told.setup, told.tls_id)
        assert said.fingerprints == (() if told.fingerprint is None else (told.fingerprint,))
        assert said.ice == told.ice.credentials
        assert said.lowest_priority == min((c.priority for c in told.ice.candidates), default=None)
    assert rewrite(again, BOTH, plans) == once


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_mutated_bodies_never_crash(path: Path) -> None:
    data, source = bytearray(path.read_bytes()), random.Random(path.stem)
    choices = [plan(ice=ice, mid=mid) for ice in (LITE, FORCED, IcePlan(keep=True)) for mid in (None, "0")]
    rewritten = 0
    for _ in range(300):
        body = data.copy()
        for _ in range(source.randint(1, 3)):
            body[source.randrange(len(body))] = source.choice(b"\r\n =:/0159amcIN\xff")
        try:
            sdp = SessionDescription.parse(bytes(body))
        except ProtocolError:
            continue
        SessionDescription.parse(rewrite(sdp, BOTH, source.choices(choices, k=len(sdp.media))))
        rewritten += 1
    assert rewritten > 0


@pytest.mark.parametrize(
    "line",
    [
        "a=candidate:" + " typ relayed" * 4000,
        "a=candidate:" + " typ" * 12000,
        "a=candidate: typ relay",
        "a=candidate:x typ host",
        "a=ice-" + "i" * 50000,
        "a=end-of-candidate",
        "a=group:BUNDLE" + " " * 50000 + "x",
        "a=mi",
    ],
    ids=lambda line: line[:24],
)
@pytest.mark.parametrize("ice", [IcePlan(), LITE, FORCED])
def test_no_line_takes_long(line: str, ice: IcePlan) -> None:
    lines = [line] * min(3900, (MAX_SIZE - 4000) // (len(line) + 2))
    sdp = SessionDescription.parse("".join(f"{text}\r\n" for text in [*HEAD, AUDIO, *lines]).encode())
    began = time.process_time()
    rewrite(sdp, BOTH, [plan(ice=ice)])
    assert time.process_time() - began < 0.25
