"""aiortc: WebRTC in Python, which shares no code with this project."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from av import AudioFrame
from systemlab.netns import Host

from peers.party import WEB
from peers.sound import Sound, tone

_PATIENCE_S = 60
_HEARD_FRAMES = 20
_T = TypeVar("_T")


class _Tone(AudioStreamTrack):
    """A tone in place of the silence that aiortc's own track has."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self._samples = tone(frequency, 5)

    async def recv(self) -> AudioFrame:
        frame = await super().recv()
        assert isinstance(frame, AudioFrame) and frame.pts is not None
        start = frame.pts % len(self._samples)
        frame.planes[0].update(array("h", self._samples[start : start + frame.samples]).tobytes())
        return frame


class Aiortc:
    """One call; it runs in a thread of its own on its host, until its block ends."""

    wants: dict[str, Any] = WEB

    def __init__(self, host: Host, frequency: float = 620) -> None:
        self.tone = frequency
        self._host = host
        self._heard: deque[AudioFrame] = deque(maxlen=_HEARD_FRAMES)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ears: list[asyncio.Task[None]] = []

    def _serve(self) -> None:
        with self._host.inside():
            self._loop.run_forever()

    def __enter__(self) -> Aiortc:
        self._thread.start()
        self._run(self._begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE_S)

    async def _begin(self) -> None:
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._pc.on("track", lambda track: self._ears.append(self._loop.create_task(self._listen(track))))
        self._pc.addTrack(_Tone(self.tone))

    async def _end(self) -> None:
        await self._pc.close()
        await asyncio.gather(*self._ears)

    async def _listen(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, AudioFrame)
            self._heard.append(frame)

    def offer(self) -> str:
        """Its SDP, with all candidates."""
        return self._run(self._offer())

    async def _offer(self) -> str:
        await self._pc.setLocalDescription(await self._pc.createOffer())
        return str(self._pc.localDescription.sdp)

    def answer(self, offer: str) -> str:
        """Its SDP, with all candidates."""
        return self._run(self._answer(offer))

    async def _answer(self, offer: str) -> str:
        await self._pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self._pc.setLocalDescription(await self._pc.createAnswer())
        return str(self._pc.localDescription.sdp)

    def accept(self, answer: str) -> None:
        """Take the answer to its offer."""
        self._run(self._pc.setRemoteDescription(RTCSessionDescription(answer, "answer")))

    def heard(self) -> Sound:
        """What came last."""
        frames = list(self._heard)
        if not frames:
            return Sound([], 1)
        samples = array("h")
        for frame in frames:
            channels = frame.layout.nb_channels
            samples += array("h", bytes(frame.planes[0])[: 2 * channels * frame.samples])[::channels]
        return Sound([sample / 32768 for sample in samples], frames[-1].sample_rate)

    @property
    def state(self) -> str:
        """The connection state of WebRTC."""
        return str(self._pc.connectionState)
