/* test_eval.c - the arithmetic of scissor-eval: budgets in bytes, comparisons of logits, means and their intervals, and
 * what it reads and prints. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/compare.h"
#include "eval/eval_report.h"
#include "eval/workload.h"

static const struct model_shape small_model = {.layers = 30, .q_heads = 9, .kv_heads = 3, .head_dim = 64};

static struct failure failure;

static bool near(double a, double b, double tolerance) {
    return fabs(a - b) <= tolerance;
}

/* ---------- configurations ---------- */

static struct eval_config config_of(const char *text) {
    struct eval_config config = {.policy = "pivotal", .cache = SCISSOR_F16, .fresh = 64};
    assert_int_equal(config_read(&config, text), 0);
    return config;
}

static void test_config(void **state) {
    char name[CONFIG_NAME_BYTES];
    (void)state;
    struct eval_config config = config_of("sinks=4,h2o,int4,5x,share=0.25");
    config_name(&config, name);
    assert_string_equal(name, "h2o int4 5x sinks=4 share=0.25");
    config = config_of("all");
    config_name(&config, name);
    assert_string_equal(name, "pivotal f16 all");
    config = config_of("3.6x,bf16,819");
    config_name(&config, name);
    assert_string_equal(name, "pivotal bf16 819");
    assert_true(config.budget_given);
    config = config_of("fresh=32,fade,20x");
    assert_int_equal(config.fresh, 32);
    assert_int_equal(config.param_count, 0);
    config_name(&config, name);
    assert_string_equal(name, "pivotal fade 20x fresh=32");
    config_read(&config, "fresh=64");
    config_name(&config, name);
    assert_string_equal(name, "pivotal fade 20x");
    static const char *const wrong[] = {
        "",     ",",      "h2o,",     "0x",      "0.5x",       "31",
        "5x5",  "a=b=1",  "=1",       "Pivotal", "pivotal!",   "a_policy_of_a_long_name",
        "1e9x", "fresh=", "fresh=24", "fresh=0", "fresh=1040", "fresh=-16"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct eval_config before = config;
        if (config_read(&config, wrong[i]) != SCISSOR_EINVAL)
            fail_msg("\"%s\" was taken", wrong[i]);
        assert_memory_equal(&before, &config, sizeof config);
    }
}

/* Rows of the published comparison; and no more bytes than were asked for, but nearly so many. */
static void test_rows(void **state) {
    static const struct {
        const char *config;
        uint32_t rows;
    } known[] = {{"int4,5x", 5661},  {"int4,10x", 2749},     {"int4,20x", 1292}, {"k5v4,5x", 5102},  {"k5v4,10x", 2480},
                 {"k5v4,20x", 1169}, {"fade,5x", 7128},      {"fade,10x", 3455}, {"fade,20x", 1607}, {"f16,5x", 1638},
                 {"f16,10x", 819},   {"streaming,20x", 409}, {"f16,832", 832},   {"int4,1x", 8192},  {"all", 8192}};
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct eval_config config = config_of(known[i].config);
        assert_int_equal(config_rows(&config, &small_model, 8192), known[i].rows);
    }
    uint64_t full = config_full_bytes(&small_model, 8192);
    assert_int_equal(full, (uint64_t)8192 * 23040);
    static const char *const types[] = {"f32", "f16", "bf16", "int8", "int4", "k5v4", "fade"};
    for (size_t i = 0; i < 7; i++) {
        struct eval_config config = config_of(types[i]);
        config.divisor = 7;
        uint32_t settled = config_rows(&config, &small_model, 8192) - 64;
        assert_true(config_bytes(&config, &small_model, settled, settled) <= full / 7);
        assert_true(config_bytes(&config, &small_model, settled + 1, settled + 1) > full / 7);
    }
    /* The slots beside the details of the first quarter of the rows are held, too. */
    struct eval_config config = config_of("fade");
    uint64_t all = config_bytes(&config, &small_model, 6400, 6400);
    assert_int_equal(config_bytes(&config, &small_model, 6400, 1600), all);
    assert_true(config_bytes(&config, &small_model, 6400, 800) < all * 6 / 10);
    assert_true(config_bytes(&config, &small_model, 6400, 800) > all / 2);
}

/* A text that is shorter than the least budget keeps all of its rows; a budget that is smaller is none. */
static void test_few_rows(void **state) {
    (void)state;
    struct eval_config config = config_of("all");
    assert_int_equal(config_rows(&config, &small_model, 20), 80);
    config = config_of("20x");
    assert_int_equal(config_rows(&config, &small_model, 1000), 0);
    config = config_of("1000x");
    assert_int_equal(config_rows(&config, &small_model, 8192), 0);
    config = config_of("79");
    assert_int_equal(config_rows(&config, &small_model, 8192), 0);
}

