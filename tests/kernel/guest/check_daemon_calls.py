"""Calls through the daemon whose RTP the kernel forwards: every profile pair that has a form there, and what stays up.

All calls of the table are set up at once, since each has to wait for the daemon to be content with it. Each packet is
compared with srtp_model.py, byte by byte: those that userspace has sent before, and those that the kernel sends then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from conftest import rules
from daemonlab import (
    ALL_SUITES,
    NFT,
    PATIENCE_S,
    PORTS,
    SUITE_OF,
    Call,
    Daemon,
    Lab,
    Phone,
    Spoken,
    call,
    due,
    forwarded,
    passes,
    read,
    ruled,
    sdes,
    table_of,
    wait_for,
)
from network import run
from systemlab import stunclient
from systemlab.dtlsside import Association, Identity
from systemlab.media import Address, receive, rtcp_relayed, rtp, silent
from systemlab.ngclient import drain
from systemlab.srtpside import forged
from systemlab.stunclient import fresh_credentials

from rtpengine.targets import ELSEWHERE, NO_DESTINATION, NO_KEYS, NO_SOURCE, ON_HOLD

pytest_plugins = ["daemonlab"]

BEFORE, AFTER = 5, 20
FAMILIES = [(4, 4), (6, 6), (4, 6), (6, 4)]
IN_KERNEL = ("in kernel", "")
RULE = rules(*NFT).rule


class Case(NamedTuple):
    """Two parties as ``speaks`` reads them, and the families of their addresses."""

    caller: str
    callee: str
    families: tuple[int, int] = (4, 4)


PLAIN = [Case(one, other) for one in ("AVP", "AVPF") for other in ("AVP", "AVPF")]
ACROSS = [Case("AVP", "AVP", families) for families in FAMILIES[1:]]
SECURE = [
    Case(caller.format(suite), callee.format(suite))
    for suite in ("CM128-80", "CM128-32", "F8-80", "F8-32")
    for caller, callee in (("SAVP {}", "AVP"), ("AVP", "SAVP {}"), ("SAVP {}", "SAVP {}"), ("SAVP {}", "SAVPF {}"))
]
OTHERS = [
    *(Case(f"SAVP {suite}", "AVP") for suite in ("CM192-80", "CM256-80", "NULL-80", "NULL-32", "CM128-80 mki")),
    Case("SAVPF CM128-80", "SAVP F8-80"),
    Case("SAVP CM128-32", "SAVP CM128-80"),
    Case("SAVPF CM128-80 mki", "SAVP CM128-80"),
    Case("SAVP CM128-80", "AVP", (4, 6)),
    Case("AVP", "SAVP CM128-80", (4, 6)),
    Case("SAVP CM128-80", "SAVPF CM128-80", (6, 6)),
]
DTLS = [
    Case("DTLS", "AVP"),
    Case("AVP", "DTLS"),
    Case("DTLS", "SAVP CM128-80"),
    Case("browser", "AVP", (6, 4)),
    Case("browser", "browser"),
]
CASES = PLAIN + ACROSS + SECURE + OTHERS + DTLS


def speaks(words: str) -> dict[str, Any]:
    """A party's media: a profile, with SDES a suite of srtp_model.py, perhaps with an MKI."""
    profile, *more = words.split()
    if profile == "DTLS":
        return {"protocol": "UDP/TLS/RTP/SAVP", "dtls": Identity()}
    if profile == "browser":
        setup = (more or ["actpass"])[0]
        ice = fresh_credentials()
        return {"protocol": "UDP/TLS/RTP/SAVPF", "dtls": Identity(), "ice": ice, "mux": True, "setup": setup}
    about = {"protocol": f"RTP/{profile}"}
    return {**about, "sdes": sdes(more[0], b"\x04\x2a" if more[1:] else b"")} if more else about


class Talk(NamedTuple):
    """What was said in one direction while userspace forwarded, and what arrived of it."""

    said: list[Spoken]
    got: list[tuple[bytes, Address]]


class Placed(NamedTuple):
    """A call of the table, and what passed before the kernel had it, from the caller and from the callee."""

    call: Call
    before: list[Talk]


async def place(daemon: Daemon, case: Case) -> Call:
    """Set a call up; from then on nobody reads the parties' sockets unasked."""
    made = call(daemon, speaks(case.caller), speaks(case.callee), case.families)
    wanted = case.callee.split()[1:2]
    made.offer(**({"SDES": [f"only-{SUITE_OF[wanted[0]]}"]} if wanted else {}))
    made.answer()
    await made.connected(PATIENCE_S)
    for phone in made.phones:
        phone.detach()
    return made


def talk(speaker: Phone, listener: Phone) -> Talk:
    said = speaker.talk(BEFORE)
    return Talk(said, listener.gets(BEFORE))


