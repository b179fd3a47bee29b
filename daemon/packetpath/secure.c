// SPDX-License-Identifier: MIT
/* The SRTP contexts of streams, and what they do to a packet. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "bucket.h"
#include "secure.h"

/* MACs that may fail on packets from elsewhere, before such packets are dropped unseen. */
#define FORGED_BURST 64
#define FORGED_PER_S 100

/* How long a party may go on with a key that signalling has replaced: until it has heard of that. */
#define FORMER_NS (5 * NS_PER_S)

/* SRTP_F_* that srtp_keys.flags may have */
#define KNOWN_FLAGS (SRTP_F_UNENCRYPTED_SRTP | SRTP_F_UNENCRYPTED_SRTCP | SRTP_F_UNAUTHENTICATED_SRTP)

/* What a control call allocates, and frees, without the lock. */
struct spare {
	struct scope *scope;
	struct scope *left;
	struct context *context[DIRECTIONS];
	bool want_scope;
	bool want[DIRECTIONS];
};

/**
 * context_free() - free a context and wipe its keys
 * @context: one that is in no scope, or NULL
 */
void context_free(struct context *context)
{
	if (!context)
		return;
	srtp_close(context->srtp);
	explicit_bzero(context, sizeof(*context));
	free(context);
}

/**
 * context_new() - a context that nothing has passed through
 * @keys: master keys
 * @direction: what they protect
 *
 * Return: the context, NULL for keys that srtp_open() refuses, or if memory ran out.
 */
struct context *context_new(const struct srtp_keys *keys, enum direction direction)
{
	struct context *context = calloc(1, sizeof(*context));

	if (!context)
		return NULL;
	context->keys = *keys;
	context->direction = direction;
	context->srtp = srtp_open(keys);
	if (context->srtp)
		return context;
	context_free(context);
	return NULL;
}

/**
 * scope_free() - free a scope and its contexts
 * @scope: one that no stream is in, or NULL
 *
 * Context: any thread; takes no lock.
 */
void scope_free(struct scope *scope)
{
	struct context *context, *next;

	if (!scope)
		return;
	for (context = scope->contexts; context; context = next) {
		next = context->next;
		context_free(context);
	}
	free(scope);
}

/**
 * secure_free() - free all scopes of a worker
 * @worker: the worker, whose thread has ended
 */
void secure_free(struct worker *worker)
{
	struct scope *scope, *next;
	unsigned int i;

	for (i = 0; i < SCOPE_BUCKETS; i++)
		for (scope = worker->scopes[i]; scope; scope = next) {
			next = scope->next;
			scope_free(scope);
		}
}

static struct scope **scope_link(struct worker *w, uint64_t id)
{
	struct scope **link = &w->scopes[id % SCOPE_BUCKETS];

	while (*link && (*link)->id != id)
		link = &(*link)->next;
	return link;
}

static void set_former(struct stream *s, struct former former)
{
	if (s->former.context)
		s->former.context->streams--;
	s->former = former;
	if (former.context)
		former.context->streams++;
}

/**
 * secure_leave() - take a stream's keys away
 * @worker: the stream's worker
 * @stream: the stream
 *
 * Return: its scope if no stream is in it any more, for scope_free(), else NULL.
 * Context: lock held.
 */
struct scope *secure_leave(struct worker *worker, struct stream *stream)
{
	struct scope *scope = stream->scope;
	unsigned int i;

	if (!scope)
		return NULL;
	set_former(stream, (struct former) { 0 });
	for (i = 0; i < DIRECTIONS; i++) {
		if (stream->context[i])
			stream->context[i]->streams--;
		stream->context[i] = NULL;
	}
	stream->scope = NULL;
	if (--scope->streams)
		return NULL;
	*scope_link(worker, scope->id) = scope->next;
	return scope;
}

/* What the MKI does not fill is not compared. */
static bool same_keys(const struct srtp_keys *a, const struct srtp_keys *b)
{
	return !memcmp(a, b, offsetof(struct srtp_keys, mki)) && !memcmp(a->mki, b->mki, a->mki_len);
}

