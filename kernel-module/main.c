// SPDX-License-Identifier: GPL-2.0
/*
 * The target MEDIAPROXY: one packet, from the rule to the output.
 *
 *	mediaproxy_tg4/6	is it from expect to the local of a target?
 *	forward			the steps below, and what they mean to the rule
 *	  inspect		is it RTP, whole, and of a listed SSRC?  else up
 *	  route_of, own		where to; a packet we may write to, with room
 *	  transform		SRTP to RTP, RTP to SRTP
 *	  rate			what is missing, late or there twice, and the jitter
 *	  rewrite, send4/6	new headers, old packet
 *
 * Until own() nothing has changed, and the packet can be handed up. From then on
 * it is ours. All of this runs with bottom halves off and under RCU, allocates
 * nothing but for packets that others hold too or that lack room, and logs nothing.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/netfilter/x_tables.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/proc_fs.h>
#include <linux/skbuff.h>
#include <linux/udp.h>
#include <net/dsfield.h>
#include <net/dst.h>
#include <net/inet_ecn.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>
#include <net/route.h>
#include <net/udp.h>

#include "module.h"

unsigned int mp_net_id __read_mostly;

enum mp_verdict { MP_GO_ON, MP_PASS, MP_DROPPED, MP_SENT };

struct mp_packet {
	struct sk_buff *skb;
	const struct mp_target *target;
	struct dst_entry *dst;
	u32 udp;				/* offset of the UDP header */
	struct mp_rtp rtp;
	int in;					/* place of its SSRC in either context */
	int out;
	enum mediaproxy_drop reason;
	u8 tos;
	u8 ttl;
};

static enum mp_verdict dropped(struct mp_packet *packet, enum mediaproxy_drop reason)
{
	packet->reason = reason;
	return MP_DROPPED;
}

/* -- is it for us to forward? */

static bool checksum_wrong(const struct mp_packet *packet, bool v6)
{
	struct sk_buff *skb = packet->skb;
	const struct udphdr *udp = (const struct udphdr *)(skb->data + packet->udp);

	if (skb_csum_unnecessary(skb) || (!udp->check && !v6))
		return false;
	return v6 ? nf_ip6_checksum(skb, NF_INET_LOCAL_IN, packet->udp, IPPROTO_UDP)
		  : nf_ip_checksum(skb, NF_INET_LOCAL_IN, packet->udp, IPPROTO_UDP);
}

static bool find_source(struct mp_packet *packet)
{
	const struct mp_target *target = packet->target;
	u32 ssrc = rtp_be32(packet->rtp.data + 8);

	if (target->decrypt)
		packet->in = mp_context_find(target->decrypt, ssrc);
	if (target->encrypt)
		packet->out = mp_context_find(target->encrypt, ssrc);
	return packet->in >= 0 && packet->out >= 0;
}

static enum mp_verdict inspect(struct mp_packet *packet, bool v6)
{
	struct sk_buff *skb = packet->skb;
	const struct udphdr *udp;

	if (packet->target->flags & MEDIAPROXY_F_PASS || skb_is_gso(skb) || compat_trace_needs(skb))
		return MP_PASS;
	if (skb_linearize(skb))
		return MP_PASS;
	udp = (const struct udphdr *)(skb->data + packet->udp);
	if (ntohs(udp->len) != skb->len - packet->udp)
		return MP_PASS;
	packet->rtp.data = (u8 *)(udp + 1);
	packet->rtp.len = skb->len - packet->udp - sizeof(*udp);
	packet->rtp.clear = rtp_header_len(packet->rtp.data, packet->rtp.len);
	if (!packet->rtp.clear || !find_source(packet) || checksum_wrong(packet, v6))
		return MP_PASS;
	return packet->ttl > 1 ? MP_GO_ON : dropped(packet, MEDIAPROXY_DROP_TTL);
}

/* -- where to */

static struct dst_entry *lookup4(struct net *net, const struct mp_target *target)
{
	struct flowi4 flow = {
		.saddr = target->source.ip.ip,
		.daddr = target->destination.ip.ip,
		.fl4_sport = target->source.port,
		.fl4_dport = target->destination.port,
		.flowi4_proto = IPPROTO_UDP,
		.flowi4_flags = FLOWI_FLAG_ANYSRC,
	};
	struct rtable *route;

