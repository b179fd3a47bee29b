"""The files in /proc/mediaproxy: every command, every errno, every record."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from typing import Any

import pytest
from abi import (
    ADD,
    DEL,
    ENTRY,
    MESSAGE,
    NOOP,
    PROC,
    UPDATE,
    C,
    Table,
    address,
    error_of,
    eventually,
    ffi,
    message,
    raw,
    tables,
    write,
)
from abi import target as make_target
from conftest import MODULE
from network import inside
from packets import Keys

pytestmark = pytest.mark.usefixtures("_hosts")

V4 = (("10.77.1.2", 30000), ("10.77.1.1", 20000), ("10.77.2.2", 30002), ("10.77.2.1", 20002))
V6 = (("fd77:1::2", 30000), ("fd77:1::1", 20000), ("fd77:2::2", 30002), ("fd77:2::1", 20002))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"add 7\n", None),
        (b"add 07", None),
        (b"add 63\n", None),
        (b"add 0000000000000007", None),
        (b"add 7", "EINVAL"),
        (b"", "EINVAL"),
        (b"add 64\n", "EINVAL"),
        (b"add -1\n", "EINVAL"),
        (b"add +1\n", "EINVAL"),
        (b"add  1\n", "EINVAL"),
        (b"add 1 \n", "EINVAL"),
        (b"add 1\n\n", "EINVAL"),
        (b"add 1x\n", "EINVAL"),
        (b"add 1\0\0", "EINVAL"),
        (b"add x\n", "EINVAL"),
        (b"ADD 1\n", "EINVAL"),
        (b"add\t1\n", "EINVAL"),
        (b"new 1\n", "EINVAL"),
        (b"add 0x1\n", "EINVAL"),
        (b"add 4294967296\n", "EINVAL"),
        (b"add 18446744073709551616", "EINVAL"),
        (b"add 00000000000000007", "EINVAL"),
        (b"del 5\n", "ENOENT"),
        (b"del 64\n", "EINVAL"),
    ],
)
def test_control(text: bytes, result: str | None) -> None:
    before = tables()
    assert error_of(write, PROC / "control", text) == result
    for number in set(tables()) - set(before):
        write(PROC / "control", b"del %d\n" % number)
    assert tables() == before == []


def test_tables_come_and_go() -> None:
    for number in (42, 0, 3):
        write(PROC / "control", b"add %d\n" % number)
    assert (PROC / "list").read_text() == "0\n3\n42\n"
    assert error_of(write, PROC / "control", b"add 42\n") == "EEXIST"
    assert sorted(p.name for p in (PROC / "42").iterdir()) == ["blist", "control", "list", "status"]
    for number in (0, 3, 42):
        write(PROC / "control", b"del %d\n" % number)
    assert not (PROC / "42").exists()


def test_modes() -> None:
    with Table(1) as table:
        modes = {
            str(path): (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid)
            for path in [PROC / "control", PROC / "list", table.dir, *table.dir.iterdir()]
        }
    assert modes == {
        "/proc/mediaproxy/control": (0o220, 0),
        "/proc/mediaproxy/list": (0o444, 0),
        "/proc/mediaproxy/1": (0o555, 0),
        "/proc/mediaproxy/1/control": (0o220, 0),
        "/proc/mediaproxy/1/blist": (0o400, 0),
        "/proc/mediaproxy/1/list": (0o440, 0),
        "/proc/mediaproxy/1/status": (0o440, 0),
    }


def test_without_the_capability() -> None:
    """Root without CAP_NET_ADMIN may read what is public, and no more."""
    script = "\n".join(
        f"( {test} ) 2>/dev/null && echo yes || echo no"
        for test in (
            "echo 'add 2' >/proc/mediaproxy/control",
            "exec 3>/proc/mediaproxy/1/control",
            "exec 3</proc/mediaproxy/1/blist",
            "cat /proc/mediaproxy/list",
        )
    )
    with Table(1) as table:
        os.close(table.fd)
        command = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        table.fd = os.open(table.dir / "control", os.O_WRONLY)
    assert done.stdout.split() == ["no", "no", "no", "1", "yes"]


def test_one_owner() -> None:
    with Table(1) as table:
        control = table.dir / "control"
        assert error_of(os.open, control, os.O_WRONLY) == "EBUSY"
        assert error_of(write, PROC / "control", b"del 1\n") == "EBUSY"
        assert f"Control PID: {os.getpid()}\n" in (table.dir / "status").read_text()
        child = os.fork()
        if not child:
            os.close(table.fd)
            os._exit(0)
        os.waitpid(child, 0)
        assert error_of(os.open, control, os.O_WRONLY) == "EBUSY"
        os.close(table.fd)
        assert "Control PID: 0\n" in (table.dir / "status").read_text()
        table.fd = os.open(control, os.O_WRONLY)


def test_targets_outlive_their_owner() -> None:
    with Table(1) as table:
        table.add(*V4)
        os.close(table.fd)
        table.fd = os.open(table.dir / "control", os.O_WRONLY)
        assert len(table.entries()) == 1
        assert error_of(table.add, *V4) == "EEXIST"


def test_a_table_goes_with_its_targets_and_open_files() -> None:
    write(PROC / "control", b"add 9\n")
    control = os.open(PROC / "9" / "control", os.O_WRONLY)
    os.write(control, raw(ADD, make_target(*V4, decrypt=Keys("CM128-80").kernel(), encrypt=Keys("F8-80").kernel())))
    blist = os.open(PROC / "9" / "blist", os.O_RDONLY)
    os.close(control)
    write(PROC / "control", b"del 9\n")
    assert error_of(os.read, blist, ENTRY) == "EIO"
    os.close(blist)


def changed(**fields: Any) -> dict[str, Any]:
    return {**make_target(*V4), **fields}


def srtp(**fields: Any) -> dict[str, Any]:
    return changed(decrypt={**Keys("CM128-80").kernel((1, 0), (2, 0)), **fields})


BAD_TARGETS = {
    "local port 0": changed(local=address(("10.0.0.1", 0))),
    "no local family": changed(local={**address(("10.0.0.1", 1)), "family": 0}),
    "unknown family": changed(local={**address(("10.0.0.1", 1)), "family": 4}),
    "expect port 0": changed(expect=address(("10.0.0.1", 0))),
    "expect nobody": changed(expect=address(("0.0.0.0", 1))),
    "expect IPv6": changed(expect=address(("fd77::1", 1))),
    "source port 0": changed(source=address(("10.0.0.1", 0))),
    "source nowhere": changed(source=address(("0.0.0.0", 1))),
    "destination port 0": changed(destination=address(("10.0.0.1", 0))),
    "destination nowhere": changed(destination=address(("0.0.0.0", 1))),
    "families differ": changed(destination=address(("fd77::1", 1))),
    "link-local": changed(source=address(("fe80::1", 1)), destination=address(("fe80::2", 1))),
    "bytes behind IPv4": changed(source={**address(("10.0.0.1", 1)), "address": b"\1" * 16}),
    "flag": changed(flags=16),
    "tos without flag": changed(tos=184),
    "reserved": changed(reserved=b"\0\0\1"),
    "no cipher given": changed(decrypt={"cipher": 0, "auth": 1}),
    "no auth given": changed(encrypt={"cipher": 1, "auth": 0}),
    "cipher 4": srtp(cipher=4),
    "auth 3": srtp(auth=3),
    "tag 0": srtp(tag_len=0),
    "tag 3": srtp(tag_len=3),
    "tag 21": srtp(tag_len=21),
    "key 15": srtp(key_len=15),
    "key 33": srtp(key_len=33),
    "F8 with 32": srtp(cipher=3, key_len=32),
    "NULL with a key": srtp(cipher=1),
    "behind the key": srtp(key=b"\1" * 32),
    "MKI too long": srtp(mki_len=257),
    "behind the MKI": srtp(mki_len=0, mki=b"\1" + bytes(255)),
    "SRTP reserved": srtp(reserved=b"\1" + bytes(5)),
    "nine SSRCs": srtp(ssrc_count=9),
    "behind the SSRCs": srtp(ssrc_count=1),
    "SSRC twice": srtp(ssrc=[{"ssrc": 5}, {"ssrc": 5}]),
    "SSRC reserved": srtp(ssrc=[{"ssrc": 5, "reserved": 1}, {"ssrc": 6}]),
    "index too high": srtp(ssrc=[{"ssrc": 5, "window": {"next": C.RTP_INDEX_END + 1}}, {"ssrc": 6}]),
}


@pytest.mark.parametrize("what", BAD_TARGETS)
@pytest.mark.parametrize("command", [ADD, UPDATE], ids=["add", "update"])
def test_bad_targets(what: str, command: int) -> None:
    with Table(1) as table:
        if command == UPDATE:
            table.add(*V4)
        before = [bytes(ffi.buffer(ffi.addressof(e))) for e in table.entries()]
        assert error_of(table.send, command, BAD_TARGETS[what]) == "EINVAL"
        assert [bytes(ffi.buffer(ffi.addressof(e))) for e in table.entries()] == before


def test_messages() -> None:
    noop = raw(NOOP)
    bad = [
        (noop[:-1], "EIO"),
        (noop + b"\0", "EIO"),
        (noop + noop, "EIO"),
        (noop[:8], "EIO"),
        (b"\0", "EIO"),
        (bytes(MESSAGE), "EPROTO"),
        (bytes(ffi.buffer(message(NOOP, abi=C.MEDIAPROXY_ABI + 1))), "EPROTO"),
        (raw(0), "EINVAL"),
        (raw(5), "EINVAL"),
        (raw(DEL), "EINVAL"),
        (raw(DEL, {"local": {**address(("10.0.0.1", 5)), "family": 3}}), "EINVAL"),
        (raw(DEL, {"local": address(("10.0.0.1", 5))}), "ENOENT"),
        (raw(UPDATE, make_target(*V4)), "ENOENT"),
    ]
    with Table(1) as table:
        table.write(noop)
        assert [error_of(table.write, data) for data, _ in bad] == [name for _, name in bad]
        assert "Targets:     0\n" in (table.dir / "status").read_text()


def test_unreadable_memory() -> None:
    """A write whose buffer ends before its length does."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))
    assert not libc.mprotect(ctypes.c_void_p(at + mmap.PAGESIZE), mmap.PAGESIZE, 0)
    with Table(1) as table:
        assert libc.write(table.fd, ctypes.c_void_p(at + mmap.PAGESIZE - 100), MESSAGE) == -1
        assert ctypes.get_errno() == errno.EFAULT
        control = os.open(PROC / "control", os.O_WRONLY)
        assert libc.write(control, ctypes.c_void_p(at + mmap.PAGESIZE - 3), 7) == -1
        assert ctypes.get_errno() == errno.EFAULT
        os.close(control)
        assert tables() == [1]


