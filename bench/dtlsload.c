/* SPDX-License-Identifier: MIT */
/*
 * dtlsload - DTLS-SRTP handshakes as client (RFC 5764), many at a time, each verified.
 *
 * A handshake counts only if it is complete, an SRTP profile was agreed upon and the certificate of the
 * other side has the fingerprint that signalling has announced.
 *
 * Usage: dtlsload CERTIFICATE.pem KEY.pem MAP
 *
 * MAP has one line per handshake, 6 fields:
 *   own_addr own_port relay_addr relay_port hash digest     as in ... sha-256 AB:CD:...
 *
 * Commands on standard input, one JSON line of results on standard output each:
 *   run COUNT OUTSTANDING SECONDS   the next COUNT lines of the map, so many at a time; what takes longer
 *                                   than SECONDS in all has failed
 *   quit
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "endpoint.h"
#include "sample.h"

#define MTU 1200

struct handshake {
	struct sockaddr_storage own, relay;
	char hash[16], digest[200];
	SSL *ssl;	/* NULL: not begun, or over */
	int fd;
	uint64_t begun;
};

static struct handshake *all;
static uint32_t known, next;
static SSL_CTX *context;
static int poller;

static struct {
	uint32_t begun, done, failed, wrong, retransmits;
	uint64_t *took;	/* ns, of those done */
} R;

static void load_map(const char *path)
{
	FILE *f = fopen(path, "r");
	char own[64], relay[64];
	int own_port, relay_port;
	struct handshake h = {0};

	if (!f)
		die(path);
	while (fscanf(f, "%63s %d %63s %d %15s %199s", own, &own_port, relay, &relay_port, h.hash, h.digest) == 6) {
		all = realloc(all, (known + 1) * sizeof *all);
		parse_addr(own, own_port, &h.own);
		parse_addr(relay, relay_port, &h.relay);
		all[known++] = h;
	}
	fclose(f);
	R.took = calloc(known + 1, sizeof *R.took);
}

static void make_context(const char *certificate, const char *key)
{
	context = SSL_CTX_new(DTLS_client_method());
	SSL_CTX_set_min_proto_version(context, DTLS1_2_VERSION);
	SSL_CTX_set_options(context, SSL_OP_NO_QUERY_MTU);
	if (SSL_CTX_use_certificate_file(context, certificate, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_set_tlsext_use_srtp(context, "SRTP_AES128_CM_SHA1_80")) {
		ERR_print_errors_fp(stderr);
		exit(1);
	}
}

/* whether the other side is who it should be, and has agreed to SRTP */
static int is_right(struct handshake *h)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	char name[16], text[3 * EVP_MAX_MD_SIZE] = "", *dash;
	X509 *certificate = SSL_get1_peer_certificate(h->ssl);
	unsigned len = 0;

	strcpy(name, h->hash);
	dash = strchr(name, '-');
	if (dash)
		memmove(dash, dash + 1, strlen(dash));
	if (!certificate || !EVP_get_digestbyname(name) ||
	    !X509_digest(certificate, EVP_get_digestbyname(name), digest, &len))
		len = 0;
	X509_free(certificate);
	for (unsigned i = 0; i < len; i++)
		sprintf(text + 3 * i, i + 1 < len ? "%02X:" : "%02X", digest[i]);
	return len && !strcasecmp(text, h->digest) && SSL_get_selected_srtp_profile(h->ssl);
}

static void end(struct handshake *h)
{
	SSL_free(h->ssl);
	close(h->fd);
	h->ssl = NULL;
}

static void advance(struct handshake *h)
{
	int result = SSL_connect(h->ssl);

	if (result == 1) {
		R.took[R.done] = now_ns() - h->begun;
		R.wrong += !is_right(h);
		R.done++;
	} else if (SSL_get_error(h->ssl, result) == SSL_ERROR_WANT_READ) {
		return;
	} else {
		if (R.failed++ == 0)
			ERR_print_errors_fp(stderr);
		ERR_clear_error();
	}
	end(h);
}

static socklen_t size_of(const struct sockaddr_storage *address)
{
	return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void begin(struct handshake *h)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = h};
	BIO *bio;

	h->fd = socket(h->own.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (h->fd < 0 || bind(h->fd, (void *)&h->own, size_of(&h->own)) ||
	    connect(h->fd, (void *)&h->relay, size_of(&h->relay)) || epoll_ctl(poller, EPOLL_CTL_ADD, h->fd, &event))
		die("socket");
	bio = BIO_new_dgram(h->fd, BIO_NOCLOSE);
	BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_CONNECTED, 0, &h->relay);
	h->ssl = SSL_new(context);
	SSL_set_bio(h->ssl, bio, bio);
	SSL_set_mtu(h->ssl, MTU);
	h->begun = now_ns();
	R.begun++;
	advance(h);
}

/* repeat what was not answered in time */
static void look_at_timers(uint32_t first, uint32_t last)
{
	for (uint32_t i = first; i < last; i++)
		if (all[i].ssl && DTLSv1_handle_timeout(all[i].ssl) > 0)
			R.retransmits++;
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double took_us(double quantile)
{
	return R.done ? (double)R.took[(uint32_t)(quantile * (R.done - 1))] / 1000 : 0;
}

static double own_cpu_us(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e6 +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

static void run(uint32_t count, uint32_t outstanding, double secs)
{
	uint32_t first = next, last = next + count < known ? next + count : known;
	uint64_t started = now_ns(), end_ns = started + (uint64_t)(secs * 1e9), now = started, timers = started;
	double cpu = own_cpu_us();
	struct epoll_event events[64];
	int n;

	R.begun = R.done = R.failed = R.wrong = R.retransmits = 0;
	while (R.done + R.failed < last - first && (now = now_ns()) < end_ns) {
		while (next < last && R.begun - R.done - R.failed < outstanding)
			begin(&all[next++]);
		n = epoll_wait(poller, events, 64, 10);
		for (int i = 0; i < n; i++)
			if (((struct handshake *)events[i].data.ptr)->ssl)
				advance(events[i].data.ptr);
		if (now - timers > 20000000) {
			look_at_timers(first, next);
			timers = now;
		}
	}
	now = now_ns();
	for (uint32_t i = first; i < next; i++)
		if (all[i].ssl) {
			end(&all[i]);
			R.failed++;
		}
	R.failed += last - next;
	next = last;
	qsort(R.took, R.done, sizeof *R.took, ascending);
	printf("{\"done\": %u, \"failed\": %u, \"wrong\": %u, \"retransmits\": %u, \"secs\": %.6f, ", R.done, R.failed,
	       R.wrong, R.retransmits, (double)(now - started) / 1e9);
	printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"own_cpu_us\": %.1f}\n", took_us(0.5),
	       took_us(0.99), took_us(1), (own_cpu_us() - cpu) / (R.done ? R.done : 1));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	unsigned count, outstanding;
	char line[256];
	double secs;

	if (argc != 4) {
		fprintf(stderr, "usage: dtlsload CERTIFICATE.pem KEY.pem MAP\n");
		return 2;
	}
	make_context(argv[1], argv[2]);
	load_map(argv[3]);
	poller = epoll_create1(EPOLL_CLOEXEC);
	printf("{\"ready\": true, \"handshakes\": %u}\n", known);
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "run %u %u %lf", &count, &outstanding, &secs) == 3)
			run(count, outstanding, secs);
		else
			break;
	}
	return 0;
}
