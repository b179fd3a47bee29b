"""Targets of a daemon that has ended, and the streams of its successor that take them over."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
from fake_proc import FakeProc
from media_parties import Party, rtp
from rtpengine._packetpath import lib
from secure_parties import SecureParty
from test_offload import Stage

from rtpengine.kernel import KernelTable, Unavailable
from rtpengine.media import Endpoint
from rtpengine.memory import KernelMemory, SrtpMemory, StreamMemory
from rtpengine.offload import Offload
from rtpengine.packetpath import PacketPath
from rtpengine.targets import NO_SOURCE, Target


class Restart:
    """A stage whose daemon ends, and another one that gets what was saved and the sockets."""

    def __init__(self, path: PacketPath, proc: FakeProc) -> None:
        self.stage = Stage(path, proc)
        self.proc = proc
        self.memories: list[StreamMemory] = []
        self.srtp: list[tuple[SrtpMemory, ...]] = []

    def save(self) -> None:
        parties = (self.stage.a, self.stage.b)
        self.memories = [self.stage.offload.save(party.stream) for party in parties]
        self.srtp = [self.stage.offload.save_srtp(party.stream) for party in parties]

    def restart(self, late: bool = True, table: KernelTable | None = None) -> None:
        """Another daemon on the same packet path, which is as good as any; ``table`` has been handed over to it."""
        stage, parties = self.stage, (self.stage.a, self.stage.b)
        sockets = [socket.socket(fileno=socket.dup(stage.offload.hold(party.stream))) for party in parties]
        for party in parties:
            stage.path.close_stream(party.stream)
        stage.offload.close()
        table = table or KernelTable(3, self.proc.root)
        stage.offload = Offload(stage.path, table, 0, lambda: stage.now)
        for party, sock in zip(parties, sockets, strict=True):
            party.path = stage.offload  # type: ignore[assignment]
            party.stream = stage.offload.adopt_stream(0, sock)
        stage.connect()
        for party, memory, srtp in zip(parties, self.memories, self.srtp, strict=True):
            if isinstance(party, SecureParty):
                party.agree()
                stage.offload.restore_srtp(party.stream, srtp, late=late)
            stage.offload.restore(party.stream, memory)
        stage.commands  # noqa: B018
        for party in parties:
            stage.offload.resume(party.stream)

    @property
    def parties(self) -> tuple[Party, Party]:
        return self.stage.a, self.stage.b


def _target(local: Endpoint) -> Target:
    return Target(local, *[Endpoint("127.0.0.1", 7)] * 3, 0, False, False, None, None)


@pytest.fixture
def restart(path: PacketPath, proc: FakeProc) -> Iterator[Restart]:
    made = Restart(path, proc)
    yield made
    for party in made.stage.parties:
        party.close()
    made.stage.offload.close()
    assert proc.files == {}


def test_what_the_kernel_forwards_it_goes_on_forwarding(restart: Restart) -> None:
    stage = restart.stage
    stage.settle()
    stage.forward(stage.a, count=10)
    restart.save()
    kernel = restart.memories[0].kernel
    assert kernel is not None
    assert kernel[:3] == KernelMemory(10, 1720)[:3]
    stage.forward(stage.a, count=5)
    restart.restart()
    assert stage.commands == [("update", "a", False), ("update", "b", False)]
    state = stage.state(stage.a)
    assert (state.in_kernel, state.packets, state.bytes) == (True, 16, 16 * 172)
    assert stage.offload.settle() == 0
    stage.forward(stage.a, count=1)
    stage.pass_time(60)
    assert stage.state(stage.a).packets == 17
    assert stage.commands == []
    stage.connect(a={"muted": True})
    assert ("del", "b", False) in stage.commands, "and it can be taken back"


@pytest.mark.parametrize("side", ["a", "b"])
def test_indices_are_as_far_as_the_kernel_has_come(restart: Restart, side: str) -> None:
    stage = restart.stage
    stage.secure(side)
    stage.settle()
    restart.save()
    speaking, hearing = (stage.a, stage.b) if side == "b" else (stage.b, stage.a)
    before = stage.state(speaking).bytes
    arrives, leaves = (172, 182) if isinstance(hearing, SecureParty) else (182, 172)
    stage.forward(speaking, ssrc=1, first=2, count=5000, length=arrives)
    restart.restart()
    assert stage.state(speaking).bytes == before + 5000 * leaves
    secured = next(party for party in restart.parties if isinstance(party, SecureParty))
    (sent,) = (one for one in stage.offload.save_srtp(secured.stream) if one.sending)
    assert [source.rtp_next for source in sent.sources] == [5002]
    assert stage.state(speaking).in_kernel and stage.state(hearing).in_kernel


def test_what_was_lost_before_is_not_lost_again(restart: Restart) -> None:
    stage = restart.stage
    stage.settle()
    stage.forward(stage.a, ssrc=1, count=10)
    _, entry = stage.raw(stage.a)
    entry.quality.totals.lost = 3
    restart.save()
    stage.forward(stage.a, ssrc=1, count=5)
    entry.quality.totals.lost = 4
    restart.restart()
    assert stage.state(stage.a).quality[:2] == (5, 1)
    assert stage.path.stats().quality.lost == 3 + 1, "of both, which share a packet path here"


def test_other_targets_at_the_same_port_begin_at_nothing(restart: Restart) -> None:
    stage = restart.stage
    stage.settle()
    stage.forward(stage.a, count=10)
    restart.save()
    before = restart.memories[0].packets
    stage.connect(a={"strict": False})
    stage.connect()
    stage.pass_time(4)
    stage.forward(stage.a, count=3)
    restart.restart()
    assert stage.state(stage.a).packets == before + 3


def test_what_cannot_go_on_comes_back(restart: Restart) -> None:
    stage = restart.stage
    stage.settle()
    restart.save()
    restart.memories[0] = StreamMemory()
    restart.restart()
    assert ("del", "a", False) in stage.commands
    stage.offload.tick(stage.now)
    assert not stage.state(stage.a).in_kernel
    assert stage.state(stage.a).reason == NO_SOURCE or stage.state(stage.a).reason


def test_a_kernel_that_refuses_to_go_on(restart: Restart) -> None:
    stage = restart.stage
    stage.settle()
    restart.save()
    restart.proc.failing[lib.MEDIAPROXY_UPDATE] = errno.ENOMEM
    restart.restart()
    assert not stage.state(stage.a).in_kernel
    stage.a.send(rtp(7))
    assert stage.b.receive() == rtp(7)


def test_the_control_file_is_handed_over(proc: FakeProc) -> None:
    first = KernelTable(3, proc.root)
    assert first.taken_over is None
    second = KernelTable.inherit(3, first.fileno(), proc.root)
    assert second.taken_over == 0
    second.close()
    proc.failing["3/blist"] = errno.EACCES
    descriptor = KernelTable(4, proc.root).fileno()
    with pytest.raises(Unavailable):
        KernelTable.inherit(3, descriptor, proc.root)


def test_what_changes_in_the_kernel_while_the_successor_starts(restart: Restart) -> None:
    """That one has the table already when the daemon before it hands a call down, and ends another."""
    stage = restart.stage
    gone = _target(Endpoint("127.0.0.1", 9))
    restart.stage.offload._table.add(gone)
    table = KernelTable.inherit(3, restart.proc.dup(stage.offload._table.fileno()), restart.proc.root)
    assert table.taken_over == 1
    stage.settle()
    stage.offload._table.remove(gone.local)
    restart.save()
    restart.restart(table=table)
    assert stage.state(stage.a).in_kernel and stage.state(stage.b).in_kernel
    assert stage.offload.settle() == 0
    before = stage.state(stage.a).packets
    stage.forward(stage.a, count=5)
    assert stage.state(stage.a).packets == before + 5
    for party in restart.parties:
        stage.offload.close_stream(party.stream)
    assert stage.table.targets == {}


def test_a_port_of_ours_in_the_kernel_is_taken(restart: Restart) -> None:
    stage = restart.stage
    stage.offload._table.add(_target(Endpoint(*stage.a.relay)))
    stage.settle()
    assert stage.state(stage.a).in_kernel
    assert [command for command in stage.commands if command[1] == "a"][-2:] == [
        ("del", "a", False),
        ("add", "a", False),
    ]


def test_a_successor_without_the_table_finds_nothing_in_it(restart: Restart) -> None:
    stage = restart.stage
    stage.settle()
    stage.forward(stage.a, count=3)
    before = stage.state(stage.a).packets
    for party in restart.parties:
        stage.offload.withdraw(party.stream)
    assert stage.table.targets == {}
    assert not stage.state(stage.a).in_kernel
    stage.a.send(rtp(7))
    assert stage.b.receive() == rtp(7)
    assert stage.path.state(stage.a.stream).packets == before + 1
    stage.pass_time(10)
    assert stage.state(stage.a).in_kernel, "it was not taken over after all"


def test_nobody_takes_over_what_has_no_call(restart: Restart, caplog: pytest.LogCaptureFixture) -> None:
    stage = restart.stage
    stage.settle()
    stage.offload.close()
    stage.offload = Offload(stage.path, KernelTable(3, restart.proc.root), 0, lambda: stage.now)
    assert len(stage.table.targets) == 2
    restart.proc.failing[lib.MEDIAPROXY_DEL] = errno.EIO
    assert stage.offload.settle() == 0
    assert "does not forget all streams" in caplog.text


def test_it_ends_all_the_same(restart: Restart) -> None:
    stage = restart.stage
    stage.settle()
    stage.offload.close()
    stage.offload = Offload(stage.path, KernelTable(3, restart.proc.root), 0, lambda: stage.now)
    assert stage.offload.settle() == 2
    assert stage.table.targets == {}
