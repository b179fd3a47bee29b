"""Chromium without a display, driven through its DevTools protocol over a pipe; its microphone plays a tone."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from systemlab.daemon import wait_until
from systemlab.netns import Host

from peers.party import WEB
from peers.sound import Sound, write_wav

PROGRAM = "chromium"
_PAGE = Path(__file__).with_name("page.html")
_PATIENCE_S = 20
# The browser finds its pipes at 3 and 4.
_SHELL = 'exec "$@" 3<&0 4>&1 </dev/null >&2'
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


def missing() -> str | None:
    """Say what is needed and not there, None if nothing is."""
    return None if shutil.which(PROGRAM) else f"the program {PROGRAM} (Debian package chromium) is not installed"


class Chromium:
    """One browser with one page, for calls one after the other; ``video`` says whether the next has any."""

    wants: dict[str, Any] = WEB

    def __init__(self, host: Host, directory: Path, frequency: float = 1000) -> None:
        self.tone = frequency
        self.video = False
        self._log = directory / "chromium.log"
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: str | None = None
        microphone = directory / "microphone.wav"
        write_wav(microphone, frequency)
        command = [PROGRAM, *_FLAGS, f"--user-data-dir={directory}", f"--use-file-for-fake-audio-capture={microphone}"]
        with self._log.open("wb") as log, host.inside():
            self._process = subprocess.Popen(
                ["sh", "-c", _SHELL, "sh", *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, bufsize=0,
                env={**os.environ, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory)},
            )  # fmt: skip

    def __enter__(self) -> Chromium:
        page = self._command("Target.createTarget", url=_PAGE.as_uri())["targetId"]
        self._session = self._command("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        assert wait_until(lambda: self._run("document.readyState == 'complete' && 'begin' in window"), _PATIENCE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        with contextlib.suppress(AssertionError, OSError):
            self._command("Browser.close")
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(5)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()

    def offer(self) -> str:
        """Its SDP, with all candidates."""
        return str(self._run(f"offer({json.dumps(self.video)})"))

    def answer(self, offer: str) -> str:
        """Its SDP, with all candidates."""
        return str(self._run(f"answer({json.dumps(offer)}, {json.dumps(self.video)})"))

    def accept(self, answer: str) -> None:
        """Take the answer to its offer; an AssertionError tells why the browser does not."""
        self._run(f"accept({json.dumps(answer)})")

    def restart_ice(self) -> None:
        """Have the next offer restart ICE (RFC 8445 9)."""
        self._run("pc.restartIce()")

    def send_picture(self) -> None:
        """Have it send a whole picture, as the SIP of phones without feedback asks for one (RFC 5168)."""
        self._run("sendPicture()")

    def hang_up(self) -> None:
        """Be ready for the next call."""
        self._run("hangUp()")

    def heard(self) -> Sound:
        """What WebAudio's analyser has of the track that came."""
        return Sound(**self._run("heard()"))

    @property
    def state(self) -> str:
        """The connection state of WebRTC."""
        return str(self._run("pc.connectionState"))

    def stats(self, kind: str, /, **about: Any) -> list[dict[str, Any]]:
        """The statistics of WebRTC of one type."""
        found = self._run("stats()")
        return [one for one in found if {**about, "type": kind}.items() <= one.items()]

    def _run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        reply = self._command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]["exception"].get("description", reply)
        return reply["result"].get("value")

    def _command(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        message = json.dumps({"id": number, "method": method, "params": parameters, **session})
        assert self._process.stdin
        self._process.stdin.write(message.encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE_S
        while (reply := self._receive(deadline)).get("id") != number:
            pass
        assert "result" in reply, reply
        return dict(reply["result"])

    def _receive(self, deadline: float) -> dict[str, Any]:
        assert self._process.stdout
        while b"\0" not in self._unread:
            ready = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = self._process.stdout.read(1 << 20) if ready else b""
            assert data, f"Chromium does not answer\n{self._log.read_text(errors='replace')[-3000:]}"
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))
