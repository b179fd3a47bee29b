"""The command line: every option, every rule of its syntax, every message and their order."""

from __future__ import annotations

import dataclasses
import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from rtpengine import __version__, config
from rtpengine.config import Config
from rtpengine.media import Learning
from rtpengine.option_values import ListenEndpoint
from rtpengine.options import ALL_OPTIONS, ConfigError
from rtpengine.packetpath import DEFAULT_PAUSE_US, MAX_PAUSE_US, MAX_WORKERS
from rtpengine.redis_server import Address, Server

LEAST = ["--ip=192.0.2.1", "--listen-ng=127.0.0.1:2223"]
REDIS = ["--redis=127.0.0.1:6379", "--redis-db=1"]
DEFAULTS = Config(
    table=0,
    no_fallback=False,
    ip="192.0.2.1",
    advertised_ip="192.0.2.1",
    ip6=None,
    advertised_ip6=None,
    listen_tcp=None,
    listen_udp=None,
    listen_ng=ListenEndpoint("127.0.0.1", 2223),
    tos=0,
    timeout_s=60,
    silent_timeout_s=3600,
    pidfile=None,
    foreground=False,
    port_min=30000,
    port_max=40000,
    log_level=6,
    log_stderr=False,
    log_facility="daemon",
    log_format="text",
    max_sessions=0,
    final_timeout_s=0,
    drain_timeout_s=3600,
    num_threads=min(len(os.sched_getaffinity(0)), MAX_WORKERS),
    endpoint_learning=Learning.HEURISTIC,
    poll_pause_us=DEFAULT_PAUSE_US,
    trust_sdp=False,
    ice_default="optional",
    srtp_suites=(
        "AES_CM_128_HMAC_SHA1_80",
        "AEAD_AES_256_GCM",
        "AEAD_AES_128_GCM",
        "AES_256_CM_HMAC_SHA1_80",
        "AES_192_CM_HMAC_SHA1_80",
        "AES_CM_128_HMAC_SHA1_32",
        "AES_256_CM_HMAC_SHA1_32",
        "AES_192_CM_HMAC_SHA1_32",
    ),
    control_allow=(),
    control_allow_implied=False,
    config_file="/nonexistent/rtpengine.conf",
    config_section="rtpengine",
    b2b_url=None,
    listen_http=None,
    listen_cli=None,
    http_allow=(),
    http_name=(),
    redis=None,
    redis_db=None,
    redis_sentinel=None,
    redis_auth_file=None,
    redis_instance=None,
    takeover=False,
    takeover_socket=None,
)


def test_defaults() -> None:
    assert config.parse(LEAST) == DEFAULTS


