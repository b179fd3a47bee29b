"""SDES and DTLS between offer and answer: who is told which keys, and which are in use then."""

from __future__ import annotations

from itertools import count

import pytest

from rtpengine.keying import Keying, Tools, answer_to, answered, does_dtls, offered
from rtpengine.media import CryptoLine, Endpoint, Fingerprint, MediaOffer, SdesPolicy, Signalling, SrtpKeys
from rtpengine.srtp import SUITES

CM80, CM32, AES256, F8 = (
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AES_256_CM_HMAC_SHA1_80",
    "F8_128_HMAC_SHA1_80",
)
HOW = Signalling()
A, A2 = Endpoint("203.0.113.1", 4000), Endpoint("203.0.113.7", 4700)
PRINT, PRINT2 = Fingerprint("sha-256", bytes(32)), Fingerprint("sha-256", bytes([1]) * 32)


@pytest.fixture
def tools() -> Tools:
    numbers = count(1)
    return Tools(lambda n: bytes([next(numbers)]) * n, lambda: pytest.fail("no certificate is needed"), ("f", "g"))  # type: ignore[arg-type, return-value]


def keys(suite: str = CM80, fill: int = 200, **flags: bool) -> SrtpKeys:
    return SrtpKeys(suite, bytes([fill]) * SUITES[suite].key_len, bytes([fill]) * SUITES[suite].salt_len, **flags)


def line(tag: int = 1, suite: str = CM80, fill: int = 200, **flags: bool) -> CryptoLine:
    return CryptoLine(tag, keys(suite, fill, **flags))


def said(*crypto: CryptoLine, kind: str = "audio", setup: str | None = None, **changes: object) -> MediaOffer:
    fingerprints = (PRINT,) if setup else ()
    values = {"fingerprints": fingerprints, "setup": setup, "crypto": crypto, **changes}
    endpoint = values.pop("endpoint", A)
    return MediaOffer(kind, endpoint, None, "RTP/SAVP", **values)  # type: ignore[arg-type]


def offer(known: Keying, asking: MediaOffer, tools: Tools, how: Signalling = HOW, protocol: str = "RTP/SAVP") -> Keying:
    return offered(known, asking, protocol, how, tools, same_feedback=True)


def reply(known: Keying, asked: MediaOffer, other: Keying, tools: Tools, how: Signalling = HOW) -> Keying:
    return answer_to(known, asked, other, how, tools, same_feedback=True)


def suites(keying: Keying) -> list[str]:
    return [line.keys.suite for line in keying.told]


PLAIN = MediaOffer("audio", A, None, "RTP/AVP")


def test_a_plain_offer_becomes_one_line_and_dtls(tools: Tools) -> None:
    told = offer(Keying(), PLAIN, tools)
    assert [(ours.tag, ours.keys.suite) for ours in told.told] == [(1, CM80)]
    assert told.role == "passive" and told.send is None


@pytest.mark.parametrize(
    ("protocol", "how", "lines", "role"),
    [
        ("UDP/TLS/RTP/SAVPF", HOW, 0, "passive"),
        ("UDP/TLS/RTP/SAVPF", Signalling(dtls="off"), 1, ""),
        ("RTP/SAVPF", Signalling(dtls="off"), 1, ""),
        ("RTP/SAVPF", Signalling(sdes=SdesPolicy(off=True)), 0, "passive"),
        ("RTP/SAVPF", Signalling(dtls="off", sdes=SdesPolicy(off=True)), 0, ""),
        ("RTP/SAVP", Signalling(dtls="active"), 1, "passive"),
    ],
)
def test_what_is_offered(tools: Tools, protocol: str, how: Signalling, lines: int, role: str) -> None:
    told = offer(Keying(), PLAIN, tools, how, protocol)
    assert (len(told.told), told.role) == (lines, role)


