// SPDX-License-Identifier: MIT
/* Fuzz target: any sequence of packets and new signalling through source learning. */
#include "learn.h"
#include "input.h"
#include "rtp.h"

#define STEPS_MAX 200

/* Few places, so that they meet: the party's, its neighbours, strangers, our own, and such as are nobody's. */
static const struct pp_address places[] = {
	{ .family = 4, .port = 4000, .address = { 192, 0, 2, 1 } },
	{ .family = 4, .port = 4002, .address = { 192, 0, 2, 1 } },
	{ .family = 4, .port = 5000, .address = { 198, 51, 100, 7 } },
	{ .family = 4, .port = 6000, .address = { 203, 0, 113, 5 } },
	{ .family = 4, .port = 6002, .address = { 203, 0, 113, 5 } },
	{ .family = 4, .port = 7000, .address = { 192, 0, 2, 200 } },
	{ .family = 6, .port = 4000, .address = { 0x20, 0x01, 0x0d, 0xb8, [15] = 1 } },
	{ .family = 6, .port = 4000, .address = { 0xff, 0x02, [15] = 1 } },
	{ .family = 4, .port = 6000, .address = { 0 } },
	{ .family = 4, .port = 6000, .address = { 239, 255, 255, 255 } },
	{ .family = 4, .port = 6000, .address = { 255, 255, 255, 255 } },
	{ .family = 4, .port = 0, .address = { 203, 0, 113, 5 } },
	{ .family = 0 },
};

#define PLACES (sizeof(places) / sizeof(places[0]))
#define PROVABLE 5
#define OWN 5
#define FIRST_NOBODY 7

static int same(const struct pp_address *a, const struct pp_address *b)
{
	return !memcmp(a, b, sizeof(*a));
}

static void signal_anew(struct learn *l, struct input *in, uint64_t now_ns)
{
	struct pp_config config = { 0 };
	struct learn before;

	config.peer = places[take_u8(in) % PLACES];
	config.alias = places[take_u8(in) % PLACES];
	config.learning = take_u8(in) % (PP_LEARN_OFF + 1);
	config.flags = take_u16(in);
	learn_configure(l, &config, now_ns);
	/* declared twice changes nothing */
	before = *l;
	REQUIRE(learn_configure(l, &config, now_ns + 1) == 0);
	REQUIRE(!memcmp(l, &before, sizeof(before)));
}

static int is_validated(const struct learn *l, const struct pp_address *source)
{
	int i;

	for (i = 0; i < LEARN_VALIDATED; i++)
		if (same(&l->validated[i], source))
			return 1;
	return 0;
}

static void validate(struct learn *l, struct input *in, uint64_t now_ns)
{
	struct pp_address source = places[take_u8(in) % PROVABLE];
	uint32_t nominated = take_u8(in) & 1;
	int verdict = learn_validate(l, &source, nominated, now_ns);

	REQUIRE(is_validated(l, &source));
	REQUIRE(!(verdict & ~LEARN_SETTLED));
}

static void check_ice(const struct learn *l, const struct learn_packet *p, int verdict)
{
	REQUIRE(!l->send_to.family || same(&l->send_to, &l->accept_from));
	if (verdict)
		REQUIRE(is_validated(l, &p->source) || same(&p->source, &l->accept_from));
}

static void check_packet(const struct learn *l, const struct learn *before, const struct learn_packet *p, int verdict)
{
	size_t i;

	REQUIRE(verdict == LEARN_ELSEWHERE || !(verdict & ~(LEARN_RELAY | LEARN_SETTLED)));
	if (l->offloaded)
		REQUIRE(same(&l->accept_from, &before->accept_from) || !before->confirmed);
	else
		REQUIRE(verdict != LEARN_ELSEWHERE);
	REQUIRE(!(verdict & LEARN_SETTLED) || l->confirmed);
	for (i = FIRST_NOBODY; i < PLACES; i++)
		if (same(&p->source, &places[i]))
			REQUIRE(!verdict && !memcmp(l, before, sizeof(*l)));
	if (p->proof == LEARN_PROOF_NONE) {
		REQUIRE(same(&l->accept_from, &before->accept_from));
		REQUIRE(same(&l->send_to, &before->send_to));
	}
	if (!same(&l->send_to, &before->send_to))
		REQUIRE(verdict & LEARN_RELAY && same(&l->send_to, &p->source));
	if (l->flags & PP_F_ICE)
		check_ice(l, p, verdict);
	else if (before->confirmed && l->confirmed && l->peer.family && l->flags & PP_F_STRICT && verdict & LEARN_RELAY)
		REQUIRE(same(&p->source, &l->accept_from) || l->mode == PP_LEARN_OFF);
	if (!same(&l->accept_from, &before->accept_from) && !same(&l->peer, &places[OWN]) &&
	    !same(&l->alias, &places[OWN]) && l->mode == PP_LEARN_HEURISTIC && l->peer.family)
		REQUIRE(!same(&l->accept_from, &places[OWN]));
}

static void receive(struct learn *l, struct input *in, uint64_t now_ns)
{
	struct learn_packet packet = { .now_ns = now_ns };
	struct learn before = *l;
	uint8_t what;

	packet.source = places[take_u8(in) % (PLACES - 1)];
	what = take_u8(in);
	packet.proof = what % 4;
	packet.authentic = packet.proof ? (what >> 4) % 3 : LEARN_AUTHENTIC_NO;
	packet.ssrc = what >> 2 & 3;
	packet.indexed = packet.proof == LEARN_PROOF_RTP && what & 64;
	packet.seq = what & 128 ? (uint16_t)(l->seq + 1) : take_u16(in);
	check_packet(l, &before, &packet, learn_packet(l, &packet));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct learn learn = { .local = places[OWN] };
	uint64_t now_ns = 1000000000000ULL;
	unsigned int step;
	uint8_t what;

	signal_anew(&learn, &in, now_ns);
	for (step = 0; in.left && step < STEPS_MAX; step++) {
		what = take_u8(&in);
		/* up to eleven seconds, most steps much less */
		now_ns += (what & 0x40 ? 700000000ULL : 4000000ULL) * (what & 15);
		learn.offloaded ^= what >> 4 & 1;
		if (what & 0x80 && what & 0x20)
			validate(&learn, &in, now_ns);
		else if (what & 0x80)
			signal_anew(&learn, &in, now_ns);
		else
			receive(&learn, &in, now_ns);
	}
	return 0;
}
