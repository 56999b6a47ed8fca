/* test_trace.c - traces: what a record may hold, files that are cut off or damaged, a recorder of the broker's that is
 * slow or may not, and a replay and a persistence ratio that are worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "daemon/replay/replay.h"
#include "scissor_error.h"
#include "sim/rig.h"
#include "trace.h"

#define MIB (1024ull * 1024)

/* ---------- a tiny trace ----------
 *
 * One layer, one KV head, two fresh rows. Rows 0 and 1 settle, then 2 and 3; the frames say that row 0 gets all of the
 * attention and row 1 none. */

static char bytes[4096];
static size_t size;

static struct trace_shape tiny_shape(const char *policy) {
    struct trace_shape s = {.session = 7, .name = "tiny", .fresh_rows = 2, .group_count = 1};
    s.groups[0] = (struct trace_group){
        .layers = 1, .kv_heads = 1, .q_heads = 1, .head_dim = 64, .planes = PROTO_PLANE_MASS, .max_rows = 1026};
    proto_text_set(s.groups[0].policy, sizeof s.groups[0].policy, policy);
    return s;
}

static void put(const void *from, size_t count) {
    memcpy(bytes + size, from, count);
    size += count;
}

/* All `settled` rows, each in the slot of its position, of which `rows` are new. */
static void make_state(uint64_t generation, uint32_t settled, uint32_t rows) {
    struct trace_state state = {
        .generation = generation, .tokens_seen = settled, .rows = rows, .whole = rows == 0, .heads = 1};
    struct trace_head head = {.settled = settled, .count = rows ? rows : settled};
    size = 0;
    put(&state, sizeof state);
    put(&head, sizeof head);
    for (uint32_t i = settled - head.count; i < settled; i++) {
        struct trace_row row = {.slot = i, .position = i, .norm = 1};
        put(&row, sizeof row);
    }
}

static void make_frame(uint64_t generation, uint32_t slots, const float *mass) {
    struct proto_score f = {.magic = PROTO_SCORE_MAGIC,
                            .version = PROTO_SCORE_VERSION,
                            .planes = PROTO_PLANE_MASS,
                            .generation = generation,
                            .layer_count = 1,
                            .rows = 2,
                            .fresh = 2,
                            .format = {PROTO_FORMAT_F32},
                            .payload_bytes = slots * 4};
    size = 0;
    put(&f, sizeof f);
    put(mass, slots * sizeof *mass);
}

/* ---------- files ---------- */

static FILE *tiny_file(void) {
    struct trace_shape shape = tiny_shape("h2o");
    struct trace_end end = {.code = SCISSOR_ECLOSED};
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(trace_write_begin(file), 0);
    assert_int_equal(trace_write(file, TRACE_SHAPE, 0, &shape, sizeof shape), 0);
    make_state(1, 0, 0);
    assert_int_equal(trace_write(file, TRACE_STATE, 1, bytes, size), 0);
    make_frame(1, 2, (const float[]){1, 1});
    assert_int_equal(trace_write(file, TRACE_FRAME, 2, bytes, size), 0);
    make_state(2, 2, 2);
    assert_int_equal(trace_write(file, TRACE_STATE, 5, bytes, size), 0); /* two are lost */
    assert_int_equal(trace_write(file, TRACE_END, 6, &end, sizeof end), 0);
    rewind(file);
    return file;
}

/* Reads all; the code of the last call. */
static int read_all(FILE *file, struct trace_reader *reader, uint32_t *ret_records) {
    struct trace_record record;
    *ret_records = 0;
    int code = trace_reader_init(reader, file);
    while (code == 0 && (code = trace_read(reader, &record)) == 0)
        ++*ret_records;
    return code;
}

static void test_file(void **state) {
    (void)state;
    struct trace_reader reader;
    uint32_t records;
    FILE *file = tiny_file();
    assert_int_equal(read_all(file, &reader, &records), TRACE_DONE);
    assert_int_equal(records, 4);
    assert_int_equal(reader.lost, 2);
    assert_string_equal(reader.shape.name, "tiny");
    trace_reader_deinit(&reader);
    fclose(file);
}

