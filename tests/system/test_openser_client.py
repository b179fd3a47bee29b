"""A TCP client of the old mediaproxy kind, written from control-tcp.md, against the whole daemon: bytes on record."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.fixtures import MakeParty
from systemlab.media import Media, Section, receive, relayed, rtcp_relayed, silent
from systemlab.netns import Lab

from rtpengine import __version__
from rtpengine.control_tcp import IDLE_S

SERVER = ("127.0.0.1", 2460)
OPTIONS = (f"--listen-tcp={SERVER[0]}:{SERVER[1]}",)
PORTS = range(30000, 31000)


class Connection:
    """One connection to the control port from the relay's own host, where OpenSER used to run."""

    def __init__(self, lab: Lab) -> None:
        with lab.relay.inside():
            self.socket = socket.create_connection(SERVER, timeout=60)

    @property
    def name(self) -> bytes:
        return b"%s:%d" % (self.socket.getsockname()[0].encode(), self.socket.getsockname()[1])

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> bytes:
        """Everything up to end of file, which the daemon has to bring about."""
        pieces = []
        while piece := self.socket.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Mediaproxy:
    """The client: a line out, everything until end of file in, split at white space."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._open: list[Connection] = []

    def connect(self) -> Connection:
        self._open.append(Connection(self._lab))
        return self._open[-1]

    def ask(self, line: bytes) -> bytes:
        connection = self.connect()
        connection.send(line)
        try:
            return connection.read()
        finally:
            connection.socket.close()

    def media(self, line: bytes) -> tuple[str, list[int]]:
        """The address and the ports of the reply to a request or lookup; the module fails without either."""
        address, *ports = self.ask(line).split()
        return address.decode(), [int(port) for port in ports]

    def sessions(self) -> list[bytes]:
        """The call-ids that `status` lists."""
        load, *lines = self.ask(b"status\n").splitlines()
        assert re.fullmatch(rb"proxy \d+ \d+/\d+/\d+", load)
        return [line.split()[1] for line in lines if line.startswith(b"session ")]

    def close(self) -> None:
        for connection in self._open:
            connection.socket.close()


@pytest.fixture
def client(daemon: Daemon, lab: Lab) -> Iterator[Mediaproxy]:
    client = Mediaproxy(lab)
    yield client
    for call_id in client.sessions():
        client.ask(b"delete %s info=\n" % call_id)
    client.close()


REQUEST = (
    b"request 5d@h 192.0.2.4:7078:audio,192.0.2.4:9078:video 192.0.2.4 a.example local b.example remote ua "
    b"info=from:u@a.example,to:v@b.example,fromtag:f1,totag:\r\n"
)
LOOKUP = (
    b"lookup 5d@h 192.0.2.8:5000:audio,192.0.2.8:5002:video 192.0.2.8 a.example local b.example unknown ua "
    b"info=from:u@a.example,to:v@b.example,fromtag:f1,totag:t1\r\n"
)
DELETE = b"delete 5d@h info=\r\n"
STATUS = b"status\r\n"
VERSION = b"Version: %s\n" % __version__.encode()

# Request bytes and reply bytes in the order of one session. Ports are drawn at random: a letter stands for one port,
# the same wherever it occurs; AGE and IDLE for seconds that have passed.
RECORD: list[tuple[bytes, bytes]] = [
    (STATUS, b"proxy 0 0/0/0\n"),
    (b"version\r\n", VERSION),
    (b"build\n", VERSION),
    (b"\r\n\n\r\nversion\n", VERSION),
    (b"version\nstatus\n", VERSION),
    (b"quit\n", b""),
    (b"exit\r\n", b""),
    (b"nonsense\n", b""),
    (LOOKUP, b""),
    (DELETE, b""),
    (REQUEST.replace(b"fromtag:f1,", b""), b""),
    (REQUEST.replace(b"fromtag:f1", b"fromtag"), b""),
    (REQUEST.replace(b":7078", b":x"), b""),
    (REQUEST.replace(b"192.0.2.4:", b"999.0.2.4:"), b""),
    (STATUS, b"proxy 0 0/0/0\n"),
    (REQUEST, b"198.51.100.1 {a} {b}\n"),
    (REQUEST, b"198.51.100.1 {a} {b}\n"),
    (STATUS, b"proxy 1 0/0/0\nsession 5d@h - - - - {AGE}\n"),
    (LOOKUP.replace(b",totag:t1", b""), b""),
    (LOOKUP.replace(b"totag:t1", b"totag"), b""),
    (LOOKUP.replace(b"fromtag:f1", b"fromtag:x"), b""),
    (LOOKUP, b"198.51.100.1 {c} {d}\n"),
    (LOOKUP, b"198.51.100.1 {c} {d}\n"),
    (
        STATUS,
        b"proxy 1 0/0/0\nsession 5d@h - - - - {AGE}\n"
        b"stream 192.0.2.4:7078 192.0.2.8:5000 198.51.100.1:{c} 0/0/0 active unknown - {IDLE}\n"
        b"stream 192.0.2.4:9078 192.0.2.8:5002 198.51.100.1:{d} 0/0/0 active unknown - {IDLE}\n",
    ),
    # hold; a stream is disabled, and comes back
    (REQUEST.replace(b"192.0.2.4:7078", b"0.0.0.0:7078"), b"198.51.100.1 {a} {b}\n"),
    (REQUEST.replace(b":9078", b":0"), b"198.51.100.1 {a} 0\n"),
    (LOOKUP.replace(b":5002", b":0"), b"198.51.100.1 {c} 0\n"),
    (
        STATUS,
        b"proxy 1 0/0/0\nsession 5d@h - - - - {AGE}\n"
        b"stream 192.0.2.4:7078 192.0.2.8:5000 198.51.100.1:{c} 0/0/0 active unknown - {IDLE}\n",
    ),
    (REQUEST.replace(b":7078", b":0"), b"0.0.0.0 0 {b}\n"),
    (REQUEST, b"198.51.100.1 {a} {b}\n"),
    (LOOKUP, b"198.51.100.1 {c} {d}\n"),
    # another branch answers, then the first one again
    (LOOKUP.replace(b"totag:t1", b"totag:t2"), b"198.51.100.1 {e} {f}\n"),
    (LOOKUP, b"198.51.100.1 {c} {d}\n"),
    (b"delete 5d@h\n", b""),
    (b"delete 5d@h info=from:u@a.example,totag\n", b""),
    (LOOKUP, b""),
    (STATUS, b"proxy 0 0/0/0\n"),
]


def test_the_session_on_record(client: Mediaproxy) -> None:
    ports: dict[str, int] = {}
    for line, wanted in RECORD:
        template = wanted.decode()
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<_>\\d+)", re.escape(template)).replace("(?P<_>", "(")
        reply = client.ask(line).decode()
        found = re.fullmatch(pattern, reply)
        assert found, f"{line!r} had the reply\n{reply}\nand not\n{template}"
        for name, number in zip(re.findall(r"{(\w+)}", template), map(int, found.groups()), strict=True):
            if name in ("AGE", "IDLE"):
                assert number <= 60
            else:
                assert ports.setdefault(name, number) == number, (line, name, ports)
    assert len(set(ports.values())) == len(ports)
    assert all(port in PORTS and port % 2 == 0 for port in ports.values())


class OpenserCall:
    """A call with one audio stream between hosts A and B, placed over the TCP protocol."""

    def __init__(self, client: Mediaproxy, call_id: str, caller: Media, callee: Media) -> None:
        self.client, self.call_id, self.caller, self.callee = client, call_id, caller, callee

    def say(self, command: str, media: Media) -> bytes:
        """The line by which one party offers or answers."""
        stream = f"{media.address}:{media.port}:audio"
        domains = f"{media.address} a.example local b.example remote quoted=2Dprintable"
        return f"{command} {self.call_id} {stream} {domains} info=fromtag:f,totag:t\r\n".encode()

    def place(self) -> None:
        for command, speaker, listener in (
            ("request", self.caller, self.callee),
            ("lookup", self.callee, self.caller),
        ):
            address, (port,) = self.client.media(self.say(command, speaker))
            listener.remote = Section("audio", port, 1, "RTP/AVP", "0", address, [])


@pytest.fixture
def call(client: Mediaproxy, lab: Lab, party: MakeParty) -> Iterator[OpenserCall]:
    call = OpenserCall(client, "media@test", party(lab.a).audio, party(lab.b).audio)
    call.place()
    yield call
    assert client.ask(b"delete media@test info=\r\n") == b""


def test_media_flows_until_the_delete(client: Mediaproxy, call: OpenserCall) -> None:
    for one, other in ((call.caller, call.callee), (call.callee, call.caller)):
        relayed(one, other)
        rtcp_relayed(one, other)
    client.ask(b"delete media@test info=\r\n")
    call.caller.send()
    assert silent([call.callee.rtp], 0.1)


def test_status_counts(client: Mediaproxy, call: OpenserCall) -> None:
    relayed(call.caller, call.callee, 20)
    relayed(call.callee, call.caller, 5)
    rtcp_relayed(call.callee, call.caller)
    rtp, rtcp = len(call.caller.rtp_packet()), len(call.callee.send_rtcp())
    assert receive(call.caller.rtcp)
    packets, loads = 20, set()

    def last_second_was_counted() -> bool:
        nonlocal packets
        relayed(call.caller, call.callee, 1)  # or the seconds of the others might be over before the first look
        packets += 1
        reply = client.ask(STATUS).splitlines()
        loads.add(reply[0])
        assert reply[1].startswith(b"session media@test - - - - ")
        a, b = packets * rtp, 5 * rtp + 2 * rtcp
        assert (
            reply[2].rpartition(b" ")[0]
            == (
                f"stream {call.caller.address}:{call.caller.port} {call.callee.address}:{call.callee.port} "
                f"{call.caller.remote.address}:{call.caller.remote.port} {a}/{b}/{a + b} active G711u -"
            ).encode()
        )
        return len(loads) > 1

    # the one-second tick adds up what the workers have counted, whichever seconds the packets fell into
    assert wait_until(last_second_was_counted)
    for load in loads:
        received, relayed_, total = map(int, load.split()[2].split(b"/"))
        assert load.startswith(b"proxy 1 ") and received == relayed_ and total == received + relayed_


def test_query_over_ng_sees_the_call(daemon: Daemon, call: OpenserCall) -> None:
    relayed(call.caller, call.callee)
    report = daemon.ng.ok("query", call_id="media@test")
    assert set(report["tags"]) == {"f", "t"}
    assert report["totals"]["RTP"]["packets"] == 10


def test_open_connections_are_listed(client: Mediaproxy) -> None:
    older, newer = client.connect(), client.connect()
    for each in (older, newer):
        each.send(b"contr")
    asking = client.connect()
    asking.send(b"controls\n")
    assert asking.read() == b"%s\n%s\n%s\nEnd.\n" % (asking.name, newer.name, older.name)
    newer.send(b"ols\n")
    assert newer.read() == b"%s\n%s\nEnd.\n" % (newer.name, older.name)


MALFORMED = [
    b"\x00\n", b"\xff\xfe\xfd\n", b"x\n", b" \n", b" version\n", b"version \n", b"Version\n", b"STATUS\n",
    b"status x\n", b"status\x00\n", b"quit now\n", b"controls info=\n", b"request\n", b"lookup\n", b"delete\n",
    b"delete kept\n",
    b"delete kept info\n", b"delete kept info= x\n", b"delete info=\n", b"Delete kept info=\n",
    b"delete kept x info=\n", REQUEST.replace(b" ua ", b" "), REQUEST.replace(b" ua ", b" u a "),
    REQUEST.replace(b"info=", b"info:"),
    REQUEST.replace(b"info=", b"info= "), REQUEST.replace(b"request", b"update"),
    REQUEST.replace(b"request ", b"request"), REQUEST.replace(b" ", b"\xa0"),
    REQUEST.replace(b":7078", b":"), REQUEST.replace(b":7078", b":-1"),
    REQUEST.replace(b":7078", b":0x10"), REQUEST.replace(b"192.0.2.4:7078", b"host:7078"),
    REQUEST.replace(b"192.0.2.4:7078", b"[::1]:7078"), REQUEST.replace(b"192.0.2.4:7078", b"\x00"),
    REQUEST.replace(b"192.0.2.4:7078", b","), REQUEST.replace(b"7078", b"65536").replace(b"9078", b"99999999999"),
    REQUEST.replace(b" 192.0.2.4:", b" 999.0.2.4:").replace(b",192.0.2.4:", b",1.2:"),
    REQUEST.replace(b" 192.0.2.4:", b" 255.255.255.255:").replace(b",192.0.2.4", b",0.0.0"),
    REQUEST.replace(b"fromtag", b"Fromtag"), REQUEST.replace(b"fromtag:", b"fromtag="), REQUEST.replace(b",", b";"),
    LOOKUP, LOOKUP.replace(b"5d@h", b"kept"), LOOKUP.replace(b"totag:", b""), LOOKUP.replace(b"totag:t1", b"totag"),
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"INVITE sip:a@b SIP/2.0\r\n", b"81_1 d7:command4:pinge\n", b"8_1 V\n",
    b"\x16\x03\x01\x00\xa5\x01\n", b"x" * 1025, b"delete " + b"k" * 1100 + b" info=\n", b"\x00" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("sent", MALFORMED, ids=lambda sent: repr(sent[:40]))
def test_malformed_lines_close_the_connection(client: Mediaproxy, sent: bytes) -> None:
    kept = REQUEST.replace(b"5d@h", b"kept").replace(b"fromtag:f1", b"fromtag:k")
    assert re.fullmatch(rb"198\.51\.100\.1 \d+ \d+\n", client.ask(kept))
    with contextlib.suppress(ConnectionError):  # a reset is a closed connection, too
        assert client.ask(sent) == b""
    assert client.ask(b"version\n") == VERSION
    assert client.sessions() == [b"kept"]


def test_half_lines_slow_and_vanishing_clients_disturb_nobody(client: Mediaproxy, daemon: Daemon) -> None:
    descriptors = daemon.descriptors()
    halves = [client.connect() for _ in range(30)]
    for number, half in enumerate(halves):
        half.send(REQUEST[: number * 3])
    for _ in range(30):
        gone = client.connect()
        gone.send(STATUS)
        gone.reset()
    unread = client.connect()
    unread.send(STATUS)
    started = time.monotonic()
    assert client.ask(b"version\n") == VERSION
    assert time.monotonic() - started < IDLE_S, "a connection that waits for nobody; a full backlog costs a few seconds"
    for number, half in enumerate(halves):
        half.send(REQUEST[number * 3 :])
    assert len({half.read() for half in halves}) == 1, "one call, asked for thirty times"
    assert unread.read().startswith(b"proxy 0 ")
    client.ask(DELETE)
    client.close()
    assert wait_until(lambda: daemon.descriptors() <= descriptors)
