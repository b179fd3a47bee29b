"""The learning state machine with scripted time, for test_learn.py: places, packets, verdicts."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

from rtpengine._packetpath import ffi, lib

NS = 1_000_000_000
START_NS = 1000 * NS

PLACES = {
    "exact": ("192.0.2.1", 4000),
    "same": ("192.0.2.1", 4002),
    "same2": ("192.0.2.1", 4004),
    "alias": ("198.51.100.7", 5000),
    "alias2": ("198.51.100.7", 5002),
    "stranger": ("203.0.113.5", 6000),
    "stranger2": ("203.0.113.5", 6002),
    "stranger3": ("203.0.113.9", 6000),
    "local": ("192.0.2.200", 7000),
    "null": ("0.0.0.0", 6000),
    "multicast": ("224.0.0.9", 6000),
    "multicast end": ("239.255.255.255", 6000),
    "broadcast": ("255.255.255.255", 6000),
    "port 0": ("203.0.113.5", 0),
    "exact6": ("2001:db8::1", 4000),
    "stranger6": ("2001:db8::2", 4000),
    "null6": ("::", 6000),
    "multicast6": ("ff02::1", 6000),
}

NONE, RTP, RTCP, OPAQUE = (
    lib.LEARN_PROOF_NONE,
    lib.LEARN_PROOF_RTP,
    lib.LEARN_PROOF_RTCP,
    lib.LEARN_PROOF_OPAQUE,
)
HEURISTIC, DELAYED, IMMEDIATE, OFF = (
    lib.PP_LEARN_HEURISTIC,
    lib.PP_LEARN_DELAYED,
    lib.PP_LEARN_IMMEDIATE,
    lib.PP_LEARN_OFF,
)
STRICT, HANDOVER, ASYMMETRIC, STRANGER = (
    lib.PP_F_STRICT,
    lib.PP_F_HANDOVER,
    lib.PP_F_ASYMMETRIC,
    lib.PP_F_STRANGER,
)
RTCP_ONLY, RTCP_MUX, IS_OPAQUE = lib.PP_F_RTCP_ONLY, lib.PP_F_RTCP_MUX, lib.PP_F_OPAQUE
ICE, SECURE = lib.PP_F_ICE, lib.PP_F_SECURE
AUTHENTIC, NEWEST = lib.LEARN_AUTHENTIC, lib.LEARN_AUTHENTIC_NEWEST

VERDICTS = {0: "drop", 1: "relay", 3: "settle", 4: "elsewhere"}
STANDINGS = {
    lib.LEARN_STANDING_REFUSED: "refused",
    lib.LEARN_STANDING_UNKNOWN: "unknown",
    lib.LEARN_STANDING_CONTINUES: "continues",
    lib.LEARN_STANDING_NEAR: "near",
    lib.LEARN_STANDING_KNOWN: "known",
}


def fill(address: Any, place: str | None) -> None:
    ffi.memmove(ffi.addressof(address), bytes(24), 24)
    if place is None:
        return
    text, port = PLACES[place]
    family, af = (6, socket.AF_INET6) if ":" in text else (4, socket.AF_INET)
    packed = socket.inet_pton(af, text)
    ffi.memmove(address.address, packed, len(packed))
    address.port, address.family = port, family


def name_of(address: Any) -> str | None:
    if not address.family:
        return None
    text = (
        socket.inet_ntop(socket.AF_INET, bytes(address.address)[:4])
        if address.family == 4
        else socket.inet_ntop(socket.AF_INET6, bytes(address.address))
    )
    return next(place for place, where in PLACES.items() if where == (text, address.port))


def packet_from(
    place: str, at: float, seq: int = 0, ssrc: int = 1, proof: int = RTP, authentic: int = 0, indexed: int = 0
) -> Any:
    """A learn_packet as it arrives at second ``at``."""
    packet = ffi.new("struct learn_packet *")
    packet.now_ns, packet.ssrc, packet.seq = START_NS + int(at * NS), ssrc, seq & 0xFFFF
    packet.proof, packet.authentic, packet.indexed = proof, authentic, indexed
    fill(packet.source, place)
    return packet


class Learner:
    """One stream's learning; times in seconds since its configuration."""

    def __init__(
        self, flags: int = STRICT, mode: int = HEURISTIC, peer: str | None = "exact", alias: str | None = "alias"
    ) -> None:
        self.learn = ffi.new("struct learn *")
        fill(self.learn.local, "local")
        self.configured = self.configure(flags, mode, peer, alias, 0)

    def configure(self, flags: int, mode: int, peer: str | None, alias: str | None, at: float) -> str:
        config = ffi.new("struct pp_config *", {"learning": mode, "flags": flags})
        fill(config.peer, peer)
        fill(config.alias, alias)
        result = lib.learn_configure(self.learn, config, START_NS + int(at * NS))
        return {0: "", lib.LEARN_SETTLED: "settle"}[result]

    def packet(self, at: float, place: str, **more: int) -> str:
        return VERDICTS[lib.learn_packet(self.learn, packet_from(place, at, **more))]

    def srtp_standing(self, place: str, **more: int) -> str:
        return STANDINGS[lib.learn_srtp_standing(self.learn, packet_from(place, 0, **more))]

    def dtls_standing(self, place: str) -> str:
        return STANDINGS[lib.learn_dtls_standing(self.learn, ffi.addressof(packet_from(place, 0).source))]

    def validate(self, at: float, place: str, nominated: bool = False) -> str:
        source = ffi.new("struct pp_address *")
        fill(source[0], place)
        result = lib.learn_validate(self.learn, source, nominated, START_NS + int(at * NS))
        return {0: "", lib.LEARN_SETTLED: "settle"}[result]

    @property
    def send_to(self) -> str | None:
        return name_of(self.learn.send_to)

    @property
    def accept_from(self) -> str | None:
        return name_of(self.learn.accept_from)

    @property
    def state(self) -> tuple[str | None, str | None, bool]:
        """Where packets for the party go, whom the stream listens to, and whether learning has finished."""
        return self.send_to, self.accept_from, self.confirmed

    @property
    def confirmed(self) -> bool:
        return bool(self.learn.confirmed)


Step = tuple[float, str, dict[str, int], str]


def run(place: str, start: float, verdicts: str, seq: int = 0, step: int = 1, every: float = 0.02, **more: int) -> Any:
    """Packets of one source in a row; one letter each: d(rop), r(elay), s(ettle)."""
    full = {"d": "drop", "r": "relay", "s": "settle"}
    return [(start + i * every, place, {"seq": seq + i * step, **more}, full[v]) for i, v in enumerate(verdicts)]


@dataclass
class Case:
    name: str
    steps: list[Step]
    send_to: str | None
    accept_from: str | None
    confirmed: bool
    config: dict[str, Any] = field(default_factory=dict)
