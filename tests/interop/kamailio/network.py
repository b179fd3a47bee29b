"""Loopback addresses as hosts, and a datagram forwarder that loses some."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

from systemlab.netns import RECEIVE_S, Host

Address = tuple[str, int]


class Loopback(Host):
    """One address of 127.0.0.0/8; no namespace and no privilege is needed for it."""

    def __init__(self, number: int) -> None:
        super().__init__("", number)
        self.ipv4 = [f"127.0.0.{number}"]
        self.ipv6 = []

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Everybody is in this namespace."""
        yield

    def udp(self, address: str, port: int = 0) -> socket.socket:
        """A UDP socket, bound; a receive waits for at most RECEIVE_S unless told otherwise."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind((address, port))
        except OSError:
            sock.close()
            raise
        sock.settimeout(RECEIVE_S)
        return sock


@dataclass
class Exchange:
    """What became of one cookie: how many requests were lost and passed on, and all replies that came back."""

    requests: int = 0
    lost_requests: int = 0
    lost_replies: int = 0
    replies: list[bytes] = field(default_factory=list)


class LossyWire:
    """Passes datagrams on between clients and a server, and loses the part ``loss`` of them in each direction.

    Seeded by the order of the datagrams. The same cookie is lost at most MAX_LOST times, since clients give up after
    five or six tries: what is tested is that they are answered, and not what they do when they are not.
    """

    MAX_LOST = 3

    def __init__(self, host: Loopback, server: Address, seed: int = 4711) -> None:
        self.loss = 0.0
        self.exchanges: dict[bytes, Exchange] = defaultdict(Exchange)
        self._host = host
        self._server = server
        self._random = random.Random(seed)
        self._front = host.udp(host.address(4), host.free_port())
        self.address: Address = self._front.getsockname()
        self._upstream: dict[Address, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> LossyWire:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(10)
        self._selector.close()
        for sock in (self._front, *self._upstream.values()):
            sock.close()

    def _run(self) -> None:
        while not self._end.is_set():
            for key, _ in self._selector.select(0.1):
                with contextlib.suppress(OSError):  # the server may be away: then its replies are lost too
                    if key.fileobj is self._front:
                        self._request(*self._front.recvfrom(65535))
                    else:
                        self._reply(key.fileobj.recv(65535), key.data)  # type: ignore[union-attr]

    def _lost(self, exchange: Exchange) -> bool:
        often = exchange.lost_requests + exchange.lost_replies >= self.MAX_LOST
        return self._random.random() < self.loss and not often

    def _request(self, datagram: bytes, client: Address) -> None:
        exchange = self.exchanges[datagram.split()[0]]
        if self._lost(exchange):
            exchange.lost_requests += 1
            return
        exchange.requests += 1
        if client not in self._upstream:
            self._upstream[client] = self._host.udp(self._host.address(4))
            self._selector.register(self._upstream[client], selectors.EVENT_READ, client)
        self._upstream[client].sendto(datagram, self._server)

    def _reply(self, datagram: bytes, client: Address) -> None:
        exchange = self.exchanges[datagram.split()[0]]
        exchange.replies.append(datagram)
        if self._lost(exchange):
            exchange.lost_replies += 1
        else:
            self._front.sendto(datagram, client)
