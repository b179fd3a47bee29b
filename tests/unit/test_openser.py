"""The mediaproxy codec: lines of the specification byte for byte, what its grammar refuses, and arbitrary bytes."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ProtocolError, openser
from rtpengine.media import Endpoint, MediaOffer
from rtpengine.openser import Controls, Delete, Lookup, Quit, Request, Status, StreamStatus, Version

WORDS = "192.0.2.4 a.example local b.example remote ua"
REQUEST = (
    f"request 5d@h 192.0.2.4:7078:audio,192.0.2.4:9078:video {WORDS} "
    "info=from:u@a.example,to:v@b.example,fromtag:f1,totag:"
).encode()
LOOKUP = (
    b"lookup 5d@h 192.0.2.8:5000:audio,192.0.2.8:5002:video 192.0.2.8 a.example local b.example unknown ua "
    b"info=from:u@a.example,to:v@b.example,fromtag:f1,totag:t1"
)


def stream(address: str, port: int, kind: str = "audio") -> MediaOffer:
    rtcp = Endpoint(address, port + 1) if port < 65535 else None
    return MediaOffer(kind, Endpoint(address, port), rtcp, "RTP/AVP", rejected=port == 0)


def request(streams: str = "192.0.2.4:7078", info: str = "fromtag:f") -> openser.Command:
    return openser.parse(f"request c {streams} {WORDS} info={info}".encode())


AUDIO_VIDEO = [stream("192.0.2.4", 7078), stream("192.0.2.4", 9078, "video")]
LONG = "x" * 400

COMMANDS: list[tuple[bytes, openser.Command]] = [
    (REQUEST, Request("5d@h", AUDIO_VIDEO, "f1")),
    (LOOKUP, Lookup("5d@h", [stream("192.0.2.8", 5000), stream("192.0.2.8", 5002, "video")], "f1", "t1")),
    (REQUEST.replace(b" ", b"  \t "), Request("5d@h", AUDIO_VIDEO, "f1")),
    (LOOKUP.replace(b"totag:t1", b"totag:"), Lookup("5d@h", openser.parse(LOOKUP).offers, "f1", "")),  # type: ignore[union-attr]
    (b"delete 5d@h info=", Delete("5d@h")),
    (b"delete \xff\x00\xfe info=from:x,totag", Delete("\udcff\x00\udcfe")),
    (b"delete   5d@h\tinfo=", Delete("5d@h")),
    (b"delete " + LONG.encode() + b" info=", Delete(LONG)),
    (b"status", Status()),
    (b"version", Version()),
    (b"build", Version()),
    (b"controls", Controls()),
    (b"quit", Quit()),
    (b"exit", Quit()),
]


@pytest.mark.parametrize(("line", "command"), COMMANDS, ids=[repr(line[:30]) for line, _ in COMMANDS])
def test_commands(line: bytes, command: openser.Command) -> None:
    assert openser.parse(line) == command
    assert openser.looks_like(line + b"\r\n") and openser.looks_like(b"\r\n\n" + line)


@pytest.mark.parametrize(
    ("streams", "offers"),
    [
        ("192.0.2.4:7078", [stream("192.0.2.4", 7078)]),
        ("192.0.2.4:7078:", [stream("192.0.2.4", 7078)]),
        ("192.0.2.4:7078:a:b;c", [stream("192.0.2.4", 7078, "a:b;c")]),
        ("192.0.2.4:0007078", [stream("192.0.2.4", 7078)]),
        ("192.0.2.4:0", [stream("192.0.2.4", 0)]),
        ("192.0.2.4:1", [stream("192.0.2.4", 1)]),
        ("192.0.2.4:65535", [stream("192.0.2.4", 65535)]),
        ("0.0.0.0:7078:audio", [stream("0.0.0.0", 7078)]),
        # what cannot be used is skipped, and the next one takes its index
        ("192.0.2.4:65536,192.0.2.5:2", [stream("192.0.2.5", 2)]),
        (f"192.0.2.4:{'9' * 600},192.0.2.5:2", [stream("192.0.2.5", 2)]),
        ("999.1.1.1:7078,192.0.2.5:2", [stream("192.0.2.5", 2)]),
        ("255.255.255.255:7078,192.0.2.5:2", [stream("192.0.2.5", 2)]),
        ("1.2.3:7078,192.0.2.5:2", [stream("192.0.2.5", 2)]),
        ("....:7078,192.0.2.5:2", [stream("192.0.2.5", 2)]),
        ("192.0.2.4:7,999.1.1.1:8:video,192.0.2.5:2", [stream("192.0.2.4", 7), stream("192.0.2.5", 2)]),
        # what does not fit ends the list, and what came before counts
        ("192.0.2.4:7,", [stream("192.0.2.4", 7)]),
        ("192.0.2.4:7,,192.0.2.5:2", [stream("192.0.2.4", 7)]),
        ("192.0.2.4:7,host.example:8,192.0.2.5:2", [stream("192.0.2.4", 7)]),
        ("192.0.2.4:7,[2001:db8::1]:8,192.0.2.5:2", [stream("192.0.2.4", 7)]),
        ("192.0.2.4:7,192.0.2.5:-2", [stream("192.0.2.4", 7)]),
        ("192.0.2.4:7,192.0.2.5:2x,192.0.2.6:3", [stream("192.0.2.4", 7)]),
        ("192.0.2.4:7,192.0.2.5", [stream("192.0.2.4", 7)]),
    ],
)
def test_streams(streams: str, offers: list[MediaOffer]) -> None:
    assert request(streams) == Request("c", offers, "f")


@pytest.mark.parametrize("streams", ["999.1.1.1:8", "192.0.2.4:65536:audio"])
def test_a_skipped_stream_is_logged(streams: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    request(f"{streams},192.0.2.5:2")
    (message,) = caplog.messages
    assert streams in message


@pytest.mark.parametrize(
    ("info", "tag"),
    [
        ("fromtag:f", "f"),
        ("fromtag:", ""),
        ("fromtag:a:b:", "a:b:"),
        ("fromtag:a,fromtag:b", "b"),
        ("fromtag,fromtag:b", "b"),
        ("from:u@a,to:v@b,domain:d,asymmetric,fromtag:f,totag:", "f"),
        (",,:x,fromtag:f,", "f"),
        ("fromtag:é", "é"),
        ("fromtag:x=y", "x=y"),
    ],
)
def test_info(info: str, tag: str) -> None:
    command = request(info=info)
    assert isinstance(command, Request) and command.from_tag == tag


NO_TAG = ["", "fromtag", "fromtag:a,fromtag", "totag:f", "Fromtag:f", "xfromtag:f", "from:fromtag:f", ","]
NO_STREAM = ["x", ",", ":", "192.0.2.4", "192.0.2.4:", ":5000", "192.0.2.4:x", "192.0.2.4:-1", "192.0.2.4:+1", "host:5",
             "[::1]:5", "::1:5", ",192.0.2.4:5", "192.0.2.4:5.", "999.1.1.1:5", "255.255.255.255:5", "192.0.2.4:65536",
             "192.0.2.4:99999999999999999999", "1.2.3.4.5:5", "192.0.02.4:5", "\x00:5",
             "\N{ARABIC-INDIC DIGIT ONE}.1.1.1:5"]  # fmt: skip
NO_COMMAND = [
    b"", b" ", b"\x00", b"\r", b"\xff\xfe\xfd", b"x", b"help", b"STATUS", b"Version", b"status ", b" status",
    b"status x", b"version\r", b"version\x00", b"versions", b"quit now", b"build\t", b"controls info=", b"request",
    b"lookup ", b"delete", b"delete c", b"delete info=", b"delete c info",
    b"delete c INFO=", b"delete c d info=", b"delete c info= x",
    b"delete c info=a b", b"\x00delete c info=", REQUEST + b" x", REQUEST + b" ", b" " + REQUEST,
    REQUEST.replace(b" ua ", b" "), REQUEST.replace(b" ua ", b" u a "), REQUEST.replace(b"info=", b"info:"),
    REQUEST.replace(b"info=", b""), REQUEST.replace(b"request", b"Request"), REQUEST.replace(b"request ", b"request"),
    REQUEST.replace(b"request", b"update"), LOOKUP.replace(b"5d@h ", b""), LOOKUP.replace(b" ", b""),
    LOOKUP.replace(b" ", b"\xc2\xa0"), b"INVITE sip:a@b SIP/2.0", b"GET / HTTP/1.1", b"81_1 d7:command4:pinge",
    b"8_1 V",
]  # fmt: skip
MALFORMED = [
    *((line, openser.NO_COMMAND) for line in NO_COMMAND),
    *((f"request c {streams} {WORDS} info=fromtag:f".encode(), "No usable stream") for streams in NO_STREAM),
    *((f"request c 192.0.2.4:5 {WORDS} info={info}".encode(), "No fromtag in info") for info in NO_TAG),
    (LOOKUP.replace(b",totag:t1", b""), "No totag in info"),
    (LOOKUP.replace(b"totag:t1", b"totag"), "No totag in info"),
    (LOOKUP.replace(b"fromtag:f1", b"fromtag"), "No fromtag in info"),
]


@pytest.mark.parametrize(("line", "reason"), MALFORMED)
def test_malformed_lines(line: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        openser.parse(line)
    assert str(caught.value) == reason


class TestFraming:
    @pytest.mark.parametrize(
        ("received", "line", "rest"),
        [
            (b"", None, b""),
            (b"version", None, b"version"),
            (b"version\n", b"version", b""),
            (b"version\r\n", b"version", b""),
            (b"version\r\r\n", b"version\r", b""),
            (b"\n\r\n\nversion\nstatus\n", b"version", b"status\n"),
            (b"\n\r\n", None, b""),
            (b"\r\n\r", None, b"\r"),
            (b"\rversion\n", b"\rversion", b""),
            (b"\0\n", b"\0", b""),
            (b"x" * 1024, None, b"x" * 1024),
            (b"x" * 1024 + b"\n", b"x" * 1024, b""),
            (b"x" * 1023 + b"\r\n", b"x" * 1023, b""),
            (b"\n" * 5000 + b"quit\n", b"quit", b""),
        ],
    )
    def test_lines(self, received: bytes, line: bytes | None, rest: bytes) -> None:
        buffer = bytearray(received)
        assert openser.take_line(buffer) == line
        assert buffer == rest

    @pytest.mark.parametrize("received", [b"x" * 1025, b"x" * 1025 + b"\n", b"\n\n" + b"x" * 1025, b"y" * 300_000])
    def test_too_long(self, received: bytes) -> None:
        with pytest.raises(ProtocolError, match="1024"):
            openser.take_line(bytearray(received))

    @given(st.lists(st.binary(max_size=40), max_size=20))
    def test_pieces_do_not_matter(self, pieces: list[bytes]) -> None:
        whole, buffer = bytearray(b"".join(pieces)), bytearray()
        found = None
        for piece in pieces:
            buffer += piece
            found = openser.take_line(buffer) if found is None else found
        assert (found, bytes(buffer)) == (openser.take_line(whole), bytes(whole))


@pytest.mark.parametrize(
    ("data", "is_ours"),
    [
        (REQUEST, True),
        (LOOKUP + b"\n", True),
        (b"delete c info=", True),
        (b"status\r\n", True),
        (b"status\nversion\n", True),
        (b"request c 1.2.3.4:5", True),
        (b"81_1 d7:command4:pinge", False),
        (b"status d7:command4:pinge", False),
        (b"delete d7:command4:pinge", False),
        (b"8_1 V", False),
        (b"8_1 Uc0,8 call 1.2.3.4 5000 f;1", False),
        (b"INVITE sip:a@b SIP/2.0\r\n", False),
        (b"GET /status HTTP/1.1\r\n", False),
        (b"request for comments", False),
        (b"", False),
    ],
)
def test_the_protocol_is_recognized(data: bytes, is_ours: bool) -> None:
    assert openser.looks_like(data) is is_ours


@pytest.mark.parametrize(
    ("line", "call_id"),
    [
        (REQUEST, "5d@h"),
        (b"delete c", "c"),
        (b"lookup \xff x", "\udcff"),
        (b"status", ""),
        (b"", ""),
        (b"request ", ""),
    ],
)
def test_call_id_for_the_log(line: bytes, call_id: str) -> None:
    assert openser.call_id(line) == call_id


A, B = Endpoint("203.0.113.9", 30000), Endpoint("2001:db8::1", 30004)


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (openser.media_reply([A]), b"203.0.113.9 30000\n"),
        (openser.media_reply([A, Endpoint("203.0.113.9", 30004)]), b"203.0.113.9 30000 30004\n"),
        (openser.media_reply([A, None, A]), b"203.0.113.9 30000 0 30000\n"),
        (openser.media_reply([None, A]), b"0.0.0.0 0 30000\n"),
        (openser.version_reply("1.2.3"), b"Version: 1.2.3\n"),
        (openser.controls_reply(["127.0.0.1:5", "192.0.2.1:6"]), b"127.0.0.1:5\n192.0.2.1:6\nEnd.\n"),
        (openser.controls_reply([]), b"End.\n"),
        (openser.status_reply(0, 0, 0, []), b"proxy 0 0/0/0\n"),
        (openser.status_reply(2, 1000, 3, ["x", "y"]), b"proxy 2 1000/997/1997\nx\ny\n"),
        (openser.session_line("5d@h", 17).encode(), b"session 5d@h - - - - 17"),
        (openser.session_line("a b\n=\x7f", 0).encode(), b"session a=20b=0A==7F - - - - 0"),
        (openser.status_reply(1, 0, 0, ["\udcff\xe9"]), b"proxy 1 0/0/0\n\xff\xc3\xa9\n"),
        (
            openser.stream_line(StreamStatus((A, B), A, (100, 23), "G711u", 4)).encode(),
            b"stream 203.0.113.9:30000 [2001:db8::1]:30004 203.0.113.9:30000 100/23/123 active G711u - 4",
        ),
    ],
)
def test_replies(reply: bytes, wanted: bytes) -> None:
    assert reply == wanted


LINES = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [b"request", b"lookup", b"delete", b"status", b" ", b"  ", b"c", b"1.2.3.4:5", b",", b":", b"info=",
             b"\x00", b"fromtag:f", b"totag:", b"9" * 20, b"a a a a a a ", b"\xff", b"."]
        ),
        max_size=30,
    ).map(b"".join),
)  # fmt: skip


@given(LINES)
def test_arbitrary_bytes_are_a_command_or_refused(line: bytes) -> None:
    openser.call_id(line)
    try:
        command = openser.parse(line)
    except ProtocolError:
        return
    assert openser.looks_like(line)
    for offer in getattr(command, "offers", []):
        assert 0 <= offer.endpoint.port <= 65535 and offer.rejected == (offer.endpoint.port == 0)


@given(st.integers(0, len(REQUEST) - 1), st.binary(max_size=3))
def test_mutations_are_a_command_or_refused(position: int, insert: bytes) -> None:
    try:
        openser.parse(REQUEST[:position] + insert + REQUEST[position + 1 :])
    except ProtocolError as error:
        assert str(error)
