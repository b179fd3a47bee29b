// SPDX-License-Identifier: MIT
/* Streams whose RTP somebody else forwards, namely the kernel: what it must know before, and what it has done. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>

/**
 * pp_stream_sources() - how far the SSRCs of a stream's SRTP have come
 * @pp: the packet path
 * @id: the stream
 * @received: filled with those of the party
 * @sent: filled with those that we protect for the party
 *
 * Return: 0, or -ENOENT for a stale id.
 * Context: any thread.
 */
int pp_stream_sources(struct pp *pp, int64_t id, struct pp_sources *received, struct pp_sources *sent)
{
	struct worker *w;
	struct stream *s;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	secure_sources(s, RECEIVE, received);
	secure_sources(s, SEND, sent);
	worker_unlock(w);
	return 0;
}

static void add_traffic(struct pp_traffic *to, uint64_t packets, uint64_t bytes)
{
	to->packets += packets;
	to->bytes += bytes;
}

static void add_counts(struct worker *w, struct stream *s, const struct pp_progress *in)
{
	const struct stream *sink = stream_find(&w->table, s->rtp_sink);
	unsigned int i;

	add_traffic(traffic_of(w->stats.received, s), in->packets, in->bytes);
	if (sink) {
		add_traffic(traffic_of(w->stats.sent, sink), in->packets, in->bytes);
		traffic_of(w->stats.sent, sink)->errors += in->drops[PP_DROP_SEND];
	}
	s->counters.packets += in->packets;
	s->counters.bytes += in->bytes;
	w->stats.packets += in->packets;
	w->stats.bytes += in->bytes;
	for (i = 0; i < PP_DROP_REASONS; i++) {
		s->counters.drops[i] += in->drops[i];
		w->stats.drops[i] += in->drops[i];
	}
	s->counters.errors += in->drops[PP_DROP_SEND];
	w->stats.errors += in->drops[PP_DROP_SEND];
}

/* The run that was counted here is over: what comes next cannot be compared with it. */
static void add_quality(struct worker *w, struct stream *s, const struct pp_progress *in)
{
	const struct rtp_totals none = { 0 };
	struct rtp_quality *q = &s->quality;

	rtp_quality_pause(q);
	q->totals.expected += in->totals.expected;
	q->totals.lost += in->totals.lost;
	q->totals.duplicates += in->totals.duplicates;
	q->totals.reordered += in->totals.reordered;
	q->totals.skips += in->totals.skips;
	q->totals.resets += in->totals.resets;
	q->jitter = in->jitter;
	q->ticks = in->ticks;
	q->ssrc = in->ssrc;
	q->type = in->type;
	count_totals(w, &in->totals, &none);
}

/**
 * pp_stream_offload() - whether what the accepted source of a stream sends is forwarded elsewhere
 * @pp: the packet path
 * @id: the stream
 * @offloaded: from before the first packet is, until pp_stream_sync() has told of the last
 *
 * Meanwhile nobody takes that source's place, since what it has sent is not known here yet, and
 * what may be a copy of it is not relayed: it raises PP_EVENT_ELSEWHERE, so that the stream is
 * taken back, and the next packet is judged as always. With ICE only proven sources are heard anyway.
 * Return: 0, or -ENOENT for a stale id.
 * Context: any thread.
 */
int pp_stream_offload(struct pp *pp, int64_t id, uint32_t offloaded)
{
	struct worker *w;
	struct stream *s;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	s->learn.offloaded = offloaded != 0;
	s->elsewhere_ns = 0;
	worker_unlock(w);
	return 0;
}

/**
 * pp_stream_sync() - take over what was forwarded elsewhere for a stream
 * @pp: the packet path
 * @id: the stream that would have received it
 * @in: what is new since the last time; SSRCs that are told twice change nothing
 *
 * Counters, signs of life and SRTP indices are then as if the packets had passed here.
 * Return: 0; -ENOENT for a stale id, -EINVAL for more SSRCs than fit.
 * Context: any thread.
 */
int pp_stream_sync(struct pp *pp, int64_t id, const struct pp_progress *in)
{
	struct worker *w;
	struct stream *s, *sink;

	if (in->received.count > PP_SOURCES || in->sent.count > PP_SOURCES)
		return -EINVAL;
	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	add_counts(w, s, in);
	learn_forwarded(&s->learn, in, monotonic_ns());
	if (in->packets)
		s->counters.last_packet_ns = s->learn.heard_ns;
	if (in->packets || in->totals.expected)
		add_quality(w, s, in);
	secure_advance(w, s, RECEIVE, &in->received);
	sink = stream_find(&w->table, s->rtp_sink);
	if (sink)
		secure_advance(w, sink, SEND, &in->sent);
	worker_unlock(w);
	return 0;
}
