#!/usr/bin/env python3
"""Fuzz targets: what there is, and how one is built and run.

usage: fuzz.py [TARGET ...] [--seconds N] [--work DIR] [--replay FILE]

Without a target all of them, one after the other. A target in C is a program of clang's libFuzzer with
AddressSanitizer and UBSan, made of the packet path's own files; one in Python runs under atheris. Each starts from
seeds/TARGET, keeps what it learns under --work, and stops at the first input that breaks a rule of the target.

Such an input becomes a seed, named after what it showed, together with the correction.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
PACKETPATH = TOP / "daemon" / "packetpath"

_C_FLAGS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes"]
_SANITIZERS = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
_BUILD_S = 120
# For start and end, beside the seconds that it is asked for.
_SPARE_S = 60
# No input may take longer; the slowest take milliseconds.
_INPUT_S = 20


class Target(NamedTuple):
    """What is fuzzed: NAME_target.c, with ``sources`` of the packet path and ``libraries``, else NAME_target.py."""

    name: str
    about: str
    max_len: int
    sources: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    @property
    def seeds(self) -> Path:
        """The directory of its seeds."""
        return HERE / "seeds" / self.name


_ALL_OF_THE_PATH = tuple(path.name for path in sorted(PACKETPATH.glob("*.c")))
# What tests/fuzz/path_target.c stands in for.
_WRAPPED = ("close", "epoll_ctl", "getsockname", "monotonic_ns", "recvfrom", "recvmmsg", "sendmmsg", "sendto")

TARGETS = {
    target.name: target
    for target in (
        Target("rtp", "RTP and RTCP arithmetic, reports, removal of feedback", 2048, ("rtcp.c", "reports.c")),
        Target("learn", "source learning, any order of packets and signalling", 1024, ("learn.c",)),
        Target("demux", "STUN and DTLS told from media on a media port", 4096, ("demux.c", "learn.c")),
        Target(
            "path",
            "the whole way of a packet, between the sockets of a call",
            2048,
            _ALL_OF_THE_PATH,
            ("-lcrypto", *(f"-Wl,--wrap={name}" for name in _WRAPPED)),
        ),
        Target("srtp", "SRTP and SRTCP, sent, altered and invented", 4096, ("srtp_crypto.c",), ("-lcrypto",)),
        Target("stun", "STUN to ICE agents and relay", 4096),
        Target("dtls", "DTLS from strangers, beside the handshake of the party", 4096),
        Target("sdes", "a=crypto lines", 1024),
        Target("sdp", "offer, answer and re-offer with any body", 8192),
        Target("ng", "whole ng requests", 8192),
        Target("json", "ng requests as JSON, and the status page's data", 8192),
    )
}


class Outcome(NamedTuple):
    """How a run ended: whether no rule was broken, after how many inputs, and what the fuzzer said."""

    passed: bool
    inputs: int
    output: str


def build(target: Target, work: Path, directory: Path = HERE) -> list[str]:
    """Make the target of ``directory`` ready to run, and return the command that takes libFuzzer's options."""
    if not target.sources:
        return [sys.executable, str(HERE / "with_atheris.py"), str(directory), target.name]
    work.mkdir(parents=True, exist_ok=True)
    program = work / target.name
    sources = [directory / f"{target.name}_target.c", *(PACKETPATH / name for name in target.sources)]
    includes = [f"-I{path}" for path in (HERE, PACKETPATH, TOP / "kernel-module")]
    command = ["clang", *_C_FLAGS, *_SANITIZERS, *includes, "-o", program, *sources, *target.libraries]
    subprocess.run(command, check=True, timeout=_BUILD_S)
    return [str(program)]


def run(target: Target, command: list[str], seconds: int, work: Path) -> Outcome:
    """Fuzz for so long, starting from the seeds and from what ``work`` holds of earlier runs."""
    corpus = work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.max_len}",
        f"-timeout={_INPUT_S}",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        f"-artifact_prefix={work}/",
    ]
    seeds = [str(target.seeds)] if target.seeds.is_dir() else []
    return _execute([*command, *options, str(corpus), *seeds], work, seconds + _SPARE_S)


def replay(command: list[str], inputs: Iterable[Path], work: Path) -> Outcome:
    """Run exactly these inputs, once each."""
    work.mkdir(parents=True, exist_ok=True)
    return _execute([*command, f"-timeout={_INPUT_S}", *map(str, inputs)], work, _SPARE_S)


def _execute(command: list[str], work: Path, timeout_s: int) -> Outcome:
    log = work / "log"
    # measuring coverage is the fuzzer's own business here
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    with log.open("wb") as file:
        done = subprocess.run(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, timeout=timeout_s, env=environment, check=False
        )
    output = log.read_text(errors="replace")
    counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    return Outcome(done.returncode == 0, int(counted[1]) if counted else 0, output)


def main() -> int:
    """Run what the command line names; 1 if anything was found."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    ap.add_argument("--seconds", type=int, default=60, help="how long each one runs (60)")
    ap.add_argument(
        "--work", type=Path, default=TOP / "build" / "fuzz", help="what was learned, and finds (build/fuzz)"
    )
    ap.add_argument("--replay", type=Path, help="run this one input instead")
    args = ap.parse_args()
    if unknown := set(args.targets) - TARGETS.keys():
        ap.error(f"no such target: {', '.join(sorted(unknown))}")
    found = False
    for name in args.targets or TARGETS:
        work = args.work / name
        target = TARGETS[name]
        command = build(target, work)
        outcome = replay(command, [args.replay], work) if args.replay else run(target, command, args.seconds, work)
        found |= not outcome.passed
        nothing = "no rule broken" if args.replay else f"nothing found in {outcome.inputs} inputs"
        said = nothing if outcome.passed else outcome.output[-6000:]
        print(f"{name}: {said}", flush=True)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
