/* gguf.c - the parser of gguf.h: one cursor over the mapping, every length compared with what is left. */
#include "gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"

/* The shortest entries possible: an empty key with a one-byte value, an empty name with one dimension. They bound the
 * counts of a header by the file's size before anything is allocated. */
#define GGUF_VALUE_MIN_BYTES (8 + 4 + 1)
#define GGUF_TENSOR_MIN_BYTES (8 + 4 + 8 + 4 + 8)
#define GGUF_DEFAULT_ALIGNMENT 32u
#define GGUF_MAX_ALIGNMENT (1u << 20)

struct gguf_type_info {
    const char *name;
    uint32_t number, elements, bytes;
};

static const struct gguf_type_info gguf_types[] = {
#define GGUF_TYPE_INFO(name, number, elements, bytes) {#name, number, elements, bytes},
    GGUF_TENSOR_TYPE_MAP(GGUF_TYPE_INFO)
#undef GGUF_TYPE_INFO
};

struct gguf_cursor {
    const uint8_t *memory;
    size_t offset, size;
    struct failure *failure;
};

static const struct gguf_type_info *gguf_find_type(uint32_t number) {
    for (size_t i = 0; i < sizeof(gguf_types) / sizeof(gguf_types[0]); i++)
        if (gguf_types[i].number == number)
            return &gguf_types[i];
    return NULL;
}

const char *gguf_tensor_type_name(uint32_t type) {
    const struct gguf_type_info *info = gguf_find_type(type);
    return info ? info->name : NULL;
}

/* Bytes of a scalar value; 0 for strings, arrays and unknown types. */
static size_t gguf_scalar_size(uint32_t type) {
    switch (type) {
    case GGUF_UINT8:
    case GGUF_INT8:
    case GGUF_BOOL:
        return 1;
    case GGUF_UINT16:
    case GGUF_INT16:
        return 2;
    case GGUF_UINT32:
    case GGUF_INT32:
    case GGUF_FLOAT32:
        return 4;
    case GGUF_UINT64:
    case GGUF_INT64:
    case GGUF_FLOAT64:
        return 8;
    default:
        return 0;
    }
}

/* ---------- the cursor ---------- */

static int cursor_take(struct gguf_cursor *cursor, uint64_t size, const char *what, const uint8_t **ret) {
    if (size > cursor->size - cursor->offset)
        return failure_set(cursor->failure, SCISSOR_EINVAL, "the file ends inside %s at byte %zu", what,
                           cursor->offset);
    *ret = cursor->memory + cursor->offset;
    cursor->offset += (size_t)size;
    return 0;
}

static int cursor_take_u32(struct gguf_cursor *cursor, const char *what, uint32_t *ret) {
    const uint8_t *bytes;
    int r = cursor_take(cursor, sizeof(*ret), what, &bytes);
    if (r == 0)
        memcpy(ret, bytes, sizeof(*ret));
    return r;
}

static int cursor_take_u64(struct gguf_cursor *cursor, const char *what, uint64_t *ret) {
    const uint8_t *bytes;
    int r = cursor_take(cursor, sizeof(*ret), what, &bytes);
    if (r == 0)
        memcpy(ret, bytes, sizeof(*ret));
    return r;
}

static int cursor_take_string(struct gguf_cursor *cursor, const char *what, struct gguf_string *ret) {
    uint64_t size;
    const uint8_t *bytes;
    int r = cursor_take_u64(cursor, what, &size);
    if (r == 0)
        r = cursor_take(cursor, size, what, &bytes);
    if (r == 0)
        *ret = (struct gguf_string){(const char *)bytes, (size_t)size};
    return r;
}

/* ---------- values ---------- */

static int cursor_skip_element(struct gguf_cursor *cursor, uint32_t type, const char *what) {
    struct gguf_string string;
    const uint8_t *bytes;
    if (type == GGUF_STRING)
        return cursor_take_string(cursor, what, &string);
    return cursor_take(cursor, gguf_scalar_size(type), what, &bytes);
}

static int cursor_skip_array(struct gguf_cursor *cursor, const struct gguf_value *value, const char *what) {
    size_t element = value->element_type == GGUF_STRING ? 8 : gguf_scalar_size(value->element_type);
    char name[GGUF_PRINTABLE_BYTES];
    if (element == 0)
        return failure_set(cursor->failure, SCISSOR_EINVAL, "%s is an array of type %u, which is not known",
                           gguf_printable(value->key, name), value->element_type);
    if (value->count > (cursor->size - cursor->offset) / element)
        return failure_set(cursor->failure, SCISSOR_EINVAL, "%s has more elements than the file has bytes",
                           gguf_printable(value->key, name));
    if (value->element_type != GGUF_STRING) {
        cursor->offset += (size_t)value->count * element;
        return 0;
    }
    int r = 0;
    for (uint64_t i = 0; i < value->count && r == 0; i++)
        r = cursor_skip_element(cursor, GGUF_STRING, what);
    return r;
}