# Long name, short name, a value, the fields that it sets.
OPTIONS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("table", "t", "5", {"table": 5}),
    ("table", "t", "-1", {"table": -1}),
    ("ip", "i", "192.0.2.9", {"ip": "192.0.2.9", "advertised_ip": "192.0.2.9"}),
    ("advertised-ip", "a", "203.0.113.1", {"advertised_ip": "203.0.113.1"}),
    ("ip6", "I", "2001:DB8:0::1", {"ip6": "2001:db8::1", "advertised_ip6": "2001:db8::1"}),
    ("ip6", "I", "[2001:db8::1]", {"ip6": "2001:db8::1", "advertised_ip6": "2001:db8::1"}),
    ("listen-tcp", "l", "127.0.0.1:25060", {"listen_tcp": ListenEndpoint("127.0.0.1", 25060)}),
    ("listen-udp", "u", "127.0.0.1:22222", {"listen_udp": ListenEndpoint("127.0.0.1", 22222)}),
    ("listen-ng", "n", "127.0.0.2:1", {"listen_ng": ListenEndpoint("127.0.0.2", 1)}),
    ("listen-ng", "n", "[::1]:65535", {"listen_ng": ListenEndpoint("::1", 65535)}),
    ("tos", "T", "184", {"tos": 184}),
    ("timeout", "o", "10", {"timeout_s": 10}),
    ("timeout", "o", "0", {}),
    ("timeout", "o", "-5", {}),
    ("silent-timeout", "s", "20", {"silent_timeout_s": 20}),
    ("silent-timeout", "s", "-1", {}),
    ("b2b-url", "b", "http://127.0.0.1:8090/x", {"b2b_url": "http://127.0.0.1:8090/x"}),
    ("b2b-url", "b", "https://u:p%40@[::1]", {"b2b_url": "https://u:p%40@[::1]"}),
    ("pidfile", "p", "/run/x.pid", {"pidfile": "/run/x.pid"}),
    ("pidfile", "p", "-x", {"pidfile": os.path.abspath("-x")}),
    ("port-min", "m", "1", {"port_min": 1}),
    ("port-max", "M", "65535", {"port_max": 65535}),
    ("log-level", "L", "7", {"log_level": 7}),
    ("log-facility", "", "local7", {"log_facility": "local7"}),
    ("log-format", "", "json", {"log_format": "json"}),
    ("max-sessions", "", "2147483647", {"max_sessions": 2**31 - 1}),
    ("final-timeout", "", "7200", {"final_timeout_s": 7200}),
    ("drain-timeout", "", "0", {"drain_timeout_s": 0}),
    ("control-allow", "", "192.0.2.4", {"control_allow": (ip_network("192.0.2.4/32"),)}),
    (
        "control-allow",
        "",
        "192.0.2.4/24, 2001:db8::/32",
        {"control_allow": (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))},
    ),
    *[("ice-default", "", mode, {"ice_default": mode}) for mode in ("optional", "default", "remove", "force")],
    ("srtp-suites", "", "AEAD_AES_256_GCM", {"srtp_suites": ("AEAD_AES_256_GCM",)}),
    (
        "srtp-suites",
        "",
        "null_hmac_sha1_32, F8_128_HMAC_SHA1_80,NULL_HMAC_SHA1_32",
        {"srtp_suites": ("NULL_HMAC_SHA1_32", "F8_128_HMAC_SHA1_80")},
    ),
    *[("endpoint-learning", "", mode.name.lower(), {"endpoint_learning": mode}) for mode in Learning],
    ("num-threads", "", str(MAX_WORKERS), {"num_threads": MAX_WORKERS}),
    ("poll-pause", "", "0", {"poll_pause_us": 0}),
    ("poll-pause", "", str(MAX_PAUSE_US), {"poll_pause_us": MAX_PAUSE_US}),
    ("listen-cli", "", "9900", {"listen_cli": ListenEndpoint("127.0.0.1", 9900)}),
    ("listen-cli", "", "[::1]:9900", {"listen_cli": ListenEndpoint("::1", 9900)}),
    ("listen-http", "", "8080", {"listen_http": ListenEndpoint("127.0.0.1", 8080)}),
    ("listen-http", "", "127.9.9.9:1", {"listen_http": ListenEndpoint("127.9.9.9", 1)}),
    ("listen-http", "", "[::1]:65535", {"listen_http": ListenEndpoint("::1", 65535)}),
]
FLAGS = [("no-fallback", "F"), ("foreground", "f"), ("log-stderr", ""), ("trust-sdp", "")]


@pytest.mark.parametrize(("name", "short", "value", "fields"), OPTIONS, ids=lambda value: str(value)[:30])
def test_options_with_a_value(name: str, short: str, value: str, fields: dict[str, Any]) -> None:
    expected = dataclasses.replace(DEFAULTS, **fields)
    forms = [[f"--{name}={value}"], [f"--{name}", value]]
    if short:
        forms += [[f"-{short}{value}"], [f"-{short}", value], [f"-f{short}", value, "--no-fallback"]]
    for form in forms[:4]:
        assert config.parse(LEAST + form) == expected
    for form in forms[4:]:
        assert config.parse(LEAST + form) == dataclasses.replace(expected, foreground=True, no_fallback=True)


@pytest.mark.parametrize(("name", "short"), FLAGS)
def test_flags(name: str, short: str) -> None:
    fields: dict[str, Any] = {name.replace("-", "_"): True}
    expected = dataclasses.replace(DEFAULTS, **fields)
    assert config.parse([f"--{name}", *LEAST]) == expected
    if short:
        assert config.parse([f"-{short}{short}", *LEAST]) == expected


