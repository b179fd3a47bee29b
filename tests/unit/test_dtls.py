"""One port's DTLS from signalling to keys: roles, fingerprints, restarts, moves, time-outs, ends; the certificate."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from dtls_wire import (
    CLIENT,
    GOOD_CIPHERS,
    OURS,
    SERVER,
    STRANGER,
    THEIRS,
    TODAY,
    RawPeer,
    Wire,
    arrives,
    client,
    cookie_of,
    hello,
    knock,
    meeting,
    record,
    server,
)

from rtpengine.dtls import (
    CLOSED_EARLY,
    COOKIE_PERIOD_S,
    NO_PROFILE,
    TIMED_OUT,
    Certificate,
    DtlsClosed,
    DtlsConnected,
    DtlsEndpoint,
    DtlsFailed,
)
from rtpengine.dtls_association import FIRST_RESEND_S, HANDSHAKE_S, MAX_RESEND_S
from rtpengine.dtls_library import MISMATCH
from rtpengine.media import Endpoint, Fingerprint
from rtpengine.srtp import SUITES

ELSEWHERE = Endpoint("192.0.2.11", 40002)
OTHERS = Certificate.generate(TODAY)
HASHES = {"sha-1": "sha1", "sha-224": "sha224", "sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}


def connected() -> tuple[Wire, DtlsEndpoint, DtlsEndpoint]:
    """A wire with an association, its client and its server."""
    active, passive = client(THEIRS.fingerprint), server(OURS.fingerprint)
    wire = meeting(active, passive)
    wire.connect()
    return wire, active, passive


def test_the_keys_are_those_of_the_preferred_suite() -> None:
    wire, active, passive = connected()
    wire.assert_same_keys()
    assert active.suite == passive.suite == next(iter(SUITES))
    assert (len(wire.keys(CLIENT).send.key), len(wire.keys(CLIENT).send.salt)) == (16, 14)
    assert active.deadline is passive.deadline is None


def test_no_key_is_in_a_repr() -> None:
    wire, _, _ = connected()
    keys = wire.keys(CLIENT)
    text = repr(wire.events)
    assert repr(keys.send.key) not in text and repr(keys.receive.salt) not in text


@pytest.mark.parametrize("told_first", ["client", "server", "nobody"])
def test_keys_come_only_after_both_handshake_and_fingerprint(told_first: str) -> None:
    active = client(*([THEIRS.fingerprint] if told_first == "client" else []))
    passive = server(*([OURS.fingerprint] if told_first == "server" else []))
    wire = meeting(active, passive)
    wire.run(seconds=0.5)
    expected = {"client": ["connected", "unverified"], "server": ["unverified", "connected"]}
    assert wire.states() == expected.get(told_first, ["unverified", "unverified"])
    assert sum(map(len, wire.events.values())) == (told_first != "nobody")
    assert {active.suite, passive.suite} <= {None, "AES_CM_128_HMAC_SHA1_80"}
    active.expect((THEIRS.fingerprint,))
    passive.expect((OURS.fingerprint,))
    wire.connect()
    wire.assert_same_keys()
    assert sum(map(len, wire.events.values())) == 2


def test_the_fingerprint_comes_while_the_handshake_is_under_way() -> None:
    active, passive = client(), server()
    wire = meeting(active, passive)
    wire.run(until=lambda: len(wire.sent) == 4)
    active.expect((THEIRS.fingerprint,))
    passive.expect((OURS.fingerprint,))
    wire.connect()
    wire.assert_same_keys()


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_wrong_fingerprint_comes_while_the_handshake_is_under_way(who: str) -> None:
    active, passive = client(), server()
    wire = meeting(active, passive)
    wire.run(until=lambda: len(wire.sent) == (3 if who == "client" else 4))
    (active if who == "client" else passive).expect((OTHERS.fingerprint,))
    wire.run(seconds=0.5)
    [failure] = wire.events[SERVER if who == "client" else CLIENT]
    assert "unknown ca" in failure.reason


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wrong_fingerprint_gives_no_keys(who: str, when: str) -> None:
    wrong = OTHERS.fingerprint
    active = client(*([wrong] if who == "client" else [THEIRS.fingerprint]) if when == "before" else [])
    passive = server(*([wrong] if who == "server" else [OURS.fingerprint]) if when == "before" else [])
    wire = meeting(active, passive)
    wire.run(seconds=0.5)
    if when == "after":
        (active if who == "client" else passive).expect((wrong,))
        wire.run(seconds=0.5)
    judge, remote = (CLIENT, SERVER) if who == "client" else (SERVER, CLIENT)
    assert wire.events[judge] == [DtlsFailed(remote, MISMATCH)]
    assert wire.endpoints[judge].state == f"failed: {MISMATCH}"
    # the other party is told too
    [failure] = wire.events[remote]
    assert isinstance(failure, DtlsFailed)
    assert failure.reason == CLOSED_EARLY if when == "after" else "unknown ca" in failure.reason
    assert wire.endpoints[judge].suite is None


def described(algorithm: str, certificate: Certificate = THEIRS, wrong: bool = False) -> Fingerprint:
    """A certificate by a hash that is not the one we use ourselves."""
    der = DER[certificate]
    digest = hashlib.new(HASHES[algorithm], der).digest()
    return Fingerprint(algorithm, bytes(len(digest)) if wrong else digest)


def _der(certificate: Certificate) -> bytes:
    """The certificate as it travels."""
    raw = RawPeer(SERVER)
    wire = Wire({CLIENT: raw, SERVER: server(certificate=certificate)})
    wire.run(until=lambda: raw.state == "connected")
    return raw.connection.get_peer_certificate().to_cryptography().public_bytes(Encoding.DER)


DER = {THEIRS: _der(THEIRS)}


@pytest.mark.parametrize(
    ("fingerprints", "good"),
    [
        *(([described(algorithm)], True) for algorithm in HASHES),
        *(([described(algorithm, wrong=True)], False) for algorithm in HASHES),
        ([described("sha-256"), described("sha-384"), described("sha-512")], True),
        ([described("sha-1", wrong=True), described("sha-256")], True),
        ([described("sha-256"), described("sha-1", wrong=True)], True),
        ([described("sha-1"), described("sha-256", wrong=True)], False),
        ([described("sha-256"), described("sha-512", wrong=True)], False),
        ([described("sha-256", wrong=True), described("sha-256")], True),
        ([described("sha-512", wrong=True), described("sha-512"), described("sha-1", wrong=True)], True),
        ([Fingerprint("md5", bytes(16)), described("sha-256")], True),
        ([Fingerprint("md5", hashlib.md5(DER[THEIRS]).digest())], False),
        ([Fingerprint("sha-256", described("sha-256").digest[:31])], False),
    ],
)
def test_the_strongest_hash_decides(fingerprints: list[Fingerprint], good: bool) -> None:
    wire = meeting(client(*fingerprints), server(OURS.fingerprint))
    wire.run(seconds=0.5)
    assert wire.endpoints[CLIENT].state == ("connected" if good else f"failed: {MISMATCH}")


@pytest.mark.parametrize("ours", ["client", "server"])
@pytest.mark.parametrize("profiles", [b"", b"SRTP_AES128_CM_SHA1_32"])
def test_who_wants_no_srtp_gets_no_keys(ours: str, profiles: bytes) -> None:
    raw = RawPeer(SERVER if ours == "server" else None, profiles=profiles)
    endpoint = server(raw.fingerprint) if ours == "server" else client(raw.fingerprint)
    wire = Wire({CLIENT: raw, SERVER: endpoint}) if ours == "server" else meeting(endpoint, raw)
    wire.run(seconds=0.5)
    if profiles:
        assert endpoint.suite == "AES_CM_128_HMAC_SHA1_32"
    else:
        assert endpoint.state == f"failed: {NO_PROFILE}"
        assert raw.state in ("closed", "connected")
    assert len(wire.events[SERVER if ours == "server" else CLIENT]) == 1


def test_a_client_has_to_have_a_certificate() -> None:
    raw = RawPeer(SERVER, anonymous=True)
    wire = Wire({CLIENT: raw, SERVER: server()})
    wire.run(seconds=0.5)
    [failure] = wire.events[SERVER]
    assert "did not return a certificate" in failure.reason
    assert raw.state.startswith("failed")


@pytest.mark.parametrize(
    ("profiles", "suite"),
    [
        (b"SRTP_AES128_CM_SHA1_32:SRTP_AES128_CM_SHA1_80", "AES_CM_128_HMAC_SHA1_80"),
        (b"SRTP_AES128_CM_SHA1_32:SRTP_AEAD_AES_128_GCM", "AEAD_AES_128_GCM"),
        (b"SRTP_AEAD_AES_128_GCM:SRTP_AEAD_AES_256_GCM", "AEAD_AES_256_GCM"),
    ],
)
def test_as_server_our_order_of_suites_counts(profiles: bytes, suite: str) -> None:
    raw = RawPeer(SERVER, profiles=profiles)
    wire = Wire({CLIENT: raw, SERVER: server(raw.fingerprint)})
    wire.connect()
    assert wire.endpoints[SERVER].suite == suite


@pytest.mark.parametrize(
    ("suites", "suite"),
    [
        (("AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80"), "AEAD_AES_128_GCM"),
        (("AES_256_CM_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"), "AES_CM_128_HMAC_SHA1_32"),
        (("AES_256_CM_HMAC_SHA1_80",), None),
    ],
)
def test_only_the_suites_of_the_operator_are_agreed_on(suites: tuple[str, ...], suite: str | None) -> None:
    certificate = Certificate.generate(TODAY, suites)
    endpoint = DtlsEndpoint(certificate, "passive", (OURS.fingerprint,))
    wire = meeting(client(certificate.fingerprint), endpoint)
    wire.run(seconds=0.5)
    assert endpoint.suite == suite
    if suite is None:
        assert endpoint.state == f"failed: {NO_PROFILE}"


# restarts


def test_a_peer_that_starts_again_gets_new_keys_and_the_old_ones_last_until_then() -> None:
    wire, _, passive = connected()
    before = wire.keys(SERVER)
    wire.endpoints[CLIENT] = again = client(THEIRS.fingerprint)
    again.start(SERVER, wire.now)
    seen = set()
    wire.run(until=lambda: bool(seen.add(passive.state)) or again.state == "connected")
    wire.run(seconds=0.05)
    assert seen == {"connected"}
    wire.assert_same_keys()
    assert wire.keys(SERVER).send != before.send
    assert [type(event) for event in wire.events[SERVER]] == [DtlsConnected] * 2


@pytest.mark.parametrize("source", [CLIENT, ELSEWHERE, STRANGER])
@pytest.mark.parametrize("reaches", range(1, 6))
def test_a_restart_that_is_not_finished_changes_nothing(source: Endpoint, reaches: int) -> None:
    wire, _, passive = connected()
    wire.endpoints[source] = again = client(THEIRS.fingerprint)
    count = len(wire.sent)
    wire.fate = lambda number, data: arrives(number, data) if number < count + reaches else []
    again.start(SERVER, wire.now)
    wire.run(seconds=0.6)
    assert (passive.state, len(wire.events[SERVER])) == ("connected", 1 if reaches < 5 else 2)


def test_a_restart_that_times_out_is_nothing_to_tell() -> None:
    wire, _, passive = connected()
    knock(passive, CLIENT, wire.now, GOOD_CIPHERS)
    assert passive.deadline is not None
    passive.handle_timeout(wire.now + HANDSHAKE_S)
    assert (passive.state, passive.take_events(), passive.deadline) == ("connected", [], None)


@pytest.mark.parametrize("source", [CLIENT, ELSEWHERE])
def test_a_restart_with_another_certificate_changes_nothing(source: Endpoint) -> None:
    wire, _, passive = connected()
    wire.endpoints[source] = again = client(THEIRS.fingerprint, certificate=OTHERS)
    again.start(SERVER, wire.now)
    wire.run(seconds=0.5)
    assert again.state.startswith("failed")
    assert (passive.state, len(wire.events[SERVER])) == ("connected", 1)


def test_the_peer_goes_on_from_another_address() -> None:
    """Its certificate proves that it is the same."""
    wire, _, _ = connected()
    wire.endpoints[ELSEWHERE] = again = client(THEIRS.fingerprint)
    again.start(SERVER, wire.now)
    wire.run(until=lambda: again.state == "connected")
    wire.run(seconds=0.05)
    wire.assert_same_keys(ELSEWHERE, SERVER)


def test_an_old_hello_that_comes_late_starts_nothing() -> None:
    wire, _, passive = connected()
    for old in (wire.sent[0], wire.sent[2]):
        passive.receive(old, CLIENT, wire.now)
    assert (passive.state, passive.deadline) == ("connected", None)
    # the first has no cookie: it may be another client's, who is asked for one
    assert [len(data) for _, data in passive.take_output()] in ([], [len(wire.sent[1])])


@pytest.mark.parametrize("role", ["client", "server"])
def test_another_fingerprint_wants_another_association(role: str) -> None:
    """RFC 8842: both parties have got a new description of the other."""
    wire, active, passive = connected()
    if role == "client":
        wire.endpoints[SERVER] = server(OURS.fingerprint, certificate=OTHERS)
        active.expect((OTHERS.fingerprint,))
        assert active.deadline == 0.0
    else:
        wire.endpoints[CLIENT] = renewed = client(THEIRS.fingerprint, certificate=OTHERS)
        passive.expect((OTHERS.fingerprint,))
        renewed.start(SERVER, wire.now)
    assert (active if role == "client" else passive).state == "new"
    wire.run(seconds=0.5)
    assert wire.all_connected()
    wire.assert_same_keys()
    assert sum(isinstance(event, DtlsConnected) for events in wire.events.values() for event in events) == 4


def test_more_fingerprints_of_the_same_certificate_keep_the_association_until_the_new_one() -> None:
    wire, active, passive = connected()
    active.expect((THEIRS.fingerprint, described("sha-512")))
    assert (active.state, active.suite) == ("connected", "AES_CM_128_HMAC_SHA1_80")
    wire.run(seconds=0.5)
    wire.assert_same_keys()
    assert [len(events) for events in wire.events.values()] == [2, 2]


@pytest.mark.parametrize("role", ["client", "server"])
def test_the_same_fingerprints_again_change_nothing(role: str) -> None:
    fingerprints = (THEIRS.fingerprint, described("sha-512"))
    active, passive = client(*fingerprints), server(OURS.fingerprint)
    wire = meeting(active, passive)
    wire.connect()
    active.expect(fingerprints[::-1])
    passive.expect((OURS.fingerprint,))
    assert active.deadline is passive.deadline is None
    assert wire.states() == ["connected", "connected"]


# the client's address book


def test_starting_twice_sends_one_hello() -> None:
    active = client(THEIRS.fingerprint)
    active.start(SERVER, 5.0)
    active.start(SERVER, 5.0)
    assert len(active.take_output()) == 1
    assert active.deadline == 5.0 + FIRST_RESEND_S
    assert active.state == "handshake"


def test_another_remote_gets_what_the_first_did_not_answer() -> None:
    active, passive = client(THEIRS.fingerprint), server(OURS.fingerprint)
    wire = Wire({CLIENT: active, SERVER: passive})
    active.start(ELSEWHERE, wire.now)
    wire.run(seconds=0.7)
    active.start(SERVER, wire.now)
    assert active.deadline == pytest.approx(wire.now + FIRST_RESEND_S)
    wire.connect()
    wire.assert_same_keys()


def test_a_connected_client_moves_without_a_handshake() -> None:
    wire, active, _ = connected()
    active.start(ELSEWHERE, wire.now)
    assert (active.take_output(), active.deadline, active.state) == ([], None, "connected")
    active.close()
    assert [destination for destination, _ in active.take_output()] == [ELSEWHERE]


def test_a_client_hears_only_whom_it_has_called() -> None:
    active, passive = client(THEIRS.fingerprint), server(OURS.fingerprint)
    wire = Wire({CLIENT: active, STRANGER: passive})
    active.start(SERVER, wire.now)
    [(_, first)] = active.take_output()
    passive.receive(first, CLIENT, wire.now)
    [(_, request)] = passive.take_output()
    active.receive(request, STRANGER, wire.now)
    assert active.take_output() == []
    active.receive(request, SERVER, wire.now)
    assert len(active.take_output()) == 1


def test_a_client_is_no_server() -> None:
    active = client(THEIRS.fingerprint)
    active.start(SERVER, 5.0)
    active.take_output()
    active.receive(hello(ciphers=GOOD_CIPHERS), SERVER, 5.0)
    assert (active.state, active.take_output(), active.take_events()) == ("handshake", [], [])


def test_a_failed_client_tries_another_remote_only() -> None:
    active, passive = client(OTHERS.fingerprint), server(OURS.fingerprint)
    wire = meeting(active, passive)
    wire.run(seconds=0.5)
    active.start(SERVER, wire.now)
    assert (active.take_output(), active.state) == ([], f"failed: {MISMATCH}")
    active.start(ELSEWHERE, wire.now)
    assert (len(active.take_output()), active.state) == (1, "handshake")


def test_nobody_answers() -> None:
    active = client(THEIRS.fingerprint)
    active.start(SERVER, 100.0)
    times = []
    while (deadline := active.deadline) is not None:
        times += [deadline] * len(active.take_output())
        active.handle_timeout(deadline)
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert times[0] == 100.0 + FIRST_RESEND_S
    assert gaps[:3] == pytest.approx([2 * FIRST_RESEND_S, 4 * FIRST_RESEND_S, 8 * FIRST_RESEND_S])
    assert max(gaps) == pytest.approx(MAX_RESEND_S) and deadline is None
    assert active.take_events() == [DtlsFailed(SERVER, TIMED_OUT)]
    assert active.state == f"failed: {TIMED_OUT}"
    # the peer may turn up after all
    active.start(SERVER, 200.0)
    assert (active.state, len(active.take_output())) == ("handshake", 1)


def test_handle_timeout_before_its_time_does_nothing() -> None:
    active = client(THEIRS.fingerprint)
    active.handle_timeout(1.0)
    active.start(SERVER, 5.0)
    active.take_output()
    active.handle_timeout(5.0)
    assert (active.take_output(), active.deadline) == ([], 5.0 + FIRST_RESEND_S)


# peers that ICE vouches for


class Vouched:
    """An endpoint behind ICE: all that it is handed is validated."""

    def __init__(self, endpoint: DtlsEndpoint) -> None:
        self.endpoint = endpoint

    def __getattr__(self, name: str) -> object:
        return getattr(self.endpoint, name)

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        self.endpoint.receive(data, source, now, validated=True)


def test_no_cookie_is_asked_of_who_has_passed_a_check() -> None:
    wire = meeting(client(THEIRS.fingerprint), Vouched(server(OURS.fingerprint)))
    wire.connect()
    wire.assert_same_keys()
    assert len(wire.sent) == 4


@pytest.mark.parametrize("when", [1, 2, 3, 5])
def test_the_peer_finds_a_better_pair_in_the_middle(when: int) -> None:
    active = client(THEIRS.fingerprint)
    wire = meeting(active, Vouched(server(OURS.fingerprint)))
    wire.run(until=lambda: len(wire.sent) >= when)
    wire.endpoints = {ELSEWHERE: active, SERVER: wire.endpoints[SERVER]}
    wire.is_real = True
    wire.connect()
    events = [event for place in (CLIENT, ELSEWHERE) for event in wire.events.get(place, [])]
    [ours], [theirs] = events, wire.events[SERVER]
    assert (ours.receive, ours.send) == (theirs.send, theirs.receive)


def test_a_validated_peer_that_starts_again_replaces_what_it_began() -> None:
    passive = server(OURS.fingerprint)
    for number in range(20):
        source = Endpoint("192.0.2.10", 5000 + number)
        passive.receive(hello(ciphers=GOOD_CIPHERS, random=bytes([number]) * 32), source, 5.0, validated=True)
    wire = meeting(client(THEIRS.fingerprint), Vouched(passive))
    wire.connect()
    assert passive.deadline is None


def test_who_was_asked_for_a_cookie_may_be_validated_meanwhile() -> None:
    active, passive = client(THEIRS.fingerprint), server(OURS.fingerprint)
    wire = meeting(active, passive)
    wire.run(until=lambda: len(wire.sent) >= 3)
    wire.endpoints = {ELSEWHERE: active, SERVER: Vouched(passive)}
    for endpoint in wire.endpoints.values():
        endpoint.take_output()
    wire._air = [(*item[:2], ELSEWHERE, *item[3:]) for item in wire._air]
    wire.connect()
    assert wire.keys(SERVER).remote == ELSEWHERE


def test_records_for_two_beginnings_of_one_peer() -> None:
    """It began from one address, then ICE checked it, and it began again from another."""
    active, passive = client(THEIRS.fingerprint), server(OURS.fingerprint)
    wire = meeting(active, passive)
    wire.run(until=lambda: len(wire.sent) >= 4)
    passive.receive(hello(b"cookie", GOOD_CIPHERS), ELSEWHERE, wire.now, validated=True)
    wire.endpoints[SERVER] = Vouched(passive)
    wire.connect()
    wire.assert_same_keys()
    assert passive.deadline is None


# cookies


@pytest.mark.parametrize(
    ("age", "source", "random", "good"),
    [
        (0.0, STRANGER, bytes(32), True),
        (COOKIE_PERIOD_S, STRANGER, bytes(32), True),
        (2 * COOKIE_PERIOD_S, STRANGER, bytes(32), False),
        (0.0, STRANGER._replace(port=667), bytes(32), False),
        (0.0, STRANGER._replace(address="198.51.100.67"), bytes(32), False),
        (0.0, STRANGER, b"x" * 32, False),
    ],
)
def test_a_cookie_is_good_for_one_hello_of_one_remote_for_a_while(
    age: float, source: Endpoint, random: bytes, good: bool
) -> None:
    passive = server(OURS.fingerprint)
    passive.receive(hello(random=bytes(32), ciphers=GOOD_CIPHERS), STRANGER, 600.0)
    [(_, request)] = passive.take_output()
    passive.receive(hello(cookie_of(request), GOOD_CIPHERS, random), source, 600.0 + age)
    assert passive.state == ("handshake" if good else "new")


def test_every_process_has_its_own_cookies() -> None:
    requests = []
    for certificate in (OURS, THEIRS):
        passive = server(certificate=certificate)
        passive.receive(hello(), STRANGER, 5.0)
        requests += [data for _, data in passive.take_output()]
    assert cookie_of(requests[0]) != cookie_of(requests[1])
    assert len(requests[0]) < len(hello())


# ends


@pytest.mark.parametrize("who", ["client", "server"])
def test_close_tells_the_peer(who: str) -> None:
    wire, active, passive = connected()
    closing, other = (active, passive) if who == "client" else (passive, active)
    closing.close()
    assert closing.state == "closed"
    wire.run(seconds=0.5)
    address, remote = (SERVER, CLIENT) if who == "client" else (CLIENT, SERVER)
    assert wire.events[address][1:] == [DtlsClosed(remote)]
    assert (other.state, other.suite, other.deadline) == ("closed", None, None)


def test_a_closed_endpoint_does_nothing_any_more() -> None:
    wire, active, passive = connected()
    for endpoint in (active, passive):
        endpoint.close()
        endpoint.take_output()
        endpoint.start(ELSEWHERE, wire.now)
        endpoint.expect((OTHERS.fingerprint,))
        endpoint.receive(hello(), ELSEWHERE, wire.now)
        endpoint.handle_timeout(wire.now + 100)
        endpoint.close()
        assert (endpoint.take_output(), endpoint.take_events(), endpoint.state) == ([], [], "closed")


def test_closing_in_the_middle_says_nothing() -> None:
    active = client(THEIRS.fingerprint)
    active.start(SERVER, 5.0)
    active.take_output()
    active.close()
    assert (active.take_output(), active.deadline, active.state) == ([], None, "closed")


def test_after_close_notify_the_peer_may_come_back() -> None:
    wire, active, passive = connected()
    active.close()
    wire.run(seconds=0.5)
    wire.endpoints[CLIENT] = again = client(THEIRS.fingerprint)
    again.start(SERVER, wire.now)
    wire.connect()
    wire.assert_same_keys()


def test_the_peer_closes_before_its_fingerprint_is_known() -> None:
    active, passive = client(THEIRS.fingerprint), server()
    wire = meeting(active, passive)
    wire.run(seconds=0.2)
    active.close()
    wire.run(seconds=0.2)
    assert wire.events[SERVER] == [DtlsFailed(CLIENT, CLOSED_EARLY)]
    passive.expect((OURS.fingerprint,))
    assert passive.take_events() == []


def test_data_in_the_association_is_swallowed() -> None:
    raw = RawPeer(SERVER)
    passive = server(raw.fingerprint)
    wire = Wire({CLIENT: raw, SERVER: passive})
    wire.connect()
    raw.connection.send(b"hello")
    wire.run(seconds=0.2)
    assert (passive.state, len(wire.events[SERVER])) == ("connected", 1)
    raw.connection.shutdown()
    wire.run(seconds=0.2)
    assert wire.events[SERVER][1:] == [DtlsClosed(CLIENT)]


# the certificate


def test_the_certificate_is_what_browsers_accept() -> None:
    certificate = x509.load_der_x509_certificate(DER[THEIRS])
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.public_key().curve.name == "secp256r1"
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert certificate.subject.rfc4514_string() == certificate.issuer.rfc4514_string() == "CN=rtpengine"
    assert certificate.serial_number > 1 << 64
    naive = TODAY.replace(tzinfo=None)
    assert _validity(certificate) == (naive - timedelta(days=1), naive + timedelta(days=30))
    assert THEIRS.fingerprint == Fingerprint("sha-256", hashlib.sha256(DER[THEIRS]).digest())


def _validity(certificate):
    """Without time zone, which older versions of the library lack."""
    if hasattr(certificate, "not_valid_before_utc"):
        return tuple(
            t.replace(tzinfo=None) for t in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        )
    return certificate.not_valid_before, certificate.not_valid_after


@pytest.mark.parametrize(("days", "soon"), [(0, False), (14.9, False), (15, True), (29, True), (31, True)])
def test_a_certificate_is_replaced_at_half_its_life(days: float, soon: bool) -> None:
    assert OURS.expires_soon(TODAY + timedelta(days=days)) is soon


def test_old_calls_keep_their_certificate() -> None:
    """After a rotation both serve, in one process and towards the same peer."""
    old, new = server(OURS.fingerprint), server(OURS.fingerprint, certificate=OTHERS)
    for passive, fingerprint in ((old, THEIRS.fingerprint), (new, OTHERS.fingerprint), (old, THEIRS.fingerprint)):
        wire = meeting(client(fingerprint), passive)
        wire.connect()
        wire.assert_same_keys()


def test_a_stray_record_is_of_no_use_before_a_hello() -> None:
    passive = server(OURS.fingerprint)
    passive.receive(record(22, b"x" * 40, epoch=1), CLIENT, 5.0)
    assert (passive.state, passive.take_output()) == ("new", [])
