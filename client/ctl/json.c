/* json.c - packs the daemon's structs with jansson. */
#include "json.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "dtype.h"
#include "out.h"
#include "scissor_error.h"

static void give_back(void *memory) {
    scissor_free(memory);
}

void ctl_json_init(void) {
    json_set_alloc_funcs(scissor_malloc, give_back);
}

json_t *ctl_json_text(const char *text) {
    json_t *value = json_string(text);
    return value ? value : json_string(figure_name(&(struct figure){""}, text));
}

/* An object of counters, one for each name of a table. */
struct counter {
    const char *name;
    uint64_t value;
};
static json_t *pack_counters(const struct counter *counters, size_t count) {
    json_t *object = json_object();
    for (size_t i = 0; object && i < count; i++) {
        if (json_object_set_new(object, counters[i].name, json_integer((json_int_t)counters[i].value)) < 0) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}

#define COUNTER_ROW(name, number, text) {text, from[number]},
static json_t *pack_evicted(const uint64_t from[PROTO_REASON_COUNT]) {
    const struct counter rows[] = {PROTO_REASON_MAP(COUNTER_ROW)};
    return pack_counters(rows, PROTO_REASON_COUNT);
}
static json_t *pack_frames(const uint64_t from[PROTO_FRAME_COUNT]) {
    const struct counter rows[] = {PROTO_FRAME_MAP(COUNTER_ROW)};
    return pack_counters(rows, PROTO_FRAME_COUNT);
}
#undef COUNTER_ROW

/* JSON has no NaN. */
static double finite_or_zero(double value) {
    return isfinite(value) ? value : 0;
}

/* A figure that is below zero where there is none. */
static json_t *gathered(double value) {
    return value < 0 ? json_null() : json_real(finite_or_zero(value));
}

json_t *ctl_json_pool(const struct proto_pool_stat *p) {
    char protocol[16];
    snprintf(protocol, sizeof protocol, "%u.%u", p->version_major_minor >> 16, p->version_major_minor & 0xffffu);
    return json_pack(
        "{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, "
        "s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:b, s:I, s:I, s:f, s:o, s:s}",
        "pool", ctl_json_text(p->name), "limit_bytes", INT(p->limit_bytes), "target_bytes", INT(p->target_bytes),
        "charged_bytes", INT(p->charged_bytes), "peak_bytes", INT(p->peak_bytes), "guaranteed_bytes",
        INT(p->guaranteed_bytes), "lent_bytes", INT(p->lent_bytes), "segments", INT(p->segments), "reclaims",
        INT(p->reclaims), "evicted_rows", pack_evicted(p->evicted), "score_frames", pack_frames(p->frames),
        "bad_scores", INT(p->bad_scores), "settles", INT(p->settles), "settles_without_scores", INT(p->scores_lost),
        "sessions", INT(p->sessions), "sessions_waiting", INT(p->waiting), "sessions_opened", INT(p->opened),
        "sessions_closed", INT(p->closed), "sessions_refused", INT(p->refused), "front_restarts",
        INT(p->front_restarts), "draining", p->draining != 0, "stored_descriptors", INT(p->stored),
        "stored_descriptors_max", INT(p->stored_max), "sessions_taken_over", INT(p->taken_over), "sessions_lost",
        INT(p->lost), "sessions_orphaned", INT(p->orphans), "changes_denied", INT(p->denied), "device",
        ctl_json_text(*p->device ? p->device : "host"), "device_lost", p->device_lost != 0, "quarantined_bytes",
        INT(p->quarantined_bytes), "sessions_quarantined", INT(p->quarantined), "uptime_seconds", SECONDS(p->uptime_ns),
        "version", ctl_json_text(p->version), "protocol", protocol);
}

json_t *ctl_json_session(const struct proto_session_stat *s) {
    return json_pack(
        "{s:I, s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:I, s:I, s:o, s:f, s:o, s:f, s:b, s:I}",
        "session", INT(s->session), "name", ctl_json_text(s->name), "policy", ctl_json_text(s->policy), "state",
        proto_session_state_name(s->state), "pid", INT(s->pid), "uid", INT(s->uid), "pool", INT(s->pool), "priority",
        INT(s->priority), "groups", INT(s->groups), "layers", INT(s->layers), "heads", INT(s->heads), "compute_dtype",
        kernel_dtype_name(s->compute_dtype), "storage_dtype", kernel_dtype_name(s->storage_dtype), "fresh_rows",
        INT(s->fresh_rows), "fresh_count_rows", INT(s->fresh_count), "guaranteed_rows", INT(s->guaranteed_rows),
        "max_rows", INT(s->max_rows), "settled_min_rows", INT(s->settled_min), "settled_max_rows", INT(s->settled_max),
        "charged_bytes", INT(s->charged_bytes), "guaranteed_bytes", INT(s->guaranteed_bytes), "tokens_seen",
        INT(s->tokens_seen), "settles", INT(s->settles), "settles_without_scores", INT(s->scores_lost), "evicted_rows",
        pack_evicted(s->evicted), "idle_seconds", SECONDS(s->idle_ns), "lowest_mass", gathered(s->lowest_mass),
        "age_seconds", SECONDS(s->age_ns), "orphan", s->orphan != 0, "quarantine_seconds", INT(s->quarantine_s));
}

/* {"up_to_tokens": 64, "rows": 3}, ...; the last one has null: there is no end. */
static json_t *pack_ages(const uint32_t rows[PROTO_AGE_BUCKETS]) {
    json_t *array = json_array();
    uint64_t end = PROTO_AGE_BUCKET_FIRST;
    for (size_t i = 0; array && i < PROTO_AGE_BUCKETS; i++, end *= 4) {
        json_t *upto = i + 1 < PROTO_AGE_BUCKETS ? json_integer(INT(end)) : json_null();
        if (json_array_append_new(array, json_pack("{s:o, s:I}", "up_to_tokens", upto, "rows", INT(rows[i]))) < 0) {
            json_decref(array);
            array = NULL;
        }
    }
    return array;
}

json_t *ctl_json_head(const struct proto_head_stat *h) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "layer", INT(h->layer), "kv_head",
                     INT(h->kv_head), "settled_rows", INT(h->settled), "pages", INT(h->pages), "oldest_position",
                     INT(h->oldest), "newest_position", INT(h->newest), "evicted_rows", pack_evicted(h->evicted),
                     "lowest_share", gathered(h->lowest_share), "mass", gathered(h->mass), "rows_by_age",
                     pack_ages(h->age));
}

