/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * RTP and RTCP arithmetic that the packet path and the kernel module share.
 *
 * Written in the subset that the kernel, the daemon's compiler and cffi all
 * read: kernel fixed-width types, static inline functions, integer #defines,
 * directives only at the start of a line.
 */
#ifndef RTPENGINE_RTP_H
#define RTPENGINE_RTP_H

#include <linux/types.h>

#define RTP_HEADER_MIN 12
#define RTCP_HEADER_MIN 8
#define RTCP_TYPE_MIN 192
#define RTCP_TYPE_MAX 223
#define RTCP_TYPE_SR 200
#define RTCP_TYPE_RR 201
#define RTCP_TYPE_BYE 203
#define RTCP_TYPE_RTPFB 205
#define RTCP_TYPE_PSFB 206

enum rtp_demux {
	RTP_DEMUX_UNKNOWN = 0,
	RTP_DEMUX_STUN = 1,
	RTP_DEMUX_ZRTP = 2,
	RTP_DEMUX_DTLS = 3,
	RTP_DEMUX_TURN = 4,
	RTP_DEMUX_RTP = 5,
};

/**
 * rtp_demux() - tell protocols on one port apart by the first byte
 * @first: first byte of the datagram
 *
 * RFC 7983 7. Return: enum rtp_demux; RTP_DEMUX_RTP stands for RTCP too.
 */
static inline int rtp_demux(__u8 first)
{
	if (first <= 3)
		return RTP_DEMUX_STUN;
	if (first >= 16 && first <= 19)
		return RTP_DEMUX_ZRTP;
	if (first >= 20 && first <= 63)
		return RTP_DEMUX_DTLS;
	if (first >= 64 && first <= 79)
		return RTP_DEMUX_TURN;
	if (first >= 128 && first <= 191)
		return RTP_DEMUX_RTP;
	return RTP_DEMUX_UNKNOWN;
}

/**
 * rtp_be16() - read a 16-bit number in network order, at any alignment
 * @data: its first byte
 */
static inline __u16 rtp_be16(const __u8 *data)
{
	return (__u16)(data[0] << 8 | data[1]);
}

/**
 * rtp_be32() - read a 32-bit number in network order, at any alignment
 * @data: its first byte
 */
static inline __u32 rtp_be32(const __u8 *data)
{
	return (__u32)data[0] << 24 | (__u32)data[1] << 16 | (__u32)data[2] << 8 | data[3];
}

/**
 * rtcp_plausible() - tell RTCP from RTP on one port
 * @data: the datagram
 * @len: its length
 *
 * RFC 5761 4: the whole second byte lies within 192..223.
 * Return: 1 for RTCP, 0 for anything else.
 */
static inline int rtcp_plausible(const __u8 *data, __u32 len)
{
	return len >= RTCP_HEADER_MIN && rtp_demux(data[0]) == RTP_DEMUX_RTP &&
	       data[1] >= RTCP_TYPE_MIN && data[1] <= RTCP_TYPE_MAX;
}

/**
 * rtp_header_len() - check an RTP header and measure it
 * @data: the datagram
 * @len: its length
 *
 * RFC 3550 5.1 and 5.3.1: version 2, CSRC list and header extension inside the packet.
 * Return: length with CSRC list and extension in bytes; 0 if this is no RTP.
 */
static inline __u32 rtp_header_len(const __u8 *data, __u32 len)
{
	__u32 need = RTP_HEADER_MIN;

	if (len < need || rtp_demux(data[0]) != RTP_DEMUX_RTP || rtcp_plausible(data, len))
		return 0;
	need += 4 * (__u32)(data[0] & 15);
	if (data[0] & 16) {
		if (len < need + 4)
			return 0;
		need += 4 + 4 * (__u32)rtp_be16(data + need + 2);
	}
	return len < need ? 0 : need;
}

/*
 * SRTP (RFC 3711): a packet's index counts all packets of its SSRC under one
 * key. RTP: rollover counter and sequence number, 48 bits. RTCP: 31 bits, in
 * the packet. Positions are kept as the index that follows the highest so far,
 * 0 before the first.
 */
