/* test_keep.c - sessions that outlive the broker: taken over and given back to their clients, which may not come. */
#include "test_keep.h"

static void comes_back(bool real, const char *policy) {
    begin(real);
    rig.pidfd = pidfd_of(getpid());
    int peer = rig_connect(&rig), place = open_session(peer, policy);
    struct rig_session *s = &rig.sessions[place];
    assert_true(rig.peers[peer].capabilities & PROTO_CAP_KEEP);
    for (int i = 0; i < 50; i++)
        period(place, F);
    check_rows(place);
    broker_check(rig.broker);
    struct proto_pool_stat before = pool_stat();
    assert_int_equal(before.stored, store.count);
    assert_int_equal(before.stored_max, FAKE_STORE_MAX);

    rig_restart(&rig);
    broker_check(rig.broker);
    struct proto_pool_stat after = pool_stat();
    assert_int_equal(after.taken_over, 1);
    assert_int_equal(after.orphans, 1);
    assert_int_equal(after.lost, 0);
    assert_int_equal(after.charged_bytes, before.charged_bytes);
    assert_int_equal(after.guaranteed_bytes, before.guaranteed_bytes);
    assert_int_equal(after.segments, before.segments);
    assert_int_equal(after.stored, before.stored);
    assert_int_equal(rig.events[PROTO_EVENT_TAKEN_OVER], 1);

    rig_reconnect(&rig, peer);
    rig_reattach(&rig, place);
    assert_int_equal(s->code, SCISSOR_OK);
    assert_int_equal(s->reattached.tokens_seen, 50 * F);
    assert_int_equal(rig.events[PROTO_EVENT_REATTACHED], 1);
    assert_int_equal(pool_stat().orphans, 0);
    check_rows(place);
    for (int i = 0; i < 10; i++)
        period(place, F);
    check_rows(place);
    broker_check(rig.broker);
    rig_close(&rig, place);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
    close(rig.pidfd);
    rig.pidfd = -1;
    end();
}

static void test_comes_back(void **state) {
    (void)state;
    comes_back(true, "pivotal");
    comes_back(true, "scissorhands");
    comes_back(false, "h2o");
    comes_back(false, "streaming");
}

/* The broker ends when it has opened a session and not said so. */
static int open_unheard(int peer, struct proto_open *spec, uint32_t attempt) {
    spec->attempt = attempt;
    int place = rig_open_now(&rig, peer, spec);
    assert_true(place >= 0);
    rig.sessions[place].closed = true; /* its client forgets it */
    rig_restart(&rig);
    assert_int_equal(pool_stat().orphans, 1);
    rig_reconnect(&rig, peer);
    return place;
}

static void test_opened_but_not_heard(void **state) {
    (void)state;
    begin(true);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 64, F, 200, 600, "");
    spec.compute_dtype = spec.storage_dtype = KERNEL_F16;
    open_unheard(peer, &spec, 7);
    uint64_t charged = pool_stat().charged_bytes;
    int place = rig_open_now(&rig, peer, &spec);
    assert_true(place >= 0);
    assert_int_equal(broker_session_count(rig.broker), 1);
    assert_int_equal(pool_stat().orphans, 0);
    assert_int_equal(pool_stat().charged_bytes, charged);
    broker_check(rig.broker);
    for (int i = 0; i < 50; i++)
        period(place, F);
    check_rows(place);

    /* Once there is something in it, it is known to its client. */
    rig_restart(&rig);
    rig_reconnect(&rig, peer);
    int other = rig_open_now(&rig, peer, &spec);
    assert_true(other >= 0);
    assert_int_equal(broker_session_count(rig.broker), 2);
    rig_reattach(&rig, place);
    assert_int_equal(rig.sessions[place].code, SCISSOR_OK);
    check_rows(place);
    rig_close(&rig, place);
    rig_close(&rig, other);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
    end();
}

