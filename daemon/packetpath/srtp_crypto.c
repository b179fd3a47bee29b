// SPDX-License-Identifier: MIT
/* Session keys, ciphers and MACs of SRTP, over libcrypto. */
#include "srtp_crypto.h"

#include <openssl/crypto.h>
#include <string.h>

#define AUTH_KEY_LEN 20
#define SHA1_BLOCK 64
#define RTCP_TAG_LEN 10

static const struct srtp_transform transforms[SRTP_SUITES] = {
	[SRTP_AES128_CM_SHA1_80] = { SRTP_CIPHER_CM, 16, 14, 10 },
	[SRTP_AES128_CM_SHA1_32] = { SRTP_CIPHER_CM, 16, 14, 4 },
	[SRTP_AES192_CM_SHA1_80] = { SRTP_CIPHER_CM, 24, 14, 10 },
	[SRTP_AES192_CM_SHA1_32] = { SRTP_CIPHER_CM, 24, 14, 4 },
	[SRTP_AES256_CM_SHA1_80] = { SRTP_CIPHER_CM, 32, 14, 10 },
	[SRTP_AES256_CM_SHA1_32] = { SRTP_CIPHER_CM, 32, 14, 4 },
	[SRTP_F8_128_SHA1_80] = { SRTP_CIPHER_F8, 16, 14, 10 },
	[SRTP_F8_128_SHA1_32] = { SRTP_CIPHER_F8, 16, 14, 4 },
	[SRTP_NULL_SHA1_80] = { SRTP_CIPHER_NULL, 16, 14, 10 },
	[SRTP_NULL_SHA1_32] = { SRTP_CIPHER_NULL, 16, 14, 4 },
	[SRTP_AEAD_AES_128_GCM] = { SRTP_CIPHER_GCM, 16, 12, 16 },
	[SRTP_AEAD_AES_256_GCM] = { SRTP_CIPHER_GCM, 32, 12, 16 },
};

/**
 * srtp_transform() - what a suite consists of
 * @suite: enum srtp_suite
 *
 * Return: its description; NULL if there is no such suite.
 */
const struct srtp_transform *srtp_transform(uint32_t suite)
{
	return suite > SRTP_NONE && suite < SRTP_SUITES ? &transforms[suite] : NULL;
}

static EVP_CIPHER_CTX *cipher_open(const EVP_CIPHER *cipher, const uint8_t *key)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

	if (ctx && EVP_EncryptInit_ex(ctx, cipher, NULL, key, NULL) == 1) {
		EVP_CIPHER_CTX_set_padding(ctx, 0);
		return ctx;
	}
	EVP_CIPHER_CTX_free(ctx);
	return NULL;
}

static const EVP_CIPHER *counter_mode(uint32_t key_len)
{
	if (key_len == 32)
		return EVP_aes_256_ctr();
	return key_len == 24 ? EVP_aes_192_ctr() : EVP_aes_128_ctr();
}

/**
 * srtp_derive() - one session key (RFC 3711 4.3, with key derivation rate 0)
 * @keys: master key and salt
 * @label: enum srtp_label
 * @out: the session key
 * @len: its length in bytes
 *
 * RFC 6188 for longer master keys; RFC 7714 11 for shorter salts, which count as filled with zeros.
 * Return: 0, or SRTP_ERROR_MALFORMED if there is no such suite or libcrypto refuses.
 */
int srtp_derive(const struct srtp_keys *keys, uint32_t label, uint8_t *out, uint32_t len)
{
	const struct srtp_transform *transform = srtp_transform(keys->suite);
	EVP_CIPHER_CTX *ctx;
	uint8_t iv[16] = { 0 };
	int done, result = SRTP_ERROR_MALFORMED;

	if (!transform)
		return SRTP_ERROR_MALFORMED;
	memcpy(iv, keys->salt, transform->salt_len);
	iv[7] ^= (uint8_t)label;
	ctx = cipher_open(counter_mode(transform->key_len), keys->key);
	memset(out, 0, len);
	if (ctx && EVP_EncryptInit_ex(ctx, NULL, NULL, NULL, iv) == 1 &&
	    EVP_EncryptUpdate(ctx, out, &done, out, (int)len) == 1)
		result = 0;
	EVP_CIPHER_CTX_free(ctx);
	OPENSSL_cleanse(iv, sizeof(iv));
	return result;
}

static void hmac_key(SHA_CTX *sha, const uint8_t *key, uint8_t pad)
{
	uint8_t block[SHA1_BLOCK];
	uint32_t i;

	for (i = 0; i < sizeof(block); i++)
		block[i] = pad ^ (i < AUTH_KEY_LEN ? key[i] : 0);
	SHA1_Init(sha);
	SHA1_Update(sha, block, sizeof(block));
	OPENSSL_cleanse(block, sizeof(block));
}

static void put_be32(uint8_t *out, uint32_t number)
{
	out[0] = (uint8_t)(number >> 24);
	out[1] = (uint8_t)(number >> 16);
	out[2] = (uint8_t)(number >> 8);
	out[3] = (uint8_t)number;
}

