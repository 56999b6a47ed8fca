/* work.c - see work.h.
 *
 * Arguments go into the arena batch by batch, as many heads at once as fit. Lists of pages are copied as far as a
 * head's moves reach. */
#include "work.h"

#include <errno.h>
#include <string.h>

#include "image.h"

#define MAX_HEAD_DIM 256u
#define MAX_BATCH 65535u    /* blocks in y */
#define MAX_MOVES 16384u    /* of one head in one launch */
#define PROCESSOR_BLOCKS 3u /* of attend_8 that share a processor */
#define MIN_SPLIT_ROWS SCISSOR_PAGE_ROWS
#define MAX_SPLIT_ROWS 1024u
#define MMA_MAJOR 8             /* compute capability from which attend_mma.cu is something */
#define MMA_IMAGE 80            /* a newer device runs the PTX of an older one if the image has nothing else */
#define MMA_GROUP_HEAD_DIM 128u /* largest with groups of tiles, as shared memory is 48 KiB */
#define MMA_GROUP_SPLIT_ROWS 128u
#define MMA_SPLIT_ROWS 512u
#define WORKSPACE_MOST ((size_t)64 << 20) /* what a prefill's chunks are kept below */

static size_t padded(size_t bytes) {
    return (bytes + 15) / 16 * 16;
}

int cuda_work_init(struct cuda_work *w, struct cuda_device *d) {
    int processors;
    *w = (struct cuda_work){.device = d};
    int r = kernel_cuda_image_bytes ? cuda_device_enter(d) : 0;
    if (r < 0 || kernel_cuda_image_bytes == 0)
        return r;
    r = CUDA_DEVICE_CALL(d, device_attribute, &processors, CUDA_ATTRIBUTE_PROCESSORS, d->ordinal);
    if (r == 0)
        r = cuda_functions_load(&w->functions, d);
    if (r == 0) {
        w->processors = (uint32_t)processors;
        r = cuda_arena_init(&w->arena, d);
        if (r < 0)
            cuda_functions_unload(&w->functions, d);
    }
    cuda_device_leave(d);
    return r;
}

void cuda_work_deinit(struct cuda_work *w) {
    if (!w->functions.module || cuda_device_enter(w->device) < 0)
        return;
    cuda_arena_deinit(&w->arena);
    cuda_functions_unload(&w->functions, w->device);
    cuda_device_leave(w->device);
}

/* cuda_device_enter() of a program that has kernels. */
static int enter(struct cuda_work *w) {
    if (!w->functions.module)
        return cuda_fail(-ENOTSUP, "this program was built without nvcc and has no kernels for a GPU");
    return cuda_device_enter(w->device);
}

static int launch(struct cuda_work *w, enum cuda_kernel kernel, struct cuda_grid grid, const void *parameter,
                  void *stream) {
    return cuda_functions_launch(&w->functions, w->device, kernel, grid, parameter, stream);
}

int cuda_work_scrub(struct cuda_work *w, cuda_address at, size_t bytes, void *stream) {
    int r = enter(w);
    if (r < 0)
        return r;
    r = cuda_arena_begin(&w->arena, padded(sizeof(struct cuda_scrub_range)));
    if (r == 0) {
        struct cuda_scrub_range *range = cuda_arena_take(&w->arena, padded(sizeof *range));
        *range = (struct cuda_scrub_range){(void *)(uintptr_t)at, bytes};
        struct cuda_scrub_launch parameter = {range};
        r = launch(w, CUDA_KERNEL_scissor_scrub, cuda_scrub_grid(1, bytes), &parameter, stream);
        int end = cuda_arena_end(&w->arena, stream);
        r = r < 0 ? r : end;
    }
    cuda_device_leave(w->device);
    return r;
}

/* ---------- checks ---------- */

static bool element_dtype(uint32_t dtype) {
    return dtype < KERNEL_ELEMENT_DTYPES;
}

