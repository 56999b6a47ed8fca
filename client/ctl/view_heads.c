/* view_heads.c - what the heads of a session hold, one line for each head or for each layer.
 *
 * A layer's figures are sums over its KV heads (pages, evicted rows, rows by age), means (mass, share) or ranges. */
#include <string.h>

#include "view.h"

static void cell_range(struct table *t, uint32_t low, uint32_t high) {
    if (low == high)
        table_cell(t, "%s", COUNT(low));
    else
        table_cell(t, "%s-%s", COUNT(low), COUNT(high));
}

static void cell_bars(struct table *t, const uint64_t ages[PROTO_AGE_BUCKETS]) {
    table_cell(t, "|%s|", figure_bars(&(struct figure){""}, ages, PROTO_AGE_BUCKETS));
}

static void cell_evicted(struct table *t, const uint64_t evicted[PROTO_REASON_COUNT]) {
    struct out o;
    out_init(&o, false);
    ctl_view_counters(&o, evicted, PROTO_REASON_COUNT, proto_reason_name);
    t->failed |= o.failed;
    table_cell(t, "%s", o.text ? o.text : "");
    out_deinit(&o);
}

/* A figure that is below zero where there is none. */
static void cell_gathered(struct table *t, double value, int decimals, const char *unit) {
    if (value < 0)
        table_cell(t, "not gathered");
    else
        table_cell(t, "%.*f%s", decimals, value, unit);
}

static void widen(const uint32_t from[PROTO_AGE_BUCKETS], uint64_t ret[PROTO_AGE_BUCKETS]) {
    for (size_t i = 0; i < PROTO_AGE_BUCKETS; i++)
        ret[i] = from[i];
}

/* The figures behind the bars. */
static void view_ages(struct out *o, const struct proto_head_stat *heads, size_t count) {
    char title[PROTO_AGE_BUCKETS][32];
    const char *titles[2 + PROTO_AGE_BUCKETS] = {">LAYER", ">KV HEAD"};
    uint64_t end = PROTO_AGE_BUCKET_FIRST;
    for (size_t i = 0; i < PROTO_AGE_BUCKETS; i++, end *= 4) {
        bool last = i + 1 == PROTO_AGE_BUCKETS;
        snprintf(title[i], sizeof title[i], ">%s%.24s", last ? "OVER " : "TO ", COUNT(last ? end / 4 : end));
        titles[2 + i] = title[i];
    }
    struct table t;
    table_init(&t, titles, 2 + PROTO_AGE_BUCKETS);
    for (size_t i = 0; i < count; i++) {
        table_cell(&t, "%u", heads[i].layer);
        table_cell(&t, "%u", heads[i].kv_head);
        for (size_t j = 0; j < PROTO_AGE_BUCKETS; j++)
            table_cell(&t, "%s", COUNT(heads[i].age[j]));
    }
    out_printf(o, "\nsettled rows by age, in tokens seen since their own\n");
    table_print(&t, o, "");
    table_deinit(&t);
}

void ctl_view_heads(struct out *o, const struct proto_head_stat *heads, size_t count) {
    static const char *const titles[] = {">LAYER",  ">KV HEAD", ">SETTLED ROWS",      ">PAGES", ">OLDEST",
                                         ">NEWEST", ">MASS",    ">LEAST ROWS' SHARE", "AGE",    "EVICTED ROWS"};
    struct table t;
    table_init(&t, titles, sizeof titles / sizeof titles[0]);
    for (size_t i = 0; i < count; i++) {
        const struct proto_head_stat *h = &heads[i];
        uint64_t ages[PROTO_AGE_BUCKETS];
        widen(h->age, ages);
        table_cell(&t, "%u", h->layer);
        table_cell(&t, "%u", h->kv_head);
        table_cell(&t, "%s", COUNT(h->settled));
        table_cell(&t, "%u", h->pages);
        table_cell(&t, "%u", h->oldest);
        table_cell(&t, "%u", h->newest);
        cell_gathered(&t, h->mass, 3, "");
        cell_gathered(&t, 100 * h->lowest_share, 2, " %");
        cell_bars(&t, ages);
        cell_evicted(&t, h->evicted);
    }
    table_print(&t, o, "");
    table_deinit(&t);
    view_ages(o, heads, count);
}

/* Mean of what some heads have and others have not, with -1 for these. */
struct mean {
    double sum;
    uint32_t count;
};

static void mean_add(struct mean *m, double value) {
    m->sum += value < 0 ? 0 : value;
    m->count += !(value < 0);
}

static double mean_value(const struct mean *m) {
    return m->count ? m->sum / m->count : -1;
}

/* Adds the heads of one layer to its first one; mass and share become means. Returns how many there are. */
static size_t layer_sum(const struct proto_head_stat *heads, size_t count, struct proto_head_stat *sum, uint32_t *low,
                        uint64_t ages[PROTO_AGE_BUCKETS]) {
    size_t n = 1;
    struct mean mass = {0, 0}, share = {0, 0};
    mean_add(&mass, heads[0].mass);
    mean_add(&share, heads[0].lowest_share);
    *sum = heads[0];
    *low = sum->settled;
    widen(sum->age, ages);
    for (; n < count && heads[n].layer == sum->layer; n++) {
        const struct proto_head_stat *h = &heads[n];
        *low = h->settled < *low ? h->settled : *low;
        sum->settled = h->settled > sum->settled ? h->settled : sum->settled;
        sum->oldest = h->oldest < sum->oldest ? h->oldest : sum->oldest;
        sum->newest = h->newest > sum->newest ? h->newest : sum->newest;
        sum->pages += h->pages;
        for (size_t i = 0; i < PROTO_REASON_COUNT; i++)
            sum->evicted[i] += h->evicted[i];
        for (size_t i = 0; i < PROTO_AGE_BUCKETS; i++)
            ages[i] += h->age[i];
        mean_add(&mass, h->mass);
        mean_add(&share, h->lowest_share);
    }
    sum->mass = mean_value(&mass);
    sum->lowest_share = mean_value(&share);
    return n;
}

void ctl_view_layers(struct out *o, const struct proto_head_stat *heads, size_t count) {
    static const char *const titles[] = {">LAYER",  ">KV HEADS", ">SETTLED ROWS/HEAD", ">PAGES", ">OLDEST",
                                         ">NEWEST", ">MASS",     ">LEAST ROWS' SHARE", "AGE",    "EVICTED ROWS"};
    struct table t;
    table_init(&t, titles, sizeof titles / sizeof titles[0]);
    for (size_t first = 0, n; first < count; first += n) {
        struct proto_head_stat sum;
        uint32_t low;
        uint64_t ages[PROTO_AGE_BUCKETS];
        n = layer_sum(heads + first, count - first, &sum, &low, ages);
        table_cell(&t, "%u", sum.layer);
        table_cell(&t, "%zu", n);
        cell_range(&t, low, sum.settled);
        table_cell(&t, "%u", sum.pages);
        table_cell(&t, "%u", sum.oldest);
        table_cell(&t, "%u", sum.newest);
        cell_gathered(&t, sum.mass, 3, "");
        cell_gathered(&t, 100 * sum.lowest_share, 2, " %");
        cell_bars(&t, ages);
        cell_evicted(&t, sum.evicted);
    }
    table_print(&t, o, "");
    table_deinit(&t);
}
