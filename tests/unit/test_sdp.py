"""The SDP codec: every line kept, every meaning read, every error named."""

from __future__ import annotations

import gc
import random
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ProtocolError
from rtpengine.media import DIRECTIONS, IPV4, IPV6, Endpoint
from rtpengine.sdp import (
    MAX_LINES,
    MAX_SECTIONS,
    MAX_SIZE,
    Address,
    MediaLine,
    SessionDescription,
    is_bundle,
    parse_connection,
    parse_media_line,
    parse_origin,
    parse_rtcp,
)

CORPUS = sorted((Path(__file__).parents[1] / "data" / "sdp").glob("*.sdp"))
HEAD = b"v=0\r\no=u 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\n"


def parse(*lines: str) -> SessionDescription:
    """A body of the usual session level and these lines."""
    return SessionDescription.parse(HEAD + "".join(f"{line}\r\n" for line in lines).encode())


def ids(path: Path) -> str:
    return path.stem


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 10


@pytest.mark.parametrize("path", CORPUS, ids=ids)
def test_corpus_survives(path: Path) -> None:
    data = path.read_bytes()
    sdp = SessionDescription.parse(data)
    assert sdp.serialize() == data
    assert len(sdp.media) == data.count(b"\nm=")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"v",
        b"\n",
        b"\xff",
        b"\r\n",
        b"\n\n\r\n",
        b"v=0",
        b"v=0\r",
        b"v=0\n",
        b"v=0\r\n",
        b"v=0\r\n\r\n\n",
        b"v=0\r\n\r",
        b"v=0\na=x\r\na=\xff\xfe:\xed\xa0\x80\n",
        b"v=0\r\ns=\r\na=\r\na=:x\r\n",
        b"v=0\r\na=x\ry\r\r\n",
        b"v=0\r\ni=\xe2\x80\xa8line separator\x85\x0b\x0c\x1c\r\n",
        "v=0\r\ns=日本語\r\n".encode(),
    ],
)
def test_round_trip_byte_for_byte(data: bytes) -> None:
    assert SessionDescription.parse(data).serialize() == data


