/* spec.c - checks what a session is to look like before anything is asked for, and turns it into the wire form.
 *
 * The daemon checks again; here it serves the caller, who gets the field's name, and the library, which computes table
 * sizes from these numbers. Policies and their parameters are the daemon's alone. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

struct complaint {
    char *why;
    size_t bytes;
};

__attribute__((format(printf, 2, 3))) static int refuse(const struct complaint *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(c->why, c->bytes, format, args);
    va_end(args);
    return SCISSOR_EINVAL;
}

static int check_rows(const struct complaint *c, uint32_t i, const struct scissor_group_spec *g, uint32_t fresh) {
    if (g->guaranteed_rows < fresh + SCISSOR_BLOCK_ROWS || g->guaranteed_rows > PROTO_MAX_ROWS)
        return refuse(c, "groups[%u].guaranteed_rows is %u; it must be %u (fresh_rows + 16) to %u", i,
                      g->guaranteed_rows, fresh + SCISSOR_BLOCK_ROWS, PROTO_MAX_ROWS);
    if (g->max_rows && (g->max_rows < g->guaranteed_rows || g->max_rows > PROTO_MAX_ROWS))
        return refuse(c, "groups[%u].max_rows is %u; it must be 0 or from guaranteed_rows (%u) to %u", i, g->max_rows,
                      g->guaranteed_rows, PROTO_MAX_ROWS);
    return 0;
}

static int check_group(const struct complaint *c, uint32_t i, const struct scissor_group_spec *g, uint32_t fresh) {
    if (g->layers == 0 || g->layers > PROTO_MAX_LAYERS)
        return refuse(c, "groups[%u].layers is %u; it must be 1 to %u", i, g->layers, PROTO_MAX_LAYERS);
    if (g->kv_heads == 0 || g->kv_heads > PROTO_MAX_HEADS)
        return refuse(c, "groups[%u].kv_heads is %u; it must be 1 to %u", i, g->kv_heads, PROTO_MAX_HEADS);
    if (g->q_heads == 0 || g->q_heads > PROTO_MAX_HEADS || g->q_heads % g->kv_heads)
        return refuse(c, "groups[%u].q_heads is %u; it must be a multiple of kv_heads (%u), at most %u", i, g->q_heads,
                      g->kv_heads, PROTO_MAX_HEADS);
    if (g->head_dim == 0 || g->head_dim > 256 || g->head_dim % 16)
        return refuse(c, "groups[%u].head_dim is %u; it must be a multiple of 16, at most 256", i, g->head_dim);
    if (!proto_text_valid(g->policy, sizeof g->policy))
        return refuse(c, "groups[%u].policy is not terminated", i);
    for (uint32_t p = 0; p < SCISSOR_MAX_PARAMS; p++) {
        if (!proto_text_valid(g->params[p].name, sizeof g->params[p].name))
            return refuse(c, "groups[%u].params[%u].name is not terminated", i, p);
        if (g->params[p].name[0] && !isfinite(g->params[p].value))
            return refuse(c, "groups[%u]: the parameter %s is not a finite number", i, g->params[p].name);
    }
    return check_rows(c, i, g, fresh);
}

static int check_session(const struct complaint *c, const struct scissor_session_spec *spec, uint32_t fresh) {
    if (!proto_text_valid(spec->name, sizeof spec->name))
        return refuse(c, "name is not terminated");
    if (!kernel_dtype_size(spec->compute_dtype))
        return refuse(c, "compute_dtype is %u; it must be 0 (f32), 1 (f16) or 2 (bf16)", spec->compute_dtype);
    if (spec->storage_dtype >= KERNEL_DTYPE_COUNT)
        return refuse(c,
                      "storage_dtype is %u; it must be 0 (f32), 1 (f16), 2 (bf16), 3 (int8), 4 (int4), 5 (k5v4) or "
                      "6 (fade)",
                      spec->storage_dtype);
    if (fresh > PROTO_MAX_FRESH || fresh % SCISSOR_BLOCK_ROWS)
        return refuse(c, "fresh_rows is %u; it must be a multiple of 16, at most %u", fresh, PROTO_MAX_FRESH);
    if (spec->wait_ms > PROTO_MAX_WAIT_MS)
        return refuse(c, "wait_ms is %u; it must be at most %u", spec->wait_ms, PROTO_MAX_WAIT_MS);
    if (spec->priority > 1000)
        return refuse(c, "priority is %u; it must be 1 to 1000, or 0 for 100", spec->priority);
    if (spec->group_count == 0 || spec->group_count > SCISSOR_MAX_GROUPS)
        return refuse(c, "group_count is %u; it must be 1 to %u", spec->group_count, SCISSOR_MAX_GROUPS);
    return 0;
}

static void fill_group(const struct scissor_group_spec *g, struct proto_group *ret) {
    ret->layers = g->layers;
    ret->kv_heads = g->kv_heads;
    ret->q_heads = g->q_heads;
    ret->head_dim = g->head_dim;
    ret->guaranteed_rows = g->guaranteed_rows;
    ret->max_rows = g->max_rows ? g->max_rows : g->guaranteed_rows;
    proto_text_set(ret->policy, sizeof ret->policy, g->policy);
    for (uint32_t p = 0; p < SCISSOR_MAX_PARAMS; p++) {
        proto_text_set(ret->params[p].name, sizeof ret->params[p].name, g->params[p].name);
        ret->params[p].value = g->params[p].name[0] ? g->params[p].value : 0;
    }
}

int scissor__spec_check(const struct scissor_session_spec *spec, struct proto_open *ret_open, char *why,
                        size_t why_bytes) {
    struct complaint c = {why, why_bytes};
    uint32_t fresh = spec->fresh_rows ? spec->fresh_rows : 64;
    uint64_t layers = 0, heads = 0;
    int r = check_session(&c, spec, fresh);
    for (uint32_t i = 0; i < spec->group_count && !r; i++) {
        r = check_group(&c, i, &spec->groups[i], fresh);
        layers += spec->groups[i].layers;
        heads += (uint64_t)spec->groups[i].layers * spec->groups[i].kv_heads;
    }
    if (r)
        return r;
    if (layers > PROTO_MAX_LAYERS || heads > PROTO_MAX_HEADS)
        return refuse(&c, "the groups have more than %u layers or %u KV heads together", PROTO_MAX_LAYERS,
                      PROTO_MAX_HEADS);
    struct proto_open open = {.compute_dtype = spec->compute_dtype,
                              .storage_dtype = spec->storage_dtype,
                              .fresh_rows = fresh,
                              .priority = spec->priority ? spec->priority : 100,
                              .wait_ms = spec->wait_ms,
                              .pool = PROTO_ANY_POOL,
                              .group_count = spec->group_count};
    proto_text_set(open.name, sizeof open.name, spec->name);
    for (uint32_t i = 0; i < spec->group_count; i++)
        fill_group(&spec->groups[i], &open.groups[i]);
    *ret_open = open;
    return 0;
}
