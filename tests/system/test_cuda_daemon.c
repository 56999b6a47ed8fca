/* test_cuda_daemon.c - scissord --device cuda, the program, on the driver in tests/fakecuda, which ends a daemon that
 * frees memory while a client has it open, or that works on it out of order; with SCISSOR_TEST_GPU=1 in the environment
 * on the one that the machine has, but for what only the other one does when it is asked to.
 *
 * Clients are this program again, with a role as its first argument, as a process opens the driver once. One that has
 * come to where it shall be writes a file and waits. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention.h"
#include "harness.h"
#include "scissor.h"

#define FAKE_UUID "cuda:GPU-00112233-4455-6677-8899-aabbccddeeff"
#define DEVICE_FAILED 700 /* CUDA_ERROR_ILLEGAL_ADDRESS */

static const struct attention_model model = {.seed = 5,
                                             .layers = 2,
                                             .kv_heads = 2,
                                             .q_heads = 4,
                                             .head_dim = 64,
                                             .compute_dtype = SCISSOR_F16,
                                             .storage_dtype = SCISSOR_F16,
                                             .scale = 0.125f};

static bool on_gpu(void) {
    return getenv("SCISSOR_TEST_GPU");
}

/* What the device's name is, or how it begins where that is the machine's. */
static const char *device_name(void) {
    return on_gpu() ? "cuda:GPU-" : FAKE_UUID;
}

static bool is_device(const char *name) {
    return on_gpu() ? strncmp(name, device_name(), strlen(device_name())) == 0 : strcmp(name, FAKE_UUID) == 0;
}

static void skip_on_gpu(const char *why) {
    if (!on_gpu())
        return;
    print_message("SKIP: %s\n", why);
    skip();
}

/* ---------- roles ---------- */

static int leave_mark(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    return fd < 0 ? -1 : close(fd);
}

static int open_session(const char *directory, struct scissor_client **ret_client, struct scissor_session **ret) {
    struct scissor_session_spec spec = {.name = "role", .fresh_rows = 16, .group_count = 1};
    spec.compute_dtype = spec.storage_dtype = SCISSOR_F16;
    spec.groups[0] = (struct scissor_group_spec){.layers = model.layers,
                                                 .kv_heads = model.kv_heads,
                                                 .q_heads = model.q_heads,
                                                 .head_dim = model.head_dim,
                                                 .guaranteed_rows = 16 + 64,
                                                 .policy = "scissorhands"};
    int r = scissor_connect(directory, ret_client);
    return r ? r : scissor_open(*ret_client, &spec, ret);
}

static int steps(struct scissor_session *s, int settles) {
    int r = 0;
    for (int i = 0; i < settles && r >= 0; i++) {
        r = attention_step(&model, s, 16, 0, NULL);
        if (r >= 0)
            r = scissor_settle(s);
    }
    return r;
}

/* The connection ends, and the process goes on with all that it has open. */
static void drop_connection(void) {
    for (int fd = 3; fd < 256; fd++) {
        int type = 0;
        socklen_t size = sizeof type;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET)
            shutdown(fd, SHUT_RDWR);
    }
}

static int stay(const char *mark) {
    if (leave_mark(mark) < 0)
        return 2;
    for (;;)
        pause();
}

/* Memory that is opened nowhere, as drivers do not do that across PID namespaces, and whose connection is gone. */
static int stay_unmapped(const char *mark, const char *directory) {
    struct harness_daemon d = {.pid = 0};
    struct proto_open open;
    struct proto_opened opened;
    snprintf(d.dir, sizeof d.dir, "%s", directory);
    harness_open_default(&open);
    int fd = harness_hello(&d);
    if (fd < 0 || harness_open(fd, &open, &opened, NULL) < 0)
        return 2;
    close(fd);
    return stay(mark);
}

/* Exit statuses: 0 as it should be, 10 the device is lost, 11 closed by the operator, 2 anything else. */
static int end_of(int r) {
    return r == SCISSOR_EDEVICELOST ? 10 : r == SCISSOR_ECLOSED ? 11 : 2;
}

