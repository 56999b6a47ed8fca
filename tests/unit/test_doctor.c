/* test_doctor.c - each finding of `scissorctl doctor`, by a state that raises it and one just below its threshold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client/ctl/doctor.h"

#define MIB 1048576ull
#define SECOND 1000000000ull

/* A healthy daemon, to be made ill. */
struct patient {
    struct proto_pool_stat before, pool;
    struct proto_session_stat session;
    struct proto_memory_stat memory;
    struct doctor_state state;
};

static void patient_init(struct patient *p) {
    *p = (struct patient){
        .pool = {.name = "host",
                 .limit_bytes = 64 * MIB,
                 .target_bytes = 64 * MIB,
                 .charged_bytes = 40 * MIB,
                 .guaranteed_bytes = 30 * MIB,
                 .opened = 100,
                 .settles = 1000,
                 .frames = {10000},
                 .uptime_ns = 600 * SECOND,
                 .sessions = 1},
        .session = {.session = 7,
                    .name = "reader",
                    .state = PROTO_SESSION_IDLE,
                    .pid = 42,
                    .heads = 4,
                    .fresh_rows = 64,
                    .fresh_count = 10,
                    .settled_max = 1000,
                    .guaranteed_rows = 256,
                    .charged_bytes = 10 * MIB,
                    .guaranteed_bytes = 8 * MIB,
                    .tokens_seen = 10000,
                    .settles = 160,
                    .age_ns = 500 * SECOND,
                    .idle_ns = SECOND},
        .memory = {.session = 7, .used_bytes = 30 * MIB, .free_bytes = 2 * MIB},
    };
    p->before = p->pool;
    p->before.uptime_ns -= SECOND / 2;
    p->state = (struct doctor_state){
        .seconds = 0.5,
        .pools = &p->pool,
        .pools_before = &p->before,
        .pool_count = 1,
        .pool_before_count = 1,
        .sessions = &p->session,
        .session_count = 1,
        .memory = &p->memory,
        .memory_count = 1,
        .shmem_enabled = "always within_size [advise] never deny force",
        .machine_bytes = 1024 * MIB,
        .descriptors = 1024,
    };
}

/* Each makes the patient ill, or, if not `ill`, all but ill. */
#define CASE(name) static void name(struct patient *p, bool ill)