	compat_flow_tos(&flow, target->tos);
	route = ip_route_output_flow(net, &flow, NULL);
	return IS_ERR(route) ? ERR_CAST(route) : &route->dst;
}

static struct dst_entry *lookup6(struct net *net, const struct mp_target *target)
{
	struct flowi6 flow = {
		.saddr = target->source.ip.in6,
		.daddr = target->destination.ip.in6,
		.fl6_sport = target->source.port,
		.fl6_dport = target->destination.port,
		.flowi6_proto = IPPROTO_UDP,
		.flowi6_flags = FLOWI_FLAG_ANYSRC,
		.flowlabel = ip6_make_flowinfo(target->tos, 0),
	};

	return ip6_dst_lookup_flow(net, NULL, &flow, NULL);
}

/* What was found stays in the hands of this CPU until it is out of date: see skb_dst_set_noref(). */
static struct dst_entry *route_of(const struct mp_target *target, struct net *net)
{
	struct mp_route *route = this_cpu_ptr(target->route);
	struct dst_entry *dst = route->dst;

	if (likely(dst && dst_check(dst, route->cookie)))
		return dst;
	route->dst = NULL;
	dst_release(dst);
	dst = target->out6 ? lookup6(net, target) : lookup4(net, target);
	if (IS_ERR(dst))
		return NULL;
	route->cookie = target->out6 ? rt6_get_cookie(container_of(dst, struct rt6_info, dst)) : 0;
	route->dst = dst;
	return dst;
}

/* -- a packet we may write to */

static u32 ip_header_len(const struct mp_target *target)
{
	return target->out6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
}

static bool own(struct mp_packet *packet)
{
	const struct mp_target *target = packet->target;
	int head = LL_RESERVED_SPACE(packet->dst->dev) + ip_header_len(target) - packet->udp;
	int tail = MP_ROOM + (target->encrypt ? target->encrypt->trailer : 0);
	struct sk_buff *skb = packet->skb;

	head -= skb_headroom(skb);
	tail -= skb_tailroom(skb);
	if (likely(head <= 0 && tail <= 0 && !skb_cloned(skb)))
		return true;
	if (pskb_expand_head(skb, max(head, 0), max(tail, 0), GFP_ATOMIC))
		return false;
	packet->rtp.data = skb->data + packet->udp + sizeof(struct udphdr);
	return true;
}

/* -- SRTP */

static enum mp_verdict transform(struct mp_packet *packet)
{
	const struct mp_target *target = packet->target;
	struct mp_rtp *rtp = &packet->rtp;
	int result = 0;

	if (target->decrypt)
		result = mp_unprotect(target->decrypt, packet->in, rtp, target->same_keys);
	if (!result && target->same_keys) {
		rtp->len += target->decrypt->trailer;
		mp_follow(target->encrypt, packet->out, rtp->index);
	} else if (!result && target->encrypt) {
		result = mp_protect(target->encrypt, packet->out, rtp);
	}
	return result ? dropped(packet, MP_REASON(result)) : MP_GO_ON;
}

/* -- out */

/* Takes off what the packet has brought along, and puts a new UDP header in place of the old. */
static void rewrite(struct mp_packet *packet)
{
	const struct mp_target *target = packet->target;
	struct sk_buff *skb = packet->skb;
	u32 len = sizeof(struct udphdr) + packet->rtp.len;
	struct udphdr *udp;

	skb_orphan(skb);
	skb_scrub_packet(skb, true);
	compat_clear_time(skb);
	skb_set_queue_mapping(skb, 0);
	skb_clear_hash(skb);
	skb->ip_summed = CHECKSUM_NONE;
	skb->priority = rt_tos2priority(packet->tos);
	__skb_pull(skb, packet->udp);
	__skb_trim(skb, len);
	skb_reset_transport_header(skb);
	udp = udp_hdr(skb);
	udp->source = target->source.port;
	udp->dest = target->destination.port;
	udp->len = htons(len);
	skb_dst_set_noref(skb, packet->dst);
}