/* What is not the same request opens another session. */
static void test_not_the_same_open(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) {
        begin(true);
        int peer = rig_connect(&rig), stranger = rig_connect_as(&rig, RIG_UID + 1);
        struct proto_open spec = rig_spec(2, 2, 64, F, 200, 600, "pivotal");
        spec.compute_dtype = spec.storage_dtype = KERNEL_F16;
        open_unheard(peer, &spec, i == 4 ? 0 : 7);
        rig_reconnect(&rig, stranger);
        spec.attempt += i == 0;
        spec.priority += i == 1;
        strcpy(spec.groups[0].policy, i == 2 ? "h2o" : "pivotal");
        int place = rig_open_now(&rig, i == 3 ? stranger : peer, &spec);
        assert_true(place >= 0);
        assert_int_equal(broker_session_count(rig.broker), 2);
        assert_int_equal(pool_stat().orphans, 1);
        rig_close(&rig, place);
        rig_jobs(&rig);
        rig_pass(&rig, rig.config.orphan_wait_ns);
        rig_jobs(&rig);
        assert_int_equal(broker_session_count(rig.broker), 0);
        end();
    }
}

/* The operator has closed it, which its client cannot know: it gets another one. */
static void test_closed_before_it_is_heard(void **state) {
    (void)state;
    begin(true);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 64, F, 200, 600, "streaming");
    spec.compute_dtype = spec.storage_dtype = KERNEL_F16;
    uint64_t id = rig.sessions[open_unheard(peer, &spec, 7)].id;
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, id, 2, rig_operator(&rig));
    assert_int_equal(rig.job_count, 1);
    int place = rig_open_now(&rig, peer, &spec);
    assert_true(place >= 0);
    assert_int_equal(broker_session_count(rig.broker), 1);
    rig_close(&rig, place);
    rig_jobs(&rig);
    assert_int_equal(pool_stat().charged_bytes, 0);
    broker_check(rig.broker);
    end();
}

/* ---------- orphans ---------- */

static void test_orphan_timeout(void **state) {
    (void)state;
    two_sessions(true);
    rig_restart(&rig);
    assert_true(broker_deadline(rig.broker) == UINT64_MAX); /* they rest, and their processes live */
    rig_reconnect(&rig, peers[0]);
    rig_reconnect(&rig, peers[1]);
    assert_int_equal(broker_deadline(rig.broker), rig.now + rig.config.orphan_wait_ns);
    rig.sessions[places[0]].lease->word = PROTO_LEASE_CLIENT; /* in a step: it is waited for */
    rig_pass(&rig, rig.config.orphan_wait_ns);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 1);
    rig_reattach(&rig, places[0]); /* too late */
    assert_int_equal(rig.peers[peers[0]].code, SCISSOR_ECLOSED);
    rig_pass(&rig, 2000000000);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
    struct proto_pool_stat stat = pool_stat();
    assert_int_equal(stat.orphans, 0);
    assert_int_equal(stat.closed, 2);
    assert_true(stat.evicted[PROTO_REASON_DEATH] > 0);
    assert_int_equal(stat.evicted[PROTO_REASON_OPERATOR], 0);
    end_two();
}

static void test_orphan_gone(void **state) {
    uint64_t cursor = 0, session, first = 0;
    int pidfd, found = 0;
    (void)state;
    two_sessions(true);
    rig_restart(&rig);
    while (broker_orphan_next(rig.broker, &cursor, &session, &pidfd)) {
        assert_true(pidfd >= 0);
        first = found++ ? first : session;
    }
    assert_int_equal(found, 2);
    rig_reconnect(&rig, peers[1]);
    rig_reattach(&rig, places[1]);
    broker_orphan_gone(rig.broker, rig.sessions[places[1]].id, rig.now); /* it is back: not gone */
    broker_orphan_gone(rig.broker, first, rig.now);
    broker_orphan_gone(rig.broker, 12345, rig.now);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 1);
    period(places[1], F);
    end_two();
}

/* Its client comes back while it is shrunk, and hears that it is closed: that it cannot be had any more. Nothing is
 * left that only the end of the connection would give back. */
