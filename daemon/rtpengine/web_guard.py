"""Whom the HTTP port serves, and which requests a browser must not be talked into.

There is no log-in, so three things stand in for it: where a connection comes from, by which name a request calls us
(a name of somebody else's may lead to our address, which is DNS rebinding), and from which site a page has sent it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network


class Refusal(NamedTuple):
    """A status of HTTP, and one line that tells why."""

    status: int
    reason: str


@dataclass(frozen=True)
class Guard:
    """``readers`` may connect, besides this host; ``controllers`` may change calls, empty: this host only.

    ``names`` are what we are called besides ``localhost`` and any address, in lower case.
    """

    readers: Collection[Network] = ()
    controllers: Collection[Network] = ()
    names: Collection[str] = ()

    def admits(self, source: str) -> bool:
        """Whether an address may connect at all."""
        return _is_loopback(source) or _is_within(source, self.readers)

    def refusal(
        self, source: str, host: str | None, origin: str | None = None, site: str | None = None, *, changes: bool
    ) -> Refusal | None:
        """Why a request is not to be answered, None if it is; ``changes``: it may change calls.

        ``host``, ``origin`` and ``site`` are its fields Host, Origin and Sec-Fetch-Site. A browser always sends the
        first, and the second with everything that can change something.
        """
        if host is not None and not self._is_ours(host):
            return Refusal(421, f"{host[:100]!a} is not a name of this daemon, see --http-name")
        if origin is not None and not _is_same(origin, host):
            return Refusal(403, "Requests from pages of other sites are refused")
        if changes and site not in (None, "same-origin", "none"):
            return Refusal(403, "Requests from pages of other sites are refused")
        if changes and not self._controls(source):
            return Refusal(403, "This address may not control calls, see --control-allow")
        return None

    def _is_ours(self, host: str) -> bool:
        name = _split(f"//{host}")[0]
        return name == "localhost" or name in self.names or _is_address(name)

    def _controls(self, source: str) -> bool:
        return _is_within(source, self.controllers) if self.controllers else _is_loopback(source)


def _split(url: str) -> tuple[str, str]:
    """The host of a URL without brackets, and host with port; both empty where there is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""


def _is_same(origin: str, host: str | None) -> bool:
    """Whether a page comes from where its request goes to. The scheme does not count: TLS may end before us."""
    where = _split(origin)[1]
    return where != "" and host is not None and where == host.lower()


def _plain(source: str) -> str:
    return source.partition("%")[0].removeprefix("::ffff:")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(source: str) -> bool:
    return ip_address(_plain(source)).is_loopback


def _is_within(source: str, networks: Collection[Network]) -> bool:
    address = ip_address(_plain(source))
    return any(address in network for network in networks)
