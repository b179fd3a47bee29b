// SPDX-License-Identifier: GPL-2.0
/*
 * The files in /proc/mediaproxy. xt_MEDIAPROXY.h says what they contain and which errors they give.
 *
 * A handler may use its table or namespace without a reference: proc_remove(), which comes
 * first when they go, waits for it.
 */
#include <linux/ctype.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <net/net_namespace.h>

#include "module.h"

#define COMMAND_MIN 6
#define COMMAND_MAX 20

static int may_control(const struct net *net)
{
	return ns_capable(net->user_ns, CAP_NET_ADMIN) ? 0 : -EPERM;
}

/* -- control */

static int control_open(struct inode *inode, struct file *file)
{
	struct mp_net *net = pde_data(inode);
	int err = may_control(net->net);

	if (err)
		return err;
	return try_module_get(THIS_MODULE) ? 0 : -ENXIO;
}

static int control_release(struct inode *inode, struct file *file)
{
	module_put(THIS_MODULE);
	return 0;
}

static int parse_command(const char *text, bool *is_add, u32 *id)
{
	*is_add = !strncmp(text, "add ", 4);
	if (!*is_add && strncmp(text, "del ", 4))
		return -EINVAL;
	if (!isdigit(text[4]) || kstrtouint(text + 4, 10, id) || *id >= MEDIAPROXY_TABLES)
		return -EINVAL;
	return 0;
}

static ssize_t control_write(struct file *file, const char __user *data, size_t len, loff_t *position)
{
	struct mp_net *net = pde_data(file_inode(file));
	char text[COMMAND_MAX + 1] = { 0 };
	bool is_add;
	int err;
	u32 id;

	if (len < COMMAND_MIN || len > COMMAND_MAX)
		return -EINVAL;
	if (copy_from_user(text, data, len))
		return -EFAULT;
	if (strlen(text) != len || parse_command(text, &is_add, &id))
		return -EINVAL;
	mutex_lock(&net->lock);
	err = is_add ? mp_table_add(net, id) : mp_table_delete(net, id, false);
	mutex_unlock(&net->lock);
	return err ?: (ssize_t)len;
}

static const struct proc_ops control_ops = {
	.proc_open	= control_open,
	.proc_write	= control_write,
	.proc_release	= control_release,
	.proc_lseek	= noop_llseek,
};

/* -- list */

static int list_show(struct seq_file *seq, void *data)
{
	struct mp_net *net = pde_data(file_inode(seq->file));
	u32 id;

	for (id = 0; id < MEDIAPROXY_TABLES; id++)
		if (rcu_access_pointer(net->table[id]))
			seq_printf(seq, "%u\n", id);
	return 0;
}

/* -- N/control */

static int table_control_open(struct inode *inode, struct file *file)
{
	struct mp_table *table = pde_data(inode);
	int err = may_control(table->net);

	if (err)
		return err;
	mutex_lock(&table->lock);
	if (table->deleted)
		err = -ENOENT;
	else if (table->owner)
		err = -EBUSY;
	else
		table->owner = task_tgid_vnr(current);
	mutex_unlock(&table->lock);
	return err;
}

static int table_control_release(struct inode *inode, struct file *file)
{
	struct mp_table *table = pde_data(inode);

	mutex_lock(&table->lock);
	table->owner = 0;
	mutex_unlock(&table->lock);
	return 0;
}

static ssize_t table_control_write(struct file *file, const char __user *data, size_t len, loff_t *position)
{
	struct mp_table *table = pde_data(file_inode(file));
	struct mediaproxy_message *message;
	int err;

	if (len != sizeof(*message))
		return -EIO;
	message = memdup_user(data, len);
	if (IS_ERR(message))
		return PTR_ERR(message);
	err = mp_table_command(table, message);
	kfree_sensitive(message);
	return err ?: (ssize_t)len;
}

static const struct proc_ops table_control_ops = {
	.proc_open	= table_control_open,
	.proc_write	= table_control_write,
	.proc_release	= table_control_release,
	.proc_lseek	= noop_llseek,
};

/* -- N/blist */

static int blist_open(struct inode *inode, struct file *file)
{
	const struct mp_table *table = pde_data(inode);

	return may_control(table->net);
}

