"""Three hosts in namespaces: A and B, and between them the relay, where this process lives.

    a                                relay                               b
    10.77.1.1, fd77:1::1 ---- to_a  10.77.1.2, fd77:1::2
                              to_b  10.77.2.2, fd77:2::2 ---- 10.77.2.1, fd77:2::1

There is no forwarding of packets between the interfaces but that of the module.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
# An emulated processor is slow, and its host busy with something else now and then.
PATIENCE_S = 60.0
IP_RECVTTL = 12  # linux/in.h; Python does not name it
_libc = ctypes.CDLL(None, use_errno=True)

A, B = "a", "b"
RULES = [("iptables-nft", "ip6tables-nft"), ("iptables-legacy", "ip6tables-legacy")]


def host(side: str, v6: bool = False) -> str:
    return f"fd77:{1 if side == A else 2}::1" if v6 else f"10.77.{1 if side == A else 2}.1"


def relay(side: str, v6: bool = False) -> str:
    """The relay's address towards a side."""
    return f"fd77:{1 if side == A else 2}::2" if v6 else f"10.77.{1 if side == A else 2}.2"


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout + done.stderr


def enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), path)
    finally:
        os.close(fd)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in another namespace for a moment. /proc/mediaproxy goes by the process' first thread, which this is."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    enter(f"/run/netns/{namespace}")
    try:
        yield
    finally:
        _libc.setns(here, CLONE_NEWNET)
        os.close(here)


def _link(side: str) -> None:
    ifname = f"to_{side}"
    queues = ["numtxqueues", "4", "numrxqueues", "4"]
    run(
        "ip",
        "-n",
        side,
        "link",
        "add",
        "eth0",
        *queues,
        "type",
        "veth",
        "peer",
        "name",
        ifname,
        *queues,
        "netns",
        "relay",
    )
    run("ip", "-n", side, "addr", "add", f"{host(side)}/24", "dev", "eth0")
    run("ip", "-n", side, "addr", "add", f"{host(side, True)}/64", "dev", "eth0", "nodad")
    run("ip", "-n", "relay", "addr", "add", f"{relay(side)}/24", "dev", ifname)
    run("ip", "-n", "relay", "addr", "add", f"{relay(side, True)}/64", "dev", ifname, "nodad")
    run("ip", "-n", side, "link", "set", "eth0", "up")
    run("ip", "-n", "relay", "link", "set", ifname, "up")
    run("ip", "-n", side, "route", "add", "default", "via", relay(side))
    run("ip", "-n", side, "-6", "route", "add", "default", "via", relay(side, True))


def build() -> None:
    """Make the three hosts and move into the relay."""
    for namespace in (A, "relay", B):
        run("ip", "netns", "add", namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
    _link(A)
    _link(B)
    enter("/run/netns/relay")


class Party:
    """A UDP socket of a host, or of the relay itself (side "")."""

    def __init__(self, side: str, address: tuple[str, int]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        if side:
            with inside(side):
                self.socket = socket.socket(family, socket.SOCK_DGRAM)
        else:
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.v6 = family == socket.AF_INET6
        self.socket.settimeout(PATIENCE_S)
        if self.v6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            self.socket.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        self.socket.bind(address)
        self.address = address

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *args: object) -> None:
        self.socket.close()

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        self.socket.sendto(data, to)

    def receive(self) -> bytes:
        return self.receive_from()[0]

    def receive_from(self) -> tuple[bytes, tuple[str, int]]:
        data, source = self.socket.recvfrom(65536)
        return data, source[:2]

    def receive_with_header(self) -> tuple[bytes, int, int]:
        """A datagram, its TOS or traffic class, and its TTL or hop limit."""
        data, ancillary, _, _ = self.socket.recvmsg(65536, 256)
        values = {kind: struct.unpack("i", value.ljust(4, b"\0")[:4])[0] for _, kind, value in ancillary}
        if self.v6:
            return data, values[socket.IPV6_TCLASS], values[socket.IPV6_HOPLIMIT]
        return data, values[socket.IP_TOS], values[socket.IP_TTL]

    def nothing(self) -> bool:
        """Whether nothing has come; on veth what was sent has arrived when send() returns, or soon after."""
        self.socket.settimeout(0.05)
        try:
            self.socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE_S)
        return False

    def drain(self) -> list[bytes]:
        """All that has come."""
        got = []
        self.socket.settimeout(0.1)
        try:
            while True:
                got.append(self.socket.recv(65536))
        except TimeoutError:
            return got
        finally:
            self.socket.settimeout(PATIENCE_S)
