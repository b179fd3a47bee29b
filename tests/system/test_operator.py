"""A daemon under an operator's hands: reload, drain, limits and the control tool, with calls that go on meanwhile."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The daemon's notifications, heard in systemd's place: all the time, since ten of them fill the queue."""
    path, told = str(tmp_path / "notify"), []
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, ThreadPoolExecutor(1) as pool:
        sock.bind(path)

        def listen() -> None:
            while (text := sock.recv(1000).decode()) != "END":
                told.append(text)

        pool.submit(listen)
        yield told
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"END", path)


def offer(daemon: Daemon, call_id: str, sdp: str, **keys: object) -> dict[str, object]:
    return daemon.ng.command("offer", call_id=call_id, from_tag="a", sdp=sdp, flags=["trust-address"], **keys)


def test_reload(start: Callable[..., Daemon], place: Place, tmp_path: Path, systemd: list[str]) -> None:
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
    assert wait_until(lambda: "tos has changed, which takes a restart" in daemon.log, DEADLINE_S)
    assert offer(daemon, "beyond", sdp)["result"] == "ok"

    file.write_text("[rtpengine]\ntimeout = 1\nmax-sessions = x\n")
    daemon.signal(signal.SIGHUP)
    assert wait_until(lambda: f"{file} line 3: max-sessions: 'x' is not an integer" in daemon.log, DEADLINE_S)
    both_ways(call)
    assert wait_until(lambda: any(text.startswith("STATUS=calls: ") for text in systemd), DEADLINE_S)
    assert daemon.stop() == 0
    assert wait_until(lambda: any(text.startswith("STOPPING=1") for text in systemd), DEADLINE_S)
    told = [text for text in systemd if text != "WATCHDOG=1"]
    assert [text.partition("\n")[0] for text in told if text[0] in "R"] == ["READY=1", *["RELOADING=1", "READY=1"] * 2]
    assert told[-1] == "STOPPING=1\nSTATUS="
    assert "WATCHDOG=1" in systemd


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


# The control tool


CTL_PORT = 9911


@pytest.fixture(scope="module")
def told(start: Callable[..., Daemon]) -> Daemon:
    """A daemon that listens to the tool."""
    return start("--port-min=36400", "--port-max=36499", f"--listen-cli={CTL_PORT}", "--timeout=600")


def ctl(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return daemon.ctl(CTL_PORT, *words)


def ask(daemon: Daemon, *words: str) -> Any:
    done = ctl(daemon, "--json", *words)
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def test_why_a_call_sounds_as_it_does(told: Daemon, place: Place) -> None:
    call = place(told)
    both_ways(call)
    assert ask(told, "list", "numsessions") == {"sessions": 1}
    why = ask(told, "why", call.call_id)
    rtp = {stream["tag"]: stream for stream in why["streams"] if stream["component"] == "RTP"}
    assert len(rtp) == 2
    for stream in rtp.values():
        assert stream["state"] == "heard" and stream["packets"] > 0 and stream["drops"] == {}
        assert stream["advertised"] == stream["learned"] == stream["accepted"]
        assert (stream["path"], stream["reason"]) == ("userspace", "--table is negative (-1)")
        assert 590 < stream["times_out_in_s"] <= 600
    text = ctl(told, "why", call.call_id).stdout
    assert text.startswith(f"call {call.call_id}, ")
    assert re.search(r"  \d\d:\d\d:\d\d  offer from tag", text)
    assert ctl(told, "terminate", call.call_id).stdout == "terminated: 1\n"
    assert told.ng.error("query", call_id=call.call_id) == "Unknown call-id"
    assert ask(told, "list", "totals")["closed_sessions"]["force_terminated"] >= 1
    assert "call ended (force terminated)" in told.log


def test_one_call_is_debugged(told: Daemon, place: Place) -> None:
    call = place(told)
    assert f"DEBUG: [{call.call_id}]" not in told.log
    ask(told, "call", call.call_id, "debug", "on")
    other = place(told)
    call.offer()
    call.answer()
    both_ways(call)
    assert wait_until(lambda: re.search(rf"DEBUG: \[{re.escape(call.call_id)}[] ]", told.log) is not None, DEADLINE_S)
    assert f"DEBUG: [{other.call_id}" not in told.log
    ask(told, "terminate", "all")


def test_settings_and_mistakes(told: Daemon, place: Place) -> None:
    call = place(told)
    assert ask(told, "set", "maxsessions", "1") == {"maxsessions": 1}
    assert offer(told, "beyond", call.caller.sdp())["error-reason"] == "Parallel session limit reached"
    assert ask(told, "list", "maxsessions") == {"maxsessions": 1}
    ask(told, "set", "maxsessions", "0")
    assert ask(told, "drain", "0")["draining"]
    assert ask(told, "undrain") == {"draining": False, "sessions": 1}
    assert offer(told, "after", call.caller.sdp())["result"] == "ok"
    done = ctl(told, "why", "none")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "rtpengine-ctl: Unknown call-id\n")
    ask(told, "terminate", "all")
    assert {row["command"] for row in ask(told, "usage")} >= {"why CALLID", "drain [SECONDS]"}


