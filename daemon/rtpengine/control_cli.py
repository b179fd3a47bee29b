"""The port of rtpengine-ctl: one line in, one line of JSON out, as often as the client likes.

A request is a JSON list of words, or plain words divided by blanks, as ``nc`` sends them. The reply is an object with
``result`` ``ok`` and ``data``, or ``result`` ``error`` and ``reason``.

A browser on this host can be talked into sending something here by any page. It cannot choose how that begins, so a
line that belongs to another protocol ends the connection, and nothing behind it is looked at.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from rtpengine import ProtocolError
from rtpengine.log import RateLimited
from rtpengine.recognize import start_line_of

log = logging.getLogger(__name__)

# Six bytes for each character of the longest call-id, which JSON may need, and the words around it.
MAX_LINE = 8_192
MAX_CONNECTIONS = 32
BACKLOG = 16
IDLE_S = 300.0
# Who does not read a reply for so long is dropped.
SLOW_S = 10.0

# As call-ids come here they may have any byte above these.
_CONTROL_CHARACTER = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")

Execute = Callable[[list[str], str], Any]


class Server:
    """Listens until closed. This host is served, and clients within ``allowed``; others count in ``refused``.

    ``execute`` runs a command of a client at some address and returns plain values, or raises ProtocolError with the
    reason for the client.
    """

    def __init__(
        self,
        execute: Execute,
        allowed: Collection[IPv4Network | IPv6Network] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.allowed = allowed
        self.refused = 0
        self._execute = execute
        self._warnings = RateLimited(log, monotonic)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Serve on a bound socket, which then belongs to the server."""
        self._listener = await asyncio.start_server(self._on_connection, sock=sock, limit=MAX_LINE, backlog=BACKLOG)

    def close(self) -> None:
        """Stop listening and drop all connections; a second call does nothing."""
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            source = _source(writer)
            if source is not None and self._admits(source):
                await self._serve(source, reader, writer)
        except asyncio.CancelledError:
            pass  # by close(); the server's own callback would log it
        except (OSError, TimeoutError):
            pass  # gone, idle or too slow
        except Exception:
            log.exception("internal error on the port of --listen-cli")
        finally:
            await _end(writer)
            self._tasks.discard(task)

    def _admits(self, source: str) -> bool:
        address = ip_address(source)
        if address.is_loopback or any(address in network for network in self.allowed):
            return True
        self.refused += 1
        return False

    async def _serve(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) > MAX_CONNECTIONS:
            await self._turn_away(source, writer, f"there are {MAX_CONNECTIONS} connections already")
            return
        while True:
            try:
                # not wait_for(): before Python 3.12 it can swallow what close() does
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
            except ValueError:
                await self._reply(writer, _error(f"the line is longer than {MAX_LINE} bytes"))
                return
            if not line.endswith(b"\n"):  # half a line is no request
                return
            reason = _foreign(line)
            if reason is not None:
                await self._turn_away(source, writer, reason)
                return
            await self._reply(writer, self._answer(line, source))

    async def _turn_away(self, source: str, writer: asyncio.StreamWriter, reason: str) -> None:
        self._warnings.warning("closed a connection of %s: %s", source, reason)
        await self._reply(writer, _error(reason))

    async def _reply(self, writer: asyncio.StreamWriter, reply: dict[str, Any]) -> None:
        writer.write(json.dumps(reply).encode() + b"\n")
        try:
            async with asyncio.timeout(SLOW_S):
                await writer.drain()
        except TimeoutError:
            log.info("dropped a client of --listen-cli, which does not read")
            writer.transport.abort()
            raise

    def _answer(self, line: bytes, source: str) -> dict[str, Any]:
        try:
            words = _words(line)
            return {"result": "ok", "data": self._execute(words, source)}
        except ProtocolError as error:
            return _error(str(error))
        except Exception:
            log.exception("internal error on a command of rtpengine-ctl")
            return _error("internal error, the log has the details")


def _source(writer: asyncio.StreamWriter) -> str | None:
    """The address of a client, None if it has gone again already."""
    source = writer.get_extra_info("peername")
    return source[0].partition("%")[0].removeprefix("::ffff:") if source else None


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close a connection when the client has read what there is for it, or has had time to."""
    writer.close()
    try:
        async with asyncio.timeout(SLOW_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


def _foreign(line: bytes) -> str | None:
    """Why a line cannot have been meant for this port, None if it can; a mistyped command can."""
    protocol = start_line_of(line)
    if protocol is not None:
        return f"this is {protocol}, which this port does not speak"
    if _CONTROL_CHARACTER.search(line.removesuffix(b"\n").removesuffix(b"\r")):
        return "a line with control characters, which no command has"
    return None


def _words(line: bytes) -> list[str]:
    """What a request says, as text that may hold bytes which are no UTF-8, as call-ids do."""
    text = line.decode(errors="surrogateescape").strip()
    if not text.startswith("["):
        words = text.split()
    else:
        try:
            words = json.loads(text)
        except (ValueError, RecursionError):
            raise ProtocolError("neither words nor a JSON list of words") from None
        if not all(isinstance(word, str) for word in words):
            raise ProtocolError("neither words nor a JSON list of words")
    if not words:
        raise ProtocolError("no command; usage lists them all")
    return words


def _error(reason: str) -> dict[str, Any]:
    return {"result": "error", "reason": reason}
