"""Parties that speak ICE, DTLS and SRTP by themselves, each on foreign libraries, driven by one asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from systemlab import stunclient
from systemlab.daemon import PATIENCE_S
from systemlab.dtlsside import Association, Identity
from systemlab.media import PAYLOAD, Address, Dialogue, Media, Party, Section, sender_report
from systemlab.ngclient import Reply, drain
from systemlab.srtpside import Receiver, Refused, Sdes, Sender
from systemlab.stunclient import Credentials

REPEAT_S = 0.05
OTHER_ROLE = {"active": "passive", "passive": "active"}


class NotConnectedError(AssertionError):
    """Parties that should be able to speak are not."""


async def until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> bool:
    """Let everybody go on until the condition holds; False if it did not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


class Channel:
    """One socket of a party: what arrives there is told apart (RFC 7983), verified, and put down in the media."""

    def __init__(self, media: Live, sock: socket.socket, component: int) -> None:
        self.media = media
        self.socket = sock
        self.component = component
        self.association: Association | None = None
        self.sender: Sender | None = None
        self.receiver: Receiver | None = None
        self.valid = False
        self.responses: list[stunclient.Response] = []
        self.checks: list[Address] = []

    @property
    def remote(self) -> Address:
        """Where the relay wants what this socket sends."""
        assert self.media.remote
        return self.media.remote.rtcp_endpoint if self.component == 2 else self.media.remote.endpoint

    def read(self) -> None:
        """Take everything that waits."""
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram, source = self.socket.recvfrom(65535)
                self._take(datagram, source[:2])

    def _take(self, datagram: bytes, source: Address) -> None:
        first = datagram[0] if datagram else 255
        if stunclient.is_stun(datagram):
            self._take_stun(datagram, source)
        elif 20 <= first <= 63:
            self._take_dtls(datagram)
        elif 128 <= first <= 191:
            self._take_media(datagram)
        else:
            self.media.strange.append(datagram)

    def _take_stun(self, datagram: bytes, source: Address) -> None:
        ice, remote = self.media.ice, self.media.ice_remote
        if ice and stunclient.is_check(datagram, ice):
            self.checks.append(source)
            self.socket.sendto(stunclient.success(datagram, source, ice.pwd), source)
            return
        response = stunclient.parse_response(datagram, remote.pwd) if remote else None
        if response is None:
            self.media.strange.append(datagram)
            return
        self.responses.append(response)
        if response.code == 0 and response.authentic and not self.valid:
            self.valid = True
            self.start_dtls()

    def start_dtls(self) -> None:
        """Send the ClientHello if that is for this side to do."""
        if self.association and self.association.active and not self.association.connected:
            self.send_all(self.association.start())

    def _take_dtls(self, datagram: bytes) -> None:
        association = self.association
        if association is None:
            self.media.strange.append(datagram)
            return
        self.send_all(association.receive(datagram))
        if association.connected and self.sender is None and not association.failed:
            if association.peer_fingerprint != self.media.relay_fingerprint:
                association.failed = "the relay's certificate is not the one in its SDP"
                return
            send, receive = association.keys()
            self.sender, self.receiver = Sender(send), Receiver(receive)

    def _take_media(self, datagram: bytes) -> None:
        media = self.media
        is_rtcp = self.component == 2 or 192 <= datagram[1] <= 223
        media.raw.append(datagram)
        if media.secure:
            if self.receiver is None:
                media.refused += 1
                return
            try:
                datagram = (self.receiver.rtcp if is_rtcp else self.receiver.rtp)(datagram)
            except Refused:
                media.refused += 1
                return
        (media.heard_rtcp if is_rtcp else media.heard).append(datagram)

    @property
    def is_server(self) -> bool:
        """Whether the last flight of the handshake is ours."""
        return self.association is not None and not self.association.active

    @property
    def state(self) -> str:
        """How far this socket has got."""
        words = [f"{self.media.protocol} component {self.component}"]
        if self.media.ice:
            words.append(f"ICE {'valid' if self.valid else 'not valid'}")
        if self.association:
            words.append(f"DTLS connected {self.association.connected} {self.association.failed}")
        return ", ".join([*words, "keys" if self.sender and self.receiver else "no keys"])

    def send_all(self, datagrams: Iterable[bytes]) -> None:
        """Send what this socket has to say to the relay."""
        for datagram in datagrams:
            self.socket.sendto(datagram, self.remote)

    def send_check(self, **about: Any) -> None:
        """Send a connectivity check."""
        assert self.media.ice and self.media.ice_remote
        self.send_all([stunclient.check(self.media.ice, self.media.ice_remote, **about)])

    @property
    def pending(self) -> bool:
        """Whether something has to be repeated until it succeeds."""
        if self.media.checks and not self.valid:
            return True
        association = self.association
        return association is not None and not association.connected and not association.failed

    def repeat(self) -> None:
        """Say again what may have got lost."""
        if self.media.checks and not self.valid:
            self.send_check()
        elif self.association:
            self.send_all(self.association.repeat())


