"""What the documents say, held against the code: options, keys, errors, numbers, file names and whole conversations."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bencodepy
import pytest
from fakes import TOOLS, FakeTransport

import rtpengine
from rtpengine import (
    ProtocolError,
    bencode,
    config,
    control,
    control_cli,
    control_tcp,
    counts,
    ctl,
    history,
    metrics,
    ng,
    ng_keys,
    offload,
    openser,
    operations,
    options,
    ports,
    process,
    rtpproxy,
    sdp,
    table,
    targets,
    web,
)
from rtpengine.__main__ import FEW_DESCRIPTORS
from rtpengine.call import RETIREMENT_S
from rtpengine.media import Endpoint, Learning, PortSet, Quality, StreamState
from rtpengine.openser_service import OpenserService
from rtpengine.operator_commands import usage
from rtpengine.packetpath_structs import DROP_REASONS
from rtpengine.recognize import name_protocol
from rtpengine.rtpproxy_service import RtpproxyService
from rtpengine.sampling import Sampler
from rtpengine.service import NgService
from rtpengine.srtp import PROFILES, SUITES, WEAK

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "daemon" / "rtpengine"
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs" / "ng-protocol.md").read_text()
MEDIA = (ROOT / "docs" / "media.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
OPERATING = (ROOT / "docs" / "operating.md").read_text()
OLDER = (ROOT / "docs" / "older-protocols.md").read_text()
HTTP = (ROOT / "docs" / "http.md").read_text()
UDP, TCP = OLDER.partition("\n## rtpproxy over UDP\n")[2].split("\n## mediaproxy over TCP\n")
REFERENCE = README + PROTOCOL + MEDIA + OLDER
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [
    p for d in ("daemon", "kernel-module", "tests") for p in (ROOT / d).rglob("*.*") if p.suffix in (".py", ".c", ".h")
]

OPTIONS = options.ALL_OPTIONS
MINIMAL = config.parse(["--ip=192.0.2.1", "--listen-ng=127.0.0.1:2223"])
# Fields of Config whose names differ from the option's, and defaults that are no single value.
FIELDS = {
    "timeout": "timeout_s",
    "silent-timeout": "silent_timeout_s",
    "drain-timeout": "drain_timeout_s",
    "final-timeout": "final_timeout_s",
    "poll-pause": "poll_pause_us",
}
DEFAULTS = {
    **dict.fromkeys(("version", "help"), ""),
    "ip": "mandatory",
    **dict.fromkeys(("listen-tcp", "listen-udp", "listen-ng", "redis", "redis-db", "b2b-url"), "none"),
    "redis-instance": "`--ip`, `--port-min`",
    **dict.fromkeys(("listen-cli", "listen-http", "http-allow", "http-name"), "none"),
    "advertised-ip": "as `--ip`",
    "advertised-ip6": "as `--ip6`",
    "num-threads": "one per CPU",
    "control-allow": "see below",
    "srtp-suites": "all but F8, NULL",
    "config-file": next(o.text for o in OPTIONS if o.name == "config-file").partition("(")[2].rstrip(")"),
}


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    return re.split(r"^#+ ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row but the headings."""
    lines = text.splitlines()
    body = [a for a, b in zip(lines, [*lines[1:], ""], strict=True) if a.startswith("|") and not b.startswith("|---")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in body if not row.startswith("|---")]


def synopsis(option: options.Option) -> str:
    short = f"-{option.short}, " if option.short else ""
    return f"`{short}--{option.name}{'=' + option.metavar if option.metavar else ''}`"


def default(name: str) -> str:
    """What the table should say, read from a Config made of the mandatory options alone."""
    if name in DEFAULTS:
        return DEFAULTS[name]
    value = getattr(MINIMAL, FIELDS.get(name, name.replace("-", "_")))
    if value is None or value is False:
        return "off" if value is False else "none"
    return value.name.lower() if isinstance(value, Learning) else str(value)


OPTION_ROWS = {row[0]: row for row in rows(section(README, "Command line"))}


