"""The process: start-up as a start script sees it, PID file, limits, readiness; forks happen in other processes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rtpengine import process
from rtpengine.options import ConfigError


def run(program: str, *arguments: object, limit_s: float = 30) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python to its end, as a start script would."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )


def wait_for(path: Path, limit_s: float = 20) -> str:
    """The content of a file that another process writes at once and ends with a newline."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written within {limit_s} s")


DAEMON = """
    import os, sys, time
    from rtpengine import process
    ready = process.daemonize(keep_stderr=sys.argv[2] == "keep")
    process.write_pidfile(sys.argv[1] + "/pid")
    print("to standard output"); print("starting", file=sys.stderr)
    sys.stdout.flush(); sys.stderr.flush()
    time.sleep(0.3)
    ready()
    streams = [os.readlink(f"/proc/self/fd/{number}") == "/dev/null" for number in range(3)]
    facts = [os.getsid(0) == os.getpid(), os.getcwd(), *streams]
    with open(sys.argv[1] + "/facts", "w") as file:
        file.write(repr(facts) + chr(10))
    for _ in range(1000):  # the test looks at the PID file before it is removed
        if os.path.exists(sys.argv[1] + "/seen"):
            break
        time.sleep(0.02)
    """


@pytest.mark.parametrize(("stderr", "silent"), [("drop", True), ("keep", False)])
def test_daemonize(tmp_path: Path, stderr: str, silent: bool) -> None:
    program = ["setsid", sys.executable, "-c", textwrap.dedent(DAEMON), str(tmp_path), stderr]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        status = parent.wait(timeout=30)
        # what a start script relies on: status 0 means that all of this is there
        pid = int((tmp_path / "pid").read_text())
        facts = wait_for(tmp_path / "facts")
        (tmp_path / "seen").touch()
        out, err = parent.communicate(timeout=30)
    assert status == 0
    assert pid != parent.pid
    assert facts == f"[True, '/', True, True, {silent}]\n"
    assert (out, err) == ("to standard output\n", "starting\n")
    end = time.monotonic() + 20
    while (tmp_path / "pid").exists():  # removed by the child at its exit
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("death", "message"),
    [("sys.exit('no ports')", "no ports\n"), ("os.kill(os.getpid(), 9)", ""), ("os._exit(0)", "")],
)
def test_a_child_that_dies_before_it_serves_is_status_255(death: str, message: str) -> None:
    result = run(f"import os, sys\nfrom rtpengine import process\nprocess.daemonize()\n{death}")
    assert (result.returncode, result.stdout, result.stderr) == (255, "", message)


