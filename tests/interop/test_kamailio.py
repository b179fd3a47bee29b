"""Kamailio with the sample configurations of docs/kamailio, between sipp user agents; over ng and over rtpproxy."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kamailio import programs
from kamailio.scenario import (
    accept,
    accept_again,
    answered,
    button,
    cancelled,
    early_media,
    invite,
    reinvite,
    respond,
    ring,
    scenario,
    sdp,
    step,
)
from kamailio.site import SERVER, Site, User, talk
from systemlab.daemon import PROGRAM, wait_until
from systemlab.media import receive, relayed, silent

CALL = (invite(), answered(), button(), step("bye"))
ANSWER = (ring(), accept(), step("hung-up"))
RINGING = re.compile(r"^SIP/2\.0 18[03]")
ACK = re.compile(r"^ACK ")
PROTOCOLS = ("ng", "rtpproxy")
# Kamailio counts whole seconds, and at most one passes before the second of RTPENGINE_DISABLE_S begins; its clock is a
# process of its own, which may be late.
SECONDS_UNTIL_THE_NEXT_PING = 5.1
# Calls at once, and for how many milliseconds they talk: longer than Kamailio takes to repeat an answer that was lost
# until it arrives, lest the BYE comes before it. The rtpproxy module waits for whole seconds.
CROWD = {"ng": (20, 1500), "rtpproxy": (5, 3500)}


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Site]]:
    """Make sites, one at a time; each is taken down before the next one."""
    if reason := programs.missing():
        pytest.skip(reason)
    if not PROGRAM.exists():
        pytest.skip(f"there is no daemon at {PROGRAM}; make build makes it")
    yield lambda protocol: Site(protocol, tmp_path_factory.mktemp(protocol))


@pytest.fixture(scope="module", params=PROTOCOLS)
def running(request: pytest.FixtureRequest, make_site: Callable[[str], Site]) -> Iterator[Site]:
    """A site that all tests of one protocol share."""
    with make_site(request.param) as site:
        site.start_daemon()
        site.start_kamailio()
        yield site
        assert site.daemon.stop() == 0
        assert "Traceback" not in site.daemon.log
        assert not re.search("ERROR|CRITICAL", site.kamailio.log), site.kamailio.log


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    """The shared site, nobody in a call."""
    yield running
    running.hang_up()


@pytest.fixture(params=PROTOCOLS)
def own_site(request: pytest.FixtureRequest, make_site: Callable[[str], Site]) -> Iterator[Site]:
    """A site of which nothing runs yet."""
    with make_site(request.param) as site:
        yield site


def connected(site: Site, call: tuple[str, ...] = CALL, answer: tuple[str, ...] = ANSWER) -> tuple[User, User]:
    """Alice and bob in a call, both having been told where to send their media."""
    callee = site.callee(scenario(*answer))
    caller = site.caller(scenario(*call))
    return caller.listen(), callee.listen()


def finish(site: Site, *users: User) -> None:
    """Every scenario comes to its end, and the daemon has forgotten the call."""
    for user in users:
        user.phone.finished()
    site.is_gone(users[0].phone.call_id)


def whole_call(site: Site) -> None:
    """A call with audio both ways, from INVITE to BYE."""
    caller, callee = connected(site)
    talk(caller, callee)
    caller.phone.press()
    finish(site, caller, callee)
    site.hang_up()


def test_audio_both_ways_until_the_caller_hangs_up(site: Site) -> None:
    caller, callee = connected(site)
    talk(caller, callee, 25)
    totals = site.query(caller.phone.call_id)["totals"]
    assert totals["RTP"]["packets"] == 50
    assert totals["RTCP"]["packets"] == 2
    caller.phone.press()
    finish(site, caller, callee)


@pytest.mark.parametrize("running", ["ng"], indirect=True)
def test_kamailio_learns_how_a_call_has_sounded(site: Site) -> None:
    """Every fifth packet of one party is missing."""
    caller, callee = connected(site)
    end = time.monotonic() + 60
    seq, sampled = 0, False
    while not sampled and time.monotonic() < end:
        seq += 1
        caller.audio.send()
        packet = callee.audio.rtp_packet()
        if seq % 5:
            callee.audio.send(packet)
        time.sleep(0.02)
        sampled = len(site.query(caller.phone.call_id).get("SSRC", {})) == 2
    assert sampled
    caller.phone.press()
    finish(site, caller, callee)
    said = rf"{re.escape(caller.phone.call_id)}: MOS ([\d.]+), at worst ([\d.]+); ([\d.]+) % lost, jitter [\d.]+ ms"
    assert wait_until(lambda: re.search(said, site.kamailio.log) is not None)
    ((average, worst, loss),) = (map(float, figures) for figures in re.findall(said, site.kamailio.log))
    assert 2 < worst < average < 4.4
    assert 8 <= loss <= 12, "none of one party, a fifth of the other"


def test_audio_both_ways_until_the_callee_hangs_up(site: Site) -> None:
    caller, callee = connected(
        site, (invite(), answered(), step("hung-up")), (ring(), accept(), button(), step("bye-callee"))
    )
    talk(caller, callee)
    callee.phone.wait_for("ACK", ACK)
    callee.phone.press()
    finish(site, caller, callee)


def test_phones_are_shown_nothing_but_the_daemon(site: Site) -> None:
    caller, callee = connected(site)
    for own, other in ((caller, callee), (callee, caller)):
        (body,) = own.phone.bodies.values()
        assert f"c=IN IP4 {SERVER.address(4)}\r\n" in body
        assert re.search(rf"^o=\S+ \S+ \S+ IN IP4 {re.escape(SERVER.address(4))}\r$", body, re.MULTILINE)
        assert other.phone.address[0] not in body
        assert str(other.audio.port) not in body
    caller.phone.press()
    finish(site, caller, callee)


@pytest.mark.parametrize("running", ["ng"], indirect=True)
def test_kamcmd_tells_that_the_daemon_answers(site: Site) -> None:
    assert re.search(r"disabled: 0\b", site.kamailio.control("rtpengine.show", "all"))


def test_offer_in_the_response_and_answer_in_the_ack(site: Site) -> None:
    no_offer = "Content-Length: 0\n"
    call = (invite(no_offer), answered(sdp()), button(), step("bye"))
    caller, callee = connected(site, call)
    talk(caller, callee)
    caller.phone.press()
    finish(site, caller, callee)


@pytest.mark.parametrize("offered, answer", [("sendonly", "recvonly"), ("inactive", "inactive")])
def test_hold_and_resume(site: Site, offered: str, answer: str) -> None:
    caller, callee = connected(
        site,
        (
            invite(),
            answered(),
            button(),
            reinvite(offered, 2),
            button(),
            reinvite("sendrecv", 3),
            button(),
            step("bye"),
        ),
        (ring(), accept(), accept_again(answer, 2), accept_again("sendrecv", 3), step("hung-up")),
    )
    talk(caller, callee)

    caller.phone.press()
    assert callee.listen(2).direction == offered
    assert caller.listen(2).direction == answer
    if offered == "sendonly":
        relayed(caller.audio, callee.audio)  # music on hold
    assert silent([caller.audio.rtp, callee.audio.rtp])
    site.is_up(caller.phone.call_id)

    caller.phone.press()
    assert callee.listen(3).direction == "sendrecv"
    caller.listen(3)
    talk(caller, callee)
    caller.phone.press()
    finish(site, caller, callee)


def test_hold_with_the_null_address(site: Site) -> None:
    caller, callee = connected(
        site,
        (
            *(invite(), answered(), button(), reinvite("sendrecv", 2, "0.0.0.0"), button()),
            *(reinvite("sendrecv", 3), button(), step("bye")),
        ),
        (ring(), accept(), accept_again("sendrecv", 2), accept_again("sendrecv", 3), step("hung-up")),
    )
    talk(caller, callee)
    caller.phone.press()
    assert callee.phone.heard(2).address == "0.0.0.0"
    caller.listen(2)
    sent = callee.audio.send()
    if site.protocol == "ng":
        assert silent([caller.audio.rtp])
    else:  # the module says where SIP comes from in place of the null address, so no proxy can know
        assert receive(caller.audio.rtp)[0] == sent
    caller.phone.press()
    callee.listen(3)
    caller.listen(3)
    talk(caller, callee)
    caller.phone.press()
    finish(site, caller, callee)


@pytest.mark.parametrize("early, bodies", [(early_media, 3), (ring, 1)])
def test_forked_call(site: Site, early: Callable[[], str], bodies: int) -> None:
    bob = site.callee(scenario(early(), button(), accept(), step("hung-up")))
    carol = site.callee(scenario(early(), cancelled()), "carol")
    caller = site.caller(scenario(invite(), answered(provisional=2), button(), step("bye")))
    bob.listen()
    carol.listen()
    caller.phone.wait_for("provisional response of both", RINGING, 2)
    bob.phone.press()
    caller.listen(bodies)
    carol.phone.finished()
    talk(caller, bob)
    caller.phone.press()
    finish(site, caller, bob)


def test_cancel(site: Site) -> None:
    callee = site.callee(scenario(early_media(), cancelled()))
    caller = site.caller(scenario(invite(), step("progress"), button(), step("cancel")))
    caller.listen()
    callee.listen()
    site.is_up(caller.phone.call_id)
    relayed(callee.audio, caller.audio)  # a ring tone that the callee makes
    caller.phone.press()
    finish(site, caller, callee)


def test_rejected_call(site: Site) -> None:
    callee = site.callee(scenario(step("incoming"), respond("486 Busy Here"), step("acked")))
    caller = site.caller(scenario(invite(), step("refused", status="486")))
    finish(site, caller, callee)


def test_kamailio_restarts_in_the_middle_of_a_call(own_site: Site) -> None:
    own_site.start_daemon()
    own_site.start_kamailio()
    caller, callee = connected(own_site)
    talk(caller, callee)
    own_site.kamailio.stop()
    talk(caller, callee)
    own_site.start_kamailio()
    talk(caller, callee)
    caller.phone.press()
    finish(own_site, caller, callee)
    whole_call(own_site)


def test_a_reinvite_brings_a_call_back_after_a_restart_of_the_daemon(own_site: Site) -> None:
    own_site.start_daemon()
    own_site.start_kamailio()
    caller, callee = connected(
        own_site,
        (invite(), answered(), button(), reinvite("sendrecv", 2), button(), step("bye")),
        (ring(), accept(), accept_again("sendrecv", 2), step("hung-up")),
    )
    talk(caller, callee)
    assert own_site.daemon.stop() == 0
    own_site.start_daemon()
    own_site.is_gone(caller.phone.call_id)
    caller.phone.press()
    callee.listen(2)
    caller.listen(2)
    talk(caller, callee)
    caller.phone.press()
    finish(own_site, caller, callee)


def refused(site: Site) -> None:
    """Nobody can be called: without a media proxy there is no audio, and the caller is told at once."""
    site.callee(scenario(step("incoming")))
    site.caller(scenario(invite(), step("refused", status="503"))).phone.finished()
    assert "no available proxies" in site.kamailio.log
    site.hang_up()


def test_the_daemon_comes_later_goes_and_comes_back(own_site: Site) -> None:
    own_site.start_kamailio(RTPENGINE_RETRIES="1", RTPPROXY_TRIES="1")
    refused(own_site)
    for times in (1, 2):
        own_site.start_daemon()
        time.sleep(SECONDS_UNTIL_THE_NEXT_PING)
        whole_call(own_site)
        assert own_site.kamailio.log.count("support for it re-enabled") >= times
        assert own_site.daemon.stop() == 0
        refused(own_site)


def test_one_control_datagram_in_five_is_lost(own_site: Site) -> None:
    own_site.start_daemon()
    # What is lost is sent again soon, and for long enough that nobody who is only slow is given up.
    own_site.start_kamailio(RTPENGINE_WAIT_MS="100", RTPENGINE_RETRIES="50")
    wire = own_site.wire
    wire.exchanges.clear()
    wire.loss = 0.2
    whole_call(own_site)
    calls, pause_ms = CROWD[own_site.protocol]
    callee = own_site.callee(scenario(*ANSWER), calls=calls)
    talking = step("pause", milliseconds=str(pause_ms))
    caller = own_site.caller(scenario(invite(), answered(), talking, step("bye")), calls=calls, rate=calls)
    for user in (caller, callee):
        user.phone.finished()
        assert len(user.phone.bodies) == calls
        assert all(f"c=IN IP4 {SERVER.address(4)}\r\n" in body for body in user.phone.bodies.values())
    for call_id in caller.phone.call_ids:
        own_site.is_gone(call_id)
    wire.loss = 0

    exchanges = list(wire.exchanges.values())
    assert wait_until(lambda: all(len(each.replies) == each.requests for each in exchanges))
    assert sum(each.lost_requests for each in exchanges) >= 3
    assert sum(each.lost_replies for each in exchanges) >= 3
    repeated = [each for each in exchanges if each.requests > 1]
    assert repeated
    for each in exchanges:
        assert len(set(each.replies)) == 1, "a repeated request was executed again"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_sample_loads_without_any_define(protocol: str, make_site: Callable[[str], Site], tmp_path: Path) -> None:
    sample = programs.CONFIGURATIONS / f"kamailio-{protocol}.cfg"
    done = subprocess.run(
        ["kamailio", "-c", "-E", "-f", sample, "-Y", tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done
    assert "config file ok" in done.stderr + done.stdout
    assert not re.search("WARNING|ERROR|CRITICAL", done.stderr + done.stdout), done
