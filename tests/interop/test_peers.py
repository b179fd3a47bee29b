"""Browsers and phones of others call each other through the daemon; each must hear the tone that the other says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from peers import baresip, chromium
from peers.aiortc_peer import Aiortc
from peers.baresip import Baresip
from peers.chromium import Chromium
from peers.party import Call, Peer
from peers.picture import pictures
from peers.plain import PlainPhone, parts_of
from systemlab.daemon import Daemon, wait_until
from systemlab.netns import Host, Lab

PURE = 0.9
PATIENCE_S = 60
PICTURES = 10
# RTCP comes every five seconds (RFC 3550 6.2), and a round trip takes one of each party.
REPORTS_S = 60
SENDER_REPORT, RTP_FEEDBACK, PAYLOAD_FEEDBACK = 200, 205, 206
MakePeer = Callable[[str, Host], AbstractContextManager[Peer]]


@pytest.fixture(scope="module")
def browser(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if reason := chromium.missing():
        pytest.skip(reason)
    with Chromium(lab.c, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> MakePeer:
    """Make a party by the name that the cases below have for it."""

    def of_baresip(host: Host, encryption: str) -> Baresip:
        if reason := baresip.missing():
            pytest.skip(reason)
        directory = tmp_path / host.namespace
        directory.mkdir()
        return Baresip(host, directory, encryption, 700 if host.number == 11 else 800)

    def of_browser(_: Host) -> AbstractContextManager[Peer]:
        used: Chromium = request.getfixturevalue("browser")
        request.addfinalizer(used.hang_up)
        return nullcontext(used)

    makers: dict[str, Callable[[Host], AbstractContextManager[Peer]]] = {
        "phone": PlainPhone,
        "IPv6 phone": lambda host: PlainPhone(host, 6),
        "AVPF phone": lambda host: PlainPhone(host, feedback=True),
        "aiortc": Aiortc,
        "Chromium": of_browser,
        "baresip with SDES": lambda host: of_baresip(host, "srtp-mand"),
        "baresip with DTLS": lambda host: of_baresip(host, "dtls_srtp"),
    }
    return lambda name, host: makers[name](host)


CASES = [
    ("Chromium", "phone"),
    ("phone", "Chromium"),
    ("Chromium", "IPv6 phone"),
    ("AVPF phone", "Chromium"),
    ("aiortc", "phone"),
    ("phone", "aiortc"),
    ("baresip with SDES", "phone"),
    ("phone", "baresip with SDES"),
    ("baresip with DTLS", "phone"),
    ("phone", "baresip with DTLS"),
    ("Chromium", "baresip with SDES"),
    ("baresip with SDES", "Chromium"),
    ("baresip with DTLS", "Chromium"),
    ("Chromium", "aiortc"),
    ("aiortc", "Chromium"),
    ("baresip with SDES", "baresip with SDES"),
    ("baresip with DTLS", "baresip with SDES"),
]


@pytest.mark.parametrize(("caller", "callee"), CASES, ids=[" calls ".join(case) for case in CASES])
def test_each_hears_the_other(lab: Lab, daemon: Daemon, peer: MakePeer, caller: str, callee: str) -> None:
    with peer(caller, lab.a) as a, peer(callee, lab.b) as b:
        call = Call(daemon.ng, a, b)
        call.place()
        _assert_heard(call)
        assert (a.state, b.state) == ("connected", "connected")
        for party in (a, b):
            if isinstance(party, Chromium):
                _assert_secure(party, daemon)
        if isinstance(b, PlainPhone):
            _assert_reported(b)
        call.delete()


def _assert_heard(call: Call) -> None:
    for listener, speaker in ((call.caller, call.callee), (call.callee, call.caller)):

        def hears(listener: Peer = listener, frequency: float = speaker.tone) -> bool:
            return listener.heard().purity(frequency) > PURE

        assert wait_until(hears, PATIENCE_S), f"{listener} hears nothing of {speaker}; {_account(call)}"


def _account(call: Call) -> str:
    """What tells why a call has failed."""
    bodies = "\n".join(f"--- {i}\n{body}" for i, body in enumerate(call.seen))
    return f"states {call.caller.state} and {call.callee.state}\n{bodies}\n{call.query()}"


def _assert_secure(browser: Chromium, daemon: Daemon) -> None:
    """What the browser itself says of its connection."""
    (transport,) = browser.stats("transport")
    assert transport["dtlsState"] == "connected" and transport["srtpCipher"]
    (pair,) = browser.stats("candidate-pair", id=transport["selectedCandidatePairId"])
    (remote,) = browser.stats("remote-candidate", id=pair["remoteCandidateId"])
    assert remote["address"] == daemon.lab.relay.address(4)
    # the other party's sender reports have reached it, so RTCP flows under SRTCP too
    assert wait_until(lambda: bool(browser.stats("remote-outbound-rtp", kind="audio")), PATIENCE_S)


def test_reports_of_others_tell_loss_and_the_way(lab: Lab, daemon: Daemon, peer: MakePeer) -> None:
    """Chromium and aiortc answer each other's sender reports, under keys of DTLS; what they lose is nothing here."""
    with peer("Chromium", lab.a) as a, peer("aiortc", lab.b) as b:
        call = Call(daemon.ng, a, b)
        call.place()

        def told() -> list[dict[str, Any]]:
            tags = call.query()["tags"].values()
            return [tag["medias"][0]["streams"][0].get("RTCP", {}) for tag in tags]

        assert wait_until(lambda: all("round-trip time" in reports for reports in told()), REPORTS_S), call.query()
        for reports in told():
            assert (reports["malformed"], reports["lost"]) == (0, 0)
            assert reports["round-trip time"] < 5_000_000
        call.delete()