static int send4(const struct mp_packet *packet, struct net *net)
{
	const struct mp_target *target = packet->target;
	struct sk_buff *skb = packet->skb;
	struct iphdr *ip;

	udp_set_csum(false, skb, target->source.ip.ip, target->destination.ip.ip, skb->len);
	ip = skb_push(skb, sizeof(*ip));
	skb_reset_network_header(skb);
	skb->protocol = htons(ETH_P_IP);
	memset(IPCB(skb), 0, sizeof(*IPCB(skb)));
	*(__be16 *)ip = htons(4 << 12 | 5 << 8 | packet->tos);
	ip->tot_len = htons(skb->len);
	ip->id = 0;
	ip->frag_off = htons(IP_DF);
	ip->ttl = packet->ttl - 1;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = target->source.ip.ip;
	ip->daddr = target->destination.ip.ip;
	if (unlikely(skb->len > dst_mtu(packet->dst))) {
		ip->frag_off = 0;
		__ip_select_ident(net, ip, 1);
	}
	return ip_local_out(net, NULL, skb);
}

static int send6(const struct mp_packet *packet, struct net *net)
{
	const struct mp_target *target = packet->target;
	struct sk_buff *skb = packet->skb;
	struct ipv6hdr *ip;

	udp6_set_csum(false, skb, &target->source.ip.in6, &target->destination.ip.in6, skb->len);
	ip = skb_push(skb, sizeof(*ip));
	skb_reset_network_header(skb);
	skb->protocol = htons(ETH_P_IPV6);
	memset(IP6CB(skb), 0, sizeof(*IP6CB(skb)));
	ip6_flow_hdr(ip, packet->tos, 0);
	ip->payload_len = htons(skb->len - sizeof(*ip));
	ip->nexthdr = IPPROTO_UDP;
	ip->hop_limit = packet->ttl - 1;
	ip->saddr = target->source.ip.in6;
	ip->daddr = target->destination.ip.in6;
	skb->ignore_df = 1;			/* too long for a link: we are its sender, and may cut it */
	return ip6_local_out(net, NULL, skb);
}

/* A stream's own lock is nearly always free: its packets come on one CPU, but for when that changes. */
static void rate(const struct mp_packet *packet)
{
	const struct mp_target *target = packet->target;
	struct mp_counting *counting = target->counting;
	u64 now_ns = ktime_get_ns();

	spin_lock(&counting->lock);
	rtp_quality_count(&counting->quality, target->clocks, packet->rtp.data, now_ns);
	spin_unlock(&counting->lock);
}

/* What has gone up is no gap in what comes next; RTCP and others than RTP leave none. */
static void passed(const struct mp_packet *packet)
{
	struct mp_counting *counting = packet->target->counting;

	if (packet->rtp.data && !packet->rtp.clear)
		return;
	spin_lock(&counting->lock);
	rtp_quality_pause(&counting->quality);
	spin_unlock(&counting->lock);
}

static void count(const struct mp_packet *packet, enum mp_verdict verdict, u32 bytes)
{
	struct mp_stats *stats = this_cpu_ptr(packet->target->stats);

	u64_stats_update_begin(&stats->sync);
	if (verdict == MP_SENT) {
		stats->counters.packets++;
		stats->counters.bytes += bytes;
	} else if (verdict == MP_PASS) {
		stats->counters.passed++;
	} else {
		stats->counters.drops[packet->reason]++;
	}
	u64_stats_update_end(&stats->sync);
}

static enum mp_verdict steps(struct mp_packet *packet, bool v6, struct net *net)
{
	enum mp_verdict verdict = inspect(packet, v6);

	if (verdict != MP_GO_ON)
		return verdict;
	packet->dst = route_of(packet->target, net);
	if (!packet->dst)
		return dropped(packet, MEDIAPROXY_DROP_OUTPUT);
	if (!own(packet))
		return MP_PASS;
	return transform(packet);
}

