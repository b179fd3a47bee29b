"""srtp.c against published vectors: the appendices of RFC 3711, RFC 6188 and RFC 7714, and libsrtp's packets.

The RFCs of ciphers name session keys, which srtp.c derives itself. So their vectors judge srtp_model.py,
and test_srtp_transforms.py judges srtp.c by that.
"""

from __future__ import annotations

from typing import Any

import pytest
import srtp_model as model
from rtpengine._packetpath import ffi, lib
from srtp_context import Context, make_keys, rtcp, rtp

h = bytes.fromhex
MASTER = h("e1f97a0d3e018be0d64fa32c06de4139"), h("0ec675ad498afeebb6960b3aabe6")
MASTER_192 = h("73edc66c4fa15776fb57f9505c17136550ffda71f3e8e5f1"), h("c8522f3acd4ce86d5add78edbb11")
MASTER_256 = h("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6"), h("3b04803de51ee7c96423ab5b78d2")

DERIVED = [
    # RFC 3711 B.3; labels 3 to 5 computed, and confirmed by the packets below
    ("CM128-80", MASTER, 0, "c61e7a93744f39ee10734afe3ff7a087"),
    (
        "CM128-80",
        MASTER,
        1,
        "cebe321f6ff7716b6fd4ab49af256a156d38baa48f0a0acf3c34e2359e6cdbcee049646c43d9327ad175578ef72270986371"
        "c10c9a369ac2f94a8c5fbcdddc256d6e919a48b610ef17c2041e474035766b68642c59bbfc2f34db60dbdfb2",
    ),
    ("CM128-80", MASTER, 2, "30cbbc08863d8c85d49db34a9ae1"),
    ("CM128-80", MASTER, 3, "4c1aa45a81f73d61c800bbb00fbb1eaa"),
    ("CM128-80", MASTER, 4, "8d54534feb49ae8e7993a6bd0b844fc323a93dfd"),
    ("CM128-80", MASTER, 5, "9581c7ad87b3e530bf3e4454a8b3"),
    # RFC 6188 7.4 and 7.2
    ("CM192-80", MASTER_192, 0, "31874736a8f1143870c26e4857d8a5b2c4a354407faadabb"),
    ("CM192-80", MASTER_192, 1, "355b10973cd95b9eacf4061c7e1a7151e7cfbfcb"),
    ("CM192-80", MASTER_192, 2, "2372b82d639b6d8503a47adc0a6c"),
    ("CM256-80", MASTER_256, 0, "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4"),
    ("CM256-80", MASTER_256, 1, "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"),
    ("CM256-80", MASTER_256, 2, "fa31791685ca444a9e07c6c64e93"),
]


