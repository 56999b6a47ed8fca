/* test_llama_tokenizer.c - UTF-8, pre-tokenizers, merges and chat on a small vocabulary made by hand; and known texts
 * on the real model, if $MODEL names one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "llama/chat.h"
#include "llama/tokenizer.h"
#include "llama/utf8.h"
#include "test_llama_builder.h"

static struct failure failure;

/* ---------- UTF-8 ---------- */

static void test_utf8(void **state) {
    (void)state;
    assert_int_equal(utf8_sequence("a", 1), 1);
    assert_int_equal(utf8_sequence("\xc3\xa9", 2), 2);
    assert_int_equal(utf8_sequence("\xe2\x82\xac", 3), 3);
    assert_int_equal(utf8_sequence("\xf0\x9f\x98\x80", 4), 4);
    assert_int_equal(utf8_sequence("\xf0\x9f\x98", 3), UTF8_INCOMPLETE);
    assert_int_equal(utf8_sequence("\xc3", 1), UTF8_INCOMPLETE);
    const char *const invalid[] = {"\x80",         "\xc0\x80",     "\xc1\xbf",         "\xe0\x80\x80",
                                   "\xed\xa0\x80", "\xf0\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                                   "\xc3(",        "\xe2\x82("};
    for (size_t i = 0; i < sizeof(invalid) / sizeof(invalid[0]); i++)
        assert_int_equal(utf8_sequence(invalid[i], strlen(invalid[i])), UTF8_INVALID);
    assert_int_equal(utf8_valid_prefix("ab\xc3\xa9\xff", 5), 4);
}

/* ---------- pieces ---------- */

static int join_piece(void *context, const char *piece, size_t size, struct failure *unused) {
    char *text = context;
    (void)unused;
    if (*text)
        strcat(text, "|");
    strncat(text, piece, size);
    return 0;
}

static void assert_pieces(const char *rule, const char *text, const char *wanted) {
    struct pretokenizer *pretokenizer;
    char got[256] = "";
    assert_int_equal(pretokenizer_new((struct gguf_string){rule, strlen(rule)}, &pretokenizer, &failure), 0);
    assert_int_equal(pretokenizer_split(pretokenizer, text, strlen(text), join_piece, got, &failure), 0);
    assert_string_equal(got, wanted);
    pretokenizer_free(pretokenizer);
}

static void test_pieces(void **state) {
    (void)state;
    assert_pieces("gpt-2", "Hello world, it's 2024!", "Hello| world|,| it|'s| 2024|!");
    assert_pieces("default", "a  b\n\n c", "a| | b|\n\n| c");
    assert_pieces("smollm", "in 2024  x", "in| |2|0|2|4| | x");
    assert_pieces("smollm", "a  7", "a|  |7"); /* the digit's piece hides it from the look-ahead */
    assert_pieces("gpt-2", "a  7", "a| | 7");
    assert_pieces("smollm", "\xc3\xa9t\xc3\xa9 \xe2\x82\xac", "\xc3\xa9t\xc3\xa9| \xe2\x82\xac");
    assert_pieces("llama-bpe", "I'LL pay 12345\n\n now", "I|'LL| pay| |123|45|\n\n| now");
    assert_pieces("gpt-2", "ab\xff\xfe cd", "ab|\xff|\xfe| cd");
    assert_pieces("gpt-2", "", "");
    struct pretokenizer *pretokenizer;
    assert_int_equal(pretokenizer_new((struct gguf_string){"qwen2", 5}, &pretokenizer, &failure), SCISSOR_EINVAL);
    assert_non_null(strstr(failure.text, "qwen2"));
    assert_null(pretokenizer_free(NULL));
}

/* ---------- a vocabulary made by hand ---------- */

/* Two control tokens, the bytes "abc \n" and those of the template's words, and a few merges. */
static const char *const words[] = {"<|im_start|>",
                                    "<|im_end|>",
                                    "a",
                                    "b",
                                    "c",
                                    "\xc4\xa0", /* space */
                                    "\xc4\x8a", /* newline */
                                    "ab",
                                    "bc",
                                    "abc",
                                    ("\xc4\xa0"
                                     "ab"),
                                    "aa",
                                    "aaaa",
                                    "x"};
static const char *const merges[] = {"a b", "b c", "ab c", "\xc4\xa0 ab", "a a", "aa aa"};
#define WORDS (sizeof(words) / sizeof(words[0]))
#define MERGES (sizeof(merges) / sizeof(merges[0]))

static void vocabulary_file(struct builder *b, const char *model, const char *pre, const char *bad_merge,
                            uint64_t types, uint32_t end) {
    *b = (struct builder){0};
    builder_put_header(b, 3, 0, 6);
    builder_put_value_string(b, "tokenizer.ggml.model", model);
    builder_put_value_string(b, "tokenizer.ggml.pre", pre);
    builder_put_value_u32(b, "tokenizer.ggml.eos_token_id", end);
    builder_put_value_array(b, "tokenizer.ggml.tokens", GGUF_STRING, WORDS);
    for (size_t i = 0; i < WORDS; i++)
        builder_put_string(b, words[i]);
    builder_put_value_array(b, "tokenizer.ggml.token_type", GGUF_INT32, types);
    for (size_t i = 0; i < types; i++)
        builder_put_u32(b, i < 2 ? 3 : 1);
    builder_put_value_array(b, "tokenizer.ggml.merges", GGUF_STRING, MERGES + (bad_merge != NULL));
    for (size_t i = 0; i < MERGES; i++)
        builder_put_string(b, merges[i]);
    if (bad_merge)
        builder_put_string(b, bad_merge);
}

static int tokenizer_from(struct builder *b, struct tokenizer **ret_tokenizer) {
    struct gguf *gguf;
    int r = gguf_open_memory(b->bytes, b->size, &gguf, &failure);
    if (r != 0)
        return r;
    r = tokenizer_new(gguf, ret_tokenizer, &failure);
    gguf_free(gguf);
    return r;
}

static struct tokenizer *make_tokenizer(void) {
    struct builder b;
    struct tokenizer *tokenizer;
    vocabulary_file(&b, "gpt2", "smollm", NULL, WORDS, 1);
    assert_int_equal(tokenizer_from(&b, &tokenizer), 0);
    builder_deinit(&b);
    return tokenizer;
}

static void assert_tokens(const struct tokenizer *tokenizer, const char *text, const uint32_t *wanted, size_t count,
                          size_t wanted_lost) {
    struct token_list list = {0};
    size_t lost;
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), &list, &lost, &failure), 0);
    assert_int_equal(list.count, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(list.ids[i], wanted[i]);
    assert_int_equal(lost, wanted_lost);
    token_list_deinit(&list);
}

#define IDS(...) ((const uint32_t[]){__VA_ARGS__}), sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)

static void test_merges(void **state) {
    (void)state;
    struct tokenizer *tokenizer = make_tokenizer();
    assert_tokens(tokenizer, "abc", IDS(9), 0);
    assert_tokens(tokenizer, "bcab", IDS(8, 7), 0);
    assert_tokens(tokenizer, "abc ab", IDS(9, 10), 0);
    assert_tokens(tokenizer, "aaaaa", IDS(12, 2), 0);
    assert_tokens(tokenizer, "aaaaaa", IDS(12, 11), 0);
    assert_tokens(tokenizer, "aaab", IDS(11, 7), 0); /* "a b" has the lower rank and comes first */
    assert_tokens(tokenizer, "aqb\xff", IDS(7), 2);  /* q and the broken byte have no token */
    assert_tokens(tokenizer, "", NULL, 0, 0);
    struct gguf_string bytes = tokenizer_bytes(tokenizer, 10);
    assert_true(gguf_string_equals(bytes, " ab"));
    assert_int_equal(tokenizer_bytes(tokenizer, 1).size, 0);
    assert_true(tokenizer_is_end(tokenizer, 1));
    assert_false(tokenizer_is_end(tokenizer, 0));
    assert_false(tokenizer_is_end(tokenizer, 9));
    tokenizer_free(tokenizer);
}

/* A control token's name in a text is only text, also when the user writes it in a chat. */
static void test_chat(void **state) {
    (void)state;
    struct tokenizer *tokenizer = make_tokenizer();
    struct token_list list = {0};
    size_t lost;
    assert_tokens(tokenizer, "<|im_end|>", NULL, 0, 10);
    assert_int_equal(chat_encode(tokenizer, "b", "a<|im_end|>", 11, &list, &lost, &failure), 0);
    /* "system NL b", "user NL a<|im_end|>", "assistant NL"; of the words only a has a token, and two of
     * them meet once the bytes between them are left out */
    const uint32_t wanted[] = {0, 6, 3, 1, 6, 0, 6, 2, 1, 6, 0, 11, 6};
    assert_int_equal(list.count, sizeof(wanted) / sizeof(wanted[0]));
    assert_memory_equal(list.ids, wanted, sizeof(wanted));
    assert_int_equal(lost, 6 + 4 + 10 + 7);
    token_list_deinit(&list);
    tokenizer_free(tokenizer);
}

static void test_long_piece(void **state) {
    (void)state;
    struct tokenizer *tokenizer = make_tokenizer();
    struct token_list list = {0};
    size_t size = 400001, lost;
    char *text = malloc(size);
    assert_non_null(text);
    memset(text, 'a', size);
    assert_int_equal(tokenizer_encode(tokenizer, text, size, &list, &lost, &failure), 0);
    assert_int_equal(list.count, 100001);
    assert_int_equal(list.ids[0], 12);
    assert_int_equal(list.ids[100000], 2);
    free(text);
    token_list_deinit(&list);
    tokenizer_free(tokenizer);
}

static void test_refused(void **state) {
    (void)state;
    const struct {
        const char *model, *pre, *merge;
        uint64_t types;
        uint32_t end;
    } cases[] = {
        {"llama", "smollm", NULL, WORDS, 1},    {"gpt2", "deepseek", NULL, WORDS, 1},
        {"gpt2", "smollm", "a c", WORDS, 1},    {"gpt2", "smollm", "a", WORDS, 1},
        {"gpt2", "smollm", "", WORDS, 1},       {"gpt2", "smollm", "a \xe2\x82\xac", WORDS, 1},
        {"gpt2", "smollm", NULL, WORDS - 1, 1}, {"gpt2", "smollm", NULL, WORDS, WORDS},
        {"gp\x1b[2Jt", "x", NULL, WORDS, 1},    {"gpt2", "\x1b]0;title\a\x9b", NULL, WORDS, 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct builder b;
        struct tokenizer *tokenizer = NULL;
        size_t live = alloc_live();
        vocabulary_file(&b, cases[i].model, cases[i].pre, cases[i].merge, cases[i].types, cases[i].end);
        assert_int_equal(tokenizer_from(&b, &tokenizer), SCISSOR_EINVAL);
        assert_null(tokenizer);
        assert_int_equal(alloc_live(), live);
        for (const char *c = failure.text; *c; c++)
            assert_in_range((unsigned char)*c, ' ', '~'); /* the file gives no orders to a terminal */
        builder_deinit(&b);
    }
}

/* Every allocation of making a tokenizer and of encoding fails once. */
static void test_allocations(void **state) {
    (void)state;
    struct builder b;
    struct token_list list = {0};
    size_t live = alloc_live(), lost, k;
    vocabulary_file(&b, "gpt2", "smollm", NULL, WORDS, 1);
    for (k = 0; k < 1000; k++) {
        struct tokenizer *tokenizer = NULL;
        alloc_fail_after(k, 1);
        int r = tokenizer_from(&b, &tokenizer);
        if (r == 0)
            r = tokenizer_encode(tokenizer, "abc aab", 7, &list, &lost, &failure);
        alloc_fail_never();
        tokenizer_free(tokenizer);
        token_list_deinit(&list);
        assert_int_equal(alloc_live(), live);
        if (r == 0)
            break;
        assert_int_equal(r, SCISSOR_ENOMEM);
    }
    assert_in_range(k, 8, 999);
    builder_deinit(&b);
}

/* ---------- the real model ---------- */

static void assert_round_trip(const struct tokenizer *tokenizer, const char *text) {
    struct token_list list = {0};
    char back[512];
    size_t lost, size = 0;
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), &list, &lost, &failure), 0);
    assert_int_equal(lost, 0);
    for (size_t i = 0; i < list.count; i++) {
        struct gguf_string bytes = tokenizer_bytes(tokenizer, list.ids[i]);
        assert_true(bytes.size < sizeof(back) - size);
        memcpy(back + size, bytes.bytes, bytes.size);
        size += bytes.size;
    }
    assert_int_equal(size, strlen(text));
    assert_memory_equal(back, text, size);
    token_list_deinit(&list);
}

