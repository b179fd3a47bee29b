"""Which streams the kernel can forward, and what it has to be told about them (architecture: offloading).

One pure question, :func:`target_for`: what the kernel is to do with the RTP of a socket, or why it cannot do that.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from rtpengine.media import MAX_SOURCES, Endpoint, Format, Sources, SrtpKeys, StreamConfig
from rtpengine.srtp import SUITES, CryptoSuite

# Signalling and learning have come to rest: the packet path's learning window, after which its best guess stands.
SETTLE_S = 3.0

# RFC 3711 4.3.1
_LABEL_CIPHER, _LABEL_AUTH, _LABEL_SALT = 0, 1, 2
_AUTH_KEY_LEN = 20

Derive = Callable[[SrtpKeys, int, int], bytes]
"""Session key of these master keys for a label (RFC 3711 4.3.1), of so many bytes."""


class Cipher(IntEnum):
    """The ciphers that the kernel module has; the values are those of enum mediaproxy_cipher."""

    NULL = 1
    AES_CM = 2
    AES_F8 = 3


_CIPHERS = {"AES": Cipher.AES_CM, "F8": Cipher.AES_F8, "NULL": Cipher.NULL}


class SrtpSession(NamedTuple):
    """One direction under SRTP: session keys, and how far each SSRC has come; ``tag_len`` 0: no authentication."""

    cipher: Cipher
    tag_len: int
    key: bytes
    auth_key: bytes
    salt: bytes
    mki: bytes
    sources: Sources

    @property
    def trailer_len(self) -> int:
        """How many bytes an SRTP packet is longer than the RTP packet that it protects."""
        return len(self.mki) + self.tag_len

    def __repr__(self) -> str:
        """Without the keys, so that none gets into a log."""
        return f"SrtpSession({self.cipher.name}, {self.tag_len})"


class Target(NamedTuple):
    """What the kernel does with RTP that reaches ``local`` from ``expect``: send it from ``source`` to ``destination``.

    ``tos`` is what it is sent with. ``decrypt`` and ``encrypt`` are None for plain RTP. ``formats`` tell the clocks.
    """

    local: Endpoint
    expect: Endpoint
    source: Endpoint
    destination: Endpoint
    tos: int
    rtcp_mux: bool
    dtls: bool
    decrypt: SrtpSession | None
    encrypt: SrtpSession | None
    formats: tuple[Format, ...] = ()

    @property
    def fixed(self) -> Target:
        """Without how far the SSRCs have come, which the kernel knows better: equal if nothing else has changed."""
        return self._replace(decrypt=_without_progress(self.decrypt), encrypt=_without_progress(self.encrypt))

    @property
    def growth(self) -> int:
        """How many bytes a packet leaves longer, or shorter, than it has come."""
        received, sent = (0 if session is None else session.trailer_len for session in (self.decrypt, self.encrypt))
        return sent - received

    @property
    def ssrcs(self) -> tuple[frozenset[int], frozenset[int]]:
        """Those that are decrypted and encrypted, none where there is no SRTP."""
        sessions = (self.decrypt, self.encrypt)
        first, second = (frozenset[int]() if session is None else session.sources.ssrcs for session in sessions)
        return first, second


def _without_progress(session: SrtpSession | None) -> SrtpSession | None:
    return None if session is None else session._replace(sources=Sources())


class End(NamedTuple):
    """One RTP socket and the party that it faces.

    ``receive`` and ``send`` are its keys; ``received`` and ``sent`` tell how far the SSRCs under them have come.
    The party is ``confirmed`` to send from ``source`` and to be sent to ``peer``.
    ``changed`` is when signalling last did that, in monotonic seconds.
    """

    local: Endpoint
    config: StreamConfig
    receive: SrtpKeys | None
    send: SrtpKeys | None
    source: Endpoint | None
    peer: Endpoint | None
    confirmed: bool
    received: Sources
    sent: Sources
    changed: float


NOT_RTP = "not RTP"
NO_RECEIVER = "nobody to send to"
ON_HOLD = "the receiver is on hold"
NO_KEYS = "SRTP keys are not agreed yet"
UNPROTECTED = "neither encrypted nor authenticated"
LINK_LOCAL = "a link-local address"
NO_ADDRESS = "no local address of its own"
SETTLING = "signalling was just now"
NO_SOURCE = "the sender is not confirmed"
NO_DESTINATION = "the receiver is not confirmed"
NO_SSRC = "no SSRC under these keys yet"
ELSEWHERE = "packets came from another source"
MANY_SSRCS = f"more than {MAX_SOURCES} SSRCs"

PENDING = frozenset({SETTLING, NO_SOURCE, NO_DESTINATION, NO_SSRC, ELSEWHERE})
"""Reasons that may vanish without signalling: with time, or with the next packet."""


def target_for(here: End, there: End | None, tos: int, derive: Derive, now: float) -> Target | str:
    """What the kernel is to do with the RTP that comes to ``here``, if it leaves from ``there``, else None.

    A string is the reason why the stream has to stay in userspace.
    """
    if there is None:
        return NO_RECEIVER if here.config.rtp else NOT_RTP
    reason = _against_signalling(here, there) or _against_now(here, there, now)
    if reason is not None:
        return reason
    assert here.source is not None
    assert there.peer is not None
    return Target(
        local=here.local,
        expect=here.source,
        source=there.local,
        destination=there.peer,
        tos=tos,
        rtcp_mux=here.config.rtcp_mux,
        dtls=here.config.dtls,
        decrypt=_session(here.receive, here.received, derive) if here.config.secure else None,
        encrypt=_session(there.send, there.sent, derive) if there.config.secure else None,
        formats=here.config.formats,
    )


def _against_signalling(here: End, there: End) -> str | None:
    """What only another offer or answer, or a handshake, can change."""
    if not here.config.rtp:
        return NOT_RTP
    if there.config.muted:
        return ON_HOLD
    if here.local.is_null or there.local.is_null:
        return NO_ADDRESS
    for secure, keys in ((here.config.secure, here.receive), (there.config.secure, there.send)):
        if secure:
            reason = NO_KEYS if keys is None else _against_suite(keys)
            if reason is not None:
                return reason
    return None


def _against_suite(keys: SrtpKeys) -> str | None:
    if _cipher(SUITES[keys.suite]) is None:
        return f"the kernel module has no {keys.suite}"
    if keys.unauthenticated_srtp and _cipher_used(keys) is Cipher.NULL:
        return UNPROTECTED
    return None


def _against_now(here: End, there: End, now: float) -> str | None:
    """What changes with time and packets."""
    if now < max(here.changed, there.changed) + SETTLE_S:
        return SETTLING
    if not here.confirmed or here.source is None:
        return NO_SOURCE
    if not there.confirmed or there.peer is None or there.peer.is_null:
        return NO_DESTINATION
    if _is_link_local(here.source) or _is_link_local(there.peer):
        return LINK_LOCAL
    totals = [here.received.total] * here.config.secure + [there.sent.total] * there.config.secure
    if 0 in totals:
        return NO_SSRC
    return MANY_SSRCS if max(totals, default=0) > MAX_SOURCES else None


def _is_link_local(endpoint: Endpoint) -> bool:
    """Whether the address means something only together with an interface (RFC 4291 2.5.6)."""
    first = endpoint.address.partition(":")[0]
    return endpoint.family == 6 and bool(first) and int(first, 16) & 0xFFC0 == 0xFE80


def _cipher(suite: CryptoSuite) -> Cipher | None:
    return _CIPHERS.get(suite.name.partition("_")[0])


def _cipher_used(keys: SrtpKeys) -> Cipher:
    cipher = _cipher(SUITES[keys.suite])
    assert cipher is not None
    return Cipher.NULL if keys.unencrypted_srtp else cipher


def _session(keys: SrtpKeys | None, sources: Sources, derive: Derive) -> SrtpSession:
    assert keys is not None
    suite, cipher = SUITES[keys.suite], _cipher_used(keys)
    encrypted, authenticated = cipher is not Cipher.NULL, not keys.unauthenticated_srtp
    return SrtpSession(
        cipher=cipher,
        tag_len=suite.tag_len if authenticated else 0,
        key=derive(keys, _LABEL_CIPHER, suite.key_len) if encrypted else b"",
        auth_key=derive(keys, _LABEL_AUTH, _AUTH_KEY_LEN) if authenticated else b"",
        salt=derive(keys, _LABEL_SALT, suite.salt_len) if encrypted else b"",
        mki=keys.mki,
        sources=sources,
    )
