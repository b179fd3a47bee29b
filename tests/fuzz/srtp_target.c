// SPDX-License-Identifier: MIT
/*
 * Fuzz target: SRTP and SRTCP between two contexts with the same keys, over a network that loses,
 * delays, repeats, truncates, alters and invents packets.
 *
 * The first bytes choose suite, parameters and keys, the rest is a sequence of steps. Includes what it
 * tests, to see all of a context.
 */
#include "srtp.c"
#include "input.h"

#define STEPS_MAX 120
#define HISTORY 16
#define PLAIN_MAX 400

/* A packet as it was sent, and what became of it. */
struct sent {
	uint8_t wire[PLAIN_MAX + SRTP_OVERHEAD_MAX];
	uint8_t plain[PLAIN_MAX];
	int wire_len;			/* 0: none */
	int plain_len;
	bool rtcp;
	bool received;
};

struct world {
	struct input in;
	struct srtp *sender, *receiver;
	uint32_t suite, flags;
	struct sent history[HISTORY];
	unsigned int next;
};

/* All that a context may change, apart from the scratch space of its ciphers. */
struct state {
	struct rtp_sources rtp, rtcp;
	uint64_t rtcp_next;
};

static struct state state_of(const struct srtp *srtp)
{
	struct state state;

	memset(&state, 0, sizeof(state));
	state.rtp = srtp->rtp.sources;
	state.rtcp = srtp->rtcp.sources;
	state.rtcp_next = srtp->rtcp_next;
	return state;
}

static void restore(struct srtp *srtp, const struct state *state)
{
	srtp->rtp.sources = state->rtp;
	srtp->rtcp.sources = state->rtcp;
	srtp->rtcp_next = state->rtcp_next;
}

static bool is_same(const struct srtp *srtp, const struct state *before)
{
	struct state now = state_of(srtp);

	return !memcmp(&now, before, sizeof(now));
}

static bool proves_nothing(const struct world *w, bool rtcp)
{
	return !rtcp && w->flags & SRTP_F_UNAUTHENTICATED_SRTP;
}

static int protect(struct srtp *srtp, uint8_t *packet, int len, int room, bool rtcp)
{
	return rtcp ? srtcp_protect(srtp, packet, (uint32_t)len, (uint32_t)room) :
		      srtp_protect(srtp, packet, (uint32_t)len, (uint32_t)room);
}

static int accept(struct srtp *srtp, uint8_t *packet, int len, bool rtcp, bool keep)
{
	if (rtcp)
		return keep ? srtcp_verify(srtp, packet, (uint32_t)len) : srtcp_unprotect(srtp, packet, (uint32_t)len);
	return keep ? srtp_verify(srtp, packet, (uint32_t)len) : srtp_unprotect(srtp, packet, (uint32_t)len);
}

/* Receive an exact copy. Whoever is refused leaves no trace; the result is to be freed if *out is set. */
static int receive(struct world *w, const uint8_t *wire, int len, bool rtcp, bool keep, uint8_t **out)
{
	uint8_t *packet = copy_of(wire, (size_t)len);
	struct state before = state_of(w->receiver);
	int result = accept(w->receiver, packet, len, rtcp, keep);

	REQUIRE(result != 0 && result <= len);
	if (result < 0)
		REQUIRE(is_same(w->receiver, &before));
	if (result < 0 || keep)
		REQUIRE(!memcmp(packet, wire, (size_t)len));
	if (out)
		*out = packet;
	else
		free(packet);
	return result;
}

static uint32_t choose_ssrc(struct world *w)
{
	uint8_t choice = take_u8(&w->in);

	/* mostly few, sometimes more than the table holds */
	return 0xcafe0000u + (choice < 128 ? choice % 3 : choice);
}

static int make_rtp(struct world *w, uint8_t *packet)
{
	uint8_t shape = take_u8(&w->in);
	uint32_t ssrc = choose_ssrc(w), len = RTP_HEADER_MIN + 4u * (shape & 15), i;
	int slot = rtp_source_find(&w->sender->rtp.sources, ssrc);
	uint16_t seq = take_u16(&w->in);

	/* ahead of the last one by little, or anywhere */
	if (slot >= 0 && !(shape & 64))
		seq = (uint16_t)(w->sender->rtp.sources.window[slot].next + (seq & 15) - (seq >> 4 & 3));
	take_bytes(&w->in, packet, len);
	packet[0] = (uint8_t)(0x80 | (shape & 0x1f));
	packet[1] &= 0x3f;	/* no RTCP */
	packet[2] = (uint8_t)(seq >> 8);
	packet[3] = (uint8_t)seq;
	for (i = 0; i < 4; i++)
		packet[8 + i] = (uint8_t)(ssrc >> (24 - 8 * i));
	if (shape & 16) {
		take_bytes(&w->in, packet + len, 2);
		packet[len + 2] = 0;
		packet[len + 3] = take_u8(&w->in) & 7;
		len += 4 + 4u * packet[len + 3];
	}
	i = take_u8(&w->in);
	take_bytes(&w->in, packet + len, i);
	return (int)(len + i);
}

