/* eval_report.c - see eval_report.h. */
#include "eval_report.h"

#include <math.h>
#include <string.h>

#include "dtype.h"
#include "llama/text_output.h"

/* "moby_dick" of "books/moby_dick.txt". */
static int report_text_name(const char *path, const char **ret_name) {
    const char *slash = strrchr(path, '/');
    *ret_name = slash && slash[1] ? slash + 1 : path;
    const char *dot = strrchr(*ret_name, '.');
    return (int)(dot && dot != *ret_name ? (size_t)(dot - *ret_name) : strlen(*ret_name));
}

/* ---------- JSON ---------- */

/* JSON has no NaN. */
static void json_write_number(FILE *stream, const char *key, double value) {
    if (isfinite(value))
        fprintf(stream, ", \"%s\": %.9g", key, value);
    else
        fprintf(stream, ", \"%s\": null", key);
}

static void json_write_figures(FILE *stream, const char *name, size_t size, const struct figures *figures) {
    fprintf(stream, "{\"text\": ");
    json_write_string(stream, name, size);
    fprintf(stream, ", \"tokens\": %.0f, \"scored\": %.0f", figures->tokens, figures->scored);
    json_write_number(stream, "nll", figures->nll);
    json_write_number(stream, "nll_full", figures->nll_full);
    json_write_number(stream, "ppl_ratio", figures_ppl_ratio(figures));
    json_write_number(stream, "kl", figures->kl);
    json_write_number(stream, "top1", figures->top1);
    fprintf(stream,
            ", \"bytes_peak\": %.0f, \"bytes_mean\": %.0f, \"bytes_full\": %.0f, \"bytes_daemon\": %.0f, "
            "\"rows\": %.0f}",
            figures->bytes_peak, figures->bytes_mean, figures->bytes_full, figures->bytes_daemon, figures->rows);
}

static void json_write_interval(FILE *stream, const char *lead, const struct interval *interval) {
    if (isfinite(interval->low) && isfinite(interval->high))
        fprintf(stream, "%s: [%.9g, %.9g]", lead, interval->low, interval->high);
    else
        fprintf(stream, "%s: null", lead);
}

static void json_write_intervals(FILE *stream, const struct figures *texts, size_t count) {
    struct figures_intervals intervals;
    if (figures_intervals(texts, count, &intervals) != 0) {
        fprintf(stream, "null");
        return;
    }
    json_write_interval(stream, "{\"ppl_ratio\"", &intervals.ppl_ratio);
    json_write_interval(stream, ", \"kl\"", &intervals.kl);
    json_write_interval(stream, ", \"top1\"", &intervals.top1);
    fprintf(stream, "}");
}

static void json_write_config(FILE *stream, const struct eval_config *config) {
    char name[CONFIG_NAME_BYTES], budget[32];
    config_name(config, name);
    config_budget_name(config, budget);
    fprintf(stream, "{\"name\": ");
    json_write_string(stream, name, strlen(name));
    fprintf(stream, ", \"policy\": \"%s\", \"cache\": \"%s\", \"budget\": \"%s\", \"fresh\": %u, \"params\": {",
            config->policy, kernel_dtype_name(config->cache), budget, config->fresh);
    for (uint32_t i = 0; i < config->param_count; i++) {
        fprintf(stream, "%s", i ? ", " : "");
        json_write_string(stream, config->params[i].name,
                          strnlen(config->params[i].name, sizeof(config->params[i].name)));
        fprintf(stream, ": %.9g", config->params[i].value);
    }
    fprintf(stream, "}");
}

static void json_write_model(FILE *stream, const struct eval_options *options) {
    const char *name;
    int size = report_text_name(options->model, &name);
    fprintf(stream, "{\"model\": ");
    json_write_string(stream, name, (size_t)size);
    fprintf(stream, ", \"tokens\": %u", options->tokens);
}

void eval_report_json(const struct evaluation *evaluation, FILE *stream) {
    const struct eval_options *options = evaluation->options;
    json_write_model(stream, options);
    fprintf(stream, ", \"score_from\": %u, \"seconds\": %.1f,\n \"configurations\": [", options->score_from,
            evaluation->seconds);
    for (uint32_t i = 0; i < options->config_count; i++) {
        const struct figures *texts = evaluation_texts(evaluation, i);
        struct figures mean;
        fprintf(stream, "%s\n  ", i ? "," : "");
        json_write_config(stream, &options->configs[i]);
        fprintf(stream, ",\n   \"texts\": [");
        for (uint32_t j = 0; j < options->text_count; j++) {
            const char *name;
            int size = report_text_name(options->texts[j], &name);
            fprintf(stream, "%s\n    ", j ? "," : "");
            json_write_figures(stream, name, (size_t)size, &texts[j]);
        }
        figures_mean(texts, options->text_count, &mean);
        fprintf(stream, "],\n   \"mean\": ");
        json_write_figures(stream, "mean", 4, &mean);
        fprintf(stream, ",\n   \"interval\": ");
        json_write_intervals(stream, texts, options->text_count);
        fprintf(stream, "}");
    }
    fprintf(stream, "]}\n");
}

