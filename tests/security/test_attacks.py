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
LINES_PER_CALL = 30
PORTS = range(30000, 30600)

Result = Outcome | BaseException
Run = Callable[[str], "Campaign"]


async def _together(scenes: Iterable[Scene], at_once: int) -> list[Result]:
    room = asyncio.Semaphore(at_once)

    async def one(scene: Scene) -> Outcome:
        async with room:
            return await perform(scene)

    return await asyncio.gather(*(one(scene) for scene in scenes), return_exceptions=True)


class Campaign:
    """All attacks in one learning mode, each on a call of its own, many at once; and how the daemon took it."""

    def __init__(self, lab: Lab, daemon: Daemon, mode: str) -> None:
        self.results: dict[tuple[str, str], Result] = {}
        self.scenes: list[Scene] = []
        for whole_range, at_once in ((True, 1), (False, AT_ONCE)):
            planned = [(a, t) for a in ATTACKS if a.whole_range == whole_range for t in a.transports]
            scenes = [Scene(lab, daemon, attack, transport, PORTS) for attack, transport in planned]
            for (attack, transport), result in zip(planned, asyncio.run(_together(scenes, at_once)), strict=True):
                self.results[attack.name, transport] = result
                if isinstance(result, Outcome):
                    MEASURED[attack.name, mode, transport] = result
            self.scenes += scenes
        self.survived = daemon.alive
        self.status = daemon.stop()
        self.log = daemon.log

    def outcome(self, attack: Attack, transport: str) -> Outcome:
        """What an attack has come to; raise what kept it from being carried out."""
        found = self.results[attack.name, transport]
        if isinstance(found, BaseException):
            raise found
        return found

    def trouble(self, attack: Attack, transport: str) -> str:
        """What did not work."""
        return "".join(s.trouble for s in self.scenes if (s.attack.name, s.transport) == (attack.name, transport))


@pytest.fixture(scope="module")
def campaign(lab: Lab, start: Callable[..., Daemon]) -> Callable[[str], Campaign]:
    """The campaign in a mode; who asks first waits until it is over."""
    done: dict[str, Campaign] = {}

    def run(mode: str) -> Campaign:
        if mode not in done:
            ports = (f"--port-min={PORTS.start}", f"--port-max={PORTS.stop - 1}")
            done[mode] = Campaign(lab, start(*ports, f"--endpoint-learning={mode}", "--log-level=7"), mode)
        return done[mode]

    return run


def _cases(mode: str) -> list[tuple[str, Attack, str]]:
    return [(mode, attack, transport) for attack in ATTACKS for transport in attack.transports]


def _named(case: object) -> str | None:
    return case.name if isinstance(case, Attack) else None


@pytest.mark.parametrize(("mode", "attack", "transport"), _cases(MODES[0]), ids=_named)
def test_nothing_is_gained_by_default(campaign: Run, mode: str, attack: Attack, transport: str) -> None:
    after = campaign(mode)
    assert after.outcome(attack, transport) == Outcome(), after.trouble(attack, transport)


OTHERS = [case for mode in MODES[1:] for case in _cases(mode)]


@pytest.mark.parametrize(("mode", "attack", "transport"), [c for c in OTHERS if c[2] != "RTP"], ids=_named)
def test_nothing_is_gained_where_media_is_authenticated(
    campaign: Run, mode: str, attack: Attack, transport: str
) -> None:
    """Whatever an operator has chosen for odd phones: SRTP is verified before anything is learned or relayed."""
    after = campaign(mode)
    assert after.outcome(attack, transport) == Outcome(), after.trouble(attack, transport)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if "RTP" in a.transports], ids=_named)
def test_nothing_bleeds_where_nothing_is_learned(campaign: Run, attack: Attack) -> None:
    assert campaign("off").outcome(attack, "RTP").bled == 0


@pytest.mark.parametrize("mode", MODES)
def test_daemon_keeps_its_countenance(campaign: Run, mode: str) -> None:
    """It survives, ends in order, logs a few lines per call however many packets are bad, and no key or password."""
    after = campaign(mode)
    assert after.survived
    assert after.status == 0
    assert "Traceback" not in after.log
    assert len(after.log.splitlines()) < LINES_PER_CALL * len(after.scenes)
    secrets = [secret for scene in after.scenes for secret in scene.secrets]
    assert len(secrets) > len(after.scenes)
    assert not [secret for secret in secrets if secret in after.log]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_amplified(campaign: Run, mode: str) -> None:
    """Replies of ICE and DTLS go to whoever claims to have asked; they are no larger than what was asked."""
    for scene in campaign(mode).scenes:
        assert scene.replied <= scene.struck, (scene.attack.name, scene.transport, scene.replied, scene.struck)


@pytest.mark.parametrize("mode", ["delayed", "immediate"])
def test_attack_is_real(campaign: Run, mode: str) -> None:
    """What an operator is warned of, which also shows that what is counted here can be counted."""
    outcomes = [campaign(mode).outcome(attack, "RTP") for attack in SPRAYS if "RTP" in attack.transports]
    assert any(outcome.bled for outcome in outcomes)
    assert any(outcome.injected for outcome in outcomes)


def test_strict_source_closes_what_off_leaves_open(campaign: Run) -> None:
    rows = [attack for attack in SPRAYS if attack.keys == STRICT]
    assert [campaign("off").outcome(attack, "RTP") for attack in rows] == [Outcome()] * len(rows)


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
