"""Hosts as network namespaces on one Ethernet segment, made and removed with ``ip``.

A socket keeps the namespace in which it was made, so the tests stay in one process: they enter a
namespace for the moment that creating a socket or a child takes, and leave it again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

CLONE_NEWNET = 0x40000000  # linux/sched.h
SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_STXCSUM = 0x17  # linux/ethtool.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
RECEIVE_BUFFER = 4 << 20
# So long a receive waits unless told otherwise: a machine may be busy with something else.
RECEIVE_S = 20.0

_serials = itertools.count(1)
_random = random.Random()
_libc = ctypes.CDLL(None, use_errno=True)


def missing_privilege() -> str | None:
    """Say why no namespace can be made here, None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the program ip (iproute2) is not installed"
    probe = f"rtpe{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"ip netns add fails here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return None


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@dataclass
class Host:
    """One namespace with an interface ``eth0`` and addresses of both families; the first of each is its own."""

    namespace: str
    number: int
    ipv4: list[str] = field(default_factory=list)
    ipv6: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Documentation ranges (RFC 5737, RFC 3849): public as far as the relay can tell, so nobody may be behind a NAT.
        self.ipv4 = [f"198.51.100.{self.number + i}" for i in range(3)]
        self.ipv6 = [f"2001:db8::{self.number + i}" for i in range(3)]

    def address(self, family: int, index: int = 0) -> str:
        """One of the host's addresses of IP version 4 or 6."""
        return (self.ipv4 if family == 4 else self.ipv6)[index]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let the calling thread be in this namespace: for sockets and children made meanwhile."""
        with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{self.namespace}", "rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def udp(self, address: str, port: int = 0) -> socket.socket:
        """A UDP socket of this host, bound; a receive waits for at most RECEIVE_S unless told otherwise."""
        with self.inside():
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            sock.bind((address, port))
        except OSError:
            sock.close()
            raise
        sock.settimeout(RECEIVE_S)
        return sock

    def free_port(self) -> int:
        """A UDP port that nobody holds, outside of the ranges for media and of those that the kernel hands out."""
        for _ in range(100):
            port = _random.randrange(10000, 20000)
            with contextlib.suppress(OSError):
                self.udp(self.ipv4[0], port).close()
                return port
        raise OSError(f"no free port on {self.ipv4[0]}")

    def capture(self) -> socket.socket:
        """A packet socket that sees every frame on the host's interface."""
        with self.inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        sock.bind(("eth0", 0))
        sock.settimeout(RECEIVE_S)
        return sock

    def checksum_in_software(self) -> None:
        """Let the kernel fill in UDP checksums before the virtual wire, where a capture can check them."""
        with self.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, 0))
            fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", b"eth0", ctypes.addressof(value)))


class Lab:
    """The relay, the parties' hosts A, B and C, and an attacker, joined by a bridge in a namespace of its own."""

    def __init__(self) -> None:
        # One per directory of tests can be up in a run.
        prefix = f"rtpe{os.getpid()}-{next(_serials)}"
        self.switch = f"{prefix}-switch"
        self.relay = Host(f"{prefix}-relay", 1)
        self.a = Host(f"{prefix}-a", 11)
        self.b = Host(f"{prefix}-b", 21)
        self.c = Host(f"{prefix}-c", 31)
        self.attacker = Host(f"{prefix}-attacker", 66)

    @property
    def hosts(self) -> list[Host]:
        """Everybody with addresses."""
        return [self.relay, self.a, self.b, self.c, self.attacker]

    def up(self) -> None:
        """Make the namespaces and join them; what a run that was killed has left behind is removed first."""
        for name in _abandoned():
            _remove(name)
        for name in [self.switch, *(host.namespace for host in self.hosts)]:
            subprocess.run(["ip", "netns", "add", name], check=True)
        lines = ["link add br0 type bridge mcast_snooping 0", "link set br0 up", "link set lo up"]
        for host in self.hosts:
            lines += [
                f"link add p{host.number} type veth peer name eth0 netns {host.namespace}",
                f"link set p{host.number} master br0 up",
            ]
        _batch(self.switch, lines)
        for host in self.hosts:
            _batch(host.namespace, _host_commands(host))

    def down(self) -> None:
        """Remove every namespace that exists, and with them all interfaces and routes."""
        for name in [*(host.namespace for host in self.hosts), self.switch]:
            if os.path.exists(f"/run/netns/{name}"):
                _remove(name)


def _abandoned() -> list[str]:
    """Namespaces with our kind of name whose maker, whose process id is part of it, is no more."""
    names = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    found = [(name, re.fullmatch(r"rtpe(\d+)-[\w-]+", name)) for name in names]
    return [name for name, match in found if match and not os.path.exists(f"/proc/{match[1]}")]


def _remove(namespace: str) -> None:
    """Remove a namespace and whatever still runs in it: daemons that we started."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], check=False)


def _host_commands(host: Host) -> list[str]:
    # Without nodad an IPv6 address is unusable for its first second. A program that binds to none gets the first: a
    # later one is deprecated (RFC 6724 5, rule 3), as IPv4 does with the secondary addresses of a network anyway.
    lines = ["link set lo up"]
    lines += [f"addr add {address}/24 dev eth0" for address in host.ipv4]
    lines += [f"addr add {host.ipv6[0]}/64 dev eth0 nodad"]
    lines += [f"addr add {address}/64 dev eth0 nodad preferred_lft 0" for address in host.ipv6[1:]]
    # Packets for unknown networks have to go somewhere, as on a real host: to an address that nobody has.
    lines += ["link set eth0 up", "route add default via 198.51.100.254", "route add default via 2001:db8::254"]
    return lines


def _batch(namespace: str, lines: list[str]) -> None:
    script = "\n".join(lines) + "\n"
    done = subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"], input=script, text=True, check=False, capture_output=True
    )
    if done.returncode:
        raise RuntimeError(f"ip in {namespace}: {done.stderr}\n{script}")
