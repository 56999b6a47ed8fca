/* gguf.h - reads GGUF files, versions 2 and 3, little-endian.
 *
 *     header   "GGUF", version u32, tensor count u64, value count u64
 *     values   key string, type u32, the value
 *     tensors  name string, dimension count u32, sizes u64 each (the first one varies fastest), type u32, offset u64
 *     padding  up to general.alignment (32 if not given)
 *     data     each tensor at its offset from here
 *
 * A string is a u64 length and its bytes, without a terminator. A `struct gguf` owns the mapping; strings, values and
 * tensors point into it and live as long as it does. Nothing in the file is trusted: all that is handed out lies
 * inside the mapping, and whatever does not is refused with a text that says where. One thread at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failure.h"

/* X(name, number in the file, elements of a block, bytes of a block) */
#define GGUF_TENSOR_TYPE_MAP(X) \
    X(F32, 0, 1, 4)             \
    X(F16, 1, 1, 2)             \
    X(Q4_0, 2, 32, 18)          \
    X(Q4_1, 3, 32, 20)          \
    X(Q8_0, 8, 32, 34)          \
    X(Q4_K, 12, 256, 144)       \
    X(Q6_K, 14, 256, 210)

enum gguf_tensor_type {
#define GGUF_TENSOR_TYPE_ENUM(name, number, elements, bytes) GGUF_TENSOR_##name = (number),
    GGUF_TENSOR_TYPE_MAP(GGUF_TENSOR_TYPE_ENUM)
#undef GGUF_TENSOR_TYPE_ENUM
};

enum gguf_value_type {
    GGUF_UINT8 = 0,
    GGUF_INT8 = 1,
    GGUF_UINT16 = 2,
    GGUF_INT16 = 3,
    GGUF_UINT32 = 4,
    GGUF_INT32 = 5,
    GGUF_FLOAT32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_UINT64 = 10,
    GGUF_INT64 = 11,
    GGUF_FLOAT64 = 12,
};

struct gguf_string {
    const char *bytes; /* not terminated */
    size_t size;
};

struct gguf_value {
    struct gguf_string key;
    uint32_t type;         /* enum gguf_value_type */
    uint32_t element_type; /* of an array; never GGUF_ARRAY */
    uint64_t count;        /* elements of an array; 1 otherwise */
    const uint8_t *data;   /* of the value or of the array's first element */
    size_t size;
};

#define GGUF_MAX_DIMENSIONS 4

struct gguf_tensor {
    struct gguf_string name;
    uint32_t type; /* enum gguf_tensor_type */
    uint32_t dimensions;
    uint64_t sizes[GGUF_MAX_DIMENSIONS]; /* 1 past `dimensions` */
    uint64_t elements;
    const uint8_t *data; /* may not be aligned for its type */
    size_t size;
};

struct gguf {
    const uint8_t *memory;
    size_t memory_size;
    bool mapped; /* memory is ours to unmap */
    uint32_t version;
    uint32_t alignment;
    size_t value_count, tensor_count;
    struct gguf_value *values;
    struct gguf_tensor *tensors;
};

/* Maps and reads a file. EINVAL: not such a file or a broken one; ESYSTEM: cannot be read; ENOMEM. */
int gguf_open(const char *path, struct gguf **ret_gguf, struct failure *failure);

/* The same over memory that the caller keeps for as long as the gguf lives. */
int gguf_open_memory(const void *memory, size_t size, struct gguf **ret_gguf, struct failure *failure);

/* NULL is allowed; returns NULL. */
struct gguf *gguf_free(struct gguf *gguf);

/* The first of that name, or NULL. */
const struct gguf_value *gguf_find_value(const struct gguf *gguf, const char *key);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name);

/* Values by key. `fallback` stands for a missing key, NULL makes the key a must. EINVAL: missing, another type or,
 * for the integers, out of range. All integer types are taken for an unsigned. */
int gguf_get_u32(const struct gguf *gguf, const char *key, const uint32_t *fallback, uint32_t *ret,
                 struct failure *failure);
int gguf_get_f32(const struct gguf *gguf, const char *key, const float *fallback, float *ret, struct failure *failure);
int gguf_get_bool(const struct gguf *gguf, const char *key, bool fallback, bool *ret, struct failure *failure);
int gguf_get_string(const struct gguf *gguf, const char *key, const char *fallback, struct gguf_string *ret,
                    struct failure *failure);

/* An array of strings is walked: start with *cursor = 0 and call it `count` times. The file was checked at open. */
struct gguf_string gguf_array_next_string(const struct gguf_value *array, size_t *cursor);

/* Whether the string has exactly these bytes. */
bool gguf_string_equals(struct gguf_string string, const char *text);

/* A string from the file for messages, in `text`: cut, and without bytes that a terminal would take for orders. */
#define GGUF_PRINTABLE_BYTES 64
const char *gguf_printable(struct gguf_string string, char text[GGUF_PRINTABLE_BYTES]);

/* "Q4_1"; NULL for a type that this program does not read. */
const char *gguf_tensor_type_name(uint32_t type);
