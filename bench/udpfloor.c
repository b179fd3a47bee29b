/* SPDX-License-Identifier: MIT */
/*
 * udpfloor - the user-space floor: the least that a relay with one UDP socket
 * per media port can do.  One thread, epoll, recvmmsg, sendmmsg.  It looks at
 * no byte of the packets: what arrives on one port of a pair leaves from the
 * other port of the pair towards a fixed peer.  It has no control protocol;
 * the ports come from a map file.  A real relay does strictly more work.
 *
 * Usage: udpfloor MAP [mmsg|plain|conn]
 *   mmsg   recvmmsg + sendmmsg, unconnected sockets (default)
 *   plain  recvfrom + sendto, unconnected sockets
 *   conn   recv + send, every socket connected to its peer
 *
 * MAP: one line per call
 *   a_ip a_port a_peer_ip a_peer_port  b_ip b_port b_peer_ip b_peer_port
 * a_ip:a_port is the relay's own port towards side A, a_peer is side A.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 32
#define EVENTS 256

struct leg {
	int fd;
	struct leg *other;
	struct sockaddr_storage peer;
	socklen_t peerlen;
};

static void die(const char *w)
{
	perror(w);
	exit(1);
}

static socklen_t addr(const char *ip, int port, struct sockaddr_storage *ss)
{
	struct sockaddr_in *a = (void *)ss;
	struct sockaddr_in6 *b = (void *)ss;
	memset(ss, 0, sizeof *ss);
	if (inet_pton(AF_INET, ip, &a->sin_addr) == 1) {
		a->sin_family = AF_INET;
		a->sin_port = htons(port);
		return sizeof *a;
	}
	if (inet_pton(AF_INET6, ip, &b->sin6_addr) != 1)
		die(ip);
	b->sin6_family = AF_INET6;
	b->sin6_port = htons(port);
	return sizeof *b;
}

int main(int argc, char **argv)
{
	int mode = 0, ep, port[4];
	char ip[4][64];
	struct rlimit rl;
	FILE *f;
	if (argc < 2 || !(f = fopen(argv[1], "r"))) {
		fprintf(stderr, "usage: udpfloor MAP [mmsg|plain|conn]\n");
		return 2;
	}
	if (argc > 2)
		mode = !strcmp(argv[2], "plain") ? 1 : !strcmp(argv[2], "conn") ? 2 : 0;
	getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	ep = epoll_create1(0);
	while (fscanf(f, "%63s %d %63s %d %63s %d %63s %d", ip[0], &port[0], ip[1], &port[1], ip[2], &port[2], ip[3], &port[3]) == 8) {
		struct leg *l = calloc(2, sizeof *l);
		for (int i = 0; i < 2; i++) {
			struct sockaddr_storage me;
			socklen_t n = addr(ip[2 * i], port[2 * i], &me);
			l[i].fd = socket(me.ss_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
			if (l[i].fd < 0 || bind(l[i].fd, (void *)&me, n))
				die("bind");
			l[i].other = &l[1 - i];
			l[i].peerlen = addr(ip[2 * i + 1], port[2 * i + 1], &l[i].peer);
			if (mode == 2 && connect(l[i].fd, (void *)&l[i].peer, l[i].peerlen))
				die("connect");
			struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &l[i]};
			if (epoll_ctl(ep, EPOLL_CTL_ADD, l[i].fd, &ev))
				die("epoll_ctl");
		}
	}
	fclose(f);
	puts("ready");
	fflush(stdout);

	static struct mmsghdr m[BATCH];
	static struct iovec iov[BATCH];
	static char buf[BATCH][2048];
	static struct epoll_event ev[EVENTS];
	for (int i = 0; i < BATCH; i++) {
		iov[i].iov_base = buf[i];
		m[i].msg_hdr.msg_iov = &iov[i];
		m[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		int n = epoll_wait(ep, ev, EVENTS, -1);
		for (int e = 0; e < n; e++) {
			struct leg *l = ev[e].data.ptr, *o = l->other;
			if (mode == 1) {
				ssize_t r = recvfrom(l->fd, buf[0], 2048, 0, NULL, NULL);
				if (r > 0 && sendto(o->fd, buf[0], (size_t)r, 0, (void *)&o->peer, o->peerlen) < 0)
					continue;
			} else if (mode == 2) {
				ssize_t r = recv(l->fd, buf[0], 2048, 0);
				if (r > 0 && send(o->fd, buf[0], (size_t)r, 0) < 0)
					continue;
			} else {
				for (int i = 0; i < BATCH; i++)
					iov[i].iov_len = 2048;
				int r = recvmmsg(l->fd, m, BATCH, MSG_DONTWAIT, NULL);
				if (r <= 0)
					continue;
				for (int i = 0; i < r; i++) {
					iov[i].iov_len = m[i].msg_len;
					m[i].msg_hdr.msg_name = &o->peer;
					m[i].msg_hdr.msg_namelen = o->peerlen;
				}
				for (int off = 0; off < r;) {
					int s = sendmmsg(o->fd, m + off, (unsigned)(r - off), 0);
					if (s <= 0)
						break;
					off += s;
				}
				for (int i = 0; i < r; i++) {
					m[i].msg_hdr.msg_name = NULL;
					m[i].msg_hdr.msg_namelen = 0;
				}
			}
		}
	}
}
