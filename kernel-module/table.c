// SPDX-License-Identifier: GPL-2.0
/* Tables and targets: checked, published, replaced, freed. See module.h on their lives. */
#include <linux/ipv6.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <net/dst.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>

#include "module.h"

#define KNOWN_FLAGS (MEDIAPROXY_F_PASS | MEDIAPROXY_F_TOS | MEDIAPROXY_F_RTCP_MUX | MEDIAPROXY_F_DTLS)

enum { LOCAL, EXPECT, SOURCE, DESTINATION };

static struct workqueue_struct *free_queue;

/* -- what a message may say */

static bool is_zero(const void *data, size_t len)
{
	return !memchr_inv(data, 0, len);
}

static bool zero_behind(const u8 *field, size_t size, size_t used)
{
	return used <= size && is_zero(field + used, size - used);
}

static bool address_valid(const struct mediaproxy_address *address, bool any)
{
	if (!address->port)
		return false;
	if (address->family == MEDIAPROXY_INET6 &&
	    ipv6_addr_type((const struct in6_addr *)address->address) & IPV6_ADDR_LINKLOCAL)
		return false;
	if (address->family == MEDIAPROXY_INET && !zero_behind(address->address, 16, 4))
		return false;
	if (address->family != MEDIAPROXY_INET && address->family != MEDIAPROXY_INET6)
		return false;
	return any || !is_zero(address->address, 16);
}

static bool ssrcs_valid(const struct mediaproxy_srtp *srtp)
{
	u32 i, j;

	if (srtp->ssrc_count > MEDIAPROXY_SSRCS ||
	    !zero_behind((const u8 *)srtp->ssrc, sizeof(srtp->ssrc), srtp->ssrc_count * sizeof(srtp->ssrc[0])))
		return false;
	for (i = 0; i < srtp->ssrc_count; i++) {
		if (srtp->ssrc[i].reserved || srtp->ssrc[i].window.next > RTP_INDEX_END)
			return false;
		for (j = 0; j < i; j++)
			if (srtp->ssrc[j].ssrc == srtp->ssrc[i].ssrc)
				return false;
	}
	return true;
}

static bool cipher_valid(const struct mediaproxy_srtp *srtp)
{
	switch (srtp->cipher) {
	case MEDIAPROXY_CIPHER_NULL:
		return !srtp->key_len;
	case MEDIAPROXY_CIPHER_AES_CM:
		return srtp->key_len == 16 || srtp->key_len == 24 || srtp->key_len == 32;
	case MEDIAPROXY_CIPHER_AES_F8:
		return srtp->key_len == 16;
	default:
		return false;
	}
}

static bool auth_valid(const struct mediaproxy_srtp *srtp)
{
	switch (srtp->auth) {
	case MEDIAPROXY_AUTH_NULL:
		return !srtp->tag_len && is_zero(srtp->auth_key, sizeof(srtp->auth_key));
	case MEDIAPROXY_AUTH_HMAC_SHA1:
		return srtp->tag_len >= 4 && srtp->tag_len <= MEDIAPROXY_TAG_MAX;
	default:
		return false;
	}
}

static bool srtp_valid(const struct mediaproxy_srtp *srtp)
{
	const struct mediaproxy_srtp none = { .cipher = MEDIAPROXY_CIPHER_NULL, .auth = MEDIAPROXY_AUTH_NULL };

	if (srtp->cipher == MEDIAPROXY_CIPHER_NULL && srtp->auth == MEDIAPROXY_AUTH_NULL)
		return !memcmp(srtp, &none, sizeof(none));
	return cipher_valid(srtp) && auth_valid(srtp) && ssrcs_valid(srtp) &&
	       is_zero(srtp->reserved, sizeof(srtp->reserved)) &&
	       zero_behind(srtp->key, sizeof(srtp->key), srtp->key_len) &&
	       zero_behind(srtp->mki, sizeof(srtp->mki), srtp->mki_len);
}

static bool target_valid(const struct mediaproxy_target *target)
{
	return address_valid(&target->local, true) && address_valid(&target->expect, false) &&
	       address_valid(&target->source, false) && address_valid(&target->destination, false) &&
	       target->local.family == target->expect.family &&
	       target->source.family == target->destination.family &&
	       !(target->flags & ~KNOWN_FLAGS) && (target->flags & MEDIAPROXY_F_TOS || !target->tos) &&
	       is_zero(target->reserved, sizeof(target->reserved)) &&
	       srtp_valid(&target->decrypt) && srtp_valid(&target->encrypt);
}

/* Without it there are no routes to look up: what holds them has not been made. */
static bool lacks_ipv6(const struct mediaproxy_target *target)
{
	return (target->local.family == MEDIAPROXY_INET6 || target->source.family == MEDIAPROXY_INET6) &&
	       !ipv6_mod_enabled();
}

