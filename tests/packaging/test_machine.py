"""A Debian 12 machine: the packages installed, tried, booted, upgraded and purged, in this order."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pytest
import trees
from trees import LAB, NEXT, Tree, sources

# On a busy machine the emulated one takes its time.
pytestmark = pytest.mark.timeout(3600)

GUEST = Path(__file__).with_name("guest")
JOURNEY = re.findall(r"^@step\ndef (\w+)", (GUEST / "journey.py").read_text(), re.MULTILINE)
NAMES = ("ngcp-rtpengine", "ngcp-rtpengine-daemon", "ngcp-rtpengine-iptables", "ngcp-rtpengine-kernel-dkms")

NO_DEADLINE = """
from hypothesis import HealthCheck, settings
settings.register_profile("there", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("there")
"""

# What installing and removing any package changes.
_CHANGING = (
    *(
        "/var/cache/modass",
        "/var/cache/apt",
        "/var/cache/debconf",
        "/var/cache/man",
        "/var/cache/ldconfig",
        "/var/lib/apt",
        "/var/lib/dpkg",
    ),
    *("/var/log", "/proc", "/sys", "/dev", "/run", "/tmp", "/opt", "/packages", "/next"),
)
_LIST = f"find / {' '.join(f'-path {path} -prune -o' for path in _CHANGING)} -printf '%y %p\\n' | sort"


class Machine(NamedTuple):
    """The tree with everything installed, the version of its kernel, and the files that were there before."""

    tree: Tree
    kernel: str
    before: list[str]


@pytest.fixture(scope="module")
def kernel() -> Path:
    """A kernel of the lab with its headers, in the folder that it was unpacked to."""
    done = subprocess.run([LAB / "setup", "6.1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split()[2]).parents[3]


@pytest.fixture(scope="module")
def machine(work: Path, kernel: Path, packages: dict[str, Path], next_packages: dict[str, Path]) -> Machine:
    tree = Tree.on(trees.base(trees.MACHINE), work / "machine")
    version = tree.add_kernel(kernel)
    for folder, files in (("/packages", packages), ("/next", next_packages)):
        tree.above(folder).mkdir()
        for path in files.values():
            shutil.copy(path, tree.above(folder))
    before = tree.shell(f"apt-get -q update >/dev/null; {_LIST}").splitlines()
    wanted = " ".join(f"/packages/{packages[name].name}" for name in NAMES)
    tree.shell(f"apt-get -q -y install --no-install-recommends {wanted}")
    return Machine(tree, version, before)


def test_debian_alone_satisfies_the_dependencies(machine: Machine, packages: dict[str, Path]) -> None:
    tree, _, _ = machine
    version = packages["ngcp-rtpengine"].name.split("_")[1]
    assert tree.run("rtpengine", "--version").stdout.startswith(f"rtpengine {version} (Python 3.11")
    installed = tree.run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n").stdout
    for library in ("python3-cffi-backend 1.15", "python3-openssl 23.0", "python3-cryptography 38.0"):
        assert f"\n{library}" in installed
    assert "python3-pip" not in installed


def test_dkms_has_built_the_module(machine: Machine, packages: dict[str, Path]) -> None:
    tree, kernel, _ = machine
    version = packages["ngcp-rtpengine"].name.split("_")[1]
    assert f"ngcp-rtpengine/{version}, {kernel}, x86_64: installed" in tree.run("dkms", "status").stdout
    module = f"/lib/modules/{kernel}/updates/dkms/xt_MEDIAPROXY.ko"
    assert tree.run("modinfo", "-F", "version", module).stdout.strip() == version
    assert tree.run("modinfo", "-k", kernel, "-F", "filename", "xt_MEDIAPROXY").stdout.strip() == module


def test_the_configuration_is_the_daemons_alone(machine: Machine) -> None:
    tree, _, _ = machine
    said = tree.run("stat", "-c", "%a %U %G", "/etc/rtpengine/rtpengine.conf").stdout
    assert said == "640 root rtpengine\n"
    assert tree.run("runuser", "-u", "rtpengine", "--", "cat", "/etc/rtpengine/rtpengine.conf").stdout


def copy_of(distributions: tuple[str, ...], into: Path) -> None:
    """Copy what our virtual environment has of a test tool, without what it depends on."""
    for name in distributions:
        for file in distribution(name).files or ():
            if file.suffix != ".pyc" and ".." not in file.parts:
                (into / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), into / file)


def test_the_unit_tests_pass_on_debians_libraries(machine: Machine) -> None:
    """With the installed package. Left out is what tests our tools, with libraries that only these need."""
    tree = machine.tree
    sources(tree.above("/src"))
    copy_of(("hypothesis", "sortedcontainers", "aioice", "dnspython", "ifaddr"), tree.above("/test-tools"))
    # Debian's pytest is too old for the rules of the whole suite: one of them is needed, and one test starts them anew.
    tree.write("/test-tools/no_deadline.py", NO_DEADLINE)
    options = "-p no:cacheprovider -p no_deadline -c /dev/null --rootdir=/src --confcutdir=/src/tests/unit -q"
    options += " --deselect=tests/unit/test_snapshot.py::test_every_call_of_the_tables_comes_back"
    ignored = " ".join(f"--ignore=tests/unit/test_{name}.py" for name in ("ci_rules", "demo", "secure_line"))
    path = "PYTHONPATH=/usr/lib/rtpengine:/test-tools"
    said = tree.shell(f"cd /src; {path} python3 -B -m pytest {options} {ignored} tests/unit; rm -rf /test-tools")
    assert int(re.search(r"(\d+) passed", said)[1]) > 1000  # type: ignore[index]


def test_the_module_is_made_by_hand_as_the_document_says(machine: Machine) -> None:
    tree, kernel, _ = machine
    said = tree.shell(f"""
        cp -r /src/kernel-module /by-hand
        make -C /by-hand KSRC=/lib/modules/{kernel}/build
        modinfo -F name /by-hand/xt_MEDIAPROXY.ko
        rm -rf /by-hand /src
    """)
    assert said.splitlines()[-1] == "xt_MEDIAPROXY"


def test_module_assistant_makes_a_package_for_the_kernel(machine: Machine, packages: dict[str, Path]) -> None:
    tree, kernel, _ = machine
    version = packages["ngcp-rtpengine"].name.split("_")[1]
    made = f"ngcp-rtpengine-kernel-modules-{kernel}_{version}_amd64.deb"
    said = tree.shell(f"""
        dpkg -i /packages/ngcp-rtpengine-kernel-source_*.deb >/dev/null
        module-assistant --text-mode --non-inter --kvers-list {kernel} \\
            --kernel-dir /usr/src/linux-headers-{kernel} build ngcp-rtpengine-kernel-source >&2
        dpkg-deb -c /usr/src/{made}
        dpkg-deb -f /usr/src/{made} Provides Depends
        rm -rf /usr/src/{made} /usr/src/modules /var/cache/modass
        dpkg --purge ngcp-rtpengine-kernel-source >/dev/null
    """)
    assert f" ./lib/modules/{kernel}/extra/xt_MEDIAPROXY.ko\n" in said
    assert f"Provides: ngcp-rtpengine-kernel\nDepends: linux-image-{kernel} | linux-modules-{kernel}\n" in said


@pytest.fixture(scope="module")
def journey(machine: Machine) -> tuple[list[str], str]:
    """The steps that have passed in the booted machine, and everything that was said there."""
    tree, _, _ = machine
    shutil.copytree(GUEST, tree.above("/guest"))
    options = ["--kernel", "6.1", "--smp", "2", "--mem", "1536", "--timeout", "3000", "--", "python3", "-B"]
    done = tree.boot(LAB, *options, "/guest/journey.py", NEXT)
    shutil.rmtree(tree.above("/guest"))
    said = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    passed = re.findall(r"^passed: (\w+)$", done.stdout, re.MULTILINE)
    if passed == JOURNEY and done.returncode:
        passed = []  # the kernel complained
    return passed, said


@pytest.mark.parametrize("step", JOURNEY)
def test_booted(journey: tuple[list[str], str], step: str) -> None:
    passed, said = journey
    assert step in passed, said if step == JOURNEY[min(len(passed), len(JOURNEY) - 1)] else "not reached"


def test_dkms_changes_over_at_an_upgrade(machine: Machine) -> None:
    tree, kernel, _ = machine
    tree.shell("dpkg -i /next/ngcp-rtpengine-{daemon,iptables,kernel-dkms}_*.deb /next/ngcp-rtpengine_*.deb")
    assert tree.run("dkms", "status").stdout.splitlines() == [f"ngcp-rtpengine/{NEXT}, {kernel}, x86_64: installed"]
    assert tree.run("rtpengine", "--version").stdout.startswith(f"rtpengine {NEXT} ")


def test_purge_leaves_nothing(machine: Machine) -> None:
    tree, _, before = machine
    after = tree.shell(f"apt-get -q -y purge --auto-remove 'ngcp-rtpengine*' >/dev/null; {_LIST}").splitlines()
    ours = [line for line in set(after) - set(before) if re.search("rtpengine|mediaproxy", line, re.I)]
    assert ours == []
    assert sorted(line for line in set(before) - set(after) if not line.endswith("~")) == []
    assert "rtpengine" not in tree.run("cat", "/etc/passwd", "/etc/group", "/etc/shadow").stdout