static void test_closed_before_it_is_back(void **state) {
    (void)state;
    begin(true);
    int peer = rig_connect(&rig), place = open_session(peer, "streaming");
    struct rig_session *s = &rig.sessions[place];
    for (int i = 0; i < 20; i++)
        period(place, F);
    rig_restart(&rig);
    struct proto_request lower = {.op = PROTO_OP_SET_BUDGET, .session = s->id, .id = 1, .value = {F + 16, F + 16, 0}};
    const uint8_t *pass = rig_operator(&rig);
    memcpy(lower.token, pass, sizeof lower.token);
    rig_control_to(&rig, lower);
    assert_int_equal(rig.answer.code, 0);
    assert_int_equal(rig.job_count, 1);
    rig_reconnect(&rig, peer);
    rig_reattach(&rig, place);
    assert_int_equal(s->code, 1);
    s->lease->word = PROTO_LEASE_CLIENT;
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, s->id, 2, pass);
    rig_jobs(&rig);
    assert_int_equal(s->code, SCISSOR_ECLOSED);
    assert_int_equal(broker_session_count(rig.broker), 1); /* it is in a step, which is waited for */
    rig_pass(&rig, 2000000000);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
    assert_int_equal(pool_stat().charged_bytes, 0);
    assert_int_equal(store.count, 0);
    broker_check(rig.broker);
    end();
}

/* What was answered to be so is so after a restart at any moment; what cannot be written down just now is asked for
 * again, with the same request. */
static void test_limits_are_kept(void **state) {
    (void)state;
    begin(true);
    int place = open_session(rig_connect(&rig), "streaming");
    struct rig_session *s = &rig.sessions[place];
    for (int i = 0; i < 3; i++)
        period(place, F);
    struct proto_request set[2] = {
        {.op = PROTO_OP_SET_BUDGET, .session = s->id, .id = 1, .value = {F + 16, F + 32, PROTO_ALL_GROUPS}},
        {.op = PROTO_OP_SET_PRIORITY, .session = s->id, .id = 2, .value = {7}}};
    const uint8_t *pass = rig_operator(&rig);
    rig_settle(&rig, place, F, 0);
    assert_int_equal(rig.job_count, 1);
    for (int i = 0; i < 2; i++) {
        memcpy(set[i].token, pass, sizeof set[i].token);
        rig_control_to(&rig, set[i]);
        assert_int_equal(rig.answer.code, SCISSOR_ESTATE);
    }
    rig_jobs(&rig);
    rig_control_to(&rig, set[1]);
    assert_int_equal(rig.answer.code, 0);
    rig_control_to(&rig, set[0]);
    assert_int_equal(rig.answer.code, 0);
    assert_int_equal(rig.job_count, 1); /* it has more rows than that */
    rig_restart(&rig);
    rig_control(&rig, PROTO_OP_SESSIONS, 0, 0, NULL);
    const struct proto_session_stat *stat = (const void *)rig.answer_entries;
    assert_int_equal(rig.answer.count, 1);
    assert_int_equal(stat->guaranteed_rows, F + 16);
    assert_int_equal(stat->max_rows, F + 32);
    assert_int_equal(stat->priority, 7);
    end();
}

static void test_not_theirs(void **state) {
    (void)state;
    two_sessions(true);
    rig_restart(&rig);
    struct rig_session *s = &rig.sessions[places[0]];
    struct proto_reattach body = {.session = s->id};
    /* Not the token. */
    rig_reconnect(&rig, peers[0]);
    rig_send(&rig, peers[0], PROTO_REATTACH, ++rig.last_request, &body, NULL, 0);
    assert_int_equal(rig.peers[peers[0]].code, SCISSOR_ERESTARTED);
    /* Another user, who has it. */
    memcpy(body.token, s->token, sizeof body.token);
    int other = rig_connect_as(&rig, 4242);
    rig_send(&rig, other, PROTO_REATTACH, ++rig.last_request, &body, NULL, 0);
    assert_int_equal(rig.peers[other].code, SCISSOR_EPERM);
    /* Another process of the user. */
    int process = rig_connect(&rig);
    rig_send(&rig, process, PROTO_REATTACH, ++rig.last_request, &body, NULL, 0);
    assert_int_equal(rig.peers[process].code, SCISSOR_EPERM);
    /* Its own client, and a second time. */
    rig_reattach(&rig, places[0]);
    assert_int_equal(s->code, SCISSOR_OK);
    rig_send(&rig, peers[0], PROTO_REATTACH, ++rig.last_request, &body, NULL, 0);
    assert_int_equal(rig.peers[peers[0]].code, SCISSOR_ESTATE);
    period(places[0], F);
    end_two();
}