def test_a_port_of_each_family() -> None:
    with Table(1) as table:
        table.add(*V4)
        table.add(*V6)
        assert error_of(table.add, *V6) == "EEXIST"
        assert [e.local.family for e in table.entries()] == [socket.AF_INET, socket.AF_INET6]
        table.delete(V4[0])
        assert [e.local.family for e in table.entries()] == [socket.AF_INET6]
        assert error_of(table.delete, V4[0]) == "ENOENT"


PORTS = [1, 255, 256, 257, 30000, 65534, 65535]


def test_blist_is_in_order_and_can_be_sought() -> None:
    with Table(1) as table:
        for port in reversed(PORTS):
            table.add(("10.77.1.2", port), *V4[1:])
            table.add(("fd77:1::2", port), *V6[1:])
        every = [(e.local.port, e.local.family) for e in table.entries(1)]
        assert every == [(port, family) for port in PORTS for family in (2, 10)]
        assert [(e.local.port, e.local.family) for e in table.entries(5)] == every
        fd = os.open(table.dir / "blist", os.O_RDONLY)
        for place, port, family in [(0, 1, 2), (3, 1, 10), (4, 255, 2), (2 * 258, 30000, 2), (131071, 65535, 10)]:
            row = ffi.from_buffer("struct mediaproxy_entry[]", os.pread(fd, ENTRY, place))[0]
            assert (row.local.port, row.local.family) == (port, family)
        assert os.pread(fd, ENTRY, 131072) == b""
        assert error_of(os.read, fd, ENTRY - 1) == error_of(os.read, fd, ENTRY + 1) == "EINVAL"
        os.lseek(fd, 131070, os.SEEK_SET)
        assert len(os.read(fd, 4 * ENTRY)) == 2 * ENTRY
        assert os.read(fd, ENTRY) == os.read(fd, ENTRY) == b""
        os.close(fd)
        assert "Targets:     14\nBuckets:     4\n" in (table.dir / "status").read_text()


