/* backend.h - what a device must be able to do, as one struct of operations.
 *
 * The daemon owns segments and settles on them; a client imports the segments
 * of its own sessions and attends over them. Both sides hold a backend of the
 * same kind. Rows and pages are laid out as layout.h says. All functions return
 * 0 or a negative errno value and leave their outputs untouched on failure.
 * A backend may be used by several threads at once as long as no two of them
 * touch the same segment. Nothing here logs. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dtype.h"
#include "layout.h"

struct kernel_backend;
struct kernel_segment; /* owned by who allocated or imported it */

enum kernel_access {
    KERNEL_ACCESS_SETTLED, /* importer may only read, and cannot gain more */
    KERNEL_ACCESS_FRESH,   /* importer may read and write */
    /* Of an owner alone: as SETTLED, but a later process of the owner can write to it, too (segment_adopt); so can root
     * and whoever runs as the owner's user. Importers say SETTLED. */
    KERNEL_ACCESS_SETTLED_KEPT,
};

/* What crosses a process border: a descriptor (host; owned by the receiver) or 64 opaque bytes (cuda; fd = -1). */
struct kernel_handle {
    int fd;
    uint8_t opaque[64];
};

/* No detail slot, or nobody's (layout.h). */
#define KERNEL_NONE UINT32_MAX

/* Rows of one (layer, KV head) on the move. Rows are numbered over the page list: row r is in pages[r / 64]. */
struct kernel_move {
    uint32_t from, to;
};

/* One head's part of a settle: fresh row `from` is converted from compute to storage dtype and written to slot `to`. */
struct kernel_settle {
    const void *fresh; /* K and V of fresh_rows rows, compute dtype */
    void *const *pages;
    const struct kernel_move *moves;
    /* Of a dtype with details: [move_count] the detail slot that the row gets, or KERNEL_NONE. Else NULL. */
    const uint32_t *details;
    uint32_t move_count;
    uint32_t fresh_rows;
    uint32_t head_dim;
    uint8_t compute_dtype, storage_dtype;
};

/* One head's part of a shrink: slot `from` is copied over slot `to`, in the order given, storage dtype on both sides.
 * Of a dtype with details, then detail slot `from` is copied over detail slot `to`, its owner, too, in the order given,
 * and then detail slot `from` is given to slot `to`, or to nobody (KERNEL_NONE). */
struct kernel_shrink {
    void *const *pages;
    const struct kernel_move *moves, *detail_moves, *owners;
    uint32_t move_count, detail_move_count, owner_count;
    uint32_t head_dim;
    uint8_t storage_dtype;
};

/* A page, or any piece of a segment, on the move: `bytes` from one place of the device to another. */
struct kernel_page_move {
    void *to;
    const void *from;
    size_t bytes;
};

/* |V|_1 of fresh rows first .. first + count - 1 of one head: norms[i] = sum over the channels of |V[first + i]|,
 * summed in f32 from what is in the buffer. Not finite where the row is not, or where the sum is too large. */
struct kernel_norms {
    const void *fresh; /* K and V of fresh_rows rows, compute dtype */
    uint32_t first, count;
    uint32_t fresh_rows;
    uint32_t head_dim;
    uint8_t compute_dtype;
    float *norms; /* [count], in host memory */
};

enum kernel_threshold {
    KERNEL_THRESHOLD_VISIBLE, /* 1 / n: rows that the query can see */
    KERNEL_THRESHOLD_SEEN,    /* 1 / t: tokens that the session has seen, the query's own included */
};

/* Attention of `rows` consecutive query rows over one KV head.
 *
 * Query row i sees all settled rows and fresh rows 0 .. fresh_before + i. For each of the q_heads query heads of the
 * group: out = softmax(scale * q . K) V. With p(j) the mean over the query heads of the probability of row j:
 *     mass[j] += p(j)      hits[j] += (p(j) >= threshold)      last[j] = p(j), newest query row only
 * where j counts settled rows first, then fresh rows; planes may be NULL. Each plane has settled_rows + fresh_before
 * + rows values. In `last`, all of those are written. */
struct kernel_attend {
    const void *const *pages; /* ceil(settled_rows / 64) page addresses; may be NULL if settled_rows is 0 */
    uint32_t settled_rows;
    uint32_t detail_pages; /* of a dtype with details: pages whose detail slots count, may be more than those; else 0 */
    const void *fresh;     /* K and V of fresh_rows rows */
    uint32_t fresh_rows, fresh_before;
    uint32_t rows;
    uint32_t q_heads, head_dim;
    uint8_t compute_dtype, storage_dtype;
    uint8_t threshold; /* enum kernel_threshold, used for hits only */
    uint64_t seen;     /* tokens seen before query row 0 (position of row 0) */
    float scale;
    const float *q; /* q[i * q_row_stride + h * head_dim + c], h < q_heads */
    float *out;     /* the same strides */
    size_t q_row_stride;
    float *mass, *hits, *last;
};

