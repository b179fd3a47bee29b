"""What all parties of these tests have in common, whoever wrote them, and how a call between two is placed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Protocol

from systemlab.ngclient import NgClient, Reply

from peers.sound import Sound

_random = random.Random(4711)

# What a SIP proxy asks for towards a party of each kind, as its script knows from the registration.
PLAIN = {"transport-protocol": "RTP/AVP", "ICE": "remove", "rtcp-mux": ["demux"]}
SDES = {**PLAIN, "transport-protocol": "RTP/SAVP"}
WEB = {"transport-protocol": "UDP/TLS/RTP/SAVPF", "ICE": "force", "rtcp-mux": ["offer"], "flags": ["generate-mid"]}


class Peer(Protocol):
    """One party; it says a pure tone for as long as the call lasts."""

    tone: float
    wants: dict[str, Any]

    def offer(self) -> str:
        """Describe a call of its own."""

    def answer(self, offer: str) -> str:
        """Take a call."""

    def accept(self, answer: str) -> None:
        """Hear how its call was taken."""

    def heard(self) -> Sound:
        """The last fraction of a second that came out of its loudspeaker."""

    @property
    def state(self) -> str:
        """``connected`` once media can flow, as far as it knows."""


@dataclass
class Call:
    """A call over ng; ``seen`` are the bodies in order: offer, relayed offer, answer, relayed answer."""

    ng: NgClient
    caller: Peer
    callee: Peer
    call_id: str = field(default_factory=lambda: f"{_random.getrandbits(48):x}@interop.test")
    seen: list[str] = field(default_factory=list)

    def place(self) -> None:
        """Offer and answer."""
        self.exchange(self.caller, self.callee)

    def exchange(self, offerer: Peer, answerer: Peer) -> None:
        """Offer and answer, at the beginning or later, by either party."""
        tags = {"from-tag": self._tag(offerer)}
        offer = self._relay("offer", offerer.offer(), {**answerer.wants, **tags})
        tags["to-tag"] = self._tag(answerer)
        offerer.accept(self._relay("answer", answerer.answer(offer), {"ICE": offerer.wants["ICE"], **tags}))

    def _tag(self, peer: Peer) -> str:
        return "caller" if peer is self.caller else "callee"

    def _relay(self, command: str, body: str, keys: dict[str, Any]) -> str:
        flags = ["trust-address", *keys.pop("flags", [])]
        replace = ["origin", "session-connection"]
        reply = self.ng.ok(command, call_id=self.call_id, sdp=body, flags=flags, replace=replace, **keys)
        self.seen += [body, reply["sdp"]]
        return str(reply["sdp"])

    def query(self) -> Reply:
        """What the daemon says of the call."""
        return self.ng.ok("query", call_id=self.call_id)

    def delete(self) -> None:
        """End it."""
        self.ng.ok("delete", call_id=self.call_id, from_tag="")
