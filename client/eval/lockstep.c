/* lockstep.c - see lockstep.h. */
#include "lockstep.h"

#include <string.h>

#include "alloc.h"
#include "charge.h"
#include "compare.h"
#include "llama/attention_scissor.h"
#include "llama/private_daemon.h"

#define LOCKSTEP_ROWS 128u   /* tokens of a window */
#define LOCKSTEP_LOGITS 512u /* rows whose logits are computed together */

/* One configuration's session, and what has been summed up over the tokens so far. */
struct lockstep_session {
    const struct eval_config *config;
    struct attention *attention;
    uint32_t at; /* tokens read */
    struct comparison_sum sum;
    double bytes_sum;
    uint64_t bytes_peak, rows;
};

struct lockstep_window {
    uint32_t from, to;    /* tokens */
    uint32_t scored_from; /* first position whose logits are compared, in from..to */
    struct compare_full full[LOCKSTEP_ROWS];
};

struct lockstep_text;

/* One thread's share of a text's sessions: every so many of them, from the thread's own number on. */
struct lockstep_share {
    struct lockstep_text *text;
    uint32_t number;
    struct forward *forward;
    float *logits; /* [LOCKSTEP_LOGITS][vocabulary] */
    uint32_t scored_rows[LOCKSTEP_LOGITS];
    pthread_t thread;
    int code; /* how it ended */
    struct failure failure;
};

/* What a text needs; made and freed with it. */
struct lockstep_text {
    struct lockstep *lockstep;
    const uint32_t *tokens;
    struct attention *attention; /* the full cache */
    struct forward *forward;
    float *logits; /* [LOCKSTEP_ROWS][vocabulary], the full cache's */
    struct lockstep_session *sessions;
    struct lockstep_share *shares;
    struct lockstep_window window;
};

static uint32_t lockstep_min(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

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
    *lockstep = (struct lockstep){.options = options,
                                  .model = model,
                                  .progress = progress,
                                  .score_from = options->score_from,
                                  .threads = engine_threads(options->threads)};
    if (lockstep->threads > options->config_count)
        lockstep->threads = 1; /* better all of them for each product */
    pthread_mutex_init(&lockstep->lock, NULL);
    int r = lockstep_pool(lockstep, &mib, failure);
    if (r == 0)
        r = private_daemon_start(&(struct private_daemon_options){.pool_mib = mib, .device = options->device},
                                 &lockstep->daemon, failure);
    return r == 0 ? private_daemon_await(lockstep->daemon, failure) : r;
}

void lockstep_deinit(struct lockstep *lockstep) {
    private_daemon_stop(lockstep->daemon);
    pthread_mutex_destroy(&lockstep->lock);
    *lockstep = (struct lockstep){0};
}

/* ---------- one text ---------- */

/* After a failure nobody is asked to close anything: whoever does not answer would be waited for once a session. */
static void lockstep_close_text(struct lockstep_text *text, bool failed) {
    for (uint32_t i = 0; text->shares && i < text->lockstep->threads; i++) {
        forward_free(text->shares[i].forward);
        scissor_free(text->shares[i].logits);
    }
    for (uint32_t i = 0; text->sessions && i < text->lockstep->options->config_count; i++)
        if (text->sessions[i].attention) {
            text->sessions[i].attention->abandoned = failed;
            text->sessions[i].attention->free(text->sessions[i].attention);
        }
    forward_free(text->forward);
    if (text->attention)
        text->attention->free(text->attention);
    scissor_free(text->logits);
    scissor_free(text->sessions);
    scissor_free(text->shares);
}

static float *lockstep_logits(const struct model *model, uint32_t rows) {
    return scissor_malloc((size_t)rows * model->shape.vocabulary * sizeof(float));
}

