/* SPDX-License-Identifier: MIT */
/*
 * What a party says over RTCP about what it hears (RFC 3550 6.4), and how far away it is.
 *
 * No socket and no clock; read by cffi too (see packetpath.h for the subset).
 */
#ifndef RTPENGINE_REPORTS_H
#define RTPENGINE_REPORTS_H

#include <stddef.h>
#include <stdint.h>

#define REPORTS_SENT 4			/* sender reports on their way to a party that are remembered */
#define REPORTS_RTT_MAX 655360		/* 10 s; what is longer is none */

/* A sender report that went to a party. */
struct reports_sent {
	uint64_t at_ns;
	uint32_t ntp;			/* the middle of its NTP timestamp, which comes back as LSR; 0: none */
	uint32_t reserved;
};

struct reports {
	uint64_t count;			/* report blocks about what the party gets */
	uint64_t malformed;		/* compounds that were not read */
	uint64_t round_trips;		/* those that could be measured */
	int64_t lost;			/* cumulative, may be negative; this and what follows of the last block */
	uint32_t fraction;		/* lost since the block before, in 1/256 */
	uint32_t jitter;		/* in timestamp units */
	uint32_t ssrc;			/* whose packets it tells of */
	uint32_t rtt;			/* between the party and us, in 1/65536 s; of the last round trip */
	uint32_t sender;		/* SSRC of the last sender report that went to the party */
	uint32_t next;			/* place in sent */
	struct reports_sent sent[4];	/* REPORTS_SENT */
};

void reports_read(struct reports *party, struct reports *other, const uint8_t *data, size_t len, uint32_t ssrc,
		  uint64_t now_ns);

#endif
