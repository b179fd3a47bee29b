"""The daemon reports calls that have timed out, and only those, to a real XML-RPC server, without waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest
from systemlab.daemon import Daemon, wait_until
from systemlab.fixtures import MakeParty
from systemlab.media import Dialogue, both_ways
from systemlab.netns import Lab


class Quiet(SimpleXMLRPCRequestHandler):
    def log_message(self, *_: Any) -> None: ...


class Server:
    """On the relay's host; takes calls of ``di`` but answers none before ``answering`` is set."""

    def __init__(self, lab: Lab) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.asked = threading.Event()
        self.answering = threading.Event()
        with lab.relay.inside():
            self.server = SimpleXMLRPCServer(("127.0.0.1", 0), Quiet, allow_none=True)
        self.server.register_function(self._di, "di")
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def _di(self, *parameters: str) -> int:
        self.asked.set()
        self.answering.wait(60)
        self.calls.append(parameters)
        return 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def close(self) -> None:
        self.answering.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def server(lab: Lab) -> Iterator[Server]:
    made = Server(lab)
    yield made
    made.close()


def test_what_is_reported_and_what_happens_meanwhile(
    lab: Lab, server: Server, start: Callable[..., Daemon], party: MakeParty
) -> None:
    daemon = start("--timeout=5", f"--b2b-url={server.url}")
    ended = Dialogue(daemon.ng, party(lab.a), party(lab.b)).place()
    ended.ng.command("delete", call_id=ended.call_id, from_tag="")
    dead = Dialogue(daemon.ng, party(lab.a), party(lab.b)).place()
    assert server.asked.wait(30), "the call has timed out, and the server has been told"
    # It does not answer; the daemon does, and relays.
    other = Dialogue(daemon.ng, party(lab.a), party(lab.b)).place()
    both_ways(other)
    assert daemon.ng.ping()
    other.ng.command("delete", call_id=other.call_id, from_tag="")
    server.answering.set()
    expected = {("sbc", "postControlCmd", tag, "teardown") for tag in (dead.caller.tag, dead.callee.tag)}
    assert wait_until(lambda: set(server.calls) >= expected, 30)
    assert wait_until(lambda: daemon.log.count("reported") == 2, 30)
    assert f"[{dead.call_id}]: [b2bua] XML-RPC: tag '{dead.caller.tag}' reported" in daemon.log
    assert daemon.stop() == 0
    assert set(server.calls) == expected
    assert "Traceback" not in daemon.log


def test_the_end_does_not_wait_for_a_server_that_hangs(
    lab: Lab, server: Server, start: Callable[..., Daemon], party: MakeParty
) -> None:
    daemon = start("--timeout=4", f"--b2b-url={server.url}")
    Dialogue(daemon.ng, party(lab.a), party(lab.b)).place()
    assert server.asked.wait(30)
    assert daemon.stop() == 0, "which gives it ten seconds"
    assert "2 tags of calls that have timed out are not reported any more" in daemon.log
