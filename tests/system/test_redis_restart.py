"""A daemon that is killed, and its successor that finds the calls in Redis: here, and on another machine."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.live import Live, LiveDialogue, both_hear, heard
from systemlab.media import Party
from systemlab.netns import Host, Lab
from systemlab.redisserver import TELLS, RedisServer, settled
from test_profiles import browser, speaks

OPTIONS = ("--redis=127.0.0.1:6379", "--redis-db=5", "--port-min=30000", "--port-max=30999", TELLS)

Start = Callable[..., Daemon]


@pytest.fixture
def dialogues() -> Iterator[list[LiveDialogue]]:
    """Whose sockets are closed after the test."""
    made: list[LiveDialogue] = []
    yield made
    for dialogue in made:
        dialogue.caller.close()
        dialogue.callee.close()


def dial(lab: Lab, daemon: Daemon, made: list[LiveDialogue], caller: Any, callee: Any) -> LiveDialogue:
    made.append(LiveDialogue(daemon.ng, Party(lab.a), Party(lab.b)))
    made[-1].caller.add(make=Live, **caller)
    made[-1].callee.add(make=Live, **callee)
    return made[-1]


PAIRS: dict[str, Callable[[], tuple[dict[str, Any], dict[str, Any]]]] = {
    "plain": lambda: (speaks("RTP/AVP"), speaks("RTP/AVP")),
    "SDES passed on": lambda: (speaks("RTP/SAVP"), speaks("RTP/SAVP")),
    "SDES to plain": lambda: (speaks("RTP/SAVP"), speaks("RTP/AVP")),
    "DTLS to plain": lambda: (speaks("UDP/TLS/RTP/SAVP"), speaks("RTP/AVP")),
    "browser to SDES": lambda: (browser(), speaks("RTP/SAVP")),
    "browser to browser": lambda: (browser(), browser()),
}


async def test_all_calls_are_back_with_their_ports_keys_and_peers(
    lab: Lab, launch: Start, redis: RedisServer, dialogues: list[LiveDialogue]
) -> None:
    first = launch(*OPTIONS)
    calls = {}
    for name, pair in PAIRS.items():
        calls[name] = await dial(lab, first, dialogues, *pair()).set_up()
        await both_hear(calls[name])
    before = {name: dialogue.query()["tags"] for name, dialogue in calls.items()}
    assert wait_until(lambda: redis.calls(5) == len(PAIRS))
    settled(first)
    first.process.kill()
    first.process.wait(60)

    second = launch(*OPTIONS)
    assert f"{len(PAIRS)} of {len(PAIRS)} calls restored in" in second.log
    for name, dialogue in calls.items():
        dialogue.ng = second.ng
        assert _ports(dialogue.query()["tags"]) == _ports(before[name]), name
        await both_hear(dialogue)
    for name in ("browser to SDES", "plain"):
        # Signalling goes on: a re-INVITE, with what was agreed before.
        await calls[name].set_up()
        await both_hear(calls[name])
    for dialogue in calls.values():
        dialogue.delete()
    assert wait_until(lambda: redis.keys("rtpengine:*:call*", 5) == set())
    assert second.stop() == 0
    assert "Traceback" not in second.log + first.log


def _ports(tags: Any) -> Any:
    return {tag: [s["local port"] for m in about["medias"] for s in m["streams"]] for tag, about in tags.items()}


async def test_parties_notice_no_more_than_a_gap(
    lab: Lab, launch: Start, redis: RedisServer, dialogues: list[LiveDialogue]
) -> None:
    """Restart under traffic: what was sent while nobody was there is lost, all else arrives, nothing twice."""
    first = launch(*OPTIONS)
    call = await dial(lab, first, dialogues, speaks("RTP/SAVP"), speaks("RTP/AVP")).set_up()
    one, other = call.sides
    await both_hear(call)
    sent: list[bytes] = []
    stop = asyncio.Event()
    one.forget()
    other.forget()

    async def talk() -> None:
        while not stop.is_set():
            sent.append(one.send())
            other.send()
            await asyncio.sleep(0.02)

    talking = asyncio.create_task(talk())
    await asyncio.sleep(0.5)
    await asyncio.to_thread(settled, first)
    first.process.kill()
    first.process.wait(60)
    restarted = await asyncio.to_thread(launch, *OPTIONS)
    heard_before = len(other.heard)
    assert await asyncio.to_thread(wait_until, lambda: len(other.heard) > heard_before + 20)
    stop.set()
    await talking
    await asyncio.sleep(0.2)
    positions = [sent.index(packet) for packet in other.heard]
    assert positions == sorted(set(positions)), "in order, and nothing twice"
    gaps = [after - before for before, after in zip(positions, positions[1:], strict=False) if after - before > 1]
    assert len(gaps) <= 1, f"one gap, that of the restart: {gaps}"
    assert not other.refused and not one.refused and one.heard
    call.ng = restarted.ng
    call.delete()
    assert restarted.stop() == 0


async def test_no_srtcp_index_comes_twice(
    lab: Lab, launch: Start, redis: RedisServer, dialogues: list[LiveDialogue]
) -> None:
    first = launch(*OPTIONS)
    call = await dial(lab, first, dialogues, speaks("RTP/AVP"), speaks("RTP/SAVP")).set_up()
    _, other = call.sides
    settled(first)
    for _ in range(3):
        # More than Redis has heard of.
        await both_hear(call)
    first.process.kill()
    first.process.wait(60)
    second = launch(*OPTIONS)
    await both_hear(call)
    indices = [int.from_bytes(packet[-14:-10], "big") & 0x7FFFFFFF for packet in other.raw if 192 <= packet[1] <= 223]
    assert indices and min(indices) >= 0x10000
    call.ng = second.ng
    call.delete()
    assert second.stop() == 0


async def test_another_machine_takes_over_with_the_address(
    lab: Lab, launch: Start, tmp_path: Path, dialogues: list[LiveDialogue]
) -> None:
    """The relay's second address floats: its host is killed, host C gets it, and a daemon with the same options."""
    floating, port = lab.relay.ipv4[1], 2299
    redis = RedisServer(lab.attacker, tmp_path, address=lab.attacker.ipv4[0])
    options = (f"--ip={floating}", f"--redis={lab.attacker.ipv4[0]}:6379", "--redis-db=0", *OPTIONS[2:])
    more = {"ng": f"{floating}:{port}", "ipv6": False}
    try:
        first = launch(*options, "--control-allow=0.0.0.0/0", **more)
        calls = [await dial(lab, first, dialogues, *PAIRS[name]()).set_up() for name in PAIRS]
        for call in calls:
            await both_hear(call)
        settled(first)
        first.process.kill()
        first.process.wait(60)
        _move_address(floating, lab.relay, lab.c)
        second = launch(*options, "--control-allow=0.0.0.0/0", host=lab.c, **more)
        assert f"{len(calls)} of {len(calls)} calls restored" in second.log
        for call in calls:
            call.ng = second.ng
            await both_hear(call)
            call.delete()
        assert wait_until(lambda: redis.calls() == 0)
        assert second.stop() == 0
    finally:
        _move_address(floating, lab.c, lab.relay)
        redis.stop()


