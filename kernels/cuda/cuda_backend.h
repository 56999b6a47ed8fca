/* cuda_backend.h - the CUDA backend: memory of a GPU, one allocation and one IPC handle a segment.
 *
 * What it has so far are the operations on segments, copy and synchronise; settle, shrink, v_norms, append and attend
 * are NULL, and so are those of segments that outlive their owner's process, which CUDA memory cannot. `copy` is queued
 * on the backend's own stream, `synchronise` waits for all that was. Segments are whole multiples of 2 MiB, as smaller
 * allocations share such a block, and an IPC handle opens the whole block. CUDA has no read-only imports: what a client
 * does to its own settled segments is not prevented, only what it does to another's.
 *
 * The owner must not free what an importer may still hold: that is undefined. So a segment that was exported is freed
 * when its importers are known to be gone, and until then it is in *quarantine*: segment_free() moves it there, its
 * bytes stay taken, and kernel_cuda_reap() frees what may be freed by then. Importers are gone when the owner says so
 * (kernel_cuda_closed: they have closed it) or when the processes that it named (kernel_cuda_importer) have ended. A
 * segment that was exported to nobody in particular stays until kernel_cuda_closed(), or for good. */
#pragma once

#include "../backend.h"

struct kernel_cuda_memory {
    uint64_t segments, bytes; /* owned and not yet freed by their owner */
    uint64_t imported;        /* open here, owned elsewhere */
    uint64_t quarantined_segments, quarantined_bytes;
};

/* `device` is "cuda", "cuda:N" or "cuda:GPU-xxxx". NULL with errno and a text in `why` ("no NVIDIA driver: ...") if it
 * cannot be had. One object for each call; kernel_cuda_free() ends it when its segments are gone. */
struct kernel_backend *kernel_cuda_backend(const char *device, char *why, size_t why_bytes);
struct kernel_backend *kernel_cuda_free(struct kernel_backend *b);

/* What the last failure of this thread was, in words: call, code and the driver's own text. */
const char *kernel_cuda_why(void);
/* A sticky error: the context is lost, and with it everything on it. Calls answer -ENOTRECOVERABLE. */
bool kernel_cuda_lost(struct kernel_backend *b);
/* Name, UUID ("GPU-..."), bytes and compute capability. Valid as long as the backend. */
struct kernel_cuda_device {
    const char *name, *uuid;
    uint64_t bytes;
    int major, minor;
};
struct kernel_cuda_device kernel_cuda_device(struct kernel_backend *b);

/* The process of this pidfd (duplicated) may open the segment's handle from now on. */
int kernel_cuda_importer(struct kernel_backend *b, struct kernel_segment *s, int pidfd);
/* Everybody who had opened the segment has closed it again. */
void kernel_cuda_closed(struct kernel_backend *b, struct kernel_segment *s);
/* Frees what is in quarantine and has no importer left; returns the bytes that stay. */
uint64_t kernel_cuda_reap(struct kernel_backend *b);
struct kernel_cuda_memory kernel_cuda_memory(struct kernel_backend *b);
