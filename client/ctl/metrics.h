/* metrics.h - the daemon's figures for Prometheus: text format 0.0.4, units in the names. */
#pragma once

#include "link.h"
#include "out.h"

/* At most so many sessions get lines of their own, the ones that were opened first; of the others only their number
 * is told, as a time series for each session ever would burden who collects them. */
#define CTL_METRICS_SESSIONS 500u

struct ctl_metrics {
    struct ctl_answer pools, sessions, memory;
};

/* Asks the daemon in `directory`. ctl_metrics_deinit() after success. */
int ctl_metrics_gather(const char *directory, struct ctl_metrics *ret);
void ctl_metrics_deinit(struct ctl_metrics *m);
/* Entries of memory that belong to no session are dropped. */
void ctl_metrics_print(struct out *o, struct ctl_metrics *m);

/* `scissorctl metrics --listen`: answers over HTTP until a signal ends it. */
int ctl_metrics_serve(const struct ctl *ctl);
