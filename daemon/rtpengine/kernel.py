"""One forwarding table of the kernel module, through its files in /proc; xt_MEDIAPROXY.h has the rules."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

from rtpengine._packetpath import ffi, lib
from rtpengine.clocks import clock_words
from rtpengine.media import IPV4, IPV6, MAX_SOURCES, Endpoint, KernelQuality, Sources
from rtpengine.targets import SrtpSession, Target

ROOT = Path("/proc/mediaproxy")
TABLES: int = lib.MEDIAPROXY_TABLES

_AT_ONCE = 128
_FAMILIES = {IPV4: lib.MEDIAPROXY_INET, IPV6: lib.MEDIAPROXY_INET6}
_IP_OF = {value: family for family, value in _FAMILIES.items()}
_CONTROL_PID = re.compile(r"^Control PID: +([1-9][0-9]*)$", re.MULTILINE)
_REFUSED = (errno.EACCES, errno.EPERM)
_OTHER_VERSION = (errno.EIO, errno.EPROTO)

_NO_DROPS: dict[str, int] = {}
_NO_SOURCES = Sources()
_NO_TARGET = bytes(ffi.sizeof("struct mediaproxy_target"))

# What the packet path calls the reasons of enum mediaproxy_drop, in their order.
_DROP_NAMES = ("authentication", "replay", "no key", "send", "send", "send")
assert len(_DROP_NAMES) == lib.MEDIAPROXY_DROP_REASONS


def _entry_reader() -> Struct:
    """Of a struct mediaproxy_entry what changes, and which target it is."""
    before_counters = ffi.offsetof("struct mediaproxy_entry", "counters")
    sources = f"I4x{MAX_SOURCES * ffi.sizeof('struct mediaproxy_ssrc')}s"
    reader = Struct(f"=16xHH{before_counters - 20}x{3 + len(_DROP_NAMES)}Q6Q4I{sources}{sources}")
    assert reader.size == ffi.sizeof("struct mediaproxy_entry")
    return reader


_ENTRY = _entry_reader()


class Unavailable(Exception):
    """The table cannot be used; the text says why, without a capital letter or a full stop."""


class NotLoaded(Unavailable):
    """There is no kernel module, which is how most machines are."""


class Entry(NamedTuple):
    """What a target has done since it was added: ``packets`` of ``bytes`` sent on, ``passed`` handed up to us.

    ``drops`` counts by reasons of the packet path. ``decrypt`` and ``encrypt`` tell how far SSRCs have come.
    ``quality`` is how its packets have arrived.
    """

    family: int
    port: int
    packets: int
    bytes: int
    passed: int
    drops: dict[str, int]
    decrypt: Sources
    encrypt: Sources
    quality: KernelQuality = KernelQuality()


class KernelTable:
    """A table of our own: nobody else can change it as long as this object is open, and it outlives us.

    ``taken_over`` counts the targets that a daemon before us had in it when we came; None for a new table. They go on
    until they are changed or removed.
    Methods that change targets raise OSError as the kernel module gives it, and have changed nothing then.
    """

    def __init__(self, number: int, root: Path = ROOT) -> None:
        """Create the table, or take over the one that a daemon has left behind. Raise :class:`Unavailable`."""
        self._prepare(number)
        if number not in range(TABLES):
            raise Unavailable(f"the kernel module has tables 0 to {TABLES - 1}")
        if not root.exists():
            raise NotLoaded(f"the kernel module is not loaded (no {root})")
        try:
            is_new = _create(root / "control", number)
            self._control, self._list = self._open(root / str(number))
            self.taken_over = None if is_new else self._count()
        except OSError as error:
            if error.errno in _OTHER_VERSION:
                # Streams that a daemon before us has left there would go on where nobody hears of them.
                with suppress(OSError):
                    _command(root / "control", f"del {number}")
            raise Unavailable(_reason(error, root / str(number))) from None

    @classmethod
    def inherit(cls, number: int, control: int, root: Path = ROOT) -> KernelTable:
        """The table of a daemon that hands over its control file, which is ours from now on.

        Raise :class:`Unavailable`.
        """
        table = cls.__new__(cls)
        table._prepare(number)
        try:
            table._write(control, lib.MEDIAPROXY_NOOP)
            table._list = os.open(root / str(number) / "blist", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(control)
            raise Unavailable(_reason(error, root / str(number))) from None
        table._control = control
        table.taken_over = table._count()
        return table

    def _prepare(self, number: int) -> None:
        self.number = number
        self._message = ffi.new("struct mediaproxy_message *", {"abi": lib.MEDIAPROXY_ABI})
        self._bytes = ffi.buffer(self._message)

    def _count(self) -> int:
        return sum(1 for _ in self.entries())

    def fileno(self) -> int:
        """The control file: who has it has the table."""
        return self._control

    def _open(self, directory: Path) -> tuple[int, int]:
        control = os.open(directory / "control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._write(control, lib.MEDIAPROXY_NOOP)
            return control, os.open(directory / "blist", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(control)
            raise

    def _write(self, descriptor: int, command: int) -> None:
        self._message.command = command
        try:
            os.write(descriptor, self._bytes)
        finally:
            # No key stays in memory longer than it must.
            ffi.memmove(ffi.addressof(self._message.target), _NO_TARGET, len(_NO_TARGET))

    def add(self, target: Target) -> None:
        """Have the kernel forward from now on."""
        _fill(self._message.target, target)
        self._write(self._control, lib.MEDIAPROXY_ADD)

    def update(self, target: Target, *, passing: bool = False) -> None:
        """Replace the target at the same local endpoint; counters and SSRCs that it had go on.

        With ``passing`` it hands up all packets, and no other is on its way any more when this returns.
        """
        _fill(self._message.target, target)
        if passing:
            self._message.target.flags |= lib.MEDIAPROXY_F_PASS
        self._write(self._control, lib.MEDIAPROXY_UPDATE)

    def remove(self, local: Endpoint) -> None:
        """Forget the target; its packets come to the socket again."""
        _fill_address(self._message.target.local, local)
        self._write(self._control, lib.MEDIAPROXY_DEL)

    def entry(self, local: Endpoint) -> Entry | None:
        """What the target there has done, None if there is none."""
        position = 2 * local.port + (local.family == IPV6)
        data = os.pread(self._list, _ENTRY.size, position)
        found = _entry(_ENTRY.unpack(data)) if data else None
        return found if found and (found.family, found.port) == (local.family, local.port) else None

    def entries(self) -> Iterator[Entry]:
        """What all targets have done."""
        os.lseek(self._list, 0, os.SEEK_SET)
        while data := os.read(self._list, _AT_ONCE * _ENTRY.size):
            yield from map(_entry, _ENTRY.iter_unpack(data))

    def clear(self, known: Container[tuple[int, int]]) -> int:
        """Remove all targets but those whose family and port are ``known``. Return how many there were.

        Raise OSError for the last that the kernel does not remove, after all others.
        """
        removed, failure = 0, None
        for entry in list(self.entries()):
            if (entry.family, entry.port) in known:
                continue
            self._message.target.local.family, self._message.target.local.port = _FAMILIES[entry.family], entry.port
            try:
                self._write(self._control, lib.MEDIAPROXY_DEL)
                removed += 1
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        return removed

    def close(self) -> None:
        """Give the table up; the kernel goes on forwarding."""
        os.close(self._control)
        os.close(self._list)


def _create(control: Path, number: int) -> bool:
    """Return False if the table exists already."""
    try:
        _command(control, f"add {number}")
    except FileExistsError:
        return False
    return True


def _command(control: Path, text: str) -> None:
    descriptor = os.open(control, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


def _owner(directory: Path) -> str:
    try:
        found = _CONTROL_PID.search((directory / "status").read_text())
    except OSError:
        found = None
    return f"process {found[1]}" if found else "another process"


def _reason(error: OSError, directory: Path) -> str:
    if error.errno == errno.EBUSY:
        return f"{_owner(directory)} has it"
    if error.errno in _REFUSED:
        return "the kernel module does not let us (CAP_NET_ADMIN is needed)"
    if error.errno in _OTHER_VERSION:
        return f"the kernel module is of another version (not ABI {lib.MEDIAPROXY_ABI})"
    return f"the kernel module refuses: {error.strerror}"


def _fill(target: Any, values: Target) -> None:
    for name in ("local", "expect", "source", "destination"):
        _fill_address(getattr(target, name), getattr(values, name))
    target.flags = (
        lib.MEDIAPROXY_F_TOS | (values.rtcp_mux and lib.MEDIAPROXY_F_RTCP_MUX) | (values.dtls and lib.MEDIAPROXY_F_DTLS)
    )
    target.tos = values.tos
    target.clocks = clock_words(values.formats)
    _fill_session(target.decrypt, values.decrypt)
    _fill_session(target.encrypt, values.encrypt)


def _fill_address(address: Any, endpoint: Endpoint) -> None:
    packed = socket.inet_pton(socket.AF_INET6 if endpoint.family == IPV6 else socket.AF_INET, endpoint.address)
    ffi.memmove(address.address, packed, len(packed))
    address.port, address.family = endpoint.port, _FAMILIES[endpoint.family]


def _fill_session(srtp: Any, session: SrtpSession | None) -> None:
    srtp.cipher = lib.MEDIAPROXY_CIPHER_NULL if session is None else session.cipher
    srtp.auth = lib.MEDIAPROXY_AUTH_HMAC_SHA1 if session and session.tag_len else lib.MEDIAPROXY_AUTH_NULL
    if session is None:
        return
    srtp.tag_len, srtp.key_len, srtp.mki_len = session.tag_len, len(session.key), len(session.mki)
    srtp.ssrc_count = session.sources.total
    for field in ("key", "auth_key", "salt", "mki"):
        value = getattr(session, field)
        ffi.memmove(getattr(srtp, field), value, len(value))
    ffi.memmove(srtp.ssrc, session.sources.table, len(session.sources.table))


def _entry(fields: tuple[Any, ...]) -> Entry:
    """Each target is read each second: what most of them lack, drops and SRTP, costs next to nothing."""
    port, family, packets, octets, passed = fields[:5]
    counts, quality = fields[5:-14], fields[-14:-4]
    decrypting, received, encrypting, sent = fields[-4:]
    return Entry(
        _IP_OF[family],
        port,
        packets,
        octets,
        passed,
        _drops(counts) if any(counts) else _NO_DROPS,
        Sources(decrypting, received) if decrypting else _NO_SOURCES,
        Sources(encrypting, sent) if encrypting else _NO_SOURCES,
        KernelQuality._make(quality),
    )


def _drops(counts: tuple[int, ...]) -> dict[str, int]:
    drops: dict[str, int] = {}
    for name, count in zip(_DROP_NAMES, counts, strict=True):
        drops[name] = drops.get(name, 0) + count
    return drops
