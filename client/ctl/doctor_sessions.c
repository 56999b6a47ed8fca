/* doctor_sessions.c - findings about single sessions. */
#include <stdio.h>

#include "doctor.h"
#include "view.h"

static void about(struct doctor_finding *f, const struct proto_session_stat *s, char text[64]) {
    f->session = s->session;
    snprintf(text, 64, "Session %llu%s%s%s", (unsigned long long)s->session, s->name[0] ? " (" : "", NAME(s->name),
             s->name[0] ? ")" : "");
}

/* 0 is one that the daemon has no number for. */
static void process_name(const struct proto_session_stat *s, char text[32]) {
    if (s->pid)
        snprintf(text, 32, "process %u", s->pid);
    else
        snprintf(text, 32, "its process");
}

static void examine_eviction(const struct proto_session_stat *s, struct doctor_findings *ret) {
    char who[64];
    double seen = (double)s->tokens_seen * s->heads, settles = (double)s->settles * s->heads;
    uint64_t pressure = s->evicted[PROTO_REASON_PRESSURE], both = pressure + s->evicted[PROTO_REASON_BUDGET];
    bool works = (double)s->idle_ns / 1e9 < doctor_table[DOCTOR_HOG_SECONDS].threshold;
    struct doctor_finding *f = doctor_find(ret, DOCTOR_THRASHES, works ? doctor_percent((double)pressure, seen) : 0);
    if (f) {
        about(f, s, who);
        doctor_say(f,
                   "%s thrashes: of %s rows that it wrote, %s were evicted under pressure (%.1f %%, threshold %g %%): "
                   "it borrows memory and has to give it back again and again.",
                   who, COUNT((uint64_t)seen), COUNT(pressure), f->value, f->threshold);
        doctor_advise(f,
                      "Guarantee it more (`scissorctl limits set session %llu guaranteed-rows=N`), let it borrow less "
                      "(max-rows=N), or give the pool more.",
                      (unsigned long long)s->session);
    }
    double turnover =
        s->settles >= DOCTOR_LEAST_TURNS && s->settled_max ? doctor_percent((double)both / settles, s->settled_max) : 0;
    f = doctor_find(ret, DOCTOR_TURNOVER, turnover);
    if (f) {
        about(f, s, who);
        doctor_say(f,
                   "%s has a budget that is too small for its fresh buffer: each settle evicts %.0f of %s settled rows "
                   "of a head (%.0f %%, threshold %g %%), whatever their attention.",
                   who, (double)both / settles, COUNT(s->settled_max), turnover, f->threshold);
        doctor_advise(f,
                      "Open it with several times its %u fresh rows, or with a smaller fresh buffer; if its most rows "
                      "were lowered since, raise them (`scissorctl limits set session %llu max-rows=N`).",
                      s->fresh_rows, (unsigned long long)s->session);
    }
}

/* Whether somebody would like to have what another one has borrowed. */
static bool pool_is_short(const struct doctor_state *state, uint32_t index) {
    if (index >= state->pool_count)
        return false;
    const struct proto_pool_stat *p = &state->pools[index];
    if (p->waiting ||
        doctor_percent((double)p->charged_bytes, (double)p->limit_bytes) >= doctor_table[DOCTOR_TIGHT].threshold)
        return true;
    return index < state->pool_before_count &&
           p->evicted[PROTO_REASON_PRESSURE] > state->pools_before[index].evicted[PROTO_REASON_PRESSURE];
}

static void examine_idle(const struct doctor_state *state, const struct proto_session_stat *s,
                         struct doctor_findings *ret) {
    double idle = (double)s->idle_ns / 1e9;
    if (idle < doctor_table[DOCTOR_HOG_SECONDS].threshold || !pool_is_short(state, s->pool))
        return;
    char who[64];
    const struct proto_pool_stat *p = &state->pools[s->pool];
    uint64_t lent = s->charged_bytes > s->guaranteed_bytes ? s->charged_bytes - s->guaranteed_bytes : 0;
    struct doctor_finding *f = doctor_find(ret, DOCTOR_HOG, doctor_percent((double)lent, (double)p->limit_bytes));
    if (!f)
        return;
    about(f, s, who);
    doctor_say(
        f,
        "%s is idle for %s and keeps %s that were lent to it (%.1f %% of the limit, threshold %g %%), while memory "
        "is short.",
        who, TIME(s->idle_ns), BYTES(lent), f->value, f->threshold);
    doctor_advise(
        f,
        "Let it have less (`scissorctl limits set session %llu max-rows=%u`, or a low priority=N), or close it "
        "(`scissorctl close %llu`).",
        (unsigned long long)s->session, s->guaranteed_rows, (unsigned long long)s->session);
}

