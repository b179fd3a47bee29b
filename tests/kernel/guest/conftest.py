"""For tests that run in the lab's guest: the module is loaded once, the network made once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import abi
import network
import pytest

pytest.register_assert_rewrite("daemonlab", "systemlab")
MODULE = Path(os.environ.get("KERNEL_TEST_MODULE", "")).resolve()


@pytest.fixture(scope="session", autouse=True)
def _hosts() -> None:
    subprocess.run(["modprobe", "-a", "x_tables", "veth", "nft_compat", "ip_tables", "ip6_tables"], check=True)
    subprocess.run(["modprobe", "-a", "aesni_intel", "sha1_ssse3"], check=False)
    subprocess.run(["insmod", str(MODULE)], check=True)
    # Whoever reads a socket may have to wait for an emulated processor.
    Path("/proc/sys/net/core/rmem_default").write_text(str(4 << 20))
    network.build()


@pytest.fixture
def rule(_hosts: None) -> Iterator[None]:
    """All UDP that comes in goes to table 0."""
    with rules("iptables-nft", "ip6tables-nft"):
        yield


@pytest.fixture
def table(rule: None) -> Iterator[abi.Table]:
    with abi.Table(0) as made:
        yield made


class rules:
    """Rules of one front end, for both families, to a table; ``match`` narrows down which packets."""

    def __init__(self, *commands: str, number: int = 0, match: Sequence[str] = ()) -> None:
        self.commands = commands
        self.rule = ["INPUT", *match, "-p", "udp", "-j", "MEDIAPROXY", "--id", str(number)]

    def __enter__(self) -> None:
        for command in self.commands:
            network.run(command, "-w", "-I", *self.rule)

    def __exit__(self, *args: object) -> None:
        for command in self.commands:
            network.run(command, "-w", "-D", *self.rule)
