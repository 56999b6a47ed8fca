/* bench.c - lists the devices of this machine, and measures the backend's operations on one of them: a Markdown table
 * of times, of the bytes that an operation cannot do without, and of their share of what memory can do.
 *
 *   bench devices    one line for each; exit status 77 and the reason if there is none that this program has code for
 *   bench [--short]  the table; --short: sizes that only show that it works
 *
 * Each operation goes through struct kernel_backend, as in the daemon and in a client, and is queued again and again
 * for a while, so that the time of one is that of the device or that of queueing, whichever is longer. Of a copy both
 * what is read and what is written are counted. The bytes of attention are those of K and V once, of the queries, the
 * outputs and the score planes: what one pass needs, whatever a kernel loads. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend.h"
#include "cuda/cuda_backend.h"
#include "cuda/device.h"
#include "cuda/image.h"

#define ATTRIBUTE_PROCESSORS 16u
#define ATTRIBUTE_MEMORY_CLOCK 36u /* kHz */
#define ATTRIBUTE_BUS_WIDTH 37u    /* bits */

#define HEAD_DIM 128u
#define FRESH_ROWS 64u

static struct kernel_backend *backend;
static const struct kernel_streams *streams;
static void *stream;
static bool is_short;

static void must(int r, const char *what) {
    if (r == 0)
        return;
    fprintf(stderr, "bench: %s: %s\n", what, kernel_backend_why());
    exit(1);
}

static void *need(void *memory) {
    if (!memory)
        must(-ENOMEM, "no host memory");
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
    return 2.0 * attribute(d, ATTRIBUTE_MEMORY_CLOCK, device) * 1e3 * attribute(d, ATTRIBUTE_BUS_WIDTH, device) / 8 /
           1e9;
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
               attribute(d, ATTRIBUTE_PROCESSORS, device), (double)bytes / (1 << 30), nominal(d, device));
    }
    return count ? 0 : 77;
}

/* ---------- measuring ---------- */

static double copy_speed, nominal_speed; /* bytes a second; 0: not known */

static void print_share(double speed, double of) {
    if (of > 0)
        printf(" %.0f %% |", 100 * speed / of);
    else
        printf(" - |");
}

/* Queues an operation for a while; bytes a second. `bytes` are those of one. */
static double measure(const char *name, const char *shape, double bytes, void (*queue)(void *data), void *data) {
    unsigned count = 1;
    double start, took;
    queue(data); /* whatever is done once */
    must(streams->wait(backend, stream), name);
    for (;; count *= 4) {
        start = seconds();
        for (unsigned i = 0; i < count; i++)
            queue(data);
        must(streams->wait(backend, stream), name);
        took = seconds() - start;
        if (took > (is_short ? 0.001 : 0.2) || count > 100000)
            break;
    }
    double speed = bytes * count / took;
    printf("| %s | %s | %.2f | %.1f | %.1f |", name, shape, bytes / 1e6, took / count * 1e6, speed / 1e9);
    print_share(speed, copy_speed > 0 ? copy_speed : speed);
    print_share(speed, nominal_speed);
    printf("\n");
    fflush(stdout);
    return speed;
}

static void *memory_new(size_t bytes) {
    void *memory;
    must(streams->memory_new(backend, KERNEL_MEMORY_DEVICE, bytes, &memory), "memory");
    must(streams->fill_zero(backend, memory, bytes, stream), "memory");
    return memory;
}

static void memory_free(void *memory) {
    must(streams->wait(backend, stream), "memory");
    streams->memory_free(backend, KERNEL_MEMORY_DEVICE, memory);
}

/* ---------- memory ---------- */

struct blocks {
    char *to, *from;
    size_t bytes;
};

static void queue_copy(void *data) {
    const struct blocks *b = data;
    must(backend->copy(backend, b->to, b->from, b->bytes), "copy");
}

static void queue_zero(void *data) {
    const struct blocks *b = data;
    must(streams->fill_zero(backend, b->to, b->bytes, stream), "fill");
}

static void bench_memory(void) {
    struct blocks b = {.bytes = (size_t)(is_short ? 2 : 512) << 20};
    char shape[64];
    b.to = memory_new(b.bytes);
    b.from = memory_new(b.bytes);
    snprintf(shape, sizeof shape, "%zu MiB", b.bytes >> 20);
    copy_speed = measure("copy (by the driver)", shape, 2.0 * (double)b.bytes, queue_copy, &b);
    measure("zero (by the driver)", shape, (double)b.bytes, queue_zero, &b);
    memory_free(b.to);
    memory_free(b.from);
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
    h->settle_moves = need(calloc(FRESH_ROWS, sizeof *h->settle_moves));
    h->shrink_moves = need(calloc(FRESH_ROWS, sizeof *h->shrink_moves));
    for (uint32_t i = 0; i < FRESH_ROWS; i++) {
        h->settle_moves[i] = (struct kernel_move){i, i * (slots / FRESH_ROWS)};
        h->shrink_moves[i] = (struct kernel_move){slots - 1 - i, i * ((slots - SCISSOR_PAGE_ROWS) / FRESH_ROWS)};
    }
}

