/* doctor_pools.c - findings about a pool as a whole: memory, opens, score frames, restarts. */
#include "doctor.h"
#include "memory.h"
#include "view.h"

#define HOUR_NS 3600000000000.0

/* What a counter gained since the look before. */
static uint64_t gained(uint64_t now, uint64_t before) {
    return now > before ? now - before : 0;
}

static void examine_room(const struct proto_pool_stat *p, struct doctor_findings *ret) {
    struct doctor_finding *f =
        doctor_find(ret, DOCTOR_PROMISED, doctor_percent((double)p->guaranteed_bytes, (double)p->limit_bytes));
    if (f) {
        doctor_say(f,
                   "%s of the %s of pool %s are guaranteed to sessions (threshold %g %%), so there is hardly room for "
                   "another one.",
                   PERCENT(p->guaranteed_bytes, p->limit_bytes), BYTES(p->limit_bytes), NAME(p->name), f->threshold);
        doctor_advise(f,
                      "Give the pool more (`scissorctl limits set pool SIZE`), or guarantee less (`scissorctl limits "
                      "set session ID guaranteed-rows=N`).");
    }
    f = doctor_find(ret, DOCTOR_REFUSED, doctor_percent((double)p->refused, (double)(p->refused + p->opened)));
    if (f) {
        doctor_say(f, "%s of %s opens were refused (%s, threshold %g %%): the guarantees asked for do not fit into %s.",
                   COUNT(p->refused), COUNT(p->refused + p->opened), PERCENT(p->refused, p->refused + p->opened),
                   f->threshold, BYTES(p->limit_bytes));
        doctor_advise(f,
                      "`scissorctl watch` shows what each is refused for. Give the pool more (`scissorctl limits set "
                      "pool SIZE`), let clients ask for less, or let them wait.");
    }
    f = doctor_find(ret, DOCTOR_WAITING, p->waiting);
    if (f) {
        doctor_say(f, "%u open%s wait%s in the queue for memory of pool %s (threshold %g).", p->waiting,
                   p->waiting == 1 ? "" : "s", p->waiting == 1 ? "s" : "", NAME(p->name), f->threshold);
        doctor_advise(f,
                      "Close a session that nobody needs (`scissorctl sessions --sort idle`, `scissorctl close ID`) or "
                      "give the pool more (`scissorctl limits set pool SIZE`).");
    }
    uint64_t over = p->target_bytes && p->limit_bytes > p->target_bytes ? p->limit_bytes - p->target_bytes : 0;
    f = doctor_find(ret, DOCTOR_SHRINKING, (double)over);
    if (f) {
        doctor_say(f, "The limit of pool %s is going down to %s, and %s of lent memory have to come back first.",
                   NAME(p->name), BYTES(p->target_bytes), BYTES(over));
        doctor_advise(f, "Nothing, if it ends soon: sessions give back when they settle or rest.");
    }
}

static void examine_device(const struct proto_pool_stat *p, struct doctor_findings *ret) {
    struct doctor_finding *f = doctor_find(ret, DOCTOR_DEVICE_LOST, p->device_lost != 0);
    if (!f)
        return;
    doctor_say(f, "The device of pool %s (%s) has failed: its sessions are lost, and no others can be opened.",
               NAME(p->name), NAME(p->device));
    doctor_advise(f,
                  "The log has the driver's words, and so may the kernel's (`dmesg | grep -i xid`). Restart scissord "
                  "to use the device again.");
}

static void examine_fragments(const struct doctor_state *state, size_t index, struct doctor_findings *ret) {
    const struct proto_pool_stat *p = &state->pools[index];
    struct ctl_memory_sum all = ctl_memory_add(p, (uint32_t)index, state->memory, state->memory_count);
    double mib = (double)all.sum.free_bytes / 1048576;
    if (mib < doctor_table[DOCTOR_FRAGMENTED_MIB].threshold)
        return;
    struct doctor_finding *f = doctor_find(ret, DOCTOR_FRAGMENTED, 100 * ctl_memory_fragmentation(&all.sum));
    if (!f)
        return;
    doctor_say(f,
               "%s of the settled segments of pool %s is free, %s in all (thresholds %g %% and %g MiB), and only the "
               "sessions that have the segments can use it.",
               PERCENT(f->value, 100), NAME(p->name), BYTES(all.sum.free_bytes), f->threshold,
               doctor_table[DOCTOR_FRAGMENTED_MIB].threshold);
    doctor_advise(
        f, "`scissorctl memory` shows whose it is. Many tiny sessions cost a segment each: open fewer, or larger "
           "ones.");
}

