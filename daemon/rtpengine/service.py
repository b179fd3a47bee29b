"""What the commands of the ng protocol do: SDP in, the call table asked, SDP or statistics out.

Pure: bytes and times in, a reply out. Sockets, clocks and the retransmission cache are control.py's.
"""

from __future__ import annotations

import logging
from typing import Any

from rtpengine import LoadLimit, ProtocolError, ng
from rtpengine.call import Call
from rtpengine.media import IPV4, MediaOffer, MediaPlan, Signalling
from rtpengine.offers import offers
from rtpengine.report import CallReport
from rtpengine.rewrite import rewrite
from rtpengine.sdp import SessionDescription
from rtpengine.table import NOT_FOUND, CallTable

log = logging.getLogger(__name__)

Reply = dict[str, Any]

MAX_UNKNOWN_WORDS = 100
OTHER_WORDS = "others"


class UnknownWords:
    """How often requests had words that mean nothing to us: ``counts`` by ``key: word``, each logged once.

    Of MAX_UNKNOWN_WORDS different ones; all further ones count as OTHER_WORDS.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, words: tuple[str, ...]) -> None:
        """Take what one request had."""
        for word in words:
            if word not in self.counts:
                if len(self.counts) >= MAX_UNKNOWN_WORDS:
                    word = OTHER_WORDS
                else:
                    # Cut, so that a body which got among the flags by mistake shows no key.
                    log.info("ignored, here and in later requests, what is not known: %.40s", word)
            self.counts[word] = self.counts.get(word, 0) + 1


class NgService:
    """Executes parsed ng commands on a :class:`CallTable`; ``unknown`` are the words that had no effect."""

    def __init__(self, table: CallTable) -> None:
        self.table = table
        self.unknown = UnknownWords()

    def execute(self, command: ng.Command, now: float, wall: float) -> Reply:
        """Run one command at ``now`` (monotonic seconds; ``wall`` is UNIX time) and return the reply dictionary.

        Raise ProtocolError or ResourceError with the reason for the client; no call has changed then.
        """
        match command:
            case ng.Ping():
                return {"result": "pong"}
            case ng.Answer():
                return self._answer(command, now)
            case ng.Offer():
                return self._offer(command, now)
            case ng.Delete():
                return self._delete(command, now, wall)
            case ng.Query():
                call = self.table.find(command.call_id)
                report = CallReport(call, now, wall).query(command.from_tag or "", command.to_tag or "")
                return {"result": "ok", **report}
        raise AssertionError(f"no such command: {command}")

    def _offer(self, command: ng.Offer, now: float) -> Reply:
        self.unknown.count(command.unknown)
        sdp = SessionDescription.parse(command.sdp)
        said = self._said(sdp, command.how)
        try:
            plans = self.table.offer(command.call_id, command.from_tag, said, command.how, now)
        except LoadLimit as limit:
            if command.knows_load_limit:
                return ng.load_limit(str(limit))
            raise
        return self._rewritten(sdp, command.how, plans)

    def _answer(self, command: ng.Answer, now: float) -> Reply:
        self.unknown.count(command.unknown)
        sdp = SessionDescription.parse(command.sdp)
        said = self._said(sdp, command.how)
        plans = self.table.answer(command.call_id, command.from_tag, command.to_tag, said, command.how, now)
        return self._rewritten(sdp, command.how, plans)

    def _said(self, sdp: SessionDescription, how: Signalling) -> list[MediaOffer]:
        words = [
            word for word, given in (("asymmetric", how.asymmetric), ("media-handover", how.media_handover)) if given
        ]
        if words:
            log.info("less guarded against other sources, as the flags ask: %s", ", ".join(words))
        return offers(sdp, how)

    def _rewritten(self, sdp: SessionDescription, how: Signalling, plans: list[MediaPlan]) -> Reply:
        fallback = self.table.transport.advertised(IPV4)
        return {"result": "ok", "sdp": rewrite(sdp, how, plans, fallback)}

    def _delete(self, command: ng.Delete, now: float, wall: float) -> Reply:
        try:
            call = self.table.find(command.call_id)
            report = CallReport(call, now, wall).query()
            self.table.delete(
                call, command.from_tag, command.to_tag or "", command.via_branch or "", command.delete_delay_s or 0, now
            )
        except ProtocolError:
            if command.fatal:
                raise ProtocolError(NOT_FOUND) from None
            return {"result": "ok", "warning": NOT_FOUND}
        return {"result": "ok", **report}


def log_final_statistics(call: Call, reason: str, now: float) -> None:
    """Log what a call has carried, when it ends."""
    if log.isEnabledFor(logging.INFO):
        log.info("call ended (%s), final statistics:", reason)
        for line in CallReport(call, now, now).lines(now):
            log.info("%s", line)
