"""The fixtures of the system and interop tests; both conftest files take them from here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from systemlab import netns
from systemlab.daemon import PROGRAM, Daemon
from systemlab.live import Live, LiveDialogue
from systemlab.media import Dialogue, Party
from systemlab.netns import Host, Lab
from systemlab.redisserver import RedisServer

PORTS = ("--port-min=30000", "--port-max=30999")
MakeParty = Callable[..., Party]
MakeCall = Callable[..., Dialogue]
MakeLiveCall = Callable[..., LiveDialogue]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The hosts, for the whole run."""
    if reason := netns.missing_privilege():
        pytest.skip(reason)
    if not PROGRAM.exists():
        pytest.skip(f"there is no daemon at {PROGRAM}; make build makes it")
    lab = Lab()
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def start(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """Start daemons with other options than the module's; all end with the module at the latest."""
    started: list[Daemon] = []

    def make(*options: str, **about: Any) -> Daemon:
        started.append(Daemon(lab, tmp_path_factory.mktemp("daemon"), *options, **about))
        return started[-1]

    yield make
    for daemon in started:
        daemon.kill()


@pytest.fixture
def launch(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons that end with the test: one that is left would write to the next test's Redis."""
    launched: list[Daemon] = []

    def make(*options: str, **about: Any) -> Daemon:
        directory = tmp_path / f"daemon-{len(launched)}"
        directory.mkdir()
        launched.append(Daemon(lab, directory, *options, **about))
        return launched[-1]

    yield make
    for daemon in launched:
        daemon.kill()


@pytest.fixture
def redis(lab: Lab, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server on the relay's host, for one test."""
    server = RedisServer(lab.relay, tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon of a test module, with the module's OPTIONS; it must end in order and without a traceback."""
    options = getattr(request.module, "OPTIONS", ())
    daemon = Daemon(lab, tmp_path_factory.mktemp("daemon"), *PORTS, *options)
    yield daemon
    assert daemon.alive, daemon.log[-5000:]
    assert daemon.stop() == 0, daemon.log[-5000:]
    assert "Traceback" not in daemon.log, daemon.log[-5000:]


@pytest.fixture
def party() -> Iterator[MakeParty]:
    """Make parties; their sockets are closed after the test."""
    made: list[Party] = []

    def make(host: Host, family: int = 4, *, kinds: tuple[str, ...] = ("audio",), **about: Any) -> Party:
        made.append(Party(host, family))
        for kind in kinds:
            made[-1].add(kind=kind, **about)
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def call(daemon: Daemon, lab: Lab, party: MakeParty) -> Iterator[MakeCall]:
    """Make a dialogue between hosts A and B over the module's daemon, not placed yet, deleted after the test."""
    made: list[Dialogue] = []

    def make(caller: Party | None = None, callee: Party | None = None) -> Dialogue:
        made.append(Dialogue(daemon.ng, caller or party(lab.a), callee or party(lab.b)))
        return made[-1]

    yield make
    for dialogue in made:
        if daemon.alive:
            dialogue.ng.command("delete", call_id=dialogue.call_id, from_tag="")


@pytest.fixture
def live_call(daemon: Daemon, lab: Lab) -> Iterator[MakeLiveCall]:
    """Make a dialogue between hosts A and B, whose media are described by one dictionary or a list of them each."""
    made: list[LiveDialogue] = []

    def make(caller: Any, callee: Any, families: tuple[int, int] = (4, 4)) -> LiveDialogue:
        parties = Party(lab.a, families[0]), Party(lab.b, families[1])
        made.append(LiveDialogue(daemon.ng, *parties))
        for each, about in zip(parties, (caller, callee), strict=True):
            for one in about if isinstance(about, list) else [about]:
                each.add(make=Live, **one)
        return made[-1]

    yield make
    for dialogue in made:
        if daemon.alive:
            dialogue.ng.command("delete", call_id=dialogue.call_id, from_tag="")
        dialogue.caller.close()
        dialogue.callee.close()


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in a loop of its own; a hook for conftest files to import."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**wanted))
    return True
