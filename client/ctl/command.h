/* command.h - the commands of scissorctl: one table that the parser, the help and the tests read.
 *
 * A command gets a struct ctl with the options already parsed and returns the exit status of the program. One thread;
 * nothing outlives main(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fail.h"

/* X(name, long option, argument or NULL, text). The order gives each option its bit, CTL_OPTION_*. */
#define CTL_OPTION_MAP(X)                                                                            \
    X(DIR, "dir", "DIR", "where the daemon has its sockets (default: see `scissorctl help`)")        \
    X(JSON, "json", NULL, "print JSON; keys carry their units")                                      \
    X(HELP, "help", NULL, "explain a command")                                                       \
    X(VERSION, "version", NULL, "the same as the command `version`")                                 \
    X(ONCE, "once", NULL, "print one frame and end (so does a standard output that is no terminal)") \
    X(HEADS, "heads", NULL, "a line for each KV head instead of one for each layer")                 \
    X(COUNT, "count", "N", "end after N events")                                                     \
    X(SORT, "sort", "KEY", "order by name, charged, tokens, idle, priority, evicted or id")          \
    X(REVERSE, "reverse", NULL, "the other way round")                                               \
    X(LAYER, "layer", "L", "a layer, counted from 0 over all groups")                                \
    X(HEAD, "head", "H", "a KV head of the layer, counted from 0")                                   \
    X(LISTEN, "listen", "ADDR", "answer over HTTP at ADDR until a signal ends it")                   \
    X(SETTLES, "settles", "N", "end after N settles")

enum ctl_option {
#define CTL_OPTION_ENUM(name, option, argument, text) CTL_OPTION_##name,
    CTL_OPTION_MAP(CTL_OPTION_ENUM)
#undef CTL_OPTION_ENUM
        CTL_OPTIONS,
};
#define CTL_BIT(name) (1u << CTL_OPTION_##name)
#define CTL_COMMON (CTL_BIT(DIR) | CTL_BIT(JSON) | CTL_BIT(HELP) | CTL_BIT(VERSION))

struct ctl {
    char directory[256];
    bool json;
    bool colour; /* standard output is a terminal and NO_COLOR is not set */
    bool once;
    bool heads;
    uint64_t count;   /* 0: no end */
    uint64_t settles; /* 0: no end */
    const char *sort; /* NULL: as the daemon has them */
    bool reverse;
    bool layer_given, head_given;
    uint64_t layer, head;
    const char *listen;   /* NULL: print once */
    const char *argument; /* the first word behind the command, or NULL */
    char **words;         /* all of them */
    int word_count;
};

