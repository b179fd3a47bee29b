"""Fuzz target: ``a=crypto`` lines (RFC 4568), of which only keys of the right length may come."""

from __future__ import annotations

from rtpengine import ProtocolError, srtp


def one_input(data: bytes) -> None:
    """What is accepted fits its suite and says the same when written anew; what is not repeats nothing of the line."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        line = srtp.parse_crypto(text)
    except ProtocolError as error:
        assert not any(word in str(error) for word in text.split() if len(word) > 16)
        return
    suite = srtp.SUITES[line.keys.suite]
    assert (len(line.keys.key), len(line.keys.salt)) == (suite.key_len, suite.salt_len)
    assert srtp.parse_crypto(srtp.serialize_crypto(line)) == line
    assert srtp.parse_crypto(srtp.serialize_crypto(line, lifetime=True)) == line
    assert line.keys.key.hex() not in repr(line)
