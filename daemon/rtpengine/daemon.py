"""The daemon: builds every part from a :class:`Config` and runs them on one asyncio loop.

Everything here happens on the main thread; media runs in the packet path's own threads.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from rtpengine import ProtocolError, __version__, control_cli, control_tcp, fdstore, operator_host
from rtpengine.b2bua import B2bua
from rtpengine.call import Call
from rtpengine.config import Config
from rtpengine.control import DatagramListener, DatagramProtocol, NgProtocol, RtpproxyProtocol
from rtpengine.counts import CallCounts, RequestCounts
from rtpengine.dtls import Certificate
from rtpengine.handover import Channel, Predecessor, Successions
from rtpengine.ice import new_foundations
from rtpengine.kernel import KernelTable
from rtpengine.keying import Tools
from rtpengine.live import Live, controllers, guard
from rtpengine.log import call_context, debug_call, is_debugged, lower_level, raise_level
from rtpengine.media import IPV4, IPV6
from rtpengine.offload import Offload
from rtpengine.openser_service import OpenserService
from rtpengine.operations import Operations
from rtpengine.operator_commands import When, execute
from rtpengine.packetpath import (
    DtlsReceived,
    Event,
    HeardElsewhere,
    IndexMoved,
    PacketPath,
    SourceConfirmed,
    StunReceived,
)
from rtpengine.ports import PortPool
from rtpengine.reload import Reloader
from rtpengine.replacement import Replacement
from rtpengine.rtpproxy_service import RtpproxyService
from rtpengine.sampling import Sampler
from rtpengine.service import NgService, log_final_statistics
from rtpengine.snapshot import Restorer
from rtpengine.supervision import Supervisor
from rtpengine.table import CallTable, Limits
from rtpengine.transport import PacketTransport

if TYPE_CHECKING:
    from rtpengine.persistence import Persistence
    from rtpengine.web import WebServer
    from rtpengine.website import Website

log = logging.getLogger(__name__)

TICK_S = 1.0
# So long a process that has asked for the calls may take until it takes them.
SUCCESSOR_S = 30.0
# A loop that is so late with its tick keeps signalling waiting.
LATE_S = 10.0
CACHE_GENERATION_S = 30.0
# A call that ends is freed by reference count; the collector, by default after 700 new objects, finds next to nothing.
GC_THRESHOLDS = (50_000, 20, 100)


class Origin(NamedTuple):
    """Where a daemon comes from, so that it can go on with what is there, and be replaced.

    ``predecessor`` has calls to be taken over; ``left`` are those that systemd has kept. ``command`` was given in
    ``directory``.
    """

    command: Sequence[str] = ()
    directory: str = "/"
    predecessor: Predecessor | None = None
    left: fdstore.Left | None = None


class Daemon:
    """All parts of one running daemon; ``run`` returns when a signal has asked for the end.

    ``sockets`` are the bound control sockets by option: listen-ng, listen-udp, listen-tcp, listen-http.
    ``kernel`` forwards established streams; None: everything stays in userspace.
    ``load`` reads the configuration again. ``forwarding`` is what was logged about the kernel.
    """

    def __init__(
        self,
        config: Config,
        sockets: Mapping[str, socket.socket],
        kernel: KernelTable | None = None,
        load: Callable[[], Config] | None = None,
        forwarding: str = "",
        origin: Origin | None = None,
    ) -> None:
        origin = origin or Origin()
        self._started = self._ticked = time.monotonic()
        self._stop = asyncio.Event()
        self._handshakes: asyncio.TimerHandle | None = None
        self._last_second = self._totals = (0, 0)
        self._rotate_at = self._started + CACHE_GENERATION_S
        self._refused_logged = 0
        self._supervisor = Supervisor()
        self._open_media(config, kernel)
        self._open_calls(config)
        self._open_controls(config, sockets)
        self.replacement = Replacement(origin.command, origin.directory, config.takeover_socket)
        self._open_operations(forwarding)
        self.http_socket = sockets.get("listen-http")
        self.website: Website | None = None
        self.web: WebServer | None = self._web_server(config) if self.http_socket is not None else None
        live = Live(self.table, self.ng, self.listeners, self.tcp, self.cli, self.web)
        self.reloader = Reloader(config, load or (lambda: config), live.appliers())
        self._former = origin.predecessor or origin.left
        self._successions: Successions | None = None
        if config.takeover_socket is not None:
            path = config.takeover_socket
            self._successions = Successions(path, self.transport, self.table, dict(sockets), kernel)
        self._handed_over = False
        self._awaited_until = 0.0

    def _open_media(self, config: Config, kernel: KernelTable | None) -> None:
        self.path = PacketPath(config.num_threads, config.poll_pause_us)
        self.offload = Offload(self.path, kernel, config.tos, time.monotonic) if kernel else None
        self.transport = PacketTransport(
            self.offload or self.path, config.num_threads, _port_pools(config), _advertised(config), time.monotonic
        )
        if self.offload is not None:
            self.offload.context = lambda stream: call_context(*self.transport.owners[stream])
            self.offload.note = self.transport.note

    def _open_calls(self, config: Config) -> None:
        self.sampler = Sampler(self.path.heard)
        self.b2bua = B2bua(config.b2b_url) if config.b2b_url is not None else None
        self.calls, self.requests = CallCounts(), RequestCounts()
        self._suites = config.srtp_suites
        self._certificate = Certificate.generate(datetime.now(UTC), self._suites)
        limits = Limits(config.timeout_s, config.silent_timeout_s, config.final_timeout_s)
        self.table = CallTable(self.transport, limits, config.endpoint_learning, self._tools(config), self._ended)
        self.table.admission.max_sessions = config.max_sessions
        self.transport.told = self.table.note
        self.persistence = self._open_persistence(config)

    def _open_controls(self, config: Config, sockets: Mapping[str, socket.socket]) -> None:
        self.ng = NgProtocol(
            NgService(self.table),
            trust_sdp=config.trust_sdp,
            ice_default=config.ice_default,
            counts=self.requests,
        )
        self.listeners = [
            DatagramListener(sock, self._protocol(option, config), config.control_allow)
            for option, sock in sockets.items()
            if option in ("listen-ng", "listen-udp")
        ]
        self.tcp_socket = sockets.get("listen-tcp")
        openser = OpenserService(self.table, lambda: self._last_second)
        self.tcp = control_tcp.Server(openser, config.control_allow, counts=self.requests)
        self.cli_socket = sockets.get("listen-cli")
        self.cli = control_cli.Server(self._operate, controllers(config))

    def _open_operations(self, forwarding: str) -> None:
        around = operator_host.host(
            self.transport,
            self.path,
            self.offload,
            lambda: self.reloader.config,
            self._started,
            forwarding,
            self.replacement.begin,
            lambda: self.persistence.state if self.persistence is not None else None,
        )
        self.operations = Operations(self.table, self.calls, around)

    def _tools(self, config: Config) -> Tools:
        foundations = new_foundations(secrets.token_bytes)
        return Tools(secrets.token_bytes, lambda: self._certificate, foundations, config.srtp_suites)

    def _protocol(self, option: str, config: Config) -> DatagramProtocol:
        if option == "listen-udp":
            return RtpproxyProtocol(RtpproxyService(self.table, config.ip), self.requests)
        return self.ng

    def _web_server(self, config: Config) -> WebServer:
        # not before they are wanted: see there
        from rtpengine.metrics import Parts
        from rtpengine.web import Health, WebServer
        from rtpengine.website import Website

        parts = Parts(
            path=self.path,
            offload=self.offload,
            pools=self.transport.pools,
            table=self.table,
            calls=self.calls,
            requests=self.requests,
            quality=self.sampler.totals,
            started=self._started,
            now=time.monotonic,
        )
        self.website = Website(parts, self.operations)
        return WebServer(guard(config), self.ng, Health(self._failing, self._unready), self.website.pages())

    def _open_persistence(self, config: Config) -> Persistence | None:
        if config.redis_server is None:
            return None
        # not before it is wanted: half as much to import again as all the rest
        from rtpengine.persistence import open_persistence

        persistence = open_persistence(config, self.table)
        if persistence is not None:
            self.table.changed = persistence.changed
        return persistence

    def _failing(self) -> str:
        late = time.monotonic() - self._ticked
        return f"the one-second tick is {late:.0f} seconds late" if late > LATE_S else ""

    def _unready(self) -> str:
        if self._stop.is_set():
            return "ending"
        return "draining" if self.table.admission.draining else ""

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until SIGTERM, SIGINT or the end of a drain; ``ready`` is called once everything listens."""
        self._handle_signals()
        loop = asyncio.get_running_loop()
        self.table.arm = self._arm
        loop.add_reader(self.path.fileno(), self._on_events)
        if self._former is not None:
            self._former.restore(self.transport, self.table, Restorer(self.transport, self.table.tools, late=False))
        if self.persistence is not None:
            await self.persistence.start(restores=self._former is None)
        if self.offload is not None:
            self.offload.settle()
        if self.tcp_socket is not None:
            await self.tcp.listen(self.tcp_socket)
        if self.web is not None and self.http_socket is not None:
            await self.web.listen(self.http_socket)
        if self.cli_socket is not None:
            await self.cli.listen(self.cli_socket)
        # Last: whom we answer there may take it that the rest listens too.
        for listener in self.listeners:
            loop.add_reader(listener.sock, listener.on_readable)
        ticking = loop.create_task(self._tick_forever())
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        log.info("rtpengine %s is ready", __version__)
        if self._successions is not None:
            loop.add_reader(self._successions.listen(), self._on_successor, self._successions)
        ready()
        self._supervisor.watch(loop)
        await self._stop.wait()
        if not self._handed_over:  # else it is the successor whom the supervisor listens to
            self._supervisor.stopping()
        ticking.cancel()
        log.info("rtpengine %s ends with %d calls", __version__, len(self.table))
        if self.web is not None:
            await self.web.close()
        if self.persistence is not None and not self._handed_over:
            await self.persistence.close()
        if self._successions is not None:
            self._successions.close(unlink=not self._handed_over)
        if fdstore.is_offered() and not self._handed_over:
            fdstore.leave(self.transport, self.table)
        self.close()

    def close(self) -> None:
        """Close every socket; calls are not torn down in SIP, their media just stops."""
        self.path.close()
        self.replacement.close()
        if self.offload is not None:
            self.offload.close()
        if self.b2bua is not None:
            self.b2bua.close()
        self.tcp.close()
        self.cli.close()
        for listener in self.listeners:
            listener.sock.close()

    def _on_successor(self, successions: Successions) -> None:
        channel = successions.accept()
        if channel is not None:
            self._awaited_until = time.monotonic() + SUCCESSOR_S
            asyncio.get_running_loop().add_reader(channel.sock, self._on_message, successions, channel)

    def _on_message(self, successions: Successions, channel: Channel) -> None:
        """What a successor says; while calls are handed over nothing else happens here."""
        # Only the first of several gets the calls, and nobody does from a daemon that is about to end.
        done = None if self._stop.is_set() else successions.serve(channel)
        if done is False:
            return
        asyncio.get_running_loop().remove_reader(channel.sock)
        channel.close()
        self._awaited_until = 0.0
        if done:
            self._handed_over = True
            if self.persistence is not None:
                self.persistence.leave()
            self._stop_serving()
            self._stop.set()

    def _stop_serving(self) -> None:
        """Read nothing any more of what the successor reads now."""
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            loop.remove_reader(listener.sock)
        loop.remove_reader(self.path.fileno())
        if self._successions is not None and self._successions.sock is not None:
            loop.remove_reader(self._successions.sock)
        self.tcp.close()

    def reload(self) -> None:
        """Read the configuration again (SIGHUP)."""
        self._supervisor.reloading()
        try:
            self.reloader.reload()
        finally:
            self._supervisor.reloaded()

    def drain(self) -> None:
        """Take no new calls, and end when there are none left (SIGRTMIN)."""
        self.operations.drain(None, time.monotonic())

    def replace(self) -> None:
        """Have a new process take over (SIGRTMIN+1)."""
        try:
            self.replacement.begin()
        except ProtocolError as reason:
            log.error("not replaced: %s", reason)

    def _operate(self, words: list[str], source: str) -> Any:
        """What rtpengine-ctl wants, and from where."""
        return execute(self.operations, words, When(time.monotonic(), time.time()), source)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        logging.getLogger("asyncio").setLevel(logging.WARNING)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.add_signal_handler(signal.SIGRTMIN, self.drain)
        loop.add_signal_handler(signal.SIGRTMIN + 1, self.replace)
        loop.add_signal_handler(signal.SIGUSR1, lower_level)
        loop.add_signal_handler(signal.SIGUSR2, raise_level)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._handed_over:
                return
            self._ticked = time.monotonic()
            # The kernel's news first: what it has forwarded keeps calls alive.
            for tick in (self.offload.tick, self._tick) if self.offload is not None else (self._tick,):
                try:
                    tick(time.monotonic())
                except Exception:
                    log.exception("internal error in the one-second tick")

    def _tick(self, now: float) -> None:
        self.table.tick(now)
        self._supervise(now)
        self.replacement.check()
        stats = self.path.stats()
        self.sampler.tick(self.table, stats.quality, now)
        if self.website is not None:
            self.website.tick(stats, now)
        totals = (stats.bytes, stats.errors)
        self._last_second = (totals[0] - self._totals[0], totals[1] - self._totals[1])
        self._totals = totals
        if now >= self._rotate_at:
            self._rotate_at = now + CACHE_GENERATION_S
            for listener in self.listeners:
                listener.cache.rotate()
            if self.web is not None:
                self.web.cache.rotate()
        refused = self.tcp.refused + self.cli.refused + sum(listener.refused for listener in self.listeners)
        refused += self.web.refused if self.web is not None else 0
        if refused > self._refused_logged:
            log.warning("--control-allow and --http-allow kept out %d requests", refused - self._refused_logged)
            self._refused_logged = refused

        if self._certificate.expires_soon(datetime.now(UTC)):
            self._certificate = Certificate.generate(datetime.now(UTC), self._suites)
            log.info("new certificate for DTLS")

    def _ended(self, call: Call, reason: str, now: float) -> None:
        with call_context(call.call_id):
            if self.b2bua is not None and reason in ("timeout", "final timeout"):
                self.b2bua.call_timed_out([leg.tag for leg in call.legs])
            if self.persistence is not None:
                self.persistence.ended(call.call_id)
            self.calls.ended(call, reason, now)
            log_final_statistics(call, reason, now)
        if is_debugged(call.call_id):
            debug_call(call.call_id, False)

    def _supervise(self, now: float) -> None:
        admission, calls = self.table.admission, len(self.table)
        # A successor that is about to take over would find nobody.
        if admission.is_drained(calls, now) and now >= self._awaited_until:
            self._stop.set()
        self._supervisor.status(f"draining, calls left: {calls}" if admission.draining else f"calls: {calls}")

    def _on_events(self) -> None:
        now = time.monotonic()
        for event in self.path.events():
            owner = self.transport.owners.get(event.stream)
            if owner is not None:
                with call_context(*owner):
                    try:
                        self._on_event(owner[0], event, now)
                    except Exception:
                        log.exception("internal error about a packet")

    def _on_event(self, call_id: str, event: Event, now: float) -> None:
        match event:
            case SourceConfirmed():
                log.debug("peer confirmed at %s", event.source)
                self.transport.note(event.stream, f"source {event.source} confirmed")
                if self.offload is not None:
                    self.offload.source_confirmed(event.stream, now)
                self.table.changed(call_id)
            case HeardElsewhere():
                if self.offload is not None:
                    self.offload.heard_elsewhere(event.stream, now)
            case IndexMoved():
                self.table.changed(call_id)
            case StunReceived():
                self.table.receive_stun(call_id, event.stream, event.data, event.source, now)
            case DtlsReceived():
                self.table.receive_dtls(call_id, event.stream, event.data, event.source, now)

    def _arm(self, deadline: float) -> None:
        """Have the handshakes looked after at ``deadline``, in the loop's time, which is monotonic too."""
        if self._handshakes is not None:
            self._handshakes.cancel()
        self._handshakes = asyncio.get_running_loop().call_at(deadline, self._on_deadline)

    def _on_deadline(self) -> None:
        self._handshakes = None
        now = time.monotonic()
        for call in self.table.due_handshakes(now):
            with call_context(call.call_id):
                try:
                    self.table.handle_timeout(call, now)
                except Exception:
                    log.exception("internal error in a handshake")


def _port_pools(config: Config) -> dict[int, PortPool]:
    """A pool per family; the UDP control ports are never media ports."""
    addresses = {IPV4: config.ip} | ({IPV6: config.ip6} if config.ip6 else {})
    taken = {port.port for option, port in config.listeners.items() if option != "listen-tcp"}
    return {
        family: PortPool(address, config.port_min, config.port_max, config.tos, taken)
        for family, address in addresses.items()
    }


def _advertised(config: Config) -> dict[int, str]:
    return {IPV4: config.advertised_ip} | ({IPV6: config.advertised_ip6} if config.advertised_ip6 else {})
