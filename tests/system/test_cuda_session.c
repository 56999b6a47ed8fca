/* test_cuda_session.c - sessions on a device from end to end: the real daemon with --device cuda, clients in processes
 * of their own that use device pointers and streams, on the driver of tests/fakecuda, which ends whoever breaks an
 * order. What they get is compared with a daemon in host memory, and with plain attention. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention.h"
#include "cuda_roles.h"
#include "harness.h"
#include "scissor.h"

static const struct attention_model model = {.seed = 3,
                                             .layers = 2,
                                             .kv_heads = 2,
                                             .q_heads = 4,
                                             .head_dim = 32,
                                             .compute_dtype = SCISSOR_F32,
                                             .storage_dtype = SCISSOR_F16,
                                             .scale = 0.2f};

static struct scissor_session_spec spec_of(const struct attention_model *m, const char *policy) {
    struct scissor_session_spec spec = {.name = "device",
                                        .compute_dtype = m->compute_dtype,
                                        .storage_dtype = m->storage_dtype,
                                        .fresh_rows = 16,
                                        .group_count = 1};
    spec.groups[0] = (struct scissor_group_spec){.layers = m->layers,
                                                 .kv_heads = m->kv_heads,
                                                 .q_heads = m->q_heads,
                                                 .head_dim = m->head_dim,
                                                 .guaranteed_rows = 16 + 48};
    strncpy(spec.groups[0].policy, policy, sizeof spec.groups[0].policy - 1);
    return spec;
}

/* ---------- a client with a device ---------- */

#define VECTORS_BYTES ((size_t)8 << 20)

/* What an engine with CUDA has besides: two streams, and vectors, here in pinned memory so that the host can read them.
 * Each is used once, as work that is queued may still need it. */
static struct {
    struct kernel_backend *backend;
    cuda_stream streams[2];
    char *vectors;
    size_t used;
} engine;

static void engine_open(void) {
    char why[256];
    const struct cuda_driver *driver = role_driver(&engine.streams[0]);
    REQUIRE(driver->stream_new(&engine.streams[1], CUDA_STREAM_NON_BLOCKING) == 0);
    engine.backend = kernel_backend_open("cuda", why, sizeof why);
    REQUIRE(engine.backend);
    REQUIRE(engine.backend->streams->memory_new(engine.backend, KERNEL_MEMORY_PINNED, VECTORS_BYTES,
                                                (void **)&engine.vectors) == 0);
}

static float *vector_new(size_t floats) {
    float *at = (float *)(engine.vectors + engine.used);
    engine.used += (floats * sizeof(float) + 63) / 64 * 64;
    REQUIRE(engine.used <= VECTORS_BYTES);
    return at;
}

/* The same tokens as attention_step()'s, queued; *ret_out is there when the stream has come so far. */
static int layer_on(const struct attention_model *m, struct scissor_session *s, uint32_t rows, uint32_t layer,
                    void *stream, float **ret_out) {
    size_t kv = (size_t)m->kv_heads * m->head_dim, qs = (size_t)m->q_heads * m->head_dim;
    float *k = vector_new(rows * kv), *v = vector_new(rows * kv), *q = vector_new(rows * qs);
    uint64_t first = scissor_tokens_seen(s);
    for (uint32_t r = 0; r < rows; r++) {
        attention_row(m, ATTENTION_K, layer, first + r, k + r * kv);
        attention_row(m, ATTENTION_V, layer, first + r, v + r * kv);
        attention_row(m, ATTENTION_Q, layer, first + r, q + r * qs);
    }
    struct scissor_attend_item item = {s, layer, m->scale, q, *ret_out = vector_new(rows * qs)};
    int r = scissor_append_device(s, layer, k, v, SCISSOR_F32, stream);
    return r ? r : scissor_attend_device(&item, 1, stream);
}

static int step_on(const struct attention_model *m, struct scissor_session *s, uint32_t rows, void *stream,
                   float **ret_out) {
    int r = scissor_step_begin(s, rows);
    if (r)
        return r;
    for (uint32_t layer = 0; layer < m->layers && !r; layer++)
        r = layer_on(m, s, rows, layer, stream, ret_out);
    int end = scissor_step_end(s);
    return r ? r : end;
}

