/* SPDX-License-Identifier: MIT */
/*
 * rtpload - RTP/SRTP load generator and verifier for media relays.
 *
 * One process plays both parties of N two-party calls.  Every call has an
 * A side and a B side; each side has its own IP address (all A sides share
 * one UDP port and one socket, all B sides another one; the per-packet source
 * address is chosen with PKTINFO).  So the relay sees 2*N distinct remote
 * endpoints while the generator can send and receive in large batches and
 * stays cheaper per packet than anything that it measures.
 *
 * Every received packet is checked: it must reach the right endpoint, come
 * from the port that the relay announced to that endpoint, have the RTP
 * header that was sent (version, payload type, marker, sequence, timestamp,
 * SSRC) and the payload that was sent (stream number, packet number, send
 * time and a pattern that depends on both).  For SRTP the tag is verified and
 * the payload decrypted first.  Only packets that pass all of that count as
 * relayed; duplicates count once.
 *
 * Usage: rtpload [-4|-6 per side is taken from the map] MAP PORT_A PORT_B [PID ...]
 *
 * MAP has one line per call, 10 fields:
 *   a_addr a_dst_addr a_dst_port a_key_tx a_key_rx  b_addr b_dst_addr b_dst_port b_key_tx b_key_rx
 * a_dst is where A sends to (the relay's port announced to A).  Keys are a
 * suite of srtp.h (cm, f8 or gcm), a colon and master key and salt in hex
 * digits, or "-" for plain RTP.
 *
 * Commands on standard input, one JSON line of results on standard output each:
 *   run CALLS PPS SECONDS WINDOW   PPS 0 = flat out; WINDOW > 0 = at most that
 *                                  many packets in flight; CALLS 0 = all
 *   quit
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "endpoint.h"
#include "latency.h"
#include "sample.h"
#include "srtp.h"

#define PAYLOAD 160
#define RTP_HDR 12
#define PKT (RTP_HDR + PAYLOAD)
#define TXBATCH 32
#define RXBATCH 64
#define RXBUF 512
#define DUPWIN 1024 /* packets per stream remembered for duplicate detection */
#define SSRC_BASE 0x51000000u
#define PATLEN 1024

/* --------------------------------------------------------------- streams */

struct stream {
	struct sockaddr_storage dst;	/* relay port that this stream is sent to */
	struct sockaddr_storage src;	/* own address, put in PKTINFO */
	struct sockaddr_storage rx_to;	/* endpoint that must receive it */
	struct sockaddr_storage rx_from;/* relay port that it must come from */
	struct srtp *tx, *rx;
	uint32_t ssrc, ts0;
	uint32_t seq0;	/* start sequence, below 32768 */
	uint32_t next;	/* packets sent so far */
	uint32_t first;	/* first packet of this measurement */
	uint32_t top;	/* highest packet number received + 1 */
	uint64_t seen[DUPWIN / 64];
	uint8_t side;	/* sent from side 0 (A) or 1 (B) */
};

static struct stream *st;
static uint32_t nstreams, active;
static uint32_t *order; /* send order, shuffled */
static int sock[2], fam[2];
static uint8_t pat[PATLEN + PAYLOAD];
static int pids[64], npids;

struct result {
	uint64_t sent, sent_bytes, ok, corrupt, badauth, misrouted, unknown, dup, reorder, stale, eagain, senderr, stalls;
	uint64_t slip_ns;
};
static struct result R;

static void load_map(const char *path, int port_a, int port_b)
{
	FILE *f = fopen(path, "r");
	char a[64], ad[64], atx[64], arx[64], b[64], bd[64], btx[64], brx[64];
	int adp, bdp;
	uint32_t cap = 0;
	if (!f)
		die(path);
	while (fscanf(f, "%63s %63s %d %63s %63s %63s %63s %d %63s %63s", a, ad, &adp, atx, arx, b, bd, &bdp, btx, brx) == 10) {
		if (nstreams + 2 > cap) {
			cap = cap ? cap * 2 : 256;
			st = realloc(st, cap * sizeof(*st));
		}
		for (int side = 0; side < 2; side++) {
			struct stream *s = &st[nstreams];
			memset(s, 0, sizeof(*s));
			s->side = (uint8_t)side;
			parse_addr(side ? bd : ad, side ? bdp : adp, &s->dst);
			parse_addr(side ? b : a, side ? port_b : port_a, &s->src);
			parse_addr(side ? a : b, side ? port_a : port_b, &s->rx_to);
			parse_addr(side ? ad : bd, side ? adp : bdp, &s->rx_from);
			s->tx = parse_key(side ? btx : atx);
			s->rx = parse_key(side ? arx : brx);
			s->ssrc = SSRC_BASE + nstreams;
			s->ts0 = nstreams * 2654435761u;
			s->seq0 = (nstreams * 7919u + 1) & 0x3fff;
			nstreams++;
		}
	}
	fclose(f);
	if (!nstreams) {
		fprintf(stderr, "rtpload: empty map\n");
		exit(1);
	}
	fam[0] = st[0].src.ss_family;
	fam[1] = st[1].src.ss_family;
}

