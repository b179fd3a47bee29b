// SPDX-License-Identifier: MIT
/*
 * SRTP and SRTCP packets, and which of them may pass.
 *
 * Receiving, nothing is remembered before the tag has proved right: not the
 * rollover counter, not the SSRC, not that the packet was seen. Sending, an
 * index is used once, since two payloads under one index reveal each other.
 */
#include "srtp.h"

#include <openssl/crypto.h>
#include <string.h>

#include "srtp_crypto.h"

#define RTCP_WORD_LEN 4
#define ROLLOVER 0x10000

_Static_assert(SRTP_SSRC_MAX == RTP_SOURCES, "the size of the tables");

struct srtp_half {
	struct srtp_session session;
	struct rtp_sources sources;
	uint64_t resumed;		/* bit per slot: the SSRC was restored late and has not been heard since */
};

/* What passed last on the way in. */
struct last {
	uint64_t index;
	uint32_t ssrc;
	bool rtcp;
	bool newest;
};

struct srtp {
	struct srtp_half rtp;
	struct srtp_half rtcp;
	uint64_t rtcp_next;		/* the index of the next SRTCP packet to send, whoever's it is */
	struct last last;
	bool milestone;			/* an index has come far: see srtp_take_milestone() */
	uint32_t flags;			/* SRTP_F_* */
	uint32_t mki_len;
	uint8_t mki[SRTP_MKI_MAX];
};

/* Where a packet keeps what SRTP adds to it. */
struct trailer {
	uint32_t len;
	uint32_t word;			/* of SRTCP: E and index */
	uint32_t mki;
	uint32_t tag;
};

/* RFC 3711 3.1 and 3.4: index, MKI, tag. With AES-GCM the tag ends the ciphertext: RFC 7714 8.3 and 9.4. */
static struct trailer trailer_of(const struct srtp *srtp, const struct srtp_session *session)
{
	uint32_t word_len = session->rtcp ? RTCP_WORD_LEN : 0;
	struct trailer t = { .len = word_len + srtp->mki_len + session->tag_len };

	if (session->mode == SRTP_CIPHER_GCM)
		t.word = session->tag_len;
	t.mki = t.word + word_len;
	if (session->mode != SRTP_CIPHER_GCM)
		t.tag = t.mki + srtp->mki_len;
	return t;
}

/**
 * srtp_open() - a context for the packets of one direction
 * @keys: suite, parameters and master keys
 *
 * Return: the context, for srtp_close(); NULL if there is no such suite, it does
 * not allow these flags, or memory ran out.
 */
struct srtp *srtp_open(const struct srtp_keys *keys)
{
	const struct srtp_transform *transform = srtp_transform(keys->suite);
	struct srtp *srtp;

	if (!transform || (transform->cipher == SRTP_CIPHER_GCM && keys->flags & SRTP_F_UNAUTHENTICATED_SRTP))
		return NULL;
	srtp = OPENSSL_zalloc(sizeof(*srtp));
	if (!srtp)
		return NULL;
	srtp->flags = keys->flags;
	srtp->mki_len = keys->mki_len;
	memcpy(srtp->mki, keys->mki, keys->mki_len);
	if (srtp_session_open(&srtp->rtp.session, keys, false) && srtp_session_open(&srtp->rtcp.session, keys, true))
		return srtp;
	srtp_close(srtp);
	return NULL;
}

/**
 * srtp_close() - free a context and wipe its keys
 * @srtp: the context, or NULL
 */
void srtp_close(struct srtp *srtp)
{
	if (!srtp)
		return;
	srtp_session_close(&srtp->rtp.session);
	srtp_session_close(&srtp->rtcp.session);
	OPENSSL_clear_free(srtp, sizeof(*srtp));
}

static bool read_rtp(const struct srtp *srtp, struct srtp_packet *packet)
{
	packet->clear = rtp_header_len(packet->data, packet->len);
	if (!packet->clear)
		return false;
	packet->ssrc = rtp_be32(packet->data + 8);
	packet->encrypted = !(srtp->flags & SRTP_F_UNENCRYPTED_SRTP);
	return true;
}