#define RTP_INDEX_END 0x1000000000000
#define RTCP_INDEX_END 0x80000000
#define RTP_WINDOW 128
#define RTP_SOURCES 64
#define RTP_RETIRED_BITS 2048

struct rtp_window {
	__u64 next;			/* one above the highest index that passed */
	__u64 seen[2];			/* bit n: index next - 1 - n passed */
};

struct rtp_sources {
	__u32 count;
	__u32 clock;			/* advances with each packet that passes */
	__u32 ssrc[RTP_SOURCES];
	__u32 used[RTP_SOURCES];	/* clock of its last packet */
	struct rtp_window window[RTP_SOURCES];
	__u64 retired[RTP_RETIRED_BITS / 64];	/* Bloom filter of the SSRCs that made room */
};

/**
 * rtp_index() - estimate a packet's index from its sequence number
 * @next: one above the highest index of this SSRC, 0 before the first
 * @seq: the sequence number
 *
 * RFC 3711 3.3.1 and appendix A. What would lie before rollover 0 is taken for a jump ahead.
 * Return: the index nearest to @next; RTP_INDEX_END or more when there is none left.
 */
static inline __u64 rtp_index(__u64 next, __u16 seq)
{
	__u64 last = next - 1, index = (last & ~(__u64)0xffff) | seq;
	__u16 low = (__u16)last;

	if (!next)
		return seq;
	if (low < 0x8000 && seq > low + 0x8000 && index > 0xffff)
		return index - 0x10000;
	if (low >= 0x8000 && seq < low - 0x8000)
		return index + 0x10000;
	return index;
}

/**
 * rtp_window_fresh() - has this index not passed yet?
 * @window: of the packet's SSRC
 * @index: the packet's index
 *
 * RFC 3711 3.3.2. Return: 1 if fresh; 0 if seen before, or too old to tell.
 */
static inline int rtp_window_fresh(const struct rtp_window *window, __u64 index)
{
	__u64 age = window->next - 1 - index;

	if (index >= window->next)
		return 1;
	return age < RTP_WINDOW && !(window->seen[age / 64] >> age % 64 & 1);
}

/**
 * rtp_window_advance() - move the window's head forward, never back
 * @window: of one SSRC
 * @next: one above the highest index that is to be inside
 */
static inline void rtp_window_advance(struct rtp_window *window, __u64 next)
{
	__u64 by = next - window->next;

	if (next <= window->next)
		return;
	window->next = next;
	if (by >= 64) {
		window->seen[1] = by < RTP_WINDOW ? window->seen[0] << (by - 64) : 0;
		window->seen[0] = 0;
	} else {
		window->seen[1] = window->seen[1] << by | window->seen[0] >> (64 - by);
		window->seen[0] <<= by;
	}
}

/**
 * rtp_window_pass() - enter an index
 * @window: of the packet's SSRC
 * @index: of a packet that is authentic; one below the window changes nothing
 */
static inline void rtp_window_pass(struct rtp_window *window, __u64 index)
{
	__u64 age;

	rtp_window_advance(window, index + 1);
	age = window->next - 1 - index;
	if (age < RTP_WINDOW)
		window->seen[age / 64] |= (__u64)1 << age % 64;
}

/**
 * rtp_window_merge() - enter all that passed elsewhere
 * @window: of one SSRC
 * @other: the window that another user of the same key has kept for it
 */
static inline void rtp_window_merge(struct rtp_window *window, const struct rtp_window *other)
{
	struct rtp_window copy = *other;

	rtp_window_advance(window, copy.next);
	rtp_window_advance(&copy, window->next);
	window->seen[0] |= copy.seen[0];
	window->seen[1] |= copy.seen[1];
}

/**
 * rtp_source_find() - find an SSRC
 * @sources: the table
 * @ssrc: whom to find
 *
 * Return: its slot, or -1.
 */
static inline int rtp_source_find(const struct rtp_sources *sources, __u32 ssrc)
{
	__u32 slot;

	for (slot = 0; slot < sources->count; slot++)
		if (sources->ssrc[slot] == ssrc)
			return (int)slot;
	return -1;
}

