/* config.h - the configuration file of scissord: lines "name = value", the names being those of the option table. */
#pragma once

#include <stddef.h>

#include "broker/broker.h"
#include "daemon/options.h"

/* What the option reclaim says: "attention" or "lru". EINVAL. */
int daemon_config_reclaim(const char *rule, enum broker_reclaim *ret);

/* Reads the file that options->config names, or DAEMON_CONFIG_FILE if it names none and that exists; then
 * options->config is the one that was read, or empty. What the command line gave stays above it. 0, or EINVAL with
 * "FILE:LINE: what was expected" (or why the file cannot be read) in `why`; *options may then be half filled in. */
int daemon_config_read(struct daemon_options *options, char *why, size_t why_bytes);

/* Defaults, file and command line together, checked as far as can be without starting: what main() and a reload do. 0,
 * or EINVAL with a line for people in `why`; *ret is untouched then. With --help and the like no file is read. */
int daemon_config_load(int argc, char **argv, struct daemon_options *ret, char *why, size_t why_bytes);
