"""What we count on in pyOpenSSL, its private parts above all: a version without it has to fail here, not in a call."""

from __future__ import annotations

import time

import pytest
from dtls_wire import (
    CLIENT,
    GOOD_CIPHERS,
    OURS,
    SERVER,
    THEIRS,
    RawPeer,
    Wire,
    client,
    hello,
    hello_body,
    meeting,
    message,
    record,
    server,
    split,
)
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from rtpengine.dtls import DtlsConnected
from rtpengine.dtls_library import Failure, Session
from rtpengine.dtls_records import parse_records
from rtpengine.media import Endpoint
from rtpengine.srtp import EXPORTER_LABEL, PROFILES

MTU = 1200


def finished() -> tuple[Session, Session]:
    """Two sessions with each other, without cookies."""
    client, acceptor = Session(OURS.context, MTU), Session(THEIRS.context, MTU)
    client.expect(())
    acceptor.expect((OURS.fingerprint,))
    client.connect()
    acceptor.accept(client.take_output(), b"", False)
    client.receive(acceptor.take_output())
    acceptor.receive(client.take_output())
    client.receive(acceptor.take_output())
    assert client.finished and acceptor.finished
    return client, acceptor


@pytest.mark.parametrize("name", ["DTLSv1_handle_timeout", "SSL_get_selected_srtp_profile"])
def test_the_private_functions_exist(name: str) -> None:
    assert callable(getattr(lib, name))


def test_the_private_attributes_exist() -> None:
    connection = SSL.Connection(OURS.context, None)
    assert ffi.typeof(connection._ssl).cname == "SSL *"
    profile = ffi.typeof("SRTP_PROTECTION_PROFILE *").item
    assert {name for name, _ in profile.fields} >= {"id"}
    assert lib.SSL_get_selected_srtp_profile(connection._ssl) == ffi.NULL


def test_the_library_knows_the_profiles() -> None:
    """A context takes a list only if OpenSSL knows every name in it, and numbers them as RFC 5764 does."""
    for number, suite in PROFILES.items():
        raw = RawPeer(SERVER, profiles=suite.profile.encode())
        wire = Wire({CLIENT: raw, SERVER: server(raw.fingerprint)})
        wire.connect()
        assert lib.SSL_get_selected_srtp_profile(raw.connection._ssl).id == number


def test_the_session_ends_on_both_sides_with_the_same() -> None:
    client, acceptor = finished()
    assert client.profile == acceptor.profile == 1
    material = client.export(EXPORTER_LABEL, 60)
    assert material == acceptor.export(EXPORTER_LABEL, 60) and len(set(material)) > 20
    assert OURS.fingerprint.digest != THEIRS.fingerprint.digest


def test_what_is_negotiated_is_what_browsers_demand() -> None:
    client, _ = finished()
    connection = client._connection
    assert connection.get_protocol_version() == 0xFEFD
    assert connection.get_cipher_name() in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384")
    names = connection.get_cipher_list()
    assert all(name.startswith(("ECDHE-", "TLS_")) for name in names)
    assert "ECDHE-ECDSA-AES128-GCM-SHA256" in names and "ECDHE-RSA-AES128-GCM-SHA256" in names


def test_the_hello_asks_for_the_extended_master_secret_and_for_srtp() -> None:
    client = Session(OURS.context, MTU)
    client.connect()
    output = client.take_output()
    wanted = b"".join(number.to_bytes(2, "big") for number in PROFILES)
    assert bytes.fromhex("00170000") in output
    assert (
        b"\x00\x0e" + (len(wanted) + 3).to_bytes(2, "big") + len(wanted).to_bytes(2, "big") + wanted + b"\0" in output
    )


def test_a_session_is_not_resumed() -> None:
    """Else an old one would do where a certificate has to be shown."""
    client, acceptor = finished()
    for context in (OURS.context, THEIRS.context):
        assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
    hellos = Session(OURS.context, MTU)
    hellos.connect()
    [first] = parse_records(hellos.take_output())
    # neither a session id nor an extension for tickets with one in it
    assert first.data[25 + 34] == 0
    assert client._connection.get_session() is not None and acceptor.finished


