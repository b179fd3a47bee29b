"""No allocation per packet, and no key in freed memory: a program that stands between libcrypto and malloc()."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKETPATH = ROOT / "daemon" / "packetpath"
SOURCES = [Path(__file__).with_name("srtp_memory.c"), PACKETPATH / "srtp.c", PACKETPATH / "srtp_crypto.c"]
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes"]


def test_memory(tmp_path: Path) -> None:
    program = tmp_path / "srtp_memory"
    includes = [f"-I{PACKETPATH}", f"-I{ROOT / 'kernel-module'}"]
    subprocess.run(["gcc", *FLAGS, *includes, "-o", program, *SOURCES, "-lcrypto"], check=True, timeout=120)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("suite") == 12
