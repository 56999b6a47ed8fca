/* top_frame.c - asks for pools and sessions, and compares with the frame before. Rates are by the daemon's clock, so a
 * slow answer or a pause makes none of them wrong. */
#include "top_frame.h"

#include "alloc.h"

void top_frame_deinit(struct top_frame *f) {
    ctl_answer_deinit(&f->pools);
    ctl_answer_deinit(&f->sessions);
    f->rows = scissor_free(f->rows);
}

/* Of counters that only grow; one that shrank belongs to another process. */
static double rate(uint64_t now, uint64_t before, double seconds) {
    return now > before && seconds > 0 ? (double)(now - before) / seconds : 0;
}

static uint64_t evicted_rows(const uint64_t by_reason[PROTO_REASON_COUNT]) {
    uint64_t sum = 0;
    for (size_t i = 0; i < PROTO_REASON_COUNT; i++)
        sum += by_reason[i];
    return sum;
}

static void compare_pools(struct top_frame *f, const struct top_frame *before) {
    f->rates = (struct top_rates){.tokens = 0};
    for (size_t i = 0; i < f->pools.count && i < before->pools.count; i++) {
        const struct proto_pool_stat *now = top_frame_pool(f, i), *old = top_frame_pool(before, i);
        f->rates.settles += rate(now->settles, old->settles, f->seconds);
        f->rates.scores_lost += rate(now->scores_lost, old->scores_lost, f->seconds);
        for (size_t j = 0; j < PROTO_REASON_COUNT; j++)
            f->rates.evicted[j] += rate(now->evicted[j], old->evicted[j], f->seconds);
        for (size_t j = 0; j < PROTO_FRAME_COUNT; j++) {
            double frames = rate(now->frames[j], old->frames[j], f->seconds);
            if (j == PROTO_FRAME_FOLDED)
                f->rates.frames += frames;
            else
                f->rates.frames_lost += frames;
        }
    }
}

/* Both lists are in the same order but for what came and went, so the search begins behind the last one found. */
static void compare_sessions(struct top_frame *f, const struct top_frame *before) {
    size_t at = 0;
    for (size_t i = 0; i < f->sessions.count; i++) {
        const struct proto_session_stat *now = top_frame_session(f, i);
        f->rows[i] = (struct top_row){.tokens = 0};
        for (size_t tried = 0; tried < before->sessions.count; tried++, at++) {
            at = at < before->sessions.count ? at : 0;
            const struct proto_session_stat *old = top_frame_session(before, at);
            if (old->session != now->session)
                continue;
            f->rows[i].tokens = rate(now->tokens_seen, old->tokens_seen, f->seconds);
            f->rows[i].evicted = rate(evicted_rows(now->evicted), evicted_rows(old->evicted), f->seconds);
            break;
        }
        f->rates.tokens += f->rows[i].tokens;
    }
}

bool top_frame_compare(struct top_frame *f, const struct top_frame *before) {
    f->rows = scissor_calloc(f->sessions.count + 1, sizeof *f->rows);
    if (!f->rows)
        return false;
    f->seconds = 0;
    if (f->pools.count && before->pools.count && top_frame_pool(f, 0)->uptime_ns > top_frame_pool(before, 0)->uptime_ns)
        f->seconds = (double)(top_frame_pool(f, 0)->uptime_ns - top_frame_pool(before, 0)->uptime_ns) / 1e9;
    compare_pools(f, before);
    compare_sessions(f, before);
    return true;
}

int top_frame_take(struct ctl_link *link, const struct top_frame *before, struct top_frame *ret) {
    struct top_frame f = {.seconds = 0};
    int status = ctl_link_ask(link, PROTO_OP_STAT, 0, &f.pools);
    if (status)
        return status;
    status = ctl_link_ask(link, PROTO_OP_SESSIONS, 0, &f.sessions);
    if (status == CTL_DONE && !top_frame_compare(&f, before))
        status = ctl_fail(CTL_REFUSED, "out of memory");
    if (status)
        top_frame_deinit(&f);
    else
        *ret = f;
    return status;
}
