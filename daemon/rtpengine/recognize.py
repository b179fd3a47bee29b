"""Which protocol a request is really of: to name the mistake where it reaches the wrong port."""

from __future__ import annotations

import re

from rtpengine import openser, rtpproxy

# The beginning is enough, and a flood of large datagrams must not cost more than one of small ones.
_LOOKED_AT = 2048

_NG = re.compile(rb"\S+ d[1-9][0-9]{0,2}:[A-Za-z]")
_SIP = re.compile(rb"(?:\r?\n)*(?:SIP/2\.0 [1-6]|[A-Z]+ \S+ SIP/2\.0)")
_HTTP = re.compile(rb"(?:[A-Z]+ \S+ HTTP/1\.|PRI \* HTTP/2)")

# Less strict, as a miss is worse than a mistake where lines are orders. A method may be any token (RFC 9110 5.6.2).
_START_LINE = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ .* (HTTP|SIP)/[0-9][0-9.]*\s*$|(HTTP|SIP)/[0-9][0-9.]* [1-6][0-9][0-9](?![0-9])"
)


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


def start_line_of(line: bytes) -> str | None:
    """``HTTP`` or ``SIP`` if a message of it begins with this line, None for any other line."""
    match = _START_LINE.match(line)
    return None if match is None else (match[1] or match[2]).decode()
