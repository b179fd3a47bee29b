"""What the packet path tests share: packets, parties with real sockets, relays between two of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from rtpengine.media import Endpoint, StreamConfig
from rtpengine.packetpath import PacketPath

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
DEADLINE_S = 30.0
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
RECEIVE_BUFFER = 1 << 20


def rtp(seq: int, ssrc: int = 1, payload_type: int = 0, payload: bytes = b"\xd5" * 160) -> bytes:
    """One RTP packet."""
    return bytes([128, payload_type]) + (seq & 0xFFFF).to_bytes(2, "big") + bytes(4) + ssrc.to_bytes(4, "big") + payload


def rtcp(packet_type: int, words: int = 6, ssrc: int = 1) -> bytes:
    """One RTCP packet with ``words`` 32-bit words behind its header."""
    return bytes([128, packet_type]) + words.to_bytes(2, "big") + ssrc.to_bytes(4, "big") + bytes(4 * (words - 1))


def udp_socket(family: int = 4, address: str | None = None) -> socket.socket:
    """A bound UDP socket that waits at most DEADLINE_S."""
    sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
        with suppress(PermissionError):  # as much as everybody may have, and as root as is good for a late reader
            sock.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
    sock.bind((address or LOOPBACK[family], 0))
    sock.settimeout(DEADLINE_S)
    return sock


def eventually(condition: Callable[[], Any]) -> None:
    """Wait until ``condition()`` holds."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


class Party:
    """One side of a call: a socket of its own, and the relay's stream that faces it."""

    def __init__(self, path: PacketPath, family: int = 4, worker: int = 0) -> None:
        self.path = path
        self.family, self.worker = family, worker
        self.sock = udp_socket(family)
        self.open_stream()

    def open_stream(self) -> None:
        """Give the relay a socket that faces this party."""
        facing = udp_socket(self.family)
        self.relay = facing.getsockname()[:2]
        self.stream = self.path.open_stream(self.worker, facing)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(*self.sock.getsockname()[:2])

    def configure(self, **more: Any) -> None:
        values: dict[str, Any] = {"peer": self.endpoint, "rtp_sink": 0, "rtcp_sink": 0, **more}
        self.path.configure(self.stream, StreamConfig(**values))

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.sock.sendto(packet, self.relay)

    def receive(self) -> bytes:
        return self.sock.recv(65536)

    def hears_nothing(self) -> bool:
        """Whether nothing waits now; meaningful once the relay's counters say that it is through."""
        self.sock.setblocking(False)
        try:
            self.sock.recv(65536)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(DEADLINE_S)
        return False

    @property
    def state(self) -> Any:
        return self.path.state(self.stream)

    def close(self) -> None:
        self.sock.close()


class Relay:
    """A packet path with two parties whose streams are each other's sinks."""

    def __init__(self, path: PacketPath, families: tuple[int, int] = (4, 4), worker: int = 0) -> None:
        self.a, self.b = (Party(path, family, worker) for family in families)

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.a.close()
        self.b.close()

    def connect(self, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None) -> Relay:
        """Configure both streams, with each other as sinks for RTP and RTCP."""
        self.a.configure(**{"rtp_sink": self.b.stream, "rtcp_sink": self.b.stream, **(a or {})})
        self.b.configure(**{"rtp_sink": self.a.stream, "rtcp_sink": self.a.stream, **(b or {})})
        return self
