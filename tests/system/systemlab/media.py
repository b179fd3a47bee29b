"""Parties of a call: what they say in SDP, the sockets behind it, and the packets they exchange."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from systemlab.netns import RECEIVE_S, Host
from systemlab.ngclient import NgClient, Reply

PAYLOAD = bytes(range(160))
FRAME_S = 0.02
Address = tuple[str, int]
_random = random.Random(4711)


def rtp(seq: int, ssrc: int, payload: bytes = PAYLOAD, payload_type: int = 0, timestamp: int | None = None) -> bytes:
    """An RTP packet (RFC 3550 5.1); the time stamp advances by 160 with each sequence number unless given."""
    stamp = seq * 160 if timestamp is None else timestamp
    return struct.pack("!BBHII", 0x80, payload_type, seq & 0xFFFF, stamp & 0xFFFFFFFF, ssrc) + payload


def sender_report(ssrc: int, packets: int = 0) -> bytes:
    """An RTCP sender report without report blocks, and a CNAME (RFC 3550 6.4.1, 6.5)."""
    report = struct.pack("!BBHIIIIII", 0x80, 200, 6, ssrc, 0, 0, 0, packets, packets * 160)
    return report + struct.pack("!BBHI", 0x81, 202, 3, ssrc) + b"\x01\x04test\x00\x00"


def ssrc_of(packet: bytes) -> int:
    """The SSRC of an RTP packet."""
    return int.from_bytes(packet[8:12], "big")


@dataclass
class Section:
    """One media section as the relay wrote it."""

    kind: str
    port: int
    count: int
    protocol: str
    formats: str
    address: str
    lines: list[str]

    @property
    def direction(self) -> str | None:
        """The direction attribute, None where there is none."""
        found = [line[2:] for line in self.lines if line[2:] in ("sendrecv", "sendonly", "recvonly", "inactive")]
        assert len(found) < 2, self.lines
        return found[0] if found else None

    @property
    def rtcp(self) -> int | None:
        """The port of the rtcp attribute (RFC 3605)."""
        found = [line for line in self.lines if line.startswith("a=rtcp:")]
        assert len(found) < 2, self.lines
        return int(found[0][7:].split()[0]) if found else None

    @property
    def mux(self) -> bool:
        """Whether rtcp-mux is offered or accepted (RFC 5761)."""
        return "a=rtcp-mux" in self.lines

    def value(self, name: str) -> str:
        """The value of an attribute that must be there once."""
        found = [line.partition(":")[2] for line in self.lines if line.startswith(f"a={name}:")]
        assert len(found) == 1, (name, self.lines)
        return found[0]

    @property
    def endpoint(self) -> Address:
        """Where RTP is wanted."""
        return self.address, self.port

    @property
    def rtcp_endpoint(self) -> Address:
        """Where RTCP is wanted: on the RTP port, the named one, or the next."""
        return self.address, self.port if self.mux else self.rtcp or self.port + 1


def sections(body: str) -> list[Section]:
    """Read the media sections of a body; every line must be well-formed and end in CR LF."""
    assert body.endswith("\r\n")
    session_address, found = "", []
    for line in body[:-2].split("\r\n"):
        assert re.match(r"[a-z]=", line), line
        if line.startswith("m="):
            kind, port, protocol, formats = line[2:].split(" ", 3)
            number, _, count = port.partition("/")
            found.append(Section(kind, int(number), int(count or 1), protocol, formats, session_address, []))
        elif line.startswith("c="):
            address = line.split()[2]
            assert line.split()[1] == ("IP6" if ":" in address else "IP4"), line
            if found:
                found[-1].address = address
            else:
                session_address = address
        elif found:
            found[-1].lines.append(line)
    return found


@dataclass
class Media:
    """One media of a party: sockets (RTP, RTCP, ...), what its SDP says, and where the relay wants packets."""

    sockets: list[socket.socket]
    kind: str = "audio"
    protocol: str = "RTP/AVP"
    formats: str = "0"
    lines: list[str] = field(default_factory=list)
    mux: bool = False
    rejected: bool = False
    said_address: str | None = None
    pairs: int = 1
    ssrc: int = field(default_factory=lambda: _random.getrandbits(32))
    sequence: Iterator[int] = field(default_factory=lambda: itertools.count(_random.randrange(1000, 30000)))
    remote: Section | None = None
    answering: bool = False
    to_answer: bool = False

    def told(self, section: Section) -> None:
        """Take what the relay says about this media: its offer if ``to_answer``, else its answer."""
        self.remote = section

    @property
    def rtp(self) -> socket.socket:
        """The socket of the RTP port."""
        return self.sockets[0]

    @property
    def rtcp(self) -> socket.socket:
        """Where the party expects and sends RTCP."""
        return self.sockets[0] if self.mux or len(self.sockets) == 1 else self.sockets[1]

    @property
    def address(self) -> str:
        """The address that the sockets are bound to."""
        return str(self.rtp.getsockname()[0])

    @property
    def port(self) -> int:
        """The RTP port."""
        return int(self.rtp.getsockname()[1])

    def sdp(self) -> list[str]:
        """The lines of the section."""
        count = f"/{self.pairs}" if self.pairs > 1 else ""
        lines = [f"m={self.kind} {0 if self.rejected else self.port}{count} {self.protocol} {self.formats}"]
        return [*lines, connection_line(self.said_address or self.address), *self.lines, *["a=rtcp-mux"] * self.mux]

    def rtp_packet(self, payload: bytes = PAYLOAD) -> bytes:
        """The party's next RTP packet."""
        return rtp(next(self.sequence), self.ssrc, payload, int(self.formats.split()[0]))

    def send(self, packet: bytes | None = None, via: socket.socket | None = None) -> bytes:
        """Send to the relay's RTP port: the next RTP packet, or any other; return it."""
        assert self.remote
        packet = self.rtp_packet() if packet is None else packet
        (via or self.rtp).sendto(packet, self.remote.endpoint)
        return packet

    def send_rtcp(self, packet: bytes | None = None) -> bytes:
        """Send to the relay's RTCP port: a sender report, or any other packet; return it."""
        assert self.remote
        packet = sender_report(self.ssrc) if packet is None else packet
        self.rtcp.sendto(packet, self.remote.rtcp_endpoint)
        return packet


