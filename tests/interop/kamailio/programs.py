"""Kamailio and sipp as child processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO

from systemlab.daemon import wait_until
from systemlab.media import Address, Section, sections
from systemlab.netns import Host

CONFIGURATIONS = Path(__file__).parents[3] / "docs" / "kamailio"
PATIENCE_S = 60


def missing() -> str | None:
    """Say which program these tests lack, None if all are there."""
    packages = {"kamailio": "kamailio", "kamcmd": "kamailio", "sipp": "sip-tester"}
    lacking = [f"{program} (Debian's {package})" for program, package in packages.items() if not shutil.which(program)]
    return f"not installed: {', '.join(lacking)}" if lacking else None


class Child:
    """A program in a process group of its own; its output goes to a file."""

    def __init__(self, command: list[str], log_file: Path, host: Host) -> None:
        self.command = command
        self.log_file = log_file
        with log_file.open("ab") as log, host.inside():
            self.process = self._start(log)

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """Everything that it has written."""
        return self.log_file.read_text(errors="replace")

    def stop(self) -> int:
        """End it in order; by force, with its whole group, if it takes more than ten seconds."""
        if self.alive:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait(60)


class Kamailio(Child):
    """A SIP proxy that runs one of the sample configurations, unchanged, with other values for its names."""

    def __init__(self, configuration: str, directory: Path, host: Host, port: int, names: dict[str, str]) -> None:
        self.address: Address = (host.address(4), port)
        self.directory = directory
        defines = {"SIP_LISTEN": f"udp:{self.address[0]}:{port}", **names}
        command = [
            "kamailio", "-f", str(CONFIGURATIONS / configuration), "-DD", "-E", "-m", "16", "-M", "4",
            "-Y", str(directory), "-w", str(directory), "-P", str(directory / "kamailio.pid"),
            *itertools.chain.from_iterable(("-A", f"{name}={value}") for name, value in defines.items()),
        ]  # fmt: skip
        super().__init__(command, directory / "kamailio.log", host)
        try:
            self._await_start(host)
        except BaseException:
            self.stop()
            raise

    def _await_start(self, host: Host) -> None:
        with host.udp(host.address(4)) as sock:
            if not wait_until(lambda: not self.alive or self._options(sock), PATIENCE_S) or not self.alive:
                raise AssertionError(f"Kamailio does not answer: {self.command}\n{self.log}")

    def _options(self, sock: socket.socket) -> bool:
        return sip_request(sock, self.address, "OPTIONS", f"sip:{self.address[0]}", timeout_s=0.2) == 200

    def control(self, *command: str) -> str:
        """What Kamailio answers to one of kamcmd's commands."""
        there = f"unixs:{self.directory}/kamailio_ctl"
        done = subprocess.run(
            ["kamcmd", "-s", there, *command], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done
        return done.stdout


_numbers = itertools.count(1)


def sip_request(
    sock: socket.socket,
    server: Address,
    method: str,
    uri: str,
    user: str = "test",
    extra: str = "",
    timeout_s: float = 2,
) -> int | None:
    """Send a request, again if need be, and return the status of its final response; None if there was none in time."""
    host, port = sock.getsockname()
    name = f"{os.getpid()}-{port}-{next(_numbers)}"
    request = (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{name}\r\nMax-Forwards: 70\r\n"
        f"From: <sip:{user}@{server[0]}>;tag={name}\r\nTo: <sip:{user}@{server[0]}>\r\nCall-ID: {name}\r\n"
        f"CSeq: 1 {method}\r\n{extra}Content-Length: 0\r\n\r\n"
    )
    deadline = time.monotonic() + timeout_s
    sock.settimeout(min(timeout_s, 1))
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            sock.sendto(request.encode(), server)
            reply = sock.recv(65535).decode()
            if f"Call-ID: {name}" in reply:
                return int(reply.split()[1])
    return None


class Phone(Child):
    """One sipp with a scenario. ``messages`` are the SIP messages that it has received so far."""

    def __init__(
        self, name: str, host: Host, directory: Path, proxy: Address, scenario: str, rtp_port: int,
        callee: str = "", calls: int = 1, rate: int = 10, patience_s: int = PATIENCE_S,
    ) -> None:  # fmt: skip
        self.name = name
        self.address: Address = (host.address(4), host.free_port())
        self._host = host
        self._patience_s = patience_s
        self._trace = directory / f"{name}.messages"
        script = directory / f"{name}.xml"
        script.write_text(scenario)
        command = [
            "sipp", f"{proxy[0]}:{proxy[1]}", "-sf", str(script), "-i", self.address[0], "-p", str(self.address[1]),
            "-m", str(calls), "-l", str(calls), "-r", str(rate), "-nostdin", "-key", "rtp_port", str(rtp_port),
            "-trace_msg", "-message_file", str(self._trace), "-timeout", f"{patience_s}s", "-timeout_error",
            *(["-s", callee] if callee else []),
        ]  # fmt: skip
        super().__init__(command, directory / f"{name}.log", host)
        if not callee:
            self._await_socket()

    def _await_socket(self) -> None:
        packed = int.from_bytes(socket.inet_aton(self.address[0]), "little")
        entry = f"{packed:08X}:{self.address[1]:04X} "
        with self._host.inside():
            bound = wait_until(lambda: not self.alive or entry in Path("/proc/thread-self/net/udp").read_text())
        assert bound and self.alive, self.log

    @property
    def messages(self) -> list[str]:
        """All SIP messages that were received, repeated ones too."""
        data = self._trace.read_bytes() if self._trace.exists() else b""
        found = re.finditer(rb"UDP message received \[(\d+)\] bytes :\n\n", data)
        return [data[m.end() : m.end() + int(m[1])].decode() for m in found if m.end() + int(m[1]) <= len(data)]

    @property
    def bodies(self) -> dict[tuple[str, ...], str]:
        """SDP bodies received, oldest first, by what makes a message its own: a repeated one counts once."""
        found = {}
        for message in self.messages:
            head, _, body = message.partition("\r\n\r\n")
            if body:
                about = re.findall(r"^(?:From|To|Call-ID|CSeq): *(.*)\r?$", head, re.MULTILINE)
                found[head.split("\r\n")[0], *about] = body
        return found

    def wait_for(self, what: str, pattern: re.Pattern[str], count: int = 1) -> None:
        """Wait until so many messages have been received in which the pattern is found."""

        def arrived() -> bool:
            return sum(pattern.search(message) is not None for message in self.messages) >= count

        assert wait_until(arrived, PATIENCE_S), f"{self.name}: no {what}\n{self.messages}\n{self.log}"

    def heard(self, count: int = 1) -> Section:
        """Wait until so many different SDP bodies have come, and return the audio section of the last."""
        there = wait_until(lambda: len(self.bodies) >= count or not self.alive, PATIENCE_S)
        bodies = list(self.bodies.values())
        assert there and len(bodies) >= count, f"{self.name}: {self.messages}\n{self.log}"
        (section,) = sections(bodies[count - 1])
        return section

    @property
    def call_ids(self) -> list[str]:
        """The Call-IDs of all messages, without repetition."""
        return list(dict.fromkeys(re.findall(r"^Call-ID: (.*)\r$", "\n".join(self.messages), re.MULTILINE)))

    @property
    def call_id(self) -> str:
        """The Call-ID of the first message."""
        self.wait_for("message", re.compile("^Call-ID:", re.MULTILINE))
        return self.call_ids[0]

    def press(self, call_id: str = "") -> None:
        """Press the button that the scenario waits for: an INFO with the Call-ID of that call, or of the first."""
        request = (
            f"INFO sip:{self.name}@{self.address[0]} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKbutton\r\n"
            f"From: <sip:button@127.0.0.1>;tag=1\r\nTo: <sip:{self.name}@{self.address[0]}>\r\n"
            f"Call-ID: {call_id or self.call_id}\r\nCSeq: 1 INFO\r\nContent-Length: 0\r\n\r\n"
        )
        with self._host.udp(self._host.address(4)) as sock:
            sock.sendto(request.encode(), self.address)

    def finished(self) -> None:
        """Assert that the scenario comes to its end, and all of it went as written."""
        status = self.process.wait(self._patience_s + 5)
        assert status == 0, f"{self.name}: sipp ended with {status}\n{self.log}\n{self._trace.read_text()[-6000:]}"
