/* test_session.c - sessions of the real daemon through libscissor: what attention gives is what plain attention over
 * the positions that the daemon names gives, in every element type, for several groups, batches, prefills and threads;
 * and what the daemon says to scores that are forged, broken or missing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <math.h>
#include <nanomsg/nn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention.h"
#include "harness.h"
#include "scissor.h"
#include "score.h"

static struct harness_daemon d;
static struct scissor_client *client;

static const struct attention_model base = {.seed = 3,
                                            .layers = 2,
                                            .kv_heads = 2,
                                            .q_heads = 4,
                                            .head_dim = 64,
                                            .compute_dtype = SCISSOR_F32,
                                            .storage_dtype = SCISSOR_F32,
                                            .scale = 0.125f};

static struct scissor_session_spec spec_of(const struct attention_model *m, uint32_t fresh, uint32_t rows,
                                           const char *policy) {
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
    strncpy(spec.groups[0].policy, policy, sizeof spec.groups[0].policy - 1);
    return spec;
}

/* A device that is emulated is slow. */
static uint32_t turns(uint32_t host, uint32_t device) {
    return harness_device() ? device : host;
}

static struct scissor_session *opened(const struct scissor_session_spec *spec) {
    struct scissor_session *session = NULL;
    int r = scissor_open(client, spec, &session);
    if (r)
        fail_msg("open: %s (%s)", scissor_errname(r), scissor_last_text(client));
    return session;
}

/* One step of `rows`, settling before it if need be; checks one layer's output. */
static void step(const struct attention_model *m, struct scissor_session *s, uint32_t rows, uint32_t layer) {
    float *out = malloc((size_t)rows * m->q_heads * m->head_dim * sizeof *out);
    if (scissor_fresh_room(s) < rows)
        assert_int_equal(scissor_settle(s), 0);
    assert_int_equal(attention_step(m, s, rows, layer, out), 0);
    double error = attention_error(m, s, layer, rows, out);
    if (!(error < (m->storage_dtype <= SCISSOR_BF16 ? 2e-5 : 1e-3)))
        fail_msg("after %llu tokens attention is off by %g", (unsigned long long)scissor_tokens_seen(s), error);
    free(out);
}

static int start(void **state) {
    (void)state;
    const char *const args[] = {"--pool", "256MiB", NULL};
    return harness_start(&d, args) || scissor_connect(d.dir, &client);
}

static int stop(void **state) {
    (void)state;
    struct proto_pool_stat stat;
    int r = harness_stat(&d, &stat);
    scissor_disconnect(client);
    return r || stat.sessions != 0 || stat.charged_bytes != 0 || harness_stop(&d);
}

/* ---------- attention ---------- */

static void all_element_types(void **state) {
    (void)state;
    for (uint32_t compute = 0; compute < 3; compute++)
        for (uint32_t storage = 0; storage <= (harness_device() ? SCISSOR_BF16 : SCISSOR_FADE); storage++) {
            struct attention_model m = base;
            m.compute_dtype = compute;
            m.storage_dtype = storage;
            /* So many rows that those of fade keep their details. */
            uint32_t rows = storage == SCISSOR_FADE ? 32 + 2000 : 32 + 400;
            struct scissor_session_spec spec = spec_of(&m, 32, rows, "scissorhands");
            struct scissor_session *s = opened(&spec);
            for (uint32_t i = 0; i < turns(40, 8); i++)
                step(&m, s, 1 + i * 5 % 16, i % 2);
            assert_int_equal(scissor_settled_count(s, 0, 0) + scissor_fresh_count(s), scissor_tokens_seen(s));
            assert_int_equal(scissor_close(s), 0);
        }
}

/* Rows that a device does not keep are refused by name, and nothing is charged. */
static void quantised_on_a_device(void **state) {
    (void)state;
    struct scissor_session *s = NULL;
    struct scissor_session_spec spec = spec_of(&base, 32, 64, "scissorhands");
    if (!harness_device())
        return;
    spec.storage_dtype = SCISSOR_INT4;
    assert_int_equal(scissor_open(client, &spec, &s), SCISSOR_EINVAL);
    assert_non_null(strstr(scissor_last_text(client), "int4"));
    assert_null(s);
}

