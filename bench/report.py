"""What was measured, and the tables that show it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """A figure, its unit, and which way is better: lower, higher, or info where neither is."""

    value: float
    unit: str
    better: str


class Report:
    """The figures of one target in one round, raw results, what went wrong, and remarks."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.raw: dict[str, Any] = {}
        self.wrong: list[str] = []
        self.notes: list[str] = []

    def put(self, name: str, value: float | None, unit: str, better: str) -> None:
        """Keep a figure; None (nothing was relayed) is no figure."""
        if value is not None:
            self.metrics[name] = Metric(value, unit, better)

    def judge(self, name: str, runs: Iterable[dict[str, Any]]) -> None:
        """Note packets that came back other than they were sent, and windows that the generator spoilt."""
        for run in runs:
            bad = {key: run[key] for key in ("corrupt", "bad_auth", "misrouted", "unknown", "duplicate") if run[key]}
            if bad:
                self.wrong.append(f"{name}: {bad} of {run['sent']}")
            if run["gen_drops"]:
                self.wrong.append(f"{name}: the generator itself dropped {run['gen_drops']}, window invalid")


Reports = dict[str, list[Report]]


def median(runs: Sequence[dict[str, Any]], *path: str) -> float | None:
    """Median over the windows; None if any window has no value (nothing relayed)."""
    values = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value[key]
        if value is None:
            return None
        values.append(float(value))
    return statistics.median(values)


def loss_percent(runs: Sequence[dict[str, Any]]) -> float:
    """Loss over all windows together."""
    lost, sent = (float(sum(run[key] for run in runs)) for key in ("lost", "sent"))
    return 100 * lost / max(1.0, sent)


def values_of(reports: Iterable[Report], name: str) -> list[float]:
    """One metric in all rounds that have it."""
    return [report.metrics[name].value for report in reports if name in report.metrics]


def format_value(value: float) -> str:
    """Three digits that mean something."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def format_values(values: Sequence[float], spread: bool = True) -> str:
    """The median and, where there are several, the lowest and the highest."""
    if not values:
        return "-"
    middle = format_value(statistics.median(values))
    if not spread or len(values) == 1:
        return middle
    return f"{middle} ({format_value(min(values))} .. {format_value(max(values))})"


def table(reports: Reports, spread: bool = True) -> str:
    """Every figure: the median over the rounds and, if wanted, the lowest and the highest."""
    units = {name: m.unit for rounds in reports.values() for one in rounds for name, m in one.metrics.items()}
    rows = ["| metric | unit | " + " | ".join(reports) + " |", "|---|---|" + "---:|" * len(reports)]
    for name, unit in units.items():
        cells = [format_values(values_of(rounds, name), spread) for rounds in reports.values()]
        rows.append(f"| {name} | {unit} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


class Ratio(NamedTuple):
    """First target divided by the second: median over the rounds, the lowest, the highest, who is ahead."""

    median: float
    low: float
    high: float
    verdict: str


def ratios(reports: Reports, first: str, second: str, margin: float) -> dict[str, Ratio]:
    """Compare two targets metric by metric, round by round."""
    found = {}
    for name, metric in reports[first][0].metrics.items():
        each = quotients(reports[first], reports[second], name)
        if each:
            middle = statistics.median(each)
            found[name] = Ratio(middle, min(each), max(each), _ahead(each, metric.better, margin, first, second))
    return found


def quotients(first: Sequence[Report], second: Sequence[Report], name: str) -> list[float]:
    """One metric of the first over that of the second, for each round in which both have it."""
    pairs = [(x.metrics.get(name), y.metrics.get(name)) for x, y in zip(first, second, strict=False)]
    return [_divide(x.value, y.value) for x, y in pairs if x and y]


def _divide(a: float, b: float) -> float:
    if a == b:
        return 1.0
    return a / b if b else float("inf")


def _ahead(each: list[float], better: str, margin: float, first: str, second: str) -> str:
    """Every round on the same side AND the median beyond the margin.

    Agreement of a few rounds alone calls a daemon ahead of itself now and then.
    """
    if better == "info":
        return ""
    middle = statistics.median(each)
    below = len(each) >= 3 and max(each) < 1 and middle < 1 - margin
    above = len(each) >= 3 and min(each) > 1 and middle > 1 + margin
    wins, loses = (below, above) if better == "lower" else (above, below)
    return f"{first} ahead" if wins else f"{second} ahead" if loses else "no difference shown"


def ratio_table(reports: Reports, first: str, second: str, margin: float) -> str:
    """The ratios of two targets as Markdown."""
    rows = [
        f"Ratios {first} / {second}, one per round; median (lowest .. highest)\n",
        "| metric | better | ratio | lowest | highest | verdict |",
        "|---|---|---:|---:|---:|---|",
    ]
    for name, ratio in ratios(reports, first, second, margin).items():
        better = reports[first][0].metrics[name].better
        rows.append(
            f"| {name} | {better} | {ratio.median:.3f} | {ratio.low:.3f} | {ratio.high:.3f} | {ratio.verdict} |"
        )
    return "\n".join(rows)


def problems(reports: Reports) -> list[str]:
    """Everything that went wrong, with who it was."""
    return [f"{name}: {wrong}" for name, rounds in reports.items() for one in rounds for wrong in one.wrong]


def notes(reports: Reports) -> list[str]:
    """All remarks, with who and when."""
    return [
        f"{name}, round {number}: {note}"
        for name, rounds in reports.items()
        for number, one in enumerate(rounds, 1)
        for note in one.notes
    ]
