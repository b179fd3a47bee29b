/* SPDX-License-Identifier: MIT */
/*
 * Source learning: whom a stream listens to, and where its party's packets go.
 *
 * No socket and no clock: packets and times are arguments, so that tests
 * reach every rule through cffi (see packetpath.h for the subset).
 */
#ifndef RTPENGINE_LEARN_H
#define RTPENGINE_LEARN_H

#include <stdint.h>

#include "packetpath.h"

#define LEARN_CANDIDATES 4
#define LEARN_STRANGER_PACKETS 5	/* of one SSRC with rising sequence numbers */
#define LEARN_STRANGER_RTCP 2		/* RTCP comes every five seconds (RFC 3550 6.2) */
#define LEARN_REBIND_PACKETS 2
#define LEARN_SEQUENCE_AHEAD 3000	/* RFC 3550 A.1: MAX_DROPOUT */
#define LEARN_VALIDATED 4		/* proven sources that are remembered */

/* What a datagram proves about its sender. */
enum learn_proof {
	LEARN_PROOF_NONE = 0,		/* implausible: teaches nothing */
	LEARN_PROOF_RTP = 1,
	LEARN_PROOF_RTCP = 2,
	LEARN_PROOF_OPAQUE = 3,		/* of a stream that is not RTP */
};

/* What SRTP proves about a packet. */
enum learn_authentic {
	LEARN_AUTHENTIC_NO = 0,
	LEARN_AUTHENTIC = 1,
	LEARN_AUTHENTIC_NEWEST = 2,	/* and it is ahead of all others of its SSRC */
};

/* What to expect of a source before its packet has been looked into. */
enum learn_standing {
	LEARN_STANDING_REFUSED = 0,	/* cannot be accepted, whatever is in it */
	LEARN_STANDING_UNKNOWN = 1,
	LEARN_STANDING_CONTINUES = 2,	/* elsewhere, but it goes on where the accepted source left off */
	LEARN_STANDING_NEAR = 3,	/* at an address that signalling names, as are others behind the same NAT */
	LEARN_STANDING_KNOWN = 4,	/* proven, accepted, or named by signalling */
};

/* How well signalling named a source; more is better. */
enum learn_rank {
	LEARN_RANK_NONE = 0,
	LEARN_RANK_STRANGER = 1,
	LEARN_RANK_ALIAS = 2,		/* address of the party's SIP messages */
	LEARN_RANK_SAME = 3,		/* address of its SDP, another port */
	LEARN_RANK_EXACT = 4,		/* endpoint of its SDP */
	LEARN_RANK_VALIDATED = 5,	/* has proven itself by ICE or DTLS */
};

/* Bits of what learn_packet() and learn_configure() return. */
#define LEARN_RELAY 1			/* the packet is the party's */
#define LEARN_SETTLED 2			/* confirmed now, or confirmed at another source */
#define LEARN_ELSEWHERE 4		/* alone: cannot be judged while the stream is offloaded */

struct learn_packet {
	struct pp_address source;
	uint64_t now_ns;
	uint32_t ssrc;			/* of the sender */
	uint16_t seq;			/* RTP only */
	uint8_t proof;			/* enum learn_proof */
	uint8_t authentic;		/* enum learn_authentic */
	uint8_t indexed;		/* would get an index of an SSRC that is there already, under the sink's keys */
};

struct learn_candidate {
	struct pp_address source;
	uint64_t heard_ns;
	uint32_t ssrc;
	uint16_t seq;
	uint16_t count;			/* 0: unused */
};

/* What every packet reads comes first, to lie on few cache lines. */
struct learn {
	struct pp_address accept_from;	/* family 0: nobody yet */
	struct pp_address send_to;
	uint64_t heard_ns;		/* last packet from accept_from */
	uint32_t flags;			/* PP_F_* */
	uint32_t ssrc;			/* last heard from accept_from */
	uint16_t seq;
	uint8_t identified;		/* ssrc and seq are valid */
	uint8_t mode;			/* enum pp_learning */
	uint8_t rank;			/* enum learn_rank of accept_from */
	uint8_t confirmed;
	uint8_t nominated;		/* accept_from has been, by pp_stream_validate() */
	uint8_t offloaded;		/* see pp_stream_offload() */
	struct pp_address peer;		/* where signalling says the party is; family 0: unknown */
	struct pp_address alias;
	struct pp_address local;	/* our own, never learned as a stranger's */
	uint64_t started_ns;
	struct learn_candidate candidates[4];	/* LEARN_CANDIDATES */
	struct pp_address validated[4];	/* LEARN_VALIDATED; the latest first, family 0: unused */
};

int learn_configure(struct learn *learn, const struct pp_config *config, uint64_t now_ns);
int learn_packet(struct learn *learn, const struct learn_packet *packet);
int learn_validate(struct learn *learn, const struct pp_address *source, uint32_t nominated, uint64_t now_ns);
void learn_save(const struct learn *learn, struct pp_saved *out);
int learn_restore(struct learn *learn, const struct pp_saved *in, uint64_t now_ns);
void learn_forwarded(struct learn *learn, const struct pp_progress *in, uint64_t now_ns);
int learn_srtp_standing(const struct learn *learn, const struct learn_packet *packet);
int learn_dtls_standing(const struct learn *learn, const struct pp_address *source);

#endif
