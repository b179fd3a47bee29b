"""Packets from elsewhere for streams in the kernel: copies of what has passed there, parties that move, strangers."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
from fake_proc import FakeProc
from media_parties import Party, eventually, rtcp, rtp, udp_socket
from secure_parties import SecureParty
from test_offload import ADD, BACK_BOTH, IN_BOTH, SETTLED, Stage, read
from test_offload_resume import Restart

from rtpengine import offload, targets
from rtpengine.media import Endpoint, Learning
from rtpengine.packetpath import HeardElsewhere, PacketPath, SourceConfirmed

BACK_A = BACK_BOTH[:2]
SECRET = b"\x55" * 160


@pytest.fixture
def stage(path: PacketPath, proc: FakeProc) -> Iterator[Stage]:
    made = Stage(path, proc)
    yield made
    for party in made.parties:
        party.close()
    made.offload.close()
    assert proc.files == {}


@pytest.fixture
def elsewhere() -> Iterator[socket.socket]:
    with udp_socket(4, "127.0.0.9") as sock:
        yield sock


def go_down(stage: Stage) -> None:
    stage.settle()
    stage.take_events()
    assert sorted(stage.commands) == IN_BOTH


def through_the_kernel(stage: Stage, party: SecureParty, first: int, count: int) -> list[bytes]:
    """The packets of a party that the kernel forwards now, as somebody on the way sees them."""
    packets = [party.sender.protect(rtp(seq)) for seq in range(first, first + count)]
    stage.forward(party, ssrc=1, first=first, count=count)
    return packets


def drops(stage: Stage, party: Party) -> dict[str, int]:
    found: dict[str, int] = stage.path.state(party.stream).drops
    return found


def dropped(stage: Stage, party: Party, **expected: int) -> None:
    eventually(lambda: drops(stage, party) == expected)


def events_of(stage: Stage) -> list[type]:
    events = stage.path.events()
    for event in events:
        stage.take(event)
    return [type(event) for event in events]


@pytest.mark.parametrize("receiver", ["plain", "secure"])
def test_a_copy_of_what_the_kernel_has_forwarded_moves_nothing(
    stage: Stage, elsewhere: socket.socket, receiver: str
) -> None:
    stage.secure("a")
    if receiver == "secure":
        stage.secure("b")
    go_down(stage)
    copies = through_the_kernel(stage, stage.a, 2, 19)
    for copy in copies[5:8]:
        elsewhere.sendto(copy, stage.a.relay)
    dropped(stage, stage.a, source=3)
    assert events_of(stage) == [HeardElsewhere], "once is enough"
    assert stage.commands == BACK_A
    assert (stage.state(stage.a).in_kernel, stage.state(stage.a).reason) == (False, targets.ELSEWHERE)
    assert stage.state(stage.a).packets == 20, "with all that was done there"

    for copy in copies:
        elsewhere.sendto(copy, stage.a.relay)
    dropped(stage, stage.a, source=22)
    assert stage.path.events() == []
    assert stage.offload.source(stage.a.stream) == stage.a.endpoint
    assert read(stage.raw(stage.b)[0].destination) == stage.a.endpoint
    assert stage.b.hears_nothing()

    stage.a.talk(rtp(21))
    assert (stage.b.hear() if receiver == "secure" else stage.b.receive()) == rtp(21)
    stage.pass_time(SETTLED - 1)
    assert stage.commands == []
    stage.pass_time(1)
    assert stage.commands == IN_BOTH[:1]
    for party, seq in ((stage.a, 22), (stage.b, 2)):
        before = stage.state(party).packets
        stage.forward(party, ssrc=1, first=seq, count=50)
        assert stage.state(party).packets == before + 50


@pytest.mark.parametrize("ssrc", [1, 7], ids=["the same SSRC", "another SSRC"])
def test_a_party_that_has_moved_is_followed(stage: Stage, elsewhere: socket.socket, ssrc: int) -> None:
    stage.secure("a")
    stage.secure("b")
    go_down(stage)
    through_the_kernel(stage, stage.a, 2, 19)
    stage.a.talk_from(elsewhere, rtp(21, ssrc))
    dropped(stage, stage.a, source=1)
    assert events_of(stage) == [HeardElsewhere]
    assert stage.commands == BACK_A
    stage.a.talk_from(elsewhere, rtp(22, ssrc))
    assert stage.b.hear() == rtp(22, ssrc)
    assert events_of(stage) == [SourceConfirmed]
    moved = Endpoint(*elsewhere.getsockname())
    assert stage.commands == [("update", "b", False)], "what the other sends follows at once, in the kernel"
    assert read(stage.raw(stage.b)[0].destination) == moved
    stage.pass_time(SETTLED)
    assert stage.commands == IN_BOTH[:1]
    assert read(stage.raw(stage.a)[0].expect) == moved
    for party in (stage.a, stage.b):
        before = stage.state(party).packets
        stage.forward(party, ssrc=1, first=23, count=50)
        assert stage.state(party).packets == before + 50
    stage.pass_time(60)
    assert stage.commands == []


def test_who_copies_on_and_on_is_asked_about_ever_less(stage: Stage, elsewhere: socket.socket) -> None:
    stage.secure("a")
    go_down(stage)
    taken_back, count = [], 0
    for second in range(60):
        stage.pass_time(1)
        in_kernel = stage.offload.where(stage.a.stream)[0]
        # Here it would be relayed, and the copy would be a replay.
        if in_kernel:
            elsewhere.sendto(through_the_kernel(stage, stage.a, 2 + second, 1)[0], stage.a.relay)
            count += 1
            dropped(stage, stage.a, source=count)
            taken_back += [second] * (events_of(stage) == [HeardElsewhere])
    assert [later - earlier for earlier, later in zip(taken_back, taken_back[1:], strict=False)] == [3, 6, 12, 16, 16]
    assert stage.offload.source(stage.a.stream) == stage.a.endpoint
    stage.pass_time(offload.MAX_WAIT_S + offload.RECHECK_S)
    stage.commands  # noqa: B018
    elsewhere.sendto(through_the_kernel(stage, stage.a, 100, 1)[0], stage.a.relay)
    dropped(stage, stage.a, source=count + 1)
    events_of(stage)
    assert stage.commands == BACK_A
    stage.pass_time(SETTLED)
    assert stage.commands == IN_BOTH[:1], "long ago is forgotten"


def test_an_event_that_was_lost_comes_again(stage: Stage, elsewhere: socket.socket) -> None:
    stage.secure("a")
    go_down(stage)
    copies = iter(range(2, 10000))

    def asked() -> bool:
        elsewhere.sendto(through_the_kernel(stage, stage.a, next(copies), 1)[0], stage.a.relay)
        return any(isinstance(event, HeardElsewhere) for event in stage.path.events())

    eventually(asked)
    eventually(asked)
    assert stage.offload.source(stage.a.stream) == stage.a.endpoint


def test_signalling_ends_the_rest(stage: Stage, elsewhere: socket.socket) -> None:
    stage.secure("a")
    go_down(stage)
    for _ in range(3):
        stage.offload.heard_elsewhere(stage.a.stream, stage.now)
        stage.pass_time(stage.offload._streams[stage.a.stream].rest_s)
    stage.offload.heard_elsewhere(stage.a.stream, stage.now)
    stage.offload.heard_elsewhere(stage.a.stream, stage.now)
    stage.commands  # noqa: B018
    stage.connect(a={"handover": True})
    stage.pass_time(SETTLED)
    assert sorted(stage.commands) == sorted([*BACK_BOTH[2:], *IN_BOTH])


def test_what_is_handed_up_from_the_party_itself_is_relayed(stage: Stage, elsewhere: socket.socket) -> None:
    stage.secure("a")
    stage.secure("b")
    muxing = {"rtcp_mux": True}
    stage.connect(a={"rtcp_sink": stage.b.stream, **muxing}, b={"rtcp_sink": stage.a.stream, **muxing})
    go_down(stage)
    stage.a.talk_rtcp(rtcp(200))
    assert stage.b.hear_rtcp()[:8] == rtcp(200)[:8]
    stage.a.talk(rtp(1, ssrc=5))
    assert stage.b.hear() == rtp(1, ssrc=5)
    # RTCP from elsewhere moves nothing while the party is heard, and has its indices here only.
    elsewhere.sendto(stage.a.sender.protect_rtcp(rtcp(200)), stage.a.relay)
    dropped(stage, stage.a, source=1)
    elsewhere.sendto(rtp(9), stage.a.relay)
    dropped(stage, stage.a, source=1, authentication=1)
    assert stage.path.events() == []
    assert stage.commands == []


def test_another_pair_that_ice_has_proven_is_heard(stage: Stage, elsewhere: socket.socket) -> None:
    stage.secure("a")
    stage.connect(a={"ice": True, "stun": True})
    stage.offload.validate(stage.a.stream, Endpoint(*elsewhere.getsockname()), nominated=False)
    stage.offload.validate(stage.a.stream, stage.a.endpoint, nominated=True)
    go_down(stage)
    stage.a.talk_from(elsewhere, rtp(2))
    assert stage.b.receive() == rtp(2)
    assert stage.path.events() == []
    assert stage.state(stage.a).in_kernel


def test_a_plain_party_is_not_replaced_while_the_kernel_hears_it(stage: Stage, elsewhere: socket.socket) -> None:
    stage.connect(a={"handover": True})
    go_down(stage)
    for seq in range(100, 105):
        elsewhere.sendto(rtp(seq, 9), stage.a.relay)
    dropped(stage, stage.a, source=5)
    assert events_of(stage) == [HeardElsewhere]
    assert stage.commands == BACK_A
    elsewhere.sendto(rtp(105, 9), stage.a.relay)
    assert stage.b.receive() == rtp(105, 9)
    assert events_of(stage) == [SourceConfirmed]
    stage.pass_time(SETTLED)
    assert read(stage.raw(stage.a)[0].expect) == read(stage.raw(stage.b)[0].destination)
    assert read(stage.raw(stage.a)[0].expect) == Endpoint(*elsewhere.getsockname())


def test_no_index_is_used_here_and_in_the_kernel(stage: Stage, elsewhere: socket.socket) -> None:
    """Two payloads under one SRTP index reveal each other: whoever knows one can read the other."""
    stage.secure("b")
    stage.connect(a={"learning": Learning.IMMEDIATE, "strict": False})
    go_down(stage)
    elsewhere.sendto(rtp(5, ssrc=77), stage.a.relay)
    assert stage.b.hear() == rtp(5, ssrc=77), "nobody else uses indices of that SSRC"
    assert stage.commands == []
    elsewhere.sendto(rtp(30, payload=SECRET), stage.a.relay)
    dropped(stage, stage.a, source=1)
    assert events_of(stage) == [HeardElsewhere]
    assert stage.commands == BACK_A
    assert stage.b.hears_nothing()


def test_the_endpoint_of_the_sdp_is_heard_alone_while_the_kernel_forwards(
    stage: Stage, elsewhere: socket.socket
) -> None:
    stage.secure("a")
    stage.connect(a={"learning": Learning.OFF, "strict": False})
    go_down(stage)
    (copy,) = through_the_kernel(stage, stage.a, 2, 1)
    elsewhere.sendto(copy, stage.a.relay)
    dropped(stage, stage.a, source=1)
    assert events_of(stage) == [HeardElsewhere]
    elsewhere.sendto(copy, stage.a.relay)
    dropped(stage, stage.a, source=1, replay=1)
    stage.a.talk_from(elsewhere, rtp(3))
    assert stage.b.receive() == rtp(3)


def test_a_stream_that_the_kernel_refuses_is_judged_here(stage: Stage, elsewhere: socket.socket) -> None:
    stage.secure("a")
    stage.proc.failing[ADD] = errno.EAFNOSUPPORT
    stage.settle()
    stage.take_events()
    assert stage.state(stage.a).reason == "the kernel refuses it: Address family not supported by protocol"
    stage.a.talk_from(elsewhere, rtp(2))
    assert stage.b.receive() == rtp(2)
    assert events_of(stage) == [SourceConfirmed]


def test_a_stream_that_came_back_is_judged_here(stage: Stage, elsewhere: socket.socket) -> None:
    stage.secure("a")
    go_down(stage)
    stage.connect(a={"handover": True})
    stage.a.talk_from(elsewhere, rtp(2))
    assert stage.b.receive() == rtp(2)
    assert events_of(stage) == [SourceConfirmed]


def test_a_stream_that_a_successor_has_taken_over_is_guarded(
    path: PacketPath, proc: FakeProc, elsewhere: socket.socket
) -> None:
    restart = Restart(path, proc)
    stage = restart.stage
    stage.secure("a")
    go_down(stage)
    restart.save()
    restart.restart()
    assert stage.state(stage.a).in_kernel
    stage.path.events()
    (copy,) = through_the_kernel(stage, stage.a, 2, 1)
    elsewhere.sendto(copy, stage.a.relay)
    dropped(stage, stage.a, source=1)
    stage.commands  # noqa: B018
    assert events_of(stage) == [HeardElsewhere]
    assert stage.commands == BACK_A
    elsewhere.sendto(copy, stage.a.relay)
    dropped(stage, stage.a, source=2)
    for party in stage.parties:
        party.close()
    stage.offload.close()


def test_a_closed_stream_cannot_be_offloaded(path: PacketPath) -> None:
    with pytest.raises(OSError) as failure:
        path.offload(1 << 62, True)
    assert failure.value.errno == errno.ENOENT
