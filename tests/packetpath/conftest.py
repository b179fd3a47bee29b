"""Packet paths for tests, closed behind them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_proc import FakeProc

from rtpengine import kernel
from rtpengine.packetpath import PacketPath


@pytest.fixture(params=[0, 800], ids=["no pause", "pause"])
def path(request: pytest.FixtureRequest) -> Iterator[PacketPath]:
    packet_path = PacketPath(1, request.param)
    yield packet_path
    packet_path.close()


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    """The kernel module's files, for every KernelTable of the test."""
    fake = FakeProc(tmp_path / "mediaproxy")
    monkeypatch.setattr(kernel, "os", fake)
    return fake
