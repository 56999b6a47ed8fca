/* test_keep.c - sessions that outlive the broker: taken over, given back to their clients, or given up as a whole. */
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
#include "sim/rig.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back),
    };
    return cmocka_run_group_tests_name("keep", tests, NULL, NULL);
}
