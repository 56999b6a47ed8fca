/* test_processes.c - two real processes on one device: memory and fences that pass between them, and the death of one
 * with work queued. For a real GPU; the driver in tests/fakecuda shows that the test itself works.
 *
 * A test is an owner and a client, each a process of its own that is made before either has loaded the driver, with a
 * socket between them. What the owner's process says is the result. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend.h"
#include "cuda/cuda_backend.h"
#include "harness.h"

#define SIZE ((size_t)SCISSOR_SEGMENT_BYTES)
#define WORDS (SIZE / sizeof(uint32_t))
#define ROUNDS 20
#define QUEUED 500 /* 1 GiB for the bus: some tens of milliseconds */

#define REQUIRE(condition)                                                                               \
    do {                                                                                                 \
        if (!(condition)) {                                                                              \
            fprintf(stderr, "%s: line %d: %s: %s\n", __func__, __LINE__, #condition, kernel_cuda_why()); \
            _exit(1);                                                                                    \
        }                                                                                                \
    } while (0)

/* What one side has. */
struct side {
    int socket;
    struct kernel_backend *backend;
    const struct kernel_streams *streams;
    void *stream;
    struct kernel_segment *segment;
    struct kernel_fence *fence;
    uint32_t *pinned; /* as large as a segment */
};

/* What the owner sends first. */
struct handles {
    struct kernel_handle segment, fence[2];
};

static void tell(const struct side *s, const void *what, size_t bytes) {
    REQUIRE(write(s->socket, what, bytes) == (ssize_t)bytes);
}

static void hear(const struct side *s, void *what, size_t bytes) {
    REQUIRE(read(s->socket, what, bytes) == (ssize_t)bytes);
}

static void tell_turn(const struct side *s) {
    tell(s, "", 1);
}

static void hear_turn(const struct side *s) {
    char byte;
    hear(s, &byte, 1);
}

static struct side side_open(int socket) {
    struct side s = {.socket = socket};
    char why[256] = "";
    s.backend = kernel_backend_open("cuda", why, sizeof why);
    if (!s.backend)
        fprintf(stderr, "%s\n", why);
    REQUIRE(s.backend);
    s.streams = s.backend->streams;
    s.stream = s.streams->own(s.backend);
    REQUIRE(s.streams->memory_new(s.backend, KERNEL_MEMORY_PINNED, SIZE, (void **)&s.pinned) == 0);
    return s;
}

static struct side owner_open(int socket) {
    struct side s = side_open(socket);
    struct handles h;
    REQUIRE(s.backend->segment_new(s.backend, KERNEL_ACCESS_FRESH, SIZE, &s.segment) == 0);
    REQUIRE(s.streams->fence_new(s.backend, &s.fence) == 0);
    REQUIRE(s.backend->segment_export(s.backend, s.segment, &h.segment) == 0);
    REQUIRE(s.streams->fence_export(s.backend, s.fence, h.fence) == 0);
    tell(&s, &h, sizeof h);
    return s;
}

static struct side client_open(int socket) {
    struct side s = side_open(socket);
    struct handles h;
    hear(&s, &h, sizeof h);
    REQUIRE(s.backend->segment_import(s.backend, KERNEL_ACCESS_FRESH, &h.segment, SIZE, &s.segment) == 0);
    REQUIRE(s.streams->fence_import(s.backend, h.fence, &s.fence) == 0);
    return s;
}

static void side_close(struct side *s) {
    REQUIRE(s->streams->wait(s->backend, s->stream) == 0);
    s->streams->fence_free(s->backend, s->fence);
    s->backend->segment_free(s->backend, s->segment);
    s->streams->memory_free(s->backend, KERNEL_MEMORY_PINNED, s->pinned);
    struct kernel_cuda_memory left = kernel_cuda_memory(s->backend);
    REQUIRE(left.segments == 0 && left.imported == 0 && left.refused_segments == 0);
    kernel_backend_close(s->backend);
}

static void fill(struct side *s, uint32_t seed) {
    for (uint32_t i = 0; i < WORDS; i++)
        s->pinned[i] = i * 2654435761u + seed;
}

static bool filled(const struct side *s, uint32_t seed) {
    for (uint32_t i = 0; i < WORDS; i++)
        if (s->pinned[i] != i * 2654435761u + seed)
            return false;
    return true;
}

static int upload(struct side *s) {
    return s->streams->transfer(s->backend, s->backend->segment_address(s->segment), s->pinned, SIZE, s->stream);
}

static int download(struct side *s) {
    return s->streams->transfer(s->backend, s->pinned, s->backend->segment_address(s->segment), SIZE, s->stream);
}

/* ---------- taking turns ---------- */

/* Writes behind what the other side has signalled and signals; the other does the same with what it reads. */
static void client_turns(int socket) {
    struct side s = client_open(socket);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        fill(&s, round);
        if (round)
            REQUIRE(s.streams->fence_follow(s.backend, s.fence, false, s.stream) == 0);
        REQUIRE(upload(&s) == 0 && s.streams->fence_signal(s.backend, s.fence, s.stream) == 0);
        tell_turn(&s);
        hear_turn(&s);
        REQUIRE(s.streams->wait(s.backend, s.stream) == 0); /* the pinned memory is written to again */
    }
    side_close(&s);
    tell(&(struct side){.socket = socket}, "", 1);
}

