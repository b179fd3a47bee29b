"""The commands of rtpengine-ctl: words in, plain values out.

The table COMMANDS is what `usage` shows, what the tool's help is made of, and where a command is looked up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from rtpengine import NOTICE, ProtocolError

if TYPE_CHECKING:  # the tool shall not wait for all of the engine to be loaded
    from rtpengine.operations import Operations

log = logging.getLogger(__name__)

MAX_SECONDS = (1 << 31) - 1
# What can be set, each with its lowest and highest value, and the option behind it.
SETTINGS = {
    "maxsessions": (0, MAX_SECONDS),
    "timeout": (1, MAX_SECONDS),
    "silenttimeout": (1, MAX_SECONDS),
    "finaltimeout": (0, MAX_SECONDS),
    "loglevel": (0, 7),
}
OPTIONS = {
    "maxsessions": "max-sessions",
    "timeout": "timeout",
    "silenttimeout": "silent-timeout",
    "finaltimeout": "final-timeout",
    "loglevel": "log-level",
}

DEFAULT_TOP = 20
MAX_TOP = 500
# So much of an order is logged.
MAX_LOGGED = 200


class When(NamedTuple):
    """The time of a command: monotonic seconds, and UNIX time."""

    now: float
    wall: float


Run = Callable[["Operations", Sequence[str], When], Any]


class Command(NamedTuple):
    """``words`` name it, with CALLID for an argument among them; those in brackets may be left out.

    One that ``is_order`` changes something, and is logged with who has given it.
    """

    words: str
    arguments: str
    text: str
    run: Run
    is_order: bool = False

    @property
    def synopsis(self) -> str:
        """How it is written."""
        return f"{self.words} {self.arguments}".rstrip()

    @property
    def counts(self) -> range:
        """How many arguments it can have."""
        names = ["CALLID"] * ("CALLID" in self.words) + self.arguments.split()
        return range(sum(not name.startswith("[") for name in names), len(names) + 1)


def execute(operations: Operations, words: list[str], when: When, source: str) -> Any:
    """Run the command that ``words`` say, and ``source`` gives; ProtocolError if they say none, or it fails."""
    command, arguments = _find(words)
    if len(arguments) not in command.counts:
        raise ProtocolError(f"usage: {command.synopsis}")
    if command.is_order:
        log.log(NOTICE, "ordered by %s: %s", source, " ".join(words)[:MAX_LOGGED])
    return command.run(operations, arguments, when)


def _find(words: list[str]) -> tuple[Command, list[str]]:
    """The command with the most words that these begin with, and the rest of them."""
    for count in (2, 1):
        command = _BY_WORDS.get(" ".join(words[:count]))
        if command is not None and len(words) >= count:
            return command, words[count:]
    if words[:1] == ["call"]:
        command = _OF_CALLS.get(" ".join(words[2:]))
        if command is not None:
            return command, [words[1]]
    raise ProtocolError(_unknown(" ".join(words[:2])))


def _unknown(said: str) -> str:
    near = get_close_matches(said, [command.words for command in COMMANDS], 1)
    return f"no such command: {said[:60]!a}" + (f", is it {near[0]}?" if near else "; usage lists them all")


def _list_sessions(operations: Operations, arguments: Sequence[str], when: When) -> Any:
    if arguments and arguments[0] != "all":
        return operations.session(arguments[0], when.now, when.wall)
    return operations.sessions(when.now)


def _terminate(operations: Operations, arguments: Sequence[str], when: When) -> Any:
    if arguments[0] == "all":
        return operations.terminate_all(when.now)
    return operations.terminate(arguments[0], when.now)


def _top(operations: Operations, arguments: Sequence[str], when: When) -> Any:
    count = arguments[0] if arguments else str(DEFAULT_TOP)
    if not (count.isascii() and count.isdigit() and len(count) < 4 and 1 <= int(count) <= MAX_TOP):
        raise ProtocolError(f"top shows 1 to {MAX_TOP} calls")
    return operations.top(int(count), when.now)


def _drain(operations: Operations, arguments: Sequence[str], when: When) -> Any:
    return operations.drain(arguments[0] if arguments else None, when.now)


def _getter(name: str) -> Run:
    return lambda operations, arguments, when: {name: operations.setting(name)}


def _setter(name: str) -> Run:
    return lambda operations, arguments, when: {name: operations.set(name, arguments[0], when.now)}


def _order(words: str, arguments: str, text: str, run: Run) -> Command:
    return Command(words, arguments, text, run, is_order=True)


_TEXTS = {
    "maxsessions": "how many calls may be there at once, 0 for no limit",
    "timeout": "seconds without media after which a call ends",
    "silenttimeout": "the same for calls on hold",
    "finaltimeout": "seconds that a call may last, 0 for no limit",
    "loglevel": "up to which level is logged, 0 to 7",
}

COMMANDS = (
    Command("status", "", "how the daemon is, in short", lambda o, a, w: o.status(w.now)),
    Command("top", "[COUNT]", "live: totals, and the busiest calls", _top),
    Command("why", "CALLID", "what each stream of a call does, and what has happened", lambda o, a, w: o.why(a[0], *w)),
    Command("list numsessions", "", "how many calls there are", lambda o, a, w: {"sessions": o.count()}),
    Command("list sessions", "[CALLID|all]", "the calls, or the statistics of one", _list_sessions),
    Command("list totals", "", "what has been since the start", lambda o, a, w: o.totals(w.now)),
    Command("list interfaces", "", "local addresses, and how many ports are used", lambda o, a, w: o.interfaces()),
    Command("list jsonstats", "", "all figures at once", lambda o, a, w: o.statistics(w.now)),
    *(Command(f"list {name}", "", _TEXTS[name], _getter(name)) for name in SETTINGS),
    *(_order(f"set {name}", "VALUE", "change that until the daemon ends", _setter(name)) for name in SETTINGS),
    _order("terminate", "CALLID|all", "end a call, or all of them", _terminate),
    Command("call CALLID info", "", "the statistics of a call", lambda o, a, w: o.session(a[0], *w)),
    _order("call CALLID terminate", "", "end a call", lambda o, a, w: o.terminate(a[0], w.now)),
    _order("call CALLID debug on", "", "log all about a call", lambda o, a, w: o.debug(a[0], on=True)),
    _order("call CALLID debug off", "", "no longer do that", lambda o, a, w: o.debug(a[0], on=False)),
    _order("drain", "[SECONDS]", "take no new calls, end with the last one", _drain),
    _order("undrain", "", "take new calls again", lambda o, a, w: o.undrain()),
    _order("replace", "", "start the installed version, which takes over without a gap", lambda o, a, w: o.replace()),
    Command("params", "", "the options in force", lambda o, a, w: o.parameters()),
    Command("usage", "", "this list", lambda o, a, w: usage()),
)  # fmt: skip
_CALL = "call CALLID "
_BY_WORDS = {command.words: command for command in COMMANDS if not command.words.startswith(_CALL)}
_OF_CALLS = {command.words.removeprefix(_CALL): command for command in COMMANDS if command.words.startswith(_CALL)}


def usage() -> list[dict[str, str]]:
    """All commands, with what they do."""
    return [{"command": command.synopsis, "does": command.text} for command in COMMANDS]
