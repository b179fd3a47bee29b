"""The session descriptions of our two phones, and what a phone reads in the other one's (RFC 4566, RFC 3264)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

# Transports of the m= line (RFC 3551, RFC 5764).
PLAIN, SECURE = "RTP/AVP", "UDP/TLS/RTP/SAVPF"
# What has to do with security or ICE, and which a plain phone must not see.
_SECURE_ATTRIBUTES = {"crypto", "fingerprint", "setup", "ice-ufrag", "ice-pwd", "ice-lite", "candidate", "rtcp-mux"}
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
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
    ``attributes`` are further ones of the section, without ``a=``.
    """

    user: str
    rtp: Address
    formats: tuple[int, ...]
    version: int = 1
    direction: str = "sendrecv"
    null_address: bool = False
    protocol: str = PLAIN
    attributes: tuple[str, ...] = ()

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
                f"m=audio {self.rtp.port} {self.protocol} {' '.join(map(str, self.formats))} 101",
                *(f"a=rtpmap:{number} {names[number]}" for number in self.formats),
                "a=rtpmap:101 telephone-event/8000",
                "a=fmtp:101 0-15",
                "a=ptime:20",
                f"a={self.direction}",
                *(f"a={attribute}" for attribute in self.attributes),
                "",
            ]
        )


@dataclass
class Told:
    """What a phone learns from the body that it is given: where to send, and whether it may.

    ``attributes`` are the values of all a= lines by name, "" where there is none, the last where there are several.
    """

    rtp: Address = Address("", 0)
    rtcp: Address = Address("", 0)
    origin_host: str = ""
    direction: str = "sendrecv"
    media: str = ""
    codecs: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def null_address(self) -> bool:
        """Whether the other side is on hold the old way."""
        return self.rtp.host in _NULL.values()


def parse(body: str) -> Told:
    """Read a body with one audio section; what it lacks stays empty.

    RTCP is at the next port unless a=rtcp says otherwise (RFC 3605).
    """
    told = Told()
    host, port = "", 0
    for line in body.splitlines():
        kind, _, value = line.partition("=")
        words = value.split()
        if kind == "o" and len(words) == 6:
            told.origin_host = words[5]
        elif kind == "c" and len(words) == 3:
            host = words[2]  # a c= line of the section comes later than that of the session, and wins
        elif kind == "m" and len(words) > 3:
            told.media, port = " ".join([words[0], *words[2:]]), int(words[1])
        elif kind == "a":
            name, _, content = value.partition(":")
            told.attributes[name] = content
            if name == "rtpmap":
                told.codecs.append(value)
    rtcp = told.attributes.get("rtcp", "").split()
    told.rtp, told.rtcp = Address(host, port), Address(host, int(rtcp[0]) if rtcp else port + 1)
    told.direction = next((direction for direction in _DIRECTIONS if direction in told.attributes), "sendrecv")
    return told


def rewriting_faults(original: PhoneSdp, told: Told, relay_host: str, ports: range, protocol: str = PLAIN) -> list[str]:
    """What is wrong in the body that the other party, with this protocol, was given instead of ``original``."""
    media = parse(replace(original, protocol=protocol).serialize()).media
    codecs = parse(original.serialize()).codecs
    alien = _SECURE_ATTRIBUTES & told.attributes.keys() if protocol == PLAIN else set()
    held = original.null_address  # a relay may add the newer way to say so, or translate into it
    checks = [
        (told.null_address if held else told.rtp.host == relay_host, f"c= names {told.rtp.host}"),
        (told.origin_host == relay_host, f"o= names {told.origin_host}"),
        (told.rtp.port in ports and told.rtp.port % 2 == 0, f"m= names port {told.rtp.port}"),
        (told.rtcp.port in ports, f"a=rtcp names port {told.rtcp.port}"),
        (held or told.direction == original.direction, f"direction {told.direction} instead of {original.direction}"),
        (told.media == media, f"m= line has {told.media!r} instead of {media!r}"),
        (told.codecs == codecs, "a=rtpmap lines differ"),
        (not alien, f"a plain phone is told of a={', a='.join(sorted(alien))}"),
    ]
    return [text for good, text in checks if not good]
