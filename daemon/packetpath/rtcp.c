// SPDX-License-Identifier: MIT
/* Removal of feedback packets from compound RTCP, for a receiver without RTP/AVPF. */
#include "rtcp.h"

#include <string.h>

#include "rtp.h"

/**
 * rtcp_packet_len() - what a packet of a compound says that it has
 * @data: at least 4 bytes of it
 */
size_t rtcp_packet_len(const uint8_t *data)
{
	return 4 * ((size_t)rtp_be16(data + 2) + 1);
}

/* What a report must hold: SSRC, the sender's figures in SR, and its report blocks (RFC 3550 6.4). */
static size_t least_len(const uint8_t *data)
{
	size_t blocks = (data[0] & 31) * 24;

	if (data[1] == RTCP_TYPE_SR)
		return 28 + blocks;
	return data[1] == RTCP_TYPE_RR ? 8 + blocks : 4;
}

/**
 * rtcp_well_formed() - has every packet of a compound version 2 and what it claims to have, within the compound?
 * @data: the compound
 * @len: its length in bytes; up to 3 bytes more than packets need do not matter
 *
 * Return: 1 if so, else 0.
 */
int rtcp_well_formed(const uint8_t *data, size_t len)
{
	size_t at = 0;

	while (len - at >= 4) {
		if (data[at] >> 6 != 2 || rtcp_packet_len(data + at) > len - at ||
		    rtcp_packet_len(data + at) < least_len(data + at))
			return 0;
		at += rtcp_packet_len(data + at);
	}
	return 1;
}

/**
 * rtcp_strip_feedback() - remove RTPFB and PSFB from a compound RTCP packet
 * @data: the packet, changed in place
 * @len: its length in bytes
 *
 * RFC 4585 6.1 packets (types 205 and 206) go, all others stay: XR, unknown
 * types and what RFC 5506 allows to come alone. A malformed compound is left
 * whole; up to three trailing bytes are kept.
 * Return: the new length; 0 if there was nothing but feedback.
 * Context: any; takes no lock.
 */
size_t rtcp_strip_feedback(uint8_t *data, size_t len)
{
	size_t from = 0, to = 0, part;

	if (!rtcp_well_formed(data, len))
		return len;
	while (len - from >= 4) {
		part = rtcp_packet_len(data + from);
		if (data[from + 1] != RTCP_TYPE_RTPFB && data[from + 1] != RTCP_TYPE_PSFB) {
			memmove(data + to, data + from, part);
			to += part;
		}
		from += part;
	}
	if (to == 0 && from > 0)
		return 0;
	memmove(data + to, data + from, len - from);
	return to + len - from;
}