/* -- targets */

static void target_free(struct mp_target *target)
{
	int cpu;

	if (target->route)
		for_each_possible_cpu(cpu)
			dst_release(per_cpu_ptr(target->route, cpu)->dst);
	free_percpu(target->route);
	if (target->counting && refcount_dec_and_test(&target->counting->users)) {
		free_percpu(target->counting->stats);
		kfree(target->counting);
	}
	mp_context_put(target->decrypt);
	mp_context_put(target->encrypt);
	kfree(target);
}

static void target_free_work(struct work_struct *work)
{
	target_free(container_of(to_rcu_work(work), struct mp_target, free));
}

static struct mp_counting *counting_new(void)
{
	struct mp_counting *counting = kzalloc(sizeof(*counting), GFP_KERNEL_ACCOUNT);
	int cpu;

	if (!counting)
		return NULL;
	refcount_set(&counting->users, 1);
	spin_lock_init(&counting->lock);
	counting->stats = alloc_percpu_gfp(struct mp_stats, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!counting->stats) {
		kfree(counting);
		return NULL;
	}
	for_each_possible_cpu(cpu)
		u64_stats_init(&per_cpu_ptr(counting->stats, cpu)->sync);
	return counting;
}

static int open_counting(struct mp_target *target, const struct mp_target *old)
{
	target->route = alloc_percpu_gfp(struct mp_route, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!target->route)
		return -ENOMEM;
	if (old) {
		target->counting = old->counting;
		refcount_inc(&target->counting->users);
	} else {
		target->counting = counting_new();
		if (!target->counting)
			return -ENOMEM;
	}
	target->stats = target->counting->stats;
	return 0;
}

/* One whose keys stay goes on, with its indices. */
static int open_context(struct mp_context **out, const struct mediaproxy_srtp *keys, struct mp_context *old)
{
	if (!old || !mp_same_keys(&old->keys, keys))
		return mp_context_open(out, keys);
	refcount_inc(&old->users);
	*out = old;
	return mp_context_merge(old, keys, false);
}

static void set_address(struct mp_address *out, const struct mediaproxy_address *in)
{
	memcpy(&out->ip, in->address, sizeof(out->ip));
	out->port = htons(in->port);
}

static void set_plain(struct mp_target *target, const struct mediaproxy_target *from)
{
	target->address[LOCAL] = from->local;
	target->address[EXPECT] = from->expect;
	target->address[SOURCE] = from->source;
	target->address[DESTINATION] = from->destination;
	set_address(&target->local, &from->local);
	set_address(&target->expect, &from->expect);
	set_address(&target->source, &from->source);
	set_address(&target->destination, &from->destination);
	target->any_local = is_zero(from->local.address, sizeof(from->local.address));
	target->out6 = from->source.family == MEDIAPROXY_INET6;
	target->flags = from->flags;
	target->tos = from->tos;
	memcpy(target->clocks, from->clocks, sizeof(target->clocks));
}

/* Makes a target, to replace @old if there is one, which has not changed if this fails. */
static int target_new(struct mp_target **out, const struct mediaproxy_target *from, const struct mp_target *old)
{
	struct mp_target *target = kzalloc(sizeof(*target), GFP_KERNEL_ACCOUNT);
	int err;

	if (!target)
		return -ENOMEM;
	set_plain(target, from);
	err = open_counting(target, old) ?:
	      open_context(&target->decrypt, &from->decrypt, old ? old->decrypt : NULL) ?:
	      open_context(&target->encrypt, &from->encrypt, old ? old->encrypt : NULL);
	if (err) {
		target_free(target);
		return err;
	}
	target->same_keys = target->decrypt && target->encrypt &&
			    mp_same_keys(&from->decrypt, &from->encrypt);
	if (target->decrypt)
		mp_context_merge(target->decrypt, &from->decrypt, true);
	if (target->encrypt)
		mp_context_merge(target->encrypt, &from->encrypt, true);
	*out = target;
	return 0;
}

/**
 * mp_target_counters() - sum up what all CPUs have counted
 * @target: target
 * @out: to fill
 *
 * Context: any, while @target lasts.
 */
void mp_target_counters(const struct mp_target *target, struct mediaproxy_counters *out)
{
	struct mediaproxy_counters one;
	const struct mp_stats *stats;
	unsigned int start;
	int cpu, i;

	memset(out, 0, sizeof(*out));
	for_each_possible_cpu(cpu) {
		stats = per_cpu_ptr(target->stats, cpu);
		do {
			start = u64_stats_fetch_begin(&stats->sync);
			one = stats->counters;
		} while (u64_stats_fetch_retry(&stats->sync, start));
		out->packets += one.packets;
		out->bytes += one.bytes;
		out->passed += one.passed;
		for (i = 0; i < MEDIAPROXY_DROP_REASONS; i++)
			out->drops[i] += one.drops[i];
	}
}

