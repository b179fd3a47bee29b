"""A configuration that is read again: what changes at once, what is only told, and what a mistake leaves alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import config, control_tcp, log
from rtpengine.config import Config
from rtpengine.daemon import Daemon
from rtpengine.media import Endpoint, Learning, MediaOffer, Signalling
from rtpengine.options import ALL_OPTIONS
from rtpengine.reload import option_of
from rtpengine.table import CallTable, Limits

LEAST = "[rtpengine]\nip = 127.0.0.1\nlisten-ng = 127.0.0.1:2223\ntable = -1\nlisten-http = 127.0.0.1:9080\n"


class Running:
    """A daemon without sockets, and the file that it reads."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.write("timeout = 50\n")
        self.http = control_tcp.bind("127.0.0.1", 0)
        self.daemon = Daemon(self.load(), {"listen-http": self.http}, None, self.load)

    def load(self) -> Config:
        return config.load([f"--config-file={self.file}", "--num-threads=1"])

    def write(self, text: str) -> None:
        self.file.write_text(LEAST + text)


@pytest.fixture
def running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Running]:
    level = logging.getLogger().level
    caplog.set_level(logging.INFO)
    running = Running(tmp_path / "rtpengine.conf")
    yield running
    running.daemon.close()
    running.http.close()
    logging.getLogger().setLevel(level)


def test_what_changes_at_once(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.write(
        "timeout = 20\nsilent-timeout = 30\nfinal-timeout = 40\nlog-level = 7\nmax-sessions = 5\ndrain-timeout = 9\n"
        "control-allow = 192.0.2.0/24; ::1\nendpoint-learning = off\ntrust-sdp = yes\nice-default = force\n"
        "http-allow = 198.51.100.0/24\n"
    )
    running.daemon.reload()
    daemon = running.daemon
    assert daemon.table.limits == Limits(20, 30, 40)
    assert daemon.table.admission.max_sessions == 5
    assert daemon.table.learning is Learning.OFF
    assert daemon.tcp.allowed == (ip_network("192.0.2.0/24"), ip_network("::1/128"))
    assert daemon.web is not None and daemon.web.guard.readers == (ip_network("198.51.100.0/24"),)
    assert daemon.reloader.config.drain_timeout_s == 9
    assert logging.getLogger().level == logging.DEBUG
    assert [record.getMessage() for record in caplog.records] == [
        "configuration read again: timeout 50 -> 20, silent-timeout 3600 -> 30, final-timeout 0 -> 40, "
        "log-level 6 -> 7, "
        "max-sessions 0 -> 5, drain-timeout 3600 -> 9, endpoint-learning heuristic -> off, trust-sdp off -> on, "
        "ice-default optional -> force, control-allow none -> 192.0.2.0/24,::1/128, http-allow none -> 198.51.100.0/24"
    ]


def test_what_takes_a_restart_is_told_and_its_value_is_not(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.write("timeout = 50\ntos = 184\nport-max = 45000\n")
    running.daemon.reload()
    assert [record.getMessage() for record in caplog.records] == [
        "configuration read again: nothing changes",
        "tos has changed, which takes a restart to have an effect",
        "port-max has changed, which takes a restart to have an effect",
    ]


@pytest.mark.parametrize("text", ["timeout = 20\ntos = 300\n", "timeout = 20\nnonsense\n"])
def test_a_mistake_leaves_everything_as_it_was(running: Running, caplog: pytest.LogCaptureFixture, text: str) -> None:
    running.write(text)
    running.daemon.reload()
    assert running.daemon.table.limits.timeout_s == 50
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"the configuration stays as it was: {running.file} line 7: ")
    running.write("timeout = 21")
    running.daemon.reload()
    assert running.daemon.table.limits.timeout_s == 21


def test_what_was_set_meanwhile_stays(running: Running) -> None:
    running.daemon.table.admission.max_sessions = 7
    log.set_level(3)
    running.write("timeout = 22\n")
    running.daemon.reload()
    assert (running.daemon.table.admission.max_sessions, logging.getLogger().level) == (7, logging.ERROR)


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        ("timeout = 22\n", Limits(22, 8, 9)),
        ("timeout = 50\nsilent-timeout = 22\n", Limits(7, 22, 9)),
        ("timeout = 50\nfinal-timeout = 22\n", Limits(7, 8, 22)),
    ],
)
def test_a_time_out_that_was_set_meanwhile_stays_though_another_one_changes(
    running: Running, said: str, limits: Limits
) -> None:
    for name, value in (("timeout", "7"), ("silenttimeout", "8"), ("finaltimeout", "9")):
        running.daemon._operate(["set", name, value], "127.0.0.1")
    running.write(said)
    running.daemon.reload()
    assert running.daemon.table.limits == limits


def test_every_live_field_is_one_of_the_configuration(running: Running) -> None:
    live = running.daemon.reloader.live
    assert set(live) <= {field.name for field in fields(Config)}
    options = {option.name for option in ALL_OPTIONS}
    assert {option_of(name) for name in live} <= options


def test_a_daemon_that_was_not_told_how_to_read_again_changes_nothing(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    other = Daemon(running.load(), {})
    other.reload()
    other.close()
    assert "nothing changes" in caplog.text


def test_calls_that_exist_hear_of_other_time_outs() -> None:
    ended: list[str] = []
    transport = FakeTransport()
    table = CallTable(transport, Limits(60, 3600), Learning.HEURISTIC, TOOLS, lambda call, why, now: ended.append(why))
    media = MediaOffer("audio", Endpoint("192.0.2.1", 4000), None, "RTP/AVP")
    table.offer("c", "a", [media], Signalling(), 0.0)
    table.tick(20.0)
    table.set_limits(Limits(10, 10), 20.0)
    table.tick(20.0)
    assert ended == ["timeout"]
