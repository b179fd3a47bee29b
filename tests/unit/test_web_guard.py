"""Whom the HTTP port serves, by address, name and origin."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from rtpengine.web_guard import Guard

PROMETHEUS = ip_network("192.0.2.0/24")
PROXIES = ip_network("10.0.0.0/8")
GUARD = Guard([PROMETHEUS, ip_network("2001:db8::/32")], [PROXIES], {"media.example"})
HERE = Guard()


@pytest.mark.parametrize(
    ("source", "admitted"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("2001:db8::7", True),
        ("2001:db8::7%eth0", True),
        ("198.51.100.1", False),
        ("10.0.0.1", False),
        ("2001:db9::7", False),
    ],
)
def test_sources(source: str, admitted: bool) -> None:
    assert GUARD.admits(source) is admitted
    assert HERE.admits(source) is ("127." in source or source == "::1")


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        (None, True),
        ("localhost", True),
        ("LocalHost:8080", True),
        ("127.0.0.1:8080", True),
        ("198.51.100.2", True),
        ("[::1]:8080", True),
        ("[2001:db8::2]", True),
        ("media.example", True),
        ("Media.Example:9100", True),
        ("evil.example", False),
        ("media.example.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example@localhost.", False),
        ("", False),
        (":8080", False),
        ("[::1", False),
        ("a b", False),
        ("localhost/@evil.example", True),  # no browser sends that; the name in it is ours
    ],
)
def test_host(host: str | None, accepted: bool) -> None:
    refusal = GUARD.refusal("127.0.0.1", host, changes=False)
    assert (refusal is None) is accepted
    assert refusal is None or refusal.status == 421


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        (None, True),
        ("http://localhost:8080", True),
        ("HTTPS://LOCALHOST:8080", True),
        ("http://localhost", False),
        ("http://localhost:8081", False),
        ("http://127.0.0.1:8080", False),
        ("https://evil.example", False),
        ("null", False),
        ("", False),
        ("http://[::1", False),
    ],
)
@pytest.mark.parametrize("changes", [False, True])
def test_origin(origin: str | None, accepted: bool, changes: bool) -> None:
    refusal = HERE.refusal("127.0.0.1", "localhost:8080", origin, changes=changes)
    assert (refusal is None) is accepted
    assert refusal is None or refusal.status == 403


def test_an_origin_without_a_host_is_nobody() -> None:
    assert HERE.refusal("127.0.0.1", None, "http://localhost", changes=False)


@pytest.mark.parametrize(
    ("site", "accepted"),
    [(None, True), ("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False), ("", False)],
)
def test_fetch_metadata(site: str | None, accepted: bool) -> None:
    assert (HERE.refusal("127.0.0.1", "localhost", None, site, changes=True) is None) is accepted
    assert HERE.refusal("127.0.0.1", "localhost", None, site, changes=False) is None, "a link may lead here"


@pytest.mark.parametrize(
    ("guard", "source", "accepted"),
    [
        (HERE, "127.0.0.1", True),
        (HERE, "::1", True),
        (Guard([PROMETHEUS]), "192.0.2.7", False),
        (GUARD, "192.0.2.7", False),
        (GUARD, "10.1.2.3", True),
        (GUARD, "127.0.0.1", False),
    ],
)
def test_who_may_change_calls(guard: Guard, source: str, accepted: bool) -> None:
    assert (guard.refusal(source, "localhost", changes=True) is None) is accepted
    assert guard.refusal(source, "localhost", changes=False) is None