/* Grows segment by segment, then evicts; attention stays that over the positions that are held. */
static void grows_and_evicts(void **state) {
    (void)state;
    struct attention_model m = base;
    m.layers = 8;
    const uint64_t settled = turns(1024, 320), settles = turns(40, 8);
    struct scissor_session_info info;
    struct scissor_session_spec spec = spec_of(&m, 64, 64 + (uint32_t)settled, "scissorhands");
    struct scissor_session *s = opened(&spec);
    uint64_t bytes = 0, growths = 0;
    for (uint32_t i = 0; i < settles; i++) {
        if (i % 5 == 0)
            step(&m, s, 64, i % 8);
        else
            assert_int_equal(attention_step(&m, s, 64, 0, NULL), 0);
        assert_int_equal(scissor_settle(s), 0);
        scissor_session_info(s, &info);
        growths += info.segments_bytes != bytes;
        bytes = info.segments_bytes;
        uint64_t tokens = 64 * (i + 1);
        assert_int_equal(info.max_settled, tokens < settled ? tokens : settled);
        assert_int_equal(info.evicted_rows, tokens < settled ? 0 : (tokens - settled) * 16);
    }
    assert_true(growths >= turns(4, 2));
    assert_int_equal(info.scores_lost, 0);
    assert_int_equal(info.settles, settles);
    assert_int_equal(scissor_close(s), 0);
}

static void several_groups(void **state) {
    (void)state;
    struct attention_model first = base, second = base;
    second.head_dim = 32;
    second.kv_heads = 1;
    second.q_heads = 3;
    second.layers = 3;
    struct scissor_session_spec spec = spec_of(&first, 16, 16 + 64, "window"),
                                other = spec_of(&second, 16, 16 + 200, "scissorhands");
    spec.groups[1] = other.groups[0];
    spec.group_count = 2;
    struct scissor_session *s = opened(&spec);
    for (uint32_t i = 0; i < 20; i++) {
        float q[4 * 64], k[2 * 64], v[2 * 64], out[5][4 * 64];
        uint64_t position = scissor_tokens_seen(s);
        assert_int_equal(scissor_step_begin(s, 1), 0);
        for (uint32_t layer = 0; layer < 5; layer++) {
            const struct attention_model *m = layer < 2 ? &first : &second;
            attention_row(m, ATTENTION_K, layer, position, k);
            attention_row(m, ATTENTION_V, layer, position, v);
            attention_row(m, ATTENTION_Q, layer, position, q);
            assert_int_equal(scissor_append(s, layer, k, v, SCISSOR_F32), 0);
            struct scissor_attend_item item = {s, layer, m->scale, q, out[layer]};
            assert_int_equal(scissor_attend(&item, 1), 0);
        }
        assert_int_equal(scissor_step_end(s), 0);
        for (uint32_t layer = 0; layer < 5; layer++)
            assert_true(attention_error(layer < 2 ? &first : &second, s, layer, 1, out[layer]) < 2e-5);
        if (i % 3 == 2) { /* settle fewer than F rows */
            assert_int_equal(scissor_settle(s), 0);
            assert_int_equal(scissor_settled_count(s, 0, 1), i + 1 < 64 ? i + 1 : 64);
        }
    }
    assert_int_equal(scissor_settled_count(s, 4, 0), 18);
    assert_int_equal(scissor_close(s), 0);
}

