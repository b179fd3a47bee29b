"""The options: what can be said, how it is checked, and the frozen :class:`Config` that comes out.

argparse reads the command line, with two differences that scripts rely on (daemon-process.md 1.2): a value may begin
with a dash (``--table -1``), and arguments that are no options are ignored. What the command line leaves open, the
configuration file can say.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from argparse import SUPPRESS, Action, ArgumentError, ArgumentParser, ArgumentTypeError, HelpFormatter, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import takewhile
from typing import Any, NamedTuple, NoReturn

from rtpengine import __version__, b2bua, config_file, packetpath, srtp
from rtpengine.log import FACILITIES, FORMATS
from rtpengine.media import Learning
from rtpengine.redis_server import (
    Address,
    Login,
    Sentinels,
    Server,
    parse_address,
    parse_instance,
    parse_login,
    parse_sentinels,
)

EXIT_FAILURE = 255
DEFAULT_POLL_PAUSE_US = packetpath.DEFAULT_PAUSE_US
MAX_POLL_PAUSE_US = packetpath.MAX_PAUSE_US
MAX_THREADS = packetpath.MAX_WORKERS
DEFAULT_TIMEOUT_S = 60
DEFAULT_SILENT_TIMEOUT_S = 3_600
DEFAULT_PORT_MIN = 30_000
DEFAULT_PORT_MAX = 40_000
DEFAULT_LOG_LEVEL = 6
DEFAULT_DRAIN_TIMEOUT_S = 3_600
_MAX_LOGIN = 4_096
ICE_MODES = ("optional", "default", "remove", "force")

Network = IPv4Network | IPv6Network

# Who may control a daemon that listens beyond loopback and has no --control-allow: the host and its private networks.
_LOCAL = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
LOCAL_NETWORKS = tuple(map(ip_network, (*_LOCAL, "::1/128", "fc00::/7", "fe80::/10")))


class ConfigError(Exception):
    """The options cannot be used; the text is one line that names the option, and the place in a file."""


class OptionError(ConfigError):
    """One option has a value that cannot be used; ``reason`` says why."""

    def __init__(self, option: str, reason: object) -> None:
        super().__init__(f"--{option}: {reason}")
        self.option = option
        self.reason = str(reason)


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
    """What command line and configuration file asked for, with every default filled in.

    ``advertised_ip`` and ``advertised_ip6`` are never None where the address that they stand for is set.
    An empty ``control_allow`` serves every source; ``control_allow_implied``: nobody chose the networks in it.
    ``trust_sdp``: offers and answers without a flag are treated as if they had ``trust address``; ``ice_default`` is
    what counts as their ``ICE``. ``srtp_suites`` are names of ``srtp.SUITES``, the preferred ones first.
    ``config_file`` is where the file is or would be, None if none is to be read.
    ``b2b_url`` may hold a password.
    ``http_allow`` are the networks that ``listen_http`` serves besides this host, ``http_name`` its names.
    """

    table: int
    no_fallback: bool
    ip: str
    advertised_ip: str
    ip6: str | None
    advertised_ip6: str | None
    listen_tcp: ListenEndpoint | None
    listen_udp: ListenEndpoint | None
    listen_ng: ListenEndpoint | None
    tos: int
    timeout_s: int
    silent_timeout_s: int
    final_timeout_s: int
    pidfile: str | None
    foreground: bool
    port_min: int
    port_max: int
    log_level: int
    log_stderr: bool
    log_facility: str
    log_format: str
    max_sessions: int
    drain_timeout_s: int
    num_threads: int
    endpoint_learning: Learning
    poll_pause_us: int
    trust_sdp: bool
    ice_default: str
    srtp_suites: tuple[str, ...]
    control_allow: tuple[Network, ...]
    control_allow_implied: bool
    config_file: str | None
    config_section: str
    b2b_url: str | None = field(repr=False)
    listen_http: ListenEndpoint | None
    listen_cli: ListenEndpoint | None
    http_allow: tuple[Network, ...]
    http_name: tuple[str, ...]
    redis: Address | None
    redis_db: int | None
    redis_sentinel: Sentinels | None
    redis_auth_file: Login | None
    redis_instance: str | None
    takeover: bool
    takeover_socket: str | None

    @property
    def instance(self) -> str:
        """Whose calls are kept, by default those of an address and its ports."""
        return self.redis_instance or f"{self.ip}-{self.port_min}"

    @property
    def redis_server(self) -> Server | None:
        """Where Redis is and how to get in, None where none is wanted."""
        sentinels, login = self.redis_sentinel or Sentinels("", ()), self.redis_auth_file
        if self.redis is None and not sentinels.name:
            return None
        user, password = (None, None) if login is None else login
        return Server(self.redis_db or 0, self.redis, sentinels.addresses, sentinels.name, user, password)

    @property
    def listeners(self) -> dict[str, ListenEndpoint]:
        """The control ports that were asked for, by option."""
        ports = {"listen-tcp": self.listen_tcp, "listen-udp": self.listen_udp, "listen-ng": self.listen_ng}
        return {name: port for name, port in ports.items() if port is not None}


def parse(argv: Sequence[str]) -> Config:
    """Read the arguments behind the program's name, and the configuration file.

    Raise SystemExit: status 0 after ``--help`` or ``--version``, 255 after one line on standard error.
    """
    try:
        return load(argv)
    except ConfigError as error:
        fail(error)


def load(argv: Sequence[str]) -> Config:
    """As :func:`parse`, but raise ConfigError where that ends the process with status 255."""
    values = _read_syntax(argv, {})
    if values["version"]:
        print(version_text())
        raise SystemExit(0)
    path, said = _read_file(values["config_file"], values["config_section"])
    values = _read_syntax(argv, {key: value for key, (value, _) in said.items()}) | {"config_file": path}
    places = {key.replace("_", "-"): where for key, (value, where) in said.items() if values[key] == value}
    del values["version"]
    try:
        for step in _STEPS:
            step(values)
    except OptionError as error:
        if error.option not in places:
            raise
        raise ConfigError(f"{places[error.option]}: {error.option}: {error.reason}") from None
    return Config(**values)


def fail(error: Exception) -> NoReturn:
    """End start-up with one line on standard error and status 255."""
    print(f"rtpengine: {error}", file=sys.stderr)
    raise SystemExit(EXIT_FAILURE)


def forwarding(config: Config, failure: str | None) -> str:
    """Say where media is forwarded; ``failure`` is why the kernel table cannot be used, None if it can.

    Raise ConfigError where there is a failure and ``--no-fallback`` rules userspace out.
    """
    if config.table < 0:
        return f"forwarding in userspace, since --table is negative ({config.table})"
    if failure is None:
        return f"forwarding in the kernel, with table {config.table}"
    if config.no_fallback:
        raise ConfigError(f"--no-fallback: kernel table {config.table} is not available, {failure}")
    return f"forwarding in userspace, since {failure}; table {config.table} is not used"


def control_warning(config: Config) -> str | None:
    """The line that an operator should see whose control ports are open to more than this host; else None."""
    if not config.control_allow_implied:
        return None
    exposed = [f"--{name} ({port.address})" for name, port in config.listeners.items() if not port.is_loopback]
    return (
        f"{' and '.join(exposed)} not on loopback, and the control protocols have no authentication: "
        "serving private and link-local sources only; name the SIP proxies with --control-allow"
    )


def http_warning(config: Config) -> str | None:
    """The line that an operator should see whose HTTP port is open to more than this host; else None."""
    if config.listen_http is None or config.listen_http.is_loopback:
        return None
    return (
        f"--listen-http ({config.listen_http.address}) not on loopback, and HTTP has no authentication here: "
        "everybody in --http-allow can see all calls"
    )


def help_text() -> str:
    """What ``--help`` prints: the options, in the order of the documentation."""
    return _parser().format_help()


def version_text() -> str:
    """One line: name, version and what it runs on."""
    return f"rtpengine {__version__} (Python {platform.python_version()}, {platform.machine()})"


_MAX_INTEGER = (1 << 31) - 1
# leading zeros aside, 32 bits need 11 digits; int() refuses thousands of them with an error of its own
_INTEGER = re.compile(r"[+-]?(?:0x[0-9a-f]{1,40}|0[0-7]{0,40}|[1-9][0-9]{0,40})", re.ASCII | re.IGNORECASE)


def _integer(value: str) -> int:
    """Read decimal, ``0x`` hexadecimal or leading-zero octal, of 32 bits."""
    if _INTEGER.fullmatch(value):
        number = int(re.sub("^([+-]?0)(?=[0-7])", r"\1o", value), base=0)
        if -(1 << 31) <= number < 1 << 31:
            return number
    raise ArgumentTypeError(f"{value!a} is not an integer of 32 bits")


def _ipv4(value: str) -> str:
    """A unicast IPv4 address in dotted-quad form; raise ValueError, as the other readers in _STEPS do."""
    address = IPv4Address(value)
    if address.is_unspecified or address.is_multicast or value == "255.255.255.255":
        raise ValueError(f"{value} is not an address that media can be sent from")
    return str(address)


def _ipv6(value: str) -> str:
    """A unicast IPv6 address, which may stand in brackets."""
    address = IPv6Address(value[1:-1] if value.startswith("[") and value.endswith("]") else value)
    if address.is_unspecified or address.is_multicast or address.ipv4_mapped or address.scope_id:
        raise ValueError(f"{value!a} is not an address that media can be sent from")
    return str(address)


_ENDPOINT = re.compile(r"(?:(?P<ip>[0-9.]+):|\[(?P<ip6>[^]%]*:[^]%]*)\]:)?(?P<port>[1-9][0-9]{0,4})")


def _endpoint(value: str) -> ListenEndpoint:
    """``PORT``, ``A.B.C.D:PORT`` or ``[IPv6]:PORT``; the first, and 0.0.0.0, mean any address of both families."""
    match = _ENDPOINT.fullmatch(value)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"{value!a} is not [IP:]PORT with a port of 1 to 65535, IPv6 in brackets")
    address = str(ip_address(match["ip"] or match["ip6"] or "::"))
    return ListenEndpoint("::" if address == "0.0.0.0" else address, int(match["port"]))


def _local_endpoint(value: str) -> ListenEndpoint:
    """As other listeners, but that a port alone means this host only."""
    return _endpoint(f"127.0.0.1:{value}" if value.isdigit() else value)


def _endpoint4(value: str) -> ListenEndpoint:
    if "[" in value:
        raise ValueError(f"{value!a} is not an IPv4 endpoint")
    return _endpoint(value)


def _within(low: int, high: int) -> Callable[[int], int]:
    def check(number: int) -> int:
        if not low <= number <= high:
            raise ValueError(f"{number} is outside {low} to {high}")
        return number

    return check


def _positive(default: int) -> Callable[[int], int]:
    """A time-out, where 0 and less have always meant the default."""
    return lambda number: number if number > 0 else default


def _pidfile(value: str) -> str:
    if not value:
        raise ValueError("the name of the file is empty")
    return _absolute(value)


def _absolute(path: str) -> str:
    """The path as seen from where the daemon was started; it changes its directory."""
    return path if os.path.isabs(path) else os.path.normpath(os.path.join(_start_directory(), path))


@cache
def _start_directory() -> str:
    return os.getcwd()


def _networks(value: str) -> tuple[Network, ...]:
    return tuple(ip_network(text.strip(), strict=False) for text in value.split(","))


_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9])?")


def _names(value: str) -> tuple[str, ...]:
    """Host names in any case."""
    names = tuple(name.strip().lower() for name in value.split(","))
    wrong = next((name for name in names if not _NAME.fullmatch(name)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!a} is not a host name")
    return names


def _login(path: str) -> Login:
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


def _suites(value: str) -> tuple[str, ...]:
    """Names of suites in any case, each once."""
    names = tuple(dict.fromkeys(name.strip().upper() for name in value.split(",")))
    unknown = next((name for name in names if name not in srtp.SUITES), None)
    if unknown is not None:
        raise ValueError(f"{unknown!a} is none of {', '.join(srtp.SUITES)}")
    return names


class _Option(NamedTuple):
    """One row of the option table; ``metavar``, which stands for the type too, is empty for a flag."""

    name: str
    short: str
    metavar: str
    text: str
    default: object = None


_SUITES = ",".join(name for name in srtp.SUITES if name not in srtp.WEAK)
_CPUS = min(len(os.sched_getaffinity(0)), MAX_THREADS)
_OPTIONS = (
    _Option("version", "v", "", "Print the version and exit"),
    _Option("table", "t", "INT", "Kernel table to use, negative for none (%(default)s)", 0),
    _Option("no-fallback", "F", "", "Refuse to start without kernel forwarding"),
    _Option("ip", "i", "IP", "Local IPv4 address for media (mandatory)"),
    _Option("advertised-ip", "a", "IP", "IPv4 address to write into SDP instead"),
    _Option("ip6", "I", "IP6", "Local IPv6 address for media"),
    _Option("advertised-ip6", "A", "IP6", "IPv6 address to write into SDP instead"),
    _Option("listen-tcp", "l", "[IP:]PORT", "TCP control port, OpenSER mediaproxy protocol"),
    _Option("listen-udp", "u", "[IP46:]PORT", "UDP control port, rtpproxy protocol"),
    _Option("listen-ng", "n", "[IP46:]PORT", "UDP control port, NG protocol"),
    _Option("tos", "T", "INT", "TOS octet of sent media packets, 0 to 255 (%(default)s)", 0),
    _Option("timeout", "o", "SECS", "End calls without media after this time (%(default)s)", DEFAULT_TIMEOUT_S),
    _Option("silent-timeout", "s", "SECS", "The same for calls on hold (%(default)s)", DEFAULT_SILENT_TIMEOUT_S),
    _Option("pidfile", "p", "FILE", "Write the process id to this file"),
    _Option("foreground", "f", "", "Stay in the foreground"),
    _Option("port-min", "m", "INT", "Lowest port for media (%(default)s)", DEFAULT_PORT_MIN),
    _Option("port-max", "M", "INT", "Highest port for media (%(default)s)", DEFAULT_PORT_MAX),
    _Option("redis", "r", "IP:PORT", "Redis server that calls are kept in"),
    _Option("redis-db", "R", "INT", "Number of the database there"),
    _Option("b2b-url", "b", "STRING", "XML-RPC URL that calls without media are reported to"),
    _Option("log-level", "L", "INT", "Log up to this level, 0 to 7 (%(default)s)", DEFAULT_LOG_LEVEL),
    _Option("help", "h", "", "Print this list and exit"),
)
_MORE_OPTIONS = (
    _Option("config-file", "", "FILE", f"INI file to read ({config_file.DEFAULT_FILE})"),
    _Option("config-section", "", "NAME", "Which section of that file (%(default)s)", config_file.DEFAULT_SECTION),
    _Option("log-facility", "", "NAME", "Syslog facility: daemon, user, local0 ... (%(default)s)", "daemon"),
    _Option("log-stderr", "", "", "Log to standard error instead of syslog"),
    _Option("log-format", "", "FORM", "Lines of the log: text or json (%(default)s)", "text"),
    _Option("max-sessions", "", "INT", "Refuse new calls beyond so many, 0 for no limit (%(default)s)", 0),
    _Option("final-timeout", "", "SECS", "Longest that a call may last, 0 for no limit (%(default)s)", 0),
    _Option("drain-timeout", "", "SECS", "End of a drain, 0 for none (%(default)s)", DEFAULT_DRAIN_TIMEOUT_S),
    _Option("control-allow", "", "NET[,NET...]", "Sources that control requests are accepted from"),
    _Option("trust-sdp", "", "", "Without a flag, trust the addresses in the SDP"),
    _Option("ice-default", "", "MODE", "ICE for ng: optional, default, remove or force (%(default)s)", "optional"),
    _Option("srtp-suites", "", "NAME[,NAME...]", "SRTP suites, the preferred first (all but F8, NULL)", _SUITES),
    _Option("endpoint-learning", "", "MODE", "heuristic, delayed, immediate or off (%(default)s)", "heuristic"),
    _Option("num-threads", "", "INT", f"Media threads, 1 to {MAX_THREADS} (one per CPU)", _CPUS),
    _Option("poll-pause", "", "USECS", "Longest pause between polls, 0 for none (%(default)s)", DEFAULT_POLL_PAUSE_US),
    _Option("listen-cli", "", "[IP:]PORT", "Port of rtpengine-ctl, 9900 is usual (a port alone: loopback)"),
    _Option("listen-http", "", "[IP:]PORT", "HTTP port: metrics, status page, NG (a port alone: loopback)"),
    _Option("http-allow", "", "NET[,NET...]", "Sources that HTTP serves besides this host"),
    _Option("http-name", "", "NAME[,NAME...]", "Host names that HTTP answers to"),
    _Option("redis-sentinel", "", "NAME@ADDRS", "Redis master, and IP:PORT,... of the Sentinels"),
    _Option("redis-auth-file", "", "FILE", "Password for Redis, with a user on a line before it"),
    _Option("redis-instance", "", "NAME", "Whose calls are kept and restored (--ip and --port-min)"),
    _Option("takeover", "", "", "Take the calls over from the daemon that runs now"),
    _Option("takeover-socket", "", "FILE", "Unix socket where the next daemon asks for them"),
)
_WITH_VALUE = [option for option in _OPTIONS + _MORE_OPTIONS if option.metavar]

# What argparse checks at once, by metavar or by name; the rest has its turn in _STEPS.
_INTEGERS = ("INT", "SECS", "USECS")
_CHOICES = {
    "log-facility": tuple(FACILITIES),
    "log-format": FORMATS,
    "endpoint-learning": tuple(mode.name.lower() for mode in Learning),
    "ice-default": ICE_MODES,
}


class _Formatter(HelpFormatter):
    """One line per option, with the long names below each other: ``  -t, --table=INT  Kernel table ...``."""

    def _format_action_invocation(self, action: Action) -> str:
        *short, long = action.option_strings
        return (f"{short[0]}, " if short else "    ") + long + (f"={action.metavar}" if action.metavar else "")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="rtpengine",
        usage="%(prog)s [OPTION...]",
        description="A media proxy for SIP, controlled by Kamailio or OpenSIPS. Defaults are given in parentheses.",
        formatter_class=lambda prog: _Formatter(prog, max_help_position=40, width=100),
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    for title, options in (("Options", _OPTIONS), ("Further options", _MORE_OPTIONS)):
        group = parser.add_argument_group(title)
        for option in options:
            short = [f"-{option.short}"] if option.short else []
            group.add_argument(*short, f"--{option.name}", help=option.text, **_kind(option))
    parser.add_argument("-?", action="help", help=SUPPRESS)
    return parser


def _kind(option: _Option) -> dict[str, Any]:
    """What argparse is told about an option with a value, or about a flag."""
    if not option.metavar:
        return {"action": "help" if option.name == "help" else "store_true"}
    checks = {"type": _integer if option.metavar in _INTEGERS else str, "choices": _CHOICES.get(option.name)}
    return {"metavar": option.metavar, "default": option.default, **checks}


_Values = dict[str, Any]
_Step = Callable[[_Values], None]


def _read_syntax(argv: Sequence[str], said: _Values) -> _Values:
    """Every option's value by its name with underscores, a string or an int; raise ConfigError or SystemExit.

    ``said`` are the values of options that the arguments do not name, in the place of their defaults.
    """
    try:
        given, unknown = _parser().parse_known_args(list(_attach_values(argv)), Namespace(**said))
    except ArgumentError as error:
        # argparse names an option by all its spellings
        raise ConfigError(f"{str(error.argument_name).rpartition('/')[2]}: {error.message}") from None
    if unknown:
        raise ConfigError(f"{unknown[0].partition('=')[0]!a}: no such option")
    for key, value in vars(given).items():
        if value == []:  # what CPython 3.11 makes of "--"
            raise ConfigError(f"--{key.replace('_', '-')}: '--' is not a value")
    return vars(given)


_LONG = {option.short: f"--{option.name}" for option in _WITH_VALUE if option.short}
_FLAGS = "".join(option.short for option in _OPTIONS if not option.metavar)
_CLUSTER = re.compile(rf"-([?{_FLAGS}]*)([{''.join(_LONG)}])")


def _attach_values(argv: Sequence[str]) -> Iterator[str]:
    """Put ``--table -1`` as ``--table=-1`` and ``-ft -1`` as ``-f --table=-1``; leave out what is no option.

    Detached, argparse would not take a value that begins with a dash.
    """
    names = {f"--{option.name}" for option in _WITH_VALUE}
    words = iter(argv)
    for word in takewhile("--".__ne__, words):
        if cluster := _CLUSTER.fullmatch(word):
            if cluster[1]:
                yield f"-{cluster[1]}"
            word = _LONG[cluster[2]]
        if word in names:
            value = next(words, None)
            yield word if value is None else f"{word}={value}"
        elif word.startswith("-") and word != "-":
            yield word


def _read_file(path: str | None, section: str) -> tuple[str | None, dict[str, config_file.Said]]:
    """The path of the configuration file, None for no file, and what it says, by option with underscores.

    Only a file that was not named may be absent; ``path`` is None then. Raise ConfigError.
    """
    if path == config_file.NONE:
        return None, {}
    file = config_file.DEFAULT_FILE if path is None else _absolute(path)
    parser = _parser()
    metavars = {option.name: option.metavar for option in _OPTIONS + _MORE_OPTIONS}

    def value_of(name: str, text: str) -> object:
        try:
            return getattr(parser.parse_args([f"--{name}={text}"]), name.replace("-", "_"))
        except ArgumentError as error:
            raise ValueError(error.message) from None

    try:
        said = config_file.values(file, section, metavars, value_of)
    except FileNotFoundError as error:
        if path is None:
            return file, {}
        raise OptionError("config-file", f"{path!a}: {error.strerror}") from None
    except config_file.FileError as error:
        raise ConfigError(str(error)) from None
    return file, {name.replace("-", "_"): value for name, value in said.items()}


# The steps


def _read(name: str, reader: Callable[[Any], object], unit: str = "") -> _Step:
    """A step that checks one option by itself and files its value under the field's name, with the unit."""
    key = name.replace("-", "_")

    def step(values: _Values) -> None:
        value = values.pop(key)
        try:
            values[key + unit] = None if value is None else reader(value)
        except ValueError as error:
            raise OptionError(name, error) from None

    return step


