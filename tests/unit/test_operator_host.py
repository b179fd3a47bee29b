"""The process around the calls as an operator sees it: a daemon without sockets, asked over the words of the tool."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from test_daemon import OFFER

from rtpengine import bencode, config, log
from rtpengine.daemon import Daemon
from rtpengine.operator_host import parameters
from rtpengine.option_values import ListenEndpoint
from rtpengine.options import ALL_OPTIONS
from rtpengine.redis_server import Address, parse_sentinels

OPTIONS = [
    *("--ip=127.0.0.1", "--ip6=::1", "--advertised-ip=198.51.100.2", "--listen-ng=127.0.0.1:2223", "--table=-1"),
    *("--num-threads=1", "--port-min=34000", "--port-max=34019"),
]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    level = logging.getLogger().level
    note = config.forwarding(config.parse(OPTIONS), None)
    made = Daemon(config.parse(OPTIONS), {}, forwarding=note)
    made.ng.answer(b"1", bencode.encode(OFFER), "", 1.0, 1.0)
    yield made
    made._operate(["terminate", "all"], "127.0.0.1")
    made.close()
    logging.getLogger().setLevel(level)


def test_interfaces_and_status(daemon: Daemon) -> None:
    four, six = daemon._operate(["list", "interfaces"], "127.0.0.1")
    assert four == {
        **dict.fromkeys(("name",), "default"),
        "address": "127.0.0.1",
        "advertised": "198.51.100.2",
        "port_min": 34000,
        "port_max": 34019,
        "ports": 20,
        "used": 4,
        "free": 16,
    }
    assert (six["address"], six["advertised"], six["used"]) == ("::1", "::1", 0)
    status = daemon._operate(["status"], "127.0.0.1")
    assert (status["sessions"], status["forwarding"]) == (1, "userspace")
    assert status["forwarding_reason"] == "--table is negative (-1)"
    totals = daemon._operate(["list", "totals"], "127.0.0.1")
    assert (totals["packets"], totals["kernel_packets"], sum(totals["drops"].values())) == (0, 0, 0)


def test_the_log_is_at_hand(daemon: Daemon) -> None:
    assert daemon._operate(["set", "loglevel", "4"], "127.0.0.1") == {"loglevel": 4}
    assert logging.getLogger().level == logging.WARNING
    assert daemon._operate(["call", "c", "debug", "on"], "127.0.0.1")["debug"]
    assert logging.getLogger().level == logging.DEBUG and log.is_debugged("c")
    daemon._operate(["terminate", "c"], "127.0.0.1")
    assert not log.is_debugged("c"), "whoever has ended is not debugged any more"
    assert logging.getLogger().level == logging.WARNING


def test_what_happens_at_a_socket_is_remembered(daemon: Daemon) -> None:
    stream = next(iter(daemon.transport.owners))
    daemon.transport.note(stream, "something")
    daemon.transport.note(0, "nobody's")
    *_, event = daemon._operate(["why", "c"], "127.0.0.1")["events"]
    assert (event["event"], event["port"]) == ("something", daemon.transport.owners[stream][1])


def test_parameters(daemon: Daemon) -> None:
    shown = daemon._operate(["params"], "127.0.0.1")
    assert shown["ip"] == "127.0.0.1"
    assert shown["listen-ng"] == "127.0.0.1:2223"
    assert shown["listen-cli"] == "none"
    assert shown["endpoint-learning"] == "heuristic"
    assert shown["foreground"] == "off"
    assert shown["drain-timeout"] == "3600"
    options = {option.name for option in ALL_OPTIONS}
    assert set(shown) <= options, "under the names that the command line has"


def test_no_secret_among_the_parameters() -> None:
    made = dataclasses.replace(
        config.parse(OPTIONS), b2b_url="http://user:hunter2@192.0.2.1/x", listen_tcp=ListenEndpoint("::1", 5)
    )
    shown = parameters(made)
    assert parameters(dataclasses.replace(made, redis=Address("::1", 6379)))["redis"] == "[::1]:6379"
    sentinels = parse_sentinels("calls@192.0.2.5:26379,192.0.2.6:26379")
    shown_sentinels = parameters(dataclasses.replace(made, redis_sentinel=sentinels))["redis-sentinel"]
    assert shown_sentinels == "calls@192.0.2.5:26379,192.0.2.6:26379"
    login = NamedTuple("Login", [("user", str), ("password", str)])("me", "hunter2")
    for value in (login, b"hunter2", ["hunter2"]):
        # what a file with a password has become, whatever the option is called
        assert parameters(dataclasses.replace(made, pidfile=value))["pidfile"] == "(set)"  # type: ignore[arg-type]
    assert (shown["b2b-url"], shown["listen-tcp"]) == ("http://192.0.2.1/x", "[::1]:5")


def test_the_storage_is_part_of_the_status(daemon: Daemon) -> None:
    assert daemon._operate(["status"], "127.0.0.1")["redis"] is None
    daemon.persistence = SimpleNamespace(state="in step", ended=lambda call_id: None)  # type: ignore[assignment]
    assert daemon._operate(["status"], "127.0.0.1")["redis"] == "in step"


def test_a_drain_by_signal_takes_the_limit_of_the_configuration(daemon: Daemon) -> None:
    daemon.drain()
    ends = daemon._operate(["status"], "127.0.0.1")["drain_ends_in_s"]
    assert 0 < ends <= 3600
    daemon._supervise(0.0)
    assert not daemon._stop.is_set()
    daemon._operate(["drain", "0"], "127.0.0.1")
    daemon._operate(["terminate", "all"], "127.0.0.1")
    daemon._supervise(0.0)
    assert daemon._stop.is_set()
