"""Ethernet frames of any content, honest or not: what no UDP socket would send."""

from __future__ import annotations

import json
import socket
import struct

from network import A, host, inside, relay, run

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
UDP = socket.IPPROTO_UDP


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(
    addresses: bytes, ports: tuple[int, int], payload: bytes, *, length: int | None = None, check: int | None = None
) -> bytes:
    """A UDP datagram (RFC 768); ``addresses`` are those of the IP header, ``length`` and ``check`` lie."""
    real = 8 + len(payload)
    header = struct.pack("!HHH", *ports, real if length is None else length)
    if check is None:
        pseudo = addresses + struct.pack("!II", real, UDP) + header + b"\0\0" + payload
        check = checksum(pseudo) or 0xFFFF
    return header + struct.pack("!H", check) + payload


def ip4(
    payload: bytes, *, options: bytes = b"", length: int | None = None, fragment: int = 0, protocol: int = UDP
) -> bytes:
    """From A to the relay (RFC 791); ``fragment`` is the word with flags and offset."""
    words = 5 + len(options) // 4
    real = 4 * words + len(payload)
    rest = struct.pack("!HHHBB", real if length is None else length, 7, fragment, 64, protocol)
    header = bytes([0x40 | words, 0]) + rest + b"\0\0" + addresses4() + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ip6(payload: bytes, *, next_header: int = UDP, length: int | None = None) -> bytes:
    """From A to the relay (RFC 8200)."""
    header = struct.pack("!IHBB", 0x60000000, len(payload) if length is None else length, next_header, 64)
    return header + addresses6() + payload


def addresses4() -> bytes:
    return socket.inet_aton(host(A)) + socket.inet_aton(relay(A))


def addresses6() -> bytes:
    return b"".join(socket.inet_pton(socket.AF_INET6, address) for address in (host(A, True), relay(A, True)))


class Wire:
    """A's end of the cable to the relay."""

    def __init__(self) -> None:
        with inside(A):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.socket.bind(("eth0", 0))
        self.here = self.socket.getsockname()[4]
        (link,) = json.loads(run("ip", "-j", "link", "show", "to_a"))
        self.there = bytes.fromhex(link["address"].replace(":", ""))

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *args: object) -> None:
        self.socket.close()

    def send(self, packet: bytes) -> None:
        kind = ETH_P_IPV6 if packet[0] >> 4 == 6 else ETH_P_IP
        self.socket.send(self.there + self.here + struct.pack("!H", kind) + packet)
