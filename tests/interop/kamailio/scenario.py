"""sipp scenarios, put together from the steps of a call."""

from __future__ import annotations

from pathlib import Path

STEPS = Path(__file__).parent / "steps"
NO_BODY = "Content-Length: 0\n"
SDP = """Content-Type: application/sdp
Content-Length: [len]

v=0
o=- 4711 {version} IN IP4 [local_ip]
s=-
c=IN IP4 {address}
t=0 0
m=audio [rtp_port] RTP/AVP 0
a=rtpmap:0 PCMU/8000
a={direction}
"""
HEAD = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE scenario SYSTEM "sipp.dtd">\n<scenario name="test">\n'


def step(name: str, **values: str) -> str:
    """The XML of one step: a file of ``steps/``, its placeholders filled in."""
    return (STEPS / f"{name}.xml").read_text().format(**values)


def sdp(direction: str = "sendrecv", version: int = 1, address: str = "[local_ip]") -> str:
    """The end of a message's head and an audio offer or answer with the phone's own RTP port."""
    return SDP.format(direction=direction, version=version, address=address)


def respond(status: str, body: str = NO_BODY, *, in_dialogue: bool = False) -> str:
    """A response to the INVITE of the last ``incoming``; a final one is repeated until the ACK."""
    return step(
        "respond",
        status=status,
        body=body,
        retrans="" if status.startswith("1") else ' retrans="500"',
        own_tag="" if in_dialogue else ";tag=[pid]T[call_number]",
        route="" if in_dialogue else "Record-Route: [$record_route]\n",
    )


def invite(body: str | None = None) -> str:
    """An INVITE that starts a call, with an offer."""
    return step("invite", body=sdp() if body is None else body)


def reinvite(direction: str, version: int, address: str = "[local_ip]") -> str:
    """The caller changes the direction of the media, or where it wants it, and waits for the answer."""
    return step("reinvite", body=sdp(direction, version, address))


def answered(body: str = NO_BODY, *, provisional: int = 1) -> str:
    """Wait for 200 after so many provisional responses of each kind, and send the ACK."""
    return step("progress") * provisional + step("answered") + step("ack", body=body)


def ring() -> str:
    """The callee's side until it rings."""
    return step("incoming") + respond("180 Ringing")


def early_media() -> str:
    """The callee's side until it plays a ring tone of its own."""
    return step("incoming") + respond("183 Session Progress", sdp())


def accept() -> str:
    """The callee answers."""
    return respond("200 OK", sdp()) + step("acked")


def accept_again(direction: str, version: int) -> str:
    """The callee's side of a re-INVITE."""
    return step("incoming") + respond("200 OK", sdp(direction, version), in_dialogue=True) + step("acked")


def cancelled() -> str:
    """The callee's side of a call that somebody else has taken, or that the caller gave up."""
    return step("cancelled") + respond("487 Request Terminated") + step("acked")


def button() -> str:
    """Wait until the test presses the phone's button."""
    return step("button")


def scenario(*steps: str) -> str:
    """A whole scenario."""
    return HEAD + "\n".join(steps) + "\n</scenario>\n"
