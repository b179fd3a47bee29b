"""SRTP as a party speaks it: libsrtp through pylibsrtp, and the a=crypto lines that agree on keys (RFC 4568)."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import pylibsrtp
from pylibsrtp import Policy, Session, _binding


class Suite(NamedTuple):
    """What libsrtp has to know about a suite: profile, lengths, and a cipher that the profile does not have."""

    profile: int
    key: int
    salt: int
    tag: int
    cipher: int | None = None

    @property
    def aead(self) -> bool:
        """Whether the tag is part of what is encrypted (RFC 7714)."""
        return self.salt == 12


_CM80, _CM32 = Policy.SRTP_PROFILE_AES128_CM_SHA1_80, Policy.SRTP_PROFILE_AES128_CM_SHA1_32
# The last is the number of a libsrtp cipher for which pylibsrtp has no profile. Its AES-192 derives keys as nobody
# else does (by AES-256, where RFC 6188 2 has AES-192), and is no peer.
SUITES = {
    "AES_CM_128_HMAC_SHA1_80": Suite(_CM80, 16, 14, 10),
    "AES_CM_128_HMAC_SHA1_32": Suite(_CM32, 16, 14, 4),
    "AES_256_CM_HMAC_SHA1_80": Suite(_CM80, 32, 14, 10, cipher=5),
    "AES_256_CM_HMAC_SHA1_32": Suite(_CM32, 32, 14, 4, cipher=5),
    "AEAD_AES_128_GCM": Suite(Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 16, 12, 16),
    "AEAD_AES_256_GCM": Suite(Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 32, 12, 16),
}
DEFAULT = "AES_CM_128_HMAC_SHA1_80"


class Refused(Exception):
    """A packet that is not what the key's owner sent."""


class Keys(NamedTuple):
    """Master key, salt and MKI of one direction."""

    suite: str
    key: bytes
    mki: bytes = b""

    @property
    def inline(self) -> str:
        """Key and salt as SDP has them."""
        return base64.b64encode(self.key).decode()

    def crypto_line(self, tag: int) -> str:
        """The a=crypto attribute."""
        mki = f"|{int.from_bytes(self.mki, 'big')}:{len(self.mki)}" if self.mki else ""
        return f"a=crypto:{tag} {self.suite} inline:{self.inline}{mki}"


def fresh_keys(suite: str = DEFAULT, mki: bytes = b"") -> Keys:
    """New keys for a suite: key and salt in one."""
    about = SUITES[suite]
    return Keys(suite, os.urandom(about.key + about.salt), mki)


def parse_crypto(line: str) -> tuple[int, Keys]:
    """Tag and keys of an a=crypto line as the relay writes it, strictly."""
    found = re.fullmatch(r"a=crypto:(\d{1,9}) (\w+) inline:([\w+/]+=*)(?:\|(\d+):(\d+))?", line)
    assert found, line
    tag, suite, material, mki, length = found.groups()
    assert suite in SUITES, line
    key = base64.b64decode(material, validate=True)
    assert len(key) == SUITES[suite].key + SUITES[suite].salt, line
    return int(tag), Keys(suite, key, int(mki).to_bytes(int(length), "big") if mki else b"")


def _session(keys: Keys, direction: int) -> Session:
    suite = SUITES[keys.suite]
    policy = Policy(srtp_profile=suite.profile, ssrc_type=direction)
    for crypto in (policy._policy.rtp, policy._policy.rtcp) if suite.cipher else ():
        # srtp_crypto_policy_t begins with the cipher and the length of its key and salt.
        fields = _binding.ffi.cast("int *", _binding.ffi.addressof(crypto))
        fields[0], fields[1] = suite.cipher, suite.key + suite.salt
    policy.key = keys.key
    # The wildcard streams of libsrtp have a window of their own per SSRC.
    policy.window_size = 1024
    policy.allow_repeat_tx = True
    return Session(policy)


