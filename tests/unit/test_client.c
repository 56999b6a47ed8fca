/* test_client.c - libscissor against a daemon that does what it should (tests/fake_daemon.h): steps, scores, memory
 * that comes and goes, time-outs, two threads, signals. What broken daemons do to it is in test_client_faults.c. Each
 * test runs with sessions in host memory and again with sessions on a device (tests/fake_device.h), where the same
 * calls copy and wait; what only a device has is in test_client_device.c. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client_set_up.h"
#include "fake_device.h"

static const struct attention_model model = {.seed = 1,
                                             .layers = 3,
                                             .kv_heads = 2,
                                             .q_heads = 6,
                                             .head_dim = 32,
                                             .compute_dtype = SCISSOR_F32,
                                             .storage_dtype = SCISSOR_F16,
                                             .scale = 0.2f};

static struct scissor_session_spec spec_of(const struct attention_model *m, uint32_t fresh, uint32_t rows) {
    struct scissor_session_spec spec = {.name = "test",
                                        .compute_dtype = m->compute_dtype,
                                        .storage_dtype = m->storage_dtype,
                                        .fresh_rows = fresh,
                                        .group_count = 1};
    spec.groups[0] = (struct scissor_group_spec){.layers = m->layers,
                                                 .kv_heads = m->kv_heads,
                                                 .q_heads = m->q_heads,
                                                 .head_dim = m->head_dim,
                                                 .guaranteed_rows = rows};
    return spec;
}

struct fixture {
    struct fake fake;
    struct scissor_client *client;
    struct scissor_session *session;
};

static struct fixture f;

static int set_up(void **state) {
    (void)state;
    memset(&f, 0, sizeof f);
    if (fake_start(&f.fake) < 0)
        return -1;
    f.fake.scores[0] = (struct proto_group_scores){.planes = 7, .threshold = 0};
    int r = scissor_connect(f.fake.dir, &f.client);
    if (r == 0)
        client_be_patient(f.client);
    return r;
}

static int tear_down(void **state) {
    (void)state;
    scissor_close(f.session);
    scissor_disconnect(f.client);
    fake_stop(&f.fake);
    return alloc_live() == 0 ? 0 : -1;
}

static int set_up_device(void **state) {
    fake_device_reset();
    int r = set_up(state);
    if (r == 0) {
        f.fake.device = fake_device_daemon();
        client_give_device(f.client);
    }
    return r;
}

static int tear_down_device(void **state) {
    scissor_close(f.session);
    f.session = NULL;
    client_take_device(f.client);
    int r = tear_down(state);
    return r || fake_device.faults || fake_device.allocations ? -1 : 0;
}

static void open_session(uint32_t fresh, uint32_t rows) {
    struct scissor_session_spec spec = spec_of(&model, fresh, rows);
    assert_int_equal(scissor_open(f.client, &spec, &f.session), 0);
}

/* ---------- the ordinary way ---------- */

static void steps_and_settles(void **state) {
    (void)state;
    float out[16 * 6 * 32];
    FAKE_SET(&f.fake, drain, true);
    open_session(16, 16 + 200);
    assert_int_equal(scissor_fresh_room(f.session), 16);
    const uint32_t rows[] = {16, 1, 1, 5, 16, 3};
    for (int i = 0; i < 60; i++) {
        uint32_t n = rows[i % 6];
        if (scissor_fresh_room(f.session) < n) {
            assert_int_equal(scissor_step_begin(f.session, n), SCISSOR_SETTLE_NEEDED);
            assert_int_equal(scissor_settle(f.session), 0);
            assert_int_equal(scissor_fresh_count(f.session), 0);
        }
        assert_int_equal(attention_step(&model, f.session, n, (uint32_t)i % 3, out), 0);
        assert_true(attention_error(&model, f.session, (uint32_t)i % 3, n, out) < 1e-5);
    }
    assert_int_equal(scissor_settled_count(f.session, 0, 0), 200);
    assert_int_equal(scissor_settled_count(f.session, 2, 1), 200);
    assert_int_equal(scissor_settled_count(f.session, 3, 0), 0);
    struct scissor_session_info info;
    scissor_session_info(f.session, &info);
    assert_int_equal(info.tokens_seen, scissor_tokens_seen(f.session));
    assert_int_equal(info.session, scissor_session_id(f.session));
    assert_int_equal(info.max_settled, 200);
    assert_int_equal(info.settles, fake_session_at(&f.fake, 0)->settles);
    assert_int_equal(info.evicted_rows, (info.tokens_seen - info.fresh_count - 200) * 6);
    assert_int_equal(info.segments_bytes, 2 * SCISSOR_SEGMENT_BYTES);
    assert_int_equal(scissor_settle(f.session), 0);
    assert_int_equal(scissor_settle(f.session), 0); /* nothing fresh: no message */
}

