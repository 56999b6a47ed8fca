/* bench.c - lists the devices of this machine, and measures the backend's operations on one of them: Markdown, ready
 * for the README, of times, of the bytes that an operation cannot do without, and of their share of what memory can do.
 *
 *   bench devices    one line for each; exit status 77 and the reason if there is none that this program has code for
 *   bench hold       opens one of them and keeps it until standard input ends
 *   bench [--short]  the tables; --short: sizes that only show that it works
 *
 * Attention is in bench_attention.c. Of a copy both what is read and what is written are counted. */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda/cuda_backend.h"
#include "cuda/device.h"
#include "cuda/image.h"

#define FRESH_ROWS 64u
#define BENCH_PAGES 64u
#define BENCH_PAGE_BYTES ((size_t)32 << 10)
#define SETS 8u /* of heads, to be moved in turn: together more than caches hold */

struct bench bench;

void bench_must(int r, const char *what) {
    if (r == 0)
        return;
    fprintf(stderr, "bench: %s: %s\n", what, kernel_backend_why());
    exit(1);
}

void *bench_need(void *memory) {
    if (!memory)
        bench_must(-ENOMEM, "no host memory");
    return memory;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---------- devices ---------- */

static int attribute(const struct cuda_driver *d, cuda_attribute which, cuda_ordinal device) {
    int value;
    return d->device_attribute(&value, which, device) == 0 ? value : 0;
}

/* GB/s: two transfers a clock. 0 where the driver does not say. */
static double nominal(const struct cuda_driver *d, cuda_ordinal device) {
    return 2.0 * attribute(d, CUDA_ATTRIBUTE_MEMORY_CLOCK, device) * 1e3 *
           attribute(d, CUDA_ATTRIBUTE_BUS_WIDTH, device) / 8 / 1e9;
}

static int print_devices(void) {
    const struct cuda_driver *d;
    int count = 0, version = 0;
    if (cuda_driver_load(&d) < 0) {
        fprintf(stderr, "%s\n", cuda_why());
        return 77;
    }
    if (!kernel_cuda_image_bytes) {
        fprintf(stderr, "this program was built without nvcc and has no kernels for a GPU\n");
        return 77;
    }
    (void)d->driver_version(&version);
    (void)d->device_count(&count);
    printf("driver for CUDA %d.%d; kernels for %s\n", version / 1000, version % 1000 / 10, kernel_cuda_image_archs());
    for (int i = 0; i < count; i++) {
        cuda_ordinal device;
        char name[128] = "";
        size_t bytes = 0;
        if (d->device_get(&device, i) != 0)
            continue;
        (void)d->device_name(name, sizeof name, device);
        (void)d->device_memory(&bytes, device);
        printf("cuda:%d  %s, compute capability %d.%d, %d processors, %.1f GiB, %.0f GB/s nominal\n", i, name,
               attribute(d, CUDA_ATTRIBUTE_MAJOR, device), attribute(d, CUDA_ATTRIBUTE_MINOR, device),
               attribute(d, CUDA_ATTRIBUTE_PROCESSORS, device), (double)bytes / (1 << 30), nominal(d, device));
    }
    if (count == 0)
        fprintf(stderr, "the driver shows no device\n");
    return count ? 0 : 77;
}

static int hold_device(void) {
    struct cuda_device *d;
    if (cuda_device_open("cuda", &d) < 0) {
        fprintf(stderr, "%s\n", cuda_why());
        return 77;
    }
    while (getchar() != EOF)
        ;
    cuda_device_close(d);
    return 0;
}

/* ---------- measuring ---------- */

double bench_time(const char *name, void (*queue)(void *data), void *data) {
    unsigned count = 1;
    queue(data); /* whatever is done once */
    bench_must(bench.streams->wait(bench.backend, bench.stream), name);
    for (;; count *= 4) {
        double start = seconds();
        for (unsigned i = 0; i < count; i++)
            queue(data);
        bench_must(bench.streams->wait(bench.backend, bench.stream), name);
        double took = seconds() - start;
        if (took > (bench.is_short ? 0.001 : 0.2) || count > 100000)
            return took / count;
    }
}

static void print_share(double speed, double of) {
    if (of > 0)
        printf(" %.0f %% |", 100 * speed / of);
    else
        printf(" - |");
}

void bench_row(const char *name, const char *shape, double bytes, double took) {
    printf("| %s | %s | %.2f | %.1f | %.1f |", name, shape, bytes / 1e6, took * 1e6, bytes / took / 1e9);
    print_share(bytes / took, bench.copy_speed);
    print_share(bytes / took, bench.nominal_speed);
    printf("\n");
    fflush(stdout);
}

static void measure(const char *name, const char *shape, double bytes, void (*queue)(void *data), void *data) {
    bench_row(name, shape, bytes, bench_time(name, queue, data));
}

void *bench_memory_new(size_t bytes) {
    void *memory;
    bench_must(bench.streams->memory_new(bench.backend, KERNEL_MEMORY_DEVICE, bytes, &memory), "memory");
    bench_must(bench.streams->fill_zero(bench.backend, memory, bytes, bench.stream), "memory");
    return memory;
}

void bench_memory_free(void *memory) {
    bench_must(bench.streams->wait(bench.backend, bench.stream), "memory");
    bench.streams->memory_free(bench.backend, KERNEL_MEMORY_DEVICE, memory);
}

/* ---------- what was measured on ---------- */

/* The release of the driver's package, where the kernel says it. */
static void driver_release(char *ret, size_t bytes) {
    FILE *f = fopen("/sys/module/nvidia/version", "re");
    if (!f || !fgets(ret, (int)bytes, f))
        snprintf(ret, bytes, "of unknown release");
    ret[strcspn(ret, "\n")] = 0;
    if (f)
        fclose(f);
}

static void print_head(void) {
    int version = 0;
    char release[64], day[16];
    time_t now = time(NULL);
    const struct cuda_driver *d;
    bench_must(cuda_driver_load(&d), "driver");
    (void)d->driver_version(&version);
    driver_release(release, sizeof release);
    strftime(day, sizeof day, "%Y-%m-%d", gmtime(&now));
    printf("%s, driver %s (CUDA %d.%d), %s. Copying reads and writes %.0f GB/s", bench.backend->path, release,
           version / 1000, version % 1000 / 10, day, bench.copy_speed / 1e9);
    if (bench.nominal_speed > 0)
        printf(", %.0f %% of %.0f GB/s nominal", 100 * bench.copy_speed / bench.nominal_speed,
               bench.nominal_speed / 1e9);
    printf(".\n\n| operation | shape | MB | µs | GB/s | of the copy | of nominal |\n|---|---|---|---|---|---|---|\n");
}

/* ---------- memory ---------- */

struct blocks {
    char *to, *from;
    size_t bytes, turn;
};

static void queue_copy(void *data) {
    const struct blocks *b = data;
    bench_must(bench.streams->transfer(bench.backend, b->to, b->from, b->bytes, bench.stream), "copy");
}

static void queue_zero(void *data) {
    const struct blocks *b = data;
    bench_must(bench.streams->fill_zero(bench.backend, b->to, b->bytes, bench.stream), "fill");
}

/* As the daemon gets its memory: allocated, zeroed by a kernel, waited for; and given back. */
static void renew_segment(void *data) {
    const struct blocks *b = data;
    struct kernel_segment *segment;
    bench_must(bench.backend->segment_new(bench.backend, KERNEL_ACCESS_FRESH, b->bytes, &segment), "segment");
    bench.backend->segment_free(bench.backend, segment);
}

/* Pages of 64 rows of 128 channels of f16, all over the blocks in turn. */
static void queue_pages(void *data) {
    struct blocks *b = data;
    struct kernel_page_move moves[BENCH_PAGES];
    for (size_t i = 0; i < BENCH_PAGES; i++) {
        size_t at = b->turn++ * BENCH_PAGE_BYTES % b->bytes;
        moves[i] = (struct kernel_page_move){b->to + at, b->from + at, BENCH_PAGE_BYTES};
    }
    bench_must(bench.backend->move_pages(bench.backend, moves, BENCH_PAGES), "move_pages");
}

static void print_memory(void) {
    struct blocks b = {.bytes = (size_t)(bench.is_short ? 2 : 512) << 20};
    double bytes = (double)b.bytes;
    char shape[64];
    b.to = bench_memory_new(b.bytes);
    b.from = bench_memory_new(b.bytes);
    snprintf(shape, sizeof shape, "%zu MiB", b.bytes >> 20);
    double took = bench_time("copy", queue_copy, &b);
    bench.copy_speed = 2 * bytes / took;
    print_head();
    bench_row("copy, by the driver", shape, 2 * bytes, took);
    measure("zero, by the driver", shape, bytes, queue_zero, &b);
    measure("move_pages", "64 pages of 32 KiB", 2.0 * BENCH_PAGES * BENCH_PAGE_BYTES, queue_pages, &b);
    bench_memory_free(b.to);
    bench_memory_free(b.from);
    measure("segment: new, zeroed, freed", shape, bytes, renew_segment, &b);
}

/* ---------- rows on the move ---------- */

/* Heads of all layers of some sessions: a fresh buffer and pages each. */
struct heads {
    uint32_t count, pages; /* of a head */
    char *memory, *rows;   /* rows: what is appended */
    void **page_list;
    struct kernel_move *settle_moves, *shrink_moves;
    struct kernel_settle *settle;
    struct kernel_shrink *shrink;
    struct kernel_append *append;
    struct kernel_norms *norms;
    float *norm; /* [count][FRESH_ROWS] */
};

/* Fresh rows into slots all over the pages; rows of the last page over slots of the others. */
static void heads_moves(struct heads *h) {
    uint32_t slots = h->pages * SCISSOR_PAGE_ROWS;
    h->settle_moves = bench_need(calloc(FRESH_ROWS, sizeof *h->settle_moves));
    h->shrink_moves = bench_need(calloc(FRESH_ROWS, sizeof *h->shrink_moves));
    for (uint32_t i = 0; i < FRESH_ROWS; i++) {
        h->settle_moves[i] = (struct kernel_move){i, i * (slots / FRESH_ROWS)};
        h->shrink_moves[i] = (struct kernel_move){slots - 1 - i, i * ((slots - SCISSOR_PAGE_ROWS) / FRESH_ROWS)};
    }
}

static struct heads heads_new(uint32_t count, uint32_t pages) {
    struct heads h = {.count = count, .pages = pages};
    size_t page = layout_page_bytes(KERNEL_F16, HEAD_DIM), fresh = layout_area_bytes(2, FRESH_ROWS, HEAD_DIM);
    h.memory = bench_memory_new(count * (fresh + pages * page));
    h.rows = bench_memory_new((size_t)2 * FRESH_ROWS * count * HEAD_DIM * 2);
    h.page_list = bench_need(calloc((size_t)count * pages, sizeof *h.page_list));
    h.settle = bench_need(calloc(count, sizeof *h.settle));
    h.shrink = bench_need(calloc(count, sizeof *h.shrink));
    h.append = bench_need(calloc(count, sizeof *h.append));
    h.norms = bench_need(calloc(count, sizeof *h.norms));
    h.norm = bench_need(calloc((size_t)count * FRESH_ROWS, sizeof *h.norm));
    heads_moves(&h);
    for (uint32_t i = 0; i < count; i++) {
        char *mine = h.memory + i * (fresh + pages * page), *k = h.rows + (size_t)i * HEAD_DIM * 2;
        void **list = h.page_list + (size_t)i * pages;
        for (uint32_t p = 0; p < pages; p++)
            list[p] = mine + fresh + p * page;
        h.settle[i] = (struct kernel_settle){mine,       list,     h.settle_moves, NULL,      FRESH_ROWS,
                                             FRESH_ROWS, HEAD_DIM, KERNEL_F16,     KERNEL_F16};
        h.shrink[i] = (struct kernel_shrink){.pages = list,
                                             .moves = h.shrink_moves,
                                             .move_count = FRESH_ROWS,
                                             .head_dim = HEAD_DIM,
                                             .storage_dtype = KERNEL_F16};
        h.norms[i] =
            (struct kernel_norms){mine, 0, FRESH_ROWS, FRESH_ROWS, HEAD_DIM, KERNEL_F16, h.norm + i * FRESH_ROWS};
        h.append[i] = (struct kernel_append){.fresh = mine,
                                             .k = k,
                                             .v = k + (size_t)FRESH_ROWS * count * HEAD_DIM * 2,
                                             .stride = (size_t)count * HEAD_DIM,
                                             .fresh_rows = FRESH_ROWS,
                                             .rows = FRESH_ROWS,
                                             .head_dim = HEAD_DIM,
                                             .compute_dtype = KERNEL_F16,
                                             .input_dtype = KERNEL_F16};
    }
    return h;
}

static void heads_free(struct heads *h) {
    bench_memory_free(h->memory);
    bench_memory_free(h->rows);
    free(h->page_list);
    free(h->settle_moves);
    free(h->shrink_moves);
    free(h->settle);
    free(h->shrink);
    free(h->append);
    free(h->norms);
    free(h->norm);
}

/* Sessions whose rows are moved in turn. */
struct sets {
    struct heads heads[SETS];
    unsigned turn;
};

static struct heads *next_heads(void *data) {
    struct sets *s = data;
    return &s->heads[s->turn++ % SETS];
}

static void queue_append(void *data) {
    const struct heads *h = next_heads(data);
    bench_must(bench.streams->append(bench.backend, h->append, h->count, bench.stream), "append");
}

static void queue_settle(void *data) {
    const struct heads *h = next_heads(data);
    bench_must(bench.backend->settle(bench.backend, h->settle, h->count), "settle");
}

static void queue_shrink(void *data) {
    const struct heads *h = next_heads(data);
    bench_must(bench.backend->shrink(bench.backend, h->shrink, h->count), "shrink");
}

/* The one that is waited for each time. */
static void queue_norms(void *data) {
    const struct heads *h = next_heads(data);
    bench_must(bench.backend->v_norms(bench.backend, h->norms, h->count), "v_norms");
}

static void print_rows(void) {
    struct sets s = {.turn = 0};
    uint32_t count = bench.is_short ? 4 : 256;
    double bytes = (double)count * FRESH_ROWS * HEAD_DIM * 2 * 2 * 2; /* K and V, read and written, of two bytes */
    char shape[64];
    for (unsigned i = 0; i < SETS; i++)
        s.heads[i] = heads_new(count, bench.is_short ? 3 : 13);
    snprintf(shape, sizeof shape, "%u heads, %u rows, d %u, f16", count, FRESH_ROWS, HEAD_DIM);
    measure("append", shape, bytes, queue_append, &s);
    measure("settle", shape, bytes, queue_settle, &s);
    measure("shrink", shape, bytes, queue_shrink, &s);
    measure("v_norms, waited for", shape, bytes / 4, queue_norms, &s);
    for (unsigned i = 0; i < SETS; i++)
        heads_free(&s.heads[i]);
}

/* ---------- the program ---------- */

static int print_table(void) {
    char why[256] = "";
    struct cuda_device *d;
    if (cuda_device_open("cuda", &d) < 0) {
        fprintf(stderr, "%s\n", cuda_why());
        return 77;
    }
    bench.nominal_speed = nominal(d->driver, d->ordinal) * 1e9;
    cuda_device_close(d);
    bench.backend = kernel_backend_open("cuda", why, sizeof why);
    if (!bench.backend) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    bench.streams = bench.backend->streams;
    bench.stream = bench.streams->own(bench.backend);
    if (bench.is_short)
        printf("Short: these times mean nothing.\n\n");
    print_memory();
    print_rows();
    bench_attention();
    kernel_backend_close(bench.backend);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "devices"))
        return print_devices();
    if (argc == 2 && !strcmp(argv[1], "hold"))
        return hold_device();
    bench.is_short = argc == 2 && !strcmp(argv[1], "--short");
    if (argc > 1 && !bench.is_short) {
        fprintf(stderr, "usage: bench [devices | hold | --short]\n");
        return 2;
    }
    return print_table();
}
