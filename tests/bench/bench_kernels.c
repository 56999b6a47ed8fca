/* bench_kernels.c - how near the host kernels come to what memory gives, and what a prefill and a settle cost.
 *
 * Decode: one layer of 32 query heads over 8 KV heads, head_dim 128, 4,096 rows (64 of them fresh), caches cold: layers
 * are taken in turn from a pool several times the size of the last-level cache. The measure is a plain streaming read
 * of as many bytes from the same pool, taken in turn with the kernels, so that a noisy machine slows both. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backend.h"

enum {
    HEAD_DIM = 128,
    KV_HEADS = 8,
    GROUP = 4,
    FRESH = 64,
    SETTLED = 4096 - FRESH,
    PAGES = SETTLED / SCISSOR_PAGE_ROWS,
    POOL_SEGMENTS = 256, /* 512 MiB */
    ROUNDS = 24,
};

static const char *const path_names[] = {"reference", "avx2", "avx512", "avx512vnni"};
#define PATHS (sizeof path_names / sizeof *path_names)
static char *pool[POOL_SEGMENTS];
static struct kernel_segment *segments[POOL_SEGMENTS];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, compare_doubles);
    return values[count / 2];
}

/* Small values of any dtype, no NaN. */
static void fill(uint32_t dtype, char *memory, size_t bytes) {
    size_t count = bytes / kernel_dtype_size(dtype);
    for (size_t i = 0; i < count; i++)
        kernel_store(dtype, memory, i, (float)(i * 2654435761u % 1024) / 1024 - 0.5f);
}

typedef uint64_t line __attribute__((vector_size(64)));

