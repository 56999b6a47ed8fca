/* view.c - aligned text of the daemon's structs. Byte figures are in binary units, every figure has its unit. */
#include "view.h"

#include <string.h>
#include <time.h>

#include "dtype.h"
#include "scissor_error.h"

static const char *plural(uint64_t n) {
    return n == 1 ? "" : "s";
}

void ctl_view_counters(struct out *o, const uint64_t *counters, size_t count, const char *(*name)(uint32_t)) {
    const char *between = "";
    for (uint32_t i = 0; i < count; i++) {
        if (!counters[i])
            continue;
        out_printf(o, "%s%s %s", between, COUNT(counters[i]), name(i));
        between = ", ";
    }
    out_printf(o, "%s", *between ? "" : "none");
}

bool ctl_on_host(const struct proto_pool_stat *p) {
    return !*p->device || strcmp(p->device, "host") == 0;
}

const char *ctl_session_state(const struct proto_session_stat *s) {
    return s->orphan ? "orphan" : proto_session_state_name(s->state);
}

static void view_device(struct out *o, const struct proto_pool_stat *p) {
    if (!ctl_on_host(p))
        out_printf(o, "  device      %s%s\n", NAME(p->device),
                   p->device_lost ? ", which has failed; restart scissord to use it again" : "");
    if (p->quarantined)
        out_printf(o, "  quarantined %s of %u session%s that ended, until who has it open closes it or is gone\n",
                   BYTES(p->quarantined_bytes), p->quarantined, plural(p->quarantined));
}

void ctl_view_pool(struct out *o, const struct proto_pool_stat *p) {
    out_bold(o, "pool %s", NAME(p->name));
    out_printf(o, "  scissord %s, up %s%s\n", NAME(p->version), TIME(p->uptime_ns),
               p->draining ? ", draining: no new sessions" : "");
    view_device(o, p);
    out_printf(o, "  limit       %s", BYTES(p->limit_bytes));
    if (p->target_bytes && p->target_bytes != p->limit_bytes)
        out_printf(o, ", going down to %s as lent memory comes back", BYTES(p->target_bytes));
    out_printf(o, "\n");
    out_printf(o, "  charged     %s (%s of the limit) in %s segment%s\n", BYTES(p->charged_bytes),
               PERCENT(p->charged_bytes, p->limit_bytes), COUNT(p->segments), plural(p->segments));
    out_printf(o, "  peak        %s (%s)\n", BYTES(p->peak_bytes), PERCENT(p->peak_bytes, p->limit_bytes));
    out_printf(o, "  guaranteed  %s (%s)\n", BYTES(p->guaranteed_bytes), PERCENT(p->guaranteed_bytes, p->limit_bytes));
    out_printf(o, "  lent        %s\n", BYTES(p->lent_bytes));
    out_printf(o, "  reclaimed   %s segment%s\n", COUNT(p->reclaims), plural(p->reclaims));
    out_printf(o, "  sessions    %s open, %s waiting for memory; %s opened, %s closed, %s refused\n",
               COUNT(p->sessions), COUNT(p->waiting), COUNT(p->opened), COUNT(p->closed), COUNT(p->refused));
    out_printf(o, "  evicted     rows: ");
    ctl_view_counters(o, p->evicted, PROTO_REASON_COUNT, proto_reason_name);
    out_printf(o, "\n  settles     %s, %s of them without all scores\n", COUNT(p->settles), COUNT(p->scores_lost));
    out_printf(o, "  frames      ");
    ctl_view_counters(o, p->frames, PROTO_FRAME_COUNT, proto_frame_name);
    out_printf(o, "\n  bad scores  %s value%s\n", COUNT(p->bad_scores), plural(p->bad_scores));
    out_printf(o, "  front       %s restart%s\n", COUNT(p->front_restarts), plural(p->front_restarts));
    if (p->stored_max)
        out_printf(o, "  restarts    %s of %s descriptors are kept for the next process\n", COUNT(p->stored),
                   COUNT(p->stored_max));
    else
        out_printf(o, "  restarts    sessions do not outlive this process\n");
    if (p->taken_over || p->lost)
        out_printf(o, "  taken over  %s session%s, %s of which wait for their client; %s lost\n", COUNT(p->taken_over),
                   plural(p->taken_over), COUNT(p->orphans), COUNT(p->lost));
}

void ctl_view_pool_brief(struct out *o, const struct proto_pool_stat *p) {
    out_bold(o, "pool %s", NAME(p->name));
    out_printf(o, "  %s of %s charged (%s), peak %s, guaranteed %s, lent %s\n", BYTES(p->charged_bytes),
               BYTES(p->limit_bytes), PERCENT(p->charged_bytes, p->limit_bytes), BYTES(p->peak_bytes),
               BYTES(p->guaranteed_bytes), BYTES(p->lent_bytes));
    out_printf(o, "sessions %s, waiting %s, reclaimed %s segment%s, evicted rows: ", COUNT(p->sessions),
               COUNT(p->waiting), COUNT(p->reclaims), plural(p->reclaims));
    ctl_view_counters(o, p->evicted, PROTO_REASON_COUNT, proto_reason_name);
    out_printf(o, "%s\n", p->draining ? "; draining" : "");
}

uint64_t ctl_evicted_rows(const uint64_t by_reason[PROTO_REASON_COUNT]) {
    uint64_t sum = 0;
    for (size_t i = 0; i < PROTO_REASON_COUNT; i++)
        sum += by_reason[i];
    return sum;
}

