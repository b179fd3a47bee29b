"""The four calls: what is signalled, what the parties do meanwhile, and what must come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from kernel_view import Ports
from measure import PATIENCE_NS, StreamResult, measure
from ng_client import Counters, NgClient, NgError, counters, suites
from phone import Activity, Phone
from phone_sdp import SECURE, PhoneSdp, address_type, parse, rewriting_faults
from report import StreamReport, live_line, progress_line
from screen import Screen
from secure_line import SecureLineError
from secure_phone import SecurePhone
from speech import FRAME_MS, PCMA, PCMU, Recording, write_wav

_IPV4, _IPV6 = "127.0.0.1", "::1"
_REFRESH_S = 0.2
# What has not arrived by then is lost, however busy the machine is.
_PATIENCE_S = 10.0


class Act(NamedTuple):
    """A stretch of a call that begins with an offer of Alice's and lasts ``frames`` times 20 ms."""

    doing: str
    frames: int
    alice: Activity = Activity.SPEAK
    bob: Activity = Activity.SPEAK
    direction: str = "sendrecv"
    null_address: bool = False


class CallPlan(NamedTuple):
    """A call from Alice at 127.0.0.1 to Bob at ``bob_host``; with ``secure`` Bob has what a browser has."""

    number: int
    title: str
    bob_host: str
    acts: tuple[Act, ...]
    secure: bool = False

    @property
    def frames(self) -> int:
        """Length of the call."""
        return sum(act.frames for act in self.acts)

    @property
    def longer(self) -> CallPlan:
        """The same call, so long that the kernel has most of it; with several acts it never gets it."""
        return self if len(self.acts) > 1 else self._replace(acts=(self.acts[0]._replace(frames=2 * self.frames),))


_HOLD = (
    Act("talking", 120),
    Act("on hold (a=sendonly), Bob silent", 75, Activity.SEND_SILENCE, Activity.LISTEN, direction="sendonly"),
    Act(
        "on hold (c=0.0.0.0), Bob not",
        50,
        Activity.SEND_SILENCE,
        Activity.SPEAK_UNHEARD,
        null_address=True,
    ),
    Act("resumed", 125),
)
PLANS = (
    CallPlan(1, "IPv4 to IPv4", _IPV4, (Act("talking", 245),)),
    CallPlan(2, "IPv4 to IPv6", _IPV6, (Act("talking", 245),)),
    CallPlan(3, "hold and resume by re-INVITE", _IPV4, _HOLD),
    CallPlan(4, "plain RTP to DTLS-SRTP with ICE", _IPV4, (Act("talking", 245),), secure=True),
)


class CallOutcome(NamedTuple):
    """What a call came to; ``faults`` are those that no single stream knows of."""

    streams: list[StreamReport]
    faults: list[str]


