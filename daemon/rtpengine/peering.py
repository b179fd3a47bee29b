"""The live side of one media: our ICE agent and DTLS associations at its sockets, and the keys that come of them.

Signalling says what is to be (:meth:`Peering.apply`), packets for us arrive by :meth:`Peering.receive`, and what
follows goes to the packet path at once: replies, validated sources, keys.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rtpengine.dtls import Certificate, DtlsClosed, DtlsConnected, DtlsEndpoint, DtlsFailed, DtlsMemory
from rtpengine.ice import AgentMemory, IceAgent, IceRelay
from rtpengine.media import Endpoint, IceCredentials, MediaTransport, PortSet, SrtpKeys
from rtpengine.memory import SrtpMemory
from rtpengine.party import Wanted, stream_endpoint

log = logging.getLogger(__name__)

_Keys = tuple[SrtpKeys | None, SrtpKeys | None]
_NO_KEYS: _Keys = (None, None)


class EndpointMemory(NamedTuple):
    """The DTLS of one stream: which association it is, in which role of ours, and what is known of it."""

    stream: int
    association: int
    role: str
    dtls: DtlsMemory


class PeeringMemory(NamedTuple):
    """What a peering must not forget; streams have the numbers that whoever keeps it gives them.

    ``keys`` are what each stream's party protects with and what we do; ``srtp`` is how far these have come.
    """

    agent: AgentMemory | None = None
    validated: tuple[tuple[int, Endpoint], ...] = ()
    keys: tuple[tuple[int, SrtpKeys | None, SrtpKeys | None], ...] = ()
    endpoints: tuple[EndpointMemory, ...] = ()
    srtp: tuple[SrtpMemory, ...] = ()

    def renumbered(self, number: Mapping[int, int]) -> PeeringMemory:
        """With other numbers for the streams; those that have none go."""
        return self._replace(
            agent=_renumbered_agent(self.agent, number),
            validated=tuple((number[n], source) for n, source in self.validated if n in number),
            keys=tuple((number[n], receive, send) for n, receive, send in self.keys if n in number),
            endpoints=tuple(one._replace(stream=number[one.stream]) for one in self.endpoints if one.stream in number),
        )


def _renumbered_agent(agent: AgentMemory | None, number: Mapping[int, int]) -> AgentMemory | None:
    if agent is None:
        return None
    selections = tuple(one._replace(stream=number[one.stream]) for one in agent.selections if one.stream in number)
    return agent._replace(selections=selections, previous=_renumbered_agent(agent.previous, number))


class Peering:
    """STUN, DTLS and SRTP keys of all sockets that face one party in one media section.

    ``scope`` is a number that no other media of the packet path has: its SRTP contexts go by it.
    """

    def __init__(self, transport: MediaTransport, scope: int, wanted: Wanted) -> None:
        self.transport = transport
        self.scope = scope
        self.wanted = wanted
        self.agent: IceAgent | None = None
        self.relay: tuple[IceRelay, int] | None = None
        """What passes checks on to the other party, and which of its two parties ours is."""
        self._keys: dict[int, _Keys] = {}
        self._associations: dict[int, tuple[int, str]] = {}
        self._endpoints: dict[int, DtlsEndpoint] = {}
        self._validated: dict[int, Endpoint] = {}
        self.revision = 0
        """Advances with everything that packets change and that must not be forgotten."""

    # What outlives the process

    def memory(self, now: float) -> PeeringMemory:
        """What :meth:`restore` makes the same of; times in it are ages. Handshakes under way are not in it."""
        endpoints = ((stream, endpoint.memory) for stream, endpoint in self._endpoints.items())
        first = next(self._streams(), None)
        return PeeringMemory(
            agent=None if self.agent is None else self.agent.memory(now),
            validated=tuple(self._validated.items()),
            keys=tuple((stream, *keys) for stream, keys in self._keys.items() if keys != _NO_KEYS),
            endpoints=tuple(
                EndpointMemory(stream, *self._associations[stream], dtls) for stream, dtls in endpoints if dtls
            ),
            srtp=() if first is None or not self._keys else self.transport.save_srtp(first[0]),
        )

    def restore(self, memory: PeeringMemory, certificate: Certificate | None, now: float, *, late: bool) -> None:
        """Be what another process had, before the first :meth:`apply`; packets must not pass yet.

        ``late``: keys may have been used after that was told, see :meth:`MediaTransport.restore_srtp`.
        """
        if memory.agent is not None:
            self.agent = IceAgent.restored(memory.agent, now)
        self._validated = dict(memory.validated)
        for stream, association, role, dtls in memory.endpoints if certificate else ():
            assert certificate is not None
            self._endpoints[stream] = DtlsEndpoint(certificate, role, dtls.fingerprints)
            self._endpoints[stream].resume(dtls)
            self._associations[stream] = (association, role)
        for stream, receive, send in memory.keys:
            self._protect(stream, (receive, send))
        if memory.keys:
            self.transport.restore_srtp(memory.keys[0][0], memory.srtp, late=late)

    def suspect_use(self) -> None:
        """Another process may have used our keys for a moment: go on as if it had."""
        first = next(self._streams(), None)
        if first is not None and self._keys:
            self.transport.restore_srtp(first[0], self.transport.save_srtp(first[0]), late=True)

    # What signalling wants

    def apply(self, wanted: Wanted, certificate: Certificate | None, now: float) -> None:
        """Bring ICE, DTLS and keys in line with ``wanted``.

        ``certificate`` is that of the call, needed where DTLS is. Call after the streams have been configured.
        """
        self.wanted = wanted
        self._apply_ice()
        self._apply_dtls(certificate, now)
        keying = wanted.party.keying
        if not keying.role or keying.send is not None:
            for stream, _ in self._streams():
                if stream not in self._endpoints:
                    self._protect(stream, (keying.receive, keying.send))

    def _apply_ice(self) -> None:
        reach = self.wanted.party.reach
        if reach.mode == "agent":
            assert reach.local is not None
            if self.agent is None or self.agent.local != reach.local:
                self.agent = IceAgent(reach.local, reach.remote, previous=self.agent)
            self._meet(self.agent, reach.remote)
        else:
            self.agent = None
        if reach.mode != "relay":
            self.relay = None
        if not reach.validates:
            self._validated.clear()

    def _meet(self, agent: IceAgent, remote: IceCredentials | None) -> None:
        """Tell the agent who the party is; the packet path forgets about sources when it hears that there is ICE."""
        is_new = agent.remote is None and remote is not None
        agent.meet(remote)
        for stream, _ in self._streams() if is_new else ():
            source = agent.selected(stream)
            if source is None:
                self._validated.pop(stream, None)
            else:
                self._validated[stream] = source
                self.transport.validate(stream, source, nominated=True)

    def _apply_dtls(self, certificate: Certificate | None, now: float) -> None:
        party = self.wanted.party
        streams = dict(self._streams()) if party.keying.role else {}
        wanted = {stream for stream, index in streams.items() if not (party.rtcp_mux and index % 2)}
        for stream in set(self._endpoints) - wanted:
            self._end_association(stream)
        for stream in wanted:
            assert certificate is not None
            endpoint = self._endpoint(stream, certificate)
            remote = self._validated.get(stream) if party.reach.validates else stream_endpoint(party, streams[stream])
            if self._may_begin() and remote is not None and not party.unsettled:
                endpoint.start(remote, now)
            self._drain(stream)

    def _may_begin(self) -> bool:
        """Whether it is ours to say hello, and the party has answered."""
        keying = self.wanted.party.keying
        return keying.role == "active" and bool(keying.fingerprints)

    def _endpoint(self, stream: int, certificate: Certificate) -> DtlsEndpoint:
        """The DTLS of one socket; a new one where signalling has begun a new association."""
        keying = self.wanted.party.keying
        association = (keying.association, keying.role)
        endpoint, known = self._endpoints.get(stream), self._associations.get(stream)
        begun = known is not None and known[0] == keying.association
        if endpoint is None or not begun or (known != association and endpoint.state != "connected"):
            if endpoint is not None:
                self._end_association(stream)
            endpoint = DtlsEndpoint(certificate, keying.role, keying.fingerprints)
            self._endpoints[stream] = endpoint
            self._associations[stream] = association
        else:
            endpoint.expect(keying.fingerprints)
        return endpoint

    def _end_association(self, stream: int) -> None:
        self._endpoints[stream].close()
        self._drain(stream)
        del self._endpoints[stream], self._associations[stream]
        self._protect(stream, _NO_KEYS)

    def _streams(self) -> Iterator[tuple[int, int]]:
        """Each open stream with its index in its port set."""
        for port_set in self.wanted.open_sets:
            for index, stream in enumerate(port_set.streams):
                yield stream, index

    def _protect(self, stream: int, keys: _Keys) -> None:
        if self._keys.get(stream, _NO_KEYS) != keys:
            self._keys[stream] = keys
            self.revision += 1
            self.transport.protect(stream, self.scope, *keys)

    # What arrives

    def handles(self, stream: int) -> bool:
        """Whether this is one of our sockets."""
        return any(stream in ports.streams for ports in self.wanted.open_sets)

    def receive_stun(self, stream: int, data: bytes, source: Endpoint, now: float) -> None:
        """Take a STUN datagram."""
        if self.agent is not None:
            verdict = self.agent.receive(stream, data, source, now)
            proves = verdict.valid and self._goes_by_checks()
            if proves:
                # Before the reply: what the party sends on hearing it must not find its source unknown.
                self._validate(stream, source, nominated=verdict.nominated)
            if verdict.reply is not None:
                self.transport.send(stream, source, verdict.reply)
            if proves:
                self._shake_hands(stream, source, now)
        elif self.relay is not None:
            self._relay_check(*self.relay, stream, data, source, now)

    def _goes_by_checks(self) -> bool:
        """Whether a check shows where the party is; one that does no ICE is not who was here before it, and did."""
        party = self.wanted.party
        return party.reach.validates or party.offer is None

    def _relay_check(self, relay: IceRelay, side: int, stream: int, data: bytes, source: Endpoint, now: float) -> None:
        forward = relay.receive(side, stream, data, source, now)
        if forward.valid and self._goes_by_checks():
            self._validate(stream, source, nominated=forward.nominated)
        sink = self._sink(stream) if forward.forward else None
        if sink is not None:
            to = forward.to or self.transport.state(sink).peer
            if to is not None:
                self.transport.send(sink, to, data)

    def _sink(self, stream: int) -> int | None:
        """The socket of the same component that faces the other party."""
        index = next(index for known, index in self._streams() if known == stream)
        return self.wanted.sinks[index] if index < len(self.wanted.sinks) else None

    def _validate(self, stream: int, source: Endpoint, *, nominated: bool) -> None:
        # Again and again: the checks of a party on hold are all that shows it to be there still (RFC 7675).
        self.transport.validate(stream, source, nominated=nominated)
        if nominated and self._validated.get(stream) != source:
            self._validated[stream] = source
            self.revision += 1
            log.info("ICE: %s nominated", source)
            self.transport.note(stream, f"ICE nominated {source}")

    def _shake_hands(self, stream: int, source: Endpoint, now: float) -> None:
        """Begin the handshake there, if that is ours to do; nothing happens if it has begun."""
        endpoint = self._endpoints.get(stream)
        if endpoint is not None and self._may_begin():
            endpoint.start(source, now)
            self._drain(stream)

    def receive_dtls(self, stream: int, data: bytes, source: Endpoint, now: float) -> None:
        """Take a DTLS datagram."""
        endpoint = self._endpoints.get(stream)
        if endpoint is not None:
            endpoint.receive(data, source, now, validated=self.wanted.party.reach.validates)
            self._drain(stream)

    @property
    def deadline(self) -> float | None:
        """When :meth:`handle_timeout` is due, in monotonic seconds."""
        deadlines = [endpoint.deadline for endpoint in self._endpoints.values() if endpoint.deadline is not None]
        return min(deadlines, default=None)

    def handle_timeout(self, now: float) -> None:
        """Repeat what has got lost."""
        for stream, endpoint in list(self._endpoints.items()):
            if endpoint.deadline is not None and endpoint.deadline <= now:
                endpoint.handle_timeout(now)
                self._drain(stream)

    def _drain(self, stream: int) -> None:
        """Pass on what the DTLS of a socket has to say."""
        endpoint = self._endpoints[stream]
        # Before the last flight goes: media that follows on the peer's hearing it must not find us without keys.
        for event in endpoint.take_events():
            match event:
                case DtlsConnected():
                    self._connected(stream, event)
                case DtlsFailed():
                    log.info("DTLS failed: %s", event.reason)
                    self.transport.note(stream, f"DTLS failed: {event.reason}")
                case DtlsClosed():
                    log.info("DTLS closed by %s", event.remote)
                    self.transport.note(stream, f"DTLS closed by {event.remote}")
                    self._protect(stream, _NO_KEYS)
        for remote, datagram in endpoint.take_output():
            self.transport.send(stream, remote, datagram)

    def _connected(self, stream: int, event: DtlsConnected) -> None:
        log.info("DTLS connected with %s, SRTP suite %s", event.remote, event.send.suite)
        self.transport.note(stream, f"DTLS connected with {event.remote}, SRTP suite {event.send.suite}")
        self._protect(stream, (event.receive, event.send))
        if not self.wanted.party.reach.validates:
            self.transport.validate(stream, event.remote, nominated=True)

    def forget(self, ports: PortSet) -> None:
        """Let go of a port set whose sockets close now."""
        open_sets = tuple(known for known in self.wanted.open_sets if known != ports)
        self.wanted = self.wanted._replace(open_sets=open_sets)
        for stream in ports.streams:
            for known in (self._keys, self._associations, self._endpoints, self._validated):
                known.pop(stream, None)

    def close(self) -> None:
        """Say goodbye; the sockets are still open."""
        for stream, endpoint in self._endpoints.items():
            endpoint.close()
            for remote, datagram in endpoint.take_output():
                self.transport.send(stream, remote, datagram)

    # What is reported

    @property
    def ice_state(self) -> str | None:
        """How far ICE is, None where we take no part in it."""
        if self.agent is not None:
            return self.agent.state
        return None if self.relay is None else "relayed"

    def dtls_state(self, stream: int) -> str | None:
        """How far DTLS is at a socket, None where there is none."""
        endpoint = self._endpoints.get(stream)
        return None if endpoint is None else endpoint.state

    def suite(self, stream: int) -> str | None:
        """The SRTP suite of what we send there, None without keys."""
        keys = self._keys.get(stream, _NO_KEYS)[1]
        return None if keys is None else keys.suite


def join(first: Peering, second: Peering) -> None:
    """Have two peerings of one section pass on the checks of their parties, if ICE is left to these."""
    reaches = first.wanted.party.reach, second.wanted.party.reach
    if any(reach.mode != "relay" for reach in reaches):
        return
    relay = first.relay[0] if first.relay is not None else IceRelay()
    for side, (peering, reach) in enumerate(zip((first, second), reaches, strict=True)):
        peering.relay = (relay, side)
        if reach.remote is not None:
            relay.learn(side, reach.remote)