static noinline unsigned int forward(struct sk_buff *skb, const struct xt_action_param *par,
				     const struct mp_target *target, bool v6)
{
	struct mp_packet packet = {
		.skb = skb,
		.target = target,
		.udp = v6 ? sizeof(struct ipv6hdr) : ip_hdrlen(skb),
		.tos = v6 ? ipv6_get_dsfield(ipv6_hdr(skb)) : ip_hdr(skb)->tos,
		.ttl = v6 ? ipv6_hdr(skb)->hop_limit : ip_hdr(skb)->ttl,
	};
	enum mp_verdict verdict = steps(&packet, v6, xt_net(par));
	u32 bytes = skb->len - packet.udp - sizeof(struct udphdr);
	int result;

	if (verdict != MP_GO_ON) {
		count(&packet, verdict, bytes);
		if (verdict == MP_PASS)
			passed(&packet);
		return verdict == MP_PASS ? XT_CONTINUE : NF_DROP;
	}
	rate(&packet);
	if (target->flags & MEDIAPROXY_F_TOS)
		packet.tos = (target->tos & ~INET_ECN_MASK) | (packet.tos & INET_ECN_MASK);
	rewrite(&packet);
	result = target->out6 ? send6(&packet, xt_net(par)) : send4(&packet, xt_net(par));
	verdict = net_xmit_eval(result) ? dropped(&packet, MEDIAPROXY_DROP_OUTPUT) : MP_SENT;
	count(&packet, verdict, bytes);
	return NF_STOLEN;
}

/* -- the rule */

static const struct mp_table *table_of(const struct xt_action_param *par)
{
	const struct xt_mediaproxy_info *info = par->targinfo;
	const struct mp_net *net = net_generic(xt_net(par), mp_net_id);

	return rcu_dereference(net->table[info->id]);
}

/* The checks that most packets end at take no room on the stack, which would have to be cleared. */
static const struct mp_target *find(struct sk_buff *skb, const struct xt_action_param *par, u32 udp_at, bool v6)
{
	const struct mp_table *table = table_of(par);
	const struct mp_target *target;
	const struct udphdr *udp;

	if (!table || !pskb_may_pull(skb, udp_at + sizeof(*udp)))
		return NULL;
	udp = (const struct udphdr *)(skb->data + udp_at);
	target = mp_find(table, v6, ntohs(udp->dest));
	return target && target->expect.port == udp->source ? target : NULL;
}

static unsigned int mediaproxy_tg4(struct sk_buff *skb, const struct xt_action_param *par)
{
	const struct iphdr *ip = ip_hdr(skb);
	const struct mp_target *target;

	if (ip->protocol != IPPROTO_UDP || ip_is_fragment(ip))
		return XT_CONTINUE;
	target = find(skb, par, ip_hdrlen(skb), false);
	if (!target)
		return XT_CONTINUE;
	ip = ip_hdr(skb);
	if (ip->saddr != target->expect.ip.ip || (ip->daddr != target->local.ip.ip && !target->any_local))
		return XT_CONTINUE;
	return forward(skb, par, target, false);
}

/* One with extension headers, fragments among them, goes up: media has none. */
static unsigned int mediaproxy_tg6(struct sk_buff *skb, const struct xt_action_param *par)
{
	const struct ipv6hdr *ip = ipv6_hdr(skb);
	const struct mp_target *target;

	if (ip->nexthdr != IPPROTO_UDP)
		return XT_CONTINUE;
	target = find(skb, par, sizeof(*ip), true);
	if (!target)
		return XT_CONTINUE;
	ip = ipv6_hdr(skb);
	if (!ipv6_addr_equal(&ip->saddr, &target->expect.ip.in6) ||
	    (!ipv6_addr_equal(&ip->daddr, &target->local.ip.in6) && !target->any_local))
		return XT_CONTINUE;
	return forward(skb, par, target, true);
}

static int mediaproxy_check(const struct xt_tgchk_param *par)
{
	const struct xt_mediaproxy_info *info = par->targinfo;

	return info->id < MEDIAPROXY_TABLES ? 0 : -EINVAL;
}

