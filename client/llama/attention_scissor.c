/* attention_scissor.c - see attention_scissor.h. Owns the client, its one session and, if it started one, the daemon.
 */
#include "attention_scissor.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "backend.h"
#include "dtype.h"
#include "layout.h"
#include "private_daemon.h"

#define PRIVATE_MAX_WINDOW 1e6 /* rows; a larger history window is refused anyway */

struct attention_scissor {
    struct attention base; /* first, so that the two pointers are the same */
    struct private_daemon *daemon;
    struct scissor_client *client;
    struct scissor_session *session;
    uint32_t first_settle; /* tokens before the first settle if fewer than a full buffer; 0: none such */
    float scale;
};

/* What the user can do about a code; "" where the code's own text says it. */
static const char *attention_scissor_advice(int code) {
    switch (code) {
    case SCISSOR_BUSY:
    case SCISSOR_FULL:
        return "; wait for it with --wait MS, or ask for less with --guarantee ROWS";
    case SCISSOR_DRAINING:
        return "; start again once the daemon has been restarted";
    case SCISSOR_EDEVICE:
        return "; a scissord with --device host serves everybody";
    case SCISSOR_EGONE:
        return "; its rows are lost: start again once scissord runs";
    case SCISSOR_ECLOSED:
        return "; start again if that was not meant for you";
    default:
        return "";
    }
}

static int attention_scissor_fail(const struct attention_scissor *scissor, int code, struct failure *failure) {
    const char *said = scissor_last_text(scissor->client);
    return failure_set(failure, code, "%s%s%s%s%s", scissor_strerror(code), *said ? " (scissord: " : "", said,
                       *said ? ")" : "", attention_scissor_advice(code));
}

/* ---------- steps ---------- */

/* Settles come every F tokens, the first one early: so that settled and fresh rows together reach exactly the budget
 * before anything is evicted. A text as long as the budget then keeps all of its rows. */
static int attention_scissor_room(struct attention *base, uint32_t *ret_rows, struct failure *failure) {
    struct attention_scissor *scissor = (struct attention_scissor *)base;
    uint64_t seen = scissor_tokens_seen(scissor->session);
    bool early = seen > 0 && seen == scissor->first_settle;
    if ((early && scissor_fresh_count(scissor->session) > 0) || scissor_fresh_room(scissor->session) == 0) {
        int r = scissor_settle(scissor->session);
        if (r != 0 && r != SCISSOR_SCORES_LOST)
            return attention_scissor_fail(scissor, r, failure);
    }
    uint32_t room = scissor_fresh_room(scissor->session);
    *ret_rows = seen < scissor->first_settle ? scissor->first_settle - (uint32_t)seen : room;
    return 0;
}

static int attention_scissor_begin(struct attention *base, uint32_t rows, struct failure *failure) {
    struct attention_scissor *scissor = (struct attention_scissor *)base;
    int r = scissor_step_begin(scissor->session, rows);
    return r == 0 ? 0 : attention_scissor_fail(scissor, r, failure);
}

static int attention_scissor_attend(struct attention *base, uint32_t layer, const float *q, const float *k,
                                    const float *v, float *out, struct failure *failure) {
    struct attention_scissor *scissor = (struct attention_scissor *)base;
    const struct scissor_attend_item item = {
        .session = scissor->session, .layer = layer, .scale = scissor->scale, .q = q, .out = out};
    int r = scissor_append(scissor->session, layer, k, v, SCISSOR_F32);
    if (r == 0)
        r = scissor_attend(&item, 1);
    return r == 0 ? 0 : attention_scissor_fail(scissor, r, failure);
}

static int attention_scissor_end(struct attention *base, struct failure *failure) {
    struct attention_scissor *scissor = (struct attention_scissor *)base;
    int r = scissor_step_end(scissor->session);
    return r == 0 ? 0 : attention_scissor_fail(scissor, r, failure);
}

