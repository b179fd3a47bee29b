// SPDX-License-Identifier: MIT
/* The streams of a worker: slots, ids, configuration and counters. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Never 0, so that no id is. */
static uint32_t next_generation(uint32_t generation)
{
	generation = (generation + 1) & ((1U << ID_GENERATION_BITS) - 1);
	return generation ? generation : 1;
}

static struct stream *slot_at(const struct table *t, uint32_t slot)
{
	return &t->chunks[slot / CHUNK][slot % CHUNK];
}

static int grow(struct table *t)
{
	struct stream **chunks, *chunk;
	uint32_t i;

	if (t->slots >= ID_MAX_SLOTS)
		return -ENFILE;
	chunks = realloc(t->chunks, (t->slots / CHUNK + 1) * sizeof(*chunks));
	if (!chunks)
		return -ENOMEM;
	t->chunks = chunks;
	chunk = aligned_alloc(CACHE_LINE, CHUNK * sizeof(*chunk));
	if (!chunk)
		return -ENOMEM;
	memset(chunk, 0, CHUNK * sizeof(*chunk));
	for (i = 0; i < CHUNK; i++) {
		chunk[i].generation = 1;
		chunk[i].next_free = i + 1 < CHUNK ? t->slots + i + 2 : t->first_free;
	}
	chunks[t->slots / CHUNK] = chunk;
	t->first_free = t->slots + 1;
	t->slots += CHUNK;
	return 0;
}

static struct stream *take_slot(struct table *t, unsigned int worker)
{
	uint32_t slot, generation;
	struct stream *s;

	if (!t->first_free && grow(t))
		return NULL;
	slot = t->first_free - 1;
	s = slot_at(t, slot);
	t->first_free = s->next_free;
	generation = s->generation;
	memset(s, 0, sizeof(*s));
	s->generation = generation;
	s->id = (int64_t)generation << (ID_SLOT_BITS + ID_WORKER_BITS) | (int64_t)worker << ID_SLOT_BITS | slot;
	return s;
}

static void give_back_slot(struct table *t, struct stream *s)
{
	uint32_t slot = id_slot(s->id);

	s->id = 0;
	s->generation = next_generation(s->generation);
	s->next_free = t->first_free;
	t->first_free = slot + 1;
}

struct stream *stream_find(const struct table *table, int64_t id)
{
	struct stream *s;

	if (id <= 0 || id_slot(id) >= table->slots)
		return NULL;
	s = slot_at(table, id_slot(id));
	return s->id == id ? s : NULL;
}

void table_free(struct table *table)
{
	uint32_t slot;

	for (slot = 0; slot < table->slots; slot++)
		if (slot_at(table, slot)->id)
			close(slot_at(table, slot)->fd);
	for (slot = 0; slot < table->slots; slot += CHUNK)
		free(table->chunks[slot / CHUNK]);
	free(table->chunks);
}

/* The stream, with its @worker locked, which is to be unlocked then; NULL for a stale id, with nothing to unlock. */
struct stream *stream_lock(struct pp *pp, int64_t id, struct worker **worker)
{
	struct stream *s;

	if (id <= 0 || id_worker(id) >= pp->workers)
		return NULL;
	*worker = pp->worker[id_worker(id)];
	worker_lock(*worker);
	s = stream_find(&(*worker)->table, id);
	if (!s)
		worker_unlock(*worker);
	return s;
}

/* Have its worker read the socket. */
int stream_watch(const struct worker *worker, struct stream *stream)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = stream->id };

	if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, stream->fd, &event))
		return -errno;
	stream->held = false;
	return 0;
}

static int64_t open_stream(struct pp *pp, uint32_t worker, int fd, bool held)
{
	struct worker *w = pp->worker[worker % pp->workers];
	union pp_sockaddr local = { 0 };
	socklen_t len = sizeof(local);
	struct stream *s;
	int64_t result;

	if (getsockname(fd, &local.any, &len))
		return -errno;
	if (local.any.sa_family != AF_INET && local.any.sa_family != AF_INET6)
		return -EAFNOSUPPORT;
	worker_lock(w);
	s = take_slot(&w->table, w->index);
	if (!s) {
		result = -ENOMEM;
		goto unlock;
	}
	s->fd = fd;
	s->read_ahead = 1;
	s->payload_type = 255;
	s->held = true;
	s->counters.id = s->id;
	address_from_socket(&s->learn.local, &local);
	result = held ? 0 : stream_watch(w, s);
	if (result) {
		give_back_slot(&w->table, s);
		goto unlock;
	}
	w->stats.streams++;
	result = s->id;
unlock:
	worker_unlock(w);
	return result;
}

