/* lockstep.c - see lockstep.h. */
#include "lockstep.h"

#include <string.h>

#include "alloc.h"
#include "charge.h"
#include "compare.h"
#include "llama/attention_scissor.h"
#include "llama/private_daemon.h"

#define LOCKSTEP_ROWS 128u /* tokens of a window */

/* One configuration's session, and what has been summed up over the tokens so far. */
struct lockstep_session {
    const struct eval_config *config;
    struct attention *attention;
    struct forward *forward;
    struct comparison_sum sum;
    double bytes_sum;
    uint64_t bytes_peak, rows;
};

struct lockstep_window {
    uint32_t from, to;    /* tokens */
    uint32_t scored_from; /* first position whose logits are compared, in from..to */
    struct compare_full full[LOCKSTEP_ROWS];
};

/* What a text needs; made and freed with it. */
struct lockstep_text {
    struct lockstep *lockstep;
    const uint32_t *tokens;
    struct attention *attention; /* the full cache */
    struct forward *forward;
    float *logits_full, *logits; /* [LOCKSTEP_ROWS][vocabulary] */
    struct lockstep_session *sessions;
    struct lockstep_window window;
};

/* ---------- the daemon ---------- */

static struct attention_scissor_options lockstep_session_options(const struct lockstep *lockstep,
                                                                 const struct eval_config *config) {
    uint32_t rows = config_rows(config, &lockstep->model->shape, lockstep->options->tokens);
    return (struct attention_scissor_options){
        .directory = lockstep->daemon ? private_daemon_directory(lockstep->daemon) : NULL,
        .device = lockstep->options->device,
        .name = "scissor-eval",
        .policy = config->policy,
        .params = config->params,
        .param_count = config->param_count,
        .budget = rows,
        .guarantee = rows,
        .fresh = config->fresh,
        .storage_dtype = config->cache,
        .compute_dtype = config_compute(config),
    };
}

/* What all sessions at once surely need. */
static int lockstep_pool(const struct lockstep *lockstep, uint32_t *ret_mib, struct failure *failure) {
    uint64_t mib = 0;
    for (uint32_t i = 0; i < lockstep->options->config_count; i++) {
        struct attention_scissor_options session = lockstep_session_options(lockstep, &lockstep->options->configs[i]);
        char name[CONFIG_NAME_BYTES];
        config_name(&lockstep->options->configs[i], name);
        if (session.budget == 0)
            return failure_set(failure, SCISSOR_EINVAL, "%s: fewer rows than the fresh buffer's %u and 16", name,
                               session.fresh);
        mib += attention_scissor_pool_mib(&lockstep->model->shape, &session);
    }
    *ret_mib = mib > UINT32_MAX ? UINT32_MAX : (uint32_t)mib;
    return 0;
}

int lockstep_init(struct lockstep *lockstep, const struct eval_options *options, const struct model *model,
                  struct progress *progress, struct failure *failure) {
    uint32_t mib;
    *lockstep =
        (struct lockstep){.options = options, .model = model, .progress = progress, .score_from = options->score_from};
    int r = lockstep_pool(lockstep, &mib, failure);
    if (r == 0)
        r = private_daemon_start(&(struct private_daemon_options){.pool_mib = mib, .device = options->device},
                                 &lockstep->daemon, failure);
    return r == 0 ? private_daemon_await(lockstep->daemon, failure) : r;
}

void lockstep_deinit(struct lockstep *lockstep) {
    private_daemon_stop(lockstep->daemon);
    *lockstep = (struct lockstep){0};
}

/* ---------- one text ---------- */

static void lockstep_close_text(struct lockstep_text *text) {
    for (uint32_t i = 0; text->sessions && i < text->lockstep->options->config_count; i++) {
        forward_free(text->sessions[i].forward);
        if (text->sessions[i].attention)
            text->sessions[i].attention->free(text->sessions[i].attention);
    }
    forward_free(text->forward);
    if (text->attention)
        text->attention->free(text->attention);
    scissor_free(text->logits_full);
    scissor_free(text->logits);
    scissor_free(text->sessions);
}

static int lockstep_open_session(struct lockstep_text *text, const struct eval_config *config,
                                 struct lockstep_session *session, struct failure *failure) {
    struct attention_scissor_options options = lockstep_session_options(text->lockstep, config);
    char name[CONFIG_NAME_BYTES];
    struct failure why;
    config_name(config, name);
    session->config = config;
    int r = attention_scissor_new(&text->lockstep->model->shape, &options, &session->attention, &why);
    if (r != 0)
        return failure_set(failure, r, "%.80s: %.220s", name, why.text);
    return forward_new(text->lockstep->model, LOCKSTEP_ROWS, &session->forward, failure);
}

static int lockstep_open_text(struct lockstep_text *text, struct failure *failure) {
    const struct eval_options *options = text->lockstep->options;
    const struct model *model = text->lockstep->model;
    size_t logits = (size_t)LOCKSTEP_ROWS * model->shape.vocabulary * sizeof(float);
    text->logits_full = scissor_malloc(logits);
    text->logits = scissor_malloc(logits);
    text->sessions = scissor_calloc(options->config_count, sizeof(*text->sessions));
    if (!text->logits_full || !text->logits || !text->sessions)
        return failure_set_memory(failure);
    int r = attention_full_new(&model->shape, options->tokens, LOCKSTEP_ROWS, &text->attention, failure);
    if (r == 0)
        r = forward_new(model, LOCKSTEP_ROWS, &text->forward, failure);
    for (uint32_t i = 0; i < options->config_count && r == 0; i++)
        r = lockstep_open_session(text, &options->configs[i], &text->sessions[i], failure);
    return r;
}

