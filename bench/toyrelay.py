"""toyrelay - the toy reference: the obvious forwarder in pure Python.

asyncio's event loop with one add_reader() callback per socket, recvfrom and
sendto.  Same map file as udpfloor; no RTP processing, no control protocol.

Usage: python3 toyrelay.py MAP
"""

import asyncio
import resource
import socket
import sys


def make(ip: str, port: str) -> socket.socket:
    """A bound socket that does not block."""
    opened = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind((ip, int(port)))
    return opened


def forward(source: socket.socket, sink: socket.socket, peer: tuple[str, int]) -> None:
    """Pass one packet on."""
    try:
        sink.sendto(source.recvfrom(2048)[0], peer)
    except OSError:
        pass  # a toy: what cannot be sent is lost


def main() -> None:
    """Relay by the map until stopped."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.new_event_loop()
    with open(sys.argv[1]) as file:
        for line in file:
            a_ip, a_port, ap_ip, ap_port, b_ip, b_port, bp_ip, bp_port = line.split()
            a, b = make(a_ip, a_port), make(b_ip, b_port)
            loop.add_reader(a, forward, a, b, (bp_ip, int(bp_port)))
            loop.add_reader(b, forward, b, a, (ap_ip, int(ap_port)))
    print("ready", flush=True)
    loop.run_forever()


main()
