"""What becomes of ICE in one offer or answer (ice.md 1): ended here, left to the parties, or taken away.

Pure functions beside :mod:`rtpengine.ice`, which talks to the parties afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rtpengine.media import IceCredentials, MediaOffer

NewCredentials = Callable[[], IceCredentials]


class Reach(NamedTuple):
    """How ICE stands between one party and us.

    ``mode`` is ``agent`` (our lite agent answers it, as ``local``), ``relay`` (it checks the other party through us)
    or ``""``. ``remote`` are the party's own credentials, None without ICE and towards our agent if it is as lite.
    ``lite``: it only answers the checks of the other party, and sends none.
    """

    mode: str = ""
    local: IceCredentials | None = None
    remote: IceCredentials | None = None
    lite: bool = False

    @property
    def validates(self) -> bool:
        """Whether only sources that passed a check are the party's."""
        return self.mode != "" and self.remote is not None and not self.lite


class Telling(NamedTuple):
    """The new standing with the recipient of a body, and what it is to be told: ``keep``, ``generate`` or ``strip``."""

    reach: Reach
    lines: str


def offered(known: Reach, offer: MediaOffer, mode: str | None, new: NewCredentials, *, transparent: bool) -> Telling:
    """What the recipient of an offer is told; ``transparent``: the parties could as well talk without us."""
    lines = _lines(offer, mode, transparent=transparent, wanted=mode != "default")
    if lines == "generate":
        return Telling(known._replace(mode="agent", local=known.local or new()), lines)
    if lines == "keep":
        return Telling(known._replace(mode="relay"), lines)
    return Telling(_without(known), lines)


def answered(known: Reach, answer: MediaOffer) -> Reach:
    """What stands with the answerer, now that it has spoken."""
    if answer.ice is None:
        return _without(known)._replace(remote=None, lite=False)
    if known.mode == "agent":
        return known._replace(remote=_checking(answer), lite=False)
    return known._replace(remote=answer.ice, lite=answer.ice_lite) if known.mode else known


def answer_to(
    known: Reach, asked: MediaOffer, answer: MediaOffer, mode: str | None, new: NewCredentials, *, transparent: bool
) -> Telling:
    """What the offerer, who had said ``asked``, is told; other credentials of it are a restart (RFC 8445 9)."""
    lines = _lines(answer, mode, transparent=transparent, wanted=mode != "default" or asked.ice is not None)
    if lines == "keep":
        return Telling(Reach("relay", known.local, asked.ice, asked.ice_lite), lines)
    if lines == "strip":
        return Telling(_without(known)._replace(remote=None, lite=False), lines)
    remote = _checking(asked)
    restarted = known.remote is not None and known.remote != remote
    local = new() if known.local is None or restarted else known.local
    return Telling(Reach("agent", local, remote), lines)


def _checking(said: MediaOffer) -> IceCredentials | None:
    """The credentials of a full agent: between two lite ones nobody checks anything (RFC 8445 6.1.1)."""
    return None if said.ice_lite else said.ice


def _lines(said: MediaOffer, mode: str | None, *, transparent: bool, wanted: bool) -> str:
    """What to do with the ICE lines of a body.

    Where media has to be converted on the way, candidates that lead past us would lead to silence: they go.
    """
    if mode is None or mode == "remove":
        return "strip"
    if mode == "force":
        return "generate"
    if said.body_has_ice:
        return "keep" if transparent else "generate"
    return "generate" if wanted else "strip"


def _without(known: Reach) -> Reach:
    """An agent answers until the call ends, whatever later bodies say: its peer may still check (ice.md 1)."""
    return known if known.mode == "agent" else Reach(local=known.local)