static int shape_check(uint32_t head_dim, uint32_t compute_dtype, uint32_t storage_dtype) {
    if (head_dim == 0 || head_dim > MAX_HEAD_DIM || head_dim % 16 || !element_dtype(compute_dtype) ||
        storage_dtype >= KERNEL_DTYPE_COUNT)
        return cuda_fail(-EINVAL, "head dimension %u or dtypes %u and %u are none that a kernel takes", head_dim,
                         compute_dtype, storage_dtype);
    if (!element_dtype(storage_dtype))
        return cuda_fail(-EOPNOTSUPP, "quantised rows are kept in host memory only");
    return 0;
}

static int rows_check(uint32_t fresh_rows, uint32_t first, uint32_t count) {
    if (fresh_rows % SCISSOR_BLOCK_ROWS || first > fresh_rows || count > fresh_rows - first)
        return cuda_fail(-EINVAL, "rows %u and %u more are not in a fresh buffer of %u", first, count, fresh_rows);
    return 0;
}

/* ---------- moves ---------- */

/* What a settle's head and a shrink's have in common. */
struct moves {
    void *const *pages;
    const struct kernel_move *moves;
    uint32_t count;
    bool from_pages; /* the rows moved are in pages, too */
};
typedef struct moves (*moves_fn)(const void *heads, size_t i);

static struct moves settle_moves(const void *heads, size_t i) {
    const struct kernel_settle *head = (const struct kernel_settle *)heads + i;
    return (struct moves){head->pages, head->moves, head->move_count, false};
}

static struct moves shrink_moves(const void *heads, size_t i) {
    const struct kernel_shrink *head = (const struct kernel_shrink *)heads + i;
    return (struct moves){head->pages, head->moves, head->move_count, true};
}

static uint32_t pages_reached(const struct moves *m) {
    uint32_t pages = 0;
    for (uint32_t i = 0; i < m->count; i++) {
        uint32_t row = m->moves[i].to;
        if (m->from_pages && m->moves[i].from > row)
            row = m->moves[i].from;
        if (row / SCISSOR_PAGE_ROWS >= pages)
            pages = row / SCISSOR_PAGE_ROWS + 1;
    }
    return pages;
}

static size_t moves_bytes(const struct moves *m) {
    return padded(m->count * sizeof *m->moves) + padded(pages_reached(m) * sizeof *m->pages);
}

/* Copies both lists into the arena; `m` points there afterwards. */
static void moves_take(struct cuda_arena *a, struct moves *m) {
    size_t moves = m->count * sizeof *m->moves, pages = pages_reached(m) * sizeof *m->pages;
    void *to = cuda_arena_take(a, padded(moves));
    m->moves = moves ? memcpy(to, m->moves, moves) : NULL;
    to = cuda_arena_take(a, padded(pages));
    m->pages = pages ? memcpy(to, m->pages, pages) : NULL;
}

/* Where a call has come to. */
struct cursor {
    size_t head;
    uint32_t move;
};

/* Heads of one launch: all moves of each, or `part` moves from `offset` on of a single one, as a head's moves are done
 * in order, and the blocks of a launch are not. */
struct batch {
    size_t first, count, bytes;
    uint32_t offset, part;
    uint32_t most_moves;
};

static struct moves batch_moves(const struct batch *b, moves_fn moves_of, const void *heads, size_t i) {
    struct moves m = moves_of(heads, b->first + i);
    m.moves += b->offset;
    m.count = b->part ? b->part : m.count - b->offset;
    return m;
}

/* False at the end. */
static bool batch_next(struct cursor *c, moves_fn moves_of, const void *heads, size_t head_count, size_t head_bytes,
                       struct batch *ret) {
    *ret = (struct batch){.first = c->head, .offset = c->move};
    while (c->head < head_count && ret->count < MAX_BATCH) {
        struct moves m = moves_of(heads, c->head);
        m.moves += c->move;
        m.count -= c->move;
        bool part = m.count > MAX_MOVES;
        if (ret->count && (part || ret->offset))
            break;
        m.count = part ? MAX_MOVES : m.count;
        size_t more = head_bytes + moves_bytes(&m);
        if (ret->count && padded(ret->bytes + more) > CUDA_ARENA_PIECE)
            break;
        ret->bytes += more;
        ret->count++;
        ret->most_moves = m.count > ret->most_moves ? m.count : ret->most_moves;
        if (part) {
            ret->part = MAX_MOVES;
            c->move += MAX_MOVES;
            break;
        }
        *c = (struct cursor){c->head + 1, 0};
    }
    ret->bytes = padded(ret->bytes);
    return ret->count > 0;
}

