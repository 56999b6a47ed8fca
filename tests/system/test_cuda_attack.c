/* test_cuda_attack.c - ways in which one client on a device could hurt the daemon or other sessions there.
 *
 * The daemon is the program, on the driver in tests/fakecuda, which ends it when it frees memory that a client has
 * open. Some clients only speak the protocol and open nothing. The others are this program again with a role as its
 * first argument, as a process opens the driver once; when one has come to where it shall be, it writes a file. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention.h"
#include "cuda_roles.h"
#include "harness.h"
#include "scissor.h"

/* 16 pages of it, one of each head, fill a segment: 64 rows more are a segment more. */
static const struct attention_model model = {.seed = 5,
                                             .layers = 16,
                                             .kv_heads = 1,
                                             .q_heads = 1,
                                             .head_dim = 256,
                                             .compute_dtype = SCISSOR_F16,
                                             .storage_dtype = SCISSOR_F32,
                                             .scale = 0.0625f};

static struct harness_daemon daemon_;

/* ---------- roles ---------- */

static void leave_mark(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    REQUIRE(fd >= 0);
    close(fd);
}

/* A daemon of another process. */
static struct harness_daemon daemon_at(const char *directory) {
    struct harness_daemon d = {0};
    snprintf(d.dir, sizeof d.dir, "%s", directory);
    return d;
}

/* A client that speaks the protocol itself and whose work on the device goes on and on ($FAKECUDA_DELAY_US): it asks
 * for settles all the time, and must be told soon each time that there is nothing to be settled yet. */
static void role_never_done(const char *mark, const char *directory) {
    struct harness_daemon d = daemon_at(directory);
    const struct cuda_driver *driver;
    struct proto_open open;
    struct proto_opened opened;
    cuda_stream stream;
    cuda_event event;
    cuda_event_handle handle;
    driver = role_driver(&stream);
    int fd = harness_hello(&d);
    harness_open_default(&open);
    REQUIRE(harness_open(fd, &open, &opened, NULL) == 0);
    memcpy(handle.reserved, opened.events[0], sizeof handle.reserved);
    REQUIRE(driver->event_open(&event, handle) == 0);
    cuda_address memory = role_memory(driver, 4096);
    REQUIRE(driver->fill(memory, 1, 1024, stream) == 0);
    REQUIRE(driver->event_record(event, stream) == 0);
    for (uint32_t i = 1;; i++) {
        struct proto_settle settle = {.session = opened.session, .rows = 16};
        struct proto_failed failed = {.code = 0};
        uint64_t begin = harness_now_ns();
        REQUIRE(harness_send_message(fd, PROTO_SETTLE, i, &settle) == 0);
        REQUIRE(harness_expect(fd, PROTO_SETTLED, i, NULL, 0, &failed) < 0);
        REQUIRE(failed.code == SCISSOR_ESTATE);
        REQUIRE(harness_now_ns() - begin < 2000000000u);
        if (i == 1)
            leave_mark(mark);
    }
}

static int play(const char *name, const char *mark, const char *directory) {
    static const struct {
        const char *name;
        void (*run)(const char *mark, const char *directory);
    } roles[] = {{"never-done", role_never_done}};
    alarm(120);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(roles[i].name, name))
            roles[i].run(mark, directory);
    return 1;
}

/* ---------- starting and looking ---------- */

static void start(const char *pool) {
    static char directory[64];
    const char *const args[] = {"--device", "cuda", "--pool", pool, "--verbose", NULL};
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    setenv("FAKECUDA_DIR", directory, 1);
    assert_int_equal(harness_start(&daemon_, args), 0);
}

static pid_t start_role(const char *name) {
    static int count;
    char mark[160];
    pid_t pid = 0;
    uint64_t end = harness_now_ns() + HARNESS_PATIENCE_MS * 1000000ull;
    snprintf(mark, sizeof mark, "%s/mark%d", daemon_.base, count++);
    const char *const argv[] = {"/proc/self/exe", name, mark, daemon_.dir, NULL};
    assert_int_equal(harness_spawn(argv, NULL, &pid), 0);
    while (access(mark, F_OK) < 0) {
        assert_true(harness_now_ns() < end);
        harness_sleep_ms(1);
    }
    return pid;
}

