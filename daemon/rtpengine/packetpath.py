"""The C packet path as Python objects: streams are ids, failures are OSError.

Worker threads in C own the sockets from open_stream() on; nothing here runs per packet.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from struct import Struct
from struct import error as StructError
from types import MappingProxyType
from typing import Any, NamedTuple

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

DEFAULT_PAUSE_US: int = lib.PP_DEFAULT_PAUSE_US
MAX_PAUSE_US: int = lib.PP_MAX_PAUSE_US
MAX_WORKERS: int = lib.PP_MAX_WORKERS

_NS_PER_S = 1_000_000_000
_EVENTS_AT_ONCE = 64
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
    """Whole structs cross the boundary in one step: field by field, cffi takes ten times as long."""
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
_TICKS_PER_HZ = 2**32 / _NS_PER_S


class SourceConfirmed(NamedTuple):
    """A stream has finished learning, or goes on from another source; ``pp_stream_state`` has the rest."""

    stream: int
    source: Endpoint | None


class StunReceived(NamedTuple):
    """A STUN datagram (RFC 7983) for us; nothing in it has been checked but its cookie."""

    stream: int
    source: Endpoint
    data: bytes


class DtlsReceived(NamedTuple):
    """A DTLS datagram for us, from a source that may speak it on that stream."""

    stream: int
    source: Endpoint
    data: bytes


class IndexMoved(NamedTuple):
    """An SRTP index of a stream has come far, so that what was saved of it should be saved again."""

    stream: int


Event = SourceConfirmed | StunReceived | DtlsReceived | IndexMoved


class Traffic(NamedTuple):
    """Payload of UDP one way through the sockets of one family; errors are not among the packets."""

    packets: int = 0
    bytes: int = 0
    errors: int = 0


class PacketPathStats(NamedTuple):
    """Totals since the start, of closed streams too; ``streams`` counts the open ones.

    ``received`` and ``sent`` are by family (4, 6): what was accepted from parties, and what went to them.
    What is in ``quality`` may go back a little, since what comes late is not lost; it has neither expected nor jitter.
    """

    packets: int
    bytes: int
    errors: int
    drops: dict[str, int]
    events_lost: int
    wakeups: int
    streams: int
    quality: Quality = Quality()
    received: Mapping[int, Traffic] = MappingProxyType({})
    sent: Mapping[int, Traffic] = MappingProxyType({})


def _by_family(pair: Any) -> dict[int, Traffic]:
    return {family: Traffic(one.packets, one.bytes, one.errors) for family, one in zip((IPV4, IPV6), pair, strict=True)}


def check(rc: int) -> int:
    """Return what a C call returned; raise OSError where that is a negative errno."""
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc


def _address(text: str, port: int) -> tuple[bytes, int, int, int]:
    """The fields of a pp_address; ValueError for text that is no address literal."""
    try:
        if ":" in text:
            return socket.inet_pton(socket.AF_INET6, text), port, IPV6, 0
        return socket.inet_pton(socket.AF_INET, text), port, IPV4, 0
    except OSError:
        raise ValueError(f"not an IP address: {text!r}") from None


def _endpoint(address: bytes, port: int, family: int) -> Endpoint | None:
    if family == IPV4:
        return Endpoint(socket.inet_ntop(socket.AF_INET, address[:4]), port)
    return Endpoint(socket.inet_ntop(socket.AF_INET6, address), port) if family else None


def _from_c(address: Any) -> Endpoint | None:
    return _endpoint(bytes(address.address), address.port, address.family)


def _drops(counts: Sequence[int]) -> dict[str, int]:
    """Only the reasons that have occurred."""
    if not any(counts):
        return {}
    return {name: count for name, count in zip(DROP_REASONS, counts, strict=True) if count}


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


def _srtp_memory(saved: Any) -> SrtpMemory:
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


def _fill_context(saved: Any, memory: SrtpMemory) -> None:
    if len(memory.sources) > _MAX_INDICES or len(memory.retired) not in (0, _RETIRED_LEN):
        raise ValueError("more of SRTP than a context can have")
    _KEYS.pack_into(ffi.buffer(ffi.addressof(saved.keys)), 0, *_keys(memory.keys))
    saved.sending, saved.own_rtcp = memory.sending, memory.own_rtcp
    srtp = saved.srtp
    srtp.rtcp_next, srtp.count = memory.rtcp_next, len(memory.sources)
    ffi.memmove(srtp.index, b"".join(map(_index, memory.sources)), len(memory.sources) * _INDEX.size)
    ffi.memmove(srtp.retired, memory.retired, len(memory.retired))


def _index(source: SourceMemory) -> bytes:
    ssrc, rtp_next, rtp_seen, rtcp_next, rtcp_seen = source
    seen = (rtp_seen & _64_BITS, rtp_seen >> 64), (rtcp_seen & _64_BITS, rtcp_seen >> 64)
    return _INDEX.pack(ssrc, rtp_next, *seen[0], rtcp_next, *seen[1])


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


def _sources(sources: Any) -> Sources:
    return Sources(sources.count, bytes(ffi.buffer(sources.source)))


def _event(event: Any) -> Event:
    source = _from_c(event.source)
    if event.type == lib.PP_EVENT_CONFIRMED:
        return SourceConfirmed(event.id, source)
    if event.type == lib.PP_EVENT_INDEX:
        return IndexMoved(event.id)
    assert source is not None
    data = bytes(ffi.buffer(event.data, event.len))
    return (StunReceived if event.type == lib.PP_EVENT_STUN else DtlsReceived)(event.id, source, data)


def session_key(keys: SrtpKeys, label: int, length: int) -> bytes:
    """Derive a session key (RFC 3711 4.3.1: 0 is the cipher's, 1 the authentication's, 2 the salt).

    Raise ValueError for keys that do not fit their suite, OSError (EIO) if libcrypto fails.
    """
    master, out = ffi.new("struct srtp_keys *"), ffi.new("uint8_t[]", length)
    buffer = ffi.buffer(master)
    try:
        _KEYS.pack_into(buffer, 0, *_keys(keys))
        if lib.srtp_derive(master, label, out, length) < 0:
            raise OSError(errno.EIO, "libcrypto derives no key")
        return bytes(ffi.buffer(out))
    finally:
        buffer[:] = bytes(_KEYS.size)


class PacketPath:
    """Worker threads that relay media; start them after the process has daemonized.

    ``fileno()`` is readable while events wait. A call's streams must share one ``worker``.
    Not for use from several threads at once: buffers are reused.
    """

    def __init__(self, workers: int, pause_us: int = DEFAULT_PAUSE_US) -> None:
        """Start ``workers`` threads that pause at most ``pause_us`` microseconds between polls, 0 for never.

        Raise OSError (EINVAL for a number out of range).
        """
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._pp = lib.pp_open(workers, self._wakeup, pause_us)
        if not self._pp:
            error = ffi.errno
            os.close(self._wakeup)
            raise OSError(error, os.strerror(error))
        self._config = ffi.new("struct pp_config *")
        self._config_bytes = ffi.buffer(self._config)
        self._state = ffi.new("struct pp_state *")
        self._state_bytes = ffi.buffer(self._state)
        self._events = ffi.new("struct pp_event[]", _EVENTS_AT_ONCE)
        self._address = ffi.new("struct pp_address *")
        self._address_bytes = ffi.buffer(self._address)
        self._progress = ffi.new("struct pp_progress *")
        self._progress_bytes = ffi.buffer(self._progress)
        self._keys = ffi.new("struct srtp_keys[2]")
        self._keys_bytes = ffi.buffer(self._keys)
        self._saved = ffi.new("struct pp_saved *")
        self._saved_bytes = ffi.buffer(self._saved)
        self._context = ffi.new("struct pp_saved_context *")

    def open_stream(self, worker: int, sock: socket.socket) -> int:
        """Hand a bound UDP socket over to a worker (modulo their number); return the stream's id.

        The socket is closed if that fails, with OSError.
        """
        return self._adopted(lib.pp_stream_open(self._pp, worker, sock.fileno()), sock)

    def adopt_stream(self, worker: int, sock: socket.socket) -> int:
        """As :meth:`open_stream`, but nothing is read before :meth:`resume`; what arrives waits in the socket."""
        return self._adopted(lib.pp_stream_adopt(self._pp, worker, sock.fileno()), sock)

    def _adopted(self, stream: int, sock: socket.socket) -> int:
        if stream < 0:
            sock.close()
        else:
            sock.detach()
        return check(stream)

    def configure(self, stream: int, config: StreamConfig) -> None:
        """Bring a stream in line with ``config``; doing it twice changes nothing.

        Raise OSError: ENOENT for a closed stream, EXDEV for a sink on another worker;
        ValueError for an address that is none, and for ``ufrag`` of more than 32 characters.
        """
        peer, alias = config.peer, config.alias
        _CONFIG.pack_into(
            self._config_bytes,
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
        check(lib.pp_stream_configure(self._pp, stream, self._config))

    def protect(self, stream: int, scope: int, receive: SrtpKeys | None, send: SrtpKeys | None) -> None:
        """Give a secure stream its keys: ``receive`` is what the party protects with, ``send`` what we do.

        Streams of one worker with equal ``scope`` (0 to 2^64 - 1), keys and direction share one context, whose
        indices go on until the last of them is closed. Doing it twice changes nothing.
        Raise OSError (ENOENT for a closed stream, ENOMEM), ValueError for keys that do not fit their suite.
        """
        pointers = []
        try:
            for i, keys in enumerate((receive, send)):
                pointers.append(ffi.NULL if keys is None else self._keys + i)
                if keys is not None:
                    _KEYS.pack_into(self._keys_bytes, i * _KEYS.size, *_keys(keys))
            check(lib.pp_stream_protect(self._pp, stream, scope, *pointers))
        finally:
            self._keys_bytes[:] = bytes(2 * _KEYS.size)

    def validate(self, stream: int, source: Endpoint, *, nominated: bool) -> None:
        """Accept ``source`` as the party's, which has proven so by ICE or DTLS; ``nominated``: send there from now on.

        Without nomination that is so only while no other is nominated. A nomination counts as a packet heard.
        Raise OSError: ENOENT for a closed stream.
        """
        _ADDRESS.pack_into(self._address_bytes, 0, *_address(*source))
        check(lib.pp_stream_validate(self._pp, stream, self._address, nominated))

    def send(self, stream: int, to: Endpoint, data: bytes) -> None:
        """Send one datagram from the stream's socket; what the system refuses is lost, an error of the stream.

        Raise OSError: ENOENT for a closed stream.
        """
        _ADDRESS.pack_into(self._address_bytes, 0, *_address(*to))
        check(lib.pp_stream_send(self._pp, stream, self._address, data, len(data)))

    def close_stream(self, stream: int) -> None:
        """Close the socket at once; OSError (ENOENT) if that has been done. Read the state before."""
        check(lib.pp_stream_close(self._pp, stream))

    def state(self, stream: int) -> StreamState:
        """Read one stream; ``peer`` is where packets for the party go. OSError (ENOENT) if it is closed."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        fields = _STATE.unpack(self._state_bytes)
        _, packets, octets, errors, last = fields[:5]
        address, port, family = fields[_ADDRESSES : _ADDRESSES + 3]
        confirmed, payload_type = fields[_ADDRESSES + 8 : _ADDRESSES + 10]
        return StreamState(
            _endpoint(address, port, family),
            bool(confirmed),
            packets,
            octets,
            errors,
            last / _NS_PER_S if last else None,
            None if payload_type == _NO_PAYLOAD_TYPE else payload_type,
            _drops(fields[5:_QUALITY]),
            quality=_quality(fields[_QUALITY:_REPORTS]),
            reports=_reports(fields[_REPORTS:_ADDRESSES]),
        )

    def heard(self, stream: int) -> tuple[Quality, Reports]:
        """Of the state of a stream what is looked at every few seconds, in half the time."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        fields = _HEARD.unpack_from(self._state_bytes, _HEARD_AT)
        return _quality(fields[:10]), _reports(fields[10:])

    def source(self, stream: int) -> Endpoint | None:
        """Whom the stream listens to, None before the first accepted packet."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        return _from_c(self._state.accept_from)

    def last_packet(self, stream: int) -> float:
        """When the stream last accepted a packet, in monotonic seconds; 0.0 before the first."""
        check(lib.pp_stream_state(self._pp, stream, self._state))
        last: int = self._state.counters.last_packet_ns
        return last / _NS_PER_S

    def sources(self, stream: int) -> tuple[Sources, Sources]:
        """How far the SSRCs of a stream's SRTP have come: the party's, and those that we protect for it.

        Raise OSError: ENOENT for a closed stream.
        """
        received, sent = self._progress.received, self._progress.sent
        check(lib.pp_stream_sources(self._pp, stream, ffi.addressof(received), ffi.addressof(sent)))
        return _sources(received), _sources(sent)

    def sync(self, stream: int, progress: Progress) -> None:
        """Take over what the kernel has forwarded for a stream since the last time.

        Raise OSError: ENOENT for a closed stream, EINVAL for more SSRCs than fit.
        """
        packets, octets, drops, received, sent, quality = progress
        counts = [drops.get(reason, 0) for reason in DROP_REASONS] if drops else _NO_DROPS
        _PROGRESS.pack_into(self._progress_bytes, 0, packets, octets, *counts, *quality, *received, *sent)
        check(lib.pp_stream_sync(self._pp, stream, self._progress))

    def resume(self, stream: int) -> None:
        """Have a held socket read. Raise OSError: ENOENT for a closed stream."""
        check(lib.pp_stream_resume(self._pp, stream))

    def hold(self, stream: int) -> int:
        """Read a socket no more, and return its descriptor, which stays the packet path's. Raise OSError (ENOENT)."""
        return check(lib.pp_stream_hold(self._pp, stream))

    def save(self, stream: int) -> StreamMemory:
        """What a stream has learned and counted. Raise OSError: ENOENT for a closed stream."""
        check(lib.pp_stream_save(self._pp, stream, self._saved))
        fields = _SAVED.unpack(self._saved_bytes)
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
            drops=_drops(counts),
        )

    def restore(self, stream: int, memory: StreamMemory) -> None:
        """Go on from what another process has saved of a stream, which has been configured as it was there.

        Raise OSError (ENOENT; EINVAL for what no stream can have learned), ValueError for what is no address.
        """
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
                self._saved_bytes,
                0,
                *(memory.packets, memory.bytes, memory.errors),
                *(memory.drops.get(reason, 0) for reason in DROP_REASONS),
                *fields,
                *(flags, memory.rank, memory.ssrc, memory.seq, payload_type, 0),
            )
        except StructError as error:
            raise ValueError(str(error)) from None
        check(lib.pp_stream_restore(self._pp, stream, self._saved))

    def save_srtp(self, stream: int) -> tuple[SrtpMemory, ...]:
        """The SRTP contexts of a stream's scope, with those of former keys. Raise OSError: ENOENT."""
        contexts: list[SrtpMemory] = []
        try:
            while check(lib.pp_stream_save_context(self._pp, stream, len(contexts), self._context)):
                contexts.append(_srtp_memory(self._context))
        finally:
            ffi.buffer(self._context)[:] = bytes(ffi.sizeof("struct pp_saved_context"))
        return tuple(contexts)

    def restore_srtp(self, stream: int, contexts: Sequence[SrtpMemory], *, late: bool) -> None:
        """Go on from what another process has saved, for a stream that has got its keys.

        ``late``: that process may have used them after it had saved.
        Raise OSError (ENOENT, EINVAL), ValueError for keys that do not fit their suite and impossible numbers.
        """
        saved = self._context
        buffer = ffi.buffer(saved)
        for memory in contexts:
            try:
                _fill_context(saved, memory)
                check(lib.pp_stream_restore_context(self._pp, stream, saved, late))
            except (StructError, OverflowError) as error:
                raise ValueError(str(error)) from None
            finally:
                buffer[:] = bytes(len(buffer))

    def events(self) -> list[Event]:
        """Take all events; they are hints, and lost where more than 256 KiB of them wait on one worker."""
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return []
        out: list[Event] = []
        count = _EVENTS_AT_ONCE
        while count == _EVENTS_AT_ONCE:
            count = check(lib.pp_events(self._pp, self._events, _EVENTS_AT_ONCE))
            out += map(_event, self._events[0:count])
        return out

    def stats(self) -> PacketPathStats:
        """Add up all workers."""
        stats = ffi.new("struct pp_stats *")
        check(lib.pp_stats(self._pp, stats))
        return PacketPathStats(
            packets=stats.packets,
            bytes=stats.bytes,
            errors=stats.errors,
            drops=_drops(list(stats.drops)),
            events_lost=stats.events_lost,
            wakeups=stats.wakeups,
            streams=stats.streams,
            quality=Quality(
                lost=stats.totals.lost,
                duplicates=stats.totals.duplicates,
                reordered=stats.totals.reordered,
                skips=stats.totals.skips,
                resets=stats.totals.resets,
            ),
            received=_by_family(stats.received),
            sent=_by_family(stats.sent),
        )

    def fileno(self) -> int:
        """The eventfd, for ``loop.add_reader``."""
        return self._wakeup

    def close(self) -> None:
        """Stop the workers and close every socket; a second call does nothing."""
        if self._pp:
            lib.pp_close(self._pp)
            os.close(self._wakeup)
            self._pp = ffi.NULL
