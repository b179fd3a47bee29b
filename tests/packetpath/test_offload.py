"""Streams that go down into the kernel and come back: real sockets and workers, the module's files without a kernel."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fake_proc import FakeProc, FakeTable
from media_parties import Party, eventually, rtp, udp_socket
from rtpengine._packetpath import ffi, lib
from secure_parties import SecureParty, keys, session

from rtpengine import offload, targets
from rtpengine.kernel import KernelTable
from rtpengine.media import Endpoint
from rtpengine.offload import Offload
from rtpengine.packetpath import Event, HeardElsewhere, PacketPath, SourceConfirmed

ADD, UPDATE, DEL = lib.MEDIAPROXY_ADD, lib.MEDIAPROXY_UPDATE, lib.MEDIAPROXY_DEL
SETTLED = targets.SETTLE_S


class Stage:
    """Two parties A and B, each other's receivers, at a packet path with a kernel table; ``now`` is the daemon's."""

    def __init__(self, path: PacketPath, proc: FakeProc) -> None:
        self.now = 1000.0
        self.path, self.proc = path, proc
        self.offload = Offload(path, KernelTable(3, proc.root), 0, lambda: self.now)
        self.parties: list[Party] = []
        self.a, self.b = self.party(), self.party()
        self.connect()

    def party(self, *args: Any) -> Any:
        made = (SecureParty if args else Party)(self.offload, *args)  # type: ignore[arg-type]
        self.parties.append(made)
        return made

    def connect(self, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None) -> None:
        self.a.configure(**{"rtp_sink": self.b.stream, **(a or {})})
        self.b.configure(**{"rtp_sink": self.a.stream, **(b or {})})

    def secure(self, side: str) -> None:
        """Have A or B speak SRTP from now on."""
        setattr(self, side, self.party(*((keys(1), keys(2), 1) if side == "a" else (keys(3), keys(4), 2))))
        self.connect()

    def talk(self, seq: int = 1, ssrc: int = 1) -> None:
        """One packet from each to the other, in userspace."""
        for one, other in ((self.a, self.b), (self.b, self.a)):
            (one.talk if isinstance(one, SecureParty) else one.send)(rtp(seq, ssrc))
            heard = other.hear() if isinstance(other, SecureParty) else other.receive()
            assert heard == rtp(seq, ssrc)

    def pass_time(self, seconds: float) -> None:
        """Whole seconds, each with its tick."""
        for _ in range(int(seconds)):
            self.now += 1
            self.offload.tick(self.now)

    def settle(self) -> None:
        self.talk()
        self.pass_time(SETTLED)

    @property
    def table(self) -> FakeTable:
        return self.proc.tables[3]

    @property
    def commands(self) -> list[tuple[str, str, bool]]:
        """What the module was told, by party, since this was asked last."""
        names = {party.relay[1]: name for name, party in (("a", self.a), ("b", self.b))}
        log, self.table.log = self.table.log, []
        return [(command, names.get(port, "?"), passing) for command, port, passing in log]

    def forward(self, party: Party, **packets: int) -> None:
        self.table.forward(party.relay[1], **packets)

    def raw(self, party: Party) -> tuple[Any, Any]:
        """The target and the entry of a party's packets in the kernel."""
        target, entry = self.table.targets[2 * party.relay[1]]
        return target, entry

    def state(self, party: Party) -> Any:
        return self.offload.state(party.stream)

    def take(self, event: Event) -> None:
        if isinstance(event, SourceConfirmed):
            self.offload.source_confirmed(event.stream, self.now)
        elif isinstance(event, HeardElsewhere):
            self.offload.heard_elsewhere(event.stream, self.now)

    def take_events(self) -> None:
        for event in self.path.events():
            self.take(event)


@pytest.fixture
def stage(path: PacketPath, proc: FakeProc) -> Iterator[Stage]:
    made = Stage(path, proc)
    yield made
    for party in made.parties:
        party.close()
    made.offload.close()
    assert proc.files == {}


IN_BOTH = [("add", "a", False), ("add", "b", False)]
BACK_BOTH = [("update", "a", True), ("del", "a", False), ("update", "b", True), ("del", "b", False)]


def read(address: Any) -> Endpoint:
    return Endpoint(".".join(map(str, address.address[0:4])), address.port)


# What is remembered of it