@pytest.fixture(scope="module")
def daemon(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with table 0 and the rules for it."""
    with ruled(lab.relay):
        started = Daemon(lab, tmp_path_factory.mktemp("daemon"), *PORTS, "--table=0", "--no-fallback", ALL_SUITES)
        with table_of(started):
            yield started


@pytest.fixture(scope="module")
def placed(daemon: Daemon) -> Iterator[dict[Case, Placed]]:
    """Every call of the table, as soon as the kernel has all of them."""

    async def place_all() -> dict[Case, Call]:
        return {case: await place(daemon, case) for case in CASES}

    calls = asyncio.run(place_all())
    made = {case: Placed(each, [talk(*direction) for direction in each.directions]) for case, each in calls.items()}
    wait_for(lambda: len(forwarded(daemon.lab.relay)) == 2 * len(CASES))
    yield made
    for each in calls.values():
        each.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.caller} to {case.callee}, {case.families}")
def test_pair(daemon: Daemon, placed: dict[Case, Placed], case: Case) -> None:
    made, before = placed[case]
    arrived = []
    for (speaker, listener), (said, got) in zip(made.directions, before, strict=True):
        assert got == due(speaker, listener, said), "userspace"
        arrived += got
    assert made.statuses == [IN_KERNEL, IN_KERNEL], daemon.log[-3000:]
    for speaker, listener in made.directions:
        arrived += passes(speaker, listener, AFTER)
    targets = forwarded(daemon.lab.relay)
    assert [targets[local].packets for local in made.locals] == [AFTER, AFTER]
    assert all(targets[local].errors == 0 for local in made.locals)
    total = {"packets": len(arrived), "bytes": sum(len(data) for data, _ in arrived), "errors": 0}
    for reply in (made.query(), made.delete()):
        assert reply["totals"]["RTP"] == total
    assert not set(made.locals) & set(forwarded(daemon.lab.relay))


@pytest.fixture
def talking(daemon: Daemon) -> Iterator[Callable[..., Call]]:
    """Set up calls that the kernel forwards."""
    made: list[Call] = []

    def make(caller: str, callee: str) -> Call:
        made.append(asyncio.run(place(daemon, Case(caller, callee))))
        for direction in made[-1].directions:
            passes(*direction)
        assert made[-1].goes_down()
        return made[-1]

    yield make
    for each in made:
        each.delete()
        each.close()


def packets(made: Call, speaker: Phone) -> int:
    """How many of a party's packets the kernel has forwarded."""
    assert speaker.remote
    return forwarded(made.host)[speaker.remote.endpoint].packets


def test_rtcp_comes_up(talking: Callable[..., Call]) -> None:
    made = talking("AVP", "AVP")
    for direction in made.directions:
        rtcp_relayed(*direction)
    assert [forwarded(made.host)[local].packets for local in made.locals] == [0, 0]


def test_what_a_browser_sends_beside_media_comes_up(talking: Callable[..., Call]) -> None:
    """RTCP, STUN and DTLS on the port whose RTP the kernel forwards."""
    made = talking("browser active", "AVP")
    browser, phone = made.phones
    report = browser.send_rtcp()
    assert receive(phone.rtcp, PATIENCE_S)[0] == report
    report = phone.send_rtcp()
    (channel, *_) = browser.channels
    assert channel.receiver and channel.receiver.rtcp(receive(browser.rtp, PATIENCE_S)[0]) == report
    channel.send_check()
    assert browser.ice_remote
    response = stunclient.parse_response(receive(browser.rtp, PATIENCE_S)[0], browser.ice_remote.pwd)
    assert response and (response.code, response.authentic) == (0, True)
    assert channel.association and browser.dtls
    # A browser that has forgotten what it began says hello again, and is answered.
    channel.send_all(Association(browser.dtls, active=True).start())
    assert receive(browser.rtp, PATIENCE_S)[0][0] in range(20, 64)
    drain(browser.rtp)
    for direction in made.directions:
        passes(*direction)
    assert made.statuses == [IN_KERNEL, IN_KERNEL]
    channel.send_all(channel.association.close())
    assert wait_for(lambda: [why for _, why in made.statuses] == [NO_KEYS, NO_KEYS])
    assert not set(made.locals) & set(forwarded(made.host))


@pytest.mark.parametrize("caller", ["AVP", "SAVP CM128-80"])
def test_unknown_source(talking: Callable[..., Call], caller: str) -> None:
    """Packets of strangers come up and are refused there; a party that moves is followed, and the kernel told."""
    made = talking(caller, "AVP")
    speaker, listener = made.phones
    host = made.caller.host
    with host.udp(host.address(4, 1)) as stranger:
        for number in range(3):
            packet = rtp(number, speaker.ssrc ^ 1)
            speaker.send_raw(forged(speaker.sending, packet) if speaker.sending else packet, stranger)
        passes(speaker, listener)
        assert wait_for(lambda: sum(made.streams(made.caller)[0]["stats"]["drops"].values()) == 3)
    with host.udp(host.address(4)) as moved:
        assert wait_for(lambda: bool(speaker.talk(1, via=moved)) and expected(made, speaker) == moved.getsockname())
        drain(listener.rtp)
        before = packets(made, speaker)
        said = speaker.talk(5, via=moved)
        assert listener.gets(5) == due(speaker, listener, said)
        assert packets(made, speaker) == before + 5
        said = listener.talk(5)
        assert [receive(moved, PATIENCE_S) for _ in said] == due(listener, speaker, said)
        assert made.statuses == [IN_KERNEL, IN_KERNEL]


def test_a_copy_of_what_the_kernel_has_forwarded(talking: Callable[..., Call]) -> None:
    """Sent from elsewhere at once: the daemon does not know yet that it is one, and asks the kernel."""
    made = talking("SAVP CM128-80", "AVP")
    speaker, listener = made.phones
    host = made.caller.host
    with host.udp(host.address(4, 1)) as thief:

        def is_asked_about() -> bool:
            (said,) = speaker.talk()
            speaker.send_raw(speaker.on_wire(said, speaker.sending), thief)
            assert listener.gets(1) == due(speaker, listener, [said])
            return ELSEWHERE in [why for _, why in made.statuses]

        assert wait_for(is_asked_about)
        for direction in made.directions:
            passes(*direction)
        assert made.goes_down()
        for direction in made.directions:
            passes(*direction)
        assert expected(made, speaker) == speaker.rtp.getsockname()
        assert silent([thief, listener.rtp])


def expected(made: Call, speaker: Phone) -> Address | None:
    """Whom the kernel takes a party's packets from."""
    assert speaker.remote
    target = forwarded(made.host).get(speaker.remote.endpoint)
    return target and target.expect


@pytest.mark.parametrize("caller", ["SAVP CM128-80", "AVP"])
def test_unknown_ssrc(talking: Callable[..., Call], caller: str) -> None:
    """SRTP of an SSRC that is new comes up once; the kernel learns of it, and forwards both."""
    made = talking(caller, "SAVPF CM128-80")
    speaker, listener = made.phones
    passes(speaker, listener)
    first, at = speaker.ssrc, speaker.index
    speaker.ssrc, speaker.index = first ^ 0xFFFF, 1000
    passes(speaker, listener)
    before = packets(made, speaker)
    assert 5 <= before < 10, "the first one of it came up, and those behind it until the kernel knew"
    assert wait_for(lambda: f"SSRC: {speaker.ssrc:08x}" in read(made.host, "0/list"))
    passes(speaker, listener)
    speaker.ssrc, speaker.index = first, at
    passes(speaker, listener)
    assert packets(made, speaker) == before + 10


def test_hold_and_resume(talking: Callable[..., Call]) -> None:
    """The kernel lets go of what would go to who is on hold, and of nothing else; later it has both again."""
    made = talking("AVP", "SAVP CM128-80")
    caller, callee = made.phones
    caller.said_address, told = "0.0.0.0", callee.remote
    made.place()
    callee.remote = told  # it was told the null address too, and sends nevertheless
    callee.talk(3)
    assert silent([caller.rtp])
    passes(caller, callee)
    assert wait_for(lambda: [why for _, why in made.statuses] == ["", ON_HOLD])
    callee.talk(3)
    assert silent([caller.rtp])
    caller.said_address = None
    made.place()
    for direction in made.directions:
        passes(*direction)
    assert made.goes_down()
    for direction in made.directions:
        passes(*direction)
    assert [forwarded(made.host)[local].packets for local in made.locals] == [5, 5]


def test_why_it_stays_in_userspace(daemon: Daemon) -> None:
    gcm, one_way, hold = (
        asyncio.run(place(daemon, Case(*parties)))
        for parties in (("SAVP GCM128", "AVP"), ("AVP", "AVP"), ("AVP", "AVP"))
    )
    for made in (gcm, hold):
        for direction in made.directions:
            passes(*direction)
    passes(*one_way.phones)
    hold.caller.audio.said_address = "0.0.0.0"
    hold.offer()
    hold.answer()
    no_gcm = ("confirmed peer address", "the kernel module has no AEAD_AES_128_GCM")
    assert wait_for(lambda: gcm.statuses == [no_gcm, no_gcm])
    assert wait_for(lambda: [why for _, why in one_way.statuses] == [NO_DESTINATION, NO_SOURCE])
    assert wait_for(lambda: [why for _, why in hold.statuses] == ["", ON_HOLD])
    for made in (gcm, one_way, hold):
        made.delete()
        made.close()


def test_without_the_rule(talking: Callable[..., Call]) -> None:
    """Whoever removes it takes the kernel out of the way, and userspace goes on where that was."""
    made = talking("SAVP CM128-80", "AVP")
    for direction in made.directions:
        passes(*direction)
    for command in NFT:
        with made.host.inside():
            run(command, "-w", "-D", *RULE)
    try:
        for direction in made.directions:
            passes(*direction)
        assert [forwarded(made.host)[local].packets for local in made.locals] == [5, 5]
    finally:
        for command in NFT:
            with made.host.inside():
                run(command, "-w", "-I", *RULE)
    for direction in made.directions:
        passes(*direction)
    assert [forwarded(made.host)[local].packets for local in made.locals] == [10, 10]
