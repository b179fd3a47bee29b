"""rtpproxy: lines on the wire against typed commands, both ways; and what bad lines may not do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtpengine import ProtocolError, rtpproxy
from rtpengine.media import Endpoint, MediaOffer, Signalling
from rtpengine.rtpproxy import Delete, Feature, Lookup, Query, Unmatched, Update, Version, parse, split

LONG = b"x" * (rtpproxy.MAX_TOKEN + 1)


def audio(address: str = "192.0.2.7", port: int = 4000) -> MediaOffer:
    return MediaOffer("audio", Endpoint(address, port), Endpoint(address, port + 1), "RTP/AVP")


def update(
    call_id: str = "c@x",
    from_tag: str = "a",
    index: int = 0,
    media: MediaOffer | None = None,
    branch: str | None = None,
    external: bool = False,
) -> Update:
    return Update(call_id, from_tag, index, media or audio(), Signalling(via_branch=branch, prefer_ipv6=external))


class TestSplit:
    @pytest.mark.parametrize(
        ("datagram", "cookie", "line"),
        [
            (b"1_2 V", b"1_2", b"V"),
            (b"1_2 V\r\n", b"1_2", b"V\r\n"),
            (b"1_2 \t V x", b"1_2", b"V x"),
            (b"1_2", b"1_2", b""),
            (b"1_2 \r\n", b"1_2", b""),
            (b"\x00\xff V", b"\x00\xff", b"V"),
            (b"k" * rtpproxy.MAX_COOKIE + b" V", b"k" * rtpproxy.MAX_COOKIE, b"V"),
        ],
    )
    def test_cookie_and_line(self, datagram: bytes, cookie: bytes, line: bytes) -> None:
        assert split(datagram) == (cookie, line)

    @pytest.mark.parametrize("datagram", [b"", b" ", b"\r\n", b" \t\r\n", b"k" * (rtpproxy.MAX_COOKIE + 1) + b" V"])
    def test_no_reply_is_possible(self, datagram: bytes) -> None:
        with pytest.raises(ProtocolError, match="[Cc]ookie"):
            split(datagram)


class TestMediaCommands:
    @pytest.mark.parametrize(
        ("line", "command"),
        [
            (b"U c@x 192.0.2.7 4000 a;1", update()),
            (b"u c@x 192.0.2.7 4000 a;1", update()),
            (b"U c@x 192.0.2.7 4000 a;1\n", update()),
            (b"U c@x 192.0.2.7 4000 a;1\r\n", update()),
            (b"U  c@x\t192.0.2.7  4000   a;1", update()),
            (b"U c@x 192.0.2.7 4000 a;0", update()),
            (b"U c@x 192.0.2.7 4000 a;000", update()),
            (b"U c@x 192.0.2.7 4000 a;2", update(index=1)),
            (b"U c@x 192.0.2.7 4000 a;064", update(index=63)),
            (b"U c@x 192.0.2.7 04000 a;1", update()),
            (b"U c@x 192.0.2.7 4000 a;1 b;1", update()),
            (b"U c@x 192.0.2.7 4000 a;1 b;1 unix:/run/x tag more", update()),
            (b"U c@x;z9hG4bK1 192.0.2.7 4000 a;1", update(branch="z9hG4bK1")),
            (b"U c@x;br;2 192.0.2.7 4000 a;1", update(branch="br;2")),
            (b"U c@x 192.0.2.7 4000 a;b;1", update(from_tag="a;b")),
            (b"U two words 192.0.2.7 4000 a;1", update(call_id="two words")),
            (b"U c 192.0.2.1 5 192.0.2.7 4000 a;1", update(call_id="c 192.0.2.1 5")),
            (b"U c 192.0.2.1 5 t;1 192.0.2.7 4000 a;1", update(call_id="c 192.0.2.1 5 t", branch="1")),
            (b"U \xc3\xa4\xff 192.0.2.7 4000 a;1", update(call_id="ä\udcff")),
            (b"UE c@x 192.0.2.7 4000 a;1", update()),
            (b"L c@x 192.0.2.7 4000 a;1 b;1", Lookup("c@x", "a", "b", 0, audio(), Signalling())),
            (b"l c@x 192.0.2.7 4000 a;3 b;9", Lookup("c@x", "a", "b", 2, audio(), Signalling())),
            (b"L c@x 192.0.2.7 4000 a;1", Lookup("c@x", "a", "", 0, audio(), Signalling())),
            (b"L c@x;br 192.0.2.7 4000 a;1", Lookup("c@x", "a", "", 0, audio(), Signalling(via_branch="br"))),
        ],
    )
    def test_lines(self, line: bytes, command: Update | Lookup) -> None:
        assert parse(line) == command

    @pytest.mark.parametrize(
        ("options", "external"),
        [
            ("", False),
            ("S", False),
            ("IE", True),
            ("EI", False),
            ("EE", True),
            ("II", False),
            ("E", False),
            ("ie", True),
            ("SIE", True),
            ("EI6", False),
            ("66IE", True),
            ("S6IE", True),
            ("AWRSIE", True),
            ("IEI", True),
            ("IEE", True),
            ("ISEI", True),
            ("xIyE", True),
            ("c0,8IE", False),
            ("IEc0,8", True),
            ("Z30IE", False),
            ("IZ30E", False),
            ("!I,E", True),
        ],
    )
    def test_options(self, options: str, external: bool) -> None:
        command = parse(f"U{options} c@x 192.0.2.7 4000 a;1".encode())
        assert command == update(external=external)

    @pytest.mark.parametrize(
        ("address", "canonical"),
        [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("::ffff:192.0.2.7", "::ffff:c000:207"),
            ("2001:db8::FFFF:192.0.2.7", "2001:db8::ffff:c000:207"),
            ("0.0.0.0", "0.0.0.0"),
            ("0:0:0:0:0:0:0:0", "::"),
        ],
    )
    def test_addresses(self, address: str, canonical: str) -> None:
        assert parse(f"U6 c@x {address} 4000 a;1".encode()) == update(media=audio(canonical))

    @pytest.mark.parametrize(
        ("endpoint", "media"),
        [
            ("192.0.2.7 1", audio(port=1)),
            ("192.0.2.7 65535", audio(port=65535)._replace(rtcp=None)),
            ("192.0.2.7 0", MediaOffer("audio", Endpoint("192.0.2.7", 0), None, "RTP/AVP", rejected=True)),
            ("0.0.0.0 0", MediaOffer("audio", Endpoint("0.0.0.0", 0), None, "RTP/AVP", rejected=True)),
        ],
    )
    def test_ports(self, endpoint: str, media: MediaOffer) -> None:
        assert parse(f"U c@x {endpoint} a;1".encode()) == update(media=media)

    def test_a_null_address_with_a_port_is_hold(self) -> None:
        command = parse(b"U c@x 0.0.0.0 4000 a;1")
        assert isinstance(command, Update)
        assert command.media.held and not command.media.rejected

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"U c 300.1.1.1 4000 a;1", "Address"),
            (b"U c 255.255.255.255 4000 a;1", "Address"),
            (b"U c 192.0.2 4000 a;1", "Address"),
            (b"U c 192.0.02.1 4000 a;1", "Address"),
            (b"U c 1.2.3.4.5 4000 a;1", "Address"),
            (b"U c . 4000 a;1", "Address"),
            (b"U c 1::2::3 4000 a;1", "Address"),
            (b"U c : 4000 a;1", "Address"),
            (b"U c 12345::1 4000 a;1", "Address"),
            (b"U c cafe 4000 a;1", "Address"),
            (b"U c 300.1.1.1 0 a;1", "Address"),
            (b"U c 192.0.2.7 00 a;1", "Port"),
            (b"U c 192.0.2.7 65536 a;1", "Port"),
            (b"U c 192.0.2.7 " + b"9" * 5000 + b" a;1", "Port"),
            (b"U c 192.0.2.7 4000 a;65", "index"),
            (b"U c 192.0.2.7 4000 a;4294967297", "index"),
            (b"U c 192.0.2.7 4000 a;" + b"9" * 900, "index"),
            (b"U c 192.0.2.7 4000 a;" + b"9" * 60000, "index"),
            (b"L c 192.0.2.7 4000 a;65 b;1", "index"),
            (b"U" + LONG + b" c 192.0.2.7 4000 a;1", "too long"),
            (b"U " + LONG + b" 192.0.2.7 4000 a;1", "too long"),
            (b"U " + b"y " * 600 + b"192.0.2.7 4000 a;1", "too long"),
            (b"U c;" + LONG + b" 192.0.2.7 4000 a;1", "too long"),
            (b"U c 192.0.2.7 4000 " + LONG + b";1", "too long"),
            (b"L c 192.0.2.7 4000 a;1 " + LONG + b";1", "too long"),
            (b"D " + LONG + b" a", "too long"),
            (b"D c;" + LONG + b" a", "too long"),
            (b"D c " + LONG, "too long"),
            (b"Q c a " + LONG, "too long"),
            (b"D" + LONG + b" c a", "too long"),
            (b"U\x00 c 192.0.2.7 4000 a;1", "control"),
            (b"U c\x00 192.0.2.7 4000 a;1", "control"),
            (b"U c\nd 192.0.2.7 4000 a;1", "control"),
            (b"U c;b\x01 192.0.2.7 4000 a;1", "control"),
            (b"U c 192.0.2.7 4000 a\x7f;1", "control"),
            (b"L c 192.0.2.7 4000 a;1 b\x1b;1", "control"),
            (b"D c\x00 a", "control"),
            (b"D c;\x00 a", "control"),
            (b"D c a\x00;1", "control"),
            (b"Q c a b\x00", "control"),
        ],
    )
    def test_values_that_cannot_be(self, line: bytes, reason: str) -> None:
        with pytest.raises(ProtocolError, match=reason) as caught:
            parse(line)
        assert not isinstance(caught.value, Unmatched)


class TestOtherCommands:
    @pytest.mark.parametrize(
        ("line", "command"),
        [
            (b"D c@x a", Delete("c@x", None, "a", None)),
            (b"d c@x a\r\n", Delete("c@x", None, "a", None)),
            (b"Dw c@x a b", Delete("c@x", None, "a", "b")),
            (b"D c@x a;1 b;1", Delete("c@x", None, "a", "b")),
            (b"D c@x;br a b", Delete("c@x", "br", "a", "b")),
            (b"D c@x;br;1 a", Delete("c@x", "br;1", "a", None)),
            (b"D c@x a;x", Delete("c@x", None, "a;x", None)),
            (b"D c@x a;x;7", Delete("c@x", None, "a;x", None)),
            (b"D c@x ;1", Delete("c@x", None, ";1", None)),
            (b"Q c@x a;1", Query("c@x", "a", None)),
            (b"Q c@x a;1 b;1\n", Query("c@x", "a", "b")),
            (b"q c@x;br a b", Query("c@x", "a", "b")),
            (b"V", Version()),
            (b"v\n", Version()),
            (b"V 20050322", Version()),
            (b"Vx what ever \x00", Version()),
            (b"VF 20040107", Feature(known=True)),
            (b"vf 20050322", Feature(known=True)),
            (b"VF 20060704 and more\r\n", Feature(known=True)),
            (b"VF", Feature(known=False)),
            (b"VF20050322", Feature(known=False)),
            (b"VF 2005032", Feature(known=False)),
            (b"VF " + LONG, Feature(known=False)),
        ],
    )
    def test_lines(self, line: bytes, command: rtpproxy.Command) -> None:
        assert parse(line) == command

    @pytest.mark.parametrize(
        "number",
        [20071116, 20071218, 20080403, 20081102, 20081224, 20090810, 20150420, 20150617, 20170313, 20191015],
    )
    def test_features_that_we_lack(self, number: int) -> None:
        assert parse(b"VF %d" % number) == Feature(known=False)


class TestUnmatched:
    @pytest.mark.parametrize(
        ("line", "reply"),
        [
            (b"U c1@x 192.0.2.7 4000 tagA", b"7_1 4000 192.0.2.7\n"),
            (b"L c1@x 192.0.2.7 4000 tagA;1 tagB", b"7_1 4000 192.0.2.7\n"),
            (b"u c1@x 192.0.2.7 4000\r\n", b"7_1 4000 192.0.2.7\n"),
            (b"U c1@x  192.0.2.7\t4000 tagA", b"7_1\t4000  192.0.2.7\n"),
            (b"U c1@x host.example 4000 tagA;1", b"7_1 4000 host.example\n"),
            (b"U c1@x ::192.0.2.1 4000 tagA;1", b"7_1 4000 ::192.0.2.1\n"),
            (b"U c1@x fe80::1%eth0 4000 tagA;1", b"7_1 4000 fe80::1%eth0\n"),
            (b"U c1@x 192.0.2.7 -1 tagA;1", b"7_1 -1 192.0.2.7\n"),
            (b"U c1@x 192.0.2.7 4000x tagA;1", b"7_1 4000x 192.0.2.7\n"),
            (b"U c1@x 192.0.2.7 4000 ;1", b"7_1 4000 192.0.2.7\n"),
            (b"U c1@x 192.0.2.7 4000 tagA;", b"7_1 4000 192.0.2.7\n"),
            (b"U c1@x 192.0.2.7 4000 tagA;-1", b"7_1 4000 192.0.2.7\n"),
            (b"U c1@x; 192.0.2.7 4000 tagA;1", b"7_1 4000 192.0.2.7\n"),
            (b"U ;br 192.0.2.7 4000 tagA;1", b"7_1 4000 192.0.2.7\n"),
            (b"U c1@x 192.0.2.7 4000 tagA;1 unix:/run/x", b"7_1 4000 192.0.2.7\n"),
            (b"Unknown words of any kind", b"7_1 any of\n"),
            (b"U c1@x 192.0.2.7 " + b"4" * 241, b"7_1 " + b"4" * 241 + b" 192.0.2.7\n"),
            (b"U c1@x 192.0.2.7 " + b"4" * 242, b"7_1 E8\n"),
            (b"U c1@x 192.0.2.7\x00 4000", b"7_1 E8\n"),
            (b"U c1@x 192.0.2.7 40\x0000", b"7_1 E8\n"),
            (b"U", b"7_1 E8\n"),
            (b"U c1@x", b"7_1 E8\n"),
            (b"U c1@x 192.0.2.7", b"7_1 E8\n"),
            (b"L c1@x tagA;1", b"7_1 E8\n"),
            (b"D", b"7_1 E8\n"),
            (b"D c1@x", b"7_1 E8\n"),
            (b"D c1@x a b c", b"7_1 E8\n"),
            (b"D c1@x; a", b"7_1 E8\n"),
            (b"D ;br a", b"7_1 E8\n"),
            (b"Q c1@x", b"7_1 E8\n"),
            (b"Q c1@x a b c", b"7_1 E8\n"),
            (b"P1 c1@x prompt session tagA;1 tagB;1", b"7_1 E8\n"),
            (b"S c1@x tagA;1 tagB;1", b"7_1 E8\n"),
            (b"R c1@x tagA tagB", b"7_1 E8\n"),
            (b"C c1@x a b", b"7_1 E8\n"),
            (b"I", b"7_1 E8\n"),
            (b"X", b"7_1 E8\n"),
            (b"G nsess", b"7_1 E8\n"),
            (b"N c1@x a b", b"7_1 E8\n"),
            (b"", b"7_1 E8\n"),
            (b"\x00\x01\xff", b"7_1 E8\n"),
            (b"d7:command4:pinge", b"7_1 E8\n"),
        ],
    )
    def test_reply(self, line: bytes, reply: bytes) -> None:
        with pytest.raises(Unmatched) as caught:
            parse(line)
        assert caught.value.reply(b"7_1") == reply
        assert len(reply) <= rtpproxy.MAX_REPLY


def test_replies() -> None:
    assert rtpproxy.serialize(b"7_3", rtpproxy.ERROR) == b"7_3 E8\n"
    assert rtpproxy.local_media(Endpoint("2001:db8::5", 30000)) == b"30000 2001:db8::5 6"
    assert rtpproxy.local_media(Endpoint("198.51.100.2", 30002)) == b"30002 198.51.100.2 4"
    assert rtpproxy.statistics(-7, (1, 2), (3, 4)) == b"-7 1 2 3 4"


def test_the_longest_reply_fits() -> None:
    largest = 2**64 - 1
    reply = rtpproxy.statistics(-(10**19), (largest, largest), (largest, largest))
    assert len(rtpproxy.serialize(b"k" * rtpproxy.MAX_COOKIE, reply)) <= rtpproxy.MAX_REPLY


@pytest.mark.parametrize(
    ("line", "call_id"),
    [
        (b"U c@x 192.0.2.7 4000 a;1", "c@x"),
        (b"l c@x;br 192.0.2.7 4000 a;1", "c@x"),
        (b"D c@x", "c@x"),
        (b"Q \xff a", "\udcff"),
        (b"U c\x00 192.0.2.7 4000 a;1", ""),
        (b"V 20050322", ""),
        (b"P c@x", ""),
        (b"U", ""),
        (b"", ""),
    ],
)
def test_call_id_of(line: bytes, call_id: str) -> None:
    assert rtpproxy.call_id_of(line) == call_id


@pytest.mark.parametrize(
    ("datagram", "verdict"),
    [
        (b"1_1 V", True),
        (b"1_1 VF 20050322", True),
        (b"1_1 USIE c@x 192.0.2.7 4000 a;1", True),
        (b"1_1 Uc0,8 c@x;br 2001:db8::7 4000 a;1\r\n", True),
        (b"1_1 U c@x 192.0.2.7 4000 a", True),
        (b"1_1 LSEI6 c@x 192.0.2.7 4000 a;1 b;1", True),
        (b"1_1 D c@x a b", True),
        (b"1_1 Q c@x a;1 b;1", True),
        (b"1_1 d7:command4:pinge", False),
        (b"1_1 d7:command6:delete7:call-id3:a b8:from-tag1:ae", False),
        (b"1_1 U c@x host.example 4000 a;1", False),
        (b"1_1 D c@x", False),
        (b"1_1 P c@x a b", False),
        (b"1_1", False),
        (b"", False),
        (b"\x00\x01", False),
        (b"INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP x\r\n", False),
        (b"SIP/2.0 200 OK\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (b"hello dear friend bob", False),
    ],
)
def test_looks_like(datagram: bytes, verdict: bool) -> None:
    assert rtpproxy.looks_like(datagram) is verdict


# The grammar of control-udp.md 2 as one expression: slow on hostile lines, but obviously what is written there.
GRAMMAR = re.compile(
    rb"(?P<letter>[UL])\S*\s+(?P<call>[^;\s][^;]*)(?:;(?P<branch>\S+))?"
    rb"\s+(?P<address>[0-9.]+|[0-9a-f:]+(?::ffff:[0-9.]+)?)\s+(?P<port>[0-9]+)"
    rb"\s+(?P<from>\S+);[0-9]+(?:\s+(?P<to>\S+);[0-9]+(?:\s.*)?)?\s*",
    re.IGNORECASE | re.DOTALL,
)
WORDS = st.sampled_from(["U", "LSE", "c", "c;b", ";b", "c;", "192.0.2.1", "::ffff:192.0.2.1", "ab:", "1", "0", "t;1"])
ENDPOINTS = st.sampled_from([["192.0.2.1", "1"], ["192.0.2.1", "1", "t;1"], ["2001:db8::1", "2", "t;1", "u;2"]])
LINES = st.tuples(st.lists(WORDS, max_size=4), ENDPOINTS, st.lists(WORDS, max_size=4)).map(lambda parts: sum(parts, []))


@given(LINES, st.sampled_from(["", "\n", "\r\n", " "]))
@settings(max_examples=300)
def test_same_verdict_as_the_grammar(words: list[str], end: str) -> None:
    line = (" ".join(["U", *words]) + end).encode()
    expected = GRAMMAR.fullmatch(line)
    try:
        command = parse(line)
    except Unmatched:
        assert expected is None
    except ProtocolError:
        assert expected is not None
    else:
        assert expected is not None and isinstance(command, Update)
        branch = command.how.via_branch
        found = (command.call_id, branch.encode() if branch else None, command.from_tag)
        assert found == (expected["call"].decode(), expected["branch"], expected["from"].decode())


@given(st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=12).map(lambda words: " ".join(words).encode())))
def test_any_bytes_are_a_command_or_one_error(line: bytes) -> None:
    rtpproxy.looks_like(line)
    rtpproxy.call_id_of(line)
    try:
        parse(line)
    except Unmatched as error:
        assert len(error.reply(b"k")) <= rtpproxy.MAX_REPLY
    except ProtocolError:
        pass


HOSTILE = {
    "blanks": b"U " + b" " * 60000,
    "one word": b"U c 192.0.2.7 4000 " + b"a" * 60000,
    "many words": b"U " + b"c " * 30000,
    "many addresses": b"U " + b"1.1.1.1 1 " * 6000,
    "many numbers": b"U c 192.0.2.7 4000 " + b";1" * 30000 + b"x",
    "many tags": b"U c 192.0.2.7 x " + b"t;1 " * 15000,
    "colons": b"U c " + b":ffff:" * 10000 + b"x 4000 a;1",
    "digits": b"U c " + b"1" * 60000 + b"x 4000 a;1",
    "options": b"U" + b"A6x" * 20000 + b" c 192.0.2.7 4000 a;1",
    "branches": b"U " + b"c;b " * 15000,
    "delete": b"D " + b"c;" * 30000 + b" a",
    "port": b"U c 192.0.2.7 " + b"1" * 60000 + b" a;1",
    "index": b"U c 192.0.2.7 4000 a;" + b"1" * 60000,
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(10)
def test_the_longest_lines_take_linear_time(line: bytes) -> None:
    rtpproxy.looks_like(b"k " + line)
    for _ in range(5):
        with pytest.raises(ProtocolError):
            parse(line)
