"""Every RTP profile to every other, with real packets: parties on libsrtp and OpenSSL (srtp.md 8, media.md 6)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from systemlab import stunclient
from systemlab.dtlsside import Identity, fingerprint
from systemlab.fixtures import MakeLiveCall
from systemlab.live import Live, LiveDialogue, both_hear, heard, nothing_passes, rtcp_heard, until
from systemlab.media import Party, sender_report
from systemlab.srtpside import SUITES, Sdes
from systemlab.stunclient import fresh_credentials

OPTIONS = ("--port-min=30000", "--port-max=30999")

PLAIN = ("RTP/AVP", "RTP/AVPF")
SDES = ("RTP/SAVP", "RTP/SAVPF")
DTLS = ("UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF")
PROFILES = (*PLAIN, *SDES, *DTLS)


def speaks(protocol: str, **about: Any) -> dict[str, Any]:
    """A media of this profile, with what its name implies."""
    if protocol in SDES and "dtls" not in about:
        about.setdefault("sdes", Sdes())
    if protocol in DTLS:
        about.setdefault("dtls", Identity())
    return {"protocol": protocol, **about}


def browser(**about: Any) -> dict[str, Any]:
    """A media as a browser has it: DTLS, ICE, and RTCP on the same port."""
    return speaks("UDP/TLS/RTP/SAVPF", ice=fresh_credentials(), mux=True, **about)


def feedback(kind: int, packet_type: int, ssrc: int) -> bytes:
    """A feedback message without more to say (RFC 4585 6.1)."""
    return struct.pack("!BBHII", 0x80 | kind, packet_type, 2, ssrc, 7)


async def feedback_heard(sender: Live, receiver: Live) -> None:
    """RTPFB and PSFB of who has them arrive where the profile has them; what else is in the compound always does."""
    report = sender_report(sender.ssrc)
    both = feedback(1, 205, sender.ssrc) + feedback(1, 206, sender.ssrc)
    if sender.protocol.endswith("F"):
        await rtcp_heard(sender, receiver, report + both, report + both * receiver.protocol.endswith("F"))


@pytest.mark.parametrize("callee", PROFILES)
@pytest.mark.parametrize("caller", PROFILES)
async def test_pair(live_call: MakeLiveCall, caller: str, callee: str) -> None:
    dialogue = live_call(speaks(caller), speaks(callee))
    await dialogue.set_up()
    one, other = dialogue.sides
    assert one.remote and other.remote
    assert (one.remote.protocol, other.remote.protocol) == (caller, callee)
    await both_hear(dialogue)
    await feedback_heard(one, other)
    await feedback_heard(other, one)
    await both_hear(dialogue)
    for party, media in ((dialogue.caller, one), (dialogue.callee, other)):
        suites = [stream.get("crypto suite") for stream in dialogue.streams(party)]
        assert all(bool(suite) == media.secure for suite in suites), suites


@pytest.mark.parametrize("callee", PROFILES)
@pytest.mark.parametrize("browser_calls", [True, False], ids=["browser calls", "browser is called"])
async def test_browser(live_call: MakeLiveCall, callee: str, browser_calls: bool) -> None:
    """ICE, DTLS and rtcp-mux on one side only."""
    sides = [browser(), speaks(callee)]
    dialogue = await live_call(*sides[:: 1 if browser_calls else -1]).set_up()
    await both_hear(dialogue)
    one, other = dialogue.sides
    await feedback_heard(one, other)
    await feedback_heard(other, one)


async def test_browser_to_browser(live_call: MakeLiveCall) -> None:
    await both_hear(await live_call(browser(), browser()).set_up())


@pytest.mark.parametrize("mux", [True, False])
@pytest.mark.parametrize("protocol", ["RTP/AVP", "RTP/SAVP"])
async def test_checks_of_two_full_agents_are_relayed(live_call: MakeLiveCall, protocol: str, mux: bool) -> None:
    """Nobody needs us to convert anything: their ICE stays their own, and we are one more candidate (ice.md 1)."""
    sides = [speaks(protocol, ice=fresh_credentials(), mux=mux) for _ in range(2)]
    dialogue = live_call(*sides)
    keys: dict[str, Any] = {"ICE": "optional", "DTLS": "off"}
    dialogue.offer(**keys)
    dialogue.answer(**keys)
    one, other = dialogue.sides
    assert (one.ice_remote, other.ice_remote) == (other.ice, one.ice)
    await dialogue.connected()
    assert all(channel.checks for media in dialogue.sides for channel in media.used)
    assert all(
        check == channel.remote for media in dialogue.sides for channel in media.used for check in channel.checks
    )
    await both_hear(dialogue)


@pytest.mark.parametrize("lite", [0, 1], ids=["caller", "callee"])
async def test_checks_to_a_lite_agent_are_relayed(live_call: MakeLiveCall, lite: int) -> None:
    """It waits for the checks of the other party, so we have to find it without any of its own."""
    sides = [speaks("RTP/AVP", ice=fresh_credentials(), lite=side == lite) for side in range(2)]
    dialogue = live_call(*sides)
    parties = dialogue.caller, dialogue.callee
    parties[lite].session_lines = ["a=ice-lite"]
    dialogue.offer(ICE="optional")
    dialogue.answer(ICE="optional")
    await dialogue.connected()
    assert all(channel.checks for channel in dialogue.sides[lite].used)
    await both_hear(dialogue)


@pytest.mark.parametrize("mux", [(True, False), (False, True), (True, True)], ids=["caller", "callee", "both"])
@pytest.mark.parametrize("callee", ["RTP/AVPF", "RTP/SAVPF", "UDP/TLS/RTP/SAVPF"])
@pytest.mark.parametrize("caller", ["RTP/AVPF", "RTP/SAVPF", "UDP/TLS/RTP/SAVPF"])
async def test_rtcp_mux(live_call: MakeLiveCall, caller: str, callee: str, mux: tuple[bool, bool]) -> None:
    dialogue = await live_call(speaks(caller, mux=mux[0]), speaks(callee, mux=mux[1])).set_up()
    assert tuple(media.mux for media in dialogue.sides) == mux
    await both_hear(dialogue)


@pytest.mark.parametrize("families", [(4, 6), (6, 4), (6, 6)])
async def test_families(live_call: MakeLiveCall, families: tuple[int, int]) -> None:
    await both_hear(await live_call(browser(), speaks("RTP/AVP"), families).set_up())
    await both_hear(await live_call(speaks("RTP/SAVP"), browser(), families).set_up())


@pytest.mark.parametrize("setup", ["actpass", "active", "passive"])
@pytest.mark.parametrize("role", ["active", "passive"])
async def test_dtls_roles(live_call: MakeLiveCall, setup: str, role: str) -> None:
    dialogue = await live_call(speaks(DTLS[1], setup=setup), speaks(DTLS[1], role=role)).set_up()
    await both_hear(dialogue)


@pytest.mark.parametrize("protocol", SDES)
async def test_dtls_over_the_older_profile_name(live_call: MakeLiveCall, protocol: str) -> None:
    """RTP/SAVP(F) with a=fingerprint and no a=crypto, as browsers once wrote it."""
    dialogue = await live_call(speaks(protocol, dtls=Identity()), speaks("RTP/AVP")).set_up()
    await both_hear(dialogue)


# SDES: suites, MKI


@pytest.mark.parametrize("suite", SUITES)
async def test_suite_to_plain_rtp(live_call: MakeLiveCall, suite: str) -> None:
    dialogue = await live_call(speaks("RTP/SAVP", sdes=Sdes([suite])), speaks("RTP/AVP")).set_up()
    await both_hear(dialogue)
    assert dialogue.streams(dialogue.caller)[0]["crypto suite"] == suite


@pytest.mark.parametrize("suite", SUITES)
async def test_equal_suites(live_call: MakeLiveCall, suite: str) -> None:
    dialogue = await live_call(speaks("RTP/SAVP", sdes=Sdes([suite])), speaks("RTP/SAVP", sdes=Sdes([suite]))).set_up()
    one, other = dialogue.sides
    assert one.sdes and other.sdes
    assert (one.sdes.sending, one.sdes.receiving) == (other.sdes.receiving, other.sdes.sending), "keys are passed on"
    await both_hear(dialogue)


@pytest.mark.parametrize(
    ("caller", "callee"),
    [
        (["AEAD_AES_256_GCM"], "AES_CM_128_HMAC_SHA1_80"),
        (["AES_256_CM_HMAC_SHA1_80"], "AES_CM_128_HMAC_SHA1_80"),
        (["AES_CM_128_HMAC_SHA1_32", "AEAD_AES_128_GCM"], "AES_CM_128_HMAC_SHA1_80"),
        (["AES_CM_128_HMAC_SHA1_32", "AEAD_AES_128_GCM"], "AEAD_AES_128_GCM"),
    ],
)
async def test_different_suites(live_call: MakeLiveCall, caller: list[str], callee: str) -> None:
    """Each side with what it can: its own suite, or the common one of several."""
    sides = speaks("RTP/SAVP", sdes=Sdes(caller)), speaks("RTP/SAVP", sdes=Sdes(list(SUITES), choose=callee))
    dialogue = await live_call(*sides).set_up()
    one, other = dialogue.sides
    assert one.sdes and one.sdes.sending and other.sdes and other.sdes.sending
    assert other.sdes.sending.suite == callee
    assert one.sdes.sending.suite == (callee if callee in caller else caller[0])
    await both_hear(dialogue)


@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AEAD_AES_128_GCM"])
@pytest.mark.parametrize("other", ["RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVP"])
async def test_mki(live_call: MakeLiveCall, suite: str, other: str) -> None:
    caller = speaks("RTP/SAVP", sdes=Sdes([suite], mki=b"\0\0\4\x2a"))
    dialogue = await live_call(caller, speaks(other, **{"sdes": Sdes([suite])} if other in SDES else {})).set_up()
    await both_hear(dialogue)


@pytest.mark.parametrize("profile", ["AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AEAD_AES_128_GCM",
                                     "AEAD_AES_256_GCM"])  # fmt: skip
async def test_dtls_profiles(live_call: MakeLiveCall, profile: str) -> None:
    dialogue = await live_call(browser(srtp_profiles=[profile]), speaks("RTP/AVP")).set_up()
    await both_hear(dialogue)
    assert dialogue.streams(dialogue.caller)[0]["crypto suite"] == profile


# BUNDLE


async def test_bundle_is_taken_apart(live_call: MakeLiveCall) -> None:
    """Both sections of the browser are on one port of its own; each has a port of ours, and packets do not mix."""
    dialogue = live_call([browser(lines=["a=mid:0"]), browser(kind="video", formats="96", lines=["a=mid:1"])],
                         [speaks("RTP/AVP"), speaks("RTP/AVP", kind="video", formats="96")])  # fmt: skip
    dialogue.caller.session_lines = ["a=group:BUNDLE 0 1"]
    offered = dialogue.offer()
    answered = dialogue.answer()
    assert len({section.port for section in offered}) == len({section.port for section in answered}) == 2
    assert [section.value("mid") for section in answered] == ["0", "1"]
    await dialogue.connected()
    for one, other in zip(dialogue.caller.media, dialogue.callee.media, strict=True):
        assert isinstance(one, Live) and isinstance(other, Live)
        for sender, receiver in ((one, other), (other, one)):
            await heard(sender, receiver)
            await rtcp_heard(sender, receiver)


# What changes in a call


async def _again(dialogue: LiveDialogue, **keys: Any) -> None:
    """A re-INVITE, after which everything must work."""
    await dialogue.set_up(**keys)
    await both_hear(dialogue)


@pytest.mark.parametrize("other", ["RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVP"])
async def test_re_invite_without_change(live_call: MakeLiveCall, other: str) -> None:
    """Same keys, same associations; indices go on, since libsrtp would refuse what begins anew."""
    dialogue = await live_call(speaks("RTP/SAVP"), speaks(other)).set_up()
    await both_hear(dialogue)
    before = [[channel.association for channel in media.channels] for media in dialogue.sides]
    for _ in range(2):
        await _again(dialogue)
    assert [[channel.association for channel in media.channels] for media in dialogue.sides] == before


@pytest.mark.parametrize("other", ["RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVP"])
async def test_sdes_keys_change(live_call: MakeLiveCall, other: str) -> None:
    dialogue = await live_call(speaks("RTP/SAVP"), speaks(other)).set_up()
    await both_hear(dialogue)
    one, _ = dialogue.sides
    assert one.sdes
    one.sdes.rekey()
    await _again(dialogue)


@pytest.mark.parametrize("other", ["RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVP"])
async def test_the_former_key_until_the_answer_arrives(live_call: MakeLiveCall, other: str) -> None:
    """A new key in each re-INVITE: the caller learns last that it is agreed, and has not been silent meanwhile."""
    dialogue = await live_call(speaks("RTP/SAVP"), speaks(other)).set_up()
    await both_hear(dialogue)
    one, listener = dialogue.sides
    assert one.sdes
    one.sdes.rekey()
    former = [channel.sender for channel in one.channels]
    dialogue.place()
    agreed = [channel.sender for channel in one.channels]
    assert former[0] is not agreed[0]
    for senders in (former, agreed):
        for channel, sender in zip(one.channels, senders, strict=True):
            channel.sender = sender
        await heard(one, listener)
        await rtcp_heard(one, listener)
    await both_hear(dialogue)


async def test_callee_changes_its_keys_in_its_own_re_invite(live_call: MakeLiveCall) -> None:
    dialogue = await live_call(speaks("RTP/SAVP"), speaks("RTP/SAVP")).set_up()
    await both_hear(dialogue)
    _, other = dialogue.sides
    assert other.sdes
    other.sdes.rekey()
    dialogue.offer(dialogue.callee)
    dialogue.answer(dialogue.caller)
    await both_hear(dialogue)


@pytest.mark.parametrize("other", ["RTP/AVP", "RTP/SAVP"])
async def test_downgrade_and_upgrade(live_call: MakeLiveCall, other: str) -> None:
    """SAVP to AVP in a re-INVITE, and back."""
    dialogue = await live_call(speaks("RTP/SAVP"), speaks(other)).set_up()
    await both_hear(dialogue)
    one, _ = dialogue.sides
    for one.protocol, one.sdes in (("RTP/AVP", None), ("RTP/SAVP", Sdes())):
        for channel in one.channels:
            channel.sender = channel.receiver = None
        await _again(dialogue)


@pytest.mark.parametrize("ice", [True, False], ids=["ICE", "no ICE"])
@pytest.mark.parametrize("other", ["RTP/AVP", "RTP/SAVP", "UDP/TLS/RTP/SAVP"])
async def test_another_certificate_is_another_association(live_call: MakeLiveCall, other: str, ice: bool) -> None:
    dialogue = await live_call(browser() if ice else speaks(DTLS[1]), speaks(other)).set_up()
    await both_hear(dialogue)
    one, _ = dialogue.sides
    one.dtls = Identity()
    await _again(dialogue)


async def test_dtls_party_moves(live_call: MakeLiveCall) -> None:
    """Another port without ICE is another association (RFC 5763 6.6)."""
    dialogue = await live_call(speaks(DTLS[1]), speaks("RTP/AVP")).set_up()
    await both_hear(dialogue)
    old, _ = dialogue.sides
    old.detach()
    dialogue.caller.media.clear()
    dialogue.caller.add(make=Live, **speaks(DTLS[1]))
    await _again(dialogue)
    old.mux = False
    for sock in old.sockets:
        sock.close()


@pytest.mark.parametrize("restarts", [True, False])
@pytest.mark.parametrize("other", ["RTP/AVP", "UDP/TLS/RTP/SAVPF"])
async def test_ice_restart(live_call: MakeLiveCall, other: str, restarts: bool) -> None:
    """Other credentials of the browser are answered by others of ours, and DTLS goes on (RFC 8842 5.4)."""
    dialogue = await live_call(browser(), speaks(other)).set_up()
    await both_hear(dialogue)
    one, _ = dialogue.sides
    remote, association = one.ice_remote, one.channels[0].association
    assert remote
    if restarts:
        one.ice = fresh_credentials()
    await _again(dialogue)
    assert one.channels[0].association is association
    assert (one.ice_remote != remote) == restarts
    if restarts:
        channel = one.channels[0]
        channel.responses.clear()
        channel.send_all([stunclient.check(one.ice, remote)])
        assert await until(lambda: channel.responses), "the old password is no password any more"
        assert channel.responses[0].code == 401


async def test_re_invite_by_the_other_party_restarts_nothing(live_call: MakeLiveCall) -> None:
    dialogue = await live_call(browser(), speaks("RTP/AVP")).set_up()
    await both_hear(dialogue)
    one, _ = dialogue.sides
    remote, association = one.ice_remote, one.channels[0].association
    dialogue.offer(dialogue.callee)
    dialogue.answer(dialogue.caller)
    await dialogue.connected()
    await both_hear(dialogue)
    assert (one.ice_remote, one.channels[0].association) == (remote, association)


def offer_fax(dialogue: LiveDialogue, caller: Party, distance: int) -> None:
    """A re-INVITE to T.38, which the other party refuses: nobody tells the relay of that."""
    other = dialogue.callee if caller is dialogue.caller else dialogue.caller
    assert isinstance(other.audio, Live)
    lines = ["v=0", f"o=- 1 3 IN IP4 {caller.audio.address}", "s=-", f"c=IN IP4 {caller.audio.address}", "t=0 0"]
    lines += [f"m=image {caller.audio.port + distance} udptl t38", "a=T38FaxVersion:0", ""]
    dialogue.ng.ok(
        "offer",
        call_id=dialogue.call_id,
        from_tag=caller.tag,
        sdp="\r\n".join(lines),
        flags=["trust-address"],
        ICE="force" if other.audio.ice else "remove",
    )


@pytest.mark.parametrize("distance", [0, 10], ids=["same port", "another port"])
@pytest.mark.parametrize("who", ["caller", "callee"])
@pytest.mark.parametrize(
    ("caller", "callee"), [("RTP/SAVP", "RTP/AVP"), (DTLS[1], "RTP/AVP"), (DTLS[1], "RTP/SAVP"), ("browser", "RTP/AVP")]
)
async def test_a_refused_fax_changes_nothing(
    live_call: MakeLiveCall, caller: str, callee: str, who: str, distance: int
) -> None:
    dialogue = await live_call(browser() if caller == "browser" else speaks(caller), speaks(callee)).set_up()
    await both_hear(dialogue)
    associations = [channel.association for channel in dialogue.sides[0].channels]
    offer_fax(dialogue, getattr(dialogue, who), distance)
    one, other = dialogue.sides
    first, second = (one, other) if who == "caller" else (other, one)
    await heard(first, second)
    await heard(second, first)
    await _again(dialogue)
    dialogue.offer(dialogue.callee)
    dialogue.answer(dialogue.caller)
    await both_hear(dialogue)
    assert [channel.association for channel in dialogue.sides[0].channels] == associations


@pytest.mark.parametrize("make", [speaks, browser], ids=["SDES", "browser"])
async def test_reset(live_call: MakeLiveCall, make: Callable[..., dict[str, Any]]) -> None:
    """The recipient is a new device: nothing that was agreed with the old one is left."""
    callee = browser() if make is browser else speaks("RTP/SAVP")
    dialogue = await live_call(speaks("RTP/AVP"), callee).set_up()
    await both_hear(dialogue)
    _, old = dialogue.sides
    said = replace(old.remote) if old.remote else None
    old.detach()
    dialogue.callee.media.clear()
    dialogue.callee.add(make=Live, **(browser() if make is browser else speaks("RTP/SAVP")))
    try:
        await _again(dialogue, flags=["trust-address", "reset"])
    finally:
        for sock in old.sockets:
            sock.close()
    _, new = dialogue.sides
    assert said and new.remote
    for name in ("ice-pwd", "ice-ufrag") if make is browser else ("crypto",):
        assert new.remote.value(name) != said.value(name)


@pytest.mark.parametrize("caller", ["RTP/SAVP", "UDP/TLS/RTP/SAVPF"])
@pytest.mark.parametrize("line", ["a=sendonly", "a=inactive", "null address"])
async def test_hold_and_resume(live_call: MakeLiveCall, caller: str, line: str) -> None:
    dialogue = await live_call(speaks(caller), speaks("RTP/AVP")).set_up()
    await both_hear(dialogue)
    one, other = dialogue.sides
    one.said_address = "0.0.0.0" if line == "null address" else None
    one.lines = [] if one.said_address else [line]
    dialogue.place()
    if one.said_address:
        await nothing_passes(other, one)
    one.said_address, one.lines = None, []
    await _again(dialogue)


@pytest.mark.parametrize("callee", ["RTP/SAVP", "UDP/TLS/RTP/SAVPF"])
async def test_fork_with_two_answers(live_call: MakeLiveCall, callee: str) -> None:
    """The same offer reaches two phones: the one that answers last is the one that talks."""
    dialogue = live_call(speaks("RTP/AVP"), speaks(callee))
    second = live_call(speaks("RTP/AVP"), speaks(callee))
    fork = LiveDialogue(dialogue.ng, dialogue.caller, second.callee, dialogue.call_id)
    (section,) = dialogue.offer()
    other = fork.callee.audio
    other.to_answer = True
    other.told(section)
    for branch in (dialogue, fork):
        branch.answer()
        await branch.connected()
        await both_hear(branch)


# What must not work


async def _unverified(dialogue: LiveDialogue, culprit: Live) -> None:
    one, other = dialogue.sides
    failed = "failed: the certificate does not match the fingerprint"
    assert await until(lambda: dialogue.streams(dialogue.caller)[0].get("DTLS") == failed)
    for sender, receiver in ((one, other), (other, one)):
        if not sender.secure or sender.channels[0].sender:
            await nothing_passes(sender, receiver)
    assert not culprit.heard


@pytest.mark.parametrize("role", ["active", "passive"])
@pytest.mark.parametrize("ice", [True, False], ids=["ICE", "no ICE"])
async def test_wrong_fingerprint(live_call: MakeLiveCall, role: str, ice: bool) -> None:
    """Somebody else's certificate: no media, and query says so."""
    about = browser() if ice else speaks(DTLS[1])
    setup = {"active": "passive", "passive": "active"}[role]
    said = fingerprint(Identity().certificate)
    dialogue = live_call({**about, "setup": setup, "said_fingerprint": said}, speaks("RTP/AVP"))
    dialogue.place()
    await _unverified(dialogue, dialogue.sides[0])


async def test_plain_rtp_is_not_relayed_between_secure_parties(live_call: MakeLiveCall) -> None:
    dialogue = await live_call(speaks("RTP/SAVP"), speaks("RTP/SAVP")).set_up()
    await both_hear(dialogue)
    one, other = dialogue.sides
    other.forget()
    for _ in range(5):
        one.channels[0].send_all([one.rtp_packet()])
    await asyncio.sleep(0.1)
    assert not other.raw
    await both_hear(dialogue)
    drops = dialogue.streams(dialogue.caller)[0]["stats"]["drops"]
    assert sum(drops.values()) == 5