def _check_presence(values: _Values) -> None:
    if values["ip"] is None:
        raise OptionError("ip", "a local IPv4 address is mandatory")
    if values["listen_tcp"] is values["listen_udp"] is values["listen_ng"] is None:
        raise OptionError("listen-ng", "at least one of the control ports is mandatory")


def _check_advertised(values: _Values) -> None:
    if values["advertised_ip6"] and not values["ip6"]:
        raise OptionError("advertised-ip6", "needs --ip6")
    values["advertised_ip"] = values["advertised_ip"] or values["ip"]
    values["advertised_ip6"] = values["advertised_ip6"] or values["ip6"]


def _check_listeners(values: _Values) -> None:
    if values["listen_ng"] and values["listen_ng"] == values["listen_udp"]:
        raise OptionError("listen-ng", "same address and port as --listen-udp")


def _check_http(values: _Values) -> None:
    port = values["listen_http"]
    for name in ("http-allow", "http-name"):
        key = name.replace("-", "_")
        if port is None and values[key]:
            raise OptionError(name, "needs --listen-http")
        values[key] = values[key] or ()
    if port is not None and not port.is_loopback and not values["http_allow"]:
        raise OptionError("listen-http", f"{port.address} is not on loopback, say whom to serve with --http-allow")


def _check_cli(values: _Values) -> None:
    port = values["listen_cli"]
    if port is not None and not port.is_loopback and values["control_allow"] is None:
        raise OptionError("listen-cli", f"{port.address} is not on loopback, say whom to serve with --control-allow")