/**
 * pp_stream_open() - adopt a bound UDP socket
 * @pp: the packet path
 * @worker: which worker serves it; taken modulo their number
 * @fd: AF_INET or AF_INET6 datagram socket, ours to close from now on
 *
 * The stream drops what it receives until it is configured.
 * Return: its id (positive), or -errno, and then @fd is still the caller's.
 * Context: any thread.
 */
int64_t pp_stream_open(struct pp *pp, uint32_t worker, int fd)
{
	return open_stream(pp, worker, fd, false);
}

/**
 * pp_stream_adopt() - as pp_stream_open(), but read nothing before pp_stream_resume()
 * @pp: the packet path
 * @worker: which worker serves it; taken modulo their number
 * @fd: AF_INET or AF_INET6 datagram socket, ours to close from now on
 *
 * What arrives meanwhile waits in the socket.
 * Return: its id (positive), or -errno, and then @fd is still the caller's.
 * Context: any thread.
 */
int64_t pp_stream_adopt(struct pp *pp, uint32_t worker, int fd)
{
	return open_stream(pp, worker, fd, true);
}

static bool valid_address(const struct pp_address *address, bool need_port)
{
	if (address->family == 0)
		return true;
	return (address->family == 4 || address->family == 6) && (address->port || !need_port);
}

static int check(int64_t id, const struct pp_config *config)
{
	if (id <= 0)
		return -ENOENT;
	if (!valid_address(&config->peer, true) || !valid_address(&config->alias, false) ||
	    config->learning > PP_LEARN_OFF || config->flags >= PP_F_DTLS << 1 ||
	    (config->flags & PP_F_OPAQUE && config->flags & PP_F_SECURE) ||
	    config->rtp_sink < 0 || config->rtcp_sink < 0)
		return -EINVAL;
	if ((config->rtp_sink && id_worker(config->rtp_sink) != id_worker(id)) ||
	    (config->rtcp_sink && id_worker(config->rtcp_sink) != id_worker(id)))
		return -EXDEV;
	return 0;
}

/**
 * pp_stream_configure() - bring a stream in line with what signalling says
 * @pp: the packet path
 * @id: the stream
 * @config: all of it; configuring twice changes nothing
 *
 * Another peer or learning mode starts learning anew. A sink that is closed,
 * now or later, counts as none.
 * Return: 0; -ENOENT for a stale id, -EXDEV for a sink on another worker, -EINVAL.
 * Context: any thread.
 */
int pp_stream_configure(struct pp *pp, int64_t id, const struct pp_config *config)
{
	int result = check(id, config);
	struct worker *w;
	struct stream *s;

	if (result)
		return result;
	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	s->rtp_sink = config->rtp_sink;
	s->rtcp_sink = config->rtcp_sink;
	memcpy(s->ufrag, config->ufrag, sizeof(s->ufrag));
	if (memcmp(s->clocks, config->clocks, sizeof(s->clocks))) {
		memcpy(s->clocks, config->clocks, sizeof(s->clocks));
		s->quality.type = 0;
	}
	if (learn_configure(&s->learn, config, monotonic_ns()) & LEARN_SETTLED)
		worker_event_confirmed(w, s);
	if (!(config->flags & PP_F_SECURE) || !(config->flags & PP_F_DTLS))
		early_give_up(w, s);
	worker_unlock(w);
	return 0;
}

/**
 * pp_stream_validate() - accept a source as the party's: it has proven so, by ICE or DTLS
 * @pp: the packet path
 * @id: the stream
 * @source: where it sends from
 * @nominated: packets for the party go there from now on; else only while no other has been nominated
 *
 * The last few are remembered. A nomination counts as a packet heard: a check that
 * names its pair is a sign of life.
 * Return: 0, or -ENOENT for a stale id, -EINVAL for no address.
 * Context: any thread.
 */
