"""ICE (RFC 8445): our candidates, our lite agent towards one party, and checks relayed between two full agents.

We send no checks and keep no check lists. Either we end ICE ourselves (:class:`IceAgent`), or we are one more
candidate between two agents that know each other's credentials (:class:`IceRelay`). Both take datagrams and say what
they prove; sending the reply and moving the media is for the caller.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import NamedTuple

from rtpengine import ProtocolError, stun
from rtpengine.media import Candidate, Endpoint, IceCredentials

# RFC 8445 5.3 wants at least 24 and 128 bits of randomness: these have 47 and 166.
UFRAG_LEN = 8
PWD_LEN = 28
FOUNDATION_LEN = 16
_LETTERS = string.ascii_letters + string.digits

_TYPE_PREFERENCES = {"host": 126, "relay": 0}
_LOCAL_PREFERENCE = 65535
# What the candidates of the other address family are below those of the main one: 1 of local preference.
_ALTERNATE_STEP = 256

CLAIM_S = 3.0
"""How long a nomination defends its pair against others of lower priority."""

CONSENT_S = 30.0
"""After this silence a peer no longer wants what we send (RFC 7675 5.1)."""

ERROR_BURST = 10
ERRORS_PER_S = 1.0
"""Requests that prove nothing may have been sent for others to get the replies."""

UNVERIFIED_BURST = 20
UNVERIFIED_PER_S = 5.0
"""Checks that are relayed although the credentials are not known yet."""

MAX_PENDING = 64
"""Relayed requests of one party whose responses find their way back."""

_UNDERSTOOD = frozenset((stun.USERNAME, stun.PRIORITY, stun.USE_CANDIDATE))
_REASONS = {400: "Bad request", 401: "Unauthorized", 420: "Unknown attribute", 487: "Role Conflict"}
# Replies to who has proven to know our password, and so may rely on them.
_AUTHENTIC = (420, 487)


def new_credentials(random: Callable[[int], bytes]) -> IceCredentials:
    """User name fragment and password of a new agent; ``random`` gives that many bytes that nobody can predict."""
    return IceCredentials(_letters(UFRAG_LEN, random), _letters(PWD_LEN, random))


def new_foundations(random: Callable[[int], bytes]) -> tuple[str, str]:
    """Foundations (RFC 8445 5.1.1.3) of our candidates in the main and in the other address family."""
    return _letters(FOUNDATION_LEN, random), _letters(FOUNDATION_LEN, random)


def _letters(count: int, random: Callable[[int], bytes]) -> str:
    # a byte for each letter, of which 5.95 bits are used, and 8 more: no letter is likelier than others by 2^-64
    number = int.from_bytes(random(count + 8), "big")
    letters = []
    for _ in range(count):
        number, index = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[index])
    return "".join(letters)


def priority(kind: str, local_preference: int, component: int) -> int:
    """The priority of a candidate of type ``kind`` (RFC 8445 5.1.2.1)."""
    return _TYPE_PREFERENCES[kind] << 24 | local_preference << 8 | 256 - component


def lower_priority(lowest: int) -> int:
    """The highest priority for component 1 that has the form of a host's or less, and is below ``lowest``; at least 1.

    That of component 2 is one less. The form leaves 255 in the last byte, so it lies in the block of 256 before.
    """
    return max(1, min(priority("host", _LOCAL_PREFERENCE, 1), lowest // 256 * 256 - 1))


def candidates(
    rtp: Endpoint,
    rtcp: Endpoint | None,
    foundations: tuple[str, str],
    *,
    lowest: int | None = None,
    kind: str = "host",
    alternate: tuple[Endpoint, Endpoint | None] | None = None,
) -> tuple[Candidate, ...]:
    """Our candidates for one section: RTP, RTCP where it has a port of its own, and both of the ``alternate`` family.

    ``lowest`` is the priority of the party's own candidates that ours must stay below, None for as high as ``kind``
    (host or relay) allows.
    """
    best = priority(kind, _LOCAL_PREFERENCE, 1)
    main = best if lowest is None else min(best, lower_priority(lowest))
    families = [(rtp, rtcp, foundations[0], main)]
    if alternate is not None:
        families.append((*alternate, foundations[1], main - _ALTERNATE_STEP))
    return tuple(
        Candidate(foundation, component, max(1, value + 1 - component), endpoint, kind, _related(kind, endpoint))
        for first, second, foundation, value in families
        for component, endpoint in ((1, first), (2, second))
        if endpoint is not None
    )


def _related(kind: str, endpoint: Endpoint) -> Endpoint | None:
    """The base: a relayed candidate is its own (RFC 8445 5.1.1.2), and whom we relay for does not concern the peer."""
    return None if kind == "host" else endpoint


class Verdict(NamedTuple):
    """What a datagram for our agent comes to.

    ``reply`` goes back to its source from the same socket. ``valid``: the party has proven that the source is its own.
    ``nominated``: media goes there; true for every valid check from the source that is selected.
    """

    reply: bytes | None = None
    valid: bool = False
    nominated: bool = False


class SelectionMemory(NamedTuple):
    """The selected source of one stream, by the check that chose it; times are ages in seconds."""

    stream: int
    source: Endpoint | None
    ufrag: bytes
    priority: int
    checked: float
    claimed: float | None


class AgentMemory(NamedTuple):
    """An agent of ours, with whom it has met, and the one before it if that still answers."""

    local: IceCredentials
    remote: IceCredentials | None
    selections: tuple[SelectionMemory, ...]
    previous: AgentMemory | None = None


class Forward(NamedTuple):
    """What a datagram to be relayed comes to: as a :class:`Verdict`, for the party that sent it.

    ``forward``: send it on through the other party's socket, to ``to`` or, if None, where its media goes.
    """

    forward: bool = False
    valid: bool = False
    nominated: bool = False
    to: Endpoint | None = None


class _Budget:
    """A token bucket: ``burst`` at once, ``per_s`` in the long run."""

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._left = self._burst
        self._since: float | None = None

    def spend(self, now: float) -> bool:
        """Take one, if there is one."""
        if self._since is not None:
            self._left = min(self._burst, self._left + (now - self._since) * self._per_s)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Selection:
    """Which source of one stream a full agent has nominated, judged by its valid checks alone.

    Agents differ. With aggressive nomination (RFC 5245 8.1.1.2) every check nominates, and the pair of the highest
    priority is meant. With regular nomination one check does, later ones on the same pair do not. Browsers nominate
    to a lite agent in every check on the pair that they use now, and check others without, also those that they have
    left. So the latest nomination holds, but for one case: while the selected source keeps nominating, that is until
    CLAIM_S after it last did or until it checks without, a lower priority does not replace it. A selected source that
    has been silent for CONSENT_S is lost, and whoever checks then is better than nobody.

    Our own candidate is the same for all sources of a stream, so that their PRIORITY alone orders the pairs.
    """

    __slots__ = ("_checked", "_claimed", "_priority", "source", "ufrag")

    def __init__(self) -> None:
        self.source: Endpoint | None = None
        self.ufrag = b""
        self._priority = 0
        self._checked = 0.0
        self._claimed: float | None = None

    @classmethod
    def restored(cls, memory: SelectionMemory, now: float) -> _Selection:
        """One that another process had."""
        selection = cls()
        selection.source, selection.ufrag, selection._priority = memory.source, memory.ufrag, memory.priority
        selection._checked = now - memory.checked
        selection._claimed = None if memory.claimed is None else now - memory.claimed
        return selection

    def memory(self, stream: int, now: float) -> SelectionMemory:
        """What :meth:`restored` makes the same of."""
        claimed = None if self._claimed is None else now - self._claimed
        return SelectionMemory(stream, self.source, self.ufrag, self._priority, now - self._checked, claimed)

    def check(self, source: Endpoint, check: _Check, now: float) -> bool:
        """Take in a valid check; whether its source is the selected one now."""
        if source != self.source and not self._yields(check, now):
            return False
        self.source = source
        self.ufrag = check.ufrag
        self._priority = check.priority
        self._checked = now
        self._claimed = now if check.nominates else None
        return True

    def _yields(self, check: _Check, now: float) -> bool:
        """Whether the selected source, if there is one, gives way to another one that sends ``check``."""
        if self.source is None:
            return check.nominates
        if not check.nominates:
            return now - self._checked > CONSENT_S
        if self._claimed is None or now - self._claimed > CLAIM_S:
            return True
        return check.priority >= self._priority


class _Check(NamedTuple):
    """What a connectivity check says (RFC 8445 7.1); ``priority`` 0 where it has none, ``ufrag`` is its sender's."""

    priority: int
    nominates: bool
    ufrag: bytes


