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

#include "learn.h"
#include "packetpath.h"

#define BATCH 32			/* packets per read, and per hold of the lock */
#define RING 1024			/* events a worker keeps for Python */
#define CHUNK 64			/* streams allocated at a time */
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

struct stream {
	int64_t id;			/* 0: the slot is free */
	int64_t rtp_sink;
	int64_t rtcp_sink;
	int fd;
	uint32_t generation;		/* of the next id of this slot */
	uint32_t next_free;
	uint8_t read_ahead;		/* packets to ask the socket for, 1..BATCH */
	uint8_t reads;			/* of one packet since it last had no more */
	uint8_t payload_type;
	struct learn learn;
	struct pp_counters counters;
};

/* The packets of one read, and those of them that go out together. */
struct batch {
	uint8_t data[BATCH][PP_PACKET_MAX];
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

struct ring {
	struct pp_event events[RING];
	unsigned int first;
	unsigned int used;
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
	pthread_t thread;

	struct table table;
	struct ring ring;
	struct pp_stats stats;
	struct batch *batch;

	uint64_t now_ns;
	uint64_t rate_since_ns;
	uint64_t rate_packets;
	uint64_t interval_ns;		/* between packets, 0: not known yet */
};

struct pp {
	unsigned int workers;
	struct worker *worker[PP_MAX_WORKERS];
};

/* worker.c */
uint64_t monotonic_ns(void);
void worker_lock(struct worker *worker);
void worker_unlock(struct worker *worker);
void worker_event(struct worker *worker, enum pp_event_type type, const struct stream *stream);

/* stream.c */
struct stream *stream_find(const struct table *table, int64_t id);
void table_free(struct table *table);

/* relay.c */
void batch_init(struct batch *batch);
unsigned int relay_read(struct worker *worker, struct stream *stream);
void address_from_socket(struct pp_address *out, const union pp_sockaddr *in);

static inline unsigned int id_worker(int64_t id)
{
	return (id >> ID_SLOT_BITS) & ((1U << ID_WORKER_BITS) - 1);
}

static inline uint32_t id_slot(int64_t id)
{
	return id & (ID_MAX_SLOTS - 1);
}

#endif
