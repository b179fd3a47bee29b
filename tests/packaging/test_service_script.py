"""The default file, what becomes of it, and the order of what is done to the firewall; the real one is in the guest."""

from __future__ import annotations

import copy
import errno
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "debian"))

from rtpengine_service import ServiceError, __main__, defaults, firewall, forwarding, options  # noqa: E402

NAME = "ngcp-rtpengine-daemon"
SHIPPED = (ROOT / "debian" / "ngcp-rtpengine-daemon.default").read_text()
GOOD = "RUN_MEDIAPROXY=yes\nADDRESS=127.0.0.1\nLISTEN_NG=127.0.0.1:2223\n"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of our own for default files and configuration files."""
    monkeypatch.setattr(defaults, "DEFAULT_DIRECTORY", tmp_path)
    monkeypatch.setattr(options, "CONFIG_DIRECTORY", tmp_path)
    monkeypatch.setattr(options.config_file, "DEFAULT_FILE", str(tmp_path / "rtpengine.conf"))
    return tmp_path


def write(files: Path, text: str, name: str = NAME) -> None:
    (files / name).write_text(text)


def test_the_shipped_file_has_every_variable() -> None:
    """In the order in which the program has them, so that none is forgotten."""
    named = [line.lstrip("#").partition("=")[0] for line in SHIPPED.splitlines() if "=" in line and " " not in line]
    assert sorted(named) == sorted({*defaults.OPTIONS, *defaults.FLAGS})


def test_the_shipped_file_starts_nothing_and_listens_on_loopback(files: Path) -> None:
    write(files, SHIPPED)
    assert not defaults.is_wanted(NAME)
    with pytest.raises(ServiceError, match="ADDRESS .or ip in the configuration file.: .* is mandatory"):
        options.load(NAME)
    write(files, SHIPPED + "ADDRESS=127.0.0.1\n")
    assert all(listener.is_loopback for listener in options.load(NAME).config.listeners.values())


def test_variables_become_options(files: Path) -> None:
    write(files, f'{GOOD}TABLE=3\nTOS="184" # EF\nPORT_MAX=\nNO_FALLBACK=1\nFORK=no\nFIREWALL=no\n')
    service = options.load(NAME)
    given = ["--listen-ng=127.0.0.1:2223", "--ip=127.0.0.1", "--tos=184", "--table=3", "--no-fallback"]
    assert list(service.options) == given
    assert (service.forks, service.firewall, service.config.table, service.config.tos) == (False, False, 3, 184)
    assert service.pidfile == f"/run/rtpengine/{NAME}.pid"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ADRESS=192.0.2.1", "ADRESS: no such variable, is it ADDRESS?"),
        ("echo hello", "neither VARIABLE=VALUE nor a comment"),
        ("TOS=$(rm -rf /)", "TOS: a plain value is needed, nothing for a shell to work on"),
        ("TOS='1", "TOS: a quote is not closed"),
        ("TOS=1 2", "TOS: a value with blanks needs quotes, and none before it"),
        ("TOS= 1", "TOS: a value with blanks needs quotes, and none before it"),
        ("TOS=300", "TOS: 300 is outside 0 to 255"),
        ("TIMEOUT=soon", "TIMEOUT: 'soon' is not an integer of 32 bits"),
        ("LISTEN_NG=2223x", "LISTEN_NG: '2223x' is not "),
        ("FORK=maybe", "FORK: is yes or no"),
        ("NO_FALLBACK=true", "NO_FALLBACK: is yes or no"),
        ('TOS="$1" "2"', "TOS: a plain value is needed, nothing for a shell to work on"),
        ("TOS=1;2 # 'no'", "TOS: a plain value is needed, nothing for a shell to work on"),
        ("TOS=1#8", "TOS: '1#8' is not an integer"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_variable(files: Path, line: str, reason: str) -> None:
    write(files, f"{GOOD}\n{line}\n")
    with pytest.raises(ServiceError) as error:
        options.load(NAME)
    assert str(error.value).startswith(f"{files / NAME} line 5: {reason}")
    # It is not passed over as a service that nobody wants.
    assert defaults.is_wanted(NAME)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("184 # EF (don't; ask)", "184"),
        ("'a&b' # c", "a&b"),
        ('"http://b/?x=1&y=(2)#z"', "http://b/?x=1&y=(2)#z"),
        ("http://b/#z", "http://b/#z"),
        ("a'b c'\"d\"", "ab cd"),
        ("#1", "#1"),
        ("  ", None),
        (" # nothing", None),
    ],
)
def test_a_value_is_what_a_shell_reads(files: Path, text: str, value: str | None) -> None:
    write(files, f"B2B_URL={text}\n")
    found = defaults.read(files / NAME).get("B2B_URL")
    shell = ["sh", "-c", f'. "{files / NAME}"; printf %s "$B2B_URL"']
    assert (found.value if found else "") == (value or "") == subprocess.check_output(shell, text=True)


def test_a_mistake_in_the_configuration_file_is_the_daemons_to_tell(files: Path) -> None:
    write(files, GOOD)
    (files / "rtpengine.conf").write_text("[rtpengine]\ntos = 300\n")
    with pytest.raises(ServiceError, match=r"rtpengine\.conf line 2: tos: 300 is outside 0 to 255"):
        options.load(NAME)


def test_what_a_variable_overrides_is_told(files: Path) -> None:
    write(files, GOOD)
    (files / "rtpengine.conf").write_text("[rtpengine]\nip = 127.0.0.1\nlisten-ng = 9\ntos = 184\n")
    service = options.load(NAME)
    assert service.config.tos == 184 and service.config.listeners["listen-ng"].port == 2223
    assert options.overridden(service) == [
        f"{files / 'rtpengine.conf'} line 3: listen-ng has no effect, since LISTEN_NG is set in {files / NAME}"
    ]


def test_an_instance_does_not_read_the_main_services_files(files: Path) -> None:
    write(files, GOOD)
    (files / "rtpengine.conf").write_text("[rtpengine]\ntos = 184\n")
    east = f"{NAME}@east"
    write(files, GOOD, east)
    assert options.load(east).config.tos == 0
    (files / "east.conf").write_text("[rtpengine]\ntos = 8\n")
    assert options.load(east).config.tos == 8
    (files / "rtpengine.conf").write_text("[rtpengine]\ntos = 184\n[east]\ntos = 16\n")
    write(files, f"{GOOD}CONFIG_SECTION=east\n", east)
    assert options.load(east).config.tos == 16


def test_a_configuration_file_alone_is_enough(files: Path) -> None:
    (files / "east.conf").write_text("[rtpengine]\nip = 127.0.0.1\nlisten-ng = 127.0.0.1:2223\n")
    assert defaults.is_wanted(f"{NAME}@east")
    assert options.load(f"{NAME}@east").config.ip == "127.0.0.1"


@pytest.mark.parametrize("text", ["", "RUN_MEDIAPROXY=no\n", "RUN_MEDIAPROXY=1\n", "#RUN_MEDIAPROXY=yes\n"])
def test_a_service_that_is_not_wanted_is_skipped_with_a_word(
    files: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(files, text)
    monkeypatch.setattr(sys, "argv", ["service", "condition", NAME])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert end.value.code == 1
    assert f"RUN_MEDIAPROXY is not yes in {files / NAME}" in capsys.readouterr().err


def test_a_mistake_ends_with_a_status_that_no_restart_follows(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(files, "TOS=300\n" + GOOD)
    monkeypatch.setattr(sys, "argv", ["service", "check", NAME])
    assert __main__.main() == 78
    assert capsys.readouterr().err == f"rtpengine: {files / NAME} line 1: TOS: 300 is outside 0 to 255\n"
    assert "RestartPreventExitStatus=78\n" in (ROOT / "debian" / f"{NAME}.service").read_text()


@pytest.mark.parametrize(("folder", "given"), [("there", True), ("nowhere", False)])
def test_a_pid_file_that_nobody_needs_keeps_nothing_from_starting(
    files: Path, folder: str, given: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that of the packages of 2014, in a place where the daemon's user cannot write."""
    (files / "there").mkdir()
    option = f"{files / folder / 'own.pid'}"
    write(files, f"{GOOD}PIDFILE={option}\n")
    ran: list[list[str]] = []
    monkeypatch.setattr(__main__.os, "execv", lambda path, argv: ran.append(argv))
    for command in ("run", "start"):
        monkeypatch.setattr(sys, "argv", ["service", command, NAME])
        __main__.main()
    assert (f"--pidfile={option}" in ran[0], f"--pidfile={option}" in ran[1]) == (given, True)
    assert ("cannot be written (PIDFILE)" in capsys.readouterr().err) == (not given)