static void examine_frames(const struct doctor_state *state, const struct proto_pool_stat *p,
                           const struct proto_pool_stat *before, struct doctor_findings *ret) {
    static const struct {
        enum proto_frame fate;
        enum doctor_threshold threshold;
        const char *what, *advice;
    } rows[] = {
        {PROTO_FRAME_OVERRUN, DOCTOR_OVERRUN, "found the front's ring full",
         "The daemon gets no time to read them, or somebody floods it: look at the machine's load and at who has how "
         "many "
         "sessions (`scissorctl top`)."},
        {PROTO_FRAME_LATE, DOCTOR_LATE, "came when their session settled already",
         "Clients or the machine are slow: wait longer (`score-wait` in the configuration, then reload)."},
        {PROTO_FRAME_MALFORMED, DOCTOR_MALFORMED, "were no valid frames",
         "A client of another version or with a bug is at work: bring its libscissor to the version that `scissorctl "
         "version` shows."},
        {PROTO_FRAME_FORGED, DOCTOR_FORGED, "named no open session or had a wrong token",
         "Either a client sends on after its session was closed, or somebody tries to: see who may enter the daemon's "
         "directory."},
    };
    uint64_t all = 0;
    for (size_t i = 0; i < PROTO_FRAME_COUNT; i++)
        all += p->frames[i];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t lost = p->frames[rows[i].fate];
        struct doctor_finding *f = doctor_find(ret, rows[i].threshold, doctor_percent((double)lost, (double)all));
        if (!f)
            continue;
        double rate =
            state->seconds > 0 && before ? (double)gained(lost, before->frames[rows[i].fate]) / state->seconds : 0;
        doctor_say(f, "%s of %s score frames %s (%.2f %%, threshold %g %%), %.1f a second just now.", COUNT(lost),
                   COUNT(all), rows[i].what, f->value, f->threshold, rate);
        doctor_advise(f, "%s", rows[i].advice);
    }
}

/* The session with the largest share of settles without scores, or NULL. */
static const struct proto_session_stat *blindest(const struct doctor_state *state, size_t pool) {
    const struct proto_session_stat *worst = NULL;
    double share = 0;
    for (size_t i = 0; i < state->session_count; i++) {
        const struct proto_session_stat *s = &state->sessions[i];
        double own = doctor_percent((double)s->scores_lost, (double)s->settles);
        if (s->pool == pool && own > share) {
            worst = s;
            share = own;
        }
    }
    return worst;
}

static void examine_scores(const struct doctor_state *state, size_t index, struct doctor_findings *ret) {
    const struct proto_pool_stat *p = &state->pools[index];
    double share = p->settles >= DOCTOR_LEAST_SETTLES ? doctor_percent((double)p->scores_lost, (double)p->settles) : 0;
    struct doctor_finding *f = doctor_find(ret, DOCTOR_BLIND_MOST, share);
    if (!f)
        f = doctor_find(ret, DOCTOR_BLIND, share);
    if (f) {
        const struct proto_session_stat *worst = blindest(state, index);
        char whose[96] = "";
        if (worst)
            snprintf(whose, sizeof whose, ", most of all session %llu (%s)", (unsigned long long)worst->session,
                     NAME(worst->name));
        doctor_say(f,
                   "%s of %s settles (%s, threshold %g %%) went without all of their scores%s, so rows were evicted "
                   "half blind.",
                   COUNT(p->scores_lost), COUNT(p->settles), PERCENT(p->scores_lost, p->settles), f->threshold, whose);
        doctor_advise(f,
                      "See what became of the frames (`scissorctl stat`, line frames). If they are late, wait longer: "
                      "`score-wait` in the configuration, then reload.");
        f->session = worst ? worst->session : 0;
    }
    f = doctor_find(ret, DOCTOR_BAD_SCORES, (double)p->bad_scores);
    if (f) {
        doctor_say(f, "%s score%s NaN, infinite or negative (threshold %g).", COUNT(p->bad_scores),
                   p->bad_scores == 1 ? " was" : "s were", f->threshold);
        doctor_advise(f, "The engine computes wrong attention: look for NaN in its activations.");
    }
}

