// SPDX-License-Identifier: MIT
/*
 * Source learning as a pure state machine.
 *
 * Who may be learned, and when, decides whether a stranger who sprays packets
 * at the port range gets a call's media or is heard in it.
 */
#include "learn.h"

#include "address.h"

/* A candidate older than this has gone away: RTCP comes every five seconds. */
#define CANDIDATE_STALE_NS (10ULL * 1000000000)

static bool is_validated(const struct learn *l, const struct pp_address *source)
{
	const struct pp_address *v;

	for (v = l->validated; v < l->validated + LEARN_VALIDATED && v->family; v++)
		if (same_endpoint(v, source))
			return true;
	return false;
}

static enum learn_rank rank_of(const struct learn *l, const struct pp_address *source)
{
	if (is_validated(l, source))
		return LEARN_RANK_VALIDATED;
	if (same_address(source, &l->peer))
		return source->port == l->peer.port ? LEARN_RANK_EXACT : LEARN_RANK_SAME;
	if (same_address(source, &l->alias))
		return LEARN_RANK_ALIAS;
	return LEARN_RANK_STRANGER;
}

static bool is_vacant(const struct learn *l)
{
	return !l->accept_from.family;
}

static bool is_silent(const struct learn *l, uint64_t now_ns)
{
	return now_ns - l->heard_ns >= PP_REBIND_SILENCE_NS;
}

static bool window_over(const struct learn *l, uint64_t now_ns)
{
	return now_ns - l->started_ns >= PP_LEARN_WINDOW_NS;
}

/* Only the kind of packet that the stream is for can identify a party. */
static bool identifies(const struct learn *l, const struct learn_packet *p)
{
	if (l->flags & PP_F_OPAQUE)
		return p->proof == LEARN_PROOF_OPAQUE;
	return p->proof == (l->flags & PP_F_RTCP_ONLY ? LEARN_PROOF_RTCP : LEARN_PROOF_RTP);
}

static bool follows(uint16_t seq, uint16_t last)
{
	uint16_t ahead = seq - last;

	return ahead >= 1 && ahead <= LEARN_SEQUENCE_AHEAD;
}

/* Whether the packet goes on where the accepted source left off. */
static bool continues(const struct learn *l, const struct learn_packet *p)
{
	if (!l->identified || !identifies(l, p) || p->proof == LEARN_PROOF_OPAQUE || p->ssrc != l->ssrc)
		return false;
	return p->proof == LEARN_PROOF_RTCP || follows(p->seq, l->seq);
}

static unsigned int strength(const struct learn_candidate *c, uint64_t now_ns)
{
	return c->count && now_ns - c->heard_ns >= CANDIDATE_STALE_NS ? 1 : c->count;
}

/* The entry of this source and SSRC, or the weakest and oldest one, emptied. */
static struct learn_candidate *candidate(struct learn *l, const struct learn_packet *p)
{
	struct learn_candidate *c, *victim = l->candidates;
	unsigned int weak, weakest;

	for (c = l->candidates; c < l->candidates + LEARN_CANDIDATES; c++) {
		if (c->count && c->ssrc == p->ssrc && same_endpoint(&c->source, &p->source))
			return c;
		weak = strength(c, p->now_ns);
		weakest = strength(victim, p->now_ns);
		if (weak < weakest || (weak == weakest && c->heard_ns < victim->heard_ns))
			victim = c;
	}
	*victim = (struct learn_candidate) { .source = p->source, .ssrc = p->ssrc };
	return victim;
}

/* How many packets of the sender have identified it; one sequence number counts once. */
static unsigned int count_candidate(struct learn *l, const struct learn_packet *p)
{
	struct learn_candidate *c;

	if (!identifies(l, p))
		return 0;
	c = candidate(l, p);
	c->heard_ns = p->now_ns;
	if (c->count && p->proof == LEARN_PROOF_RTP && !follows(p->seq, c->seq))
		return c->count;
	c->seq = p->seq;
	if (c->count < UINT16_MAX)
		c->count++;
	return c->count;
}

