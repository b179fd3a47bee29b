#!/usr/bin/env python3
"""Side-by-side benchmark of RTP relays that speak the ng control protocol.

  bench.py                                        this project's daemon, Debian's rtpengine-daemon and
                                                  the C floor in turn, and a verdict on each target
  bench.py --target NAME='COMMAND'                one daemon, table and JSON
  bench.py --vs --target A='CMD' --target B='CMD' two daemons in alternation
  bench.py --static NAME='COMMAND {map}'          a bare forwarder without ng

COMMAND may use {ng} {udp} {tcp} {ng_ip} {ng_port} {ip4} {ip6} {port_min} {port_max} {tmp} {here};
for --static {map}, {tmp} and {here}. README.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import machine
from relay import HERE, Target
from report import Reports, notes, problems, ratio_table, table
from scenarios import SCENARIOS, Bench
from verdict import FLOOR, OURS, PEERS, verdict_table, verdicts

TOP = HERE.parent
RESULTS = HERE / "results"
DOCUMENT = TOP / "docs" / "benchmarks.md"

OUR_COMMAND = (
    "{here}/../.venv/bin/rtpengine --config-file=none --foreground --table=-1 --ip={ip4} --ip6={ip6}"
    " --listen-ng={ng} --listen-udp={udp} --listen-tcp={tcp}"
    " --port-min={port_min} --port-max={port_max} --log-level=3"
    # the default is offered first; F8 is off unless it is named
    " --srtp-suites=AES_CM_128_HMAC_SHA1_80,AEAD_AES_128_GCM,F8_128_HMAC_SHA1_80"
)
OUR_HTTP = " --listen-http={http}"
# The older protocols cannot say in a delete, as ng does, that the call shall not be kept for 30 s.
PEER_COMMAND = (
    "/usr/bin/rtpengine --config-file=none --foreground --log-stderr --log-level=3 --table=-1"
    " --interface=internal/{ip4} --interface=external/{ip6}"
    " --listen-ng={ng} --listen-udp={udp} --delete-delay=0 --port-min={port_min} --port-max={port_max}"
)
PEER_TCP = " --listen-tcp={tcp}"
# The peer starts as many threads as the machine has CPUs, on the one that it gets here. One is
# better for it mostly; where it is not, the other counts. One round has to do for that.
STANDARD = [
    Target(OURS, OUR_COMMAND, http=OUR_HTTP),
    Target(PEERS[0], PEER_COMMAND + PEER_TCP + " --num-threads=1"),
    Target(
        PEERS[1], PEER_COMMAND, rounds=1, lacks="with several threads it leaves TCP commands unanswered now and then"
    ),
    Target(FLOOR, "{here}/udpfloor {map}", static=True, scenarios="a"),
]


def numbers(text: str) -> list[int]:
    """A list of integers as options give it: 1,2,3."""
    return [int(part) for part in text.split(",")]


def target(text: str, static: bool = False) -> Target:
    """A target as an option gives it: NAME=COMMAND."""
    name, _, command = text.partition("=")
    return Target(name, command, static, http=OUR_HTTP if name == OURS else "")


def parse_arguments() -> argparse.Namespace:
    """The command line, with --quick applied and targets made."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--target", action="append", default=[], metavar="NAME=CMD")
    ap.add_argument("--static", action="append", default=[], metavar="NAME=CMD")
    ap.add_argument("--vs", action="store_true", help="two targets in alternation, ratios first/second")
    ap.add_argument("--rounds", type=int, help="repetitions of everything (default 1; 3 to compare)")
    ap.add_argument("--scenarios", default="a,b,c,d,f,g,h,o,s,u,w", help=f"of {','.join(SCENARIOS)}")
    ap.add_argument("--quick", action="store_true", help="short windows: a smoke test, not a measurement")
    ap.add_argument("--cwd", help="directory to start the daemons in")
    ap.add_argument("--json", type=Path, help="write everything here (default: a file in results/)")
    ap.add_argument("--keep-logs", type=Path, help="copy the daemons' output into this directory")
    ap.add_argument("--write-doc", action="store_true", help="write the result to docs/benchmarks.md")
    add_sizes(ap)
    args = ap.parse_args()
    args.standard = not (args.target or args.static)
    args.targets = [target(text) for text in args.target] + [target(text, static=True) for text in args.static]
    if args.vs and len(args.targets) != 2:
        ap.error("--vs needs two targets")
    if args.write_doc and (args.quick or not args.standard):
        ap.error("--write-doc is for a full run of the standard comparison")
    if set(args.scenarios.split(",")) - set(SCENARIOS):
        ap.error("--scenarios: no such scenario")
    args.targets = args.targets or STANDARD
    if args.quick:
        shorten(args)
    args.remarks = []
    args.rounds = args.rounds or (3 if args.vs or (args.standard and not args.quick) else 1)
    return args


