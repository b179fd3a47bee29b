"""The Grafana dashboard, held against the metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_metrics import EXPECTED

from rtpengine.metrics import PREFIX

DASHBOARD = json.loads((Path(__file__).parent.parent.parent / "docs" / "grafana" / "rtpengine.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What shows nothing that would not be seen elsewhere.
NOT_SHOWN = {"uptime_seconds", "build_info", "ports_free", "call_duration_avg", "sessions_total", "forwarding_path"}
NOT_SHOWN |= {"lost_events_total", "draining", "interface_packets", "interface_errors"}
NOT_SHOWN |= {f"{name}2_total" for name in ("packetloss", "jitter", "jitter_measured", "rtt_e2e")}


def queries() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def used(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of a query with the labels that it asks for."""
    for name, selector in re.findall(rf"{PREFIX}(\w+)(?:{{([^}}]*)}})?", query):
        yield name, set(re.findall(r"(\w+)!?=", selector)) - {"instance"}


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_each_query_asks_for_what_there_is(title: str, query: str) -> None:
    metrics = list(used(query))
    assert metrics
    grouped = {word for words in re.findall(r"by \(([\w, ]+)\)", query) for word in words.split(", ")} - {"instance"}
    for name, labels in metrics:
        kind, known = EXPECTED[name]
        assert labels <= known, name
        assert kind == "gauge" or re.search(rf"(rate|increase)\({PREFIX}{name}{{[^}}]*}}\[", query), name
        assert 'instance=~"$instance"' in query
    assert grouped <= set().union(*(EXPECTED[name][1] for name, _ in metrics))


def test_every_metric_is_shown() -> None:
    shown = {name for _, query in queries() for name, _ in used(query)}
    assert shown | NOT_SHOWN == set(EXPECTED) | {"uptime_seconds"}


def test_panels_have_a_unit_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        columns, lines = (range(grid[at], grid[at] + grid[size]) for at, size in (("x", "w"), ("y", "h")))
        cells = {(x, y) for x in columns for y in lines}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["fieldConfig"]["defaults"]["unit"] and panel["description"] for panel in PANELS)


def test_nothing_names_a_server_of_ours() -> None:
    def sources(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from ([value["datasource"]] if "datasource" in value else [])
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from sources(item)

    assert {json.dumps(source) for source in sources(DASHBOARD)} == {
        json.dumps({"type": "prometheus", "uid": "${datasource}"})
    }