@pytest.mark.parametrize(
    ("more", "path"),
    [("", f"/run/rtpengine/{NAME}.pid"), ("PIDFILE=/run/own.pid\n", "/run/own.pid")],
)
def test_the_pid_file_is_found_whatever_else_is_wrong(
    files: Path, more: str, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["service", "pidfile", NAME])
    write(files, GOOD + more)
    assert (__main__.main(), capsys.readouterr().out) == (0, f"{path}\n")
    write(files, f"{GOOD}{more}TOS=300\n")
    assert __main__.main() == (0 if more else 78)
    assert capsys.readouterr().out == (f"{path}\n" if more else "")


OWN = ["-p", "tcp", "-j", "ACCEPT"]


class FakeTables:
    """Keeps the chains of both tools as iptables does, as far as it is asked to here."""

    def __init__(self) -> None:
        self.chains: dict[str, dict[str, list[list[str]]]] = {tool: {"INPUT": [OWN]} for tool in firewall.TOOLS}
        self.failing = ""
        self.says = "no luck\n"
        self.changes: list[str] = []
        self._run = subprocess.run

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """In the place of subprocess.run."""
        tool, *arguments = command
        if tool not in self.chains:
            return self._run(command, **options)
        assert arguments.pop(0) == "-w"
        action, *words = arguments
        if f"{tool} {action}" == self.failing:
            return subprocess.CompletedProcess(command, 1, "", self.says)
        if action not in ("-S", "-C"):
            self.changes.append(f"{tool} {action}")
        done = self._change(self.chains[tool], action, words)
        return subprocess.CompletedProcess(command, 0 if done is not False else 1, done if done else "", "")

    def _change(self, chains: dict[str, list[list[str]]], action: str, words: list[str]) -> str | bool | None:
        chain = words.pop(0) if words else ""
        match action:
            case "-S":
                rules = [shlex.join(["-A", name, *rule]) for name, rules in chains.items() for rule in rules]
                return "\n".join(["-P INPUT DROP", *(f"-N {name}" for name in chains if name != "INPUT"), *rules])
            case "-N":
                chains[chain] = []
            case "-C":
                return words in chains[chain]
            case "-A":
                chains[chain].append(words)
            case "-I":
                chains[chain].insert(int(words.pop(0)) - 1, words)
            case "-D":
                chains[chain].remove(words)
            case "-X":
                assert not chains.pop(chain)
            case _:
                raise AssertionError(action)
        return None


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> FakeTables:
    """The rules of both families, with one that is there before."""
    tables = FakeTables()
    monkeypatch.setattr(firewall.subprocess, "run", tables.run)
    monkeypatch.setattr(firewall.shutil, "which", lambda tool: f"/usr/sbin/{tool}")
    monkeypatch.setattr(firewall, "IPV6", Path(__file__))
    return tables


