"""baresip, a SIP phone for the terminal, and the few SIP messages that it takes to have a call with it."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from speech import SAMPLE_RATE
from systemlab.netns import Host

from peers.party import PLAIN, SDES, WEB
from peers.sound import Sound, write_wav

PROGRAM = "baresip"
_PATIENCE_S = 60
_CALL_S = 60
_HEARD = SAMPLE_RATE // 2
_WAV_HEADER = 44
_ports = itertools.count(5070, 2)
_CONFIG = """\
sip_listen {own}
module_path /usr/lib/baresip/modules
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module srtp.so
module dtls_srtp.so
module_tmp account.so
module_app menu.so
audio_source aufile,{said}
audio_player aubridge,nobody
snd_path {directory}
"""
_ACCOUNT = "<sip:phone@{own}>;regint=0;answermode=auto;audio_codecs=pcmu;mediaenc={encryption}\n"
# What each of its ways to encrypt media wants to be offered.
_WANTS = {
    "": PLAIN,
    "srtp-mand": {**SDES, "DTLS": "off"},
    "dtls_srtp": {**WEB, "transport-protocol": "UDP/TLS/RTP/SAVPF", "ICE": "remove", "rtcp-mux": ["demux"]},
}


def missing() -> str | None:
    """Say what is needed and not there, None if nothing is."""
    return None if shutil.which(PROGRAM) else f"the program {PROGRAM} (Debian package baresip-core) is not installed"


class Baresip:
    """A phone for one call; ``encryption`` is what its account has as ``mediaenc``."""

    def __init__(self, host: Host, directory: Path, encryption: str, frequency: float = 700) -> None:
        self.tone = frequency
        self.wants: dict[str, Any] = _WANTS[encryption]
        self._host = host
        self._directory = directory
        self._log = directory / "baresip.log"
        own = f"{host.address(4)}:{next(_ports)}"
        self._sip = _SipUser(host, own)
        write_wav(directory / "said.wav", frequency, _CALL_S)
        config = _CONFIG.format(own=own, said=directory / "said.wav", directory=directory)
        (directory / "config").write_text(config)
        (directory / "accounts").write_text(_ACCOUNT.format(own=own, encryption=encryption))
        (directory / "contacts").touch()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Baresip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._process.kill()  # asked to, it would say goodbye for five seconds
            self._process.wait(60)
        self._sip.close()

    def _start(self, *commands: str) -> None:
        options = itertools.chain.from_iterable(("-e", command) for command in commands)
        with self._log.open("wb") as log, self._host.inside():
            self._process = subprocess.Popen(
                [PROGRAM, "-4", "-v", "-n", "eth0", "-f", str(self._directory), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def offer(self) -> str:
        """Let it dial, and return what it offers."""
        self._start(f"/dial sip:us@{self._sip.own}")
        return self._sip.receive_invite()

    def accept(self, answer: str) -> None:
        """Answer the call that it has dialled."""
        self._sip.accept(answer)

    def answer(self, offer: str) -> str:
        """Call it, and return what it answers."""
        self._start()
        return self._sip.invite(offer)

    def heard(self) -> Sound:
        """The end of its recording."""
        data = b"".join(path.read_bytes()[_WAV_HEADER:] for path in self._directory.glob("dump-*-dec.wav"))
        samples = array("h", data[: len(data) // 2 * 2])[-_HEARD:]
        return Sound([sample / 32768 for sample in samples], SAMPLE_RATE)

    @property
    def state(self) -> str:
        """Whether the recording has begun."""
        return "connected" if self.heard().samples else "new"

    @property
    def log(self) -> str:
        """Everything that it has written, SIP messages too."""
        return self._log.read_text(errors="replace")


class _SipUser:
    """The other end of the phone's SIP: as much of RFC 3261 as one call without losses needs."""

    def __init__(self, host: Host, phone: str) -> None:
        self._phone = phone
        address, _, port = phone.partition(":")
        self._to = (address, int(port))
        self._socket = host.udp(address, self._to[1] + 1)
        self.own = f"{address}:{self._to[1] + 1}"
        self._invite = ""

    def close(self) -> None:
        """Let go of the port."""
        self._socket.close()

    def receive_invite(self) -> str:
        """Wait for a call and return its offer."""
        self._invite = next(message for message in self._messages() if message.startswith("INVITE "))
        self._reply("100 Trying", "")
        return self._invite.partition("\r\n\r\n")[2]

    def accept(self, answer: str) -> None:
        """Answer the call that came; wait for the ACK."""
        self._reply("200 OK", answer)
        next(message for message in self._messages() if message.startswith("ACK "))

    def _reply(self, status: str, body: str) -> None:
        kept = [line for line in self._invite.split("\r\n") if line.startswith(("Via:", "From:", "Call-ID:", "CSeq:"))]
        to = next(line for line in self._invite.split("\r\n") if line.startswith("To:"))
        self._send([f"SIP/2.0 {status}", *kept, f"{to};tag=us", f"Contact: <sip:us@{self.own}>"], body)

    def invite(self, offer: str) -> str:
        """Call the phone and return its answer."""
        head = self._head("INVITE", f"<sip:phone@{self._phone}>")
        deadline = time.monotonic() + _PATIENCE_S
        ringing = False
        while time.monotonic() < deadline:
            if not ringing:
                self._send(head, offer)
            for message in self._messages(0.2):
                if message.startswith("SIP/2.0 200"):
                    to = next(line for line in message.split("\r\n") if line.startswith("To:"))
                    self._send(self._head("ACK", to[3:].strip()), "")
                    return message.partition("\r\n\r\n")[2]
                assert message.startswith("SIP/2.0 1"), message
                ringing = True
        raise AssertionError("the phone does not answer")

    def _head(self, method: str, to: str) -> list[str]:
        return [
            f"{method} sip:phone@{self._phone} SIP/2.0", f"Via: SIP/2.0/UDP {self.own};branch=z9hG4bK{method}",
            f"From: <sip:us@{self.own}>;tag=us", f"To: {to}", f"Call-ID: {self.own}", f"CSeq: 1 {method}",
            f"Contact: <sip:us@{self.own}>", "Max-Forwards: 70",
        ]  # fmt: skip

    def _send(self, head: list[str], body: str) -> None:
        kind = ["Content-Type: application/sdp"] if body else []
        text = "\r\n".join([*head, *kind, f"Content-Length: {len(body)}", "", body])
        with contextlib.suppress(ConnectionRefusedError):  # it has not bound its port yet
            self._socket.sendto(text.encode(), self._to)

    def _messages(self, patience_s: float = _PATIENCE_S) -> Iterator[str]:
        deadline = time.monotonic() + patience_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(OSError):
                yield self._socket.recv(65535).decode()
