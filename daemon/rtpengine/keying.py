"""Whose keys protect what: SDES (RFC 4568) and DTLS-SRTP (RFC 5763, RFC 8842) as offer and answer settle them.

Pure functions from what a party said, and what was agreed with it before, to what is agreed now. An offer changes
only what its recipient is told; what its sender said counts when the answer comes. Keys that a party sent by SDES
are passed on unchanged wherever both sides can use them, so that their packets need no other protection on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from rtpengine.dtls import Certificate
from rtpengine.media import CryptoLine, Endpoint, Fingerprint, MediaOffer, SdesPolicy, Signalling, SrtpKeys
from rtpengine.srtp import SUITES, WEAK, generate_keys

STRONG = tuple(name for name in SUITES if name not in WEAK)
# Our answer to a=setup (RFC 5763 5): the other role, and where the choice is ours see `_role`.
_OTHER_ROLE = {"active": "passive", "passive": "active"}


class Tools(NamedTuple):
    """What the engine needs to agree on keys: all of it comes from outside.

    ``random(n)`` are n bytes from a CSPRNG. ``certificate()`` is the one that a new call is to use.
    ``suites`` are those accepted by SDES, the preferred one first: the only one that we offer unasked, since more
    lines than one confuse old phones.
    ``foundations`` mark our ICE candidates (RFC 8445 5.1.1.3).
    """

    random: Callable[[int], bytes]
    certificate: Callable[[], Certificate]
    foundations: tuple[str, str]
    suites: tuple[str, ...] = STRONG

    @property
    def do_dtls(self) -> bool:
        """Whether a handshake could end in one of the suites."""
        return any(SUITES[suite].profile is not None for suite in self.suites)


class Keying(NamedTuple):
    """What is agreed with one party, and what it was told last.

    ``told`` are our ``a=crypto`` lines; ``own`` the keys among all we ever told that are nobody else's.
    SDES is in use where ``receive`` and ``send`` are set: the party protects with the former, we with the latter.
    DTLS is in use, or offered, where ``role`` is ours in the handshake: active or passive. ``fingerprints`` are the
    party's, () before it has answered. Another ``association`` number is another DTLS association; ``remote`` and
    ``tls_id`` are what the party said when this one began; ``told_tls_id`` is ours, which only goes to who has one.
    """

    told: tuple[CryptoLine, ...] = ()
    own: tuple[SrtpKeys, ...] = ()
    receive: SrtpKeys | None = None
    send: SrtpKeys | None = None
    role: str = ""
    fingerprints: tuple[Fingerprint, ...] = ()
    association: int = 0
    remote: Endpoint | None = None
    tls_id: str | None = None
    told_tls_id: str | None = None


def does_dtls(offer: MediaOffer) -> bool:
    """Whether a party can do DTLS: a usable fingerprint, and a role for it to take."""
    return bool(offer.fingerprints) and offer.setup in ("actpass", "active", "passive")


def offered(
    known: Keying, asking: MediaOffer, protocol: str, how: Signalling, tools: Tools, *, same_feedback: bool
) -> Keying:
    """What the recipient of an offer is told, over ``protocol``, which is secure.

    ``asking`` is what the offerer said; its SDES keys are passed on where ``same_feedback`` says that nothing will
    be cut out of its RTCP, which would have to be protected anew under the same key.
    """
    if how.dtls == "off":
        known = known._replace(role="", fingerprints=())
    if how.sdes.off:
        known = known._replace(receive=None, send=None)
    answered_by_sdes = known.send is not None
    dtls = how.dtls != "off" and not answered_by_sdes
    over_tls = protocol.startswith("UDP/TLS/")
    if how.sdes.off or known.fingerprints or (over_tls and dtls):
        return known._replace(told=(), role=_offered_role(known, dtls))
    copies = [line.keys for line in usable_lines(asking, how.sdes, tools)] if same_feedback else []
    if answered_by_sdes:
        return _reoffered(known, copies, tools)._replace(role="")
    wanted = _wanted_suites(asking.kind, how.sdes, tools) if how.sdes.fresh_keys or not copies else []
    keys, own = copies, known.own
    for suite in wanted:
        if all(copy.suite != suite for copy in copies):
            found, own = _own(own, suite, how.sdes, tools)
            keys = [*keys, found]
    told = tuple(CryptoLine(tag, key) for tag, key in enumerate(_ordered(keys, how.sdes), 1))
    return known._replace(told=told, own=own, role=_offered_role(known, dtls))


def pitched(before: Keying, told: Keying) -> Keying:
    """All that an answer may be to: what is ``told`` now, and what was told ``before`` and has no answer yet.

    One offer goes to several destinations as several, and to each over the profile and with the keys that suit it.
    """
    lines = [line for line in before.told if not any(_same_use(line.keys, ours.keys) for ours in told.told)]
    own = tuple(dict.fromkeys((*told.own, *before.own)))
    return Keying(told=(*told.told, *lines), own=own, role=told.role or before.role)


def reopened(known: Keying, pitch: Keying) -> Keying:
    """What stands with a party before it answers: also one that answers after another one of the same offer."""
    own = tuple(dict.fromkeys((*known.own, *pitch.own)))
    return known._replace(told=pitch.told or known.told, own=own, role=known.role or pitch.role)


def after_rejection(known: Keying) -> Keying:
    """What is left of it where a section has been rejected: who takes that back has let go of its DTLS association."""
    if not known.fingerprints:
        return known
    return known._replace(
        fingerprints=(), association=known.association + 1, remote=None, tls_id=None, told_tls_id=None
    )


def answered(known: Keying, answer: MediaOffer) -> Keying:
    """What the answerer has chosen of what it was told; no keys where that is none of it."""
    if does_dtls(answer) and known.role:
        role = "passive" if answer.setup == "active" else "active"
        return _associated(known, answer, role)._replace(told=(), receive=None, send=None)
    for line in answer.crypto:
        told = _counterpart(known.told, line)
        if told is not None:
            return Keying(told=(told,), own=known.own, receive=line.keys, send=told.keys)
    return Keying(own=known.own)


def answer_to(
    known: Keying, asked: MediaOffer, answerer: Keying, how: Signalling, tools: Tools, *, same_feedback: bool
) -> Keying:
    """What the offerer is told, who had said ``asked`` over a secure profile, after ``answerer`` has chosen."""
    lines = usable_lines(asked, how.sdes, tools)
    if does_dtls(asked) and not (how.dtls == "off" and lines):
        association = _associated(known, asked, _role(known, asked, how))
        return association._replace(told=(), receive=None, send=None, told_tls_id=_tls_id(known, association, tools))
    if not lines:
        return Keying(own=known.own)
    theirs = answerer.receive if same_feedback else None
    line = next((line for line in lines if theirs is not None and line.keys.suite == theirs.suite), lines[0])
    keys, own = theirs, known.own
    if keys is None or not _same_use(keys, line.keys):
        keys, own = _own_like(own, line.keys, tools)
    return Keying(told=(CryptoLine(line.tag, keys),), own=own, receive=line.keys, send=keys)


def usable_lines(offer: MediaOffer, policy: SdesPolicy, tools: Tools) -> list[CryptoLine]:
    """The ``a=crypto`` lines of a party that we accept, in its order."""
    if policy.off:
        return []
    allowed = _allowed(tools.suites, offer.kind, policy)
    weak = any(suite in WEAK for suite in tools.suites)
    return [line for line in offer.crypto if line.keys.suite in allowed and _may_weaken(line.keys, policy, weak)]


def _may_weaken(keys: SrtpKeys, policy: SdesPolicy, weak: bool) -> bool:
    """Whether the session parameters that take protection away are wanted: by the SIP proxy, or by the operator."""
    for given, wanted in (
        (keys.unencrypted_srtp, policy.unencrypted_srtp),
        (keys.unencrypted_srtcp, policy.unencrypted_srtcp),
        (keys.unauthenticated_srtp, policy.unauthenticated_srtp),
    ):
        if given and (wanted is False or not (wanted or weak)):
            return False
    return True


def _allowed(suites: Iterable[str], kind: str, policy: SdesPolicy) -> list[str]:
    """The suites that may be used; a short tag is for audio only, whose packets carry little (RFC 4568 6.2.2)."""
    return [
        suite
        for suite in suites
        if suite not in policy.without
        and (not policy.only or suite in policy.only)
        and (kind == "audio" or not suite.endswith("_32"))
    ]


def _wanted_suites(kind: str, policy: SdesPolicy, tools: Tools) -> list[str]:
    """What we offer by ourselves: what the flags name, and the one that the operator prefers."""
    known = [suite for suite in (*policy.order, *sorted(policy.only)) if suite in tools.suites]
    preferred = _allowed(tools.suites, kind, policy)[:1]
    return list(dict.fromkeys([*_allowed(known, kind, policy), *preferred]))


def _ordered(keys: list[SrtpKeys], policy: SdesPolicy) -> list[SrtpKeys]:
    rank = {suite: place for place, suite in enumerate(policy.order)}
    return sorted(keys, key=lambda k: rank.get(k.suite, len(rank)))


def _own(
    own: tuple[SrtpKeys, ...], suite: str, policy: SdesPolicy, tools: Tools
) -> tuple[SrtpKeys, tuple[SrtpKeys, ...]]:
    """Keys of ours for a suite, with the session parameters that are asked for; made once per party."""
    wanted = SrtpKeys(
        suite,
        b"",
        b"",
        unencrypted_srtp=bool(policy.unencrypted_srtp),
        unencrypted_srtcp=bool(policy.unencrypted_srtcp),
        unauthenticated_srtp=bool(policy.unauthenticated_srtp),
    )
    return _own_like(own, wanted, tools)


def _own_like(own: tuple[SrtpKeys, ...], like: SrtpKeys, tools: Tools) -> tuple[SrtpKeys, tuple[SrtpKeys, ...]]:
    """Keys of ours with the suite and the session parameters of ``like``, and ``own`` with them."""
    for keys in own:
        if _same_use(keys, like):
            return keys, own
    made = generate_keys(like.suite, tools.random)
    made = like._replace(key=made.key, salt=made.salt, mki=b"")
    return made, (*own, made)


def _same_use(one: SrtpKeys, other: SrtpKeys) -> bool:
    return one[0] == other[0] and one[4:] == other[4:]


def _reoffered(known: Keying, copies: list[SrtpKeys], tools: Tools) -> Keying:
    """A party that has chosen is offered its choice again, under its tag, with the keys that are now to be used."""
    assert known.send is not None
    tag = known.told[0].tag if known.told else 1
    keys, own = next((copy for copy in copies if _same_use(copy, known.send)), None), known.own
    if keys is None:
        keys, own = _own_like(own, known.send, tools)
    return known._replace(told=(CryptoLine(tag, keys),), own=own)


def _counterpart(told: tuple[CryptoLine, ...], line: CryptoLine) -> CryptoLine | None:
    """Our line that this one answers (RFC 4568 5.1.3); some phones write a tag of their own."""
    fitting = [ours for ours in told if _same_use(ours.keys, line.keys)]
    by_tag = [ours for ours in fitting if ours.tag == line.tag]
    return next(iter([*by_tag, *fitting]), None)


def _offered_role(known: Keying, dtls: bool) -> str:
    """Who offers actpass has to be ready for the answerer's ClientHello (RFC 5763 5)."""
    return (known.role or "passive") if dtls else ""