static void states_are_checked(void **state) {
    (void)state;
    float row[6 * 32] = {0}, out[6 * 32];
    open_session(16, 64);
    struct scissor_attend_item item = {f.session, 0, 1, row, out};
    assert_int_equal(scissor_step_end(f.session), SCISSOR_ESTATE);
    assert_int_equal(scissor_append(f.session, 0, row, row, SCISSOR_F32), SCISSOR_ESTATE);
    assert_int_equal(scissor_attend(&item, 1), SCISSOR_ESTATE);
    assert_int_equal(scissor_step_begin(f.session, 0), SCISSOR_EINVAL);
    assert_int_equal(scissor_step_begin(f.session, 17), SCISSOR_EINVAL);
    assert_int_equal(scissor_step_begin(f.session, 1), 0);
    assert_int_equal(scissor_step_begin(f.session, 1), SCISSOR_ESTATE);
    assert_int_equal(scissor_settle(f.session), SCISSOR_ESTATE);
    assert_int_equal(scissor_attend(&item, 1), SCISSOR_ESTATE); /* not appended */
    assert_int_equal(scissor_append(f.session, 3, row, row, SCISSOR_F32), SCISSOR_EINVAL);
    assert_int_equal(scissor_append(f.session, 0, row, row, 3), SCISSOR_EINVAL);
    assert_int_equal(scissor_append(f.session, 0, NULL, row, 0), SCISSOR_EINVAL);
    assert_int_equal(scissor_append(f.session, 0, row, row, SCISSOR_F32), 0);
    item.scale = NAN;
    assert_int_equal(scissor_attend(&item, 1), SCISSOR_EINVAL);
    item.scale = 1;
    item.layer = 9;
    assert_int_equal(scissor_attend(&item, 1), SCISSOR_EINVAL);
    item.layer = 0;
    assert_int_equal(scissor_attend(&item, 1), 0);
    assert_int_equal(scissor_attend(NULL, 0), 0);
    assert_int_equal(scissor_attend(NULL, 1), SCISSOR_EINVAL);
    assert_int_equal(fake_session_at(&f.fake, 0)->lease->word, PROTO_LEASE_CLIENT);
    assert_int_equal(scissor_step_end(f.session), 0);
    assert_int_equal(fake_session_at(&f.fake, 0)->lease->word, PROTO_LEASE_FREE);
    assert_int_equal(fake_session_at(&f.fake, 0)->lease->fresh_count, 1);
    uint32_t position, count;
    assert_int_equal(scissor_positions(f.session, 3, 0, &position, 1, &count), SCISSOR_EINVAL);
    assert_int_equal(scissor_positions(f.session, 0, 2, &position, 1, &count), SCISSOR_EINVAL);
}

static void positions_come_in_pages(void **state) {
    (void)state;
    open_session(64, 64 + 300);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(attention_step(&model, f.session, 64, 0, NULL), 0);
        assert_int_equal(scissor_settle(f.session), 0);
    }
    uint32_t positions[400], count = 0;
    assert_int_equal(scissor_positions(f.session, 1, 1, positions, 400, &count), 0);
    assert_int_equal(count, 300);
    for (uint32_t i = 0; i < 300; i++)
        assert_int_equal(positions[i], i < 84 ? 300 + i : i);
    memset(positions, 0, sizeof positions);
    assert_int_equal(scissor_positions(f.session, 1, 1, positions, 70, &count), 0);
    assert_int_equal(count, 300);
    assert_int_equal(positions[69], 369);
    assert_int_equal(positions[70], 0);
}