/* Sessions of very different lengths, shapes alike, in one call. */
static void batches(void **state) {
    (void)state;
    enum { SESSIONS = 5 };
    struct scissor_session *s[SESSIONS];
    struct attention_model m[SESSIONS];
    const uint32_t lengths[SESSIONS] = {0, 1, 70, turns(333, 130), turns(900, 200)};
    for (int i = 0; i < SESSIONS; i++) {
        m[i] = base;
        m[i].seed = (uint32_t)i + 50;
        struct scissor_session_spec spec = spec_of(&m[i], 64, 64 + 512, "scissorhands");
        s[i] = opened(&spec);
        for (uint32_t done = 0; done < lengths[i];) {
            uint32_t rows = lengths[i] - done < 64 ? lengths[i] - done : 64;
            if (scissor_fresh_room(s[i]) < rows)
                assert_int_equal(scissor_settle(s[i]), 0);
            assert_int_equal(attention_step(&m[i], s[i], rows, 0, NULL), 0);
            done += rows;
        }
        if (scissor_fresh_room(s[i]) == 0)
            assert_int_equal(scissor_settle(s[i]), 0);
    }
    float q[SESSIONS][4 * 64], out[SESSIONS][4 * 64], k[2 * 64], v[2 * 64];
    struct scissor_attend_item items[SESSIONS];
    for (int i = 0; i < SESSIONS; i++) {
        uint64_t position = scissor_tokens_seen(s[i]);
        assert_int_equal(scissor_step_begin(s[i], 1), 0);
        attention_row(&m[i], ATTENTION_K, 1, position, k);
        attention_row(&m[i], ATTENTION_V, 1, position, v);
        attention_row(&m[i], ATTENTION_Q, 1, position, q[i]);
        assert_int_equal(scissor_append(s[i], 1, k, v, SCISSOR_F32), 0);
        items[i] = (struct scissor_attend_item){s[i], 1, m[i].scale, q[i], out[i]};
    }
    assert_int_equal(scissor_attend(items, SESSIONS), 0);
    for (int i = 0; i < SESSIONS; i++) {
        assert_int_equal(scissor_step_end(s[i]), 0);
        assert_true(attention_error(&m[i], s[i], 1, 1, out[i]) < 2e-5);
        assert_int_equal(scissor_close(s[i]), 0);
    }
}

/* ---------- positions ---------- */

static void assert_positions(struct scissor_session *s, uint32_t sinks, uint32_t capacity) {
    uint64_t tokens = scissor_tokens_seen(s);
    for (uint32_t layer = 0; layer < 2; layer++)
        for (uint32_t head = 0; head < 2; head++) {
            uint32_t positions[1024], count = 0;
            unsigned char seen[8192] = {0};
            assert_int_equal(scissor_positions(s, layer, head, positions, 1024, &count), 0);
            assert_int_equal(count, tokens < capacity ? tokens : capacity);
            for (uint32_t i = 0; i < count; i++) {
                assert_true(positions[i] < tokens && !seen[positions[i]]);
                seen[positions[i]] = 1;
                assert_true(tokens <= capacity || positions[i] < sinks || positions[i] >= tokens - (capacity - sinks));
            }
        }
}

static void positions_of_policies(void **state) {
    (void)state;
    for (int streaming = 0; streaming < 2; streaming++) {
        struct scissor_session_spec spec = spec_of(&base, 48, 48 + 200, streaming ? "streaming" : "window");
        if (streaming)
            spec.groups[0].params[0] = (struct scissor_param){"sinks", 4};
        struct scissor_session *s = opened(&spec);
        const uint32_t rows[] = {48, 1, 17, 48, 30};
        for (uint32_t i = 0; i < turns(25, 10); i++) {
            step(&base, s, rows[i % 5], i % 2);
            assert_int_equal(scissor_settle(s), 0);
            assert_positions(s, streaming ? 4 : 0, 200);
        }
        assert_int_equal(scissor_close(s), 0);
    }
}

/* ---------- threads ---------- */

static void *thread_session(void *data) {
    struct attention_model m = base;
    struct scissor_session *s = NULL;
    float out[16 * 4 * 64];
    m.seed = (uint32_t)(uintptr_t)data;
    struct scissor_session_spec spec = spec_of(&m, 32, 32 + 128, "scissorhands");
    if (scissor_open(client, &spec, &s))
        return "open";
    for (uint32_t i = 0; i < turns(50, 14); i++) {
        if (scissor_fresh_room(s) < 16 && scissor_settle(s) < 0)
            return "settle";
        if (attention_step(&m, s, 16, i % 2, out))
            return "step";
        if (i % 7 == 0 && !(attention_error(&m, s, i % 2, 16, out) < 2e-5))
            return "attention";
    }
    return scissor_close(s) ? "close" : NULL;
}

static void two_threads(void **state) {
    (void)state;
    pthread_t threads[2];
    void *what;
    for (uintptr_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, thread_session, (void *)(i + 9)), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], &what);
        if (what)
            fail_msg("thread %d: %s", i, (const char *)what);
    }
}

/* ---------- scores ---------- */

