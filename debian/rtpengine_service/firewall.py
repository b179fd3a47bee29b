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
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rtpengine_service import ServiceError

if TYPE_CHECKING:
    from rtpengine.config import Config

CHAIN = "mediaproxy"
# Marks the jump as ours; services have other names.
JUMP = "ngcp-rtpengine"
TOOLS = ("iptables", "ip6tables")
# Not there where the kernel has IPv6 switched off, and then ip6tables may be of no use.
IPV6 = Path("/proc/net/if_inet6")

_SAYS_NOTHING = ("-m", "comment", "--comment")


def rules(name: str, values: Config) -> dict[str, list[str]]:
    """By tool the rule that a service needs, as arguments behind the name of the chain."""
    addresses = {"iptables": values.ip} | ({"ip6tables": values.ip6} if values.ip6 else {})
    ports = f"{values.port_min}:{values.port_max}"
    match = ["-p", "udp", "-m", "udp", "--dport", ports, *_SAYS_NOTHING, name]
    target = ["-j", "MEDIAPROXY", "--id", str(values.table)]
    return {tool: ["-d", address, *match, *target] for tool, address in addresses.items()}


def add(name: str, values: Config) -> None:
    """Make the rules of a service, and remove others that it has; what is right stays, and packets go on through it.

    Raise ServiceError, with none made.
    """
    wanted = rules(name, values)
    try:
        for tool in TOOLS:
            if tool in wanted:
                _add(tool, name, wanted[tool])
            elif _is_usable(tool):
                _remove(tool, name)
    except ServiceError:
        with suppress(ServiceError):
            remove(name)
        raise


def _add(tool: str, name: str, rule: list[str]) -> None:
    if not _exists(tool):
        _call(tool, "-N", CHAIN)
    for words in list(_commented(tool, name)):
        if [word.removesuffix("/32").removesuffix("/128") for word in words] != ["-A", CHAIN, *rule]:
            _call(tool, "-D", *words[1:])
    if not _succeeds(tool, "-C", CHAIN, *rule):
        _call(tool, "-A", CHAIN, *rule)
    if not any(words[-2:] == ["-j", CHAIN] for words in _listed(tool)):
        _call(tool, "-I", "INPUT", "1", "-p", "udp", *_SAYS_NOTHING, JUMP, "-j", CHAIN)


def remove(name: str) -> None:
    """Remove the rules of a service, and the chain with the jump that we made if nothing is left in it.

    Raise ServiceError, with removed what could be.
    """
    failure = None
    for tool in filter(_is_usable, TOOLS):
        try:
            _remove(tool, name)
        except ServiceError as error:
            failure = error
    if failure is not None:
        raise failure


def _remove(tool: str, name: str) -> None:
    if not _exists(tool):
        return
    for words in list(_commented(tool, name)):
        _call(tool, "-D", *words[1:])
    if any(words[:2] == ["-A", CHAIN] for words in _listed(tool)):
        return
    for words in list(_commented(tool, JUMP)):
        _call(tool, "-D", *words[1:])
    if not any(words[-2:] == ["-j", CHAIN] for words in _listed(tool)):
        _call(tool, "-X", CHAIN)


def _is_usable(tool: str) -> bool:
    """Whether there can be rules of ours that this tool makes."""
    return shutil.which(tool) is not None and (tool != "ip6tables" or IPV6.exists())


def _exists(tool: str) -> bool:
    return ["-N", CHAIN] in _listed(tool)


def _listed(tool: str) -> list[list[str]]:
    """All chains and rules that have to do with ours, as words."""
    return [shlex.split(line) for line in _call(tool, "-S").splitlines() if CHAIN in line]


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
        raise ServiceError(f"{tool} {shlex.join(arguments)}: {_reason(done.stderr, done.returncode)}")
    return done.stdout


def _reason(said: str, status: int) -> str:
    """What the tool says first; warnings go before it, advice behind it."""
    reason = next((line for line in said.splitlines() if line and not line.startswith("#")), f"status {status}")
    missing = 'unknown option "--id"' in reason
    return "there is no target MEDIAPROXY (package ngcp-rtpengine-iptables)" if missing else reason
