/* set_limits.c - `scissorctl limits`: shows budgets and priorities, and changes them in the running daemon. */
#include "set_limits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "change.h"
#include "json.h"
#include "read.h"
#include "size.h"
#include "view.h"

/* ---------- the words ---------- */

static int usage_pool(void) {
    return ctl_fail(CTL_USAGE, "usage: scissorctl limits set pool [NAME] SIZE, with a size like 8GiB");
}

static int usage_session(void) {
    return ctl_fail(CTL_USAGE, "usage: scissorctl limits set session ID [guaranteed-rows=N] [max-rows=N] [group=N] "
                               "[priority=N]");
}

static int parse_pool(char **words, int count, struct limits_change *ret) {
    if (count < 1 || count > 2)
        return usage_pool();
    if (proto_size_parse(words[count - 1], &ret->bytes) < 0 || !ret->bytes)
        return ctl_fail(CTL_USAGE, "'%s' is no size; write a figure with a unit, like 512MiB or 8GiB",
                        words[count - 1]);
    ret->name = count == 2 ? words[0] : NULL;
    return 0;
}

static int parse_setting(const char *word, struct limits_change *ret) {
    const struct {
        const char *name;
        uint64_t min, max, *value;
    } settings[] = {
        {"guaranteed-rows", 1, PROTO_MAX_ROWS, &ret->guaranteed_rows},
        {"max-rows", 1, PROTO_MAX_ROWS, &ret->max_rows},
        {"group", 0, PROTO_MAX_GROUPS - 1, &ret->group},
        {"priority", 1, 1000, &ret->priority},
    };
    size_t length = strcspn(word, "=");
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        if (strlen(settings[i].name) != length || strncmp(settings[i].name, word, length) != 0)
            continue;
        const char *figure = word[length] ? word + length + 1 : "";
        char *end;
        errno = 0;
        unsigned long long n = strtoull(figure, &end, 10);
        if (errno || *end || figure[0] < '0' || figure[0] > '9' || n < settings[i].min || n > settings[i].max)
            return ctl_fail(CTL_USAGE, "%s takes a number from %llu to %llu, not '%s'", settings[i].name,
                            (unsigned long long)settings[i].min, (unsigned long long)settings[i].max, figure);
        *settings[i].value = n;
        return 0;
    }
    return ctl_fail(CTL_USAGE, "a session has guaranteed-rows=N, max-rows=N, group=N and priority=N, but no '%s'",
                    word);
}

static int parse_session(char **words, int count, struct limits_change *ret) {
    if (count < 2)
        return usage_session();
    ret->name = words[0];
    for (int i = 1; i < count; i++) {
        int status = parse_setting(words[i], ret);
        if (status)
            return status;
    }
    if (!ret->guaranteed_rows && !ret->max_rows && (!ret->priority || ret->group != PROTO_ALL_GROUPS))
        return usage_session(); /* a group alone changes nothing */
    return 0;
}

int limits_parse(char **words, int count, struct limits_change *ret) {
    struct limits_change change = {.group = PROTO_ALL_GROUPS};
    int status;
    if (count >= 1 && strcmp(words[0], "pool") == 0) {
        change.what = LIMITS_POOL;
        status = parse_pool(words + 1, count - 1, &change);
    } else if (count >= 1 && strcmp(words[0], "session") == 0) {
        change.what = LIMITS_SESSION;
        status = parse_session(words + 1, count - 1, &change);
    } else {
        status = ctl_fail(CTL_USAGE, "say what to set: `limits set pool SIZE` or `limits set session ID NAME=N ...`");
    }
    if (status == 0)
        *ret = change;
    return status;
}

/* ---------- a pool ---------- */

static const struct proto_pool_stat *pool_find(const struct ctl_answer *pools, const char *name) {
    const struct proto_pool_stat *entries = pools->entries;
    for (size_t i = 0; i < pools->count; i++)
        if (name ? strncmp(entries[i].name, name, sizeof entries[i].name) == 0 : pools->count == 1)
            return &entries[i];
    if (name)
        ctl_fail(CTL_REFUSED, "there is no pool '%s'; `scissorctl limits` lists them", name);
    else
        ctl_fail(CTL_REFUSED, "there are %zu pools: say which one, `limits set pool NAME SIZE`", pools->count);
    return NULL;
}

