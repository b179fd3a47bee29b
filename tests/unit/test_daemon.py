"""What the options of the command line become in the parts that they are for; no control socket, no media."""

from __future__ import annotations

from collections.abc import Iterator

import bencodepy
import pytest

from rtpengine import config
from rtpengine.daemon import Daemon

OFFER = {
    "command": "offer",
    "call-id": "c",
    "from-tag": "a",
    "flags": ["trust-address"],
    "transport-protocol": "RTP/SAVP",
    "sdp": "v=0\r\no=u 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n",
}


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The lines of the body that an offer comes back with, for a daemon with these options."""
    options = config.parse(["--ip=127.0.0.1", "--listen-ng=127.0.0.1:2223", "--table=-1", *request.param])
    daemon = Daemon(options, {})
    try:
        datagram, _ = daemon._protocol("listen-ng", options).answer(b"1", bencodepy.encode(OFFER), "", 1.0, 1.0)
        yield bencodepy.decode(datagram.partition(b" ")[2])[b"sdp"].decode().split("\r\n")
        daemon.table.end(daemon.table.find("c"), "deleted", 2.0)
    finally:
        daemon.close()


@pytest.mark.parametrize(
    ("told", "ice"),
    [
        ([], True),
        (["--ice-default=optional"], True),
        (["--ice-default=force"], True),
        (["--ice-default=default"], False),
        (["--ice-default=remove"], False),
    ],
    indirect=["told"],
)
def test_ice_by_default(told: list[str], ice: bool) -> None:
    assert ("a=ice-lite" in told) is ice


@pytest.mark.parametrize(
    ("told", "suite"),
    [
        ([], "AES_CM_128_HMAC_SHA1_80"),
        (["--srtp-suites=AEAD_AES_128_GCM,AES_CM_128_HMAC_SHA1_80"], "AEAD_AES_128_GCM"),
        (["--srtp-suites=F8_128_HMAC_SHA1_80"], "F8_128_HMAC_SHA1_80"),
    ],
    indirect=["told"],
)
def test_the_preferred_suite_is_offered(told: list[str], suite: str) -> None:
    assert [line.split()[1] for line in told if line.startswith("a=crypto:")] == [suite]
