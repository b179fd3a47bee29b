"""Which streams the kernel can forward, and with what; no kernel, no packet path."""

from __future__ import annotations

from typing import Any

import pytest
from rtpengine._packetpath import lib

from rtpengine import targets
from rtpengine.media import MAX_SOURCES, Endpoint, Sources, SrtpKeys, StreamConfig
from rtpengine.srtp import SUITES
from rtpengine.targets import Cipher, End, SrtpSession, Target, target_for

CHANGED = 100.0
NOW = CHANGED + targets.SETTLE_S
OURS_A, OURS_B = Endpoint("198.51.100.2", 30000), Endpoint("2001:db8::2", 30002)
A, B = Endpoint("192.0.2.10", 4000), Endpoint("2001:db8::20", 5000)
ONE, FOUR = Sources(1), Sources(4)


def keys(suite: str, **more: Any) -> SrtpKeys:
    return SrtpKeys(suite, b"k" * SUITES[suite].key_len, b"s" * SUITES[suite].salt_len, **more)


CM80 = keys("AES_CM_128_HMAC_SHA1_80")


def derive(given: SrtpKeys, label: int, length: int) -> bytes:
    """Session keys that tell what they were made of."""
    return f"{given.suite[:5]} {label} ".encode().ljust(length, b".")


def end(side: str, config: dict[str, Any] | None = None, **more: Any) -> End:
    """The socket that faces A or B, plain and confirmed unless said otherwise."""
    local, peer = (OURS_A, A) if side == "a" else (OURS_B, B)
    given = StreamConfig(**{"peer": peer, "rtp_sink": 1, "rtcp_sink": 1, **(config or {})})
    values = {"receive": None, "send": None, "source": peer, "peer": peer, "confirmed": True}
    values |= {"received": Sources(), "sent": Sources(), "changed": CHANGED, **more}
    return End(local=local, config=given, **values)


def secure(side: str, given: SrtpKeys | None = CM80, **more: Any) -> End:
    return end(side, {"secure": True}, **{"receive": given, "send": given, "received": ONE, "sent": FOUR, **more})


def decide(here: End, there: End | None, now: float = NOW) -> Target | str:
    return target_for(here, there, 184, derive, now)


PLAIN = Target(OURS_A, A, OURS_B, B, 184, rtcp_mux=False, dtls=False, decrypt=None, encrypt=None)
SESSION = SrtpSession(Cipher.AES_CM, 10, b"AES_C 0 ".ljust(16, b"."), b"AES_C 1 ".ljust(20, b"."),
                      b"AES_C 2 ".ljust(14, b"."), b"", ONE)  # fmt: skip


@pytest.mark.parametrize(
    ("here", "there", "target"),
    [
        (end("a"), end("b"), PLAIN),
        (end("b"), end("a"), Target(OURS_B, B, OURS_A, A, 184, False, False, None, None)),
        (end("a", {"rtcp_mux": True, "dtls": True}), end("b"), PLAIN._replace(rtcp_mux=True, dtls=True)),
        (end("a", source=Endpoint("192.0.2.99", 7)), end("b"), PLAIN._replace(expect=Endpoint("192.0.2.99", 7))),
        (end("a", peer=None), end("b"), PLAIN),
        (end("a", {"muted": True}), end("b"), PLAIN),
        (end("a"), end("b", peer=A), PLAIN._replace(destination=A)),
        (secure("a"), end("b"), PLAIN._replace(decrypt=SESSION)),
        (end("a"), secure("b"), PLAIN._replace(encrypt=SESSION._replace(sources=FOUR))),
        (secure("a"), secure("b"), PLAIN._replace(decrypt=SESSION, encrypt=SESSION._replace(sources=FOUR))),
        (secure("a", send=None, sent=Sources(99)), end("b"), PLAIN._replace(decrypt=SESSION)),
        (
            end("a"),
            secure("b", receive=None, received=Sources()),
            PLAIN._replace(encrypt=SESSION._replace(sources=FOUR)),
        ),
        (end("a", receive=CM80, received=ONE), end("b"), PLAIN),
    ],
)
def test_a_stream_for_the_kernel(here: End, there: End, target: Target) -> None:
    assert decide(here, there) == target


GCM = keys("AEAD_AES_128_GCM")
BARE = keys("NULL_HMAC_SHA1_80", unauthenticated_srtp=True)


