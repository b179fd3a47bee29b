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
	iv[14] = iv[15] = 0;
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