static unsigned int packets_needed(const struct learn_packet *p)
{
	return p->proof == LEARN_PROOF_RTCP ? LEARN_STRANGER_RTCP : LEARN_STRANGER_PACKETS;
}

/*
 * One definition of where packets go: to whom we listen, unless told otherwise.
 * With ICE that is who has been validated or nobody: an SDP may name a victim.
 */
static void aim(struct learn *l)
{
	bool fixed = is_vacant(l) || l->mode == PP_LEARN_OFF || l->flags & PP_F_ASYMMETRIC;
	bool proven = l->flags & PP_F_ICE || (l->rank == LEARN_RANK_VALIDATED && !fixed);

	l->send_to = !proven && (fixed || !l->peer.family) ? l->peer : l->accept_from;
}

static void hear(struct learn *l, const struct learn_packet *p)
{
	l->heard_ns = p->now_ns;
	if (!identifies(l, p))
		return;
	l->ssrc = p->ssrc;
	l->seq = p->seq;
	l->identified = 1;
}

static int hear_accepted(struct learn *l, const struct learn_packet *p)
{
	hear(l, p);
	if (l->confirmed || p->proof == LEARN_PROOF_NONE || !window_over(l, p->now_ns))
		return LEARN_RELAY;
	l->confirmed = 1;
	return LEARN_RELAY | LEARN_SETTLED;
}

/* A source that signalling did not name, or named less well, must prove itself. */
static enum learn_rank rank_proven(struct learn *l, const struct learn_packet *p, enum learn_rank rank)
{
	enum learn_rank inherited = rank > l->rank ? rank : l->rank;
	unsigned int count;

	if (same_address(&p->source, &l->local))
		return LEARN_RANK_NONE;
	count = count_candidate(l, p);
	if (is_vacant(l)) {
		if (!(l->flags & PP_F_STRANGER) || !window_over(l, p->now_ns) || count < packets_needed(p))
			return LEARN_RANK_NONE;
		return rank;
	}
	if (is_silent(l, p->now_ns) && continues(l, p) && count >= LEARN_REBIND_PACKETS)
		return inherited;
	/* A party that never sent from where its SDP says may have lost its place in a NAT, and its SSRC. */
	if (is_silent(l, p->now_ns) && l->rank < LEARN_RANK_EXACT && rank > LEARN_RANK_STRANGER && rank >= l->rank &&
	    count && count >= packets_needed(p))
		return rank;
	if (l->confirmed && l->flags & PP_F_HANDOVER && count && count >= packets_needed(p))
		return inherited;
	return LEARN_RANK_NONE;
}

/* The rank at which the sender takes the accepted source's place; none: it does not. */
static enum learn_rank rank_taking_over(struct learn *l, const struct learn_packet *p, enum learn_rank rank)
{
	if (p->proof == LEARN_PROOF_NONE)
		return LEARN_RANK_NONE;
	if (l->mode != PP_LEARN_HEURISTIC && !l->confirmed)
		return LEARN_RANK_EXACT;
	if (rank > LEARN_RANK_STRANGER && rank > l->rank)
		return rank;
	if (!l->confirmed && is_silent(l, p->now_ns) && rank >= LEARN_RANK_ALIAS)
		return rank;
	return rank_proven(l, p, rank);
}

static void move_to(struct learn *l, const struct pp_address *source, enum learn_rank rank)
{
	l->accept_from = *source;
	l->rank = rank;
	l->nominated = 0;
	l->identified = 0;
	memset(l->candidates, 0, sizeof(l->candidates));
}

static int accept_source(struct learn *l, const struct learn_packet *p, enum learn_rank rank)
{
	move_to(l, &p->source, rank);
	hear(l, p);
	if (l->mode == PP_LEARN_IMMEDIATE || window_over(l, p->now_ns) ||
	    (l->mode == PP_LEARN_HEURISTIC && rank >= LEARN_RANK_EXACT))
		l->confirmed = 1;
	aim(l);
	return LEARN_RELAY | (l->confirmed ? LEARN_SETTLED : 0);
}

