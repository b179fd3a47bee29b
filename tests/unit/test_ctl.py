"""rtpengine-ctl against a daemon of paper: what it prints, its statuses, and a screen that renews itself."""

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
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rtpengine import ctl
from rtpengine.operator_commands import usage

PATIENCE_S = 60


def top(packets: int, **status: Any) -> dict[str, Any]:
    """A reply to `top` after so many packets."""
    interface = {"address": "192.0.2.1", "ports": 100, "used": 8}
    call = {
        "call_id": "old\x1b[2J",
        "age_s": 70.0,
        "signalled_s_ago": 70.0,
        "tags": ["a"],
        "media": 2,
        "debug": False,
        "packets": packets,
        "bytes": 0,
        "in_kernel": 1,
        "streams": 2,
        "last_packet_s_ago": 0.5,
    }
    new = {**call, "call_id": "new", "last_packet_s_ago": None}
    totals = {"packets": packets, "bytes": 125 * packets, "kernel_packets": packets // 2, "sessions": packets // 100}
    return {
        "status": {
            "version": "3",
            "uptime_s": 61.0,
            "sessions": 2,
            "max_sessions": 0,
            "draining": False,
            "drain_ends_in_s": None,
            "interfaces": [interface],
            **status,
        },
        "totals": {**totals, "drops": {"source": packets // 50}},
        "calls": [call] + [new] * (packets > 100),
    }


class Paper:
    """A daemon that answers each request with the next reply, and remembers what it was asked."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.asked: list[list[str]] = []
        self.replies: list[bytes] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    self.asked.append(json.loads(line))
                    reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                    if not reply:
                        break
                    connection.sendall(reply)

    def reply(self, *data: Any) -> None:
        self.replies = [json.dumps({"result": "ok", "data": one}).encode() + b"\n" for one in data]

    def run(self, *words: str) -> int:
        return ctl.main(["--port", str(self.port), *words])

    def close(self) -> None:
        # accept() does not end with close() alone
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(PATIENCE_S)


@pytest.fixture
def paper() -> Iterator[Paper]:
    made = Paper()
    yield made
    made.close()


Captured = pytest.CaptureFixture[str]


def test_text_and_json(paper: Paper, capsys: Captured) -> None:
    paper.reply({"sessions": 5})
    assert paper.run("list", "numsessions") == 0
    assert capsys.readouterr().out == "sessions: 5\n"
    for words in (
        ["--json", "list", "numsessions"],
        ["list", "--json", "numsessions"],
        ["list", "numsessions", "--json"],
    ):
        assert paper.run(*words) == 0
        assert json.loads(capsys.readouterr().out) == {"sessions": 5}
    assert paper.asked == [["list", "numsessions"]] * 4
    assert paper.run("terminate", "--", "-x y\udcff") == 0
    assert paper.asked[-1] == ["terminate", "-x y\udcff"]


def test_top_as_json_is_one_reply(paper: Paper, capsys: Captured) -> None:
    paper.reply(top(100))
    assert paper.run("top", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == top(100)
    assert paper.asked == [["top", "5"]]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b'{"result": "error", "reason": "Unknown\\u001b call-id"}\n', "Unknown\\x1b call-id"),
        *[
            (answer + b"\n", "what answers there is not the port of --listen-cli")
            for answer in (
                b"HTTP/1.1 400 Bad Request\r",
                b"SSH-2.0-x",
                b"\xff\xfe",
                b"{}",
                b"[]",
                b"5",
                b"null",
                b'"result"',
                b'{"result": "ok"}',
                b'{"result": "error"}',
                b"[" * 50_000,
            )
        ],
        (b"", "no reply: the daemon has closed the connection, see --control-allow there"),
    ],
)
def test_failures(paper: Paper, capsys: Captured, reply: bytes, message: str) -> None:
    paper.replies = [reply]
    assert paper.run("why", "c") == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err == f"rtpengine-ctl: {message}\n"


def test_nobody_listens(capsys: Captured) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert ctl.main(["--port", str(closed.getsockname()[1]), "status"]) == 1
    assert re.fullmatch(
        r"rtpengine-ctl: 127.0.0.1 port \d+: Connection refused; is --listen-cli set, and is it here\?\n",
        capsys.readouterr().err,
    )


def test_no_reply_in_time(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl, "REPLY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert ctl.main(["--port", str(silent.getsockname()[1]), "status"]) == 1
    assert capsys.readouterr().err == "rtpengine-ctl: no reply: timed out\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["--port=0", "status"], ["--port=x", "status"], ["--interval=0", "top"], ["--interval=x", "top"], ["--por=1"]],
)
def test_usage_errors(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        ctl.main(arguments)
    assert end.value.code == 2
    assert "usage: rtpengine-ctl" in capsys.readouterr().err


def test_help_lists_every_command(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        ctl.main(["--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"  {entry['command']}  " in out and entry["does"] in out for entry in usage())


def test_screens_of_rates(paper: Paper, capsys: Captured) -> None:
    paper.reply(top(100), top(1100, draining=True, drain_ends_in_s=9.0, max_sessions=5), top(1100))
    assert paper.run("top", "--interval=0.1", "--rounds=2") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    first, second = (screen.splitlines() for screen in out.split("rtpengine 3, ")[1:])
    assert first[0] == "up 1:01, calls: 2 of 5, draining, at most 9 s more"
    assert re.match(
        r"\d+ packets/s \(\d+ in the kernel\), \d+\.\d\d Mbit/s, \d+ dropped/s, \d+\.\d new calls/s$", first[1]
    )
    assert first[2] == "192.0.2.1: 8 of 100 ports used"
    assert first[4].split() == ["CALL-ID", "AGE", "PACKETS/S", "PACKETS", "KERNEL", "LAST", "PACKET"]
    old, new = (line.split() for line in first[5:7])
    assert old[:2] + old[3:] == ["old\\x1b[2J", "1:10", "1100", "1/2", "0", "s", "ago"]
    assert int(old[2]) > 0
    assert new == ["new", "1:10", "-", "1100", "1/2", "never"]
    assert second[1].startswith("0 packets/s (0 in the kernel), 0.00 Mbit/s, 0 dropped/s")
    assert set(paper.asked[0][:1]) == {"top"} and len(paper.asked) == 3


def interruptible() -> None:
    """What a shell starts in the background ignores interrupts, and so does what that starts."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_screen_on_a_terminal(paper: Paper) -> None:
    """Each screen takes the place of the last one, and an interrupt is an orderly end."""
    paper.reply(top(100), top(200), top(300))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rtpengine.ctl", f"--port={paper.port}", "--interval=0.1", "top", "3"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=interruptible) as tool:
        os.close(theirs)
        seen = b""
        deadline = time.monotonic() + PATIENCE_S
        while seen.count(b"\x1b[H") < 3 and time.monotonic() < deadline:
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 65536)
        tool.send_signal(signal.SIGINT)
        status = None
        while status is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    pass
            status = tool.poll()
        tool.kill()
    os.close(ours)
    assert status == 0
    assert seen.count(b"\x1b[H") >= 3
    assert b"\x1b[K\r\n" in seen and b"\x1b[J" in seen
    assert b"Traceback" not in seen
    assert b"old\\x1b[2J" in seen and b"old\x1b" not in seen
