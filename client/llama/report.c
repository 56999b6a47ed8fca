/* report.c - see report.h. */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "text_output.h"

static void report_print(const struct report *report, const struct engine *engine, FILE *stream) {
    const struct model_shape *shape = &engine->model->shape;
    const char *name = engine->options->name ? engine->options->name : "scissor-run";
    struct attention_stat stat;
    engine->attention->stat(engine->attention, &stat);
    uint64_t full_row = (uint64_t)2 * 2 * shape->layers * shape->kv_heads * shape->head_dim; /* K and V in f16 */
    fprintf(stream, "{\"name\": ");
    json_write_string(stream, name, strlen(name));
    fprintf(stream, ", \"mode\": \"%s\", \"tokens_seen\": %llu, \"tokens_read\": %zu, \"tokens_written\": %zu",
            engine->options->full ? "full" : "cached", (unsigned long long)stat.tokens_seen, report->tokens_read,
            report->tokens_written);
    fprintf(stream, ", \"device\": \"%s\"", stat.device);
    fprintf(stream, ", \"rows_per_head\": %llu, \"bytes\": %llu, \"bytes_full\": %llu, \"evictions\": %llu",
            (unsigned long long)stat.rows_per_head, (unsigned long long)stat.bytes,
            (unsigned long long)(stat.tokens_seen * full_row), (unsigned long long)stat.evictions);
    fprintf(stream, ", \"seconds\": %.3f, \"tokens_per_second\": %.2f", engine->seconds,
            engine->seconds > 0 ? (double)stat.tokens_seen / engine->seconds : 0.0);
    if (report->tokens_scored > 0 && isfinite(report->nll))
        fprintf(stream, ", \"tokens_scored\": %zu, \"nll\": %.6f, \"perplexity\": %.4f", report->tokens_scored,
                report->nll, exp(report->nll));
    fprintf(stream, ", \"text\": ");
    json_write_string(stream, report->text, report->text_size);
    fprintf(stream, "}\n");
}

int report_write(const struct report *report, const struct engine *engine, struct failure *failure) {
    const char *path = engine->options->stats_json;
    if (engine->options->json) {
        report_print(report, engine, stdout);
        if (fflush(stdout) != 0)
            return failure_set(failure, SCISSOR_ESYSTEM, "cannot write the report: %s", strerror(errno));
    }
    if (!path)
        return 0;
    FILE *stream = fopen(path, "we");
    if (!stream)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot write %.160s: %s", path, strerror(errno));
    report_print(report, engine, stream);
    bool failed = ferror(stream) != 0;
    if (fclose(stream) != 0 || failed)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot write %.160s: %s", path, strerror(errno));
    return 0;
}
