"""Output for people: lines that stay, and on a terminal a block of lines that is redrawn in place."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

_PLAIN_INTERVAL_S = 2.0
_STYLES = {"bold": "1", "dim": "2", "green": "1;32", "red": "1;31", "yellow": "33"}
_ERASE_BELOW = "\x1b[J"


class Screen:
    """Writes to ``out``; redraws only on a terminal that is not ``dumb``, colours only if NO_COLOR is not set."""

    def __init__(self, out: TextIO = sys.stdout, environment: Mapping[str, str] = os.environ) -> None:
        self._out = out
        self.live = out.isatty() and environment.get("TERM", "dumb") != "dumb"
        self._colour = self.live and not environment.get("NO_COLOR")
        self._drawn = 0
        self._next_plain = 0.0

    def styled(self, text: str, style: str) -> str:
        """``text`` in one of bold, dim, green, red, yellow, if colours are wanted."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colour else text

    def say(self, text: str = "", style: str | None = None) -> None:
        """Write lines that stay, in place of the block."""
        self._write(self._rewind() + (self.styled(text, style) if style else text) + "\n")
        self._drawn = 0
        self._next_plain = time.monotonic() + _PLAIN_INTERVAL_S

    def update(self, lines: Sequence[str]) -> None:
        """Redraw the block; without a terminal write it, but only every two seconds."""
        if self.live:
            # A line that wraps would take two rows, and the next redraw would start too low.
            width = shutil.get_terminal_size().columns - 1
            self._write(self._rewind() + "".join(line[:width] + "\n" for line in lines))
            self._drawn = len(lines)
        elif time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + _PLAIN_INTERVAL_S
            self._write("\n".join(lines) + "\n")

    def _rewind(self) -> str:
        return f"\x1b[{self._drawn}F{_ERASE_BELOW}" if self._drawn else ""

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
