/* SPDX-License-Identifier: MIT */
/*
 * SRTP and SRTCP: protect and unprotect one packet in place (RFC 3711, 6188, 7714).
 *
 * No socket and no clock. A context holds the session keys of one direction and,
 * per SSRC, the packet index and the replay window; it belongs to one thread at a time.
 * Read by cffi too (see packetpath.h for the subset).
 */
#ifndef RTPENGINE_SRTP_H
#define RTPENGINE_SRTP_H

#include <stdint.h>

#include "srtp_common.h"

#define SRTP_KEY_MAX 32
#define SRTP_SALT_MAX 14
#define SRTP_MKI_MAX 255
#define SRTP_OVERHEAD_MAX 275	/* tag of 16, MKI of 255, and the index of SRTCP */
#define SRTP_SSRC_MAX 64	/* per context and protocol; the least needed one makes room */
#define SRTP_INDEX_MAX 128	/* entries that srtp_indices() can have */
#define SRTP_MILESTONE_BITS 14	/* each time that an index has moved so far, whoever saves it should do so again */
#define SRTCP_LEAP 0x10000	/* what SRTCP skips when it goes on from what may be out of date */

enum srtp_suite {
	SRTP_NONE = 0,
	SRTP_AES128_CM_SHA1_80 = 1,
	SRTP_AES128_CM_SHA1_32 = 2,
	SRTP_AES192_CM_SHA1_80 = 3,
	SRTP_AES192_CM_SHA1_32 = 4,
	SRTP_AES256_CM_SHA1_80 = 5,
	SRTP_AES256_CM_SHA1_32 = 6,
	SRTP_F8_128_SHA1_80 = 7,
	SRTP_F8_128_SHA1_32 = 8,
	SRTP_NULL_SHA1_80 = 9,
	SRTP_NULL_SHA1_32 = 10,
	SRTP_AEAD_AES_128_GCM = 11,
	SRTP_AEAD_AES_256_GCM = 12,
	SRTP_SUITES = 13,
};

/* srtp_keys.flags: the session parameters of RFC 4568 6.3 */
#define SRTP_F_UNENCRYPTED_SRTP 1
#define SRTP_F_UNENCRYPTED_SRTCP 2
#define SRTP_F_UNAUTHENTICATED_SRTP 4	/* not with AES-GCM */

/* Why a packet did not pass: negative results of the functions below. */
enum srtp_error {
	SRTP_ERROR_MALFORMED = -1,	/* no RTP or RTCP, too short, or no room for tag and MKI */
	SRTP_ERROR_AUTH = -2,		/* wrong tag, another MKI, or in the clear */
	SRTP_ERROR_REPLAY = -3,		/* seen before, or too old to tell */
	SRTP_ERROR_EXHAUSTED = -4,	/* the key has been used for all that it may */
};

/* Labels of the session keys (RFC 3711 4.3.1 and 4.3.2) */
enum srtp_label {
	SRTP_LABEL_RTP_CIPHER = 0,
	SRTP_LABEL_RTP_AUTH = 1,
	SRTP_LABEL_RTP_SALT = 2,
	SRTP_LABEL_RTCP_CIPHER = 3,
	SRTP_LABEL_RTCP_AUTH = 4,
	SRTP_LABEL_RTCP_SALT = 5,
};

/* Master keys: the first bytes of key and salt that the suite needs. */
struct srtp_keys {
	uint32_t suite;			/* enum srtp_suite */
	uint32_t flags;			/* SRTP_F_* */
	uint8_t key[32];
	uint8_t salt[14];
	uint8_t reserved;
	uint8_t mki_len;
	uint8_t mki[256];
};

/* How far one SSRC has come. */
struct srtp_index {
	uint32_t ssrc;
	uint32_t reserved;
	struct rtp_window rtp;
	struct rtp_window rtcp;
};

/* All that a context must not forget: what no key stream may be used for again. */
struct srtp_saved {
	uint64_t rtcp_next;		/* the index of the next SRTCP packet to send */
	uint64_t retired[2][32];	/* of RTP and RTCP: see rtp_source_retired() */
	uint32_t count;
	uint32_t reserved;
	struct srtp_index index[128];	/* SRTP_INDEX_MAX */
};

struct srtp;

struct srtp *srtp_open(const struct srtp_keys *keys);
void srtp_close(struct srtp *srtp);
int srtp_protect(struct srtp *srtp, uint8_t *packet, uint32_t len, uint32_t room);
int srtp_unprotect(struct srtp *srtp, uint8_t *packet, uint32_t len);
int srtp_verify(struct srtp *srtp, uint8_t *packet, uint32_t len);
int srtcp_protect(struct srtp *srtp, uint8_t *packet, uint32_t len, uint32_t room);
int srtcp_unprotect(struct srtp *srtp, uint8_t *packet, uint32_t len);
int srtcp_verify(struct srtp *srtp, uint8_t *packet, uint32_t len);
int srtcp_open_again(struct srtp *srtp, uint8_t *packet, uint32_t len);
int srtp_is_newest(const struct srtp *srtp);
int srtp_knows(const struct srtp *srtp, uint32_t ssrc);
int srtp_may_follow(const struct srtp *srtp, const struct srtp *receiver);
void srtp_follow(struct srtp *srtp, const struct srtp *receiver);
int srtp_indices(const struct srtp *srtp, struct srtp_index *out, uint32_t max);
void srtp_advance(struct srtp *srtp, const struct srtp_index *in, uint32_t count);
int srtp_take_milestone(struct srtp *srtp);
void srtp_save(const struct srtp *srtp, struct srtp_saved *out);
void srtp_restore(struct srtp *srtp, const struct srtp_saved *in, uint32_t late);
int srtp_derive(const struct srtp_keys *keys, uint32_t label, uint8_t *out, uint32_t len);

#endif
