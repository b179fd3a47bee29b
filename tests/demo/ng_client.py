"""A client of the ng protocol: bencoded dictionaries over UDP, as SIP proxies speak it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple

import bencodepy

_ATTEMPTS = 10
_MAX_DATAGRAM = 65535


class NgError(Exception):
    """The daemon did not answer, or answered ``error``; the text says which."""


class Counters(NamedTuple):
    """Packets that the daemon received from one party: RTP, RTCP, and either on a port that both share."""

    rtp: int = 0
    rtcp: int = 0
    shared: int = 0

    def __str__(self) -> str:
        return f"{self.shared} RTP and RTCP packets" if self.shared else f"{self.rtp} RTP and {self.rtcp} RTCP packets"


class NgClient:
    """Sends one command at a time to the daemon at ``port`` of 127.0.0.1."""

    def __init__(self, port: int, timeout_s: float = 1.0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(timeout_s)
        # The daemon answers a cookie that it knows with the old reply, so no two clients may share one.
        client = secrets.token_hex(8).encode()
        self._cookies = (b"%b_%d" % (client, number) for number in count(1))

    def __enter__(self) -> NgClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def request(self, command: str, keys: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Send a command, again with the same cookie while there is no reply; return the reply.

        Raise NgError for no reply, a reply that is no dictionary, and the result ``error``.
        """
        cookie = next(self._cookies)
        reply = self._exchange(cookie, b"%b %b" % (cookie, bencodepy.encode({**(keys or {}), "command": command})))
        if reply is None:
            raise NgError(f"no reply to {command}")
        answer = _text(bencodepy.decode(reply))
        if not isinstance(answer, dict):
            raise NgError(f"the reply to {command} is no dictionary")
        if answer.get("result") not in ("ok", "pong"):
            raise NgError(f"{command} refused: {answer.get('error-reason')}")
        return answer

    def _exchange(self, cookie: bytes, datagram: bytes) -> bytes | None:
        for _ in range(_ATTEMPTS):
            try:
                self._socket.send(datagram)
                while True:
                    # An answer with another cookie is a late one to a command given up earlier.
                    got, _, reply = self._socket.recv(_MAX_DATAGRAM).partition(b" ")
                    if got == cookie:
                        return reply
            except (TimeoutError, ConnectionRefusedError):
                continue
        return None


def counters(reply: Mapping[str, Any], tag: str) -> Counters:
    """What a ``query`` reply says was received from the party with ``tag``; NgError if it does not say."""
    kinds = {("RTP",): 0, ("RTCP",): 0, ("RTP", "RTCP"): 0}
    try:
        for stream in _streams(reply, tag):
            kind = tuple(name for name in ("RTP", "RTCP") if name in stream["flags"])
            if kind:
                kinds[kind] += int(stream["stats"]["packets"])
    except (KeyError, TypeError) as error:
        raise NgError(f"the reply to query says nothing of the packets from {tag}") from error
    return Counters(*kinds.values())


def suites(reply: Mapping[str, Any], tag: str) -> set[str]:
    """The SRTP suites that a ``query`` reply names for the party with ``tag``."""
    return {stream["crypto suite"] for stream in _streams(reply, tag) if "crypto suite" in stream}


def _streams(reply: Mapping[str, Any], tag: str) -> list[Any]:
    return [stream for media in reply["tags"][tag]["medias"] for stream in media["streams"]]


def _text(value: object) -> object:
    """Byte strings as text, all the way down."""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        return {str(_text(key)): _text(item) for key, item in value.items()}
    return value
