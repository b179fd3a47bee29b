/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What crosses the border between the kernel module xt_MEDIAPROXY, its iptables
 * plugin and the daemon.
 *
 * A rule "-j MEDIAPROXY --id N" in an INPUT chain of table "filter" hands the
 * packets that it matches to forwarding table N of its network namespace. Those
 * that belong to a target of that table are sent on from there; all others go
 * on as if the rule were not there.
 *
 * Files, in /proc/mediaproxy (a link to /proc/self/net/mediaproxy: everybody
 * sees the tables of their own network namespace). To open one takes CAP_NET_ADMIN
 * there, else EPERM, but for list, N/list and N/status.
 *
 *	control		"add N" or "del N", N from 0 to 63
 *	list		the tables there are, one number per line
 *	N/control	struct mediaproxy_message, one per write; one opener at a time
 *	N/blist		struct mediaproxy_entry, one per target; root only
 *	N/list		the same as text
 *	N/status	counts, as text
 *
 * control: EINVAL for what is no such command, for less than 6 or more than 20
 * bytes, EEXIST for add and ENOENT for del if that is so already, EBUSY for del
 * while N/control is open, EFAULT, ENOMEM.
 *
 * N/control: open gives EBUSY while somebody has it open, in whatever process.
 * Closing it leaves the targets at work. A write gives, in this order:
 *
 *	EIO		another length than sizeof(struct mediaproxy_message)
 *	EFAULT		the memory cannot be read
 *	EPROTO		abi is not MEDIAPROXY_ABI
 *	EINVAL		no such command, or see struct mediaproxy_target
 *	EAFNOSUPPORT	ADD, UPDATE: an address is IPv6, which this kernel has switched off (ipv6.disable=1)
 *	ENOENT		DEL, UPDATE: there is no target at family and port of local
 *	EEXIST		ADD: there is one
 *	ENOSPC		UPDATE: more than MEDIAPROXY_SSRCS would have to be kept
 *	ENOMEM or what the crypto API says, ENOENT too, if it lacks a cipher
 *
 * and the length if all is well. What gives an error has changed nothing.
 *
 * N/blist: a read takes a multiple of sizeof(struct mediaproxy_entry), else
 * EINVAL, and returns as many whole entries as there are and fit; 0 at the end.
 * In the order of the ports, IPv4 before IPv6. The position, for lseek() and
 * pread(), is no byte count but the first place to look at: 2 * port, + 1 for
 * IPv6. Targets that come or go meanwhile may or may not be seen.
 *
 * Once its table is deleted, an open file of N/ gives EIO.
 *
 * Written in the subset that the kernel, the plugin's compiler and cffi read (see
 * rtp.h). Numbers are in host order; addresses are bytes. Every byte of a message
 * has a name, and what is reserved is zero, else EINVAL. All layouts are the same
 * for 32-bit processes on 64-bit kernels.
 */
#ifndef XT_MEDIAPROXY_H
#define XT_MEDIAPROXY_H

#include <linux/types.h>
#include "rtp_quality.h"
#include "srtp_common.h"

/* Changes with every change of a struct or of what a field means. */
#define MEDIAPROXY_ABI 2

#define MEDIAPROXY_TABLES 64		/* in each network namespace: 0 to 63 */
#define MEDIAPROXY_SSRCS 8		/* of one direction of a target */
#define MEDIAPROXY_KEY_MAX 32
#define MEDIAPROXY_AUTH_KEY_LEN 20
#define MEDIAPROXY_SALT_LEN 14
#define MEDIAPROXY_TAG_MAX 20
#define MEDIAPROXY_MKI_MAX 256

/* mediaproxy_address.family: the values of AF_INET and AF_INET6 */
#define MEDIAPROXY_INET 2
#define MEDIAPROXY_INET6 10

/* The data of a rule; revision 0. */
struct xt_mediaproxy_info {
	__u32 id;			/* of the table, which need not exist */
};

enum mediaproxy_command {
	MEDIAPROXY_NOOP = 1,		/* do we speak of the same ABI? */
	MEDIAPROXY_ADD = 2,
	MEDIAPROXY_DEL = 3,		/* reads family and port of local, nothing else of the target */
	MEDIAPROXY_UPDATE = 4,		/* replace a target, see below */
};

enum mediaproxy_cipher {
	MEDIAPROXY_CIPHER_NULL = 1,
	MEDIAPROXY_CIPHER_AES_CM = 2,	/* key_len 16, 24 or 32 */
	MEDIAPROXY_CIPHER_AES_F8 = 3,	/* key_len 16 */
};

enum mediaproxy_auth {
	MEDIAPROXY_AUTH_NULL = 1,
	MEDIAPROXY_AUTH_HMAC_SHA1 = 2,
};

/* mediaproxy_target.flags */
#define MEDIAPROXY_F_PASS 1		/* forward nothing: hand every packet up, and count it so */
#define MEDIAPROXY_F_TOS 2		/* send with tos; else the TOS or traffic class of each packet is kept */
#define MEDIAPROXY_F_RTCP_MUX 4		/* for readers of N/list; RTCP is handed up with or without it */
#define MEDIAPROXY_F_DTLS 8		/* likewise, DTLS */

/* IPv4: the first 4 bytes of address, the others zero. */
struct mediaproxy_address {
	__u8 address[16];
	__u16 port;
	__u16 family;
};

/*
 * How far one SSRC has come under the keys of its direction: next is the index
 * that follows the highest so far, 0 if nothing has passed yet; seen tells of the
 * 128 below next which have passed. Who kept only next sets all bits of seen.
 */
struct mediaproxy_ssrc {
	__u32 ssrc;
	__u32 reserved;
	struct rtp_window window;
};