static int cursor_take_value(struct gguf_cursor *cursor, struct gguf_value *value) {
    char name[GGUF_PRINTABLE_BYTES];
    int r = cursor_take_string(cursor, "a key", &value->key);
    if (r == 0)
        r = cursor_take_u32(cursor, "a value's type", &value->type);
    if (r != 0)
        return r;
    value->count = 1;
    if (value->type == GGUF_ARRAY) {
        r = cursor_take_u32(cursor, "an array's type", &value->element_type);
        if (r == 0)
            r = cursor_take_u64(cursor, "an array's length", &value->count);
    } else if (value->type != GGUF_STRING && gguf_scalar_size(value->type) == 0) {
        return failure_set(cursor->failure, SCISSOR_EINVAL, "%s has type %u, which is not known",
                           gguf_printable(value->key, name), value->type);
    }
    if (r != 0)
        return r;
    value->data = cursor->memory + cursor->offset;
    r = value->type == GGUF_ARRAY ? cursor_skip_array(cursor, value, "an array")
                                  : cursor_skip_element(cursor, value->type, "a value");
    value->size = (size_t)(cursor->memory + cursor->offset - value->data);
    return r;
}

/* ---------- tensors ---------- */

/* Reads the entry; its data is placed by gguf_place_tensor, once the start of the data is known. */
static int cursor_take_tensor(struct gguf_cursor *cursor, struct gguf_tensor *tensor, uint64_t *ret_offset) {
    char name[GGUF_PRINTABLE_BYTES];
    int r = cursor_take_string(cursor, "a tensor's name", &tensor->name);
    if (r == 0)
        r = cursor_take_u32(cursor, "a tensor's dimensions", &tensor->dimensions);
    if (r != 0)
        return r;
    gguf_printable(tensor->name, name);
    if (tensor->dimensions < 1 || tensor->dimensions > GGUF_MAX_DIMENSIONS)
        return failure_set(cursor->failure, SCISSOR_EINVAL, "tensor %s has %u dimensions; 1 to %u are possible", name,
                           tensor->dimensions, GGUF_MAX_DIMENSIONS);
    tensor->elements = 1;
    for (uint32_t i = 0; i < GGUF_MAX_DIMENSIONS; i++) {
        tensor->sizes[i] = 1;
        if (i < tensor->dimensions && (r = cursor_take_u64(cursor, "a tensor's sizes", &tensor->sizes[i])) != 0)
            return r;
        if (tensor->sizes[i] == 0 || tensor->sizes[i] > INT64_MAX / tensor->elements)
            return failure_set(cursor->failure, SCISSOR_EINVAL, "tensor %s has an impossible size", name);
        tensor->elements *= tensor->sizes[i];
    }
    r = cursor_take_u32(cursor, "a tensor's type", &tensor->type);
    return r == 0 ? cursor_take_u64(cursor, "a tensor's offset", ret_offset) : r;
}

static int gguf_place_tensor(struct gguf *gguf, struct gguf_tensor *tensor, size_t start, uint64_t offset,
                             struct failure *failure) {
    char name[GGUF_PRINTABLE_BYTES];
    gguf_printable(tensor->name, name);
    const struct gguf_type_info *info = gguf_find_type(tensor->type);
    if (!info)
        return failure_set(failure, SCISSOR_EINVAL,
                           "tensor %s has type %u; this program reads F32, F16, Q4_0, Q4_1, Q8_0, Q4_K and Q6_K", name,
                           tensor->type);
    if (tensor->sizes[0] % info->elements != 0)
        return failure_set(failure, SCISSOR_EINVAL, "tensor %s has rows of %llu elements, no multiple of %s's block",
                           name, (unsigned long long)tensor->sizes[0], info->name);
    if (offset % gguf->alignment != 0)
        return failure_set(failure, SCISSOR_EINVAL, "tensor %s is not aligned to %u bytes", name, gguf->alignment);
    uint64_t blocks = tensor->elements / info->elements;
    size_t available = gguf->memory_size - start;
    if (offset > available || blocks > (available - offset) / info->bytes)
        return failure_set(failure, SCISSOR_EINVAL, "the file ends before the data of tensor %s does", name);
    tensor->size = (size_t)blocks * info->bytes;
    tensor->data = gguf->memory + start + offset;
    return 0;
}

/* ---------- the file ---------- */

static int gguf_read_header(struct gguf *gguf, struct gguf_cursor *cursor) {
    const uint8_t *magic;
    uint64_t tensors, values;
    if (cursor_take(cursor, 4, "its first word", &magic) != 0 || memcmp(magic, "GGUF", 4) != 0)
        return failure_set(cursor->failure, SCISSOR_EINVAL, "this is not a GGUF file");
    int r = cursor_take_u32(cursor, "the header", &gguf->version);
    if (r == 0 && (gguf->version & 0xffff) == 0 && gguf->version != 0)
        return failure_set(cursor->failure, SCISSOR_EINVAL, "this GGUF file is big-endian, which is not supported");
    if (r == 0 && gguf->version != 2 && gguf->version != 3)
        return failure_set(cursor->failure, SCISSOR_EINVAL, "GGUF version %u is not supported, only 2 and 3",
                           gguf->version);
    if (r == 0)
        r = cursor_take_u64(cursor, "the header", &tensors);
    if (r == 0)
        r = cursor_take_u64(cursor, "the header", &values);
    if (r != 0)
        return r;
    size_t left = cursor->size - cursor->offset;
    if (values > left / GGUF_VALUE_MIN_BYTES || tensors > left / GGUF_TENSOR_MIN_BYTES)
        return failure_set(cursor->failure, SCISSOR_EINVAL, "the file is too short for what its header counts");
    gguf->values = scissor_calloc((size_t)values, sizeof(*gguf->values));
    gguf->tensors = scissor_calloc((size_t)tensors, sizeof(*gguf->tensors));
    if (!gguf->values || !gguf->tensors)
        return failure_set_memory(cursor->failure);
    gguf->value_count = (size_t)values;
    gguf->tensor_count = (size_t)tensors;
    return 0;
}

