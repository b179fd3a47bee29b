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
#define KEY 16
#define BLOCK 16

static const struct {
	int salt, tag;
} suites[SRTP_SUITES] = {
	[SRTP_CM] = {14, 10},
	[SRTP_F8] = {14, 10},
	[SRTP_GCM] = {12, 16},
};

struct srtp {
	enum srtp_suite suite;
	EVP_CIPHER_CTX *cipher;
	EVP_CIPHER_CTX *f8_iv;
	SHA_CTX inner, outer;
	uint8_t salt[14];
	uint64_t highest; /* receiver: highest extended sequence seen */
	int seen;
};

int srtp_keysalt_len(enum srtp_suite suite)
{
	return KEY + suites[suite].salt;
}

static EVP_CIPHER_CTX *cipher_new(const EVP_CIPHER *type, const uint8_t *key)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	EVP_EncryptInit_ex(c, type, NULL, key, NULL);
	EVP_CIPHER_CTX_set_padding(c, 0);
	return c;
}

static void kdf(EVP_CIPHER_CTX *c, const uint8_t *salt, int salt_len, uint8_t label, uint8_t *out, int len)
{
	uint8_t iv[BLOCK] = {0}, zero[32] = {0};
	int n;
	memcpy(iv, salt, (size_t)salt_len);
	iv[7] ^= label;
	EVP_EncryptInit_ex(c, NULL, NULL, NULL, iv);
	EVP_EncryptUpdate(c, out, &n, zero, len);
}

static void hmac_key(SHA_CTX *c, const uint8_t *key, uint8_t with)
{
	uint8_t pad[64];
	memset(pad, with, sizeof pad);
	for (int i = 0; i < 20; i++)
		pad[i] ^= key[i];
	SHA1_Init(c);
	SHA1_Update(c, pad, sizeof pad);
}

/* RFC 3711 4.1.2.1: the cipher under the key masked with the salt */
static EVP_CIPHER_CTX *f8_masked(const uint8_t *key, const uint8_t *salt)
{
	uint8_t masked[KEY];
	for (int i = 0; i < KEY; i++)
		masked[i] = key[i] ^ (i < 14 ? salt[i] : 0x55);
	return cipher_new(EVP_aes_128_ecb(), masked);
}

struct srtp *srtp_new(enum srtp_suite suite, const uint8_t *keysalt)
{
	const EVP_CIPHER *types[SRTP_SUITES] = {EVP_aes_128_ctr(), EVP_aes_128_ecb(), EVP_aes_128_gcm()};
	struct srtp *s = calloc(1, sizeof(*s));
	uint8_t ek[KEY], ak[20];
	int salt_len = suites[suite].salt;
	EVP_CIPHER_CTX *m = cipher_new(EVP_aes_128_ctr(), keysalt);
	s->suite = suite;
	kdf(m, keysalt + KEY, salt_len, 0, ek, KEY);
	kdf(m, keysalt + KEY, salt_len, 1, ak, sizeof ak);
	kdf(m, keysalt + KEY, salt_len, 2, s->salt, salt_len);
	EVP_CIPHER_CTX_free(m);
	s->cipher = cipher_new(types[suite], ek);
	if (suite == SRTP_F8)
		s->f8_iv = f8_masked(ek, s->salt);
	hmac_key(&s->inner, ak, 0x36);
	hmac_key(&s->outer, ak, 0x5c);
	return s;
}

static void xor_be(uint8_t *end, uint64_t number, int bytes)
{
	for (; bytes > 0; bytes--, number >>= 8)
		*--end ^= (uint8_t)number;
}

static void cm_crypt(struct srtp *s, uint8_t *pkt, int len, uint64_t index)
{
	uint8_t iv[BLOCK] = {0};
	int n;
	memcpy(iv, s->salt, 14);
	for (int i = 0; i < 4; i++)
		iv[4 + i] ^= pkt[8 + i];
	xor_be(iv + 14, index, 6);
	EVP_EncryptInit_ex(s->cipher, NULL, NULL, NULL, iv);
	EVP_EncryptUpdate(s->cipher, pkt + RTP_HEADER, &n, pkt + RTP_HEADER, len - RTP_HEADER);
}

/* RFC 3711 4.1.2: each block of key stream is made of the one before */
static void f8_crypt(struct srtp *s, uint8_t *pkt, int len, uint64_t index)
{
	uint8_t iv[BLOCK] = {0}, block[BLOCK] = {0};
	int n;
	memcpy(iv + 1, pkt + 1, RTP_HEADER - 1);
	xor_be(iv + 16, index >> 16, 4);
	EVP_EncryptUpdate(s->f8_iv, iv, &n, iv, BLOCK);
	for (int at = RTP_HEADER, j = 0; at < len; at += BLOCK, j++) {
		for (int i = 0; i < BLOCK; i++)
			block[i] ^= iv[i];
		xor_be(block + BLOCK, (uint64_t)j, 4);
		EVP_EncryptUpdate(s->cipher, block, &n, block, BLOCK);
		for (int i = 0; i < BLOCK && at + i < len; i++)
			pkt[at + i] ^= block[i];
	}
}

