/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "srtp.h"

void die(const char *what)
{
	perror(what);
	exit(1);
}

void parse_addr(const char *a, int port, struct sockaddr_storage *ss)
{
	struct sockaddr_in *s4 = (void *)ss;
	struct sockaddr_in6 *s6 = (void *)ss;
	memset(ss, 0, sizeof(*ss));
	if (strchr(a, ':')) {
		s6->sin6_family = AF_INET6;
		s6->sin6_port = htons(port);
		if (inet_pton(AF_INET6, a, &s6->sin6_addr) != 1)
			die(a);
	} else {
		s4->sin_family = AF_INET;
		s4->sin_port = htons(port);
		if (inet_pton(AF_INET, a, &s4->sin_addr) != 1)
			die(a);
	}
}

struct srtp *parse_key(const char *text)
{
	static const char *const names[SRTP_SUITES] = {"cm:", "f8:", "gcm:"};
	enum srtp_suite suite = 0;
	uint8_t k[SRTP_KEYSALT_MAX];
	if (!strcmp(text, "-"))
		return NULL;
	while (suite < SRTP_SUITES && strncmp(text, names[suite], strlen(names[suite])))
		suite++;
	if (suite == SRTP_SUITES)
		die("suite");
	text += strlen(names[suite]);
	if (strlen(text) != 2 * (size_t)srtp_keysalt_len(suite))
		die("key length");
	for (int i = 0; i < srtp_keysalt_len(suite); i++) {
		unsigned v;
		sscanf(text + 2 * i, "%2x", &v);
		k[i] = (uint8_t)v;
	}
	return srtp_new(suite, k);
}

int make_socket(int family, int port)
{
	int one = 1, big = 64 << 20;
	int s = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s < 0)
		die("socket");
	if (setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big))
		setsockopt(s, SOL_SOCKET, SO_RCVBUF, &big, sizeof big);
	if (setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big))
		setsockopt(s, SOL_SOCKET, SO_SNDBUF, &big, sizeof big);
	if (family == AF_INET) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
		setsockopt(s, IPPROTO_IP, IP_FREEBIND, &one, sizeof one);
		setsockopt(s, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
		if (bind(s, (void *)&a, sizeof a))
			die("bind");
	} else {
		struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
		setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
		setsockopt(s, IPPROTO_IPV6, 78 /* IPV6_FREEBIND */, &one, sizeof one);
		setsockopt(s, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof one);
		if (bind(s, (void *)&a, sizeof a))
			die("bind");
	}
	return s;
}
