"""What is written about every option, held against the daemon: sample, manual pages, completion."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtpengine import __version__, config, config_file, ctl
from rtpengine.operator_commands import COMMANDS
from rtpengine.options import ALL_OPTIONS, ICE_MODES

ROOT = Path(__file__).resolve().parents[2]
NAMES = [option.name for option in ALL_OPTIONS]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    subprocess.run([sys.executable, ROOT / "tools" / "option-files", folder], check=True)
    return folder


def helped() -> set[str]:
    return set(re.findall(r"--[a-z0-9-]+", re.sub(r"\(.*?\)", "", config.help_text())))


def test_the_sample_has_every_option_once_and_says_nothing(written: Path, tmp_path: Path) -> None:
    text = (written / "rtpengine.conf").read_text()
    keys = re.findall(r"^#([a-z0-9-]+) = \S", text, re.MULTILINE)
    assert sorted(keys) == sorted(set(NAMES) - set(config_file.NOT_IN_FILE))
    minimal = ["--ip=127.0.0.1", "--listen-ng=127.0.0.1:2223"]
    with_file = config.load([*minimal, f"--config-file={written / 'rtpengine.conf'}"])
    without = config.load([*minimal, "--config-file=none"])
    differing = [name for name in type(without).__slots__ if getattr(with_file, name) != getattr(without, name)]
    assert differing == ["config_file"]


def test_the_samples_defaults_are_those_of_the_daemon(written: Path, tmp_path: Path) -> None:
    """Whatever stands there with a value that can be used is the default."""
    numbers = re.findall(r"^#([a-z0-9-]+ = \d+)$", (written / "rtpengine.conf").read_text(), re.MULTILINE)
    assert len(numbers) > 8
    file = tmp_path / "rtpengine.conf"
    file.write_text("\n".join(["[rtpengine]", *numbers]))
    minimal = ["--ip=127.0.0.1", "--listen-ng=127.0.0.1:2223"]
    said, default = config.load([*minimal, f"--config-file={file}"]), config.load([*minimal, "--config-file=none"])
    assert [name for name in type(said).__slots__ if getattr(said, name) != getattr(default, name)] == ["config_file"]


def completed(written: Path, *words: str, program: str = "rtpengine") -> list[str]:
    """What bash offers for the last word."""
    script = """
        source "$1"
        COMP_WORDS=("${@:2}")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        compopt() { :; }
        "_${2//-/_}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "-c", script, "bash", written / program, program, *words]
    return subprocess.check_output(command, text=True).split()


def test_completion_knows_the_options_of_help(written: Path) -> None:
    offered = completed(written, "--")
    assert {word.rstrip("=") for word in offered} == helped()
    flags = {f"--{option.name}" for option in ALL_OPTIONS if not option.metavar}
    assert {word for word in offered if not word.endswith("=")} == flags


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("--ice-default", "re"), ["remove"]),
        (("--ice-default", "=", "re"), ["remove"]),
        (("--ice-default", "="), list(ICE_MODES)),
        (("--pidfile", "=", "/etc/debian_v"), ["/etc/debian_version"]),
        (("--tos", "=", "1"), []),
        (("--foreground", "--no-f"), ["--no-fallback"]),
    ],
)
def test_completion_of_values(written: Path, words: tuple[str, ...], offered: list[str]) -> None:
    assert completed(written, *words) == offered


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("",), sorted({c.words.split()[0] for c in COMMANDS} | set(ctl.option_words()))),
        (("li",), ["list"]),
        (("list", "s"), ["sessions", "silenttimeout"]),
        (("--json", "--port", "=", "9901", "set", "l"), ["loglevel"]),
        (("--port", "="), []),
        (("terminate", ""), ["all"]),
        (("call", "8d1f@pbx", ""), ["debug", "info", "terminate"]),
        (("call", "8d1f@pbx", "debug", "o"), ["off", "on"]),
        (("drain", ""), []),
        (("--inter",), ["--interval="]),
    ],
)
def test_completion_of_the_control_tool(written: Path, words: tuple[str, ...], offered: list[str]) -> None:
    assert sorted(completed(written, *words, program="rtpengine-ctl")) == offered


@pytest.mark.parametrize("name", ["rtpengine.8", "rtpengine.conf.5"])
def test_a_manual_page_has_every_option_and_no_mistake(written: Path, name: str) -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", written / name],
        capture_output=True,
        text=True,
        env={"MANWIDTH": "200", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "MAN_KEEP_FORMATTING": ""},
    )
    assert done.returncode == 0 and done.stderr == ""
    page = re.sub(".\b", "", done.stdout)
    assert {f"--{option}" for option in NAMES} <= set(re.findall(r"--[a-z0-9-]+", page))
    assert f"rtpengine {__version__}" in page


def test_no_mark_of_markdown_is_left(written: Path) -> None:
    for path in written.iterdir():
        assert "`" not in path.read_text() or path.name == "rtpengine", path.name
