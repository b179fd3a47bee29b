"""Interop tests: programs of others as the parties of a call."""

from __future__ import annotations

import sys
from pathlib import Path

# the hosts and the daemon are the system tests', G.711 is the demo's
sys.path.insert(0, str(Path(__file__).parent.parent / "system"))
sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))

from systemlab.fixtures import call, daemon, lab, party, start

__all__ = ["call", "daemon", "lab", "party", "start"]