/* ---------- comparisons ---------- */

static void test_compare(void **state) {
    /* p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = 1/2 log 2 - 1/4 log 2 */
    const float p[] = {log(2) + 5, 5, 5}, q[] = {-7, log(2) - 7, -7};
    struct compare_full full;
    struct comparison found;
    (void)state;
    compare_full_init(&full, p, 3);
    compare_logits(&full, q, 1, &found);
    assert_true(near(found.kl, 0.25 * log(2), 1e-6));
    assert_true(near(found.nll, log(2), 1e-6));
    assert_true(near(found.nll_full, log(4), 1e-6));
    assert_false(found.top1);
    assert_true(found.right && !found.right_full);
    compare_logits(&full, p, 0, &found);
    assert_true(found.right && found.right_full);
    assert_true(near(found.kl, 0, 1e-12));
    assert_true(found.nll == found.nll_full);
    assert_true(found.top1);
}

/* Not a logit less than the whole vocabulary counts, and what is the same but for a constant is the same. */
static void test_compare_many(void **state) {
    enum { COUNT = 49152 };
    float *p = malloc(COUNT * sizeof *p), *q = malloc(COUNT * sizeof *q);
    struct compare_full full;
    struct comparison found;
    double sum_p = 0, sum_q = 0, kl = 0;
    (void)state;
    assert_true(p && q);
    for (size_t i = 0; i < COUNT; i++) {
        p[i] = (float)(10 * sin((double)i * 0.37));
        q[i] = p[i] + (float)(0.3 * cos((double)i * 1.7)) + 100;
        sum_p += exp(p[i]);
        sum_q += exp(q[i]);
    }
    for (size_t i = 0; i < COUNT; i++)
        kl += exp(p[i]) / sum_p * ((double)p[i] - log(sum_p) - (double)q[i] + log(sum_q));
    compare_full_init(&full, p, COUNT);
    compare_logits(&full, q, 7, &found);
    assert_true(near(found.kl, kl, 1e-6 * kl));
    for (size_t i = 0; i < COUNT; i++)
        q[i] = p[i] + 64;
    compare_logits(&full, q, 7, &found);
    assert_true(near(found.kl, 0, 1e-5)); /* the logits themselves were rounded */
    free(p);
    free(q);
}

/* ---------- means ---------- */

static void test_mean(void **state) {
    const struct figures texts[] = {{.scored = 100, .nll = 3.5, .nll_full = 3.0, .kl = 0.5, .top1 = 0.5, .rows = 80},
                                    {.scored = 100, .nll = 2.5, .nll_full = 2.4, .kl = 0.1, .top1 = 0.9, .rows = 80}};
    struct figures mean;
    struct figures_intervals intervals;
    (void)state;
    figures_mean(texts, 2, &mean);
    assert_true(near(mean.nll, 3.0, 1e-12) && near(mean.kl, 0.3, 1e-12) && near(mean.top1, 0.7, 1e-12));
    assert_true(near(figures_ppl_ratio(&mean), exp(0.3), 1e-12));
    assert_true(mean.rows == 80 && mean.scored == 100);
    /* A quarter of the samples has one text twice: the interval is from the one to the other. */
    assert_int_equal(figures_intervals(texts, 2, &intervals), 0);
    assert_true(near(intervals.ppl_ratio.low, exp(0.1), 1e-9) && near(intervals.ppl_ratio.high, exp(0.5), 1e-9));
    assert_true(near(intervals.kl.low, 0.1, 1e-9) && near(intervals.kl.high, 0.5, 1e-9));
    assert_int_equal(figures_intervals(texts, 1, &intervals), 1);
}

/* Of many values that are spread evenly over 0..1 the mean's deviation is known: 0.2887 / sqrt(count). */
static void test_bootstrap(void **state) {
    enum { COUNT = 400 };
    double values[COUNT];
    struct interval interval, again;
    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        values[i] = ((double)i + 0.5) / COUNT;
    assert_int_equal(bootstrap_mean(values, COUNT, 4000, &interval), 0);
    double half = 1.96 * 0.28868 / sqrt(COUNT);
    assert_true(near(interval.low, 0.5 - half, 0.1 * half) && near(interval.high, 0.5 + half, 0.1 * half));
    assert_int_equal(bootstrap_mean(values, COUNT, 4000, &again), 0);
    assert_true(again.low == interval.low && again.high == interval.high);
}

/* ---------- the command line ---------- */

