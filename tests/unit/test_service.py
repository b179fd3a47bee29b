"""ng commands executed whole, from the request dictionary to the reply, on paper ports."""

from __future__ import annotations

from typing import Any

import bencodepy
import pytest
from fakes import TOOLS, FakeTransport

from rtpengine import ProtocolError, ResourceError, ng
from rtpengine.media import PROFILES, Learning
from rtpengine.service import MAX_UNKNOWN_WORDS, NgService, UnknownWords, log_final_statistics
from rtpengine.table import NOT_FOUND, CallTable, Limits

OFFER = (
    "v=0\r\no=u 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\n"
    "m=audio 7000 RTP/AVP 8 0\r\na=rtcp:7009\r\na=ptime:20\r\n"
)
ANSWER = OFFER.replace("10.0.0.5", "10.0.0.9").replace("7000", "9000").replace("a=rtcp:7009\r\n", "")


class Proxy:
    """Stands for the SIP proxy: sends dictionaries, gets dictionaries."""

    def __init__(self, limit: int = 1000) -> None:
        self.transport = FakeTransport(limit=limit)
        self.table = CallTable(self.transport, Limits(), Learning.HEURISTIC, TOOLS, log_final_statistics)
        self.service = NgService(self.table)

    def ask(self, command: str, **keys: Any) -> dict[str, Any]:
        request = {"command": command, **{key.replace("_", "-"): value for key, value in keys.items()}}
        return self.service.execute(ng.parse(bencodepy.encode(request)), 10.0, 1_700_000_000.0)

    def offer(self, **keys: Any) -> dict[str, Any]:
        return self.ask("offer", call_id="c", from_tag="a", **{"sdp": OFFER, "flags": ["trust-address"], **keys})

    def answer(self, **keys: Any) -> dict[str, Any]:
        keys = {"sdp": ANSWER, "flags": ["trust-address"], **keys}
        return self.ask("answer", call_id="c", from_tag="a", to_tag="b", **keys)


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


def text(reply: dict[str, Any]) -> str:
    sdp = reply["sdp"]
    return sdp.decode() if isinstance(sdp, bytes) else sdp


def test_ping(proxy: Proxy) -> None:
    assert proxy.ask("ping") == {"result": "pong"}


def test_worked_example_of_the_specification(proxy: Proxy) -> None:
    reply = proxy.offer(replace=["origin", "session-connection"], ICE="remove")
    assert reply["result"] == "ok"
    assert text(reply) == (
        "v=0\r\no=u 1 1 IN IP4 198.51.100.2\r\ns=-\r\nc=IN IP4 198.51.100.2\r\nt=0 0\r\n"
        "m=audio 30000 RTP/AVP 8 0\r\na=ptime:20\r\na=sendrecv\r\na=rtcp:30001\r\n"
    )


def test_answer_query_delete(proxy: Proxy) -> None:
    proxy.offer()
    assert "m=audio 30002 RTP/AVP" in text(proxy.answer())
    query = proxy.ask("query", call_id="c")
    assert query["result"] == "ok"
    assert query["streams"][0][1]["stats"]["rtp"]["advertised peer address"]["port"] == 9000
    deleted = proxy.ask("delete", call_id="c", from_tag="a")
    assert deleted == query
    assert len(proxy.table) == 0 and not proxy.transport.opened


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"address_family": "IP6"}, "c=IN IP6 2001:db8::2"),
        ({"direction": ["internal", "external"]}, "c=IN IP6 2001:db8::2"),
        ({"media_address": "192.0.2.77"}, "c=IN IP4 192.0.2.77"),
        ({"rtcp_mux": ["offer"]}, "a=rtcp-mux"),
        ({"transport_protocol": "RTP/AVPF"}, "m=audio 30000 RTP/AVPF 8 0"),
    ],
)
def test_keys_reach_the_body(proxy: Proxy, keys: dict[str, Any], line: str) -> None:
    assert line in text(proxy.offer(replace=["session-connection"], **keys)).split("\r\n")


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.secure])
def test_secure_profiles_come_with_keys(proxy: Proxy, name: str) -> None:
    body = text(proxy.offer(transport_protocol=name))
    assert f"m=audio 30000 {name} 8 0" in body
    assert ("a=crypto:1 " in body) is not name.startswith("UDP/TLS/")
    assert "a=setup:actpass\r\na=fingerprint:sha-256 " in body


