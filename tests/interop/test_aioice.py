"""ICE against aioice, another implementation, over loopback: our lite agent, and checks relayed between two of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aioice
import aioice.ice
import pytest

from rtpengine.ice import IceAgent, IceRelay
from rtpengine.media import Endpoint, IceCredentials

OURS = IceCredentials("ourufrag", "our-password-of-28-letters-x")
# Each agent has several addresses to check from.
ADDRESSES = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
DATA = b"\x80 not STUN"


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda *_, **__: list(ADDRESSES))


class Socket(asyncio.DatagramProtocol):
    """One of our media sockets: STUN goes to a handler, the source of everything else is remembered."""

    def __init__(self, on_stun: Callable[[bytes, Endpoint], None]) -> None:
        self._on_stun = on_stun
        self.heard: Endpoint | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.endpoint = Endpoint(*transport.get_extra_info("sockname"))

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if data[0] < 4:
            self._on_stun(data, Endpoint(*addr))
        else:
            self.heard = Endpoint(*addr)

    def send(self, data: bytes, to: Endpoint) -> None:
        self.transport.sendto(data, tuple(to))  # type: ignore[attr-defined]


@asynccontextmanager
async def opened(on_stun: Callable[[bytes, Endpoint], None]) -> AsyncIterator[Socket]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Socket(on_stun), local_addr=("127.0.0.1", 0))
    yield protocol
    transport.close()


@asynccontextmanager
async def peer(*, controlling: bool, lite: bool = False) -> AsyncIterator[aioice.Connection]:
    """A full agent; ``lite``: it is told that we are not one."""
    connection = aioice.Connection(ice_controlling=controlling)
    connection.remote_is_lite = lite
    await connection.gather_candidates()
    yield connection
    await connection.close()


@asynccontextmanager
async def answered_by(agent: IceAgent) -> AsyncIterator[Socket]:
    """A socket whose STUN goes to our agent, as stream 1."""

    def on_stun(data: bytes, source: Endpoint) -> None:
        verdict = agent.receive(1, data, source, time.monotonic())
        if verdict.reply:
            socket.send(verdict.reply, source)

    async with opened(on_stun) as socket:
        yield socket


def credentials_of(connection: aioice.Connection) -> IceCredentials:
    return IceCredentials(connection.local_username, connection.local_password)


async def introduce(connection: aioice.Connection, credentials: IceCredentials, endpoint: Endpoint) -> None:
    """Tell a peer about the other side, as SDP would: ``endpoint`` is its only candidate."""
    connection.remote_username, connection.remote_password = credentials
    await connection.add_remote_candidate(aioice.Candidate("f", 1, "udp", 2130706431, *endpoint, "host"))
    await connection.add_remote_candidate(None)


async def hears(socket: Socket, connection: aioice.Connection, selected: Callable[[], Endpoint | None]) -> None:
    """Wait until a peer sends from where we have it: checks that were on their way may still move both ends."""
    async with asyncio.timeout(5):
        while socket.heard is None or socket.heard != selected():
            await connection.send(DATA)
            await asyncio.sleep(0.02)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 30))


@pytest.mark.parametrize("lite", [True, False], ids=["regular nomination", "aggressive nomination"])
def test_a_full_agent_connects_to_ours_and_sends_from_the_pair_that_we_selected(lite: bool) -> None:
    async def main() -> None:
        async with peer(controlling=True, lite=lite) as connection:
            agent = IceAgent(OURS, credentials_of(connection))
            async with answered_by(agent) as socket:
                await introduce(connection, OURS, socket.endpoint)
                await connection.connect()
                assert agent.state == "connected"
                await hears(socket, connection, lambda: agent.selected(1))

    run(main())


def test_a_peer_that_takes_itself_for_controlled_is_told() -> None:
    async def main() -> None:
        async with peer(controlling=False, lite=True) as connection:
            agent = IceAgent(OURS, credentials_of(connection))
            async with answered_by(agent) as socket:
                await introduce(connection, OURS, socket.endpoint)
                await connection.connect()
                assert connection.ice_controlling
                assert agent.state == "connected"

    run(main())


def test_a_wrong_password_does_not_connect() -> None:
    async def main() -> None:
        agent = IceAgent(OURS)
        async with peer(controlling=True, lite=True) as connection, answered_by(agent) as socket:
            await introduce(connection, OURS._replace(pwd="another-password-28-letters-"), socket.endpoint)
            connecting = asyncio.create_task(connection.connect())
            done, _ = await asyncio.wait([connecting], timeout=1.5)
            assert not done
            assert agent.state == "new"
            connecting.cancel()

    run(main())


def test_two_full_agents_connect_through_the_relay() -> None:
    async def main() -> None:
        relay = IceRelay()

        def handler(party: int) -> Callable[[bytes, Endpoint], None]:
            def on_stun(data: bytes, source: Endpoint) -> None:
                result = relay.receive(party, party, data, source, time.monotonic())
                if result.nominated:
                    media_to[party] = source
                if result.forward:
                    sockets[1 - party].send(data, result.to or media_to[1 - party])

            return on_stun

        async with (
            opened(handler(0)) as to_first,
            opened(handler(1)) as to_second,
            peer(controlling=True) as first,
            peer(controlling=False) as second,
        ):
            sockets, peers = (to_first, to_second), (first, second)
            media_to = [Endpoint(one.local_candidates[0].host, one.local_candidates[0].port) for one in peers]
            for party in (0, 1):
                relay.learn(party, credentials_of(peers[party]))
                await introduce(peers[party], credentials_of(peers[1 - party]), sockets[party].endpoint)
            await asyncio.gather(first.connect(), second.connect())
            for party in (0, 1):
                await hears(sockets[party], peers[party], lambda party=party: media_to[party])

    run(main())
