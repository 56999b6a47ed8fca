/* report.h - what a replay shows: attention mass retained and rows kept, by layer; or the persistence ratios. */
#pragma once

#include <stdio.h>

#include "daemon/replay/replay.h"

struct report {
    const struct replay *replay;
    const struct trace_reader *trace;
    int end; /* enum scissor_error: how the recording ended */
};

/* The share of `part` in `all`; -1: nothing was gathered. */
double report_share(double part, double all);
void report_text(FILE *out, const struct report *report);
void report_json(FILE *out, const struct report *report);
/* Of replay->persistence. */
void report_persistence_text(FILE *out, const struct report *report);
void report_persistence_json(FILE *out, const struct report *report);
