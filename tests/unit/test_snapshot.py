"""Calls that go through a snapshot: all that the test tables make, and those that are more than a table can say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import TOOLS, FakeTransport
from roundtrip import WALL, restored
from test_peering import ANSWER, ELSEWHERE, TO_PHONE, A, B, Stage, audio, browser, check_of_a, local, place_browser_call

from rtpengine import snapshot
from rtpengine.call import Call
from rtpengine.dtls import Certificate, DtlsEndpoint
from rtpengine.media import Endpoint, Learning, Signalling, SrtpKeys
from rtpengine.memory import SourceMemory, SrtpMemory, StreamMemory
from rtpengine.snapshot import Restorer, SnapshotError, dump

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "data" / "snapshots"
TABLES = ("call", "table", "peering", "service", "rtpproxy_service", "openser_service", "securing", "report")
SDES = Signalling(protocol="RTP/SAVP")


@pytest.mark.timeout(280)
def test_every_call_of_the_tables_comes_back() -> None:
    files = [str(HERE / f"test_{name}.py") for name in TABLES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "roundtrip", "-p", "no:cacheprovider", *files]
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=HERE.parent.parent, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-4000:]
    found = re.search(r"(\d+) round trips", done.stdout)
    assert found is not None and int(found[1]) > 1000


def sdes_call(transport: FakeTransport) -> Call:
    call = Call("c", 0.0, Learning.HEURISTIC, transport, TOOLS)
    call.offer("a", [audio(A)], SDES, 1.0)
    return call


def test_what_sockets_have_learned_and_keys_been_used_for_comes_back() -> None:
    transport = FakeTransport()
    call = sdes_call(transport)
    (told,) = call.offer("a", [audio(A)], SDES, 1.5)
    answer = audio(B, "RTP/SAVP", crypto=(told.crypto[0]._replace(keys=_keys(told.crypto[0].keys)),))
    call.answer("a", "b", [answer], Signalling(), 2.0)
    memory = StreamMemory(ELSEWHERE, 4, True, identified=True, heard=True, ssrc=7, seq=9, packets=3, drops={"send": 1})
    transport.memories[30000] = memory
    used = SrtpMemory(told.crypto[0].keys, True, True, 5, (SourceMemory(7, 70000, 3, 5, 31),), b"\1" * 512)
    transport.srtp[30000] = (used,)
    for late in (False, True):
        copy = FakeTransport()
        Restorer(copy, TOOLS, late=late).restore(json.loads(json.dumps(dump(call, 3.0, WALL))), 3.0, WALL)
        assert copy.memories[30000] == memory
        assert copy.srtp[30000] == (used,)
        assert copy.late == {late}


def _keys(like: SrtpKeys) -> SrtpKeys:
    return like._replace(key=b"k" * len(like.key))


def test_times_are_ages_and_go_on_while_nobody_is_there() -> None:
    call = sdes_call(FakeTransport())
    call.ends_at = 100.0
    data = dump(call, 10.0, WALL)
    copy = Restorer(FakeTransport(), TOOLS, late=True).restore(data, 5000.0, WALL + 20)
    assert (copy.created, copy.last_signal, copy.ends_at) == (4970.0, 4971.0, 5070.0)
    assert [leg.created for leg in copy.legs] == [4971.0, 4971.0]
    back = Restorer(FakeTransport(), TOOLS, late=True).restore(data, 5000.0, WALL - 20)
    assert back.created == 4990.0, "a clock that was set back makes nothing younger"


def test_a_connected_browser_stays_connected_and_its_credentials_stay() -> None:
    stage = Stage()
    place_browser_call(stage)
    peer = DtlsEndpoint(stage.certificate, "passive", (stage.certificate.fingerprint,))
    stage.table.receive_stun("c", 30002, check_of_a(stage), ELSEWHERE, stage.now)
    (connected,) = stage.shake_hands(peer, 30002, ELSEWHERE)
    stage.sent(30002)
    copy, transport = restored(stage.call, stage.now)
    assert transport.keys[30002][1:] == (connected.send, connected.receive)
    assert not transport.sent, "nobody says hello again"
    (peering,) = copy.peerings()
    assert (peering.dtls_state(30002), peering.ice_state) == ("connected", "connected")
    assert peering.agent is not None and peering.agent.local == local(stage, 0)

    # The peer's records mean nothing to us now, and change nothing.
    for datagram in (b"\x17\xfe\xfd" + bytes(10) + b"\0\x02ab", b"\x15\xfe\xfd" + bytes(10) + b"\0\x02\1\0"):
        peering.receive_dtls(30002, datagram, ELSEWHERE, stage.now)
    assert peering.dtls_state(30002) == "connected" and not transport.sent
    peering.handle_timeout(stage.now + 100)
    peering.close()
    assert not transport.sent


def test_a_peer_that_says_hello_again_is_answered_after_the_restart() -> None:
    stage = Stage()
    place_browser_call(stage, setup="active")
    peer = DtlsEndpoint(stage.certificate, "active", (stage.certificate.fingerprint,))
    stage.table.receive_stun("c", 30002, check_of_a(stage), ELSEWHERE, stage.now)
    peer.start(Endpoint("198.51.100.2", 30002), stage.now)
    (first,) = stage.shake_hands(peer, 30002, ELSEWHERE)
    copy, transport = restored(stage.call, stage.now)
    assert transport.keys[30002][1:] == (first.send, first.receive)

    again = Stage()
    again.transport, again.table.transport = transport, transport
    again.table._calls["c"] = copy
    peer = DtlsEndpoint(stage.certificate, "active", (stage.certificate.fingerprint,))
    peer.start(Endpoint("198.51.100.2", 30002), stage.now)
    (second,) = again.shake_hands(peer, 30002, ELSEWHERE)
    assert transport.keys[30002][1:] == (second.send, second.receive)
    assert second.receive != first.receive


def test_another_certificate_in_a_reoffer_ends_what_was_resumed() -> None:
    stage = Stage()
    place_browser_call(stage)
    peer = DtlsEndpoint(stage.certificate, "passive", (stage.certificate.fingerprint,))
    stage.table.receive_stun("c", 30002, check_of_a(stage), ELSEWHERE, stage.now)
    stage.shake_hands(peer, 30002, ELSEWHERE)
    copy, _ = restored(stage.call, stage.now)
    other = stage.certificate.fingerprint._replace(digest=bytes(32))
    copy.offer("a", [browser(stage, fingerprints=(other,))], TO_PHONE, stage.now)
    copy.answer("a", "b", [audio(B)], ANSWER, stage.now)
    (peering,) = copy.peerings()
    assert peering.dtls_state(30002) != "connected"


def test_a_handshake_under_way_starts_over_with_the_same_certificate() -> None:
    stage = Stage()
    place_browser_call(stage)
    stage.table.receive_stun("c", 30002, check_of_a(stage), ELSEWHERE, stage.now)
    stage.sent(30002)
    other_tools = TOOLS._replace(certificate=lambda: pytest.fail("the call has one"))
    copy, transport = restored(stage.call, stage.now, other_tools)
    hello = [data for stream, to, data in transport.sent if (stream, to) == (30002, ELSEWHERE)]
    assert hello and all(data[0] == 22 for data in hello)
    assert copy.certificate.fingerprint == stage.certificate.fingerprint
    assert copy.certificate.memory == stage.certificate.memory


# What cannot be


def broken(change: Callable[[dict[str, Any]], Any]) -> Any:
    stage = Stage()
    place_browser_call(stage)
    data = json.loads(json.dumps(dump(stage.call, stage.now, WALL)))
    result = change(data["call"])
    return data if result is None else result


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: [], "no snapshot of a call"),
        (lambda c: {"call": c}, "no snapshot of a call"),
        (lambda c: {"version": 99, "call": c}, "version 99 is not 1"),
        (lambda c: {"version": 1}, "NoneType instead of a dictionary"),
        (lambda c: c.pop("saved") and None, "saved is missing"),
        (lambda c: c.update(legs="x"), "legs: str instead of a list"),
        (lambda c: c["sets"][0].update(port=0), "a port set that cannot be"),
        (lambda c: c["sets"][0]["streams"].append({}), "a port set that cannot be"),
        (lambda c: c["sets"][0].update(streams=[]), "a port set that cannot be"),
        (lambda c: c["sets"][1].update(port=c["sets"][0]["port"]), "port 30002 is in use"),
        (lambda c: c["sets"][1].update(family=5), "address family IP5 is not configured"),
        (lambda c: c["dialogues"][0].update(legs=[0, 7]), "a number that stands for nothing"),
        (lambda c: c["dialogues"][0].update(legs=[0, -1]), "a number that stands for nothing"),
        (lambda c: c["ports"][0]["sets"][0].__setitem__(1, 9), "a number that stands for nothing"),
        (lambda c: c["ports"][0]["applied"].update(party=5), "a number that stands for nothing"),
        (lambda c: c["legs"][0].update(active=-2), "a number that stands for nothing"),
        (lambda c: c["parties"][0].update(protocol="RTP/XYZ"), "KeyError in what was saved"),
        (lambda c: c["certificate"].update(key="AAAA"), None),
    ],
)
def test_wrong_data_is_refused_and_leaves_nothing_behind(change: Any, reason: str | None) -> None:
    transport = FakeTransport()
    with pytest.raises(SnapshotError) as caught:
        Restorer(transport, TOOLS, late=True).restore(broken(change), 1.0, WALL)
    assert transport.opened == {}
    assert reason is None or str(caught.value) == reason


def test_a_key_of_another_certificate_is_refused() -> None:
    one, other = (Certificate.generate(datetime.now(UTC)) for _ in range(2))
    assert Certificate.load(one.memory).fingerprint == one.fingerprint
    with pytest.raises(ValueError, match="not the certificate's"):
        Certificate.load(one.memory._replace(key=other.memory.key))
    assert repr(one.memory) == "CertificateMemory()"


def test_what_the_system_refuses_is_a_reason_too() -> None:
    class Refusing(FakeTransport):
        def restore(self, stream: int, memory: StreamMemory) -> None:
            raise OSError(22, "Invalid argument")

    transport = Refusing()
    with pytest.raises(SnapshotError, match=r"^Invalid argument$"):
        Restorer(transport, TOOLS, late=True).restore(broken(lambda c: None), 1.0, WALL)
    assert transport.opened == {}


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_what_former_versions_wrote_can_be_read(path: Path) -> None:
    data = json.loads(path.read_text())
    assert data["version"] in (snapshot.VERSION, snapshot.VERSION - 1), "remove the sample, it is too old"
    copy = Restorer(FakeTransport(), TOOLS, late=True).restore(data, 100.0, WALL)
    assert copy.call_id == "c" and len(copy.legs) == 2
