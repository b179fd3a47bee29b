"""What a stranger who reaches the control port can do to the calls of others (security.md 2, rule 7, and 3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import bencodepy
import pytest
from attacks.scene import Attack, Outcome, Scene
from attacks.table import MEASURED, MODES
from systemlab.daemon import Daemon
from systemlab.netns import Lab
from systemlab.ngclient import NgClient, NoReplyError, decode, encode

PORTS = range(30000, 31000)
OPTIONS = (f"--port-min={PORTS.start}", f"--port-max={PORTS.stop - 1}", "--log-level=4")
OFFERS = 100_000
BOMBS = {
    "lists": b"l" * 65000,
    "dictionaries": b"d1:a" * 16000,
    "both": b"d1:al" * 13000,
    "closed": b"d7:command4:ping1:x" + b"l" * 32000 + b"e" * 32000 + b"e",
    "numbers": b"d7:command4:ping1:xi" + b"9" * 65000 + b"ee",
    "length": b"d7:command" + b"9" * 65000 + b":pinge",
    "keys": b"d7:command5:offer" + b"".join(b"4:%04di%de" % (i, i) for i in range(5000)) + b"e",
}
SDP = "v=0\r\no=- 1 1 IN IP4 198.51.100.31\r\ns=-\r\nc=IN IP4 198.51.100.31\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"

Strike = Callable[[], None]


@pytest.fixture
def under(daemon: Daemon, lab: Lab) -> Iterator[Callable[[str, Strike], Outcome]]:
    """Attack the control port while two talk: what it has done to their call, for the table too."""

    def run(name: str, strike: Strike) -> Outcome:
        async def scenario(scene: Scene) -> Outcome:
            await scene.set_up()
            striking = asyncio.create_task(asyncio.to_thread(strike))
            up = await scene.talk()
            while not striking.done():
                up &= await scene.talk()
                scene.account()
            await striking
            outcome = await scene.judge()
            return outcome._replace(up=outcome.up and up)

        async def nothing(_: Scene) -> None: ...

        scene = Scene(lab, daemon, Attack(f"control: {name}", nothing), "RTP", PORTS)
        try:
            outcome = asyncio.run(scenario(scene))
        finally:
            scene.close()
        MEASURED[f"control: {name}", MODES[0], "RTP"] = outcome
        return outcome

    yield run


@pytest.fixture
def stranger(daemon: Daemon) -> NgClient:
    """Somebody else at the control port."""
    return daemon.client("127.0.0.66")


def _answered(client: NgClient, payload: bytes) -> tuple[dict[str, Any], float]:
    start = time.monotonic()
    return client.exchange(payload), time.monotonic() - start


@pytest.mark.parametrize("bomb", BOMBS)
def test_bencode_bomb(under: Callable[[str, Strike], Outcome], stranger: NgClient, daemon: Daemon, bomb: str) -> None:
    """64 KiB of nesting or digits cost one clear error, and no time to speak of."""
    resident = daemon.resident_kb()
    took = []

    def strike() -> None:
        for _ in range(5):
            reply, seconds = _answered(stranger, BOMBS[bomb])
            assert reply["result"] == "error"
            took.append(seconds)

    assert under(f"bencode bomb, {bomb}", strike) == Outcome()
    assert min(took) < 0.1
    assert daemon.resident_kb() - resident < 10_000


@pytest.mark.parametrize("key", ["call-id", "from-tag", "to-tag", "via-branch"])
def test_60_kb_identifier(under: Callable[[str, Strike], Outcome], stranger: NgClient, key: str) -> None:
    def strike() -> None:
        about = {"call-id": "x", "from-tag": "f", "to-tag": "t", "via-branch": "v", key: "x" * 60_000}
        for command in ("offer", "answer", "delete", "query"):
            reply = stranger.request({**about, "command": command, "sdp": SDP})
            assert reply["result"] == "error", command
            assert len(str(reply)) < 200, "nothing of it is sent back"

    assert under(f"60 kB {key}", strike) == Outcome()


def test_offers_until_the_ports_run_out(
    under: Callable[[str, Strike], Outcome], stranger: NgClient, daemon: Daemon
) -> None:
    """100,000 of them; each one too many is told so, running calls go on, and everything comes back."""
    resident, reasons = daemon.resident_kb(), set()
    placed: list[int] = []

    def strike() -> None:
        head, tail = encode({"command": "offer", "from-tag": "f", "sdp": SDP})[:-1], b"7:call-id%d:%be"
        names = (b"flood%d" % number for number in range(OFFERS))
        for index, payload in stranger.pipeline((head + tail % (len(n), n) for n in names), window=64, timeout_s=10):
            if b"2:ok" in payload:
                placed.append(index)
            else:
                reasons.add(decode(bencodepy.decode(payload))["error-reason"])

    assert under(f"{OFFERS:,} offers", strike) == Outcome()
    assert reasons == {"Ran out of ports"}
    assert 200 < len(placed) <= len(PORTS) // 4
    assert daemon.resident_kb() - resident < 30_000
    for number in placed:
        stranger.ok("delete", call_id=f"flood{number}", from_tag="f", delete_delay=0)
    descriptors = daemon.descriptors()
    assert descriptors < 100, "all sockets are closed again"
    stranger.ok("offer", call_id="after", from_tag="f", sdp=SDP)
    stranger.ok("delete", call_id="after", from_tag="f", delete_delay=0)


def test_cookie_used_again_from_another_source(
    under: Callable[[str, Strike], Outcome], stranger: NgClient, daemon: Daemon
) -> None:
    """It is another request: neither does it get the reply of the first, nor is the first one's lost."""
    victim = daemon.client()

    def strike() -> None:
        offer = encode({"command": "offer", "call-id": "cookie", "from-tag": "f", "sdp": SDP})
        cookie = victim.send(offer)
        first = victim.receive(cookie)
        assert b"2:ok" in first
        assert stranger.exchange(b"d7:command4:pinge", cookie) == {"result": "pong"}
        with pytest.raises(NoReplyError):
            stranger.receive(cookie, 0.05)
        assert victim.receive(victim.send(offer, cookie)) == first
        victim.ok("delete", call_id="cookie", from_tag="f", delete_delay=0)

    assert under("cookie used again", strike) == Outcome()
