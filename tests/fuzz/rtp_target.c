// SPDX-License-Identifier: MIT
/* Fuzz target: one datagram through the RTP and RTCP arithmetic, and what reads and changes RTCP. */
#include "rtp_quality.h"
#include "input.h"
#include "reports.h"
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

/* One party's reports, and then as if the other had sent the same. */
static void report(const uint8_t *data, size_t len)
{
	struct reports one = { 0 }, other = { 0 };
	uint8_t *packet = copy_of(data, len);

	reports_read(&one, &other, packet, len, 0, 1);
	reports_read(&other, &one, packet, len, 1, 1000000000);
	REQUIRE(one.malformed <= 1 && one.malformed == other.malformed);
	REQUIRE(!one.malformed || (!one.count && !one.sender && !other.count && !other.sender));
	REQUIRE(one.rtt <= REPORTS_RTT_MAX && other.rtt <= REPORTS_RTT_MAX);
	free(packet);
}

/* The same bytes as headers one after the other, of one stream. */
static void rate(const uint8_t *data, size_t len)
{
	static const uint32_t clocks[RTP_CLOCKS] = { 96U << 24 | 48000 };
	struct rtp_quality quality = { 0 };
	uint64_t packets = 0;

	for (; len >= RTP_HEADER_MIN; data += 4, len -= 4) {
		rtp_quality_count(&quality, clocks, data, 20000000 * packets++);
		REQUIRE(quality.totals.lost < rtp_quality_expected(&quality));
		REQUIRE(quality.totals.duplicates + quality.totals.reordered + quality.totals.resets < packets);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	measure(data, (uint32_t)size);
	strip(data, size);
	report(data, size);
	rate(data, size);
	return 0;
}
