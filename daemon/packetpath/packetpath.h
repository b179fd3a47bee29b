/* SPDX-License-Identifier: MIT */
/*
 * The packet path as Python sees it: worker threads that own the media sockets.
 *
 * Read by the C compiler and, reduced, by cffi (build.py): fixed-width types,
 * integer #defines, enums, plain structs; directives only at the start of a line.
 *
 * Every function returns 0 or a count, or a negative errno. Any thread may call;
 * a call waits at most for the batch that the stream's worker has in hand.
 */
#ifndef RTPENGINE_PACKETPATH_H
#define RTPENGINE_PACKETPATH_H

#include <stddef.h>
#include <stdint.h>

#include "rtp_quality.h"
#include "srtp.h"

#define PP_MAX_WORKERS 64
#define PP_PACKET_MAX 8192		/* longer datagrams are dropped as cut short */
#define PP_DEFAULT_PAUSE_US 500		/* see worker.c: pause_for_more() */
#define PP_MAX_PAUSE_US 10000
#define PP_LEARN_WINDOW_NS 3000000000
#define PP_REBIND_SILENCE_NS 2000000000
#define PP_EVENT_DATA_MAX 2048
#define PP_SOURCES 8			/* SSRCs of one direction that can be handed over */

enum pp_learning {
	PP_LEARN_HEURISTIC = 0,
	PP_LEARN_DELAYED = 1,
	PP_LEARN_IMMEDIATE = 2,
	PP_LEARN_OFF = 3,
};

/* pp_config.flags */
#define PP_F_STRICT 1		/* after confirmation drop other sources */
#define PP_F_HANDOVER 2		/* ... but follow a plausible new one at once */
#define PP_F_ASYMMETRIC 4	/* learn whom to hear, always send to peer */
#define PP_F_STRANGER 8		/* neither peer's nor alias' address: may be learned */
#define PP_F_MUTED 16		/* send nothing to the peer */
#define PP_F_OPAQUE 32		/* not RTP: no interpretation */
#define PP_F_RTCP_ONLY 64	/* the RTCP socket of a pair */
#define PP_F_RTCP_MUX 128	/* RFC 5761: RTP and RTCP on this socket */
#define PP_F_STRIP_FEEDBACK 256	/* remove RTPFB and PSFB on the way to rtcp_sink */
#define PP_F_SECURE 512		/* the party speaks SRTP: without keys nothing passes */
#define PP_F_STUN 1024		/* STUN is an event, not relayed */
#define PP_F_ICE 2048		/* only sources named by pp_stream_validate() are the party's */
#define PP_F_DTLS 4096		/* DTLS is an event, not relayed */

/* Why a received datagram was not relayed: indices of pp_counters.drops */
enum pp_drop {
	PP_DROP_SOURCE = 0,	/* not from the party that the stream belongs to */
	PP_DROP_MALFORMED = 1,	/* empty, or cut short by the socket */
	PP_DROP_NO_SINK = 2,	/* nobody to relay to (also an error) */
	PP_DROP_MUTED = 3,	/* the receiver is on hold, or not known yet */
	PP_DROP_FILTERED = 4,	/* nothing but feedback, for a receiver without it */
	PP_DROP_SEND = 5,	/* the system refused to send (also an error) */
	PP_DROP_AUTH = 6,	/* SRTP: wrong tag or MKI, or no SRTP at all */
	PP_DROP_REPLAY = 7,	/* SRTP: seen before, or too old to tell */
	PP_DROP_NO_KEY = 8,	/* SRTP: keys not agreed yet, for this direction or at the receiver */
	PP_DROP_FLOOD = 9,	/* STUN or DTLS beyond what may reach Python */
	PP_DROP_REASONS = 10,
};

/* family 0: none; 4: the first 4 bytes of address; 6: all 16. Host order port. */
struct pp_address {
	uint8_t address[16];
	uint16_t port;
	uint16_t family;
	uint32_t scope_id;
};

struct pp_config {
	struct pp_address peer;
	struct pp_address alias;	/* port unused */
	int64_t rtp_sink;		/* stream id, 0 for none */
	int64_t rtcp_sink;
	uint32_t learning;		/* enum pp_learning */
	uint32_t flags;			/* PP_F_* */
	uint8_t ufrag[32];		/* of our ICE agent, zero-filled: STUN that names it is never crowded out */
	uint32_t clocks[16];		/* RTP_CLOCKS, see rtp_ticks() */
};

struct pp_counters {
	int64_t id;
	uint64_t packets;		/* received and, but for a refusing system, relayed */
	uint64_t bytes;
	uint64_t errors;		/* no sink, or not sent */
	uint64_t last_packet_ns;	/* CLOCK_MONOTONIC of the last accepted packet, 0 before */
	uint64_t drops[10];		/* PP_DROP_REASONS */
};

/* How the party's RTP arrives, see rtp_quality.h; of SRTP only what is authentic, and no packet twice. */
struct pp_quality {
	struct rtp_totals totals;	/* expected up to now */
	uint32_t jitter_us;		/* RFC 3550 A.8 */
	uint32_t ssrc;			/* that counts now */
	uint32_t type;			/* its payload type | 128; 0 before the first packet */
	uint32_t ticks;			/* its timestamp units in 2^32 ns; 0: not known */
};

/* What the party says over RTCP that comes here, see reports.h. */
struct pp_reports {
	uint64_t count;
	uint64_t malformed;
	uint64_t round_trips;
	int64_t lost;
	uint32_t fraction;
	uint32_t jitter;
	uint32_t ssrc;
	uint32_t rtt;
};

