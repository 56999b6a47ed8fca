/* kernels.c - the kernels of kernels/cuda/ by name, as the emulator runs them. */
#include <string.h>

#include "cuda/launch.h"
#include "emulator.h"

#define X(kernel, parameter)                      \
    void kernel(struct parameter);                \
    static void run_##kernel(const void *given) { \
        kernel(*(const struct parameter *)given); \
    }
CUDA_KERNELS(X)
#undef X

static const struct emulator_kernel kernels[] = {
#define X(kernel, parameter) {#kernel, run_##kernel, sizeof(struct parameter)},
    CUDA_KERNELS(X)
#undef X
};

const struct emulator_kernel *emulator_find(const char *name) {
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (!strcmp(kernels[i].name, name))
            return &kernels[i];
    return NULL;
}
