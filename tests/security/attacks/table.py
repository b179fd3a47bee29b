"""The table of security.md 4: attack by learning mode and transport."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attacks.scene import TRANSPORTS, Outcome

# The first is the default.
MODES = ("heuristic", "delayed", "immediate", "off")
# What the attacks of this run have measured: by row, mode and transport. The kernel's column comes with the module.
MEASURED: dict[tuple[str, str, str], Outcome] = {}


def lines() -> Iterator[str]:
    """The table, one line per attack."""
    rows = list(dict.fromkeys(row for row, _, _ in MEASURED))
    width = max(map(len, rows))
    yield "packets bled / packets injected, '!' where the call did not survive it; forwarding in userspace"
    yield " " * width + "".join(f"  {mode + ' (default)' * (mode == MODES[0]):30}" for mode in MODES).rstrip()
    yield f"{'attack':{width}}" + "".join(_cells(TRANSPORTS) for _ in MODES)
    for row in rows:
        measured = [[MEASURED.get((row, mode, transport), "") for transport in TRANSPORTS] for mode in MODES]
        yield f"{row:{width}}" + "".join(_cells(found) for found in measured).rstrip()


def _cells(found: Iterable[object]) -> str:
    return "  " + "".join(f"{cell!s:10}" for cell in found)