/* ------------------------------------------------------------------ send */

union ctl {
	char buf[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	struct cmsghdr align;
};

static struct {
	struct mmsghdr m[TXBATCH];
	struct iovec iov[TXBATCH];
	union ctl ctl[TXBATCH];
	uint8_t pkt[TXBATCH][256];
	unsigned n;
} txq[2];


static void queue_packet(uint32_t idx, uint64_t stamp)
{
	struct stream *s = &st[idx];
	unsigned q = s->side, k = txq[q].n++;
	uint8_t *p = txq[q].pkt[k];
	uint32_t n = s->next++, seq = s->seq0 + n, ts = s->ts0 + n * 160u;
	int len = PKT;
	p[0] = 0x80;
	p[1] = (uint8_t)(n == 0 ? 0x80 : 0); /* PCMU; marker on the first packet of a talk spurt */
	p[2] = (uint8_t)(seq >> 8);
	p[3] = (uint8_t)seq;
	uint32_t v = htonl(ts);
	memcpy(p + 4, &v, 4);
	v = htonl(s->ssrc);
	memcpy(p + 8, &v, 4);
	memcpy(p + 12, &stamp, 8);
	memcpy(p + 20, &idx, 4);
	memcpy(p + 24, &n, 4);
	memcpy(p + 28, pat + ((n * 31u + idx * 17u) & (PATLEN - 1)), PAYLOAD - 16);
	if (s->tx)
		len = srtp_protect(s->tx, p, len, seq);
	txq[q].iov[k].iov_base = p;
	txq[q].iov[k].iov_len = (size_t)len;
	struct msghdr *h = &txq[q].m[k].msg_hdr;
	memset(h, 0, sizeof *h);
	h->msg_name = &s->dst;
	h->msg_iov = &txq[q].iov[k];
	h->msg_iovlen = 1;
	h->msg_control = txq[q].ctl[k].buf;
	struct cmsghdr *c = (void *)txq[q].ctl[k].buf;
	if (s->src.ss_family == AF_INET) {
		struct in_pktinfo pi = {.ipi_spec_dst = ((struct sockaddr_in *)&s->src)->sin_addr};
		h->msg_namelen = sizeof(struct sockaddr_in);
		h->msg_controllen = CMSG_SPACE(sizeof pi);
		c->cmsg_level = IPPROTO_IP;
		c->cmsg_type = IP_PKTINFO;
		c->cmsg_len = CMSG_LEN(sizeof pi);
		memcpy(CMSG_DATA(c), &pi, sizeof pi);
	} else {
		struct in6_pktinfo pi = {.ipi6_addr = ((struct sockaddr_in6 *)&s->src)->sin6_addr};
		h->msg_namelen = sizeof(struct sockaddr_in6);
		h->msg_controllen = CMSG_SPACE(sizeof pi);
		c->cmsg_level = IPPROTO_IPV6;
		c->cmsg_type = IPV6_PKTINFO;
		c->cmsg_len = CMSG_LEN(sizeof pi);
		memcpy(CMSG_DATA(c), &pi, sizeof pi);
	}
	R.sent_bytes += (uint64_t)len;
}

static void flush_tx(int q)
{
	unsigned off = 0;
	while (off < txq[q].n) {
		int r = sendmmsg(sock[q], txq[q].m + off, txq[q].n - off, 0);
		if (r > 0) {
			off += (unsigned)r;
			R.sent += (uint64_t)r;
		} else if (errno == EAGAIN || errno == ENOBUFS || errno == EINTR) {
			R.eagain++;
		} else {
			if (R.senderr++ == 0)
				perror("rtpload: sendmmsg");
			off++; /* counts as sent: it is lost */
			R.sent++;
		}
	}
	txq[q].n = 0;
}

/* --------------------------------------------------------------- receive */

static struct {
	struct mmsghdr m[RXBATCH];
	struct iovec iov[RXBATCH];
	union ctl ctl[RXBATCH];
	struct sockaddr_storage from[RXBATCH];
	uint8_t buf[RXBATCH][RXBUF];
} rxq;

static int same_ep(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *x = (const void *)a, *y = (const void *)b;
		return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
	}
	const struct sockaddr_in6 *x = (const void *)a, *y = (const void *)b;
	return x->sin6_port == y->sin6_port && !memcmp(&x->sin6_addr, &y->sin6_addr, 16);
}