static struct xt_target targets[] __read_mostly = {
	{
		.name		= "MEDIAPROXY",
		.family		= NFPROTO_IPV4,
		.target		= mediaproxy_tg4,
		.checkentry	= mediaproxy_check,
		.targetsize	= sizeof(struct xt_mediaproxy_info),
		.table		= "filter",
		.hooks		= 1 << NF_INET_LOCAL_IN,
		.me		= THIS_MODULE,
	},
	{
		.name		= "MEDIAPROXY",
		.family		= NFPROTO_IPV6,
		.target		= mediaproxy_tg6,
		.checkentry	= mediaproxy_check,
		.targetsize	= sizeof(struct xt_mediaproxy_info),
		.table		= "filter",
		.hooks		= 1 << NF_INET_LOCAL_IN,
		.me		= THIS_MODULE,
	},
};

/* -- namespaces, and the module itself */

static int __net_init net_setup(struct net *net)
{
	struct mp_net *state = net_generic(net, mp_net_id);

	mutex_init(&state->lock);
	state->net = net;
	return mp_proc_net_setup(state);
}

static void __net_exit net_teardown(struct net *net)
{
	struct mp_net *state = net_generic(net, mp_net_id);
	u32 id;

	mp_proc_net_teardown(state);
	mutex_lock(&state->lock);
	for (id = 0; id < MEDIAPROXY_TABLES; id++)
		mp_table_delete(state, id, true);
	mutex_unlock(&state->lock);
	if (state->used)
		mp_table_settle();
	mutex_destroy(&state->lock);
}

static struct pernet_operations net_ops = {
	.init	= net_setup,
	.exit	= net_teardown,
	.id	= &mp_net_id,
	.size	= sizeof(struct mp_net),
};

/* The header promises these to processes of any word size. */
static void check_layout(void)
{
	BUILD_BUG_ON(sizeof(struct xt_mediaproxy_info) != 4);
	BUILD_BUG_ON(sizeof(struct mediaproxy_address) != 20);
	BUILD_BUG_ON(sizeof(struct mediaproxy_ssrc) != 32);
	BUILD_BUG_ON(sizeof(struct mediaproxy_srtp) != 592);
	BUILD_BUG_ON(offsetof(struct mediaproxy_srtp, ssrc) != 336);
	BUILD_BUG_ON(sizeof(struct mediaproxy_target) != 1336);
	BUILD_BUG_ON(offsetof(struct mediaproxy_target, decrypt) != 152);
	BUILD_BUG_ON(sizeof(struct mediaproxy_message) != 1344);
	BUILD_BUG_ON(sizeof(struct mediaproxy_counters) != 72);
	BUILD_BUG_ON(sizeof(struct mediaproxy_progress) != 264);
	BUILD_BUG_ON(sizeof(struct mediaproxy_quality) != 64);
	BUILD_BUG_ON(sizeof(struct mediaproxy_entry) != 752);
}

static int __init mediaproxy_init(void)
{
	int err;

	check_layout();
	err = mp_table_setup();
	if (err)
		return err;
	err = register_pernet_subsys(&net_ops);
	if (err)
		goto no_net;
	err = xt_register_targets(targets, ARRAY_SIZE(targets));
	if (err)
		goto no_targets;
	err = -ENOMEM;
	if (!proc_symlink("mediaproxy", NULL, "self/net/mediaproxy"))
		goto no_link;
	pr_notice("version " MEDIAPROXY_VERSION " loaded\n");
	return 0;

no_link:
	xt_unregister_targets(targets, ARRAY_SIZE(targets));
no_targets:
	unregister_pernet_subsys(&net_ops);
no_net:
	mp_table_teardown();
	return err;
}

static void __exit mediaproxy_exit(void)
{
	remove_proc_entry("mediaproxy", NULL);
	xt_unregister_targets(targets, ARRAY_SIZE(targets));
	unregister_pernet_subsys(&net_ops);
	mp_table_teardown();
	pr_notice("unloaded\n");
}

module_init(mediaproxy_init);
module_exit(mediaproxy_exit);

MODULE_DESCRIPTION("Forwards RTP and SRTP streams of a media proxy");
MODULE_AUTHOR("rtpengine contributors");
MODULE_LICENSE("GPL");
MODULE_VERSION(MEDIAPROXY_VERSION);
MODULE_ALIAS("ipt_MEDIAPROXY");
MODULE_ALIAS("ip6t_MEDIAPROXY");