int pp_stream_validate(struct pp *pp, int64_t id, const struct pp_address *source, uint32_t nominated)
{
	struct worker *w;
	struct stream *s;
	uint64_t now_ns;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	if (!source->family || !valid_address(source, true)) {
		worker_unlock(w);
		return -EINVAL;
	}
	now_ns = monotonic_ns();
	if (nominated)
		s->counters.last_packet_ns = now_ns;
	if (learn_validate(&s->learn, source, nominated, now_ns) & LEARN_SETTLED)
		worker_event_confirmed(w, s);
	worker_unlock(w);
	return 0;
}

/**
 * pp_stream_send() - send one datagram of our own from a stream's socket
 * @pp: the packet path
 * @id: the stream
 * @to: the receiver
 * @data: what to send
 * @len: its length
 *
 * What the system refuses is lost and counted as an error of the stream.
 * Return: 0, or -ENOENT for a stale id, -EINVAL for no address.
 * Context: any thread.
 */
int pp_stream_send(struct pp *pp, int64_t id, const struct pp_address *to, const uint8_t *data, uint32_t len)
{
	union pp_sockaddr address;
	struct worker *w;
	struct stream *s;
	socklen_t size;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	if (!to->family || !valid_address(to, true)) {
		worker_unlock(w);
		return -EINVAL;
	}
	size = address_to_socket(&address, to);
	if (sendto(s->fd, data, len, MSG_DONTWAIT, &address.any, size) < 0) {
		s->counters.errors++;
		w->stats.errors++;
		traffic_of(w->stats.sent, s)->errors++;
	}
	worker_unlock(w);
	return 0;
}

/**
 * pp_stream_close() - close the socket and forget the stream
 * @pp: the packet path
 * @id: the stream; its counters vanish with it
 *
 * Return: 0, or -ENOENT for a stale id.
 * Context: any thread.
 */
int pp_stream_close(struct pp *pp, int64_t id)
{
	struct scope *scope;
	struct worker *w;
	struct stream *s;
	int fd;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	fd = s->fd;
	scope = secure_leave(w, s);
	early_give_up(w, s);
	give_back_slot(&w->table, s);
	w->stats.streams--;
	worker_unlock(w);
	close(fd);
	scope_free(scope);
	return 0;
}

static struct pp_quality quality_of(const struct rtp_quality *from)
{
	struct pp_quality quality = {
		.totals = from->totals,
		.ssrc = from->ssrc,
		.type = from->type,
		.ticks = from->ticks,
	};

	quality.totals.expected = rtp_quality_expected(from);
	if (from->ticks)
		quality.jitter_us = ((uint64_t)from->jitter << 28) / from->ticks / 1000;
	return quality;
}

static struct pp_reports reports_of(const struct reports *from)
{
	return (struct pp_reports) {
		.count = from->count,
		.malformed = from->malformed,
		.round_trips = from->round_trips,
		.lost = from->lost,
		.fraction = from->fraction,
		.jitter = from->jitter,
		.ssrc = from->ssrc,
		.rtt = from->rtt,
	};
}

/**
 * pp_stream_state() - read counters and what was learned
 * @pp: the packet path
 * @id: the stream
 * @out: filled on success
 *
 * Return: 0, or -ENOENT for a stale id.
 * Context: any thread.
 */
int pp_stream_state(struct pp *pp, int64_t id, struct pp_state *out)
{
	struct worker *w;
	struct stream *s;

	s = stream_lock(pp, id, &w);
	if (!s)
		return -ENOENT;
	*out = (struct pp_state) {
		.counters = s->counters,
		.quality = quality_of(&s->quality),
		.reports = reports_of(&s->reports),
		.send_to = s->learn.send_to,
		.accept_from = s->learn.accept_from,
		.confirmed = s->learn.confirmed,
		.payload_type = s->payload_type,
		.ssrc = s->learn.ssrc,
	};
	worker_unlock(w);
	return 0;
}
