/* gguf_value.c - finding, converting and printing the values and tensors of an open GGUF file. */
#include <string.h>

#include "gguf.h"

bool gguf_string_equals(struct gguf_string string, const char *text) {
    size_t size = strlen(text);
    return string.size == size && memcmp(string.bytes, text, size) == 0;
}

const char *gguf_printable(struct gguf_string string, char text[GGUF_PRINTABLE_BYTES]) {
    size_t size = string.size < GGUF_PRINTABLE_BYTES ? string.size : GGUF_PRINTABLE_BYTES - 1;
    for (size_t i = 0; i < size; i++)
        text[i] = string.bytes[i] >= ' ' && string.bytes[i] <= '~' ? string.bytes[i] : '?';
    text[size] = '\0';
    return text;
}

const struct gguf_value *gguf_find_value(const struct gguf *gguf, const char *key) {
    for (size_t i = 0; i < gguf->value_count; i++)
        if (gguf_string_equals(gguf->values[i].key, key))
            return &gguf->values[i];
    return NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name) {
    for (size_t i = 0; i < gguf->tensor_count; i++)
        if (gguf_string_equals(gguf->tensors[i].name, name))
            return &gguf->tensors[i];
    return NULL;
}

static int gguf_miss(const char *key, struct failure *failure) {
    return failure_set(failure, SCISSOR_EINVAL, "the file does not say %s", key);
}

static int gguf_mistype(const char *key, struct failure *failure) {
    return failure_set(failure, SCISSOR_EINVAL, "%s has a type or a value that is not possible", key);
}

/* Any integer type as a signed 64-bit number; false for other types and what does not fit. */
static bool gguf_value_integer(const struct gguf_value *value, int64_t *ret) {
#define GGUF_INTEGER(number, ctype)         \
    case number: {                          \
        ctype i;                            \
        memcpy(&i, value->data, sizeof(i)); \
        *ret = (int64_t)i;                  \
        return true;                        \
    }
    uint64_t big;
    switch (value->type) {
        GGUF_INTEGER(GGUF_UINT8, uint8_t)
        GGUF_INTEGER(GGUF_INT8, int8_t)
        GGUF_INTEGER(GGUF_UINT16, uint16_t)
        GGUF_INTEGER(GGUF_INT16, int16_t)
        GGUF_INTEGER(GGUF_UINT32, uint32_t)
        GGUF_INTEGER(GGUF_INT32, int32_t)
        GGUF_INTEGER(GGUF_INT64, int64_t)
    case GGUF_UINT64:
        memcpy(&big, value->data, sizeof(big));
        *ret = (int64_t)big;
        return big <= INT64_MAX;
    default:
        return false;
    }
#undef GGUF_INTEGER
}

int gguf_get_u32(const struct gguf *gguf, const char *key, const uint32_t *fallback, uint32_t *ret,
                 struct failure *failure) {
    const struct gguf_value *value = gguf_find_value(gguf, key);
    if (!value && !fallback)
        return gguf_miss(key, failure);
    int64_t integer = fallback ? *fallback : 0;
    if (value && (!gguf_value_integer(value, &integer) || integer < 0 || integer > UINT32_MAX))
        return gguf_mistype(key, failure);
    *ret = (uint32_t)integer;
    return 0;
}

int gguf_get_f32(const struct gguf *gguf, const char *key, const float *fallback, float *ret, struct failure *failure) {
    const struct gguf_value *value = gguf_find_value(gguf, key);
    double wide;
    if (!value && !fallback)
        return gguf_miss(key, failure);
    if (!value) {
        *ret = *fallback;
    } else if (value->type == GGUF_FLOAT32) {
        memcpy(ret, value->data, sizeof(*ret));
    } else if (value->type == GGUF_FLOAT64) {
        memcpy(&wide, value->data, sizeof(wide));
        *ret = (float)wide;
    } else {
        return gguf_mistype(key, failure);
    }
    return 0;
}

int gguf_get_bool(const struct gguf *gguf, const char *key, bool fallback, bool *ret, struct failure *failure) {
    const struct gguf_value *value = gguf_find_value(gguf, key);
    if (value && value->type != GGUF_BOOL)
        return gguf_mistype(key, failure);
    *ret = value ? *value->data != 0 : fallback;
    return 0;
}

int gguf_get_string(const struct gguf *gguf, const char *key, const char *fallback, struct gguf_string *ret,
                    struct failure *failure) {
    const struct gguf_value *value = gguf_find_value(gguf, key);
    if (!value && !fallback)
        return gguf_miss(key, failure);
    if (value && value->type != GGUF_STRING)
        return gguf_mistype(key, failure);
    *ret = value ? (struct gguf_string){(const char *)value->data + 8, value->size - 8}
                 : (struct gguf_string){fallback, strlen(fallback)};
    return 0;
}

struct gguf_string gguf_array_next_string(const struct gguf_value *array, size_t *cursor) {
    uint64_t size;
    memcpy(&size, array->data + *cursor, sizeof(size));
    struct gguf_string string = {(const char *)array->data + *cursor + sizeof(size), (size_t)size};
    *cursor += sizeof(size) + (size_t)size;
    return string;
}
