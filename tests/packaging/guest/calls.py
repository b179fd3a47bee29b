"""Calls through a daemon of this machine, between two phones in a network namespace of their own."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/rtpengine")
import bencodepy

CLONE_NEWNET = 0x40000000
PHONES = "phones"
# How long anything may take in an emulated machine on a busy host.
PATIENCE_S = 240.0
# A packet that has not come by then will not.
PACKET_S = 20.0

ADDRESS, ADDRESS6, OTHER_ADDRESS = "10.64.73.31", "2001:db8::4f3:3d", "10.64.73.32"
PHONE, PHONE6 = "10.64.73.1", "2001:db8::1"

_libc = ctypes.CDLL(None, use_errno=True)
_cookies = count(1)


def run(*command: str, check: bool = True) -> str:
    """Run a command; return what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert not check or done.returncode == 0, f"{' '.join(command)}: status {done.returncode}: {said}"
    return said


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(0.2)


def wait_to_read(text: str, *command: str) -> None:
    """Wait until a command says something: the journal has what a service writes a little later."""
    wait_for(f"{text!r} of {' '.join(command)}", lambda: text in run(*command, check=False))


def make_network() -> None:
    """The address of the seed document's command line, another one, and a wire to the phones."""
    run("ip", "netns", "add", PHONES)
    run("ip", "link", "add", "media0", "type", "veth", "peer", "name", "eth0", "netns", PHONES)
    for address in (f"{ADDRESS}/24", f"{OTHER_ADDRESS}/24"):
        run("ip", "addr", "add", address, "dev", "media0")
    run("ip", "addr", "add", f"{ADDRESS6}/64", "dev", "media0", "nodad")
    run("ip", "-n", PHONES, "addr", "add", f"{PHONE}/24", "dev", "eth0")
    run("ip", "-n", PHONES, "addr", "add", f"{PHONE6}/64", "dev", "eth0", "nodad")
    run("ip", "-n", PHONES, "link", "set", "eth0", "up")
    run("ip", "link", "set", "media0", "up")


@contextmanager
def _among_phones() -> Iterator[None]:
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{PHONES}", os.O_RDONLY)
    assert not _libc.setns(there, CLONE_NEWNET)
    try:
        yield
    finally:
        assert not _libc.setns(here, CLONE_NEWNET)
        os.close(here)
        os.close(there)


def _phone(address: str) -> socket.socket:
    with _among_phones():
        phone = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        phone.bind((address, 0))
    phone.settimeout(PACKET_S)
    return phone


def ng(port: int, command: str, **keys: Any) -> dict[Any, Any]:
    """Send a request to a daemon of this machine; return the reply."""
    cookie = b"%d_%d" % (os.getpid(), next(_cookies))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PACKET_S)
        message = (
            cookie + b" " + bencodepy.encode({"command": command} | {k.replace("_", "-"): v for k, v in keys.items()})
        )
        for _ in range(10):
            client.sendto(message, ("127.0.0.1", port))
            try:
                reply = client.recv(65536)
            except TimeoutError:
                continue
            answer = bencodepy.decode(reply.partition(b" ")[2])
            assert answer[b"result"] != b"error", answer
            return dict(answer)
    raise AssertionError(f"no reply to {command} from port {port}")


def _sdp(address: str, port: int) -> str:
    family = "IP6" if ":" in address else "IP4"
    lines = (
        "v=0",
        f"o=- 1 1 IN {family} {address}",
        "s=-",
        f"c=IN {family} {address}",
        "t=0 0",
        f"m=audio {port} RTP/AVP 8",
    )
    return "".join(f"{line}\r\n" for line in lines)


def _endpoint(reply: dict[Any, Any]) -> tuple[str, int]:
    sdp = reply[b"sdp"].decode()
    address, port = re.search(r"^c=IN IP[46] (\S+)", sdp, re.M), re.search(r"^m=audio (\d+)", sdp, re.M)
    assert address and port, sdp
    return address[1], int(port[1])


class Call:
    """A call between two phones through the daemon at a control port; ``callee`` is the second phone's address."""

    def __init__(self, name: str, ng_port: int, callee: str = PHONE) -> None:
        self.phones = [_phone(PHONE), _phone(callee)]
        family = "IP6" if ":" in callee else "IP4"
        offer = {
            "call_id": name,
            "from_tag": "a",
            "flags": ["trust-address"],
            "ICE": "remove",
            "address_family": family,
        }
        offered = ng(ng_port, "offer", sdp=_sdp(PHONE, self._port(0)), **offer)
        answer = {"call_id": name, "from_tag": "a", "to_tag": "b", "flags": ["trust-address"], "ICE": "remove"}
        answered = ng(ng_port, "answer", sdp=_sdp(callee, self._port(1)), **answer)
        # A sends to where the answer says, B to where the offer says.
        self.relay = [_endpoint(answered), _endpoint(offered)]
        self._sequence = count(1)

    def _port(self, side: int) -> int:
        return int(self.phones[side].getsockname()[1])

    def exchange(self) -> int:
        """A packet each way; return how many of the two arrived, and how they should."""
        arrived = 0
        for side in (0, 1):
            sequence = next(self._sequence)
            packet = struct.pack("!BBHII", 0x80, 8, sequence & 0xFFFF, 160 * sequence, 0x11111111 + side) + bytes(160)
            self.phones[side].sendto(packet, self.relay[side])
            try:
                while (received := self.phones[1 - side].recvfrom(2048))[0] != packet:
                    pass
            except TimeoutError:
                continue
            arrived += received[1][:2] == self.relay[1 - side]
        return arrived

    def settle(self, table: int) -> None:
        """Talk until the kernel forwards both ways."""

        def is_settled() -> bool:
            before = forwarded(table)
            return self.exchange() == 2 and forwarded(table) >= before + 2

        wait_for(f"the call in kernel table {table}", is_settled)

    def hang_up(self) -> None:
        for phone in self.phones:
            phone.close()


def forwarded(table: int) -> int:
    """Packets that the kernel has forwarded for all targets of a table, 0 without the table."""
    try:
        text = Path(f"/proc/mediaproxy/{table}/list").read_text()
    except OSError:
        return 0
    return sum(map(int, re.findall(r"(\d+) packets", text)))
