"""One DTLS association: its flights, and how they are repeated until the peer has got them.

OpenSSL's retransmission timer starts at a second of its own clock, too slow for a hello that went out before the way
was open. So flights are repeated here, by the time that callers pass in, and OpenSSL is only asked in passing whether
its timer is due too. Records in the clear get new sequence numbers for that, since the peer takes each number once.
The encrypted Finished cannot be renumbered: where the server's last flight was lost, the client gets it again when
OpenSSL has repeated its own Finished, after a second.
"""

from __future__ import annotations

from math import inf

from OpenSSL import SSL

from rtpengine.dtls_library import FormerSession, Session, matches
from rtpengine.dtls_records import ClientHello, Record, pack, parse_records, renumber, without_former_hello
from rtpengine.media import Endpoint, Fingerprint, SrtpKeys
from rtpengine.srtp import EXPORTER_LABEL, PROFILES, SUITES, split_exported

MAX_SENT = 1200

_MAX_SEQUENCE = 2**48 - 1

FIRST_RESEND_S = 0.075
MAX_RESEND_S = 2.0
HANDSHAKE_S = 30.0


class Association:
    """A session of the library with one remote.

    ``random`` tells one hello of a client from the next; it is empty where we are the client. ``validated``: the remote
    is the peer's for certain, as ICE or signalling say, so that another such remote is the same peer.
    """

    def __init__(self, context: SSL.Context, remote: Endpoint, now: float, validated: bool) -> None:
        self.session = Session(context, MAX_SENT)
        self.remote = remote
        self.random = b""
        self.validated = validated
        self.expires = now + HANDSHAKE_S
        self.resend_at = self.expires
        self._interval = FIRST_RESEND_S
        self._flight: list[Record] = []
        self._sequence = 0
        self._received = 0

    def accept(self, hello: ClientHello, records: list[Record]) -> None:
        """Be the server for a client whose hello begins with the first of these records; raise Failure."""
        self.random = hello.random
        # RFC 6347 4.2.1: the numbers before this one may have been used up by HelloVerifyRequests
        self._sequence = hello.record_sequence
        self._received = min(hello.record_sequence, _MAX_SEQUENCE // 2) + len(records)
        first, *rest = (record.data for record in records)
        self.session.accept(first, b"".join(rest), hello.message_sequence > 0 and hello.cookie != b"")

    def receive(self, records: list[Record]) -> None:
        """Take what has come from the remote; raise Failure.

        Records in the clear are numbered by their arrival: as nobody vouches for the numbers that they bear, a forged
        one with a high number would make OpenSSL take all that follow for replays.
        """
        data = b""
        for record in records:
            self._received += record.epoch == 0
            data += record.data if record.epoch else renumber(record, self._received)
        self.session.receive(data)

    @property
    def deadline(self) -> float | None:
        """When to look at it again; None once the handshake is finished."""
        return None if self.session.finished else min(self.resend_at, self.expires)

    @property
    def has_certificate(self) -> bool:
        """Whether the peer has shown one, which it has to be able to use if the right ones are known."""
        return self.session.peer_certificate is not None

    @property
    def suite(self) -> str | None:
        """The SDES name of what was negotiated; None if the peer wants no SRTP, or none that we know."""
        suite = PROFILES.get(self.session.profile)
        return suite.name if suite else None

    def export_keys(self, suite: str) -> tuple[SrtpKeys, SrtpKeys]:
        """What client and server protect with (RFC 5764 4.2)."""
        return split_exported(self.session.export(EXPORTER_LABEL, SUITES[suite].exported_len), suite)

    def is_one_of(self, fingerprints: tuple[Fingerprint, ...]) -> bool:
        """Whether the peer's certificate is among those described."""
        certificate = self.session.peer_certificate
        return certificate is not None and matches(certificate, fingerprints)

    def take_output(self, now: float) -> list[bytes]:
        """Datagrams with what the session has to say; until it has finished, that is a flight to be repeated."""
        records = without_former_hello(parse_records(self.session.take_output()))
        if records and not self.session.finished:
            self._flight = records
            self._interval = FIRST_RESEND_S
            self.resend_at = now + self._interval
        return self._datagrams(records)

    def resend(self, now: float) -> list[bytes]:
        """The last flight once more."""
        self.session.retransmit()
        self._flight = parse_records(self.session.take_output()) or self._flight
        self._interval = min(2 * self._interval, MAX_RESEND_S)
        self.resend_at = now + self._interval
        return self._datagrams(self._flight)

    def hurry(self) -> None:
        """Repeat quickly again, since the flights so far may have gone nowhere."""
        self._interval = FIRST_RESEND_S / 2

    def close(self) -> list[bytes]:
        """End it with close_notify, if there is anything to end."""
        if not self.session.finished:
            return []
        self.session.close()
        return self._datagrams(parse_records(self.session.take_output()))

    def _datagrams(self, records: list[Record]) -> list[bytes]:
        return pack(map(self._number, records), MAX_SENT)

    def _number(self, record: Record) -> bytes:
        if record.epoch:
            return record.data
        self._sequence += 1
        return renumber(record, self._sequence - 1)


class FormerAssociation(Association):
    """One that another process had, of which only the keys are left, and those are the packet path's.

    It holds the place until the peer or signalling begins another one.
    """

    def __init__(self, remote: Endpoint, suite: str, fingerprints: tuple[Fingerprint, ...], validated: bool) -> None:
        self.session = FormerSession()
        self.remote = remote
        self.random = b""
        self.validated = validated
        self.expires = self.resend_at = inf
        self._suite = suite
        self._fingerprints = fingerprints
        self._interval = FIRST_RESEND_S
        self._flight = []
        self._sequence = self._received = 0

    @property
    def suite(self) -> str | None:
        """The SDES name of what was negotiated."""
        return self._suite

    def is_one_of(self, fingerprints: tuple[Fingerprint, ...]) -> bool:
        """Whether signalling describes the certificate as it did then."""
        return any(fingerprint in self._fingerprints for fingerprint in fingerprints)
