/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Reception quality, of one SSRC at a time: what is missing, out of order or there
 * twice, and the jitter (RFC 3550 6.4.1, A.1, A.3, A.8). The packet path and the kernel
 * module count alike.
 *
 * Written in the subset that the kernel, the daemon's compiler and cffi all
 * read, see rtp.h.
 */
#ifndef RTPENGINE_RTP_QUALITY_H
#define RTPENGINE_RTP_QUALITY_H

#include "rtp.h"

/* The window holds extended sequence numbers, which begin here so that nothing lies before 0. */
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

#endif
