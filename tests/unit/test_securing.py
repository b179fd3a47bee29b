"""Keys, DTLS and ICE of whole calls: what each party is told, and what the packet path is told."""

from __future__ import annotations

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine.call import Call
from rtpengine.media import (
    CryptoLine,
    Endpoint,
    Fingerprint,
    IceCredentials,
    Learning,
    MediaOffer,
    MediaPlan,
    Signalling,
    SrtpKeys,
)

A, A2, B = (Endpoint(f"203.0.113.{i}", 4000 + 100 * i) for i in range(1, 4))
ICE_A, ICE_A2, ICE_B = (IceCredentials(name * 4, name * 22) for name in "abc")
PRINT_A, PRINT_B = (Fingerprint("sha-256", bytes([i]) * 32) for i in (1, 2))
KEY_A, KEY_B = (SrtpKeys("AES_CM_128_HMAC_SHA1_80", bytes([i]) * 16, bytes([i]) * 14) for i in (10, 11))
PLAIN = Signalling()


def audio(endpoint: Endpoint | None, protocol: str = "RTP/AVP", **changes: object) -> MediaOffer:
    rtcp = None if endpoint is None or changes.get("rtcp_mux") else Endpoint(endpoint.address, endpoint.port + 1)
    changes.setdefault("body_has_ice", "ice" in changes)
    return MediaOffer("audio", endpoint, rtcp, protocol, **changes)  # type: ignore[arg-type]


def browser(endpoint: Endpoint = A, ice: IceCredentials = ICE_A, **changes: object) -> MediaOffer:
    values: dict[str, object] = {
        "rtcp_mux": True, "fingerprints": (PRINT_A,), "setup": "actpass", "ice": ice, "mid": "audio0",
    }  # fmt: skip
    return audio(endpoint, "UDP/TLS/RTP/SAVPF", **{**values, **changes})


def sdes(endpoint: Endpoint, *keys: SrtpKeys, protocol: str = "RTP/SAVP", **changes: object) -> MediaOffer:
    lines = tuple(CryptoLine(tag, key) for tag, key in enumerate(keys, 1))
    return audio(endpoint, protocol, crypto=lines, **changes)


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def call(transport: FakeTransport) -> Call:
    return Call("c", 0.0, Learning.HEURISTIC, transport, TOOLS)


TO_PHONE = Signalling(protocol="RTP/AVP", ice="remove", rtcp_mux=frozenset({"demux"}))
TO_BROWSER = Signalling(protocol="UDP/TLS/RTP/SAVPF", ice="force", rtcp_mux=frozenset({"offer"}))
ANSWER = Signalling(ice="optional")


def offer(call: Call, said: MediaOffer, how: Signalling = PLAIN, now: float = 1.0) -> MediaPlan:
    return call.offer("a", [said], how, now)[0]


def answer(call: Call, said: MediaOffer, how: Signalling = ANSWER, now: float = 2.0) -> MediaPlan:
    return call.answer("a", "b", [said], how, now)[0]


def test_a_browser_calls_a_phone(call: Call, transport: FakeTransport) -> None:
    to_b = offer(call, browser(), TO_PHONE)
    assert (to_b.crypto, to_b.setup, to_b.fingerprint, to_b.ice.credentials, to_b.ice.candidates) == (
        (), None, None, None, (),
    )  # fmt: skip
    to_a = answer(call, audio(B))
    assert (to_a.protocol, to_a.setup, to_a.rtcp_mux, to_a.mid) == ("UDP/TLS/RTP/SAVPF", "active", True, "audio0")
    assert to_a.fingerprint == TOOLS.certificate().fingerprint
    assert to_a.ice.credentials is not None and not to_a.ice.keep
    assert to_a.local is not None
    assert [(c.component, c.priority, c.endpoint) for c in to_a.ice.candidates] == [(1, 2130706431, to_a.local)]
    towards_a = transport.configs[to_a.local.port]
    assert (towards_a.secure, towards_a.stun, towards_a.ice, towards_a.dtls) == (True, True, True, True)
    assert towards_a.ufrag == to_a.ice.credentials.ufrag
    towards_b = transport.configs[30000]
    assert (towards_b.secure, towards_b.stun, towards_b.ice, towards_b.dtls) == (False, False, False, False)
    assert transport.sent == []  # no ClientHello before ICE has found a way


def test_a_phone_calls_a_browser(call: Call, transport: FakeTransport) -> None:
    to_b = offer(call, audio(A), TO_BROWSER)
    assert (to_b.protocol, to_b.setup, to_b.rtcp_mux) == ("UDP/TLS/RTP/SAVPF", "actpass", True)
    assert [c.component for c in to_b.ice.candidates] == [1, 2]
    before = transport.configs[30000]
    assert (before.secure, before.stun, before.ice, before.dtls) == (True, True, False, True)
    to_a = answer(call, browser(B, ICE_B, setup="active", fingerprints=(PRINT_B,)), Signalling(ice="remove"))
    assert (to_a.protocol, to_a.setup, to_a.ice.candidates) == ("RTP/AVP", None, ())
    after = transport.configs[30000]
    assert (after.ice, after.dtls, transport.configs[30001].dtls) == (True, True, False)


