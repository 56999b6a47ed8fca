/* test_llama_gguf.c - the GGUF parser on files made by hand: whole, cut at every byte, and lying in every field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "test_llama_builder.h"

/* Offsets of fields in the sample file, for corruption. */
struct sample {
    struct builder file;
    size_t value_type, array_type, array_count, array_string, name_size, dimensions, first_size, type, offset, data;
};

static void sample_init(struct sample *s) {
    struct builder *b = &s->file;
    *s = (struct sample){0};
    builder_put_header(b, 3, 2, 6);
    builder_put_value_u32(b, "general.alignment", 64);
    builder_put_string(b, "some.int8");
    s->value_type = b->size;
    builder_put_u32(b, GGUF_INT8);
    builder_put(b, "\xff", 1);
    builder_put_value_string(b, "some.string", "text");
    builder_put_value_f32(b, "some.float", 0.5f);
    builder_put_value_array(b, "some.words", GGUF_STRING, 2);
    s->array_type = b->size - 12;
    s->array_count = b->size - 8;
    s->array_string = b->size;
    builder_put_string(b, "one");
    builder_put_string(b, "");
    builder_put_value_array(b, "some.numbers", GGUF_UINT16, 3);
    builder_put(b, "\1\0\2\0\3\0", 6);
    s->name_size = b->size;
    s->dimensions = b->size + 8 + 5;
    s->first_size = s->dimensions + 4;
    builder_put_tensor(b, "first", 32, 2, GGUF_TENSOR_Q4_1, 0);
    s->offset = b->size - 8;
    s->type = b->size - 12;
    builder_put_tensor(b, "second", 3, 0, GGUF_TENSOR_F32, 64);
    builder_pad(b, 64);
    s->data = b->size;
    for (int i = 0; i < 64 + 12; i++)
        builder_put(b, &(uint8_t){(uint8_t)i}, 1);
}

static int open_copy(const struct sample *s, size_t size, struct gguf **ret_gguf, uint8_t **ret_copy,
                     struct failure *failure) {
    *ret_copy = builder_copy(&s->file, size);
    return gguf_open_memory(*ret_copy, size, ret_gguf, failure);
}

static void test_read(void **state) {
    (void)state;
    struct sample s;
    struct failure failure;
    struct gguf *gguf;
    uint8_t *copy;
    sample_init(&s);
    assert_int_equal(open_copy(&s, s.file.size, &gguf, &copy, &failure), 0);
    assert_int_equal(gguf->version, 3);
    assert_int_equal(gguf->alignment, 64);
    assert_int_equal(gguf->value_count, 6);
    assert_int_equal(gguf->tensor_count, 2);

    uint32_t number;
    float real;
    bool flag = false;
    struct gguf_string text;
    assert_int_equal(gguf_get_u32(gguf, "general.alignment", NULL, &number, &failure), 0);
    assert_int_equal(number, 64);
    assert_int_equal(gguf_get_u32(gguf, "some.int8", NULL, &number, &failure), SCISSOR_EINVAL); /* -1 */
    assert_int_equal(gguf_get_u32(gguf, "missing", NULL, &number, &failure), SCISSOR_EINVAL);
    assert_int_equal(gguf_get_u32(gguf, "missing", &(uint32_t){7}, &number, &failure), 0);
    assert_int_equal(number, 7);
    assert_int_equal(gguf_get_f32(gguf, "some.float", NULL, &real, &failure), 0);
    assert_true(real == 0.5f);
    assert_int_equal(gguf_get_f32(gguf, "some.string", NULL, &real, &failure), SCISSOR_EINVAL);
    assert_int_equal(gguf_get_string(gguf, "some.string", NULL, &text, &failure), 0);
    assert_true(gguf_string_equals(text, "text"));
    assert_int_equal(gguf_get_string(gguf, "some.float", "x", &text, &failure), SCISSOR_EINVAL);
    assert_int_equal(gguf_get_bool(gguf, "missing", true, &flag, &failure), 0);
    assert_true(flag);

    const struct gguf_value *words = gguf_find_value(gguf, "some.words");
    size_t cursor = 0;
    assert_int_equal(words->count, 2);
    assert_true(gguf_string_equals(gguf_array_next_string(words, &cursor), "one"));
    assert_true(gguf_string_equals(gguf_array_next_string(words, &cursor), ""));
    assert_int_equal(cursor, words->size);

    const struct gguf_tensor *first = gguf_find_tensor(gguf, "first");
    assert_int_equal(first->type, GGUF_TENSOR_Q4_1);
    assert_int_equal(first->elements, 64);
    assert_int_equal(first->size, 40);
    assert_ptr_equal(first->data, copy + s.data);
    const struct gguf_tensor *second = gguf_find_tensor(gguf, "second");
    assert_int_equal(second->sizes[0], 3);
    assert_int_equal(second->sizes[1], 1);
    assert_ptr_equal(second->data, copy + s.data + 64);
    assert_null(gguf_find_tensor(gguf, "third"));
    gguf_free(gguf);
    free(copy);
    builder_deinit(&s.file);
}

