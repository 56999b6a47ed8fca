/* watch.c - every access of a kernel to memory: is it allowed, does it race, and what does it cost.
 *
 * The compiler calls the functions at the end before each access (-fsanitize=thread; the library that usually answers
 * is not linked). What a thread does to its own stack is nobody's business.
 *
 * Races. A cell keeps who wrote and who read last, and when: the block's clock (one tick a barrier), and the warp's
 * (one a __syncwarp()). Two accesses of a block are ordered if the block's clock differs, or if they are of one warp
 * and the warp's differs. Blocks run one after another, so ticks tell them apart, too; no two of them are ever ordered.
 * Of readers, a cell knows the last and whether others of its warp, or other warps, read in the same interval: enough,
 * for a later write races with one of them if it does with any.
 *
 * Costs. Each thread keeps a list of its global accesses. At the block's end the k-th ones of a warp's lanes at the
 * same instruction are taken for one instruction of the warp, which is exact where lanes do not diverge in loops. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "internal.h"

enum access_kind { ACCESS_LOAD, ACCESS_STORE, ACCESS_ATOMIC };

extern unsigned char shared_memory[];
static struct cell *shared_cells;

/* ---------- races ---------- */

struct access {
    uintptr_t at;
    size_t bytes;
    enum access_kind kind;
    const void *pc;
    bool shared;
};

static const char *const kind_names[] = {"load", "store", "atomic"};

static __attribute__((noreturn)) void broken(enum emulator_rule rule, const struct access *a, const char *with,
                                             uint32_t other) {
    const struct region *near = region_nearest(a->at);
    char where[96];
    emulation.fault = a->at;
    if (a->shared)
        snprintf(where, sizeof where, "shared byte %zu of %zu", (size_t)(a->at - (uintptr_t)shared_memory),
                 emulation.shared_bytes);
    else if (near)
        snprintf(where, sizeof where, "byte %td of an allocation of %zu", (ptrdiff_t)(a->at - near->begin),
                 (size_t)(near->end - near->begin));
    else
        snprintf(where, sizeof where, "address %p", (void *)a->at);
    emulation_break(rule, "%s of %zu bytes at %s (code %p)%s%.0u", kind_names[a->kind], a->bytes, where, a->pc, with,
                    other);
}

static __attribute__((noreturn)) void race(const struct access *a, const char *what, uint32_t thread) {
    char with[64];
    snprintf(with, sizeof with, ", %s by thread %u", what, thread);
    broken(a->shared ? EMULATOR_RACE_SHARED : EMULATOR_RACE_GLOBAL, a, with, 0);
}

static bool of_another_block(uint32_t epoch) {
    return epoch >= emulation.launch_epoch && epoch < emulation.block_epoch;
}

/* Nothing orders what `thread` did at these times of this block and what the running thread does now. */
static bool unordered(uint32_t epoch, uint32_t thread, uint32_t warp_epoch) {
    uint32_t me = emulation.now->index, warp = me / EMULATOR_LANES;
    return epoch == emulation.epoch && thread != me &&
           (thread / EMULATOR_LANES != warp || warp_epoch == emulation.warp_epochs[warp]);
}

static void cell_read(struct cell *c, const struct access *a) {
    uint32_t me = emulation.now->index, warp_epoch = emulation.warp_epochs[me / EMULATOR_LANES];
    if (unordered(c->write_epoch, c->write_thread, c->write_warp_epoch))
        race(a, "stored", c->write_thread);
    if (a->shared ? c->write_epoch < emulation.block_epoch : of_another_block(c->write_epoch))
        broken(a->shared ? EMULATOR_UNWRITTEN : EMULATOR_RACE_BLOCKS, a, "", 0);
    if (c->read_epoch == emulation.epoch) {
        if (c->read_thread / EMULATOR_LANES != me / EMULATOR_LANES)
            c->many_warps = 1;
        else if (c->read_warp_epoch == warp_epoch && c->read_thread != me)
            c->many_threads = 1;
        else if (c->read_warp_epoch != warp_epoch)
            c->many_threads = 0;
    } else
        c->many_warps = c->many_threads = 0;
    if (c->first_read < emulation.launch_epoch)
        c->first_read = emulation.epoch;
    c->read_epoch = emulation.epoch;
    c->read_thread = (uint16_t)me;
    c->read_warp_epoch = warp_epoch;
}