static int role(const char *name, const char *mark, const char *directory) {
    static struct scissor_client *client; /* until the process ends */
    struct scissor_session *s = NULL;
    if (strcmp(name, "unmapped") == 0)
        return stay_unmapped(mark, directory);
    int r = open_session(directory, &client, &s);
    if (strcmp(name, "opens") == 0)
        return r ? end_of(r) : 0;
    if (r || !is_device(scissor_session_device(s)))
        return 2;
    if (strcmp(name, "steps") == 0) { /* until it hears that it is over */
        if (leave_mark(mark) < 0)
            return 2;
        do
            r = steps(s, 1);
        while (r >= 0);
        scissor_close(s);
        scissor_disconnect(client);
        return end_of(r);
    }
    if (steps(s, 6) < 0)
        return 2;
    if (strcmp(name, "in-step") == 0 && scissor_step_begin(s, 1))
        return 2;
    if (strcmp(name, "lingers") == 0)
        drop_connection();
    return stay(mark);
}

static pid_t start_role(const struct harness_daemon *d, const char *name) {
    static int count;
    char mark[160];
    pid_t pid = 0;
    uint64_t end = harness_now_ns() + HARNESS_PATIENCE_MS * 1000000ull;
    snprintf(mark, sizeof mark, "%s/mark%d", d->base, count++);
    const char *const argv[] = {"/proc/self/exe", name, mark, d->dir, NULL};
    assert_int_equal(harness_spawn(argv, NULL, &pid), 0);
    while (access(mark, F_OK) < 0) {
        assert_true(harness_now_ns() < end);
        harness_sleep_ms(1);
    }
    return pid;
}

/* Its exit status. */
static int run_role(const struct harness_daemon *d, const char *name) {
    const char *const argv[] = {"/proc/self/exe", name, "-", d->dir, NULL};
    int status = -1;
    assert_int_equal(harness_run(argv, NULL, &status), 0);
    return status;
}

/* ---------- a daemon on a device of its own ---------- */

static void new_devices(void) {
    static char directory[64];
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    setenv("FAKECUDA_DIR", directory, 1);
}

static void start(struct harness_daemon *d) {
    const char *const args[] = {"--device", "cuda", "--pool", "32MiB", NULL};
    new_devices();
    assert_int_equal(harness_start(d, args), 0);
}

/* What it says when it does not start. */
static void refuses(const char *device, const char *pool, const char *text) {
    char command[512], said[2048];
    int status;
    snprintf(command, sizeof command, "%s --dir \"$FAKECUDA_DIR\"/none --device %s --pool %s 2>&1",
             harness_program("scissord"), device, pool);
    assert_int_equal(harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status), 0);
    if (status != 1 || !strstr(said, text))
        fail_msg("status %d: %s", status, said);
}

static bool tool_says(const struct harness_daemon *d, const char *asked, const char *text) {
    char command[512], said[8192];
    int status;
    snprintf(command, sizeof command, "%s %s --dir %s", harness_program("scissorctl"), asked, d->dir);
    assert_int_equal(harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status), 0);
    return strstr(said, text);
}

static struct proto_pool_stat stat_of(const struct harness_daemon *d) {
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(d, &stat), 0);
    return stat;
}

/* All that was charged is back, within a second of the client's end. */
static void all_comes_back(const struct harness_daemon *d) {
    assert_int_equal(harness_wait_sessions(d, 0, HARNESS_PATIENCE_MS), 0);
    struct proto_pool_stat stat = stat_of(d);
    assert_int_equal(stat.charged_bytes + stat.quarantined_bytes + stat.segments, 0);
}

static void kill_role(pid_t pid) {
    int status;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, -SIGKILL);
}

/* ---------- tests ---------- */