/* A frame of one layer, 2 KV heads, 4 fresh rows, mass as f32. */
static size_t build_frame(char *frame, const struct proto_opened *opened, uint64_t sequence, uint32_t settled,
                          float value) {
    const uint32_t fresh = 4, slots = settled + fresh;
    struct proto_score score = {.magic = PROTO_SCORE_MAGIC,
                                .version = PROTO_SCORE_VERSION,
                                .planes = PROTO_PLANE_MASS,
                                .session = opened->session,
                                .sequence = sequence,
                                .generation = settled ? 2 : 1,
                                .layer_count = 1,
                                .rows = fresh,
                                .fresh = fresh,
                                .format = {PROTO_FORMAT_F32},
                                .payload_bytes = 2 * slots * 4};
    memcpy(score.token, opened->token, sizeof score.token);
    memcpy(frame, &score, sizeof score);
    for (uint32_t i = 0; i < 2 * slots; i++)
        memcpy(frame + sizeof score + 4 * i, &value, sizeof value);
    return sizeof score + score.payload_bytes;
}

static uint64_t counter(size_t offset) {
    struct proto_pool_stat stat;
    uint64_t value;
    assert_int_equal(harness_stat(&d, &stat), 0);
    memcpy(&value, (char *)&stat + offset, sizeof value);
    return value;
}

#define FRAMES(fate) (offsetof(struct proto_pool_stat, frames) + PROTO_FRAME_##fate * sizeof(uint64_t))

static void assert_counted(int push, const char *frame, size_t size, size_t offset, uint64_t more) {
    uint64_t before = counter(offset);
    assert_int_equal(nn_send(push, frame, size, 0), size);
    assert_int_equal(harness_wait_counter(&d, offset, before + more, 3000), 0);
    assert_int_equal(counter(offset), before + more);
}

static void frames_are_judged(void **state) {
    (void)state;
    char frame[512];
    struct proto_open open;
    struct proto_opened opened;
    uint32_t score_socket = 0;
    int socket = harness_hello_scores(&d, &score_socket), push = harness_push(&d, score_socket);
    assert_true(socket >= 0 && push >= 0);
    harness_open_default(&open);
    open.groups[0].max_rows = open.groups[0].guaranteed_rows + 64; /* so that it wants mass */
    assert_int_equal(harness_open(socket, &open, &opened, NULL), 0);
    assert_int_equal(opened.groups[0].planes, PROTO_PLANE_MASS);

    size_t size = build_frame(frame, &opened, 1, 0, 0.5f);
    frame[offsetof(struct proto_score, token) + 15] ^= 1;
    assert_counted(push, frame, size, FRAMES(FORGED), 1);
    build_frame(frame, &opened, 1, 0, 0.5f);
    frame[offsetof(struct proto_score, session)] ^= 0x55;
    assert_counted(push, frame, size, FRAMES(FORGED), 1);
    build_frame(frame, &opened, 1, 0, 0.5f);
    assert_counted(push, frame, size - 4, FRAMES(MALFORMED), 1);
    uint64_t folded = counter(FRAMES(FOLDED));
    build_frame(frame, &opened, 1, 0, NAN);
    assert_counted(push, frame, size, offsetof(struct proto_pool_stat, bad_scores), 8);
    build_frame(frame, &opened, 2, 0, -1);
    assert_counted(push, frame, size, offsetof(struct proto_pool_stat, bad_scores), 8);
    assert_int_equal(counter(FRAMES(FOLDED)), folded + 2);
    assert_counted(push, frame, size, FRAMES(STALE), 1); /* the same again */

    struct proto_settled settled;
    assert_int_equal(harness_settle(socket, opened.session, 2, 4, &settled), 0);
    assert_int_equal(settled.scores_lost, 0);
    assert_int_equal(settled.generation, 2);
    build_frame(frame, &opened, 3, 0, 0.5f); /* of before the settle */
    assert_counted(push, frame, size, FRAMES(STALE), 1);
    size = build_frame(frame, &opened, 4, 4, 0.5f);
    assert_counted(push, frame, size, FRAMES(FOLDED), 1);
    assert_int_equal(harness_settle(socket, opened.session, 4, 4, &settled), 0);
    assert_int_equal(settled.scores_lost, 1); /* number 3 could not be used */
    uint64_t lost = counter(offsetof(struct proto_pool_stat, scores_lost)), begin = harness_now_ns();
    assert_int_equal(harness_settle(socket, opened.session, 99, 4, &settled), 0);
    assert_int_equal(settled.scores_lost, 1);
    assert_true(harness_now_ns() - begin > 20000000);
    assert_int_equal(counter(offsetof(struct proto_pool_stat, scores_lost)), lost + 1);
    nn_close(push);
    close(socket);
    for (int i = 0; i < 100 && counter(offsetof(struct proto_pool_stat, charged_bytes)) != 0; i++)
        harness_sleep_ms(10);
}