static bool read_rtcp(const struct srtp *srtp, struct srtp_packet *packet)
{
	if (packet->len < RTCP_HEADER_MIN || rtp_demux(packet->data[0]) != RTP_DEMUX_RTP)
		return false;
	packet->clear = RTCP_HEADER_MIN;
	packet->ssrc = rtp_be32(packet->data + 4);
	packet->encrypted = !(srtp->flags & SRTP_F_UNENCRYPTED_SRTCP);
	return true;
}

static struct rtp_window *window_of(struct rtp_sources *sources, uint32_t ssrc)
{
	int slot = rtp_source_find(sources, ssrc);

	return slot < 0 ? NULL : &sources->window[slot];
}

static bool passes_milestone(uint64_t from, uint64_t to)
{
	return from && to > from && (to - 1) >> SRTP_MILESTONE_BITS != (from - 1) >> SRTP_MILESTONE_BITS;
}

/*
 * Enters an index. Of an SSRC that was restored late nobody knows what else has passed below it: nothing
 * that is older than its first packet may pass any more.
 */
static bool pass(struct srtp *srtp, struct srtp_half *half, uint32_t ssrc, uint64_t index)
{
	struct rtp_window *window = window_of(&half->sources, ssrc);
	bool newest;
	int slot;

	if (window && passes_milestone(window->next, index + 1))
		srtp->milestone = true;
	newest = rtp_source_pass(&half->sources, ssrc, index);
	if (!half->resumed)
		return newest;
	slot = rtp_source_find(&half->sources, ssrc);
	if (half->resumed >> slot & 1) {
		half->resumed &= ~(1ULL << slot);
		memset(half->sources.window[slot].seen, 0xff, sizeof(half->sources.window[slot].seen));
	}
	return newest;
}

static void accepted(struct srtp *srtp, struct srtp_half *half, const struct srtp_packet *packet)
{
	srtp->last.newest = pass(srtp, half, packet->ssrc, packet->index);
	srtp->last.rtcp = half->session.rtcp;
	srtp->last.ssrc = packet->ssrc;
	srtp->last.index = packet->index;
}

/* Encrypts, appends what belongs behind the packet, and only then remembers its index. */
static int seal(struct srtp *srtp, struct srtp_half *half, struct srtp_packet *packet)
{
	struct trailer t = trailer_of(srtp, &half->session);
	uint8_t *end = packet->data + packet->len;

	packet->tag = end + t.tag;
	if (!srtp_session_seal(&half->session, packet))
		return SRTP_ERROR_MALFORMED;
	if (half->session.rtcp) {
		end[t.word] = (uint8_t)(packet->index >> 24 | (packet->encrypted ? 0x80 : 0));
		end[t.word + 1] = (uint8_t)(packet->index >> 16);
		end[t.word + 2] = (uint8_t)(packet->index >> 8);
		end[t.word + 3] = (uint8_t)packet->index;
	}
	memcpy(end + t.mki, srtp->mki, srtp->mki_len);
	pass(srtp, half, packet->ssrc, packet->index);
	return (int)(packet->len + t.len);
}

/**
 * srtp_protect() - make an RTP packet an SRTP packet
 * @srtp: context
 * @packet: the packet, changed in place
 * @len: its length in bytes
 * @room: how long it may become; SRTP_OVERHEAD_MAX more than @len is enough
 *
 * A packet may come late, and keeps its own index then. A sequence number that was used before,
 * or is too old to tell, is refused: another payload under its index would reveal both, and
 * the same payload once more is what a receiver drops as replayed. So is an SSRC that comes
 * back after SRTP_SSRC_MAX others, as its index is lost.
 * Return: the new length, or enum srtp_error.
 */