static int make_rtcp(struct world *w, uint8_t *packet)
{
	uint32_t ssrc = choose_ssrc(w), len = RTCP_HEADER_MIN + take_u8(&w->in), i;

	take_bytes(&w->in, packet, len);
	packet[0] = (uint8_t)(0x80 | (packet[0] & 0x3f));
	packet[1] = (uint8_t)(RTCP_TYPE_MIN | (packet[1] & 31));
	for (i = 0; i < 4; i++)
		packet[4 + i] = (uint8_t)(ssrc >> (24 - 8 * i));
	return (int)len;
}

/* Protect in exactly the room that it takes; a byte less must be refused, with nothing changed. */
static int protect_exactly(struct world *w, struct sent *s)
{
	struct srtp_half *half = s->rtcp ? &w->sender->rtcp : &w->sender->rtp;
	int room = s->plain_len + (int)trailer_of(w->sender, &half->session).len, result;
	struct state before = state_of(w->sender);
	uint8_t *packet = malloc((size_t)room);

	REQUIRE(packet);
	memset(packet, 0xaa, (size_t)room);
	memcpy(packet, s->plain, (size_t)s->plain_len);
	if (room > s->plain_len)
		REQUIRE(protect(w->sender, packet, s->plain_len, room - 1, s->rtcp) == SRTP_ERROR_MALFORMED);
	REQUIRE(is_same(w->sender, &before) && !memcmp(packet, s->plain, (size_t)s->plain_len));
	result = protect(w->sender, packet, s->plain_len, room, s->rtcp);
	REQUIRE(result < 0 || result == room);
	if (result < 0)
		REQUIRE(is_same(w->sender, &before) && !memcmp(packet, s->plain, (size_t)s->plain_len));
	else
		memcpy(s->wire, packet, (size_t)result);
	free(packet);
	return result;
}

static void send_one(struct world *w, bool rtcp)
{
	struct sent *s = &w->history[w->next++ % HISTORY];

	memset(s, 0, sizeof(*s));
	s->rtcp = rtcp;
	s->plain_len = rtcp ? make_rtcp(w, s->plain) : make_rtp(w, s->plain);
	s->wire_len = protect_exactly(w, s);
	if (s->wire_len < 0)
		s->wire_len = 0;
}

static struct sent *choose_sent(struct world *w)
{
	struct sent *s = &w->history[(w->next + HISTORY - 1 - take_u8(&w->in) % HISTORY) % HISTORY];

	return s->wire_len ? s : NULL;
}

/* Whether the receiver may have forgotten an SSRC, and so what it has seen of it. */
static bool is_crowded(const struct world *w, bool rtcp)
{
	return (rtcp ? w->receiver->rtcp : w->receiver->rtp).sources.count == SRTP_SSRC_MAX;
}

/* What was sent arrives as it was meant, and once. */
static void deliver(struct world *w, struct sent *s, bool keep)
{
	uint8_t *packet;
	int result = receive(w, s->wire, s->wire_len, s->rtcp, keep, &packet);

	if (result > 0 && !proves_nothing(w, s->rtcp)) {
		REQUIRE(keep || (result == s->plain_len && !memcmp(packet, s->plain, (size_t)result)));
		REQUIRE(!s->received || is_crowded(w, s->rtcp));
		s->received = true;
		REQUIRE(receive(w, s->wire, s->wire_len, s->rtcp, keep, NULL) == SRTP_ERROR_REPLAY);
	}
	free(packet);
}

/* With everything in step, the next packet must pass. */
static void send_in_step(struct world *w, bool rtcp)
{
	struct state before = state_of(w->sender);
	struct sent *s;

	restore(w->receiver, &before);
	send_one(w, rtcp);
	s = &w->history[(w->next - 1) % HISTORY];
	if (s->wire_len)
		REQUIRE(receive(w, s->wire, s->wire_len, s->rtcp, false, NULL) == s->plain_len);
}

