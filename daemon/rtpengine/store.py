"""Calls in Redis, as bytes under their call-ids: what is written where, and what can go wrong there.

Everything blocks, for at most a few seconds, and is for one thread at a time. All keys begin with ``rtpengine:`` and
the name of the instance, and no other key is ever touched::

    rtpengine:INSTANCE:owner        string   who writes: TIME:TOKEN of the daemon that was started last, TIME being when
    rtpengine:INSTANCE:calls        set      call-ids
    rtpengine:INSTANCE:call:CALLID  string   the snapshot of a call
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from rtpengine.redis_server import Server

PREFIX = "rtpengine"
EXPIRY_S = 86_400
"""What is not written again in this time is forgotten."""

CONNECT_S = 1.0
ANSWER_S = 2.0

_REPLICA, _LOADING = "it is a replica, not the master", "it is still loading its data"
PASSING = (_REPLICA, _LOADING)
"""Reasons that pass by themselves in a while."""

CUT = "the connection was cut"
"""The reason that says nothing about how Redis is now."""

_AT_ONCE = 500
_T = TypeVar("_T")


class StoreError(Exception):
    """Redis does not do what it should; the text says why, without capital letter, full stop, or a password."""


class Taken(StoreError):
    """Another daemon writes under the same instance, which it has been told to take over."""


class _Cut(redis.ConnectionError):
    """The connection that a client had is gone."""


def client(server: Server) -> Any:
    """A client for the server, which connects at its first command, and never again: see _connects_once.

    Raise redis.RedisError where Sentinel fails.
    """
    common: dict[str, Any] = {
        "username": server.user,
        "password": server.password,
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": ANSWER_S,
        # Whoever waits for an answer decides what to do instead.
        "retry": Retry(NoBackoff(), 0),
    }
    if server.address is None:
        # without annotations in some versions
        new_sentinel: Any = Sentinel
        sentinel = new_sentinel([tuple(one) for one in server.sentinels], sentinel_kwargs=dict(common))
        host, port = sentinel.discover_master(server.name)
        common["redis_connect_func"] = _connects_once()
        return redis.Redis(host=host, port=port, db=server.database, **common)
    common["redis_connect_func"] = _connects_once()
    if not server.address.port:
        return redis.Redis(unix_socket_path=server.address.host, db=server.database, **common)
    return redis.Redis(host=server.address.host, port=server.address.port, db=server.database, **common)


def _connects_once() -> Callable[[Any], None]:
    """For a client that is not to connect again in silence, as the library's pool does before a command.

    What answers then may be a server that was restarted, or another one: with data, but not with all that was written.
    """
    count = 0

    def connected(connection: Any) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise _Cut
        connection.on_connect()

    return connected


class Store:
    """The calls of one instance.

    ``token`` names this process, and nobody else ever. ``connect`` makes a client. ``now`` is Unix time, in seconds.
    All methods raise StoreError.
    """

    def __init__(
        self, connect: Callable[[], Any], instance: str, token: str, now: Callable[[], float] = time.time
    ) -> None:
        self._connect = connect
        self._redis: Any = None
        self._now = now
        self._token, self._since, self._me = token, 0, b""
        self._has_left = False
        prefix = f"{PREFIX}:{instance}".encode()
        self._owner, self._calls, self._call = prefix + b":owner", prefix + b":calls", prefix + b":call:"

    def take(self) -> bool:
        """Be the one that writes from now on; return whether another one was before, which will notice."""
        return self._run(self._take)

    def leave(self) -> None:
        """Not take it any more, as a successor does now; for any thread, also while another method runs."""
        self._has_left = True

    def _take(self) -> bool:
        self._remove_unless(self._owner, b"string")
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.watch(self._owner)
            former = pipe.get(self._owner)
            if self._has_left:
                raise Taken("a successor goes on with the calls")
            if not former or former != self._me:
                # Later than the former one by any clock.
                self._since = max(int(self._now()), _since(former) + 1)
                self._me = f"{self._since}:{self._token}".encode()
            pipe.multi()
            pipe.set(self._owner, self._me, ex=EXPIRY_S)
            pipe.execute()
        return former not in (None, self._me)

    def check(self) -> None:
        """Raise StoreError unless everything that was written is still there, and nobody else writes."""
        self._run(self._check)

    def _check(self) -> None:
        # One that has become a replica lets read all the same.
        self._require_master()
        self._judge(self._redis.get(self._owner))

    def _require_master(self) -> None:
        if self._redis.info("replication").get("role") != "master":
            raise StoreError(_REPLICA)

    def _judge(self, owner: bytes | None) -> None:
        loss = self._loss(owner)
        if loss:
            raise StoreError(loss)

    def _loss(self, owner: bytes | None) -> str:
        """What has become of our data, if it is not there; raise Taken if somebody else writes."""
        if owner is None:
            return "its data is gone"
        if owner == self._me:
            return ""
        if 0 < _since(owner) < self._since:
            return "its data is from an earlier time"
        raise Taken("another daemon has taken the instance over")

    def go_on(self) -> set[str]:
        """After it was away: the calls that are there. Raise Taken if somebody else writes now."""
        return self._run(self._go_on)

    def _go_on(self) -> set[str]:
        found = self._call_ids()
        if self._loss(self._redis.get(self._owner)):
            self._redis.set(self._owner, self._me, ex=EXPIRY_S)
        return found

    def call_ids(self) -> set[str]:
        """The calls that are there. Keys of ours that somebody has made something else of are removed."""
        return self._run(self._call_ids)

    def _call_ids(self) -> set[str]:
        self._remove_unless(self._owner, b"string")
        self._remove_unless(self._calls, b"set")
        return {_text(member) for member in self._redis.smembers(self._calls)}

    def _remove_unless(self, key: bytes, kind: bytes) -> None:
        if self._redis.type(key) not in (kind, b"none"):
            self._redis.delete(key)

    def load(self, call_ids: Sequence[str]) -> list[bytes | None]:
        """Their snapshots, None for those that are gone."""
        return self._run(lambda: self._redis.mget([self._key(call_id) for call_id in call_ids]) if call_ids else [])

    def write(self, snapshots: Mapping[str, bytes], ended: Collection[str]) -> None:
        """Store calls, and forget those that have ended: all of it or nothing."""
        self._run(lambda: self._write(snapshots, ended))

    def _write(self, snapshots: Mapping[str, bytes], ended: Collection[str]) -> None:
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.watch(self._owner)
            self._judge(pipe.get(self._owner))
            pipe.multi()
            pipe.set(self._owner, self._me, ex=EXPIRY_S)
            for call_id, snapshot in snapshots.items():
                pipe.set(self._key(call_id), snapshot, ex=EXPIRY_S)
            if snapshots:
                pipe.sadd(self._calls, *map(_bytes, snapshots))
            gone = list(ended)
            for first in range(0, len(gone), _AT_ONCE):
                some = gone[first : first + _AT_ONCE]
                pipe.delete(*map(self._key, some))
                pipe.srem(self._calls, *map(_bytes, some))
            pipe.expire(self._calls, EXPIRY_S)
            pipe.execute()

    def forget(self, call_ids: Collection[str]) -> None:
        """Forget calls; works where there is no room to store one."""
        self._run(lambda: self._forget(list(call_ids)))

    def _forget(self, call_ids: Sequence[str]) -> None:
        for first in range(0, len(call_ids), _AT_ONCE):
            some = call_ids[first : first + _AT_ONCE]
            self._redis.delete(*map(self._key, some))
            self._redis.srem(self._calls, *map(_bytes, some))

    def close(self) -> None:
        """Give the connection up; another one is made when it is needed."""
        if self._redis is not None:
            client, self._redis = self._redis, None
            try:
                client.connection_pool.disconnect()
            except (redis.RedisError, OSError):
                pass  # it was broken

    def _key(self, call_id: str) -> bytes:
        return self._call + _bytes(call_id)

    def _run(self, action: Callable[[], _T]) -> _T:
        try:
            if self._redis is None:
                self._redis = self._connect()
                self._require_master()
            return action()
        except (redis.RedisError, OSError, StoreError) as error:
            self.close()
            raise (error if isinstance(error, StoreError) else StoreError(_reason(error))) from None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


_OWNER = re.compile(rb"([0-9]{1,18}):[^:]+")


def _since(owner: bytes | None) -> int:
    """Since when an owner is one; 0 if there is none, or one that does not tell."""
    match = _OWNER.fullmatch(owner or b"")
    return int(match[1]) if match else 0


# What servers say when they refuse something, as far as the library leaves it, and what it comes to.
_ANSWERS = {
    "'maxmemory'": "it is full",
    "READONLY ": _REPLICA,
    "LOADING ": _LOADING,
    "NOAUTH ": "it wants a password",
    "WRONGPASS ": "it does not accept the password",
    "NOPERM ": "the user may not do that",
    "MISCONF ": "it cannot save its data to disk",
}


def _reason(error: Exception) -> str:
    # Of a transaction, the words before that repeat what was written.
    text = str(error).rpartition("caused error: ")[2]
    for word, reason in _ANSWERS.items():
        if word in text:
            return reason
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return _REPLICA
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return _LOADING
    if isinstance(error, redis.AuthenticationError):
        return _ANSWERS["NOAUTH " if "required" in text else "WRONGPASS "]
    if isinstance(error, redis.WatchError):
        return "another daemon has just written to it"
    if isinstance(error, _Cut):
        return CUT
    if isinstance(error, redis.TimeoutError):
        return f"no answer within {ANSWER_S:.0f} s"
    if isinstance(error, (redis.ConnectionError, OSError)):
        return "it cannot be reached"
    return f"it says {text[:80]!a}"
