// SPDX-License-Identifier: MIT
/* Worker threads: epoll rounds, pauses between them, the lock, and events for Python. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define GIVE_WAY_NS 1000000		/* at most, to a crowd of control calls */
#define TIMER_SLACK_NS 20000
#define NICE (-10)
#define STACK_SIZE (128 * 1024)

/*
 * A pause pays if several packets come during it; more than GATHER at a time
 * save nothing worth waiting for.
 */
#define GATHER_MIN 4
#define GATHER 64
#define RATE_SPAN_NS 10000000

uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static struct timespec timespec_at(uint64_t ns)
{
	return (struct timespec) { .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S };
}

/**
 * worker_lock() - take a worker's lock for a control call
 * @worker: the worker
 *
 * A busy worker frees its lock for an instant only, in which a sleeping
 * thread never gets it: so say that somebody waits, see give_way().
 * Context: any thread but the worker.
 */
void worker_lock(struct worker *worker)
{
	atomic_fetch_add(&worker->waiters, 1);
	pthread_mutex_lock(&worker->lock);
	atomic_fetch_sub(&worker->waiters, 1);
}

/**
 * worker_unlock() - end a control call
 * @worker: the worker
 *
 * Context: any thread but the worker, lock held.
 */
void worker_unlock(struct worker *worker)
{
	if (worker->parked && !atomic_load(&worker->waiters))
		pthread_cond_signal(&worker->idle);
	pthread_mutex_unlock(&worker->lock);
}

/* Let all waiting control calls have the lock, for a bounded time. */
static void give_way(struct worker *w)
{
	struct timespec until = timespec_at(monotonic_ns() + GIVE_WAY_NS);
	int timeout = 0;

	w->parked = true;
	while (atomic_load(&w->waiters) && timeout == 0)
		timeout = pthread_cond_timedwait(&w->idle, &w->lock, &until);
	w->parked = false;
}

/**
 * worker_event() - tell Python about a stream
 * @worker: its worker
 * @event: what happened; of its data only what is used is kept
 *
 * Events are hints: when Python is too far behind they are lost, which is counted.
 * Context: lock held.
 */
void worker_event(struct worker *worker, const struct pp_event *event)
{
	size_t len = offsetof(struct pp_event, data) + event->len;
	struct backlog *b = &worker->backlog;
	uint64_t one = 1;

	if (len > BACKLOG - b->end) {
		worker->stats.events_lost++;
		return;
	}
	/* The reader takes all there is, so one wake-up is enough. */
	if (b->first == b->end && write(worker->wakeup_fd, &one, sizeof(one)) < 0)
		worker->stats.events_lost++;
	memcpy(b->bytes + b->end, event, len);
	b->end += len;
}

/**
 * worker_event_confirmed() - tell Python that a stream has settled on a source
 * @worker: its worker
 * @stream: the stream
 *
 * Context: lock held.
 */
void worker_event_confirmed(struct worker *worker, const struct stream *stream)
{
	struct pp_event event;

	event.id = stream->id;
	event.type = PP_EVENT_CONFIRMED;
	event.len = 0;
	event.source = stream->learn.accept_from;
	worker_event(worker, &event);
}

/**
 * worker_event_index() - tell Python that an SRTP index of a stream has come far
 * @worker: its worker
 * @stream: the stream
 *
 * Context: lock held.
 */
void worker_event_index(struct worker *worker, const struct stream *stream)
{
	struct pp_event event = { .id = stream->id, .type = PP_EVENT_INDEX };

	worker_event(worker, &event);
}

/**
 * worker_event_elsewhere() - tell Python that an offloaded stream has to be judged here
 * @worker: its worker
 * @stream: the stream
 * @packet: the packet that cannot be judged
 *
 * Once is enough, but an event may be lost: hence once a second, until the stream is taken back.
 * Context: lock held.
 */
void worker_event_elsewhere(struct worker *worker, struct stream *stream, const struct learn_packet *packet)
{
	struct pp_event event;

	if (stream->elsewhere_ns && packet->now_ns < stream->elsewhere_ns + NS_PER_S)
		return;
	stream->elsewhere_ns = packet->now_ns;
	event.id = stream->id;
	event.type = PP_EVENT_ELSEWHERE;
	event.len = 0;
	event.source = packet->source;
	worker_event(worker, &event);
}