def test_a_parent_that_was_killed_does_not_stop_the_child(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        from rtpengine import process
        parent = os.getpid()
        ready = process.daemonize()
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            pass
        ready()
        with open(sys.argv[1], "w") as file:
            file.write("alive" + chr(10))
        """
    assert run(program, tmp_path / "child").returncode == -signal.SIGKILL
    assert wait_for(tmp_path / "child") == "alive\n"


def test_pidfile(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("an old one that is much longer\n")
    seen = run(
        """
        import sys
        from rtpengine import process
        process.write_pidfile(sys.argv[1])
        print(open(sys.argv[1]).read() == f"{process.os.getpid()}" + chr(10))
        """,
        path,
    )
    assert (seen.stdout, seen.stderr) == ("True\n", "")
    assert not path.exists()


@pytest.mark.parametrize("content", ["1\n", "", "nonsense", "9" * 100])
def test_a_pidfile_of_another_process_stays(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pid"
    path.write_text(content)
    process.remove_pidfile(str(path))
    assert path.read_text() == content


def test_a_pidfile_that_is_gone_is_no_error(tmp_path: Path) -> None:
    process.remove_pidfile(str(tmp_path / "pid"))


@pytest.mark.parametrize("before", ["4711\n", None])
def test_a_pidfile_that_is_given_back(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "pid"
    if before is not None:
        path.write_text(before)
    run(
        """
        import sys
        from rtpengine import process
        process.write_pidfile(sys.argv[1])()
        """,
        path,
    )
    assert (path.read_text() if path.exists() else None) == before


def test_a_pidfile_that_cannot_be_written_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--pidfile: cannot write '.*/none/pid': No such file or directory$"):
        process.write_pidfile(str(tmp_path / "none" / "pid"))


class Limits:
    """The two system calls, with the kernel's rules: nobody exceeds ``ceiling``, only root raises a hard limit."""

    RLIMIT_CORE, RLIMIT_NOFILE, RLIM_INFINITY = resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIM_INFINITY

    def __init__(self, core: tuple[int, int], files: tuple[int, int], ceiling: int, root: bool) -> None:
        self.now = {self.RLIMIT_CORE: core, self.RLIMIT_NOFILE: files}
        self.ceiling = ceiling
        self.root = root

    def getrlimit(self, which: int) -> tuple[int, int]:
        return self.now[which]

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        # infinity is -1, which is more than anything else
        soft, hard, allowed = (limit % (1 << 64) for limit in (*limits, self.now[which][1]))
        if soft > hard or (hard > allowed and not self.root):
            raise ValueError("not allowed to raise maximum limit")
        if which == self.RLIMIT_NOFILE and hard > self.ceiling:
            raise PermissionError("above fs.nr_open")
        self.now[which] = limits


MOST = 1_048_576


@pytest.mark.parametrize(
    ("before", "ceiling", "root", "after"),
    [
        ((256, 1024), MOST, True, (MOST, MOST)),
        ((1024, MOST), MOST, True, (MOST, MOST)),
        ((MOST, MOST), MOST, True, (MOST, MOST)),
        ((MOST + 5, MOST + 9), 2 * MOST, True, (MOST + 9, MOST + 9)),
        # a system that allows less
        ((256, 1024), 100_000, True, (65535, 65535)),
        ((256, 1024), 50_000, True, (1024, 1024)),
        # an unprivileged process: its hard limit is all that there is
        ((256, 70_000), MOST, False, (70_000, 70_000)),
        ((66_000, 70_000), MOST, False, (70_000, 70_000)),
        ((256, 1024), MOST, False, (1024, 1024)),
        ((1024, 1024), MOST, False, (1024, 1024)),
    ],
)
def test_limit_of_open_files(
    before: tuple[int, int], ceiling: int, root: bool, after: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits((0, 0), before, ceiling, root)
    monkeypatch.setattr(process, "resource", limits)
    assert process.raise_limits() == after[0]
    assert limits.now[limits.RLIMIT_NOFILE] == after


@pytest.mark.parametrize(
    ("before", "root", "after"),
    [((0, 0), True, (-1, -1)), ((0, -1), False, (-1, -1)), ((0, 500), False, (500, 500)), ((0, 0), False, (0, 0))],
)
def test_core_files(
    before: tuple[int, int], root: bool, after: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(before, (1024, 1024), MOST, root)
    monkeypatch.setattr(process, "resource", limits)
    process.raise_limits()
    assert limits.now[limits.RLIMIT_CORE] == after


def test_the_real_limit_is_raised_as_far_as_allowed() -> None:
    result = run(
        """
        import resource
        from rtpengine import process
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        print(process.raise_limits() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= hard)
        """
    )
    assert (result.stdout, result.stderr) == ("True\n", "")


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@rtpengine-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if abstract else name)
        sock.settimeout(5)
        process.ready_in_foreground()
        assert sock.recv(100) == b"READY=1"
        assert process.notify("STOPPING=1") is True
        assert sock.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("state", "waits"), [("READY=1", True), ("MAINPID=1", True), ("WATCHDOG=1", False), ("STATUS=calls: 1", False)]
)
def test_notify_while_the_queue_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, waits: bool
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(process, "_PATIENCE_S", 60.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(60)
        full = 0
        while process.notify("WATCHDOG=1"):
            full += 1
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(process.notify, state)
            if not waits:
                assert told.result(60) is False
            assert [sock.recv(100) for _ in range(full)] == [b"WATCHDOG=1"] * full
            if waits:
                assert sock.recv(100).decode() == state
                assert told.result(60) is True


@pytest.mark.parametrize("name", [None, "", "/nonexistent/notify"])
def test_notify_where_nobody_listens(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert process.notify("READY=1") is False
