"""What the options of the command line become in the parts that they are for, and in which order these begin."""

from __future__ import annotations

import asyncio
import gc
import select
import socket
from collections.abc import Iterator
from typing import Any

import bencodepy
import pytest

from rtpengine import config, control
from rtpengine.daemon import Daemon

OFFER = {
    "command": "offer",
    "call-id": "c",
    "from-tag": "a",
    "flags": ["trust-address"],
    "transport-protocol": "RTP/SAVP",
    "sdp": "v=0\r\no=u 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n",
}


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The lines of the body that an offer comes back with, for a daemon with these options."""
    options = config.parse(["--ip=127.0.0.1", "--listen-ng=127.0.0.1:2223", "--table=-1", *request.param])
    daemon = Daemon(options, {})
    try:
        datagram, _ = daemon._protocol("listen-ng", options).answer(b"1", bencodepy.encode(OFFER), "", 1.0, 1.0)
        yield bencodepy.decode(datagram.partition(b" ")[2])[b"sdp"].decode().split("\r\n")
        daemon.table.end(daemon.table.find("c"), "deleted", 2.0)
    finally:
        daemon.close()


@pytest.mark.parametrize(
    ("told", "ice"),
    [
        ([], True),
        (["--ice-default=optional"], True),
        (["--ice-default=force"], True),
        (["--ice-default=default"], False),
        (["--ice-default=remove"], False),
    ],
    indirect=["told"],
)
def test_ice_by_default(told: list[str], ice: bool) -> None:
    assert ("a=ice-lite" in told) is ice


@pytest.mark.parametrize(
    ("told", "suite"),
    [
        ([], "AES_CM_128_HMAC_SHA1_80"),
        (["--srtp-suites=AEAD_AES_128_GCM,AES_CM_128_HMAC_SHA1_80"], "AEAD_AES_128_GCM"),
        (["--srtp-suites=F8_128_HMAC_SHA1_80"], "F8_128_HMAC_SHA1_80"),
    ],
    indirect=["told"],
)
def test_the_preferred_suite_is_offered(told: list[str], suite: str) -> None:
    assert [line.split()[1] for line in told if line.startswith("a=crypto:")] == [suite]


@pytest.fixture
def collector() -> Iterator[None]:
    """The daemon has its own ideas about the collector, which are not for the tests behind this one."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_who_is_answered_finds_that_all_ports_listen(monkeypatch: pytest.MonkeyPatch, collector: None) -> None:
    """Whoever starts a daemon asks it by ng whether it is there, and goes on to the other ports."""
    sockets = {"listen-ng": control.bind("127.0.0.1", 0)}
    sockets |= {option: control.bind_tcp("127.0.0.1", 0) for option in ("listen-tcp", "listen-http", "listen-cli")}
    ports = {option: sock.getsockname()[1] for option, sock in sockets.items()}
    options = config.parse(
        ["--ip=127.0.0.1", "--table=-1", *(f"--{name}=127.0.0.1:{port}" for name, port in ports.items())]
    )
    daemon = Daemon(options, sockets)
    assert daemon.web is not None
    early = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.sendto(b"1 d7:command4:pinge", ("127.0.0.1", ports["listen-ng"]))
        for server in (daemon.tcp, daemon.web, daemon.cli):

            async def late(sock: socket.socket, listen: Any = server.listen) -> None:
                for _ in range(10):
                    await asyncio.sleep(0)
                early.extend(select.select([client], [], [], 0)[0])
                await listen(sock)

            monkeypatch.setattr(server, "listen", late)

        async def run() -> bytes:
            ready = asyncio.Event()
            running = asyncio.create_task(daemon.run(ready.set))
            async with asyncio.timeout(60):
                await ready.wait()
                reply = await asyncio.get_running_loop().sock_recv(client, 100)
            daemon._stop.set()
            await running
            return reply

        assert asyncio.run(run()) == b"1 d6:result4:ponge"
    assert early == []
