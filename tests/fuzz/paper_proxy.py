"""The whole way of ng requests, on ports that exist on paper only, for fuzz targets."""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))

import bencodepy
from fakes import TOOLS, FakeTransport

from rtpengine.control import NgProtocol
from rtpengine.media import Learning
from rtpengine.service import NgService, log_final_statistics
from rtpengine.table import CallTable, Limits

OURS = frozenset({"198.51.100.2", "2001:db8::2"})
NULL = frozenset({"0.0.0.0", "::"})

_SECRET = re.compile(rb"inline:([A-Za-z0-9+/]{28,})|\na=ice-pwd:([^\r\n]{22,})")


class Secrets(logging.Handler):
    """Formats all that is logged, and fails where a key or a password of ``bodies`` gets there."""

    def __init__(self, bodies: list[bytes], said: bytes) -> None:
        super().__init__(logging.DEBUG)
        self._secrets = _secrets(b"\0".join(bodies), said)

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        assert not any(secret in text for secret in self._secrets), "a secret is logged"


def _secrets(bodies: bytes, said: bytes) -> list[str]:
    """What stands behind ``inline:`` and ``ice-pwd:`` in bodies, and nowhere else in all that is said."""
    found = Counter(one or other for one, other in _SECRET.findall(bodies))
    return [secret.decode("utf-8", "surrogateescape") for secret, n in found.items() if said.count(secret) == n]


class PaperProxy:
    """A SIP proxy that asks and looks at what comes back."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.table = CallTable(self.transport, Limits(), Learning.HEURISTIC, TOOLS, log_final_statistics)
        self._protocol = NgProtocol(NgService(self.table))
        self._now = 1000.0

    def ask(self, request: bytes) -> dict[bytes, Any]:
        """Send one request; what is refused must have changed nothing."""
        self._now += 1.0
        before = self._state()
        datagram, _ = self._protocol.answer(b"cookie", request, "192.0.2.9", self._now, 1_700_000_000.0)
        cookie, _, body = datagram.partition(b" ")
        assert cookie == b"cookie"
        reply: dict[bytes, Any] = bencodepy.decode(body)
        assert reply[b"result"] in (b"ok", b"pong", b"error")
        if reply[b"result"] == b"error":
            assert reply[b"error-reason"]
            assert self._state() == before, "a refused request has changed something"
        return reply

    def ask_for(self, keys: Mapping[str, Any]) -> dict[bytes, Any]:
        """As :meth:`ask`, with the request as a dictionary."""
        return self.ask(bencodepy.encode(dict(keys)))

    def end(self) -> None:
        """Delete all calls; nothing may stay behind."""
        self.table.tick(self._now + 1.0)
        for call in list(self.table):
            self.table.end(call, "deleted", self._now)
        assert not self.transport.opened and not self.transport.configs

    def _state(self) -> tuple[Any, ...]:
        return dict(self.transport.opened), dict(self.transport.configs), [call.call_id for call in self.table]


@contextmanager
def watched_log(bodies: list[bytes], said: bytes) -> Any:
    """Let nothing be logged that these bodies, of all that is ``said``, have as a secret."""
    logger, handler = logging.getLogger("rtpengine"), Secrets(bodies, said)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