def test_the_way_down_and_back_is_told(stage: Stage) -> None:
    told: list[tuple[int, str]] = []
    stage.offload.note = lambda stream, event: told.append((stream, event))
    stage.settle()
    a, b = stage.a, stage.b
    assert sorted(told) == sorted(
        (here.stream, f"handed to the kernel, from {here.endpoint} to {there.endpoint}")
        for here, there in ((a, b), (b, a))
    )
    told.clear()
    stage.connect(b={"muted": True})
    stage.pass_time(SETTLED)
    assert sorted(told) == sorted([
        (a.stream, "taken back from the kernel"),
        (b.stream, "taken back from the kernel"),
        (a.stream, f"stays in userspace: {targets.ON_HOLD}"),
        (b.stream, f"handed to the kernel, from {b.endpoint} to {a.endpoint}"),
    ])  # fmt: skip


# Down


def test_a_settled_call_goes_down(stage: Stage) -> None:
    stage.talk()
    stage.pass_time(SETTLED - 1)
    assert stage.commands == []
    assert (stage.state(stage.a).in_kernel, stage.state(stage.a).reason) == (False, "")
    stage.pass_time(1)
    assert sorted(stage.commands) == IN_BOTH
    for here, there in ((stage.a, stage.b), (stage.b, stage.a)):
        target, _ = stage.raw(here)
        assert read(target.local) == here.relay
        assert read(target.expect) == here.endpoint
        assert read(target.source) == there.relay
        assert read(target.destination) == there.endpoint
        assert (stage.state(here).in_kernel, stage.state(here).reason) == (True, "")
    stage.pass_time(100)
    assert stage.commands == []


def test_what_is_not_confirmed_stays(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="rtpengine.offload")
    stage.a.send(rtp(1))
    stage.b.receive()
    stage.pass_time(SETTLED + 40)
    assert stage.commands == []
    assert stage.state(stage.a).reason == targets.NO_DESTINATION
    assert stage.state(stage.b).reason == targets.NO_SOURCE
    assert len(caplog.records) == 2, "a reason is told once"
    stage.talk(2)
    stage.take_events()
    stage.pass_time(1)
    assert sorted(stage.commands) == IN_BOTH


def test_it_asks_less_often_the_longer_it_waits(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def never(*_: Any) -> str:
        asked.append(stage.now - 1000)
        return targets.NO_SSRC

    monkeypatch.setattr(offload, "target_for", never)
    stage.pass_time(60)
    assert asked[::2] == [3, 4, 6, 10, 18, 34, 50]


def test_a_reason_that_only_signalling_changes_is_told_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rtpengine.offload")
    stage.connect(b={"muted": True})
    stage.pass_time(30)
    assert [record.message for record in caplog.records] == [f"stays in userspace: {targets.ON_HOLD}"]
    assert stage.offload._due[0][1] == stage.b.stream, "nobody asks again"


def test_rtcp_sockets_stay(stage: Stage) -> None:
    socket = stage.party()
    socket.configure(rtcp_sink=stage.a.stream, rtcp_only=True)
    stage.settle()
    assert sorted(stage.commands) == IN_BOTH
    assert not stage.state(socket).in_kernel
    assert stage.state(socket).reason == ""


def test_a_refusal_is_told_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.proc.failing[ADD] = errno.ENOMEM
    stage.settle()
    stage.pass_time(60)
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "stays in userspace: the kernel refuses it: Cannot allocate memory")
    ] * 2
    assert stage.state(stage.a).reason == "the kernel refuses it: Cannot allocate memory"
    assert not stage.state(stage.a).in_kernel
    stage.proc.failing.clear()
    stage.connect(a={"handover": True})
    stage.pass_time(SETTLED)
    assert sorted(stage.commands) == IN_BOTH


def test_a_source_that_is_confirmed_early_changes_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="rtpengine.offload")
    stage.talk()
    stage.take_events()
    stage.pass_time(SETTLED - 1)
    assert caplog.records == []
    stage.pass_time(1)
    assert sorted(stage.commands) == IN_BOTH


# What the kernel does


def test_counters_flow_back(stage: Stage) -> None:
    stage.settle()
    stage.forward(stage.a, count=50, length=100)
    before = stage.state(stage.b)
    assert (stage.state(stage.a).packets, stage.state(stage.a).bytes) == (51, 172 + 5000), "query need not wait"
    _, entry = stage.raw(stage.a)
    entry.counters.drops[lib.MEDIAPROXY_DROP_TTL] = 2
    entry.counters.drops[lib.MEDIAPROXY_DROP_REPLAY] = 1
    stage.forward(stage.a, count=10, length=100)
    heard = stage.path.last_packet(stage.a.stream)
    stage.pass_time(2)
    after = stage.path.state(stage.a.stream)
    assert (after.packets, after.bytes, after.errors) == (61, 172 + 6000, 2)
    assert after.drops == {"send": 2, "replay": 1}
    assert stage.offload.last_packet(stage.a.stream) > heard
    assert stage.state(stage.b) == before
    assert stage.path.stats().packets == 62


