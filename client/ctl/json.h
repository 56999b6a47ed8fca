/* json.h - what the daemon tells, as JSON. Keys never change their meaning; units are in the names. */
#pragma once

#include <jansson.h>

#include "link.h"

#define INT(value) ((json_int_t)(value))
#define SECONDS(ns) ((double)(ns) / 1e9)

/* Makes jansson allocate as everything else does. Once, before anything below. */
void ctl_json_init(void);

/* NULL if out of memory. */
json_t *ctl_json_pool(const struct proto_pool_stat *p);
json_t *ctl_json_session(const struct proto_session_stat *s);
json_t *ctl_json_head(const struct proto_head_stat *h);
json_t *ctl_json_event(const struct proto_event *e, uint64_t dropped);

/* Arrays of the entries of an answer. */
json_t *ctl_json_pools(const struct ctl_answer *answer);
json_t *ctl_json_sessions(const struct ctl_answer *answer);
json_t *ctl_json_heads(const struct ctl_answer *answer);

/* A text that may not be UTF-8. */
json_t *ctl_json_text(const char *text);

/* Prints `value` (NULL: out of memory) and a newline, on one line if `line`, and frees it. An enum ctl_exit. */
int ctl_json_print(json_t *value, int line);
