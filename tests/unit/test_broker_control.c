/* test_broker_control.c - what control requests read of a broker: memory, positions, options, policies, heads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sim/rig.h"

#define MIB (1024ull * 1024)

static struct rig rig;

static int teardown(void **state) {
    (void)state;
    rig_deinit(&rig);
    return 0;
}

static int open_one(uint32_t guaranteed, uint32_t max, const char *policy) {
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, guaranteed, max, policy);
    int s = rig_open_now(&rig, peer, &spec);
    assert_true(s >= 0);
    return s;
}

static void settle(int s, uint32_t rows) {
    rig_settle(&rig, s, rows, rig.sessions[s].sequence);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[s].code, 0);
    broker_check(rig.broker);
}

static const void *ask(uint32_t op, uint64_t session, uint32_t first, uint64_t value0, uint64_t value1) {
    rig_control_to(&rig,
                   (struct proto_request){.op = op, .session = session, .first = first, .value = {value0, value1}});
    return rig.answer_entries;
}

/* ---------- memory ---------- */

/* Asks for all entries and compares their sum with the pool's charge. */
static uint32_t sum_up(struct proto_memory_stat *ret_entries, uint32_t room) {
    struct proto_pool_stat stat;
    uint64_t sum = 0;
    const struct proto_memory_stat *m = ask(PROTO_OP_MEMORY, 0, 0, 0, 0);
    assert_int_equal(rig.answer.code, 0);
    assert_int_equal(rig.answer.count, rig.answer.total);
    for (uint32_t i = 0; i < rig.answer.count; i++) {
        assert_int_equal(m[i].charged_bytes, m[i].fresh_bytes + m[i].used_bytes + m[i].free_bytes +
                                                 m[i].quarantined_bytes + m[i].granted_bytes + m[i].page_bytes +
                                                 m[i].state_bytes + m[i].bookkeeping_bytes);
        sum += m[i].charged_bytes;
        if (i < room)
            ret_entries[i] = m[i];
    }
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    assert_int_equal(sum, stat.charged_bytes);
    return rig.answer.count;
}

static void test_memory_adds_up(void **state) {
    (void)state;
    struct proto_memory_stat m[4];
    rig_init(&rig, 64 * MIB, false);
    assert_int_equal(sum_up(m, 4), 0);
    int a = open_one(128, 4096, "window"), b = open_one(128, 0, "pivotal");
    assert_int_equal(sum_up(m, 4), 2);
    assert_int_equal(m[0].session, rig.sessions[a].id);
    assert_int_equal(m[1].session, rig.sessions[b].id);
    assert_string_equal(m[0].name, "rig");
    assert_int_equal(m[0].used_bytes + m[0].free_bytes + m[0].granted_bytes, 0);
    assert_int_equal(m[0].settled_segments, 0);
    assert_true(m[0].fresh_segments > 0 && m[0].fresh_bytes == m[0].fresh_segments * SCISSOR_SEGMENT_BYTES);

    /* A settle that runs holds what it was granted. */
    rig_settle(&rig, a, 64, 0);
    sum_up(m, 4);
    assert_int_equal(m[0].granted_bytes, SCISSOR_SEGMENT_BYTES);
    assert_int_equal(m[0].state, PROTO_SESSION_SETTLING);
    rig_jobs(&rig);
    sum_up(m, 4);
    assert_int_equal(m[0].granted_bytes, 0);
    assert_int_equal(m[0].settled_segments, 1);
    assert_int_equal(m[0].used_bytes + m[0].free_bytes, SCISSOR_SEGMENT_BYTES);
    assert_int_equal(m[0].filled_rows, 4 * 64);
    assert_true(m[0].room_rows >= m[0].filled_rows);
    assert_true(m[0].charged_bytes > m[0].guaranteed_bytes || m[0].guaranteed_bytes > 0);
}