def test_an_empty_blist() -> None:
    with Table(1) as table:
        assert table.entries() == []


def test_entries_tell_what_was_written() -> None:
    with Table(1) as table:
        table.add(*V6[:2], *V4[2:], flags=C.MEDIAPROXY_F_TOS, tos=184, decrypt=Keys("F8-80").kernel((5, 70000)))
        (entry,) = table.entries()
        wanted = make_target(*V6[:2], *V4[2:])
        for field in ("local", "expect", "source", "destination"):
            got = getattr(entry, field)
            assert {"address": bytes(got.address), "port": got.port, "family": got.family} == wanted[field]
        assert (entry.flags, entry.tos) == (C.MEDIAPROXY_F_TOS, 184)
        assert (entry.decrypt.ssrc_count, entry.decrypt.ssrc[0].ssrc, entry.encrypt.ssrc_count) == (1, 5, 0)
        assert entry.decrypt.ssrc[0].window.next == 70000


LIST = """\
port 30000:
       src inet4 10.77.2.2:30002
       dst inet4 10.77.2.1:20002
     local inet4 10.77.1.2:30000
    expect inet4 10.77.1.1:20000
    stats:                    0 bytes,                    0 packets,                    0 errors
    options: rtcp-mux
port 30000:
       src inet6 [fd77:2:0:0:0:0:0:2]:30002
       dst inet6 [fd77:2:0:0:0:0:0:1]:20002
     local inet6 [fd77:1:0:0:0:0:0:2]:30000
    expect inet6 [fd77:1:0:0:0:0:0:1]:20000
    stats:                    0 bytes,                    0 packets,                    0 errors
    SRTP decryption (incoming) parameters:
        cipher: AES-CM
            MKI: length 4, 00:00:00:01:00:00:00:00...
        HMAC: HMAC-SHA1
            auth tag length: 10
        SSRC: 000000ff, next index 3
    SRTP encryption (outgoing) parameters:
        cipher: AES-F8
        HMAC: HMAC-SHA1
            auth tag length: 4
        SSRC: 12345678, next index 0
    TOS: 184
"""


