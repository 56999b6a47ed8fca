/* tokenizer.c - see tokenizer.h. */
#include "tokenizer.h"

#include "alloc.h"
#include "bpe.h"

void token_list_deinit(struct token_list *list) {
    scissor_free(list->ids);
    *list = (struct token_list){0};
}

int token_list_append(struct token_list *list, uint32_t id, struct failure *failure) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 256;
        uint32_t *ids = scissor_realloc(list->ids, capacity * sizeof(*ids));
        if (!ids)
            return failure_set_memory(failure);
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return 0;
}

/* A token id under `key`; VOCABULARY_NONE if the file has none. */
static int tokenizer_read_id(const struct tokenizer *tokenizer, const struct gguf *gguf, const char *key, uint32_t *ret,
                             struct failure *failure) {
    const uint32_t none = VOCABULARY_NONE;
    uint32_t id;
    int r = gguf_get_u32(gguf, key, &none, &id, failure);
    if (r != 0)
        return r;
    if (id != VOCABULARY_NONE && id >= vocabulary_size(tokenizer->vocabulary))
        return failure_set(failure, SCISSOR_EINVAL, "%s is %u, which is not in the vocabulary", key, id);
    *ret = id;
    return 0;
}

static int tokenizer_read(struct tokenizer *tokenizer, const struct gguf *gguf, struct failure *failure) {
    struct gguf_string rule;
    bool add_begin;
    int r = vocabulary_new(gguf, &tokenizer->vocabulary, failure);
    if (r == 0)
        r = gguf_get_string(gguf, "tokenizer.ggml.pre", "default", &rule, failure);
    if (r == 0)
        r = pretokenizer_new(rule, &tokenizer->pretokenizer, failure);
    if (r == 0)
        r = tokenizer_read_id(tokenizer, gguf, "tokenizer.ggml.bos_token_id", &tokenizer->begin, failure);
    if (r == 0)
        r = tokenizer_read_id(tokenizer, gguf, "tokenizer.ggml.eos_token_id", &tokenizer->end, failure);
    if (r == 0)
        r = gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", false, &add_begin, failure);
    if (r == 0 && !add_begin)
        tokenizer->begin = VOCABULARY_NONE;
    return r;
}

int tokenizer_new(const struct gguf *gguf, struct tokenizer **ret_tokenizer, struct failure *failure) {
    struct tokenizer *tokenizer = scissor_calloc(1, sizeof(*tokenizer));
    if (!tokenizer)
        return failure_set_memory(failure);
    int r = tokenizer_read(tokenizer, gguf, failure);
    if (r != 0) {
        tokenizer_free(tokenizer);
        return r;
    }
    *ret_tokenizer = tokenizer;
    return 0;
}

struct tokenizer *tokenizer_free(struct tokenizer *tokenizer) {
    if (!tokenizer)
        return NULL;
    vocabulary_free(tokenizer->vocabulary);
    pretokenizer_free(tokenizer->pretokenizer);
    return scissor_free(tokenizer);
}

struct tokenizer_encode {
    const struct tokenizer *tokenizer;
    struct bpe bpe;
    struct token_list *list;
    size_t lost;
};

static int tokenizer_take_piece(void *context, const char *piece, size_t size, struct failure *failure) {
    struct tokenizer_encode *encode = context;
    const struct vocabulary *vocabulary = encode->tokenizer->vocabulary;
    if (pretokenizer_takes_whole_words(encode->tokenizer->pretokenizer)) {
        uint32_t id = vocabulary_find(vocabulary, piece, size);
        if (id != VOCABULARY_NONE)
            return token_list_append(encode->list, id, failure);
    }
    return bpe_encode(&encode->bpe, vocabulary, piece, size, encode->list, &encode->lost, failure);
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, struct token_list *list,
                     size_t *ret_lost, struct failure *failure) {
    struct tokenizer_encode encode = {.tokenizer = tokenizer, .list = list};
    int r = pretokenizer_split(tokenizer->pretokenizer, text, size, tokenizer_take_piece, &encode, failure);
    bpe_deinit(&encode.bpe);
    if (r == 0)
        *ret_lost = encode.lost;
    return r;
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id) {
    static const char *const names[] = {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>"};
    if (id == tokenizer->end)
        return true;
    if (!vocabulary_is_control(tokenizer->vocabulary, id))
        return false;
    struct gguf_string name = vocabulary_token(tokenizer->vocabulary, id);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (gguf_string_equals(name, names[i]))
            return true;
    return false;
}

struct gguf_string tokenizer_bytes(const struct tokenizer *tokenizer, uint32_t id) {
    if (vocabulary_is_control(tokenizer->vocabulary, id))
        return (struct gguf_string){"", 0};
    return vocabulary_token(tokenizer->vocabulary, id);
}
