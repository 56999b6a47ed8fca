/* image.c - takes the fat binary into the program: the Makefile says which file (CUDA_IMAGE) and what it is for. */
#include "image.h"

#include <assert.h>

#ifdef CUDA_IMAGE
static_assert(sizeof(size_t) == 8, "the number of bytes is written as a .quad");
__asm__(".pushsection .rodata\n"
        ".balign 16\n"
        ".globl kernel_cuda_image\n"
        ".hidden kernel_cuda_image\n"
        "kernel_cuda_image:\n"
        ".incbin \"" CUDA_IMAGE "\"\n"
        "1:\n"
        ".balign 8\n"
        ".globl kernel_cuda_image_bytes\n"
        ".hidden kernel_cuda_image_bytes\n"
        "kernel_cuda_image_bytes:\n"
        ".quad 1b - kernel_cuda_image\n"
        ".popsection\n");
#else
#define CUDA_IMAGE_ARCHS ""
#define CUDA_IMAGE_VERSION 0
#define CUDA_IMAGE_NEWEST 0
const unsigned char kernel_cuda_image[1];
const size_t kernel_cuda_image_bytes = 0;
#endif

const char *kernel_cuda_image_archs(void) {
    return CUDA_IMAGE_ARCHS;
}

int kernel_cuda_image_version(void) {
    return CUDA_IMAGE_VERSION + 0; /* of a compiler that does not say it the macro is empty */
}

unsigned kernel_cuda_image_newest(void) {
    return CUDA_IMAGE_NEWEST;
}
