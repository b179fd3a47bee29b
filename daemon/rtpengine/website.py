"""What the HTTP port has to show: metrics.

Imported only where ``--listen-http`` asks for it, like web.py.
"""

from __future__ import annotations

from rtpengine.metrics import CONTENT_TYPE, Metrics, Parts
from rtpengine.web import Content, Health, NgAnswerer, WebServer
from rtpengine.web_guard import Guard


def build(guard: Guard, ng: NgAnswerer, health: Health, parts: Parts) -> WebServer:
    """The HTTP server of a daemon made of these parts."""
    metrics = Metrics(parts)
    return WebServer(guard, ng, health, {"/metrics": lambda _: Content(metrics.exposition(), CONTENT_TYPE, {})})
