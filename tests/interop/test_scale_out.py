"""Three daemons behind one Kamailio with one Redis: what goes along when a master and a machine die under 200 calls.

Run with ``-s`` it prints the figures that docs/scale-out.md has.
"""

from __future__ import annotations

import itertools
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kamailio import programs
from kamailio.cluster import NAMES, Cluster, Network
from kamailio.programs import Phone, sip_request
from kamailio.scenario import accept, answered, button, invite, ring, scenario, step
from systemlab import netns, redisserver
from systemlab.daemon import PROGRAM, wait_until
from systemlab.media import FRAME_S, Address, Media, Section, open_ports, rtp, sections, ssrc_of

CALL = scenario(invite(), answered(), button(), step("bye"))
ANSWER = scenario(ring(), accept(), step("hung-up"))
BEFORE, WITHOUT_MASTER, WITHOUT_MACHINE, ENDED_MEANWHILE = 180, 20, 30, 2
TALKING = 8  # calls of each daemon, 50 packets per second each way
PATIENCE_S = 280
SO_SNDBUFFORCE = 32  # asm-generic/socket.h

_numbers = itertools.count(1)
_random = random.Random(4711)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The machines, all alive."""
    if reason := netns.missing_privilege() or programs.missing():
        pytest.skip(reason)
    if not PROGRAM.exists():
        pytest.skip(f"there is no daemon at {PROGRAM}; make build makes it")
    redisserver.require()
    network = Network()
    try:
        network.up()
        with Cluster(network, tmp_path) as cluster:
            yield cluster
    finally:
        network.down()


@dataclass
class Stream:
    """What one party says in one call, and what has come of it to the other: positions and times of arrival."""

    source: socket.socket
    target: Address
    ssrc: int = field(default_factory=lambda: _random.getrandbits(32))
    sent: int = 0
    heard: list[tuple[int, float]] = field(default_factory=list)

    def send(self) -> None:
        """Send the next packet."""
        self.source.sendto(rtp(self.sent, self.ssrc), self.target)
        self.sent += 1

    def gaps(self) -> list[tuple[int, float, float]]:
        """Packets lost before others came: how many, and when the last one before and the first one after came."""
        pairs = itertools.pairwise(self.heard)
        assert all(before < after for (before, _), (after, _) in itertools.pairwise(self.heard)), "in order and once"
        return [(after - before - 1, since, until) for (before, since), (after, until) in pairs if after > before + 1]


@dataclass
class Call:
    """A call, the daemon that has it, and what its parties say."""

    call_id: str
    owner: str
    streams: tuple[Stream, Stream]


class Crowd:
    """Phones of many calls. Each side has one socket for the audio of all, as a gateway may: SSRCs tell them apart."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self._directory = directory
        network = cluster.network
        self._sides = [(host, Media(open_ports(host, host.ipv4[0], [0, 1]))) for host in (network.a, network.b)]
        for _, media in self._sides:
            media.rtp.setblocking(False)
            # What waits to learn where a dead machine's address is now must not keep other calls' packets back.
            media.rtp.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
        self._phones: list[Phone] = []
        self._talking: list[Stream] = []
        self._by_ssrc: dict[int, tuple[socket.socket, Stream]] = {}
        self.misled = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End everything."""
        self._end.set()
        self._thread.join(10)
        for phone in self._phones:
            phone.stop()
        for _, media in self._sides:
            for sock in media.sockets:
                sock.close()

    def place(self, count: int) -> list[Call]:
        """Call somebody so many times, and return when everybody has answered."""
        (caller_host, caller_audio), (callee_host, callee_audio) = self._sides
        name = f"user{next(_numbers)}"
        directory = self._directory / name
        directory.mkdir()
        proxy = self.cluster.kamailio.address
        about = {"calls": count, "rate": 40, "patience_s": PATIENCE_S}
        callee = Phone(name, callee_host, directory, proxy, ANSWER, callee_audio.port, **about)
        self._phones.append(callee)
        host, port = callee.address
        with callee_host.udp(host) as sock:
            contact = f"Contact: <sip:{name}@{host}:{port}>\r\nExpires: 900\r\n"
            assert sip_request(sock, proxy, "REGISTER", f"sip:{proxy[0]}", name, contact, 20) == 200
        caller = Phone("caller", caller_host, directory, proxy, CALL, caller_audio.port, callee=name, **about)
        self._phones.append(caller)
        there = wait_until(lambda: len(_told(caller)) == count or not caller.alive, 60, 0.2)
        assert there and caller.alive, f"{len(_told(caller))} of {count} calls\n{caller.log}\n{callee.log}"
        answers, offers = _told(caller), _told(callee)
        owners = {address: daemon for daemon, address in self.cluster.addresses.items()}
        made = []
        for call_id, answer in answers.items():
            streams = (
                Stream(caller_audio.rtp, answer.endpoint),
                Stream(callee_audio.rtp, offers[call_id].endpoint),
            )
            for stream, audio in zip(streams, (callee_audio, caller_audio), strict=True):
                self._by_ssrc[stream.ssrc] = audio.rtp, stream
            assert answer.address == offers[call_id].address
            made.append(Call(call_id, owners[answer.address], streams))
        return made

    def talk(self, calls: Iterable[Call]) -> None:
        """Have these calls talk from now on."""
        self._talking += [stream for call in calls for stream in call.streams]

    def fall_silent(self) -> None:
        """Nobody talks any more."""
        self._talking = []

    def _run(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            for stream in self._talking:
                stream.send()
            due = max(due + FRAME_S, time.monotonic() - FRAME_S)
            while True:
                self._listen()
                if (left := due - time.monotonic()) <= 0:
                    break
                self._end.wait(min(left, 0.005))

    def _listen(self) -> None:
        for _, media in self._sides:
            for packet in _waiting(media.rtp):
                listener, stream = self._by_ssrc.get(ssrc_of(packet), (None, None))
                if stream is None or listener is not media.rtp:
                    self.misled += 1
                    continue
                stream.heard.append((int.from_bytes(packet[4:8], "big") // 160, time.monotonic()))

    def hear_each_other(self, calls: Iterable[Call], timeout_s: float = 40) -> int:
        """Have all of them say something, again if need be, and return in how many calls both hear the other."""
        before = {stream.ssrc: len(stream.heard) for call in calls for stream in call.streams}
        deaf = [self._by_ssrc[ssrc][1] for ssrc in before]
        deadline = time.monotonic() + timeout_s
        while deaf and time.monotonic() < deadline:
            for stream in deaf:
                if not any(stream is one for one in self._talking):
                    stream.send()
            time.sleep(0.3)
            deaf = [stream for stream in deaf if len(stream.heard) == before[stream.ssrc]]
        silent = {stream.ssrc for stream in deaf}
        return sum(not any(stream.ssrc in silent for stream in call.streams) for call in calls)

    def hang_up_some(self, calls: Sequence[Call]) -> None:
        """Callers of the first phone end these calls; return when the BYE has got through."""
        callee, caller = self._phones[:2]
        for call in calls:
            caller.press(call.call_id)
        callee.wait_for("BYE", re.compile("^BYE "), len(calls))

    def hang_up(self) -> None:
        """Every caller ends its calls, and every scenario ends as it was written."""
        callees, callers = self._phones[::2], self._phones[1::2]
        for caller in callers:
            for call_id in _told(caller):
                caller.press(call_id)
                time.sleep(0.01)
        for phone in (*callers, *callees):
            phone.finished()


def _waiting(sock: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield sock.recv(2048)
        except BlockingIOError:
            return


def _told(phone: Phone) -> dict[str, Section]:
    """The audio that a phone has been told of, by Call-ID."""
    found = {}
    for message in phone.messages:
        head, _, body = message.partition("\r\n\r\n")
        if body and (call_id := re.search(r"^Call-ID: *(\S+)", head, re.MULTILINE)):
            (found[call_id[1]],) = sections(body)
    return found


def _of(calls: Iterable[Call], *owners: str) -> list[Call]:
    return [call for call in calls if call.owner in owners]


@pytest.mark.timeout(600)
def test_a_master_and_a_machine_die_under_200_calls(cluster: Cluster, tmp_path: Path) -> None:
    crowd = Crowd(cluster, tmp_path)
    try:
        _all_of_it(cluster, crowd)
    finally:
        crowd.close()


def _all_of_it(cluster: Cluster, crowd: Crowd) -> None:
    dead, *alive = NAMES
    old, new = cluster.redis
    calls = list(crowd.place(BEFORE))
    assert crowd.hear_each_other(calls) == BEFORE
    spread = Counter(call.owner for call in calls)
    print(f"\n{BEFORE} calls: {dict(spread)}")
    assert set(spread) == set(NAMES), "Kamailio uses them all"
    assert wait_until(lambda: old.calls() == new.calls() == BEFORE, 30)
    talkers = [call for name in NAMES for call in _of(calls, name)[:TALKING]]
    crowd.talk(talkers)

    killed = time.monotonic()
    old.stop()
    calls += crowd.place(WITHOUT_MASTER)
    placed = time.monotonic() - killed
    assert wait_until(lambda: all("stores calls again" in cluster.daemons[name].log for name in NAMES), 90)
    assert wait_until(lambda: new.calls() == len(calls), 30), f"{new.calls()} of {len(calls)}"
    print(f"master killed: {WITHOUT_MASTER} more calls in {placed:.1f} s; all {len(calls)} at the new master after "
          f"{time.monotonic() - killed:.1f} s")  # fmt: skip
    assert crowd.hear_each_other(calls) == len(calls)
    assert not [gap for call in talkers for stream in call.streams for gap in stream.gaps()], "no packet was lost"

    _print_sizes(cluster, calls)

    victims = _of(calls, dead)
    killed = time.monotonic()
    cluster.kill_machine(dead)
    calls += crowd.place(WITHOUT_MACHINE)
    placed = time.monotonic() - killed
    meanwhile = Counter(call.owner for call in calls[-WITHOUT_MACHINE:])
    print(f"machine killed: {WITHOUT_MACHINE} more calls in {placed:.1f} s: {dict(meanwhile)}")
    assert dead not in meanwhile
    ended = _of(calls[:BEFORE], dead)[-ENDED_MEANWHILE:]
    crowd.hang_up_some(ended)
    moved = time.monotonic()
    cluster.move_address(dead, cluster.network.reserve)
    daemon = cluster.start_daemon(dead, cluster.network.reserve)
    restored = f"{len(victims)} of {len(victims)} calls restored"
    assert wait_until(lambda: restored in daemon.log, 60), daemon.log
    assert crowd.hear_each_other(calls) == len(calls)
    assert all(daemon.ng.command("query", call_id=call.call_id)["result"] == "ok" for call in victims)
    crowd.fall_silent()
    for call in _of(talkers, *alive):
        assert not [gap for stream in call.streams for gap in stream.gaps()], "no other machine lost a packet"
    gaps = [stream.gaps() for call in _of(talkers, dead) for stream in call.streams]
    assert all(len(each) == 1 for each in gaps), "one gap, from the death of the machine until its calls are back"
    lost = [each[0][0] for each in gaps]
    again = [each[0][2] - moved for each in gaps]
    print(
        f"{restored}; of {len(talkers)} calls that talked, {len(gaps) // 2} lost {min(lost)} to {max(lost)} packets "
        f"each way; the reserve had its address {moved - killed:.1f} s after the death, and audio {min(again):.2f} to "
        f"{max(again):.2f} s later; other calls lost none"
    )
    assert not crowd.misled

    for _ in range(20):
        calls += crowd.place(6)
        if calls[-6:] != _of(calls[-6:], *alive):
            break
        time.sleep(0.5)
    else:
        pytest.fail("Kamailio does not use the daemon again that is back")
    crowd.hang_up()
    # What was ended while its daemon was away is restored, and left to the time-out.
    assert wait_until(lambda: new.calls() == len(ended), 30), {name: cluster.calls(name) for name in NAMES}
    for call in ended:
        assert daemon.ng.ok("delete", call_id=call.call_id, from_tag="").get("warning") is None
    assert wait_until(lambda: new.calls() == 0, 30)
    for name in NAMES:
        assert cluster.daemons[name].stop() == 0
        assert "Traceback" not in cluster.daemons[name].log


def _print_sizes(cluster: Cluster, calls: list[Call]) -> None:
    store = cluster.redis[1]
    used = sum(store.command("MEMORY", "USAGE", key) for key in store.keys("rtpengine:*:call:*")) / len(calls)
    print(f"Redis: {used:.0f} bytes for each call")
    for name, daemon in cluster.daemons.items():
        print(
            f"daemon {name}: {len(_of(calls, name))} calls, {daemon.descriptors()} descriptors, "
            f"{daemon.resident_kb() / 1024:.1f} MiB resident"
        )