/* Nothing is sent to the party yet; still keep a spray out of the other party's ear. */
static int hear_unknown_party(struct learn *l, const struct learn_packet *p)
{
	unsigned int count;

	if (same_endpoint(&p->source, &l->accept_from)) {
		hear(l, p);
		return LEARN_RELAY;
	}
	if (l->confirmed)
		return l->flags & PP_F_STRICT ? 0 : LEARN_RELAY;
	if (l->mode != PP_LEARN_HEURISTIC)
		return LEARN_RELAY;
	if (!is_vacant(l) && !is_silent(l, p->now_ns))
		return 0;
	count = count_candidate(l, p);
	if (!count || count < packets_needed(p))
		return 0;
	l->accept_from = p->source;
	memset(l->candidates, 0, sizeof(l->candidates));
	hear(l, p);
	return LEARN_RELAY;
}

/* Two packets must not be encrypted under one index: one here, and another where the stream is forwarded. */
static int hear_other(const struct learn *l, const struct learn_packet *p)
{
	if (l->flags & PP_F_STRICT)
		return 0;
	return l->offloaded && p->indexed ? LEARN_ELSEWHERE : LEARN_RELAY;
}

static int hear_fixed_party(struct learn *l, const struct learn_packet *p)
{
	if (!l->peer.family)
		return 0;
	if (!same_endpoint(&p->source, &l->peer))
		return hear_other(l, p);
	hear(l, p);
	return LEARN_RELAY;
}

/* ICE has decided whom to send to; the party may use any other pair that it has proven as well. */
static int hear_ice_party(struct learn *l, const struct learn_packet *p)
{
	if (!same_endpoint(&p->source, &l->accept_from))
		return is_validated(l, &p->source) ? LEARN_RELAY : 0;
	hear(l, p);
	return LEARN_RELAY;
}

/*
 * An old packet may have been held back by whoever now sends it. Of a muxing party, RTP
 * says where it is: RTCP from elsewhere must not turn its media away.
 */
static bool may_move(const struct learn *l, const struct learn_packet *p)
{
	if (p->authentic != LEARN_AUTHENTIC_NEWEST || p->proof == LEARN_PROOF_NONE)
		return false;
	if (same_address(&p->source, &l->local) && rank_of(l, &p->source) == LEARN_RANK_STRANGER)
		return false;
	return is_vacant(l) || identifies(l, p) || is_silent(l, p->now_ns);
}

/* Security rule 3: where packets are authenticated, that decides who the party is. */
static int hear_authentic(struct learn *l, const struct learn_packet *p)
{
	enum learn_rank rank = rank_of(l, &p->source);
	bool settled = l->confirmed;

	if (!same_endpoint(&p->source, &l->accept_from)) {
		if (!may_move(l, p))
			return l->confirmed && l->flags & PP_F_STRICT ? 0 : LEARN_RELAY;
		if (l->offloaded)
			return LEARN_ELSEWHERE;
		move_to(l, &p->source, rank > l->rank ? rank : l->rank);
		settled = false;
	}
	hear(l, p);
	if (settled || !l->peer.family)
		return LEARN_RELAY;
	l->confirmed = 1;
	aim(l);
	return LEARN_RELAY | LEARN_SETTLED;
}

/*
 * Which packets of an offloaded stream have passed is known here a moment later. Until then a
 * copy of one cannot be told from the party's next, sent from where a NAT has moved it.
 */
static bool may_be_copy(const struct learn *l, const struct learn_packet *p)
{
	return l->offloaded && p->authentic && identifies(l, p) && !same_endpoint(&p->source, &l->accept_from);
}

/**
 * learn_packet() - decide about one received datagram
 * @learn: state of the stream
 * @packet: its source, time of arrival and what it proves
 *
 * Return: LEARN_RELAY if the packet may be relayed, and LEARN_SETTLED if the
 * stream has become confirmed or its confirmed source has changed. LEARN_ELSEWHERE
 * if that depends on what the accepted source has sent meanwhile; nothing is learned then.
 * Context: the owner of @learn; takes no lock, reads no clock.
 */
