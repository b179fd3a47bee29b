"""The call engine with scripted time and ports that exist only on paper."""

from __future__ import annotations

import gc

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import ProtocolError, ResourceError
from rtpengine.call import RETIREMENT_S, Call
from rtpengine.media import DIRECTIONS, IPV6, Endpoint, Learning, MediaOffer, MediaPlan, Signalling

A, A2, B, B2 = (Endpoint(f"203.0.113.{i}", 4000 + 100 * i) for i in range(1, 5))
A6 = Endpoint("2001:db8:a::1", 4600)
NULL = Endpoint("0.0.0.0", 4000)
PLAIN = Signalling()


def audio(endpoint: Endpoint | None, **changes: object) -> MediaOffer:
    values: dict[str, object] = {
        "kind": "audio",
        "endpoint": endpoint,
        "rtcp": None if endpoint is None else Endpoint(endpoint.address, endpoint.port + 1),
        "protocol": "RTP/AVP",
    }
    values.update(changes)
    if values.get("rtcp_mux"):
        values["rtcp"] = None
    return MediaOffer(**values)  # type: ignore[arg-type]


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def call(transport: FakeTransport) -> Call:
    return Call("c", 0.0, Learning.HEURISTIC, transport, TOOLS)


def place(call: Call, offered: MediaOffer | None = None, answered: MediaOffer | None = None) -> None:
    call.offer("a", [offered or audio(A)], PLAIN, 1.0)
    call.answer("a", "b", [answered or audio(B)], PLAIN, 2.0)


def ports(plans: list[MediaPlan]) -> list[int | None]:
    return [plan.local.port if plan.local else None for plan in plans]


def test_ports_are_allocated_section_by_section_recipient_first(call: Call) -> None:
    assert ports(call.offer("a", [audio(A), audio(A2, kind="video")], PLAIN, 1.0)) == [30000, 30004]
    assert ports(call.answer("a", "b", [audio(B), audio(B2, kind="video")], PLAIN, 2.0)) == [30002, 30006]


def test_each_side_relays_to_the_other_and_knows_its_party(call: Call, transport: FakeTransport) -> None:
    place(call)
    b_rtp, b_rtcp, a_rtp, a_rtcp = (transport.configs[30000 + i] for i in range(4))
    assert (a_rtp.peer, b_rtp.peer) == (A, B)
    assert (a_rtcp.peer, b_rtcp.peer) == (Endpoint(A.address, A.port + 1), Endpoint(B.address, B.port + 1))
    assert (a_rtp.rtp_sink, b_rtp.rtp_sink, a_rtcp.rtcp_sink, b_rtcp.rtcp_sink) == (30000, 30002, 30001, 30003)
    assert a_rtcp.rtcp_only and not a_rtp.rtcp_only


def test_early_media_goes_to_the_offerer_before_the_answer(call: Call, transport: FakeTransport) -> None:
    call.offer("a", [audio(A)], PLAIN, 1.0)
    assert transport.configs[30000].peer is None
    assert transport.configs[30000].rtp_sink == 30002
    assert transport.configs[30002].peer == A


@pytest.mark.parametrize(
    ("how", "endpoint", "family_b", "family_a"),
    [
        (PLAIN, A, 4, 4),
        (PLAIN, A6, 4, 6),
        (Signalling(family=6), A, 6, 4),
        (Signalling(prefer_ipv6=True), A, 6, 4),
        (Signalling(family=4, prefer_ipv6=True), A6, 4, 6),
        (PLAIN, Endpoint("::", 4000), 4, 6),
    ],
)
def test_address_families(
    call: Call, transport: FakeTransport, how: Signalling, endpoint: Endpoint, family_b: int, family_a: int
) -> None:
    call.offer("a", [audio(endpoint)], how, 1.0)
    assert (transport.opened[30000].family, transport.opened[30002].family) == (family_b, family_a)


def test_preferred_ipv6_without_an_ipv6_address_is_ipv4() -> None:
    transport = FakeTransport(families=frozenset((4,)))
    call = Call("c", 0.0, Learning.HEURISTIC, transport, TOOLS)
    (plan,) = call.offer("a", [audio(A)], Signalling(prefer_ipv6=True), 1.0)
    assert plan.local == Endpoint("198.51.100.2", 30000)


def test_an_unconfigured_family_leaves_nothing_behind() -> None:
    transport = FakeTransport(families=frozenset((4,)))
    call = Call("c", 0.0, Learning.HEURISTIC, transport, TOOLS)
    with pytest.raises(ProtocolError, match="IP6 is not configured"):
        call.offer("a", [audio(A), audio(A6)], PLAIN, 1.0)
    assert not transport.opened and not call.legs and not call.dialogues


