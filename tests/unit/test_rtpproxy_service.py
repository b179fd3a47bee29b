"""rtpproxy commands executed whole, from the datagram to the reply, on paper ports."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fakes import TOOLS, FakeTransport
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ng, rtpproxy
from rtpengine.media import IPV4, IPV6, Endpoint, Learning, StreamState
from rtpengine.report import CallReport
from rtpengine.rtpproxy_service import RtpproxyService
from rtpengine.service import NgService, log_final_statistics
from rtpengine.table import CallTable, Limits

A, B, B2 = "192.0.2.10 49170", "192.0.2.20 5004", "192.0.2.30 6004"


class Proxy:
    """Stands for the SIP proxy: sends datagrams, gets datagrams."""

    def __init__(self, limit: int = 1000, families: frozenset[int] = frozenset((IPV4, IPV6))) -> None:
        self.transport = FakeTransport(limit=limit, families=families)
        self.table = CallTable(self.transport, Limits(), Learning.HEURISTIC, TOOLS, log_final_statistics)
        self.service = RtpproxyService(self.table, "10.0.0.2")
        self.now = 1000.0
        self.may_be_cached = False

    def send(self, datagram: bytes) -> bytes:
        cookie, line = rtpproxy.split(datagram)
        reply, self.may_be_cached = self.service.answer(cookie, line, self.now, 1_700_000_000.0)
        assert len(reply) <= rtpproxy.MAX_REPLY
        return reply

    def ask(self, line: str) -> str:
        """The reply without the cookie and the line end."""
        reply = self.send(b"1_1 " + line.encode())
        assert reply.startswith(b"1_1 ") and reply.endswith(b"\n") and reply.count(b"\n") == 1
        return reply[4:-1].decode()

    def place(self) -> None:
        """A call ``c`` from tag ``a`` to tag ``b``, with ports 30000 facing ``b`` and 30002 facing ``a``."""
        assert self.ask(f"U c {A} a;1") == "30000 198.51.100.2 4"
        assert self.ask(f"L c {B} a;1 b;1") == "30002 198.51.100.2 4"

    def hear(self, port: int, packets: int, when: float) -> None:
        self.transport.heard[port] = when
        self.transport.states[port] = StreamState(None, True, packets, 0, 0, when, None, {})

    def peers(self) -> dict[int, str]:
        """Which endpoint each open port sends to."""
        return {port: str(config.peer) for port, config in sorted(self.transport.configs.items())}

    def snapshot(self) -> list[Any]:
        """Everything that a command could have changed."""
        calls = [
            (call.call_id, call.last_signal, sorted(call.via_branches), CallReport(call, 0, 0).query())
            for call in self.table
        ]
        return [calls, dict(self.transport.opened), dict(self.transport.configs), self.transport.next_port]


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


class TestExamplesOfTheSpecification:
    def test_offer_and_answer_across_families(self, proxy: Proxy) -> None:
        assert proxy.send(b"12_1 USIE 0c1@pc 192.0.2.10 49170 fa11;1") == b"12_1 30000 2001:db8::2 6\n"
        assert proxy.send(b"12_2 LS 0c1@pc 2001:db8::77 5004 fa11;1 7b9;1") == b"12_2 30002 198.51.100.2 4\n"
        assert proxy.peers() == {
            30000: "[2001:db8::77]:5004",
            30001: "[2001:db8::77]:5005",
            30002: "192.0.2.10:49170",
            30003: "192.0.2.10:49171",
        }

    @pytest.mark.parametrize(
        ("request_", "reply"),
        [
            (b"7_1 U c1@x 192.0.2.7 4000 tagA", b"7_1 4000 192.0.2.7\n"),
            (b"7_2 P1 c1@x prompt session tagA;1 tagB;1", b"7_2 E8\n"),
            (b"7_3 X", b"7_3 E8\n"),
            (b"7_4", b"7_4 E8\n"),
            (b"7_5 V", b"7_5 20040107\n"),
            (b"7_5 V 20050322", b"7_5 20040107\n"),
            (b"7_6 VF 20040107", b"7_6 1\n"),
            (b"7_6 VF 20050322\r\n", b"7_6 1\n"),
            (b"7_6 VF 20060704", b"7_6 1\n"),
            (b"7_7 VF 20071116", b"7_7 0\n"),
            (b"7_7 VF", b"7_7 0\n"),
        ],
    )
    def test_recomputed_each_time(self, proxy: Proxy, request_: bytes, reply: bytes) -> None:
        assert proxy.send(request_) == reply
        assert not proxy.may_be_cached

    def test_what_is_remembered(self, proxy: Proxy) -> None:
        for line in (f"U c {A} a;1", f"L c {B} a;1 b;1", "Q c a", "D c a", "D c a", "Q c a", f"L c {B} a;1 b;1"):
            proxy.ask(line)
            assert proxy.may_be_cached, line


class TestMedia:
    def test_a_call(self, proxy: Proxy) -> None:
        proxy.place()
        assert proxy.peers() == {
            30000: "192.0.2.20:5004",
            30001: "192.0.2.20:5005",
            30002: "192.0.2.10:49170",
            30003: "192.0.2.10:49171",
        }
        sinks = {port: (config.rtp_sink, config.rtcp_sink) for port, config in proxy.transport.configs.items()}
        assert sinks == {30000: (30002, 30003), 30001: (0, 30003), 30002: (30000, 30001), 30003: (0, 30001)}

    def test_sections_come_one_by_one(self, proxy: Proxy) -> None:
        assert proxy.ask("U c 192.0.2.10 4000 a;1") == "30000 198.51.100.2 4"
        assert proxy.ask("U c 192.0.2.10 4002 a;2") == "30004 198.51.100.2 4"
        assert proxy.ask("U c 192.0.2.10 4004 a;3") == "30008 198.51.100.2 4"
        assert proxy.ask("L c 192.0.2.20 5000 a;1 b;1") == "30002 198.51.100.2 4"
        assert proxy.ask("L c 192.0.2.20 5002 a;2 b;2") == "30006 198.51.100.2 4"
        assert proxy.ask("L c 192.0.2.20 5004 a;3 b;3") == "30010 198.51.100.2 4"
        assert len(proxy.table) == 1
        assert proxy.peers()[30008] == "192.0.2.20:5004" and proxy.peers()[30002] == "192.0.2.10:4000"

    def test_sections_in_any_order(self, proxy: Proxy) -> None:
        assert proxy.ask("U c 192.0.2.10 4004 a;3") == "30000 198.51.100.2 4"
        assert proxy.ask("U c 192.0.2.10 4000 a;1") == "30004 198.51.100.2 4"
        assert proxy.ask("L c 192.0.2.20 5004 a;3 b;3") == "30002 198.51.100.2 4"
        assert proxy.ask("U c 192.0.2.10 4000 a;64") == "30008 198.51.100.2 4"

    def test_the_same_endpoint_gets_the_same_ports(self, proxy: Proxy) -> None:
        proxy.place()
        assert proxy.ask(f"U c {A} a;1 b;1") == "30000 198.51.100.2 4"
        assert proxy.ask(f"U c {B} b;1 a;1") == "30002 198.51.100.2 4"
        assert proxy.ask(f"L c {A} b;1 a;1") == "30000 198.51.100.2 4"

    def test_forks(self, proxy: Proxy) -> None:
        proxy.place()
        fork = proxy.ask(f"L c {B2} a;1 b2;1")
        assert fork == "30004 198.51.100.2 4"
        assert proxy.peers()[30000] == "192.0.2.30:6004"
        assert proxy.ask(f"L c {B} a;1 b;1") == "30002 198.51.100.2 4"
        assert proxy.peers()[30000] == "192.0.2.20:5004"
        assert proxy.ask("D c a b2") == "0"
        assert len(proxy.table) == 1

    def test_an_answer_without_a_tag_is_named_later(self, proxy: Proxy) -> None:
        proxy.ask(f"U c {A} a;1")
        assert proxy.ask(f"L c {B} a;1") == "30002 198.51.100.2 4"
        assert proxy.ask("Q c a b") == "E8"
        assert proxy.ask(f"L c {B} a;1 b;1") == "30002 198.51.100.2 4"
        assert proxy.ask("Q c a b") == "3600 0 0 0 0"

    @pytest.mark.parametrize(
        ("options", "families", "offered", "answered"),
        [
            (("", ""), (IPV4, IPV6), "30000 198.51.100.2 4", "30002 198.51.100.2 4"),
            (("IE", "EI"), (IPV4, IPV6), "30000 2001:db8::2 6", "30002 198.51.100.2 4"),
            (("EI", "IE"), (IPV4, IPV6), "30000 198.51.100.2 4", "30004 2001:db8::2 6"),
            (("EE", "II"), (IPV4, IPV6), "30000 2001:db8::2 6", "30002 198.51.100.2 4"),
            (("IE", "EI"), (IPV4,), "30000 198.51.100.2 4", "30002 198.51.100.2 4"),
        ],
    )
    def test_families(self, options: tuple[str, str], families: tuple[int, ...], offered: str, answered: str) -> None:
        proxy = Proxy(families=frozenset(families))
        assert proxy.ask(f"U{options[0]} c {A} a;1") == offered
        assert proxy.ask(f"L{options[1]} c {B} a;1 b;1") == answered

    def test_an_answer_goes_back_in_the_family_of_the_offer(self, proxy: Proxy) -> None:
        assert proxy.ask("UEI6 c 2001:db8::77 4000 a;1") == "30000 198.51.100.2 4"
        assert proxy.ask(f"L c {B} a;1 b;1") == "30002 2001:db8::2 6"

    def test_hold_keeps_the_ports(self, proxy: Proxy) -> None:
        proxy.place()
        assert proxy.ask("U c 0.0.0.0 49170 a;1 b;1") == "30000 198.51.100.2 4"
        assert proxy.ask(f"L c {B} a;1 b;1") == "30002 198.51.100.2 4"
        assert proxy.transport.configs[30002].muted and not proxy.transport.configs[30000].muted
        assert proxy.ask(f"U c {A} a;1 b;1") == "30000 198.51.100.2 4"
        assert not proxy.transport.configs[30002].muted

    def test_hold_from_the_start_gets_a_port(self, proxy: Proxy) -> None:
        assert proxy.ask("U c 0.0.0.0 49170 a;1") == "30000 198.51.100.2 4"
        assert proxy.ask("UIE d :: 49170 a;1") == "30004 2001:db8::2 6"

    @pytest.mark.parametrize(
        ("lines", "reply"),
        [
            (["U c 192.0.2.10 0 a;1"], "0 0.0.0.0 4"),
            (["U c 0.0.0.0 0 a;1"], "0 0.0.0.0 4"),
            (["U c 2001:db8::7 0 a;1"], "0 0.0.0.0 4"),
            (["UIE c 192.0.2.10 0 a;1"], "0 :: 6"),
            ([f"U c {A} a;1", "L c 192.0.2.20 0 a;1 b;1"], "0 0.0.0.0 4"),
            (["U c 2001:db8::7 4000 a;1", "L c 192.0.2.20 0 a;1 b;1"], "0 :: 6"),
            ([f"UIE c {A} a;1", "LEI c 2001:db8::7 5000 a;1 b;1", "U c 192.0.2.10 0 a;1"], "0 :: 6"),
            ([f"U c {A} a;1", "U c 192.0.2.10 0 a;2"], "0 0.0.0.0 4"),
        ],
    )
    def test_disabled(self, proxy: Proxy, lines: list[str], reply: str) -> None:
        assert [proxy.ask(line) for line in lines][-1] == reply
        assert len(proxy.table) == 1

    def test_disabling_a_section_leaves_the_others(self, proxy: Proxy) -> None:
        proxy.place()
        proxy.ask("U c 192.0.2.10 4002 a;2")
        assert proxy.ask("U c 192.0.2.10 0 a;2") == "0 0.0.0.0 4"
        assert proxy.transport.configs[30000].rtp_sink == 30002
        assert proxy.transport.configs[30004].rtp_sink == 0


class TestFailures:
    @pytest.mark.parametrize(
        "line",
        [f"L nope {B} a;1 b;1", f"L nope {B} a;1", f"L c {B} x;1 y;1", f"L c {B} x;1 b;1", "L nope 0.0.0.0 0 a;1 b;1"],
    )
    def test_an_answer_to_nothing(self, proxy: Proxy, line: str) -> None:
        proxy.place()
        before = proxy.snapshot()
        assert proxy.ask(line) == "0 10.0.0.2"
        assert proxy.may_be_cached
        assert proxy.snapshot() == before

    def test_no_ports_for_an_offer(self) -> None:
        proxy = Proxy(limit=1)
        assert proxy.ask(f"U c {A} a;1") == "0 198.51.100.2 4"
        assert proxy.ask(f"UIE c {A} a;1") == "0 2001:db8::2 6"
        assert proxy.may_be_cached
        assert len(proxy.table) == 0 and not proxy.transport.opened

    def test_no_ports_for_an_answer(self) -> None:
        proxy = Proxy(limit=2)
        proxy.ask("U c 2001:db8::7 4000 a;1")
        before = proxy.snapshot()
        # The answerer was offered IPv4; its IPv6 endpoint needs another socket, and there is none.
        assert proxy.ask("L c 2001:db8::9 5000 a;1 b;1") == "0 2001:db8::2 6"
        assert proxy.snapshot() == before

    def test_a_family_that_we_lack(self) -> None:
        proxy = Proxy(families=frozenset((IPV4,)))
        assert proxy.ask("U c 2001:db8::7 4000 a;1") == "E8"
        assert len(proxy.table) == 0 and not proxy.transport.opened

    def test_a_party_cannot_answer_itself(self, proxy: Proxy) -> None:
        proxy.place()
        before = proxy.snapshot()
        assert proxy.ask(f"L c {B} a;1 a;1") == "E8"
        assert proxy.snapshot() == before


class TestDelete:
    @pytest.mark.parametrize("tags", ["a", "b", "a b", "a;1 b;1", "b a", "a unknown", "b unknown"])
    def test_ends_the_call(self, proxy: Proxy, tags: str) -> None:
        proxy.place()
        assert proxy.ask(f"D c {tags}") == "0"
        assert len(proxy.table) == 0 and not proxy.transport.opened
        assert proxy.ask(f"D c {tags}") == "E8"

    @pytest.mark.parametrize("line", ["D nope a", "D c x", "D c x y", "D c;br a", "D c a;b"])
    def test_nothing_matches(self, proxy: Proxy, line: str) -> None:
        proxy.place()
        before = proxy.snapshot()
        assert proxy.ask(line) == "E8"
        assert proxy.snapshot() == before

    def test_branch_by_branch(self, proxy: Proxy) -> None:
        proxy.ask(f"U c;z9hG4bK1 {A} a;1")
        proxy.ask(f"U c;z9hG4bK2 {A} a;1")
        proxy.ask(f"L c;z9hG4bK2 {B} a;1 b;1")
        assert proxy.ask("D c;other a") == "E8"
        assert proxy.ask("D c;z9hG4bK1 a") == "0"
        assert len(proxy.table) == 1 and proxy.transport.opened
        assert proxy.ask("D c;z9hG4bK2 a b") == "0"
        assert len(proxy.table) == 0 and not proxy.transport.opened

    def test_without_a_branch_the_call_ends(self, proxy: Proxy) -> None:
        proxy.ask(f"U c;z9hG4bK1 {A} a;1")
        proxy.ask(f"U c;z9hG4bK2 {A} a;1")
        assert proxy.ask("D c a") == "0"
        assert len(proxy.table) == 0


class TestQuery:
    def test_before_the_first_packet(self, proxy: Proxy) -> None:
        proxy.place()
        proxy.now += 10.9
        assert proxy.ask("Q c a;1 b;1") == "3590 0 0 0 0"

    @pytest.mark.parametrize(
        ("tags", "reply"),
        [
            ("a", "3598 5 6 7 8"),
            ("a;1 b;1", "3598 5 6 7 8"),
            ("b a", "3598 7 8 5 6"),
            ("x", "E8"),
            ("a x", "E8"),
            ("x a", "E8"),
            ("a a", "E8"),
        ],
    )
    def test_counts_by_side(self, proxy: Proxy, tags: str, reply: str) -> None:
        proxy.place()
        proxy.hear(30002, 5, 1001.0)
        proxy.hear(30003, 6, 1003.5)
        proxy.hear(30000, 7, 1002.0)
        proxy.hear(30001, 8, 1000.5)
        proxy.now = 1005.75
        assert proxy.ask(f"Q c {tags}") == reply

    def test_all_sections_count(self, proxy: Proxy) -> None:
        proxy.place()
        proxy.ask("U c 192.0.2.10 4002 a;2")
        proxy.ask("L c 192.0.2.20 5006 a;2 b;2")
        for port in (30002, 30006):
            proxy.hear(port, 4, 1000.0)
        assert proxy.ask("Q c a b") == "3600 8 0 0 0"

    def test_time_to_live_may_be_negative(self, proxy: Proxy) -> None:
        proxy.place()
        proxy.now += 3607
        assert proxy.ask("Q c a") == "-7 0 0 0 0"

    def test_unknown_call(self, proxy: Proxy) -> None:
        assert proxy.ask("Q nope a") == "E8"


def test_ng_sees_the_same_call(proxy: Proxy) -> None:
    proxy.place()
    query = NgService(proxy.table).execute(ng.Query("c"), proxy.now, 1_700_000_000.0)
    assert set(query["tags"]) == {"a", "b"}
    assert query["streams"][0][0]["stats"]["rtp"]["local port"] == 30002


# Re-packetisation, payload types and playback, recording, and what came later.
LACKING = [20071116, 20071218, 20080403, 20081102, 20081224, 20090810, 20150420, 20150617, 20170313, 20191015]
PROBES = {
    "Kamailio": [("V", "20040107"), ("VF 20050322", "1"), ("VF 20071116", "0"), ("VF 20081102", "0")],
    "OpenSIPS": [("V", "20040107"), ("VF 20050322", "1"), *((f"VF {feature}", "0") for feature in LACKING)],
}


@pytest.mark.parametrize("probes", PROBES.values(), ids=PROBES.keys())
def test_probes(proxy: Proxy, probes: list[tuple[str, str]]) -> None:
    assert [proxy.ask(line) for line, _ in probes] == [reply for _, reply in probes]
    assert len(proxy.table) == 0


def test_a_call_as_kamailio_sends_it(proxy: Proxy) -> None:
    replies = [
        proxy.ask(line)
        for line in (
            "USIE 3c26701-x@192.0.2.10;z9hG4bKnashds7 192.0.2.10 49170 9fxced76sl;1",
            "LSEI6 3c26701-x@192.0.2.10;z9hG4bKnashds7 2001:db8::77 5004 9fxced76sl;1 314159;1",
            "Q 3c26701-x@192.0.2.10 9fxced76sl;1 314159;1",
            "R 3c26701-x@192.0.2.10 9fxced76sl 314159",
            "D 3c26701-x@192.0.2.10 9fxced76sl 314159",
        )
    ]
    assert replies == ["30000 2001:db8::2 6", "30002 198.51.100.2 4", "3600 0 0 0 0", "E8", "0"]


LONG = b"x" * 1025
ECHO = b"k 4000 192.0.2.7\n"
FAIL = b"k E8\n"
NO_CALL = b"k 0 10.0.0.2\n"

MALFORMED = [
    # nothing, or no such command
    (b"", FAIL), (b"\r\n", FAIL), (b"\x00", FAIL), (b"\xff\xfe\xfd", FAIL), (b"?", FAIL), (b"7", FAIL), (b";1", FAIL),
    (b"P c prompt session a;1 b;1", FAIL), (b"S c a;1 b;1", FAIL), (b"R c a b", FAIL), (b"C c a b", FAIL),
    (b"I", FAIL), (b"X", FAIL), (b"G", FAIL), (b"N c a b", FAIL),
    (b"d7:command4:pinge", FAIL), (b"sip:bob@example.org SIP/2.0\r\nTo: x\r\n", FAIL), (b"/ HTTP/1.1\r\n", FAIL),
    # missing fields
    (b"U", FAIL), (b"U c", FAIL), (b"U c 192.0.2.7", FAIL), (b"U c 192.0.2.7 4000", ECHO),
    (b"U c 192.0.2.7 4000 a", ECHO), (b"U c 192.0.2.7 4000 a;", ECHO), (b"U c 192.0.2.7 4000 ;1", ECHO),
    (b"U c 192.0.2.7 4000 a;1 b", ECHO), (b"U c 192.0.2.7 4000 a;1 b;", ECHO), (b"U c 192.0.2.7 4000 a;1 ;1", ECHO),
    (b"U c; 192.0.2.7 4000 a;1", ECHO), (b"U ;br 192.0.2.7 4000 a;1", ECHO),
    (b"L", FAIL), (b"L c", FAIL), (b"L c 192.0.2.7", FAIL), (b"L c 192.0.2.7 4000", ECHO),
    (b"L c 192.0.2.7 4000 a b;1", ECHO), (b"L c 192.0.2.7 4000 a;1 b", ECHO),
    (b"D", FAIL), (b"D c", FAIL), (b"D c; a", FAIL), (b"D ;br a", FAIL), (b"D c a b surplus", FAIL),
    (b"Q", FAIL), (b"Q c", FAIL), (b"Q c a b surplus", FAIL),
    # addresses
    (b"U c 300.1.1.1 4000 a;1", FAIL), (b"U c 255.255.255.255 4000 a;1", FAIL), (b"U c 1.2.3 4000 a;1", FAIL),
    (b"U c 1.2.3.4.5 4000 a;1", FAIL), (b"U c ::: 4000 a;1", FAIL), (b"U c 1::2::3 4000 a;1", FAIL),
    (b"U c fffff:: 4000 a;1", FAIL), (b"U c ::ffff:300.0.0.1 4000 a;1", FAIL),
    (b"L c 300.1.1.1 4000 a;1 b;1", FAIL), (b"U c host 4000 a;1", b"k 4000 host\n"),
    (b"U c ::192.0.2.1 4000 a;1", b"k 4000 ::192.0.2.1\n"), (b"U c fe80::1%lo 4000 a;1", b"k 4000 fe80::1%lo\n"),
    (b"U c [::1] 4000 a;1", b"k 4000 [::1]\n"),
    # ports
    (b"U c 192.0.2.7 00 a;1", FAIL), (b"U c 192.0.2.7 65536 a;1", FAIL), (b"U c 192.0.2.7 4294971296 a;1", FAIL),
    (b"U c 192.0.2.7 " + b"9" * 5000 + b" a;1", FAIL), (b"L c 192.0.2.7 70000 a;1 b;1", FAIL),
    (b"U c 192.0.2.7 -1 a;1", b"k -1 192.0.2.7\n"), (b"U c 192.0.2.7 0x10 a;1", b"k 0x10 192.0.2.7\n"),
    (b"U c 192.0.2.7 +4000 a;1", b"k +4000 192.0.2.7\n"),
    # indices
    (b"U c 192.0.2.7 4000 a;65", FAIL), (b"U c 192.0.2.7 4000 a;4294967297", FAIL),
    (b"U c 192.0.2.7 4000 a;" + b"9" * 20, FAIL), (b"U c 192.0.2.7 4000 a;" + b"9" * 5000, FAIL),
    (b"L c 192.0.2.7 4000 a;65 b;65", FAIL), (b"U c 192.0.2.7 4000 a;-1", ECHO), (b"U c 192.0.2.7 4000 a;1.5", ECHO),
    (b"U c 192.0.2.7 4000 a;\xd9\xa1", ECHO),
    # over-long words
    (b"U " + LONG + b" 192.0.2.7 4000 a;1", FAIL), (b"U c;" + LONG + b" 192.0.2.7 4000 a;1", FAIL),
    (b"U" + LONG + b" c 192.0.2.7 4000 a;1", FAIL), (b"U c 192.0.2.7 4000 " + LONG + b";1", FAIL),
    (b"U c " + b"1" * 300 + b" 4000 a;1", FAIL), (b"U " + b"c " * 600 + b"192.0.2.7 4000 a;1", FAIL),
    (b"L c 192.0.2.7 4000 " + LONG + b";1 b;1", FAIL), (b"L c 192.0.2.7 4000 a;1 " + LONG + b";1", FAIL),
    (b"D " + LONG + b" a", FAIL), (b"D c;" + LONG + b" a", FAIL), (b"D c " + LONG, FAIL), (b"D c a " + LONG, FAIL),
    (b"Q " + LONG + b" a", FAIL), (b"Q c " + LONG, FAIL), (LONG * 60, FAIL),
    # binary
    (b"U c\x00 192.0.2.7 4000 a;1", FAIL), (b"U c 192.0.2.7 4000 a\x00;1", FAIL), (b"U\x00 c 192.0.2.7 4000 a;1", FAIL),
    (b"U c 192.0.2.7\x00 4000 a;1", FAIL), (b"U c 192.0.2.7 4000\x00 a;1", FAIL), (b"L c\x1b 192.0.2.7 4000 a;1", FAIL),
    (b"U c;\x00 192.0.2.7 4000 a;1", FAIL), (b"D c\x00 a", FAIL), (b"D c a\x00", FAIL), (b"Q c\x7f a", FAIL),
    (b"U c\nd 192.0.2.7 4000 a;1", FAIL),
    # well formed, about nothing
    (b"L nope 192.0.2.7 4000 a;1 b;1", NO_CALL), (b"L c 192.0.2.7 4000 x;1 y;1", NO_CALL),
    (b"L \xff 192.0.2.7 4000 a;1 b;1", NO_CALL), (b"D nope a", FAIL), (b"D c x", FAIL), (b"D c;br a", FAIL),
    (b"Q nope a", FAIL), (b"Q c x", FAIL), (b"Q c \xff", FAIL),
]  # fmt: skip


@pytest.mark.parametrize(("line", "reply"), MALFORMED, ids=[ascii(line[:40]) for line, _ in MALFORMED])
def test_a_malformed_line_gets_its_answer_and_changes_nothing(proxy: Proxy, line: bytes, reply: bytes) -> None:
    proxy.place()
    before = proxy.snapshot()
    assert proxy.send(b"k " + line) == reply
    assert proxy.snapshot() == before


def test_an_echo_is_logged_as_a_warning(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        proxy.send(b"k U c 192.0.2.7 4000 a\xff\x1b")
        proxy.send(b"k X")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "malformed command, so its media bypass us: b'U c 192.0.2.7 4000 a\\xff\\x1b'"),
        (logging.INFO, "refused a request: No such command"),
    ]


PIECES = st.sampled_from(
    [*"ULDQVPS", "USIE", "LEI", "VF", "c", "d", "c;br", A, B, "2001:db8::7 4000", "0.0.0.0 9", "192.0.2.7 0", "a;1"]
    + ["b;1", "a;2", "b;64", "a;65", "a", "b", "20050322", "x\0", "\xff", ";"]
)


@given(st.lists(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=6).map(" ".join)), max_size=12))
def test_no_datagram_raises(lines: list[bytes | str]) -> None:
    proxy = Proxy(limit=40)
    for line in lines:
        reply = proxy.send(b"k " + (line.encode("latin-1") if isinstance(line, str) else line))
        assert reply.startswith(b"k") and reply.endswith(b"\n")
    for call in list(proxy.table):
        proxy.table.end(call, "deleted", 0.0)
    assert not proxy.transport.opened


COMMANDS = st.builds(
    "{}{} {}{} {} {};{} {};1".format,
    st.sampled_from("UL"),
    st.sampled_from(["", "IE", "EI"]),
    st.sampled_from("cd"),
    st.sampled_from(["", ";br"]),
    st.sampled_from([A, B, B2, "2001:db8::7 4000", "0.0.0.0 9", "192.0.2.7 0"]),
    st.sampled_from("abx"),
    st.integers(1, 4),
    st.sampled_from("abx"),
) | st.builds("{} {} {} {}".format, st.sampled_from("DQ"), st.sampled_from("cd"), *[st.sampled_from("abx")] * 2)


@given(st.lists(COMMANDS, max_size=15))
def test_any_order_of_commands_ends_without_a_leak(lines: list[str]) -> None:
    proxy = Proxy(limit=12)
    for line in lines:
        first = proxy.ask(line).split(" ")[0]
        assert first == "E8" or first.lstrip("-").isdigit()
    for call in list(proxy.table):
        proxy.table.end(call, "deleted", 0.0)
    assert not proxy.transport.opened


def test_endpoints_are_canonical(proxy: Proxy) -> None:
    proxy.ask("UEI c 2001:DB8:0::7 4000 a;1")
    assert proxy.transport.configs[30002].peer == Endpoint("2001:db8::7", 4000)
