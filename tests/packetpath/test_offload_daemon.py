"""The daemon with a kernel table: from the command line to `query`, with the module's files without a kernel."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from typing import Any

import bencodepy
import pytest
from fake_proc import FakeProc
from media_parties import eventually, rtp, udp_socket
from rtpengine._packetpath import lib

from rtpengine import NOTICE, config
from rtpengine.__main__ import _open_kernel_table
from rtpengine.daemon import Daemon
from rtpengine.kernel import KernelTable
from rtpengine.media import Endpoint
from rtpengine.options import ConfigError
from rtpengine.targets import Target

LEAST = ["--config-file=none", "--ip=127.0.0.1", "--listen-ng=127.0.0.1:2223", "--table=3"]


def options(*more: str) -> config.Config:
    return config.parse([*LEAST, *more])


# Start-up


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ([], (logging.INFO, "forwarding in the kernel, with table 3")),
        (["--no-fallback"], (logging.INFO, "forwarding in the kernel, with table 3")),
        (["--table=-1"], (logging.INFO, "forwarding in userspace, since --table is negative (-1)")),
    ],
)
def test_where_media_is_forwarded(proc: FakeProc, more: list[str], note: tuple[int, str]) -> None:
    table, notes = _open_kernel_table(options(*more), proc.root)
    assert notes == [note]
    assert (table is None) is ("--table=-1" in more)
    if table is not None:
        table.close()


@pytest.mark.parametrize("streams", [0, 1])
def test_streams_that_were_left_are_told_of(proc: FakeProc, streams: int) -> None:
    here, there = Endpoint("127.0.0.1", 30000), Endpoint("127.0.0.1", 4000)
    before = KernelTable(3, proc.root)
    for _ in range(streams):
        before.add(Target(here, there, here, there, 0, False, False, None, None))
    before.close()
    table, notes = _open_kernel_table(options(), proc.root)
    assert table is not None
    left = (NOTICE, "kernel table 3 was left by another daemon, with 1 streams: they end")
    assert notes[1:] == [left] * streams
    table.close()


def test_no_module_is_nothing_special(proc: FakeProc, capsys: pytest.CaptureFixture[str]) -> None:
    proc.root.rmdir()
    table, ((level, note),) = _open_kernel_table(options(), proc.root)
    assert (table, level) == (None, logging.INFO)
    assert note.startswith("forwarding in userspace, since the kernel module is not loaded (no ")
    assert capsys.readouterr().err == ""


def test_a_module_that_refuses_is_told_loudly(proc: FakeProc, capsys: pytest.CaptureFixture[str]) -> None:
    proc.failing["3/control"] = errno.EBUSY
    table, notes = _open_kernel_table(options(), proc.root)
    note = "forwarding in userspace, since another process has it; table 3 is not used"
    assert (table, notes) == (None, [(logging.CRITICAL, note)])
    assert capsys.readouterr().err == f"rtpengine: {note}\n"


@pytest.mark.parametrize("loaded", [False, True])
def test_no_fallback(proc: FakeProc, loaded: bool) -> None:
    proc.failing["control"] = errno.EPERM
    if not loaded:
        proc.root.rmdir()
    with pytest.raises(ConfigError, match="^--no-fallback: kernel table 3 is not available, the kernel module "):
        _open_kernel_table(options("--no-fallback"), proc.root)


# A call


class Phones:
    """Alice and Bob, in a call through a daemon that forwards in the kernel."""

    def __init__(self, daemon: Daemon, given: config.Config) -> None:
        self.daemon = daemon
        self.protocol = daemon._protocol("listen-ng", given)
        self.alice, self.bob = udp_socket(), udp_socket()
        to_bob = self.port_of(self.say("offer", self.alice))
        to_alice = self.port_of(self.say("answer", self.bob))
        for sock, port in ((self.alice, to_alice), (self.bob, to_bob)):
            sock.connect(("127.0.0.1", port))
        self.ports = {"alice": to_alice, "bob": to_bob}

    def say(self, command: str, sock: Any = None, *flags: str) -> dict[bytes, Any]:
        request: dict[str, Any] = {"command": command, "call-id": "c", "from-tag": "alice", "to-tag": "bob"}
        if command == "offer":
            del request["to-tag"]
        if sock is not None:
            port = sock.getsockname()[1]
            session = "v=0\r\no=u 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            request |= {"flags": ["trust-address", *flags], "sdp": f"{session}m=audio {port} RTP/AVP 0\r\n"}
        now = time.monotonic()
        datagram, _ = self.protocol.answer(b"%d" % time.monotonic_ns(), bencodepy.encode(request), "", now, time.time())
        return dict(bencodepy.decode(datagram.partition(b" ")[2]))

    @staticmethod
    def port_of(reply: dict[bytes, Any]) -> int:
        return int(reply[b"sdp"].partition(b"m=audio ")[2].split()[0])

    def talk(self, seq: int) -> None:
        for one, other in ((self.alice, self.bob), (self.bob, self.alice)):
            one.send(rtp(seq))
            assert other.recv(2048) == rtp(seq)

    def drops(self, tag: str) -> dict[str, int]:
        (stream,) = (one for one in told(self) if (one["tag"], one["component"]) == (tag, "RTP"))
        found: dict[str, int] = stream["drops"]
        return found

    def tick(self, ahead_s: float) -> None:
        assert self.daemon.offload is not None
        self.daemon._on_events()
        self.daemon.offload.tick(time.monotonic() + ahead_s)

    def sides(self) -> list[dict[bytes, Any]]:
        (pair,) = self.say("query")[b"streams"]
        return list(pair)


@pytest.fixture
def phones(proc: FakeProc) -> Iterator[Phones]:
    given = options("--tos=184")
    daemon = Daemon(given, {}, KernelTable(3, proc.root))
    made = Phones(daemon, given)
    yield made
    made.alice.close()
    made.bob.close()
    daemon.close()
    assert proc.files == {}


def test_a_call_through_the_kernel(phones: Phones, proc: FakeProc) -> None:
    table = proc.tables[3]
    phones.talk(1)
    assert {side[b"status"] for side in phones.sides()} == {b"confirmed peer address"}
    phones.tick(4)
    assert {side[b"status"] for side in phones.sides()} == {b"in kernel"}
    assert {(target.flags, target.tos) for target, _ in table.targets.values()} == {(lib.MEDIAPROXY_F_TOS, 184)}
    table.forward(phones.ports["alice"], count=499)
    assert phones.say("query")[b"totals"][b"RTP"] == {b"packets": 501, b"bytes": 501 * 172, b"errors": 0}

    phones.say("offer", phones.alice)
    assert {side[b"status"] for side in phones.sides()} == {b"in kernel"}, "nothing has changed"
    with udp_socket() as elsewhere:
        phones.say("offer", elsewhere)
        assert table.targets == {}
    reply = phones.say("delete")
    assert reply[b"totals"][b"RTP"][b"packets"] == 501
    assert len(phones.daemon.table) == 0


def test_a_deleted_call_leaves_nothing_in_the_kernel(phones: Phones, proc: FakeProc) -> None:
    table = proc.tables[3]
    phones.talk(1)
    phones.tick(4)
    table.forward(phones.ports["bob"], count=9)
    assert phones.say("delete")[b"totals"][b"RTP"][b"packets"] == 11
    assert table.targets == {}
    assert [command for command, _, _ in table.log] == ["add", "add", "del", "del"], "nobody waits for a dead call"


def test_why_it_is_in_userspace(phones: Phones, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="rtpengine.offload")
    phones.alice.send(rtp(1))
    phones.bob.recv(2048)
    phones.tick(4)
    first, second = (side[b"userspace"] for side in phones.sides())
    assert {first, second} == {b"the sender is not confirmed", b"the receiver is not confirmed"}
    assert len(caplog.records) == 2


def test_packets_from_elsewhere_bring_it_back(phones: Phones, proc: FakeProc) -> None:
    phones.say("offer", phones.alice, "media-handover")
    phones.say("answer", phones.bob, "media-handover")
    phones.talk(1)
    phones.tick(4)
    assert len(proc.tables[3].targets) == 2
    with udp_socket(4, "127.0.0.9") as elsewhere:
        for seq in range(5):
            elsewhere.sendto(rtp(seq, ssrc=9), ("127.0.0.1", phones.ports["alice"]))
        eventually(lambda: phones.drops("alice") == {"source": 5})
        phones.tick(1)
        assert {(side[b"status"], side.get(b"userspace")) for side in phones.sides()} == {
            (b"in kernel", None),
            (b"confirmed peer address", b"packets came from another source"),
        }
        elsewhere.sendto(rtp(6, ssrc=9), ("127.0.0.1", phones.ports["alice"]))
        assert phones.bob.recv(2048) == rtp(6, ssrc=9)


def test_media_in_the_kernel_keeps_a_call_alive(phones: Phones, proc: FakeProc) -> None:
    phones.talk(1)
    phones.tick(4)
    (call,) = phones.daemon.table
    before = phones.daemon.table.expiry(call)
    proc.tables[3].forward(phones.ports["alice"], count=1)
    phones.tick(5)
    assert phones.daemon.table.expiry(call) > before


def test_an_operator_is_told_the_path(phones: Phones, proc: FakeProc) -> None:
    phones.talk(1)
    phones.tick(0)
    before = {stream["reason"] for stream in told(phones) if stream["component"] == "RTP"}
    phones.tick(4)
    proc.tables[3].forward(phones.ports["alice"], count=9)
    rtp_of = {stream["tag"]: stream for stream in told(phones) if stream["component"] == "RTP"}
    assert before == {"not looked at yet"}
    assert {(stream["path"], stream["reason"]) for stream in rtp_of.values()} == {("kernel", "")}
    assert rtp_of["alice"]["packets"] == 10
    assert rtp_of["alice"]["accepted"] == f"127.0.0.1:{phones.alice.getsockname()[1]}"
    phones.tick(5)
    assert phones.daemon._operate(["list", "totals"], "127.0.0.1")["kernel_packets"] == 9
    events = [event["event"] for event in phones.daemon._operate(["why", "c"], "127.0.0.1")["events"]]
    kinds = ["offer", "answer", "source", "source", "handed", "handed"]
    assert [event.split()[0] for event in events] == kinds
    with udp_socket() as elsewhere:
        phones.say("offer", elsewhere)
    events = [event["event"] for event in phones.daemon._operate(["why", "c"], "127.0.0.1")["events"]]
    assert [event for event in events[6:] if event.startswith("taken back")] == ["taken back from the kernel"] * 2


def told(phones: Phones) -> list[dict[str, Any]]:
    return list(phones.daemon._operate(["why", "c"], "127.0.0.1")["streams"])