/* The slot needed least: rollover 0, which an estimate finds again, before others; then the longest unused. */
static inline __u32 rtp_source_least(const struct rtp_sources *sources)
{
	__u32 slot, least = 0;
	int here, there;

	for (slot = 1; slot < sources->count; slot++) {
		here = sources->window[slot].next > 0x10000;
		there = sources->window[least].next > 0x10000;
		if (here < there || (here == there && sources->clock - sources->used[slot] >
						      sources->clock - sources->used[least]))
			least = slot;
	}
	return least;
}

/* The two bits that stand for an SSRC in the filter. */
static inline __u32 rtp_retired_bit(__u32 ssrc, int second)
{
	return ssrc * (second ? 0x85ebca6b : 0x9e3779b1) >> 21;
}

/**
 * rtp_source_retired() - may this SSRC have made room for others?
 * @sources: the table
 * @ssrc: an SSRC that is not in it
 *
 * Its index is lost then, and a sender that starts again at rollover 0 would use key stream twice.
 * Return: 0 if it surely never was in the table, else 1.
 */
static inline int rtp_source_retired(const struct rtp_sources *sources, __u32 ssrc)
{
	__u32 a = rtp_retired_bit(ssrc, 0), b = rtp_retired_bit(ssrc, 1);

	return (int)(sources->retired[a / 64] >> a % 64 & sources->retired[b / 64] >> b % 64 & 1);
}

/**
 * rtp_source_enter() - give an SSRC a slot
 * @sources: the table; when it is full, the least needed SSRC makes room
 * @ssrc: an SSRC that is not in it
 *
 * Return: the slot, with an empty window.
 */
static inline __u32 rtp_source_enter(struct rtp_sources *sources, __u32 ssrc)
{
	const struct rtp_window empty = { 0, { 0, 0 } };
	__u32 slot = sources->count, a, b;

	if (slot < RTP_SOURCES) {
		sources->count++;
	} else {
		slot = rtp_source_least(sources);
		a = rtp_retired_bit(sources->ssrc[slot], 0);
		b = rtp_retired_bit(sources->ssrc[slot], 1);
		sources->retired[a / 64] |= (__u64)1 << a % 64;
		sources->retired[b / 64] |= (__u64)1 << b % 64;
	}
	sources->ssrc[slot] = ssrc;
	sources->used[slot] = sources->clock;
	sources->window[slot] = empty;
	return slot;
}

/**
 * rtp_source_pass() - enter the index of a packet that is authentic, or our own
 * @sources: the table
 * @ssrc: of the packet, in the table or not
 * @index: of the packet
 *
 * Return: whether it is ahead of all others of its SSRC.
 */
static inline int rtp_source_pass(struct rtp_sources *sources, __u32 ssrc, __u64 index)
{
	int slot = rtp_source_find(sources, ssrc), newest;

	if (slot < 0)
		slot = (int)rtp_source_enter(sources, ssrc);
	sources->used[slot] = ++sources->clock;
	newest = index >= sources->window[slot].next;
	rtp_window_pass(&sources->window[slot], index);
	return newest;
}

/*
 * Reception quality, of one SSRC at a time: what is missing, out of order or there twice, and the jitter. The
 * window holds extended sequence numbers (RFC 3550 A.1), which begin at RTP_EXTENDED so that nothing lies before 0.
 */
#define RTP_EXTENDED 0x10000
#define RTP_DROPOUT_MAX 3000		/* so great a step ahead is no loss but another beginning */
#define RTP_MISORDER_MAX 100		/* likewise a greater one back */
#define RTP_TAKEOVER 32			/* packets in a row, and another SSRC is the one that counts */
#define RTP_CLOCKS 16			/* payload types whose clock rates can be told */
#define RTP_CLOCK_OTHERS 255		/* stands for all dynamic ones that are not listed */
#define RTP_CLOCK_MAX 200000		/* Hz; beyond it no jitter is measured */

/* Of all SSRCs together. */
struct rtp_totals {
	__u64 expected;			/* RFC 3550 A.3, but for the run that goes on */
	__u64 lost;			/* of those; what comes late is taken off again */
	__u64 duplicates;		/* a second time */
	__u64 reordered;		/* later than one that it precedes */
	__u64 skips;			/* steps ahead that left some out */
	__u64 resets;			/* other beginnings of the same SSRC */
};

