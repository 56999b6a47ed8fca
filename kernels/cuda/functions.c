/* functions.c - see functions.h. */
#include "functions.h"

#include <errno.h>
#include <stdio.h>

#include "image.h"

static const char *const names[CUDA_KERNEL_COUNT] = {
#define CUDA_KERNEL_NAME(kernel, parameter) [CUDA_KERNEL_##kernel] = #kernel,
    CUDA_KERNELS(CUDA_KERNEL_NAME)
#undef CUDA_KERNEL_NAME
};

/* Adds to the driver's words what can be done. One that is older than the compiler may call the image anything. */
static int explain(const struct cuda_device *d, int r) {
    char said[160];
    int has = 0, built = kernel_cuda_image_version();
    if (r != -ENOEXEC && r != -ELIBBAD)
        return r;
    snprintf(said, sizeof said, "%.120s", cuda_why());
    (void)d->driver->driver_version(&has);
    if (r == -ELIBBAD || has < built)
        return cuda_fail(-ELIBBAD,
                         "%s: the driver (CUDA %d.%d) is older than the CUDA that built this program (%d.%d): update "
                         "the driver, or build with an older nvcc",
                         said, has / 1000, has % 1000 / 10, built / 1000, built % 1000 / 10);
    return cuda_fail(r, "%s: kernels are for %s, the device is sm_%d%d: build with CUDA_ARCHS=%d%d", said,
                     kernel_cuda_image_archs(), d->major, d->minor, d->major, d->minor);
}

int cuda_functions_load(struct cuda_functions *f, struct cuda_device *d) {
    cuda_module module;
    int r = CUDA_DEVICE_CALL(d, module_load, &module, kernel_cuda_image);
    if (r < 0)
        return explain(d, r);
    for (unsigned i = 0; i < CUDA_KERNEL_COUNT && r == 0; i++)
        r = CUDA_DEVICE_CALL(d, module_function, &f->function[i], module, names[i]);
    if (r < 0) {
        (void)d->driver->module_unload(module);
        return r;
    }
    f->module = module;
    return 0;
}

void cuda_functions_unload(struct cuda_functions *f, struct cuda_device *d) {
    if (f->module)
        (void)CUDA_DEVICE_CALL(d, module_unload, f->module);
    f->module = NULL;
}

int cuda_functions_launch(const struct cuda_functions *f, struct cuda_device *d, enum cuda_kernel kernel,
                          struct cuda_grid grid, const void *parameter, cuda_stream stream) {
    void *parameters[] = {(void *)parameter};
    if (grid.x == 0 || grid.y == 0)
        return 0;
    return CUDA_DEVICE_CALL(d, launch, f->function[kernel], grid.x, grid.y, 1, CUDA_THREADS, 1, 1, grid.shared_bytes,
                            stream, parameters, NULL);
}
