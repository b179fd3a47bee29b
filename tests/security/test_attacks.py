"""The attacks that define the field, in every learning mode and over every transport (security.md 2 to 4).

With the default settings and truthful SDP: 0 bled, 0 injected, call up. A table of everything is printed at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest
from attacks.dtls import DTLS
from attacks.rtcp import RTCP
from attacks.scene import Attack, Outcome, Scene, perform
from attacks.sprays import SPRAYS, STRICT, before_the_parties_speak, published, spraying
from attacks.srtp import SRTP
from attacks.stun import STUN
from attacks.table import MEASURED, MODES
from systemlab.daemon import Daemon
from systemlab.netns import Lab

ATTACKS = [*SPRAYS, *RTCP, *SRTP, *DTLS, *STUN]
AT_ONCE = 40
PORTS = range(30000, 30600)

Result = Outcome | BaseException
Measure = Callable[[str, Attack, str], Outcome]


async def _together(scenes: Iterable[Scene], at_once: int) -> list[Result]:
    room = asyncio.Semaphore(at_once)

    async def one(scene: Scene) -> Outcome:
        async with room:
            return await perform(scene)

    return await asyncio.gather(*(one(scene) for scene in scenes), return_exceptions=True)


def _carry_out(lab: Lab, daemon: Daemon) -> dict[tuple[str, str], Result]:
    """All attacks, each on a call of its own, many at once."""
    results: dict[tuple[str, str], Result] = {}
    for whole_range, at_once in ((True, 1), (False, AT_ONCE)):
        planned = [(a, t) for a in ATTACKS if a.whole_range == whole_range for t in a.transports]
        scenes = [Scene(lab, daemon, attack, transport, PORTS) for attack, transport in planned]
        for (attack, transport), result in zip(planned, asyncio.run(_together(scenes, at_once)), strict=True):
            results[attack.name, transport] = result
    return results


@pytest.fixture(scope="module")
def measured(lab: Lab, start: Callable[..., Daemon]) -> Measure:
    """What an attack has come to in a mode; the first question about a mode carries all attacks out."""
    done: dict[str, dict[tuple[str, str], Result]] = {}

    def measure(mode: str, attack: Attack, transport: str) -> Outcome:
        if mode not in done:
            ports = (f"--port-min={PORTS.start}", f"--port-max={PORTS.stop - 1}")
            daemon = start(*ports, f"--endpoint-learning={mode}")
            done[mode] = _carry_out(lab, daemon)
            for (row, over), result in done[mode].items():
                if isinstance(result, Outcome):
                    MEASURED[row, mode, over] = result
            assert daemon.alive, daemon.log[-5000:]
            assert daemon.stop() == 0
            assert "Traceback" not in daemon.log, daemon.log[-5000:]
        found = done[mode][attack.name, transport]
        if isinstance(found, BaseException):
            raise found
        return found

    return measure


def _cases(mode: str) -> list[tuple[str, Attack, str]]:
    return [(mode, attack, transport) for attack in ATTACKS for transport in attack.transports]


def _named(case: object) -> str | None:
    return case.name if isinstance(case, Attack) else None


@pytest.mark.parametrize(("mode", "attack", "transport"), _cases(MODES[0]), ids=_named)
def test_nothing_is_gained_by_default(measured: Measure, mode: str, attack: Attack, transport: str) -> None:
    assert measured(mode, attack, transport) == Outcome()


OTHERS = [case for mode in MODES[1:] for case in _cases(mode)]


@pytest.mark.parametrize(("mode", "attack", "transport"), [c for c in OTHERS if c[2] != "RTP"], ids=_named)
def test_nothing_is_gained_where_media_is_authenticated(
    measured: Measure, mode: str, attack: Attack, transport: str
) -> None:
    """Whatever an operator has chosen for odd phones: SRTP is verified before anything is learned or relayed."""
    assert measured(mode, attack, transport) == Outcome()


@pytest.mark.parametrize("attack", [a for a in ATTACKS if "RTP" in a.transports], ids=_named)
def test_nothing_bleeds_where_nothing_is_learned(measured: Measure, attack: Attack) -> None:
    assert measured("off", attack, "RTP").bled == 0


@pytest.mark.parametrize("mode", ["delayed", "immediate"])
def test_attack_is_real(measured: Measure, mode: str) -> None:
    """What an operator is warned of, which also shows that what is counted here can be counted."""
    outcomes = [measured(mode, attack, "RTP") for attack in SPRAYS if "RTP" in attack.transports]
    assert any(outcome.bled for outcome in outcomes)
    assert any(outcome.injected for outcome in outcomes)


def test_strict_source_closes_what_off_leaves_open(measured: Measure) -> None:
    rows = [attack for attack in SPRAYS if attack.flags == STRICT]
    assert [measured("off", attack, "RTP") for attack in rows] == [Outcome()] * len(rows)


async def test_spray_cannot_stand_in_for_a_phone_behind_nat(lab: Lab, start: Callable[..., Daemon]) -> None:
    """A private address in the SDP opens the door to strangers, but the published packet is not plausible RTP."""
    daemon = start(f"--port-min={PORTS.start}", f"--port-max={PORTS.stop - 1}")
    scene = Scene(lab, daemon, Attack("", before_the_parties_speak), "RTP", PORTS)
    scene.sides[0].said_address = "192.168.77.5"
    try:
        await scene.set_up()
        async with spraying(scene, published):
            for _ in range(70):
                scene.sent.add(scene.sides[1].send())
                await asyncio.sleep(0.05)
        # The phone itself is none the worse for it.
        await scene.talk()
        assert await scene.judge() == Outcome()
    finally:
        scene.close()