def interruptible() -> None:
    """What a shell starts in the background ignores interrupts, and so does what that starts."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_top_on_a_terminal(told: Daemon, place: Place) -> None:
    call = place(told)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rtpengine.ctl", f"--port={CTL_PORT}", "--interval=0.2", "top"]
    with told.lab.relay.inside():
        tool = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=interruptible)
    os.close(theirs)
    seen, deadline = "", time.monotonic() + DEADLINE_S
    # a screen with packets in it, which were sent while it was up
    while not re.search(r"\n[1-9]\d* packets/s", seen) and time.monotonic() < deadline:
        call.caller.audio.send()
        if select.select([ours], [], [], 0.05)[0]:
            seen += os.read(ours, 65536).decode()
    tool.send_signal(signal.SIGINT)
    try:
        assert tool.wait(DEADLINE_S) == 0
    finally:
        tool.kill()
        tool.wait()
        os.close(ours)
    assert call.call_id in seen
    ask(told, "terminate", "all")


def test_what_a_browser_may_send_is_no_order(lab: Lab, told: Daemon, place: Place) -> None:
    """The request of a page on this host, which needs no leave from us to be sent."""
    call = place(told)
    request = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{CTL_PORT}\r\nOrigin: http://evil.example\r\nContent-Length: 14\r\n"
        "Content-Type: text/plain\r\n\r\nterminate all\n"
    )
    with lab.relay.inside(), socket.create_connection(("127.0.0.1", CTL_PORT), DEADLINE_S) as browser:
        browser.sendall(request.encode())
        reply = browser.makefile("rb").read()
    assert json.loads(reply) == {"result": "error", "reason": "this is HTTP, which this port does not speak"}
    assert ask(told, "list", "numsessions") == {"sessions": 1}
    assert (
        "WARNING: [control] closed a connection of 127.0.0.1: this is HTTP, which this port does not speak" in told.log
    )
    assert "ordered by 127.0.0.1: terminate all" not in told.log.partition(call.call_id)[2]
    ask(told, "terminate", "all")
    assert wait_until(lambda: "NOTICE: [control] ordered by 127.0.0.1: terminate all" in told.log, DEADLINE_S)


def test_the_port_is_for_this_host(lab: Lab, told: Daemon) -> None:
    with lab.relay.inside(), socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect((lab.relay.address(4), CTL_PORT))


def test_who_is_named_may_come_from_elsewhere(lab: Lab, start: Callable[..., Daemon]) -> None:
    address = lab.relay.address(4)
    daemon = start(
        "--port-min=36500", "--port-max=36599", f"--listen-cli={address}:{CTL_PORT}",
        f"--control-allow=127.0.0.0/8,{lab.a.address(4)}",
    )  # fmt: skip
    for host, served in ((lab.a, True), (lab.attacker, False)):
        with host.inside(), socket.create_connection((address, CTL_PORT), DEADLINE_S) as client:
            client.sendall(b"list numsessions\n")
            try:
                reply = client.recv(1000)
            except ConnectionResetError:
                reply = b""
        assert reply == (b'{"result": "ok", "data": {"sessions": 0}}\n' if served else b"")
    assert wait_until(lambda: "kept out 1 requests" in daemon.log, DEADLINE_S)