/**
 * context_find() - the context of these keys
 * @scope: where to look, or NULL
 * @keys: master keys
 * @direction: what they protect
 *
 * Return: the context, or NULL. Context: lock held.
 */
struct context *context_find(struct scope *scope, const struct srtp_keys *keys, enum direction direction)
{
	struct context *context = scope ? scope->contexts : NULL;

	while (context && (context->direction != direction || !same_keys(&context->keys, keys)))
		context = context->next;
	return context;
}

static void context_unlink(struct scope *scope, const struct context *context)
{
	struct context **link = &scope->contexts;

	while (*link != context)
		link = &(*link)->next;
	*link = context->next;
}

/* The unused context that has rested longest, once there are too many. */
static struct context *surplus(const struct scope *scope)
{
	struct context *context, *found = NULL;
	unsigned int n = 0;

	for (context = scope->contexts; context; context = context->next, n++)
		if (!context->streams)
			found = context;
	return n > SCOPE_CONTEXTS ? found : NULL;
}

/* Whether everything is there or in @spare; sets what else must come. */
static bool provided(struct scope *scope, const struct srtp_keys *const keys[], struct spare *spare)
{
	bool complete = scope || spare->scope;
	unsigned int i;

	spare->want_scope = !complete;
	for (i = 0; i < DIRECTIONS; i++) {
		spare->want[i] = keys[i] && !context_find(scope, keys[i], i) && !spare->context[i];
		complete = complete && !spare->want[i];
	}
	return complete;
}

static int provide(const struct srtp_keys *const keys[], struct spare *spare)
{
	unsigned int i;

	if (spare->want_scope)
		spare->scope = calloc(1, sizeof(*spare->scope));
	if (spare->want_scope && !spare->scope)
		return -ENOMEM;
	for (i = 0; i < DIRECTIONS; i++) {
		if (!spare->want[i])
			continue;
		spare->context[i] = context_new(keys[i], i);
		if (!spare->context[i])
			return -EINVAL;
	}
	return 0;
}

/* Joining before leaving, so that a scope which stays the same does not end in between. */
static struct scope *enter(struct worker *w, struct stream *s, uint64_t id, struct spare *spare)
{
	struct scope **link = scope_link(w, id);
	struct scope *scope = *link;

	if (!scope) {
		scope = *link = spare->scope;
		scope->id = id;
		spare->scope = NULL;
	}
	scope->streams++;
	spare->left = secure_leave(w, s);
	s->scope = scope;
	return scope;
}

/* The context of these keys, in front; @spare holds it if the scope does not, and then what has to go for it. */
static struct context *use(struct scope *scope, const struct srtp_keys *keys, enum direction direction,
			   struct spare *spare)
{
	struct context *context = context_find(scope, keys, direction);

	if (context) {
		context_unlink(scope, context);
	} else {
		context = spare->context[direction];
		spare->context[direction] = NULL;
	}
	context->next = scope->contexts;
	scope->contexts = context;
	context->streams++;
	return context;
}

/*
 * Whoever offers new keys learns last that they are agreed, and protects with the former ones until then.
 * Without authentication nothing would tell a packet that these fit from any other.
 */
static struct former former_after(const struct stream *s, uint64_t id, const struct srtp_keys *receive)
{
	struct context *replaced = s->context[RECEIVE];

	if (!receive || !replaced || s->scope->id != id || replaced->keys.flags & SRTP_F_UNAUTHENTICATED_SRTP)
		return (struct former) { 0 };
	if (same_keys(&replaced->keys, receive))
		return s->former;
	return (struct former) { replaced, monotonic_ns() + FORMER_NS };
}

static void apply(struct worker *w, struct stream *s, uint64_t id, const struct srtp_keys *const keys[],
		  struct spare *spare)
{
	struct former former = former_after(s, id, keys[RECEIVE]);
	struct scope *scope = enter(w, s, id, spare);
	struct context *rested;
	unsigned int i;

