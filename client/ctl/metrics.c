/* metrics.c - `scissorctl metrics`: a table of figures, each a field of what the daemon tells. A session that opens or
 * closes between the answers is in one list only; that is no error, its lines are there or are not. */
#include "metrics.h"

#include <jansson.h>
#include <string.h>

#include "view.h"

enum kind { U32, U64, NANOSECONDS, SHARE };

/* `help` is empty for the samples that follow in a family with an own label. */
struct metric {
    const char *name, *type, *help, *label, *value; /* label="value", or NULL */
    size_t at;
    enum kind kind;
};

#define ROW(entry, field, kind, name, type, help) {name, type, help, NULL, NULL, offsetof(struct entry, field), kind},
#define POOL(field, kind, name, type, help) ROW(proto_pool_stat, field, kind, "scissord_pool_" name, type, help)
#define SESSION(field, kind, name, type, help) \
    ROW(proto_session_stat, field, kind, "scissord_session_" name, type, help)
#define MEMORY(field, kind, name, type, help) ROW(proto_memory_stat, field, kind, "scissord_session_" name, type, help)
#define FAMILY(entry, field, name, type, help, label, value, index) \
    {name, type, help, label, value, offsetof(struct entry, field) + 8 * (index), U64},

static const struct metric pool_metrics[] = {
    POOL(limit_bytes, U64, "limit_bytes", "gauge", "What the sessions of the pool may hold at most")
        POOL(target_bytes, U64, "target_bytes", "gauge", "What the limit is to become once lent memory is back") POOL(
            charged_bytes, U64, "charged_bytes", "gauge", "Given out now: segments, shared pages and bookkeeping")
            POOL(peak_bytes, U64, "peak_bytes", "gauge", "Most that was ever given out") POOL(
                guaranteed_bytes, U64, "guaranteed_bytes", "gauge",
                "Promised to the sessions that are open") POOL(lent_bytes, U64, "lent_bytes", "gauge",
                                                               "Given out above the guarantees")
                POOL(segments, U64, "segments", "gauge", "Segments that are allocated now") POOL(
                    reclaims, U64, "reclaimed_segments_total", "counter",
                    "Segments taken back under pressure") POOL(sessions, U32, "sessions", "gauge",
                                                               "Sessions that are open")
                    POOL(waiting, U32, "sessions_waiting", "gauge", "Sessions that wait for memory") POOL(
                        orphans,
                        U32,
                        "sessions_orphaned",
                        "gauge",
                        "Sessions taken over whose client has not come back yet")
                        POOL(taken_over, U32, "sessions_taken_over", "gauge",
                             "Sessions taken over when the daemon started")
                            POOL(lost, U32, "sessions_lost", "gauge", "Sessions given up when the daemon started")
                                POOL(opened, U64, "sessions_opened_total", "counter", "Sessions ever opened")
                                    POOL(closed, U64, "sessions_closed_total", "counter",
                                         "Sessions ever closed") POOL(refused, U64, "sessions_refused_total", "counter",
                                                                      "Sessions that were not let in")
                                        POOL(settles, U64, "settles_total", "counter", "Settles done") POOL(
                                            scores_lost,
                                            U64,
                                            "settles_without_scores_total",
                                            "counter", "Settles without all of their scores")
                                            POOL(bad_scores, U64, "bad_scores_total", "counter",
                                                 "Scores that were NaN, infinite or negative")
                                                POOL(front_restarts, U64, "front_restarts_total", "counter",
                                                     "Restarts of the process that speaks to clients")
                                                    POOL(quarantined_bytes, U64, "quarantined_bytes", "gauge",
                                                         "Charged to sessions that ended while a process may have "
                                                         "their memory open") POOL(quarantined, U32,
                                                                                   "sessions_quarantined", "gauge",
                                                                                   "Sessions that ended while a "
                                                                                   "process may have their memory open")
                                                        POOL(device_lost, U32, "device_lost", "gauge",
                                                             "1 if the pool's device has failed")
                                                            POOL(draining, U32, "draining", "gauge",
                                                                 "1 if no new session is let in")
                                                                POOL(stored, U32, "descriptors_stored", "gauge",
                                                                     "Descriptors kept for the daemon's next process")
                                                                    POOL(stored_max, U32, "descriptors_stored_max",
                                                                         "gauge",
                                                                         "How many can be kept; 0: sessions end with "
                                                                         "the daemon")
                                                                        POOL(uptime_ns, NANOSECONDS, "uptime_seconds",
                                                                             "gauge", "Since the daemon started")
#define EVICTED(name, number, text)                                                 \
    FAMILY(proto_pool_stat, evicted, "scissord_pool_evicted_rows_total", "counter", \
           number ? "" : "Rows evicted, summed over KV heads", "reason", text, number)
                                                                            PROTO_REASON_MAP(EVICTED)
#undef EVICTED
#define FRAMES(name, number, text)                                                 \
    FAMILY(proto_pool_stat, frames, "scissord_pool_score_frames_total", "counter", \
           number ? "" : "Score frames by what became of them", "fate", text, number)
                                                                                PROTO_FRAME_MAP(FRAMES)
#undef FRAMES
                                                                                    {0}};

