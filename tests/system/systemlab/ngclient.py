"""A client of the ng protocol, written from its description (control-ng.md) and not from the daemon."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import bencodepy

from systemlab.netns import RECEIVE_S, Host

Reply = dict[str, Any]


class NoReplyError(AssertionError):
    """The daemon did not answer in time."""


def decode(value: Any) -> Any:
    """Turn byte strings into text, at every level."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        return {decode(key): decode(item) for key, item in value.items()}
    return value


def encode(request: Mapping[str, Any]) -> bytes:
    """Bencode a request."""
    return bytes(bencodepy.encode(dict(request)))


class NgClient:
    """One socket towards the daemon's control port.

    Keyword arguments of the commands are keys of the protocol; an underscore stands for a hyphen.
    """

    def __init__(self, host: Host, server: tuple[str, int], source: str | None = None) -> None:
        self.server = server
        self.socket = host.udp(source or ("::1" if ":" in server[0] else "127.0.0.1"))
        self._numbers = itertools.count(1)
        self._id = os.urandom(4).hex()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def cookie(self) -> bytes:
        """A cookie as Kamailio makes them: server, process, sequence number."""
        return f"81_{self._id}_{next(self._numbers)}".encode()

    def send(self, payload: bytes, cookie: bytes | None = None) -> bytes:
        """Send a payload under a cookie, a fresh one if none is given, and return the cookie."""
        cookie = self.cookie() if cookie is None else cookie
        self.socket.sendto(cookie + b" " + payload, self.server)
        return cookie

    def receive(self, cookie: bytes, timeout_s: float = 20) -> bytes:
        """The payload of the reply that carries this cookie."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                got, _, payload = self.socket.recv(65535).partition(b" ")
            except TimeoutError:
                break
            if got == cookie:
                return payload
        raise NoReplyError(f"no reply to {cookie!r} within {timeout_s} s")

    def exchange(self, payload: bytes, cookie: bytes | None = None, timeout_s: float = 20) -> Reply:
        """Send one payload and return the decoded reply."""
        reply = decode(bencodepy.decode(self.receive(self.send(payload, cookie), timeout_s)))
        assert isinstance(reply, dict)
        return reply

    def request(self, request: Mapping[str, Any], timeout_s: float = 20) -> Reply:
        """Send a request and return the reply, whatever its result is."""
        return self.exchange(encode(request), timeout_s=timeout_s)

    def command(self, command: str, **keys: Any) -> Reply:
        """Send a command and return the reply, whatever its result is."""
        return self.request({**{key.replace("_", "-"): value for key, value in keys.items()}, "command": command})

    def ok(self, command: str, **keys: Any) -> Reply:
        """Send a command that must succeed."""
        reply = self.command(command, **keys)
        assert reply["result"] == "ok", reply
        return reply

    def error(self, command: str, **keys: Any) -> str:
        """Send a command that must fail, and return the reason; an error reply has exactly two keys."""
        reply = self.command(command, **keys)
        assert reply["result"] == "error", reply
        assert set(reply) == {"result", "error-reason"}
        return str(reply["error-reason"])

    def ping(self, timeout_s: float = 20) -> bool:
        """Whether the daemon answers."""
        try:
            return self.request({"command": "ping"}, timeout_s) == {"result": "pong"}
        except NoReplyError:
            return False

    def pipeline(
        self, payloads: Iterable[bytes], window: int = 32, timeout_s: float = 30
    ) -> Iterator[tuple[int, bytes]]:
        """Keep up to ``window`` requests under way; yield (index, reply payload) as they come.

        Raise NoReplyError as soon as the daemon has been silent for ``timeout_s``.
        """
        waiting: dict[bytes, int] = {}
        source = enumerate(payloads)
        self.socket.settimeout(timeout_s)
        while True:
            for index, payload in itertools.islice(source, window - len(waiting)):
                waiting[self.send(payload)] = index
            if not waiting:
                return
            try:
                cookie, _, reply = self.socket.recv(65535).partition(b" ")
            except TimeoutError as error:
                raise NoReplyError(f"{len(waiting)} requests unanswered: {sorted(waiting.values())[:5]}") from error
            if (found := waiting.pop(cookie, None)) is not None:
                yield found, reply


def drain(sock: socket.socket) -> list[bytes]:
    """Everything that already waits in a socket."""
    packets = []
    sock.setblocking(False)
    try:
        while True:
            packets.append(sock.recv(65535))
    except BlockingIOError:
        return packets
    finally:
        sock.settimeout(RECEIVE_S)