static void attention_scissor_stat(const struct attention *base, struct attention_stat *ret) {
    const struct attention_scissor *scissor = (const struct attention_scissor *)base;
    struct scissor_session_info info;
    scissor_session_info(scissor->session, &info);
    *ret = (struct attention_stat){.tokens_seen = info.tokens_seen,
                                   .rows_per_head = (uint64_t)info.max_settled + info.fresh_count,
                                   .settled = info.max_settled,
                                   .bytes = info.segments_bytes,
                                   .evictions = info.evicted_rows,
                                   .device = scissor_session_device(scissor->session),
                                   .session = scissor_session_id(scissor->session)};
}

static void attention_scissor_free(struct attention *base) {
    struct attention_scissor *scissor = (struct attention_scissor *)base;
    if (!scissor)
        return;
    if (!base->abandoned)
        scissor_close(scissor->session);
    /* What stays of the session is freed with the client. */
    scissor_disconnect(scissor->client);
    private_daemon_stop(scissor->daemon);
    scissor_free(scissor);
}

/* ---------- opening ---------- */

/* The library's own text names what the code cannot: both versions, or the reason of a system call. */
static int attention_scissor_fail_connect(const char *directory, int code, struct failure *failure) {
    const char *said = scissor_last_text(NULL);
    return failure_set(failure, code, "%.80s: %s%s%.120s%s", directory, scissor_strerror(code), *said ? " (" : "", said,
                       *said ? ")" : "");
}

/* Bytes that a daemon surely does not pass for what it keeps beside a settled row: position, scores, and a count of
 * hits for each settle in the history window of a policy that has one (--param window). */
static uint64_t attention_scissor_row_extra(const struct attention_scissor_options *options) {
    double window = 1024; /* more than any policy has if it is not told */
    for (uint32_t i = 0; i < options->param_count; i++)
        if (strcmp(options->params[i].name, "window") == 0 && options->params[i].value > window)
            window = fmin(options->params[i].value, PRIVATE_MAX_WINDOW);
    return 64 + sizeof(float) * ((uint64_t)window / options->fresh + 1);
}

/* A pool that surely holds this one session: its settled pages and fresh buffers in whole segments, one more page per
 * head for rows on the move, what is kept beside the rows, an eighth and 32 MiB for what else the daemon charges. It is
 * a limit and takes nothing, so too much does no harm. */
uint32_t attention_scissor_pool_mib(const struct model_shape *shape, const struct attention_scissor_options *options) {
    uint32_t compute = (uint32_t)kernel_dtype_size(options->compute_dtype);
    uint32_t per_segment = layout_pages_per_segment(options->storage_dtype, shape->head_dim);
    uint64_t heads = (uint64_t)shape->layers * shape->kv_heads;
    uint64_t pages = heads * (layout_pages_of_rows(options->budget) + 1);
    uint64_t segments = pages / (per_segment ? per_segment : 1) + 1;
    struct layout_fresh walk = {0};
    for (uint64_t i = 0; i < heads; i++)
        layout_fresh_next(&walk, compute, options->fresh, shape->head_dim);
    uint64_t bytes = (segments + walk.segments) * SCISSOR_SEGMENT_BYTES;
    bytes += (pages + per_segment) * SCISSOR_PAGE_ROWS * attention_scissor_row_extra(options);
    uint64_t mib = (bytes + bytes / 8) / (1 << 20) + 32;
    return mib > UINT32_MAX ? UINT32_MAX : (uint32_t)mib;
}

static int attention_scissor_start_private(struct attention_scissor *scissor, const struct model_shape *shape,
                                           const struct attention_scissor_options *options, struct failure *failure) {
    uint32_t mib = options->pool_mib ? options->pool_mib : attention_scissor_pool_mib(shape, options);
    const struct private_daemon_options daemon = {.pool_mib = mib, .device = options->device};
    int r = private_daemon_start(&daemon, &scissor->daemon, failure);
    return r == 0 ? private_daemon_await(scissor->daemon, failure) : r;
}

