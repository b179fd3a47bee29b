"""The targets that this project has set itself, and whether a run met them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from report import Reports, format_value, quotients, values_of

OURS, PEERS, FLOOR = "ours", ("peer", "peer, default threads"), "floor"
FULL_LOAD = 98  # percent of the nominal rate, from which on a paced point is what it says


@dataclass(frozen=True)
class Goal:
    """One target: a figure of ours, how it is compared, and the bound that it has to keep.

    ``against``: peer (a ratio to the better peer), floor (a difference), or none (the figure itself).
    """

    text: str
    metric: str
    against: str
    bound: float
    at_least: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of a goal; ``measured`` None: the run has no such figure, with the reason in ``remark``.

    ``rounds``: the ratios of the single rounds, where the measured one comes of several.
    """

    goal: Goal
    ours: float | None
    other: float | None
    measured: float | None
    remark: str = ""
    rounds: Sequence[float] = ()

    @property
    def met(self) -> bool | None:
        """Whether the goal was met, None if that cannot be said."""
        if self.measured is None:
            return None
        return self.measured >= self.goal.bound if self.goal.at_least else self.measured <= self.goal.bound


GOALS = [
    Goal("CPU per packet, 500 calls", "rtp/500 cpu/packet", "peer", 0.60),
    Goal("CPU per packet, 1000 calls", "rtp/1000 cpu/packet", "peer", 0.60),
    Goal("p50 latency above the floor's, 500 calls (us)", "rtp/500 latency p50", "floor", 600),
    Goal("p50 latency above the floor's, 1000 calls (us)", "rtp/1000 latency p50", "floor", 600),
    Goal("windows sustained, 2000 calls (%)", "rtp/2000 windows sustained", "", 100, at_least=True),
    Goal("CPU per packet, 2000 calls", "rtp/2000 cpu/packet", "peer", 0.85),
    Goal("CPU per packet, closed-loop flood", "flood-rtp/500 closed-loop cpu/packet", "peer", 0.75),
    Goal("sustained loss-free rate", "flood-rtp/500 sustained loss-free pps", "peer", 1.4, at_least=True),
    Goal("CPU per packet, RTP to SRTP, 500 calls", "srtp/500 cpu/packet", "peer", 0.70),
    Goal("CPU per packet, RTP to SRTP, closed-loop flood", "flood-srtp/500 closed-loop cpu/packet", "peer", 0.75),
    Goal("sustained loss-free rate, RTP to SRTP", "flood-srtp/500 sustained loss-free pps", "peer", 1.3, at_least=True),
    Goal("loss of 500 calls while 200 handshakes are done (%)", "burst/500 during 200 handshakes loss", "", 0),
    Goal("relayed 1 s after an overload (%)", "flood-rtp/500 relayed of normal load 1 s after overload", "", 100, True),
    Goal("relayed 1 s after a 7 s stop (%)", "rtp/500 relayed of normal load 1 s after 7 s stop", "", 100, True),
    Goal("CPU per offer+answer+delete, one at a time", "ng/100 est/1 out cpu/call", "peer", 1.5),
    Goal("CPU per offer+answer+delete, 64 at a time", "ng/100 est/64 out cpu/call", "peer", 1.5),
    Goal("loss while calls are set up (%)", "set-up/1000 during 100/s loss", "", 0),
    Goal("p99 latency added meanwhile (us)", "set-up/1000 during 100/s latency p99 added", "", 2000),
    Goal("memory per call", "memory per call", "peer", 0.8),
    # a cost that does not grow measures as 1 within what the machine's caches and noise make of it
    Goal("CPU per call, 5000 calls in place over 100", "ng cpu/call, most calls over fewest", "", 1.1),
]


def verdicts(reports: Reports) -> Iterator[Verdict]:
    """Each goal with what this run says about it."""
    for goal in GOALS:
        ours = _middle(reports, OURS, goal.metric)
        if ours is None:
            yield Verdict(goal, None, None, None, "none, or lost packets")
        elif slow := _short_of_load(reports, goal):
            yield Verdict(goal, ours, None, None, f"invalid: {slow:.0f} % of the load")
        elif goal.against == "peer":
            yield _against_peer(goal, ours, reports)
        elif goal.against == "floor":
            other = _middle(reports, FLOOR, goal.metric)
            above = None if other is None else ours - other
            yield Verdict(goal, ours, other, above, "" if other is not None else "no floor in this run")
        else:
            # shown for comparison, it decides nothing
            yield Verdict(goal, ours, _best(reports, goal), ours)


def _against_peer(goal: Goal, ours: float, reports: Reports) -> Verdict:
    other = _best(reports, goal)
    if not other:
        return Verdict(goal, ours, other, None, "peer: none, it lost packets")
    rounds = []
    if other == _middle(reports, PEERS[0], goal.metric):
        rounds = quotients(reports[OURS], reports[PEERS[0]], goal.metric)
    return Verdict(goal, ours, other, ours / other, rounds=rounds)


def _short_of_load(reports: Reports, goal: Goal) -> float | None:
    """How much of the nominal load was offered to the worst served, where that is too little to say anything."""
    offered = f"{goal.metric.split()[0]} offered load reached"
    names = {"peer": (OURS, PEERS[0]), "floor": (OURS, FLOOR)}.get(goal.against, (OURS,))
    reached = [value for name in names if (value := _middle(reports, name, offered)) is not None]
    return min(reached) if reached and min(reached) < FULL_LOAD else None


def _best(reports: Reports, goal: Goal) -> float | None:
    """The better of the peer's configurations."""
    values = [value for name in PEERS if (value := _middle(reports, name, goal.metric)) is not None]
    better: Callable[[list[float]], float] = max if goal.at_least else min
    return better(values) if values else None


def _middle(reports: Reports, name: str, metric: str) -> float | None:
    values = values_of(reports.get(name, []), metric)
    return statistics.median(values) if values else None


def verdict_table(found: list[Verdict]) -> str:
    """The verdicts as Markdown."""
    rows = ["| target | ours | peer or floor | measured | wanted | verdict |", "|---|---:|---:|---:|---:|---|"]
    for one in found:
        sign = ">=" if one.goal.at_least else "<="
        kind = {"peer": "ratio ", "floor": "difference "}.get(one.goal.against, "")
        said = {True: "met", False: "NOT MET", None: one.remark}[one.met]
        wanted = f"{kind}{sign} {one.goal.bound:g}"
        measured = _show(one.measured)
        if len(one.rounds) > 1:
            measured += f" ({format_value(min(one.rounds))} .. {format_value(max(one.rounds))})"
        rows.append(f"| {one.goal.text} | {_show(one.ours)} | {_show(one.other)} | {measured} | {wanted} | {said} |")
    return "\n".join(rows)


def _show(value: float | None) -> str:
    return "-" if value is None else format_value(value)