int srtp_protect(struct srtp *srtp, uint8_t *packet, uint32_t len, uint32_t room)
{
	struct srtp_half *half = &srtp->rtp;
	struct srtp_packet p = { .data = packet, .len = len };
	const struct rtp_window *window;

	if (!read_rtp(srtp, &p) || room < len || room - len < trailer_of(srtp, &half->session).len)
		return SRTP_ERROR_MALFORMED;
	window = window_of(&half->sources, p.ssrc);
	if (!window && rtp_source_retired(&half->sources, p.ssrc))
		return SRTP_ERROR_EXHAUSTED;
	p.index = rtp_index(window ? window->next : 0, rtp_be16(packet + 2));
	if (p.index >= RTP_INDEX_END)
		return SRTP_ERROR_EXHAUSTED;
	if (window && !rtp_window_fresh(window, p.index))
		return SRTP_ERROR_REPLAY;
	return seal(srtp, half, &p);
}

/**
 * srtcp_protect() - make an RTCP packet an SRTCP packet
 * @srtp: context
 * @packet: a compound, or one packet of any type (RFC 5506), changed in place
 * @len: its length in bytes
 * @room: how long it may become; SRTP_OVERHEAD_MAX more than @len is enough
 *
 * One counter serves all SSRCs, so that none can begin again.
 * Return: the new length, or enum srtp_error.
 */
int srtcp_protect(struct srtp *srtp, uint8_t *packet, uint32_t len, uint32_t room)
{
	struct srtp_half *half = &srtp->rtcp;
	struct srtp_packet p = { .data = packet, .len = len, .index = srtp->rtcp_next };

	if (!read_rtcp(srtp, &p) || room < len || room - len < trailer_of(srtp, &half->session).len)
		return SRTP_ERROR_MALFORMED;
	if (p.index >= RTCP_INDEX_END)
		return SRTP_ERROR_EXHAUSTED;
	srtp->rtcp_next++;
	if (!(srtp->rtcp_next & ((1 << SRTP_MILESTONE_BITS) - 1)))
		srtp->milestone = true;
	return seal(srtp, half, &p);
}

/* Cuts index, MKI and tag off a packet, and compares the MKI. */
static int split(const struct srtp *srtp, const struct srtp_session *session, struct srtp_packet *packet)
{
	struct trailer t = trailer_of(srtp, session);
	const uint8_t *end;
	uint32_t word;

	if (packet->len < t.len)
		return SRTP_ERROR_MALFORMED;
	packet->len -= t.len;
	end = packet->data + packet->len;
	packet->tag = packet->data + packet->len + t.tag;
	if (!(session->rtcp ? read_rtcp(srtp, packet) : read_rtp(srtp, packet)))
		return SRTP_ERROR_MALFORMED;
	if (memcmp(end + t.mki, srtp->mki, srtp->mki_len) != 0)
		return SRTP_ERROR_AUTH;
	if (session->rtcp) {
		word = rtp_be32(end + t.word);
		packet->index = word & ~SRTCP_ENCRYPTED;
		packet->encrypted = word & SRTCP_ENCRYPTED;
	}
	return 0;
}

/*
 * The indices that a packet may have: none, one or two; *refusal says what it means if none fits.
 * The next rollover too: its sender may have gone through more packets than reached us, or have
 * begun before us. Never an earlier one, and never back to rollover 0 for an SSRC that has left
 * it: whoever has kept old packets could play them again.
 */
static uint32_t candidates(const struct srtp *srtp, const struct rtp_window *window, uint16_t seq,
			   uint64_t *out, int *refusal)
{
	uint64_t index = rtp_index(window ? window->next : 0, seq);
	uint32_t count = 0;

	*refusal = SRTP_ERROR_EXHAUSTED;
	if (index >= RTP_INDEX_END)
		return 0;
	out[0] = index;
	if (srtp->flags & SRTP_F_UNAUTHENTICATED_SRTP)
		return 1;
	*refusal = SRTP_ERROR_REPLAY;
	if (!window || rtp_window_fresh(window, index)) {
		*refusal = SRTP_ERROR_AUTH;
		count++;
	}
	if (index + ROLLOVER < RTP_INDEX_END)
		out[count++] = index + ROLLOVER;
	return count;
}