static int settle_batch(struct cuda_work *w, const struct kernel_settle *heads, const struct batch *b, void *stream) {
    int r = cuda_arena_begin(&w->arena, b->bytes);
    if (r < 0)
        return r;
    struct kernel_settle *items = cuda_arena_take(&w->arena, padded(b->count * sizeof *items));
    for (size_t i = 0; i < b->count; i++) {
        struct moves m = batch_moves(b, settle_moves, heads, i);
        moves_take(&w->arena, &m);
        items[i] = heads[b->first + i];
        items[i].pages = m.pages;
        items[i].moves = m.moves;
        items[i].move_count = m.count;
    }
    struct cuda_settle_launch parameter = {items};
    r = launch(w, CUDA_KERNEL_scissor_settle, cuda_settle_grid((uint32_t)b->count, b->most_moves), &parameter, stream);
    int end = cuda_arena_end(&w->arena, stream);
    return r < 0 ? r : end;
}

int cuda_work_settle(struct cuda_work *w, const struct kernel_settle *heads, size_t count, void *stream) {
    struct cursor cursor = {0, 0};
    struct batch batch;
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        r = shape_check(heads[i].head_dim, heads[i].compute_dtype, heads[i].storage_dtype);
        for (uint32_t m = 0; m < heads[i].move_count && r == 0; m++)
            r = rows_check(heads[i].fresh_rows, heads[i].moves[m].from, 1);
    }
    if (r == 0)
        r = enter(w);
    if (r < 0)
        return r;
    while (r == 0 && batch_next(&cursor, settle_moves, heads, count, sizeof *heads, &batch))
        r = settle_batch(w, heads, &batch, stream);
    cuda_device_leave(w->device);
    return r;
}

static int shrink_batch(struct cuda_work *w, const struct kernel_shrink *heads, const struct batch *b, void *stream) {
    uint32_t head_dim = 0;
    int r = cuda_arena_begin(&w->arena, b->bytes);
    if (r < 0)
        return r;
    struct kernel_shrink *items = cuda_arena_take(&w->arena, padded(b->count * sizeof *items));
    for (size_t i = 0; i < b->count; i++) {
        struct moves m = batch_moves(b, shrink_moves, heads, i);
        moves_take(&w->arena, &m);
        items[i] = heads[b->first + i];
        items[i].pages = m.pages;
        items[i].moves = m.moves;
        items[i].move_count = m.count;
        head_dim = items[i].head_dim > head_dim ? items[i].head_dim : head_dim;
    }
    struct cuda_shrink_launch parameter = {items};
    if (b->most_moves)
        r = launch(w, CUDA_KERNEL_scissor_shrink, cuda_shrink_grid((uint32_t)b->count, head_dim), &parameter, stream);
    int end = cuda_arena_end(&w->arena, stream);
    return r < 0 ? r : end;
}

int cuda_work_shrink(struct cuda_work *w, const struct kernel_shrink *heads, size_t count, void *stream) {
    struct cursor cursor = {0, 0};
    struct batch batch;
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = shape_check(heads[i].head_dim, KERNEL_F32, heads[i].storage_dtype);
    if (r == 0)
        r = enter(w);
    if (r < 0)
        return r;
    while (r == 0 && batch_next(&cursor, shrink_moves, heads, count, sizeof *heads, &batch))
        r = shrink_batch(w, heads, &batch, stream);
    cuda_device_leave(w->device);
    return r;
}

static int pages_check(const struct kernel_page_move *moves, size_t count) {
    uintptr_t bits = 0;
    for (size_t i = 0; i < count; i++)
        bits |= (uintptr_t)moves[i].to | (uintptr_t)moves[i].from | moves[i].bytes;
    return bits % 16 == 0 && kernel_page_moves_apart(moves, count)
               ? 0
               : cuda_fail(-EINVAL, "pages on the device are moved in whole 16 bytes, and not over themselves");
}

