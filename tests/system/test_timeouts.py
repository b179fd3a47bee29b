"""Calls that nobody ends (media.md 7): --timeout where media is expected, --silent-timeout where it is not."""

from __future__ import annotations

import time
from collections.abc import Callable

from systemlab.daemon import Daemon, wait_until
from systemlab.fixtures import MakeCall
from systemlab.media import Dialogue, both_ways, rtp
from systemlab.netns import Lab

# Long enough for a machine that is busy with something else between two lines.
TIMEOUT_S, SILENT_TIMEOUT_S = 5, 12
OPTIONS = (f"--timeout={TIMEOUT_S}", f"--silent-timeout={SILENT_TIMEOUT_S}")
# One-second ticks on whole seconds make it a little less; much more it is only on such a machine.
TICK_S, SLACK_S = 1.1, 20.0


def _gone(dialogue: Dialogue) -> Callable[[], bool]:
    def gone() -> bool:
        reply = dialogue.ng.command("query", call_id=dialogue.call_id)
        return bool(reply.get("error-reason") == "Unknown call-id")

    return gone


def _life(dialogue: Dialogue, since: float, limit_s: float) -> float:
    assert wait_until(_gone(dialogue), since + limit_s + SLACK_S - time.monotonic()), "the call outlived its time"
    return time.monotonic() - since


def test_every_kind_of_call_lives_as_long_as_it_should(call: MakeCall) -> None:
    """All at once, since each of them is mostly waiting."""
    answered, offered, held, talking, rejected = call(), call(), call(), call(), call()
    start = time.monotonic()
    answered.place()
    both_ways(answered)
    offered.offer()
    held.caller.audio.lines, held.callee.audio.lines = ["a=inactive"], ["a=inactive"]
    held.place()
    rejected.offer()
    rejected.callee.audio.rejected = True
    rejected.answer()
    talking.place()
    waiting = {"answered": answered, "offered": offered, "rejected": rejected}
    lives: dict[str, float] = {}
    while waiting and time.monotonic() < start + TIMEOUT_S + SLACK_S:
        talking.caller.audio.send()
        for name in [name for name, dialogue in waiting.items() if _gone(dialogue)()]:
            lives[name] = time.monotonic() - start
            del waiting[name]
        time.sleep(0.05)
    assert not waiting, f"still there: {sorted(waiting)}"
    assert min(lives.values()) > TIMEOUT_S - TICK_S, lives
    assert not _gone(held)(), "a held call lives on the silent time-out"
    assert not _gone(talking)(), "one talking side is enough"
    assert _life(held, start, SILENT_TIMEOUT_S) > SILENT_TIMEOUT_S - TICK_S


def test_ports_come_back_after_a_time_out(daemon: Daemon, call: MakeCall) -> None:
    before = daemon.descriptors()
    start = time.monotonic()
    dialogue = call().place()
    assert daemon.descriptors() == before + 4
    _life(dialogue, start, TIMEOUT_S)
    assert daemon.descriptors() == before
    assert dialogue.call_id in daemon.log, "the log says which call ended"


def test_attacker_does_not_keep_a_dead_call_alive(lab: Lab, call: MakeCall) -> None:
    """Packets that are dropped for their source do not count as life."""
    dialogue = call().place()
    both_ways(dialogue)
    start = time.monotonic()
    assert dialogue.caller.audio.remote
    with lab.attacker.udp(lab.attacker.address(4)) as stranger:
        while not _gone(dialogue)():
            stranger.sendto(rtp(1, 0xBAD), dialogue.caller.audio.remote.endpoint)
            assert time.monotonic() < start + TIMEOUT_S + SLACK_S, "the call outlived its time"
            time.sleep(0.1)
