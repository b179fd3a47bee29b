// SPDX-License-Identifier: MIT
/* Fuzz target: one datagram through the RTP and RTCP arithmetic and the removal of feedback. */
#include "rtp.h"
#include "input.h"
#include "rtcp.h"

static void measure(const uint8_t *data, uint32_t len)
{
	uint32_t header = rtp_header_len(data, len);
	int rtcp = rtcp_plausible(data, len);

	REQUIRE(header == 0 || (header >= RTP_HEADER_MIN && header <= len));
	REQUIRE(!header || !rtcp);
	if (header || rtcp)
		REQUIRE(rtp_demux(data[0]) == RTP_DEMUX_RTP);
}

static void strip(const uint8_t *data, size_t len)
{
	uint8_t *packet = copy_of(data, len), *again;
	size_t once = rtcp_strip_feedback(packet, len), twice;

	REQUIRE(once <= len);
	REQUIRE(once != len || !memcmp(packet, data, len));
	again = copy_of(packet, once);
	twice = rtcp_strip_feedback(again, once);
	REQUIRE(twice == once && !memcmp(again, packet, once));
	free(again);
	free(packet);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	measure(data, (uint32_t)size);
	strip(data, size);
	return 0;
}
