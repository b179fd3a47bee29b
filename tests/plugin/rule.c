// SPDX-License-Identifier: GPL-2.0-only
/*
 * What iptables does with a rule before and after the kernel, without a kernel:
 * read the options of -j MEDIAPROXY with the extension's table, then have it
 * write them out.
 *
 * usage: rule 4|6 OPTION...
 * Prints three lines: as iptables-save does, as iptables -L does, the data of the rule in hex.
 */
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xtables.h>

static void __attribute__((noreturn, format(printf, 2, 3)))
refuse(enum xtables_exittype status, const char *message, ...)
{
	va_list args;

	va_start(args, message);
	vfprintf(stderr, message, args);
	va_end(args);
	exit(status);
}

/* Stands in for asking the kernel which revisions it knows. */
static int every_revision(const char *name, uint8_t revision, int option)
{
	return 1;
}

static struct option no_options[] = { { 0 } };
static struct xtables_globals globals = {
	.program_name = "rule",
	.program_version = XTABLES_VERSION,
	.orig_opts = no_options,
	.opts = no_options,
	.exit_err = refuse,
	.compat_rev = every_revision,
};

static void read_options(struct xtables_target *target, int argc, char **argv)
{
	bool invert = false;
	int c;

	target->t = calloc(1, XT_ALIGN(sizeof(*target->t)) + target->size);
	globals.opts = xtables_options_xfrm(no_options, NULL, target->x6_options, &target->option_offset);
	opterr = 0;
	/* A first '-' hands over what is no option: "!" negates the one that follows. */
	while ((c = getopt_long(argc, argv, "-", globals.opts, NULL)) != -1) {
		if (c == 1 && !strcmp(optarg, "!")) {
			invert = true;
			continue;
		}
		if (c == 1 || c == '?' || c == ':')
			refuse(PARAMETER_PROBLEM, "%s: unknown option, or argument missing\n", argv[optind - 1]);
		xtables_option_tpcall(c, argv, invert, target, NULL);
		invert = false;
	}
	xtables_option_tfcall(target);
}

int main(int argc, char **argv)
{
	struct xtables_target *target;
	unsigned int i;

	xtables_init_all(&globals, argc > 1 && argv[1][0] == '6' ? NFPROTO_IPV6 : NFPROTO_IPV4);
	target = xtables_find_target("MEDIAPROXY", XTF_LOAD_MUST_SUCCEED);
	read_options(target, argc - 1, argv + 1);
	target->save(NULL, target->t);
	putchar('\n');
	target->print(NULL, target->t, 1);
	putchar('\n');
	for (i = 0; i < target->size; i++)
		printf("%02x", target->t->data[i]);
	putchar('\n');
	return 0;
}