static int parse(struct eval_options *options, const char *line) {
    static char text[1024];
    char *argv[96] = {"scissor-eval"};
    int argc = 1;
    snprintf(text, sizeof(text), "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return eval_options_parse(argc, argv, options, &failure);
}

static void test_options(void **state) {
    static struct eval_options o;
    char name[CONFIG_NAME_BYTES];
    (void)state;
    assert_int_equal(parse(&o, "m.gguf --text a b c --json"), 0);
    assert_string_equal(o.model, "m.gguf");
    assert_int_equal(o.text_count, 3);
    assert_string_equal(o.texts[2], "c");
    assert_int_equal(o.tokens, 8192);
    assert_int_equal(o.score_from, 5632);
    assert_true(o.json);
    assert_int_equal(o.config_count, 1);
    config_name(&o.configs[0], name);
    assert_string_equal(name, "pivotal f16 all");
    /* Each budget is a configuration. */
    assert_int_equal(parse(&o,
                           "--model m --text a --tokens 4096 --score-from 2048 --budget 5x --budget 832 --policy h2o "
                           "--param share=0.3 --cache int8 --fresh 128"),
                     0);
    assert_int_equal(o.score_from, 2048);
    assert_int_equal(o.config_count, 2);
    config_name(&o.configs[1], name);
    assert_string_equal(name, "h2o int8 832 share=0.3 fresh=128");
    assert_int_equal(o.configs[1].fresh, 128);
    /* Each --config is one; what it leaves out stands elsewhere, also behind it. */
    assert_int_equal(parse(&o, "m --config streaming --config int4,10x --budget 5x --budget 20x --cache f32 --text a"),
                     0);
    static const char *const names[] = {"streaming f32 5x", "streaming f32 20x", "pivotal int4 10x"};
    assert_int_equal(o.config_count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        config_name(&o.configs[i], name);
        assert_string_equal(name, names[i]);
    }
}

static void test_pool_options(void **state) {
    static struct eval_options o;
    (void)state;
    assert_int_equal(parse(&o, "m --text a"), 0);
    assert_false(eval_has_pool(&o));
    assert_int_equal(parse(&o, "m --pool 7.5x --config int4 --text a b"), 0);
    assert_true(eval_has_pool(&o) && near(o.pool_divisor, 7.5, 0));
    assert_int_equal(parse(&o, "m --pool 40MiB --text a"), 0);
    assert_true(eval_has_pool(&o) && o.pool_mib == 40 && near(o.pool_divisor, 0, 0));
}

/* What is wrong with one list too many is not its text. */
static void test_too_many(void **state) {
    static struct eval_options o;
    char line[4096] = "m --text a";
    (void)state;
    for (uint32_t i = 0; i < EVAL_MAX_CONFIGS; i++)
        strcat(line, " --config fade");
    assert_int_equal(parse(&o, line), 0);
    assert_int_equal(o.config_count, EVAL_MAX_CONFIGS);
    strcat(line, " --config fade --config int4");
    assert_int_equal(parse(&o, line), SCISSOR_EINVAL);
    assert_non_null(strstr(failure.text, "more than 32 configurations"));
    strcpy(line, "m --text");
    for (uint32_t i = 0; i <= EVAL_MAX_TEXTS; i++)
        strcat(line, " a");
    assert_int_equal(parse(&o, line), SCISSOR_EINVAL);
    assert_non_null(strstr(failure.text, "texts"));
}

static void test_wrong_options(void **state) {
    static struct eval_options o;
    static const char *const wrong[] = {
        "",
        "m",
        "--text a",
        "m n --text a",
        "m --text a --budget",
        "m --text a --budget 5y",
        "m --text a --budget 0x",
        "m --text a --config ,",
        "m --text a --param x",
        "m --text a --cache f64",
        "m --text a --task summary",
        "m --text a --policy a_policy_of_a_long_name",
        "m --text a --fresh 40",
        "m --text a --tokens 100 --score-from 99",
        "m --text a --tokens 1",
        "m --text a --pool 0.5x",
        "m --text a --pool 40",
        "m --text a --pool 0MiB",
        "m --text a --pool 1.5MiB",
        "m --text a --pool MiB",
        "m --text a --pool 5x --budget 5x",
        "m --text a --pool 5x --config h2o --config tova",
        "m --text a --pool 5x --config h2o,5x",
        "m --text a --pool 5x --score-from 100",
        "m --text a --pool 5x --task passkey",
        "m --text a --pool 5x --tokens 63",
        "m --text a --config a=1,b=1,c=1,d=1,e=1 --param f=1 --param g=1 --param h=1 --param i=1",
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        *failure.text = '\0';
        if (parse(&o, wrong[i]) != SCISSOR_EINVAL)
            fail_msg("\"%s\" was taken", wrong[i]);
        assert_true(strlen(failure.text) > 0);
    }
    char many[1024] = "m --text a";
    for (int i = 0; i < EVAL_MAX_CONFIGS / 2 + 1; i++)
        strcat(many, " --config h2o");
    strcat(many, " --budget 5x --budget 10x");
    assert_int_equal(parse(&o, many), SCISSOR_EINVAL);
    assert_non_null(strstr(failure.text, "32"));
}

/* ---------- the load of a shared pool ---------- */

/* Every session reads its whole text but the last token, in order. */
static void check_workload(uint32_t tokens) {
    struct workload load;
    uint32_t read[WORKLOAD_SESSIONS] = {0};
    workload_init(&load, tokens);
    for (uint32_t i = 0; i < load.turn_count; i++) {
        const struct workload_turn *turn = &load.turns[i];
        assert_int_equal(turn->from, read[turn->session]);
        assert_true(turn->to > turn->from);
        read[turn->session] = turn->to;
    }
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        assert_int_equal(load.tokens[i], tokens * (i + 1) / 8);
        assert_int_equal(read[i], load.tokens[i] - 1);
    }
}

