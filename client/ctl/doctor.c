/* doctor.c - `scissorctl doctor`: gathers two looks at a running daemon, and prints what is found in them. */
#include "doctor.h"

#include "json.h"
#include "live.h"
#include "view.h"

/* Between the two looks: long enough for rates, short enough to wait for. */
#define SAMPLE_MS 400

static json_t *pack_finding(const struct doctor_finding *f) {
    return json_pack("{s:s, s:s, s:s, s:s, s:f, s:f, s:s, s:o}", "id", f->id, "severity",
                     doctor_severity_name(f->severity), "sentence", f->sentence, "advice", f->advice, "value", f->value,
                     "threshold", f->threshold, "unit", f->unit, "session",
                     f->session ? json_integer(INT(f->session)) : json_null());
}

static uint64_t frames(const struct proto_pool_stat *p) {
    uint64_t sum = 0;
    for (size_t i = 0; i < PROTO_FRAME_COUNT; i++)
        sum += p->frames[i];
    return sum;
}

static int show_json(const struct doctor_state *state, const struct doctor_findings *findings) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < findings->count; i++) {
        if (json_array_append_new(list, pack_finding(&findings->list[i])) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    const char *worst = findings->count ? doctor_severity_name(doctor_worst(findings)) : "healthy";
    return ctl_json_print(json_pack("{s:s, s:o, s:{s:I, s:I, s:I, s:f}}", "result", worst, "findings", list,
                                    "looked_at", "pools", INT(state->pool_count), "sessions", INT(state->session_count),
                                    "score_frames", INT(state->pool_count ? frames(state->pools) : 0), "sample_seconds",
                                    state->seconds),
                          false);
}

static void view_healthy(struct out *o, const struct doctor_state *state) {
    const struct proto_pool_stat *p = state->pools;
    out_bold(o, "healthy");
    out_printf(o, ": %zu pool%s, ", state->pool_count, state->pool_count == 1 ? "" : "s");
    if (state->pool_count)
        out_printf(o, "%s of %s charged, ", BYTES(p->charged_bytes), BYTES(p->limit_bytes));
    out_printf(o, "%zu session%s, ", state->session_count, state->session_count == 1 ? "" : "s");
    if (state->pool_count)
        out_printf(o, "%s settles, %s score frames, ", COUNT(p->settles), COUNT(frames(p)));
    out_printf(o, "memory, descriptors and restarts were looked at, and nothing is wrong.\n");
}

static void view_findings(struct out *o, const struct doctor_state *state, const struct doctor_findings *findings) {
    size_t of[DOCTOR_CRITICAL + 1] = {0};
    for (size_t i = 0; i < findings->count; i++) {
        const struct doctor_finding *f = &findings->list[i];
        of[f->severity]++;
        out_bold(o, "%s", doctor_severity_name(f->severity));
        out_printf(o, " %s: %s\n    %s\n", f->id, f->sentence, f->advice);
    }
    if (doctor_worst(findings) == DOCTOR_NOTE)
        view_healthy(o, state);
    else
        out_printf(o, "%zu critical, %zu warning%s, %zu note%s\n", of[DOCTOR_CRITICAL], of[DOCTOR_WARNING],
                   of[DOCTOR_WARNING] == 1 ? "" : "s", of[DOCTOR_NOTE], of[DOCTOR_NOTE] == 1 ? "" : "s");
}

static int show(struct ctl *ctl, const struct doctor_state *state) {
    struct doctor_findings findings;
    int status;
    doctor_examine(state, &findings);
    if (findings.failed) {
        status = ctl_fail(CTL_REFUSED, "out of memory");
    } else if (ctl->json) {
        status = show_json(state, &findings);
    } else {
        struct out o;
        out_init(&o, ctl->colour);
        view_findings(&o, state, &findings);
        status = out_print(&o);
    }
    if (status == CTL_DONE && doctor_worst(&findings) != DOCTOR_NOTE)
        status = doctor_worst(&findings) == DOCTOR_CRITICAL ? CTL_CRITICAL : CTL_WARNING;
    doctor_findings_deinit(&findings);
    return status;
}

static int gather(struct ctl_link *link, struct ctl_answer *before, struct ctl_answer *pools,
                  struct ctl_answer *sessions, struct ctl_answer *memory) {
    int status = ctl_link_ask(link, PROTO_OP_STAT, 0, before);
    if (status == CTL_DONE) {
        ctl_live_sleep(SAMPLE_MS);
        status = ctl_link_ask(link, PROTO_OP_STAT, 0, pools);
    }
    if (status == CTL_DONE)
        status = ctl_link_ask(link, PROTO_OP_SESSIONS, 0, sessions);
    return status ? status : ctl_link_ask(link, PROTO_OP_MEMORY, 0, memory);
}

int ctl_doctor(struct ctl *ctl) {
    struct ctl_link link;
    struct ctl_answer before = {.entries = NULL}, pools = before, sessions = before, memory = before;
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    status = gather(&link, &before, &pools, &sessions, &memory);
    ctl_link_close(&link);
    if (status == CTL_DONE) {
        struct doctor_state state = {
            .pools = pools.entries,
            .pool_count = pools.count,
            .pools_before = before.entries,
            .pool_before_count = before.count,
            .sessions = sessions.entries,
            .session_count = sessions.count,
            .memory = memory.entries,
            .memory_count = memory.count,
        };
        if (pools.count && before.count && state.pools->uptime_ns > state.pools_before->uptime_ns)
            state.seconds = SECONDS(state.pools->uptime_ns - state.pools_before->uptime_ns);
        doctor_look_at_machine(ctl->directory, &state);
        status = show(ctl, &state);
    }
    ctl_answer_deinit(&before);
    ctl_answer_deinit(&pools);
    ctl_answer_deinit(&sessions);
    ctl_answer_deinit(&memory);
    return status;
}