static uint64_t rx_any; /* packets of this measurement that came back in any shape */

static void check_packet(int side, unsigned k, uint64_t t)
{
	uint8_t *p = rxq.buf[k];
	int len = (int)rxq.m[k].msg_len;
	uint32_t v, idx, n, ssrc;
	uint64_t stamp;
	if (len < RTP_HDR || (p[0] & 0xc0) != 0x80) {
		R.unknown++;
		return;
	}
	memcpy(&v, p + 8, 4);
	ssrc = ntohl(v);
	idx = ssrc - SSRC_BASE;
	if (idx >= nstreams || st[idx].side == side) {
		R.unknown++; /* SSRC was altered, or the packet came back to its sender */
		return;
	}
	struct stream *s = &st[idx];
	if (s->rx) {
		len = srtp_unprotect(s->rx, p, len);
		if (len < 0) {
			R.badauth++;
			rx_any++;
			return;
		}
	}
	if (len != PKT) {
		R.corrupt++;
		rx_any++;
		return;
	}
	memcpy(&stamp, p + 12, 8);
	memcpy(&v, p + 20, 4);
	memcpy(&n, p + 24, 4);
	uint32_t seq = s->seq0 + n, ts;
	memcpy(&ts, p + 4, 4);
	if (v != idx || n >= s->next || p[0] != 0x80 || p[1] != (n == 0 ? 0x80 : 0) || p[2] != (uint8_t)(seq >> 8) ||
	    p[3] != (uint8_t)seq || ntohl(ts) != s->ts0 + n * 160u ||
	    memcmp(p + 28, pat + ((n * 31u + idx * 17u) & (PATLEN - 1)), PAYLOAD - 16)) {
		R.corrupt++;
		rx_any++;
		return;
	}
	if (n < s->first) {
		R.stale++;
		return;
	}
	rx_any++;
	/* right endpoint, and from the announced port? */
	struct msghdr *h = &rxq.m[k].msg_hdr;
	int routed = same_ep(&rxq.from[k], &s->rx_from);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo pi;
			memcpy(&pi, CMSG_DATA(c), sizeof pi);
			routed &= pi.ipi_addr.s_addr == ((struct sockaddr_in *)&s->rx_to)->sin_addr.s_addr;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo pi;
			memcpy(&pi, CMSG_DATA(c), sizeof pi);
			routed &= !memcmp(&pi.ipi6_addr, &((struct sockaddr_in6 *)&s->rx_to)->sin6_addr, 16);
		}
	}
	if (!routed) {
		R.misrouted++;
		return;
	}
	/* duplicates and order */
	if (n >= s->top) {
		uint32_t adv = n + 1 - s->top;
		if (adv >= DUPWIN) {
			memset(s->seen, 0, sizeof s->seen);
		} else {
			for (uint32_t i = s->top; i <= n; i++)
				s->seen[(i % DUPWIN) / 64] &= ~(1ull << (i % 64));
		}
		s->top = n + 1;
	} else {
		if (s->top - n > DUPWIN || (s->seen[(n % DUPWIN) / 64] >> (n % 64) & 1)) {
			R.dup++;
			return;
		}
		R.reorder++;
	}
	s->seen[(n % DUPWIN) / 64] |= 1ull << (n % 64);
	R.ok++;
	uint64_t d = t > stamp ? t - stamp : 0;
	hist[hidx(d)]++;
	lat_sum += d;
	if (d > lat_max)
		lat_max = d;
}

static int poll_rx(int side)
{
	for (unsigned i = 0; i < RXBATCH; i++) {
		rxq.m[i].msg_hdr.msg_namelen = sizeof rxq.from[i];
		rxq.m[i].msg_hdr.msg_controllen = sizeof rxq.ctl[i].buf;
	}
	int r = recvmmsg(sock[side], rxq.m, RXBATCH, MSG_DONTWAIT, NULL);
	if (r <= 0)
		return 0;
	uint64_t t = now_ns();
	for (int i = 0; i < r; i++)
		check_packet(side, (unsigned)i, t);
	return r;
}

/* ------------------------------------------------------------------- run */

static struct sample s0, s1;