/* What an ordinary packet needs comes first, on one cache line. */
struct rtp_quality {
	struct rtp_window window;	/* next is 0: what comes next begins a run */
	__u64 base;			/* first of the run */
	__u32 ssrc;
	__u32 timestamp;		/* of the last packet */
	__u32 transit;			/* RFC 3550 A.8 */
	__u32 jitter;			/* in 1/16 of a timestamp unit */
	__u32 ticks;			/* timestamp units in 2^32 ns; 0: not known */
	__u32 jump;			/* RTP_EXTENDED and the sequence number that would confirm a jump; 0: none */
	__u8 type;			/* payload type that ticks is of, | 128; 0: to be looked up */
	__u8 timed;			/* transit is that of an earlier packet with the same clock */
	__u8 others;			/* packets of other SSRCs in a row */
	__u8 reserved[5];
	struct rtp_totals totals;
};

/**
 * rtp_static_clock() - clock rate of a payload type that needs no a=rtpmap (RFC 3551 6)
 * @payload_type: 0 to 127
 *
 * Return: Hz, or 0 for one that has none.
 */
static inline __u32 rtp_static_clock(__u8 payload_type)
{
	if (payload_type <= 18) {
		if (payload_type == 6)
			return 16000;
		if (payload_type == 10 || payload_type == 11)
			return 44100;
		if (payload_type == 14)
			return 90000;
		if (payload_type == 16)
			return 11025;
		return payload_type == 17 ? 22050 : 8000;
	}
	return payload_type >= 25 && payload_type <= 34 ? 90000 : 0;
}

/**
 * rtp_ticks() - timestamp units in 2^32 ns
 * @clocks: RTP_CLOCKS words: payload type << 24 | clock rate in Hz; 0 for none
 * @payload_type: 0 to 127
 *
 * Of several words for one payload type the first counts.
 * Return: 4.294967296 times the rate, or 0 for one that is not known or too high.
 */
static inline __u32 rtp_ticks(const __u32 *clocks, __u8 payload_type)
{
	__u32 rate = rtp_static_clock(payload_type), i, type;

	for (i = 0; i < RTP_CLOCKS && clocks[i]; i++) {
		type = clocks[i] >> 24;
		if (type == payload_type) {
			rate = clocks[i] & 0xffffff;
			break;
		}
		if (type == RTP_CLOCK_OTHERS && payload_type >= 96)
			rate = clocks[i] & 0xffffff;
	}
	return rate > RTP_CLOCK_MAX ? 0 : 4 * rate + (rate * 19331 >> 16);
}

/**
 * rtp_quality_pause() - end the run: what comes next is compared with nothing before
 * @quality: of a stream; totals and jitter stay
 */
static inline void rtp_quality_pause(struct rtp_quality *quality)
{
	if (quality->window.next)
		quality->totals.expected += quality->window.next - quality->base;
	quality->window.next = 0;
	quality->timed = 0;
}

/**
 * rtp_quality_expected() - how many packets there should have been (RFC 3550 A.3)
 * @quality: of a stream
 */
static inline __u64 rtp_quality_expected(const struct rtp_quality *quality)
{
	return quality->totals.expected + (quality->window.next ? quality->window.next - quality->base : 0);
}

/* Begin a run. Return: 1. */
static inline int rtp_quality_begin(struct rtp_quality *quality, __u32 ssrc, __u16 seq)
{
	rtp_quality_pause(quality);
	if (quality->ssrc != ssrc)
		quality->jitter = 0;
	quality->ssrc = ssrc;
	quality->base = RTP_EXTENDED | (__u64)seq;
	quality->window.next = quality->base + 1;
	quality->window.seen[0] = 1;
	quality->window.seen[1] = 0;
	quality->jump = 0;
	quality->others = 0;
	return 1;
}

/* A packet at or behind the highest one. Return: whether it is seen for the first time. */
static inline int rtp_quality_late(struct rtp_quality *quality, __u64 index)
{
	if (index < quality->base)
		return 1;
	if (!rtp_window_fresh(&quality->window, index)) {
		quality->totals.duplicates++;
		return 0;
	}
	rtp_window_pass(&quality->window, index);
	quality->totals.reordered++;
	quality->totals.lost--;
	return 1;
}

