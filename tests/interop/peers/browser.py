"""Chromium without a display, driven through its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

PROGRAM = "chromium"
PATIENCE_S = 60
# The browser finds its pipes at 3 and 4.
_SHELL = 'exec "$@" 3<&0 4>&1 </dev/null >&2'
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
)  # fmt: skip


class Place(Protocol):
    """Where a browser runs: a host of the lab, or this machine."""

    def inside(self) -> AbstractContextManager[None]:
        """What a process is started within."""


def missing() -> str | None:
    """Say what is needed and not there, None if nothing is."""
    return None if shutil.which(PROGRAM) else f"the program {PROGRAM} (Debian package chromium) is not installed"


class Browser:
    """One browser with one page, which ``show`` leads to an address."""

    def __init__(self, place: Place, directory: Path, *flags: str) -> None:
        self._log = directory / "chromium.log"
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        """What the page has said unasked, of the domains that are enabled."""
        command = [PROGRAM, *_FLAGS, f"--user-data-dir={directory}", *flags]
        with self._log.open("wb") as log, place.inside():
            self._process = subprocess.Popen(
                ["sh", "-c", _SHELL, "sh", *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, bufsize=0,
                env={**os.environ, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory)},
            )  # fmt: skip

    def __enter__(self) -> Self:
        page = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        with contextlib.suppress(AssertionError, OSError, subprocess.TimeoutExpired):
            self.command("Browser.close")
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()

    def show(self, url: str) -> None:
        """Lead the page to an address; it may still be loading after that."""
        reply = self.command("Page.navigate", url=url)
        assert "errorText" not in reply, reply

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        reply = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]["exception"].get("description", reply)
        return reply["result"].get("value")

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the page a size in pixels, and the colours that its user prefers."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """What the page looks like, as PNG."""
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command of the DevTools protocol."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        message = json.dumps({"id": number, "method": method, "params": parameters, **session})
        assert self._process.stdin
        self._process.stdin.write(message.encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while (reply := self._receive(deadline)).get("id") != number:
            if "method" in reply:
                self.events.append(reply)
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
