/* image.c - the image of a program that was built without nvcc. */
#include "image.h"

const unsigned char kernel_cuda_image[1];
const size_t kernel_cuda_image_bytes;