/* What is authenticated besides the packet: its rollover counter, or E and index of SRTCP. */
static uint32_t index_word(const struct srtp_session *session, const struct srtp_packet *packet)
{
	if (!session->rtcp)
		return (uint32_t)(packet->index >> 16);
	return (uint32_t)packet->index | (packet->encrypted ? SRTCP_ENCRYPTED : 0);
}

static void hmac_start(struct srtp_session *session, const struct srtp_packet *packet)
{
	session->body = session->inner;
	SHA1_Update(&session->body, packet->data, packet->len);
}

/* May follow one hmac_start() several times, for other indices of the packet. */
static void hmac_finish(struct srtp_session *session, const struct srtp_packet *packet, uint8_t *digest)
{
	uint8_t word[4];

	put_be32(word, index_word(session, packet));
	session->work = session->body;
	SHA1_Update(&session->work, word, sizeof(word));
	SHA1_Final(digest, &session->work);
	session->work = session->outer;
	SHA1_Update(&session->work, digest, SHA_DIGEST_LENGTH);
	SHA1_Final(digest, &session->work);
}

static bool cm_crypt(struct srtp_session *session, const struct srtp_packet *packet)
{
	uint8_t *payload = packet->data + packet->clear;
	uint8_t iv[16];
	int done;

	rtp_cm_iv(iv, session->salt, packet->ssrc, packet->index);
	return EVP_EncryptInit_ex(session->cipher, NULL, NULL, NULL, iv) == 1 &&
	       EVP_EncryptUpdate(session->cipher, payload, &done, payload, (int)(packet->len - packet->clear)) == 1;
}

static void aes_block(void *cipher, uint8_t *io)
{
	int done;

	EVP_EncryptUpdate(cipher, io, &done, io, 16);
}

static bool f8_crypt(struct srtp_session *session, const struct srtp_packet *packet)
{
	uint8_t iv[16];

	if (session->rtcp)
		rtcp_f8_iv(iv, packet->data, index_word(session, packet));
	else
		rtp_f8_iv(iv, packet->data, index_word(session, packet));
	aes_block(session->f8_iv, iv);
	rtp_f8(packet->data + packet->clear, packet->len - packet->clear, iv, aes_block, session->cipher);
	return true;
}

static bool crypt_payload(struct srtp_session *session, const struct srtp_packet *packet)
{
	if (!packet->encrypted || packet->len == packet->clear)
		return true;
	switch (session->mode) {
	case SRTP_CIPHER_CM:
		return cm_crypt(session, packet);
	case SRTP_CIPHER_F8:
		return f8_crypt(session, packet);
	default:
		return true;
	}
}

/* Nonce, associated data and payload of RFC 7714; what is left is the tag. */
static bool gcm_crypt(struct srtp_session *session, const struct srtp_packet *packet, int encrypt)
{
	uint32_t clear = packet->encrypted ? packet->clear : packet->len;
	uint8_t *payload = packet->data + clear;
	uint8_t iv[12], word[4];
	int done;

	rtp_gcm_iv(iv, session->salt, packet->ssrc, packet->index);
	put_be32(word, index_word(session, packet));
	return EVP_CipherInit_ex(session->cipher, NULL, NULL, NULL, iv, encrypt) == 1 &&
	       EVP_CipherUpdate(session->cipher, NULL, &done, packet->data, (int)clear) == 1 &&
	       (!session->rtcp || EVP_CipherUpdate(session->cipher, NULL, &done, word, sizeof(word)) == 1) &&
	       (clear == packet->len ||
		EVP_CipherUpdate(session->cipher, payload, &done, payload, (int)(packet->len - clear)) == 1);
}

static bool gcm_seal(struct srtp_session *session, const struct srtp_packet *packet)
{
	int done;

	return gcm_crypt(session, packet, 1) && EVP_CipherFinal_ex(session->cipher, packet->tag, &done) == 1 &&
	       EVP_CIPHER_CTX_ctrl(session->cipher, EVP_CTRL_AEAD_GET_TAG, SRTP_TAG_MAX, packet->tag) == 1;
}

static bool gcm_accept(struct srtp_session *session, const struct srtp_packet *packet, bool keep)
{
	uint8_t end[16];
	int done;
	bool good;

	good = gcm_crypt(session, packet, 0) &&
	       EVP_CIPHER_CTX_ctrl(session->cipher, EVP_CTRL_AEAD_SET_TAG, SRTP_TAG_MAX, packet->tag) == 1 &&
	       EVP_CipherFinal_ex(session->cipher, end, &done) == 1;
	/* The cipher is its own inverse: once more restores what had to be decrypted for the check. */
	if (!good || keep)
		gcm_crypt(session, packet, 0);
	return good;
}

static bool hmac_accept(struct srtp_session *session, const struct srtp_packet *packet)
{
	uint8_t digest[SHA_DIGEST_LENGTH];

	hmac_finish(session, packet, digest);
	return !CRYPTO_memcmp(digest, packet->tag, session->tag_len);
}

