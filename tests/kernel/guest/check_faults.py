"""Memory that runs out: each allocation of a command fails once, and nothing has changed then (make test-kernel-debug).

The kernel's fault injection makes the n-th allocation of the writing task fail; n grows until the command needs fewer.
What is lost on the way out of an error shows as a leak when the guest ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from abi import ADD, PROC, UPDATE, Table, raw, seen, tables, target
from check_forward import IN, Way
from network import A, B, host, relay
from packets import Keys, rtp

FAULTS = [Path("/sys/kernel/debug") / name for name in ("failslab", "fail_page_alloc")]
NTH = Path("/proc/thread-self/fail-nth")
MOST = 400

pytestmark = pytest.mark.skipif(not NTH.exists(), reason="needs a kernel with fault injection: make test-kernel-debug")


@pytest.fixture(autouse=True)
def _faults() -> Iterator[None]:
    """Also allocations that may sleep, and quietly.

    Pages are not counted: those behind an allocation, and those of what looks for bugs, come and go between two tries,
    so that the n-th of one is not that of the next, and some of ours would never fail.
    """
    for folder in FAULTS:
        (folder / "verbose").write_text("0")
        (folder / "ignore-gfp-wait").write_text("N")
    least = FAULTS[1] / "min-order"
    counted = least.read_text()
    least.write_text("64")
    yield
    least.write_text(counted)
    for folder in FAULTS:
        (folder / "ignore-gfp-wait").write_text("Y")


def failing(action: Callable[[], Any], unchanged: Callable[[], None], undo: Callable[[], Any]) -> int:
    """Have each allocation of ``action`` fail in turn; return how many times that made it fail.

    It may do without the memory; then it is undone. If it fails, with ENOMEM, nothing may have changed.
    """
    failed = 0
    nth = os.open(NTH, os.O_RDWR)
    try:
        for n in range(1, MOST):
            error = None
            os.pwrite(nth, b"%d" % n, 0)
            try:
                action()
            except OSError as e:
                error = e
            reached = not int(os.pread(nth, 20, 0).rstrip(b"\0\n"))
            os.pwrite(nth, b"0", 0)
            if error is None:
                undo()
            else:
                assert error.strerror == "Cannot allocate memory"
                failed += 1
                unchanged()
            if not reached:
                return failed
    finally:
        os.close(nth)
    raise AssertionError("there is no end of allocations")


def secure(suite: str) -> dict[str, Any]:
    one, other = Keys(suite, mki=b"\1"), Keys("F8-80")
    local = (relay(A), IN)
    return target(
        local, (host(A), 20000), (relay(B), 30002), (host(B), 20002), decrypt=one.kernel(), encrypt=other.kernel()
    )


def test_a_table() -> None:
    control = os.open(PROC / "control", os.O_WRONLY)
    try:
        failed = failing(
            lambda: os.write(control, b"add 9\n"), lambda: _none(tables()), lambda: os.write(control, b"del 9\n")
        )
    finally:
        os.close(control)
    assert failed > 3  # the table, its folder, its files


def _none(found: list[Any]) -> None:
    assert found == []


@pytest.mark.parametrize("suite", ["CM128-80", "F8-32"])
def test_a_target(suite: str) -> None:
    with Table(0) as table:
        message, local = raw(ADD, secure(suite)), (relay(A), IN)
        failed = failing(lambda: table.write(message), lambda: _none(table.entries()), lambda: table.delete(local))
    assert failed > 10  # counters, routes, contexts with their ciphers, the block


def test_a_replacement(table: Table) -> None:
    """A target that is not replaced goes on as it was."""
    way = Way(table)
    message = raw(UPDATE, secure("CM128-80"))
    sent = 0

    def unchanged() -> None:
        nonlocal sent
        way.send(rtp(sent))
        assert way.b.receive() == rtp(sent)
        sent += 1

    try:
        failed = failing(lambda: table.write(message), unchanged, lambda: table.update(*way.args))
        assert failed > 5
        assert seen(table.counters(IN))[0] == sent
    finally:
        way.close()
