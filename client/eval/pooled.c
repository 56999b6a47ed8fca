/* pooled.c - see pooled.h.
 *
 * All sessions are driven from this thread, one step at a time, so that a run's order is always the same; what the
 * daemons do about it (shrinking who is idle, lending to who settles) is theirs. */
#include "pooled.h"

#include <math.h>

#include "alloc.h"
#include "charge.h"
#include "layout.h"
#include "llama/attention_scissor.h"
#include "llama/private_daemon.h"

#define POOLED_ROWS 128u         /* tokens of a window */
#define POOLED_LEAST_SETTLED 16u /* the daemon's */

const char *const pooled_way_names[POOLED_WAYS] = {"arbiter", "equal", "lru"};

/* A forward pass knows the position that its text is at, so each has its own. */
struct pooled_full {
    struct attention *attention;
    struct forward *forward;
};

struct pooled_session {
    struct attention *attention;
    struct forward *forward;
    struct comparison_sum sum;
    double rows_sum, bytes_sum; /* over the positions that count; over all tokens */
    uint64_t bytes_peak;
};

struct pooled_daemon {
    struct private_daemon *daemon;
    struct pooled_session sessions[WORKLOAD_SESSIONS];
};

/* What a run needs; made and freed with it. */
struct pooled_state {
    const struct eval_options *options;
    const struct eval_config *config;
    const struct model *model;
    struct progress *progress;
    size_t done;
    struct workload workload;
    struct pooled *found;
    const uint32_t *tokens[WORKLOAD_SESSIONS];
    struct pooled_full full[WORKLOAD_SESSIONS];
    float *logits_full, *logits; /* [POOLED_ROWS][vocabulary] */
    struct compare_full compared[POOLED_ROWS];
    struct pooled_daemon ways[POOLED_WAYS];
    bool pool_was_full; /* rows have been evicted for want of memory */
};

uint32_t pooled_worst(const struct figures figures[WORKLOAD_SESSIONS]) {
    uint32_t worst = 0;
    for (uint32_t i = 1; i < WORKLOAD_SESSIONS; i++)
        if (figures[i].kl > figures[worst].kl || isnan(figures[worst].kl))
            worst = i;
    return worst;
}

size_t pooled_work(const struct eval_options *options) {
    struct workload workload;
    size_t tokens = 0;
    workload_init(&workload, options->tokens);
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++)
        tokens += workload.tokens[i] - 1;
    return tokens * (1 + POOLED_WAYS);
}

/* ---------- texts and bytes ---------- */

/* Sessions take the texts in turn, and each goes on where the one before it stopped. */
static int pooled_choose_texts(struct pooled_state *state, const struct token_list *lists, struct failure *failure) {
    size_t used[EVAL_MAX_TEXTS] = {0};
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        uint32_t text = i % state->options->text_count, tokens = state->workload.tokens[i];
        if (lists[text].count - used[text] < tokens)
            return failure_set(failure, SCISSOR_EINVAL,
                               "%.160s has %zu tokens, and its sessions read more; give more texts, or fewer --tokens",
                               state->options->texts[text], lists[text].count);
        state->tokens[i] = lists[text].ids + used[text];
        state->found->text[i] = text;
        used[text] += tokens;
    }
    return 0;
}

static int pooled_choose_bytes(struct pooled_state *state, struct failure *failure) {
    struct pooled *found = state->found;
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++)
        found->bytes_full += config_full_bytes(&state->model->shape, state->workload.tokens[i]);
    found->pool_mib = state->options->pool_mib;
    if (state->options->pool_divisor > 0)
        found->pool_mib = (uint32_t)((double)found->bytes_full / state->options->pool_divisor / (1 << 20));
    return found->pool_mib > 0 ? 0 : failure_set(failure, SCISSOR_EINVAL, "the pool would have less than 1 MiB");
}

/* ---------- opening ---------- */

