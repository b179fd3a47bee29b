"""From one process to its successor without a gap: media sockets, calls, control sockets and the kernel table.

The running daemon listens on a Unix socket. Who starts with ``--takeover`` connects there and first gets the control
sockets, which the old daemon goes on serving. When the successor is up it says so; then, call by call, the old one
stops reading, tells what it knows and sends the sockets, in which packets wait meanwhile, and the new one goes on. A
call's media pauses for as long as that call takes. If the successor fails, the old daemon takes everything back.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rtpengine import NOTICE
from rtpengine.call import Call
from rtpengine.kernel import KernelTable
from rtpengine.log import call_context
from rtpengine.media import Endpoint, PortSet
from rtpengine.process import notify
from rtpengine.snapshot import Restorer, SnapshotError
from rtpengine.snapshot_json import restore, serialize
from rtpengine.table import CallTable
from rtpengine.transport import PacketTransport

log = logging.getLogger(__name__)

VERSION = 1
ANSWER_S = 10.0
"""A process that does not answer for so long is given up."""

GREETING_S = 1.0
"""So long the loop waits for the rest of a message that has begun, before calls change hands."""

_MAX_MESSAGE = 16 << 20
_MAX_DESCRIPTORS = 250
_LENGTH = struct.Struct("=I")
_CREDENTIALS = struct.Struct("=iII")


class HandoverError(Exception):
    """The other process cannot or does not go on; the text says why, without capital letter or full stop."""


class Channel:
    """Messages between the two, each with descriptors; blocks for at most ANSWER_S."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(ANSWER_S)

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raise HandoverError."""
        data = json.dumps(message).encode()
        try:
            socket.send_fds(self.sock, [_LENGTH.pack(len(data))], list(descriptors))
            self.sock.sendall(data)
        except OSError as error:
            raise HandoverError(f"the other process does not listen any more ({error})") from None

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next message, and its descriptors, which are the caller's. Raise HandoverError."""
        descriptors: list[int] = []
        try:
            head = b""
            while len(head) < _LENGTH.size:
                data, some, _, _ = socket.recv_fds(self.sock, _LENGTH.size - len(head), _MAX_DESCRIPTORS)
                descriptors += some
                if not data:
                    raise HandoverError("the other process has ended")
                head += data
            (length,) = _LENGTH.unpack(head)
            if length > _MAX_MESSAGE:
                raise HandoverError("a message is too long")
            message: dict[str, Any] = json.loads(self._exactly(length))
            return message, descriptors
        except (OSError, ValueError) as error:
            _close(descriptors)
            raise HandoverError(f"the other process does not answer ({error})") from None
        except HandoverError:
            _close(descriptors)
            raise

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            some = self.sock.recv(min(length - len(data), 1 << 16))
            if not some:
                raise HandoverError("the other process has ended")
            data += some
        return bytes(data)

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


