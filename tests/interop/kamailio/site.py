"""A site: the daemon, Kamailio in front of it over one of the two protocols, and people with phones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from systemlab.daemon import Daemon
from systemlab.media import Media, Party, relayed, rtcp_relayed
from systemlab.ngclient import Reply

from kamailio.network import Loopback, LossyWire
from kamailio.programs import Kamailio, Phone, sip_request

SERVER = Loopback(1)
MEDIA_PORTS = ("--port-min=30000", "--port-max=30999")
# Fast enough for a test: the sample files leave a daemon alone for as long as a site on a real network should.
NAMES = {
    "ng": {"RTPENGINE_DISABLE_S": "1"},
    "rtpproxy": {"RTPPROXY_DISABLE_S": "1"},
}
SOCKET = {"ng": "RTPENGINE_SOCK", "rtpproxy": "RTPPROXY_SOCK"}


@dataclass
class User:
    """Somebody with a phone, and what the phone hears and says."""

    phone: Phone
    audio: Media

    @property
    def direction(self) -> str | None:
        """The direction attribute of the last SDP."""
        assert self.audio.remote
        return self.audio.remote.direction

    def listen(self, count: int = 1) -> User:
        """Wait for the phone's SDP number ``count``, and from now on send media where it says."""
        self.audio.remote = self.phone.heard(count)
        return self


class Site:
    """Everything but the media on loopback, which the tests' own sockets send and receive."""

    def __init__(self, protocol: str, directory: Path) -> None:
        self.protocol = protocol
        self.directory = directory
        self._ports = {name: SERVER.free_port() for name in ("ng", "rtpproxy", "sip")}
        self.wire = LossyWire(SERVER, (SERVER.address(4), self._ports[protocol]))
        self._hosts = {name: Loopback(number) for number, name in enumerate(("alice", "bob", "carol"), 2)}
        self._parties: list[Party] = []
        self._phones: list[Phone] = []
        self._numbers = itertools.count(1)
        self.daemon: Daemon
        self.kamailio: Kamailio

    def __enter__(self) -> Site:
        self.wire.__enter__()
        return self

    def __exit__(self, *about: Any) -> None:
        self.hang_up()
        if hasattr(self, "kamailio"):
            self.kamailio.stop()
        if hasattr(self, "daemon"):
            self.daemon.kill()
        self.wire.__exit__(None, None, None)

    def start_daemon(self) -> Daemon:
        """Start the daemon, or its successor at the same addresses."""
        addresses = {name: f"{SERVER.address(4)}:{self._ports[name]}" for name in ("ng", "rtpproxy")}
        options = [f"--listen-udp={addresses['rtpproxy']}"] if self.protocol == "rtpproxy" else []
        lab: Any = SimpleNamespace(relay=SERVER)
        self.daemon = Daemon(lab, self.directory, *MEDIA_PORTS, *options, ng=addresses["ng"], ipv6=False)
        return self.daemon

    def start_kamailio(self, **other: str) -> Kamailio:
        """Start Kamailio, or its successor at the same address, with ``other`` values for the file's names."""
        host, port = self.wire.address
        names = {SOCKET[self.protocol]: f'"udp:{host}:{port}"', **NAMES[self.protocol], **other}
        directory = self.directory / f"kamailio-{next(self._numbers)}"
        directory.mkdir()
        configuration = f"kamailio-{self.protocol}.cfg"
        self.kamailio = Kamailio(configuration, directory, SERVER, self._ports["sip"], names)
        return self.kamailio

    def _user(self, name: str, scenario: str, **about: Any) -> User:
        host = self._hosts[name]
        party = Party(host)
        self._parties.append(party)
        audio = party.add()
        directory = self.directory / f"phone-{next(self._numbers)}"
        directory.mkdir()
        phone = Phone(name, host, directory, self.kamailio.address, scenario, audio.port, **about)
        self._phones.append(phone)
        return User(phone, audio)

    def callee(self, scenario: str, name: str = "bob", **about: Any) -> User:
        """A phone that waits for calls to the user bob, and has told Kamailio so."""
        user = self._user(name, scenario, **about)
        host, port = user.phone.address
        with self._hosts[name].udp(host) as sock:
            contact = f"Contact: <sip:{name}@{host}:{port}>\r\nExpires: 60\r\n"
            assert (
                sip_request(sock, self.kamailio.address, "REGISTER", f"sip:{SERVER.address(4)}", "bob", contact, 20)
                == 200
            )
        return user

    def caller(self, scenario: str, **about: Any) -> User:
        """A phone that calls bob at once."""
        return self._user("alice", scenario, callee="bob", **about)

    def hang_up(self) -> None:
        """End what is left of the phones, and forget them; bob is nowhere registered any more."""
        for phone in self._phones:
            phone.stop()
        for party in self._parties:
            party.close()
        self._phones.clear()
        self._parties.clear()
        if hasattr(self, "kamailio") and self.kamailio.alive:
            with SERVER.udp(SERVER.address(4)) as sock:
                everything = "Contact: *\r\nExpires: 0\r\n"
                sip_request(sock, self.kamailio.address, "REGISTER", f"sip:{SERVER.address(4)}", "bob", everything)

    def query(self, call_id: str) -> Reply:
        """What the daemon says of a call, over ng whatever protocol Kamailio speaks."""
        return self.daemon.ng.command("query", call_id=call_id)

    def is_gone(self, call_id: str) -> None:
        """Assert that the daemon does not know a call."""
        assert self.query(call_id) == {"result": "error", "error-reason": "Unknown call-id"}

    def is_up(self, call_id: str) -> None:
        """Assert that the daemon knows a call."""
        assert self.query(call_id)["result"] == "ok"


def talk(caller: User, callee: User, packets: int = 10) -> None:
    """Assert that RTP and RTCP reach both ends, byte for byte, in order, from the ports that the phones were told."""
    for speaker, listener in ((caller.audio, callee.audio), (callee.audio, caller.audio)):
        relayed(speaker, listener, packets)
        rtcp_relayed(speaker, listener)
