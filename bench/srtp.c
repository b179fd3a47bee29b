/* SPDX-License-Identifier: MIT */
#define OPENSSL_SUPPRESS_DEPRECATED /* the one-shot SHA-1 calls are the cheapest here, and cost is what counts */
#include "srtp.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RTP_HEADER 12

struct srtp {
	EVP_CIPHER_CTX *ctr;
	SHA_CTX inner, outer;
	uint8_t salt[14];
	uint64_t highest; /* receiver: highest extended sequence seen */
	int seen;
};

static void kdf(EVP_CIPHER_CTX *c, const uint8_t *salt, uint8_t label, uint8_t *out, int len)
{
	uint8_t iv[16] = {0}, zero[32] = {0};
	int n;
	memcpy(iv, salt, 14);
	iv[7] ^= label;
	EVP_EncryptInit_ex(c, NULL, NULL, NULL, iv);
	EVP_EncryptUpdate(c, out, &n, zero, len);
}

struct srtp *srtp_new(const uint8_t *keysalt)
{
	struct srtp *s = calloc(1, sizeof(*s));
	uint8_t ek[16], ak[20], pad[64];
	EVP_CIPHER_CTX *m = EVP_CIPHER_CTX_new();
	EVP_EncryptInit_ex(m, EVP_aes_128_ctr(), NULL, keysalt, NULL);
	kdf(m, keysalt + 16, 0, ek, 16);
	kdf(m, keysalt + 16, 1, ak, 20);
	kdf(m, keysalt + 16, 2, s->salt, 14);
	EVP_CIPHER_CTX_free(m);
	s->ctr = EVP_CIPHER_CTX_new();
	EVP_EncryptInit_ex(s->ctr, EVP_aes_128_ctr(), NULL, ek, NULL);
	memset(pad, 0x36, 64);
	for (int i = 0; i < 20; i++)
		pad[i] ^= ak[i];
	SHA1_Init(&s->inner);
	SHA1_Update(&s->inner, pad, 64);
	memset(pad, 0x5c, 64);
	for (int i = 0; i < 20; i++)
		pad[i] ^= ak[i];
	SHA1_Init(&s->outer);
	SHA1_Update(&s->outer, pad, 64);
	return s;
}

static inline void srtp_crypt(struct srtp *s, uint8_t *pkt, int plen, uint64_t index)
{
	uint8_t iv[16] = {0};
	int n;
	memcpy(iv, s->salt, 14);
	for (int i = 0; i < 4; i++)
		iv[4 + i] ^= pkt[8 + i];
	for (int i = 0; i < 6; i++)
		iv[8 + i] ^= (uint8_t)(index >> (8 * (5 - i)));
	EVP_EncryptInit_ex(s->ctr, NULL, NULL, NULL, iv);
	EVP_EncryptUpdate(s->ctr, pkt + RTP_HEADER, &n, pkt + RTP_HEADER, plen);
}

static inline void srtp_tag(struct srtp *s, const uint8_t *pkt, int len, uint32_t roc, uint8_t *out)
{
	SHA_CTX c = s->inner;
	uint8_t r[4] = {roc >> 24, roc >> 16, roc >> 8, roc}, d[20];
	SHA1_Update(&c, pkt, len);
	SHA1_Update(&c, r, 4);
	SHA1_Final(d, &c);
	c = s->outer;
	SHA1_Update(&c, d, 20);
	SHA1_Final(out, &c); /* 20 bytes of room */
}

int srtp_protect(struct srtp *s, uint8_t *pkt, int len, uint64_t index)
{
	uint8_t d[20];
	srtp_crypt(s, pkt, len - RTP_HEADER, index);
	srtp_tag(s, pkt, len, (uint32_t)(index >> 16), d);
	memcpy(pkt + len, d, SRTP_TAG);
	return len + SRTP_TAG;
}

int srtp_unprotect(struct srtp *s, uint8_t *pkt, int len)
{
	uint8_t d[20];
	uint16_t seq = (uint16_t)(pkt[2] << 8 | pkt[3]);
	uint64_t index;
	if (len < RTP_HEADER + SRTP_TAG)
		return -1;
	len -= SRTP_TAG;
	if (!s->seen) {
		index = seq;
	} else {
		int16_t delta = (int16_t)(seq - (uint16_t)s->highest);
		index = s->highest + (int64_t)delta;
	}
	srtp_tag(s, pkt, len, (uint32_t)(index >> 16), d);
	if (CRYPTO_memcmp(d, pkt + len, SRTP_TAG))
		return -1;
	srtp_crypt(s, pkt, len - RTP_HEADER, index);
	if (!s->seen || index > s->highest)
		s->highest = index;
	s->seen = 1;
	return len;
}

/* RFC 3711 B.3 key derivation vectors, then a protect/unprotect round trip. */
int srtp_selftest(void)
{
	static const uint8_t mk[30] = {0xE1, 0xF9, 0x7A, 0x0D, 0x3E, 0x01, 0x8B, 0xE0, 0xD6, 0x4F, 0xA3, 0x2C, 0x06, 0xDE, 0x41, 0x39,
				       0x0E, 0xC6, 0x75, 0xAD, 0x49, 0x8A, 0xFE, 0xEB, 0xB6, 0x96, 0x0B, 0x3A, 0xAB, 0xE6};
	static const uint8_t ek[16] = {0xC6, 0x1E, 0x7A, 0x93, 0x74, 0x4F, 0x39, 0xEE, 0x10, 0x73, 0x4A, 0xFE, 0x3F, 0xF7, 0xA0, 0x87};
	static const uint8_t es[14] = {0x30, 0xCB, 0xBC, 0x08, 0x86, 0x3D, 0x8C, 0x85, 0xD4, 0x9D, 0xB3, 0x4A, 0x9A, 0xE1};
	static const uint8_t ea[16] = {0xCE, 0xBE, 0x32, 0x1F, 0x6F, 0xF7, 0x71, 0x6B, 0x6F, 0xD4, 0xAB, 0x49, 0xAF, 0x25, 0x6A, 0x15};
	enum { LENGTH = 172 };
	uint8_t out[32], pkt[256] = {0x80, 0, 0x12, 0x34}, ref[256];
	EVP_CIPHER_CTX *m = EVP_CIPHER_CTX_new();
	EVP_EncryptInit_ex(m, EVP_aes_128_ctr(), NULL, mk, NULL);
	kdf(m, mk + 16, 0, out, 16);
	int bad = memcmp(out, ek, 16) != 0;
	kdf(m, mk + 16, 2, out, 14);
	bad |= memcmp(out, es, 14) != 0;
	kdf(m, mk + 16, 1, out, 20);
	bad |= memcmp(out, ea, 16) != 0;
	struct srtp *a = srtp_new(mk), *b = srtp_new(mk);
	memcpy(ref, pkt, sizeof pkt);
	int n = srtp_protect(a, pkt, LENGTH, 0x1234);
	bad |= n != LENGTH + SRTP_TAG || !memcmp(pkt, ref, LENGTH);
	bad |= srtp_unprotect(b, pkt, n) != LENGTH || memcmp(pkt, ref, LENGTH);
	n = srtp_protect(a, pkt, LENGTH, 0x1234);
	pkt[50] ^= 1;
	bad |= srtp_unprotect(b, pkt, n) != -1;
	puts(bad ? "selftest FAILED" : "selftest ok");
	return bad;
}
