/* options.h - the daemon's options, in one table: command line, configuration file, --help, --check and the option
 * sections of the manual pages are made from it. The file is read in config.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define DAEMON_CONFIG_FILE "/etc/scissord.conf"

/* X(field, name, TYPE, SCOPE, minimum, maximum, default, unit, text)
 * SIZE: bytes with a unit, NUMBER: an integer, TEXT: minimum to maximum bytes, FLAG: no value; in a file yes or no. The
 * default is written as on the command line; empty: there is none, or the daemon works it out (then the text says how).
 * LIVE: may stand in a file and takes effect at a reload; START: may stand in a file, takes effect at a start; LINE: on
 * the command line only; HIDDEN: the same, and for the build alone. */
#define DAEMON_OPTION_MAP(X)                                                                                         \
    X(pool_bytes, "pool", SIZE, START, 1ull << 20, 1ull << 50, "", "SIZE",                                           \
      "memory of all sessions together; without it a quarter of the memory that is available at start, or that the " \
      "GPU has")                                                                                                     \
    X(device, "device", TEXT, START, 1, 63, "host", "DEVICE",                                                        \
      "whose memory the sessions have: host, or a GPU as cuda, cuda:N or cuda:GPU-... (its UUID, or the beginning "  \
      "of it)")                                                                                                      \
    X(dir, "dir", TEXT, START, 1, 90, "", "DIR",                                                                     \
      "where the sockets are; without it $XDG_RUNTIME_DIR/scissord or /run/scissord")                                \
    X(score_wait_ms, "score-wait", NUMBER, LIVE, 0, 10000, "200", "MS",                                              \
      "how long a settle waits for its score frames")                                                                \
    X(sessions_max, "sessions-max", NUMBER, LIVE, 1, 65536, "1024", "N", "sessions of all clients together")         \
    X(client_sessions_max, "client-sessions-max", NUMBER, LIVE, 1, 65536, "256", "N", "sessions of one client")      \
    X(policy, "policy", TEXT, LIVE, 1, 15, "pivotal", "NAME", "policy of sessions that name none")                   \
    X(reclaim, "reclaim", TEXT, LIVE, 1, 15, "attention", "RULE",                                                    \
      "whose lent memory comes back first: attention, of the session that loses least of its attention by it; "      \
      "lru, of the one that was used longest ago")                                                                   \
    X(orphan_wait_s, "orphan-wait", NUMBER, LIVE, 1, 86400, "60", "S",                                               \
      "how long a session waits for its client after a restart, once the client's process has come back")            \
    X(descriptor_store, "descriptor-store", NUMBER, START, 0, 65536, "0", "N",                                       \
      "descriptors that the service manager keeps for the daemon's next process, which then has the sessions; as "   \
      "FileDescriptorStoreMax= of the unit; 0: sessions end with the process")                                       \
    X(verbose, "verbose", FLAG, LIVE, 0, 0, "", "",                                                                  \
      "log sessions that come and go, refusals (these two the journal has anyway) and evictions, too")               \
    X(config, "config", TEXT, LINE, 1, 250, "", "FILE",                                                              \
      "read this configuration file; without it " DAEMON_CONFIG_FILE " if that is there")                            \
    X(check, "check", FLAG, LINE, 0, 0, "", "", "print the configuration that would be in force, and exit")          \
    X(memory_max, "memory-max", FLAG, LINE, 0, 0, "", "",                                                            \
      "print how many bytes of memory the service needs with this configuration (MemoryMax=), and exit")             \
    X(help, "help", FLAG, LINE, 0, 0, "", "", "print this and exit")                                                 \
    X(version, "version", FLAG, LINE, 0, 0, "", "", "print the version and exit")                                    \
    X(man, "man-options", TEXT, HIDDEN, 1, 1, "", "WHAT",                                                            \
      "print what is made from this table: 8, 5 or p(olicies) for a manual page, c for a configuration file")

#define DAEMON_FIELD_SIZE(field) uint64_t field
#define DAEMON_FIELD_NUMBER(field) uint64_t field
#define DAEMON_FIELD_TEXT(field) char field[256]
#define DAEMON_FIELD_FLAG(field) bool field

#define DAEMON_OPTION_COUNT_ONE(field, name, type, scope, min, max, standard, unit, text) +1
enum { DAEMON_OPTIONS = DAEMON_OPTION_MAP(DAEMON_OPTION_COUNT_ONE) };

enum daemon_option_scope { DAEMON_LIVE, DAEMON_START, DAEMON_LINE, DAEMON_HIDDEN };
enum daemon_option_source { DAEMON_FROM_DEFAULT, DAEMON_FROM_FILE, DAEMON_FROM_LINE };

struct daemon_options {
#define DAEMON_OPTION_FIELD(field, name, type, scope, min, max, standard, unit, text) DAEMON_FIELD_##type(field);
    DAEMON_OPTION_MAP(DAEMON_OPTION_FIELD)
#undef DAEMON_OPTION_FIELD
    uint8_t source[DAEMON_OPTIONS]; /* enum daemon_option_source of each row of the table */
    bool in_file[DAEMON_OPTIONS];   /* the file had it, whether or not the command line is above it */
};

/* The command line over the defaults; no file is read. 0, or EINVAL with a line for people in `why`; *ret is untouched
 * then. pool_bytes is 0 and a text empty if there is none. */
int daemon_options_parse(int argc, char **argv, struct daemon_options *ret, char *why, size_t why_bytes);

/* One option from a file, beneath the command line: the value is checked in any case, but kept only if the command line
 * did not give one. EINVAL, with what is expected in `why`: no such option, not in a file, a second time, a bad value.
 */
int daemon_options_set_from_file(struct daemon_options *o, const char *name, const char *value, char *why,
                                 size_t why_bytes);

void daemon_options_help(FILE *to);
/* What is in force, as a configuration file whose comments say where each value comes from. */
void daemon_options_print(FILE *to, const struct daemon_options *o);
/* A configuration file to begin with: every option that may stand in it, commented out, with its default. */
void daemon_options_template(FILE *to);
/* A list in mdoc(7), of every option or of what may stand in a file. */
void daemon_options_man(FILE *to, bool file);
/* A list in mdoc(7) of the policies and their parameters. */
void daemon_policies_man(FILE *to);

/* The i-th of the options that may stand in a file, for a control answer; false after the last. */
struct proto_option;
bool daemon_options_describe(const struct daemon_options *o, uint32_t i, struct proto_option *ret);

/* How the options that may stand in a file differ: calls back for each, with both values as a file has them. */
void daemon_options_compare(const struct daemon_options *before, const struct daemon_options *after,
                            void (*changed)(void *data, const char *name, const char *was, const char *is, bool live),
                            void *data);

/* "256MiB", "8GiB", "1.5GiB", "100MB", "4096": bytes. 0 or EINVAL. */
int daemon_size_parse(const char *text, uint64_t *ret_bytes);
/* "256 MiB", "1.5 GiB", "100 bytes", with `space` between figure and unit; returns `text`, 32 bytes are enough. */
const char *daemon_size_text(uint64_t bytes, const char *space, char *text, size_t text_bytes);
