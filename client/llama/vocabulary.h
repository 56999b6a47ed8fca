/* vocabulary.h - the tokens of a byte-level BPE model as raw bytes, and its merges; read from a GGUF file, which may be
 * closed afterwards. In the file, each byte of a token stands as a printable character (byte 0x20 as U+0120, and so
 * on); here that is undone. Read-only once made. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf.h"

#define VOCABULARY_NONE UINT32_MAX

struct vocabulary;

int vocabulary_new(const struct gguf *gguf, struct vocabulary **ret_vocabulary, struct failure *failure);

/* NULL is allowed; returns NULL. */
struct vocabulary *vocabulary_free(struct vocabulary *vocabulary);

uint32_t vocabulary_size(const struct vocabulary *vocabulary);

/* The token's bytes; id < size. Those of a control token are its name, such as "<|im_end|>". */
struct gguf_string vocabulary_token(const struct vocabulary *vocabulary, uint32_t id);
bool vocabulary_is_control(const struct vocabulary *vocabulary, uint32_t id);

/* The ordinary token of these bytes, or the control token of that name; VOCABULARY_NONE if there is none. */
uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *bytes, size_t size);
uint32_t vocabulary_find_control(const struct vocabulary *vocabulary, const char *name);

/* The merge of two neighbours: the lower the rank the earlier it is done. False if they do not merge. */
bool vocabulary_merge(const struct vocabulary *vocabulary, uint32_t left, uint32_t right, uint32_t *ret_rank,
                      uint32_t *ret_merged);