def test_flags_combine_behind_one_dash() -> None:
    assert config.parse(["-fFt", "-1", *LEAST]) == dataclasses.replace(
        DEFAULTS, foreground=True, no_fallback=True, table=-1
    )


def test_the_letter_that_is_no_option_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "x'" in stopped(capsys, [*LEAST, "-fx"])


def test_a_value_is_taken_whatever_it_is() -> None:
    for value in ("-", "--help", "-v", "--pidfile", "-p", "a b", "=", "a=b", "-x y"):
        for form in (["--pidfile", value], ["-p", value], ["-fp", value], [f"--pidfile={value}"]):
            assert config.parse([*LEAST, *form]).pidfile == os.path.abspath(value)


def test_a_repeated_option_overrides() -> None:
    assert config.parse([*LEAST, "-T1", "--tos=2", "-T", "3"]).tos == 3


def test_what_is_no_option_is_ignored() -> None:
    assert config.parse(["start", LEAST[0], "-", "", LEAST[1], "--", "--tos=999", "--nonsense", "-h"]) == DEFAULTS


@pytest.mark.parametrize(
    ("text", "number"),
    [("0x10", 16), ("0XfF", 255), ("010", 8), ("0", 0), ("00", 0), ("+7", 7), ("-0x10", -16)]
    + [("2147483647", 2**31 - 1), ("-2147483648", -(2**31)), ("017777777777", 2**31 - 1)],
)
def test_integers(text: str, number: int) -> None:
    assert config.parse([*LEAST, "--table", text]).table == number


NOT_INTEGERS = ["", "x", "1x", "1 ", " 1", "1.0", "08", "0x", "0xg", "--1", "1_0", "١", "1e3"]
TOO_LARGE = ["2147483648", "-2147483649", "0x80000000", "040000000000", "9" * 5000]


