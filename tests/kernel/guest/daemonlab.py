"""The real daemon and its parties in the lab's guest: what the system tests have, and what the kernel says about it.

A check file names this module in ``pytest_plugins`` and has the fixtures of the system tests. The relay's host in
``lab`` has the module's files, as every network namespace has; ``ruled`` leads its packets there.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from conftest import rules
from network import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests" / folder) for folder in ("system", "packetpath")]

import srtp_model  # noqa: E402
from systemlab import srtpside  # noqa: E402
from systemlab.daemon import Daemon, wait_until  # noqa: E402
from systemlab.live import Live, LiveDialogue  # noqa: E402
from systemlab.media import PAYLOAD, Address, Party, Section, receive, rtp  # noqa: E402
from systemlab.netns import Host, Lab  # noqa: E402
from systemlab.srtpside import Keys, Sdes, Suite  # noqa: E402

from rtpengine.srtp import SUITES  # noqa: E402

pytest_plugins = ["systemlab.fixtures"]

PORTS = ("--port-min=30000", "--port-max=30999")
NFT = ("iptables-nft", "ip6tables-nft")
PROC = Path("/proc/mediaproxy")

# As srtp_model names them.
SHAPES = {
    "AES_CM_128_HMAC_SHA1_80": "CM128-80",
    "AES_CM_128_HMAC_SHA1_32": "CM128-32",
    "AES_192_CM_HMAC_SHA1_80": "CM192-80",
    "AES_256_CM_HMAC_SHA1_80": "CM256-80",
    "F8_128_HMAC_SHA1_80": "F8-80",
    "F8_128_HMAC_SHA1_32": "F8-32",
    "NULL_HMAC_SHA1_80": "NULL-80",
    "NULL_HMAC_SHA1_32": "NULL-32",
    "AEAD_AES_128_GCM": "GCM128",
}
SUITE_OF = {shape: suite for suite, shape in SHAPES.items()}
ALL_SUITES = f"--srtp-suites={','.join(SHAPES)}"
for _suite in SUITES.values():
    # What libsrtp has no profile for can be negotiated nevertheless.
    srtpside.SUITES.setdefault(_suite.name, Suite(0, _suite.key_len, _suite.salt_len, _suite.tag_len))


# What the kernel says


class Forwarded(NamedTuple):
    """A target as N/list shows it: whom its packets come from, what it sends from and where to, what it has done."""

    expect: Address
    source: Address
    destination: Address
    packets: int
    octets: int
    errors: int


_TARGET = re.compile(
    r"^port +\d+:\n +src (.*)\n +dst (.*)\n +local (.*)\n +expect (.*)\n"
    r" +stats: +(\d+) bytes, +(\d+) packets, +(\d+) errors\n",
    re.MULTILINE,
)


def _address(shown: str) -> Address:
    address, _, port = shown.partition(" ")[2].rpartition(":")
    return str(ipaddress.ip_address(address.strip("[]"))), int(port)


def read(host: Host, file: str) -> str:
    """A file of /proc/mediaproxy, as seen from a host."""
    with host.inside():
        return (PROC / file).read_text()


def forwarded(host: Host, number: int = 0) -> dict[Address, Forwarded]:
    """The targets of a table, by where their packets arrive."""
    found = {}
    for source, destination, local, expect, octets, packets, errors in _TARGET.findall(read(host, f"{number}/list")):
        ends = (_address(shown) for shown in (expect, source, destination))
        found[_address(local)] = Forwarded(*ends, int(packets), int(octets), int(errors))
    return found


def control(host: Host, command: str) -> None:
    """Write to the file that makes and removes tables."""
    with host.inside(), open(PROC / "control", "w") as file:
        file.write(command)


@contextmanager
def ruled(host: Host, number: int = 0, *match: str, commands: Sequence[str] = NFT) -> Iterator[None]:
    """Lead UDP that a host receives to a table of its."""
    made = rules(*commands, number=number, match=match)
    with host.inside():
        made.__enter__()
    try:
        yield
    finally:
        with host.inside():
            made.__exit__()


@contextmanager
def table_of(daemon: Daemon, number: int = 0) -> Iterator[Daemon]:
    """Of a daemon that ends with this block, remove the table too."""
    try:
        yield daemon
        assert daemon.stop() == 0, daemon.log[-5000:]
        assert "Traceback" not in daemon.log, daemon.log[-5000:]
    finally:
        daemon.kill()
        control(daemon.lab.relay, f"del {number}\n")


# Parties


@lru_cache(None)
def _session(keys: Keys) -> srtp_model.Session:
    key_len = SUITES[keys.suite].key_len
    return srtp_model.Session.derived(SHAPES[keys.suite], keys.key[:key_len], keys.key[key_len:], rtcp=False)


class Spoken(NamedTuple):
    """An RTP packet of a party, and its index (RFC 3711 3.3.1) as if it always had the same keys."""

    index: int
    packet: bytes


@dataclass
class Phone(Live):
    """A party whose SRTP is srtp_model's, which tells what each packet looks like on the wire, whoever forwards it.

    ``index`` is its last one's; it begins where the sequence number is about to wrap. ``begun`` tells with which
    rollover each key's use has begun, since that counts from zero under each.
    """

    index: int = 65520
    begun: dict[Keys, int] = field(default_factory=dict)

    def _told_sdes(self, section: Section) -> None:
        assert self.sdes
        self.sdes.told([line for line in section.lines if line.startswith("a=crypto:")], self.to_answer)

    @property
    def ready(self) -> bool:
        """Whether the party could speak."""
        return self.sdes is not None or super().ready

    @property
    def sending(self) -> Keys | None:
        """The keys of what it sends."""
        return self.sdes.sending if self.sdes else self._negotiated(0)

    @property
    def receiving(self) -> Keys | None:
        """The keys of what it is sent."""
        return self.sdes.receiving if self.sdes else self._negotiated(1)

    def _negotiated(self, which: int) -> Keys | None:
        association = self.channels[0].association
        return association.keys()[which] if association else None

    def on_wire(self, spoken: Spoken, keys: Keys | None) -> bytes:
        """What a packet of this party is under some keys."""
        if keys is None:
            return spoken.packet
        rollover = spoken.index >> 16
        rollover -= self.begun.setdefault(keys, rollover)
        return srtp_model.protect(_session(keys), spoken.packet, rollover, keys.mki)

    def next(self, payload: bytes = PAYLOAD) -> Spoken:
        """Its next packet."""
        self.index += 1
        return Spoken(self.index, rtp(self.index, self.ssrc, payload, int(self.formats.split()[0])))

    def talk(self, count: int = 1, via: Any = None) -> list[Spoken]:
        """Send some packets to the relay, protected as was agreed."""
        keys, said = self.sending, [self.next() for _ in range(count)]
        for spoken in said:
            self.send_raw(self.on_wire(spoken, keys), via)
        return said

    def send_raw(self, data: bytes, via: Any = None) -> None:
        """Send this to the relay, from another socket than its own perhaps."""
        assert self.remote
        (via or self.rtp).sendto(data, self.remote.endpoint)

    def gets(self, count: int) -> list[tuple[bytes, Address]]:
        """So many datagrams and whom they come from, or what there is of them when no more comes.

        Handshakes that are repeated are passed over.
        """
        got: list[tuple[bytes, Address]] = []
        try:
            while len(got) < count:
                datagram, source = receive(self.rtp, PATIENCE_S)
                if datagram[0] >= 128:
                    got.append((datagram, source))
        except TimeoutError:
            pass
        return got


def due(speaker: Phone, listener: Phone, said: list[Spoken]) -> list[tuple[bytes, Address]]:
    """What the listener has to get of that: each byte, from the port that it was told."""
    assert listener.remote
    keys = listener.receiving
    return [(speaker.on_wire(spoken, keys), listener.remote.endpoint) for spoken in said]


def passes(speaker: Phone, listener: Phone, count: int = 5) -> list[tuple[bytes, Address]]:
    """Assert that packets arrive as they must look; return them."""
    said = speaker.talk(count)
    got = listener.gets(count)
    assert got == due(speaker, listener, said)
    return got


@dataclass
class Call(LiveDialogue):
    """A dialogue of phones on hosts A and B, through the daemon on ``host``."""

    host: Host = field(kw_only=True)

    @property
    def phones(self) -> tuple[Phone, Phone]:
        """The first media of both."""
        caller, callee = self.caller.audio, self.callee.audio
        assert isinstance(caller, Phone) and isinstance(callee, Phone)
        return caller, callee

    @property
    def directions(self) -> list[tuple[Phone, Phone]]:
        """Speaker and listener, both ways."""
        return [self.phones, self.phones[::-1]]

    @property
    def statuses(self) -> list[tuple[str, str]]:
        """Where the RTP of both is forwarded, and why in userspace."""
        ((one, other),) = self.query(from_tag=self.caller.tag)["streams"]
        return [(side["status"], side.get("userspace", "")) for side in (one, other)]

    @property
    def locals(self) -> list[Address]:
        """Where both send to."""
        return [phone.remote.endpoint for phone in self.phones if phone.remote]

    def goes_down(self, table: int = 0) -> bool:
        """Wait until the kernel forwards both ways."""
        return wait_for(lambda: set(self.locals) <= set(forwarded(self.host, table)))

    def close(self) -> None:
        """Close the sockets of both."""
        self.caller.close()
        self.callee.close()


def call(daemon: Daemon, caller: dict[str, Any], callee: dict[str, Any], families: tuple[int, int] = (4, 4)) -> Call:
    """A dialogue between hosts A and B through a daemon, not placed yet."""
    lab: Lab = daemon.lab
    parties = Party(lab.a, families[0]), Party(lab.b, families[1])
    for each, about in zip(parties, (caller, callee), strict=True):
        each.add(make=Phone, **{"quiet": "dtls" not in about, **about})
    return Call(daemon.ng, *parties, host=lab.relay)


def wait_for(condition: Callable[[], bool]) -> bool:
    """Poll at an emulated processor's pace."""
    return wait_until(condition, PATIENCE_S, 0.1)


def sdes(shape: str, mki: bytes = b"") -> Sdes:
    """One suite, by its model's name."""
    return Sdes([SUITE_OF[shape]], mki=mki)
