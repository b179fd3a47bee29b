"""The module's header as Python objects: messages to write, entries as they are read."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cffi import FFI
from network import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
KERNEL_TYPES = "typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;\n"
HEADERS = ("rtp.h", "srtp_common.h", "rtp_quality.h", "xt_MEDIAPROXY.h")
PROC = Path("/proc/mediaproxy")

ffi = FFI()


def _declarations(name: str) -> str:
    """What cffi can parse of a header: they are written for that, see rtp.h."""
    text = (ROOT / "kernel-module" / name).read_text()
    text = re.sub(r"static inline [^{;]*?\)\n\{.*?\n\}", "", text, flags=re.DOTALL)
    integer = re.compile(r"#define [A-Z0-9_]+ -?(0x[0-9a-fA-F]+|\d+)\b")
    return "\n".join(line for line in text.splitlines() if not line.startswith("#") or integer.match(line))


ffi.cdef(KERNEL_TYPES + "\n".join(map(_declarations, HEADERS)))
C: Any = ffi.dlopen(None)
MESSAGE, ENTRY = ffi.sizeof("struct mediaproxy_message"), ffi.sizeof("struct mediaproxy_entry")
NOOP, ADD, DEL, UPDATE = C.MEDIAPROXY_NOOP, C.MEDIAPROXY_ADD, C.MEDIAPROXY_DEL, C.MEDIAPROXY_UPDATE
PLAIN = {"cipher": C.MEDIAPROXY_CIPHER_NULL, "auth": C.MEDIAPROXY_AUTH_NULL}
AUTH, REPLAY, EXHAUSTED, TTL, OUTPUT = (
    C.MEDIAPROXY_DROP_AUTH,
    C.MEDIAPROXY_DROP_REPLAY,
    C.MEDIAPROXY_DROP_EXHAUSTED,
    C.MEDIAPROXY_DROP_TTL,
    C.MEDIAPROXY_DROP_OUTPUT,
)

Endpoint = tuple[str, int]


def address(endpoint: Endpoint) -> dict[str, Any]:
    host, port = endpoint
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return {"address": socket.inet_pton(family, host).ljust(16, b"\0"), "port": port, "family": int(family)}


def target(
    local: Endpoint,
    expect: Endpoint,
    source: Endpoint,
    destination: Endpoint,
    *,
    decrypt: dict[str, Any] | None = None,
    encrypt: dict[str, Any] | None = None,
    flags: int = 0,
    tos: int = 0,
    clocks: Iterable[int] = (),
) -> dict[str, Any]:
    """The initializer of a ``struct mediaproxy_target``."""
    return {
        "local": address(local),
        "expect": address(expect),
        "source": address(source),
        "destination": address(destination),
        "flags": flags,
        "tos": tos,
        "clocks": list(clocks),
        "decrypt": decrypt or PLAIN,
        "encrypt": encrypt or PLAIN,
    }


def message(command: int, what: dict[str, Any] | None = None, abi: int = C.MEDIAPROXY_ABI) -> Any:
    return ffi.new("struct mediaproxy_message *", {"abi": abi, "command": command, "target": what or {}})


def raw(command: int, what: dict[str, Any] | None = None) -> bytes:
    return bytes(ffi.buffer(message(command, what)))


def error_of(function: Any, *args: Any) -> str | None:
    """The name of the errno that a call ends with; None if it does not fail."""
    try:
        function(*args)
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return None


def write(path: Path, data: bytes) -> None:
    """One write(), which is taken whole or not at all."""
    fd = os.open(path, os.O_WRONLY)
    try:
        assert os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def eventually(condition: Callable[[], object]) -> bool:
    """Wait until something holds, which the kernel may have put off; False if it never does."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def tables() -> list[int]:
    return [int(line) for line in (PROC / "list").read_text().split()]


class Table:
    """A table, made and held open as a daemon does; ``with`` removes it in the end."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.dir = PROC / str(number)
        write(PROC / "control", b"add %d\n" % number)
        self.fd = os.open(self.dir / "control", os.O_WRONLY)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self.fd)
        write(PROC / "control", b"del %d\n" % self.number)

    def send(self, command: int, what: dict[str, Any] | None = None) -> None:
        self.write(raw(command, what))

    def write(self, data: bytes) -> None:
        assert os.write(self.fd, data) == len(data)

    def add(self, *args: Any, **more: Any) -> None:
        self.send(ADD, target(*args, **more))

    def update(self, *args: Any, **more: Any) -> None:
        self.send(UPDATE, target(*args, **more))

    def delete(self, local: Endpoint) -> None:
        self.send(DEL, {"local": address(local)})

    def entries(self, at_once: int = 16) -> list[Any]:
        found = []
        with open(self.dir / "blist", "rb", buffering=0) as blist:
            while data := blist.read(at_once * ENTRY):
                rows = ffi.from_buffer("struct mediaproxy_entry[]", data)
                found += [ffi.new("struct mediaproxy_entry *", row)[0] for row in rows]
        return found

    def counters(self, port: int) -> Any:
        (entry,) = (e for e in self.entries() if e.local.port == port)
        return entry.counters


def seen(counters: Any) -> tuple[int, int, int, dict[int, int]]:
    """Packets, bytes, packets handed up, and drops that are not zero."""
    drops = {reason: n for reason, n in enumerate(counters.drops) if n}
    return counters.packets, counters.bytes, counters.passed, drops


def ssrcs(progress: Any) -> dict[int, int]:
    """SSRC: the index that follows the highest so far."""
    return {progress.ssrc[i].ssrc: progress.ssrc[i].window.next for i in range(progress.ssrc_count)}


def windows(of: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """SSRCs and where they are, as part of a ``struct mediaproxy_srtp``; what lies below counts as seen."""
    full = (1 << 64) - 1
    rows = [{"ssrc": ssrc, "window": {"next": at, "seen": [full, full] if at else [0, 0]}} for ssrc, at in of]
    return {"ssrc_count": len(rows), "ssrc": rows}
