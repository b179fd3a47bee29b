// SPDX-License-Identifier: MIT
/*
 * Fuzz target: the whole way of a packet, from one socket of a call to another, with any configuration,
 * keys, sources and times.
 *
 * The four sockets of a call (RTP and RTCP of both parties) on one worker without a thread. The linker
 * puts the functions below in place of the system calls and the clock.
 */
#define _GNU_SOURCE
#include "internal.h"
#include "input.h"
#include "rtp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STEPS_MAX 100
#define STREAMS 4
#define FIRST_FD 1000000
#define KEYS 3
#define MARK "only-for-the-party"
#define MARK_LEN (sizeof(MARK) - 1)
#define DATAGRAM_MAX 1500

static const struct pp_address places[] = {
	{ .family = 4, .port = 4000, .address = { 192, 0, 2, 1 } },
	{ .family = 4, .port = 4002, .address = { 192, 0, 2, 1 } },
	{ .family = 4, .port = 6000, .address = { 203, 0, 113, 5 } },
	{ .family = 6, .port = 4000, .address = { 0x20, 0x01, 0x0d, 0xb8, [15] = 1 } },
	{ .family = 4, .port = 5000, .address = { 198, 51, 100, 7 } },
	{ .family = 0 },
};

#define PLACES (sizeof(places) / sizeof(places[0]))

struct datagram {
	uint8_t data[DATAGRAM_MAX];
	uint32_t len;
	struct pp_address source;
	bool genuine;			/* protected with the keys that the socket expects */
};

/* What is known of a socket, apart from what the packet path knows. */
struct party {
	int64_t id;
	struct pp_config config;
	struct srtp_keys receive, send;	/* suite 0: none */
	struct srtp *phone;		/* protects what the party sends */
};

static struct {
	struct input in;
	uint64_t now_ns;
	struct party party[STREAMS];
	struct datagram queue[BATCH];
	unsigned int queued, read;
	unsigned int sent;
	bool only_forged;		/* none of the queue is genuine */
	struct party *receiving;
} world;

static struct worker worker;
static struct pp pp = { .workers = 1, .worker = { &worker } };
static struct batch batch;

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len);
int __wrap_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event);
uint64_t __wrap_monotonic_ns(void);
ssize_t __wrap_recvfrom(int fd, void *data, size_t len, int flags, struct sockaddr *from, socklen_t *from_len);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout);
ssize_t __wrap_sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to, socklen_t to_len);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);

int __wrap_close(int fd)
{
	return fd >= FIRST_FD ? 0 : __real_close(fd);
}

int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len)
{
	struct sockaddr_in local = { .sin_family = AF_INET, .sin_port = htons((uint16_t)(30000 + fd % 1000)) };

	local.sin_addr.s_addr = htonl(0xc63364c8);
	REQUIRE(*len >= sizeof(local));
	memcpy(address, &local, sizeof(local));
	*len = sizeof(local);
	return 0;
}

int __wrap_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
	(void)epoll_fd, (void)op, (void)fd, (void)event;
	return 0;
}

uint64_t __wrap_monotonic_ns(void)
{
	return world.now_ns;
}

static bool take_datagram(struct iovec *into, struct sockaddr *from, size_t *len)
{
	const struct datagram *d = &world.queue[world.read];
	union pp_sockaddr source;

	if (world.read == world.queued)
		return false;
	world.read++;
	memcpy(into->iov_base, d->data, d->len < into->iov_len ? d->len : into->iov_len);
	*len = d->len;
	address_to_socket(&source, &d->source);
	memcpy(from, &source, sizeof(source));
	return true;
}

ssize_t __wrap_recvfrom(int fd, void *data, size_t len, int flags, struct sockaddr *from, socklen_t *from_len)
{
	struct iovec into = { data, len };
	size_t got;

	(void)flags;
	REQUIRE(fd >= FIRST_FD && *from_len >= sizeof(struct sockaddr_in6));
	if (take_datagram(&into, from, &got))
		return (ssize_t)got;
	errno = EAGAIN;
	return -1;
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
	unsigned int n;
	size_t len;

	(void)flags, (void)timeout;
	REQUIRE(fd >= FIRST_FD && count <= BATCH);
	for (n = 0; n < count; n++) {
		if (!take_datagram(messages[n].msg_hdr.msg_iov, messages[n].msg_hdr.msg_name, &len))
			break;
		messages[n].msg_hdr.msg_flags = len > messages[n].msg_hdr.msg_iov->iov_len ? MSG_TRUNC : 0;
		messages[n].msg_len = (unsigned int)len;
	}
	if (n)
		return (int)n;
	errno = EAGAIN;
	return -1;
}

