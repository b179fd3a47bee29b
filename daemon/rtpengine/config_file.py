"""The configuration file: one INI section whose keys are the long options (operations.md 1).

What stands there is read by ``configparser``; which values an option can have is for config.py.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

DEFAULT_FILE = "/etc/rtpengine/rtpengine.conf"
DEFAULT_SECTION = "rtpengine"
MAX_SIZE = 1 << 20
NONE = "none"
"""As a value it unsets, as a file it is no file."""

# What cannot be said by the file itself, or is no setting.
NOT_IN_FILE = ("version", "help", "config-file", "config-section", "takeover")
_FLAG_WORDS = dict.fromkeys(("yes", "true", "on", "1"), True) | dict.fromkeys(("no", "false", "off", "0"), False)

ValueOf = Callable[[str, str], object]
"""The value of an option, by its name, that a text stands for; ValueError with the reason if there is none."""


class FileError(Exception):
    """The file cannot be used; the text is one line that names it, and the line of the mistake if there is one."""


class Setting(NamedTuple):
    """``key = value`` and the number of the line that it begins on; a value of several lines is joined by blanks."""

    key: str
    value: str
    line: int


class Said(NamedTuple):
    """The value of an option, and how an error says where it stands."""

    value: Any
    where: str


def values(path: str, section: str, metavars: Mapping[str, str], value_of: ValueOf) -> dict[str, Said]:
    """What a section says, by option; of several values of one the last.

    ``metavars`` are those of all options, empty for flags. Raise FileError; FileNotFoundError passes.
    """
    found: dict[str, Said] = {}
    for key, text, line in read(path, section):
        where = place(path, line)
        try:
            value = _value(key, text, metavars, value_of)
        except ValueError as error:
            raise FileError(f"{where}: {_shown(key)}: {error}") from None
        found.pop(key, None)
        if value is not None:
            found[key] = Said(value, where)
    return found


def _value(key: str, text: str, metavars: Mapping[str, str], value_of: ValueOf) -> object:
    """None where the option is unset; raise ValueError with the reason."""
    if key not in metavars:
        raise ValueError(f"no such option{_suggestion(key, metavars)}")
    if key in NOT_IN_FILE:
        raise ValueError("has its place on the command line only")
    if text == NONE:
        return None
    if not metavars[key]:
        if text.lower() not in _FLAG_WORDS:
            raise ValueError("is yes or no (true or false, on or off, 1 or 0)")
        return _FLAG_WORDS[text.lower()]
    return value_of(key, text.replace(";", ",") if metavars[key].endswith("...]") else text)


def _suggestion(key: str, names: Iterable[str]) -> str:
    near = get_close_matches(key.lower().replace("_", "-"), [name for name in names if name not in NOT_IN_FILE], 1)
    return f", is it {near[0]}?" if near else ""


def place(path: str, line: int) -> str:
    """How an error says where it is."""
    return f"{_shown(path)} line {line}"


def _shown(text: str) -> str:
    return ascii(text)[1:-1]


def read(path: str, section: str) -> list[Setting]:
    """The settings of a section in the order of the file, those of ``[DEFAULT]`` in front.

    Raise FileError; FileNotFoundError passes if there is no such file.
    """
    try:
        # as the command line is decoded
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            text = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{_shown(path)}: {error.strerror}") from None
    if len(text) > MAX_SIZE:
        raise FileError(f"{_shown(path)}: longer than {MAX_SIZE} characters")
    return _settings(path, text, section)


def _settings(path: str, text: str, section: str) -> list[Setting]:
    parser = _NumberingParser()
    try:
        parser.read_numbered(text.split("\n"))
    # The messages of configparser show the line, and there may be a password in it.
    except configparser.MissingSectionHeaderError as error:
        raise FileError(f"{place(path, error.lineno)}: stands before the first [section]") from None
    except configparser.ParsingError as error:
        raise FileError(f"{place(path, error.errors[0][0])}: neither KEY = VALUE nor [section]") from None
    try:
        items = parser.items(section, raw=True)
    except configparser.NoSectionError:
        raise FileError(f"{_shown(path)}: no section [{_shown(section)}]") from None
    numbered = [(key.partition(" "), value) for key, value in items]
    return [Setting(key, " ".join(value.split("\n")), int(number)) for (number, _, key), value in numbered]


class _NumberingParser(configparser.RawConfigParser):
    """Keeps each key under ``LINE KEY``, so that it is known where it stood, and what was said twice is all there.

    It is asked for the form of a key while it reads the line which that key stands on.
    """

    def __init__(self) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",), empty_lines_in_values=False)
        self._line = 0

    def optionxform(self, optionstr: str) -> str:
        return f"{self._line} {optionstr}"

    def read_numbered(self, lines: Iterable[str]) -> None:
        """Read the lines of a file."""
        self.read_file(self._count(lines))

    def _count(self, lines: Iterable[str]) -> Iterator[str]:
        for self._line, line in enumerate(lines, 1):
            yield line
