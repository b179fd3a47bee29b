"""Whether new calls are taken: a limit on how many there may be, and a drain before the daemon ends.

Calls that exist go on in either case, whatever is signalled about them.
"""

from __future__ import annotations

import logging

from rtpengine import NOTICE, LoadLimit

log = logging.getLogger(__name__)

FULL = "Parallel session limit reached"
DRAINING = "No new calls, the daemon is about to end"


class Admission:
    """``max_sessions`` is the limit, 0 for none; ``refused`` counts the calls that were not taken."""

    def __init__(self, max_sessions: int = 0) -> None:
        self.max_sessions = max_sessions
        self.refused = 0
        self.draining = False
        self.deadline: float | None = None
        """When a drain ends although there are calls left, in monotonic seconds; None: never."""
        self._said_full = False

    def admit(self, sessions: int) -> None:
        """Let a new call begin beside ``sessions`` others, or raise LoadLimit."""
        if self.draining:
            self.refused += 1
            raise LoadLimit(DRAINING)
        if not self.max_sessions:
            return
        if sessions >= self.max_sessions:
            self.refused += 1
            if not self._said_full:
                self._said_full = True
                log.warning("new calls are refused: there are %d, as many as --max-sessions allows", sessions)
            raise LoadLimit(FULL)
        # Around the limit calls come and go; once is enough to be told.
        self._said_full = self._said_full and sessions >= 0.9 * self.max_sessions

    def drain(self, sessions: int, now: float, limit_s: float) -> None:
        """Take no new calls from now on; :meth:`is_drained` after ``limit_s`` at the latest, 0 for no limit.

        To drain again changes the limit.
        """
        self.draining = True
        self.deadline = now + limit_s if limit_s else None
        left = f"in {limit_s:.0f} seconds at the latest" if limit_s else "however long that takes"
        log.log(NOTICE, "draining: no new calls, end when the %d that there are have ended, %s", sessions, left)

    def undrain(self) -> None:
        """Take new calls again."""
        if self.draining:
            log.log(NOTICE, "no longer draining: new calls are taken again")
        self.draining = False
        self.deadline = None

    def is_drained(self, sessions: int, now: float) -> bool:
        """Whether a drain is over, and the daemon with it."""
        return self.draining and (not sessions or (self.deadline is not None and self.deadline <= now))
