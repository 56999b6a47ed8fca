/* test_cuda_launch.c - launches on the driver in tests/fakecuda: images, what is refused, an order between launches of
 * two processes; and each of its rules that a launch can break, broken once. */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cuda/arena.h"
#include "cuda/image.h"
#include "cuda/launch.h"
#include "cuda_roles.h"

#define SIZE ((size_t)2 << 20)
#define WORD 0x11111111u
#define MOMENT_US 50000 /* what is queued this much later runs later */

#define NAME(kernel, parameter) #kernel "\n"
static const char image[] = "scissord-emulated\n" CUDA_KERNELS(NAME);
#undef NAME

/* ---------- what roles are made of ---------- */

#define LAUNCHES 64

static struct {
    const struct cuda_driver *driver;
    cuda_stream stream, other;
    cuda_module module;
    cuda_function scrub, settle;
    struct cuda_scrub_range *ranges; /* pinned: one a launch */
    unsigned used;
} rig;

static const struct cuda_driver *rig_open(void) {
    const struct cuda_driver *d = rig.driver = role_driver(&rig.stream);
    REQUIRE(d->stream_new(&rig.other, CUDA_STREAM_NON_BLOCKING) == 0);
    REQUIRE(d->module_load(&rig.module, image) == 0);
    REQUIRE(d->module_function(&rig.scrub, rig.module, "scissor_scrub") == 0);
    REQUIRE(d->module_function(&rig.settle, rig.module, "scissor_settle") == 0);
    REQUIRE(d->host_new((void **)&rig.ranges, LAUNCHES * sizeof *rig.ranges, CUDA_HOST_MAPPED) == 0);
    return d;
}

static cuda_result launch(cuda_function f, struct cuda_grid grid, void *parameter, cuda_stream stream) {
    void *parameters[] = {parameter};
    return rig.driver->launch(f, grid.x, grid.y, 1, CUDA_THREADS, 1, 1, grid.shared_bytes, stream, parameters, NULL);
}

static void scrub(cuda_address at, size_t bytes, cuda_stream stream) {
    struct cuda_scrub_range *range = &rig.ranges[rig.used++];
    struct cuda_scrub_launch parameter = {range};
    *range = (struct cuda_scrub_range){(void *)(uintptr_t)at, bytes};
    REQUIRE(launch(rig.scrub, cuda_scrub_grid(1, bytes), &parameter, stream) == 0);
    parameter.ranges = NULL; /* it was copied */
}

/* Pinned, and never freed: what a settle is told. */
struct settle {
    void *pages[1];
    struct kernel_move moves[1];
    struct kernel_settle head;
};

/* One row of 16 channels, from a fresh buffer at one address into a page at another. */
static void settle(cuda_address fresh, cuda_address page, cuda_stream stream) {
    struct settle *it;
    REQUIRE(rig.driver->host_new((void **)&it, sizeof *it, CUDA_HOST_MAPPED) == 0);
    *it = (struct settle){.pages = {(void *)(uintptr_t)page}, .moves = {{.from = 3, .to = 5}}};
    it->head = (struct kernel_settle){.fresh = (void *)(uintptr_t)fresh,
                                      .pages = it->pages,
                                      .moves = it->moves,
                                      .move_count = 1,
                                      .fresh_rows = 16,
                                      .head_dim = 16,
                                      .compute_dtype = KERNEL_F16,
                                      .storage_dtype = KERNEL_F16};
    struct cuda_settle_launch parameter = {&it->head};
    REQUIRE(launch(rig.settle, cuda_settle_grid(1, 1), &parameter, stream) == 0);
}

static cuda_event event_new(cuda_stream stream) {
    cuda_event e;
    REQUIRE(rig.driver->event_new(&e, CUDA_EVENT_INTERPROCESS | CUDA_EVENT_DISABLE_TIMING) == 0);
    REQUIRE(rig.driver->event_record(e, stream) == 0);
    return e;
}

static void say_event(cuda_event e) {
    cuda_event_handle handle;
    REQUIRE(rig.driver->event_export(&handle, e) == 0);
    role_say(&handle, sizeof handle);
}

static cuda_event hear_event(void) {
    cuda_event_handle handle;
    cuda_event e;
    role_hear(&handle, sizeof handle);
    REQUIRE(rig.driver->event_open(&e, handle) == 0);
    return e;
}

static void wait_all(void) {
    REQUIRE(rig.driver->stream_wait(rig.stream) == 0 && rig.driver->stream_wait(rig.other) == 0);
}

static const uint32_t *words(cuda_address a) {
    return (const uint32_t *)(uintptr_t)a;
}

