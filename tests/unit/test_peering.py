"""The live side of a media: checks, handshakes and keys at its sockets, between a call on paper and scripted peers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import stun
from rtpengine.call import RETIREMENT_S, Call
from rtpengine.dtls import DtlsConnected, DtlsEndpoint
from rtpengine.media import (
    CryptoLine,
    Endpoint,
    Fingerprint,
    IceCredentials,
    Learning,
    MediaOffer,
    Signalling,
    SrtpKeys,
    StreamState,
)
from rtpengine.report import CallReport
from rtpengine.table import CallTable, Limits

A, B, ELSEWHERE = (Endpoint(f"203.0.113.{i}", 4000 + 100 * i) for i in range(1, 4))
ICE_A, ICE_B = (IceCredentials(name * 4, name * 22) for name in "ab")
TO_PHONE = Signalling(protocol="RTP/AVP", ice="remove", rtcp_mux=frozenset({"demux"}))
OVER_TLS = "UDP/TLS/RTP/SAVP"
ANSWER = Signalling(ice="optional")


class Stage:
    """One call in a table, whose A may be a browser; datagrams travel when a test says so."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.table = CallTable(self.transport, Limits(), Learning.HEURISTIC, TOOLS, lambda *_: None)
        self.armed: list[float] = []
        self.table.arm = self.armed.append
        self.certificate = TOOLS.certificate()
        self.now = 10.0

    @property
    def call(self) -> Call:
        return self.table.find("c")

    def offer(self, said: MediaOffer, how: Signalling) -> None:
        self.table.offer("c", "a", [said], how, self.now)

    def answer(self, said: MediaOffer, how: Signalling = ANSWER) -> None:
        self.table.answer("c", "a", "b", [said], how, self.now)

    def sent(self, stream: int) -> list[tuple[Endpoint, bytes]]:
        """What has left through a socket since the last look."""
        found = [(to, data) for socket, to, data in self.transport.sent if socket == stream]
        self.transport.sent = [entry for entry in self.transport.sent if entry[0] != stream]
        return found

    def shake_hands(self, peer: DtlsEndpoint, stream: int, at: Endpoint) -> list[DtlsConnected]:
        """Carry DTLS between the socket and a peer until nobody has anything more to say."""
        events = []
        for _ in range(20):
            to_peer, to_us = self.sent(stream), peer.take_output()
            if not to_peer and not to_us:
                break
            for _, data in to_peer:
                peer.receive(data, Endpoint("198.51.100.2", stream), self.now)
            for _, data in to_us:
                self.table.receive_dtls("c", stream, data, at, self.now)
            events += peer.take_events()
        return [event for event in events if isinstance(event, DtlsConnected)]

    def tag(self, name: str) -> dict[str, object]:
        return CallReport(self.call, self.now, self.now).query()["tags"][name]["medias"][0]  # type: ignore[no-any-return]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def audio(endpoint: Endpoint, protocol: str = "RTP/AVP", **changes: object) -> MediaOffer:
    rtcp = None if changes.get("rtcp_mux") else Endpoint(endpoint.address, endpoint.port + 1)
    changes.setdefault("body_has_ice", "ice" in changes)
    return MediaOffer("audio", endpoint, rtcp, protocol, **changes)  # type: ignore[arg-type]


def browser(stage: Stage, setup: str = "actpass", **changes: object) -> MediaOffer:
    return audio(
        A, "UDP/TLS/RTP/SAVPF", rtcp_mux=True, setup=setup, ice=ICE_A,
        **{"fingerprints": (stage.certificate.fingerprint,), **changes},
    )  # fmt: skip


def check(user: str, password: str, nominate: bool = True, number: int = 1) -> bytes:
    attributes = [(stun.USERNAME, user.encode()), (stun.PRIORITY, bytes([110, 0, 1, 255]))]
    attributes += [(stun.ICE_CONTROLLING, bytes(8))] + [(stun.USE_CANDIDATE, b"")] * nominate
    return stun.serialize(stun.REQUEST, bytes([number]) * 12, attributes, password)


def local(stage: Stage, side: int) -> IceCredentials:
    credentials = stage.call.dialogues[0].sections[0].sides[side].party.reach.local
    assert credentials is not None
    return credentials


