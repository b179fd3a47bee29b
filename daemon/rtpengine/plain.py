"""Named tuples as plain values for JSON, and back: by their annotations, so that no field is ever left out.

A named tuple becomes a dictionary without the fields that have their defaults; what comes back is checked type by
type. So a field that is new has its default in what was written before, and one that has gone is passed over.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Hashable, Sequence
from enum import IntEnum
from functools import cache, lru_cache
from ipaddress import ip_address
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from rtpengine.media import Endpoint

_T = TypeVar("_T")
_Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""To the plain value and back; the latter raises Mismatch."""


class Mismatch(ValueError):
    """A plain value is not what its type asks for; the text says where and why, without the value."""


def encode(value: Any) -> Any:
    """The plain value of a named tuple; surrogates in strings stay."""
    return _codec(cast(Hashable, type(value)))[0](value)


def decode(kind: type[_T], plain: Any) -> _T:
    """The named tuple of class ``kind`` that a plain value stands for. Raise Mismatch."""
    return cast(_T, _codec(cast(Hashable, kind))[1](plain))


@cache
def _codec(kind: Any) -> _Codec:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _optional(arguments)
    if origin in (tuple, frozenset, list):
        return _sequence(origin, arguments)
    if origin is dict:
        return _mapping(arguments)
    if kind is Endpoint:
        return str, _endpoint
    if kind is bytes:
        return (lambda value: b64encode(value).decode()), _bytes
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return (lambda value: value.name.lower()), _member(kind)
    if isinstance(kind, type) and issubclass(kind, tuple):
        return _named(kind)
    if kind not in (str, int, float, bool):
        raise TypeError(f"no plain value for {kind}")
    return (lambda value: value), _exactly(kind)


def _exactly(kind: type) -> Callable[[Any], Any]:
    # JSON has one kind of number, and bool is a subclass of int.
    accepted = (float, int) if kind is float else (kind,)

    def check(plain: Any) -> Any:
        if type(plain) not in accepted:
            raise Mismatch(f"{type(plain).__name__} instead of {kind.__name__}")
        return plain

    return check


@lru_cache(4096)
def _check_address(text: str) -> None:
    ip_address(text)


def _endpoint(plain: Any) -> Endpoint:
    try:
        host, _, port = plain.rpartition(":")
        address = host[1:-1] if host[:1] == "[" else host
        if not 0 <= int(port) <= 65535:
            raise ValueError(port)
        _check_address(address)
        return Endpoint(address, int(port))
    except (AttributeError, ValueError):
        raise Mismatch("not an endpoint") from None


def _bytes(plain: Any) -> bytes:
    try:
        return b64decode(plain, validate=True)
    except (TypeError, ValueError):
        raise Mismatch("not base64") from None


def _member(kind: type[IntEnum]) -> Callable[[Any], Any]:
    members = {member.name.lower(): member for member in kind}

    def decode(plain: Any) -> Any:
        if not isinstance(plain, str) or plain not in members:
            raise Mismatch(f"no {kind.__name__}")
        return members[plain]

    return decode


def _optional(arguments: Sequence[Any]) -> _Codec:
    (kind,) = (argument for argument in arguments if argument is not NoneType)
    encoder, decoder = _codec(kind)
    return (
        lambda value: None if value is None else encoder(value),
        lambda plain: None if plain is None else decoder(plain),
    )


def _sequence(origin: Any, arguments: Sequence[Any]) -> _Codec:
    """``tuple[T, ...]``, ``frozenset[T]``, ``list[T]``, and tuples of a fixed length."""
    if origin is tuple and arguments[-1] is not ...:
        codecs = [_codec(argument) for argument in arguments]

        def decode_each(plain: Any) -> Any:
            if not isinstance(plain, list) or len(plain) != len(codecs):
                raise Mismatch(f"not a list of {len(codecs)}")
            return tuple(_within(i, codec[1], one) for i, (codec, one) in enumerate(zip(codecs, plain, strict=True)))

        return (lambda value: [codec[0](one) for codec, one in zip(codecs, value, strict=True)]), decode_each
    encoder, decoder = _codec(arguments[0])

    def decode_all(plain: Any) -> Any:
        if not isinstance(plain, list):
            raise Mismatch(f"{type(plain).__name__} instead of a list")
        return origin(_within(i, decoder, one) for i, one in enumerate(plain))

    if origin is frozenset:
        return (lambda value: sorted(map(encoder, value))), decode_all
    return (lambda value: [encoder(one) for one in value]), decode_all


def _mapping(arguments: Sequence[Any]) -> _Codec:
    assert arguments[0] is str, "JSON has no other keys"
    encoder, decoder = _codec(arguments[1])

    def decode(plain: Any) -> Any:
        if not isinstance(plain, dict):
            raise Mismatch(f"{type(plain).__name__} instead of a dictionary")
        return {str(key): _within(key, decoder, one) for key, one in plain.items()}

    return (lambda value: {key: encoder(one) for key, one in value.items()}), decode


def _named(kind: Any) -> _Codec:
    hints, defaults = get_type_hints(kind), kind._field_defaults
    plan: list[tuple[str, Any, Callable[[Any], Any], Callable[[Any], Any]]] = []

    def planned() -> list[tuple[str, Any, Callable[[Any], Any], Callable[[Any], Any]]]:
        # At first use, since a class may name itself.
        if not plan:
            plan.extend((name, defaults.get(name, plan), *_codec(hints[name])) for name in kind._fields)
        return plan

    def encode(value: Any) -> Any:
        return {
            name: encoder(one)
            for (name, default, encoder, _), one in zip(planned(), value, strict=True)
            if one is not default and one != default
        }

    def decode(plain: Any) -> Any:
        if not isinstance(plain, dict):
            raise Mismatch(f"{type(plain).__name__} instead of a dictionary")
        values = []
        for name, default, _, decoder in planned():
            if name in plain:
                values.append(_within(name, decoder, plain[name]))
            elif default is plan:
                raise Mismatch(f"{name} is missing")
            else:
                values.append(default)
        return kind(*values)

    return encode, decode


def _within(where: object, decoder: Callable[[Any], Any], plain: Any) -> Any:
    try:
        return decoder(plain)
    except Mismatch as reason:
        raise Mismatch(f"{where}: {reason}") from None
