"""What is known about one party of a media section, and how it and we multiplex RTCP."""

from __future__ import annotations

from typing import NamedTuple

from rtpengine.ice_modes import Reach
from rtpengine.keying import Keying
from rtpengine.media import IPV4, PROFILES, Endpoint, Format, MediaOffer, PortSet, Profile, Signalling


class Party(NamedTuple):
    """What is known about the party that a media faces, from its own words and the SIP proxy's flags.

    ``endpoint`` is the last one that was not null; ``protocol`` the RTP transport that it speaks.
    ``mux_fixed``: its answer must not follow what the other party chose about rtcp-mux.
    ``prefers`` is the DTLS role that the SIP proxy wants us to take towards it.
    ``unsettled``: ``offer`` would put RTP in the place of something else, or something else in that of RTP, and has no
    answer yet; until then, or for ever if it is refused, the section goes on as what it was (RFC 3264 8).
    ``withdrawn``: it has offered to end the section, and has no answer yet; ``offer`` is the one before.
    ``pitch`` is all that it may choose its keys from: what it was told in the last offer, and whoever shares its ports.
    """

    offer: MediaOffer | None = None
    endpoint: Endpoint | None = None
    protocol: str = "RTP/AVP"
    family: int = IPV4
    rtcp_mux: bool = False
    mux_fixed: bool = False
    alias: str | None = None
    asymmetric: bool = False
    strict: bool = False
    handover: bool = False
    prefers: str | None = None
    keying: Keying = Keying()
    reach: Reach = Reach()
    unsettled: bool = False
    pitch: Keying = Keying()
    withdrawn: bool = False

    @property
    def is_rtp(self) -> bool:
        """Whether what passes between this party and us is RTP, or its secure kin."""
        return self.offer is None or (self.offer.profile is not None) != self.unsettled

    @property
    def profile(self) -> Profile:
        """The RTP profile spoken with this party."""
        return PROFILES[self.protocol]

    @property
    def is_peer(self) -> bool:
        """Whether it speaks STUN, DTLS or SRTP with us."""
        return self.reach.mode != "" or self.profile.secure

    @property
    def is_bound(self) -> bool:
        """Whether it has been told a port of ours for ICE or DTLS, which go on there whatever the other party does."""
        return self.reach.mode != "" or self.keying.role != ""

    @property
    def is_live(self) -> bool:
        """Whether it takes part in the section."""
        return self.offer is not None and not self.offer.rejected

    @property
    def stranger_allowed(self) -> bool:
        """Whether signalling itself says that packets may come from an address that it does not name."""
        if self.endpoint is None:
            return False
        return self.endpoint.is_private or self.alias is not None


class Wanted(NamedTuple):
    """Everything that the configuration of a media's sockets follows from."""

    party: Party
    mux_sink: bool
    sink_profile: Profile
    sinks: tuple[int, ...]
    open_sets: tuple[PortSet, ...]
    formats: tuple[Format, ...] = ()


def stream_endpoint(party: Party, index: int) -> Endpoint | None:
    """Where the party says that it receives stream ``index`` (even: RTP, odd: RTCP), None while that is unknown."""
    if party.endpoint is None:
        return None
    pair = index & ~1
    address, port = party.endpoint
    if index != pair:
        # A multiplexing party names no RTCP port; its stray RTCP would come from the port above (RFC 3550 11).
        rtcp = party.offer.rtcp if party.offer is not None else None
        address, port = (address, port + 1) if rtcp is None or rtcp.is_null else rtcp
    return Endpoint(address, port + pair) if port + pair < 65536 else None


def formats_of(party: Party, other: Party) -> tuple[Format, ...]:
    """What the payload types of a party mean: what the other has asked for (RFC 3264 5.1), and then its own."""
    asked, own = (side.offer.formats if side.offer is not None else () for side in (other, party))
    return asked if asked == own else asked + own


def is_unsettling(asking: Party, asked: Party, offer: MediaOffer) -> bool:
    """Whether an offer has to wait for its answer before the section between the two becomes RTP, or ceases to be."""
    if not (asking.is_live and asked.is_live):
        return False
    return asking.is_rtp != (offer.profile is not None)


# rtcp-mux (RFC 5761 5.1.1): each side decides on its own, and the proxy translates between them.


class Mux(NamedTuple):
    """Who multiplexes from now on; ``speaker_fixed``: the answer will not change what the speaker is told."""

    speaker: bool
    speaker_fixed: bool
    listener: bool


def mux_of_offer(speaker: Party, listener: Party, offer: MediaOffer, how: Signalling) -> Mux:
    """What the recipient is offered, and what the sender's answer will say about it."""
    if offer.profile is None and is_unsettling(speaker, listener, offer):
        return Mux(speaker.rtcp_mux, speaker.mux_fixed, listener.rtcp_mux)
    offered = listener.rtcp_mux or offer.rtcp_mux
    if how.rtcp_mux & {"offer", "require"}:
        offered = True
    elif "demux" in how.rtcp_mux:
        offered = False
    if not offer.rtcp_mux:
        return Mux(speaker=False, speaker_fixed=True, listener=offered)
    if not offered:
        return Mux("reject" not in how.rtcp_mux, speaker_fixed=True, listener=False)
    if how.rtcp_mux & {"accept", "reject"}:
        return Mux("accept" in how.rtcp_mux, speaker_fixed=True, listener=True)
    if offer.mux_only:
        return Mux(speaker=True, speaker_fixed=True, listener=True)  # RFC 8858 4.3: there is no other answer
    # Another destination of the same offer may have been told otherwise, and either can answer.
    forked = speaker.mux_fixed and speaker.rtcp_mux and listener.offer is None
    return Mux(speaker.rtcp_mux, speaker_fixed=forked, listener=True)


def mux_of_answer(speaker: Party, listener: Party, offer: MediaOffer, _how: Signalling) -> Mux:
    """The answerer has decided for itself, and for the offerer too unless that was fixed when it offered."""
    if offer.profile is None:
        return Mux(speaker=False, speaker_fixed=speaker.mux_fixed, listener=False)
    told = listener.rtcp_mux if listener.mux_fixed else offer.rtcp_mux
    return Mux(offer.rtcp_mux, speaker.mux_fixed, told)
