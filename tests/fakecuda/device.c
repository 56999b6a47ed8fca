/* device.c - devices, contexts and the names of errors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

#define DEFAULT_DEVICES "00112233445566778899aabbccddeeff,1073741824"
#define DEFAULT_VERSION 13000
#define STACK 8

struct fake_device fake_devices[FAKE_DEVICES];
int fake_device_count;

static struct CUctx_st contexts[FAKE_DEVICES];
static _Thread_local struct CUctx_st *stack[STACK];
static _Thread_local unsigned depth;

static bool parse(const char *text, struct fake_device *ret) {
    char digits[33];
    unsigned long long bytes;
    int mode = 0;
    if (sscanf(text, "%32[0-9a-fA-F],%llu,%d", digits, &bytes, &mode) < 2 || strlen(digits) != 32)
        return false;
    for (unsigned i = 0; i < 16; i++) {
        char pair[3] = {digits[2 * i], digits[2 * i + 1], 0};
        ret->uuid[i] = (char)strtoul(pair, NULL, 16);
    }
    ret->bytes = (size_t)bytes;
    ret->mode = mode;
    return true;
}

__attribute__((constructor)) static void environment(void) {
    const char *text = getenv("FAKECUDA_DEVICES");
    for (text = text ? text : DEFAULT_DEVICES; text && *text; text = strchr(text, ';')) {
        text += *text == ';';
        if (fake_device_count < FAKE_DEVICES && parse(text, &fake_devices[fake_device_count])) {
            contexts[fake_device_count].device = fake_device_count;
            fake_device_count++;
        }
    }
}

/* ---------- devices ---------- */

static bool known(cuda_ordinal device) {
    return device >= 0 && device < fake_device_count;
}

cuda_result cuDriverGetVersion(int *ret) {
    FAKE_ENTER(cuDriverGetVersion, false);
    const char *version = getenv("FAKECUDA_VERSION");
    *ret = version ? atoi(version) : DEFAULT_VERSION;
    return 0;
}

cuda_result cuDeviceGetCount(int *ret) {
    FAKE_ENTER(cuDeviceGetCount, false);
    *ret = fake_device_count;
    return 0;
}

cuda_result cuDeviceGet(cuda_ordinal *ret, int ordinal) {
    FAKE_ENTER(cuDeviceGet, false);
    if (!known(ordinal))
        return CUDA_INVALID_DEVICE;
    *ret = ordinal;
    return 0;
}

cuda_result cuDeviceGetName(char *ret, int bytes, cuda_ordinal device) {
    FAKE_ENTER(cuDeviceGetName, false);
    if (!known(device))
        return CUDA_INVALID_DEVICE;
    snprintf(ret, (size_t)bytes, "Fake GPU %d", device);
    return 0;
}

cuda_result cuDeviceGetUuid_v2(struct CUuuid_st *ret, cuda_ordinal device) {
    FAKE_ENTER(cuDeviceGetUuid_v2, false);
    if (!known(device))
        return CUDA_INVALID_DEVICE;
    memcpy(ret->bytes, fake_devices[device].uuid, sizeof ret->bytes);
    return 0;
}

cuda_result cuDeviceTotalMem_v2(size_t *ret, cuda_ordinal device) {
    FAKE_ENTER(cuDeviceTotalMem_v2, false);
    if (!known(device))
        return CUDA_INVALID_DEVICE;
    *ret = fake_devices[device].bytes;
    return 0;
}

cuda_result cuDeviceGetAttribute(int *ret, cuda_attribute attribute, cuda_ordinal device) {
    FAKE_ENTER(cuDeviceGetAttribute, false);
    if (!known(device))
        return CUDA_INVALID_DEVICE;
    switch (attribute) {
    case CUDA_ATTRIBUTE_PROCESSORS:
        *ret = 16;
        return 0;
    case CUDA_ATTRIBUTE_COMPUTE_MODE:
        *ret = fake_devices[device].mode;
        return 0;
    case CUDA_ATTRIBUTE_MEMORY_CLOCK:
        *ret = 1000000;
        return 0;
    case CUDA_ATTRIBUTE_BUS_WIDTH:
        *ret = 32;
        return 0;
    case CUDA_ATTRIBUTE_UNIFIED_ADDRESSING:
        *ret = 1;
        return 0;
    case CUDA_ATTRIBUTE_MAJOR:
        *ret = FAKE_CAPABILITY / 10;
        return 0;
    case CUDA_ATTRIBUTE_MINOR:
        *ret = FAKE_CAPABILITY % 10;
        return 0;
    default:
        return CUDA_INVALID_VALUE;
    }
}

/* ---------- contexts ---------- */

struct CUctx_st *fake_context(void) {
    return depth ? stack[depth - 1] : NULL;
}

cuda_result cuDevicePrimaryCtxRetain(cuda_context *ret, cuda_ordinal device) {
    FAKE_ENTER(cuDevicePrimaryCtxRetain, false);
    if (!known(device))
        return CUDA_INVALID_DEVICE;
    if (fake_devices[device].mode)
        return CUDA_DEVICE_UNAVAILABLE;
    fake_lock();
    contexts[device].refs++;
    fake_unlock();
    *ret = &contexts[device];
    return 0;
}

cuda_result cuDevicePrimaryCtxRelease_v2(cuda_ordinal device) {
    FAKE_ENTER(cuDevicePrimaryCtxRelease_v2, false);
    fake_lock();
    bool held = known(device) && contexts[device].refs > 0;
    if (held)
        contexts[device].refs--;
    fake_unlock();
    return held ? 0 : CUDA_INVALID_CONTEXT;
}

cuda_result cuCtxPushCurrent_v2(cuda_context context) {
    FAKE_ENTER(cuCtxPushCurrent_v2, false);
    if (!context || !context->refs || depth == STACK)
        return CUDA_INVALID_CONTEXT;
    stack[depth++] = context;
    return 0;
}

cuda_result cuCtxPopCurrent_v2(cuda_context *ret) {
    /* What is popped is gone from the stack whatever is answered: a program can do nothing about an error here. */
    if (depth == 0)
        return CUDA_INVALID_CONTEXT;
    *ret = stack[--depth];
    FAKE_ENTER(cuCtxPopCurrent_v2, false);
    return 0;
}

/* ---------- errors ---------- */

cuda_result cuGetErrorName(cuda_result code, const char **ret) {
    switch (code) {
#define FAKE_NAME(name, number, error) \
    case number:                       \
        *ret = "CUDA_ERROR_" #name;    \
        return 0;
        CUDA_RESULTS(FAKE_NAME)
#undef FAKE_NAME
    default:
        *ret = NULL;
        return CUDA_INVALID_VALUE;
    }
}

cuda_result cuGetErrorString(cuda_result code, const char **ret) {
    const char *name;
    if (cuGetErrorName(code, &name)) {
        *ret = NULL;
        return CUDA_INVALID_VALUE;
    }
    *ret = code == CUDA_OUT_OF_MEMORY ? "out of memory" : "as the fake was told";
    return 0;
}
