"""Logging: the call at work as context, one line per message, syslog or standard error.

Code logs through the standard ``logging``. What is said here about levels uses syslog's numbers, 0 (emergency)
to 7 (debug), since those are what operators set.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rtpengine import NOTICE

FORMATS = ("text", "json")
SYSLOG_SOCKET = "/dev/log"
MAX_PREFIX = 255

# syslog(3): the facilities that a program other than the kernel may use
_NAMES = ("user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
FACILITIES = {name: number for number, name in enumerate(_NAMES, start=1)} | {f"local{n}": 16 + n for n in range(8)}


class _Level(NamedTuple):
    name: str
    threshold: int


# Indexed by the syslog level.
_LEVELS = (
    _Level("EMERGENCY", 70),
    _Level("ALERT", 60),
    _Level("CRITICAL", logging.CRITICAL),
    _Level("ERROR", logging.ERROR),
    _Level("WARNING", logging.WARNING),
    _Level("NOTICE", NOTICE),
    _Level("INFO", logging.INFO),
    _Level("DEBUG", logging.DEBUG),
)
for _level in _LEVELS:
    logging.addLevelName(_level.threshold, _level.name)

# The subsystem of a line, by module; what has none is of the core.
_SUBSYSTEMS = {
    **dict.fromkeys(("control", "control_tcp", "service", "rtpproxy_service", "openser_service"), "control"),
    **dict.fromkeys(("control_cli", "operator_commands"), "control"),
    **dict.fromkeys(("peering", "dtls", "dtls_association"), "peering"),
    **dict.fromkeys(("offload", "kernel"), "kernel"),
    **dict.fromkeys(("transport", "ports"), "ports"),
    **dict.fromkeys(("store", "snapshot", "persistence"), "redis"),
    **dict.fromkeys(("handover", "fdstore", "replacement"), "takeover"),
    "b2bua": "b2bua",
    "web": "http",
}

_context: ContextVar[tuple[str, int | None] | None] = ContextVar("call at work", default=None)

log = logging.getLogger(__name__)


class call_context:
    """Everything logged inside names this call, and the local media port if one is given; "" names nothing."""

    __slots__ = ("_token", "_value")
    _token: Token[tuple[str, int | None] | None]

    def __init__(self, call_id: str, port: int | None = None) -> None:
        self._value = (call_id, port) if call_id else None

    def __enter__(self) -> None:
        self._token = _context.set(self._value)

    def __exit__(self, *_: object) -> None:
        _context.reset(self._token)


def prefix() -> str:
    """``[CALL-ID]`` or ``[CALL-ID port NNNNN]`` of the call at work, cut to 255 characters; empty without one."""
    context = _context.get()
    if context is None:
        return ""
    call_id, port = context
    text = f"[{printable(call_id)}]" if port is None else f"[{printable(call_id)} port {port:5d}]"
    return text[:MAX_PREFIX]


def printable(text: str) -> str:
    """``text`` with everything escaped that could end the line or forge another one."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def syslog_level(threshold: int) -> int:
    """The syslog level, 0 to 7, of a level of ``logging``; one between two counts as the less severe."""
    return next((number for number, level in enumerate(_LEVELS) if threshold >= level.threshold), 7)


class LineFormatter(logging.Formatter):
    """One line per record, ``[CALL-ID] text``; the lines of a traceback follow it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        lines = [self.line(prefix(), record)]
        if record.exc_info:
            lines += ["  " + printable(line) for line in self.formatException(record.exc_info).splitlines()]
        return "\n".join(lines)

    def line(self, call: str, record: logging.LogRecord) -> str:
        """Join prefix and message; ``call`` is empty outside of calls."""
        text = printable(record.getMessage())
        return f"{call} {text}" if call else text


class LevelFormatter(LineFormatter):
    """``LEVEL: [CALL-ID]: [SUBSYSTEM] text``, as operators read it on standard error (operations.md 3)."""

    def line(self, call: str, record: logging.LogRecord) -> str:
        whose = f"{call}: " if call else ""
        return f"{record.levelname}: {whose}[{_subsystem(record)}] {printable(record.getMessage())}"


class JournalFormatter(logging.Formatter):
    """``<N>[CALL-ID] text``: systemd reads the level from the number in front (sd-daemon(3)), on every line."""

    def __init__(self, lines: logging.Formatter | None = None) -> None:
        super().__init__()
        self._lines = lines or LineFormatter()

    def format(self, record: logging.LogRecord) -> str:
        number = f"<{syslog_level(record.levelno)}>"
        return number + self._lines.format(record).replace("\n", "\n" + number)


class JsonFormatter(logging.Formatter):
    """One JSON object per record: ``ts`` (RFC 3339, UTC), ``level``, ``call_id``, ``subsystem``, ``message``.

    ``call_id`` is null outside of calls. ``port`` is there with a media port, ``traceback`` with an error of ours.
    """

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        call_id, port = _context.get() or (None, None)
        line: dict[str, Any] = {
            "ts": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "call_id": None if call_id is None else _encodable(call_id),
            "subsystem": _subsystem(record),
            "message": _encodable(record.getMessage()),
        }
        if port is not None:
            line["port"] = port
        if record.exc_info:
            line["traceback"] = _encodable(self.formatException(record.exc_info))
        return json.dumps(line)


def _subsystem(record: logging.LogRecord) -> str:
    return _SUBSYSTEMS.get(record.name.rpartition(".")[2], "core")


def _encodable(text: str) -> str:
    """``text`` with bytes that are no UTF-8 as escapes; readers of JSON want no lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


