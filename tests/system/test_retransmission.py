"""Requests sent again: one execution, one answer (control-ng.md 3 and 9)."""

from __future__ import annotations

import socket

import bencodepy
import pytest
from systemlab.daemon import Daemon
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.netns import Lab
from systemlab.ngclient import decode, drain, encode


def _offer(body: str, call_id: str, tag: str = "a") -> bytes:
    flags = {"flags": ["trust-address"], "ICE": "remove"}
    return encode({"command": "offer", "call-id": call_id, "from-tag": tag, "sdp": body, **flags})


def test_same_cookie_gets_the_same_bytes(lab: Lab, party: MakeParty, daemon: Daemon) -> None:
    body = party(lab.a).sdp()
    cookie = daemon.ng.cookie()
    replies = {daemon.ng.receive(daemon.ng.send(_offer(body, "again"), cookie)) for _ in range(5)}
    assert len(replies) == 1
    assert decode(bencodepy.decode(replies.pop()))["result"] == "ok"


def test_five_copies_within_a_millisecond_are_executed_once(lab: Lab, party: MakeParty, daemon: Daemon) -> None:
    """A re-offer with a new endpoint opens ports, so a second execution of the first would show in them."""
    cookie = daemon.ng.cookie()
    payload = _offer(party(lab.a).sdp(), "copies")
    before = daemon.descriptors()
    for _ in range(5):
        daemon.ng.send(payload, cookie)
    replies = {daemon.ng.receive(cookie) for _ in range(5)}
    assert len(replies) == 1
    assert daemon.descriptors() - before == 4, "one audio call has four media sockets"


@pytest.mark.parametrize("payload", [b"d7:command4:pinge", b"d7:command7:unknowne", b"garbage", b""])
def test_errors_and_pings_are_remembered_too(daemon: Daemon, payload: bytes) -> None:
    cookie = daemon.ng.cookie()
    first = daemon.ng.receive(daemon.ng.send(payload, cookie))
    assert daemon.ng.receive(daemon.ng.send(payload, cookie)) == first


def test_cookie_decides_not_the_payload(daemon: Daemon) -> None:
    cookie = daemon.ng.cookie()
    assert daemon.ng.receive(daemon.ng.send(b"d7:command4:pinge", cookie)) == b"d6:result4:ponge"
    assert daemon.ng.receive(daemon.ng.send(b"d7:command7:unknowne", cookie)) == b"d6:result4:ponge"


def test_delete_sent_again_reports_the_first_result(call: MakeCall, daemon: Daemon) -> None:
    dialogue = call().place()
    payload = encode({"command": "delete", "call-id": dialogue.call_id, "from-tag": dialogue.caller.tag})
    cookie = daemon.ng.cookie()
    first = daemon.ng.receive(daemon.ng.send(payload, cookie))
    assert b"warning" not in first
    assert daemon.ng.receive(daemon.ng.send(payload, cookie)) == first
    assert b"warning" in daemon.ng.receive(daemon.ng.send(payload))


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_same_cookie_from_another_source_is_another_request(daemon: Daemon, source: str) -> None:
    """Two SIP proxies may count alike; neither must get the other's reply."""
    cookie = daemon.ng.cookie()
    assert daemon.ng.exchange(b"d7:command4:pinge", cookie) == {"result": "pong"}
    other = daemon.client(source)
    assert other.exchange(b"d7:command7:unknowne", cookie)["result"] == "error"


def test_cookies_of_any_bytes(daemon: Daemon) -> None:
    for cookie in (b"\x00", b"\xff\xfe", b"d7:command4:pinge", "kéks".encode(), b"x" * 500):
        assert daemon.ng.exchange(b"d7:command4:pinge", cookie) == {"result": "pong"}


@pytest.mark.parametrize("datagram", [b"", b" ", b" d7:command4:pinge", b"d7:command4:pinge", b"cookie"])
def test_datagrams_without_cookie_get_no_reply(daemon: Daemon, datagram: bytes) -> None:
    client = daemon.client()
    client.socket.sendto(datagram, client.server)
    assert client.ping(), "the listener must go on"
    assert drain(client.socket) == []


def test_ng_over_ipv6(lab: Lab, start: object) -> None:
    daemon = start("--port-min=33000", "--port-max=33099", ng="[::1]:2225")  # type: ignore[operator]
    assert daemon.ng.socket.family == socket.AF_INET6
    assert daemon.ng.ping()


def test_bare_port_serves_both_families(lab: Lab, start: object) -> None:
    daemon = start("--port-min=33100", "--port-max=33199", "--listen-ng=2226", ng="127.0.0.1:2226")  # type: ignore[operator]
    client = daemon.client()
    assert client.ping()
    sock = lab.relay.udp("::1")
    with sock:
        sock.sendto(b"c d7:command4:pinge", ("::1", 2226))
        assert sock.recv(100) == b"c d6:result4:ponge"