def test_a_flight_has_no_record_longer_than_the_mtu() -> None:
    client = Session(OURS.context, 300)
    client.connect()
    acceptor = Session(THEIRS.context, 300)
    acceptor.accept(client.take_output(), b"", False)
    records = split(acceptor.take_output())
    assert len(records) > 5 and max(map(len, records)) <= 300


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("cut", [40, 52, 60])
def test_listening_takes_the_first_fragment_of_a_hello(cut: int, together: bool) -> None:
    """DTLSv1_listen on memory: it keeps the record, and the rest follows."""
    body = hello_body(b"cookie", GOOD_CIPHERS)
    cut += len(b"cookie")
    first = record(22, message(1, body, 1, 0, cut), sequence=5)
    rest = record(22, message(1, body, 1, cut), sequence=6)
    session = Session(THEIRS.context, MTU)
    session.expect(())
    session.accept(first, rest if together else b"", True)
    if not together:
        assert session.take_output() == b""
        session.receive(rest)
    flight = parse_records(session.take_output())
    assert [single.data[13] for single in flight] == [2, 11, 12, 13, 14]
    # the ServerHello is message 1, since the HelloVerifyRequest was message 0
    assert flight[0].data[17:19] == b"\x00\x01"


def test_a_hello_after_a_cookie_that_opens_nothing_fails() -> None:
    session = Session(THEIRS.context, MTU)
    with pytest.raises(Failure):
        session.accept(hello(), b"", True)


def test_a_failure_is_told_once_and_ruins_no_other_session() -> None:
    bad, good = Session(THEIRS.context, MTU), Session(THEIRS.context, MTU)
    for session in (bad, good):
        session.expect(())
    with pytest.raises(Failure, match="^no shared cipher$"):
        bad.accept(hello(), b"", False)
    assert bad.take_output()[:1] == b"\x15"
    good.accept(hello(ciphers=GOOD_CIPHERS), b"", False)
    assert good.take_output()[:1] == b"\x16"
    with pytest.raises(Failure):
        bad.receive(hello())


def test_openssl_repeats_after_a_second_with_a_new_finished() -> None:
    """The reason for asking it: nobody else can number an encrypted record anew."""
    client, acceptor = Session(OURS.context, MTU), Session(THEIRS.context, MTU)
    for session in (client, acceptor):
        session.expect(())
    client.connect()
    acceptor.accept(client.take_output(), b"", False)
    client.receive(acceptor.take_output())
    flight = parse_records(client.take_output())
    acceptor.receive(b"".join(single.data for single in flight))
    acceptor.take_output()
    client.retransmit()
    assert client.take_output() == b""
    time.sleep(1.02)
    client.retransmit()
    again = parse_records(client.take_output())
    assert [single.sequence for single in again if single.epoch] == [1]
    acceptor.receive(b"".join(single.data for single in flight))
    assert acceptor.take_output() == b"", "a replayed Finished is answered"
    acceptor.receive(b"".join(single.data for single in again))
    client.receive(acceptor.take_output())
    assert client.finished


def test_close_notify() -> None:
    client, acceptor = finished()
    client.close()
    client.close()
    goodbye = client.take_output()
    assert len(split(goodbye)) == 1
    assert (goodbye[0], goodbye[3:5]) == (21, b"\x00\x01")
    acceptor.receive(goodbye)
    assert acceptor.closed and acceptor.finished
    acceptor.close()
    acceptor.close()
    client.receive(acceptor.take_output())
    assert client.closed


@pytest.mark.parametrize("ours", [CLIENT, SERVER])
def test_renegotiation_is_refused(ours: Endpoint) -> None:
    """Else new keys would come of the same association, and nobody would be told."""
    raw = RawPeer(SERVER if ours == SERVER else None)
    endpoint = server(raw.fingerprint) if ours == SERVER else client(raw.fingerprint)
    wire = Wire({CLIENT: raw, SERVER: endpoint}) if ours == SERVER else meeting(endpoint, raw)
    wire.connect()
    before = raw.connection.get_finished()
    assert raw.connection.renegotiate()
    try:
        raw.connection.do_handshake()
    except SSL.WantReadError:
        pass
    wire.run(seconds=0.3)
    assert raw.connection.get_finished() == before
    assert [type(event) for event in wire.events[ours]].count(DtlsConnected) == 1