/* One head's part of an append to a device: rows first_row .. first_row + rows - 1 of its fresh buffer. */
struct kernel_append {
    void *fresh;
    const void *k, *v; /* [rows][stride] elements of input_dtype, head_dim used */
    size_t stride;
    uint32_t fresh_rows, first_row, rows, head_dim;
    uint8_t compute_dtype, input_dtype;
};

enum kernel_memory {
    KERNEL_MEMORY_DEVICE,
    KERNEL_MEMORY_PINNED, /* the host's, with the same address on the device */
};

/* Order between two processes that work on the same session: a pair of events that both can see. The owner of the
 * session's memory makes it, an importer opens it. */
struct kernel_fence;

/* Operations of a device that does its work later. A stream is the driver's (a CUstream; NULL is its default stream),
 * and belongs to who calls: what is queued on one is done in order. All functions but wait() and fence_wait() return
 * when the work is queued; arrays of items, and the lists that those point to, are copied before. All rows, vectors and
 * planes are on the device or in pinned memory. An error of queued work is found by a later call. */
struct kernel_streams {
    void *(*own)(struct kernel_backend *b); /* where settle, shrink, v_norms and move_pages are queued */
    /* Waits in the host until all is done that is on the stream now. */
    int (*wait)(struct kernel_backend *b, void *stream);

    /* Memory beside segments; not zeroed. Nothing that is queued may use it when it is freed; NULL is allowed. */
    int (*memory_new)(struct kernel_backend *b, enum kernel_memory where, size_t bytes, void **ret);
    void *(*memory_free)(struct kernel_backend *b, enum kernel_memory where, void *memory);
    int (*fill_zero)(struct kernel_backend *b, void *to, size_t bytes, void *stream); /* a multiple of 4, as `to` */
    /* Between pinned memory and the device, either way, or within either. */
    int (*transfer)(struct kernel_backend *b, void *to, const void *from, size_t bytes, void *stream);

    int (*append)(struct kernel_backend *b, const struct kernel_append *heads, size_t head_count, void *stream);
    /* Bytes of scratch memory on the device for a call with these items; 0 if there is nothing to do. Until the call's
     * work is done it is used by nothing else. */
    size_t (*attend_workspace)(struct kernel_backend *b, const struct kernel_attend *items, size_t item_count);
    int (*attend)(struct kernel_backend *b, const struct kernel_attend *items, size_t item_count, void *workspace,
                  void *stream);

    int (*fence_new)(struct kernel_backend *b, struct kernel_fence **ret);
    int (*fence_export)(struct kernel_backend *b, struct kernel_fence *f, struct kernel_handle ret[2]);
    int (*fence_import)(struct kernel_backend *b, const struct kernel_handle handles[2], struct kernel_fence **ret);
    /* Nothing queued waits for it any more, and of the owner's no importer is left, or the process is about to end.
     * NULL is allowed; returns NULL. */
    struct kernel_fence *(*fence_free)(struct kernel_backend *b, struct kernel_fence *f);
    /* What is on the stream so far is what the other side has to wait for. */
    int (*fence_signal)(struct kernel_backend *b, struct kernel_fence *f, void *stream);
    /* What comes on the stream from now on waits for what the other side, or this one, has signalled so far. An owner
     * does not let its stream wait for an importer, which may signal again at any moment and never come to an end. */
    int (*fence_follow)(struct kernel_backend *b, struct kernel_fence *f, bool own, void *stream);
    /* Waits in the host until that is done: 0, or -EAGAIN if it is not after so many microseconds (0: asks once). What
     * is queued after a 0 comes after it. */
    int (*fence_wait)(struct kernel_backend *b, struct kernel_fence *f, bool own, uint32_t timeout_us);

    /* Whether all imports are closed whose segment_free() was called; the driver may have refused it then, and is asked
     * again. Before that, an importer must not say that it has closed anything. */
    bool (*closed)(struct kernel_backend *b);
    /* A sticky error: nothing works any more until the process ends. Calls answer -ENOTRECOVERABLE. */
    bool (*lost)(struct kernel_backend *b);
};

struct kernel_backend {
    const char *name;        /* "host", "cuda" */
    const char *path;        /* "reference", "avx2", "avx512", "avx512vnni", "NVIDIA ...": what runs the arithmetic */
    const char *device;      /* what another process opens the same one by: "host", "cuda:GPU-..." */
    uint32_t storage_dtypes; /* bits 1 << dtype: what settled rows can be kept in */
    /* NULL where an operation is done when its call returns (host). Else append and attend below are NULL. */
    const struct kernel_streams *streams;
    /* True where a segment's memory is gone for its importers, too, as soon as segment_free returns (host:
     * truncated, or one hole).
     * False where an importer must close it first (cuda). */
    bool revocable;