/* What a client has to unmap first, and what is left of a session that the operator closed. */
static void test_memory_on_its_way_out(void **state) {
    (void)state;
    struct proto_memory_stat m[4];
    rig_init(&rig, 16 * MIB, false);
    int a = open_one(128, 8192, "window");
    while (rig.sessions[a].tokens < 2048)
        settle(a, 64);
    sum_up(m, 4);
    uint32_t segments = m[0].settled_segments;
    assert_true(segments >= 3);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 1024, 0, "window");
    int b = rig_open(&rig, peer, &spec);
    rig_jobs(&rig);
    sum_up(m, 4);
    assert_int_equal(m[0].settled_segments, segments); /* nothing is given back before it is released */
    assert_true(m[0].quarantined_bytes >= SCISSOR_SEGMENT_BYTES);
    rig_released(&rig, a);
    rig_jobs(&rig);
    assert_int_equal(sum_up(m, 4), 2);
    assert_true(rig.sessions[b].opened); /* what was about to be released was worth waiting for */
    assert_int_equal(m[0].quarantined_bytes, 0);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, rig.sessions[a].id, 1, rig_operator(&rig));
    rig_jobs(&rig);
    assert_int_equal(sum_up(m, 4), 2);
    const struct proto_memory_stat *closed = m[0].session == rig.sessions[a].id ? &m[0] : &m[1];
    assert_int_equal(closed->session, rig.sessions[a].id);
    assert_int_equal(closed->fresh_bytes + closed->used_bytes, 0);
    assert_true(closed->page_bytes > 0);
}

static void test_memory_in_pages(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int a = open_one(128, 0, "window"), b = open_one(128, 0, "window");
    const struct proto_memory_stat *m = ask(PROTO_OP_MEMORY, 0, 1, 0, 0);
    assert_int_equal(rig.answer.total, 2);
    assert_int_equal(rig.answer.count, 1);
    assert_int_equal(m[0].session, rig.sessions[b].id);
    ask(PROTO_OP_MEMORY, 0, 7, 0, 0);
    assert_int_equal(rig.answer.count, 0);
    (void)a;
}

/* ---------- positions ---------- */

static void test_positions(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(128, 0, "window");
    uint64_t id = rig.sessions[s].id;
    ask(PROTO_OP_POSITIONS, id, 0, 1, 1);
    assert_int_equal(rig.answer.code, 0);
    assert_int_equal(rig.answer.total, 0);
    settle(s, 64);
    settle(s, 10);
    const struct proto_position *p = ask(PROTO_OP_POSITIONS, id, 0, 1, 1);
    assert_int_equal(rig.answer.total, 64);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 64; i++)
        sum += p[i].position;
    assert_int_equal(sum, 64 * 10 + 63 * 64 / 2); /* 10 to 73 in any order */
    p = ask(PROTO_OP_POSITIONS, id, 60, 1, 1);
    assert_int_equal(rig.answer.count, 4);

    ask(PROTO_OP_POSITIONS, id, 0, 2, 0);
    assert_int_equal(rig.answer.code, SCISSOR_EINVAL);
    assert_non_null(strstr(rig.answer.text, "has layers 0 to 1, not 2"));
    ask(PROTO_OP_POSITIONS, id, 0, 0, 1ull << 40);
    assert_int_equal(rig.answer.code, SCISSOR_EINVAL);
    assert_non_null(strstr(rig.answer.text, "KV heads 0 to 1"));
    ask(PROTO_OP_POSITIONS, id + 1, 0, 0, 0);
    assert_int_equal(rig.answer.code, SCISSOR_ENOSESSION);
}

/* While a job runs the lists are the job's. */
static void test_positions_of_a_busy_session(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(128, 0, "window");
    uint64_t id = rig.sessions[s].id;
    rig_settle(&rig, s, 64, 0);
    ask(PROTO_OP_POSITIONS, id, 0, 0, 0);
    assert_int_equal(rig.answer.code, SCISSOR_ESTATE);
    assert_non_null(strstr(rig.answer.text, "is settling just now; ask again"));
    rig_jobs(&rig);
    ask(PROTO_OP_POSITIONS, id, 0, 0, 0);
    assert_int_equal(rig.answer.code, 0);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, id, 1, rig.sessions[s].token);
    ask(PROTO_OP_POSITIONS, id, 0, 0, 0);
    assert_int_equal(rig.answer.code, SCISSOR_ENOSESSION);
}