def test_ports_that_run_out_in_the_last_section_leave_the_call_as_it_was(call: Call, transport: FakeTransport) -> None:
    place(call)
    before = dict(transport.configs)
    transport.limit = len(transport.opened) + 3
    with pytest.raises(ResourceError):
        call.offer("a", [audio(A2), audio(A), audio(A), audio(A)], PLAIN, 3.0)
    assert len(transport.opened) == 2
    assert transport.configs == before
    assert len(call.dialogues[0].sections) == 1
    assert call.last_signal == 2.0


class TestReoffer:
    def test_same_endpoint_keeps_the_ports(self, call: Call, transport: FakeTransport) -> None:
        place(call)
        assert ports(call.offer("a", [audio(A)], PLAIN, 3.0)) == [30000]
        assert ports(call.answer("a", "b", [audio(B)], PLAIN, 4.0)) == [30002]
        assert len(transport.opened) == 2

    def test_what_is_already_so_is_not_said_again(self, call: Call, transport: FakeTransport) -> None:
        call.offer("a", [audio(A)], PLAIN, 1.0)
        assert transport.configured == 4
        call.answer("a", "b", [audio(B)], PLAIN, 2.0)
        assert transport.configured == 6  # the offerer's side stays as it was
        place(call)
        assert transport.configured == 6

    def test_from_the_other_party(self, call: Call) -> None:
        place(call)
        assert ports(call.offer("b", [audio(B)], PLAIN, 3.0)) == [30002]
        assert ports(call.answer("b", "a", [audio(A)], PLAIN, 4.0)) == [30000]

    def test_new_endpoint_gets_new_ports_and_the_old_one_its_old_ports(
        self, call: Call, transport: FakeTransport
    ) -> None:
        place(call)
        assert ports(call.offer("a", [audio(A2)], PLAIN, 3.0)) == [30004]
        assert transport.configs[30002].peer == A2
        assert transport.configs[30002].rtp_sink == 30004
        assert ports(call.offer("a", [audio(A)], PLAIN, 4.0)) == [30000]

    def test_a_replaced_port_still_relays(self, call: Call, transport: FakeTransport) -> None:
        place(call)
        call.offer("a", [audio(A2)], PLAIN, 3.0)
        assert transport.configs[30000].rtp_sink == 30002
        assert call.dialogues[0].sections[0].sides[1].ports.retired == {transport.opened[30000]: 3.0}

    @pytest.mark.parametrize("count", [1, 3])
    def test_fewer_and_more_sections(self, call: Call, count: int) -> None:
        call.offer("a", [audio(A), audio(A2)], PLAIN, 1.0)
        call.answer("a", "b", [audio(B), audio(B2)], PLAIN, 2.0)
        plans = call.offer("a", [audio(A), audio(A2), audio(A6)][:count], PLAIN, 3.0)
        assert ports(plans) == [30000, 30004, 30008][:count]
        assert len(call.dialogues[0].sections) == max(2, count)

    def test_a_further_section_is_in_the_family_of_the_first(self, call: Call, transport: FakeTransport) -> None:
        """It shares the c= line of the session level, so it must not be on ports of the other family."""
        call.offer("a", [audio(A)], Signalling(family=IPV6), 1.0)
        call.answer("a", "b", [audio(A6)], PLAIN, 2.0)
        plans = call.offer("a", [audio(A), audio(A2)], PLAIN, 3.0)
        assert {plan.local.address for plan in plans if plan.local} == {"2001:db8::2"}
        plans = call.answer("a", "b", [audio(A6), audio(None)], PLAIN, 4.0)
        assert {plan.local.address for plan in plans if plan.local} == {"198.51.100.2"}
        assert [ports.family for ports in transport.opened.values()] == [6, 4, 6, 4]

    def test_null_address_mutes_and_keeps_ports_and_endpoint(self, call: Call, transport: FakeTransport) -> None:
        place(call)
        (plan,) = call.offer("a", [audio(NULL, direction=DIRECTIONS["inactive"])], PLAIN, 3.0)
        assert plan.held and plan.local == Endpoint("198.51.100.2", 30000)
        assert transport.configs[30002].muted and transport.configs[30002].peer == A
        call.offer("a", [audio(A)], PLAIN, 4.0)
        assert not transport.configs[30002].muted and len(transport.opened) == 2

    def test_t38_and_back(self, call: Call, transport: FakeTransport) -> None:
        place(call, audio(A, protocol="RTP/AVPF"))
        (plan,) = call.offer("b", [audio(B, kind="image", protocol="UDPTL", rtcp=None)], PLAIN, 3.0)
        assert (plan.protocol, plan.rtcp_port) == ("UDPTL", None)
        assert transport.configs[30000].rtp and transport.configs[30002].rtp
        call.answer("b", "a", [audio(A, kind="image", protocol="UDPTL", rtcp=None)], PLAIN, 3.5)
        assert not transport.configs[30000].rtp and not transport.configs[30002].rtp
        assert (transport.configs[30001].rtp_sink, transport.configs[30001].rtcp_sink) == (0, 0)
        (plan,) = call.offer("b", [audio(B)], PLAIN, 4.0)
        assert plan.protocol == "RTP/AVP"
        assert not transport.configs[30000].rtp and not transport.configs[30002].rtp
        call.answer("b", "a", [audio(A)], PLAIN, 5.0)
        assert transport.configs[30000].rtp and transport.configs[30002].rtp


