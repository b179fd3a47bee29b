"""The configuration file: what may stand there, what the command line does to it, and where a mistake is told to be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import config, config_file
from rtpengine.config import Config
from rtpengine.media import Learning
from rtpengine.option_values import ListenEndpoint
from rtpengine.options import ALL_OPTIONS, ConfigError, Option

LEAST = "ip = 192.0.2.1\nlisten-ng = 127.0.0.1:2223\n"
Reader = Callable[..., Config]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "the.conf"


@pytest.fixture
def read(file: Path) -> Reader:
    """Start with a file of this text, whose first two lines behind the section are the mandatory options."""

    def read(text: str, *argv: str, head: str = "[rtpengine]\n" + LEAST) -> Config:
        file.write_text(head + text)
        return config.load([f"--config-file={file}", *argv])

    return read


def test_a_file_can_say_everything_that_is_mandatory(read: Reader, file: Path) -> None:
    result = read("")
    assert (result.ip, result.listen_ng) == ("192.0.2.1", ListenEndpoint("127.0.0.1", 2223))
    assert (result.config_file, result.config_section) == (str(file), "rtpengine")


FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("tos = 184", {"tos": 184}),
    ("tos=0xb8", {"tos": 184}),
    ("table = -1", {"table": -1}),
    ("timeout = 20\ntimeout = 30", {"timeout_s": 30}),
    ("timeout = 20\ntimeout = none", {"timeout_s": 60}),
    ("timeout = none\ntimeout = 20", {"timeout_s": 20}),
    ("ip6 = 2001:db8::1\nip6 = none", {"ip6": None}),
    ("foreground = no\n", {"foreground": False}),
    ("control-allow = 192.0.2.0/24", {"control_allow": (ip_network("192.0.2.0/24"),)}),
    *[
        (f"control-allow = {text}", {"control_allow": (ip_network("192.0.2.0/24"), ip_network("::1/128"))})
        for text in ("192.0.2.0/24;::1", "192.0.2.0/24, ::1", "192.0.2.0/24;\n   ::1", "\n 192.0.2.0/24;\n ::1")
    ],
    ("srtp-suites = aead_aes_256_gcm; AEAD_AES_128_GCM", {"srtp_suites": ("AEAD_AES_256_GCM", "AEAD_AES_128_GCM")}),
    ("endpoint-learning = off", {"endpoint_learning": Learning.OFF}),
    ("# tos = 1\n; tos = 2\n\n\ttos = 3\n", {"tos": 3}),
    ("tos = 1\n[other]\ntos = 2\nnonsense = 1\n[rtpengine]\ntable = 4", {"tos": 1, "table": 4}),
    ("pidfile = /run/a=b # c.pid", {"pidfile": "/run/a=b # c.pid"}),
    ("pidfile = --x", {"pidfile": os.path.abspath("--x")}),
]


@pytest.mark.parametrize(("text", "fields"), FIELDS, ids=lambda value: repr(value)[:40])
def test_values(read: Reader, text: str, fields: dict[str, Any]) -> None:
    result = read(text)
    assert {name: getattr(result, name) for name in fields} == fields


@pytest.mark.parametrize("word", ["yes", "true", "on", "1", "Yes", "TRUE", "no", "false", "off", "0", "No"])
def test_flags(read: Reader, word: str) -> None:
    assert read(f"trust-sdp = {word}").trust_sdp is (word.lower() in ("yes", "true", "on", "1"))


@pytest.mark.parametrize("option", ALL_OPTIONS, ids=lambda option: option.name)
def test_every_option_is_a_key(read: Reader, option: Option) -> None:
    """Each is accepted, or refused by its own check, but none is unknown."""
    try:
        read(f"{option.name} = {'1' if option.metavar else 'no'}")
    except ConfigError as error:
        assert f" line 4: {option.name}: " in str(error) and "no such option" not in str(error)


def test_the_command_line_wins(read: Reader) -> None:
    text = "timeout = 20\ntrust-sdp = no\nlog-level = 9"
    result = read(text, "-o", "30", "--trust-sdp", "--log-level=3", "--ip=192.0.2.7")
    assert (result.timeout_s, result.trust_sdp, result.log_level, result.ip) == (30, True, 3, "192.0.2.7")


def test_sections_are_for_several_daemons(read: Reader) -> None:
    text = "[DEFAULT]\ntos = 184\ntimeout = 20\n[a]\nip = 192.0.2.1\ntimeout = 30\n[b]\nip = 192.0.2.2\ntos = none\n"
    seen = [read(text, "-n2223", f"--config-section={name}", head="") for name in ("a", "b")]
    assert [(s.ip, s.tos, s.timeout_s) for s in seen] == [("192.0.2.1", 184, 30), ("192.0.2.2", 0, 20)]


def refused(read: Reader, text: str, *argv: str, **how: Any) -> str:
    with pytest.raises(ConfigError) as error:
        read(text, *argv, **how)
    assert re.fullmatch("[ -~]+", str(error.value))
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("tos = 300", 4, "tos: 300 is outside 0 to 255"),
        ("\n\n# tos\ntos = x", 7, "tos: 'x' is not an integer of 32 bits"),
        ("tos = 1\ntos = 300", 5, "tos: 300 is outside 0 to 255"),
        ("tos = 1 # EF", 4, "tos: '1 # EF' is not an integer of 32 bits"),
        ("control-allow = 192.0.2.0/24;\n  nonsense", 4, "control-allow: 'nonsense' does not appear to be "),
        ("ice-default = never", 4, "ice-default: invalid choice: 'never'"),
        ("foreground = maybe", 4, "foreground: is yes or no (true or false, on or off, 1 or 0)"),
        ("pidfile =", 4, "pidfile: the name of the file is empty"),
        ("port-max = 20000", 4, "port-max: 20000 is not above --port-min (30000)"),
        ("listen-udp = 127.0.0.1:2223", 3, "listen-ng: same address and port as --listen-udp"),
        ("tos-octet = 1", 4, "tos-octet: no such option"),
        ("Timeout = 1", 4, "Timeout: no such option, is it timeout?"),
        ("listen_ng = 1", 4, "listen_ng: no such option, is it listen-ng?"),
        ("time-out = 1", 4, "time-out: no such option, is it timeout?"),
        ("n\u00e9 = 1", 4, "n\\xe9: no such option"),
        ("config-file = x", 4, "config-file: has its place on the command line only"),
        ("version = yes", 4, "version: has its place on the command line only"),
        ("tos", 4, "neither KEY = VALUE nor [section]"),
        ("= 5", 4, "neither KEY = VALUE nor [section]"),
        ("tos = 1\n\nlisten-ng: 1\n", 6, "neither KEY = VALUE nor [section]"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_mistake_is_told_with_its_place(read: Reader, file: Path, text: str, line: int, reason: str) -> None:
    assert refused(read, text).startswith(f"{file} line {line}: {reason}")


def test_a_mistake_of_the_command_line_is_not_blamed_on_the_file(read: Reader) -> None:
    assert refused(read, "tos = 1", "--tos=300") == "--tos: 300 is outside 0 to 255"


def test_the_whole_file_can_be_wrong(read: Reader, file: Path) -> None:
    assert refused(read, "tos = 1", head="") == f"{file} line 1: stands before the first [section]"
    assert refused(read, "[rtpengin]\n", head="") == f"{file}: no section [rtpengine]"
    assert refused(read, "", "--config-section=b\n") == f"{file}: no section [b\\n]"
    assert refused(read, "#" * config_file.MAX_SIZE).startswith(f"{file}: longer than ")


def test_a_line_that_cannot_be_read_is_not_shown(read: Reader) -> None:
    assert "hunter2" not in refused(read, "redis-password hunter2") + refused(read, "hunter2", head="")


def test_a_mistake_ends_start_up(read: Reader, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[rtpengine]\nbad\n")
    with pytest.raises(SystemExit) as end:
        config.parse([f"--config-file={file}"])
    assert end.value.code == config.EXIT_FAILURE
    assert capsys.readouterr().err == f"rtpengine: {file} line 2: neither KEY = VALUE nor [section]\n"


WORDS = [
    b"tos",
    b"184",
    b"=",
    b" ",
    b"\n",
    b";",
    b"#",
    b"[rtpengine]",
    b"[DEFAULT]",
    b"none",
    b"ip",
    b"\xff",
    b"[",
    b"]",
]


@given(data=st.binary(max_size=100) | st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join))
def test_any_file_is_accepted_or_refused_in_one_line(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conf"
    path.write_bytes(b"[rtpengine]\n" + LEAST.encode() + data)
    try:
        assert config.load([f"--config-file={path}"]).config_file == str(path)
    except ConfigError as error:
        assert re.fullmatch("[ -~]+", str(error))


def test_which_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual one may be absent, one that was named may not; it is found wherever the daemon goes."""
    argv = ["--ip=192.0.2.1", "--listen-ng=127.0.0.1:2223"]
    monkeypatch.setattr(config_file, "DEFAULT_FILE", str(file))
    assert config.load(argv).config_file == str(file)
    file.write_text("[rtpengine]\ntos = 5\n")
    assert config.load(argv).tos == 5
    assert (config.load([*argv, "--config-file=none"]).tos, config.load([*argv, "--config-file=none"]).config_file) == (
        0,
        None,
    )
    with pytest.raises(ConfigError, match=r"^--config-file: 'absent': No such file"):
        config.load([*argv, "--config-file=absent"])
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}: Is a directory")):
        config.load([*argv, f"--config-file={tmp_path}"])
    relative = os.path.relpath(file)
    assert config.load([*argv, f"--config-file={relative}"]).config_file == str(file)
    monkeypatch.chdir("/")
    assert config.load([*argv, f"--config-file={relative}"]).config_file == str(file)


def test_version_and_help_need_no_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("--version", "--help"):
        with pytest.raises(SystemExit) as end:
            config.parse([f"--config-file={file}", argument])
        assert end.value.code == 0
    assert capsys.readouterr().err == ""