static void examine_fresh(const struct proto_session_stat *s, struct doctor_findings *ret) {
    char who[64], process[32];
    process_name(s, process);
    double age = (double)s->age_ns / 1e9, idle = (double)s->idle_ns / 1e9;
    struct doctor_finding *f = doctor_find(ret, DOCTOR_NEVER, !s->settles && s->fresh_count ? age : 0);
    if (f) {
        about(f, s, who);
        doctor_say(f, "%s is open for %s (threshold %g s), has %u of %u fresh rows and never settled one.", who,
                   TIME(s->age_ns), f->threshold, s->fresh_count, s->fresh_rows);
        doctor_advise(f,
                      "Its engine must call scissor_settle() when the fresh buffer is full; if %s hangs, "
                      "`scissorctl close %llu`.",
                      process, (unsigned long long)s->session);
        return;
    }
    f = doctor_find(ret, DOCTOR_STUCK, s->settles && s->fresh_rows && s->fresh_count >= s->fresh_rows ? idle : 0);
    if (f) {
        about(f, s, who);
        doctor_say(f,
                   "%s has a full fresh buffer of %u rows and said nothing for %s (threshold %g s): it cannot take a "
                   "token before it settles.",
                   who, s->fresh_rows, TIME(s->idle_ns), f->threshold);
        doctor_advise(f, "See what %s does; if it hangs, `scissorctl close %llu`.", process,
                      (unsigned long long)s->session);
    }
}

/* The kernel numbers a process in its own PID namespace and those above it, and has no number for it elsewhere. */
static const char *process_hint(const struct proto_session_stat *s) {
    return s->pid ? ""
                  : " It is in a PID namespace that scissord does not see: look for it in other containers. Before "
                    "Linux 6.5 its end is not seen either, and only scissord's own frees the memory.";
}

static void examine_quarantine(const struct proto_session_stat *s, struct doctor_findings *ret) {
    char who[64], process[32];
    struct doctor_finding *f = doctor_find(ret, DOCTOR_QUARANTINED, s->quarantine_s);
    if (!f)
        return;
    about(f, s, who);
    process_name(s, process);
    doctor_say(f,
               "%s has ended %s ago (threshold %g s), but %s may still have its memory on the device open: %s stay "
               "charged.",
               who, TIME(s->quarantine_s * 1000000000ull), f->threshold, process, BYTES(s->charged_bytes));
    doctor_advise(f,
                  "They are free as soon as %s ends; end it if nobody needs it. An engine that goes on should close "
                  "its sessions before it disconnects.%s",
                  process, process_hint(s));
}

static uint64_t quarantined_bytes(const struct doctor_state *state, uint64_t session) {
    for (size_t i = 0; i < state->memory_count; i++)
        if (state->memory[i].session == session)
            return state->memory[i].quarantined_bytes;
    return 0;
}

/* An open session that was told to close some of its memory, which is in nobody's use until it does. */
static void examine_unreleased(const struct doctor_state *state, const struct proto_session_stat *s,
                               struct doctor_findings *ret) {
    char who[64], process[32];
    uint64_t bytes = quarantined_bytes(state, s->session);
    struct doctor_finding *f = doctor_find(ret, DOCTOR_UNRELEASED, bytes ? s->quarantine_s : 0);
    if (!f)
        return;
    about(f, s, who);
    process_name(s, process);
    doctor_say(f, "%s was told %s ago (threshold %g s) to close memory, but %s still has %s open that nobody can use.",
               who, TIME(s->quarantine_s * 1000000000ull), f->threshold, process, BYTES(bytes));
    doctor_advise(f,
                  "libscissor closes it when the session's step has ended and its work on the device is done: see "
                  "whether the engine hangs. If it does, end it; `scissorctl close %llu` alone frees nothing.%s",
                  (unsigned long long)s->session, process_hint(s));
}

void doctor_examine_sessions(const struct doctor_state *state, struct doctor_findings *ret) {
    for (size_t i = 0; i < state->session_count; i++) {
        const struct proto_session_stat *s = &state->sessions[i];
        if (s->state == PROTO_SESSION_OPENING || s->state == PROTO_SESSION_CLOSING)
            continue;
        if (s->state == PROTO_SESSION_QUARANTINED) {
            examine_quarantine(s, ret);
            continue;
        }
        examine_eviction(s, ret);
        examine_idle(state, s, ret);
        examine_unreleased(state, s, ret);
        if (!s->orphan) /* nobody is there who could settle */
            examine_fresh(s, ret);
    }
}
