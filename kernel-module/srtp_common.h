/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The arithmetic of SRTP (RFC 3711) that the packet path and the kernel module share:
 * how far each SSRC has come under a key, and initialization vectors.
 *
 * Written in the subset that the kernel, the daemon's compiler and cffi all
 * read, see rtp.h.
 */
#ifndef RTPENGINE_SRTP_COMMON_H
#define RTPENGINE_SRTP_COMMON_H

#include "rtp.h"

/* Where a key has no more indices: RTP has 48 bits, RTCP 31, which are in the packet. */
#define RTP_INDEX_END 0x1000000000000
#define RTCP_INDEX_END 0x80000000
#define RTP_SOURCES 64
#define RTP_RETIRED_BITS 2048

struct rtp_sources {
	__u32 count;
	__u32 clock;			/* advances with each packet that passes */
	__u32 ssrc[RTP_SOURCES];
	__u32 used[RTP_SOURCES];	/* clock of its last packet */
	struct rtp_window window[RTP_SOURCES];
	__u64 retired[RTP_RETIRED_BITS / 64];	/* Bloom filter of the SSRCs that made room */
};

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