/*
 * One direction under SRTP (RFC 3711), with session keys, not master keys. No SRTP
 * is both ciphers NULL and the rest zero. Without authentication tag_len is zero,
 * with it 4 to 20. The MKI lies between payload and tag; on the way in it must match.
 * What lies behind key_len, mki_len and ssrc_count is zero.
 */
struct mediaproxy_srtp {
	__u8 cipher;			/* enum mediaproxy_cipher */
	__u8 auth;			/* enum mediaproxy_auth */
	__u8 tag_len;
	__u8 key_len;			/* 0 with MEDIAPROXY_CIPHER_NULL */
	__u16 mki_len;
	__u16 ssrc_count;
	__u8 key[32];			/* MEDIAPROXY_KEY_MAX; cipher, RFC 3711 4.3.1 label 0 */
	__u8 auth_key[20];		/* MEDIAPROXY_AUTH_KEY_LEN; label 1 */
	__u8 salt[14];			/* MEDIAPROXY_SALT_LEN; label 2 */
	__u8 reserved[6];
	__u8 mki[256];			/* MEDIAPROXY_MKI_MAX */
	struct mediaproxy_ssrc ssrc[8];	/* MEDIAPROXY_SSRCS; the only ones that are forwarded */
};

/*
 * What to do with the RTP packets that arrive at one local port. EINVAL if
 *  - an address has another family than the two, or port 0, or is all zero (local
 *    may be: then it stands for every address), or link-local IPv6, which needs a scope;
 *  - local and expect, or source and destination differ in family; the two pairs may;
 *  - an SRTP direction is not as described above, or lists an SSRC twice or with an index of
 *    RTP_INDEX_END or more;
 *  - a flag or a reserved byte is set that has no meaning, or tos without its flag.
 *
 * A packet is handed up, as if the rule were not there, if it is not from expect to
 * local, a fragment, GSO or otherwise no single datagram, has a wrong checksum, is
 * no RTP packet by the rules of rtp.h (STUN, DTLS, RTCP...), or has an SSRC that a
 * direction with SRTP does not list. What fails later is dropped and counted.
 *
 * UPDATE: counters and quality go on. So do the SSRCs of a direction whose keys, parameters
 * and MKI are what they were: those in the message are added, windows are
 * merged, nothing goes back. It returns when no packet is on its way under the
 * old target any more: an entry that is read after UPDATE with MEDIAPROXY_F_PASS
 * is final. DEL does not wait; a packet that is on its way may yet be sent.
 */
struct mediaproxy_target {
	struct mediaproxy_address local;	/* where packets arrive; one target per family and port */
	struct mediaproxy_address expect;	/* whom they come from */
	struct mediaproxy_address source;	/* what they are sent from */
	struct mediaproxy_address destination;
	__u32 flags;			/* MEDIAPROXY_F_* */
	__u8 tos;			/* TOS or traffic class, with MEDIAPROXY_F_TOS; ECN is kept nevertheless */
	__u8 reserved[3];
	__u32 clocks[16];		/* RTP_CLOCKS, see rtp_ticks() */
	struct mediaproxy_srtp decrypt;	/* of what arrives */
	struct mediaproxy_srtp encrypt;	/* of what is sent */
};

struct mediaproxy_message {
	__u32 abi;			/* MEDIAPROXY_ABI */
	__u32 command;			/* enum mediaproxy_command */
	struct mediaproxy_target target;
};

/* Why a packet of a target was dropped: indices of mediaproxy_counters.drops */
enum mediaproxy_drop {
	MEDIAPROXY_DROP_AUTH = 0,	/* wrong tag or MKI, or too short to have them */
	MEDIAPROXY_DROP_REPLAY = 1,	/* SRTP, either way: seen before, or too old to tell */
	MEDIAPROXY_DROP_EXHAUSTED = 2,	/* no index is left under this key */
	MEDIAPROXY_DROP_TTL = 3,	/* it has come to its last hop: a loop, most likely */
	MEDIAPROXY_DROP_OUTPUT = 4,	/* no route, no memory, or refused on the way out */
	MEDIAPROXY_DROP_CRYPTO = 5,	/* the crypto API failed */
	MEDIAPROXY_DROP_REASONS = 6,
};

/* Since ADD. */
struct mediaproxy_counters {
	__u64 packets;			/* sent on */
	__u64 bytes;			/* UDP payload, as received, of those */
	__u64 passed;			/* from expect, and handed up nevertheless */
	__u64 drops[6];			/* MEDIAPROXY_DROP_REASONS */
};

/*
 * How the packets that were forwarded have arrived, since ADD: see rtp_quality.h. Those that
 * were handed up, and dropped as authentication or replay want it, have no part in it.
 */
struct mediaproxy_quality {
	struct rtp_totals totals;	/* expected up to now */
	__u32 jitter;			/* this and what follows as in struct rtp_quality */
	__u32 ticks;
	__u32 ssrc;
	__u32 type;
};

/* How far each SSRC of one direction has come. */
struct mediaproxy_progress {
	__u32 ssrc_count;
	__u32 reserved;
	struct mediaproxy_ssrc ssrc[8];	/* MEDIAPROXY_SSRCS */
};

/* One target in N/blist: what it does, but no keys. */
struct mediaproxy_entry {
	struct mediaproxy_address local;
	struct mediaproxy_address expect;
	struct mediaproxy_address source;
	struct mediaproxy_address destination;
	__u32 flags;
	__u8 tos;
	__u8 reserved[3];
	struct mediaproxy_counters counters;
	struct mediaproxy_quality quality;
	struct mediaproxy_progress decrypt;
	struct mediaproxy_progress encrypt;
};

#endif