/* ---------- scores ---------- */

static char frame[PROTO_SCORE_MAX];

/* Decodes one vector of a frame of all layers: plane 0 mass, 1 hits, 2 last. */
static void decode(uint32_t slots, uint32_t head, uint32_t plane, float *ret) {
    struct proto_score s;
    uint64_t bad = 0;
    memcpy(&s, frame, sizeof s);
    size_t sizes[3], all = 0, at = sizeof s;
    for (uint32_t p = 0; p < 3; p++)
        all += sizes[p] = s.planes >> p & 1 ? proto_score_vector_bytes(s.format[p], slots) : 0;
    at += head * all;
    for (uint32_t p = 0; p < plane; p++)
        at += sizes[p];
    proto_score_decode(s.format[plane], frame + at, slots, ret, &bad);
    assert_int_equal(bad, 0);
}

static void frames_hold_the_scores(void **state) {
    (void)state;
    open_session(16, 96);
    for (int period = 0; period < 4; period++) {
        uint32_t rows = period == 3 ? 1 : 5, steps = period == 3 ? 1 : 3, n = scissor_settled_count(f.session, 0, 0);
        uint64_t first = scissor_tokens_seen(f.session);
        uint32_t positions[96], fresh = rows * steps, count;
        assert_int_equal(scissor_positions(f.session, 0, 0, positions, 96, &count), 0);
        for (uint32_t i = 0; i < steps; i++)
            assert_int_equal(attention_step(&model, f.session, rows, 0, NULL), 0);
        assert_int_equal(scissor_settle(f.session), 0);

        struct proto_score s;
        int size = fake_frame(&f.fake, frame, sizeof frame, 2000);
        const char *why;
        assert_true(size > 0);
        assert_int_equal(proto_score_check(frame, (size_t)size, &why), 0);
        memcpy(&s, frame, sizeof s);
        assert_int_equal(s.session, scissor_session_id(f.session));
        assert_memory_equal(s.token, fake_session_at(&f.fake, 0)->token, sizeof s.token);
        assert_int_equal(s.sequence, period + 1);
        assert_int_equal(s.generation, period + 1);
        assert_int_equal(fake_session_at(&f.fake, 0)->score_sequence, period + 1);
        assert_int_equal(s.first_layer, 0);
        assert_int_equal(s.layer_count, 3);
        assert_int_equal(s.rows, fresh);
        assert_int_equal(s.fresh, fresh);
        assert_int_equal(s.format[1], rows * steps == 1 ? PROTO_FORMAT_BITS : PROTO_FORMAT_U8);

        for (uint32_t layer = 0; layer < 3; layer++)
            for (uint32_t h = 0; h < 2; h++) {
                double mass[112] = {0}, newest[112] = {0};
                float got[112], hits[112], last[112], out[32];
                for (uint32_t r = 0; r < fresh; r++)
                    for (uint32_t q = h * 3; q < h * 3 + 3; q++)
                        attention_expect(&model, layer, q, first + r, positions, n, first, r + 1, out, mass);
                for (uint32_t q = h * 3; q < h * 3 + 3; q++)
                    attention_expect(&model, layer, q, first + fresh - 1, positions, n, first, fresh, out, newest);
                decode(n + fresh, layer * 2 + h, 0, got);
                decode(n + fresh, layer * 2 + h, 1, hits);
                decode(n + fresh, layer * 2 + h, 2, last);
                for (uint32_t j = 0; j < n + fresh; j++) {
                    assert_true(fabs(got[j] - mass[j]) < 1e-4);
                    assert_true(fabs(last[j] - newest[j]) < 1e-4);
                    assert_true(hits[j] >= 0 && hits[j] <= (float)fresh && hits[j] == floorf(hits[j]));
                }
            }
    }
}