def kept(rules: FakeTables, tool: str = "iptables") -> dict[str, list[str]]:
    return {chain: [shlex.join(rule) for rule in listed] for chain, listed in rules.chains[tool].items()}


def service(files: Path, name: str = NAME, more: str = "") -> options.Service:
    write(files, f"{GOOD}PORT_MIN=30000\nPORT_MAX=30999\n{more}", name)
    return options.load(name)


JUMP = "-p udp -m comment --comment ngcp-rtpengine -j mediaproxy"


def test_a_rule_and_a_jump_above_all_others(files: Path, rules: FakeTables) -> None:
    first = service(files)
    firewall.add(first.name, first.config)
    firewall.add(first.name, first.config)
    rule = f"-d 127.0.0.1 -p udp -m udp --dport 30000:30999 -m comment --comment {NAME} -j MEDIAPROXY --id 0"
    assert kept(rules) == {"INPUT": [JUMP, shlex.join(OWN)], "mediaproxy": [rule]}
    assert kept(rules, "ip6tables") == {"INPUT": [shlex.join(OWN)]}
    firewall.remove(first.name)
    assert kept(rules) == {"INPUT": [shlex.join(OWN)]}


@pytest.mark.parametrize("mask", ["", "/32"])
def test_a_rule_that_is_right_is_never_away(files: Path, rules: FakeTables, mask: str) -> None:
    """Packets in the kernel pass it. iptables lists addresses with their mask, and takes them with it."""
    first = service(files)
    firewall.add(first.name, first.config)
    rules.chains["iptables"]["mediaproxy"][0][1] += mask
    rules.changes.clear()
    monkeypatched = rules._change

    def change(chains: dict[str, list[list[str]]], action: str, words: list[str]) -> str | bool | None:
        if action == "-C":
            words[words.index("-d") + 1] += mask
        return monkeypatched(chains, action, words)

    rules._change = change  # type: ignore[method-assign]
    firewall.add(first.name, first.config)
    assert rules.changes == []
    other = service(files, more="PORT_MAX=30500\nADDRESS=127.0.0.2\n")
    firewall.add(other.name, other.config)
    assert rules.changes == ["iptables -D", "iptables -A"]
    assert "-d 127.0.0.2 -p udp -m udp --dport 30000:30500" in kept(rules)["mediaproxy"][0]