def test_quality_flows_back(stage: Stage) -> None:
    stage.settle()
    stage.forward(stage.a, ssrc=1, count=50)
    _, entry = stage.raw(stage.a)
    quality = entry.quality
    quality.totals.lost, quality.totals.skips, quality.totals.reordered = 3, 2, 1
    quality.jitter, quality.ticks = 80 * 16, 34359
    stage.pass_time(1)
    known = stage.path.state(stage.a.stream).quality
    assert known[:6] == (51, 3, 0, 1, 2, 0)
    assert (round(known.jitter_ms), known.ssrc, known.payload_type) == (10, 1, 0)
    stage.forward(stage.a, ssrc=1, count=2)
    quality.totals.lost = 2
    stage.pass_time(1)
    assert stage.path.state(stage.a.stream).quality[:6] == (53, 2, 0, 1, 2, 0)
    # What it has counted is not there again when it comes back, and where it was is no gap.
    stage.connect(a={"handover": True})
    stage.talk(9000)
    assert stage.state(stage.a).quality[:6] == (54, 2, 0, 1, 2, 0)


def test_bytes_are_counted_as_they_are_sent(stage: Stage) -> None:
    """The kernel counts them as they arrive."""
    stage.secure("b")
    stage.settle()
    for party, arrives in ((stage.a, 172), (stage.b, 182)):
        before = stage.state(party).bytes
        stage.forward(party, ssrc=1, first=2, count=50, length=arrives)
        assert stage.state(party).bytes - before == 50 * (182 if party is stage.a else 172)


def test_targets_that_nobody_knows_are_let_be(stage: Stage) -> None:
    stage.settle()
    stranger, entry = ffi.new("struct mediaproxy_target *"), ffi.new("struct mediaproxy_entry *")
    entry.local.family, entry.local.port, entry.counters.packets = lib.MEDIAPROXY_INET, 9, 4711
    stage.table.targets[18] = (stranger, entry)
    stage.pass_time(1)
    assert stage.path.stats().packets == 2


def test_indices_flow_back(stage: Stage) -> None:
    stage.secure("a")
    stage.secure("b")
    stage.settle()
    assert sorted(stage.commands) == IN_BOTH
    target, _ = stage.raw(stage.a)
    assert (target.decrypt.ssrc_count, target.encrypt.ssrc_count) == (1, 1)
    assert target.decrypt.ssrc[0].window.next == 2
    stage.forward(stage.a, ssrc=1, first=0x10000 + 20, count=5)
    stage.pass_time(1)
    received, _ = stage.path.sources(stage.a.stream)
    _, sent = stage.path.sources(stage.b.stream)
    assert received == sent
    assert received.table[8:16] == (0x10000 + 25).to_bytes(8, "little")


def test_a_new_ssrc_is_added(stage: Stage) -> None:
    stage.secure("b")
    stage.settle()
    stage.commands  # noqa: B018
    stage.talk(7, ssrc=2)
    for party in (stage.a, stage.b):
        stage.raw(party)[1].counters.passed += 1
    stage.pass_time(1)
    assert sorted(stage.commands) == [("update", "a", False), ("update", "b", False)]
    _, entry = stage.raw(stage.a)
    assert {entry.encrypt.ssrc[i].ssrc for i in range(entry.encrypt.ssrc_count)} == {1, 2}
    stage.raw(stage.a)[1].counters.passed += 1
    stage.pass_time(1)
    assert stage.commands == [], "what is handed up need not be of a new SSRC"


def test_too_many_ssrcs_bring_it_back(stage: Stage) -> None:
    stage.secure("b")
    stage.settle()
    for ssrc in range(2, 10):
        stage.talk(7, ssrc=ssrc)
    stage.raw(stage.a)[1].counters.passed += 8
    stage.commands  # noqa: B018
    stage.pass_time(1)
    assert stage.commands == BACK_BOTH[:2]
    assert stage.state(stage.a).reason == targets.MANY_SSRCS


def test_an_update_that_is_refused_brings_it_back(stage: Stage) -> None:
    stage.secure("b")
    stage.settle()
    stage.talk(7, ssrc=2)
    stage.raw(stage.a)[1].counters.passed += 1
    stage.commands  # noqa: B018
    stage.proc.failing[UPDATE] = errno.ENOMEM
    stage.pass_time(1)
    assert stage.commands == [("del", "a", False)]
    assert stage.state(stage.a).reason == "the kernel refuses it: Cannot allocate memory"


def test_a_confirmed_source_is_followed(stage: Stage) -> None:
    stage.settle()
    stage.take_events()
    stage.commands  # noqa: B018
    with udp_socket(4, "127.0.0.5") as elsewhere:
        moved = Endpoint(*elsewhere.getsockname())
        stage.offload.validate(stage.a.stream, moved, nominated=True)
        stage.take_events()
        assert sorted(stage.commands) == [("update", "a", False), ("update", "b", False)]
        assert read(stage.raw(stage.a)[0].expect) == moved
        assert read(stage.raw(stage.b)[0].destination) == moved


