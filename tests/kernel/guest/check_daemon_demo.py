"""The demo's calls with real speech, relayed by the kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from daemonlab import ROOT, Lab, control, ruled
from systemlab.daemon import PROGRAM

pytest_plugins = ["daemonlab"]


def test_demo(lab: Lab, tmp_path: Path) -> None:
    """The audio is identical, and calls that are left alone are in the kernel, IPv6 and DTLS-SRTP among them."""
    command = [
        sys.executable,
        "tests/demo/demo.py",
        "--table=0",
        "--rtpengine",
        str(PROGRAM),
        "--output",
        str(tmp_path),
    ]
    with ruled(lab.relay):
        with lab.relay.inside():
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
        control(lab.relay, "del 0\n")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    calls = dict(enumerate(done.stdout.split("\nCall ")[1:], 1))
    by_kernel = {number: list(map(int, re.findall(r"kernel forwarded (\d+)", text))) for number, text in calls.items()}
    assert list(by_kernel) == [1, 2, 3, 4]
    for number in (1, 2, 4):
        assert len(by_kernel[number]) == 2 and all(by_kernel[number]), by_kernel
    assert "audio identical in all 8 streams" in done.stdout
