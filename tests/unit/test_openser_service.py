"""mediaproxy lines executed whole, from the request's bytes to the reply's, on paper ports."""

from __future__ import annotations

import logging

import pytest
from fakes import TOOLS, FakeTransport
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import __version__, ng
from rtpengine.media import Endpoint, Learning, MediaOffer, Signalling, StreamState
from rtpengine.openser_service import OpenserService
from rtpengine.service import NgService, log_final_statistics
from rtpengine.table import CallTable, Limits

AGENT = "192.0.2.4 a.example local b.example remote ua"
REQUEST = (
    b"request 5d@h 192.0.2.4:7078:audio,192.0.2.4:9078:video 192.0.2.4 a.example local b.example remote ua "
    b"info=from:u@a.example,to:v@b.example,fromtag:f1,totag:"
)
LOOKUP = (
    b"lookup 5d@h 192.0.2.8:5000:audio,192.0.2.8:5002:video 192.0.2.8 a.example local b.example unknown ua "
    b"info=from:u@a.example,to:v@b.example,fromtag:f1,totag:t1"
)


class Proxy:
    """Stands for OpenSER: sends lines, gets bytes; the clock stands at ``now``."""

    def __init__(self, limit: int = 1000) -> None:
        self.transport = FakeTransport(limit=limit)
        self.table = CallTable(self.transport, Limits(), Learning.HEURISTIC, TOOLS, log_final_statistics)
        self.service = OpenserService(self.table, lambda: (1000, 3))
        self.now = 100.0

    def ask(self, line: bytes) -> bytes:
        return self.service.answer(line, self.now, ["127.0.0.1:40001", "127.0.0.1:40000"])

    def query(self, call_id: str = "5d@h") -> dict[str, object]:
        return NgService(self.table).execute(ng.Query(call_id), self.now, 1_700_000_000.0)

    def hear(self, port: int, octets: int, payload_type: int | None, when: float, peer: Endpoint) -> None:
        self.transport.states[port] = StreamState(peer, True, 1, octets, 0, when, payload_type, {})


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


def line(command: str, streams: str, info: str, call_id: str = "c") -> bytes:
    return f"{command} {call_id} {streams} {AGENT} info={info}".encode()


def test_the_examples_of_the_specification(proxy: Proxy) -> None:
    assert proxy.ask(REQUEST) == b"198.51.100.2 30000 30004\n"
    assert proxy.ask(LOOKUP) == b"198.51.100.2 30002 30006\n"
    assert proxy.ask(b"delete 5d@h info=") == b""
    assert len(proxy.table) == 0 and not proxy.transport.opened


def test_streams_are_plain_rtp(proxy: Proxy) -> None:
    proxy.ask(REQUEST)
    proxy.ask(LOOKUP)
    configs = proxy.transport.configs
    # What faces the caller is on the even places: RTP and RTCP of audio, then of video.
    wanted = {30002: ("192.0.2.4", 7078), 30003: ("192.0.2.4", 7079), 30006: ("192.0.2.4", 9078),
              30000: ("192.0.2.8", 5000), 30001: ("192.0.2.8", 5001), 30004: ("192.0.2.8", 5002)}  # fmt: skip
    assert {port: configs[port].peer for port in wanted} == {port: Endpoint(*peer) for port, peer in wanted.items()}
    assert (configs[30002].rtp_sink, configs[30003].rtcp_sink) == (30000, 30001)
    assert not any(config.rtcp_mux or config.muted or config.alias for config in configs.values())


def test_repeated_and_moved(proxy: Proxy) -> None:
    first = proxy.ask(REQUEST)
    assert proxy.ask(REQUEST) == first
    proxy.ask(LOOKUP)
    assert proxy.ask(REQUEST) == first
    moved = proxy.ask(REQUEST.replace(b"192.0.2.4:7078", b"192.0.2.5:7078"))
    assert moved == b"198.51.100.2 30008 30004\n"


def test_the_callee_may_offer_later(proxy: Proxy) -> None:
    proxy.ask(REQUEST)
    proxy.ask(LOOKUP)
    again = LOOKUP.replace(b"lookup", b"request").replace(b"fromtag:f1,totag:t1", b"fromtag:t1,totag:f1")
    assert proxy.ask(again) == b"198.51.100.2 30002 30006\n"
    assert len(proxy.table) == 1 and len(proxy.table.find("5d@h").dialogues) == 1


