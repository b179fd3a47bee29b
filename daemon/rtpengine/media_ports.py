"""The local ports of one media, which come and go while a call is re-negotiated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from rtpengine.media import Endpoint, PortSet
from rtpengine.party import Wanted
from rtpengine.peering import Peering
from rtpengine.quality import Track


@dataclass(slots=True, eq=False)
class MediaPorts:
    """The local ports of one media: one set per endpoint of the *other* party (sdp.md 5).

    A party sees other ports when its peer moves, and the old ones again when the peer moves back.
    The key None marks a set opened in advance, before the other party has spoken.
    ``applied`` is what the packet path was last told about all of them. ``peering`` answers STUN and DTLS there, and
    holds the keys; None as long as there is neither. ``tracks`` tell by RTP stream how good it was.
    """

    sets: dict[Endpoint | None, PortSet] = field(default_factory=dict)
    current: PortSet | None = None
    retired: dict[PortSet, float] = field(default_factory=dict)
    applied: Wanted | None = None
    peering: Peering | None = None
    tracks: dict[int, Track] = field(default_factory=dict)

    def find(self, key: Endpoint | None, family: int, pairs: int) -> PortSet | None:
        """The open set to use towards ``key`` (None: that in use, or one before), None if another must be opened.

        Sets that have retired but are still open count, so that who takes back a rejection gets the same ports.
        """
        found = self.current if key is None else self.sets.get(key)
        # Of several destinations of an offer, one may answer that was told of an earlier set.
        earlier = list(reversed(self.retired)) if key is None and self.current is not None else []
        for ports in [found or self.sets.get(None), *earlier]:
            if ports is not None and ports.family == family and len(ports.streams) >= 2 * pairs:
                return ports
        return None

    def use(self, key: Endpoint | None, ports: PortSet, now: float) -> None:
        """Make ``ports`` the current set, known by ``key``; the one it replaces retires."""
        if key is not None and self.sets.get(None) == ports:
            del self.sets[None]
        if ports not in self.sets.values() or key is not None:
            displaced = self.sets.get(key)
            if displaced is not None and displaced != ports:
                self.retired.setdefault(displaced, now)
            # One key per set: a party whose ports stay whatever its peer does would collect one for each address.
            self.sets = {known: held for known, held in self.sets.items() if held != ports}
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
        """Drop a set that closes now."""
        self.retired.pop(ports, None)
        self.sets = {key: held for key, held in self.sets.items() if held != ports}
        for stream in ports.streams:
            self.tracks.pop(stream, None)
        if self.peering is not None:
            self.peering.forget(ports)

    def open_sets(self) -> Collection[PortSet]:
        """All sets that hold sockets, retired ones included, each once."""
        if len(self.sets) == 1 and not self.retired:
            return self.sets.values()
        return {*self.sets.values(), *self.retired}
