"""What in-kernel forwarding costs, in instructions per packet: builds the module, measures in the lab, prints figures.

Exit status 1: a goal was missed, or a packet lost or altered.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAB = ROOT / "tests" / "kernel" / "lab"
PYTHON = sys.executable

# The most that a path may cost over base, by what is printed.
GOALS = {"rtp": 6000, "rtp-srtp": 11800, "srtp-rtp": 11800, "passing-legacy": 200, "passing-nft-target": 200}
# What may grow by so much, of what.
RATIOS = {"rtp-20000": ("rtp", 1.03), "rtp6": ("rtp", 1.15), "rtp-srtp6": ("rtp-srtp", 1.15)}
# measure.sh's paths and directions, as they are printed
NAMES = {
    ("srtp", "ab"): "rtp-srtp",
    ("srtp", "ba"): "srtp-rtp",
    ("srtp6", "ab"): "rtp-srtp6",
    ("srtp6", "ba"): "srtp-rtp6",
}


def build(folder: Path) -> dict[str, str]:
    """Everything the guest needs, for its environment."""
    setup = subprocess.run([LAB / "setup", "6.1"], check=True, capture_output=True, text=True)
    kernel = setup.stdout.split()[2]
    subprocess.run(f"cp {ROOT}/kernel-module/*.[ch] {ROOT}/kernel-module/Kbuild {folder}", shell=True, check=True)
    subprocess.run(["make", "-s", "-C", kernel, f"M={folder}", "modules"], check=True, stdout=sys.stderr)
    subprocess.run(["make", "-s", "-C", ROOT / "iptables-extension", "libxt_MEDIAPROXY.so"], check=True)
    tool = folder / "pktcount"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", tool, HERE / "pktcount.c", "-lcrypto"], check=True)
    stock = subprocess.check_output(["pkg-config", "--variable=xtlibdir", "xtables"], text=True).strip()
    return {
        "KERNEL_TEST_MODULE": str(folder / "xt_MEDIAPROXY.ko"),
        "XTABLES_LIBDIR": f"{ROOT / 'iptables-extension'}:{stock}",
        "PKTCOUNT": str(tool),
    }


def measure(env: dict[str, str], options: list[str], paths: dict[str, str]) -> tuple[bool, dict[str, int]]:
    """One boot. Return whether all packets arrived, and what was measured."""
    commands = [f"{name}={PYTHON} {HERE / 'module.py'} {command}" for name, command in paths.items()]
    run = [
        LAB / "run",
        "--icount",
        "--timeout",
        "1500",
        "--",
        "bash",
        HERE / "measure.sh",
        "-t",
        "2",
        *options,
        *commands,
    ]
    done = subprocess.run(run, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
    print(done.stdout, file=sys.stderr)
    figures = {}
    if passing := re.search(r"^passing the rule: (-?\d+), .* target: (-?\d+)$", done.stdout, re.MULTILINE):
        whole, bare = int(passing[1]), int(passing[2])
        end = env["IPTABLES"].removeprefix("iptables-")
        figures |= {f"passing-{end}": whole, f"passing-{end}-target": whole - bare}
    for row in map(str.split, done.stdout.splitlines()):
        if len(row) == 11 and row[1] in ("ab", "ba"):
            name = NAMES.get((row[0], row[1]), row[0])
            figures[name] = max(figures.get(name, 0), int(row[6]))
    return done.returncode == 0, figures


def scale(env: dict[str, str]) -> bool:
    """Two streams on two processors: prints ratios, which are no figures of cost."""
    run = [LAB / "run", "--smp", "2", "--timeout", "900", "--", PYTHON, HERE / "scale.py"]
    return subprocess.run(run, env={**os.environ, **env}).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", default="5000", help="packets per loop (%(default)s)")
    count = ["-n", parser.parse_args().n]
    with tempfile.TemporaryDirectory() as folder:
        env = build(Path(folder))
        passing = ["-p", f"{PYTHON} {HERE / 'module.py'} rtp"]
        nft, legacy = env | {"IPTABLES": "iptables-nft"}, env | {"IPTABLES": "iptables-legacy"}
        good, figures = measure(nft, [*count, *passing], {"rtp": "rtp", "rtp-20000": "rtp 20000", "srtp": "srtp"})
        good6, figures6 = measure(env | {"IPTABLES": "ip6tables-nft"}, [*count, "-6"], {"rtp6": "rtp", "srtp6": "srtp"})
        scaled = scale(env)
        good_legacy, figures_legacy = measure(legacy, [*count, *passing], {"rtp-legacy": "rtp"})
    figures |= figures6 | figures_legacy
    limits = GOALS | {name: int(figures.get(of, 0) * ratio) for name, (of, ratio) in RATIOS.items()}
    for name, figure in figures.items():
        goal = f"(at most {limits[name]})" if name in limits else ""
        print(f"{name} over-base {figure} {goal}".rstrip())
    missed = [name for name, most in limits.items() if name not in figures or figures[name] > most]
    for name in missed:
        print(f"missed: {name}")
    return 1 if missed or not (good and good6 and good_legacy and scaled) else 0


if __name__ == "__main__":
    sys.exit(main())
