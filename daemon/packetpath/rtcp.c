// SPDX-License-Identifier: MIT
/* Removal of feedback packets from compound RTCP, for a receiver without RTP/AVPF. */
#include "rtcp.h"

#include <stdbool.h>
#include <string.h>

#include "rtp.h"

static size_t packet_len(const uint8_t *data)
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

/* Whether every packet of the compound has version 2, what it claims to have, and ends within the compound. */
static bool well_formed(const uint8_t *data, size_t len)
{
	size_t at = 0;

	while (len - at >= 4) {
		if (data[at] >> 6 != 2 || packet_len(data + at) > len - at ||
		    packet_len(data + at) < least_len(data + at))
			return false;
		at += packet_len(data + at);
	}
	return true;
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

	if (!well_formed(data, len))
		return len;
	while (len - from >= 4) {
		part = packet_len(data + from);
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
