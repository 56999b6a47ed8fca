/* reference.c - the scalar path: what attention and conversion mean, written to be read, not to be fast.
 *
 * Logits, probabilities and sums are doubles, elements are read one by one through kernel_load(), so that nothing here
 * depends on how wide a vector is. The vector paths are tested against this file; it also is the path of a processor
 * that has neither AVX2 nor AVX-512. Rows that a query cannot see are never read. */
#include <math.h>
#include <stdbool.h>

#include "../quant.h"
#include "host.h"

void host_convert_reference(uint32_t to_dtype, void *to, uint32_t from_dtype, const void *from, size_t count) {
    if (to_dtype == from_dtype) {
        memcpy(to, from, count * kernel_dtype_size(to_dtype));
        return;
    }
    for (size_t i = 0; i < count; i++)
        kernel_store(to_dtype, to, i, kernel_load(from_dtype, from, i));
}

/* Where row j of an item (settled rows first) lies. */
struct row_place {
    uint32_t dtype, row;
    const void *k, *v; /* start of the K and of the V area that hold the row */
};

static struct row_place place_of(const struct kernel_attend *item, size_t j) {
    struct row_place place;
    const char *area;
    uint32_t area_rows;

    if (j < item->settled_rows) {
        place.dtype = item->storage_dtype;
        place.row = (uint32_t)(j % SCISSOR_PAGE_ROWS);
        area = item->pages[j / SCISSOR_PAGE_ROWS];
        area_rows = SCISSOR_PAGE_ROWS;
    } else {
        place.dtype = item->compute_dtype;
        place.row = (uint32_t)(j - item->settled_rows);
        area = item->fresh;
        area_rows = item->fresh_rows;
    }
    place.k = area;
    place.v = area + (j < item->settled_rows
                          ? layout_page_v_offset(place.dtype, item->head_dim)
                          : layout_v_offset((uint32_t)kernel_dtype_size(place.dtype), area_rows, item->head_dim));
    return place;
}

/* K and V of a row, as they are kept: rotated, where the dtype is. */
static void load_k(struct row_place place, uint32_t head_dim, float *ret) {
    struct quant_row row;
    if (place.dtype >= KERNEL_ELEMENT_DTYPES)
        quant_get_k(layout_k_type(place.dtype), place.k, place.row, head_dim, &row);
    for (uint32_t c = 0; c < head_dim; c++)
        ret[c] = place.dtype >= KERNEL_ELEMENT_DTYPES
                     ? quant_value(&row, c)
                     : kernel_load(place.dtype, place.k, layout_k_index(place.row, c, head_dim));
}

static void load_v(struct row_place place, uint32_t head_dim, float *ret) {
    struct quant_row row;
    if (place.dtype >= KERNEL_ELEMENT_DTYPES)
        quant_get_v(layout_v_type(place.dtype), place.v, place.row, head_dim, &row);
    for (uint32_t c = 0; c < head_dim; c++)
        ret[c] = place.dtype >= KERNEL_ELEMENT_DTYPES
                     ? quant_value(&row, c)
                     : kernel_load(place.dtype, place.v, layout_v_index(place.row, c, head_dim));
}

/* `rotated` is q in the basis of a dtype that is kept rotated. */
static double logit(const struct kernel_attend *item, const float *q, const float *rotated, size_t j) {
    struct row_place place = place_of(item, j);
    float k[HOST_MAX_HEAD_DIM];
    double sum = 0;
    load_k(place, item->head_dim, k);
    for (uint32_t c = 0; c < item->head_dim; c++)
        sum += (double)(layout_is_rotated(place.dtype) ? rotated : q)[c] * (double)k[c];
    return sum * (double)item->scale;
}

/* ---------- details ---------- */

/* A detail slot: its codes, and the row that it belongs to. */
struct detail {
    const char *k, *v;
    uint32_t slot, owner;
};

/* Detail slot `index` of an item; false if it belongs to none of the settled rows. */
static bool detail_at(const struct kernel_attend *item, size_t index, struct detail *ret) {
    const char *page = item->pages[index / LAYOUT_PAGE_DETAILS];
    uint32_t owner, dtype = item->storage_dtype;
    ret->slot = index % LAYOUT_PAGE_DETAILS;
    memcpy(&owner, page + layout_detail_owner_offset(dtype, item->head_dim) + ret->slot * sizeof owner, sizeof owner);
    ret->k = page + layout_detail_k_offset(dtype, item->head_dim);
    ret->v = page + layout_detail_v_offset(dtype, item->head_dim);
    ret->owner = owner - 1;
    return owner != 0 && ret->owner < item->settled_rows;
}

static size_t detail_count(const struct kernel_attend *item) {
    return item->settled_rows ? (size_t)item->detail_pages * LAYOUT_PAGE_DETAILS : 0;
}