static void wait_for(void *stream) {
    REQUIRE(engine.backend->streams->wait(engine.backend, stream) == 0);
}

static uint32_t rows_of(int step) {
    return 1 + (uint32_t)step * 3 % 7;
}

/* ---------- roles of other processes ---------- */

static struct scissor_session *role_opened(const char *directory, const struct attention_model *m,
                                           struct scissor_client **ret_client) {
    struct scissor_session_spec spec = spec_of(m, "pivotal");
    struct scissor_session *s = NULL;
    REQUIRE(scissor_connect(directory, ret_client) == 0);
    REQUIRE(scissor_open(*ret_client, &spec, &s) == 0);
    REQUIRE(strncmp(scissor_session_device(s), "cuda:GPU-", 9) == 0);
    return s;
}

/* Steps and settles on two streams; looks at some outputs. */
static void role_attends(const char *directory) {
    struct attention_model mine = model;
    struct scissor_client *client;
    float *out;
    mine.seed = (uint32_t)getpid();
    engine_open();
    struct scissor_session *s = role_opened(directory, &mine, &client);
    for (int i = 0; i < 40; i++) {
        void *stream = engine.streams[i / 2 % 2];
        if (scissor_fresh_room(s) < rows_of(i)) {
            int r = scissor_settle_device(s, engine.streams[i % 2]);
            REQUIRE(r == 0 || r == SCISSOR_SCORES_LOST);
        }
        REQUIRE(step_on(&mine, s, rows_of(i), stream, &out) == 0);
        if (i % 5)
            continue;
        wait_for(stream);
        double error = attention_error(&mine, s, mine.layers - 1, rows_of(i), out);
        if (!(error < 1e-4))
            fprintf(stderr, "after step %d attention is off by %g\n", i, error);
        REQUIRE(error < 1e-4);
    }
    REQUIRE(scissor_settled_count(s, 0, 0) == 48);
    REQUIRE(scissor_close(s) == 0);
    scissor_disconnect(client);
}

/* To be killed in the middle of a step with work that is not done. */
static void role_hangs(const char *directory) {
    struct scissor_client *client;
    float *out;
    engine_open();
    struct scissor_session *s = role_opened(directory, &model, &client);
    REQUIRE(step_on(&model, s, 16, engine.streams[0], &out) == 0);
    REQUIRE(scissor_settle(s) == 0);
    REQUIRE(scissor_step_begin(s, 1) == 0);
    for (int i = 0; i < 8; i++)
        REQUIRE(layer_on(&model, s, 1, 0, engine.streams[1], &out) == 0);
    puts("hangs");
    fflush(stdout);
    pause();
}

/* The driver fails a launch for good ($FAKECUDA_FAIL). */
static void role_loses(const char *directory) {
    struct scissor_client *client;
    float *out;
    int r = 0;
    engine_open();
    struct scissor_session *s = role_opened(directory, &model, &client);
    for (int i = 0; i < 20 && !r; i++) {
        if (scissor_fresh_room(s) < 4)
            r = scissor_settle_device(s, engine.streams[0]);
        if (!r)
            r = step_on(&model, s, 4, engine.streams[0], &out);
    }
    REQUIRE(r == SCISSOR_EDEVICELOST);
    REQUIRE(strstr(scissor_last_text(client), "719"));
    REQUIRE(scissor_step_begin(s, 1) == SCISSOR_EDEVICELOST);
    REQUIRE(scissor_close(s) == SCISSOR_EDEVICELOST);
    scissor_disconnect(client);
}

/* ---------- tests ---------- */

static const char *self;
static struct harness_daemon on_device, on_host;

static pid_t role_start(const char *role, const char *output) {
    const char *const argv[] = {self, role, on_device.dir, NULL};
    pid_t pid;
    assert_int_equal(harness_spawn(argv, output, &pid), 0);
    return pid;
}

