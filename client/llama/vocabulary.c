/* vocabulary.c - see vocabulary.h. Two open-addressing tables: bytes -> token, pair of tokens -> merge. */
#include "vocabulary.h"

#include <string.h>

#include "alloc.h"
#include "utf8.h"

#define VOCABULARY_MAX_TOKENS (1u << 24)
#define VOCABULARY_TYPE_CONTROL 3

struct vocabulary_merge {
    uint32_t left, right; /* left == VOCABULARY_NONE: an empty place of the table */
    uint32_t rank, merged;
};

struct vocabulary {
    uint32_t size;
    struct gguf_string *tokens; /* into `bytes` */
    bool *control;
    char *bytes;
    uint32_t *by_bytes; /* ordinary tokens by hash of their bytes */
    size_t by_bytes_mask;
    struct vocabulary_merge *merges; /* by hash of the pair */
    size_t merges_mask;
};

/* ---------- the characters that stand for bytes ---------- */

/* Printable Latin-1 characters stand for themselves, the other bytes in order for U+0100 and on. */
static bool byte_is_plain(int byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

/* Byte of a character, or -1; characters past U+01FF never stand for one. */
static int byte_of_character(uint32_t character) {
    if (character < 256)
        return byte_is_plain((int)character) ? (int)character : -1;
    uint32_t next = 256;
    for (int byte = 0; byte < 256; byte++)
        if (!byte_is_plain(byte) && next++ == character)
            return byte;
    return -1;
}

/* Writes at most `text.size` bytes; false if a character stands for no byte. */
static bool vocabulary_unmap(struct gguf_string text, char *ret_bytes, size_t *ret_size) {
    size_t size = 0;
    for (size_t at = 0; at < text.size;) {
        int length = utf8_sequence(text.bytes + at, text.size - at);
        const unsigned char *c = (const unsigned char *)text.bytes + at;
        if (length != 1 && length != 2)
            return false;
        int byte = byte_of_character(length == 1 ? c[0] : (uint32_t)(c[0] & 31) << 6 | (c[1] & 63));
        if (byte < 0)
            return false;
        ret_bytes[size++] = (char)byte;
        at += (size_t)length;
    }
    *ret_size = size;
    return true;
}

/* ---------- tables ---------- */

static size_t hash_bytes(const char *bytes, size_t size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return (size_t)(hash ^ hash >> 32);
}

static size_t hash_pair(uint32_t left, uint32_t right) {
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (size_t)(hash ^ hash >> 29);
}

/* A power of two that leaves half of the table empty. */
static size_t table_places(size_t entries) {
    size_t places = 16;
    while (places < 2 * entries)
        places *= 2;
    return places;
}

/* The place of these bytes, or the empty one where they would go. */
static size_t vocabulary_place(const struct vocabulary *vocabulary, const char *bytes, size_t size) {
    for (size_t at = hash_bytes(bytes, size);; at++) {
        uint32_t id = vocabulary->by_bytes[at & vocabulary->by_bytes_mask];
        if (id == VOCABULARY_NONE ||
            (vocabulary->tokens[id].size == size && memcmp(vocabulary->tokens[id].bytes, bytes, size) == 0))
            return at & vocabulary->by_bytes_mask;
    }
}

static size_t vocabulary_merge_place(const struct vocabulary *vocabulary, uint32_t left, uint32_t right) {
    for (size_t at = hash_pair(left, right);; at++) {
        const struct vocabulary_merge *merge = &vocabulary->merges[at & vocabulary->merges_mask];
        if (merge->left == VOCABULARY_NONE || (merge->left == left && merge->right == right))
            return at & vocabulary->merges_mask;
    }
}

uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *bytes, size_t size) {
    return vocabulary->by_bytes[vocabulary_place(vocabulary, bytes, size)];
}

bool vocabulary_merge(const struct vocabulary *vocabulary, uint32_t left, uint32_t right, uint32_t *ret_rank,
                      uint32_t *ret_merged) {
    const struct vocabulary_merge *merge = &vocabulary->merges[vocabulary_merge_place(vocabulary, left, right)];
    if (merge->left == VOCABULARY_NONE)
        return false;
    *ret_rank = merge->rank;
    *ret_merged = merge->merged;
    return true;
}

/* ---------- reading ---------- */

