/* pretokenizer.h - cuts text into the pieces that byte-pair merges do not cross, by the rule that a model was trained
 * with: the regular expressions that "tokenizer.ggml.pre" names. Read-only once made; any number of threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gguf.h"

struct pretokenizer;

/* "smollm", "gpt-2", "default" or "llama-bpe"; EINVAL for other names. */
int pretokenizer_new(struct gguf_string name, struct pretokenizer **ret_pretokenizer, struct failure *failure);

/* NULL is allowed; returns NULL. */
struct pretokenizer *pretokenizer_free(struct pretokenizer *pretokenizer);

/* Whether a piece that is a token as a whole is taken without looking at the merges. */
bool pretokenizer_takes_whole_words(const struct pretokenizer *pretokenizer);

/* Gets one piece, never empty; not 0 ends the split with that code. */
typedef int pretokenizer_take(void *context, const char *piece, size_t size, struct failure *failure);

/* Gives the pieces of the text in order; together they are the text. Bytes that are not UTF-8 are pieces of one. */
int pretokenizer_split(const struct pretokenizer *pretokenizer, const char *text, size_t size, pretokenizer_take *take,
                       void *context, struct failure *failure);