static bool is_secure(const struct party *p)
{
	return p->config.flags & PP_F_SECURE;
}

static bool encrypts(const struct srtp_keys *keys)
{
	return keys->suite && keys->suite != SRTP_NULL_SHA1_80 && keys->suite != SRTP_NULL_SHA1_32 &&
	       !(keys->flags & (SRTP_F_UNENCRYPTED_SRTP | SRTP_F_UNENCRYPTED_SRTCP));
}

/* The socket that what the receiving party sent has to leave through. */
static int64_t sink_of(const uint8_t *data, size_t len)
{
	const struct pp_config *config = &world.receiving->config;
	bool rtcp = config->flags & PP_F_RTCP_ONLY ||
		    (config->flags & PP_F_RTCP_MUX && rtcp_plausible(data, (uint32_t)len));

	return rtcp && !(config->flags & PP_F_OPAQUE) ? config->rtcp_sink : config->rtp_sink;
}

/* What leaves goes to the right place, and says nothing that its receiver's keys should hide. */
static void check_sent(int fd, const void *data, size_t len, const struct sockaddr *to)
{
	struct party *p = &world.party[(fd - FIRST_FD) % STREAMS];
	struct stream *s = stream_find(&worker.table, p->id);
	union pp_sockaddr expected;
	socklen_t size;

	REQUIRE(s && s->fd == fd && len && len <= ROOM);
	REQUIRE(sink_of(data, len) == p->id);
	size = address_to_socket(&expected, &s->learn.send_to);
	REQUIRE(s->learn.send_to.family && !memcmp(&expected, to, size));
	REQUIRE(!(p->config.flags & PP_F_MUTED));
	if (p->config.flags & PP_F_ICE)
		REQUIRE(s->learn.rank == LEARN_RANK_VALIDATED);
	if (is_secure(p)) {
		REQUIRE(p->send.suite);
		if (encrypts(&p->send) && !(world.receiving->receive.flags & SRTP_F_UNAUTHENTICATED_SRTP))
			REQUIRE(!memmem(data, len, MARK, MARK_LEN));
	}
	/* of a party with keys, only what it has protected goes on; four bytes may be guessed now and then */
	if (is_secure(world.receiving) && world.only_forged)
		REQUIRE(!world.receiving->receive.suite ||
			world.receiving->receive.flags & SRTP_F_UNAUTHENTICATED_SRTP);
	world.sent++;
}

ssize_t __wrap_sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to, socklen_t to_len)
{
	(void)flags, (void)to_len;
	check_sent(fd, data, len, to);
	if (take_u8(&world.in) == 255) {
		errno = ENOBUFS;
		return -1;
	}
	return (ssize_t)len;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	unsigned int n, most = take_u8(&world.in);

	(void)flags;
	REQUIRE(count <= BATCH);
	for (n = 0; n < count && (n < most || most < 200); n++)
		check_sent(fd, messages[n].msg_hdr.msg_iov->iov_base, messages[n].msg_hdr.msg_iov->iov_len,
			   messages[n].msg_hdr.msg_name);
	return n ? (int)n : -1;
}

static struct party *choose_party(void)
{
	return &world.party[take_u8(&world.in) % STREAMS];
}

static void open_stream(struct party *p)
{
	int fd = FIRST_FD + (int)(p - world.party);

	memset(p, 0, sizeof(*p));
	p->id = pp_stream_open(&pp, 0, fd);
	REQUIRE(p->id > 0);
}

static void close_stream(struct party *p)
{
	REQUIRE(pp_stream_close(&pp, p->id) == 0);
	REQUIRE(pp_stream_close(&pp, p->id) == -ENOENT);
	srtp_close(p->phone);
}

/* Nobody is sent back what comes from there. */
static int64_t other_party(const struct party *p)
{
	const struct party *other = choose_party();

	return other == p ? 0 : other->id;
}

