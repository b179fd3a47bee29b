/* SPDX-License-Identifier: MIT */
/*
 * Token buckets as one number, the time at which all tokens are back; 0 is a full bucket.
 *
 * Read by cffi too (see packetpath.h for the subset).
 */
#ifndef RTPENGINE_BUCKET_H
#define RTPENGINE_BUCKET_H

#include <stdint.h>

/**
 * bucket_take() - take a token
 * @bucket: when it will be full again, in nanoseconds
 * @now_ns: CLOCK_MONOTONIC
 * @burst: how many tokens it holds
 * @per_second: how many come back in a second
 *
 * Return: 1, or 0 if there is none; that takes nothing.
 */
static inline int bucket_take(uint64_t *bucket, uint64_t now_ns, uint32_t burst, uint32_t per_second)
{
	uint64_t interval_ns = 1000000000 / per_second;
	uint64_t full_ns = *bucket > now_ns ? *bucket : now_ns;

	if (full_ns - now_ns > (burst - 1) * interval_ns)
		return 0;
	*bucket = full_ns + interval_ns;
	return 1;
}

/**
 * bucket_give_back() - undo a bucket_take() that got a token
 * @bucket: as there
 * @per_second: as there
 */
static inline void bucket_give_back(uint64_t *bucket, uint32_t per_second)
{
	*bucket -= 1000000000 / per_second;
}

#endif