CASE(promised) {
    p->pool.limit_bytes = p->pool.target_bytes = 1000;
    p->pool.charged_bytes = 0;
    p->pool.guaranteed_bytes = ill ? 900 : 899;
}
CASE(refused) {
    p->pool.opened = 95;
    p->pool.refused = ill ? 5 : 4;
}
CASE(waiting) {
    p->pool.waiting = ill;
}
CASE(draining) {
    p->pool.draining = ill;
}
CASE(shrinking) {
    p->pool.target_bytes -= ill;
}
CASE(fragmented) {
    p->memory.used_bytes = 20 * MIB;
    p->memory.free_bytes = ill ? 20 * MIB : 20 * MIB - 1;
}
CASE(fragmented_little) {
    p->memory.used_bytes = MIB;
    p->memory.free_bytes = ill ? 16 * MIB : 16 * MIB - 1;
}
static void frames(struct patient *p, enum proto_frame fate, uint64_t lost) {
    p->pool.frames[PROTO_FRAME_FOLDED] = 10000 - lost;
    p->pool.frames[fate] = lost;
}
CASE(overrun) {
    frames(p, PROTO_FRAME_OVERRUN, ill ? 100 : 99);
}
CASE(late) {
    frames(p, PROTO_FRAME_LATE, ill ? 100 : 99);
}
CASE(malformed) {
    frames(p, PROTO_FRAME_MALFORMED, ill ? 10 : 9);
}
CASE(forged) {
    frames(p, PROTO_FRAME_FORGED, ill ? 10 : 9);
}
CASE(blind) {
    p->pool.scores_lost = ill ? 50 : 49;
    p->session.scores_lost = p->session.settles / 2;
}
CASE(blind_few) {
    p->pool.settles = ill ? 20 : 19;
    p->pool.scores_lost = 2;
}
CASE(blind_most) {
    p->pool.scores_lost = ill ? 500 : 499;
}
CASE(bad_scores) {
    p->pool.bad_scores = ill;
}
CASE(front) {
    p->pool.uptime_ns = 10 * 3600 * SECOND;
    p->pool.front_restarts = ill ? 10 : 9;
}
CASE(front_young) { /* in its first hour, each counts as one an hour */
    p->pool.front_restarts = ill;
}
CASE(front_most) {
    p->pool.front_restarts = ill ? 20 : 19;
}
CASE(no_store) {
    p->state.service = ill;
}
CASE(store) {
    p->pool.stored_max = 1000;
    p->pool.stored = ill ? 900 : 899;
}
CASE(store_most) {
    p->pool.stored_max = 1000;
    p->pool.stored = ill ? 1000 : 999;
}
CASE(lost) {
    p->pool.lost = ill;
}
CASE(orphans) {
    p->pool.uptime_ns = 59 * SECOND;
    p->pool.orphans = ill;
}
CASE(orphans_long) {
    p->pool.orphans = 1;
    p->pool.uptime_ns = ill ? 60 * SECOND : 60 * SECOND - 1;
}
CASE(device_lost) {
    p->pool.device_lost = ill;
    proto_text_set(p->pool.device, sizeof p->pool.device, "cuda:GPU-1234");
}
CASE(quarantined) {
    p->session.state = PROTO_SESSION_QUARANTINED;
    p->session.quarantine_s = ill ? 10 : 9;
}
CASE(quarantined_unseen) {
    quarantined(p, ill);
    p->session.pid = 0;
}
CASE(unreleased) {
    p->session.quarantine_s = ill ? 10 : 9;
    p->memory.quarantined_bytes = 4 * MIB;
}
CASE(unreleased_some) {
    p->session.quarantine_s = 100;
    p->session.pid = 0;
    p->memory.quarantined_bytes = ill ? 2 * MIB : 0;
}
CASE(machine) {
    p->state.machine_bytes = 64 * MIB * 10 / 9 + (ill ? 0 : 1);
}
CASE(machine_most) {
    p->state.machine_bytes = 64 * MIB + !ill;
}
CASE(files) {
    p->state.descriptors = ill ? 35 : 36; /* 32 segments */
}
CASE(huge_pages) {
    if (ill)
        strcpy(p->state.shmem_enabled, "always within_size advise [never] deny force");
}
CASE(huge_pages_denied) {
    strcpy(p->state.shmem_enabled, ill ? "always [deny] force" : "");
}
CASE(thrashes) {
    p->session.evicted[PROTO_REASON_PRESSURE] = ill ? 10000 : 9999;
    p->session.idle_ns = 59 * SECOND;
}
CASE(thrashed) { /* it does not thrash any more when it is at rest */
    p->session.evicted[PROTO_REASON_PRESSURE] = 10000;
    p->session.idle_ns = ill ? 59 * SECOND : 61 * SECOND;
}
CASE(turnover) {
    p->session.settled_max = 100;
    p->session.evicted[PROTO_REASON_BUDGET] = 160 * 4 * 50 - !ill;
}
CASE(turnover_few) {
    p->session.settled_max = 10;
    p->session.settles = ill ? 4 : 3;
    p->session.evicted[PROTO_REASON_BUDGET] = 200;
}
static void idle(struct patient *p) {
    p->session.idle_ns = 60 * SECOND;
    p->session.charged_bytes = p->session.guaranteed_bytes + 64 * MIB / 10 + 1;
    p->pool.charged_bytes = 64 * MIB * 95 / 100 + 1;
}
CASE(hog) {
    idle(p);
    p->session.charged_bytes -= ill ? 0 : 2;
}
CASE(hog_time) {
    idle(p);
    p->session.idle_ns -= !ill;
}
CASE(hog_tight) {
    idle(p);
    p->pool.charged_bytes -= ill ? 0 : 2;
}
CASE(hog_pressure) {
    idle(p);
    p->pool.charged_bytes = 40 * MIB;
    p->pool.evicted[PROTO_REASON_PRESSURE] = p->before.evicted[PROTO_REASON_PRESSURE] + ill;
}
CASE(never) {
    p->session.settles = 0;
    p->session.age_ns = ill ? 60 * SECOND : 60 * SECOND - 1;
}
CASE(never_used) { /* who has written nothing owes nothing */
    p->session.settles = 0;
    p->session.fresh_count = ill;
}
CASE(stuck) {
    p->session.fresh_count = 64;
    p->session.idle_ns = ill ? 60 * SECOND : 60 * SECOND - 1;
}
CASE(stuck_full) {
    p->session.idle_ns = 100 * SECOND;
    p->session.fresh_count = ill ? 64 : 63;
}

