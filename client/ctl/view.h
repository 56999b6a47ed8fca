/* view.h - what the daemon tells, for people. */
#pragma once

#include "link.h"
#include "out.h"

/* Each makes a figure that lives until the end of the enclosing block. */
#define BYTES(n) figure_bytes(&(struct figure){""}, n)
#define COUNT(n) figure_count(&(struct figure){""}, n)
#define TIME(ns) figure_time(&(struct figure){""}, ns)
#define PERCENT(part, whole) figure_percent(&(struct figure){""}, (double)(part), (double)(whole))
#define NAME(text) figure_name(&(struct figure){""}, text)

/* Whether the pool's memory is the machine's. */
bool ctl_on_host(const struct proto_pool_stat *p);
/* What the session does, or that it has no client. */
const char *ctl_session_state(const struct proto_session_stat *s);
void ctl_view_pool(struct out *o, const struct proto_pool_stat *p);
/* Two lines: what `top` has above its table. */
void ctl_view_pool_brief(struct out *o, const struct proto_pool_stat *p);

/* `rate`: tokens a second per session, or NULL. */
void ctl_view_sessions(struct out *o, const struct proto_session_stat *sessions, const double *rate, size_t count);
/* Rows that were evicted for any reason. */
uint64_t ctl_evicted_rows(const uint64_t by_reason[PROTO_REASON_COUNT]);
/* "3 budget, 1 death", or "none". */
void ctl_view_counters(struct out *o, const uint64_t *counters, size_t count, const char *(*name)(uint32_t));
void ctl_view_session(struct out *o, const struct proto_session_stat *s);
/* One line for each head, with its ages in figures, too; or one for each layer. In view_heads.c. */
void ctl_view_heads(struct out *o, const struct proto_head_stat *heads, size_t count);
void ctl_view_layers(struct out *o, const struct proto_head_stat *heads, size_t count);

void ctl_view_event(struct out *o, const struct proto_event *e);
