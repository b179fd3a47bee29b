/* SPDX-License-Identifier: MIT */
/* Transforms of RTCP packets; read by cffi too (see packetpath.h for the subset). */
#ifndef RTPENGINE_RTCP_H
#define RTPENGINE_RTCP_H

#include <stddef.h>
#include <stdint.h>

size_t rtcp_strip_feedback(uint8_t *data, size_t len);

#endif
