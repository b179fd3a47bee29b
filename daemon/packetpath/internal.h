/* SPDX-License-Identifier: MIT */
/*
 * What the files of the packet path share.
 *
 * A stream lives on one worker. Its worker touches it with the worker's lock
 * held, and so does a control call, so nothing below is locked by itself.
 */
#ifndef RTPENGINE_INTERNAL_H
#define RTPENGINE_INTERNAL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "bucket.h"
#include "learn.h"
#include "packetpath.h"
#include "reports.h"

#define BATCH 32			/* packets per read, and per hold of the lock */
#define ROOM 8512			/* for a packet: PP_PACKET_MAX and SRTP_OVERHEAD_MAX, in whole cache lines */
#define BACKLOG (256 * 1024)		/* bytes of events that a worker keeps for Python */
#define CHUNK 64			/* streams allocated at a time */
#define CACHE_LINE 64
#define SCOPE_BUCKETS 1024
#define NS_PER_S 1000000000ULL

/* A stream id: slot, worker and generation, so that a stale one finds nothing. */
#define ID_SLOT_BITS 24
#define ID_WORKER_BITS 8
#define ID_GENERATION_BITS 31
#define ID_MAX_SLOTS (1U << ID_SLOT_BITS)

union pp_sockaddr {
	struct sockaddr any;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
};

/* The two directions of SRTP, seen from us. */
enum direction {
	RECEIVE,
	SEND,
	DIRECTIONS,
};

/* Token buckets of a stream, see bucket.h: what a flood may cost. */
struct buckets {
	uint64_t stun;			/* of known sources */
	uint64_t dtls;
	uint64_t near;			/* STUN and DTLS of LEARN_STANDING_NEAR */
	uint64_t strangers;		/* ... and of others */
	uint64_t continues;		/* MACs that failed, by enum learn_standing */
	uint64_t unknown;
};

struct context;
struct early_packet;
struct scope;

/* SRTP of a stream that waits for its keys, in the order in which it came: see early.c. */
struct early {
	struct early_packet *first;	/* NULL: none */
	struct early_packet *last;
	uint32_t packets;
	uint32_t bytes;
};

/* What the party's packets may be under besides context[RECEIVE], until it has heard of newer keys: see secure.c. */
struct former {
	struct context *context;	/* NULL: none */
	uint64_t until_ns;
};

/* A plain packet touches four cache lines of its stream, and two of the sink: hence the order. */
struct stream {
	_Alignas(CACHE_LINE) int64_t id;	/* 0: the slot is free */
	int64_t rtp_sink;
	int64_t rtcp_sink;
	int fd;
	uint32_t generation;		/* of the next id of this slot */
	uint32_t next_free;
	uint8_t read_ahead;		/* packets to ask the socket for, 1..BATCH */
	uint8_t reads;			/* of one packet since it last had no more */
	uint8_t payload_type;
	bool held;			/* its socket is not read: see resume.c */
	struct learn learn;
	struct rtp_quality quality;
	struct context *context[DIRECTIONS];
	struct pp_counters counters;
	struct scope *scope;		/* of its contexts; NULL: never had keys */
	struct former former;
	struct early early;
	struct buckets buckets;
	uint8_t ufrag[32];
	uint32_t clocks[RTP_CLOCKS];
	struct reports reports;
	uint64_t elsewhere_ns;		/* of the last PP_EVENT_ELSEWHERE since it was offloaded, 0: none */
};

/* One datagram on its way. */
struct packet {
	uint8_t *data;
	uint32_t len;
	bool rtcp;			/* goes to the RTCP sink */
	bool pass;			/* authentic, and protected as the sink wants it */
	struct stream *sink;
	struct learn_packet seen;
};

/* The packets of one read, and those of them that go out together. */
struct batch {
	uint8_t data[BATCH][ROOM];
	union pp_sockaddr source[BATCH];
	struct iovec in_iov[BATCH];
	struct mmsghdr in[BATCH];
	struct iovec out_iov[BATCH];
	struct mmsghdr out[BATCH];
	union pp_sockaddr send_to;
	socklen_t send_to_len;
	struct stream *sink;
	unsigned int pending;
};

struct table {
	struct stream **chunks;
	uint32_t slots;			/* allocated, a multiple of CHUNK */
	uint32_t first_free;		/* slot + 1; 0: none */
};

/* Events in a row, each without the part of its data that is not used; empty when first == end. */
struct backlog {
	uint32_t first;
	uint32_t end;
	uint8_t bytes[BACKLOG];
};

/* The same for all streams of a worker. */
struct early_all {
	struct early_packet *oldest;	/* NULL: none */
	struct early_packet *newest;
	uint64_t memory;		/* bytes */
};

