"""The vocabulary that codecs, engines and resources share: what is said about media, and what to do with it.

Signalling produces a :class:`MediaOffer` per ``m=`` line, the call engine answers with a
:class:`MediaPlan`, and the packet path is told one :class:`StreamConfig` per UDP socket.
All are named tuples, not frozen dataclasses:
as immutable, and several times cheaper to build, which happens some twenty times per call.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from rtpengine.memory import SrtpMemory, StreamMemory

IPV4 = 4
IPV6 = 6


class Endpoint(NamedTuple):
    """A transport address: canonical text of an IP address, and a UDP port (0 where none is known)."""

    address: str
    port: int

    @property
    def family(self) -> int:
        """4 or 6."""
        return IPV6 if ":" in self.address else IPV4

    @property
    def is_null(self) -> bool:
        """Whether the address is the unspecified one, which RFC 3264 8.4 uses to put a stream on hold."""
        return self.address in ("0.0.0.0", "::")

    @property
    def is_private(self) -> bool:
        """Whether the address can be behind a NAT, so that its packets may come from another one.

        RFC 1918, RFC 6598 and RFC 3927; RFC 4193 and RFC 4291 2.5.6.
        """
        if self.family == IPV6:
            first = int(self.address.partition(":")[0] or "0", 16)
            return first & 0xFE00 == 0xFC00 or first & 0xFFC0 == 0xFE80
        one, two = map(int, self.address.split(".", 2)[:2])
        return (
            one == 10
            or (one == 172 and two & 0xF0 == 16)
            or (one == 192 and two == 168)
            or (one == 100 and two & 0xC0 == 64)
            or (one == 169 and two == 254)
        )

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Profile(NamedTuple):
    """An RTP profile as what it asks for, not as a name: ``RTP/SAVPF`` is ``Profile(secure=True, feedback=True)``."""

    secure: bool
    feedback: bool


# The ``proto`` words of an m= line that carry RTP: RFC 3551, 3711, 4585, 5124 and 5764.
PROFILES = {
    "RTP/AVP": Profile(secure=False, feedback=False),
    "RTP/AVPF": Profile(secure=False, feedback=True),
    "RTP/SAVP": Profile(secure=True, feedback=False),
    "RTP/SAVPF": Profile(secure=True, feedback=True),
    "UDP/TLS/RTP/SAVP": Profile(secure=True, feedback=False),
    "UDP/TLS/RTP/SAVPF": Profile(secure=True, feedback=True),
}


class Direction(NamedTuple):
    """The direction attribute of RFC 3264 5.1, seen from the party that wrote it."""

    sends: bool
    receives: bool

    @property
    def attribute(self) -> str:
        """``sendrecv``, ``sendonly``, ``recvonly`` or ``inactive``."""
        return _DIRECTION_NAMES[self]


DIRECTIONS = {
    "sendrecv": Direction(sends=True, receives=True),
    "sendonly": Direction(sends=True, receives=False),
    "recvonly": Direction(sends=False, receives=True),
    "inactive": Direction(sends=False, receives=False),
}
_DIRECTION_NAMES = {direction: name for name, direction in DIRECTIONS.items()}


class Learning(IntEnum):
    """How a stream finds out where its party really sends from; the values are the packet path's."""

    HEURISTIC = 0
    DELAYED = 1
    IMMEDIATE = 2
    OFF = 3


class SrtpKeys(NamedTuple):
    """Master keys of one direction of SRTP (RFC 3711 3.2.1), and what RFC 4568 6.3 may say about their use.

    ``suite`` is a name of ``srtp.SUITES``; ``mki`` stands in every packet, empty for none.
    """

    suite: str
    key: bytes
    salt: bytes
    mki: bytes = b""
    unencrypted_srtp: bool = False
    unencrypted_srtcp: bool = False
    unauthenticated_srtp: bool = False

    def __repr__(self) -> str:
        """Without the keys, so that none gets into a log."""
        return f"SrtpKeys({self.suite})"


