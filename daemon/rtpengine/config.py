"""The configuration: what command line and file say, checked, and the frozen :class:`Config` that comes out."""

from __future__ import annotations

import platform
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, NoReturn

from rtpengine import __version__, b2bua, config_file
from rtpengine.media import Learning
from rtpengine.option_values import (
    MAX_INTEGER,
    ListenEndpoint,
    Network,
    absolute,
    endpoint,
    endpoint4,
    file_path,
    host_names,
    ipv4,
    ipv6,
    local_endpoint,
    networks,
    positive,
    read_login,
    suites,
    within,
)
from rtpengine.options import (
    ALL_OPTIONS,
    DEFAULT_SILENT_TIMEOUT_S,
    DEFAULT_TIMEOUT_S,
    MAX_POLL_PAUSE_US,
    MAX_THREADS,
    ConfigError,
    OptionError,
    Values,
    build_parser,
    read_syntax,
)
from rtpengine.redis_server import Address, Login, Sentinels, Server, parse_address, parse_instance, parse_sentinels

EXIT_FAILURE = 255
# Who may control a daemon that listens beyond loopback and has no --control-allow: the host and its private networks.
_LOCAL = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
LOCAL_NETWORKS = tuple(map(ip_network, (*_LOCAL, "::1/128", "fc00::/7", "fe80::/10")))


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
    values = read_syntax(argv, {})
    if values["version"]:
        print(version_text())
        raise SystemExit(0)
    path, said = _read_file(values["config_file"], values["config_section"])
    values = read_syntax(argv, {key: value for key, (value, _) in said.items()}) | {"config_file": path}
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
    return build_parser().format_help()


def version_text() -> str:
    """One line: name, version and what it runs on."""
    return f"rtpengine {__version__} (Python {platform.python_version()}, {platform.machine()})"


_Step = Callable[[Values], None]


def _read_file(path: str | None, section: str) -> tuple[str | None, dict[str, config_file.Said]]:
    """The path of the configuration file, None for no file, and what it says, by option with underscores.

    Only a file that was not named may be absent; ``path`` is None then. Raise ConfigError.
    """
    if path == config_file.NONE:
        return None, {}
    file = config_file.DEFAULT_FILE if path is None else absolute(path)
    parser = build_parser()
    metavars = {option.name: option.metavar for option in ALL_OPTIONS}

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

    def step(values: Values) -> None:
        value = values.pop(key)
        try:
            values[key + unit] = None if value is None else reader(value)
        except ValueError as error:
            raise OptionError(name, error) from None

    return step


def _check_presence(values: Values) -> None:
    if values["ip"] is None:
        raise OptionError("ip", "a local IPv4 address is mandatory")
    if values["listen_tcp"] is values["listen_udp"] is values["listen_ng"] is None:
        raise OptionError("listen-ng", "at least one of the control ports is mandatory")


def _check_advertised(values: Values) -> None:
    if values["advertised_ip6"] and not values["ip6"]:
        raise OptionError("advertised-ip6", "needs --ip6")
    values["advertised_ip"] = values["advertised_ip"] or values["ip"]
    values["advertised_ip6"] = values["advertised_ip6"] or values["ip6"]


def _check_listeners(values: Values) -> None:
    if values["listen_ng"] and values["listen_ng"] == values["listen_udp"]:
        raise OptionError("listen-ng", "same address and port as --listen-udp")


def _check_http(values: Values) -> None:
    port = values["listen_http"]
    for name in ("http-allow", "http-name"):
        key = name.replace("-", "_")
        if port is None and values[key]:
            raise OptionError(name, "needs --listen-http")
        values[key] = values[key] or ()
    if port is not None and not port.is_loopback and not values["http_allow"]:
        raise OptionError("listen-http", "the address is not on loopback, say whom to serve with --http-allow")


def _check_cli(values: Values) -> None:
    port = values["listen_cli"]
    if port is not None and not port.is_loopback and values["control_allow"] is None:
        raise OptionError("listen-cli", "the address is not on loopback, say whom to serve with --control-allow")


def _check_redis(values: Values) -> None:
    names = [name for name in ("redis", "redis-sentinel") if values[name.replace("-", "_")] is not None]
    if len(names) > 1:
        raise OptionError("redis-sentinel", "finds the server, so --redis cannot name it")
    if names and (values["redis_db"] is None or values["redis_db"] < 0):
        raise OptionError("redis-db", f"a number of 0 or more is mandatory with --{names[0]}")
    for name in ("redis-db", "redis-auth-file", "redis-instance") if not names else ():
        if values[name.replace("-", "_")] is not None:
            raise OptionError(name, "needs --redis or --redis-sentinel")


def _check_ports(values: Values) -> None:
    """There must be an even port and its successor, for RTP and RTCP."""
    low, high = values["port_min"], values["port_max"]
    if low >= high:
        raise OptionError("port-max", f"{high} is not above --port-min ({low})")
    if low + low % 2 + 1 > high:
        raise OptionError("port-max", f"{low} to {high} has no even port with an odd one behind it")


def _check_takeover(values: Values) -> None:
    if values["takeover"] and values["takeover_socket"] is None:
        raise OptionError("takeover", "needs --takeover-socket")


def _imply_networks(values: Values) -> None:
    ports = [values[name] for name in ("listen_tcp", "listen_udp", "listen_ng") if values[name]]
    implied = values["control_allow"] is None and not all(port.is_loopback for port in ports)
    values["control_allow"] = LOCAL_NETWORKS if implied else values["control_allow"] or ()
    values["control_allow_implied"] = implied


# The order is that of daemon-process.md 1.3, then that of the help: of several mistakes the first one here is told.
_STEPS: tuple[_Step, ...] = (
    _check_presence,
    _read("ip", ipv4),
    _read("advertised-ip", ipv4),
    _read("ip6", ipv6),
    _read("advertised-ip6", ipv6),
    _check_advertised,
    _read("listen-tcp", endpoint4),
    _read("listen-udp", endpoint),
    _read("listen-ng", endpoint),
    _check_listeners,
    _read("tos", within(0, 255)),
    _read("redis", parse_address),
    _read("redis-sentinel", parse_sentinels),
    _check_redis,
    _read("log-level", within(0, 7)),
    _read("timeout", positive(DEFAULT_TIMEOUT_S), "_s"),
    _read("silent-timeout", positive(DEFAULT_SILENT_TIMEOUT_S), "_s"),
    _read("final-timeout", within(0, MAX_INTEGER), "_s"),
    _read("pidfile", file_path),
    _read("port-min", within(1, 65_535)),
    _read("port-max", within(1, 65_535)),
    _check_ports,
    _read("max-sessions", within(0, MAX_INTEGER)),
    _read("drain-timeout", within(0, MAX_INTEGER), "_s"),
    _read("control-allow", networks),
    _read("srtp-suites", suites),
    _read("endpoint-learning", lambda name: Learning[name.upper()]),
    _read("num-threads", within(1, MAX_THREADS)),
    _read("poll-pause", within(0, MAX_POLL_PAUSE_US), "_us"),
    _read("b2b-url", b2bua.check_url),
    _read("listen-cli", local_endpoint),
    _check_cli,
    _read("listen-http", local_endpoint),
    _read("http-allow", networks),
    _read("http-name", host_names),
    _check_http,
    _read("redis-auth-file", read_login),
    _read("redis-instance", parse_instance),
    _read("takeover-socket", file_path),
    _check_takeover,
    _imply_networks,
)