static const struct {
    void (*make)(struct patient *p, bool ill);
    enum doctor_threshold which;
    const char *says;
} cases[] = {
    {promised, DOCTOR_PROMISED, "90.0 % of the 1000 B of pool host are guaranteed"},
    {refused, DOCTOR_REFUSED, "5 of 100 opens were refused (5.0 %, threshold 5 %)"},
    {waiting, DOCTOR_WAITING, "1 open waits in the queue"},
    {draining, DOCTOR_DRAINING, "takes no new sessions, and 1 is still open"},
    {shrinking, DOCTOR_SHRINKING, "1 B of lent memory"},
    {fragmented, DOCTOR_FRAGMENTED, "50.0 % of the settled segments of pool host is free, 20.0 MiB in all"},
    {fragmented_little, DOCTOR_FRAGMENTED, "16.0 MiB in all (thresholds 50 % and 16 MiB)"},
    {overrun, DOCTOR_OVERRUN,
     "100 of 10,000 score frames found the front's ring full (1.00 %, threshold 1 %), 200.0 a"},
    {late, DOCTOR_LATE, "settled already (1.00 %"},
    {malformed, DOCTOR_MALFORMED, "10 of 10,000 score frames were no valid frames (0.10 %, threshold 0.1 %), 20.0 a"},
    {forged, DOCTOR_FORGED, "wrong token (0.10 %"},
    {blind, DOCTOR_BLIND,
     "50 of 1,000 settles (5.0 %, threshold 5 %) went without all of their scores, most of all "
     "session 7 (reader)"},
    {blind_few, DOCTOR_BLIND, "2 of 20 settles"},
    {blind_most, DOCTOR_BLIND_MOST, "threshold 50 %"},
    {bad_scores, DOCTOR_BAD_SCORES, "1 score was NaN"},
    {front, DOCTOR_FRONT, "10 times in 10 h 0 min, 1.0 an hour"},
    {front_young, DOCTOR_FRONT, "1 time in 10 min 0 s"},
    {front_most, DOCTOR_FRONT_MOST, "20.0 an hour (threshold 20)"},
    {no_store, DOCTOR_NO_STORE, "no descriptor store"},
    {store, DOCTOR_STORE, "900 of 1,000 descriptors"},
    {store_most, DOCTOR_STORE_MOST, "1,000 of 1,000 descriptors"},
    {lost, DOCTOR_LOST, "1 session of the process before"},
    {orphans, DOCTOR_ORPHANS, "wait for their client, 59.0 s after the start"},
    {orphans_long, DOCTOR_ORPHANS_LONG, "1 min 0 s after the start"},
    {device_lost, DOCTOR_DEVICE_LOST, "The device of pool host (cuda:GPU-1234) has failed"},
    {quarantined, DOCTOR_QUARANTINED,
     "Session 7 (reader) has ended 10.0 s ago (threshold 10 s), but process 42 may still have its memory on the device "
     "open: 10.0 MiB"},
    {quarantined_unseen, DOCTOR_QUARANTINED, "but its process may still have its memory"},
    {unreleased, DOCTOR_UNRELEASED,
     "Session 7 (reader) was told 10.0 s ago (threshold 10 s) to close memory, but process 42 still has 4.0 MiB open"},
    {unreleased_some, DOCTOR_UNRELEASED, "but its process still has 2.0 MiB open"},
    {machine, DOCTOR_MACHINE, "(90.0 %, threshold 90 %)"},
    {machine_most, DOCTOR_MACHINE_MOST, "The limit is 64.0 MiB on a machine with 64.0 MiB"},
    {files, DOCTOR_FILES, "32 segments, a descriptor each, and the daemon may open 35 files"},
    {huge_pages, DOCTOR_HUGE_PAGES, "no huge pages"},
    {huge_pages_denied, DOCTOR_HUGE_PAGES, "no huge pages"},
    {thrashes, DOCTOR_THRASHES, "Session 7 (reader) thrashes: of 40,000 rows that it wrote, 10,000"},
    {thrashed, DOCTOR_THRASHES, "(25.0 %, threshold 25 %)"},
    {turnover, DOCTOR_TURNOVER, "each settle evicts 50 of 100 settled rows"},
    {turnover_few, DOCTOR_TURNOVER, "Session 7 (reader) has a budget that is too small"},
    {hog, DOCTOR_HOG, "Session 7 (reader) is idle for 1 min 0 s and keeps 6.4 MiB"},
    {hog_time, DOCTOR_HOG, "threshold 10 %"},
    {hog_tight, DOCTOR_HOG, "while memory is short"},
    {hog_pressure, DOCTOR_HOG, "while memory is short"},
    {never, DOCTOR_NEVER, "is open for 1 min 0 s (threshold 60 s), has 10 of 64 fresh rows"},
    {never_used, DOCTOR_NEVER, "has 1 of 64 fresh rows and never settled one"},
    {stuck, DOCTOR_STUCK, "has a full fresh buffer of 64 rows and said nothing for 1 min 0 s"},
    {stuck_full, DOCTOR_STUCK, "(threshold 60 s)"},
};
#define CASES (sizeof cases / sizeof cases[0])

