// SPDX-License-Identifier: MIT
/* Reading of sender and receiver reports on their way through. */
#include "reports.h"

#include "rtcp.h"
#include "rtp.h"

#define SR_LEN 28			/* without report blocks */
#define RR_LEN 8
#define BLOCK_LEN 24
#define NS_PER_S 1000000000ULL
#define EARLY_MAX 655			/* 10 ms: clocks run apart, and packets are timed when they are read */

/* RFC 3550 6.4.1: what has passed since the sender report went out, less what the party has kept it. */
static void measure(struct reports *party, uint32_t lsr, uint32_t dlsr, uint64_t now_ns)
{
	const struct reports_sent *sent;
	uint64_t elapsed;
	unsigned int i;

	for (i = 0; lsr && i < REPORTS_SENT; i++) {
		sent = &party->sent[i];
		if (sent->ntp != lsr || now_ns < sent->at_ns)
			continue;
		elapsed = (now_ns - sent->at_ns) / 1000 * 65536 / 1000000;
		if (elapsed + EARLY_MAX < dlsr || elapsed > (uint64_t)dlsr + REPORTS_RTT_MAX)
			return;
		party->rtt = elapsed > dlsr ? elapsed - dlsr : 0;
		party->round_trips++;
		return;
	}
}

static void read_block(struct reports *party, const uint8_t *block, uint64_t now_ns)
{
	party->count++;
	party->ssrc = rtp_be32(block);
	party->fraction = block[4];
	/* 24 bits with a sign */
	party->lost = (int32_t)(rtp_be32(block + 4) << 8) / 256;
	party->jitter = rtp_be32(block + 12);
	measure(party, rtp_be32(block + 16), rtp_be32(block + 20), now_ns);
}

/* The block about @ssrc; without one, the first. */
static void read_blocks(struct reports *party, const uint8_t *blocks, unsigned int count, uint32_t ssrc,
			uint64_t now_ns)
{
	const uint8_t *block = blocks;
	unsigned int i;

	for (i = 0; i < count; i++)
		if (rtp_be32(blocks + i * BLOCK_LEN) == ssrc)
			block = blocks + i * BLOCK_LEN;
	if (count)
		read_block(party, block, now_ns);
}

static void note_sent(struct reports *other, const uint8_t *report, uint64_t now_ns)
{
	other->sender = rtp_be32(report + 4);
	other->sent[other->next] = (struct reports_sent) { .at_ns = now_ns, .ntp = rtp_be32(report + 10) };
	other->next = (other->next + 1) % REPORTS_SENT;
}

/**
 * reports_read() - read a compound RTCP packet of a party
 * @party: what is known from that party
 * @other: of the party that it goes to, or NULL
 * @data: the packet, in the clear
 * @len: its length
 * @ssrc: whose packets the party gets; 0: that of the last sender report which went to it
 * @now_ns: when it came, by a clock that never goes back
 *
 * One that is malformed is counted, and nothing of it read.
 * Context: any; takes no lock.
 */
void reports_read(struct reports *party, struct reports *other, const uint8_t *data, size_t len, uint32_t ssrc,
		  uint64_t now_ns)
{
	const uint8_t *part = data;

	if (!rtcp_well_formed(data, len)) {
		party->malformed++;
		return;
	}
	ssrc = ssrc ? ssrc : party->sender;
	for (; data + len - part >= 4; part += rtcp_packet_len(part)) {
		if (part[1] == RTCP_TYPE_RR)
			read_blocks(party, part + RR_LEN, part[0] & 31, ssrc, now_ns);
		if (part[1] != RTCP_TYPE_SR)
			continue;
		read_blocks(party, part + SR_LEN, part[0] & 31, ssrc, now_ns);
		if (other)
			note_sent(other, part, now_ns);
	}
}