static int lockstep_open_share(struct lockstep_text *text, uint32_t number, struct failure *failure) {
    const struct lockstep *lockstep = text->lockstep;
    struct lockstep_share *share = &text->shares[number];
    uint32_t sessions = (lockstep->options->config_count - number + lockstep->threads - 1) / lockstep->threads;
    share->text = text;
    share->number = number;
    share->logits = lockstep_logits(lockstep->model, LOCKSTEP_LOGITS);
    if (!share->logits)
        return failure_set_memory(failure);
    return forward_new(lockstep->model, LOCKSTEP_ROWS * sessions, &share->forward, failure);
}

static int lockstep_open_session(struct lockstep_text *text, const struct eval_config *config,
                                 struct lockstep_session *session, struct failure *failure) {
    struct attention_scissor_options options = lockstep_session_options(text->lockstep, config);
    char name[CONFIG_NAME_BYTES];
    struct failure why;
    config_name(config, name);
    session->config = config;
    int r = attention_scissor_new(&text->lockstep->model->shape, &options, &session->attention, &why);
    return r == 0 ? 0 : failure_set(failure, r, "%.80s: %.220s", name, why.text);
}

static int lockstep_open_text(struct lockstep_text *text, struct failure *failure) {
    const struct eval_options *options = text->lockstep->options;
    const struct model *model = text->lockstep->model;
    text->logits = lockstep_logits(model, LOCKSTEP_ROWS);
    text->sessions = scissor_calloc(options->config_count, sizeof(*text->sessions));
    text->shares = scissor_calloc(text->lockstep->threads, sizeof(*text->shares));
    if (!text->logits || !text->sessions || !text->shares)
        return failure_set_memory(failure);
    int r = attention_full_new(&model->shape, options->tokens, LOCKSTEP_ROWS, &text->attention, failure);
    if (r == 0)
        r = forward_new(model, LOCKSTEP_ROWS, &text->forward, failure);
    for (uint32_t i = 0; i < options->config_count && r == 0; i++)
        r = lockstep_open_session(text, &options->configs[i], &text->sessions[i], failure);
    for (uint32_t i = 0; i < text->lockstep->threads && r == 0; i++)
        r = lockstep_open_share(text, i, failure);
    return r;
}

/* How many of the last rows of a step that ends before `to` are compared. */
static uint32_t lockstep_scored(const struct lockstep_text *text, uint32_t rows, uint32_t to) {
    uint32_t from = text->lockstep->score_from;
    return to > from ? lockstep_min(to - from, rows) : 0;
}

static void lockstep_progress(struct lockstep *lockstep, uint32_t rows) {
    pthread_mutex_lock(&lockstep->lock);
    lockstep->done += rows;
    progress_show(lockstep->progress, lockstep->done);
    pthread_mutex_unlock(&lockstep->lock);
}