static int gguf_read_alignment(struct gguf *gguf, struct failure *failure) {
    const uint32_t fallback = GGUF_DEFAULT_ALIGNMENT;
    int r = gguf_get_u32(gguf, "general.alignment", &fallback, &gguf->alignment, failure);
    if (r != 0)
        return r;
    if (gguf->alignment == 0 || gguf->alignment > GGUF_MAX_ALIGNMENT || (gguf->alignment & (gguf->alignment - 1)) != 0)
        return failure_set(failure, SCISSOR_EINVAL, "an alignment of %u is not possible", gguf->alignment);
    return 0;
}

static int gguf_read_tensors(struct gguf *gguf, struct gguf_cursor *cursor) {
    int r = 0;
    uint64_t *offsets = scissor_calloc(gguf->tensor_count, sizeof(*offsets));
    if (!offsets)
        return failure_set_memory(cursor->failure);
    for (size_t i = 0; i < gguf->tensor_count && r == 0; i++)
        r = cursor_take_tensor(cursor, &gguf->tensors[i], &offsets[i]);
    size_t padding = (gguf->alignment - cursor->offset % gguf->alignment) % gguf->alignment;
    if (r == 0 && gguf->tensor_count > 0 && padding > cursor->size - cursor->offset)
        r = failure_set(cursor->failure, SCISSOR_EINVAL, "the file ends before its data begins");
    for (size_t i = 0; i < gguf->tensor_count && r == 0; i++)
        r = gguf_place_tensor(gguf, &gguf->tensors[i], cursor->offset + padding, offsets[i], cursor->failure);
    scissor_free(offsets);
    return r;
}

static int gguf_read(struct gguf *gguf, struct failure *failure) {
    struct gguf_cursor cursor = {gguf->memory, 0, gguf->memory_size, failure};
    int r = gguf_read_header(gguf, &cursor);
    for (size_t i = 0; i < gguf->value_count && r == 0; i++)
        r = cursor_take_value(&cursor, &gguf->values[i]);
    if (r == 0)
        r = gguf_read_alignment(gguf, failure);
    return r == 0 ? gguf_read_tensors(gguf, &cursor) : r;
}

int gguf_open_memory(const void *memory, size_t size, struct gguf **ret_gguf, struct failure *failure) {
    struct gguf *gguf = scissor_calloc(1, sizeof(*gguf));
    if (!gguf)
        return failure_set_memory(failure);
    gguf->memory = memory;
    gguf->memory_size = size;
    int r = gguf_read(gguf, failure);
    if (r != 0) {
        gguf_free(gguf);
        return r;
    }
    *ret_gguf = gguf;
    return 0;
}

static int gguf_map(const char *path, const void **ret_memory, size_t *ret_size, struct failure *failure) {
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot open %s: %s", path, strerror(errno));
    void *memory = MAP_FAILED;
    int r = 0;
    if (fstat(fd, &status) != 0)
        r = failure_set(failure, SCISSOR_ESYSTEM, "cannot look at %s: %s", path, strerror(errno));
    else if (!S_ISREG(status.st_mode) || status.st_size == 0)
        r = failure_set(failure, SCISSOR_EINVAL, "%s is empty or not a file", path);
    else if ((memory = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        r = failure_set(failure, SCISSOR_ESYSTEM, "cannot map %s: %s", path, strerror(errno));
    close(fd);
    if (r == 0) {
        *ret_memory = memory;
        *ret_size = (size_t)status.st_size;
    }
    return r;
}

int gguf_open(const char *path, struct gguf **ret_gguf, struct failure *failure) {
    const void *memory;
    size_t size;
    int r = gguf_map(path, &memory, &size, failure);
    if (r != 0)
        return r;
    struct failure inner;
    r = gguf_open_memory(memory, size, ret_gguf, &inner);
    if (r != 0) {
        munmap((void *)memory, size);
        return failure_set(failure, r, "%.100s: %.200s", path, inner.text);
    }
    (*ret_gguf)->mapped = true;
    return 0;
}

struct gguf *gguf_free(struct gguf *gguf) {
    if (!gguf)
        return NULL;
    if (gguf->mapped)
        munmap((void *)gguf->memory, gguf->memory_size);
    scissor_free(gguf->values);
    scissor_free(gguf->tensors);
    return scissor_free(gguf);
}
