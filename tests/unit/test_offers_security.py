"""What a body says about keys, certificates, ICE and its place in a bundle (sdp.md 2, 3)."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from rtpengine import ProtocolError
from rtpengine.attributes import HASHES
from rtpengine.media import PROFILES, Endpoint, Fingerprint, IceCredentials, MediaOffer, Signalling
from rtpengine.offers import MAX_CRYPTO_LINES, MAX_FINGERPRINTS, offers
from rtpengine.sdp import MAX_SIZE, SessionDescription

DATA = Path(__file__).parents[1] / "data" / "sdp"
CORPUS = sorted(DATA.glob("*.sdp"))
HOW = Signalling()
HEAD = ["v=0", "o=u 1 1 IN IP4 10.0.0.5", "s=-", "c=IN IP4 10.0.0.5", "t=0 0"]
AUDIO = "m=audio 7000 UDP/TLS/RTP/SAVPF 8 0"
DIGEST = bytes(range(20))
SHA1 = "a=fingerprint:sha-1 " + ":".join(f"{byte:02X}" for byte in DIGEST)
OTHER = SHA1.replace("00:01", "FF:FF")
KEY = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 40
UFRAG, PWD = "a=ice-ufrag:abcd", "a=ice-pwd:0123456789012345678901"


def said(*lines: str, session: list[str] | None = None) -> list[MediaOffer]:
    body = "".join(f"{line}\r\n" for line in [*HEAD, *(session or []), *lines])
    return offers(SessionDescription.parse(body.encode()), HOW)


def corpus(name: str) -> list[MediaOffer]:
    return offers(SessionDescription.parse((DATA / f"{name}.sdp").read_bytes()), HOW)


@pytest.mark.parametrize("protocol", PROFILES)
def test_every_profile_is_read(protocol: str) -> None:
    (only,) = said(f"m=audio 7000 {protocol.lower()} 0")
    assert (only.protocol, only.profile) == (protocol, PROFILES[protocol])


# What is stated, at which level, and what follows from it.
SINGLE: list[tuple[list[str], list[str], dict[str, Any]]] = [
    ([], [], {}),
    # setup: section, else session; what is none says nothing
    ([], ["a=setup:actpass"], {"setup": "actpass"}),
    (["a=setup:active"], [], {"setup": "active"}),
    (["a=setup:active"], ["a=setup:passive"], {"setup": "passive"}),
    ([], ["a=setup:holdconn\t "], {"setup": "holdconn"}),
    ([], ["a=setup:ActPass"], {"setup": "actpass"}),
    ([], ["a=setup: active"], {"setup": "active"}),
    ([], ["a=setup:both", "a=setup:active", "a=setup:passive"], {"setup": "active"}),
    (["a=setup:active"], ["a=setup:actpassive"], {"setup": "active"}),
    ([], ["a=setup", "a=setup:", "a=Setup:active"], {}),
    # fingerprints
    ([], [SHA1], {"fingerprints": (Fingerprint("sha-1", DIGEST),)}),
    ([SHA1], [], {"fingerprints": (Fingerprint("sha-1", DIGEST),)}),
    ([OTHER], [SHA1], {"fingerprints": (Fingerprint("sha-1", DIGEST),)}),
    ([SHA1], ["a=fingerprint:md5 " + ":".join(["00"] * 16)], {"fingerprints": (Fingerprint("sha-1", DIGEST),)}),
    ([], [SHA1.lower().replace("sha", "SHA")], {"fingerprints": (Fingerprint("sha-1", DIGEST),)}),
    ([], [SHA1 + ":00", "a=fingerprint", "a=fingerprint:"], {}),
    # tls-id
    ([], ["a=tls-id:abc3de65cddef001be82"], {"tls_id": "abc3de65cddef001be82"}),
    (["a=tls-id:a"], ["a=tls-id:b"], {"tls_id": "b"}),
    (["a=tls-id:a"], ["a=tls-id:" + "b" * 256, "a=tls-id:two words"], {"tls_id": "a"}),
    # crypto belongs into a section
    ([KEY], [], {}),
    # ICE: both halves, wherever they stand
    ([UFRAG, PWD], [], {"ice": ("abcd", PWD[10:]), "body_has_ice": True}),
    ([], [UFRAG, PWD], {"ice": ("abcd", PWD[10:]), "body_has_ice": True}),
    ([PWD], [UFRAG], {"ice": ("abcd", PWD[10:]), "body_has_ice": True}),
    (["a=ice-ufrag:session", PWD], [UFRAG], {"ice": ("abcd", PWD[10:]), "body_has_ice": True}),
    ([], [UFRAG], {"body_has_ice": True}),
    ([], [PWD], {}),
    ([], ["a=ice-ufrag:", "a=ice-pwd: "], {"body_has_ice": True}),
    ([], ["a=ice-ufrag:a", "a=ice-pwd:b"], {"ice": ("a", "b"), "body_has_ice": True}),
    ([], ["a=ice-ufrag:" + "u" * 256, "a=ice-pwd:" + "p" * 256], {"ice": ("u" * 256, "p" * 256), "body_has_ice": True}),
    ([], ["a=ice-ufrag:" + "u" * 257, PWD], {"body_has_ice": True}),
    ([], ["a=ice-ufrag:a:b{}~ ", PWD], {"ice": ("a:b{}~", PWD[10:]), "body_has_ice": True}),
    ([], ["a=ice-ufrag:a b", PWD], {"body_has_ice": True}),
    ([], ["a=ice-ufrag:ü", PWD], {"body_has_ice": True}),
    (["a=ice-lite"], [], {"ice_lite": True}),
    ([], ["a=ice-lite"], {"ice_lite": True}),
    ([], ["a=ice-lite:yes", "a=ice-liter"], {}),
    # multiplexing
    ([], ["a=rtcp-mux-only"], {"mux_only": True, "rtcp_mux": True, "rtcp": None}),
    ([], ["a=rtcp-mux"], {"rtcp_mux": True, "rtcp": None}),
    ([], ["a=rtcp-mux-only:1"], {}),
    (["a=rtcp-mux-only"], [], {}),
    # mid
    ([], ["a=mid:audio"], {"mid": "audio"}),
    (["a=mid:audio"], [], {}),
    ([], ["a=mid:0 "], {"mid": "0"}),
    ([], ["a=mid:a b", "a=mid:c", "a=mid:d"], {"mid": "c"}),
    ([], ["a=mid:" + "x" * 256], {}),
]


@pytest.mark.parametrize(("session", "section", "effect"), SINGLE)
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_lines(session: list[str], section: list[str], effect: dict[str, Any], end: str) -> None:
    plain = MediaOffer("audio", Endpoint("10.0.0.5", 7000), Endpoint("10.0.0.5", 7001), "UDP/TLS/RTP/SAVPF")
    if "ice" in effect:
        effect = {**effect, "ice": IceCredentials(*effect["ice"])}
    body = "".join(line + end for line in [*HEAD, *session, AUDIO, *section]).encode()
    assert offers(SessionDescription.parse(body), HOW) == [plain._replace(**effect)]


@pytest.mark.parametrize(
    ("lines", "tags"),
    [
        ([KEY], [1]),
        ([KEY, KEY.replace(":1 ", ":7 ")], [1, 7]),
        ([KEY.replace("80", "81"), KEY.replace(":1 ", ":2 ")], [2]),
        ([KEY + " KDR=1", KEY.replace(":1 ", ":0 ")], [0]),
        ([KEY[:-1], "a=crypto", "a=crypto:", "a=crypto:x y z"], []),
        ([KEY.replace(":1 ", f":{tag} ") for tag in range(MAX_CRYPTO_LINES + 1)], list(range(MAX_CRYPTO_LINES))),
    ],
)
def test_usable_keys_in_order(lines: list[str], tags: list[int]) -> None:
    (only,) = said(AUDIO, *lines)
    assert [line.tag for line in only.crypto] == tags
    assert all(line.keys.suite == "AES_CM_128_HMAC_SHA1_80" for line in only.crypto)


def test_fingerprints_are_bounded() -> None:
    (only,) = said(AUDIO, *[SHA1] * (MAX_FINGERPRINTS + 1))
    assert len(only.fingerprints) == MAX_FINGERPRINTS


HOST = "a=candidate:1 1 UDP 2130706431 10.0.0.5 7000 typ host"


@pytest.mark.parametrize(
    ("lines", "lowest"),
    [
        ([], None),
        ([HOST], 2130706431),
        ([HOST, HOST.replace("2130706431", "99"), HOST.replace("2130706431", "100")], 99),
        ([HOST.replace("UDP", "udp") + " generation 0 network-cost 10"], 2130706431),
        ([HOST.replace("10.0.0.5", "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9.local")], 2130706431),
        ([HOST.replace("10.0.0.5", "fe80::1%wlan0")], 2130706431),
        ([HOST.replace("UDP", "TCP") + " tcptype active"], None),
        ([HOST.replace("host", "srflx") + " raddr 0.0.0.0 rport 0"], 2130706431),
        ([HOST.replace("2130706431", "0")], None),
        ([HOST.replace("2130706431", "1")], 1),
        ([HOST.replace("2130706431", "12345678901")], None),
        (
            ["a=candidate", "a=candidate:", "a=candidate:1 1 UDP 5", "a=candidate:1 1 UDP x 10.0.0.5 7000 typ host"],
            None,
        ),
        ([HOST.replace(" typ host", "")], None),
    ],
)
def test_lowest_priority(lines: list[str], lowest: int | None) -> None:
    (only,) = said(AUDIO, *lines)
    assert only.lowest_priority == lowest


def test_candidates_of_the_session_are_none_of_a_section() -> None:
    assert said(AUDIO, session=[HOST])[0].lowest_priority is None


def test_ice_anywhere_in_the_body_is_told_of_every_section() -> None:
    told = said("m=audio 7000 RTP/AVP 0", "m=video 0 RTP/AVP 31", "m=image 4 udptl t38", UFRAG, PWD)
    assert [offer.body_has_ice for offer in told] == [True] * 3
    assert [offer.ice for offer in told] == [None, None, IceCredentials("abcd", PWD[10:])]
    assert [offer.rejected for offer in told] == [False, True, False]


def test_a_rejected_section_says_no_more_than_its_name() -> None:
    (only,) = said("m=audio 0 RTP/SAVP 0", KEY, SHA1, "a=setup:active", UFRAG, PWD, HOST, "a=rtcp-mux-only", "a=mid:a")
    assert only == MediaOffer("audio", None, None, "RTP/SAVP", rejected=True, body_has_ice=True, mid="a")


FIRST = [AUDIO, "a=mid:a", SHA1, "a=setup:actpass", UFRAG, PWD, HOST, "a=rtcp-mux", "a=tls-id:t"]
VIDEO = "m=video {} UDP/TLS/RTP/SAVPF 96"


@pytest.mark.parametrize(
    ("port", "lines", "shared"),
    [
        (0, ["a=bundle-only", "a=mid:v"], True),
        (0, ["a=bundle-only", "a=mid:v", "a=setup:active", OTHER, "a=ice-ufrag:own"], True),
        (7000, ["a=mid:v"], True),
        (7000, ["a=mid:v", "a=setup:active"], False),
        (7000, ["a=mid:v", "a=ice-ufrag:own"], False),
        (7000, ["a=mid:w"], False),
        (7000, [], False),
        (7002, ["a=mid:v"], False),
        (7002, ["a=mid:v", "a=bundle-only"], False),
    ],
)
def test_a_bundle_shares_the_transport_of_its_first_section(port: int, lines: list[str], shared: bool) -> None:
    audio, video = said(*FIRST, VIDEO.format(port), *lines, "a=sendonly", session=["a=group:BUNDLE a v"])
    transport = ("endpoint", "rtcp", "rtcp_mux", "setup", "fingerprints", "tls_id", "ice", "lowest_priority")
    same = [getattr(video, field) == getattr(audio, field) for field in transport]
    assert all(same) if shared else not all(same)
    assert video.direction.attribute == "sendonly"
    assert video.mid == next((line.removeprefix("a=mid:") for line in lines if "mid" in line), None)


@pytest.mark.parametrize("group", ["LS a v", "BUNDLE v a", "BUNDLE x v"])
def test_only_a_bundle_that_begins_elsewhere_is_shared(group: str) -> None:
    video = said(*FIRST, VIDEO.format(7000), "a=mid:v", session=[f"a=group:{group}"])[1]
    assert (video.fingerprints, video.ice) == ((), None)


def test_a_second_bundle_counts() -> None:
    groups = ["a=group:BUNDLE x", "a=group:BUNDLE", "a=group:BUNDLE a v"]
    assert said(*FIRST, VIDEO.format(0), "a=bundle-only", "a=mid:v", session=groups)[1].setup == "actpass"


def test_where_names_are_ambiguous_the_first_counts() -> None:
    again = [AUDIO.replace("7000", "7008"), "a=mid:a", "a=setup:passive", "m=audio 7010 RTP/AVP 0", "a=mid:b"]
    groups = ["a=group:BUNDLE a v", "a=group:BUNDLE b v"]
    video = said(*FIRST, *again, VIDEO.format(0), "a=bundle-only", "a=mid:v", session=groups)[-1]
    assert (video.endpoint, video.setup) == (Endpoint("10.0.0.5", 7000), "actpass")


def test_what_is_not_rtp_does_not_multiplex() -> None:
    (only,) = said("m=image 7000 udptl t38", "a=rtcp-mux", "a=rtcp-mux-only", "a=mid:f")
    assert (only.mid, only.rtcp_mux, only.mux_only) == ("f", False, False)


# Bodies as browsers, phones and gateways write them.


def summary(offer: MediaOffer) -> tuple[Any, ...]:
    return (
        str(offer.endpoint),
        "mux-only" if offer.mux_only else "mux" if offer.rtcp_mux else str(offer.rtcp),
        offer.setup,
        [f"{name}:{digest[:2].hex()}" for name, digest in offer.fingerprints],
        offer.ice and offer.ice.ufrag,
        offer.lowest_priority,
        offer.mid,
    )


BODIES: dict[str, list[tuple[Any, ...]]] = {
    "chromium-answer": [
        ("198.51.100.61:53201", "mux", "active", ["sha-256:ddf8"], "kV9/", 41885695, "0"),
        ("198.51.100.61:53201", "mux", "active", ["sha-256:ddf8"], "kV9/", None, "1"),
    ],
    "browser-bundle": [
        ("203.0.113.77:40000", "mux", "actpass", ["sha-256:0007"], "4ZcD", 1677729535, "0"),
        ("203.0.113.77:40000", "mux", "actpass", ["sha-256:0007"], "4ZcD", None, "1"),
        ("203.0.113.77:40000", "mux", "actpass", ["sha-256:0007"], "4ZcD", 1677729535, "2"),
    ],
    "firefox-offer": [
        ("198.51.100.7:57330", "mux", "actpass", ["sha-256:16e5"], "a81c3d5e", 1686052862, "0"),
        ("198.51.100.7:57330", "mux", "actpass", ["sha-256:16e5"], "a81c3d5e", 1686052862, "1"),
        ("198.51.100.7:57330", "None", "actpass", ["sha-256:16e5"], "a81c3d5e", 1686052862, "2"),
    ],
    "firefox-answer": [
        ("None", "mux", "active", ["sha-256:16e5"], "0badcafe", None, "sdparta_0"),
        ("None", "None", None, [], None, None, "sdparta_1"),
    ],
    "aiortc-offer": [
        (
            "192.0.2.44:41234",
            "mux",
            "actpass",
            ["sha-256:8b9e", "sha-384:137b", "sha-512:d72f"],
            "Yx4p",
            1694498815,
            "0",
        ),
    ],
    "dtls-gateway": [
        ("[2001:db8::30]:20000", "[2001:db8::30]:20001", "passive", ["sha-1:fc47"], "gwUf", 2130706175, None),
        ("[2001:db8::30]:20002", "mux-only", "actpass", ["sha-1:fc47"], "gwUf", None, None),
        ("[2001:db8::30]:20004", "None", "passive", ["sha-1:fc47"], "gwUf", None, None),
    ],
    "trickle-browser": [
        ("None", "mux-only", "actpass", ["sha-256:2303"], "Tr1c", None, "audio"),
        ("None", "mux-only", "actpass", ["sha-256:2303"], "Tr1c", None, "video"),
    ],
    "sdes-phone": [("192.0.2.150:11800", "192.0.2.150:11801", None, [], None, None, None)],
    "desk-phone": [("192.168.17.42:11784", "192.168.17.42:11785", None, [], None, None, None)],
}


@pytest.mark.parametrize("name", BODIES)
def test_corpus(name: str) -> None:
    told = corpus(name)
    assert [summary(offer) for offer in told] == BODIES[name]
    assert {offer.body_has_ice for offer in told} == {any(row[4] for row in BODIES[name])}
    assert all(len(digest) == HASHES[algorithm] for offer in told for algorithm, digest in offer.fingerprints)


def test_the_gateway_is_ice_lite() -> None:
    assert [offer.ice_lite for offer in corpus("dtls-gateway")] == [True] * 3
    assert {offer.tls_id for offer in corpus("dtls-gateway")} == {"abc3de65cddef001be82"}
    assert not corpus("chromium-answer")[0].ice_lite


def test_keys_of_the_phone() -> None:
    (phone,) = corpus("sdes-phone")
    assert [(line.tag, line.keys.suite, line.keys.mki) for line in phone.crypto] == [
        (1, "AES_CM_128_HMAC_SHA1_80", b""),
        (2, "AES_CM_128_HMAC_SHA1_32", b"\x00\x00\x00\x07"),
        (5, "AES_256_CM_HMAC_SHA1_80", b""),
    ]
    assert repr(phone).count("SrtpKeys(") == 3 and str(phone.crypto[0].keys.key) not in repr(phone)


# Whatever the bytes: no exception but ProtocolError, and time that grows with the size only.


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_mutated_bodies_never_crash(path: Path) -> None:
    lines, source = path.read_bytes().split(b"\n"), random.Random(path.stem)
    read = 0
    for _ in range(300):
        mutated = lines.copy()
        for _ in range(source.randint(1, 3)):
            line = bytearray(mutated[at := source.randrange(len(mutated))])
            for _ in range(source.randint(1, 4)):
                line[source.randrange(len(line) + 1) :][:2] = source.choice(
                    [b" ", b":", b"|", b"-1", b"\xff", b"9" * 99]
                )
            mutated[at] = bytes(line)
            mutated.insert(source.randrange(len(mutated)), source.choice(mutated))
        try:
            read += len(offers(SessionDescription.parse(b"\n".join(mutated)), HOW))
        except ProtocolError:
            continue
    assert read > 0


def full(line: str) -> list[str]:
    """As many of this line as a body may have."""
    return [line] * min(3900, (MAX_SIZE - 4000) // (len(line) + 2))


@pytest.mark.parametrize(
    "lines",
    [
        full(HOST),
        full("a=candidate:1 1 UDP 1"),
        full("a=candidate:" + "1 " * 200),
        full("a=candidate:" + "1" * 60000),
        full("a=fingerprint:sha-256 " + "AA:" * 1000),
        full(SHA1),
        full(KEY),
        full("a=crypto:" + "1 " * 500),
        full("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 60000),
        full("a=ice-ufrag:" + " " * 1000),
        full("a=ice-pwd:" + "x" * 300),
        full("a=setup:" + " " * 60000 + "x"),
        full("a=mid:" + "x " * 300),
        full("a=tls-id" + ":" * 60000),
        full("a="),
    ],
    ids=lambda lines: lines[0][:24],
)
@pytest.mark.parametrize("at_session", [False, True])
def test_no_line_takes_long(lines: list[str], at_session: bool) -> None:
    body = [*HEAD, *(lines if at_session else []), AUDIO, *([] if at_session else lines)]
    data = "".join(f"{line}\r\n" for line in body).encode()
    assert 20000 < len(data) <= MAX_SIZE or len(lines) == 3900
    sdp = SessionDescription.parse(data)
    began = time.process_time()
    assert len(offers(sdp, HOW)) == 1
    assert time.process_time() - began < 0.25


def test_many_groups_and_sections_take_no_longer() -> None:
    groups = ["a=group:BUNDLE " + "m " * 10] * 1500
    sections = [line for _ in range(60) for line in ("m=audio 0 RTP/AVP 0", "a=bundle-only", "a=mid:m")]
    sdp = SessionDescription.parse("".join(f"{line}\n" for line in [*HEAD, *groups, *sections]).encode())
    began = time.process_time()
    assert all(offer.rejected for offer in offers(sdp, HOW))
    assert time.process_time() - began < 0.25