struct worker {
	pthread_mutex_t lock;
	pthread_cond_t idle;		/* no control call wants the lock any more */
	atomic_uint waiters;		/* control calls that want the lock */
	bool parked;			/* the worker waits for @idle */
	atomic_bool stop;
	unsigned int index;
	int epoll_fd;
	int stop_fd;
	int wakeup_fd;
	uint32_t pause_ns;
	int timeout_ms;			/* of the next wait, for early_expire(); -1: none */
	pthread_t thread;

	struct table table;
	struct scope *scopes[SCOPE_BUCKETS];
	struct early_all early;
	struct pp_stats stats;
	uint64_t strangers;		/* bucket of what unknown sources send to Python */
	struct batch *batch;

	uint64_t now_ns;
	uint64_t round_ns;		/* when the round began */
	uint64_t rate_since_ns;
	uint64_t rate_packets;
	uint64_t interval_ns;		/* between packets, 0: not known yet */

	struct backlog backlog;
};

struct pp {
	unsigned int workers;
	struct worker *worker[PP_MAX_WORKERS];
};

/* worker.c */
uint64_t monotonic_ns(void);
void worker_lock(struct worker *worker);
void worker_unlock(struct worker *worker);
void worker_event(struct worker *worker, const struct pp_event *event);
void worker_event_confirmed(struct worker *worker, const struct stream *stream);
void worker_event_index(struct worker *worker, const struct stream *stream);
void worker_event_elsewhere(struct worker *worker, struct stream *stream, const struct learn_packet *packet);

/* stream.c */
struct stream *stream_lock(struct pp *pp, int64_t id, struct worker **worker);
struct stream *stream_find(const struct table *table, int64_t id);
int stream_watch(const struct worker *worker, struct stream *stream);
void table_free(struct table *table);

/* relay.c */
void batch_init(struct batch *batch);
unsigned int relay_read(struct worker *worker, struct stream *stream);
void relay_early(struct worker *worker, struct stream *stream);
void address_from_socket(struct pp_address *out, const union pp_sockaddr *in);
socklen_t address_to_socket(union pp_sockaddr *out, const struct pp_address *in);

/* demux.c */
bool demux(struct worker *worker, struct stream *stream, const struct packet *packet);

/* early.c */
bool early_keep(struct worker *worker, struct stream *stream, const struct packet *packet);
bool early_take(struct worker *worker, struct stream *stream, struct packet *packet);
void early_give_up(struct worker *worker, struct stream *stream);
void early_expire(struct worker *worker, uint64_t now_ns);
int early_timeout_ms(const struct worker *worker, uint64_t now_ns);
void early_free(struct worker *worker);

/* secure.c */
bool secure_unprotect(struct worker *worker, struct stream *stream, struct packet *packet);
uint32_t secure_read_rtcp(struct stream *stream, const struct packet *packet, uint8_t *copy, uint32_t room);
bool secure_protect(struct worker *worker, struct stream *stream, struct packet *packet);
bool secure_is_indexed(const struct packet *packet);
void secure_sources(const struct stream *stream, enum direction direction, struct pp_sources *out);
void secure_advance(struct worker *worker, struct stream *stream, enum direction direction,
		    const struct pp_sources *in);
struct scope *secure_leave(struct worker *worker, struct stream *stream);
void scope_free(struct scope *scope);
void secure_free(struct worker *worker);

static inline void drop(struct worker *w, struct stream *s, enum pp_drop reason)
{
	s->counters.drops[reason]++;
	w->stats.drops[reason]++;
}

/* The one of a pair that is of a stream's family. */
static inline struct pp_traffic *traffic_of(struct pp_traffic pair[2], const struct stream *s)
{
	return &pair[s->learn.local.family == 6];
}

static inline void count(struct worker *w, struct stream *s, uint32_t len)
{
	struct pp_traffic *in = traffic_of(w->stats.received, s);

	s->counters.packets++;
	s->counters.bytes += len;
	w->stats.packets++;
	w->stats.bytes += len;
	in->packets++;
	in->bytes += len;
}

static inline void count_sent(struct worker *w, const struct stream *sink, uint32_t len)
{
	struct pp_traffic *out = traffic_of(w->stats.sent, sink);

	out->packets++;
	out->bytes += len;
}

/* What two readings of a stream's totals differ by; expected is not known before a run ends. */
static inline void count_totals(struct worker *w, const struct rtp_totals *now, const struct rtp_totals *before)
{
	w->stats.totals.lost += now->lost - before->lost;
	w->stats.totals.duplicates += now->duplicates - before->duplicates;
	w->stats.totals.reordered += now->reordered - before->reordered;
	w->stats.totals.skips += now->skips - before->skips;
	w->stats.totals.resets += now->resets - before->resets;
}

static inline unsigned int id_worker(int64_t id)
{
	return (id >> ID_SLOT_BITS) & ((1U << ID_WORKER_BITS) - 1);
}

static inline uint32_t id_slot(int64_t id)
{
	return id & (ID_MAX_SLOTS - 1);
}

#endif