static void test_workload(void **state) {
    static const uint32_t lengths[] = {WORKLOAD_LEAST_TOKENS, 65, 100, 136, 4096, 10007};
    struct workload load;
    uint32_t longest_rest = 0, since = 0;
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        check_workload(lengths[i]);
    /* The longest one rests while the others read, and comes back. */
    workload_init(&load, 4096);
    for (uint32_t i = 0; i < load.turn_count; i++) {
        since = load.turns[i].session == 7 ? 0 : since + load.turns[i].to - load.turns[i].from;
        longest_rest = since > longest_rest ? since : longest_rest;
    }
    assert_true(longest_rest > 4096 && since == 0);
}

/* ---------- the report ---------- */

static const char *const keys[] = {"text", "tokens",     "scored",     "nll",        "nll_full",     "ppl_ratio", "kl",
                                   "top1", "bytes_peak", "bytes_mean", "bytes_full", "bytes_daemon", "rows"};

static void check_keys(const json_t *object) {
    assert_int_equal(json_object_size(object), sizeof keys / sizeof *keys);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!json_object_get(object, keys[i]))
            fail_msg("no key %s", keys[i]);
}

static double number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

static json_t *report(const struct evaluation *evaluation) {
    char *text = NULL;
    size_t size = 0;
    json_error_t error;
    FILE *stream = open_memstream(&text, &size);
    assert_non_null(stream);
    eval_report_json(evaluation, stream);
    assert_int_equal(fclose(stream), 0);
    json_t *json = json_loads(text, 0, &error);
    if (!json)
        fail_msg("%s: %s", error.text, text);
    free(text);
    return json;
}

static void test_report(void **state) {
    static struct eval_options o;
    struct figures figures[4] = {
        {4096, 2047, 3.5, 3.25, 0.1, 0.8, 0.5, 0.6, 1000, 900, 5000, 70, 832},
        {4096, 2047, 2.5, 2.25, 0.3, 0.6, 0.5, 0.6, 1000, 900, 5000, 70, 832},
        {.nll = NAN, .kl = INFINITY},
    };
    (void)state;
    assert_int_equal(
        parse(&o, "a/m.gguf --tokens 4096 --config h2o,share=0.5,5x --config all --text b/one.txt two\"\x01"), 0);
    json_t *json = report(&(struct evaluation){.options = &o, .figures = figures, .seconds = 12.5});
    const json_t *configs = json_object_get(json, "configurations"), *first = json_array_get(configs, 0);
    assert_int_equal(json_array_size(configs), 2);
    assert_string_equal(json_string_value(json_object_get(json, "model")), "m");
    assert_string_equal(json_string_value(json_object_get(first, "policy")), "h2o");
    assert_true(number(json_object_get(first, "params"), "share") == 0.5);
    const json_t *texts = json_object_get(first, "texts"), *mean = json_object_get(first, "mean");
    assert_int_equal(json_array_size(texts), 2);
    check_keys(json_array_get(texts, 0));
    check_keys(mean);
    assert_string_equal(json_string_value(json_object_get(json_array_get(texts, 0), "text")), "one");
    assert_string_equal(json_string_value(json_object_get(json_array_get(texts, 1), "text")), "two\"\x01");
    assert_true(near(number(mean, "kl"), 0.2, 1e-9) && near(number(mean, "ppl_ratio"), exp(0.25), 1e-8));
    assert_int_equal(json_array_size(json_object_get(json_object_get(first, "interval"), "kl")), 2);
    /* What is no number is none in JSON, too. */
    const json_t *broken = json_array_get(json_object_get(json_array_get(configs, 1), "texts"), 0);
    check_keys(broken);
    assert_true(json_is_null(json_object_get(broken, "kl")));
    json_decref(json);
    o.text_count = 1;
    json = report(&(struct evaluation){.options = &o, .figures = figures, .seconds = 12.5});
    first = json_array_get(json_object_get(json, "configurations"), 0);
    assert_true(json_is_null(json_object_get(first, "interval")));
    json_decref(json);
}