def connection_line(address: str) -> str:
    """The c= line for an address."""
    return f"c=IN {'IP6' if ':' in address else 'IP4'} {address}"


@dataclass
class Party:
    """One side of a call; the sockets are closed with it."""

    host: Host
    family: int = 4
    tag: str = field(default_factory=lambda: f"tag-{_random.getrandbits(40):x}")
    media: list[Media] = field(default_factory=list)
    session_lines: list[str] = field(default_factory=list)

    def add(
        self,
        *,
        pairs: int = 1,
        rtcp_port_distance: int = 1,
        address: str | None = None,
        make: type[Media] = Media,
        **about: Any,
    ) -> Media:
        """Open the sockets of one more media and describe it."""
        ports = [2 * i + j for i in range(pairs) for j in (0, rtcp_port_distance)]
        media = make(open_ports(self.host, address or self.host.address(self.family), ports), pairs=pairs, **about)
        self.media.append(media)
        return media

    @property
    def audio(self) -> Media:
        """The first media."""
        return self.media[0]

    def sdp(self) -> str:
        """The party's body, in the order in which most phones write it."""
        own = self.media[0].said_address or self.media[0].address
        lines = ["v=0", f"o=- 2890844526 2890842807 IN {'IP6' if ':' in own else 'IP4'} {own}", "s=-", "t=0 0"]
        lines += self.session_lines
        for media in self.media:
            lines += media.sdp()
        return "\r\n".join(lines) + "\r\n"

    def close(self) -> None:
        """Close the sockets."""
        for media in self.media:
            for sock in media.sockets:
                sock.close()


def open_ports(host: Host, address: str, offsets: Sequence[int]) -> list[socket.socket]:
    """Bind sockets at the given distances from one even port."""
    for _ in range(100):
        base = _random.randrange(20000, 29000, 2)
        with contextlib.ExitStack() as opened:
            try:
                found = [opened.enter_context(host.udp(address, base + offset)) for offset in offsets]
            except OSError:
                continue
            opened.pop_all()
            return found
    raise OSError(f"no free ports on {address}")