def test_without_ice_the_active_side_begins_at_once(call: Call, transport: FakeTransport) -> None:
    offer(call, audio(A), Signalling(protocol="UDP/TLS/RTP/SAVP"))
    answer(call, audio(B, "UDP/TLS/RTP/SAVP", setup="passive", fingerprints=(PRINT_B,)))
    hellos = [(stream, to) for stream, to, data in transport.sent if data[:1] == b"\x16"]
    assert hellos == [(30000, B), (30001, Endpoint(B.address, B.port + 1))]


def test_no_dtls_is_offered_that_could_end_in_no_suite(transport: FakeTransport) -> None:
    call = Call("c", 0.0, Learning.HEURISTIC, transport, TOOLS._replace(suites=("AES_256_CM_HMAC_SHA1_80",)))
    to_b = offer(call, audio(A), Signalling(protocol="RTP/SAVP"))
    assert (to_b.setup, [line.keys.suite for line in to_b.crypto]) == (None, ["AES_256_CM_HMAC_SHA1_80"])


@pytest.mark.parametrize("feedback", ["", "F"])
def test_sdes_keys_cross_over(call: Call, transport: FakeTransport, feedback: str) -> None:
    to_b = offer(call, sdes(A, KEY_A, protocol="RTP/SAVP" + feedback), Signalling(dtls="off"))
    assert (to_b.crypto, to_b.setup) == ((CryptoLine(1, KEY_A),), None)
    to_a = answer(call, sdes(B, KEY_B, protocol="RTP/SAVP" + feedback))
    assert to_a.crypto == (CryptoLine(1, KEY_B),)
    assert {transport.keys[stream][1:] for stream in (30000, 30001)} == {(KEY_B, KEY_A)}
    assert {transport.keys[stream][1:] for stream in (30002, 30003)} == {(KEY_A, KEY_B)}
    scopes = [transport.keys[stream][0] for stream in range(30000, 30004)]
    assert scopes[0] == scopes[1] != scopes[2] == scopes[3]


def test_keys_do_not_cross_where_feedback_is_cut(call: Call) -> None:
    to_b = offer(call, sdes(A, KEY_A, protocol="RTP/SAVPF"), Signalling(protocol="RTP/SAVP"))
    assert to_b.crypto[0].keys != KEY_A


def test_plain_on_one_side(call: Call, transport: FakeTransport) -> None:
    to_b = offer(call, audio(A), Signalling(protocol="RTP/SAVP", dtls="off"))
    to_a = answer(call, sdes(B, KEY_B))
    assert (to_a.protocol, to_a.crypto) == ("RTP/AVP", ())
    assert transport.keys[30000][1:] == (KEY_B, to_b.crypto[0].keys)
    assert 30002 not in transport.keys
    assert not transport.configs[30002].secure


def test_new_ports_go_on_with_the_same_keys_and_scope(call: Call, transport: FakeTransport) -> None:
    offer(call, audio(A), Signalling(protocol="RTP/SAVP", dtls="off"))
    answer(call, sdes(B, KEY_B))
    moved = offer(call, audio(A2), PLAIN, 3.0)
    assert moved.local is not None and moved.local.port not in (30000, 30002)
    assert transport.keys[moved.local.port] == transport.keys[30000]


def test_who_does_dtls_keeps_its_ports_when_the_other_party_moves(call: Call) -> None:
    first = offer(call, audio(A), TO_BROWSER)
    answer(call, browser(B, ICE_B, setup="active", fingerprints=(PRINT_B,)))
    assert offer(call, audio(A2), TO_BROWSER, 3.0).local == first.local


def test_a_party_of_fixed_ports_remembers_one_address_of_the_other(call: Call) -> None:
    offer(call, audio(A), TO_BROWSER)
    answer(call, browser(B, ICE_B, setup="active", fingerprints=(PRINT_B,)))
    for i in range(100):
        offer(call, audio(Endpoint(A.address, 5000 + 2 * i)), TO_BROWSER, 3.0 + i)
    assert [list(ports.sets) for ports in call.media_ports] == [[B], [Endpoint(A.address, 5198)]]


BROWSER_B = browser(B, ICE_B, setup="active", fingerprints=(PRINT_B,))
SDES_B = sdes(B, KEY_B)
TO_SDES = Signalling(protocol="RTP/SAVP", ice="remove", dtls="off")


