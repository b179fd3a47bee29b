"""Named tuples to plain values and back; and what comes back from elsewhere."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine.media import Endpoint, Learning, Profile, SrtpKeys
from rtpengine.plain import Mismatch, decode, encode


class Inner(NamedTuple):
    name: str
    size: float = 0.0
    child: Inner | None = None


class Outer(NamedTuple):
    number: int
    flag: bool = False
    data: bytes = b""
    endpoint: Endpoint | None = None
    learning: Learning = Learning.HEURISTIC
    profile: Profile | None = None
    names: frozenset[str] = frozenset()
    pairs: tuple[tuple[int, str], ...] = ()
    inner: tuple[Inner, ...] = ()
    counts: dict[str, int] = {}


FULL = Outer(
    number=-1,
    flag=True,
    data=b"\xff\x00",
    endpoint=Endpoint("2001:db8::1", 65535),
    learning=Learning.OFF,
    profile=Profile(secure=True, feedback=False),
    names=frozenset({"b", "a"}),
    pairs=((1, "x"), (2, "\udcff")),
    inner=(Inner("a", 1.5, Inner("b")),),
    counts={"drops": 3},
)


@pytest.mark.parametrize("value", [Outer(7), FULL])
def test_there_and_back(value: Outer) -> None:
    assert decode(Outer, json.loads(json.dumps(encode(value)))) == value


def test_defaults_are_left_out_and_what_is_new_is_passed_over() -> None:
    assert encode(Outer(7)) == {"number": 7}
    assert decode(Outer, {"number": 7, "invented": 1}) == Outer(7)
    assert encode(FULL)["names"] == ["a", "b"]


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (None, "NoneType instead of a dictionary"),
        ([], "list instead of a dictionary"),
        ({}, "number is missing"),
        ({"number": "7"}, "number: str instead of int"),
        ({"number": True}, "number: bool instead of int"),
        ({"number": 1.0}, "number: float instead of int"),
        ({"number": 1, "flag": 1}, "flag: int instead of bool"),
        ({"number": 1, "data": "%"}, "data: not base64"),
        ({"number": 1, "data": 5}, "data: not base64"),
        ({"number": 1, "endpoint": "1.2.3.4"}, "endpoint: not an endpoint"),
        ({"number": 1, "endpoint": "1.2.3.400:5"}, "endpoint: not an endpoint"),
        ({"number": 1, "endpoint": "1.2.3.4:65536"}, "endpoint: not an endpoint"),
        ({"number": 1, "endpoint": ["1.2.3.4", 5]}, "endpoint: not an endpoint"),
        ({"number": 1, "learning": "fast"}, "learning: no Learning"),
        ({"number": 1, "learning": []}, "learning: no Learning"),
        ({"number": 1, "profile": {"secure": True}}, "profile: feedback is missing"),
        ({"number": 1, "names": "ab"}, "names: str instead of a list"),
        ({"number": 1, "pairs": [[1]]}, "pairs: 0: not a list of 2"),
        ({"number": 1, "pairs": [[1, "a"], [1, 2]]}, "pairs: 1: 1: int instead of str"),
        ({"number": 1, "inner": [{"name": "a", "size": "big"}]}, "inner: 0: size: str instead of float"),
        ({"number": 1, "counts": [1]}, "counts: list instead of a dictionary"),
        ({"number": 1, "counts": {"a": None}}, "counts: a: NoneType instead of int"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(plain: Any, reason: str) -> None:
    with pytest.raises(Mismatch) as caught:
        decode(Outer, plain)
    assert str(caught.value) == reason


def test_no_value_is_repeated() -> None:
    keys = encode(SrtpKeys("AES_CM_128_HMAC_SHA1_80", b"k" * 16, b"s" * 14))
    with pytest.raises(Mismatch) as caught:
        decode(SrtpKeys, keys | {"key": "secret!"})
    assert "secret" not in str(caught.value)


def test_a_type_without_a_plain_value_is_a_mistake_of_ours() -> None:
    class Odd(NamedTuple):
        what: complex

    with pytest.raises(TypeError):
        encode(Odd(1j))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x)))
def test_nothing_else_is_ever_raised(plain: Any) -> None:
    for field in Outer._fields:
        try:
            decode(Outer, {"number": 1} | {field: plain})
        except Mismatch:
            pass
