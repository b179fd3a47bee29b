"""Keys and ICE of one section in one offer or answer: who is asked what, and what the recipient is told.

Joins :mod:`~rtpengine.keying` and :mod:`~rtpengine.ice_modes` to the parties that :mod:`~rtpengine.call` knows.
"""

from __future__ import annotations

from rtpengine import ice_modes, keying
from rtpengine.ice import candidates, new_credentials
from rtpengine.ice_modes import Reach, Telling
from rtpengine.keying import Keying, Tools
from rtpengine.media import Endpoint, Fingerprint, IceCredentials, IcePlan, MediaOffer, MediaPlan, Signalling
from rtpengine.party import Party


def is_concerned(how: Signalling, *parties: Party) -> bool:
    """Whether there is anything to negotiate; between plain phones, which most calls are, there is not."""
    if how.ice not in (None, "remove") or how.generate_mid:
        return True
    return any(party.is_peer or (party.offer is not None and party.offer.mid is not None) for party in parties)


class Securing:
    """One section in one offer or answer.

    ``asking`` and ``asked`` are sender and recipient as they were known before it, ``offer`` is what it says.
    """

    def __init__(
        self, asking: Party, asked: Party, offer: MediaOffer, how: Signalling, tools: Tools, *, is_offer: bool
    ) -> None:
        self._asking = asking
        self._asked = Party(offer=asked.offer, protocol=asked.protocol) if how.reset and is_offer else asked
        self._offer = offer
        dtls = how.dtls if how.dtls or is_offer else asked.prefers
        self._how = how._replace(dtls=dtls if tools.do_dtls else "off")
        self._tools = tools
        self._is_offer = is_offer
        self._ice_lines = "strip"

    def negotiate(self, speaker: Party, listener: Party) -> tuple[Party, Party]:
        """Sender and recipient with their new keys and ICE."""
        if self._offer.rejected:
            return speaker, listener
        if self._is_offer:
            self._asking, self._asked = _renewed(self._asking), _renewed(self._asked)
        speaker = speaker._replace(keying=self._speaker_keying(speaker))
        listener = listener._replace(keying=self._listener_keying(speaker, listener))
        if self._is_offer and self._offer.profile is not None:
            before = self._asked.pitch if self._asked.offer is None else Keying()
            listener = listener._replace(pitch=keying.pitched(before, listener.keying))
        goes_on = self._offer.profile is None and speaker.unsettled
        if self._offer.profile is None and not self._is_checked():
            if goes_on:
                return speaker, listener
            return speaker._replace(reach=Reach()), listener._replace(reach=Reach())
        reach, telling = self._reach(speaker, listener)
        self._ice_lines = telling.lines
        if goes_on and telling.lines == "strip":
            return speaker, listener
        return speaker._replace(reach=reach), listener._replace(reach=telling.reach)

    def _is_checked(self) -> bool:
        """Whether a party does ICE here: fax machines do not, and data channels do, whose DTLS passes unseen."""
        return self._offer.ice is not None or (self._asked.offer is not None and self._asked.offer.ice is not None)

    def _is_secure(self, party: Party, speaker: Party) -> bool:
        """Whether there are keys with a party: none where the section is no RTP, once its answer says so too."""
        return party.profile.secure and (self._offer.profile is not None or speaker.unsettled)

    def _speaker_keying(self, speaker: Party) -> Keying:
        if not self._is_secure(speaker, speaker):
            return Keying()
        if self._is_offer:
            return self._asking.keying
        return keying.answered(keying.reopened(self._asking.keying, self._asking.pitch), self._offer)

    def _listener_keying(self, speaker: Party, listener: Party) -> Keying:
        if not self._is_secure(listener, speaker):
            return Keying()
        if self._offer.profile is None:
            return self._asked.keying
        same_feedback = speaker.profile.feedback == listener.profile.feedback
        said = self._asked.offer
        if not self._is_offer and said is not None:
            return keying.answer_to(
                self._asked.keying, said, speaker.keying, self._how, self._tools, same_feedback=same_feedback
            )
        known = self._asked.keying
        if _is_over_tls(self._asked) != _is_over_tls(listener):
            known = Keying()
        if said is None:
            known = known._replace(own=self._asked.pitch.own or known.own)
        return keying.offered(
            known, self._offer, listener.protocol, self._how, self._tools, same_feedback=same_feedback
        )

    def _reach(self, speaker: Party, listener: Party) -> tuple[Reach, Telling]:
        transparent = speaker.protocol == listener.protocol and not listener.keying.role
        mode, known = self._how.ice, self._asked.reach
        if self._is_offer or self._asked.offer is None:
            telling = ice_modes.offered(known, self._offer, mode, self._credentials, transparent=transparent)
            return self._asking.reach, telling
        # What the answerer says of ICE concerns the offerer only if it was the offerer's that it heard.
        transparent = transparent and self._asking.reach.mode == "relay"
        telling = ice_modes.answer_to(
            known, self._asked.offer, self._offer, mode, self._credentials, transparent=transparent
        )
        return ice_modes.answered(self._asking.reach, self._offer), telling

    def _credentials(self) -> IceCredentials:
        return new_credentials(self._tools.random)

    def told(self, plan: MediaPlan, listener: Party, index: int, fingerprint: Fingerprint | None) -> MediaPlan:
        """The plan with keys, ICE and mid; ``fingerprint`` is that of our certificate where DTLS is spoken of.

        ``index`` is the number of the section, from 0.
        """
        mid = self._mid() or (str(index) if self._how.generate_mid else None)
        if plan.local is None:
            return plan._replace(mid=mid)
        plan = plan._replace(ice=self._ice_plan(plan.local, listener), mid=mid)
        if self._offer.profile is None:
            return plan
        role = listener.keying.role
        return plan._replace(
            crypto=listener.keying.told,
            setup=("actpass" if self._is_offer else role) if role else None,
            fingerprint=fingerprint,
            tls_id=listener.keying.told_tls_id,
        )

    def _ice_plan(self, rtp: Endpoint, listener: Party) -> IcePlan:
        if self._ice_lines == "strip":
            return IcePlan()
        keep = self._ice_lines == "keep"
        shared = self._offer.mux_only or (listener.rtcp_mux and not self._is_offer)
        rtcp = None if shared or self._offer.profile is None else Endpoint(rtp.address, rtp.port + 1)
        as_relay = keep and self._how.ice == "force-relay"
        return IcePlan(
            keep=keep,
            keep_relays=not as_relay,
            credentials=None if keep else listener.reach.local,
            candidates=candidates(
                rtp,
                rtcp,
                self._tools.foundations,
                lowest=self._offer.lowest_priority if keep else None,
                kind="relay" if as_relay else "host",
            ),
        )

    def _mid(self) -> str | None:
        """An answer repeats the offerer's own name of the section (RFC 5888 9.1), of which the answerer never heard."""
        said = self._asked.offer
        return said.mid if said is not None and not self._is_offer else None


def _renewed(party: Party) -> Party:
    if party.offer is None or not party.offer.rejected:
        return party
    return party._replace(keying=keying.after_rejection(party.keying))


def _is_over_tls(party: Party) -> bool:
    return party.protocol.startswith("UDP/TLS/")