static void hmac_tag(struct srtp *s, const uint8_t *pkt, int len, uint32_t roc, uint8_t *out)
{
	SHA_CTX c = s->inner;
	uint8_t r[4] = {roc >> 24, roc >> 16, roc >> 8, roc}, d[20];
	SHA1_Update(&c, pkt, (size_t)len);
	SHA1_Update(&c, r, 4);
	SHA1_Final(d, &c);
	c = s->outer;
	SHA1_Update(&c, d, 20);
	SHA1_Final(out, &c); /* 20 bytes of room */
}

/* RFC 7714 8.1: returns 0 if the tag, which follows the payload, is right */
static int gcm_crypt(struct srtp *s, uint8_t *pkt, int len, uint64_t index, int encrypt)
{
	uint8_t iv[12], *tag = pkt + len;
	int n;
	memcpy(iv, s->salt, sizeof iv);
	for (int i = 0; i < 4; i++)
		iv[2 + i] ^= pkt[8 + i];
	xor_be(iv + 12, index, 6);
	EVP_CipherInit_ex(s->cipher, NULL, NULL, NULL, iv, encrypt);
	EVP_CipherUpdate(s->cipher, NULL, &n, pkt, RTP_HEADER);
	EVP_CipherUpdate(s->cipher, pkt + RTP_HEADER, &n, pkt + RTP_HEADER, len - RTP_HEADER);
	if (!encrypt) {
		EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_AEAD_SET_TAG, 16, tag);
		return EVP_CipherFinal_ex(s->cipher, pkt + len, &n) != 1;
	}
	EVP_CipherFinal_ex(s->cipher, pkt + len, &n);
	EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_AEAD_GET_TAG, 16, tag);
	return 0;
}

static void crypt_payload(struct srtp *s, uint8_t *pkt, int len, uint64_t index)
{
	if (s->suite == SRTP_CM)
		cm_crypt(s, pkt, len, index);
	else
		f8_crypt(s, pkt, len, index);
}

int srtp_protect(struct srtp *s, uint8_t *pkt, int len, uint64_t index)
{
	uint8_t d[20];
	if (s->suite == SRTP_GCM) {
		gcm_crypt(s, pkt, len, index, 1);
	} else {
		crypt_payload(s, pkt, len, index);
		hmac_tag(s, pkt, len, (uint32_t)(index >> 16), d);
		memcpy(pkt + len, d, (size_t)suites[s->suite].tag);
	}
	return len + suites[s->suite].tag;
}

static int open_packet(struct srtp *s, uint8_t *pkt, int len, uint64_t index)
{
	uint8_t d[20];
	if (s->suite == SRTP_GCM)
		return gcm_crypt(s, pkt, len, index, 0);
	hmac_tag(s, pkt, len, (uint32_t)(index >> 16), d);
	if (CRYPTO_memcmp(d, pkt + len, (size_t)suites[s->suite].tag))
		return -1;
	crypt_payload(s, pkt, len, index);
	return 0;
}

int srtp_unprotect(struct srtp *s, uint8_t *pkt, int len)
{
	uint16_t seq = (uint16_t)(pkt[2] << 8 | pkt[3]);
	uint64_t index;
	len -= suites[s->suite].tag;
	if (len < RTP_HEADER)
		return -1;
	if (!s->seen) {
		index = seq;
	} else {
		int16_t delta = (int16_t)(seq - (uint16_t)s->highest);
		index = s->highest + (uint64_t)(int64_t)delta;
	}
	if (open_packet(s, pkt, len, index))
		return -1;
	if (!s->seen || index > s->highest)
		s->highest = index;
	s->seen = 1;
	return len;
}

static int round_trip(enum srtp_suite suite, const uint8_t *keysalt)
{
	enum { LENGTH = 172 };
	uint8_t pkt[256] = {0x80, 0, 0x12, 0x34}, ref[256];
	struct srtp *a = srtp_new(suite, keysalt), *b = srtp_new(suite, keysalt);
	int n, bad;
	memcpy(ref, pkt, sizeof pkt);
	n = srtp_protect(a, pkt, LENGTH, 0x1234);
	bad = n != LENGTH + suites[suite].tag || !memcmp(pkt, ref, LENGTH);
	bad |= srtp_unprotect(b, pkt, n) != LENGTH || memcmp(pkt, ref, LENGTH);
	n = srtp_protect(a, pkt, LENGTH, 0x1234);
	pkt[50] ^= 1;
	bad |= srtp_unprotect(b, pkt, n) != -1;
	return bad;
}

