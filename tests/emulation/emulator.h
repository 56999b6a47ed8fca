/* emulator.h - runs kernels on the processor, thread by thread, and watches every access to memory.
 *
 * A kernel's source is compiled unchanged as C++ against device.h, with the compiler's calls for a race detector, which
 * this emulator answers itself (watch.c). Threads of a block are fibers that run until they wait; blocks run one after
 * another, in order. A launch ends at the first rule that a kernel breaks.
 *
 * Compiled with EMULATOR_UNWATCHED a kernel's accesses are its own business: it runs five times as fast, what it
 * touches and breaks is not seen, and memory that may not be accessed is not asked for. Barriers and warps are as ever.
 *
 * One launch at a time in a process; others wait. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EMULATOR_RULES(X)                                                                                   \
    X(NONE, "no rule was broken")                                                                           \
    X(RACE_SHARED, "two threads of a block, one of which writes, without a barrier between: shared memory") \
    X(RACE_GLOBAL, "two threads of a block, one of which writes, without a barrier between: global memory") \
    X(RACE_BLOCKS, "two blocks, one of which writes: nothing orders them")                                  \
    X(BOUNDS_GLOBAL, "global access outside of every allocation")                                           \
    X(BOUNDS_SHARED, "shared access beyond what the launch asked for")                                      \
    X(BOUNDS_LOCAL, "access to another thread's local memory")                                              \
    X(READ_ONLY, "store to memory that may only be read")                                                   \
    X(ALIGNMENT, "address is no multiple of the access's size")                                             \
    X(UNWRITTEN, "load of shared memory that no thread of the block has stored to")                         \
    X(BARRIER, "threads of a block wait at different barriers, or one has ended")                           \
    X(WARP, "lanes that a warp operation names wait elsewhere, or one has ended")                           \
    X(LANE, "a lane takes part in a warp operation that does not name it, or asks one that is not named")   \
    X(LAUNCH, "no such kernel, or a grid that no device accepts")

enum emulator_rule {
#define X(name, text) EMULATOR_##name,
    EMULATOR_RULES(X)
#undef X
        EMULATOR_RULE_COUNT
};

struct emulator_dim {
    uint32_t x, y, z;
};

/* Of one launch. Bytes are distinct ones of a warp's instruction: a word that all lanes load counts once. A sector is
 * 32 aligned bytes, what a device moves at least. Global memory alone; atomics are not in it. */
struct emulator_traffic {
    uint64_t bytes, sectors;
    uint64_t instructions, coalesced; /* of a warp; coalesced: no more sectors than its bytes fill */
    uint64_t wide;                    /* instructions whose lanes have 16 bytes each */
};
struct emulator_counts {
    struct emulator_traffic loads, stores;
    uint64_t shared_accesses, barriers;
};

struct emulator_kernel {
    const char *name;
    void (*run)(const void *parameter);
    size_t parameter_bytes;
};

/* The kernels of kernels/cuda/ by name; NULL if there is none. */
const struct emulator_kernel *emulator_find(const char *name);

/* Runs a kernel. ret_counts may be NULL, which is faster; it is untouched if a rule is broken. */
enum emulator_rule emulator_launch(const struct emulator_kernel *kernel, struct emulator_dim grid,
                                   struct emulator_dim block, size_t shared_bytes, const void *parameter,
                                   struct emulator_counts *ret_counts);
/* False where a real device stands for the emulator (tests/gpu/on_device.c): there all counts are 0. */
bool emulator_counts_bytes(void);
/* The device's compute capability, 80 and the like: kernels for tensor cores are for 80 and newer. */
int emulator_capability(void);
/* Who broke the rule of the last launch, where: static text. */
const char *emulator_message(void);
const char *emulator_rule_text(enum emulator_rule rule);
/* The address of the access that broke it; NULL if the rule is not about one. */
const void *emulator_fault(void);

/* Memory that kernels may access. `new` gives memory of its own, multiples of 256, with nothing next to it; `allow` is
 * for memory that the caller has, which must not overlap what is allowed already. */
void *emulator_memory_new(size_t bytes);
void emulator_memory_free(void *memory);
void emulator_memory_allow(void *memory, size_t bytes, bool writable);
void emulator_memory_forbid(void *memory);
void emulator_memory_writable(void *memory, bool writable);
/* Tells of each piece of memory that the last launch loaded from or stored to; an atomic does both. */
void emulator_memory_touched(void (*tell)(void *data, void *memory, bool loaded, bool stored), void *data);