@pytest.mark.parametrize(
    ("here", "there", "now", "reason"),
    [
        (end("a"), None, NOW, targets.NO_RECEIVER),
        (end("a", {"rtp": False}), None, NOW, targets.NOT_RTP),
        (end("a", {"rtp": False}), end("b"), NOW, targets.NOT_RTP),
        (end("a"), end("b", {"muted": True}), NOW, targets.ON_HOLD),
        (end("a")._replace(local=Endpoint("0.0.0.0", 4)), end("b"), NOW, targets.NO_ADDRESS),
        (end("a"), end("b")._replace(local=Endpoint("::", 4)), NOW, targets.NO_ADDRESS),
        (secure("a", None), end("b"), NOW, targets.NO_KEYS),
        (end("a"), secure("b", None), NOW, targets.NO_KEYS),
        (secure("a", GCM), end("b"), NOW, "the kernel module has no AEAD_AES_128_GCM"),
        (end("a"), secure("b", GCM), NOW, "the kernel module has no AEAD_AES_128_GCM"),
        (secure("a", BARE), end("b"), NOW, targets.UNPROTECTED),
        (secure("a", BARE._replace(suite="AES_CM_128_HMAC_SHA1_80", unencrypted_srtp=True)), end("b"), NOW,
         targets.UNPROTECTED),
        (end("a"), end("b"), NOW - 0.001, targets.SETTLING),
        (end("a"), end("b", changed=CHANGED + 1), NOW, targets.SETTLING),
        (end("a", confirmed=False), end("b"), NOW, targets.NO_SOURCE),
        (end("a", source=None), end("b"), NOW, targets.NO_SOURCE),
        (end("a"), end("b", confirmed=False), NOW, targets.NO_DESTINATION),
        (end("a"), end("b", peer=None), NOW, targets.NO_DESTINATION),
        (end("a"), end("b", peer=Endpoint("::", 4)), NOW, targets.NO_DESTINATION),
        (end("b", source=Endpoint("fe80::1", 4)), end("a"), NOW, targets.LINK_LOCAL),
        (end("a"), end("b", peer=Endpoint("febf::1", 4)), NOW, targets.LINK_LOCAL),
        (secure("a", received=Sources()), end("b"), NOW, targets.NO_SSRC),
        (end("a"), secure("b", sent=Sources()), NOW, targets.NO_SSRC),
        (secure("a", received=Sources(MAX_SOURCES + 1)), end("b"), NOW, targets.MANY_SSRCS),
        (end("a"), secure("b", sent=Sources(MAX_SOURCES + 1)), NOW, targets.MANY_SSRCS),
    ],
)  # fmt: skip
def test_a_stream_for_userspace(here: End, there: End | None, now: float, reason: str) -> None:
    assert decide(here, there, now) == reason


@pytest.mark.parametrize("address", ["::1", "2001:db8::1", "fec0::1", "::ffff:1.2.3.4", "169.254.1.1"])
def test_other_addresses_need_no_interface(address: str) -> None:
    assert isinstance(decide(end("a"), end("b", peer=Endpoint(address, 4))), Target)


@pytest.mark.parametrize(
    ("given", "session"),
    [
        (keys("AES_CM_128_HMAC_SHA1_32"), (Cipher.AES_CM, 4, 16, 20, 14)),
        (keys("AES_192_CM_HMAC_SHA1_80"), (Cipher.AES_CM, 10, 24, 20, 14)),
        (keys("AES_256_CM_HMAC_SHA1_32"), (Cipher.AES_CM, 4, 32, 20, 14)),
        (keys("F8_128_HMAC_SHA1_80"), (Cipher.AES_F8, 10, 16, 20, 14)),
        (keys("NULL_HMAC_SHA1_32"), (Cipher.NULL, 4, 0, 20, 0)),
        (keys("F8_128_HMAC_SHA1_80", unencrypted_srtp=True), (Cipher.NULL, 10, 0, 20, 0)),
        (keys("AES_256_CM_HMAC_SHA1_80", unauthenticated_srtp=True), (Cipher.AES_CM, 0, 32, 0, 14)),
        (keys("AES_CM_128_HMAC_SHA1_80", unencrypted_srtcp=True), (Cipher.AES_CM, 10, 16, 20, 14)),
    ],
)
def test_session_parameters(given: SrtpKeys, session: tuple[Cipher, int, int, int, int]) -> None:
    target = decide(secure("a", given._replace(mki=b"\0\7")), end("b"))
    assert isinstance(target, Target)
    found = target.decrypt
    assert found is not None
    assert (found.cipher, found.tag_len, len(found.key), len(found.auth_key), len(found.salt)) == session
    assert (found.mki, found.sources) == (b"\0\7", ONE)


def test_every_suite_has_a_verdict() -> None:
    """A new suite must not be taken for one that the kernel has."""
    verdicts = {name: decide(secure("a", keys(name)), end("b")) for name in SUITES}
    assert {name for name, verdict in verdicts.items() if isinstance(verdict, str)} == {
        "AEAD_AES_128_GCM",
        "AEAD_AES_256_GCM",
    }


def test_ciphers_have_the_numbers_of_the_module() -> None:
    assert {cipher.name: cipher.value for cipher in Cipher} == {
        "NULL": lib.MEDIAPROXY_CIPHER_NULL,
        "AES_CM": lib.MEDIAPROXY_CIPHER_AES_CM,
        "AES_F8": lib.MEDIAPROXY_CIPHER_AES_F8,
    }


def test_what_counts_as_a_change() -> None:
    first = decide(secure("a"), secure("b"))
    later = decide(secure("a", received=Sources(1, b"\1" * 256)), secure("b"))
    assert isinstance(first, Target)
    assert isinstance(later, Target)
    assert (first == later, first.fixed == later.fixed) == (False, True)
    assert first.ssrcs != later.ssrcs
    assert PLAIN.ssrcs == (frozenset(), frozenset())


def test_no_key_gets_into_a_log() -> None:
    target = decide(secure("a"), end("b"))
    assert "AES_C 0" not in repr(target)
    assert "SrtpSession(AES_CM, 10)" in repr(target)
