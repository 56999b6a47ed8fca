/* driver.h - NVIDIA's driver as one table of functions, looked up in libcuda.so.1 when it is first wanted.
 *
 * Nothing is linked and no header of the CUDA Toolkit is needed: a program with this in it starts where there is no
 * driver, and is told so in words. The types are declared here as the driver's ABI has them, with its own struct tags,
 * so that a test can hold every prototype against cuda.h where that is installed. The names in the table are those that
 * the library exports (cuMemAlloc_v2), not those that cuda.h turns into them (cuMemAlloc).
 *
 * A call that fails leaves a text in cuda_why() of its thread. All of this may be used by any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef unsigned cuda_result;    /* CUresult; 0 is success */
typedef unsigned cuda_attribute; /* CUdevice_attribute */
typedef int cuda_ordinal;        /* CUdevice */
typedef unsigned long long cuda_address;
typedef struct CUctx_st *cuda_context;
typedef struct CUstream_st *cuda_stream;
typedef struct CUevent_st *cuda_event;
typedef struct CUmod_st *cuda_module;
typedef struct CUfunc_st *cuda_function;

struct CUuuid_st;
#ifdef CUDA_VERSION /* cuda.h came first: the test that compares the two */
typedef CUipcMemHandle cuda_memory_handle;
typedef CUipcEventHandle cuda_event_handle;
#else
typedef struct CUipcMemHandle_st {
    char reserved[64];
} cuda_memory_handle;
typedef struct CUipcEventHandle_st {
    char reserved[64];
} cuda_event_handle;
struct CUuuid_st {
    char bytes[16];
};
#endif

#define CUDA_ATTRIBUTE_PROCESSORS 16u
#define CUDA_ATTRIBUTE_COMPUTE_MODE 20u
#define CUDA_ATTRIBUTE_MEMORY_CLOCK 36u /* kHz */
#define CUDA_ATTRIBUTE_BUS_WIDTH 37u    /* bits */
#define CUDA_ATTRIBUTE_UNIFIED_ADDRESSING 41u
#define CUDA_ATTRIBUTE_MAJOR 75u
#define CUDA_ATTRIBUTE_MINOR 76u
#define CUDA_COMPUTE_MODE_DEFAULT 0

#define CUDA_STREAM_NON_BLOCKING 1u
#define CUDA_EVENT_DISABLE_TIMING 2u
#define CUDA_EVENT_INTERPROCESS 4u
#define CUDA_IPC_LAZY_PEER_ACCESS 1u
#define CUDA_HOST_PORTABLE 1u
#define CUDA_HOST_MAPPED 2u