/* A file that ends anywhere, or has any one byte changed, is refused, and says why. */
static void test_damage(void **state) {
    (void)state;
    char whole[4096];
    FILE *file = tiny_file();
    size_t length = fread(whole, 1, sizeof whole, file);
    fclose(file);
    assert_true(length > 2000 && length < sizeof whole);
    for (size_t at = 0; at < length; at++) {
        struct trace_reader reader;
        uint32_t records;
        file = fmemopen(whole, at ? at : 1, "rb");
        assert_true(read_all(file, &reader, &records) < 0);
        assert_true(reader.why[0]);
        trace_reader_deinit(&reader);
        fclose(file);
        whole[at] ^= 1;
        file = fmemopen(whole, length, "rb");
        int code = read_all(file, &reader, &records);
        assert_true(code == SCISSOR_EPROTO || code == TRACE_DONE);
        if (code == TRACE_DONE) /* what is reserved or pads */
            assert_int_equal(records, 4);
        trace_reader_deinit(&reader);
        fclose(file);
        whole[at] ^= 1;
    }
}

/* What has a right sum may still be nonsense. */
static void test_check(void **state) {
    (void)state;
    struct trace_shape shape = tiny_shape("h2o"), bad = shape;
    const char *why;
    assert_int_equal(trace_check(TRACE_SHAPE, &shape, sizeof shape, NULL, &why), 0);
    bad.fresh_rows = 0;
    assert_int_equal(trace_check(TRACE_SHAPE, &bad, sizeof bad, NULL, &why), SCISSOR_EPROTO);
    bad = shape;
    bad.groups[0].kv_heads = PROTO_MAX_HEADS + 1;
    assert_int_equal(trace_check(TRACE_SHAPE, &bad, sizeof bad, NULL, &why), SCISSOR_EPROTO);
    make_state(1, 4, 2);
    assert_int_equal(trace_check(TRACE_STATE, bytes, size, &shape, &why), 0);
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(trace_check(TRACE_STATE, bytes, cut, &shape, &why), SCISSOR_EPROTO);
    struct trace_row row = {.slot = 4, .position = 3};
    memcpy(bytes + size - sizeof row, &row, sizeof row);
    assert_int_equal(trace_check(TRACE_STATE, bytes, size, &shape, &why), SCISSOR_EPROTO);
    assert_non_null(strstr(why, "row"));
    assert_int_equal(trace_check(99, bytes, size, &shape, &why), SCISSOR_EPROTO);
}

/* ---------- a replay by hand ---------- */

static void run_tiny(struct replay *r, const char *policy, uint32_t budget) {
    struct trace_shape shape = tiny_shape("h2o");
    struct replay_spec spec = {.policy = policy, .budget = budget};
    int code = replay_init(r, &shape, &spec);
    if (code)
        fail_msg("%s", r->why);
    make_state(1, 0, 0);
    assert_int_equal(replay_record(r, TRACE_STATE, bytes), 0);
    make_frame(1, 2, (const float[]){2, 0});
    assert_int_equal(replay_record(r, TRACE_FRAME, bytes), 0);
    make_state(2, 2, 2);
    assert_int_equal(replay_record(r, TRACE_STATE, bytes), 0);
    make_frame(2, 4, (const float[]){1, 0, 0.5f, 0.5f});
    assert_int_equal(replay_record(r, TRACE_FRAME, bytes), 0);
    make_state(3, 4, 2);
    assert_int_equal(replay_record(r, TRACE_STATE, bytes), 0);
    make_frame(3, 6, (const float[]){1, 0, 0.25f, 0.25f, 0.5f, 0});
    assert_int_equal(replay_record(r, TRACE_FRAME, bytes), 0);
}

static void assert_kept(const struct replay *r, uint32_t count, const uint32_t *positions) {
    const struct history *h = &r->heads[0].history;
    assert_int_equal(h->settled, count);
    for (uint32_t i = 0; i < count; i++) {
        bool found = false;
        for (uint32_t k = 0; k < count; k++)
            found |= h->position[k] == positions[i];
        assert_true(found);
    }
}

static void assert_near(double a, double b) {
    assert_true(a - b < 1e-9 && b - a < 1e-9);
}