def test_a_lost_event_is_made_up_for(stage: Stage) -> None:
    stage.settle()
    stage.path.events()
    stage.commands  # noqa: B018
    stage.offload.validate(stage.a.stream, Endpoint("127.0.0.5", 9), nominated=True)
    stage.path.events()
    stage.pass_time(offload.RECHECK_S)
    assert sorted(stage.commands) == [("update", "a", False), ("update", "b", False)]


# Back


def test_the_same_words_again_leave_it_there(stage: Stage) -> None:
    stage.secure("b")
    stage.settle()
    stage.commands  # noqa: B018
    stage.connect()
    stage.b.agree()
    assert stage.commands == []


def test_signalling_brings_it_back_with_all_that_was_done(stage: Stage) -> None:
    stage.settle()
    stage.commands  # noqa: B018
    stage.forward(stage.a, count=50)
    stage.connect(a={"handover": True})
    assert sorted(stage.commands) == sorted(BACK_BOTH)
    assert stage.path.state(stage.a.stream).packets == 51
    assert (stage.state(stage.a).in_kernel, stage.state(stage.a).reason) == (False, "")
    stage.talk(60)
    stage.pass_time(SETTLED)
    assert sorted(stage.commands) == IN_BOTH
    stage.forward(stage.a, count=5)
    assert stage.state(stage.a).packets == 57


def test_the_kernel_lets_go_before_signalling_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.settle()
    seen = []
    monkeypatch.setattr(stage.path, "configure", lambda *_: seen.append(len(stage.table.targets)))
    stage.a.configure(rtp_sink=0)
    assert seen == [0]


def test_new_keys_bring_it_back(stage: Stage) -> None:
    stage.secure("b")
    stage.settle()
    stage.commands  # noqa: B018
    stage.offload.protect(stage.b.stream, 2, keys(5), keys(6))
    assert sorted(stage.commands) == sorted(BACK_BOTH)
    stage.pass_time(SETTLED)
    assert stage.state(stage.a).reason == stage.state(stage.b).reason == targets.NO_SSRC


def test_srtp_goes_on_in_userspace_where_the_kernel_was(stage: Stage) -> None:
    stage.secure("b")
    stage.settle()
    kernel = session(stage.b.ours, inbound=False)
    for seq in (20000, 40000, 60000, 65536, 65537):
        assert stage.b.receiver.unprotect(kernel.protect(rtp(seq))) == rtp(seq)
    stage.forward(stage.a, ssrc=1, first=2, count=65536)
    stage.connect(a={"handover": True})
    stage.a.send(rtp(65537))
    eventually(lambda: stage.path.state(stage.a.stream).drops == {"replay": 1})
    stage.a.send(rtp(65538))
    assert stage.b.hear() == rtp(65538)


def test_a_target_goes_even_if_the_kernel_is_in_the_way(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.settle()
    stage.commands  # noqa: B018
    stage.forward(stage.a, count=50)
    stage.proc.failing[UPDATE] = errno.ENOMEM
    stage.connect(a={"handover": True})
    assert sorted(stage.commands) == [("del", "a", False), ("del", "b", False)]
    assert stage.path.state(stage.a.stream).packets == 51
    assert {r.levelname for r in caplog.records} == {"WARNING"}
    assert "does not give a stream back properly: Cannot allocate memory" in caplog.text


def test_a_call_ends_without_waiting_for_the_kernel(stage: Stage) -> None:
    stage.settle()
    stage.commands  # noqa: B018
    stage.forward(stage.b, count=50)
    stage.offload.close_stream(stage.a.stream)
    assert sorted(stage.commands) == [("del", "a", False), ("del", "b", False)]
    assert stage.path.state(stage.b.stream).packets == 51
    stage.pass_time(1)
    assert stage.state(stage.b).reason == targets.NO_RECEIVER
    stage.offload.close_stream(stage.b.stream)
    stage.pass_time(60)
    assert stage.commands == []
    assert stage.path.stats().streams == 0
    assert stage.offload._streams == {}
    assert stage.offload._in_kernel == {}


def test_the_end_of_the_daemon_leaves_the_kernel_at_work(path: PacketPath, proc: FakeProc) -> None:
    stage = Stage(path, proc)
    stage.settle()
    stage.offload.close()
    assert len(proc.tables[3].targets) == 2
    for party in stage.parties:
        party.close()
    table = KernelTable(3, proc.root)
    assert table.taken_over == 2
    table.close()
