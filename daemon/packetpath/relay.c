// SPDX-License-Identifier: MIT
/* What happens to a packet: read, classify, judge its source, filter, send. */
#define _GNU_SOURCE
#include "internal.h"

#include <arpa/inet.h>
#include <string.h>

#include "rtcp.h"
#include "rtp.h"

#define PROBE_READS 16			/* single packets before a try at two */
#define REPORT_MAX 2048			/* RTCP under SRTP that passes as it is; what is longer is not read */

void batch_init(struct batch *batch)
{
	unsigned int i;

	for (i = 0; i < BATCH; i++) {
		batch->in_iov[i] = (struct iovec) { batch->data[i], PP_PACKET_MAX };
		batch->in[i].msg_hdr = (struct msghdr) {
			.msg_name = &batch->source[i],
			.msg_iov = &batch->in_iov[i],
			.msg_iovlen = 1,
		};
		batch->out[i].msg_hdr = (struct msghdr) {
			.msg_name = &batch->send_to,
			.msg_iov = &batch->out_iov[i],
			.msg_iovlen = 1,
		};
	}
}

void address_from_socket(struct pp_address *out, const union pp_sockaddr *in)
{
	memset(out, 0, sizeof(*out));
	if (in->any.sa_family == AF_INET) {
		out->family = 4;
		out->port = ntohs(in->in4.sin_port);
		memcpy(out->address, &in->in4.sin_addr, 4);
	} else if (in->any.sa_family == AF_INET6) {
		out->family = 6;
		out->port = ntohs(in->in6.sin6_port);
		out->scope_id = in->in6.sin6_scope_id;
		memcpy(out->address, &in->in6.sin6_addr, 16);
	}
}

socklen_t address_to_socket(union pp_sockaddr *out, const struct pp_address *in)
{
	memset(out, 0, sizeof(*out));
	if (in->family == 4) {
		out->in4.sin_family = AF_INET;
		out->in4.sin_port = htons(in->port);
		memcpy(&out->in4.sin_addr, in->address, 4);
		return sizeof(out->in4);
	}
	out->in6.sin6_family = AF_INET6;
	out->in6.sin6_port = htons(in->port);
	out->in6.sin6_scope_id = in->scope_id;
	memcpy(&out->in6.sin6_addr, in->address, 16);
	return sizeof(out->in6);
}

static void drop_as_error(struct worker *w, struct stream *s, enum pp_drop reason)
{
	drop(w, s, reason);
	s->counters.errors++;
	w->stats.errors++;
}

static int send_some(struct batch *b, unsigned int first)
{
	struct iovec *iov = &b->out_iov[first];
	unsigned int n = b->pending - first, i;

	if (n == 1)
		return sendto(b->sink->fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT,
			      &b->send_to.any, b->send_to_len) < 0 ? -1 : 1;
	for (i = first; i < b->pending; i++)
		b->out[i].msg_hdr.msg_namelen = b->send_to_len;
	return sendmmsg(b->sink->fd, b->out + first, n, MSG_DONTWAIT);
}

/* Send what is pending; a refusing system costs packets, never the stream. */
static void flush(struct worker *w, struct stream *s)
{
	struct batch *b = w->batch;
	unsigned int done = 0;
	int sent;

	while (done < b->pending) {
		sent = send_some(b, done);
		if (sent <= 0) {
			drop_as_error(w, s, PP_DROP_SEND);
			traffic_of(w->stats.sent, b->sink)->errors++;
			done++;
			continue;
		}
		for (; sent--; done++) {
			count(w, s, b->out_iov[done].iov_len);
			count_sent(w, b->sink, b->out_iov[done].iov_len);
		}
	}
	b->pending = 0;
}

/* Packets of one read that leave through the same socket leave together. */
static void send_later(struct worker *w, struct stream *s, struct stream *sink, const struct packet *p)
{
	struct batch *b = w->batch;

	if (b->pending && b->sink != sink)
		flush(w, s);
	if (!b->pending) {
		b->sink = sink;
		b->send_to_len = address_to_socket(&b->send_to, &sink->learn.send_to);
	}
	b->out_iov[b->pending++] = (struct iovec) { p->data, p->len };
}

