/* log.h - the daemon's log: one line a thing, to stderr, each written with one call. */
#pragma once

#include <stdbool.h>
#include <syslog.h>

/* Priorities are syslog's. NOTICE and graver ones are always written, the others if `verbose`. In a journal stream
 * ($JOURNAL_STREAM names what stderr is) each line begins with its priority as "<N>"; elsewhere with "scissord: ". */
void daemon_log_init(bool verbose);
void daemon_log(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same without "scissord: " before the text. */
void daemon_log_bare(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));
