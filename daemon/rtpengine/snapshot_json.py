"""Snapshots as the bytes that are stored and handed over, by the clocks of this machine."""

from __future__ import annotations

import json
import time

from rtpengine.call import Call
from rtpengine.snapshot import Restorer, SnapshotError, dump
from rtpengine.table import CallTable


def serialize(call: Call) -> bytes:
    """A call as JSON in ASCII."""
    return json.dumps(dump(call, time.monotonic(), time.time()), separators=(",", ":")).encode()


def restore(restorer: Restorer, table: CallTable, data: bytes, call_id: str | None = None) -> Call:
    """Put the call of a snapshot into the table and let its packets pass; ``call_id`` is whose it should be.

    Raise SnapshotError.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise SnapshotError("no JSON") from None
    now = time.monotonic()
    call = restorer.restore(values, now, time.time())
    if (call_id is not None and call.call_id != call_id) or call.call_id in table:
        call.close()
        raise SnapshotError("it has the call-id of another call")
    table.adopt(call, now)
    restorer.resume(call)
    return call