static void cell_range(struct table *t, uint32_t low, uint32_t high) {
    if (low == high)
        table_cell(t, "%s", COUNT(low));
    else
        table_cell(t, "%s-%s", COUNT(low), COUNT(high));
}

void ctl_view_sessions(struct out *o, const struct proto_session_stat *sessions, const double *rate, size_t count) {
    static const char *const titles[] = {">SESSION",      "NAME",       ">PID",      "STATE",
                                         ">TOKENS SEEN",  ">ROWS/HEAD", ">MAX ROWS", ">CHARGED",
                                         ">EVICTED ROWS", ">IDLE",      ">TOKENS/S"};
    if (!count) {
        out_printf(o, "no session is open\n");
        return;
    }
    struct table t;
    table_init(&t, titles, rate ? 11 : 10);
    for (size_t i = 0; i < count; i++) {
        const struct proto_session_stat *s = &sessions[i];
        table_cell(&t, "%llu", (unsigned long long)s->session);
        table_cell(&t, "%s", NAME(s->name));
        table_cell(&t, "%u", s->pid);
        table_cell(&t, "%s", ctl_session_state(s));
        table_cell(&t, "%s", COUNT(s->tokens_seen));
        cell_range(&t, s->settled_min, s->settled_max);
        table_cell(&t, "%s", COUNT(s->max_rows));
        table_cell(&t, "%s", BYTES(s->charged_bytes));
        table_cell(&t, "%s", COUNT(ctl_evicted_rows(s->evicted)));
        table_cell(&t, "%s", TIME(s->idle_ns));
        if (rate)
            table_cell(&t, "%.1f", rate[i]);
    }
    table_print(&t, o, "");
    table_deinit(&t);
}

void ctl_view_session(struct out *o, const struct proto_session_stat *s) {
    out_bold(o, "session %llu", (unsigned long long)s->session);
    out_printf(o, "  %s%s%s, process %u of user %u\n", NAME(s->name), s->name[0] ? ", " : "",
               proto_session_state_name(s->state), s->pid, s->uid);
    if (s->orphan)
        out_printf(o, "  orphan      taken over from the process before; its client has not come back yet\n");
    if (s->state == PROTO_SESSION_QUARANTINED)
        out_printf(o, "  quarantined for %s: process %u may have its memory open\n",
                   TIME(s->quarantine_s * 1000000000ull), s->pid);
    else if (s->quarantine_s)
        out_printf(o, "  unreleased  for %s it has memory open that it was told to close\n",
                   TIME(s->quarantine_s * 1000000000ull));
    out_printf(o, "  shape       %u group%s, %u layers, %u KV heads in all, computes in %s, stores %s\n", s->groups,
               plural(s->groups), s->layers, s->heads, kernel_dtype_name(s->compute_dtype),
               kernel_dtype_name(s->storage_dtype));
    out_printf(o, "  policy      %s, priority %u\n", NAME(s->policy), s->priority);
    out_printf(o, "  budget      %s rows per KV head guaranteed, %s at most, %s of them fresh\n",
               COUNT(s->guaranteed_rows), COUNT(s->max_rows), COUNT(s->fresh_rows));
    out_printf(o, "  held        %s to %s settled rows per KV head, %s fresh\n", COUNT(s->settled_min),
               COUNT(s->settled_max), COUNT(s->fresh_count));
    out_printf(o, "  tokens      %s seen in %s, last message %s ago\n", COUNT(s->tokens_seen), TIME(s->age_ns),
               TIME(s->idle_ns));
    out_printf(o, "  charged     %s, of which %s are guaranteed\n", BYTES(s->charged_bytes),
               BYTES(s->guaranteed_bytes < s->charged_bytes ? s->guaranteed_bytes : s->charged_bytes));
    out_printf(o, "  settles     %s, %s of them without all scores\n", COUNT(s->settles), COUNT(s->scores_lost));
    out_printf(o, "  evicted     rows: ");
    ctl_view_counters(o, s->evicted, PROTO_REASON_COUNT, proto_reason_name);
    if (s->lowest_mass < 0)
        out_printf(o, "\n  least mass  not gathered: the policy asks for no probabilities\n");
    else
        out_printf(o, "\n  least mass  %.4f of a query's attention goes to its least important rows\n", s->lowest_mass);
}

void ctl_view_event(struct out *o, const struct proto_event *e) {
    char when[32];
    time_t second = (time_t)(e->time_ns / 1000000000u);
    struct tm local;
    localtime_r(&second, &local);
    strftime(when, sizeof when, "%H:%M:%S", &local);
    out_printf(o, "%s.%03u  ", when, (unsigned)(e->time_ns / 1000000u % 1000u));
    out_bold(o, "%-18s", proto_event_name(e->type));
    if (e->session)
        out_printf(o, "  session %llu", (unsigned long long)e->session);
    if (e->name[0])
        out_printf(o, " (%s)", NAME(e->name));
    if (e->rows)
        out_printf(o, "  %s rows", COUNT(e->rows));
    if (e->bytes)
        out_printf(o, "  %s", BYTES(e->bytes));
    if (e->type == PROTO_EVENT_EVICTED)
        out_printf(o, "  by %s", proto_reason_name(e->reason));
    if (e->code)
        out_printf(o, "  %s", scissor_strerror(e->code));
    out_printf(o, "\n");
}
