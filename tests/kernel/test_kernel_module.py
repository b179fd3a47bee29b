"""The module, built for Debian's kernels and tested in the lab, alone and with the daemon: an emulated machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAB = HERE / "lab"
GUEST = HERE / "guest"

# Those that the tests boot, and other flavours that Debian 12 has, which only have to build.
BOOTED = ["6.1", "6.12"]
FLAVOURS = ["6.1-rt", "6.1-cloud", "6.12-rt", "6.12-cloud"]

# Where a kernel must be found that is not in the cache yet; and a guest on a busy machine.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="session")
def kernels() -> dict[str, str]:
    """Alias: the folder to build modules against. Fetched when missing, which only root can."""
    if os.geteuid() != 0:
        pytest.skip("the emulated machine needs root, to see all files and to fetch Debian's kernels")
    done = subprocess.run([LAB / "setup", *BOOTED, *FLAVOURS], capture_output=True, text=True)
    if done.returncode and shutil.which("qemu-system-x86_64") is None:
        pytest.skip(f"there is no qemu-system-x86_64, and it cannot be installed: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return {alias: build for alias, _, build in map(str.split, done.stdout.splitlines())}


def build_module(kernel: str, into: Path) -> str:
    """Build in a copy, so that several kernels' modules do not meet; return what make said."""
    into.mkdir()
    for source in (ROOT / "kernel-module").iterdir():
        if source.suffix in (".c", ".h") or source.name == "Kbuild":
            shutil.copy(source, into)
    make = ["make", "-s", "-C", kernel, f"M={into}", "W=1", "C=2", "CF=-D__CHECK_ENDIAN__", "modules"]
    done = subprocess.run(make, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def modules(kernels: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Alias: the module, and what building it said."""
    base = tmp_path_factory.mktemp("modules")
    made = {}
    for alias, kernel in kernels.items():
        said = build_module(kernel, base / alias)
        made[alias] = (base / alias / "xt_MEDIAPROXY.ko", said)
    return made


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that iptables finds the plugin in."""
    folder = tmp_path_factory.mktemp("plugin")
    subprocess.run(["make", "-s", "-C", ROOT / "iptables-extension", "libxt_MEDIAPROXY.so"], check=True)
    shutil.copy(ROOT / "iptables-extension" / "libxt_MEDIAPROXY.so", folder)
    return folder


@pytest.mark.parametrize("alias", BOOTED + FLAVOURS)
def test_builds_without_a_warning(modules: dict[str, tuple[Path, str]], alias: str) -> None:
    said = [line for line in modules[alias][1].splitlines() if not line.startswith("Skipping BTF")]
    assert said == []


@pytest.fixture(scope="session")
def tree(kernels: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What README installs from, built for 6.1, as a user would have it."""
    folder = tmp_path_factory.mktemp("tree")
    for part in ("kernel-module", "iptables-extension"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.o", "*.ko", "*.cmd", "*.mod*"))
    subprocess.run(["make", "-s", "-C", folder / "kernel-module", f"KSRC={kernels['6.1']}"], check=True)
    subprocess.run(["make", "-s", "-C", folder / "iptables-extension"], check=True)
    return folder


@pytest.fixture
def run_there(modules: dict[str, tuple[Path, str]], plugin: Path, tree: Path, tmp_path: Path) -> Callable[..., None]:
    """Run guest/check_*.py in a guest with that kernel; the lab fails, too, if the kernel complained."""
    stock = subprocess.check_output(["pkg-config", "--variable=xtlibdir", "xtables"], text=True).strip()

    def run(alias: str, processors: int, *which: str) -> None:
        # Coverage stays here: it makes the guest slower still, and what is measured there goes away with it.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "COVERAGE"))} | {
            "KERNEL_TEST_MODULE": str(modules[alias][0]),
            "KERNEL_TEST_TREE": str(tree),
            "XTABLES_LIBDIR": f"{plugin}:{stock}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        pytest_there = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-q", "--tb=short"]
        options = ["-p", "no:cacheprovider", "-o", "python_files=check_*.py", "-o", "pythonpath=.", "--timeout=900"]
        lab = [LAB / "run", "--kernel", alias, "--smp", str(processors), "--timeout", "1500"]
        command = [*lab, "--log", tmp_path / "dmesg", "--", *pytest_there, *options, *which]
        done = subprocess.run(command, cwd=GUEST, env=env, capture_output=True, text=True)
        print(done.stderr)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"

    return run


# 6.12 gets one processor: with two it can fall over its own code patching here, see lab/README.md.
@pytest.mark.parametrize(("alias", "processors"), [("6.1", 2), ("6.12", 1)])
def test_the_module(run_there: Callable[..., None], alias: str, processors: int) -> None:
    # these are for the debug kernel, see there
    others = ["--ignore=check_faults.py", "--ignore=check_without_ipv6.py"]
    run_there(alias, processors, "--ignore-glob=check_daemon*", *others)


@pytest.mark.parametrize(("alias", "processors"), [("6.1", 2)])
def test_the_daemon(run_there: Callable[..., None], alias: str, processors: int) -> None:
    run_there(alias, processors, *sorted(path.name for path in GUEST.glob("check_daemon*.py")))
