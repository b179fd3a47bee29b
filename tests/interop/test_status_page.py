"""The status page in Chromium, fed by a running daemon: it lives, filters, bears many calls and hostile ones."""

from __future__ import annotations

import itertools
import json
import re
import struct
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from peers import browser
from peers.browser import Browser
from systemlab.daemon import Daemon, wait_until
from systemlab.fixtures import MakeCall
from systemlab.media import Party
from systemlab.netns import Lab
from systemlab.ngclient import encode

PATIENCE_S = 60
ADDRESS = "127.0.0.1:8180"
OPTIONS = (f"--listen-http={ADDRESS}",)
MANY = 2_000
HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "'-alert(1)-'",
    "</script></style><script>window.pwned = 1</script>",
    "javascript:window.pwned=1",
    "<svg onload=window.pwned=1>",
    "{{constructor.constructor('window.pwned=1')()}}",
)


class Page:
    """The page, and what its browser has complained of or asked for."""

    def __init__(self, browser: Browser, address: str = ADDRESS) -> None:
        self.browser = browser
        for domain in ("Runtime", "Log", "Network"):
            browser.command(f"{domain}.enable")
        browser.events.clear()
        browser.resize(1440, 900)
        browser.show(f"http://{address}/")
        self.until("document.readyState == 'complete' && typeof state == 'object' && state.daemon !== null")

    def run(self, script: str) -> Any:
        return self.browser.run(script)

    def until(self, script: str) -> None:
        """Wait until an expression holds."""
        assert wait_until(lambda: bool(self.browser.run(script)), PATIENCE_S, 0.1), (script, self.text())

    def text(self) -> str:
        """All that is to be read."""
        return str(self.run("document.body.innerText"))

    def until_calls(self, *call_ids: str) -> None:
        """Wait until it knows these calls and no others."""
        known = "[...state.calls.values()].map(call => call.id).sort().join(' | ')"
        self.until(f"{known} === {json.dumps(' | '.join(sorted(call_ids)))}")

    def filter(self, text: str) -> None:
        self.run(f"(f => {{ f.value = {json.dumps(text)}; f.dispatchEvent(new Event('input')); }})($('filter'))")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.browser.command("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def shown(self) -> list[str]:
        """The call-ids in the rows of the document."""
        return list(self.run("[...document.querySelectorAll('.row .name > .cut')].map(node => node.textContent)"))

    def open(self, call_id: str) -> None:
        """Open one call, as a click on its row does."""
        found = f"[...state.calls.values()].find(call => call.id === {json.dumps(call_id)})"
        self.until(f"{found} !== undefined")
        self.run(f"open({found}.key)")
        self.until("$('detail').querySelector('h2') !== null")

    def complaints(self) -> list[str]:
        """Errors of the script, and what the policy has refused."""
        found = [
            event for event in self.browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")
        ]
        return [json.dumps(event["params"])[:500] for event in found]

    def asked(self) -> set[str]:
        """Where anything was fetched from."""
        sent = [
            e["params"]["request"]["url"] for e in self.browser.events if e["method"] == "Network.requestWillBeSent"
        ]
        return {re.sub(r"^(\w+://[^/]*).*", r"\1", url) for url in sent if not url.startswith("data:")}


@pytest.fixture(scope="module")
def chromium(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if reason := browser.missing():
        pytest.skip(reason)
    with Browser(lab.relay, tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def page(chromium: Browser, daemon: Daemon) -> Iterator[Page]:
    page = Page(chromium)
    yield page
    assert page.complaints() == []
    assert page.asked() <= {f"http://{ADDRESS}"}
    chromium.show("about:blank")


@contextmanager
def talking(*speakers: tuple[Party, Party]) -> Iterator[None]:
    """Have parties send speech to whom they were told, until the end of the block."""
    end = threading.Event()

    def speak() -> None:
        while not end.wait(0.02):
            for party, _ in speakers:
                party.audio.send()

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(10)


def test_it_lives(page: Page, call: MakeCall) -> None:
    page.until_calls()
    assert "There are no calls." in page.text()
    placed = call().place()
    page.until_calls(placed.call_id)
    assert page.shown() == [placed.call_id]
    assert placed.caller.audio.address in page.text()
    with talking((placed.caller, placed.callee), (placed.callee, placed.caller)):
        page.until("[...state.calls.values()].some(call => call.rate > 0 && call.mos > 1)")
        page.until("$('t-rate').textContent.includes('/s')")
        page.open(placed.call_id)
        page.until("document.querySelectorAll('.plot.mos polyline').length === 2")
        told = page.run("$('detail').innerText")
        assert "offer from tag" in told and "userspace" in told and "heard" in told
        before = page.run("$('detail').innerText")
        page.until(f"$('detail').innerText !== {json.dumps(before)}")
    placed.delete()
    page.until("state.calls.size === 0 && document.querySelectorAll('.row').length === 0")
    page.until("$('detail').innerText.includes('This call has ended')")


def test_one_way_and_silent_calls_are_marked(page: Page, call: MakeCall) -> None:
    one_way, silent = call().place(), call().place()
    page.until_calls(one_way.call_id, silent.call_id)
    with talking((one_way.caller, one_way.callee)):
        page.until(
            f"[...state.calls.values()].find(c => c.id === {json.dumps(one_way.call_id)})?.marks[0] === 'one-way'"
        )
        page.until(f"[...state.calls.values()].find(c => c.id === {json.dumps(silent.call_id)})?.marks[0] === 'silent'")
        for kind, dialogue in (("one-way", one_way), ("silent", silent)):
            page.run(f"document.querySelector('[data-which=\"{kind}\"]').click()")
            assert page.shown() == [dialogue.call_id]
        page.open(one_way.call_id)
        page.until("$('detail').innerText.includes('never heard')")
    page.run("document.querySelector('[data-which=all]').click()")
    assert sorted(page.shown()) == sorted([one_way.call_id, silent.call_id])


def test_it_filters_by_what_is_typed(page: Page, call: MakeCall) -> None:
    placed = [call().place() for _ in range(3)]
    page.until_calls(*(dialogue.call_id for dialogue in placed))
    for typed, found in (
        (placed[1].call_id, {placed[1].call_id}),
        (placed[1].call_id.upper(), {placed[1].call_id}),
        (placed[2].caller.tag, {placed[2].call_id}),
        (f"{placed[0].caller.audio.address}:{placed[0].caller.audio.port}", {placed[0].call_id}),
        (f"audio {placed[0].callee.tag}", {placed[0].call_id}),
        ("system.test", {dialogue.call_id for dialogue in placed}),
        ("nothing like that", set()),
    ):
        page.filter(typed)
        assert set(page.shown()) == found, typed
    assert "No call is like that." in page.text()


def test_keys_lead_through_the_list(page: Page, call: MakeCall) -> None:
    placed = [call().place() for _ in range(3)]
    page.until_calls(*(dialogue.call_id for dialogue in placed))
    order = page.run("state.shown.map(call => call.id)")
    assert set(order) == {dialogue.call_id for dialogue in placed}
    page.run("$('grid').focus()")
    for key in ("End", "ArrowUp", "Enter"):
        page.press(key)
    page.until(f"$('detail').querySelector('h2')?.textContent === {json.dumps(order[1])}")
    assert page.run("document.activeElement.id") == "grid"
    page.press("Escape")
    page.until("$('detail').hidden")


def test_it_can_be_read_aloud(page: Page, call: MakeCall) -> None:
    """What assistive technology is told: roles, and a name for whatever can be operated or is a picture."""
    placed = call().place()
    page.until_calls(placed.call_id)
    page.open(placed.call_id)
    page.browser.command("Accessibility.enable")
    nodes = page.browser.command("Accessibility.getFullAXTree")["nodes"]
    found: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            found.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert found["grid"] == ["Calls"] and found["searchbox"] == ["Filter calls"]
    assert {"row", "columnheader", "gridcell", "heading", "complementary", "main"} <= set(found)
    named = [name for role in ("button", "grid", "searchbox", "image", "columnheader") for name in found.get(role, ())]
    assert all(named) and "Close" in named


def test_columns_sort(page: Page, call: MakeCall) -> None:
    page.until_calls(*(call().place().call_id for _ in range(3)))
    ids = sorted(page.shown())
    page.run("$('head').querySelector('button').click()")
    assert page.run("state.shown.map(call => call.id)") == ids
    page.run("$('head').querySelector('button').click()")
    assert page.run("state.shown.map(call => call.id)") == ids[::-1]
    assert page.run("$('head').querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_hostile_calls_are_text(page: Page, daemon: Daemon) -> None:
    """Script tags in every field that a call brings along."""
    for number, text in enumerate(HOSTILE):
        body = (
            f"v=0\r\no={text.replace(' ', '')} 1 1 IN IP4 198.51.100.11\r\ns={text}\r\ni={text}\r\n"
            f"c=IN IP4 198.51.100.11\r\nt=0 0\r\na=x:{text}\r\nm=audio {7000 + 2 * number} RTP/AVP 0 96\r\ni={text}\r\n"
            f"a=rtpmap:96 {text}/8000\r\na=fmtp:96 {text}\r\na=mid:{text}\r\n"
        )
        for command in ("offer", "answer"):
            daemon.ng.ok(
                command, call_id=f"{text}{number}", from_tag=f"{text}-from", to_tag=f"{text}-to", sdp=body,
                flags=["trust-address"], ICE="remove", via_branch=text,
            )  # fmt: skip
    try:
        # a word of a request that is not known, and a client that is refused, reach the log only
        daemon.ng.command("offer", call_id=HOSTILE[0], from_tag="x", sdp=HOSTILE[0], flags=[HOSTILE[0]])
        page.until_calls(*(f"{text}{number}" for number, text in enumerate(HOSTILE)))
        assert set(page.shown()) == {f"{text}{number}" for number, text in enumerate(HOSTILE)}
        for number, text in enumerate(HOSTILE):
            page.open(f"{text}{number}")
            page.until(f"$('detail').innerText.includes({json.dumps(text + '-from')})")
            page.filter(text)
            assert page.shown()
            page.filter("")
        assert page.run("window.pwned") is None
        assert page.run("document.querySelectorAll('script, img, iframe, object').length") == 1
    finally:
        for number, text in enumerate(HOSTILE):
            daemon.ng.ok("delete", call_id=f"{text}{number}", from_tag="")


def test_text_of_others_cannot_become_markup(page: Page) -> None:
    """The last line of defence: the browser itself refuses (Trusted Types, and no inline script)."""
    refused = "(() => { try { document.body.innerHTML = '<b>x</b>'; return false; } catch { return true; } })()"
    assert page.run(refused) is True
    page.browser.events.clear()


def test_2000_calls(chromium: Browser, start: Callable[..., Daemon]) -> None:
    address = "127.0.0.1:8181"
    daemon = start("--port-min=20000", "--port-max=60000", f"--listen-http={address}", ipv6=False)
    body = "v=0\r\no=- 1 1 IN IP4 198.51.100.11\r\ns=-\r\nc=IN IP4 198.51.100.11\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n"
    keys = {"from-tag": "f", "to-tag": "t", "sdp": body, "flags": ["trust-address"], "ICE": "remove"}
    for command in ("offer", "answer"):
        requests = (encode({**keys, "command": command, "call-id": f"call-{number:04}"}) for number in range(MANY))
        replies = [reply for _, reply in daemon.ng.pipeline(requests, timeout_s=60)]
        assert all(b"result2:ok" in reply for reply in replies) and len(replies) == MANY
    page = Page(chromium, address)
    page.until(f"state.calls.size === {MANY}")
    assert page.run("document.querySelectorAll('.row').length") < 60
    assert page.run("$('t-calls').textContent") == "2,000"
    order = page.run("state.shown.map(call => call.id)")
    page.run("$('list').scrollTop = $('list').scrollHeight")
    page.until(f"[...document.querySelectorAll('.row .name > .cut')].some(node => node.textContent === '{order[-1]}')")
    assert page.run("document.querySelectorAll('.row').length") < 60
    page.filter("call-1234")
    assert page.shown() == ["call-1234"]
    daemon.ng.ok("delete", call_id="call-1234", from_tag="")
    page.until(f"state.calls.size === {MANY - 1}")
    assert page.shown() == []
    page.filter("")
    # all of them are looked at again and again, and the daemon still answers
    version = page.run("state.version")
    page.until(f"state.version > {version + 6}")
    assert daemon.ng.ping()
    assert page.complaints() == []


def test_a_daemon_that_is_gone(chromium: Browser, start: Callable[..., Daemon]) -> None:
    daemon = start("--listen-http=127.0.0.1:8182")
    page = Page(chromium, "127.0.0.1:8182")
    assert page.run("$('banner').hidden")
    daemon.stop()
    page.until("!$('banner').hidden && $('banner').textContent.includes('does not answer')")
    again = start("--listen-http=127.0.0.1:8182")
    again.ng.ping()
    page.until("$('banner').hidden")


def place(daemon: Daemon, *call_ids: str) -> None:
    body = "v=0\r\no=- 1 1 IN IP4 198.51.100.11\r\ns=-\r\nc=IN IP4 198.51.100.11\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n"
    for call_id in call_ids:
        daemon.ng.ok("offer", call_id=call_id, from_tag=f"tag-of-{call_id}", sdp=body, flags=["trust-address"])


def test_a_call_stays_the_same_though_its_key_is_another(chromium: Browser, start: Callable[..., Daemon]) -> None:
    """A daemon that is started anew counts its keys from 1, and so does one that nobody has looked at for a while."""
    option = "--listen-http=127.0.0.1:8183"
    daemon = start(option)
    place(daemon, "one", "two")
    page = Page(chromium, "127.0.0.1:8183")
    page.until_calls("one", "two")
    page.open("two")
    page.until("$('detail').innerText.includes('tag-of-two')")
    page.run("activate(state.shown.findIndex(call => call.id === 'two'))")
    key = page.run("state.selected")
    shows_two = "$('detail').querySelector('h2').textContent === 'two' && $('detail').innerText.includes('tag-of-two')"
    is_selected = "document.querySelector('[aria-selected=true] .name > .cut')?.textContent === 'two'"
    is_active = "document.querySelector('.row.active .name > .cut')?.textContent === 'two'"

    daemon.stop()
    again = start(option)
    place(again, "two", "one", "three")
    page.until_calls("one", "two", "three")
    assert page.run("state.selected") != key
    asked = page.run("state.version")
    page.until(f"state.version > {asked + 1}")
    assert page.run(f"{shows_two} && {is_selected} && {is_active}"), page.text()
    assert not page.run("$('detail').innerText.includes('This call has ended')")

    again.stop()
    last = start(option)
    place(last, "one", "three")
    page.until_calls("one", "three")
    page.until("$('detail').innerText.includes('This call has ended')")
    assert page.run(f"{shows_two} && document.querySelector('[aria-selected=true]') === null")
    place(last, "two")
    page.until(f"!$('detail').innerText.includes('This call has ended') && {shows_two} && {is_selected}")
    last.ng.ok("delete", call_id="two", from_tag="")
    page.until("$('detail').innerText.includes('This call has ended')")
    page.open("one")
    page.until("$('detail').querySelector('h2').textContent === 'one' && !$('detail').querySelector('.ended')")


@pytest.mark.parametrize("dark", [False, True])
def test_a_picture(page: Page, call: MakeCall, dark: bool) -> None:
    placed = call().place()
    page.browser.resize(1280, 800, dark=dark)
    page.until_calls(placed.call_id)
    page.open(placed.call_id)
    picture = page.browser.screenshot()
    assert picture.startswith(b"\x89PNG") and struct.unpack(">II", picture[16:24]) == (1280, 800)
    assert len(picture) > 20_000, "an empty page takes less"
    background = page.run("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3]))
    assert (brightness < 300) is dark


def test_no_key_is_shown(page: Page, lab: Lab, daemon: Daemon) -> None:
    """Keys that the daemon makes and keys of the parties, in all that the HTTP port gives out."""
    keys = itertools.count(65)
    secrets = []
    told = []
    for command in ("offer", "answer"):
        secrets.append("inline:" + chr(next(keys)) * 40)
        body = (
            "v=0\r\no=- 1 1 IN IP4 198.51.100.11\r\ns=-\r\nc=IN IP4 198.51.100.11\r\nt=0 0\r\n"
            f"m=audio 7000 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 {secrets[-1]}\r\n"
        )
        reply = daemon.ng.ok(command, call_id="secret", from_tag="f", to_tag="t", sdp=body, flags=["trust-address"])
        told += re.findall(r"inline:([^|\s]+)|ice-pwd:(\S+)", reply["sdp"])
    secrets = [secret.removeprefix("inline:") for secret in secrets] + [word for pair in told for word in pair if word]
    page.until_calls("secret")
    page.open("secret")
    key = page.run("state.selected")
    with lab.relay.inside():
        shown = [page.run("document.documentElement.outerHTML")]
        for path in ("/", "/metrics", "/api/calls", f"/api/call?key={key}"):
            with urllib.request.urlopen(f"http://{ADDRESS}{path}", timeout=30) as answer:
                shown.append(answer.read().decode())
    assert "AES_CM_128_HMAC_SHA1_80" in shown[-1]
    assert len(secrets) >= 3
    for secret in secrets:
        assert not any(secret in text for text in shown)
    daemon.ng.ok("delete", call_id="secret", from_tag="")
