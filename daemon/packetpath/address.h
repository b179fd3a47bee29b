/* SPDX-License-Identifier: MIT */
/* What can be said of a transport address without knowing whose it is. */
#ifndef RTPENGINE_ADDRESS_H
#define RTPENGINE_ADDRESS_H

#include <stdbool.h>
#include <string.h>

#include "packetpath.h"

static inline bool same_address(const struct pp_address *a, const struct pp_address *b)
{
	return a->family == b->family && !memcmp(a->address, b->address, a->family == 4 ? 4 : 16);
}

static inline bool same_endpoint(const struct pp_address *a, const struct pp_address *b)
{
	return a->port == b->port && same_address(a, b);
}

/* Null, multicast and broadcast addresses and port 0 are nobody's to send from. */
static inline bool is_unicast(const struct pp_address *source)
{
	static const uint8_t null[16], broadcast[4] = { 255, 255, 255, 255 };
	const uint8_t *address = source->address;

	if (!source->port)
		return false;
	if (source->family == 4)
		return memcmp(address, null, 4) && memcmp(address, broadcast, 4) && address[0] >> 4 != 14;
	return memcmp(address, null, 16) && address[0] != 255;
}

#endif