/* ---------- roles: what must work ---------- */

/* The child's fill, the parent's launches and the child's copy: late, and in this order, though no host waits. */
static void role_order(const char *name) {
    static uint32_t copied[SIZE / 4];
    cuda_memory_handle handle;
    pid_t pid = role_divide();
    const struct cuda_driver *d = rig_open();
    (void)name;
    if (pid == 0) {
        cuda_address a = role_memory(d, SIZE);
        REQUIRE(d->fill(a, WORD, SIZE / 4, rig.stream) == 0);
        say_event(event_new(rig.stream));
        role_say_memory(d, a);
        REQUIRE(d->stream_wait_event(rig.stream, hear_event(), 0) == 0);
        REQUIRE(words(a)[0] != 0);
        REQUIRE(d->copy((uintptr_t)copied, a, SIZE, rig.stream) == 0);
        for (size_t i = 0; i < SIZE / 4; i++)
            REQUIRE(copied[i] == (i < SIZE / 8 ? 0 : WORD));
        _exit(0);
    }
    cuda_event filled = hear_event();
    cuda_address a = role_hear_memory(d, &handle);
    REQUIRE(d->stream_wait_event(rig.stream, filled, 0) == 0);
    scrub(a, SIZE / 4, rig.stream);
    scrub(a + SIZE / 4, SIZE / 4, rig.stream);
    say_event(event_new(rig.stream));
    REQUIRE(words(a)[0] != 0 && d->stream_query(rig.stream) == CUDA_NOT_READY);
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
    REQUIRE(d->stream_wait(rig.stream) == 0 && d->memory_close(a) == 0);
    _exit(0);
}

static void role_settle(const char *name) {
    const struct cuda_driver *d = rig_open();
    cuda_address fresh = role_memory(d, SIZE), page = role_memory(d, SIZE);
    unsigned moved = 0;
    (void)name;
    REQUIRE(d->fill(fresh, WORD, SIZE / 4, rig.stream) == 0 && d->fill(page, 0, SIZE / 4, rig.stream) == 0);
    settle(fresh, page, rig.stream);
    wait_all();
    for (size_t i = 0; i < SIZE / 2; i++)
        moved += ((const uint16_t *)words(page))[i] == (uint16_t)WORD;
    REQUIRE(moved == 2 * 16); /* K and V */
    _exit(0);
}

/* An image that has one part for one architecture. */
struct fat {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
    uint16_t kind, entry_version;
    uint32_t entry_header_bytes;
    uint64_t entry_bytes;
    uint32_t other[3], capability, more[8];
    char part[64];
};

static cuda_result fat_load(uint16_t kind, uint32_t capability, const char *part, const char *name) {
    struct fat fat = {.magic = 0xba55ed50,
                      .header_bytes = 16,
                      .bytes = sizeof fat - 16,
                      .kind = kind,
                      .entry_header_bytes = 64,
                      .entry_bytes = sizeof fat.part,
                      .capability = capability};
    cuda_module module;
    cuda_function function;
    strcpy(fat.part, part);
    cuda_result code = rig.driver->module_load(&module, &fat);
    return code ? code : rig.driver->module_function(&function, module, name);
}

static void role_images(const char *name) {
    const struct cuda_driver *d = rig_open();
    cuda_function f;
    cuda_module m;
    (void)name;
    REQUIRE(d->module_load(&m, "scissord\nscissor_scrub\n") == CUDA_INVALID_IMAGE);
    REQUIRE(d->module_load(&m, ELFMAG ELFMAG ELFMAG ELFMAG ELFMAG ELFMAG ELFMAG ELFMAG ELFMAG ELFMAG ELFMAG ELFMAG
                                   ELFMAG ELFMAG ELFMAG ELFMAG) == CUDA_INVALID_IMAGE);
    REQUIRE(d->module_load(&m, NULL) == CUDA_INVALID_VALUE);
    REQUIRE(d->module_load(&m, "scissord-emulated\nscissor_scrub\nscissor_attend_16\n") == 0);
    REQUIRE(d->module_function(&f, m, "scissor_scrub") == 0);
    REQUIRE(d->module_function(&f, m, "scissor_settle") == CUDA_NOT_FOUND);
    REQUIRE(d->module_function(&f, m, "scissor_attend_1") == CUDA_NOT_FOUND);
    REQUIRE(d->module_function(&f, m, "scissor_attend_16") == CUDA_NOT_FOUND); /* nothing runs it */
    REQUIRE(d->module_unload(m) == 0);

    REQUIRE(fat_load(2, 90, ".text.scissor_scrub", "scissor_scrub") == 0);
    REQUIRE(fat_load(2, 90, ".text.scissor_scrubs", "scissor_scrub") == CUDA_NOT_FOUND);
    REQUIRE(fat_load(2, 80, ".text.scissor_scrub", "scissor_scrub") == CUDA_NO_BINARY_FOR_GPU);
    REQUIRE(fat_load(2, 100, ".text.scissor_scrub", "scissor_scrub") == CUDA_NO_BINARY_FOR_GPU);
    REQUIRE(fat_load(1, 80, ".entry scissor_scrub(", "scissor_scrub") == 0);
    REQUIRE(fat_load(1, 100, ".entry scissor_scrub(", "scissor_scrub") == CUDA_NO_BINARY_FOR_GPU);

#define FOUND(kernel, parameter) REQUIRE(d->module_function(&f, m, #kernel) == 0);
    if (kernel_cuda_image_bytes) {
        REQUIRE(d->module_load(&m, kernel_cuda_image) == 0);
        CUDA_KERNELS(FOUND)
    }
#undef FOUND
    _exit(0);
}