/* Two groups; the first sends nothing, the second's frames are limited to one layer each. */
static void split_frames(uint32_t plane, uint32_t index) {
    struct scissor_session_spec spec = spec_of(&model, 16, 600);
    spec.group_count = 2;
    spec.groups[1] = spec.groups[0];
    spec.groups[1].layers = 2;
    spec.groups[0].guaranteed_rows = 100;
    FAKE_SET(&f.fake, scores[0].planes, 0);
    FAKE_SET(&f.fake, scores[1].planes, plane);
    client_take_device(f.client);
    scissor_disconnect(f.client);
    FAKE_SET(&f.fake, score_frame_max, 4096);
    assert_int_equal(scissor_connect(f.fake.dir, &f.client), 0);
    client_be_patient(f.client);
    if (f.fake.device)
        client_give_device(f.client);
    assert_int_equal(scissor_open(f.client, &spec, &f.session), 0);
    struct attention_model both = model;
    both.layers = 5;
    uint32_t sequence = 0;
    for (int period = 0; period < 40; period++) {
        assert_int_equal(attention_step(&both, f.session, 16, 0, NULL), 0);
        uint32_t n = scissor_settled_count(f.session, 4, 1), slots = n + 16;
        int r = scissor_settle(f.session);
        size_t f32 = 2 * proto_score_vector_bytes(PROTO_FORMAT_F32, slots), room = 4096 - sizeof(struct proto_score);
        assert_int_equal(r, 0);
        uint32_t frames = 2 * f32 <= room ? 1 : 2;
        for (uint32_t i = 0; i < frames; i++) {
            struct proto_score s;
            int size = fake_frame(&f.fake, frame, sizeof frame, 2000);
            assert_true(size > 0 && size <= 4096);
            memcpy(&s, frame, sizeof s);
            assert_int_equal(s.sequence, ++sequence);
            assert_int_equal(s.first_layer, 3 + i);
            assert_int_equal(s.layer_count, frames == 1 ? 2 : 1);
            assert_int_equal(s.planes, plane);
            assert_int_equal(s.format[index], f32 <= room ? PROTO_FORMAT_F32 : PROTO_FORMAT_F16);
        }
        assert_int_equal(fake_session_at(&f.fake, 0)->score_sequence, sequence);
    }
    assert_int_equal(fake_frame(&f.fake, frame, sizeof frame, 20), -1);
}

static void frames_are_split(void **state) {
    (void)state;
    split_frames(PROTO_PLANE_MASS, 0);
}

static void frames_of_last_are_split(void **state) {
    (void)state;
    split_frames(PROTO_PLANE_LAST, 2);
}

static void lost_scores_are_said(void **state) {
    (void)state;
    open_session(16, 64);
    FAKE_SET(&f.fake, lose_scores, true);
    assert_int_equal(attention_step(&model, f.session, 3, 0, NULL), 0);
    assert_int_equal(scissor_settle(f.session), SCISSOR_SCORES_LOST);
    struct scissor_session_info info;
    scissor_session_info(f.session, &info);
    assert_int_equal(info.scores_lost, 1);
    assert_int_equal(info.settles, 1);
}

/* ---------- memory that goes ---------- */