int learn_packet(struct learn *learn, const struct learn_packet *packet)
{
	enum learn_rank rank, taken;

	if (!is_unicast(&packet->source))
		return 0;
	if (learn->flags & PP_F_ICE)
		return hear_ice_party(learn, packet);
	if (may_be_copy(learn, packet))
		return LEARN_ELSEWHERE;
	if (learn->mode == PP_LEARN_OFF)
		return hear_fixed_party(learn, packet);
	if (packet->authentic)
		return hear_authentic(learn, packet);
	if (!learn->peer.family)
		return hear_unknown_party(learn, packet);
	if (same_endpoint(&packet->source, &learn->accept_from))
		return hear_accepted(learn, packet);

	rank = rank_of(learn, &packet->source);
	taken = rank_taking_over(learn, packet, rank);
	if (taken)
		return learn->offloaded ? LEARN_ELSEWHERE : accept_source(learn, packet, taken);
	if (learn->confirmed)
		return hear_other(learn, packet);
	/* Whatever comes from exactly the SDP endpoint is the party's, it just teaches nothing. */
	return rank == LEARN_RANK_EXACT ? LEARN_RELAY : 0;
}

/**
 * learn_forwarded() - packets of the accepted source were forwarded elsewhere
 * @learn: state of the stream
 * @in: how many, and how far authenticated SSRCs have come
 * @now_ns: CLOCK_MONOTONIC
 *
 * Whoever continues after a silence must do so from here: without SRTP each packet
 * stands for one sequence number, and learn_packet() allows for those that were lost.
 * Context: the owner of @learn; takes no lock, reads no clock.
 */
void learn_forwarded(struct learn *learn, const struct pp_progress *in, uint64_t now_ns)
{
	const struct pp_source *source = in->received.source;
	uint32_t i;

	if (!in->packets)
		return;
	learn->heard_ns = now_ns;
	if (!(learn->flags & PP_F_SECURE))
		learn->seq += (uint16_t)in->packets;
	for (i = 0; i < in->received.count && i < PP_SOURCES; i++)
		if (source[i].ssrc == learn->ssrc && source[i].window.next)
			learn->seq = (uint16_t)(source[i].window.next - 1);
}

/* A sequence number that the accepted source has passed by cannot be its newest. */
static bool is_behind(const struct learn *l, const struct learn_packet *p)
{
	return l->identified && p->proof == LEARN_PROOF_RTP && identifies(l, p) && p->ssrc == l->ssrc &&
	       (int16_t)(p->seq - l->seq) <= 0;
}

/**
 * learn_srtp_standing() - what to expect of an SRTP packet before it costs a MAC
 * @learn: state of the stream
 * @packet: its source and what its header says
 *
 * Return: enum learn_standing. An unknown source is worth a try: if its packet
 * is authentic and new, learn_packet() takes it for the party's at once.
 * Context: the owner of @learn; takes no lock, reads no clock.
 */
int learn_srtp_standing(const struct learn *learn, const struct learn_packet *packet)
{
	enum learn_rank rank;

	if (same_endpoint(&packet->source, &learn->accept_from))
		return LEARN_STANDING_KNOWN;
	if (!is_unicast(&packet->source))
		return LEARN_STANDING_REFUSED;
	if (learn->flags & PP_F_ICE)
		return is_validated(learn, &packet->source) ? LEARN_STANDING_KNOWN : LEARN_STANDING_REFUSED;
	if (learn->mode == PP_LEARN_OFF && (learn->flags & PP_F_STRICT || !learn->peer.family))
		return LEARN_STANDING_REFUSED;
	rank = rank_of(learn, &packet->source);
	if (rank > LEARN_RANK_STRANGER && !learn->confirmed)
		return LEARN_STANDING_KNOWN;
	if (rank == LEARN_RANK_STRANGER && same_address(&packet->source, &learn->local))
		return LEARN_STANDING_REFUSED;
	if (continues(learn, packet))
		return LEARN_STANDING_CONTINUES;
	if (learn->confirmed && learn->flags & PP_F_STRICT && is_behind(learn, packet))
		return LEARN_STANDING_REFUSED;
	return LEARN_STANDING_UNKNOWN;
}

