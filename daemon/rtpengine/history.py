"""What has happened to a call, in time order: what an operator reads who asks why it sounds as it does.

Bounded and cheap: an event is a tuple of a time, a port and a text, in which there is never a key.
"""

from __future__ import annotations

from typing import NamedTuple

# How a call has begun stays, and so do the latest events; what makes room lies between the two.
MAX_EVENTS = 64
KEPT_FIRST = 16


class Event(NamedTuple):
    """``now`` in monotonic seconds; ``port`` is the local media port that it is about, 0 where it is about the call."""

    now: float
    port: int
    text: str


class History:
    """The events of one call; ``dropped`` counts those that are no longer there, behind the first KEPT_FIRST."""

    __slots__ = ("dropped", "events")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.dropped = 0

    def note(self, now: float, text: str, port: int = 0) -> None:
        """Remember that something has happened."""
        if len(self.events) == MAX_EVENTS:
            del self.events[KEPT_FIRST]
            self.dropped += 1
        self.events.append(Event(now, port, text))
