"""The model of a call: legs, dialogues, media and their ports; how an offer or an answer changes it (RFC 3264).

No SDP here: all control protocols meet in :class:`~rtpengine.media.MediaOffer`. A change is first planned in
full, opening the ports that it needs, and only then committed, so a failure leaves the call as it was.

    Call ── Leg (a SIP tag) ── Dialogue (two legs) ── Section (an m= line) ── Media (faces one leg) ── MediaPorts
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rtpengine import ProtocolError
from rtpengine.dtls import Certificate
from rtpengine.history import History
from rtpengine.keying import Tools
from rtpengine.media import (
    IPV6,
    Endpoint,
    Learning,
    MediaOffer,
    MediaPlan,
    MediaTransport,
    PortSet,
    Signalling,
    StreamConfig,
)
from rtpengine.media_ports import MediaPorts
from rtpengine.party import (
    Mux,
    Party,
    Wanted,
    formats_of,
    is_unsettling,
    mux_of_answer,
    mux_of_offer,
    stream_endpoint,
)
from rtpengine.peering import Peering, join
from rtpengine.securing import Securing, is_concerned

# A replaced port set lives on while its party still uses it, and this many seconds more: a re-INVITE can fail
# (RFC 3261 14.1), and then the old session description, with the old ports, stays in force.
RETIREMENT_S = 60.0


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
    tools: Tools
    last_signal: float = 0.0
    legs: list[Leg] = field(default_factory=list)
    dialogues: list[Dialogue] = field(default_factory=list)
    media_ports: list[MediaPorts] = field(default_factory=list)
    via_branches: set[str] = field(default_factory=set)
    history: History = field(default_factory=History)
    ends_at: float | None = None
    next_check: float | None = None
    next_deadline: float | None = None
    sampled: float = 0.0
    revision: int = 0  # counts what signalling has changed
    chosen_certificate: Certificate | None = None

    @property
    def certificate(self) -> Certificate:
        """The one that was current when the call first needed one, for the call's whole life."""
        if self.chosen_certificate is None:
            self.chosen_certificate = self.tools.certificate()
        return self.chosen_certificate

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

    def remove_leg(self, leg: Leg, now: float) -> None:
        """Remove a leg with its dialogues, and the partners that have no other.

        Ports stay open until the call ends: other branches share them.
        """
        partners = [dialogue.partner(leg) for dialogue in self.dialogues if leg in dialogue.legs]
        self.dialogues = [dialogue for dialogue in self.dialogues if leg not in dialogue.legs]
        self.legs.remove(leg)
        self.revision += 1
        for partner in partners:
            remaining = [dialogue for dialogue in self.dialogues if partner in dialogue.legs]
            if not remaining:
                self.legs.remove(partner)
            elif partner.active not in remaining:
                self._activate(remaining[-1], now)

    def close(self) -> None:
        """Close every socket of the call."""
        for media_ports in self.media_ports:
            if media_ports.peering is not None:
                media_ports.peering.close()
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

    # Packets for us

    def peering_at(self, stream: int) -> Peering | None:
        """Who answers STUN and DTLS at a socket, None if nobody does."""
        return next((p for p in self.peerings() if p.handles(stream)), None)

    def peerings(self) -> Iterator[Peering]:
        """Everybody who answers STUN and DTLS in this call."""
        return (ports.peering for ports in self.media_ports if ports.peering is not None)

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
        known = dialogue.sections
        opened: list[PortSet] = []
        try:
            return [
                self._plan_section(known[i] if i < len(known) else _further(known), i, offer, exchange, opened)
                for i, offer in enumerate(offers, exchange.first)
            ]
        except BaseException:
            for ports in opened:
                self.transport.close(ports)
            raise

    def _plan_section(
        self, section: Section, index: int, offer: MediaOffer, exchange: _Exchange, opened: list[PortSet]
    ) -> _Step:
        sender, how, _, is_offer = exchange
        asking, asked = section.sides[sender], section.sides[1 - sender]
        told = asked.party
        if offer.rejected and is_offer and asking.party.is_live and told.is_live:
            return self._withdrawal(section, index, offer, exchange)
        if not is_offer and told.offer is not None and (told.withdrawn or told.offer.rejected):
            # RFC 3264 8.2: the answer ends the section, whatever port it names.
            offer, told = offer._replace(rejected=True), told._replace(offer=told.offer._replace(rejected=True))
        mux = (mux_of_offer if is_offer else mux_of_answer)(asking.party, told, offer, how)
        unsettled = is_offer and is_unsettling(asking.party, told, offer)
        speaker = self._speaker(asking.party, offer, how, mux, unsettled=unsettled)
        listener = self._listener(told, speaker, offer, how, mux, is_offer=is_offer)
        securing = None
        if is_concerned(how, asking.party, told, speaker, listener):
            securing = Securing(asking.party, told, offer, how, self.tools, is_offer=is_offer)
            speaker, listener = securing.negotiate(speaker, listener)
        # The recipient's ports belong to the sender's endpoint; the sender's own wait for the recipient to speak.
        keys = (listener.endpoint, _key(offer))
        if offer.rejected:
            ports: tuple[PortSet | None, PortSet | None] = (None, None)
        else:
            # Who has checked its way to a port, or shaken hands there, is not sent to another one.
            key = None if told.is_bound else keys[1]
            listening = self._ports(asked.ports, key, listener.family, offer.ports, opened)
            ports = (self._sender_ports(asking.ports, keys[0], speaker.family, offer.ports, opened), listening)
        plan = self._media_plan(listener, offer, ports[1], how, is_offer=is_offer)
        if securing is not None:
            fingerprint = self.certificate.fingerprint if listener.keying.role else None
            plan = securing.told(plan, listener, index, fingerprint)
        if sender == 0:
            return _Step(section, (speaker, listener), keys, ports, plan)
        return _Step(section, (listener, speaker), (keys[1], keys[0]), (ports[1], ports[0]), plan)

    def _withdrawal(self, section: Section, index: int, offer: MediaOffer, exchange: _Exchange) -> _Step:
        """Port 0 in a re-offer, as beside a fax: until the answer, or for ever if there is none, all goes on."""
        sender, how, _, _ = exchange
        asking, asked = (section.sides[side].party for side in (sender, 1 - sender))
        plan = self._media_plan(asked, offer, None, how, is_offer=True)
        plan = Securing(asking, asked, offer, how, self.tools, is_offer=True).told(plan, asked, index, None)
        asking = asking._replace(withdrawn=True)
        first, second = section.sides
        ports = (first.ports.current, second.ports.current)
        return _Step(section, (asking, asked) if sender == 0 else (asked, asking), (None, None), ports, plan)

    def _speaker(self, known: Party, offer: MediaOffer, how: Signalling, mux: Mux, *, unsettled: bool) -> Party:
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
            prefers=how.dtls,
            keying=known.keying,
            pitch=known.pitch,
            reach=known.reach,
            unsettled=unsettled,
        )

    def _listener(
        self, known: Party, speaker: Party, offer: MediaOffer, how: Signalling, mux: Mux, *, is_offer: bool
    ) -> Party:
        """The recipient: what the SIP proxy wants for it, else what it spoke before, else the sender's protocol."""
        protocol = known.protocol if known.offer is not None and known.is_rtp else speaker.protocol
        if how.protocol is not None and offer.profile:
            protocol = how.protocol
        return known._replace(
            protocol=protocol,
            family=self._family(known, how),
            rtcp_mux=mux.listener,
            unsettled=is_offer and known.unsettled,
            withdrawn=False,
        )

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
        self.revision += 1
        self._activate(dialogue, now)

    def _activate(self, dialogue: Dialogue, now: float) -> None:
        for leg in dialogue.legs:
            leg.active = dialogue
        for section in dialogue.sections:
            first, second = section.sides
            self._configure(first, second, now, relayed=not section.rejected)
            self._configure(second, first, now, relayed=not section.rejected)
            join_sides(section)

    def _configure(self, media: Media, other: Media, now: float, *, relayed: bool) -> None:
        """Tell the packet path about every socket that the party of ``media`` may be sending to."""
        sinks = other.ports.current.streams if relayed and other.ports.current is not None else ()
        ports, sink = media.ports, other.party
        formats = formats_of(media.party, sink)
        wanted = Wanted(media.party, sink.rtcp_mux, sink.profile, sinks, tuple(ports.open_sets()), formats)
        if ports.applied != wanted:
            self.apply(ports, wanted, now)
        else:
            # A handshake that nobody answered in time is tried again whenever signalling comes by.
            self._apply_peering(ports, wanted, now)

    def apply(self, ports: MediaPorts, wanted: Wanted, now: float) -> None:
        """Bring the sockets of one media, and who answers there, in line with ``wanted``."""
        for port_set in wanted.open_sets:
            for pair in range(0, len(port_set.streams), 2):
                self._configure_pair(port_set.streams[pair : pair + 2], wanted, pair)
        ports.applied = wanted
        if ports.peering is None and wanted.party.is_peer and ports.current is not None:
            ports.peering = Peering(self.transport, ports.current.streams[0], wanted)
        self._apply_peering(ports, wanted, now)

    def _apply_peering(self, ports: MediaPorts, wanted: Wanted, now: float) -> None:
        if ports.peering is not None:
            ports.peering.apply(wanted, self.certificate if wanted.party.keying.role else None, now)

    def _configure_pair(self, streams: tuple[int, ...], wanted: Wanted, pair: int) -> None:
        rtp = self._stream_config(wanted, pair)
        rtcp_peer = stream_endpoint(wanted.party, pair + 1)
        self.transport.configure(streams[0], rtp)
        # The port above that of a multiplexing party is only a fall-back: no handshake ever gives it keys.
        dtls = rtp.dtls and not rtp.rtcp_mux
        self.transport.configure(streams[1], rtp._replace(peer=rtcp_peer, rtp_sink=0, rtcp_only=True, dtls=dtls))

    def _stream_config(self, wanted: Wanted, pair: int) -> StreamConfig:
        """What the RTP socket of a pair has to do."""
        party, offer = wanted.party, wanted.party.offer
        rtp_sink, rtcp_sink = wanted.sinks[pair : pair + 2] or (0, 0)
        if wanted.mux_sink:
            rtcp_sink = rtp_sink
        rtp = party.is_rtp
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
            secure=rtp and party.profile.secure,
            stun=party.reach.mode != "",
            ice=party.reach.validates,
            dtls=party.keying.role != "",
            ufrag=party.reach.local.ufrag if party.reach.mode == "agent" and party.reach.local else "",
            formats=wanted.formats,
        )


def _further(known: list[Section]) -> Section:
    """One section more: each party is where it is in the first one, as long as nothing else is said."""
    if not known:
        return Section()
    first, second = (Media(Party(family=side.party.family)) for side in known[0].sides)
    return Section((first, second))


def join_sides(section: Section) -> None:
    """Have the two sides of a section pass on checks, where ICE is left to the parties."""
    first, second = (side.ports.peering for side in section.sides)
    if first is not None and second is not None:
        join(first, second)


def _key(offer: MediaOffer) -> Endpoint | None:
    return None if offer.endpoint is None or offer.endpoint.is_null else offer.endpoint
