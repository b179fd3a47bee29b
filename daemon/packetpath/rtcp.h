/* SPDX-License-Identifier: MIT */
/* What RTCP packets are made of, and what is done to them; read by cffi too (see packetpath.h for the subset). */
#ifndef RTPENGINE_RTCP_H
#define RTPENGINE_RTCP_H

#include <stddef.h>
#include <stdint.h>

int rtcp_well_formed(const uint8_t *data, size_t len);
size_t rtcp_packet_len(const uint8_t *data);
size_t rtcp_strip_feedback(uint8_t *data, size_t len);

#endif