@pytest.mark.parametrize("data", [b"", b"v", b"\r\n\n"])
def test_empty_bodies_have_no_sessions(data: bytes) -> None:
    sdp = SessionDescription.parse(data)
    assert (sdp.sessions, sdp.media) == ([], [])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"v=1\r\n", "line 1: version is not 0"),
        (b"v=\r\n", "line 1: version is not 0"),
        (b"v=0 \r\n", "line 1: version is not 0"),
        (b"s=-\r\nv=0\r\n", "line 1: v= expected first"),
        (b"m=audio 1 RTP/AVP 0\r\n", "line 1: v= expected first"),
        (b"o=u 1 1 IN IP4 10.0.0.5\r\n", "line 1: v= expected first"),
        (b"c=IN IP4 10.0.0.5\r\n", "line 1: v= expected first"),
        (b"a=x\r\n", "line 1: v= expected first"),
        (b"\r\nv=0\r\n", "line 1: not of the form letter=value"),
        (b"v=0\r\n\r\ns=-\r\n", "line 2: not of the form letter=value"),
        (b"v=0\n\n=x\n", "line 2: not of the form letter=value"),
        (b"v=0\n\r\r\n", "line 2: not of the form letter=value"),
        (HEAD + b"m=audio 1 RTP/AVP\r\na=x\r\nm=audio 65536 RTP/AVP\r\n", "line 8: bad port in m="),
        (HEAD + b"m=audio 1 RTP/AVP\r\na=x\r\nc=IN IP4 10.0.0.256\r\n", "line 8: bad address in c="),
        (HEAD + HEAD + b"m=audio 1 RTP/AVP\r\nc=IN IP4 10.0.0.5\rx\r\n", "line 12: bad address in c="),
        (b"v=0\r\ns\r\n", "line 2: not of the form letter=value"),
        (b"v=0\r\nfoo=x\r\n", "line 2: not of the form letter=value"),
        (b"v=0\r\n =x\r\n", "line 2: unknown type letter"),
        (b"v=0\r\nx=x\r\n", "line 2: unknown type letter"),
        (b"v=0\r\nA=x\r\n", "line 2: unknown type letter"),
        (b"\xef\xbb\xbfv=0\r\n", "line 1: not of the form letter=value"),
        (HEAD + b"v=2\r\n", "line 6: version is not 0"),
        (HEAD + b"o=u 1 1 IN IP4 10.0.0.5\r\n", "line 6: second o="),
        (HEAD + b"m=audio 1 RTP/AVP\r\no=u 1 1 IN IP4 10.0.0.5\r\n", "line 7: o= in a media section"),
        (HEAD + b"m=audio 1\r\n", "line 6: m= needs media, port and transport"),
        (HEAD + b"c=IN IP4\r\n", "line 6: c= needs IN, IP4 or IP6, and an address"),
        (HEAD + b"a=x\r\n" * MAX_LINES, "more than 65536 bytes or 4096 lines"),
        (HEAD + b"a=" + b"x" * MAX_SIZE, "more than 65536 bytes or 4096 lines"),
        (HEAD + b"m=audio 1 RTP/AVP\r\n" * (MAX_SECTIONS + 1), "more than 64 media sections"),
    ],
)
def test_errors_name_the_line(data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        SessionDescription.parse(data)
    assert str(caught.value) == f"Failed to parse SDP: {reason}"


def test_limits_are_reachable() -> None:
    assert len(parse(*["m=audio 1 RTP/AVP"] * MAX_SECTIONS).media) == MAX_SECTIONS
    assert SessionDescription.parse(b"v=0\n" + b"a=x\n" * (MAX_LINES - 2)).sessions
    assert SessionDescription.parse(b"v=0\na=" + b"x" * (MAX_SIZE - 6)).sessions


@pytest.mark.parametrize("letter", "siueptrzkb")
def test_skipped_types_are_kept(letter: str) -> None:
    data = HEAD + f"{letter}=anything  at all\r\n".encode()
    assert SessionDescription.parse(data).serialize() == data


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("audio 7000 RTP/AVP 8 0", MediaLine("audio", 7000, 1, "RTP/AVP")),
        ("audio 7000 RTP/AVP", MediaLine("audio", 7000, 1, "RTP/AVP")),
        ("audio 7000 RTP/AVP  8 ", MediaLine("audio", 7000, 1, "RTP/AVP")),
        ("audio 0 rtp/avp 8", MediaLine("audio", 0, 1, "rtp/avp")),
        ("video 65535 RTP/AVPF 96", MediaLine("video", 65535, 1, "RTP/AVPF")),
        ("audio 49170/2 RTP/AVP 0", MediaLine("audio", 49170, 2, "RTP/AVP")),
        ("audio 49170/10 RTP/AVP 0", MediaLine("audio", 49170, 10, "RTP/AVP")),
        ("audio 65532/2 RTP/AVP 0", MediaLine("audio", 65532, 2, "RTP/AVP")),
        ("image 4402 udptl t38", MediaLine("image", 4402, 1, "udptl")),
        ("message 2855 TCP/MSRP *", MediaLine("message", 2855, 1, "TCP/MSRP")),
    ],
)
def test_media_line(value: str, expected: MediaLine) -> None:
    assert parse_media_line(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "audio",
        "audio 7000",
        "audio 7000 ",
        " 7000 RTP/AVP 0",
        "audio  7000 RTP/AVP",
        "audio -1 RTP/AVP",
        "audio +1 RTP/AVP",
        "audio 1_0 RTP/AVP",
        "audio ٣ RTP/AVP",
        "audio 65536 RTP/AVP",
        "audio 123456 RTP/AVP",
        "audio x RTP/AVP",
        "audio 7000/ RTP/AVP",
        "audio 7000/0 RTP/AVP",
        "audio 7000/11 RTP/AVP",
        "audio 7000/x RTP/AVP",
        "audio 65533/2 RTP/AVP",
        "audi\u00f6 7000 RTP/AVP",
        "audio 7000 RTP/\udcff",
        "au\rdio 7000 RTP/AVP",
    ],
)
def test_bad_media_lines(value: str) -> None:
    with pytest.raises(ProtocolError):
        parse_media_line(value)


