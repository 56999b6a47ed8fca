/* test_cuda_driver.c - the table of the driver's functions: its prototypes and numbers against cuda.h, its names
 * against the Toolkit's stub library, errors in words. Skips what there is no Toolkit for. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dlfcn.h>
#if __has_include(<cuda.h>)
#include <cuda.h>
#elif __has_include("/usr/local/cuda/include/cuda.h")
#include "/usr/local/cuda/include/cuda.h"
#endif

#include "cuda/cuda_backend.h"
#include "cuda/driver.h"

#ifdef CUDA_VERSION
#define SAME_PROTOTYPE(name, symbol, parameters) \
    _Static_assert(sizeof(((struct cuda_driver *)0)->name == &symbol), "a warning here is a difference to cuda.h");
CUDA_SYMBOLS(SAME_PROTOTYPE)
#define SAME_CODE(name, code, error) _Static_assert((unsigned)CUDA_ERROR_##name == (code), #name);
CUDA_RESULTS(SAME_CODE)

_Static_assert(sizeof(cuda_result) == sizeof(CUresult), "result");
_Static_assert(sizeof(cuda_ordinal) == sizeof(CUdevice), "device");
_Static_assert(sizeof(cuda_address) == sizeof(CUdeviceptr), "address");
_Static_assert(sizeof(cuda_attribute) == sizeof(CUdevice_attribute), "attribute");
_Static_assert(sizeof(struct CUuuid_st) == 16, "UUID");
_Static_assert(CUDA_ATTRIBUTE_PROCESSORS == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, "processors");
_Static_assert(CUDA_ATTRIBUTE_COMPUTE_MODE == CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, "mode");
_Static_assert(CUDA_ATTRIBUTE_MEMORY_CLOCK == CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, "clock");
_Static_assert(CUDA_ATTRIBUTE_BUS_WIDTH == CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, "bus");
_Static_assert(CUDA_ATTRIBUTE_UNIFIED_ADDRESSING == CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, "unified");
_Static_assert(CUDA_ATTRIBUTE_MAJOR == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, "major");
_Static_assert(CUDA_ATTRIBUTE_MINOR == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, "minor");
_Static_assert(CUDA_COMPUTE_MODE_DEFAULT == CU_COMPUTEMODE_DEFAULT, "default mode");
_Static_assert(CUDA_STREAM_NON_BLOCKING == CU_STREAM_NON_BLOCKING, "stream");
_Static_assert(CUDA_EVENT_DISABLE_TIMING == CU_EVENT_DISABLE_TIMING, "timing");
_Static_assert(CUDA_EVENT_INTERPROCESS == CU_EVENT_INTERPROCESS, "interprocess");
_Static_assert(CUDA_HOST_PORTABLE == CU_MEMHOSTALLOC_PORTABLE && CUDA_HOST_MAPPED == CU_MEMHOSTALLOC_DEVICEMAP,
               "pinned");
_Static_assert(CUDA_IPC_LAZY_PEER_ACCESS == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, "peer");
#endif
_Static_assert(sizeof(cuda_memory_handle) == 64 && sizeof(cuda_event_handle) == 64, "handles");

static void test_header(void **state) {
    (void)state;
#ifndef CUDA_VERSION
    print_message("SKIP: no cuda.h to compare the table with\n");
    skip();
#endif
}

static void test_symbols(void **state) {
    (void)state;
    void *stub = dlopen("/usr/local/cuda/lib64/stubs/libcuda.so", RTLD_NOW | RTLD_LOCAL);
    if (!stub) {
        print_message("SKIP: no stub library of the CUDA Toolkit\n");
        skip();
    }
#define EXPORTED(name, symbol, parameters) assert_non_null(dlsym(stub, #symbol));
    CUDA_SYMBOLS(EXPORTED)
    dlclose(stub);
}

static cuda_result name_of(cuda_result code, const char **ret) {
    *ret = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : NULL;
    return code == 700 ? 0 : CUDA_INVALID_VALUE;
}

static cuda_result text_of(cuda_result code, const char **ret) {
    *ret = code == 700 ? "an illegal memory access was encountered" : NULL;
    return code == 700 ? 0 : CUDA_INVALID_VALUE;
}

static void test_errors(void **state) {
    const struct cuda_driver d = {.error_name = name_of, .error_string = text_of};
    (void)state;
    assert_int_equal(cuda_check(&d, "cuLaunchKernel", 0), 0);
    assert_int_equal(cuda_check(&d, "cuStreamSynchronize", 700), -ENOTRECOVERABLE);
    assert_true(cuda_is_lost(-ENOTRECOVERABLE) && !cuda_is_lost(-EIO) && !cuda_is_lost(0));
    assert_string_equal(cuda_why(), "cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access "
                                    "was encountered");
    assert_int_equal(cuda_check(&d, "cuInit", 12345), -EIO);
    assert_string_equal(cuda_why(), "cuInit: unknown code (12345): no description");
    assert_int_equal(cuda_check(NULL, "cuInit", 2), -ENOMEM);
    const struct {
        unsigned code;
        int error;
    } table[] = {
#define ROW(name, number, errno_value) {number, errno_value},
        CUDA_RESULTS(ROW)
#undef ROW
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_int_equal(cuda_check(&d, "x", table[i].code), -table[i].error);
        for (size_t k = 0; k < i; k++)
            assert_int_not_equal(table[i].code, table[k].code);
    }
}

static void test_no_driver(void **state) {
    char why[256] = "";
    (void)state;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver) {
        print_message("SKIP: there is a driver\n");
        skip();
    }
    for (int i = 0; i < 2; i++) {
        assert_null(kernel_cuda_backend("cuda:0", why, sizeof why));
        assert_int_equal(errno, ENODEV);
        assert_non_null(strstr(why, "no NVIDIA driver: libcuda.so.1"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_symbols),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_no_driver),
    };
    return cmocka_run_group_tests_name("cuda: driver", tests, NULL, NULL);
}
