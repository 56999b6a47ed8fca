/* host.c - the host backend: one static object for each path, checks in front of the arithmetic, and the choice.
 *
 * Which path a processor can run is asked once per call of kernel_host_backend(); the objects are constant after
 * their definition, so any thread may use them. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "../quant.h"
#include "host.h"

struct host_backend {
    struct kernel_backend base; /* first: a struct kernel_backend of ours is one of these */
    host_convert_fn convert;
    host_attend_fn attend;
    bool (*supported)(void);
};

/* Lanes lost in the last blocks of settled and of fresh rows, rounded up. */
#define WORKSPACE_PADDING 32

size_t kernel_attend_workspace(uint32_t q_heads, uint32_t head_dim, size_t visible_rows) {
    (void)q_heads; /* more heads than one tile has are worked on one tile after the other */
    size_t logits = (HOST_TILE_QUERIES + 1) * (visible_rows + WORKSPACE_PADDING); /* and their sum over the heads */
    /* as they are, in another basis, and two figures for each group; and their outputs */
    size_t queries = (size_t)HOST_TILE_QUERIES * (3 * head_dim + 2 * QUANT_MAX_GROUPS);
    return (logits + queries) * sizeof(float); /* the reference's two doubles a row are less */
}

static const struct host_backend *host_of(const struct kernel_backend *b) {
    return (const struct host_backend *)b;
}

static int settle(struct kernel_backend *b, const struct kernel_settle *heads, size_t head_count) {
    return host_settle(host_of(b)->convert, heads, head_count);
}

static int shrink(struct kernel_backend *b, const struct kernel_shrink *heads, size_t head_count) {
    (void)b;
    return host_shrink(heads, head_count);
}

static int v_norms(struct kernel_backend *b, const struct kernel_norms *heads, size_t head_count) {
    return host_v_norms(host_of(b)->convert, heads, head_count);
}

static int move_pages(struct kernel_backend *b, const struct kernel_page_move *moves, size_t count) {
    (void)b;
    if (!kernel_page_moves_apart(moves, count))
        return -EINVAL;
    for (size_t i = 0; i < count; i++)
        memcpy(moves[i].to, moves[i].from, moves[i].bytes);
    return 0;
}

static int append(struct kernel_backend *b, void *fresh, uint32_t fresh_rows, uint32_t first_row, uint32_t rows,
                  uint32_t head_dim, uint8_t compute_dtype, const void *k, const void *v, size_t stride,
                  uint8_t input_dtype) {
    return host_append(host_of(b)->convert, fresh, fresh_rows, first_row, rows, head_dim, compute_dtype, k, v, stride,
                       input_dtype);
}

static int attend_check(const struct kernel_attend *item) {
    if (!kernel_dtype_size(item->compute_dtype) || item->storage_dtype >= KERNEL_DTYPE_COUNT ||
        !host_head_dim_valid(item->head_dim) || !host_fresh_rows_valid(item->fresh_rows))
        return -EINVAL;
    if (item->q_heads == 0 || item->threshold > KERNEL_THRESHOLD_SEEN || (item->settled_rows && !item->pages))
        return -EINVAL;
    if (item->detail_pages && !layout_has_details(item->storage_dtype))
        return -EINVAL;
    if (item->fresh_before > item->fresh_rows || item->rows > item->fresh_rows - item->fresh_before)
        return -EINVAL;
    if (item->rows > 1 && item->q_row_stride < (size_t)item->q_heads * item->head_dim)
        return -EINVAL;
    return 0;
}

static int attend(struct kernel_backend *b, const struct kernel_attend *items, size_t item_count, void *workspace) {
    for (size_t i = 0; i < item_count; i++)
        if (attend_check(&items[i]) < 0)
            return -EINVAL;
    for (size_t i = 0; i < item_count; i++)
        host_of(b)->attend(&items[i], workspace);
    return 0;
}

static int synchronise(struct kernel_backend *b) {
    (void)b; /* everything is done when its call returns */
    return 0;
}

static bool always(void) {
    return true;
}

/* __builtin_cpu_supports also looks at what the operating system saves; clang 14 does not know "f16c" there. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_vnni(void) {
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

#define HOST_BACKEND(path_name)                                                                                       \
    {                                                                                                                 \
        .name = "host", .path = path_name, .device = "host", .storage_dtypes = (1u << KERNEL_DTYPE_COUNT) - 1,        \
        .revocable = true, .segment_new = host_segment_new, .segment_free = host_segment_free,                        \
        .segment_export = host_segment_export, .segment_import = host_segment_import,                                 \
        .segment_address = host_segment_address, .segment_descriptor = host_segment_descriptor,                       \
        .segment_adopt = host_segment_adopt, .segment_leave = host_segment_leave, .settle = settle, .shrink = shrink, \
        .v_norms = v_norms, .move_pages = move_pages, .append = append, .attend = attend, .synchronise = synchronise, \
    }

/* Best first. */
static struct host_backend backends[] = {
    {HOST_BACKEND("avx512vnni"), host_convert_avx2, host_attend_vnni, has_vnni},
    {HOST_BACKEND("avx512"), host_convert_avx2, host_attend_avx512, has_avx512},
    {HOST_BACKEND("avx2"), host_convert_avx2, host_attend_avx2, has_avx2},
    {HOST_BACKEND("reference"), host_convert_reference, host_attend_reference, always},
};

struct kernel_backend *kernel_host_backend(const char *path) {
    if (!path)
        path = getenv("SCISSOR_HOST_PATH");
    if (path && !*path)
        path = NULL;
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        if (path && strcmp(path, backends[i].base.path))
            continue;
        if (backends[i].supported())
            return &backends[i].base;
        if (path) {
            errno = ENOTSUP;
            return NULL;
        }
    }
    errno = EINVAL;
    return NULL;
}
