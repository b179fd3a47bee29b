"""The messages between a daemon and its successor, and who is not listened to; the whole is in tests/system."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rtpengine import handover
from rtpengine.handover import Channel, HandoverError, Predecessor, Successions


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = map(Channel, socket.socketpair())
    yield one, other
    one.close()
    other.close()


def test_messages_and_descriptors_arrive_together(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    reader, writer = os.pipe()
    one.send({"a": "\udcff"}, [writer])
    one.send({"b": 1})
    message, (descriptor,) = other.receive()
    assert message == {"a": "\udcff"}
    os.write(descriptor, b"x")
    assert os.read(reader, 1) == b"x"
    assert other.receive() == ({"b": 1}, [])
    for each in (reader, writer, descriptor):
        os.close(each)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the other process has ended"),
        (b"\1\0", "the other process has ended"),
        (struct.pack("=I", 10) + b"{", "the other process has ended"),
        (struct.pack("=I", 1 << 30), "a message is too long"),
        (struct.pack("=I", 1) + b"{", "the other process does not answer"),
    ],
)
def test_what_is_no_message(ends: tuple[Channel, Channel], data: bytes, reason: str) -> None:
    one, other = ends
    reader, writer = os.pipe()
    if data:
        socket.send_fds(one.sock, [data], [writer])
    one.close()
    with pytest.raises(HandoverError, match=reason):
        other.receive()
    os.close(writer)
    # Nobody has the other end any more: what came with the message is closed.
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_who_does_not_listen(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.close()
    with pytest.raises(HandoverError, match="does not listen any more"):
        for _ in range(100):
            one.send({"a": "x" * 100_000})


def test_who_is_silent(ends: tuple[Channel, Channel]) -> None:
    ends[0].sock.settimeout(0.01)
    with pytest.raises(HandoverError, match="does not answer"):
        ends[0].receive()


@pytest.mark.parametrize("hello", [{"version": 99}, {}])
def test_another_version(tmp_path: Path, hello: dict[str, int]) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        assert Predecessor.meet(path) is None, "it does not listen yet"
        listening.listen()
        pid = os.fork()
        if not pid:
            channel = Channel(listening.accept()[0])
            channel.receive()
            channel.send(hello)
            os._exit(0)
        with pytest.raises(HandoverError, match="of another version"):
            Predecessor.meet(path)
        os.waitpid(pid, 0)
    assert Predecessor.meet(str(tmp_path / "nothing")) is None
    with pytest.raises(HandoverError, match="cannot connect"):
        Predecessor.meet("/" + "x" * 90 + "/" * 10 + os.devnull)


@pytest.mark.parametrize(("table", "withdrawn"), [(3, []), (4, ["audio"]), (None, ["audio"])])
def test_only_who_has_the_table_gets_what_is_in_it(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch, table: int | None, withdrawn: list[str]
) -> None:
    """Else the kernel would forward on for calls that nobody could take back from it."""
    done: list[str] = []
    transport = SimpleNamespace(withdraw=done.append, hold=lambda ports: [], resume=lambda ports: None)
    call = SimpleNamespace(call_id="c")
    monkeypatch.setattr(handover, "port_sets", lambda _: ["audio"])
    monkeypatch.setattr(handover, "serialize", lambda _: b"all about it")
    ours: Any = (transport, [call], {}, SimpleNamespace(number=3))
    one, other = ends
    one.send({"go": 4711, "table": table})
    one.send({"taken": True})
    one.send({"ended": True})
    assert Successions("", *ours).serve(other) is True
    assert done == withdrawn
    assert one.receive()[0]["call"] == "all about it"


@pytest.mark.parametrize(
    ("bound", "asked"), [("0.0.0.0", "::"), ("127.0.0.1", "127.0.0.1"), ("::", "::"), ("::1", "::1")]
)
def test_control_sockets_are_found_by_their_option(ends: tuple[Channel, Channel], bound: str, asked: str) -> None:
    with socket.create_server((bound, 0), family=socket.AF_INET6 if ":" in bound else socket.AF_INET) as listener:
        port = listener.getsockname()[1]
        nothing: Any = (None, [], {"listen-tcp": listener}, None)
        one, other = ends
        one.send({"hello": 1})
        assert Successions("", *nothing).serve(other) is False
        met = Predecessor(one, *one.receive())
        assert met.listener("listen-udp", asked, port) is None
        found = met.listener("listen-tcp", asked, port)
        assert found is not None
        found.close()


def test_others_get_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "socket"
    path.write_text("left by somebody")
    path.unlink()
    successions = Successions(str(path), None, None, {}, None)  # type: ignore[arg-type]
    successions.close(unlink=True)
    listening = successions.listen()
    assert successions.accept() is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(str(path))
        monkeypatch.setattr(handover, "_CREDENTIALS", struct.Struct("=iiI"))
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        monkeypatch.setattr(socket.socket, "getsockopt", lambda *_: struct.pack("=iiI", 1, 54321, 1))
        assert successions.accept() is None
    assert "another user's process has asked for the calls" in caplog.text
    assert listening.fileno() >= 0
    successions.close(unlink=True)
    assert not path.exists()
