"""The suite's own rules: with CI=true, whatever is skipped fails; and no two files have one name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent.parent / "conftest.py"
IN_A_TEST = "import pytest\ndef test_it(): pytest.skip({!r})\n"
OF_A_MODULE = "import pytest\npytest.skip({!r}, allow_module_level=True)\n"
BY_A_MARK = "import pytest\n@pytest.mark.skipif(True, reason={!r})\ndef test_it(): pass\n"
EXPECTED_FAILURE = "import pytest\n@pytest.mark.xfail(reason={!r})\ndef test_it(): assert False\n"


@pytest.mark.parametrize("body", [IN_A_TEST, OF_A_MODULE, BY_A_MARK])
@pytest.mark.parametrize(
    ("ci", "reason", "passes"),
    [("true", "needs ffmpeg", False), ("true", "needs hardware: a GPU", True), ("", "needs ffmpeg", True)],
)
def test_a_skip_fails_in_ci_only(body: str, ci: str, reason: str, passes: bool, tmp_path: Path) -> None:
    result = _run(tmp_path, body.format(reason), ci)
    assert (result.returncode in (0, 5)) == passes, result.stdout
    assert passes or f"not to be skipped with CI=true: Skipped: {reason}" in result.stdout


def test_no_two_files_have_one_name() -> None:
    """Test directories are no packages, so pytest cannot collect both in one run."""
    names = [path.name for path in CONFTEST.parent.rglob("test_*.py")]
    assert {name for name in names if names.count(name) > 1} == set()


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    assert _run(tmp_path, EXPECTED_FAILURE.format("known"), "true").returncode == 0


def _run(directory: Path, body: str, ci: str) -> subprocess.CompletedProcess[str]:
    """Run one test file under this suite's conftest."""
    (directory / "conftest.py").write_text(CONFTEST.read_text())
    (directory / "test_it.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, str(directory)]
    environment = {**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
