// SPDX-License-Identifier: MIT
/* Fuzz target: any datagrams on a media port, of which STUN and DTLS may go to Python, within bounds. */
#define _GNU_SOURCE
#include "internal.h"
#include "input.h"
#include "rtp.h"

#define STEPS_MAX 60
#define STUN_HEADER 20
#define DTLS_HEADER 13
#define FLAGS (PP_F_SECURE | PP_F_STUN | PP_F_DTLS | PP_F_ICE | PP_F_STRICT | PP_F_STRANGER)

static const struct pp_address sources[] = {
	{ .family = 4, .port = 4000, .address = { 192, 0, 2, 1 } },
	{ .family = 4, .port = 6000, .address = { 203, 0, 113, 5 } },
	{ .family = 6, .port = 6000, .address = { 0x20, 0x01, 0x0d, 0xb8, [15] = 9 } },
};

/* demux.c needs no more of a worker than this. */
static struct worker worker;
static struct pp_event event;
static unsigned int events;

void worker_event(struct worker *w, const struct pp_event *e)
{
	REQUIRE(w == &worker && e->len <= PP_EVENT_DATA_MAX);
	memcpy(&event, e, offsetof(struct pp_event, data) + e->len);
	events++;
}

static uint64_t dropped(const struct stream *s)
{
	uint64_t sum = 0;
	int i;

	for (i = 0; i < PP_DROP_REASONS; i++)
		sum += s->counters.drops[i];
	return sum;
}

/* A datagram goes on, is handed up as it is, or is dropped with a reason. */
static void check_fate(const struct stream *s, const struct packet *p, bool goes_on, uint64_t drops)
{
	uint32_t flags = s->learn.flags;
	int kind = rtp_demux(p->data[0]);

	REQUIRE(goes_on + events + drops == 1);
	if (goes_on && flags & PP_F_SECURE)
		REQUIRE(kind == RTP_DEMUX_RTP);
	if (kind == RTP_DEMUX_RTP)
		REQUIRE(goes_on);
	if (!events)
		return;
	REQUIRE(event.id == s->id && event.len == p->len && !memcmp(event.data, p->data, p->len));
	REQUIRE(!memcmp(&event.source, &p->seen.source, sizeof(event.source)));
	if (event.type == PP_EVENT_STUN)
		REQUIRE(flags & PP_F_STUN && kind == RTP_DEMUX_STUN && p->len >= STUN_HEADER);
	else
		REQUIRE(event.type == PP_EVENT_DTLS && flags & PP_F_DTLS && kind == RTP_DEMUX_DTLS &&
			p->len >= DTLS_HEADER);
}

static void receive(struct stream *s, struct input *in, uint64_t now_ns, unsigned int *handed_up)
{
	uint16_t len = take_u16(in) % (PP_EVENT_DATA_MAX + 100);
	struct packet p = { .seen.now_ns = now_ns };
	uint64_t before = dropped(s);
	bool goes_on;

	p.seen.source = sources[take_u8(in) % (sizeof(sources) / sizeof(sources[0]))];
	/* fewer bytes than announced, if no more are left: an exact copy of what there is */
	p.len = len < in->left ? len : (uint32_t)in->left;
	if (!p.len)
		return;
	p.data = copy_of(in->at, p.len);
	in->at += p.len;
	in->left -= p.len;
	events = 0;
	goes_on = demux(&worker, s, &p);
	check_fate(s, &p, goes_on, dropped(s) - before);
	*handed_up += events;
	free(p.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct stream stream = { .id = 77 };
	struct pp_config config = { .peer = sources[0] };
	uint64_t now_ns = 1000 * NS_PER_S, start_ns = now_ns;
	unsigned int step, handed_up = 0;

	worker.strangers = 0;
	config.flags = take_u16(&in) & FLAGS;
	if (take_u8(&in) & 1)
		memset(config.ufrag, 'u', take_u8(&in) % (sizeof(config.ufrag) + 1));
	memcpy(stream.ufrag, config.ufrag, sizeof(stream.ufrag));
	learn_configure(&stream.learn, &config, now_ns);
	for (step = 0; in.left && step < STEPS_MAX; step++) {
		now_ns += take_u8(&in) * 1000000ULL;
		receive(&stream, &in, now_ns, &handed_up);
	}
	/* STUN and DTLS of known sources, and what strangers send: 64, 64 and 16 at once, 100, 100 and 20 a second */
	REQUIRE(handed_up <= 144 + 220 * (now_ns - start_ns) / NS_PER_S + 3);
	return 0;
}