static int accept_rtp(struct srtp *srtp, uint8_t *packet, uint32_t len, bool keep)
{
	struct srtp_half *half = &srtp->rtp;
	struct srtp_packet p = { .data = packet, .len = len };
	uint64_t index[2];
	uint32_t count;
	int refusal = split(srtp, &half->session, &p);

	if (refusal)
		return refusal;
	count = candidates(srtp, window_of(&half->sources, p.ssrc), rtp_be16(packet + 2), index, &refusal);
	if (!count || !srtp_session_accept(&half->session, &p, index, count, keep))
		return refusal;
	accepted(srtp, half, &p);
	return (int)(keep ? len : p.len);
}

static int accept_rtcp(struct srtp *srtp, uint8_t *packet, uint32_t len, bool keep)
{
	struct srtp_half *half = &srtp->rtcp;
	struct srtp_packet p = { .data = packet, .len = len };
	const struct rtp_window *window;
	uint64_t index;
	int refusal = split(srtp, &half->session, &p);

	if (refusal)
		return refusal;
	if (!p.encrypted && half->session.mode != SRTP_CIPHER_NULL && !(srtp->flags & SRTP_F_UNENCRYPTED_SRTCP))
		return SRTP_ERROR_AUTH;
	window = window_of(&half->sources, p.ssrc);
	index = p.index;
	if (window && !rtp_window_fresh(window, index))
		return SRTP_ERROR_REPLAY;
	if (!srtp_session_accept(&half->session, &p, &index, 1, keep))
		return SRTP_ERROR_AUTH;
	accepted(srtp, half, &p);
	return (int)(keep ? len : p.len);
}

/**
 * srtp_unprotect() - authenticate and decrypt an SRTP packet
 * @srtp: context
 * @packet: the packet, changed in place unless it is refused
 * @len: its length in bytes
 *
 * Return: the length of the RTP packet, or enum srtp_error.
 */
int srtp_unprotect(struct srtp *srtp, uint8_t *packet, uint32_t len)
{
	return accept_rtp(srtp, packet, len, false);
}

/**
 * srtp_verify() - authenticate an SRTP packet that is passed on as it is
 * @srtp: context
 * @packet: the packet, the same afterwards
 * @len: its length in bytes
 *
 * Counts as seen, like one that was decrypted.
 * Return: @len, or enum srtp_error.
 */
int srtp_verify(struct srtp *srtp, uint8_t *packet, uint32_t len)
{
	return accept_rtp(srtp, packet, len, true);
}

/**
 * srtcp_unprotect() - authenticate and decrypt an SRTCP packet
 * @srtp: context
 * @packet: the packet, changed in place unless it is refused
 * @len: its length in bytes
 *
 * Return: the length of the RTCP packet, or enum srtp_error.
 */
int srtcp_unprotect(struct srtp *srtp, uint8_t *packet, uint32_t len)
{
	return accept_rtcp(srtp, packet, len, false);
}

/**
 * srtcp_verify() - authenticate an SRTCP packet that is passed on as it is
 * @srtp: context
 * @packet: the packet, the same afterwards
 * @len: its length in bytes
 *
 * Counts as seen, like one that was decrypted.
 * Return: @len, or enum srtp_error.
 */
int srtcp_verify(struct srtp *srtp, uint8_t *packet, uint32_t len)
{
	return accept_rtcp(srtp, packet, len, true);
}

/**
 * srtcp_open_again() - decrypt an SRTCP packet that has been accepted before
 * @srtp: context
 * @packet: the packet, changed in place
 * @len: its length in bytes
 *
 * For who wants to know what is in a packet that is passed on as it is: that it
 * has been seen does not matter, and is not counted again.
 * Return: the length of the RTCP packet, or enum srtp_error.
 */
