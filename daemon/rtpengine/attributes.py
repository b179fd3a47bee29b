"""Values of the SDP attributes about certificates and candidates: RFC 8122, RFC 8839. Keys are srtp.py's."""

from __future__ import annotations

import re

from rtpengine import ProtocolError
from rtpengine.media import Candidate, Fingerprint

HASHES = {"sha-1": 20, "sha-224": 28, "sha-256": 32, "sha-384": 48, "sha-512": 64}
"""The hashes of certificates that we can compare, and the bytes of their digests (RFC 8122 5)."""

_PAIRS = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){0,63}+")


def parse_fingerprint(value: str) -> Fingerprint:
    """Parse the value of ``a=fingerprint``: name of a hash and its digest, in letters of either case.

    Raise ProtocolError for another hash, or for anything but as many pairs as it has bytes.
    """
    words = value.split(None, 2)
    if len(words) != 2 or not _PAIRS.fullmatch(words[1]):
        raise ProtocolError("a=fingerprint needs a hash and hexadecimal pairs")
    name, digest = words[0].lower(), bytes.fromhex(words[1].replace(":", ""))
    if HASHES.get(name) != len(digest):
        raise ProtocolError("Hash of a=fingerprint is not known, or has another length")
    return Fingerprint(name, digest)


def serialize_fingerprint(fingerprint: Fingerprint) -> str:
    """The inverse of :func:`parse_fingerprint`, the pairs in upper case as RFC 8122 wants them."""
    return f"{fingerprint.algorithm} {fingerprint.digest.hex(':').upper()}"


def serialize_candidate(candidate: Candidate) -> str:
    """The value of ``a=candidate`` (RFC 8839 5.1); a kind other than ``host`` may name its base."""
    foundation, component, priority, endpoint, kind, related = candidate
    text = f"{foundation} {component} UDP {priority} {endpoint.address} {endpoint.port} typ {kind}"
    return text if related is None else f"{text} raddr {related.address} rport {related.port}"