def check_of_a(stage: Stage, nominate: bool = True) -> bytes:
    ours = local(stage, 0)
    return check(f"{ours.ufrag}:{ICE_A.ufrag}", ours.pwd, nominate)


def place_browser_call(stage: Stage, setup: str = "actpass", **changes: object) -> None:
    stage.offer(browser(stage, setup, **changes), TO_PHONE)
    stage.answer(audio(B))


def test_a_check_is_answered_validates_its_source_and_starts_the_handshake(stage: Stage) -> None:
    place_browser_call(stage)
    stage.table.receive_stun("c", 30002, check_of_a(stage), ELSEWHERE, stage.now)
    reply, *hellos = stage.sent(30002)
    assert reply[0] == ELSEWHERE and stun.parse(reply[1]).message_class == stun.SUCCESS
    assert stage.transport.validated[30002] == [(ELSEWHERE, True)]
    assert hellos and all(to == ELSEWHERE and data[0] == 22 for to, data in hellos)
    assert stage.tag("a")["ICE"] == "connected"


def test_a_wrong_password_proves_nothing(stage: Stage) -> None:
    place_browser_call(stage)
    stage.table.receive_stun("c", 30002, check(f"{local(stage, 0).ufrag}:aaaa", "x" * 22), ELSEWHERE, stage.now)
    (reply,) = stage.sent(30002)
    assert stun.parse(reply[1]).message_class == stun.ERROR
    assert stage.transport.validated == {}


@pytest.mark.parametrize(("early", "counts"), [(ICE_B, True), (ICE_A, False)], ids=["its own", "of another branch"])
def test_a_nomination_before_the_answer_counts_if_it_was_the_answerer_s(
    stage: Stage, early: IceCredentials, counts: bool
) -> None:
    stage.offer(audio(A), Signalling(protocol=OVER_TLS, ice="force"))
    ours = local(stage, 1)
    stage.table.receive_stun("c", 30000, check(f"{ours.ufrag}:{early.ufrag}", ours.pwd), ELSEWHERE, stage.now)
    stage.transport.validated.clear()
    answer = audio(B, OVER_TLS, setup="passive", fingerprints=(stage.certificate.fingerprint,), ice=ICE_B)
    for _ in range(2):
        stage.answer(answer, Signalling(ice="remove"))
    assert stage.transport.validated == ({30000: [(ELSEWHERE, True)]} if counts else {})
    assert {to for to, data in stage.sent(30000) if data[0] == 22} == ({ELSEWHERE} if counts else set())


@pytest.mark.parametrize(("setup", "role"), [("passive", "passive"), ("active", "active"), ("actpass", "passive")])
def test_a_handshake_ends_in_keys(stage: Stage, setup: str, role: str) -> None:
    place_browser_call(stage, setup)
    stage.table.receive_stun("c", 30002, check_of_a(stage), A, stage.now)
    peer = DtlsEndpoint(stage.certificate, role, (TOOLS.certificate().fingerprint,))
    if role == "active":
        peer.start(Endpoint("198.51.100.2", 30002), stage.now)
    stage.transport.sent = [entry for entry in stage.transport.sent if entry[2][0] == 22]
    (connected,) = stage.shake_hands(peer, 30002, A)
    assert stage.transport.notes == [
        (30002, f"ICE nominated {A}"),
        (30002, f"DTLS connected with {A}, SRTP suite {connected.send.suite}"),
    ]
    scope, receive, send = stage.transport.keys[30002]
    assert (receive, send) == (connected.send, connected.receive)
    assert scope == 30002
    streams = stage.tag("a")["streams"]
    assert streams[0]["DTLS"] == "connected" and streams[0]["crypto suite"] == connected.send.suite  # type: ignore[index]
    assert stage.tag("a")["flags"] == ["initialized", "rtcp-mux", "DTLS-SRTP", "ICE"]