def _check_in(request: stun.StunMessage) -> _Check:
    return _Check(
        int.from_bytes(request.attribute(stun.PRIORITY) or b"", "big"),
        request.attribute(stun.USE_CANDIDATE) is not None,
        _user_name(request)[1],
    )


def _binding(data: bytes) -> stun.StunMessage | None:
    """A Binding message with the right fingerprint, which all messages of ICE have (RFC 8445 7.1); else None."""
    try:
        message = stun.parse(data)
    except ProtocolError:
        return None
    return message if message.method == stun.BINDING and message.has_valid_fingerprint else None


def _user_name(request: stun.StunMessage) -> tuple[bytes, bytes]:
    """The user name fragments of who is asked and of who asks (RFC 8445 7.2.2); empty where they are missing."""
    asked, _, asking = (request.attribute(stun.USERNAME) or b"").partition(b":")
    return asked, asking


def _is_of(ufrag: bytes, credentials: IceCredentials) -> bool:
    # signalling may have bytes in a ufrag that are no UTF-8
    return ufrag == credentials.ufrag.encode("utf-8", "surrogateescape")


class IceAgent:
    """Our ICE-lite agent towards one party, over all streams of one media (RFC 8445 2.5 and 7.3); always controlled.

    ``remote`` is None until :meth:`meet`. If it changes, ICE restarts (RFC 8445 9), and that takes a new agent,
    to which the former one is ``previous``: it goes on answering on each stream until a pair of the new one is
    nominated there, so that the party does not lose its consent meanwhile.
    Nothing but a check with the right credentials changes anything here.
    """

    def __init__(
        self,
        local: IceCredentials,
        remote: IceCredentials | None = None,
        previous: IceAgent | None = None,
    ) -> None:
        self.local = local
        self.remote = remote
        self.last_valid: float | None = None
        self._previous = previous
        self._selections: dict[int, _Selection] = {}
        self._errors = _Budget(ERROR_BURST, ERRORS_PER_S)
        if previous is not None:
            previous._previous = None

    @classmethod
    def restored(cls, memory: AgentMemory, now: float) -> IceAgent:
        """An agent that goes on where that of another process was."""
        previous = None if memory.previous is None else cls.restored(memory.previous, now)
        agent = cls(memory.local, memory.remote, previous)
        agent._selections = {one.stream: _Selection.restored(one, now) for one in memory.selections}
        return agent

    def memory(self, now: float) -> AgentMemory:
        """What :meth:`restored` makes the same of."""
        selections = tuple(one.memory(stream, now) for stream, one in self._selections.items())
        previous = None if self._previous is None else self._previous.memory(now)
        return AgentMemory(self.local, self.remote, selections, previous)

    @property
    def state(self) -> str:
        """``new``; ``checking`` after a valid check; ``connected`` when each stream that was checked has a pair."""
        if not self._selections:
            return "new"
        return "connected" if all(one.source for one in self._selections.values()) else "checking"

    def meet(self, remote: IceCredentials | None) -> None:
        """Signalling has named the party, whose checks may have come before that.

        What another one has nominated meanwhile, to whom the same offer was forked, counts no more.
        """
        if remote is not None:
            self._selections = {n: one for n, one in self._selections.items() if _is_of(one.ufrag, remote)}
        self.remote = remote

    def selected(self, stream: int) -> Endpoint | None:
        """Where the party has its end of the pair that it nominated for this stream, None before it has."""
        selection = self._selections.get(stream)
        return selection.source if selection else None

    def receive(self, stream: int, data: bytes, source: Endpoint, now: float) -> Verdict:
        """Take in a datagram that may be STUN; ``stream`` is any number that stands for the socket.

        What is no request ends here, as we have asked nothing; so does what is no message of ICE at all.
        """
        request = _binding(data)
        if request is None or request.message_class != stun.REQUEST:
            return Verdict()
        former = self._former(stream, request)
        verdict = former.receive(stream, data, source, now) if former else self._answer(stream, request, source, now)
        if verdict.valid:
            self.last_valid = now
        return verdict

    def _former(self, stream: int, request: stun.StunMessage) -> IceAgent | None:
        """The previous agent, if it is asked and still the one whose pairs are in use."""
        previous = self._previous
        if previous is None or self.selected(stream) is not None or not _is_of(_user_name(request)[0], previous.local):
            return None
        return previous

    def _answer(self, stream: int, request: stun.StunMessage, source: Endpoint, now: float) -> Verdict:
        code = self._objection(request)
        if code is not None:
            return Verdict(self._refusal(request, code, now))
        selection = self._selections.setdefault(stream, _Selection())
        mapped = (stun.XOR_MAPPED_ADDRESS, stun.xor_address(source, request.transaction_id))
        reply = stun.serialize(stun.SUCCESS, request.transaction_id, [mapped], self.local.pwd)
        return Verdict(reply, True, selection.check(source, _check_in(request), now))

    def _objection(self, request: stun.StunMessage) -> int | None:
        """The error code that a request deserves (RFC 8489 9.1.3 and 6.3.1, RFC 8445 7.3.1.1), None for none."""
        if request.integrity is None or request.attribute(stun.USERNAME) is None:
            return 400
        if not self._is_authentic(request):
            return 401
        if _unknown(request):
            return 420
        return 487 if request.attribute(stun.ICE_CONTROLLED) is not None else None

    def _is_authentic(self, request: stun.StunMessage) -> bool:
        asked, asking = _user_name(request)
        if not _is_of(asked, self.local) or not asking:
            return False
        return (self.remote is None or _is_of(asking, self.remote)) and request.has_valid_integrity(self.local.pwd)

    def _refusal(self, request: stun.StunMessage, code: int, now: float) -> bytes | None:
        """An error response, or None if there have been too many."""
        if code != 487 and not self._errors.spend(now):
            return None
        attributes = [(stun.ERROR_CODE, stun.error_code(code, _REASONS[code]))]
        if code == 420:
            attributes.append((stun.UNKNOWN_ATTRIBUTES, stun.unknown_attributes(_unknown(request))))
        password = self.local.pwd if code in _AUTHENTIC else None
        return stun.serialize(stun.ERROR, request.transaction_id, attributes, password)