/* Frames of an orphan do not count; those of the whole period are sent again. */
static void test_frames_of_orphan(void **state) {
    (void)state;
    two_sessions(true);
    struct rig_session *s = &rig.sessions[places[0]];
    rig_restart(&rig);
    send_scores(places[0], F);
    assert_int_equal(pool_stat().frames[PROTO_FRAME_FOLDED], 0);
    assert_true(pool_stat().frames[PROTO_FRAME_STALE] > 0);
    rig_reconnect(&rig, peers[0]);
    rig_reattach(&rig, places[0]);
    period(places[0], F);
    assert_int_equal(s->settled.scores_lost, 0);
    end_two();
}

/* A shrink wrote a snapshot in the middle of a period: nothing may be counted twice, so nothing of it counts. */
static void test_half_a_period(void **state) {
    (void)state;
    fake_store_init(&store, FAKE_STORE_MAX);
    rig_init_kept(&rig, 15 * MIB, &store, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(1, 3, 256, 64, 80, 1792, "h2o");
    spec.compute_dtype = spec.storage_dtype = KERNEL_F32;
    int place = rig_open_now(&rig, peer, &spec);
    for (int i = 0; i < 24; i++)
        period(place, 64);
    struct rig_session *s = &rig.sessions[place];
    send_scores(place, 64);
    struct proto_open large = rig_spec(1, 3, 256, 64, 1000, 0, "streaming");
    large.compute_dtype = large.storage_dtype = KERNEL_F32;
    large.wait_ms = 1000;
    uint64_t generation = s->control->generation;
    int other = rig_open_now(&rig, peer, &large);
    assert_true(other >= 0);
    assert_true(s->control->generation > generation);
    rig_restart(&rig);
    rig_reconnect(&rig, peer);
    rig_reattach(&rig, place);
    rig_reattach(&rig, other);
    uint64_t folded = pool_stat().frames[PROTO_FRAME_FOLDED];
    period(place, 64);
    assert_int_equal(pool_stat().frames[PROTO_FRAME_FOLDED], folded);
    assert_int_equal(s->settled.scores_lost, 1);
    period(place, 64);
    assert_int_equal(s->settled.scores_lost, 0);
    assert_int_equal(pool_stat().frames[PROTO_FRAME_FOLDED], folded + 1);
    check_rows(place);
    end();
}

/* ---------- the store ---------- */

static void test_full_store(void **state) {
    (void)state;
    fake_store_init(&store, 12);
    rig_init_kept(&rig, 64 * MIB, &store, true);
    int peer = rig_connect(&rig), opened = 0;
    struct proto_open spec = rig_spec(2, 2, 64, F, 200, 0, "streaming");
    while (rig_open_now(&rig, peer, &spec) >= 0)
        opened++;
    assert_int_equal(opened, 2); /* 6 each: a fresh and a settled segment, two pages, two state files */
    assert_int_equal(rig.peers[peer].code, SCISSOR_ELIMIT);
    assert_non_null(strstr(rig.peers[peer].text, "store"));
    broker_check(rig.broker);
    /* What is guaranteed has its place. */
    for (int i = 0; i < 20; i++)
        period(0, F);
    assert_int_equal(rig_head(&rig.sessions[0], 0)[0], 200 - F);
    assert_true(pool_stat().stored <= 12);
    end();
}

/* What would be lent does not come where the store is full: the session evicts. */
static void test_full_store_growth(void **state) {
    (void)state;
    fake_store_init(&store, 7);
    rig_init_kept(&rig, 64 * MIB, &store, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(1, 3, 256, 64, 80, 1792, "streaming");
    spec.compute_dtype = spec.storage_dtype = KERNEL_F32;
    int place = rig_open_now(&rig, peer, &spec);
    assert_true(place >= 0);
    for (int i = 0; i < 24; i++)
        period(place, 64);
    assert_int_equal(store.count, 7);
    assert_int_equal(rig_head(&rig.sessions[place], 0)[0], 640); /* two segments of 16 pages for 3 heads */
    check_rows(place);
    broker_check(rig.broker);
    end();
}

/* Each put fails once. */
static void test_puts_fail(void **state) {
    (void)state;
    for (uint64_t k = 0; k < 6; k++) {
        begin(true);
        rig.pidfd = pidfd_of(getpid());
        int peer = rig_connect(&rig);
        struct proto_open spec = rig_spec(2, 2, 64, F, 200, 0, "streaming");
        store.puts_left = k;
        assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
        assert_int_equal(rig.peers[peer].code, SCISSOR_ESYSTEM);
        assert_true(store.count <= 1); /* the pidfd stays for as long as the connection */
        assert_int_equal(pool_stat().charged_bytes, 0);
        broker_check(rig.broker);
        store.puts_left = UINT64_MAX;
        assert_true(rig_open_now(&rig, peer, &spec) >= 0);
        close(rig.pidfd);
        rig.pidfd = -1;
        end();
    }
}

/* ---------- the corpus of tests/fuzz/fuzz_snapshot.c ---------- */

/* The state file that counts, its list right behind the snapshot. */
static void write_state(const char *directory, const char *name, uint64_t id) {
    static char bytes[1 << 16], path[512];
    struct snapshot_head best = {0}, head;
    size_t size = 0;
    for (int i = 0; i < 2; i++) {
        int fd = kept_named("ab"[i], id)->fd;
        assert_int_equal(pread(fd, &head, sizeof head, 0), sizeof head);
        if (head.sequence <= best.sequence)
            continue;
        best = head;
        size = (head.bytes + 7) / 8 * 8;
        assert_true(size + head.redo_bytes <= sizeof bytes);
        assert_true(pread(fd, bytes, size, 0) == (ssize_t)size);
        assert_true(pread(fd, bytes + size, head.redo_bytes, (off_t)head.redo_at) == (ssize_t)head.redo_bytes);
    }
    best.redo_at = best.redo_bytes ? size : 0;
    memcpy(bytes, &best, sizeof best);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size + best.redo_bytes, f), size + best.redo_bytes);
    assert_int_equal(fclose(f), 0);
}

