"""Logging: prefixes, forms of a line, syslog without waiting, levels by signal, and limits on repetition."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtpengine import NOTICE, log
from rtpengine.log import (
    JournalFormatter,
    JsonFormatter,
    LevelFormatter,
    LineFormatter,
    RateLimited,
    SyslogHandler,
    call_context,
)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    logger.handlers = []
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.fixture
def syslogd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A syslog daemon that is not /dev/log."""
    path = tmp_path / "log"
    monkeypatch.setattr(log, "SYSLOG_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(5)
        yield sock


def record(text: str = "hello", level: int = logging.INFO, exc_info: bool = False) -> logging.LogRecord:
    return logging.LogRecord("rtpengine.x", level, "x.py", 1, text, (), sys.exc_info() if exc_info else None)


LONG = "x" * 300


@pytest.mark.parametrize(
    ("call_id", "port", "prefix"),
    [
        ("", None, ""),
        ("", 5, ""),
        ("abc@x", None, "[abc@x]"),
        ("abc", 30000, "[abc port 30000]"),
        ("abc", 42, "[abc port    42]"),
        (LONG, None, "[" + "x" * 254),
        (LONG, 1, "[" + "x" * 254),
        ("a\nINFO: forged", None, r"[a\nINFO: forged]"),
        ("a\x1b[31m\x00\x7f\u2028\udcff", None, r"[a\x1b[31m\x00\x7f\u2028\udcff]"),
        ("\u00e9", None, "[\u00e9]"),
    ],
)
def test_prefix(call_id: str, port: int | None, prefix: str) -> None:
    with call_context(call_id, port):
        assert log.prefix() == prefix
    assert log.prefix() == ""


def test_contexts_nest_and_end_with_an_exception() -> None:
    with call_context("outer"):
        with pytest.raises(KeyError), call_context("inner", 7):
            raise KeyError
        assert log.prefix() == "[outer]"


@pytest.mark.parametrize(
    ("formatter", "outside", "inside"),
    [
        (LineFormatter(), "hello", "[abc] hello"),
        (LevelFormatter(), "INFO: [core] hello", "INFO: [abc]: [core] hello"),
        (JournalFormatter(), "<6>hello", "<6>[abc] hello"),
    ],
)
def test_forms_of_a_line(formatter: logging.Formatter, outside: str, inside: str) -> None:
    assert formatter.format(record()) == outside
    with call_context("abc"):
        assert formatter.format(record()) == inside


@pytest.mark.parametrize("formatter", [LineFormatter(), LevelFormatter(), JournalFormatter()])
def test_a_message_cannot_forge_a_line(formatter: logging.Formatter) -> None:
    assert formatter.format(record("a\r\nCRITICAL: b\x85c")).endswith(r"a\r\nCRITICAL: b\x85c")


@pytest.mark.parametrize(("formatter", "start"), [(LineFormatter(), "  "), (JournalFormatter(), "<3>  ")])
def test_a_traceback_follows_in_lines_of_its_own(formatter: logging.Formatter, start: str) -> None:
    try:
        raise ValueError("first\nsecond\x1b")
    except ValueError:
        first, *rest = formatter.format(record("failed", logging.ERROR, exc_info=True)).split("\n")
    assert first.endswith("failed")
    assert all(line.startswith(start) for line in rest)
    assert rest[-1] == start + r"second\x1b"


@pytest.mark.parametrize(
    ("threshold", "number"),
    [(70, 0), (99, 0), (60, 1), (50, 2), (40, 3), (30, 4), (NOTICE, 5), (24, 6), (20, 6), (10, 7), (1, 7)],
)
def test_syslog_level(threshold: int, number: int) -> None:
    assert log.syslog_level(threshold) == number


@pytest.mark.parametrize(
    ("facility", "level", "priority"),
    [("daemon", logging.INFO, 30), ("daemon", NOTICE, 29), ("user", 70, 8), ("local7", logging.DEBUG, 191)],
)
def test_syslog(syslogd: socket.socket, facility: str, level: int, priority: int) -> None:
    handler = SyslogHandler(log.FACILITIES[facility], log.SYSLOG_SOCKET)
    with call_context("abc", 30000):
        handler.emit(record("h\u00e9llo\n", level))
    handler.close()
    assert syslogd.recv(9000).decode() == f"<{priority}>rtpengine[{os.getpid()}]: [abc port 30000] h\u00e9llo\\n"


def test_syslog_may_come_late_and_be_restarted(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    handler = SyslogHandler(3, path)
    handler.emit(record("lost"))
    for name in ("first", "second"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            sock.settimeout(5)
            handler.emit(record(name))
            assert sock.recv(9000).endswith(f": {name}".encode())
            if name == "first":
                assert sock.recv(9000).endswith(b": 1 log messages were lost")
        os.unlink(path)
    handler.close()


def test_syslog_that_does_not_read_stops_nothing(syslogd: socket.socket) -> None:
    handler = SyslogHandler(3, log.SYSLOG_SOCKET)
    for number in range(5000):  # many more than a socket queues
        handler.emit(record(f"message {number}"))
    syslogd.setblocking(False)
    received = 0
    with pytest.raises(BlockingIOError):
        while syslogd.recv(9000):
            received += 1
    assert 0 < received < 5000
    handler.emit(record("again"))
    assert syslogd.recv(9000).endswith(b": again")
    assert syslogd.recv(9000).endswith(f"]: {5000 - received} log messages were lost".encode())
    handler.close()


def test_a_message_too_long_for_syslog_is_dropped(syslogd: socket.socket) -> None:
    handler = SyslogHandler(3, log.SYSLOG_SOCKET)
    handler.emit(record("x" * 10_000_000))
    handler.emit(record("next"))
    assert syslogd.recv(9000).endswith(b": next")
    handler.close()


@pytest.mark.parametrize(
    ("foreground", "log_stderr", "has_socket", "handlers"),
    [
        (False, False, True, [SyslogHandler]),
        (False, False, False, [SyslogHandler]),
        (False, True, True, [logging.StreamHandler]),
        (True, False, True, [logging.StreamHandler, SyslogHandler]),
        (True, False, False, [logging.StreamHandler]),
        (True, True, True, [logging.StreamHandler]),
    ],
)
def test_setup_chooses_where_lines_go(
    foreground: bool,
    log_stderr: bool,
    has_socket: bool,
    handlers: list[type],
    root: logging.Logger,
    syslogd: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not has_socket:
        monkeypatch.setattr(log, "SYSLOG_SOCKET", "/nonexistent/log")
    log.setup(5, "local0", foreground=foreground, log_stderr=log_stderr)
    log.setup(5, "local0", foreground=foreground, log_stderr=log_stderr)
    assert [type(handler) for handler in root.handlers] == handlers
    assert root.level == NOTICE


def test_setup_in_the_foreground_writes_both(
    root: logging.Logger, syslogd: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    log.setup(6, "local1", foreground=True)
    logger = logging.getLogger("rtpengine.call")
    with call_context("abc"):
        logger.info("media %d: confirmed", 1)
        logger.log(NOTICE, "new call")
        logger.debug("not at this level")
    assert capsys.readouterr().err == "INFO: [abc]: [core] media 1: confirmed\nNOTICE: [abc]: [core] new call\n"
    lines = [syslogd.recv(9000).decode() for _ in range(2)]
    assert [line.partition("]: ")[2] for line in lines] == ["[abc] media 1: confirmed", "[abc] new call"]
    assert [line.partition("rtp")[0] for line in lines] == [f"<{17 * 8 + 6}>", f"<{17 * 8 + 5}>"]


@pytest.mark.parametrize("ours", [True, False])
def test_setup_under_systemd(
    ours: bool, root: logging.Logger, syslogd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        inode = status.st_ino if ours else status.st_ino + 1
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{inode}")
        log.setup(6, foreground=True)
        logging.getLogger("rtpengine.x").warning("watch out")
        stream.seek(0)
        assert stream.read() == ("<4>watch out\n" if ours else "WARNING: [core] watch out\n")
    assert len(root.handlers) == (1 if ours else 2)


def test_setup_without_a_real_standard_error(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.setup(6, foreground=True, log_stderr=True)
    logging.getLogger("rtpengine.x").error("e")
    assert stream.getvalue() == "ERROR: [core] e\n"


def test_levels_move_one_by_one_and_stop_at_the_ends(root: logging.Logger) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LevelFormatter())
    root.addHandler(handler)
    log.set_level(1)
    for step in [log.lower_level] * 2 + [log.raise_level] * 8:
        step()
    names = ["EMERGENCY", "EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG", "DEBUG"]
    numbers = [0, 0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert stream.getvalue().splitlines() == [
        f"{name}: [core] log level is now {number}" for name, number in zip(names, numbers, strict=True)
    ]


def test_json() -> None:
    entry = record("a\nb \udcff", logging.WARNING)
    entry.created = 1_700_000_000.25
    plain = {"ts": "2023-11-14T22:13:20.250Z", "level": "warning", "call_id": None, "subsystem": "core"}
    assert json.loads(JsonFormatter().format(entry)) == {**plain, "message": "a\nb \\udcff"}
    with call_context("c\udcfe", 30000):
        entry.name, entry.levelname = "rtpengine.offload", "NOTICE"
        line = JsonFormatter().format(entry)
    assert json.loads(line) == {
        **plain,
        "level": "notice",
        "call_id": "c\\udcfe",
        "port": 30000,
        "subsystem": "kernel",
        "message": "a\nb \\udcff",
    }
    assert "\n" not in line


def test_a_traceback_in_json() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        line = JsonFormatter().format(record("failed", logging.ERROR, exc_info=True))
    assert "\n" not in line
    assert json.loads(line)["traceback"].endswith("ValueError: first\nsecond")


def test_every_subsystem_is_a_module() -> None:
    assert log._SUBSYSTEMS.keys() <= {*(path.stem for path in Path(log.__file__).parent.glob("*.py")), *NOT_YET}


NOT_YET = ("store", "snapshot")


@pytest.mark.parametrize("journal", [False, True])
def test_json_everywhere(
    root: logging.Logger, syslogd: socket.socket, monkeypatch: pytest.MonkeyPatch, journal: bool
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(log, "_stderr_is_journal", lambda: journal)
    log.setup(6, "daemon", "json", foreground=True)
    logging.getLogger("rtpengine.control").info("hello")
    line = stderr.getvalue()
    assert line.startswith("<6>{" if journal else "{")
    assert json.loads(line.removeprefix("<6>"))["subsystem"] == "control"
    if not journal:
        assert json.loads(syslogd.recv(1000).decode().partition("]: ")[2])["message"] == "hello"


def test_one_call_is_debugged(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    log.setup(5, foreground=True, log_stderr=True)
    logger = logging.getLogger("rtpengine.x")

    def speak() -> str:
        stderr.seek(0)
        stderr.truncate()
        for call_id in ("one", "other", ""):
            with call_context(call_id):
                logger.debug("detail")
                logger.warning("warning")
        return stderr.getvalue()

    usual = speak()
    assert "detail" not in usual
    log.debug_call("one", True)
    assert (log.level(), log.is_debugged("one"), log.is_debugged("other")) == (5, True, False)
    assert speak() == "DEBUG: [one]: [core] detail\n" + usual
    log.raise_level()
    assert speak() == "DEBUG: [one]: [core] detail\n" + usual
    assert log.level() == 6
    log.debug_call("one", False)
    log.debug_call("never", False)
    assert (speak(), log.level(), root.level) == (usual, 6, logging.INFO)


def test_rate_limit(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    limited = RateLimited(logging.getLogger("rtpengine.x"), lambda: now, interval_s=10, burst=2)
    for _ in range(5):
        limited.warning("bad packet from %s", "192.0.2.1")
    now = 109.9
    limited.warning("still the same interval")
    now = 110.0
    limited.warning("the next")
    now = 130.0
    limited.warning("nothing was held back before")
    assert [entry.getMessage() for entry in caplog.records] == [
        "bad packet from 192.0.2.1",
        "bad packet from 192.0.2.1",
        "4 more warnings of this kind were held back",
        "the next",
        "nothing was held back before",
    ]
    assert {entry.levelno for entry in caplog.records} == {logging.WARNING}


def test_facilities_are_those_of_syslog() -> None:
    import syslog

    for name, number in log.FACILITIES.items():
        if name != "ftp":  # the module of the standard library does not know it
            assert getattr(syslog, f"LOG_{name.upper()}") == number * 8
    assert not any(re.search("kern", name) for name in log.FACILITIES)
