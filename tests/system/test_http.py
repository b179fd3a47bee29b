"""The HTTP port of a running daemon: health, and the README's call by curl."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.fixtures import MakeParty
from systemlab.media import Dialogue
from systemlab.netns import Lab

PORT = 8080
OPTIONS = (f"--listen-http=127.0.0.1:{PORT}",)
README = (Path(__file__).parent.parent.parent / "README.md").read_text()
EXAMPLE = README.partition("\n## A first call by hand\n")[2].partition("\n## ")[0]


def ask(lab: Lab, method: str, path: str, *, port: int = PORT, **fields: Any) -> tuple[int, str]:
    """Status and body of one request from the relay's host."""
    with lab.relay.inside():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.connect()
    try:
        connection.request(method, path, **fields)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(("path", "body"), [("/ping", "pong"), ("/healthz", "ok\n"), ("/readyz", "ready\n")])
def test_health(lab: Lab, daemon: Daemon, path: str, body: str) -> None:
    assert ask(lab, "GET", path) == (200, body)


def test_the_call_of_the_readme(lab: Lab, daemon: Daemon) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the program curl is not installed")
    shell = next(block for block in re.findall(r"```sh\n(.*?)```", EXAMPLE, re.DOTALL) if "curl" in block)
    with lab.relay.inside():
        run = subprocess.run(["bash", "-euc", shell], capture_output=True, text=True, timeout=60, check=True)
    assert run.stderr == ""
    replies = [json.loads(line) for line in run.stdout.splitlines()]
    assert [reply["result"] for reply in replies] == ["ok"] * 4
    (shown,) = re.findall(r"`(m=audio .*)\"}`", EXAMPLE)
    port = re.search(r"m=audio (\d+)", replies[0]["sdp"])
    assert port
    expected = shown.replace("36752", port[1]).replace("36753", str(int(port[1]) + 1)).replace("\\r\\n", "\r\n")
    assert replies[0]["sdp"].endswith(expected)
    assert set(replies[2]["tags"]) == {"alice", "bob"}
    assert daemon.ng.error("query", call_id="first") == "Unknown call-id"


def test_ng_with_a_cookie(lab: Lab, daemon: Daemon) -> None:
    headers = {"Content-Type": "application/x-rtpengine-ng"}
    assert ask(lab, "POST", "/ng", body=b"7 d7:command4:pinge", headers=headers) == (200, "7 d6:result4:ponge")


def test_pages_of_other_sites_change_nothing(lab: Lab, daemon: Daemon) -> None:
    body = json.dumps({"command": "ping"})
    headers = {"Content-Type": "application/json", "Origin": "https://evil.example"}
    assert ask(lab, "POST", "/ng-plain", body=body, headers=headers)[0] == 403
    assert ask(lab, "GET", "/ping", headers={"Host": "evil.example"})[0] == 421
    assert ask(lab, "POST", "/ng-plain", body=body, headers={"Content-Type": "text/plain"})[0] == 415


def test_strangers_are_disconnected(lab: Lab, start: Callable[..., Daemon]) -> None:
    """One of two hosts is named; it may read, and only who is named with --control-allow may change calls."""
    named, stranger = lab.a, lab.b
    address = lab.relay.address(4)
    daemon = start(f"--listen-http={address}:8081", f"--http-allow={named.address(4)}", "--http-name=media.example")
    assert "not on loopback" in daemon.log

    def exchange(host: Any, data: bytes) -> bytes:
        with host.inside(), socket.create_connection((address, 8081), 30) as client:
            client.sendall(data)
            try:
                return client.makefile("rb").read()
            except ConnectionResetError:
                return b""

    get = b"GET /ping HTTP/1.1\r\nHost: media.example\r\nConnection: close\r\n\r\n"
    assert exchange(named, get).endswith(b"pong")
    assert exchange(stranger, get) == b""
    post = b"POST /ng HTTP/1.1\r\nHost: media.example\r\nContent-Length: 1\r\n\r\n1"
    assert exchange(named, post).startswith(b"HTTP/1.1 403 ")
    assert wait_until(lambda: "kept out 1 requests" in daemon.log, 30)


def test_a_drain_is_told(lab: Lab, start: Callable[..., Daemon], party: MakeParty) -> None:
    daemon = start("--listen-http=127.0.0.1:8083")
    call = Dialogue(daemon.ng, party(lab.a), party(lab.b)).place()
    daemon.signal(signal.SIGRTMIN)
    assert wait_until(lambda: ask(lab, "GET", "/readyz", port=8083) == (503, "draining\n"), 30)
    assert ask(lab, "GET", "/healthz", port=8083) == (200, "ok\n")
    body = json.dumps({"command": "offer", "call-id": "new", "from-tag": "x", "sdp": call.caller.sdp()})
    status, reply = ask(lab, "POST", "/ng-plain", port=8083, body=body, headers={"Content-Type": "application/json"})
    assert (status, json.loads(reply)["result"]) == (200, "error")
    metrics = ask(lab, "GET", "/metrics", port=8083)[1]
    assert "rtpengine_draining 1.0" in metrics
    assert 'rtpengine_closed_sessions_total{reason="rejected"} 1.0' in metrics
    call.delete()
    assert wait_until(lambda: not daemon.alive, 30) and daemon.process.returncode == 0


def test_a_client_that_stalls_is_dropped(lab: Lab, daemon: Daemon) -> None:
    with lab.relay.inside():
        client = socket.create_connection(("127.0.0.1", PORT), 120)
    with client:
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: local")
        try:
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass
    assert ask(lab, "GET", "/ping") == (200, "pong")