static const struct doctor_finding *find(const struct doctor_findings *f, enum doctor_threshold which) {
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->list[i].id, doctor_table[which].id) == 0 && f->list[i].severity == doctor_table[which].severity)
            return &f->list[i];
    return NULL;
}

static void test_cases(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        const struct doctor_info *info = &doctor_table[cases[i].which];
        struct patient p;
        struct doctor_findings findings;
        patient_init(&p);
        cases[i].make(&p, true);
        doctor_examine(&p.state, &findings);
        const struct doctor_finding *f = find(&findings, cases[i].which);
        if (!f)
            fail_msg("case %zu: %s is not found", i, info->id);
        if (!strstr(f->sentence, cases[i].says))
            fail_msg("case %zu: '%s' is not in: %s", i, cases[i].says, f->sentence);
        assert_true(f->value >= f->threshold);
        assert_true(strlen(f->advice) > 20);
        assert_true(strlen(f->sentence) < sizeof f->sentence - 1 && strlen(f->advice) < sizeof f->advice - 1);
        doctor_findings_deinit(&findings);
        patient_init(&p);
        cases[i].make(&p, false);
        doctor_examine(&p.state, &findings);
        if (find(&findings, cases[i].which))
            fail_msg("case %zu: %s is found below its threshold", i, info->id);
        doctor_findings_deinit(&findings);
    }
}

/* No finding without a case. */
static void test_cases_complete(void **state) {
    (void)state;
    for (size_t t = 0; t < DOCTOR_THRESHOLDS; t++) {
        size_t found = 0;
        for (size_t i = 0; i < CASES; i++)
            found += strcmp(doctor_table[cases[i].which].id, doctor_table[t].id) == 0 &&
                     doctor_table[cases[i].which].severity == doctor_table[t].severity;
        if (!found)
            fail_msg("nothing raises %s", doctor_table[t].id);
    }
}

static void test_healthy(void **state) {
    (void)state;
    struct patient p;
    struct doctor_findings findings;
    patient_init(&p);
    doctor_examine(&p.state, &findings);
    assert_int_equal(findings.count, 0);
    assert_int_equal(doctor_worst(&findings), DOCTOR_NOTE);
    doctor_findings_deinit(&findings);
    /* So is one of which nothing is known, one that has just started, and one whose clocks are odd. */
    doctor_examine(&(struct doctor_state){.seconds = 0}, &findings);
    assert_int_equal(findings.count, 0);
    p.pool = (struct proto_pool_stat){.name = "host", .limit_bytes = 64 * MIB};
    p.session = (struct proto_session_stat){.session = 1, .pool = 9, .idle_ns = UINT64_MAX};
    p.before.evicted[PROTO_REASON_PRESSURE] = UINT64_MAX;
    doctor_examine(&p.state, &findings);
    assert_int_equal(findings.count, 0);
}

static void test_order(void **state) {
    (void)state;
    struct patient p;
    struct doctor_findings findings;
    patient_init(&p);
    huge_pages(&p, true);
    draining(&p, true);
    machine_most(&p, true);
    stuck(&p, true);
    doctor_examine(&p.state, &findings);
    assert_int_equal(findings.count, 4);
    assert_string_equal(findings.list[0].id, "limit-above-memory");
    assert_string_equal(findings.list[1].id, "draining");
    assert_string_equal(findings.list[2].id, "stuck-full");
    assert_int_equal(findings.list[2].session, 7);
    assert_string_equal(findings.list[3].id, "no-huge-pages");
    assert_int_equal(doctor_worst(&findings), DOCTOR_CRITICAL);
    doctor_findings_deinit(&findings);
}

static void test_orphan_owes_nothing(void **state) {
    (void)state;
    struct patient p;
    struct doctor_findings findings;
    patient_init(&p);
    stuck(&p, true);
    p.session.orphan = 1;
    doctor_examine(&p.state, &findings);
    assert_int_equal(findings.count, 0);
}