def _role(known: Keying, asked: MediaOffer, how: Signalling) -> str:
    """Ours, in an answer to ``asked``: an association goes on in the roles in which it began (RFC 8842 5.3)."""
    if asked.setup in _OTHER_ROLE:
        return _OTHER_ROLE[asked.setup]
    if known.role and not _begins_anew(known, asked):
        return known.role
    return "passive" if how.dtls == "passive" else "active"


def _begins_anew(known: Keying, said: MediaOffer) -> bool:
    """Whether what the party says asks for a new association (RFC 8842 5.1, RFC 5763 6.6)."""
    if not known.fingerprints:
        return False
    if set(known.fingerprints) != set(said.fingerprints) or known.tls_id != said.tls_id:
        return True
    moved = said.endpoint is not None and not said.endpoint.is_null and said.endpoint != known.remote
    return moved and said.ice is None and said.tls_id is None


def _tls_id(known: Keying, now: Keying, tools: Tools) -> str | None:
    """Our name of the association, for an offerer who names it too (RFC 8842 5.3)."""
    if now.tls_id is None:
        return None
    same = known.told_tls_id is not None and known.association == now.association
    return known.told_tls_id if same else tools.random(15).hex()


def _associated(known: Keying, said: MediaOffer, role: str) -> Keying:
    return known._replace(
        role=role,
        fingerprints=said.fingerprints,
        association=known.association + _begins_anew(known, said),
        remote=said.endpoint if said.endpoint is None or not said.endpoint.is_null else known.remote,
        tls_id=said.tls_id,
    )