/**
 * rtp_quality_odd() - a packet that is not the next of its SSRC (RFC 3550 A.1)
 * @quality: of the stream
 * @ssrc: of the packet
 * @seq: of the packet
 *
 * Return: whether its timing counts.
 */
static inline int rtp_quality_odd(struct rtp_quality *quality, __u32 ssrc, __u16 seq)
{
	__u64 next = quality->window.next;
	__u32 ahead = (__u16)(seq - (__u16)next);

	if (!next)
		return rtp_quality_begin(quality, ssrc, seq);
	if (ssrc != quality->ssrc)
		return ++quality->others < RTP_TAKEOVER ? 0 : rtp_quality_begin(quality, ssrc, seq);
	quality->others = 0;
	if (ahead + 1 < RTP_DROPOUT_MAX) {
		rtp_window_pass(&quality->window, next + ahead);
		quality->totals.lost += ahead;
		quality->totals.skips += ahead > 0;
		return 1;
	}
	if (ahead + 1 >= RTP_EXTENDED - RTP_MISORDER_MAX)
		return rtp_quality_late(quality, next + ahead - RTP_EXTENDED);
	if (quality->jump == (RTP_EXTENDED | (__u32)seq)) {
		quality->totals.resets++;
		return rtp_quality_begin(quality, ssrc, seq);
	}
	quality->jump = RTP_EXTENDED | (__u32)(__u16)(seq + 1);
	return 0;
}

/**
 * rtp_quality_time() - take the time that a packet has been under way (RFC 3550 A.8)
 * @quality: of the stream, which knows the clock
 * @timestamp: of the packet
 * @now_ns: when it came, by a clock that never goes back
 *
 * Of packets with one timestamp (a picture, or RFC 4733) the first counts, and a
 * difference of a second or more is no jitter.
 */
static inline void rtp_quality_time(struct rtp_quality *quality, __u32 timestamp, __u64 now_ns)
{
	__u32 transit = (__u32)(now_ns * quality->ticks >> 32) - timestamp;
	__u32 by = transit - quality->transit;

	if (quality->timed && timestamp == quality->timestamp)
		return;
	if (by >> 31)
		by = -by;
	if (quality->timed && by < quality->ticks >> 2)
		quality->jitter += by - ((quality->jitter + 8) >> 4);
	quality->transit = transit;
	quality->timestamp = timestamp;
	quality->timed = 1;
}

/* Go on with another payload type, in whose units the jitter is from now on. */
static inline void rtp_quality_clock(struct rtp_quality *quality, const __u32 *clocks, __u8 type)
{
	__u32 ticks = rtp_ticks(clocks, type & 127);

	quality->type = type;
	if (ticks == quality->ticks)
		return;
	quality->ticks = ticks;
	quality->timed = 0;
	quality->jitter = 0;
}

/**
 * rtp_quality_is_next() - is this the packet that follows all others of its SSRC?
 * @quality: of the stream
 * @ssrc: of the packet
 * @seq: of the packet
 *
 * Return: 1 if so: then no total changes when it is counted.
 */
static inline int rtp_quality_is_next(const struct rtp_quality *quality, __u32 ssrc, __u16 seq)
{
	return ssrc == quality->ssrc && seq == (__u16)quality->window.next && quality->window.next;
}

/**
 * rtp_quality_count() - count a packet
 * @quality: of the stream; all zero before the first
 * @clocks: see rtp_ticks()
 * @packet: an RTP packet, by rtp_header_len()
 * @now_ns: when it came, by a clock that never goes back
 *
 * Context: any; takes no lock.
 */
static inline void rtp_quality_count(struct rtp_quality *quality, const __u32 *clocks, const __u8 *packet,
				     __u64 now_ns)
{
	struct rtp_window *window = &quality->window;
	__u32 ssrc = rtp_be32(packet + 8);
	__u16 seq = rtp_be16(packet + 2);

	if (rtp_quality_is_next(quality, ssrc, seq)) {
		window->seen[1] = window->seen[1] << 1 | window->seen[0] >> 63;
		window->seen[0] = window->seen[0] << 1 | 1;
		window->next++;
		quality->others = 0;
	} else if (!rtp_quality_odd(quality, ssrc, seq)) {
		return;
	}
	if ((packet[1] | 128) != quality->type)
		rtp_quality_clock(quality, clocks, packet[1] | 128);
	if (quality->ticks)
		rtp_quality_time(quality, rtp_be32(packet + 4), now_ns);
}

