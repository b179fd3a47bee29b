// SPDX-License-Identifier: GPL-2.0
/*
 * SRTP (RFC 3711) over the kernel's crypto API: the session keys of one direction,
 * and how far its SSRCs have come.
 *
 * The daemon's packet path does the same over libcrypto (srtp.c there), and a
 * packet must leave both byte for byte equal. What is arithmetic is in srtp_common.h.
 */
#include <asm/simd.h>
#include <crypto/algapi.h>
#include <crypto/hash.h>
#include <crypto/internal/simd.h>
#include <crypto/skcipher.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "module.h"

#define DIGEST_LEN 20
#define ROLLOVER 0x10000

static bool has_cipher(const struct mp_context *context)
{
	return context->keys.cipher != MEDIAPROXY_CIPHER_NULL;
}

static bool has_auth(const struct mp_context *context)
{
	return context->keys.auth != MEDIAPROXY_AUTH_NULL;
}

/**
 * mp_same_keys() - do two directions protect a packet in the same way?
 * @one: keys, parameters and MKI of one
 * @other: of the other; SSRCs do not matter
 */
bool mp_same_keys(const struct mediaproxy_srtp *one, const struct mediaproxy_srtp *other)
{
	return !memcmp(one, other, offsetof(struct mediaproxy_srtp, ssrc_count)) &&
	       !memcmp(one->key, other->key,
		       offsetof(struct mediaproxy_srtp, ssrc) - offsetof(struct mediaproxy_srtp, key));
}

static void close_ctr(struct skcipher_request *request)
{
	struct crypto_skcipher *cipher;

	if (!request)
		return;
	cipher = crypto_skcipher_reqtfm(request);
	skcipher_request_free(request);
	crypto_free_skcipher(cipher);
}

static void context_free(struct mp_context *context)
{
	close_ctr(context->ctr);
	close_ctr(context->simd_ctr);
	if (context->hmac)
		crypto_free_shash(context->hmac->tfm);
	kfree_sensitive(context->hmac);
	kfree_sensitive(context->f8);
	kfree_sensitive(context);
}

/**
 * mp_context_put() - let go of a context
 * @context: the context, or NULL
 *
 * Context: process, when no packet of the caller's target is on its way.
 */
void mp_context_put(struct mp_context *context)
{
	if (context && refcount_dec_and_test(&context->users))
		context_free(context);
}

static int open_cipher(struct skcipher_request **out, const char *name, u32 type, const struct mediaproxy_srtp *keys)
{
	struct crypto_skcipher *cipher = crypto_alloc_skcipher(name, type, type | CRYPTO_ALG_ASYNC);
	int err;

	if (IS_ERR(cipher))
		return PTR_ERR(cipher);
	err = crypto_skcipher_setkey(cipher, keys->key, keys->key_len);
	if (!err) {
		*out = skcipher_request_alloc(cipher, GFP_KERNEL_ACCOUNT);
		err = *out ? 0 : -ENOMEM;
	}
	if (err)
		crypto_free_skcipher(cipher);
	else
		skcipher_request_set_callback(*out, 0, NULL, NULL);
	return err;
}

/*
 * Where the driver that uses the processor's own instructions is wrapped as an asynchronous
 * one, what is synchronous calls it block by block, at three times the cost. The driver
 * itself may be called while crypto_simd_usable(), which is all that the wrapper asks.
 */
static int open_ctr(struct mp_context *context)
{
	int err = open_cipher(&context->simd_ctr, "__ctr(aes)", CRYPTO_ALG_INTERNAL, &context->keys);

	if (err && err != -ENOENT)
		return err;
	return open_cipher(&context->ctr, "ctr(aes)", 0, &context->keys);
}

static int open_f8(struct mp_context *context)
{
	u8 masked[AES_KEYSIZE_128];
	int err;

	context->f8 = kmalloc_array(2, sizeof(*context->f8), GFP_KERNEL_ACCOUNT);
	if (!context->f8)
		return -ENOMEM;
	rtp_f8_mask(masked, context->keys.key, context->keys.salt);
	err = compat_aes_prepare(&context->f8[0], context->keys.key, sizeof(masked)) ?:
	      compat_aes_prepare(&context->f8[1], masked, sizeof(masked));
	memzero_explicit(masked, sizeof(masked));
	return err;
}

static int open_hmac(struct mp_context *context)
{
	struct crypto_shash *hmac = crypto_alloc_shash("hmac(sha1)", 0, 0);

	if (IS_ERR(hmac))
		return PTR_ERR(hmac);
	context->hmac = kmalloc(sizeof(*context->hmac) + crypto_shash_descsize(hmac), GFP_KERNEL_ACCOUNT);
	if (!context->hmac) {
		crypto_free_shash(hmac);
		return -ENOMEM;
	}
	context->hmac->tfm = hmac;
	return crypto_shash_setkey(hmac, context->keys.auth_key, MEDIAPROXY_AUTH_KEY_LEN);
}