struct pace {
	double pps, step;	/* packets a second, 0 flat out; ns between two */
	uint64_t window;	/* packets in flight, 0 without bound */
	uint64_t start;		/* of the schedule, which shifts where the generator was held up */
	uint64_t sent;
	uint64_t last_rx;
	uint64_t base_any;
};

/* shuffle the send order of the active streams, same every time */
static void shuffle(void)
{
	uint32_t x = 12345, i, j, tmp;

	for (i = 0; i < active; i++)
		order[i] = i;
	for (i = active - 1; i > 0; i--) {
		x = x * 1664525u + 1013904223u;
		j = (uint32_t)(((uint64_t)x * (i + 1)) >> 32);
		tmp = order[i];
		order[i] = order[j];
		order[j] = tmp;
	}
}

static void reset(uint32_t calls)
{
	active = calls && calls * 2 < nstreams ? calls * 2 : nstreams;
	shuffle();
	for (uint32_t i = 0; i < nstreams; i++)
		st[i].first = st[i].next;
	memset(&R, 0, sizeof R);
	memset(hist, 0, sizeof hist);
	lat_max = lat_sum = 0;
	rx_any = 0;
}

/* how many packets may leave now */
static uint64_t packets_due(struct pace *p, uint64_t now)
{
	uint64_t due = TXBATCH, want, lag, in_flight;

	if (p->pps > 0) {
		want = (uint64_t)((double)(now - p->start) / p->step) + 1;
		due = want > p->sent ? want - p->sent : 0;
		if (due && (double)due * p->step > 5e6) {
			/* the generator itself was held up: shift the schedule rather than burst */
			lag = (uint64_t)((double)due * p->step);
			p->start += lag;
			R.slip_ns += lag;
			due = 1;
		}
	}
	if (p->window) {
		in_flight = R.sent - (rx_any - p->base_any);
		if ((int64_t)in_flight < 0)
			in_flight = 0;
		if (in_flight >= p->window) {
			due = 0;
			if (now - p->last_rx > 20000000ull) {
				R.stalls++;
				p->base_any = rx_any - R.sent;
				p->last_rx = now;
			}
		} else if (due > p->window - in_flight) {
			due = p->window - in_flight;
		}
	}
	return due > TXBATCH ? TXBATCH : due;
}

static void send_packets(uint64_t due, uint64_t now)
{
	static uint32_t cursor;
	uint64_t i;

	if (R.sent == 0)
		cursor = 0;
	for (i = 0; i < due; i++) {
		queue_packet(order[cursor], now);
		if (++cursor == active)
			cursor = 0;
	}
	for (i = 0; i < 2; i++)
		if (txq[i].n)
			flush_tx((int)i);
}

/* until everything came back, or nothing came for 300 ms; returns when the last packet did */
static uint64_t drain(void)
{
	uint64_t last = now_ns(), now;

	while (R.ok < R.sent) {
		now = now_ns();
		if (poll_rx(0) + poll_rx(1))
			last = now;
		else if (now - last > 300000000ull)
			break;
	}
	return last;
}

/* a cost that nothing was relayed for is no number, and JSON spells that null */
static void field(const char *name, double value, int decimals)
{
	if (value != value)
		printf(", \"%s\": null", name);
	else
		printf(", \"%s\": %.*f", name, decimals, value);
}

static void print_counts(const struct pace *p)
{
	uint64_t lost = R.sent > R.ok ? R.sent - R.ok : 0;

	printf("{\"calls\": %u", active / 2);
	field("target_pps", p->pps, 0);
	field("window", (double)p->window, 0);
	field("sent", (double)R.sent, 0);
	field("received", (double)R.ok, 0);
	field("lost", (double)lost, 0);
	field("loss_pct", R.sent ? 100.0 * (double)lost / (double)R.sent : 0.0, 5);
	field("corrupt", (double)R.corrupt, 0);
	field("bad_auth", (double)R.badauth, 0);
	field("misrouted", (double)R.misrouted, 0);
	field("unknown", (double)R.unknown, 0);
	field("duplicate", (double)R.dup, 0);
	field("reordered", (double)R.reorder, 0);
	field("late", (double)R.stale, 0);
	field("gen_eagain", (double)R.eagain, 0);
	field("gen_senderr", (double)R.senderr, 0);
	field("gen_slip_ms", (double)R.slip_ns / 1e6, 1);
	field("gen_drops", (double)((s1.drops[0] - s0.drops[0]) + (s1.drops[1] - s0.drops[1])), 0);
	field("stalls", (double)R.stalls, 0);
}

