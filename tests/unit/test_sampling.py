"""When calls are sampled, and what of them."""

from __future__ import annotations

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine.call import Call
from rtpengine.media import Endpoint, Format, Learning, MediaOffer, Quality, Reports, Signalling, StreamState
from rtpengine.quality import CODECS, G711
from rtpengine.sampling import Sampler

A, B, C = Endpoint("203.0.113.1", 4100), Endpoint("203.0.113.2", 4200), Endpoint("203.0.113.3", 4300)
PLAIN = Signalling()


def said(
    endpoint: Endpoint, kind: str = "audio", protocol: str = "RTP/AVP", *formats: Format, mux: bool = False
) -> MediaOffer:
    rtcp = None if mux else Endpoint(endpoint.address, endpoint.port + 1)
    return MediaOffer(kind, endpoint, rtcp, protocol, rtcp_mux=mux, formats=formats)


class Scene:
    """A call and the packet path below it; both parties face streams of one number."""

    def __init__(self, kind: str = "audio", protocol: str = "RTP/AVP", *formats: Format, mux: bool = False) -> None:
        self.transport = FakeTransport()
        self.call = Call("c", 1000.0, Learning.HEURISTIC, self.transport, TOOLS)
        self.call.offer("a", [said(A, kind, protocol, *formats, mux=mux)], PLAIN, 1000.0)
        self.call.answer("a", "b", [said(B, kind, protocol, *formats, mux=mux)], PLAIN, 1000.0)
        self.sampler = Sampler(self.transport.quality_of)
        # Ports of the fake are its streams.
        self.facing_b, self.facing_a = 30000, 30002
        self.heard(0, 0)

    def heard(self, from_a: int, from_b: int, payload_type: int = 0, **quality: object) -> None:
        for stream, packets in ((self.facing_a, from_a), (self.facing_b, from_b)):
            counted = Quality(expected=packets, payload_type=payload_type if packets else None, **quality)  # type: ignore[arg-type]
            self.transport.states[stream] = StreamState(None, True, packets, 0, 0, None, None, {}, quality=counted)

    def tick(self, now: float) -> None:
        self.sampler.tick([self.call], Quality(lost=1), now)

    def packets(self) -> dict[int, list[int]]:
        tracks = {stream: track for ports in self.call.media_ports for stream, track in ports.tracks.items()}
        return {stream: [sample.packets for sample in track.samples()] for stream, track in tracks.items()}

    def codecs(self) -> set[object]:
        return {track.codec for ports in self.call.media_ports for track in ports.tracks.values()}


def test_each_call_has_its_turn_every_five_seconds() -> None:
    scene = Scene()
    scene.heard(10, 20)
    for now in (1001.0, 1004.9):
        scene.tick(now)
    assert scene.packets() == {}
    scene.tick(1005.0)
    assert scene.packets() == {scene.facing_a: [10], scene.facing_b: [20]}
    scene.heard(15, 20)
    scene.tick(1009.0)
    scene.tick(1010.1)
    assert scene.packets() == {scene.facing_a: [10, 5], scene.facing_b: [20, 0]}
    assert scene.sampler.totals.packets_lost == 1
    assert scene.sampler.totals.sums["mos"].count == 3


def test_ports_that_two_branches_share_are_sampled_once() -> None:
    scene = Scene()
    scene.call.answer("a", "c", [said(C)], PLAIN, 1001.0)
    scene.heard(10, 20)
    scene.tick(1005.0)
    assert scene.packets()[scene.facing_b] == [20]
    assert len(scene.packets()) == 3


@pytest.mark.parametrize(
    ("scene", "payload_type", "codecs"),
    [
        (Scene(), 0, {G711}),
        (Scene(), 18, {CODECS["G729"]}),
        (Scene(), 97, {G711}),
        (Scene("audio", "RTP/AVP", Format(97, "AMR", 8000), Format(98, "TELEPHONE-EVENT", 8000)), 97, {CODECS["AMR"]}),
        (Scene("video", "RTP/AVP", Format(97, "H264", 90000)), 97, {None}),
    ],
)
def test_the_codec(scene: Scene, payload_type: int, codecs: set[object]) -> None:
    scene.heard(10, 10, payload_type)
    scene.tick(1005.0)
    assert scene.codecs() == codecs
    scene.heard(20, 20, 98)
    scene.tick(1010.0)
    assert scene.codecs() == (codecs if codecs == {CODECS["AMR"]} or codecs == {None} else {G711})


def test_what_the_other_party_reports() -> None:
    """Loss that it alone hears, its jitter by the clock of what it hears, the way as the sum of both."""
    scene = Scene()
    scene.heard(100, 100, clock_rate=8000)
    transport, sums = scene.transport, scene.sampler.totals.sums
    # RTCP has sockets of its own
    for stream, reports in (
        (scene.facing_a + 1, Reports(1, rtt_ms=30.0)),
        (scene.facing_b + 1, Reports(1, fraction_lost=0.25, jitter=80, rtt_ms=70.0)),
    ):
        transport.states[stream] = StreamState(None, True, 1, 0, 0, None, None, {}, reports=reports)
    scene.tick(1005.0)
    assert (sums["rtt_e2e"].total, sums["rtt_e2e"].count) == (200.0, 2)
    assert (sums["jitter"].total, sums["jitter"].count) == (10.0, 2)
    samples = {stream: track.mos.value for ports in scene.call.media_ports for stream, track in ports.tracks.items()}
    assert samples[scene.facing_a] < 2.8, "B hears a quarter less of what A has sent"
    assert samples[scene.facing_b] > 4.2
    scene.heard(200, 200, clock_rate=8000)
    scene.tick(1010.0)
    assert (sums["rtt_e2e"].count, sums["jitter"].count) == (4, 2), "an old report says nothing new about loss"


@pytest.mark.parametrize(("ways", "total"), [((30.0, None), 0.0), ((None, 30.0), 0.0), ((30.0, 5.0), 70.0)])
def test_the_way_is_known_once_both_parts_are(ways: tuple[float | None, float | None], total: float) -> None:
    scene = Scene(mux=True)
    scene.heard(100, 100)
    for stream, rtt_ms in zip((scene.facing_a, scene.facing_b), ways, strict=True):
        scene.transport.states[stream] = scene.transport.states[stream]._replace(reports=Reports(1, rtt_ms=rtt_ms))
    scene.tick(1005.0)
    assert scene.sampler.totals.sums["rtt_e2e"].total == total


def test_what_is_not_rtp_is_not_sampled() -> None:
    scene = Scene("image", "UDPTL")
    scene.heard(10, 20)
    scene.tick(1005.0)
    assert scene.packets() == {}


def test_ports_that_close_take_their_samples_along() -> None:
    scene = Scene()
    scene.heard(10, 20)
    scene.tick(1005.0)
    for ports in scene.call.media_ports:
        assert ports.current is not None
        ports.forget(ports.current)
    assert scene.packets() == {}
