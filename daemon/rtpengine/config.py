"""The command line: what can be said there, how it is checked, and the frozen :class:`Config` that comes out.

Scripts rely on the syntax, which no library module reads: long options are never abbreviated, a value may begin
with a dash (``--table -1``), and arguments that are no options are ignored (daemon-process.md 1.2).
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple, NoReturn

from rtpengine import __version__
from rtpengine.log import FACILITIES
from rtpengine.media import Learning

EXIT_FAILURE = 255
DEFAULT_POLL_PAUSE_US = 500
MAX_POLL_PAUSE_US = 5_000
MAX_THREADS = 64
DEFAULT_TIMEOUT_S = 60
DEFAULT_SILENT_TIMEOUT_S = 3_600
DEFAULT_PORT_MIN = 30_000
DEFAULT_PORT_MAX = 40_000
DEFAULT_LOG_LEVEL = 6

Network = IPv4Network | IPv6Network

# Who may control a daemon that listens beyond loopback and has no --control-allow: the host and its private networks.
_LOCAL = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
LOCAL_NETWORKS = tuple(map(ip_network, (*_LOCAL, "::1/128", "fc00::/7", "fe80::/10")))


class ConfigError(Exception):
    """The command line cannot be used; the text is one line that names the option."""


class ListenEndpoint(NamedTuple):
    """Where a control socket is bound; the address ``::`` serves IPv4 as well."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        return ip_address(self.address).is_loopback


@dataclass(frozen=True, slots=True)
class Config:
    """What the command line asked for, with every default filled in.

    ``advertised_ip`` and ``advertised_ip6`` are never None where the address that they stand for is set.
    An empty ``control_allow`` serves every source; ``control_allow_implied``: nobody chose the networks in it.
    ``trust_sdp``: offers and answers without a flag are treated as if they had ``trust address``.
    """

    table: int
    no_fallback: bool
    ip: str
    advertised_ip: str
    ip6: str | None
    advertised_ip6: str | None
    listen_ng: ListenEndpoint
    tos: int
    timeout_s: int
    silent_timeout_s: int
    pidfile: str | None
    foreground: bool
    port_min: int
    port_max: int
    log_level: int
    log_stderr: bool
    log_facility: str
    num_threads: int
    endpoint_learning: Learning
    poll_pause_us: int
    trust_sdp: bool
    control_allow: tuple[Network, ...]
    control_allow_implied: bool


def parse(argv: Sequence[str]) -> Config:
    """Read the arguments behind the program's name.

    Raise SystemExit: status 0 after ``--help`` or ``--version``, 255 after one line on standard error.
    """
    try:
        given = _tokenize(argv)
        if "help" in given:
            print(help_text())
            raise SystemExit(0)
        if "version" in given:
            print(version_text())
            raise SystemExit(0)
        values: _Values = {}
        for step in _STEPS:
            step(given, values)
        return Config(**values)
    except ConfigError as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """End start-up with one line on standard error and status 255."""
    print(f"rtpengine: {error}", file=sys.stderr)
    raise SystemExit(EXIT_FAILURE)


def forwarding(config: Config, proc_exists: bool) -> str:
    """Say that media is forwarded in userspace and why; ``proc_exists``: there is a /proc/mediaproxy.

    Raise ConfigError where ``--no-fallback`` rules that out.
    """
    if config.table < 0:
        return f"forwarding in userspace, since --table is negative ({config.table})"
    if proc_exists:
        reason = "this version cannot use the kernel module"
    else:
        reason = "the kernel module is not loaded (no /proc/mediaproxy)"
    if config.no_fallback:
        raise ConfigError(f"--no-fallback: kernel table {config.table} is not available, {reason}")
    return f"forwarding in userspace, since {reason}; kernel table {config.table} is not used"


def control_warning(config: Config) -> str | None:
    """The line that an operator should see whose control port is open to more than this host; else None."""
    if not config.control_allow_implied:
        return None
    return (
        f"--listen-ng is not on loopback ({config.listen_ng.address}) and the protocol has no authentication: "
        "serving private and link-local sources only; name the SIP proxies with --control-allow"
    )


def version_text() -> str:
    """One line: name, version and what it runs on."""
    return f"rtpengine {__version__} (Python {platform.python_version()}, {platform.machine()})"


class _Option(NamedTuple):
    """One row of the option table; ``metavar`` is empty for a flag."""

    name: str
    short: str
    metavar: str
    text: str