/* The front stands still, so the frames do not come. */
static void settle_without_scores(void **state) {
    (void)state;
    struct scissor_session_spec spec = spec_of(&base, 32, 96, "scissorhands");
    struct scissor_session *s = opened(&spec);
    struct scissor_session_info info;
    assert_int_equal(attention_step(&base, s, 32, 0, NULL), 0);
    assert_int_equal(scissor_settle(s), 0);
    pid_t front = harness_front_pid(&d);
    assert_true(front > 0);
    assert_int_equal(kill(front, SIGSTOP), 0);
    assert_int_equal(attention_step(&base, s, 32, 0, NULL), 0);
    int r = scissor_settle(s);
    assert_int_equal(kill(front, SIGCONT), 0);
    assert_int_equal(r, SCISSOR_SCORES_LOST);
    scissor_session_info(s, &info);
    assert_int_equal(info.scores_lost, 1);
    assert_int_equal(info.settles, 2);
    for (int i = 0; i < 5; i++) {
        step(&base, s, 32, 1);
        assert_int_equal(scissor_settle(s), 0);
    }
    assert_int_equal(scissor_close(s), 0);
}

/* ---------- memory ---------- */

static void settled_memory_is_read_only(void **state) {
    (void)state;
    if (harness_device()) {
        print_message("SKIP: CUDA has no read-only imports\n");
        skip();
    }
    static char packet[PROTO_ATTACH_MAX];
    struct proto_open open;
    struct proto_opened opened;
    int socket = harness_hello(&d), fds[PROTO_SEGMENTS_PER_MESSAGE], found = -1;
    uint32_t count;
    harness_open_default(&open);
    assert_int_equal(harness_open(socket, &open, &opened, NULL), 0);
    struct proto_settle settle = {.session = opened.session, .rows = 8};
    assert_int_equal(harness_send_message(socket, PROTO_SETTLE, 70, &settle), 0);
    while (found < 0) {
        struct proto_header h;
        struct proto_segment segment;
        assert_true(harness_receive(socket, packet, sizeof packet, HARNESS_PATIENCE_MS, fds, &count) > 0);
        memcpy(&h, packet, sizeof h);
        assert_int_equal(h.type, PROTO_GROW);
        assert_int_equal(h.request, 70);
        memcpy(&segment, proto_attach_entries(packet), sizeof segment);
        assert_int_equal(segment.kind, PROTO_SEGMENT_SETTLED);
        found = fds[0];
    }
    const size_t bytes = 2u << 20;
    assert_ptr_equal(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, found, 0), MAP_FAILED);
    void *mapped = mmap(NULL, bytes, PROT_READ, MAP_SHARED, found, 0);
    assert_ptr_not_equal(mapped, MAP_FAILED);
    assert_int_equal(mprotect(mapped, bytes, PROT_READ | PROT_WRITE), -1);
    assert_int_equal(pwrite(found, "x", 1, 0), -1);
    assert_int_equal(ftruncate(found, 0), -1);
    assert_int_equal(fallocate(found, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    munmap(mapped, bytes);
    close(found);
    close(socket);
    for (int i = 0; i < 100 && counter(offsetof(struct proto_pool_stat, charged_bytes)) != 0; i++)
        harness_sleep_ms(10);
}

int main(void) {
    harness_init(240);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_element_types),
        cmocka_unit_test(quantised_on_a_device),
        cmocka_unit_test(grows_and_evicts),
        cmocka_unit_test(several_groups),
        cmocka_unit_test(batches),
        cmocka_unit_test(positions_of_policies),
        cmocka_unit_test(two_threads),
        cmocka_unit_test(frames_are_judged),
        cmocka_unit_test(settle_without_scores),
        cmocka_unit_test(settled_memory_is_read_only),
    };
    return cmocka_run_group_tests_name("session", tests, start, stop);
}