static void cell_write(struct cell *c, const struct access *a) {
    bool atomic = a->kind == ACCESS_ATOMIC;
    uint32_t me = emulation.now->index, warp = me / EMULATOR_LANES;
    if (!(atomic && c->atomic)) {
        if (unordered(c->write_epoch, c->write_thread, c->write_warp_epoch))
            race(a, "stored", c->write_thread);
        if (!a->shared && of_another_block(c->write_epoch))
            broken(EMULATOR_RACE_BLOCKS, a, "", 0);
    }
    if (c->read_epoch == emulation.epoch) {
        bool same_warp = c->read_thread / EMULATOR_LANES == warp;
        if (c->many_warps || !same_warp ||
            (c->read_warp_epoch == emulation.warp_epochs[warp] && (c->many_threads || c->read_thread != me)))
            race(a, "loaded", c->read_thread);
    }
    if (!a->shared && of_another_block(c->first_read))
        broken(EMULATOR_RACE_BLOCKS, a, "", 0);
    c->write_epoch = emulation.epoch;
    c->write_thread = (uint16_t)me;
    c->write_warp_epoch = emulation.warp_epochs[warp];
    c->atomic = atomic;
}

static void cells_access(struct cell *cells, size_t offset, const struct access *a) {
    for (size_t i = offset / CELL_BYTES; i * CELL_BYTES < offset + a->bytes; i++) {
        if (a->kind == ACCESS_LOAD)
            cell_read(&cells[i], a);
        else
            cell_write(&cells[i], a);
    }
}

/* ---------- costs ---------- */

struct record {
    uintptr_t at;
    const void *pc;
    uint32_t bytes;
    bool store;
};

struct record_list {
    struct record *records;
    size_t count, room;
};
static struct record_list lists[EMULATOR_THREADS];

static void record(const struct access *a) {
    struct record_list *list = &lists[emulation.now->index];
    if (list->count == list->room) {
        list->room = 2 * list->room + 64;
        list->records = realloc(list->records, list->room * sizeof *list->records);
        if (!list->records)
            abort();
    }
    list->records[list->count++] = (struct record){a->at, a->pc, (uint32_t)a->bytes, a->kind != ACCESS_LOAD};
}

/* One instruction of a warp: lanes' accesses in any order. */
static void count_instruction(struct record *lanes, uint32_t count) {
    struct emulator_traffic *t = lanes[0].store ? &emulation.counts.stores : &emulation.counts.loads;
    uint64_t bytes = 0, sectors = 0;
    uintptr_t end = 0, next_sector = 0;
    bool wide = true;
    for (uint32_t i = 1; i < count; i++) /* mostly sorted already */
        for (uint32_t j = i; j > 0 && lanes[j].at < lanes[j - 1].at; j--) {
            struct record swap = lanes[j];
            lanes[j] = lanes[j - 1];
            lanes[j - 1] = swap;
        }
    for (uint32_t i = 0; i < count; i++) {
        uintptr_t from = lanes[i].at, to = from + lanes[i].bytes;
        wide = wide && lanes[i].bytes == 16;
        if (to > end)
            bytes += to - (from > end ? from : end), end = to;
        uintptr_t first = from / 32, last = (to - 1) / 32;
        first = first > next_sector ? first : next_sector;
        if (last + 1 > first)
            sectors += last + 1 - first, next_sector = last + 1;
    }
    t->bytes += bytes;
    t->sectors += sectors;
    t->instructions++;
    t->coalesced += sectors <= (bytes + 31) / 32;
    t->wide += wide;
}

/* Instructions get small numbers by a table that is searched from a hash on. */
#define INSTRUCTIONS 4096u
static const void *instruction_pcs[INSTRUCTIONS];
static uint32_t instruction_ids[INSTRUCTIONS];
static uint32_t instruction_count;

