"""The rules that hand a service's packets to its kernel table, made with whatever iptables is in use.

They are in a chain of their own, ``mediaproxy``, and carry the name of their service as a comment: that is how they are
found again. A jump to the chain is put at the top of INPUT if the administrator has placed none. No other rule and no
chain's policy is ever touched.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtpengine_service import ServiceError

if TYPE_CHECKING:
    from rtpengine.config import Config

CHAIN = "mediaproxy"
# Marks the jump as ours; services have other names.
JUMP = "ngcp-rtpengine"
TOOLS = ("iptables", "ip6tables")

_SAYS_NOTHING = ("-m", "comment", "--comment")


def rules(name: str, values: Config) -> dict[str, list[str]]:
    """By tool the rule that a service needs, as arguments behind the name of the chain."""
    addresses = {"iptables": values.ip} | ({"ip6tables": values.ip6} if values.ip6 else {})
    ports = f"{values.port_min}:{values.port_max}"
    match = ["-p", "udp", "-m", "udp", "--dport", ports, *_SAYS_NOTHING, name]
    target = ["-j", "MEDIAPROXY", "--id", str(values.table)]
    return {tool: ["-d", address, *match, *target] for tool, address in addresses.items()}


def add(name: str, values: Config) -> None:
    """Make the rules of a service, instead of those it may have. Raise ServiceError, with none made."""
    remove(name, keep_chain=True)
    try:
        for tool, rule in rules(name, values).items():
            if not _exists(tool):
                _call(tool, "-N", CHAIN)
            if not _succeeds(tool, "-C", CHAIN, *rule):
                _call(tool, "-A", CHAIN, *rule)
            if not any(words[-2:] == ["-j", CHAIN] for words in _listed(tool)):
                _call(tool, "-I", "INPUT", "1", "-p", "udp", *_SAYS_NOTHING, JUMP, "-j", CHAIN)
    except ServiceError:
        remove(name)
        raise


def remove(name: str, *, keep_chain: bool = False) -> None:
    """Remove the rules of a service, and the chain with the jump that we made if nothing is left in it."""
    for tool in TOOLS:
        if shutil.which(tool) is None or not _exists(tool):
            continue
        for words in list(_commented(tool, name)):
            _call(tool, "-D", *words[1:])
        if keep_chain or any(words[:2] == ["-A", CHAIN] for words in _listed(tool)):
            continue
        for words in list(_commented(tool, JUMP)):
            _call(tool, "-D", *words[1:])
        if not any(words[-2:] == ["-j", CHAIN] for words in _listed(tool)):
            _call(tool, "-X", CHAIN)


def _exists(tool: str) -> bool:
    return ["-N", CHAIN] in _listed(tool)


def _listed(tool: str) -> list[list[str]]:
    return [shlex.split(line) for line in _call(tool, "-S").splitlines()]


def _commented(tool: str, comment: str) -> Iterator[list[str]]:
    """Rules that end at our chain or target, and carry a comment."""
    for words in _listed(tool):
        ours = words[-2:] == ["-j", CHAIN] or words[:2] == ["-A", CHAIN]
        if ours and any(words[i : i + 2] == ["--comment", comment] for i in range(len(words))):
            yield words


def _succeeds(tool: str, *arguments: str) -> bool:
    return subprocess.run([tool, "-w", *arguments], capture_output=True).returncode == 0


def _call(tool: str, *arguments: str) -> str:
    try:
        done = subprocess.run([tool, "-w", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise ServiceError(f"{tool} is not installed: no rule hands packets to the kernel module") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ServiceError(f"{tool} {shlex.join(arguments)}: {said[-1]}")
    return done.stdout