class Sender:
    """Protects what a party sends."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._session = _session(keys, Policy.SSRC_ANY_OUTBOUND)
        self._suite = SUITES[keys.suite]

    def rtp(self, packet: bytes) -> bytes:
        """Protect an RTP packet."""
        return self._with_mki(self._session.protect(packet), self._suite.tag)

    def rtcp(self, packet: bytes) -> bytes:
        """Protect a compound packet."""
        # The tag of SRTCP always has ten bytes (RFC 3711 5.2, RFC 4568 6.2.2).
        return self._with_mki(self._session.protect_rtcp(packet), 10)

    def _with_mki(self, packet: bytes, tag: int) -> bytes:
        at = len(packet) - (0 if self._suite.aead else tag)
        return packet[:at] + self.keys.mki + packet[at:]


class Receiver:
    """Verifies what a party receives; raises Refused."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._session = _session(keys, Policy.SSRC_ANY_INBOUND)
        self._suite = SUITES[keys.suite]

    def rtp(self, packet: bytes) -> bytes:
        """Verify and decrypt an RTP packet."""
        return self._checked(self._session.unprotect, self._without_mki(packet, self._suite.tag))

    def rtcp(self, packet: bytes) -> bytes:
        """Verify and decrypt a compound packet."""
        return self._checked(self._session.unprotect_rtcp, self._without_mki(packet, 10))

    def _checked(self, unprotect: object, packet: bytes) -> bytes:
        try:
            return bytes(unprotect(packet))  # type: ignore[operator]
        except pylibsrtp.Error as error:
            raise Refused(str(error)) from None

    def _without_mki(self, packet: bytes, tag: int) -> bytes:
        end = len(packet) - (0 if self._suite.aead else tag)
        start = end - len(self.keys.mki)
        if packet[max(start, 0) : end] != self.keys.mki:
            raise Refused("another MKI")
        return packet[:start] + packet[end:]


@dataclass
class Sdes:
    """What a party says and knows about SDES: the suites that it wants, its keys, the ones in use.

    ``mki`` goes into every line. ``choose`` picks a suite of those offered, None the first that it knows.
    """

    suites: list[str] = field(default_factory=lambda: [DEFAULT])
    mki: bytes = b""
    choose: str | None = None
    mine: dict[str, Keys] = field(default_factory=dict)
    sending: Keys | None = None
    receiving: Keys | None = None
    tag: int = 1

    def rekey(self) -> None:
        """Use other keys from the next offer or answer on."""
        self.mine.clear()

    def _keys(self, suite: str) -> Keys:
        if suite not in self.mine:
            self.mine[suite] = fresh_keys(suite, self.mki)
        return self.mine[suite]

    def lines(self, answering: bool) -> list[str]:
        """The lines of the next offer, or of an answer to what was heard last."""
        if answering:
            assert self.sending, "nothing was offered that could be answered"
            return [self.sending.crypto_line(self.tag)]
        return [self._keys(suite).crypto_line(tag) for tag, suite in enumerate(self.suites, 1)]

    def told(self, lines: list[str], answering: bool) -> None:
        """Take the relay's lines: its offer if we are about to answer, else its answer."""
        heard = dict(parse_crypto(line) for line in lines)
        assert len(heard) == len(lines), f"tags must differ: {lines}"
        if answering:
            wanted = [self.choose] if self.choose else self.suites
            self.tag, self.receiving = next((t, k) for t, k in heard.items() if k.suite in wanted)
            self.sending = self._keys(self.receiving.suite)
        else:
            ((self.tag, self.receiving),) = heard.items()
            self.sending = self._keys(self.suites[self.tag - 1])
            assert self.sending.suite == self.receiving.suite, "an answer keeps the suite of its tag (RFC 4568 5.1.2)"


def forged(keys: Keys, packet: bytes) -> bytes:
    """An SRTP packet that looks right but for its tag, which is random."""
    length = SUITES[keys.suite].tag
    return Sender(keys._replace(key=os.urandom(len(keys.key)))).rtp(packet)[:-length] + os.urandom(length)