struct pp_state {
	struct pp_counters counters;
	struct pp_quality quality;
	struct pp_reports reports;
	struct pp_address send_to;	/* where packets for the party go now */
	struct pp_address accept_from;	/* whom the stream listens to; family 0 before the first packet */
	uint32_t confirmed;		/* learning has finished */
	uint32_t payload_type;		/* of the first RTP packet; 255 before */
	uint32_t ssrc;			/* of the last RTP packet */
	uint32_t reserved;
};

/* How far one SSRC of RTP has come. This and the next are laid out as the kernel module wants them. */
struct pp_source {
	uint32_t ssrc;
	uint32_t reserved;
	struct rtp_window window;
};

struct pp_sources {
	uint32_t count;			/* of all, even if they are more than PP_SOURCES */
	uint32_t reserved;
	struct pp_source source[8];
};

/* What the kernel has done for a stream since this was last told. */
struct pp_progress {
	uint64_t packets;		/* sent on */
	uint64_t bytes;
	uint64_t drops[10];		/* PP_DROP_REASONS */
	struct rtp_totals totals;
	uint32_t jitter;		/* this and the next as in struct rtp_quality, if there were packets */
	uint32_t ticks;
	uint32_t ssrc;
	uint32_t type;
	struct pp_sources received;	/* under the party's keys */
	struct pp_sources sent;		/* under ours for the party of rtp_sink */
};

/* pp_saved.flags */
#define PP_SAVED_CONFIRMED 1
#define PP_SAVED_NOMINATED 2
#define PP_SAVED_IDENTIFIED 4	/* ssrc and seq are valid */
#define PP_SAVED_HEARD 8	/* something was accepted */

/* What a stream has learned and counted, for the one that takes its place in another process. */
struct pp_saved {
	uint64_t packets;
	uint64_t bytes;
	uint64_t errors;
	uint64_t drops[10];		/* PP_DROP_REASONS */
	struct pp_address accept_from;
	struct pp_address validated[4];	/* the latest first, family 0: unused */
	uint32_t flags;			/* PP_SAVED_* */
	uint32_t rank;			/* enum learn_rank of accept_from */
	uint32_t ssrc;
	uint32_t seq;
	uint32_t payload_type;
	uint32_t reserved;
};

/* One SRTP context of a stream's scope. */
struct pp_saved_context {
	struct srtp_keys keys;
	uint32_t sending;		/* ours, not the party's */
	uint32_t own_rtcp;		/* has given SRTCP indices of its own */
	struct srtp_saved srtp;
};

enum pp_event_type {
	PP_EVENT_CONFIRMED = 1,		/* the stream has settled on a source: see pp_stream_state() */
	PP_EVENT_STUN = 2,		/* a datagram for us */
	PP_EVENT_DTLS = 3,
	PP_EVENT_INDEX = 4,		/* an SRTP index has come far: time to save the call again */
	PP_EVENT_ELSEWHERE = 5,		/* packets that an offloaded stream cannot judge, see pp_stream_offload() */
};

struct pp_event {
	int64_t id;
	uint32_t type;			/* enum pp_event_type */
	uint32_t len;			/* of data, 0 where there is none */
	struct pp_address source;
	uint8_t data[2048];		/* PP_EVENT_DATA_MAX; what is longer is dropped as malformed */
};

struct pp_traffic {
	uint64_t packets;
	uint64_t bytes;
	uint64_t errors;		/* received: nobody to relay to; sent: the system refused */
};

struct pp_stats {
	uint64_t packets;		/* relayed, since pp_open() */
	uint64_t bytes;
	uint64_t errors;
	uint64_t drops[10];
	struct pp_traffic received[2];	/* accepted at IPv4 and at IPv6 sockets */
	struct pp_traffic sent[2];	/* sent from them */
	struct rtp_totals totals;	/* but for expected; lost may go back a little */
	uint64_t events_lost;
	uint64_t wakeups;
	uint64_t streams;		/* open now */
};

struct pp;

struct pp *pp_open(uint32_t workers, int wakeup_fd, uint32_t pause_us);
void pp_close(struct pp *pp);
int64_t pp_stream_open(struct pp *pp, uint32_t worker, int fd);
int pp_stream_configure(struct pp *pp, int64_t id, const struct pp_config *config);
int pp_stream_protect(struct pp *pp, int64_t id, uint64_t scope,
		      const struct srtp_keys *receive, const struct srtp_keys *send);
int pp_stream_validate(struct pp *pp, int64_t id, const struct pp_address *source, uint32_t nominated);
int pp_stream_send(struct pp *pp, int64_t id, const struct pp_address *to, const uint8_t *data, uint32_t len);
int pp_stream_close(struct pp *pp, int64_t id);
int pp_stream_state(struct pp *pp, int64_t id, struct pp_state *out);
int pp_stream_sources(struct pp *pp, int64_t id, struct pp_sources *received, struct pp_sources *sent);
int pp_stream_sync(struct pp *pp, int64_t id, const struct pp_progress *in);
int pp_stream_offload(struct pp *pp, int64_t id, uint32_t offloaded);
int64_t pp_stream_adopt(struct pp *pp, uint32_t worker, int fd);
int pp_stream_resume(struct pp *pp, int64_t id);
int pp_stream_hold(struct pp *pp, int64_t id);
int pp_stream_save(struct pp *pp, int64_t id, struct pp_saved *out);
int pp_stream_restore(struct pp *pp, int64_t id, const struct pp_saved *in);
int pp_stream_save_context(struct pp *pp, int64_t id, uint32_t number, struct pp_saved_context *out);
int pp_stream_restore_context(struct pp *pp, int64_t id, const struct pp_saved_context *in, uint32_t late);
int pp_events(struct pp *pp, struct pp_event *out, uint32_t max);
int pp_stats(struct pp *pp, struct pp_stats *out);

#endif
