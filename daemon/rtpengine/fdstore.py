"""Media sockets and calls that systemd keeps while the service restarts (sd_notify(3), FileDescriptorStoreMax=).

The daemon that ends stops reading, and leaves its sockets, in which packets wait, with a memory file of what it knows.
The one that starts gets them as LISTEN_FDS.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from rtpengine import NOTICE
from rtpengine.handover import bound, port_sets
from rtpengine.log import call_context
from rtpengine.process import notify
from rtpengine.snapshot import Restorer, SnapshotError
from rtpengine.snapshot_json import restore, serialize
from rtpengine.table import CallTable
from rtpengine.transport import PacketTransport

log = logging.getLogger(__name__)

MEDIA, CALLS = "rtpengine-media", "rtpengine-calls"
BARRIER_S = 5.0

_FIRST = 3  # SD_LISTEN_FDS_START
_AT_ONCE = 250  # of the kernel's SCM_MAX_FD, 253


def is_offered(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd keeps descriptors for us; before its version 254 the unit has to set FDSTORE itself."""
    return bool(environ.get("NOTIFY_SOCKET")) and environ.get("FDSTORE", "0") not in ("", "0")


def leave(transport: PacketTransport, table: CallTable) -> None:
    """Stop reading and give all calls to systemd; whatever goes wrong, they are lost as they would be anyway."""
    memory = os.memfd_create(CALLS)
    count = 0
    with open(memory, "wb") as file:
        for call in table:
            with call_context(call.call_id):
                descriptors = [descriptor for ports in port_sets(call) for descriptor in transport.hold(ports)]
                kept = all(
                    _keep(MEDIA, descriptors[first : first + _AT_ONCE])
                    for first in range(0, len(descriptors), _AT_ONCE)
                )
                if not kept:
                    log.warning("systemd does not keep the sockets of the call")
                    continue
            file.write(serialize(call) + b"\n")
            count += 1
        file.flush()
        # The calls last: whoever finds them finds all of their sockets.
        if count and _keep(CALLS, [file.fileno()]) and _settled():
            log.log(NOTICE, "%d calls left to systemd, for the next start", count)


def _keep(name: str, descriptors: Sequence[int]) -> bool:
    # Not polled: a socket on which an ICMP error waits would be thrown away.
    return notify(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", descriptors)


def _settled() -> bool:
    """Wait until systemd has read all that we have sent (sd_notify_barrier(3)); it ends without us otherwise."""
    reader, writer = os.pipe()
    try:
        sent = notify("BARRIER=1", [writer])
    finally:
        os.close(writer)
    try:
        poll = select.poll()
        poll.register(reader, 0)
        return sent and bool(poll.poll(BARRIER_S * 1000))
    finally:
        os.close(reader)


class Left:
    """What the daemon before us has left with systemd."""

    def __init__(self, media: Iterable[int], calls: int) -> None:
        self._media = media
        self._calls = calls

    def restore(self, transport: PacketTransport, table: CallTable, restorer: Restorer) -> int:
        """Go on with the calls; return how many."""
        began = time.monotonic()
        transport.inherited.update(bound(self._media))
        count = 0
        with open(self._calls, "rb") as file:
            file.seek(0)
            lines = file.readlines()
            for line in lines:
                try:
                    restore(restorer, table, line)
                    count += 1
                except SnapshotError as reason:
                    log.warning("a call that was left to systemd is not restored: %s", reason)
        for sock in transport.inherited.values():
            sock.close()
        transport.inherited.clear()
        took = time.monotonic() - began
        log.log(NOTICE, "%d of %d calls that were left to systemd restored in %.3f s", count, len(lines), took)
        return count


def find() -> Left | None:
    """What systemd hands to this process, None if that is nothing of ours; to be asked once."""
    environ = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if environ["LISTEN_PID"] != str(os.getpid()) or not environ["LISTEN_FDS"].isdecimal():
        return None
    numbers = range(_FIRST, _FIRST + int(environ["LISTEN_FDS"]))
    for descriptor in numbers:
        with suppress(OSError):
            os.set_inheritable(descriptor, False)
    names = environ["LISTEN_FDNAMES"].split(":")
    media = [number for number, name in zip(numbers, names, strict=False) if name == MEDIA]
    calls = [number for number, name in zip(numbers, names, strict=False) if name == CALLS]
    # Now, so that nobody ever finds them again after they have been used.
    for name in (MEDIA, CALLS):
        notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
    if len(calls) == 1:
        return Left(media, calls[0])
    for descriptor in (*media, *calls):
        socket.close(descriptor)
    return None