def test_the_text_list() -> None:
    with Table(1) as table:
        table.add(*V4, flags=C.MEDIAPROXY_F_RTCP_MUX)
        decrypt, encrypt = Keys("CM128-80", mki=b"\0\0\0\1").kernel((255, 3)), Keys("F8-32").kernel()
        table.add(*V6, flags=C.MEDIAPROXY_F_TOS, tos=184, decrypt=decrypt, encrypt=encrypt)
        assert (table.dir / "list").read_text() == LIST


def test_a_long_text_list_is_whole() -> None:
    """More than fits into one buffer of the kernel's, read in small pieces."""
    with Table(1) as table:
        for port in range(1000, 1100):
            table.add(("10.77.1.2", port), *V4[1:])
        with open(table.dir / "list", "rb", buffering=0) as file:
            text = b"".join(iter(lambda: file.read(100), b"")).decode()
        assert [int(line[5:-1]) for line in text.splitlines() if line.startswith("port")] == list(range(1000, 1100))


def test_many_writers_at_once() -> None:
    """Of threads that add and delete the same targets each write is whole, and the table stays sound."""
    problems: list[str | None] = []

    def work(table: Table) -> None:
        for _ in range(50):
            problems.append(error_of(table.add, *V4))
            problems.append(error_of(table.delete, V4[0]))

    with Table(1) as table:
        threads = [threading.Thread(target=work, args=(table,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(problems) <= {None, "EEXIST", "ENOENT"}
        assert problems.count(None) % 2 == len(table.entries()) % 2
        status = (table.dir / "status").read_text()
        assert f"Targets:     {len(table.entries())}\n" in status


def test_interrupted_writes_and_reads() -> None:
    """Signals all the time: a write has been taken whole or not at all, a read gives whole entries."""
    interrupts = 0

    def count(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1

    before = signal.signal(signal.SIGALRM, count)
    try:
        with Table(0) as table, open(table.dir / "blist", "rb", buffering=0) as blist:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for turn in range(300):
                where = ((V4[0][0], 10000 + turn), *V4[1:])
                table.add(*where)
                table.update(*where)
                blist.seek(0)
                found = 0
                while data := blist.read(64 * ENTRY):
                    assert len(data) % ENTRY == 0
                    found += len(data) // ENTRY
                assert found == turn + 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert len(table.entries()) == 300
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 10


def test_a_writer_that_is_killed() -> None:
    """What it has written stands; what it has not, does not."""
    with Table(0) as table:
        pid = os.fork()
        if not pid:
            messages = [raw(command, make_target(*V4)) for command in (ADD, UPDATE, DEL)]
            while True:
                for data in messages:
                    os.write(table.fd, data)
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        left = table.entries()
        assert len(left) <= 1
        if left:
            table.delete(V4[0])
        table.add(*V4)


def test_namespaces() -> None:
    with Table(1):
        with inside("a"):
            assert tables() == []
            write(PROC / "control", b"add 5\n")
            assert tables() == [5]
        assert tables() == [1]
        with inside("a"):
            write(PROC / "control", b"del 5\n")


def test_a_namespace_goes_with_its_tables() -> None:
    script = "echo 'add 7' >/proc/mediaproxy/control; cat /proc/mediaproxy/list"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"
    assert tables() == []


def test_the_module_stays_while_it_is_used() -> None:
    def rmmod() -> bool:
        return subprocess.run(["rmmod", "xt_MEDIAPROXY"], capture_output=True).returncode == 0

    write(PROC / "control", b"add 1\n")
    assert not rmmod()
    write(PROC / "control", b"del 1\n")
    control = os.open(PROC / "control", os.O_WRONLY)
    assert not rmmod()
    os.close(control)
    rule = ["iptables-nft", "-w", "INPUT", "-j", "MEDIAPROXY", "--id", "1"]
    subprocess.run([*rule[:2], "-A", *rule[2:]], check=True)
    assert not rmmod()
    subprocess.run([*rule[:2], "-D", *rule[2:]], check=True)
    assert eventually(rmmod), "what refers to a rule goes a little later than the rule"
    assert not PROC.exists()
    subprocess.run(["insmod", str(MODULE)], check=True)
    assert tables() == []


@pytest.mark.parametrize("number", ["64", "4294967295"])
def test_rules_name_tables_that_can_be(number: str) -> None:
    """The plugin refuses these, so a rule from elsewhere: the kernel must refuse them, too."""
    command = ["iptables-nft", "-w", "-A", "INPUT", "-j", "MEDIAPROXY", "--id", number]
    assert subprocess.run(command, capture_output=True).returncode


def test_rules_belong_into_input() -> None:
    for arguments in (["-A", "OUTPUT"], ["-A", "FORWARD"], ["-t", "mangle", "-A", "INPUT"]):
        command = ["iptables-nft", "-w", *arguments, "-j", "MEDIAPROXY", "--id", "1"]
        assert subprocess.run(command, capture_output=True).returncode