static void test_start(void **state) {
    struct harness_daemon d;
    char text[4096], ready[128], device[96];
    (void)state;
    start(&d);
    snprintf(ready, sizeof ready, ": ready; pool 32 MiB of %s%s", device_name(),
             on_gpu() ? "" : " memory (Fake GPU 0)");
    snprintf(device, sizeof device, "device      %s", device_name());
    assert_int_equal(harness_wait_log(&d, ready, HARNESS_PATIENCE_MS), 0);
    assert_true(is_device(stat_of(&d).device));
    assert_true(tool_says(&d, "stat", device));
    assert_int_equal(harness_stop(&d), 0);
    assert_true(harness_read_file(d.log, text, sizeof text) > 0);
    assert_null(strstr(text, "still open"));
}

static void test_devices_refused(void **state) {
    (void)state;
    skip_on_gpu("which devices there are not depends on the machine");
    new_devices();
    refuses("cuda:7", "8MiB", "no device cuda:7: the driver shows 1; use --device host");
    refuses("cuda:GPU-ff", "8MiB", "no device cuda:GPU-ff among the 1");
    refuses("opencl", "8MiB", "\"opencl\" is no device");
    refuses("cuda", "2GiB", "a pool of 2 GiB is more than " FAKE_UUID " has, which is 1 GiB");
}

/* Kernels that the driver does not take: what to do is said. */
static void test_kernels_refused(void **state) {
    static const struct {
        const char *version;
        unsigned code;
        const char *text;
    } cases[] = {
        {"12040", 222, "the driver (CUDA 12.4) is older than the CUDA that built this program ("},
        {"12040", 200, "the driver (CUDA 12.4) is older than the CUDA that built this program ("},
        {"12040", 209, "the driver (CUDA 12.4) is older than the CUDA that built this program ("},
        {"99000", 222, "update the driver, or build with an older nvcc; use --device host"},
        {"99000", 209, "the device is sm_90: build with CUDA_ARCHS=90; use --device host"},
        {"99000", 218, "the device is sm_90: build with CUDA_ARCHS=90; use --device host"},
        {"99000", 221, "the device is sm_90: build with CUDA_ARCHS=90; use --device host"},
        {"99000", 2, "out of memory; use --device host"},
    };
    (void)state;
    skip_on_gpu("a real driver refuses no kernels when it is asked to");
    new_devices();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char fail[48];
        snprintf(fail, sizeof fail, "cuModuleLoadData:1:%u", cases[i].code);
        setenv("FAKECUDA_FAIL", fail, 1);
        setenv("FAKECUDA_VERSION", cases[i].version, 1);
        refuses("cuda", "8MiB", cases[i].text);
    }
    unsetenv("FAKECUDA_FAIL");
    unsetenv("FAKECUDA_VERSION");
}

/* A client of before the GPUs gets a text that it can show. */
static void test_host_client(void **state) {
    struct harness_daemon d;
    struct proto_welcome welcome;
    struct proto_opened opened;
    struct proto_failed failed = {.code = 0};
    struct proto_open spec;
    struct proto_hello hello = {
        .major = PROTO_VERSION_MAJOR, .capabilities = PROTO_CAP_HOST | PROTO_CAP_KEEP, .name = "old"};
    (void)state;
    start(&d);
    int fd = harness_attach(&d);
    assert_int_equal(harness_send_message(fd, PROTO_HELLO, 1, &hello), 0);
    assert_int_equal(harness_expect(fd, PROTO_WELCOME, 1, &welcome, sizeof welcome, NULL), 0);
    assert_int_equal(welcome.capabilities, PROTO_CAP_HOST);
    harness_open_default(&spec);
    assert_true(harness_open(fd, &spec, &opened, &failed) < 0);
    assert_int_equal(failed.code, SCISSOR_EINVAL);
    assert_non_null(strstr(failed.text, "the pool is on "));
    assert_non_null(strstr(failed.text, device_name()));
    close(fd);
    assert_int_equal(harness_stop(&d), 0);
}