static const struct metric session_metrics[] = {
    SESSION(charged_bytes, U64, "charged_bytes", "gauge", "What the session holds")
        SESSION(guaranteed_bytes, U64, "guaranteed_bytes", "gauge", "What nobody can take from the session") SESSION(
            guaranteed_rows, U32, "guaranteed_rows", "gauge", "Rows per KV head that nobody can take, first group")
            SESSION(max_rows, U32, "max_rows", "gauge", "Rows per KV head at most, first group") SESSION(
                settled_min, U32, "settled_rows_min", "gauge", "Settled rows of the KV head that holds the fewest")
                SESSION(settled_max, U32, "settled_rows_max", "gauge",
                        "Settled rows of the KV head that holds the most")
                    SESSION(fresh_count, U32, "fresh_rows", "gauge", "Rows that are not settled yet")
                        SESSION(heads, U32, "heads", "gauge", "KV heads over all layers")
                            SESSION(priority, U32, "priority", "gauge", "Under pressure higher ones keep more")
                                SESSION(orphan, U32, "orphaned", "gauge",
                                        "1 if taken over and its client has not come back yet")
                                    SESSION(tokens_seen, U64, "tokens_total", "counter", "Tokens seen")
                                        SESSION(settles, U64, "settles_total", "counter", "Settles done")
                                            SESSION(scores_lost, U64, "settles_without_scores_total", "counter",
                                                    "Settles without all of their scores")
                                                SESSION(idle_ns, NANOSECONDS, "idle_seconds", "gauge",
                                                        "Since its client's last message")
                                                    SESSION(age_ns, NANOSECONDS, "age_seconds", "gauge",
                                                            "Since it was opened or taken over")
                                                        SESSION(lowest_mass, SHARE, "lowest_mass_ratio", "gauge",
                                                                "Attention per query that its least important rows "
                                                                "carry; absent if the policy wants none")
#define EVICTED(name, number, text)                                                       \
    FAMILY(proto_session_stat, evicted, "scissord_session_evicted_rows_total", "counter", \
           number ? "" : "Rows evicted, summed over KV heads", "reason", text, number)
                                                            PROTO_REASON_MAP(EVICTED)
#undef EVICTED
                                                                {0}};

#define PART(field, help, value) \
    FAMILY(proto_memory_stat, field, "scissord_session_memory_bytes", "gauge", help, "part", value, 0)
static const struct metric memory_metrics[] = {
    PART(fresh_bytes, "What the session holds, by use; the parts add up to scissord_session_charged_bytes", "fresh")
        PART(used_bytes, "", "used_pages") PART(free_bytes, "", "free_pages") PART(quarantined_bytes, "", "quarantined")
            PART(granted_bytes, "", "granted") PART(page_bytes, "", "shared_pages") PART(state_bytes, "", "state")
                PART(bookkeeping_bytes, "", "bookkeeping") MEMORY(settled_segments, U32, "settled_segments", "gauge",
                                                                  "Segments for settled rows")
                    MEMORY(fresh_segments, U32, "fresh_segments", "gauge", "Segments for fresh rows")
                        MEMORY(filled_rows, U32, "filled_rows", "gauge", "Rows in the pages in use, over all KV heads")
                            MEMORY(room_rows, U32, "room_rows", "gauge",
                                   "Rows that the pages in use have room for, over all KV heads"){0}};

