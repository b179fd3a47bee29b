"""A call as a plain dictionary, and back: what outlives the process, in Redis or on the way to a successor.

The records below are the format. What they hold of other modules (what the parties said, keys, ICE) follows from
those modules' own types, by :mod:`rtpengine.plain`; streams are numbered through the port sets in their order.
A field may come with a default at any time. Any other change takes a new VERSION, and a step in :func:`_record`
which makes of the version before what it is now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rtpengine import ProtocolError, ResourceError
from rtpengine.call import Call, Dialogue, Leg, Media, Section, join_sides
from rtpengine.dtls import Certificate, CertificateMemory
from rtpengine.keying import Tools
from rtpengine.media import Endpoint, Format, Learning, MediaTransport, PortSet, Profile
from rtpengine.media_ports import MediaPorts
from rtpengine.memory import StreamMemory
from rtpengine.party import Party, Wanted
from rtpengine.peering import Peering, PeeringMemory
from rtpengine.plain import Mismatch, decode, encode

VERSION = 1


class SnapshotError(Exception):
    """A call cannot be restored; the text is a reason without capital letter or full stop, and holds no key."""


class _Media(NamedTuple):
    party: int
    ports: int


class _Dialogue(NamedTuple):
    legs: tuple[int, int]
    sections: tuple[tuple[_Media, _Media], ...]


class _Leg(NamedTuple):
    tag: str
    age: float
    active: int | None = None


class _PortSet(NamedTuple):
    family: int
    port: int
    streams: tuple[StreamMemory, ...]


class _Wanted(NamedTuple):
    party: int
    mux_sink: bool
    sink_profile: Profile
    sinks: int | None = None
    formats: tuple[Format, ...] = ()


class _MediaPorts(NamedTuple):
    sets: tuple[tuple[Endpoint | None, int], ...] = ()
    current: int | None = None
    retired: tuple[tuple[int, float], ...] = ()
    applied: _Wanted | None = None
    peering: PeeringMemory | None = None


class _Call(NamedTuple):
    """The first ``owned`` of ``ports`` are those of the call; others belong to sections nobody has spoken of yet.

    ``saved`` is the wall clock's time, other times are ages in seconds; ``ends_in`` may be negative.
    """

    call_id: str
    saved: float
    age: float
    signalled: float
    learning: Learning
    parties: tuple[Party, ...]
    sets: tuple[_PortSet, ...]
    ports: tuple[_MediaPorts, ...]
    owned: int
    legs: tuple[_Leg, ...]
    dialogues: tuple[_Dialogue, ...]
    via_branches: frozenset[str] = frozenset()
    ends_in: float | None = None
    certificate: CertificateMemory | None = None


class _Numbers:
    """Objects in the order in which they are first asked for."""

    def __init__(self, known: Iterable[Any] = ()) -> None:
        self.items: list[Any] = list(known)
        self._numbers = {id(item): number for number, item in enumerate(self.items)}

    def of(self, item: Any) -> int:
        number = self._numbers.setdefault(id(item), len(self.items))
        if number == len(self.items):
            self.items.append(item)
        return number


def dump(call: Call, now: float, wall: float) -> dict[str, Any]:
    """All of a call, for :func:`Restorer.restore`; ``now`` is the monotonic clock's time, ``wall`` the other's."""
    return {"version": VERSION, "call": encode(_Dump(call, now).record(wall))}


class _Dump:
    def __init__(self, call: Call, now: float) -> None:
        self._call = call
        self._now = now
        self._parties = _Numbers()
        self._ports = _Numbers(call.media_ports)
        self._sets: list[PortSet] = []
        self._streams: dict[int, int] = {}

    def record(self, wall: float) -> _Call:
        call, now = self._call, self._now
        numbers = _Numbers(call.dialogues)
        legs = _Numbers(call.legs)
        dialogues = tuple(
            _Dialogue(
                (legs.of(dialogue.legs[0]), legs.of(dialogue.legs[1])),
                tuple((self._media(section.sides[0]), self._media(section.sides[1])) for section in dialogue.sections),
            )
            for dialogue in call.dialogues
        )
        for media_ports in self._ports.items:
            for ports in media_ports.open_sets():
                self._streams.update({stream: len(self._streams) + i for i, stream in enumerate(ports.streams)})
                self._sets.append(ports)
        # Before the keys: this also takes over how far the kernel has come with them.
        sets = tuple(map(self._port_set, self._sets))
        ports_records = tuple(map(self._media_ports, self._ports.items))
        certificate = call.chosen_certificate
        return _Call(
            call_id=call.call_id,
            saved=wall,
            age=now - call.created,
            signalled=now - call.last_signal,
            learning=call.learning,
            parties=tuple(self._parties.items),
            sets=sets,
            ports=ports_records,
            owned=len(call.media_ports),
            legs=tuple(
                _Leg(leg.tag, now - leg.created, numbers.of(leg.active) if leg.active in call.dialogues else None)
                for leg in legs.items
            ),
            dialogues=dialogues,
            via_branches=frozenset(call.via_branches),
            ends_in=None if call.ends_at is None else call.ends_at - now,
            certificate=None if certificate is None else certificate.memory,
        )

    def _media(self, media: Media) -> _Media:
        return _Media(self._parties.of(media.party), self._ports.of(media.ports))

    def _port_set(self, ports: PortSet) -> _PortSet:
        return _PortSet(ports.family, ports.port, tuple(map(self._call.transport.save, ports.streams)))

    def _media_ports(self, media_ports: MediaPorts) -> _MediaPorts:
        applied, peering, current = media_ports.applied, media_ports.peering, media_ports.current
        wanted = None
        if applied is not None:
            sinks = next((i for i, ports in enumerate(self._sets) if ports.streams == applied.sinks), None)
            party = self._parties.of(applied.party)
            wanted = _Wanted(party, applied.mux_sink, applied.sink_profile, sinks, applied.formats)
        return _MediaPorts(
            sets=tuple((key, self._sets.index(ports)) for key, ports in media_ports.sets.items()),
            current=None if current is None else self._sets.index(current),
            retired=tuple((self._sets.index(ports), self._now - at) for ports, at in media_ports.retired.items()),
            applied=wanted,
            peering=None if peering is None else peering.memory(self._now).renumbered(self._streams),
        )


class Restorer:
    """Makes calls of what :func:`dump` has told, in this process.

    ``late``: whoever told it went on afterwards, so that SRTP indices may have moved.
    """

    def __init__(self, transport: MediaTransport, tools: Tools, *, late: bool) -> None:
        self._transport = transport
        self._tools = tools
        self._late = late
        self._certificates: dict[CertificateMemory, Certificate] = {}

    def restore(self, data: Any, now: float, wall: float) -> Call:
        """The call, whose sockets are open but not read before :meth:`resume`.

        Raise SnapshotError, and then nothing is left behind.
        """
        record = _record(data)
        opened: list[PortSet] = []
        try:
            for one in record.sets:
                pairs, odd = divmod(len(one.streams), 2)
                if odd or not pairs or not 1 <= one.port <= 65536 - 2 * pairs:
                    raise SnapshotError("a port set that cannot be")
                opened.append(self._transport.reopen(record.call_id, one.family, one.port, pairs))
            call = self._built(record, opened, now, max(0.0, wall - record.saved))
            for ports, one in zip(opened, record.sets, strict=True):
                for stream, memory in zip(ports.streams, one.streams, strict=True):
                    self._transport.restore(stream, memory)
            return call
        except BaseException as error:
            for ports in opened:
                self._transport.close(ports)
            if isinstance(error, SnapshotError) or not isinstance(error, Exception):
                raise
            raise SnapshotError(_reason(error)) from error

    def resume(self, call: Call) -> None:
        """Let packets pass."""
        for media_ports in call.media_ports:
            for ports in media_ports.open_sets():
                self._transport.resume(ports)

    def _built(self, record: _Call, opened: Sequence[PortSet], now: float, pause: float) -> Call:
        call = Call(record.call_id, now - record.age - pause, record.learning, self._transport, self._tools)
        call.last_signal = now - record.signalled - pause
        call.via_branches = set(record.via_branches)
        call.ends_at = None if record.ends_in is None else now + record.ends_in - pause
        if record.certificate is not None:
            call.chosen_certificate = self._certificate(record.certificate)
        all_ports = [_ports(one, opened, now - pause) for one in record.ports]
        call.media_ports = all_ports[: record.owned]
        everyone = [Leg(leg.tag, now - leg.age - pause) for leg in record.legs]
        call.dialogues = [_dialogue(one, everyone, record.parties, all_ports) for one in record.dialogues]
        for leg, known in zip(everyone, record.legs, strict=True):
            leg.active = None if known.active is None else call.dialogues[known.active]
        call.legs = everyone
        self._apply(call, record, all_ports, opened, now)
        for section in _in_force(call):
            join_sides(section)
        return call

    def _apply(
        self, call: Call, record: _Call, all_ports: Sequence[MediaPorts], opened: Sequence[PortSet], now: float
    ) -> None:
        """Bring sockets and peers to where they were."""
        streams = dict(enumerate(stream for ports in opened for stream in ports.streams))
        for one, ports in zip(record.ports, all_ports, strict=True):
            if one.applied is None:
                continue
            wanted = Wanted(
                record.parties[one.applied.party],
                one.applied.mux_sink,
                one.applied.sink_profile,
                () if one.applied.sinks is None else opened[one.applied.sinks].streams,
                tuple(ports.open_sets()),
                one.applied.formats,
            )
            if one.peering is not None and wanted.open_sets:
                # The number is free: the stream is this process's, and so is its id.
                ports.peering = Peering(self._transport, wanted.open_sets[0].streams[0], wanted)
                memory = one.peering.renumbered(streams)
                ports.peering.restore(memory, call.chosen_certificate, now, late=self._late)
            call.apply(ports, wanted, now)

    def _certificate(self, memory: CertificateMemory) -> Certificate:
        if memory not in self._certificates:
            self._certificates[memory] = Certificate.load(memory, self._tools.suites)
        return self._certificates[memory]


def _record(data: Any) -> _Call:
    """The record in a snapshot of this version or the one before, of which there is none yet."""
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION:
        raise SnapshotError(f"version {version!a:.20} is not {VERSION}" if version else "no snapshot of a call")
    try:
        record = decode(_Call, data.get("call"))
    except Mismatch as reason:
        raise SnapshotError(str(reason)) from None
    # Python would take them from the end.
    if any(number < 0 for number in _numbers(record)):
        raise SnapshotError("a number that stands for nothing")
    return record


def _numbers(record: _Call) -> Iterator[int]:
    """All that stands for something else in the record."""
    yield record.owned
    for dialogue in record.dialogues:
        yield from dialogue.legs
        yield from (number for sides in dialogue.sections for side in sides for number in side)
    yield from (leg.active for leg in record.legs if leg.active is not None)
    for ports in record.ports:
        yield from (number for _, number in ports.sets)
        yield from (number for number, _ in ports.retired)
        yield ports.current or 0
        if ports.applied is not None:
            yield from (ports.applied.party, ports.applied.sinks or 0)


def _ports(record: _MediaPorts, opened: Sequence[PortSet], now: float) -> MediaPorts:
    return MediaPorts(
        sets={key: opened[number] for key, number in record.sets},
        current=None if record.current is None else opened[record.current],
        retired={opened[number]: now - age for number, age in record.retired},
    )


def _dialogue(
    record: _Dialogue, legs: Sequence[Leg], parties: Sequence[Party], all_ports: Sequence[MediaPorts]
) -> Dialogue:
    def media(one: _Media) -> Media:
        return Media(parties[one.party], all_ports[one.ports])

    sections = [Section((media(first), media(second))) for first, second in record.sections]
    return Dialogue([legs[number] for number in record.legs], sections)


def _in_force(call: Call) -> Iterable[Section]:
    """The sections of all dialogues, those that are active last: forked ones share who answers checks."""
    active = [leg.active for leg in call.legs]
    for dialogue in sorted(call.dialogues, key=active.count):
        yield from dialogue.sections


def _reason(error: Exception) -> str:
    if isinstance(error, (ProtocolError, ResourceError)):
        return f"{str(error)[:1].lower()}{str(error)[1:]}"
    if isinstance(error, OSError):
        return error.strerror or "the system refuses"
    if isinstance(error, IndexError):
        return "a number that stands for nothing"
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__} in what was saved"