def test_options_stand_in_the_order_of_help() -> None:
    assert list(OPTION_ROWS) == [synopsis(option) for option in OPTIONS]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_an_option_has_its_default(option: options.Option) -> None:
    _, documented, meaning = OPTION_ROWS[synopsis(option)]
    assert documented == default(option.name)
    assert not meaning.endswith("not in this version")


def test_defaults_that_no_field_has() -> None:
    assert MINIMAL.advertised_ip == MINIMAL.ip
    assert "num-threads" in {option.name for option in OPTIONS if "one per CPU" in option.text}
    assert MINIMAL.control_allow == ()


KEYS = {
    spelling.decode()
    for value in vars(ng_keys).values()
    if isinstance(value, tuple) and value and all(isinstance(form, bytes) for form in value)
    for spelling in value[:2]
}
LISTED = (ng_keys.FLAG_WORDS, ng_keys.RTCP_MUX_WORDS, ng_keys.REPLACE_WORDS, ng_keys.TRANSPORT_WORDS)
CHOSEN = (ng_keys.ICE_WORDS, ng_keys.DTLS_WORDS, ng_keys.SDES_WORDS)
WORDS = [
    *sorted(KEYS),
    *sorted(word.decode() for known in (*LISTED, *CHOSEN) for word in known),
    *sorted(command.decode() for command in ng._COMMANDS if b"-" not in command),
]


@pytest.mark.parametrize("word", WORDS)
def test_the_protocol_table_has_every_word(word: str) -> None:
    readme = README.partition("\n## The ng protocol\n")[2].partition("\n## ")[0]
    protocol = readme if word in KEYS else readme + PROTOCOL
    forms = {word} if word in KEYS else {word, word.replace("-", " "), word.replace("-", "_")}
    assert any(f"`{form}`" in protocol for form in forms)


def test_words_were_found_in_the_source() -> None:
    assert {"media address", "media-address", "call-id", "sdp", "ICE", "rtpp-flags"} <= KEYS
    assert {"trust-address", "fatal", "demux", "origin", "DTLS", "force-relay", "unencrypted-srtp"} <= {*WORDS}


NG_MODULES = ("ng", "ng_keys", "call", "table", "transport", "ports", "service", "offers", "rewrite", "control", "sdp")
OLDER_MODULES = ("rtpproxy", "openser", "rtpproxy_service", "openser_service", "call", "table", "transport", "ports")


