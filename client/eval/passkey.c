/* passkey.c - see passkey.h.
 *
 * The answer is given to the model as the rest of the text is, and each of its tokens has to be the likeliest one after
 * those before it: exactly then the model would have written the answer itself, always taking the likeliest token. So
 * the task is a text like any other, of which only the last positions are compared. */
#include "passkey.h"

#include <stdio.h>
#include <string.h>

#define PASSKEY_FIRST 10000u /* five digits, the first of them no 0 */
#define PASSKEY_NUMBERS 90000u

double passkey_depth(uint32_t depth) {
    return (depth + 0.5) / PASSKEY_DEPTHS;
}

/* A number for each text and depth, the same in each run. */
static uint32_t passkey_number(uint32_t text, uint32_t depth) {
    uint32_t x = (text * PASSKEY_DEPTHS + depth + 1) * 0x9e3779b9u;
    x = (x ^ x >> 16) * 0x85ebca6bu;
    return PASSKEY_FIRST + (x ^ x >> 13) % PASSKEY_NUMBERS;
}

static int passkey_append_text(const struct tokenizer *tokenizer, const char *text, struct token_list *list,
                               struct failure *failure) {
    size_t lost;
    return tokenizer_encode(tokenizer, text, strlen(text), list, &lost, failure);
}

static int passkey_append(const uint32_t *ids, size_t count, struct token_list *list, struct failure *failure) {
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = token_list_append(list, ids[i], failure);
    return r;
}

int passkey_build(const struct tokenizer *tokenizer, const struct token_list *filler, uint32_t tokens, uint32_t depth,
                  uint32_t number, struct token_list *ret_list, uint32_t *ret_score_from, struct failure *failure) {
    struct token_list needle = {0}, end = {0}, list = {0};
    char text[160];
    snprintf(text, sizeof(text), "\n\nThe pass key is %u. Remember it. %u is the pass key.\n\n", number, number);
    int r = passkey_append_text(tokenizer, text, &needle, failure);
    if (r == 0)
        r = passkey_append_text(tokenizer, "\n\nWhat is the pass key? The pass key is", &end, failure);
    size_t question = end.count;
    snprintf(text, sizeof(text), " %u", number);
    if (r == 0)
        r = passkey_append_text(tokenizer, text, &end, failure);
    size_t around = needle.count + end.count, answer = end.count - question;
    if (r == 0 && (around >= tokens || tokens - around > filler->count))
        r = failure_set(failure, SCISSOR_EINVAL, "%u tokens have no room for a pass key and a text around it", tokens);
    size_t rest = r == 0 ? tokens - around : 0, before = (size_t)(passkey_depth(depth) * (double)rest);
    if (r == 0)
        r = passkey_append(filler->ids, before, &list, failure);
    if (r == 0)
        r = passkey_append(needle.ids, needle.count, &list, failure);
    if (r == 0)
        r = passkey_append(filler->ids + before, rest - before, &list, failure);
    if (r == 0)
        r = passkey_append(end.ids, end.count, &list, failure);
    token_list_deinit(&needle);
    token_list_deinit(&end);
    if (r != 0) {
        token_list_deinit(&list);
        return r;
    }
    *ret_list = list;
    *ret_score_from = tokens - 1 - (uint32_t)answer;
    return 0;
}

static int passkey_run_one(struct lockstep *lockstep, const struct tokenizer *tokenizer, const struct token_list *lists,
                           uint32_t text, uint32_t depth, struct passkey_count *counts, struct failure *failure) {
    struct figures figures[EVAL_MAX_CONFIGS];
    struct token_list list;
    int r = passkey_build(tokenizer, &lists[text], lockstep->options->tokens, depth, passkey_number(text, depth), &list,
                          &lockstep->score_from, failure);
    if (r != 0)
        return r;
    r = lockstep_run(lockstep, list.ids, figures, failure);
    token_list_deinit(&list);
    for (uint32_t i = 0; i < lockstep->options->config_count && r == 0; i++) {
        struct passkey_count *count = &counts[(size_t)i * PASSKEY_DEPTHS + depth];
        bool full = figures[i].right_full == 1, solved = figures[i].right == 1;
        count->full += full;
        count->solved += full && solved;
    }
    return r;
}

int passkey_run(struct lockstep *lockstep, const struct tokenizer *tokenizer, const struct token_list *lists,
                struct passkey_count *ret_counts, struct failure *failure) {
    int r = 0;
    for (uint32_t text = 0; text < lockstep->options->text_count && r == 0; text++)
        for (uint32_t depth = 0; depth < PASSKEY_DEPTHS && r == 0; depth++)
            r = passkey_run_one(lockstep, tokenizer, lists, text, depth, ret_counts, failure);
    return r;
}
