/* state.c - the shared file, its lock, injected errors and how a broken rule ends the process. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fake.h"

struct fake_state *fake_state;
struct fake_clock fake_host;
unsigned fake_delay_us = 300;
atomic_uint fake_lost;

static pid_t fake_pid; /* that called cuInit */
static const char *fake_directory;

/* ---------- rules ---------- */

_Noreturn void fake_break(enum fake_rule rule, const char *detail, uint64_t number) {
    static const struct {
        const char *name, *text;
    } rules[] = {
#define FAKE_ROW(name, text) {#name, text},
        FAKE_RULES(FAKE_ROW)
#undef FAKE_ROW
    };
    dprintf(STDERR_FILENO, "fakecuda: rule %s: %s (%s, allocation %llu)\n", rules[rule].name, rules[rule].text, detail,
            (unsigned long long)number);
    abort();
}

/* ---------- the shared file ---------- */

void fake_lock(void) {
    if (pthread_mutex_lock(&fake_state->lock) == EOWNERDEAD)
        pthread_mutex_consistent(&fake_state->lock);
}

void fake_unlock(void) {
    pthread_mutex_unlock(&fake_state->lock);
}

/* A process that has ended but was not reaped yet has no more work running than one that was. */
bool fake_alive(pid_t pid) {
    if (pid == getpid())
        return true;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return false;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    bool ended = poll(&p, 1, 0) == 1;
    close(fd);
    return !ended;
}

static void lock_init(pthread_mutex_t *lock) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

static bool state_open(void) {
    char path[256];
    snprintf(path, sizeof path, "%s/state", fake_directory);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return false;
    bool fresh = lseek(fd, 0, SEEK_END) == 0;
    if (fresh && ftruncate(fd, sizeof *fake_state) < 0)
        return false;
    void *memory = mmap(NULL, sizeof *fake_state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return false;
    fake_state = memory;
    if (fresh)
        lock_init(&fake_state->lock);
    flock(fd, LOCK_UN); /* the mapping would keep it */
    close(fd);
    return true;
}

int fake_open(uint64_t serial, int flags) {
    char path[256];
    snprintf(path, sizeof path, "%s/%llu", fake_directory, (unsigned long long)serial);
    return open(path, flags | O_RDWR | O_CLOEXEC, 0600);
}

void fake_unlink(uint64_t serial) {
    char path[256];
    snprintf(path, sizeof path, "%s/%llu", fake_directory, (unsigned long long)serial);
    unlink(path);
}

/* ---------- injected errors ---------- */

static struct {
    pthread_mutex_t lock;
    char call[48];
    unsigned left, code;
    bool failed;
} injection = {.lock = PTHREAD_MUTEX_INITIALIZER};

void fakecuda_fail(const char *call, unsigned n, unsigned code) {
    pthread_mutex_lock(&injection.lock);
    snprintf(injection.call, sizeof injection.call, "%s", call ? call : "");
    injection.left = call ? n : 0;
    injection.code = code;
    injection.failed = false;
    pthread_mutex_unlock(&injection.lock);
}

int fakecuda_failed(void) {
    pthread_mutex_lock(&injection.lock);
    bool failed = injection.failed;
    pthread_mutex_unlock(&injection.lock);
    return failed;
}

static bool sticky(unsigned code) {
    switch (code) {
#define FAKE_STICKY(name, number, error) \
    case number:                         \
        return (error) == ENOTRECOVERABLE;
        CUDA_RESULTS(FAKE_STICKY)
#undef FAKE_STICKY
    default:
        return false;
    }
}

cuda_result fake_inject(const char *call) {
    cuda_result code = 0;
    bool queue = !strcmp(call, "queue");
    pthread_mutex_lock(&injection.lock);
    if (injection.left && (!strcmp(injection.call, call) || (!queue && !strcmp(injection.call, "*"))) &&
        --injection.left == 0) {
        injection.failed = true;
        code = injection.code;
    }
    pthread_mutex_unlock(&injection.lock);
    if (sticky(code))
        atomic_store(&fake_lost, code);
    return code;
}

__attribute__((constructor)) static void environment(void) {
    const char *fail = getenv("FAKECUDA_FAIL"), *delay = getenv("FAKECUDA_DELAY_US");
    char call[48];
    unsigned n, code = CUDA_OUT_OF_MEMORY;
    fake_directory = getenv("FAKECUDA_DIR");
    if (delay)
        fake_delay_us = (unsigned)strtoul(delay, NULL, 10);
    if (fail && sscanf(fail, "%47[^:]:%u:%u", call, &n, &code) >= 2)
        fakecuda_fail(call, n, code);
}

/* ---------- calls ---------- */

cuda_result fake_enter(const char *call, bool context) {
    if (fake_pid && fake_pid != getpid())
        fake_break(FAKE_RULE_fork, call, 0);
    cuda_result code = fake_inject(call);
    if (code)
        return code;
    code = atomic_load(&fake_lost);
    if (code)
        return code;
    if (!fake_pid && strcmp(call, "cuInit"))
        return CUDA_NOT_INITIALIZED;
    return context && !fake_context() ? CUDA_INVALID_CONTEXT : 0;
}

cuda_result cuInit(unsigned flags) {
    FAKE_ENTER(cuInit, false);
    if (flags)
        return CUDA_INVALID_VALUE;
    if (!fake_directory || fake_device_count == 0)
        return CUDA_NO_DEVICE;
    if (!fake_state && !state_open())
        return CUDA_OPERATING_SYSTEM;
    fake_pid = getpid();
    return 0;
}
