"""Keys of SRTP as signalling carries them: ``a=crypto`` (RFC 4568), and what a DTLS handshake yields (RFC 5764 4.2).

The packets themselves are the packet path's. No text that leaves this module but :func:`serialize_crypto` has a key
in it, and no reason of a :class:`~rtpengine.ProtocolError` repeats any of its input.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable
from typing import Any, NamedTuple

from rtpengine import ProtocolError
from rtpengine.media import CryptoLine, SrtpKeys

EXPORTER_LABEL = b"EXTRACTOR-dtls_srtp"

MAX_LIFETIME_POWER = 48
MAX_MKI_LEN = 255


class CryptoSuite(NamedTuple):
    """How packets are protected: RFC 4568 6.2, RFC 6188, RFC 7714; f8 with a short tag and NULL have no RFC.

    ``name`` is that of SDES, ``number`` the packet path's. Lengths in bytes, ``tag_len`` that of an RTP packet.
    ``profile`` and ``profile_id`` name it in DTLS: OpenSSL's word and RFC 5764's number, None where there is none.
    """

    name: str
    number: int
    key_len: int
    salt_len: int
    tag_len: int
    profile: str | None = None
    profile_id: int | None = None

    @property
    def exported_len(self) -> int:
        """How many bytes a DTLS handshake has to export for both directions."""
        return 2 * (self.key_len + self.salt_len)


_ALL = (
    CryptoSuite("AES_CM_128_HMAC_SHA1_80", 1, 16, 14, 10, "SRTP_AES128_CM_SHA1_80", 0x0001),
    CryptoSuite("AEAD_AES_256_GCM", 12, 32, 12, 16, "SRTP_AEAD_AES_256_GCM", 0x0008),
    CryptoSuite("AEAD_AES_128_GCM", 11, 16, 12, 16, "SRTP_AEAD_AES_128_GCM", 0x0007),
    CryptoSuite("AES_256_CM_HMAC_SHA1_80", 5, 32, 14, 10),
    CryptoSuite("AES_192_CM_HMAC_SHA1_80", 3, 24, 14, 10),
    CryptoSuite("AES_CM_128_HMAC_SHA1_32", 2, 16, 14, 4, "SRTP_AES128_CM_SHA1_32", 0x0002),
    CryptoSuite("AES_256_CM_HMAC_SHA1_32", 6, 32, 14, 4),
    CryptoSuite("AES_192_CM_HMAC_SHA1_32", 4, 24, 14, 4),
    CryptoSuite("F8_128_HMAC_SHA1_80", 7, 16, 14, 10),
    CryptoSuite("F8_128_HMAC_SHA1_32", 8, 16, 14, 4),
    CryptoSuite("NULL_HMAC_SHA1_80", 9, 16, 14, 10),
    CryptoSuite("NULL_HMAC_SHA1_32", 10, 16, 14, 4),
)

SUITES: dict[str, CryptoSuite] = {suite.name: suite for suite in _ALL}
"""By SDES name, the preferred ones first; the very first is the default."""

PROFILES: dict[int, CryptoSuite] = {suite.profile_id: suite for suite in _ALL if suite.profile_id is not None}
"""Those that DTLS can negotiate, by the number of RFC 5764 4.1.2 and RFC 7714 14.2, in the same order."""

WEAK = frozenset(name for name in SUITES if name.startswith(("F8_", "NULL_")))
"""Known, but not to be offered or accepted unless the operator wants them."""

_AEAD = frozenset(name for name in SUITES if name.startswith("AEAD_"))

# Session parameters that we can follow (RFC 4568 6.3), with their fields of SrtpKeys.
_FLAGS = {
    "UNENCRYPTED_SRTP": "unencrypted_srtp",
    "UNENCRYPTED_SRTCP": "unencrypted_srtcp",
    "UNAUTHENTICATED_SRTP": "unauthenticated_srtp",
}

_TAG = re.compile(r"[0-9]{1,9}")
_KEY_METHOD = re.compile(r"inline:", re.IGNORECASE)
_BASE64 = re.compile(r"([A-Za-z0-9+/]+)={0,2}")
_LIFETIME = re.compile(r"2\^([0-9]{1,2})|([0-9]{1,15})")
# As many digits as 128 bytes need, the longest MKI of RFC 4568 6.1.
_MKI = re.compile(r"([0-9]{1,309}):([0-9]{1,3})")
_WINDOW_SIZE = re.compile(r"WSH=[0-9]+", re.IGNORECASE)


def parse_crypto(value: str) -> CryptoLine:
    """Parse what stands behind ``a=crypto:`` (RFC 4568 9.1).

    Base64 may lack its padding, names are compared without regard to case.
    Raise ProtocolError for a line that cannot be used, be it wrong or beyond what we can do.
    """
    words = value.split()
    if len(words) < 3:
        raise ProtocolError("Crypto attribute lacks tag, suite or key")
    tag, name, key, *parameters = words
    if not _TAG.fullmatch(tag):
        raise ProtocolError("Crypto tag is no number")
    suite = SUITES.get(name.upper())
    if suite is None:
        raise ProtocolError("Unknown crypto suite")
    return CryptoLine(int(tag), _parse_parameters(_parse_key(key, suite), parameters))


def _parse_key(text: str, suite: CryptoSuite) -> SrtpKeys:
    """Read ``inline:KEY[|LIFETIME][|MKI:LENGTH]`` (RFC 4568 6.1)."""
    if not _KEY_METHOD.match(text):
        raise ProtocolError("Crypto key method is not inline")
    if ";" in text:
        raise ProtocolError("Several crypto keys in one attribute")
    encoded, *fields = text.partition(":")[2].split("|")
    key = _decode(encoded)
    if len(key) != suite.key_len + suite.salt_len:
        raise ProtocolError("Crypto key has the wrong length for its suite")
    mki = _parse_mki(fields.pop()) if fields and ":" in fields[-1] else b""
    if len(fields) > 1:
        raise ProtocolError("Too many fields behind a crypto key")
    for field in fields:
        _check_lifetime(field)
    return SrtpKeys(suite.name, key[: suite.key_len], key[suite.key_len :], mki)


def _decode(text: str) -> bytes:
    match = _BASE64.fullmatch(text)
    if not match:
        raise ProtocolError("Crypto key is not base64")
    bare = match[1]
    try:
        return a2b_base64(bare + "=" * (-len(bare) % 4))
    except Base64Error:
        raise ProtocolError("Crypto key is not base64") from None


def _check_lifetime(field: str) -> None:
    """Refuse what is no lifetime, a number of packets; one that is has no further effect."""
    match = _LIFETIME.fullmatch(field)
    if not match:
        raise ProtocolError("Crypto lifetime is no number")
    number, most = (match[1], MAX_LIFETIME_POWER) if match[1] else (match[2], 1 << MAX_LIFETIME_POWER)
    if not 1 <= int(number) <= most:
        raise ProtocolError("Crypto lifetime is out of range")


def _parse_mki(field: str) -> bytes:
    match = _MKI.fullmatch(field)
    if not match or not 1 <= int(match[2]) <= MAX_MKI_LEN:
        raise ProtocolError("Crypto MKI is out of range")
    length = int(match[2])
    # a value too long for its field loses its upper bytes
    return (int(match[1]) % (1 << 8 * length)).to_bytes(length, "big")


def _parse_parameters(keys: SrtpKeys, parameters: list[str]) -> SrtpKeys:
    """Apply the session parameters; who ignores one that alters the packets hears noise."""
    flags: dict[str, Any] = {}
    for parameter in map(str.upper, parameters):
        if parameter in _FLAGS:
            flags[_FLAGS[parameter]] = True
        elif not _is_optional(parameter):
            raise ProtocolError("Crypto session parameter is not supported")
    # the tag of an AEAD is part of the cipher (RFC 7714 5)
    if keys.suite in _AEAD and "unauthenticated_srtp" in flags:
        raise ProtocolError("Crypto session parameter does not fit the suite")
    return keys._replace(**flags)


def _is_optional(parameter: str) -> bool:
    """Whether a session parameter may be passed over: a window size, or an extension marked so (RFC 4568 6.3.7)."""
    return parameter.startswith("-") or bool(_WINDOW_SIZE.fullmatch(parameter))


def serialize_crypto(line: CryptoLine, lifetime: bool = False) -> str:
    """The inverse of :func:`parse_crypto`; with ``lifetime`` the most packets that SRTP and SRTCP both allow."""
    keys = line.keys
    text = f"{line.tag} {keys.suite} inline:{b64encode(keys.key + keys.salt).decode()}"
    if lifetime:
        text += "|2^31"
    if keys.mki:
        text += f"|{int.from_bytes(keys.mki, 'big')}:{len(keys.mki)}"
    return " ".join([text, *(name for name, field in _FLAGS.items() if getattr(keys, field))])


def generate_keys(suite: str, random: Callable[[int], bytes]) -> SrtpKeys:
    """New keys for the suite of this name; ``random`` gives that many bytes that nobody can predict."""
    chosen = SUITES[suite]
    return SrtpKeys(suite, random(chosen.key_len), random(chosen.salt_len))


def split_exported(material: bytes, suite: str) -> tuple[SrtpKeys, SrtpKeys]:
    """Cut what a DTLS handshake exported under EXPORTER_LABEL into the keys that client and server send with.

    RFC 5764 4.2: both master keys come first, then both salts. Raise ValueError unless ``material`` has
    ``exported_len`` bytes.
    """
    chosen = SUITES[suite]
    if len(material) != chosen.exported_len:
        raise ValueError(f"{len(material)} bytes exported, {suite} needs {chosen.exported_len}")
    keys, salts = material[: 2 * chosen.key_len], material[2 * chosen.key_len :]
    return (
        SrtpKeys(suite, keys[: chosen.key_len], salts[: chosen.salt_len]),
        SrtpKeys(suite, keys[chosen.key_len :], salts[chosen.salt_len :]),
    )
