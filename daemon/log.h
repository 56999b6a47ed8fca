/* log.h - the daemon's log: one line a thing, to stderr, each written with one call. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <syslog.h>

/* Priorities are syslog's. NOTICE and graver ones are always written, the others if `verbose`; INFO to the
 * journal, too, which can tell them apart. In a journal stream
 * ($JOURNAL_STREAM names what stderr is) each line begins with its priority as "<N>"; elsewhere with "scissord: ". */
void daemon_log_init(bool verbose);
void daemon_log(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same about a session (0: none) and its client (0: not known): in the journal they are the fields SESSION= and
 * CLIENT_PID=. */
void daemon_log_session(int priority, uint64_t session, pid_t pid, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same without "scissord: " before the text. */
void daemon_log_bare(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));