/* Rows per KV head, fresh ones included, that a session with so many segments has. */
static uint32_t pooled_segment_rows(const struct pooled_state *state, uint32_t segments) {
    const struct model_shape *shape = &state->model->shape;
    uint32_t per_segment = layout_pages_per_segment(state->config->cache, shape->head_dim);
    uint64_t pages = (uint64_t)segments * per_segment / (shape->layers * shape->kv_heads);
    return (uint32_t)(state->config->fresh + pages * SCISSOR_PAGE_ROWS);
}

static int pooled_open_session(struct pooled_state *state, enum pooled_way way, uint32_t session, uint32_t guarantee,
                               uint32_t budget, struct failure *failure) {
    const struct eval_config *config = state->config;
    const struct attention_scissor_options options = {
        .directory = private_daemon_directory(state->ways[way].daemon),
        .device = state->options->device,
        .name = "scissor-eval",
        .policy = config->policy,
        .params = config->params,
        .param_count = config->param_count,
        .budget = budget,
        .guarantee = guarantee,
        .fresh = config->fresh,
        .storage_dtype = config->cache,
        .compute_dtype = config_compute(config),
    };
    return attention_scissor_new(&state->model->shape, &options, &state->ways[way].sessions[session].attention,
                                 failure);
}

static void pooled_close_sessions(struct pooled_daemon *way, bool failed) {
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        if (way->sessions[i].attention) {
            way->sessions[i].attention->abandoned = failed;
            way->sessions[i].attention->free(way->sessions[i].attention);
        }
        way->sessions[i].attention = NULL;
    }
}

/* As many rows as each wants, of which the least possible number is guaranteed. */
static int pooled_open_lent(struct pooled_state *state, enum pooled_way way, struct failure *failure) {
    uint32_t least = state->config->fresh + POOLED_LEAST_SETTLED, most = state->options->tokens;
    int r = 0;
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS && r == 0; i++)
        r = pooled_open_session(state, way, i, least, most > least ? most : least, failure);
    return r;
}

/* `segments` for all together; what cannot be divided is the longest ones'. */
static int pooled_open_shares(struct pooled_state *state, uint32_t segments, struct failure *failure) {
    int r = 0;
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS && r == 0; i++) {
        bool more = i >= WORKLOAD_SESSIONS - segments % WORKLOAD_SESSIONS;
        uint32_t rows = pooled_segment_rows(state, segments / WORKLOAD_SESSIONS + more);
        r = pooled_open_session(state, POOLED_EQUAL, i, rows, rows, failure);
    }
    return r;
}

/* The most segments that the pool can guarantee beside everything else that it is charged. */
static int pooled_open_equal(struct pooled_state *state, struct failure *failure) {
    int r = SCISSOR_FULL;
    uint32_t segments = (uint32_t)((uint64_t)state->found->pool_mib * (1 << 20) / SCISSOR_SEGMENT_BYTES);
    for (; segments >= WORKLOAD_SESSIONS && r == SCISSOR_FULL; segments--) {
        r = pooled_open_shares(state, segments, failure);
        if (r != 0)
            pooled_close_sessions(&state->ways[POOLED_EQUAL], false);
    }
    return r;
}

static int pooled_open_way(struct pooled_state *state, enum pooled_way way, struct failure *failure) {
    const struct private_daemon_options options = {.pool_mib = state->found->pool_mib,
                                                   .device = state->options->device,
                                                   .reclaim = way == POOLED_LRU ? "lru" : NULL};
    struct failure why;
    int r = private_daemon_start(&options, &state->ways[way].daemon, failure);
    if (r == 0)
        r = private_daemon_await(state->ways[way].daemon, failure);
    if (r != 0)
        return r;
    r = way == POOLED_EQUAL ? pooled_open_equal(state, &why) : pooled_open_lent(state, way, &why);
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS && r == 0; i++)
        r = forward_new(state->model, POOLED_ROWS, &state->ways[way].sessions[i].forward, &why);
    if (r == SCISSOR_FULL)
        return failure_set(failure, SCISSOR_EINVAL, "a pool of %u MiB is too small for eight sessions",
                           options.pool_mib);
    return r == 0 ? 0 : failure_set(failure, r, "%s: %.240s", pooled_way_names[way], why.text);
}