	set_former(s, former);
	for (i = 0; i < DIRECTIONS; i++) {
		s->context[i] = keys[i] ? use(scope, keys[i], i, spare) : NULL;
		rested = spare->context[i] ? NULL : surplus(scope);
		if (!rested)
			continue;
		context_unlink(scope, rested);
		spare->context[i] = rested;
	}
}

/**
 * secure_valid_keys() - whether keys name a suite and parameters that there are
 * @keys: the keys, NULL for none
 */
bool secure_valid_keys(const struct srtp_keys *keys)
{
	return !keys || (keys->suite > SRTP_NONE && keys->suite < SRTP_SUITES && !(keys->flags & ~KNOWN_FLAGS));
}

/* -EAGAIN: @spare lacks something, with nothing changed. */
static int protect_locked(struct pp *pp, int64_t id, uint64_t scope, const struct srtp_keys *const keys[],
			  struct spare *spare)
{
	struct worker *w;
	struct stream *s;
	bool enough;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	enough = provided(*scope_link(w, scope), keys, spare);
	if (enough)
		apply(w, s, scope, keys, spare);
	if (enough && keys[RECEIVE])
		relay_early(w, s);
	worker_unlock(w);
	return enough ? 0 : -EAGAIN;
}

/**
 * pp_stream_protect() - give a stream its SRTP keys
 * @pp: the packet path
 * @id: the stream; its party speaks SRTP if it has PP_F_SECURE
 * @scope: number that the streams of one media share, and no others
 * @receive: what the party protects its packets with, NULL for nothing
 * @send: what we protect packets to the party with, NULL for nothing
 *
 * Streams of one worker with equal scope, keys and direction share one context,
 * so no index is used twice: not when RTP and RTCP have sockets of their own, when
 * a socket replaces another, or when a key goes away and comes back. Protecting
 * twice changes nothing. What lies behind the key, salt and MKI of a suite is zero.
 * Packets that came a little before their keys go on now, see early_keep(). Where @receive replaces other keys
 * in the same scope, those serve a little longer, but show nothing about where the party is.
 * Return: 0; -ENOENT for a stale id, -EINVAL for keys that srtp_open() refuses, -ENOMEM.
 * Context: any thread.
 */
int pp_stream_protect(struct pp *pp, int64_t id, uint64_t scope, const struct srtp_keys *receive,
		      const struct srtp_keys *send)
{
	const struct srtp_keys *keys[DIRECTIONS] = { receive, send };
	struct spare spare = { 0 };
	int result;

	if (!secure_valid_keys(receive) || !secure_valid_keys(send))
		return -EINVAL;
	do {
		result = protect_locked(pp, id, scope, keys, &spare);
		if (result != -EAGAIN)
			break;
		result = provide(keys, &spare);
	} while (!result);
	free(spare.scope);
	scope_free(spare.left);
	context_free(spare.context[RECEIVE]);
	context_free(spare.context[SEND]);
	return result;
}

/* Whether what comes is what the sink's party must get: then our work is to check it. */
static bool passes(const struct stream *s, const struct packet *p)
{
	const struct context *in = s->context[RECEIVE], *out;

	if (!p->sink || !(p->sink->learn.flags & PP_F_SECURE))
		return false;
	out = p->sink->context[SEND];
	if (!out || !same_keys(&in->keys, &out->keys))
		return false;
	/* An index that we have given ourselves must not come again in a packet of the party. */
	return !p->rtcp || (!(s->learn.flags & PP_F_STRIP_FEEDBACK) && !out->own_rtcp);
}

/* Where a failure is paid from; NULL: the source is too well known for that. */
static uint64_t *forged_bucket(struct stream *s, int standing)
{
	if (standing == LEARN_STANDING_KNOWN)
		return NULL;
	return standing == LEARN_STANDING_CONTINUES ? &s->buckets.continues : &s->buckets.unknown;
}

static enum pp_drop reason_of(int error)
{
	if (error == SRTP_ERROR_REPLAY)
		return PP_DROP_REPLAY;
	return error == SRTP_ERROR_EXHAUSTED ? PP_DROP_NO_KEY : PP_DROP_AUTH;
}

static int unprotect(struct srtp *srtp, const struct packet *p)
{
	if (p->pass)
		return p->rtcp ? srtcp_verify(srtp, p->data, p->len) : srtp_verify(srtp, p->data, p->len);
	return p->rtcp ? srtcp_unprotect(srtp, p->data, p->len) : srtp_unprotect(srtp, p->data, p->len);
}

/*
 * Only from where the party is already: what may be old does not tell where it has gone. And not where the stream is
 * forwarded elsewhere, since the same index could be used there.
 */
static bool may_be_former(const struct stream *s, const struct packet *p)
{
	return s->former.context && p->seen.now_ns < s->former.until_ns && !s->learn.offloaded &&
	       same_endpoint(&p->seen.source, &s->learn.accept_from);
}

/**
 * secure_unprotect() - let only authentic packets of a secure stream go on
 * @worker: the stream's worker
 * @stream: the stream
 * @packet: classified, with its sink; decrypted in place unless it may pass as it is
 *
 * Security rule 4. Whoever sends from elsewhere cannot make us compute more
 * MACs than its bucket allows; one that was right costs nothing.
 * Return: whether the packet goes on.
 * Context: worker thread, lock held.
 */
bool secure_unprotect(struct worker *worker, struct stream *stream, struct packet *packet)
{
	struct context *context = stream->context[RECEIVE];
	int standing, result;
	uint64_t *bucket;

	if (!context) {
		if (!early_keep(worker, stream, packet))
			drop(worker, stream, PP_DROP_NO_KEY);
		return false;
	}
	standing = learn_srtp_standing(&stream->learn, &packet->seen);
	if (standing == LEARN_STANDING_REFUSED) {
		drop(worker, stream, PP_DROP_SOURCE);
		return false;
	}
	bucket = forged_bucket(stream, standing);
	if (bucket && !bucket_take(bucket, packet->seen.now_ns, FORGED_BURST, FORGED_PER_S)) {
		drop(worker, stream, PP_DROP_FLOOD);
		return false;
	}
	packet->pass = passes(stream, packet);
	result = unprotect(context->srtp, packet);
	if (result == SRTP_ERROR_AUTH && may_be_former(stream, packet)) {
		context = stream->former.context;
		packet->pass = false;
		result = unprotect(context->srtp, packet);
	}
	if (result < 0) {
		drop(worker, stream, reason_of(result));
		return false;
	}
	if (bucket)
		bucket_give_back(bucket, FORGED_PER_S);
	if (srtp_take_milestone(context->srtp))
		worker_event_index(worker, stream);
	packet->len = result;
	if (packet->rtcp || !(context->keys.flags & SRTP_F_UNAUTHENTICATED_SRTP))
		packet->seen.authentic = context == stream->context[RECEIVE] && srtp_is_newest(context->srtp) ?
			LEARN_AUTHENTIC_NEWEST : LEARN_AUTHENTIC;
	return true;
}

/**
 * secure_read_rtcp() - decrypt a copy of RTCP that passes as it is
 * @stream: the stream that received it
 * @packet: authentic
 * @copy: filled with the packet in the clear
 * @room: its size
 *
 * Return: the length of the copy, 0 if it cannot be had.
 * Context: worker thread, lock held.
 */
uint32_t secure_read_rtcp(struct stream *stream, const struct packet *packet, uint8_t *copy, uint32_t room)
{
	int len;

	if (packet->len > room)
		return 0;
	memcpy(copy, packet->data, packet->len);
	len = srtcp_open_again(stream->context[RECEIVE]->srtp, copy, packet->len);
	return len > 0 ? len : 0;
}

