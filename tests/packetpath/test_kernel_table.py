"""A forwarding table through the files of /proc: what is written there and read from there, and every failure."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_proc import FakeProc
from rtpengine._packetpath import ffi, lib

from rtpengine import kernel
from rtpengine.kernel import KernelTable, NotLoaded, Unavailable
from rtpengine.media import Endpoint, Format, KernelQuality, Sources
from rtpengine.targets import Cipher, SrtpSession, Target

PLAIN = Target(
    local=Endpoint("198.51.100.2", 30000),
    expect=Endpoint("192.0.2.10", 4000),
    source=Endpoint("2001:db8::2", 30002),
    destination=Endpoint("2001:db8::20", 5000),
    tos=184,
    rtcp_mux=False,
    dtls=False,
    decrypt=None,
    encrypt=None,
)
BACK = PLAIN._replace(
    local=PLAIN.source, expect=PLAIN.destination, source=PLAIN.local, destination=PLAIN.expect, tos=0, rtcp_mux=True
)
TABLE = (5).to_bytes(4, "little") + bytes(4) + (0x10007).to_bytes(8, "little") + bytes(240)
SESSION = SrtpSession(
    Cipher.AES_CM, 10, bytes(range(1, 25)), bytes(range(30, 50)), bytes(range(60, 74)), b"\7\0\1", Sources(1, TABLE)
)
Open = Callable[..., KernelTable]


@pytest.fixture
def open_table(proc: FakeProc) -> Iterator[Open]:
    tables = []

    def open_table(number: int = 3) -> KernelTable:
        tables.append(KernelTable(number, proc.root))
        return tables[-1]

    yield open_table
    for table in tables:
        table.close()


def test_a_new_table(proc: FakeProc, open_table: Open) -> None:
    assert open_table().taken_over is None
    assert list(proc.tables) == [3]
    assert proc.tables[3].held


def test_two_instances_have_a_table_each(proc: FakeProc, open_table: Open) -> None:
    first, second = open_table(0), open_table(63)
    first.add(PLAIN)
    second.add(PLAIN)
    first.remove(PLAIN.local)
    assert [len(proc.tables[number].targets) for number in (0, 63)] == [0, 1]


def test_a_table_that_was_left_goes_on_until_it_is_cleared(proc: FakeProc, open_table: Open) -> None:
    before = KernelTable(3, proc.root)
    before.add(PLAIN)
    before.add(BACK)
    before.close()
    assert len(proc.tables[3].targets) == 2
    table = open_table()
    assert table.taken_over == 2
    assert len(proc.tables[3].targets) == 2
    known = {(4, PLAIN.local.port)}
    assert (table.clear(known), table.clear(known)) == (1, 0)
    assert set(proc.tables[3].targets) == {2 * PLAIN.local.port}


def test_what_cannot_be_cleared_keeps_nothing_else(proc: FakeProc, open_table: Open) -> None:
    table = open_table()
    for target in (PLAIN, BACK):
        table.add(target)
    stubborn = 2 * PLAIN.local.port

    class Stubborn(dict[int, Any]):
        def __delitem__(self, position: int) -> None:
            if position == stubborn:
                raise OSError(errno.EIO, "it stays")
            super().__delitem__(position)

    proc.tables[3].targets = Stubborn(proc.tables[3].targets)
    with pytest.raises(OSError, match="it stays"):
        table.clear(())
    assert set(proc.tables[3].targets) == {stubborn}


@pytest.mark.parametrize(
    ("path", "number", "reason"),
    [
        ("mediaproxy", errno.ENOENT, ""),
        ("control", errno.EACCES, "the kernel module does not let us (CAP_NET_ADMIN is needed)"),
        ("control", errno.EPERM, "the kernel module does not let us (CAP_NET_ADMIN is needed)"),
        ("3/control", errno.EBUSY, "another process has it"),
        ("3/control", errno.ENOENT, "the kernel module refuses: No such file or directory"),
        ("3/blist", errno.EACCES, "the kernel module does not let us (CAP_NET_ADMIN is needed)"),
        (lib.MEDIAPROXY_NOOP, errno.EIO, "the kernel module is of another version (not ABI 2)"),
        (lib.MEDIAPROXY_NOOP, errno.EPROTO, "the kernel module is of another version (not ABI 2)"),
    ],
)
def test_a_table_that_cannot_be_had(proc: FakeProc, path: str | int, number: int, reason: str) -> None:
    proc.failing[path] = number
    if path == "mediaproxy":
        proc.root.rmdir()
        with pytest.raises(NotLoaded, match=r"^the kernel module is not loaded \(no /.*/mediaproxy\)$"):
            KernelTable(3, proc.root)
        return
    with pytest.raises(Unavailable) as failure:
        KernelTable(3, proc.root)
    assert str(failure.value) == reason
    assert not isinstance(failure.value, NotLoaded)
    assert proc.files == {}, "a file was left open"


@pytest.mark.parametrize("number", [errno.EIO, errno.EPROTO])
def test_streams_in_a_module_of_another_version_come_back_to_their_sockets(proc: FakeProc, number: int) -> None:
    """Nobody would hear of them, and their calls would end of silence; those of a daemon that runs are its own."""
    before = KernelTable(3, proc.root)
    before.add(PLAIN)
    proc.failing[lib.MEDIAPROXY_NOOP] = number
    with pytest.raises(Unavailable, match="has it"):
        KernelTable(3, proc.root)
    assert len(proc.tables[3].targets) == 1
    before.close()
    with pytest.raises(Unavailable, match="of another version"):
        KernelTable(3, proc.root)
    assert proc.tables == {} and proc.files == {}


def test_the_table_of_a_daemon_that_hands_over_stays_although_the_module_is_of_another_version(
    proc: FakeProc, open_table: Open
) -> None:
    before = open_table()
    before.add(PLAIN)
    proc.failing[lib.MEDIAPROXY_NOOP] = errno.EPROTO
    with pytest.raises(Unavailable, match="of another version"):
        KernelTable.inherit(3, proc.dup(before.fileno()), proc.root)
    assert len(proc.tables[3].targets) == 1


def test_somebody_else_has_the_table(proc: FakeProc, open_table: Open) -> None:
    open_table().add(PLAIN)
    for pid, who in ((0, "another process"), (4711, "process 4711")):
        (proc.root / "3").mkdir(exist_ok=True)
        (proc.root / "3" / "status").write_text(f"Refcount:    1\nControl PID: {pid}\nTargets:     1\n")
        with pytest.raises(Unavailable, match=f"^{who} has it$"):
            KernelTable(3, proc.root)
    assert len(proc.tables[3].targets) == 1


@pytest.mark.parametrize("number", [64, 4711])
def test_there_are_64_tables(proc: FakeProc, number: int) -> None:
    with pytest.raises(Unavailable, match="tables 0 to 63"):
        KernelTable(number, proc.root)
    assert proc.tables == {}


def address(endpoint: Endpoint) -> tuple[int, str, int]:
    return (2 if endpoint.family == 4 else 10, endpoint.address, endpoint.port)


def read_address(written: object) -> tuple[int, str, int]:
    packed = bytes(written.address)  # type: ignore[attr-defined]
    family = written.family  # type: ignore[attr-defined]
    inet = kernel.socket.AF_INET if family == 2 else kernel.socket.AF_INET6
    text = kernel.socket.inet_ntop(inet, packed[:4] if family == 2 else packed)
    return family, text, written.port  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("target", "flags"),
    [
        (PLAIN, lib.MEDIAPROXY_F_TOS),
        (BACK, lib.MEDIAPROXY_F_TOS | lib.MEDIAPROXY_F_RTCP_MUX),
        (PLAIN._replace(dtls=True), lib.MEDIAPROXY_F_TOS | lib.MEDIAPROXY_F_DTLS),
    ],
)
def test_a_plain_target_as_it_is_written(proc: FakeProc, open_table: Open, target: Target, flags: int) -> None:
    open_table().add(target)
    ((written, _),) = proc.tables[3].targets.values()
    for field in ("local", "expect", "source", "destination"):
        assert read_address(getattr(written, field)) == address(getattr(target, field))
    assert (written.flags, written.tos) == (flags, target.tos)
    for srtp in (written.decrypt, written.encrypt):
        assert bytes(ffi.buffer(ffi.addressof(srtp))) == b"\1\1" + bytes(ffi.sizeof("struct mediaproxy_srtp") - 2)


def test_clock_rates_as_they_are_written(proc: FakeProc, open_table: Open) -> None:
    open_table().add(PLAIN._replace(formats=(Format(96, "OPUS", 48000), Format(0, "PCMU", 8000))))
    ((written, _),) = proc.tables[3].targets.values()
    assert list(written.clocks) == [96 << 24 | 48000, *[0] * 15]


def test_a_secure_target_as_it_is_written(proc: FakeProc, open_table: Open) -> None:
    unauthenticated = SESSION._replace(cipher=Cipher.AES_F8, tag_len=0, key=bytes(range(16)), auth_key=b"", mki=b"")
    open_table().add(PLAIN._replace(decrypt=SESSION, encrypt=unauthenticated))
    ((written, _),) = proc.tables[3].targets.values()
    first, second = written.decrypt, written.encrypt
    fields = ("cipher", "auth", "tag_len", "key_len", "mki_len", "ssrc_count")
    assert [getattr(first, field) for field in fields] == [2, 2, 10, 24, 3, 1]
    assert [getattr(second, field) for field in fields] == [3, 1, 0, 16, 0, 1]
    assert bytes(first.key) == SESSION.key.ljust(32, b"\0")
    assert bytes(second.key) == bytes(range(16)).ljust(32, b"\0")
    assert (bytes(first.auth_key), bytes(first.salt)) == (SESSION.auth_key, SESSION.salt)
    assert bytes(first.mki) == SESSION.mki.ljust(256, b"\0")
    assert bytes(second.auth_key) == bytes(20)
    assert bytes(ffi.buffer(first.ssrc)) == bytes(ffi.buffer(second.ssrc)) == TABLE


def test_no_key_stays_behind(open_table: Open, proc: FakeProc) -> None:
    table = open_table()
    table.add(PLAIN._replace(decrypt=SESSION))
    assert not any(table._bytes[8:])
    proc.failing[lib.MEDIAPROXY_UPDATE] = errno.ENOMEM
    with pytest.raises(OSError, match="memory"):
        table.update(PLAIN._replace(decrypt=SESSION))
    assert not any(table._bytes[8:])


def test_commands(proc: FakeProc, open_table: Open) -> None:
    table = open_table()
    table.add(PLAIN)
    table.update(PLAIN)
    table.update(PLAIN, passing=True)
    table.remove(PLAIN.local)
    commands = [("add", 30000, False), ("update", 30000, False), ("update", 30000, True), ("del", 30000, False)]
    assert proc.tables[3].log == commands


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (lambda table: table.remove(BACK.local), errno.ENOENT),
        (lambda table: table.update(BACK), errno.ENOENT),
        (lambda table: table.add(PLAIN), errno.EEXIST),
        (lambda table: table.add(BACK._replace(expect=PLAIN.expect)), errno.EINVAL),
    ],
)
def test_what_the_module_refuses(open_table: Open, command: Callable[[KernelTable], None], number: int) -> None:
    table = open_table()
    table.add(PLAIN)
    with pytest.raises(OSError) as failure:
        command(table)
    assert failure.value.errno == number


def test_what_a_target_has_done(proc: FakeProc, open_table: Open) -> None:
    table = open_table()
    assert table.entry(PLAIN.local) is None
    assert list(table.entries()) == []
    table.add(PLAIN._replace(encrypt=SESSION))
    table.add(BACK)
    proc.tables[3].forward(30000, ssrc=5, first=0x10007, count=2)
    _, raw = proc.tables[3].targets[60000]
    raw.counters.passed = 7
    raw.counters.drops = [1, 2, 3, 4, 5, 6]
    raw.quality.totals = [2, 3, 4, 5, 6, 7]
    raw.quality.jitter, raw.quality.ticks, raw.quality.ssrc, raw.quality.type = 8, 9, 10, 11
    entry = table.entry(PLAIN.local)
    assert entry is not None
    assert entry[:5] == (4, 30000, 2, 344, 7)
    assert entry.drops == {"authentication": 1, "replay": 2, "no key": 3, "send": 4 + 5 + 6}
    assert entry.decrypt == Sources()
    assert (entry.encrypt.total, entry.encrypt.ssrcs) == (1, {5})
    assert entry.encrypt.table[8:16] == (0x10009).to_bytes(8, "little")
    assert entry.quality == KernelQuality(2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    there = table.entry(BACK.local)
    assert there is not None
    assert there[:6] == (6, 30002, 0, 0, 0, {})
    assert list(table.entries()) == [entry, there] == list(table.entries())


def test_an_entry_is_not_that_of_a_neighbour(open_table: Open) -> None:
    table = open_table()
    table.add(BACK)
    assert table.entry(Endpoint("198.51.100.2", 30002)) is None
    assert table.entry(Endpoint("2001:db8::2", 30000)) is None
    assert table.entry(Endpoint("2001:db8::2", 30004)) is None


def test_more_entries_than_one_read_takes(open_table: Open) -> None:
    table = open_table()
    ports = range(30000, 30000 + 2 * (kernel._AT_ONCE + 3), 2)
    for port in ports:
        table.add(PLAIN._replace(local=Endpoint("198.51.100.2", port)))
    assert [entry.port for entry in table.entries()] == list(ports)