static void role_refused(const char *name) {
    const struct cuda_driver *d = rig_open();
    struct cuda_scrub_launch parameter = {rig.ranges};
    void *parameters[] = {&parameter};
    cuda_stream s = rig.stream;
    (void)name;
    REQUIRE(launch(NULL, (struct cuda_grid){1, 1, 0}, &parameter, s) == CUDA_INVALID_HANDLE);
    REQUIRE(launch(rig.scrub, (struct cuda_grid){0, 1, 0}, &parameter, s) == CUDA_INVALID_VALUE);
    REQUIRE(launch(rig.scrub, (struct cuda_grid){1, 65536, 0}, &parameter, s) == CUDA_INVALID_VALUE);
    REQUIRE(launch(rig.scrub, (struct cuda_grid){1, 1, (48 << 10) + 1}, &parameter, s) == CUDA_INVALID_VALUE);
    REQUIRE(d->launch(rig.scrub, 1, 1, 1, CUDA_THREADS, 2, 1, 0, s, parameters, NULL) == CUDA_INVALID_VALUE);
    REQUIRE(d->launch(rig.scrub, 1, 1, 1, CUDA_THREADS, 0, 1, 0, s, parameters, NULL) == CUDA_INVALID_VALUE);
    REQUIRE(d->launch(rig.scrub, 1, 1, 1, CUDA_THREADS, 1, 1, 0, s, NULL, NULL) == CUDA_INVALID_VALUE);
    REQUIRE(d->launch(rig.scrub, 1, 1, 1, CUDA_THREADS, 1, 1, 0, s, parameters, parameters) == CUDA_INVALID_VALUE);
    REQUIRE(d->stream_query(s) == 0 && d->module_unload(rig.module) == 0);
    _exit(0);
}

static void role_default_stream(const char *name) {
    const struct cuda_driver *d = rig_open();
    cuda_address a = role_memory(d, SIZE);
    cuda_stream legacy = (cuda_stream)1;
    (void)name;
    REQUIRE(d->fill(a, WORD, SIZE / 4, NULL) == 0);
    scrub(a, SIZE / 2, legacy);
    REQUIRE(d->stream_query(NULL) == CUDA_NOT_READY);
    cuda_event e = event_new(NULL);
    REQUIRE(d->stream_wait_event(rig.stream, e, 0) == 0);
    scrub(a + SIZE / 2, SIZE / 2, rig.stream);
    wait_all();
    REQUIRE(d->stream_query(legacy) == 0 && d->stream_wait(NULL) == 0);
    REQUIRE(words(a)[0] == 0 && words(a)[SIZE / 4 - 1] == 0);
    REQUIRE(d->stream_free(legacy) == CUDA_INVALID_HANDLE && d->stream_free(NULL) == CUDA_INVALID_HANDLE);
    _exit(0);
}

/* In the child: launches that will not have run when it is killed, and an event behind them. */
static void be_killed(const struct cuda_driver *d) {
    cuda_address a = role_memory(d, SIZE);
    for (unsigned i = 0; i < LAUNCHES; i++)
        scrub(a, SIZE, rig.stream);
    say_event(event_new(rig.stream));
    role_say_memory(d, a);
    pause();
}

