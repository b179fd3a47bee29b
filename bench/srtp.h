/* SPDX-License-Identifier: MIT */
/* SRTP (RFC 3711, RFC 7714) as the generator needs it: one stream per context, a header without CSRC or extension. */
#ifndef BENCH_SRTP_H
#define BENCH_SRTP_H

#include <stdint.h>

#define SRTP_TAG_MAX 16
#define SRTP_KEYSALT_MAX 30

enum srtp_suite {
	SRTP_CM,	/* AES_CM_128_HMAC_SHA1_80 */
	SRTP_F8,	/* F8_128_HMAC_SHA1_80 */
	SRTP_GCM,	/* AEAD_AES_128_GCM */
	SRTP_SUITES,
};

struct srtp;

/* How many bytes of key and salt the suite has. */
int srtp_keysalt_len(enum srtp_suite suite);

/* keysalt: 16 bytes of master key, then the master salt */
struct srtp *srtp_new(enum srtp_suite suite, const uint8_t *keysalt);

/* In place; pkt has room for 20 bytes more. Returns the new length. */
int srtp_protect(struct srtp *s, uint8_t *pkt, int len, uint64_t index);

/* In place. Returns the length without tag, -1 where the tag is wrong. */
int srtp_unprotect(struct srtp *s, uint8_t *pkt, int len);

/* Known answers and round trips; prints what came out, returns 0 if all is well. */
int srtp_selftest(void);

#endif
