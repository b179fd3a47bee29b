"""A party: two UDP sockets, a speaker that is paced in real time, and an ear that writes down what comes."""

from __future__ import annotations

import random
import selectors
import socket
import struct
import time
from enum import Enum, auto
from threading import Event, Thread
from types import TracebackType

from measure import Heard, Said
from phone_sdp import PLAIN, Address, Told
from speech import FRAME_MS, FRAME_SAMPLES, Recording
from wire import RtpPacket, parse_rtp, sender_report

# Of Linux's asm-generic/socket.h; the socket module lacks it. The kernel's own time of arrival keeps the delays
# of this Python program out of the latency.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_MAX_DATAGRAM = 2048
_FRAMES_PER_REPORT = 1000 // FRAME_MS
# So close to 2^16 that the sequence number wraps in the middle of each call (RFC 3550 5.1 lets it begin anywhere).
_FIRST_SEQUENCE = 65400


class Activity(Enum):
    """What a phone does for a while."""

    SPEAK = auto()
    SEND_SILENCE = auto()
    LISTEN = auto()
    SPEAK_UNHEARD = auto()  # to a party on hold, as phones do that overlook a null address


class Phone:
    """One party of one call at ``host``; sends and receives between ``__enter__`` and ``__exit__``.

    ``told`` is what the last SDP from the other side said; set it before ``act``.
    """

    def __init__(self, name: str, host: str, recording: Recording) -> None:
        self.name = name
        self.law = recording.law
        self.told = Told()
        self.said: list[Said] = []
        self.heard: list[Heard] = []
        self.reports_sent: list[bytes] = []
        self.reports_heard: list[bytes] = []
        self._rtp, self._rtcp = _socket_pair(host)
        self.address = Address(host, self._rtp.getsockname()[1])
        self._frames = recording.frames()
        self._next_frame = 0
        self._talkspurt_begins = True
        self._ssrc, self._timestamp = random.getrandbits(32), random.getrandbits(32)
        self._stop = Event()
        self._ear = Thread(target=self._listen, name=f"{name}'s ear", daemon=True)

    def __enter__(self) -> Phone:
        self._ear.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.hang_up()
        if self._ear.is_alive():
            self._ear.join()
        self._rtp.close()
        self._rtcp.close()

    @property
    def protocol(self) -> str:
        """The transport of its m= line."""
        return PLAIN

    @property
    def attributes(self) -> tuple[str, ...]:
        """What its SDP says beyond the usual, without ``a=``."""
        return ()

    @property
    def cname(self) -> str:
        """The RTCP name of this party (RFC 3550 6.5.1)."""
        return f"{self.name.lower()}@{self.address.host}"

    def hang_up(self) -> None:
        """Make ``act`` and the ear end soon; callable from any thread."""
        self._stop.set()

    def act(self, activity: Activity, frames: int, start: float) -> None:
        """Be busy for ``frames`` times 20 ms from ``start`` (monotonic seconds), each packet at its own due time."""
        self._talkspurt_begins = True
        for slot in range(frames):
            # Due times are absolute, so that a late packet does not delay those behind it.
            if self._stop.wait(max(0.0, start + slot * FRAME_MS / 1000 - time.monotonic())):
                return
            self._timestamp = (self._timestamp + FRAME_SAMPLES) % 2**32
            if activity is not Activity.LISTEN:
                self._send_frame(activity)
            # RFC 3264 8.4: a null address gets no RTCP either.
            if slot % _FRAMES_PER_REPORT == _FRAMES_PER_REPORT // 2 and not self.told.null_address:
                self._send_report()

    def _send_frame(self, activity: Activity) -> None:
        unheard = activity is Activity.SPEAK_UNHEARD
        sequence = (_FIRST_SEQUENCE + len(self.said)) % 2**16
        payload = self._payload(activity)
        packet = RtpPacket(
            self.law.payload_type, sequence, self._timestamp, self._ssrc, payload, marker=self._talkspurt_begins
        ).serialize()
        self._talkspurt_begins = False
        self.said.append(Said(sequence, self._timestamp, payload, time.time_ns(), withheld=unheard))
        self._send(packet)

    def _payload(self, activity: Activity) -> bytes:
        if activity is Activity.SPEAK_UNHEARD:
            return self._frames[len(self.said) % len(self._frames)]
        if activity is Activity.SEND_SILENCE or self._next_frame == len(self._frames):
            return self.law.silent_frame
        self._next_frame += 1
        return self._frames[self._next_frame - 1]

    def _send_report(self) -> None:
        packets = len(self.said)
        octets = packets * FRAME_SAMPLES
        report = sender_report(self._ssrc, time.time(), self._timestamp, packets, octets, self.cname)
        self.reports_sent.append(report)
        self._send_control(report)

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._rtp, selectors.EVENT_READ, self._hear)
            selector.register(self._rtcp, selectors.EVENT_READ, self._hear_report)
            while not self._stop.is_set():
                for key, _ in selector.select(0.1):
                    key.data()

    def _send(self, packet: bytes) -> None:
        self._rtp.sendto(packet, self.told.rtp)

    def _send_control(self, report: bytes) -> None:
        self._rtcp.sendto(report, self.told.rtcp)

    def _hear(self) -> None:
        data, ancillary, _, source = self._rtp.recvmsg(_MAX_DATAGRAM, socket.CMSG_SPACE(_TIMESPEC.size))
        from_relay = source[:2] == self.told.rtp or self.told.null_address
        self._note(data, _arrival_ns(ancillary), from_relay)

    def _note(self, data: bytes, received_ns: int, from_relay: bool) -> None:
        """Write down what has come on the RTP socket."""
        # What is no RTP was never said: it must show up as a stray packet.
        packet = parse_rtp(data) or RtpPacket(-1, -1, 0, 0, data)
        self.heard.append(
            Heard(packet.payload_type, packet.sequence, packet.timestamp, packet.payload, received_ns, from_relay)
        )

    def _hear_report(self) -> None:
        self.reports_heard.append(self._rtcp.recv(_MAX_DATAGRAM))


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """UNIX time in ns at which the kernel received the packet."""
    for level, kind, data in ancillary:
        if (level, kind, len(data)) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS, _TIMESPEC.size):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return time.time_ns()


def _socket_pair(host: str) -> tuple[socket.socket, socket.socket]:
    """Sockets for RTP on an even port and RTCP on the next one (RFC 3550 11); OSError if there are none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.sample(range(40000, 60000, 2), 100):
        pair = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
        try:
            pair[0].bind((host, port))
            pair[1].bind((host, port + 1))
        except OSError:
            pair[0].close()
            pair[1].close()
            continue
        pair[0].setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        return pair
    raise OSError(f"no free pair of UDP ports on {host}")