@pytest.mark.parametrize(
    ("streams", "reply"),
    [
        ("192.0.2.4:7078", b"198.51.100.2 30000\n"),
        ("192.0.2.4:0:audio,192.0.2.4:9078:video", b"0.0.0.0 0 30000\n"),
        ("192.0.2.4:7078:audio,192.0.2.4:0:video", b"198.51.100.2 30000 0\n"),
        ("192.0.2.4:0", b"0.0.0.0 0\n"),
        ("0.0.0.0:7078", b"198.51.100.2 30000\n"),
        ("999.1.1.1:4,192.0.2.4:5,192.0.2.4:70000,192.0.2.4:6", b"198.51.100.2 30000 30004\n"),
        (
            ",".join(["1.2.3.4:5"] * 80),
            b"198.51.100.2 " + b" ".join(b"%d" % (30000 + 4 * i) for i in range(80)) + b"\n",
        ),
    ],
)
def test_replies_to_streams(proxy: Proxy, streams: str, reply: bytes) -> None:
    assert proxy.ask(line("request", streams, "fromtag:f")) == reply


def test_a_stream_can_be_disabled_in_the_answer(proxy: Proxy) -> None:
    proxy.ask(REQUEST)
    assert proxy.ask(LOOKUP.replace(b"192.0.2.8:5002", b"192.0.2.8:0")) == b"198.51.100.2 30002 0\n"


def test_hold_mutes(proxy: Proxy) -> None:
    proxy.ask(REQUEST)
    proxy.ask(LOOKUP)
    proxy.ask(REQUEST.replace(b"192.0.2.4:7078", b"0.0.0.0:7078"))
    assert proxy.transport.configs[30002].muted and not proxy.transport.configs[30006].muted


class TestTags:
    def test_an_unknown_to_tag_forks(self, proxy: Proxy) -> None:
        proxy.ask(REQUEST)
        first = proxy.ask(LOOKUP)
        second = proxy.ask(LOOKUP.replace(b"totag:t1", b"totag:t2"))
        assert second == b"198.51.100.2 30008 30010\n" != first
        assert len(proxy.table.find("5d@h").dialogues) == 2
        assert proxy.ask(LOOKUP) == first

    def test_parties_without_tags_find_each_other(self, proxy: Proxy) -> None:
        for _ in range(2):
            assert proxy.ask(line("request", "192.0.2.4:5", "fromtag:,totag:")) == b"198.51.100.2 30000\n"
            assert proxy.ask(line("lookup", "192.0.2.8:5", "fromtag:,totag:")) == b"198.51.100.2 30002\n"
        assert len(proxy.table.find("c").dialogues) == 1

    def test_query_over_ng_sees_the_call(self, proxy: Proxy) -> None:
        proxy.ask(REQUEST)
        proxy.ask(LOOKUP)
        report = proxy.query()
        assert list(report["tags"]) == ["f1", "t1"]  # type: ignore[call-overload]
        assert len(report["streams"]) == 2  # type: ignore[arg-type]


REFUSED = [
    (LOOKUP.replace(b"5d@h", b"nope"), logging.INFO, "Unknown call-id"),
    (LOOKUP.replace(b"fromtag:f1", b"fromtag:x"), logging.INFO, "Unknown from-tag"),
    (LOOKUP.replace(b",totag:t1", b""), logging.INFO, "No totag in info"),
    (LOOKUP.replace(b"fromtag:f1,", b""), logging.INFO, "No fromtag in info"),
    (REQUEST.replace(b"fromtag:f1", b"fromtag"), logging.INFO, "No fromtag in info"),
    (REQUEST.replace(b"192.0.2.4:", b"999.0.2.4:"), logging.INFO, "No usable stream"),
    (REQUEST.replace(b"fromtag:f1", b"fromtag:new").replace(b":7078", b":7080"), logging.WARNING, "Ran out of ports"),
    (line("request", "192.0.2.4:5,192.0.2.4:7", "fromtag:f", "other"), logging.WARNING, "Ran out of ports"),
    (b"delete nope info=", logging.INFO, "Unknown call-id"),
    (b"delete 5d@h", logging.INFO, "Not a command of the mediaproxy protocol"),
    (b"\x00\xff", logging.INFO, "Not a command of the mediaproxy protocol"),
]


