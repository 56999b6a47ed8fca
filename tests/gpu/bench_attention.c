/* bench_attention.c - attention over all KV heads of one layer, for one session and for sixteen, and how that compares
 * with what the kernels are to reach.
 *
 * As in a model a call is for a layer, and the next call for the next one, so that no rows are in the device's caches
 * when they are read: there are as many layers as it takes. Bytes are those of K and V once, of the queries, the
 * outputs and the score planes: what one pass needs, whatever a kernel loads. */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

#define KV_HEADS 8u
#define COLD_BYTES ((size_t)256 << 20)
#define MANY_SESSIONS 16u

struct attention {
    uint32_t sessions, settled, rows, group; /* group: query heads of a KV head */
    uint8_t dtype;
    bool planes;
};

/* The items of some layers, one a KV head of a session. */
struct layers {
    struct attention of;
    uint32_t count, items, turn;   /* items: of a layer */
    char *pages, *fresh, *vectors; /* vectors: q, out and planes */
    void **page_list;
    struct kernel_attend *item;
    void *workspace;
};

/* ---------- what is attended to ---------- */

static size_t padded_rows(const struct attention *a) {
    return (a->rows + 15) / 16 * 16;
}

static size_t fresh_bytes(const struct attention *a) {
    return layout_area_bytes((uint32_t)kernel_dtype_size(a->dtype), (uint32_t)padded_rows(a), HEAD_DIM);
}

static size_t query_values(const struct attention *a) {
    return (size_t)a->rows * a->group * HEAD_DIM;
}

static size_t plane_values(const struct attention *a) {
    return (a->settled + a->rows + 3) / 4 * 4;
}

static struct kernel_attend item_of(const struct layers *l, uint32_t i) {
    const struct attention *a = &l->of;
    size_t list = layout_pages_of_rows(a->settled), values = query_values(a), visible = plane_values(a);
    float *q = (float *)l->vectors + i * (2 * values + 3 * visible), *planes = a->planes ? q + 2 * values : NULL;
    return (struct kernel_attend){.pages = (const void *const *)l->page_list + i * list,
                                  .settled_rows = a->settled,
                                  .fresh = l->fresh + i * fresh_bytes(a),
                                  .fresh_rows = (uint32_t)padded_rows(a),
                                  .rows = a->rows,
                                  .q_heads = a->group,
                                  .head_dim = HEAD_DIM,
                                  .compute_dtype = a->dtype,
                                  .storage_dtype = a->dtype,
                                  .scale = 0.1f,
                                  .q = q,
                                  .out = q + values,
                                  .q_row_stride = (size_t)a->group * HEAD_DIM,
                                  .mass = planes,
                                  .hits = planes ? planes + visible : NULL,
                                  .last = planes ? planes + 2 * visible : NULL};
}

static struct layers layers_new(struct attention a) {
    struct layers l = {.of = a, .items = bench.is_short ? a.sessions : a.sessions * KV_HEADS};
    size_t page = layout_page_bytes(a.dtype, HEAD_DIM), list = layout_pages_of_rows(a.settled);
    size_t layer = l.items * list * page;
    l.count = bench.is_short ? 2 : (uint32_t)((COLD_BYTES + layer - 1) / layer);
    size_t all = (size_t)l.count * l.items;
    l.pages = bench_memory_new(all * list * page);
    l.fresh = bench_memory_new(all * fresh_bytes(&a));
    l.vectors = bench_memory_new(all * (2 * query_values(&a) + 3 * plane_values(&a)) * sizeof(float));
    l.page_list = bench_need(calloc(all * list, sizeof *l.page_list));
    l.item = bench_need(calloc(all, sizeof *l.item));
    for (size_t i = 0; i < all * list; i++)
        l.page_list[i] = l.pages + i * page;
    for (uint32_t i = 0; i < all; i++)
        l.item[i] = item_of(&l, i);
    l.workspace = bench_memory_new(bench.streams->attend_workspace(bench.backend, l.item, l.items));
    return l;
}

static void layers_free(struct layers *l) {
    bench_memory_free(l->workspace);
    bench_memory_free(l->pages);
    bench_memory_free(l->fresh);
    bench_memory_free(l->vectors);
    free(l->page_list);
    free(l->item);
}

/* ---------- measuring ---------- */

static void queue_layer(void *data) {
    struct layers *l = data;
    const struct kernel_attend *item = l->item + (size_t)(l->turn++ % l->count) * l->items;
    bench_must(bench.streams->attend(bench.backend, item, l->items, l->workspace, bench.stream), "attend");
}

struct measured {
    double took;    /* seconds a layer */
    double nominal; /* share; 0: not known */
};

