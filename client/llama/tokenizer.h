/* tokenizer.h - text to tokens and back, byte-level BPE. Read-only once made; any number of threads. */
#pragma once

#include "pretokenizer.h"
#include "vocabulary.h"

struct token_list {
    uint32_t *ids;
    size_t count, capacity;
};

/* Frees what the list holds; the list itself is the caller's. */
void token_list_deinit(struct token_list *list);
int token_list_append(struct token_list *list, uint32_t id, struct failure *failure);

struct tokenizer {
    struct vocabulary *vocabulary;
    struct pretokenizer *pretokenizer;
    uint32_t begin; /* put before a text if the model wants it; VOCABULARY_NONE: none */
    uint32_t end;   /* ends a text or a turn; VOCABULARY_NONE: none */
};

int tokenizer_new(const struct gguf *gguf, struct tokenizer **ret_tokenizer, struct failure *failure);

/* NULL is allowed; returns NULL. */
struct tokenizer *tokenizer_free(struct tokenizer *tokenizer);

/* Appends the text's tokens to the list. The names of control tokens in it are ordinary text: what a user writes cannot
 * end his turn. Bytes that the vocabulary has no token for are left out and counted in *ret_lost. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, struct token_list *list,
                     size_t *ret_lost, struct failure *failure);

/* Whether generation ends at this token: the model's end token, or one of the usual names for it. */
bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id);

/* The bytes that a token stands for; none for control tokens. A character may be spread over several tokens. */
struct gguf_string tokenizer_bytes(const struct tokenizer *tokenizer, uint32_t id);