@pytest.mark.parametrize(
    ("value", "family", "text"),
    [
        ("IN IP4 10.0.0.5", IPV4, "10.0.0.5"),
        ("in ip4 10.0.0.5", IPV4, "10.0.0.5"),
        ("IN IP4 10.0.0.5 further words", IPV4, "10.0.0.5"),
        ("IN IP4 0.0.0.0", IPV4, "0.0.0.0"),
        ("IN IP4 224.2.1.1/127", IPV4, "224.2.1.1"),
        ("IN IP6 ::", IPV6, "::"),
        ("IN ip6 2001:DB8:0:0::1", IPV6, "2001:db8::1"),
        ("IN IP6 [2001:db8::1]", IPV6, "2001:db8::1"),
        ("IN IP4 media.example.net", IPV4, None),
        ("IN IP4 media.example.net.", IPV4, None),
        ("IN IP4 localhost", IPV4, None),
        ("IN IP6 6d0f1c5e-4a55.local", IPV6, None),
    ],
)
def test_connection(value: str, family: int, text: str | None) -> None:
    assert parse_connection(value) == Address(family, text)


BAD_ADDRESSES = [
    "",
    "IN",
    "IN IP4",
    "IN IP4 ",
    "IN  IP4 10.0.0.5",
    "In IP4 10.0.0.5",
    "ATM IP4 10.0.0.5",
    "IN IP5 10.0.0.5",
    "IN IP4 10.0.0",
    "IN IP4 10.0.0.256",
    "IN IP4 10.0.0.5.",
    "IN IP4 010.0.0.5",
    "IN IP4 ::1",
    "IN IP4 [10.0.0.5]",
    "IN IP6 10.0.0.5",
    "IN IP6 [2001:db8::1",
    "IN IP6 fe80::1%eth0",
    "IN IP6 ff15::1/3",
    "IN IP4 224.2.1.1/127/3",
    "IN IP4 10.0.0.5/",
    "IN IP4 10.0.0.5/x",
    "IN IP4 host.example.net/127",
    "IN IP4 -bad.example.net",
    "IN IP4 a..b",
    "IN IP4 h\u00f6st",
    "IN IP4 " + "a" * 64,
    "IN IP4 " + "a." * 127 + "aa",
    "IN IP6 " + ":" * 60000,
]


@pytest.mark.parametrize("value", BAD_ADDRESSES)
def test_bad_connections(value: str) -> None:
    with pytest.raises(ProtocolError):
        parse_connection(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("- 1 2 IN IP4 10.0.0.5", Address(IPV4, "10.0.0.5")),
        ("user id version in ip6 [2001:DB8::1] and more", Address(IPV6, "2001:db8::1")),
        ("u 1 1 IN IP4 10.0.0.5  ", Address(IPV4, "10.0.0.5")),
    ],
)
def test_origin(value: str, expected: Address) -> None:
    assert parse_origin(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(f"- 1 1 {value}" for value in BAD_ADDRESSES),
        "1 1 IN IP4 10.0.0.5",
        " 1 1 IN IP4 10.0.0.5",
        "u  1 1 IN IP4 10.0.0.5",
        "- 1 1 IN IP4 host.example.net",
        "- 1 1 IN IP4 10.0.0.5/24",
    ],
)
def test_bad_origins(value: str) -> None:
    with pytest.raises(ProtocolError):
        parse_origin(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7009", 7009),
        ("7009 ", 7009),
        ("65535", 65535),
        ("7009 IN IP4 10.0.0.6", Endpoint("10.0.0.6", 7009)),
        ("7009 IN IP6 2001:DB8::1", Endpoint("2001:db8::1", 7009)),
        ("7009 IN IP4 rtcp.example.net", 7009),
    ],
)
def test_rtcp(value: str, expected: Endpoint | int) -> None:
    assert parse_rtcp(value) == expected


