"""The iptables extension: each line of its table of rules, in both families, with the tools of this machine.

No kernel module is needed: iptables-translate reads rules as iptables does, and rule.c prints what iptables-save would.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from rtpengine import __version__

ROOT = Path(__file__).parent.parent.parent
EXTENSION = ROOT / "iptables-extension"
TARGET = "-j MEDIAPROXY"
PARAMETER_PROBLEM = 2

Run = Callable[..., subprocess.CompletedProcess[str]]


class Rule(NamedTuple):
    """A line of libxt_MEDIAPROXY.t: ``saved`` is what iptables-save prints, ``valid`` false where it is refused."""

    text: str
    saved: str
    valid: bool


def rules() -> list[Rule]:
    """The lines of the table, with ``=`` resolved; those that begin with ``:`` and ``*`` name chains and table."""
    found = []
    for line in (EXTENSION / "libxt_MEDIAPROXY.t").read_text().splitlines():
        if line[0] not in ":*#":
            text, saved, verdict = line.split(";")
            found.append(Rule(text, text if saved == "=" else saved, {"OK": True, "FAIL": False}[verdict]))
    return found


RULES = rules()
FAMILIES = {"4": "iptables", "6": "ip6tables"}
over_rules = pytest.mark.parametrize("rule", RULES, ids=[rule.text for rule in RULES])
over_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the extension, freshly compiled without a warning, the others of the system, and rule.c."""
    directory = tmp_path_factory.mktemp("xtables")
    sources = directory / "rtpengine"
    for part in ("iptables-extension", "kernel-module", "daemon/rtpengine/__init__.py"):
        copy = shutil.copy2 if part.endswith(".py") else shutil.copytree
        (sources / part).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / part, sources / part)
    make = ["make", "-s", "-B", "-C", sources / "iptables-extension"]
    subprocess.run([*make, "CFLAGS=-O2 -Werror"], check=True, timeout=60)
    asked = ["pkg-config", "--variable=xtlibdir", "xtables"]
    system = Path(subprocess.run(asked, check=True, text=True, stdout=subprocess.PIPE).stdout.strip())
    for library in system.glob("*.so"):
        (directory / library.name).symlink_to(library)
    name = "libxt_MEDIAPROXY.so"
    (directory / name).unlink(missing_ok=True)
    shutil.copy(sources / "iptables-extension" / name, directory)
    shutil.copy(sources / "iptables-extension" / "libxt_MEDIAPROXY.8", directory)
    source = Path(__file__).with_name("rule.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", directory / "rule", source, "-lxtables"], check=True)
    return directory


@pytest.fixture
def run(built: Path) -> Run:
    """Run a program with the compiled extension; :attr:`returncode` is not checked."""
    # Where root's programs are is not in everybody's PATH.
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        found = shutil.which(command[0], path=path)
        assert found, f"{command[0]} is not installed"
        environment = {"XTABLES_LIBDIR": str(built), "PATH": path}
        return subprocess.run([found, *command[1:]], env=environment, capture_output=True, text=True, timeout=20)

    return run


def options(text: str) -> list[str]:
    """What a rule says behind ``-j MEDIAPROXY``."""
    return shlex.split(text.partition(TARGET)[2])


@over_rules
@over_families
def test_a_rule_is_read_or_refused(rule: Rule, family: str, run: Run) -> None:
    translated = run(f"{FAMILIES[family]}-translate", "-A", "INPUT", *shlex.split(rule.text))
    if rule.valid:
        # nft has no words for it: the rule comes back as a comment.
        assert (translated.returncode, translated.stdout.strip()) == (0, f"nft # -A INPUT {rule.text}")
    else:
        assert (translated.returncode, translated.stdout) == (PARAMETER_PROBLEM, "")
        assert translated.stderr


@over_rules
@over_families
def test_a_rule_is_saved_and_listed(rule: Rule, family: str, built: Path, run: Run) -> None:
    done = run(built / "rule", family, *options(rule.text))
    assert (done.returncode == 0) is rule.valid
    if rule.valid:
        saved = rule.saved.partition(TARGET)[2]
        number = int(saved.removeprefix(" --id "))
        data = number.to_bytes(4, sys.byteorder).ljust(8, b"\0").hex()
        assert done.stdout.split("\n") == [saved, f" MEDIAPROXY id:{number}", data, ""]


def test_the_table_has_both_kinds() -> None:
    assert {rule.valid for rule in RULES} == {True, False}
    assert len(RULES) >= 12


@pytest.mark.parametrize("tool", ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"])
def test_every_front_end_has_help(tool: str, run: Run) -> None:
    done = run(tool, "-j", "MEDIAPROXY", "-h")
    assert done.returncode == 0
    assert f"MEDIAPROXY target options (version {__version__}):\n    --id number" in done.stdout


def test_make_install(built: Path, tmp_path: Path) -> None:
    sources = built / "rtpengine" / "iptables-extension"
    subprocess.run(["make", "-s", "-C", sources, "install", f"DESTDIR={tmp_path}", "XTLIBDIR=/lib/xt"], check=True)
    installed = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(installed) == {"lib/xt/libxt_MEDIAPROXY.so", "usr/share/man/man8/libxt_MEDIAPROXY.8"}
    assert {path.stat().st_mode & 0o777 for path in installed.values()} == {0o644}
    page = installed["usr/share/man/man8/libxt_MEDIAPROXY.8"].read_text()
    assert page.startswith(f'.TH LIBXT_MEDIAPROXY 8 "" "rtpengine {__version__}"\n')
    assert (EXTENSION / "libxt_MEDIAPROXY.man").read_text() in page