static uint64_t read_bytes(const char *memory, size_t bytes) {
    const line *from = (const line *)memory;
    line sum = {0}, other = {0};
    for (size_t i = 0; i < bytes / sizeof(line); i += 2) {
        sum ^= from[i];
        other ^= from[i + 1];
    }
    sum ^= other;
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

/* ---------- decode ---------- */

/* One layer whose pages lie one after the other from `first` on. */
struct layer {
    struct kernel_attend items[KV_HEADS];
    const void *pages[KV_HEADS][PAGES];
};

/* Fresh rows beside quantised ones are f16. */
static uint32_t compute_of(uint32_t dtype) {
    return dtype < KERNEL_ELEMENT_DTYPES ? dtype : KERNEL_F16;
}

static size_t fresh_bytes(uint32_t dtype) {
    return layout_area_bytes((uint32_t)kernel_dtype_size(compute_of(dtype)), FRESH, HEAD_DIM);
}

static size_t segments_of_layer(uint32_t dtype) {
    uint32_t pages = layout_pages_per_segment(dtype, HEAD_DIM);
    uint32_t buffers = (uint32_t)(SCISSOR_SEGMENT_BYTES / fresh_bytes(dtype));
    return (KV_HEADS * PAGES + pages - 1) / pages + (KV_HEADS + buffers - 1) / buffers;
}

static double layer_bytes(uint32_t dtype) {
    return KV_HEADS * ((double)PAGES * (double)layout_page_bytes(dtype, HEAD_DIM) + (double)fresh_bytes(dtype));
}

/* Every fourth row of a head has a detail slot, anywhere: the factor and the number of rows have no common divisor. */
static void give_details(const struct layer *layer, uint32_t head) {
    for (uint32_t i = 0; i < PAGES * LAYOUT_PAGE_DETAILS; i++) {
        char *page = (char *)layer->pages[head][i / LAYOUT_PAGE_DETAILS];
        uint32_t *owners = (uint32_t *)(page + layout_detail_owner_offset(KERNEL_FADE, HEAD_DIM));
        owners[i % LAYOUT_PAGE_DETAILS] = 1 + i * 2657 % SETTLED;
    }
}

static void layer_init(struct layer *layer, uint32_t dtype, size_t first, const float *q, float *out, float *mass) {
    uint32_t per_segment = layout_pages_per_segment(dtype, HEAD_DIM), n = 0;
    uint32_t buffers = (uint32_t)(SCISSOR_SEGMENT_BYTES / fresh_bytes(dtype));
    size_t fresh = first + (KV_HEADS * PAGES + per_segment - 1) / per_segment;
    for (uint32_t h = 0; h < KV_HEADS; h++) {
        for (uint32_t p = 0; p < PAGES; p++, n++)
            layer->pages[h][p] = pool[first + n / per_segment] + n % per_segment * layout_page_bytes(dtype, HEAD_DIM);
        if (layout_has_details(dtype))
            give_details(layer, h);
        layer->items[h] = (struct kernel_attend){
            .pages = layer->pages[h],
            .settled_rows = SETTLED,
            .detail_pages = layout_has_details(dtype) ? PAGES : 0,
            .fresh = pool[fresh + h / buffers] + h % buffers * fresh_bytes(dtype),
            .fresh_rows = FRESH,
            .fresh_before = FRESH - 1,
            .rows = 1,
            .q_heads = GROUP,
            .head_dim = HEAD_DIM,
            .compute_dtype = (uint8_t)compute_of(dtype),
            .storage_dtype = (uint8_t)dtype,
            .scale = 0.088f,
            .q = q + h * GROUP * HEAD_DIM,
            .out = out + h * GROUP * HEAD_DIM,
            .q_row_stride = KV_HEADS * GROUP * HEAD_DIM,
            .mass = mass + h * (SETTLED + FRESH),
        };
    }
}

static volatile uint64_t keep; /* so that the reads are not optimised away */

static void bench_decode(uint32_t dtype, void *workspace) {
    static float q[KV_HEADS * GROUP * HEAD_DIM], out[KV_HEADS * GROUP * HEAD_DIM], mass[KV_HEADS * (SETTLED + FRESH)];
    static struct layer layer;
    double seconds[PATHS + 1][ROUNDS]; /* the paths, then the plain read */
    size_t per_layer = segments_of_layer(dtype), next = 0;
    double bytes = layer_bytes(dtype);

    for (size_t i = 0; i < POOL_SEGMENTS; i++)
        fill(compute_of(dtype), pool[i], SCISSOR_SEGMENT_BYTES);
    fill(KERNEL_F32, (char *)q, sizeof q);
    for (int round = 0; round < ROUNDS; round++)
        for (size_t p = 0; p <= PATHS; p++) {
            if (next + per_layer > POOL_SEGMENTS)
                next = 0;
            struct kernel_backend *b = p < PATHS ? kernel_host_backend(path_names[p]) : NULL;
            seconds[p][round] = 0;
            if (p < PATHS && (!b || (p == 0 && round % 8))) { /* the reference is slow: three rounds of it */
                seconds[p][round] = round ? seconds[p][round - 1] : 0;
                continue;
            }
            layer_init(&layer, dtype, next, q, out, mass);
            double start = now();
            if (b)
                b->attend(b, layer.items, KV_HEADS, workspace);
            else
                for (size_t left = (size_t)bytes, i = next; left; i++) {
                    size_t part = left < SCISSOR_SEGMENT_BYTES ? left : SCISSOR_SEGMENT_BYTES;
                    keep ^= read_bytes(pool[i], part);
                    left -= part;
                }
            seconds[p][round] = now() - start;
            next += per_layer;
        }
    double plain = median(seconds[PATHS], ROUNDS);
    for (size_t p = 0; p < PATHS; p++) {
        double t = median(seconds[p], ROUNDS);
        if (t > 0)
            printf("  %-5s %-10s %8.2f ms %8.2f GB/s   plain read %6.2f GB/s   %5.1f %% of it\n",
                   kernel_dtype_name(dtype), path_names[p], 1e3 * t, bytes / t * 1e-9, bytes / plain * 1e-9,
                   100 * plain / t);
    }
}

/* How much less time quantised rows take than f16 ones, in turn on the same path. What the codes are does not matter:
 * the pool holds small f16 values, which as scales and offsets are as good as any. */
static void bench_quantised(void *workspace) {
    static const uint32_t dtypes[] = {KERNEL_F16, KERNEL_INT8, KERNEL_K5V4, KERNEL_INT4, KERNEL_FADE};
    enum { COUNT = sizeof dtypes / sizeof *dtypes };
    static float q[KV_HEADS * GROUP * HEAD_DIM], out[KV_HEADS * GROUP * HEAD_DIM], mass[KV_HEADS * (SETTLED + FRESH)];
    static struct layer layer;
    for (size_t i = 0; i < POOL_SEGMENTS; i++)
        fill(KERNEL_F16, pool[i], SCISSOR_SEGMENT_BYTES);
    fill(KERNEL_F32, (char *)q, sizeof q);
    for (size_t p = 1; p < PATHS; p++) {
        struct kernel_backend *b = kernel_host_backend(path_names[p]);
        double seconds[COUNT][ROUNDS];
        size_t next = 0;
        if (!b)
            continue;
        for (int round = 0; round < ROUNDS; round++)
            for (size_t t = 0; t < COUNT; t++) {
                if (next + segments_of_layer(dtypes[t]) > POOL_SEGMENTS)
                    next = 0;
                layer_init(&layer, dtypes[t], next, q, out, mass);
                next += segments_of_layer(dtypes[t]);
                double start = now();
                b->attend(b, layer.items, KV_HEADS, workspace);
                seconds[t][round] = now() - start;
            }
        double plain = median(seconds[0], ROUNDS);
        for (size_t t = 1; t < COUNT; t++)
            printf("  %-5s %-10s %5.2f times as fast as f16, with %4.1f %% of its bytes\n",
                   kernel_dtype_name(dtypes[t]), path_names[p], plain / median(seconds[t], ROUNDS),
                   100 * layer_bytes(dtypes[t]) / layer_bytes(KERNEL_F16));
    }
}

/* ---------- prefill, settle ---------- */

/* 64 query rows over 768 settled and 64 fresh rows, one KV head with 3 query heads of 64 channels (SmolLM2-135M). */
static void bench_prefill(uint32_t dtype, void *workspace) {
    enum { D = 64, HEADS = 3, ROWS = 64, OLD = 768 };
    static float q[ROWS * HEADS * D], out[ROWS * HEADS * D], mass[OLD + ROWS];
    const void *pages[OLD / SCISSOR_PAGE_ROWS];
    size_t page = layout_page_bytes(dtype, D);
    for (size_t i = 0; i < OLD / SCISSOR_PAGE_ROWS; i++)
        pages[i] = pool[0] + i * page;
    fill(KERNEL_F32, (char *)q, sizeof q);
    struct kernel_attend item = {
        .pages = pages,
        .settled_rows = OLD,
        .fresh = pool[1],
        .fresh_rows = ROWS,
        .rows = ROWS,
        .q_heads = HEADS,
        .head_dim = D,
        .compute_dtype = (uint8_t)compute_of(dtype),
        .storage_dtype = (uint8_t)dtype,
        .scale = 0.125f,
        .q = q,
        .out = out,
        .q_row_stride = HEADS * D,
        .mass = mass,
    };
    double work = 4.0 * D * HEADS * ROWS * (OLD + (ROWS + 1) / 2.0); /* operations */
    for (size_t p = 0; p < PATHS; p++) {
        struct kernel_backend *b = kernel_host_backend(path_names[p]);
        double seconds[9];
        for (size_t i = 0; b && i < 9; i++) {
            double start = now();
            b->attend(b, &item, 1, workspace);
            seconds[i] = now() - start;
        }
        if (b)
            printf("  %-5s %-10s %8.3f ms %8.2f GFLOP/s\n", kernel_dtype_name(dtype), path_names[p],
                   1e3 * median(seconds, 9), work / median(seconds, 9) * 1e-9);
    }
}

/* 64 fresh f32 rows of 128 channels into scattered f16 slots. */
static void bench_settle(void) {
    void *pages[PAGES];
    struct kernel_move moves[FRESH];
    for (size_t i = 0; i < PAGES; i++)
        pages[i] = pool[2 + i / 32] + i % 32 * layout_page_bytes(KERNEL_F16, HEAD_DIM);
    for (uint32_t i = 0; i < FRESH; i++)
        moves[i] = (struct kernel_move){i, i * 2654435761u % SETTLED};
    struct kernel_settle head = {.fresh = pool[0],
                                 .pages = pages,
                                 .moves = moves,
                                 .move_count = FRESH,
                                 .fresh_rows = FRESH,
                                 .head_dim = HEAD_DIM,
                                 .compute_dtype = KERNEL_F32,
                                 .storage_dtype = KERNEL_F16};
    for (size_t p = 0; p < PATHS; p++) {
        struct kernel_backend *b = kernel_host_backend(path_names[p]);
        double seconds[9];
        for (size_t i = 0; b && i < 9; i++) {
            double start = now();
            b->settle(b, &head, 1);
            seconds[i] = now() - start;
        }
        if (b)
            printf("  %-16s %8.1f us\n", path_names[p], 1e6 * median(seconds, 9));
    }
}

int main(void) {
    struct kernel_backend *b = kernel_host_backend("reference");
    void *workspace = NULL;

    if (posix_memalign(&workspace, 64, kernel_attend_workspace(GROUP, HEAD_DIM, SETTLED + FRESH)))
        return 1;
    for (size_t i = 0; i < POOL_SEGMENTS; i++) {
        if (b->segment_new(b, KERNEL_ACCESS_FRESH, SCISSOR_SEGMENT_BYTES, &segments[i]) < 0)
            return 1;
        pool[i] = b->segment_address(segments[i]);
    }
    printf(
        "kernels: decode, one layer, 32 query heads over 8 KV heads, head_dim 128, 4096 rows, cold caches, 1 thread\n");
    for (uint32_t dtype = 0; dtype < KERNEL_DTYPE_COUNT; dtype++)
        bench_decode(dtype, workspace);
    printf("kernels: the same in turn, quantised settled rows against f16\n");
    bench_quantised(workspace);
    printf("kernels: prefill, 64 query rows over 832 rows, 3 query heads over 1 KV head, head_dim 64\n");
    for (uint32_t dtype = 0; dtype < KERNEL_DTYPE_COUNT; dtype++)
        bench_prefill(dtype, workspace);
    printf("kernels: settle, 64 rows of one head, f32 to f16, head_dim 128, scattered slots\n");
    bench_settle();
    for (size_t i = 0; i < POOL_SEGMENTS; i++)
        b->segment_free(b, segments[i]);
    free(workspace);
    return 0;
}