static int pooled_open(struct pooled_state *state, struct failure *failure) {
    const struct model *model = state->model;
    size_t logits = (size_t)POOLED_ROWS * model->shape.vocabulary * sizeof(float);
    state->logits_full = scissor_malloc(logits);
    state->logits = scissor_malloc(logits);
    if (!state->logits_full || !state->logits)
        return failure_set_memory(failure);
    int r = 0;
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS && r == 0; i++) {
        struct pooled_full *full = &state->full[i];
        r = attention_full_new(&model->shape, state->workload.tokens[i], POOLED_ROWS, &full->attention, failure);
        if (r == 0)
            r = forward_new(model, POOLED_ROWS, &full->forward, failure);
    }
    for (uint32_t way = 0; way < POOLED_WAYS && r == 0; way++)
        r = pooled_open_way(state, way, failure);
    return r;
}

static void pooled_close(struct pooled_state *state, bool failed) {
    for (uint32_t way = 0; way < POOLED_WAYS; way++) {
        for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++)
            forward_free(state->ways[way].sessions[i].forward);
        pooled_close_sessions(&state->ways[way], failed);
        private_daemon_stop(state->ways[way].daemon);
    }
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        if (state->full[i].attention)
            state->full[i].attention->free(state->full[i].attention);
        forward_free(state->full[i].forward);
    }
    scissor_free(state->logits_full);
    scissor_free(state->logits);
}

/* ---------- reading ---------- */

static void pooled_progress(struct pooled_state *state, uint32_t rows) {
    state->done += rows;
    progress_show(state->progress, state->done);
}

static int pooled_read_full(struct pooled_state *state, const struct workload_turn *window, struct failure *failure) {
    size_t vocabulary = state->model->shape.vocabulary;
    uint32_t rows = window->to - window->from, scored = state->pool_was_full ? rows : 0;
    const struct pooled_full *full = &state->full[window->session];
    int r = forward_step(full->forward, full->attention, state->tokens[window->session] + window->from, rows, scored,
                         state->logits_full, failure);
    for (uint32_t i = 0; i < scored && r == 0; i++)
        compare_full_init(&state->compared[i], state->logits_full + i * vocabulary, vocabulary);
    pooled_progress(state, rows);
    return r;
}

static void pooled_compare(struct pooled_state *state, struct pooled_session *session,
                           const struct workload_turn *window, uint32_t at, uint32_t rows) {
    size_t vocabulary = state->model->shape.vocabulary;
    for (uint32_t i = 0; i < rows; i++) {
        struct comparison comparison;
        compare_logits(&state->compared[at - window->from + i], state->logits + i * vocabulary,
                       state->tokens[window->session][at + i + 1], &comparison);
        comparison_add(&session->sum, &comparison);
    }
}

static void pooled_count(const struct pooled_state *state, struct pooled_session *session, uint32_t rows) {
    struct attention_stat stat;
    session->attention->stat(session->attention, &stat);
    /* Without what is lent for details while the pool has room. */
    uint64_t bytes = config_bytes(state->config, &state->model->shape, (uint32_t)stat.settled, stat.settled);
    session->bytes_sum += (double)bytes * rows;
    if (bytes > session->bytes_peak)
        session->bytes_peak = bytes;
    if (state->pool_was_full)
        session->rows_sum += (double)stat.rows_per_head * rows;
}

/* One step from token `at` on, as long as the fresh buffer and the window allow. */
static int pooled_step(struct pooled_state *state, struct pooled_session *session, const struct workload_turn *window,
                       uint32_t at, uint32_t *ret_rows, struct failure *failure) {
    uint32_t room, rows = window->to - at;
    int r = session->attention->room(session->attention, &room, failure);
    if (r != 0)
        return r;
    rows = rows < room ? rows : room;
    uint32_t scored = state->pool_was_full ? rows : 0;
    r = forward_step(session->forward, session->attention, state->tokens[window->session] + at, rows, scored,
                     state->logits, failure);
    if (r != 0)
        return r;
    pooled_compare(state, session, window, at, scored);
    pooled_count(state, session, rows);
    pooled_progress(state, rows);
    *ret_rows = rows;
    return 0;
}

