"""Where Redis is, as the options say it."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple


class Address(NamedTuple):
    """A TCP port, or a Unix socket if ``port`` is 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Server(NamedTuple):
    """Where Redis is: at ``address``, or where ``sentinels`` say that the master ``name`` is.

    ``user`` and ``password`` are for both, None for none.
    """

    database: int
    address: Address | None = None
    sentinels: tuple[Address, ...] = ()
    name: str = ""
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        """Without the password, so that it does not get into a log."""
        return f"Server({self})"

    def __str__(self) -> str:
        if self.address is not None:
            return f"{self.address}, database {self.database}"
        return f"master {self.name} of {', '.join(map(str, self.sentinels))}, database {self.database}"


_ADDRESS = re.compile(r"(?:([0-9.]+)|\[([0-9a-f:.]+)\]):([1-9][0-9]{0,4})", re.ASCII | re.IGNORECASE)


def parse_address(value: str) -> Address:
    """``A.B.C.D:PORT``, ``[IPv6]:PORT`` or the path of a Unix socket. Raise ValueError."""
    if value.startswith("/"):
        return Address(value, 0)
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match[3]) > 65_535:
        raise ValueError(f"{value!a} is not IP:PORT with a port of 1 to 65535, IPv6 in brackets")
    address = ip_address(match[1] or match[2])
    if address.is_unspecified:
        raise ValueError(f"{address} is not the address of a server")
    return Address(str(address), int(match[3]))


class Sentinels(NamedTuple):
    """The name of a master, and who knows where it is."""

    name: str
    addresses: tuple[Address, ...]

    def __str__(self) -> str:
        return f"{self.name}@{','.join(map(str, self.addresses))}"


def parse_sentinels(value: str) -> Sentinels:
    """``NAME@IP:PORT,IP:PORT...``. Raise ValueError."""
    name, at, addresses = value.partition("@")
    if not name or not at:
        raise ValueError(f"{value!a} is not NAME@IP:PORT,IP:PORT...")
    found = tuple(parse_address(text.strip()) for text in addresses.split(","))
    if any(not one.port for one in found):
        raise ValueError("a Sentinel has no Unix socket")
    return Sentinels(name, found)


class Login(NamedTuple):
    """``user`` is None for Redis' default user."""

    user: str | None
    password: str

    def __repr__(self) -> str:
        """Without the password, so that it does not get into a log."""
        return "Login()"


def parse_login(text: str) -> Login:
    """Lines: the password alone, or the user and then the password. Raise ValueError."""
    lines = [line for line in text.splitlines() if line]
    if len(lines) not in (1, 2):
        raise ValueError("has to hold the password, or the user and the password, on lines of their own")
    return Login(lines[0] if len(lines) == 2 else None, lines[-1])


_INSTANCE = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)


def parse_instance(value: str) -> str:
    """A name that goes into keys. Raise ValueError."""
    if not _INSTANCE.fullmatch(value):
        raise ValueError(f"{value!a} is not of letters, digits, '.', '_' and '-' alone")
    return value
