"""What the HTTP port has to show: metrics for Prometheus, and the status page with its data.

Imported only where ``--listen-http`` asks for it, like web.py.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from pathlib import Path
from typing import Any

from rtpengine import __version__
from rtpengine.call import Call
from rtpengine.metrics import CONTENT_TYPE, Metrics, Parts
from rtpengine.operations import Operations
from rtpengine.packetpath import PacketPathStats
from rtpengine.status import REFRESH_S, Reading, StatusBoard, Where
from rtpengine.web import JSON_TYPE, Content, Page

_PAGE = Path(__file__).with_name("status.html")
_NUMBER = re.compile(r"[0-9]{1,15}")


class Website:
    """The pages of a daemon that is made of ``parts``, on which ``operations`` answers; :meth:`tick` each second."""

    def __init__(self, parts: Parts, operations: Operations) -> None:
        self._parts = parts
        self._operations = operations
        self._metrics = Metrics(parts)
        self._scraped, self._exposition = float("-inf"), b""
        self._board = StatusBoard(parts.table, self._where, self._figures, self._why, secrets.token_hex(8))

    def pages(self) -> dict[str, Page]:
        """What GET finds, by path."""
        page = _page(_PAGE.read_text(encoding="utf-8"))
        return {
            "/": lambda *_: page,
            "/metrics": self._scrape,
            "/api/calls": self._calls,
            "/api/call": self._call,
        }

    def tick(self, stats: PacketPathStats, now: float) -> None:
        """Remember how much there is to relay."""
        kernel_packets = self._parts.offload.forwarded[0] if self._parts.offload is not None else 0
        drops = sum(stats.drops.values())
        self._board.read(Reading(now, len(self._parts.table), stats.packets, stats.bytes, kernel_packets, drops))

    def _scrape(self, query: dict[str, str], now: float, wall: float) -> Content:
        """The metrics, read at most once a second, however many ask."""
        if now - self._scraped >= REFRESH_S:
            self._scraped, self._exposition = now, self._metrics.exposition()
        return Content(self._exposition, CONTENT_TYPE)

    def _calls(self, query: dict[str, str], now: float, wall: float) -> Content:
        since = _number(query.get("since", "")) or 0
        return Content(self._board.overview(query.get("run", ""), since, now, wall), JSON_TYPE)

    def _call(self, query: dict[str, str], now: float, wall: float) -> Content | None:
        key = _number(query.get("key", ""))
        # a call that has ended is an answer as well, and no error that a browser would complain of
        return None if key is None else Content(self._board.detail(key, now, wall) or b"null", JSON_TYPE)

    def _where(self, stream: int) -> Where:
        return Where(*self._parts.offload.where(stream)) if self._parts.offload is not None else Where(False, "")

    def _why(self, call: Call, now: float, wall: float) -> dict[str, Any]:
        return self._operations.why(call.call_id, now, wall)

    def _figures(self) -> dict[str, Any]:
        parts = self._parts
        ended, admission = parts.calls.closed, parts.table.admission
        return {
            "version": __version__,
            "uptime": round(parts.now() - parts.started),
            "draining": admission.draining,
            "userspace": self._operations.host.userspace,
            "calls": len(parts.table),
            "total": len(parts.table) + parts.calls.total,
            "one_way": parts.calls.one_way,
            "timed_out": sum(count for reason, count in ended.items() if reason.endswith("timeout")),
            "refused": admission.refused,
            "errors": sum(parts.requests.errors.values()),
            "ports": [
                {"address": pool.address, "used": 2 * pool.used, "all": 2 * (pool.used + pool.free)}
                for pool in parts.pools.values()
            ],
        }


def _page(text: str) -> Content:
    """The page, which may run its own script and nothing else, and may make markup of no text (Trusted Types)."""
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; "
        f"script-src '{_hash(text, 'script')}'; style-src '{_hash(text, 'style')}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    return Content(text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": policy})


def _hash(text: str, element: str) -> str:
    """The source of the page's only element of this name, as a policy names it (CSP level 3, 2.3.1)."""
    (source,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
