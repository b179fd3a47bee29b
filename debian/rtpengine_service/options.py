"""What a service is started with: its default file and the daemon's configuration file, checked as the daemon does."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rtpengine import config, config_file
from rtpengine.options import ConfigError
from rtpengine_service import ServiceError
from rtpengine_service.defaults import OPTIONS, Variable, default_file, place, read

CONFIG_DIRECTORY = Path("/etc/rtpengine")
MAIN = "ngcp-rtpengine-daemon"
_YES_NO = {"yes": True, "1": True, "no": False, "0": False}


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

    @property
    def pidfile(self) -> str:
        """Where an init script finds the PID."""
        return self.config.pidfile or f"/run/rtpengine/{self.name}.pid"

    @property
    def succession(self) -> list[str]:
        """The option that lets a new process take over, unless the files have it."""
        return [] if self.config.takeover_socket else [f"--takeover-socket=/run/rtpengine/{self.name}.takeover"]


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
    except ConfigError as error:
        raise ServiceError(_explain(path, variables, str(error))) from None
    return Service(
        name=name,
        forks=flags["FORK"] is not False,
        firewall=flags["FIREWALL"] is not False,
        options=tuple(options),
        config=values,
    )


def _flag(path: Path, name: str, variables: dict[str, Variable]) -> bool | None:
    if name not in variables:
        return None
    variable = variables[name]
    if variable.value not in _YES_NO:
        raise ServiceError(f"{place(path, variable.line)}: {name}: is yes or no")
    return _YES_NO[variable.value]


def _own_file(name: str, variables: dict[str, Variable]) -> list[str]:
    """An instance never reads what is meant for the main service, unless it says so."""
    if name == MAIN or {"CONFIG_FILE", "CONFIG_SECTION"} & set(variables):
        return []
    own = CONFIG_DIRECTORY / f"{name.partition('@')[2]}.conf"
    return [f"--config-file={own if own.exists() else 'none'}"]


def _explain(path: Path, variables: dict[str, Variable], error: str) -> str:
    """Name the variable of an option, and its line; or the variable that is missing."""
    match = re.fullmatch(r"--([a-z0-9-]+): (.*)", error)
    variable = match and next((name for name, option in OPTIONS.items() if option == match[1]), None)
    if not match or not variable:
        return error
    if variable in variables:
        return f"{place(path, variables[variable].line)}: {variable}: {match[2]}"
    return f"{path}: {variable} (or {match[1]} in the configuration file): {match[2]}"


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