class TestRejection:
    def test_in_the_offer_opens_nothing(self, call: Call, transport: FakeTransport) -> None:
        assert ports(call.offer("a", [audio(Endpoint(A.address, 0), rejected=True)], PLAIN, 1.0)) == [None]
        assert not transport.opened

    def test_in_the_answer_stops_relaying_and_retires_the_ports(self, call: Call, transport: FakeTransport) -> None:
        call.offer("a", [audio(A)], PLAIN, 1.0)
        assert ports(call.answer("a", "b", [audio(B, rejected=True)], PLAIN, 2.0)) == [None]
        assert {c.rtp_sink for c in transport.configs.values()} == {0}
        retired = [since for media_ports in call.media_ports for since in media_ports.retired.values()]
        assert retired == [2.0, 2.0]

    def test_taken_back_in_time_gets_the_same_ports(self, call: Call) -> None:
        place(call)
        call.offer("a", [audio(A, rejected=True)], PLAIN, 3.0)
        assert ports(call.offer("a", [audio(A)], PLAIN, 4.0)) == [30000]
        assert ports(call.answer("a", "b", [audio(B)], PLAIN, 5.0)) == [30002]

    def test_in_a_reoffer_waits_for_the_answer(self, call: Call, transport: FakeTransport) -> None:
        """A fax is offered beside a rejected section, and refused; who refuses says so in SIP only (RFC 3264 8)."""
        fax = audio(A2, kind="image", protocol="UDPTL", rtcp=None)
        place(call)
        before = dict(transport.configs)
        for _ in range(2):
            assert ports(call.offer("a", [audio(A, rejected=True), fax], PLAIN, 3.0)) == [None, 30004]
            assert before.items() <= transport.configs.items()
        assert ports(call.offer("b", [audio(B)], PLAIN, 4.0)) == [30002]
        assert ports(call.answer("b", "a", [audio(A)], PLAIN, 5.0)) == [30000]
        assert before.items() <= transport.configs.items()
        assert not any(media_ports.retired for media_ports in call.media_ports)

    @pytest.mark.parametrize("obeyed", [True, False])
    @pytest.mark.parametrize("offerer", ["a", "b"])
    def test_in_a_reoffer_counts_with_the_answer(
        self, call: Call, transport: FakeTransport, offerer: str, obeyed: bool
    ) -> None:
        """RFC 3264 8.2: the answer has port 0 too, or is told so where it has not."""
        place(call)
        first, second = (A, B) if offerer == "a" else (B, A)
        answerer = "b" if offerer == "a" else "a"
        call.offer(offerer, [audio(first, rejected=True)], PLAIN, 3.0)
        for _ in range(2):
            assert ports(call.answer(offerer, answerer, [audio(second, rejected=obeyed)], PLAIN, 4.0)) == [None]
        assert {c.rtp_sink for c in transport.configs.values()} == {0}
        assert [since for held in call.media_ports for since in held.retired.values()] == [4.0, 4.0]
        assert ports(call.offer(offerer, [audio(first)], PLAIN, 5.0)) == [30000 if offerer == "a" else 30002]

    def test_in_one_branch_leaves_the_other_its_ports(self, call: Call, transport: FakeTransport) -> None:
        call.offer("a", [audio(A)], PLAIN, 1.0)
        call.answer("a", "b", [audio(B, rejected=True)], PLAIN, 2.0)
        call.answer("a", "b2", [audio(B2)], PLAIN, 3.0)
        # what was offered to both answerers is what the second one goes on to use
        assert transport.configs[30000].peer == B2
        assert transport.configs[30004].rtp_sink == 30000