static int pages_batch(struct cuda_work *w, const struct kernel_page_move *moves, size_t count, void *stream) {
    size_t bytes = count * sizeof *moves, most = 0;
    int r = cuda_arena_begin(&w->arena, padded(bytes));
    if (r < 0)
        return r;
    struct cuda_pages_launch parameter = {memcpy(cuda_arena_take(&w->arena, padded(bytes)), moves, bytes)};
    for (size_t i = 0; i < count; i++)
        most = moves[i].bytes > most ? moves[i].bytes : most;
    r = launch(w, CUDA_KERNEL_scissor_move_pages, cuda_pages_grid((uint32_t)count, most), &parameter, stream);
    int end = cuda_arena_end(&w->arena, stream);
    return r < 0 ? r : end;
}

int cuda_work_move_pages(struct cuda_work *w, const struct kernel_page_move *moves, size_t count, void *stream) {
    const size_t fit = CUDA_ARENA_PIECE / sizeof *moves; /* fewer than MAX_BATCH */
    int r = pages_check(moves, count);
    r = r < 0 ? r : enter(w);
    if (r < 0)
        return r;
    for (size_t first = 0, n; first < count && r == 0; first += n) {
        n = count - first < fit ? count - first : fit;
        r = pages_batch(w, moves + first, n, stream);
    }
    cuda_device_leave(w->device);
    return r;
}

/* ---------- norms and append ---------- */

/* Heads that fit into a piece, and its bytes. */
static size_t norms_fit(const struct kernel_norms *heads, size_t count, size_t *ret_bytes) {
    size_t n = 0, items = 0, results = 0;
    for (; n < count && n < MAX_BATCH; n++) {
        size_t more = padded(heads[n].count * sizeof(float));
        if (n && padded(items + sizeof *heads) + results + more > CUDA_ARENA_PIECE)
            break;
        items += sizeof *heads;
        results += more;
    }
    *ret_bytes = padded(items) + results;
    return n;
}

static int norms_batch(struct cuda_work *w, const struct kernel_norms *heads, size_t count, size_t bytes,
                       void *stream) {
    uint32_t rows = 0;
    int r = cuda_arena_begin(&w->arena, bytes);
    if (r < 0)
        return r;
    struct kernel_norms *items = cuda_arena_take(&w->arena, padded(count * sizeof *items));
    for (size_t i = 0; i < count; i++) {
        items[i] = heads[i];
        items[i].norms = cuda_arena_take(&w->arena, padded(heads[i].count * sizeof(float)));
        rows = heads[i].count > rows ? heads[i].count : rows;
    }
    struct cuda_norms_launch parameter = {items};
    r = launch(w, CUDA_KERNEL_scissor_v_norms, cuda_norms_grid((uint32_t)count, rows), &parameter, stream);
    int end = cuda_arena_finish(&w->arena, stream);
    for (size_t i = 0; i < count && r == 0 && end == 0; i++)
        if (heads[i].count)
            memcpy(heads[i].norms, items[i].norms, heads[i].count * sizeof(float));
    cuda_arena_unlock(&w->arena);
    return r < 0 ? r : end;
}

int cuda_work_v_norms(struct cuda_work *w, const struct kernel_norms *heads, size_t count, void *stream) {
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        r = shape_check(heads[i].head_dim, heads[i].compute_dtype, KERNEL_F32);
        if (r == 0)
            r = rows_check(heads[i].fresh_rows, heads[i].first, heads[i].count);
    }
    if (r == 0)
        r = enter(w);
    if (r < 0)
        return r;
    for (size_t first = 0, n; first < count && r == 0; first += n) {
        size_t bytes;
        n = norms_fit(heads + first, count - first, &bytes);
        r = norms_batch(w, heads + first, n, bytes, stream);
    }
    cuda_device_leave(w->device);
    return r;
}

