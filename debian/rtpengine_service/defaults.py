"""The default file of a service, /etc/default/NAME: variables in the shell's syntax that stand for options.

Only what every shell reads alike is accepted, so that a slip is an error with its line, not another meaning. Nothing of
the daemon is imported here: whether a service is wanted at all is asked often.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from rtpengine_service import ServiceError

DEFAULT_DIRECTORY = Path("/etc/default")

# In the order of the file that is shipped.
OPTIONS = {
    "LISTEN_TCP": "listen-tcp",
    "LISTEN_UDP": "listen-udp",
    "LISTEN_NG": "listen-ng",
    "ADDRESS": "ip",
    "ADV_ADDRESS": "advertised-ip",
    "ADDRESS_IPV6": "ip6",
    "ADV_ADDRESS_IPV6": "advertised-ip6",
    "TIMEOUT": "timeout",
    "SILENT_TIMEOUT": "silent-timeout",
    "PIDFILE": "pidfile",
    "TOS": "tos",
    "TABLE": "table",
    "PORT_MIN": "port-min",
    "PORT_MAX": "port-max",
    "REDIS": "redis",
    "REDIS_DB": "redis-db",
    "B2B_URL": "b2b-url",
    "LOG_LEVEL": "log-level",
    "CONFIG_FILE": "config-file",
    "CONFIG_SECTION": "config-section",
}
FLAGS = ("RUN_MEDIAPROXY", "FORK", "NO_FALLBACK", "FIREWALL")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*)")
# Left to right: what a shell takes as it stands, and a comment, which begins behind a blank.
_PLAIN = re.compile(r"""('[^']*'|"[^"$`\\]*")|\s#.*""")


@dataclass(frozen=True)
class Variable:
    """What a line of the file says; ``line`` counts from 1."""

    value: str
    line: int


def default_file(name: str) -> Path:
    """Where the variables of a service are."""
    return DEFAULT_DIRECTORY / name


def place(path: Path, line: int) -> str:
    """How an error says where it is; the daemon says it so, too."""
    return f"{path} line {line}"


def read(path: Path) -> dict[str, Variable]:
    """The variables of a file that are not empty, the last of several; none if there is no file.

    Raise ServiceError with file, line and variable.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ServiceError(f"{path}: {error.strerror}") from None
    variables: dict[str, Variable] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, value = _assignment(line, place(path, number))
        variables[name] = Variable(value, number)
    return {name: variable for name, variable in variables.items() if variable.value}


def _assignment(line: str, place: str) -> tuple[str, str]:
    match = _ASSIGNMENT.fullmatch(line)
    if match is None:
        raise ServiceError(f"{place}: neither VARIABLE=VALUE nor a comment")
    name, text = match.groups()
    if name not in OPTIONS and name not in FLAGS:
        near = get_close_matches(name.upper(), (*OPTIONS, *FLAGS), 1)
        raise ServiceError(f"{place}: {name}: no such variable{f', is it {near[0]}?' if near else ''}")
    if re.search(r"[$`\\;&|<>()]", _PLAIN.sub("", text)):
        raise ServiceError(f"{place}: {name}: a plain value is needed, nothing for a shell to work on")
    try:
        words = shlex.split(_PLAIN.sub(lambda match: match[1] or "", text))
    except ValueError:
        raise ServiceError(f"{place}: {name}: a quote is not closed") from None
    if len(words) > 1 or (words and text[:1].isspace()):
        raise ServiceError(f"{place}: {name}: a value with blanks needs quotes, and none before it")
    return name, "".join(words)


def is_wanted(name: str) -> bool:
    """Whether the service is to run at all. One with a file that is wrong is: it tells what is wrong when it starts."""
    path = default_file(name)
    if not path.exists():
        return True
    try:
        variables = read(path)
    except ServiceError:
        return True
    return "RUN_MEDIAPROXY" in variables and variables["RUN_MEDIAPROXY"].value == "yes"
