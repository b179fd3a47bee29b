"""The C contexts of srtp.c as Python objects, for tests: packets in, packets or an error's name out."""

from __future__ import annotations

from typing import Any

from rtpengine._packetpath import ffi, lib

SUITES = {
    "CM128-80": lib.SRTP_AES128_CM_SHA1_80,
    "CM128-32": lib.SRTP_AES128_CM_SHA1_32,
    "CM192-80": lib.SRTP_AES192_CM_SHA1_80,
    "CM192-32": lib.SRTP_AES192_CM_SHA1_32,
    "CM256-80": lib.SRTP_AES256_CM_SHA1_80,
    "CM256-32": lib.SRTP_AES256_CM_SHA1_32,
    "F8-80": lib.SRTP_F8_128_SHA1_80,
    "F8-32": lib.SRTP_F8_128_SHA1_32,
    "NULL-80": lib.SRTP_NULL_SHA1_80,
    "NULL-32": lib.SRTP_NULL_SHA1_32,
    "GCM128": lib.SRTP_AEAD_AES_128_GCM,
    "GCM256": lib.SRTP_AEAD_AES_256_GCM,
}
PLAIN_RTP, PLAIN_RTCP, NO_TAG = (
    lib.SRTP_F_UNENCRYPTED_SRTP,
    lib.SRTP_F_UNENCRYPTED_SRTCP,
    lib.SRTP_F_UNAUTHENTICATED_SRTP,
)
MALFORMED, AUTH, REPLAY, EXHAUSTED = "malformed", "auth", "replay", "exhausted"
ERRORS = {
    lib.SRTP_ERROR_MALFORMED: MALFORMED,
    lib.SRTP_ERROR_AUTH: AUTH,
    lib.SRTP_ERROR_REPLAY: REPLAY,
    lib.SRTP_ERROR_EXHAUSTED: EXHAUSTED,
}
KEY, SALT = bytes(range(1, 33)), bytes(range(101, 115))
GUARD = b"\xa5" * 16


class Refused(Exception):
    """Why the C code did not let a packet pass; the first argument names it."""


def make_keys(suite: str, key: bytes = KEY, salt: bytes = SALT, flags: int = 0, mki: bytes = b"") -> Any:
    return ffi.new(
        "struct srtp_keys *",
        {
            "suite": SUITES[suite],
            "flags": flags,
            "key": key.ljust(32, b"\0"),
            "salt": salt.ljust(14, b"\0"),
            "mki_len": len(mki),
            "mki": mki.ljust(256, b"\0"),
        },
    )


class Context:
    """One ``struct srtp``. Each packet lies between guard bytes, which must survive."""

    def __init__(self, suite: str = "CM128-80", *args: Any, **more: Any) -> None:
        srtp = lib.srtp_open(make_keys(suite, *args, **more))
        assert srtp
        self.srtp = ffi.gc(srtp, lib.srtp_close)

    def _run(self, function: Any, packet: bytes, room: int | None) -> bytes:
        space = len(packet) if room is None else room
        buffer = ffi.new("uint8_t[]", GUARD + packet.ljust(space, b"\x5a") + GUARD)
        at = buffer + len(GUARD)
        more = () if room is None else (room,)
        length = function(self.srtp, at, len(packet), *more)
        whole = bytes(ffi.buffer(buffer, space + 2 * len(GUARD)))
        assert whole[:16] == whole[-16:] == GUARD
        inside = whole[16:-16]
        if length > 0:
            assert length <= space
            return inside[:length]
        assert inside[: len(packet)] == packet, "a refused packet was changed"
        raise Refused(ERRORS[length])

    def protect(self, packet: bytes, spare: int = lib.SRTP_OVERHEAD_MAX) -> bytes:
        return self._run(lib.srtp_protect, packet, len(packet) + spare)

    def protect_rtcp(self, packet: bytes, spare: int = lib.SRTP_OVERHEAD_MAX) -> bytes:
        return self._run(lib.srtcp_protect, packet, len(packet) + spare)

    def unprotect(self, packet: bytes) -> bytes:
        return self._run(lib.srtp_unprotect, packet, None)

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        return self._run(lib.srtcp_unprotect, packet, None)

    def verify(self, packet: bytes) -> bytes:
        return self._run(lib.srtp_verify, packet, None)

    def verify_rtcp(self, packet: bytes) -> bytes:
        return self._run(lib.srtcp_verify, packet, None)

    def is_newest(self) -> bool:
        return bool(lib.srtp_is_newest(self.srtp))

    def follow(self, receiver: Context) -> None:
        lib.srtp_follow(self.srtp, receiver.srtp)

    def state(self) -> dict[int, tuple[Any, Any]]:
        """SSRC to the windows of RTP and RTCP, each one above the highest index and the bits of what was seen."""
        out = ffi.new("struct srtp_index[]", lib.SRTP_INDEX_MAX)
        count = lib.srtp_indices(self.srtp, out, lib.SRTP_INDEX_MAX)
        windows = [(entry.ssrc, entry.rtp, entry.rtcp) for entry in out[0:count]]
        return {ssrc: (flat(rtp), flat(rtcp)) for ssrc, rtp, rtcp in windows}

    def advance(self, ssrc: int, rtp: int = 0, rtcp: int = 0, seen: int = (1 << 128) - 1) -> None:
        bits = [seen & (1 << 64) - 1, seen >> 64]
        entry = {"ssrc": ssrc, "rtp": {"next": rtp, "seen": bits}, "rtcp": {"next": rtcp, "seen": bits}}
        lib.srtp_advance(self.srtp, ffi.new("struct srtp_index[]", [entry]), 1)


def flat(window: Any) -> tuple[int, int]:
    return window.next, window.seen[1] << 64 | window.seen[0]


def rtp(seq: int, payload: bytes = b"\xab" * 16, ssrc: int = 0xCAFEBABE, first: int = 0x80, more: bytes = b"") -> bytes:
    """An RTP packet; ``more`` is the CSRC list and header extension that ``first`` announces."""
    fixed = bytes([first, 0x0F]) + (seq & 0xFFFF).to_bytes(2, "big") + b"\xde\xca\xfb\xad" + ssrc.to_bytes(4, "big")
    return fixed + more + payload


def rtcp(payload: bytes = b"\xab" * 16, ssrc: int = 0xCAFEBABE, kind: int = 200) -> bytes:
    return bytes([0x81, kind, 0, 0x0B]) + ssrc.to_bytes(4, "big") + payload