int srtcp_open_again(struct srtp *srtp, uint8_t *packet, uint32_t len)
{
	struct srtp_half *half = &srtp->rtcp;
	struct srtp_packet p = { .data = packet, .len = len };
	uint64_t index;
	int refusal = split(srtp, &half->session, &p);

	if (refusal)
		return refusal;
	index = p.index;
	return srtp_session_accept(&half->session, &p, &index, 1, false) ? (int)p.len : SRTP_ERROR_AUTH;
}

/**
 * srtp_is_newest() - was the packet that passed last ahead of all others of its SSRC?
 * @srtp: context, after a packet was unprotected or verified
 *
 * Whoever has held packets back can send them later, but not ahead of those that were heard.
 */
int srtp_is_newest(const struct srtp *srtp)
{
	return srtp->last.newest;
}

/**
 * srtp_knows() - has RTP of an SSRC passed?
 * @srtp: context
 * @ssrc: the SSRC
 */
int srtp_knows(const struct srtp *srtp, uint32_t ssrc)
{
	return rtp_source_find(&srtp->rtp.sources, ssrc) >= 0;
}

/**
 * srtp_may_follow() - may a packet be passed on as it is, or has another one had its index?
 * @srtp: context of the sender, with the same keys
 * @receiver: context that has just verified the packet
 *
 * Two payloads under one index would reveal both.
 */
int srtp_may_follow(const struct srtp *srtp, const struct srtp *receiver)
{
	const struct last *last = &receiver->last;
	const struct srtp_half *half = last->rtcp ? &srtp->rtcp : &srtp->rtp;
	int slot = rtp_source_find(&half->sources, last->ssrc);

	return slot < 0 || rtp_window_fresh(&half->sources.window[slot], last->index);
}

/**
 * srtp_follow() - count as sent what is passed on as it is
 * @srtp: context of the sender, with the same keys
 * @receiver: context that has just verified the packet
 *
 * So that packets which the sender protects itself go on from there.
 */
void srtp_follow(struct srtp *srtp, const struct srtp *receiver)
{
	const struct last *last = &receiver->last;

	pass(srtp, last->rtcp ? &srtp->rtcp : &srtp->rtp, last->ssrc, last->index);
	if (last->rtcp && last->index >= srtp->rtcp_next)
		srtp->rtcp_next = last->index + 1;
}

/**
 * srtp_indices() - how far each SSRC has come
 * @srtp: context
 * @out: filled, one entry for each SSRC
 * @max: how many entries fit; SRTP_INDEX_MAX are always enough
 *
 * Return: how many were filled.
 */
int srtp_indices(const struct srtp *srtp, struct srtp_index *out, uint32_t max)
{
	const struct rtp_sources *rtp = &srtp->rtp.sources, *rtcp = &srtp->rtcp.sources;
	uint32_t count = 0, slot;
	int other;

	for (slot = 0; slot < rtp->count && count < max; slot++) {
		out[count] = (struct srtp_index){ .ssrc = rtp->ssrc[slot], .rtp = rtp->window[slot] };
		other = rtp_source_find(rtcp, rtp->ssrc[slot]);
		if (other >= 0)
			out[count].rtcp = rtcp->window[other];
		count++;
	}
	for (slot = 0; slot < rtcp->count && count < max; slot++)
		if (rtp_source_find(rtp, rtcp->ssrc[slot]) < 0)
			out[count++] = (struct srtp_index){ .ssrc = rtcp->ssrc[slot], .rtcp = rtcp->window[slot] };
	return (int)count;
}

static void merge(struct srtp *srtp, struct rtp_sources *sources, uint32_t ssrc, struct rtp_window window,
		  uint64_t end)
{
	int slot = rtp_source_find(sources, ssrc);

	if (!window.next || window.next > end)
		return;
	if (slot < 0)
		slot = (int)rtp_source_enter(sources, ssrc);
	if (passes_milestone(sources->window[slot].next, window.next))
		srtp->milestone = true;
	rtp_window_merge(&sources->window[slot], &window);
}