static void print_costs(void)
{
	double okn = R.ok ? (double)R.ok : 0.0 / 0.0, hz = (double)sysconf(_SC_CLK_TCK);
	double total = (double)(s1.wall - s0.wall) / 1e9, own = (double)(s1.own - s0.own);
	uint64_t cpu = sample_thread_ns(&s0, &s1);

	printf(", \"lat_us\": {\"mean\": ");
	if (R.ok)
		printf("%.1f", (double)lat_sum / okn / 1000.0);
	else
		printf("null");
	field("p50", pct(0.5), 1);
	field("p90", pct(0.9), 1);
	field("p99", pct(0.99), 1);
	field("p999", pct(0.999), 1);
	field("max", (double)lat_max / 1000.0, 1);
	printf("}");
	field("cpu_us_per_pkt", (double)cpu / 1000.0 / okn, 4);
	field("cpu_ticks_us_per_pkt", (double)(s1.ticks - s0.ticks) / hz * 1e6 / okn, 4);
	field("cpu_pct", (double)cpu / 1e7 / total, 1);
	field("cpu_s", (double)cpu / 1e9, 6);
	field("cpu0_busy_us_per_pkt", (double)(s1.busy[0] - s0.busy[0]) / hz * 1e6 / okn, 4);
	field("gen_cpu_us_per_pkt", own / okn, 4);
	field("gen_cpu_pct", own / 1e4 / total, 1);
	field("vol_csw_per_pkt", (double)(s1.csw[0] - s0.csw[0]) / okn, 4);
	field("invol_csw_per_pkt", (double)(s1.csw[1] - s0.csw[1]) / okn, 4);
}

static void run(uint32_t calls, double pps, double secs, uint64_t window)
{
	struct pace p = {.pps = pps, .step = pps > 0 ? 1e9 / pps : 0, .window = window};
	uint64_t now, begun, end, due, sending, last;

	reset(calls);
	sample_take(&s0, pids, npids, sock);
	begun = p.start = p.last_rx = now_ns();
	end = begun + (uint64_t)(secs * 1e9);
	while ((now = now_ns()) < end) {
		due = packets_due(&p, now);
		if (due) {
			send_packets(due, now);
			p.sent += due;
		}
		if (poll_rx(0) + poll_rx(1))
			p.last_rx = now;
	}
	sending = now_ns();
	last = drain();
	sample_take(&s1, pids, npids, sock);
	if (last < sending)
		last = sending;
	print_counts(&p);
	field("secs", (double)(sending - begun) / 1e9, 3);
	field("sent_pps", (double)R.sent / ((double)(sending - begun) / 1e9), 0);
	field("recv_pps", (double)R.ok / ((double)(last - begun) / 1e9), 0);
	field("drain_ms", (double)(last - sending) / 1e6, 1);
	print_costs();
	printf("}\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[256];
	if (argc == 2 && !strcmp(argv[1], "--selftest"))
		return srtp_selftest();
	if (argc < 4) {
		fprintf(stderr, "usage: rtpload MAP PORT_A PORT_B [PID ...] | --selftest\n");
		return 2;
	}
	uint32_t x = 99;
	for (unsigned i = 0; i < sizeof pat; i++) {
		x = x * 1103515245u + 12345u;
		pat[i] = (uint8_t)(x >> 16);
	}
	load_map(argv[1], atoi(argv[2]), atoi(argv[3]));
	for (int i = 4; i < argc && npids < 64; i++)
		pids[npids++] = atoi(argv[i]);
	order = calloc(nstreams, sizeof *order);
	sock[0] = make_socket(fam[0], atoi(argv[2]));
	sock[1] = make_socket(fam[1], atoi(argv[3]));
	for (unsigned i = 0; i < RXBATCH; i++) {
		rxq.iov[i].iov_base = rxq.buf[i];
		rxq.iov[i].iov_len = RXBUF;
		rxq.m[i].msg_hdr.msg_iov = &rxq.iov[i];
		rxq.m[i].msg_hdr.msg_iovlen = 1;
		rxq.m[i].msg_hdr.msg_name = &rxq.from[i];
		rxq.m[i].msg_hdr.msg_control = rxq.ctl[i].buf;
	}
	printf("{\"ready\": true, \"streams\": %u}\n", nstreams);
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		uint32_t calls;
		double pps, secs;
		unsigned long long window;
		if (sscanf(line, "run %u %lf %lf %llu", &calls, &pps, &secs, &window) == 4)
			run(calls, pps, secs, window);
		else if (!strncmp(line, "quit", 4))
			break;
		else
			printf("{\"error\": \"command\"}\n"), fflush(stdout);
	}
	return 0;
}