static void test_by_hand(void **state) {
    (void)state;
    struct replay r;
    run_tiny(&r, "h2o", 0); /* keeps all */
    assert_kept(&r, 4, (const uint32_t[]){0, 1, 2, 3});
    assert_near(r.mass[0].kept, r.mass[0].all);
    assert_near(r.mass[0].all, 2 + 2 + 2);
    replay_deinit(&r);

    /* Three settled rows: of 0 and 1 the one without attention goes, and then row 0 is still there. */
    run_tiny(&r, "h2o", 5);
    assert_kept(&r, 3, (const uint32_t[]){0, 2, 3});
    assert_near(r.mass[0].settled_kept, 1 + 1 + 0.5);
    assert_near(r.mass[0].settled_all, 1 + 1.5);
    replay_deinit(&r);

    /* Two settled rows: the newest ones of a window; row 0's attention is missed in the last frame. */
    run_tiny(&r, "window", 4);
    assert_kept(&r, 2, (const uint32_t[]){2, 3});
    assert_near(r.mass[0].settled_kept, 1 + 0.5);
    assert_near(r.mass[0].kept, 6 - 1);
    replay_deinit(&r);
}

/* ---------- persistence by hand ---------- */

/* Six rows, so the first three are judged, by 1/3. Early, on 0: 2.5 under four query rows; on 1: 0.5 under three; on 2:
 * 0.9 under two. Late, on each under two. */
static void test_persistence(void **state) {
    (void)state;
    const struct trace_shape shape = tiny_shape("h2o");
    const struct replay_spec spec = {0};
    struct replay r;
    struct persistence p;
    struct persistence_count count;
    const char *why;
    assert_int_equal(persistence_init(&p, &shape, 6, &why), 0);
    assert_int_equal(replay_init(&r, &shape, &spec), 0);
    r.persistence = &p;
    make_state(1, 0, 0);
    assert_int_equal(replay_record(&r, TRACE_STATE, bytes), 0);
    make_frame(1, 2, (const float[]){1.5f, 0.5f});
    assert_int_equal(replay_record(&r, TRACE_FRAME, bytes), 0);
    make_state(2, 2, 2);
    assert_int_equal(replay_record(&r, TRACE_STATE, bytes), 0);
    make_frame(2, 4, (const float[]){1, 0, 0.9f, 0.1f});
    assert_int_equal(replay_record(&r, TRACE_FRAME, bytes), 0);
    make_state(3, 4, 2);
    assert_int_equal(replay_record(&r, TRACE_STATE, bytes), 0);
    make_frame(3, 6, (const float[]){0.5f, 0.8f, 0.7f, 0, 0, 0});
    assert_int_equal(replay_record(&r, TRACE_FRAME, bytes), 0);
    persistence_count(&p, 0, &count);
    assert_int_equal(count.early, 2); /* 0 and 2 */
    assert_int_equal(count.late, 2);  /* 1 and 2 */
    assert_int_equal(count.both, 1);
    assert_int_equal(count.rows, 3);
    assert_false(p.evicted);
    replay_deinit(&r);
    persistence_deinit(&p);
}

/* A layer's heads are added up, other layers' are not. A settled row that is missing is noticed. */
static void test_persistence_heads(void **state) {
    (void)state;
    struct trace_shape shape = tiny_shape("h2o");
    struct persistence p;
    struct persistence_count count;
    const uint32_t position[] = {1, 0};
    const float on_0[] = {0, 2, 0, 0}, on_1[] = {2, 0, 0, 0};
    const char *why;
    shape.groups[0].kv_heads = 2;
    shape.groups[1] = shape.groups[0];
    shape.group_count = 2;
    assert_int_equal(persistence_init(&p, &shape, 4, &why), 0);
    struct persistence_frame early = {.rows = 2, .fresh = 2, .mass = (const float[]){2, 0}};
    struct persistence_frame late = {.first = 2, .rows = 2, .fresh = 2, .settled = 2, .position = position};
    for (uint32_t layer = 0; layer < 2; layer++)
        for (uint32_t k = 0; k < 2; k++) {
            persistence_add(&p, layer, k, &early);
            late.mass = layer == 1 && k == 1 ? on_1 : on_0;
            persistence_add(&p, layer, k, &late);
        }
    for (uint32_t layer = 0; layer < 2; layer++) {
        persistence_count(&p, layer, &count);
        assert_int_equal(count.early, 2);
        assert_int_equal(count.late, 2);
        assert_int_equal(count.both, layer == 0 ? 2 : 1);
        assert_int_equal(count.rows, 4);
    }
    assert_false(p.evicted);
    late.settled = 1;
    persistence_add(&p, 0, 0, &late);
    assert_true(p.evicted);
    persistence_deinit(&p);
}