static void quality_entry(struct mp_counting *counting, struct mediaproxy_quality *out)
{
	const struct rtp_quality *quality = &counting->quality;

	spin_lock_bh(&counting->lock);
	out->totals = quality->totals;
	out->totals.expected = rtp_quality_expected(quality);
	out->jitter = quality->jitter;
	out->ticks = quality->ticks;
	out->ssrc = quality->ssrc;
	out->type = quality->type;
	spin_unlock_bh(&counting->lock);
}

/**
 * mp_target_entry() - what blist says of a target
 * @target: target
 * @out: to fill
 *
 * Context: process, while @target lasts.
 */
void mp_target_entry(const struct mp_target *target, struct mediaproxy_entry *out)
{
	memset(out, 0, sizeof(*out));
	out->local = target->address[LOCAL];
	out->expect = target->address[EXPECT];
	out->source = target->address[SOURCE];
	out->destination = target->address[DESTINATION];
	out->flags = target->flags;
	out->tos = target->tos;
	mp_target_counters(target, &out->counters);
	quality_entry(target->counting, &out->quality);
	mp_context_progress(target->decrypt, &out->decrypt);
	mp_context_progress(target->encrypt, &out->encrypt);
}

/* -- a table's targets */

static struct mp_block *block_of(struct mp_table *table, int v6, u16 port)
{
	return rcu_dereference_protected(table->block[v6][port / MP_BLOCK], lockdep_is_held(&table->lock));
}

static struct mp_target *target_of(struct mp_table *table, struct mp_block *block, u16 port)
{
	return block ? rcu_dereference_protected(block->target[port % MP_BLOCK], lockdep_is_held(&table->lock)) : NULL;
}

/**
 * mp_table_from() - the first target at or behind a place
 * @table: table
 * @place: 2 * port, + 1 for IPv6; moves to the target's, or to the end
 *
 * Context: process, with the table's lock. Return: the target or NULL.
 */
struct mp_target *mp_table_from(struct mp_table *table, loff_t *place)
{
	struct mp_block *block[2];
	struct mp_target *target;
	u16 port;

	while (*place < MP_PLACES) {
		port = *place / 2;
		block[0] = block_of(table, 0, port);
		block[1] = block_of(table, 1, port);
		if (!(block[0] && block[0]->count) && !(block[1] && block[1]->count)) {
			*place = 2 * ((port | (MP_BLOCK - 1)) + 1);
			continue;
		}
		target = target_of(table, block[*place % 2], port);
		if (target)
			return target;
		++*place;
	}
	return NULL;
}

static int add(struct mp_table *table, const struct mediaproxy_target *from)
{
	bool v6 = from->local.family == MEDIAPROXY_INET6;
	u16 port = from->local.port;
	struct mp_block *block = block_of(table, v6, port);
	struct mp_target *target;
	int err;

	if (target_of(table, block, port))
		return -EEXIST;
	err = target_new(&target, from, NULL);
	if (err)
		return err;
	if (!block) {
		block = kzalloc(sizeof(*block), GFP_KERNEL_ACCOUNT);
		if (!block) {
			target_free(target);
			return -ENOMEM;
		}
		rcu_assign_pointer(table->block[v6][port / MP_BLOCK], block);
	}
	rcu_assign_pointer(block->target[port % MP_BLOCK], target);
	block->count++;
	table->targets++;
	return 0;
}

static int update(struct mp_table *table, const struct mediaproxy_target *from)
{
	u16 port = from->local.port;
	struct mp_block *block = block_of(table, from->local.family == MEDIAPROXY_INET6, port);
	struct mp_target *target, *old = target_of(table, block, port);
	int err;

	if (!old)
		return -ENOENT;
	err = target_new(&target, from, old);
	if (err)
		return err;
	rcu_assign_pointer(block->target[port % MP_BLOCK], target);
	synchronize_rcu_expedited();
	target_free(old);
	return 0;
}

static int delete(struct mp_table *table, const struct mediaproxy_address *local)
{
	struct mp_block *block = block_of(table, local->family == MEDIAPROXY_INET6, local->port);
	struct mp_target *target = target_of(table, block, local->port);

	if (!target)
		return -ENOENT;
	RCU_INIT_POINTER(block->target[local->port % MP_BLOCK], NULL);
	block->count--;
	table->targets--;
	INIT_RCU_WORK(&target->free, target_free_work);
	queue_rcu_work(free_queue, &target->free);
	return 0;
}

