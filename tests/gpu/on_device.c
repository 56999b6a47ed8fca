/* on_device.c - the functions of tests/emulation/emulator.h done by a real device, so that the tests of the kernels run
 * on it unchanged: test programs are linked with this file in the emulator's place.
 *
 * Memory is a pinned block of the host, which has the same address on the device, so that the tests may look at it
 * between launches, each of which is waited for. Pieces are taken from its front; it is begun anew when all have been
 * given back, which each case of a test does at its end. Nothing is watched or counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda/functions.h"
#include "emulation/emulator.h"

#define BLOCK_BYTES ((size_t)64 << 20)
#define PIECE 256

static struct {
    struct cuda_device *device;
    struct cuda_functions functions;
    char *block;
    size_t used;
    unsigned live; /* pieces */
} gpu;

static void gpu_must(int r) {
    if (r < 0)
        fail_msg("%s", cuda_why());
}

/* Once; until the program ends, the context is current in its one thread. */
static void gpu_open(void) {
    if (gpu.device)
        return;
    gpu_must(cuda_device_open("cuda", &gpu.device));
    gpu_must(cuda_device_enter(gpu.device));
    gpu_must(cuda_functions_load(&gpu.functions, gpu.device));
    gpu_must(CUDA_DEVICE_CALL(gpu.device, host_new, (void **)&gpu.block, BLOCK_BYTES,
                              CUDA_HOST_PORTABLE | CUDA_HOST_MAPPED));
}

static const struct emulator_kernel kernels[] = {
#define KERNEL(kernel, parameter) {.name = #kernel, .parameter_bytes = sizeof(struct parameter)},
    CUDA_KERNELS(KERNEL)
#undef KERNEL
};

const struct emulator_kernel *emulator_find(const char *name) {
    for (size_t i = 0; i < CUDA_KERNEL_COUNT; i++)
        if (!strcmp(kernels[i].name, name))
            return &kernels[i];
    return NULL;
}

/* The emulator says LAUNCH where no device would take it; a rule that is broken on a device is the driver's to find. */
enum emulator_rule emulator_launch(const struct emulator_kernel *kernel, struct emulator_dim grid,
                                   struct emulator_dim block, size_t shared_bytes, const void *parameter,
                                   struct emulator_counts *ret_counts) {
    gpu_open();
    if (!kernel || block.x != CUDA_THREADS || block.y != 1 || block.z != 1 || grid.z != 1)
        return EMULATOR_LAUNCH;
    struct cuda_grid of = {grid.x, grid.y, (uint32_t)shared_bytes};
    int r = cuda_functions_launch(&gpu.functions, gpu.device, (enum cuda_kernel)(kernel - kernels), of, parameter,
                                  gpu.device->stream);
    if (r == 0)
        r = cuda_device_drain(gpu.device);
    if (r < 0)
        return EMULATOR_LAUNCH;
    if (ret_counts)
        *ret_counts = (struct emulator_counts){0};
    return EMULATOR_NONE;
}

bool emulator_counts_bytes(void) {
    return false;
}

int emulator_capability(void) {
    gpu_open();
    return gpu.device->major * 10 + gpu.device->minor;
}

const char *emulator_message(void) {
    return cuda_why();
}

void *emulator_memory_new(size_t bytes) {
    gpu_open();
    size_t taken = (bytes + PIECE - 1) / PIECE * PIECE + PIECE;
    if (taken > BLOCK_BYTES - gpu.used)
        fail_msg("a case of this test needs more than %zu bytes", BLOCK_BYTES);
    void *memory = gpu.block + gpu.used;
    gpu.used += taken;
    gpu.live++;
    return memory;
}

void emulator_memory_free(void *memory) {
    if (memory && --gpu.live == 0)
        gpu.used = 0;
}

void emulator_memory_writable(void *memory, bool writable) {
    (void)memory, (void)writable;
}