_OPTIONS = (
    _Option("version", "v", "", "Print the version and exit"),
    _Option("table", "t", "INT", "Kernel table to use, negative for none (0)"),
    _Option("no-fallback", "F", "", "Refuse to start without kernel forwarding"),
    _Option("ip", "i", "IP", "Local IPv4 address for media (mandatory)"),
    _Option("advertised-ip", "a", "IP", "IPv4 address to write into SDP instead"),
    _Option("ip6", "I", "IP6", "Local IPv6 address for media"),
    _Option("advertised-ip6", "A", "IP6", "IPv6 address to write into SDP instead"),
    _Option("listen-tcp", "l", "[IP:]PORT", "TCP control port (not in this version)"),
    _Option("listen-udp", "u", "[IP46:]PORT", "UDP control port, rtpproxy (not in this version)"),
    _Option("listen-ng", "n", "[IP46:]PORT", "UDP control port, NG protocol (mandatory)"),
    _Option("tos", "T", "INT", "TOS octet of sent media packets, 0 to 255 (0)"),
    _Option("timeout", "o", "SECS", f"End calls without media after this time ({DEFAULT_TIMEOUT_S})"),
    _Option("silent-timeout", "s", "SECS", f"The same for calls on hold ({DEFAULT_SILENT_TIMEOUT_S})"),
    _Option("pidfile", "p", "FILE", "Write the process id to this file"),
    _Option("foreground", "f", "", "Stay in the foreground"),
    _Option("port-min", "m", "INT", f"Lowest port for media ({DEFAULT_PORT_MIN})"),
    _Option("port-max", "M", "INT", f"Highest port for media ({DEFAULT_PORT_MAX})"),
    _Option("redis", "r", "IP:PORT", "Redis database (not in this version)"),
    _Option("redis-db", "R", "INT", "Number of the Redis database (not in this version)"),
    _Option("b2b-url", "b", "STRING", "XML-RPC URL of a B2BUA (not in this version)"),
    _Option("log-level", "L", "INT", f"Log up to this level, 0 to 7 ({DEFAULT_LOG_LEVEL})"),
    _Option("help", "h", "", "Print this list and exit"),
)
_MORE_OPTIONS = (
    _Option("log-facility", "", "NAME", "Syslog facility: daemon, user, local0 ... (daemon)"),
    _Option("log-stderr", "", "", "Log to standard error instead of syslog"),
    _Option("control-allow", "", "NET[,NET...]", "Sources that control requests are accepted from"),
    _Option("trust-sdp", "", "", "Without a flag, trust the addresses in the SDP"),
    _Option("endpoint-learning", "", "MODE", "heuristic, delayed, immediate or off (heuristic)"),
    _Option("num-threads", "", "INT", f"Media threads, 1 to {MAX_THREADS} (one per CPU)"),
    _Option("poll-pause", "", "USECS", f"Longest pause between polls, 0 for none ({DEFAULT_POLL_PAUSE_US})"),
)
_BY_NAME = {option.name: option for option in _OPTIONS + _MORE_OPTIONS}
_BY_SHORT = {option.short: option for option in _OPTIONS if option.short} | {"?": _BY_NAME["help"]}
_TEXT_COLUMN = 35

# Parts that do not exist yet, in the order of their checks.
_UNAVAILABLE = {
    "listen-tcp": "the OpenSER mediaproxy protocol is not available",
    "listen-udp": "the rtpproxy protocol is not available",
    "redis": "Redis is not available",
    "redis-db": "Redis is not available",
    "b2b-url": "XML-RPC notification is not available",
}


def help_text() -> str:
    """The list of options, in the order and the columns of the documentation."""
    first, more = ("\n".join(_help_line(option) for option in block) for block in (_OPTIONS, _MORE_OPTIONS))
    return (
        "Usage: rtpengine [OPTION...]\n\n"
        "A media proxy for SIP, controlled by Kamailio or OpenSIPS.\n"
        f"Defaults are given in parentheses.\n\n{first}\n\nFurther options:\n\n{more}"
    )


def _help_line(option: _Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    value = f"={option.metavar}" if option.metavar else ""
    return f"  {short}--{option.name}{value} ".ljust(_TEXT_COLUMN) + option.text


_Given = Mapping[str, str]


def _tokenize(argv: Sequence[str]) -> _Given:
    """Find the options and their values; a flag has the empty string. Stops at ``--help``."""
    given: dict[str, str] = {}
    rest = list(reversed(argv))
    while rest and (word := rest.pop()) != "--":
        if word.startswith("--"):
            _long(word, rest, given)
        elif word.startswith("-") and word != "-":
            _cluster(word[1:], rest, given)
        if "help" in given:
            break
    return given


def _long(word: str, rest: list[str], given: dict[str, str]) -> None:
    name, equals, value = word[2:].partition("=")
    option = _BY_NAME.get(name)
    if option is None:
        raise ConfigError(f"{word.partition('=')[0]!a}: no such option")
    if not option.metavar and equals:
        raise ConfigError(f"--{name}: takes no value")
    given[name] = _value(option, value if equals else None, rest)


def _cluster(letters: str, rest: list[str], given: dict[str, str]) -> None:
    """Read ``-fF``, ``-t0`` or ``-t 0``: flags, of which the last may be an option with a value."""
    while letters:
        option = _BY_SHORT.get(letters[0])
        if option is None:
            raise ConfigError(f"{'-' + letters[0]!a}: no such option")
        letters = letters[1:]
        if option.metavar:
            given[option.name] = _value(option, letters or None, rest)
            return
        given[option.name] = ""


def _value(option: _Option, value: str | None, rest: list[str]) -> str:
    """The value behind an option, taken from ``rest`` if it is not attached; integers are checked at once."""
    if not option.metavar:
        return ""
    if value is None:
        if not rest:
            raise ConfigError(f"--{option.name}: needs a value ({option.metavar})")
        value = rest.pop()
    if option.metavar in ("INT", "SECS", "USECS"):
        _integer(option.name, value)
    return value


_INTEGER = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))", re.ASCII)


