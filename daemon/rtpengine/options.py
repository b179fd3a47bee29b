"""The options that there are, and how argparse is made to read them.

There are two differences from what argparse does, which scripts rely on (daemon-process.md 1.2): a value may begin with
a dash (``--table -1``), and arguments that are no options are ignored.
"""

from __future__ import annotations

import os
import re
from argparse import SUPPRESS, Action, ArgumentError, ArgumentParser, HelpFormatter, Namespace
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from rtpengine import config_file, packetpath, srtp
from rtpengine.log import FACILITIES, FORMATS
from rtpengine.media import Learning
from rtpengine.option_values import integer

DEFAULT_POLL_PAUSE_US = packetpath.DEFAULT_PAUSE_US
MAX_POLL_PAUSE_US = packetpath.MAX_PAUSE_US
MAX_THREADS = packetpath.MAX_WORKERS
DEFAULT_TIMEOUT_S = 60
DEFAULT_SILENT_TIMEOUT_S = 3_600
DEFAULT_PORT_MIN = 30_000
DEFAULT_PORT_MAX = 40_000
DEFAULT_LOG_LEVEL = 6
DEFAULT_DRAIN_TIMEOUT_S = 3_600
ICE_MODES = ("optional", "default", "remove", "force")

Values = dict[str, Any]


class ConfigError(Exception):
    """The options cannot be used; the text is one line that names the option, and the place in a file."""


class OptionError(ConfigError):
    """One option has a value that cannot be used; ``reason`` says why."""

    def __init__(self, option: str, reason: object) -> None:
        super().__init__(f"--{option}: {reason}")
        self.option = option
        self.reason = str(reason)


class Option(NamedTuple):
    """One row of the option table; ``metavar``, which stands for the type too, is empty for a flag."""

    name: str
    short: str
    metavar: str
    text: str
    default: object = None


