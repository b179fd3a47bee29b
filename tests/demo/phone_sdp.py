"""The session descriptions of our two phones, and what a phone reads in the other one's (RFC 4566, RFC 3264)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

_NULL = {"IP4": "0.0.0.0", "IP6": "::"}


class Address(NamedTuple):
    """A transport address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_type(host: str) -> str:
    """``IP4`` or ``IP6``, as c= lines and the ng protocol write it."""
    return "IP6" if ":" in host else "IP4"


@dataclass(frozen=True)
class PhoneSdp:
    """One body of a phone. ``formats`` are RTP payload types, the preferred one first.

    ``null_address`` asks for silence the old way (RFC 3264 8.4), ``direction`` the new way.
    """

    user: str
    rtp: Address
    formats: tuple[int, ...]
    version: int = 1
    direction: str = "sendrecv"
    null_address: bool = False

    def serialize(self) -> str:
        """The body, lines ended by CR LF."""
        family = address_type(self.rtp.host)
        names = {0: "PCMU/8000", 8: "PCMA/8000"}
        return "\r\n".join(
            [
                "v=0",
                f"o={self.user} 20261123 {self.version} IN {family} {self.rtp.host}",
                "s=Phone call",
                f"c=IN {family} {_NULL[family] if self.null_address else self.rtp.host}",
                "t=0 0",
                f"m=audio {self.rtp.port} RTP/AVP {' '.join(map(str, self.formats))} 101",
                *(f"a=rtpmap:{number} {names[number]}" for number in self.formats),
                "a=rtpmap:101 telephone-event/8000",
                "a=fmtp:101 0-15",
                "a=ptime:20",
                f"a={self.direction}",
                "",
            ]
        )


@dataclass
class Told:
    """What a phone learns from the body that it is given: where to send, and whether it may."""

    rtp: Address = Address("", 0)
    rtcp: Address = Address("", 0)
    origin_host: str = ""
    direction: str = "sendrecv"
    media: str = ""
    codecs: list[str] = field(default_factory=list)

    @property
    def null_address(self) -> bool:
        """Whether the other side is on hold the old way."""
        return self.rtp.host in _NULL.values()


def parse(body: str) -> Told:
    """Read a body with one audio section; what it lacks stays empty.

    RTCP is at the next port unless a=rtcp says otherwise (RFC 3605).
    """
    told = Told()
    host, rtp_port, rtcp_port = "", 0, 0
    for line in body.splitlines():
        kind, _, value = line.partition("=")
        words = value.split()
        if kind == "o" and len(words) == 6:
            told.origin_host = words[5]
        elif kind == "c" and len(words) == 3:
            host = words[2]  # a c= line of the section comes later than that of the session, and wins
        elif kind == "m" and len(words) > 3:
            told.media, rtp_port = " ".join([words[0], *words[2:]]), int(words[1])
        elif value.startswith("rtcp:"):
            rtcp_port = int(value[5:].split()[0])
        elif value.startswith("rtpmap:"):
            told.codecs.append(value)
        elif value in ("sendrecv", "sendonly", "recvonly", "inactive"):
            told.direction = value
    told.rtp, told.rtcp = Address(host, rtp_port), Address(host, rtcp_port or rtp_port + 1)
    return told


def rewriting_faults(original: PhoneSdp, told: Told, relay_host: str, ports: range) -> list[str]:
    """What is wrong in the body that the other party was given instead of ``original``; [] if nothing is."""
    before = parse(original.serialize())
    held = original.null_address  # a relay may add the newer way to say so, or translate into it
    checks = [
        (told.null_address if held else told.rtp.host == relay_host, f"c= names {told.rtp.host}"),
        (told.origin_host == relay_host, f"o= names {told.origin_host}"),
        (told.rtp.port in ports and told.rtp.port % 2 == 0, f"m= names port {told.rtp.port}"),
        (told.rtcp.port in ports, f"a=rtcp names port {told.rtcp.port}"),
        (held or told.direction == original.direction, f"direction {told.direction} instead of {original.direction}"),
        (told.media == before.media, f"m= line has {told.media!r} instead of {before.media!r}"),
        (told.codecs == before.codecs, "a=rtpmap lines differ"),
    ]
    return [text for good, text in checks if not good]