def reasons(modules: tuple[str, ...]) -> set[str]:
    """The constant start of every reason that a client, or the log, can be told."""
    found = set()
    for name in modules:
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "ProtocolError",
                "ResourceError",
                "Unmatched",
                "error",
                "ng.error",
            ):
                argument = node.args[0]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_mandatory":
                argument = node.args[2]
            else:
                continue
            if isinstance(argument, ast.JoinedStr):
                argument = argument.values[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found.add(argument.value)
    return found | {table.NOT_FOUND}


# sdp.py puts "Failed to parse SDP: line N: " before these.
SDP_DETAIL = re.compile(r".*\b[moc]=|.*a=rtcp|.*media or transport of")
# What shares a row of the table with another one.
SHARED = {
    "No from-tag in message": "No call-id in message",
    "No to-tag in message": "No call-id in message",
    "Failed to parse SDP: more than ": "Failed to parse SDP: ...",
    "Failed to parse SDP: line ": "Failed to parse SDP: ...",
    "Value of ": "Value of call-id is too long",
}


@pytest.mark.parametrize("reason", sorted(r for r in reasons(NG_MODULES) if not SDP_DETAIL.match(r)))
def test_every_error_is_explained(reason: str) -> None:
    assert f"`{SHARED.get(reason, reason).rstrip()}" in REFERENCE


def test_reasons_were_found_in_the_source() -> None:
    assert {"Unknown from-tag", "Ran out of ports", "Internal error", "A party cannot answer itself"} <= reasons(
        NG_MODULES
    )
    assert {"Media index is out of range", "No such command", "No usable stream"} <= reasons(OLDER_MODULES)


@pytest.mark.parametrize("reason", sorted({*reasons(OLDER_MODULES), openser.NO_COMMAND}))
def test_every_error_of_the_older_protocols_is_explained(reason: str) -> None:
    assert f"`{reason.rstrip()}" in OLDER


def constant(name: str) -> int:
    """An integer #define of the packet path."""
    text = "".join(
        (ROOT / "daemon" / "packetpath" / file).read_text()
        for file in ("packetpath.h", "learn.h", "worker.c", "demux.c", "secure.c", "early.c")
    )
    match = re.search(rf"#define {name}\s+(\d+)", text)
    assert match, name
    return int(match[1])


NUMBERS = [
    (MEDIA, f"learning window of {constant('PP_LEARN_WINDOW_NS') // 10**9} seconds"),
    (MEDIA, f"silent for {constant('PP_REBIND_SILENCE_NS') // 10**9} seconds"),
    (MEDIA, f"takes its place after {constant('LEARN_REBIND_PACKETS')} packets"),
    (MEDIA, f"it takes {constant('LEARN_STRANGER_PACKETS')} (RTCP: {constant('LEARN_STRANGER_RTCP')})"),
    (MEDIA, f"send {constant('LEARN_STRANGER_PACKETS')} RTP packets of one SSRC"),
    (MEDIA, f"(on an RTCP port: {constant('LEARN_STRANGER_RTCP')} RTCP packets)"),
    (MEDIA, f"check {constant('FORGED_BURST')} packets in vain, and then {constant('FORGED_PER_S')} a second"),
    (MEDIA, f"The {('no', 'one', 'two', 'three', 'four')[constant('LEARN_VALIDATED')]} latest are heard"),
    (MEDIA, f"fragment {constant('KNOWN_BURST')} at once and {constant('KNOWN_PER_S')} a second for each stream"),
    (MEDIA, f"of all others {constant('STRANGERS_BURST')} and {constant('STRANGERS_PER_S')}, and"),
    (MEDIA, f"and {constant('ALL_STRANGERS_BURST')} and {constant('ALL_STRANGERS_PER_S')} for all streams"),
    (MEDIA, f"the first {constant('EARLY_PACKETS')} packets, {constant('EARLY_KIB')} KiB, of a stream"),
    (MEDIA, f"{constant('EARLY_WORKER_KIB') // 1024} MiB of all streams of a media thread"),
    (MEDIA, f"wait {constant('EARLY_MS') // 1000} second"),
    (MEDIA, f"Datagrams of up to {constant('PP_PACKET_MAX')} bytes"),
    (MEDIA, f"until about {constant('GATHER')} of them"),
    (MEDIA, f"fewer than {constant('GATHER_MIN')} packets"),
    (MEDIA, f"`--poll-pause` ({options.DEFAULT_POLL_PAUSE_US} microseconds)"),
    (MEDIA, f"switches it off, {options.MAX_POLL_PAUSE_US} is the most"),
    (MEDIA, f"`--timeout` seconds ({options.DEFAULT_TIMEOUT_S})"),
    (MEDIA, f"`--silent-timeout` seconds ({options.DEFAULT_SILENT_TIMEOUT_S})"),
    (MEDIA, f"rests for {ports.REST_S:.0f} seconds"),
    (README, f"rest {ports.REST_S:.0f} seconds"),
    (README, f"until nothing has come for {RETIREMENT_S:.0f} seconds"),
    (README, f"1 to {options.MAX_THREADS}"),
    (README, f"0 (none) to {options.MAX_POLL_PAUSE_US}"),
    (README, f"| {config.EXIT_FAILURE} | start-up failed"),
    (README, f"rtpengine {rtpengine.__version__} is ready"),
    (README, f"more than {ng_keys.MAX_IDENTIFIER} bytes"),
    (README, f"(up to {max(process._OPEN_FILES)})"),
    (README, f"fewer than {FEW_DESCRIPTORS} files"),
    (OPERATING, f"| Line | {control_cli.MAX_LINE} bytes |"),
    (OPERATING, f"| Connections | {control_cli.MAX_CONNECTIONS}; "),
    (OPERATING, f"| Silence | {control_cli.IDLE_S:.0f} seconds |"),
    (OPERATING, f"| Reply that is not read | {control_cli.SLOW_S:.0f} seconds |"),
    (OPERATING, f"the newest {operations.TOP_CALLS} calls"),
    (OPERATING, f"the first {history.KEPT_FIRST} and the latest {history.MAX_EVENTS - history.KEPT_FIRST} are kept"),
    (OPERATING, f"(127.0.0.1, {ctl.DEFAULT_PORT})"),
    (README, f"--listen-cli={ctl.DEFAULT_PORT}"),
    (PROTOCOL, f"| Request | {ng.MAX_REQUEST} bytes |"),
    (PROTOCOL, f"| Reply | {ng.MAX_REPLY} bytes; "),
    (PROTOCOL, f"| {ng.MAX_COOKIE} bytes each |"),
    (PROTOCOL, f"| Nesting of lists and dictionaries | {bencode.MAX_DEPTH} |"),
    (PROTOCOL, f"in one request | {bencode.MAX_ELEMENTS} |"),
    (PROTOCOL, f"{sdp.MAX_SIZE} bytes, {sdp.MAX_LINES} lines, {sdp.MAX_SECTIONS} sections, {sdp.MAX_PAIRS} port pairs"),
    (PROTOCOL, f"{control.MAX_CACHED_REPLIES} replies"),
    (UDP, f"| Cookie | {rtpproxy.MAX_COOKIE} bytes |"),
    (UDP, f"one of more than {rtpproxy.MAX_COOKIE} bytes"),
    (UDP, f"| Call-id, tag, branch | {rtpproxy.MAX_TOKEN} bytes each |"),
    (UDP, f"branch of more than {rtpproxy.MAX_TOKEN} bytes"),
    (UDP, f"| Address | {rtpproxy.MAX_ADDRESS} characters |"),
    (UDP, f"| Sections | {rtpproxy.MAX_INDEX} in a call |"),
    (UDP, f"the section, from 1 to {rtpproxy.MAX_INDEX};"),
    (UDP, f"N above {rtpproxy.MAX_INDEX} |"),
    (UDP, f"| Reply | {rtpproxy.MAX_REPLY} bytes,"),
    (UDP, f"| `V` | `V` | `{rtpproxy.VERSION.decode()}` |"),
    (TCP, f"| Line | {openser.MAX_LINE} bytes |"),
    (TCP, f"| `No line end within {openser.MAX_LINE} bytes` |"),
    (TCP, f"| Connections | {control_tcp.MAX_CONNECTIONS}; "),
    (TCP, f"| Silence | {control_tcp.IDLE_S:.0f} seconds "),
    (TCP, f"| Reply that is not read | {control_tcp.MAX_UNREAD} bytes |"),
    (TCP, f"< Version: {rtpengine.__version__} "),
    (HTTP, f"of more than {counts.MAX_CLIENTS} the further ones are `{counts.OTHERS}`"),
    (HTTP, f"the `request` `{counts.UNREADABLE}`"),
    (HTTP, f"| Connections | {web.MAX_CONNECTIONS}; "),
    (HTTP, f"| Body of a request | {web.MAX_BODY} bytes, not"),
    (HTTP, f"what was asked for | {web.REQUEST_S:.0f} seconds without"),
    (HTTP, f"of a connection | {web.KEEP_ALIVE_S:.0f} seconds |"),
]


@pytest.mark.parametrize(("document", "phrase"), NUMBERS, ids=[phrase for _, phrase in NUMBERS])
def test_numbers_are_those_of_the_code(document: str, phrase: str) -> None:
    assert phrase in re.sub(r"\s+", " ", document)


def test_each_command_of_the_tool_has_its_row() -> None:
    listed = [row.replace("\\|", "|") for row in section(OPERATING, "Commands").splitlines() if row.startswith("| `")]
    assert listed == [f"| `{entry['command']}` | {entry['does']} |" for entry in usage()]


def test_sizing_counts_the_default_range() -> None:
    pool = ports.PortPool("127.0.0.1", options.DEFAULT_PORT_MIN, options.DEFAULT_PORT_MAX)
    assert f"{pool.free} pairs for IPv4 and {pool.free} for IPv6: {pool.free // 2} plain" in re.sub(r"\s+", " ", README)


@pytest.mark.parametrize("mode", list(Learning))
def test_each_learning_mode_is_explained(mode: Learning) -> None:
    assert f"| `{mode.name.lower()}` |" in README
    assert f"`{mode.name.lower()}`" in section(MEDIA, "The other modes") or mode is Learning.HEURISTIC


def test_each_suite_is_listed() -> None:
    listed = {row[0].partition("`, only")[0].strip("`"): row for row in rows(section(PROTOCOL, "SDES"))[: len(SUITES)]}
    assert list(listed) == list(SUITES)
    assert {name for name, row in listed.items() if "only if the option names it" in row[0]} == WEAK
    assert {name for name, row in listed.items() if row[1]} == {suite.name for suite in PROFILES.values()}
    assert set(MINIMAL.srtp_suites) == set(SUITES) - WEAK


def test_each_reason_for_userspace_is_explained() -> None:
    told = {value for name, value in vars(targets).items() if name.isupper() and isinstance(value, str)}
    listed = {reason for row in rows(section(MEDIA, "In the kernel")) for reason in re.findall(r"`([^`]+)`", row[0])}
    assert listed == told | {"the kernel module has no ...", "the kernel refuses it: ..."}
    text = re.sub(r"\s+", " ", MEDIA)
    assert f"A stream goes down {targets.SETTLE_S:.0f} seconds after" in text
    assert f"After {targets.SETTLE_S:.0f} seconds the stream goes down again" in text
    assert f"it waits up to {offload.MAX_WAIT_S:.0f}." in text


def test_each_drop_reason_is_explained() -> None:
    assert [row[0] for row in rows(section(MEDIA, "Counters"))] == [f"`{reason}`" for reason in DROP_REASONS]


def test_each_metric_has_its_row() -> None:
    listed = {row[0].strip("`"): (row[1], row[3], row[4]) for row in rows(section(HTTP, "Metrics"))}
    assert listed == {name: (spec.kind, spec.text, spec.unit) for name, spec in metrics.METRICS.items()}
    reasons = re.search(r"`closed_sessions_total` tells (.*?)\n\n", HTTP, re.DOTALL)
    assert reasons and set(re.findall(r"`(\w+)`", reasons[1])) == {*counts.REASONS, "rejected"}


def test_make_targets_are_those_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    documented = [re.split(r"[ `]", row[0])[2] for row in rows(section(README, "Quick start"))]
    assert sorted(documented) == sorted(targets)


@dataclass
class DocumentedTransport(FakeTransport):
    """Opens the ports of a documented conversation, and has heard what its statistics say."""

    documented: Iterator[int] = field(default_factory=lambda: iter((31652, 33516)))

    def open(self, call_id: str, family: int, pairs: int) -> PortSet:
        self.next_port = next(self.documented)
        return super().open(call_id, family, pairs)

    def hear(self) -> None:
        """250 packets of 172 bytes in five seconds, and two RTCP packets."""
        for first, address, port, jitter_ms, ssrc in (
            (33516, "192.0.2.20", 5004, 0.31, 2271560481),
            (31652, "203.0.113.30", 6000, 0.29, 305419896),
        ):
            self.heard[first] = 5.9
            quality = Quality(expected=250, jitter_ms=jitter_ms, ssrc=ssrc, payload_type=0)
            self.states[first] = StreamState(Endpoint(address, port), True, 250, 43000, 0, 5.9, 0, {}, quality=quality)
            self.states[first + 1] = StreamState(Endpoint(address, port + 1), True, 2, 16, 0, 2.7, None, {})


def calls_on(transport: FakeTransport) -> table.CallTable:
    return table.CallTable(transport, table.Limits(), Learning.HEURISTIC, TOOLS, lambda *_: None)


def unfold(message: dict[str, Any]) -> dict[str, Any]:
    """The message as it is sent: an sdp written as a list of lines is one string."""
    if isinstance(message.get("sdp"), list):
        return {**message, "sdp": "".join(f"{line}\r\n" for line in message["sdp"])}
    return message


def exchanges() -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Each request of the document with the reply that follows it, None where that is shown elsewhere."""
    messages = [unfold(json.loads(block)) for block in re.findall(r"```json\n(.*?)```", PROTOCOL, re.DOTALL)]
    return [
        (message, following if "result" in following else None)
        for message, following in zip(messages, [*messages[1:], {}], strict=True)
        if "command" in message
    ]


def test_the_conversation_is_what_the_code_answers() -> None:
    transport = DocumentedTransport()
    service = NgService(calls_on(transport))
    sampler = Sampler(transport.quality_of)
    statistics = json.loads(re.findall(r"```json\n(.*?)```", section(PROTOCOL, "Statistics"), re.DOTALL)[0])
    asked = []
    for request, documented in exchanges():
        now = 5.9 if transport.states else 0.0
        command = ng.parse(bencodepy.encode(request))
        try:
            reply = service.execute(command, now, statistics["created"] + now)
        except ProtocolError as error:
            reply = ng.error(str(error))
        wire = bencodepy.decode(ng.serialize(b"1", reply).partition(b" ")[2])
        assert wire == bencodepy.decode(bencodepy.encode(documented or statistics)), request
        asked.append(request["command"])
        if request["command"] == "answer":
            transport.hear()
            sampler.tick(service.table, Quality(), 5.9)
    assert asked == ["ping", "offer", "answer", "query", "delete", "delete", "query"]


def dialogue(text: str) -> list[tuple[str, list[str]]]:
    """Each line sent, marked with ``>``, with the lines that came back, marked with ``<``."""
    lines = "".join(re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).splitlines()
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("> "):
            found.append((line[2:], []))
        else:
            assert line.startswith("< "), line
            found[-1][1].append(line[2:])
    return found


def test_the_rtpproxy_examples_are_what_the_code_answers() -> None:
    transport = DocumentedTransport(documented=iter((31652, 33516, 30418, 39004, 36220, 31008, 35710, 32866)))
    service = RtpproxyService(calls_on(transport), "198.51.100.2")
    asked = []
    for number, (request, documented) in enumerate(dialogue(UDP), 1):
        cookie, line = rtpproxy.split(request.encode())
        reply, _ = service.answer(cookie, line, 8.0 if transport.heard else 0.0, 0.0)
        assert reply.decode() == "".join(f"{line}\n" for line in documented), request
        assert cookie == b"5312_%d" % number
        asked.append(line[:1].decode())
        if asked[-1] == "L":
            transport.hear()
    assert "".join(asked) == "VVVULQDDUULLUULULPU"


def test_the_mediaproxy_examples_are_what_the_code_answers() -> None:
    transport = DocumentedTransport(documented=iter((31652, 33516, 30418, 39004)))
    service = OpenserService(calls_on(transport), lambda: (0, 0))
    asked = []
    for request, documented in dialogue(TCP):
        clients = ["127.0.0.1:40712", "127.0.0.1:40698"]
        reply = service.answer(request.encode(), 8.0 if transport.heard else 0.0, clients)
        assert reply.decode() == "".join(f"{line}\n" for line in documented), request
        asked.append(request.split()[0])
        if asked[-1] == "lookup":
            transport.hear()
    assert asked == ["version", "request", "lookup", "status", "controls", "delete", "quit"]


def test_the_readme_shows_a_piece_of_them() -> None:
    shown = dialogue(section(README, "The older protocols"))
    assert shown and all(exchange in dialogue(UDP) for exchange in shown)


def test_the_wrong_port_is_named_as_documented() -> None:
    request = dialogue(section(README, "The older protocols"))[0][0]
    assert f"WARNING: [control] request from 127.0.0.1: {name_protocol(request.encode())}\n" in README


@pytest.mark.parametrize("letter", sorted(rtpproxy._COMMANDS))
def test_each_rtpproxy_command_has_its_row(letter: bytes) -> None:
    assert f"`{letter.decode()}`" in [row[0] for row in rows(section(UDP, "Commands"))]


@pytest.mark.parametrize("letter", "PSRCIXGN")
def test_each_rtpproxy_command_that_is_refused_is_named(letter: str) -> None:
    with pytest.raises(rtpproxy.Unmatched):
        rtpproxy.parse(f"{letter} call from to".encode())
    refused = section(UDP, "Commands").partition("* `P` (play)")
    assert f"`{letter}`" in "".join(refused[1:])


@pytest.mark.parametrize("feature", sorted(rtpproxy._FEATURES))
def test_each_rtpproxy_extension_is_named(feature: bytes) -> None:
    assert f"`{feature.decode()}`" in section(UDP, "Commands")


@pytest.mark.parametrize("word", [*sorted(openser._WORDS), b"request", b"lookup", b"delete"])
def test_each_mediaproxy_command_has_its_row(word: bytes) -> None:
    assert any(f"`{word.decode()}`" in row[0] for row in rows(section(TCP, "Lines")))


def test_the_wire_example_is_right() -> None:
    assert "81_4711_3 d7:command4:pinge\n81_4711_3 d6:result4:ponge" in README
    cookie, payload = ng.split(b"81_4711_3 d7:command4:pinge")
    assert isinstance(ng.parse(payload), ng.Ping)
    assert ng.serialize(cookie, {"result": "pong"}) == b"81_4711_3 d6:result4:ponge"


def test_the_error_shown_is_the_one_that_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        config.parse([])
    assert end.value.code == config.EXIT_FAILURE
    assert f"`{capsys.readouterr().err.strip()}`" in README


def test_the_example_of_a_file_is_accepted_and_its_mistake_is_on_that_line(tmp_path: Path) -> None:
    text = re.findall(r"```ini\n(.*?)```", README, re.DOTALL)[0]
    file = tmp_path / "rtpengine.conf"
    file.write_text(text)
    assert config.load([f"--config-file={file}"]).tos == 184
    file.write_text(text.replace("184", "300"))
    with pytest.raises(options.ConfigError) as error:
        config.load([f"--config-file={file}"])
    assert f"`rtpengine: /etc/rtpengine/{file.name}{str(error.value).removeprefix(str(file))}`" in README


def test_example_command_lines_are_accepted() -> None:
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    commands = [line for line in shell.splitlines() if re.match(r"(\S*/)?rtpengine ", line)]
    assert len(commands) >= 3
    for command in commands:
        config.parse(command.split()[1:])


def test_each_status_is_documented() -> None:
    found = re.findall(r'"([a-z ]+ peer address)"', (PACKAGE / "report.py").read_text())
    statuses = {text for text in found if not text.startswith("advertised")}
    assert len(statuses) == 3
    assert {text for text in statuses if f"`{text}`" in PROTOCOL} == statuses


DEFINED = "\n".join(path.read_text() for path in SOURCES)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(?:\w+\.)?(\w+)\(\)`", DESIGN)) - {"epoll_wait"}))
def test_functions_of_the_design_exist(name: str) -> None:
    assert re.search(rf"(def {name}\(|^[\w *]*\b{name}\([^;]*$)", DEFINED, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(\w+\.(?:py|c|h))`", DESIGN))))
def test_files_of_the_design_exist(name: str) -> None:
    assert name in {path.name for path in SOURCES}


def test_the_design_names_every_module() -> None:
    """A header that belongs to one C file goes without saying."""
    files = [p for d in (PACKAGE, ROOT / "daemon" / "packetpath") for p in d.glob("*.[pch]*")]
    missing = {p.name for p in files if not {p.name, p.with_suffix(".c").name} & set(re.findall(r"\w+\.\w+", DESIGN))}
    assert {name for name in missing if not name.startswith("_packetpath")} == set()


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_and_links(path: Path) -> None:
    text = path.read_text()
    assert max(map(len, text.splitlines())) <= 120
    for target, _, fragment in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", text)):
        if "://" in target:
            continue
        linked = (path.parent / target) if target else path
        assert linked.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{target}#{fragment}"
