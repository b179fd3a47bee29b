/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What packets of RTP and RTCP say of themselves, and which have been there: what the
 * packet path and the kernel module share, with srtp_common.h and rtp_quality.h.
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
 * Positions: an index counts all packets of one SSRC, of RTP as rollover counter and
 * sequence number. They are kept as the index that follows the highest so far, 0
 * before the first.
 */
#define RTP_WINDOW 128

struct rtp_window {
	__u64 next;			/* one above the highest index that passed */
	__u64 seen[2];			/* bit n: index next - 1 - n passed */
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

#endif
