/* SPDX-License-Identifier: MIT */
#include "sample.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#define MEMINFO_DROPS 8

static uint32_t sock_drops(int s)
{
	uint32_t m[16] = {0};
	socklen_t l = sizeof m;
	if (getsockopt(s, SOL_SOCKET, SO_MEMINFO, m, &l))
		return 0;
	return m[MEMINFO_DROPS];
}

/* utime + stime + cutime + cstime of a process, in ticks */
static uint64_t process_ticks(int pid)
{
	unsigned long long u = 0, k = 0;
	char path[64], line[1024], *p;
	long long cu = 0, ck = 0;
	uint64_t ticks = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	if (p && sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %lld %lld", &u, &k, &cu, &ck) == 4)
		ticks = u + k + (uint64_t)cu + (uint64_t)ck;
	fclose(f);
	return ticks;
}

static void thread_time(struct sample *s, int pid, const char *tid)
{
	unsigned long long ns;
	char path[300];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pid, tid);
	f = fopen(path, "r");
	if (!f)
		return;
	if (fscanf(f, "%llu", &ns) == 1 && s->nt < SAMPLE_THREADS) {
		s->t[s->nt].tid = atoi(tid);
		s->t[s->nt++].ns = ns;
	}
	fclose(f);
}

static void thread_switches(struct sample *s, int pid, const char *tid)
{
	char path[300], line[256];
	unsigned long long c;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/status", pid, tid);
	f = fopen(path, "r");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "voluntary_ctxt_switches: %llu", &c) == 1)
			s->csw[0] += c;
		else if (sscanf(line, "nonvoluntary_ctxt_switches: %llu", &c) == 1)
			s->csw[1] += c;
	}
	fclose(f);
}

static void process_sample(struct sample *s, int pid)
{
	struct dirent *e;
	char path[64];
	DIR *d;

	s->ticks += process_ticks(pid);
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	if (!d)
		return;
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		thread_time(s, pid, e->d_name);
		thread_switches(s, pid, e->d_name);
	}
	closedir(d);
}

static void cpu_sample(struct sample *s)
{
	unsigned long long u, n, k, id, io, irq, soft;
	FILE *f = fopen("/proc/stat", "r");
	char line[1024];
	int c;

	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "cpu%d %llu %llu %llu %llu %llu %llu %llu", &c, &u, &n, &k, &id, &io, &irq, &soft) == 8 &&
		    c >= 0 && c < 2)
			s->busy[c] = u + n + k + irq + soft;
	fclose(f);
}

void sample_take(struct sample *s, const int *pids, int npids, const int sockets[2])
{
	struct rusage ru;
	int i;

	memset(s, 0, sizeof(*s));
	for (i = 0; i < npids; i++)
		process_sample(s, pids[i]);
	cpu_sample(s);
	getrusage(RUSAGE_SELF, &ru);
	s->own = (uint64_t)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000ull +
		 (uint64_t)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec);
	s->drops[0] = sock_drops(sockets[0]);
	s->drops[1] = sock_drops(sockets[1]);
	s->wall = now_ns();
}

uint64_t sample_thread_ns(const struct sample *a, const struct sample *b)
{
	uint64_t sum = 0;
	for (int i = 0; i < b->nt; i++) {
		uint64_t base = 0;
		for (int j = 0; j < a->nt; j++)
			if (a->t[j].tid == b->t[i].tid)
				base = a->t[j].ns;
		if (b->t[i].ns > base)
			sum += b->t[i].ns - base;
	}
	return sum;
}
