/* test_keep_damage.c - what a process finds that is not as the one before had it: such a session is given up as a
 * whole, and nothing happens to the others. Of two sessions it is the second one that something happens to. */
#include "test_keep.h"

/* The first session comes back, the second one was given up, and its client hears so. */
static void only_first(void) {
    struct proto_pool_stat stat = pool_stat();
    assert_int_equal(stat.taken_over, 1);
    assert_int_equal(stat.lost, 1);
    assert_int_equal(stat.stored, store.count);
    broker_check(rig.broker);
    for (int i = 0; i < 2; i++)
        rig_reconnect(&rig, peers[i]);
    rig_reattach(&rig, places[1]);
    assert_int_equal(rig.sessions[places[1]].code, SCISSOR_ERESTARTED);
    assert_int_equal(rig.sessions[places[1]].peer, -1);
    assert_non_null(strstr(rig.peers[peers[1]].text, "not taken over"));
    rig_reattach(&rig, places[0]);
    assert_int_equal(rig.sessions[places[0]].code, SCISSOR_OK);
    period(places[0], F);
    check_rows(places[0]);
}

static void test_missing(void **state) {
    static const char kinds[] = "abcl";
    (void)state;
    for (const char *kind = kinds; *kind; kind++) {
        two_sessions(true);
        store.base.drop(&store.base, kept_named(*kind, rig.sessions[places[1]].id)->name);
        rig_restart(&rig);
        only_first();
        end_two();
    }
}

/* A segment that is not there; fresh and settled ones are numbered through. */
static void test_missing_segment(void **state) {
    static const char kinds[] = "fs";
    (void)state;
    for (const char *kind = kinds; *kind; kind++) {
        uint32_t last = UINT32_MAX;
        two_sessions(true);
        for (uint32_t i = 0; i < store.count; i++)
            if (store.kept[i].name[0] == *kind)
                last = i;
        assert_int_not_equal(last, UINT32_MAX);
        store.base.drop(&store.base, store.kept[last].name);
        rig_restart(&rig);
        only_first();
        end_two();
    }
}

static void test_foreign(void **state) {
    static const char kinds[] = "abclfs";
    (void)state;
    for (const char *kind = kinds; *kind; kind++) {
        two_sessions(true);
        struct broker_kept *kept = NULL;
        for (uint32_t i = 0; i < store.count; i++)
            if (store.kept[i].name[0] == *kind)
                kept = &store.kept[i]; /* the last one is of the second session */
        close(kept->fd);
        kept->fd = memfd_create("foreign", MFD_CLOEXEC);
        assert_int_equal(ftruncate(kept->fd, 2 << 20), 0);
        rig_restart(&rig);
        /* A state file full of zeros is one that was never written: the other one counts if it is the newer one. */
        if (pool_stat().lost == 0)
            assert_true(*kind == 'a' || *kind == 'b');
        else
            only_first();
        end_two();
    }
}

/* Names that are none of ours, and a name that comes twice. */
static void test_strange_names(void **state) {
    static const char *const strange[] = {"x1", "a", "a0", "stored", "f-1", "", "a1_", "zzzzzzzz"};
    (void)state;
    two_sessions(true);
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        int fd = memfd_create("strange", MFD_CLOEXEC);
        assert_int_equal(store.base.put(&store.base, strange[i], &fd, 1), 0);
        close(fd);
    }
    char twice[9];
    keep_name('a', rig.sessions[places[0]].id, twice);
    int fd = memfd_create("strange", MFD_CLOEXEC);
    assert_int_equal(store.base.put(&store.base, twice, &fd, 1), 0);
    close(fd);
    rig_restart(&rig);
    struct proto_pool_stat stat = pool_stat();
    assert_int_equal(stat.taken_over, 2);
    assert_int_equal(stat.lost, 0);
    for (int i = 0; i < 2; i++) {
        rig_reconnect(&rig, peers[i]);
        rig_reattach(&rig, places[i]);
        assert_int_equal(rig.sessions[places[i]].code, SCISSOR_OK);
        check_rows(places[i]);
    }
    end_two();
}

static void test_other_layout(void **state) {
    (void)state;
    two_sessions(true);
    for (int i = 0; i < 2; i++) {
        int fd = kept_named("ab"[i], rig.sessions[places[1]].id)->fd;
        uint32_t version = SNAPSHOT_VERSION + 1;
        assert_int_equal(pwrite(fd, &version, sizeof version, offsetof(struct snapshot_head, version)), sizeof version);
    }
    rig_restart(&rig);
    only_first();
    end_two();
}

static void test_pool_gone(void **state) {
    (void)state;
    two_sessions(true);
    rig.config.pools[0].name = "other";
    rig_restart(&rig);
    assert_int_equal(pool_stat().lost, 2);
    assert_int_equal(pool_stat().charged_bytes, 0);
    assert_int_equal(store.count, 0);
    end_two();
}

