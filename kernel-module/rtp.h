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

#endif
