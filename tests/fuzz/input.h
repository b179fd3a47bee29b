/* SPDX-License-Identifier: MIT */
/* What the fuzzer gives, taken from the front bit by bit; zeroes when it is used up. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What must hold whatever arrives; a fuzzer takes the abort for a find. */
#define REQUIRE(condition)                                                                 \
	do {                                                                               \
		if (!(condition)) {                                                        \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                           \
		}                                                                          \
	} while (0)

struct input {
	const uint8_t *at;
	size_t left;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An exact copy, so that AddressSanitizer sees the first byte past it; to be freed. */
static inline uint8_t *copy_of(const void *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	REQUIRE(copy);
	if (len)
		memcpy(copy, data, len);
	return copy;
}

static inline void take_bytes(struct input *in, void *out, size_t len)
{
	size_t have = len < in->left ? len : in->left;

	memset(out, 0, len);
	if (have)
		memcpy(out, in->at, have);
	in->at += have;
	in->left -= have;
}

static inline uint8_t take_u8(struct input *in)
{
	uint8_t value;

	take_bytes(in, &value, sizeof(value));
	return value;
}

static inline uint16_t take_u16(struct input *in)
{
	uint8_t value[2];

	take_bytes(in, value, sizeof(value));
	return (uint16_t)(value[0] << 8 | value[1]);
}

#endif