/* ---------- the table ---------- */

static void table_write_figures(FILE *stream, int size, const char *name, const struct figures *figures) {
    fprintf(stream, "  %-24.*s %9.4f %9.4f %8.4f %7.4f %7.4f %9.2f %7.2f %7.0f\n", size, name, figures->nll,
            figures->nll_full, figures_ppl_ratio(figures), figures->kl, figures->top1, figures->bytes_peak / (1 << 20),
            figures->bytes_full / figures->bytes_peak, figures->rows);
}

static void table_write_intervals(FILE *stream, const struct figures *texts, size_t count) {
    struct figures_intervals i;
    if (figures_intervals(texts, count, &i) == 0)
        fprintf(stream, "  %-24s ppl ratio %.4f to %.4f, KL %.4f to %.4f, top-1 %.4f to %.4f\n", "95 % interval",
                i.ppl_ratio.low, i.ppl_ratio.high, i.kl.low, i.kl.high, i.top1.low, i.top1.high);
}

void eval_report_table(const struct evaluation *evaluation, FILE *stream) {
    const struct eval_options *options = evaluation->options;
    fprintf(stream, "  %-24s %9s %9s %8s %7s %7s %9s %7s %7s\n", "", "nll", "nll full", "ppl", "KL", "top-1",
            "peak MiB", "smaller", "rows");
    for (uint32_t i = 0; i < options->config_count; i++) {
        const struct figures *texts = evaluation_texts(evaluation, i);
        struct figures mean;
        char name[CONFIG_NAME_BYTES];
        config_name(&options->configs[i], name);
        fprintf(stream, "%s\n", name);
        for (uint32_t j = 0; j < options->text_count; j++) {
            const char *text;
            int size = report_text_name(options->texts[j], &text);
            table_write_figures(stream, size, text, &texts[j]);
        }
        figures_mean(texts, options->text_count, &mean);
        if (options->text_count > 1)
            table_write_figures(stream, 4, "mean", &mean);
        table_write_intervals(stream, texts, options->text_count);
    }
}

/* ---------- the task passkey ---------- */

static struct passkey_count passkey_sum(const struct passkey_count counts[PASSKEY_DEPTHS]) {
    struct passkey_count sum = {0};
    for (uint32_t i = 0; i < PASSKEY_DEPTHS; i++) {
        sum.full += counts[i].full;
        sum.solved += counts[i].solved;
    }
    return sum;
}

static void passkey_write_json(const struct evaluation *evaluation, FILE *stream) {
    const struct eval_options *options = evaluation->options;
    json_write_model(stream, options);
    fprintf(stream, ", \"task\": \"passkey\", \"texts\": %u, \"seconds\": %.1f,\n \"configurations\": [",
            options->text_count, evaluation->seconds);
    for (uint32_t i = 0; i < options->config_count; i++) {
        const struct passkey_count *counts = evaluation->counts + (size_t)i * PASSKEY_DEPTHS;
        struct passkey_count sum = passkey_sum(counts);
        fprintf(stream, "%s\n  ", i ? "," : "");
        json_write_config(stream, &options->configs[i]);
        fprintf(stream, ", \"full\": %u, \"solved\": %u,\n   \"depths\": [", sum.full, sum.solved);
        for (uint32_t j = 0; j < PASSKEY_DEPTHS; j++)
            fprintf(stream, "%s{\"depth\": %.2f, \"full\": %u, \"solved\": %u}", j ? ", " : "", passkey_depth(j),
                    counts[j].full, counts[j].solved);
        fprintf(stream, "]}");
    }
    fprintf(stream, "]}\n");
}

static void passkey_write_table(const struct evaluation *evaluation, FILE *stream) {
    const struct eval_options *options = evaluation->options;
    fprintf(stream, "%-32s %9s  by depth, %%:", "numbers found", "in all");
    for (uint32_t i = 0; i < PASSKEY_DEPTHS; i++)
        fprintf(stream, " %5.0f", 100 * passkey_depth(i));
    for (uint32_t i = 0; i < options->config_count; i++) {
        const struct passkey_count *counts = evaluation->counts + (size_t)i * PASSKEY_DEPTHS;
        struct passkey_count sum = passkey_sum(counts);
        char name[CONFIG_NAME_BYTES];
        config_name(&options->configs[i], name);
        fprintf(stream, "\n%-32s %4u of %2u              ", name, sum.solved, sum.full);
        for (uint32_t j = 0; j < PASSKEY_DEPTHS; j++)
            fprintf(stream, " %2u/%2u", counts[j].solved, counts[j].full);
    }
    fprintf(stream, "\n");
}