/* The sinks as a call has them, unless the input wants others. */
static void configure(struct party *p)
{
	unsigned int own = (unsigned int)(p - world.party), other = own ^ 2;
	struct pp_config config = { 0 };

	config.peer = places[take_u8(&world.in) % PLACES];
	config.alias = places[take_u8(&world.in) % PLACES];
	config.learning = take_u8(&world.in) % (PP_LEARN_OFF + 1);
	config.flags = take_u16(&world.in) & 0x1fff;
	if (own & 1)
		config.flags |= PP_F_RTCP_ONLY;
	config.rtp_sink = own & 1 ? 0 : world.party[other].id;
	config.rtcp_sink = world.party[other | 1].id;
	if (take_u8(&world.in) >= 200)
		config.rtp_sink = other_party(p);
	if (take_u8(&world.in) >= 200)
		config.rtcp_sink = other_party(p);
	memset(config.ufrag, 'u', take_u8(&world.in) % 33);
	if (pp_stream_configure(&pp, p->id, &config) == 0)
		p->config = config;
	else
		REQUIRE((config.flags & (PP_F_OPAQUE | PP_F_SECURE)) == (PP_F_OPAQUE | PP_F_SECURE));
}

static bool choose_keys(struct srtp_keys *keys)
{
	uint8_t choice = take_u8(&world.in);

	memset(keys, 0, sizeof(*keys));
	keys->suite = take_u8(&world.in) % SRTP_SUITES;
	keys->flags = choice & 0x80 ? choice >> 4 & 7 : 0;
	memset(keys->key, 1 + choice % KEYS, 16);
	memset(keys->salt, 9, 12);
	if (choice & 8)
		keys->mki[keys->mki_len++] = 77;
	return keys->suite;
}

static void give_keys(struct party *p)
{
	uint8_t scope = take_u8(&world.in) & 3;
	struct srtp_keys receive, send;
	bool has_receive = choose_keys(&receive), has_send = choose_keys(&send);
	const struct party before = *p;

	/* what was kept goes on under these keys, and nothing of it was protected */
	p->receive = receive;
	p->send = send;
	world.receiving = p;
	world.only_forged = true;
	if (pp_stream_protect(&pp, p->id, scope, has_receive ? &receive : NULL, has_send ? &send : NULL)) {
		p->receive = before.receive;
		p->send = before.send;
		return;
	}
	srtp_close(p->phone);
	p->phone = has_receive ? srtp_open(&receive) : NULL;
}

static uint32_t write_rtp(uint8_t *data)
{
	static const uint8_t header[] = { 0x80, 0, 0, 1, 0, 0, 0, 160, 0xca, 0xfe, 0xba, 0xbe };
	uint16_t seq = take_u16(&world.in);

	memcpy(data, header, sizeof(header));
	data[1] = take_u8(&world.in) & 0x3f;
	data[2] = (uint8_t)(seq >> 8);
	data[3] = (uint8_t)seq;
	data[11] = take_u8(&world.in) & 3;
	memcpy(data + sizeof(header), MARK, MARK_LEN);
	return sizeof(header) + MARK_LEN;
}

/* A compound: a report, and what may have to go. */
static uint32_t write_rtcp(uint8_t *data)
{
	uint32_t len = 28;

	memset(data, 0x11, len);
	data[0] = 0x80;
	data[1] = RTCP_TYPE_SR;
	data[2] = 0;
	data[3] = 6;
	if (take_u8(&world.in) & 1)
		len = 0;
	data[len] = 0x81;
	data[len + 1] = (uint8_t)(RTCP_TYPE_RTPFB + (take_u8(&world.in) & 1));
	data[len + 2] = 0;
	data[len + 3] = 6;
	memset(data + len + 4, 0x22, 24);
	memcpy(data + len + 10, MARK, MARK_LEN);
	return len + 28;
}

/* The mark stands where encryption hides it, and nowhere else. */
static void unmark(uint8_t *data, uint32_t len)
{
	uint8_t *mark;

	while ((mark = memmem(data, len, MARK, MARK_LEN)))
		*mark = 0;
}

static uint32_t write_foreign(uint8_t *data, uint8_t first)
{
	uint32_t len = take_u8(&world.in);

	take_bytes(&world.in, data, len);
	if (len >= 8) {
		data[0] = first;
		memcpy(data + 4, "\x21\x12\xa4\x42", 4);
	}
	unmark(data, len);
	return len;
}

