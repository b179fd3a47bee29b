"""Fuzz target: ng requests as JSON, three line feeds apart, and what the status page tells of the calls they make."""

from __future__ import annotations

import json

from paper_proxy import PaperProxy, watched_log

from rtpengine import ProtocolError, ng_json
from rtpengine.status import StatusBoard, Where

SEPARATOR = b"\n\n\n"


def one_input(data: bytes) -> None:
    """Bodies of one client, in a row; a page looks after each."""
    proxy = PaperProxy()
    bodies = data.split(SEPARATOR)[:8]
    board = StatusBoard(proxy.table, lambda _: Where(False, ""), dict, lambda call, *_: {"id": call.call_id}, "run")
    version = 0
    with watched_log(bodies, data):
        for number, body in enumerate(bodies, 1):
            try:
                request = ng_json.to_bencode(body)
            except ProtocolError:
                continue
            _is_line(ng_json.serialize({key.decode(): value for key, value in proxy.ask(request).items()}))
            version = _look(board, version, float(number))
        proxy.end()


def _look(board: StatusBoard, version: int, now: float) -> int:
    shown = board.overview("run", version, now, 0.0)
    _is_line(shown)
    answer = json.loads(shown)
    for call in answer["calls"]:
        _is_line(board.detail(call["key"], now, 0.0) or b"")
    return int(answer["version"])


def _is_line(text: bytes) -> None:
    assert text.isascii() and b"\n" not in text.removesuffix(b"\n")
    json.loads(text)
