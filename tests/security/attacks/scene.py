"""One call under attack: its parties, the stranger, and the account of what came of it."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from systemlab.daemon import Daemon
from systemlab.dtlsside import Identity
from systemlab.live import Live, LiveDialogue, NotConnectedError, until
from systemlab.media import Address, Party, sender_report
from systemlab.netns import Host, Lab
from systemlab.srtpside import Sdes
from systemlab.stunclient import fresh_credentials

FRAME_S = 0.01
# So long what was said may take to arrive: a machine may be busy with something else.
PATIENCE_S = 10.0
TRANSPORTS = ("RTP", "SDES", "DTLS")
_marks = itertools.count(0x0BAD0000)


class Outcome(NamedTuple):
    """What an attack did to a call: packets in the wrong hands, packets forced in, and whether it survived."""

    bled: int = 0
    injected: int = 0
    up: bool = True

    def __str__(self) -> str:
        return f"{self.bled}/{self.injected}" + "!" * (not self.up)


# Checks of two full agents, and all that follows, go through the relay as they are (ice.md 1).
RELAYED = {"ICE": "optional", "DTLS": "off"}


class Attack(NamedTuple):
    """A row of the table: what is done, to calls over which transports, and how its parties differ from others.

    ``keys`` are those of ng, in offer and answer.
    ``whole_range``: it meets every port of the daemon, so that no other call may be there meanwhile.
    """

    name: str
    run: Callable[[Scene], Awaitable[None]]
    transports: tuple[str, ...] = TRANSPORTS
    family: int = 4
    about: Mapping[str, Any] = MappingProxyType({})
    keys: Mapping[str, Any] = MappingProxyType({})
    whole_range: bool = False


def media_over(transport: str, *, ice: bool = False, **about: Any) -> dict[str, Any]:
    """How a party describes its media."""
    if ice:
        about = {"ice": fresh_credentials(), "mux": True, **about}
    if transport == "SDES":
        return {"protocol": "RTP/SAVP", "sdes": Sdes(), **about}
    if transport == "DTLS":
        return {"protocol": "UDP/TLS/RTP/SAVPF", "dtls": Identity(), **about}
    return {"protocol": "RTP/AVP", **about}


@dataclass
class Scene:
    """The call and the stranger; an attack is a function of it.

    No two packets of the parties are equal. ``foreign`` counts what a party got that the other had not sent, or again.
    ``struck`` and ``replied`` are bytes: what the stranger sent, and got back that was no media.
    ``trouble`` says what did not work.
    """

    lab: Lab
    daemon: Daemon
    attack: Attack
    transport: str
    ports: range
    mark: bytes = field(default_factory=lambda: next(_marks).to_bytes(4, "big"))
    sockets: dict[str, list[socket.socket]] = field(default_factory=dict)
    foreign: int = 0
    bled: int = 0
    struck: int = 0
    replied: int = 0
    trouble: str = ""
    sent: set[bytes] = field(default_factory=set)
    gone: list[Live] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reports = itertools.count()
        self._delivered: set[tuple[int, bytes]] = set()
        about = dict(self.attack.about)
        callee_over = about.pop("callee_over", self.transport)
        parties = [Party(host, self.attack.family) for host in (self.lab.a, self.lab.b)]
        for each, transport in zip(parties, (self.transport, callee_over), strict=True):
            each.add(make=Live, **media_over(transport, **(about if transport == self.transport else {})))
        self.dialogue = LiveDialogue(self.daemon.ng, *parties)

    # The call

    @property
    def overheard(self) -> list[bytes]:
        """What the caller has put on the wire."""
        return self.sides[0].wire

    @property
    def sides(self) -> tuple[Live, Live]:
        """The media of caller and callee."""
        return self.dialogue.sides

    def offer(self) -> None:
        """Offer."""
        self.dialogue.offer(**self.attack.keys)

    def answer(self) -> None:
        """Answer."""
        self.dialogue.answer(**self.attack.keys)

    def place(self) -> None:
        """Offer and answer."""
        self.offer()
        self.answer()

    async def set_up(self) -> None:
        """Place the call, and wait until both have the keys."""
        self.place()
        await self.dialogue.connected()

    def replace_caller(self) -> None:
        """Give the caller other ports; the old ones stay open."""
        self.account()
        self.gone.append(self.sides[0])
        self.dialogue.caller.media.clear()
        self.dialogue.caller.add(make=Live, **media_over(self.transport, **self.attack.about))

    async def talk(self, frames: int = 10) -> bool:
        """Let both talk, with a report each; whether all of that arrives."""
        one, other = self.sides
        if not (one.ready and other.ready):
            return False
        expected: dict[bool, set[bytes]] = {True: set(), False: set()}
        for media in self.sides:
            report = media.send_rtcp(sender_report(media.ssrc, next(self._reports)))
            self.sent.add(report)
        for _ in range(frames):
            for media in self.sides:
                packet = media.send()
                expected[media is one].add(packet)
                self.sent.add(packet)
            await asyncio.sleep(FRAME_S)
        lost = lambda: expected[False] - set(one.heard) | expected[True] - set(other.heard)  # noqa: E731
        complete = await until(lambda: not lost(), PATIENCE_S)
        if not complete:
            self.trouble += f"{len(lost())} of {2 * frames} packets lost; "
        return complete

    @property
    def secrets(self) -> list[str]:
        """What nobody but the parties and the relay may read: keys and passwords of both sides."""
        found = []
        for media in (*self.sides, *self.gone):
            keys = [media.sdes.sending, media.sdes.receiving] if media.sdes else []
            for channel in media.channels if media.dtls else []:
                keys += [side.keys for side in (channel.sender, channel.receiver) if side]
            found += [form for key in keys if key for form in (key.inline, key.key.hex(), repr(key.key)[2:-1])]
            found += [credentials.pwd for credentials in (media.ice, media.ice_remote) if credentials]
        return found

    # The stranger

    def ports_of_the_call(self) -> list[Address]:
        """Every socket of the relay that belongs to the call, which who sprays the whole range meets too."""
        address = self.lab.relay.address(self.attack.family)
        tags = self.dialogue.query()["streams"]
        found = {side["stats"][kind]["local port"] for pair in tags for side in pair for kind in ("rtp", "rtcp")}
        return [(address, port) for port in sorted(found)]

    def stranger(self) -> list[socket.socket]:
        """Sockets of the attacker, from any port and from the ports that the parties use, at addresses of its own."""
        return self._sockets("stranger", self.lab.attacker, (0, *(media.port for media in self.sides)))

    def neighbour(self) -> list[socket.socket]:
        """A socket at the caller's address."""
        return self._sockets("neighbour", self.lab.a, (0,))

    def _sockets(self, name: str, host: Host, ports: Iterable[int]) -> list[socket.socket]:
        if name not in self.sockets:
            self.sockets[name] = [_bound(host, self.attack.family, port) for port in ports]
        return self.sockets[name]

    async def send(
        self, packets: Iterable[bytes], sockets: Iterable[socket.socket] | None = None, to: Iterable[Address] = ()
    ) -> None:
        """Send each packet from each socket to each port of the call."""
        sources, targets = list(sockets or self.stranger()), list(to) or self.ports_of_the_call()
        for packet in packets:
            for sock, target in itertools.product(sources, targets):
                self.strike([packet], sock, target)
            await asyncio.sleep(0)

    def strike(self, packets: Iterable[bytes], sock: socket.socket, target: Address) -> None:
        """Send packets from one socket to one port."""
        for packet in packets:
            sock.sendto(packet, target)
            self.struck += len(packet)

    def read(self, sock: socket.socket) -> Iterator[tuple[bytes, Address]]:
        """What has come to a socket of the stranger but for media, which is counted, and from where."""
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                packet, source = sock.recvfrom(65535)
                if is_media(packet):
                    self.bled += 1
                else:
                    self.replied += len(packet)
                    yield packet, source[:2]

    # The account

    def account(self) -> None:
        """Count what has reached those whom it should not have."""
        for sock in itertools.chain(*self.sockets.values()):
            for _ in self.read(sock):
                pass
        for media in (*self.sides, *self.gone):
            self.foreign += media.refused + len(media.strange)
            for packet in (*media.heard, *media.heard_rtcp):
                self.foreign += packet not in self.sent or (id(media), packet) in self._delivered
                self._delivered.add((id(media), packet))
            media.forget()

    async def judge(self) -> Outcome:
        """What has come of the attack that is over."""
        up = await self.talk()
        await asyncio.sleep(2 * FRAME_S)
        self.account()
        return Outcome(self.bled, self.foreign, up)

    def close(self) -> None:
        """End the call and let go of all sockets."""
        for media in (*self.sides, *self.gone):
            media.detach()
            for sock in media.sockets:
                sock.close()
        for sock in itertools.chain(*self.sockets.values()):
            sock.close()
        if self.daemon.alive:
            self.dialogue.ng.command("delete", call_id=self.dialogue.call_id, from_tag="", delete_delay=0)


def _bound(host: Host, family: int, port: int) -> socket.socket:
    """A socket of a host: at the first of its addresses where no other scene has the port."""
    for index in range(3):
        try:
            return host.udp(host.address(family, index), port)
        except OSError:
            if index == 2:
                raise
    raise AssertionError


def is_media(datagram: bytes) -> bool:
    """Whether it is RTP or RTCP, and not a reply of ICE or DTLS (RFC 7983)."""
    return bool(datagram) and 128 <= datagram[0] <= 191


async def perform(scene: Scene) -> Outcome:
    """Carry an attack out and judge it."""
    try:
        try:
            await scene.attack.run(scene)
        except NotConnectedError as error:
            scene.trouble += f"{error}; "
            return (await scene.judge())._replace(up=False)
        return await scene.judge()
    finally:
        scene.close()