static void shrink_between_steps(void **state) {
    (void)state;
    float out[4 * 6 * 32];
    open_session(16, 96);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(attention_step(&model, f.session, 16, 0, NULL), 0);
        assert_int_equal(scissor_settle(f.session), 0);
        assert_true(fake_frame(&f.fake, frame, sizeof frame, 2000) > 0);
    }
    assert_int_equal(attention_step(&model, f.session, 4, 0, NULL), 0);
    struct fake_session *s = fake_session_at(&f.fake, 0);
    fake_cut(&f.fake, s, 20);
    assert_int_equal(attention_step(&model, f.session, 4, 1, out), 0);
    assert_int_equal(scissor_settled_count(f.session, 0, 0), 20);
    uint32_t slots[20];
    float expected[32];
    for (uint32_t i = 0; i < 20; i++)
        slots[i] = i;
    attention_expect(&model, 1, 5, 55, slots, 20, 48, 8, expected, NULL);
    for (int c = 0; c < 32; c++)
        assert_true(fabs(out[(3 * 6 + 5) * 32 + c] - expected[c]) < 1e-5);

    /* Sums of settled slots from before are gone, those of fresh rows are not. */
    assert_int_equal(scissor_settle(f.session), 0);
    assert_true(fake_frame(&f.fake, frame, sizeof frame, 2000) > 0);
    struct proto_score score;
    memcpy(&score, frame, sizeof score);
    assert_int_equal(score.generation, 5);
    float mass[28];
    double before[56] = {0}, after[28] = {0};
    uint32_t all[48];
    for (uint32_t i = 0; i < 48; i++)
        all[i] = i;
    for (uint32_t r = 0; r < 8; r++)
        for (uint32_t q = 0; q < 3; q++)
            attention_expect(&model, 0, q, 48 + r, r < 4 ? all : slots, r < 4 ? 48 : 20, 48, r + 1, expected,
                             r < 4 ? before : after);
    decode(28, 0, 0, mass);
    for (uint32_t j = 0; j < 28; j++)
        assert_true(fabs(mass[j] - (after[j] + (j >= 20 ? before[48 + j - 20] : 0))) < 1e-4);
}

/* The segment of a step that is open is unmapped when the step ends. */
static void shrink_waits_for_the_step(void **state) {
    (void)state;
    float row[6 * 32] = {0}, out[6 * 32];
    struct scissor_session_info info;
    open_session(16, 96);
    assert_int_equal(attention_step(&model, f.session, 16, 0, NULL), 0);
    assert_int_equal(scissor_settle(f.session), 0);
    assert_int_equal(scissor_step_begin(f.session, 1), 0);
    struct proto_shrink shrink = {.session = scissor_session_id(f.session)};
    struct proto_segment_id id = {.id = 1};
    fake_send(&f.fake, PROTO_SHRINK, 0, &shrink, &id, 1);
    uint32_t positions[16], count;
    assert_int_equal(scissor_positions(f.session, 0, 0, positions, 16, &count), 0); /* reads what came */
    assert_int_equal(scissor_append(f.session, 0, row, row, SCISSOR_F32), 0);
    struct scissor_attend_item item = {f.session, 0, 1, row, out};
    assert_int_equal(scissor_attend(&item, 1), 0);
    scissor_session_info(f.session, &info);
    assert_int_equal(info.segments_bytes, 2 * SCISSOR_SEGMENT_BYTES);
    assert_int_equal(scissor_step_end(f.session), 0);
    scissor_session_info(f.session, &info);
    assert_int_equal(info.segments_bytes, (f.fake.device ? 2 : 1) * SCISSOR_SEGMENT_BYTES);
    fake_cut(&f.fake, fake_session_at(&f.fake, 0), 0);
    assert_int_equal(attention_step(&model, f.session, 1, 0, NULL), 0);
    if (f.fake.device) /* waits for what the step has queued */
        assert_int_equal(scissor_settle(f.session), 0);
    for (int i = 0; i < 100 && FAKE_GET(&f.fake, received[PROTO_RELEASED]) == 0; i++)
        usleep(2000);
    assert_int_equal(FAKE_GET(&f.fake, received[PROTO_RELEASED]), 1);
}

static void operator_closes(void **state) {
    (void)state;
    open_session(16, 96);
    assert_int_equal(scissor_step_begin(f.session, 1), 0);
    struct proto_closed closed = {.session = scissor_session_id(f.session), .code = SCISSOR_ECLOSED};
    fake_send(&f.fake, PROTO_CLOSED, 0, &closed, NULL, 0);
    assert_int_equal(scissor_step_end(f.session), 0);
    assert_int_equal(scissor_step_begin(f.session, 1), SCISSOR_ECLOSED);
    assert_int_equal(scissor_settle(f.session), SCISSOR_ECLOSED);
    uint32_t position, count;
    assert_int_equal(scissor_positions(f.session, 0, 0, &position, 1, &count), SCISSOR_ECLOSED);
    assert_int_equal(scissor_close(f.session), SCISSOR_ECLOSED);
    f.session = NULL;
}

