"""Interop tests: independent RTP programs as the parties of a call; the hosts and the daemon are the system tests'."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "system"))

from systemlab.fixtures import call, daemon, lab, party

__all__ = ["call", "daemon", "lab", "party"]