@pytest.mark.parametrize(
    ("policy", "asking", "expected"),
    [
        (SdesPolicy(), said(line(5)), [CM80]),
        (SdesPolicy(), said(line(1, AES256), line(2)), [AES256, CM80]),
        (SdesPolicy(), said(line(1, AES256)), [AES256, CM80]),
        (SdesPolicy(fresh_keys=False), said(line(1, AES256)), [AES256]),
        (SdesPolicy(fresh_keys=False), PLAIN, [CM80]),
        (SdesPolicy(without=frozenset([AES256])), said(line(1, AES256), line(2)), [CM80]),
        (SdesPolicy(only=frozenset([CM32])), said(line(1, AES256)), [CM32]),
        (SdesPolicy(order=(CM32, CM80)), PLAIN, [CM32, CM80]),
        (SdesPolicy(order=(CM80,)), said(line(1, AES256), line(2)), [CM80, AES256]),
        (SdesPolicy(), said(line(1, CM32), kind="video"), [CM80]),
        (SdesPolicy(), said(line(1, F8)), [CM80]),
        (SdesPolicy(), said(line(1, unencrypted_srtp=True)), [CM80]),
    ],
)
def test_the_suites_offered(tools: Tools, policy: SdesPolicy, asking: MediaOffer, expected: list[str]) -> None:
    told = offer(Keying(), asking, tools, Signalling(sdes=policy))
    assert suites(told) == expected
    assert [ours.tag for ours in told.told] == list(range(1, len(expected) + 1))


def test_keys_are_passed_on_and_come_back(tools: Tools) -> None:
    a_says = said(line(3, CM80, 10), line(4, AES256, 11))
    b = offer(Keying(), a_says, tools)
    assert [ours.keys for ours in b.told] == [keys(CM80, 10), keys(AES256, 11)]
    b = answered(b, said(line(2, AES256, 20)))
    assert (b.receive, b.send) == (keys(AES256, 20), keys(AES256, 11))
    a = reply(Keying(), a_says, b, tools)
    assert a.told == (line(4, AES256, 20),)
    assert (a.receive, a.send) == (keys(AES256, 11), keys(AES256, 20))


def test_keys_are_not_passed_on_where_rtcp_is_cut(tools: Tools) -> None:
    b = offered(Keying(), said(line(1, CM80, 10)), "RTP/SAVP", HOW, tools, same_feedback=False)
    assert b.told[0].keys != keys(CM80, 10)
    b = answered(b, said(line(1, CM80, 20)))
    a = answer_to(Keying(), said(line(1, CM80, 10)), b, HOW, tools, same_feedback=False)
    assert a.send not in (keys(CM80, 20), keys(CM80, 10), b.send)


@pytest.mark.parametrize(
    ("answer", "in_use"),
    [
        (said(line(1, CM80, 20)), True),
        (said(line(9, CM80, 20)), True),  # a tag of its own
        (said(line(1, AES256, 20)), False),  # never offered
        (said(), False),
        (said(line(1, CM80, 20, unencrypted_srtp=True)), False),
    ],
)
def test_an_answer_counts_only_as_a_choice_of_what_was_offered(tools: Tools, answer: MediaOffer, in_use: bool) -> None:
    b = answered(offer(Keying(), PLAIN, tools), answer)
    assert (b.receive is not None, b.send is not None) == (in_use, in_use)
    assert b.role == ""


def test_a_reoffer_offers_the_choice_again_with_the_same_keys(tools: Tools) -> None:
    b = answered(offer(Keying(), PLAIN, tools), said(line(1, CM80, 20)))
    again = offer(b, PLAIN, tools)
    assert again.told == (CryptoLine(1, b.send),)  # type: ignore[arg-type]
    assert again.role == ""


def test_a_copied_key_is_not_ours_to_use(tools: Tools) -> None:
    b = answered(offer(Keying(), said(line(1, CM80, 10)), tools), said(line(1, CM80, 20)))
    again = offer(b, PLAIN, tools)
    assert again.told[0].keys.suite == CM80
    assert again.told[0].keys != keys(CM80, 10)


def test_a_new_key_of_the_offerer_is_passed_on(tools: Tools) -> None:
    b = answered(offer(Keying(), said(line(1, CM80, 10)), tools), said(line(1, CM80, 20)))
    assert offer(b, said(line(1, CM80, 11)), tools).told == (line(1, CM80, 11),)


def test_an_offerer_with_sdes_keeps_its_key_while_the_other_side_does_dtls(tools: Tools) -> None:
    a_says = said(line(7, CM80, 10))
    b = answered(offer(Keying(), a_says, tools), said(setup="passive"))
    assert (b.role, b.receive) == ("active", None)
    a = reply(Keying(), a_says, b, tools)
    assert a.told[0].tag == 7 and a.send is not None
    assert reply(a, a_says, b, tools).send == a.send