/* What the limit is going to be, from a daemon that may not say so. */
static uint64_t pool_target(const struct proto_pool_stat *p) {
    return p->target_bytes ? p->target_bytes : p->limit_bytes;
}

static int show_pool(struct ctl *ctl, const struct proto_pool_stat *old, const struct proto_pool_stat *now) {
    if (ctl->json)
        return ctl_json_print(json_pack("{s:o, s:I, s:I, s:I, s:I}", "pool", ctl_json_text(now->name),
                                        "old_limit_bytes", INT(pool_target(old)), "new_limit_bytes",
                                        INT(pool_target(now)), "limit_bytes_now", INT(now->limit_bytes),
                                        "charged_bytes", INT(now->charged_bytes)),
                              false);
    struct out o;
    out_init(&o, ctl->colour);
    out_printf(&o, "pool %s: limit %s -> %s\n", NAME(now->name), BYTES(pool_target(old)), BYTES(pool_target(now)));
    out_printf(&o, "until the daemon ends; for its next start, set `pool` in its configuration, too\n");
    if (now->limit_bytes > pool_target(now))
        out_printf(&o, "lent memory is being taken back: %s are still charged, so the limit is %s just now\n",
                   BYTES(now->charged_bytes), BYTES(now->limit_bytes));
    return out_print(&o);
}

static int set_pool(struct ctl *ctl, struct ctl_link *link, const uint8_t *key, const struct limits_change *change) {
    struct ctl_answer before, done, after;
    int status = ctl_link_ask(link, PROTO_OP_STAT, 0, &before);
    if (status)
        return status;
    const struct proto_pool_stat *pool = pool_find(&before, change->name);
    size_t index = pool ? (size_t)(pool - (const struct proto_pool_stat *)before.entries) : 0;
    const uint64_t value[3] = {index, change->bytes, 0};
    status = pool ? ctl_link_change_to(link, PROTO_OP_SET_POOL, 0, value, key, &done) : CTL_REFUSED;
    if (status == CTL_DONE) {
        ctl_answer_deinit(&done);
        status = ctl_link_ask(link, PROTO_OP_STAT, 0, &after);
        if (status == CTL_DONE) {
            if (index < after.count)
                status = show_pool(ctl, pool, (const struct proto_pool_stat *)after.entries + index);
            ctl_answer_deinit(&after);
        }
    }
    ctl_answer_deinit(&before);
    return status;
}

/* ---------- a session ---------- */