static void test_memory(void **state) {
    (void)state;
    size_t before = alloc_live();
    for (size_t k = 0; k < 4; k++) {
        struct patient p;
        struct doctor_findings findings;
        patient_init(&p);
        huge_pages(&p, true);
        draining(&p, true);
        stuck(&p, true);
        alloc_fail_after(k, 1);
        doctor_examine(&p.state, &findings);
        alloc_fail_never();
        assert_int_equal(findings.failed, k < 3);
        assert_int_equal(findings.count, k < 3 ? 2 : 3);
        doctor_findings_deinit(&findings);
        assert_int_equal(alloc_live(), before);
    }
}

static void test_parse(void **state) {
    (void)state;
    struct rlimit files;
    char text[4096];
    FILE *file = fopen("/proc/self/limits", "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    assert_int_equal(doctor_parse_limits(text), files.rlim_cur);
    assert_int_equal(doctor_parse_limits("Max open files            unlimited"), 0);
    assert_int_equal(doctor_parse_limits(""), 0);
    assert_true(doctor_parse_cgroup("0::/system.slice/scissord.service\n"));
    assert_true(doctor_parse_cgroup("1:name=systemd:/x\n0::/system.slice/scissord-gpu.service"));
    assert_false(doctor_parse_cgroup("0::/user.slice/user-1000.slice/user@1000.service/app.slice/term.scope\n"));
    assert_false(doctor_parse_cgroup("0::/system.slice/runner.service\n"));
    assert_false(doctor_parse_cgroup("0::/system.slice/scissord.service/sub\n"));
    assert_false(doctor_parse_cgroup("0::/\n"));
    assert_false(doctor_parse_cgroup(""));
    struct doctor_state nobody = {.seconds = 0};
    doctor_look_at_machine("/nowhere", &nobody);
    assert_true(nobody.machine_bytes > 0);
    assert_int_equal(nobody.descriptors, 0);
    assert_false(nobody.service);
}

static void write_file(const char *path, const char *what) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(what, f);
    fclose(f);
}

/* The daemon's cgroup may have less than the machine; the least on the way up counts. */
static void test_cgroup_limit(void **state) {
    (void)state;
    char mount[] = "/tmp/scissord-test-XXXXXX", slice[64], unit[96], path[128];
    static const char text[] = "0::/system.slice/scissord.service\n";
    assert_non_null(mkdtemp(mount));
    snprintf(slice, sizeof slice, "%s/system.slice", mount);
    snprintf(unit, sizeof unit, "%s/scissord.service", slice);
    assert_int_equal(mkdir(slice, 0700) | mkdir(unit, 0700), 0);
    assert_int_equal(doctor_cgroup_limit(mount, text), 0);
    snprintf(path, sizeof path, "%s/memory.max", unit);
    write_file(path, "max\n");
    assert_int_equal(doctor_cgroup_limit(mount, text), 0);
    write_file(path, "4294967296\n");
    assert_int_equal(doctor_cgroup_limit(mount, text), 4294967296u);
    assert_int_equal(doctor_cgroup_limit(mount, "0::/\n"), 0);
    assert_int_equal(doctor_cgroup_limit(mount, ""), 0);
    unlink(path);
    snprintf(path, sizeof path, "%s/memory.max", slice);
    write_file(path, "1048576\n");
    assert_int_equal(doctor_cgroup_limit(mount, text), 1048576);
    unlink(path);
    snprintf(path, sizeof path, "%s/memory.max", mount);
    write_file(path, "77");
    assert_int_equal(doctor_cgroup_limit(mount, text), 77);
    assert_int_equal(doctor_cgroup_limit(mount, "0::/\n"), 77);
    unlink(path);
    assert_int_equal(rmdir(unit) | rmdir(slice) | rmdir(mount), 0);

    struct patient p;
    struct doctor_findings findings;
    patient_init(&p);
    p.state.cgroup_bytes = 60 * MIB;
    doctor_examine(&p.state, &findings);
    assert_int_equal(findings.count, 1);
    assert_string_equal(findings.list[0].id, "limit-above-memory");
    assert_non_null(strstr(findings.list[0].sentence, "the daemon's cgroup may have 60.0 MiB"));
    assert_non_null(strstr(findings.list[0].advice, "MemoryMax="));
    doctor_findings_deinit(&findings);
    p.state.cgroup_bytes = 2048 * MIB; /* more than the machine has */
    doctor_examine(&p.state, &findings);
    assert_int_equal(findings.count, 0);
    doctor_findings_deinit(&findings);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases), cmocka_unit_test(test_cases_complete),      cmocka_unit_test(test_healthy),
        cmocka_unit_test(test_order), cmocka_unit_test(test_orphan_owes_nothing), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_parse), cmocka_unit_test(test_cgroup_limit),
    };
    return cmocka_run_group_tests_name("doctor", tests, NULL, NULL);
}
