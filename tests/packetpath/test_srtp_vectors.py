"""srtp.c against published vectors: the appendices of RFC 3711, RFC 6188 and RFC 7714, and libsrtp's packets."""

from __future__ import annotations

import pytest
from srtp_context import Context, rtcp, rtp

MASTER = bytes.fromhex("e1f97a0d3e018be0d64fa32c06de4139"), bytes.fromhex("0ec675ad498afeebb6960b3aabe6")
SRTP_80 = "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb"
SRTCP = [
    "81c8000bcafebabeb19c219a086b6c7ae61d8e0bfeb4be3f800000005631d6cfc906cdb30f41",
    "81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798",
]


@pytest.mark.parametrize(("suite", "wire"), [("CM128-80", SRTP_80), ("CM128-32", SRTP_80[:-12])])
def test_reference_packet(suite: str, wire: str) -> None:
    assert Context(suite, *MASTER).protect(rtp(0x1234)).hex() == wire
    assert Context(suite, *MASTER).unprotect(bytes.fromhex(wire)) == rtp(0x1234)


def test_reference_packets_of_rtcp() -> None:
    sender, receiver = Context("CM128-80", *MASTER), Context("CM128-80", *MASTER)
    for wire in SRTCP:
        assert sender.protect_rtcp(rtcp()).hex() == wire
        assert receiver.unprotect_rtcp(bytes.fromhex(wire)) == rtcp()