/**
 * learn_dtls_standing() - who may speak DTLS with us
 * @learn: state of the stream
 * @source: where a datagram came from
 *
 * Security rule 5: with ICE whoever has passed a check, else whom the rules
 * of learn_packet() could accept.
 * Return: enum learn_standing, but for LEARN_STANDING_CONTINUES.
 * Context: the owner of @learn; takes no lock, reads no clock.
 */
int learn_dtls_standing(const struct learn *learn, const struct pp_address *source)
{
	enum learn_rank rank;

	if (!is_unicast(source))
		return LEARN_STANDING_REFUSED;
	if (is_validated(learn, source))
		return LEARN_STANDING_KNOWN;
	if (learn->flags & PP_F_ICE)
		return LEARN_STANDING_REFUSED;
	if (same_endpoint(source, &learn->accept_from))
		return LEARN_STANDING_KNOWN;
	if (learn->mode == PP_LEARN_OFF && (learn->flags & PP_F_STRICT || !learn->peer.family))
		return LEARN_STANDING_REFUSED;
	rank = rank_of(learn, source);
	if (rank > LEARN_RANK_STRANGER)
		return rank >= LEARN_RANK_EXACT ? LEARN_STANDING_KNOWN : LEARN_STANDING_NEAR;
	if (same_address(source, &learn->local))
		return LEARN_STANDING_REFUSED;
	if (!learn->peer.family || (learn->flags & PP_F_STRANGER && !learn->confirmed))
		return LEARN_STANDING_UNKNOWN;
	return LEARN_STANDING_REFUSED;
}

/* Put the source in front; the one that was proven longest ago makes room, but never the one in use. */
static void remember(struct learn *l, const struct pp_address *source)
{
	unsigned int i = 0, last = LEARN_VALIDATED - 1;

	while (i < last && l->validated[i].family && !same_endpoint(&l->validated[i], source))
		i++;
	if (i == last && !is_vacant(l) && same_endpoint(&l->validated[i], &l->accept_from) &&
	    !same_endpoint(&l->validated[i], source))
		i--;
	for (; i > 0; i--)
		l->validated[i] = l->validated[i - 1];
	l->validated[0] = *source;
}

/**
 * learn_validate() - accept a source that has proven itself, by ICE or DTLS
 * @learn: state of the stream
 * @source: where it sends from
 * @nominated: send there from now on; else only while no other has been nominated
 * @now_ns: CLOCK_MONOTONIC
 *
 * Return: LEARN_SETTLED if the stream has become confirmed or its confirmed
 * source has changed, else 0.
 * Context: the owner of @learn; takes no lock, reads no clock.
 */
int learn_validate(struct learn *learn, const struct pp_address *source, uint32_t nominated, uint64_t now_ns)
{
	bool ice = learn->flags & PP_F_ICE, moved, settled;

	if (!is_unicast(source))
		return 0;
	remember(learn, source);
	if ((!ice && learn->mode == PP_LEARN_OFF) || (learn->nominated && !nominated))
		return 0;
	moved = !same_endpoint(source, &learn->accept_from);
	if (moved) {
		move_to(learn, source, LEARN_RANK_VALIDATED);
		learn->heard_ns = now_ns;
	}
	learn->rank = LEARN_RANK_VALIDATED;
	learn->nominated = nominated != 0;
	settled = (nominated || !ice) && (moved || !learn->confirmed);
	learn->confirmed = nominated || !ice;
	aim(learn);
	return settled ? LEARN_SETTLED : 0;
}

