/* test_cuda_memory.c - segments of the CUDA backend between real processes, on the driver in tests/fakecuda; and each
 * rule of that driver, broken once.
 *
 * The program starts itself with the name of a role, in an environment in which the fake is found; the role's exit
 * status and what it prints are what a test looks at. Roles fork before they load the driver. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <dlfcn.h>

#include "alloc.h"
#include "cuda/cuda_backend.h"
#include "cuda/device.h"
#include "harness.h"

#define SIZE ((size_t)SCISSOR_SEGMENT_BYTES)
#define REQUIRE(condition)                                                                       \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "role: line %d: %s: %s\n", __LINE__, #condition, kernel_cuda_why()); \
            _exit(1);                                                                            \
        }                                                                                        \
    } while (0)

static const char *self;
static int to_child[2], to_parent[2];

/* ---------- what roles are made of ---------- */

static struct kernel_backend *backend_open(const char *device) {
    char why[256] = "";
    struct kernel_backend *b = kernel_cuda_backend(device, why, sizeof why);
    if (!b)
        fprintf(stderr, "role: %s\n", why);
    REQUIRE(b);
    return b;
}

static struct kernel_segment *segment(struct kernel_backend *b) {
    struct kernel_segment *s = NULL;
    REQUIRE(b->segment_new(b, KERNEL_ACCESS_FRESH, SIZE, &s) == 0);
    return s;
}

static void say(int fd, const void *what, size_t bytes) {
    REQUIRE(write(fd, what, bytes) == (ssize_t)bytes);
}

static void hear(int fd, void *what, size_t bytes) {
    REQUIRE(read(fd, what, bytes) == (ssize_t)bytes);
}

