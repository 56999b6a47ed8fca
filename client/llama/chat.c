/* chat.c - see chat.h. */
#include "chat.h"

#include <string.h>

#include "alloc.h"

#define CHAT_DEFAULT_SYSTEM "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

/* The role, a newline and the text are one stretch between two markers: tokens may span the newline. */
static int chat_encode_stretch(const struct tokenizer *tokenizer, const char *role, const char *text, size_t size,
                               struct token_list *list, size_t *lost, struct failure *failure) {
    size_t role_size = strlen(role), lost_now = 0;
    char *stretch = scissor_malloc(role_size + size);
    if (!stretch)
        return failure_set_memory(failure);
    memcpy(stretch, role, role_size);
    if (size > 0)
        memcpy(stretch + role_size, text, size);
    int r = tokenizer_encode(tokenizer, stretch, role_size + size, list, &lost_now, failure);
    scissor_free(stretch);
    *lost += lost_now;
    return r;
}

static int chat_encode_turn(const struct tokenizer *tokenizer, const uint32_t markers[2], const char *role,
                            const char *text, size_t size, struct token_list *list, size_t *lost,
                            struct failure *failure) {
    int r = token_list_append(list, markers[0], failure);
    if (r == 0)
        r = chat_encode_stretch(tokenizer, role, text, size, list, lost, failure);
    if (r == 0)
        r = token_list_append(list, markers[1], failure);
    return r == 0 ? chat_encode_stretch(tokenizer, "\n", NULL, 0, list, lost, failure) : r;
}

int chat_encode(const struct tokenizer *tokenizer, const char *system, const char *user, size_t user_size,
                struct token_list *list, size_t *ret_lost, struct failure *failure) {
    const uint32_t markers[2] = {vocabulary_find_control(tokenizer->vocabulary, "<|im_start|>"),
                                 vocabulary_find_control(tokenizer->vocabulary, "<|im_end|>")};
    size_t lost = 0;
    if (markers[0] == VOCABULARY_NONE || markers[1] == VOCABULARY_NONE)
        return failure_set(failure, SCISSOR_EINVAL, "--chat knows the template of SmolLM2, which this model lacks");
    if (!system)
        system = CHAT_DEFAULT_SYSTEM;
    int r = chat_encode_turn(tokenizer, markers, "system\n", system, strlen(system), list, &lost, failure);
    if (r == 0)
        r = chat_encode_turn(tokenizer, markers, "user\n", user, user_size, list, &lost, failure);
    if (r == 0)
        r = token_list_append(list, markers[0], failure);
    if (r == 0)
        r = chat_encode_stretch(tokenizer, "assistant\n", NULL, 0, list, &lost, failure);
    if (r == 0)
        *ret_lost = lost;
    return r;
}