static void test_report_passkey(void **state) {
    static struct eval_options o;
    struct passkey_count counts[PASSKEY_DEPTHS] = {{2, 0}, {1, 1}, {.full = 0}, {2, 1}};
    char *text = NULL;
    size_t size = 0;
    json_error_t error;
    (void)state;
    assert_int_equal(parse(&o, "m --task passkey --json --text a b"), 0);
    assert_true(o.passkey);
    FILE *stream = open_memstream(&text, &size);
    assert_non_null(stream);
    eval_report_passkey(&(struct evaluation){.options = &o, .counts = counts}, stream);
    assert_int_equal(fclose(stream), 0);
    json_t *json = json_loads(text, 0, &error);
    if (!json)
        fail_msg("%s: %s", error.text, text);
    const json_t *config = json_array_get(json_object_get(json, "configurations"), 0);
    const json_t *depths = json_object_get(config, "depths");
    assert_true(number(config, "full") == 5 && number(config, "solved") == 2);
    assert_int_equal(json_array_size(depths), PASSKEY_DEPTHS);
    assert_true(number(json_array_get(depths, 3), "full") == 2 && number(json_array_get(depths, 3), "solved") == 1);
    assert_true(number(json_array_get(depths, 9), "depth") == 0.95);
    json_decref(json);
    free(text);
}

static void test_report_pool(void **state) {
    static struct eval_options o;
    static struct evaluation evaluation = {.options = &o, .seconds = 3};
    struct pooled *pooled = &evaluation.pooled;
    char *text = NULL;
    size_t size = 0;
    json_error_t error;
    (void)state;
    assert_int_equal(parse(&o, "m --pool 5x --tokens 2048 --json --text a.txt b.txt"), 0);
    *pooled = (struct pooled){.pool_mib = 40, .bytes_full = 1000, .read_before = 77};
    for (uint32_t way = 0; way < POOLED_WAYS; way++)
        for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
            pooled->text[i] = i % 2;
            pooled->figures[way][i] = (struct figures){.nll = 2, .nll_full = 2, .kl = way + 0.1 * (i == 5), .rows = i};
        }
    FILE *stream = open_memstream(&text, &size);
    assert_non_null(stream);
    eval_report_pool(&evaluation, stream);
    assert_int_equal(fclose(stream), 0);
    json_t *json = json_loads(text, 0, &error);
    if (!json)
        fail_msg("%s: %s", error.text, text);
    assert_true(number(json, "bytes_pool") == 40 * 1048576.0 && number(json, "read_before") == 77);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "configuration"), "policy")),
                        "pivotal");
    const json_t *ways = json_object_get(json, "ways"), *lru = json_array_get(ways, 2);
    assert_int_equal(json_array_size(ways), POOLED_WAYS);
    assert_string_equal(json_string_value(json_object_get(lru, "way")), "lru");
    assert_int_equal(json_array_size(json_object_get(lru, "texts")), WORKLOAD_SESSIONS);
    check_keys(json_array_get(json_object_get(lru, "texts"), 0));
    assert_true(near(number(json_object_get(lru, "mean"), "kl"), 2 + 0.1 / 8, 1e-8));
    assert_string_equal(json_string_value(json_object_get(json_object_get(lru, "worst"), "text")), "6/8 b");
    json_decref(json);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),       cmocka_unit_test(test_rows),
        cmocka_unit_test(test_few_rows),     cmocka_unit_test(test_compare),
        cmocka_unit_test(test_compare_many), cmocka_unit_test(test_mean),
        cmocka_unit_test(test_bootstrap),    cmocka_unit_test(test_options),
        cmocka_unit_test(test_too_many),     cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_report),       cmocka_unit_test(test_report_passkey),
        cmocka_unit_test(test_pool_options), cmocka_unit_test(test_workload),
        cmocka_unit_test(test_report_pool),
    };
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
