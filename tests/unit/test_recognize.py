"""Requests on the wrong port are named with the option to use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine.recognize import name_protocol, start_line_of

CASES = [
    (b"5323_1 d7:command4:pinge", "--listen-ng"),
    (b"5323_1 d7:call-id3:abc7:command5:offere", "--listen-ng"),
    (b"12_1 USIE 0c1@pc 192.0.2.10 49170 fa11;1", "--listen-udp"),
    (b"12_2 LS 0c1@pc 2001:db8::77 5004 fa11;1 7b9;1", "--listen-udp"),
    (b"12_3 V", "--listen-udp"),
    (b"12_4 VF 20050322", "--listen-udp"),
    (b"12_5 D callid from to\n", "--listen-udp"),
    (b"request c@h 192.0.2.4:7078:audio 192.0.2.4 a local b remote ua info=fromtag:f1\n", "--listen-tcp"),
    (b"delete c@h info=\r\n", "--listen-tcp"),
    (b"status\r\n", "--listen-tcp"),
    (b"INVITE sip:bob@example.net SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1\r\n\r\n", "SIP"),
    (b"\r\n\r\nOPTIONS sip:proxy SIP/2.0\r\n\r\n", "SIP"),
    (b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n", "SIP"),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
    (b"POST /ng HTTP/1.0\r\n\r\n", "HTTP"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
]


@pytest.mark.parametrize(("request_", "named"), CASES)
def test_named(request_: bytes, named: str) -> None:
    assert named in str(name_protocol(request_))


@pytest.mark.parametrize(
    "noise", [b"", b" ", b"\0\0\0\0", b"hello world", b"1 x", b"\x80\x00" + bytes(170), b"d4:pinge"]
)
def test_not_named(noise: bytes) -> None:
    assert name_protocol(noise) is None


@given(st.binary(max_size=4000))
def test_never_raises(data: bytes) -> None:
    name_protocol(data)
    start_line_of(data)


@pytest.mark.parametrize(("request_", "named"), [case for case in CASES if case[1] in ("HTTP", "SIP")])
def test_lines_that_begin_a_message(request_: bytes, named: str) -> None:
    assert start_line_of(request_.lstrip().splitlines(keepends=True)[0]) == named


@pytest.mark.parametrize(
    "line",
    [case[0] for case in CASES if case[1].startswith("--")]
    + [b"", b"why HTTP/1.1\n", b"terminate all\n", b"GET /\n", b"Host: x\n", b"HTTP/1.1\n", b"SIP/2.0 20000 x\n"],
)
def test_lines_that_do_not(line: bytes) -> None:
    assert start_line_of(line) is None
