"""The ng protocol's dictionaries as JSON."""

from __future__ import annotations

import json
from typing import Any

import bencodepy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ProtocolError, ng_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(TEXT | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@pytest.mark.parametrize(
    ("body", "encoded"),
    [
        (b'{"command": "ping"}', b"d7:command4:pinge"),
        (b'{"b": 1, "a": ["x", -2, {}]}', b"d1:al1:xi-2edee1:bi1ee"),
        (b'{"flag": true}', b"d4:flagi1ee"),
        ('{"call-id": "ü"}'.encode(), b"d7:call-id2:\xc3\xbce"),
        (b'{"call-id": "\\udcff"}', b"d7:call-id1:\xffe"),
        (b'{"sdp": "v=0\\r\\n"}', b"d3:sdp5:v=0\r\ne"),
    ],
)
def test_requests(body: bytes, encoded: bytes) -> None:
    assert ng_json.to_bencode(body) == encoded


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Could not decode JSON"),
        (b"{", "Could not decode JSON"),
        (b"\xff", "Could not decode JSON"),
        (b'{"a": "\\ud800"}', "Could not decode JSON"),
        (b'{"a": ' + b"[" * 100_000, "Could not decode JSON"),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "Could not decode JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "Could not decode JSON"),
        (b"[]", "The JSON is not an object"),
        (b'"command"', "The JSON is not an object"),
        (b"d7:command4:pinge", "Could not decode JSON"),
        (b'{"a": 1.5}', "The number 1.5 is not an integer"),
        (b'{"a": 1e9}', "The number 1e9 is not an integer"),
        (b'{"a": NaN}', "The number NaN is not an integer"),
        (b'{"a": null}', "null is not a value of the ng protocol"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_what_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{reason}$"):
        ng_json.to_bencode(body)


@given(st.dictionaries(TEXT, VALUES))
def test_what_json_says_arrives(request_: dict[str, Any]) -> None:
    def text(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, list):
            return [text(item) for item in value]
        if isinstance(value, dict):
            return {text(key): text(item) for key, item in value.items()}
        return value

    assert text(bencodepy.decode(ng_json.to_bencode(json.dumps(request_).encode()))) == request_


def test_replies() -> None:
    reply = {"result": "ok", "sdp": b"v=0\r\nx=\xff", "n": 1, "streams": [[{"a": "b"}]], "tags": {"\udcfe": 2}}
    line = ng_json.serialize(reply)
    assert line.endswith(b"\n") and line.isascii()
    assert json.loads(line) == {**reply, "sdp": "v=0\r\nx=\udcff"}
