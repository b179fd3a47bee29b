// SPDX-License-Identifier: MIT
/*
 * The packet path under everything at once, for the sanitizers.
 *
 * Usage: stress SECONDS
 * Two threads open, configure, protect, validate, read, sync and close streams, and
 * send from them, while two others send RTP, SRTP, STUN and DTLS to their ports.
 * Exit status 0 if every call returned what it may return, and SRTP got through.
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
#define KEYS 3
#define SCOPES 4
#define RTP_LEN 172
#define ROOM (RTP_LEN + SRTP_OVERHEAD_MAX)

struct controller {
	struct pp *pp;
	unsigned int worker;
	_Atomic uint16_t ports[STREAMS];
	_Atomic int64_t ids[STREAMS];
	struct controller *other;
	uint16_t waiting;		/* port of a stream whose keys never come */
	pthread_t thread;
	unsigned long rounds;
	unsigned long handed_up;	/* STUN and DTLS */
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

static struct pp_address peer(unsigned int seed)
{
	return (struct pp_address) { .address = { 127, 0, 0, 1 }, .port = 4000 + seed % 7, .family = 4 };
}

static struct srtp_keys keys(unsigned int number)
{
	return (struct srtp_keys) { .suite = SRTP_AES128_CM_SHA1_80, .key = { 1 + number % KEYS } };
}

static void configure(struct controller *c, int64_t id, unsigned int seed)
{
	struct pp_config config = {
		.peer = peer(seed),
		.rtp_sink = c->ids[seed % STREAMS],
		.rtcp_sink = c->ids[(seed + 1) % STREAMS],
		.learning = seed % 4,
		.flags = seed % (PP_F_DTLS << 1),
		.ufrag = "us",
	};
	int result;

	if (config.flags & PP_F_SECURE)
		config.flags &= ~PP_F_OPAQUE;
	if (seed & 1)
		config.flags &= ~PP_F_ICE;
	result = pp_stream_configure(c->pp, id, &config);
	expect(result == 0 || result == -ENOENT, "configure");
}

static void protect(struct controller *c, int64_t id, unsigned int seed)
{
	struct srtp_keys receive = keys(seed), send = keys(seed >> 2);
	int result;

	result = pp_stream_protect(c->pp, id, seed % SCOPES, seed & 0x70 ? &receive : NULL,
				   seed & 0x380 ? &send : NULL);
	expect(result == 0 || result == -ENOENT, "protect");
}

static void prove(struct controller *c, int64_t id, unsigned int seed)
{
	struct pp_address source = peer(seed), to = source;
	int result = pp_stream_validate(c->pp, id, &source, seed & 1);

	expect(result == 0 || result == -ENOENT, "validate");
	to.port = c->ports[seed % STREAMS];
	if (!to.port)
		return;
	result = pp_stream_send(c->pp, id, &to, (const uint8_t *)"\x16 from ourselves", 17);
	expect(result == 0 || result == -ENOENT, "send");
}

