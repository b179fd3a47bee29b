"""A plain phone: G.711, and VP8 video that it shows back to whoever it comes from."""

from __future__ import annotations

import struct
import time
from collections import deque
from itertools import count, cycle
from select import select
from threading import Event, Thread
from types import TracebackType
from typing import Any

from speech import FRAME_SAMPLES
from systemlab.media import FRAME_S, Party, rtp, sections, sender_report
from systemlab.netns import Host

from peers.party import PLAIN
from peers.sound import Sound, decode, encode, tone

_HEADER = 12
_HEARD_FRAMES = 20
_FRAMES_PER_REPORT = 50
_RECEIVER_REPORT, _PAYLOAD_FEEDBACK = 201, 206
_PLI = 1
# What a camera's first picture is made of at the very least: without them, whoever it is shown to needs another one.
_WITHHELD = 10


class PlainPhone:
    """Talks from a thread of its own from ``answer`` or ``accept`` on, until its block ends.

    ``reports`` are the RTCP packets that have come, ``video`` the RTP packets of the video section, both in order.
    With ``feedback`` (RTP/AVPF) it withholds the first picture when it shows the video back, and passes on the request
    for another one; without, there is nobody to ask.
    """

    def __init__(
        self, host: Host, family: int = 4, *, frequency: float = 440, video: bool = False, feedback: bool = False
    ) -> None:
        protocol = "RTP/AVPF" if feedback else "RTP/AVP"
        self.wants: dict[str, Any] = {**PLAIN, "transport-protocol": protocol, "address-family": f"IP{family}"}
        self.tone = frequency
        self.reports: list[bytes] = []
        self.video: list[bytes] = []
        self._feedback = feedback
        self._heard: deque[bytes] = deque(maxlen=_HEARD_FRAMES)
        self._party = Party(host, family)
        self._audio = self._party.add(protocol=protocol, lines=["a=rtpmap:0 PCMU/8000"])
        if video:
            self._camera = self._party.add(kind="video", protocol=protocol, formats="96", lines=self._describe("96"))
        self._end = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> PlainPhone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._thread.ident:
            self._thread.join(10)
        self._party.close()

    def offer(self) -> str:
        """Its SDP."""
        return self._party.sdp()

    def answer(self, offer: str) -> str:
        """Its SDP, with the payload type that was offered for VP8; from now on it talks, and what it heard is over."""
        self._begin(offer)
        return self._party.sdp()

    def accept(self, answer: str) -> None:
        """From now on it talks, and what it heard is over."""
        self._begin(answer)

    def _begin(self, body: str) -> None:
        for media, section in zip(self._party.media, sections(body), strict=True):
            assert (section.kind, section.protocol) == (media.kind, media.protocol), body
            media.remote = section
            if media.kind == "video":
                media.formats = next(line for line in section.lines if "VP8/90000" in line)[9:].split()[0]
                media.lines = self._describe(media.formats)
        self._heard.clear()
        if not self._thread.ident:
            self._thread.start()

    def _describe(self, payload_type: str) -> list[str]:
        feedback = [f"a=rtcp-fb:{payload_type} nack pli"] if self._feedback else []
        return [f"a=rtpmap:{payload_type} VP8/90000", *feedback]

    def heard(self) -> Sound:
        """What came last."""
        return decode(b"".join(self._heard))

    @property
    def state(self) -> str:
        """A plain phone is connected as soon as something is to be heard."""
        return "connected" if self._heard else "new"

    def _run(self) -> None:
        said = encode(tone(self.tone, 5))  # which any multiple of 10 Hz fills with whole periods
        frames = cycle(said[i : i + FRAME_SAMPLES] for i in range(0, len(said), FRAME_SAMPLES))
        start = time.monotonic()
        for number in count(1):
            self._audio.send(self._audio.rtp_packet(next(frames)))
            if number % _FRAMES_PER_REPORT == 1:
                for media in self._party.media:
                    media.send_rtcp(sender_report(media.ssrc, number))
            while (left := start + number * FRAME_S - time.monotonic()) > 0:
                self._receive(left)
            if self._end.is_set():
                return

    def _receive(self, timeout_s: float) -> None:
        ours = {sock: media for media in self._party.media for sock in media.sockets}
        for sock in select(list(ours), [], [], timeout_s)[0]:
            packet = sock.recv(65535)
            if sock is not ours[sock].rtp:
                self.reports.append(packet)
                if (_PAYLOAD_FEEDBACK, _PLI) in parts_of(packet):
                    self.ask_for_picture()
            elif ours[sock] is not self._audio:
                self._show_back(packet)
            elif packet[1] & 0x7F == 0:
                self._heard.append(payload(packet))

    def _show_back(self, packet: bytes) -> None:
        self.video.append(packet)
        if not self._feedback or len(self.video) > _WITHHELD:
            stamp = int.from_bytes(packet[4:8], "big")
            copy = rtp(next(self._camera.sequence), self._camera.ssrc, payload(packet), packet[1], stamp)
            self._camera.send(copy)

    def ask_for_picture(self) -> None:
        """Ask the one whose video comes for a whole picture: picture loss indication (RFC 4585 6.3.1)."""
        own, theirs = self._camera.ssrc.to_bytes(4, "big"), self.video[-1][8:12]
        report = struct.pack("!BBH4s", 0x80, _RECEIVER_REPORT, 1, own)
        self._camera.send_rtcp(report + struct.pack("!BBH4s4s", 0x80 | _PLI, _PAYLOAD_FEEDBACK, 2, own, theirs))


def payload(packet: bytes) -> bytes:
    """What an RTP packet carries behind CSRCs and header extension, without padding (RFC 3550 5.1, 5.3.1)."""
    start = _HEADER + 4 * (packet[0] & 15)
    if packet[0] & 0x10:
        start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
    return packet[start : len(packet) - (packet[-1] if packet[0] & 0x20 else 0)]


def parts_of(compound: bytes) -> list[tuple[int, int]]:
    """Type and count or format of each packet of an RTCP compound (RFC 3550 6.1, RFC 4585 6.1)."""
    found, start = [], 0
    while start < len(compound):
        first, kind, words = struct.unpack_from("!BBH", compound, start)
        assert first >> 6 == 2, compound
        found.append((kind, first & 31))
        start += 4 + 4 * words
    assert start == len(compound), compound
    return found