def stopped(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """Start with arguments that cannot be used; return the one line that says so."""
    with pytest.raises(SystemExit) as end:
        config.parse(argv)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (255, "")
    assert re.fullmatch(r"rtpengine: [ -~]+\n", err)
    return err.removeprefix("rtpengine: ").rstrip()


@pytest.mark.parametrize("option", ["--table", "--timeout", "--redis-db", "--num-threads", "--poll-pause", "-T"])
@pytest.mark.parametrize("text", NOT_INTEGERS + TOO_LARGE, ids=lambda text: text[:12])
def test_what_is_no_32_bit_integer(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = stopped(capsys, [*LEAST, option, text])
    assert message.startswith("--tos:" if option == "-T" else f"{option}:")


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        # syntax
        (["--tab=1"], "'--tab': no such option"),
        (["--Table=1"], "'--Table': no such option"),
        (["--foreground=yes"], "--foreground: ignored explicit argument 'yes'"),
        (["-x"], "'-x': no such option"),
        (["-xf"], "'-xf': no such option"),
        (["-1"], "'-1': no such option"),
        (["--no such"], "'--no such': no such option"),
        (["-f-table", "5"], "--foreground: "),
        (["-f="], "--foreground: "),
        (["-\n"], "'-\\n': no such option"),
        (["--\udcff=1"], "'--\\udcff': no such option"),
        (["--table"], "--table: expected one argument"),
        (["-ft"], "--table: expected one argument"),
        (["-p", ""], "--pidfile: the name"),
        (["--table", "--"], "--table: '--' is not"),
        (["-t--"], "--table: '--' is not"),
        (["--control-allow=--"], "--control-allow: '--' "),
        # addresses
        *[(["--ip", text], "--ip: ") for text in ("127.1", "10", "0x7f.0.0.1", "192.0.2.01", "192.0.2.1 x", "::1", "")],
        *[(["--ip", text], "--ip: ") for text in ("0.0.0.0", "224.0.0.1", "239.1.2.3", "255.255.255.255", "a\nb")],
        (["--advertised-ip=host"], "--advertised-ip: "),
        (["--advertised-ip=0.0.0.0"], "--advertised-ip: "),
        *[(["--ip6", text], "--ip6: ") for text in ("::", "[::]", "ff02::1", "192.0.2.1", "[::1", "::1]", "x", "")],
        *[(["--ip6", text], "--ip6: ") for text in ("::ffff:192.0.2.1", "fe80::1%lo", "[]")],
        (["--ip6=2001:db8::1", "--advertised-ip6=host"], "--advertised-ip6: "),
        (["--advertised-ip6=2001:db8::1"], "--advertised-ip6: needs --ip6"),
        # endpoints
        *[
            ([f"--listen-ng={text}"], "--listen-ng: ")
            for text in (
                "",
                "0",
                "65536",
                "70000",
                "2223x",
                "x",
                "1.2.3.4",
                "1.2.3.4:",
                "1.2.3.4:0",
                "::1:5",
                ":5",
                "-5",
            )
        ],
        *[
            ([f"--listen-ng={text}"], "--listen-ng: ")
            for text in ("[::1]", "[::1]:0", "[1:5", "1.2.3:5", "[1.2.3.4]:5")
        ],
        *[([f"--listen-udp={text}"], "--listen-udp: '") for text in ("0", "1.2.3.4", "::1:5")],
        *[([f"--listen-tcp={text}"], "--listen-tcp: '") for text in ("0", "1.2.3.4", "[::1]:5")],
        *[(["--redis-db=1", f"--redis={text}"], "--redis: ") for text in ("5", "0.0.0.0:5", "[::]:5", "x", "::1:5")],
        *[(["--redis-db=1", f"--redis={text}"], "--redis: ") for text in ("1.2.3.4:0", "1.2.3.4:65536", "[1.2.3.4:5")],
        (["--listen-udp=127.0.0.1:2223"], "--listen-ng: same address and port as --listen-udp"),
        # ranges
        *[(["--tos", text], "--tos: ") for text in ("-1", "256")],
        *[(["--log-level", text], "--log-level: ") for text in ("-1", "8")],
        *[(["--port-min", text], "--port-min: ") for text in ("0", "65536", "-1")],
        *[(["--port-max", text], "--port-max: ") for text in ("0", "65536", "30000", "29999")],
        (["--port-min=30001", "--port-max=30002"], "--port-max: 30001 to 30002 has no even port"),
        *[(["--num-threads", text], "--num-threads: ") for text in ("0", str(MAX_WORKERS + 1))],
        (["--max-sessions=-1"], "--max-sessions: -1 is outside 0 to 2147483647"),
        (["--drain-timeout=-1"], "--drain-timeout: -1 is outside 0 to 2147483647"),
        *[(["--poll-pause", text], "--poll-pause: ") for text in ("-1", str(MAX_PAUSE_US + 1))],
        (["--redis=127.0.0.1:6379"], "--redis-db: "),
        (["--redis=127.0.0.1:6379", "--redis-db=-1"], "--redis-db: "),
        # words
        (["--log-facility=kern"], "--log-facility: "),
        (["--log-format=xml"], "--log-format: "),
        (["--endpoint-learning=Off"], "--endpoint-learning: "),
        *[([f"--ice-default={text}"], "--ice-default: ") for text in ("", "Force", "force-relay", "heuristic")],
        (["--srtp-suites="], "--srtp-suites: '' is none of AES_CM_128_HMAC_SHA1_80, AEAD_AES_256_GCM, "),
        (["--srtp-suites=AES_CM_128_HMAC_SHA1_80,x\u00e9"], "--srtp-suites: 'X\\xc9' is none of "),
        (["--srtp-suites=AES_CM_128_HMAC_SHA1_80,"], "--srtp-suites: '' is none of "),
        *[(["--control-allow", text], "--control-allow: ") for text in ("", "x", "10.0.0.0/33", "10.0.0.0/8,")],
        (["--pidfile="], "--pidfile: "),
        *[
            (["--b2b-url", text], "--b2b-url: not a URL that begins with http:// or https://")
            for text in ("", "x", "ftp://x/", "//x/", "http:/\t/x", "http://x/ y", "http://x/\u00e9")
        ],
        *[
            (["--b2b-url", text], "--b2b-url: the URL names no host, or a port that is none")
            for text in (
                "http://",
                "https:///x",
                "http://u:secret@/x",
                "http://x:0/",
                "http://x:secret/",
                "http://[::1/",
            )
        ],
        # HTTP
        *[([f"--listen-http={text}"], "--listen-http: ") for text in ("", "0", "65536", "x", "localhost:80", "::1:5")],
        *[([f"--listen-cli={text}"], "--listen-cli: ") for text in ("", "0", "65536", "x", "::1:5")],
        (
            ["--listen-cli=0.0.0.0:9900"],
            "--listen-cli: the address is not on loopback, say whom to serve with --control-allow",
        ),
        (
            ["--listen-http=0.0.0.0:80"],
            "--listen-http: the address is not on loopback, say whom to serve with --http-allow",
        ),
        (["--listen-http=192.0.2.1:80", "--http-name=a"], "--listen-http: the address is not on loopback, say whom "),
        (["--http-allow=192.0.2.0/24"], "--http-allow: needs --listen-http"),
        (["--http-name=media.example"], "--http-name: needs --listen-http"),
        *[(["--listen-http=80", f"--http-allow={text}"], "--http-allow: ") for text in ("", "x", "10.0.0.0/33")],
        *[
            (["--listen-http=80", f"--http-name={t}"], "--http-name: ")
            for t in ("", "a,", "a b", "a:80", "-a", "\u00e9")
        ],
        (["--takeover"], "--takeover: needs --takeover-socket"),
        (["--takeover-socket="], "--takeover-socket: "),
        # Redis
        (["--redis-db=1"], "--redis-db: needs --redis or --redis-sentinel"),
        (["--redis-instance=a"], "--redis-instance: needs --redis or --redis-sentinel"),
        (["--redis-auth-file=/etc/hostname"], "--redis-auth-file: needs --redis or --redis-sentinel"),
        (
            ["--redis-sentinel=a@192.0.2.1:26379"],
            "--redis-db: a number of 0 or more is mandatory with --redis-sentinel",
        ),
        (["--redis=192.0.2.1:6379", "--redis-sentinel=a@192.0.2.1:26379"], "--redis-sentinel: finds the server, so "),
        *[
            (["--redis-db=0", f"--redis-sentinel={text}"], "--redis-sentinel: ")
            for text in ("", "a", "@192.0.2.1:5", "a@", "a@x", "a@192.0.2.1:5,", "a@/run/sentinel")
        ],
        *[
            ([*REDIS, f"--redis-instance={text}"], "--redis-instance: ")
            for text in ("", "a:b", "a b", "*", "\u00e9", "a" * 101)
        ],
        *[
            ([*REDIS, f"--redis-auth-file={text}"], "--redis-auth-file: ")
            for text in ("", "/nonexistent", "/", os.devnull, "/usr/bin/env")
        ],
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_ends_start_up(arguments: list[str], start: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(capsys, LEAST + arguments).startswith(start)


@pytest.mark.parametrize("option", ["listen-udp", "listen-tcp", "listen-ng"])
def test_any_control_port_is_enough(option: str) -> None:
    result = config.parse([LEAST[0], f"--{option}=127.0.0.1:5000"])
    assert result.listeners == {option: ListenEndpoint("127.0.0.1", 5000)}


def test_http_beyond_this_host() -> None:
    result = config.parse([*LEAST, "--listen-http=[::]:80", "--http-allow=192.0.2.7, ::/0", "--http-name=A.b, c-d"])
    assert result.listen_http == ListenEndpoint("::", 80)
    assert result.http_allow == (ip_network("192.0.2.7/32"), ip_network("::/0"))
    assert result.http_name == ("a.b", "c-d")
    assert "--listen-http (::) not on loopback" in str(config.http_warning(result))
    assert config.http_warning(config.parse([*LEAST, "--listen-http=80", "--http-allow=::/0"])) is None
    assert config.http_warning(DEFAULTS) is None
    assert "listen-http" not in result.listeners, "it serves those who are named, not who may control calls"


def test_the_port_of_the_tool_may_be_elsewhere_for_those_who_are_named() -> None:
    result = config.parse([*LEAST, "--listen-cli=192.0.2.1:9900", "--control-allow=192.0.2.0/24"])
    assert result.listen_cli == ListenEndpoint("192.0.2.1", 9900)
    assert not result.control_allow_implied and "listen-cli" not in result.listeners


def test_one_open_control_port_is_enough_to_warn() -> None:
    result = config.parse([*LEAST, "--listen-udp=22222"])
    assert result.control_allow == config.LOCAL_NETWORKS
    assert "--listen-udp (::)" in str(config.control_warning(result))
    assert "--listen-ng" not in str(config.control_warning(result))


# Mistakes in the order in which they are told, one option each.
ORDER = [
    ("--tos=x", "--tos"),
    ("--ip=x", "--ip"),
    ("--advertised-ip=x", "--advertised-ip"),
    ("--ip6=x", "--ip6"),
    ("--advertised-ip6=x", "--advertised-ip6"),
    ("--listen-tcp=x", "--listen-tcp"),
    ("--listen-udp=x", "--listen-udp"),
    ("--listen-ng=x", "--listen-ng"),
    ("--tos=256", "--tos"),
    ("--redis=x", "--redis"),
    ("--log-level=8", "--log-level"),
    ("--b2b-url=x", "--b2b-url"),
]


def test_where_redis_is(tmp_path: Path) -> None:
    assert config.parse(LEAST).redis_server is None
    login = tmp_path / "login"
    login.write_text("secret\n")
    plain = config.parse([*LEAST, *REDIS, f"--redis-auth-file={login}"])
    assert plain.redis_server == Server(1, Address("127.0.0.1", 6379), password="secret")
    assert plain.instance == "192.0.2.1-30000"
    assert "secret" not in f"{plain!r} {plain.redis_server!r} {plain.redis_server}"
    assert str(plain.redis_server) == "127.0.0.1:6379, database 1"
    login.write_text("user\nsecret\n")
    found = config.parse(
        [*LEAST, "--redis-sentinel=calls@192.0.2.1:1,[2001:db8::1]:2", "--redis-db=3", f"--redis-auth-file={login}"]
    )
    sentinels = (Address("192.0.2.1", 1), Address("2001:db8::1", 2))
    assert found.redis_server == Server(3, None, sentinels, "calls", "user", "secret")
    assert str(found.redis_server) == "master calls of 192.0.2.1:1, [2001:db8::1]:2, database 3"
    local = config.parse([*LEAST, "--redis=/run/redis.sock", "--redis-db=0", "--redis-instance=a.b_C-1"])
    assert (str(local.redis_server), local.instance) == ("/run/redis.sock, database 0", "a.b_C-1")


@pytest.mark.parametrize("position", range(len(ORDER)))
def test_the_first_mistake_in_the_order_of_checks_is_told(position: int, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [argument for argument, _ in ORDER[position:]]
    right = [] if position <= 7 else LEAST[1:]
    message = stopped(capsys, [*right, *reversed(wrong), *(LEAST[:1] if position != 1 else [])])
    assert message.startswith(f"{ORDER[position][1]}:")


def test_mandatory_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(capsys, []).startswith("--ip:")
    assert stopped(capsys, ["--listen-ng=x"]).startswith("--ip:")
    assert stopped(capsys, ["--ip=x"]).startswith("--listen-ng:")


@pytest.mark.parametrize("argument", ["--help", "-h", "-?", "-fh"])
def test_help(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        config.parse(["--ip=nonsense", argument, "--no-such-option"])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    names = ["version", "table", "no-fallback", "ip", "advertised-ip", "ip6", "advertised-ip6", "listen-tcp"]
    names += ["listen-udp", "listen-ng", "tos", "timeout", "silent-timeout", "pidfile", "foreground", "port-min"]
    names += ["port-max", "redis", "redis-db", "b2b-url"]
    assert re.findall(r"^  -\w, --([\w-]+)", out, re.MULTILINE) == [*names, "log-level", "help"]
    assert "\n  -t, --table=INT                   K" in out
    assert (
        f"\n      --poll-pause=USECS            Longest pause between polls, 0 for none ({DEFAULT_PAUSE_US})\n" in out
    )
    assert out == config.help_text()
    documented = {name for name, _, _, _ in OPTIONS} | {name for name, _ in FLAGS}
    assert documented <= set(re.findall(r"--([\w-]+)", out))


def test_every_option_of_the_help_is_tested_here() -> None:
    tested = {name for name, _, _, _ in OPTIONS} | {name for name, _ in FLAGS}
    names = {option.name for option in ALL_OPTIONS}
    elsewhere = {"help", "version", "advertised-ip6", "config-file", "config-section", "http-allow", "http-name"}
    elsewhere |= {name for name in names if name.startswith(("redis", "takeover"))}
    assert names - tested == elsewhere


def test_both_families_can_be_advertised() -> None:
    result = config.parse([*LEAST, "-I2001:db8::1", "-A", "2001:db8::2", "-a203.0.113.1"])
    assert (result.ip, result.advertised_ip) == ("192.0.2.1", "203.0.113.1")
    assert (result.ip6, result.advertised_ip6) == ("2001:db8::1", "2001:db8::2")


@pytest.mark.parametrize("argument", ["--version", "-v", "-fv"])
def test_version(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        config.parse([argument])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    assert re.fullmatch(rf"rtpengine {re.escape(__version__)} \(.+\)\n", out)


def test_a_syntax_error_comes_before_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(capsys, ["--version", "--table=x"]).startswith("--table:")


@pytest.mark.parametrize(
    ("listen", "address", "restricted"),
    [
        ("2223", "::", True),
        ("0.0.0.0:2223", "::", True),
        ("[::]:2223", "::", True),
        ("192.0.2.1:2223", "192.0.2.1", True),
        ("[2001:db8::1]:2223", "2001:db8::1", True),
        ("127.9.9.9:2223", "127.9.9.9", False),
        ("[::1]:2223", "::1", False),
    ],
)
def test_who_may_control(listen: str, address: str, restricted: bool) -> None:
    result = config.parse(["-i192.0.2.1", "-n", listen])
    assert result.listen_ng == ListenEndpoint(address, 2223)
    assert (result.control_allow_implied, bool(result.control_allow)) == (restricted, restricted)
    warning = config.control_warning(result)
    assert warning is None if not restricted else warning and "--control-allow" in warning and address in warning
    chosen = config.parse(["-i192.0.2.1", "-n", listen, "--control-allow=203.0.113.0/24"])
    assert (chosen.control_allow, chosen.control_allow_implied) == ((ip_network("203.0.113.0/24"),), False)
    assert config.control_warning(chosen) is None


@pytest.mark.parametrize(
    ("source", "served"),
    [("127.0.0.1", True), ("10.9.9.9", True), ("172.31.0.1", True), ("192.168.1.1", True), ("169.254.0.1", True)]
    + [("::1", True), ("fd00::1", True), ("fe80::1", True)]
    + [("192.0.2.1", False), ("172.32.0.1", False), ("8.8.8.8", False), ("2001:db8::1", False), ("::2", False)],
)
def test_the_implied_networks_are_private(source: str, served: bool) -> None:
    assert any(ip_address(source) in network for network in config.LOCAL_NETWORKS) is served


@pytest.mark.parametrize(
    ("arguments", "failure", "said"),
    [
        (["-t-1"], None, "forwarding in userspace, since --table is negative (-1)"),
        (["-t-1", "-F"], "of the moon", "forwarding in userspace, since --table is negative (-1)"),
        ([], "of the moon", "forwarding in userspace, since of the moon; table 0 is not used"),
        (["-t7"], None, "forwarding in the kernel, with table 7"),
        (["-t7", "-F"], None, "forwarding in the kernel, with table 7"),
    ],
)
def test_forwarding_says_where_and_why(arguments: list[str], failure: str | None, said: str) -> None:
    assert config.forwarding(config.parse(LEAST + arguments), failure) == said


def test_no_fallback_refuses_userspace() -> None:
    with pytest.raises(ConfigError, match="^--no-fallback: kernel table 3 is not available, of the moon$"):
        config.forwarding(config.parse([*LEAST, "-Ft3"]), "of the moon")