static uint32_t lockstep_min(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* How many of the last rows of a step that ends before `to` are compared. */
static uint32_t lockstep_scored(const struct lockstep_text *text, uint32_t rows, uint32_t to) {
    uint32_t from = text->lockstep->score_from;
    return to > from ? lockstep_min(to - from, rows) : 0;
}

static void lockstep_progress(struct lockstep_text *text, uint32_t rows) {
    text->lockstep->done += rows;
    progress_show(text->lockstep->progress, text->lockstep->done);
}

static int lockstep_read_full(struct lockstep_text *text, struct failure *failure) {
    struct lockstep_window *window = &text->window;
    size_t vocabulary = text->lockstep->model->shape.vocabulary;
    uint32_t rows = window->to - window->from, scored = lockstep_scored(text, rows, window->to);
    window->scored_from = window->to - scored;
    int r = forward_step(text->forward, text->attention, text->tokens + window->from, rows, scored, text->logits_full,
                         failure);
    for (uint32_t i = 0; i < scored && r == 0; i++)
        compare_full_init(&window->full[i], text->logits_full + i * vocabulary, vocabulary);
    lockstep_progress(text, rows);
    return r;
}

static void lockstep_compare(struct lockstep_text *text, struct lockstep_session *session, uint32_t position,
                             const float *logits) {
    struct comparison comparison;
    compare_logits(&text->window.full[position - text->window.scored_from], logits, text->tokens[position + 1],
                   &comparison);
    comparison_add(&session->sum, &comparison);
}

static void lockstep_count_bytes(const struct lockstep_text *text, struct lockstep_session *session, uint32_t rows) {
    struct attention_stat stat;
    session->attention->stat(session->attention, &stat);
    const struct model_shape *shape = &text->lockstep->model->shape;
    uint32_t most = config_rows(session->config, shape, text->lockstep->options->tokens) - session->config->fresh;
    uint64_t bytes = config_bytes(session->config, shape, most, stat.settled);
    session->bytes_sum += (double)bytes * rows;
    if (bytes > session->bytes_peak)
        session->bytes_peak = bytes;
    if (stat.rows_per_head > session->rows)
        session->rows = stat.rows_per_head;
}

/* One step from token `at` on, as long as the fresh buffer and the window allow. */
static int lockstep_step(struct lockstep_text *text, struct lockstep_session *session, uint32_t at, uint32_t *ret_rows,
                         struct failure *failure) {
    uint32_t room, vocabulary = text->lockstep->model->shape.vocabulary;
    int r = session->attention->room(session->attention, &room, failure);
    if (r != 0)
        return r;
    uint32_t rows = lockstep_min(room, text->window.to - at), scored = lockstep_scored(text, rows, at + rows);
    r = forward_step(session->forward, session->attention, text->tokens + at, rows, scored, text->logits, failure);
    if (r != 0)
        return r;
    for (uint32_t i = 0; i < scored; i++)
        lockstep_compare(text, session, at + rows - scored + i, text->logits + (size_t)i * vocabulary);
    lockstep_count_bytes(text, session, rows);
    lockstep_progress(text, rows);
    *ret_rows = rows;
    return 0;
}

static int lockstep_follow(struct lockstep_text *text, struct lockstep_session *session, struct failure *failure) {
    int r = 0;
    for (uint32_t at = text->window.from, rows; at < text->window.to && r == 0; at += r == 0 ? rows : 0)
        r = engine_was_interrupted() ? ENGINE_INTERRUPTED : lockstep_step(text, session, at, &rows, failure);
    return r;
}

/* The last token is only predicted. */
static int lockstep_read(struct lockstep_text *text, struct failure *failure) {
    uint32_t count = text->lockstep->options->tokens - 1;
    int r = 0;
    for (uint32_t at = 0; at < count && r == 0; at = text->window.to) {
        text->window.from = at;
        text->window.to = lockstep_min(count, at + LOCKSTEP_ROWS);
        r = engine_was_interrupted() ? ENGINE_INTERRUPTED : lockstep_read_full(text, failure);
        for (uint32_t i = 0; i < text->lockstep->options->config_count && r == 0; i++)
            r = lockstep_follow(text, &text->sessions[i], failure);
    }
    return r;
}

/* The session is still open: the daemon says what it charges for it. */
static int lockstep_figures(const struct lockstep_text *text, const struct lockstep_session *session,
                            struct figures *ret, struct failure *failure) {
    uint32_t tokens = text->lockstep->options->tokens;
    uint64_t bytes_daemon = 0;
    struct attention_stat stat;
    session->attention->stat(session->attention, &stat);
    int r = charge_beside_rows(private_daemon_directory(text->lockstep->daemon), stat.session, &bytes_daemon, failure);
    if (r != 0)
        return r;
    *ret = figures_of(&session->sum);
    ret->tokens = tokens;
    ret->bytes_peak = (double)session->bytes_peak;
    ret->bytes_mean = session->bytes_sum / (tokens - 1);
    ret->bytes_full = (double)config_full_bytes(&text->lockstep->model->shape, tokens);
    ret->bytes_daemon = (double)bytes_daemon;
    ret->rows = (double)session->rows;
    return 0;
}

int lockstep_run(struct lockstep *lockstep, const uint32_t *tokens, struct figures *ret_figures,
                 struct failure *failure) {
    struct lockstep_text text = {.lockstep = lockstep, .tokens = tokens};
    int r = lockstep_open_text(&text, failure);
    if (r == 0)
        r = lockstep_read(&text, failure);
    for (uint32_t i = 0; i < lockstep->options->config_count && r == 0; i++)
        r = lockstep_figures(&text, &text.sessions[i], &ret_figures[i], failure);
    lockstep_close_text(&text);
    return r;
}
