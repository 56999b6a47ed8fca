/* pretokenizer.c - see pretokenizer.h.
 *
 * A rule has one or two stages; each cuts what the stage before it gave, and a piece looks like a whole text to the
 * next one (look-ahead does not see past it). PCRE2 would check the UTF-8 of the rest of the text at every match, which
 * is quadratic, so it is checked here once. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pretokenizer.h"

#include <pcre2.h>

#include "alloc.h"
#include "utf8.h"

#define PRETOKENIZER_MAX_STAGES 2

#define PRETOKENIZER_GPT2 "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PRETOKENIZER_LLAMA                                                                                   \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct pretokenizer_rule {
    const char *name;
    const char *stages[PRETOKENIZER_MAX_STAGES];
    bool whole_words;
} pretokenizer_rules[] = {
    {"smollm", {"\\p{N}", PRETOKENIZER_GPT2}, false},
    {"gpt-2", {PRETOKENIZER_GPT2, NULL}, false},
    {"default", {PRETOKENIZER_GPT2, NULL}, false},
    {"llama-bpe", {PRETOKENIZER_LLAMA, NULL}, true},
};

struct pretokenizer {
    const struct pretokenizer_rule *rule;
    pcre2_code *stages[PRETOKENIZER_MAX_STAGES];
    int stage_count;
};

struct pretokenizer_run {
    const struct pretokenizer *pretokenizer;
    pcre2_match_data *matches[PRETOKENIZER_MAX_STAGES];
    pretokenizer_take *take;
    void *context;
    struct failure *failure;
};

static void *pretokenizer_malloc(size_t size, void *context) {
    (void)context;
    return scissor_malloc(size);
}

static void pretokenizer_release(void *memory, void *context) {
    (void)context;
    scissor_free(memory);
}

static int pretokenizer_compile(struct pretokenizer *pretokenizer, struct failure *failure) {
    pcre2_general_context *general = pcre2_general_context_create(pretokenizer_malloc, pretokenizer_release, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    int r = context ? 0 : failure_set_memory(failure);
    for (int i = 0; i < PRETOKENIZER_MAX_STAGES && pretokenizer->rule->stages[i] && r == 0; i++) {
        int code;
        PCRE2_SIZE offset;
        pretokenizer->stages[i] = pcre2_compile((PCRE2_SPTR)pretokenizer->rule->stages[i], PCRE2_ZERO_TERMINATED,
                                                PCRE2_UTF | PCRE2_UCP, &code, &offset, context);
        if (!pretokenizer->stages[i])
            r = code == PCRE2_ERROR_HEAP_FAILED
                    ? failure_set_memory(failure)
                    : failure_set(failure, SCISSOR_ESYSTEM, "PCRE2 refuses the expression of %s (code %d)",
                                  pretokenizer->rule->name, code);
        else
            pretokenizer->stage_count++;
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return r;
}

int pretokenizer_new(struct gguf_string name, struct pretokenizer **ret_pretokenizer, struct failure *failure) {
    const struct pretokenizer_rule *rule = NULL;
    char printable[GGUF_PRINTABLE_BYTES];
    for (size_t i = 0; i < sizeof(pretokenizer_rules) / sizeof(pretokenizer_rules[0]); i++)
        if (gguf_string_equals(name, pretokenizer_rules[i].name))
            rule = &pretokenizer_rules[i];
    if (!rule)
        return failure_set(failure, SCISSOR_EINVAL,
                           "the pre-tokenizer \"%s\" is not supported, only smollm, gpt-2, default and llama-bpe",
                           gguf_printable(name, printable));
    struct pretokenizer *pretokenizer = scissor_calloc(1, sizeof(*pretokenizer));
    if (!pretokenizer)
        return failure_set_memory(failure);
    pretokenizer->rule = rule;
    int r = pretokenizer_compile(pretokenizer, failure);
    if (r != 0) {
        pretokenizer_free(pretokenizer);
        return r;
    }
    *ret_pretokenizer = pretokenizer;
    return 0;
}

struct pretokenizer *pretokenizer_free(struct pretokenizer *pretokenizer) {
    if (!pretokenizer)
        return NULL;
    for (int i = 0; i < pretokenizer->stage_count; i++)
        pcre2_code_free(pretokenizer->stages[i]);
    return scissor_free(pretokenizer);
}

bool pretokenizer_takes_whole_words(const struct pretokenizer *pretokenizer) {
    return pretokenizer->rule->whole_words;
}

/* Hands a piece to stage `stage`, or to the caller after the last one. */
static int run_split(struct pretokenizer_run *run, int stage, const char *text, size_t size) {
    if (size == 0)
        return 0;
    if (stage == run->pretokenizer->stage_count)
        return run->take(run->context, text, size, run->failure);
    int r = 0;
    size_t at = 0;
    while (at < size && r == 0) {
        int found = pcre2_match(run->pretokenizer->stages[stage], (PCRE2_SPTR)text, size, at, PCRE2_NO_UTF_CHECK,
                                run->matches[stage], NULL);
        if (found == PCRE2_ERROR_NOMATCH)
            return run_split(run, stage + 1, text + at, size - at);
        if (found == PCRE2_ERROR_NOMEMORY)
            return failure_set_memory(run->failure);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(run->matches[stage]);
        if (found < 0 || range[1] <= range[0])
            return failure_set(run->failure, SCISSOR_ESYSTEM, "PCRE2 gives up on the text (code %d)", found);
        size_t start = range[0], end = range[1];
        r = run_split(run, stage + 1, text + at, start - at);
        if (r == 0)
            r = run_split(run, stage + 1, text + start, end - start);
        at = end;
    }
    return r;
}

int pretokenizer_split(const struct pretokenizer *pretokenizer, const char *text, size_t size, pretokenizer_take *take,
                       void *context, struct failure *failure) {
    struct pretokenizer_run run = {.pretokenizer = pretokenizer, .take = take, .context = context, .failure = failure};
    int r = 0;
    for (int i = 0; i < pretokenizer->stage_count && r == 0; i++)
        if (!(run.matches[i] = pcre2_match_data_create_from_pattern(pretokenizer->stages[i], NULL)))
            r = failure_set_memory(failure);
    while (size > 0 && r == 0) {
        size_t valid = utf8_valid_prefix(text, size);
        r = run_split(&run, 0, text, valid);
        if (r == 0 && valid < size)
            r = take(context, text + valid++, 1, failure);
        text += valid;
        size -= valid;
    }
    for (int i = 0; i < pretokenizer->stage_count; i++)
        pcre2_match_data_free(run.matches[i]);
    return r;
}
