/* read.c - the commands that only look: stat, sessions, session, version. */
#include "read.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "out.h"
#include "place.h"
#include "sort.h"
#include "view.h"

int ctl_stat(struct ctl *ctl) {
    struct ctl_answer answer;
    int status = ctl_ask(ctl, PROTO_OP_STAT, 0, &answer);
    if (status)
        return status;
    if (ctl->json) {
        char epoch[24];
        snprintf(epoch, sizeof epoch, "%016" PRIx64, answer.head.epoch);
        status = ctl_json_print(json_pack("{s:s, s:o}", "epoch", epoch, "pools", ctl_json_pools(&answer)), false);
    } else {
        struct out o;
        out_init(&o, ctl->colour);
        const struct proto_pool_stat *pools = answer.entries;
        for (size_t i = 0; i < answer.count; i++)
            ctl_view_pool(&o, &pools[i]);
        status = out_print(&o);
    }
    ctl_answer_deinit(&answer);
    return status;
}

int ctl_sessions(struct ctl *ctl) {
    struct ctl_answer answer;
    int status = ctl_ask(ctl, PROTO_OP_SESSIONS, 0, &answer);
    if (status)
        return status;
    if (ctl->sort || ctl->reverse)
        ctl_sort_sessions(answer.entries, answer.count, ctl->sort ? ctl->sort : "id", ctl->reverse);
    if (ctl->json) {
        status = ctl_json_print(json_pack("{s:o}", "sessions", ctl_json_sessions(&answer)), false);
    } else {
        struct out o;
        out_init(&o, ctl->colour);
        ctl_view_sessions(&o, answer.entries, NULL, answer.count);
        status = out_print(&o);
    }
    ctl_answer_deinit(&answer);
    return status;
}

/* How many are called `what` among those that are open, or among those in quarantine; *ret_found is one of them. */
static size_t count_named(const struct ctl_answer *sessions, const char *what, bool open,
                          const struct proto_session_stat **ret_found) {
    const struct proto_session_stat *entries = sessions->entries;
    size_t named = 0;
    for (size_t i = 0; i < sessions->count; i++) {
        if (strncmp(entries[i].name, what, sizeof entries[i].name) != 0 ||
            (entries[i].state != PROTO_SESSION_QUARANTINED) != open)
            continue;
        *ret_found = &entries[i];
        named++;
    }
    return named;
}

int ctl_session_find(const struct ctl_answer *sessions, const char *what, struct proto_session_stat *ret) {
    const struct proto_session_stat *entries = sessions->entries, *found = NULL;
    char *end;
    errno = 0;
    unsigned long long number = strtoull(what, &end, 10);
    bool is_number = what[0] >= '0' && what[0] <= '9' && !*end && !errno;
    for (size_t i = 0; is_number && i < sessions->count; i++) {
        if (entries[i].session == number) {
            *ret = entries[i];
            return CTL_DONE;
        }
    }
    size_t named = count_named(sessions, what, true, &found);
    if (!named)
        named = count_named(sessions, what, false, &found);
    if (named > 1)
        return ctl_fail(CTL_REFUSED, "%zu sessions are called '%s'; give the number that `scissorctl sessions` shows",
                        named, what);
    if (!named)
        return ctl_fail(CTL_REFUSED, "there is no session '%s'; `scissorctl sessions` lists them", what);
    *ret = *found;
    return CTL_DONE;
}

int ctl_session_ask(struct ctl_link *link, const char *what, struct proto_session_stat *ret) {
    struct ctl_answer sessions;
    int status = ctl_link_ask(link, PROTO_OP_SESSIONS, 0, &sessions);
    if (status)
        return status;
    status = ctl_session_find(&sessions, what, ret);
    ctl_answer_deinit(&sessions);
    return status;
}

static int show_session(struct ctl *ctl, const struct proto_session_stat *s, const struct ctl_answer *heads) {
    if (ctl->json) {
        json_t *session = ctl_json_session(s), *list = ctl_json_heads(heads);
        if (!session || !list || json_object_set(session, "per_head", list) < 0) {
            json_decref(session);
            session = NULL;
        }
        json_decref(list);
        return ctl_json_print(session, false);
    }
    struct out o;
    out_init(&o, ctl->colour);
    ctl_view_session(&o, s);
    (ctl->heads ? ctl_view_heads : ctl_view_layers)(&o, heads->entries, heads->count);
    return out_print(&o);
}

int ctl_session(struct ctl *ctl) {
    struct ctl_link link;
    struct proto_session_stat session;
    struct ctl_answer heads;
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    status = ctl_session_ask(&link, ctl->argument, &session);
    if (status == CTL_DONE)
        status = ctl_link_ask(&link, PROTO_OP_SESSION, session.session, &heads);
    if (status == CTL_DONE) {
        status = show_session(ctl, &session, &heads);
        ctl_answer_deinit(&heads);
    }
    ctl_link_close(&link);
    return status;
}

int ctl_version(struct ctl *ctl) {
    char daemon[PROTO_NAME_BYTES] = "";
    unsigned protocol = 0;
    struct ctl_answer answer;
    /* No daemon is no failure here. */
    if (ctl_place_check(ctl->directory, PROTO_CONTROL_SOCKET, false) == CTL_DONE &&
        ctl_ask(ctl, PROTO_OP_STAT, 0, &answer) == CTL_DONE) {
        if (answer.count) {
            const struct proto_pool_stat *pool = answer.entries;
            snprintf(daemon, sizeof daemon, "%.31s", figure_name(&(struct figure){""}, pool->version));
            protocol = pool->version_major_minor;
        }
        ctl_answer_deinit(&answer);
    }
    if (ctl->json) {
        json_t *o = json_pack("{s:s, s:s}", "scissorctl", SCISSOR_VERSION, "scissord", daemon);
        return ctl_json_print(o, false);
    }
    printf("scissorctl %s, protocol %d.%d\n", SCISSOR_VERSION, PROTO_VERSION_MAJOR, PROTO_VERSION_MINOR);
    if (*daemon)
        printf("scissord %s, protocol %u.%u, in %s\n", daemon, protocol >> 16, protocol & 0xffffu, ctl->directory);
    else
        printf("scissord is not running in %s\n", ctl->directory);
    return CTL_DONE;
}
