"""Control sockets: datagrams in, replies out; retransmissions, access and errors are handled here, once."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Protocol

from rtpengine import ProtocolError, ResourceError, ng, rtpproxy
from rtpengine.counts import UNREADABLE, RequestCounts
from rtpengine.log import RateLimited, call_context
from rtpengine.ng_keys import Defaults
from rtpengine.recognize import name_protocol
from rtpengine.rtpproxy_service import RtpproxyService
from rtpengine.service import NgService

log = logging.getLogger(__name__)

MAX_DATAGRAM = 65535
# One readiness callback serves at most so many datagrams, so that timers and signals get their turn in a flood.
DATAGRAMS_PER_WAKEUP = 64
# A flood of distinct cookies must not eat the memory; at this many the older half is forgotten early.
MAX_CACHED_REPLIES = 65536

Source = tuple[str, int] | tuple[str, int, int, int]


class ReplyCache:
    """Replies by source and cookie in two generations (control-ng.md 3), each ``rotate`` forgetting the older one.

    Keyed by the source as well, since two SIP proxies may count their cookies alike.
    """

    def __init__(self, limit: int = MAX_CACHED_REPLIES) -> None:
        self._limit = limit
        self._current: dict[tuple[Source, bytes], bytes] = {}
        self._older: dict[tuple[Source, bytes], bytes] = {}

    def get(self, source: Source, cookie: bytes) -> bytes | None:
        """The reply that this request has had, None if it is new."""
        key = (source, cookie)
        return self._current.get(key) or self._older.get(key)

    def put(self, source: Source, cookie: bytes, reply: bytes) -> None:
        """Remember a reply."""
        if len(self._current) >= self._limit // 2:
            self.rotate()
        self._current[source, cookie] = reply

    def rotate(self) -> None:
        """Forget the older generation; to be called every 30 seconds."""
        self._older = self._current
        self._current = {}


class DatagramProtocol(Protocol):
    """A control protocol whose requests are datagrams: a cookie, and what is asked."""

    def split(self, datagram: bytes) -> tuple[bytes, bytes]:
        """Cookie and request; ProtocolError where there is nothing to reply to."""

    def answer(self, cookie: bytes, request: bytes, source: str, now: float, wall: float) -> tuple[bytes, bool]:
        """The datagram to reply, and whether a retransmission must get the same one; no client makes it raise."""

    def call_id(self, request: bytes) -> str:
        """The call that a request is about, for the log; empty if that cannot be told."""

    def is_own(self, request: bytes) -> bool:
        """Whether the request may be of this protocol at all, as far as a glance tells."""

    def failure(self, cookie: bytes) -> bytes:
        """The datagram to reply where answering has failed by our own fault."""


class NgProtocol:
    """The ng protocol. Where a request does not say, ``trust_sdp`` and ``ice_default``, a mode of ``ICE``, count."""

    split = staticmethod(ng.split)

    def __init__(
        self,
        service: NgService,
        *,
        trust_sdp: bool = False,
        ice_default: str = "optional",
        counts: RequestCounts | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._service = service
        self.defaults = Defaults(trust_sdp, ice_default)
        self._counts = RequestCounts() if counts is None else counts
        self._clock = clock

    def answer(self, cookie: bytes, request: bytes, source: str, now: float, wall: float) -> tuple[bytes, bool]:
        """Run a command; a bad one ends as one error reply."""
        return ng.serialize(cookie, self.reply(request, source, now, wall)), True

    def reply(self, request: bytes, source: str, now: float, wall: float) -> dict[str, Any]:
        """What :meth:`answer` serializes."""
        started = self._clock()
        call_id, name, failed = "", UNREADABLE, True
        try:
            command = ng.parse(request, self.defaults)
            call_id, name = getattr(command, "call_id", ""), command.name
            with call_context(call_id):
                reply = self._service.execute(command, now, wall)
                log.info("%s from %s: %s", name, source, reply["result"])
                failed = reply["result"] == "error"
                return reply
        except (ProtocolError, ResourceError) as error:
            level = error.level if isinstance(error, ResourceError) else logging.INFO
            with call_context(call_id):
                log.log(level, "refused a request from %s: %s", source, error)
            return dict(ng.error(str(error)))
        finally:
            self._counts.count(source, name, self._clock() - started, failed=failed)

    def call_id(self, request: bytes) -> str:
        """As the request names it; a request that cannot be read names none."""
        try:
            return getattr(ng.parse(request, self.defaults), "call_id", "")
        except ProtocolError:
            return ""

    def is_own(self, request: bytes) -> bool:
        """Only a dictionary can be meant for us."""
        return request.startswith(b"d") or not request

    def failure(self, cookie: bytes) -> bytes:
        """An error reply that says no more than that."""
        return ng.serialize(cookie, ng.error("Internal error"))


class RtpproxyProtocol:
    """The protocol of Kamailio's rtpproxy module."""

    split = staticmethod(rtpproxy.split)

    def __init__(
        self,
        service: RtpproxyService,
        counts: RequestCounts | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._service = service
        self._counts = RequestCounts() if counts is None else counts
        self._clock = clock

    def answer(self, cookie: bytes, request: bytes, source: str, now: float, wall: float) -> tuple[bytes, bool]:
        """Run a command line; a bad one ends as the protocol's own error."""
        started, refused = self._clock(), self._service.refused
        with call_context(self.call_id(request)):
            reply = self._service.answer(cookie, request, now, wall)
        name = rtpproxy.command_name(request) or UNREADABLE
        self._counts.count(source, name, self._clock() - started, failed=self._service.refused > refused)
        return reply

    def call_id(self, request: bytes) -> str:
        """As the word behind the command says."""
        return rtpproxy.call_id_of(request)

    def is_own(self, request: bytes) -> bool:
        """A whole command: one letter says little, ``sip:`` begins with that of a stop."""
        return rtpproxy.looks_like(b"cookie " + request)

    def failure(self, cookie: bytes) -> bytes:
        """The protocol's only error."""
        return rtpproxy.serialize(cookie, rtpproxy.ERROR)


class DatagramListener:
    """One UDP control socket. Requests from outside ``allowed`` are dropped and counted; empty, it lets all in."""

    def __init__(
        self,
        sock: socket.socket,
        protocol: DatagramProtocol,
        allowed: Collection[IPv4Network | IPv6Network],
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.sock = sock
        self.cache = ReplyCache()
        self.refused = 0
        self._protocol = protocol
        self.allowed = allowed
        self._monotonic = monotonic
        self._wall = wall
        self._strangers = RateLimited(log, monotonic)

    def on_readable(self) -> None:
        """Answer what has arrived."""
        for _ in range(DATAGRAMS_PER_WAKEUP):
            try:
                datagram, source = self.sock.recvfrom(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an ICMP error for an earlier reply, say; the socket goes on
                log.debug("control socket: %s", error)
                continue
            self._answer(datagram, source)

    def _answer(self, datagram: bytes, source: Source) -> None:
        if self.allowed and not self._is_allowed(source):
            self.refused += 1
            return
        try:
            cookie, request = self._protocol.split(datagram)
        except ProtocolError as error:
            self._name_protocol(datagram, source, str(error))
            return
        reply = self.cache.get(source, cookie)
        if reply is None:
            if not self._protocol.is_own(request):
                self._name_protocol(datagram, source)
            reply = self._execute(cookie, request, source)
        else:
            log.info("repeated a reply to %s, which sent its request again", source[0])
        try:
            self.sock.sendto(reply, source)
        except OSError as error:  # the client asks again, and is answered from the cache
            log.info("could not send a reply to %s: %s", source[0], error)

    def _name_protocol(self, datagram: bytes, source: Source, otherwise: str | None = None) -> None:
        name = name_protocol(datagram) or otherwise
        if name is not None:
            self._strangers.warning("request from %s: %s", source[0], name)

    def _is_allowed(self, source: Source) -> bool:
        address = ip_address(source[0].partition("%")[0].removeprefix("::ffff:"))
        return any(address in network for network in self.allowed)

    def _execute(self, cookie: bytes, request: bytes, source: Source) -> bytes:
        """Have a request answered; what our own faults do to it ends here, with a traceback and an error reply."""
        try:
            reply, repeatable = self._protocol.answer(cookie, request, source[0], self._monotonic(), self._wall())
        except Exception:
            with call_context(self._protocol.call_id(request)):
                log.exception("internal error on a request from %s", source[0])
            reply, repeatable = self._protocol.failure(cookie), True
        if repeatable:
            self.cache.put(source, cookie, reply)
        return reply


def bind(address: str, port: int) -> socket.socket:
    """A non-blocking UDP socket for a control protocol, dual-stack on ``::``; OSError if it cannot be had."""
    # A SIP proxy that restarts asks for all its calls at once; the default buffer holds some hundred offers.
    return _bound(socket.SOCK_DGRAM, address, port, socket.SO_RCVBUF, 4 << 20)


def bind_tcp(address: str, port: int) -> socket.socket:
    """A non-blocking TCP socket that does not listen yet, dual-stack on ``::``; OSError if it cannot be had."""
    return _bound(socket.SOCK_STREAM, address, port, socket.SO_REUSEADDR, 1)


def _bound(kind: socket.SocketKind, address: str, port: int, option: int, value: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, option, value)
        sock.setblocking(False)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock
