// SPDX-License-Identifier: MIT
/*
 * Streams that go on in another process: what one has to tell, and the other to be told.
 *
 * The successor adopts the socket, which is not read yet, configures the stream and gives it its keys, then
 * restores what was saved; only when all streams of the call have got so far does it resume them. So no packet
 * finds a context that has forgotten what its keys have been used for.
 */
#define _GNU_SOURCE
#include "secure.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

/**
 * pp_stream_resume() - have a stream's socket read
 * @pp: the packet path
 * @id: the stream; one that is not held stays as it is
 *
 * Return: 0, or -errno: -ENOENT for a stale id.
 * Context: any thread.
 */
int pp_stream_resume(struct pp *pp, int64_t id)
{
	struct worker *w;
	struct stream *s;
	int result;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	result = s->held ? stream_watch(w, s) : 0;
	worker_unlock(w);
	return result;
}

/**
 * pp_stream_hold() - read a stream's socket no more
 * @pp: the packet path
 * @id: the stream
 *
 * What arrives from now on waits in the socket, and nothing that a successor could be told changes any more.
 * Return: the socket's descriptor, still ours, to be handed on; or -ENOENT for a stale id.
 * Context: any thread.
 */
int pp_stream_hold(struct pp *pp, int64_t id)
{
	struct worker *w;
	struct stream *s;
	int fd;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	if (!s->held)
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	s->held = true;
	fd = s->fd;
	worker_unlock(w);
	return fd;
}

/**
 * pp_stream_save() - what a stream has learned and counted
 * @pp: the packet path
 * @id: the stream
 * @out: filled on success
 *
 * Return: 0, or -ENOENT for a stale id.
 * Context: any thread.
 */
int pp_stream_save(struct pp *pp, int64_t id, struct pp_saved *out)
{
	struct worker *w;
	struct stream *s;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	*out = (struct pp_saved) {
		.packets = s->counters.packets,
		.bytes = s->counters.bytes,
		.errors = s->counters.errors,
		.flags = s->counters.last_packet_ns ? PP_SAVED_HEARD : 0,
		.payload_type = s->payload_type,
	};
	memcpy(out->drops, s->counters.drops, sizeof(out->drops));
	learn_save(&s->learn, out);
	worker_unlock(w);
	return 0;
}

static int restore(struct stream *s, const struct pp_saved *in)
{
	uint64_t now_ns = monotonic_ns();

	if (in->payload_type > 255 || learn_restore(&s->learn, in, now_ns))
		return -EINVAL;
	s->payload_type = in->payload_type;
	s->counters.packets = in->packets;
	s->counters.bytes = in->bytes;
	s->counters.errors = in->errors;
	memcpy(s->counters.drops, in->drops, sizeof(in->drops));
	if (in->flags & PP_SAVED_HEARD)
		s->counters.last_packet_ns = now_ns;
	return 0;
}

/**
 * pp_stream_restore() - go on from what pp_stream_save() has told
 * @pp: the packet path
 * @id: a stream that has been configured as the other one was
 * @in: what that had learned and counted
 *
 * Time-outs begin anew: the party could not be heard meanwhile.
 * Return: 0; -ENOENT for a stale id, -EINVAL for what no stream can have learned.
 * Context: any thread.
 */
int pp_stream_restore(struct pp *pp, int64_t id, const struct pp_saved *in)
{
	struct worker *w;
	struct stream *s;
	int result;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	result = restore(s, in);
	worker_unlock(w);
	return result;
}

static bool save_context(const struct stream *s, uint32_t number, struct pp_saved_context *out)
{
	const struct context *context = s->scope ? s->scope->contexts : NULL;

	while (context && number--)
		context = context->next;
	if (!context)
		return false;
	out->keys = context->keys;
	out->sending = context->direction == SEND;
	out->own_rtcp = context->own_rtcp;
	srtp_save(context->srtp, &out->srtp);
	return true;
}

/**
 * pp_stream_save_context() - one of the SRTP contexts that a stream shares with those of its scope
 * @pp: the packet path
 * @id: the stream
 * @number: which, from 0; the one used last comes first
 * @out: filled, master keys included
 *
 * Those of former keys count too, since keys can come back.
 * Return: 1; 0 if there are no more; -ENOENT for a stale id.
 * Context: any thread.
 */
int pp_stream_save_context(struct pp *pp, int64_t id, uint32_t number, struct pp_saved_context *out)
{
	struct worker *w;
	struct stream *s;
	int result;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	result = save_context(s, number, out);
	worker_unlock(w);
	return result;
}

/* At the end, as the one that has rested longest, unless it is there already. */
static int restore_context(struct stream *s, const struct pp_saved_context *in, uint32_t late, struct context **spare)
{
	enum direction direction = in->sending ? SEND : RECEIVE;
	struct context *context, **link;

	if (!s->scope)
		return -EINVAL;
	context = context_find(s->scope, &in->keys, direction);
	if (!context) {
		context = *spare;
		*spare = NULL;
		for (link = &s->scope->contexts; *link; link = &(*link)->next)
			;
		*link = context;
	}
	context->own_rtcp |= in->own_rtcp;
	srtp_restore(context->srtp, &in->srtp, late);
	return 0;
}

/**
 * pp_stream_restore_context() - go on from what pp_stream_save_context() has told
 * @pp: the packet path
 * @id: a stream that has got its keys
 * @in: a context of its scope
 * @late: the other process may have used it after that, see srtp_restore()
 *
 * Return: 0; -ENOENT for a stale id, -EINVAL for keys that srtp_open() refuses or a stream that never had any.
 * Context: any thread.
 */
int pp_stream_restore_context(struct pp *pp, int64_t id, const struct pp_saved_context *in, uint32_t late)
{
	struct context *spare;
	struct worker *w;
	struct stream *s;
	int result;

	if (!secure_valid_keys(&in->keys))
		return -EINVAL;
	spare = context_new(&in->keys, in->sending ? SEND : RECEIVE);
	if (!spare)
		return -EINVAL;
	result = -ENOENT;
	s = stream_lock(pp, id, &w);
	if (s) {
		result = restore_context(s, in, late, &spare);
		worker_unlock(w);
	}
	context_free(spare);
	return result;
}