static json_t *pack_budgets(const struct ctl_answer *groups, uint64_t session) {
    const struct proto_group_stat *g = groups->entries;
    json_t *list = json_array();
    for (size_t i = 0; list && i < groups->count; i++) {
        if (g[i].session != session)
            continue;
        json_t *one = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "group", INT(g[i].group), "first_layer",
                                INT(g[i].first_layer), "layers", INT(g[i].layers), "kv_heads", INT(g[i].kv_heads),
                                "guaranteed_rows", INT(g[i].guaranteed_rows), "max_rows", INT(g[i].max_rows), "policy",
                                ctl_json_text(g[i].policy));
        if (json_array_append_new(list, one) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

/* A session as it was before a change, or is after it. */
struct limits_session {
    struct proto_session_stat stat;
    struct ctl_answer groups;
};

static int session_look(struct ctl_link *link, const char *name, struct limits_session *ret) {
    int status = ctl_session_ask(link, name, &ret->stat);
    return status ? status : ctl_link_ask(link, PROTO_OP_GROUPS, ret->stat.session, &ret->groups);
}

static json_t *pack_session(const struct limits_session *s) {
    return json_pack("{s:I, s:I, s:I, s:I, s:o}", "guaranteed_rows", INT(s->stat.guaranteed_rows), "max_rows",
                     INT(s->stat.max_rows), "priority", INT(s->stat.priority), "guaranteed_bytes",
                     INT(s->stat.guaranteed_bytes), "budgets", pack_budgets(&s->groups, s->stat.session));
}

static int show_session_json(const struct limits_change *change, const struct limits_session *old,
                             const struct limits_session *now) {
    json_t *group = change->group == PROTO_ALL_GROUPS ? json_null() : json_integer(INT(change->group));
    return ctl_json_print(json_pack("{s:I, s:o, s:o, s:o}", "session", INT(now->stat.session), "group", group, "old",
                                    pack_session(old), "new", pack_session(now)),
                          false);
}

static void view_change(struct out *o, const char **between, const char *what, uint32_t old, uint32_t now) {
    out_printf(o, "%s%s %s -> %s", *between, what, COUNT(old), COUNT(now));
    *between = ", ";
}

static int show_session(struct ctl *ctl, const struct limits_change *change, const struct limits_session *old,
                        const struct limits_session *now) {
    const struct proto_group_stat *was = old->groups.entries, *is = now->groups.entries;
    struct out o;
    if (ctl->json)
        return show_session_json(change, old, now);
    out_init(&o, ctl->colour);
    out_printf(&o, "session %llu%s%s%s:", (unsigned long long)now->stat.session, now->stat.name[0] ? " (" : "",
               NAME(now->stat.name), now->stat.name[0] ? ")" : "");
    const char *between = " ";
    for (size_t i = 0; i < now->groups.count && i < old->groups.count; i++) {
        if (change->group != PROTO_ALL_GROUPS && change->group != is[i].group)
            continue;
        if (now->groups.count > 1 && (change->guaranteed_rows || change->max_rows)) {
            out_printf(&o, "%sgroup %u", between, is[i].group);
            between = " ";
        }
        if (change->guaranteed_rows)
            view_change(&o, &between, "guaranteed rows", was[i].guaranteed_rows, is[i].guaranteed_rows);
        if (change->max_rows)
            view_change(&o, &between, "most rows", was[i].max_rows, is[i].max_rows);
    }
    if (change->priority)
        view_change(&o, &between, "priority", old->stat.priority, now->stat.priority);
    out_printf(&o, "\n");
    if (old->stat.guaranteed_bytes != now->stat.guaranteed_bytes)
        out_printf(&o, "guaranteed memory %s -> %s\n", BYTES(old->stat.guaranteed_bytes),
                   BYTES(now->stat.guaranteed_bytes));
    return out_print(&o);
}

static int change_to(struct ctl_link *link, uint32_t op, uint64_t session, const uint64_t value[3],
                     const uint8_t *key) {
    struct ctl_answer done;
    int status = ctl_link_change_to(link, op, session, value, key, &done);
    if (status == CTL_DONE)
        ctl_answer_deinit(&done);
    return status;
}

static int change_session(struct ctl_link *link, uint64_t session, const uint8_t *key,
                          const struct limits_change *change) {
    const uint64_t rows[3] = {change->guaranteed_rows, change->max_rows, change->group};
    const uint64_t priority[3] = {change->priority, 0, 0};
    int status = CTL_DONE;
    /* What may be refused comes first; so a refusal leaves everything as it was. */
    if (change->guaranteed_rows || change->max_rows)
        status = change_to(link, PROTO_OP_SET_BUDGET, session, rows, key);
    if (status == CTL_DONE && change->priority)
        status = change_to(link, PROTO_OP_SET_PRIORITY, session, priority, key);
    return status;
}

static int set_session(struct ctl *ctl, struct ctl_link *link, const uint8_t *key, const struct limits_change *change) {
    struct limits_session old = {.groups = {.entries = NULL}}, now = old;
    char id[24];
    int status = session_look(link, change->name, &old);
    if (status == CTL_DONE)
        status = change_session(link, old.stat.session, key, change);
    snprintf(id, sizeof id, "%llu", (unsigned long long)old.stat.session);
    if (status == CTL_DONE)
        status = session_look(link, id, &now);
    if (status == CTL_DONE)
        status = show_session(ctl, change, &old, &now);
    ctl_answer_deinit(&old.groups);
    ctl_answer_deinit(&now.groups);
    return status;
}

/* ---------- showing ---------- */

struct limits {
    struct ctl_answer pools, sessions, groups;
};

static void limits_deinit(struct limits *l) {
    ctl_answer_deinit(&l->pools);
    ctl_answer_deinit(&l->sessions);
    ctl_answer_deinit(&l->groups);
}

static int limits_ask(struct ctl_link *link, struct limits *ret) {
    int status = ctl_link_ask(link, PROTO_OP_STAT, 0, &ret->pools);
    if (status == CTL_DONE)
        status = ctl_link_ask(link, PROTO_OP_SESSIONS, 0, &ret->sessions);
    return status ? status : ctl_link_ask(link, PROTO_OP_GROUPS, 0, &ret->groups);
}

static void view_pools(struct out *o, const struct ctl_answer *pools) {
    const struct proto_pool_stat *pool = pools->entries;
    for (size_t i = 0; i < pools->count; i++) {
        out_bold(o, "pool %s", NAME(pool[i].name));
        out_printf(o, "  limit %s", BYTES(pool[i].limit_bytes));
        if (pool_target(&pool[i]) != pool[i].limit_bytes)
            out_printf(o, " going down to %s", BYTES(pool_target(&pool[i])));
        out_printf(o, ", charged %s, guaranteed %s, lent %s\n", BYTES(pool[i].charged_bytes),
                   BYTES(pool[i].guaranteed_bytes), BYTES(pool[i].lent_bytes));
    }
}

static void view_budget(struct table *t, uint32_t group, uint32_t guaranteed_rows, uint32_t max_rows) {
    table_cell(t, "%u", group);
    table_cell(t, "%s", COUNT(guaranteed_rows));
    table_cell(t, "%s", COUNT(max_rows));
}

static void view_session(struct table *t, const struct proto_session_stat *s) {
    table_cell(t, "%llu", (unsigned long long)s->session);
    table_cell(t, "%s", NAME(s->name));
    table_cell(t, "%u", s->priority);
    table_cell(t, "%s", COUNT(s->settled_max));
    table_cell(t, "%s", BYTES(s->guaranteed_bytes));
    table_cell(t, "%s", BYTES(s->charged_bytes));
    view_budget(t, 0, s->guaranteed_rows, s->max_rows);
}

static void view_limits(struct out *o, const struct limits *l) {
    static const char *const titles[] = {">SESSION", "NAME",   ">PRIORITY",        ">ROWS/HEAD", ">GUARANTEED",
                                         ">CHARGED", ">GROUP", ">GUARANTEED ROWS", ">MAX ROWS"};
    const struct proto_session_stat *s = l->sessions.entries;
    const struct proto_group_stat *g = l->groups.entries;
    struct table t;
    view_pools(o, &l->pools);
    table_init(&t, titles, sizeof titles / sizeof titles[0]);
    for (size_t i = 0; i < l->sessions.count; i++) {
        view_session(&t, &s[i]);
        for (size_t k = 0; s[i].groups > 1 && k < l->groups.count; k++) {
            if (g[k].session != s[i].session || g[k].group == 0)
                continue;
            for (int blank = 0; blank < 6; blank++)
                table_cell(&t, "%s", "");
            view_budget(&t, g[k].group, g[k].guaranteed_rows, g[k].max_rows);
        }
    }
    if (l->sessions.count)
        table_print(&t, o, "");
    table_deinit(&t);
}

static json_t *pack_sessions(const struct limits *l) {
    const struct proto_session_stat *s = l->sessions.entries;
    json_t *list = ctl_json_sessions(&l->sessions);
    for (size_t i = 0; list && i < l->sessions.count; i++) {
        if (json_object_set_new(json_array_get(list, i), "budgets", pack_budgets(&l->groups, s[i].session)) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static int show_limits(struct ctl *ctl) {
    struct ctl_link link;
    struct limits l = {.pools = {.entries = NULL}};
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    status = limits_ask(&link, &l);
    ctl_link_close(&link);
    if (status == CTL_DONE && ctl->json) {
        status = ctl_json_print(
            json_pack("{s:o, s:o}", "pools", ctl_json_pools(&l.pools), "sessions", pack_sessions(&l)), false);
    } else if (status == CTL_DONE) {
        struct out o;
        out_init(&o, ctl->colour);
        view_limits(&o, &l);
        status = out_print(&o);
    }
    limits_deinit(&l);
    return status;
}

int ctl_limits(struct ctl *ctl) {
    struct ctl_link link;
    struct limits_change change;
    struct ctl_pass pass;
    if (!ctl->word_count)
        return show_limits(ctl);
    if (strcmp(ctl->words[0], "set") != 0)
        return ctl_fail(CTL_USAGE, "`limits` takes nothing or `set`, not '%s'", ctl->words[0]);
    int status = limits_parse(ctl->words + 1, ctl->word_count - 1, &change);
    if (status == 0)
        status = ctl_change_open(ctl, &link, &pass);
    if (status)
        return status;
    status = change.what == LIMITS_POOL ? set_pool(ctl, &link, pass.is.pass, &change)
                                        : set_session(ctl, &link, pass.is.pass, &change);
    ctl_change_close(&link, &pass);
    return status;
}
