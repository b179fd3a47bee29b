"""The structs that cross between the packet path and Python, made of our values and read as such.

Whole structs cross the boundary in one step: field by field, cffi takes ten times as long.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from struct import Struct
from struct import error as StructError
from typing import Any

from rtpengine._packetpath import ffi, lib
from rtpengine.clocks import clock_words
from rtpengine.media import (
    IPV4,
    IPV6,
    MAX_SOURCES,
    Endpoint,
    Progress,
    Quality,
    Reports,
    Sources,
    SrtpKeys,
    StreamConfig,
    StreamState,
)
from rtpengine.memory import SourceMemory, SrtpMemory, StreamMemory
from rtpengine.srtp import SUITES

Buffer = Any
"""What ffi.buffer() makes of a struct; as Any, since cffi says of it no more than that."""

NS_PER_S = 1_000_000_000
_NO_PAYLOAD_TYPE = 255

# In the order of the indices of pp_counters.drops.
DROP_REASONS = (
    *("source", "malformed", "no sink", "muted", "filtered", "send"),
    *("authentication", "replay", "no key", "flood"),
)
assert len(DROP_REASONS) == lib.PP_DROP_REASONS

_STRICT: int = lib.PP_F_STRICT
_HANDOVER: int = lib.PP_F_HANDOVER
_ASYMMETRIC: int = lib.PP_F_ASYMMETRIC
_STRANGER: int = lib.PP_F_STRANGER
_MUTED: int = lib.PP_F_MUTED
_OPAQUE: int = lib.PP_F_OPAQUE
_RTCP_ONLY: int = lib.PP_F_RTCP_ONLY
_RTCP_MUX: int = lib.PP_F_RTCP_MUX
_STRIP_FEEDBACK: int = lib.PP_F_STRIP_FEEDBACK
_SECURE: int = lib.PP_F_SECURE
_STUN: int = lib.PP_F_STUN
_ICE: int = lib.PP_F_ICE
_DTLS: int = lib.PP_F_DTLS

_MAX_UFRAG = 32
_MAX_MKI: int = lib.SRTP_MKI_MAX

_CODES = {"uint8_t": "B", "uint16_t": "H", "uint32_t": "I", "int64_t": "q", "uint64_t": "Q"}
_NO_QUALITY, _NO_REPORTS = Quality(), Reports()


def _layout(ctype: Any) -> str:
    """The struct-module format of a C type without padding; uint8_t arrays become bytes."""
    if ctype.kind == "struct":
        return "".join(_layout(field.type) for _, field in ctype.fields)
    if ctype.kind == "array":
        code = _layout(ctype.item)
        return f"{ctype.length}s" if code == "B" else code * ctype.length
    return _CODES[ctype.cname]


def _packer(name: str) -> Struct:
    ctype = ffi.typeof(name)
    packer = Struct("=" + _layout(ctype))
    assert packer.size == ffi.sizeof(ctype)
    return packer


_CONFIG = _packer("struct pp_config")
_STATE = _packer("struct pp_state")
_ADDRESS = _packer("struct pp_address")
_KEYS = _packer("struct srtp_keys")
_SAVED = _packer("struct pp_saved")
_SOURCES = f"I4x{ffi.sizeof('struct pp_source') * MAX_SOURCES}s"
_PROGRESS = Struct(f"={2 + len(DROP_REASONS) + 6}Q4I{_SOURCES}{_SOURCES}")
assert _PROGRESS.size == ffi.sizeof("struct pp_progress")
_NO_DROPS = (0,) * len(DROP_REASONS)
_NO_ADDRESS = (b"", 0, 0, 0)
_MAX_VALIDATED: int = dict(ffi.typeof("struct pp_saved").fields)["validated"].type.length
_MAX_INDICES: int = lib.SRTP_INDEX_MAX
_INDEX = Struct("=I4x6Q")
assert _INDEX.size == ffi.sizeof("struct srtp_index")
_RETIRED_LEN: int = ffi.sizeof(dict(ffi.typeof("struct srtp_saved").fields)["retired"].type)
_64_BITS = (1 << 64) - 1
_SUITE_NAMES = {suite.number: suite.name for suite in SUITES.values()}
_QUALITY = 5 + len(DROP_REASONS)  # the index of what follows the counters in a pp_state
_REPORTS = _QUALITY + 10
_ADDRESSES = _REPORTS + 8
_HEARD = Struct("=" + _layout(ffi.typeof("struct pp_quality")) + _layout(ffi.typeof("struct pp_reports")))
_HEARD_AT: int = ffi.offsetof("struct pp_state", "quality")
assert ffi.offsetof("struct pp_state", "reports") + ffi.sizeof("struct pp_reports") == _HEARD_AT + _HEARD.size
_TICKS_PER_HZ = 2**32 / NS_PER_S


def _address(text: str, port: int) -> tuple[bytes, int, int, int]:
    """The fields of a pp_address; ValueError for text that is no address literal."""
    try:
        if ":" in text:
            return socket.inet_pton(socket.AF_INET6, text), port, IPV6, 0
        return socket.inet_pton(socket.AF_INET, text), port, IPV4, 0
    except OSError:
        raise ValueError(f"not an IP address: {text!r}") from None


def pack_address(buffer: Buffer, endpoint: Endpoint) -> None:
    """Make a pp_address; ValueError where ``endpoint`` has no address literal."""
    _ADDRESS.pack_into(buffer, 0, *_address(*endpoint))


def _endpoint(address: bytes, port: int, family: int) -> Endpoint | None:
    if family == IPV4:
        return Endpoint(socket.inet_ntop(socket.AF_INET, address[:4]), port)
    return Endpoint(socket.inet_ntop(socket.AF_INET6, address), port) if family else None


def endpoint_of(address: Any) -> Endpoint | None:
    """What a pp_address says, None where it is empty."""
    return _endpoint(bytes(address.address), address.port, address.family)


def drops_of(counts: Sequence[int]) -> dict[str, int]:
    """Counters of drops by reason, only those that have occurred."""
    if not any(counts):
        return {}
    return {name: count for name, count in zip(DROP_REASONS, counts, strict=True) if count}


def pack_config(buffer: Buffer, config: StreamConfig) -> None:
    """Make a pp_config; ValueError for an address that is none, and for ``ufrag`` of more than 32 characters."""
    peer, alias = config.peer, config.alias
    _CONFIG.pack_into(
        buffer,
        0,
        *(_NO_ADDRESS if peer is None else _address(*peer)),
        *(_NO_ADDRESS if alias is None else _address(alias, 0)),
        config.rtp_sink,
        config.rtcp_sink,
        config.learning,
        _flags(config),
        _ufrag(config.ufrag),
        *clock_words(config.formats),
    )


def _flags(config: StreamConfig) -> int:
    return (
        (config.strict and _STRICT)
        | (config.handover and _HANDOVER)
        | (config.asymmetric and _ASYMMETRIC)
        | (config.stranger_allowed and _STRANGER)
        | (config.muted and _MUTED)
        | (not config.rtp and _OPAQUE)
        | (config.rtcp_only and _RTCP_ONLY)
        | (config.rtcp_mux and _RTCP_MUX)
        | (config.strip_feedback and _STRIP_FEEDBACK)
        | (config.secure and _SECURE)
        | (config.stun and _STUN)
        | (config.ice and _ICE)
        | (config.dtls and _DTLS)
    )


def _ufrag(text: str) -> bytes:
    """Our user name fragment as the packet path compares it; ValueError for one that it has no room for."""
    ufrag = text.encode("ascii")
    if len(ufrag) > _MAX_UFRAG:
        raise ValueError(f"a user name fragment of {len(ufrag)} bytes")
    return ufrag


def pack_keys(buffer: Buffer, keys: SrtpKeys, at: int = 0) -> None:
    """Make a srtp_keys, the ``at``-th of several; ValueError for keys that do not fit their suite."""
    _KEYS.pack_into(buffer, at * _KEYS.size, *_keys(keys))


def _keys(keys: SrtpKeys) -> tuple[int, int, bytes, bytes, int, int, bytes]:
    """The fields of a srtp_keys; ValueError for keys that do not fit their suite."""
    suite = SUITES.get(keys.suite)
    if suite is None or (len(keys.key), len(keys.salt)) != (suite.key_len, suite.salt_len):
        raise ValueError("keys do not fit their suite")
    if len(keys.mki) > _MAX_MKI:
        raise ValueError(f"an MKI of {len(keys.mki)} bytes")
    flags = (
        (keys.unencrypted_srtp and lib.SRTP_F_UNENCRYPTED_SRTP)
        | (keys.unencrypted_srtcp and lib.SRTP_F_UNENCRYPTED_SRTCP)
        | (keys.unauthenticated_srtp and lib.SRTP_F_UNAUTHENTICATED_SRTP)
    )
    return suite.number, flags, keys.key, keys.salt, 0, len(keys.mki), keys.mki


def _keys_from_c(keys: Any) -> SrtpKeys:
    suite = SUITES[_SUITE_NAMES[keys.suite]]
    return SrtpKeys(
        suite.name,
        bytes(ffi.buffer(keys.key, suite.key_len)),
        bytes(ffi.buffer(keys.salt, suite.salt_len)),
        bytes(ffi.buffer(keys.mki, keys.mki_len)),
        bool(keys.flags & lib.SRTP_F_UNENCRYPTED_SRTP),
        bool(keys.flags & lib.SRTP_F_UNENCRYPTED_SRTCP),
        bool(keys.flags & lib.SRTP_F_UNAUTHENTICATED_SRTP),
    )


def srtp_of(saved: Any) -> SrtpMemory:
    """What a pp_saved_context says."""
    srtp = saved.srtp
    indices = ffi.buffer(srtp.index)[: srtp.count * _INDEX.size]
    retired = bytes(ffi.buffer(srtp.retired))
    return SrtpMemory(
        _keys_from_c(saved.keys),
        bool(saved.sending),
        bool(saved.own_rtcp),
        srtp.rtcp_next,
        tuple(
            SourceMemory(ssrc, rtp_next, rtp0 | rtp1 << 64, rtcp_next, rtcp0 | rtcp1 << 64)
            for ssrc, rtp_next, rtp0, rtp1, rtcp_next, rtcp0, rtcp1 in _INDEX.iter_unpack(indices)
        ),
        retired if any(retired) else b"",
    )


def fill_context(saved: Any, memory: SrtpMemory) -> None:
    """Make a pp_saved_context; ValueError for keys that do not fit their suite, and for impossible numbers."""
    if len(memory.sources) > _MAX_INDICES or len(memory.retired) not in (0, _RETIRED_LEN):
        raise ValueError("more of SRTP than a context can have")
    pack_keys(ffi.buffer(ffi.addressof(saved.keys)), memory.keys)
    saved.sending, saved.own_rtcp = memory.sending, memory.own_rtcp
    srtp = saved.srtp
    srtp.rtcp_next, srtp.count = memory.rtcp_next, len(memory.sources)
    ffi.memmove(srtp.index, b"".join(map(_index, memory.sources)), len(memory.sources) * _INDEX.size)
    ffi.memmove(srtp.retired, memory.retired, len(memory.retired))


def _index(source: SourceMemory) -> bytes:
    ssrc, rtp_next, rtp_seen, rtcp_next, rtcp_seen = source
    seen = (rtp_seen & _64_BITS, rtp_seen >> 64), (rtcp_seen & _64_BITS, rtcp_seen >> 64)
    return _INDEX.pack(ssrc, rtp_next, *seen[0], rtcp_next, *seen[1])


def read_state(buffer: Buffer) -> StreamState:
    """What a pp_state says."""
    fields = _STATE.unpack(buffer)
    _, packets, octets, errors, last = fields[:5]
    address, port, family = fields[_ADDRESSES : _ADDRESSES + 3]
    confirmed, payload_type = fields[_ADDRESSES + 8 : _ADDRESSES + 10]
    return StreamState(
        _endpoint(address, port, family),
        bool(confirmed),
        packets,
        octets,
        errors,
        last / NS_PER_S if last else None,
        None if payload_type == _NO_PAYLOAD_TYPE else payload_type,
        drops_of(fields[5:_QUALITY]),
        quality=_quality(fields[_QUALITY:_REPORTS]),
        reports=_reports(fields[_REPORTS:_ADDRESSES]),
    )


def read_heard(buffer: Buffer) -> tuple[Quality, Reports]:
    """Of a pp_state what is looked at every few seconds, in half the time."""
    fields = _HEARD.unpack_from(buffer, _HEARD_AT)
    return _quality(fields[:10]), _reports(fields[10:])


def pack_progress(buffer: Buffer, progress: Progress) -> None:
    """Make a pp_progress."""
    packets, octets, drops, received, sent, quality = progress
    counts = [drops.get(reason, 0) for reason in DROP_REASONS] if drops else _NO_DROPS
    _PROGRESS.pack_into(buffer, 0, packets, octets, *counts, *quality, *received, *sent)


def read_saved(buffer: Buffer) -> StreamMemory:
    """What a pp_saved says."""
    fields = _SAVED.unpack(buffer)
    packets, octets, errors = fields[:3]
    counts, rest = fields[3 : 3 + len(DROP_REASONS)], fields[3 + len(DROP_REASONS) :]
    addresses = [_endpoint(*rest[at : at + 3]) for at in range(0, 4 * (1 + _MAX_VALIDATED), 4)]
    flags, rank, ssrc, seq, payload_type, _ = rest[4 * (1 + _MAX_VALIDATED) :]
    return StreamMemory(
        source=addresses[0],
        rank=rank,
        confirmed=bool(flags & lib.PP_SAVED_CONFIRMED),
        nominated=bool(flags & lib.PP_SAVED_NOMINATED),
        identified=bool(flags & lib.PP_SAVED_IDENTIFIED),
        heard=bool(flags & lib.PP_SAVED_HEARD),
        ssrc=ssrc,
        seq=seq,
        validated=tuple(address for address in addresses[1:] if address is not None),
        payload_type=None if payload_type == _NO_PAYLOAD_TYPE else payload_type,
        packets=packets,
        bytes=octets,
        errors=errors,
        drops=drops_of(counts),
    )


def pack_saved(buffer: Buffer, memory: StreamMemory) -> None:
    """Make a pp_saved; ValueError for what is no address, and for numbers that have no room there."""
    if len(memory.validated) > _MAX_VALIDATED:
        raise ValueError("too many validated sources")
    addresses = [memory.source, *memory.validated, *[None] * (_MAX_VALIDATED - len(memory.validated))]
    fields = [value for one in addresses for value in (_NO_ADDRESS if one is None else _address(*one))]
    flags = (
        (memory.confirmed and lib.PP_SAVED_CONFIRMED)
        | (memory.nominated and lib.PP_SAVED_NOMINATED)
        | (memory.identified and lib.PP_SAVED_IDENTIFIED)
        | (memory.heard and lib.PP_SAVED_HEARD)
    )
    payload_type = _NO_PAYLOAD_TYPE if memory.payload_type is None else memory.payload_type
    try:
        _SAVED.pack_into(
            buffer,
            0,
            *(memory.packets, memory.bytes, memory.errors),
            *(memory.drops.get(reason, 0) for reason in DROP_REASONS),
            *fields,
            *(flags, memory.rank, memory.ssrc, memory.seq, payload_type, 0),
        )
    except StructError as error:
        raise ValueError(str(error)) from None


def _quality(fields: Sequence[int]) -> Quality:
    """What a pp_quality says."""
    expected, lost, duplicates, reordered, skips, resets, jitter_us, ssrc, kind, ticks = fields
    if not (expected or kind):  # as of every RTCP socket
        return _NO_QUALITY
    payload_type, clock_rate = kind & 127 if kind else None, round(ticks / _TICKS_PER_HZ)
    return Quality(
        expected, lost, duplicates, reordered, skips, resets, jitter_us / 1000, ssrc, payload_type, clock_rate
    )


def _reports(fields: Sequence[int]) -> Reports:
    """What a pp_reports says; most streams have none."""
    count, malformed, round_trips, lost, fraction, jitter, ssrc, rtt = fields
    if not count + malformed:
        return _NO_REPORTS
    rtt_ms = rtt / 65.536 if round_trips else None
    return Reports(count, malformed, round_trips, lost, fraction / 256, jitter, ssrc, rtt_ms)


def sources_of(sources: Any) -> Sources:
    """What a pp_sources says."""
    return Sources(sources.count, bytes(ffi.buffer(sources.source)))
