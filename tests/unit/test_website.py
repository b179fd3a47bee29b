"""The pages of a daemon: what the page may do, what its data are, and that no key is in any of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from collections.abc import Iterator

import bencodepy
import pytest

from rtpengine import config
from rtpengine.daemon import Daemon
from rtpengine.media import IPV4
from rtpengine.metrics import CONTENT_TYPE
from rtpengine.packetpath import PacketPathStats
from rtpengine.web import Content

KEY = base64.b64encode(bytes(range(30))).decode()
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/SAVP 0\r\n"
    f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\na=ice-ufrag:ufrg\r\na=ice-pwd:secretpasswordsecretpass\r\n"
    "a=candidate:1 1 UDP 2130706431 127.0.0.1 5004 typ host\r\n"
)
TEXT = (config.__file__.rpartition("/")[0]) + "/status.html"


class Site:
    """A daemon without sockets for its protocols, and its pages."""

    def __init__(self, *options: str) -> None:
        arguments = ["--ip=127.0.0.1", "--ip6=::1", "--listen-ng=127.0.0.1:2223", "--listen-http=8080", "--table=-1"]
        with socket.socket() as sock:
            forwarding = "forwarding in userspace, since the moon is full"
            self.daemon = Daemon(config.parse([*arguments, *options]), {"listen-http": sock}, forwarding=forwarding)
        assert self.daemon.web is not None and self.daemon.website is not None
        self.site = self.daemon.website
        self.pages = self.daemon.web._pages
        self.now = 1000.0

    def ng(self, **keys: str) -> str:
        request = bencodepy.encode({name.replace("_", "-"): value for name, value in keys.items()})
        reply = self.daemon.ng.reply(request, "127.0.0.1", self.now, 5000.0)
        assert reply["result"] == "ok", reply
        return str(reply.get("sdp"))

    def get(self, path: str, **query: str) -> Content:
        self.now += 1.0
        found = self.pages[path](query, self.now, 5000.0)
        assert found is not None
        return found

    def calls(self) -> list[dict[str, object]]:
        return list(json.loads(self.get("/api/calls").body)["calls"])


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    for call in list(site.daemon.table):
        site.daemon.table.end(call, "deleted", site.now)
    site.daemon.close()


@pytest.fixture(scope="module")
def page() -> str:
    with open(TEXT, encoding="utf-8") as file:
        return file.read()


def test_the_policy_allows_the_page_itself_and_nothing_else(site: Site, page: str) -> None:
    content = site.get("/")
    assert content.body.decode() == page and content.type == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in content.headers["Content-Security-Policy"].split(";"))
    for name, element in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert policy.pop(name) == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }


@pytest.mark.parametrize(
    "forbidden",
    [
        r"<link(?! rel=\"icon\" href=\"data:,\")",
        r"<[^>]* on[a-z]+=",
        r"<[^>]* style=",
        r"\bsrc=",
        r"@import|url\(",
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|srcdoc|DOMParser",
        r"\beval\b|new Function|javascript:",
        r"https?://(?!www\.w3\.org/2000/svg\")",
    ],
)
def test_what_the_page_must_not_have(page: str, forbidden: str) -> None:
    assert re.findall(forbidden, page) == []


def test_the_figures_of_the_daemon(site: Site) -> None:
    site.ng(command="offer", call_id="c", from_tag="a", sdp=SDP)
    site.site.tick(PacketPathStats(7, 700, 0, {"source": 2, "flood": 1}, 0, 0, 4), 1000.0)
    answer = json.loads(site.get("/api/calls").body)
    figures = answer["daemon"]
    assert (figures["calls"], figures["total"], figures["draining"]) == (1, 1, False)
    assert figures["userspace"] == "the moon is full"
    assert [port["address"] for port in figures["ports"]] == ["127.0.0.1", "::1"]
    assert figures["ports"][0]["used"] == 2 * site.daemon.transport.pools[IPV4].used == 4
    assert answer["readings"] == [[1000.0, 1, 7, 700, 0, 3]]


def test_a_scrape_a_second_is_enough(site: Site) -> None:
    first = site.get("/metrics").body
    site.ng(command="offer", call_id="c", from_tag="a", sdp=SDP)
    assert site.pages["/metrics"]({}, site.now + 0.9, 0.0) == (first, CONTENT_TYPE, {})
    assert b'rtpengine_sessions{type="own"} 1.0' in site.get("/metrics").body


def test_calls_and_one_call(site: Site) -> None:
    site.ng(command="offer", call_id="c", from_tag="a", sdp=SDP)
    (line,) = site.calls()
    assert (line["id"], line["path"], line["marks"]) == ("c", "userspace", ["unanswered"])
    detail = json.loads(site.get("/api/call", key=str(line["key"])).body)
    assert detail["call_id"] == "c" and detail["streams"] and detail["events"]


@pytest.mark.parametrize("key", ["", "x", "-1", "1e3", "9" * 400, "\u0661"])
def test_what_is_no_key(site: Site, key: str) -> None:
    assert site.pages["/api/call"]({"key": key}, site.now, 0.0) is None
    assert site.pages["/api/call"]({}, site.now, 0.0) is None


@pytest.mark.parametrize("key", ["0", "2", "9" * 15])
def test_a_call_that_is_not_there(site: Site, key: str) -> None:
    site.ng(command="offer", call_id="c", from_tag="a", sdp=SDP)
    assert site.get("/api/call", key=key).body == b"null"


@pytest.mark.parametrize("since", ["", "x", "-5", "9" * 400, "\u0661"])
def test_a_version_that_is_none_means_everything(site: Site, since: str) -> None:
    assert json.loads(site.get("/api/calls", since=since, run="x").body)["whole"]


def test_no_key_and_no_password_is_told(site: Site) -> None:
    told = site.ng(command="offer", call_id="c", from_tag="a", sdp=SDP, ICE="force")
    answer = SDP.replace(KEY, base64.b64encode(bytes(range(30, 60))).decode())
    told += site.ng(command="answer", call_id="c", from_tag="a", to_tag="b", sdp=answer, ICE="force")
    secrets = {*re.findall(r"inline:([^|\s]+)", SDP + answer + told), *re.findall(r"ice-pwd:(\S+)", SDP + told)}
    assert len(secrets) >= 5
    (line,) = site.calls()
    shown = b"".join(
        site.get(path, key=str(line["key"])).body for path in ("/", "/metrics", "/api/calls", "/api/call")
    ).decode()
    assert "AES_CM_128_HMAC_SHA1_80" in shown
    for secret in secrets:
        assert secret not in shown and secret[:12] not in shown
