"""The daemon as a process: start-up errors, signals, PID file, background, limits, who may control it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from systemlab.daemon import PROGRAM, Daemon, wait_until
from systemlab.fixtures import MakeParty
from systemlab.media import Dialogue, both_ways, caught_up
from systemlab.netns import Lab
from systemlab.ngclient import NgClient

START_FAILURE = 255
BASE = {
    "--config-file": "none",
    "--ip": "198.51.100.1",
    "--listen-ng": "127.0.0.1:2250",
    "--table": "-1",
    "--foreground": None,
}


def _run(lab: Lab, *options: str) -> subprocess.CompletedProcess[str]:
    with lab.relay.inside():
        return subprocess.run([str(PROGRAM), *options], capture_output=True, text=True, timeout=60, check=False)


def _options(changes: dict[str, str | None]) -> list[str]:
    merged: dict[str, str | None] = {**BASE, **changes}
    return [key if value is None else f"{key}={value}" for key, value in merged.items() if value != "ABSENT"]


REFUSED: list[tuple[dict[str, str | None], str]] = [
    ({"--ip": "ABSENT"}, "--ip"),
    ({"--ip": "nonsense"}, "--ip"),
    ({"--ip": "127.1"}, "--ip"),
    ({"--ip": "0.0.0.0"}, "--ip"),
    ({"--ip": "2001:db8::1"}, "--ip"),
    ({"--ip6": "198.51.100.1"}, "--ip6"),
    ({"--advertised-ip": "1.2.3"}, "--advertised-ip"),
    ({"--advertised-ip6": "zz"}, "--advertised-ip6"),
    ({"--listen-ng": "ABSENT"}, "--listen"),
    ({"--listen-ng": "0"}, "--listen-ng"),
    ({"--listen-ng": "70000"}, "--listen-ng"),
    ({"--listen-ng": "2223x"}, "--listen-ng"),
    ({"--listen-ng": "127.0.0.1"}, "--listen-ng"),
    ({"--listen-ng": "::1:2223"}, "--listen-ng"),
    ({"--listen-ng": "203.0.113.200:2223"}, "--listen-ng"),
    ({"--listen-udp": "203.0.113.200:2222"}, "--listen-udp"),
    ({"--listen-tcp": "203.0.113.200:2222"}, "--listen-tcp"),
    ({"--redis": "127.0.0.1:6379"}, "--redis"),
    ({"--b2b-url": "127.0.0.1"}, "--b2b-url"),
    ({"--tos": "256"}, "--tos"),
    ({"--tos": "-1"}, "--tos"),
    ({"--tos": "12x"}, "--tos"),
    ({"--timeout": "soon"}, "--timeout"),
    ({"--log-level": "8"}, "--log-level"),
    ({"--port-min": "70000"}, "--port-m"),
    ({"--port-min": "40000", "--port-max": "30000"}, "--port-m"),
    ({"--endpoint-learning": "psychic"}, "--endpoint-learning"),
    ({"--num-threads": "0"}, "--num-threads"),
    ({"--pidfile": "/nonexistent/dir/pid"}, "--pidfile"),
    ({"--no-such-option": None}, "--no-such-option"),
    ({"--foreg": None}, "--foreg"),
    ({"--table": "0", "--no-fallback": None}, "--no-fallback"),
]


@pytest.mark.parametrize(("changes", "named"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_start_up_errors_name_their_option(lab: Lab, changes: dict[str, str | None], named: str) -> None:
    done = _run(lab, *_options(changes))
    assert done.returncode == START_FAILURE
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("option", ["--version", "-v", "--help", "-h"])
def test_version_and_help_need_nothing_else(lab: Lab, option: str) -> None:
    done = _run(lab, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rtpengine" in done.stdout


def test_control_port_in_use(lab: Lab) -> None:
    with lab.relay.udp("127.0.0.1", 2250):
        done = _run(lab, *_options({}))
    assert done.returncode == START_FAILURE
    assert "--listen-ng" in done.stderr


@pytest.fixture
def fresh(start: Callable[..., Daemon]) -> Iterator[Daemon]:
    """A daemon of the test's own."""
    daemon = start("--port-min=35000", "--port-max=35099")
    yield daemon
    daemon.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_orderly_end(fresh: Daemon, lab: Lab, party: MakeParty, number: signal.Signals) -> None:
    both_ways(Dialogue(fresh.ng, party(lab.a), party(lab.b)).place())
    fresh.signal(number)
    assert fresh.process.wait(60) == 0
    assert "Traceback" not in fresh.log


def test_signals_change_the_log_level(fresh: Daemon) -> None:
    def lines_per_ping() -> int:
        before = fresh.log.count("\n")
        assert fresh.ng.ping()
        return fresh.log.count("\n") - before

    assert lines_per_ping() == 1, "requests are logged at level 6"
    size = len(fresh.log)
    fresh.signal(signal.SIGUSR1)
    assert wait_until(lambda: "5" in fresh.log[size:]), "one line names the new level"
    assert lines_per_ping() == 0
    for level in "67":
        size = len(fresh.log)
        fresh.signal(signal.SIGUSR2)
        assert wait_until(lambda level=level, size=size: level in fresh.log[size:])  # type: ignore[misc]
    assert lines_per_ping() >= 1
    fresh.signal(signal.SIGUSR2)
    assert fresh.ng.ping()
    assert fresh.alive


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE])
def test_signals_that_must_not_end_it(fresh: Daemon, number: signal.Signals) -> None:
    fresh.signal(number)
    assert fresh.ng.ping()
    assert fresh.alive


