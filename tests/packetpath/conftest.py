"""Packet paths for tests, closed behind them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rtpengine.packetpath import PacketPath


@pytest.fixture(params=[0, 800], ids=["no pause", "pause"])
def path(request: pytest.FixtureRequest) -> Iterator[PacketPath]:
    packet_path = PacketPath(1, request.param)
    yield packet_path
    packet_path.close()
