"""System tests: the whole daemon, seen from outside, between hosts in network namespaces."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from systemlab.fixtures import call, daemon, lab, launch, live_call, party, pytest_pyfunc_call, redis, start

__all__ = ["call", "daemon", "lab", "launch", "live_call", "party", "pytest_pyfunc_call", "redis", "start"]
