// SPDX-License-Identifier: MIT
/*
 * The packet path under everything at once, for the sanitizers.
 *
 * Usage: stress SECONDS
 * Two threads open, configure, read and close streams while two others send to
 * their ports. Exit status 0 if every call returned what it may return.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "packetpath.h"

#define STREAMS 8			/* of one controlling thread */

struct controller {
	struct pp *pp;
	unsigned int worker;
	_Atomic uint16_t ports[STREAMS];
	_Atomic int64_t ids[STREAMS];
	struct controller *other;
	pthread_t thread;
	unsigned long rounds;
};

static atomic_bool stop;
static atomic_int wrong;

static void expect(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "stress: %s\n", what);
	atomic_store(&wrong, 1);
}

static struct sockaddr_in loopback(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static int bound_socket(uint16_t *port)
{
	struct sockaddr_in a = loopback(0);
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) || getsockname(fd, (struct sockaddr *)&a, &len)) {
		perror("stress: socket");
		exit(2);
	}
	*port = ntohs(a.sin_port);
	return fd;
}

static void configure(struct controller *c, int64_t id, unsigned int seed)
{
	struct pp_config config = {
		.peer = { .address = { 127, 0, 0, 1 }, .port = 4000 + seed % 7, .family = 4 },
		.rtp_sink = c->ids[seed % STREAMS],
		.rtcp_sink = c->ids[(seed + 1) % STREAMS],
		.learning = seed % 4,
		.flags = seed % 512,
	};
	int result = pp_stream_configure(c->pp, id, &config);

	expect(result == 0 || result == -ENOENT, "configure");
}

static void replace(struct controller *c, unsigned int slot)
{
	int64_t id = c->ids[slot];
	uint16_t port;
	int fd;

	if (id)
		expect(pp_stream_close(c->pp, id) == 0, "close");
	expect(!id || pp_stream_close(c->pp, id) == -ENOENT, "close twice");
	fd = bound_socket(&port);
	id = pp_stream_open(c->pp, c->worker, fd);
	expect(id > 0, "open");
	atomic_store(&c->ids[slot], id);
	atomic_store(&c->ports[slot], port);
}

static void *control(void *arg)
{
	struct pp_event events[16];
	struct controller *c = arg;
	struct pp_state state;
	struct pp_stats stats;
	unsigned int seed = c->worker;
	int result;

	while (!atomic_load(&stop)) {
		seed = seed * 1103515245 + 12345;
		replace(c, (seed >> 8) % STREAMS);
		configure(c, c->ids[(seed >> 12) % STREAMS], seed >> 16);
		configure(c->other, c->other->ids[(seed >> 4) % STREAMS], seed >> 16);
		result = pp_stream_state(c->pp, c->other->ids[(seed >> 20) % STREAMS], &state);
		expect(result == 0 || result == -ENOENT, "state");
		expect(pp_stats(c->pp, &stats) == 0, "stats");
		expect(pp_events(c->pp, events, 16) >= 0, "events");
		c->rounds++;
	}
	return NULL;
}

static void *traffic(void *arg)
{
	uint8_t packet[172] = { 128 };
	struct controller *c = arg;
	struct sockaddr_in to;
	unsigned int seq = 0;
	uint16_t port;
	int fd = bound_socket(&port);

	while (!atomic_load(&stop)) {
		to = loopback(c->ports[seq % STREAMS]);
		packet[1] = seq % 5 ? 0 : 200;
		packet[2] = seq >> 8;
		packet[3] = seq++;
		if (to.sin_port)
			sendto(fd, packet, seq % 97 ? sizeof(packet) : 0, 0, (struct sockaddr *)&to, sizeof(to));
	}
	close(fd);
	return NULL;
}

int main(int argc, char **argv)
{
	int wakeup = eventfd(0, EFD_NONBLOCK);
	struct controller c[2] = { 0 };
	pthread_t senders[2];
	struct pp_stats stats;
	struct pp *pp;
	int i;

	if (argc != 2)
		return 2;
	pp = pp_open(2, wakeup, 200);
	if (!pp)
		return 2;
	for (i = 0; i < 2; i++) {
		c[i].pp = pp;
		c[i].worker = i;
		c[i].other = &c[1 - i];
	}
	for (i = 0; i < 2; i++) {
		pthread_create(&senders[i], NULL, traffic, &c[i]);
		pthread_create(&c[i].thread, NULL, control, &c[i]);
	}
	sleep(atoi(argv[1]));
	atomic_store(&stop, true);
	for (i = 0; i < 2; i++) {
		pthread_join(senders[i], NULL);
		pthread_join(c[i].thread, NULL);
	}
	pp_stats(pp, &stats);
	pp_close(pp);
	close(wakeup);
	printf("%lu rounds, %lu packets\n", c[0].rounds + c[1].rounds, (unsigned long)stats.packets);
	expect(c[0].rounds && c[1].rounds && stats.packets, "nothing happened");
	return wrong;
}