/* Two processes before either has loaded the driver: 0 in the child, which dies with its parent. */
static pid_t divide(void) {
    REQUIRE(pipe(to_child) == 0 && pipe(to_parent) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

/* In the child: a segment's handle for the parent, and nothing more until it is killed. */
static void be_owner(void) {
    struct kernel_handle handle;
    struct kernel_backend *b = backend_open("cuda");
    REQUIRE(b->segment_export(b, segment(b), &handle) == 0);
    say(to_parent[1], &handle, sizeof handle);
    pause();
    _exit(0);
}

/* In the child: opens what the parent exports. */
static void be_importer(void) {
    struct kernel_handle handle;
    struct kernel_segment *s;
    struct kernel_backend *b = backend_open("cuda");
    hear(to_child[0], &handle, sizeof handle);
    REQUIRE(b->segment_import(b, KERNEL_ACCESS_FRESH, &handle, SIZE, &s) == 0);
    memset(b->segment_address(s), 7, 1);
    say(to_parent[1], "x", 1);
    pause();
    _exit(0);
}

/* The driver itself, with its primary context current in this thread. */
static const struct cuda_driver *raw(cuda_stream *ret) {
    struct cuda_device *d;
    REQUIRE(cuda_device_open("cuda:0", &d) == 0 && cuda_device_enter(d) == 0);
    *ret = d->stream;
    return d->driver;
}

static cuda_address raw_new(const struct cuda_driver *d) {
    cuda_address a;
    REQUIRE(d->memory_new(&a, SIZE) == 0);
    return a;
}

static cuda_address raw_open(const struct cuda_driver *d, struct kernel_handle *handle) {
    cuda_memory_handle h;
    cuda_address a;
    hear(to_parent[0], handle, sizeof *handle);
    memcpy(&h, handle->opaque, sizeof h);
    REQUIRE(d->memory_open(&a, h, CUDA_IPC_LAZY_PEER_ACCESS) == 0);
    return a;
}

/* ---------- roles: each breaks the rule that it is named after ---------- */

static void break_rule(const char *rule) {
    const struct cuda_driver *d;
    struct kernel_handle handle;
    cuda_stream s, other;
    cuda_address a;
    bool import = strstr(rule, "close") || strstr(rule, "open");
    if (import && divide() == 0)
        be_owner();
    if (!strcmp(rule, "free_imported") && divide() == 0)
        be_importer();
    d = raw(&s);
    a = import ? raw_open(d, &handle) : raw_new(d);
    if (!strcmp(rule, "use_after_free") || !strcmp(rule, "double_free")) {
        d->memory_free(a);
        (void)(rule[0] == 'u' ? d->fill(a, 0, 1, s) : d->memory_free(a));
    } else if (!strcmp(rule, "use_after_close") || !strcmp(rule, "double_close")) {
        d->memory_close(a);
        (void)(rule[0] == 'u' ? d->fill(a, 0, 1, s) : d->memory_close(a));
    } else if (!strcmp(rule, "free_imported")) {
        cuda_memory_handle h;
        handle = (struct kernel_handle){.fd = -1};
        REQUIRE(d->memory_export(&h, a) == 0);
        memcpy(handle.opaque, &h, sizeof h);
        say(to_child[1], &handle, sizeof handle);
        hear(to_parent[0], &handle, 1);
        d->memory_free(a);
    } else if (!strcmp(rule, "free_queued")) {
        d->fill(a, 0, SIZE / 4, s);
        d->memory_free(a);
    } else if (!strcmp(rule, "close_queued")) {
        d->fill(a, 0, SIZE / 4, s);
        d->memory_close(a);
    } else if (!strcmp(rule, "host_free_queued")) {
        void *host;
        REQUIRE(d->host_new(&host, SIZE, 0) == 0);
        d->copy_out(host, a, SIZE, s);
        d->host_free(host);
    } else if (!strcmp(rule, "double_open")) {
        cuda_memory_handle h;
        memcpy(&h, handle.opaque, sizeof h);
        d->memory_open(&a, h, CUDA_IPC_LAZY_PEER_ACCESS);
    } else if (!strncmp(rule, "unordered", 9)) {
        cuda_address b = raw_new(d);
        REQUIRE(d->stream_new(&other, CUDA_STREAM_NON_BLOCKING) == 0);
        (void)(strstr(rule, "overwrite") ? d->copy(b, a, SIZE, s) : d->fill(a, 0, SIZE / 4, s));
        usleep(20000); /* the first one is to run first */
        (void)(strstr(rule, "read") ? d->copy(b, a, SIZE, other) : d->fill(a, 0, SIZE / 4, other));
        d->stream_wait(s); /* too late to be an order, but then both have run */
        d->stream_wait(other);
    } else if (!strcmp(rule, "out_of_bounds")) {
        d->fill(a + SIZE - 4, 0, 2, s);
    } else if (!strcmp(rule, "fork")) {
        pid_t pid = fork();
        int status;
        if (pid == 0)
            d->fill(a, 0, 1, s);
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT)
            abort();
    }
    _exit(0);
}

/* ---------- roles: what must work ---------- */

/* Zeroed, shared, and free again when its importer was killed. */
static void role_killed(void) {
    pid_t pid = divide();
    struct kernel_handle handle;
    char byte;
    if (pid == 0)
        be_importer();
    struct kernel_backend *b = backend_open("cuda:0");
    struct kernel_segment *s = segment(b);
    const char *memory = b->segment_address(s);
    REQUIRE(memory[0] == 0 && memory[SIZE - 1] == 0);
    REQUIRE(b->segment_export(b, s, &handle) == 0 && handle.fd == -1);
    say(to_child[1], &handle, sizeof handle);
    hear(to_parent[0], &byte, 1);
    REQUIRE(memory[0] == 7);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    b->segment_free(b, s);
    struct kernel_cuda_memory m = kernel_cuda_memory(b);
    REQUIRE(m.segments == 0 && m.refused_segments == 0);
    kernel_cuda_free(b);
    _exit(0);
}

static void role_closed(void) {
    struct kernel_handle handle;
    struct kernel_backend *b = backend_open("cuda:GPU-00112233");
    struct kernel_segment *s = segment(b), *t = NULL;
    REQUIRE(!strcmp(kernel_cuda_device(b).uuid, "GPU-00112233-4455-6677-8899-aabbccddeeff"));
    REQUIRE(!b->revocable && kernel_cuda_device(b).bytes == 1ull << 30 && kernel_cuda_device(b).major == 9);
    REQUIRE(b->segment_export(b, s, &handle) == 0);
    REQUIRE(b->segment_import(b, KERNEL_ACCESS_FRESH, &handle, SIZE, &t) == -EINVAL); /* its own */
    REQUIRE(b->segment_new(b, KERNEL_ACCESS_FRESH, SIZE / 2, &t) == -EINVAL);
    REQUIRE(b->segment_new(b, KERNEL_ACCESS_SETTLED_KEPT, SIZE, &t) == -EINVAL);
    REQUIRE(b->segment_new(b, KERNEL_ACCESS_SETTLED, (size_t)2 << 30, &t) == -ENOMEM);
    REQUIRE(strstr(kernel_cuda_why(), "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"));
    t = segment(b);
    memset(b->segment_address(t), 5, SIZE);
    REQUIRE(b->copy(b, b->segment_address(s), b->segment_address(t), SIZE) == 0 && b->synchronise(b) == 0);
    REQUIRE(((char *)b->segment_address(s))[SIZE - 1] == 5);
    REQUIRE(b->copy(b, (char *)b->segment_address(s) + 1, b->segment_address(s), 2) == -EINVAL);
    b->segment_free(b, s);
    b->segment_free(b, t);
    REQUIRE(kernel_cuda_memory(b).refused_segments == 0);
    kernel_cuda_free(b);
    REQUIRE(alloc_live() == 0);
    _exit(0);
}

/* Events carry an order between two processes whose hosts wait for nothing. */
static void role_events(void) {
    pid_t pid = divide();
    struct kernel_handle handle;
    cuda_memory_handle h;
    cuda_event_handle eh;
    cuda_event e;
    cuda_stream s;
    int word = 0;
    if (pid == 0) {
        const struct cuda_driver *d = raw(&s);
        cuda_address a = raw_new(d);
        REQUIRE(d->memory_export(&h, a) == 0 &&
                d->event_new(&e, CUDA_EVENT_DISABLE_TIMING | CUDA_EVENT_INTERPROCESS) == 0);
        REQUIRE(d->event_export(&eh, e) == 0 && d->fill(a, 42, SIZE / 4, s) == 0 && d->event_record(e, s) == 0);
        handle = (struct kernel_handle){.fd = -1};
        memcpy(handle.opaque, &h, sizeof h);
        say(to_parent[1], &handle, sizeof handle);
        say(to_parent[1], &eh, sizeof eh);
        pause();
    }
    const struct cuda_driver *d = raw(&s);
    cuda_address a = raw_open(d, &handle);
    hear(to_parent[0], &eh, sizeof eh);
    REQUIRE(d->event_open(&e, eh) == 0 && d->stream_wait_event(s, e, 0) == 0);
    REQUIRE(d->copy_out(&word, a, sizeof word, s) == 0 && word == 42);
    REQUIRE(d->stream_wait(s) == 0 && d->memory_close(a) == 0 && d->event_free(e) == 0);
    kill(pid, SIGKILL);
    _exit(0);
}

/* One life of a backend; a negative errno if something failed. Nothing may be left after it. */
static int life(void) {
    char why[256];
    struct kernel_handle handle;
    struct kernel_segment *s = NULL;
    struct kernel_backend *b = kernel_cuda_backend("cuda:GPU-00", why, sizeof why);
    if (!b)
        return -errno;
    int r = b->segment_new(b, KERNEL_ACCESS_SETTLED, SIZE, &s);
    if (r == 0)
        r = b->segment_export(b, s, &handle);
    if (r == 0)
        r = b->synchronise(b);
    b->segment_free(b, s);
    struct kernel_cuda_memory m = kernel_cuda_memory(b);
    REQUIRE(m.segments == 0 && m.bytes == 0);
    kernel_cuda_free(b);
    return r;
}

/* The n-th call of the driver fails, for every n: no partial state. The driver's own count must say the same. */
static void role_injected(void) {
    const struct cuda_driver *d;
    REQUIRE(cuda_driver_load(&d) == 0);
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void (*inject)(const char *, unsigned, unsigned);
    int (*failed)(void);
    *(void **)&inject = dlsym(library, "fakecuda_fail");
    *(void **)&failed = dlsym(library, "fakecuda_failed");
    REQUIRE(inject && failed);
    unsigned n = 1, refused = 0;
    for (;; n++) {
        inject("*", n, CUDA_NOT_PERMITTED);
        int r = life();
        if (!failed())
            break;
        REQUIRE(r == 0 || r == -EPERM);
        refused += r < 0;
        REQUIRE(alloc_live() == 0);
    }
    REQUIRE(n > 20 && refused > 15);
    inject(NULL, 0, 0);
    size_t left, total;
    cuda_stream s;
    d = raw(&s);
    REQUIRE(d->memory_info(&left, &total) == 0 && left == total);
    _exit(0);
}

static void role_lost(void) {
    struct kernel_backend *b = backend_open("cuda");
    struct kernel_segment *s = NULL;
    REQUIRE(b->segment_new(b, KERNEL_ACCESS_FRESH, SIZE, &s) == -ENOTRECOVERABLE);
    REQUIRE(b->streams->lost(b) && strstr(kernel_cuda_why(), "CUDA_ERROR_ILLEGAL_ADDRESS (700)"));
    REQUIRE(b->synchronise(b) == -ENOTRECOVERABLE && !s);
    kernel_cuda_free(b);
    _exit(0);
}

/* ---------- tests ---------- */

static int run_role(const char *role, char *text, size_t bytes) {
    char directory[64], log[80];
    const char *const argv[] = {self, role, NULL};
    int status;
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    snprintf(log, sizeof log, "%s/log", directory);
    setenv("FAKECUDA_DIR", directory, 1);
    assert_int_equal(harness_run(argv, log, &status), 0);
    if (harness_read_file(log, text, bytes) < 0)
        *text = 0;
    return status;
}

static void works(const char *role) {
    char text[1024];
    int status = run_role(role, text, sizeof text);
    if (status)
        print_message("%s: %s\n", role, text);
    assert_int_equal(status, 0);
}

static const char *const rules[] = {
    "use_after_free",  "use_after_close",     "double_free",      "double_close", "free_imported",
    "free_queued",     "close_queued",        "host_free_queued", "double_open",  "unordered_read",
    "unordered_write", "unordered_overwrite", "out_of_bounds",    "fork",
};

static void test_rule(void **state) {
    char text[1024], expected[64];
    const char *rule = *state;
    setenv("FAKECUDA_DELAY_US", "200000", 1);
    int status = run_role(rule, text, sizeof text);
    unsetenv("FAKECUDA_DELAY_US");
    snprintf(expected, sizeof expected, "fakecuda: rule %s:", rule);
    if (status != -SIGABRT || !strstr(text, expected))
        print_message("%s: status %d: %s\n", rule, status, text);
    assert_int_equal(status, -SIGABRT);
    assert_non_null(strstr(text, expected));
}

static void test_works(void **state) {
    works(*state);
}

static void test_lost(void **state) {
    (void)state;
    setenv("FAKECUDA_FAIL", "queue:1:700", 1);
    works("lost");
    unsetenv("FAKECUDA_FAIL");
}

static const struct {
    const char *name;
    void (*run)(void);
} roles[] = {
    {"killed", role_killed},     {"closed", role_closed}, {"events", role_events},
    {"injected", role_injected}, {"lost", role_lost},
};

static int role_main(const char *name) {
    alarm(60);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(roles[i].name, name))
            roles[i].run();
    break_rule(name);
    return 1;
}

int main(int argc, char **argv) {
    struct CMUnitTest tests[sizeof rules / sizeof *rules + sizeof roles / sizeof *roles];
    size_t count = 0;
    char library[256];
    if (argc > 1)
        return role_main(argv[1]);
    self = "/proc/self/exe";
    harness_init(240);
    char path[256];
    ssize_t length = readlink(self, path, sizeof path - 1);
    if (length < 0)
        return 1;
    path[length] = 0;
    self = path;
    snprintf(library, sizeof library, "%s", harness_program("tests/fakecuda"));
    setenv("LD_LIBRARY_PATH", library, 1);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        tests[count++] = (struct CMUnitTest){rules[i], test_rule, NULL, NULL, (void *)rules[i]};
    for (size_t i = 0; i + 1 < sizeof roles / sizeof *roles; i++)
        tests[count++] = (struct CMUnitTest){roles[i].name, test_works, NULL, NULL, (void *)roles[i].name};
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_lost);
    return _cmocka_run_group_tests("cuda: memory", tests, count, NULL, NULL);
}
