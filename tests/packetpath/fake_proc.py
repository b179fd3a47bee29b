"""The files of the kernel module without a kernel: what xt_MEDIAPROXY.h says about them, as far as a daemon can see.

It stands in for the module ``os`` of rtpengine.kernel. Packets are forwarded by saying so.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from rtpengine._packetpath import ffi, lib

ENTRY = ffi.sizeof("struct mediaproxy_entry")
MESSAGE = ffi.sizeof("struct mediaproxy_message")
SEES_ALL = (1 << 64) - 1


class FakeTable:
    """A forwarding table. ``log`` has the commands that it obeyed: name, port and whether packets were to pass."""

    def __init__(self) -> None:
        self.targets: dict[int, Any] = {}
        """Position in blist to struct mediaproxy_target and struct mediaproxy_entry."""
        self.held = False
        self.log: list[tuple[str, int, bool]] = []

    def control(self, data: bytes) -> None:
        if len(data) != MESSAGE:
            raise _error(errno.EIO)
        message = ffi.new("struct mediaproxy_message *")
        ffi.memmove(message, data, MESSAGE)
        if message.abi != lib.MEDIAPROXY_ABI:
            raise _error(errno.EPROTO)
        target, command = message.target, message.command
        if command == lib.MEDIAPROXY_NOOP:
            return
        position = 2 * target.local.port + (target.local.family == lib.MEDIAPROXY_INET6)
        if command == lib.MEDIAPROXY_DEL:
            self._known(position, True)
            del self.targets[position]
        else:
            _check(target)
            self._known(position, command == lib.MEDIAPROXY_UPDATE)
            self._put(position, target, command == lib.MEDIAPROXY_UPDATE)
        name = {lib.MEDIAPROXY_ADD: "add", lib.MEDIAPROXY_UPDATE: "update", lib.MEDIAPROXY_DEL: "del"}[command]
        self.log.append((name, target.local.port, bool(target.flags & lib.MEDIAPROXY_F_PASS)))

    def _known(self, position: int, wanted: bool) -> None:
        if (position in self.targets) is not wanted:
            raise _error(errno.ENOENT if wanted else errno.EEXIST)

    def _put(self, position: int, target: Any, update: bool) -> None:
        kept = ffi.new("struct mediaproxy_target *")
        kept[0] = target
        before = self.targets[position][1] if update else None
        entry = ffi.new("struct mediaproxy_entry *")
        for field in ("local", "expect", "source", "destination", "flags", "tos"):
            setattr(entry, field, getattr(target, field))
        for direction in ("decrypt", "encrypt"):
            _merge(
                getattr(entry, direction), getattr(target, direction), getattr(before, direction) if before else None
            )
        if before:
            entry.counters = before.counters
            entry.quality = before.quality
        self.targets[position] = (kept, entry)

    def read(self, position: int, room: int) -> tuple[bytes, int]:
        """What a read from there returns, and the position behind it."""
        if room % ENTRY:
            raise _error(errno.EINVAL)
        found = sorted(at for at in self.targets if at >= position)[: room // ENTRY]
        data = b"".join(bytes(ffi.buffer(self.targets[at][1])) for at in found)
        return data, found[-1] + 1 if found else position

    def forward(self, port: int, ssrc: int = 0, first: int = 0, count: int = 1, length: int = 172) -> None:
        """Have the target at an IPv4 port send on ``count`` packets, of that SSRC from that index on."""
        target, entry = self.targets[2 * port]
        entry.counters.packets += count
        entry.counters.bytes += count * length
        entry.quality.totals.expected += count
        entry.quality.ssrc, entry.quality.type = ssrc, 128
        for direction in ("decrypt", "encrypt"):
            if getattr(target, direction).ssrc_count:
                progress = getattr(entry, direction)
                window = next(s for s in progress.ssrc[0 : progress.ssrc_count] if s.ssrc == ssrc).window
                window.next = first + count
                window.seen = [SEES_ALL, SEES_ALL]


def _merge(progress: Any, srtp: Any, before: Any) -> None:
    """The SSRCs of a message, and those that were there, each as far as it has come."""
    known = {s.ssrc: s for s in before.ssrc[0 : before.ssrc_count]} if before else {}
    given = {s.ssrc: s for s in srtp.ssrc[0 : srtp.ssrc_count]}
    progress.ssrc_count = len(known | given)
    for i, ssrc in enumerate(known | given):
        ahead = max((s[ssrc] for s in (known, given) if ssrc in s), key=lambda s: s.window.next)
        progress.ssrc[i].ssrc, progress.ssrc[i].window = ssrc, ahead.window


def _check(target: Any) -> None:
    """What EINVAL is for."""
    for address in (target.local, target.expect, target.source, target.destination):
        packed = bytes(address.address)
        sizes = {lib.MEDIAPROXY_INET: 4, lib.MEDIAPROXY_INET6: 16}
        size = sizes.get(address.family, 0)
        _demand(size and address.port and any(packed[:size]) and not any(packed[size:]))
    _demand(target.local.family == target.expect.family and target.source.family == target.destination.family)
    _demand(target.flags < 2 * lib.MEDIAPROXY_F_DTLS and not any(target.reserved))
    _demand(target.flags & lib.MEDIAPROXY_F_TOS or not target.tos)
    for srtp in (target.decrypt, target.encrypt):
        _check_srtp(srtp)


def _check_srtp(srtp: Any) -> None:
    lengths = {
        lib.MEDIAPROXY_CIPHER_NULL: (0,),
        lib.MEDIAPROXY_CIPHER_AES_CM: (16, 24, 32),
        lib.MEDIAPROXY_CIPHER_AES_F8: (16,),
    }
    _demand(srtp.key_len in lengths.get(srtp.cipher, ()))
    authenticated = {lib.MEDIAPROXY_AUTH_NULL: False, lib.MEDIAPROXY_AUTH_HMAC_SHA1: True}[srtp.auth]
    _demand(1 <= srtp.tag_len <= 20 if authenticated else srtp.tag_len == 0)
    _demand(srtp.mki_len <= 256 and srtp.ssrc_count <= lib.MEDIAPROXY_SSRCS)
    rest = bytes(srtp.key)[srtp.key_len :] + bytes(srtp.mki)[srtp.mki_len :] + bytes(srtp.reserved)
    _demand(not any(rest) and not any(bytes(ffi.buffer(srtp.ssrc))[srtp.ssrc_count * ffi.sizeof(srtp.ssrc[0]) :]))
    ssrcs = [s.ssrc for s in srtp.ssrc[0 : srtp.ssrc_count]]
    _demand(len(set(ssrcs)) == len(ssrcs))
    if srtp.cipher == lib.MEDIAPROXY_CIPHER_NULL and not authenticated:
        _demand(not any(bytes(ffi.buffer(srtp.key)) + bytes(srtp.auth_key) + bytes(srtp.salt)))
        _demand(not srtp.mki_len and not ssrcs)


def _demand(condition: object) -> None:
    if not condition:
        raise _error(errno.EINVAL)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FakeProc:
    """/proc/mediaproxy at ``root``, as the module ``os``: what else that has is the real one's.

    ``failing`` has errors by the end of a path, for open(), and by command of N/control, for write().
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: dict[int, FakeTable] = {}
        self.failing: dict[str | int, int] = {}
        self.files: dict[int, list[Any]] = {}
        root.mkdir()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _fail(self, key: str | int) -> None:
        for known, number in self.failing.items():
            if known == key or (isinstance(known, str) and isinstance(key, str) and key.endswith(known)):
                raise _error(number)

    def open(self, path: Path, flags: int) -> int:
        assert flags & os.O_CLOEXEC
        name = str(path.relative_to(self.root))
        self._fail(name)
        number, _, file = name.rpartition("/")
        table = self.tables.get(int(number)) if number else None
        if number and table is None:
            raise _error(errno.ENOENT)
        if table is not None and file == "control":
            if table.held:
                raise _error(errno.EBUSY)
            table.held = True
        # A descriptor that nobody else has, and that close() can close.
        descriptor = os.open(os.devnull, os.O_RDONLY)
        self.files[descriptor] = [file, table, 0]
        return descriptor

    def dup(self, descriptor: int) -> int:
        """As another process gets it."""
        copy = os.dup(descriptor)
        self.files[copy] = self.files[descriptor]
        return copy

    def write(self, descriptor: int, data: bytes) -> int:
        file, table, _ = self.files[descriptor]
        assert file == "control"
        if table is not None:
            self._fail(int.from_bytes(bytes(data[4:8]), "little"))
            table.control(bytes(data))
            return len(data)
        verb, number = bytes(data).split()
        if not 6 <= len(data) <= 20 or verb not in (b"add", b"del") or int(number) >= lib.MEDIAPROXY_TABLES:
            raise _error(errno.EINVAL)
        if verb == b"del":
            if self.tables[int(number)].held:
                raise _error(errno.EBUSY)
            del self.tables[int(number)]
            return len(data)
        if int(number) in self.tables:
            raise _error(errno.EEXIST)
        self.tables[int(number)] = FakeTable()
        return len(data)

    def pread(self, descriptor: int, room: int, position: int) -> bytes:
        file, table, _ = self.files[descriptor]
        assert file == "blist"
        return bytes(table.read(position, room)[0])

    def read(self, descriptor: int, room: int) -> bytes:
        file, table, position = self.files[descriptor]
        assert file == "blist"
        data, self.files[descriptor][2] = table.read(position, room)
        return bytes(data)

    def lseek(self, descriptor: int, position: int, whence: int) -> int:
        assert whence == os.SEEK_SET
        self.files[descriptor][2] = position
        return position

    def close(self, descriptor: int) -> None:
        file, table, _ = self.files.pop(descriptor)
        if table is not None and file == "control":
            table.held = False
        os.close(descriptor)
