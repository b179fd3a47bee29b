"""Daemons that come and go over the tables of the kernel: several at once, killed, ended, restarted; and its module."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import MODULE
from daemonlab import (
    NFT,
    PORTS,
    PROC,
    Call,
    Daemon,
    Lab,
    call,
    control,
    forwarded,
    passes,
    read,
    ruled,
    wait_for,
)
from network import PATIENCE_S, run
from systemlab.daemon import PROGRAM
from systemlab.media import silent

pytest_plugins = ["daemonlab"]


SECOND = "198.51.100.2"


@pytest.fixture
def start(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons, in the order in which they end."""
    made: list[Daemon] = []

    def make(*options: str, **about: Any) -> Daemon:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Daemon(lab, directory, *PORTS, *options, **about))
        return made[-1]

    yield make
    for each in made:
        each.kill()
    for number in read(lab.relay, "list").split():
        control(lab.relay, f"del {number}\n")


def refused(lab: Lab, *options: str) -> str:
    """What a daemon says that must not start."""
    address = f"--ip={lab.relay.address(4)}"
    command = [str(PROGRAM), "--config-file=none", "--foreground", address, "--listen-ng=127.0.0.1:2299", *options]
    with lab.relay.inside():
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 255, done.stderr
    return done.stderr


def placed(daemon: Daemon, table: int = 0) -> Call:
    """A call that the kernel forwards."""
    made = call(daemon, {}, {})
    made.place()
    flow(made)
    assert made.goes_down(table), daemon.log[-3000:]
    return made


def flow(made: Call) -> None:
    for direction in made.directions:
        passes(*direction)


def remove(lab: Lab) -> str:
    """What rmmod complains of."""
    with lab.relay.inside():
        return run("rmmod", "xt_MEDIAPROXY", check=False)


def test_two_daemons_on_two_tables(lab: Lab, start: Callable[..., Daemon]) -> None:
    """Each has an address of its own, and a rule for that; a third cannot have a table that is taken."""
    addresses = lab.relay.address(4), SECOND
    with ExitStack() as stack:
        for number, address in enumerate(addresses):
            stack.enter_context(ruled(lab.relay, number, "-d", address, commands=NFT[:1]))
        daemons = [
            start(f"--table={number}", "--no-fallback", f"--ip={address}", ipv6=False)
            for number, address in enumerate(addresses)
        ]
        assert read(lab.relay, "list") == "0\n1\n"
        for number, daemon in enumerate(daemons):
            assert f"Control PID: {daemon.pid}\n" in read(lab.relay, f"{number}/status")
        calls = [placed(daemon, number) for number, daemon in enumerate(daemons)]
        for _ in range(2):
            for each in calls:
                flow(each)
        for number, (each, address) in enumerate(zip(calls, addresses, strict=True)):
            targets = forwarded(lab.relay, number)
            assert set(targets) == set(each.locals)
            assert {local[0] for local in targets} == {address}
            assert [target.packets for target in targets.values()] == [10, 10]

        taken = "--no-fallback: kernel table 1 is not available, process {} has it\n"
        assert refused(lab, "--table=1", "--no-fallback") == f"rtpengine: {taken.format(daemons[1].pid)}"
        third = start("--table=0", "--ip=198.51.100.3", ipv6=False)
        reason = f"since process {daemons[0].pid} has it; table 0 is not used"
        assert f"rtpengine: forwarding in userspace, {reason}" in third.log
        made = call(third, {}, {})
        made.place()
        flow(made)
        assert [status for status, _ in made.statuses] == ["confirmed peer address"] * 2
        for each in calls:
            flow(each)

        for number, daemon in enumerate(daemons):
            assert daemon.stop() == 0
            control(lab.relay, f"del {number}\n")
        assert read(lab.relay, "list") == ""
        for each in (*calls, made):
            each.close()


def test_killed_ended_and_started_again(lab: Lab, start: Callable[..., Daemon]) -> None:
    """Whatever becomes of the daemon, the kernel goes on with what it has, until the next one cleans up."""
    options = ("--table=0", "--no-fallback")
    with ruled(lab.relay):
        first = start(*options)
        orphan = placed(first)
        first.process.kill()
        first.process.wait()
        flow(orphan)
        flow(orphan)
        assert [forwarded(lab.relay)[local].packets for local in orphan.locals] == [10, 10]
        assert "Control PID: 0\n" in read(lab.relay, "0/status")

        second = start(*options)
        assert "kernel table 0 was left by another daemon, with 2 streams: they end" in second.log
        assert forwarded(lab.relay) == {}
        for speaker, listener in orphan.directions:
            speaker.talk(3)
            assert silent([listener.rtp])
        successor = placed(second)
        flow(successor)
        assert second.stop() == 0
        assert "ends with 1 calls" in second.log
        flow(successor)
        assert [forwarded(lab.relay)[local].packets for local in successor.locals] == [10, 10]

        control(lab.relay, "del 0\n")
        assert read(lab.relay, "list") == ""
        third = start(*options)
        assert "was left by" not in third.log
        last = placed(third)
        flow(last)
        assert "is in use" in remove(lab)
        assert third.stop() == 0
        flow(last)
        assert "is in use" in remove(lab)
        control(lab.relay, "del 0\n")
        assert "is in use" in remove(lab), "there are rules yet"
    assert wait_for(lambda: remove(lab) == ""), "what refers to a rule goes a little later than the rule"
    try:
        assert not PROC.exists()
        assert "--no-fallback: kernel table 0 is not available" in refused(lab, *options)
    finally:
        run("insmod", str(MODULE))
    for each in (orphan, successor, last):
        each.close()