static int open_crypto(struct mp_context *context)
{
	int err = 0;

	if (context->keys.cipher == MEDIAPROXY_CIPHER_AES_CM)
		err = open_ctr(context);
	else if (context->keys.cipher == MEDIAPROXY_CIPHER_AES_F8)
		err = open_f8(context);
	if (!err && has_auth(context))
		err = open_hmac(context);
	return err;
}

/**
 * mp_context_open() - make a context, without SSRCs yet
 * @out: the context, for mp_context_put(); NULL if @keys mean no SRTP
 * @keys: what was checked before
 *
 * Context: process. Return: 0 or a negative errno.
 */
int mp_context_open(struct mp_context **out, const struct mediaproxy_srtp *keys)
{
	struct mp_context *context;
	int err;

	*out = NULL;
	if (keys->cipher == MEDIAPROXY_CIPHER_NULL && keys->auth == MEDIAPROXY_AUTH_NULL)
		return 0;
	context = kzalloc(sizeof(*context), GFP_KERNEL_ACCOUNT);
	if (!context)
		return -ENOMEM;
	refcount_set(&context->users, 1);
	spin_lock_init(&context->lock);
	sg_init_table(&context->sg, 1);
	memcpy(&context->keys, keys, offsetof(struct mediaproxy_srtp, ssrc));
	context->keys.ssrc_count = 0;
	context->trailer = keys->mki_len + keys->tag_len;
	err = open_crypto(context);
	if (err) {
		context_free(context);
		return err;
	}
	*out = context;
	return 0;
}

/**
 * mp_context_find() - where a context keeps an SSRC
 * @context: context
 * @ssrc: whom to find
 *
 * Context: any. Return: its place, which stays so; -1 if it is not listed.
 */
int mp_context_find(const struct mp_context *context, u32 ssrc)
{
	/* pairs with the release of mp_context_merge(): what it counts is there to be read */
	u32 i, count = smp_load_acquire(&context->source_count);

	for (i = 0; i < count; i++)
		if (context->source[i].ssrc == ssrc)
			return i;
	return -1;
}

/**
 * mp_context_merge() - take over SSRCs and how far they have come
 * @context: context, perhaps in use by packets
 * @keys: whose SSRCs these are
 * @apply: else only say whether they have room
 *
 * Context: process, with the table's lock, or nobody else knows the context yet.
 * Return: 0 or -ENOSPC.
 */
int mp_context_merge(struct mp_context *context, const struct mediaproxy_srtp *keys, bool apply)
{
	u32 i, count = context->source_count;
	int at;

	for (i = 0; i < keys->ssrc_count; i++) {
		at = mp_context_find(context, keys->ssrc[i].ssrc);
		if (at < 0)
			at = count++;
		if (at >= MEDIAPROXY_SSRCS)
			return -ENOSPC;
		if (!apply)
			continue;
		spin_lock_bh(&context->lock);
		context->source[at].ssrc = keys->ssrc[i].ssrc;
		rtp_window_merge(&context->source[at].window, &keys->ssrc[i].window);
		spin_unlock_bh(&context->lock);
		/* pairs with the acquire of mp_context_find(), which takes no lock */
		smp_store_release(&context->source_count, count);
	}
	return 0;
}

/**
 * mp_context_progress() - how far each SSRC has come
 * @context: context, or NULL
 * @out: to fill, zeroed
 *
 * Context: process.
 */
void mp_context_progress(struct mp_context *context, struct mediaproxy_progress *out)
{
	u32 i;

	if (!context)
		return;
	spin_lock_bh(&context->lock);
	out->ssrc_count = context->source_count;
	for (i = 0; i < out->ssrc_count; i++) {
		out->ssrc[i].ssrc = context->source[i].ssrc;
		out->ssrc[i].window = context->source[i].window;
	}
	spin_unlock_bh(&context->lock);
}

/* The rollover counter is hashed with the packet: it lies in the MP_ROOM behind it meanwhile. */
static int hmac(struct mp_context *context, u8 *data, u32 len, u64 index, u8 *digest)
{
	u32 kept = get_unaligned((u32 *)(data + len));
	int err;

	put_unaligned_be32(index >> 16, data + len);
	err = crypto_shash_digest(context->hmac, data, len + MP_ROOM, digest);
	put_unaligned(kept, (u32 *)(data + len));
	return err;
}

static int crypt_cm(struct mp_context *context, u8 *payload, u32 len, u8 *iv)
{
	struct skcipher_request *request = context->ctr;

	if (context->simd_ctr && crypto_simd_usable())
		request = context->simd_ctr;
	sg_set_buf(&context->sg, payload, len);
	skcipher_request_set_crypt(request, &context->sg, &context->sg, len, iv);
	return crypto_skcipher_encrypt(request);
}

static void f8_block(void *key, u8 *io)
{
	aes_encrypt((const struct compat_aes_key *)key, io, io);
}

