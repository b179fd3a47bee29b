"""The pool of media ports of one local address: bound sockets on consecutive ports, drawn at random."""

from __future__ import annotations

import errno
import resource
import secrets
import socket
from array import array
from collections import deque
from collections.abc import Callable, Collection
from itertools import chain

from rtpengine import ResourceError

# A late packet of the old call must not reach a new one.
REST_S = 5.0

_IP_FREEBIND = 15  # linux/in.h and linux/in6.h; Python names neither
_IPV6_FREEBIND = 78
_DATAGRAM = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK

_ABSENT = 0xFFFF
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class PortPool:
    """Even/odd port pairs between ``port_min`` and ``port_max`` (inclusive) on ``address``.

    ``tos`` is the IPv4 TOS or IPv6 traffic class of every socket, 0 leaves the system's.
    ``exclude`` names ports never to be used. ``choose(n)`` draws from 0..n-1: security rule 9 wants a CSPRNG,
    since a port that can be guessed can be sprayed at.
    """

    def __init__(
        self,
        address: str,
        port_min: int,
        port_max: int,
        tos: int = 0,
        exclude: Collection[int] = (),
        choose: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.address = address
        self._range = port_min, port_max
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._tos = tos
        self._choose = choose
        self._first = port_min + port_min % 2
        slots = range(max(0, (port_max + 1 - self._first) // 2))
        usable = [s for s in slots if not {self._first + 2 * s, self._first + 2 * s + 1} & set(exclude)]
        self._usable = frozenset(usable)
        # Two tables that mirror each other, so that a random pick and a removal by port are both O(1).
        self._free = array("H", usable)
        self._place = array("H", [_ABSENT]) * len(slots)
        for place, slot in enumerate(usable):
            self._place[slot] = place
        self._resting: deque[tuple[float, int]] = deque()
        self._size = len(usable)

    @property
    def free(self) -> int:
        """Port pairs that could be handed out, the resting ones included."""
        return len(self._free) + len(self._resting)

    @property
    def used(self) -> int:
        """Port pairs that are handed out."""
        return self._size - self.free

    def take(self, pairs: int, now: float) -> tuple[int, list[socket.socket]]:
        """Bind ``2 * pairs`` sockets on consecutive ports, the first of them even.

        Return that port and the sockets in port order, non-blocking. ``now`` is in monotonic seconds.
        Raise ResourceError if ports or descriptors have run out, and nothing is taken then.
        """
        self._wake(now)
        set_aside: list[int] = []
        try:
            for _ in range(self._size):
                slot = self._pick(pairs)
                if slot is None:
                    break
                sockets = self._bind(self._first + 2 * slot, 2 * pairs)
                if sockets:
                    return self._first + 2 * slot, sockets
                set_aside.append(slot)
                for other in range(slot + 1, slot + pairs):
                    self._add(other)
            raise ResourceError("Ran out of ports", self._state(pairs, len(set_aside)))
        finally:
            # Somebody else's socket is there: worth another try only later.
            self._resting.extend((now, slot) for slot in set_aside)

    def take_at(self, port: int, pairs: int, now: float) -> list[socket.socket]:
        """As :meth:`take`, but from this port on, which another process has had; it may lie outside of the range.

        Raise ResourceError if it is not to be had.
        """
        self.claim(port, pairs, now)
        sockets = self._bind(port, 2 * pairs)
        if not sockets:
            self.give_back(port, pairs, now)
            raise ResourceError(f"Port {port} is in use")
        return sockets

    def claim(self, port: int, pairs: int, now: float) -> None:
        """Take pairs out of the pool whose sockets are there already. Raise ResourceError if one has been taken."""
        self._wake(now)
        slots = self._slots(port, pairs)
        for slot in slots:
            if self._place[slot] == _ABSENT:
                raise ResourceError(f"Port {self._first + 2 * slot} is in use")
        for slot in slots:
            self._remove(slot)

    def _slots(self, port: int, pairs: int) -> list[int]:
        """The pairs as far as they are the pool's: those of another process may lie outside of the range."""
        first = (port - self._first) // 2
        return [slot for slot in range(first, first + pairs) if slot in self._usable]

    def give_back(self, port: int, pairs: int, now: float) -> None:
        """Let pairs that take() returned rest, then be taken again; their sockets are closed by now."""
        self._resting.extend((now, slot) for slot in self._slots(port, pairs))

    def _state(self, pairs: int, taken: int) -> str:
        """What an operator needs to know of a pool that has nothing left; others have taken ``taken`` pairs."""
        family = "IPv6" if self._family == socket.AF_INET6 else "IPv4"
        wanted = f"no {pairs} consecutive pairs are" if pairs > 1 else "no pair is"
        used = f"{self.used - taken} of {self._size} are in use, other programs have {taken}"
        return f"{family} address {self.address}, ports {self._range[0]} to {self._range[1]}: {wanted} left, {used}"

    def _wake(self, now: float) -> None:
        while self._resting and self._resting[0][0] + REST_S <= now:
            self._add(self._resting.popleft()[1])

    def _add(self, slot: int) -> None:
        self._place[slot] = len(self._free)
        self._free.append(slot)

    def _remove(self, slot: int) -> None:
        place, last = self._place[slot], self._free[-1]
        self._free[place] = last
        self._place[last] = place
        self._free.pop()
        self._place[slot] = _ABSENT

    def _pick(self, pairs: int) -> int | None:
        """Take consecutive slots out of the pool and return the first of them; None if there are none."""
        while True:
            if pairs == 1 and self._free:
                slot: int | None = self._free[self._choose(len(self._free))]
            else:
                slot = self._find_run(pairs)
            if slot is not None:
                for member in range(slot, slot + pairs):
                    self._remove(member)
                return slot
            if not self._resting:
                return None
            self._add(self._resting.popleft()[1])

    def _find_run(self, pairs: int) -> int | None:
        """The first run of free slots from a random start on, around the end of the range."""
        count = len(self._place) - pairs + 1
        if count < 1 or len(self._free) < pairs:
            return None
        start = self._choose(count)
        for slot in chain(range(start, count), range(start)):
            if all(self._place[s] != _ABSENT for s in range(slot, slot + pairs)):
                return slot
        return None

    def _bind(self, port: int, count: int) -> list[socket.socket]:
        """Bind ``count`` sockets from ``port`` on; an empty list if one of the ports is somebody else's."""
        sockets: list[socket.socket] = []
        try:
            for offset in range(count):
                sock = socket.socket(self._family, _DATAGRAM)
                sockets.append(sock)
                self._set_options(sock)
                sock.bind((self.address, port + offset))
        except OSError as error:
            for sock in sockets:
                sock.close()
            if error.errno == errno.EADDRINUSE:
                return []
            self._add_all(port, count)
            if error.errno in _OUT_OF_DESCRIPTORS:
                raise ResourceError("Ran out of file descriptors", _descriptors()) from None
            raise
        return sockets

    def _add_all(self, port: int, count: int) -> None:
        for slot in self._slots(port, count // 2):
            self._add(slot)

    def _set_options(self, sock: socket.socket) -> None:
        # FREEBIND: a floating address may be elsewhere while we start.
        if self._family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if self._tos:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._tos)
            return
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        if self._tos:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._tos)


def _descriptors() -> str:
    return f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files may be open: raise the limit on open files"