class SyslogHandler(logging.Handler):
    """Datagrams to the local syslog socket.

    The standard handler waits for a syslog daemon that does not read, which would stop the control ports. This one
    drops the message, and says how many were lost as soon as one passes again.
    """

    def __init__(self, facility: int, path: str, lines: logging.Formatter | None = None) -> None:
        super().__init__()
        self._facility = facility
        self._path = path
        self._socket: socket.socket | None = None
        self._lost = 0
        self.setFormatter(lines or LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        if not self._send(syslog_level(record.levelno), self.format(record)):
            self._lost += 1
        elif self._lost and self._send(syslog_level(logging.WARNING), f"{self._lost} log messages were lost"):
            self._lost = 0

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, level: int, text: str) -> bool:
        message = f"<{self._facility * 8 + level}>rtpengine[{os.getpid()}]: {text}".encode()
        for _ in range(2):  # the second time over a new socket, if syslog was restarted
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.setblocking(False)
                    self._socket.connect(self._path)
                self._socket.send(message)
                return True
            except BlockingIOError:
                return False
            except OSError:
                self._disconnect()
        return False


def setup(
    level: int, facility: str = "daemon", form: str = "text", *, foreground: bool, log_stderr: bool = False
) -> None:
    """Replace all handlers; ``level`` 0 to 7, ``facility`` one of FACILITIES, ``form`` one of FORMATS.

    A daemon logs to syslog; in the foreground standard error shows the same lines. ``log_stderr``, or a standard
    error that leads to the journal already, means standard error alone. So does a foreground without /dev/log.
    """
    handlers: list[logging.Handler] = []
    journal = foreground and _stderr_is_journal()
    if foreground or log_stderr:
        stream = logging.StreamHandler(sys.stderr)
        lines = JsonFormatter() if form == "json" else None
        stream.setFormatter(JournalFormatter(lines) if journal else lines or LevelFormatter())
        handlers.append(stream)
    if not log_stderr and not journal and (not foreground or os.path.exists(SYSLOG_SOCKET)):
        lines = JsonFormatter() if form == "json" else None
        handlers.append(SyslogHandler(FACILITIES[facility], SYSLOG_SOCKET, lines))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.addFilter(_passes)
        root.addHandler(handler)
    set_level(level)


def _stderr_is_journal() -> bool:
    """Whether systemd connected standard error to the journal; a shell under it inherits the variable, not that."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def set_level(level: int) -> None:
    """Let messages of this syslog level, 0 to 7, and of more severe ones pass."""
    global _threshold
    _threshold = _LEVELS[level].threshold
    logging.getLogger().setLevel(logging.DEBUG if _debugged else _threshold)


def level() -> int:
    """The syslog level up to which messages pass."""
    return syslog_level(_threshold if _debugged else logging.getLogger().level)


# What is debugged call by call. Meanwhile everything is made up to be logged, and sieved here.
_debugged: set[str] = set()
_threshold = logging.INFO


def debug_call(call_id: str, on: bool) -> None:
    """Log all about one call whatever the level is, or do so no longer."""
    current = level()
    if on:
        _debugged.add(call_id)
    else:
        _debugged.discard(call_id)
    set_level(current)


def is_debugged(call_id: str) -> bool:
    """Whether all about a call is logged."""
    return call_id in _debugged


def _passes(record: logging.LogRecord) -> bool:
    if not _debugged or record.levelno >= _threshold:
        return True
    context = _context.get()
    return context is not None and context[0] in _debugged


def raise_level() -> None:
    """One level more, at most 7 (SIGUSR2)."""
    _change_level(+1)


def lower_level() -> None:
    """One level less, at least 0 (SIGUSR1)."""
    _change_level(-1)


def _change_level(step: int) -> None:
    new = min(max(level() + step, 0), 7)
    set_level(new)
    log.log(_LEVELS[new].threshold, "log level is now %d", new)


class RateLimited:
    """Warnings that packets or strangers can cause: some per interval, then a count of what was held back.

    ``now`` tells seconds; at most ``burst`` messages pass in each ``interval_s``.
    """

    def __init__(
        self, logger: logging.Logger, now: Callable[[], float], interval_s: float = 10.0, burst: int = 5
    ) -> None:
        self._logger = logger
        self._now = now
        self._interval_s = interval_s
        self._burst = burst
        self._started = float("-inf")
        self._seen = 0

    def warning(self, text: str, *args: object) -> None:
        """Log a warning, or only count it."""
        now = self._now()
        if now - self._started >= self._interval_s:
            if self._seen > self._burst:
                held_back = self._seen - self._burst
                self._logger.warning("%d more warnings of this kind were held back", held_back)
            self._started = now
            self._seen = 0
        self._seen += 1
        if self._seen <= self._burst:
            self._logger.warning(text, *args)