/* Returns the bytes read, or a negative errno if not even one entry could be. */
static ssize_t read_entries(struct mp_table *table, struct mediaproxy_entry *entry, char __user *data, size_t len,
			    loff_t *place)
{
	const struct mp_target *target;
	size_t done;

	for (done = 0; done < len; done += sizeof(*entry)) {
		target = mp_table_from(table, place);
		if (!target)
			break;
		mp_target_entry(target, entry);
		if (copy_to_user(data + done, entry, sizeof(*entry)))
			return done ?: -EFAULT;
		++*place;
		if (signal_pending(current))
			return done + sizeof(*entry);
	}
	return done;
}

static ssize_t blist_read(struct file *file, char __user *data, size_t len, loff_t *place)
{
	struct mp_table *table = pde_data(file_inode(file));
	struct mediaproxy_entry *entry;
	ssize_t result;

	if (len % sizeof(*entry))
		return -EINVAL;
	entry = kmalloc(sizeof(*entry), GFP_KERNEL);
	if (!entry)
		return -ENOMEM;
	mutex_lock(&table->lock);
	result = read_entries(table, entry, data, len, place);
	mutex_unlock(&table->lock);
	kfree(entry);
	return result;
}

static const struct proc_ops blist_ops = {
	.proc_open	= blist_open,
	.proc_read	= blist_read,
	.proc_lseek	= default_llseek,
};

/* -- N/list */

static void *table_list_start(struct seq_file *seq, loff_t *place)
{
	struct mp_table *table = pde_data(file_inode(seq->file));

	mutex_lock(&table->lock);
	return mp_table_from(table, place);
}

static void *table_list_next(struct seq_file *seq, void *target, loff_t *place)
{
	++*place;
	return mp_table_from(pde_data(file_inode(seq->file)), place);
}

static void table_list_stop(struct seq_file *seq, void *target)
{
	struct mp_table *table = pde_data(file_inode(seq->file));

	mutex_unlock(&table->lock);
}

static void show_address(struct seq_file *seq, const char *label, const struct mediaproxy_address *address)
{
	const u8 *a = address->address;
	int i;

	seq_printf(seq, "    %6s ", label);
	if (address->family == MEDIAPROXY_INET) {
		seq_printf(seq, "inet4 %pI4:%u\n", a, address->port);
		return;
	}
	for (i = 0; i < 16; i += 2)
		seq_printf(seq, "%s%x", i ? ":" : "inet6 [", rtp_be16(a + i));
	seq_printf(seq, "]:%u\n", address->port);
}

static void show_counters(struct seq_file *seq, const struct mediaproxy_counters *counters)
{
	u64 errors = 0;
	int i;

	for (i = 0; i < MEDIAPROXY_DROP_REASONS; i++)
		errors += counters->drops[i];
	seq_printf(seq, "    stats: %20llu bytes, %20llu packets, %20llu errors\n", counters->bytes, counters->packets,
		   errors);
}

static void show_srtp(struct seq_file *seq, const char *direction, const struct mp_context *context,
		      const struct mediaproxy_progress *progress)
{
	static const char * const ciphers[] = {
		[MEDIAPROXY_CIPHER_AES_CM] = "AES-CM",
		[MEDIAPROXY_CIPHER_AES_F8] = "AES-F8",
	};
	u32 i;

	if (!context)
		return;
	seq_printf(seq, "    SRTP %s parameters:\n", direction);
	if (context->keys.cipher != MEDIAPROXY_CIPHER_NULL)
		seq_printf(seq, "        cipher: %s\n", ciphers[context->keys.cipher]);
	if (context->keys.mki_len)
		seq_printf(seq, "            MKI: length %u, %8phC...\n", context->keys.mki_len, context->keys.mki);
	if (context->keys.auth != MEDIAPROXY_AUTH_NULL)
		seq_printf(seq, "        HMAC: HMAC-SHA1\n            auth tag length: %u\n", context->keys.tag_len);
	for (i = 0; i < progress->ssrc_count; i++)
		seq_printf(seq, "        SSRC: %08x, next index %llu\n", progress->ssrc[i].ssrc,
			   progress->ssrc[i].window.next);
}

static void show_options(struct seq_file *seq, const struct mp_target *target)
{
	u32 flags = target->flags;

	if (flags & (MEDIAPROXY_F_PASS | MEDIAPROXY_F_DTLS | MEDIAPROXY_F_RTCP_MUX))
		seq_printf(seq, "    options:%s%s%s\n", flags & MEDIAPROXY_F_RTCP_MUX ? " rtcp-mux" : "",
			   flags & MEDIAPROXY_F_DTLS ? " dtls" : "", flags & MEDIAPROXY_F_PASS ? " pass" : "");
	if (flags & MEDIAPROXY_F_TOS)
		seq_printf(seq, "    TOS: %u\n", target->tos);
}