/* RFC 3711 B.3 key derivation and B.1 AES-f8, RFC 7714 16.1.1 AES-GCM, then protect and unprotect with each suite. */
int srtp_selftest(void)
{
	static const uint8_t mk[30] = {0xE1, 0xF9, 0x7A, 0x0D, 0x3E, 0x01, 0x8B, 0xE0, 0xD6, 0x4F, 0xA3, 0x2C, 0x06, 0xDE, 0x41, 0x39,
				       0x0E, 0xC6, 0x75, 0xAD, 0x49, 0x8A, 0xFE, 0xEB, 0xB6, 0x96, 0x0B, 0x3A, 0xAB, 0xE6};
	static const uint8_t ek[16] = {0xC6, 0x1E, 0x7A, 0x93, 0x74, 0x4F, 0x39, 0xEE, 0x10, 0x73, 0x4A, 0xFE, 0x3F, 0xF7, 0xA0, 0x87};
	static const uint8_t es[14] = {0x30, 0xCB, 0xBC, 0x08, 0x86, 0x3D, 0x8C, 0x85, 0xD4, 0x9D, 0xB3, 0x4A, 0x9A, 0xE1};
	static const uint8_t ea[16] = {0xCE, 0xBE, 0x32, 0x1F, 0x6F, 0xF7, 0x71, 0x6B, 0x6F, 0xD4, 0xAB, 0x49, 0xAF, 0x25, 0x6A, 0x15};
	static const uint8_t f8_key[16] = {0x23, 0x48, 0x29, 0x00, 0x84, 0x67, 0xbe, 0x18, 0x6c, 0x3d, 0xe1, 0x4a, 0xae, 0x72, 0xd6, 0x2c};
	static const uint8_t f8_salt[14] = {0x32, 0xf2, 0x87, 0x0d, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55};
	static const uint8_t f8_out[16] = {0x01, 0x9c, 0xe7, 0xa2, 0x6e, 0x78, 0x54, 0x01, 0x4a, 0x63, 0x66, 0xaa, 0x95, 0xd4, 0xee, 0xfd};
	static const uint8_t gcm_salt[12] = {0x51, 0x75, 0x69, 0x64, 0x20, 0x70, 0x72, 0x6f, 0x20, 0x71, 0x75, 0x6f};
	static const uint8_t gcm_out[24] = {0xf2, 0x4d, 0xe3, 0xa3, 0xfb, 0x34, 0xde, 0x6c, 0xac, 0xba, 0x86, 0x1c,
					    0x9d, 0x7e, 0x4b, 0xca, 0xbe, 0x63, 0x3b, 0xd5, 0x0d, 0x29, 0x4e, 0x6f};
	static const uint8_t gcm_tag[16] = {0x89, 0x9d, 0x7f, 0x27, 0xbe, 0xb1, 0x6a, 0x91, 0x52, 0xcf, 0x76, 0x5e, 0xe4, 0x39, 0x0c, 0xce};
	uint8_t out[32], key[16];
	uint8_t f8[256] = {0x80, 0x6e, 0x5c, 0xba, 0x50, 0x68, 0x1d, 0xe5, 0x5c, 0x62, 0x15, 0x99};
	uint8_t gcm[256] = {0x80, 0x40, 0xf1, 0x7b, 0x80, 0x41, 0xf8, 0xd3, 0x55, 0x01, 0xa0, 0xb2};
	struct srtp s = {.suite = SRTP_F8};
	EVP_CIPHER_CTX *m = cipher_new(EVP_aes_128_ctr(), mk);
	kdf(m, mk + 16, 14, 0, out, 16);
	int bad = memcmp(out, ek, 16) != 0;
	kdf(m, mk + 16, 14, 2, out, 14);
	bad |= memcmp(out, es, 14) != 0;
	kdf(m, mk + 16, 14, 1, out, 20);
	bad |= memcmp(out, ea, 16) != 0;
	s.cipher = cipher_new(EVP_aes_128_ecb(), f8_key);
	s.f8_iv = f8_masked(f8_key, f8_salt);
	memcpy(f8 + 12, "pseudorandomness is the next best thing", 39);
	f8_crypt(&s, f8, 51, (uint64_t)0xd462564a << 16);
	bad |= memcmp(f8 + 12, f8_out, 16) != 0;
	for (int i = 0; i < 16; i++)
		key[i] = (uint8_t)i;
	s = (struct srtp){.suite = SRTP_GCM, .cipher = cipher_new(EVP_aes_128_gcm(), key)};
	memcpy(s.salt, gcm_salt, 12);
	memcpy(gcm + 12, "Gallia est omnis divisa in partes tres", 38);
	bad |= srtp_protect(&s, gcm, 50, 0xf17b) != 66;
	bad |= memcmp(gcm + 12, gcm_out, 24) != 0 || memcmp(gcm + 50, gcm_tag, 16) != 0;
	for (enum srtp_suite suite = 0; suite < SRTP_SUITES; suite++)
		bad |= round_trip(suite, mk);
	puts(bad ? "selftest FAILED" : "selftest ok");
	return bad;
}
