/* test_cuda_image.c - the compiled kernels in the program: one fat binary that has each of them for each architecture
 * that the program says it has; or, without nvcc, nothing, and the program says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cuda/image.h"
#include "cuda/launch.h"

/* How a fat binary begins. */
struct fat_header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes; /* that follow */
};
#define FAT_MAGIC 0xba55ed50u

/* Without nvcc there is none, or one that has only the kernels' names, for the driver of the tests. */
static bool compiled(void) {
    return strstr(kernel_cuda_image_archs(), "sm_");
}

static void need_image(void) {
    if (compiled())
        return;
    print_message("SKIP: built without nvcc\n");
    skip();
}

static void test_form(void **state) {
    struct fat_header header;
    (void)state;
    need_image();
    assert_int_equal((uintptr_t)kernel_cuda_image % 16, 0);
    assert_true(kernel_cuda_image_bytes > sizeof header);
    memcpy(&header, kernel_cuda_image, sizeof header);
    assert_int_equal(header.magic, FAT_MAGIC);
    assert_int_equal(header.header_bytes + header.bytes, kernel_cuda_image_bytes);
}

static unsigned count_of(const char *name) {
    const unsigned char *at = kernel_cuda_image, *end = at + kernel_cuda_image_bytes;
    unsigned count = 0;
    for (size_t bytes = strlen(name) + 1; (at = memmem(at, (size_t)(end - at), name, bytes)); at += bytes)
        count++;
    return count;
}

/* Each cubin has its symbol as a string of its own; PTX is compressed. */
static void test_kernels(void **state) {
    static const char *const kernels[] = {
#define NAME(kernel, parameter) #kernel,
        CUDA_KERNELS(NAME)
#undef NAME
    };
    unsigned archs = 0;
    (void)state;
    need_image();
    for (const char *at = kernel_cuda_image_archs(); (at = strstr(at, "sm_")); at++)
        archs++;
    assert_true(archs > 0);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (count_of(kernels[i]) < archs)
            fail_msg("%s: %u times in the image for %u architectures", kernels[i], count_of(kernels[i]), archs);
    assert_int_equal(count_of("scissor_attend_3"), 0);
}

static void test_text(void **state) {
    char said[128], expected[128] = "host (built without nvcc)";
    (void)state;
    assert_ptr_equal(kernel_backend_built(said, sizeof said), said);
    if (kernel_cuda_image_bytes) {
        if (compiled())
            assert_non_null(strstr(kernel_cuda_image_archs(), ", PTX compute_"));
        snprintf(expected, sizeof expected, "host, cuda (%s)", kernel_cuda_image_archs());
    } else {
        assert_string_equal(kernel_cuda_image_archs(), "");
    }
    assert_string_equal(said, expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests_name("cuda: image", tests, NULL, NULL);
}
