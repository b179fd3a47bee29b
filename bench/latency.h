/* SPDX-License-Identifier: MIT */
/* A histogram of nanoseconds with a resolution of 1.6 %, included once, by rtpload.c. */
#ifndef BENCH_LATENCY_H
#define BENCH_LATENCY_H

#include <stdint.h>

#define HSUB 6
#define HN ((64 - HSUB + 1) << HSUB)
static uint64_t hist[HN];
static uint64_t lat_max, lat_sum;

static inline unsigned hidx(uint64_t v)
{
	if (v < (1u << HSUB))
		return (unsigned)v;
	unsigned e = 63 - (unsigned)__builtin_clzll(v);
	return ((e - HSUB + 1) << HSUB) + (unsigned)((v >> (e - HSUB)) & ((1u << HSUB) - 1));
}

static inline uint64_t hval(unsigned i)
{
	if (i < (1u << HSUB))
		return i;
	unsigned e = (i >> HSUB) + HSUB - 1;
	return (1ull << e) + ((uint64_t)(i & ((1u << HSUB) - 1)) << (e - HSUB));
}

static inline double pct(double p)
{
	uint64_t total = 0, want, acc = 0;
	for (unsigned i = 0; i < HN; i++)
		total += hist[i];
	if (!total)
		return 0;
	want = (uint64_t)(p * (double)total);
	if (want >= total)
		want = total - 1;
	for (unsigned i = 0; i < HN; i++) {
		acc += hist[i];
		if (acc > want)
			return (double)hval(i) / 1000.0;
	}
	return 0;
}

#endif
