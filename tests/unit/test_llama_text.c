/* test_llama_text.c - the command line, text that is shown as it comes, and JSON strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "alloc.h"
#include "llama/options.h"
#include "llama/text_output.h"

static struct failure failure;

/* ---------- options ---------- */

static int parse(struct options *options, const char *line) {
    static char text[512];
    char *argv[32] = {"scissor-run"};
    int argc = 1;
    snprintf(text, sizeof(text), "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return options_parse(argc, argv, options, &failure);
}

static void test_options(void **state) {
    (void)state;
    struct options o;
    assert_int_equal(parse(&o, "m.gguf --prompt hello"), 0);
    assert_string_equal(o.model, "m.gguf");
    assert_string_equal(o.prompt, "hello");
    assert_int_equal(o.new_tokens, 128);
    assert_int_equal(o.fresh, 64);
    assert_int_equal(o.cache_dtype, SCISSOR_F16);
    assert_int_equal(o.compute_dtype, SCISSOR_F16);
    assert_int_equal(o.tokens, 4096);
    assert_int_equal(o.score_from, 2048);
    assert_int_equal(parse(&o, "--model=m --file f -n 5 --temp 0.5 --budget 832 --cache f32 --param sinks=4 "
                               "--param w=1.5 --seed 18446744073709551615 --socket d"),
                     0);
    assert_int_equal(o.new_tokens, 5);
    assert_true(o.temperature == 0.5);
    assert_int_equal(o.guarantee, 832);
    assert_int_equal(o.compute_dtype, SCISSOR_F32);
    assert_int_equal(o.param_count, 2);
    assert_string_equal(o.params[1].name, "w");
    assert_true(o.params[1].value == 1.5);
    assert_true(o.seed == UINT64_MAX);
    assert_int_equal(parse(&o, "m --nll f --compute bf16 --cache f32 --budget 200 --guarantee 100"), 0);
    assert_int_equal(o.compute_dtype, SCISSOR_BF16);
    assert_int_equal(o.guarantee, 100);
    assert_int_equal(parse(&o, "--help"), 0);
    assert_true(o.help);
}

static void test_wrong_options(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "",
        "m",
        "--prompt x",
        "m n --prompt x",
        "m --prompt",
        "m --prompt x --nonsense",
        "m --prompt x -n -1",
        "m --prompt x -n 1x",
        "m --prompt x -n",
        "m --prompt x --n 4",
        "m --prompt x --temp nan",
        "m --prompt x --top-p 1.5",
        "m --prompt x --cache f64",
        "m --prompt x --full=yes",
        "m --prompt x --fresh 60",
        "m --prompt x --fresh 2048",
        "m --prompt x --budget 64",
        "m --prompt x --budget 4294967296",
        "m --prompt x --budget 200 --guarantee 201",
        "m --prompt x --param sinks",
        "m --prompt x --param =4",
        "m --prompt x --param a_name_that_is_long=4",
        "m --prompt x --param sinks=many",
        "m --prompt x --system y",
        "m --prompt x --nll f",
        "m --nll f --tokens 2048",
        ("m --prompt x --param a=1 --param b=1 --param c=1 --param d=1 --param e=1 --param f=1 --param g=1 "
         "--param h=1 --param i=1"),
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct options o = {.model = "untouched"};
        failure.text[0] = '\0';
        assert_int_equal(parse(&o, wrong[i]), SCISSOR_EINVAL);
        assert_string_equal(o.model, "untouched");
        assert_true(failure.text[0] != '\0');
    }
}

static void test_help(void **state) {
    (void)state;
    char *text;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    options_print_help(stream);
    fclose(stream);
    assert_non_null(strstr(text, "--budget ROWS"));
    assert_non_null(strstr(text, "\n  -n N "));
    for (const char *line = text; *line; line = strchr(line, '\n') + 1)
        assert_true(strchr(line, '\n') - line <= 110);
    free(text);
}

/* ---------- text ---------- */

/* What has been shown after each piece: never a part of a character, never less than possible. */
static void test_stream(void **state) {
    (void)state;
    static const struct {
        const char *piece, *shown;
    } steps[] = {
        {"a", "a"},
        {"\xc3", "a"},
        {"\xa9!", "a\xc3\xa9!"},
        {"\xf0\x9f\x98", "a\xc3\xa9!"},
        {"\x80", "a\xc3\xa9!\xf0\x9f\x98\x80"},
        {"\xe2\x82", "a\xc3\xa9!\xf0\x9f\x98\x80"},
        {"z", "a\xc3\xa9!\xf0\x9f\x98\x80\xe2\x82z"}, /* it will never become a character */
    };
    char *shown;
    size_t size;
    size_t live = alloc_live();
    struct text_output output = {.stream = open_memstream(&shown, &size)};
    FILE *stream = output.stream;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        assert_int_equal(text_output_append(&output, steps[i].piece, strlen(steps[i].piece), &failure), 0);
        assert_string_equal(shown, steps[i].shown);
    }
    assert_int_equal(text_output_append(&output, "\xc3", 1, &failure), 0);
    assert_int_equal(text_output_finish(&output, &failure), 0);
    assert_int_equal(size, output.size);
    assert_memory_equal(shown, output.text, size);
    text_output_deinit(&output);
    assert_int_equal(alloc_live(), live);
    fclose(stream);
    free(shown);
}

static void test_stream_fails(void **state) {
    (void)state;
    struct text_output output = {.stream = fopen("/dev/full", "w")};
    assert_non_null(output.stream);
    assert_int_equal(text_output_append(&output, "text", 4, &failure), SCISSOR_ESYSTEM);
    fclose(output.stream);
    text_output_deinit(&output);
    alloc_fail_after(0, 1);
    assert_int_equal(text_output_append(&output, "text", 4, &failure), SCISSOR_ENOMEM);
    alloc_fail_never();
}

/* Collecting without a stream, as --json and --chat do, takes no longer for each byte as the text grows. */
static void test_collect(void **state) {
    (void)state;
    enum { PIECES = 300000 };
    struct text_output output = {0};
    clock_t start = clock();
    for (int i = 0; i < PIECES; i++)
        assert_int_equal(text_output_append(&output, "a", 1, &failure), 0);
    assert_int_equal(output.size, PIECES);
    assert_int_equal(text_output_finish(&output, &failure), 0);
    assert_true(clock() - start < 5 * CLOCKS_PER_SEC); /* some ms; quadratic, it was most of a minute */
    text_output_deinit(&output);
}

static void test_json(void **state) {
    (void)state;
    char *text;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    json_write_string(stream, "a\"b\\c\n\t\x01\x7f\xc3\xa9\xff\xe2\x82", 14);
    fclose(stream);
    assert_string_equal(text, "\"a\\\"b\\\\c\\n\\t\\u0001\\u007f\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options), cmocka_unit_test(test_wrong_options), cmocka_unit_test(test_help),
        cmocka_unit_test(test_stream),  cmocka_unit_test(test_stream_fails),  cmocka_unit_test(test_collect),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests_name("llama_text", tests, NULL, NULL);
}
