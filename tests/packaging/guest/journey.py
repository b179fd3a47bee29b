"""What an operator does with the packages, from the first start to the purge, in a booted Debian.

usage: journey.py NEXT

NEXT is the version in /next, which is upgraded to. Each step prints its name when it has passed; the first that does
not pass ends the journey.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from calls import (
    ADDRESS,
    ADDRESS6,
    OTHER_ADDRESS,
    PHONE6,
    Call,
    forwarded,
    make_network,
    ng,
    run,
    wait_for,
    wait_to_read,
)

MAIN, EAST = "ngcp-rtpengine-daemon", "ngcp-rtpengine-daemon@east"
FORWARDING = f"ngcp-rtpengine-forwarding@{MAIN}"
DEFAULT, CONF = Path(f"/etc/default/{MAIN}"), Path("/etc/rtpengine/rtpengine.conf")
PORT, EAST_PORT = 2223, 2224
OWN = {"RUN_MEDIAPROXY": "yes", "ADDRESS": ADDRESS, "ADDRESS_IPV6": ADDRESS6, "LISTEN_TCP": ""}
OWN["LISTEN_NG"] = f"127.0.0.1:{PORT}"
PACKAGES = ("ngcp-rtpengine", MAIN, "ngcp-rtpengine-iptables", "ngcp-rtpengine-kernel-dkms")

STEPS: list[Callable[[], None]] = []
# Time goes slowly for an emulated machine: no call may end of silence before it is looked at again.
shipped = DEFAULT.read_text().replace("\nTIMEOUT=60\n", "\nTIMEOUT=3600\n")
calls: dict[str, Call] = {}


def step(function: Callable[[], None]) -> Callable[[], None]:
    STEPS.append(function)
    return function


def firewall() -> str:
    """All rules and policies of both families."""
    return run("iptables", "-S") + run("ip6tables", "-S")


def lay_down_rules() -> None:
    """An administrator's own firewall."""
    for tool in ("iptables", "ip6tables"):
        run(tool, "-P", "FORWARD", "DROP")
        run(tool, "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "REJECT")
        run(tool, "-N", "own")
        run(tool, "-A", "INPUT", "-j", "own")


def configure(path: Path = DEFAULT, **variables: str) -> dict[str, int]:
    """The shipped default file with these variables set; return the line of each."""
    lines = shipped.splitlines()
    where = {}
    for name, value in variables.items():
        where[name] = next(number for number, line in enumerate(lines) if re.match(f"#?{name}=", line))
        lines[where[name]] = f"{name}={value}"
    path.write_text("\n".join(lines) + "\n")
    return {name: number + 1 for name, number in where.items()}


def fails(*command: str) -> bool:
    """Whether a command ends with another status than 0."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode != 0


def state(unit: str, what: str = "ActiveState") -> str:
    return run("systemctl", "show", "--value", "-p", what, unit).strip()


def pid(unit: str) -> int:
    return int(state(unit, "MainPID"))


def is_undone() -> bool:
    """Whether nothing of kernel forwarding is left."""
    return firewall() == untouched and not Path("/proc/mediaproxy").exists()


def flows_without_daemon(call: Call, old: int, change: subprocess.Popen[str]) -> None:
    """While a change goes on that restarts the daemon, packets pass when it is not there. The change succeeds."""
    wait_for(f"the end of process {old}", lambda: not Path(f"/proc/{old}").exists() or change.poll())
    assert call.exchange() == 2
    said, _ = change.communicate()
    assert change.returncode == 0, said


def begin(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@step
def nothing_runs_before_it_is_configured() -> None:
    assert state(MAIN, "UnitFileState") == "enabled"
    run("systemctl", "start", MAIN)
    assert state(MAIN) == "inactive" and state(FORWARDING) == "inactive"
    wait_to_read(f"RUN_MEDIAPROXY is not yes in {DEFAULT}", "systemctl", "status", MAIN)
    assert is_undone()


@step
def a_broken_default_file_is_told_with_its_line() -> None:
    lines = configure(RUN_MEDIAPROXY="yes", ADDRESS=ADDRESS, TIMEOUT="soon")
    assert fails("systemctl", "start", MAIN)
    wait_to_read(f"{DEFAULT} line {lines['TIMEOUT']}: TIMEOUT: 'soon' is not an integer", "systemctl", "status", MAIN)
    assert "failed" in run("systemctl", "status", MAIN, check=False)
    wait_for("everything undone", is_undone)


@step
def a_broken_configuration_file_is_told_with_its_line() -> None:
    configure(RUN_MEDIAPROXY="yes", ADDRESS=ADDRESS)
    before = CONF.read_text()
    CONF.write_text("[rtpengine]\ntrust-sdp = yes\nnum-threads = 1000\n")
    assert fails("systemctl", "start", MAIN)
    wait_to_read(f"{CONF} line 3: num-threads: 1000 is outside", "systemctl", "status", MAIN)
    wait_for("everything undone", is_undone)
    CONF.write_text(before)


@step
def it_starts_as_its_own_user_with_two_capabilities() -> None:
    configure(**OWN)
    CONF.write_text("[rtpengine]\ntos = 184\nlisten-ng = 127.0.0.1:9\nmax-sessions = 1000\n")
    run("systemctl", "reset-failed", MAIN)
    run("systemctl", "start", MAIN)
    assert state(MAIN) == "active" and state(FORWARDING) == "active"
    process = Path(f"/proc/{pid(MAIN)}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split()[1] == run("id", "-u", "rtpengine").strip()
    capabilities = f"{1 << 12 | 1 << 23:016x}"
    assert status["CapEff"] == status["CapBnd"] == status["CapAmb"] == capabilities, status
    assert status["NoNewPrivs"] == "1"
    assert "150000" in next(line for line in (process / "limits").read_text().splitlines() if "open files" in line)
    log = ("journalctl", "--no-pager", "-u", MAIN)
    wait_to_read("forwarding in the kernel, with table 0", *log)
    wait_to_read(f"{CONF} line 3: listen-ng has no effect, since LISTEN_NG is set in {DEFAULT}", *log)
    assert ng(PORT, "ping")[b"result"] == b"pong"


@step
def its_rules_come_first_and_nothing_else_changes() -> None:
    rules = firewall()
    for address, tool in ((f"{ADDRESS}/32", "iptables"), (f"{ADDRESS6}/128", "ip6tables")):
        listed = run(tool, "-S").splitlines()
        assert [line for line in listed if line.startswith("-A INPUT")][0].endswith("-j mediaproxy"), listed
        own = [line for line in listed if line.startswith("-A mediaproxy")]
        assert len(own) == 1 and f"-d {address} -p udp" in own[0] and own[0].endswith("-j MEDIAPROXY --id 0"), own
    assert [line for line in rules.splitlines() if "mediaproxy" not in line] == untouched.splitlines()


@step
def calls_go_through_the_kernel() -> None:
    calls["main"] = Call("main", PORT)
    calls["main"].settle(0)
    bridged = Call("bridged", PORT, PHONE6)
    bridged.settle(0)
    bridged.hang_up()


@step
def an_instance_stands_beside_it() -> None:
    configure(
        Path(f"/etc/default/{EAST}"),
        RUN_MEDIAPROXY="yes",
        ADDRESS=OTHER_ADDRESS,
        LISTEN_TCP="",
        LISTEN_UDP="",
        PIDFILE="",
        LISTEN_NG=f"127.0.0.1:{EAST_PORT}",
        TABLE="1",
    )
    run("systemctl", "start", EAST)
    calls["east"] = Call("east", EAST_PORT)
    calls["east"].settle(1)
    assert calls["main"].exchange() == 2


@step
def one_stops_without_the_other() -> None:
    run("systemctl", "stop", MAIN)
    wait_for("the end of the main service's forwarding", lambda: state(FORWARDING) == "inactive")
    assert not Path("/proc/mediaproxy/0").exists()
    assert run("iptables", "-S", "mediaproxy").count("-j MEDIAPROXY") == 1 and "mediaproxy" not in run(
        "ip6tables", "-S"
    )
    before = forwarded(1)
    assert calls["east"].exchange() == 2 and forwarded(1) == before + 2


@step
def a_restart_leaves_the_kernel_at_work() -> None:
    run("systemctl", "start", MAIN)
    calls["main"] = Call("again", PORT)
    calls["main"].settle(0)
    rules, old, since = firewall(), pid(MAIN), state(FORWARDING, "InvocationID")
    flows_without_daemon(calls["main"], old, begin("systemctl", "restart", MAIN))
    assert pid(MAIN) not in (0, old)
    assert firewall() == rules and state(FORWARDING, "InvocationID") == since
    # and the new daemon has found the call again
    calls["main"].settle(0)


@step
def a_restart_takes_up_what_has_changed() -> None:
    rules = firewall()
    configure(**OWN, TABLE="2", PORT_MAX="39999")
    run("systemctl", "restart", MAIN)
    for tool in ("iptables", "ip6tables"):
        made = [line for line in run(tool, "-S", "mediaproxy").splitlines() if f"--comment {MAIN} " in line]
        assert len(made) == 1 and "--dport 30000:39999 " in made[0] and made[0].endswith("--id 2"), made
    assert not Path("/proc/mediaproxy/0").exists()
    calls["main"].settle(2)
    configure(**OWN)
    run("systemctl", "restart", MAIN)
    assert firewall() == rules and not Path("/proc/mediaproxy/2").exists()
    calls["main"].settle(0)


@step
def the_daemon_is_replaced_and_stays_the_same_service() -> None:
    old, since = pid(MAIN), state(MAIN, "InvocationID")
    run("systemctl", "kill", "--kill-who=main", "--signal=SIGRTMIN+1", MAIN)
    wait_for(f"the end of process {old}", lambda: not Path(f"/proc/{old}").exists())
    wait_for("a new main process", lambda: pid(MAIN) not in (0, old))
    assert state(MAIN) == "active" and state(MAIN, "InvocationID") == since and state(MAIN, "NRestarts") == "0"
    wait_to_read("1 calls taken over from the running daemon", "journalctl", "--no-pager", "-u", MAIN)
    assert calls["main"].exchange() == 2
    calls["main"].settle(0)
    # systemd looks after the new one as it did after the old one
    replaced = pid(MAIN)
    run("systemctl", "restart", MAIN)
    assert pid(MAIN) not in (0, replaced) and state(MAIN) == "active"
    calls["main"].settle(0)


@step
def a_crash_leaves_the_kernel_at_work() -> None:
    calls["main"] = Call("crash", PORT)
    calls["main"].settle(0)
    old, since = pid(MAIN), state(FORWARDING, "InvocationID")
    os.kill(old, signal.SIGKILL)
    assert calls["main"].exchange() == 2
    wait_for("a new daemon", lambda: state(MAIN) == "active" and pid(MAIN) != old)
    assert state(FORWARDING, "InvocationID") == since


@step
def flushed_rules_come_back() -> None:
    rules = firewall()
    run("iptables", "-F", "mediaproxy")
    run("systemctl", "reload", "ngcp-rtpengine-forwarding@*")
    assert sorted(firewall().splitlines()) == sorted(rules.splitlines())


@step
def a_jump_that_the_administrator_has_placed_stays_where_it_is() -> None:
    run("systemctl", "stop", MAIN, EAST)
    wait_for("everything undone", is_undone)
    run("iptables", "-N", "mediaproxy")
    run("iptables", "-A", "own", "-j", "mediaproxy")
    placed = firewall()
    run("systemctl", "start", MAIN)
    assert firewall().count("-j mediaproxy") == 2  # his, and ours of ip6tables
    run("systemctl", "stop", MAIN)
    wait_for("our rules gone", lambda: firewall() == placed)
    run("iptables", "-D", "own", "-j", "mediaproxy")
    run("iptables", "-X", "mediaproxy")


@step
def a_module_that_comes_later_takes_a_restart() -> None:
    """As when its headers are installed, or it is built, while the daemon runs."""
    missing = Path("/etc/modprobe.d/missing.conf")
    missing.write_text("install xt_MEDIAPROXY /bin/false\n")
    run("systemctl", "start", MAIN)
    assert "no kernel forwarding, since the module" in run("systemctl", "status", FORWARDING)
    assert is_undone()
    call = Call("without", PORT)
    assert call.exchange() == 2
    missing.unlink()
    run("systemctl", "restart", MAIN)
    call.settle(0)
    run("systemctl", "stop", MAIN)
    wait_for("everything undone", is_undone)


@step
def the_init_script_does_the_same() -> None:
    def script(action: str, check: bool = True) -> str:
        return run("env", "SYSTEMCTL_SKIP_REDIRECT=1", f"/etc/init.d/{MAIN}", action, check=check)

    pidfile = Path(f"/run/rtpengine/{MAIN}.pid")
    script("start")
    old = int(pidfile.read_text())
    assert Path(f"/proc/{old}").stat().st_uid == int(run("id", "-u", "rtpengine"))
    assert run("env", "SYSTEMCTL_SKIP_REDIRECT=1", f"/etc/init.d/{MAIN}", "status")
    call = Call("init", PORT)
    call.settle(0)
    flows_without_daemon(call, old, begin("env", "SYSTEMCTL_SKIP_REDIRECT=1", f"/etc/init.d/{MAIN}", "restart"))
    new = int(pidfile.read_text())
    assert new != old
    lines = configure(**OWN, TOS="300")
    assert f"{DEFAULT} line {lines['TOS']}: TOS: 300 is outside" in script("restart", check=False)
    assert int(pidfile.read_text()) == new and Path(f"/proc/{new}").exists()
    configure(**OWN | {"RUN_MEDIAPROXY": "no"})
    script("restart")
    assert is_undone() and not pidfile.exists()
    configure(**OWN)
    script("start")
    script("stop")
    assert is_undone() and not pidfile.exists()


@step
def the_command_line_of_the_seed_document_works() -> None:
    """By hand, as root, with the sequence that goes with it."""
    run("modprobe", "xt_MEDIAPROXY")
    assert fails("bash", "-c", "echo del 0 >/proc/mediaproxy/control")  # there is no such table, this time
    for tool in ("iptables", "ip6tables"):
        run(tool, "-I", "INPUT", "-p", "udp", "-j", "MEDIAPROXY", "--id", "0")
    pidfile = "/var/run/rtpengine.pid"
    options = ["--table=0", f"--ip={ADDRESS}", f"--ip6={ADDRESS6}", "--listen-udp=127.0.0.1:22222"]
    options += ["--listen-ng=127.0.0.1:2223", "--tos=184", f"--pidfile={pidfile}"]
    run("/usr/sbin/rtpengine", *options, "--config-file=none")
    call = Call("seed", 2223, PHONE6)
    call.settle(0)
    os.kill(int(Path(pidfile).read_text()), signal.SIGTERM)
    wait_for("its end", lambda: not Path(pidfile).exists())
    for tool in ("iptables", "ip6tables"):
        run(tool, "-D", "INPUT", "-p", "udp", "-j", "MEDIAPROXY", "--id", "0")
    run("bash", "-c", "echo del 0 >/proc/mediaproxy/control")
    wait_for("the module unloaded", lambda: not fails("rmmod", "xt_MEDIAPROXY"))


@step
def an_upgrade_leaves_the_kernel_at_work() -> None:
    run("systemctl", "start", MAIN, EAST)
    call, other = Call("upgrade", PORT), Call("other", EAST_PORT)
    calls["main"] = call
    call.settle(0)
    other.settle(1)
    rules, old, east = firewall(), pid(MAIN), pid(EAST)
    conf, default = CONF.read_text(), DEFAULT.read_text()
    packages = [str(next(Path("/next").glob(f"{name}_*.deb"))) for name in (MAIN, "ngcp-rtpengine-iptables")]
    flows_without_daemon(call, old, begin("dpkg", "-i", *packages))
    assert state(MAIN) == state(EAST) == "active"
    assert pid(MAIN) not in (0, old) and pid(EAST) not in (0, east)
    wait_to_read(f"rtpengine {sys.argv[1]} is ready", "journalctl", "--no-pager", "-u", MAIN)
    assert firewall() == rules
    assert (CONF.read_text(), DEFAULT.read_text()) == (conf, default)
    call.settle(0)
    other.settle(1)


@step
def without_the_plugin_no_rule_is_left_that_nobody_could_list() -> None:
    run("dpkg", "--remove", "ngcp-rtpengine", "ngcp-rtpengine-iptables")
    assert firewall() == untouched
    assert state(MAIN) == "active"
    wait_for("the call in userspace", lambda: calls["main"].exchange() == 2)


@step
def removal_stops_everything_first() -> None:
    run("dpkg", "--remove", MAIN)
    wait_for("everything undone", is_undone)
    assert not run("systemctl", "list-units", "--no-legend", "ngcp-rtpengine-*").strip()
    assert not run("pgrep", "-u", "rtpengine", check=False)
    assert DEFAULT.exists()


@step
def purge_leaves_nothing() -> None:
    run("dpkg", "--purge", *PACKAGES)
    assert fails("dpkg-query", "-W", "ngcp-rtpengine*")
    assert fails("getent", "passwd", "rtpengine") and fails("getent", "group", "rtpengine")
    assert fails("modinfo", "xt_MEDIAPROXY")
    # What a running system adds to the files of the packages is in these; test_installed.py looks at everything.
    left = [
        str(path)
        for place in ("/etc", "/run", "/var/lib/dkms", "/var/lib/systemd", "/usr/lib/rtpengine")
        for path in Path(place).rglob("*")
        if re.search("rtpengine|mediaproxy", path.name, re.I)
    ]
    assert left == []


# The tree has been filled on another machine, where nothing was to start.
Path("/usr/sbin/policy-rc.d").unlink()
make_network()
lay_down_rules()
untouched = firewall()
for number, function in enumerate(STEPS, 1):
    try:
        function()
    except Exception:
        traceback.print_exc()
        print(run("systemctl", "status", "--no-pager", "-n", "40", "ngcp-rtpengine-*", check=False))
        print(run("journalctl", "--no-pager", "-n", "60", check=False), firewall())
        sys.exit(f"step {number}, {function.__name__}, failed")
    print(f"passed: {function.__name__}", flush=True)
