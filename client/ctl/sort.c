/* sort.c - sessions in the order that was asked for. */
#include "sort.h"

#include <stdlib.h>
#include <string.h>

#include "view.h"

static uint64_t key_charged(const struct proto_session_stat *s) {
    return s->charged_bytes;
}
static uint64_t key_tokens(const struct proto_session_stat *s) {
    return s->tokens_seen;
}
static uint64_t key_idle(const struct proto_session_stat *s) {
    return s->idle_ns;
}
static uint64_t key_priority(const struct proto_session_stat *s) {
    return s->priority;
}
static uint64_t key_evicted(const struct proto_session_stat *s) {
    return ctl_evicted_rows(s->evicted);
}
static uint64_t key_id(const struct proto_session_stat *s) {
    return s->session;
}

struct sort {
    const char *name;
    uint64_t (*key)(const struct proto_session_stat *s); /* NULL: the name */
    bool falls;
};

static const struct sort sorts[] = {
    {"name", NULL, false},    {"charged", key_charged, true},    {"tokens", key_tokens, true},
    {"idle", key_idle, true}, {"priority", key_priority, false}, {"evicted", key_evicted, true},
    {"id", key_id, false},
};

static const struct sort *sort_find(const char *name) {
    for (size_t i = 0; i < sizeof sorts / sizeof sorts[0]; i++)
        if (strcmp(sorts[i].name, name) == 0)
            return &sorts[i];
    return NULL;
}

bool ctl_sort_known(const char *key) {
    return sort_find(key) != NULL;
}

static int compare_numbers(uint64_t a, uint64_t b) {
    return a < b ? -1 : a > b;
}

static int compare(const void *left, const void *right, void *data) {
    const struct proto_session_stat *a = left, *b = right;
    const struct sort *sort = data;
    int order = sort->key ? compare_numbers(sort->key(a), sort->key(b)) : strncmp(a->name, b->name, sizeof a->name);
    if (sort->falls)
        order = -order;
    return order ? order : compare_numbers(a->session, b->session);
}

void ctl_sort_sessions(struct proto_session_stat *sessions, size_t count, const char *key, bool reverse) {
    const struct sort *sort = sort_find(key);
    if (!sort || count < 2)
        return;
    qsort_r(sessions, count, sizeof *sessions, compare, (void *)(uintptr_t)sort);
    for (size_t i = 0; reverse && i < count / 2; i++) {
        struct proto_session_stat kept = sessions[i];
        sessions[i] = sessions[count - 1 - i];
        sessions[count - 1 - i] = kept;
    }
}
