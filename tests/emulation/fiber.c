/* fiber.c - threads of a block as fibers, and all ways in which they wait for each other.
 *
 * A fiber runs until it comes to a barrier or to a warp operation whose lanes are not all there, then the scheduler
 * takes the next one that can run. When none can, either all stand at the same barrier, which opens, or a rule is
 * broken. The last lane to come to a warp operation gives all of them their results and goes on.
 * Changing fibers is our own six pushes and pops: swapcontext() asks the system to change signal masks each time. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device.h"
#include "dtype.h"
#include "internal.h"

#define STACK_BYTES (64u << 10)

struct emulation emulation;
/* What the kernels declare. */
_Alignas(256) unsigned char shared_memory[EMULATOR_SHARED];

static char message[512];
static pthread_mutex_t one_launch = PTHREAD_MUTEX_INITIALIZER;

/* Keeps the registers that a call keeps on the stack, stores its pointer in *from and goes on with `to`. */
void emulator_switch(void **from, void *to);
__asm__(".text\n"
        ".globl emulator_switch\n"
        ".hidden emulator_switch\n"
        ".type emulator_switch, @function\n"
        "emulator_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size emulator_switch, .-emulator_switch\n");

static void to_scheduler(void) {
    struct fiber *me = emulation.now;
    emulation.now = NULL;
    emulator_switch(&me->stack, emulation.scheduler);
}

static void fiber_run(struct fiber *f) {
    emulation.now = f;
    emulator_switch(&emulation.scheduler, f->stack);
}

static void fiber_main(void) {
    emulation.kernel->run(emulation.parameter);
    emulation.now->state = FIBER_ENDED;
    to_scheduler();
    abort(); /* nobody comes back */
}

static void fiber_init(struct fiber *f, uint32_t index) {
    void **top = (void **)f->high;
    top[-1] = NULL; /* where fiber_main() would return to */
    top[-2] = (void *)(uintptr_t)fiber_main;
    f->stack = top - 8; /* and six registers */
    uint32_t x = emulation.block.x, y = emulation.block.y;
    f->index = index;
    f->thread = (struct emulator_dim){index % x, index / x % y, index / x / y};
    f->state = FIBER_READY;
}

static void stacks_new(void) {
    size_t bytes = (size_t)EMULATOR_THREADS * STACK_BYTES;
    char *stacks = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    emulation.fibers = calloc(EMULATOR_THREADS, sizeof *emulation.fibers);
    if (stacks == MAP_FAILED || !emulation.fibers)
        abort();
    for (uint32_t i = 0; i < EMULATOR_THREADS; i++) {
        emulation.fibers[i].low = (uintptr_t)stacks + (uintptr_t)i * STACK_BYTES;
        emulation.fibers[i].high = emulation.fibers[i].low + STACK_BYTES;
    }
}

void emulation_break(enum emulator_rule rule, const char *format, ...) {
    struct emulator_dim b = emulation.at;
    va_list arguments;
    int length = snprintf(message, sizeof message, "%s, block (%u, %u, %u)", emulation.kernel->name, b.x, b.y, b.z);
    if (emulation.now)
        length += snprintf(message + length, sizeof message - (size_t)length, ", thread %u", emulation.now->index);
    length += snprintf(message + length, sizeof message - (size_t)length, ": %s: ", emulator_rule_text(rule));
    va_start(arguments, format);
    vsnprintf(message + length, sizeof message - (size_t)length, format, arguments);
    va_end(arguments);
    emulation.broken = rule;
    to_scheduler();
    abort();
}

/* From the scheduler's side, where no fiber can be left. */
static void stuck(enum emulator_rule rule, const struct fiber *a, const struct fiber *b) {
    static const char *const states[] = {"runs", "waits at", "is in a warp operation at", "has ended"};
    snprintf(message, sizeof message, "%s, block (%u, %u, %u): %s: thread %u %s %s:%d, thread %u %s %s:%d",
             emulation.kernel->name, emulation.at.x, emulation.at.y, emulation.at.z, emulator_rule_text(rule), a->index,
             states[a->state], a->file, a->line, b->index, states[b->state],
             b->state == FIBER_ENDED ? "its kernel" : b->file, b->state == FIBER_ENDED ? 0 : b->line);
    emulation.broken = rule;
}

/* ---------- barriers ---------- */

int emulator_barrier(enum emulator_vote vote, int value, const char *file, int line) {
    struct fiber *me = emulation.now;
    me->file = file;
    me->line = line;
    me->value = value != 0;
    me->kind = (int)vote;
    me->state = FIBER_AT_BARRIER;
    to_scheduler();
    return (int)me->result;
}

