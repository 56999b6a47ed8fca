/* mma.c - the tensor cores' instructions: mma.m16n8k16 and ldmatrix.x4.trans, lane by lane as PTX documents them.
 *
 * A lane leaves its registers in a slot and meets the others of its warp; then it computes what it gets from their
 * slots. Two sets of slots take turns: nobody can be two operations ahead. */
#include "device.h"
#include "internal.h"

#define REGISTERS 6

struct slot {
    uint32_t registers[REGISTERS];
};
static struct slot slots[2][EMULATOR_THREADS];

/* Of each thread: operations that it did in this block. */
static struct { uint32_t epoch, done; } turns[EMULATOR_THREADS];

/* The slots of the warp, filled by all of its lanes; *ret_lane is this one. */
static const struct slot *exchange(const uint32_t *registers, uint32_t count, uint32_t *ret_lane, const char *file,
                                   int line) {
    uint32_t index = emulation.now->index, first = index - index % EMULATOR_LANES;
    if (turns[index].epoch != emulation.block_epoch)
        turns[index].done = 0;
    turns[index].epoch = emulation.block_epoch;
    struct slot *warp = &slots[turns[index].done++ % 2][first];
    for (uint32_t i = 0; i < count; i++)
        warp[index - first].registers[i] = registers[i];
    (void)emulator_warp(EMULATOR_BALLOT, 0xffffffffu, 0, 0, file, line);
    *ret_lane = index - first;
    return warp;
}

static float element(uint32_t pair, uint32_t which, int bf16) {
    uint16_t bits = (uint16_t)(which ? pair >> 16 : pair);
    union {
        uint32_t bits;
        float f;
    } wide = {(uint32_t)bits << 16};
    return bf16 ? wide.f : emulator_half_to_float(bits);
}

static float a_at(const struct slot *warp, uint32_t row, uint32_t k, int bf16) {
    const uint32_t *a = warp[row % 8 * 4 + k % 8 / 2].registers;
    return element(a[row / 8 + k / 8 * 2], k % 2, bf16);
}

static float b_at(const struct slot *warp, uint32_t k, uint32_t column, int bf16) {
    const uint32_t *b = warp[column * 4 + k % 8 / 2].registers + 4;
    return element(b[k / 8], k % 2, bf16);
}

void emulator_mma(int bf16, float *c, const uint32_t *a, const uint32_t *b, const char *file, int line);
void emulator_mma(int bf16, float *c, const uint32_t *a, const uint32_t *b, const char *file, int line) {
    uint32_t registers[REGISTERS] = {a[0], a[1], a[2], a[3], b[0], b[1]}, lane;
    const struct slot *warp = exchange(registers, REGISTERS, &lane, file, line);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = c[i];
        for (uint32_t k = 0; k < 16; k++)
            sum += a_at(warp, row, k, bf16) * b_at(warp, k, column, bf16);
        c[i] = sum;
    }
}

void emulator_load_matrices_turned(uint32_t *ret, const uint32_t *row, const char *file, int line);
void emulator_load_matrices_turned(uint32_t *ret, const uint32_t *row, const char *file, int line) {
    uint32_t lane;
    const struct slot *warp = exchange(row, 4, &lane, file, line);
    uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t low = warp[i * 8 + 2 * t].registers[g / 2], high = warp[i * 8 + 2 * t + 1].registers[g / 2];
        ret[i] = (g % 2 ? low >> 16 : low & 0xffff) | (g % 2 ? high >> 16 : high & 0xffff) << 16;
    }
}
