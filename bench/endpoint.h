/* SPDX-License-Identifier: MIT */
/* Addresses, keys and sockets as the map and the command line name them; what is wrong ends the program. */
#ifndef BENCH_ENDPOINT_H
#define BENCH_ENDPOINT_H

#include <sys/socket.h>

struct srtp;

void die(const char *what);
void parse_addr(const char *a, int port, struct sockaddr_storage *ss);

/* cm:HEX, f8:HEX or gcm:HEX with master key and salt, or "-" for none (NULL) */
struct srtp *parse_key(const char *text);

/* a socket on the port of every address, with large buffers, that says what a packet was sent to */
int make_socket(int family, int port);

#endif
