"""System tests: the whole daemon, seen from outside, between hosts in network namespaces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from systemlab.fixtures import ATTACKS, attack_record, call, daemon, lab, party, start

__all__ = ["attack_record", "call", "daemon", "lab", "party", "start"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each attack achieved (security.md 4)."""
    if not ATTACKS:
        return
    terminalreporter.section("attacks")
    terminalreporter.write_line(f"{'attack':32} {'variant':44} {'bled':>6} {'injected':>8}  call")
    for attack, variant, outcome in ATTACKS:
        up = "up" if outcome.up else "DOWN"
        terminalreporter.write_line(f"{attack:32} {variant:44} {outcome.bled:6} {outcome.injected:8}  {up}")
