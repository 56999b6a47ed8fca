/* alloc.c - heap memory with a switch for failing it; counters are atomic, as any thread allocates. */
#include "alloc.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

static atomic_size_t live;
static atomic_size_t let_through;
static atomic_size_t left_to_fail;
static atomic_bool failing;

static int alloc_must_fail(void) {
    if (!atomic_load_explicit(&failing, memory_order_relaxed))
        return 0;
    size_t n = atomic_load(&let_through);
    while (n > 0)
        if (atomic_compare_exchange_weak(&let_through, &n, n - 1))
            return 0;
    n = atomic_load(&left_to_fail);
    while (n > 0)
        if (atomic_compare_exchange_weak(&left_to_fail, &n, n == SIZE_MAX ? n : n - 1))
            return 1;
    return 0;
}

static void *alloc_counted(void *memory) {
    if (memory)
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return memory;
}

void *scissor_malloc(size_t size) {
    return alloc_must_fail() ? NULL : alloc_counted(malloc(size ? size : 1));
}

void *scissor_calloc(size_t count, size_t size) {
    return alloc_must_fail() ? NULL : alloc_counted(calloc(count ? count : 1, size ? size : 1));
}

void *scissor_realloc(void *memory, size_t size) {
    if (alloc_must_fail())
        return NULL;
    void *grown = realloc(memory, size ? size : 1);
    return memory ? grown : alloc_counted(grown);
}

void *scissor_free(void *memory) {
    if (memory)
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(memory);
    return NULL;
}

void alloc_fail_after(size_t successes, size_t failures) {
    atomic_store(&let_through, successes);
    atomic_store(&left_to_fail, failures);
    atomic_store(&failing, 1);
}

void alloc_fail_never(void) {
    atomic_store(&failing, 0);
}

size_t alloc_live(void) {
    return atomic_load(&live);
}
