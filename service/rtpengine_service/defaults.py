"""The default file of a service, /etc/default/NAME: variables in the shell's syntax that stand for options.

Only what every shell and systemd read alike is accepted, so that a slip is an error with its line, not another meaning.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from rtpengine import config, config_file
from rtpengine_service import ServiceError

DEFAULT_DIRECTORY = Path("/etc/default")
CONFIG_DIRECTORY = Path("/etc/rtpengine")
MAIN = "ngcp-rtpengine-daemon"

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
_YES_NO = {"yes": True, "1": True, "no": False, "0": False}
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*)")


@dataclass(frozen=True)
class Variable:
    """What a line of the file says; ``line`` counts from 1."""

    value: str
    line: int


@dataclass(frozen=True)
class Service:
    """A daemon as it is to be started: ``name`` is that of its unit and its default file.

    ``forks`` and ``firewall`` are what FORK and FIREWALL say; ``options`` is what the command line gets.
    """

    name: str
    forks: bool
    firewall: bool
    options: tuple[str, ...]
    config: config.Config


def default_file(name: str) -> Path:
    """Where the variables of a service are."""
    return DEFAULT_DIRECTORY / name


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
        name, value = _assignment(line, config_file.place(str(path), number))
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
    if re.search(r"[$`\\;&|<>()]", text):
        raise ServiceError(f"{place}: {name}: a plain value is needed, nothing for a shell to work on")
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        raise ServiceError(f"{place}: {name}: a quote is not closed") from None
    if len(words) > 1 or text[:1].isspace():
        raise ServiceError(f"{place}: {name}: a value with blanks needs quotes, and none before it")
    return name, "".join(words)


def load(name: str) -> Service:
    """What the files of a service say, checked as the daemon will check it. Raise ServiceError."""
    path = default_file(name)
    variables = read(path)
    flags = {flag: _flag(path, flag, variables) for flag in ("FORK", "NO_FALLBACK", "FIREWALL")}
    options = [
        f"--{option}={variables[variable].value}" for variable, option in OPTIONS.items() if variable in variables
    ]
    options += _own_file(name, variables)
    if flags["NO_FALLBACK"]:
        options.append("--no-fallback")
    try:
        values = config.load(options)
    except config.OptionError as error:
        raise ServiceError(_explain(path, variables, error)) from None
    except config.ConfigError as error:
        raise ServiceError(str(error)) from None
    return Service(
        name=name,
        forks=flags["FORK"] is not False,
        firewall=flags["FIREWALL"] is not False,
        options=tuple(options),
        config=values,
    )


def is_wanted(name: str) -> bool:
    """Whether the service is to run at all; the rest of its files may be wrong. Raise ServiceError."""
    path = default_file(name)
    if not path.exists():
        return True
    variables = read(path)
    return "RUN_MEDIAPROXY" in variables and variables["RUN_MEDIAPROXY"].value == "yes"


def _flag(path: Path, name: str, variables: dict[str, Variable]) -> bool | None:
    if name not in variables:
        return None
    variable = variables[name]
    if variable.value not in _YES_NO:
        raise ServiceError(f"{config_file.place(str(path), variable.line)}: {name}: is yes or no")
    return _YES_NO[variable.value]


def _own_file(name: str, variables: dict[str, Variable]) -> list[str]:
    """An instance never reads what is meant for the main service, unless it says so."""
    if name == MAIN or {"CONFIG_FILE", "CONFIG_SECTION"} & set(variables):
        return []
    own = CONFIG_DIRECTORY / f"{name.partition('@')[2]}.conf"
    return [f"--config-file={own if own.exists() else 'none'}"]


def _explain(path: Path, variables: dict[str, Variable], error: config.OptionError) -> str:
    """Name the variable of an option, and its line; or the variable that is missing."""
    variable = next((name for name, option in OPTIONS.items() if option == error.option), None)
    if variable is None:
        return str(error)
    if variable in variables:
        return f"{config_file.place(str(path), variables[variable].line)}: {variable}: {error.reason}"
    return f"{path}: {variable} (or {error.option} in the configuration file): {error.reason}"


def overridden(service: Service) -> list[str]:
    """A line for each key of the configuration file that has no effect, since a variable says otherwise."""
    path = service.config.config_file
    if path is None or not os.path.exists(path):
        return []
    by_option = {option: name for name, option in OPTIONS.items()}
    given = {option.partition("=")[0].removeprefix("--"): option.partition("=")[2] for option in service.options}
    return [
        f"{config_file.place(path, setting.line)}: {setting.key} has no effect, "
        f"since {by_option[setting.key]} is set in {default_file(service.name)}"
        for setting in config_file.read(path, service.config.config_section)
        if setting.key in by_option and setting.key in given and given[setting.key] != setting.value
    ]
