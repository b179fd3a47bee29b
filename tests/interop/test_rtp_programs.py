"""ffmpeg and GStreamer speak and listen through the relay; what is heard is, byte for byte, what was said.

ffmpeg does so over SRTP too, with keys from the SDP (RFC 4568).
"""

from __future__ import annotations

import base64
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from systemlab.daemon import wait_until
from systemlab.fixtures import MakeCall, MakeParty
from systemlab.media import Dialogue, Media, connection_line
from systemlab.netns import Host, Lab

SECONDS = 3
RATE = 8000
FRAME = 160
KEPT_BACK = 3 * FRAME


class Codec(NamedTuple):
    """A G.711 law by its names: payload type, rtpmap, ffmpeg's codec and raw format, GStreamer's elements."""

    payload_type: int
    name: str
    ffmpeg: str
    raw: str
    gstreamer: str


CODECS = [Codec(0, "PCMU", "pcm_mulaw", "mulaw", "pcmu"), Codec(8, "PCMA", "pcm_alaw", "alaw", "pcma")]


def _needs(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"the program {program} (Debian package {package}) is not installed")


@contextmanager
def _running(host: Host, log: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program on a host, its output in a log; it is not waited for at the end, since ffmpeg waits for packets."""
    with log.open("wb") as output, host.inside():
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def _speech(directory: Path, codec: Codec) -> Path:
    """Sound that never repeats: a tone that rises while its loudness swings; headerless G.711."""
    said = directory / "said.raw"
    source = f"aevalsrc='0.7*sin(2*PI*(200+180*t)*t)*(0.6+0.4*sin(7*t))':s={RATE}:d={SECONDS}"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-c:a", codec.ffmpeg, "-f", codec.raw, str(said)]
    subprocess.run(command, check=True, timeout=120)
    assert len(said.read_bytes()) == SECONDS * RATE
    return said


def _sends_with(media: Media) -> list[str]:
    """The options that make ffmpeg protect with the keys that the SDP of its party names."""
    (line,) = media.lines
    _, suite, keys = line.split()
    return ["-srtp_out_suite", suite, "-srtp_out_params", keys.removeprefix("inline:")]


def _receives_with(media: Media) -> list[str]:
    """The line with the keys that the relay protects with, in the suite that the party itself has named."""
    assert media.remote
    suites = [line.split()[1] for line in media.lines]
    return [line for line in media.remote.lines if line.startswith("a=crypto:") and line.split()[1] in suites]


def _url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _ffmpeg_speaks(codec: Codec, said: Path, media: Media) -> list[str]:
    assert media.remote
    ports = f"localrtpport={media.port}&localrtcpport={media.port + 1}&rtcpport={media.remote.port + 1}"
    scheme, keys = ("rtp", []) if media.protocol == "RTP/AVP" else ("srtp", _sends_with(media))
    target = f"{scheme}://{_url(media.remote.address)}:{media.remote.port}?{ports}&pkt_size={FRAME + 12}"
    source = ["-f", codec.raw, "-ar", str(RATE), "-ac", "1", "-re", "-i", str(said)]
    return ["ffmpeg", "-v", "error", *source, "-c:a", "copy", "-f", "rtp", *keys, target]


def _ffmpeg_listens(codec: Codec, heard: Path, media: Media) -> list[str]:
    sdp = heard.with_suffix(".sdp")
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=-", connection_line(media.address), "t=0 0"]
    lines += [f"m=audio {media.port} {media.protocol} {codec.payload_type}", *_receives_with(media)]
    sdp.write_text("\r\n".join([*lines, ""]))
    options = ["-v", "error", "-y", "-protocol_whitelist", "file,udp,rtp,srtp", "-i", str(sdp)]
    return ["ffmpeg", *options, "-c:a", "copy", "-flush_packets", "1", "-f", codec.raw, str(heard)]


def _gstreamer_speaks(codec: Codec, said: Path, media: Media) -> list[str]:
    assert media.remote
    caps = f"audio/x-{codec.raw},rate={RATE},channels=1"
    payloader = f"rtp{codec.gstreamer}pay min-ptime=20000000 max-ptime=20000000"
    sink = f"udpsink host={media.remote.address} port={media.remote.port} bind-port={media.port} sync=true"
    parse = f"rawaudioparse use-sink-caps=false format={codec.raw} sample-rate={RATE} num-channels=1"
    return ["gst-launch-1.0", "-q", *f"filesrc location={said} ! {parse} ! {caps} ! {payloader} ! {sink}".split()]


def _gstreamer_listens(codec: Codec, heard: Path, media: Media) -> list[str]:
    caps = f"application/x-rtp,media=audio,clock-rate={RATE},encoding-name={codec.name},payload={codec.payload_type}"
    source = f"udpsrc address={media.address} port={media.port} caps={caps}"
    rest = f"rtpjitterbuffer latency=100 ! rtp{codec.gstreamer}depay ! filesink location={heard} buffer-mode=unbuffered"
    return ["gst-launch-1.0", "-q", "-e", *f"{source} ! {rest}".split()]


def _listening(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the program has bound its port."""
    tables = [Path(f"/proc/{process.pid}/net/{name}").read_text() for name in ("udp", "udp6")]
    return any(f":{port:04X} " in table for table in tables)


SPEAKERS = {"ffmpeg": _ffmpeg_speaks, "gstreamer": _gstreamer_speaks}
LISTENERS = {"ffmpeg": _ffmpeg_listens, "gstreamer": _gstreamer_listens}
PACKAGES = {"ffmpeg": ("ffmpeg", "ffmpeg"), "gstreamer": ("gst-launch-1.0", "gstreamer1.0-tools")}
CASES = [
    ("ffmpeg", "ffmpeg", CODECS[0], 4, 4),
    ("ffmpeg", "ffmpeg", CODECS[1], 4, 6),
    ("ffmpeg", "gstreamer", CODECS[0], 6, 4),
    ("gstreamer", "ffmpeg", CODECS[1], 4, 4),
    ("gstreamer", "gstreamer", CODECS[0], 6, 6),
]


@pytest.mark.parametrize(
    ("speaker", "listener", "codec", "caller_family", "callee_family"),
    CASES,
    ids=[f"{s} to {li} {codec.name} IPv{a} to IPv{b}" for s, li, codec, a, b in CASES],
)
def test_what_is_said_is_heard(
    lab: Lab,
    party: MakeParty,
    call: MakeCall,
    tmp_path: Path,
    speaker: str,
    listener: str,
    codec: Codec,
    caller_family: int,
    callee_family: int,
) -> None:
    for name in ("ffmpeg", speaker, listener):
        _needs(*PACKAGES[name])
    formats = {"formats": str(codec.payload_type)}
    dialogue = call(party(lab.a, caller_family, **formats), party(lab.b, callee_family, **formats))
    dialogue.offer(address_family=f"IP{callee_family}")
    dialogue.answer()
    _hears(lab, dialogue, tmp_path, speaker, listener, codec)


def _hears(lab: Lab, dialogue: Dialogue, directory: Path, speaker: str, listener: str, codec: Codec) -> None:
    """Let the callee's program hear what the caller's says."""
    said, heard = _speech(directory, codec), directory / "heard.raw"
    caller, callee = dialogue.caller.audio, dialogue.callee.audio
    speak, listen = SPEAKERS[speaker](codec, said, caller), LISTENERS[listener](codec, heard, callee)
    port = callee.port
    dialogue.caller.close()  # their ports are the programs' from here on
    dialogue.callee.close()
    logs = [directory / "listener.log", directory / "speaker.log"]
    with _running(lab.b, logs[0], listen) as listening:
        assert wait_until(lambda: _listening(listening, port)), (
            f"the listener did not bind its port: {logs[0].read_text()}"
        )
        with _running(lab.a, logs[1], speak) as speaking:
            assert speaking.wait(SECONDS + 60) == 0, logs[1].read_text()
        wait_until(lambda: heard.exists() and heard.stat().st_size >= SECONDS * RATE - KEPT_BACK)
    _assert_heard(said.read_bytes(), heard.read_bytes())
    rtp = dialogue.query()["streams"][0][0]
    assert rtp["stats"]["rtp"]["counters"]["packets"] >= SECONDS * RATE // FRAME - 1
    assert rtp["codec"] == {"PCMU": "G711u", "PCMA": "G711a"}[codec.name]


SUITES = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")


@pytest.mark.parametrize(
    ("caller_suite", "callee_suite"),
    [(SUITES[0], None), (None, SUITES[0]), (SUITES[1], None), (SUITES[0], SUITES[0])],
    ids=lambda suite: suite or "RTP",
)
def test_what_is_said_is_heard_over_srtp(
    lab: Lab, party: MakeParty, call: MakeCall, tmp_path: Path, caller_suite: str | None, callee_suite: str | None
) -> None:
    _needs(*PACKAGES["ffmpeg"])
    dialogue = call(party(lab.a), party(lab.b))
    if caller_suite:
        _encrypt(dialogue.caller.audio, caller_suite, "1")
    offered = dialogue.offer(transport_protocol="RTP/SAVP" if callee_suite else "RTP/AVP")[0].lines
    if callee_suite:
        (tag,) = [line[9:].split()[0] for line in offered if line.startswith("a=crypto:") and callee_suite in line]
        _encrypt(dialogue.callee.audio, callee_suite, tag)
    dialogue.answer()
    _hears(lab, dialogue, tmp_path, "ffmpeg", "ffmpeg", CODECS[0])


def _encrypt(media: Media, suite: str, tag: str) -> None:
    """Let a party speak SRTP, with keys of its own."""
    keys = base64.b64encode(random.randbytes(30)).decode()
    media.protocol, media.lines = "RTP/SAVP", [f"a=crypto:{tag} {suite} inline:{keys}"]


def _assert_heard(said: bytes, heard: bytes) -> None:
    """All of it but what a program keeps back of its very last frames."""
    assert len(heard) >= len(said) - KEPT_BACK, f"{len(heard)} of {len(said)} samples were heard"
    assert heard == said[: len(heard)]
