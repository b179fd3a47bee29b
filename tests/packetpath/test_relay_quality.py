"""Reception quality of real streams: where it is counted, what resets it, and what comes to the totals."""

from __future__ import annotations

from media_parties import Relay, eventually, rtcp, rtp
from secure_parties import SecureParty, keys

from rtpengine.media import Format, KernelQuality, Learning, Progress, Quality
from rtpengine.packetpath import PacketPath


def stamped(seq: int, timestamp: int, payload_type: int = 0) -> bytes:
    packet = rtp(seq, payload_type=payload_type)
    return packet[:4] + timestamp.to_bytes(4, "big") + packet[8:]


def test_each_stream_counts_for_itself(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        assert relay.a.state.quality == Quality()
        relay.a.send(*(rtp(seq, ssrc=7) for seq in (1, 2, 4, 3, 3, 7)))
        relay.b.send(rtp(9, ssrc=8), rtcp(200), rtp(10, ssrc=8))
        eventually(lambda: (relay.a.state.packets, relay.b.state.packets) == (6, 3))
        of_a = relay.a.state.quality
        assert of_a[:6] == (7, 2, 1, 1, 2, 0)
        assert (of_a.ssrc, of_a.payload_type, of_a.clock_rate) == (7, 0, 8000)
        assert relay.b.state.quality[:6] == (2, 0, 0, 0, 0, 0)
        stats = path.stats().quality
        assert stats == Quality(lost=2, duplicates=1, reordered=1, skips=2)


def test_only_the_partys_packets_count(path: PacketPath) -> None:
    with Relay(path).connect({"learning": Learning.OFF}) as relay:
        relay.a.send(rtp(1))
        relay.b.receive()
        relay.b.sock.sendto(rtp(500), relay.a.relay)
        eventually(lambda: relay.a.state.drops.get("source") == 1)
        assert relay.a.state.quality.expected == 1


def test_what_is_no_rtp_has_no_quality(path: PacketPath) -> None:
    with Relay(path).connect({"rtp": False, "rtcp_sink": 0}) as relay:
        relay.a.send(rtp(1), rtp(2))
        eventually(lambda: relay.a.state.packets == 2)
        assert relay.a.state.quality == Quality()


def test_the_clock_is_that_of_the_session_description(path: PacketPath) -> None:
    formats = (Format(96, "OPUS", 48000),)
    with Relay(path).connect({"formats": formats}) as relay:
        # Timestamps of a tenth of a second at once: as much jitter as that, by whichever clock.
        for seq in range(100):
            relay.a.send(stamped(seq, 4800 * (seq % 2), 96))
            relay.b.receive()
        quality = relay.a.state.quality
        assert (quality.payload_type, quality.clock_rate) == (96, 48000)
        assert quality.jitter_ms > 80
        # another meaning for the same number
        relay.connect({"formats": (Format(96, "G7221", 16000),)})
        relay.a.send(stamped(100, 0, 96))
        relay.b.receive()
        quality = relay.a.state.quality
        assert (quality.clock_rate, quality.jitter_ms) == (16000, 0)
        assert quality.expected == 101
        # and one that nobody has told
        relay.a.send(stamped(101, 0, 97))
        relay.b.receive()
        assert relay.a.state.quality[6:] == (0, 1, 97, 0)


def test_repeated_srtp_is_a_replay(path: PacketPath) -> None:
    a, b = SecureParty(path, keys(1), keys(2), 1), SecureParty(path, keys(3), keys(4), 2)
    a.configure(rtp_sink=b.stream)
    b.configure(rtp_sink=a.stream)
    packets = [a.sender.protect(rtp(seq)) for seq in (1, 2, 4)]
    a.send(*packets, packets[0])
    eventually(lambda: a.state.drops == {"replay": 1})
    assert a.state.quality[:6] == (4, 1, 0, 0, 1, 0)
    a.close()
    b.close()


def test_what_the_kernel_has_counted_is_added(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        relay.a.send(rtp(1), rtp(2))
        eventually(lambda: relay.a.state.packets == 2)
        before = KernelQuality(100, 5, 1, 2, 3, 0, 800 * 16, 34359, 1, 128)
        now = KernelQuality(200, 4, 2, 4, 6, 1, 80 * 16, 34359, 1, 128)
        path.sync(relay.a.stream, Progress(95, 95 * 172, {}, quality=before.since(KernelQuality())))
        quality = relay.a.state.quality
        assert quality[:6] == (102, 5, 1, 2, 3, 0)
        assert (round(quality.jitter_ms), quality.clock_rate, quality.payload_type) == (100, 8000, 0)
        # what came late is no loss: one total goes back
        path.sync(relay.a.stream, Progress(101, 101 * 172, {}, quality=now.since(before)))
        quality = relay.a.state.quality
        assert quality[:6] == (202, 4, 2, 4, 6, 1)
        assert round(quality.jitter_ms) == 10
        assert path.stats().quality == Quality(lost=4, duplicates=2, reordered=4, skips=6, resets=1)
        # The packets that come here again are no gap, however far on they are.
        relay.a.send(rtp(20000), rtp(20001))
        eventually(lambda: relay.a.state.packets == 200)
        assert relay.a.state.quality[:6] == (204, 4, 2, 4, 6, 1)


def test_a_second_without_packets_changes_nothing(path: PacketPath) -> None:
    with Relay(path).connect() as relay:
        relay.a.send(rtp(1))
        relay.b.receive()
        path.sync(relay.a.stream, Progress(0, 0, {"send": 1}))
        relay.a.send(rtp(2), rtp(4))
        eventually(lambda: relay.a.state.packets == 3)
        assert relay.a.state.quality[:2] == (4, 1)
