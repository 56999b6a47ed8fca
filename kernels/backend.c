/* backend.c - which kind of backend a device's name asks for. */
#include "backend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cuda/cuda_backend.h"
#include "cuda/image.h"

struct kernel_backend *kernel_backend_open(const char *device, char *why, size_t why_bytes) {
    struct kernel_backend *host;
    if (!strncmp(device, "cuda", 4)) {
        if (kernel_backend_has_cuda())
            return kernel_cuda_backend(device, why, why_bytes);
        snprintf(why, why_bytes, "this program was built without nvcc and has no kernels for a GPU");
        errno = ENOTSUP;
        return NULL;
    }
    if (strcmp(device, "host")) {
        snprintf(why, why_bytes, "\"%s\" is no device: host, cuda, cuda:N or cuda:GPU-...", device);
        errno = EINVAL;
        return NULL;
    }
    host = kernel_host_backend(NULL);
    if (!host)
        snprintf(why, why_bytes, "SCISSOR_HOST_PATH names a path that this processor cannot run: %s", strerror(errno));
    return host;
}

bool kernel_page_moves_apart(const struct kernel_page_move *moves, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uintptr_t to = (uintptr_t)moves[i].to, from = (uintptr_t)moves[i].from;
        if (to - from < moves[i].bytes || from - to < moves[i].bytes)
            return false;
    }
    return true;
}

bool kernel_backend_has_cuda(void) {
    return kernel_cuda_has_kernels();
}

const char *kernel_backend_built(char *ret, size_t bytes) {
    if (kernel_backend_has_cuda())
        snprintf(ret, bytes, "host, cuda (%s)", kernel_cuda_image_archs());
    else
        snprintf(ret, bytes, "host (built without nvcc)");
    return ret;
}

struct kernel_backend *kernel_backend_close(struct kernel_backend *b) {
    return b && b->streams ? kernel_cuda_free(b) : NULL;
}

const char *kernel_backend_why(void) {
    return kernel_cuda_why();
}