static unsigned int drain(struct backlog *b, struct pp_event *out, unsigned int max)
{
	size_t fixed = offsetof(struct pp_event, data);
	unsigned int n;

	for (n = 0; n < max && b->first < b->end; n++) {
		memcpy(&out[n], b->bytes + b->first, fixed);
		memcpy(out[n].data, b->bytes + b->first + fixed, out[n].len);
		b->first += fixed + out[n].len;
	}
	if (b->first == b->end)
		b->first = b->end = 0;
	return n;
}

/**
 * pp_events() - take the events of all workers
 * @pp: the packet path
 * @out: room for @max events
 * @max: call again while that many come back: only then is wakeup_fd armed again
 *
 * Return: the number of events.
 * Context: any thread.
 */
int pp_events(struct pp *pp, struct pp_event *out, uint32_t max)
{
	unsigned int i, n = 0;

	for (i = 0; i < pp->workers; i++) {
		worker_lock(pp->worker[i]);
		n += drain(&pp->worker[i]->backlog, out + n, max - n);
		worker_unlock(pp->worker[i]);
	}
	return n;
}

static void add_pair(struct pp_traffic to[2], const struct pp_traffic from[2])
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		to[i].packets += from[i].packets;
		to[i].bytes += from[i].bytes;
		to[i].errors += from[i].errors;
	}
}

/**
 * pp_stats() - add up the counters of all workers
 * @pp: the packet path
 * @out: totals since pp_open(), of closed streams too
 *
 * Return: 0.
 * Context: any thread.
 */
int pp_stats(struct pp *pp, struct pp_stats *out)
{
	const struct pp_stats *stats;
	unsigned int i, reason;

	memset(out, 0, sizeof(*out));
	for (i = 0; i < pp->workers; i++) {
		worker_lock(pp->worker[i]);
		stats = &pp->worker[i]->stats;
		out->packets += stats->packets;
		out->bytes += stats->bytes;
		out->errors += stats->errors;
		for (reason = 0; reason < PP_DROP_REASONS; reason++)
			out->drops[reason] += stats->drops[reason];
		add_pair(out->received, stats->received);
		add_pair(out->sent, stats->sent);
		out->totals.lost += stats->totals.lost;
		out->totals.duplicates += stats->totals.duplicates;
		out->totals.reordered += stats->totals.reordered;
		out->totals.skips += stats->totals.skips;
		out->totals.resets += stats->totals.resets;
		out->events_lost += stats->events_lost;
		out->wakeups += stats->wakeups;
		out->streams += stats->streams;
		worker_unlock(pp->worker[i]);
	}
	return 0;
}

/* Keep the mean time between packets, over at least RATE_SPAN_NS. */
static void measure(struct worker *w, unsigned int packets)
{
	uint64_t span = w->now_ns - w->rate_since_ns;

	w->rate_packets += packets;
	if (span < RATE_SPAN_NS)
		return;
	w->interval_ns = span / (w->rate_packets + 1);
	w->rate_since_ns = w->now_ns;
	w->rate_packets = 0;
}

/*
 * Wait until several sockets are readable, so that one wake-up serves them all.
 *
 * At few packets per second there is nothing to gather and no pause; at very
 * many a round has gathered enough by itself. In between the pause is as long
 * as GATHER packets take, pause_ns at most, counted from the start of the round.
 */