static int lockstep_read_full(struct lockstep_text *text, struct failure *failure) {
    struct lockstep_window *window = &text->window;
    size_t vocabulary = text->lockstep->model->shape.vocabulary;
    uint32_t rows = window->to - window->from, scored = lockstep_scored(text, rows, window->to);
    uint32_t scored_rows[LOCKSTEP_ROWS];
    const struct forward_part part = {
        .attention = text->attention, .tokens = text->tokens + window->from, .rows = rows, .position = window->from};
    window->scored_from = window->to - scored;
    int r = forward_step_parts(text->forward, &part, 1, failure);
    if (r != 0)
        return r;
    for (uint32_t i = 0; i < scored; i++)
        scored_rows[i] = rows - scored + i;
    forward_logits(text->forward, scored_rows, scored, text->logits);
    for (uint32_t i = 0; i < scored; i++)
        compare_full_init(&window->full[i], text->logits + i * vocabulary, vocabulary);
    lockstep_progress(text->lockstep, rows);
    return 0;
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

/* As far as the session's fresh buffer and the window allow. */
static int lockstep_part(const struct lockstep_text *text, const struct lockstep_session *session,
                         struct forward_part *ret_part, struct failure *failure) {
    uint32_t room;
    int r = session->attention->room(session->attention, &room, failure);
    if (r != 0)
        return r;
    *ret_part = (struct forward_part){.attention = session->attention,
                                      .tokens = text->tokens + session->at,
                                      .rows = lockstep_min(room, text->window.to - session->at),
                                      .position = session->at};
    return 0;
}

/* One step of those of a share that are not yet through the window. */
struct lockstep_step {
    struct forward_part parts[EVAL_MAX_CONFIGS];
    struct lockstep_session *sessions[EVAL_MAX_CONFIGS];
    uint32_t count;
};

/* The rows that `scored_rows` names are those of the sessions in turn, of each the last that count. */
static void lockstep_compare_step(struct lockstep_share *share, struct lockstep_step *step) {
    struct lockstep_text *text = share->text;
    size_t vocabulary = text->lockstep->model->shape.vocabulary;
    uint32_t row = 0, first = 0, count = 0;
    for (uint32_t i = 0; i < step->count; i++) {
        uint32_t rows = step->parts[i].rows, scored = lockstep_scored(text, rows, step->sessions[i]->at);
        row += rows;
        for (uint32_t j = 0; j < scored; j++)
            share->scored_rows[count++] = row - scored + j;
        if (i + 1 < step->count && count + LOCKSTEP_ROWS <= LOCKSTEP_LOGITS)
            continue;
        forward_logits(share->forward, share->scored_rows, count, share->logits);
        const float *logits = share->logits;
        for (; first <= i; first++) {
            struct lockstep_session *session = step->sessions[first];
            scored = lockstep_scored(text, step->parts[first].rows, session->at);
            for (uint32_t j = 0; j < scored; j++, logits += vocabulary)
                lockstep_compare(text, session, session->at - scored + j, logits);
        }
        count = 0;
    }
}

static int lockstep_prepare_step(const struct lockstep_share *share, struct lockstep_step *step,
                                 struct failure *failure) {
    const struct lockstep_text *text = share->text;
    int r = 0;
    step->count = 0;
    for (uint32_t i = share->number; i < text->lockstep->options->config_count && r == 0;
         i += text->lockstep->threads) {
        struct lockstep_session *session = &text->sessions[i];
        if (session->at == text->window.to)
            continue;
        step->sessions[step->count] = session;
        r = lockstep_part(text, session, &step->parts[step->count++], failure);
    }
    return r;
}

static int lockstep_follow(struct lockstep_share *share, struct failure *failure) {
    struct lockstep_step step;
    for (;;) {
        int r = engine_was_interrupted() ? ENGINE_INTERRUPTED : lockstep_prepare_step(share, &step, failure);
        if (r != 0 || step.count == 0)
            return r;
        r = forward_step_parts(share->forward, step.parts, step.count, failure);
        if (r != 0)
            return r;
        for (uint32_t i = 0; i < step.count; i++) {
            step.sessions[i]->at += step.parts[i].rows;
            lockstep_count_bytes(share->text, step.sessions[i], step.parts[i].rows);
            lockstep_progress(share->text->lockstep, step.parts[i].rows);
        }
        lockstep_compare_step(share, &step);
    }
}

static void *lockstep_run_share(void *data) {
    struct lockstep_share *share = data;
    share->code = lockstep_follow(share, &share->failure);
    return NULL;
}

/* All shares through the window, each in a thread; one that cannot be had is done here. */
static int lockstep_follow_all(struct lockstep_text *text, struct failure *failure) {
    uint32_t threads = text->lockstep->threads, started = 1;
    int r = 0;
    if (threads > 1)
        engine_use_threads(1);
    while (started < threads &&
           pthread_create(&text->shares[started].thread, NULL, lockstep_run_share, &text->shares[started]) == 0)
        started++;
    lockstep_run_share(&text->shares[0]);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(text->shares[i].thread, NULL);
    for (uint32_t i = started; i < threads; i++)
        lockstep_run_share(&text->shares[i]);
    engine_use_threads(engine_threads(text->lockstep->options->threads));
    for (uint32_t i = 0; i < threads && r == 0; i++) {
        r = text->shares[i].code;
        *failure = text->shares[i].failure;
    }
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
        if (r == 0)
            r = lockstep_follow_all(text, failure);
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
    lockstep_close_text(&text, r != 0);
    return r;
}
