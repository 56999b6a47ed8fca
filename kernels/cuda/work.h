/* work.h - struct kernel_backend's work on rows and attention, as launches: checks, arguments, grids. */
#pragma once

#include "arena.h"
#include "functions.h"

struct cuda_work {
    struct cuda_device *device;
    struct cuda_functions functions;
    struct cuda_arena arena;
    uint32_t processors; /* of the device (SMs) */
};

/* Loads the kernels; without any (image.h) every operation below gives -ENOTSUP. On failure nothing is left. */
int cuda_work_init(struct cuda_work *w, struct cuda_device *d);
/* Everything queued is done. */
void cuda_work_deinit(struct cuda_work *w);

/* Zeroes memory of the device; a multiple of 16 bytes, as the address. */
int cuda_work_scrub(struct cuda_work *w, cuda_address at, size_t bytes, void *stream);

/* The operations of backend.h on stream `stream`. Quantised dtypes are -EOPNOTSUPP. On -EINVAL nothing was queued. */
int cuda_work_settle(struct cuda_work *w, const struct kernel_settle *heads, size_t count, void *stream);
int cuda_work_shrink(struct cuda_work *w, const struct kernel_shrink *heads, size_t count, void *stream);
int cuda_work_move_pages(struct cuda_work *w, const struct kernel_page_move *moves, size_t count, void *stream);
/* The one that waits. */
int cuda_work_v_norms(struct cuda_work *w, const struct kernel_norms *heads, size_t count, void *stream);
int cuda_work_append(struct cuda_work *w, const struct kernel_append *heads, size_t count, void *stream);
size_t cuda_work_attend_bytes(const struct cuda_work *w, const struct kernel_attend *items, size_t count);
int cuda_work_attend(struct cuda_work *w, const struct kernel_attend *items, size_t count, void *workspace,
                     void *stream);
