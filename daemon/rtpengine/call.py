"""The model of a call: legs, dialogues, media and their ports; how an offer or an answer changes it (RFC 3264).

No SDP here: all control protocols meet in :class:`~rtpengine.media.MediaOffer`. A change is first planned in
full, opening the ports that it needs, and only then committed, so a failure leaves the call as it was.

    Call ── Leg (a SIP tag) ── Dialogue (two legs) ── Section (an m= line) ── Media (faces one leg) ── MediaPorts
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rtpengine import ProtocolError
from rtpengine.media import (
    IPV4,
    IPV6,
    PROFILES,
    Endpoint,
    Learning,
    MediaOffer,
    MediaPlan,
    MediaTransport,
    PortSet,
    Profile,
    Signalling,
    StreamConfig,
)

# A replaced port set lives on while its party still uses it, and this many seconds more: a re-INVITE can fail
# (RFC 3261 14.1), and then the old session description, with the old ports, stays in force.
RETIREMENT_S = 60.0


class Party(NamedTuple):
    """What is known about the party that a media faces, from its own words and the SIP proxy's flags.

    ``endpoint`` is the last one that was not null; ``protocol`` the RTP transport that it speaks.
    ``mux_fixed``: its answer must not follow what the other party chose about rtcp-mux.
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

    @property
    def profile(self) -> Profile:
        """The RTP profile spoken with this party."""
        return PROFILES[self.protocol]

    @property
    def stranger_allowed(self) -> bool:
        """Whether signalling itself says that packets may come from an address that it does not name."""
        if self.endpoint is None:
            return False
        return self.endpoint.is_private or self.alias is not None


class _Wanted(NamedTuple):
    """Everything that the configuration of a media's sockets follows from."""

    party: Party
    mux_sink: bool
    sink_profile: Profile
    sinks: tuple[int, ...]
    open_sets: tuple[PortSet, ...]


@dataclass(slots=True, eq=False)
class MediaPorts:
    """The local ports of one media: one set per endpoint of the *other* party (sdp.md 5).

    A party sees other ports when its peer moves, and the old ones again when the peer moves back.
    The key None marks a set opened in advance, before the other party has spoken.
    ``applied`` is what the packet path was last told about all of them.
    """

    sets: dict[Endpoint | None, PortSet] = field(default_factory=dict)
    current: PortSet | None = None
    retired: dict[PortSet, float] = field(default_factory=dict)
    applied: _Wanted | None = None

    def find(self, key: Endpoint | None, family: int, pairs: int) -> PortSet | None:
        """The open set to use towards ``key`` (None: whichever is in use), None if another must be opened.

        Sets that have retired but are still open count, so that who takes back a rejection gets the same ports.
        """
        found = self.current if key is None else self.sets.get(key)
        found = found or self.sets.get(None)
        if found is not None and found.family == family and len(found.streams) >= 2 * pairs:
            return found
        return None

    def use(self, key: Endpoint | None, ports: PortSet, now: float) -> None:
        """Make ``ports`` the current set, known by ``key``; the one it replaces retires."""
        if key is not None and self.sets.get(None) == ports:
            del self.sets[None]
        if ports not in self.sets.values() or key is not None:
            displaced = self.sets.get(key)
            if displaced is not None and displaced != ports:
                self.retired.setdefault(displaced, now)
            self.sets[key] = ports
        self.retired.pop(ports, None)
        if self.current is not None and self.current != ports:
            self.retired[self.current] = now
        self.current = ports

    def retire(self, now: float) -> None:
        """Use no set any more; those that are open close when their party has gone quiet."""
        for ports in self.open_sets():
            self.retired.setdefault(ports, now)
        self.current = None

    def forget(self, ports: PortSet) -> None:
        """Drop a set that has been closed."""
        self.retired.pop(ports, None)
        self.sets = {key: held for key, held in self.sets.items() if held != ports}

    def open_sets(self) -> Collection[PortSet]:
        """All sets that hold sockets, retired ones included, each once."""
        if len(self.sets) == 1 and not self.retired:
            return self.sets.values()
        return {*self.sets.values(), *self.retired}


