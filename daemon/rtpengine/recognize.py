"""Which protocol a request is really of: to name the mistake where it reaches the wrong port."""

from __future__ import annotations

import re

from rtpengine import openser, rtpproxy

# The beginning is enough, and a flood of large datagrams must not cost more than one of small ones.
_LOOKED_AT = 2048

_NG = re.compile(rb"\S+ d[1-9][0-9]{0,2}:[A-Za-z]")
_SIP = re.compile(rb"(?:\r?\n)*(?:SIP/2\.0 [1-6]|[A-Z]+ \S+ SIP/2\.0)")
_HTTP = re.compile(rb"(?:[A-Z]+ \S+ HTTP/1\.|PRI \* HTTP/2)")


def name_protocol(data: bytes) -> str | None:
    """Name the protocol of a request, and the option that opens a port for it; None if it is none that we know."""
    data = data[:_LOOKED_AT]
    if _NG.match(data):
        return "this is the ng protocol, which needs the port of --listen-ng"
    if _SIP.match(data):
        return "this is SIP, which belongs to the SIP proxy and not to us"
    if _HTTP.match(data):
        return "this is HTTP, which no control port of this version speaks"
    if openser.looks_like(data):
        return "this is the mediaproxy protocol, which needs the port of --listen-tcp"
    if rtpproxy.looks_like(data):
        return "this is the rtpproxy protocol, which needs the port of --listen-udp"
    return None
