"""All calls: finding, ending and expiring them.

A call is looked at only when it may have to end or to give ports back, from a heap ordered by time, so that a
tick costs the same with ten calls or ten thousand.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rtpengine import NOTICE, ProtocolError, ResourceError
from rtpengine.admission import Admission
from rtpengine.call import RETIREMENT_S, Call, Media
from rtpengine.keying import Tools
from rtpengine.media import Endpoint, Learning, MediaOffer, MediaPlan, MediaTransport, Signalling
from rtpengine.peering import Peering

log = logging.getLogger(__name__)

NOT_FOUND = "Call-ID not found or tags didn't match"


@dataclass(frozen=True, slots=True)
class Limits:
    """After how many seconds without a packet a stream is dead: expected to carry media, and muted.

    ``final_timeout_s`` is how long a call may last whatever comes; 0: no limit.
    """

    timeout_s: float = 60.0
    silent_timeout_s: float = 3600.0
    final_timeout_s: float = 0.0

    @property
    def longest_s(self) -> float:
        """How long a call may last."""
        return self.final_timeout_s or math.inf


class CallTable:
    """The calls under their call-ids.

    ``ended`` is told of each call and the reason (``"deleted"``, ``"timeout"``, ``"final timeout"``) while its streams
    can still be read.
    ``admission`` says whether new calls are taken.
    ``arm``, once set, is told when :meth:`due_handshakes` will have something next, in monotonic seconds.
    ``changed``, once set, is told of each call-id of which something has changed that must not be forgotten.
    """

    def __init__(
        self,
        transport: MediaTransport,
        limits: Limits,
        learning: Learning,
        tools: Tools,
        ended: Callable[[Call, str, float], None],
    ) -> None:
        self.transport = transport
        self.limits = limits
        self.learning = learning
        self.tools = tools
        self.admission = Admission()
        self.arm: Callable[[float], None] | None = None
        self.changed: Callable[[str], None] = lambda call_id: None
        self._ended = ended
        self._calls: dict[str, Call] = {}
        self._checks: list[tuple[float, str]] = []
        self._deadlines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._calls

    def adopt(self, call: Call, now: float) -> None:
        """Take a call in that another process had: it is looked after from now on, and as if signalled just now."""
        self._calls[call.call_id] = call
        call.history.note(now, "taken over from another process")
        self._look_after(call, now)
        if call.ends_at is not None:
            self._check_at(call, call.ends_at)

    def find(self, call_id: str) -> Call:
        """The call; ProtocolError if there is none."""
        try:
            return self._calls[call_id]
        except KeyError:
            raise ProtocolError("Unknown call-id") from None

    def offer(
        self, call_id: str, from_tag: str, offers: list[MediaOffer], how: Signalling, now: float, first: int = 0
    ) -> list[MediaPlan]:
        """Take an offer, creating the call if need be; see :meth:`Call.offer`. A failed first offer leaves no call.

        Raise LoadLimit where no new call is taken.
        """
        call = self._calls.get(call_id)
        is_new = call is None
        if call is None:
            self.admission.admit(len(self._calls))
            call = Call(call_id, now, self.learning, self.transport, self.tools)
        with _remembered(call, f"offer from tag {from_tag!r}", now):
            plans = call.offer(from_tag, offers, how, now, first)
        if is_new:
            self._calls[call_id] = call
            log.log(NOTICE, "new call from tag %s", from_tag)
        self._signalled(call, now)
        return plans

    def answer(
        self,
        call_id: str,
        from_tag: str,
        to_tag: str,
        offers: list[MediaOffer],
        how: Signalling,
        now: float,
        first: int = 0,
    ) -> list[MediaPlan]:
        """Take an answer; see :meth:`Call.answer`. Raise ProtocolError for an unknown call-id."""
        call = self.find(call_id)
        with _remembered(call, f"answer from tag {to_tag!r} to tag {from_tag!r}", now):
            plans = call.answer(from_tag, to_tag, offers, how, now, first)
        self._signalled(call, now)
        return plans

    def delete(self, call: Call, from_tag: str, to_tag: str, via_branch: str, delay_s: float, now: float) -> None:
        """End a call, or one branch of it (control-ng.md 8, 6.6).

        Raise ProtocolError if no tag or branch matches. An empty ``from_tag`` ends the call without matching.
        ``delay_s`` keeps the media flowing for so long.
        """
        if from_tag:
            leg = (call.leg(to_tag) if to_tag else None) or call.leg(from_tag)
            if leg is None or (via_branch and via_branch not in call.via_branches):
                raise ProtocolError(NOT_FOUND)
            if via_branch:
                call.via_branches.discard(via_branch)
                self.changed(call.call_id)
                if call.via_branches:
                    return
            others_remain = any(leg not in dialogue.legs for dialogue in call.dialogues)
            if others_remain:
                call.history.note(now, f"tag {leg.tag!r} has left")
                call.remove_leg(leg, now)
                self.changed(call.call_id)
                return
        if delay_s > 0:
            call.history.note(now, f"deleted, ends in {delay_s:.0f} seconds")
            call.ends_at = now + delay_s
            self.changed(call.call_id)
            self._check_at(call, call.ends_at)
        else:
            self.end(call, "deleted", now)

    def end(self, call: Call, reason: str, now: float) -> None:
        """Take the call out of the table and close its sockets, whatever becomes of telling so."""
        try:
            self._ended(call, reason, now)
        finally:
            del self._calls[call.call_id]
            call.close()

    def tick(self, now: float) -> None:
        """Look at the calls whose time has come: end those that are dead, close ports that nobody uses."""
        while self._checks and self._checks[0][0] <= now:
            when, call_id = heapq.heappop(self._checks)
            call = self._calls.get(call_id)
            if call is not None and when == call.next_check:
                call.next_check = None
                self._check(call, now)

    def _check(self, call: Call, now: float) -> None:
        expiry, limit = self.expiry(call), call.created + self.limits.longest_s
        if call.ends_at is not None and call.ends_at <= now:
            self.end(call, "deleted", now)
        elif limit <= now:
            self.end(call, "final timeout", now)
        elif expiry <= now:
            self.end(call, "timeout", now)
        else:
            self._close_retired(call, now)
            self._check_at(call, min(expiry, limit, math.inf if call.ends_at is None else call.ends_at))
            self._schedule_closing(call)

    def set_limits(self, limits: Limits, now: float) -> None:
        """Have other time-outs from now on, for the calls that there are as well."""
        self.limits = limits
        for call in self:
            self._check_at(call, now)

    def note(self, call_id: str, now: float, event: str, port: int = 0) -> None:
        """Remember what has happened to a call, at one of its ports; for a call that has ended, nothing happens."""
        call = self._calls.get(call_id)
        if call is not None:
            call.history.note(now, event, port)

    # Packets for us

    def receive_stun(self, call_id: str, stream: int, data: bytes, source: Endpoint, now: float) -> None:
        """Take a STUN datagram that came to a stream of a call; for a call that has ended, nothing happens."""
        call = self._calls.get(call_id)
        peering = None if call is None else call.peering_at(stream)
        if call is not None and peering is not None:
            revision = peering.revision
            peering.receive_stun(stream, data, source, now)
            self._heard(call, peering, revision)

    def receive_dtls(self, call_id: str, stream: int, data: bytes, source: Endpoint, now: float) -> None:
        """Take a DTLS datagram that came to a stream of a call; for a call that has ended, nothing happens."""
        call = self._calls.get(call_id)
        peering = None if call is None else call.peering_at(stream)
        if call is not None and peering is not None:
            revision = peering.revision
            peering.receive_dtls(stream, data, source, now)
            self._heard(call, peering, revision)

    def _heard(self, call: Call, peering: Peering, revision: int) -> None:
        self._await_handshakes(call)
        if peering.revision != revision:
            self.changed(call.call_id)

    def due_handshakes(self, now: float) -> list[Call]:
        """The calls in which a handshake has waited long enough: each wants :meth:`handle_timeout`."""
        due = []
        while self._deadlines and self._deadlines[0][0] <= now:
            when, call_id = heapq.heappop(self._deadlines)
            call = self._calls.get(call_id)
            if call is not None and when == call.next_deadline:
                call.next_deadline = None
                due.append(call)
        if self._deadlines and self.arm is not None:
            self.arm(self._deadlines[0][0])
        return due

    def handle_timeout(self, call: Call, now: float) -> None:
        """Repeat what the handshakes of a call have lost on the way."""
        for peering in call.peerings():
            peering.handle_timeout(now)
        self._await_handshakes(call)

    def _await_handshakes(self, call: Call) -> None:
        deadline = min((p.deadline for p in call.peerings() if p.deadline is not None), default=None)
        if deadline is None or (call.next_deadline is not None and call.next_deadline <= deadline):
            return
        call.next_deadline = deadline
        heapq.heappush(self._deadlines, (deadline, call.call_id))
        if self._deadlines[0][0] == deadline and self.arm is not None:
            self.arm(deadline)

    # When to look again

    def _signalled(self, call: Call, now: float) -> None:
        if call.ends_at is not None:
            # A SIP proxy that deletes what one destination has refused goes on to the next one under the same call-id.
            call.ends_at = None
            call.history.note(now, "does not end, it is wanted again")
        self._look_after(call, now)
        self.changed(call.call_id)

    def _look_after(self, call: Call, now: float) -> None:
        # No stream can be dead before the shorter limit has passed; looking then costs less than computing it now.
        sooner = now + min(self.limits.timeout_s, self.limits.silent_timeout_s)
        self._check_at(call, min(sooner, call.created + self.limits.longest_s))
        self._schedule_closing(call)
        self._await_handshakes(call)

    def _schedule_closing(self, call: Call) -> None:
        for media_ports in call.media_ports:
            for since in media_ports.retired.values():
                self._check_at(call, since + RETIREMENT_S)

    def _check_at(self, call: Call, when: float) -> None:
        if call.next_check is None or when < call.next_check:
            call.next_check = when
            # By name: the entry of a deleted call must not keep all of it in memory until its time comes.
            heapq.heappush(self._checks, (when, call.call_id))

    def expiry(self, call: Call) -> float:
        """When the call is dead unless more packets arrive: when its longest-living stream is."""
        expiry = call.last_signal + self.limits.timeout_s
        for _, media, other in call.medias():
            for ports in media.ports.open_sets():
                for stream in ports.streams:
                    expiry = max(expiry, self.stream_expiry(call, media, other, stream))
        return expiry

    def stream_expiry(self, call: Call, media: Media, other: Media, stream: int) -> float:
        """When a stream of ``media`` is dead unless another packet arrives."""
        limit = self.limits.timeout_s if media_expected(media, other) else self.limits.silent_timeout_s
        return max(self.transport.last_packet(stream), call.last_signal) + limit

    def _close_retired(self, call: Call, now: float) -> None:
        for media_ports in call.media_ports:
            for ports, since in list(media_ports.retired.items()):
                heard = max(self.transport.last_packet(stream) for stream in ports.streams)
                quiet_since = max(heard, since)
                if quiet_since + RETIREMENT_S <= now:
                    call.history.note(now, "closed, the party has moved to other ports", ports.port)
                    media_ports.forget(ports)
                    self.changed(call.call_id)
                    self.transport.close(ports)
                else:
                    media_ports.retired[ports] = quiet_since


@contextmanager
def _remembered(call: Call, event: str, now: float) -> Iterator[None]:
    """Note in the call's history what is done, and whether it was refused."""
    try:
        yield
    except (ProtocolError, ResourceError) as error:
        call.history.note(now, f"{event} refused: {error}")
        raise
    call.history.note(now, event)


def media_expected(media: Media, other: Media) -> bool:
    """Whether the party that ``media`` faces should be sending: it says so and its partner wants to hear it."""
    said, wanted = media.party.offer, other.party.offer
    return (said is None or (said.direction.sends and not said.held)) and (wanted is None or wanted.direction.receives)