/* After a change of the layout: build/tests/unit/test_keep tests/fuzz/corpus/snapshot */
static int write_corpus(const char *directory) {
    static const char *const policies[] = {"streaming", "h2o", "pivotal", "scissorhands", "tova"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        begin(false);
        int peer = rig_connect(&rig);
        struct proto_open spec = rig_spec(1, 2, 16, F, 80, 0, policies[i]);
        if (i == 4)
            spec.storage_dtype = KERNEL_FADE;
        if (i == 3) {
            spec.groups[0].params[0] = (struct proto_param){.name = "window", .value = 32};
            spec.groups[0].params[1] = (struct proto_param){.name = "drop", .value = 40};
        }
        int place = rig_open_now(&rig, peer, &spec);
        for (int k = 0; k < 4; k++)
            period(place, F);
        if (i >= 2) { /* with a list: its rows have not moved */
            rig_settle(&rig, place, F, rig.sessions[place].sequence);
            rig.device.rows_left = 0;
            broker_job_run(rig.jobs[0]);
            rig.device.rows_left = UINT64_MAX;
        }
        write_state(directory, policies[i], rig.sessions[place].id);
        rig_restart(&rig);
        no_client_comes();
        end();
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2)
        return write_corpus(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back),
        cmocka_unit_test(test_opened_but_not_heard),
        cmocka_unit_test(test_not_the_same_open),
        cmocka_unit_test(test_closed_before_it_is_heard),
        cmocka_unit_test(test_orphan_timeout),
        cmocka_unit_test(test_orphan_gone),
        cmocka_unit_test(test_closed_before_it_is_back),
        cmocka_unit_test(test_limits_are_kept),
        cmocka_unit_test(test_not_theirs),
        cmocka_unit_test(test_frames_of_orphan),
        cmocka_unit_test(test_half_a_period),
        cmocka_unit_test(test_full_store),
        cmocka_unit_test(test_full_store_growth),
        cmocka_unit_test(test_puts_fail),
    };
    return cmocka_run_group_tests_name("keep", tests, NULL, NULL);
}