/* "SCORES_LOST" -> "scores_lost" */
static const char *event_key(uint32_t type, char key[32]) {
    const char *name = "unknown";
#define EVENT_ROW(row, number, text) \
    if (type == (number))            \
        name = #row;
    PROTO_EVENT_MAP(EVENT_ROW)
#undef EVENT_ROW
    size_t i = 0;
    for (; name[i] && i < 31; i++)
        key[i] = (char)tolower((unsigned char)name[i]);
    key[i] = 0;
    return key;
}

json_t *ctl_json_event(const struct proto_event *e, uint64_t dropped) {
    char key[32];
    json_t *o = json_pack("{s:s, s:I, s:I, s:f, s:I, s:o}", "event", event_key(e->type, key), "sequence",
                          INT(e->sequence), "dropped_events", INT(dropped), "time_unix_seconds", SECONDS(e->time_ns),
                          "session", INT(e->session), "name", ctl_json_text(e->name));
    int failed = !o;
    if (o && e->rows)
        failed |= json_object_set_new(o, "rows", json_integer(INT(e->rows)));
    if (o && e->bytes)
        failed |= json_object_set_new(o, "bytes", json_integer(INT(e->bytes)));
    if (o && (e->type == PROTO_EVENT_EVICTED || (e->type == PROTO_EVENT_CLOSED && e->code == SCISSOR_ECLOSED)))
        failed |= json_object_set_new(o, "reason", json_string(proto_reason_name(e->reason)));
    if (o && e->code)
        failed |= json_object_set_new(o, "code", json_string(scissor_errname(e->code)));
    if (failed && o) {
        json_decref(o);
        return NULL;
    }
    return o;
}

#define DEFINE_ARRAY(function, pack, type)                             \
    json_t *function(const struct ctl_answer *answer) {                \
        const struct type *entries = answer->entries;                  \
        json_t *array = json_array();                                  \
        for (size_t i = 0; array && i < answer->count; i++) {          \
            if (json_array_append_new(array, pack(&entries[i])) < 0) { \
                json_decref(array);                                    \
                array = NULL;                                          \
            }                                                          \
        }                                                              \
        return array;                                                  \
    }
DEFINE_ARRAY(ctl_json_pools, ctl_json_pool, proto_pool_stat)
DEFINE_ARRAY(ctl_json_sessions, ctl_json_session, proto_session_stat)
DEFINE_ARRAY(ctl_json_heads, ctl_json_head, proto_head_stat)

int ctl_json_print(json_t *value, int line) {
    if (!value)
        return ctl_fail(CTL_REFUSED, "out of memory");
    size_t flags = JSON_REAL_PRECISION(12) | (line ? JSON_COMPACT : JSON_INDENT(2));
    int failed = json_dumpf(value, stdout, flags) < 0;
    json_decref(value);
    if (failed || putchar('\n') == EOF || fflush(stdout))
        return ctl_fail(CTL_REFUSED, "cannot write: %s", strerror(errno));
    return CTL_DONE;
}
