/* fake.h - a libcuda.so.1 without a GPU, for tests: what its files share.
 *
 * Processes that have the same $FAKECUDA_DIR share its devices: a file there ("state") is mapped by all of them and
 * holds what a driver would know of every process; each allocation is a file beside it, mapped at whatever address.
 * Put first by LD_LIBRARY_PATH. The environment, read when the library is loaded:
 *
 *   FAKECUDA_DIR      a directory of the test's own; without it cuInit finds no device
 *   FAKECUDA_DEVICES  "UUID,bytes[,mode];..." with the UUID as 32 hexadecimal digits; one of 1 GiB if unset
 *   FAKECUDA_DELAY_US how long each piece of queued work is late, 300 if unset
 *   FAKECUDA_FAIL     "call:n[:code]": the n-th such call fails; fakecuda_fail() does the same
 *   FAKECUDA_VERSION  of CUDA, as cuDriverGetVersion() says it: 13000 if unset
 *
 * It is stricter than a driver: what CUDA leaves undefined ends the process with SIGABRT, after a line with the name of
 * the rule that was broken. Order is judged by vector clocks. Every piece of queued work has a place in its stream;
 * events and waits of the host carry what came before them from stream to stream. An access must come after the last
 * write of the same allocation, and a write after all reads since then. It does so
 *   - through events, or because this process's host had waited for that work before it queued this; or
 *   - because the host of the process that queued that work had waited for it by then: it can have told the other one,
 *     in a way that is not seen here; or because that process is dead.
 * What was known when work was queued decides, but it is judged when it runs, as what a launch touches is not known
 * before: a missing order is found however late the work is, under the name of whichever access was second.
 *
 * Kernels run in the emulator of tests/emulation, which watches every access: the rules that it finds broken are the
 * rule "kernel" here. A launch may touch all memory of devices that this process has, its own and opened, and pinned
 * memory. So long as it is queued, freeing and closing that memory is not refused: the launch finds it when it runs
 * (use_after_free, use_after_close). A call that frees or closes waits for a launch that is running.
 *
 * That takes time: a launch of attention over 1,500 rows about 10 ms. The library in unwatched/ beside this one is for
 * long tests: its kernels are five times as fast, break no rule, and what they touch is not judged.
 *
 * A module's image is what nvcc makes - a fat binary, whose part for compute capability 9.0 has the names of the
 * kernels in it, or a cubin - or, for tests where there is no nvcc, a text: "scissord-emulated" and a newline, then
 * names of kernels, one a line.
 *
 * The default stream (NULL, or CU_STREAM_LEGACY) is a stream of its own in each process and context. Other streams are
 * never ordered with it, not even those for which a driver would.
 *
 * An event that a process has recorded, but not reached when it ended, is never reached: queries say so, a stream that
 * waits for it stands still, and so does a host that waits for either without a bound, which is a rule here (hang).
 *
 * Locks: fake_lock() guards the shared file and, for simplicity, all tables of the process; it is robust, as a process
 * may be killed while it holds it. A stream's own lock guards its queue and is taken after it, never before; the one of
 * the emulator is taken before it, never after. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cuda/driver.h"

#define FAKE_API __attribute__((visibility("default")))
#define FAKE_DEVICES 4
#define FAKE_STREAMS 64
#define FAKE_ALLOCATIONS 1024
#define FAKE_IMPORTERS 8
#define FAKE_EVENTS 4096
#define FAKE_MAPS 4096
#define FAKE_CAPABILITY 90

#define FAKE_PROTOTYPE(name, symbol, parameters) FAKE_API cuda_result symbol parameters;
CUDA_SYMBOLS(FAKE_PROTOTYPE)
#undef FAKE_PROTOTYPE

/* Fails the n-th call from now (1: the next) of this symbol with `code`; "*" is any call, "queue" a piece of queued
 * work, whose error comes out later, as a kernel's would. A sticky code loses the context. NULL: never. */
FAKE_API void fakecuda_fail(const char *call, unsigned n, unsigned code);
/* Whether that failure has come. */
FAKE_API int fakecuda_failed(void);
/* Bytes of the current device that are allocated, or open in a process. */
FAKE_API size_t fakecuda_memory_taken(void);
/* Pieces of work that wait in this process's streams. */
FAKE_API unsigned fakecuda_queued(void);

/* X(name, what is said) */
#define FAKE_RULES(X)                                                       \
    X(use_after_free, "memory is used after it was freed")                  \
    X(use_after_close, "memory is used after its handle was closed")        \
    X(double_free, "memory is freed a second time")                         \
    X(double_close, "a handle is closed a second time")                     \
    X(free_imported, "memory is freed that another process has open")       \
    X(free_queued, "memory is freed that queued work still touches")        \
    X(close_queued, "a handle is closed whose memory queued work touches")  \
    X(host_free_queued, "pinned memory is freed that queued work touches")  \
    X(double_open, "a handle is opened that is open in this process")       \
    X(unordered_read, "a read is not ordered after the last write")         \
    X(unordered_write, "a write is not ordered after the last write")       \
    X(unordered_overwrite, "a write is not ordered after a read before it") \
    X(out_of_bounds, "work reaches past the end of its memory")             \
    X(kernel, "a kernel breaks a rule")                                     \
    X(use_after_unload, "a module is used after it was unloaded")           \
    X(unload_queued, "a module is unloaded whose kernels are queued")       \
    X(hang, "the host waits for work that a process has left undone")       \
    X(fork, "the driver is used in a fork of the process that opened it")

