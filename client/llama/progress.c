/* progress.c - see progress.h. */
#include "progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_AFTER 2.0 /* seconds */
#define PROGRESS_EVERY 0.2

double progress_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_init(struct progress *progress, const char *what, size_t total, bool always) {
    *progress = (struct progress){
        .what = what, .total = total, .start = progress_now(), .enabled = always || isatty(STDERR_FILENO)};
}

void progress_show(struct progress *progress, size_t done) {
    double now = progress_now(), taken = now - progress->start;
    if (!progress->enabled || taken < PROGRESS_AFTER || now - progress->shown < PROGRESS_EVERY)
        return;
    progress->shown = now;
    unsigned left = (unsigned)(taken * (double)(progress->total - done) / (double)(done ? done : 1));
    fprintf(stderr, "\r%s %zu of %zu tokens, %.0f a second, %u:%02u left ", progress->what, done, progress->total,
            (double)done / taken, left / 60, left % 60);
    fflush(stderr);
}

void progress_end(struct progress *progress) {
    if (progress->shown > 0)
        fprintf(stderr, "\r%79s\r", "");
}
