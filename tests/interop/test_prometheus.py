"""A real Prometheus scrapes the daemon and answers the queries of the Grafana dashboard."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.fixtures import MakeCall
from systemlab.netns import Lab

PROGRAM = "prometheus"
PATIENCE_S = 120
METRICS = "127.0.0.1:9101"
OPTIONS = (f"--listen-http={METRICS}",)
DASHBOARD = Path(__file__).parent.parent.parent / "docs" / "grafana" / "rtpengine.json"
CONFIGURATION = f"""
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: rtpengine
    static_configs:
      - targets: ["{METRICS}"]
"""


class Prometheus:
    """One server on loopback in the relay's namespace, which scrapes every second."""

    def __init__(self, lab: Lab, directory: Path, port: int = 9190) -> None:
        self._lab = lab
        self._url = f"http://127.0.0.1:{port}"
        self.log = directory / "prometheus.log"
        file = directory / "prometheus.yml"
        file.write_text(CONFIGURATION)
        command = [
            PROGRAM, f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        ]  # fmt: skip
        with self.log.open("wb") as log, lab.relay.inside():
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def get(self, path: str, **query: str) -> Any:
        """What its API says, None while it does not answer or says only that it is not ready."""
        with self._lab.relay.inside():
            try:
                with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(query)}", timeout=30) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                return None if error.code == 503 else json.load(error)
            except OSError:
                return None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        reply = self.get("/api/v1/query", query=expression)
        assert reply and reply["status"] == "success", (expression, reply)
        return list(reply["data"]["result"])

    def value(self, expression: str) -> float | None:
        """The only value of an expression; None while there is none."""
        series = self.query(expression)
        assert len(series) <= 1, series
        return float(series[0]["value"][1]) if series else None

    def target(self) -> dict[str, Any]:
        """What it says of the daemon; empty while it says nothing."""
        reply = self.get("/api/v1/targets")
        targets = reply["data"]["activeTargets"] if reply else []
        return dict(targets[0]) if targets else {}


@pytest.fixture(scope="module")
def prometheus(lab: Lab, daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"the program {PROGRAM} (Debian package prometheus) is not installed")
    server = Prometheus(lab, tmp_path_factory.mktemp("prometheus"))
    try:
        found = wait_until(lambda: server.target().get("health") == "up", PATIENCE_S, 0.2)
        assert found, (server.target(), server.log.read_text())
        yield server
    finally:
        server.process.kill()
        server.process.wait(10)


def test_it_finds_no_fault_with_the_scrape(prometheus: Prometheus) -> None:
    """But that it is late now and then, on a busy machine: a second is short."""

    def says() -> tuple[str, str]:
        target = prometheus.target()
        return target.get("health", ""), target.get("lastError", "")

    assert wait_until(lambda: says() == ("up", ""), PATIENCE_S, 0.2), says()
    assert "level=warn" not in prometheus.log.read_text()


def test_it_knows_types_and_help(prometheus: Prometheus) -> None:
    metadata = prometheus.get("/api/v1/targets/metadata", match_target='{job="rtpengine"}')["data"]
    kinds = {entry["metric"]: entry["type"] for entry in metadata if entry["metric"].startswith("rtpengine_")}
    assert kinds["rtpengine_sessions"] == "gauge" and kinds["rtpengine_sessions_total"] == "counter"
    assert set(kinds.values()) == {"gauge", "counter"}
    assert all(entry["help"].endswith(")") for entry in metadata if entry["metric"].startswith("rtpengine_"))


def test_it_counts_a_call(prometheus: Prometheus, call: MakeCall) -> None:
    assert wait_until(lambda: prometheus.value("rtpengine_sessions{type='own'}") == 0.0, PATIENCE_S, 0.2)
    before = prometheus.value("rtpengine_closed_sessions_total{reason='terminated'}") or 0.0
    placed = call().place()
    assert wait_until(lambda: prometheus.value("rtpengine_sessions{type='own'}") == 1.0, PATIENCE_S, 0.2)
    placed.delete()
    ended = "rtpengine_closed_sessions_total{reason='terminated'}"
    assert wait_until(lambda: prometheus.value(ended) == before + 1, PATIENCE_S, 0.2)
    assert wait_until(lambda: prometheus.value("rtpengine_sessions") == 0.0, PATIENCE_S, 0.2)
    offers = "rtpengine_requests_total{request='offer'}"
    assert wait_until(lambda: (prometheus.value(offers) or 0.0) >= 1.0, PATIENCE_S, 0.2)


def test_it_understands_the_dashboard(prometheus: Prometheus) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    for query in queries:
        prometheus.query(query.replace("$__rate_interval", "1m").replace("$instance", ".*"))
    # a gauge has a value at once, in a panel of its own
    for query in ("sum(rtpengine_sessions)", "rtpengine_ports_used"):
        assert wait_until(lambda query=query: bool(prometheus.query(query)), PATIENCE_S, 0.2)  # type: ignore[misc]
