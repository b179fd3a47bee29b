"""Keeps what is in Redis in line with the calls that there are, without ever making a call wait for Redis.

Calls that change are noted here and written soon afterwards, a few at a time: made plain on the loop, sent by a thread
of its own. While Redis is away nothing is noted; when it returns all calls are written once, and those that have ended
meanwhile are forgotten. A connection that was cut counts as that: what answers next may have older data. What waits is
never more than the call-ids.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from rtpengine import NOTICE
from rtpengine.config import Config
from rtpengine.log import call_context
from rtpengine.snapshot import Restorer, SnapshotError
from rtpengine.snapshot_json import restore, serialize
from rtpengine.store import CUT, PASSING, Store, StoreError, Taken, client
from rtpengine.table import CallTable

log = logging.getLogger(__name__)

COALESCE_S = 0.05
"""So long a change waits for others of the same call."""

AT_ONCE = 16
"""Calls that one transaction writes, and that the loop makes plain before it looks after anything else."""

RENEWAL_S = 3600.0
"""So often all calls are written again, long before they expire."""

CHECK_S = 3.0
"""After so long without a change Redis is asked whether it is still there, with all that it should have."""

FIRST_WAIT_S, LAST_WAIT_S = 0.5, 8.0
"""Between attempts to reach Redis while it is away: doubled each time."""

START_S, PATIENCE_S = 3.0, 10.0
"""At start Redis has so long to answer; the longer time if it is there, but not the master yet, or still loading."""

CLOSE_S = 3.0

OVER_MOST = 100_000
"""So many ended calls are remembered at most while calls have yet to be restored; those that ended last."""

_LOAD_AT_ONCE = 256
_T = TypeVar("_T")


class Persistence:
    """The calls of a table in a store. Everything runs on the loop's thread but the store, which has its own."""

    def __init__(self, store: Store, name: str, table: CallTable, restorer: Restorer) -> None:
        """``name`` is what the log calls the server; no password in it."""
        self._store = store
        self._name = name
        self._table = table
        self._restorer = restorer
        self._thread = ThreadPoolExecutor(1, "redis")
        self._changed: dict[str, None] = {}
        self._renewals: dict[str, None] = {}
        self._ended: set[str] = set()
        self._refused: set[str] = set()
        self._over: OrderedDict[str, None] = OrderedDict()
        self._renew_at = 0.0
        self._wake = asyncio.Event()
        self._noting = False
        self._is_writing = False
        self._is_restored = False
        self._owns = False
        self._is_taken = False
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """``in step``, ``behind``, or why nothing is stored now."""
        is_behind = self._waiting or self._is_writing or not self._noting
        return self._trouble or ("behind" if is_behind else "in step")

    @property
    def _waiting(self) -> int:
        """How many calls are to be written or forgotten."""
        return len(self._changed) + len(self._renewals) + len(self._ended)

    # What happens to calls

    def changed(self, call_id: str) -> None:
        """A call is new, or is to be stored as it is now."""
        if self._noting:
            # It may have the call-id of one that has just ended.
            self._ended.discard(call_id)
            self._renewals.pop(call_id, None)
            self._changed[call_id] = None
            self._wake.set()

    def ended(self, call_id: str) -> None:
        """A call is over."""
        # One with its call-id was here after all.
        self._refused.discard(call_id)
        if self._noting:
            self._changed.pop(call_id, None)
            self._renewals.pop(call_id, None)
            self._ended.add(call_id)
            self._wake.set()
        elif not self._is_restored:
            self._over[call_id] = None
            if len(self._over) > OVER_MOST:
                self._over.popitem(last=False)

    def renew(self) -> None:
        """Write everything again before it expires; what changes does not wait for that."""
        self._renew_at = time.monotonic() + RENEWAL_S
        self._renewals = {call.call_id: None for call in self._table if call.call_id not in self._changed}
        # Without calls it is the owner's key that is renewed.
        self._wake.set()

    # Start and end

    async def start(self, *, restores: bool = True) -> None:
        """Restore the calls that are stored, before anything else can begin; then keep in step.

        Without Redis the daemon starts as well, and restores them when it returns, as far as ports are still free.
        ``restores`` false: all calls are here already, from another process, and no other is to be restored, so that
        there is nothing to wait for.
        """
        self._is_restored = not restores
        if restores:
            await self._begin()
        first_wait = FIRST_WAIT_S if restores else 0.0
        self._task = asyncio.get_running_loop().create_task(self._keep_in_step(first_wait))

    async def _begin(self) -> None:
        began = time.monotonic()
        while not await self._reconcile():
            waited = time.monotonic() - began
            if self._is_taken or waited > (PATIENCE_S if self._trouble in PASSING else START_S):
                break
            await asyncio.sleep(FIRST_WAIT_S)

    async def close(self) -> None:
        """Write what is left, unless Redis takes too long, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S):
                if not self._noting and self._is_restored and self._trouble in ("", CUT):
                    # Redis is not known to be away, and whoever starts next is not to find what has ended.
                    await self._reconcile()
                while self._noting and self._waiting:
                    await self._flush()
        except TimeoutError:
            log.warning("%s is too slow: the last changes of %d calls are not stored", self._name, self._waiting)
        self._noting = False
        self._thread.submit(self._store.close)
        self._thread.shutdown(wait=False)

    def leave(self) -> None:
        """Write nothing any more: another process goes on with the calls, and may be writing already."""
        self._store.leave()
        self._noting, self._trouble = False, "a successor stores the calls"
        if self._task is not None:
            self._task.cancel()

    # In step

    async def _keep_in_step(self, wait: float) -> None:
        while not self._is_taken:
            try:
                if not self._noting:
                    await asyncio.sleep(wait)
                    wait = min(max(2 * wait, FIRST_WAIT_S), LAST_WAIT_S)
                    if not await self._reconcile():
                        continue
                if time.monotonic() >= self._renew_at:
                    self.renew()
                if await self._something_to_do() and await self._flush():
                    wait = FIRST_WAIT_S
            except Exception:
                log.exception("internal error in what keeps calls in Redis")
                self._lose_step("internal error")

    async def _something_to_do(self) -> bool:
        """Wait for changes; see now and then whether Redis still has everything, which it may have lost in silence."""
        try:
            async with asyncio.timeout(CHECK_S):
                await self._wake.wait()
        except TimeoutError:
            await self._do(self._store.check)
            return False
        await asyncio.sleep(COALESCE_S)
        return True

    async def _flush(self) -> bool:
        """Write the calls whose turn it is; return whether that went well."""
        snapshots: dict[str, bytes] = {}
        for call_id in self._next():
            data = self._dumped(call_id)
            if data is not None:
                snapshots[call_id] = data
        ended, self._ended = self._ended, set()
        if not self._waiting:
            self._wake.clear()
        self._is_writing = True
        try:
            if not await self._do(lambda: self._store.write(snapshots, ended)):
                return False
        except asyncio.CancelledError:
            # Nobody knows whether it was written; twice does no harm.
            self._changed = dict.fromkeys(snapshots.keys() - self._ended) | self._changed
            self._ended |= ended - self._changed.keys()
            raise
        finally:
            self._is_writing = False
        if not self._waiting and self._trouble:
            log.log(NOTICE, "%s stores calls again, %d of them", self._name, len(self._table))
            self._trouble = ""
        return True

    def _next(self) -> list[str]:
        found = list(islice(self._changed, AT_ONCE))
        found += islice(self._renewals, AT_ONCE - len(found))
        for call_id in found:
            self._changed.pop(call_id, None)
            self._renewals.pop(call_id, None)
        return found

    def _dumped(self, call_id: str) -> bytes | None:
        if call_id not in self._table:
            return None
        with call_context(call_id):
            try:
                return serialize(self._table.find(call_id))
            except Exception:
                log.exception("internal error: the call is not stored")
                return None

    async def _do(self, action: Callable[[], _T]) -> bool:
        """Have the store do something; what it refuses is no internal error. Return whether it was done."""
        return await self._ask(action) is not None

    async def _ask(self, action: Callable[[], _T]) -> tuple[_T] | None:
        try:
            return (await asyncio.get_running_loop().run_in_executor(self._thread, action),)
        except Taken as reason:
            self._is_taken = True
            self._lose_step(f"{reason}: this one stores nothing any more")
        except StoreError as reason:
            self._lose_step(str(reason))
        return None

    def _lose_step(self, reason: str) -> None:
        self._noting = False
        self._changed.clear()
        self._renewals.clear()
        self._ended.clear()
        self._wake.clear()
        if reason != self._trouble:
            log.warning("%s does not store calls: %s", self._name, reason)
        self._trouble = reason

    async def _reconcile(self) -> bool:
        """Restore what has never been, then note changes, beginning with all that differs."""
        if not self._is_restored and not await self._restore():
            return False
        if not self._owns and not await self._do(self._store.take):
            return False
        self._owns = True
        found = await self._ask(self._store.go_on)
        if found is None:
            return False
        live = {call.call_id for call in self._table}
        gone = found[0] - live - self._refused
        # Where there is no room to write, there is when this is done.
        if gone and not await self._do(lambda: self._store.forget(gone)):
            return False
        self._noting = True
        self.renew()
        # Those that have ended in the meantime.
        self._ended.update(found[0] - gone - {call.call_id for call in self._table} - self._refused)
        self._wake.set()
        return True

    # Restoring

    async def _restore(self) -> bool:
        began = time.monotonic()
        found = await self._ask(self._store.call_ids)
        if found is None:
            return False
        call_ids = sorted(found[0])
        count = 0
        collecting = gc.isenabled()
        gc.disable()
        try:
            for first in range(0, len(call_ids), _LOAD_AT_ONCE):
                some = call_ids[first : first + _LOAD_AT_ONCE]
                loaded = await self._ask(lambda some=some: self._store.load(some))  # type: ignore[misc]
                if loaded is None:
                    return False
                for number, (call_id, data) in enumerate(zip(some, loaded[0], strict=True)):
                    count += data is not None and self._restored(call_id, data)
                    if number % AT_ONCE == 0:
                        await asyncio.sleep(0)
        finally:
            if collecting:
                gc.enable()
        self._is_restored = True
        self._over.clear()
        if count or self._refused:
            took = time.monotonic() - began
            log.log(NOTICE, "%s: %d of %d calls restored in %.1f s", self._name, count, len(call_ids), took)
        return True

    def _restored(self, call_id: str, data: bytes) -> bool:
        if call_id in self._table or call_id in self._over:
            return False
        with call_context(call_id):
            try:
                restore(self._restorer, self._table, data, call_id)
            except SnapshotError as reason:
                self._refused.add(call_id)
                log.warning("the call is not restored: %s", reason)
                return False
        return True


def open_persistence(config: Config, table: CallTable) -> Persistence | None:
    """What the options ask for; None where there is no Redis."""
    server = config.redis_server
    if server is None:
        return None
    restorer = Restorer(table.transport, table.tools, late=True)
    store = Store(lambda: client(server), config.instance, secrets.token_hex(8))
    return Persistence(store, f"Redis ({server})", table, restorer)
