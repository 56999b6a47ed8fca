/* positions.c - `scissorctl positions`: which tokens a head holds.
 *
 * A list of several pages would be a mixture if the session settled between two of them; then it is asked for again.
 */
#include "positions.h"

#include <stdlib.h>

#include "json.h"
#include "read.h"
#include "view.h"

#define TRIES 20
#define LINE_CHARACTERS 100

static int compare(const void *left, const void *right) {
    const struct proto_position *a = left, *b = right;
    return a->position < b->position ? -1 : a->position > b->position;
}

void ctl_view_positions(struct out *o, struct proto_position *positions, size_t count) {
    if (!count) {
        out_printf(o, "none\n");
        return;
    }
    qsort(positions, count, sizeof *positions, compare);
    int column = 0;
    for (size_t first = 0, last; first < count; first = last + 1) {
        for (last = first; last + 1 < count && positions[last + 1].position == positions[last].position + 1; last++) {
        }
        char run[32];
        int length = snprintf(run, sizeof run, last > first ? "%u-%u" : "%u", positions[first].position,
                              positions[last].position);
        const char *between = !first ? "" : column + length + 2 > LINE_CHARACTERS ? ",\n" : ", ";
        column = *between == ',' && between[1] == '\n' ? length : column + length + 2;
        out_printf(o, "%s%s", between, run);
    }
    out_printf(o, "\n");
}

json_t *ctl_json_positions(const struct proto_position *positions, size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < count; i++) {
        if (json_array_append_new(list, json_integer(INT(positions[i].position))) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static int positions_ask(struct ctl_link *link, const struct proto_session_stat *session, const uint64_t value[3],
                         struct ctl_answer *ret) {
    char id[24];
    struct proto_session_stat before = *session, after;
    snprintf(id, sizeof id, "%llu", (unsigned long long)session->session);
    for (int i = 0;; i++) {
        int status = ctl_link_ask_about(link, PROTO_OP_POSITIONS, session->session, value, ret);
        /* head.count is that of the last page */
        if (status || ret->count == ret->head.count)
            return status;
        status = ctl_session_ask(link, id, &after);
        if (status == CTL_DONE && (after.settles == before.settles || i + 1 == TRIES)) {
            if (after.settles == before.settles)
                return CTL_DONE;
            status = ctl_fail(CTL_REFUSED, "the session settled each time that it was asked; try again");
        }
        ctl_answer_deinit(ret);
        if (status)
            return status;
        before = after;
    }
}

int ctl_positions(struct ctl *ctl) {
    struct ctl_link link;
    struct proto_session_stat session;
    struct ctl_answer answer;
    if (!ctl->layer_given || !ctl->head_given)
        return ctl_fail(CTL_USAGE, "usage: scissorctl positions ID --layer L --head H");
    const uint64_t value[3] = {ctl->layer, ctl->head, 0};
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    status = ctl_session_ask(&link, ctl->argument, &session);
    if (status == CTL_DONE)
        status = positions_ask(&link, &session, value, &answer);
    ctl_link_close(&link);
    if (status)
        return status;
    if (ctl->json) {
        status = ctl_json_print(json_pack("{s:I, s:I, s:I, s:I, s:o}", "session", INT(session.session), "layer",
                                          INT(ctl->layer), "kv_head", INT(ctl->head), "settled_rows", INT(answer.count),
                                          "positions", ctl_json_positions(answer.entries, answer.count)),
                                false);
    } else {
        struct out o;
        out_init(&o, ctl->colour);
        out_bold(&o, "session %llu", (unsigned long long)session.session);
        out_printf(&o, "  layer %llu, KV head %llu: %s settled rows of %s tokens\n", (unsigned long long)ctl->layer,
                   (unsigned long long)ctl->head, COUNT(answer.count), COUNT(session.tokens_seen));
        ctl_view_positions(&o, answer.entries, answer.count);
        status = out_print(&o);
    }
    ctl_answer_deinit(&answer);
    return status;
}
