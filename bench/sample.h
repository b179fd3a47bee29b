/* SPDX-License-Identifier: MIT */
/* What the watched processes and the machine have used up to a moment. */
#ifndef BENCH_SAMPLE_H
#define BENCH_SAMPLE_H

#include <stdint.h>
#include <time.h>

#define SAMPLE_THREADS 4096

struct tid_time {
	int tid;
	uint64_t ns;
};

struct sample {
	struct tid_time t[SAMPLE_THREADS];
	int nt;
	uint64_t ticks;		/* utime+stime+cutime+cstime of the watched processes */
	uint64_t busy[2];	/* per CPU, ticks */
	uint64_t own;		/* own CPU, us */
	uint32_t drops[2];
	uint64_t wall;
	uint64_t csw[2];	/* voluntary, involuntary */
};

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* pids: the processes that are watched; sockets: the two of the generator */
void sample_take(struct sample *s, const int *pids, int npids, const int sockets[2]);

/* CPU time of all watched threads between two samples */
uint64_t sample_thread_ns(const struct sample *a, const struct sample *b);

#endif