static int attention_scissor_connect(struct attention_scissor *scissor, const struct model_shape *shape,
                                     const struct attention_scissor_options *options, struct failure *failure) {
    const char *directory = options->directory;
    int r = directory ? 0 : attention_scissor_start_private(scissor, shape, options, failure);
    if (r != 0)
        return r;
    directory = directory ? directory : private_daemon_directory(scissor->daemon);
    r = scissor_connect(directory, &scissor->client);
    return r == 0 ? 0 : attention_scissor_fail_connect(directory, r, failure);
}

static int attention_scissor_open(struct attention_scissor *scissor, const struct model_shape *shape,
                                  const struct attention_scissor_options *options, struct failure *failure) {
    struct scissor_session_spec spec = {
        .compute_dtype = options->compute_dtype,
        .storage_dtype = options->storage_dtype,
        .fresh_rows = options->fresh,
        .priority = options->priority,
        .wait_ms = options->wait_ms,
        .group_count = 1,
        .groups = {{.layers = shape->layers,
                    .kv_heads = shape->kv_heads,
                    .q_heads = shape->q_heads,
                    .head_dim = shape->head_dim,
                    .guaranteed_rows = options->guarantee,
                    .max_rows = options->budget}},
    };
    snprintf(spec.name, sizeof(spec.name), "%s", options->name ? options->name : "scissor-run");
    if (options->policy && strlen(options->policy) >= sizeof(spec.groups[0].policy))
        return failure_set(failure, SCISSOR_EINVAL, "there is no policy %.40s", options->policy);
    snprintf(spec.groups[0].policy, sizeof(spec.groups[0].policy), "%s", options->policy ? options->policy : "");
    for (uint32_t i = 0; i < options->param_count && i < SCISSOR_MAX_PARAMS; i++)
        spec.groups[0].params[i] = options->params[i];
    int r = scissor_open(scissor->client, &spec, &scissor->session);
    return r == 0 ? 0 : attention_scissor_fail(scissor, r, failure);
}

/* Whether `device`, a full name, is what the user asked for. A number is this process's, as is what it may see. */
static bool attention_scissor_same_device(const char *wanted, const char *device) {
    char why[8];
    if (strcmp(wanted, "cuda") == 0)
        return strncmp(device, "cuda:", 5) == 0;
    if (strcmp(wanted, "host") == 0 || strncmp(wanted, "cuda:GPU-", 9) == 0)
        return strncmp(device, wanted, strlen(wanted)) == 0;
    struct kernel_backend *backend = kernel_backend_open(wanted, why, sizeof(why));
    bool same = backend && strcmp(backend->device, device) == 0;
    kernel_backend_close(backend);
    return same;
}

/* A daemon that was there before has its pools where it has them. */
static int attention_scissor_check_device(const struct attention_scissor *scissor,
                                          const struct attention_scissor_options *options, struct failure *failure) {
    const char *device = scissor_session_device(scissor->session);
    if (!options->device || attention_scissor_same_device(options->device, device))
        return 0;
    return failure_set(
        failure, SCISSOR_EDEVICE,
        "the daemon has its pool on %s, not on %s; leave --device out, or --socket for a daemon of its own", device,
        options->device);
}

int attention_scissor_new(const struct model_shape *shape, const struct attention_scissor_options *options,
                          struct attention **ret_attention, struct failure *failure) {
    struct attention_scissor *scissor = scissor_calloc(1, sizeof(*scissor));
    if (!scissor)
        return failure_set_memory(failure);
    scissor->base = (struct attention){.room = attention_scissor_room,
                                       .begin = attention_scissor_begin,
                                       .attend = attention_scissor_attend,
                                       .end = attention_scissor_end,
                                       .stat = attention_scissor_stat,
                                       .free = attention_scissor_free};
    scissor->scale = 1.0f / sqrtf((float)shape->head_dim);
    scissor->first_settle = options->budget % options->fresh;
    int r = attention_scissor_connect(scissor, shape, options, failure);
    if (r == 0)
        r = attention_scissor_open(scissor, shape, options, failure);
    if (r == 0)
        r = attention_scissor_check_device(scissor, options, failure);
    if (r != 0) {
        attention_scissor_free(&scissor->base);
        return r;
    }
    *ret_attention = &scissor->base;
    return 0;
}