static void owner_turns(int socket, pid_t client) {
    struct side s = owner_open(socket);
    (void)client;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        hear_turn(&s);
        REQUIRE(s.streams->fence_follow(s.backend, s.fence, false, s.stream) == 0 && download(&s) == 0);
        REQUIRE(s.streams->fence_signal(s.backend, s.fence, s.stream) == 0);
        tell_turn(&s);
        REQUIRE(s.streams->wait(s.backend, s.stream) == 0);
        REQUIRE(filled(&s, round));
    }
    hear_turn(&s); /* the client has closed */
    side_close(&s);
}

/* ---------- a client that is killed with work queued ---------- */

static void client_killed(int socket) {
    struct side s = client_open(socket);
    fill(&s, 1);
    for (unsigned i = 0; i < QUEUED; i++)
        REQUIRE(upload(&s) == 0);
    REQUIRE(s.streams->fence_signal(s.backend, s.fence, s.stream) == 0);
    tell_turn(&s);
    for (;;)
        pause();
}

static void await_end(pid_t pid) {
    struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    REQUIRE(end.fd >= 0 && poll(&end, 1, HARNESS_PATIENCE_MS) == 1);
    close(end.fd);
}

/* Its memory is the owner's again when it is gone, and the device is none the worse. */
static void owner_of_killed(int socket, pid_t client) {
    struct side s = owner_open(socket);
    hear_turn(&s);
    uint64_t start = harness_now_ns();
    kill(client, SIGKILL);
    await_end(client);
    uint64_t gone = harness_now_ns();
    /* Its event may have come or not: the host waits for it no longer than it says. */
    int r = s.streams->fence_wait(s.backend, s.fence, false, 20000);
    REQUIRE(r == 0 || r == -EAGAIN);
    uint64_t waited = harness_now_ns();
    s.streams->fence_free(s.backend, s.fence);
    s.backend->segment_free(s.backend, s.segment);
    REQUIRE(kernel_cuda_memory(s.backend).refused_segments == 0);
    fprintf(stderr, "client gone %.1f ms after its end was asked for, its fence %s, memory free %.1f ms later\n",
            (double)(gone - start) / 1e6, r ? "never reached" : "reached", (double)(harness_now_ns() - waited) / 1e6);
    REQUIRE(s.backend->segment_new(s.backend, KERNEL_ACCESS_FRESH, SIZE, &s.segment) == 0);
    REQUIRE(s.streams->fence_new(s.backend, &s.fence) == 0);
    fill(&s, 7);
    REQUIRE(download(&s) == 0 && s.streams->wait(s.backend, s.stream) == 0);
    for (uint32_t i = 0; i < WORDS; i++)
        REQUIRE(s.pinned[i] == 0);
    REQUIRE(!s.streams->lost(s.backend));
    side_close(&s);
}

/* ---------- tests ---------- */

static void run(void (*owner)(int socket, pid_t client), void (*client)(int socket)) {
    int ends[2], status;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        fflush(stdout);
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i])
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[1 - i]);
        if (i == 0)
            client(ends[0]);
        else
            owner(ends[1], pids[0]);
        _exit(0);
    }
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(waitpid(pids[1], &status, 0), pids[1]);
    kill(pids[0], SIGKILL);
    waitpid(pids[0], NULL, 0);
    assert_int_equal(status, 0);
}

static void test_turns(void **state) {
    (void)state;
    run(owner_turns, client_turns);
}

static void test_killed(void **state) {
    (void)state;
    run(owner_of_killed, client_killed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_killed),
    };
    harness_init(120);
    return cmocka_run_group_tests_name("gpu: processes", tests, NULL, NULL);
}
