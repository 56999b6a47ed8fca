/* recorded.c - see recorded.h. */
#include "sim/recorded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scissor_error.h"

#define MUST(condition)                                                               \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "recorded: %s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

/* The replay takes its memory where the broker does, so it may be what an allocation that is to fail hits. */
static void judge(struct recorded *r, int code) {
    if (code && code != SCISSOR_ENOMEM) {
        fprintf(stderr, "recorded: %s\n", r->replay.why);
        abort();
    }
    r->blind |= code != 0;
}

static void take_record(struct recorded *r, const struct proto_recorded *record) {
    const struct replay_spec spec = {0};
    const char *why;
    MUST(trace_check(record->type, r->bytes, record->bytes, &r->shape, &why) == 0);
    r->records++;
    if (record->type == TRACE_SHAPE) {
        memcpy(&r->shape, r->bytes, sizeof r->shape);
        judge(r, replay_init(&r->replay, &r->shape, &spec));
    } else if (record->type == TRACE_END) {
        r->ended++;
        recorded_stop(r);
    } else if (!r->blind) {
        judge(r, replay_record(&r->replay, record->type, r->bytes));
    }
}

void recorded_take(struct recorded *r, const struct proto_recorded *part, const void *bytes, uint32_t count) {
    if (part->type == TRACE_SHAPE) {
        MUST(part->number == 0 && part->offset == 0 && !r->begun);
        r->begun = true;
        r->next = r->unread = 0;
        r->bytes = malloc(TRACE_RECORD_MAX);
        MUST(r->bytes);
    }
    MUST(r->begun && part->offset == r->have && count <= part->bytes - part->offset && part->bytes <= TRACE_RECORD_MAX);
    MUST(r->have ? part->number + 1 == r->next : part->number >= r->next);
    r->lost += r->have ? 0 : part->number - r->next;
    r->next = part->number + 1;
    r->unread += count;
    memcpy(r->bytes + part->offset, bytes, count);
    r->have += count;
    if (r->have < part->bytes)
        return;
    r->have = 0;
    take_record(r, part);
}

void recorded_stop(struct recorded *r) {
    replay_deinit(&r->replay);
    free(r->bytes);
    *r = (struct recorded){.lost = r->lost, .records = r->records, .ended = r->ended};
}