/* To the kernel and back, which has forwarded nothing new. */
static void hand_over(struct controller *c, int64_t id)
{
	struct pp_progress done = { .packets = 1, .bytes = RTP_LEN };
	int result;

	result = pp_stream_offload(c->pp, id, true);
	expect(result == 0 || result == -ENOENT, "offload");
	result = pp_stream_sources(c->pp, id, &done.received, &done.sent);
	expect(result == 0 || result == -ENOENT, "sources");
	if (done.received.count > PP_SOURCES || done.sent.count > PP_SOURCES)
		return;
	result = pp_stream_sync(c->pp, id, &done);
	expect(result == 0 || result == -ENOENT, "sync");
	result = pp_stream_offload(c->pp, id, false);
	expect(result == 0 || result == -ENOENT, "back from there");
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

/* What is kept for it gets old, and is there still at the end. */
static void open_waiting(struct controller *c)
{
	struct pp_config config = { .peer = peer(0), .flags = PP_F_SECURE | PP_F_DTLS };
	int64_t id = pp_stream_open(c->pp, c->worker, bound_socket(&c->waiting));

	expect(id > 0 && pp_stream_configure(c->pp, id, &config) == 0, "open one that waits");
}

static void *control(void *arg)
{
	struct pp_event events[16];
	struct controller *c = arg;
	struct pp_state state;
	struct pp_stats stats;
	unsigned int seed = c->worker;
	int result, n;

	while (!atomic_load(&stop)) {
		seed = seed * 1103515245 + 12345;
		replace(c, (seed >> 8) % STREAMS);
		configure(c, c->ids[(seed >> 12) % STREAMS], seed >> 16);
		configure(c->other, c->other->ids[(seed >> 4) % STREAMS], seed >> 16);
		protect(c, c->ids[(seed >> 14) % STREAMS], seed >> 8);
		protect(c->other, c->other->ids[(seed >> 9) % STREAMS], seed >> 13);
		prove(c, c->other->ids[(seed >> 17) % STREAMS], seed >> 15);
		result = pp_stream_state(c->pp, c->other->ids[(seed >> 20) % STREAMS], &state);
		expect(result == 0 || result == -ENOENT, "state");
		hand_over(c, c->other->ids[(seed >> 21) % STREAMS]);
		expect(pp_stats(c->pp, &stats) == 0, "stats");
		result = pp_events(c->pp, events, 16);
		expect(result >= 0, "events");
		for (n = 0; n < result; n++)
			c->handed_up += events[n].type != PP_EVENT_CONFIRMED;
		c->rounds++;
	}
	return NULL;
}

/* A check that names us, or the beginning of a DTLS handshake; as long as RTP. */
static void write_other(uint8_t *packet, unsigned int seq)
{
	static const uint8_t check[] = { 0, 1, 0, 148, 0x21, 0x12, 0xa4, 0x42, [21] = 6, [23] = 4, 'u', 's', ':', 'x' };

	if (seq & 64)
		memcpy(packet, check, sizeof(check));
	else
		packet[0] = 22;
}

/* Every other packet is protected; bad ones are plain, empty or not RTP. */
static int write_packet(uint8_t *packet, struct srtp *srtp, unsigned int seq)
{
	memset(packet, 0, RTP_LEN);
	packet[0] = 128;
	packet[1] = seq % 5 ? 0 : 200;
	packet[2] = seq >> 8;
	packet[3] = seq;
	if (seq % 97 == 0)
		return 0;
	if (seq % 11 == 0)
		write_other(packet, seq);
	else if (seq & 1)
		return packet[1] ? srtcp_protect(srtp, packet, RTP_LEN, ROOM) : srtp_protect(srtp, packet, RTP_LEN, ROOM);
	return RTP_LEN;
}

static void *traffic(void *arg)
{
	struct srtp_keys mine = keys(0);
	struct srtp *srtp = srtp_open(&mine);
	struct controller *c = arg;
	struct sockaddr_in to;
	unsigned int seq = 0;
	uint8_t packet[ROOM];
	uint16_t port;
	int len, again, fd = bound_socket(&port);

	while (!atomic_load(&stop)) {
		to = loopback(seq % 64 ? c->ports[(seq >> 1) % STREAMS] : c->waiting);
		len = write_packet(packet, srtp, seq);
		expect(len >= 0, "protect for traffic");
		/* Now and then twice: what is a replay then was right before. */
		for (again = seq++ % 9 == 0; to.sin_port && again >= 0; again--)
			sendto(fd, packet, len, 0, (struct sockaddr *)&to, sizeof(to));
	}
	srtp_close(srtp);
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
		open_waiting(&c[i]);
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
	printf("%lu rounds, %lu packets, %lu events, %lu replays\n", c[0].rounds + c[1].rounds,
	       (unsigned long)stats.packets, c[0].handed_up + c[1].handed_up,
	       (unsigned long)stats.drops[PP_DROP_REPLAY]);
	expect(c[0].rounds && c[1].rounds && stats.packets, "nothing happened");
	expect(c[0].handed_up + c[1].handed_up, "no STUN and no DTLS came up");
	expect(stats.drops[PP_DROP_REPLAY], "no SRTP was accepted");
	expect(stats.drops[PP_DROP_AUTH] && stats.drops[PP_DROP_NO_KEY], "no SRTP was refused");
	return wrong;
}
