"""Which new calls are taken, and how their refusal is told in each protocol; calls that exist go on."""

from __future__ import annotations

import logging
from typing import Any

import bencodepy
import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import LoadLimit, control
from rtpengine.admission import DRAINING, FULL, Admission
from rtpengine.control import NgProtocol, RtpproxyProtocol
from rtpengine.media import Learning
from rtpengine.openser_service import OpenserService
from rtpengine.rtpproxy_service import RtpproxyService
from rtpengine.service import NgService
from rtpengine.table import CallTable, Limits

SDP = "v=0\r\no=u 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_limit_is_told_once_and_again_when_it_was_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    admission = Admission(100)
    admission.admit(99)
    for sessions in (100, 101, 100):
        with pytest.raises(LoadLimit, match=FULL):
            admission.admit(sessions)
    admission.admit(99)
    with pytest.raises(LoadLimit):
        admission.admit(100)
    assert warnings(caplog) == ["new calls are refused: there are 100, as many as --max-sessions allows"]
    admission.admit(89)
    with pytest.raises(LoadLimit):
        admission.admit(100)
    assert (len(warnings(caplog)), admission.refused) == (2, 5)


def test_no_limit() -> None:
    admission = Admission()
    admission.admit(10**9)
    assert not admission.is_drained(0, 10.0**9)


@pytest.mark.parametrize(
    ("limit_s", "sessions", "now", "over"),
    [(60, 0, 100.0, True), (60, 1, 159.9, False), (60, 1, 160.0, True), (0, 1, 10.0**9, False), (0, 0, 100.0, True)],
)
def test_the_end_of_a_drain(limit_s: float, sessions: int, now: float, over: bool) -> None:
    admission = Admission()
    admission.drain(5, 100.0, limit_s)
    assert admission.is_drained(sessions, now) is over
    admission.undrain()
    assert not admission.is_drained(sessions, now)
    admission.admit(5)


def test_to_drain_again_moves_the_end() -> None:
    admission = Admission()
    for limit_s in (60, 10):
        admission.drain(1, 100.0, limit_s)
    assert admission.is_drained(1, 110.0)


class Refusing:
    """A table with one call, which takes no others."""

    def __init__(self, reason: str) -> None:
        self.table = CallTable(FakeTransport(), Limits(), Learning.HEURISTIC, TOOLS, lambda *_: None)
        self.ng = NgProtocol(NgService(self.table), trust_sdp=True)
        self.offer("known")
        if reason == FULL:
            self.table.admission.max_sessions = 1
        else:
            self.table.admission.drain(1, 1.0, 60.0)

    def offer(self, call_id: str, **keys: Any) -> dict[bytes, Any]:
        request = {"command": "offer", "call-id": call_id, "from-tag": "a", "sdp": SDP, **keys}
        return self.ask(request)

    def ask(self, request: dict[str, Any]) -> dict[bytes, Any]:
        datagram, _ = self.ng.answer(b"1", bencodepy.encode(request), "proxy", 2.0, 2.0)
        return bencodepy.decode(datagram.partition(b" ")[2])


@pytest.fixture(params=[FULL, DRAINING])
def refusing(request: pytest.FixtureRequest) -> tuple[Refusing, str]:
    return Refusing(request.param), request.param


def test_over_ng(refusing: tuple[Refusing, str], caplog: pytest.LogCaptureFixture) -> None:
    """The client that knows of load limits is told of one, others get an error; nobody's log fills with warnings."""
    bench, reason = refusing
    for supports in ({}, {"supports": []}, {"supports": ["else"]}, {"supports": "load limit"}):
        assert bench.offer("new", **supports) == {b"result": b"error", b"error-reason": reason.encode()}
    with caplog.at_level(logging.INFO, "rtpengine"):
        for word in ("load limit", "load-limit"):
            limited = bench.offer("new", supports=["x", word])
            assert limited == {b"result": b"load limit", b"message": reason.encode()}
    assert bench.offer("known")[b"result"] == b"ok"
    answer = {"command": "answer", "call-id": "known", "from-tag": "a", "to-tag": "b", "sdp": SDP}
    assert bench.ask(answer)[b"result"] == b"ok"
    assert len(bench.table) == 1
    assert "offer from proxy: load limit" in caplog.text
    assert len(warnings(caplog)) <= 1


def test_over_the_older_protocols(refusing: tuple[Refusing, str], caplog: pytest.LogCaptureFixture) -> None:
    bench, reason = refusing
    rtpproxy = RtpproxyProtocol(RtpproxyService(bench.table, "198.51.100.2"))
    openser = OpenserService(bench.table, lambda: (0, 0))
    with caplog.at_level(logging.INFO, "rtpengine"):
        assert rtpproxy.answer(b"1", b"U new 192.0.2.1 7000 a;1", "", 2.0, 2.0) == (b"1 0 198.51.100.2 4\n", True)
        line = b"request new 192.0.2.4:7078:audio 192.0.2.4 a local b remote ua info=fromtag:f1"
        assert openser.answer(line, 2.0, []) == b""
    assert caplog.text.count(f"refused a request: {reason}") == 2
    assert len(warnings(caplog)) <= 1
    assert len(bench.table) == 1


def test_the_level_of_a_refusal_is_that_of_its_reason() -> None:
    assert (control.ResourceError.level, LoadLimit.level) == (logging.WARNING, logging.INFO)