/**
 * srtp_session_seal() - encrypt a packet and write its tag
 * @session: the session keys
 * @packet: the packet, with its index
 *
 * Return: false if libcrypto refused; the packet is spoiled then.
 */
bool srtp_session_seal(struct srtp_session *session, const struct srtp_packet *packet)
{
	uint8_t digest[SHA_DIGEST_LENGTH];

	if (session->mode == SRTP_CIPHER_GCM)
		return gcm_seal(session, packet);
	if (!crypt_payload(session, packet))
		return false;
	if (session->tag_len) {
		hmac_start(session, packet);
		hmac_finish(session, packet, digest);
		memcpy(packet->tag, digest, session->tag_len);
	}
	return true;
}

/**
 * srtp_session_accept() - authenticate and decrypt a packet
 * @session: the session keys
 * @packet: the packet, whose index becomes the candidate that proved right
 * @candidates: the indices that it may have
 * @count: how many
 * @keep: leave it encrypted
 *
 * Without authentication the first candidate is right.
 * Return: false if the tag fits no candidate; the packet is left as it was.
 */
bool srtp_session_accept(struct srtp_session *session, struct srtp_packet *packet, const uint64_t *candidates,
			 uint32_t count, bool keep)
{
	bool gcm = session->mode == SRTP_CIPHER_GCM;
	uint32_t i;

	if (!gcm && session->tag_len)
		hmac_start(session, packet);
	for (i = 0; i < count; i++) {
		packet->index = candidates[i];
		if (gcm ? gcm_accept(session, packet, keep) : !session->tag_len || hmac_accept(session, packet))
			return gcm || keep || crypt_payload(session, packet);
	}
	return false;
}

static bool hmac_open(struct srtp_session *session, const struct srtp_keys *keys)
{
	uint8_t key[AUTH_KEY_LEN];
	bool done;

	done = !srtp_derive(keys, session->rtcp ? SRTP_LABEL_RTCP_AUTH : SRTP_LABEL_RTP_AUTH, key, sizeof(key));
	hmac_key(&session->inner, key, 0x36);
	hmac_key(&session->outer, key, 0x5c);
	OPENSSL_cleanse(key, sizeof(key));
	return done;
}

static const EVP_CIPHER *session_cipher(enum srtp_cipher mode, uint32_t key_len)
{
	if (mode == SRTP_CIPHER_F8)
		return EVP_aes_128_ecb();
	if (mode == SRTP_CIPHER_GCM)
		return key_len == 32 ? EVP_aes_256_gcm() : EVP_aes_128_gcm();
	return counter_mode(key_len);
}

static bool cipher_keys(struct srtp_session *session, const struct srtp_keys *keys, uint32_t key_len)
{
	uint8_t key[SRTP_KEY_MAX], masked[16];
	bool done;

	done = !srtp_derive(keys, session->rtcp ? SRTP_LABEL_RTCP_CIPHER : SRTP_LABEL_RTP_CIPHER, key, key_len);
	session->cipher = cipher_open(session_cipher(session->mode, key_len), key);
	if (session->mode == SRTP_CIPHER_F8) {
		rtp_f8_mask(masked, key, session->salt);
		session->f8_iv = cipher_open(EVP_aes_128_ecb(), masked);
		done = done && session->f8_iv;
		OPENSSL_cleanse(masked, sizeof(masked));
	}
	OPENSSL_cleanse(key, sizeof(key));
	return done && session->cipher;
}

/**
 * srtp_session_open() - derive and schedule the session keys of one protocol
 * @session: to fill, zeroed
 * @keys: master keys, of a suite that there is
 * @rtcp: of SRTCP, not of SRTP
 *
 * Return: false if libcrypto refused or memory ran out; srtp_session_close() is due even then.
 */
bool srtp_session_open(struct srtp_session *session, const struct srtp_keys *keys, bool rtcp)
{
	const struct srtp_transform *transform = srtp_transform(keys->suite);
	bool gcm = transform->cipher == SRTP_CIPHER_GCM;

	session->mode = transform->cipher;
	session->rtcp = rtcp;
	session->tag_len = rtcp && !gcm ? RTCP_TAG_LEN : transform->tag_len;
	if (!rtcp && keys->flags & SRTP_F_UNAUTHENTICATED_SRTP)
		session->tag_len = 0;
	return !srtp_derive(keys, rtcp ? SRTP_LABEL_RTCP_SALT : SRTP_LABEL_RTP_SALT, session->salt,
			    transform->salt_len) &&
	       (gcm || hmac_open(session, keys)) &&
	       (session->mode == SRTP_CIPHER_NULL || cipher_keys(session, keys, transform->key_len));
}

/**
 * srtp_session_close() - free and wipe the session keys
 * @session: of srtp_session_open(), or zeroed
 */
void srtp_session_close(struct srtp_session *session)
{
	EVP_CIPHER_CTX_free(session->cipher);
	EVP_CIPHER_CTX_free(session->f8_iv);
	OPENSSL_cleanse(session, sizeof(*session));
}
