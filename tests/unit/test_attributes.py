"""Values of attributes about certificates and candidates: text against objects."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ProtocolError
from rtpengine.attributes import HASHES, parse_fingerprint, serialize_candidate, serialize_fingerprint
from rtpengine.media import Candidate, Endpoint, Fingerprint


def pairs(data: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in data)


SHA1 = bytes(range(0xF0, 0xF0 + 16)) + bytes(4)


@pytest.mark.parametrize("name", HASHES)
def test_lengths_are_those_of_the_hashes(name: str) -> None:
    """RFC 8122 5 names them as hashlib does, but for the hyphen."""
    digest = hashlib.new(name.replace("-", ""), b"certificate").digest()
    assert len(digest) == HASHES[name]
    assert parse_fingerprint(f"{name} {pairs(digest)}") == Fingerprint(name, digest)


@pytest.mark.parametrize(
    "value",
    [
        f"sha-1 {pairs(SHA1)}",
        f"sha-1 {pairs(SHA1).upper()}",
        f"SHA-1 {pairs(SHA1)}",
        f" Sha-1   {pairs(SHA1)} \r",
        f"sha-1 {pairs(SHA1).replace('f', 'F')}",
    ],
)
def test_case_and_blanks_do_not_matter(value: str) -> None:
    assert parse_fingerprint(value) == Fingerprint("sha-1", SHA1)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha-1",
        "sha-1 ",
        f"{pairs(SHA1)}",
        f"sha-1 {pairs(SHA1[:19])}",
        f"sha-1 {pairs(SHA1)}:00",
        f"sha-256 {pairs(SHA1)}",
        f"sha1 {pairs(SHA1)}",
        f"md5 {pairs(SHA1[:16])}",
        f"md2 {pairs(SHA1[:16])}",
        f"sha-1 {pairs(SHA1)} more",
        f"sha-1 {pairs(SHA1)}:",
        f"sha-1 :{pairs(SHA1)}",
        f"sha-1 {SHA1.hex()}",
        f"sha-1 {pairs(SHA1).replace(':', '-')}",
        f"sha-1 {pairs(SHA1)[:-1]}g",
        f"sha-1 {pairs(SHA1)[:-1]}١",
        "sha-512 " + "AA:" * 20000 + "AA",
    ],
)
def test_bad_fingerprints(value: str) -> None:
    with pytest.raises(ProtocolError):
        parse_fingerprint(value)


@given(st.sampled_from(sorted(HASHES)), st.data())
def test_fingerprints_round_trip(name: str, data: st.DataObject) -> None:
    size = HASHES[name]
    fingerprint = Fingerprint(name, data.draw(st.binary(min_size=size, max_size=size)))
    text = serialize_fingerprint(fingerprint)
    assert parse_fingerprint(text) == fingerprint
    assert text == f"{name} {pairs(fingerprint.digest).upper()}"


OURS = Endpoint("198.51.100.2", 30000)
BASE = Endpoint("2001:db8::2", 30002)


@pytest.mark.parametrize(
    ("candidate", "value"),
    [
        (Candidate("aB3", 1, 2130706431, OURS), "aB3 1 UDP 2130706431 198.51.100.2 30000 typ host"),
        (Candidate("x", 2, 1, BASE), "x 2 UDP 1 2001:db8::2 30002 typ host"),
        (
            Candidate("x", 1, 16777215, OURS, "relay", BASE),
            "x 1 UDP 16777215 198.51.100.2 30000 typ relay raddr 2001:db8::2 rport 30002",
        ),
    ],
)
def test_candidates(candidate: Candidate, value: str) -> None:
    assert serialize_candidate(candidate) == value
