/* SPDX-License-Identifier: GPL-2.0 */
/* What differs between kernels. Kbuild looks into their headers and says what it found. */
#ifndef MEDIAPROXY_COMPAT_H
#define MEDIAPROXY_COMPAT_H

#include <crypto/aes.h>
#include <linux/proc_fs.h>
#include <linux/skbuff.h>
#include <net/flow.h>

#ifdef HAVE_LINUX_UNALIGNED
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

#ifdef HAVE_FLOWI4_DSCP
#include <net/inet_dscp.h>
#endif

#ifndef HAVE_PDE_DATA
#define pde_data PDE_DATA
#endif

/* AES for one block at a time, which F8 takes: newer kernels keep less for who only encrypts. */
#ifdef HAVE_AES_ENCKEY
#define compat_aes_key aes_enckey
#define compat_aes_prepare aes_prepareenckey
#else
#define compat_aes_key crypto_aes_ctx
#define compat_aes_prepare aes_expandkey
#endif

/* A time that was meant for a timer of the sender would make fq hold the packet. */
static inline void compat_clear_time(struct sk_buff *skb)
{
#ifdef HAVE_SKB_SET_DELIVERY_TIME
	skb_set_delivery_time(skb, 0, 0);
#else
	skb->tstamp = 0;
#endif
}

static inline void compat_flow_tos(struct flowi4 *flow, u8 tos)
{
#ifdef HAVE_FLOWI4_DSCP
	flow->flowi4_dscp = inet_dsfield_to_dscp(tos);
#else
	flow->flowi4_tos = tos & 0x1c;		/* the bits that rules and routes look at */
#endif
}

/* Where nft's trace keeps no copy of this flag, it looks into a packet after a target has stolen it. */
static inline bool compat_trace_needs(const struct sk_buff *skb)
{
#if !defined(HAVE_NFT_TRACE_COPY) && IS_ENABLED(CONFIG_NF_TABLES)
	return skb->nf_trace;
#else
	return false;
#endif
}

#endif
