/* cuda_backend.h - the CUDA backend: memory of a GPU, one allocation and one IPC handle a segment, and work on streams.
 *
 * Segments are whole multiples of 2 MiB, as smaller allocations share such a block, and an IPC handle opens the whole
 * block. CUDA has no read-only imports: what a client does to its own settled segments is not prevented, only what it
 * does to another's. To free a segment that somebody still has open is undefined: its owner's user must know that all
 * importers have closed it, or that their processes are gone. Segments do not outlive their owner's process.
 *
 * settle, shrink, v_norms and move_pages are queued on the backend's own stream; v_norms and synchronise wait for it.
 */
#pragma once

#include "../backend.h"

struct kernel_cuda_memory {
    uint64_t segments, bytes;                 /* owned and not yet freed by their owner */
    uint64_t imported;                        /* open here, owned elsewhere */
    uint64_t refused_segments, refused_bytes; /* freed by their user, but not yet taken by the driver */
};

/* `device` is "cuda", "cuda:N" or "cuda:GPU-xxxx". NULL with errno and a text in `why` ("no NVIDIA driver: ...") if it
 * cannot be had. One object for each call; kernel_cuda_free() ends it when its segments are gone. */
struct kernel_backend *kernel_cuda_backend(const char *device, char *why, size_t why_bytes);
/* False in a program that was built without nvcc: there a backend has memory, but settle, shrink, v_norms, move_pages,
 * append and attend give -ENOTSUP. */
bool kernel_cuda_has_kernels(void);
struct kernel_backend *kernel_cuda_free(struct kernel_backend *b);

/* What the last failure of this thread was, in words: call, code and the driver's own text. */
const char *kernel_cuda_why(void);
/* Name, UUID ("GPU-..."), bytes and compute capability. Valid as long as the backend. */
struct kernel_cuda_device {
    const char *name, *uuid;
    uint64_t bytes;
    int major, minor;
};
struct kernel_cuda_device kernel_cuda_device(struct kernel_backend *b);
struct kernel_cuda_memory kernel_cuda_memory(struct kernel_backend *b);
