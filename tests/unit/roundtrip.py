"""A pytest plugin: after each offer and answer of every test, the call goes through a snapshot into a second transport.

What comes out must be what went in: the same configuration, keys and proven sources at every socket, and the same
snapshot again. ``pytest -p roundtrip`` with this directory on the path; test_snapshot.py runs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import TOOLS, FakeTransport

from rtpengine.call import Call
from rtpengine.snapshot import Restorer, dump

WALL = 1_700_000_000.0

seen = [0]


def restored(call: Call, now: float, tools: Any = TOOLS) -> tuple[Call, FakeTransport]:
    """The call, by way of JSON, at sockets that exist on paper."""
    transport = FakeTransport()
    restorer = Restorer(transport, tools, late=True)
    copy = restorer.restore(json.loads(json.dumps(dump(call, now, WALL))), now, WALL)
    assert transport.held == {stream for ports in transport.opened.values() for stream in ports.streams}
    restorer.resume(copy)
    assert not transport.held
    return copy, transport


def _keys(transport: FakeTransport) -> dict[int, Any]:
    # The number of a scope is any that is free.
    return {stream: keys for stream, (_, *keys) in transport.keys.items() if keys != [None, None]}


def check(call: Call, now: float) -> None:
    """Fail unless the call is the same after a round trip."""
    if not isinstance(call.transport, FakeTransport):
        return
    copy, transport = restored(call, now, call.tools)
    open_streams = {s for ports in call.media_ports for port_set in ports.open_sets() for s in port_set.streams}
    assert {s: c for s, c in call.transport.configs.items() if s in open_streams} == transport.configs
    assert {s: k for s, k in _keys(call.transport).items() if s in open_streams} == _keys(transport)
    assert dump(copy, now, WALL) == dump(call, now, WALL)
    seen[0] += 1


def _checked(method: Callable[..., Any], position: int) -> Callable[..., Any]:
    def call_and_check(self: Call, *arguments: Any, **more: Any) -> Any:
        result = method(self, *arguments, **more)
        check(self, arguments[position])
        return result

    return call_and_check


@pytest.fixture(autouse=True)
def _round_trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Call, "offer", _checked(Call.offer, 3))
    monkeypatch.setattr(Call, "answer", _checked(Call.answer, 4))
    monkeypatch.setattr(Call, "remove_leg", _checked(Call.remove_leg, 1))
    yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    print(f"\n{seen[0]} round trips")