static int table_list_show(struct seq_file *seq, void *data)
{
	const struct mp_target *target = data;
	struct mediaproxy_entry *entry = kmalloc(sizeof(*entry), GFP_KERNEL);

	if (!entry)
		return -ENOMEM;
	mp_target_entry(target, entry);
	seq_printf(seq, "port %5u:\n", entry->local.port);
	show_address(seq, "src", &entry->source);
	show_address(seq, "dst", &entry->destination);
	show_address(seq, "local", &entry->local);
	show_address(seq, "expect", &entry->expect);
	show_counters(seq, &entry->counters);
	show_srtp(seq, "decryption (incoming)", target->decrypt, &entry->decrypt);
	show_srtp(seq, "encryption (outgoing)", target->encrypt, &entry->encrypt);
	show_options(seq, target);
	kfree(entry);
	return 0;
}

static const struct seq_operations table_list_ops = {
	.start	= table_list_start,
	.next	= table_list_next,
	.stop	= table_list_stop,
	.show	= table_list_show,
};

/* -- N/status */

static u32 count_blocks(const struct mp_table *table)
{
	const struct mp_block *ip4, *ip6;
	u32 i, count = 0;

	for (i = 0; i < ARRAY_SIZE(table->block[0]); i++) {
		ip4 = rcu_dereference_protected(table->block[0][i], lockdep_is_held(&table->lock));
		ip6 = rcu_dereference_protected(table->block[1][i], lockdep_is_held(&table->lock));
		count += (ip4 && ip4->count) || (ip6 && ip6->count);
	}
	return count;
}

/* A table has no other references than the namespace's: packets and readers are waited for instead. */
static int status_show(struct seq_file *seq, void *data)
{
	struct mp_table *table = pde_data(file_inode(seq->file));

	mutex_lock(&table->lock);
	seq_printf(seq, "Refcount:    1\nControl PID: %d\nTargets:     %u\nBuckets:     %u\n",
		   table->owner, table->targets, count_blocks(table));
	mutex_unlock(&table->lock);
	return 0;
}

/* -- the folders */

/* Root of the user namespace that owns the network namespace owns its files. */
static bool own(struct proc_dir_entry *entry, const struct net *net)
{
	kuid_t uid = make_kuid(net->user_ns, 0);
	kgid_t gid = make_kgid(net->user_ns, 0);

	if (!entry)
		return false;
	proc_set_user(entry, uid_valid(uid) ? uid : GLOBAL_ROOT_UID, gid_valid(gid) ? gid : GLOBAL_ROOT_GID);
	return true;
}

/**
 * mp_proc_table_setup() - make the files of a table
 * @net: of its namespace
 * @table: table
 *
 * Context: process. Return: 0; -ENOMEM, with what there is in table->dir.
 */
int mp_proc_table_setup(struct mp_net *net, struct mp_table *table)
{
	char name[4];

	snprintf(name, sizeof(name), "%u", table->id);
	table->dir = proc_net_mkdir(net->net, name, net->dir);
	if (own(table->dir, net->net) &&
	    own(proc_create_data("control", 0220, table->dir, &table_control_ops, table), net->net) &&
	    own(proc_create_data("blist", 0400, table->dir, &blist_ops, table), net->net) &&
	    own(proc_create_seq_data("list", 0440, table->dir, &table_list_ops, table), net->net) &&
	    own(proc_create_single_data("status", 0440, table->dir, status_show, table), net->net))
		return 0;
	return -ENOMEM;
}

/**
 * mp_proc_net_setup() - make the folder of a namespace
 * @net: of the namespace
 *
 * Context: process. Return: 0 or -ENOMEM.
 */
int mp_proc_net_setup(struct mp_net *net)
{
	net->dir = proc_net_mkdir(net->net, "mediaproxy", net->net->proc_net);
	if (own(net->dir, net->net) &&
	    own(proc_create_data("control", 0220, net->dir, &control_ops, net), net->net) &&
	    own(proc_create_single_data("list", 0444, net->dir, list_show, net), net->net))
		return 0;
	mp_proc_net_teardown(net);
	return -ENOMEM;
}

/**
 * mp_proc_net_teardown() - remove the folder of a namespace
 * @net: of the namespace
 *
 * Context: process, without its lock.
 */
void mp_proc_net_teardown(struct mp_net *net)
{
	proc_remove(net->dir);
}
