"""How the packets per second of two independent streams scale on two processors: run in the lab's guest with --smp 2.

Two senders, each on a processor of its own, on which all of its packets' way takes place: through veth, the rule, the
module, veth again, to a DROP at the receiver. Time in an emulator means little, so only the ratio of two rates is
printed: both streams at once to one alone, 2 if neither costs the other anything. ``veth`` is the same with a DROP in
front of the rule: what the network itself and the emulator's two threads allow.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "kernel" / "guest"), str(ROOT / "daemon")]

from abi import Table, seen  # noqa: E402
from network import A, B, build, host, inside, relay, run  # noqa: E402
from packets import Keys, windows  # noqa: E402

PKTCOUNT = os.environ["PKTCOUNT"]
LOOPS, PACKETS = 7, 2000
WARM = 200  # pktcount's packets before the first loop
SSRC = 0x5A112200  # pktcount's, of its first side
DROP = ["iptables-legacy", "-w", "-t", "raw", "-I", "PREROUTING", "-p", "udp", "-j", "DROP"]


def sender(processor: int) -> subprocess.Popen[str]:
    side = f"{A},{host(A)}:{20000 + processor},{relay(A)}:{30000 + 2 * processor},-,-"
    command = [PKTCOUNT, "count", "0", side, str(LOOPS), str(PACKETS), "0"]
    pin = ["taskset", "--cpu-list", str(processor)]
    return subprocess.Popen([*pin, *command], stdout=subprocess.PIPE, text=True)


def ticks(senders: list[subprocess.Popen[str]]) -> float:
    """Per packet of one stream, in the middle of the loops, where all that are to run do."""
    values = []
    for process in senders:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        # The first number leaves out what either processor has been idle, which does not matter here.
        values += [sum(map(float, line.split())) for line in out.splitlines()[1:-1]]
    return median(values)


def scaling(prepare: Callable[[], None] = lambda: None) -> float:
    """The rate of both streams at once to that of one; ``prepare`` is called before each run."""
    alone = 0.0
    for processor in (0, 1):
        prepare()
        alone += ticks([sender(processor)])
    prepare()
    return alone / ticks([sender(0), sender(1)])


def renew(table: Table, suite: str | None) -> None:
    """Targets that have seen nothing yet, since SRTP sends each number only once."""
    encrypt = {**Keys(suite).kernel(), **windows([(SSRC, 0)])} if suite else None
    there = {entry.local.port for entry in table.entries()}
    for processor in (0, 1):
        local = (relay(A), 30000 + 2 * processor)
        if local[1] in there:
            table.delete(local)
        table.add(local, (host(A), 20000 + processor), (relay(B), local[1]), (host(B), local[1]), encrypt=encrypt)


def main() -> None:
    subprocess.run(["modprobe", "-a", "x_tables", "veth", "ip_tables", "aesni_intel", "sha1_ssse3"], check=False)
    subprocess.run(["insmod", os.environ["KERNEL_TEST_MODULE"]], check=True)
    build()
    run("iptables-legacy", "-w", "-I", "INPUT", "-p", "udp", "-j", "MEDIAPROXY", "--id", "0")
    with inside(B):
        run(*DROP)
    for name, suite in (("rtp", None), ("rtp-srtp", "CM128-80")):
        with Table() as table:
            print(f"{name} two-processors {scaling(partial(renew, table, suite)):.2f}", flush=True)
            # of the last run, in which both went all of their way
            assert [seen(entry.counters)[0] for entry in table.entries()] == [WARM + LOOPS * PACKETS] * 2
    run(*DROP)
    print(f"veth two-processors {scaling():.2f}", flush=True)


if __name__ == "__main__":
    main()