/**
 * secure_protect() - make a packet what a secure sink's party must get
 * @worker: worker of both streams
 * @stream: the stream that received it, and counts
 * @packet: the packet, with ROOM bytes
 *
 * Return: whether the packet goes on.
 * Context: worker thread, lock held.
 */
bool secure_protect(struct worker *worker, struct stream *stream, struct packet *packet)
{
	struct context *context = packet->sink->context[SEND];
	int result;

	if (packet->pass && context->own_rtp && !srtp_may_follow(context->srtp, stream->context[RECEIVE]->srtp)) {
		drop(worker, stream, PP_DROP_REPLAY);
		return false;
	}
	if (packet->pass) {
		srtp_follow(context->srtp, stream->context[RECEIVE]->srtp);
		if (srtp_take_milestone(context->srtp))
			worker_event_index(worker, packet->sink);
		return true;
	}
	if (!context) {
		count(worker, stream, packet->len);
		drop(worker, stream, PP_DROP_NO_KEY);
		return false;
	}
	if (packet->rtcp)
		result = srtcp_protect(context->srtp, packet->data, packet->len, ROOM);
	else
		result = srtp_protect(context->srtp, packet->data, packet->len, ROOM);
	if (result < 0) {
		drop(worker, stream, result == SRTP_ERROR_MALFORMED ? PP_DROP_MALFORMED : reason_of(result));
		return false;
	}
	if (srtp_take_milestone(context->srtp))
		worker_event_index(worker, packet->sink);
	*(packet->rtcp ? &context->own_rtcp : &context->own_rtp) = true;
	packet->len = result;
	return true;
}

/**
 * secure_is_indexed() - does the sink know the SSRC of an RTP packet, and so an index for it?
 * @packet: classified, with its sink
 *
 * Context: worker thread, lock held.
 */
bool secure_is_indexed(const struct packet *packet)
{
	const struct stream *sink = packet->sink;

	return packet->seen.proof == LEARN_PROOF_RTP && !packet->rtcp && sink && sink->learn.flags & PP_F_SECURE &&
	       sink->context[SEND] && srtp_knows(sink->context[SEND]->srtp, packet->seen.ssrc);
}

/**
 * secure_sources() - how far each SSRC of RTP has come in one direction
 * @stream: the stream
 * @direction: whose packets: the party's or ours
 * @out: filled; count tells of all SSRCs, source has the first PP_SOURCES of them
 *
 * Context: lock held.
 */
void secure_sources(const struct stream *stream, enum direction direction, struct pp_sources *out)
{
	const struct context *context = stream->context[direction];
	struct srtp_index known[SRTP_INDEX_MAX];
	int i, count = 0;

	*out = (struct pp_sources) { 0 };
	if (context)
		count = srtp_indices(context->srtp, known, SRTP_INDEX_MAX);
	for (i = 0; i < count; i++) {
		if (!known[i].rtp.next)
			continue;
		if (out->count < PP_SOURCES)
			out->source[out->count] = (struct pp_source) { .ssrc = known[i].ssrc, .window = known[i].rtp };
		out->count++;
	}
}

/**
 * secure_advance() - take over how far SSRCs of RTP have come elsewhere
 * @worker: the stream's worker
 * @stream: the stream
 * @direction: whose packets: the party's or ours
 * @in: at most PP_SOURCES of them; nothing goes back
 *
 * Context: lock held.
 */
void secure_advance(struct worker *worker, struct stream *stream, enum direction direction,
		    const struct pp_sources *in)
{
	struct srtp_index known[PP_SOURCES];
	uint32_t i;

	if (!stream->context[direction])
		return;
	for (i = 0; i < in->count; i++)
		known[i] = (struct srtp_index) { .ssrc = in->source[i].ssrc, .rtp = in->source[i].window };
	srtp_advance(stream->context[direction]->srtp, known, in->count);
	if (srtp_take_milestone(stream->context[direction]->srtp))
		worker_event_index(worker, stream);
}
