"""A configuration that is read again: what can change in a running daemon changes, of the rest it is said.

What was set by other means meanwhile, by a signal or the control tool, stays unless the file says something new.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields

from rtpengine import NOTICE
from rtpengine.config import Config
from rtpengine.media import Learning
from rtpengine.option_values import ListenEndpoint
from rtpengine.options import ConfigError
from rtpengine.redis_server import Address, Sentinels

log = logging.getLogger(__name__)

Apply = Callable[[Config], None]

SET = "(set)"
# What follows from another field.
IMPLIED = ("control_allow_implied",)


def option_of(field: str) -> str:
    """The option behind a field of Config, which may have a unit at its end."""
    return field.removesuffix("_s").removesuffix("_us").replace("_", "-")


class Reloader:
    """Compares what ``load`` reads with what was read before.

    ``live`` says per field of Config what puts a new value into force; one function may stand there several times.
    """

    def __init__(self, config: Config, load: Callable[[], Config], live: Mapping[str, Apply]) -> None:
        self.config = config
        self._load = load
        self.live = live

    def reload(self) -> None:
        """Read again and apply; a file that cannot be used changes nothing and is one error in the log."""
        try:
            new = self._load()
        except ConfigError as error:
            log.error("the configuration stays as it was: %s", error)
            return
        changed = [
            field.name
            for field in fields(Config)
            if getattr(new, field.name) != getattr(self.config, field.name) and field.name not in IMPLIED
        ]
        applied = [name for name in changed if name in self.live]
        for apply in dict.fromkeys(self.live[name] for name in applied):
            apply(new)
        news = ", ".join(f"{option_of(name)} {shown(self.config, name)} -> {shown(new, name)}" for name in applied)
        log.log(NOTICE, "configuration read again: %s", news or "nothing changes")
        for name in changed:
            if name not in self.live:
                # Not the value: not everything is meant for a log.
                log.warning("%s has changed, which takes a restart to have an effect", option_of(name))
        self.config = new


def shown(config: Config, field: str) -> str:
    """The value of a field in the words of the option; SET where its type does not say that it may be seen."""
    value = getattr(config, field)
    if isinstance(value, ListenEndpoint | Address | Sentinels):
        return str(value)
    if type(value) is tuple:
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Learning):
        return value.name.lower()
    if value is None:
        return "none"
    return str(value) if isinstance(value, str | int) else SET