def test_without_trust_the_sip_source_is_the_media_address(proxy: Proxy) -> None:
    proxy.offer(flags=[], received_from=["IP4", "203.0.113.7"])
    (pair,) = proxy.ask("query", call_id="c")["streams"]
    assert pair[0]["stats"]["rtp"]["advertised peer address"] == {
        "family": "IPv4", "address": "203.0.113.7", "port": 7000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "keys", "reason"),
    [
        ("offer", {"sdp": "v=1\r\n"}, "Failed to parse SDP"),
        ("answer", {"call_id": "nope"}, "Unknown call-id"),
        ("answer", {"from_tag": "x"}, "Unknown from-tag"),
        ("query", {"call_id": "nope"}, "Unknown call-id"),
        ("delete", {"call_id": "nope", "flags": ["fatal"]}, NOT_FOUND),
        ("delete", {"from_tag": "x", "flags": ["fatal"]}, NOT_FOUND),
    ],
)
def test_refusals_change_nothing(proxy: Proxy, command: str, keys: dict[str, Any], reason: str) -> None:
    proxy.offer()
    before = proxy.ask("query", call_id="c")
    request = {"call_id": "c", "from_tag": "a", "to_tag": "b", "sdp": ANSWER, "flags": ["trust-address"], **keys}
    with pytest.raises(ProtocolError, match=reason):
        proxy.ask(command, **request)
    assert proxy.ask("query", call_id="c") == before


@pytest.mark.parametrize("keys", [{"call_id": "nope", "from_tag": "a"}, {"call_id": "c", "from_tag": "x"}])
def test_delete_of_the_unknown_is_a_warning(proxy: Proxy, keys: dict[str, Any]) -> None:
    proxy.offer()
    assert proxy.ask("delete", **keys) == {"result": "ok", "warning": NOT_FOUND}


def test_ports_exhausted() -> None:
    proxy = Proxy(limit=1)
    with pytest.raises(ResourceError, match="Ran out of ports"):
        proxy.offer()
    assert len(proxy.table) == 0 and not proxy.transport.opened


def test_a_call_without_media_lines(proxy: Proxy) -> None:
    body = OFFER.partition("m=")[0]
    assert text(proxy.offer(sdp=body)) == body


def test_words_that_are_not_known_are_counted(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in range(2):
        assert proxy.offer(flags=["trust-address", "loop-protect"], SDES=["static"])["result"] == "ok"
    proxy.answer(flags=["loop protect"], DTLS="maybe")
    with pytest.raises(ProtocolError):
        proxy.offer(flags=["loop-protect"], sdp="v=1")
    assert proxy.service.unknown.counts == {"flags: loop-protect": 4, "SDES: static": 2, "DTLS: maybe": 1}
    told = [record.getMessage().rpartition("not known: ")[2] for record in caplog.records if "ignored" in record.msg]
    assert told == ["flags: loop-protect", "SDES: static", "DTLS: maybe"]


def test_counting_words_takes_little_memory() -> None:
    unknown = UnknownWords()
    for number in range(MAX_UNKNOWN_WORDS + 50):
        unknown.count((f"flags: x{number}", "flags: x0"))
    assert len(unknown.counts) == MAX_UNKNOWN_WORDS + 1
    assert unknown.counts["flags: x0"] == MAX_UNKNOWN_WORDS + 51
    assert unknown.counts["others"] == 50
