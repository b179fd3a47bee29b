"""Parties that speak SRTP, with libsrtp where it can and our own contexts where it cannot."""

from __future__ import annotations

import socket
from typing import Any

import srtp_context
from media_parties import Party
from pylibsrtp import Policy, Session

from rtpengine.media import SrtpKeys
from rtpengine.packetpath import PacketPath
from rtpengine.srtp import SUITES

_PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    "AEAD_AES_256_GCM": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
FOREIGN = sorted(_PROFILES)
CM80 = "AES_CM_128_HMAC_SHA1_80"


def keys(first: int, suite: str = CM80, **more: Any) -> SrtpKeys:
    """Keys that no other number has."""
    chosen = SUITES[suite]
    key = bytes([first]) + bytes(range(1, chosen.key_len))
    return SrtpKeys(suite, key, bytes(range(100, 100 + chosen.salt_len)), **more)


class _OwnSession:
    """What libsrtp lacks, with the methods of its sessions."""

    def __init__(self, given: SrtpKeys) -> None:
        number = SUITES[given.suite].number
        name = next(name for name, value in srtp_context.SUITES.items() if value == number)
        flags = given.unencrypted_srtp | given.unencrypted_srtcp << 1 | given.unauthenticated_srtp << 2
        context = srtp_context.Context(name, given.key, given.salt, flags, given.mki)
        self.protect, self.protect_rtcp = context.protect, context.protect_rtcp
        self.unprotect, self.unprotect_rtcp = context.unprotect, context.unprotect_rtcp


def session(given: SrtpKeys, inbound: bool) -> Any:
    """A session for one direction; what it refuses it raises."""
    if given.suite not in FOREIGN or given != SrtpKeys(*given[:3]):
        return _OwnSession(given)
    kind = Policy.SSRC_ANY_INBOUND if inbound else Policy.SSRC_ANY_OUTBOUND
    return Session(Policy(given.key + given.salt, kind, srtp_profile=_PROFILES[given.suite]))


class SecureParty(Party):
    """A party that protects with ``theirs`` and is sent packets protected with ``ours``."""

    def __init__(
        self, path: PacketPath, theirs: SrtpKeys, ours: SrtpKeys, scope: int = 1, talker: SecureParty | None = None
    ) -> None:
        """``talker``: the party whose second socket this is, with which it shares its indices."""
        super().__init__(path)
        self.theirs, self.ours, self.scope = theirs, ours, scope
        self.sender = talker.sender if talker else session(theirs, inbound=False)
        self.receiver = talker.receiver if talker else session(ours, inbound=True)
        self.agree()

    def agree(self) -> None:
        """Tell the relay the keys."""
        self.path.protect(self.stream, self.scope, self.theirs, self.ours)

    def configure(self, **more: Any) -> None:
        super().configure(**{"secure": True, **more})

    def replace_socket(self) -> None:
        """Close the relay's stream, and open another one in its stead."""
        self.path.close_stream(self.stream)
        self.open_stream()

    def talk(self, *packets: bytes) -> None:
        self.send(*(self.sender.protect(packet) for packet in packets))

    def talk_rtcp(self, *packets: bytes) -> None:
        self.send(*(self.sender.protect_rtcp(packet) for packet in packets))

    def talk_from(self, sock: socket.socket, packet: bytes) -> None:
        sock.sendto(self.sender.protect(packet), self.relay)

    def hear(self) -> Any:
        return self.receiver.unprotect(self.receive())

    def hear_rtcp(self) -> Any:
        return self.receiver.unprotect_rtcp(self.receive())
