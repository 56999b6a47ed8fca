/* test_keep.c - sessions that outlive the broker: taken over, given back to their clients, or given up as a whole. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "keep.h"
#include "sim/rig.h"
#include "snapshot.h"

#define MIB (1024ull * 1024)
#define F 16u

static struct rig rig;
static struct fake_store store;

/* ---------- a client that knows what its rows are ---------- */

static uint32_t heads_of(const struct rig_session *s) {
    uint32_t heads = 0;
    for (uint32_t i = 0; i < s->spec.group_count; i++)
        heads += s->spec.groups[i].layers * s->spec.groups[i].kv_heads;
    return heads;
}

static float score(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    (void)context;
    return (float)((layer * 7 + kv_head * 3 + plane + slot * slot) % 11) / 11;
}

static void write_rows(struct rig_session *s, uint32_t rows) {
    for (uint32_t h = 0; h < heads_of(s); h++)
        for (uint32_t i = 0; i < rows; i++)
            fake_row_write(rig_fresh(s, h), s->fresh_rows, i, s->spec.groups[0].head_dim, s->spec.compute_dtype,
                           (uint32_t)s->tokens + i, h);
}

static void send_scores(int place, uint32_t rows) {
    static uint8_t frame[1 << 18];
    struct rig_session *s = &rig.sessions[place];
    if (!s->scores[0].planes)
        return;
    for (uint32_t l = 0; l < rig_layers(s); l++) {
        size_t size = rig_frame(s, l, 1, rows, rows, score, NULL, frame);
        broker_score(rig.broker, frame, size, rig.now);
    }
    rig_act(&rig);
}

/* A period: rows, scores, settle. */
static void period(int place, uint32_t rows) {
    struct rig_session *s = &rig.sessions[place];
    write_rows(s, rows);
    send_scores(place, rows);
    rig_settle(&rig, place, rows, s->sequence);
    rig_jobs(&rig);
    assert_int_equal(s->code, SCISSOR_OK);
}

/* Every settled row is the one that its position says, and no position is there twice. */
static void check_rows(int place) {
    struct rig_session *s = &rig.sessions[place];
    uint32_t kv_heads = s->spec.groups[0].kv_heads;
    for (uint32_t h = 0; h < heads_of(s); h++) {
        rig_positions(&rig, place, h / kv_heads, h % kv_heads);
        assert_int_equal(s->code, SCISSOR_OK);
        assert_int_equal(s->positions_head.total, rig_head(s, h)[0]);
        for (uint32_t i = 0; i < s->position_count; i++) {
            assert_true(fake_row_is(rig_page(s, h, i / 64), 64, i % 64, s->spec.groups[0].head_dim,
                                    s->spec.storage_dtype, s->positions[i], h));
            for (uint32_t k = 0; k < i; k++)
                assert_int_not_equal(s->positions[i], s->positions[k]);
        }
    }
}

static struct proto_pool_stat pool_stat(void) {
    struct proto_pool_stat stat;
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    return stat;
}

static void begin(bool real) {
    fake_store_init(&store, FAKE_STORE_MAX);
    rig_init_kept(&rig, 64 * MIB, &store, real);
}

static void end(void) {
    rig_deinit(&rig);
    assert_int_equal(store.count, 0);
    fake_store_deinit(&store);
}

static int pidfd_of(pid_t pid) {
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int open_session(int peer, const char *policy) {
    struct proto_open spec = rig_spec(2, 2, 64, F, 200, 600, policy);
    spec.compute_dtype = spec.storage_dtype = KERNEL_F16;
    int place = rig_open_now(&rig, peer, &spec);
    assert_true(place >= 0);
    return place;
}

/* ---------- tests ---------- */

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

/* ---------- what does not fit ---------- */

/* Two sessions of two peers with some rows each; the second one is the one that something happens to. */
static int places[2], peers[2];

static void two_sessions(bool real) {
    begin(real);
    rig.pidfd = pidfd_of(getpid());
    for (int i = 0; i < 2; i++) {
        peers[i] = rig_connect(&rig);
        places[i] = open_session(peers[i], "pivotal");
        for (int k = 0; k < 5; k++)
            period(places[i], F);
    }
}

static void no_client_comes(void) {
    for (int i = 0; i < RIG_PEERS; i++)
        rig_disconnect(&rig, i);
    rig_pass(&rig, 2 * rig.config.orphan_wait_ns);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
}

static void end_two(void) {
    no_client_comes();
    close(rig.pidfd);
    rig.pidfd = -1;
    end();
}

static struct broker_kept *kept_named(char kind, uint64_t number) {
    char name[9];
    keep_name(kind, number, name);
    for (uint32_t i = 0; i < store.count; i++)
        if (strcmp(store.kept[i].name, name) == 0)
            return &store.kept[i];
    fail();
    return NULL;
}

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

/* ---------- orphans ---------- */

static void test_orphan_timeout(void **state) {
    (void)state;
    two_sessions(true);
    rig_restart(&rig);
    assert_int_equal(broker_deadline(rig.broker), rig.now + rig.config.orphan_wait_ns);
    rig.sessions[places[0]].lease->word = PROTO_LEASE_CLIENT; /* in a step: it is waited for */
    rig_pass(&rig, rig.config.orphan_wait_ns);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 1);
    rig_reconnect(&rig, peers[0]);
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

/* Without memory for what it needs a session is given up, not the daemon. */
static void test_no_memory(void **state) {
    static struct broker_kept kept[FAKE_STORE_MAX];
    (void)state;
    for (size_t k = 0; k < 60; k++) {
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
    for (uint32_t round = 0; round < 150; round++) {
        two_sessions(true);
        uint64_t id = rig.sessions[places[1]].id;
        for (uint32_t i = 0; i < 2; i++) {
            int fd = kept_named("ab"[i], id)->fd;
            off_t size = lseek(fd, 0, SEEK_END);
            noise = noise * 1664525u + 1013904223u;
            off_t at = round < 100 ? (off_t)(noise >> 8) % 2600 : (off_t)(noise >> 8) % (size < 30000 ? size : 30000);
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
        cmocka_unit_test(test_comes_back),       cmocka_unit_test(test_missing),
        cmocka_unit_test(test_missing_segment),  cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_strange_names),    cmocka_unit_test(test_other_layout),
        cmocka_unit_test(test_pool_gone),        cmocka_unit_test(test_smaller_pool),
        cmocka_unit_test(test_process_gone),     cmocka_unit_test(test_orphan_timeout),
        cmocka_unit_test(test_orphan_gone),      cmocka_unit_test(test_not_theirs),
        cmocka_unit_test(test_frames_of_orphan), cmocka_unit_test(test_half_a_period),
        cmocka_unit_test(test_full_store),       cmocka_unit_test(test_full_store_growth),
        cmocka_unit_test(test_puts_fail),        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests_name("keep", tests, NULL, NULL);
}
