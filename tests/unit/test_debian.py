"""What the Debian packages repeat from elsewhere: the version, and what the daemon needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from rtpengine import __version__

ROOT = Path(__file__).resolve().parents[2]

# How Debian calls what PyPI calls so; bencode.py is carried by the package.
DEBIAN = {
    "cffi": "python3-cffi-backend",
    "cryptography": "python3-cryptography",
    "pyOpenSSL": "python3-openssl",
    "aiohttp": "python3-aiohttp",
    "prometheus-client": "python3-prometheus-client",
    "redis": "python3-redis",
}


def test_the_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "debian" / "changelog").read_text()
    assert changelog.startswith(f"ngcp-rtpengine ({__version__}) ")


def test_debian_has_what_pypi_gives() -> None:
    """A library that the daemon comes to need is one that Debian has, and its package is named in two places."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = dict(line.split(">=") for line in required)
    assert needed.pop("bencode.py")
    control = (ROOT / "debian" / "control").read_text().partition("Package: ngcp-rtpengine-daemon\n")[2]
    bootstrap = (ROOT / "tools" / "bootstrap").read_text().partition('[install]="')[2].partition('"')[0]
    for name, version in needed.items():
        assert re.search(rf"^ {DEBIAN[name]} \(>= {version.partition('.')[0]}\b", control, re.MULTILINE), name
        assert DEBIAN[name] in bootstrap.split(), name
