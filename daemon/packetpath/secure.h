/* SPDX-License-Identifier: MIT */
/* The SRTP contexts of streams, for the two files that deal with them: secure.c and resume.c. */
#ifndef RTPENGINE_SECURE_H
#define RTPENGINE_SECURE_H

#include "internal.h"
#include "srtp.h"

/* Of a scope, used or not; beyond it the unused one that has rested longest goes. */
#define SCOPE_CONTEXTS 32

/* One direction under one master key; its indices go on for as long as the scope lasts. */
struct context {
	struct context *next;
	struct srtp *srtp;
	struct srtp_keys keys;
	enum direction direction;
	uint32_t streams;		/* that use it */
	bool own_rtcp;			/* has given SRTCP indices of its own */
	bool own_rtp;			/* has protected RTP, and not only followed what passed as it was */
};

/* The contexts of the streams that share keys: RTP and RTCP of one media, and sockets that replace others. */
struct scope {
	struct scope *next;
	uint64_t id;
	struct context *contexts;	/* the one used last comes first */
	uint32_t streams;
};

/* secure.c */
struct context *context_new(const struct srtp_keys *keys, enum direction direction);
struct context *context_find(struct scope *scope, const struct srtp_keys *keys, enum direction direction);
void context_free(struct context *context);
bool secure_valid_keys(const struct srtp_keys *keys);

#endif