static void barrier_open(void) {
    uint32_t votes = 0;
    for (uint32_t i = 0; i < emulation.threads; i++)
        votes += emulation.fibers[i].value;
    for (uint32_t i = 0; i < emulation.threads; i++) {
        struct fiber *f = &emulation.fibers[i];
        f->state = FIBER_READY;
        f->result = f->kind == EMULATOR_VOTE_OR    ? votes != 0
                    : f->kind == EMULATOR_VOTE_AND ? votes == emulation.threads
                                                   : votes;
    }
    emulation.epoch++;
    emulation.counts.barriers++;
}

/* ---------- warp operations ---------- */

static uint32_t warp_result(enum emulator_warp_kind kind, const struct fiber *warp, uint32_t lane, uint32_t ballot) {
    const struct fiber *f = &warp[lane];
    uint32_t from = lane;
    switch (kind) {
    case EMULATOR_SHUFFLE_INDEX:
        from = f->lane % EMULATOR_LANES;
        break;
    case EMULATOR_SHUFFLE_UP:
        from = lane >= f->lane ? lane - f->lane : lane;
        break;
    case EMULATOR_SHUFFLE_DOWN:
        from = lane + f->lane < EMULATOR_LANES ? lane + f->lane : lane;
        break;
    case EMULATOR_SHUFFLE_XOR:
        from = (lane ^ f->lane) % EMULATOR_LANES;
        break;
    default:
        return ballot;
    }
    if (!(f->mask >> from & 1))
        emulation_break(EMULATOR_LANE, "lane %u asks lane %u (%s:%d)", lane, from, f->file, f->line);
    return warp[from].value;
}

uint32_t emulator_warp(enum emulator_warp_kind kind, uint32_t mask, uint32_t value, uint32_t lane, const char *file,
                       int line) {
    struct fiber *me = emulation.now, *warp = me - me->index % EMULATOR_LANES;
    uint32_t ballot = 0;
    me->state = FIBER_AT_WARP;
    me->file = file;
    me->line = line;
    me->mask = mask;
    me->kind = (int)kind;
    me->value = value;
    me->lane = lane;
    if (!(mask >> me->index % EMULATOR_LANES & 1))
        emulation_break(EMULATOR_LANE, "the mask is %08x (%s:%d)", mask, file, line);
    for (uint32_t l = EMULATOR_LANES; l-- > 0;) { /* who is not there yet is one of the last as a rule */
        if (!(mask >> l & 1))
            continue;
        if (warp[l].index >= emulation.threads || warp[l].state != FIBER_AT_WARP || warp[l].mask != mask ||
            warp[l].line != line || warp[l].file != file) {
            to_scheduler();
            return me->result;
        }
        ballot |= (uint32_t)(warp[l].value != 0) << l;
    }
    for (uint32_t l = 0; l < EMULATOR_LANES; l++)
        if (mask >> l & 1)
            warp[l].result = warp_result(kind, warp, l, ballot);
    for (uint32_t l = 0; l < EMULATOR_LANES; l++)
        if (mask >> l & 1)
            warp[l].state = FIBER_READY;
    /* Of the operations, this one alone orders accesses to memory. */
    if (kind == EMULATOR_SYNC)
        emulation.warp_epochs[me->index / EMULATOR_LANES]++;
    return me->result;
}

/* ---------- the scheduler ---------- */

/* Nobody can run. Opens the barrier if that is what they wait at. */
static void resolve(void) {
    const struct fiber *f = emulation.fibers, *waiting = NULL;
    for (uint32_t i = 0; i < emulation.threads; i++) {
        if (f[i].state == FIBER_AT_WARP) {
            /* The lane that it misses: one of its mask that is elsewhere. */
            const struct fiber *warp = &f[i - i % EMULATOR_LANES], *missing = warp;
            for (uint32_t l = 0; l < EMULATOR_LANES; l++)
                if (f[i].mask >> l & 1 && (warp[l].state != FIBER_AT_WARP || warp[l].line != f[i].line ||
                                           warp[l].file != f[i].file || warp[l].mask != f[i].mask))
                    missing = &warp[l];
            stuck(EMULATOR_WARP, &f[i], missing);
            return;
        }
        if (f[i].state == FIBER_AT_BARRIER && !waiting)
            waiting = &f[i];
    }
    for (uint32_t i = 0; i < emulation.threads; i++)
        if (f[i].state != FIBER_AT_BARRIER || f[i].line != waiting->line || f[i].file != waiting->file) {
            stuck(EMULATOR_BARRIER, waiting, &f[i]);
            return;
        }
    barrier_open();
}