KINDS = {"p": (audio(B), TO_PHONE), "s": (SDES_B, TO_SDES), "d": (BROWSER_B, TO_BROWSER)}
ORDERS = ["psd", "pds", "spd", "sdp", "dps", "dsp", "sps", "dpd"]


@pytest.mark.parametrize("early", [None, audio(A2), sdes(A2, KEY_B), BROWSER_B._replace(endpoint=A2, ice=ICE_A2)])
@pytest.mark.parametrize(("order", "answering"), [(order, kind) for order in ORDERS for kind in sorted(set(order))])
def test_one_offer_for_destinations_of_all_kinds(
    call: Call, transport: FakeTransport, order: str, answering: str, early: MediaOffer | None
) -> None:
    """The SIP proxy asks once per destination, under one tag; whoever answers has the keys that it was told.

    ``early`` is what another destination has answered before, with early media.
    """
    told = {kind: offer(call, audio(A), KINDS[kind][1]) for kind in order}
    if early is not None:
        call.answer("a", "early", [early], ANSWER, 1.5)
    answer(call, KINDS[answering][0], Signalling(ice="remove"))
    config = transport.configs[30000]
    assert (config.secure, config.dtls) == (answering != "p", answering == "d")
    if answering == "s":
        assert transport.keys[30000][1:] == (KEY_B, told["s"].crypto[0].keys)
    if answering == "d":
        (peering,) = [p for p in call.peerings() if p.handles(30000)]
        assert peering.dtls_state(30000) == "new" and peering.wanted.party.keying.fingerprints == (PRINT_B,)


def test_each_answerer_of_a_fork_chooses_its_suite(call: Call, transport: FakeTransport) -> None:
    other = SrtpKeys("AES_CM_128_HMAC_SHA1_32", b"c" * 16, b"d" * 14)
    to_b = offer(call, sdes(A, KEY_A, other), Signalling(dtls="off"))
    assert [line.keys for line in to_b.crypto] == [KEY_A, other]
    call.answer("a", "early", [sdes(A2, KEY_B)], ANSWER, 1.5)
    theirs = other._replace(key=b"e" * 16)
    answer(call, audio(B, "RTP/SAVP", crypto=(CryptoLine(2, theirs),)))
    assert transport.keys[30000][1:] == (theirs, other)


@pytest.mark.parametrize(
    ("said", "again", "muxed"),
    [
        ({}, Signalling(ice="optional"), True),  # a plain phone and a browser were asked, the phone answers
        ({"mux_only": True}, None, True),
        ({"mux_only": True}, Signalling(rtcp_mux=frozenset({"reject"})), False),
    ],
)
def test_who_can_take_no_other_answer_gets_rtcp_mux(
    call: Call, said: dict[str, object], again: Signalling | None, muxed: bool
) -> None:
    """RFC 8858 4.3, and browsers, which want it in any case."""
    offer(call, browser(**said), TO_PHONE if not said else Signalling(protocol="RTP/AVP", ice="remove"))
    if again is not None:
        offer(call, browser(**said), again)
    assert answer(call, audio(B)).rtcp_mux is muxed


def test_a_downgrade_to_plain_takes_keys_and_secrecy_away(call: Call, transport: FakeTransport) -> None:
    offer(call, sdes(A, KEY_A), Signalling(dtls="off"))
    answer(call, sdes(B, KEY_B))
    offer(call, audio(A), Signalling(protocol="RTP/AVP"), 3.0)
    to_a = answer(call, audio(B), ANSWER, 4.0)
    assert (to_a.protocol, to_a.crypto) == ("RTP/AVP", ())
    assert transport.keys[30000][1:] == transport.keys[30002][1:] == (None, None)
    assert not transport.configs[30000].secure and not transport.configs[30002].secure


def test_an_ice_restart_of_the_offerer_gets_new_credentials(call: Call) -> None:
    offer(call, browser(), TO_PHONE)
    first = answer(call, audio(B)).ice.credentials
    offer(call, browser(), TO_PHONE, 3.0)
    assert answer(call, audio(B), ANSWER, 4.0).ice.credentials == first
    offer(call, browser(ice=ICE_A2), TO_PHONE, 5.0)
    assert answer(call, audio(B), ANSWER, 6.0).ice.credentials != first


