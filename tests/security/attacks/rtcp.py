"""RTCP that is none, or that is not the party's."""

from __future__ import annotations

from collections.abc import Callable

from attacks.scene import Attack, Scene


def _header(packet_type: int, words: int, count: int = 0) -> bytes:
    return bytes([0x80 | count, packet_type]) + words.to_bytes(2, "big")


def four_bytes(_: bytes) -> list[bytes]:
    """No more than a header, and less."""
    return [_header(kind, words)[:length] for kind in range(192, 208) for words in (0, 1) for length in (2, 3, 4)]


def length_past_the_end(mark: bytes) -> list[bytes]:
    """Reports that claim more words, and more blocks, than there are."""
    return [_header(kind, words, 31) + mark + bytes(20) for kind in (200, 201, 202, 205, 206) for words in (7, 0xFFFF)]


def bye_of_a_stranger(mark: bytes) -> list[bytes]:
    """A goodbye, alone and behind a report."""
    bye = _header(203, 1, 1) + mark
    return [bye, _header(201, 1) + mark + bye]


def compound_with_unknown_ssrc(mark: bytes) -> list[bytes]:
    """Everything that a compound can hold, about nobody in the call."""
    report = _header(200, 6) + mark + bytes(20)
    description = _header(202, 3, 1) + mark + b"\1\4name\0\0"
    return [report + description + _header(206, 2, 1) + mark * 2 + _header(204, 2) + mark + b"name"] * 5


def _row(packets: Callable[[bytes], list[bytes]], *, mux: bool) -> Attack:
    async def run(scene: Scene) -> None:
        await scene.set_up()
        for _ in range(2):
            await scene.send(packets(scene.mark))
            await scene.talk(3)

    name = f"RTCP: {packets.__name__.replace('_', ' ')}{', rtcp-mux' * mux}"
    return Attack(name, run, about={"mux": mux})


RTCP = [
    _row(packets, mux=mux)
    for packets in (four_bytes, length_past_the_end, bye_of_a_stranger, compound_with_unknown_ssrc)
    for mux in (False, True)
]