static void role_killed(const char *name) {
    cuda_memory_handle handle;
    pid_t pid = role_divide();
    const struct cuda_driver *d = rig_open();
    if (pid == 0)
        be_killed(d);
    cuda_event e = hear_event();
    cuda_address a = role_hear_memory(d, &handle);
    kill(pid, SIGKILL);
    REQUIRE(waitpid(pid, NULL, 0) == pid);
    REQUIRE(role_memory_taken() == SIZE); /* open here */
    REQUIRE(d->event_query(e) == CUDA_NOT_READY);
    REQUIRE(d->stream_wait_event(rig.other, e, 0) == 0);
    usleep(MOMENT_US);
    REQUIRE(d->stream_query(rig.other) == CUDA_NOT_READY && d->event_query(e) == CUDA_NOT_READY);
    if (!strcmp(name, "hang_event"))
        d->event_wait(e);
    if (!strcmp(name, "hang_stream"))
        d->stream_wait(rig.other);
    REQUIRE(d->stream_free(rig.other) == 0 && d->memory_close(a) == 0);
    REQUIRE(role_memory_taken() == 0);
    _exit(0);
}

#define RING_WAIT_MS 50

static int ring_put(struct cuda_arena *ring) {
    int r = cuda_arena_begin(ring, 16);
    if (r == 0) {
        memset(cuda_arena_take(ring, 16), 1, 16);
        r = cuda_arena_end(ring, rig.other);
    }
    return r;
}

/* A stream that waits for what a dead process has left undone: no wait of a ring of arguments is without a bound, and
 * what launches may yet read is not given out again. */
static void role_ring(const char *name) {
    struct cuda_device *device;
    struct cuda_arena ring;
    pid_t pid = role_divide();
    bool adrift = !strcmp(name, "ring_adrift");
    if (pid == 0)
        be_killed(rig_open());
    if (adrift)
        REQUIRE(setenv("FAKECUDA_FAIL", "cuEventRecord:1:1", 1) == 0);
    const struct cuda_driver *d = rig_open();
    cuda_event e = hear_event();
    kill(pid, SIGKILL);
    REQUIRE(waitpid(pid, NULL, 0) == pid && d->stream_wait_event(rig.other, e, 0) == 0);
    REQUIRE(cuda_device_open("cuda", &device) == 0 && cuda_arena_init(&ring, device) == 0);
    device->wait_ms = RING_WAIT_MS;
    if (adrift) {
        REQUIRE(ring_put(&ring) == -EINVAL && ring_put(&ring) == -EIO && cuda_arena_begin(&ring, 16) == -EIO);
        REQUIRE(strstr(kernel_cuda_why(), "does not say when its work is done"));
        _exit(0);
    }
    REQUIRE(cuda_arena_begin(&ring, 16) == 0 && cuda_arena_take(&ring, 16));
    REQUIRE(cuda_arena_finish(&ring, rig.other) == -ETIMEDOUT);
    cuda_arena_unlock(&ring);
    unsigned more = 0;
    while (ring_put(&ring) == 0)
        more++;
    REQUIRE(more == CUDA_ARENA_USES - 1 && ring_put(&ring) == -ETIMEDOUT && ring.count == CUDA_ARENA_USES);
    _exit(0);
}

/* ---------- roles: each breaks a rule ---------- */

static void role_kernel_bounds(const char *name) {
    cuda_address a = role_memory(rig_open(), SIZE);
    (void)name;
    scrub(a + SIZE - 4096, 4096 + 16, rig.stream);
    wait_all();
}

static void role_kernel_alignment(const char *name) {
    cuda_address a = role_memory(rig_open(), SIZE);
    (void)name;
    scrub(a + 4, 4096, rig.stream);
    wait_all();
}

/* Two ranges that are the same. */
static void role_kernel_race(const char *name) {
    struct cuda_scrub_launch parameter;
    cuda_address a = role_memory(rig_open(), SIZE);
    (void)name;
    rig.ranges[0] = rig.ranges[1] = (struct cuda_scrub_range){(void *)(uintptr_t)a, 4096};
    parameter.ranges = rig.ranges;
    REQUIRE(launch(rig.scrub, cuda_scrub_grid(2, 4096), &parameter, rig.stream) == 0);
    wait_all();
}

/* Freed or closed after the launch was queued. */
static void role_launch_free(const char *name) {
    const struct cuda_driver *d = rig_open();
    cuda_address a = role_memory(d, SIZE);
    (void)name;
    scrub(a, 4096, rig.stream);
    REQUIRE(d->memory_free(a) == 0);
    wait_all();
}

static void role_launch_host_free(const char *name) {
    const struct cuda_driver *d = rig_open();
    cuda_address a = role_memory(d, SIZE);
    (void)name;
    scrub(a, 4096, rig.stream);
    REQUIRE(d->host_free(rig.ranges) == 0);
    wait_all();
}