def test_a_family_that_is_given_up_leaves_nothing(files: Path, rules: FakeTables) -> None:
    both = service(files, more="ADDRESS_IPV6=::1\n")
    firewall.add(both.name, both.config)
    assert kept(rules, "ip6tables")["INPUT"][0] == JUMP
    one = service(files)
    firewall.add(one.name, one.config)
    assert kept(rules, "ip6tables") == {"INPUT": [shlex.join(OWN)]} and JUMP in kept(rules)["INPUT"]


def test_a_kernel_without_ipv6_needs_no_ip6tables(
    files: Path, rules: FakeTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of the legacy kind then fails at whatever it is asked."""
    rules.failing = "ip6tables -S"
    monkeypatch.setattr(firewall, "IPV6", files / "nowhere")
    first = service(files)
    firewall.add(first.name, first.config)
    assert JUMP in kept(rules)["INPUT"]
    firewall.remove(first.name)
    assert kept(rules) == {"INPUT": [shlex.join(OWN)]}


def test_what_fails_for_one_family_does_not_keep_the_rules_of_the_other(files: Path, rules: FakeTables) -> None:
    both = service(files, more="ADDRESS_IPV6=::1\n")
    firewall.add(both.name, both.config)
    rules.failing = "iptables -S"
    with pytest.raises(ServiceError, match="iptables -S: no luck"):
        firewall.remove(both.name)
    assert kept(rules, "ip6tables") == {"INPUT": [shlex.join(OWN)]} and JUMP in kept(rules)["INPUT"]


def test_services_share_chain_and_jump(files: Path, rules: FakeTables) -> None:
    first, second = service(files), service(files, f"{NAME}@east", "ADDRESS_IPV6=::1\nTABLE=1\n")
    for each in (first, second):
        firewall.add(each.name, each.config)
    assert kept(rules)["INPUT"].count(JUMP) == 1 and len(kept(rules)["mediaproxy"]) == 2
    firewall.remove(first.name)
    assert [rule[-19:] for rule in kept(rules)["mediaproxy"]] == ["-j MEDIAPROXY --id 1"[-19:]]
    assert kept(rules)["INPUT"] == [JUMP, shlex.join(OWN)]
    firewall.remove(second.name)
    assert kept(rules) == kept(rules, "ip6tables") == {"INPUT": [shlex.join(OWN)]}


def test_a_jump_that_is_there_already_is_enough_and_stays(files: Path, rules: FakeTables) -> None:
    placed = {"INPUT": [OWN, ["-i", "eth0", "-j", "mediaproxy"]], "mediaproxy": []}
    rules.chains["iptables"] = copy.deepcopy(placed)
    first = service(files)
    firewall.add(first.name, first.config)
    assert JUMP not in kept(rules)["INPUT"]
    firewall.remove(first.name)
    assert rules.chains["iptables"] == placed


@pytest.mark.parametrize("failing", ["iptables -N", "iptables -A", "iptables -I", "ip6tables -A", "ip6tables -I"])
def test_rules_that_cannot_be_made_leave_none_behind(files: Path, rules: FakeTables, failing: str) -> None:
    first = service(files, more="ADDRESS_IPV6=::1\n")
    rules.failing = failing
    with pytest.raises(ServiceError, match=f"^{failing}.*: no luck$"):
        firewall.add(first.name, first.config)
    assert kept(rules) == kept(rules, "ip6tables") == {"INPUT": [shlex.join(OWN)]}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "status 1"),
        ("# Warning: tables\nip6tables v1.8.9: no such family\nPerhaps upgrade.\n", "ip6tables v1.8.9: no such family"),
        (
            "iptables v1.8.9 (nf_tables): unknown option \"--id\"\nTry `iptables -h' or 'iptables --help'\n",
            "there is no target MEDIAPROXY (package ngcp-rtpengine-iptables)",
        ),
    ],
)
def test_the_reason_is_told_and_not_the_advice(files: Path, rules: FakeTables, said: str, reason: str) -> None:
    rules.failing, rules.says = "iptables -A", said
    first = service(files)
    with pytest.raises(ServiceError) as error:
        firewall.add(first.name, first.config)
    assert f" -j MEDIAPROXY --id 0: {reason}" in str(error.value)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A module that is loaded, as far as can be told from files; what its control file has been told."""
    proc = tmp_path / "proc"
    for number in range(2):
        (proc / str(number)).mkdir(parents=True)
        for name in ("control", "blist"):
            (proc / str(number) / name).touch()
    (proc / "list").write_text("0\n")
    (proc / "control").touch()
    told: list[str] = []
    monkeypatch.setattr(forwarding, "PROC", proc)
    monkeypatch.setattr(forwarding, "STATE", tmp_path / "state")
    monkeypatch.setattr(forwarding, "LOADED_VERSION", tmp_path / "version")
    monkeypatch.setattr(forwarding, "_command", told.append)
    monkeypatch.setattr(forwarding.grp, "getgrnam", lambda name: forwarding.grp.struct_group((name, "", -1, [])))
    return told


def test_up_makes_an_empty_table_that_the_group_can_open_and_down_undoes_it(
    files: Path, rules: FakeTables, kernel: list[str]
) -> None:
    first = service(files, more="TABLE=1\n")
    forwarding.up(first)
    assert kernel == ["del 1", "add 1"]
    modes = {name: (forwarding.PROC / "1" / name).stat().st_mode & 0o777 for name in ("control", "blist")}
    assert modes == {"control": 0o220, "blist": 0o440}
    assert len(kept(rules)["mediaproxy"]) == 1
    # whatever the file says by then
    service(files, more="TABLE=0\n")
    forwarding.down(first.name)
    assert kernel[2:] == ["del 1"] and kept(rules) == {"INPUT": [shlex.join(OWN)]}


def test_a_table_that_somebody_uses_is_left_alone(
    files: Path, rules: FakeTables, kernel: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(text: str) -> None:
        kernel.append(text)
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(forwarding, "_command", busy)
    with pytest.raises(ServiceError, match="kernel table 0 is in use by another process"):
        forwarding.up(service(files))
    assert kernel == ["del 0"] and kept(rules) == {"INPUT": [shlex.join(OWN)]}
    # and once more, since there is nothing to undo
    forwarding.down(NAME)
    assert kernel == ["del 0"]


def test_without_the_module_there_is_a_line_and_no_rule(
    files: Path,
    rules: FakeTables,
    kernel: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(forwarding, "PROC", files / "nowhere")
    monkeypatch.setattr(forwarding, "MODULE", "xt_MEDIAPROXY_that_nobody_has")
    forwarding.up(service(files))
    assert "no kernel forwarding, since the module" in capsys.readouterr().err
    assert kernel == [] and kept(rules) == {"INPUT": [shlex.join(OWN)]}


def test_rules_that_cannot_be_made_cost_the_table_too(files: Path, rules: FakeTables, kernel: list[str]) -> None:
    rules.failing = "iptables -A"
    with pytest.raises(ServiceError):
        forwarding.up(service(files))
    assert kernel == ["del 0", "add 0", "del 0"]


def test_rules_are_made_again_only_while_the_service_is_up(files: Path, rules: FakeTables, kernel: list[str]) -> None:
    first = service(files)
    forwarding.refresh(first)
    assert kept(rules) == {"INPUT": [shlex.join(OWN)]}
    forwarding.up(first)
    rules.chains["iptables"] = {"INPUT": []}
    forwarding.refresh(first)
    assert kept(rules)["INPUT"] == [JUMP]


def test_before_another_start_what_is_right_stays(files: Path, rules: FakeTables, kernel: list[str]) -> None:
    first = service(files)
    forwarding.renew(first)
    assert kernel == [] and kept(rules) == {"INPUT": [shlex.join(OWN)]}  # it is not up
    forwarding.up(first)
    done = len(kernel), len(rules.changes)
    forwarding.renew(first)
    assert (len(kernel), len(rules.changes)) == done


@pytest.mark.parametrize(
    ("more", "told", "rule"),
    [
        ("TABLE=1\n", ["del 0", "del 1", "add 1"], "--dport 30000:30999 -m comment --comment {} -j MEDIAPROXY --id 1"),
        ("PORT_MAX=40000\n", [], "--dport 30000:40000 -m comment --comment {} -j MEDIAPROXY --id 0"),
        ("TABLE=-1\n", ["del 0"], ""),
        ("FIREWALL=no\n", [], ""),
    ],
)
def test_before_another_start_it_is_made_as_the_files_say_now(
    files: Path, rules: FakeTables, kernel: list[str], more: str, told: list[str], rule: str
) -> None:
    forwarding.up(service(files))
    kernel.clear()
    forwarding.renew(service(files, more=more))
    assert kernel == told
    made = kept(rules).get("mediaproxy", [])
    assert [each.partition("-m udp ")[2] for each in made] == ([rule.format(NAME)] if rule else [])
    forwarding.down(NAME)
    assert kept(rules) == {"INPUT": [shlex.join(OWN)]} and not (forwarding.STATE / NAME).exists()


def test_a_module_that_comes_later_is_there_at_the_next_start(
    files: Path, rules: FakeTables, kernel: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its headers are installed after the daemon has been started."""
    with monkeypatch.context() as without:
        without.setattr(forwarding, "PROC", files / "nowhere")
        without.setattr(forwarding, "MODULE", "xt_MEDIAPROXY_that_nobody_has")
        forwarding.up(service(files))
        forwarding.renew(service(files))
    assert kernel == [] and kept(rules) == {"INPUT": [shlex.join(OWN)]}
    forwarding.renew(service(files))
    assert kernel == ["del 0", "add 0"] and JUMP in kept(rules)["INPUT"]


def test_what_could_not_be_made_is_tried_again_at_the_next_start(
    files: Path, rules: FakeTables, kernel: list[str]
) -> None:
    forwarding.up(service(files))
    rules.failing = "iptables -A"
    with pytest.raises(ServiceError):
        forwarding.renew(service(files, more="PORT_MAX=40000\n"))
    assert kernel[-1] == "del 0" and kept(rules) == {"INPUT": [shlex.join(OWN)]}
    rules.failing = ""
    forwarding.renew(service(files))
    assert kernel[-1] == "add 0" and JUMP in kept(rules)["INPUT"]


def test_the_table_of_another_service_is_left_alone_although_its_daemon_has_not_begun(
    files: Path, rules: FakeTables, kernel: list[str]
) -> None:
    """As when a default file was copied, and both start at boot."""
    forwarding.up(service(files))
    with pytest.raises(ServiceError, match=rf"^kernel table 0 is that of {NAME} \(TABLE\)$"):
        forwarding.up(service(files, f"{NAME}@east"))
    assert kernel == ["del 0", "add 0"] and len(kept(rules)["mediaproxy"]) == 1
    assert not (forwarding.STATE / f"{NAME}@east").exists()


def test_rules_are_made_again_for_the_table_that_there_is(files: Path, rules: FakeTables, kernel: list[str]) -> None:
    """Not for that which the next start is to have."""
    forwarding.up(service(files))
    rules.chains["iptables"] = {"INPUT": []}
    forwarding.refresh(service(files, more="TABLE=1\n"))
    assert kept(rules)["mediaproxy"][0].endswith("--id 0")


def test_rules_are_taken_out_while_the_service_is_up(files: Path, rules: FakeTables, kernel: list[str]) -> None:
    forwarding.up(service(files))
    forwarding.remove_rules(NAME)
    assert kernel == ["del 0", "add 0"] and kept(rules) == {"INPUT": [shlex.join(OWN)]}
    forwarding.renew(service(files))
    assert kernel == ["del 0", "add 0"] and JUMP in kept(rules)["INPUT"]


def test_userspace_alone_needs_nothing(files: Path, rules: FakeTables, kernel: list[str]) -> None:
    forwarding.up(service(files, more="TABLE=-1\n"))
    assert kernel == [] and kept(rules) == {"INPUT": [shlex.join(OWN)]}


def test_a_module_of_another_version_is_told(
    files: Path,
    rules: FakeTables,
    kernel: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forwarding.LOADED_VERSION.write_text("1.0\n")
    (files / "modinfo").write_text("#!/bin/sh\necho 2.0\n")
    (files / "modinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(files), prepend=":")
    forwarding.up(service(files))
    assert "xt_MEDIAPROXY 1.0 is loaded, 2.0 is installed" in capsys.readouterr().err


def test_the_init_script_is_one_that_a_shell_can_read() -> None:
    assert subprocess.run(["sh", "-n", ROOT / "debian" / f"{NAME}.init"]).returncode == 0