enum fake_rule {
#define FAKE_ENUM(name, text) FAKE_RULE_##name,
    FAKE_RULES(FAKE_ENUM)
#undef FAKE_ENUM
};

struct fake_clock {
    uint64_t at[FAKE_STREAMS]; /* of each stream, how much work comes before */
};

struct fake_stream_state {
    bool taken;
    pid_t pid; /* whose it is, or was last */
    uint64_t queued;
    uint64_t began;  /* what was queued by others, before it was this process's */
    uint64_t waited; /* the host of its process has waited for this much */
    struct fake_clock clock;
};

struct fake_allocation {
    uint64_t serial; /* 0: free; never used twice */
    pid_t owner;
    int device;
    size_t bytes;
    pid_t importers[FAKE_IMPORTERS];
    int write_stream; /* -1: none */
    uint64_t write_at;
    uint64_t read_at[FAKE_STREAMS];
};

struct fake_event_state {
    uint64_t serial; /* 0: free */
    unsigned refs;
    pid_t recorder;
    uint64_t recorded, done;
    struct fake_clock clock;
};

struct fake_state {
    pthread_mutex_t lock;
    uint64_t serial;
    struct fake_stream_state streams[FAKE_STREAMS];
    struct fake_allocation allocations[FAKE_ALLOCATIONS];
    struct fake_event_state events[FAKE_EVENTS];
};

/* Memory of a device or pinned memory of the host as this process sees it. Never removed from the table, and its
 * addresses are never given out again. */
struct fake_map {
    char *address;
    size_t bytes;
    uint64_t serial; /* 0: pinned */
    struct fake_allocation *allocation;
    bool live, imported;
    unsigned queued;
};

struct fake_device {
    char uuid[16];
    size_t bytes;
    int mode;
};

struct CUctx_st {
    int device;
    unsigned refs;
};

/* What waits in a stream. */
struct fake_work {
    struct fake_work *next;
    bool (*run)(struct fake_work *w); /* false: it will never be done */
    void (*end)(struct fake_work *w); /* under the lock, run or given up; NULL */
    unsigned stream;
    struct fake_clock clock; /* what comes before it; and its own place in its stream */
    union {
        struct { /* a fill, a copy */
            struct fake_map *to_map, *from_map;
            char *to;
            const char *from;
            size_t bytes;
            unsigned value;
        };
        struct { /* a record, or a wait for one */
            unsigned event;
            uint64_t record, serial;
            pid_t recorder;
        };
        struct fake_launch *launch;
    };
};

/* ---------- state.c ---------- */
extern struct fake_state *fake_state;
extern struct fake_clock fake_host; /* what this process's host has waited for */
extern unsigned fake_delay_us;
extern atomic_uint fake_lost; /* the sticky code */

void fake_lock(void);
void fake_unlock(void);
bool fake_alive(pid_t pid);
_Noreturn void fake_break(enum fake_rule rule, const char *detail, uint64_t number);
int fake_open(uint64_t serial, int flags); /* the file of an allocation */
void fake_unlink(uint64_t serial);

/* First in every call; not 0: what it must return. `context`: one must be current. */
cuda_result fake_enter(const char *call, bool context);
#define FAKE_ENTER(symbol, context)                           \
    do {                                                      \
        cuda_result fake_code = fake_enter(#symbol, context); \
        if (fake_code)                                        \
            return fake_code;                                 \
    } while (0)
/* The code with which this call is to fail; 0: none. */
cuda_result fake_inject(const char *call);

/* ---------- device.c ---------- */
extern struct fake_device fake_devices[FAKE_DEVICES];
extern int fake_device_count;
struct CUctx_st *fake_context(void); /* current in this thread; NULL */

/* ---------- memory.c ---------- */
/* Under the lock. The map of an address, which queued work touches from now on; an error for what is no memory. */
struct fake_map *fake_find(const void *address);
cuda_result fake_touch(const void *address, size_t bytes, struct fake_map **ret);

/* ---------- order.c, under the lock ---------- */
void fake_clock_merge(struct fake_clock *to, const struct fake_clock *from);
/* Gives work the next place in its stream, after all that the host, and others' hosts, have waited for. */
void fake_order(struct fake_work *w);
/* Judges an access of work that runs. */
void fake_judge(const struct fake_work *w, struct fake_map *map, bool write);

/* ---------- stream.c ---------- */
/* The default stream for NULL; NULL if that cannot be made. */
struct CUstream_st *fake_stream(struct CUstream_st *s);
unsigned fake_stream_slot(const struct CUstream_st *s);
/* Under the lock; takes the work over. */
void fake_enqueue(struct CUstream_st *s, struct fake_work *w);
/* Not under the lock: until all that was queued is done. */
void fake_wait(struct CUstream_st *s);

/* ---------- event.c: work of streams ---------- */
bool fake_record_run(struct fake_work *w);

/* ---------- module.c ---------- */
struct CUfunc_st {
    struct CUmod_st *module;
    const struct emulator_kernel *kernel; /* NULL: not in the image */
};
/* Under the lock: one launch more (1) or less (-1) of this module is queued. */
void fake_module_queue(struct CUmod_st *m, int more);

/* ---------- launch.c, not under the lock: memory that kernels may touch ---------- */
void fake_memory_show(const struct fake_map *map);
void fake_memory_hide(const struct fake_map *map);
