"""G.711 speech: recordings as WAV, cut into 20 ms frames, and written as PCM for any player."""

from __future__ import annotations

import struct
import sys
import wave
from array import array
from dataclasses import dataclass
from pathlib import Path

SAMPLE_RATE = 8000
FRAME_MS = 20
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000


def _mu_law(code: int) -> int:
    """Linear 16-bit value of one PCMU octet (ITU-T G.711, table 2a)."""
    code = ~code
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return 0x84 - magnitude if code & 0x80 else magnitude - 0x84


def _a_law(code: int) -> int:
    """Linear 16-bit value of one PCMA octet (ITU-T G.711, table 1a)."""
    code ^= 0x55
    segment = (code & 0x70) >> 4
    magnitude = ((code & 0x0F) << 4) + (0x108 if segment else 8)
    if segment > 1:
        magnitude <<= segment - 1
    return magnitude if code & 0x80 else -magnitude


@dataclass(frozen=True)
class Law:
    """One half of G.711: its RTP name and payload type (RFC 3551 6), its WAV format tag, its quietest octet."""

    name: str
    payload_type: int
    wav_format: int
    silence: int
    linear: tuple[int, ...]

    @property
    def silent_frame(self) -> bytes:
        """20 ms of silence."""
        return bytes([self.silence]) * FRAME_SAMPLES


PCMU = Law("PCMU", payload_type=0, wav_format=7, silence=0xFF, linear=tuple(map(_mu_law, range(256))))
PCMA = Law("PCMA", payload_type=8, wav_format=6, silence=0xD5, linear=tuple(map(_a_law, range(256))))
_LAWS = {law.wav_format: law for law in (PCMU, PCMA)}


@dataclass(frozen=True)
class Recording:
    """Speech as it goes into RTP: one octet per sample, 8 kHz, mono."""

    law: Law
    octets: bytes

    def frames(self) -> list[bytes]:
        """The octets as RTP payloads of 20 ms each, the last one filled up with silence."""
        padded = self.octets + self.law.silent_frame[: -len(self.octets) % FRAME_SAMPLES]
        return [padded[i : i + FRAME_SAMPLES] for i in range(0, len(padded), FRAME_SAMPLES)]


def parse_wav(data: bytes) -> Recording:
    """Parse a RIFF/WAVE file that holds G.711, which the standard library's ``wave`` refuses.

    Raise ValueError for anything but 8 kHz mono A-law or mu-law.
    """
    chunks = _riff_chunks(data)
    form, channels, rate = struct.unpack_from("<HHI", chunks.get(b"fmt ", bytes(8)))
    if form not in _LAWS or channels != 1 or rate != SAMPLE_RATE or b"data" not in chunks:
        raise ValueError("not a WAV file with G.711, 8 kHz, mono")
    return Recording(_LAWS[form], chunks[b"data"])


def _riff_chunks(data: bytes) -> dict[bytes, bytes]:
    """Chunk name -> content; {} if ``data`` is not RIFF/WAVE."""
    chunks: dict[bytes, bytes] = {}
    offset = 12 if data[:4] == b"RIFF" and data[8:12] == b"WAVE" else len(data)
    while offset + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, offset)
        chunks[name] = data[offset + 8 : offset + 8 + size]
        offset += 8 + size + size % 2
    return chunks


def write_wav(path: Path, recording: Recording) -> None:
    """Decode ``recording`` and write it as 16-bit PCM, which every player knows."""
    samples = array("h", (recording.law.linear[octet] for octet in recording.octets))
    if sys.byteorder == "big":
        samples.byteswap()
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(samples.tobytes())