static void test_cut_everywhere(void **state) {
    (void)state;
    struct sample s;
    sample_init(&s);
    for (size_t size = 0; size < s.file.size; size++) {
        struct failure failure = {.text = ""};
        struct gguf *gguf = NULL;
        uint8_t *copy;
        assert_int_equal(open_copy(&s, size, &gguf, &copy, &failure), SCISSOR_EINVAL);
        assert_null(gguf);
        assert_true(failure.text[0] != '\0');
        free(copy);
    }
    builder_deinit(&s.file);
}

static void assert_corrupt_u64(const struct sample *s, size_t at, uint64_t value, size_t bytes) {
    struct sample changed = {.file = {.bytes = builder_copy(&s->file, s->file.size), .size = s->file.size}};
    struct failure failure = {.text = ""};
    struct gguf *gguf = NULL;
    uint8_t *copy;
    memcpy(changed.file.bytes + at, &value, bytes);
    assert_int_equal(open_copy(&changed, changed.file.size, &gguf, &copy, &failure), SCISSOR_EINVAL);
    assert_null(gguf);
    assert_true(failure.text[0] != '\0');
    free(copy);
    builder_deinit(&changed.file);
}

static void test_lies(void **state) {
    (void)state;
    struct sample s;
    sample_init(&s);
    const size_t alignment = 24 + 8 + strlen("general.alignment") + 4;
    const uint64_t huge[] = {UINT64_MAX, (uint64_t)INT64_MAX, UINT64_MAX / 8 + 1, 1u << 30, s.file.size};
    assert_corrupt_u64(&s, 0, 0x46475546, 4); /* another magic */
    const uint32_t versions[] = {0, 1, 4, 0x03000000};
    for (size_t i = 0; i < 4; i++)
        assert_corrupt_u64(&s, 4, versions[i], 4);
    for (size_t i = 0; i < sizeof(huge) / sizeof(huge[0]); i++) {
        assert_corrupt_u64(&s, 8, huge[i], 8);                 /* tensors */
        assert_corrupt_u64(&s, 16, huge[i], 8);                /* values */
        assert_corrupt_u64(&s, 24, huge[i], 8);                /* a key's length */
        assert_corrupt_u64(&s, s.array_count, huge[i], 8);     /* an array's length */
        assert_corrupt_u64(&s, s.array_string, huge[i], 8);    /* a string's length in it */
        assert_corrupt_u64(&s, s.name_size, huge[i], 8);       /* a tensor's name */
        assert_corrupt_u64(&s, s.first_size, huge[i], 8);      /* a tensor's first size */
        assert_corrupt_u64(&s, s.offset, huge[i] & ~63ull, 8); /* a tensor's offset */
    }
    assert_corrupt_u64(&s, s.first_size, 0, 8);
    assert_corrupt_u64(&s, s.first_size, 31, 8); /* no whole block */
    assert_corrupt_u64(&s, s.offset, 32, 8);     /* not aligned to 64 */
    const uint32_t alignments[] = {0, 3, 65, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < 5; i++)
        assert_corrupt_u64(&s, alignment, alignments[i], 4);
    assert_corrupt_u64(&s, s.value_type, 13, 4);
    assert_corrupt_u64(&s, s.array_type, 9, 4); /* an array of arrays */
    assert_corrupt_u64(&s, s.array_type, 99, 4);
    assert_corrupt_u64(&s, s.dimensions, 0, 4);
    assert_corrupt_u64(&s, s.dimensions, 5, 4);
    assert_corrupt_u64(&s, s.type, 4, 4); /* a type that was given up long ago */
    assert_corrupt_u64(&s, s.type, 30, 4);
    builder_deinit(&s.file);
}

