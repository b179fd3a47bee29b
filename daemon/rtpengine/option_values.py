"""What the value of an option can be: each function reads one kind of text, and raises ValueError with the reason."""

from __future__ import annotations

import os
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from rtpengine import srtp
from rtpengine.redis_server import Login, parse_login

Network = IPv4Network | IPv6Network

_MAX_LOGIN = 4_096


class ListenEndpoint(NamedTuple):
    """Where a control socket is bound; the address ``::`` serves IPv4 as well."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        return ip_address(self.address).is_loopback

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


MAX_INTEGER = (1 << 31) - 1
# leading zeros aside, 32 bits need 11 digits; int() refuses thousands of them with an error of its own
_INTEGER = re.compile(r"[+-]?(?:0x[0-9a-f]{1,40}|0[0-7]{0,40}|[1-9][0-9]{0,40})", re.ASCII | re.IGNORECASE)


def integer(value: str) -> int:
    """Read decimal, ``0x`` hexadecimal or leading-zero octal, of 32 bits."""
    if _INTEGER.fullmatch(value):
        number = int(re.sub("^([+-]?0)(?=[0-7])", r"\1o", value), base=0)
        if -(1 << 31) <= number < 1 << 31:
            return number
    raise ArgumentTypeError(f"{value!a} is not an integer of 32 bits")


def ipv4(value: str) -> str:
    """A unicast IPv4 address in dotted-quad form; raise ValueError, as the others here do."""
    address = IPv4Address(value)
    if address.is_unspecified or address.is_multicast or value == "255.255.255.255":
        raise ValueError(f"{value} is not an address that media can be sent from")
    return str(address)


def ipv6(value: str) -> str:
    """A unicast IPv6 address, which may stand in brackets."""
    address = IPv6Address(value[1:-1] if value.startswith("[") and value.endswith("]") else value)
    if address.is_unspecified or address.is_multicast or address.ipv4_mapped or address.scope_id:
        raise ValueError(f"{value!a} is not an address that media can be sent from")
    return str(address)


_ENDPOINT = re.compile(r"(?:(?P<ip>[0-9.]+):|\[(?P<ip6>[^]%]*:[^]%]*)\]:)?(?P<port>[1-9][0-9]{0,4})")


def endpoint(value: str) -> ListenEndpoint:
    """``PORT``, ``A.B.C.D:PORT`` or ``[IPv6]:PORT``; the first, and 0.0.0.0, mean any address of both families."""
    match = _ENDPOINT.fullmatch(value)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"{value!a} is not [IP:]PORT with a port of 1 to 65535, IPv6 in brackets")
    address = str(ip_address(match["ip"] or match["ip6"] or "::"))
    return ListenEndpoint("::" if address == "0.0.0.0" else address, int(match["port"]))


def local_endpoint(value: str) -> ListenEndpoint:
    """As other listeners, but that a port alone means this host only."""
    return endpoint(f"127.0.0.1:{value}" if value.isdigit() else value)


def endpoint4(value: str) -> ListenEndpoint:
    """As :func:`endpoint`, without IPv6."""
    if "[" in value:
        raise ValueError(f"{value!a} is not an IPv4 endpoint")
    return endpoint(value)


def within(low: int, high: int) -> Callable[[int], int]:
    """A reader of numbers that takes these and those between them."""

    def check(number: int) -> int:
        if not low <= number <= high:
            raise ValueError(f"{number} is outside {low} to {high}")
        return number

    return check


def positive(default: int) -> Callable[[int], int]:
    """A time-out, where 0 and less have always meant the default."""
    return lambda number: number if number > 0 else default


def file_path(value: str) -> str:
    """The name of a file, made absolute."""
    if not value:
        raise ValueError("the name of the file is empty")
    return absolute(value)


def absolute(path: str) -> str:
    """The path as seen from where the daemon was started; it changes its directory."""
    return path if os.path.isabs(path) else os.path.normpath(os.path.join(start_directory(), path))


@cache
def start_directory() -> str:
    """Where the daemon was started; to be asked before it goes elsewhere."""
    return os.getcwd()


def networks(value: str) -> tuple[Network, ...]:
    """Networks in CIDR notation, or single addresses, with commas between them."""
    return tuple(ip_network(text.strip(), strict=False) for text in value.split(","))


_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9])?")


def host_names(value: str) -> tuple[str, ...]:
    """Host names in any case."""
    names = tuple(name.strip().lower() for name in value.split(","))
    wrong = next((name for name in names if not _NAME.fullmatch(name)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!a} is not a host name")
    return names


def read_login(path: str) -> Login:
    """What a file says that others should not be able to read."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_LOGIN)
    except OSError as error:
        raise ValueError(f"{path!a}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path!a} is no text") from None
    try:
        return parse_login(text)
    except ValueError as error:
        raise ValueError(f"{path!a} {error}") from None


def suites(value: str) -> tuple[str, ...]:
    """Names of suites in any case, each once."""
    names = tuple(dict.fromkeys(name.strip().upper() for name in value.split(",")))
    unknown = next((name for name in names if name not in srtp.SUITES), None)
    if unknown is not None:
        raise ValueError(f"{unknown!a} is none of {', '.join(srtp.SUITES)}")
    return names
