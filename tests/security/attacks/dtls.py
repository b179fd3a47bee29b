"""Datagrams that look like DTLS, before the party's own handshake and after it.

CVE-2023-51275: one ClientHello that nobody can answer made the whole call mute.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from systemlab.dtlsside import Association, Identity, client_hello, handshake, record

from attacks.scene import Attack, Scene
from attacks.srtp import Source, impostor, neighbour, stranger

HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC, APPLICATION_DATA = 22, 21, 20, 23
CLIENT_HELLO, SERVER_HELLO = 1, 2
_MALLORY = Identity()
_HELLO = client_hello(b"\xc0\x2b")


def hello_with_no_cipher() -> list[bytes]:
    """Nothing but TLS_NULL_WITH_NULL_NULL, which no server may choose."""
    return [record(HANDSHAKE, handshake(CLIENT_HELLO, client_hello(b"\0\0")), number=0)]


def garbage_records() -> list[bytes]:
    """What begins like a record: noise, wrong lengths, every content type, an epoch that has not begun."""
    noise = [bytes([first]) + os.urandom(80) for first in range(20, 64)]
    cut = [record(HANDSHAKE, bytes(50))[:length] for length in (1, 12, 13, 14, 40)]
    later = [record(APPLICATION_DATA, os.urandom(100), epoch=1), record(CHANGE_CIPHER_SPEC, b"\1")]
    return [*noise, *cut, *later, record(HANDSHAKE, handshake(SERVER_HELLO, os.urandom(60)), number=0)]


def fragments() -> list[bytes]:
    """Pieces of hellos that are never completed, overlap, or claim to be 16 MiB long."""
    pieces = [
        handshake(CLIENT_HELLO, _HELLO[:20], total=len(_HELLO)),
        handshake(CLIENT_HELLO, _HELLO[10:40], at=10, total=len(_HELLO)),
        handshake(CLIENT_HELLO, _HELLO[:20], total=0xFFFFFF),
        handshake(CLIENT_HELLO, _HELLO[:20], at=0xFFFFF0, total=0xFFFFFF),
        handshake(CLIENT_HELLO, b"", total=len(_HELLO)),
        handshake(CLIENT_HELLO, _HELLO, number=9),
        *(handshake(CLIENT_HELLO, bytes([_HELLO[i]]), at=i, total=len(_HELLO)) for i in range(0, len(_HELLO), 7)),
    ]
    return [record(HANDSHAKE, piece, number=number) for number, piece in enumerate(pieces)]


def alerts() -> list[bytes]:
    """close_notify and fatal alerts that nobody has authenticated, in the clear and in the epoch of the keys."""
    kinds = [b"\1\0", b"\2\x28", b"\2\x50", b"\2\0"]
    return [record(ALERT, alert, epoch, number) for epoch in (0, 1) for number, alert in enumerate(kinds)]


def good_hello() -> list[bytes]:
    """Hellos as browsers write them, each the beginning of another handshake."""
    hellos = [client_hello(b"\xc0\x2b\xc0\x2f", extensions=_extensions()) for _ in range(40)]
    return [record(HANDSHAKE, handshake(CLIENT_HELLO, hello), number=0) for hello in hellos]


def _extensions() -> bytes:
    groups, points = b"\0\x0a\0\4\0\2\0\x17", b"\0\x0b\0\2\1\0"
    signatures, use_srtp, master = b"\0\x0d\0\4\0\2\4\3", b"\0\x0e\0\5\0\2\0\1\0", b"\0\x17\0\0"
    return groups + points + signatures + use_srtp + master


async def _volley(scene: Scene, datagrams: Callable[[], list[bytes]], source: Source) -> None:
    await scene.send(datagrams(), source(scene))
    # Who forges the parties' addresses just while they shake hands can disturb that, which no rule prevents.
    await asyncio.sleep(0.2)


async def _handshakes(scene: Scene, source: Source) -> None:
    """Go through with the handshake, as client and with a certificate that nobody has signalled."""
    sockets, targets = source(scene), scene.ports_of_the_call()
    associations = {(sock, target): Association(_MALLORY, active=True) for sock in sockets for target in targets}
    for (sock, target), association in associations.items():
        scene.strike(association.start(), sock, target)
    for _ in range(20):
        await asyncio.sleep(0.01)
        for sock in sockets:
            for datagram, target in scene.read(sock):
                scene.strike(associations[sock, target].receive(datagram), sock, target)


@asynccontextmanager
async def _flood(scene: Scene, datagrams: Callable[[], list[bytes]], source: Source) -> AsyncIterator[None]:
    """Send them over and over meanwhile, to all ports of the call."""
    sockets, targets = source(scene), scene.ports_of_the_call()

    async def run() -> None:
        while True:
            await scene.send(datagrams(), sockets, targets)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(run())
    try:
        await asyncio.sleep(0.05)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _flooded(source: Source, *, ice: bool) -> Attack:
    """The parties have to find each other in a flood of hellos, and are heard in it."""

    async def run(scene: Scene) -> None:
        for media in scene.sides:
            media.quiet = True
        scene.place()
        async with _flood(scene, good_hello, source):
            for media in scene.sides:
                media.begin()
            await scene.dialogue.connected()
            await scene.talk()

    name = f"flood of hellos, from {source.__name__}, {'ICE' if ice else 'no ICE'}"
    return Attack(name, run, ("DTLS",), about={"ice": ice})


def _row(name: str, strike: Callable[[Scene], Awaitable[None]], source: Source, *, ice: bool) -> Attack:
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

    return Attack(f"{name}, from {source.__name__}, {'ICE' if ice else 'no ICE'}", run, ("DTLS",), about={"ice": ice})


def _volleys(datagrams: Callable[[], list[bytes]], source: Source, *, ice: bool) -> Attack:
    name = datagrams.__name__.replace("_", " ")
    return _row(name, lambda scene: _volley(scene, datagrams, source), source, ice=ice)


DTLS = [
    *(
        _volleys(datagrams, source, ice=ice)
        for ice in (False, True)
        for datagrams in (hello_with_no_cipher, garbage_records, fragments, alerts, good_hello)
        for source in (stranger, neighbour, impostor)
    ),
    *(
        _row("whole handshake", partial(_handshakes, source=source), source, ice=ice)
        for ice in (False, True)
        for source in (stranger, neighbour)
    ),
    *(_flooded(source, ice=ice) for ice in (False, True) for source in (stranger, neighbour)),
]