/* What a detail slot adds to its row's value in each channel, whose scales are those of the row. */
static void detail_values(const struct kernel_attend *item, const struct detail *detail, bool v, float *ret) {
    uint32_t d = item->head_dim;
    struct row_place place = place_of(item, detail->owner);
    struct quant_row row;
    uint8_t codes[HOST_MAX_HEAD_DIM];
    if (v) {
        quant_get_v(layout_v_type(place.dtype), place.v, place.row, d, &row);
        quant_get_v_detail(detail->v, detail->slot, d, codes);
    } else {
        quant_get_k(layout_k_type(place.dtype), place.k, place.row, d, &row);
        quant_get_k_detail(detail->k, detail->slot, d, codes);
    }
    for (uint32_t c = 0; c < d; c++)
        ret[c] = quant_detail(row.scale[c / LAYOUT_GROUP_CHANNELS], codes[c]);
}

static void add_detail_logits(const struct kernel_attend *item, const float *rotated, double *logits) {
    float k[HOST_MAX_HEAD_DIM];
    struct detail detail;
    for (size_t i = 0; i < detail_count(item); i++) {
        double sum = 0;
        if (!detail_at(item, i, &detail))
            continue;
        detail_values(item, &detail, false, k);
        for (uint32_t c = 0; c < item->head_dim; c++)
            sum += (double)rotated[c] * (double)k[c];
        logits[detail.owner] += sum * (double)item->scale;
    }
}

static void add_detail_values(const struct kernel_attend *item, const double *p, double *sums) {
    float v[HOST_MAX_HEAD_DIM];
    struct detail detail;
    for (size_t i = 0; i < detail_count(item); i++) {
        if (!detail_at(item, i, &detail))
            continue;
        detail_values(item, &detail, true, v);
        for (uint32_t c = 0; c < item->head_dim; c++)
            sums[c] += p[detail.owner] * (double)v[c];
    }
}

/* ---------- the whole ---------- */

/* Probabilities of `visible` rows under one query, into p; they are added to `mean`, divided by the heads. */
static void probabilities(const struct kernel_attend *item, const float *q, size_t visible, double *p, double *mean) {
    double max = -INFINITY, sum = 0;
    float rotated[HOST_MAX_HEAD_DIM];
    memcpy(rotated, q, item->head_dim * sizeof *rotated);
    quant_rotate(rotated, item->head_dim);
    for (size_t j = 0; j < visible; j++)
        p[j] = logit(item, q, rotated, j);
    add_detail_logits(item, rotated, p);
    for (size_t j = 0; j < visible; j++)
        if (p[j] > max)
            max = p[j];
    for (size_t j = 0; j < visible; j++) {
        p[j] = exp(p[j] - max);
        sum += p[j];
    }
    for (size_t j = 0; j < visible; j++) {
        p[j] /= sum;
        mean[j] += p[j] / item->q_heads;
    }
}

static void weighted_values(const struct kernel_attend *item, const double *p, size_t visible, float *out) {
    double sums[2][HOST_MAX_HEAD_DIM] = {0}; /* as they come, and rotated */
    float v[HOST_MAX_HEAD_DIM];
    for (size_t j = 0; j < visible; j++) {
        struct row_place place = place_of(item, j);
        load_v(place, item->head_dim, v);
        for (uint32_t c = 0; c < item->head_dim; c++)
            sums[layout_is_rotated(place.dtype)][c] += p[j] * (double)v[c];
    }
    add_detail_values(item, p, sums[1]); /* all dtypes with details are rotated */
    for (uint32_t c = 0; c < item->head_dim; c++)
        v[c] = (float)sums[1][c];
    quant_rotate(v, item->head_dim);
    for (uint32_t c = 0; c < item->head_dim; c++)
        out[c] = (float)(sums[0][c] + (double)v[c]);
}

static void add_scores(const struct kernel_attend *item, uint32_t row, const double *mean, size_t visible) {
    double threshold =
        1.0 / (item->threshold == KERNEL_THRESHOLD_SEEN ? (double)(item->seen + row + 1) : (double)visible);
    for (size_t j = 0; j < visible; j++) {
        if (item->mass)
            item->mass[j] += (float)mean[j];
        if (item->hits)
            item->hits[j] += mean[j] >= threshold;
        if (item->last && row == item->rows - 1)
            item->last[j] = (float)mean[j];
    }
}

void host_attend_reference(const struct kernel_attend *item, void *workspace) {
    for (uint32_t i = 0; i < item->rows; i++) {
        size_t visible = (size_t)item->settled_rows + item->fresh_before + i + 1;
        double *mean = workspace, *p = mean + visible;
        memset(mean, 0, visible * sizeof *mean);
        for (uint32_t h = 0; h < item->q_heads; h++) {
            size_t at = i * item->q_row_stride + (size_t)h * item->head_dim;
            probabilities(item, item->q + at, visible, p, mean);
            weighted_values(item, p, visible, item->out + at);
        }
        add_scores(item, i, mean, visible);
    }
}
