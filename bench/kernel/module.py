"""The module as a relay for measure.sh: ``module.py PATH [STREAMS] start|show|stop`` (see README.md).

PATH is ``rtp`` (both sides plain) or ``srtp`` (B speaks SRTP); STREAMS are so many targets more in the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "kernel" / "guest"), str(ROOT / "daemon")]

import abi  # noqa: E402
from packets import Keys, windows  # noqa: E402

MASTER = {"b_tx": bytes(range(30)), "b_rx": bytes(range(100, 130))}
SSRC = {"a": 0x5A112200, "b": 0x5A112201}


def _keys(name: str, ssrc: int) -> dict[str, Any]:
    return {**Keys("CM128-80", MASTER[name][:16], MASTER[name][16:]).kernel(), **windows([(ssrc, 0)])}


def _open(table: Path) -> int:
    return os.open(table / "control", os.O_WRONLY)


def start(path: str, streams: int) -> None:
    env = os.environ
    if not abi.PROC.exists():
        subprocess.run(["insmod", env["KERNEL_TEST_MODULE"]], check=True)
    abi.write(abi.PROC / "control", b"add 0\n")
    subprocess.run(
        [env.get("IPTABLES", "iptables"), *["-w", "-I", "INPUT", "-p", "udp", "-j", "MEDIAPROXY", "--id", "0"]],
        check=True,
    )
    a, b = (env["A_IP"], int(env["A_PORT"])), (env["B_IP"], int(env["B_PORT"]))
    to_a, to_b = (env["RELAY_A_IP"], 30000), (env["RELAY_B_IP"], 30002)
    secure = path == "srtp"
    control = _open(abi.PROC / "0")
    to = abi.target(to_a, a, to_b, b, encrypt=_keys("b_rx", SSRC["a"]) if secure else None)
    back = abi.target(to_b, b, to_a, a, decrypt=_keys("b_tx", SSRC["b"]) if secure else None)
    others = (abi.target((to_a[0], 31000 + n), (a[0], 1 + n), to_b, b) for n in range(streams))
    for target in (to, back, *others):
        os.write(control, abi.raw(abi.ADD, target))
    os.close(control)
    print(f"a_to={to_a[0]}:{to_a[1]}\nb_to={to_b[0]}:{to_b[1]}")
    for name in ("b_tx", "b_rx") if secure else ():
        print(f"{name}={MASTER[name].hex()}")


def show() -> None:
    with open(abi.PROC / "0" / "blist", "rb", buffering=0) as blist:
        for entry in abi.ffi.from_buffer("struct mediaproxy_entry[]", blist.read(2 * abi.ENTRY)):
            print(entry.local.port, abi.seen(entry.counters))


def stop() -> None:
    abi.write(abi.PROC / "control", b"del 0\n")


if __name__ == "__main__":
    action = sys.argv[-1]
    if action == "start":
        start(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 3 else 0)
    else:
        {"show": show, "stop": stop}[action]()
