"""The process around the calls as operators see it: what :class:`~rtpengine.operations.Operations` is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from rtpengine import log
from rtpengine.config import Config
from rtpengine.offload import Offload
from rtpengine.operations import Host, Interface, Traffic
from rtpengine.packetpath import PacketPath
from rtpengine.reload import IMPLIED, SET, option_of, shown
from rtpengine.transport import PacketTransport

# As in metrics: an address family has one network interface, which has no name of its own.
INTERFACE = "default"

_CREDENTIALS = re.compile(r"(?<=//)[^/@]*@")
_SECRET = re.compile("password|secret|auth")


def host(
    transport: PacketTransport,
    path: PacketPath,
    offload: Offload | None,
    configuration: Callable[[], Config],
    started: float,
    forwarding: str,
    replace: Callable[[], int],
    redis: Callable[[], str | None],
) -> Host:
    """``configuration`` tells the one in force; ``forwarding`` is the line that start-up logs about the kernel.

    ``replace`` starts a successor; ``redis`` tells how the storage is, None without one.
    """
    return Host(
        started=started,
        userspace="" if offload is not None else forwarding.removeprefix("forwarding in userspace, since "),
        interfaces=lambda: interfaces(transport, configuration()),
        traffic=lambda: _traffic(path, offload),
        parameters=lambda: parameters(configuration()),
        drain_limit_s=lambda: configuration().drain_timeout_s,
        level=log.level,
        set_level=log.set_level,
        debug=log.debug_call,
        is_debugged=log.is_debugged,
        replace=replace,
        redis=redis,
    )


def interfaces(transport: PacketTransport, config: Config) -> list[Interface]:
    """Each local address with its ports; two of them make a pair."""
    return [
        Interface(
            name=INTERFACE,
            address=pool.address,
            advertised=transport.advertised(family),
            port_min=config.port_min,
            port_max=config.port_max,
            ports=2 * (pool.used + pool.free),
            used=2 * pool.used,
        )
        for family, pool in transport.pools.items()
    ]


def _traffic(path: PacketPath, offload: Offload | None) -> Traffic:
    stats = path.stats()
    packets, octets, _ = offload.forwarded if offload is not None else (0, 0, 0)
    return Traffic(stats.packets, stats.bytes, stats.errors, packets, octets, stats.drops)


def parameters(config: Config) -> dict[str, Any]:
    """The options by name, as texts and numbers, without a password."""
    values = {option_of(field.name): shown(config, field.name) for field in fields(config) if field.name not in IMPLIED}
    return {
        name: SET if _SECRET.search(name) and value != "none" else _CREDENTIALS.sub("", value)
        for name, value in values.items()
    }