@pytest.mark.parametrize("value", ["", "0", "65536", "x", " 7009", "7009 IN", "7009 IN IP4 10.0.0", "7009 7010"])
def test_bad_rtcp(value: str) -> None:
    with pytest.raises(ProtocolError):
        parse_rtcp(value)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["a=rtcp:7009"], 7009),
        (["a=rtcp:0", "a=rtcp:x", "a=rtcp:7009", "a=rtcp:7011"], 7009),
        (["a=rtcp:0"], None),
        (["a=rtcp 7009"], None),
        (["a=rtcp"], None),
        (["a=RTCP:7009"], None),
        (["a=rtcp-mux"], None),
    ],
)
def test_first_valid_rtcp_counts(lines: list[str], expected: int | None) -> None:
    assert parse("m=audio 7000 RTP/AVP 0", *lines).media[0].rtcp == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["a=sendrecv"], "sendrecv"),
        (["a=sendonly"], "sendonly"),
        (["a=recvonly"], "recvonly"),
        (["a=inactive"], "inactive"),
        (["a=sendonly "], "sendonly"),
        (["a=sendonly:yes"], None),
        (["a=sendonly yes"], None),
        (["a=Sendonly"], None),
        (["a=sendonly:yes", "a=sendonly"], "sendonly"),
        (["a=sendonly:yes", "a=inactive"], "inactive"),
        (["a=sendrecv", "a=inactive", "a=sendonly", "a=recvonly"], "recvonly"),
        (["a=sendrecv", "a=inactive", "a=sendonly"], "sendonly"),
        (["a=sendrecv", "a=inactive"], "inactive"),
    ],
)
def test_direction_of_one_level(lines: list[str], expected: str | None) -> None:
    sdp = parse(*lines, "m=audio 7000 RTP/AVP 0", *lines)
    direction = None if expected is None else DIRECTIONS[expected]
    assert sdp.sessions[0].direction == sdp.media[0].direction == direction


@pytest.mark.parametrize(
    "octet", [0, 1, 9, 10, 19, 20, 99, 100, 199, 200, 249, 250, 255, 256, 260, 299, 300, 999, 1000]
)
def test_dotted_quads(octet: int) -> None:
    """An octet at every place, on the short way and on the long one, against the library."""
    for text in (f"{octet}.0.0.0", f"0.{octet}.0.0", f"0.0.{octet}.0", f"0.0.0.{octet}", f"1.2.3.0{octet}"):
        try:
            expected = str(IPv4Address(text))
        except ValueError:
            with pytest.raises(ProtocolError):
                parse_connection(f"IN IP4 {text}")
        else:
            assert parse_connection(f"IN IP4 {text}").text == expected
            sdp = SessionDescription.parse(f"v=0\no=u 1 1 IN IP4 {text}\nc=IN IP4 {text}\n".encode())
            assert sdp.sessions[0].origin == sdp.sessions[0].connection == Address(IPV4, expected)


def test_values_in_order() -> None:
    part = parse("m=audio 7000 RTP/AVP 0", "a=x:1", "a=x", "a=xy:2", "a=x:3:4 ", "a=x:").media[0]
    assert list(part.values("a=x")) == ["1", "", "3:4 ", ""]
    assert list(part.values("a=y")) == []
    assert part.has("a=x")
    assert not part.has("a=xy")


def test_a_body_is_freed_without_the_collector() -> None:
    sdp = parse("m=audio 7000 RTP/AVP 0")
    gc.collect()
    gc.disable()
    try:
        del sdp
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_first_connection_counts() -> None:
    sdp = parse("c=IN IP4 10.0.0.6", "m=audio 7000 RTP/AVP 0", "c=IN IP6 ::1", "c=IN IP4 10.0.0.7")
    assert sdp.sessions[0].connection == Address(IPV4, "10.0.0.5")
    assert sdp.media[0].connection == Address(IPV6, "::1")
    section = sdp.media[0]
    assert [section.text[start:end] for start, end in section.connections] == ["IP6 ::1", "IP4 10.0.0.7"]


