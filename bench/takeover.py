#!/usr/bin/env python3
"""What calls notice when another daemon takes them over: packets lost, and how long the latest of them was under way.

usage: takeover.py [--calls=50] [--seconds=10]

Half of the calls are plain RTP, half SDES whose keys are passed on, all on loopback, 50 packets per second in both
directions. The kernel stamps what arrives; the delay of each packet is from just before it is sent. A first takeover
happens in the middle; the worst delay before it, in the same run, says what the machine does to packets anyway.
"""

from __future__ import annotations

import argparse
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import bencodepy
from pylibsrtp import Policy, Session

PROGRAM = Path(sys.prefix) / "bin" / "rtpengine"
NG = ("127.0.0.1", 22241)
FRAME_S = 0.02
SO_TIMESTAMPNS = 35
KEY = bytes(range(30))
INLINE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd"


class Party:
    """A socket, the relay's port that it speaks to, and what has come of each packet: sent and received when."""

    def __init__(self, secure: bool) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.session = None
        if secure:
            profile = Policy.SRTP_PROFILE_AES128_CM_SHA1_80
            self.session = Session(Policy(KEY, Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile))
        self.sent: list[float] = []
        self.heard: dict[int, float] = {}
        self.twice = 0

    def sdp(self) -> str:
        port = self.sock.getsockname()[1]
        profile = "RTP/SAVP" if self.session else "RTP/AVP"
        crypto = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{INLINE}\r\n" if self.session else ""
        return (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            f"m=audio {port} {profile} 0\r\n{crypto}"
        )

    def told(self, sdp: bytes) -> None:
        self.sock.connect(("127.0.0.1", int(sdp.partition(b"m=audio ")[2].split()[0])))
        self.sock.setblocking(False)

    def send(self) -> None:
        seq = len(self.sent)
        packet = struct.pack("!BBHII", 128, 0, seq & 0xFFFF, 0, self.sock.getsockname()[1]) + bytes(160)
        if self.session:
            packet = self.session.protect(packet)
        self.sent.append(time.time())
        try:
            self.sock.send(packet)
        except OSError:
            pass  # counted as lost

    def read(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(2048, 64)
            except OSError:
                return
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            seq = int.from_bytes(data[2:4], "big")
            self.twice += seq in self.heard
            self.heard[seq] = seconds + nanoseconds / 1e9


def ask(**request: Any) -> dict[bytes, Any]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(NG)
        sock.settimeout(1)
        cookie = b"%d" % time.monotonic_ns()
        for _ in range(50):
            try:
                sock.send(cookie + b" " + bencodepy.encode(request))
                return dict(bencodepy.decode(sock.recv(65536).partition(b" ")[2]))
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.1)
    raise SystemExit("the daemon does not answer")


def place(number: int) -> tuple[Party, Party]:
    a, b = Party(number % 2 == 1), Party(number % 2 == 1)
    about = {"call-id": f"c{number}", "from-tag": "a", "flags": ["trust-address"], "ICE": "remove"}
    b.told(ask(command="offer", sdp=a.sdp(), **about)[b"sdp"])
    a.told(ask(command="answer", sdp=b.sdp(), **about, **{"to-tag": "b"})[b"sdp"])
    return a, b


def start(directory: Path, name: str, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    log = directory / name
    command = [
        str(PROGRAM), "--config-file=none", "--foreground", "--log-stderr", "--table=-1", "--ip=127.0.0.1",
        f"--listen-ng={NG[0]}:{NG[1]}", f"--takeover-socket={directory}/socket", "--log-level=5", *options,
    ]  # fmt: skip
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file), log


def talk(parties: list[Party], stop: threading.Event) -> None:
    """Send evenly through each frame."""
    began = time.monotonic()
    for frame in range(1 << 20):
        for number, party in enumerate(parties):
            due = began + FRAME_S * (frame + number / len(parties))
            if (wait := due - time.monotonic()) > 0.0005:
                time.sleep(wait)
            if stop.is_set():
                return
            party.send()


def listen(parties: list[Party], stop: threading.Event) -> None:
    poll = select.epoll()
    known = {party.sock.fileno(): party for party in parties}
    for descriptor in known:
        poll.register(descriptor, select.EPOLLIN)
    while not stop.is_set():
        for descriptor, _ in poll.poll(0.1):
            known[descriptor].read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    processes = []
    silent, deaf = threading.Event(), threading.Event()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            old, _ = start(directory, "old.log")
            processes.append(old)
            pairs = [place(number) for number in range(options.calls)]
            parties = [party for pair in pairs for party in pair]
            threads = [threading.Thread(target=listen, args=(parties, deaf))]
            threads.append(threading.Thread(target=talk, args=(parties, silent)))
            for thread in threads:
                thread.start()
            time.sleep(options.seconds / 2)
            before = time.time()
            new, log = start(directory, "new.log", "--takeover")
            processes.append(new)
            old.wait(60)
            after = time.time()
            time.sleep(options.seconds / 2)
            silent.set()
            time.sleep(1)
            deaf.set()
            for thread in threads:
                thread.join()
            report(pairs, before, after, log.read_text())
        finally:
            for process in processes:
                process.kill()
                process.wait()


def report(pairs: list[tuple[Party, Party]], before: float, after: float, log: str) -> None:
    sent = lost = twice = 0
    worst = {"before": 0.0, "takeover": 0.0}
    for pair in pairs:
        for speaker, hearer in (pair, pair[::-1]):
            sent += len(speaker.sent)
            twice += hearer.twice
            for seq, at in enumerate(speaker.sent):
                heard = hearer.heard.get(seq & 0xFFFF)
                if heard is None:
                    lost += 1
                    continue
                when = "before" if at < before else "takeover" if at < after + 1 else ""
                if when:
                    worst[when] = max(worst[when], heard - at)
    found = re.search(r"(\d+) calls taken over .* in ([\d.]+) s, .* more than ([\d.]+) s", log)
    if found is None:
        raise SystemExit(f"nothing was taken over:\n{log}")
    print(f"{len(pairs)} calls, {sent} packets sent, {lost} lost, {twice} heard twice")
    print(f"{found[1]} calls taken over in {found[2]} s, each paused for at most {found[3]} s")
    print(f"latest packet: {worst['takeover'] * 1e3:.1f} ms; before the takeover {worst['before'] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