static void test_persistence_needs(void **state) {
    (void)state;
    struct trace_shape shape = tiny_shape("h2o");
    struct persistence p;
    const char *why;
    assert_int_equal(persistence_init(&p, &shape, 1, &why), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "rows"));
    persistence_deinit(&p);
    size_t before = alloc_live();
    for (size_t k = 0, code = 1; code; k++) {
        alloc_fail_after(k, 1);
        code = (size_t)(persistence_init(&p, &shape, 6, &why) != 0);
        alloc_fail_never();
        assert_true(code ? strcmp(why, "out of memory") == 0 : k > 3);
        persistence_deinit(&p);
        assert_int_equal(alloc_live(), before);
    }
    shape.groups[0].planes = PROTO_PLANE_LAST;
    assert_int_equal(persistence_init(&p, &shape, 6, &why), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "mass"));
    persistence_deinit(&p);
}

/* What the trace lacks is named. */
static void test_needs(void **state) {
    (void)state;
    static const struct {
        const char *policy, *word;
        uint32_t budget;
    } wrong[] = {{"tova", "last", 0},        {"scissorhands", "hits", 0}, {"pivotal", "|V|", 0},
                 {"belady", "no policy", 0}, {"h2o", "budget", 2},        {"h2o", "budget", PROTO_MAX_ROWS + 1}};
    struct trace_shape shape = tiny_shape("h2o");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct replay r;
        struct replay_spec spec = {.policy = wrong[i].policy, .budget = wrong[i].budget};
        assert_int_equal(replay_init(&r, &shape, &spec), SCISSOR_EINVAL);
        if (!strstr(r.why, wrong[i].word))
            fail_msg("'%s' is not in: %s", wrong[i].word, r.why);
        replay_deinit(&r);
    }
}

/* Records that do not follow from one another are refused. */
static void test_disorder(void **state) {
    (void)state;
    struct replay r;
    run_tiny(&r, "h2o", 0);
    make_frame(2, 6, (const float[6]){0});
    assert_int_equal(replay_record(&r, TRACE_FRAME, bytes), SCISSOR_EPROTO); /* of an older state */
    make_frame(3, 5, (const float[5]){0});
    assert_int_equal(replay_record(&r, TRACE_FRAME, bytes), SCISSOR_EPROTO); /* of other slots */
    make_frame(3, 6, (const float[6]){0});
    assert_int_equal(replay_record(&r, TRACE_FRAME, bytes), SCISSOR_EPROTO); /* more rows than fresh ones */
    make_state(4, 8, 2);
    assert_int_equal(replay_record(&r, TRACE_STATE, bytes), SCISSOR_EPROTO); /* one is missing between */
    make_state(4, 8, 0);
    assert_int_equal(replay_record(&r, TRACE_STATE, bytes), 0); /* which a whole one makes up for */
    assert_kept(&r, 8, (const uint32_t[]){0, 1, 2, 3, 4, 5, 6, 7});
    replay_deinit(&r);
}

/* ---------- the broker's side ---------- */

static struct rig rig;
static uint8_t frame[PROTO_SCORE_MAX];

static int teardown(void **state) {
    (void)state;
    rig_deinit(&rig);
    return 0;
}

static float one(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    (void)context, (void)layer, (void)kv_head, (void)plane, (void)slot;
    return 1;
}

static int open_one(uint32_t rows) {
    struct proto_open spec = rig_spec(8, 8, 64, 64, rows, 0, "h2o");
    int s = rig_open_now(&rig, rig_connect(&rig), &spec);
    assert_true(s >= 0);
    return s;
}

static void period(int s) {
    size_t bytes_of = rig_frame(&rig.sessions[s], 0, 8, 64, 64, one, NULL, frame);
    broker_score(rig.broker, frame, bytes_of, rig.now);
    rig_settle(&rig, s, 64, rig.sessions[s].sequence);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[s].code, 0);
    broker_check(rig.broker);
}

static void record(int peer, int s) {
    struct proto_record ask = {.session = rig.sessions[s].id};
    rig.peers[peer].code = 0;
    rig_send(&rig, peer, PROTO_RECORD, ++rig.last_request, &ask, NULL, 0);
}

static void have_read(int peer, int s, uint64_t count) {
    struct proto_record_read read = {.session = rig.sessions[s].id, .bytes = count};
    rig_send(&rig, peer, PROTO_RECORD_READ, 0, &read, NULL, 0);
}

/* Who reads gets all; who does not, loses records and costs the session nothing, and is told of all rows when it reads
 * again. */
