/* driver.c - loads libcuda.so.1 once in the life of the process, and puts its errors into words.
 *
 * pthread_once guards the table; after it everything is constant. A failure is remembered, too: a driver that appears
 * later is not looked for, as half of the process would then have decided to live without it. */
#include "driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LIBRARY "libcuda.so.1"

static _Thread_local char why[320];

static struct {
    pthread_once_t once;
    struct cuda_driver table;
    int result;
    char why[sizeof why];
} driver = {.once = PTHREAD_ONCE_INIT};

const char *cuda_why(void) {
    return why;
}

int cuda_fail(int error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return error;
}

bool cuda_is_lost(int error) {
    return error == -ENOTRECOVERABLE;
}

static int errno_of(cuda_result result) {
    switch (result) {
#define CUDA_CASE(name, code, error) \
    case code:                       \
        return -(error);
        CUDA_RESULTS(CUDA_CASE)
#undef CUDA_CASE
    default:
        return -EIO;
    }
}

int cuda_check(const struct cuda_driver *d, const char *call, cuda_result result) {
    const char *name = NULL, *text = NULL;
    if (result == 0)
        return 0;
    /* A code that is newer than the driver has no name there. */
    if (!d || d->error_name(result, &name) || !name)
        name = "unknown code";
    if (!d || d->error_string(result, &text) || !text)
        text = "no description";
    return cuda_fail(errno_of(result), "%s: %s (%u): %s", call, name, result, text);
}

/* The first symbol that the library lacks; NULL if all are there. */
static const char *look_up(void *library, struct cuda_driver *ret) {
    const char *missing = NULL;
    void *address;
#define CUDA_LOOK_UP(name, symbol, parameters) \
    address = dlsym(library, #symbol);         \
    if (!address && !missing)                  \
        missing = #symbol;                     \
    memcpy(&ret->name, &address, sizeof address); /* ISO C has no cast from object to function pointers */
    CUDA_SYMBOLS(CUDA_LOOK_UP)
#undef CUDA_LOOK_UP
    return missing;
}

static int load(void) {
    const char *missing;
    /* RTLD_NODELETE: threads of the driver may run until the end of the process. */
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library) {
        const char *error = dlerror();
        return cuda_fail(-ENODEV, "no NVIDIA driver: %s", error ? error : LIBRARY);
    }
    missing = look_up(library, &driver.table);
    if (missing) {
        dlclose(library);
        return cuda_fail(-ELIBBAD, "the NVIDIA driver is too old: " LIBRARY " has no %s", missing);
    }
    return CUDA_CALL(&driver.table, init, 0);
}

static void load_once(void) {
    driver.result = load();
    memcpy(driver.why, why, sizeof why);
}

int cuda_driver_load(const struct cuda_driver **ret) {
    pthread_once(&driver.once, load_once);
    if (driver.result < 0)
        return cuda_fail(driver.result, "%s", driver.why);
    *ret = &driver.table;
    return 0;
}
