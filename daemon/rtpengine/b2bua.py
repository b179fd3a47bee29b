"""Tells a B2BUA over XML-RPC which calls have ended because their media stopped (daemon-process.md 8).

Python's ``xmlrpc.client`` blocks, so it runs in threads; everything else happens on the asyncio loop. Whatever the
server does, it costs the loop nothing: attempts, their length and what waits for its turn are all bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import re
import socket
import ssl
import xml.parsers.expat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from xmlrpc.client import Fault, ProtocolError, ResponseError, SafeTransport, ServerProxy, Transport

from rtpengine import __version__

log = logging.getLogger(__name__)

TIME_LIMIT_S = 5.0
PAUSES_S = (1.0, 2.0, 4.0)
"""Between the attempts, of which there is one more."""
MAX_AT_ONCE = 8
MAX_WAITING = 10_000
USER_AGENT = f"ngcp-rtpengine/{__version__}"

# XML 1.0 2.2, but for line breaks, which no SIP tag has.
_WRITABLE = re.compile("[\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_URL = re.compile(r"https?://[!-~]*", re.ASCII | re.IGNORECASE)
_NO_RESPONSE = (ResponseError, xml.parsers.expat.ExpatError, ValueError, LookupError, TypeError, ArithmeticError)
"""What xmlrpc.client raises about a body that is none."""
_FAILURES = (OSError, http.client.HTTPException, ProtocolError, Fault, *_NO_RESPONSE)


def check_url(url: str) -> str:
    """Return the URL of an XML-RPC server; raise ValueError, without the URL, which may hold a password."""
    if not _URL.fullmatch(url):
        raise ValueError("not a URL that begins with http:// or https://")
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("the URL names no host, or a port that is none")
    return url


class _Attempt(Transport):
    """One connection, for at most ``limit_s``; nothing is sent twice without being asked for."""

    user_agent = USER_AGENT

    def __init__(self, limit_s: float, **how: Any) -> None:
        super().__init__(**how)
        self.limit_s = limit_s
        self.expired = False

    def make_connection(self, host: Any) -> Any:
        connection = super().make_connection(host)
        connection.timeout = self.limit_s
        return connection

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        # The inherited one repeats what a closed connection has lost.
        return self.single_request(host, handler, request_body, verbose)

    def expire(self) -> None:
        """End what is under way, from another thread: a time-out of the socket begins anew with each byte."""
        self.expired = True
        sock = getattr(self._connection[1], "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _SecureAttempt(_Attempt, SafeTransport):
    """The same over TLS; ``context`` says whose certificates are accepted."""


class B2bua:
    """Reports dialogues to end, by their tags, to the server at ``url``."""

    def __init__(self, url: str, time_limit_s: float = TIME_LIMIT_S, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._url = url
        self._tls = ssl.create_default_context() if urlsplit(url).scheme == "https" else None
        self._limit_s = time_limit_s
        self._pauses_s = pauses_s
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, "b2bua")
        self._free = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting: set[asyncio.Task[None]] = set()
        self._under_way: set[_Attempt] = set()

    def call_timed_out(self, tags: Sequence[str]) -> None:
        """Report each tag that is not empty; returns at once. The call at work is named in what is logged.

        To be called on the loop. Beyond MAX_WAITING tags that wait, and for a tag that XML cannot hold, a warning
        is all there is.
        """
        for tag in filter(None, tags):
            if len(self._waiting) >= MAX_WAITING:
                log.warning("XML-RPC: tag '%s' is not reported, since %d others wait", tag, MAX_WAITING)
            elif not _WRITABLE.fullmatch(tag):
                log.warning("XML-RPC: tag '%s' is not reported, since XML has no such characters", tag)
            else:
                # A task keeps the context in which it was made, and with it the call that the log names.
                task = asyncio.get_running_loop().create_task(self._report(tag))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)

    def close(self) -> None:
        """Give up what has not been reported yet."""
        if self._waiting:
            log.warning("XML-RPC: %d tags of calls that have timed out are not reported any more", len(self._waiting))
        for task in self._waiting:
            task.cancel()
        for transport in self._under_way:
            transport.expire()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _report(self, tag: str) -> None:
        failure = await self._attempt(tag)
        for number, pause_s in enumerate(self._pauses_s, 1):
            if failure is None:
                break
            log.info("XML-RPC: tag '%s', attempt %d failed: %s", tag, number, failure)
            await asyncio.sleep(pause_s)
            failure = await self._attempt(tag)
        if failure is None:
            log.info("XML-RPC: tag '%s' reported", tag)
        else:
            log.warning("XML-RPC: tag '%s' is not reported, the last attempt failed too: %s", tag, failure)

    async def _attempt(self, tag: str) -> str | None:
        """Report once; return why that failed, None if it did not."""
        async with self._free:
            loop = asyncio.get_running_loop()
            transport = self._transport()
            expiry = loop.call_later(self._limit_s, transport.expire)
            self._under_way.add(transport)
            try:
                return await loop.run_in_executor(self._threads, _call, self._url, transport, tag)
            finally:
                expiry.cancel()
                self._under_way.discard(transport)

    def _transport(self) -> _Attempt:
        if self._tls is None:
            return _Attempt(self._limit_s)
        return _SecureAttempt(self._limit_s, context=self._tls)


def _call(url: str, transport: _Attempt, tag: str) -> str | None:
    """Return why the server does not take the tag, None if it does; what it answers does not matter."""
    try:
        with ServerProxy(url, transport=transport) as server:
            server.di("sbc", "postControlCmd", tag, "teardown")
    except _FAILURES as error:
        return f"no answer within {transport.limit_s:g} s" if transport.expired else _reason(error)
    return None


def _reason(error: Exception) -> str:
    """What failed, without the URL, and not at the length that a server chooses."""
    match error:
        case Fault():
            return f"fault {error.faultCode}: {error.faultString!s:.100}"
        case ProtocolError():
            return f"HTTP status {error.errcode} {error.errmsg:.100}"
        case ssl.SSLCertVerificationError():
            return f"certificate not accepted: {error.verify_message}"
        case OSError():
            return f"{error.strerror or error}"
        case _:
            return f"no XML-RPC response ({type(error).__name__})"
