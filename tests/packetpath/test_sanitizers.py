"""The packet path under gcc's sanitizers: control calls from two threads, under traffic."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*sorted((ROOT / "daemon" / "packetpath").glob("*.c")), Path(__file__).with_name("stress.c")]
INCLUDES = [f"-I{ROOT / 'daemon' / 'packetpath'}", f"-I{ROOT / 'kernel-module'}"]
WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes"]
SECONDS = 2


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_clean_under(sanitizer: str, tmp_path: Path) -> None:
    program = tmp_path / "stress"
    flags = ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-pthread"]
    subprocess.run(["gcc", *WARNINGS, *flags, *INCLUDES, "-o", program, *SOURCES, "-lcrypto"], check=True, timeout=120)
    done = subprocess.run([program, str(SECONDS)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rounds" in done.stdout
