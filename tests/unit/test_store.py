"""What is said to Redis, by a client on paper, and what its refusals come to; the real one is in tests/system."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.sentinel import MasterNotFoundError

from rtpengine import store
from rtpengine.redis_server import Address, Server
from rtpengine.store import EXPIRY_S, Store, StoreError, Taken


class Client:
    """Keys in a dictionary; ``failing`` has errors by command."""

    def __init__(self) -> None:
        self.data: dict[bytes, Any] = {}
        self.expiry: dict[bytes, int] = {}
        self.failing: dict[str, Exception] = {}
        self.role = "master"
        self.log: list[str] = []
        self.connection_pool = self
        self.disconnected = 0

    def disconnect(self) -> None:
        self.disconnected += 1
        self._note("disconnect")

    def _note(self, command: str) -> None:
        self.log.append(command)
        if command in self.failing:
            raise self.failing[command]

    def info(self, section: str) -> dict[str, str]:
        self._note("info")
        return {"role": self.role}

    def type(self, key: bytes) -> bytes:
        kinds = {bytes: b"string", set: b"set", list: b"list"}
        return kinds[type(self.data[key])] if key in self.data else b"none"

    def get(self, key: bytes) -> Any:
        self._note("get")
        return self.data.get(key)

    def mget(self, keys: list[bytes]) -> list[Any]:
        return [self.data.get(key) for key in keys]

    def set(self, key: bytes, value: bytes, ex: int) -> None:
        self._note("set")
        self.data[key] = value
        self.expiry[key] = ex

    def delete(self, *keys: bytes) -> None:
        self._note("delete")
        for key in keys:
            self.data.pop(key, None)

    def smembers(self, key: bytes) -> set[bytes]:
        return set(self.data.get(key, set()))

    def sadd(self, key: bytes, *members: bytes) -> None:
        self.data.setdefault(key, set()).update(members)

    def srem(self, key: bytes, *members: bytes) -> None:
        self.data.get(key, set()).difference_update(members)

    def expire(self, key: bytes, seconds: int) -> None:
        self.expiry[key] = seconds

    def pipeline(self, transaction: bool) -> Client:
        assert transaction
        return self

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._note("reset")

    def watch(self, key: bytes) -> None:
        self._note("watch")

    def multi(self) -> None:
        self._note("multi")

    def execute(self) -> None:
        self._note("exec")


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def calls(client: Client) -> Store:
    found = Store(lambda: client, "one", "me")
    found.take()
    client.log.clear()
    return found


def test_there_and_back(client: Client, calls: Store) -> None:
    odd = "c\udcff:\n"
    calls.write({"a": b"1", odd: b"2"}, [])
    assert calls.call_ids() == {"a", odd}
    assert calls.load(["a", odd, "x"]) == [b"1", b"2", None]
    assert calls.load([]) == []
    assert set(client.data) == {b"rtpengine:one:" + name for name in (b"owner", b"calls", b"call:a", b"call:c\xff:\n")}
    assert set(client.expiry.values()) == {EXPIRY_S}
    calls.write({}, ["a"])
    calls.forget([odd])
    assert calls.call_ids() == set()
    assert set(client.data) == {b"rtpengine:one:owner", b"rtpengine:one:calls"}


def test_many_at_once(client: Client, calls: Store) -> None:
    many = [str(n) for n in range(1200)]
    calls.write(dict.fromkeys(many, b"x"), [])
    calls.forget(many[:600])
    calls.write({}, many[600:])
    assert calls.call_ids() == set()


def test_who_is_the_last_writes(client: Client, calls: Store) -> None:
    other = Store(lambda: client, "one", "another")
    assert other.take()
    assert not other.take()
    for action in (lambda: calls.write({"a": b"1"}, []), calls.check, calls.go_on):
        with pytest.raises(Taken):
            action()
    other.check()
    assert other.go_on() == set()
    del client.data[b"rtpengine:one:owner"]
    for action in (lambda: other.write({"a": b"1"}, []), other.check):
        with pytest.raises(StoreError, match="its data is gone"):
            action()
    assert other.go_on() == set()
    other.write({"a": b"1"}, [])
    assert other.call_ids() == {"a"}


def test_keys_that_somebody_has_made_something_else_of(client: Client, calls: Store) -> None:
    client.data[b"rtpengine:one:calls"] = b"text"
    client.data[b"rtpengine:one:owner"] = []
    assert calls.call_ids() == set()
    assert client.data == {}


def test_a_replica_is_no_use(client: Client, calls: Store) -> None:
    calls.close()
    client.role = "slave"
    with pytest.raises(StoreError, match="it is a replica"):
        calls.check()
    client.role = "master"
    calls.check()
    client.role = "slave"
    with pytest.raises(StoreError, match="it is a replica"):
        calls.check()


def test_data_from_an_earlier_time(client: Client) -> None:
    """Of a backup, or of a replica that was behind: that somebody else wrote then does not count."""
    owner = b"rtpengine:one:owner"
    former, calls = (Store(lambda: client, "one", token, lambda: 100.0) for token in ("a", "b"))
    assert not former.take()
    old = client.data[owner]
    assert calls.take()
    assert [old, client.data[owner]] == [b"100:a", b"101:b"], "later by whatever clock"
    for action in (lambda: calls.write({"a": b"1"}, []), calls.check):
        client.data[owner] = old
        with pytest.raises(StoreError, match="its data is from an earlier time") as caught:
            action()
        assert not isinstance(caught.value, Taken)
    assert calls.go_on() == set()
    calls.check()
    with pytest.raises(Taken):
        former.check()


@pytest.mark.parametrize("owner", [b"somebody", b"x:y", b"0123456789abcdef"])
def test_owners_that_do_not_say_since_when(client: Client, calls: Store, owner: bytes) -> None:
    client.data[b"rtpengine:one:owner"] = owner
    with pytest.raises(Taken):
        calls.go_on()


def test_who_has_left_takes_nothing(client: Client, calls: Store) -> None:
    """Though it may have been about to when its successor came."""
    owner = client.data[b"rtpengine:one:owner"]
    former = Store(lambda: client, "one", "former")
    former.leave()
    with pytest.raises(Taken):
        former.take()
    assert client.data[b"rtpengine:one:owner"] == owner


def test_a_client_connects_once() -> None:
    class Connection:
        count = 0

        def on_connect(self) -> None:
            self.count += 1

    for server in (Server(0, Address("::1", 1)), Server(1, Address("/run/x", 0))):
        connected = store.client(server).connection_pool.connection_kwargs["redis_connect_func"]
        connection = Connection()
        connected(connection)
        with pytest.raises(redis.ConnectionError):
            connected(connection)
        assert connection.count == 1, "nothing is said to a server that may be another one"


def test_a_broken_connection_is_made_anew(client: Client, calls: Store) -> None:
    client.failing["get"] = redis.ConnectionError("Connection closed by server.")
    client.failing["disconnect"] = OSError(9, "Bad file descriptor")
    with pytest.raises(StoreError):
        calls.check()
    client.failing.clear()
    client.log.clear()
    calls.check()
    assert client.log == ["info", "info", "get"], "a new one is asked for its role too"
    calls.close()
    calls.close()


ERRORS = [
    (redis.ResponseError("Command # 2 (SET a {\"key\"}) of pipeline caused error: command not allowed when used memory "
                         "> 'maxmemory'."), "it is full"),
    (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), "it is a replica, not the master"),
    (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "it is still loading its data"),
    (redis.AuthenticationError("Authentication required."), "it wants a password"),
    (redis.AuthenticationError("invalid username-password pair"), "it does not accept the password"),
    (redis.ResponseError("NOPERM this user has no permissions"), "the user may not do that"),
    (redis.ResponseError("MISCONF Redis is configured to save"), "it cannot save its data to disk"),
    (redis.WatchError("Watched variable changed."), "another daemon has just written to it"),
    (redis.TimeoutError("Timeout reading from socket"), "no answer within 2 s"),
    (redis.ConnectionError("Error 111 connecting"), "it cannot be reached"),
    (store._Cut(), "the connection was cut"),
    (OSError(111, "Connection refused"), "it cannot be reached"),
    (MasterNotFoundError("No master found for 'x'"), "it cannot be reached"),
    (redis.ResponseError("Command # 1 (SET x secret) of pipeline caused error: ERR odd"), "it says 'ERR odd'"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "reason"), ERRORS, ids=lambda value: str(value)[:30])
def test_reasons(client: Client, calls: Store, error: Exception, reason: str) -> None:
    client.failing["exec"] = error
    with pytest.raises(StoreError) as caught:
        calls.write({"a": b"1"}, [])
    assert str(caught.value) == reason


def test_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sentinel:
        def __init__(self, sentinels: list[tuple[str, int]], sentinel_kwargs: dict[str, Any]) -> None:
            assert sentinels == [("192.0.2.1", 26379)] and sentinel_kwargs["password"] == "p"
            assert "redis_connect_func" not in sentinel_kwargs

        def discover_master(self, name: str) -> tuple[str, int]:
            assert name == "calls"
            return "192.0.2.7", 6380

    monkeypatch.setattr(store, "Sentinel", Sentinel)
    found = store.client(Server(3, None, (Address("192.0.2.1", 26379),), "calls", "u", "p"))
    about = found.connection_pool.connection_kwargs
    assert (about["host"], about["port"], about["db"]) == ("192.0.2.7", 6380, 3)
    assert about["redis_connect_func"] is not None
    assert (about["username"], about["password"], about["socket_timeout"]) == ("u", "p", store.ANSWER_S)
    plain = store.client(Server(0, Address("::1", 1))).connection_pool.connection_kwargs
    assert (plain["host"], plain["port"], plain["username"]) == ("::1", 1, None)
    local = store.client(Server(1, Address("/run/x", 0))).connection_pool.connection_kwargs
    assert (local["path"], local["db"]) == ("/run/x", 1)
