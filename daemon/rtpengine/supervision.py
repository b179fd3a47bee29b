"""What systemd is told beside readiness: state, reloads, the end, and signs of life (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import time

from rtpengine.process import notify


class Supervisor:
    """Tells the supervisor that started us, if there is one, how things are."""

    def __init__(self) -> None:
        self._status = ""
        self.watchdog_s = _watchdog_s()
        """How often there has to be a sign of life, in seconds; None where nobody waits for it."""

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell again and again that the main loop is at work, which it is as long as it calls this."""
        if self.watchdog_s is not None:
            notify("WATCHDOG=1")
            loop.call_later(self.watchdog_s, self.watch, loop)

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows; told only when it changes."""
        if text != self._status:
            self._status = text
            notify(f"STATUS={text}")

    def reloading(self) -> None:
        """The configuration is being read again; :meth:`reloaded` follows."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """That is over, whatever came of it."""
        notify("READY=1")

    def stopping(self) -> None:
        """The end has begun."""
        notify("STOPPING=1\nSTATUS=")


def _watchdog_s() -> float | None:
    """Half of what the watchdog waits, if it is meant for this process (sd_watchdog_enabled(3))."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        period_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
    except ValueError:
        return None
    return period_s if period_s > 0 else None
