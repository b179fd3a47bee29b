"""A daemon under an operator's hands: reload, drain, limits and the control tool, with calls that go on meanwhile."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.fixtures import MakeParty
from systemlab.media import Dialogue, both_ways
from systemlab.netns import Lab

DEADLINE_S = 60.0
Place = Callable[[Daemon], Dialogue]


@pytest.fixture
def place(lab: Lab, party: MakeParty) -> Place:
    """Place a call over a daemon."""
    return lambda daemon: Dialogue(daemon.ng, party(lab.a), party(lab.b)).place()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What hears the daemon's notifications in systemd's place."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(0.01)
        yield sock


def offer(daemon: Daemon, call_id: str, sdp: str, **keys: object) -> dict[str, object]:
    return daemon.ng.command("offer", call_id=call_id, from_tag="a", sdp=sdp, flags=["trust-address"], **keys)


def test_reload(start: Callable[..., Daemon], place: Place, tmp_path: Path, systemd: socket.socket) -> None:
    file = tmp_path / "rtpengine.conf"
    file.write_text("[rtpengine]\ntimeout = 600\nmax-sessions = 1\n")
    daemon = start("--port-min=36000", "--port-max=36099", f"--config-file={file}")
    call = place(daemon)
    sdp = call.caller.sdp()
    assert offer(daemon, "beyond", sdp)["error-reason"] == "Parallel session limit reached"
    assert offer(daemon, "beyond", sdp, supports=["load limit"])["result"] == "load limit"

    file.write_text("[rtpengine]\ntimeout = 600\nmax-sessions = 2\ntos = 184\n")
    daemon.signal(signal.SIGHUP)
    assert wait_until(lambda: "max-sessions 1 -> 2" in daemon.log, DEADLINE_S)
    assert "tos has changed, which takes a restart" in daemon.log
    assert offer(daemon, "beyond", sdp)["result"] == "ok"

    file.write_text("[rtpengine]\ntimeout = 1\nmax-sessions = x\n")
    daemon.signal(signal.SIGHUP)
    assert wait_until(lambda: f"{file} line 3: max-sessions: 'x' is not an integer" in daemon.log, DEADLINE_S)
    both_ways(call)
    told: list[str] = []
    assert wait_until(lambda: any(text.startswith("STATUS=calls: ") for text in hear(systemd, told)), DEADLINE_S)
    assert daemon.stop() == 0
    hear(systemd, told)
    assert [text.partition("\n")[0] for text in told if text[0] in "R"] == ["READY=1", *["RELOADING=1", "READY=1"] * 2]
    assert told[-1] == "STOPPING=1\nSTATUS="
    assert "WATCHDOG=1" in told


def hear(systemd: socket.socket, told: list[str]) -> list[str]:
    """Add what has been told since to the rest."""
    try:
        while True:
            told.append(systemd.recv(1000).decode())
    except TimeoutError:
        return told


def test_drain_ends_with_the_last_call(start: Callable[..., Daemon], place: Place) -> None:
    daemon = start("--port-min=36100", "--port-max=36199")
    call = place(daemon)
    daemon.signal(signal.SIGRTMIN)
    assert wait_until(lambda: "draining: no new calls" in daemon.log, DEADLINE_S)
    assert offer(daemon, "new", call.caller.sdp(), supports=["load limit"])["result"] == "load limit"
    assert offer(daemon, "new", call.caller.sdp())["result"] == "error"
    both_ways(call)
    call.offer()
    call.answer()
    both_ways(call)
    daemon.ng.ok("delete", call_id=call.call_id, from_tag="")
    assert wait_until(lambda: not daemon.alive, DEADLINE_S)
    assert daemon.stop() == 0


def test_drain_ends_at_its_deadline(start: Callable[..., Daemon], place: Place) -> None:
    daemon = start("--port-min=36200", "--port-max=36299", "--drain-timeout=1")
    place(daemon)
    daemon.signal(signal.SIGRTMIN)
    assert wait_until(lambda: not daemon.alive, DEADLINE_S)
    assert daemon.stop() == 0
    assert "ends with 1 calls" in daemon.log


def test_which_ports_have_run_out(start: Callable[..., Daemon], place: Place) -> None:
    daemon = start("--port-min=36300", "--port-max=36303")
    call = place(daemon)
    for number in range(20):
        assert offer(daemon, f"new{number}", call.caller.sdp())["error-reason"] == "Ran out of ports"
    line = f"ran out of ports: IPv4 address {daemon.lab.relay.address(4)}, ports 36300 to 36303: no pair is left"
    assert daemon.log.count(f"{line}, 2 of 2 are in use, other programs have 0") == 1