/* Security rule 1: only plausible RTP or RTCP proves anything; BYE ends, it does not begin. */
static void classify(const struct stream *s, struct packet *p)
{
	uint32_t flags = s->learn.flags;
	bool rtcp;

	p->rtcp = flags & PP_F_RTCP_ONLY;
	p->pass = false;
	p->seen.ssrc = 0;
	p->seen.seq = 0;
	p->seen.indexed = false;
	p->seen.proof = LEARN_PROOF_NONE;
	p->seen.authentic = LEARN_AUTHENTIC_NO;
	if (flags & PP_F_OPAQUE) {
		p->seen.proof = LEARN_PROOF_OPAQUE;
		p->rtcp = false;
		return;
	}
	rtcp = rtcp_plausible(p->data, p->len);
	if (rtcp && p->data[1] != RTCP_TYPE_BYE) {
		p->seen.proof = LEARN_PROOF_RTCP;
		p->seen.ssrc = rtp_be32(p->data + 4);
	} else if (!rtcp && rtp_header_len(p->data, p->len)) {
		p->seen.proof = LEARN_PROOF_RTP;
		p->seen.ssrc = rtp_be32(p->data + 8);
		p->seen.seq = rtp_be16(p->data + 2);
	}
	if (rtcp && flags & PP_F_RTCP_MUX)
		p->rtcp = true;
}

/* Only a packet that is not the next one changes totals, and costs more than a few instructions. */
static void rate(struct worker *w, struct stream *s, const struct packet *p)
{
	struct rtp_quality *q = &s->quality;
	struct rtp_totals before;

	if (rtp_quality_is_next(q, p->seen.ssrc, p->seen.seq)) {
		rtp_quality_count(q, s->clocks, p->data, p->seen.now_ns);
		return;
	}
	before = q->totals;
	rtp_quality_count(q, s->clocks, p->data, p->seen.now_ns);
	count_totals(w, &q->totals, &before);
}

/* RTCP is rare, so that reading it need not be cheap. */
static void read_reports(struct stream *s, const struct packet *p)
{
	uint32_t ssrc = p->sink ? p->sink->quality.ssrc : 0, len = p->len;
	struct reports *other = p->sink ? &p->sink->reports : NULL;
	const uint8_t *data = p->data;
	uint8_t copy[REPORT_MAX];

	if (p->pass) {
		len = secure_read_rtcp(s, p, copy, sizeof(copy));
		data = copy;
	}
	if (len)
		reports_read(&s->reports, other, data, len, ssrc, p->seen.now_ns);
}

static bool accept_source(struct worker *w, struct stream *s, struct packet *p)
{
	int verdict = learn_packet(&s->learn, &p->seen);

	if (verdict & LEARN_SETTLED)
		worker_event_confirmed(w, s);
	if (verdict & LEARN_ELSEWHERE)
		worker_event_elsewhere(w, s, &p->seen);
	if (!(verdict & LEARN_RELAY))
		return false;
	s->counters.last_packet_ns = p->seen.now_ns;
	if (p->seen.proof == LEARN_PROOF_RTP) {
		if (s->payload_type == 255)
			s->payload_type = p->data[1] & 127;
		rate(w, s, p);
	} else if (p->seen.proof == LEARN_PROOF_RTCP && p->rtcp) {
		read_reports(s, p);
	}
	return true;
}

/* media.md 5: no sink is an error; a filtered or muted packet has still been handled. */
static void route(struct worker *w, struct stream *s, struct packet *p)
{
	struct stream *sink = p->sink;

	if (!sink) {
		drop_as_error(w, s, PP_DROP_NO_SINK);
		traffic_of(w->stats.received, s)->errors++;
		return;
	}
	if (p->rtcp && s->learn.flags & PP_F_STRIP_FEEDBACK)
		p->len = rtcp_strip_feedback(p->data, p->len);
	if (!p->len) {
		count(w, s, 0);
		drop(w, s, PP_DROP_FILTERED);
	} else if (sink->learn.flags & PP_F_MUTED || !sink->learn.send_to.family) {
		count(w, s, p->len);
		drop(w, s, PP_DROP_MUTED);
	} else if (!(sink->learn.flags & PP_F_SECURE) || secure_protect(w, s, p)) {
		send_later(w, s, sink, p);
	}
}