/* Killed while it rests and in the middle of a step. */
static void test_killed_clients(void **state) {
    struct harness_daemon d;
    (void)state;
    start(&d);
    pid_t rests = start_role(&d, "rests"), in_step = start_role(&d, "in-step");
    struct proto_pool_stat stat = stat_of(&d);
    assert_int_equal(stat.sessions, 2);
    assert_int_equal(stat.segments, 4);
    assert_int_equal(stat.settles, 12);
    kill_role(in_step);
    assert_int_equal(harness_wait_sessions(&d, 1, HARNESS_PATIENCE_MS), 0);
    kill_role(rests);
    all_comes_back(&d);
    assert_int_equal(harness_stop(&d), 0);
}

/* Its memory is kept apart for as long as its process lives, and everybody can see whose it is. */
static void test_quarantine(void **state) {
    struct harness_daemon d;
    char pid_text[32];
    (void)state;
    start(&d);
    pid_t pid = start_role(&d, "lingers");
    assert_int_equal(harness_wait_counter(&d, offsetof(struct proto_pool_stat, quarantined_bytes), 1, 5000), 0);
    harness_sleep_ms(500);
    struct proto_pool_stat stat = stat_of(&d);
    assert_int_equal(stat.quarantined, 1);
    assert_int_equal(stat.quarantined_bytes, stat.charged_bytes);
    assert_int_equal(stat.guaranteed_bytes, 0);
    assert_int_equal(stat.segments, 2);
    snprintf(pid_text, sizeof pid_text, "%d  quarantined", (int)pid);
    assert_true(tool_says(&d, "sessions", pid_text));
    assert_true(tool_says(&d, "memory", "are quarantined"));
    assert_true(tool_says(&d, "memory --json", "\"quarantined_bytes\""));
    assert_true(tool_says(&d, "metrics", "scissord_pool_sessions_quarantined{pool=\"cuda\"} 1"));
    kill_role(pid);
    all_comes_back(&d);
    assert_int_equal(harness_stop(&d), 0);
}

static bool peers_have_pidfds(void) {
    int pair[2], pidfd = -1;
    socklen_t size = sizeof pidfd;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    bool have = getsockopt(pair[0], SOL_SOCKET, 77 /* SO_PEERPIDFD */, &pidfd, &size) == 0;
    if (have)
        close(pidfd);
    close(pair[0]);
    close(pair[1]);
    return have;
}

/* A daemon in a PID namespace of its own, as in a container, has no number for its client. */
static void test_process_unseen(void **state) {
    struct harness_daemon d;
    (void)state;
    skip_on_gpu("nothing here is the GPU's, and its driver may not start in another PID namespace");
    int outside = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    const char *lacks = !peers_have_pidfds() ? "a kernel before 6.5" : unshare(CLONE_NEWPID) < 0 ? "needs root" : NULL;
    if (lacks) {
        print_message("SKIP: another PID namespace: %s\n", lacks);
        skip();
    }
    start(&d);
    assert_int_equal(setns(outside, CLONE_NEWPID), 0);
    close(outside);
    pid_t pid = start_role(&d, "unmapped");
    assert_int_equal(harness_wait_counter(&d, offsetof(struct proto_pool_stat, quarantined_bytes), 1, 5000), 0);
    harness_sleep_ms(300); /* longer than the pause between two looks at the process */
    assert_int_equal(stat_of(&d).quarantined, 1);
    assert_true(tool_says(&d, "sessions --json", "\"pid\": 0"));
    kill_role(pid);
    all_comes_back(&d);
    assert_int_equal(harness_stop(&d), 0);
}

/* The operator's close: the client hears of it, lets go of its memory and says so. */
static void test_operator(void **state) {
    struct harness_daemon d;
    int status;
    (void)state;
    start(&d);
    pid_t pid = start_role(&d, "steps");
    assert_true(tool_says(&d, "close 1", ""));
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 11);
    all_comes_back(&d);
    /* One that makes no call does so, too; but not one that is in a step, which never ends here. */
    pid_t rests = start_role(&d, "rests"), busy = start_role(&d, "in-step");
    assert_true(tool_says(&d, "close 2", ""));
    assert_int_equal(harness_wait_sessions(&d, 1, HARNESS_PATIENCE_MS), 0);
    assert_true(tool_says(&d, "close 3", ""));
    assert_int_equal(harness_wait_counter(&d, offsetof(struct proto_pool_stat, quarantined_bytes), 1, 5000), 0);
    harness_sleep_ms(300);
    assert_int_equal(stat_of(&d).quarantined, 1);
    kill_role(busy);
    all_comes_back(&d);
    kill_role(rests);
    assert_int_equal(harness_stop(&d), 0);
}