static uint32_t instruction_id(const void *pc) {
    uint32_t slot = (uint32_t)((uintptr_t)pc * 0x9e3779b97f4a7c15u >> 40) % INSTRUCTIONS;
    while (instruction_pcs[slot] && instruction_pcs[slot] != pc)
        slot = (slot + 1) % INSTRUCTIONS;
    if (!instruction_pcs[slot]) {
        if (instruction_count == INSTRUCTIONS / 2)
            abort();
        instruction_pcs[slot] = pc;
        instruction_ids[slot] = instruction_count++;
    }
    return instruction_ids[slot];
}

/* For each instruction, how often each lane came by: the next one to be counted, then where its records begin. */
static void count_warp(const struct record_list *lanes, uint32_t lane_count) {
    static uint32_t *order[EMULATOR_LANES];
    static size_t order_room[EMULATOR_LANES];
    static uint32_t begins[EMULATOR_LANES][INSTRUCTIONS / 2 + 1], next[INSTRUCTIONS / 2];

    for (uint32_t l = 0; l < lane_count; l++) {
        if (order_room[l] < lanes[l].count) {
            order_room[l] = lanes[l].count;
            order[l] = realloc(order[l], order_room[l] * sizeof *order[l]);
        }
        for (size_t i = 0; i < lanes[l].count; i++)
            instruction_id(lanes[l].records[i].pc);
    }
    for (uint32_t l = 0; l < lane_count; l++) {
        memset(begins[l], 0, (instruction_count + 1) * sizeof **begins);
        for (size_t i = 0; i < lanes[l].count; i++)
            begins[l][instruction_id(lanes[l].records[i].pc) + 1]++;
        for (uint32_t id = 0; id < instruction_count; id++)
            begins[l][id + 1] += begins[l][id];
        memcpy(next, begins[l], instruction_count * sizeof *next);
        for (size_t i = 0; i < lanes[l].count; i++)
            order[l][next[instruction_id(lanes[l].records[i].pc)]++] = (uint32_t)i;
    }
    for (uint32_t id = 0; id < instruction_count; id++)
        for (uint32_t k = 0;; k++) {
            struct record together[EMULATOR_LANES];
            uint32_t count = 0;
            for (uint32_t l = 0; l < lane_count; l++)
                if (begins[l][id] + k < begins[l][id + 1])
                    together[count++] = lanes[l].records[order[l][begins[l][id] + k]];
            if (!count)
                break;
            count_instruction(together, count);
        }
}

void watch_block_begin(void) {
    if (!shared_cells)
        shared_cells = calloc(EMULATOR_SHARED / CELL_BYTES + 1, sizeof *shared_cells);
    for (uint32_t i = 0; i < emulation.threads; i++)
        lists[i].count = 0;
}

void watch_block_end(void) {
    for (uint32_t i = 0; emulation.counting && i < emulation.threads; i += EMULATOR_LANES)
        count_warp(lists + i, emulation.threads - i < EMULATOR_LANES ? emulation.threads - i : EMULATOR_LANES);
}

/* ---------- one access ---------- */

static void watch_memory(struct access a, size_t bytes) {
    enum access_kind kind = a.kind;
    uintptr_t shared = (uintptr_t)shared_memory;
    if (bytes <= 16 && (bytes & (bytes - 1)) == 0 && (a.at & (bytes - 1)))
        broken(EMULATOR_ALIGNMENT, &a, "", 0);
    if (a.at >= shared && a.at < shared + EMULATOR_SHARED) {
        a.shared = true;
        if (a.at - shared > emulation.shared_bytes || bytes > emulation.shared_bytes - (a.at - shared))
            broken(EMULATOR_BOUNDS_SHARED, &a, "", 0);
        emulation.counts.shared_accesses++;
        cells_access(shared_cells, a.at - shared, &a);
        return;
    }
    if (a.at >= emulation.fibers[0].low && a.at < emulation.fibers[EMULATOR_THREADS - 1].high)
        broken(EMULATOR_BOUNDS_LOCAL, &a, "", 0);
    struct region *region = region_find(a.at, bytes);
    if (!region)
        broken(EMULATOR_BOUNDS_GLOBAL, &a, "", 0);
    if (kind != ACCESS_LOAD && !region->writable)
        broken(EMULATOR_READ_ONLY, &a, "", 0);
    if (kind != ACCESS_STORE)
        region->loaded = emulation.launch_epoch;
    if (kind != ACCESS_LOAD)
        region->stored = emulation.launch_epoch;
    cells_access(region->cells, a.at - region->begin, &a);
    if (emulation.counting && kind != ACCESS_ATOMIC)
        record(&a);
}