class TestForking:
    def test_offerer_gets_ports_per_answerer_and_answerers_share(self, call: Call, transport: FakeTransport) -> None:
        place(call)
        assert ports(call.answer("a", "b2", [audio(B2)], PLAIN, 3.0)) == [30004]
        assert transport.configs[30000].peer == B2
        assert transport.configs[30000].rtp_sink == 30004
        assert transport.configs[30004].peer == A and transport.configs[30004].rtp_sink == 30000
        assert call.leg("a").active is call.leg("b2").active  # type: ignore[union-attr]

    def test_an_answerer_in_another_family_is_sent_to_from_the_port_that_it_was_told(
        self, call: Call, transport: FakeTransport
    ) -> None:
        """One offer for two destinations, an IPv4 and an IPv6 one, and the former answers."""
        assert ports(call.offer("a", [audio(A)], Signalling(family=4), 1.0)) == [30000]
        assert ports(call.offer("a", [audio(A)], Signalling(family=6), 1.0)) == [30004]
        assert ports(call.answer("a", "b", [audio(B)], PLAIN, 2.0)) == [30002]
        assert call.dialogues[0].sections[0].sides[1].ports.current == transport.opened[30000]
        assert transport.configs[30002].rtp_sink == 30000

    def test_an_earlier_answerer_is_taken_up_again(self, call: Call, transport: FakeTransport) -> None:
        place(call)
        call.answer("a", "b2", [audio(B2)], PLAIN, 3.0)
        assert ports(call.answer("a", "b", [audio(B)], PLAIN, 4.0)) == [30002]
        assert (transport.configs[30000].peer, transport.configs[30000].rtp_sink) == (B, 30002)

    def test_answer_of_an_unknown_offerer(self, call: Call) -> None:
        place(call)
        with pytest.raises(ProtocolError, match="Unknown from-tag"):
            call.answer("x", "y", [audio(B)], PLAIN, 3.0)

    def test_nobody_answers_himself(self, call: Call) -> None:
        call.offer("a", [audio(A)], PLAIN, 1.0)
        with pytest.raises(ProtocolError, match="cannot answer itself"):
            call.answer("a", "a", [audio(B)], PLAIN, 2.0)
        assert len(call.legs) == 2

    def test_removing_one_fork_keeps_the_other(self, call: Call, transport: FakeTransport) -> None:
        place(call)
        call.answer("a", "b2", [audio(B2)], PLAIN, 3.0)
        call.remove_leg(call.leg("b2"), 9.0)  # type: ignore[arg-type]
        assert [leg.tag for leg in call.legs] == ["a", "b"]
        assert transport.configs[30000].peer == B
        call.remove_leg(call.leg("a"), 9.0)  # type: ignore[arg-type]
        assert not call.dialogues
        assert not call.legs


# What A offers and what the proxy was asked -> offered to B; A's own side before the answer; after B said yes; no.
MUX_CASES = [
    (True, set(), True, False, True, False),
    (True, {"accept"}, True, True, True, True),
    (True, {"reject"}, True, False, False, False),
    (True, {"demux"}, False, True, True, True),
    (True, {"demux", "reject"}, False, False, False, False),
    (False, set(), False, False, False, False),
    (False, {"offer"}, True, False, False, False),
    (False, {"require"}, True, False, False, False),
]


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(("offered", "words", "to_b", "pending", "after_yes", "after_no"), MUX_CASES)
def test_rtcp_mux(
    call: Call,
    transport: FakeTransport,
    offered: bool,
    words: set[str],
    to_b: bool,
    pending: bool,
    after_yes: bool,
    after_no: bool,
    answered: bool,
) -> None:
    how = Signalling(rtcp_mux=frozenset(words))
    (plan,) = call.offer("a", [audio(A, rtcp_mux=offered)], how, 1.0)
    assert (plan.rtcp_mux, plan.rtcp_port) == (to_b, 30001)
    assert transport.configs[30002].rtcp_mux is pending
    (plan,) = call.answer("a", "b", [audio(B, rtcp_mux=answered)], PLAIN, 2.0)
    muxed = after_yes if answered else after_no
    assert (plan.rtcp_mux, plan.rtcp_port) == (muxed, 30002 if muxed else 30003)
    assert transport.configs[30002].rtcp_mux is muxed
    assert transport.configs[30000].rtcp_mux is answered
    assert transport.configs[30002].rtcp_sink == (30000 if answered else 30001)
    assert transport.configs[30000].rtcp_sink == (30002 if muxed else 30003)


