/* test_cuda_memory.c - segments of the CUDA backend between real processes, on the driver in tests/fakecuda; and each
 * rule of that driver, broken once. */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "alloc.h"
#include "cuda_roles.h"

#define SIZE ((size_t)SCISSOR_SEGMENT_BYTES)

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

static void say_handle(const struct kernel_handle *handle) {
    REQUIRE(handle->fd == -1);
    role_say(handle->opaque, sizeof handle->opaque);
}

static struct kernel_handle hear_handle(void) {
    struct kernel_handle handle = {.fd = -1};
    role_hear(handle.opaque, sizeof handle.opaque);
    return handle;
}

/* In the child: a segment's handle for the parent, and nothing more until it is killed. */
static void be_owner(void) {
    struct kernel_handle handle;
    struct kernel_backend *b = backend_open("cuda");
    REQUIRE(b->segment_export(b, segment(b), &handle) == 0);
    say_handle(&handle);
    pause();
    _exit(0);
}

/* In the child: opens what the parent exports. */
static void be_importer(void) {
    struct kernel_segment *s;
    struct kernel_backend *b = backend_open("cuda");
    struct kernel_handle handle = hear_handle();
    REQUIRE(b->segment_import(b, KERNEL_ACCESS_FRESH, &handle, SIZE, &s) == 0);
    memset(b->segment_address(s), 7, 1);
    role_say("x", 1);
    pause();
    _exit(0);
}

/* ---------- roles: each breaks the rule that it is named after ---------- */