static int append_check(const struct kernel_append *head) {
    int r = shape_check(head->head_dim, head->compute_dtype, KERNEL_F32);
    if (r == 0)
        r = rows_check(head->fresh_rows, head->first_row, head->rows);
    if (r == 0 && (!element_dtype(head->input_dtype) || head->stride < head->head_dim))
        r = cuda_fail(-EINVAL, "rows of dtype %u, %zu elements apart, are none that a kernel takes", head->input_dtype,
                      head->stride);
    return r;
}

static int append_batch(struct cuda_work *w, const struct kernel_append *heads, size_t count, void *stream) {
    uint32_t rows = 0, head_dim = 0;
    int r = cuda_arena_begin(&w->arena, padded(count * sizeof *heads));
    if (r < 0)
        return r;
    struct kernel_append *items = cuda_arena_take(&w->arena, padded(count * sizeof *items));
    for (size_t i = 0; i < count; i++) {
        items[i] = heads[i];
        rows = heads[i].rows > rows ? heads[i].rows : rows;
        head_dim = heads[i].head_dim > head_dim ? heads[i].head_dim : head_dim;
    }
    struct cuda_append_launch parameter = {items};
    r = launch(w, CUDA_KERNEL_scissor_append, cuda_append_grid((uint32_t)count, rows, head_dim), &parameter, stream);
    int end = cuda_arena_end(&w->arena, stream);
    return r < 0 ? r : end;
}

int cuda_work_append(struct cuda_work *w, const struct kernel_append *heads, size_t count, void *stream) {
    const size_t most = CUDA_ARENA_PIECE / sizeof *heads < MAX_BATCH ? CUDA_ARENA_PIECE / sizeof *heads : MAX_BATCH;
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = append_check(&heads[i]);
    if (r == 0)
        r = enter(w);
    if (r < 0)
        return r;
    for (size_t first = 0; first < count && r == 0; first += most)
        r = append_batch(w, heads + first, count - first < most ? count - first : most, stream);
    cuda_device_leave(w->device);
    return r;
}

/* ---------- attention ---------- */

static int attend_check(const struct kernel_attend *item) {
    int r = shape_check(item->head_dim, item->compute_dtype, item->storage_dtype);
    if (r == 0)
        r = rows_check(item->fresh_rows, item->fresh_before, item->rows);
    if (r == 0 && (item->q_heads == 0 || item->q_heads > CUDA_CHUNK_VECTORS ||
                   item->threshold > KERNEL_THRESHOLD_SEEN || (item->settled_rows && !item->pages) ||
                   (item->rows > 1 && item->q_row_stride < (size_t)item->q_heads * item->head_dim)))
        r = cuda_fail(-EINVAL, "%u query heads, threshold %u or a row of %zu are none that a kernel takes",
                      item->q_heads, item->threshold, item->q_row_stride);
    return r;
}

/* Items of one launch, and what its arguments and its workspace take. */
struct attend_batch {
    size_t count, bytes, workspace;
    uint32_t rows, chunk; /* query rows of the longest item, and of a launch */
    uint32_t split_rows, head_dim;
    uint32_t mma; /* tiles of a block of attend_mma.cu; 0: attend.cu */
    bool planes;
};

/* One launch's figures: the most of any item. */
struct attend_shape {
    uint32_t splits, vectors, tile, tiles;
    uint32_t mma;                        /* as the batch's, but 0 for fewer vectors than a tile's worth */
    struct cuda_attend_workspace floats; /* of each item */
};

static struct attend_shape attend_shape_of(const struct kernel_attend *items, const struct attend_batch *b,
                                           uint32_t first_row) {
    struct attend_shape s = {0};
    for (size_t i = 0; i < b->count; i++) {
        const struct kernel_attend *a = &items[i];
        if (a->rows <= first_row)
            continue;
        uint32_t rows = a->rows - first_row < b->chunk ? a->rows - first_row : b->chunk;
        uint32_t splits = cuda_attend_splits(a->settled_rows, a->fresh_before + first_row + rows, b->split_rows);
        s.splits = splits > s.splits ? splits : s.splits;
        s.vectors = rows * a->q_heads > s.vectors ? rows * a->q_heads : s.vectors;
    }
    s.tile = cuda_attend_tile(s.vectors);
    s.tiles = cuda_divide_up(s.vectors, s.tile);
    s.mma = s.tile == 8 ? b->mma : 0;
    s.floats = cuda_attend_workspace(s.splits, s.vectors, s.tile, b->split_rows, b->head_dim);
    if (!b->planes)
        s.floats.logits = 0;
    return s;
}