/* The entries of one list, and how to find out whose labels they bear. */
struct list {
    const struct ctl_metrics *metrics;
    const void *entries;
    size_t count, entry_bytes;
    void (*labels)(struct out *o, const struct list *list, const void *entry);
};

/* A label's value: escaped, of at most `size` bytes. What is no UTF-8 would make the whole answer worthless, so such a
 * name is shown as on a terminal. */
static void print_label(struct out *o, const char *label, const char *value, size_t size) {
    char text[PROTO_NAME_BYTES + 1];
    snprintf(text, sizeof text, "%.*s", (int)size, value);
    json_t *valid = json_string(text);
    if (!valid)
        snprintf(text, sizeof text, "%.32s", figure_name(&(struct figure){""}, text));
    json_decref(valid);
    out_printf(o, "%s=\"", label);
    for (const char *c = text; *c; c++) {
        if (*c == '\n')
            out_printf(o, "\\n");
        else
            out_printf(o, *c == '\\' || *c == '"' ? "\\%c" : "%c", *c);
    }
    out_printf(o, "\"");
}

static void print_pool_labels(struct out *o, const struct list *list, const void *entry) {
    (void)list;
    const struct proto_pool_stat *p = entry;
    print_label(o, "pool", p->name, sizeof p->name);
}

static void print_session_labels(struct out *o, const struct list *list, const void *entry) {
    const struct proto_session_stat *s = entry;
    const struct proto_pool_stat *pools = list->metrics->pools.entries;
    out_printf(o, "session=\"%llu\",", (unsigned long long)s->session);
    print_label(o, "name", s->name, sizeof s->name);
    out_printf(o, ",");
    print_label(o, "policy", s->policy, sizeof s->policy);
    out_printf(o, ",");
    if (s->pool < list->metrics->pools.count)
        print_label(o, "pool", pools[s->pool].name, sizeof pools[s->pool].name);
    else
        out_printf(o, "pool=\"%u\"", s->pool);
    out_printf(o, ",uid=\"%u\"", s->uid);
}

/* MEMORY has the sessions in the same order as SESSIONS, but for those in between that came or went. */
static const struct proto_session_stat *session_of(const struct ctl_metrics *m, uint64_t id) {
    const struct proto_session_stat *sessions = m->sessions.entries;
    for (size_t i = 0; i < m->sessions.count && i < CTL_METRICS_SESSIONS; i++)
        if (sessions[i].session == id)
            return &sessions[i];
    return NULL;
}

static void print_memory_labels(struct out *o, const struct list *list, const void *entry) {
    const struct proto_memory_stat *memory = entry;
    print_session_labels(o, list, session_of(list->metrics, memory->session));
}

static void print_value(struct out *o, const struct metric *metric, const char *at) {
    uint64_t u64 = 0;
    uint32_t u32 = 0;
    double share = 0;
    switch (metric->kind) {
    case U32:
        memcpy(&u32, at, sizeof u32);
        out_printf(o, " %u\n", u32);
        break;
    case U64:
        memcpy(&u64, at, sizeof u64);
        out_printf(o, " %llu\n", (unsigned long long)u64);
        break;
    case NANOSECONDS:
        memcpy(&u64, at, sizeof u64);
        out_printf(o, " %.3f\n", (double)u64 / 1e9);
        break;
    case SHARE:
        memcpy(&share, at, sizeof share);
        out_printf(o, " %.9g\n", share);
    }
}

/* A share below 0 means that the daemon has not gathered it. */
static bool value_absent(const struct metric *metric, const char *at) {
    double share = 0;
    if (metric->kind == SHARE)
        memcpy(&share, at, sizeof share);
    return !(share >= 0);
}

static void print_list(struct out *o, const struct metric *metrics, const struct list *list) {
    for (const struct metric *m = metrics; m->name; m++) {
        if (*m->help)
            out_printf(o, "# HELP %s %s.\n# TYPE %s %s\n", m->name, m->help, m->name, m->type);
        for (size_t i = 0; i < list->count; i++) {
            const char *entry = (const char *)list->entries + i * list->entry_bytes;
            if (value_absent(m, entry + m->at))
                continue;
            out_printf(o, "%s{", m->name);
            list->labels(o, list, entry);
            if (m->label) {
                out_printf(o, ",");
                print_label(o, m->label, m->value, strlen(m->value));
            }
            out_printf(o, "}");
            print_value(o, m, entry + m->at);
        }
    }
}

