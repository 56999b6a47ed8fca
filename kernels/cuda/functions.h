/* functions.h - the kernels of this program's image, loaded into a device's context. */
#pragma once

#include "device.h"
#include "launch.h"

enum cuda_kernel {
#define CUDA_KERNEL_ENUM(kernel, parameter) CUDA_KERNEL_##kernel,
    CUDA_KERNELS(CUDA_KERNEL_ENUM)
#undef CUDA_KERNEL_ENUM
        CUDA_KERNEL_COUNT
};

struct cuda_functions {
    cuda_module module; /* NULL: not loaded */
    cuda_function function[CUDA_KERNEL_COUNT];
};

/* Both with the context current. There is an image (kernel_cuda_image_bytes); -ENOEXEC if it has nothing for this
 * device, -ELIBBAD if the driver is older than the compiler that made it: cuda_why() then says what to do. */
int cuda_functions_load(struct cuda_functions *f, struct cuda_device *d);
void cuda_functions_unload(struct cuda_functions *f, struct cuda_device *d);
/* Queues a launch. `parameter` is the kernel's struct, copied; a grid of nothing is no launch. */
int cuda_functions_launch(const struct cuda_functions *f, struct cuda_device *d, enum cuda_kernel kernel,
                          struct cuda_grid grid, const void *parameter, cuda_stream stream);