static size_t shape_bytes(const struct attend_shape *s, size_t count) {
    return (s->floats.logits + s->floats.stats + s->floats.sums) * sizeof(float) * count;
}

/* Tensor cores pay where a tile of eight query vectors is full or nearly so: else the plain kernels wait for memory,
 * too, and have fewer sums to do. */
static uint32_t choose_mma(const struct cuda_work *w, const struct kernel_attend *items, size_t count,
                           uint32_t vectors) {
    uint32_t head_dim = 0;
    for (size_t i = 0; i < count; i++) {
        if (kernel_dtype_size(items[i].compute_dtype) != 2 || kernel_dtype_size(items[i].storage_dtype) != 2)
            return 0;
        head_dim = items[i].head_dim > head_dim ? items[i].head_dim : head_dim;
    }
    if (w->device->major < MMA_MAJOR || kernel_cuda_image_newest() < MMA_IMAGE || cuda_attend_tile(vectors) < 8)
        return 0;
    return vectors > 16 && head_dim <= MMA_GROUP_HEAD_DIM ? 4 : 1;
}

/* The longest splits that give every processor its blocks, as what is combined grows with their number. */
static uint32_t choose_split_rows(const struct cuda_work *w, const struct kernel_attend *items, size_t count,
                                  uint32_t chunk, uint32_t mma) {
    uint32_t split_rows = mma == 4 ? MMA_GROUP_SPLIT_ROWS : mma ? MMA_SPLIT_ROWS : MAX_SPLIT_ROWS;
    for (; split_rows > MIN_SPLIT_ROWS; split_rows /= 2) {
        uint64_t blocks = 0;
        for (size_t i = 0; i < count; i++) {
            uint32_t rows = items[i].rows < chunk ? items[i].rows : chunk, vectors = rows * items[i].q_heads;
            blocks += (uint64_t)cuda_attend_splits(items[i].settled_rows, items[i].fresh_before + rows, split_rows) *
                      cuda_divide_up(vectors, cuda_attend_tile(vectors) * (mma ? mma : 1));
        }
        if (blocks >= (uint64_t)w->processors * PROCESSOR_BLOCKS)
            break;
    }
    return split_rows;
}

/* As many of the items as fit; the same for the same items, so that who asks for the bytes is told the truth. */
static struct attend_batch attend_batch_of(const struct cuda_work *w, const struct kernel_attend *items, size_t count) {
    struct attend_batch b = {0};
    uint32_t q_heads = 1;
    for (; b.count < count && b.count < MAX_BATCH; b.count++) {
        const struct kernel_attend *a = &items[b.count];
        size_t more =
            sizeof(struct cuda_attend_item) + padded(layout_pages_of_rows(a->settled_rows) * sizeof *a->pages);
        if (b.count && padded(b.bytes + more) > CUDA_ARENA_PIECE)
            break;
        b.bytes += more;
        b.rows = a->rows > b.rows ? a->rows : b.rows;
        b.head_dim = a->head_dim > b.head_dim ? a->head_dim : b.head_dim;
        b.planes |= a->mass || a->hits || a->last;
        q_heads = a->q_heads > q_heads ? a->q_heads : q_heads;
    }
    b.bytes = padded(b.bytes);
    b.chunk = CUDA_CHUNK_VECTORS / q_heads;
    b.chunk = b.rows < b.chunk ? b.rows : b.chunk;
    b.mma = choose_mma(w, items, b.count, b.chunk * q_heads);
    b.split_rows = choose_split_rows(w, items, b.count, b.chunk, b.mma);
    for (;; b.chunk /= 2) {
        b.workspace = 0;
        for (uint32_t row = 0; row < b.rows; row += b.chunk) {
            struct attend_shape s = attend_shape_of(items, &b, row);
            size_t bytes = shape_bytes(&s, b.count);
            b.workspace = bytes > b.workspace ? bytes : b.workspace;
        }
        if (b.chunk <= 1 || b.workspace <= WORKSPACE_MOST)
            return b;
    }
}

