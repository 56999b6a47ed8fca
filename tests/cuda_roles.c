/* cuda_roles.c - see cuda_roles.h. */
#include "cuda_roles.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include <cmocka.h>

#include "cuda/device.h"
#include "harness.h"

static char self[256];
static int out, in;

/* ---------- what roles are made of ---------- */

pid_t role_divide(void) {
    int down[2], up[2];
    REQUIRE(pipe(down) == 0 && pipe(up) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    out = pid ? down[1] : up[1];
    in = pid ? up[0] : down[0];
    return pid;
}

void role_say(const void *what, size_t bytes) {
    REQUIRE(write(out, what, bytes) == (ssize_t)bytes);
}

void role_hear(void *what, size_t bytes) {
    REQUIRE(read(in, what, bytes) == (ssize_t)bytes);
}

const struct cuda_driver *role_driver(cuda_stream *ret) {
    static struct cuda_device *d; /* until the process ends */
    REQUIRE(cuda_device_open("cuda:0", &d) == 0 && cuda_device_enter(d) == 0);
    *ret = d->stream;
    return d->driver;
}

size_t role_memory_taken(void) {
    size_t (*taken)(void);
    *(void **)&taken = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "fakecuda_memory_taken");
    REQUIRE(taken);
    return taken();
}

cuda_address role_memory(const struct cuda_driver *d, size_t bytes) {
    cuda_address a;
    REQUIRE(d->memory_new(&a, bytes) == 0);
    return a;
}

void role_say_memory(const struct cuda_driver *d, cuda_address a) {
    cuda_memory_handle handle;
    REQUIRE(d->memory_export(&handle, a) == 0);
    role_say(&handle, sizeof handle);
}

cuda_address role_hear_memory(const struct cuda_driver *d, cuda_memory_handle *ret) {
    cuda_address a;
    role_hear(ret, sizeof *ret);
    REQUIRE(d->memory_open(&a, *ret, CUDA_IPC_LAZY_PEER_ACCESS) == 0);
    return a;
}

/* ---------- tests ---------- */

static void environment(const char *name, const char *value) {
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

static void test_role(void **state) {
    const struct cuda_role *role = *state;
    char directory[64], log[80], text[2048], delay[16], library[256], expected[64] = "";
    const char *const argv[] = {self, role->name, NULL};
    int status;
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    snprintf(log, sizeof log, "%s/log", directory);
    snprintf(delay, sizeof delay, "%u", role->delay_us);
    snprintf(library, sizeof library, "%s", harness_program("tests/fakecuda"));
    strncat(library, role->unwatched ? "/unwatched" : "", sizeof library - strlen(library) - 1);
    setenv("LD_LIBRARY_PATH", library, 1); /* for the process that is started */
    environment("FAKECUDA_DIR", directory);
    environment("FAKECUDA_DELAY_US", role->delay_us ? delay : NULL);
    environment("FAKECUDA_FAIL", role->fail);
    assert_int_equal(harness_run(argv, log, &status), 0);
    if (harness_read_file(log, text, sizeof text) < 0)
        *text = 0;
    if (role->rule)
        snprintf(expected, sizeof expected, "fakecuda: rule %s:", role->rule);
    if (status != (role->rule ? -SIGABRT : 0) || !strstr(text, expected) || !strstr(text, role->text ? role->text : ""))
        fail_msg("%s: status %d: %s", role->name, status, text);
}

static int test_all(const char *group, const struct cuda_role *roles, size_t count) {
    struct CMUnitTest tests[64];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0 || count > sizeof tests / sizeof *tests)
        return 1;
    for (size_t i = 0; i < count; i++)
        tests[i] = (struct CMUnitTest){roles[i].name, test_role, NULL, NULL, (void *)&roles[i]};
    const struct CMUnitTest *used = tests;
    return _cmocka_run_group_tests(group, used, count, NULL, NULL);
}

int cuda_roles_main(int argc, char **argv, const char *group, const struct cuda_role *roles, size_t count) {
    if (argc < 2) {
        harness_init(240);
        return test_all(group, roles, count);
    }
    alarm(60);
    for (size_t i = 0; i < count; i++)
        if (!strcmp(roles[i].name, argv[1]))
            roles[i].run(argv[1]);
    return 1;
}

/* ---------- the whole program again ---------- */

#define AGAIN_MS 270000

int cuda_again_main(char **argv, int (*tests)(void)) {
    char directory[64], path[256];
    const char *const again[] = {argv[0], NULL};
    pid_t pid;
    int status;
    if (getenv("SCISSOR_TEST_GPU") || getenv("FAKECUDA_DIR"))
        return tests();
    if (!kernel_cuda_has_kernels()) {
        puts("SKIP: this program was built without nvcc and has no kernels to launch\n"
             "[  SKIPPED ] 1 test(s), listed below:");
        return 0;
    }
    if (harness_directory(directory, sizeof directory) < 0)
        return 1;
    snprintf(path, sizeof path, "%s", harness_program("tests/fakecuda"));
    setenv("LD_LIBRARY_PATH", path, 1);
    setenv("FAKECUDA_DIR", directory, 1);
    return harness_spawn(again, NULL, &pid) < 0 || harness_wait(pid, AGAIN_MS, &status) < 0 ? 1 : status;
}