def test_keys_are_there_before_the_flight_that_lets_the_peer_speak(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_browser_call(stage, "active")
    stage.table.receive_stun("c", 30002, check_of_a(stage), A, stage.now)
    stage.transport.sent.clear()
    had_keys = []
    send = stage.transport.send

    def sent(stream: int, to: Endpoint, data: bytes) -> None:
        had_keys.append(stream in stage.transport.keys)
        send(stream, to, data)

    monkeypatch.setattr(stage.transport, "send", sent)
    peer = DtlsEndpoint(stage.certificate, "active", (TOOLS.certificate().fingerprint,))
    peer.start(Endpoint("198.51.100.2", 30002), stage.now)
    assert stage.shake_hands(peer, 30002, A)
    assert had_keys[-1] and not had_keys[0]


def test_without_ice_the_handshake_validates_its_source(stage: Stage) -> None:
    stage.offer(audio(A), Signalling(protocol=OVER_TLS))
    stage.answer(audio(B, OVER_TLS, setup="active", fingerprints=(stage.certificate.fingerprint,)))
    for stream, component in ((30000, 0), (30001, 1)):
        source = Endpoint(ELSEWHERE.address, ELSEWHERE.port + component)
        peer = DtlsEndpoint(stage.certificate, "active", (TOOLS.certificate().fingerprint,))
        peer.start(Endpoint("198.51.100.2", stream), stage.now)
        assert stage.shake_hands(peer, stream, source)
        assert stage.transport.validated[stream] == [(source, True)]
    assert stage.transport.keys[30000][1:] != stage.transport.keys[30001][1:]


def test_a_certificate_other_than_the_signalled_one_gets_no_keys(stage: Stage) -> None:
    place_browser_call(stage, "active", fingerprints=(Fingerprint("sha-256", bytes(32)),))
    stage.table.receive_stun("c", 30002, check_of_a(stage), A, stage.now)
    stage.transport.sent.clear()
    peer = DtlsEndpoint(stage.certificate, "active", (TOOLS.certificate().fingerprint,))
    peer.start(Endpoint("198.51.100.2", 30002), stage.now)
    assert stage.shake_hands(peer, 30002, A) == []
    assert 30002 not in stage.transport.keys
    assert stage.tag("a")["streams"][0]["DTLS"].startswith("failed: ")  # type: ignore[index]


def test_media_before_the_answer_gets_keys_only_with_it(stage: Stage) -> None:
    stage.offer(audio(A), Signalling(protocol=OVER_TLS))
    peer = DtlsEndpoint(stage.certificate, "active", (TOOLS.certificate().fingerprint,))
    peer.start(Endpoint("198.51.100.2", 30000), stage.now)
    stage.shake_hands(peer, 30000, B)
    assert 30000 not in stage.transport.keys
    stage.answer(audio(B, OVER_TLS, setup="active", fingerprints=(stage.certificate.fingerprint,)))
    assert stage.transport.keys[30000][1] is not None


def connect_b(stage: Stage) -> None:
    stage.offer(audio(A), Signalling(protocol=OVER_TLS))
    stage.answer(audio(B, OVER_TLS, setup="active", fingerprints=(stage.certificate.fingerprint,)))
    peer = DtlsEndpoint(stage.certificate, "active", (TOOLS.certificate().fingerprint,))
    peer.start(Endpoint("198.51.100.2", 30000), stage.now)
    assert stage.shake_hands(peer, 30000, B)


def test_another_fingerprint_is_another_association(stage: Stage) -> None:
    connect_b(stage)
    stage.offer(audio(A), Signalling(protocol=OVER_TLS))
    assert stage.transport.keys[30000][1] is not None
    stage.answer(audio(B, OVER_TLS, setup="active", fingerprints=(Fingerprint("sha-256", bytes(32)),)))
    assert stage.transport.keys[30000][1:] == (None, None)
    assert stage.tag("b")["streams"][0]["DTLS"] == "new"  # type: ignore[index]


def test_a_repeated_answer_changes_nothing(stage: Stage) -> None:
    connect_b(stage)
    before = stage.transport.keys[30000]
    stage.answer(audio(B, OVER_TLS, setup="active", fingerprints=(stage.certificate.fingerprint,)))
    assert stage.transport.keys[30000] == before
    assert stage.sent(30000) == []


def test_sockets_that_close_take_their_handshakes_along(stage: Stage) -> None:
    connect_b(stage)
    stage.offer(audio(A), Signalling(protocol=OVER_TLS, family=6))
    stage.now += RETIREMENT_S + 1
    stage.transport.heard = dict.fromkeys(range(30002, 30006), stage.now)
    stage.table.tick(stage.now)
    assert 30000 not in stage.transport.opened
    stage.transport.sent.clear()
    stage.offer(audio(A), Signalling(protocol=OVER_TLS, family=6, reset=True))
    for call in stage.table.due_handshakes(stage.now + 60):
        stage.table.handle_timeout(call, stage.now + 60)
    stage.table.end(stage.call, "deleted", stage.now)
    assert all(stream not in (30000, 30001) for stream, _, _ in stage.transport.sent)


def test_a_lost_hello_is_repeated(stage: Stage) -> None:
    stage.offer(audio(A), Signalling(protocol=OVER_TLS))
    stage.answer(audio(B, OVER_TLS, setup="passive", fingerprints=(stage.certificate.fingerprint,)))
    first = stage.sent(30000)
    assert first and stage.armed
    stage.now = stage.armed[-1]
    (call,) = stage.table.due_handshakes(stage.now)
    stage.table.handle_timeout(call, stage.now)
    again = stage.sent(30000)
    assert [to for to, _ in again] == [B] and len(stage.armed) > 1
    assert stage.table.due_handshakes(stage.now) == []


def test_the_end_of_a_call_says_goodbye(stage: Stage) -> None:
    connect_b(stage)
    stage.table.end(stage.call, "deleted", stage.now)
    assert [(to, data[0]) for to, data in stage.sent(30000)] == [(B, 21)]
    stage.table.receive_dtls("c", 30000, b"\x16", B, stage.now)
    stage.table.receive_stun("c", 30000, b"\x00", B, stage.now)


def test_checks_of_two_full_agents_are_passed_on(stage: Stage) -> None:
    how = Signalling(ice="optional")
    stage.offer(audio(A, ice=ICE_A), how)
    stage.answer(audio(B, ice=ICE_B), how)
    for stream, peer in ((30000, B), (30002, A)):
        stage.transport.states[stream] = StreamState(peer, True, 0, 0, 0, None, None, {})
    request = check(f"{ICE_B.ufrag}:{ICE_A.ufrag}", ICE_B.pwd)
    stage.table.receive_stun("c", 30002, request, ELSEWHERE, stage.now)
    assert stage.sent(30000) == [(B, request)]
    assert stage.transport.validated[30002] == [(ELSEWHERE, True)]
    response = stun.serialize(stun.SUCCESS, bytes([1]) * 12, [], ICE_B.pwd)
    stage.table.receive_stun("c", 30000, response, B, stage.now)
    assert stage.sent(30002) == [(ELSEWHERE, response)]
    assert stage.tag("a")["ICE"] == "relayed"


@pytest.mark.parametrize(
    "forge",
    [lambda: check("bbbb:aaaa", "x" * 22), lambda: check("zzzz:aaaa", ICE_B.pwd), lambda: b"\x00\x01garbage"],
)
def test_what_proves_nothing_is_not_passed_on(stage: Stage, forge: Callable[[], bytes]) -> None:
    how = Signalling(ice="optional")
    stage.offer(audio(A, ice=ICE_A), how)
    stage.answer(audio(B, ice=ICE_B), how)
    stage.table.receive_stun("c", 30002, forge(), ELSEWHERE, stage.now)
    assert stage.transport.sent == [] and stage.transport.validated == {}


def test_a_lite_party_of_relayed_ice_is_found_through_its_sdp(stage: Stage) -> None:
    """It checks nobody: the first packet to it is the other party's check."""
    how = Signalling(ice="optional")
    stage.offer(audio(A, ice=ICE_A), how)
    stage.answer(audio(B, ice=ICE_B, ice_lite=True), how)
    request = check(f"{ICE_B.ufrag}:{ICE_A.ufrag}", ICE_B.pwd)
    stage.table.receive_stun("c", 30002, request, ELSEWHERE, stage.now)
    assert stage.sent(30000) == [(B, request)]
    assert stage.transport.validated == {30002: [(ELSEWHERE, True)]}
    response = stun.serialize(stun.SUCCESS, bytes([1]) * 12, [], ICE_B.pwd)
    stage.table.receive_stun("c", 30000, response, B, stage.now)
    assert stage.sent(30002) == [(ELSEWHERE, response)]
    assert 30000 not in stage.transport.validated
    assert (stage.transport.configs[30002].ice, stage.transport.configs[30000].ice) == (True, False)


# A party that comes in place of one that did ICE


def replace_browser(stage: Stage) -> Endpoint:
    """A browser has been nominated; a gateway without ICE takes over its end of the call. Where that one is."""
    place_browser_call(stage)
    stage.table.receive_stun("c", 30002, check_of_a(stage), ELSEWHERE, stage.now)
    stage.transport.sent.clear()
    stage.transport.validated.clear()
    gateway = Endpoint("203.0.113.77", 7000)
    print_ = Fingerprint("sha-256", bytes(32))
    said = audio(gateway, "UDP/TLS/RTP/SAVPF", rtcp_mux=True, setup="actpass", fingerprints=(print_,))
    stage.offer(said, TO_PHONE)
    stage.answer(audio(B))
    return gateway


def test_without_ice_the_handshake_is_with_whom_the_sdp_names(stage: Stage) -> None:
    gateway = replace_browser(stage)
    assert {to for to, data in stage.sent(30002) if data[0] == 22} == {gateway}
    peering = stage.call.dialogues[0].sections[0].sides[0].ports.peering
    assert peering is not None and peering.memory(stage.now).validated == ()


def test_checks_of_the_former_party_draw_nothing_to_it(stage: Stage) -> None:
    gateway = replace_browser(stage)
    stage.table.receive_stun("c", 30002, check_of_a(stage), ELSEWHERE, stage.now)
    stage.now += 1
    for call in stage.table.due_handshakes(stage.now):
        stage.table.handle_timeout(call, stage.now)
    assert {to for to, data in stage.sent(30002) if data[0] == 22} == {gateway}
    assert stage.transport.validated == {}


# An offer of something else than RTP, which may be refused: nobody tells us of that


T38 = MediaOffer("image", Endpoint(A.address, 5000), None, "UDPTL")
KEY_A, KEY_B = (SrtpKeys("AES_CM_128_HMAC_SHA1_80", bytes([i]) * 16, bytes([i]) * 14) for i in (10, 11))


def t38_of_b(stage: Stage) -> None:
    stage.table.offer("c", "b", [T38._replace(endpoint=Endpoint(B.address, 5000))], TO_PHONE, stage.now)


def t38_of_a(stage: Stage) -> None:
    stage.offer(T38, Signalling(ice="remove"))


OFFERS_OF_T38 = pytest.mark.parametrize("offer_t38", [t38_of_a, t38_of_b])


@OFFERS_OF_T38
@pytest.mark.parametrize("ice", [True, False])
def test_a_refused_fax_leaves_dtls_as_it_was(stage: Stage, offer_t38: Callable[[Stage], None], ice: bool) -> None:
    said = browser(stage, "active") if ice else browser(stage, "active")._replace(ice=None, body_has_ice=False)
    stage.offer(said, TO_PHONE)
    stage.answer(audio(B))
    if ice:
        stage.table.receive_stun("c", 30002, check_of_a(stage), A, stage.now)
        stage.transport.sent.clear()
    peer = DtlsEndpoint(stage.certificate, "active", (TOOLS.certificate().fingerprint,))
    peer.start(Endpoint("198.51.100.2", 30002), stage.now)
    assert stage.shake_hands(peer, 30002, A)
    keys, config = stage.transport.keys.copy(), stage.transport.configs[30002]
    offer_t38(stage)
    assert stage.sent(30002) == [] and stage.transport.keys == keys
    during = stage.transport.configs[30002]
    assert during.rtp and stage.transport.configs[30000].rtp
    as_before = ("secure", "rtcp_mux", "dtls", "stun", "ice", "ufrag")
    assert [getattr(during, name) for name in as_before] == [getattr(config, name) for name in as_before]
    if ice:
        stage.table.receive_stun("c", 30002, check_of_a(stage), A, stage.now)
        (reply,) = stage.sent(30002)
        assert stun.parse(reply[1]).message_class == stun.SUCCESS
    stage.now += 5
    stage.table.offer("c", "b", [audio(B)], Signalling(ice="remove"), stage.now)
    assert stage.transport.configs[30002].secure
    stage.table.answer("c", "b", "a", [said], TO_PHONE, stage.now)
    assert stage.transport.keys == keys and stage.tag("a")["streams"][0]["DTLS"] == "connected"  # type: ignore[index]
    assert stage.sent(30002) == []


@OFFERS_OF_T38
def test_a_refused_fax_leaves_sdes_as_it_was(stage: Stage, offer_t38: Callable[[Stage], None]) -> None:
    said = audio(A, "RTP/SAVP", crypto=(CryptoLine(1, KEY_A),))
    stage.offer(said, Signalling(protocol="RTP/AVP"))
    stage.answer(audio(B))
    keys = stage.transport.keys.copy()
    assert keys[30002][1] == KEY_A
    offer_t38(stage)
    assert stage.transport.keys == keys
    assert stage.transport.configs[30002].secure and stage.transport.configs[30002].rtp
    plan = stage.table.offer("c", "b", [audio(B)], Signalling(), stage.now)[0]
    assert (plan.protocol, plan.crypto[0].keys) == ("RTP/SAVP", keys[30002][2])
    stage.table.answer("c", "b", "a", [said], Signalling(), stage.now)
    assert stage.transport.keys == keys


def test_an_accepted_fax_ends_dtls_and_audio_begins_it_anew(stage: Stage) -> None:
    connect_b(stage)
    to_b = stage.table.offer("c", "a", [T38], Signalling(), stage.now)[0]
    assert (to_b.protocol, to_b.crypto, to_b.setup, to_b.fingerprint) == ("UDPTL", (), None, None)
    assert stage.sent(30000) == []
    stage.answer(T38._replace(endpoint=Endpoint(B.address, 5000)), Signalling())
    assert [(to, data[0]) for to, data in stage.sent(30000)] == [(B, 21)]
    assert stage.transport.keys[30000][1:] == (None, None)
    fax = stage.transport.configs[30000]
    assert (fax.rtp, fax.secure, fax.dtls, fax.rtcp_sink) == (False, False, False, 0)
    # As long as nobody has agreed to go back, the fax may go on.
    stage.offer(audio(A), Signalling(protocol=OVER_TLS))
    assert not stage.transport.configs[30002].rtp and not stage.transport.configs[30000].secure
    stage.answer(audio(B, OVER_TLS, setup="active", fingerprints=(stage.certificate.fingerprint,)))
    assert stage.transport.configs[30002].rtp and stage.transport.configs[30000].secure
    peer = DtlsEndpoint(stage.certificate, "active", (TOOLS.certificate().fingerprint,))
    peer.start(Endpoint("198.51.100.2", 30000), stage.now)
    assert stage.shake_hands(peer, 30000, B)


def test_multiplexing_goes_on_until_a_fax_is_accepted(stage: Stage) -> None:
    how = Signalling(rtcp_mux=frozenset({"accept"}))
    stage.offer(audio(A, rtcp_mux=True), how)
    stage.answer(audio(B, rtcp_mux=True), how)
    stage.offer(T38, how)
    assert stage.transport.configs[30000].rtcp_mux and stage.transport.configs[30002].rtcp_mux
    stage.answer(T38._replace(endpoint=Endpoint(B.address, 5000)), how)
    assert not stage.transport.configs[30000].rtcp_mux and not stage.transport.configs[30002].rtcp_mux


# A handshake that nobody answered


def test_a_repeated_answer_tries_again_what_timed_out(stage: Stage) -> None:
    """A 183 long before the 200: the party may not have been there to hear our hello."""
    answer = audio(B, OVER_TLS, setup="passive", fingerprints=(stage.certificate.fingerprint,))
    stage.offer(audio(A), Signalling(protocol=OVER_TLS))
    stage.answer(answer)
    for _ in range(60):
        stage.now += 1
        for call in stage.table.due_handshakes(stage.now):
            stage.table.handle_timeout(call, stage.now)
    assert stage.tag("b")["streams"][0]["DTLS"].startswith("failed: ")  # type: ignore[index]
    stage.transport.sent.clear()
    stage.armed.clear()
    configured = stage.transport.configured
    stage.answer(answer)
    assert [(to, data[0]) for to, data in stage.sent(30000)] == [(B, 22)]
    assert stage.armed and stage.transport.configured == configured