static struct proto_pool_stat stat_now(void) {
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&daemon_, &stat), 0);
    return stat;
}

static bool tool_says(const char *asked, const char *text) {
    char command[512], said[8192];
    int status;
    snprintf(command, sizeof command, "%s --dir %s %s", harness_program("scissorctl"), daemon_.dir, asked);
    assert_int_equal(harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status), 0);
    return strstr(said, text);
}

/* And the connection with it. */
static void close_session(int fd, uint64_t session) {
    struct proto_close close_it = {.session = session};
    assert_int_equal(harness_send_message(fd, PROTO_CLOSE, 9, &close_it), 0);
    assert_int_equal(harness_expect(fd, PROTO_CLOSED, 9, NULL, 0, NULL), 0);
    close(fd);
}

/* All is given back, the daemon serves a stranger, and ends in order. */
static void stop(void) {
    struct proto_open open;
    struct proto_opened opened;
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    struct proto_pool_stat stat = stat_now();
    assert_int_equal(stat.charged_bytes + stat.quarantined_bytes + stat.guaranteed_bytes + stat.segments, 0);
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    close_session(fd, opened.session);
    assert_int_equal(harness_stop(&daemon_), 0);
}

static struct proto_open lent_open(uint32_t guaranteed_rows, uint32_t max_rows) {
    struct proto_open open;
    harness_open_default(&open);
    open.storage_dtype = model.storage_dtype;
    open.groups[0].layers = model.layers;
    open.groups[0].kv_heads = model.kv_heads;
    open.groups[0].q_heads = model.q_heads;
    open.groups[0].head_dim = model.head_dim;
    open.groups[0].guaranteed_rows = 16 + guaranteed_rows;
    open.groups[0].max_rows = 16 + max_rows;
    strcpy(open.groups[0].policy, "window");
    return open;
}

/* ---------- tests ---------- */

/* Settles of others do not wait for those whose work is not done. */
static void test_never_done(void **state) {
    enum { MANY = 8, SETTLES = 20 };
    struct proto_open open;
    struct proto_opened opened;
    struct proto_settled settled;
    pid_t pids[MANY];
    (void)state;
    start("64MiB");
    setenv("FAKECUDA_DELAY_US", "60000000", 1);
    for (int i = 0; i < MANY; i++)
        pids[i] = start_role("never-done");
    unsetenv("FAKECUDA_DELAY_US");
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    uint64_t most = 0;
    for (int i = 0; i < SETTLES; i++) {
        uint64_t begin = harness_now_ns();
        assert_int_equal(harness_settle(fd, opened.session, 0, 16, &settled), 0);
        uint64_t took = harness_now_ns() - begin;
        most = took > most ? took : most;
    }
    print_message("a settle beside %d sessions whose work is not done: %.1f ms at most\n", MANY, (double)most / 1e6);
    assert_true(most < 150000000u);
    for (int i = 0; i < MANY; i++)
        harness_kill(pids[i]);
    close_session(fd, opened.session);
    stop();
}

/* Receives SHRINK; the number of segments and their ids. */
static uint32_t expect_shrink(int fd, struct proto_segment_id *ids, uint32_t most) {
    static char packet[PROTO_ATTACH_MAX];
    struct proto_header h = {0};
    while (h.type != PROTO_SHRINK) {
        assert_true(harness_receive(fd, packet, sizeof packet, HARNESS_PATIENCE_MS, NULL, NULL) > 0);
        memcpy(&h, packet, sizeof h);
    }
    assert_in_range(h.count, 1, most);
    memcpy(ids, proto_attach_entries(packet), h.count * sizeof *ids);
    return h.count;
}

static void say_released(int fd, uint64_t session, const struct proto_segment_id *ids, uint32_t count) {
    char packet[PROTO_ATTACH_MAX];
    struct proto_shrink body = {.session = session};
    size_t size = proto_attach_write(packet, sizeof packet, PROTO_RELEASED, 0, &body, ids, (uint16_t)count);
    assert_int_equal(harness_send(fd, packet, size), 0);
}

