#!/usr/bin/env python3
"""How long a daemon takes to have its calls back from Redis: placed, stored, killed, started again.

usage: restore.py [--calls=5000] [--profile=RTP/AVP|RTP/SAVP] [--cprofile=FILE]

Everything is on loopback, with a redis-server of its own (Debian's) that keeps nothing on disk. No call carries
media; each has two audio sockets pairs, as two phones have. Times are from the start of the process to the line in its
log, and to the first answer to a ping.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bencodepy

PROGRAM = Path(sys.prefix) / "bin" / "rtpengine"
NG = ("127.0.0.1", 22240)
REDIS_PORT = 6399
DEADLINE_S = 300.0

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} {profile} 0\r\n{lines}"
CRYPTO = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSo{end}\r\n"


class Client:
    """An ng client that asks again until it is answered."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(NG)
        self._serial = 0

    def ask(self, timeout_s: float = 2.0, **request: Any) -> dict[bytes, Any]:
        self._serial += 1
        cookie = b"%d_%d" % (os.getpid(), self._serial)
        self._sock.settimeout(timeout_s)
        while True:
            try:
                self._sock.send(cookie + b" " + bencodepy.encode(request))
                while True:
                    got, _, reply = self._sock.recv(65536).partition(b" ")
                    if got == cookie:
                        return dict(bencodepy.decode(reply))
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.005)


def wait_for(condition: Any) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("took too long")
        time.sleep(0.02)


class Daemon:
    def __init__(self, directory: Path, name: str, *options: str, profile: str | None = None) -> None:
        self.log_file = directory / f"{name}.log"
        command = [str(PROGRAM)]
        if profile is not None:
            command = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "rtpengine"]
        command += [
            "--config-file=none", "--foreground", "--log-stderr", "--table=-1", "--ip=127.0.0.1",
            f"--listen-ng={NG[0]}:{NG[1]}", f"--redis=127.0.0.1:{REDIS_PORT}", "--redis-db=0", "--log-level=5",
            "--timeout=3600", "--port-min=1024", "--port-max=65535", *options,
        ]  # fmt: skip
        self.started = time.monotonic()
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self.log_file.read_text()


def redis_cli(*words: str) -> str:
    return subprocess.check_output(["redis-cli", "-p", str(REDIS_PORT), *words], text=True).strip()


def place(client: Client, number: int, profile: str) -> None:
    lines = CRYPTO.format(end="j") if profile == "RTP/SAVP" else ""
    sdp = SDP.format(port=10000 + 2 * (number % 20000), profile=profile, lines=lines)
    about = {"call-id": f"call-{number}", "from-tag": "a", "sdp": sdp, "flags": ["trust-address"], "ICE": "remove"}
    for more in ({"command": "offer"}, {"command": "answer", "to-tag": "b"}):
        reply = client.ask(**about, **more)
        if reply[b"result"] != b"ok":
            raise SystemExit(f"a call is refused: {reply}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--profile", default="RTP/AVP", choices=("RTP/AVP", "RTP/SAVP"))
    parser.add_argument("--cprofile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        redis = subprocess.Popen(
            ["redis-server", "--port", str(REDIS_PORT), "--bind", "127.0.0.1", "--save", "", "--dir", name],
            stdout=subprocess.DEVNULL,
        )
        daemons: list[Daemon] = []
        try:
            daemons.append(Daemon(directory, "first"))
            client = Client()
            client.ask(command="ping")
            began = time.monotonic()
            for number in range(options.calls):
                place(client, number, options.profile)
            print(f"{options.calls} calls ({options.profile}) placed in {time.monotonic() - began:.1f} s")
            wait_for(lambda: redis_cli("scard", "rtpengine:127.0.0.1-1024:calls") == str(options.calls))
            time.sleep(1)
            size = int(redis_cli("memory", "usage", "rtpengine:127.0.0.1-1024:call:call-0"))
            daemons[0].process.send_signal(signal.SIGKILL)
            daemons[0].process.wait()

            daemons.append(Daemon(directory, "second", profile=options.cprofile))
            client.ask(timeout_s=0.05, command="ping")
            ready = time.monotonic() - daemons[1].started
            found = re.search(r"(\d+) of (\d+) calls restored in ([\d.]+) s", daemons[1].log)
            if found is None:
                raise SystemExit(f"nothing was restored:\n{daemons[1].log}")
            print(f"{found[1]} of {found[2]} restored in {found[3]} s; answers {ready:.2f} s after its start")
            print(f"{size} bytes per call in Redis")
            daemons[1].process.send_signal(signal.SIGTERM)
            daemons[1].process.wait(60)
        finally:
            for daemon in daemons:
                daemon.process.kill()
            redis.kill()
            redis.wait()


if __name__ == "__main__":
    main()