void eval_report_passkey(const struct evaluation *evaluation, FILE *stream) {
    if (evaluation->options->json)
        passkey_write_json(evaluation, stream);
    else
        passkey_write_table(evaluation, stream);
}

/* ---------- a shared pool ---------- */

/* "5/8 moby_dick": how long the session's text is, in parts of --tokens, and where it comes from. */
static void pool_session_name(const struct evaluation *evaluation, uint32_t session, char ret_name[80]) {
    const char *name;
    int size = report_text_name(evaluation->options->texts[evaluation->pooled.text[session]], &name);
    snprintf(ret_name, 80, "%u/%u %.*s", session + 1, WORKLOAD_SESSIONS, size, name);
}

static void pool_write_json_way(const struct evaluation *evaluation, uint32_t way, FILE *stream) {
    const struct figures *sessions = evaluation->pooled.figures[way];
    char name[80];
    struct figures mean;
    fprintf(stream, "{\"way\": \"%s\",\n   \"texts\": [", pooled_way_names[way]);
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        pool_session_name(evaluation, i, name);
        fprintf(stream, "%s\n    ", i ? "," : "");
        json_write_figures(stream, name, strlen(name), &sessions[i]);
    }
    figures_mean(sessions, WORKLOAD_SESSIONS, &mean);
    fprintf(stream, "],\n   \"mean\": ");
    json_write_figures(stream, "mean", 4, &mean);
    uint32_t worst = pooled_worst(sessions);
    pool_session_name(evaluation, worst, name);
    fprintf(stream, ",\n   \"worst\": ");
    json_write_figures(stream, name, strlen(name), &sessions[worst]);
    fprintf(stream, "}");
}

static void pool_write_json(const struct evaluation *evaluation, FILE *stream) {
    const struct pooled *pooled = &evaluation->pooled;
    json_write_model(stream, evaluation->options);
    fprintf(stream, ", \"task\": \"pool\", \"seconds\": %.1f,\n \"bytes_pool\": %.0f, \"bytes_full\": %.0f, ",
            evaluation->seconds, (double)pooled->pool_mib * (1 << 20), (double)pooled->bytes_full);
    fprintf(stream, "\"read_before\": %u,\n \"configuration\": ", pooled->read_before);
    json_write_config(stream, &evaluation->options->configs[0]);
    fprintf(stream, "},\n \"ways\": [");
    for (uint32_t way = 0; way < POOLED_WAYS; way++) {
        fprintf(stream, "%s\n  ", way ? "," : "");
        pool_write_json_way(evaluation, way, stream);
    }
    fprintf(stream, "]}\n");
}

/* Of a session that read nothing when the pool was full there is nothing to say. */
static void pool_write_table_row(FILE *stream, const char *name, const struct figures ways[POOLED_WAYS]) {
    fprintf(stream, "%-28.28s", name);
    for (uint32_t way = 0; way < POOLED_WAYS; way++)
        if (isfinite(ways[way].kl))
            fprintf(stream, "  %8.4f %8.4f %7.0f", ways[way].kl, figures_ppl_ratio(&ways[way]), ways[way].rows);
        else
            fprintf(stream, "  %8s %8s %7s", "-", "-", "-");
    fprintf(stream, "\n");
}

static void pool_write_table(const struct evaluation *evaluation, FILE *stream) {
    const struct pooled *pooled = &evaluation->pooled;
    struct figures row[POOLED_WAYS];
    char name[CONFIG_NAME_BYTES];
    config_name(&evaluation->options->configs[0], name);
    fprintf(stream, "%s, pool %u MiB of %.1f MiB, full after %u tokens\n%-28s", name, pooled->pool_mib,
            (double)pooled->bytes_full / (1 << 20), pooled->read_before, "");
    for (uint32_t way = 0; way < POOLED_WAYS; way++)
        fprintf(stream, "  %-25s", pooled_way_names[way]);
    fprintf(stream, "\n%-28s", "session");
    for (uint32_t way = 0; way < POOLED_WAYS; way++)
        fprintf(stream, "  %8s %8s %7s", "KL", "ppl", "rows");
    fprintf(stream, "\n");
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        for (uint32_t way = 0; way < POOLED_WAYS; way++)
            row[way] = pooled->figures[way][i];
        pool_session_name(evaluation, i, name);
        pool_write_table_row(stream, name, row);
    }
    for (uint32_t way = 0; way < POOLED_WAYS; way++)
        figures_mean(pooled->figures[way], WORKLOAD_SESSIONS, &row[way]);
    pool_write_table_row(stream, "mean", row);
    for (uint32_t way = 0; way < POOLED_WAYS; way++)
        row[way] = pooled->figures[way][pooled_worst(pooled->figures[way])];
    pool_write_table_row(stream, "worst", row);
}

void eval_report_pool(const struct evaluation *evaluation, FILE *stream) {
    if (evaluation->options->json)
        pool_write_json(evaluation, stream);
    else
        pool_write_table(evaluation, stream);
}