@dataclass
class Live(Media):
    """One media of a party, which speaks what its fields say: SDES, DTLS (with this identity), ICE, or plain RTP.

    ``setup`` is what it says in an offer, ``role`` what it takes where it has the choice. If it is ``lite`` it answers
    checks and sends none; its party says so.
    What the relay sends is in ``heard`` and ``heard_rtcp``, decrypted, and in ``raw`` as it came; ``refused`` counts
    what had no right tag, ``strange`` keeps what is none of STUN, DTLS, RTP and RTCP, or was not agreed on, and checks
    of who does not know the password.
    ``wire`` is its own RTP, as it went out. As long as it is ``quiet`` it neither sends nor reads
    anything; ``begin()`` ends that.
    """

    sdes: Sdes | None = None
    dtls: Identity | None = None
    ice: Credentials | None = None
    lite: bool = False
    setup: str = "actpass"
    role: str = "active"
    said_fingerprint: str | None = None
    srtp_profiles: list[str] | None = None
    offers_mux: bool | None = None
    relay_fingerprint: str = ""
    relay_setup: str = ""
    ice_remote: Credentials | None = None
    heard: list[bytes] = field(default_factory=list)
    heard_rtcp: list[bytes] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    strange: list[bytes] = field(default_factory=list)
    wire: list[bytes] = field(default_factory=list)
    refused: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        self.channels = [Channel(self, sock, number) for number, sock in enumerate(self.sockets, 1)]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._association_of: tuple[object, ...] = ()

    @property
    def secure(self) -> bool:
        """Whether the party takes nothing but SRTP."""
        return self.sdes is not None or self.dtls is not None

    @property
    def checks(self) -> bool:
        """Whether the party has to check its way to the relay."""
        return self.ice_remote is not None and not self.lite

    @property
    def used(self) -> list[Channel]:
        """The channels that carry something."""
        return self.channels[:1] if self.mux else self.channels

    # Signalling

    def sdp(self) -> list[str]:
        """The lines of the section."""
        lines = super().sdp()
        if self.sdes:
            lines += self.sdes.lines(self.answering)
        if self.dtls:
            setup = self._own_role() if self.answering else self.setup
            lines += [f"a=setup:{setup}", f"a=fingerprint:{self.said_fingerprint or self.dtls.fingerprint()}"]
        if self.ice:
            lines += [f"a=ice-ufrag:{self.ice.ufrag}", f"a=ice-pwd:{self.ice.pwd}"]
            for channel in self.used:
                port = channel.socket.getsockname()[1]
                preference = 2130706431 - channel.component + 1
                lines.append(f"a=candidate:1 {channel.component} udp {preference} {self.address} {port} typ host")
        return lines

    def _own_role(self) -> str:
        """Of an association that goes on, the role in which it began (RFC 8842 5.3)."""
        return OTHER_ROLE.get(self.relay_setup) or self._kept_role or self.role

    @property
    def _kept_role(self) -> str:
        association = self.channels[0].association
        if association is None or self._association_of != self._about_association:
            return ""
        return "active" if association.active else "passive"

    @property
    def _about_association(self) -> tuple[object, ...]:
        """What a new association follows from when it changes."""
        return (self.dtls, self.relay_fingerprint, self.remote and self.remote.endpoint)

    def told(self, section: Section) -> None:
        """Take what the relay says, and begin with what follows from it."""
        self.mux = self.mux and section.mux
        super().told(section if self.mux else replace(section, lines=[x for x in section.lines if x != "a=rtcp-mux"]))
        if self.ice:
            self._told_ice(section)
        if self.sdes and section.port:
            self._told_sdes(section)
        if self.dtls and section.port:
            self._told_dtls(section)
        if not self.quiet:
            self.attach()
            self._repeat()

    def _told_sdes(self, section: Section) -> None:
        assert self.sdes
        self.sdes.told([line for line in section.lines if line.startswith("a=crypto:")], self.to_answer)
        assert self.sdes.sending and self.sdes.receiving
        for channel in self.channels:
            # who keeps a key keeps its indices too (RFC 3711 3.2.1)
            if channel.sender is None or channel.sender.keys != self.sdes.sending:
                channel.sender = Sender(self.sdes.sending)
            if channel.receiver is None or channel.receiver.keys != self.sdes.receiving:
                channel.receiver = Receiver(self.sdes.receiving)

    def _told_ice(self, section: Section) -> None:
        remote = Credentials(section.value("ice-ufrag"), section.value("ice-pwd"))
        if remote != self.ice_remote:
            for channel in self.channels:
                channel.valid = False
        self.ice_remote = remote

    def _told_dtls(self, section: Section) -> None:
        assert self.dtls
        self.relay_fingerprint, self.relay_setup = section.value("fingerprint"), section.value("setup")
        assert self.to_answer or self.relay_setup != "actpass", "no answer leaves the choice (RFC 5763 5)"
        active = self._own_role() == "active"
        if self._kept_role != ("active" if active else "passive"):
            self._association_of = self._about_association
            for channel in self.used:
                channel.sender = channel.receiver = None
                channel.association = Association(self.dtls, active=active, profiles=self.srtp_profiles)
            # An answerer has to wait until its answer is under way.
            if not self.to_answer:
                self.handshake()

    def handshake(self) -> None:
        """Begin with DTLS where nothing else has to come first."""
        for channel in self.used if not self.ice and not self.quiet else []:
            channel.start_dtls()

    def begin(self) -> None:
        """Be quiet no more; what came before finds nobody at home."""
        self.quiet = False
        for sock in self.sockets:
            drain(sock)
        self.attach()
        self.handshake()
        self._on_timer()

    # Packets

    def attach(self) -> None:
        """Have the running loop read the sockets."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            for channel in self.channels:
                channel.socket.setblocking(False)
                loop.add_reader(channel.socket.fileno(), channel.read)

    def detach(self) -> None:
        """Read no more."""
        if self._loop and not self._loop.is_closed():
            for channel in self.channels:
                self._loop.remove_reader(channel.socket.fileno())
        self._loop = None

    def _repeat(self) -> None:
        if self._loop and any(channel.pending for channel in self.used):
            self._loop.call_later(REPEAT_S, self._on_timer)

    def _on_timer(self) -> None:
        if self._loop:
            for channel in self.used:
                if channel.pending:
                    channel.repeat()
            self._repeat()

    @property
    def ready(self) -> bool:
        """Whether the party could speak."""
        if self.checks and not all(channel.valid for channel in self.used):
            return False
        return not self.secure or all(channel.sender and channel.receiver for channel in self.used)

    @property
    def rtcp_channel(self) -> Channel:
        """Where RTCP goes."""
        return self.used[-1]

    def send(self, packet: bytes | None = None, via: socket.socket | None = None) -> bytes:
        """Send RTP, protected as was agreed; return what it was before that."""
        packet = self.rtp_packet() if packet is None else packet
        sender = self.channels[0].sender
        assert sender or not self.secure, "no keys yet"
        self.wire.append(super().send(sender.rtp(packet) if sender else packet, via))
        return packet

    def send_rtcp(self, packet: bytes | None = None) -> bytes:
        """Send RTCP, protected as was agreed; return what it was before that."""
        packet = sender_report(self.ssrc) if packet is None else packet
        sender = self.rtcp_channel.sender
        assert sender or not self.secure, "no keys yet"
        super().send_rtcp(sender.rtcp(packet) if sender else packet)
        return packet

    def forget(self) -> None:
        """Begin the account anew."""
        for account in (self.heard, self.heard_rtcp, self.raw, self.strange):
            account.clear()
        self.refused = 0


@dataclass
class LiveDialogue(Dialogue):
    """A call between parties of this kind; each is spoken to as it speaks, unless a key says otherwise."""

    def _sdp_request(self, command: str, speaker: Party, listener: Party, keys: dict[str, Any]) -> list[Section]:
        first = listener.media[0]
        about: dict[str, Any] = {"ICE": "force" if isinstance(first, Live) and first.ice else "remove"}
        if command == "offer":
            about["transport_protocol"] = first.protocol
            about["rtcp_mux"] = ["offer" if first.mux else "demux"]
            about["address_family"] = f"IP{listener.family}"
        sections = super()._sdp_request(command, speaker, listener, {**about, **keys})
        if command == "answer":
            for media in speaker.media:
                if isinstance(media, Live) and media.remote:
                    media.handshake()
        return sections

    @property
    def sides(self) -> tuple[Live, Live]:
        """The first media of both."""
        caller, callee = self.caller.audio, self.callee.audio
        assert isinstance(caller, Live) and isinstance(callee, Live)
        return caller, callee

    async def connected(self, timeout_s: float = PATIENCE_S) -> LiveDialogue:
        """Wait until all media could speak."""
        media = [one for party in (self.caller, self.callee) for one in party.media if isinstance(one, Live)]
        if not await until(lambda: all(one.ready for one in media), timeout_s):
            raise NotConnectedError("; ".join(channel.state for one in media for channel in one.used))
        # Whose flight was the last has not heard yet whether it has arrived.
        if any(channel.is_server for one in media for channel in one.used):
            await until(lambda: "'handshake'" not in str(self.query()))
        return self

    async def set_up(self, **keys: Any) -> LiveDialogue:
        """Offer, answer, and wait for the handshakes."""
        self.place(**keys)
        return await self.connected()

    def streams(self, party: Party) -> list[Reply]:
        """What query says about the sockets that face a party, of its first media."""
        medias = self.query()["tags"][party.tag]["medias"]
        return list(medias[0]["streams"])


async def heard(sender: Live, receiver: Live, packets: int = 5) -> None:
    """Assert that RTP arrives as it was sent, in order, whatever protects it on the way."""
    receiver.forget()
    sent = []
    for _ in range(packets):
        sent.append(sender.send(sender.rtp_packet(PAYLOAD)))
        await asyncio.sleep(0.001)
    await until(lambda: len(receiver.heard) >= packets)
    assert receiver.heard == sent, f"{len(receiver.heard)} of {packets} heard, {receiver.refused} refused"
    assert not receiver.refused and not receiver.strange


async def rtcp_heard(sender: Live, receiver: Live, sent: bytes | None = None, kept: bytes | None = None) -> None:
    """Assert that a compound packet arrives, ``kept`` of it where not all is to arrive."""
    receiver.forget()
    compound = sender.send_rtcp(sent)
    await until(lambda: receiver.heard_rtcp)
    assert receiver.heard_rtcp == [compound if kept is None else kept]
    assert not receiver.refused and not receiver.heard


async def both_hear(dialogue: LiveDialogue, packets: int = 5) -> None:
    """Assert that RTP and RTCP pass both ways."""
    one, other = dialogue.sides
    for sender, receiver in ((one, other), (other, one)):
        await heard(sender, receiver, packets)
        await rtcp_heard(sender, receiver)


async def nothing_passes(sender: Live, receiver: Live, packets: int = 3) -> None:
    """Assert that not a byte of what one sends reaches the other."""
    receiver.forget()
    for _ in range(packets):
        sender.send()
    await asyncio.sleep(0.1)
    assert not receiver.raw