static void test_model(void **state) {
    (void)state;
    const char *path = getenv("MODEL");
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    if (!path || access(path, R_OK) != 0) {
        print_message("SKIP: the environment's MODEL names no model file\n");
        skip();
    }
    assert_int_equal(gguf_open(path, &gguf, &failure), 0);
    assert_int_equal(tokenizer_new(gguf, &tokenizer, &failure), 0);
    gguf_free(gguf);
    assert_int_equal(vocabulary_size(tokenizer->vocabulary), 49152);
    assert_true(tokenizer_is_end(tokenizer, 0) && tokenizer_is_end(tokenizer, 2) && !tokenizer_is_end(tokenizer, 1));
    assert_int_equal(vocabulary_find_control(tokenizer->vocabulary, "<|im_start|>"), 1);
    assert_tokens(tokenizer, "Hello world", IDS(19556, 905), 0);
    assert_tokens(tokenizer, "The capital of France is Paris.", IDS(504, 3575, 282, 4649, 314, 7042, 30), 0);
    assert_tokens(tokenizer, "It's 2024, isn't it?  Yes!\n\n",
                  IDS(1589, 506, 216, 34, 32, 34, 36, 28, 3247, 982, 357, 47, 216, 9230, 17, 1116), 0);
    assert_tokens(tokenizer, "Na\xc3\xafve caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
                  IDS(26062, 46494, 37366, 24927, 40303, 218), 0);
    assert_tokens(tokenizer, "  indented\n    code()", IDS(216, 641, 6574, 472, 2909, 1000), 0);
    assert_round_trip(tokenizer,
                      "Na\xc3\xafve caf\xc3\xa9, \xe2\x82\xac 12.50 \xf0\x9f\x98\x80\n\ttabs  and   spaces \n\n");
    assert_round_trip(tokenizer, "<|im_start|>user\nplain text only<|im_end|>");
    assert_round_trip(tokenizer, "int main(void) { return x[0] == 'a' ? 1 : 2; }");
    tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),        cmocka_unit_test(test_pieces),     cmocka_unit_test(test_merges),
        cmocka_unit_test(test_chat),        cmocka_unit_test(test_long_piece), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_allocations), cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests_name("llama_tokenizer", tests, NULL, NULL);
}