/* ---------- waiting ---------- */

static enum fake_verdict hold_settled(struct fake *fake, uint16_t type, struct fake_packet *p) {
    (void)fake;
    (void)p;
    return type == PROTO_SETTLED ? FAKE_HOLD : FAKE_SEND;
}

static void settle_goes_on_after_a_time_out(void **state) {
    (void)state;
    open_session(16, 96);
    scissor_set_timeout(f.client, 50);
    assert_int_equal(attention_step(&model, f.session, 7, 0, NULL), 0);
    fake_set_hook(&f.fake, hold_settled);
    assert_int_equal(scissor_settle(f.session), SCISSOR_ETIMEDOUT);
    assert_int_equal(scissor_step_begin(f.session, 1), SCISSOR_ESTATE);
    assert_int_equal(scissor_settle(f.session), SCISSOR_ETIMEDOUT);
    assert_int_equal(scissor_fresh_count(f.session), 7);
    fake_set_hook(&f.fake, NULL);
    fake_send_held(&f.fake);
    assert_int_equal(scissor_settle(f.session), 0);
    assert_int_equal(fake_session_at(&f.fake, 0)->settles, 1);
    assert_int_equal(scissor_fresh_count(f.session), 0);
    assert_int_equal(scissor_tokens_seen(f.session), 7);
    assert_int_equal(attention_step(&model, f.session, 1, 0, NULL), 0);
}

static enum fake_verdict hold_opened(struct fake *fake, uint16_t type, struct fake_packet *p) {
    (void)fake;
    (void)p;
    return type == PROTO_OPENED ? FAKE_HOLD : FAKE_SEND;
}

/* An open that is answered after its time-out must not leave a session behind. */
static void late_opened_is_given_back(void **state) {
    (void)state;
    struct scissor_session_spec spec = spec_of(&model, 16, 96);
    scissor_set_timeout(f.client, 50);
    fake_set_hook(&f.fake, hold_opened);
    assert_int_equal(scissor_open(f.client, &spec, &f.session), SCISSOR_ETIMEDOUT);
    assert_null(f.session);
    fake_set_hook(&f.fake, NULL);
    assert_int_equal(fake_open_sessions(&f.fake), 1);
    fake_send_held(&f.fake);
    scissor_set_timeout(f.client, 5000);
    open_session(16, 96);
    for (int i = 0; i < 100 && fake_open_sessions(&f.fake) > 1; i++)
        usleep(2000);
    assert_int_equal(fake_open_sessions(&f.fake), 1);
    assert_int_equal(attention_step(&model, f.session, 1, 0, NULL), 0);
}

static bool fake_holds(struct fake *fake) {
    pthread_mutex_lock(&fake->lock);
    bool holds = fake->held != NULL;
    pthread_mutex_unlock(&fake->lock);
    return holds;
}

static enum fake_verdict hold_failed(struct fake *fake, uint16_t type, struct fake_packet *p) {
    (void)fake;
    (void)p;
    return type == PROTO_FAILED ? FAKE_HOLD : FAKE_SEND;
}

/* Nor may a refusal that comes so late end the connection. */
static void late_refusal_is_no_offence(void **state) {
    (void)state;
    struct scissor_session_spec spec = spec_of(&model, 16, 96);
    struct scissor_session *refused = NULL;
    open_session(16, 96);
    scissor_set_timeout(f.client, 50);
    fake_set_hook(&f.fake, hold_failed);
    FAKE_SET(&f.fake, refuse_open, SCISSOR_BUSY);
    assert_int_equal(scissor_open(f.client, &spec, &refused), SCISSOR_ETIMEDOUT);
    for (int i = 0; i < 2500 && !fake_holds(&f.fake); i++)
        usleep(2000);
    FAKE_SET(&f.fake, refuse_open, 0);
    fake_set_hook(&f.fake, NULL);
    fake_send_held(&f.fake);
    scissor_set_timeout(f.client, 5000);
    assert_int_equal(attention_step(&model, f.session, 1, 0, NULL), 0);
    assert_int_equal(scissor_open(f.client, &spec, &refused), 0);
    assert_int_equal(scissor_close(refused), 0);
}

