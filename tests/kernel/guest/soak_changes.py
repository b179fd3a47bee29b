"""Targets that come, change and go at random while packets are on their way (make test-kernel-soak)."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

from abi import ADD, UPDATE, Table, error_of, seen, tables, target
from network import A, B, Party, host, relay
from packets import Keys, rtp

SECONDS = int(os.environ.get("KERNEL_TEST_SOAK") or 60)
PORTS = range(30000, 30032, 2)


def _record(draw: random.Random) -> dict[str, Any] | None:
    suite = draw.choice([None, None, "CM128-80", "CM128-32", "F8-80", "NULL-80"])
    return Keys(suite, mki=draw.choice([b"", b"\1\2"])).kernel() if suite else None


def _change(table: Table, draw: random.Random) -> str | None:
    v6_in, v6_out, port = draw.random() < 0.3, draw.random() < 0.3, draw.choice(PORTS)
    local = (relay(A, v6_in), port)
    if draw.random() < 0.3:
        return error_of(table.delete, local)
    what = target(
        local,
        (host(A, v6_in), 20000),
        (relay(B, v6_out), port + 1),
        (host(B, v6_out), 20002),
        decrypt=_record(draw),
        encrypt=_record(draw),
        flags=draw.choice([0, 0, 0, 1]),
    )
    return error_of(table.send, draw.choice([ADD, UPDATE]), what)


def _traffic(stop: threading.Event, parties: list[Party], packets: list[bytes]) -> None:
    draw = random.Random(2)
    while not stop.is_set():
        party = draw.choice(parties)
        party.send(draw.choice(packets), (relay(A, party.v6), draw.choice(PORTS)))


def test_changes_under_traffic(rule: None) -> None:
    """The kernel must not complain, whatever the order; the errors are those that are documented."""
    seed = int(time.time())
    print(f"seed {seed}")
    draw, stop, results = random.Random(seed), threading.Event(), set()
    suites = ["CM128-80", "F8-80", "NULL-80"]
    packets = [rtp(seq) for seq in range(50)] + [os.urandom(n) for n in (0, 1, 12, 200)]
    packets += [Keys(suite).userspace().protect(rtp(seq)) for suite in suites for seq in range(20)]
    parties = [Party(A, (host(A, v6), 20000)) for v6 in (False, True)]
    table = Table(0)
    sender = threading.Thread(target=_traffic, args=(stop, parties, packets))
    sender.start()
    changes, end = 0, time.monotonic() + SECONDS
    sent = 0
    try:
        while time.monotonic() < end:
            results.add(_change(table, draw))
            changes += 1
            if changes % 100 == 0:
                sent += sum(seen(entry.counters)[0] for entry in table.entries())
                (table.dir / "list").read_text()
            if changes % 1000 == 0:
                table.__exit__()
                table = Table(0)
    finally:
        stop.set()
        sender.join()
        table.__exit__()
    print(f"{changes} changes")
    assert results <= {None, "EEXIST", "ENOENT"}
    assert sent and tables() == []
