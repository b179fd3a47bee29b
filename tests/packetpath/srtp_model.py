"""SRTP and SRTCP once more, written from the RFCs in Python: what srtp.c has to produce, byte for byte.

It knows nothing of state: the caller names the rollover counter or the index. Slow and plain on purpose.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CM, F8, NULL, GCM = "CM", "F8", "NULL", "GCM"
SHAPES = {  # cipher, length of key, salt and RTP tag
    "CM128-80": (CM, 16, 14, 10),
    "CM128-32": (CM, 16, 14, 4),
    "CM192-80": (CM, 24, 14, 10),
    "CM192-32": (CM, 24, 14, 4),
    "CM256-80": (CM, 32, 14, 10),
    "CM256-32": (CM, 32, 14, 4),
    "F8-80": (F8, 16, 14, 10),
    "F8-32": (F8, 16, 14, 4),
    "NULL-80": (NULL, 16, 14, 10),
    "NULL-32": (NULL, 16, 14, 4),
    "GCM128": (GCM, 16, 12, 16),
    "GCM256": (GCM, 32, 12, 16),
}


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def aes(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def counter_mode(key: bytes, iv: int, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(iv.to_bytes(16, "big"))).encryptor().update(data)


def f8(key: bytes, salt: bytes, iv: bytes, data: bytes) -> bytes:
    """RFC 3711 4.1.2.1, with a salt of any length."""
    start = aes(xor(key, salt + b"\x55" * (16 - len(salt))), iv)
    stream, last = b"", bytes(16)
    for j in range(-(-len(data) // 16)):
        last = aes(key, xor(xor(start, j.to_bytes(16, "big")), last))
        stream += last
    return xor(data, stream[: len(data)])


def derive(key: bytes, salt: bytes, label: int, length: int) -> bytes:
    """RFC 3711 4.3.1 and 4.3.3, key derivation rate 0."""
    x = int.from_bytes(salt.ljust(14, b"\0"), "big") ^ label << 48
    return counter_mode(key, x << 16, bytes(length))


@dataclass
class Session:
    """Session keys of one protocol, as the packet transforms take them."""

    cipher: str
    key: bytes
    salt: bytes
    auth: bytes
    tag_len: int

    @classmethod
    def derived(cls, suite: str, key: bytes, salt: bytes, rtcp: bool) -> Session:
        cipher, key_len, salt_len, tag_len = SHAPES[suite]
        key, salt, first = key[:key_len], salt[:salt_len], 3 if rtcp else 0
        return cls(
            cipher,
            derive(key, salt, first, key_len),
            derive(key, salt, first + 2, salt_len),
            derive(key, salt, first + 1, 20),
            tag_len if cipher == GCM or not rtcp else 10,
        )

    def counter_iv(self, ssrc: int, index: int) -> int:
        return int.from_bytes(self.salt, "big") << 16 ^ ssrc << 64 ^ index << 16

    def crypt(self, ssrc: int, index: int, f8_iv: bytes, data: bytes) -> bytes:
        if self.cipher == F8:
            return f8(self.key, self.salt, f8_iv, data)
        return counter_mode(self.key, self.counter_iv(ssrc, index), data) if self.cipher == CM else data

    def gcm(self, ssrc: int, index: int, clear: bytes, data: bytes) -> bytes:
        """Ciphertext and tag (RFC 7714 8.1 and 9.1: 16 bits of zero, SSRC, and the index in 48 bits)."""
        nonce = xor(self.salt, (ssrc << 48 | index).to_bytes(12, "big"))
        return AESGCM(self.key).encrypt(nonce, data, clear)

    def tag(self, data: bytes) -> bytes:
        return hmac.new(self.auth, data, hashlib.sha1).digest()[: self.tag_len]


def header_len(packet: bytes) -> int:
    length = 12 + 4 * (packet[0] & 15)
    if packet[0] & 16:
        length += 4 + 4 * int.from_bytes(packet[length + 2 : length + 4], "big")
    return length


def protect(s: Session, packet: bytes, roc: int, mki: bytes = b"", plain: bool = False, no_tag: bool = False) -> bytes:
    ssrc, index, cut = int.from_bytes(packet[8:12], "big"), roc << 16 | packet[2] << 8 | packet[3], header_len(packet)
    cut = len(packet) if plain else cut
    if s.cipher == GCM:
        return packet[:cut] + s.gcm(ssrc, index, packet[:cut], packet[cut:]) + mki
    f8_iv = b"\0" + packet[1:12] + roc.to_bytes(4, "big")
    body = packet[:cut] + s.crypt(ssrc, index, f8_iv, packet[cut:])
    return body + mki + (b"" if no_tag else s.tag(body + roc.to_bytes(4, "big")))


def protect_rtcp(s: Session, packet: bytes, index: int, mki: bytes = b"", plain: bool = False) -> bytes:
    ssrc, cut = int.from_bytes(packet[4:8], "big"), len(packet) if plain else 8
    word = (index | (0 if plain else 1 << 31)).to_bytes(4, "big")
    if s.cipher == GCM:
        sealed = s.gcm(ssrc, index, packet[:cut] + word, packet[cut:])
        return packet[:cut] + sealed + word + mki
    body = packet[:cut] + s.crypt(ssrc, index, bytes(4) + word + packet[:8], packet[cut:]) + word
    return body + mki + s.tag(body)