class DemoCall:
    """One call through the daemon behind ``ng``, whose media ports must lie in ``ports``.

    ``forwarded`` tells how many packets the kernel has forwarded by port, None where it has no part in this.
    """

    def __init__(
        self, plan: CallPlan, ng: NgClient, ports: range, screen: Screen, forwarded: Callable[[], Ports] | None
    ) -> None:
        self._plan = plan
        self._ng = ng
        self._ports = ports
        self._forwarded = forwarded
        self._screen = screen
        self._keys = {"call-id": f"demo-call-{plan.number}@{_IPV4}", "from-tag": "alice-tag"}
        self._version = 0
        self._faults: list[str] = []

    def run(self, alice_says: Recording, bob_says: Recording, output: Path) -> CallOutcome:
        """Place the call and end it; NgError if the daemon refuses. Writes what both heard into ``output``."""
        bob_has = SecurePhone if self._plan.secure else Phone
        with Phone("Alice", _IPV4, alice_says) as alice, bob_has("Bob", self._plan.bob_host, bob_says) as bob:
            done = 0
            for act in self._plan.acts:
                self._signal(act, alice, bob)
                self._play(act, alice, bob, done)
                done += act.frames
            _await(lambda: _all_heard(alice, bob) and _all_heard(bob, alice))
            time.sleep(PATIENCE_NS / 1e9)
            reply = self._ng.request("query", self._keys)
            by_kernel = self._forwarded() if self._forwarded else None
            self._ng.request("delete", self._keys)
        streams = [self._report(alice, bob, output), self._report(bob, alice, output)]
        self._show(streams)
        self._compare_counters(reply, alice, bob)
        if by_kernel is not None:
            self._show_kernel(by_kernel, alice, bob)
        return CallOutcome(streams, [f"call {self._plan.number}: {fault}" for fault in self._faults])

    def _signal(self, act: Act, alice: Phone, bob: Phone) -> None:
        """Exchange offer and answer through the daemon, as a SIP proxy does for an INVITE and its 200."""
        self._version += 1
        offer = PhoneSdp("alice", alice.address, _formats(alice), self._version, act.direction, act.null_address)
        keys: dict[str, object] = {"address family": address_type(bob.address.host)}
        if bob.address.host == _IPV6:
            keys["direction"] = ["internal", "external"]
        if bob.protocol == SECURE:
            keys |= {"transport protocol": SECURE, "ICE": "force", "rtcp-mux": ["offer"]}
        self._tell("offer", offer, bob, keys)
        answer_direction = {"sendonly": "recvonly"}.get(act.direction, act.direction)
        answer = PhoneSdp(
            "bob", bob.address, _formats(bob), self._version, answer_direction,
            protocol=bob.protocol, attributes=bob.attributes,
        )  # fmt: skip
        self._tell("answer", answer, alice, {"to-tag": "bob-tag", "address family": "IP4"})
        if self._version == 1:
            self._screen.say(f"  Bob was told {bob.told.rtp} instead of Alice's {alice.address},")
            self._screen.say(f"  Alice was told {alice.told.rtp} instead of Bob's {bob.address}")
            if isinstance(bob, SecurePhone):
                self._secure(bob)

    def _secure(self, phone: SecurePhone) -> None:
        """Let a phone agree with the daemon on keys, and show which."""
        try:
            phone.connect()
        except SecureLineError as error:
            raise NgError(f"{phone.name}'s phone: {error}") from error
        secured = phone.secured
        self._screen.say(f"  {phone.name}'s phone found the daemon by ICE; its certificate has the right fingerprint")
        self._screen.say(f"  {secured.dtls}, {secured.cipher}; SRTP suite {secured.suite}")

    def _tell(self, command: str, body: PhoneSdp, recipient: Phone, keys: dict[str, object]) -> None:
        """Send ``body`` through the daemon to ``recipient``."""
        request = {
            **self._keys,
            "sdp": body.serialize(),
            "flags": ["trust address"],
            "replace": ["origin", "session connection"],
            "ICE": "remove",
            "received from": [address_type(body.rtp.host), body.rtp.host],
            **keys,
        }
        recipient.told = parse(str(self._ng.request(command, request).get("sdp", "")))
        if not recipient.told.rtp.port:
            raise NgError(f"{recipient.name} was told no media port after the {command}")
        faults = rewriting_faults(body, recipient.told, recipient.address.host, self._ports, recipient.protocol)
        self._faults += [f"{recipient.name}'s SDP after the {command}: {fault}" for fault in faults]

    def _play(self, act: Act, alice: Phone, bob: Phone, done: int) -> None:
        """Let both act at the same time, and show how it goes."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            start = time.monotonic()
            try:
                parties = [
                    pool.submit(alice.act, act.alice, act.frames, start),
                    pool.submit(bob.act, act.bob, act.frames, start),
                ]
                self._watch(parties, act, alice, bob, start, done)
            except BaseException:
                # Or the pool would wait, after Ctrl-C, for parties who talk on.
                alice.hang_up()
                bob.hang_up()
                raise
        # The last packet has its 20 ms too before anything is signalled, and more where the daemon is late.
        time.sleep(FRAME_MS / 1000)
        _await(lambda: self._has_counted_all(alice, bob))

    def _has_counted_all(self, alice: Phone, bob: Phone) -> bool:
        reply = self._ng.request("query", self._keys)
        return counters(reply, "alice-tag") == _sent(alice) and counters(reply, "bob-tag") == _sent(bob)

    def _watch(
        self, parties: Sequence[Future[None]], act: Act, alice: Phone, bob: Phone, start: float, done: int
    ) -> None:
        while not all(party.done() for party in parties):
            time.sleep(_REFRESH_S)
            played = min(act.frames, int((time.monotonic() - start) * 1000 / FRAME_MS))
            self._screen.update(
                [
                    progress_line(done + played, self._plan.frames, act.doing),
                    live_line(*_live(alice, bob)),
                    live_line(*_live(bob, alice)),
                ]
            )
            for party in parties:
                if party.done():
                    party.result()  # raises what the party met with

    def _show(self, streams: Sequence[StreamReport]) -> None:
        """The final figures, in place of the live ones."""
        for stream in streams:
            self._screen.say(live_line(stream.name, stream.result))
        for stream in streams:
            if stream.result.withheld and not stream.result.stray:
                self._screen.say(
                    f"  None of the {stream.result.withheld} packets that {stream.speaker} sent while on hold "
                    f"reached {stream.listener}"
                )

    def _compare_counters(self, reply: Mapping[str, Any], alice: Phone, bob: Phone) -> None:
        """Compare what the daemon says to have received, in its ``reply`` to a query, with what the parties sent."""
        for phone, tag in ((alice, "alice-tag"), (bob, "bob-tag")):
            counted, sent = counters(reply, tag), _sent(phone)
            if counted == sent:
                self._screen.say(f"  The daemon counted {counted} from {phone.name}, as many as were sent")
            else:
                self._faults.append(f"the daemon counted {counted} from {phone.name}, who sent {sent}")
            if isinstance(phone, SecurePhone) and suites(reply, tag) != {phone.secured.suite}:
                self._faults.append(f"the daemon names another suite for {phone.name}: {suites(reply, tag)}")

    def _show_kernel(self, by_kernel: Ports, alice: Phone, bob: Phone) -> None:
        """Say how many packets the daemon has not even seen; in a call that is left alone there have to be some."""
        for phone in (alice, bob):
            packets = by_kernel.get((address_type(phone.address.host)[-1], phone.told.rtp.port), 0)
            self._screen.say(f"  The kernel forwarded {packets} of them from {phone.name}")
            if not packets and len(self._plan.acts) == 1:
                self._faults.append(f"the kernel forwarded nothing from {phone.name}")

    def _report(self, speaker: Phone, listener: Phone, output: Path) -> StreamReport:
        result = measure(speaker.law, speaker.said, listener.heard)
        wav = output / f"call{self._plan.number}-{listener.name.lower()}-heard.wav"
        write_wav(wav, result.heard)
        unharmed = [report for report in listener.reports_heard if report in speaker.reports_sent]
        return StreamReport(
            self._plan.number,
            speaker.name,
            listener.name,
            speaker.address.host,
            listener.address.host,
            result,
            len(speaker.reports_sent),
            len(unharmed),
            wav,
        )


def _await(condition: Callable[[], bool]) -> None:
    """Return when something holds, or has not for long enough: what that means is told later."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(FRAME_MS / 1000)


def _all_heard(speaker: Phone, listener: Phone) -> bool:
    reports_too = len(listener.reports_heard) >= len(speaker.reports_sent)
    return reports_too and not measure(speaker.law, list(speaker.said), list(listener.heard)).lost


def _live(speaker: Phone, listener: Phone) -> tuple[str, StreamResult]:
    # Copies, because both lists grow meanwhile; first what was heard, so that all of it has been said.
    heard = list(listener.heard)
    return f"{speaker.name} > {listener.name}", measure(speaker.law, list(speaker.said), heard, time.time_ns())


def _sent(phone: Phone) -> Counters:
    """What the daemon should have received."""
    packets, reports = len(phone.said), len(phone.reports_sent)
    return Counters(shared=packets + reports) if isinstance(phone, SecurePhone) else Counters(packets, reports)


def _formats(phone: Phone) -> tuple[int, ...]:
    """Both halves of G.711, the phone's own first: RFC 3264 lets each party send what it likes of the two."""
    return tuple(sorted((PCMU.payload_type, PCMA.payload_type), key=lambda number: number != phone.law.payload_type))