static void pause_for_more(struct worker *w, unsigned int packets)
{
	uint64_t length = GATHER * w->interval_ns;
	struct timespec until;

	if (length > w->pause_ns)
		length = w->pause_ns;
	if (packets >= GATHER || length < GATHER_MIN * w->interval_ns || !w->interval_ns)
		return;
	until = timespec_at(w->round_ns + length);
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* Serve what one epoll_wait() reported; the lock is offered after every read. */
static unsigned int serve(struct worker *w, const struct epoll_event *events, int n)
{
	unsigned int packets = 0, since_clock = 0, got;
	struct stream *s;
	int i;

	pthread_mutex_lock(&w->lock);
	w->round_ns = monotonic_ns();
	w->now_ns = w->round_ns;
	w->stats.wakeups++;
	if (w->early.oldest)
		early_expire(w, w->now_ns);
	for (i = 0; i < n; i++) {
		if (atomic_load_explicit(&w->waiters, memory_order_relaxed)) {
			give_way(w);
			/* No packet of this round may be older than what a control call has done. */
			since_clock = BATCH;
		}
		if (since_clock >= BATCH) {
			w->now_ns = monotonic_ns();
			since_clock = 0;
		}
		s = stream_find(&w->table, events[i].data.u64);
		if (!s || s->held)
			continue;
		got = relay_read(w, s);
		packets += got;
		since_clock += got;
	}
	w->timeout_ms = w->early.oldest ? early_timeout_ms(w, w->now_ns) : -1;
	pthread_mutex_unlock(&w->lock);
	return packets;
}

/* Media before signalling; without the privilege it stays as it is. */
static void raise_priority(void)
{
	prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
	setpriority(PRIO_PROCESS, syscall(SYS_gettid), NICE);
}

static void *worker_main(void *arg)
{
	struct epoll_event events[EVENTS];
	struct worker *w = arg;
	unsigned int packets;
	int n;

	raise_priority();
	while (!atomic_load(&w->stop)) {
		n = epoll_wait(w->epoll_fd, events, EVENTS, w->timeout_ms);
		if (n < 0)
			continue;
		packets = serve(w, events, n);
		measure(w, packets);
		if (w->pause_ns)
			pause_for_more(w, packets);
	}
	return NULL;
}

/* The thread inherits a full signal mask, so that signals reach Python's main thread. */
static int start_thread(struct worker *w)
{
	pthread_attr_t attr;
	sigset_t all, old;
	char name[16];
	int error;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	error = pthread_create(&w->thread, &attr, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (error)
		return -error;
	snprintf(name, sizeof(name), "rtp-worker/%u", w->index);
	pthread_setname_np(w->thread, name);
	return 0;
}

static void init_lock(struct worker *w)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->idle, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&w->lock, NULL);
}

static void worker_free(struct worker *w)
{
	early_free(w);
	table_free(&w->table);
	secure_free(w);
	if (w->stop_fd >= 0)
		close(w->stop_fd);
	if (w->epoll_fd >= 0)
		close(w->epoll_fd);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->idle);
	free(w->batch);
	free(w);
}

static int worker_start(struct pp *pp, int wakeup_fd, uint32_t pause_us)
{
	struct epoll_event stop = { .events = EPOLLIN, .data.u64 = 0 };
	struct worker *w = calloc(1, sizeof(*w));
	int result = -ENOMEM;

	if (!w)
		return result;
	init_lock(w);
	w->index = pp->workers;
	w->wakeup_fd = wakeup_fd;
	w->pause_ns = pause_us * 1000;
	w->timeout_ms = -1;
	w->batch = calloc(1, sizeof(*w->batch));
	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!w->batch)
		goto fail;
	if (w->epoll_fd < 0 || w->stop_fd < 0 || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->stop_fd, &stop)) {
		result = -errno;
		goto fail;
	}
	batch_init(w->batch);
	result = start_thread(w);
	if (result)
		goto fail;
	pp->worker[pp->workers++] = w;
	return 0;
fail:
	worker_free(w);
	return result;
}

static void worker_stop(struct worker *w)
{
	uint64_t one = 1;

	atomic_store(&w->stop, true);
	while (write(w->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(w->thread, NULL);
	worker_free(w);
}

/**
 * pp_open() - start the worker threads
 * @workers: how many, 1..PP_MAX_WORKERS
 * @wakeup_fd: eventfd of the caller, non-blocking, written when events wait
 * @pause_us: longest pause between rounds at medium load; 0: none
 *
 * Return: the packet path, or NULL with errno set.
 * Context: any thread, after the process has daemonized.
 */
struct pp *pp_open(uint32_t workers, int wakeup_fd, uint32_t pause_us)
{
	struct pp *pp;
	int error = 0;

	if (workers < 1 || workers > PP_MAX_WORKERS || pause_us > PP_MAX_PAUSE_US) {
		errno = EINVAL;
		return NULL;
	}
	pp = calloc(1, sizeof(*pp));
	if (!pp)
		return NULL;
	while (pp->workers < workers && !error)
		error = worker_start(pp, wakeup_fd, pause_us);
	if (error) {
		pp_close(pp);
		errno = -error;
		return NULL;
	}
	return pp;
}

/**
 * pp_close() - stop the worker threads and close every socket
 * @pp: the packet path; no other call may be under way
 *
 * Context: any thread.
 */
void pp_close(struct pp *pp)
{
	unsigned int i;

	for (i = 0; i < pp->workers; i++)
		worker_stop(pp->worker[i]);
	free(pp);
}
