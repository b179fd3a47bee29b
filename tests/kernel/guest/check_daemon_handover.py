"""Streams that go down into the kernel and come back, over and over, while both parties speak without a pause.

Nothing may get lost and nothing arrive twice, whatever moment it comes at, and each byte has to be right, whoever sends
it. The sequence numbers wrap meanwhile, so rollover counters have to move along.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from daemonlab import (
    PORTS,
    Call,
    Daemon,
    Lab,
    Phone,
    Spoken,
    call,
    forwarded,
    ruled,
    sdes,
    table_of,
    wait_for,
)
from systemlab.ngclient import drain

pytest_plugins = ["daemonlab"]

ROUNDS = 3
# Between two rounds of all parties: some two hundred packets per second and stream, as fast as this machine is.
PAUSE_S = 0.005


@pytest.fixture(scope="module")
def daemon(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with table 0 and the rules for it."""
    with ruled(lab.relay):
        started = Daemon(lab, tmp_path_factory.mktemp("daemon"), *PORTS, "--table=0", "--log-level=7")
        with table_of(started):
            yield started


class Stream:
    """What one party says and another hears."""

    def __init__(self, speaker: Phone, listener: Phone) -> None:
        self.speaker, self.listener = speaker, listener
        self.said: list[Spoken] = []
        self.due: Counter[bytes] = Counter()
        self.got: Counter[bytes] = Counter()

    def take(self) -> None:
        """Work out, for what was said since the last time, what it has to look like; take what has come."""
        keys = self.listener.receiving
        self.due.update(self.speaker.on_wire(spoken, keys) for spoken in self.said)
        self.said.clear()
        self.got.update(drain(self.listener.rtp))

    def is_through(self) -> bool:
        """Whether as much has come as was said, or more."""
        self.take()
        return self.got.total() >= self.due.total()

    @property
    def lost_and_doubled(self) -> tuple[int, int]:
        """What did not come as it had to, and what came without being due."""
        return (self.due - self.got).total(), (self.got - self.due).total()


class Traffic:
    """All parties of some calls speak in a thread; ``silence`` is a pause in which all that was said has arrived."""

    def __init__(self, calls: list[Call]) -> None:
        self.streams = [Stream(*direction) for each in calls for direction in each.directions]
        self.lock = threading.Lock()
        self.rounds = 0
        self.ended = False
        self.thread = threading.Thread(target=self._speak)

    def __enter__(self) -> Traffic:
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.ended = True
        self.thread.join()

    def _speak(self) -> None:
        while True:
            with self.lock:
                if self.ended:
                    return
                for stream in self.streams:
                    stream.said += stream.speaker.talk()
                self.rounds += 1
            time.sleep(PAUSE_S)

    def flows(self, rounds: int) -> None:
        """Wait until everybody has spoken so often again."""
        until = self.rounds + rounds
        assert wait_for(lambda: self.rounds >= until)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Nobody speaks."""
        with self.lock:
            assert wait_for(lambda: all(stream.is_through() for stream in self.streams)), self.account
            yield

    @property
    def account(self) -> list[tuple[int, int]]:
        """Of each stream, how many packets were lost, and how many came that should not have."""
        return [stream.lost_and_doubled for stream in self.streams]


def in_kernel(calls: list[Call]) -> bool:
    """Whether the kernel forwards everything."""
    return {local for each in calls for local in each.locals} <= set(forwarded(calls[0].host))


def returns(daemon: Daemon) -> int:
    """How often a stream has come back."""
    return daemon.log.count("back in userspace")


def test_nothing_is_lost_on_the_way_down_and_back(daemon: Daemon) -> None:
    plain = call(daemon, {}, {})
    half = call(daemon, {"protocol": "RTP/SAVP", "sdes": sdes("CM128-80")}, {})
    full = call(daemon, *({"protocol": f"RTP/SAVP{f}", "sdes": sdes("CM128-80")} for f in ("", "F")), families=(4, 6))
    calls = [plain, half, full]
    for number, phone in enumerate(phone for each in calls for phone in each.phones):
        phone.index -= 200 * number  # the wraps come one after the other
    for each in calls:
        each.place()
    with Traffic(calls) as traffic:
        for number in range(ROUNDS):
            assert wait_for(lambda: in_kernel(calls)), daemon.log[-3000:]
            traffic.flows(20)
            with traffic.silence():
                for stream in traffic.streams:
                    stream.speaker.index += 30000  # its rollover counter is the kernel's secret for a moment
            traffic.flows(20)
            before = returns(daemon)
            for each in calls:
                # Something that packets do not notice, but that a target is made anew for.
                each.place(flags=["trust-address", *["media-handover"] * (number % 2 == 0)])
            assert returns(daemon) == before + 2 * len(calls)
            traffic.flows(20)
        assert wait_for(lambda: in_kernel(calls))
        traffic.flows(20)
        before = returns(daemon)
        with traffic.silence():
            for each in (half, full):
                assert each.caller.audio.sdes
                each.caller.audio.sdes.rekey()
                each.place()
        assert returns(daemon) >= before + 4
        traffic.flows(20)
        assert wait_for(lambda: in_kernel(calls))
        traffic.flows(20)
        with traffic.silence():
            traffic.ended = True
    assert traffic.account == [(0, 0)] * len(traffic.streams)
    for number, each in enumerate(calls):
        due = [stream.due for stream in traffic.streams[2 * number :][:2]]
        total = {"packets": sum(one.total() for one in due), "errors": 0}
        total["bytes"] = sum(len(packet) for one in due for packet in one.elements())
        assert each.statuses == [("in kernel", "")] * 2
        for party in (each.caller, each.callee):
            assert each.streams(party)[0]["stats"]["drops"] == {}
        assert each.query()["totals"]["RTP"] == total
        assert each.delete()["totals"]["RTP"] == total
        each.close()