static int vocabulary_find_array(const struct gguf *gguf, const char *key, uint32_t type, const struct gguf_value **ret,
                                 struct failure *failure) {
    const struct gguf_value *value = gguf_find_value(gguf, key);
    if (!value || value->type != GGUF_ARRAY || value->element_type != type || value->count > VOCABULARY_MAX_TOKENS)
        return failure_set(failure, SCISSOR_EINVAL, "the file has no usable %s", key);
    *ret = value;
    return 0;
}

/* tokenizer.ggml.token_type: one i32 per token; without it no token is a control token. */
static int vocabulary_read_types(struct vocabulary *vocabulary, const struct gguf *gguf, struct failure *failure) {
    const struct gguf_value *types;
    if (!gguf_find_value(gguf, "tokenizer.ggml.token_type"))
        return 0;
    int r = vocabulary_find_array(gguf, "tokenizer.ggml.token_type", GGUF_INT32, &types, failure);
    if (r != 0)
        return r;
    if (types->count != vocabulary->size)
        return failure_set(failure, SCISSOR_EINVAL, "the file has %u tokens and %llu token types", vocabulary->size,
                           (unsigned long long)types->count);
    for (uint32_t id = 0; id < vocabulary->size; id++) {
        int32_t type;
        memcpy(&type, types->data + (size_t)id * sizeof(type), sizeof(type));
        vocabulary->control[id] = type == VOCABULARY_TYPE_CONTROL;
    }
    return 0;
}

/* Unmapping never makes a token longer, so the array's own size is enough for all bytes. */
static void vocabulary_read_tokens(struct vocabulary *vocabulary, const struct gguf_value *array) {
    size_t cursor = 0, used = 0;
    for (uint32_t id = 0; id < vocabulary->size; id++) {
        struct gguf_string text = gguf_array_next_string(array, &cursor);
        char *bytes = vocabulary->bytes + used;
        size_t size;
        if (vocabulary->control[id] || !vocabulary_unmap(text, bytes, &size)) {
            memcpy(bytes, text.bytes, text.size);
            size = text.size;
        }
        vocabulary->tokens[id] = (struct gguf_string){bytes, size};
        used += size;
        size_t place = vocabulary_place(vocabulary, bytes, size);
        if (!vocabulary->control[id] && vocabulary->by_bytes[place] == VOCABULARY_NONE)
            vocabulary->by_bytes[place] = id;
    }
}

/* "left right", characters as in the tokens; a space stands in neither half. */
static bool vocabulary_read_merge(const struct vocabulary *vocabulary, struct gguf_string text, char *scratch,
                                  struct vocabulary_merge *ret) {
    const char *space = text.size > 0 ? memchr(text.bytes + 1, ' ', text.size - 1) : NULL;
    size_t left, right;
    if (!space)
        return false;
    size_t before = (size_t)(space - text.bytes);
    if (!vocabulary_unmap((struct gguf_string){text.bytes, before}, scratch, &left) ||
        !vocabulary_unmap((struct gguf_string){space + 1, text.size - before - 1}, scratch + left, &right))
        return false;
    ret->left = vocabulary_find(vocabulary, scratch, left);
    ret->right = vocabulary_find(vocabulary, scratch + left, right);
    ret->merged = vocabulary_find(vocabulary, scratch, left + right);
    return ret->left != VOCABULARY_NONE && ret->right != VOCABULARY_NONE && ret->merged != VOCABULARY_NONE;
}

static int vocabulary_read_merges(struct vocabulary *vocabulary, const struct gguf_value *array,
                                  struct failure *failure) {
    char *scratch = scissor_malloc(array->size);
    if (!scratch)
        return failure_set_memory(failure);
    size_t cursor = 0;
    int r = 0;
    for (uint32_t rank = 0; rank < array->count && r == 0; rank++) {
        struct vocabulary_merge merge = {.rank = rank};
        if (!vocabulary_read_merge(vocabulary, gguf_array_next_string(array, &cursor), scratch, &merge))
            r = failure_set(failure, SCISSOR_EINVAL, "merge %u of the tokenizer does not join two tokens to a third",
                            rank);
        struct vocabulary_merge *place =
            r == 0 ? &vocabulary->merges[vocabulary_merge_place(vocabulary, merge.left, merge.right)] : NULL;
        if (place && place->left == VOCABULARY_NONE)
            *place = merge;
    }
    scissor_free(scratch);
    return r;
}