static int crypt_payload(struct mp_context *context, u8 *data, u32 len, u32 clear, u64 index)
{
	u8 iv[AES_BLOCK_SIZE];

	if (!has_cipher(context) || len == clear)
		return 0;
	if (context->keys.cipher == MEDIAPROXY_CIPHER_AES_CM) {
		rtp_cm_iv(iv, context->keys.salt, rtp_be32(data + 8), index);
		return crypt_cm(context, data + clear, len - clear, iv);
	}
	rtp_f8_iv(iv, data, index >> 16);
	aes_encrypt(&context->f8[1], iv, iv);
	rtp_f8(data + clear, len - clear, iv, f8_block, &context->f8[0]);
	return 0;
}

/* Which of the two that it may be is the packet's index: see candidates() in the daemon's srtp.c. */
static int authenticate(struct mp_context *context, const struct rtp_window *window, u8 *data, u32 len, u64 *index)
{
	const u8 *tag = data + len + context->keys.mki_len;
	int refusal = MP_DROP(MEDIAPROXY_DROP_REPLAY);
	u8 digest[DIGEST_LEN];
	u64 end = *index + ROLLOVER;

	for (; *index <= end && *index < RTP_INDEX_END; *index += ROLLOVER) {
		if (!rtp_window_fresh(window, *index))
			continue;
		if (*index < end)
			refusal = MP_DROP(MEDIAPROXY_DROP_AUTH);
		if (hmac(context, data, len, *index, digest))
			return MP_DROP(MEDIAPROXY_DROP_CRYPTO);
		if (!crypto_memneq(digest, tag, context->keys.tag_len))
			return 0;
	}
	return refusal;
}

static int accept(struct mp_context *context, struct rtp_window *window, struct mp_rtp *rtp)
{
	int result = 0;

	rtp->index = rtp_index(window->next, rtp_be16(rtp->data + 2));
	if (rtp->index >= RTP_INDEX_END)
		return MP_DROP(MEDIAPROXY_DROP_EXHAUSTED);
	if (has_auth(context))
		result = authenticate(context, window, rtp->data, rtp->len, &rtp->index);
	if (!result)
		rtp_window_pass(window, rtp->index);
	return result;
}

/**
 * mp_unprotect() - make an SRTP packet an RTP packet
 * @context: of what arrives
 * @source: of mp_context_find()
 * @rtp: the packet, which loses MKI and tag, with MP_ROOM bytes behind it
 * @keep: leave it as it is, and only say whether it is authentic
 *
 * Context: softirq. Return: 0 or MP_DROP().
 */
int mp_unprotect(struct mp_context *context, int source, struct mp_rtp *rtp, bool keep)
{
	int result;

	if (rtp->len < rtp->clear + context->trailer)
		return MP_DROP(MEDIAPROXY_DROP_AUTH);
	rtp->len -= context->trailer;
	if (memcmp(rtp->data + rtp->len, context->keys.mki, context->keys.mki_len))
		return MP_DROP(MEDIAPROXY_DROP_AUTH);
	spin_lock(&context->lock);
	result = accept(context, &context->source[source].window, rtp);
	if (!result && !keep && crypt_payload(context, rtp->data, rtp->len, rtp->clear, rtp->index))
		result = MP_DROP(MEDIAPROXY_DROP_CRYPTO);
	spin_unlock(&context->lock);
	return result;
}

static int seal(struct mp_context *context, struct rtp_window *window, struct mp_rtp *rtp)
{
	u8 *end = rtp->data + rtp->len;
	u8 digest[DIGEST_LEN];

	rtp->index = rtp_index(window->next, rtp_be16(rtp->data + 2));
	if (rtp->index >= RTP_INDEX_END)
		return MP_DROP(MEDIAPROXY_DROP_EXHAUSTED);
	if (!rtp_window_fresh(window, rtp->index))
		return MP_DROP(MEDIAPROXY_DROP_REPLAY);
	rtp_window_pass(window, rtp->index);
	if (crypt_payload(context, rtp->data, rtp->len, rtp->clear, rtp->index) ||
	    (has_auth(context) && hmac(context, rtp->data, rtp->len, rtp->index, digest)))
		return MP_DROP(MEDIAPROXY_DROP_CRYPTO);
	memcpy(end, context->keys.mki, context->keys.mki_len);
	memcpy(end + context->keys.mki_len, digest, context->keys.tag_len);
	rtp->len += context->trailer;
	return 0;
}

/**
 * mp_protect() - make an RTP packet an SRTP packet
 * @context: of what is sent
 * @source: of mp_context_find()
 * @rtp: the packet, with room for MKI and tag behind it, and for MP_ROOM
 *
 * Context: softirq. Return: 0 or MP_DROP().
 */
int mp_protect(struct mp_context *context, int source, struct mp_rtp *rtp)
{
	int result;

	spin_lock(&context->lock);
	result = seal(context, &context->source[source].window, rtp);
	spin_unlock(&context->lock);
	return result;
}

/**
 * mp_follow() - count as sent what is passed on as it came
 * @context: of what is sent
 * @source: of mp_context_find()
 * @index: of a packet that the direction with the same keys has found authentic
 *
 * Context: softirq.
 */
void mp_follow(struct mp_context *context, int source, u64 index)
{
	spin_lock(&context->lock);
	rtp_window_pass(&context->source[source].window, index);
	spin_unlock(&context->lock);
}