static int open_lent(const struct proto_open *open, uint32_t settles, uint64_t *ret_session) {
    struct proto_opened opened;
    struct proto_settled settled;
    int fd = harness_hello(&daemon_);
    assert_true(fd >= 0);
    assert_int_equal(harness_open(fd, open, &opened, NULL), 0);
    for (uint32_t i = 0; i < settles; i++)
        assert_int_equal(harness_settle(fd, opened.session, 0, 16, &settled), 0);
    *ret_session = opened.session;
    return fd;
}

/* Segments that nobody has taken, and those of others, are not a client's to give back. */
static void test_released_lies(void **state) {
    enum { LIES = 6 };
    static const struct proto_segment_id lies[LIES] = {{0}, {1}, {2}, {3}, {UINT32_MAX}, {1}};
    struct proto_open open = lent_open(64, 512);
    struct proto_settled settled;
    uint64_t sessions[2];
    int fds[2];
    (void)state;
    start("64MiB");
    for (int i = 0; i < 2; i++)
        fds[i] = open_lent(&open, 16, &sessions[i]);
    struct proto_pool_stat before = stat_now();
    for (int i = 0; i < 100; i++) {
        say_released(fds[0], sessions[i % 2], lies, LIES);
        for (int k = 0; k < 2; k++)
            assert_int_equal(harness_settle(fds[k], sessions[k], 0, 1, &settled), 0);
    }
    struct proto_pool_stat after = stat_now();
    assert_int_equal(after.sessions, 2);
    assert_true(after.segments >= before.segments && after.charged_bytes >= before.charged_bytes);
    close_session(fds[0], sessions[0]);
    close_session(fds[1], sessions[1]);
    stop();
}

/* Who does not close what was taken from it holds up nobody for long: others give instead, and everybody can see it. */
static void test_never_released(void **state) {
    struct proto_open open = lent_open(64, 512), want = lent_open(128, 128);
    struct proto_segment_id ids[8];
    uint64_t liar, other, third;
    (void)state;
    start("24MiB");
    int fds[2] = {open_lent(&open, 20, &liar), open_lent(&open, 16, &other)}, fd = harness_hello(&daemon_);
    struct proto_opened opened;
    want.wait_ms = 10000;
    uint64_t begin = harness_now_ns();
    assert_int_equal(harness_send_message(fd, PROTO_OPEN, 7, &want), 0);
    uint32_t kept = expect_shrink(fds[0], ids, 8);
    assert_int_equal(kept, 3);
    uint32_t count = expect_shrink(fds[1], ids, 8);
    say_released(fds[1], other, ids, count);
    assert_int_equal(harness_expect(fd, PROTO_OPENED, 7, &opened, sizeof opened, NULL), 0);
    third = opened.session;
    print_message("the other one gave, and the third was open, after %.0f ms\n",
                  (double)(harness_now_ns() - begin) / 1e6);
    assert_true(tool_says("memory", "  6.0 MiB  ")); /* that are leaving */
    close_session(fds[0], liar);
    close_session(fds[1], other);
    close_session(fd, third);
    stop();
}

/* ---------- the program ---------- */

/* A program that was built without nvcc has no kernels. */
static bool has_kernels(void) {
    char command[256], said[256];
    int status;
    snprintf(command, sizeof command, "%s --version", harness_program("scissord"));
    return harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status) == 0 && strstr(said, "cuda");
}

static void test_none(void **state) {
    (void)state;
    print_message("SKIP: built without nvcc, so there are no kernels for the driver to run\n");
    skip();
}

int main(int argc, char **argv) {
    char library[256];
    const struct CMUnitTest none[] = {cmocka_unit_test(test_none)}, tests[] = {
                                                                        cmocka_unit_test(test_never_done),
                                                                        cmocka_unit_test(test_released_lies),
                                                                        cmocka_unit_test(test_never_released),
                                                                    };
    if (argc == 4)
        return play(argv[1], argv[2], argv[3]);
    harness_init(240);
    if (argc == 2)
        cmocka_set_test_filter(argv[1]); /* one test, for looking into it */
    if (!has_kernels())
        return cmocka_run_group_tests_name("attacks on a device", none, NULL, NULL);
    snprintf(library, sizeof library, "%s", harness_program("tests/fakecuda"));
    setenv("LD_LIBRARY_PATH", library, 1); /* for the processes that are started */
    return cmocka_run_group_tests_name("attacks on a device", tests, NULL, NULL);
}
