// SPDX-License-Identifier: MIT
/* What is not media on a media port: STUN and DTLS go to Python, within bounds. */
#define _GNU_SOURCE
#include "internal.h"

#include <string.h>

#include "rtp.h"

#define STUN_HEADER 20
#define STUN_COOKIE 0x2112a442
#define STUN_BINDING_REQUEST 0x0001
#define STUN_USERNAME 0x0006
#define STUN_ATTRIBUTES_MAX 32		/* looked at; a check has about ten */
#define DTLS_HEADER 13

/* What may reach Python: of one stream's known and near sources, and of strangers there and in all. */
#define KNOWN_BURST 64
#define KNOWN_PER_S 100
#define STRANGERS_BURST 16
#define STRANGERS_PER_S 20
#define ALL_STRANGERS_BURST 100
#define ALL_STRANGERS_PER_S 500

static bool is_stun(const struct packet *p)
{
	return p->len >= STUN_HEADER && rtp_be32(p->data + 4) == STUN_COOKIE;
}

/* Whether a user name is LOCAL:REMOTE with our fragment as LOCAL (RFC 8445 7.2.2). */
static bool is_ours(const struct stream *s, const uint8_t *name, uint32_t len)
{
	uint32_t own = strnlen((const char *)s->ufrag, sizeof(s->ufrag));

	return own && len > own && name[own] == ':' && !memcmp(name, s->ufrag, own);
}

/* Whether this is a request whose sender has seen our SDP. */
static bool names_us(const struct stream *s, const struct packet *p)
{
	uint32_t at = STUN_HEADER, len;
	unsigned int n;

	if (rtp_be16(p->data) != STUN_BINDING_REQUEST)
		return false;
	for (n = 0; n < STUN_ATTRIBUTES_MAX && p->len - at >= 4; n++) {
		len = rtp_be16(p->data + at + 2);
		if (len > p->len - at - 4)
			return false;
		if (rtp_be16(p->data + at) == STUN_USERNAME)
			return is_ours(s, p->data + at + 4, len);
		len = (len + 3) & ~3U;
		if (len > p->len - at - 4)
			return false;
		at += 4 + len;
	}
	return false;
}

/* Each kind of source pays from a bucket of its own, so that none crowds out a better one. */
static bool affords(struct worker *w, struct stream *s, enum pp_event_type type, int standing, uint64_t now_ns)
{
	struct buckets *b = &s->buckets;

	if (standing == LEARN_STANDING_KNOWN)
		return bucket_take(type == PP_EVENT_STUN ? &b->stun : &b->dtls, now_ns, KNOWN_BURST, KNOWN_PER_S);
	if (standing == LEARN_STANDING_NEAR)
		return bucket_take(&b->near, now_ns, KNOWN_BURST, KNOWN_PER_S);
	return bucket_take(&b->strangers, now_ns, STRANGERS_BURST, STRANGERS_PER_S) &&
	       bucket_take(&w->strangers, now_ns, ALL_STRANGERS_BURST, ALL_STRANGERS_PER_S);
}

static void hand_up(struct worker *w, struct stream *s, const struct packet *p, enum pp_event_type type, int standing)
{
	struct pp_event event;

	if (p->len > PP_EVENT_DATA_MAX) {
		drop(w, s, PP_DROP_MALFORMED);
		return;
	}
	if (!affords(w, s, type, standing, p->seen.now_ns)) {
		drop(w, s, PP_DROP_FLOOD);
		return;
	}
	event.id = s->id;
	event.type = type;
	event.len = p->len;
	event.source = p->seen.source;
	memcpy(event.data, p->data, p->len);
	worker_event(w, &event);
}

static void hand_up_stun(struct worker *w, struct stream *s, const struct packet *p)
{
	int standing = learn_dtls_standing(&s->learn, &p->seen.source);

	hand_up(w, s, p, PP_EVENT_STUN, names_us(s, p) ? LEARN_STANDING_KNOWN : standing);
}

static void hand_up_dtls(struct worker *w, struct stream *s, const struct packet *p)
{
	int standing = learn_dtls_standing(&s->learn, &p->seen.source);

	if (p->len < DTLS_HEADER)
		drop(w, s, PP_DROP_MALFORMED);
	else if (standing == LEARN_STANDING_REFUSED)
		drop(w, s, PP_DROP_SOURCE);
	else
		hand_up(w, s, p, PP_EVENT_DTLS, standing);
}

/**
 * demux() - take what is not media off a datagram's way
 * @worker: the stream's worker
 * @stream: the stream that received it
 * @packet: the datagram, with its source
 *
 * STUN and DTLS become events where the stream has the flags for it. Where the
 * party speaks SRTP, nothing else but that goes on (RFC 7983).
 * Return: whether the datagram goes on.
 * Context: worker thread, lock held.
 */
bool demux(struct worker *worker, struct stream *stream, const struct packet *packet)
{
	uint32_t flags = stream->learn.flags;
	int kind = rtp_demux(packet->data[0]);

	if (kind == RTP_DEMUX_RTP)
		return true;
	if (kind == RTP_DEMUX_STUN && flags & PP_F_STUN && is_stun(packet)) {
		hand_up_stun(worker, stream, packet);
		return false;
	}
	if (kind == RTP_DEMUX_DTLS && flags & PP_F_DTLS) {
		hand_up_dtls(worker, stream, packet);
		return false;
	}
	if (!(flags & PP_F_SECURE))
		return true;
	drop(worker, stream, PP_DROP_AUTH);
	return false;
}
