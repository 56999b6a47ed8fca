/* options.h - the daemon's options, in one table: the parser and the help text are made from it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* X(field, name, TYPE, minimum, maximum, default, unit, text)
 * SIZE: bytes with a unit, NUMBER: an integer, TEXT: 1 to maximum bytes, FLAG: no value. The default is written as on
 * the command line; empty: there is none, or the daemon works it out (then the text says how). */
#define DAEMON_OPTION_MAP(X)                                                                                     \
    X(pool_bytes, "pool", SIZE, 1ull << 20, 1ull << 50, "", "SIZE",                                              \
      "memory of all sessions together; without it a quarter of the memory that is available at start")          \
    X(dir, "dir", TEXT, 1, 90, "", "DIR",                                                                        \
      "where the sockets are; without it $XDG_RUNTIME_DIR/scissord or /run/scissord")                            \
    X(score_wait_ms, "score-wait", NUMBER, 0, 10000, "50", "MS", "how long a settle waits for its score frames") \
    X(sessions_max, "sessions-max", NUMBER, 1, 65536, "1024", "N", "sessions of all clients together")           \
    X(policy, "policy", TEXT, 1, 15, "pivotal", "NAME", "policy of sessions that name none")                     \
    X(verbose, "verbose", FLAG, 0, 0, "", "", "log sessions that come and go, refusals and evictions, too")      \
    X(help, "help", FLAG, 0, 0, "", "", "print this and exit")                                                   \
    X(version, "version", FLAG, 0, 0, "", "", "print the version and exit")

#define DAEMON_FIELD_SIZE uint64_t
#define DAEMON_FIELD_NUMBER uint64_t
#define DAEMON_FIELD_TEXT const char *
#define DAEMON_FIELD_FLAG bool

struct daemon_options {
#define DAEMON_OPTION_FIELD(field, name, type, min, max, standard, unit, text) DAEMON_FIELD_##type field;
    DAEMON_OPTION_MAP(DAEMON_OPTION_FIELD)
#undef DAEMON_OPTION_FIELD
};

/* Texts point into argv or are static. 0, or EINVAL with a line for people in `why`; *ret is untouched then. pool_bytes
 * is 0 and dir NULL if not given. */
int daemon_options_parse(int argc, char **argv, struct daemon_options *ret, char *why, size_t why_bytes);
void daemon_options_help(FILE *to);

/* "256MiB", "8GiB", "1.5GiB", "100MB", "4096": bytes. 0 or EINVAL. */
int daemon_size_parse(const char *text, uint64_t *ret_bytes);
/* "256 MiB", "1.5 GiB", "100 bytes", with `space` between figure and unit; returns `text`, 32 bytes are enough. */
const char *daemon_size_text(uint64_t bytes, const char *space, char *text, size_t text_bytes);
