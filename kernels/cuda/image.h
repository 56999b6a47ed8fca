/* image.h - the kernels of this folder, compiled: a fat binary for the driver to load, kept in the program. */
#pragma once

#include <stddef.h>

/* For cuModuleLoadData. No bytes where the program was built without nvcc. */
extern const unsigned char kernel_cuda_image[];
extern const size_t kernel_cuda_image_bytes;
/* What the image is for: "sm_75 sm_90, PTX compute_90", PTX being what newer devices compile for themselves; "" if
 * there is no image. */
const char *kernel_cuda_image_archs(void);
/* The CUDA version of the compiler, as cuDriverGetVersion() gives the driver's (13000: 13.0); 0 if it is not known. */
int kernel_cuda_image_version(void);
/* The newest architecture that it is for (90); 0 without kernels. Devices that are newer still run that one's PTX. */
unsigned kernel_cuda_image_newest(void);