def _check_redis(values: _Values) -> None:
    names = [name for name in ("redis", "redis-sentinel") if values[name.replace("-", "_")] is not None]
    if len(names) > 1:
        raise OptionError("redis-sentinel", "finds the server, so --redis cannot name it")
    if names and (values["redis_db"] is None or values["redis_db"] < 0):
        raise OptionError("redis-db", f"a number of 0 or more is mandatory with --{names[0]}")
    for name in ("redis-db", "redis-auth-file", "redis-instance") if not names else ():
        if values[name.replace("-", "_")] is not None:
            raise OptionError(name, "needs --redis or --redis-sentinel")


def _check_ports(values: _Values) -> None:
    """There must be an even port and its successor, for RTP and RTCP."""
    low, high = values["port_min"], values["port_max"]
    if low >= high:
        raise OptionError("port-max", f"{high} is not above --port-min ({low})")
    if low + low % 2 + 1 > high:
        raise OptionError("port-max", f"{low} to {high} has no even port with an odd one behind it")


def _check_takeover(values: _Values) -> None:
    if values["takeover"] and values["takeover_socket"] is None:
        raise OptionError("takeover", "needs --takeover-socket")


def _imply_networks(values: _Values) -> None:
    ports = [values[name] for name in ("listen_tcp", "listen_udp", "listen_ng") if values[name]]
    implied = values["control_allow"] is None and not all(port.is_loopback for port in ports)
    values["control_allow"] = LOCAL_NETWORKS if implied else values["control_allow"] or ()
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
    _read("tos", _within(0, 255)),
    _read("redis", parse_address),
    _read("redis-sentinel", parse_sentinels),
    _check_redis,
    _read("log-level", _within(0, 7)),
    _read("timeout", _positive(DEFAULT_TIMEOUT_S), "_s"),
    _read("silent-timeout", _positive(DEFAULT_SILENT_TIMEOUT_S), "_s"),
    _read("final-timeout", _within(0, _MAX_INTEGER), "_s"),
    _read("pidfile", _pidfile),
    _read("port-min", _within(1, 65_535)),
    _read("port-max", _within(1, 65_535)),
    _check_ports,
    _read("max-sessions", _within(0, _MAX_INTEGER)),
    _read("drain-timeout", _within(0, _MAX_INTEGER), "_s"),
    _read("control-allow", _networks),
    _read("srtp-suites", _suites),
    _read("endpoint-learning", lambda name: Learning[name.upper()]),
    _read("num-threads", _within(1, MAX_THREADS)),
    _read("poll-pause", _within(0, MAX_POLL_PAUSE_US), "_us"),
    _read("b2b-url", b2bua.check_url),
    _read("listen-cli", _local_endpoint),
    _check_cli,
    _read("listen-http", _local_endpoint),
    _read("http-allow", _networks),
    _read("http-name", _names),
    _check_http,
    _read("redis-auth-file", _login),
    _read("redis-instance", parse_instance),
    _read("takeover-socket", _pidfile),
    _check_takeover,
    _imply_networks,
)
