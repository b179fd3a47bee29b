"""Security tests: the attacks of security.md 3 on the whole daemon, between hosts in network namespaces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "system"))
sys.path.insert(0, str(Path(__file__).parent))

from attacks import table
from systemlab.fixtures import call, daemon, lab, party, pytest_pyfunc_call, start

__all__ = ["call", "daemon", "lab", "party", "pytest_pyfunc_call", "start"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each attack achieved (security.md 4)."""
    if table.MEASURED:
        terminalreporter.section("attacks")
        for line in table.lines():
            terminalreporter.write_line(line)
