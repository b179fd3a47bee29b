"""A party as a browser is one: ICE, DTLS-SRTP, and RTP and RTCP on one port."""

from __future__ import annotations

from phone import Phone
from phone_sdp import SECURE
from pylibsrtp import Error
from secure_line import Secured, SecureLine, is_dtls, is_rtcp
from speech import Recording
from stun_client import is_stun


class SecurePhone(Phone):
    """A phone whose packets are encrypted; ``connect`` comes between the first SDP from the other side and ``act``.

    ``secured`` tells what was negotiated then.
    """

    secured: Secured

    def __init__(self, name: str, host: str, recording: Recording) -> None:
        super().__init__(name, host, recording)
        self._line = SecureLine(self._rtp)

    @property
    def protocol(self) -> str:
        """The transport of its m= line."""
        return SECURE

    @property
    def attributes(self) -> tuple[str, ...]:
        """The lines for ICE, DTLS and the shared port, without ``a=``."""
        return self._line.attributes

    def __enter__(self) -> SecurePhone:
        return self  # its ear is for media, and must not take what ``connect`` waits for

    def connect(self) -> None:
        """Reach the other side and agree with it on keys, then listen; SecureLineError if that does not work."""
        self.secured = self._line.connect(self.told.rtp, self.told.attributes)
        self._ear.start()

    def _send(self, packet: bytes) -> None:
        super()._send(self._line.protect(packet))

    def _send_control(self, report: bytes) -> None:
        self._rtp.sendto(self._line.protect_control(report), self.told.rtp)

    def _note(self, data: bytes, received_ns: int, from_relay: bool) -> None:
        if is_stun(data) or is_dtls(data):
            return  # a repeated answer from before
        try:
            if is_rtcp(data):
                self.reports_heard.append(self._line.unprotect_control(data))
            else:
                super()._note(self._line.unprotect(data), received_ns, from_relay)
        except Error:
            super()._note(data, received_ns, from_relay=False)
