/* launch.c - launches: what a driver refuses at the call, and kernels that run late in the emulator.
 *
 * The emulator knows one process's memory and runs one kernel at a time, so that all of it is under one lock here. */
#include <stdlib.h>
#include <string.h>

#include "cuda/launch.h"
#include "emulation/emulator.h"
#include "fake.h"

#define MOST_SHARED (48u << 10) /* without asking for more */

struct fake_launch {
    struct CUmod_st *module;
    const struct emulator_kernel *kernel;
    struct emulator_dim grid, block;
    size_t shared_bytes;
    _Alignas(16) char parameter[];
};

static pthread_mutex_t emulator = PTHREAD_MUTEX_INITIALIZER;

void fake_memory_show(const struct fake_map *map) {
    pthread_mutex_lock(&emulator);
    emulator_memory_allow(map->address, map->bytes, true);
    pthread_mutex_unlock(&emulator);
}

void fake_memory_hide(const struct fake_map *map) {
    pthread_mutex_lock(&emulator);
    emulator_memory_forbid(map->address);
    pthread_mutex_unlock(&emulator);
}

/* ---------- in the stream ---------- */

/* Under the lock, as all below. */
static void judge(void *data, void *memory, bool loaded, bool stored) {
    const struct fake_work *w = data;
    struct fake_map *map = fake_find(memory);
    if (loaded)
        fake_judge(w, map, false);
    if (stored)
        fake_judge(w, map, true);
}

/* What is no memory for the emulator may have been some. */
static void broken(const struct fake_work *w) {
    struct fake_map *map = emulator_fault() ? fake_find(emulator_fault()) : NULL;
    if (map && !map->live)
        fake_judge(w, map, false);
    fake_break(FAKE_RULE_kernel, emulator_message(), map ? map->serial : 0);
}

static bool run_launch(struct fake_work *w) {
    const struct fake_launch *l = w->launch;
    pthread_mutex_lock(&emulator);
    enum emulator_rule rule = emulator_launch(l->kernel, l->grid, l->block, l->shared_bytes, l->parameter, NULL);
    fake_lock();
    if (rule)
        broken(w);
    emulator_memory_touched(judge, w);
    fake_unlock();
    pthread_mutex_unlock(&emulator);
    return true;
}

static void end(struct fake_work *w) {
    fake_module_queue(w->launch->module, -1);
    free(w->launch);
}

/* ---------- the call ---------- */

static bool is_valid(const struct fake_launch *l) {
    struct emulator_dim g = l->grid, b = l->block;
    return g.x && g.y && g.z && g.x <= INT32_MAX && g.y <= UINT16_MAX && g.z <= UINT16_MAX && b.x && b.y && b.z &&
           b.x <= CUDA_THREADS && b.y <= CUDA_THREADS && b.z <= 64 && b.x * b.y * b.z <= CUDA_THREADS &&
           l->shared_bytes <= MOST_SHARED;
}

cuda_result cuLaunchKernel(cuda_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                           unsigned block_y, unsigned block_z, unsigned shared_bytes, cuda_stream stream,
                           void **parameters, void **extra) {
    FAKE_ENTER(cuLaunchKernel, true);
    if (!function)
        return CUDA_INVALID_HANDLE;
    if (!parameters || extra)
        return CUDA_INVALID_VALUE;
    struct CUstream_st *s = fake_stream(stream);
    struct fake_work *w = calloc(1, sizeof *w);
    struct fake_launch *l = malloc(sizeof *l + function->kernel->parameter_bytes);
    cuda_result code = s && w && l ? 0 : CUDA_OUT_OF_MEMORY;
    if (code == 0) {
        *l = (struct fake_launch){.module = function->module,
                                  .kernel = function->kernel,
                                  .grid = {grid_x, grid_y, grid_z},
                                  .block = {block_x, block_y, block_z},
                                  .shared_bytes = shared_bytes};
        memcpy(l->parameter, parameters[0], function->kernel->parameter_bytes);
        code = is_valid(l) ? 0 : CUDA_INVALID_VALUE;
    }
    if (code) {
        free(w);
        free(l);
        return code;
    }
    *w = (struct fake_work){.run = run_launch, .end = end, .launch = l};
    fake_lock();
    fake_module_queue(l->module, 1);
    fake_enqueue(s, w);
    fake_unlock();
    return 0;
}
