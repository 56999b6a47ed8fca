/* image.h - the kernels of kernels/cuda/ as nvcc has compiled them, for the driver to load. */
#pragma once

#include <stddef.h>

/* Empty (0 bytes) in a program that was built without nvcc. */
extern const unsigned char kernel_cuda_image[];
extern const size_t kernel_cuda_image_bytes;