static struct measured attend(struct attention a) {
    static const char *const dtypes[] = {[KERNEL_F32] = "f32", [KERNEL_F16] = "f16", [KERNEL_BF16] = "bf16"};
    if (bench.is_short) {
        a.sessions = a.sessions == 1 ? 1 : 2;
        a.settled = 64;
        a.rows = a.rows == 1 ? 1 : 4;
    }
    struct layers l = layers_new(a);
    char shape[96], decode[] = "attend, decode", prefill[48];
    double rows = (double)a.settled + a.rows, values = (double)query_values(&a);
    /* Of the planes mass and hits are read, too. */
    double bytes =
        l.items * (rows * HEAD_DIM * 2 * (double)kernel_dtype_size(a.dtype) + 2 * values * 4 + a.planes * 5 * rows * 4);
    snprintf(prefill, sizeof prefill, "attend, prefill of %u", a.rows);
    snprintf(shape, sizeof shape, "%u x %u heads, %u rows, GQA %u, %s%s", a.sessions, l.items / a.sessions, a.settled,
             a.group, dtypes[a.dtype], a.planes ? ", scores" : "");
    double took = bench_time("attend", queue_layer, &l);
    bench_row(a.rows == 1 ? decode : prefill, shape, bytes, took);
    layers_free(&l);
    return (struct measured){took, bench.nominal_speed > 0 ? bytes / took / bench.nominal_speed : 0};
}

/* Of two products with each row that a query row sees. */
static double prefill_operations(const struct attention *a) {
    double rows = a->rows, seen = rows * a->settled + rows * (rows + 1) / 2;
    return 4 * HEAD_DIM * seen * a->group * KV_HEADS * a->sessions;
}

/* ---------- what is to be reached ---------- */

#define LEAST_SHARE 0.8    /* of nominal, by many sessions of 4,096 rows or more */
#define MOST_SECONDS 12e-6 /* a layer of one session, of up to 4,096 rows */
#define MOST_FOR_SCORES 1.05

/* The worst of each kind. */
struct reached {
    double share, took, scores;
};

static void note(struct reached *r, const struct attention *a, struct measured m) {
    if (a->sessions > 1 && a->settled >= 4096 && (r->share == 0 || m.nominal < r->share))
        r->share = m.nominal;
    if (a->sessions == 1 && a->settled <= 4096 && m.took > r->took)
        r->took = m.took;
}

static void print_goal(const char *goal, const char *measured, double ratio) {
    if (ratio > 0)
        printf("| %s | %s | %.2f | %s |\n", goal, measured, ratio, ratio >= 1 ? "reached" : "missed");
    else
        printf("| %s | %s | - | not measured |\n", goal, measured);
}

static void print_goals(const struct reached *r) {
    char text[3][32];
    snprintf(text[0], sizeof text[0], "%.0f %%", 100 * r->share);
    snprintf(text[1], sizeof text[1], "%.1f µs", 1e6 * r->took);
    snprintf(text[2], sizeof text[2], "%+.1f %%", 100 * (r->scores - 1));
    printf("\n| to reach, on an H100 | the worst | ratio | |\n|---|---|---|---|\n");
    print_goal("f16, 16 sessions, from 4096 rows on: 80 % of nominal or more", text[0], r->share / LEAST_SHARE);
    print_goal("f16, one session, up to 4096 rows: 12 µs a layer or less", text[1], MOST_SECONDS / r->took);
    print_goal("scores: 5 % or less of the time, 16 sessions, 4096 rows, GQA 4", text[2], MOST_FOR_SCORES / r->scores);
    print_goal("4 bits: 2.5 times as fast as f16", "a device keeps no such rows", 0);
}

void bench_attention(void) {
    static const uint32_t sessions[] = {1, MANY_SESSIONS}, settled[] = {1024, 4096, 16384}, groups[] = {1, 4, 8};
    const struct attention usual = {
        .sessions = MANY_SESSIONS, .settled = 4096, .rows = 1, .group = 4, .dtype = KERNEL_F16, .planes = true};
    struct attention bf16 = usual, f32 = usual, prefill = usual, plain = usual;
    struct reached reached = {0};
    double with_scores = 0;
    for (size_t i = 0; i < 2 * 3 * 3; i++) {
        struct attention a = usual;
        a.sessions = sessions[i / 9];
        a.settled = settled[i / 3 % 3];
        a.group = groups[i % 3];
        struct measured m = attend(a);
        note(&reached, &a, m);
        if (a.sessions == usual.sessions && a.settled == usual.settled && a.group == usual.group)
            with_scores = m.took;
    }
    plain.planes = false;
    reached.scores = with_scores / attend(plain).took;
    bf16.dtype = KERNEL_BF16;
    attend(bf16);
    f32.dtype = KERNEL_F32;
    attend(f32);
    prefill.sessions = 1;
    prefill.rows = 512;
    double took = attend(prefill).took;
    if (!bench.is_short)
        printf("\nThat prefill is bound by arithmetic: %.1f TFLOP/s.\n", prefill_operations(&prefill) / took / 1e12);
    print_goals(&reached);
}