def add_sizes(ap: argparse.ArgumentParser) -> None:
    """The options that say how much, how long and where."""
    ap.add_argument("--levels", type=numbers, default=[500, 1000, 2000], help="calls in scenario a")
    ap.add_argument("--srtp-levels", type=numbers, default=[500], help="calls in scenarios c and f")
    ap.add_argument("--flood-calls", type=int, default=500, help="calls in scenarios b, s and w")
    ap.add_argument("--established", type=numbers, default=[100, 5000], help="calls in place during scenario d")
    ap.add_argument("--outstanding", type=numbers, default=[1, 64], help="calls in progress during d and o")
    ap.add_argument("--busy-calls", type=int, default=1000, help="running calls in scenario u")
    ap.add_argument("--busy-rate", type=float, default=100, help="calls set up a second in scenario u")
    ap.add_argument("--handshakes", type=int, default=1000, help="DTLS handshakes per window in scenario h")
    ap.add_argument("--shaking", type=int, default=32, help="of those at a time")
    ap.add_argument("--burst", type=int, default=200, help="handshakes at once beside running calls")
    ap.add_argument("--watch", type=float, default=10.0, help="length of a window in scenario w, at least")
    ap.add_argument("--secs", type=float, default=2.0, help="length of one measured window")
    ap.add_argument("--windows", type=int, default=2, help="windows per point; the median is reported")
    ap.add_argument("--settle", type=float, default=4.0, help="seconds of unmeasured traffic before the windows")
    ap.add_argument("--window", type=int, default=256, help="packets in flight in the closed-loop flood")
    ap.add_argument("--bisect", type=int, default=6)
    ap.add_argument("--overloads", type=int, default=1, help="overloads, each on a fresh daemon")
    ap.add_argument("--loss-limit", type=float, default=0.001, help="percent of loss that counts as loss-free")
    ap.add_argument("--backlog-ms", type=float, default=50.0, help="longest drain that counts as sustained")
    ap.add_argument("--void-loss", type=float, default=0.1, help="percent of loss that voids cost and latency")
    ap.add_argument("--margin", type=float, default=0.1, help="with --vs: a smaller difference is none")
    ap.add_argument("--starts", type=int, default=3)
    ap.add_argument("--cpu-daemon", type=int, default=0)
    ap.add_argument("--cpu-load", type=int, default=1)
    ap.add_argument("--nice", type=int, default=-10, help="of daemon and generator alike (below 0 needs root)")


def shorten(args: argparse.Namespace) -> None:
    """What --quick means: everything runs once, at every size that the targets name."""
    args.secs, args.windows, args.settle, args.bisect, args.starts, args.watch = 1.0, 1, 1.0, 3, 2, 3.0
    args.targets = [one for one in args.targets if one.name != PEERS[1]]


def fit_calls(args: argparse.Namespace, descriptors: int) -> None:
    """Lower the numbers of calls in place to what the limit allows: four sockets each, and some to work with."""
    most = (descriptors - 500) // 4
    if max(args.established) > most:
        args.remarks.append(f"{descriptors} descriptors are all this machine gives: {most} calls in place at most")
        args.established = sorted({min(n, most) for n in args.established})


