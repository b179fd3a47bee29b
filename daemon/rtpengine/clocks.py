"""Clock rates of payload types, as packet path and kernel module want to be told them: rtp_ticks() of rtp_quality.h."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from rtpengine._packetpath import lib
from rtpengine.media import Format


@lru_cache(maxsize=256)
def clock_words(formats: tuple[Format, ...]) -> tuple[int, ...]:
    """RTP_CLOCKS words; where the rates are too many, the most frequent one is that of all dynamic payload types."""
    rates: dict[int, int] = {}
    for payload_type, _, rate in formats:
        if payload_type < 128 and 0 < rate <= lib.RTP_CLOCK_MAX:
            rates.setdefault(payload_type, rate)
    rates = {number: rate for number, rate in rates.items() if rate != lib.rtp_static_clock(number)}
    words = [number << 24 | rate for number, rate in rates.items()]
    if len(words) > lib.RTP_CLOCKS:
        usual, _ = Counter(rate for number, rate in rates.items() if number >= 96).most_common(1)[0]
        others = [number << 24 | rate for number, rate in rates.items() if number < 96 or rate != usual]
        words = [*others[: lib.RTP_CLOCKS - 1], lib.RTP_CLOCK_OTHERS << 24 | usual]
    return (*words, *[0] * (lib.RTP_CLOCKS - len(words)))