static void test_slow_recorder(void **state) {
    (void)state;
    rig_init(&rig, 256 * MIB, true);
    int s = open_one(2048), peer = rig_connect(&rig);
    period(s);
    record(peer, s);
    assert_int_equal(rig.recorded.records, 2); /* shape and state */
    period(s);
    assert_int_equal(rig.recorded.records, 4);
    assert_int_equal(rig.recorded.lost, 0);
    for (int i = 0; i < 20; i++)
        period(s);
    assert_true(rig.recorded.bytes <= PROTO_RECORD_WINDOW);
    uint64_t before = rig.recorded.records;
    assert_true(before < 40);
    have_read(peer, s, UINT64_MAX);
    period(s); /* its frame is of slots that nobody knows, its state names all */
    assert_int_equal(rig.recorded.records, before + 1);
    assert_true(rig.recorded.lost > 0);
    assert_int_equal(rig.recorded.type, TRACE_STATE);
    assert_true(rig.recorded.whole);
    rig_close(&rig, s);
    rig_jobs(&rig);
    assert_int_equal(rig.recorded.type, TRACE_END);
}

static void test_who_may_record(void **state) {
    (void)state;
    rig_init(&rig, 256 * MIB, true);
    int s = open_one(256), other = rig_connect_as(&rig, RIG_UID + 1), root = rig_connect_as(&rig, 0),
        owner = rig_connect(&rig);
    record(other, s);
    assert_int_equal(rig.peers[other].code, SCISSOR_EPERM);
    record(owner, s);
    assert_int_equal(rig.peers[owner].code, 0);
    record(root, s);
    assert_int_equal(rig.peers[root].code, SCISSOR_ESTATE); /* one is enough */
    record(owner, s);
    assert_int_equal(rig.peers[owner].code, SCISSOR_ESTATE);
    rig_disconnect(&rig, owner);
    period(s);
    record(root, s);
    assert_int_equal(rig.peers[root].code, 0);
    rig.sessions[s].id++;
    record(other, s);
    rig.sessions[s].id--;
    assert_int_equal(rig.peers[other].code, SCISSOR_ENOSESSION);
}

/* Of the allocations that begin a recording the k-th fails, or all from it on: the recorder is refused, hung up on or
 * misses a record; the session goes on, and somebody else may record it. True if none failed. */
static bool begin_without_memory(size_t k, size_t failures) {
    size_t live = alloc_live();
    rig_init(&rig, 256 * MIB, true);
    int s = open_one(256), peer = rig_connect(&rig);
    period(s);
    alloc_fail_after(k, failures);
    record(peer, s);
    alloc_fail_never();
    broker_check(rig.broker);
    bool hung_up = !rig.peers[peer].handle, refused = !hung_up && rig.peers[peer].code,
         whole = !hung_up && !refused && rig.recorded.records == 2;
    if (refused)
        assert_int_equal(rig.peers[peer].code, SCISSOR_ENOMEM);
    if (!hung_up && !refused && !whole)
        assert_int_equal(rig.recorded.records, 1); /* without rows, which the next state brings */
    uint64_t before = rig.recorded.records;
    if (hung_up || refused)
        record(rig_connect(&rig), s);
    period(s);
    assert_int_equal(rig.recorded.lost, hung_up || refused || whole ? 0 : 2); /* the state, and the frame after it */
    assert_true(rig.recorded.records > before);
    assert_int_equal(rig.recorded.type, TRACE_STATE);
    rig_deinit(&rig);
    assert_int_equal(alloc_live(), live);
    return whole;
}

static void test_begin_without_memory(void **state) {
    (void)state;
    const size_t failures[] = {1, SIZE_MAX};
    for (size_t i = 0; i < 2; i++) {
        size_t k = 0;
        while (!begin_without_memory(k, failures[i]))
            k++;
        assert_true(k >= 3 && k < 100); /* the heads' counts, the shape, the state */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_persistence),
        cmocka_unit_test(test_persistence_heads),
        cmocka_unit_test(test_persistence_needs),
        cmocka_unit_test(test_needs),
        cmocka_unit_test(test_disorder),
        cmocka_unit_test_teardown(test_slow_recorder, teardown),
        cmocka_unit_test_teardown(test_who_may_record, teardown),
        cmocka_unit_test(test_begin_without_memory),
    };
    return cmocka_run_group_tests_name("traces", tests, NULL, NULL);
}