static void run_block(void) {
    uint32_t ended = 0;
    emulation.block_epoch = ++emulation.epoch;
    watch_block_begin();
    for (uint32_t i = 0; i < emulation.threads; i++)
        fiber_init(&emulation.fibers[i], i);
    while (ended < emulation.threads) {
        bool ran = false;
        for (uint32_t i = 0; i < emulation.threads; i++) {
            if (emulation.fibers[i].state != FIBER_READY)
                continue;
            fiber_run(&emulation.fibers[i]);
            ran = true;
            if (emulation.broken)
                return;
            ended += emulation.fibers[i].state == FIBER_ENDED;
        }
        if (!ran)
            resolve();
        if (emulation.broken)
            return;
    }
    watch_block_end();
}

static bool launch_valid(const struct emulator_kernel *kernel, struct emulator_dim grid, struct emulator_dim block,
                         size_t shared_bytes) {
    return kernel && grid.x && grid.y && grid.z && grid.x <= INT32_MAX && grid.y <= 65535 && grid.z <= 65535 &&
           block.x && block.y && block.z && block.z <= 64 &&
           (uint64_t)block.x * block.y * block.z <= EMULATOR_THREADS && shared_bytes <= EMULATOR_SHARED;
}

static enum emulator_rule launch(const struct emulator_kernel *kernel, struct emulator_dim grid,
                                 struct emulator_dim block, size_t shared_bytes, const void *parameter) {
    memset(&emulation.counts, 0, sizeof emulation.counts);
    emulation.broken = EMULATOR_NONE;
    emulation.fault = 0;
    emulation.launch_epoch = emulation.epoch + 1;
    message[0] = 0;
    if (!launch_valid(kernel, grid, block, shared_bytes)) {
        snprintf(message, sizeof message, "%s: %s", kernel ? kernel->name : "?", emulator_rule_text(EMULATOR_LAUNCH));
        return EMULATOR_LAUNCH;
    }
    if (!emulation.fibers)
        stacks_new();
    emulation.kernel = kernel;
    emulation.parameter = parameter;
    emulation.grid = grid;
    emulation.block = block;
    emulation.threads = block.x * block.y * block.z;
    emulation.shared_bytes = shared_bytes;
    for (uint32_t z = 0; z < grid.z; z++)
        for (uint32_t y = 0; y < grid.y; y++)
            for (uint32_t x = 0; x < grid.x && !emulation.broken; x++) {
                emulation.at = (struct emulator_dim){x, y, z};
                run_block();
            }
    return emulation.broken;
}

enum emulator_rule emulator_launch(const struct emulator_kernel *kernel, struct emulator_dim grid,
                                   struct emulator_dim block, size_t shared_bytes, const void *parameter,
                                   struct emulator_counts *ret_counts) {
    pthread_mutex_lock(&one_launch);
    emulation.counting = ret_counts != NULL;
    enum emulator_rule broken = launch(kernel, grid, block, shared_bytes, parameter);
    if (!broken && ret_counts)
        *ret_counts = emulation.counts;
    pthread_mutex_unlock(&one_launch);
    return broken;
}

bool emulator_counts_bytes(void) {
    return true;
}

int emulator_capability(void) {
    return 80;
}

const char *emulator_message(void) {
    return message;
}

const void *emulator_fault(void) {
    return (const void *)emulation.fault;
}

const char *emulator_rule_text(enum emulator_rule rule) {
    static const char *const texts[] = {
#define X(name, text) text,
        EMULATOR_RULES(X)
#undef X
    };
    return (unsigned)rule < EMULATOR_RULE_COUNT ? texts[rule] : "?";
}

/* ---------- what a kernel asks ---------- */

struct uint3 {
    unsigned int x, y, z;
};
struct uint3 emulator_thread(void);
struct uint3 emulator_block(void);
struct uint3 emulator_block_dim(void);
struct uint3 emulator_grid_dim(void);

struct uint3 emulator_thread(void) {
    struct emulator_dim t = emulation.now->thread;
    return (struct uint3){t.x, t.y, t.z};
}
struct uint3 emulator_block(void) {
    return (struct uint3){emulation.at.x, emulation.at.y, emulation.at.z};
}
struct uint3 emulator_block_dim(void) {
    return (struct uint3){emulation.block.x, emulation.block.y, emulation.block.z};
}
struct uint3 emulator_grid_dim(void) {
    return (struct uint3){emulation.grid.x, emulation.grid.y, emulation.grid.z};
}

/* Of each half: they are asked for more often than anything else. */
static float floats[1u << 16];

__attribute__((constructor)) static void floats_init(void) {
    static const uint32_t nan_bits = 0x7fffffff;
    for (uint32_t bits = 0; bits < 1u << 16; bits++) {
        floats[bits] = kernel_f16_to_f32((uint16_t)bits);
        if (floats[bits] != floats[bits])
            memcpy(&floats[bits], &nan_bits, sizeof nan_bits);
    }
}

float emulator_half_to_float(uint16_t bits) {
    return floats[bits];
}
uint16_t emulator_float_to_half(float f) {
    return f != f ? 0x7fff : kernel_f32_to_f16(f);
}