static int vocabulary_allocate(struct vocabulary *vocabulary, const struct gguf_value *tokens,
                               const struct gguf_value *merges, struct failure *failure) {
    size_t by_bytes = table_places((size_t)tokens->count), pairs = table_places((size_t)merges->count);
    vocabulary->size = (uint32_t)tokens->count;
    vocabulary->tokens = scissor_calloc(vocabulary->size, sizeof(*vocabulary->tokens));
    vocabulary->control = scissor_calloc(vocabulary->size, sizeof(*vocabulary->control));
    vocabulary->bytes = scissor_malloc(tokens->size);
    vocabulary->by_bytes = scissor_malloc(by_bytes * sizeof(*vocabulary->by_bytes));
    vocabulary->merges = scissor_malloc(pairs * sizeof(*vocabulary->merges));
    if (!vocabulary->tokens || !vocabulary->control || !vocabulary->bytes || !vocabulary->by_bytes ||
        !vocabulary->merges)
        return failure_set_memory(failure);
    vocabulary->by_bytes_mask = by_bytes - 1;
    vocabulary->merges_mask = pairs - 1;
    memset(vocabulary->by_bytes, 0xff, by_bytes * sizeof(*vocabulary->by_bytes));
    memset(vocabulary->merges, 0xff, pairs * sizeof(*vocabulary->merges));
    return 0;
}

static int vocabulary_read(struct vocabulary *vocabulary, const struct gguf *gguf, struct failure *failure) {
    const struct gguf_value *tokens, *merges;
    char printable[GGUF_PRINTABLE_BYTES];
    struct gguf_string model;
    int r = gguf_get_string(gguf, "tokenizer.ggml.model", NULL, &model, failure);
    if (r == 0 && !gguf_string_equals(model, "gpt2"))
        return failure_set(failure, SCISSOR_EINVAL, "the tokenizer is \"%s\"; this program has byte-level BPE (gpt2)",
                           gguf_printable(model, printable));
    if (r == 0)
        r = vocabulary_find_array(gguf, "tokenizer.ggml.tokens", GGUF_STRING, &tokens, failure);
    if (r == 0)
        r = vocabulary_find_array(gguf, "tokenizer.ggml.merges", GGUF_STRING, &merges, failure);
    if (r == 0)
        r = vocabulary_allocate(vocabulary, tokens, merges, failure);
    if (r == 0)
        r = vocabulary_read_types(vocabulary, gguf, failure);
    if (r != 0)
        return r;
    vocabulary_read_tokens(vocabulary, tokens);
    return vocabulary_read_merges(vocabulary, merges, failure);
}

int vocabulary_new(const struct gguf *gguf, struct vocabulary **ret_vocabulary, struct failure *failure) {
    struct vocabulary *vocabulary = scissor_calloc(1, sizeof(*vocabulary));
    if (!vocabulary)
        return failure_set_memory(failure);
    int r = vocabulary_read(vocabulary, gguf, failure);
    if (r != 0) {
        vocabulary_free(vocabulary);
        return r;
    }
    *ret_vocabulary = vocabulary;
    return 0;
}

struct vocabulary *vocabulary_free(struct vocabulary *vocabulary) {
    if (!vocabulary)
        return NULL;
    scissor_free(vocabulary->tokens);
    scissor_free(vocabulary->control);
    scissor_free(vocabulary->bytes);
    scissor_free(vocabulary->by_bytes);
    scissor_free(vocabulary->merges);
    return scissor_free(vocabulary);
}

/* ---------- looking up ---------- */

uint32_t vocabulary_size(const struct vocabulary *vocabulary) {
    return vocabulary->size;
}

struct gguf_string vocabulary_token(const struct vocabulary *vocabulary, uint32_t id) {
    return vocabulary->tokens[id];
}

bool vocabulary_is_control(const struct vocabulary *vocabulary, uint32_t id) {
    return vocabulary->control[id];
}

uint32_t vocabulary_find_control(const struct vocabulary *vocabulary, const char *name) {
    for (uint32_t id = 0; id < vocabulary->size; id++)
        if (vocabulary->control[id] && gguf_string_equals(vocabulary->tokens[id], name))
            return id;
    return VOCABULARY_NONE;
}
