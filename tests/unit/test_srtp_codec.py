"""Keys in signalling: a=crypto lines both ways, and what a DTLS handshake exports."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtpengine import ProtocolError, srtp
from rtpengine.media import CryptoLine, SrtpKeys
from rtpengine.srtp import PROFILES, SUITES, WEAK, generate_keys, parse_crypto, serialize_crypto, split_exported

HEADER = (Path(__file__).parent.parent.parent / "daemon" / "packetpath" / "srtp.h").read_text()

CM_80 = "AES_CM_128_HMAC_SHA1_80"
CM_32 = "AES_CM_128_HMAC_SHA1_32"
# The keys of RFC 4568's own examples.
VIDEO = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"
AUDIO = "NzB4d1BINUAvLEw6UzF3WSJ+PSdFcGdUJShpX1Zj"
THIRD = "YUJDZGVmZ2hpSktMbW9QUXJzVHVWd3l6MTIzNDU2"


def keys(length: int, suite: str, mki: bytes = b"", **flags: bool) -> SrtpKeys:
    """Keys whose bytes count from 0."""
    material = bytes(range(length))
    cut = SUITES[suite].key_len
    return SrtpKeys(suite, material[:cut], material[cut:], mki, **flags)


def inline(length: int) -> str:
    return b64encode(bytes(range(length))).decode()


K30 = inline(30)
UNENCRYPTED = keys(30, CM_80, unencrypted_srtp=True, unencrypted_srtcp=True, unauthenticated_srtp=True)


class TestSuites:
    def test_preference(self) -> None:
        assert next(iter(SUITES)) == CM_80
        assert list(PROFILES) == [0x0001, 0x0008, 0x0007, 0x0002]
        assert set(list(SUITES)[-len(WEAK) :]) == WEAK
        assert {name.partition("_")[0] for name in WEAK} == {"F8", "NULL"}

    @pytest.mark.parametrize(
        ("name", "master", "tag_len", "profile"),
        [
            (CM_80, 30, 10, "SRTP_AES128_CM_SHA1_80"),
            (CM_32, 30, 4, "SRTP_AES128_CM_SHA1_32"),
            ("AES_192_CM_HMAC_SHA1_80", 38, 10, None),
            ("AES_192_CM_HMAC_SHA1_32", 38, 4, None),
            ("AES_256_CM_HMAC_SHA1_80", 46, 10, None),
            ("AES_256_CM_HMAC_SHA1_32", 46, 4, None),
            ("AEAD_AES_128_GCM", 28, 16, "SRTP_AEAD_AES_128_GCM"),
            ("AEAD_AES_256_GCM", 44, 16, "SRTP_AEAD_AES_256_GCM"),
            ("F8_128_HMAC_SHA1_80", 30, 10, None),
            ("F8_128_HMAC_SHA1_32", 30, 4, None),
            ("NULL_HMAC_SHA1_80", 30, 10, None),
            ("NULL_HMAC_SHA1_32", 30, 4, None),
        ],
    )
    def test_lengths(self, name: str, master: int, tag_len: int, profile: str | None) -> None:
        suite = SUITES[name]
        assert (suite.key_len + suite.salt_len, suite.tag_len, suite.profile) == (master, tag_len, profile)
        assert suite.exported_len == 2 * master
        assert (suite.profile is None) == (suite.profile_id is None)

    def test_numbers_are_those_of_the_packet_path(self) -> None:
        enum = HEADER.partition("enum srtp_suite {")[2].partition("}")[0]
        found = {int(number): name for name, number in re.findall(r"(\w+) = (\d+)", enum)}
        named = {suite.number: suite.name for suite in SUITES.values()}
        assert set(named) == set(range(1, max(found)))
        for number, name in named.items():
            # the words of both names, in whichever order: AES_CM_128_HMAC_SHA1_80 and SRTP_AES128_CM_SHA1_80
            ours, theirs = (sorted(re.findall("[A-Z]+|[0-9]+", text)) for text in (name, found[number]))
            assert [word for word in ours if word != "HMAC"] == [word for word in theirs if word != "SRTP"]
        assert f"#define SRTP_MKI_MAX {srtp.MAX_MKI_LEN}\n" in HEADER

    def test_profiles_are_openssl_s(self) -> None:
        from OpenSSL import SSL

        SSL.Context(SSL.DTLS_METHOD).set_tlsext_use_srtp(":".join(s.profile or "" for s in PROFILES.values()).encode())


class TestParse:
    @pytest.mark.parametrize(
        ("value", "tag", "suite", "key", "salt", "mki"),
        [
            (
                f"1 {CM_80} inline:{VIDEO}|2^20|1:32",
                1,
                CM_80,
                "774466766726542b2978473740666235",
                "6a552c5261417d5c7c7030252a23",
                "00" * 31 + "01",
            ),
            (
                f"1 {CM_32} inline:{AUDIO}|2^20|1:32",
                1,
                CM_32,
                "37307877504835402f2c4c3a53317759",
                "227e3d27457067542528695f5663",
                "00" * 31 + "01",
            ),
            (
                f"2 {CM_80} inline:{THIRD}|1066:4",
                2,
                CM_80,
                "6142436465666768694a4b4c6d6f5051",
                "727354755677797a313233343536",
                "0000042a",
            ),
        ],
    )
    def test_rfc_4568(self, value: str, tag: int, suite: str, key: str, salt: str, mki: str) -> None:
        expected = SrtpKeys(suite, bytes.fromhex(key), bytes.fromhex(salt), bytes.fromhex(mki))
        assert parse_crypto(value) == CryptoLine(tag, expected)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (f"0 {CM_80} inline:{K30}", CryptoLine(0, keys(30, CM_80))),
            (f"999999999 {CM_80} inline:{K30}", CryptoLine(999999999, keys(30, CM_80))),
            (f"1 {CM_80.lower()} INLINE:{K30}", CryptoLine(1, keys(30, CM_80))),
            (f"  1   {CM_80}\tinline:{K30}  ", CryptoLine(1, keys(30, CM_80))),
            (f"1 {CM_80} inline:{K30}=", CryptoLine(1, keys(30, CM_80))),
            (f"1 AES_256_CM_HMAC_SHA1_80 inline:{inline(46)}", CryptoLine(1, keys(46, "AES_256_CM_HMAC_SHA1_80"))),
            (f"1 AES_192_CM_HMAC_SHA1_32 inline:{inline(38)}", CryptoLine(1, keys(38, "AES_192_CM_HMAC_SHA1_32"))),
            (f"1 AEAD_AES_128_GCM inline:{inline(28)}", CryptoLine(1, keys(28, "AEAD_AES_128_GCM"))),
            (f"1 AEAD_AES_128_GCM inline:{inline(28).rstrip('=')}", CryptoLine(1, keys(28, "AEAD_AES_128_GCM"))),
            (f"1 AEAD_AES_256_GCM inline:{inline(44)}|1:1", CryptoLine(1, keys(44, "AEAD_AES_256_GCM", b"\1"))),
            (f"1 AEAD_AES_256_GCM inline:{inline(44).rstrip('=')}", CryptoLine(1, keys(44, "AEAD_AES_256_GCM"))),
            (f"1 F8_128_HMAC_SHA1_80 inline:{K30}", CryptoLine(1, keys(30, "F8_128_HMAC_SHA1_80"))),
        ],
    )
    def test_forms(self, value: str, expected: CryptoLine) -> None:
        assert parse_crypto(value) == expected

    @pytest.mark.parametrize("field", ["2^1", "2^31", "2^48", "1", "281474976710656"])
    def test_lifetime_has_no_effect(self, field: str) -> None:
        assert parse_crypto(f"1 {CM_80} inline:{K30}|{field}").keys == keys(30, CM_80)
        assert parse_crypto(f"1 {CM_80} inline:{K30}|{field}|7:2").keys == keys(30, CM_80, b"\0\7")

    @pytest.mark.parametrize(
        ("field", "mki"),
        [
            ("1066:4", b"\0\0\4\x2a"),
            ("1066:1", b"\x2a"),
            ("0:1", b"\0"),
            ("1:255", b"\0" * 254 + b"\1"),
            (f"{2**128 - 1}:16", b"\xff" * 16),
        ],
    )
    def test_mki(self, field: str, mki: bytes) -> None:
        assert parse_crypto(f"1 {CM_80} inline:{K30}|{field}").keys.mki == mki

    @pytest.mark.parametrize(
        ("parameters", "expected"),
        [
            ("WSH=64", keys(30, CM_80)),
            ("wsh=1024 -SOME_EXTENSION=5", keys(30, CM_80)),
            ("UNENCRYPTED_SRTP", keys(30, CM_80, unencrypted_srtp=True)),
            ("unencrypted_srtcp WSH=64", keys(30, CM_80, unencrypted_srtcp=True)),
            ("UNAUTHENTICATED_SRTP", keys(30, CM_80, unauthenticated_srtp=True)),
            ("UNENCRYPTED_SRTP UNENCRYPTED_SRTCP UNAUTHENTICATED_SRTP", UNENCRYPTED),
        ],
    )
    def test_session_parameters(self, parameters: str, expected: SrtpKeys) -> None:
        assert parse_crypto(f"1 {CM_80} inline:{K30} {parameters}").keys == expected

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("", "lacks"),
            (f"1 {CM_80}", "lacks"),
            (f"1 inline:{K30}", "lacks"),
            (f"x {CM_80} inline:{K30}", "tag"),
            (f"-1 {CM_80} inline:{K30}", "tag"),
            (f"\u0661 {CM_80} inline:{K30}", "tag"),
            (f"1234567890 {CM_80} inline:{K30}", "tag"),
            (f"1 inline:{K30} {CM_80}", "suite"),
            (f"1 AES_CM_128_HMAC_SHA2_80 inline:{K30}", "suite"),
            (f"1 {CM_80} {K30}", "inline"),
            (f"1 {CM_80} outline:{K30}", "inline"),
            (f"1 {CM_80} inline:{K30};inline:{K30}", "Several"),
            (f"1 {CM_80} inline:{K30}|2^20|1:4;inline:{K30}|2^20|2:4", "Several"),
            (f"1 {CM_80} inline:", "base64"),
            (f"1 {CM_80} inline:====", "base64"),
            (f"1 {CM_80} inline:{K30[:-1]}!", "base64"),
            (f"1 {CM_80} inline:{K30[:-1]}\u00e9", "base64"),
            (f"1 {CM_80} inline:{K30[:-1]}-", "base64"),
            (f"1 {CM_80} inline:{K30}===", "base64"),
            (f"1 {CM_80} inline:{K30}A", "base64"),
            (f"1 {CM_80} inline:{K30[:20]}={K30[21:]}", "base64"),
            (f"1 {CM_80} inline:{inline(29)}", "length"),
            (f"1 {CM_80} inline:{inline(31)}", "length"),
            (f"1 AES_256_CM_HMAC_SHA1_80 inline:{K30}", "length"),
            (f"1 AEAD_AES_128_GCM inline:{K30}", "length"),
            (f"1 {CM_80} inline:{K30}|", "lifetime"),
            (f"1 {CM_80} inline:{K30}|0", "lifetime"),
            (f"1 {CM_80} inline:{K30}|2^0", "lifetime"),
            (f"1 {CM_80} inline:{K30}|2^49", "lifetime"),
            (f"1 {CM_80} inline:{K30}|2^999999999", "lifetime"),
            (f"1 {CM_80} inline:{K30}|281474976710657", "lifetime"),
            (f"1 {CM_80} inline:{K30}|3^2", "lifetime"),
            (f"1 {CM_80} inline:{K30}|-1", "lifetime"),
            (f"1 {CM_80} inline:{K30}||1:4", "lifetime"),
            (f"1 {CM_80} inline:{K30}|1:4|2^20", "Too many|lifetime"),
            (f"1 {CM_80} inline:{K30}|2^20|2^20", "Too many"),
            (f"1 {CM_80} inline:{K30}|2^20|1:4|1:4", "Too many"),
            (f"1 {CM_80} inline:{K30}|1:0", "MKI"),
            (f"1 {CM_80} inline:{K30}|1:256", "MKI"),
            (f"1 {CM_80} inline:{K30}|1:", "MKI"),
            (f"1 {CM_80} inline:{K30}|:4", "MKI"),
            (f"1 {CM_80} inline:{K30}|x:4", "MKI"),
            (f"1 {CM_80} inline:{K30}|{'9' * 5000}:4", "MKI"),
            (f"1 {CM_80} inline:{K30} KDR=1", "session parameter"),
            (f"1 {CM_80} inline:{K30} FEC_ORDER=FEC_SRTP", "session parameter"),
            (f"1 {CM_80} inline:{K30} FEC_KEY=inline:{THIRD}", "session parameter"),
            (f"1 {CM_80} inline:{K30} WSH=x", "session parameter"),
            (f"1 {CM_80} inline:{K30} inline:{THIRD}", "session parameter"),
            (f"1 AEAD_AES_128_GCM inline:{inline(28)} UNENCRYPTED_SRTP UNAUTHENTICATED_SRTP", "does not fit"),
            (f"1 AEAD_AES_256_GCM inline:{inline(44)} UNAUTHENTICATED_SRTP", "does not fit"),
        ],
    )
    def test_unusable_and_told_without_the_key(self, value: str, reason: str) -> None:
        with pytest.raises(ProtocolError, match=reason) as caught:
            parse_crypto(value)
        shown = str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert not [word for word in re.findall(r"[A-Za-z0-9+/]{8,}", value) if word in shown]

    @settings(max_examples=300)
    @given(st.text(alphabet="1 inline:AESCM_128HMACSHA180|2^;=+/abc\u00e9\t", max_size=120))
    def test_any_text_ends_in_a_line_or_a_reason(self, text: str) -> None:
        for value in (text, f"1 {CM_80} inline:{text}", f"1 {CM_80} inline:{K30}{text}"):
            try:
                line = parse_crypto(value)
            except ProtocolError:
                continue
            assert parse_crypto(serialize_crypto(line)) == line

    def test_nothing_shows_the_key(self) -> None:
        line = parse_crypto(f"1 {CM_80} inline:{VIDEO}")
        assert repr(line) == f"CryptoLine(tag=1, keys=SrtpKeys({CM_80}))"


class TestSerialize:
    @pytest.mark.parametrize(
        ("line", "lifetime", "value"),
        [
            (CryptoLine(1, keys(30, CM_80)), False, f"1 {CM_80} inline:{K30}"),
            (CryptoLine(1, keys(30, CM_80)), True, f"1 {CM_80} inline:{K30}|2^31"),
            (CryptoLine(7, keys(30, CM_32, b"\0\0\4\x2a")), False, f"7 {CM_32} inline:{K30}|1066:4"),
            (CryptoLine(7, keys(30, CM_32, b"\0\0\4\x2a")), True, f"7 {CM_32} inline:{K30}|2^31|1066:4"),
            (CryptoLine(2, keys(28, "AEAD_AES_128_GCM")), False, f"2 AEAD_AES_128_GCM inline:{inline(28)}"),
            (CryptoLine(2, keys(44, "AEAD_AES_256_GCM")), False, f"2 AEAD_AES_256_GCM inline:{inline(44)}"),
            (
                CryptoLine(3, UNENCRYPTED),
                True,
                f"3 {CM_80} inline:{K30}|2^31 UNENCRYPTED_SRTP UNENCRYPTED_SRTCP UNAUTHENTICATED_SRTP",
            ),
        ],
    )
    def test_written_and_read_again(self, line: CryptoLine, lifetime: bool, value: str) -> None:
        assert serialize_crypto(line, lifetime) == value
        assert parse_crypto(value) == line

    @pytest.mark.parametrize("name", SUITES)
    def test_each_suite_both_ways(self, name: str) -> None:
        suite = SUITES[name]
        line = CryptoLine(1, keys(suite.key_len + suite.salt_len, name))
        value = serialize_crypto(line)
        assert parse_crypto(value) == line
        # padded: RFC 6188 has keys that are no multiple of three bytes
        assert len(value.rpartition(":")[2]) % 4 == 0


class TestKeys:
    @pytest.mark.parametrize("name", SUITES)
    def test_generated(self, name: str) -> None:
        supply = iter(range(1, 3))
        made = generate_keys(name, lambda n: bytes([next(supply)]) * n)
        assert made == SrtpKeys(name, b"\1" * SUITES[name].key_len, b"\2" * SUITES[name].salt_len)

    def test_exported_as_rfc_5764_says(self) -> None:
        material = b"c" * 16 + b"s" * 16 + b"C" * 14 + b"S" * 14
        assert split_exported(material, CM_80) == (
            SrtpKeys(CM_80, b"c" * 16, b"C" * 14),
            SrtpKeys(CM_80, b"s" * 16, b"S" * 14),
        )

    def test_exported_for_a_long_key(self) -> None:
        name = "AEAD_AES_256_GCM"
        material = b"c" * 32 + b"s" * 32 + b"C" * 12 + b"S" * 12
        assert split_exported(material, name) == (
            SrtpKeys(name, b"c" * 32, b"C" * 12),
            SrtpKeys(name, b"s" * 32, b"S" * 12),
        )

    @pytest.mark.parametrize("length", [0, 59, 61])
    def test_exported_with_the_wrong_length(self, length: int) -> None:
        with pytest.raises(ValueError, match=f"{length} bytes"):
            split_exported(bytes(length), CM_80)

    def test_label(self) -> None:
        assert srtp.EXPORTER_LABEL == b"EXTRACTOR-dtls_srtp"
