"""No upward arrow: what each module may import, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "daemon" / "rtpengine"

LAYERS = {
    0: {"__init__", "media", "memory", "redis_server"},
    1: {
        *("sdp", "attributes", "srtp", "stun", "dtls_records", "bencode", "ng", "ng_keys"),
        *("rtpproxy", "openser", "recognize", "targets", "ng_json", "web_guard", "plain", "quality", "clocks"),
    },
    2: {
        *(
            "offers",
            "rewrite",
            "call",
            "table",
            "admission",
            "counts",
            "status",
            "history",
            "why",
            "operations",
            "operator_commands",
            "report",
            "sampling",
            "service",
            "rtpproxy_service",
            "openser_service",
        ),
        *(
            "ice",
            "ice_modes",
            "dtls",
            "dtls_association",
            "dtls_library",
            "keying",
            "securing",
            "party",
            "peering",
            "media_ports",
            "snapshot",
        ),
    },
    3: {"ports", "packetpath", "packetpath_structs", "kernel", "store", "b2bua"},
    4: {
        *(
            "control",
            "control_tcp",
            "daemon",
            "config",
            "config_file",
            "options",
            "option_values",
            "reload",
            "live",
            "supervision",
            "operator_host",
            "control_cli",
            "ctl",
            "operator_text",
            "log",
            "process",
        ),
        *(
            "transport",
            "offload",
            "web",
            "website",
            "metrics",
            "persistence",
            "snapshot_json",
            "handover",
            "fdstore",
            "replacement",
            "__main__",
        ),
    },
}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules}

# Which layers of the package a layer may import; resources do not know each other.
ALLOWED = {0: {0}, 1: {0, 1}, 2: {0, 1, 2}, 3: {0, 1}, 4: {0, 1, 2, 3, 4}}

# What is part of one resource, for that one only.
PART_OF = {"packetpath_structs": "packetpath"}

# A clock, a socket, a thread or a source of randomness is handed to codecs and engines, never taken.
SHELL_ONLY = {
    *("asyncio", "concurrent", "multiprocessing", "os", "random", "secrets", "select", "selectors"),
    *("signal", "socket", "socketserver", "ssl", "subprocess", "sys", "syslog", "threading", "time"),
}
# The types of datetime are harmless, but these methods of theirs read the clock.
CLOCKS = {"now", "utcnow", "today"}
PURE_LAYERS = (0, 1, 2)

# Third-party packages, each with the layers that may use it.
OUTSIDE = {
    "aiohttp": {4},
    "prometheus_client": {4},
    "bencodepy": {1},
    "OpenSSL": {2},
    "cryptography": {2},
    "cffi": {3},
    "redis": {3},
}


def imported(source: str) -> list[tuple[int, str]]:
    """Every absolute name that a module of the package imports, wherever in the source, with its line.

    A call that reads the clock of datetime counts as one of ``clock``.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["rtpengine" if node.level else "", node.module]))
            names += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            names.append((node.lineno, "importlib"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
            names.append((node.lineno, f"clock.{node.func.attr}"))
    return names


def objection(module: str, name: str) -> str | None:
    """Why ``module`` may not import ``name``; None if it may."""
    layer = LAYER_OF[module]
    top, _, rest = name.partition(".")
    if top == "rtpengine":
        other = rest.partition(".")[0]
        # a name that is no module comes from the package's own __init__
        found = LAYER_OF.get(other, 0)
        is_allowed = found in ALLOWED[layer] or PART_OF.get(other) == module
        return None if is_allowed else f"layer {layer} imports {other} of layer {found}"
    if top == "importlib":
        return f"{top} hides what is imported"
    if top in SHELL_ONLY and layer in PURE_LAYERS:
        return f"layer {layer} imports {top}"
    if top == "clock":
        return f"layer {layer} reads the clock" if layer in PURE_LAYERS else None
    if layer not in OUTSIDE.get(top, {layer}):
        return f"layer {layer} imports {top}"
    return None


def findings(module: str, source: str) -> list[str]:
    """What is wrong with the imports of one module."""
    if module not in LAYER_OF:
        return [f"{module}: unknown module, add it to the table"]
    objections = [(line, objection(module, name)) for line, name in imported(source)]
    return [f"{module}:{line}: {reason}" for line, reason in objections if reason]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_point_downwards(path: Path) -> None:
    assert path.parent == PACKAGE, "the package is flat; a sub-package needs a layer of its own"
    assert findings(path.stem, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("media", "import rtpengine.sdp", "layer 0 imports sdp of layer 1"),
        ("sdp", "from rtpengine.call import Call", "layer 1 imports call of layer 2"),
        ("sdp", "from .call import Call", "layer 1 imports call of layer 2"),
        ("sdp", "from . import media, call", "layer 1 imports call of layer 2"),
        ("sdp", "from rtpengine import call as c", "layer 1 imports call of layer 2"),
        ("call", "def f():\n    import time", "layer 2 imports time"),
        ("call", "def f():\n    from time import monotonic", "layer 2 imports time"),
        ("call", "if True:\n    import os.path as p", "layer 2 imports os"),
        ("call", "class A:\n    from rtpengine import ports", "layer 2 imports ports of layer 3"),
        ("call", "TYPE_CHECKING = 0\nif TYPE_CHECKING:\n    from .daemon import Daemon", "imports daemon of layer 4"),
        ("ng", "import socket", "layer 1 imports socket"),
        ("service", "import bencodepy", "layer 2 imports bencodepy"),
        ("ports", "from rtpengine.packetpath import X", "layer 3 imports packetpath of layer 3"),
        ("kernel", "from rtpengine.packetpath_structs import X", "layer 3 imports packetpath_structs of layer 3"),
        ("packetpath_structs", "from rtpengine.packetpath import X", "layer 3 imports packetpath of layer 3"),
        ("packetpath", "from rtpengine.call import Call", "layer 3 imports call of layer 2"),
        ("call", "__import__('socket')", "importlib hides what is imported"),
        ("call", "import importlib", "importlib hides what is imported"),
        ("call", "from datetime import datetime\nx = datetime.now()", "layer 2 reads the clock"),
        ("dtls", "import datetime as d\ndef f(): return d.datetime.utcnow()", "layer 2 reads the clock"),
        ("novelty", "", "unknown module, add it to the table"),
    ],
)
def test_the_checker_bites(module: str, source: str, reason: str) -> None:
    found = findings(module, source)
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sdp", "from rtpengine import ProtocolError"),
        ("sdp", "from . import ProtocolError\nfrom .media import Endpoint"),
        ("ng", "import bencodepy"),
        ("call", "from rtpengine.sdp import parse\nimport re, heapq"),
        ("ports", "import socket, errno\nfrom rtpengine.media import Endpoint"),
        ("daemon", "import asyncio, time\nfrom . import call, ports, control"),
        ("dtls", "from datetime import datetime, timedelta\ndef f(now: datetime): return now + timedelta(1)"),
        ("daemon", "from datetime import datetime\nx = datetime.now()"),
    ],
)
def test_the_checker_lets_the_rest_pass(module: str, source: str) -> None:
    assert findings(module, source) == []
