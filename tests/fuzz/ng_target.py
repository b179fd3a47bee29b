"""Fuzz target: whole ng requests, three line feeds apart, each of which gets a reply."""

from __future__ import annotations

from paper_proxy import PaperProxy, watched_log

from rtpengine import ProtocolError, ng

SEPARATOR = b"\n\n\n"


def one_input(data: bytes) -> None:
    """Requests of one proxy, in a row."""
    proxy = PaperProxy()
    datagrams = data.split(SEPARATOR)[:8]
    with watched_log(datagrams, data):
        for datagram in datagrams:
            _exchange(proxy, datagram)
        proxy.end()


def _exchange(proxy: PaperProxy, datagram: bytes) -> None:
    try:
        _, request = ng.split(datagram)
    except ProtocolError:
        return
    proxy.ask(request)