def run_rounds(args: argparse.Namespace) -> Reports:
    """Every target in every round it takes part in, the order turned from round to round."""
    reports: Reports = {target.name: [] for target in args.targets}
    scratch = Path(tempfile.mkdtemp(prefix="rtpbench-"))
    try:
        for number in range(args.rounds):
            for target in args.targets if number % 2 == 0 else args.targets[::-1]:
                if number < target.rounds:
                    print(f"round {number + 1}/{args.rounds}: {target.name}", file=sys.stderr, flush=True)
                    reports[target.name].append(Bench(target, args, scratch).run())
    finally:
        if args.keep_logs:
            shutil.copytree(scratch, args.keep_logs, dirs_exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return reports


def render(args: argparse.Namespace, reports: Reports) -> str:
    """The whole result as Markdown, the verdicts first where there are any."""
    parts = []
    if args.standard:
        parts.append(verdict_table(list(verdicts(reports))))
    parts.append(table(reports))
    if len(args.targets) > 1 and not args.targets[1].static:
        parts.append(ratio_table(reports, args.targets[0].name, args.targets[1].name, args.margin))
    wrong = problems(reports)
    verified = "every relayed packet verified, nothing altered, misrouted or duplicated"
    parts.append("Correctness: " + ("PROBLEMS\n\n" + "\n".join(f"* {line}" for line in wrong) if wrong else verified))
    if remarks := args.remarks + notes(reports):
        parts.append("Notes\n\n" + "\n".join(f"* {line}" for line in remarks))
    return "\n\n".join(parts) + "\n"


def versions() -> str:
    """Who was compared with whom."""
    package = "rtpengine-daemon"
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    peer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    tree = ["git", "-C", str(TOP), "describe", "--always", "--dirty"]
    ours = subprocess.run(tree, capture_output=True, text=True, check=False).stdout.strip()
    return f"this tree at {ours or 'an unknown commit'}, Debian's {package} {peer or '(not installed)'}"


def write_results(args: argparse.Namespace, reports: Reports, text: str) -> None:
    """Keep everything as JSON and as Markdown, and the document where it is asked for."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stamp}.md").write_text(text)
    rows = {name: [{"metrics": r.metrics, "raw": r.raw, "wrong": r.wrong} for r in rs] for name, rs in reports.items()}
    settings = {key: str(value) for key, value in vars(args).items()}
    everything = {"args": settings, "machine": machine.description(), "versions": versions(), "reports": rows}
    path = args.json or RESULTS / f"{stamp}.json"
    path.write_text(json.dumps(everything, indent=1))
    print(f"kept in {path}", file=sys.stderr)
    if args.write_doc:
        DOCUMENT.write_text(document(args, reports))


def document(args: argparse.Namespace, reports: Reports) -> str:
    """The run as docs/benchmarks.md, in lines of at most 120 characters."""
    about = (
        f"Written by `make bench ARGS=--write-doc` on {time.strftime('%Y-%m-%d')}; what each figure means is in"
        f" [bench/README.md](../bench/README.md). Compared: {versions()}, userspace forwarding, each on one CPU of its"
        f" own. Machine: {machine.description()}. {args.rounds} rounds; figures are medians over them, ratios with the"
        " lowest and the highest round. A ratio is to the better of the peer with one thread and the peer with its"
        " default. Only ratios carry over to another machine."
    )
    wrong = problems(reports)
    remarks = [*(f"PROBLEM: {line}" for line in wrong), *args.remarks, *notes(reports)]
    parts = ["# Benchmarks", textwrap.fill(about, 110), "## Targets", verdict_table(list(verdicts(reports)))]
    parts.append("" if wrong else "Every relayed packet was verified: none altered, misrouted or duplicated.")
    parts += ["## All figures", table(reports, spread=False)]
    if remarks:
        parts += ["## Notes", "\n".join(textwrap.fill(f"* {line}", 110, subsequent_indent="  ") for line in remarks)]
    return "\n\n".join(filter(None, parts)) + "\n"


def main() -> int:
    """Run, print and keep; 1 if any packet was altered or any scenario could not run."""
    args = parse_arguments()
    machine.enter_namespace()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that daemons are stopped
    subprocess.run(["make", "-s", "-C", str(HERE)], check=True)
    fit_calls(args, machine.raise_descriptor_limit())
    machine.place(args.cpu_load, args.nice)
    reports = run_rounds(args)
    text = render(args, reports)
    print(text)
    write_results(args, reports, text)
    return 1 if problems(reports) else 0


if __name__ == "__main__":
    sys.exit(main())