/* Nobody has said how large it is to be: less memory is available while sessions and their clients are there. */
static void test_smaller_pool_worked_out(void **state) {
    (void)state;
    for (int enough = 0; enough < 2; enough++) {
        two_sessions(true);
        struct proto_pool_stat before = pool_stat();
        rig.config.pools[0].worked_out = true;
        rig.config.pools[0].limit_bytes = enough ? before.guaranteed_bytes / 4 + 1 : before.guaranteed_bytes / 5;
        rig_restart(&rig);
        if (!enough) {
            only_first();
        } else {
            struct proto_pool_stat after = pool_stat();
            assert_int_equal(after.lost, 0);
            assert_int_equal(after.guaranteed_bytes, before.guaranteed_bytes);
            assert_int_equal(after.limit_bytes, before.guaranteed_bytes);
            broker_check(rig.broker);
            for (int i = 0; i < 2; i++) {
                rig_reconnect(&rig, peers[i]);
                rig_reattach(&rig, places[i]);
                period(places[i], F);
                check_rows(places[i]);
            }
            rig_close(&rig, places[0]); /* the limit goes back as memory does */
            rig_jobs(&rig);
            after = pool_stat();
            assert_true(after.limit_bytes < before.guaranteed_bytes);
            assert_int_equal(after.limit_bytes, after.guaranteed_bytes);
            period(places[1], F);
            rig_close(&rig, places[1]);
            rig_jobs(&rig);
            assert_int_equal(pool_stat().limit_bytes, rig.config.pools[0].limit_bytes);
        }
        end_two();
    }
}

/* In the order of their opening; nothing of the second one is left, and its client's memory stays mapped. */
static void test_smaller_pool(void **state) {
    (void)state;
    two_sessions(true);
    struct rig_session *second = &rig.sessions[places[1]];
    void *page = rig_page(second, 0, 0);
    rig.config.pools[0].limit_bytes = pool_stat().charged_bytes * 2 / 3;
    rig_restart(&rig);
    assert_true(fake_row_is(page, 64, 0, 64, KERNEL_F16, 0, 0)); /* no SIGBUS */
    only_first();
    end_two();
}

static void test_process_gone(void **state) {
    (void)state;
    two_sessions(true);
    /* The second client is a process that has ended: its memory is revoked at once. */
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    int pidfd = pidfd_of(pid);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    struct snapshot_head head;
    int state_fd = kept_named('a', rig.sessions[places[1]].id)->fd;
    assert_int_equal(pread(state_fd, &head, sizeof head, 0), sizeof head);
    struct broker_kept *kept = kept_named('p', head.process);
    close(kept->fd);
    kept->fd = pidfd;
    int segment = -1;
    for (uint32_t i = 0; i < store.count; i++)
        if (store.kept[i].name[0] == 's')
            segment = fcntl(store.kept[i].fd, F_DUPFD_CLOEXEC, 0); /* the last one: of the second session */
    rig_restart(&rig);
    struct proto_pool_stat stat = pool_stat();
    assert_int_equal(stat.taken_over, 1);
    assert_int_equal(stat.lost, 0); /* it is over, not lost */
    assert_int_equal(lseek(segment, 0, SEEK_END), 0);
    close(segment);
    end_two();
}

/* Without memory for what it needs a session is given up, not the daemon. */
static void test_no_memory(void **state) {
    static struct broker_kept kept[FAKE_STORE_MAX];
    (void)state;
    for (size_t k = 0; k < 45; k++) {
        two_sessions(true);
        rig.broker = broker_leave(rig.broker);
        rig.job_count = 0;
        assert_int_equal(broker_new(&rig.config, &rig.broker), 0);
        size_t count = fake_store_give(&store, kept);
        alloc_fail_after(k, 1);
        broker_take_over(rig.broker, kept, count, rig.now);
        alloc_fail_never();
        for (size_t i = 0; i < count; i++)
            assert_int_equal(kept[i].fd, -1);
        broker_check(rig.broker);
        assert_int_equal(pool_stat().stored, store.count);
        for (int i = 0; i < RIG_PEERS; i++)
            rig.peers[i].handle = NULL;
        end_two();
    }
}

/* Any byte of the state files damaged, one after another and at random: never a crash. */
static void test_damaged(void **state) {
    uint32_t noise = 1;
    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        two_sessions(true);
        uint64_t id = rig.sessions[places[1]].id;
        for (uint32_t i = 0; i < 2; i++) {
            int fd = kept_named("ab"[i], id)->fd;
            off_t size = lseek(fd, 0, SEEK_END);
            noise = noise * 1664525u + 1013904223u;
            off_t at = round < 40 ? (off_t)(noise >> 8) % 2600 : (off_t)(noise >> 8) % (size < 30000 ? size : 30000);
            uint8_t byte;
            assert_int_equal(pread(fd, &byte, 1, at), 1);
            byte ^= (uint8_t)(1u << (noise >> 5 & 7));
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        rig_restart(&rig);
        broker_check(rig.broker);
        assert_true(pool_stat().taken_over >= 1);
        assert_true(pool_stat().taken_over + pool_stat().lost <= 2);
        end_two();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing),      cmocka_unit_test(test_missing_segment),
        cmocka_unit_test(test_foreign),      cmocka_unit_test(test_strange_names),
        cmocka_unit_test(test_other_layout), cmocka_unit_test(test_pool_gone),
        cmocka_unit_test(test_smaller_pool), cmocka_unit_test(test_smaller_pool_worked_out),
        cmocka_unit_test(test_process_gone), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests_name("keep, damaged", tests, NULL, NULL);
}