@pytest.mark.parametrize(("suite", "master", "label", "expected"), DERIVED)
def test_session_keys(suite: str, master: tuple[bytes, bytes], label: int, expected: str) -> None:
    out = ffi.new("uint8_t[]", len(expected) // 2)
    assert lib.srtp_derive(make_keys(suite, *master), label, out, len(out)) == 0
    assert bytes(out).hex() == model.derive(*master, label, len(out)).hex() == expected


@pytest.mark.parametrize("suite", [lib.SRTP_NONE, lib.SRTP_SUITES, 2**32 - 1])
def test_no_keys_for_no_suite(suite: int) -> None:
    keys = ffi.new("struct srtp_keys *", {"suite": suite})
    assert lib.srtp_derive(keys, 0, ffi.new("uint8_t[16]"), 16) == lib.SRTP_ERROR_MALFORMED
    assert lib.srtp_open(keys) == ffi.NULL


# The packets of libsrtp's own test program: suite, master keys, SRTP
REFERENCE = [
    ("CM128-80", MASTER, "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb"),
    ("CM128-32", MASTER, "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc"),
    ("CM256-80", MASTER_256, "800f1234decafbadcafebabef1d9de17ff251ff1aa007774b0b4b40da08d9d9a5b3a55d8873b"),
]
REFERENCE_RTCP = [
    "81c8000bcafebabeb19c219a086b6c7ae61d8e0bfeb4be3f800000005631d6cfc906cdb30f41",
    "81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798",
]


@pytest.mark.parametrize(("suite", "master", "wire"), REFERENCE)
def test_reference_packet(suite: str, master: tuple[bytes, bytes], wire: str) -> None:
    assert Context(suite, *master).protect(rtp(0x1234)).hex() == wire
    assert Context(suite, *master).unprotect(h(wire)) == rtp(0x1234)


def test_reference_packets_of_rtcp() -> None:
    sender, receiver = Context("CM128-80", *MASTER), Context("CM128-80", *MASTER)
    for wire in REFERENCE_RTCP:
        assert sender.protect_rtcp(rtcp()).hex() == wire
        assert receiver.unprotect_rtcp(h(wire)) == rtcp()


KEY_STREAMS = [
    # RFC 3711 B.2, RFC 6188 7.3 and 7.1: the first three blocks, and blocks feff to ff01
    (
        "2b7e151628aed2a6abf7158809cf4f3c",
        "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0",
        "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae6a2cc3787889374fbeb4c81b17ba6c44",
    ),
    (
        "eab234764e517b2d3d160d587d8c86219740f65f99b6bcf7",
        "35096cba4610028dc1b57503804ce37c5de986291dcce161d5165ec4568f5c9a474a40c77894bc17180202272a4c264d",
        "d108d1a31a00bad6367ec23eb044b415c8f57129fdeb970b59f917b257662d4ca5dab625811034e8cebdfeb6dc158dd3",
    ),
    (
        "57f82fe3613fd170a85ec93c40b1f0922ec4cb0dc025b58272147cc438944a98",
        "92bdd28a93c3f52511c677d08b5515a49da71b2378a854f67050756ded165bac63c4868b7096d88421b563b8c94c9a31",
        "cea518c90fd91ced9cbb18c078a547113dbc4814f4da5f00a08772b63c6a046d6eb246913062a16891433e97dd01a57f",
    ),
]
CM_SALT = h("f0f1f2f3f4f5f6f7f8f9fafbfcfd")


@pytest.mark.parametrize(("key", "first", "last"), KEY_STREAMS)
def test_key_stream_of_the_model(key: str, first: str, last: str) -> None:
    session = model.Session(model.CM, h(key), CM_SALT, b"", 0)
    stream = session.crypt(0, 0, b"", bytes(16 * 0xFF02))
    assert (stream[:48].hex(), stream[-48:].hex()) == (first, last)


def iv(function: Any, *args: Any, size: int = 16) -> bytes:
    out = ffi.new("uint8_t[]", b"\xee" * (size + 1))
    function(out, *args)
    assert out[size] == 0xEE
    return bytes(out)[:size]


@pytest.mark.parametrize("ssrc", [0, 1, 0xCAFEBABE, 0xFFFFFFFF])
@pytest.mark.parametrize("index", [0, 1, 0x1234, 0x7FFFFFFF, 0x0102_0304_0506, 0xFFFF_FFFF_FFFF])
def test_counter_block(ssrc: int, index: int) -> None:
    expected = model.Session(model.CM, b"", CM_SALT, b"", 0).counter_iv(ssrc, index).to_bytes(16, "big")
    assert iv(lib.rtp_cm_iv, CM_SALT, ssrc, index) == expected


# RFC 3711 B.1, whose salt has 32 bits
F8 = {
    "key": h("234829008467be186c3de14aae72d62c"),
    "salt": h("32f2870d"),
    "iv": h("006e5cba50681de55c621599d462564a"),
    "start": h("595b699bbd3bc0df26062093c1ad8f73"),
    "plain": b"pseudorandomness is the next best thing",
    "cipher": h("019ce7a26e7854014a6366aa95d4eefd1ad4172a14f9faf455b7f1d4b62bd08f562c0eef7c4802"),
}


def test_f8_of_the_model() -> None:
    assert model.f8(F8["key"], F8["salt"], F8["iv"], F8["plain"]) == F8["cipher"]


@ffi.callback("void(void *, uint8_t *)")  # type: ignore[misc,untyped-decorator]
def aes_block(key: Any, block: Any) -> None:
    ffi.memmove(block, model.aes(bytes(ffi.cast("uint8_t[16]", key)), bytes(block[0:16])), 16)


def test_f8_of_the_packet_path() -> None:
    header, key = h("806e5cba50681de55c621599"), ffi.new("uint8_t[]", F8["key"])
    # 14 bytes of salt and 2 of filling, here 4 of salt and 10 of filling
    mask = iv(lib.rtp_f8_mask, F8["key"], F8["salt"] + b"\x55" * 10)
    assert iv(lib.rtp_f8_iv, header, 0xD462564A) == F8["iv"]
    assert model.aes(mask, F8["iv"]) == F8["start"]
    data = ffi.new("uint8_t[]", F8["plain"])
    lib.rtp_f8(data, len(F8["plain"]), F8["start"], aes_block, key)
    assert bytes(data) == F8["cipher"] + b"\0"


def test_f8_of_rtcp() -> None:
    assert iv(lib.rtcp_f8_iv, rtcp(), 0x80000102) == h("0000000080000102") + rtcp()[:8]


GCM_SALT = h("517569642070726f2071756f")
GALLIA = h("8040f17b8041f8d35501a0b2") + b"Gallia est omnis divisa in partes tres"
MARS = h("81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61") + h("deadbeef") * 5
# RFC 7714 16 and 17: length of key, SRTP, the tag without encryption, and the same of RTCP with index 5d4
GCM = [
    (
        16,
        "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833"
        "899d7f27beb16a9152cf765ee4390cce",
        "22493f82d2bce397e9d79e3b19aa4216",
        "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9"
        "275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
        "841dd9683dd78ec92ae58790125f62b3000005d4",
    ),
    (
        32,
        "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b"
        "7aa3db36dfffd6b0f9bb7878d7a76c13",
        "a866d5910f887463067ceefec45215d4",
        "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de0476f1b"
        "6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
        "91db4afbfeee5a978fab4393ed2615fe000005d4",
    ),
]


@pytest.mark.parametrize(("key_len", "srtp", "tag", "srtcp", "rtcp_tag"), GCM)
def test_gcm_of_the_model(key_len: int, srtp: str, tag: str, srtcp: str, rtcp_tag: str) -> None:
    session = model.Session(model.GCM, bytes(range(key_len)), GCM_SALT, b"", 16)
    assert model.protect(session, GALLIA, 0).hex() == srtp
    assert model.protect(session, GALLIA, 0, plain=True) == GALLIA + h(tag)
    assert model.protect_rtcp(session, MARS, 0x5D4).hex() == srtcp
    assert model.protect_rtcp(session, MARS, 0x5D4, plain=True) == MARS + h(rtcp_tag)


@pytest.mark.parametrize(
    ("ssrc", "index", "expected"),
    [(0x5501A0B2, 0xF17B, "51753c6580c2726f20718414"), (0x4D617273, 0x5D4, "517524055203726f207170bb")],
)
def test_gcm_nonce(ssrc: int, index: int, expected: str) -> None:
    assert iv(lib.rtp_gcm_iv, GCM_SALT, ssrc, index, size=12).hex() == expected