@pytest.mark.parametrize("again", [1, 2])
def test_a_rejected_section_that_is_taken_back_shakes_hands_again(
    call: Call, transport: FakeTransport, again: int
) -> None:
    """A browser that stops a transceiver and uses its section anew has another DTLS transport (RFC 9429 5.2.2)."""
    plain = audio(B)
    offer(call, browser(), TO_PHONE)
    to_a = answer(call, plain)
    assert to_a.local is not None
    (peering,) = [p for p in call.peerings() if p.handles(to_a.local.port)]
    first = peering._endpoints[to_a.local.port]
    offer(call, browser(), TO_PHONE, 2.5)
    answer(call, plain, ANSWER, 2.6)
    assert peering._endpoints[to_a.local.port] is first
    offer(call, MediaOffer("audio", None, None, "UDP/TLS/RTP/SAVPF", rejected=True), TO_PHONE, 3.0)
    answer(call, MediaOffer("audio", None, None, "RTP/AVP", rejected=True), ANSWER, 4.0)
    for _ in range(again):
        offer(call, browser(ice=ICE_A2), TO_PHONE, 5.0)
    back = answer(call, plain, ANSWER, 6.0)
    assert (back.local, back.setup) == (to_a.local, "active")
    second = peering._endpoints[to_a.local.port]
    assert second is not first and second.state == "new"
    assert peering._associations[to_a.local.port][0] == 1


def test_reset_forgets_what_was_agreed_with_the_recipient(call: Call) -> None:
    first = offer(call, audio(A), TO_BROWSER).ice.credentials
    answer(call, browser(B, ICE_B, setup="active", fingerprints=(PRINT_B,)))
    assert offer(call, audio(A), TO_BROWSER, 3.0).ice.credentials == first
    assert offer(call, audio(A), TO_BROWSER._replace(reset=True), 4.0).ice.credentials != first


def test_ice_between_like_parties_is_left_to_them(call: Call, transport: FakeTransport) -> None:
    how = Signalling(ice="optional")
    to_b = offer(call, audio(A, ice=ICE_A, lowest_priority=1000000), how)
    assert (to_b.ice.keep, to_b.ice.credentials) == (True, None)
    assert all(candidate.priority < 1000000 for candidate in to_b.ice.candidates)
    to_a = answer(call, audio(B, ice=ICE_B, lowest_priority=2130706431), how)
    assert to_a.ice.keep
    for port in (30000, 30002):
        config = transport.configs[port]
        assert (config.stun, config.ice, config.ufrag) == (True, True, "")


def test_ice_ends_here_where_media_is_converted(call: Call) -> None:
    to_b = offer(call, audio(A, ice=ICE_A), Signalling(ice="optional", protocol="RTP/SAVP"))
    assert not to_b.ice.keep and to_b.ice.credentials is not None


def test_force_relay_adds_a_relayed_candidate(call: Call) -> None:
    to_b = offer(call, audio(A, ice=ICE_A), Signalling(ice="force-relay"))
    assert (to_b.ice.keep, to_b.ice.keep_relays) == (True, False)
    assert {candidate.kind for candidate in to_b.ice.candidates} == {"relay"}


@pytest.mark.parametrize(("generate", "mid"), [(True, "0"), (False, None)])
def test_a_mid_is_made_if_asked_for(call: Call, generate: bool, mid: str | None) -> None:
    assert offer(call, audio(A), Signalling(generate_mid=generate)).mid == mid


DATA = "UDP/DTLS/SCTP"


def test_data_channels_find_their_way_too(call: Call, transport: FakeTransport) -> None:
    data = MediaOffer("application", A, None, DATA, ice=ICE_A, body_has_ice=True, mid="data")
    to_b = offer(call, data, Signalling(ice="force"))
    assert to_b.ice.credentials is not None and [c.component for c in to_b.ice.candidates] == [1]
    assert (to_b.crypto, to_b.setup) == ((), None)
    to_a = answer(call, data._replace(endpoint=B, ice=ICE_B), Signalling(ice="force"))
    assert to_a.ice.credentials is not None and to_a.mid == "data"
    config = transport.configs[30000]
    assert (config.rtp, config.stun, config.ice, config.dtls, config.secure) == (False, True, True, False, False)


def test_a_fax_has_no_ice(call: Call) -> None:
    fax = MediaOffer("image", A, None, "UDPTL")
    assert offer(call, fax, Signalling(ice="optional")).ice.candidates == ()


def test_rejected_sections_are_told_nothing(call: Call) -> None:
    offer(call, browser(), TO_PHONE)
    to_a = answer(call, audio(None, rejected=True))
    assert (to_a.local, to_a.setup, to_a.ice.candidates, to_a.mid) == (None, None, (), "audio0")


def test_a_refused_offer_changes_no_keys(call: Call, transport: FakeTransport) -> None:
    offer(call, audio(A), TO_BROWSER)
    answer(call, browser(B, ICE_B, setup="active", fingerprints=(PRINT_B,)))
    before = {port: (transport.configs[port], transport.keys.get(port)) for port in range(30000, 30004)}
    transport.limit = 0
    with pytest.raises(Exception, match="Ran out of ports"):
        call.offer("a", [audio(A), audio(A2)], Signalling(reset=True, protocol="RTP/SAVP"), 3.0)
    assert {port: (transport.configs[port], transport.keys.get(port)) for port in range(30000, 30004)} == before
