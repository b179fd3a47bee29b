"""What is done with a relay, and which figures come of it. README.md says what each means."""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import machine
from calls import STEPS, Calls, Churn, Load, StaticCalls, Unsupported
from handshakes import Handshakes
from older import Mediaproxy, Rtpproxy, churn_mediaproxy, churn_rtpproxy, prove
from relay import Relay, Target
from report import Report, loss_percent, median
from watchers import Watchers

LATENCIES = (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"), ("max", "max"))
STOP_S = 7
WARM_UP = 50  # handshakes


class Bench:
    """One target in one round."""

    def __init__(self, target: Target, args: argparse.Namespace, scratch: Path) -> None:
        self.target, self.args, self.scratch = target, args, scratch
        self.report = Report()

    def run(self) -> Report:
        """Run the wanted scenarios; one that cannot run is noted, the others go on."""
        wanted = self.target.scenarios or self.args.scenarios
        for letter in wanted.split(","):
            if self.target.static and letter not in "abf":
                continue
            started = time.monotonic()
            try:
                SCENARIOS[letter](self)
            except (RuntimeError, KeyError) as error:
                self.report.wrong.append(f"scenario {letter} failed: {error}")
            print(f"  {self.target.name}: scenario {letter} {time.monotonic() - started:.0f} s", file=sys.stderr)
        return self.report

    @contextmanager
    def relay(self) -> Iterator[Relay]:
        """A freshly started relay without calls."""
        relay = Relay(self.target, self.args, self.scratch)
        try:
            yield relay
        finally:
            relay.stop()

    @contextmanager
    def load(self, n: int, kind: str) -> Iterator[tuple[Relay, Load]]:
        """A freshly started relay with n calls in place, and the generator for them."""
        calls: Calls | StaticCalls
        if self.target.static:
            path = self.scratch / "static.map"
            calls = StaticCalls(n, kind, path)
            relay = Relay(self.target, self.args, self.scratch, path)
        else:
            relay = Relay(self.target, self.args, self.scratch)
            calls = Calls(relay, n, kind)
        load = None
        try:
            if isinstance(calls, Calls):
                calls.set_up()
            load = Load(calls, relay.pids(), self.args, self.scratch)
            yield relay, load
            load.close()
            calls.tear_down()
        finally:
            if load:
                load.close()
            relay.stop()

    def listens(self, placeholder: str, protocol: str) -> bool:
        """Whether the target's command has a port for this protocol; if not, that is noted."""
        named = f"{{{placeholder}}}" in self.target.command
        if not named:
            reason = self.target.lacks or f"no {{{placeholder}}} in the command"
            self.report.notes.append(f"{protocol}: not measured, {reason}")
        return named

    def windows(self, once: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
        """One after another, over the same calls."""
        return [once() for _ in range(self.args.windows)]

    def sustained(self, run: dict[str, Any]) -> bool:
        """Loss-free AND not just parked in socket buffers.

        Those hold seconds of traffic at many sockets: what is left to drain after the last packet must be short.
        """
        lossless = run["received"] > 0 and run["loss_pct"] <= self.args.loss_limit
        return bool(lossless and run["drain_ms"] <= self.args.backlog_ms)


def paced(bench: Bench, kind: str, levels: list[int]) -> None:
    """G.711 at its own pace, for each number of calls."""
    for n in levels:
        with bench.load(n, kind) as (_, load):
            load.run(n * 100, bench.args.settle)
            runs = bench.windows(partial(load.run, n * 100, bench.args.secs))
        _report_paced(bench, f"{kind}/{n}", n, runs)


def _report_paced(bench: Bench, name: str, n: int, runs: list[dict[str, Any]]) -> None:
    report, loss = bench.report, loss_percent(runs)
    report.raw[name] = runs
    report.judge(name, runs)
    offered = (median(runs, "sent_pps") or 0) / n
    report.put(f"{name} loss", loss, "%", "lower")
    report.put(f"{name} offered load reached", offered, "%", "info")
    report.put(f"{name} backlog at end", median(runs, "drain_ms"), "ms", "lower")
    report.put(f"{name} windows sustained", 100 * sum(map(bench.sustained, runs)) / len(runs), "%", "higher")
    report.put(f"{name} cpu load", median(runs, "cpu_pct"), "%", "info")
    if offered < 98:
        report.notes.append(f"{name}: the generator reached only {offered:.0f} % of the nominal rate")
    if not any(run["received"] for run in runs):
        report.wrong.append(f"{name}: nothing relayed")
    if loss > bench.args.void_loss:
        # who drops packets is not credited with being quick or cheap
        report.notes.append(f"{name}: {loss:.1f} % lost, cost and latency withheld")
        return
    report.put(f"{name} cpu/packet", median(runs, "cpu_us_per_pkt"), "us", "lower")
    for label, key in LATENCIES:
        report.put(f"{name} latency {label}", median(runs, "lat_us", key), "us", "lower")


def flood(bench: Bench, kind: str) -> None:
    """As fast as possible: with a window of packets in flight, then the highest rate without loss, then too much."""
    n, args = bench.args.flood_calls, bench.args
    name = f"flood-{kind}/{n}"
    with bench.load(n, kind) as (_, load):
        load.run(n * 100, args.settle)
        estimate = _closed_loop(bench, load, name)
        if estimate:
            _search(bench, load, n, name, estimate * 0.9)
    if estimate:
        _overload(bench, kind, n, name)


def _closed_loop(bench: Bench, load: Load, name: str) -> float:
    """With a window of packets in flight; the rate that comes of it."""
    report, args = bench.report, bench.args
    closed = bench.windows(lambda: load.run(0, args.secs, window=args.window))
    rate = median(closed, "recv_pps") or 0
    report.raw[name] = {"closed": closed}
    report.judge(name + " closed", closed)
    report.put(f"{name} closed-loop pps", rate, "pps", "higher")
    report.put(f"{name} closed-loop cpu/packet", median(closed, "cpu_us_per_pkt"), "us", "lower")
    report.put(f"{name} daemon cpu at closed loop", median(closed, "cpu_pct"), "%", "info")
    report.put(f"{name} generator cpu/packet", median(closed, "gen_cpu_us_per_pkt"), "us", "info")
    if not rate:
        report.wrong.append(f"{name}: nothing relayed in the closed loop")
    return rate


def _search(bench: Bench, load: Load, n: int, name: str, rate: float) -> None:
    """Find the sustained rate: up by steps until one fails, then bisect."""
    low, high, tried, limited = 0.0, 0.0, [], False
    for _ in range(bench.args.bisect + 8):
        for _attempt in (1, 2):  # a failure may be the machine's: it must fail twice
            run = load.run(rate, bench.args.secs)
            tried.append(run)
            if bench.sustained(run):
                break
            load.run(n * 100, 0.5)  # let queues empty
        if bench.sustained(run):
            low = max(low, run["sent_pps"])
            if run["sent_pps"] < rate * 0.98:
                limited = True
                break
        else:
            high = rate
        if low and high and high / low < 1.03:
            break
        rate = (low + high) / 2 if low and high else high * 0.8 if high else rate * 1.12
    bench.report.raw[name]["search"] = tried
    bench.report.judge(name + " search", tried)
    bench.report.put(f"{name} sustained loss-free pps", low, "pps", "higher")
    if limited or not high:
        bench.report.notes.append(f"{name}: sustained rate is a lower bound, the generator was the limit")


def _overload(bench: Bench, kind: str, n: int, name: str) -> None:
    """More than can be relayed, then the ordinary load again: does it come back?

    Each window on a fresh daemon: an overload may leave a daemon in another state.
    """
    runs, again = [], []
    for _ in range(bench.args.overloads):
        with bench.load(n, kind) as (_, load):
            load.run(n * 100, bench.args.settle)
            runs.append(load.run(0, bench.args.secs))
            load.run(n * 100, 1.0)
            again.append(load.run(n * 100, 1.0))
    report = bench.report
    report.raw[name + " overload"] = {"overload": runs, "after": again}
    report.judge(name + " overload", runs + again)
    report.put(f"{name} overload relayed pps", median(runs, "recv_pps"), "pps", "higher")
    report.put(f"{name} overload cpu/packet", median(runs, "cpu_us_per_pkt"), "us", "lower")
    report.put(f"{name} overload loss", median(runs, "loss_pct"), "%", "info")
    report.put(f"{name} relayed of normal load 1 s after overload", 100 - loss_percent(again), "%", "higher")


def stall(bench: Bench) -> None:
    """The process stands still for some seconds under a normal load, as a swapping or suspended machine does."""
    n = bench.args.flood_calls
    with bench.load(n, "rtp") as (relay, load):
        load.run(n * 100, bench.args.settle)
        load.start(n * 100, STOP_S)
        relay.signal(signal.SIGSTOP)
        try:
            stopped = load.finish()
        finally:
            relay.signal(signal.SIGCONT)
        load.run(n * 100, 1.0)
        again = [load.run(n * 100, 1.0)]
    name = f"rtp/{n} relayed of normal load 1 s after {STOP_S} s stop"
    bench.report.raw[name] = {"stopped": stopped, "after": again}
    bench.report.judge(name, again)
    bench.report.put(name, 100 - loss_percent(again), "%", "higher")


def set_up_under_load(bench: Bench) -> None:
    """Calls come and go beside running ones: what do those notice?"""
    n, args, report = bench.args.busy_calls, bench.args, bench.report
    with bench.load(n, "rtp") as (relay, load):
        load.run(n * 100, args.settle)
        calm, busy, made = [], [], []
        for _ in range(args.windows):
            calm.append(load.run(n * 100, args.secs))
            load.start(n * 100, args.secs)
            made.append(Churn(relay, rate=args.busy_rate).run(args.secs - 0.2))
            busy.append(load.finish())
    name = f"set-up/{n} during {args.busy_rate:g}/s"
    report.raw[name] = {"calm": calm, "busy": busy, "made": made}
    report.judge(name, calm + busy)
    _judge_replies(report, name, made)
    report.put(f"{name} loss", loss_percent(busy), "%", "lower")
    offered = (median(calm + busy, "sent_pps") or 0) / n
    report.put(f"{name.split()[0]} offered load reached", offered, "%", "info")
    report.put(f"{name} set-ups", median(made, "per_s"), "/s", "info")
    _report_added(report, name, calm, busy)


def _report_added(report: Report, name: str, calm: list[dict[str, Any]], busy: list[dict[str, Any]]) -> None:
    """By how much packets take longer in busy windows."""
    for label, key in LATENCIES[:3]:
        before, during = median(calm, "lat_us", key), median(busy, "lat_us", key)
        if before is not None and during is not None:
            report.put(f"{name} latency {label} added", during - before, "us", "info")


def watched(bench: Bench) -> None:
    """What it costs to be looked at, by a status page and by Prometheus."""
    n, args, report = bench.args.flood_calls, bench.args, bench.report
    target = bench.target
    if not target.http:
        report.notes.append("watched: not measured, it has no page to look at")
        return
    bench.target = replace(target, command=target.command + target.http)
    name = f"watched/{n}"
    try:
        with bench.load(n, "rtp") as (relay, load):
            pid = relay.pids()[0]
            once = partial(_with_control, pid, partial(load.run, n * 100, max(args.secs, args.watch)))
            load.run(n * 100, args.settle)
            calm, busy, answers = [], [], []
            for _ in range(args.windows):
                # as long as it takes for every call to be sampled once, and for a scrape
                calm.append(once())
                with Watchers() as watchers:
                    busy.append(once())
                answers.append({"asked": watchers.asked, "failed": watchers.failed, "octets": watchers.octets})
    finally:
        bench.target = target
    report.raw[name] = {"calm": calm, "busy": busy, "answers": answers}
    report.judge(name, calm + busy)
    if any(one["failed"] or not one["asked"] for one in answers):
        report.wrong.append(f"{name}: questions without an answer: {answers}")
    report.put(f"{name} loss", loss_percent(busy), "%", "lower")
    whole, before, during = (
        median(runs, key)
        for runs, key in ((calm, "cpu_us_per_pkt"), (calm, "control_us_per_pkt"), (busy, "control_us_per_pkt"))
    )
    if whole and before is not None and during is not None:
        # What the media threads take varies by far more from one window to the next than this is.
        report.put(f"{name} cpu added", 100 * (during - before) / whole, "%", "lower")
    _report_added(report, name, calm, busy)


def _with_control(pid: int, once: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A window, and what the thread that is not for media has taken meanwhile."""
    before = machine.main_thread_seconds(pid)
    run = once()
    return {**run, "control_us_per_pkt": 1e6 * (machine.main_thread_seconds(pid) - before) / max(run["sent"], 1)}


def signalling(bench: Bench) -> None:
    """Offer, answer, delete and query, with few and with many calls in place; memory."""
    costs = {}
    for n in sorted(bench.args.established):
        with bench.relay() as relay:
            calls = Calls(relay, n)
            _report_memory(bench.report, relay, calls)
            for outstanding in bench.args.outstanding:
                name = f"ng/{n} est/{outstanding} out"
                costs[n, outstanding] = _churn(bench, relay, name, outstanding)
            if n:
                _idle(bench, relay, n)
                _queries(bench, relay, calls)
                calls.tear_down()
                bench.report.put("memory peak RSS", machine.status_kb(relay.pids(), "VmHWM") / 1024, "MiB", "lower")
    low, high, out = min(bench.args.established), max(bench.args.established), min(bench.args.outstanding)
    if low < high:
        grown = costs[high, out] / costs[low, out]
        bench.report.put("ng cpu/call, most calls over fewest", grown, "", "lower")


def _report_memory(report: Report, relay: Relay, calls: Calls) -> None:
    """Set the calls up and put down what they take."""
    pids = relay.pids()
    pss, descriptors, slab = machine.pss_kb(pids), machine.descriptor_count(pids), machine.meminfo_kb("Slab")
    report.put("memory idle PSS", pss / 1024, "MiB", "lower")
    report.put("memory idle RSS", machine.status_kb(pids, "VmRSS") / 1024, "MiB", "lower")
    if not calls.n:
        return
    calls.set_up()
    n, pids = calls.n, relay.pids()
    # put last for the most calls, where what is shared by all weighs least
    report.put("memory per call", (machine.pss_kb(pids) - pss) / n, "KiB", "lower")
    report.put(f"memory RSS with {n} calls", machine.status_kb(pids, "VmRSS") / 1024, "MiB", "lower")
    report.put("memory kernel slab per call", (machine.meminfo_kb("Slab") - slab) / n, "KiB", "info")
    report.put("sockets per call", (machine.descriptor_count(pids) - descriptors) / n, "", "info")


def _churn(bench: Bench, relay: Relay, name: str, outstanding: int) -> float:
    """Measure set-ups with so many in progress; CPU per call in us."""
    Churn(relay, outstanding).run(0.5)
    runs = bench.windows(lambda: Churn(relay, outstanding).run(bench.args.secs))
    report, cost = bench.report, median(runs, "cpu_us_per_cycle") or 0.0
    report.raw[name] = runs
    _judge_replies(report, name, runs)
    report.put(f"{name} calls/s", median(runs, "per_s"), "/s", "higher")
    report.put(f"{name} cpu/call", cost, "us", "lower")
    for step in STEPS:
        report.put(f"{name} {step} p50", median(runs, step + "_p50"), "us", "lower")
        report.put(f"{name} {step} p99", median(runs, step + "_p99"), "us", "lower")
    return cost


def _judge_replies(report: Report, name: str, runs: list[dict[str, float]]) -> None:
    errors = sum(run["errors"] for run in runs)
    if errors:
        report.wrong.append(f"{name}: {errors:g} error replies")


def _idle(bench: Bench, relay: Relay, n: int) -> None:
    """What calls cost that say nothing."""
    pids = relay.pids()
    cpu, started = machine.cpu_seconds(pids), time.monotonic()
    time.sleep(bench.args.secs)
    used = (machine.cpu_seconds(pids) - cpu) / (time.monotonic() - started)
    bench.report.put(f"ng/{n} est idle cpu", used * 100, "%", "info")


def _queries(bench: Bench, relay: Relay, calls: Calls) -> None:
    """CPU of asking for the statistics of single calls."""
    requests = [calls.query(index) for index in range(min(calls.n, 500))]
    pids = relay.pids()
    cpu = machine.cpu_seconds(pids)
    relay.demand(requests)
    used = (machine.cpu_seconds(pids) - cpu) / len(requests) * 1e6
    bench.report.put(f"ng/{calls.n} est cpu/query", used, "us", "lower")


def older_protocols(bench: Bench) -> None:
    """Offer, answer and delete over rtpproxy's and mediaproxy's protocol, as far as the target was told to listen."""
    with bench.relay() as relay:
        if bench.listens("udp", "rtpproxy"):
            with Rtpproxy() as client:
                prove(relay, client)
            for outstanding in bench.args.outstanding:
                _older(bench, f"rtpproxy/{outstanding} out", partial(churn_rtpproxy, relay, outstanding))
        if bench.listens("tcp", "mediaproxy"):
            prove(relay, Mediaproxy())
            _older(bench, "mediaproxy/1 out", partial(churn_mediaproxy, relay))


def _older(bench: Bench, name: str, churn: Callable[[float], dict[str, float]]) -> None:
    """Measure set-ups; half a window does, as thousands of commands fit into it."""
    churn(0.3)
    runs = bench.windows(partial(churn, bench.args.secs / 2))
    bench.report.raw[name] = runs
    _judge_replies(bench.report, name, runs)
    bench.report.put(f"{name} calls/s", median(runs, "per_s"), "/s", "higher")
    bench.report.put(f"{name} cpu/call", median(runs, "cpu_us_per_cycle"), "us", "lower")


def start_up(bench: Bench) -> None:
    """From exec to the first pong."""
    milliseconds, cpu = [], []
    for _ in range(bench.args.starts):
        with bench.relay() as relay:
            milliseconds.append(relay.start_ms)
            cpu.append(relay.start_cpu_ms)
    bench.report.raw["start"] = milliseconds
    bench.report.put("start to first pong", statistics.median(milliseconds), "ms", "lower")
    bench.report.put("start cpu", statistics.median(cpu), "ms", "lower")


def secure(bench: Bench) -> None:
    """RTP to SRTP with the suite that everybody has, then briefly with others."""
    paced(bench, "srtp", bench.args.srtp_levels)
    flood(bench, "srtp")
    for kind in ("f8", "gcm"):
        try:
            _other_suite(bench, kind)
        except Unsupported as reason:
            bench.report.notes.append(f"{kind}: not measured, {reason}")


def _other_suite(bench: Bench, kind: str) -> None:
    n, args = bench.args.flood_calls, bench.args
    paced(bench, kind, args.srtp_levels)
    with bench.load(n, kind) as (_, load):
        load.run(n * 100, args.settle)
        _closed_loop(bench, load, f"flood-{kind}/{n}")


def handshakes(bench: Bench) -> None:
    """DTLS handshakes of calls that are in place: some at a time, then many at once beside running calls."""
    args, report = bench.args, bench.report
    name = f"dtls/{args.shaking} at a time"
    with bench.relay() as relay:
        client = Handshakes(relay, WARM_UP + args.handshakes * args.windows, args, bench.scratch)
        client.run(WARM_UP, args.shaking)
        runs = bench.windows(lambda: client.run(args.handshakes, args.shaking))
        client.close()
    report.raw[name] = runs
    _judge_handshakes(report, name, runs)
    report.put(f"{name} handshakes/s", median(runs, "per_s"), "/s", "higher")
    report.put(f"{name} cpu/handshake", median(runs, "cpu_us"), "us", "lower")
    report.put(f"{name} daemon cpu", median(runs, "cpu_pct"), "%", "info")
    report.put(f"{name} client cpu/handshake", median(runs, "own_cpu_us"), "us", "info")
    for label in ("p50", "p99", "max"):
        report.put(f"{name} took {label}", median(runs, f"{label}_us"), "us", "lower")
    _handshakes_beside_calls(bench)


def _handshakes_beside_calls(bench: Bench) -> None:
    """As many at once as start when a conference begins: what do running calls notice?"""
    n, args, report = bench.args.flood_calls, bench.args, bench.report
    name = f"burst/{n} during {args.burst} handshakes"
    with bench.load(n, "rtp") as (relay, load):
        client = Handshakes(relay, args.burst * args.windows, args, bench.scratch)
        load.run(n * 100, args.settle)
        calm, busy, made = [], [], []
        for _ in range(args.windows):
            calm.append(load.run(n * 100, args.secs))
            load.start(n * 100, args.secs)
            made.append(client.run(args.burst, args.burst))
            busy.append(load.finish())
        client.close()
    report.raw[name] = {"calm": calm, "busy": busy, "made": made}
    report.judge(name, calm + busy)
    _judge_handshakes(report, name, made)
    report.put(f"{name} loss", loss_percent(busy), "%", "lower")
    report.put(f"burst/{n} offered load reached", (median(calm + busy, "sent_pps") or 0) / n, "%", "info")
    report.put(f"{name} all done after", (median(made, "secs") or 0) * 1000, "ms", "info")
    _report_added(report, name, calm, busy)


def _judge_handshakes(report: Report, name: str, runs: list[dict[str, Any]]) -> None:
    failed, wrong = (sum(run[key] for run in runs) for key in ("failed", "wrong"))
    if failed or wrong:
        report.wrong.append(f"{name}: {failed} failed, {wrong} with another certificate or no SRTP")


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "a": lambda bench: paced(bench, "rtp", bench.args.levels),
    "b": lambda bench: flood(bench, "rtp"),
    "c": secure,
    "d": signalling,
    "f": lambda bench: paced(bench, "v6", bench.args.srtp_levels),
    "g": start_up,
    "h": handshakes,
    "o": older_protocols,
    "s": stall,
    "u": set_up_under_load,
    "w": watched,
}