def _integer(name: str, value: str) -> int:
    """Read decimal, ``0x`` hexadecimal or leading-zero octal, of 32 bits."""
    match = _INTEGER.fullmatch(value)
    if match is None:
        raise ConfigError(f"--{name}: {value!a} is not an integer")
    sign, hexadecimal, octal, decimal = match.groups()
    digits, base = next((text, base) for text, base in ((hexadecimal, 16), (octal, 8), (decimal, 10)) if text)
    # more digits than 32 bits can have in any base; int() refuses thousands of them with an error of its own
    number = int(sign + digits, base) if len(digits) < 40 else 1 << 32
    if not -(1 << 31) <= number < 1 << 31:
        raise ConfigError(f"--{name}: {value!a} does not fit 32 bits")
    return number


def _ipv4(name: str, value: str) -> str:
    """A unicast IPv4 address in dotted-quad form."""
    try:
        address = IPv4Address(value)
    except ValueError:
        raise ConfigError(f"--{name}: {value!a} is not an IPv4 address") from None
    if address.is_unspecified or address.is_multicast or value == "255.255.255.255":
        raise ConfigError(f"--{name}: {value} is not an address that media can be sent from")
    return str(address)


def _ipv6(name: str, value: str) -> str:
    """A unicast IPv6 address, which may stand in brackets."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        address = IPv6Address(bare)
    except ValueError:
        raise ConfigError(f"--{name}: {value!a} is not an IPv6 address") from None
    if address.is_unspecified or address.is_multicast or address.ipv4_mapped or address.scope_id:
        raise ConfigError(f"--{name}: {value!a} is not an address that media can be sent from")
    return str(address)


_ENDPOINT = re.compile(
    r"(?:(?P<ip>[0-9.]+):|\[(?P<ip6>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\]:)?(?P<port>[1-9][0-9]{0,4})", re.ASCII
)


def _endpoint(name: str, value: str) -> ListenEndpoint:
    """``PORT``, ``A.B.C.D:PORT`` or ``[IPv6]:PORT``; the first, and 0.0.0.0, mean any address of both families."""
    match = _ENDPOINT.fullmatch(value)
    port = int(match["port"]) if match else 0
    if match is None or port > 65_535:
        raise ConfigError(f"--{name}: {value!a} is not {_BY_NAME[name].metavar} with a port of 1 to 65535")
    try:
        address = str(ip_address(match["ip"] or match["ip6"] or "::"))
    except ValueError:
        raise ConfigError(f"--{name}: the address in {value!a} is not valid") from None
    return ListenEndpoint("::" if address == "0.0.0.0" else address, port)


def _endpoint4(name: str, value: str) -> ListenEndpoint:
    endpoint = _endpoint(name, value)
    if "[" in value:
        raise ConfigError(f"--{name}: {value!a} is not an IPv4 endpoint")
    return endpoint


def _pidfile(name: str, value: str) -> str:
    """An absolute path, since the daemon changes its directory."""
    if not value:
        raise ConfigError(f"--{name}: the name of the file is empty")
    return os.path.abspath(value)


def _networks(name: str, value: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(text.strip(), strict=False) for text in value.split(","))
    except ValueError:
        raise ConfigError(f"--{name}: {value!a} is not a list of networks like 10.0.0.0/8,2001:db8::/32") from None


def _within(low: int, high: int) -> Callable[[str, str], int]:
    def read(name: str, value: str) -> int:
        number = _integer(name, value)
        if not low <= number <= high:
            raise ConfigError(f"--{name}: {number} is outside {low} to {high}")
        return number

    return read


def _seconds(default: int) -> Callable[[str, str], int]:
    """A time-out, where 0 and less have always meant the default."""
    return lambda name, value: number if (number := _integer(name, value)) > 0 else default


def _one_of(choices: Mapping[str, object]) -> Callable[[str, str], object]:
    def read(name: str, value: str) -> object:
        if value not in choices:
            raise ConfigError(f"--{name}: {value!a} is none of {', '.join(choices)}")
        return choices[value]

    return read


_Values = dict[str, Any]
_Step = Callable[[_Given, _Values], None]


def _read(name: str, reader: Callable[[str, str], object], default: object = None, unit: str = "") -> _Step:
    """A step that checks one option by itself; its value is filed under the name of the field."""

    def step(given: _Given, values: _Values) -> None:
        values[name.replace("-", "_") + unit] = reader(name, given[name]) if name in given else default

    return step


def _read_flags(given: _Given, values: _Values) -> None:
    for name in ("no-fallback", "foreground", "log-stderr", "trust-sdp"):
        values[name.replace("-", "_")] = name in given


def _check_presence(given: _Given, values: _Values) -> None:
    if "ip" not in given:
        raise ConfigError("--ip: a local IPv4 address is mandatory")
    if not given.keys() & {"listen-tcp", "listen-udp", "listen-ng"}:
        raise ConfigError("--listen-ng: at least one of the control ports is mandatory")


def _check_advertised(given: _Given, values: _Values) -> None:
    if values["advertised_ip6"] and not values["ip6"]:
        raise ConfigError("--advertised-ip6: needs --ip6")
    values["advertised_ip"] = values["advertised_ip"] or values["ip"]
    values["advertised_ip6"] = values["advertised_ip6"] or values["ip6"]


def _check_listeners(given: _Given, values: _Values) -> None:
    if values["listen_ng"] and values["listen_ng"] == values["listen_udp"]:
        raise ConfigError("--listen-ng: same address and port as --listen-udp")


def _check_redis(given: _Given, values: _Values) -> None:
    if values["redis"] and values["redis"].address == "::":
        raise ConfigError(f"--redis: {given['redis']!a} does not name the address of a server")
    if values["redis"] and values["redis_db"] < 0:
        raise ConfigError("--redis-db: a number of 0 or more is mandatory with --redis")


def _check_ports(given: _Given, values: _Values) -> None:
    """There must be an even port and its successor, for RTP and RTCP."""
    low, high = values["port_min"], values["port_max"]
    if low >= high:
        raise ConfigError(f"--port-max: {high} is not above --port-min ({low})")
    if low + low % 2 + 1 > high:
        raise ConfigError(f"--port-max: {low} to {high} has no even port with an odd one behind it")


def _check_available(given: _Given, values: _Values) -> None:
    for name, reason in _UNAVAILABLE.items():
        if name in given:
            raise ConfigError(f"--{name}: {reason} in this version")
        values.pop(name.replace("-", "_"), None)


def _imply_networks(given: _Given, values: _Values) -> None:
    allow = values["control_allow"]
    implied = allow is None and not values["listen_ng"].is_loopback
    values["control_allow"] = LOCAL_NETWORKS if implied else allow or ()
    values["control_allow_implied"] = implied


# The order is that of daemon-process.md 1.3, then that of the help: of several mistakes the first one here is told.
_STEPS: tuple[_Step, ...] = (
    _check_presence,
    _read("ip", _ipv4),
    _read("advertised-ip", _ipv4),
    _read("ip6", _ipv6),
    _read("advertised-ip6", _ipv6),
    _check_advertised,
    _read("listen-tcp", _endpoint4),
    _read("listen-udp", _endpoint),
    _read("listen-ng", _endpoint),
    _check_listeners,
    _read("tos", _within(0, 255), 0),
    _read("redis", _endpoint4),
    _read("redis-db", _integer, -1),
    _check_redis,
    _read("log-level", _within(0, 7), DEFAULT_LOG_LEVEL),
    _read("table", _integer, 0),
    _read("timeout", _seconds(DEFAULT_TIMEOUT_S), DEFAULT_TIMEOUT_S, "_s"),
    _read("silent-timeout", _seconds(DEFAULT_SILENT_TIMEOUT_S), DEFAULT_SILENT_TIMEOUT_S, "_s"),
    _read("pidfile", _pidfile),
    _read("port-min", _within(1, 65_535), DEFAULT_PORT_MIN),
    _read("port-max", _within(1, 65_535), DEFAULT_PORT_MAX),
    _check_ports,
    _read("log-facility", _one_of({name: name for name in FACILITIES}), "daemon"),
    _read("control-allow", _networks),
    _read("endpoint-learning", _one_of({mode.name.lower(): mode for mode in Learning}), Learning.HEURISTIC),
    _read("num-threads", _within(1, MAX_THREADS), min(len(os.sched_getaffinity(0)), MAX_THREADS)),
    _read("poll-pause", _within(0, MAX_POLL_PAUSE_US), DEFAULT_POLL_PAUSE_US, "_us"),
    _read_flags,
    _check_available,
    _imply_networks,
)