static void write_datagram(const struct party *p, struct datagram *d)
{
	uint8_t what = take_u8(&world.in);
	bool rtcp = what & 1;
	int result;

	d->source = places[(what >> 1) % (PLACES - 1)];
	d->genuine = false;
	switch (take_u8(&world.in) & 3) {
	case 0:
		d->len = take_u16(&world.in) % DATAGRAM_MAX;
		take_bytes(&world.in, d->data, d->len);
		unmark(d->data, d->len);
		return;
	case 1:
		d->len = write_foreign(d->data, what & 0x40 ? 0 : 22);
		return;
	}
	d->len = rtcp ? write_rtcp(d->data) : write_rtp(d->data);
	if (!p->phone || !is_secure(p) || what & 0x80)
		return;
	result = rtcp ? srtcp_protect(p->phone, d->data, d->len, DATAGRAM_MAX) :
			srtp_protect(p->phone, d->data, d->len, DATAGRAM_MAX);
	if (result > 0) {
		d->len = (uint32_t)result;
		d->genuine = true;
	}
}

/* What has happened to packets of a stream; to be kept is one of them, until another is counted. */
static uint64_t fates(const struct stream *s)
{
	uint64_t sum = s->counters.packets + s->early.packets;
	int i;

	for (i = 0; i < PP_DROP_REASONS; i++)
		sum += s->counters.drops[i];
	return sum;
}

/* A few datagrams arrive at one socket: none may have more fates than counting and dropping it. */
static void receive(struct party *p)
{
	struct stream *s = stream_find(&worker.table, p->id);
	uint8_t shape = take_u8(&world.in);
	unsigned int count = 1 + shape % 4, i;
	uint64_t before;

	REQUIRE(s);
	if (shape & 0x80)
		s->read_ahead = 4;	/* as after many packets */
	before = fates(s);
	world.queued = world.read = world.sent = 0;
	world.only_forged = true;
	world.receiving = p;
	for (i = 0; i < count; i++) {
		write_datagram(p, &world.queue[world.queued++]);
		world.only_forged &= !world.queue[i].genuine;
	}
	worker.now_ns = world.now_ns;
	while (relay_read(&worker, s))
		;
	REQUIRE(world.read == world.queued);
	REQUIRE(world.sent <= count && fates(s) - before <= 2 * count);
}

static void drain_events(void)
{
	static struct pp_event events[64];
	int count = pp_events(&pp, events, 64), i;

	REQUIRE(count >= 0);
	for (i = 0; i < count; i++)
		REQUIRE(events[i].type >= PP_EVENT_CONFIRMED && events[i].type <= PP_EVENT_ELSEWHERE &&
			events[i].len <= PP_EVENT_DATA_MAX);
}

/* Who has proven to be the party; and now and then the kernel begins or ends to forward what it sends. */
static void prove(const struct party *p)
{
	uint8_t place = take_u8(&world.in), how = take_u8(&world.in);

	pp_stream_validate(&pp, p->id, &places[place % PLACES], how & 1);
	if (how & 2)
		REQUIRE(pp_stream_offload(&pp, p->id, how & 4) == 0);
}

static void step(void)
{
	uint8_t what = take_u8(&world.in);
	struct party *p = choose_party();

	world.now_ns += (what >> 4) * (what & 8 ? 900000000ULL : 10000000ULL);
	switch (what & 7) {
	case 0:
		configure(p);
		break;
	case 1:
		give_keys(p);
		break;
	case 2:
		prove(p);
		break;
	case 3:
		if (take_u8(&world.in) < 128)
			break;
		close_stream(p);
		open_stream(p);
		break;
	case 4:
		drain_events();
		break;
	default:
		receive(p);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned int i;

	memset(&world, 0, sizeof(world));
	world.in = (struct input) { data, size };
	world.now_ns = 1000 * NS_PER_S;
	memset(&worker, 0, offsetof(struct worker, backlog.bytes));
	pthread_mutex_init(&worker.lock, NULL);
	pthread_cond_init(&worker.idle, NULL);
	worker.wakeup_fd = eventfd(0, EFD_NONBLOCK);
	worker.batch = &batch;
	batch_init(&batch);
	for (i = 0; i < STREAMS; i++)
		open_stream(&world.party[i]);
	for (i = 0; world.in.left && i < STEPS_MAX; i++)
		step();
	for (i = 0; i < STREAMS; i++)
		close_stream(&world.party[i]);
	REQUIRE(worker.stats.streams == 0);
	for (i = 0; i < SCOPE_BUCKETS; i++)
		REQUIRE(!worker.scopes[i]);
	REQUIRE(!worker.early.oldest && !worker.early.newest && !worker.early.memory);
	table_free(&worker.table);
	__real_close(worker.wakeup_fd);
	return 0;
}