@dataclass(slots=True, eq=False)
class Media:
    """One m= line as seen by one party: what that party said, and the ports that it sends to."""

    party: Party = Party()
    ports: MediaPorts = field(default_factory=MediaPorts)


@dataclass(slots=True, eq=False)
class Section:
    """Both sides of one m= line: ``sides[0]`` faces the dialogue's first leg."""

    sides: tuple[Media, Media] = field(default_factory=lambda: (Media(), Media()))

    @property
    def rejected(self) -> bool:
        """Whether either party has set the port to 0 (RFC 3264 6)."""
        return any(side.party.offer is not None and side.party.offer.rejected for side in self.sides)


@dataclass(slots=True, eq=False)
class Leg:
    """One party of the call, a SIP tag; the tag is empty until an answer names it."""

    tag: str
    created: float
    active: Dialogue | None = None


@dataclass(slots=True, eq=False)
class Dialogue:
    """Two legs that talk to each other; forking gives one leg several of these."""

    legs: list[Leg]
    sections: list[Section] = field(default_factory=list)

    def side_of(self, leg: Leg) -> int:
        """0 or 1: the index of ``leg`` in ``legs`` and of its media in every section."""
        return 0 if self.legs[0] is leg else 1

    def partner(self, leg: Leg) -> Leg:
        """The other leg."""
        return self.legs[1 - self.side_of(leg)]


class _Exchange(NamedTuple):
    """One offer or answer: the side that speaks, how to treat it, and the first section that it is about."""

    sender: int
    how: Signalling
    first: int
    is_offer: bool


@dataclass(slots=True)
class _Step:
    """The planned change of one section: new words of both parties and the ports of both sides."""

    section: Section
    parties: tuple[Party, Party]
    keys: tuple[Endpoint | None, Endpoint | None]
    ports: tuple[PortSet | None, PortSet | None]
    plan: MediaPlan