/* X(name here, exported symbol, parameters): what is called, and nothing else. */
#define CUDA_SYMBOLS(X)                                                                                               \
    X(init, cuInit, (unsigned flags))                                                                                 \
    X(driver_version, cuDriverGetVersion, (int *ret))                                                                 \
    X(error_name, cuGetErrorName, (cuda_result code, const char **ret))                                               \
    X(error_string, cuGetErrorString, (cuda_result code, const char **ret))                                           \
    X(device_count, cuDeviceGetCount, (int *ret))                                                                     \
    X(device_get, cuDeviceGet, (cuda_ordinal * ret, int ordinal))                                                     \
    X(device_name, cuDeviceGetName, (char *ret, int bytes, cuda_ordinal device))                                      \
    X(device_uuid, cuDeviceGetUuid_v2, (struct CUuuid_st * ret, cuda_ordinal device))                                 \
    X(device_memory, cuDeviceTotalMem_v2, (size_t * ret, cuda_ordinal device))                                        \
    X(device_attribute, cuDeviceGetAttribute, (int *ret, cuda_attribute attribute, cuda_ordinal device))              \
    X(context_retain, cuDevicePrimaryCtxRetain, (cuda_context * ret, cuda_ordinal device))                            \
    X(context_release, cuDevicePrimaryCtxRelease_v2, (cuda_ordinal device))                                           \
    X(context_push, cuCtxPushCurrent_v2, (cuda_context context))                                                      \
    X(context_pop, cuCtxPopCurrent_v2, (cuda_context * ret))                                                          \
    X(memory_new, cuMemAlloc_v2, (cuda_address * ret, size_t bytes))                                                  \
    X(memory_free, cuMemFree_v2, (cuda_address address))                                                              \
    X(memory_export, cuIpcGetMemHandle, (cuda_memory_handle * ret, cuda_address address))                             \
    X(memory_open, cuIpcOpenMemHandle_v2, (cuda_address * ret, cuda_memory_handle handle, unsigned flags))            \
    X(memory_close, cuIpcCloseMemHandle, (cuda_address address))                                                      \
    X(host_new, cuMemHostAlloc, (void **ret, size_t bytes, unsigned flags))                                           \
    X(host_free, cuMemFreeHost, (void *memory))                                                                       \
    X(fill, cuMemsetD32Async, (cuda_address to, unsigned value, size_t count, cuda_stream stream))                    \
    X(copy, cuMemcpyAsync, (cuda_address to, cuda_address from, size_t bytes, cuda_stream stream))                    \
    X(module_load, cuModuleLoadData, (cuda_module * ret, const void *image))                                          \
    X(module_unload, cuModuleUnload, (cuda_module module))                                                            \
    X(module_function, cuModuleGetFunction, (cuda_function * ret, cuda_module module, const char *name))              \
    X(launch, cuLaunchKernel,                                                                                         \
      (cuda_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, \
       unsigned block_z, unsigned shared_bytes, cuda_stream stream, void **parameters, void **extra))                 \
    X(stream_new, cuStreamCreate, (cuda_stream * ret, unsigned flags))                                                \
    X(stream_free, cuStreamDestroy_v2, (cuda_stream stream))                                                          \
    X(stream_wait, cuStreamSynchronize, (cuda_stream stream))                                                         \
    X(stream_query, cuStreamQuery, (cuda_stream stream))                                                              \
    X(stream_wait_event, cuStreamWaitEvent, (cuda_stream stream, cuda_event event, unsigned flags))                   \
    X(event_new, cuEventCreate, (cuda_event * ret, unsigned flags))                                                   \
    X(event_free, cuEventDestroy_v2, (cuda_event event))                                                              \
    X(event_record, cuEventRecord, (cuda_event event, cuda_stream stream))                                            \
    X(event_query, cuEventQuery, (cuda_event event))                                                                  \
    X(event_wait, cuEventSynchronize, (cuda_event event))                                                             \
    X(event_export, cuIpcGetEventHandle, (cuda_event_handle * ret, cuda_event event))                                 \
    X(event_open, cuIpcOpenEventHandle, (cuda_event * ret, cuda_event_handle handle))

struct cuda_driver {
#define CUDA_FIELD(name, symbol, parameters) cuda_result(*name) parameters;
    CUDA_SYMBOLS(CUDA_FIELD)
#undef CUDA_FIELD
};

/* What each function is called in a text. */
#define CUDA_NAME(name, symbol, parameters) static const char cuda_call_##name[] __attribute__((unused)) = #symbol;
CUDA_SYMBOLS(CUDA_NAME)
#undef CUDA_NAME

/* Results that this code tells apart: X(name, CUresult, errno). Others become EIO. Those of ENOTRECOVERABLE are sticky:
 * the context is lost, and all that the process asks of it from then on fails. */
