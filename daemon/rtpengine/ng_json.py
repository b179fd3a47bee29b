"""ng requests and replies as JSON (RFC 8259): the same dictionaries, with text where bencode has byte strings.

Bytes that are no UTF-8 come out as ``\\udcXX``, and are read back so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import bencodepy

from rtpengine import ProtocolError

_UNREADABLE = "Could not decode JSON"


def to_bencode(body: bytes) -> bytes:
    """A request as the ng protocol has it; ProtocolError for anything but an object of text, integers and lists."""
    try:
        request = json.loads(body, parse_constant=_refuse, parse_float=_refuse)
        if not isinstance(request, dict):
            raise ProtocolError("The JSON is not an object")
        encoded: bytes = bencodepy.encode(_request(request))
        return encoded
    # a body nested too deeply ends as RecursionError
    except (ValueError, RecursionError):
        raise ProtocolError(_UNREADABLE) from None


def serialize(reply: Mapping[str, Any]) -> bytes:
    """A reply of ours as one line of JSON, in ASCII."""
    return json.dumps(_reply(reply)).encode() + b"\n"


def _refuse(text: str) -> None:
    raise ProtocolError(f"The number {text[:40]} is not an integer")


def _request(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    if isinstance(value, list):
        return [_request(item) for item in value]
    if isinstance(value, dict):
        return {_request(key): _request(item) for key, item in value.items()}
    if value is None:
        raise ProtocolError("null is not a value of the ng protocol")
    return value


def _reply(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, list):
        return [_reply(item) for item in value]
    if isinstance(value, dict):
        return {_reply(key): _reply(item) for key, item in value.items()}
    return value