@pytest.mark.parametrize(
    ("groups", "bundles", "is_bundled"),
    [
        ([], [], False),
        (["a=group:BUNDLE a v"], [["a", "v"]], True),
        (["a=group:BUNDLE"], [[]], True),
        (["a=group:LS a v", "a=group:BUNDLE a"], [["a"]], False),
        (["a=group:BUNDLE a", "a=group:BUNDLE v"], [["a"], ["v"]], True),
        (["a=group:BUNDLED a"], [], False),
        (["a=group"], [], False),
    ],
)
def test_bundle_groups(groups: list[str], bundles: list[list[str]], is_bundled: bool) -> None:
    session = parse(*groups, "m=audio 1 RTP/AVP 0").sessions[0]
    assert (session.bundles, session.is_bundled) == (bundles, is_bundled)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("BUNDLE", True), ("BUNDLE 0\r", True), ("BUNDLE\r", True), ("bundle 0", False), ("", False)],
)
def test_is_bundle(value: str, expected: bool) -> None:
    assert is_bundle(value) is expected


def test_sessions_share_the_numbering_of_sections() -> None:
    sdp = SessionDescription.parse(b"v=0\nm=audio 1 RTP/AVP\nm=video 2 RTP/AVP\nv=0\nm=audio 3 RTP/AVP\n")
    assert [section.media.port for section in sdp.media] == [1, 2, 3]
    assert [len(session.media) for session in sdp.sessions] == [2, 1]
    assert sdp.sessions[1].media == [sdp.media[2]]


# Properties

_TEXT = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)
_WORD = st.sampled_from(["rtcp", "rtcp:7009", "sendrecv", "sendonly ", "group:BUNDLE 0", "mid:0", "x", ""])
_LINE = st.one_of(
    st.builds("{}={}".format, st.sampled_from("siueptrzkba"), _TEXT),
    st.builds("a={}".format, _WORD),
    st.sampled_from(["v=0", "c=IN IP4 192.0.2.1", "c=IN IP6 ::", "m=audio 7000 RTP/AVP 0", "m=image 9 udptl t38"]),
)
_END = st.sampled_from(["\n", "\r\n"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Valid bodies with mixed line endings, perhaps without the last one, perhaps with empty lines behind."""
    lines = ["v=0", *draw(st.lists(_LINE, max_size=20))]
    text = "".join(line + draw(_END) for line in lines)
    text = draw(st.sampled_from([text, text.rstrip("\r\n"), text.rstrip("\n"), text + "\r\n\n", text + "\r"]))
    return text.encode()


@given(bodies())
def test_generated_bodies_round_trip(data: bytes) -> None:
    sdp = SessionDescription.parse(data)
    assert sdp.serialize() == data
    assert len(sdp.media) == sum(line.startswith(b"m=") for line in data.split(b"\n"))


def never_crashes(data: bytes) -> bool:
    """Parse bytes of any kind; return whether they were accepted, in which case they must have survived."""
    try:
        sdp = SessionDescription.parse(data)
    except ProtocolError as error:
        assert str(error).startswith("Failed to parse SDP") and str(error).isascii() and str(error).isprintable()
        return False
    assert sdp.serialize() == data
    for part in (*sdp.sessions, *sdp.media):
        assert part.direction in (None, *DIRECTIONS.values())
    for section in sdp.media:
        assert section.rtcp is None or section.rtcp
    return True


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(HEAD.__add__), st.text().map(str.encode)))
def test_arbitrary_bytes(data: bytes) -> None:
    never_crashes(data)


def mutate(data: bytes, source: random.Random) -> bytes:
    """One to four random edits: bytes changed, removed, doubled, cut off, moved."""
    out = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at, length = source.randrange(len(out) + 1), source.randint(1, 12)
        match source.randrange(5):
            case 0:
                out[at : at + 1] = source.randbytes(1)
            case 1:
                del out[at : at + length]
            case 2:
                out[at:at] = out[at : at + length]
            case 3:
                out[at:at] = source.choice([b"\r\n", b"\n", b" ", b":", b"=", b"/", b"\xff", b"m=", b"\nc=", b"0"])
            case _:
                piece = out[at : at + 40]
                del out[at : at + 40]
                to = source.randrange(len(out) + 1)
                out[to:to] = piece
    return bytes(out)


@pytest.mark.parametrize("path", CORPUS, ids=ids)
def test_mutated_corpus(path: Path) -> None:
    data, source = path.read_bytes(), random.Random(path.stem)
    accepted = [never_crashes(mutate(data, source)) for _ in range(2000)]
    assert 0 < sum(accepted) < 2000
