/* test_llama_builder.h - writes GGUF files by hand, into memory, for the tests of client/llama. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama/gguf.h"

struct builder {
    uint8_t *bytes;
    size_t size, capacity;
};

static inline void builder_put(struct builder *b, const void *bytes, size_t size) {
    if (size > b->capacity - b->size) {
        b->capacity = 2 * (b->capacity + size);
        b->bytes = realloc(b->bytes, b->capacity);
        if (!b->bytes)
            abort();
    }
    if (size > 0)
        memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

static inline void builder_put_u32(struct builder *b, uint32_t value) {
    builder_put(b, &value, sizeof(value));
}

static inline void builder_put_u64(struct builder *b, uint64_t value) {
    builder_put(b, &value, sizeof(value));
}

static inline void builder_put_string(struct builder *b, const char *text) {
    builder_put_u64(b, strlen(text));
    builder_put(b, text, strlen(text));
}

static inline void builder_put_header(struct builder *b, uint32_t version, uint64_t tensors, uint64_t values) {
    builder_put(b, "GGUF", 4);
    builder_put_u32(b, version);
    builder_put_u64(b, tensors);
    builder_put_u64(b, values);
}

static inline void builder_put_value_u32(struct builder *b, const char *key, uint32_t value) {
    builder_put_string(b, key);
    builder_put_u32(b, GGUF_UINT32);
    builder_put_u32(b, value);
}

static inline void builder_put_value_f32(struct builder *b, const char *key, float value) {
    builder_put_string(b, key);
    builder_put_u32(b, GGUF_FLOAT32);
    builder_put(b, &value, sizeof(value));
}

static inline void builder_put_value_string(struct builder *b, const char *key, const char *value) {
    builder_put_string(b, key);
    builder_put_u32(b, GGUF_STRING);
    builder_put_string(b, value);
}

static inline void builder_put_value_array(struct builder *b, const char *key, uint32_t type, uint64_t count) {
    builder_put_string(b, key);
    builder_put_u32(b, GGUF_ARRAY);
    builder_put_u32(b, type);
    builder_put_u64(b, count);
}

static inline void builder_put_tensor(struct builder *b, const char *name, uint64_t columns, uint64_t rows,
                                      uint32_t type, uint64_t offset) {
    builder_put_string(b, name);
    builder_put_u32(b, rows ? 2 : 1);
    builder_put_u64(b, columns);
    if (rows)
        builder_put_u64(b, rows);
    builder_put_u32(b, type);
    builder_put_u64(b, offset);
}

static inline void builder_pad(struct builder *b, size_t alignment) {
    while (b->size % alignment != 0)
        builder_put(b, "", 1);
}

/* A copy of exactly that size, so that a sanitizer sees a read past its end. */
static inline uint8_t *builder_copy(const struct builder *b, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        abort();
    memcpy(copy, b->bytes, size);
    return copy;
}

static inline void builder_deinit(struct builder *b) {
    free(b->bytes);
    *b = (struct builder){0};
}
