"""Who looks at a daemon over HTTP: a status page that is open on one call, and Prometheus."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

import machine

PAGE_S = 1.0
SCRAPE_S = 5.0


class Watchers:
    """Ask as an open page does, once a second for all calls and for one of them, and scrape every five seconds.

    ``asked`` counts answers, ``failed`` what was none; ``octets`` is how much came.
    """

    def __init__(self) -> None:
        self.asked = self.failed = self.octets = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        # Kept open, as browsers and Prometheus do.
        self._connection = http.client.HTTPConnection(machine.NG_IP, machine.HTTP_PORT, timeout=10)

    def __enter__(self) -> Watchers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._connection.close()

    def _watch(self) -> None:
        run, version, key = "", 0, 1
        scrape_at = 0.0
        while not self._end.wait(PAGE_S):
            found: Any = self._get(f"/api/calls?run={run}&since={version}")
            if found is not None:
                run, version = found["run"], found["version"]
                key = found["calls"][0]["key"] if found["whole"] and found["calls"] else key
            self._get(f"/api/call?key={key}")
            if time.monotonic() >= scrape_at:
                scrape_at = time.monotonic() + SCRAPE_S
                self._get("/metrics", parsed=False)

    def _get(self, path: str, *, parsed: bool = True) -> Any:
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            body = answer.read()
            self.octets += len(body)
            if answer.status == 200:
                self.asked += 1
                return json.loads(body) if parsed else body
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next request opens it again
        self.failed += 1
        return None