static void print_states(struct out *o, const struct list *list) {
    const struct proto_session_stat *sessions = list->entries;
    out_printf(o, "# HELP scissord_session_state What the session does now, as a label; always 1.\n"
                  "# TYPE scissord_session_state gauge\n");
    for (size_t i = 0; i < list->count; i++) {
        out_printf(o, "scissord_session_state{");
        print_session_labels(o, list, &sessions[i]);
        out_printf(o, ",state=\"%s\"} 1\n", proto_session_state_name(sessions[i].state));
    }
}

static void print_daemon(struct out *o, const struct ctl_metrics *m, size_t left_out) {
    out_printf(o, "# HELP scissord_info The daemon's version, as labels; always 1.\n# TYPE scissord_info gauge\n");
    if (m->pools.count) {
        const struct proto_pool_stat *p = m->pools.entries;
        out_printf(o, "scissord_info{");
        print_label(o, "version", p->version, sizeof p->version);
        out_printf(o, ",protocol=\"%u.%u\"} 1\n", p->version_major_minor >> 16, p->version_major_minor & 0xffffu);
    }
    out_printf(o,
               "# HELP scissord_sessions_left_out Open sessions without lines of their own, beyond the first %u.\n"
               "# TYPE scissord_sessions_left_out gauge\nscissord_sessions_left_out %zu\n",
               CTL_METRICS_SESSIONS, left_out);
}

/* Brings those of MEMORY to the front that have lines of their own; how many. */
static size_t known_memory(struct ctl_metrics *m) {
    struct proto_memory_stat *memory = m->memory.entries;
    size_t known = 0;
    for (size_t i = 0; i < m->memory.count; i++)
        if (session_of(m, memory[i].session))
            memory[known++] = memory[i];
    return known;
}

void ctl_metrics_print(struct out *o, struct ctl_metrics *m) {
    size_t sessions = m->sessions.count < CTL_METRICS_SESSIONS ? m->sessions.count : CTL_METRICS_SESSIONS;
    struct list pool = {m, m->pools.entries, m->pools.count, sizeof(struct proto_pool_stat), print_pool_labels};
    struct list session = {m, m->sessions.entries, sessions, sizeof(struct proto_session_stat), print_session_labels};
    struct list memory = {m, m->memory.entries, known_memory(m), sizeof(struct proto_memory_stat), print_memory_labels};
    print_daemon(o, m, m->sessions.count - sessions);
    print_list(o, pool_metrics, &pool);
    print_list(o, session_metrics, &session);
    print_states(o, &session);
    print_list(o, memory_metrics, &memory);
}

void ctl_metrics_deinit(struct ctl_metrics *m) {
    ctl_answer_deinit(&m->pools);
    ctl_answer_deinit(&m->sessions);
    ctl_answer_deinit(&m->memory);
}

int ctl_metrics_gather(const char *directory, struct ctl_metrics *ret) {
    struct ctl_metrics m = {.pools = {.entries = NULL}};
    struct ctl_link link;
    int status = ctl_link_open(&link, directory);
    if (status)
        return status;
    status = ctl_link_ask(&link, PROTO_OP_STAT, 0, &m.pools);
    if (status == CTL_DONE)
        status = ctl_link_ask(&link, PROTO_OP_SESSIONS, 0, &m.sessions);
    if (status == CTL_DONE)
        status = ctl_link_ask(&link, PROTO_OP_MEMORY, 0, &m.memory);
    ctl_link_close(&link);
    if (status)
        ctl_metrics_deinit(&m);
    else
        *ret = m;
    return status;
}

int ctl_metrics(struct ctl *ctl) {
    if (ctl->json)
        return ctl_fail(CTL_USAGE,
                        "`metrics` has a format of its own; stat, sessions and memory tell the same as JSON");
    if (ctl->listen)
        return ctl_metrics_serve(ctl);
    struct ctl_metrics m;
    struct out o;
    int status = ctl_metrics_gather(ctl->directory, &m);
    if (status)
        return status;
    out_init(&o, false);
    ctl_metrics_print(&o, &m);
    ctl_metrics_deinit(&m);
    return out_print(&o);
}
