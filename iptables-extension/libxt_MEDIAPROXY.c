// SPDX-License-Identifier: GPL-2.0-only
/* Target MEDIAPROXY for iptables and ip6tables: what a rule says, and how it is printed. */
#include <stddef.h>
#include <stdio.h>
#include <xtables.h>

#include "xt_MEDIAPROXY.h"

#ifndef MEDIAPROXY_VERSION
#define MEDIAPROXY_VERSION "undefined"
#endif

static const struct xt_option_entry mediaproxy_options[] = {
	{ .name = "id", .id = 0, .type = XTTYPE_UINT32, .flags = XTOPT_MAND | XTOPT_PUT,
	  .min = 0, .max = MEDIAPROXY_TABLES - 1, XTOPT_POINTER(struct xt_mediaproxy_info, id) },
	XTOPT_TABLEEND,
};

static void mediaproxy_help(void)
{
	printf("MEDIAPROXY target options (version %s):\n"
	       "    --id number    forward the packets of calls in this table of the kernel, 0 to %d\n",
	       MEDIAPROXY_VERSION, MEDIAPROXY_TABLES - 1);
}

static void mediaproxy_print(const void *ip, const struct xt_entry_target *target, int numeric)
{
	const struct xt_mediaproxy_info *info = (const void *)target->data;

	(void)ip;
	(void)numeric;
	printf(" MEDIAPROXY id:%u", info->id);
}

static void mediaproxy_save(const void *ip, const struct xt_entry_target *target)
{
	const struct xt_mediaproxy_info *info = (const void *)target->data;

	(void)ip;
	printf(" --id %u", info->id);
}

/* NFPROTO_UNSPEC: one registration serves both families. */
static struct xtables_target mediaproxy_target = {
	.family = NFPROTO_UNSPEC,
	.name = "MEDIAPROXY",
	.version = XTABLES_VERSION,
	.revision = 0,
	.size = XT_ALIGN(sizeof(struct xt_mediaproxy_info)),
	.userspacesize = XT_ALIGN(sizeof(struct xt_mediaproxy_info)),
	.help = mediaproxy_help,
	.print = mediaproxy_print,
	.save = mediaproxy_save,
	.x6_parse = xtables_option_parse,
	.x6_options = mediaproxy_options,
};

/* A name of its own: the C start-up files have _init already. */
static void __attribute__((constructor)) mediaproxy_register(void)
{
	xtables_register_target(&mediaproxy_target);
}
