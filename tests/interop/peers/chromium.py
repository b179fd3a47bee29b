"""Chromium as a party of a call, with a page for WebRTC; its microphone plays a tone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from systemlab.daemon import wait_until
from systemlab.netns import Host

from peers.browser import PATIENCE_S, Browser, missing
from peers.party import WEB
from peers.sound import Sound, write_wav

__all__ = ["Chromium", "missing"]

_PAGE = Path(__file__).with_name("page.html")
_FLAGS = (
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


class Chromium(Browser):
    """One browser with one page, for calls one after the other; ``video`` says whether the next has any."""

    wants: dict[str, Any] = WEB

    def __init__(self, host: Host, directory: Path, frequency: float = 1000) -> None:
        self.tone = frequency
        self.video = False
        microphone = directory / "microphone.wav"
        write_wav(microphone, frequency)
        super().__init__(host, directory, *_FLAGS, f"--use-file-for-fake-audio-capture={microphone}")

    def __enter__(self) -> Chromium:
        super().__enter__()
        self.show(_PAGE.as_uri())
        assert wait_until(lambda: self.run("document.readyState == 'complete' && 'begin' in window"), PATIENCE_S)
        return self

    def offer(self) -> str:
        """Its SDP, with all candidates."""
        return str(self.run(f"offer({json.dumps(self.video)})"))

    def answer(self, offer: str) -> str:
        """Its SDP, with all candidates."""
        return str(self.run(f"answer({json.dumps(offer)}, {json.dumps(self.video)})"))

    def accept(self, answer: str) -> None:
        """Take the answer to its offer; an AssertionError tells why the browser does not."""
        self.run(f"accept({json.dumps(answer)})")

    def restart_ice(self) -> None:
        """Have the next offer restart ICE (RFC 8445 9)."""
        self.run("pc.restartIce()")

    def send_picture(self) -> None:
        """Have it send a whole picture, as the SIP of phones without feedback asks for one (RFC 5168)."""
        self.run("sendPicture()")

    def hang_up(self) -> None:
        """Be ready for the next call."""
        self.run("hangUp()")

    def heard(self) -> Sound:
        """What WebAudio's analyser has of the track that came."""
        return Sound(**self.run("heard()"))

    @property
    def state(self) -> str:
        """The connection state of WebRTC."""
        return str(self.run("pc.connectionState"))

    def stats(self, kind: str, /, **about: Any) -> list[dict[str, Any]]:
        """The statistics of WebRTC of one type."""
        found = self.run("stats()")
        return [one for one in found if {**about, "type": kind}.items() <= one.items()]
