"""What is given to systemd and found again, as far as no daemon is needed; the whole is in tests/system."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtpengine import fdstore
from rtpengine.process import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


@pytest.mark.parametrize(
    ("environ", "offered"),
    [
        ({}, False),
        ({"FDSTORE": "5"}, False),
        ({"NOTIFY_SOCKET": "/x"}, False),
        ({"NOTIFY_SOCKET": "/x", "FDSTORE": "0"}, False),
        ({"NOTIFY_SOCKET": "/x", "FDSTORE": "5"}, True),
    ],
)
def test_whether_there_is_a_store(environ: dict[str, str], offered: bool) -> None:
    assert fdstore.is_offered(environ) is offered


def test_descriptors_go_with_a_state(manager: socket.socket) -> None:
    reader, writer = os.pipe()
    assert notify("FDSTORE=1", [writer])
    data, (descriptor,), _, _ = socket.recv_fds(manager, 100, 10)
    os.write(descriptor, b"x")
    assert (data, os.read(reader, 1)) == (b"FDSTORE=1", b"x")
    for each in (reader, writer, descriptor):
        os.close(each)


def test_the_barrier_waits_for_systemd_but_not_for_ever(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fdstore, "BARRIER_S", 0.05)
    assert not fdstore._settled()
    _, (descriptor,), _, _ = socket.recv_fds(manager, 100, 10)
    os.close(descriptor)
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not fdstore._settled()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
        {"LISTEN_PID": "us", "LISTEN_FDS": "x"},
        {"LISTEN_PID": "us", "LISTEN_FDS": ""},
        {"LISTEN_PID": "us", "LISTEN_FDS": "0"},
    ],
)
def test_nothing_was_left(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "us" else value)
    assert fdstore.find() is None
    assert not any(name in os.environ for name in environ), "no child of ours shall believe that it is meant"
