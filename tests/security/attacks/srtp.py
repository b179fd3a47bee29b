"""What has no right tag must not pass, least of all where both legs have equal keys and packets could pass as they are.

CVE-2025-53399: unauthenticated packets were learned from and relayed on SRTP legs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from systemlab.media import rtp
from systemlab.srtpside import forged

from attacks.scene import Attack, Scene

Source = Callable[[Scene], list[socket.socket]]
COUNT = 30


def stranger(scene: Scene) -> list[socket.socket]:
    """From an address of its own."""
    return scene.stranger()


def neighbour(scene: Scene) -> list[socket.socket]:
    """From the caller's address."""
    return scene.neighbour()


def impostor(scene: Scene) -> list[socket.socket]:
    """From the parties' own addresses and ports, as who can forge source addresses does."""
    return [media.rtp for media in scene.sides]


def _plain(scene: Scene, number: int) -> bytes:
    return rtp(number, int.from_bytes(scene.mark, "big"), scene.mark * 40)


def _random_tag(scene: Scene, number: int) -> bytes:
    sender = scene.sides[0].channels[0].sender
    assert sender
    return forged(sender.keys, _plain(scene, number))


def _party_ssrc(scene: Scene, number: int) -> bytes:
    """As the party's next packets look, but for key and tag."""
    caller, sender = scene.sides[0], scene.sides[0].channels[0].sender
    assert sender
    return forged(sender.keys, rtp(next(caller.sequence), caller.ssrc, scene.mark * 40))


def _replayed(scene: Scene, number: int) -> bytes:
    """What the party has sent before, which is all that a listener on its network has."""
    return scene.overheard[number % len(scene.overheard)]


KINDS = {
    "plain RTP": _plain,
    "random tag": _random_tag,
    "random tag, the party's SSRC": _party_ssrc,
    "replay": _replayed,
}


def _row(kind: str, source: Source, callee_over: str) -> Attack:
    async def run(scene: Scene) -> None:
        await scene.set_up()
        for talked in (False, True):
            if talked or kind == "replay":
                await scene.talk()
            caller = scene.sides[0]
            assert caller.remote
            sockets = source(scene)
            for number in range(COUNT):
                await scene.send([KINDS[kind](scene, number)], sockets, [caller.remote.endpoint])
            await asyncio.sleep(0.05)

    between = "equal keys" if callee_over == "SDES" else f"to {callee_over}"
    return Attack(f"{kind}, from {source.__name__}, {between}", run, ("SDES",), about={"callee_over": callee_over})


SRTP = [
    _row(kind, source, callee_over)
    for callee_over in ("SDES", "RTP")
    for kind in KINDS
    for source in (stranger, neighbour, impostor)
]