/* The daemon's end does not wait for who has its memory open. */
static void test_end_in_quarantine(void **state) {
    struct harness_daemon d;
    (void)state;
    start(&d);
    pid_t pid = start_role(&d, "lingers");
    assert_int_equal(harness_wait_counter(&d, offsetof(struct proto_pool_stat, quarantined_bytes), 1, 5000), 0);
    uint64_t begin = harness_now_ns();
    assert_int_equal(harness_stop(&d), 0);
    assert_true(harness_now_ns() - begin < 4000000000ull);
    assert_int_equal(harness_wait_log(&d, "the memory of 1 sessions is still open", 0), 0);
    kill_role(pid);
}

/* The driver reports an error that a process does not recover from. */
static void test_device_fails(void **state) {
    struct harness_daemon d;
    char fail[32];
    int status;
    (void)state;
    skip_on_gpu("a real driver fails no launch when it is asked to");
    snprintf(fail, sizeof fail, "cuLaunchKernel:40:%u", DEVICE_FAILED);
    setenv("FAKECUDA_FAIL", fail, 1);
    start(&d);
    unsetenv("FAKECUDA_FAIL"); /* its clients' driver is well */
    pid_t pid = start_role(&d, "steps");
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 10);
    assert_true(harness_alive(&d));
    assert_int_equal(harness_wait_log(&d, "the device has failed, and all sessions on it are lost", 1000), 0);
    assert_int_equal(harness_wait_log(&d, "restart scissord to use it again", 0), 0);
    assert_int_equal(run_role(&d, "opens"), 10);
    all_comes_back(&d);
    assert_int_equal(stat_of(&d).device_lost, 1);
    assert_true(tool_says(&d, "stat", "which has failed"));
    assert_true(tool_says(&d, "doctor", "has failed: its sessions are lost"));
    assert_int_equal(harness_stop(&d), 0);
}

/* A program that was built without nvcc has no kernels. */
static bool has_kernels(void) {
    char command[256], said[256];
    int status;
    snprintf(command, sizeof command, "%s --version", harness_program("scissord"));
    return harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status) == 0 && strstr(said, "cuda");
}

static void test_none(void **state) {
    (void)state;
    printf("SKIP: built without nvcc, so there are no kernels for the driver to run\n");
    skip();
}

int main(int argc, char **argv) {
    char library[256];
    const struct CMUnitTest none[] = {cmocka_unit_test(test_none)}, tests[] = {
                                                                        cmocka_unit_test(test_start),
                                                                        cmocka_unit_test(test_devices_refused),
                                                                        cmocka_unit_test(test_kernels_refused),
                                                                        cmocka_unit_test(test_host_client),
                                                                        cmocka_unit_test(test_killed_clients),
                                                                        cmocka_unit_test(test_quarantine),
                                                                        cmocka_unit_test(test_process_unseen),
                                                                        cmocka_unit_test(test_operator),
                                                                        cmocka_unit_test(test_end_in_quarantine),
                                                                        cmocka_unit_test(test_device_fails),
                                                                    };
    if (argc == 4) {
        alarm(120);
        return role(argv[1], argv[2], argv[3]);
    }
    harness_init(240);
    unsetenv("SCISSOR_TEST_DEVICE"); /* the harness would leave out what is in quarantine */
    if (!has_kernels())
        return cmocka_run_group_tests_name("the daemon on a device", none, NULL, NULL);
    if (!on_gpu()) {
        snprintf(library, sizeof library, "%s", harness_program("tests/fakecuda"));
        setenv("LD_LIBRARY_PATH", library, 1); /* for the processes that are started */
    }
    return cmocka_run_group_tests_name("the daemon on a device", tests, NULL, NULL);
}