@dataclass
class Dialogue:
    """A call between two parties, placed over ng."""

    ng: NgClient
    caller: Party
    callee: Party
    call_id: str = field(default_factory=lambda: f"{_random.getrandbits(48):x}@system.test")

    def _sdp_request(self, command: str, speaker: Party, listener: Party, keys: dict[str, Any]) -> list[Section]:
        keys = {"flags": ["trust-address"], "replace": ["origin", "session-connection"], "ICE": "remove", **keys}
        for media in speaker.media:
            media.answering = command == "answer"
        reply = self.ng.ok(command, call_id=self.call_id, sdp=speaker.sdp(), **keys)
        found = sections(reply["sdp"])
        assert len(found) == len(speaker.media)
        for media, section in zip(listener.media, found, strict=False):
            media.to_answer = command == "offer"
            media.told(section)
        return found

    def offer(self, caller: Party | None = None, **keys: Any) -> list[Section]:
        """Offer on behalf of one party; the other learns where to send to."""
        caller = caller or self.caller
        callee = self.callee if caller is self.caller else self.caller
        return self._sdp_request("offer", caller, callee, {"from_tag": caller.tag, **keys})

    def answer(self, callee: Party | None = None, **keys: Any) -> list[Section]:
        """Answer on behalf of one party; the other learns where to send to."""
        callee = callee or self.callee
        caller = self.callee if callee is self.caller else self.caller
        return self._sdp_request("answer", callee, caller, {"from_tag": caller.tag, "to_tag": callee.tag, **keys})

    def place(self, **keys: Any) -> Dialogue:
        """Offer and answer."""
        self.offer(**keys)
        self.answer()
        return self

    def delete(self, **keys: Any) -> Reply:
        """End the call; not being found is a success too."""
        return self.ng.ok("delete", call_id=self.call_id, **{"from_tag": self.caller.tag, **keys})

    def query(self, **keys: Any) -> Reply:
        """Ask for the call's state."""
        return self.ng.ok("query", call_id=self.call_id, **keys)


def receive(sock: socket.socket, timeout_s: float = RECEIVE_S) -> tuple[bytes, Address]:
    """The next datagram and its source; TimeoutError if none comes."""
    sock.settimeout(timeout_s)
    packet, source = sock.recvfrom(65535)
    return packet, (source[0], source[1])


def silent(socks: Iterable[socket.socket], for_s: float = 0.2) -> bool:
    """Whether none of the sockets gets anything for a while."""
    readable, _, _ = select.select(list(socks), [], [], for_s)
    return not readable


def relayed(sender: Media, receiver: Media, packets: int = 10, via: socket.socket | None = None) -> None:
    """Assert that RTP reaches the other party unchanged, in order, and from the port that it was told."""
    assert receiver.remote
    sent = [sender.send(via=via) for _ in range(packets)]
    got = [receive(receiver.rtp) for _ in range(packets)]
    assert [packet for packet, _ in got] == sent
    assert {source for _, source in got} == {receiver.remote.endpoint}


def caught_up(sender: Media, receiver: Media, via: socket.socket | None = None, timeout_s: float = RECEIVE_S) -> None:
    """Wait until all has passed that was under way, and forget it: what comes last is a packet of now."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        last = sender.send(via=via)
        with contextlib.suppress(TimeoutError):  # it may have met a full buffer
            while receive(receiver.rtp, 1)[0] != last:
                pass
            return
    raise AssertionError("nothing passes")


def rtcp_relayed(sender: Media, receiver: Media) -> None:
    """Assert that a sender report reaches the other party's RTCP socket from the port that it was told."""
    assert receiver.remote
    sent = sender.send_rtcp()
    assert receive(receiver.rtcp) == (sent, receiver.remote.rtcp_endpoint)


def both_ways(dialogue: Dialogue, index: int = 0, packets: int = 10) -> None:
    """Assert that a media flows in both directions."""
    caller, callee = dialogue.caller.media[index], dialogue.callee.media[index]
    relayed(caller, callee, packets)
    relayed(callee, caller, packets)


def flows_before(sender: Media, via: socket.socket, receiver: socket.socket, timeout_s: float) -> float | None:
    """Send paced RTP until the receiver gets a packet of this SSRC: the seconds it took, None if it never did."""
    start = time.monotonic()
    while (now := time.monotonic()) < start + timeout_s:
        sender.send(via=via)
        with contextlib.suppress(TimeoutError):
            while ssrc_of(receive(receiver, FRAME_S)[0]) != sender.ssrc:
                pass
            return time.monotonic() - start
        time.sleep(max(0.0, now + FRAME_S - time.monotonic()))
    return None
