/* SPDX-License-Identifier: MIT */
/* SRTP with AES_CM_128_HMAC_SHA1_80 (RFC 3711) as the generator needs it: one stream per context. */
#ifndef BENCH_SRTP_H
#define BENCH_SRTP_H

#include <stdint.h>

#define SRTP_TAG 10

struct srtp;

/* keysalt: 16 bytes of master key, 14 of master salt */
struct srtp *srtp_new(const uint8_t *keysalt);

/* In place; pkt has room for 20 bytes more. Returns the new length. */
int srtp_protect(struct srtp *s, uint8_t *pkt, int len, uint64_t index);

/* In place. Returns the length without tag, -1 where the tag is wrong. */
int srtp_unprotect(struct srtp *s, uint8_t *pkt, int len);

/* Known answers and a round trip; prints what came out, returns 0 if all is well. */
int srtp_selftest(void);

#endif