/* Whatever one byte becomes, the parser ends, and what it gives lies inside of the file. */
static void test_any_byte(void **state) {
    (void)state;
    struct sample s;
    sample_init(&s);
    for (size_t at = 0; at < s.data; at++)
        for (int value = 0; value < 256; value += value < 4 ? 1 : 12) {
            struct failure failure;
            struct gguf *gguf;
            uint8_t kept = s.file.bytes[at], *copy;
            s.file.bytes[at] = (uint8_t)value;
            if (open_copy(&s, s.file.size, &gguf, &copy, &failure) == 0) {
                for (size_t i = 0; i < gguf->tensor_count; i++) {
                    const struct gguf_tensor *tensor = &gguf->tensors[i];
                    assert_true(tensor->data >= copy && tensor->size <= s.file.size &&
                                tensor->data <= copy + s.file.size - tensor->size);
                }
                gguf_free(gguf);
            }
            free(copy);
            s.file.bytes[at] = kept;
        }
    builder_deinit(&s.file);
}

static void test_allocations(void **state) {
    (void)state;
    struct sample s;
    struct failure failure;
    struct gguf *gguf;
    sample_init(&s);
    size_t live = alloc_live(), k;
    for (k = 0; k < 100; k++) {
        alloc_fail_after(k, 1);
        int r = gguf_open_memory(s.file.bytes, s.file.size, &gguf, &failure);
        alloc_fail_never();
        if (r == 0)
            break;
        assert_int_equal(r, SCISSOR_ENOMEM);
        assert_int_equal(alloc_live(), live);
    }
    assert_in_range(k, 3, 99);
    gguf_free(gguf);
    assert_int_equal(alloc_live(), live);
    builder_deinit(&s.file);
}

static void test_files(void **state) {
    (void)state;
    struct sample s;
    struct failure failure;
    struct gguf *gguf;
    char path[256];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof(path), "%s/scissor-gguf-XXXXXX", base ? base : "/tmp");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(gguf_open(path, &gguf, &failure), SCISSOR_EINVAL); /* empty */
    sample_init(&s);
    assert_int_equal(write(fd, s.file.bytes, s.file.size), (ssize_t)s.file.size);
    close(fd);
    assert_int_equal(gguf_open(path, &gguf, &failure), 0);
    assert_non_null(gguf_find_tensor(gguf, "second"));
    gguf_free(gguf);
    unlink(path);
    assert_int_equal(gguf_open(path, &gguf, &failure), SCISSOR_ESYSTEM);
    assert_non_null(strstr(failure.text, path));
    assert_int_equal(gguf_open("/", &gguf, &failure), SCISSOR_EINVAL);
    assert_null(gguf_free(NULL));
    builder_deinit(&s.file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),     cmocka_unit_test(test_cut_everywhere), cmocka_unit_test(test_lies),
        cmocka_unit_test(test_any_byte), cmocka_unit_test(test_allocations),    cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests_name("llama_gguf", tests, NULL, NULL);
}