#define CUDA_RESULTS(X)                            \
    X(INVALID_VALUE, 1, EINVAL)                    \
    X(OUT_OF_MEMORY, 2, ENOMEM)                    \
    X(NOT_INITIALIZED, 3, ENODEV)                  \
    X(DEINITIALIZED, 4, ESHUTDOWN)                 \
    X(STUB_LIBRARY, 34, ENODEV)                    \
    X(CALL_REQUIRES_NEWER_DRIVER, 36, ENOSYS)      \
    X(DEVICE_UNAVAILABLE, 46, EBUSY)               \
    X(NO_DEVICE, 100, ENODEV)                      \
    X(INVALID_DEVICE, 101, ENODEV)                 \
    X(DEVICE_NOT_LICENSED, 102, EPERM)             \
    X(INVALID_IMAGE, 200, ENOEXEC)                 \
    X(INVALID_CONTEXT, 201, EINVAL)                \
    X(MAP_FAILED, 205, ENOMEM)                     \
    X(ALREADY_MAPPED, 208, EALREADY)               \
    X(NO_BINARY_FOR_GPU, 209, ENOEXEC)             \
    X(ECC_UNCORRECTABLE, 214, ENOTRECOVERABLE)     \
    X(PEER_ACCESS_UNSUPPORTED, 217, EOPNOTSUPP)    \
    X(INVALID_PTX, 218, ENOEXEC)                   \
    X(NVLINK_UNCORRECTABLE, 220, ENOTRECOVERABLE)  \
    X(JIT_COMPILER_NOT_FOUND, 221, ENOEXEC)        \
    X(UNSUPPORTED_PTX_VERSION, 222, ELIBBAD)       \
    X(JIT_COMPILATION_DISABLED, 223, ENOEXEC)      \
    X(CONTAINED, 226, ENOTRECOVERABLE)             \
    X(OPERATING_SYSTEM, 304, EIO)                  \
    X(INVALID_HANDLE, 400, EBADF)                  \
    X(NOT_FOUND, 500, ENOENT)                      \
    X(NOT_READY, 600, EAGAIN)                      \
    X(ILLEGAL_ADDRESS, 700, ENOTRECOVERABLE)       \
    X(LAUNCH_OUT_OF_RESOURCES, 701, E2BIG)         \
    X(LAUNCH_TIMEOUT, 702, ENOTRECOVERABLE)        \
    X(CONTEXT_IS_DESTROYED, 709, ENOTRECOVERABLE)  \
    X(ASSERT, 710, ENOTRECOVERABLE)                \
    X(HARDWARE_STACK_ERROR, 714, ENOTRECOVERABLE)  \
    X(ILLEGAL_INSTRUCTION, 715, ENOTRECOVERABLE)   \
    X(MISALIGNED_ADDRESS, 716, ENOTRECOVERABLE)    \
    X(INVALID_ADDRESS_SPACE, 717, ENOTRECOVERABLE) \
    X(INVALID_PC, 718, ENOTRECOVERABLE)            \
    X(LAUNCH_FAILED, 719, ENOTRECOVERABLE)         \
    X(TENSOR_MEMORY_LEAK, 721, ENOTRECOVERABLE)    \
    X(NOT_PERMITTED, 800, EPERM)                   \
    X(NOT_SUPPORTED, 801, EOPNOTSUPP)              \
    X(SYSTEM_NOT_READY, 802, ENODEV)               \
    X(SYSTEM_DRIVER_MISMATCH, 803, ELIBBAD)        \
    X(COMPAT_NOT_SUPPORTED_ON_DEVICE, 804, ENODEV)

enum cuda_result_code {
    CUDA_SUCCESS_CODE = 0,
#define CUDA_CODE(name, code, error) CUDA_##name = (code),
    CUDA_RESULTS(CUDA_CODE)
#undef CUDA_CODE
};

/* Loads and initialises the driver once; later calls give the same answer. The table is never unloaded. -ENODEV where
 * there is no driver or no device, -ELIBBAD if a function is missing. A child of a later fork can use none of
 * it, unless it executes a program. */
int cuda_driver_load(const struct cuda_driver **ret);

/* 0, or the negative errno for `result`; then cuda_why() says "call: CODE_NAME (code): description". `d` may be NULL.
 */
int cuda_check(const struct cuda_driver *d, const char *call, cuda_result result);
#define CUDA_CALL(driver, name, ...) cuda_check(driver, cuda_call_##name, (driver)->name(__VA_ARGS__))

/* What went wrong last in this thread; "" if nothing did. Valid until the thread's next failure. */
const char *cuda_why(void);
/* Sets it; returns `error`. */
__attribute__((format(printf, 2, 3))) int cuda_fail(int error, const char *format, ...);

/* Whether a negative errno value of cuda_check() means that the context is lost. */
bool cuda_is_lost(int error);