def _assert_reported(phone: PlainPhone) -> None:
    """A sender report has come, readable as a plain phone has to read it."""

    def has_report() -> bool:
        return any(kind == SENDER_REPORT for report in phone.reports for kind, _ in parts_of(report))

    assert wait_until(has_report, PATIENCE_S), phone.reports


@pytest.mark.parametrize(
    ("by_browser", "restart"),
    [(True, False), (True, True), (False, False)],
    ids=["Chromium offers", "Chromium restarts ICE", "the phone offers"],
)
def test_another_offer_in_the_call(
    lab: Lab, daemon: Daemon, browser: Chromium, by_browser: bool, restart: bool
) -> None:
    with PlainPhone(lab.b) as phone:
        call = Call(daemon.ng, browser, phone)
        call.place()
        try:
            _assert_heard(call)
            before = _credentials(call.seen[3])
            if restart:
                browser.restart_ice()
            call.exchange(*((browser, phone) if by_browser else (phone, browser)))
            _assert_heard(call)
            assert browser.state == "connected"
            # what Chromium was told is the answer to its offer, or the phone's offer
            after = _credentials(call.seen[7 if by_browser else 5])
            assert (before == after) != restart
            if restart:
                assert wait_until(lambda: browser.stats("transport")[0]["selectedCandidatePairChanges"] > 1, PATIENCE_S)
        finally:
            browser.hang_up()
            call.delete()


def _credentials(body: str) -> list[str]:
    return [line for line in body.splitlines() if line.startswith(("a=ice-ufrag:", "a=ice-pwd:"))]


@pytest.mark.parametrize("feedback", [False, True], ids=["AVP", "AVPF"])
@pytest.mark.parametrize("browser_calls", [True, False], ids=["Chromium calls", "Chromium is called"])
def test_video(
    lab: Lab, daemon: Daemon, browser: Chromium, monkeypatch: pytest.MonkeyPatch, browser_calls: bool, feedback: bool
) -> None:
    monkeypatch.setattr(browser, "video", True)
    with PlainPhone(lab.b, video=True, feedback=feedback) as phone:
        call = Call(daemon.ng, *((browser, phone) if browser_calls else (phone, browser)))
        call.place()
        try:
            _assert_heard(call)
            assert browser.state == "connected"
            if not feedback:
                browser.send_picture()  # or the first of all might decide, which is sent as soon as there are keys
            _assert_seen(browser, phone, call)
            _assert_feedback(browser, phone)
        finally:
            browser.hang_up()
            call.delete()


def _assert_seen(browser: Chromium, phone: PlainPhone, call: Call) -> None:
    """The phone gets pictures that can be decoded, and the browser decodes those that the phone sends back."""
    assert wait_until(lambda: _inbound(browser).get("framesDecoded", 0) >= PICTURES, PATIENCE_S), (
        f"{_inbound(browser)}\n{len(phone.video)} packets\n{_account(call)}"
    )
    shown = pictures(list(phone.video))
    assert len(shown) >= PICTURES
    assert {(picture.width, picture.height) for picture in shown} == {(640, 480)}


def _inbound(browser: Chromium) -> dict[str, Any]:
    return next(iter(browser.stats("inbound-rtp", kind="video")), {})


def _assert_feedback(browser: Chromium, phone: PlainPhone) -> None:
    """A phone that knows feedback gets the browser's, and is obeyed; another never sees any."""

    def account() -> tuple[set[tuple[int, int]], dict[str, Any]]:
        (sent,) = browser.stats("outbound-rtp", kind="video")
        return {part for report in list(phone.reports) for part in parts_of(report)}, sent

    def is_obeyed() -> bool:
        kinds, sent = account()
        return (PAYLOAD_FEEDBACK, 1) in kinds and sent["pliCount"] >= 1 and sent["keyFramesEncoded"] >= 2

    if phone.wants["transport-protocol"] == "RTP/AVPF":
        assert wait_until(is_obeyed, PATIENCE_S), account()
    else:
        kinds, sent = account()
        assert not {kind for kind, _ in kinds} & {RTP_FEEDBACK, PAYLOAD_FEEDBACK}
        assert not sent["pliCount"]