@dataclass(slots=True, eq=False)
class Call:
    """Everything under one call-id. Times are monotonic seconds."""

    call_id: str
    created: float
    learning: Learning
    transport: MediaTransport
    last_signal: float = 0.0
    legs: list[Leg] = field(default_factory=list)
    dialogues: list[Dialogue] = field(default_factory=list)
    media_ports: list[MediaPorts] = field(default_factory=list)
    via_branches: set[str] = field(default_factory=set)
    ends_at: float | None = None
    next_check: float | None = None

    def leg(self, tag: str) -> Leg | None:
        """The leg with this tag, None if there is none; an unnamed leg is never found."""
        return next((leg for leg in self.legs if leg.tag == tag), None) if tag else None

    def offer(
        self, from_tag: str, offers: list[MediaOffer], how: Signalling, now: float, first: int = 0
    ) -> list[MediaPlan]:
        """Take an offer (or re-offer) of ``from_tag`` and return what the recipient is to be told, per section.

        ``first`` is the index of the first section that ``offers`` speaks of; other sections stay as they are.
        Raise ResourceError if ports run out; nothing has changed then.
        """
        leg = self.leg(from_tag) or Leg(from_tag, now)
        dialogue = leg.active or Dialogue([leg, Leg("", now)])
        exchange = _Exchange(dialogue.side_of(leg), how, first, is_offer=True)
        steps = self._plan(dialogue, offers, exchange)
        self._commit(dialogue, steps, exchange, now)
        return [step.plan for step in steps]

    def answer(
        self, from_tag: str, to_tag: str, offers: list[MediaOffer], how: Signalling, now: float, first: int = 0
    ) -> list[MediaPlan]:
        """Take the answer of ``to_tag`` to the offer of ``from_tag``; return what the offerer is to be told.

        ``first`` as in :meth:`offer`.
        Raise ProtocolError if ``from_tag`` is not known, ResourceError if ports run out.
        """
        dialogue = self._dialogue_for_answer(from_tag, to_tag, now)
        offerer = next(leg for leg in dialogue.legs if leg.tag == from_tag)
        exchange = _Exchange(1 - dialogue.side_of(offerer), how, first, is_offer=False)
        steps = self._plan(dialogue, offers, exchange)
        partner = dialogue.partner(offerer)
        partner.tag = partner.tag or to_tag
        self._commit(dialogue, steps, exchange, now)
        return [step.plan for step in steps]

    def remove_leg(self, leg: Leg) -> None:
        """Remove a leg with its dialogues, and the partners that have no other.

        Ports stay open until the call ends: other branches share them.
        """
        partners = [dialogue.partner(leg) for dialogue in self.dialogues if leg in dialogue.legs]
        self.dialogues = [dialogue for dialogue in self.dialogues if leg not in dialogue.legs]
        self.legs.remove(leg)
        for partner in partners:
            remaining = [dialogue for dialogue in self.dialogues if partner in dialogue.legs]
            if not remaining:
                self.legs.remove(partner)
            elif partner.active not in remaining:
                self._activate(remaining[-1])

    def close(self) -> None:
        """Close every socket of the call."""
        for media_ports in self.media_ports:
            for ports in media_ports.open_sets():
                self.transport.close(ports)
        self.media_ports.clear()
        # Legs and dialogues name each other; apart, all of the call is freed now and not when the collector comes by.
        for leg in self.legs:
            leg.active = None

    def medias(self) -> Iterator[tuple[Leg, Media, Media]]:
        """Every media with the leg that it faces and the media of the other side."""
        for dialogue in self.dialogues:
            for section in dialogue.sections:
                first, second = section.sides
                yield dialogue.legs[0], first, second
                yield dialogue.legs[1], second, first

    # Choosing the dialogue (media.md 1)

    def _dialogue_for_answer(self, from_tag: str, to_tag: str, now: float) -> Dialogue:
        if from_tag == to_tag:
            raise ProtocolError("A party cannot answer itself")
        offerer, answerer = self.leg(from_tag), self.leg(to_tag)
        if offerer is None or offerer.active is None:
            raise ProtocolError("Unknown from-tag")
        current = offerer.active
        if current.partner(offerer).tag in ("", to_tag) and answerer in (None, current.partner(offerer)):
            return current
        known = [d for d in self.dialogues if offerer in d.legs and d.partner(offerer).tag == to_tag]
        return known[0] if known else self._fork(current, offerer, answerer or Leg(to_tag, now))

    def _fork(self, origin: Dialogue, offerer: Leg, answerer: Leg) -> Dialogue:
        """Another dialogue from the same offer: new ports for the offerer, those facing the answerers are shared."""
        side = origin.side_of(offerer)
        dialogue = Dialogue([offerer, answerer] if side == 0 else [answerer, offerer])
        for section in origin.sections:
            asked, answering = section.sides[side], section.sides[1 - side]
            pair = (Media(asked.party), Media(answering.party._replace(offer=None, endpoint=None), answering.ports))
            dialogue.sections.append(Section(pair if side == 0 else (pair[1], pair[0])))
        return dialogue

    # Plan

    def _plan(self, dialogue: Dialogue, offers: list[MediaOffer], exchange: _Exchange) -> list[_Step]:
        known = dialogue.sections[exchange.first :]
        opened: list[PortSet] = []
        try:
            return [
                self._plan_section(known[i] if i < len(known) else Section(), offer, exchange, opened)
                for i, offer in enumerate(offers)
            ]
        except BaseException:
            for ports in opened:
                self.transport.close(ports)
            raise

    def _plan_section(self, section: Section, offer: MediaOffer, exchange: _Exchange, opened: list[PortSet]) -> _Step:
        sender, how, _, is_offer = exchange
        asking, asked = section.sides[sender], section.sides[1 - sender]
        mux = (_mux_of_offer if is_offer else _mux_of_answer)(asking.party, asked.party, offer, how)
        speaker = self._speaker(asking.party, offer, how, mux)
        listener = self._listener(asked.party, speaker, offer, how, mux)
        # The recipient's ports belong to the sender's endpoint; the sender's own wait for the recipient to speak.
        keys = (listener.endpoint, _key(offer))
        if offer.rejected:
            ports: tuple[PortSet | None, PortSet | None] = (None, None)
        else:
            listening = self._ports(asked.ports, keys[1], listener.family, offer.ports, opened)
            ports = (self._sender_ports(asking.ports, keys[0], speaker.family, offer.ports, opened), listening)
        plan = self._media_plan(listener, offer, ports[1], how, is_offer=is_offer)
        if sender == 0:
            return _Step(section, (speaker, listener), keys, ports, plan)
        return _Step(section, (listener, speaker), (keys[1], keys[0]), (ports[1], ports[0]), plan)

    def _speaker(self, known: Party, offer: MediaOffer, how: Signalling, mux: _Mux) -> Party:
        """The sender of this SDP: its own words replace what was known."""
        endpoint = known.endpoint if offer.rejected or offer.held else offer.endpoint
        named = endpoint or offer.endpoint  # a null address still tells the family
        alias = how.received_from if endpoint is not None and how.received_from != endpoint.address else None
        return Party(
            offer=offer,
            endpoint=endpoint,
            protocol=offer.protocol if offer.profile else known.protocol,
            family=named.family if named is not None else known.family,
            rtcp_mux=mux.speaker,
            mux_fixed=mux.speaker_fixed,
            alias=alias,
            asymmetric=how.asymmetric,
            strict=how.strict_source or self.learning is Learning.HEURISTIC,
            handover=how.media_handover,
        )

    def _listener(self, known: Party, speaker: Party, offer: MediaOffer, how: Signalling, mux: _Mux) -> Party:
        """The recipient: what the SIP proxy wants for it, else what it spoke before, else the sender's protocol."""
        protocol = known.protocol if known.offer is not None and known.offer.profile else speaker.protocol
        if how.protocol is not None and offer.profile:
            protocol = how.protocol
        return known._replace(protocol=protocol, family=self._family(known, how), rtcp_mux=mux.listener)

    def _family(self, known: Party, how: Signalling) -> int:
        if how.family is None and how.prefer_ipv6 and IPV6 in self.transport.families:
            return IPV6
        return how.family or known.family

    def _ports(
        self, media_ports: MediaPorts, key: Endpoint | None, family: int, pairs: int, opened: list[PortSet]
    ) -> PortSet:
        found = media_ports.find(key, family, pairs)
        if found is None:
            found = self.transport.open(self.call_id, family, pairs)
            opened.append(found)
        return found

    def _sender_ports(
        self, media_ports: MediaPorts, key: Endpoint | None, family: int, pairs: int, opened: list[PortSet]
    ) -> PortSet:
        """Ports for the sender of this SDP, to be named in the other direction: those it has, as long as they fit."""
        current = media_ports.current
        if current is None:
            return self._ports(media_ports, key, family, pairs, opened)
        return self._ports(media_ports, None, family, len(current.streams) // 2, opened)

    def _media_plan(
        self, listener: Party, offer: MediaOffer, ports: PortSet | None, how: Signalling, *, is_offer: bool
    ) -> MediaPlan:
        rtp = offer.profile is not None
        rtcp_port = None
        if ports is not None and rtp and not how.no_rtcp_attribute:
            rtcp_port = ports.port if listener.rtcp_mux and not is_offer else ports.port + 1
        return MediaPlan(
            local=None if ports is None else Endpoint(self.transport.advertised(ports.family), ports.port),
            rtcp_port=rtcp_port,
            protocol=listener.protocol if rtp else offer.protocol,
            pairs=offer.ports,
            direction=offer.direction,
            rtcp_mux=rtp and listener.rtcp_mux,
            held=offer.held,
        )

    # Commit

    def _commit(self, dialogue: Dialogue, steps: list[_Step], exchange: _Exchange, now: float) -> None:
        # Where a protocol signals section by section, a later one may come first.
        dialogue.sections += [Section() for _ in range(len(dialogue.sections), exchange.first)]
        for i, step in enumerate(steps, exchange.first):
            if i == len(dialogue.sections):
                dialogue.sections.append(step.section)
            for side, media in enumerate(step.section.sides):
                media.party = step.parties[side]
                ports = step.ports[side]
                if ports is None:
                    media.ports.retire(now)
                else:
                    media.ports.use(step.keys[side], ports, now)
                if media.ports not in self.media_ports:
                    self.media_ports.append(media.ports)
        if dialogue not in self.dialogues:
            self.dialogues.append(dialogue)
            self.legs += [leg for leg in dialogue.legs if leg not in self.legs]
        if exchange.how.via_branch:
            self.via_branches.add(exchange.how.via_branch)
        self.last_signal = now
        self._activate(dialogue)

    def _activate(self, dialogue: Dialogue) -> None:
        for leg in dialogue.legs:
            leg.active = dialogue
        for section in dialogue.sections:
            first, second = section.sides
            self._configure(first, second, relayed=not section.rejected)
            self._configure(second, first, relayed=not section.rejected)

    def _configure(self, media: Media, other: Media, *, relayed: bool) -> None:
        """Tell the packet path about every socket that the party of ``media`` may be sending to."""
        sinks = other.ports.current.streams if relayed and other.ports.current is not None else ()
        ports, sink = media.ports, other.party
        wanted = _Wanted(media.party, sink.rtcp_mux, sink.profile, sinks, tuple(ports.open_sets()))
        if ports.applied == wanted:
            return
        for port_set in wanted.open_sets:
            for pair in range(0, len(port_set.streams), 2):
                self._configure_pair(port_set.streams[pair : pair + 2], wanted, pair)
        ports.applied = wanted

    def _configure_pair(self, streams: tuple[int, ...], wanted: _Wanted, pair: int) -> None:
        rtp = self._stream_config(wanted, pair)
        rtcp_peer = stream_endpoint(wanted.party, pair + 1)
        self.transport.configure(streams[0], rtp)
        self.transport.configure(streams[1], rtp._replace(peer=rtcp_peer, rtp_sink=0, rtcp_only=True))

    def _stream_config(self, wanted: _Wanted, pair: int) -> StreamConfig:
        """What the RTP socket of a pair has to do."""
        party, offer = wanted.party, wanted.party.offer
        rtp_sink, rtcp_sink = wanted.sinks[pair : pair + 2] or (0, 0)
        if wanted.mux_sink:
            rtcp_sink = rtp_sink
        rtp = offer is None or offer.profile is not None
        return StreamConfig(
            peer=stream_endpoint(party, pair),
            rtp_sink=rtp_sink,
            rtcp_sink=rtcp_sink if rtp else 0,
            alias=party.alias,
            learning=self.learning,
            strict=party.strict,
            handover=party.handover,
            asymmetric=party.asymmetric,
            stranger_allowed=party.stranger_allowed,
            muted=offer is not None and offer.held,
            rtp=rtp,
            rtcp_mux=party.rtcp_mux,
            strip_feedback=party.profile.feedback and not wanted.sink_profile.feedback,
        )


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


def _key(offer: MediaOffer) -> Endpoint | None:
    return None if offer.endpoint is None or offer.endpoint.is_null else offer.endpoint


# rtcp-mux (RFC 5761 5.1.1): each side decides on its own, and the proxy translates between them.


class _Mux(NamedTuple):
    """Who multiplexes from now on; ``speaker_fixed``: the answer will not change what the speaker is told."""

    speaker: bool
    speaker_fixed: bool
    listener: bool


def _mux_of_offer(speaker: Party, listener: Party, offer: MediaOffer, how: Signalling) -> _Mux:
    """What the recipient is offered, and what the sender's answer will say about it."""
    offered = listener.rtcp_mux or offer.rtcp_mux
    if how.rtcp_mux & {"offer", "require"}:
        offered = True
    elif "demux" in how.rtcp_mux:
        offered = False
    if not offer.rtcp_mux:
        return _Mux(speaker=False, speaker_fixed=True, listener=offered)
    if not offered:
        return _Mux("reject" not in how.rtcp_mux, speaker_fixed=True, listener=False)
    if how.rtcp_mux & {"accept", "reject"}:
        return _Mux("accept" in how.rtcp_mux, speaker_fixed=True, listener=True)
    return _Mux(speaker.rtcp_mux, speaker_fixed=False, listener=True)


def _mux_of_answer(speaker: Party, listener: Party, offer: MediaOffer, _how: Signalling) -> _Mux:
    """The answerer has decided for itself, and for the offerer too unless that was fixed when it offered."""
    told = listener.rtcp_mux if listener.mux_fixed else offer.rtcp_mux
    return _Mux(offer.rtcp_mux, speaker.mux_fixed, told)
