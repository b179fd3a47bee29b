"""Handshakes into which somebody speaks who can forge the source address of the other side."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rtpengine.dtls import Certificate, DtlsEndpoint, DtlsFailed
from rtpengine.dtls_association import FIRST_RESEND_S, HANDSHAKE_S, MAX_RESEND_S
from rtpengine.media import Endpoint

TODAY = datetime(2026, 6, 1, tzinfo=UTC)
OURS, THEIRS = Certificate.generate(TODAY), Certificate.generate(TODAY)
CLIENT, SERVER = Endpoint("192.0.2.10", 40000), Endpoint("192.0.2.20", 30000)


def record(content_type: int, payload: bytes, sequence: int = 0) -> bytes:
    header = bytes([content_type, 254, 253, 0, 0]) + sequence.to_bytes(6, "big")
    return header + len(payload).to_bytes(2, "big") + payload


FORGED = {
    "fatal alert": record(21, b"\2\x28"),
    "close_notify": record(21, b"\1\0"),
    "message out of order": record(
        22, b"\2" + (38).to_bytes(3, "big") + bytes(5) + (38).to_bytes(3, "big") + bytes(38)
    ),
}


def started(now: float = 0.0) -> DtlsEndpoint:
    endpoint = DtlsEndpoint(OURS, "active", (THEIRS.fingerprint,))
    endpoint.start(SERVER, now)
    assert len(endpoint.take_output()) == 1
    return endpoint


def next_hello(endpoint: DtlsEndpoint) -> float:
    assert endpoint.deadline is not None
    now = endpoint.deadline
    endpoint.handle_timeout(now)
    ((remote, data),) = endpoint.take_output()
    assert (remote, data[0], data[13]) == (SERVER, 22, 1)
    return now


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_client_begins_again_and_succeeds(forged: bytes) -> None:
    endpoint, now = started(), 0.0
    for _ in range(3):
        endpoint.receive(forged, SERVER, now)
        endpoint.take_output()
        assert endpoint.state.startswith("failed")
        now = next_hello(endpoint)
        assert endpoint.state == "handshake"
    server = DtlsEndpoint(THEIRS, "passive", (OURS.fingerprint,))
    endpoint.receive(forged, SERVER, now)
    endpoint.take_output()
    endpoint.handle_timeout(now + 10)
    for _ in range(6):
        for _, data in endpoint.take_output():
            server.receive(data, CLIENT, now + 10)
        for _, data in server.take_output():
            endpoint.receive(data, SERVER, now + 10)
    assert (endpoint.state, server.state) == ("connected", "connected")
    assert sum(isinstance(event, DtlsFailed) for event in endpoint.take_events()) == 1, "it is told once"


def test_more_and_more_seldom_and_not_for_ever() -> None:
    endpoint, now, times = started(), 0.0, [0.0]
    while True:
        endpoint.receive(FORGED["fatal alert"], SERVER, now)
        endpoint.take_output()
        if endpoint.deadline is None:
            break
        times.append(now := next_hello(endpoint))
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert gaps[:3] == pytest.approx([FIRST_RESEND_S, 2 * FIRST_RESEND_S, 4 * FIRST_RESEND_S])
    assert max(gaps) == pytest.approx(MAX_RESEND_S)
    assert HANDSHAKE_S <= times[-1] < HANDSHAKE_S + MAX_RESEND_S
    assert endpoint.state.startswith("failed")


def test_a_server_waits_for_hellos() -> None:
    endpoint = DtlsEndpoint(THEIRS, "passive", (OURS.fingerprint,))
    endpoint.receive(FORGED["fatal alert"], CLIENT, 0.0)
    assert endpoint.deadline is None


def test_closing_ends_it() -> None:
    endpoint = started()
    endpoint.receive(FORGED["fatal alert"], SERVER, 0.0)
    endpoint.close()
    assert endpoint.deadline is None


# What OpenSSL takes without complaint while it waits for something else: its number is all that counts.
HARMLESS = record(22, b"\x14\0\0\x0c\0\x09\0\0\0\0\0\x0c" + bytes(12), sequence=2**47)


@pytest.mark.parametrize("victim", ["client", "server"])
@pytest.mark.parametrize("before", range(1, 6))
def test_a_high_record_number_makes_no_replays_of_what_follows(victim: str, before: int) -> None:
    client, server = started(), DtlsEndpoint(THEIRS, "passive", (OURS.fingerprint,))
    client.handle_timeout(1.0)
    for step in range(1, 8):
        if step == before:
            target, source = (client, SERVER) if victim == "client" else (server, CLIENT)
            target.receive(HARMLESS, source, 1.0)
        for _, data in client.take_output():
            server.receive(data, CLIENT, 1.0)
        for _, data in server.take_output():
            client.receive(data, SERVER, 1.0)
    assert (client.state, server.state) == ("connected", "connected")