static void break_rule(const char *rule) {
    const struct cuda_driver *d;
    cuda_memory_handle handle;
    cuda_stream s, other;
    cuda_address a;
    bool import = strstr(rule, "close") || strstr(rule, "open");
    if (import && role_divide() == 0)
        be_owner();
    if (!strcmp(rule, "free_imported") && role_divide() == 0)
        be_importer();
    d = role_driver(&s);
    a = import ? role_hear_memory(d, &handle) : role_memory(d, SIZE);
    if (!strcmp(rule, "use_after_free") || !strcmp(rule, "double_free")) {
        d->memory_free(a);
        (void)(rule[0] == 'u' ? d->fill(a, 0, 1, s) : d->memory_free(a));
    } else if (!strcmp(rule, "use_after_close") || !strcmp(rule, "double_close")) {
        d->memory_close(a);
        (void)(rule[0] == 'u' ? d->fill(a, 0, 1, s) : d->memory_close(a));
    } else if (!strcmp(rule, "free_imported")) {
        role_say_memory(d, a);
        role_hear(&handle, 1);
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
        d->copy((uintptr_t)host, a, SIZE, s);
        d->host_free(host);
    } else if (!strcmp(rule, "double_open")) {
        d->memory_open(&a, handle, CUDA_IPC_LAZY_PEER_ACCESS);
    } else if (!strncmp(rule, "unordered", 9)) {
        cuda_address b = role_memory(d, SIZE);
        REQUIRE(d->stream_new(&other, CUDA_STREAM_NON_BLOCKING) == 0);
        (void)(strstr(rule, "overwrite") ? d->copy(b, a, SIZE, s) : d->fill(a, 0, SIZE / 4, s));
        usleep(50000); /* the first one is to run first */
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
static void role_killed(const char *name) {
    (void)name;
    pid_t pid = role_divide();
    struct kernel_handle handle;
    char byte;
    if (pid == 0)
        be_importer();
    struct kernel_backend *b = backend_open("cuda:0");
    struct kernel_segment *s = segment(b);
    const char *memory = b->segment_address(s);
    REQUIRE(memory[0] == 0 && memory[SIZE - 1] == 0);
    REQUIRE(b->segment_export(b, s, &handle) == 0 && handle.fd == -1);
    say_handle(&handle);
    role_hear(&byte, 1);
    REQUIRE(memory[0] == 7);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    b->segment_free(b, s);
    struct kernel_cuda_memory m = kernel_cuda_memory(b);
    REQUIRE(m.segments == 0 && m.refused_segments == 0);
    kernel_cuda_free(b);
    _exit(0);
}

static void role_closed(const char *name) {
    (void)name;
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
    REQUIRE(b->streams->transfer(b, b->segment_address(s), b->segment_address(t), SIZE, b->streams->own(b)) == 0);
    REQUIRE(b->synchronise(b) == 0);
    REQUIRE(((char *)b->segment_address(s))[SIZE - 1] == 5);
    b->segment_free(b, s);
    b->segment_free(b, t);
    REQUIRE(kernel_cuda_memory(b).refused_segments == 0);
    kernel_cuda_free(b);
    REQUIRE(alloc_live() == 0);
    _exit(0);
}

/* Events carry an order between two processes whose hosts wait for nothing. */
static void role_events(const char *name) {
    (void)name;
    pid_t pid = role_divide();
    cuda_memory_handle h;
    cuda_event_handle eh;
    cuda_event e;
    cuda_stream s;
    int word = 0;
    if (pid == 0) {
        const struct cuda_driver *d = role_driver(&s);
        cuda_address a = role_memory(d, SIZE);
        REQUIRE(d->event_new(&e, CUDA_EVENT_DISABLE_TIMING | CUDA_EVENT_INTERPROCESS) == 0);
        REQUIRE(d->event_export(&eh, e) == 0 && d->fill(a, 42, SIZE / 4, s) == 0 && d->event_record(e, s) == 0);
        role_say_memory(d, a);
        role_say(&eh, sizeof eh);
        pause();
    }
    const struct cuda_driver *d = role_driver(&s);
    cuda_address a = role_hear_memory(d, &h);
    role_hear(&eh, sizeof eh);
    REQUIRE(d->event_open(&e, eh) == 0 && d->stream_wait_event(s, e, 0) == 0);
    REQUIRE(d->copy((uintptr_t)&word, a, sizeof word, s) == 0 && word == 42);
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

static void (*inject)(const char *call, unsigned n, unsigned code);
static int (*failed)(void);

static void find_inject(void) {
    const struct cuda_driver *d;
    REQUIRE(cuda_driver_load(&d) == 0);
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&inject = dlsym(library, "fakecuda_fail");
    *(void **)&failed = dlsym(library, "fakecuda_failed");
    REQUIRE(inject && failed);
}

/* What the driver does not take is counted, and said not to be closed, until it does. */
static void role_refused(const char *name) {
    (void)name;
    struct kernel_segment *s = NULL;
    if (role_divide() == 0)
        be_owner();
    struct kernel_backend *b = backend_open("cuda");
    struct kernel_handle handle = hear_handle();
    find_inject();
    REQUIRE(b->segment_import(b, KERNEL_ACCESS_FRESH, &handle, SIZE, &s) == 0);
    inject("cuIpcCloseMemHandle", 1, CUDA_NOT_PERMITTED);
    b->segment_free(b, s);
    REQUIRE(failed() && kernel_cuda_memory(b).refused_segments == 1 && kernel_cuda_memory(b).imported == 0);
    inject("cuIpcCloseMemHandle", 1, CUDA_NOT_PERMITTED);
    REQUIRE(!b->streams->closed(b) && kernel_cuda_memory(b).refused_segments == 1);
    REQUIRE(b->streams->closed(b) && kernel_cuda_memory(b).refused_segments == 0);

    inject("cuMemFree_v2", 1, CUDA_NOT_PERMITTED); /* the owner's own is nothing that it must have closed */
    b->segment_free(b, segment(b));
    REQUIRE(failed() && kernel_cuda_memory(b).refused_bytes == SIZE);
    inject("cuMemFree_v2", 1, CUDA_NOT_PERMITTED);
    REQUIRE(b->streams->closed(b) && kernel_cuda_memory(b).refused_bytes == SIZE);
    inject("cuStreamQuery", 1, CUDA_NOT_PERMITTED); /* whether it was scrubbed */
    REQUIRE(b->segment_new(b, KERNEL_ACCESS_FRESH, SIZE, &s) == -EPERM && failed());
    REQUIRE(strstr(kernel_cuda_why(), "cuStreamQuery"));
    struct kernel_cuda_memory m = kernel_cuda_memory(b);
    REQUIRE(m.segments == 0 && m.refused_bytes == 0);
    kernel_cuda_free(b);
    REQUIRE(alloc_live() == 0);
    _exit(0);
}

/* The n-th call of the driver fails, for every n: no partial state. The driver's own count must say the same. */
static void role_injected(const char *name) {
    (void)name;
    find_inject();
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
    cuda_stream s;
    (void)role_driver(&s); /* a context is current */
    REQUIRE(role_memory_taken() == 0);
    _exit(0);
}

static void role_lost(const char *name) {
    (void)name;
    struct kernel_backend *b = backend_open("cuda");
    struct kernel_segment *s = NULL;
    REQUIRE(b->segment_new(b, KERNEL_ACCESS_FRESH, SIZE, &s) == -ENOTRECOVERABLE);
    REQUIRE(b->streams->lost(b) && strstr(kernel_cuda_why(), "CUDA_ERROR_ILLEGAL_ADDRESS (700)"));
    REQUIRE(b->synchronise(b) == -ENOTRECOVERABLE && !s);
    kernel_cuda_free(b);
    _exit(0);
}

/* ---------- tests ---------- */

#define RULE(rule) \
    { #rule, break_rule, #rule, NULL, 200000, NULL, false }

static const struct cuda_role roles[] = {
    RULE(use_after_free),
    RULE(use_after_close),
    RULE(double_free),
    RULE(double_close),
    RULE(free_imported),
    RULE(free_queued),
    RULE(close_queued),
    RULE(host_free_queued),
    RULE(double_open),
    RULE(unordered_read),
    RULE(unordered_write),
    RULE(unordered_overwrite),
    RULE(out_of_bounds),
    RULE(fork),
    {"killed", role_killed, NULL, NULL, 0, NULL, false},
    {"closed", role_closed, NULL, NULL, 0, NULL, false},
    {"events", role_events, NULL, NULL, 0, NULL, false},
    {"refused", role_refused, NULL, NULL, 0, NULL, false},
    {"injected", role_injected, NULL, NULL, 0, NULL, false},
    {"lost", role_lost, NULL, NULL, 0, "queue:1:700", false},
};

int main(int argc, char **argv) {
    return cuda_roles_main(argc, argv, "cuda: memory", roles, sizeof roles / sizeof *roles);
}