@pytest.mark.parametrize(
    ("offered", "wanted", "towards_b", "strip_from_a", "strip_from_b"),
    [
        ("RTP/AVP", None, "RTP/AVP", False, False),
        ("RTP/AVPF", "RTP/AVP", "RTP/AVP", True, False),
        ("RTP/AVP", "RTP/AVPF", "RTP/AVPF", False, True),
        ("RTP/AVPF", None, "RTP/AVPF", False, False),
    ],
)
def test_profiles(
    call: Call,
    transport: FakeTransport,
    offered: str,
    wanted: str | None,
    towards_b: str,
    strip_from_a: bool,
    strip_from_b: bool,
) -> None:
    (plan,) = call.offer("a", [audio(A, protocol=offered)], Signalling(protocol=wanted), 1.0)
    assert plan.protocol == towards_b
    (plan,) = call.answer("a", "b", [audio(B, protocol=towards_b)], PLAIN, 2.0)
    assert plan.protocol == offered
    assert transport.configs[30003].strip_feedback is strip_from_a
    assert transport.configs[30001].strip_feedback is strip_from_b


@pytest.mark.parametrize(
    ("endpoint", "how", "alias", "stranger_allowed"),
    [
        (A, PLAIN, None, False),
        (A, Signalling(received_from=A.address), None, False),
        (A, Signalling(received_from="192.0.2.9"), "192.0.2.9", True),
        (Endpoint("10.0.0.5", 4000), PLAIN, None, True),
        (None, PLAIN, None, False),
    ],
)
def test_who_may_be_learned(
    call: Call,
    transport: FakeTransport,
    endpoint: Endpoint | None,
    how: Signalling,
    alias: str | None,
    stranger_allowed: bool,
) -> None:
    call.offer("a", [audio(endpoint)], how, 1.0)
    config = transport.configs[30002]
    assert (config.alias, config.stranger_allowed) == (alias, stranger_allowed)
    assert config.learning is Learning.HEURISTIC and config.strict


@pytest.mark.parametrize(("flag", "strict"), [(False, False), (True, True)])
def test_other_learning_modes_are_strict_on_request(transport: FakeTransport, flag: bool, strict: bool) -> None:
    call = Call("c", 0.0, Learning.DELAYED, transport, TOOLS)
    call.offer("a", [audio(A)], Signalling(strict_source=flag), 1.0)
    assert transport.configs[30002].strict is strict


def test_consecutive_ports(call: Call, transport: FakeTransport) -> None:
    place(call, audio(A, ports=2), audio(B, ports=2))
    assert [transport.configs[30004 + i].peer.port for i in range(4)] == [  # type: ignore[union-attr]
        A.port, A.port + 1, A.port + 2, A.port + 3,
    ]  # fmt: skip
    assert transport.configs[30006].rtp_sink == 30002
    assert transport.configs[30007].rtcp_sink == 30003


def test_sections_signalled_one_by_one(call: Call, transport: FakeTransport) -> None:
    assert ports(call.offer("a", [audio(A2)], PLAIN, 1.0, first=1)) == [30000]
    assert ports(call.offer("a", [audio(A)], PLAIN, 1.0, first=0)) == [30004]
    assert ports(call.answer("a", "b", [audio(B)], PLAIN, 2.0, first=0)) == [30006]
    assert ports(call.answer("a", "b", [audio(B2)], PLAIN, 2.0, first=1)) == [30002]
    assert transport.configs[30004].peer == B and transport.configs[30000].peer == B2
    assert len(call.dialogues) == 1


def test_a_moved_to_ipv6_gets_ipv6_ports(call: Call, transport: FakeTransport) -> None:
    place(call)
    call.offer("a", [audio(A6)], PLAIN, 3.0)
    (plan,) = call.answer("a", "b", [audio(B)], PLAIN, 4.0)
    assert plan.local is not None and plan.local.family == IPV6


def test_a_closed_call_is_freed_without_the_collector(transport: FakeTransport) -> None:
    call = Call("c", 0.0, Learning.HEURISTIC, transport, TOOLS)
    place(call)
    gc.collect()
    gc.disable()
    try:
        call.close()
        del call
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_close_closes_everything(call: Call, transport: FakeTransport) -> None:
    place(call)
    call.answer("a", "b2", [audio(B2)], PLAIN, 3.0)
    call.offer("a", [audio(A2)], PLAIN, 4.0)
    call.close()
    assert not transport.opened
    assert RETIREMENT_S > 32.0  # longer than a re-INVITE can stay unanswered: timer B of RFC 3261