static void role_ends_well(pid_t pid) {
    int status;
    assert_int_equal(harness_wait(pid, 100000, &status), 0);
    assert_int_equal(status, 0);
}

static void nothing_is_left(void) {
    struct proto_pool_stat stat;
    assert_int_equal(harness_wait_sessions(&on_device, 0, HARNESS_PATIENCE_MS), 0);
    for (int i = 0; i < HARNESS_PATIENCE_MS / 10; i++) {
        assert_int_equal(harness_stat(&on_device, &stat), 0);
        if (stat.charged_bytes == 0)
            return;
        harness_sleep_ms(10);
    }
    fail_msg("%llu bytes are still charged", (unsigned long long)stat.charged_bytes);
}

static void two_clients(void **state) {
    (void)state;
    pid_t pids[2] = {role_start("attends", NULL), role_start("attends", NULL)};
    role_ends_well(pids[0]);
    role_ends_well(pids[1]);
    nothing_is_left();
}

static double difference(const float *a, const float *b, size_t count) {
    double most = 0;
    for (size_t i = 0; i < count; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

static void same_positions(struct scissor_session *a, struct scissor_session *b) {
    uint32_t pa[48], pb[48], na, nb;
    for (uint32_t layer = 0; layer < model.layers; layer++)
        for (uint32_t head = 0; head < model.kv_heads; head++) {
            assert_int_equal(scissor_positions(a, layer, head, pa, 48, &na), 0);
            assert_int_equal(scissor_positions(b, layer, head, pb, 48, &nb), 0);
            assert_int_equal(na, nb);
            assert_memory_equal(pa, pb, na * sizeof *pa);
        }
}

/* The same tokens with both daemons: with each policy the same rows are kept, and the same comes out. */
static void same_as_the_host(void **state) {
    static const char *const policies[] = {"pivotal", "h2o", "scissorhands", "streaming"};
    struct scissor_client *clients[2];
    (void)state;
    assert_int_equal(scissor_connect(on_device.dir, &clients[0]), 0);
    assert_int_equal(scissor_connect(on_host.dir, &clients[1]), 0);
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        struct scissor_session_spec spec = spec_of(&model, policies[p]);
        struct scissor_session *s[2];
        float *out, expected[16 * 4 * 32];
        double worst = 0;
        for (int i = 0; i < 2; i++)
            assert_int_equal(scissor_open(clients[i], &spec, &s[i]), 0);
        engine.used = 0; /* the session before has been closed */
        for (int i = 0; i < 30; i++) {
            uint32_t rows = rows_of(i);
            if (scissor_fresh_room(s[1]) < rows) {
                assert_int_equal(scissor_settle_device(s[0], engine.streams[0]), 0);
                assert_int_equal(scissor_settle(s[1]), 0);
                same_positions(s[0], s[1]);
            }
            assert_int_equal(step_on(&model, s[0], rows, engine.streams[i % 2], &out), 0);
            assert_int_equal(attention_step(&model, s[1], rows, model.layers - 1, expected), 0);
            wait_for(engine.streams[i % 2]);
            worst = fmax(worst, difference(out, expected, (size_t)rows * model.q_heads * model.head_dim));
        }
        print_message("%s: outputs differ by %.2g at most\n", policies[p], worst);
        assert_true(worst < 1e-5);
        assert_int_equal(scissor_settled_count(s[0], 1, 1), 48);
        assert_int_equal(scissor_close(s[0]), 0);
        assert_int_equal(scissor_close(s[1]), 0);
    }
    scissor_disconnect(clients[0]);
    scissor_disconnect(clients[1]);
    nothing_is_left();
}

static void streams_are_checked(void **state) {
    struct scissor_client *client;
    (void)state;
    struct scissor_session *s = role_opened(on_device.dir, &model, &client);
    float *out, row[2 * 32] = {0};
    engine.used = 0;
    assert_int_equal(scissor_step_begin(s, 1), 0);
    assert_int_equal(layer_on(&model, s, 1, 0, engine.streams[0], &out), 0);
    assert_int_equal(layer_on(&model, s, 1, 0, engine.streams[1], &out), SCISSOR_EINVAL);
    assert_non_null(strstr(scissor_last_text(client), "another stream"));
    assert_int_equal(scissor_append(s, 1, row, row, SCISSOR_F32), SCISSOR_EINVAL);
    assert_int_equal(layer_on(&model, s, 1, 1, engine.streams[0], &out), 0);
    assert_int_equal(scissor_step_end(s), 0);
    assert_int_equal(step_on(&model, s, 1, NULL, &out), 0); /* the default stream is one like others */
    assert_int_equal(scissor_settle_device(s, NULL), 0);
    assert_int_equal(scissor_close(s), 0);
    scissor_disconnect(client);
    nothing_is_left();
}

static void quantised_rows_are_refused(void **state) {
    struct scissor_client *client;
    struct scissor_session *s = NULL;
    struct scissor_session_spec spec = spec_of(&model, "pivotal");
    (void)state;
    spec.storage_dtype = SCISSOR_INT8;
    assert_int_equal(scissor_connect(on_device.dir, &client), 0);
    assert_int_equal(scissor_open(client, &spec, &s), SCISSOR_EINVAL);
    assert_string_not_equal(scissor_last_text(client), "");
    scissor_disconnect(client);
}

/* The operator ends a session whose work is not done: the memory is the client's until it has closed it. */
static void operator_closes(void **state) {
    struct scissor_client *client;
    char command[256], text[256];
    float *out;
    int status, r = 0;
    (void)state;
    struct scissor_session *s = role_opened(on_device.dir, &model, &client);
    engine.used = 0;
    assert_int_equal(step_on(&model, s, 16, engine.streams[0], &out), 0);
    snprintf(command, sizeof command, "%s --dir %s close %llu", harness_program("scissorctl"), on_device.dir,
             (unsigned long long)scissor_session_id(s));
    assert_int_equal(harness_shell(command, HARNESS_PATIENCE_MS, text, sizeof text, &status), 0);
    assert_int_equal(status, 0);
    for (int i = 0; i < HARNESS_PATIENCE_MS / 10 && r == 0; i++) {
        r = scissor_settle(s);
        if (r == 0)
            r = step_on(&model, s, 1, engine.streams[1], &out);
        harness_sleep_ms(10);
    }
    assert_int_equal(r, SCISSOR_ECLOSED);
    assert_int_equal(scissor_close(s), SCISSOR_ECLOSED);
    nothing_is_left();
    scissor_disconnect(client);
}

/* Steps that only append: for rows that nobody has to look at. */
static int fill(const struct attention_model *m, struct scissor_session *s, uint32_t rows) {
    size_t kv = (size_t)m->kv_heads * m->head_dim;
    for (uint32_t done = 0; done < rows; done += 16) {
        int r = scissor_step_begin(s, 16);
        for (uint32_t layer = 0; layer < m->layers && !r; layer++)
            r = scissor_append_device(s, layer, engine.vectors, engine.vectors + 16 * kv * sizeof(float), SCISSOR_F32,
                                      engine.streams[0]);
        if (!r)
            r = scissor_step_end(s);
        if (!r)
            r = scissor_settle_device(s, engine.streams[0]);
        if (r && r != SCISSOR_SCORES_LOST)
            return r;
    }
    return 0;
}

/* Lent memory goes to a session that has a right to it, as soon as the client that had it has closed it. */
static void lent_memory_is_released(void **state) {
    const struct attention_model large = {
        .seed = 9, .layers = 8, .kv_heads = 8, .q_heads = 8, .head_dim = 128, .storage_dtype = SCISSOR_F16};
    const char *const args[] = {"--device", "cuda", "--pool", "48MiB", NULL};
    struct harness_daemon small;
    struct scissor_client *client;
    struct scissor_session *s[2] = {NULL, NULL};
    struct scissor_session_spec spec = spec_of(&large, "streaming");
    struct scissor_session_info before, after;
    (void)state;
    spec.compute_dtype = SCISSOR_F16;
    spec.wait_ms = 10000;
    spec.groups[0].guaranteed_rows = 32;
    spec.groups[0].max_rows = 4096;
    assert_int_equal(harness_start(&small, args), 0);
    assert_int_equal(scissor_connect(small.dir, &client), 0);
    assert_int_equal(scissor_open(client, &spec, &s[0]), 0);
    assert_int_equal(fill(&large, s[0], 2000), 0);
    scissor_session_info(s[0], &before);
    spec.groups[0].guaranteed_rows = spec.groups[0].max_rows = 16 + 512;
    assert_int_equal(scissor_open(client, &spec, &s[1]), 0);
    assert_int_equal(fill(&large, s[1], 512), 0);
    scissor_session_info(s[0], &after);
    print_message("the first session had %llu MiB, and has %llu\n", (unsigned long long)(before.segments_bytes >> 20),
                  (unsigned long long)(after.segments_bytes >> 20));
    assert_true(before.segments_bytes > after.segments_bytes);
    assert_int_equal(scissor_settled_count(s[1], 7, 7), 512);
    assert_int_equal(fill(&large, s[0], 32), 0);
    assert_int_equal(scissor_close(s[0]), 0);
    assert_int_equal(scissor_close(s[1]), 0);
    scissor_disconnect(client);
    assert_int_equal(harness_stop(&small), 0);
}

static void killed_in_a_step(void **state) {
    char output[96], text[64];
    (void)state;
    snprintf(output, sizeof output, "%s/hangs", on_device.base);
    setenv("FAKECUDA_DELAY_US", "200000", 1);
    pid_t pid = role_start("hangs", output);
    unsetenv("FAKECUDA_DELAY_US");
    for (int i = 0; i < HARNESS_PATIENCE_MS / 10 && harness_read_file(output, text, sizeof text) <= 0; i++)
        harness_sleep_ms(10);
    assert_non_null(strstr(text, "hangs"));
    assert_int_equal(harness_wait_sessions(&on_device, 1, HARNESS_PATIENCE_MS), 0);
    uint64_t killed = harness_now_ns();
    harness_kill(pid);
    nothing_is_left();
    print_message("all memory back %.1f ms after the kill\n", (double)(harness_now_ns() - killed) / 1e6);
    role_ends_well(role_start("attends", NULL));
}

static void skip_on_a_real_device(void) {
    if (!getenv("SCISSOR_TEST_GPU"))
        return;
    print_message("SKIP: a real driver fails no launch when it is asked to\n");
    skip();
}

static void one_client_loses_its_device(void **state) {
    (void)state;
    skip_on_a_real_device();
    setenv("FAKECUDA_FAIL", "cuLaunchKernel:40:719", 1);
    pid_t pid = role_start("loses", NULL);
    unsetenv("FAKECUDA_FAIL");
    pid_t other = role_start("attends", NULL);
    role_ends_well(pid);
    role_ends_well(other);
    nothing_is_left();
}

/* The daemon's own work fails for good: its sessions there are over, and it lives. */
static void daemon_loses_its_device(void **state) {
    const char *const args[] = {"--device", "cuda", NULL};
    struct harness_daemon failing;
    struct scissor_client *client;
    struct scissor_session_spec spec = spec_of(&model, "pivotal");
    struct scissor_session *another = NULL;
    float *out;
    int r = 0;
    (void)state;
    skip_on_a_real_device();
    setenv("FAKECUDA_FAIL", "cuLaunchKernel:20:719", 1);
    assert_int_equal(harness_start(&failing, args), 0);
    unsetenv("FAKECUDA_FAIL");
    struct scissor_session *s = role_opened(failing.dir, &model, &client);
    engine.used = 0;
    for (int i = 0; i < 40 && (r == 0 || r == SCISSOR_SCORES_LOST); i++) {
        r = step_on(&model, s, 8, engine.streams[0], &out);
        if (r == 0)
            r = scissor_settle_device(s, engine.streams[0]);
    }
    assert_int_equal(r, SCISSOR_EDEVICELOST);
    assert_int_equal(scissor_step_begin(s, 1), SCISSOR_EDEVICELOST);
    assert_int_equal(scissor_close(s), SCISSOR_EDEVICELOST);
    assert_int_equal(scissor_open(client, &spec, &another), SCISSOR_EDEVICELOST);
    assert_string_not_equal(scissor_last_text(client), "");
    assert_true(harness_alive(&failing));
    assert_int_equal(harness_wait_sessions(&failing, 0, HARNESS_PATIENCE_MS), 0);
    scissor_disconnect(client);
    assert_int_equal(harness_stop(&failing), 0);
}

/* Another process of the daemon knows nothing of what was on the device. */
static void daemon_starts_anew(void **state) {
    const char *const args[] = {"--device", "cuda", NULL};
    struct scissor_client *client;
    float *out;
    (void)state;
    struct scissor_session *s = role_opened(on_device.dir, &model, &client);
    engine.used = 0;
    assert_int_equal(step_on(&model, s, 4, engine.streams[0], &out), 0);
    wait_for(engine.streams[0]);
    harness_crash(&on_device);
    assert_int_equal(harness_start_again(&on_device, args), 0);
    assert_int_equal(scissor_step_begin(s, 1), SCISSOR_ERESTARTED);
    assert_int_equal(scissor_close(s), 0);
    struct scissor_session_spec spec = spec_of(&model, "pivotal");
    assert_int_equal(scissor_open(client, &spec, &s), 0);
    assert_int_equal(step_on(&model, s, 4, engine.streams[0], &out), 0);
    assert_int_equal(scissor_close(s), 0);
    scissor_disconnect(client);
}

static void scissor_run_gives_the_same_text(void **state) {
    char command[512], text[2][2048];
    (void)state;
    const char *model_path = getenv("MODEL");
    if (!model_path || access(model_path, R_OK) != 0) {
        print_message("SKIP: the environment's MODEL names no model file\n");
        skip();
    }
    for (int i = 0; i < 2; i++) {
        int status;
        snprintf(command, sizeof command,
                 "%s %s --file /usr/share/common-licenses/GPL-3 --max-tokens 34 -n 4 --budget 32 --fresh 16 "
                 "--device %s 2>&1",
                 harness_program("scissor-run"), model_path, i ? "cuda:0" : "host");
        assert_int_equal(harness_shell(command, 120000, text[i], sizeof text[i], &status), 0);
        assert_int_equal(status, 0);
    }
    assert_string_equal(text[0], text[1]);
}

/* ---------- the program ---------- */

static int start(void **state) {
    const char *const device[] = {"--device", "cuda", NULL}, *const host[] = {"--device", "host", NULL};
    (void)state;
    engine_open();
    return harness_start(&on_device, device) || harness_start(&on_host, host) ? -1 : 0;
}

static int stop(void **state) {
    (void)state;
    return harness_stop(&on_device) || harness_stop(&on_host) ? -1 : 0;
}

static int tests_on_device(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_the_host),
        cmocka_unit_test(two_clients),
        cmocka_unit_test(streams_are_checked),
        cmocka_unit_test(quantised_rows_are_refused),
        cmocka_unit_test(operator_closes),
        cmocka_unit_test(lent_memory_is_released),
        cmocka_unit_test(killed_in_a_step),
        cmocka_unit_test(one_client_loses_its_device),
        cmocka_unit_test(daemon_loses_its_device),
        cmocka_unit_test(daemon_starts_anew),
        cmocka_unit_test(scissor_run_gives_the_same_text),
    };
    return cmocka_run_group_tests_name("cuda: sessions", tests, start, stop);
}

static int play(const char *role, const char *directory) {
    static const struct {
        const char *name;
        void (*run)(const char *directory);
    } roles[] = {{"attends", role_attends}, {"hangs", role_hangs}, {"loses", role_loses}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i].name) == 0)
            roles[i].run(directory);
    return 0;
}

int main(int argc, char **argv) {
    harness_init(280);
    self = argv[0];
    if (argc == 3)
        return play(argv[1], argv[2]);
    return cuda_again_main(argv, tests_on_device);
}
