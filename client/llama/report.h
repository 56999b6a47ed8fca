/* report.h - what a run did, as one line of JSON: for --json, --stats-json and whoever collects them. */
#pragma once

#include <stddef.h>

#include "engine.h"

struct report {
    size_t tokens_read, tokens_written;
    const char *text; /* generated */
    size_t text_size;
    size_t tokens_scored; /* of --nll; 0: not a likelihood run */
    double nll;           /* mean, natural logarithm */
};

/* Writes the line where the options ask for it: to standard output, to a file, to both or to none. */
int report_write(const struct report *report, const struct engine *engine, struct failure *failure);