_SUITES = ",".join(name for name in srtp.SUITES if name not in srtp.WEAK)
_CPUS = min(len(os.sched_getaffinity(0)), MAX_THREADS)
OPTIONS = (
    Option("version", "v", "", "Print the version and exit"),
    Option("table", "t", "INT", "Kernel table to use, negative for none (%(default)s)", 0),
    Option("no-fallback", "F", "", "Refuse to start without kernel forwarding"),
    Option("ip", "i", "IP", "Local IPv4 address for media (mandatory)"),
    Option("advertised-ip", "a", "IP", "IPv4 address to write into SDP instead"),
    Option("ip6", "I", "IP6", "Local IPv6 address for media"),
    Option("advertised-ip6", "A", "IP6", "IPv6 address to write into SDP instead"),
    Option("listen-tcp", "l", "[IP:]PORT", "TCP control port, OpenSER mediaproxy protocol"),
    Option("listen-udp", "u", "[IP46:]PORT", "UDP control port, rtpproxy protocol"),
    Option("listen-ng", "n", "[IP46:]PORT", "UDP control port, NG protocol"),
    Option("tos", "T", "INT", "TOS octet of sent media packets, 0 to 255 (%(default)s)", 0),
    Option("timeout", "o", "SECS", "End calls without media after this time (%(default)s)", DEFAULT_TIMEOUT_S),
    Option("silent-timeout", "s", "SECS", "The same for calls on hold (%(default)s)", DEFAULT_SILENT_TIMEOUT_S),
    Option("pidfile", "p", "FILE", "Write the process id to this file"),
    Option("foreground", "f", "", "Stay in the foreground"),
    Option("port-min", "m", "INT", "Lowest port for media (%(default)s)", DEFAULT_PORT_MIN),
    Option("port-max", "M", "INT", "Highest port for media (%(default)s)", DEFAULT_PORT_MAX),
    Option("redis", "r", "IP:PORT", "Redis server that calls are kept in"),
    Option("redis-db", "R", "INT", "Number of the database there"),
    Option("b2b-url", "b", "STRING", "XML-RPC URL that calls without media are reported to"),
    Option("log-level", "L", "INT", "Log up to this level, 0 to 7 (%(default)s)", DEFAULT_LOG_LEVEL),
    Option("help", "h", "", "Print this list and exit"),
)
MORE_OPTIONS = (
    Option("config-file", "", "FILE", f"INI file to read ({config_file.DEFAULT_FILE})"),
    Option("config-section", "", "NAME", "Which section of that file (%(default)s)", config_file.DEFAULT_SECTION),
    Option("log-facility", "", "NAME", "Syslog facility: daemon, user, local0 ... (%(default)s)", "daemon"),
    Option("log-stderr", "", "", "Log to standard error instead of syslog"),
    Option("log-format", "", "FORM", "Lines of the log: text or json (%(default)s)", "text"),
    Option("max-sessions", "", "INT", "Refuse new calls beyond so many, 0 for no limit (%(default)s)", 0),
    Option("final-timeout", "", "SECS", "Longest that a call may last, 0 for no limit (%(default)s)", 0),
    Option("drain-timeout", "", "SECS", "End of a drain, 0 for none (%(default)s)", DEFAULT_DRAIN_TIMEOUT_S),
    Option("control-allow", "", "NET[,NET...]", "Sources that control requests are accepted from"),
    Option("trust-sdp", "", "", "Without a flag, trust the addresses in the SDP"),
    Option("ice-default", "", "MODE", "ICE for ng: optional, default, remove or force (%(default)s)", "optional"),
    Option("srtp-suites", "", "NAME[,NAME...]", "SRTP suites, the preferred first (all but F8, NULL)", _SUITES),
    Option("endpoint-learning", "", "MODE", "heuristic, delayed, immediate or off (%(default)s)", "heuristic"),
    Option("num-threads", "", "INT", f"Media threads, 1 to {MAX_THREADS} (one per CPU)", _CPUS),
    Option("poll-pause", "", "USECS", "Longest pause between polls, 0 for none (%(default)s)", DEFAULT_POLL_PAUSE_US),
    Option("listen-cli", "", "[IP:]PORT", "Port of rtpengine-ctl, 9900 is usual (a port alone: loopback)"),
    Option("listen-http", "", "[IP:]PORT", "HTTP port: metrics, status page, NG (a port alone: loopback)"),
    Option("http-allow", "", "NET[,NET...]", "Sources that HTTP serves besides this host"),
    Option("http-name", "", "NAME[,NAME...]", "Host names that HTTP answers to"),
    Option("redis-sentinel", "", "NAME@ADDRS", "Redis master, and IP:PORT,... of the Sentinels"),
    Option("redis-auth-file", "", "FILE", "Password for Redis, with a user on a line before it"),
    Option("redis-instance", "", "NAME", "Whose calls are kept and restored (--ip and --port-min)"),
    Option("takeover", "", "", "Take the calls over from the daemon that runs now"),
    Option("takeover-socket", "", "FILE", "Unix socket where the next daemon asks for them"),
)
ALL_OPTIONS = OPTIONS + MORE_OPTIONS
_WITH_VALUE = [option for option in ALL_OPTIONS if option.metavar]

# What argparse checks at once, by metavar or by name; the rest has its turn in config.py.
_INTEGERS = ("INT", "SECS", "USECS")
CHOICES = {
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


def build_parser() -> ArgumentParser:
    """What reads single options; raises ArgumentError instead of ending the process."""
    parser = ArgumentParser(
        prog="rtpengine",
        usage="%(prog)s [OPTION...]",
        description="A media proxy for SIP, controlled by Kamailio or OpenSIPS. Defaults are given in parentheses.",
        formatter_class=lambda prog: _Formatter(prog, max_help_position=40, width=100),
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    for title, options in (("Options", OPTIONS), ("Further options", MORE_OPTIONS)):
        group = parser.add_argument_group(title)
        for option in options:
            short = [f"-{option.short}"] if option.short else []
            group.add_argument(*short, f"--{option.name}", help=option.text, **_kind(option))
    parser.add_argument("-?", action="help", help=SUPPRESS)
    return parser


def _kind(option: Option) -> dict[str, Any]:
    """What argparse is told about an option with a value, or about a flag."""
    if not option.metavar:
        return {"action": "help" if option.name == "help" else "store_true"}
    checks = {"type": integer if option.metavar in _INTEGERS else str, "choices": CHOICES.get(option.name)}
    return {"metavar": option.metavar, "default": option.default, **checks}


def read_syntax(argv: Sequence[str], said: Values) -> Values:
    """Every option's value by its name with underscores, a string or an int; raise ConfigError or SystemExit.

    ``said`` are the values of options that the arguments do not name, in the place of their defaults.
    """
    try:
        given, unknown = build_parser().parse_known_args(list(_attach_values(argv)), Namespace(**said))
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
_FLAGS = "".join(option.short for option in OPTIONS if not option.metavar)
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
