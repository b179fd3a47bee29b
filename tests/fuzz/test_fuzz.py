"""Every fuzz target with every seed, and then with what the fuzzer makes of them: a minute each in CI, else seconds."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from fuzz import TARGETS, Outcome, Target, build, replay, run

SECONDS = 60 if os.environ.get("CI") == "true" else 3
# Two at a time keep the whole within a few minutes where there are two CPUs.
AT_ONCE = max(2, (os.cpu_count() or 2) // 2)
# Of the slowest target, on a machine that has other things to do.
LEAST_INPUTS = 10 * SECONDS
# Each has its own end, see run(); this is for all of them, one after the other, on a busy machine.
RESULT_S = 1200

ALL = sorted(TARGETS)
IN_C = [name for name in ALL if TARGETS[name].sources]
IN_PYTHON = [name for name in ALL if not TARGETS[name].sources]
PYTHON_SEEDS = [(name, seed) for name in IN_PYTHON for seed in sorted(TARGETS[name].seeds.iterdir())]


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@cache
def command_of(name: str, work: Path) -> list[str]:
    return build(TARGETS[name], work / name)


def require_tool_for(target: Target) -> None:
    if target.sources and not shutil.which("clang"):
        pytest.skip("needs clang")
    if not target.sources and not importlib.util.find_spec("atheris"):
        pytest.skip("needs atheris")


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, work: Path) -> Iterator[dict[str, Future[Outcome]]]:
    """The targets of this session at work, in the order in which their tests ask."""
    # By the function, as a fixture's name says nothing: tests elsewhere may have one of the same name.
    asking = [item for item in request.session.items if getattr(item, "function", None) is test_nothing_is_found]
    wanted = [item.callspec.params["running"] for item in asking]

    def fuzz(name: str) -> Outcome:
        return run(TARGETS[name], command_of(name, work), SECONDS, work / name)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(fuzz, name) for name in wanted}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("name", "seed"), PYTHON_SEEDS, ids=[f"{name}-{seed.name}" for name, seed in PYTHON_SEEDS])
def test_seed_in_python(name: str, seed: Path) -> None:
    importlib.import_module(f"{name}_target").one_input(seed.read_bytes())


@pytest.mark.parametrize("name", IN_C)
def test_seeds_in_c(name: str, work: Path) -> None:
    require_tool_for(TARGETS[name])
    outcome = replay(command_of(name, work), sorted(TARGETS[name].seeds.iterdir()), work / name)
    assert outcome.passed, outcome.output


@pytest.mark.timeout(RESULT_S + 60)
@pytest.mark.parametrize("running", ALL)
def test_nothing_is_found(running: str, request: pytest.FixtureRequest) -> None:
    require_tool_for(TARGETS[running])
    outcome = request.getfixturevalue("outcomes")[running].result(RESULT_S)
    assert outcome.passed, outcome.output[-8000:]
    assert outcome.inputs > LEAST_INPUTS


IN_PYTHON_FAULT = """
def one_input(data):
    assert data[:3] != b"BAD"
"""
IN_C_FAULT = """
#include "input.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return size >= 3 && !memcmp(data, "BAD", 3) && data[size] == 'x' ? -1 : 0;
}
"""


@pytest.mark.parametrize(
    ("target", "file", "text", "said"),
    [
        (Target("fault", "", 8), "fault_target.py", IN_PYTHON_FAULT, "AssertionError"),
        (Target("fault", "", 8, ("rtcp.c",)), "fault_target.c", IN_C_FAULT, "AddressSanitizer"),
    ],
    ids=["python", "c"],
)
def test_a_fault_is_found(target: Target, file: str, text: str, said: str, tmp_path: Path) -> None:
    require_tool_for(target)
    (tmp_path / file).write_text(text)
    outcome = run(target, build(target, tmp_path / "work", tmp_path), 30, tmp_path / "work")
    assert not outcome.passed
    assert said in outcome.output
