"""What the commands of the mediaproxy protocol do: a line in, the call table asked, the bytes of the reply out.

Pure: times come as arguments. Connections, and what happens to them afterwards, are control_tcp.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from rtpengine import ProtocolError, ResourceError, __version__, openser
from rtpengine.call import Call, Media
from rtpengine.media import IPV4, Endpoint, MediaPlan, PortSet, Signalling
from rtpengine.report import CODECS
from rtpengine.table import CallTable

log = logging.getLogger(__name__)

# Nothing else can be said in this protocol: plain RTP over IPv4, to and from the addresses that the streams name.
_HOW = Signalling(trust_address=True, family=IPV4, protocol="RTP/AVP")
# RFC 2543 knew parties without a tag. The call table does not find a leg by an empty tag, so it gets a name.
_UNTAGGED = "(none)"


class OpenserService:
    """Executes the lines of mediaproxy clients on a :class:`CallTable`.

    ``rates`` tells the bytes and the errors of the last full second; ``refused`` counts the lines that failed.
    """

    def __init__(self, table: CallTable, rates: Callable[[], tuple[int, int]]) -> None:
        self.table = table
        self.refused = 0
        self._rates = rates

    def answer(self, line: bytes, now: float, connections: Sequence[str]) -> bytes:
        """Execute one line at ``now`` (monotonic seconds); return the reply, empty where the protocol has none.

        ``connections`` names the open control connections, newest first. What fails is logged, changes no call
        and is not answered: the protocol has no error replies.
        """
        try:
            return self._execute(openser.parse(line), now, connections)
        except ProtocolError as error:
            log.info("refused a request: %s", error)
        except ResourceError as error:
            log.log(error.level, "refused a request: %s", error)
        self.refused += 1
        return b""

    def _execute(self, command: openser.Command, now: float, connections: Sequence[str]) -> bytes:
        match command:
            case openser.Request(call_id, offers, from_tag):
                return _media_reply(self.table.offer(call_id, from_tag or _UNTAGGED, offers, _HOW, now))
            case openser.Lookup(call_id, offers, from_tag, to_tag):
                return _media_reply(self.table.answer(call_id, from_tag or _UNTAGGED, to_tag, offers, _HOW, now))
            case openser.Delete(call_id):
                self.table.end(self.table.find(call_id), "deleted", now)
            case openser.Status():
                return openser.status_reply(len(self.table), *self._rates(), self._sessions(now))
            case openser.Version():
                return openser.version_reply(__version__)
            case openser.Controls():
                return openser.controls_reply(connections)
        return b""

    def _sessions(self, now: float) -> Iterator[str]:
        for call in self.table:
            yield openser.session_line(call.call_id, int(now - call.created))
            for stream in _streams(call, now):
                yield openser.stream_line(stream)


def _media_reply(plans: Sequence[MediaPlan]) -> bytes:
    return openser.media_reply([plan.local for plan in plans])


def _streams(call: Call, now: float) -> Iterator[openser.StreamStatus]:
    """The streams that have ports on both sides, of every dialogue."""
    for dialogue in call.dialogues:
        for section in dialogue.sections:
            yield from _section_streams(call, section.sides, now)


def _section_streams(call: Call, sides: tuple[Media, Media], now: float) -> Iterator[openser.StreamStatus]:
    a, b = (side.ports.current for side in sides)
    if a is None or b is None:
        return
    for index in range(0, min(len(a.streams), len(b.streams)), 2):
        stream = _stream(call, a, b, index, now)
        if stream is not None:
            yield stream


def _stream(call: Call, a: PortSet, b: PortSet, index: int, now: float) -> openser.StreamStatus | None:
    """One RTP/RTCP pair; None while it is not known where one of the parties is."""
    read = call.transport.state
    rtp_a, rtp_b, rtcp_a, rtcp_b = (read(ports.streams[i]) for i in (index, index + 1) for ports in (a, b))
    if rtp_a.peer is None or rtp_b.peer is None:
        return None
    payload_type = rtp_a.payload_type if rtp_a.payload_type is not None else rtp_b.payload_type
    return openser.StreamStatus(
        peers=(rtp_a.peer, rtp_b.peer),
        local=Endpoint(call.transport.advertised(a.family), a.port + index),
        octets=(rtp_a.bytes + rtcp_a.bytes, rtp_b.bytes + rtcp_b.bytes),
        codec="unknown" if payload_type is None else CODECS.get(payload_type, "unknown"),
        idle_s=int(now - (rtp_a.last_packet or call.created)),
    )
