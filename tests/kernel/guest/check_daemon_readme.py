"""README's section on kernel forwarding, command by command, and what happens if it is followed.

The tree was built for this kernel before, so that make finds nothing but to install: compiling takes minutes here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import MODULE
from daemonlab import PROC, ROOT, Call, Lab, call, control, forwarded, passes, read, wait_for
from network import PATIENCE_S, run
from systemlab.daemon import PROGRAM
from systemlab.ngclient import NgClient

pytest_plugins = ["daemonlab"]

TREE = Path(os.environ.get("KERNEL_TEST_TREE", ""))
pytestmark = pytest.mark.skipif(not TREE.name, reason="no tree that has been built for this kernel")
NEEDED = ("x_tables", "nft_compat", "iptable_filter", "ip6table_filter", "veth")
SECTION = re.search(r"^## Kernel forwarding\n.*?(?=^## )", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
assert SECTION
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", SECTION[0], re.MULTILINE | re.DOTALL)
INSTALL, START, LOOK, SEVERAL, END, UNLOAD = (text for kind, text in BLOCKS if kind == "sh")
(SHOWN,) = (text for kind, text in BLOCKS if not kind)


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Iterator[Lab]:
    """A machine of its own for the module: not loaded, and its folder in /lib/modules can be written to."""
    release = os.uname().release
    settings = Path("/run/kernel-lab/settings").read_text()
    (kdir,) = re.findall(r"^KDIR=(.*)$", settings, re.MULTILINE)
    modules = Path("/lib/modules") / release
    own = Path("/run/modules")
    needed = run("modprobe", "-a", "--show-depends", *NEEDED, check=False)
    for path in {Path(line.split()[1]) for line in needed.splitlines() if line.startswith("insmod")}:
        target = own / path.relative_to(modules)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for path in (*modules.glob("modules.builtin*"), modules / "modules.order"):
        shutil.copy(path, own)
    (own / "build").symlink_to(f"{kdir}/usr/src/linux-headers-{release}")
    run("mount", "--bind", str(own), str(modules))
    yield lab
    run("umount", str(modules))


class Shell:
    """Runs blocks of README on the relay's host, in the tree, as a root whose rtpengine is this one."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.env = {name: value for name, value in os.environ.items() if name != "XTABLES_LIBDIR"}
        self.env["PATH"] = f"{PROGRAM.parent}:{self.env['PATH']}"

    def run(self, block: str) -> str:
        """What it prints; all of it has to succeed."""
        command = ["bash", "-e", "-c", block]
        with self.lab.relay.inside():
            done = subprocess.run(
                command, cwd=TREE, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
            )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def call(self, port: int, families: tuple[int, int] = (4, 4)) -> Call:
        """A call through the daemon whose ng port this is, which has found its parties."""
        daemon: Any = SimpleNamespace(ng=NgClient(self.lab.relay, ("127.0.0.1", port)), lab=self.lab)
        assert daemon.ng.ping(PATIENCE_S)
        made = call(daemon, {}, {}, families)
        made.place()
        self.flow(made)
        return made

    @staticmethod
    def flow(made: Call) -> None:
        for direction in made.directions:
            passes(*direction)


@pytest.fixture
def shell(machine: Lab) -> Iterator[Shell]:
    """There the module is not loaded yet."""
    assert wait_for(lambda: run("rmmod", "xt_MEDIAPROXY", check=False) == "")
    settings = Path("/etc/rtpengine")
    if settings.exists():  # of Debian's rtpengine, which is what benchmarks compare with
        run("mount", "-t", "tmpfs", "none", str(settings))
    yield Shell(machine)
    if settings.exists():
        run("umount", str(settings))
    for pidfile in Path("/run").glob("rtpengine*.pid"):
        run("bash", "-c", f"kill $(cat {pidfile}); tail --pid=$(cat {pidfile}) -f /dev/null", check=False)
    for number in read(machine.relay, "list").split() if PROC.exists() else []:
        control(machine.relay, f"del {number}\n")
    wait_for(lambda: not PROC.exists() or run("rmmod", "xt_MEDIAPROXY", check=False) == "")
    run("insmod", str(MODULE))


def shape(text: str) -> list[str]:
    """The words of each line, without numbers and addresses."""
    lines = [re.sub(r"inet[46] \S+", "ADDRESS", line) for line in text.splitlines()]
    return [" ".join(re.sub(r"\d+", "N", line).split()) for line in lines]


def test_every_command(shell: Shell) -> None:
    relay = shell.lab.relay
    shell.run(INSTALL)
    assert not PROC.exists()
    start, _, rules_and_daemon = START.partition("modprobe xt_MEDIAPROXY\n")
    assert start and "MEDIAPROXY --id 0" in rules_and_daemon
    shell.run(START)
    made = shell.call(2223, (4, 6))
    assert made.goes_down()
    shell.flow(made)
    looks, expected = shell.run(LOOK), shape(SHOWN)
    assert f"Control PID: {Path('/run/rtpengine.pid').read_text()}" in looks
    assert expected[-1] == "..."
    assert shape(looks)[: len(expected) - 1] == expected[:-1]
    assert [target.packets for target in forwarded(relay).values()] == [5, 5]
    assert made.statuses == [("in kernel", "")] * 2

    stop, _, delete = END.rpartition("echo")
    shell.run(stop)
    shell.flow(made)
    shell.run(f"echo{delete}")
    assert read(relay, "list") == ""
    shell.run(UNLOAD)
    assert not PROC.exists()

    # Without modprobe: the first of the rules loads the module.
    shell.run(SEVERAL)
    calls = [shell.call(port) for port in (2223, 2224)]
    for number, each in enumerate(calls):
        assert each.goes_down(number)
        shell.flow(each)
        targets = forwarded(relay, number)
        assert [targets[local].packets for local in each.locals] == [5, 5]
    for number in range(2):
        shell.run(END.replace("rtpengine.pid", f"rtpengine-{number}.pid").replace("del 0", f"del {number}"))
    shell.run(SEVERAL.partition("\n\n")[0].replace("-I INPUT", "-D INPUT"))
    for each in (made, *calls):
        each.close()


@pytest.mark.parametrize("command", ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"])
def test_a_rule_loads_the_module(shell: Shell, command: str) -> None:
    release = os.uname().release
    shell.run(f"install -D -m 644 {MODULE} /lib/modules/{release}/updates/xt_MEDIAPROXY.ko && depmod -a {release}")
    assert not PROC.exists()
    plugin = f"XTABLES_LIBDIR={os.environ['XTABLES_LIBDIR']}"
    shell.run(f"{plugin} {command} -I INPUT -p udp -j MEDIAPROXY --id 7")
    assert PROC.exists()
    shell.run(f"{plugin} {command} -D INPUT -p udp -j MEDIAPROXY --id 7")
