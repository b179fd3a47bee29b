"""What can change in a running daemon: new values of options, put into force."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtpengine import control_cli, control_tcp
from rtpengine.config import Config
from rtpengine.control import DatagramListener, NgProtocol
from rtpengine.log import set_level
from rtpengine.ng_keys import Defaults
from rtpengine.option_values import Network
from rtpengine.reload import Apply
from rtpengine.table import CallTable
from rtpengine.web_guard import Guard

if TYPE_CHECKING:
    from rtpengine.web import WebServer


@dataclass(frozen=True)
class Live:
    """The parts that new values reach; ``web`` is None without ``--listen-http``."""

    table: CallTable
    ng: NgProtocol
    listeners: Sequence[DatagramListener]
    tcp: control_tcp.Server
    cli: control_cli.Server
    web: WebServer | None

    def appliers(self) -> dict[str, Apply]:
        """What puts a new value into force, by field of Config."""
        return {
            "timeout_s": lambda config: self._set_limits(timeout_s=config.timeout_s),
            "silent_timeout_s": lambda config: self._set_limits(silent_timeout_s=config.silent_timeout_s),
            "final_timeout_s": lambda config: self._set_limits(final_timeout_s=config.final_timeout_s),
            "log_level": lambda config: set_level(config.log_level),
            "max_sessions": lambda config: setattr(self.table.admission, "max_sessions", config.max_sessions),
            "drain_timeout_s": lambda config: None,  # read when a drain begins
            "control_allow": self._set_access,
            "http_allow": self._set_access,
            "http_name": self._set_access,
            "endpoint_learning": lambda config: setattr(self.table, "learning", config.endpoint_learning),
            "trust_sdp": self._set_defaults,
            "ice_default": self._set_defaults,
        }

    def _set_limits(self, **changed: int) -> None:
        self.table.set_limits(replace(self.table.limits, **changed), time.monotonic())

    def _set_access(self, config: Config) -> None:
        self.tcp.allowed = config.control_allow
        for listener in self.listeners:
            listener.allowed = config.control_allow
        if self.web is not None:
            self.web.guard = guard(config)
        self.cli.allowed = controllers(config)

    def _set_defaults(self, config: Config) -> None:
        self.ng.defaults = Defaults(config.trust_sdp, config.ice_default)


def guard(config: Config) -> Guard:
    """Whom HTTP serves."""
    return Guard(config.http_allow, controllers(config), {*config.http_name, socket.gethostname().lower()})


def controllers(config: Config) -> tuple[Network, ...]:
    """Whom an operator has named, beside this host."""
    return () if config.control_allow_implied else config.control_allow