static int pooled_follow(struct pooled_state *state, struct pooled_session *session, const struct workload_turn *window,
                         struct failure *failure) {
    int r = 0;
    for (uint32_t at = window->from, rows; at < window->to && r == 0; at += r == 0 ? rows : 0)
        r = engine_was_interrupted() ? ENGINE_INTERRUPTED : pooled_step(state, session, window, at, &rows, failure);
    return r;
}

/* Nothing else evicts in the arbiter's daemon, as each session may have every row. */
static void pooled_look_at_pool(struct pooled_state *state, const struct workload_turn *window) {
    struct attention_stat stat;
    if (state->pool_was_full)
        return;
    state->found->read_before += window->to - window->from;
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        struct attention *attention = state->ways[POOLED_ARBITER].sessions[i].attention;
        attention->stat(attention, &stat);
        state->pool_was_full |= stat.evictions > 0;
    }
}

static int pooled_read_window(struct pooled_state *state, const struct workload_turn *window, struct failure *failure) {
    int r = engine_was_interrupted() ? ENGINE_INTERRUPTED : pooled_read_full(state, window, failure);
    for (uint32_t way = 0; way < POOLED_WAYS && r == 0; way++)
        r = pooled_follow(state, &state->ways[way].sessions[window->session], window, failure);
    if (r == 0)
        pooled_look_at_pool(state, window);
    return r;
}

static int pooled_read(struct pooled_state *state, struct failure *failure) {
    int r = 0;
    for (uint32_t i = 0; i < state->workload.turn_count && r == 0; i++) {
        const struct workload_turn *turn = &state->workload.turns[i];
        for (struct workload_turn window = *turn; window.from < turn->to && r == 0; window.from = window.to) {
            window.to = turn->to - window.from > POOLED_ROWS ? window.from + POOLED_ROWS : turn->to;
            r = pooled_read_window(state, &window, failure);
        }
    }
    if (r == 0 && !state->pool_was_full)
        r = failure_set(failure, SCISSOR_EINVAL, "a pool of %u MiB holds every row; name a smaller one",
                        state->found->pool_mib);
    return r;
}

/* ---------- the figures ---------- */

/* The session is still open: the daemon says what it charges for it. */
static int pooled_figures(const struct pooled_state *state, enum pooled_way way, uint32_t i, struct figures *ret,
                          struct failure *failure) {
    const struct pooled_session *session = &state->ways[way].sessions[i];
    uint32_t tokens = state->workload.tokens[i];
    uint64_t bytes_daemon = 0;
    struct attention_stat stat;
    session->attention->stat(session->attention, &stat);
    int r = charge_beside_rows(private_daemon_directory(state->ways[way].daemon), stat.session, &bytes_daemon, failure);
    if (r != 0)
        return r;
    *ret = figures_of(&session->sum);
    ret->tokens = tokens;
    ret->bytes_peak = (double)session->bytes_peak;
    ret->bytes_mean = session->bytes_sum / (tokens - 1);
    ret->bytes_full = (double)config_full_bytes(&state->model->shape, tokens);
    ret->bytes_daemon = (double)bytes_daemon;
    ret->rows = session->rows_sum / session->sum.scored;
    return 0;
}

int pooled_run(const struct eval_options *options, const struct model *model, const struct token_list *lists,
               struct progress *progress, struct pooled *ret_pooled, struct failure *failure) {
    struct pooled found = {0};
    struct pooled_state state = {
        .options = options, .config = options->configs, .model = model, .progress = progress, .found = &found};
    workload_init(&state.workload, options->tokens);
    int r = pooled_choose_texts(&state, lists, failure);
    if (r == 0)
        r = pooled_choose_bytes(&state, failure);
    if (r == 0)
        r = pooled_open(&state, failure);
    if (r == 0)
        r = pooled_read(&state, failure);
    for (uint32_t way = 0; way < POOLED_WAYS && r == 0; way++)
        for (uint32_t i = 0; i < WORKLOAD_SESSIONS && r == 0; i++)
            r = pooled_figures(&state, way, i, &found.figures[way][i], failure);
    pooled_close(&state, r != 0);
    if (r == 0)
        *ret_pooled = found;
    return r;
}