static void examine_front(const struct proto_pool_stat *p, struct doctor_findings *ret) {
    double hours = (double)p->uptime_ns / HOUR_NS, rate = (double)p->front_restarts / (hours > 1 ? hours : 1);
    struct doctor_finding *f = doctor_find(ret, DOCTOR_FRONT_MOST, rate);
    if (!f)
        f = doctor_find(ret, DOCTOR_FRONT, rate);
    if (!f)
        return;
    doctor_say(f,
               "The front was restarted %s time%s in %s, %.1f an hour (threshold %g): something that is no client of "
               "ours speaks to its sockets.",
               COUNT(p->front_restarts), p->front_restarts == 1 ? "" : "s", TIME(p->uptime_ns), rate, f->threshold);
    doctor_advise(
        f, "See in the log when, and who may enter the daemon's directory. No session is harmed by it; scores on "
           "their way are lost.");
}

static void examine_restart(const struct doctor_state *state, const struct proto_pool_stat *p,
                            struct doctor_findings *ret) {
    struct doctor_finding *f = doctor_find(ret, DOCTOR_NO_STORE, state->service && !p->stored_max && ctl_on_host(p));
    if (f) {
        doctor_say(f, "scissord runs as a service but has no descriptor store: sessions end with its process.");
        doctor_advise(
            f, "Set FileDescriptorStoreMax= in the unit and descriptor-store in the configuration, and restart.");
    }
    double used = doctor_percent(p->stored, p->stored_max);
    f = doctor_find(ret, DOCTOR_STORE_MOST, used);
    if (!f)
        f = doctor_find(ret, DOCTOR_STORE, used);
    if (f) {
        doctor_say(f,
                   "%s of %s descriptors of the service manager's store are used (%.1f %%, threshold %g %%); what does "
                   "not fit is lost at a restart.",
                   COUNT(p->stored), COUNT(p->stored_max), used, f->threshold);
        doctor_advise(f, "Raise FileDescriptorStoreMax= in the unit and descriptor-store in the configuration.");
    }
    f = doctor_find(ret, DOCTOR_LOST, p->lost);
    if (f) {
        doctor_say(f, "%u session%s of the process before could not be taken over (threshold %g); %u could.", p->lost,
                   p->lost == 1 ? "" : "s", f->threshold, p->taken_over);
        doctor_advise(f,
                      "The log of the start says why: a smaller pool, a full descriptor store, or state that was not "
                      "whole. Their clients were told and have to open again.");
    }
    double seconds = (double)p->uptime_ns / 1e9;
    f = p->orphans && seconds >= doctor_table[DOCTOR_ORPHANS_LONG].threshold
            ? doctor_find(ret, DOCTOR_ORPHANS_LONG, seconds)
            : doctor_find(ret, DOCTOR_ORPHANS, p->orphans);
    if (f) {
        doctor_say(f, "%u of %u sessions that were taken over still wait for their client, %s after the start.",
                   p->orphans, p->taken_over, TIME(p->uptime_ns));
        doctor_advise(f,
                      "Clients come back by themselves when they use their session. Close what nobody will come back "
                      "for: `scissorctl close ID`.");
    }
    f = doctor_find(ret, DOCTOR_DRAINING, p->draining != 0);
    if (f) {
        doctor_say(f, "The daemon is draining: it takes no new sessions, and %u %s still open.", p->sessions,
                   p->sessions == 1 ? "is" : "are");
        doctor_advise(f, "Restart it when they have ended; there is no way back from draining.");
    }
}

void doctor_examine_pools(const struct doctor_state *state, struct doctor_findings *ret) {
    for (size_t i = 0; i < state->pool_count; i++) {
        const struct proto_pool_stat *p = &state->pools[i];
        examine_room(p, ret);
        examine_device(p, ret);
        examine_fragments(state, i, ret);
        examine_scores(state, i, ret);
        if (i) /* what follows is counted for the daemon, and the same in all pools */
            continue;
        examine_frames(state, p, state->pool_before_count ? &state->pools_before[0] : NULL, ret);
        examine_front(p, ret);
        examine_restart(state, p, ret);
    }
}
