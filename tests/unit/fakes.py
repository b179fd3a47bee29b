"""Stand-ins for what engines are given: sockets that only exist in a dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import ENOENT
from functools import cache
from random import Random

from rtpengine import ProtocolError, ResourceError
from rtpengine.dtls import Certificate
from rtpengine.keying import Tools
from rtpengine.media import IPV4, IPV6, Endpoint, PortSet, Quality, Reports, SrtpKeys, StreamConfig, StreamState
from rtpengine.memory import SrtpMemory, StreamMemory


@cache
def _certificate() -> Certificate:
    return Certificate.generate(datetime.now(UTC))


TOOLS = Tools(Random(4).randbytes, _certificate, ("Foundation000001", "Foundation000002"))
"""Keys and credentials that anybody could guess."""


@dataclass
class FakeTransport:
    """A MediaTransport that hands out ports in order and remembers what it was told."""

    families: frozenset[int] = frozenset((IPV4, IPV6))
    next_port: int = 30000
    limit: int = 1000
    opened: dict[int, PortSet] = field(default_factory=dict)
    configs: dict[int, StreamConfig] = field(default_factory=dict)
    heard: dict[int, float] = field(default_factory=dict)
    states: dict[int, StreamState] = field(default_factory=dict)
    configured: int = 0
    keys: dict[int, tuple[int, SrtpKeys | None, SrtpKeys | None]] = field(default_factory=dict)
    validated: dict[int, list[tuple[Endpoint, bool]]] = field(default_factory=dict)
    sent: list[tuple[int, Endpoint, bytes]] = field(default_factory=list)
    held: set[int] = field(default_factory=set)
    memories: dict[int, StreamMemory] = field(default_factory=dict)
    srtp: dict[int, tuple[SrtpMemory, ...]] = field(default_factory=dict)
    late: set[bool] = field(default_factory=set)
    notes: list[tuple[int, str]] = field(default_factory=list)

    def advertised(self, family: int) -> str:
        return {IPV4: "198.51.100.2", IPV6: "2001:db8::2"}[family]

    def open(self, call_id: str, family: int, pairs: int) -> PortSet:
        if family not in self.families:
            raise ProtocolError(f"Address family IP{family} is not configured")
        if len(self.opened) >= self.limit:
            raise ResourceError("Ran out of ports")
        port = self.next_port
        self.next_port += 2 * pairs
        ports = PortSet(family, port, tuple(range(port, port + 2 * pairs)))
        self.opened[port] = ports
        return ports

    def reopen(self, call_id: str, family: int, port: int, pairs: int) -> PortSet:
        if family not in self.families:
            raise ProtocolError(f"Address family IP{family} is not configured")
        if port in self.opened:
            raise ResourceError(f"Port {port} is in use")
        ports = PortSet(family, port, tuple(range(port, port + 2 * pairs)))
        self.opened[port] = ports
        self.held.update(ports.streams)
        return ports

    def resume(self, ports: PortSet) -> None:
        self.held.difference_update(ports.streams)

    def save(self, stream: int) -> StreamMemory:
        self._check(stream)
        return self.memories.get(stream, StreamMemory())

    def restore(self, stream: int, memory: StreamMemory) -> None:
        self._check(stream)
        assert stream in self.configs or memory == StreamMemory()
        self.memories[stream] = memory

    def save_srtp(self, stream: int) -> tuple[SrtpMemory, ...]:
        self._check(stream)
        return self.srtp.get(stream, ())

    def restore_srtp(self, stream: int, contexts: tuple[SrtpMemory, ...], *, late: bool) -> None:
        assert stream in self.keys
        self.srtp[stream] = contexts
        self.late.add(late)

    def close(self, ports: PortSet) -> None:
        del self.opened[ports.port]
        for stream in ports.streams:
            self.configs.pop(stream, None)
            self.keys.pop(stream, None)
            self.validated.pop(stream, None)
            self.srtp.pop(stream, None)
            self.memories.pop(stream, None)
            self.held.discard(stream)

    def configure(self, stream: int, config: StreamConfig) -> None:
        self.configured += 1
        self.configs[stream] = config

    def _check(self, stream: int) -> None:
        if not any(stream in ports.streams for ports in self.opened.values()):
            raise OSError(ENOENT, "no such stream")

    def protect(self, stream: int, scope: int, receive: SrtpKeys | None, send: SrtpKeys | None) -> None:
        self._check(stream)
        self.keys[stream] = (scope, receive, send)

    def validate(self, stream: int, source: Endpoint, *, nominated: bool) -> None:
        self._check(stream)
        self.validated.setdefault(stream, []).append((source, nominated))

    def send(self, stream: int, to: Endpoint, data: bytes) -> None:
        self._check(stream)
        self.sent.append((stream, to, data))

    def state(self, stream: int) -> StreamState:
        config = self.configs.get(stream)
        peer = config.peer if config and not config.ice else None  # with ICE, nobody before a check
        fresh = StreamState(peer, False, 0, 0, 0, None, None, {})
        return self.states.get(stream, fresh)

    def quality_of(self, stream: int) -> tuple[Quality, Reports]:
        """What the packet path calls ``heard``."""
        state = self.state(stream)
        return state.quality, state.reports

    def last_packet(self, stream: int) -> float:
        return self.heard.get(stream, 0.0)

    def source(self, stream: int) -> Endpoint | None:
        return self.state(stream).peer if stream in self.heard else None

    def note(self, stream: int, event: str) -> None:
        self.notes.append((stream, event))