def _unknown(request: stun.StunMessage) -> list[int]:
    """The attributes that we would have to understand and do not."""
    kinds = (kind for kind, _ in request.attributes)
    return [kind for kind in kinds if kind < stun.COMPREHENSION_OPTIONAL and kind not in _UNDERSTOOD]


class _Pending(NamedTuple):
    """A request that was relayed: where its response has to go, and what the request said."""

    source: Endpoint
    check: _Check


class IceRelay:
    """Relays checks between two full agents, parties 0 and 1, where we are one more candidate of both.

    A request passes if its sender knew the credentials of the other party, a response if it answers such a request and
    its sender knew its own (RFC 8489 9.1.4): each proves its source. What nobody can verify yet, because signalling
    has not told the credentials, passes in small numbers and proves nothing. Indications and the rest do not pass.
    """

    def __init__(self) -> None:
        self._known: tuple[list[IceCredentials], list[IceCredentials]] = ([], [])
        self._pending: tuple[dict[bytes, _Pending], dict[bytes, _Pending]] = ({}, {})
        self._selections: dict[int, _Selection] = {}
        self._unverified = _Budget(UNVERIFIED_BURST, UNVERIFIED_PER_S)

    def learn(self, party: int, credentials: IceCredentials) -> None:
        """What signalling says of a party; those before stay good, as pairs are while ICE restarts (RFC 8445 9)."""
        known = self._known[party]
        if known[:1] != [credentials]:
            known[:] = [credentials, *known[:1]]

    def receive(self, party: int, stream: int, data: bytes, source: Endpoint, now: float) -> Forward:
        """Take in a datagram that came from ``party``, or so it seems, through the socket ``stream`` towards it."""
        message = _binding(data)
        if message is None or message.message_class == stun.INDICATION:
            return Forward()
        if message.message_class == stun.REQUEST:
            return self._request(party, stream, message, source, now)
        return self._response(party, stream, message, source, now)

    def _request(self, party: int, stream: int, request: stun.StunMessage, source: Endpoint, now: float) -> Forward:
        asked, asking = _user_name(request)
        passwords = [one.pwd for one in self._known[1 - party] if _is_of(asked, one)]
        sender = self._known[party]
        if sender and not any(_is_of(asking, one) for one in sender):
            return Forward()
        verified = self._verify(1 - party, request, passwords, now)
        if verified is None:
            return Forward()
        check = _check_in(request)
        self._remember(1 - party, request.transaction_id, _Pending(source, check))
        return Forward(True, verified, verified and self._select(stream, source, check, now))

    def _response(self, party: int, stream: int, response: stun.StunMessage, source: Endpoint, now: float) -> Forward:
        pending = self._pending[party].get(response.transaction_id)
        if pending is None:
            return Forward()
        verified = self._verify(party, response, [one.pwd for one in self._known[party]], now)
        if verified is None:
            return Forward()
        del self._pending[party][response.transaction_id]
        success = verified and response.message_class == stun.SUCCESS
        nominated = success and self._select(stream, source, pending.check, now)
        return Forward(True, verified, nominated, pending.source)

    def _verify(self, party: int, message: stun.StunMessage, passwords: list[str], now: float) -> bool | None:
        """Whether a message proves to know one of ``passwords``, which are of ``party``; None if it may not pass."""
        if any(message.has_valid_integrity(password) for password in passwords):
            return True
        if self._known[party] or not self._unverified.spend(now):
            return None
        return False

    def _remember(self, party: int, transaction_id: bytes, request: _Pending) -> None:
        pending = self._pending[party]
        pending[transaction_id] = request
        if len(pending) > MAX_PENDING:
            del pending[next(iter(pending))]

    def _select(self, stream: int, source: Endpoint, check: _Check, now: float) -> bool:
        return self._selections.setdefault(stream, _Selection()).check(source, check, now)
