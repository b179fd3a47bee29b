"""RTP packets, and the SRTP contexts of both worlds for the same keys."""

from __future__ import annotations

import struct
from typing import Any

from abi import C, windows
from rtpengine._packetpath import ffi, lib

SSRC = 0x12345678
KEY, SALT = bytes(range(1, 33)), bytes(range(101, 115))
SUITES = {
    "CM128-80": (lib.SRTP_AES128_CM_SHA1_80, 2, 16, 10),
    "CM128-32": (lib.SRTP_AES128_CM_SHA1_32, 2, 16, 4),
    "CM192-80": (lib.SRTP_AES192_CM_SHA1_80, 2, 24, 10),
    "CM256-80": (lib.SRTP_AES256_CM_SHA1_80, 2, 32, 10),
    "F8-80": (lib.SRTP_F8_128_SHA1_80, 3, 16, 10),
    "F8-32": (lib.SRTP_F8_128_SHA1_32, 3, 16, 4),
    "NULL-80": (lib.SRTP_NULL_SHA1_80, 1, 16, 10),
    "NULL-32": (lib.SRTP_NULL_SHA1_32, 1, 16, 4),
}
NO_CIPHER, NO_TAG = lib.SRTP_F_UNENCRYPTED_SRTP, lib.SRTP_F_UNAUTHENTICATED_SRTP


def rtp(
    seq: int,
    payload: bytes = bytes(range(160)),
    *,
    ssrc: int = SSRC,
    csrc: int = 0,
    extension: bytes = b"",
    marker: int = 0,
    payload_type: int = 0,
) -> bytes:
    """An RTP packet (RFC 3550 5.1); ``extension`` is the whole header extension."""
    first = 0x80 | csrc | (0x10 if extension else 0)
    fixed = struct.pack("!BBHII", first, marker << 7 | payload_type, seq & 0xFFFF, seq * 160 & 0xFFFFFFFF, ssrc)
    return fixed + bytes(4 * csrc) + extension + payload


ONE_BYTE = b"\xbe\xde\x00\x02\x32abc\x10\xff\x00\x00"  # RFC 8285 4.2: two words
TWO_BYTE = b"\x10\x00\x00\x02\x01\x03abc\x02\x00\x00"  # RFC 8285 4.3


class Keys:
    """A suite with master keys: what userspace and kernel need of it."""

    def __init__(self, suite: str, key: bytes = KEY, salt: bytes = SALT, mki: bytes = b"", flags: int = 0) -> None:
        number, self.cipher, self.key_len, self.tag_len = SUITES[suite]
        self.mki, self.flags = mki, flags
        self.keys = ffi.new(
            "struct srtp_keys *",
            {
                "suite": number,
                "flags": flags,
                "key": key,
                "salt": salt,
                "mki_len": len(mki),
                "mki": mki.ljust(256, b"\0"),
            },
        )

    def _derive(self, label: int, length: int) -> bytes:
        out = ffi.new("uint8_t[]", length)
        assert not lib.srtp_derive(self.keys, label, out, length)
        return bytes(out)

    def kernel(self, *at: tuple[int, int]) -> dict[str, Any]:
        """The initializer of a ``struct mediaproxy_srtp``, with SSRCs and how far they are."""
        cipher = C.MEDIAPROXY_CIPHER_NULL if self.flags & NO_CIPHER else self.cipher
        auth = not self.flags & NO_TAG
        key_len = self.key_len if cipher != C.MEDIAPROXY_CIPHER_NULL else 0
        return {
            "cipher": cipher,
            "auth": C.MEDIAPROXY_AUTH_HMAC_SHA1 if auth else C.MEDIAPROXY_AUTH_NULL,
            "tag_len": self.tag_len if auth else 0,
            "key_len": key_len,
            "mki_len": len(self.mki),
            "key": self._derive(lib.SRTP_LABEL_RTP_CIPHER, key_len).ljust(32, b"\0") if key_len else bytes(32),
            "auth_key": self._derive(lib.SRTP_LABEL_RTP_AUTH, 20) if auth else bytes(20),
            "salt": self._derive(lib.SRTP_LABEL_RTP_SALT, 14),
            "mki": self.mki.ljust(256, b"\0"),
            **windows(at or [(SSRC, 0)]),
        }

    def userspace(self) -> Context:
        return Context(self)


class Context:
    """The packet path's own SRTP, for the same keys."""

    def __init__(self, keys: Keys) -> None:
        srtp = lib.srtp_open(keys.keys)
        assert srtp
        self.srtp = ffi.gc(srtp, lib.srtp_close)

    def _run(self, function: Any, packet: bytes, *room: int) -> bytes:
        buffer = ffi.new("uint8_t[]", packet + bytes(300))
        length = function(self.srtp, buffer, len(packet), *room)
        assert length > 0, f"userspace refused: {length}"
        return bytes(ffi.buffer(buffer, length))

    def protect(self, packet: bytes) -> bytes:
        return self._run(lib.srtp_protect, packet, len(packet) + 300)

    def unprotect(self, packet: bytes) -> bytes:
        return self._run(lib.srtp_unprotect, packet)
