/* append.cu - new rows into the fresh buffers, for all heads of a layer in one launch.
 *
 * Contract: kernel_backend.append of backend.h; the bits are those of dtype.c.
 * Parallelisation: y is the head, a block has one block of 16 fresh rows, as far as it is written. K is turned in
 * shared memory, where a row has one column of padding: loads run along channels, stores along rows, 16 bytes wide
 * where all rows of such a piece are written. V: a thread has 8 channels of a row.
 * Bytes to be moved, for each row: 2 * head_dim elements of the input dtype loaded and of the compute dtype stored. A
 * block loads its head's 56 bytes once in each warp. */
#include "device.cuh"

/* Rows of this block: fresh rows base + begin .. base + end - 1, base a multiple of 16. */
struct append_rows {
    uint32_t base, begin, end;
};

static __device__ __forceinline__ struct append_rows append_rows_of(const struct kernel_append *head) {
    struct append_rows r;
    uint32_t last = head->first_row + head->rows;
    r.base = (head->first_row / SCISSOR_BLOCK_ROWS + blockIdx.x) * SCISSOR_BLOCK_ROWS;
    r.begin = head->first_row > r.base ? head->first_row - r.base : 0;
    r.end = last > r.base ? smaller(last - r.base, SCISSOR_BLOCK_ROWS) : 0;
    return r;
}

static __device__ __forceinline__ struct eight append_load(uint32_t dtype, const char *at, bool wide) {
    struct eight x;
    if (wide)
        return eight_load(dtype, at);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++)
        x.bits[i] = element_load(dtype, at + i * element_bytes(dtype));
    return x;
}

/* Loads K into `turned` ([16][head_dim + 1], converted) and takes V where it belongs. */
static __device__ __forceinline__ void append_load_rows(const struct kernel_append *head, struct append_rows rows,
                                                        uint32_t *turned) {
    uint32_t in = element_bytes(head->input_dtype), out = element_bytes(head->compute_dtype), d = head->head_dim;
    char *v = (char *)head->fresh + (size_t)head->fresh_rows * d * out;
    bool wide = (((size_t)head->k | (size_t)head->v | head->stride * in) & 15) == 0;

    for (uint32_t i = threadIdx.x; i < (rows.end - rows.begin) * (d / 8); i += CUDA_THREADS) {
        uint32_t row = rows.begin + i / (d / 8), c = i % (d / 8) * 8;
        size_t from = ((size_t)(rows.base + row - head->first_row) * head->stride + c) * in;
        struct eight x = append_load(head->input_dtype, (const char *)head->k + from, wide);
        x = eight_convert(head->compute_dtype, head->input_dtype, x);
#pragma unroll
        for (uint32_t j = 0; j < 8; j++)
            turned[row * (d + 1) + c + j] = x.bits[j];
        x = append_load(head->input_dtype, (const char *)head->v + from, wide);
        eight_store(head->compute_dtype, v + ((size_t)(rows.base + row) * d + c) * out,
                    eight_convert(head->compute_dtype, head->input_dtype, x));
    }
}

static __device__ __forceinline__ void append_store_k(const struct kernel_append *head, struct append_rows rows,
                                                      const uint32_t *turned) {
    uint32_t out = element_bytes(head->compute_dtype), d = head->head_dim;
    char *k = (char *)head->fresh + (size_t)rows.base * d * out;

    for (uint32_t i = threadIdx.x; i < 2 * d; i += CUDA_THREADS) {
        uint32_t c = i / 2, row = i % 2 * 8;
        char *to = k + ((size_t)c * SCISSOR_BLOCK_ROWS + row) * out;
        if (rows.begin <= row && row + 8 <= rows.end) {
            struct eight x;
#pragma unroll
            for (uint32_t j = 0; j < 8; j++)
                x.bits[j] = turned[(row + j) * (d + 1) + c];
            eight_store(head->compute_dtype, to, x);
            continue;
        }
        for (uint32_t j = 0; j < 8; j++)
            if (rows.begin <= row + j && row + j < rows.end)
                element_store(head->compute_dtype, to + j * out, turned[(row + j) * (d + 1) + c]);
    }
}

extern "C" __global__ void __launch_bounds__(CUDA_THREADS) scissor_append(struct cuda_append_launch launch) {
    uint32_t *turned = (uint32_t *)shared_memory;
    struct kernel_append head = launch.heads[blockIdx.y];
    struct append_rows rows = append_rows_of(&head);
    if (rows.begin >= rows.end)
        return;
    append_load_rows(&head, rows, turned);
    __syncthreads();
    append_store_k(&head, rows, turned);
}