static bool key_valid(const struct mediaproxy_address *local)
{
	return local->port && (local->family == MEDIAPROXY_INET || local->family == MEDIAPROXY_INET6);
}

/**
 * mp_table_command() - do what a message says
 * @table: table
 * @message: the message
 *
 * Context: process. Return: 0 or a negative errno, as xt_MEDIAPROXY.h lists them.
 */
int mp_table_command(struct mp_table *table, const struct mediaproxy_message *message)
{
	const struct mediaproxy_target *target = &message->target;
	int result;

	if (message->abi != MEDIAPROXY_ABI)
		return -EPROTO;
	if (message->command == MEDIAPROXY_NOOP)
		return 0;
	if (message->command < MEDIAPROXY_NOOP || message->command > MEDIAPROXY_UPDATE)
		return -EINVAL;
	if (message->command == MEDIAPROXY_DEL ? !key_valid(&target->local) : !target_valid(target))
		return -EINVAL;
	if (message->command != MEDIAPROXY_DEL && lacks_ipv6(target))
		return -EAFNOSUPPORT;
	mutex_lock(&table->lock);
	if (message->command == MEDIAPROXY_DEL)
		result = delete(table, &target->local);
	else
		result = message->command == MEDIAPROXY_ADD ? add(table, target) : update(table, target);
	mutex_unlock(&table->lock);
	return result;
}

/* -- tables */

static void table_free(struct mp_table *table)
{
	struct mp_block *block;
	int v6, i, port;

	for (v6 = 0; v6 < 2; v6++)
		for (i = 0; i < ARRAY_SIZE(table->block[0]); i++) {
			block = rcu_dereference_raw(table->block[v6][i]);
			for (port = 0; block && block->count && port < MP_BLOCK; port++)
				if (rcu_access_pointer(block->target[port]))
					target_free(rcu_dereference_raw(block->target[port]));
			kfree(block);
		}
	mutex_destroy(&table->lock);
	kfree(table);
}

/**
 * mp_table_add() - make an empty table
 * @net: of a namespace
 * @id: its number, less than MEDIAPROXY_TABLES
 *
 * Context: process, with the lock of @net. Return: 0 or a negative errno.
 */
int mp_table_add(struct mp_net *net, u32 id)
{
	struct mp_table *table;
	int err;

	if (rcu_access_pointer(net->table[id]))
		return -EEXIST;
	table = kzalloc(sizeof(*table), GFP_KERNEL_ACCOUNT);
	if (!table)
		return -ENOMEM;
	mutex_init(&table->lock);
	table->net = net->net;
	table->id = id;
	err = mp_proc_table_setup(net, table);
	if (err) {
		proc_remove(table->dir);
		table_free(table);
		return err;
	}
	__module_get(THIS_MODULE);
	net->used = true;
	rcu_assign_pointer(net->table[id], table);
	return 0;
}

/**
 * mp_table_delete() - remove a table with its targets
 * @net: of a namespace
 * @id: its number, less than MEDIAPROXY_TABLES
 * @force: its files have gone already, whoever had them open
 *
 * Context: process, with the lock of @net. Return: 0 or a negative errno.
 */
int mp_table_delete(struct mp_net *net, u32 id, bool force)
{
	struct mp_table *table = rcu_dereference_protected(net->table[id], lockdep_is_held(&net->lock));

	if (!table)
		return -ENOENT;
	mutex_lock(&table->lock);
	if (table->owner && !force) {
		mutex_unlock(&table->lock);
		return -EBUSY;
	}
	table->deleted = true;
	mutex_unlock(&table->lock);
	RCU_INIT_POINTER(net->table[id], NULL);
	if (!force)
		proc_remove(table->dir);
	synchronize_rcu();
	table_free(table);
	module_put(THIS_MODULE);
	return 0;
}

/**
 * mp_table_setup() - prepare for tables
 *
 * Return: 0 or -ENOMEM.
 */
int mp_table_setup(void)
{
	free_queue = alloc_workqueue("xt_MEDIAPROXY", WQ_UNBOUND, 0);
	return free_queue ? 0 : -ENOMEM;
}

/**
 * mp_table_settle() - see those targets freed that were deleted before
 *
 * They hold routes, all of which a namespace must have back before it takes down IPv6 and IPsec:
 * ip6_route_net_exit() frees what counts them.
 * Context: process, when nobody deletes targets of that namespace any more.
 */
void mp_table_settle(void)
{
	rcu_barrier();
	flush_workqueue(free_queue);
}

/**
 * mp_table_teardown() - see the last targets freed
 *
 * Context: process, when there are no tables any more.
 */
void mp_table_teardown(void)
{
	rcu_barrier();
	destroy_workqueue(free_queue);
}
