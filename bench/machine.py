"""What the machine knows about processes and sockets, read from /proc, and where processes run."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

IP4, IP6 = "127.0.0.1", "fd00:7e57::1"
NG_IP, NG_PORT = "127.0.0.1", 22222
UDP_PORT, TCP_PORT = 22223, 22224  # rtpproxy and mediaproxy, at the same address
HTTP_PORT = 22225
PORT_MIN, PORT_MAX = 24000, 60000


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            for line in _lines(f"/proc/{entry}/stat"):
                children.setdefault(int(line.rsplit(")", 1)[1].split()[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes, all threads, at the scheduler's resolution."""
    total = 0
    for pid in pids:
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        total += sum(int(line.split()[0]) for task in tasks for line in _lines(f"/proc/{pid}/task/{task}/schedstat"))
    return total / 1e9


def main_thread_seconds(pid: int) -> float:
    """User and system time of a process's first thread: in our daemon, of everything but media."""
    return sum(int(line.split()[0]) for line in _lines(f"/proc/{pid}/task/{pid}/schedstat")) / 1e9


def status_kb(pids: Iterable[int], key: str) -> int:
    """One line of /proc/PID/status, summed, in KiB."""
    return sum(_field(f"/proc/{pid}/status", key) for pid in pids)


def pss_kb(pids: Iterable[int]) -> int:
    """Proportional set size, summed, in KiB."""
    return sum(_field(f"/proc/{pid}/smaps_rollup", "Pss") for pid in pids)


def meminfo_kb(key: str) -> int:
    """One line of /proc/meminfo, in KiB."""
    return _field("/proc/meminfo", key)


def descriptor_count(pids: Iterable[int]) -> int:
    """Open descriptors of the processes."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids if os.path.exists(f"/proc/{pid}/fd"))


def udp_counters() -> dict[str, int]:
    """The kernel's UDP counters of this network namespace, both families together."""
    names, values = (line.split()[1:] for line in _lines("/proc/net/snmp") if line.startswith("Udp:"))
    counters = {name: int(value) for name, value in zip(names, values, strict=True)}
    for line in _lines("/proc/net/snmp6"):
        name, value = line.split()
        if name.startswith("Udp6") and name[4:] in counters:
            counters[name[4:]] += int(value)
    return counters


def ports_in_use() -> bool:
    """Whether any socket holds a port that a daemon under test would use."""
    for path in ("/proc/net/udp", "/proc/net/udp6"):
        for line in list(_lines(path))[1:]:
            port = int(line.split()[1].rsplit(":", 1)[1], 16)
            if PORT_MIN <= port <= PORT_MAX or port in (NG_PORT, UDP_PORT):
                return True
    return False


def place(cpu: int, nice: int) -> None:
    """In a child before exec: one CPU, and ahead of unrelated work on a shared machine.

    Where the kernel groups tasks by session (autogroup), a process's own nice
    value counts only inside its session, so a session of its own gets the value.
    """
    os.sched_setaffinity(0, {cpu})
    try:
        os.setsid()
        Path("/proc/self/autogroup").write_text(str(nice))
    except OSError:
        pass  # the leader of a session already, or a kernel without autogroup
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError:
        pass  # not root: everybody stays at 0 alike


def enter_namespace() -> None:
    """Run in a network namespace of our own: no port clashes, own counters."""
    if os.environ.get("BENCH_NETNS") != "1":
        if os.geteuid() != 0 or not shutil.which("unshare"):
            print("bench: not root, using the machine's own loopback; IPv6 endpoints will not work", file=sys.stderr)
            return
        os.environ["BENCH_NETNS"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    for command in (
        "ip link set lo up",
        f"ip -6 addr add {IP6}/128 dev lo nodad",
        "ip -6 route add local fd00:7e57:a::/48 dev lo",
        "ip -6 route add local fd00:7e57:b::/48 dev lo",
    ):
        subprocess.run(command.split(), check=True)


def raise_descriptor_limit() -> int:
    """Have as many descriptors as may be had, and return how many that are."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (max(hard, 65536), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return limit
        except (ValueError, OSError):
            continue  # only some roots may go above the hard limit
    return hard


def description() -> str:
    """One line that says what the figures were measured on."""
    model = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "CPU")
    return f"{os.cpu_count()} x {model}, {meminfo_kb('MemTotal') >> 20} GiB, Linux {os.uname().release}"


def _lines(path: str) -> Iterator[str]:
    """The lines of a file under /proc; none if its process is gone."""
    try:
        with open(path) as file:
            yield from file
    except OSError:
        return


def _field(path: str, key: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.startswith(key + ":")), 0)
