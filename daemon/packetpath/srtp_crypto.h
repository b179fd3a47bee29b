/* SPDX-License-Identifier: MIT */
/*
 * The ciphers and MACs of SRTP over libcrypto. Nothing here knows of indices
 * having passed, of replays, or of where a packet keeps its tag.
 */
#ifndef RTPENGINE_SRTP_CRYPTO_H
#define RTPENGINE_SRTP_CRYPTO_H

/* The low-level SHA-1 is what can be copied, keyed, without an allocation. */
#define OPENSSL_API_COMPAT 0x10100000L

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <stdint.h>

#include "srtp.h"

#define SRTP_TAG_MAX 16
#define SRTCP_ENCRYPTED 0x80000000u	/* E in the word that holds SRTCP's index */

enum srtp_cipher {
	SRTP_CIPHER_NULL,
	SRTP_CIPHER_CM,
	SRTP_CIPHER_F8,
	SRTP_CIPHER_GCM,
};

/* What a suite consists of. All but GCM have HMAC-SHA1; the tag of RTCP has 10 bytes then. */
struct srtp_transform {
	uint8_t cipher;			/* enum srtp_cipher */
	uint8_t key_len;
	uint8_t salt_len;
	uint8_t tag_len;
};

/* The session keys of one protocol, scheduled. */
struct srtp_session {
	enum srtp_cipher mode;
	bool rtcp;
	uint32_t tag_len;		/* 0 without authentication */
	EVP_CIPHER_CTX *cipher;
	EVP_CIPHER_CTX *f8_iv;		/* AES under the masked key */
	SHA_CTX inner, outer;		/* HMAC-SHA1 after its padded keys */
	SHA_CTX body, work;		/* in use; here to be wiped with the rest */
	uint8_t salt[SRTP_SALT_MAX];
};

/* One packet, as the transforms see it. */
struct srtp_packet {
	uint8_t *data;
	uint32_t clear;			/* header, CSRC list, header extension */
	uint32_t len;			/* header and payload, no index, tag or MKI */
	uint32_t ssrc;
	bool encrypted;			/* what follows the clear part */
	uint64_t index;
	uint8_t *tag;
};

const struct srtp_transform *srtp_transform(uint32_t suite);
bool srtp_session_open(struct srtp_session *session, const struct srtp_keys *keys, bool rtcp);
void srtp_session_close(struct srtp_session *session);
bool srtp_session_seal(struct srtp_session *session, const struct srtp_packet *packet);
bool srtp_session_accept(struct srtp_session *session, struct srtp_packet *packet, const uint64_t *candidates,
			 uint32_t count, bool keep);

#endif
