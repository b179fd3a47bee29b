// SPDX-License-Identifier: MIT
/*
 * SRTP that comes before its keys: the peer of a DTLS handshake may send as soon as its own side
 * is done, which is before Python has seen that ours is. It is kept for a moment, within bounds.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* What is kept of a stream, and on a worker in all. */
#define EARLY_PACKETS 64
#define EARLY_KIB 64
#define EARLY_WORKER_KIB 4096
#define EARLY_MS 1000

#define EARLY_NS (EARLY_MS * 1000000ULL)

struct early_packet {
	struct early_packet *next;	/* of the stream */
	struct early_packet *older;	/* on the worker */
	struct early_packet *newer;
	struct stream *stream;
	struct pp_address source;
	uint64_t arrived_ns;
	uint32_t len;
	uint8_t data[];
};

static uint32_t memory_of(uint32_t len)
{
	return sizeof(struct early_packet) + len;
}

/* Streams that wait for the keys of a handshake, and who may take part in that. */
static bool eligible(const struct stream *s, const struct packet *p)
{
	return s->learn.flags & PP_F_SECURE && s->learn.flags & PP_F_DTLS && p->seen.proof != LEARN_PROOF_NONE &&
	       learn_dtls_standing(&s->learn, &p->seen.source) >= LEARN_STANDING_NEAR;
}

static bool fits(const struct worker *w, const struct stream *s, uint32_t len)
{
	return s->early.packets < EARLY_PACKETS && s->early.bytes + len <= EARLY_KIB * 1024 &&
	       w->early.memory + memory_of(len) <= EARLY_WORKER_KIB * 1024;
}

static void append(struct worker *w, struct stream *s, struct early_packet *e)
{
	*(s->early.first ? &s->early.last->next : &s->early.first) = e;
	s->early.last = e;
	s->early.packets++;
	s->early.bytes += e->len;
	e->older = w->early.newest;
	*(e->older ? &e->older->newer : &w->early.oldest) = e;
	w->early.newest = e;
	w->early.memory += memory_of(e->len);
}

/* The oldest of the stream, which is the caller's now; NULL: there is none. */
static struct early_packet *take_first(struct worker *w, struct stream *s)
{
	struct early_packet *e = s->early.first;

	if (!e)
		return NULL;
	s->early.first = e->next;
	s->early.packets--;
	s->early.bytes -= e->len;
	*(e->older ? &e->older->newer : &w->early.oldest) = e->newer;
	*(e->newer ? &e->newer->older : &w->early.newest) = e->older;
	w->early.memory -= memory_of(e->len);
	return e;
}

/**
 * early_keep() - keep a packet until there are keys for it
 * @worker: the stream's worker
 * @stream: a stream without keys to receive with
 * @packet: classified, as it came
 *
 * Only where DTLS is under way, and from those who are known to take part in it. The first are kept, not
 * the last: video begins with the picture that all others need.
 * Return: whether it is kept; it is counted when it goes on or is given up.
 * Context: worker thread, lock held.
 */
bool early_keep(struct worker *worker, struct stream *stream, const struct packet *packet)
{
	struct early_packet *e;

	if (!eligible(stream, packet))
		return false;
	early_expire(worker, packet->seen.now_ns);
	if (!fits(worker, stream, packet->len))
		return false;
	e = malloc(memory_of(packet->len));
	if (!e)
		return false;
	*e = (struct early_packet) {
		.stream = stream,
		.source = packet->seen.source,
		.arrived_ns = packet->seen.now_ns,
		.len = packet->len,
	};
	memcpy(e->data, packet->data, packet->len);
	append(worker, stream, e);
	return true;
}

/**
 * early_take() - take the oldest packet that was kept
 * @worker: the stream's worker
 * @stream: the stream
 * @packet: its data, with ROOM bytes, its length and source are filled in
 *
 * Return: whether there was one.
 * Context: lock held.
 */
bool early_take(struct worker *worker, struct stream *stream, struct packet *packet)
{
	struct early_packet *e = take_first(worker, stream);

	if (!e)
		return false;
	memcpy(packet->data, e->data, e->len);
	packet->len = e->len;
	packet->seen.source = e->source;
	free(e);
	return true;
}

static void give_up_first(struct worker *w, struct stream *s)
{
	free(take_first(w, s));
	drop(w, s, PP_DROP_NO_KEY);
}

/**
 * early_give_up() - drop what was kept if no keys can come for it any more
 * @worker: the stream's worker
 * @stream: the stream
 *
 * Context: lock held.
 */
void early_give_up(struct worker *worker, struct stream *stream)
{
	while (stream->early.first)
		give_up_first(worker, stream);
}

/**
 * early_expire() - drop what has been kept for too long
 * @worker: the worker
 * @now_ns: CLOCK_MONOTONIC
 *
 * The oldest of the worker is the oldest of its stream.
 * Context: lock held.
 */
void early_expire(struct worker *worker, uint64_t now_ns)
{
	struct early_packet *e;

	while ((e = worker->early.oldest) && e->arrived_ns + EARLY_NS <= now_ns)
		give_up_first(worker, e->stream);
}

/**
 * early_timeout_ms() - when early_expire() has something to do
 * @worker: the worker, which keeps a packet
 * @now_ns: CLOCK_MONOTONIC
 *
 * Return: in how many milliseconds, rounded up.
 * Context: lock held.
 */
int early_timeout_ms(const struct worker *worker, uint64_t now_ns)
{
	uint64_t due_ns = worker->early.oldest->arrived_ns + EARLY_NS;

	return due_ns > now_ns ? (due_ns - now_ns + 999999) / 1000000 : 0;
}

/**
 * early_free() - free what is kept on a worker
 * @worker: the worker, whose thread has ended
 */
void early_free(struct worker *worker)
{
	struct early_packet *e, *newer;

	for (e = worker->early.oldest; e; e = newer) {
		newer = e->newer;
		free(e);
	}
}
