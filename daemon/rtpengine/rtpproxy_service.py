"""What the commands of the rtpproxy protocol do: endpoints in, the call table asked, a port or a count out.

Pure: bytes and times in, a reply out. Sockets, clocks and the retransmission cache are control.py's.
"""

from __future__ import annotations

import logging

from rtpengine import ProtocolError, ResourceError, rtpproxy
from rtpengine.call import Call
from rtpengine.media import IPV4, IPV6, Endpoint, MediaPlan
from rtpengine.report import CallReport
from rtpengine.rtpproxy import DONE, ERROR, VERSION, Command, Delete, Feature, Lookup, Query, Update, Version
from rtpengine.table import NOT_FOUND, CallTable

log = logging.getLogger(__name__)

# A refused line is logged no longer than this.
_LOGGED_LINE = 200


class RtpproxyService:
    """Executes rtpproxy commands on a :class:`CallTable`.

    ``local_ipv4`` is the local, not the advertised, IPv4 address: that is what an answer to no call is told.

    Hold: a null address with a port keeps its stream and gets a real port, since Kamailio fails the call for any
    other and writes the null address itself. Only port 0 disables a stream.
    A command that fails leaves no trace, not even the empty call that an update used to leave behind; ``refused``
    counts them.
    """

    def __init__(self, table: CallTable, local_ipv4: str) -> None:
        self.table = table
        self.refused = 0
        self._local_ipv4 = local_ipv4

    def answer(self, cookie: bytes, line: bytes, now: float, wall: float) -> tuple[bytes, bool]:
        """Execute the line behind a cookie at ``now`` (monotonic seconds; ``wall`` is UNIX time).

        Return the datagram to reply, and whether a retransmission must get the same one instead of a second
        execution. Whatever is wrong with the line is in the reply and logged: neither ProtocolError nor ResourceError
        is raised.
        """
        try:
            command = rtpproxy.parse(line)
            reply = self._execute(command, now, wall)
        except rtpproxy.Unmatched as error:
            self.refused += 1
            _log_unmatched(error, line)
            return error.reply(cookie), False
        except ProtocolError as error:
            self.refused += 1
            log.info("refused a request: %s", error)
            return rtpproxy.serialize(cookie, ERROR), True
        log.info("%s: %s", type(command).__name__.lower(), reply.decode())
        return rtpproxy.serialize(cookie, reply), not isinstance(command, Version | Feature)

    def _execute(self, command: Command, now: float, wall: float) -> bytes:
        match command:
            case Update():
                return self._update(command, now)
            case Lookup():
                return self._lookup(command, now)
            case Delete():
                return self._delete(command, now)
            case Query():
                return self._query(command, now, wall)
            case Version():
                return VERSION
            case Feature():
                return b"1" if command.known else b"0"
        raise AssertionError(f"no such command: {command}")

    def _update(self, command: Update, now: float) -> bytes:
        try:
            plans = self.table.offer(
                command.call_id, command.from_tag, [command.media], command.how, now, command.index
            )
        except ResourceError as error:
            return self._exhausted(command, error)
        return self._planned(command, plans[0])

    def _lookup(self, command: Lookup, now: float) -> bytes:
        call = self._find(command.call_id)
        if call is None or call.leg(command.from_tag) is None:
            log.info("an answer to an unknown call or offer")
            return f"0 {self._local_ipv4}".encode()
        tags = command.from_tag, command.to_tag
        try:
            plans = self.table.answer(command.call_id, *tags, [command.media], command.how, now, command.index)
        except ResourceError as error:
            return self._exhausted(command, error)
        return self._planned(command, plans[0])

    def _planned(self, command: Update | Lookup, plan: MediaPlan) -> bytes:
        if plan.local is not None:
            return rtpproxy.local_media(plan.local)
        null = "::" if self._recipient_family(command) == IPV6 else "0.0.0.0"
        return rtpproxy.local_media(Endpoint(null, 0))

    def _exhausted(self, command: Update | Lookup, error: ResourceError) -> bytes:
        self.refused += 1
        log.log(error.level, "refused a request: %s", error)
        address = self.table.transport.advertised(self._recipient_family(command))
        return rtpproxy.local_media(Endpoint(address, 0))

    def _recipient_family(self, command: Update | Lookup) -> int:
        """The address family towards the recipient where no port tells: as the call engine would choose it."""
        if command.how.prefer_ipv6 and IPV6 in self.table.transport.families:
            return IPV6
        call = self._find(command.call_id)
        sender = call.leg(command.from_tag) if call is not None else None
        if sender is None or sender.active is None or command.index >= len(sender.active.sections):
            return IPV4
        side = sender.active.side_of(sender)
        recipient = side if isinstance(command, Lookup) else 1 - side
        return sender.active.sections[command.index].sides[recipient].party.family

    def _delete(self, command: Delete, now: float) -> bytes:
        call = self.table.find(command.call_id)
        self.table.delete(call, command.from_tag, command.to_tag or "", command.via_branch or "", 0.0, now)
        return DONE

    def _query(self, command: Query, now: float, wall: float) -> bytes:
        call = self.table.find(command.call_id)
        if not _has_dialogue(call, command.from_tag, command.to_tag):
            raise ProtocolError(NOT_FOUND)
        totals = CallReport(call, now, wall).query(command.from_tag, command.to_tag or "")["totals"]
        own, other = ((totals[side]["rtp"]["packets"], totals[side]["rtcp"]["packets"]) for side in ("input", "output"))
        silence = now - self._newest_packet(call)
        return rtpproxy.statistics(int(self.table.limits.silent_timeout_s) - int(silence), own, other)

    def _newest_packet(self, call: Call) -> float:
        """When any stream of the call last had a packet; when the call was created, before the first."""
        streams = (stream for held in call.media_ports for ports in held.open_sets() for stream in ports.streams)
        return max(call.created, max(map(self.table.transport.last_packet, streams), default=0.0))

    def _find(self, call_id: str) -> Call | None:
        try:
            return self.table.find(call_id)
        except ProtocolError:
            return None


def _has_dialogue(call: Call, from_tag: str, to_tag: str | None) -> bool:
    """Whether ``from_tag`` is a party of the call, and ``to_tag``, where given, the other one of a dialogue."""
    leg = call.leg(from_tag)
    return leg is not None and any(
        leg in dialogue.legs and to_tag in (None, dialogue.partner(leg).tag) for dialogue in call.dialogues
    )


def _log_unmatched(error: rtpproxy.Unmatched, line: bytes) -> None:
    """An echoed endpoint makes the media bypass us, which nobody notices otherwise."""
    if error.echo is None:
        log.info("refused a request: %s", error)
    else:
        log.warning("malformed command, so its media bypass us: %s", ascii(line[:_LOGGED_LINE]))