@pytest.mark.parametrize(
    ("setup", "how", "role"),
    [
        ("actpass", HOW, "active"),
        ("actpass", Signalling(dtls="passive"), "passive"),
        ("actpass", Signalling(dtls="active"), "active"),
        ("active", HOW, "passive"),
        ("passive", Signalling(dtls="passive"), "active"),
        ("holdconn", HOW, ""),
    ],
)
def test_our_role_in_an_answer(tools: Tools, setup: str, how: Signalling, role: str) -> None:
    assert reply(Keying(), said(setup=setup), Keying(), tools, how).role == role


@pytest.mark.parametrize(("setup", "role"), [("active", "passive"), ("passive", "active"), ("actpass", "active")])
def test_our_role_after_an_answer(tools: Tools, setup: str, role: str) -> None:
    b = answered(offer(Keying(), PLAIN, tools, HOW, "UDP/TLS/RTP/SAVPF"), said(setup=setup))
    assert (b.role, b.fingerprints) == (role, (PRINT,))


def test_dtls_wins_over_sdes_unless_it_is_switched_off(tools: Tools) -> None:
    both = said(line(1), setup="actpass")
    assert reply(Keying(), both, Keying(), tools).role == "active"
    sdes = reply(Keying(), both, Keying(), tools, Signalling(dtls="off"))
    assert sdes.role == "" and sdes.send is not None
    assert reply(Keying(), said(setup="actpass"), Keying(), tools, Signalling(dtls="off")).role == "active"


@pytest.mark.parametrize(
    ("later", "anew"),
    [
        (said(setup="actpass"), False),
        (said(setup="actpass", fingerprints=(PRINT2,)), True),
        (said(setup="actpass", fingerprints=(PRINT, PRINT2)), True),
        (said(setup="actpass", tls_id="another"), True),
        (said(setup="actpass", endpoint=A2), True),
        (said(setup="actpass", endpoint=Endpoint("0.0.0.0", 4000)), False),
    ],
)
def test_when_an_association_begins_anew(tools: Tools, later: MediaOffer, anew: bool) -> None:
    first = reply(Keying(), said(setup="active"), Keying(), tools)
    second = reply(first, later, Keying(), tools)
    assert (second.association != first.association) == anew
    # the roles stay while the association does (RFC 8842 5.3)
    assert second.role == ("active" if anew else "passive")


def test_an_association_is_named_to_who_names_it(tools: Tools) -> None:
    assert reply(Keying(), said(setup="active"), Keying(), tools).told_tls_id is None
    first = reply(Keying(), said(setup="active", tls_id="one"), Keying(), tools)
    assert first.told_tls_id is not None and len(first.told_tls_id) >= 20
    assert reply(first, said(setup="active", tls_id="one"), Keying(), tools).told_tls_id == first.told_tls_id
    assert reply(first, said(setup="active", tls_id="two"), Keying(), tools).told_tls_id != first.told_tls_id


def test_who_has_answered_by_dtls_is_offered_nothing_else(tools: Tools) -> None:
    b = answered(offer(Keying(), PLAIN, tools), said(setup="active"))
    again = offer(b, PLAIN, tools)
    assert (again.told, again.role, again.association) == ((), "passive", b.association)
    without = offer(b, PLAIN, tools, Signalling(dtls="off"))
    assert (suites(without), without.role, without.fingerprints) == ([CM80], "", ())


@pytest.mark.parametrize(
    ("offer_", "does"),
    [(said(setup="actpass"), True), (said(setup="holdconn"), False), (said(setup="active", fingerprints=()), False)],
)
def test_who_does_dtls(offer_: MediaOffer, does: bool) -> None:
    assert does_dtls(offer_) == does


def test_session_parameters_are_asked_for_by_flag(tools: Tools) -> None:
    how = Signalling(sdes=SdesPolicy(unencrypted_srtp=True))
    b = offer(Keying(), PLAIN, tools, how)
    assert b.told[0].keys.unencrypted_srtp
    assert answered(b, said(line(1, CM80, 20))).send is None
    assert answered(b, said(line(1, CM80, 20, unencrypted_srtp=True))).send == b.told[0].keys