static int restart(struct learn *l, uint64_t now_ns)
{
	memset(&l->accept_from, 0, sizeof(l->accept_from));
	memset(l->candidates, 0, sizeof(l->candidates));
	memset(l->validated, 0, sizeof(l->validated));
	l->started_ns = now_ns;
	l->identified = 0;
	l->nominated = 0;
	l->rank = LEARN_RANK_NONE;
	l->confirmed = l->mode == PP_LEARN_OFF && l->peer.family && !(l->flags & PP_F_ICE);
	if (l->confirmed)
		l->accept_from = l->peer;
	return l->confirmed ? LEARN_SETTLED : 0;
}

/**
 * learn_configure() - apply what signalling says about the party
 * @learn: state of the stream, zeroed before the first call
 * @config: peer, alias, mode and flags; checked by the caller
 * @now_ns: CLOCK_MONOTONIC
 *
 * Learning starts anew if the peer or the mode changed; all else changes in place.
 * With PP_F_ICE it starts anew only when that flag comes: what ICE has proven
 * outlasts a new default candidate and a restart.
 * Return: LEARN_SETTLED if the stream is confirmed by this (PP_LEARN_OFF), else 0.
 * Context: the owner of @learn; takes no lock, reads no clock.
 */
int learn_configure(struct learn *learn, const struct pp_config *config, uint64_t now_ns)
{
	bool anew = !same_endpoint(&learn->peer, &config->peer) || learn->mode != config->learning;
	bool had_ice = learn->flags & PP_F_ICE, ice = config->flags & PP_F_ICE;
	int result = 0;

	learn->peer = config->peer;
	learn->alias = config->alias;
	learn->flags = config->flags;
	learn->mode = config->learning;
	if (ice ? !had_ice : anew)
		result = restart(learn, now_ns);
	aim(learn);
	return result;
}

/**
 * learn_save() - what has been learned of the party
 * @learn: state of the stream
 * @out: its addresses, rank, ssrc, seq and flags are filled
 *
 * Context: the owner of @learn; takes no lock, reads no clock.
 */
void learn_save(const struct learn *learn, struct pp_saved *out)
{
	out->accept_from = learn->accept_from;
	memcpy(out->validated, learn->validated, sizeof(out->validated));
	out->rank = learn->rank;
	out->ssrc = learn->ssrc;
	out->seq = learn->seq;
	out->flags |= (learn->confirmed ? PP_SAVED_CONFIRMED : 0) | (learn->nominated ? PP_SAVED_NOMINATED : 0) |
		      (learn->identified ? PP_SAVED_IDENTIFIED : 0);
}

static bool is_sane(const struct pp_saved *in)
{
	unsigned int i;

	for (i = 0; i < LEARN_VALIDATED; i++)
		if (in->validated[i].family && !is_unicast(&in->validated[i]))
			return false;
	if (in->rank > LEARN_RANK_VALIDATED || in->seq > UINT16_MAX)
		return false;
	if (!in->accept_from.family)
		return !(in->flags & (PP_SAVED_CONFIRMED | PP_SAVED_NOMINATED));
	return is_unicast(&in->accept_from);
}

/**
 * learn_restore() - go on from what another process had learned
 * @learn: state of the stream, which has been configured as it was there
 * @in: of learn_save()
 * @now_ns: CLOCK_MONOTONIC
 *
 * While nobody listened the party has not been silent: whoever wants to take its place has to wait as if it had
 * just been heard.
 * Return: 0, or -1 for what cannot be, and nothing has changed then.
 * Context: the owner of @learn; takes no lock, reads no clock.
 */
int learn_restore(struct learn *learn, const struct pp_saved *in, uint64_t now_ns)
{
	if (!is_sane(in))
		return -1;
	learn->accept_from = in->accept_from;
	memcpy(learn->validated, in->validated, sizeof(learn->validated));
	learn->rank = in->rank;
	learn->ssrc = in->ssrc;
	learn->seq = in->seq;
	learn->identified = !!(in->flags & PP_SAVED_IDENTIFIED);
	learn->confirmed = !!(in->flags & PP_SAVED_CONFIRMED);
	learn->nominated = !!(in->flags & PP_SAVED_NOMINATED);
	learn->heard_ns = now_ns;
	learn->started_ns = now_ns;
	aim(learn);
	return 0;
}
