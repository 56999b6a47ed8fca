/* progress.h - one line on standard error while something takes longer than two seconds. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct progress {
    const char *what;
    size_t total;
    double start, shown; /* seconds; shown: when the line was last written, 0: never */
    bool enabled;
};

/* Monotonic seconds. */
double progress_now(void);

/* Shows nothing unless standard error is a terminal or `always`. */
void progress_init(struct progress *progress, const char *what, size_t total, bool always);

void progress_show(struct progress *progress, size_t done);

/* Takes the line away. */
void progress_end(struct progress *progress);