/* Nobody but the sender can make a packet that passes. */
static void deliver_forged(struct world *w, const uint8_t *wire, int len, bool rtcp, bool keep)
{
	struct state before = state_of(w->receiver);
	int result = receive(w, wire, len, rtcp, keep, NULL);
	uint8_t *again;

	if (result < 0 || proves_nothing(w, rtcp))
		return;
	/* Four bytes can be guessed, once in a long while, and that happens in no second try. */
	REQUIRE(!rtcp && w->receiver->rtp.session.tag_len == 4);
	restore(w->receiver, &before);
	again = copy_of(wire, (size_t)len);
	again[len - 1] ^= 0x55;
	REQUIRE(receive(w, again, len, rtcp, keep, NULL) < 0);
	free(again);
}

static void deliver_altered(struct world *w, const struct sent *s)
{
	uint8_t what = take_u8(&w->in), *copy;
	int at = take_u16(&w->in) % s->wire_len, len = s->wire_len;

	copy = malloc((size_t)len + 8);
	REQUIRE(copy);
	memcpy(copy, s->wire, (size_t)len);
	memset(copy + len, what, 8);
	if (what & 0x80)
		len = what & 0x40 ? at : len + 1 + at % 8;
	else
		copy[at] ^= (uint8_t)(1 << (what & 7));
	deliver_forged(w, copy, len, s->rtcp, what & 8);
	free(copy);
}

static void deliver_invented(struct world *w, bool rtcp)
{
	uint8_t packet[PLAIN_MAX], what = take_u8(&w->in);
	int len = take_u16(&w->in) % PLAIN_MAX;

	take_bytes(&w->in, packet, (size_t)len);
	if (what & 1 && len)
		packet[0] = 0x80;
	deliver_forged(w, packet, len, rtcp, what & 2);
}

/* What comes from elsewhere moves indices forward only. */
static void advance(struct world *w)
{
	struct srtp_index in[2], had[SRTP_INDEX_MAX];
	int count = srtp_indices(w->receiver, had, SRTP_INDEX_MAX), i, slot;

	take_bytes(&w->in, in, sizeof(in));
	in[0].ssrc = choose_ssrc(w);
	srtp_advance(w->receiver, in, take_u8(&w->in) % 3);
	for (i = 0; i < count; i++) {
		slot = rtp_source_find(&w->receiver->rtp.sources, had[i].ssrc);
		if (slot >= 0)
			REQUIRE(w->receiver->rtp.sources.window[slot].next >= had[i].rtp.next);
		slot = rtp_source_find(&w->receiver->rtcp.sources, had[i].ssrc);
		if (slot >= 0)
			REQUIRE(w->receiver->rtcp.sources.window[slot].next >= had[i].rtcp.next);
	}
}

static void step(struct world *w)
{
	uint8_t what = take_u8(&w->in);
	bool rtcp = what & 0x80, other = what & 0x40;
	struct sent *s;

	switch (what & 7) {
	case 0:
	case 1:
		send_one(w, rtcp);
		break;
	case 2:
		send_in_step(w, rtcp);
		break;
	case 3:
		deliver_invented(w, rtcp);
		break;
	case 4:
		if (what & 0x30)
			break;
		advance(w);
		break;
	case 5:
		s = choose_sent(w);
		if (s)
			deliver_altered(w, s);
		break;
	default:
		s = choose_sent(w);
		if (s)
			deliver(w, s, other);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t mki_lens[] = { 0, 0, 0, 1, 4, 255 };
	struct world w = { .in = { data, size } };
	struct srtp_keys keys = { 0 };
	unsigned int i;

	keys.suite = take_u8(&w.in) % (SRTP_SUITES + 1);
	keys.flags = take_u8(&w.in);
	/* without authentication everything passes, which says little */
	if (keys.flags & 0xf8)
		keys.flags &= ~(uint32_t)SRTP_F_UNAUTHENTICATED_SRTP;
	keys.mki_len = mki_lens[take_u8(&w.in) % sizeof(mki_lens)];
	for (i = 0; i < sizeof(keys.key); i++)
		keys.key[i] = (uint8_t)(7 * i + 1);
	memset(keys.salt, 0x5a, sizeof(keys.salt));
	memset(keys.mki, 0xab, sizeof(keys.mki));
	w.suite = keys.suite;
	w.flags = keys.flags;
	w.sender = srtp_open(&keys);
	w.receiver = srtp_open(&keys);
	REQUIRE(!w.sender == !w.receiver);
	for (i = 0; w.sender && w.in.left && i < STEPS_MAX; i++)
		step(&w);
	srtp_close(w.sender);
	srtp_close(w.receiver);
	return 0;
}
