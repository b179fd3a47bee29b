/* SPDX-License-Identifier: GPL-2.0 */
/*
 * xt_MEDIAPROXY: what its files share.
 *
 * main.c	the target of a rule: one packet, from the hook to the output
 * srtp.c	contexts: session keys and indices of one direction
 * table.c	tables and targets: check, publish, replace, free
 * proc.c	the files in /proc/mediaproxy
 *
 * Life of a target: made in process context, published by a pointer under RCU,
 * never changed afterwards; who replaces or removes it takes the pointer away
 * and frees it in process context after a grace period (queue_rcu_work). What
 * outlives it is shared and counted: counters, and contexts with their indices.
 * A table goes likewise, after its files: proc_remove() has waited for every
 * handler, so those need no reference.
 *
 * Locks: mp_net.lock (tables of a namespace), then mp_table.lock (its targets,
 * its owner). The packet path takes none but mp_context.lock and mp_counting.lock,
 * one at a time.
 */
#ifndef MEDIAPROXY_MODULE_H
#define MEDIAPROXY_MODULE_H

#include <linux/mutex.h>
#include <linux/netfilter.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/scatterlist.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/u64_stats_sync.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "xt_MEDIAPROXY.h"

#define MP_BLOCK 256				/* ports that share a block of pointers */
#define MP_PLACES (2 * 0x10000)			/* see mp_place() */

/* What a step of the packet path returns instead of a length. */
#define MP_DROP(reason) (-1 - (int)(reason))
#define MP_REASON(result) (-1 - (result))
#define MP_ROOM 4				/* behind a packet, for the rollover counter */

struct dst_entry;
struct net;
struct proc_dir_entry;
struct shash_desc;
struct skcipher_request;

struct mp_source {
	u32 ssrc;
	struct rtp_window window;
};

/* A packet, as SRTP sees it. */
struct mp_rtp {
	u8 *data;
	u32 len;
	u32 clear;				/* header, CSRC list, header extension */
	u64 index;
};

/* One direction under SRTP. Everything but the sources stays as it is made. */
struct mp_context {
	refcount_t users;
	u32 trailer;				/* length of MKI and tag */
	struct mediaproxy_srtp keys;		/* no SSRCs */
	struct compat_aes_key *f8;		/* two: session key, masked key */
	spinlock_t lock;			/* what follows, but for places and values of SSRCs */
	struct skcipher_request *ctr;
	struct skcipher_request *simd_ctr;	/* NULL: there is none, or ctr is as good */
	struct scatterlist sg;			/* of both */
	struct shash_desc *hmac;
	u32 source_count;			/* grows, with release */
	struct mp_source source[MEDIAPROXY_SSRCS];
};

struct mp_stats {
	struct mediaproxy_counters counters;
	struct u64_stats_sync sync;
};

struct mp_counting {
	refcount_t users;
	struct mp_stats __percpu *stats;
	spinlock_t lock;			/* of quality: a stream's packets may come on several CPUs */
	struct rtp_quality quality;
};

/* A route of our own on each CPU: no reference is taken for a packet. */
struct mp_route {
	struct dst_entry *dst;
	u32 cookie;
};

/* An address as packets have it. */
struct mp_address {
	union nf_inet_addr ip;
	__be16 port;
};

struct mp_target {
	u32 flags;				/* MEDIAPROXY_F_* */
	u8 tos;
	bool any_local;
	bool same_keys;				/* in and out: to verify is all there is to do */
	bool out6;				/* leaves as IPv6 */
	struct mp_address local;
	struct mp_address expect;
	struct mp_address source;
	struct mp_address destination;
	struct mp_context *decrypt;		/* NULL: no SRTP */
	struct mp_context *encrypt;
	struct mp_stats __percpu *stats;	/* of counting */
	struct mp_route __percpu *route;
	struct mp_counting *counting;
	u32 clocks[RTP_CLOCKS];
	struct mediaproxy_address address[4];	/* local, expect, source, destination, as given */
	struct rcu_work free;
};

struct mp_block {
	u32 count;				/* under mp_table.lock */
	struct mp_target __rcu *target[MP_BLOCK];
};

struct mp_table {
	struct mp_block __rcu *block[2][0x10000 / MP_BLOCK];	/* IPv4, IPv6; they last as long as the table */
	struct net *net;
	struct mutex lock;			/* changes of targets, and of what follows */
	struct proc_dir_entry *dir;
	u32 id;
	u32 targets;
	pid_t owner;				/* who has control open, 0 for nobody */
	bool deleted;
};

struct mp_net {
	struct mp_table __rcu *table[MEDIAPROXY_TABLES];
	struct net *net;
	struct mutex lock;			/* changes of table[], and what follows */
	struct proc_dir_entry *dir;
	bool used;				/* there has been a table */
};

extern unsigned int mp_net_id;

/* srtp.c */
int mp_context_open(struct mp_context **out, const struct mediaproxy_srtp *keys);
void mp_context_put(struct mp_context *context);
int mp_context_merge(struct mp_context *context, const struct mediaproxy_srtp *keys, bool apply);
void mp_context_progress(struct mp_context *context, struct mediaproxy_progress *out);
int mp_context_find(const struct mp_context *context, u32 ssrc);
int mp_unprotect(struct mp_context *context, int source, struct mp_rtp *rtp, bool keep);
int mp_protect(struct mp_context *context, int source, struct mp_rtp *rtp);
void mp_follow(struct mp_context *context, int source, u64 index);
bool mp_same_keys(const struct mediaproxy_srtp *one, const struct mediaproxy_srtp *other);

/* table.c */
int mp_table_setup(void);
void mp_table_teardown(void);
void mp_table_settle(void);
int mp_table_add(struct mp_net *net, u32 id);
int mp_table_delete(struct mp_net *net, u32 id, bool force);
int mp_table_command(struct mp_table *table, const struct mediaproxy_message *message);
struct mp_target *mp_table_from(struct mp_table *table, loff_t *place);
void mp_target_counters(const struct mp_target *target, struct mediaproxy_counters *out);
void mp_target_entry(const struct mp_target *target, struct mediaproxy_entry *out);

/* proc.c */
int mp_proc_net_setup(struct mp_net *net);
void mp_proc_net_teardown(struct mp_net *net);
int mp_proc_table_setup(struct mp_net *net, struct mp_table *table);

/**
 * mp_find() - the target of a port
 * @table: table, or NULL
 * @v6: for packets that arrive as IPv6
 * @port: host order
 *
 * Context: RCU read section. Return: the target or NULL.
 */
static inline struct mp_target *mp_find(const struct mp_table *table, bool v6, u16 port)
{
	struct mp_block *block;

	if (!table)
		return NULL;
	block = rcu_dereference(table->block[v6][port / MP_BLOCK]);
	return block ? rcu_dereference(block->target[port % MP_BLOCK]) : NULL;
}

#endif
