"""Fuzz target: one DTLS port between its party and strangers, who send anything, alter their handshakes, and spoof.

What strangers send from their own addresses never keeps the party from connecting, yields no keys, and gets fewer
bytes in return than it took until a cookie has come back. What anybody sends, with the party's address even, changes
nothing once the party is connected. OpenSSL's randomness is not the fuzzer's: an input may go other ways next time.
"""

from __future__ import annotations

from datetime import UTC, datetime

from reader import Reader

from rtpengine.dtls import (
    ACTIVE,
    MAX_UNVERIFIED,
    PASSIVE,
    Certificate,
    DtlsClosed,
    DtlsConnected,
    DtlsEndpoint,
)
from rtpengine.dtls_records import parse_records
from rtpengine.media import Endpoint

MAX_STEPS = 30
# Of half a second: all before the party gives up.
MAX_ROUNDS = 40

OURS, THEIRS, OTHERS = (Certificate.generate(datetime.now(UTC)) for _ in range(3))
US, PARTY = Endpoint("198.51.100.2", 30000), Endpoint("192.0.2.1", 4000)
STRANGERS = (
    Endpoint("192.0.2.1", 4002),
    *(Endpoint(f"203.0.113.{number}", 6000 + number) for number in range(6)),
    Endpoint("2001:db8::9", 6000),
)


def one_input(data: bytes) -> None:
    """One port from its beginning until the party is connected, or cannot be any more."""
    port = _Port(Reader(data))
    for _ in range(MAX_STEPS):
        if not port.reader:
            break
        port.step()
    port.finish()


class _Port:
    """Our endpoint, the party's and a stranger's."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        mode = reader.number()
        self._role, party_role = (ACTIVE, PASSIVE) if mode & 1 else (PASSIVE, ACTIVE)
        self._ice = bool(mode & 2)
        self._now = 1000.0
        self._ours = DtlsEndpoint(OURS, self._role, (THEIRS.fingerprint,))
        self._party = DtlsEndpoint(THEIRS, party_role, (OURS.fingerprint,))
        self._stranger = DtlsEndpoint(OTHERS, party_role, (OURS.fingerprint,))
        self._to_us: list[bytes] = []
        self._to_party: list[bytes] = []
        self._from_stranger: list[bytes] = []
        self._balance: dict[Endpoint, int] = {}
        self._spoofed = False
        self._connected: DtlsConnected | None = None
        self._start()

    def _start(self) -> None:
        if self._role == ACTIVE:
            self._ours.start(PARTY, self._now)
        else:
            self._party.start(US, self._now)
            self._stranger.start(US, self._now)
        self._collect()

    def step(self) -> None:
        """Something happens, as the input says."""
        match self.reader.number() % 8:
            case 0:
                self._receive(self._choose_stranger(), self.reader.octets(self.reader.number(2) % 1500))
            case 1 | 2:
                self._receive(self._choose_stranger(), self._record())
            case 3:
                self._alter()
            case 4:
                self._exchange()
            case 5:
                self._spoofed = self._spoofed or self._connected is None
                self._receive(PARTY, self._record())
            case 6:
                self._pass(self.reader.number() / 1000)
            case 7:
                self._lose(self.reader.number())

    def finish(self) -> None:
        """Without anybody at its address, the party connects; and stays so."""
        for _ in range(MAX_ROUNDS):
            if self._connected or self._spoofed:
                break
            self._exchange()
            self._pass(0.5)
        assert self._spoofed or self._connected, "strangers have kept the party out"
        self._ours.close()
        assert self._ours.state == "closed" and self._ours.deadline is None

    def _choose_stranger(self) -> Endpoint:
        return STRANGERS[self.reader.number() % len(STRANGERS)]

    def _record(self) -> bytes:
        """A record, most often one that has a sound header."""
        kind, epoch = 20 + self.reader.number() % 6, self.reader.number() % 3
        payload = self.reader.octets(self.reader.number() * 2)
        header = bytes([kind, 0xFE, 0xFD - self.reader.number() % 3]) + epoch.to_bytes(2, "big")
        return header + self.reader.number(2).to_bytes(6, "big") + len(payload).to_bytes(2, "big") + payload

    def _alter(self) -> None:
        """A stranger that speaks DTLS well, but for one byte, the end, or the order."""
        if not self._from_stranger:
            return
        datagram = bytearray(self._from_stranger[self.reader.number() % len(self._from_stranger)])
        how, at = self.reader.number(), self.reader.number(2) % len(datagram)
        if how & 1:
            datagram[at] ^= how
        if how & 2:
            del datagram[at:]
        self._receive(STRANGERS[how >> 4 & 1], bytes(datagram))

    def _lose(self, which: int) -> None:
        """Some of what waits for us is lost, but no Finished: OpenSSL repeats that by a clock of its own."""
        self._to_us = [
            datagram
            for number, datagram in enumerate(self._to_us)
            if not which >> number & 1 or any(record.epoch for record in parse_records(datagram))
        ]

    def _receive(self, source: Endpoint, datagram: bytes) -> None:
        """A datagram that is not the party's."""
        before = self._ours.state, self._ours.suite
        self._balance[source] = self._balance.get(source, 0) + len(datagram)
        self._ours.receive(datagram, source, self._now)
        self._collect()
        if before[0] == "connected":
            assert (self._ours.state, self._ours.suite) == before

    def _exchange(self) -> None:
        """What waits for us and for the party arrives."""
        to_us, self._to_us = self._to_us, []
        for datagram in to_us:
            self._ours.receive(datagram, PARTY, self._now, self._ice)
        to_party, self._to_party = self._to_party, []
        for datagram in to_party:
            self._party.receive(datagram, US, self._now)
        self._collect()

    def _pass(self, seconds: float) -> None:
        self._now += seconds
        for endpoint in (self._ours, self._party, self._stranger):
            endpoint.handle_timeout(self._now)
        self._collect()

    def _collect(self) -> None:
        """Carry what is said to whom it is said."""
        for remote, datagram in self._ours.take_output():
            assert parse_records(datagram) and len(datagram) <= 1200
            if remote == PARTY:
                self._to_party.append(datagram)
            else:
                self._answer_stranger(remote, datagram)
        for event in self._ours.take_events():
            assert not isinstance(event, DtlsClosed), "somebody has ended the party's association"
            if isinstance(event, DtlsConnected):
                self._on_connected(event)
        self._to_us += [datagram for _, datagram in self._party.take_output()]
        self._from_stranger += [datagram for _, datagram in self._stranger.take_output()]
        del self._from_stranger[:-MAX_UNVERIFIED]

    def _answer_stranger(self, remote: Endpoint, datagram: bytes) -> None:
        self._balance[remote] = self._balance.get(remote, 0) - len(datagram)
        if remote in STRANGERS[:2]:
            # this one returns cookies, and so may get as much as it likes
            self._stranger.receive(datagram, US, self._now)
        else:
            assert self._balance[remote] >= 0, "more goes to a stranger than came from there"

    def _on_connected(self, event: DtlsConnected) -> None:
        assert event.remote == PARTY and event.receive != event.send
        self._connected = event
