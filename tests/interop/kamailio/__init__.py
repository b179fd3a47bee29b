"""Kamailio between sipp user agents whose media is the tests' own, and a network that loses control datagrams."""

import sys
from pathlib import Path

# The daemon, the ng client and the parties are those of the system tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "system"))