/**
 * srtp_advance() - take over how far each SSRC has come elsewhere
 * @srtp: context
 * @in: of srtp_indices(); who kept only next sets all bits of seen
 * @count: how many entries
 *
 * Indices only move forward, and what was seen stays so. An index that cannot be is passed over.
 */
void srtp_advance(struct srtp *srtp, const struct srtp_index *in, uint32_t count)
{
	uint32_t i;

	for (i = 0; i < count; i++) {
		merge(srtp, &srtp->rtp.sources, in[i].ssrc, in[i].rtp, RTP_INDEX_END);
		merge(srtp, &srtp->rtcp.sources, in[i].ssrc, in[i].rtcp, RTCP_INDEX_END);
		if (in[i].rtcp.next > srtp->rtcp_next && in[i].rtcp.next <= RTCP_INDEX_END)
			srtp->rtcp_next = in[i].rtcp.next;
	}
}

/**
 * srtp_take_milestone() - has an index come so far that it should be saved again?
 * @srtp: context
 *
 * True once for every 2^SRTP_MILESTONE_BITS, for whichever SSRC: what was saved stays within reach of
 * the estimate then (RFC 3711 3.3.1).
 */
int srtp_take_milestone(struct srtp *srtp)
{
	bool milestone = srtp->milestone;

	srtp->milestone = false;
	return milestone;
}

/**
 * srtp_save() - all that another context with the same keys has to know to go on from here
 * @srtp: context
 * @out: filled
 */
void srtp_save(const struct srtp *srtp, struct srtp_saved *out)
{
	_Static_assert(sizeof(out->retired[0]) == sizeof(srtp->rtp.sources.retired), "the size of the filter");

	memset(out, 0, sizeof(*out));
	out->rtcp_next = srtp->rtcp_next;
	out->count = srtp_indices(srtp, out->index, SRTP_INDEX_MAX);
	memcpy(out->retired[0], srtp->rtp.sources.retired, sizeof(out->retired[0]));
	memcpy(out->retired[1], srtp->rtcp.sources.retired, sizeof(out->retired[1]));
}

static void resume_late(struct srtp_half *half)
{
	uint32_t slot;

	for (slot = 0; slot < half->sources.count; slot++) {
		memset(half->sources.window[slot].seen, 0xff, sizeof(half->sources.window[slot].seen));
		half->resumed |= 1ULL << slot;
	}
}

/**
 * srtp_restore() - go on from where another context was
 * @srtp: context with the same keys
 * @in: of srtp_save(); an index that cannot be is passed over
 * @late: more may have passed after that was saved, by up to 2^SRTP_MILESTONE_BITS and a pause
 *
 * Nothing goes back. Late, no packet passes whose index could have been used meanwhile: SRTCP leaps ahead, and
 * of RTP, whose numbers are the sender's, nothing that is older than the first packet to come.
 */
void srtp_restore(struct srtp *srtp, const struct srtp_saved *in, uint32_t late)
{
	uint64_t next = in->rtcp_next < RTCP_INDEX_END ? in->rtcp_next : RTCP_INDEX_END;
	uint32_t i;

	srtp_advance(srtp, in->index, in->count < SRTP_INDEX_MAX ? in->count : SRTP_INDEX_MAX);
	for (i = 0; i < RTP_RETIRED_BITS / 64; i++) {
		srtp->rtp.sources.retired[i] |= in->retired[0][i];
		srtp->rtcp.sources.retired[i] |= in->retired[1][i];
	}
	if (next > srtp->rtcp_next)
		srtp->rtcp_next = next;
	srtp->milestone = false;
	if (!late)
		return;
	srtp->rtcp_next += SRTCP_LEAP;
	if (srtp->rtcp_next > RTCP_INDEX_END)
		srtp->rtcp_next = RTCP_INDEX_END;
	resume_late(&srtp->rtp);
	resume_late(&srtp->rtcp);
}