static void role_launch_close(const char *name) {
    cuda_memory_handle handle;
    pid_t pid = role_divide();
    const struct cuda_driver *d = rig_open();
    (void)name;
    if (pid == 0) {
        role_say_memory(d, role_memory(d, SIZE));
        pause();
    }
    cuda_address a = role_hear_memory(d, &handle);
    scrub(a, 4096, rig.stream);
    REQUIRE(d->memory_close(a) == 0);
    wait_all();
}

/* The child uses its memory; a little later the parent does, without a word about the order. */
static void role_between(const char *name) {
    cuda_memory_handle handle;
    pid_t pid = role_divide();
    const struct cuda_driver *d = rig_open();
    if (pid == 0) {
        cuda_address a = role_memory(d, SIZE), b = role_memory(d, SIZE);
        if (strstr(name, "overwrite"))
            settle(a, b, rig.stream);
        else
            scrub(a, 4096, rig.stream);
        usleep(MOMENT_US);
        role_say_memory(d, a);
        pause();
    }
    cuda_address a = role_hear_memory(d, &handle), b = role_memory(d, SIZE);
    if (strstr(name, "read"))
        settle(a, b, rig.stream);
    else
        scrub(a, 4096, rig.stream);
    wait_all();
}

/* The host waits for the first work when the second is queued, but has not run: that makes no order. */
static void role_late(const char *name) {
    const struct cuda_driver *d = rig_open();
    cuda_address a = role_memory(d, SIZE), b = role_memory(d, SIZE);
    (void)name;
    scrub(a, SIZE, rig.stream);
    scrub(b, SIZE, rig.other);
    scrub(a, SIZE, rig.other);
    REQUIRE(d->stream_wait(rig.stream) == 0);
    fprintf(stderr, "the host has waited\n");
    wait_all();
}

static void role_unload(const char *name) {
    const struct cuda_driver *d = rig_open();
    cuda_address a = role_memory(d, SIZE);
    if (strstr(name, "queued"))
        scrub(a, SIZE, rig.stream);
    REQUIRE(d->module_unload(rig.module) == 0);
    scrub(a, SIZE, rig.stream);
}

/* ---------- tests ---------- */

#define LATE_US 200000

static const struct cuda_role roles[] = {
    {"order", role_order, NULL, NULL, LATE_US / 4, NULL, false},
    {"settle", role_settle, NULL, NULL, 0, NULL, false},
    {"settle_unwatched", role_settle, NULL, NULL, 0, NULL, true},
    {"images", role_images, NULL, NULL, 0, NULL, false},
    {"refused", role_refused, NULL, NULL, 0, NULL, false},
    {"default_stream", role_default_stream, NULL, NULL, LATE_US / 4, NULL, false},
    {"killed", role_killed, NULL, NULL, LATE_US, NULL, false},
    {"hang_event", role_killed, "hang", "cuEventSynchronize", LATE_US, NULL, false},
    {"hang_stream", role_killed, "hang", "cuStreamSynchronize", LATE_US, NULL, false},
    {"ring_full", role_ring, NULL, NULL, LATE_US, NULL, false},
    {"ring_adrift", role_ring, NULL, NULL, LATE_US, NULL, false},
    {"kernel_bounds", role_kernel_bounds, "kernel", "scissor_scrub, block (0, 0, 0)", 0, NULL, false},
    {"kernel_alignment", role_kernel_alignment, "kernel", "no multiple", 0, NULL, false},
    {"kernel_race", role_kernel_race, "kernel", "two blocks", 0, NULL, false},
    {"launch_free", role_launch_free, "use_after_free", NULL, LATE_US, NULL, false},
    {"launch_host_free", role_launch_host_free, "use_after_free", NULL, LATE_US, NULL, false},
    {"launch_close", role_launch_close, "use_after_close", NULL, LATE_US, NULL, false},
    {"unordered_write", role_between, "unordered_write", NULL, LATE_US, NULL, false},
    {"unordered_read", role_between, "unordered_read", NULL, LATE_US, NULL, false},
    {"unordered_overwrite", role_between, "unordered_overwrite", NULL, LATE_US, NULL, false},
    {"late", role_late, "unordered_write", "the host has waited", LATE_US, NULL, false},
    {"use_after_unload", role_unload, "use_after_unload", NULL, 0, NULL, false},
    {"unload_queued", role_unload, "unload_queued", NULL, LATE_US, NULL, false},
};

int main(int argc, char **argv) {
    return cuda_roles_main(argc, argv, "cuda: launches", roles, sizeof roles / sizeof *roles);
}
