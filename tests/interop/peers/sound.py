"""A tone as it goes into G.711, and how much of what is heard is that tone."""

from __future__ import annotations

import math
import wave
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from speech import FRAME_SAMPLES, PCMU, SAMPLE_RATE

LOUD = 12000
AUDIBLE = 0.01


class Sound(NamedTuple):
    """Samples between -1 and 1."""

    samples: Sequence[float]
    rate: int

    @property
    def power(self) -> float:
        """The mean square; 0.5 for a sine that goes as far as it can."""
        return sum(sample * sample for sample in self.samples) / len(self.samples) if self.samples else 0.0

    def purity(self, frequency: float) -> float:
        """The part of the power that lies at a frequency, from 0 to 1 (Goertzel); 0 if there is nothing to be heard."""
        if self.power < AUDIBLE**2:
            return 0.0
        # Whole periods only, or a pure tone would seem to have others beside it.
        count = int(int(len(self.samples) * frequency / self.rate) * self.rate / frequency)
        angle = 2 * math.pi * frequency / self.rate
        sine = sum(sample * math.sin(angle * i) for i, sample in enumerate(self.samples[:count]))
        cosine = sum(sample * math.cos(angle * i) for i, sample in enumerate(self.samples[:count]))
        return min(1.0, 2 * (sine * sine + cosine * cosine) / count**2 / self.power)


def tone(frequency: float, frames: int) -> list[int]:
    """A sine as 16-bit samples at 8 kHz."""
    return [round(LOUD * math.sin(2 * math.pi * frequency * i / SAMPLE_RATE)) for i in range(frames * FRAME_SAMPLES)]


# Each linear value back to the nearest octet, in steps of 16.
_OCTETS = [min(range(256), key=lambda octet: abs(PCMU.linear[octet] - level)) for level in range(-32768, 32768, 16)]


def encode(samples: Sequence[int]) -> bytes:
    """16-bit samples as PCMU."""
    return bytes(_OCTETS[(sample + 32768) >> 4] for sample in samples)


def decode(octets: bytes) -> Sound:
    """PCMU as sound."""
    return Sound([PCMU.linear[octet] / 32768 for octet in octets], SAMPLE_RATE)


def write_wav(path: Path, frequency: float, seconds: int = 1) -> None:
    """A tone, as 16-bit PCM; a multiple of 10 Hz goes on smoothly when it is played again."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(array("h", tone(frequency, 50)).tobytes() * seconds)