size_t cuda_work_attend_bytes(const struct cuda_work *w, const struct kernel_attend *items, size_t count) {
    size_t most = 0;
    for (size_t first = 0; first < count;) {
        struct attend_batch b = attend_batch_of(w, items + first, count - first);
        most = b.workspace > most ? b.workspace : most;
        first += b.count;
    }
    return most;
}

/* Query rows first_row ... of the items, which are in the arena but for their workspace. */
static int attend_chunk(struct cuda_work *w, const struct kernel_attend *items, const struct attend_batch *b,
                        uint32_t first_row, void *workspace, void *stream) {
    static const enum cuda_kernel attend[] = {
        [1] = CUDA_KERNEL_scissor_attend_1, [4] = CUDA_KERNEL_scissor_attend_4, [8] = CUDA_KERNEL_scissor_attend_8};
    static const enum cuda_kernel combine[] = {
        [1] = CUDA_KERNEL_scissor_combine_1, [4] = CUDA_KERNEL_scissor_combine_4, [8] = CUDA_KERNEL_scissor_combine_8};
    struct attend_shape s = attend_shape_of(items, b, first_row);
    int r = cuda_arena_begin(&w->arena, b->bytes);
    if (r < 0)
        return r;
    struct cuda_attend_item *to = cuda_arena_take(&w->arena, padded(b->count * sizeof *to));
    float *at = workspace;
    for (size_t i = 0; i < b->count; i++) {
        size_t pages = layout_pages_of_rows(items[i].settled_rows) * sizeof *items[i].pages;
        void *list = cuda_arena_take(&w->arena, padded(pages));
        to[i].what = items[i];
        to[i].what.pages = pages ? memcpy(list, items[i].pages, pages) : NULL;
        to[i].logits = items[i].mass || items[i].hits || items[i].last ? at : NULL;
        to[i].stats = at + s.floats.logits;
        to[i].sums = to[i].stats + s.floats.stats;
        at = to[i].sums + s.floats.sums;
    }
    uint32_t count = (uint32_t)b->count, groups = s.mma ? cuda_divide_up(s.tiles, s.mma) : s.tiles;
    struct cuda_attend_launch parameter = {to, first_row, b->chunk, b->split_rows, groups};
    if (s.mma)
        r = launch(w, s.mma == 4 ? CUDA_KERNEL_scissor_attend_mma_4 : CUDA_KERNEL_scissor_attend_mma_1,
                   cuda_attend_mma_grid(count, s.splits, groups, s.mma, b->split_rows, b->head_dim), &parameter,
                   stream);
    else
        r = launch(w, attend[s.tile], cuda_attend_grid(count, s.splits, s.tiles, s.tile, b->split_rows, b->head_dim),
                   &parameter, stream);
    if (r == 0)
        r = launch(w, combine[s.tile], cuda_combine_grid(count, s.splits, s.vectors), &parameter, stream);
    int end = cuda_arena_end(&w->arena, stream);
    return r < 0 ? r : end;
}

int cuda_work_attend(struct cuda_work *w, const struct kernel_attend *items, size_t count, void *workspace,
                     void *stream) {
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = attend_check(&items[i]);
    if (r == 0)
        r = enter(w);
    if (r < 0)
        return r;
    for (size_t first = 0; first < count && r == 0;) {
        struct attend_batch b = attend_batch_of(w, items + first, count - first);
        for (uint32_t row = 0; row < b.rows && r == 0; row += b.chunk)
            r = attend_chunk(w, items + first, &b, row, workspace, stream);
        first += b.count;
    }
    cuda_device_leave(w->device);
    return r;
}