/* XOR a number in network order into the bytes that end at @end. */
static inline void rtp_xor_be(__u8 *end, __u64 number, int bytes)
{
	while (bytes--) {
		*--end ^= (__u8)number;
		number >>= 8;
	}
}

/**
 * rtp_cm_iv() - the first counter block of AES-CM (RFC 3711 4.1.1), for RTP and RTCP
 * @iv: 16 bytes to fill
 * @salt: session salt, 14 bytes
 * @ssrc: of the packet
 * @index: of the packet
 */
static inline void rtp_cm_iv(__u8 *iv, const __u8 *salt, __u32 ssrc, __u64 index)
{
	int i;

	for (i = 0; i < 14; i++)
		iv[i] = salt[i];
	iv[14] = 0;
	iv[15] = 0;
	rtp_xor_be(iv + 8, ssrc, 4);
	rtp_xor_be(iv + 14, index, 6);
}

/**
 * rtp_gcm_iv() - the nonce of AES-GCM (RFC 7714 8.1 and 9.1), for RTP and RTCP
 * @iv: 12 bytes to fill
 * @salt: session salt, 12 bytes
 * @ssrc: of the packet
 * @index: of the packet
 */
static inline void rtp_gcm_iv(__u8 *iv, const __u8 *salt, __u32 ssrc, __u64 index)
{
	int i;

	for (i = 0; i < 12; i++)
		iv[i] = salt[i];
	rtp_xor_be(iv + 6, ssrc, 4);
	rtp_xor_be(iv + 12, index, 6);
}

/**
 * rtp_f8_iv() - the IV of AES-f8 for RTP (RFC 3711 4.1.2.2)
 * @iv: 16 bytes to fill
 * @packet: the packet, from whose header it is made
 * @roc: its rollover counter
 */
static inline void rtp_f8_iv(__u8 *iv, const __u8 *packet, __u32 roc)
{
	int i;

	iv[0] = 0;
	for (i = 1; i < 16; i++)
		iv[i] = i < 12 ? packet[i] : 0;
	rtp_xor_be(iv + 16, roc, 4);
}

/**
 * rtcp_f8_iv() - the IV of AES-f8 for RTCP (RFC 3711 4.1.2.3)
 * @iv: 16 bytes to fill
 * @packet: the packet, from whose header it is made
 * @word: E bit and index, as they follow the packet
 */
static inline void rtcp_f8_iv(__u8 *iv, const __u8 *packet, __u32 word)
{
	int i;

	for (i = 0; i < 16; i++)
		iv[i] = i < 8 ? 0 : packet[i - 8];
	rtp_xor_be(iv + 8, word, 4);
}

/**
 * rtp_f8_mask() - the key of AES-f8's IV (RFC 3711 4.1.2.1)
 * @out: 16 bytes to fill
 * @key: session key, 16 bytes
 * @salt: session salt, 14 bytes
 */
static inline void rtp_f8_mask(__u8 *out, const __u8 *key, const __u8 *salt)
{
	int i;

	for (i = 0; i < 16; i++)
		out[i] = key[i] ^ (i < 14 ? salt[i] : 0x55);
}

/**
 * rtp_f8() - encrypt or decrypt in f8 mode (RFC 3711 4.1.2.1)
 * @data: the payload, changed in place
 * @len: its length in bytes
 * @iv: IV', which is the IV encrypted under the masked key
 * @block: encrypts 16 bytes in place
 * @cipher: handed to @block
 */
static inline void rtp_f8(__u8 *data, __u32 len, const __u8 *iv, void (*block)(void *cipher, __u8 *io),
			  void *cipher)
{
	__u8 stream[16] = { 0 };
	__u32 at, i;

	for (at = 0; at < len; at += 16) {
		rtp_xor_be(stream + 16, at / 16, 4);
		for (i = 0; i < 16; i++)
			stream[i] ^= iv[i];
		block(cipher, stream);
		for (i = 0; i < 16 && at + i < len; i++)
			data[at + i] ^= stream[i];
	}
}

#endif