static struct heads heads_new(uint32_t count, uint32_t pages) {
    struct heads h = {.count = count, .pages = pages};
    size_t page = layout_page_bytes(KERNEL_F16, HEAD_DIM), fresh = layout_area_bytes(2, FRESH_ROWS, HEAD_DIM);
    h.memory = memory_new(count * (fresh + pages * page));
    h.rows = memory_new((size_t)2 * FRESH_ROWS * count * HEAD_DIM * 2);
    h.page_list = need(calloc((size_t)count * pages, sizeof *h.page_list));
    h.settle = need(calloc(count, sizeof *h.settle));
    h.shrink = need(calloc(count, sizeof *h.shrink));
    h.append = need(calloc(count, sizeof *h.append));
    h.norms = need(calloc(count, sizeof *h.norms));
    h.norm = need(calloc((size_t)count * FRESH_ROWS, sizeof *h.norm));
    heads_moves(&h);
    for (uint32_t i = 0; i < count; i++) {
        char *mine = h.memory + i * (fresh + pages * page), *k = h.rows + (size_t)i * HEAD_DIM * 2;
        void **list = h.page_list + (size_t)i * pages;
        for (uint32_t p = 0; p < pages; p++)
            list[p] = mine + fresh + p * page;
        h.settle[i] = (struct kernel_settle){mine,       list,     h.settle_moves, FRESH_ROWS,
                                             FRESH_ROWS, HEAD_DIM, KERNEL_F16,     KERNEL_F16};
        h.shrink[i] = (struct kernel_shrink){list, h.shrink_moves, FRESH_ROWS, HEAD_DIM, KERNEL_F16};
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
    memory_free(h->memory);
    memory_free(h->rows);
    free(h->page_list);
    free(h->settle_moves);
    free(h->shrink_moves);
    free(h->settle);
    free(h->shrink);
    free(h->append);
    free(h->norms);
    free(h->norm);
}

static void queue_append(void *data) {
    const struct heads *h = data;
    must(streams->append(backend, h->append, h->count, stream), "append");
}

static void queue_settle(void *data) {
    const struct heads *h = data;
    must(backend->settle(backend, h->settle, h->count), "settle");
}

static void queue_shrink(void *data) {
    const struct heads *h = data;
    must(backend->shrink(backend, h->shrink, h->count), "shrink");
}

/* The one that is waited for each time. */
static void queue_norms(void *data) {
    const struct heads *h = data;
    must(backend->v_norms(backend, h->norms, h->count), "v_norms");
}

static void bench_rows(void) {
    struct heads h = heads_new(is_short ? 4 : 256, is_short ? 3 : 13);
    double bytes = (double)h.count * FRESH_ROWS * HEAD_DIM * 2 * 2 * 2; /* K and V, read and written, of two bytes */
    char shape[64];
    snprintf(shape, sizeof shape, "%u heads, %u rows, d %u, f16", h.count, FRESH_ROWS, HEAD_DIM);
    measure("append", shape, bytes, queue_append, &h);
    measure("settle", shape, bytes, queue_settle, &h);
    measure("shrink", shape, bytes, queue_shrink, &h);
    measure("v_norms, waited for", shape, bytes / 4, queue_norms, &h);
    heads_free(&h);
}

/* ---------- attention ---------- */

struct attention {
    uint32_t items, settled, rows, group;
    uint8_t dtype;
    bool planes;
    char *pages, *fresh, *vectors; /* vectors: q, out and planes */
    void **page_list;
    struct kernel_attend *item;
    void *workspace;
};

static size_t attention_vectors(const struct attention *a) {
    return (size_t)a->rows * a->group * HEAD_DIM;
}

static void attention_items(struct attention *a) {
    size_t page = layout_page_bytes(a->dtype, HEAD_DIM), list = layout_pages_of_rows(a->settled);
    size_t fresh_rows = (a->rows + 15) / 16 * 16;
    size_t fresh = layout_area_bytes((uint32_t)kernel_dtype_size(a->dtype), (uint32_t)fresh_rows, HEAD_DIM);
    size_t q = attention_vectors(a), visible = (a->settled + a->rows + 3) / 4 * 4, each = 2 * q + 3 * visible;
    a->pages = memory_new(a->items * list * page);
    a->fresh = memory_new(a->items * fresh);
    a->vectors = memory_new(a->items * each * sizeof(float));
    a->page_list = need(calloc(a->items * list, sizeof *a->page_list));
    a->item = need(calloc(a->items, sizeof *a->item));
    for (uint32_t i = 0; i < a->items; i++) {
        float *at = (float *)a->vectors + i * each;
        for (size_t p = 0; p < list; p++)
            a->page_list[i * list + p] = a->pages + (i * list + p) * page;
        a->item[i] = (struct kernel_attend){.pages = (const void *const *)a->page_list + i * list,
                                            .settled_rows = a->settled,
                                            .fresh = a->fresh + i * fresh,
                                            .fresh_rows = (uint32_t)fresh_rows,
                                            .rows = a->rows,
                                            .q_heads = a->group,
                                            .head_dim = HEAD_DIM,
                                            .compute_dtype = a->dtype,
                                            .storage_dtype = a->dtype,
                                            .scale = 0.1f,
                                            .q = at,
                                            .out = at + q,
                                            .q_row_stride = (size_t)a->group * HEAD_DIM,
                                            .mass = a->planes ? at + 2 * q : NULL,
                                            .hits = a->planes ? at + 2 * q + visible : NULL,
                                            .last = a->planes ? at + 2 * q + 2 * visible : NULL};
    }
}

static void queue_attend(void *data) {
    const struct attention *a = data;
    must(streams->attend(backend, a->item, a->items, a->workspace, stream), "attend");
}

static void bench_attention(struct attention a) {
    char shape[96];
    attention_items(&a);
    a.workspace = memory_new(streams->attend_workspace(backend, a.item, a.items));
    double rows = (double)a.settled + a.rows, size = (double)kernel_dtype_size(a.dtype);
    /* Of the planes mass and hits are read, too. */
    double bytes = a.items * (rows * HEAD_DIM * 2 * size + 2.0 * (double)attention_vectors(&a) * 4 +
                              (a.planes ? 5 * rows * 4 : 0));
    snprintf(shape, sizeof shape, "%u items, %u rows, %u query row%s of %u head%s, %s%s", a.items, a.settled, a.rows,
             a.rows == 1 ? "" : "s", a.group, a.group == 1 ? "" : "s",
             a.dtype == KERNEL_F32   ? "f32"
             : a.dtype == KERNEL_F16 ? "f16"
                                     : "bf16",
             a.planes ? ", scores" : "");
    measure(a.rows == 1 ? "attend (decode)" : "attend (prefill)", shape, bytes, queue_attend, &a);
    memory_free(a.workspace);
    memory_free(a.pages);
    memory_free(a.fresh);
    memory_free(a.vectors);
    free(a.page_list);
    free(a.item);
}

static void bench_attentions(void) {
    static const struct attention all[] = {
        {.items = 256, .settled = 4096, .rows = 1, .group = 1, .dtype = KERNEL_F16},
        {.items = 256, .settled = 4096, .rows = 1, .group = 4, .dtype = KERNEL_F16},
        {.items = 256, .settled = 4096, .rows = 1, .group = 4, .dtype = KERNEL_F16, .planes = true},
        {.items = 256, .settled = 4096, .rows = 1, .group = 8, .dtype = KERNEL_F16, .planes = true},
        {.items = 256, .settled = 4096, .rows = 1, .group = 4, .dtype = KERNEL_BF16, .planes = true},
        {.items = 256, .settled = 4096, .rows = 1, .group = 4, .dtype = KERNEL_F32, .planes = true},
        {.items = 8, .settled = 4096, .rows = 1, .group = 4, .dtype = KERNEL_F16, .planes = true},
        {.items = 8, .settled = 4096, .rows = 512, .group = 4, .dtype = KERNEL_F16, .planes = true},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct attention a = all[i];
        if (is_short) {
            a.items = 2;
            a.settled = 100;
            a.rows = a.rows == 1 ? 1 : 20;
        }
        bench_attention(a);
    }
}

/* ---------- the program ---------- */

static int print_table(void) {
    char why[256] = "";
    struct cuda_device *d;
    if (cuda_device_open("cuda", &d) < 0) {
        fprintf(stderr, "%s\n", cuda_why());
        return 77;
    }
    nominal_speed = nominal(d->driver, d->ordinal) * 1e9;
    cuda_device_close(d);
    backend = kernel_backend_open("cuda", why, sizeof why);
    if (!backend) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    streams = backend->streams;
    stream = streams->own(backend);
    if (is_short)
        printf("Short: these times mean nothing.\n\n");
    printf("%s\n\n| operation | shape | MB | µs | GB/s | of the copy | of nominal |\n|---|---|---|---|---|---|---|\n",
           backend->path);
    bench_memory();
    bench_rows();
    bench_attentions();
    kernel_backend_close(backend);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "devices"))
        return print_devices();
    is_short = argc == 2 && !strcmp(argv[1], "--short");
    if (argc > 1 && !is_short) {
        fprintf(stderr, "usage: bench [devices | --short]\n");
        return 2;
    }
    return print_table();
}
