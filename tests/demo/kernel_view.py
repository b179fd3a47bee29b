"""What the kernel module says about a table: how many packets it has forwarded, by where they came to."""

from __future__ import annotations

import re
from pathlib import Path

_PROC = Path("/proc/mediaproxy")
_TARGET = re.compile(r"^ +local inet([46]) .*:(\d+)\n(?: .*\n)*? +stats: +\d+ bytes, +(\d+) packets", re.MULTILINE)

Ports = dict[tuple[str, int], int]
"""Packets by IP version and port."""


def forwarded(table: int) -> Ports:
    """Of the streams that are in the table now; OSError if it cannot be read."""
    return parse((_PROC / str(table) / "list").read_text())


def parse(listing: str) -> Ports:
    """The same, from the text of a table's ``list``."""
    return {(version, int(port)): int(packets) for version, port, packets in _TARGET.findall(listing)}