/* Most accesses are to a thread's own stack. */
static inline __attribute__((always_inline)) void watch(const void *memory, size_t bytes, enum access_kind kind,
                                                        const void *pc) {
    const struct fiber *me = emulation.now;
    if (me && (uintptr_t)memory - me->low >= me->high - me->low && bytes)
        watch_memory((struct access){(uintptr_t)memory, bytes, kind, pc, false}, bytes);
}

#define PC __builtin_return_address(0)

void emulator_load_into(void *to, const void *from, size_t bytes) {
    watch(from, bytes, ACCESS_LOAD, PC);
    memcpy(to, from, bytes);
}
void emulator_store_from(void *to, const void *from, size_t bytes) {
    watch(to, bytes, ACCESS_STORE, PC);
    memcpy(to, from, bytes);
}
uint32_t emulator_atomic_add(uint32_t *at, uint32_t value) {
    watch(at, sizeof *at, ACCESS_ATOMIC, PC);
    uint32_t old = *at;
    *at += value;
    return old;
}

/* What the compiler calls, by its names. */
#define HOOKS(bytes)                               \
    void __tsan_read##bytes(void *at);             \
    void __tsan_write##bytes(void *at);            \
    void __tsan_unaligned_read##bytes(void *at);   \
    void __tsan_unaligned_write##bytes(void *at);  \
    void __tsan_volatile_read##bytes(void *at);    \
    void __tsan_volatile_write##bytes(void *at);   \
    void __tsan_read##bytes(void *at) {            \
        watch(at, bytes, ACCESS_LOAD, PC);         \
    }                                              \
    void __tsan_write##bytes(void *at) {           \
        watch(at, bytes, ACCESS_STORE, PC);        \
    }                                              \
    void __tsan_unaligned_read##bytes(void *at) {  \
        watch(at, bytes, ACCESS_LOAD, PC);         \
    }                                              \
    void __tsan_unaligned_write##bytes(void *at) { \
        watch(at, bytes, ACCESS_STORE, PC);        \
    }                                              \
    void __tsan_volatile_read##bytes(void *at) {   \
        watch(at, bytes, ACCESS_LOAD, PC);         \
    }                                              \
    void __tsan_volatile_write##bytes(void *at) {  \
        watch(at, bytes, ACCESS_STORE, PC);        \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_init(void);
void __tsan_func_entry(void *pc);
void __tsan_func_exit(void);
void __tsan_read_range(void *at, size_t bytes);
void __tsan_write_range(void *at, size_t bytes);
void __tsan_init(void) {
}
void __tsan_func_entry(void *pc) {
    (void)pc;
}
void __tsan_func_exit(void) {
}

/* A structure that is copied: no single instruction, so 8 bytes at most at once. */
static void watch_range(char *at, size_t bytes, enum access_kind kind, const char *pc) {
    for (size_t done = 0, i = 0; done < bytes; i++) {
        size_t piece = 8;
        while ((uintptr_t)(at + done) % piece || piece > bytes - done)
            piece /= 2;
        watch(at + done, piece, kind, pc + i);
        done += piece;
    }
}
void __tsan_read_range(void *at, size_t bytes) {
    watch_range(at, bytes, ACCESS_LOAD, PC);
}
void __tsan_write_range(void *at, size_t bytes) {
    watch_range(at, bytes, ACCESS_STORE, PC);
}
