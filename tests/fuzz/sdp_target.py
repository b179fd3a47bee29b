"""Fuzz target: offers and answers with any body and any flags, through ng, call engine and rewriting.

An input is a sequence of requests; of each, the text of ``rtpp-flags``, NUL, the body, NUL. Every third request is an
answer, so that there are re-offers as well.
"""

from __future__ import annotations

import re

from paper_proxy import NULL, OURS, PaperProxy, watched_log

MAX_REQUESTS = 5

_CONNECTION = re.compile(rb"^c=IN IP[46] ([^\s/]+)", re.MULTILINE | re.IGNORECASE)


def one_input(data: bytes) -> None:
    """One call from its first offer to its end."""
    parts = data.split(b"\0")
    requests = list(zip(parts[::2], parts[1::2], strict=False))[:MAX_REQUESTS]
    proxy = PaperProxy()
    with watched_log([body for _, body in requests], data):
        for number, (flags, body) in enumerate(requests):
            _exchange(proxy, number, flags, body)
        proxy.end()


def _exchange(proxy: PaperProxy, number: int, flags: bytes, body: bytes) -> None:
    keys = {"call-id": "c", "from-tag": "a", "sdp": body, "rtpp-flags": flags}
    if number % 2:
        reply = proxy.ask_for(keys | {"command": "answer", "to-tag": "b"})
    else:
        reply = proxy.ask_for(keys | {"command": "offer"})
    if reply[b"result"] != b"ok":
        return
    if b"media" not in flags and b"force-relay" not in flags:
        _require_our_addresses(reply[b"sdp"])
    query = proxy.ask_for({"command": "query", "call-id": "c"})
    assert query[b"result"] == b"ok"


def _require_our_addresses(body: bytes) -> None:
    """No c= line that holds for an open section may lead past us; where the sender gave none, there is none."""
    for description in re.split(rb"^v=", body, flags=re.MULTILINE):
        session, *sections = re.split(rb"^m=", description, flags=re.MULTILINE)
        for section in sections:
            if section.split(b" ", 2)[1].partition(b"/")[0] != b"0":
                addresses = _CONNECTION.findall(section) or _CONNECTION.findall(session)
                assert {address.decode() for address in addresses} <= OURS | NULL, addresses
