"""SRTP in the kernel: byte for byte what userspace makes, and what it lets pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from abi import AUTH, EXHAUSTED, PLAIN, REPLAY, C, Table, seen, ssrcs, windows
from check_forward import IN, Way
from packets import KEY, NO_CIPHER, NO_TAG, ONE_BYTE, SSRC, SUITES, Keys, rtp

PAYLOADS = [b"", bytes(range(1)), bytes(range(15)), bytes(range(16)), bytes(range(160)), bytes(1300)]
OTHER_KEY = bytes(range(50, 82))
MKI = b"\x00\x00\x00\x07"


@pytest.fixture
def ways(table: Table) -> Iterator[Any]:
    made: list[Way] = []

    def make(**more: Any) -> Way:
        made.append(Way(table, **more))
        return made[-1]

    yield make
    for way in made:
        way.close()


def packets() -> list[bytes]:
    """Sizes, header extensions and CSRCs that reach every edge of a cipher block."""
    sizes = [rtp(seq, payload) for seq, payload in enumerate(PAYLOADS)]
    return [*sizes, rtp(100, csrc=3), rtp(101, extension=ONE_BYTE), rtp(102, b"", extension=ONE_BYTE)]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("mki", [b"", MKI], ids=["", "mki"])
def test_encrypts_as_userspace_does(ways: Any, suite: str, mki: bytes) -> None:
    keys = Keys(suite, mki=mki)
    way, userspace = ways(encrypt=keys.kernel()), keys.userspace()
    for packet in packets():
        way.send(packet)
        assert way.b.receive() == userspace.protect(packet)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("mki", [b"", MKI], ids=["", "mki"])
def test_decrypts_what_userspace_sends(ways: Any, suite: str, mki: bytes) -> None:
    keys = Keys(suite, mki=mki)
    way, userspace = ways(decrypt=keys.kernel()), keys.userspace()
    for packet in packets():
        way.send(userspace.protect(packet))
        assert way.b.receive() == packet
    assert seen(way.table.counters(IN))[3] == {}


@pytest.mark.parametrize(("suite_in", "suite_out"), list(itertools.combinations(["CM128-80", "F8-32", "NULL-80"], 2)))
def test_from_keys_to_keys(ways: Any, suite_in: str, suite_out: str) -> None:
    one, other = Keys(suite_in), Keys(suite_out, OTHER_KEY)
    way, sender, userspace = ways(decrypt=one.kernel(), encrypt=other.kernel()), one.userspace(), other.userspace()
    for packet in packets():
        way.send(sender.protect(packet))
        assert way.b.receive() == userspace.protect(packet)


@pytest.mark.parametrize("suite", ["CM128-80", "F8-80"])
def test_equal_keys_pass_what_is_authentic(ways: Any, suite: str) -> None:
    keys = Keys(suite, mki=MKI)
    way, sender = ways(decrypt=keys.kernel(), encrypt=keys.kernel()), keys.userspace()
    for packet in packets():
        secret = sender.protect(packet)
        way.send(secret)
        assert way.b.receive() == secret
    way.send(secret[:-1] + bytes([secret[-1] ^ 1]))
    assert way.b.nothing()
    (entry,) = way.table.entries()
    assert ssrcs(entry.decrypt) == ssrcs(entry.encrypt) == {SSRC: 103}


@pytest.mark.parametrize("flags", [NO_CIPHER, NO_TAG], ids=["no cipher", "no tag"])
@pytest.mark.parametrize("mki", [b"", MKI], ids=["", "mki"])
def test_session_parameters(ways: Any, flags: int, mki: bytes) -> None:
    keys = Keys("CM128-80", mki=mki, flags=flags)
    out, secret = ways(encrypt=keys.kernel()), keys.userspace()
    out.send(rtp(1))
    assert out.b.receive() == secret.protect(rtp(1))
    out.table.update(*out.args, decrypt=keys.kernel())
    out.send(secret.protect(rtp(2)))
    assert out.b.receive() == rtp(2)


def test_the_index_goes_on_where_userspace_was(ways: Any) -> None:
    """Rollovers in both directions, late packets around the wrap included."""
    keys, other, start = Keys("CM128-80"), Keys("CM128-32", OTHER_KEY), 3 * 65536 + 65530
    sender, userspace = keys.userspace(), other.userspace()
    for seq in range(0, start, 20000):
        sender.protect(rtp(seq))
        userspace.protect(rtp(seq))
    way = ways(decrypt=keys.kernel((SSRC, start)), encrypt=other.kernel((SSRC, start)))
    order = [*range(start + 9, start, -2), *range(start + 10, start + 40), start + 8]
    for index in order:
        way.send(sender.protect(rtp(index)))
        assert way.b.receive() == userspace.protect(rtp(index))
    (entry,) = way.table.entries()
    assert ssrcs(entry.decrypt) == ssrcs(entry.encrypt) == {SSRC: start + 40}


def test_what_is_not_authentic_is_dropped(ways: Any) -> None:
    keys = Keys("CM128-80", mki=MKI)
    way, sender = ways(decrypt=keys.kernel()), keys.userspace()
    good = sender.protect(rtp(1))
    mki_at = len(good) - 14
    bad = [
        good[:-1] + b"\x00",
        good[:12] + b"\xff" + good[13:],
        b"\x81" + good[1:],
        good[:mki_at] + b"\xff" + good[mki_at + 1 :],
        good[:20],
        rtp(1),
        good[:2] + b"\x00\x02" + good[4:],
    ]
    for packet in bad:
        way.send(packet)
    assert way.b.nothing() and way.daemon.nothing()
    assert seen(way.table.counters(IN)) == (0, 0, 0, {AUTH: len(bad)})
    way.send(good)
    assert way.b.receive() == rtp(1)


def test_replays_are_dropped(ways: Any) -> None:
    keys = Keys("CM128-80")
    way, sender = ways(decrypt=keys.kernel()), keys.userspace()
    secrets = {seq: sender.protect(rtp(seq)) for seq in range(200)}
    for seq in (199, 100, 150):
        way.send(secrets[seq])
        assert way.b.receive() == rtp(seq)
    for seq in (199, 100, 150, 50, 71):
        way.send(secrets[seq])
    assert way.b.nothing()
    way.send(secrets[72])
    assert way.b.receive() == rtp(72)
    assert seen(way.table.counters(IN))[3] == {REPLAY: 5}


def test_a_number_is_used_once(ways: Any) -> None:
    """RFC 3711 9.1: another payload under the same index would reveal both."""
    keys = Keys("CM128-80")
    way = ways(encrypt=keys.kernel())
    way.send(rtp(7))
    way.b.receive()
    way.send(rtp(7, b"something else"))
    assert way.b.nothing()
    assert seen(way.table.counters(IN))[3] == {REPLAY: 1}


@pytest.mark.parametrize("direction", ["decrypt", "encrypt"])
def test_no_index_is_left(ways: Any, direction: str) -> None:
    keys = Keys("CM128-80")
    way = ways(**{direction: keys.kernel((SSRC, C.RTP_INDEX_END))})
    way.send(rtp(5) + bytes(10))
    assert way.b.nothing()
    assert seen(way.table.counters(IN))[3] == {EXHAUSTED: 1}


def test_unlisted_ssrcs_go_up_until_they_are_listed(ways: Any) -> None:
    keys, other = Keys("CM128-80"), Keys("CM128-32", OTHER_KEY)
    sender = keys.userspace()
    way = ways(decrypt=keys.kernel(), encrypt=other.kernel())
    secret = sender.protect(rtp(1, ssrc=99))
    way.send(secret)
    assert way.daemon.receive() == secret
    way.table.update(*way.args, decrypt=keys.kernel((99, 0)), encrypt=other.kernel())
    way.send(secret)
    assert way.daemon.receive() == secret
    way.table.update(*way.args, decrypt=keys.kernel(), encrypt=other.kernel((99, 0)))
    way.send(secret)
    assert way.b.receive() == other.userspace().protect(rtp(1, ssrc=99))
    (entry,) = way.table.entries()
    assert ssrcs(entry.decrypt) == ssrcs(entry.encrypt) == {SSRC: 0, 99: 2}


def test_update_with_the_same_keys_keeps_indices(ways: Any) -> None:
    keys = Keys("CM128-80")
    way, sender = ways(decrypt=keys.kernel()), keys.userspace()
    secret = sender.protect(rtp(500))
    way.send(secret)
    assert way.b.receive() == rtp(500)
    way.table.update(*way.args, decrypt=keys.kernel((SSRC, 100)))
    way.send(secret)
    assert way.b.nothing()
    (entry,) = way.table.entries()
    assert ssrcs(entry.decrypt) == {SSRC: 501}
    assert seen(entry.counters)[0] == 1


def test_update_with_other_keys_begins_anew(ways: Any) -> None:
    keys, other = Keys("CM128-80"), Keys("CM128-80", OTHER_KEY)
    way = ways(decrypt=keys.kernel())
    way.send(keys.userspace().protect(rtp(500)))
    assert way.b.receive() == rtp(500)
    way.table.update(*way.args, decrypt=other.kernel())
    way.send(keys.userspace().protect(rtp(501)))
    way.send(other.userspace().protect(rtp(3)))
    assert way.b.receive() == rtp(3)
    (entry,) = way.table.entries()
    assert ssrcs(entry.decrypt) == {SSRC: 4}
    assert seen(entry.counters) == (2, 364, 0, {AUTH: 1})


def test_at_most_eight_ssrcs(ways: Any) -> None:
    keys = Keys("CM128-80")
    way = ways(decrypt=keys.kernel(*((n, 0) for n in range(8))))
    with pytest.raises(OSError, match="No space"):
        way.table.update(*way.args, decrypt=keys.kernel((8, 0)))
    (entry,) = way.table.entries()
    assert list(ssrcs(entry.decrypt)) == list(range(8))


def test_keys_do_not_come_back(ways: Any) -> None:
    """security.md rule 8."""
    keys = Keys("CM128-80", mki=MKI)
    record = keys.kernel()
    way = ways(decrypt=record, encrypt=Keys("F8-80", OTHER_KEY).kernel())
    texts = [(way.table.dir / name).read_bytes() for name in ("list", "status")]
    with open(way.table.dir / "blist", "rb", buffering=0) as blist:
        texts.append(blist.read(752))
    for secret in (record["key"][:16], record["auth_key"], record["salt"], KEY[:16]):
        assert not any(secret in text or secret.hex().encode() in text for text in texts)


def test_no_srtp_has_nothing_set(ways: Any) -> None:
    for record in ({**PLAIN, **windows([(1, 0)])}, {**PLAIN, "tag_len": 10}, {**PLAIN, "key": b"\1" * 32}):
        with pytest.raises(OSError, match="Invalid"):
            ways(decrypt=record)
