"""Connectivity checks of somebody who does not know the password, before the party's own and during the call."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable

from systemlab import stunclient
from systemlab.media import rtp
from systemlab.stunclient import Credentials

from attacks.scene import RELAYED, Attack, Scene
from attacks.srtp import Source, impostor, neighbour, stranger

Checks = Callable[[Credentials, Credentials], list[bytes]]


def _contents(local: Credentials, remote: Credentials) -> list[stunclient.Attribute]:
    return [
        (stunclient.USERNAME, f"{remote.ufrag}:{local.ufrag}".encode()),
        (stunclient.PRIORITY, struct.pack("!I", 2130706431)),
        (stunclient.ICE_CONTROLLING, bytes([255]) * 8),
        (stunclient.USE_CANDIDATE, b""),
    ]


def _request(contents: list[stunclient.Attribute]) -> bytes:
    return stunclient.encode(stunclient.BINDING_REQUEST, os.urandom(12), contents)


def wrong_integrity(local: Credentials, remote: Credentials) -> list[bytes]:
    """MESSAGE-INTEGRITY over the right names, which is 20 random bytes."""
    contents = [*_contents(local, remote), (stunclient.MESSAGE_INTEGRITY, os.urandom(20))]
    return [stunclient.fingerprinted(_request(contents)) for _ in range(20)]


def no_integrity(local: Credentials, remote: Credentials) -> list[bytes]:
    """The right names, and nothing that proves them; with and without FINGERPRINT."""
    request = _request(_contents(local, remote))
    return [stunclient.fingerprinted(request), request, _request([]), stunclient.fingerprinted(_request([]))]


def wrong_password(local: Credentials, remote: Credentials) -> list[bytes]:
    """Everything right but for the password: another, an empty one, that of the party itself."""
    passwords = [os.urandom(12).hex(), "", local.pwd]
    return [stunclient.check(local, remote._replace(pwd=password)) for password in passwords]


def attribute_past_the_end(local: Credentials, remote: Credentials) -> list[bytes]:
    """Attributes and messages longer than what there is."""
    good = stunclient.check(local, remote._replace(pwd="x"))
    longer = bytearray(good)
    longer[22:24] = b"\xff\xff"
    ends = [stunclient.encode(1, os.urandom(12), []) + struct.pack("!HH", kind, 400) for kind in (6, 8, 0x24, 0x8028)]
    ends = [end[:2] + b"\0\4" + end[4:] for end in ends]
    return [bytes(longer), *ends, good[:2] + b"\xff\xfc" + good[4:], good[:30], good[:21], good[:20]]


def thousand_attributes(local: Credentials, remote: Credentials) -> list[bytes]:
    """All that fits a datagram: unknown ones that want to be understood, ones that need not, user names."""
    kinds = [[0x7F00 + i % 200 for i in range(1000)], [0x8100 + i % 200 for i in range(1000)], [6] * 1000]
    return [
        stunclient.fingerprinted(_request([*_contents(local, remote), *((kind, b"") for kind in some)]))
        for some in kinds
    ]


def _row(checks: Checks, source: Source, *, relayed: bool) -> Attack:
    async def strike(scene: Scene) -> None:
        sockets = source(scene)
        caller, _ = scene.sides
        assert caller.ice and caller.ice_remote and caller.remote
        names = stunclient.Credentials(caller.ice_remote.ufrag, "")
        await scene.send(checks(caller.ice, names), sockets)
        # Whoever had got in that way would talk now, and listen; nothing but SRTP keeps forgers of addresses out.
        if source is not impostor or scene.transport != "RTP":
            await scene.send([rtp(1, int.from_bytes(scene.mark, "big"))] * 5, sockets)
        await asyncio.sleep(0.05)

    async def run(scene: Scene) -> None:
        for media in scene.sides:
            media.quiet = True
        scene.place()
        await strike(scene)
        for media in scene.sides:
            media.begin()
        await scene.dialogue.connected()
        await scene.talk(3)
        await strike(scene)

    name = f"STUN: {checks.__name__.replace('_', ' ')}, from {source.__name__}"
    if relayed:
        return Attack(f"{name}, relayed", run, ("RTP", "SDES"), about={"ice": True}, keys=RELAYED)
    return Attack(name, run, about={"ice": True})


STUN = [
    _row(checks, source, relayed=relayed)
    for relayed in (False, True)
    for checks in (wrong_integrity, no_integrity, wrong_password, attribute_past_the_end, thousand_attributes)
    for source in (stranger, neighbour, impostor)
]