/* ---------- heads ---------- */

struct shares {
    uint32_t settled;
    float on_settled, on_fresh;
};

static float share_value(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    const struct shares *s = context;
    (void)plane;
    return slot < s->settled ? s->on_settled * (float)(1 + layer + 2 * kv_head) : s->on_fresh;
}

/* A whole period's scores in one frame. */
static void gather(int s, float on_settled, float on_fresh) {
    static uint8_t frame[PROTO_SCORE_MAX];
    if (!rig.sessions[s].scores[0].planes)
        return; /* its client has nothing to send */
    struct shares shares = {rig_head(&rig.sessions[s], 0)[0], on_settled, on_fresh};
    size_t size = rig_frame(&rig.sessions[s], 0, 2, 64, 64, share_value, &shares, frame);
    broker_score(rig.broker, frame, size, rig.now);
    rig_act(&rig);
}

static const struct proto_head_stat *heads_of(int s) {
    const struct proto_head_stat *heads = ask(PROTO_OP_SESSION, rig.sessions[s].id, 0, 0, 0);
    assert_int_equal(rig.answer.count, 4);
    return heads;
}

/* The mass is that of the last period, head by head, whatever came before. */
static void test_mass(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(192, 0, "h2o");
    const struct proto_head_stat *head = heads_of(s);
    assert_true(head[0].mass == -1 && head[0].lowest_share == -1); /* nothing is settled */
    gather(s, 0, 1);
    settle(s, 64);
    head = heads_of(s);
    assert_true(head[0].mass == -1); /* nothing was settled */
    assert_true(head[0].lowest_share > 0);
    gather(s, 0.5f, 0.5f);
    settle(s, 64);
    head = heads_of(s);
    for (uint32_t h = 0; h < 4; h++) {
        double on_settled = 32.0 * (1 + head[h].layer + 2 * head[h].kv_head);
        assert_true(head[h].mass > on_settled / (on_settled + 32) - 1e-6);
        assert_true(head[h].mass < on_settled / (on_settled + 32) + 1e-6);
    }
    gather(s, 0.01f, 1);
    settle(s, 64);
    head = heads_of(s); /* 128 rows, each with 0.01 of 64 */
    assert_true(head[0].mass > 1.28 / 65.28 - 1e-6 && head[0].mass < 1.28 / 65.28 + 1e-6);
    settle(s, 64); /* without scores the last ones stay */
    head = heads_of(s);
    assert_true(head[0].mass > 1.28 / 65.28 - 1e-6 && head[0].mass < 1.28 / 65.28 + 1e-6);
}

static void test_mass_is_not_gathered(void **state) {
    (void)state;
    static const char *const policies[] = {"streaming", "window", "random", "tova", "scissorhands"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        rig_init(&rig, 64 * MIB, true);
        int s = open_one(192, 0, policies[i]);
        gather(s, 0.5f, 0.5f);
        settle(s, 64);
        gather(s, 0.5f, 0.5f);
        settle(s, 64);
        const struct proto_head_stat *head = heads_of(s);
        assert_true(head[3].mass == -1 && head[3].lowest_share == -1);
        assert_int_equal(head[3].settled, 128);
        const struct proto_session_stat *session = ask(PROTO_OP_SESSIONS, 0, 0, 0, 0);
        assert_true(session->lowest_mass == -1);
        rig_deinit(&rig);
    }
    rig_init(&rig, 64 * MIB, true);
}

