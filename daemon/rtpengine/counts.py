"""What has happened since the start, counted: requests by client and command, calls by how they have ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rtpengine.call import Call, Media
from rtpengine.table import media_expected

# Anybody may send requests: the clients of whom each is counted by itself; all further ones count as OTHERS.
MAX_CLIENTS = 100
OTHERS = "others"
UNREADABLE = "unreadable"

# How a call has ended, by the reasons that a CallTable gives; a time-out is told apart below.
ENDS = {"deleted": "terminated"}
REASONS = ("terminated", "timeout", "silent_timeout", "final_timeout", "offer_timeout", "force_terminated")


class RequestCounts:
    """Requests of all control protocols: how many and how long, by client and command; errors by client.

    A client is an address. A request that cannot be read has the command UNREADABLE.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[tuple[str, str], float] = {}
        self.errors: Counter[str] = Counter()
        self._clients: set[str] = set()

    def count(self, client: str, command: str, seconds: float, *, failed: bool) -> None:
        """Take one request that has been answered; ``command`` is one of ours, never the client's text."""
        if client not in self._clients:
            if len(self._clients) >= MAX_CLIENTS:
                client = OTHERS
            self._clients.add(client)
        self.requests[client, command] += 1
        self.seconds[client, command] = self.seconds.get((client, command), 0.0) + seconds
        self.errors[client] += failed


class CallCounts:
    """Calls that are over: how many by reason, how long they were, and what was wrong with their media.

    ``one_way``: calls of which only one side was heard; ``silent_streams``: RTP sockets that never got a packet.
    """

    def __init__(self) -> None:
        self.closed: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.seconds = 0.0
        self.seconds_squared = 0.0
        self.one_way = 0
        self.silent_streams = 0

    @property
    def total(self) -> int:
        """All calls that are over."""
        return sum(self.closed.values())

    @property
    def average_s(self) -> float:
        """How long a call was, on average; 0.0 before the first is over."""
        return self.seconds / self.total if self.total else 0.0

    def ended(self, call: Call, reason: str, now: float) -> None:
        """Take a call that ends, whose streams can still be read."""
        self.closed[_end_of(call, reason)] += 1
        duration = now - call.created
        self.seconds += duration
        self.seconds_squared += duration * duration
        heard = [[call.transport.state(stream).packets for stream in streams] for streams in _rtp_streams(call)]
        self.silent_streams += sum(not packets for side in heard for packets in side)
        self.one_way += sum(any(side) for side in heard) == 1


def _end_of(call: Call, reason: str) -> str:
    """The reason as metrics name it (operations.md 4)."""
    if reason != "timeout":
        return ENDS.get(reason, reason.replace(" ", "_"))
    if not any(leg.tag for dialogue in call.dialogues for leg in dialogue.legs[1:]):
        return "offer_timeout"
    return "timeout" if all(media_expected(*pair) for pair in _sides(call)) else "silent_timeout"


def _sides(call: Call) -> Iterator[tuple[Media, Media]]:
    return ((media, other) for _, media, other in call.medias() if media.ports.current is not None)


def _rtp_streams(call: Call) -> Iterator[list[int]]:
    """The RTP sockets that face each side of the call: the first offerer's, and those of whoever answered.

    Forked dialogues share the latter.
    """
    for side in (0, 1):
        streams: dict[int, None] = {}
        for dialogue in call.dialogues:
            for section in dialogue.sections:
                ports = section.sides[side].ports.current
                if ports is not None and not section.rejected:
                    streams.update(dict.fromkeys(ports.streams[::2]))
        yield list(streams)