class Predecessor:
    """The running daemon, as its successor sees it."""

    def __init__(self, channel: Channel, hello: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self._channel = channel
        self.calls = int(hello["calls"])
        names = [*hello["listeners"], *(["control"] if hello["table"] is not None else [])]
        self._descriptors: dict[str, int] = dict(zip(names, descriptors, strict=True))
        self._listeners = {option: Endpoint(*where) for option, where in hello["listeners"].items()}
        self.table: int | None = hello["table"]
        self._inherited: int | None = None

    @classmethod
    def meet(cls, path: str) -> Predecessor | None:
        """Say hello to whoever listens there; None if nobody does. Raise HandoverError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        except OSError as error:
            sock.close()
            raise HandoverError(f"cannot connect: {error.strerror}") from None
        channel = Channel(sock)
        try:
            channel.send({"hello": VERSION})
            hello, descriptors = channel.receive()
            if hello.get("version") != VERSION:
                _close(descriptors)
                raise HandoverError("the running daemon is of another version")
            return cls(channel, hello, descriptors)
        except BaseException:
            channel.close()
            raise

    def listener(self, option: str, address: str, port: int) -> socket.socket | None:
        """Its control socket of this option, if it is bound there; else None."""
        if self._listeners.get(option) != Endpoint(address, port):
            return None
        return socket.socket(fileno=self._descriptors.pop(option))

    def kernel_table(self, number: int) -> KernelTable | None:
        """Its kernel table, if that has this number; else None."""
        if self.table != number:
            return None
        table = KernelTable.inherit(number, self._descriptors.pop("control"))
        self._inherited = number
        return table

    def restore(self, transport: PacketTransport, table: CallTable, restorer: Restorer) -> int:
        """Take all calls; return how many. Raise HandoverError, and then the calls are with the other one again."""
        _close(self._descriptors.values())
        self._descriptors.clear()
        began = time.monotonic()
        longest = 0.0
        self._channel.send({"go": os.getpid(), "table": self._inherited})
        count = 0
        while True:
            message, descriptors = self._channel.receive()
            transport.inherited.update(bound(descriptors))
            if "call" in message:
                taken = self._take(message["call"], table, restorer)
                count += taken
                longest = max(longest, time.monotonic() - message["held"])
                self._channel.send({"taken": taken})
            elif "end" in message:
                break
        for sock in transport.inherited.values():
            sock.close()
        transport.inherited.clear()
        self._channel.send({"ended": True})
        self._channel.close()
        took = time.monotonic() - began
        note = "%d calls taken over from the running daemon in %.3f s, none of them paused for more than %.3f s"
        log.log(NOTICE, note, count, took, longest)
        return count

    def _take(self, snapshot: str, table: CallTable, restorer: Restorer) -> bool:
        try:
            restore(restorer, table, snapshot.encode())
        except SnapshotError as reason:
            log.warning("a call is not taken over: %s", reason)
            return False
        return True


def bound(descriptors: Iterable[int]) -> dict[Endpoint, socket.socket]:
    """Sockets by where they are bound."""
    found = {}
    for descriptor in descriptors:
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        found[Endpoint(*sock.getsockname()[:2])] = sock
    return found


class Successions:
    """Where successors ask for the calls of this daemon.

    ``listeners`` are the control sockets by option, ``kernel`` the table.
    """

    def __init__(
        self,
        path: str,
        transport: PacketTransport,
        table: CallTable,
        listeners: Mapping[str, socket.socket],
        kernel: KernelTable | None,
    ) -> None:
        self._path = path
        self._transport = transport
        self._table = table
        self._listeners = listeners
        self._kernel = kernel
        self.sock: socket.socket | None = None

    def listen(self) -> socket.socket:
        """Begin to wait for a successor, in the place of our own predecessor. Raise OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            mask = os.umask(0o177)
            try:
                sock.bind(self._path)
            finally:
                os.umask(mask)
            sock.listen(1)
        except BaseException:
            sock.close()
            raise
        self.sock = sock
        return sock

    def accept(self) -> Channel | None:
        """A process of ours that wants to be the successor; None for others."""
        assert self.sock is not None
        try:
            sock, _ = self.sock.accept()
        except OSError:
            return None
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(peer)[1] not in (0, os.geteuid()):
            log.warning("another user's process has asked for the calls, and gets none")
            sock.close()
            return None
        channel = Channel(sock)
        # Until it is to have the calls, nobody here waits for it.
        sock.settimeout(GREETING_S)
        return channel

    def serve(self, channel: Channel) -> bool | None:
        """Answer one message; True: all calls are with the successor now, None: it has gone."""
        try:
            message, descriptors = channel.receive()
            _close(descriptors)
            if "hello" in message:
                self._say_hello(channel)
                return False
            if "go" in message:
                with_table = self._kernel is not None and message.get("table") == self._kernel.number
                return self._hand_over(channel, int(message["go"]), with_table=with_table)
        except HandoverError as reason:
            log.debug("a successor has gone: %s", reason)
        return None

    def _say_hello(self, channel: Channel) -> None:
        where = {option: _listens_at(sock) for option, sock in self._listeners.items()}
        descriptors = [sock.fileno() for sock in self._listeners.values()]
        number = None
        if self._kernel is not None:
            number = self._kernel.number
            descriptors.append(self._kernel.fileno())
        hello = {"version": VERSION, "listeners": where, "table": number, "calls": len(self._table)}
        channel.send(hello, descriptors)

    def _hand_over(self, channel: Channel, pid: int, *, with_table: bool) -> bool | None:
        held: list[Call] = []
        count = 0
        channel.sock.settimeout(ANSWER_S)
        try:
            for call in list(self._table):
                held.append(call)
                with call_context(call.call_id):
                    if not with_table:  # else the kernel would forward what nobody looks after
                        for ports in port_sets(call):
                            self._transport.withdraw(ports)
                    count += self._hand_over_call(channel, call)
            channel.send({"end": True})
            channel.receive()
        except HandoverError as reason:
            log.error("the successor has failed, and this daemon goes on with all calls: %s", reason)
            for call in held:
                self._take_back(call)
            return None
        notify(f"MAINPID={pid}")
        log.log(NOTICE, "%d calls handed over to process %d", count, pid)
        return True

    def _hand_over_call(self, channel: Channel, call: Call) -> bool:
        began = time.monotonic()
        descriptors = [fd for ports in port_sets(call) for fd in self._transport.hold(ports)]
        while len(descriptors) > _MAX_DESCRIPTORS:
            channel.send({"sockets": True}, descriptors[:_MAX_DESCRIPTORS])
            del descriptors[:_MAX_DESCRIPTORS]
        channel.send({"call": serialize(call).decode(), "held": began}, descriptors)
        taken = bool(channel.receive()[0].get("taken"))
        if not taken:
            log.warning("the successor does not take the call")
        return taken

    def _take_back(self, call: Call) -> None:
        """Go on with a call that the successor may have served for a moment."""
        for peering in call.peerings():
            peering.suspect_use()
        for ports in port_sets(call):
            self._transport.resume(ports)

    def close(self, *, unlink: bool) -> None:
        """Wait no more; ``unlink`` unless the successor waits at the same place already."""
        if self.sock is not None:
            self.sock.close()
            if unlink:
                with suppress(OSError):
                    os.unlink(self._path)


def _listens_at(sock: socket.socket) -> tuple[str, int]:
    """Where a control socket listens, as its option says it: every address is ``::`` there, for both families."""
    address, port = sock.getsockname()[:2]
    return "::" if address == "0.0.0.0" else address, port


def port_sets(call: Call) -> list[PortSet]:
    """All open sockets of a call."""
    return [ports for media_ports in call.media_ports for ports in media_ports.open_sets()]
