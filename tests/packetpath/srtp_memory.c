// SPDX-License-Identifier: MIT
/*
 * What SRTP does with memory: no allocation while packets pass, and no key left in what is freed.
 *
 * Stands between libcrypto and malloc(). Exit status 0 if both hold for every suite.
 */
#define _GNU_SOURCE
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "srtp.h"

#define SECRETS 8
#define SECRET_LEN 12			/* of each; the shortest is a salt */
#define PACKETS 200

struct block {
	size_t len;
	struct block *next, **link;
	_Alignas(16) uint8_t data[];
};

static struct block *blocks;
static uint8_t secrets[SECRETS][SECRET_LEN];
static unsigned int secret_count, allocations, leaks;

static bool is_secret(const struct block *block)
{
	unsigned int i;

	for (i = 0; i < secret_count; i++)
		if (memmem(block->data, block->len, secrets[i], SECRET_LEN))
			return true;
	return false;
}

static unsigned int count_secret_blocks(void)
{
	const struct block *block;
	unsigned int count = 0;

	for (block = blocks; block; block = block->next)
		count += is_secret(block);
	return count;
}

static void *watched_malloc(size_t len, const char *file, int line)
{
	struct block *block = malloc(sizeof(*block) + len);

	(void)file;
	(void)line;
	if (!block)
		return NULL;
	allocations++;
	memset(block->data, 0, len);
	block->len = len;
	block->next = blocks;
	block->link = &blocks;
	if (blocks)
		blocks->link = &block->next;
	blocks = block;
	return block->data;
}

static void watched_free(void *data, const char *file, int line)
{
	struct block *block = data ? (struct block *)((uint8_t *)data - sizeof(*block)) : NULL;

	(void)file;
	(void)line;
	if (!block)
		return;
	leaks += is_secret(block);
	*block->link = block->next;
	if (block->next)
		block->next->link = block->link;
	free(block);
}

static void *watched_realloc(void *old, size_t len, const char *file, int line)
{
	struct block *block = old ? (struct block *)((uint8_t *)old - sizeof(*block)) : NULL;
	void *data = watched_malloc(len, file, line);

	if (data && block)
		memcpy(data, old, block->len < len ? block->len : len);
	watched_free(old, file, line);
	return data;
}

static void remember(const struct srtp_keys *keys)
{
	uint8_t key[SECRETS][32];
	uint32_t label;

	secret_count = 0;
	memcpy(secrets[secret_count++], keys->key, SECRET_LEN);
	memcpy(secrets[secret_count++], keys->salt, SECRET_LEN);
	for (label = SRTP_LABEL_RTP_CIPHER; label <= SRTP_LABEL_RTCP_SALT; label++) {
		srtp_derive(keys, label, key[label], sizeof(key[label]));
		memcpy(secrets[secret_count++], key[label], SECRET_LEN);
	}
}

static bool packets_pass(struct srtp *sender, struct srtp *receiver)
{
	uint8_t packet[172 + SRTP_OVERHEAD_MAX] = { 0 };
	int i, len;

	for (i = 0; i < PACKETS; i++) {
		memset(packet, 0x80, 172);
		packet[2] = (uint8_t)(i >> 8);
		packet[3] = (uint8_t)i;
		packet[8] = (uint8_t)(i % 60);
		len = srtp_protect(sender, packet, 172, sizeof(packet));
		if (len < 0 || (i % 2 ? srtp_verify : srtp_unprotect)(receiver, packet, (uint32_t)len) < 0)
			return false;
		memset(packet, 0x80, 172);
		packet[1] = 200;
		packet[4] = (uint8_t)(i % 60);
		len = srtcp_protect(sender, packet, 172, sizeof(packet));
		packet[40] ^= (uint8_t)(i % 2);
		if (len < 0 || (srtcp_unprotect(receiver, packet, (uint32_t)len) < 0) != i % 2)
			return false;
	}
	return true;
}

static bool check(uint32_t suite)
{
	struct srtp_keys keys = { .suite = suite };
	struct srtp *sender, *receiver;
	unsigned int before, held, i;
	bool good;

	for (i = 0; i < sizeof(keys.key); i++)
		keys.key[i] = (uint8_t)(i * 7 + suite);
	for (i = 0; i < sizeof(keys.salt); i++)
		keys.salt[i] = (uint8_t)(i * 11 + suite);
	leaks = secret_count = 0;
	remember(&keys);
	sender = srtp_open(&keys);
	receiver = srtp_open(&keys);
	held = count_secret_blocks();
	before = allocations;
	good = sender && receiver && packets_pass(sender, receiver);
	if (allocations > before) {
		printf("suite %u: %u allocations by packets\n", suite, allocations - before);
		good = false;
	}
	srtp_close(sender);
	srtp_close(receiver);
	printf("suite %u: %s, %u blocks with keys, %u keys freed, %u left\n", suite, good ? "good" : "BAD", held, leaks,
	       count_secret_blocks());
	return good && held && !leaks && !count_secret_blocks();
}

int main(void)
{
	bool good = true;
	uint32_t suite;

	if (!CRYPTO_set_mem_functions(watched_malloc, watched_realloc, watched_free))
		return 2;
	for (suite = SRTP_NONE + 1; suite < SRTP_SUITES; suite++)
		good = check(suite) && good;
	return good ? 0 : 1;
}