class CryptoLine(NamedTuple):
    """One ``a=crypto`` line (RFC 4568 9.1): its tag, and the keys its sender protects its packets with."""

    tag: int
    keys: SrtpKeys


class Fingerprint(NamedTuple):
    """The hash of a certificate (RFC 8122 5): name of the hash in lower case as in ``sha-256``, and the digest."""

    algorithm: str
    digest: bytes


class IceCredentials(NamedTuple):
    """User name fragment and password of one ICE agent (RFC 8839 5.4)."""

    ufrag: str
    pwd: str

    def __repr__(self) -> str:
        """Without the password, so that none gets into a log."""
        return f"IceCredentials({self.ufrag})"


class Candidate(NamedTuple):
    """A UDP candidate of ours to write (RFC 8839 5.1); ``related`` is the base of one that is not ``host``."""

    foundation: str
    component: int
    priority: int
    endpoint: Endpoint
    kind: str = "host"
    related: Endpoint | None = None


class Format(NamedTuple):
    """An ``a=rtpmap`` (RFC 8866 6.6): payload type, name of the encoding in upper case, clock rate in Hz."""

    payload_type: int
    encoding: str
    clock_rate: int


class MediaOffer(NamedTuple):
    """What one party said about one media section, free of SDP syntax.

    ``endpoint`` is where the party wants its RTP, None where it named no usable address (learn it).
    ``rtcp`` is its separate RTCP endpoint, None if there is none (``rtcp_mux``, or no RTP at all).
    ``ports`` counts consecutive RTP/RTCP port pairs (``m=audio 4000/2``); pair i has both ports 2i higher.
    ``protocol`` is the transport word of the m= line in upper case; not in PROFILES: relay as opaque UDP.
    ``mux_only`` is RFC 8858: the party has no RTCP port to fall back to.
    ``crypto`` are its usable ``a=crypto`` lines in order; ``setup``, ``fingerprints`` and ``tls_id`` are RFC 8842,
    from the section or else the session, usable hashes only.
    ``ice`` are the credentials of its ICE agent, None where ufrag or pwd is missing; ``ice_lite`` is RFC 8839 5.3.
    ``body_has_ice``: some section or the session has an ``a=ice-ufrag``.
    ``lowest_priority`` is that of its UDP candidates, None without any. ``mid`` is RFC 5888 4.
    ``formats`` are its ``a=rtpmap`` lines, which static payload types do not need.
    """

    kind: str
    endpoint: Endpoint | None
    rtcp: Endpoint | None
    protocol: str
    ports: int = 1
    direction: Direction = DIRECTIONS["sendrecv"]
    rejected: bool = False
    rtcp_mux: bool = False
    mux_only: bool = False
    crypto: tuple[CryptoLine, ...] = ()
    setup: str | None = None
    fingerprints: tuple[Fingerprint, ...] = ()
    tls_id: str | None = None
    ice: IceCredentials | None = None
    ice_lite: bool = False
    body_has_ice: bool = False
    lowest_priority: int | None = None
    mid: str | None = None
    formats: tuple[Format, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the null address asks for silence (RFC 3264 8.4); the port is not 0."""
        return self.endpoint is not None and self.endpoint.is_null and not self.rejected

    @property
    def profile(self) -> Profile | None:
        """The RTP profile, None for a transport that is not RTP."""
        return PROFILES.get(self.protocol)


class SdesPolicy(NamedTuple):
    """What the words of the ``SDES`` list ask for, towards the recipient of one body.

    ``off``: offer and accept no ``a=crypto``. ``only`` (if any) and ``without`` restrict the suites by name,
    ``order`` puts some first. ``fresh_keys`` false (``nonew``): offer no line of our own beside a copied one.
    The next three: True asks for the session parameter of RFC 4568 6.3, False refuses it, None leaves it.
    ``lifetime``: write one behind our keys (RFC 4568 6.1).
    """

    off: bool = False
    only: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()
    fresh_keys: bool = True
    unencrypted_srtp: bool | None = None
    unencrypted_srtcp: bool | None = None
    unauthenticated_srtp: bool | None = None
    lifetime: bool = False


class Signalling(NamedTuple):
    """How one offer or answer is to be treated, as the SIP proxy asked in whichever control protocol.

    ``family`` (4, 6) and ``protocol`` (upper case) are wanted towards the recipient; None keeps what is known.
    ``prefer_ipv6`` (``direction`` with ``external``) wants IPv6 towards the recipient only where we have it.
    ``received_from`` is the address that the SIP message came from.
    ``media_address`` is to be advertised instead of our own.
    ``rtcp_mux`` holds any of offer, demux, accept, reject, require; ``replace`` any of origin, session-connection.
    ``ice`` is remove (as is None), force, optional, default or force-relay.
    ``dtls`` is off, passive or active: the role that we prefer where the other party leaves the choice.
    ``reset`` forgets keys, DTLS and ICE towards the recipient.
    """

    trust_address: bool = True
    received_from: str | None = None
    family: int | None = None
    prefer_ipv6: bool = False
    protocol: str | None = None
    media_address: str | None = None
    ice: str | None = None
    rtcp_mux: frozenset[str] = frozenset()
    replace: frozenset[str] = frozenset()
    asymmetric: bool = False
    strict_source: bool = False
    media_handover: bool = False
    no_rtcp_attribute: bool = False
    via_branch: str | None = None
    dtls: str | None = None
    sdes: SdesPolicy = SdesPolicy()
    generate_mid: bool = False
    reset: bool = False


class IcePlan(NamedTuple):
    """What the recipient is told about ICE in one section.

    ``keep``: the sender's own ICE lines stay, and ``candidates`` join them; with ``keep_relays`` false its candidates
    of type relay do not, and its address stays too (``ICE=force-relay``). Otherwise its lines go, and if
    ``credentials`` are given we are an ICE-lite agent with them.
    """

    keep: bool = False
    keep_relays: bool = True
    credentials: IceCredentials | None = None
    candidates: tuple[Candidate, ...] = ()


class MediaPlan(NamedTuple):
    """What the recipient of a body is told about one section.

    ``local`` is the advertised address and RTP port; None where the section is disabled (port 0).
    ``rtcp_port`` is the RTCP port to name in ``a=rtcp``, None where the line must be absent.
    ``pairs`` counts the consecutive port pairs behind ``local``.
    ``held``: the sender's address was null, which must stay visible to the recipient.
    ``crypto``, ``setup`` with ``fingerprint`` and ``tls_id``, ``ice`` and ``mid`` are the lines of these names;
    a ``mid`` takes the place of the sender's, which without it stays unless a bundle is taken apart.
    """

    local: Endpoint | None
    rtcp_port: int | None
    protocol: str
    pairs: int = 1
    direction: Direction = DIRECTIONS["sendrecv"]
    rtcp_mux: bool = False
    held: bool = False
    crypto: tuple[CryptoLine, ...] = ()
    setup: str | None = None
    fingerprint: Fingerprint | None = None
    tls_id: str | None = None
    ice: IcePlan = IcePlan()
    mid: str | None = None


class StreamConfig(NamedTuple):
    """What one media socket has to do with the packets that it receives, and with those sent through it.

    ``peer`` is where signalling says that the party receives; None: not known yet, nothing is sent.
    A change of ``peer`` starts learning anew; all other fields change in place.
    ``alias`` is a second address (text) from which the party may well send: that of its SIP messages.
    ``stranger_allowed``: an address that is neither may be learned if nothing better turns up.
    ``muted``: nothing is sent to the party (RFC 3264 hold by null address).
    ``rtp`` false: the datagrams are not RTP, relay them unseen. ``rtcp_only``: the RTCP socket of a pair.
    ``rtp_sink`` and ``rtcp_sink`` are stream ids, 0 for none; ``strip_feedback`` removes RTPFB and PSFB
    (RFC 4585 6.1) from what goes to ``rtcp_sink``.
    ``secure``: the party speaks SRTP; without keys nothing passes either way.
    ``stun``: STUN is handed to us, not relayed. ``ufrag`` is that of our agent there, "" where we have none: checks
    that name it are never crowded out by others. ``ice``: only sources that have been validated are the party's.
    ``dtls``: DTLS is handed to us, not relayed.
    ``formats`` say what its payload types mean, the first of several for one.
    """

    peer: Endpoint | None
    rtp_sink: int
    rtcp_sink: int
    alias: str | None = None
    learning: Learning = Learning.HEURISTIC
    strict: bool = True
    handover: bool = False
    asymmetric: bool = False
    stranger_allowed: bool = False
    muted: bool = False
    rtp: bool = True
    rtcp_only: bool = False
    rtcp_mux: bool = False
    strip_feedback: bool = False
    secure: bool = False
    stun: bool = False
    ice: bool = False
    dtls: bool = False
    ufrag: str = ""
    formats: tuple[Format, ...] = ()


class Quality(NamedTuple):
    """How the RTP of a stream arrives here, of all its SSRCs together: packets, and the jitter of the current one.

    ``expected`` are those that sequence numbers say were sent, ``lost`` those of them that are missing (RFC 3550 A.3).
    ``skips`` counts gaps of whatever length, ``resets`` sequences that went on elsewhere.
    ``jitter_ms`` is RFC 3550 A.8, 0 where the clock rate is not known. Nothing here tells of repeated SRTP packets,
    which are dropped as replays. ``payload_type`` is that of the last packet, None before the first; ``clock_rate`` is
    in Hz, 0 where it is not known.
    """

    expected: int = 0
    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    skips: int = 0
    resets: int = 0
    jitter_ms: float = 0.0
    ssrc: int = 0
    payload_type: int | None = None
    clock_rate: int = 0


class Reports(NamedTuple):
    """What a party says over RTCP about the RTP that it gets from us (RFC 3550 6.4), and how far away it is.

    ``reports`` were read, ``malformed`` packets were not. The rest is of the last one: ``fraction_lost`` (0 to 1) since
    the one before, ``lost`` in all, ``jitter`` in timestamp units of ``ssrc``.
    ``rtt_ms`` is the last of so many ``round_trips`` between the party and us, None before the first.
    """

    reports: int = 0
    malformed: int = 0
    round_trips: int = 0
    lost: int = 0
    fraction_lost: float = 0.0
    jitter: int = 0
    ssrc: int = 0
    rtt_ms: float | None = None


class StreamState(NamedTuple):
    """What the packet path knows of one stream; ``last_packet`` in monotonic seconds, None before the first.

    ``in_kernel``: the kernel forwards its RTP. ``reason``: why not, "" where that is not known yet, or never asked.
    """

    peer: Endpoint | None
    confirmed: bool
    packets: int
    bytes: int
    errors: int
    last_packet: float | None
    payload_type: int | None
    drops: dict[str, int]
    in_kernel: bool = False
    reason: str = ""
    quality: Quality = Quality()
    reports: Reports = Reports()


MAX_SOURCES = 8
_SOURCE = Struct("=IIQQQ")


class Sources(NamedTuple):
    """How far each SSRC of one direction under SRTP has come, as it goes between packet path and kernel.

    ``total`` counts all; ``table`` tells of the first MAX_SOURCES, as the two have it in common: struct pp_source
    of packetpath.h.
    """

    total: int = 0
    table: bytes = bytes(MAX_SOURCES * _SOURCE.size)

    @property
    def ssrcs(self) -> frozenset[int]:
        """Those that the table tells of."""
        used = self.table[: self.total * _SOURCE.size]
        return frozenset(ssrc for ssrc, *_ in _SOURCE.iter_unpack(used))


_UNSIGNED = (1 << 64) - 1


class KernelQuality(NamedTuple):
    """The same as :class:`Quality` as the kernel keeps it: the last four are those of struct rtp_quality."""

    expected: int = 0
    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    skips: int = 0
    resets: int = 0
    jitter: int = 0
    ticks: int = 0
    ssrc: int = 0
    type: int = 0

    def since(self, before: KernelQuality) -> KernelQuality:
        """What has come to the totals, modulo 2^64, since fewer may be lost than were thought."""
        totals = [(a - b) & _UNSIGNED for a, b in zip(self[:6], before[:6], strict=True)]
        return KernelQuality._make((*totals, *self[6:]))


class Progress(NamedTuple):
    """What the kernel has done for one stream since it was last asked; ``drops`` by the reasons of StreamState."""

    packets: int
    bytes: int
    drops: dict[str, int]
    received: Sources = Sources()
    sent: Sources = Sources()
    quality: KernelQuality = KernelQuality()


class MediaTransport(Protocol):
    """The sockets that the call engine asks for; implemented by transport.py over ports.py and packetpath.py."""

    @property
    def families(self) -> frozenset[int]:
        """The address families that have a local address."""

    def advertised(self, family: int) -> str:
        """The address that SDP names for our side in this family."""

    def open(self, call_id: str, family: int, pairs: int) -> PortSet:
        """Open ``pairs`` RTP/RTCP socket pairs on consecutive ports.

        Raise ResourceError if there are none, ProtocolError if the family is not configured.
        """

    def close(self, ports: PortSet) -> None:
        """Close the streams and give the ports back."""

    def configure(self, stream: int, config: StreamConfig) -> None:
        """Bring one stream in line with ``config``."""

    def protect(self, stream: int, scope: int, receive: SrtpKeys | None, send: SrtpKeys | None) -> None:
        """Give a secure stream its keys, None for none: the party protects with ``receive``, we do with ``send``.

        Streams of one call with equal ``scope``, keys and direction share one SRTP context: indices go on.
        """

    def validate(self, stream: int, source: Endpoint, *, nominated: bool) -> None:
        """Accept ``source`` as the party's: it has proven so by ICE or DTLS; ``nominated``: send there from now on."""

    def send(self, stream: int, to: Endpoint, data: bytes) -> None:
        """Send one datagram of our own, STUN or DTLS, from the stream's socket; a refusing system loses it."""

    def state(self, stream: int) -> StreamState:
        """Read one stream."""

    def last_packet(self, stream: int) -> float:
        """When the stream last accepted a packet, in monotonic seconds; 0.0 before the first."""

    def reopen(self, call_id: str, family: int, port: int, pairs: int) -> PortSet:
        """Open the socket pairs from ``port`` on that another process had; nothing is read before :meth:`resume`.

        Raise ResourceError if a port is not to be had, ProtocolError if the family is not configured.
        """

    def resume(self, ports: PortSet) -> None:
        """Have reopened sockets read."""

    def save(self, stream: int) -> StreamMemory:
        """What one stream has learned and counted."""

    def restore(self, stream: int, memory: StreamMemory) -> None:
        """Go on from what another process has saved, for a stream that is configured. Raise ValueError, OSError."""

    def save_srtp(self, stream: int) -> tuple[SrtpMemory, ...]:
        """What the keys have been used for that this stream and those of its scope have, or had."""

    def restore_srtp(self, stream: int, contexts: tuple[SrtpMemory, ...], *, late: bool) -> None:
        """Go on from what another process has saved, for a stream that has got its keys. Raise ValueError, OSError.

        ``late``: they may have been used after that; no index is used that could have been.
        """

    def source(self, stream: int) -> Endpoint | None:
        """Whom the stream listens to, None before the first accepted packet."""

    def note(self, stream: int, event: str) -> None:
        """Remember in the history of the stream's call that this has happened there."""


class PortSet(NamedTuple):
    """Open sockets of one media: first port (even), and stream ids in port order RTP, RTCP, RTP, RTCP ..."""

    family: int
    port: int
    streams: tuple[int, ...]