static void lease_is_waited_for(void **state) {
    (void)state;
    open_session(16, 96);
    scissor_set_timeout(f.client, 50);
    struct fake_session *s = fake_session_at(&f.fake, 0);
    __atomic_store_n(&s->lease->word, PROTO_LEASE_DAEMON, __ATOMIC_RELEASE);
    assert_int_equal(scissor_step_begin(f.session, 1), SCISSOR_ETIMEDOUT);
    __atomic_store_n(&s->lease->word, 12345, __ATOMIC_RELEASE); /* nonsense is nobody's */
    assert_int_equal(scissor_step_begin(f.session, 1), SCISSOR_ETIMEDOUT);
    __atomic_store_n(&s->lease->word, PROTO_LEASE_FREE, __ATOMIC_RELEASE);
    assert_int_equal(scissor_step_begin(f.session, 1), 0);
    assert_int_equal(scissor_step_end(f.session), 0);
}

/* ---------- threads and signals ---------- */

static void *one_session(void *data) {
    struct attention_model mine = model;
    struct scissor_session *s;
    mine.seed = (uint32_t)(uintptr_t)data;
    struct scissor_session_spec spec = spec_of(&mine, 16, 96);
    float out[16 * 6 * 32];
    if (scissor_open(f.client, &spec, &s))
        return "open";
    for (int i = 0; i < 60; i++) {
        if (scissor_fresh_room(s) < 8 && scissor_settle(s))
            return "settle";
        if (attention_step(&mine, s, 8, 1, out))
            return "step";
        if (attention_error(&mine, s, 1, 8, out) > 1e-5)
            return "attention";
    }
    return scissor_close(s) ? "close" : NULL;
}

static void two_threads(void **state) {
    (void)state;
    pthread_t threads[4];
    FAKE_SET(&f.fake, drain, true);
    for (uintptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, one_session, (void *)(i + 5)), 0);
    for (int i = 0; i < 4; i++) {
        void *what;
        pthread_join(threads[i], &what);
        if (what)
            fail_msg("thread %d: %s", i, (const char *)what);
    }
    assert_int_equal(fake_open_sessions(&f.fake), 0);
}

static atomic_uint alarms; /* the signal may come to any thread */
static void on_alarm(int number) {
    (void)number;
    alarms++;
}

static void interrupted_calls_go_on(void **state) {
    (void)state;
    struct sigaction action = {.sa_handler = on_alarm}, before;
    struct itimerval fast = {{0, 700}, {0, 700}}, off = {{0, 0}, {0, 0}};
    FAKE_SET(&f.fake, drain, true);
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &fast, NULL);
    void *what = one_session((void *)3);
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &before, NULL);
    assert_null(what);
    assert_true(alarms > 0);
}

int main(void) {
#define TEST(name)                                                        \
    cmocka_unit_test_setup_teardown(name, set_up, tear_down), {           \
#name "_on_a_device", name, set_up_device, tear_down_device, NULL \
    }
    const struct CMUnitTest tests[] = {
        TEST(steps_and_settles),
        TEST(states_are_checked),
        TEST(positions_come_in_pages),
        TEST(frames_hold_the_scores),
        TEST(frames_are_split),
        TEST(frames_of_last_are_split),
        TEST(lost_scores_are_said),
        TEST(shrink_between_steps),
        TEST(shrink_waits_for_the_step),
        TEST(operator_closes),
        TEST(settle_goes_on_after_a_time_out),
        TEST(late_opened_is_given_back),
        TEST(late_refusal_is_no_offence),
        TEST(lease_is_waited_for),
        TEST(two_threads),
        TEST(interrupted_calls_go_on),
    };
    return cmocka_run_group_tests_name("client", tests, NULL, NULL);
}
