/* alloc.h - the one place where this code takes heap memory, so that a test can fail the k-th allocation. */
#pragma once

#include <stddef.h>

/* As malloc, calloc, realloc and free; NULL on failure. Thread-safe. scissor_free returns NULL. */
void *scissor_malloc(size_t size);
void *scissor_calloc(size_t count, size_t size);
void *scissor_realloc(void *memory, size_t size);
void *scissor_free(void *memory);

/* Tests: let `successes` more allocations through and fail the next `failures` ones (SIZE_MAX: all that follow).
 * alloc_fail_never() ends it. */
void alloc_fail_after(size_t successes, size_t failures);
void alloc_fail_never(void);

/* Blocks that are allocated now. */
size_t alloc_live(void);
