"""The configuration file: one INI section whose keys are the long options (operations.md 1).

What stands there is read by ``configparser``; what it means, and whether it may be said, is for config.py.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterable, Iterator
from typing import NamedTuple

DEFAULT_FILE = "/etc/rtpengine/rtpengine.conf"
DEFAULT_SECTION = "rtpengine"
MAX_SIZE = 1 << 20


class FileError(Exception):
    """The file cannot be used; the text is one line that names it, and the line of the mistake if there is one."""


class Setting(NamedTuple):
    """``key = value`` and the number of the line that it begins on; a value of several lines is joined by blanks."""

    key: str
    value: str
    line: int


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