@pytest.mark.parametrize(("bad", "level", "reason"), REFUSED)
def test_refusals_say_nothing_and_change_nothing(
    bad: bytes, level: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = Proxy(limit=5)  # the call below has four, so a second stream of another call has no ports
    proxy.ask(REQUEST)
    proxy.ask(LOOKUP)
    before, opened = proxy.query(), dict(proxy.transport.opened)
    caplog.set_level(logging.INFO)
    assert proxy.ask(bad) == b""
    assert [(record.levelno, record.getMessage()) for record in caplog.records if "refused" in record.message] == [
        (level, f"refused a request: {reason}")
    ]
    assert proxy.query() == before
    assert len(proxy.table) == 1 and proxy.transport.opened == opened


@pytest.mark.parametrize("command", [b"version", b"build"])
def test_version(proxy: Proxy, command: bytes) -> None:
    assert proxy.ask(command) == f"Version: {__version__}\n".encode()


@pytest.mark.parametrize("command", [b"quit", b"exit"])
def test_quit_says_nothing(proxy: Proxy, command: bytes) -> None:
    assert proxy.ask(command) == b""


def test_controls(proxy: Proxy) -> None:
    assert proxy.ask(b"controls") == b"127.0.0.1:40001\n127.0.0.1:40000\nEnd.\n"


class TestStatus:
    def test_no_calls(self, proxy: Proxy) -> None:
        assert proxy.ask(b"status") == b"proxy 0 1000/997/1997\n"

    def test_unanswered_calls_have_no_streams_yet(self, proxy: Proxy) -> None:
        proxy.ask(REQUEST)
        proxy.now += 7.9
        assert proxy.ask(b"status") == b"proxy 1 1000/997/1997\nsession 5d@h - - - - 7\n"

    def test_streams(self, proxy: Proxy) -> None:
        proxy.ask(REQUEST)
        proxy.ask(LOOKUP)
        learned = Endpoint("203.0.113.77", 4444)
        proxy.hear(30002, 172, 8, 103.2, learned)
        proxy.hear(30003, 60, None, 104.0, Endpoint("192.0.2.4", 7079))
        proxy.hear(30000, 1000, 0, 104.0, Endpoint("192.0.2.8", 5000))
        proxy.hear(30001, 1, None, 104.0, Endpoint("192.0.2.8", 5001))
        proxy.now = 110.0
        assert proxy.ask(b"status") == (
            b"proxy 1 1000/997/1997\n"
            b"session 5d@h - - - - 10\n"
            b"stream 203.0.113.77:4444 192.0.2.8:5000 198.51.100.2:30002 232/1001/1233 active G711a - 6\n"
            b"stream 192.0.2.4:9078 192.0.2.8:5002 198.51.100.2:30006 0/0/0 active unknown - 10\n"
        )

    @pytest.mark.parametrize(
        ("heard_a", "heard_b", "codec"),
        [(0, None, b"G711u"), (None, 9, b"G722"), (8, 0, b"G711a"), (96, 0, b"unknown"), (None, None, b"unknown")],
    )
    def test_codecs(self, proxy: Proxy, heard_a: int | None, heard_b: int | None, codec: bytes) -> None:
        proxy.ask(line("request", "192.0.2.4:5", "fromtag:f"))
        proxy.ask(line("lookup", "192.0.2.8:5", "fromtag:f,totag:t"))
        proxy.hear(30002, 1, heard_a, 100.0, Endpoint("192.0.2.4", 5))
        proxy.hear(30000, 1, heard_b, 100.0, Endpoint("192.0.2.8", 5))
        assert b"1/1/2 active " + codec + b" - 0\n" in proxy.ask(b"status")

    def test_disabled_streams_are_left_out(self, proxy: Proxy) -> None:
        proxy.ask(REQUEST.replace(b":7078", b":0"))
        proxy.ask(LOOKUP.replace(b":5000", b":0"))
        assert proxy.ask(b"status").count(b"\nstream ") == 1

    def test_calls_of_other_protocols(self, proxy: Proxy) -> None:
        proxy.table.offer("v6\nproxy 9", "f", _said("2001:db8::4"), Signalling(family=4), 100.0)
        proxy.table.answer("v6\nproxy 9", "f", "t", _said("192.0.2.8"), Signalling(family=6), 100.0)
        _, session, stream = proxy.ask(b"status").splitlines()
        assert session == b"session v6=0Aproxy=209 - - - - 0"
        assert stream.startswith(b"stream [2001:db8::4]:4000 192.0.2.8:4000 [2001:db8::2]:")


def _said(address: str) -> list[MediaOffer]:
    return [MediaOffer("audio", Endpoint(address, 4000), Endpoint(address, 4001), "RTP/AVP")]


PIECES = st.sampled_from(
    [b"request ", b"lookup ", b"delete ", b"status", b"c ", b"1.2.3.4:5", b"1.2.3.4:0 ", b",", b" a a a a a a ",
     b"info=", b"fromtag:f", b"totag:t", b":", b"\x00", b"\xff", b" "]
)  # fmt: skip


@given(st.lists(st.one_of(st.binary(max_size=100), st.lists(PIECES, max_size=12).map(b"".join)), max_size=10))
def test_arbitrary_lines_never_raise(lines: list[bytes]) -> None:
    proxy = Proxy()
    for each in lines:
        reply = proxy.ask(each)
        assert reply == b"" or reply.endswith(b"\n")
    held = {ports.port for call in proxy.table for m in call.media_ports for ports in m.open_sets()}
    assert held == set(proxy.transport.opened)
