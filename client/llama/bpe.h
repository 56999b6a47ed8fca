/* bpe.h - the merge loop of byte-pair encoding over one piece of text. */
#pragma once

#include "tokenizer.h"

/* Working memory, kept over pieces; zero-initialise. One thread at a time. */
struct bpe {
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t symbol_capacity, heap_count;
};

void bpe_deinit(struct bpe *bpe);

/* Appends the piece's tokens to the list; bytes without a token are left out and added to *lost. */
int bpe_encode(struct bpe *bpe, const struct vocabulary *vocabulary, const char *piece, size_t size,
               struct token_list *list, size_t *lost, struct failure *failure);