    /* Bytes of memory that the device has; NULL where it is the machine's (host). */
    uint64_t (*capacity)(struct kernel_backend *b);

    /* A zeroed segment of `bytes` (a multiple of 4096) whose memory is really there: no later fault can fail. */
    int (*segment_new)(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret);
    /* Importer's or owner's end; NULL is allowed; returns NULL. Revokes the memory at the owner. Nothing that an
     * importer has queued uses it any more. */
    struct kernel_segment *(*segment_free)(struct kernel_backend *b, struct kernel_segment *s);
    /* A handle to be sent to a client. The descriptor in it belongs to the caller. */
    int (*segment_export)(struct kernel_backend *b, struct kernel_segment *s, struct kernel_handle *ret);
    /* Maps what a peer exported; takes the descriptor over on success only. */
    int (*segment_import)(struct kernel_backend *b, enum kernel_access access, const struct kernel_handle *handle,
                          size_t bytes, struct kernel_segment **ret);
    /* Address of the segment's first byte, on the device. */
    void *(*segment_address)(struct kernel_segment *s);
    /* How a segment outlives its owner's process. NULL where it cannot (cuda).
     * The owner's descriptor, still the segment's; -1 at an importer. */
    int (*segment_descriptor)(struct kernel_segment *s);
    /* In a later process: becomes the owner of what that descriptor of FRESH or SETTLED_KEPT is; takes it over on
     * success only. -EINVAL if it is not such a segment of `bytes`. */
    int (*segment_adopt)(struct kernel_backend *b, enum kernel_access access, int fd, size_t bytes,
                         struct kernel_segment **ret);
    /* Unmaps and closes without revoking: somebody else holds its descriptor, or may look at it until it unmaps it.
     * NULL is allowed; returns NULL. Whatever is revocable has it, as has the host. */
    struct kernel_segment *(*segment_leave)(struct kernel_backend *b, struct kernel_segment *s);

    int (*settle)(struct kernel_backend *b, const struct kernel_settle *heads, size_t head_count);
    int (*shrink)(struct kernel_backend *b, const struct kernel_shrink *heads, size_t head_count);
    /* The norms are there when it returns. */
    int (*v_norms)(struct kernel_backend *b, const struct kernel_norms *heads, size_t head_count);
    /* Copies within or between segments, in any order: what a move writes is neither read nor written by another one.
     * -EINVAL, and nothing is done, if a move's own two places overlap, or (cuda) if an address or a size is not a
     * multiple of 16. */
    int (*move_pages)(struct kernel_backend *b, const struct kernel_page_move *moves, size_t count);
    /* Writes rows into the fresh buffer (client): k and v are [rows][stride] elements of input_dtype, head_dim used. */
    int (*append)(struct kernel_backend *b, void *fresh, uint32_t fresh_rows, uint32_t first_row, uint32_t rows,
                  uint32_t head_dim, uint8_t compute_dtype, const void *k, const void *v, size_t stride,
                  uint8_t input_dtype);
    /* Runs all items; `workspace` is scratch memory of kernel_attend_workspace() bytes for the largest of them. */
    int (*attend)(struct kernel_backend *b, const struct kernel_attend *items, size_t item_count, void *workspace);
    int (*synchronise)(struct kernel_backend *b);
};

/* Scratch bytes for an item (64-byte aligned memory is expected). */
size_t kernel_attend_workspace(uint32_t q_heads, uint32_t head_dim, size_t visible_rows);

/* For --version: the devices that this program was built for, "host, cuda (sm_75 sm_90, PTX compute_90)" or "host
 * (built without nvcc)". Returns `ret`. */
const char *kernel_backend_built(char *ret, size_t bytes);

/* Whether the program was built for CUDA devices; a driver is looked for when one is opened. */
bool kernel_backend_has_cuda(void);

/* The backend of a device: "host", or "cuda", "cuda:N", "cuda:GPU-..." (its beginning is enough). NULL with errno and a
 * text in `why` if it cannot be had. A backend of cuda is closed when its segments, fences and memory are gone. */
struct kernel_backend *kernel_backend_open(const char *device, char *why, size_t why_bytes);
/* NULL is allowed; returns NULL. */
struct kernel_backend *kernel_backend_close(struct kernel_backend *b);
/* What the last failure of this thread was in words, where the backend has them; "" if not. */
const char *kernel_backend_why(void);

/* Whether each move's own two places lie apart. */
bool kernel_page_moves_apart(const struct kernel_page_move *moves, size_t count);

/* The host backend, with the best path this processor has, or the named one ("reference", "avx2", "avx512",
 * "avx512vnni").
 * NULL with errno ENOTSUP if the processor cannot run it, EINVAL if there is no such path. The object is static:
 * never freed. SCISSOR_HOST_PATH in the environment overrides a NULL path. */
struct kernel_backend *kernel_host_backend(const char *path);