/* X(name, argument or NULL, options beside the common ones, function, one line, more lines) */
#define CTL_COMMAND_MAP(X)                                                                                             \
    X("stat", NULL, 0, ctl_stat, "the pool: charged, lent, sessions, evictions by reason, score frames", "")           \
    X("memory", NULL, 0, ctl_memory, "who holds what, in a sum that adds up to what is charged",                       \
      "Fresh segments, pages of settled segments that are used, free or still to be released by the client,\n"         \
      "memory granted to work in progress, shared pages, state kept for the next process and the daemon's own\n"       \
      "bookkeeping. Fragmentation is the part of the settled segments that is free. Fails if the sum is wrong.\n")     \
    X("sessions", NULL, CTL_BIT(SORT) | CTL_BIT(REVERSE), ctl_sessions, "one line for each session",                   \
      "Names go from A to Z, ids and priorities from the smallest, all other keys from the largest.\n")                \
    X("session", "ID", CTL_BIT(HEADS), ctl_session, "one session and what its layers hold",                            \
      "ID is a session's number or its name, if no other session has the same name.\n"                                 \
      "Mass is the attention that a query pays to all settled rows of a head, of 1 in all. Age is how many tokens\n"   \
      "were seen since a row's own: bars from young (up to 64) to old (over 262,144), 4 times as old each.\n")         \
    X("positions", "ID", CTL_BIT(LAYER) | CTL_BIT(HEAD), ctl_positions, "which tokens one KV head holds",              \
      "ID as for `session`; --layer and --head must be given. The order is that of the slots, in --json, too;\n"       \
      "for people runs are put together. Waits while the session is settling.\n")                                      \
    X("top", NULL, CTL_BIT(ONCE), ctl_top, "pool, rates and sessions, as they change",                                 \
      "On a terminal a screen of its own, with the pool's parts, rates and sessions; keys sort, look into a session\n" \
      "and close one: h lists them, q ends it. Elsewhere one frame as text. With --json, one line of JSON a "          \
      "second.\n")                                                                                                     \
    X("watch", NULL, CTL_BIT(COUNT), ctl_watch, "events as they happen, one line each",                                \
      "Events may be dropped on their way to a slow reader; a line says how many.\n"                                   \
      "Ends with Ctrl-C, after N events, or when the daemon goes away.\n")                                             \
    X("record", "ID FILE", CTL_BIT(SETTLES), ctl_record, "write a session's score frames and settles into a file",     \
      "ID as for `session`; FILE must not be there yet. `scissor-replay` tries policies on it. For an honest\n"        \
      "comparison record a session whose budget keeps every row: scores of rows that are gone are in no trace.\n"      \
      "Ends with the session, after N settles or with Ctrl-C. A recorder that is too slow loses records, which the\n"  \
      "file then says; the session waits for nothing. For the session's owner, root and the daemon's user.\n")         \
    X("doctor", NULL, 0, ctl_doctor, "what is wrong, and what to do about it",                                         \
      "Takes two looks at the daemon, a moment apart, and says in sentences what it found, with figure, threshold "    \
      "and\n"                                                                                                          \
      "advice. The exit status is 0 if all is well or there are only notes, 10 with warnings, 20 if something is\n"    \
      "critical. A finding is raised from this figure on:\n")                                                          \
    X("metrics", NULL, CTL_BIT(LISTEN), ctl_metrics, "all figures for Prometheus, printed or over HTTP",               \
      "ADDR is 127.0.0.1:PORT, [::1]:PORT, the path of a Unix socket, or `systemd` for a socket that systemd\n"        \
      "opened. Nothing that other machines could reach is taken. It serves /metrics; figures are up to one\n"          \
      "second old; while no daemon answers it says so with status 503. At most 500 sessions get lines.\n")             \
    X("config", "[NAME]", 0, ctl_config, "the options that are in force, and where each comes from",                   \
      "With NAME, that option alone and what it means.\n")                                                             \
    X("policies", "[NAME]", 0, ctl_policies, "the policies that a session can ask for",                                \
      "With NAME, that policy with its source and parameters, their bounds and defaults.\n")                           \
    X("limits", "[set WHAT ...]", 0, ctl_limits, "budgets and priorities, and how to change them while all runs",      \
      "  limits set pool SIZE            the pool; with more than one, `pool NAME SIZE`\n"                             \
      "  limits set session ID NAME=N... one or more of:\n"                                                            \
      "      guaranteed-rows=N           rows per KV head that nobody can take away\n"                                 \
      "      max-rows=N                  rows per KV head at most\n"                                                   \
      "      group=N                     of this group of layers only, counted from 0\n"                               \
      "      priority=N                  1 to 1000; under pressure higher ones keep more\n"                            \
      "SIZE is a figure with a unit, as 8GiB. What is above a new limit is taken back when it is at rest or\n"         \
      "settles. The pool can be changed by root and by the daemon's user, a session by its owner, too.\n")             \
    X("close", "ID", 0, ctl_close, "close a session; its client is told, its memory goes back to the pool",            \
      "ID as for `session`. For the session's owner, root and the daemon's user. On a GPU the memory is back when\n"   \
      "the client's step has ended and its work there is done; of a step that never ends, when the process ends.\n")   \
    X("drain", NULL, 0, ctl_drain, "let no new session in; the ones that are open go on",                              \
      "For root and the daemon's user.\n")                                                                             \
    X("version", NULL, 0, ctl_version, "versions of this tool and of the daemon, if one is running", "")               \
    X("help", "[COMMAND]", 0, ctl_help, "this list, or a command explained", "")

struct ctl_command {
    const char *name;
    const char *argument; /* NULL: none; in brackets: may be left out; with "...": any number of words */
    uint32_t options;     /* CTL_BIT()s */
    int (*run)(struct ctl *ctl);
    const char *line, *more;
};

#define CTL_COMMAND_DECLARE(name, argument, options, function, line, more) int function(struct ctl *ctl);
CTL_COMMAND_MAP(CTL_COMMAND_DECLARE)
#undef CTL_COMMAND_DECLARE

/* The table; ends with a NULL name. NULL if there is no such command. */
extern const struct ctl_command ctl_commands[];
const struct ctl_command *ctl_command_find(const char *name);

/* Fills in *ctl and *ret_command from a command line; a --help becomes the command `help`. 0 or CTL_USAGE, having said
 * why on standard error. */
int ctl_parse(int argc, char **argv, struct ctl *ctl, const struct ctl_command **ret_command);