static void test_ages(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(512, 0, "streaming"); /* keeps 0 to 3 and the newest */
    settle(s, 1);
    const struct proto_head_stat *head = heads_of(s);
    assert_int_equal(head[0].age[0], 1);
    while (rig.sessions[s].tokens < 1025 + 64)
        settle(s, 64);
    head = heads_of(s);
    uint64_t tokens = rig.sessions[s].tokens;
    assert_int_equal(tokens, 1089);
    for (uint32_t h = 0; h < 4; h++) {
        assert_int_equal(head[h].settled, 448);
        assert_int_equal(head[h].age[0], 64);  /* 1025 .. 1088 */
        assert_int_equal(head[h].age[1], 192); /* 833 .. 1024 */
        assert_int_equal(head[h].age[2], 448 - 4 - 256);
        assert_int_equal(head[h].age[3], 4); /* 0 .. 3 */
        assert_int_equal(head[h].age[4], 0);
        assert_int_equal(head[h].oldest, 0);
        assert_int_equal(head[h].newest, tokens - 1);
        assert_int_equal(head[h].evicted[PROTO_REASON_BUDGET], tokens - 448);
    }
}

/* ---------- options and policies ---------- */

static bool option(void *data, uint32_t i, struct proto_option *ret) {
    if (i >= *(uint32_t *)data)
        return false;
    *ret = (struct proto_option){.source = i % 3, .live = i % 2};
    snprintf(ret->name, sizeof ret->name, "option-%u", i);
    return true;
}

static void test_config(void **state) {
    (void)state;
    uint32_t count = 150; /* more than an answer holds */
    rig_init(&rig, 64 * MIB, true);
    ask(PROTO_OP_CONFIG, 0, 0, 0, 0);
    assert_int_equal(rig.answer.code, 0);
    assert_int_equal(rig.answer.total, 0);
    rig_deinit(&rig);

    struct broker_config config;
    rig_init(&rig, 64 * MIB, true);
    config = rig.config;
    broker_free(rig.broker);
    config.option = option;
    config.option_data = &count;
    assert_int_equal(broker_new(&config, &rig.broker), 0);
    const struct proto_option *o = ask(PROTO_OP_CONFIG, 0, 0, 0, 0);
    uint32_t first = rig.answer.count;
    assert_int_equal(rig.answer.total, 150);
    assert_true(first > 90 && first < 150);
    assert_string_equal(o[5].name, "option-5");
    o = ask(PROTO_OP_CONFIG, 0, first, 0, 0);
    assert_int_equal(rig.answer.count, 150 - first);
    assert_string_equal(o[149 - first].name, "option-149");
}

static void test_policies(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const struct proto_policy_param *p = ask(PROTO_OP_POLICIES, 0, 0, 0, 0);
    uint32_t standard = 0, params = 0, bare = 0;
    assert_int_equal(rig.answer.count, rig.answer.total);
    for (uint32_t i = 0; i < rig.answer.count; i++) {
        assert_true(p[i].policy[0] && p[i].text[0] && p[i].source[0]);
        standard += p[i].standard && strcmp(p[i].policy, "pivotal") != 0;
        params += strcmp(p[i].policy, "pivotal") == 0 && p[i].standard && p[i].param[0];
        bare += strcmp(p[i].policy, "window") == 0 && !p[i].param[0];
        assert_true(!p[i].param[0] || (p[i].param_text[0] && p[i].min <= p[i].value && p[i].value <= p[i].max));
    }
    assert_int_equal(standard, 0);
    assert_int_equal(params, 4);
    assert_int_equal(bare, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_memory_adds_up, teardown),
        cmocka_unit_test_teardown(test_memory_on_its_way_out, teardown),
        cmocka_unit_test_teardown(test_memory_in_pages, teardown),
        cmocka_unit_test_teardown(test_positions, teardown),
        cmocka_unit_test_teardown(test_positions_of_a_busy_session, teardown),
        cmocka_unit_test_teardown(test_mass, teardown),
        cmocka_unit_test_teardown(test_mass_is_not_gathered, teardown),
        cmocka_unit_test_teardown(test_ages, teardown),
        cmocka_unit_test_teardown(test_config, teardown),
        cmocka_unit_test_teardown(test_policies, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