def test_pid_file(lab: Lab, start: Callable[..., Daemon], tmp_path: Path) -> None:
    pid_file = tmp_path / "rtpengine.pid"
    pid_file.write_text("stale\n")
    daemon = start("--port-min=35100", "--port-max=35199", f"--pidfile={pid_file}")
    assert pid_file.read_text() == f"{daemon.pid}\n"
    assert daemon.stop() == 0
    assert not pid_file.exists()


def test_background(lab: Lab, tmp_path: Path) -> None:
    """The first process ends with 0 only when the daemon serves, and the PID file is complete by then."""
    pid_file = tmp_path / "rtpengine.pid"
    options: dict[str, str | None] = {
        "--foreground": "ABSENT",
        "--pidfile": str(pid_file),
        "--listen-ng": "127.0.0.1:2253",
    }
    done = _run(lab, *_options(options))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(pid_file.read_text())
    client = NgClient(lab.relay, ("127.0.0.1", 2253))
    try:
        assert client.ping()
        status = Path(f"/proc/{pid}")
        assert os.getsid(pid) == pid
        assert (status / "cwd").readlink() == Path("/")
        assert {(status / "fd" / number).readlink() for number in "012"} == {Path("/dev/null")}
    finally:
        client.close()
        os.kill(pid, signal.SIGTERM)
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60)
    assert not pid_file.exists()


def test_descriptor_limit_is_raised_and_never_lowered(lab: Lab, start: Callable[..., Daemon]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        daemon = start("--port-min=35200", "--port-max=35299")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[0] >= min(hard, 65535)


def test_out_of_descriptors(fresh: Daemon, lab: Lab, party: MakeParty) -> None:
    """A call that cannot open its sockets fails whole, running calls go on, and later there is room again."""
    running, late = (Dialogue(fresh.ng, party(lab.a), party(lab.b)) for _ in range(2))
    both_ways(running.place())
    before = fresh.descriptors()
    limits = resource.prlimit(fresh.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(fresh.pid, resource.RLIMIT_NOFILE, (before + 2, limits[1]))
    try:
        keys = {"sdp": late.caller.sdp(), "call_id": late.call_id, "from_tag": "f", "flags": ["trust-address"]}
        assert "descriptors" in fresh.ng.error("offer", **keys)
        assert fresh.ng.error("query", call_id=late.call_id) == "Unknown call-id"
        both_ways(running)
        assert fresh.descriptors() == before
    finally:
        resource.prlimit(fresh.pid, resource.RLIMIT_NOFILE, limits)
    both_ways(late.place())


def test_stop_and_continue(fresh: Daemon, lab: Lab, party: MakeParty) -> None:
    """Two seconds without the processor, packets arriving meanwhile: afterwards everything flows."""
    dialogues = [Dialogue(fresh.ng, party(lab.a), party(lab.b)).place() for _ in range(5)]
    for dialogue in dialogues:
        both_ways(dialogue)
    fresh.signal(signal.SIGSTOP)
    try:
        for _ in range(100):
            for dialogue in dialogues:
                dialogue.caller.audio.send()
                dialogue.callee.audio.send()
            time.sleep(0.02)
    finally:
        fresh.signal(signal.SIGCONT)
    assert fresh.ng.ping()
    for dialogue in dialogues:
        caught_up(dialogue.caller.audio, dialogue.callee.audio)
        caught_up(dialogue.callee.audio, dialogue.caller.audio)
    for dialogue in dialogues:
        both_ways(dialogue, packets=50)


def test_restart_on_the_same_ports(lab: Lab, start: Callable[..., Daemon], party: MakeParty) -> None:
    for _ in range(3):
        daemon = start("--port-min=35300", "--port-max=35303")
        both_ways(Dialogue(daemon.ng, party(lab.a), party(lab.b)).place())
        daemon.kill()


@pytest.mark.parametrize("allowed", [False, True])
def test_public_control_port_serves_only_whom_it_was_told(
    lab: Lab, start: Callable[..., Daemon], allowed: bool
) -> None:
    """The protocol has no authentication (security.md 2, rule 7)."""
    address = lab.relay.address(4)
    option = [f"--control-allow=127.0.0.0/8,{lab.b.address(4)}"] if allowed else []
    daemon = start("--port-min=35400", "--port-max=35499", *option, "--listen-ng=2256", ng="127.0.0.1:2256")
    for host, served in ((lab.b, allowed), (lab.attacker, False)):
        client = NgClient(host, (address, 2256), host.address(4))
        try:
            assert client.ping(60 if served else 0.3) == served
        finally:
            client.close()
    assert daemon.ng.ping()
    assert wait_until(lambda: "--control-allow" in daemon.log), "the operator has to see why"
    assert daemon.stop() == 0


def test_overload_is_over_when_it_is_over(lab: Lab, start: Callable[..., Daemon], party: MakeParty) -> None:
    """One second after a flood from a party itself, a normal load is relayed without loss."""
    daemon = start("--port-min=35500", "--port-max=35599")
    dialogues = [Dialogue(daemon.ng, party(lab.a), party(lab.b)).place() for _ in range(5)]
    flooding = dialogues[0]
    both_ways(flooding)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        for _ in range(1000):
            flooding.caller.audio.send()
    time.sleep(1)
    caught_up(flooding.caller.audio, flooding.callee.audio)
    for dialogue in dialogues:
        both_ways(dialogue, packets=50)