def _move_address(address: str, source: Host, target: Host) -> None:
    subprocess.run(["ip", "-n", source.namespace, "addr", "del", f"{address}/24", "dev", "eth0"], check=False)
    if f" {address}/" in subprocess.check_output(["ip", "-n", target.namespace, "addr"], text=True):
        return
    subprocess.run(["ip", "-n", target.namespace, "addr", "add", f"{address}/24", "dev", "eth0"], check=True)
    # As keepalived does: neighbours have to hear where the address is now.
    for other in ("a", "b"):
        subprocess.run(
            ["ip", "-n", source.namespace.rpartition("-")[0] + f"-{other}", "neigh", "flush", "all"], check=True
        )


async def test_one_way_early_media_survives_too(
    lab: Lab, launch: Start, redis: RedisServer, dialogues: list[LiveDialogue]
) -> None:
    """A call that is only offered when the daemon is killed, and answered by its successor."""
    first = launch(*OPTIONS)
    call = dial(lab, first, dialogues, speaks("RTP/SAVP"), speaks("RTP/AVP"))
    call.offer()
    assert wait_until(lambda: redis.calls(5) == 1)
    settled(first)
    first.process.kill()
    first.process.wait(60)
    second = launch(*OPTIONS)
    call.ng = second.ng
    call.answer()
    await call.connected()
    await both_hear(call)
    await heard(*call.sides)
    call.delete()
    assert second.stop() == 0