/* One packet is the rule, and recvfrom() reads it with less ado than recvmmsg(). */
static int receive(struct stream *s, struct batch *b)
{
	socklen_t source_len = sizeof(b->source[0]);
	unsigned int i;
	ssize_t len;

	if (s->read_ahead == 1) {
		len = recvfrom(s->fd, b->data[0], PP_PACKET_MAX, MSG_DONTWAIT | MSG_TRUNC,
			       &b->source[0].any, &source_len);
		b->in[0].msg_len = len;
		b->in[0].msg_hdr.msg_flags = len > PP_PACKET_MAX ? MSG_TRUNC : 0;
		return len < 0 ? -1 : 1;
	}
	for (i = 0; i < s->read_ahead; i++)
		b->in[i].msg_hdr.msg_namelen = sizeof(b->source[i]);
	return recvmmsg(s->fd, b->in, s->read_ahead, MSG_DONTWAIT, NULL);
}

/*
 * One packet is the rule: asking for two where one waits is the dearer call, and in vain.
 * So try it now and then, and ask for more and more while more is what comes.
 */
static void adapt(struct stream *s, unsigned int got)
{
	if (got < s->read_ahead) {
		s->read_ahead = s->read_ahead > 1 ? s->read_ahead / 2 : 1;
		s->reads = 0;
	} else if (s->read_ahead > 1 || ++s->reads == PROBE_READS) {
		s->read_ahead = s->read_ahead < BATCH ? s->read_ahead * 2 : BATCH;
	}
}

static void relay(struct worker *w, struct stream *s, struct packet *p)
{
	uint32_t flags = s->learn.flags;

	if (flags & (PP_F_SECURE | PP_F_STUN | PP_F_DTLS) && !demux(w, s, p))
		return;
	classify(s, p);
	p->sink = stream_find(&w->table, p->rtcp ? s->rtcp_sink : s->rtp_sink);
	if (flags & PP_F_SECURE && !secure_unprotect(w, s, p))
		return;
	if (s->learn.offloaded)
		p->seen.indexed = secure_is_indexed(p);
	if (accept_source(w, s, p))
		route(w, s, p);
	else
		drop(w, s, PP_DROP_SOURCE);
}

/**
 * relay_read() - read a socket once and relay what came
 * @worker: the stream's worker
 * @stream: the stream whose socket is readable
 *
 * Return: the number of packets read. An error of the socket (an ICMP message
 * about an earlier packet) is consumed by reading it and means nothing.
 * Context: worker thread, lock held.
 */
unsigned int relay_read(struct worker *worker, struct stream *stream)
{
	struct batch *b = worker->batch;
	int i, got = receive(stream, b);
	struct packet p;

	for (i = 0; i < got; i++) {
		p.data = b->data[i];
		p.len = b->in[i].msg_len;
		if (!p.len || b->in[i].msg_hdr.msg_flags & MSG_TRUNC) {
			drop(worker, stream, PP_DROP_MALFORMED);
			continue;
		}
		p.seen.now_ns = worker->now_ns;
		address_from_socket(&p.seen.source, &b->source[i]);
		relay(worker, stream, &p);
	}
	flush(worker, stream);
	adapt(stream, got > 0 ? got : 0);
	return got > 0 ? got : 0;
}

/**
 * relay_early() - relay what came before its keys
 * @worker: the stream's worker
 * @stream: the stream, which has keys to receive with now
 *
 * Context: any thread, lock held: between two reads the batch is nobody's.
 */
void relay_early(struct worker *worker, struct stream *stream)
{
	struct batch *b = worker->batch;
	struct packet p;
	unsigned int i;

	if (!stream->early.first)
		return;
	p.seen.now_ns = monotonic_ns();
	early_expire(worker, p.seen.now_ns);
	do {
		for (i = 0; i < BATCH; i++) {
			p.data = b->data[i];
			if (!early_take(worker, stream, &p))
				break;
			relay(worker, stream, &p);
		}
		flush(worker, stream);
	} while (i == BATCH);
}
